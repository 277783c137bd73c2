// SPDX-License-Identifier: GPL-2.0
/*
 * Migration of a range of a process to device memory and back, through the
 * devices of lib/test_hmm_migrate.c. Every test that moves data checks every
 * byte of it. Every test ends with all device memory free again.
 *
 * Environment:
 *   HMM_MIGRATE_TRIPS	how often to repeat the tests that loop (default 1000)
 *   HMM_MIGRATE_MODULE	path of test_hmm_migrate.ko, for the test that unloads it
 *   HMM_MIGRATE_BARE	if set, migrate by the three calls, not by hmm_migrate_range()
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
	/* Some tests have already unmapped all or a part of it, so ignore errors. */
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

/* Migrate the same range again and again, with new contents each time. */
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
	/* At least a part of this range has no page table. */
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

	/* Migrate only one page from the middle back. */
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
	/* The device must not access what its process must not access. */
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

/* The child exits with 0 if it saw seed 1 everywhere, also after its own COW. */
static void child_reads_and_writes(unsigned char *memory, size_t size,
				   int from_parent, int to_parent)
{
	char go;

	if (wrong(memory, size, 1))
		_exit(1);
	if (write(to_parent, "r", 1) != 1 || read(from_parent, &go, 1) != 1)
		_exit(2);
	/* The parent has written by now, which the child must not see. */
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
	/* Close our copies, so that read() fails if the child exits early. */
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

/* A child must not see what the device of its parent writes after the fork. */
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

		/*
		 * Pages that are not yet on the device migrate as pages shared with the
		 * child.
		 */
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
	/* Half of the range migrates before the fork, the other half after it. */
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

	/* Write the last word of every second page. */
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

	/* Write to device memory. */
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(0, device_write(self->fd, self->memory, self->size, buffer));
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, self->size, 2));

	/* Write to system memory. */
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	fill(buffer, self->size, 3);
	ASSERT_EQ(0, device_write(self->fd, self->memory, self->size, buffer));
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, self->size, 3));

	/* Write to both at once, unaligned and across a page boundary. */
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

	/* The range is a hole: the device faults the pages in. */
	memset(buffer, 0xff, self->size);
	ASSERT_EQ(0, access_memory(self->fd, TEST_HMM_MIGRATE_READ, memory,
				   self->size, buffer, &access));
	EXPECT_EQ(self->size, access.done);
	EXPECT_LT(0, access.faults);
	EXPECT_EQ(0, nonzero(buffer, self->size));

	/* The device must see what the CPU has written since, not the zero page. */
	fill(memory, self->size, 4);
	EXPECT_EQ(0, device_wrong(self->fd, memory, self->size, 4));

	/* The second read needs no fault. */
	ASSERT_EQ(0, access_memory(self->fd, TEST_HMM_MIGRATE_READ, memory,
				   self->size, buffer, &access));
	EXPECT_EQ(0, access.faults);

	/* The driver enters the pages that it migrates, so a read needs no fault. */
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
 * After a fork() the device's own memory is read-only, so the device has to fault for
 * a write. Everything behind the first page is not accessible, so the write must end
 * there.
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

/* An open file represents the process that opened it, also when a child uses it. */
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

/* A write by the device makes MADV_FREE pages dirty, so reclaim must keep them. */
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

	/* The same with a write while the pages are in device memory. */
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
	/* Move a part of it back, from the middle. */
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

/* The kernel's count of locked pages, after all CPUs have drained their batches. */
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

/* Wait until @expected more pages than @before are locked; return how many there are. */
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

/*
 * Locked pages that migrate to the device must not stay in Mlocked, nor be counted
 * twice.
 */
TEST_F_TIMEOUT(device, unlocked_on_the_device, TIMEOUT)
{
	long before = locked_pages();

	ASSERT_LE(0, before);
	ASSERT_EQ(0, mlock(self->memory, self->size));
	EXPECT_EQ(PAGES, locked_more(before, PAGES));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, locked_more(before, 0));
	/* Migrate to the device and back. */
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

/* A pinned page stays where it is, and its pinner keeps seeing the same page. */
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

/* Long-term pinning first brings device memory back. */
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
 * The child still has the swap entries, so the pages that are read here stay in the
 * swap cache. They must not migrate: the child would find device memory in the swap
 * cache.
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

/* Pages can be reclaimed once they are unlocked. */
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
		/* A write takes the pages out of the swap cache. */
		fill(self->memory, self->size, 1);
	}
}

/* A page that failed to migrate is put back to the LRU, so reclaim finds it. */
TEST_F_TIMEOUT(device, refused_pages_can_be_reclaimed, TIMEOUT)
{
	struct iovec iov = { .iov_base = self->memory, .iov_len = page_size };
	long swapped = read_key("/proc/self/status", "VmSwap:");
	int fds[2];

	if (!have_swap())
		SKIP(return, "no swap space");
	/*
	 * An extra reference to the first page, but no pin: its migration fails at
	 * unmap.
	 */
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

/*
 * Pages with device-exclusive entries do not migrate until a CPU access removes the
 * entries.
 */
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
	/* On a private device, TAKE first brings the pages back to system memory. */
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

	/* Swap in by reading, which leaves the pages in the swap cache too. */
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, sum_of(&self->range));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));

	/* Swap in by writing, which takes the pages out of the swap cache. */
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

	/* Move the mapping: wrong entries would lose their pages here. */
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

/* Pages of the file stay; the process's private copies migrate. */
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

/* Collapse the huge page of a file whose private mapping has one page on the device. */
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
	/* Map every page, and copy one of them. */
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
		SKIP(return, "cannot allocate a huge page of 2 MiB");
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

/* Snapshot ranges where page tables of some level are missing. */
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

/* Only the contents count here, whether or not the migration splits the huge page. */
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
		SKIP(munmap(area, 2 * size); return, "cannot allocate a huge page");
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
	/* The driver split the folio itself, so it entered the pages. */
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

/* A read fault on an unpopulated huge page maps the huge zero page. */
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
		SKIP(munmap(area, 2 * size); return, "no huge zero page");
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
 * The child shares one half of the range with us and has copied the other half. It is
 * idle during the eviction: after a fault, an eviction could find a page that has
 * just moved and that the fault still holds a reference to, and the kernel would move
 * that page once more.
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

/* Inject a failure of a migration to the device: the pages must stay where they were. */
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

/*
 * For hmm_migrate_range(), a failed copy fails the whole chunk: see
 * hmm_migrate_range.c.
 */
TEST_F_TIMEOUT(device, copy_fails_on_the_way_out, TIMEOUT)
{
	bare = true;
	check_failed(_metadata, self->fd, self->memory,
		     TEST_HMM_MIGRATE_FAIL_COPY,
		     TEST_HMM_MIGRATE_COPY_FAILED);
}

/* A hole that cannot be populated must remain a hole. */
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

/* Make only allocations and copies of large orders fail. */
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

/* If the copy for a CPU fault fails, the fault raises SIGBUS and the contents survive. */
TEST_F_TIMEOUT(device, copy_fails_in_a_cpu_fault, TIMEOUT)
{
	struct sigaction action = { .sa_handler = jump_on_sigbus };
	size_t wrong_words = 0;

	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	ASSERT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(0, sigaction(SIGBUS, &action, NULL));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_COPY, 1, 1));
	/* The CPU reads coherent memory in place. */
	EXPECT_EQ(variant->private, raises_sigbus(self->memory, page_size, 1,
						  &wrong_words));
	EXPECT_EQ(0, wrong_words);
	signal(SIGBUS, SIG_DFL);
	EXPECT_EQ(PAGES, pages_at(self->fd, self->memory, PAGES,
				  TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* If an allocation for a CPU fault fails, the kernel retries until it succeeds. */
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
	/* Read half of it while no open file represents the process. */
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
		/*
		 * Migrate the range that fork() copied, so that parent and child share
		 * it.
		 */
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

/* The process that the file represents is gone. */
TEST_F_TIMEOUT(device, process_is_gone, TIMEOUT)
{
	struct test_hmm_migrate_page page;
	int fd = -1, next = open("/dev/null", O_RDONLY);
	char byte;
	pid_t pid;

	ASSERT_LE(0, next);
	close(next);
	/* The child shares the file table, so its file outlives it. */
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

/* Other threads hold folio locks for a short time. */

/*
 * Migrate a range, half of which another thread holds. hmm_migrate_range() waits, so
 * all pages must move: the test holds them for 0.5 to 40 ms in many rounds, and in at
 * least one round the migration must have met the locks and outlasted them. The three
 * calls do not wait, so in at least one round they must have left the held pages with
 * their contents, and counted them. Pages that are not held must always move.
 */
static void migrate_held(struct __test_metadata *_metadata, int fd,
			 unsigned char *memory, unsigned int flags)
{
	struct test_hmm_migrate_range range;
	unsigned int i, not_held = 0, not_met = 0, too_long = 0;
	bool outlasted = false;
	struct holder holder;

	for (i = 0; i < 200 && !outlasted; i++) {
		long again = read_vmstat("migrate_vma_retried");
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
		/* Pages that are not held must move. */
		EXPECT_LE(PAGES / 2, range.pages[TEST_HMM_MIGRATE_MOVED]);
		held = holder.hold.pages == PAGES / 2;
		all = range.pages[TEST_HMM_MIGRATE_MOVED] == PAGES;
		/*
		 * Some of the held pages may stay if they lie in two chunks: by the time
		 * of the second chunk, the wait for the first one may have used up the
		 * time limit.
		 */
		met = read_vmstat("migrate_vma_retried") > again;
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

/* Pages that are locked for long stay and are counted, and their contents survive. */
TEST_F_TIMEOUT(device, pages_locked_for_long_stay, TIMEOUT)
{
	long locked = read_vmstat("migrate_vma_left_locked");
	struct holder holder;

	ASSERT_LE(0, locked);
	/* hmm_migrate_range() would wait for them. */
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
 * Soft-dirty must survive the trip to the device and back, and must not be set on
 * clean pages.
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
 * userfaultfd's write protection must survive the trip to the device and back, also
 * that of a zero page, which becomes a separate page on the device.
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
 * A write to an exclusive page does not copy it, even if there are other references,
 * here from a pipe. PageAnonExclusive must survive the trip also if the entry is not
 * writable.
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

/* Start a migration and abort it, so that all pages are restored. */
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
 * Young and dirty survive where the entry can carry them: a restored page is as it
 * was before. A write after MADV_FREE marks only the PTE dirty; if the migration lost
 * that bit, reclaim would discard the page.
 */
TEST_F_TIMEOUT(device, young_and_dirty_survive, TIMEOUT)
{
	unsigned char *memory = map_pages(PAGES + 2);
	unsigned long i;

	ASSERT_NE(MAP_FAILED, (void *)memory);
	/* Isolate the mapping, so that it cannot merge with its neighbours. */
	ASSERT_EQ(0, munmap(memory, page_size));
	ASSERT_EQ(0, munmap(memory + (PAGES + 1) * page_size, page_size));
	memory += page_size;
	if (!have_swap())
		SKIP(return, "no swap space");

	fill(memory, PAGES * page_size, 5);
	ASSERT_TRUE(clear_references(CLEAR_REFERENCED));
	ASSERT_EQ(0, smaps_kib(memory, "Referenced:"));
	/*
	 * Clearing did not flush the TLB, but PTEs become young only by a page walk:
	 * flush it.
	 */
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

/* Check arguments: each error must be the one that test_hmm_migrate_uapi.h documents. */

static const struct {
	const char *name;
	unsigned long request;
	size_t size;
	/* The flags that the ioctl accepts. */
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
	/* INJECT has no flags; the word is .what instead. */
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

/* Fill @page, of page_size bytes, with an argument that is valid for @request. */
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
		/* The initial value. */
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
	/* Accesses behind the first page fault. */
	ASSERT_EQ(0, mprotect(page + page_size, page_size, PROT_NONE));

	for (i = 0; i < ARRAY_SIZE(requests); i++) {
		unsigned long request = requests[i].request;
		size_t size = requests[i].size;
		__u32 *first = (__u32 *)page;

		memset(buffer, 0, page_size);
		good_argument(page, request, size, self->memory, buffer);
		EXPECT_EQ(0, device_ioctl(self->fd, request, page));

		/* Not mapped, partly mapped, not writable. */
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

		/* Too small, larger with zeros, larger without zeros, far too large. */
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

		/* Try each flag that is not defined. */
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
	/* The pages before the error stay device-exclusive. */
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
	/* None of the bad injections took effect. */
	ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(PAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* Unload the module while processes still use it. */

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

/* Retry: udev, for example, may have a new device open. */
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
		SKIP(return, "HMM_MIGRATE_MODULE is not set");
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
	/* The child shares all of it, and reads it only after the module is unloaded. */
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

/* A large folio of one order, which migrates whole and is then used in parts. */

FIXTURE(order)
{
	int fd;
	void *area;
	unsigned char *memory;
	unsigned long pages;
	size_t size;
	struct policy policy;
};

FIXTURE_VARIANT(order)
{
	unsigned int device;
	unsigned int order;
};

FIXTURE_VARIANT_ADD(order, private_64k)
{
	.device = 0,
	.order = 4,
};

FIXTURE_VARIANT_ADD(order, private_2m)
{
	.device = 0,
	.order = 9,
};

FIXTURE_VARIANT_ADD(order, coherent_64k)
{
	.device = 2,
	.order = 4,
};

FIXTURE_VARIANT_ADD(order, coherent_2m)
{
	.device = 2,
	.order = 9,
};

FIXTURE_SETUP(order)
{
	page_size = sysconf(_SC_PAGESIZE);
	self->pages = 1UL << variant->order;
	self->size = self->pages * page_size;
	self->fd = open_device(variant->device);
	if (self->fd < 0 && variant->device == 2)
		SKIP(return, "no coherent device, is there Soft Reserved memory?");
	ASSERT_LE(0, self->fd);
	disarm(self->fd);
	ASSERT_EQ(0, set_fault_order(self->fd, TEST_HMM_MIGRATE_MAX_ORDER));
	if (!set_policy(&self->policy, variant->order, "always"))
		SKIP(return, "no folios of this order");
}

FIXTURE_TEARDOWN(order)
{
	restore_policy(&self->policy);
	if (self->fd < 0)
		return;
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

/* Map one folio, filled with seed 1, and migrate it: it must not be split. */
static void order_to_device(struct __test_metadata *_metadata,
			    struct _test_data_order *self, unsigned int order)
{
	struct test_hmm_migrate_range range;
	uintptr_t start;

	self->area = mmap(NULL, 2 * self->size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->area);
	start = ((uintptr_t)self->area + self->size - 1) & ~(self->size - 1);
	self->memory = (unsigned char *)start;
	/* Unmap everything else: a larger folio would have to be mapped there. */
	munmap(self->area, start - (uintptr_t)self->area);
	munmap(self->memory + self->size,
	       (uintptr_t)self->area + self->size - start);
	ASSERT_EQ(0, madvise(self->memory, self->size, MADV_HUGEPAGE));
	fill(self->memory, self->size, 1);
	ASSERT_EQ(self->pages, pages_of_order(self->fd, self->memory, self->pages, order));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     self->pages, TEST_HMM_MIGRATE_LARGE, &range));
	ASSERT_EQ(self->pages, range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(self->pages, pages_at(self->fd, self->memory, self->pages,
					TEST_HMM_MIGRATE_THIS_DEVICE));
	ASSERT_EQ(self->pages, pages_of_order(self->fd, self->memory, self->pages, order));
}

TEST_F_TIMEOUT(order, there_and_back, TIMEOUT)
{
	struct test_hmm_migrate_range range;

	order_to_device(_metadata, self, variant->order);
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, self->size, 1));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
			     self->pages, TEST_HMM_MIGRATE_LARGE, &range));
	EXPECT_EQ(self->pages, range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(self->pages, pages_of_order(self->fd, self->memory, self->pages,
					      variant->order));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	munmap(self->memory, self->size);
}

/* A caller without the flag gets single pages. */
TEST_F_TIMEOUT(order, split_for_a_caller_of_pages, TIMEOUT)
{
	struct test_hmm_migrate_range range;

	order_to_device(_metadata, self, variant->order);
	ASSERT_EQ(0, to_system(self->fd, self->memory, self->pages, &range));
	EXPECT_EQ(self->pages, range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(self->pages, pages_of_order(self->fd, self->memory, self->pages, 0));
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	munmap(self->memory, self->size);
}

/* Operations on @len bytes at @part; each returns 0 or an error. */
typedef int (*order_op)(int fd, unsigned char *part, size_t len);

static int op_munmap(int fd, unsigned char *part, size_t len)
{
	return munmap(part, len);
}

static int op_dontneed(int fd, unsigned char *part, size_t len)
{
	return madvise(part, len, MADV_DONTNEED) || nonzero(part, len);
}

static int op_mprotect(int fd, unsigned char *part, size_t len)
{
	return mprotect(part, len, PROT_READ);
}

static int op_cpu_write(int fd, unsigned char *part, size_t len)
{
	memset(part, 0x5a, len);
	return 0;
}

static int op_device_write(int fd, unsigned char *part, size_t len)
{
	unsigned char *buffer = malloc(len);
	int ret;

	memset(buffer, 0x5a, len);
	ret = device_write(fd, part, len, buffer);
	free(buffer);
	return ret;
}

static int op_fork(int fd, unsigned char *part, size_t len)
{
	pid_t pid = fork_child();

	if (!pid) {
		memset(part, 0xa5, len);
		_exit(0);
	}
	return pid < 0 || reap(pid);
}

/* @byte: contents of the part afterwards; -1: unchanged; -2: not to be checked */
static const struct {
	const char *name;
	order_op op;
	int byte;
} order_ops[] = {
	{ "munmap", op_munmap, -2 },
	{ "MADV_DONTNEED", op_dontneed, 0 },
	{ "mprotect", op_mprotect, -1 },
	{ "write by the CPU", op_cpu_write, 0x5a },
	{ "write by the device", op_device_write, 0x5a },
	{ "fork", op_fork, -1 },
};

/* Apply each operation to all of a folio, to half of it, and to a page in its middle. */
TEST_F_TIMEOUT(order, operations, TIMEOUT)
{
	unsigned int op, part;

	for (op = 0; op < ARRAY_SIZE(order_ops); op++) {
		for (part = 0; part < 3; part++) {
			size_t start = part ? self->size / 2 : 0;
			size_t len = part == 2 ? page_size : self->size - start;
			size_t i, different = 0;
			int byte = order_ops[op].byte;

			order_to_device(_metadata, self, variant->order);
			EXPECT_EQ(0, order_ops[op].op(self->fd, self->memory + start, len));
			EXPECT_EQ(0, wrong_part(self->memory, 0, start, 1));
			EXPECT_EQ(0, wrong_part(self->memory, start + len, self->size, 1));
			if (byte == -1)
				EXPECT_EQ(0, wrong_part(self->memory, start, start + len, 1));
			for (i = start; byte >= 0 && i < start + len; i++)
				different += self->memory[i] != byte;
			EXPECT_EQ(0, different);
			ASSERT_EQ(KSFT_PASS, _metadata->exit_code) {
				TH_LOG("%s, part %u", order_ops[op].name, part);
			}
			munmap(self->memory, self->size);
			ASSERT_EQ(0, device_used(self->fd, 0));
		}
	}
}

TEST_HARNESS_MAIN
