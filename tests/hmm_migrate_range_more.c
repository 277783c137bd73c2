// SPDX-License-Identifier: GPL-2.0
/*
 * More tests of hmm_migrate_range(): beside threads that use the range, with an engine
 * that is slow, hangs or fails, and to ordinary memory of another node. See
 * hmm_migrate_range.c of the kernel's selftests, which has the same range fixture.
 */
#define _GNU_SOURCE
#include "more.h"

#include <linux/mempolicy.h>
#include <sys/auxv.h>
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

/* Latency of a slow engine, in nanoseconds. */
#define SLOWLY		2000000

/* Threads that use the range meanwhile */

struct bystander {
	pthread_t thread;
	unsigned char *memory;
	unsigned long rounds;
	unsigned long errors;
	int fd;
	atomic_bool stop;
};

/* Keeps taking mmap_lock for writing. */
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

/* Discards pages, fills them again, and checks all of them. */
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

/*
 * Migrates to the device and back beside @look; returns the number of pages that
 * moved.
 */
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

/* A cancelled call must not go on waiting for a folio lock. */
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

/* CANCEL affects only hmm_migrate_range(). */
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

/* At most one per chunk: copies that end at the same time are reported together. */
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
 * The engine hangs with two chunks in flight. It is tried twice; after that, memory
 * that the CPU cannot address stays, without any wait.
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
	/* Opening a device resets a failed engine. */
	fd = open_device(0);
	ASSERT_LE(0, fd);
	close(fd);
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, TEST_HMM_MIGRATE_ENGINE, 0, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/*
 * The address op is missing for the second chunk while the engine copies the first
 * one. The first chunk must move, and no other owner may get the memory that the
 * engine writes to.
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

/* The same if the engine has no descriptor left for the second chunk. */
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

/* A chunk of one descriptor, which is both the first and the last one. */
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

/*
 * The CPU accesses pages that are being copied: it waits, and none of its writes is
 * lost.
 */
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

/* Each DMA mapping is released, for a chunk that is copied and for one that is not. */
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

		/* For holes, the engine copies a page of zeros to private memory. */
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

/* One folio, and a slow migration of it. */
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

/* Enough time for another thread, in nanoseconds. */
#define VERY_SLOWLY	300000000

/*
 * Start to migrate a folio, and discard its second half during the copy. In the end
 * the first half must be there, with its contents.
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

/* Make a folio of an order that the policy allows, in memory aligned to its size. */
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
 * The folio is partially mapped afterwards. The rmap does not notice, because a zap
 * of migration entries removes no mapping. So the migration has to queue the folio
 * for a deferred split; otherwise the unmapped half is lost until the rest is
 * unmapped.
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
		/* To another node; to the device, with a failure; from the device. */
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

/* Number of pages of the memory that are on @node. */
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
		/* Pages that are already on the node stay there. */
		ASSERT_EQ(0, to_node(self->fd, self->memory, variant->flags, node,
				     &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_REFUSED]);
		EXPECT_EQ(0, wrong(self->memory, SIZE, round));
	}
}

/* Move scattered memory by an engine. Returns the number of descriptors used. */
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
 * If descriptors take longer to prepare than the CPU takes to copy a page, the engine
 * copies until that is known, and then the CPU, if the driver allows it.
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

/* TO_NODE does not move device memory; TO_SYSTEM does. */
TEST_F_TIMEOUT(node, from_a_device, TIMEOUT)
{
	ASSERT_EQ(0, migrate_chunks(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				    npages, variant->flags, 0, &self->range));
	ASSERT_EQ(0, to_node(self->fd, self->memory, variant->flags, 1, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/*
 * The kernel's own migrations keep their folios, although they unmap them page by
 * page: these folios must not be queued for a deferred split.
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
	/* Half of a huge page, so that no huge page fits. */
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

/*
 * Number of words in the first @length bytes of @file that are not as fill() wrote
 * them.
 */
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

/* Map a memfd in place of the fixture's memory. */
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

/* Move the file's pages to a node, and check the node and every byte. */
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

/*
 * Memory shared with another process, which writes to it before and after the
 * migration.
 */
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

/* From a private mapping, both the file's pages and the process's own copies move. */
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

/* Keeps writing all of the file, each time with the same contents. */
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

/* A write to the file meanwhile waits for a short time, and is not lost. */
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

/* Only the process may read secret memory, so the migration must not copy it. */
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

/* Pages of files do not migrate to a device. */
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
