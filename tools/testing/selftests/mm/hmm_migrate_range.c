// SPDX-License-Identifier: GPL-2.0
/*
 * hmm_migrate_range(), through the devices of lib/test_hmm_migrate.c: its behaviour
 * above the stages that hmm_migrate tests. With copies by the
 * CPU, and with slow copies by the engine of lib/test_hmm_migrate_dma.c. Every test
 * that moves data checks every byte of it. Every test ends with all device memory
 * free again.
 *
 * Needs root; for all of the tests also coherent memory, the engine, and swap space
 * whose I/O takes seconds, which HMM_MIGRATE_SLOW_SWAP names: null_blk with
 * memory_backed=1, irqmode=2 and completion_nsec=, and mkswap.
 */
#define _GNU_SOURCE
#include "hmm_migrate.h"

#include <linux/mempolicy.h>
#include <sys/auxv.h>
#include <sys/swap.h>
#include <sys/sysinfo.h>

#define TWO_MEG		(2UL << 20)
/* One huge page, and the same size in small pages. */
#define SIZE		(2 * TWO_MEG)

static unsigned long npages;

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
	/* Some tests have already unmapped a part of it, so ignore errors. */
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

/* The device may use the entries that the kernel has made, without a device fault. */
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

/* Four vmas with a gap in the middle; one of the vmas is read-only. */
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
	/* A range that ends in a gap, and one that is only a gap. */
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

/* Shared memory, which cannot move, must not keep other memory from moving. */
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

/* A special mapping cannot migrate at all. */
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

/* Holes and pages alternate, and the pages on both sides of a hole are copied. */
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

/* If the copy of a chunk fails, all pages of the chunk stay. */
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
	/* Only a chunk that was already in flight may still move. */
	EXPECT_GE(chunk, range->pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_GE((uintptr_t)small + 2 * chunk * page_size, range->done);
	EXPECT_EQ(0, wrong(memory, SIZE, 1));
}

/* If an engine fails to copy a part once, the engine or the CPU copies it again. */
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

/* Contents never contain this word by chance: see pattern(). */
static void set_bad_word(void *page, bool bad, unsigned long *was)
{
	unsigned long *word = page;

	if (bad)
		*was = *word;
	*word = bad ? BAD_WORD : *was;
}

/*
 * If a page cannot be copied, only its folio stays, not the rest of the chunk: for a
 * huge page and for a small one. The CPU copies the page if it can address the
 * memory.
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

/* If an engine can copy nothing, memory that the CPU cannot address stays. */
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

	/* No memory for any part of a huge page: no part of it may move. */
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, 1, 1000));
	EXPECT_EQ(-ENOMEM, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					  self->memory, npages, flags |
					  TEST_HMM_MIGRATE_STOP_NO_MEMORY, 0,
					  &self->range));
	EXPECT_EQ((uintptr_t)self->memory, self->range.done);
	EXPECT_EQ(0, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/*
 * Memory runs out among the parts of a huge page: the parts already allocated are
 * freed.
 */
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

	/* Without STOP_NO_MEMORY, half of the huge page moves. */
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
 * The driver makes room before anything is locked. It evicts the memory of other
 * owners, and the memory that this call has already moved to the device.
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

	/*
	 * Move more than fits on the device, in chunks of the default size and in one
	 * chunk.
	 */
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

/* Wait for pages that are locked for a while, by a lock alone or by another migration. */
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

/* The wait is limited: after one second in all, held pages stay and are counted. */
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

/*
 * Swap the pages out, and map them again before the I/O ends: they are under
 * writeback.
 */
static bool start_writeback(unsigned char *memory, size_t size)
{
	return !madvise(memory, size, MADV_PAGEOUT) &&
	       !madvise(memory, size, MADV_POPULATE_READ);
}

/*
 * A swapped-out page keeps its folio until the I/O ends, 5 s later. Each call waits
 * for that, but only for one second, so it takes several calls. No contents may be
 * lost meanwhile.
 */
TEST_F_TIMEOUT(range, writeback, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	unsigned char *parts[] = { small, self->memory };
	/* Each CPU caches up to 64 slots of the swap space that was in use before. */
	unsigned long counts[] = { 64 * (get_nprocs() + 2), npages / 2 }, moved;
	const char *slow_swap = getenv("HMM_MIGRATE_SLOW_SWAP");
	unsigned int i, calls;

	if (!slow_swap)
		SKIP(return, "HMM_MIGRATE_SLOW_SWAP is not set");
	if (counts[0] > npages / 2)
		SKIP(return, "too many CPUs, which cache more swap slots than there are pages");
	ASSERT_EQ(0, swapon(slow_swap, SWAP_FLAG_PREFER | 100));
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		EXPECT_TRUE(start_writeback(parts[i], counts[i] * page_size));
		/*
		 * The three calls do not wait; on a slow machine some I/O may have ended
		 * already.
		 */
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
 * Another process, whose memory this one migrates until it is killed. Both share the
 * file table, because an open device represents the process that opened it.
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

/* Returns when @memory of the target is filled and, with @written, under writeback. */
static bool start_target(struct target *target, unsigned int device,
			 unsigned char *memory, size_t size, bool written)
{
	int ready[2];
	bool started;

	if (pipe(ready))
		return false;
	/* The number that the device's file will get. */
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

/* Reap the target, which has been killed. */
static bool end_target(struct target *target)
{
	bool killed = reap(target->pid) == -1;

	close(target->fd);
	return killed;
}

/*
 * The process ends while a call waits for its pages. It has no users then, so the
 * call must not wait for the I/O of the pages any more.
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
		SKIP(return, "HMM_MIGRATE_SLOW_SWAP is not set");
	if (count > npages / 2)
		SKIP(return, "too many CPUs, which cache more swap slots than there are pages");
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

/* Migrates the first pages of another process, and notes when the call ends. */
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

/*
 * The end of the process must be noticed although several calls hold a reference to
 * its mm.
 */
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

/* Pages behind the point where memory ran out are neither counted nor looked at. */
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

TEST_HARNESS_MAIN
