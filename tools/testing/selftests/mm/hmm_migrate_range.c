// SPDX-License-Identifier: GPL-2.0
/*
 * hmm_migrate_range(), through the devices of lib/test_hmm_migrate.c: what it does
 * above the stages that hmm_migrate and hmm_migrate_large test. With copies by the
 * CPU, and by the engine of lib/test_hmm_migrate_dma.c, which take their time. Every
 * test that moves data looks at every byte of it. Every test ends with all device
 * memory free again.
 *
 * Needs root; for all of the tests also coherent memory, the engine, a second node
 * with memory, and swap space whose I/O takes seconds, which HMM_MIGRATE_SLOW_SWAP
 * names: null_blk with memory_backed=1, irqmode=2 and completion_nsec=, and mkswap.
 */
#define _GNU_SOURCE
#include "hmm_migrate.h"

#include <linux/mempolicy.h>
#include <sys/auxv.h>
#include <sys/swap.h>
#include <sys/sysinfo.h>

#define TWO_MEG		(2UL << 20)
/* A huge page, and as many small ones. */
#define SIZE		(2 * TWO_MEG)

/* For an engine that takes its time, in nanoseconds. */
#define SLOWLY		2000000

static unsigned long npages;

/* With chunks of @chunk bytes. Every page up to where it came must be in a count. */
static int migrate_chunks(int fd, unsigned long request, void *addr,
			  unsigned long pages, unsigned int flags, uint64_t chunk,
			  struct test_hmm_migrate_range *range)
{
	int ret;

	memset(range, 0, sizeof(*range));
	range->size = sizeof(*range);
	range->flags = flags;
	range->addr = (uintptr_t)addr;
	range->length = pages * page_size;
	range->chunk = chunk;
	ret = device_ioctl(fd, request, range);
	if (sum_of(range) != (range->done - range->addr) / page_size)
		return -EPROTO;
	if (!ret && range->done != range->addr + range->length)
		return -EPROTO;
	return ret;
}

/* A device, and memory that is filled with seed 1. */

FIXTURE(range)
{
	int fd;
	unsigned char *memory;
	void *area;
	unsigned int flags;
	struct test_hmm_migrate_range range;
};

FIXTURE_VARIANT(range)
{
	unsigned int device;
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(range, private)
{
	.device = 0,
	.flags = TEST_HMM_MIGRATE_LARGE,
};

FIXTURE_VARIANT_ADD(range, coherent)
{
	.device = 2,
	.flags = TEST_HMM_MIGRATE_LARGE,
};

FIXTURE_VARIANT_ADD(range, private_engine)
{
	.device = 0,
	.flags = TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_ENGINE,
};

FIXTURE_VARIANT_ADD(range, coherent_engine)
{
	.device = 2,
	.flags = TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_ENGINE,
};

FIXTURE_SETUP(range)
{
	page_size = sysconf(_SC_PAGESIZE);
	npages = SIZE / page_size;
	self->flags = variant->flags;
	self->fd = open_device(variant->device);
	if (self->fd < 0 && variant->device >= 2)
		SKIP(return, "no coherent device, is there Soft Reserved memory?");
	ASSERT_LE(0, self->fd);
	if (self->flags & TEST_HMM_MIGRATE_ENGINE && !have_engine())
		SKIP(return, "no engine, is test_hmm_migrate_dma loaded?");
	reset_engine();
	disarm(self->fd);
	ASSERT_TRUE(map_both(&self->area, &self->memory, SIZE));
}

FIXTURE_TEARDOWN(range)
{
	if (self->fd < 0)
		return;
	reset_engine();
	disarm(self->fd);
	/* Some tests have unmapped a part: that is no error. */
	if (self->area)
		munmap(self->area, 4 * SIZE);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

TEST_F_TIMEOUT(range, chunks_of_any_size, TIMEOUT)
{
	static const uint64_t chunks[] = {
		0, 4096, 12288, 65536, 1 << 20, 2 << 20, 3 << 20, 4 << 20, 1 << 30,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(chunks); i++) {
		fill(self->memory, SIZE, i + 2);
		ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					    self->memory, npages, self->flags,
					    chunks[i], &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(npages, pages_at(self->fd, self->memory, npages,
					   TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, i + 2));
		ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM,
					    self->memory, npages, self->flags,
					    chunks[i], &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, wrong(self->memory, SIZE, i + 2));
	}
}

/* What the kernel entered for the device must be what it would find by a fault. */
TEST_F_TIMEOUT(range, device_need_not_fault, TIMEOUT)
{
	struct test_hmm_migrate_access access;
	unsigned char *buffer = malloc(SIZE);

	ASSERT_NE(NULL, buffer);
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, self->flags, 0, &self->range));
	fill(buffer, SIZE, 2);
	ASSERT_EQ(0, access_memory(self->fd, TEST_HMM_MIGRATE_WRITE, self->memory,
				   SIZE, buffer, &access));
	EXPECT_EQ(0, access.faults);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 2));
	free(buffer);
}

/* Four vmas, with a gap in the middle; one of them is read-only. */
TEST_F_TIMEOUT(range, gaps, TIMEOUT)
{
	const unsigned long gap = 5;
	unsigned char *middle = self->memory + SIZE / 2 + 3 * page_size;
	unsigned long before = (middle - self->memory) / page_size;
	unsigned char *after = middle + gap * page_size;

	ASSERT_EQ(0, mprotect(self->memory + SIZE / 4, 7 * page_size, PROT_READ));
	ASSERT_EQ(0, munmap(middle, gap * page_size));
	EXPECT_EQ(-EFAULT, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					  self->memory, npages, self->flags, 0,
					  &self->range));
	EXPECT_EQ((uintptr_t)middle, self->range.done);
	EXPECT_EQ(before, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(before, pages_at(self->fd, self->memory, npages,
				   TEST_HMM_MIGRATE_THIS_DEVICE));

	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
				    self->memory, npages,
				    self->flags | TEST_HMM_MIGRATE_SKIP_GAPS, 0,
				    &self->range));
	EXPECT_EQ(gap, self->range.skipped);
	EXPECT_EQ(npages - gap - before, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(before, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(npages - gap, pages_at(self->fd, self->memory, npages,
					 TEST_HMM_MIGRATE_THIS_DEVICE));
	/* Nothing but a gap, at the end and alone. */
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
				    before + gap, self->flags |
				    TEST_HMM_MIGRATE_SKIP_GAPS, 0, &self->range));
	EXPECT_EQ(before, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, middle, gap,
				    self->flags | TEST_HMM_MIGRATE_SKIP_GAPS, 0,
				    &self->range));
	EXPECT_EQ(gap, self->range.skipped);
	EXPECT_EQ(0, wrong_part(self->memory, 0, middle - self->memory, 1));
	EXPECT_EQ(0, wrong_part(self->memory, after - self->memory, SIZE, 1));
}

/* Memory of a kind that stays is not in the way of what can move. */
TEST_F_TIMEOUT(range, shared_memory, TIMEOUT)
{
	unsigned char *middle = self->memory + SIZE / 2;

	ASSERT_EQ(middle, mmap(middle, 4 * page_size, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	fill_part(self->memory, SIZE / 2, SIZE / 2 + 2 * page_size, 1);
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, self->flags, 0, &self->range));
	EXPECT_EQ(npages - 4, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(4, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	fill_part(self->memory, SIZE / 2, SIZE / 2 + 4 * page_size, 1);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* A vma that cannot migrate at all. */
TEST_F_TIMEOUT(range, special_mapping, TIMEOUT)
{
	void *vdso = (void *)getauxval(AT_SYSINFO_EHDR);

	if (!vdso)
		SKIP(return, "no vdso on this architecture");
	EXPECT_EQ(-EOPNOTSUPP, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, vdso,
					      1, self->flags, 0, &self->range));
	EXPECT_EQ((uintptr_t)vdso, self->range.done);
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, vdso, 1,
				    self->flags | TEST_HMM_MIGRATE_SKIP_GAPS, 0,
				    &self->range));
	EXPECT_EQ(1, self->range.skipped);
}

TEST_F_TIMEOUT(range, holes, TIMEOUT)
{
	const unsigned long filled = npages / 2;
	unsigned char *hole = self->memory + SIZE / 2;

	ASSERT_EQ(0, madvise(hole, SIZE / 2, MADV_DONTNEED));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, self->flags | TEST_HMM_MIGRATE_SKIP_HOLES,
				    65536, &self->range));
	EXPECT_EQ(filled, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(npages - filled, self->range.pages[TEST_HMM_MIGRATE_NO_SOURCE]);
	EXPECT_EQ(npages - filled, pages_at(self->fd, hole, npages - filled,
					    TEST_HMM_MIGRATE_NONE));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, self->flags, 65536, &self->range));
	EXPECT_EQ(npages - filled, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(npages, pages_at(self->fd, self->memory, npages,
				   TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, SIZE / 2, 1));
	EXPECT_EQ(0, nonzero(hole, SIZE / 2));
}

/* A hole behind each page, and pages that are copied on both sides of it. */
TEST_F_TIMEOUT(range, holes_among_pages, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	unsigned long page;

	for (page = 0; page < npages / 2; page += 3)
		ASSERT_EQ(0, madvise(small + page * page_size, page_size, MADV_DONTNEED));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, self->flags, 0, &self->range));
	EXPECT_EQ(npages, pages_at(self->fd, self->memory, npages,
				   TEST_HMM_MIGRATE_THIS_DEVICE));
	for (page = 0; page < npages / 2; page++) {
		size_t offset = SIZE / 2 + page * page_size;

		EXPECT_EQ(0, page % 3 ? wrong_part(self->memory, offset, offset + page_size, 1) :
					nonzero(self->memory + offset, page_size));
	}
	EXPECT_EQ(0, wrong_part(self->memory, 0, SIZE / 2, 1));
}

/* A hole as large as a huge page, on a device that has no room for one. */
TEST_F_TIMEOUT(range, large_holes, TIMEOUT)
{
	ASSERT_EQ(self->memory, mmap(self->memory, SIZE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	ASSERT_EQ(0, madvise(self->memory, SIZE, MADV_HUGEPAGE));
	ASSERT_EQ(0, inject_order(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, 6, 1,
				  1000));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, self->flags, 0, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(0, nonzero(self->memory, SIZE));
}

/* A chunk that could not be copied stays, with all that is in it. */
static void chunk_fails(struct __test_metadata *_metadata, int fd, unsigned char *memory,
			unsigned int flags, struct test_hmm_migrate_range *range)
{
	const unsigned long chunk = 16;
	unsigned char *small = memory + SIZE / 2;

	ASSERT_EQ(0, inject(fd, TEST_HMM_MIGRATE_FAIL_COPY, 1, 1));
	ASSERT_EQ(0, migrate_chunks(fd, TEST_HMM_MIGRATE_TO_DEVICE, small, npages / 2, flags,
				    chunk * page_size, range));
	EXPECT_EQ(chunk, range->pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(npages / 2 - chunk, range->pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(chunk, pages_at(fd, small, chunk, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(memory, SIZE, 1));
	ASSERT_EQ(0, migrate_chunks(fd, TEST_HMM_MIGRATE_TO_SYSTEM, small, npages / 2, flags,
				    0, range));

	ASSERT_EQ(0, inject(fd, TEST_HMM_MIGRATE_FAIL_COPY, 1, 1));
	EXPECT_EQ(-EIO, migrate_chunks(fd, TEST_HMM_MIGRATE_TO_DEVICE, small, npages / 2,
				       flags | TEST_HMM_MIGRATE_STOP_ON_ERROR,
				       chunk * page_size, range));
	EXPECT_EQ(chunk, range->pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	/* At most the one that was in flight already. */
	EXPECT_GE(chunk, range->pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_GE((uintptr_t)small + 2 * chunk * page_size, range->done);
	EXPECT_EQ(0, wrong(memory, SIZE, 1));
}

/* What an engine has failed to copy once is copied, by it or by the CPU. */
TEST_F_TIMEOUT(range, copy_fails, TIMEOUT)
{
	if (!(self->flags & TEST_HMM_MIGRATE_ENGINE)) {
		chunk_fails(_metadata, self->fd, self->memory, self->flags, &self->range);
		return;
	}
	ASSERT_TRUE(write_number(ENGINE "fail_nth", 1));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, self->flags, 65536, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, read_number(ENGINE "fail_nth"));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	ASSERT_TRUE(write_number(ENGINE "fail_nth", 2));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
				    npages, self->flags, 65536, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, read_number(ENGINE "fail_nth"));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

#define BAD_WORD	0x5a5aa5a5f00df00dUL

/* Nothing else holds this, not even by chance: see pattern(). */
static void set_bad_word(void *page, bool bad, unsigned long *was)
{
	unsigned long *word = page;

	if (bad)
		*was = *word;
	*word = bad ? BAD_WORD : *was;
}

/*
 * A page that cannot be copied costs its folio, and nothing else of the chunk: a huge
 * page, and a small one. What the CPU can reach it copies.
 */
TEST_F_TIMEOUT(range, page_fails, TIMEOUT)
{
	const unsigned long bad[] = { 17, npages / 2 + 33 };
	bool engine = self->flags & TEST_HMM_MIGRATE_ENGINE;
	bool fails = !engine || !variant->device;
	unsigned long folio, was;
	unsigned int i, way;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		unsigned char *page = self->memory + bad[i] * page_size;
		struct test_hmm_migrate_page snap;

		ASSERT_EQ(0, snapshot(self->fd, page, 1, &snap));
		folio = fails ? 1UL << snap.folio_order : 0;
		for (way = 0; way < 2; way++) {
			unsigned long request = way ? TEST_HMM_MIGRATE_TO_SYSTEM :
						      TEST_HMM_MIGRATE_TO_DEVICE;

			set_bad_word(page, true, &was);
			if (way) {
				ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
							    self->memory, npages, self->flags,
							    0, &self->range));
			}
			ASSERT_EQ(0, engine ? !write_number(ENGINE "fail_word", BAD_WORD) :
				  inject(self->fd, TEST_HMM_MIGRATE_FAIL_PAGE, bad[i] + 1, 1));
			ASSERT_EQ(0, migrate_chunks(self->fd, request, self->memory, npages,
						    self->flags, 0, &self->range));
			EXPECT_EQ(folio, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
			EXPECT_EQ(npages - folio, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
			EXPECT_EQ(way ? folio : npages - folio,
				  pages_at(self->fd, self->memory, npages,
					   TEST_HMM_MIGRATE_THIS_DEVICE));
			reset_engine();
			disarm(self->fd);
			set_bad_word(page, false, &was);
			EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
			ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM,
						    self->memory, npages, self->flags, 0,
						    &self->range));
			EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
		}
	}
}

/* An engine that can copy nothing: what the CPU cannot reach stays. */
TEST_F_TIMEOUT(range, copy_fails_for_what_is_large, TIMEOUT)
{
	bool engine = self->flags & TEST_HMM_MIGRATE_ENGINE;
	bool fails = !engine || !variant->device;
	unsigned long failed = engine ? npages : npages / 2;

	if (!fails)
		failed = 0;
	ASSERT_EQ(0, engine ? !write_number(ENGINE "fail_all", 1) :
		  inject(self->fd, TEST_HMM_MIGRATE_FAIL_COPY, 1, 1));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, self->flags, 0, &self->range));
	EXPECT_EQ(failed, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(npages - failed, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	reset_engine();
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));

	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, self->flags, 0, &self->range));
	ASSERT_EQ(0, engine ? !write_number(ENGINE "fail_all", 1) :
		  inject(self->fd, TEST_HMM_MIGRATE_FAIL_COPY, 1, 1));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
				    npages, self->flags, 0, &self->range));
	EXPECT_EQ(failed, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(failed, device_used(self->fd, failed));
	reset_engine();
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

TEST_F_TIMEOUT(range, no_memory, TIMEOUT)
{
	const unsigned long nth = 101;
	unsigned char *small = self->memory + SIZE / 2;
	unsigned int flags = self->flags;

	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, nth, 1));
	EXPECT_EQ(-ENOMEM, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small,
					  npages / 2, flags |
					  TEST_HMM_MIGRATE_STOP_NO_MEMORY, 65536,
					  &self->range));
	EXPECT_EQ((uintptr_t)small + (nth - 1) * page_size, self->range.done);
	EXPECT_EQ(nth - 1, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(nth - 1, pages_at(self->fd, small, npages / 2,
				    TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));

	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, small,
				    npages / 2, flags, 0, &self->range));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, nth, 3));
	EXPECT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small,
				    npages / 2, flags, 65536, &self->range));
	EXPECT_EQ(3, self->range.pages[TEST_HMM_MIGRATE_NO_DESTINATION]);
	EXPECT_EQ(npages / 2 - 3, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));

	/* For no part of a huge page: nothing of it has moved. */
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, 1, 1000));
	EXPECT_EQ(-ENOMEM, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					  self->memory, npages, flags |
					  TEST_HMM_MIGRATE_STOP_NO_MEMORY, 0,
					  &self->range));
	EXPECT_EQ((uintptr_t)self->memory, self->range.done);
	EXPECT_EQ(0, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* Memory ends in the middle of a huge page's parts: what there was is given back. */
TEST_F_TIMEOUT(range, memory_for_half_a_huge_page, TIMEOUT)
{
	unsigned int flags = self->flags | TEST_HMM_MIGRATE_STOP_NO_MEMORY;
	unsigned long half = TWO_MEG / page_size / 2, all;
	struct test_hmm_migrate_info info;
	unsigned char *others;
	void *area;

	ASSERT_EQ(0, get_info(self->fd, &info));
	all = info.pages - half;
	area = map_huge_page(info.pages * page_size, &others);
	ASSERT_NE(MAP_FAILED, area);
	fill(others, all * page_size, 2);
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, others, all,
				    flags, 0, &self->range));
	ASSERT_EQ(all, self->range.pages[TEST_HMM_MIGRATE_MOVED]);

	EXPECT_EQ(-ENOMEM, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					  self->memory, npages, flags, 0, &self->range));
	EXPECT_EQ((uintptr_t)self->memory, self->range.done);
	EXPECT_EQ(0, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(all, device_used(self->fd, all));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));

	/* Whoever goes on without gets the half. */
	EXPECT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    TWO_MEG / page_size, self->flags, 0, &self->range));
	EXPECT_EQ(half, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(half, self->range.pages[TEST_HMM_MIGRATE_NO_DESTINATION]);
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(others, all * page_size, 2));
	munmap(area, 2 * info.pages * page_size);
}

/*
 * The driver makes room before anything is locked: by what others have on the device, and
 * by what this call has moved there.
 */
TEST_F_TIMEOUT(range, reserve_evicts, TIMEOUT)
{
	unsigned int flags = self->flags | TEST_HMM_MIGRATE_MAKE_ROOM;
	unsigned long excess = TWO_MEG / page_size, all;
	struct test_hmm_migrate_info info;
	unsigned char *others;
	void *area;

	ASSERT_EQ(0, get_info(self->fd, &info));
	all = info.pages + excess;
	area = map_huge_page(2 * info.pages * page_size, &others);
	ASSERT_NE(MAP_FAILED, area);
	fill(others, all * page_size, 2);
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, others,
				    info.pages, self->flags, 0, &self->range));
	ASSERT_EQ(info.pages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);

	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, flags, 0, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(npages, pages_at(self->fd, self->memory, npages,
				   TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));

	/* More than there is, in small chunks and in one. */
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, others, all,
				    flags, 0, &self->range));
	EXPECT_EQ(0, self->range.pages[TEST_HMM_MIGRATE_NO_DESTINATION]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, others, all,
				    self->flags, 0, &self->range));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, others, all,
				    flags | TEST_HMM_MIGRATE_STOP_NO_MEMORY, 1 << 30,
				    &self->range));
	EXPECT_EQ(all, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(others, all * page_size, 2));
	munmap(area, 4 * info.pages * page_size);
}

/* Nothing is reserved for gaps. */
TEST_F_TIMEOUT(range, reserve_for_what_can_move, TIMEOUT)
{
	const unsigned long eighth = SIZE / 8;

	ASSERT_EQ(0, munmap(self->memory, eighth));
	ASSERT_EQ(0, munmap(self->memory + 3 * eighth, eighth));
	ASSERT_EQ(0, munmap(self->memory + 7 * eighth, eighth));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, self->flags | TEST_HMM_MIGRATE_SKIP_GAPS, 0,
				    &self->range));
	EXPECT_EQ(npages * 5 / 8, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(npages * 3 / 8, self->range.skipped);
	EXPECT_EQ(npages * 5 / 8, self->range.pages_reserved);
	EXPECT_EQ(0, wrong_part(self->memory, eighth, 3 * eighth, 1));
	EXPECT_EQ(0, wrong_part(self->memory, 4 * eighth, 7 * eighth, 1));
}

/* What is locked for a while, by a lock alone or by another migration, is waited for. */
TEST_F_TIMEOUT(range, locked_for_long, TIMEOUT)
{
	static const unsigned int flags[] = { 0, TEST_HMM_MIGRATE_HOLD_MIGRATION };
	unsigned char *small = self->memory + SIZE / 2;
	struct holder holder;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		ASSERT_TRUE(start_holder(&holder, self->fd, flags[i],
					 small + 7 * page_size, 3, 300000));
		ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small, 16,
					    self->flags, 4 * page_size, &self->range));
		pthread_join(holder.thread, NULL);
		ASSERT_EQ(0, holder.ret);
		EXPECT_EQ(3, holder.hold.pages);
		EXPECT_EQ(16, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, small, 16,
					    self->flags, 0, &self->range));
	}
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* But not for ever: after a second in all, what is held stays, and is counted. */
TEST_F_TIMEOUT(range, locked_for_too_long, TIMEOUT)
{
	static const unsigned int flags[] = { 0, TEST_HMM_MIGRATE_HOLD_MIGRATION };
	unsigned char *small = self->memory + SIZE / 2;
	struct holder holder;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		long left = read_vmstat("migrate_vma_left_locked");
		double begin;

		ASSERT_TRUE(start_holder(&holder, self->fd, flags[i],
					 small + 7 * page_size, 3,
					 TEST_HMM_MIGRATE_MAX_HOLD_TIME));
		begin = seconds();
		ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small, 16,
					    self->flags, 4 * page_size, &self->range));
		EXPECT_LT(0.9, seconds() - begin);
		pthread_join(holder.thread, NULL);
		ASSERT_EQ(0, holder.ret);
		EXPECT_EQ(3, holder.hold.pages);
		EXPECT_EQ(13, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(3, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
		EXPECT_LE(left + 3, read_vmstat("migrate_vma_left_locked"));
		ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, small, 16,
					    self->flags, 0, &self->range));
	}
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* To the swap, and back before its I/O is over: what is mapped is under writeback. */
static bool start_writeback(unsigned char *memory, size_t size)
{
	return !madvise(memory, size, MADV_PAGEOUT) &&
	       !madvise(memory, size, MADV_POPULATE_READ);
}

/*
 * What is swapped out keeps its folio until the I/O is over, 5 s after: that is waited
 * for, but in each call for a second only. So it takes some calls, and no contents are
 * lost meanwhile.
 */
TEST_F_TIMEOUT(range, writeback, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	unsigned char *parts[] = { small, self->memory };
	/* CPUs keep up to 64 places each of the swap space that was in use before. */
	unsigned long counts[] = { 64 * (get_nprocs() + 2), npages / 2 }, moved;
	const char *slow_swap = getenv("HMM_MIGRATE_SLOW_SWAP");
	unsigned int i, calls;

	if (!slow_swap)
		SKIP(return, "HMM_MIGRATE_SLOW_SWAP does not say where slow swap space is");
	if (counts[0] > npages / 2)
		SKIP(return, "too many CPUs, which keep more places than there are pages");
	ASSERT_EQ(0, swapon(slow_swap, SWAP_FLAG_PREFER | 100));
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		EXPECT_TRUE(start_writeback(parts[i], counts[i] * page_size));
		/* The three calls do not wait, and on a slow machine some I/O is over. */
		EXPECT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					    parts[i], counts[i], TEST_HMM_MIGRATE_BARE |
					    TEST_HMM_MIGRATE_LARGE, 0, &self->range));
		moved = self->range.pages[TEST_HMM_MIGRATE_MOVED];
		EXPECT_GT(counts[i], moved);
		for (calls = 0; calls < 20 && moved < counts[i]; calls++) {
			EXPECT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
						    parts[i], counts[i], self->flags, 0,
						    &self->range));
			moved += self->range.pages[TEST_HMM_MIGRATE_MOVED];
		}
		EXPECT_EQ(counts[i], moved);
		EXPECT_EQ(counts[i], pages_at(self->fd, parts[i], counts[i],
					      TEST_HMM_MIGRATE_THIS_DEVICE));
	}
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	EXPECT_EQ(0, swapoff(slow_swap));
}

static void *kill_soon(void *pid)
{
	usleep(200000);
	kill(*(pid_t *)pid, SIGKILL);
	return NULL;
}

/*
 * Another process, whose memory this one migrates until it is killed. Both share the table
 * of files, as the file of the device belongs to who opened it.
 */
struct target {
	pid_t pid;
	int fd;
};

static void be_target(const struct target *target, unsigned int device,
		      unsigned char *memory, size_t size, bool written, int ready)
{
	if (open_device(device) != target->fd)
		_exit(1);
	memset(memory, 7, size);
	if ((written && !start_writeback(memory, size)) || !tell(ready))
		_exit(1);
	for (;;)
		pause();
}

/* Returns when @memory of the target is filled, and with @written under writeback. */
static bool start_target(struct target *target, unsigned int device,
			 unsigned char *memory, size_t size, bool written)
{
	int ready[2];
	bool started;

	if (pipe(ready))
		return false;
	/* What the device's file will be. */
	target->fd = dup(ready[0]);
	if (target->fd < 0)
		return false;
	close(target->fd);
	target->pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
	if (target->pid < 0)
		return false;
	if (!target->pid)
		be_target(target, device, memory, size, written, ready[1]);
	started = wait_for(ready[0]);
	close(ready[0]);
	close(ready[1]);
	return started;
}

/* The target has been killed. */
static bool end_target(struct target *target)
{
	bool killed = reap(target->pid) == -1;

	close(target->fd);
	return killed;
}

/*
 * The process whose memory is waited for ends: its users are gone, and so is the call's
 * reason to wait for the I/O of its pages.
 */
TEST_F_TIMEOUT(range, process_ends_while_waiting, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	const char *slow_swap = getenv("HMM_MIGRATE_SLOW_SWAP");
	unsigned long count = 64 * (get_nprocs() + 2);
	struct target target;
	pthread_t killer;
	double begin;

	if (!slow_swap)
		SKIP(return, "HMM_MIGRATE_SLOW_SWAP does not say where slow swap space is");
	if (count > npages / 2)
		SKIP(return, "too many CPUs, which keep more places than there are pages");
	ASSERT_EQ(0, swapon(slow_swap, SWAP_FLAG_PREFER | 100));
	ASSERT_TRUE(start_target(&target, variant->device, small, count * page_size, true));
	ASSERT_EQ(0, pthread_create(&killer, NULL, kill_soon, &target.pid));
	begin = seconds();
	EXPECT_EQ(-ESRCH, migrate_chunks(target.fd, TEST_HMM_MIGRATE_TO_DEVICE, small, count,
					 self->flags, 0, &self->range));
	EXPECT_GT(0.9, seconds() - begin);
	pthread_join(killer, NULL);
	EXPECT_TRUE(end_target(&target));
	EXPECT_EQ(0, swapoff(slow_swap));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* Migrates the first pages of another process by its file, and notes when that ends. */
struct caller {
	pthread_t thread;
	int fd;
	unsigned char *memory;
	unsigned int flags;
	int ret;
	double end;
};

static void *call_range(void *data)
{
	struct test_hmm_migrate_range range;
	struct caller *caller = data;

	caller->ret = migrate_chunks(caller->fd, TEST_HMM_MIGRATE_TO_DEVICE,
				     caller->memory, 16, caller->flags, 0, &range);
	caller->end = seconds();
	return NULL;
}

/* The end of a process is noticed although several have a reference to its memory. */
TEST_F_TIMEOUT(range, process_ends_beside_others, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	struct caller callers[2];
	struct target target;
	struct holder holder;
	double begin;
	int i;

	ASSERT_TRUE(start_target(&target, variant->device, small, 16 * page_size, false));
	ASSERT_TRUE(start_holder(&holder, target.fd, 0, small + 7 * page_size, 3,
				 TEST_HMM_MIGRATE_MAX_HOLD_TIME));
	for (i = 0; i < 2; i++) {
		callers[i] = (struct caller){
			.fd = target.fd, .memory = small, .flags = self->flags,
		};
		ASSERT_EQ(0, pthread_create(&callers[i].thread, NULL, call_range,
					    &callers[i]));
	}
	usleep(200000);
	begin = seconds();
	ASSERT_EQ(0, kill(target.pid, SIGKILL));
	for (i = 0; i < 2; i++) {
		pthread_join(callers[i].thread, NULL);
		EXPECT_EQ(-ESRCH, callers[i].ret);
		EXPECT_GT(0.6, callers[i].end - begin);
	}
	pthread_join(holder.thread, NULL);
	EXPECT_TRUE(end_target(&target));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* What lies behind the place where memory ran out is not counted, nor looked at. */
TEST_F_TIMEOUT(range, no_memory_before_what_stays, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	struct holder holder;
	int gup;

	if (!can_pin())
		SKIP(return, "no gup_test, is debugfs mounted?");
	gup = pin(small + 10 * page_size, page_size, PIN_LONGTERM_TEST_FLAG_USE_WRITE);
	ASSERT_LE(0, gup);
	ASSERT_TRUE(start_holder(&holder, self->fd, TEST_HMM_MIGRATE_HOLD_MIGRATION,
				 small + 12 * page_size, 1, 300000));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, 6, 1));
	EXPECT_EQ(-ENOMEM, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small, 16,
					  self->flags | TEST_HMM_MIGRATE_STOP_NO_MEMORY,
					  0, &self->range));
	EXPECT_EQ((uintptr_t)small + 5 * page_size, self->range.done);
	EXPECT_EQ(5, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	pthread_join(holder.thread, NULL);
	close(gup);
	disarm(self->fd);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* While others do what they do. */

struct bystander {
	pthread_t thread;
	unsigned char *memory;
	unsigned long rounds;
	unsigned long errors;
	int fd;
	atomic_bool stop;
};

/* Wants mmap_lock for writing, all the time. */
static void *map_and_unmap(void *data)
{
	struct bystander *bystander = data;

	while (!bystander->stop) {
		unsigned char *page = map_pages(1);

		bystander->errors += page == MAP_FAILED || munmap(page, page_size);
		bystander->rounds++;
	}
	return NULL;
}

/* Changes a byte of each page, and changes it back. */
static void *write_and_look(void *data)
{
	struct bystander *bystander = data;

	while (!bystander->stop) {
		size_t i;

		for (i = bystander->rounds % 61; i < SIZE; i += page_size) {
			atomic_uchar *byte = (atomic_uchar *)bystander->memory + i;
			unsigned char old = *byte;

			*byte = ~old;
			bystander->errors += *byte != (unsigned char)~old;
			*byte = old;
			bystander->errors += *byte != old;
		}
		bystander->rounds++;
	}
	return NULL;
}

/* Throws pages away, fills them again, and looks at all of them. */
static void *drop_and_fill(void *data)
{
	struct bystander *bystander = data;
	size_t part = SIZE / 16;

	while (!bystander->stop) {
		size_t start = bystander->rounds % 16 * part;

		bystander->errors += !!madvise(bystander->memory + start, part,
					       MADV_DONTNEED);
		bystander->errors += !!nonzero(bystander->memory + start, part);
		fill_part(bystander->memory, start, start + part, 1);
		bystander->errors += !!wrong_part(bystander->memory, start,
						  start + part, 1);
		bystander->rounds++;
	}
	return NULL;
}

static void *fork_and_look(void *data)
{
	struct bystander *bystander = data;

	while (!bystander->stop) {
		pid_t pid = fork_child();

		if (!pid)
			_exit(!!wrong(bystander->memory, SIZE, 1));
		bystander->errors += pid < 0 || reap(pid);
		bystander->rounds++;
	}
	return NULL;
}

static void *cancel_calls(void *data)
{
	struct bystander *bystander = data;

	while (!bystander->stop) {
		struct test_hmm_migrate_cancel cancel = { .size = sizeof(cancel) };

		bystander->errors += !!device_ioctl(bystander->fd,
						    TEST_HMM_MIGRATE_CANCEL, &cancel);
		bystander->rounds += cancel.calls;
		usleep(1000);
	}
	return NULL;
}

/* Migrates to and fro beside @look, and returns how many pages moved. */
static unsigned long migrate_beside(struct __test_metadata *_metadata, int fd,
				    unsigned char *memory, unsigned int flags,
				    void *(*look)(void *), unsigned int rounds,
				    unsigned long *cancelled)
{
	struct bystander bystander = { .memory = memory, .fd = fd };
	struct test_hmm_migrate_range range;
	unsigned long moved = 0;
	unsigned int i;

	ASSERT_EQ(0, pthread_create(&bystander.thread, NULL, look, &bystander));
	for (i = 0; i < rounds || (!bystander.rounds && i < 1000); i++) {
		int ret = migrate_chunks(fd, i % 2 ? TEST_HMM_MIGRATE_TO_SYSTEM :
					 TEST_HMM_MIGRATE_TO_DEVICE, memory, npages,
					 flags, 65536, &range);

		if (ret == -ECANCELED && cancelled)
			++*cancelled;
		else
			EXPECT_EQ(0, ret);
		moved += range.pages[TEST_HMM_MIGRATE_MOVED];
	}
	bystander.stop = true;
	pthread_join(bystander.thread, NULL);
	EXPECT_EQ(0, bystander.errors);
	EXPECT_LT(0, bystander.rounds);
	EXPECT_EQ(0, wrong(memory, SIZE, 1));
	return moved;
}

TEST_F_TIMEOUT(range, beside_mmap, TIMEOUT)
{
	EXPECT_LE(20 * npages, migrate_beside(_metadata, self->fd, self->memory,
					      self->flags, map_and_unmap, 20, NULL));
}

TEST_F_TIMEOUT(range, beside_writes, TIMEOUT)
{
	EXPECT_LT(0, migrate_beside(_metadata, self->fd, self->memory, self->flags,
				    write_and_look, 20, NULL));
}

TEST_F_TIMEOUT(range, beside_madv_dontneed, TIMEOUT)
{
	EXPECT_LT(0, migrate_beside(_metadata, self->fd, self->memory, self->flags,
				    drop_and_fill, 20, NULL));
}

TEST_F_TIMEOUT(range, beside_fork, TIMEOUT)
{
	EXPECT_LT(0, migrate_beside(_metadata, self->fd, self->memory, self->flags,
				    fork_and_look, 10, NULL));
}

TEST_F_TIMEOUT(range, cancel, TIMEOUT)
{
	unsigned long cancelled = 0, tries;

	for (tries = 0; tries < 20 && !cancelled; tries++)
		migrate_beside(_metadata, self->fd, self->memory, self->flags,
			       cancel_calls, 10, &cancelled);
	EXPECT_LT(0, cancelled);
}

static void *cancel_later(void *data)
{
	usleep(100000);
	return cancel_calls(data);
}

/* A call that waits for a lock does not wait for it when it is cancelled. */
TEST_F_TIMEOUT(range, cancel_while_waiting, TIMEOUT)
{
	struct bystander bystander = { .memory = self->memory, .fd = self->fd };
	unsigned char *small = self->memory + SIZE / 2;
	struct holder holder;
	double begin;

	ASSERT_TRUE(start_holder(&holder, self->fd, 0, small + 7 * page_size, 3,
				 TEST_HMM_MIGRATE_MAX_HOLD_TIME));
	begin = seconds();
	ASSERT_EQ(0, pthread_create(&bystander.thread, NULL, cancel_later, &bystander));
	EXPECT_EQ(-ECANCELED, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small, 16,
					     self->flags, 0, &self->range));
	EXPECT_GT(0.9, seconds() - begin);
	bystander.stop = true;
	pthread_join(bystander.thread, NULL);
	pthread_join(holder.thread, NULL);
	EXPECT_EQ(0, bystander.errors);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* It is for hmm_migrate_range() alone. */
TEST_F_TIMEOUT(range, cancel_of_three_calls, TIMEOUT)
{
	struct bystander bystander = { .memory = self->memory, .fd = self->fd };
	struct test_hmm_migrate_range range;
	unsigned int i;

	ASSERT_EQ(0, pthread_create(&bystander.thread, NULL, cancel_calls, &bystander));
	for (i = 0; i < 20; i++) {
		EXPECT_EQ(0, migrate_chunks(self->fd, i % 2 ? TEST_HMM_MIGRATE_TO_SYSTEM :
					    TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages,
					    TEST_HMM_MIGRATE_BARE, 65536, &range));
		EXPECT_EQ(npages, range.pages[TEST_HMM_MIGRATE_MOVED]);
	}
	bystander.stop = true;
	pthread_join(bystander.thread, NULL);
	EXPECT_EQ(0, bystander.errors);
	EXPECT_EQ(0, bystander.rounds);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

TEST_F_TIMEOUT(range, kill, TIMEOUT)
{
	kill_while_migrating(_metadata, variant->device, self->memory, npages,
			     self->flags);
}

TEST_F_TIMEOUT(range, two_threads_against_each_other, TIMEOUT)
{
	migrate_against_each_other(_metadata, self->fd, self->fd, self->memory, npages,
				   self->flags);
}

/* Arguments */

TEST_F_TIMEOUT(range, bad_arguments, TIMEOUT)
{
	static const struct {
		unsigned long request;
		unsigned int flags;
		unsigned int node;
	} cases[] = {
		{ TEST_HMM_MIGRATE_TO_DEVICE, TEST_HMM_MIGRATE_BARE |
		  TEST_HMM_MIGRATE_ENGINE },
		{ TEST_HMM_MIGRATE_TO_DEVICE, TEST_HMM_MIGRATE_BARE |
		  TEST_HMM_MIGRATE_SKIP_GAPS },
		{ TEST_HMM_MIGRATE_TO_DEVICE, TEST_HMM_MIGRATE_BARE |
		  TEST_HMM_MIGRATE_STOP_NO_MEMORY },
		{ TEST_HMM_MIGRATE_TO_DEVICE, TEST_HMM_MIGRATE_BARE |
		  TEST_HMM_MIGRATE_STOP_ON_ERROR },
		{ TEST_HMM_MIGRATE_TO_DEVICE, TEST_HMM_MIGRATE_BARE |
		  TEST_HMM_MIGRATE_MAKE_ROOM },
		{ TEST_HMM_MIGRATE_TO_SYSTEM, TEST_HMM_MIGRATE_MAKE_ROOM },
		{ TEST_HMM_MIGRATE_TO_SYSTEM, TEST_HMM_MIGRATE_SKIP_HOLES },
		{ TEST_HMM_MIGRATE_TO_DEVICE, 0, 1 },
		{ TEST_HMM_MIGRATE_TO_SYSTEM, 0, 1 },
		{ TEST_HMM_MIGRATE_TO_NODE, 0, 1023 },
		{ TEST_HMM_MIGRATE_TO_NODE, 0, -1 },
		{ TEST_HMM_MIGRATE_TO_NODE, TEST_HMM_MIGRATE_BARE },
		{ TEST_HMM_MIGRATE_TO_NODE, TEST_HMM_MIGRATE_RELOCATE },
		{ TEST_HMM_MIGRATE_TO_NODE, TEST_HMM_MIGRATE_MAKE_ROOM },
	};
	struct test_hmm_migrate_range range;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		range = (struct test_hmm_migrate_range) {
			.size = sizeof(range),
			.flags = cases[i].flags,
			.addr = (uintptr_t)self->memory,
			.length = SIZE,
			.node = cases[i].node,
		};
		EXPECT_EQ(-EINVAL, device_ioctl(self->fd, cases[i].request, &range)) {
			TH_LOG("case %u", i);
		}
	}
	EXPECT_EQ(npages, pages_at(self->fd, self->memory, npages,
				   TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* The engine */

FIXTURE(engine)
{
	int fd;
	unsigned char *memory;
	void *area;
	struct test_hmm_migrate_range range;
};

FIXTURE_SETUP(engine)
{
	page_size = sysconf(_SC_PAGESIZE);
	npages = SIZE / page_size;
	self->fd = open_device(0);
	ASSERT_LE(0, self->fd);
	if (!have_engine())
		SKIP(return, "no engine, is test_hmm_migrate_dma loaded?");
	reset_engine();
	disarm(self->fd);
	ASSERT_TRUE(map_both(&self->area, &self->memory, SIZE));
}

FIXTURE_TEARDOWN(engine)
{
	reset_engine();
	if (self->area)
		munmap(self->area, 4 * SIZE);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

/* At most: what is over at the same time is reported at once. */
TEST_F_TIMEOUT(engine, one_interrupt_a_chunk, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	long before;

	ASSERT_TRUE(scatter(small, SIZE / 2));
	fill(self->memory, SIZE, 1);
	/* A page takes 100 us. */
	ASSERT_TRUE(write_number(ENGINE "bandwidth_mb", 40));
	before = read_number(ENGINE "interrupts");
	ASSERT_LE(0, before);
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small,
				    npages / 2, TEST_HMM_MIGRATE_LARGE |
				    TEST_HMM_MIGRATE_ENGINE, SIZE / 8, &self->range));
	EXPECT_EQ(npages / 2, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_GE(4, read_number(ENGINE "interrupts") - before);
	EXPECT_LT(0, read_number(ENGINE "interrupts") - before);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

TEST_F_TIMEOUT(engine, few_descriptors, TIMEOUT)
{
	unsigned int i;

	for (i = 1; i < 5; i++) {
		ASSERT_TRUE(write_number(ENGINE "descriptors", i));
		fill(self->memory, SIZE, i);
		ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					    self->memory, npages,
					    TEST_HMM_MIGRATE_ENGINE, 0, &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, i));
		EXPECT_EQ(0, wrong(self->memory, SIZE, i));
	}
}

/*
 * An engine that does not answer any more, with two chunks in flight. It is tried twice;
 * then what the CPU cannot reach stays, without waiting.
 */
TEST_F_TIMEOUT(engine, hangs, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	int fd;

	ASSERT_TRUE(write_number(ENGINE "hang", 1));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small,
				    npages / 2, TEST_HMM_MIGRATE_ENGINE, 65536,
				    &self->range));
	EXPECT_EQ(npages / 2, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(0, self->range.lost);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	ASSERT_TRUE(write_number(ENGINE "hang", 0));
	/* Whoever opens a device gives the engine another try. */
	fd = open_device(0);
	ASSERT_LE(0, fd);
	close(fd);
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, TEST_HMM_MIGRATE_ENGINE, 0, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/*
 * Nobody says where the memory of the second chunk is, while the engine is at work on
 * the first one: that one moves, and what the engine writes to is nobody else's.
 */
TEST_F_TIMEOUT(engine, no_address, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;

	ASSERT_TRUE(write_number(ENGINE "latency_ns", SLOWLY));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_ADDRESS, 2, 1));
	EXPECT_EQ(-EIO, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small,
				       npages / 2, TEST_HMM_MIGRATE_ENGINE |
				       TEST_HMM_MIGRATE_STOP_ON_ERROR, 65536,
				       &self->range));
	EXPECT_EQ(65536 / page_size, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_LE(65536 / page_size, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(0, device_wrong_part(self->fd, self->memory, SIZE / 2,
				       SIZE / 2 + 65536, 1));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, TEST_HMM_MIGRATE_ENGINE, 0, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* The same when it has no descriptor left for the second one. */
TEST_F_TIMEOUT(engine, hangs_without_descriptors, TIMEOUT)
{
	long before = dma_mappings();

	ASSERT_TRUE(write_number(ENGINE "hang", 1));
	ASSERT_TRUE(write_number(ENGINE "descriptors", 1));
	EXPECT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
				    self->memory, npages, TEST_HMM_MIGRATE_LARGE |
				    TEST_HMM_MIGRATE_ENGINE, 0, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	EXPECT_EQ(before, dma_mappings());
}

/* A chunk of one descriptor, which is the first one and the last one. */
TEST_F_TIMEOUT(engine, only_descriptor_fails, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;

	ASSERT_TRUE(write_number(ENGINE "fail_all", 1));
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small, 1,
				    TEST_HMM_MIGRATE_ENGINE, 0, &self->range));
	EXPECT_EQ(1, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(1, pages_at(self->fd, small, 1, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* The CPU wants what is being copied: it waits, and nothing it writes is lost. */
TEST_F_TIMEOUT(engine, slow, TIMEOUT)
{
	ASSERT_TRUE(write_number(ENGINE "latency_ns", SLOWLY));
	EXPECT_LT(0, migrate_beside(_metadata, self->fd, self->memory,
				    TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_ENGINE,
				    write_and_look, 4, NULL));
	EXPECT_LT(0, migrate_beside(_metadata, self->fd, self->memory,
				    TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_ENGINE,
				    drop_and_fill, 4, NULL));
}

/* Each mapping is given back: of a chunk that is copied, and of one that is not. */
TEST_F_TIMEOUT(engine, mappings_are_given_back, TIMEOUT)
{
	const unsigned int flags = TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_ENGINE;
	static const int devices[] = { 0, 2 };
	long before = dma_mappings();
	unsigned int i;

	if (before < 0)
		SKIP(return, "no DMA_API_DEBUG");
	for (i = 0; i < ARRAY_SIZE(devices); i++) {
		int fd = open_device(devices[i]);

		if (fd < 0)
			continue;
		ASSERT_EQ(0, migrate_chunks(fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
					    npages, flags, 65536, &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(before, dma_mappings());
		ASSERT_EQ(0, migrate_chunks(fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
					    npages, flags, 65536, &self->range));
		EXPECT_EQ(before, dma_mappings());

		/* Holes: the engine copies a page of zeros to private memory. */
		ASSERT_EQ(0, madvise(self->memory, SIZE / 2, MADV_DONTNEED));
		ASSERT_EQ(0, migrate_chunks(fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
					    npages, flags, 65536, &self->range));
		EXPECT_EQ(before, dma_mappings());
		EXPECT_EQ(0, nonzero(self->memory, SIZE / 2));
		EXPECT_EQ(0, wrong_part(self->memory, SIZE / 2, SIZE, 1));
		fill(self->memory, SIZE, 1);
		ASSERT_EQ(0, migrate_chunks(fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
					    npages, flags, 65536, &self->range));

		/* The engine reports an error; private memory has no address. */
		ASSERT_TRUE(write_number(ENGINE "fail_all", 1));
		ASSERT_EQ(0, migrate_chunks(fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
					    npages, flags, 65536, &self->range));
		EXPECT_EQ(devices[i] ? 0 : npages,
			  self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
		EXPECT_EQ(before, dma_mappings());
		reset_engine();
		ASSERT_EQ(0, migrate_chunks(fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
					    npages, flags, 65536, &self->range));
		ASSERT_EQ(0, inject(fd, TEST_HMM_MIGRATE_FAIL_ADDRESS, 2, 1));
		migrate_chunks(fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages, flags,
			       65536, &self->range);
		EXPECT_EQ(before, dma_mappings());
		disarm(fd);
		EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
		ASSERT_EQ(0, migrate_chunks(fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
					    npages, flags, 0, &self->range));
		EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
		close(fd);
	}
}

/* One folio, and a migration of it that takes its time. */
struct slow_migration {
	pthread_t thread;
	int fd;
	int ret;
	unsigned long request;
	struct test_hmm_migrate_range range;
};

static void *migrate_slowly(void *data)
{
	struct slow_migration *slow = data;

	slow->ret = device_ioctl(slow->fd, slow->request, &slow->range);
	return NULL;
}

/* Time enough for another thread, in nanoseconds. */
#define VERY_SLOWLY	300000000

/*
 * Start to migrate a folio, and discard its second half while that is copied. The rest
 * is what is there in the end, with its contents.
 */
static void discard_half_meanwhile(struct __test_metadata *_metadata,
				   struct slow_migration *slow, unsigned char *memory,
				   unsigned long pages)
{
	const unsigned long half = pages / 2;
	int tries;

	slow->range.size = sizeof(slow->range);
	slow->range.flags = TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_ENGINE;
	slow->range.addr = (uintptr_t)memory;
	slow->range.length = pages * page_size;
	ASSERT_TRUE(write_number(ENGINE "latency_ns", VERY_SLOWLY));
	ASSERT_EQ(0, pthread_create(&slow->thread, NULL, migrate_slowly, slow));
	for (tries = 0; tries < 1000; tries++) {
		if (pages_at(slow->fd, memory, pages, TEST_HMM_MIGRATE_MIGRATING) ==
		    (long)pages)
			break;
		usleep(100);
	}
	EXPECT_GT(1000, tries);
	EXPECT_EQ(0, madvise(memory + half * page_size, half * page_size, MADV_DONTNEED));
	pthread_join(slow->thread, NULL);
	EXPECT_EQ(0, slow->ret);
	reset_engine();
	EXPECT_EQ(half, pages_at(slow->fd, memory + half * page_size, half,
				 TEST_HMM_MIGRATE_NONE));
	EXPECT_EQ(0, wrong(memory, half * page_size, 1));
	EXPECT_EQ(0, nonzero(memory + half * page_size, half * page_size));
}

/* One that the policy allows, in memory that is aligned to its size. */
static bool make_large_folio(int fd, unsigned char *memory, unsigned int order)
{
	size_t size = page_size << order;
	struct test_hmm_migrate_page page;
	int tries;

	for (tries = 0; tries < 10; tries++) {
		if (mmap(memory, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != memory ||
		    madvise(memory, size, MADV_HUGEPAGE))
			return false;
		fill(memory, size, 1);
		if (!snapshot(fd, memory, 1, &page) && page.folio_order == order)
			return true;
		write_number("/proc/sys/vm/compact_memory", 1);
	}
	return false;
}

/*
 * The folio is mapped in part afterwards. The rmap does not notice, because a zap of
 * migration entries removes no mapping. So the migration has to queue the folio to be
 * split, or else the unmapped half is lost until the rest is unmapped.
 */
TEST_F_TIMEOUT(engine, partly_discarded, TIMEOUT)
{
	static const unsigned int orders[] = { 4, TEST_HMM_MIGRATE_MAX_ORDER };
	bool have_node = !access("/sys/devices/system/node/node1", F_OK);
	struct policy policy = {};
	unsigned int i, way;
	char stat[128];

	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		const unsigned long pages = 1UL << orders[i];

		if (!set_policy(&policy, orders[i], "madvise"))
			continue;
		size_path(orders[i], "stats/split_deferred", stat, sizeof(stat));
		/* To another node; to the device, and that fails; from the device. */
		for (way = have_node ? 0 : 1; way < 3; way++) {
			struct slow_migration slow = {
				.fd = self->fd,
				.request = TEST_HMM_MIGRATE_TO_NODE,
			};
			long before;

			ASSERT_TRUE(make_large_folio(self->fd, self->memory, orders[i]));
			if (way == 0) {
				slow.range.node = 1;
			} else if (way == 1) {
				slow.request = TEST_HMM_MIGRATE_TO_DEVICE;
				ASSERT_TRUE(write_number(ENGINE "fail_all", 1));
			} else {
				slow.request = TEST_HMM_MIGRATE_TO_SYSTEM;
				ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
							    self->memory, pages,
							    TEST_HMM_MIGRATE_LARGE, 0,
							    &self->range));
				ASSERT_EQ(pages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
			}
			before = read_number(stat);
			ASSERT_LE(0, before);
			discard_half_meanwhile(_metadata, &slow, self->memory, pages);
			EXPECT_EQ(before + 1, read_number(stat)) {
				TH_LOG("order %u, way %u", orders[i], way);
			}
		}
		restore_policy(&policy);
		policy = (struct policy){};
	}
}

/* Ordinary memory of another node */

FIXTURE(node)
{
	int fd;
	unsigned char *memory;
	void *area;
	struct test_hmm_migrate_range range;
};

FIXTURE_VARIANT(node)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(node, cpu)
{
	.flags = TEST_HMM_MIGRATE_LARGE,
};

FIXTURE_VARIANT_ADD(node, engine)
{
	.flags = TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_ENGINE,
};

FIXTURE_SETUP(node)
{
	page_size = sysconf(_SC_PAGESIZE);
	npages = SIZE / page_size;
	self->fd = open_device(0);
	ASSERT_LE(0, self->fd);
	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "no second node");
	if (variant->flags & TEST_HMM_MIGRATE_ENGINE && !have_engine())
		SKIP(return, "no engine, is test_hmm_migrate_dma loaded?");
	reset_engine();
	ASSERT_TRUE(map_both(&self->area, &self->memory, SIZE));
}

FIXTURE_TEARDOWN(node)
{
	if (self->area)
		munmap(self->area, 4 * SIZE);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

static int to_node(int fd, void *memory, unsigned int flags, unsigned int node,
		   struct test_hmm_migrate_range *range)
{
	*range = (struct test_hmm_migrate_range) {
		.size = sizeof(*range),
		.flags = flags,
		.addr = (uintptr_t)memory,
		.length = SIZE,
		.node = node,
	};
	return device_ioctl(fd, TEST_HMM_MIGRATE_TO_NODE, range);
}

/* How many pages of the memory are on @node. */
static unsigned long pages_on(unsigned char *memory, int node)
{
	unsigned long i, count = 0;

	for (i = 0; i < npages; i++) {
		void *page = memory + i * page_size;
		int status = -1;

		if (!syscall(SYS_move_pages, 0, 1UL, &page, NULL, &status, 0))
			count += status == node;
	}
	return count;
}

TEST_F_TIMEOUT(node, there_and_back, TIMEOUT)
{
	long huge = smaps_kib(self->memory, "AnonHugePages:");
	int round;

	ASSERT_EQ(0, to_node(self->fd, self->memory, variant->flags, 0, &self->range));
	for (round = 0; round < 6; round++) {
		int node = !(round % 2);

		fill(self->memory, SIZE, round);
		ASSERT_EQ(0, to_node(self->fd, self->memory, variant->flags, node,
				     &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(npages, pages_on(self->memory, node));
		EXPECT_EQ(0, wrong(self->memory, SIZE, round));
		EXPECT_EQ(huge, smaps_kib(self->memory, "AnonHugePages:"));
		/* What is there already stays there. */
		ASSERT_EQ(0, to_node(self->fd, self->memory, variant->flags, node,
				     &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_REFUSED]);
		EXPECT_EQ(0, wrong(self->memory, SIZE, round));
	}
}

/* Moves scattered memory by an engine. Returns how many descriptors that took. */
static unsigned long move_scattered(struct __test_metadata *_metadata, int fd,
				    unsigned char *memory, unsigned int flags)
{
	unsigned long prepared = read_number(ENGINE "prepared");
	struct test_hmm_migrate_range range;

	EXPECT_TRUE(scatter(memory, SIZE));
	fill(memory, SIZE, 5);
	EXPECT_EQ(0, to_node(fd, memory, flags, 1, &range));
	EXPECT_EQ(npages, range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(npages, pages_on(memory, 1));
	EXPECT_EQ(0, wrong(memory, SIZE, 5));
	return read_number(ENGINE "prepared") - prepared;
}

/*
 * Descriptors that take longer to prepare than the CPU takes to copy a page: the engine
 * copies until that is known, and the CPU from then on, if the driver lets it.
 */
TEST_F_TIMEOUT(node, dear_descriptors, TIMEOUT)
{
	unsigned int round;

	if (!(variant->flags & TEST_HMM_MIGRATE_ENGINE))
		return;
	write_number(ENGINE "prep_ns", 20000);
	write_number(LET_CPU, 1);
	for (round = 0; round < 20; round++)
		if (move_scattered(_metadata, self->fd, self->memory, variant->flags) <
		    npages / 2)
			break;
	EXPECT_LT(round, 20);
	write_number(LET_CPU, 0);
	write_number(ENGINE "prep_ns", 0);
	EXPECT_GE(move_scattered(_metadata, self->fd, self->memory, variant->flags), npages / 2);
}

TEST_F_TIMEOUT(node, holes, TIMEOUT)
{
	ASSERT_EQ(0, madvise(self->memory, SIZE, MADV_DONTNEED));
	ASSERT_EQ(0, to_node(self->fd, self->memory,
			     variant->flags | TEST_HMM_MIGRATE_SKIP_HOLES, 1,
			     &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_NO_SOURCE]);
	ASSERT_EQ(0, to_node(self->fd, self->memory, variant->flags, 1, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(npages, pages_on(self->memory, 1));
	EXPECT_EQ(0, nonzero(self->memory, SIZE));
}

/* From a device to a node nothing moves: that is TO_SYSTEM's. */
TEST_F_TIMEOUT(node, from_a_device, TIMEOUT)
{
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, variant->flags, 0, &self->range));
	ASSERT_EQ(0, to_node(self->fd, self->memory, variant->flags, 1, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/*
 * What the kernel itself migrates keeps its folios, though it unmaps them page by page: they
 * are not queued to be split.
 */
TEST_F_TIMEOUT(node, mbind_keeps_folios, TIMEOUT)
{
	const unsigned int order = 4;
	unsigned long pages = npages / 4, mask;
	struct policy policy = {};
	long before, round;
	char path[128];

	if (!set_policy(&policy, order, "always"))
		SKIP(return, "no folios of this order");
	size_path(order, "stats/nr_anon_partially_mapped", path, sizeof(path));
	/* Half of a huge page, so that it cannot be one. */
	ASSERT_EQ(0, munmap(self->memory, SIZE));
	ASSERT_EQ(self->memory, mmap(self->memory, pages * page_size, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	fill(self->memory, pages * page_size, 1);
	before = read_number(path);
	EXPECT_LE(0, before);
	EXPECT_EQ(pages, pages_of_order(self->fd, self->memory, pages, order));
	for (round = 0; round < 4; round++) {
		mask = 1UL << (round % 2);
		EXPECT_EQ(0, syscall(SYS_mbind, self->memory, pages * page_size, MPOL_BIND,
				     &mask, 8 * sizeof(mask), MPOL_MF_MOVE));
		EXPECT_EQ(pages, pages_of_order(self->fd, self->memory, pages, order));
		EXPECT_EQ(before, read_number(path));
		EXPECT_EQ(0, wrong(self->memory, pages * page_size, 1));
	}
	restore_policy(&policy);
}

/* How many words of the @length bytes of @file are not what fill() made them. */
static size_t wrong_file(int file, size_t length, unsigned long seed)
{
	size_t count = length, i;
	void *buffer = malloc(length);

	for (i = 0; buffer && i < length; i += 65536)
		if (pread(file, buffer + i, 65536, i) != 65536)
			break;
	if (buffer && i == length)
		count = wrong(buffer, length, seed);
	free(buffer);
	return count;
}

/* A file in memory, mapped at the place of the fixture's memory. */
static int map_file(unsigned char *memory, int flags)
{
	int file = memfd_create("hmm_migrate", MFD_CLOEXEC);

	if (file < 0 || ftruncate(file, SIZE) ||
	    mmap(memory, SIZE, PROT_READ | PROT_WRITE, flags | MAP_FIXED, file, 0) != memory) {
		close(file);
		return -1;
	}
	return file;
}

/* Moves what is in the file to a node, looks whether it is there, and at each byte. */
static void move_file(struct __test_metadata *_metadata, int fd, unsigned char *memory,
		      int file, unsigned int flags, int node, unsigned long seed)
{
	struct test_hmm_migrate_range range;

	ASSERT_EQ(0, to_node(fd, memory, flags, node, &range));
	EXPECT_EQ(npages, range.pages[TEST_HMM_MIGRATE_MOVED] +
			  range.pages[TEST_HMM_MIGRATE_REFUSED]);
	EXPECT_EQ(npages, pages_on(memory, node));
	EXPECT_EQ(0, wrong(memory, SIZE, seed));
	EXPECT_EQ(0, wrong_file(file, SIZE, seed));
}

TEST_F_TIMEOUT(node, shared_memory, TIMEOUT)
{
	int file = map_file(self->memory, MAP_SHARED), round;

	ASSERT_LE(0, file);
	for (round = 0; round < 4; round++) {
		fill(self->memory, SIZE, round);
		move_file(_metadata, self->fd, self->memory, file, variant->flags,
			  round % 2, round);
	}
	close(file);
}

/* What another process has mapped as well, which writes to it before and after. */
TEST_F_TIMEOUT(node, memory_shared_with_a_child, TIMEOUT)
{
	int file = map_file(self->memory, MAP_SHARED), to_child[2], to_parent[2];
	char c = 0;
	pid_t pid;
	int round;

	ASSERT_LE(0, file);
	fill(self->memory, SIZE, 0);
	ASSERT_EQ(0, pipe(to_child));
	ASSERT_EQ(0, pipe(to_parent));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(to_child[1]);
		for (round = 1; read(to_child[0], &c, 1) == 1; round++) {
			if (wrong(self->memory, SIZE, round - 1))
				_exit(1);
			fill(self->memory, SIZE, round);
			if (write(to_parent[1], &c, 1) != 1)
				_exit(2);
		}
		_exit(0);
	}
	close(to_parent[1]);
	for (round = 1; round < 4; round++) {
		move_file(_metadata, self->fd, self->memory, file, variant->flags,
			  round % 2, round - 1);
		ASSERT_EQ(1, write(to_child[1], &c, 1));
		ASSERT_EQ(1, read(to_parent[0], &c, 1));
		EXPECT_EQ(0, wrong(self->memory, SIZE, round));
	}
	close(to_child[1]);
	EXPECT_EQ(0, reap(pid));
	close(file);
}

/* Of a private mapping the file's pages move, and the process's own copies. */
TEST_F_TIMEOUT(node, private_mapping_of_a_file, TIMEOUT)
{
	int file = map_file(self->memory, MAP_SHARED), node;

	ASSERT_LE(0, file);
	fill(self->memory, SIZE, 1);
	ASSERT_EQ(self->memory, mmap(self->memory, SIZE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_FIXED, file, 0));
	fill_part(self->memory, 0, SIZE / 2, 2);
	EXPECT_EQ(0, wrong_part(self->memory, SIZE / 2, SIZE, 1));
	for (node = 1; node >= 0; node--) {
		ASSERT_EQ(0, to_node(self->fd, self->memory, variant->flags, node,
				     &self->range));
		EXPECT_EQ(npages, pages_on(self->memory, node));
		EXPECT_EQ(0, wrong_part(self->memory, 0, SIZE / 2, 2));
		EXPECT_EQ(0, wrong_part(self->memory, SIZE / 2, SIZE, 1));
		EXPECT_EQ(0, wrong_file(file, SIZE, 1));
	}
	close(file);
}

struct file_writer {
	pthread_t thread;
	int file;
	bool stop;
	bool failed;
};

/* Writes all of the file again and again, each time with the same. */
static void *keep_writing(void *argument)
{
	struct file_writer *writer = argument;
	void *buffer = malloc(SIZE);
	size_t i;

	writer->failed = !buffer;
	if (buffer)
		fill(buffer, SIZE, 3);
	while (!writer->failed && !__atomic_load_n(&writer->stop, __ATOMIC_RELAXED))
		for (i = 0; i < SIZE; i += 16384)
			writer->failed |= pwrite(writer->file, buffer + i, 16384, i) != 16384;
	free(buffer);
	return NULL;
}

/* Who writes to the file meanwhile waits for a moment, and loses nothing. */
TEST_F_TIMEOUT(node, file_beside_a_writer, TIMEOUT)
{
	struct file_writer writer = { .file = map_file(self->memory, MAP_SHARED) };
	unsigned long moved = 0;
	int round;

	ASSERT_LE(0, writer.file);
	fill(self->memory, SIZE, 3);
	ASSERT_EQ(0, pthread_create(&writer.thread, NULL, keep_writing, &writer));
	for (round = 0; round < 20; round++) {
		EXPECT_EQ(0, to_node(self->fd, self->memory, variant->flags, !(round % 2),
				     &self->range));
		EXPECT_EQ(npages, sum_of(&self->range));
		EXPECT_EQ(0, wrong(self->memory, SIZE, 3));
		moved += self->range.pages[TEST_HMM_MIGRATE_MOVED];
	}
	EXPECT_LT(0, moved);
	__atomic_store_n(&writer.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(writer.thread, NULL));
	EXPECT_FALSE(writer.failed);
	EXPECT_EQ(0, wrong_file(writer.file, SIZE, 3));
	close(writer.file);
}

/* Nobody may read it but the process, and so nobody may copy it. */
TEST_F_TIMEOUT(node, secret_memory, TIMEOUT)
{
	int file = syscall(__NR_memfd_secret, O_CLOEXEC), node;

	if (file < 0)
		SKIP(return, "no memfd_secret()");
	ASSERT_EQ(0, ftruncate(file, SIZE));
	ASSERT_EQ(self->memory, mmap(self->memory, SIZE, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_FIXED, file, 0));
	fill(self->memory, SIZE, 1);
	for (node = 0; node < 2; node++) {
		ASSERT_EQ(0, to_node(self->fd, self->memory, variant->flags, node,
				     &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
		EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	}
	close(file);
}

/* Files are not for a device. */
TEST_F_TIMEOUT(node, file_to_a_device, TIMEOUT)
{
	int file = map_file(self->memory, MAP_SHARED);

	ASSERT_LE(0, file);
	fill(self->memory, SIZE, 1);
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, variant->flags, 0, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong_file(file, SIZE, 1));
	close(file);
}

TEST_HARNESS_MAIN
