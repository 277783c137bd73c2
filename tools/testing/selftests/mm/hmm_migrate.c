// SPDX-License-Identifier: GPL-2.0
/*
 * Migration of a range of a process to device memory and back, through the
 * devices of lib/test_hmm_migrate.c. Every test that moves data looks at every
 * byte of it. Every test ends with all device memory free again.
 *
 * Environment:
 *   HMM_MIGRATE_TRIPS	how often to repeat what is repeated (default 1000)
 *   HMM_MIGRATE_MODULE	path of test_hmm_migrate.ko, for the test that unloads it
 *
 * Needs root; for all of the tests also gup_test, hugetlbfs, KSM and swap space,
 * which hmm_migrate.sh provides.
 */
#define _GNU_SOURCE
#include "hmm_migrate.h"

#include <sched.h>
#include <stddef.h>
#include <sys/auxv.h>
#include <time.h>

#define PAGES		128UL
#define TWO_MEG		(2UL << 20)

/* One device and a buffer of PAGES pages, filled with seed 1. */

FIXTURE(device)
{
	int fd;
	unsigned char *memory;
	size_t size;
	struct test_hmm_migrate_range range;
};

FIXTURE_VARIANT(device)
{
	unsigned int device;
	bool private;
};

FIXTURE_VARIANT_ADD(device, private)
{
	.device = 0,
	.private = true,
};

FIXTURE_VARIANT_ADD(device, coherent)
{
	.device = 2,
	.private = false,
};

FIXTURE_SETUP(device)
{
	page_size = sysconf(_SC_PAGESIZE);
	self->size = PAGES * page_size;
	self->fd = open_device(variant->device);
	if (self->fd < 0 && variant->device == 2)
		SKIP(return, "no coherent device, is there Soft Reserved memory?");
	ASSERT_LE(0, self->fd);
	disarm(self->fd);
	ASSERT_EQ(0, set_fault_order(self->fd, TEST_HMM_MIGRATE_MAX_ORDER));
	self->memory = map_pages(PAGES);
	ASSERT_NE(MAP_FAILED, (void *)self->memory);
	fill(self->memory, self->size, 1);
}

FIXTURE_TEARDOWN(device)
{
	if (self->fd < 0)
		return;
	disarm(self->fd);
	/* Some tests have unmapped it, wholly or in part: that is no error. */
	munmap(self->memory, self->size);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

TEST_F_TIMEOUT(device, info, TIMEOUT)
{
	struct test_hmm_migrate_info info;

	ASSERT_EQ(0, get_info(self->fd, &info));
	EXPECT_EQ(variant->device, info.device);
	EXPECT_EQ(variant->private ? TEST_HMM_MIGRATE_PRIVATE :
				     TEST_HMM_MIGRATE_COHERENT, info.kind);
	EXPECT_LE(PAGES, info.pages);
	EXPECT_EQ(info.pages, info.free);
}

TEST_F_TIMEOUT(device, there_and_back, TIMEOUT)
{
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(PAGES, sum_of(&self->range));
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(PAGES, writable_pages(self->fd, self->memory, PAGES));
	EXPECT_EQ(PAGES, device_used(self->fd, PAGES));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, self->size, 1));

	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(PAGES, sum_of(&self->range));
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(PAGES, writable_pages(self->fd, self->memory, PAGES));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* Over the same range, with new contents each time. */
TEST_F_TIMEOUT(device, a_thousand_trips, TIMEOUT)
{
	unsigned long npages = PAGES / 4, trip;
	size_t size = npages * page_size;

	for (trip = 0; trip < trips(); trip++) {
		fill(self->memory, size, trip);
		ASSERT_EQ(0, to_device(self->fd, self->memory, npages, &self->range));
		ASSERT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]) {
			TH_LOG("trip %lu", trip);
		}
		ASSERT_EQ(0, to_system(self->fd, self->memory, npages, &self->range));
		ASSERT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]) {
			TH_LOG("trip %lu", trip);
		}
		ASSERT_EQ(0, wrong(self->memory, size, trip)) {
			TH_LOG("trip %lu", trip);
		}
	}
}

TEST_F_TIMEOUT(device, chunks_of_any_size, TIMEOUT)
{
	static const unsigned long chunks[] = { 1, 2, 3, 7, 64, PAGES, 2 * PAGES };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(chunks); i++) {
		struct test_hmm_migrate_range range = {
			.size = sizeof(range),
			.addr = (uintptr_t)self->memory,
			.length = self->size,
			.chunk = chunks[i] * page_size,
		};

		ASSERT_EQ(0, device_ioctl(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					  &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_MOVED]);
		ASSERT_EQ(0, device_ioctl(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM,
					  &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	}
}

TEST_F_TIMEOUT(device, holes_are_filled, TIMEOUT)
{
	unsigned char *memory = map_pages(PAGES);
	unsigned long i, populated = 0;

	ASSERT_NE(MAP_FAILED, (void *)memory);
	for (i = 0; i < PAGES; i += 3, populated++)
		fill(memory + i * page_size, page_size, i);

	ASSERT_EQ(0, to_device(self->fd, memory, PAGES, &self->range));
	EXPECT_EQ(populated, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(PAGES - populated, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(PAGES, pages_at(self->fd, memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(PAGES, writable_pages(self->fd, memory, PAGES));

	ASSERT_EQ(0, to_system(self->fd, memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	for (i = 0; i < PAGES; i++) {
		unsigned char *page = memory + i * page_size;

		EXPECT_EQ(0, i % 3 ? nonzero(page, page_size) :
				     wrong(page, page_size, i));
	}
	munmap(memory, self->size);
}

TEST_F_TIMEOUT(device, holes_are_left_alone, TIMEOUT)
{
	unsigned char *memory = map_pages(PAGES);
	unsigned long i;

	ASSERT_NE(MAP_FAILED, (void *)memory);
	for (i = 0; i < PAGES; i += 2)
		fill(memory + i * page_size, page_size, i);

	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, memory, PAGES,
			     TEST_HMM_MIGRATE_SKIP_HOLES, &self->range));
	EXPECT_EQ(PAGES / 2, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(PAGES / 2, self->range.pages[TEST_HMM_MIGRATE_NO_SOURCE]);
	EXPECT_EQ(PAGES / 2, pages_at(self->fd, memory, PAGES,
				      TEST_HMM_MIGRATE_NONE));

	ASSERT_EQ(0, to_system(self->fd, memory, PAGES, &self->range));
	EXPECT_EQ(PAGES / 2, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(PAGES, sum_of(&self->range));
	for (i = 0; i < PAGES; i += 2)
		EXPECT_EQ(0, wrong(memory + i * page_size, page_size, i));
	EXPECT_EQ(PAGES / 2, pages_at(self->fd, memory, PAGES,
				      TEST_HMM_MIGRATE_NONE));
	munmap(memory, self->size);
}

TEST_F_TIMEOUT(device, a_range_of_nothing_but_holes, TIMEOUT)
{
	/* No page table at all below it, for a part of it at least. */
	size_t size = 2 * TWO_MEG;
	unsigned long npages = size / page_size;
	unsigned char *memory = map_pages(npages);

	ASSERT_NE(MAP_FAILED, (void *)memory);
	ASSERT_EQ(0, to_device(self->fd, memory, npages, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(npages, device_used(self->fd, npages));
	EXPECT_EQ(0, nonzero(memory, size));
	munmap(memory, size);
}

TEST_F_TIMEOUT(device, zero_page, TIMEOUT)
{
	unsigned char *memory = map_pages(PAGES);
	unsigned long i;

	ASSERT_NE(MAP_FAILED, (void *)memory);
	ASSERT_EQ(0, nonzero(memory, self->size));
	EXPECT_EQ(PAGES, pages_at(self->fd, memory, PAGES, TEST_HMM_MIGRATE_ZERO));

	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, memory, PAGES,
			     TEST_HMM_MIGRATE_SKIP_HOLES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_NO_SOURCE]);
	EXPECT_EQ(PAGES, pages_at(self->fd, memory, PAGES, TEST_HMM_MIGRATE_ZERO));

	ASSERT_EQ(0, to_device(self->fd, memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(PAGES, pages_at(self->fd, memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, nonzero(memory, self->size));
	for (i = 0; i < PAGES; i++)
		memory[i * page_size] = i;
	for (i = 0; i < PAGES; i++)
		EXPECT_EQ((unsigned char)i, memory[i * page_size]);
	munmap(memory, self->size);
}

TEST_F_TIMEOUT(device, read_only_mapping, TIMEOUT)
{
	ASSERT_EQ(0, mprotect(self->memory, self->size, PROT_READ));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, PAGES));
	EXPECT_EQ(-EPERM, device_write(self->fd, self->memory, 1, "x"));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, self->size, 1));

	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, PAGES));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	EXPECT_EQ(SIGSEGV, signal_of_write(self->memory));

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	ASSERT_EQ(0, mprotect(self->memory, self->size, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, device_write(self->fd, self->memory, 1, self->memory));
	fill(self->memory, self->size, 2);
	EXPECT_EQ(0, wrong(self->memory, self->size, 2));
}

TEST_F_TIMEOUT(device, half_of_a_range, TIMEOUT)
{
	unsigned long half = PAGES / 2;
	unsigned char *middle = self->memory + half * page_size;

	ASSERT_EQ(0, to_device(self->fd, self->memory, half, &self->range));
	EXPECT_EQ(half, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(half, pages_at(self->fd, self->memory, half,
				 TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(half, pages_at(self->fd, middle, half, TEST_HMM_MIGRATE_SYSTEM));

	/* And only one page of it back, from the middle. */
	ASSERT_EQ(0, to_system(self->fd, self->memory + half / 2 * page_size, 1,
			       &self->range));
	EXPECT_EQ(1, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(half - 1, pages_at(self->fd, self->memory, PAGES,
				     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

TEST_F_TIMEOUT(device, overlapping_ranges, TIMEOUT)
{
	unsigned long quarter = PAGES / 4;

	ASSERT_EQ(0, to_device(self->fd, self->memory, 3 * quarter, &self->range));
	EXPECT_EQ(3 * quarter, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, to_device(self->fd, self->memory + quarter * page_size,
			       3 * quarter, &self->range));
	EXPECT_EQ(quarter, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(2 * quarter, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));

	ASSERT_EQ(0, to_system(self->fd, self->memory, 2 * quarter, &self->range));
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(2 * quarter, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

TEST_F_TIMEOUT(device, several_protections, TIMEOUT)
{
	static const int protections[] = {
		PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE, PROT_READ | PROT_EXEC,
	};
	unsigned long eighth = PAGES / 8, i;

	for (i = 0; i < 8; i++) {
		ASSERT_EQ(0, mprotect(self->memory + i * eighth * page_size,
				      eighth * page_size,
				      protections[i % ARRAY_SIZE(protections)]));
	}
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(2 * eighth, writable_pages(self->fd, self->memory, PAGES));
	/* What the process may not do, its device may not do either. */
	for (i = 0; i < 8; i++) {
		unsigned char *part = self->memory + i * eighth * page_size;
		int protection = protections[i % ARRAY_SIZE(protections)];
		uint64_t word;

		EXPECT_EQ(protection & PROT_READ ? 0 : -EFAULT,
			  device_read(self->fd, part, 8, &word));
		EXPECT_EQ(!(protection & PROT_READ) ? -EFAULT :
			  !(protection & PROT_WRITE) ? -EPERM : 0,
			  device_write(self->fd, part, 8, &word));
	}
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(2 * eighth, writable_pages(self->fd, self->memory, PAGES));
	ASSERT_EQ(0, mprotect(self->memory, self->size, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* The child leaves with 0 if it saw seed 1 everywhere, also after its COW. */
static void child_reads_and_writes(unsigned char *memory, size_t size,
				   int from_parent, int to_parent)
{
	char go;

	if (wrong(memory, size, 1))
		_exit(1);
	if (write(to_parent, "r", 1) != 1 || read(from_parent, &go, 1) != 1)
		_exit(2);
	/* The parent has written. */
	if (wrong(memory, size, 1))
		_exit(3);
	fill(memory, size, 3);
	if (wrong(memory, size, 3))
		_exit(4);
	_exit(0);
}

static int fork_and_write_both(unsigned char *memory, size_t size,
			       int (*between)(void *data), void *data)
{
	int to_child[2], to_parent[2];
	char ready;
	pid_t pid;
	int ret;

	if (pipe(to_child) || pipe(to_parent))
		return -1;
	pid = fork_child();
	if (!pid) {
		close(to_child[1]);
		close(to_parent[0]);
		child_reads_and_writes(memory, size, to_child[0], to_parent[1]);
	}
	/* So that a child that leaves early ends the wait for it. */
	close(to_child[0]);
	close(to_parent[1]);
	ret = pid < 0 || (between && between(data)) ||
	      read(to_parent[0], &ready, 1) != 1;
	if (!ret) {
		fill(memory, size, 2);
		ret = write(to_child[1], "g", 1) != 1;
	}
	close(to_child[1]);
	close(to_parent[0]);
	return reap(pid) ?: ret ? -2 : wrong(memory, size, 2) ? -3 : 0;
}

struct fork_trip {
	int fd;
	void *memory;
	unsigned long moved;
};

static int migrate_while_shared(void *data)
{
	struct fork_trip *trip = data;
	struct test_hmm_migrate_range range;
	int ret = to_device(trip->fd, trip->memory, PAGES, &range);

	trip->moved = range.pages[TEST_HMM_MIGRATE_MOVED];
	return ret;
}

TEST_F_TIMEOUT(device, fork_before, TIMEOUT)
{
	struct fork_trip trip = { .fd = self->fd, .memory = self->memory };

	ASSERT_EQ(0, fork_and_write_both(self->memory, self->size,
					 migrate_while_shared, &trip));
	/* The child reads meanwhile, so a page may be busy. */
	EXPECT_LT(0, trip.moved);
}

TEST_F_TIMEOUT(device, fork_after, TIMEOUT)
{
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, fork_and_write_both(self->memory, self->size, NULL, NULL));
}

/* What the device writes after a fork, the child must not see. */
static int fork_and_device_write(int fd, unsigned char *memory, size_t size,
				 const void *buffer)
{
	int to_child[2], ret = 0;
	char go;
	pid_t pid;

	if (pipe(to_child))
		return -1;
	pid = fork_child();
	if (!pid) {
		if (read(to_child[0], &go, 1) != 1)
			_exit(1);
		_exit(wrong(memory, size, 1) ? 2 : 0);
	}
	if (pid > 0) {
		struct test_hmm_migrate_range range;

		/* Those that are not there yet go as shared pages. */
		ret = to_device(fd, memory, size / page_size, &range) ?:
		      writable_pages(fd, memory, size / page_size) ?:
		      device_write(fd, memory, size, buffer);
		ret = write(to_child[1], "g", 1) == 1 ? ret : -2;
	}
	close(to_child[0]);
	close(to_child[1]);
	return reap(pid) ?: ret;
}

TEST_F_TIMEOUT(device, fork_and_device_write, TIMEOUT)
{
	unsigned char *buffer = malloc(self->size);

	ASSERT_NE(NULL, buffer);
	fill(buffer, self->size, 2);
	/* Half of it is on the device before the fork, half goes after it. */
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES / 2, &self->range));
	ASSERT_EQ(PAGES / 2, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, fork_and_device_write(self->fd, self->memory, self->size,
					   buffer));
	EXPECT_EQ(0, wrong(self->memory, self->size, 2));
	free(buffer);
}

TEST_F_TIMEOUT(device, cpu_read_fault, TIMEOUT)
{
	struct test_hmm_migrate_statistics stats;

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, statistics(self->fd, TEST_HMM_MIGRATE_RESET, &stats));

	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	ASSERT_EQ(0, statistics(self->fd, 0, &stats));
	if (variant->private) {
		EXPECT_EQ(PAGES, stats.cpu_faults);
		EXPECT_EQ(PAGES, stats.to_system[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
					  TEST_HMM_MIGRATE_SYSTEM));
	} else {
		EXPECT_EQ(0, stats.cpu_faults);
		EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
					  TEST_HMM_MIGRATE_THIS_DEVICE));
	}
}

TEST_F_TIMEOUT(device, cpu_write_fault, TIMEOUT)
{
	unsigned long i;

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);

	/* The last word of every second page. */
	for (i = 0; i < PAGES; i += 2)
		memset(self->memory + (i + 1) * page_size - 8, 0x11, 8);
	EXPECT_EQ(variant->private ? PAGES / 2 : PAGES,
		  pages_at(self->fd, self->memory, PAGES,
			   TEST_HMM_MIGRATE_THIS_DEVICE));
	for (i = 0; i < PAGES; i += 2) {
		unsigned char *end = self->memory + (i + 1) * page_size;

		EXPECT_EQ(0x1111111111111111ull, *(uint64_t *)(end - 8));
		*(uint64_t *)(end - 8) = pattern(1, (i + 1) * page_size - 8);
	}
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

TEST_F_TIMEOUT(device, device_writes, TIMEOUT)
{
	unsigned char *buffer = malloc(self->size);

	ASSERT_NE(NULL, buffer);
	fill(buffer, self->size, 2);

	/* To its own memory, */
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(0, device_write(self->fd, self->memory, self->size, buffer));
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, self->size, 2));

	/* to system memory, */
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	fill(buffer, self->size, 3);
	ASSERT_EQ(0, device_write(self->fd, self->memory, self->size, buffer));
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, self->size, 3));

	/* and both at once, unaligned, over the edge of a page. */
	ASSERT_EQ(0, to_device(self->fd, self->memory, 1, &self->range));
	ASSERT_EQ(0, device_write(self->fd, self->memory + page_size - 3, 7,
				  "abcdefg"));
	EXPECT_EQ(0, memcmp(self->memory + page_size - 3, "abcdefg", 7));
	memcpy(self->memory + page_size - 3, buffer + page_size - 3, 7);
	EXPECT_EQ(0, wrong(self->memory, self->size, 3));
	free(buffer);
}

TEST_F_TIMEOUT(device, device_reads, TIMEOUT)
{
	struct test_hmm_migrate_access access;
	unsigned char *memory = map_pages(PAGES);
	unsigned char *buffer = malloc(self->size);
	char text[7];

	ASSERT_NE(MAP_FAILED, (void *)memory);
	ASSERT_NE(NULL, buffer);

	/* Holes: the device faults them in. */
	memset(buffer, 0xff, self->size);
	ASSERT_EQ(0, access_memory(self->fd, TEST_HMM_MIGRATE_READ, memory,
				   self->size, buffer, &access));
	EXPECT_EQ(self->size, access.done);
	EXPECT_LT(0, access.faults);
	EXPECT_EQ(0, nonzero(buffer, self->size));

	/* What the CPU wrote since: the device must not see the zero page. */
	fill(memory, self->size, 4);
	EXPECT_EQ(0, device_wrong(self->fd, memory, self->size, 4));

	/* A second time without a fault. */
	ASSERT_EQ(0, access_memory(self->fd, TEST_HMM_MIGRATE_READ, memory,
				   self->size, buffer, &access));
	EXPECT_EQ(0, access.faults);

	/* After a migration without a fault: the driver entered the pages. */
	ASSERT_EQ(0, to_device(self->fd, memory, PAGES, &self->range));
	ASSERT_EQ(0, access_memory(self->fd, TEST_HMM_MIGRATE_READ, memory,
				   self->size, buffer, &access));
	EXPECT_EQ(0, access.faults);
	EXPECT_EQ(0, wrong(buffer, self->size, 4));

	memcpy(memory + page_size - 3, "gfedcba", 7);
	ASSERT_EQ(0, device_read(self->fd, memory + page_size - 3, 7, text));
	EXPECT_EQ(0, memcmp(text, "gfedcba", 7));
	free(buffer);
	munmap(memory, self->size);
}

TEST_F_TIMEOUT(device, device_access_ends_at_a_gap, TIMEOUT)
{
	struct test_hmm_migrate_access access;
	unsigned char *buffer = malloc(self->size);
	unsigned long half = PAGES / 2;

	ASSERT_NE(NULL, buffer);
	ASSERT_EQ(0, munmap(self->memory + half * page_size, page_size));
	EXPECT_EQ(-EFAULT, access_memory(self->fd, TEST_HMM_MIGRATE_READ,
					 self->memory, self->size, buffer,
					 &access));
	EXPECT_EQ(half * page_size, access.done);
	EXPECT_EQ(0, wrong(buffer, half * page_size, 1));

	ASSERT_EQ(0, mprotect(self->memory + page_size, page_size, PROT_READ));
	fill(buffer, self->size, 2);
	EXPECT_EQ(-EPERM, access_memory(self->fd, TEST_HMM_MIGRATE_WRITE,
					self->memory, self->size, buffer,
					&access));
	EXPECT_EQ(page_size, access.done);
	EXPECT_EQ(0, wrong(self->memory, page_size, 2));
	free(buffer);
}

/*
 * A write of the device to its own memory, which it has to ask for since a fork()
 * has made it read-only, while what follows is not accessible.
 */
TEST_F_TIMEOUT(device, device_write_ends_at_a_gap, TIMEOUT)
{
	struct test_hmm_migrate_access access;
	unsigned char *buffer = malloc(self->size);

	ASSERT_NE(NULL, buffer);
	fill(buffer, self->size, 2);
	ASSERT_EQ(0, to_device(self->fd, self->memory, 2, &self->range));
	ASSERT_EQ(2, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, mprotect(self->memory, page_size, PROT_READ));
	ASSERT_EQ(0, mprotect(self->memory, page_size, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, mprotect(self->memory + page_size, page_size, PROT_READ));
	EXPECT_EQ(-EPERM, access_memory(self->fd, TEST_HMM_MIGRATE_WRITE,
					self->memory, 2 * page_size, buffer,
					&access));
	EXPECT_EQ(page_size, access.done);
	EXPECT_EQ(0, wrong(self->memory, page_size, 2));
	EXPECT_EQ(0, wrong_part(self->memory, page_size, self->size, 1));
	free(buffer);
}

/* An open file stands for the process that opened it, also in another one. */
TEST_F_TIMEOUT(device, file_of_the_parent, TIMEOUT)
{
	unsigned char *buffer = malloc(self->size);
	pid_t pid;

	ASSERT_NE(NULL, buffer);
	fill(buffer, self->size, 2);
	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		int ret = to_device(self->fd, self->memory, PAGES, &self->range) ?:
			  device_write(self->fd, self->memory, self->size, buffer);

		_exit(ret || wrong(self->memory, self->size, 1));
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, wrong(self->memory, self->size, 2));
	free(buffer);
}

/* What the device wrote is no longer free for the taking. */
TEST_F_TIMEOUT(device, device_write_after_madv_free, TIMEOUT)
{
	unsigned char *buffer = malloc(self->size);

	ASSERT_NE(NULL, buffer);
	if (!have_swap())
		SKIP(return, "no swap space");
	fill(buffer, self->size, 2);
	ASSERT_EQ(0, madvise(self->memory, self->size, MADV_FREE));
	ASSERT_EQ(0, device_write(self->fd, self->memory, self->size, buffer));
	ASSERT_EQ(0, madvise(self->memory, self->size, MADV_PAGEOUT));
	EXPECT_EQ(0, wrong(self->memory, self->size, 2));

	/* The same by way of the device. */
	fill(buffer, self->size, 3);
	ASSERT_EQ(0, madvise(self->memory, self->size, MADV_FREE));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, device_write(self->fd, self->memory, self->size, buffer));
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, madvise(self->memory, self->size, MADV_PAGEOUT));
	EXPECT_EQ(0, wrong(self->memory, self->size, 3));
	free(buffer);
}

TEST_F_TIMEOUT(device, munmap_on_the_device, TIMEOUT)
{
	unsigned long quarter = PAGES / 4;
	size_t size = quarter * page_size;

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, munmap(self->memory + size, 2 * size));
	EXPECT_EQ(2 * quarter, device_used(self->fd, 2 * quarter));
	EXPECT_EQ(2 * quarter, pages_at(self->fd, self->memory, PAGES,
					TEST_HMM_MIGRATE_INVALID));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, size, 1));
	EXPECT_EQ(-EFAULT, device_write(self->fd, self->memory + size, 1, "x"));
	EXPECT_EQ(0, wrong(self->memory, size, 1));
	EXPECT_EQ(0, wrong_part(self->memory, 3 * size, self->size, 1));
}

TEST_F_TIMEOUT(device, mremap_on_the_device, TIMEOUT)
{
	unsigned char *target = map_pages(PAGES);

	ASSERT_NE(MAP_FAILED, (void *)target);
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(target, mremap(self->memory, self->size, self->size,
				 MREMAP_MAYMOVE | MREMAP_FIXED, target));
	EXPECT_EQ(PAGES, pages_at(self->fd, target, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_INVALID));
	EXPECT_EQ(-EFAULT, device_write(self->fd, self->memory, 1, "x"));
	EXPECT_EQ(0, device_wrong(self->fd, target, self->size, 1));
	/* And a part of it back, from the middle. */
	ASSERT_EQ(self->memory, mremap(target + 8 * page_size, 8 * page_size,
				       8 * page_size,
				       MREMAP_MAYMOVE | MREMAP_FIXED,
				       self->memory));
	EXPECT_EQ(8, pages_at(self->fd, self->memory, PAGES,
			      TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(target, 8 * page_size, 1));
	EXPECT_EQ(0, wrong_part(target, 16 * page_size, self->size, 1));
	EXPECT_EQ(0, wrong_part(self->memory - 8 * page_size, 8 * page_size,
				16 * page_size, 1));
	munmap(target, self->size);
}

TEST_F_TIMEOUT(device, mprotect_on_the_device, TIMEOUT)
{
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);

	ASSERT_EQ(0, mprotect(self->memory, self->size, PROT_READ));
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, PAGES));
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(-EPERM, device_write(self->fd, self->memory, 1, "x"));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, self->size, 1));

	ASSERT_EQ(0, mprotect(self->memory, self->size, PROT_NONE));
	EXPECT_EQ(-EFAULT, device_read(self->fd, self->memory, 1, &(char){0}));
	EXPECT_EQ(-EFAULT, device_write(self->fd, self->memory, 1, "x"));

	ASSERT_EQ(0, mprotect(self->memory, self->size, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, self->size, 1));
	ASSERT_EQ(0, device_write(self->fd, self->memory, 8,
				  &(uint64_t){pattern(1, 0)}));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* The kernel's count of locked pages, when its CPUs have told theirs. */
static long locked_pages(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_RDONLY | O_CLOEXEC);
	char byte;

	if (fd >= 0) {
		if (read(fd, &byte, 1) < 0)
			perror("stat_refresh");
		close(fd);
	}
	return read_vmstat("nr_mlock");
}

/* How many pages more than @before, if not @expected after some patience. */
static long locked_more(long before, long expected)
{
	long more = -1;
	int tries;

	for (tries = 0; tries < 100; tries++) {
		more = locked_pages() - before;
		if (more == expected)
			break;
		usleep(20000);
	}
	return more;
}

/* What is locked in memory, and goes to the device, is not counted twice, or for ever. */
TEST_F_TIMEOUT(device, unlocked_on_the_device, TIMEOUT)
{
	long before = locked_pages();

	ASSERT_LE(0, before);
	ASSERT_EQ(0, mlock(self->memory, self->size));
	EXPECT_EQ(PAGES, locked_more(before, PAGES));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, locked_more(before, 0));
	/* There and back. */
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, locked_more(before, PAGES));

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(0, munlock(self->memory, self->size));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, self->size, 1));
	ASSERT_EQ(0, munmap(self->memory, self->size));
	EXPECT_EQ(0, locked_more(before, 0));
}

TEST_F_TIMEOUT(device, dontneed_on_the_device, TIMEOUT)
{
	size_t half = self->size / 2;

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, madvise(self->memory + half, half, MADV_DONTNEED));
	EXPECT_EQ(PAGES / 2, device_used(self->fd, PAGES / 2));
	EXPECT_EQ(PAGES / 2, pages_at(self->fd, self->memory, PAGES,
				      TEST_HMM_MIGRATE_NONE));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, half, 1));
	EXPECT_EQ(0, wrong(self->memory, half, 1));
	EXPECT_EQ(0, nonzero(self->memory + half, half));
}

/* A pinned page stays where it is, and whoever pinned it keeps seeing it. */
TEST_F_TIMEOUT(device, pinned_pages, TIMEOUT)
{
	unsigned char *buffer = calloc(2, page_size);
	int gup;

	ASSERT_NE(NULL, buffer);
	if (!can_pin())
		SKIP(return, "no gup_test, is debugfs mounted?");
	gup = pin(self->memory + page_size, 2 * page_size,
		  PIN_LONGTERM_TEST_FLAG_USE_WRITE);
	ASSERT_LE(0, gup);

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES - 2, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(2, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(2, pages_at(self->fd, self->memory + page_size, 2,
			      TEST_HMM_MIGRATE_SYSTEM));
	memset(self->memory + page_size, 0x5a, 2 * page_size);
	ASSERT_EQ(0, read_pinned(gup, buffer));
	EXPECT_EQ(0, memcmp(buffer, self->memory + page_size, 2 * page_size));

	close(gup);
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(2, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	fill(self->memory, self->size, 1);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	free(buffer);
}

/* Pinning for the long term brings device memory back first. */
TEST_F_TIMEOUT(device, pin_on_the_device, TIMEOUT)
{
	unsigned char *buffer = malloc(self->size);
	int gup;

	ASSERT_NE(NULL, buffer);
	if (!can_pin())
		SKIP(return, "no gup_test, is debugfs mounted?");
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);

	gup = pin(self->memory, self->size, 0);
	ASSERT_LE(0, gup);
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_SYSTEM));
	ASSERT_EQ(0, read_pinned(gup, buffer));
	EXPECT_EQ(0, wrong(buffer, self->size, 1));
	close(gup);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	free(buffer);
}

/*
 * A child has the swap entries still, so the pages that are read here stay in the swap
 * cache. A device must not get them: the child would find device memory there.
 */
TEST_F_TIMEOUT(device, swap_cache, TIMEOUT)
{
	long swapped;
	int go[2];
	pid_t pid;

	if (!have_swap())
		SKIP(return, "no swap space");
	ASSERT_EQ(0, pipe(go));
	ASSERT_EQ(0, madvise(self->memory, self->size, MADV_PAGEOUT));
	swapped = pages_at(self->fd, self->memory, PAGES, TEST_HMM_MIGRATE_SWAPPED);
	ASSERT_LT(0, swapped);
	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(!wait_for(go[0]) || wrong(self->memory, self->size, 1));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(swapped, self->range.pages[TEST_HMM_MIGRATE_REFUSED]);
	EXPECT_EQ(swapped, pages_at(self->fd, self->memory, PAGES, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_TRUE(tell(go[1]));
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	close(go[0]);
	close(go[1]);
}

/* Memory that was locked can be reclaimed when it is not locked any more. */
TEST_F_TIMEOUT(device, locked_memory, TIMEOUT)
{
	int round;

	if (!have_swap())
		SKIP(return, "no swap space");
	for (round = 0; round < 3; round++) {
		ASSERT_EQ(0, mlock(self->memory, self->size));
		ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
		EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
		EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		ASSERT_EQ(0, munlock(self->memory, self->size));
		ASSERT_EQ(0, madvise(self->memory, self->size, MADV_PAGEOUT));
		EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
					  TEST_HMM_MIGRATE_SWAPPED));
		EXPECT_EQ(0, wrong(self->memory, self->size, 1));
		/* Out of the swap cache. */
		fill(self->memory, self->size, 1);
	}
}

/* A page that could not migrate is on the LRU again, so reclaim finds it. */
TEST_F_TIMEOUT(device, refused_pages_can_be_reclaimed, TIMEOUT)
{
	struct iovec iov = { .iov_base = self->memory, .iov_len = page_size };
	long swapped = read_key("/proc/self/status", "VmSwap:");
	int fds[2];

	if (!have_swap())
		SKIP(return, "no swap space");
	/* A reference to the first page, and no pin: it goes as far as unmap. */
	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(page_size, vmsplice(fds[1], &iov, 1, 0));
	ASSERT_EQ(0, to_device(self->fd, self->memory, 1, &self->range));
	EXPECT_EQ(1, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	close(fds[0]);
	close(fds[1]);
	ASSERT_EQ(0, madvise(self->memory, page_size, MADV_PAGEOUT));
	EXPECT_EQ(1, pages_at(self->fd, self->memory, 1, TEST_HMM_MIGRATE_SWAPPED));
	EXPECT_LT(swapped, read_key("/proc/self/status", "VmSwap:"));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* What a device wants to access alone stays where it is until the CPU wants it. */
TEST_F_TIMEOUT(device, taken_pages, TIMEOUT)
{
	unsigned char *buffer = malloc(self->size);
	struct test_hmm_migrate_statistics before, after;

	ASSERT_NE(NULL, buffer);
	ASSERT_EQ(PAGES, take(self->fd, self->memory, PAGES));
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_EXCLUSIVE));
	fill(buffer, self->size, 2);
	ASSERT_EQ(0, statistics(self->fd, 0, &before));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, self->size, 1));
	ASSERT_EQ(0, device_write(self->fd, self->memory, self->size, buffer));
	ASSERT_EQ(0, statistics(self->fd, 0, &after));
	EXPECT_EQ(before.device_faults, after.device_faults);

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_EXCLUSIVE));
	EXPECT_EQ(0, wrong(self->memory, self->size, 2));
	EXPECT_EQ(0, pages_at(self->fd, self->memory, PAGES,
			      TEST_HMM_MIGRATE_EXCLUSIVE));

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	/* Who takes what is on a private device, makes it come back. */
	EXPECT_EQ(PAGES, take(self->fd, self->memory, PAGES));
	EXPECT_EQ(variant->device < 2 ? 0 : PAGES, device_used(self->fd,
							       variant->device < 2 ? 0 : PAGES));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, self->size, 2));
	EXPECT_EQ(0, wrong(self->memory, self->size, 2));
	free(buffer);
}

TEST_F_TIMEOUT(device, swapped_out_pages, TIMEOUT)
{
	long swapped;

	if (!have_swap())
		SKIP(return, "no swap space");
	ASSERT_EQ(0, madvise(self->memory, self->size, MADV_PAGEOUT));
	swapped = pages_at(self->fd, self->memory, PAGES, TEST_HMM_MIGRATE_SWAPPED);
	ASSERT_LT(0, swapped);

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(swapped, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(PAGES, sum_of(&self->range));
	EXPECT_EQ(swapped, pages_at(self->fd, self->memory, PAGES,
				    TEST_HMM_MIGRATE_SWAPPED));

	/* In again, for reading: then they are in the swap cache too. */
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, sum_of(&self->range));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));

	/* And for writing, which takes them out of it. */
	fill(self->memory, self->size, 2);
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, self->size, 2));
}

TEST_F_TIMEOUT(device, merged_pages_stay, TIMEOUT)
{
	unsigned char *memory = map_pages(PAGES), *target = map_pages(PAGES);
	unsigned long i;

	ASSERT_NE(MAP_FAILED, (void *)memory);
	ASSERT_NE(MAP_FAILED, (void *)target);
	if (read_number(KSM "run") < 0)
		SKIP(return, "no KSM");
	for (i = 0; i < PAGES; i++)
		fill(memory + i * page_size, page_size, i < 8 ? 77 : i + 100);
	ASSERT_TRUE(merge_pages(memory, self->size, 8));

	ASSERT_EQ(0, to_device(self->fd, memory, PAGES, &self->range));
	EXPECT_EQ(8, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(PAGES - 8, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(8, pages_at(self->fd, memory, 8, TEST_HMM_MIGRATE_SYSTEM));

	/* Where it would be lost. */
	ASSERT_EQ(target, mremap(memory, self->size, self->size,
				 MREMAP_MAYMOVE | MREMAP_FIXED, target));
	ASSERT_EQ(0, to_system(self->fd, target, PAGES, &self->range));
	EXPECT_EQ(PAGES - 8, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	for (i = 0; i < PAGES; i++) {
		EXPECT_EQ(0, wrong(target + i * page_size, page_size,
				   i < 8 ? 77 : i + 100));
	}
	munmap(target, self->size);
}

TEST_F_TIMEOUT(device, shared_memory_is_refused, TIMEOUT)
{
	unsigned char *memory = mmap(NULL, self->size, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, (void *)memory);
	fill(memory, self->size, 5);
	ASSERT_EQ(0, to_device(self->fd, memory, PAGES, &self->range));
	EXPECT_EQ(0, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(PAGES, sum_of(&self->range));
	EXPECT_EQ(PAGES, pages_at(self->fd, memory, PAGES,
				  TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(memory, self->size, 5));
	EXPECT_EQ(0, device_used(self->fd, 0));
	munmap(memory, self->size);
}

/* Pages of the file stay; the process's own copies of them are its memory. */
TEST_F_TIMEOUT(device, file_mapping, TIMEOUT)
{
	unsigned char *memory, *shared;
	int file = memfd_create("hmm_migrate", MFD_CLOEXEC);

	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, self->size));
	shared = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	ASSERT_NE(MAP_FAILED, (void *)shared);
	fill(shared, self->size, 6);
	memory = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	ASSERT_NE(MAP_FAILED, (void *)memory);
	ASSERT_EQ(0, wrong(memory, self->size, 6));
	memory[0] = ~memory[0];

	ASSERT_EQ(0, to_device(self->fd, memory, PAGES, &self->range));
	EXPECT_EQ(1, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(PAGES, sum_of(&self->range));
	EXPECT_EQ(1, pages_at(self->fd, memory, PAGES, TEST_HMM_MIGRATE_THIS_DEVICE));
	ASSERT_EQ(0, to_device(self->fd, shared, PAGES, &self->range));
	EXPECT_EQ(0, self->range.pages[TEST_HMM_MIGRATE_MOVED]);

	EXPECT_EQ(0, wrong(shared, self->size, 6));
	memory[0] = ~memory[0];
	EXPECT_EQ(0, wrong(memory, self->size, 6));
	munmap(memory, self->size);
	munmap(shared, self->size);
	close(file);
}

/* A huge page of a file, whose private mapping has one page of its own on the device. */
TEST_F_TIMEOUT(device, collapse_of_a_private_file, TIMEOUT)
{
	size_t size = huge_page_size(), i;
	unsigned char *shared, *private;
	void *area;
	int file;

	if (!size)
		SKIP(return, "no huge pages");
	file = memfd_create("file", MFD_CLOEXEC);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, size));
	area = map_huge_page(size, &private);
	ASSERT_NE(MAP_FAILED, area);
	shared = mmap(private, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		      file, 0);
	ASSERT_EQ(private, shared);
	fill(shared, size, 1);
	if (madvise(shared, size, MADV_COLLAPSE))
		SKIP(return, "no huge pages in files");
	ASSERT_EQ(private, mmap(private, size, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_FIXED, file, 0));
	/* Every page mapped, and one of them copied. */
	for (i = 0; i < size; i += page_size)
		ASSERT_EQ(0, wrong_part(private, i, i + page_size, 1));
	fill_part(private, 0, page_size, 2);
	ASSERT_EQ(0, to_device(self->fd, private, 1, &self->range));
	EXPECT_EQ(1, self->range.pages[TEST_HMM_MIGRATE_MOVED]);

	EXPECT_NE(0, madvise(private, size, MADV_COLLAPSE));
	EXPECT_EQ(1, pages_at(self->fd, private, 1, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong_part(private, 0, page_size, 2));
	EXPECT_EQ(0, wrong_part(private, page_size, size, 1));
	munmap(area, 2 * size);
	close(file);
}

TEST_F_TIMEOUT(device, special_mapping_is_refused, TIMEOUT)
{
	void *vdso = (void *)getauxval(AT_SYSINFO_EHDR);

	if (!vdso)
		SKIP(return, "no vdso on this architecture");
	EXPECT_EQ(-EOPNOTSUPP, to_device(self->fd, vdso, 1, &self->range));
	EXPECT_EQ(0, sum_of(&self->range));
}

#define NR_HUGEPAGES	"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

static void *map_hugetlb(void)
{
	return mmap(NULL, TWO_MEG, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT,
		    -1, 0);
}

TEST_F_TIMEOUT(device, hugetlb_is_refused, TIMEOUT)
{
	long before = read_number(NR_HUGEPAGES);
	unsigned char *memory;

	if (before < 0)
		SKIP(return, "no huge pages of 2 MiB");
	write_number(NR_HUGEPAGES, before + 1);
	memory = map_hugetlb();
	if (memory == MAP_FAILED) {
		write_number(NR_HUGEPAGES, before);
		SKIP(return, "no huge page of 2 MiB to be had");
	}
	fill(memory, TWO_MEG, 7);
	EXPECT_EQ(-EOPNOTSUPP, to_device(self->fd, memory, 1, &self->range));
	EXPECT_EQ(0, wrong(memory, TWO_MEG, 7));
	munmap(memory, TWO_MEG);
	write_number(NR_HUGEPAGES, before);
}

TEST_F_TIMEOUT(device, migrate_ends_at_a_gap, TIMEOUT)
{
	unsigned long half = PAGES / 2;

	ASSERT_EQ(0, munmap(self->memory + half * page_size, page_size));
	EXPECT_EQ(-EFAULT, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(half, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(half, sum_of(&self->range));
	EXPECT_EQ(half, pages_at(self->fd, self->memory, PAGES,
				 TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, half * page_size, 1));
}

/* Where page tables of some level have never been. */
TEST_F_TIMEOUT(device, snapshot_without_page_tables, TIMEOUT)
{
	size_t size = 2UL << 30;
	unsigned char *memory;

	memory = mmap((void *)(1UL << 44), size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)memory);
	EXPECT_EQ(PAGES, pages_at(self->fd, memory, PAGES, TEST_HMM_MIGRATE_NONE));
	memory[size / 2] = 1;
	EXPECT_EQ(PAGES, pages_at(self->fd, memory, PAGES, TEST_HMM_MIGRATE_NONE));
	memory[0] = 1;
	EXPECT_EQ(1, pages_at(self->fd, memory, PAGES, TEST_HMM_MIGRATE_SYSTEM));
	munmap(memory, size);
}

/* Split on the way out or not: the contents count here. */
TEST_F_TIMEOUT(device, transparent_huge_page, TIMEOUT)
{
	size_t size = huge_page_size();
	unsigned long npages = size / page_size, i;
	struct test_hmm_migrate_page *pages = calloc(npages, sizeof(*pages));
	struct test_hmm_migrate_access access;
	unsigned char *area, *memory, *buffer = malloc(size);

	if (!size)
		SKIP(return, "no transparent huge pages");
	ASSERT_NE(NULL, pages);
	ASSERT_NE(NULL, buffer);
	area = map_huge_page(size, &memory);
	ASSERT_NE(MAP_FAILED, (void *)area);
	fill(memory, size, 8);
	ASSERT_EQ(0, snapshot(self->fd, memory, npages, pages));
	if (!pages[0].map_order)
		SKIP(munmap(area, 2 * size); return, "no huge page to be had");
	for (i = 0; i < npages; i++) {
		ASSERT_EQ(TEST_HMM_MIGRATE_SYSTEM, pages[i].where);
		ASSERT_EQ(npages, 1UL << pages[i].map_order);
		ASSERT_EQ(npages, 1UL << pages[i].folio_order);
		ASSERT_EQ(i, pages[i].folio_index);
	}

	ASSERT_EQ(0, to_device(self->fd, memory, npages, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(npages, pages_at(self->fd, memory, npages,
				   TEST_HMM_MIGRATE_THIS_DEVICE));
	/* The split was the driver's own doing, so it entered the pages. */
	ASSERT_EQ(0, access_memory(self->fd, TEST_HMM_MIGRATE_READ, memory, size,
				   buffer, &access));
	EXPECT_EQ(0, access.faults);
	EXPECT_EQ(0, wrong(buffer, size, 8));
	ASSERT_EQ(0, to_system(self->fd, memory, npages, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(memory, size, 8));
	munmap(area, 2 * size);
	free(buffer);
	free(pages);
}

/* A read fault on a huge page of nothing maps the huge zero page. */
TEST_F_TIMEOUT(device, huge_zero_page, TIMEOUT)
{
	size_t size = huge_page_size();
	unsigned long npages = size / page_size;
	unsigned char *area, *memory;

	if (!size)
		SKIP(return, "no transparent huge pages");
	area = map_huge_page(size, &memory);
	ASSERT_NE(MAP_FAILED, (void *)area);
	ASSERT_EQ(0, memory[0]);
	if (pages_at(self->fd, memory, npages, TEST_HMM_MIGRATE_NONE))
		SKIP(munmap(area, 2 * size); return, "no huge zero page to be had");
	EXPECT_EQ(npages, pages_at(self->fd, memory, npages,
				   TEST_HMM_MIGRATE_ZERO));
	ASSERT_EQ(0, to_device(self->fd, memory, npages, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(npages, pages_at(self->fd, memory, npages,
				   TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, nonzero(memory, size));
	munmap(area, 2 * size);
}

/*
 * The child shares one half of the range with us and has copies of the other.
 * It is at rest during the eviction: an eviction may find a page that a fault
 * has just moved and still holds a reference to, and the kernel, as it is, moves
 * that once more.
 */
TEST_F_TIMEOUT(device, eviction, TIMEOUT)
{
	struct test_hmm_migrate_evict argument;
	int ready[2], tries = 0;
	pid_t pid;

	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		fill(self->memory, self->size / 2, 9);
		if (!tell(ready[1]))
			_exit(1);
		pause();
		_exit(0);
	}
	close(ready[1]);
	ASSERT_TRUE(wait_for(ready[0]));

	do {
		ASSERT_EQ(0, evict(self->fd, &argument));
	} while (argument.remaining && ++tries < 100);
	EXPECT_EQ(0, argument.remaining);
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(ready[0]);
}

TEST_F_TIMEOUT(device, eviction_reports, TIMEOUT)
{
	struct test_hmm_migrate_evict argument;

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, inject(self->fd, is_bare() ? TEST_HMM_MIGRATE_FAIL_COPY :
			    TEST_HMM_MIGRATE_FAIL_PAGE, 3, 2));
	ASSERT_EQ(0, evict(self->fd, &argument));
	EXPECT_EQ(PAGES - 2, argument.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(2, argument.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(2, argument.remaining);
	ASSERT_EQ(0, evict(self->fd, &argument));
	EXPECT_EQ(2, argument.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, argument.remaining);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* A failure on the way out: those pages are still where they were. */
static void check_failed(struct __test_metadata *_metadata,
			 int fd, void *memory, unsigned int what,
			 unsigned int fate)
{
	struct test_hmm_migrate_range range;
	struct test_hmm_migrate_statistics stats;

	ASSERT_EQ(0, statistics(fd, TEST_HMM_MIGRATE_RESET, &stats));
	ASSERT_EQ(0, inject(fd, what, 10, 5));
	ASSERT_EQ(0, to_device(fd, memory, PAGES, &range));
	EXPECT_EQ(PAGES - 5, range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(5, range.pages[fate]);
	EXPECT_EQ(PAGES, sum_of(&range));
	EXPECT_EQ(5, pages_at(fd, memory + 9 * page_size, 5,
			      TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(PAGES - 5, pages_at(fd, memory, PAGES,
				      TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(PAGES - 5, device_used(fd, PAGES - 5));
	ASSERT_EQ(0, statistics(fd, 0, &stats));
	EXPECT_EQ(5, stats.injected[what]);
	EXPECT_EQ(5, stats.to_device[fate]);
	EXPECT_EQ(PAGES - 5, stats.to_device[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, device_wrong(fd, memory, PAGES * page_size, 1));
	EXPECT_EQ(0, wrong(memory, PAGES * page_size, 1));
}

TEST_F_TIMEOUT(device, allocation_fails_on_the_way_out, TIMEOUT)
{
	check_failed(_metadata, self->fd, self->memory,
		     TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, TEST_HMM_MIGRATE_NO_DESTINATION);
}

/* To hmm_migrate_range(), a copy has failed for a chunk: see hmm_migrate_range.c. */
TEST_F_TIMEOUT(device, copy_fails_on_the_way_out, TIMEOUT)
{
	bare = true;
	check_failed(_metadata, self->fd, self->memory,
		     TEST_HMM_MIGRATE_FAIL_COPY,
		     TEST_HMM_MIGRATE_COPY_FAILED);
}

/* A hole that cannot be filled is still a hole. */
TEST_F_TIMEOUT(device, failures_in_holes, TIMEOUT)
{
	unsigned char *memory = map_pages(PAGES);

	bare = true;
	ASSERT_NE(MAP_FAILED, (void *)memory);
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_COPY, 5, 3));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, 20, 4));
	ASSERT_EQ(0, to_device(self->fd, memory, PAGES, &self->range));
	EXPECT_EQ(3, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(4, self->range.pages[TEST_HMM_MIGRATE_NO_DESTINATION]);
	EXPECT_EQ(PAGES - 7, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(PAGES, sum_of(&self->range));
	EXPECT_EQ(7, pages_at(self->fd, memory, PAGES, TEST_HMM_MIGRATE_NONE));
	EXPECT_EQ(0, nonzero(memory, self->size));
	munmap(memory, self->size);
}

/* Only what is large enough fails. */
TEST_F_TIMEOUT(device, failures_of_larger_orders, TIMEOUT)
{
	ASSERT_EQ(0, inject_order(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, 1,
				  1, -1));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

TEST_F_TIMEOUT(device, failures_on_the_way_back, TIMEOUT)
{
	static const struct {
		unsigned int what, fate;
	} cases[] = {
		{ TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC, TEST_HMM_MIGRATE_NO_DESTINATION },
		{ TEST_HMM_MIGRATE_FAIL_COPY, TEST_HMM_MIGRATE_COPY_FAILED },
	};
	unsigned int i;

	bare = true;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
		ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		ASSERT_EQ(0, inject(self->fd, cases[i].what, 1, 7));
		ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
		EXPECT_EQ(7, self->range.pages[cases[i].fate]);
		EXPECT_EQ(PAGES, sum_of(&self->range));
		EXPECT_EQ(PAGES - 7, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(7, pages_at(self->fd, self->memory, 7,
				      TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, self->size, 1));
		ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
		EXPECT_EQ(7, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	}
}

TEST_F_TIMEOUT(device, device_is_full, TIMEOUT)
{
	struct test_hmm_migrate_info info;
	unsigned char *memory;
	unsigned long npages;

	ASSERT_EQ(0, get_info(self->fd, &info));
	npages = info.pages + PAGES;
	memory = map_pages(npages);
	ASSERT_NE(MAP_FAILED, (void *)memory);
	ASSERT_EQ(0, to_device(self->fd, memory, npages, &self->range));
	EXPECT_EQ(info.pages, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_NO_DESTINATION]);
	EXPECT_EQ(PAGES, pages_at(self->fd, memory + info.pages * page_size,
				  PAGES, TEST_HMM_MIGRATE_NONE));
	munmap(memory, npages * page_size);
}

/* The copy for a CPU fault fails: SIGBUS, and the contents are still there. */
TEST_F_TIMEOUT(device, copy_fails_in_a_cpu_fault, TIMEOUT)
{
	struct sigaction action = { .sa_handler = jump_on_sigbus };
	size_t wrong_words = 0;

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, sigaction(SIGBUS, &action, NULL));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_COPY, 1, 1));
	/* Coherent memory is read where it is. */
	EXPECT_EQ(variant->private, raises_sigbus(self->memory, page_size, 1,
						  &wrong_words));
	EXPECT_EQ(0, wrong_words);
	signal(SIGBUS, SIG_DFL);
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* No memory for a CPU fault: the kernel tries again until there is some. */
TEST_F_TIMEOUT(device, allocation_fails_in_a_cpu_fault, TIMEOUT)
{
	struct test_hmm_migrate_statistics stats;

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(0, statistics(self->fd, TEST_HMM_MIGRATE_RESET, &stats));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC, 1, 3));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	ASSERT_EQ(0, statistics(self->fd, 0, &stats));
	EXPECT_EQ(variant->private ? 3 : 0,
		  stats.injected[TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC]);
	EXPECT_EQ(variant->private ? PAGES + 3 : 0, stats.cpu_faults);
}

TEST_F_TIMEOUT(device, statistics, TIMEOUT)
{
	struct test_hmm_migrate_statistics stats;

	ASSERT_EQ(0, statistics(self->fd, TEST_HMM_MIGRATE_RESET, &stats));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(0, statistics(self->fd, TEST_HMM_MIGRATE_RESET, &stats));
	EXPECT_EQ(PAGES, stats.to_device[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(PAGES, stats.to_system[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(PAGES, stats.allocated[0]);
	EXPECT_EQ(PAGES, stats.freed[0]);
	EXPECT_LE(self->range.time[TEST_HMM_MIGRATE_TIME_SETUP],
		  stats.time[TEST_HMM_MIGRATE_TIME_SETUP]);
	EXPECT_LT(0, stats.time[TEST_HMM_MIGRATE_TIME_SETUP]);
	EXPECT_LT(0, stats.time[TEST_HMM_MIGRATE_TIME_COPY]);
	EXPECT_LT(0, stats.time[TEST_HMM_MIGRATE_TIME_PAGES]);
	EXPECT_LT(0, stats.time[TEST_HMM_MIGRATE_TIME_FINALIZE]);
	ASSERT_EQ(0, statistics(self->fd, 0, &stats));
	EXPECT_EQ(0, stats.device_faults);
	ASSERT_EQ(0, device_wrong(self->fd, self->memory, self->size, 1));
	ASSERT_EQ(0, statistics(self->fd, 0, &stats));
	EXPECT_LT(0, stats.device_faults);
	EXPECT_EQ(0, stats.allocated[0]);
	EXPECT_EQ(0, stats.to_device[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, stats.time[TEST_HMM_MIGRATE_TIME_SETUP]);
}

TEST_F_TIMEOUT(device, close_with_memory_on_the_device, TIMEOUT)
{
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, close(self->fd));
	/* Half of it without any file that stands for the process. */
	EXPECT_EQ(0, wrong(self->memory, self->size / 2, 1));
	self->fd = open_device(variant->device);
	ASSERT_LE(0, self->fd);
	EXPECT_EQ(PAGES / (variant->private ? 2 : 1),
		  pages_at(self->fd, self->memory, PAGES,
			   TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, self->size, 1));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

TEST_F_TIMEOUT(device, kill_with_memory_on_the_device, TIMEOUT)
{
	int ready[2], status;
	char byte;
	pid_t pid;

	ASSERT_EQ(0, pipe(ready));
	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = open_device(variant->device);
		/* The copy of the fork, so that parent and child share it. */
		int ret = to_device(fd, self->memory, PAGES, &self->range);

		fill(self->memory, self->size / 2, 3);
		ret = ret ?: to_device(fd, self->memory, PAGES, &self->range);
		if (ret || write(ready[1], "r", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	close(ready[1]);
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	EXPECT_LT(0, device_used(self->fd, PAGES));
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

TEST_F_TIMEOUT(device, kill_while_migrating, TIMEOUT)
{
	kill_while_migrating(_metadata, variant->device, self->memory, PAGES, 0);
}

/*
 * A range that takes minutes although there is nothing in it: a fatal signal
 * ends it at once.
 */
TEST_F_TIMEOUT(device, kill_in_a_long_range, TIMEOUT)
{
	size_t size = 1UL << 44;
	struct timespec before, after;
	void *memory;
	int ready[2];
	pid_t pid;

	memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		SKIP(return, "no address space for a long range");
	ASSERT_EQ(0, pipe(ready));
	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = open_device(variant->device);

		if (!tell(ready[1]))
			_exit(1);
		to_system(fd, memory, size / page_size, &self->range);
		_exit(2);
	}
	close(ready[1]);
	ASSERT_TRUE(wait_for(ready[0]));
	usleep(200000);
	clock_gettime(CLOCK_MONOTONIC, &before);
	kill(pid, SIGKILL);
	EXPECT_EQ(-1, reap(pid));
	clock_gettime(CLOCK_MONOTONIC, &after);
	EXPECT_GT(20, after.tv_sec - before.tv_sec);
	close(ready[0]);
	munmap(memory, size);
}

/* A file whose process is gone. */
TEST_F_TIMEOUT(device, process_is_gone, TIMEOUT)
{
	struct test_hmm_migrate_page page;
	int fd = -1, next = open("/dev/null", O_RDONLY);
	char byte;
	pid_t pid;

	ASSERT_LE(0, next);
	close(next);
	/* Shares the table of files, so that its file outlives it. */
	pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(open_device(variant->device) == next ? 0 : 1);
	ASSERT_EQ(0, reap(pid));
	fd = next;
	EXPECT_EQ(-ESRCH, to_device(fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(-ESRCH, to_system(fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(-ESRCH, device_read(fd, self->memory, 1, &byte));
	EXPECT_EQ(-ESRCH, device_write(fd, self->memory, 1, "x"));
	EXPECT_EQ(-ESRCH, snapshot(fd, self->memory, 1, &page));
	close(fd);
}

/* Threads */

TEST_F_TIMEOUT(device, two_threads_against_each_other, TIMEOUT)
{
	migrate_against_each_other(_metadata, self->fd, self->fd, self->memory,
				   PAGES, 0);
}

/*
 * The device writes, and reads back what it wrote, while the pages move under
 * it. A write to the page that was just copied away would be lost.
 */
static void *write_by_device(void *data)
{
	struct worker *worker = data;
	uint64_t value = 0, found;
	unsigned long page;

	while (!*worker->stop) {
		value++;
		for (page = 0; page < worker->npages; page += 5) {
			unsigned char *addr = worker->memory + page * page_size;

			worker->errors += !!device_write(worker->fd, addr, 8, &value);
		}
		for (page = 0; page < worker->npages; page += 5) {
			unsigned char *addr = worker->memory + page * page_size;

			worker->errors += !!device_read(worker->fd, addr, 8, &found);
			worker->errors += found != value;
		}
	}
	worker->moved = value;
	return NULL;
}

/* Each @step-th page begins with @value; then it is as fill() made it again. */
static void expect_counted(struct __test_metadata *_metadata,
			   const struct worker *worker, unsigned long step,
			   uint64_t value)
{
	unsigned long i;

	for (i = 0; i < worker->npages; i += step) {
		uint64_t *word = (uint64_t *)(worker->memory + i * page_size);

		EXPECT_EQ(value, *word);
		*word = pattern(1, i * page_size);
	}
}

TEST_F_TIMEOUT(device, device_writes_while_migrating, TIMEOUT)
{
	atomic_bool stop = false;
	struct worker mover = {
		.fd = self->fd,
		.memory = self->memory,
		.npages = PAGES / 4,
		.rounds = trips() / 5 + 1,
	};
	struct worker writer = mover;

	writer.stop = &stop;
	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, migrate_to_and_fro, &mover));
	ASSERT_EQ(0, pthread_create(&writer.thread, NULL, write_by_device, &writer));
	pthread_join(mover.thread, NULL);
	stop = true;
	pthread_join(writer.thread, NULL);
	EXPECT_EQ(0, mover.errors);
	EXPECT_EQ(0, writer.errors);
	EXPECT_LT(0, mover.moved);
	EXPECT_LT(0, writer.moved);
	expect_counted(_metadata, &mover, 5, writer.moved);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

static void *migrate_to_device_only(void *data)
{
	struct worker *worker = data;
	struct test_hmm_migrate_range range;

	while (!*worker->stop) {
		worker->errors += !!migrate(worker->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					    worker->memory, worker->npages,
					    TEST_HMM_MIGRATE_SKIP_HOLES, &range);
		worker->moved += range.pages[TEST_HMM_MIGRATE_MOVED];
	}
	return NULL;
}

/*
 * Zap what is being migrated: the device must not keep an entry for it. Nobody
 * writes anything but zeros, and what was freed is full of poison. The pages
 * have to be real ones: those are zapped in the middle of a migration, a hole
 * is filled late in it.
 */
TEST_F_TIMEOUT(device, dontneed_while_migrating, TIMEOUT)
{
	atomic_bool stop = false;
	struct worker mover = {
		.fd = self->fd,
		.npages = PAGES / 8,
		.stop = &stop,
	};
	size_t size = mover.npages * page_size;
	unsigned char *buffer = malloc(size);
	unsigned long round;
	int i;

	ASSERT_NE(NULL, buffer);
	mover.memory = map_pages(mover.npages);
	ASSERT_NE(MAP_FAILED, (void *)mover.memory);
	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, migrate_to_device_only,
				    &mover));
	for (round = 0; round < trips(); round++) {
		memset(mover.memory, 0, size);
		spin(round);
		EXPECT_EQ(0, madvise(mover.memory, size, MADV_DONTNEED));
		for (i = 0; i < 3; i++) {
			EXPECT_EQ(0, device_read(self->fd, mover.memory, size,
						 buffer));
			EXPECT_EQ(0, nonzero(buffer, size));
		}
		if (_metadata->exit_code != KSFT_PASS)
			break;
	}
	stop = true;
	pthread_join(mover.thread, NULL);
	EXPECT_EQ(0, mover.errors);
	EXPECT_LT(0, mover.moved);
	munmap(mover.memory, size);
	free(buffer);
}

/* Other threads' folio locks are in the way, for a moment. */

/*
 * Migrate a range half of which another thread holds. hmm_migrate_range() waits, so
 * all of it must move: there are many tries, with times from 0.5 to 40 ms, of which one
 * at least must have met the locks and outlasted them. The three calls do not wait, so
 * one at least must have left what was held, with its contents, and counted it; never
 * anything that was not held.
 */
static void migrate_held(struct __test_metadata *_metadata, int fd,
			 unsigned char *memory, unsigned int flags)
{
	struct test_hmm_migrate_range range;
	unsigned int i, not_held = 0, not_met = 0, too_long = 0;
	bool outlasted = false;
	struct holder holder;

	for (i = 0; i < 200 && !outlasted; i++) {
		long again = read_vmstat("migrate_vma_again");
		long left = read_vmstat("migrate_vma_left_locked");
		bool held, met, all;

		ASSERT_LE(0, again);
		ASSERT_LE(0, left);
		ASSERT_EQ(0, to_system(fd, memory, PAGES, &range));
		fill(memory, PAGES * page_size, i);
		ASSERT_TRUE(start_holder(&holder, fd, flags, memory, PAGES / 2,
					 500 + i * 7919 % 40000));
		EXPECT_EQ(0, to_device(fd, memory, PAGES, &range));
		pthread_join(holder.thread, NULL);
		ASSERT_EQ(0, holder.ret);
		EXPECT_EQ(0, wrong(memory, PAGES * page_size, i));
		EXPECT_EQ(PAGES, sum_of(&range));
		/* Those that nobody held have no excuse. */
		EXPECT_LE(PAGES / 2, range.pages[TEST_HMM_MIGRATE_MOVED]);
		held = holder.hold.pages == PAGES / 2;
		all = range.pages[TEST_HMM_MIGRATE_MOVED] == PAGES;
		/*
		 * Not all of those that were held, if they lie in two chunks:
		 * the first one outlasts the locks for the second one.
		 */
		met = read_vmstat("migrate_vma_again") > again;
		outlasted = held && met && all;
		if (is_bare()) {
			EXPECT_LE(PAGES - range.pages[TEST_HMM_MIGRATE_MOVED],
				  read_vmstat("migrate_vma_left_locked") - left);
			outlasted = held &&
				range.pages[TEST_HMM_MIGRATE_MOVED] == PAGES / 2;
		}
		not_held += !held;
		not_met += all && !met;
		too_long += !all;
	}
	EXPECT_TRUE(outlasted) {
		TH_LOG("%u not held, %u not met, %u too long", not_held, not_met, too_long);
	}
}

TEST_F_TIMEOUT(device, locked_pages_move, TIMEOUT)
{
	migrate_held(_metadata, self->fd, self->memory, 0);
}

TEST_F_TIMEOUT(device, pages_of_another_migration_move, TIMEOUT)
{
	migrate_held(_metadata, self->fd, self->memory,
		     TEST_HMM_MIGRATE_HOLD_MIGRATION);
}

/* A lock that is held for long: the page stays, is counted, and is not lost. */
TEST_F_TIMEOUT(device, pages_locked_for_long_stay, TIMEOUT)
{
	long locked = read_vmstat("migrate_vma_left_locked");
	struct holder holder;

	ASSERT_LE(0, locked);
	/* hmm_migrate_range() waits for them. */
	bare = true;
	ASSERT_TRUE(start_holder(&holder, self->fd, 0, self->memory, 3, 500000));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	pthread_join(holder.thread, NULL);
	ASSERT_EQ(0, holder.ret);
	EXPECT_EQ(3, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(PAGES - 3, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_LE(locked + 3, read_vmstat("migrate_vma_left_locked"));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/*
 * Soft-dirty must come back where it was, on the device and back, and must not
 * come where it was not.
 */
TEST_F_TIMEOUT(device, soft_dirty_survives, TIMEOUT)
{
	unsigned long i;

	if (!(pagemap_of(self->memory) & PM_SOFT_DIRTY))
		SKIP(return, "no soft-dirty");
	ASSERT_TRUE(clear_references(CLEAR_SOFT_DIRTY));
	for (i = 0; i < PAGES; i += 3)
		memset(self->memory + i * page_size, 9, page_size);
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	for (i = 0; i < PAGES; i++) {
		EXPECT_EQ(i % 3 == 0, !!(pagemap_of(self->memory + i * page_size) &
					 PM_SOFT_DIRTY));
	}
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	for (i = 0; i < PAGES; i++) {
		EXPECT_EQ(i % 3 == 0, !!(pagemap_of(self->memory + i * page_size) &
					 PM_SOFT_DIRTY));
	}
}

/*
 * What userfaultfd has write-protected is so on the device and back again, also
 * a zero page, which becomes a page of its own on the device.
 */
TEST_F_TIMEOUT(device, userfaultfd_write_protect_survives, TIMEOUT)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)self->memory, .len = self->size },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	unsigned char *zero = self->memory + 4 * page_size;
	unsigned long i;
	int trip;

	if (fd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, madvise(zero, page_size, MADV_DONTNEED));
	ASSERT_EQ(0, nonzero(zero, page_size));
	for (i = 0; i < PAGES; i += 4)
		ASSERT_TRUE(write_protect(fd, self->memory + i * page_size,
					  page_size, true));
	for (trip = 0; trip < 2; trip++) {
		ASSERT_EQ(0, (trip ? to_system : to_device)(self->fd, self->memory,
							    PAGES, &self->range));
		EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED] +
				 self->range.pages[TEST_HMM_MIGRATE_FILLED]);
		for (i = 0; i < PAGES; i++) {
			EXPECT_EQ(i % 4 == 0,
				  !!(pagemap_of(self->memory + i * page_size) &
				     PM_UFFD_WP));
		}
		EXPECT_EQ(PAGES - (PAGES + 3) / 4,
			  writable_pages(self->fd, self->memory, PAGES));
	}
	close(fd);
	EXPECT_EQ(0, nonzero(zero, page_size));
	memset(zero, 1, page_size);
}

/*
 * A page that is known to be exclusive is not copied when it is written, whoever
 * else has a reference to it: here, a pipe. That this is known, of an entry that
 * is not writable, must survive the trip.
 */
TEST_F_TIMEOUT(device, exclusive_survives, TIMEOUT)
{
	ASSERT_EQ(0, mprotect(self->memory, self->size, PROT_READ));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_TRUE(written_in_place(self->memory, self->size));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* A migration that comes to nothing. */
static int migrate_in_vain(int fd, void *memory, unsigned long npages)
{
	struct test_hmm_migrate_hold hold = {
		.size = sizeof(hold),
		.flags = TEST_HMM_MIGRATE_HOLD_MIGRATION,
		.addr = (uintptr_t)memory,
		.length = npages * page_size,
	};
	int ret = device_ioctl(fd, TEST_HMM_MIGRATE_HOLD, &hold);

	return ret ?: hold.pages != npages;
}

/*
 * Young and dirty survive where the entry can carry them: a page that is put back
 * is as it was. What is written after MADV_FREE is dirty by its entry alone, and
 * if that is forgotten, reclaim throws it away.
 */
TEST_F_TIMEOUT(device, young_and_dirty_survive, TIMEOUT)
{
	unsigned char *memory = map_pages(PAGES + 2);
	unsigned long i;

	ASSERT_NE(MAP_FAILED, (void *)memory);
	/* A mapping of its own, with nothing to merge with on either side. */
	ASSERT_EQ(0, munmap(memory, page_size));
	ASSERT_EQ(0, munmap(memory + (PAGES + 1) * page_size, page_size));
	memory += page_size;
	if (!have_swap())
		SKIP(return, "no swap space");

	fill(memory, PAGES * page_size, 5);
	ASSERT_TRUE(clear_references(CLEAR_REFERENCED));
	ASSERT_EQ(0, smaps_kib(memory, "Referenced:"));
	/* That did not flush the TLB, and without a walk nothing becomes young. */
	ASSERT_EQ(0, mprotect(memory, PAGES * page_size, PROT_NONE));
	ASSERT_EQ(0, mprotect(memory, PAGES * page_size, PROT_READ | PROT_WRITE));
	for (i = 0; i < PAGES; i += 2)
		EXPECT_EQ(0, wrong_part(memory, i * page_size, i * page_size + 8, 5));
	EXPECT_EQ(PAGES / 2 * page_size / 1024, smaps_kib(memory, "Referenced:"));
	ASSERT_EQ(0, migrate_in_vain(self->fd, memory, PAGES));
	EXPECT_EQ(PAGES / 2 * page_size / 1024, smaps_kib(memory, "Referenced:"));

	ASSERT_EQ(0, madvise(memory, PAGES * page_size, MADV_FREE));
	fill(memory, PAGES * page_size, 6);
	ASSERT_EQ(0, migrate_in_vain(self->fd, memory, PAGES));
	ASSERT_EQ(0, madvise(memory, PAGES * page_size, MADV_PAGEOUT));
	EXPECT_EQ(0, wrong(memory, PAGES * page_size, 6));
	munmap(memory, PAGES * page_size);
}

static void *count_by_cpu(void *data)
{
	struct worker *worker = data;
	uint64_t value = 0;
	unsigned long i;

	while (!*worker->stop) {
		value++;
		for (i = 0; i < worker->npages; i++) {
			uint64_t *word = (uint64_t *)(worker->memory + i * page_size);

			worker->errors += *word != value - 1;
			*word = value;
		}
	}
	worker->moved = value;
	return NULL;
}

/*
 * A CPU writes while the pages migrate. If its TLB still had an entry for a page
 * that is copied, what it writes there would be lost.
 */
TEST_F_TIMEOUT(device, cpu_writes_while_migrating, TIMEOUT)
{
	atomic_bool stop = false;
	struct worker mover = {
		.fd = self->fd,
		.memory = self->memory,
		.npages = PAGES,
		.rounds = trips() / 5 + 10,
	};
	struct worker writer = {
		.memory = self->memory,
		.npages = PAGES,
		.stop = &stop,
	};
	unsigned long i;

	for (i = 0; i < PAGES; i++)
		*(uint64_t *)(self->memory + i * page_size) = 0;
	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, migrate_to_and_fro, &mover));
	ASSERT_EQ(0, pthread_create(&writer.thread, NULL, count_by_cpu, &writer));
	pthread_join(mover.thread, NULL);
	stop = true;
	pthread_join(writer.thread, NULL);
	EXPECT_EQ(0, mover.errors);
	EXPECT_EQ(0, writer.errors);
	EXPECT_LT(0, mover.moved);
	EXPECT_LT(0, writer.moved);
	expect_counted(_metadata, &mover, 1, writer.moved);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* Another process that has the pages forks and exits, all the time. */
TEST_F_TIMEOUT(device, others_fork_and_exit_while_migrating, TIMEOUT)
{
	unsigned long i, moved = 0;
	pid_t pid;

	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		for (;;) {
			pid_t child = fork_child();

			if (!child)
				_exit(wrong(self->memory, self->size, 1) != 0);
			if (reap(child))
				_exit(1);
		}
	}
	for (i = 0; i < trips() / 5 + 5; i++) {
		ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
		EXPECT_EQ(PAGES, sum_of(&self->range));
		moved += self->range.pages[TEST_HMM_MIGRATE_MOVED];
		ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
		EXPECT_EQ(PAGES, sum_of(&self->range));
		EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	}
	EXPECT_LT(0, moved);
	/* It has not found anything wrong so far. */
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Write-protect and unprotect by userfaultfd while the pages are under way. */
static void *protect_to_and_fro(void *data)
{
	struct worker *worker = data;
	size_t size = worker->npages * page_size;

	while (!*worker->stop) {
		worker->errors += !write_protect(worker->fd, worker->memory, size,
						 true);
		worker->errors += !write_protect(worker->fd, worker->memory, size,
						 false);
		worker->moved++;
	}
	worker->errors += !write_protect(worker->fd, worker->memory, size, true);
	return NULL;
}

TEST_F_TIMEOUT(device, userfaultfd_write_protects_while_migrating, TIMEOUT)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)self->memory, .len = self->size },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	atomic_bool stop = false;
	struct worker mover = {
		.fd = self->fd,
		.memory = self->memory,
		.npages = PAGES,
		.rounds = trips() / 10 + 5,
	};
	struct worker protector = {
		.fd = fd,
		.memory = self->memory,
		.npages = PAGES,
		.stop = &stop,
	};
	unsigned long i;

	if (fd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, migrate_to_and_fro, &mover));
	ASSERT_EQ(0, pthread_create(&protector.thread, NULL, protect_to_and_fro,
				    &protector));
	pthread_join(mover.thread, NULL);
	stop = true;
	pthread_join(protector.thread, NULL);
	EXPECT_EQ(0, mover.errors);
	EXPECT_EQ(0, protector.errors);
	EXPECT_LT(0, mover.moved);
	EXPECT_LT(0, protector.moved);
	/* The last word was: protected. */
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, PAGES));
	for (i = 0; i < PAGES; i++)
		EXPECT_TRUE(pagemap_of(self->memory + i * page_size) & PM_UFFD_WP);
	close(fd);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* UFFDIO_MOVE of what is migrating waits, or fails, and loses nothing. */
TEST_F_TIMEOUT(device, userfaultfd_moves_while_migrating, TIMEOUT)
{
	unsigned char *target = map_pages(PAGES);
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)target, .len = self->size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = open_userfaultfd(UFFD_FEATURE_MOVE);
	struct worker mover = {
		.fd = self->fd,
		.memory = self->memory,
		.npages = PAGES,
		.rounds = 20,
	};
	unsigned long i, moved = 0;

	ASSERT_NE(MAP_FAILED, (void *)target);
	if (fd < 0)
		SKIP(return, "no UFFDIO_MOVE");
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, migrate_to_and_fro, &mover));
	for (i = 0; i < PAGES; i++) {
		struct uffdio_move move = {
			.dst = (uintptr_t)target + i * page_size,
			.src = (uintptr_t)self->memory + i * page_size,
			.len = page_size,
		};
		int tries;

		for (tries = 0; tries < 1000; tries++) {
			move.move = 0;
			if (!ioctl(fd, UFFDIO_MOVE, &move))
				break;
			/* It is busy, or a page on the device. */
			EXPECT_TRUE(errno == EAGAIN || errno == EBUSY ||
				    errno == EFAULT || errno == ENOENT);
		}
		if (move.move == (__s64)page_size) {
			moved++;
			EXPECT_EQ(0, wrong_part(target, i * page_size,
						(i + 1) * page_size, 1));
		} else {
			EXPECT_EQ(0, wrong_part(self->memory, i * page_size,
						(i + 1) * page_size, 1));
		}
	}
	pthread_join(mover.thread, NULL);
	EXPECT_EQ(0, mover.errors);
	EXPECT_LT(0, moved);
	close(fd);
	munmap(target, self->size);
}

/* Arguments: each with the errno that test_hmm_migrate_uapi.h promises. */

static const struct {
	const char *name;
	unsigned long request;
	size_t size;
	/* The flags that it knows. */
	__u32 flags;
} requests[] = {
	{ "info", TEST_HMM_MIGRATE_INFO, sizeof(struct test_hmm_migrate_info) },
	{ "to_device", TEST_HMM_MIGRATE_TO_DEVICE, sizeof(struct test_hmm_migrate_range),
	  0xfff },
	{ "to_system", TEST_HMM_MIGRATE_TO_SYSTEM, sizeof(struct test_hmm_migrate_range),
	  0xfff & ~(TEST_HMM_MIGRATE_SKIP_HOLES | TEST_HMM_MIGRATE_RELOCATE |
		    TEST_HMM_MIGRATE_MAKE_ROOM | TEST_HMM_MIGRATE_PEERS) },
	{ "read", TEST_HMM_MIGRATE_READ, sizeof(struct test_hmm_migrate_access) },
	{ "write", TEST_HMM_MIGRATE_WRITE, sizeof(struct test_hmm_migrate_access) },
	{ "snapshot", TEST_HMM_MIGRATE_SNAPSHOT, sizeof(struct test_hmm_migrate_snapshot) },
	{ "evict", TEST_HMM_MIGRATE_EVICT, sizeof(struct test_hmm_migrate_evict),
	  TEST_HMM_MIGRATE_SCATTERED | TEST_HMM_MIGRATE_EVICT_BARE |
	  TEST_HMM_MIGRATE_EVICT_ENGINE },
	{ "statistics", TEST_HMM_MIGRATE_STATISTICS, sizeof(struct test_hmm_migrate_statistics),
	  TEST_HMM_MIGRATE_RESET },
	/* Has no flags; what to inject is in their place. */
	{ "inject", TEST_HMM_MIGRATE_INJECT, sizeof(struct test_hmm_migrate_inject), -1 },
	{ "hold", TEST_HMM_MIGRATE_HOLD, sizeof(struct test_hmm_migrate_hold),
	  TEST_HMM_MIGRATE_HOLD_MIGRATION | TEST_HMM_MIGRATE_HOLD_TAKEN },
	{ "fault_order", TEST_HMM_MIGRATE_FAULT_ORDER,
	  sizeof(struct test_hmm_migrate_fault_order),
	  TEST_HMM_MIGRATE_FAULT_BARE | TEST_HMM_MIGRATE_FAULT_ENGINE },
	{ "take", TEST_HMM_MIGRATE_TAKE, sizeof(struct test_hmm_migrate_take) },
	{ "to_node", TEST_HMM_MIGRATE_TO_NODE, sizeof(struct test_hmm_migrate_range),
	  0xfff & ~(TEST_HMM_MIGRATE_BARE | TEST_HMM_MIGRATE_RELOCATE |
		    TEST_HMM_MIGRATE_MAKE_ROOM | TEST_HMM_MIGRATE_PEERS) },
	{ "cancel", TEST_HMM_MIGRATE_CANCEL, sizeof(struct test_hmm_migrate_cancel) },
};

/* An argument that is fine for any of the ioctls, in @page of page_size bytes. */
static void good_argument(unsigned char *page, unsigned long request, size_t size,
			  void *memory, void *buffer)
{
	struct test_hmm_migrate_fault_order *fault_order = (void *)page;
	struct test_hmm_migrate_access *access = (void *)page;

	memset(page, 0, page_size);
	access->size = size;
	switch (request) {
	case TEST_HMM_MIGRATE_READ:
	case TEST_HMM_MIGRATE_WRITE:
	case TEST_HMM_MIGRATE_SNAPSHOT:
		access->buffer = (uintptr_t)buffer;
		__attribute__((fallthrough));
	case TEST_HMM_MIGRATE_TO_DEVICE:
	case TEST_HMM_MIGRATE_TO_SYSTEM:
	case TEST_HMM_MIGRATE_HOLD:
	case TEST_HMM_MIGRATE_TAKE:
	case TEST_HMM_MIGRATE_TO_NODE:
		access->addr = (uintptr_t)memory;
		access->length = page_size;
		break;
	case TEST_HMM_MIGRATE_FAULT_ORDER:
		/* As it is at first. */
		fault_order->order = TEST_HMM_MIGRATE_MAX_ORDER;
		break;
	}
}

TEST_F_TIMEOUT(device, bad_structures, TIMEOUT)
{
	unsigned char *page = map_pages(2);
	unsigned char *buffer = malloc(page_size);
	unsigned int i, bit;

	ASSERT_NE(MAP_FAILED, (void *)page);
	ASSERT_NE(NULL, buffer);
	/* Whatever lies behind the first page cannot be read. */
	ASSERT_EQ(0, mprotect(page + page_size, page_size, PROT_NONE));

	for (i = 0; i < ARRAY_SIZE(requests); i++) {
		unsigned long request = requests[i].request;
		size_t size = requests[i].size;
		__u32 *first = (__u32 *)page;

		memset(buffer, 0, page_size);
		good_argument(page, request, size, self->memory, buffer);
		EXPECT_EQ(0, device_ioctl(self->fd, request, page));

		/* Not there, partly there, not writable. */
		EXPECT_EQ(-EFAULT, device_ioctl(self->fd, request, NULL));
		EXPECT_EQ(-EFAULT, device_ioctl(self->fd, request, (void *)-8));
		EXPECT_EQ(-EFAULT, device_ioctl(self->fd, request, page + page_size));
		good_argument(page, request, size, self->memory, buffer);
		memcpy(page + page_size - 8, page, 8);
		EXPECT_EQ(-EFAULT, device_ioctl(self->fd, request,
						page + page_size - 8));
		ASSERT_EQ(0, mprotect(page, page_size, PROT_READ));
		EXPECT_EQ(-EFAULT, device_ioctl(self->fd, request, page));
		ASSERT_EQ(0, mprotect(page, page_size, PROT_READ | PROT_WRITE));

		/* Too small; larger, with zeros and without; absurd. */
		good_argument(page, request, 0, self->memory, buffer);
		EXPECT_EQ(-EINVAL, device_ioctl(self->fd, request, page));
		good_argument(page, request, size - 1, self->memory, buffer);
		EXPECT_EQ(-EINVAL, device_ioctl(self->fd, request, page));
		good_argument(page, request, size + 8, self->memory, buffer);
		EXPECT_EQ(0, device_ioctl(self->fd, request, page));
		EXPECT_EQ(size + 8, *first);
		good_argument(page, request, size + 8, self->memory, buffer);
		page[size + 7] = 1;
		EXPECT_EQ(-E2BIG, device_ioctl(self->fd, request, page));
		good_argument(page, request, page_size, self->memory, buffer);
		EXPECT_EQ(0, device_ioctl(self->fd, request, page));
		good_argument(page, request, page_size + 1, self->memory, buffer);
		EXPECT_EQ(-E2BIG, device_ioctl(self->fd, request, page));
		good_argument(page, request, -1, self->memory, buffer);
		EXPECT_EQ(-E2BIG, device_ioctl(self->fd, request, page));

		/* Every bit of the flags that has no meaning. */
		for (bit = 0; bit < 32; bit++) {
			if (requests[i].flags & 1U << bit)
				continue;
			good_argument(page, request, size, self->memory, buffer);
			first[1] = 1U << bit;
			EXPECT_EQ(-EINVAL, device_ioctl(self->fd, request, page));
		}
		ASSERT_EQ(KSFT_PASS, _metadata->exit_code) {
			TH_LOG("in %s", requests[i].name);
		}
	}
	free(buffer);
	munmap(page, 2 * page_size);
}

TEST_F_TIMEOUT(device, unknown_ioctls, TIMEOUT)
{
	unsigned char argument[256] = {};
	unsigned int nr;

	for (nr = 0; nr < 256; nr++) {
		unsigned long request = _IO(0xB9, nr);

		if (request >= TEST_HMM_MIGRATE_INFO &&
		    request <= TEST_HMM_MIGRATE_CANCEL)
			continue;
		EXPECT_EQ(-ENOTTY, device_ioctl(self->fd, request, argument));
	}
	EXPECT_EQ(-ENOTTY, device_ioctl(self->fd, _IO(0xB8, 0), argument));
	EXPECT_EQ(-ENOTTY, device_ioctl(self->fd, _IOWR(0xB9, 0, int), argument));
}

TEST_F_TIMEOUT(device, bad_ranges, TIMEOUT)
{
	static const unsigned long requests[] = {
		TEST_HMM_MIGRATE_TO_DEVICE, TEST_HMM_MIGRATE_TO_SYSTEM,
	};
	const uint64_t addr = (uintptr_t)self->memory;
	unsigned char *gap = map_pages(1);
	const struct {
		uint64_t addr, length, chunk;
		int error;
	} cases[] = {
		{ addr, 0, 0, -EINVAL },
		{ addr + 1, page_size, 0, -EINVAL },
		{ addr + 512, page_size, 0, -EINVAL },
		{ addr, page_size + 1, 0, -EINVAL },
		{ addr, page_size - 1, 0, -EINVAL },
		{ addr, -page_size, 0, -EINVAL },
		{ addr, -1, 0, -EINVAL },
		{ -page_size, page_size, 0, -EINVAL },
		{ -page_size, 2 * page_size, 0, -EINVAL },
		{ addr, page_size, 1, -EINVAL },
		{ addr, page_size, page_size - 1, -EINVAL },
		{ addr, page_size, (1ULL << 30) + page_size, -EINVAL },
		{ addr, page_size, -page_size, -EINVAL },
		{ 0, page_size, 0, -EFAULT },
		{ (uintptr_t)gap, page_size, 0, -EFAULT },
		{ 1ULL << 63, page_size, 0, -EFAULT },
		{ -2 * page_size, page_size, 0, -EFAULT },
		{ addr, page_size, 1ULL << 30, 0 },
		{ addr, page_size, page_size, 0 },
	};
	unsigned int i, j;

	munmap(gap, page_size);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		for (j = 0; j < ARRAY_SIZE(requests); j++) {
			struct test_hmm_migrate_range range = {
				.size = sizeof(range),
				.addr = cases[i].addr,
				.length = cases[i].length,
				.chunk = cases[i].chunk,
			};

			EXPECT_EQ(cases[i].error,
				  device_ioctl(self->fd, requests[j], &range)) {
				TH_LOG("case %u, request %u", i, j);
			}
		}
	}
	self->range.size = sizeof(self->range);
	EXPECT_EQ(-EINVAL, migrate(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM,
				   self->memory, 1, TEST_HMM_MIGRATE_SKIP_HOLES,
				   &self->range));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

TEST_F_TIMEOUT(device, bad_accesses, TIMEOUT)
{
	struct test_hmm_migrate_access access;
	struct test_hmm_migrate_snapshot argument;
	unsigned char *gap = map_pages(1);
	char buffer[16];

	munmap(gap, page_size);
	EXPECT_EQ(-EINVAL, device_read(self->fd, self->memory, 0, buffer));
	EXPECT_EQ(-EINVAL, device_write(self->fd, self->memory, 0, buffer));
	EXPECT_EQ(-EINVAL, device_read(self->fd, (void *)-8, 16, buffer));
	EXPECT_EQ(-EINVAL, device_read(self->fd, self->memory, -1, buffer));
	EXPECT_EQ(-EFAULT, device_read(self->fd, gap, 1, buffer));
	EXPECT_EQ(-EFAULT, device_write(self->fd, gap, 1, buffer));
	EXPECT_EQ(-EFAULT, device_read(self->fd, NULL, 1, buffer));
	EXPECT_EQ(-EFAULT, device_read(self->fd, (void *)(1UL << 63), 1, buffer));
	EXPECT_EQ(-EFAULT, device_read(self->fd, (void *)-16, 8, buffer));
	EXPECT_EQ(-EINVAL, device_write(self->fd, self->memory, -1, buffer));
	EXPECT_EQ(-EFAULT, access_memory(self->fd, TEST_HMM_MIGRATE_READ,
					 self->memory, 16, gap, &access));
	EXPECT_EQ(0, access.done);
	EXPECT_EQ(-EFAULT, access_memory(self->fd, TEST_HMM_MIGRATE_WRITE,
					 self->memory, 16, gap, &access));
	EXPECT_EQ(0, access.done);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));

	EXPECT_EQ(-EFAULT, snapshot(self->fd, self->memory, 1, (void *)gap));
	EXPECT_EQ(-EINVAL, snapshot(self->fd, self->memory, 0, (void *)buffer));
	EXPECT_EQ(-EINVAL, snapshot(self->fd, self->memory + 1, 1, (void *)buffer));
	EXPECT_EQ(-EFAULT, snapshot(self->fd, (void *)(1UL << 63), 1, (void *)buffer));
	argument = (struct test_hmm_migrate_snapshot) {
		.size = sizeof(argument),
		.addr = (uintptr_t)self->memory,
		.length = page_size / 2,
		.buffer = (uintptr_t)buffer,
	};
	EXPECT_EQ(-EINVAL, device_ioctl(self->fd, TEST_HMM_MIGRATE_SNAPSHOT, &argument));
	EXPECT_EQ(1, pages_at(self->fd, gap, 1, TEST_HMM_MIGRATE_INVALID));
}

TEST_F_TIMEOUT(device, bad_takes, TIMEOUT)
{
	unsigned char *gap = map_pages(1);
	struct test_hmm_migrate_take argument = {
		.size = sizeof(argument),
		.addr = (uintptr_t)self->memory,
		.length = page_size / 2,
	};

	munmap(gap, page_size);
	EXPECT_EQ(-EINVAL, device_ioctl(self->fd, TEST_HMM_MIGRATE_TAKE, &argument));
	EXPECT_EQ(-EINVAL, take(self->fd, self->memory, 0));
	EXPECT_EQ(-EINVAL, take(self->fd, self->memory + 1, 1));
	EXPECT_EQ(-EINVAL, take(self->fd, (void *)-page_size, 1));
	EXPECT_EQ(-EFAULT, take(self->fd, gap, 1));
	EXPECT_EQ(-EFAULT, take(self->fd, (void *)(1UL << 63), 1));
	/* What lies before it is the device's. */
	ASSERT_EQ(0, mprotect(self->memory + page_size, page_size, PROT_READ));
	EXPECT_EQ(-EFAULT, take(self->fd, self->memory, 2));
	EXPECT_EQ(1, pages_at(self->fd, self->memory, PAGES,
			      TEST_HMM_MIGRATE_EXCLUSIVE));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

TEST_F_TIMEOUT(device, bad_injections, TIMEOUT)
{
	const struct test_hmm_migrate_inject cases[] = {
		{ .what = TEST_HMM_MIGRATE_NR_FAIL, .nth = 1, .times = 1 },
		{ .what = -1, .nth = 1, .times = 1 },
		{ .order = TEST_HMM_MIGRATE_MAX_ORDER + 1, .nth = 1, .times = 1 },
		{ .reserved = 1, .nth = 1, .times = 1 },
		{ .nth = 1 },
		{ .times = 1 },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct test_hmm_migrate_inject argument = cases[i];

		argument.size = sizeof(argument);
		EXPECT_EQ(-EINVAL, device_ioctl(self->fd, TEST_HMM_MIGRATE_INJECT,
						&argument)) {
			TH_LOG("case %u", i);
		}
	}
	/* None of them took effect. */
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* Two devices of one kind. */

FIXTURE(two_devices)
{
	int fd[2];
	unsigned char *memory;
	size_t size;
};

FIXTURE_VARIANT(two_devices)
{
	unsigned int first;
	bool private;
};

FIXTURE_VARIANT_ADD(two_devices, private)
{
	.first = 0,
	.private = true,
};

FIXTURE_VARIANT_ADD(two_devices, coherent)
{
	.first = 2,
	.private = false,
};

FIXTURE_SETUP(two_devices)
{
	int i;

	page_size = sysconf(_SC_PAGESIZE);
	self->size = PAGES * page_size;
	for (i = 0; i < 2; i++) {
		self->fd[i] = open_device(variant->first + i);
		if (self->fd[i] < 0 && variant->first + i >= 2)
			SKIP(return, "no two coherent devices, is there Soft Reserved memory?");
		ASSERT_LE(0, self->fd[i]);
		disarm(self->fd[i]);
	}
	self->memory = map_pages(PAGES);
	ASSERT_NE(MAP_FAILED, (void *)self->memory);
	fill(self->memory, self->size, 1);
}

FIXTURE_TEARDOWN(two_devices)
{
	if (self->fd[0] < 0 || self->fd[1] < 0)
		return;
	munmap(self->memory, self->size);
	EXPECT_EQ(0, device_used(self->fd[0], 0));
	EXPECT_EQ(0, device_used(self->fd[1], 0));
	close(self->fd[0]);
	close(self->fd[1]);
}

TEST_F_TIMEOUT(two_devices, in_turn, TIMEOUT)
{
	struct test_hmm_migrate_range range;
	int i;

	for (i = 0; i < 6; i++) {
		int fd = self->fd[i % 2], other = self->fd[(i + 1) % 2];

		ASSERT_EQ(0, to_device(fd, self->memory, PAGES, &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(PAGES, pages_at(fd, self->memory, PAGES,
					  TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_EQ(PAGES, pages_at(other, self->memory, PAGES,
					  TEST_HMM_MIGRATE_OTHER_DEVICE));

		/* The other one's owner is not allowed to take it. */
		ASSERT_EQ(0, to_device(other, self->memory, PAGES, &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
		ASSERT_EQ(0, to_system(other, self->memory, PAGES, &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);

		ASSERT_EQ(0, to_system(fd, self->memory, PAGES, &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	}
}

/* Half of the range on each; each reads and writes all of it. */
TEST_F_TIMEOUT(two_devices, access_each_others_memory, TIMEOUT)
{
	struct test_hmm_migrate_range range;
	unsigned char *buffer = malloc(self->size);
	unsigned long half = PAGES / 2;
	int i;

	ASSERT_NE(NULL, buffer);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, to_device(self->fd[0], self->memory, half, &range));
		ASSERT_EQ(half, range.pages[TEST_HMM_MIGRATE_MOVED]);
		ASSERT_EQ(0, to_device(self->fd[1], self->memory + self->size / 2,
				       half, &range));
		ASSERT_EQ(half, range.pages[TEST_HMM_MIGRATE_MOVED]);

		EXPECT_EQ(0, device_wrong(self->fd[i], self->memory, self->size,
					  i + 1));
		/* Private memory of the other came to the system for that. */
		EXPECT_EQ(variant->private ? half : 0,
			  pages_at(self->fd[i], self->memory, PAGES,
				   TEST_HMM_MIGRATE_SYSTEM));
		fill(buffer, self->size, i + 2);
		ASSERT_EQ(0, device_write(self->fd[i], self->memory, self->size,
					  buffer));
		EXPECT_EQ(0, device_wrong(self->fd[1 - i], self->memory,
					  self->size, i + 2));
		EXPECT_EQ(0, wrong(self->memory, self->size, i + 2));
		ASSERT_EQ(0, to_system(self->fd[0], self->memory, PAGES, &range));
		ASSERT_EQ(0, to_system(self->fd[1], self->memory, PAGES, &range));
	}
	free(buffer);
}

TEST_F_TIMEOUT(two_devices, against_each_other, TIMEOUT)
{
	migrate_against_each_other(_metadata, self->fd[0], self->fd[1],
				   self->memory, PAGES, 0);
}

/* The module goes away under a living process. */

static int load_module(const char *path, const char *parameters)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = syscall(SYS_finit_module, fd, parameters, 0) ? -errno : 0;
	close(fd);
	return ret;
}

/* Somebody else, who looks at new devices for example, may have one open. */
static int unload_module(void)
{
	int ret, tries = 0;

	do {
		ret = syscall(SYS_delete_module, "test_hmm_migrate", O_NONBLOCK);
		if (!ret || errno != EAGAIN)
			break;
		usleep(100000);
	} while (++tries < 50);
	return ret ? -errno : 0;
}

TEST(unload_with_memory_on_the_device)
{
	const char *path = getenv("HMM_MIGRATE_MODULE");
	struct test_hmm_migrate_range range;
	unsigned int device, devices = 0;
	unsigned char *memory;
	int ready[2];
	size_t part;
	pid_t pid;

	if (!path)
		SKIP(return, "HMM_MIGRATE_MODULE does not say where the module is");
	page_size = sysconf(_SC_PAGESIZE);
	part = PAGES * page_size;
	memory = map_pages(TEST_HMM_MIGRATE_MAX_DEVICES * PAGES);
	ASSERT_NE(MAP_FAILED, (void *)memory);
	fill(memory, TEST_HMM_MIGRATE_MAX_DEVICES * part, 1);

	for (device = 0; device < TEST_HMM_MIGRATE_MAX_DEVICES; device++) {
		int fd = open_device(device);

		if (fd < 0)
			continue;
		devices++;
		EXPECT_EQ(0, to_device(fd, memory + device * part, PAGES, &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_MOVED]);
		close(fd);
	}
	ASSERT_LE(2, devices);
	/* A child shares all of it, and looks at it only afterwards. */
	ASSERT_EQ(0, pipe(ready));
	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (!wait_for(ready[0]))
			_exit(1);
		_exit(!!wrong(memory, TEST_HMM_MIGRATE_MAX_DEVICES * part, 1));
	}
	close(ready[0]);
	EXPECT_EQ(0, unload_module());
	EXPECT_TRUE(tell(ready[1]));
	EXPECT_EQ(0, reap(pid));
	close(ready[1]);
	EXPECT_EQ(0, wrong(memory, TEST_HMM_MIGRATE_MAX_DEVICES * part, 1));
	EXPECT_EQ(-EINVAL, load_module(path, "size_mb=3"));
	ASSERT_EQ(0, load_module(path, ""));
	munmap(memory, TEST_HMM_MIGRATE_MAX_DEVICES * part);
}

TEST_HARNESS_MAIN
