// SPDX-License-Identifier: GPL-2.0
/*
 * Other users of the page tables meet device memory: NUMA balancing, memory policies,
 * madvise(), GUP, fork(), page-fault policies, control groups, and faults from the
 * kernel. Through the devices of lib/test_hmm_migrate.c. Each operation must have the
 * same result for a PMD that maps device memory as for PTEs. Every test that moves data
 * checks every byte of it. Every test ends with all device memory free again.
 *
 * Needs root; for all of the tests also coherent memory, CONFIG_NUMA_BALANCING, a
 * second node with memory, two CPUs, gup_test, userfaultfd, cgroups of version 2, and
 * swap space, which hmm_migrate.sh provides. charge_moving needs memory cgroups of version
 * 1 instead, mounted when the system boots.
 */
#define _GNU_SOURCE
#include "more.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/uio.h>
#include <time.h>

#ifndef MADV_COLD
#define MADV_COLD	20
#endif

#define HUGE_ORDER	TEST_HMM_MIGRATE_MAX_ORDER
#define LARGE_ORDER	4
#define SIZE		(2UL << 20)
#define NPAGES		(SIZE / page_size)

static bool is_setup_right(void)
{
	page_size = sysconf(_SC_PAGESIZE);
	return huge_page_size() == SIZE && SIZE == page_size << HUGE_ORDER;
}

/* Map new memory at @memory, as one huge page or as small ones, and fill it. */
static bool make_memory(unsigned char *memory, bool huge, unsigned long seed)
{
	long huge_kib = huge ? SIZE / 1024 : 0;
	int tries;

	for (tries = 0; tries < 10; tries++) {
		if (mmap(memory, SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != memory ||
		    madvise(memory, SIZE, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
			return false;
		fill(memory, SIZE, seed);
		if (smaps_kib(memory, "AnonHugePages:") == huge_kib)
			return true;
		write_number("/proc/sys/vm/compact_memory", 1);
	}
	return false;
}

/* Number of pages that are on the device and mapped by entries of @order. */
static long mapped_on_device(int fd, void *memory, unsigned int order)
{
	struct test_hmm_migrate_page *pages = calloc(NPAGES, sizeof(*pages));
	unsigned long i;
	long count = -1;

	if (pages && !snapshot(fd, memory, NPAGES, pages))
		for (count = 0, i = 0; i < NPAGES; i++)
			count += pages[i].where == TEST_HMM_MIGRATE_THIS_DEVICE &&
				 pages[i].map_order == order;
	free(pages);
	return count;
}

/* Memory of each kind, mapped by a PMD or by 512 PTEs. */

FIXTURE(others)
{
	int fd;
	void *area;
	unsigned char *memory;
	unsigned int order;
	struct test_hmm_migrate_range range;
};

FIXTURE_VARIANT(others)
{
	unsigned int device;
	bool huge;
};

FIXTURE_VARIANT_ADD(others, private_ptes)
{
	.device = 0,
	.huge = false,
};

FIXTURE_VARIANT_ADD(others, private_pmd)
{
	.device = 0,
	.huge = true,
};

FIXTURE_VARIANT_ADD(others, coherent_ptes)
{
	.device = 2,
	.huge = false,
};

FIXTURE_VARIANT_ADD(others, coherent_pmd)
{
	.device = 2,
	.huge = true,
};

#define SCHED_NUMA	"/sys/kernel/debug/sched/numa_balancing/"
#define NUMA_BALANCING	"/proc/sys/kernel/numa_balancing"

/* With these settings, NUMA balancing scans all memory many times a second. */
static struct {
	const char *path;
	long value;
	long before;
} numa_settings[] = {
	{ SCHED_NUMA "scan_delay_ms", 1, -1 },
	{ SCHED_NUMA "scan_period_min_ms", 10, -1 },
	{ SCHED_NUMA "scan_period_max_ms", 20, -1 },
	{ SCHED_NUMA "scan_size_mb", 256, -1 },
	{ NUMA_BALANCING, 1, -1 },
};

static void restore_numa_settings(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(numa_settings); i++) {
		if (numa_settings[i].before >= 0)
			write_number(numa_settings[i].path, numa_settings[i].before);
		numa_settings[i].before = -1;
	}
}

static void change_numa_settings(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(numa_settings); i++) {
		numa_settings[i].before = read_number(numa_settings[i].path);
		if (numa_settings[i].before >= 0)
			write_number(numa_settings[i].path, numa_settings[i].value);
	}
}

/* Only memory cgroups of version 1 move charges */

/*
 * Find where memory cgroups of version 1 are mounted. The system must mount them at
 * boot: memory that was charged by version 2 cannot be uncharged by version 1.
 */
static bool find_cgroup_v1(char *path, size_t size)
{
	FILE *mounts = fopen("/proc/mounts", "r");
	char line[512], where[128], type[32], options[256];
	bool found = false;

	if (!mounts)
		return false;
	while (!found && fgets(line, sizeof(line), mounts)) {
		if (sscanf(line, "%*s %127s %31s %255s", where, type, options) != 3)
			continue;
		found = !strcmp(type, "cgroup") && strstr(options, "memory");
	}
	fclose(mounts);
	return found && snprintf(path, size, "%s/", where) < (int)size;
}

/*
 * Make a cgroup at @path. A process that enters it moves the charges of its anonymous
 * memory.
 */
static bool make_cgroup_v1(const char *path)
{
	char name[256];

	snprintf(name, sizeof(name), "%smemory.move_charge_at_immigrate", path);
	return !mkdir(path, 0755) && write_number(name, 1);
}

static long pages_charged(const char *cgroup)
{
	char name[256];

	snprintf(name, sizeof(name), "%smemory.usage_in_bytes", cgroup);
	return read_number(name) / page_size;
}

FIXTURE_SETUP(others)
{
	self->fd = -1;
	if (!is_setup_right())
		SKIP(return, "no transparent huge pages of order %u", HUGE_ORDER);
	self->fd = open_device(variant->device);
	if (self->fd < 0 && variant->device >= 2)
		SKIP(return, "no coherent device, is there Soft Reserved memory?");
	ASSERT_LE(0, self->fd);
	disarm(self->fd);
	self->order = variant->huge ? HUGE_ORDER : 0;
	self->area = map_huge_page(SIZE, &self->memory);
	ASSERT_NE(MAP_FAILED, self->area);
	ASSERT_TRUE(make_memory(self->memory, variant->huge, 1));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, NPAGES,
			     variant->huge ? TEST_HMM_MIGRATE_LARGE : 0, &self->range));
	ASSERT_EQ(NPAGES, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	ASSERT_EQ(NPAGES, mapped_on_device(self->fd, self->memory, self->order));
}

FIXTURE_TEARDOWN(others)
{
	restore_numa_settings();
	if (self->fd < 0)
		return;
	if (self->area)
		munmap(self->area, 2 * SIZE);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

/* The number of times that NUMA balancing has scanned all of this process, or -1. */
static long read_scan_sequence(void)
{
	FILE *file = fopen("/proc/self/sched", "r");
	char line[256];
	long value = -1;

	if (!file)
		return -1;
	while (value < 0 && fgets(line, sizeof(line), file))
		if (sscanf(line, "mm->numa_scan_seq : %ld", &value) != 1)
			value = -1;
	fclose(file);
	return value;
}

/*
 * A task scans in proportion to its CPU time, and then waits 32 times as long as the
 * scan took. So there are few scans on a slow machine.
 */
static bool wait_for_scans(long number)
{
	long first = read_scan_sequence();
	time_t end = time(NULL) + TIMEOUT / 3;

	if (first < 0)
		return false;
	while (read_scan_sequence() < first + number)
		if (time(NULL) > end)
			return false;
	return true;
}

/*
 * No node is nearer to device memory, and hinting faults would only bring it back, or
 * stop the device. So the scan must skip it, and writes of the device must leave it
 * on the device.
 */
TEST_F_TIMEOUT(others, numa_balancing, TIMEOUT)
{
	unsigned char *control, *buffer = malloc(SIZE);
	unsigned int round;
	long updates;

	ASSERT_NE(NULL, buffer);
	if (access(NUMA_BALANCING, W_OK))
		SKIP(return, "no NUMA balancing");
	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "no second node");
	if (read_scan_sequence() < 0)
		SKIP(return, "no scan sequence in /proc/self/sched");
	control = map_pages(NPAGES);
	ASSERT_NE(MAP_FAILED, (void *)control);
	fill(control, SIZE, 1);
	updates = read_vmstat("numa_pte_updates");
	change_numa_settings();
	for (round = 0; round < 2; round++) {
		if (!wait_for_scans(round ? 1 : 2))
			SKIP(return, "NUMA balancing does not scan");
		EXPECT_EQ(NPAGES, mapped_on_device(self->fd, self->memory, self->order));
		EXPECT_EQ(NPAGES, writable_pages(self->fd, self->memory, NPAGES));
		fill(buffer, SIZE, round + 2);
		EXPECT_EQ(0, device_write(self->fd, self->memory, SIZE, buffer));
		EXPECT_EQ(NPAGES, mapped_on_device(self->fd, self->memory, self->order));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, round + 2));
	}
	restore_numa_settings();
	/* Ordinary memory was scanned, so the test was able to fail. */
	EXPECT_LT(updates, read_vmstat("numa_pte_updates"));
	EXPECT_EQ(0, wrong(self->memory, SIZE, round + 1));
	EXPECT_EQ(0, wrong(control, SIZE, 1));
	munmap(control, SIZE);
	free(buffer);
}

/*
 * A policy applies to memory that can be on several nodes, so device memory is no
 * error here.
 */
TEST_F_TIMEOUT(others, mbind_strict, TIMEOUT)
{
	unsigned int flags, node;

	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "no second node");
	for (node = 0; node < 2; node++) {
		unsigned long mask = 1UL << node;

		for (flags = 0; flags <= (MPOL_MF_STRICT | MPOL_MF_MOVE); flags++) {
			EXPECT_EQ(0, syscall(SYS_mbind, self->memory, SIZE, MPOL_BIND,
					     &mask, 8 * sizeof(mask), flags)) {
				TH_LOG("node %u, flags %u, errno %d", node, flags, errno);
			}
			EXPECT_EQ(NPAGES, mapped_on_device(self->fd, self->memory,
							   self->order));
		}
	}
	EXPECT_EQ(NPAGES, writable_pages(self->fd, self->memory, NPAGES));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	EXPECT_EQ(0, syscall(SYS_mbind, self->memory, SIZE, MPOL_DEFAULT, NULL, 0, 0));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

TEST_F_TIMEOUT(others, migrate_pages, TIMEOUT)
{
	unsigned int node;

	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "no second node");
	for (node = 0; node < 2; node++) {
		unsigned long from = 1UL << node, to = 1UL << !node;

		EXPECT_LE(0, syscall(SYS_migrate_pages, 0, 8 * sizeof(from), &from, &to));
		EXPECT_EQ(NPAGES, mapped_on_device(self->fd, self->memory, self->order));
	}
	EXPECT_EQ(NPAGES, writable_pages(self->fd, self->memory, NPAGES));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* Reclaim does not know device memory, so advice about reclaim changes none of these. */
static const char * const advice_keys[] = {
	"Rss:", "Referenced:", "Private_Clean:", "Private_Dirty:", "Anonymous:",
	"LazyFree:", "AnonHugePages:", "Swap:",
};

static void read_advice_keys(const void *memory, long *values)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(advice_keys); i++)
		values[i] = smaps_kib(memory, advice_keys[i]);
}

/*
 * With page tables, the advice skips device memory: PTEs stay young and dirty, and no
 * contents are discarded. With a PMD it must do the same.
 */
static void take_advice(struct __test_metadata *_metadata, int fd, unsigned char *memory,
			unsigned int order, int advice)
{
	long before[ARRAY_SIZE(advice_keys)], after[ARRAY_SIZE(advice_keys)];
	unsigned int i;

	read_advice_keys(memory, before);
	EXPECT_EQ(0, madvise(memory, SIZE, advice));
	read_advice_keys(memory, after);
	for (i = 0; i < ARRAY_SIZE(advice_keys); i++) {
		EXPECT_EQ(before[i], after[i]) {
			TH_LOG("%s was %ld and is %ld", advice_keys[i], before[i], after[i]);
		}
	}
	EXPECT_EQ(NPAGES, mapped_on_device(fd, memory, order));
	EXPECT_EQ(NPAGES, writable_pages(fd, memory, NPAGES));
	EXPECT_EQ(0, device_wrong(fd, memory, SIZE, 1));

	/* Advice for a part may split the PMD; everything else must be the same. */
	EXPECT_EQ(0, madvise(memory + SIZE / 4, SIZE / 2, advice));
	EXPECT_EQ(NPAGES, pages_at(fd, memory, NPAGES, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(before[1], smaps_kib(memory, "Referenced:"));
	EXPECT_EQ(before[3], smaps_kib(memory, "Private_Dirty:"));
	EXPECT_EQ(0, device_wrong(fd, memory, SIZE, 1));
}

/* Neither the migration back nor the swap may discard the contents. */
static void expect_kept(struct __test_metadata *_metadata, int fd, unsigned char *memory,
			struct test_hmm_migrate_range *range)
{
	ASSERT_EQ(0, migrate(fd, TEST_HMM_MIGRATE_TO_SYSTEM, memory, NPAGES,
			     TEST_HMM_MIGRATE_LARGE, range));
	EXPECT_EQ(NPAGES, range->pages[TEST_HMM_MIGRATE_MOVED]);
	if (have_swap())
		EXPECT_EQ(0, madvise(memory, SIZE, MADV_PAGEOUT));
	EXPECT_EQ(0, wrong(memory, SIZE, 1));
}

TEST_F_TIMEOUT(others, madv_cold, TIMEOUT)
{
	take_advice(_metadata, self->fd, self->memory, self->order, MADV_COLD);
	expect_kept(_metadata, self->fd, self->memory, &self->range);
}

TEST_F_TIMEOUT(others, madv_pageout, TIMEOUT)
{
	take_advice(_metadata, self->fd, self->memory, self->order, MADV_PAGEOUT);
	expect_kept(_metadata, self->fd, self->memory, &self->range);
}

TEST_F_TIMEOUT(others, madv_free, TIMEOUT)
{
	take_advice(_metadata, self->fd, self->memory, self->order, MADV_FREE);
	expect_kept(_metadata, self->fd, self->memory, &self->range);
}

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

/* Memory is on a device by choice, so a few such pages are not brought back for a THP. */
TEST_F_TIMEOUT(others, madv_collapse, TIMEOUT)
{
	const unsigned long few = variant->huge ? NPAGES : 16;

	if (!variant->huge)
		ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM,
				     self->memory + few * page_size, NPAGES - few, 0,
				     &self->range));
	ASSERT_EQ(0, madvise(self->memory, SIZE, MADV_HUGEPAGE));
	/* Memory that a PMD maps is a THP already. */
	EXPECT_EQ(variant->huge ? 0 : -1, madvise(self->memory, SIZE, MADV_COLLAPSE));
	EXPECT_EQ(few, mapped_on_device(self->fd, self->memory, self->order));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, few * page_size, 1));
	EXPECT_EQ(few, mapped_on_device(self->fd, self->memory, self->order));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

TEST_F_TIMEOUT(others, mprotect, TIMEOUT)
{
	unsigned char byte;

	ASSERT_EQ(0, mprotect(self->memory, SIZE, PROT_NONE));
	EXPECT_EQ(-EFAULT, device_read(self->fd, self->memory, 1, &byte));
	ASSERT_EQ(0, mprotect(self->memory, SIZE, PROT_READ));
	EXPECT_EQ(NPAGES, mapped_on_device(self->fd, self->memory, self->order));
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, NPAGES));
	EXPECT_EQ(-EPERM, device_write(self->fd, self->memory, 1, "x"));
	ASSERT_EQ(0, mprotect(self->memory, SIZE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(NPAGES, mapped_on_device(self->fd, self->memory, self->order));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	fill(self->memory, SIZE, 2);
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 2));
}

/*
 * With memory cgroups of version 1, the charge of memory that the CPU can address
 * moves along, and the charge of private memory stays. That must not depend on PMD or
 * PTE mappings.
 */
TEST_F_TIMEOUT(others, charge_moving, TIMEOUT)
{
	const long expected = variant->device >= 2 ? 2 * NPAGES : NPAGES, slack = NPAGES / 2;
	char root[160], from[192], to[192];
	unsigned char *ordinary;
	long before, charged;

	if (!find_cgroup_v1(root, sizeof(root)))
		SKIP(return, "no memory cgroups of version 1");
	snprintf(from, sizeof(from), "%shmm_migrate_from/", root);
	snprintf(to, sizeof(to), "%shmm_migrate_to/", root);
	ASSERT_TRUE(make_cgroup_v1(from) && make_cgroup_v1(to));
	ASSERT_TRUE(enter_cgroup(from));
	ASSERT_TRUE(make_memory(self->memory, variant->huge, 1));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, NPAGES,
			     variant->huge ? TEST_HMM_MIGRATE_LARGE : 0, &self->range));
	ASSERT_EQ(NPAGES, mapped_on_device(self->fd, self->memory, self->order));
	ordinary = map_pages(NPAGES);
	ASSERT_NE(MAP_FAILED, (void *)ordinary);
	fill(ordinary, SIZE, 2);

	before = pages_charged(to);
	ASSERT_TRUE(enter_cgroup(to));
	/* The kernel charges in batches, for each CPU. */
	charged = pages_charged(to) - before;
	EXPECT_GT(slack, labs(charged - expected)) {
		TH_LOG("the charge of %ld pages was moved, expected %ld", charged, expected);
	}
	EXPECT_EQ(NPAGES, mapped_on_device(self->fd, self->memory, self->order));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(ordinary, SIZE, 2));
	/* The charge must be given back in either cgroup. */
	ASSERT_EQ(0, munmap(self->memory, SIZE));
	ASSERT_EQ(0, munmap(ordinary, SIZE));
	EXPECT_GT(slack, pages_charged(from));
	EXPECT_GT(slack, pages_charged(to));
	EXPECT_TRUE(enter_cgroup(root));
	EXPECT_EQ(0, rmdir(from));
	EXPECT_EQ(0, rmdir(to));
}

/* A large folio mapped in two pieces, with other memory in between */

FIXTURE(pieces)
{
	int fd;
	void *area;
	unsigned char *memory;
	struct policy policy;
	struct policy huge;
	struct test_hmm_migrate_range range;
};

FIXTURE_VARIANT(pieces)
{
	unsigned int device;
	unsigned int order;
};

FIXTURE_VARIANT_ADD(pieces, private_64k)
{
	.device = 0,
	.order = LARGE_ORDER,
};

FIXTURE_VARIANT_ADD(pieces, private_2m)
{
	.device = 0,
	.order = HUGE_ORDER,
};

FIXTURE_VARIANT_ADD(pieces, coherent_64k)
{
	.device = 2,
	.order = LARGE_ORDER,
};

FIXTURE_VARIANT_ADD(pieces, coherent_2m)
{
	.device = 2,
	.order = HUGE_ORDER,
};

FIXTURE_SETUP(pieces)
{
	self->fd = -1;
	if (!is_setup_right())
		SKIP(return, "no transparent huge pages of order %u", HUGE_ORDER);
	/*
	 * The memory between the pieces may merge with them into one vma: avoid a
	 * huge page of both.
	 */
	if (!set_policy(&self->huge, HUGE_ORDER, "never") ||
	    !set_policy(&self->policy, variant->order, "madvise"))
		SKIP(return, "no folios of order %u", variant->order);
	self->fd = open_device(variant->device);
	if (self->fd < 0 && variant->device >= 2)
		SKIP(return, "no coherent device, is there Soft Reserved memory?");
	ASSERT_LE(0, self->fd);
	disarm(self->fd);
	/* The area has room for all pieces, which are moved here. */
	self->area = map_huge_page(2 * SIZE, &self->memory);
	ASSERT_NE(MAP_FAILED, self->area);
}

FIXTURE_TEARDOWN(pieces)
{
	restore_policy(&self->policy);
	restore_policy(&self->huge);
	if (self->fd < 0)
		return;
	if (self->area)
		munmap(self->area, 4 * SIZE);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

/*
 * Whether the memory at @memory ends up as: the first half of a device folio, other
 * memory of half that size filled with seed 2, and the second half of the folio. The
 * folio has seed 1.
 */
static bool make_pieces(int fd, unsigned char *memory, unsigned int order)
{
	const int prot = PROT_READ | PROT_WRITE;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	size_t size = page_size << order, half = size / 2;
	struct test_hmm_migrate_range range;
	struct test_hmm_migrate_page page;
	void *second = memory + size;

	if (mmap(memory, size, prot, flags, -1, 0) != memory ||
	    madvise(memory, size, MADV_HUGEPAGE))
		return false;
	fill(memory, size, 1);
	if (migrate(fd, TEST_HMM_MIGRATE_TO_DEVICE, memory, size / page_size,
		    TEST_HMM_MIGRATE_LARGE, &range) ||
	    snapshot(fd, memory + half, 1, &page) ||
	    page.where != TEST_HMM_MIGRATE_THIS_DEVICE || page.folio_order != order)
		return false;
	if (mremap(memory + half, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, second) != second ||
	    mmap(memory + half, half, prot, flags, -1, 0) != memory + half)
		return false;
	fill(memory + half, half, 2);
	return true;
}

/* Number of wrong words in a buffer, or in the memory itself. */
static size_t wrong_in_pieces(const unsigned char *memory, size_t half)
{
	return wrong(memory, half, 1) + wrong(memory + half, half, 2) +
	       wrong_part(memory + half, half, 2 * half, 1);
}

/*
 * A pin must affect only the pages of its range, wherever other pages of the folios
 * are mapped.
 */
TEST_F_TIMEOUT(pieces, pin, TIMEOUT)
{
	size_t half = (page_size << variant->order) / 2;
	unsigned char *buffer = malloc(3 * half);
	int gup, write;

	ASSERT_NE(NULL, buffer);
	if (!can_pin())
		SKIP(return, "no gup_test, is debugfs mounted?");
	for (write = 0; write < 2; write++) {
		ASSERT_TRUE(make_pieces(self->fd, self->memory, variant->order));
		gup = pin(self->memory, 3 * half,
			  write ? PIN_LONGTERM_TEST_FLAG_USE_WRITE : 0);
		ASSERT_LE(0, gup) {
			TH_LOG("write %d", write);
		}
		EXPECT_EQ(0, device_used(self->fd, 0));
		memset(buffer, 0, 3 * half);
		EXPECT_EQ(0, read_pinned(gup, buffer));
		EXPECT_EQ(0, wrong_in_pieces(buffer, half));
		close(gup);
		EXPECT_EQ(0, wrong_in_pieces(self->memory, half));
	}
	free(buffer);
}

/*
 * A fault brings back the part of the folio that its own vma maps, and not its
 * neighbours.
 */
TEST_F_TIMEOUT(pieces, fault, TIMEOUT)
{
	size_t half = (page_size << variant->order) / 2;
	unsigned int i;

	for (i = 0; i < 4; i++) {
		size_t offset = i % 2 ? 2 * half : 0;
		/* Atomic, so that the compiler does not optimize both writes away. */
		atomic_uchar *byte = (atomic_uchar *)self->memory + offset + half / 2;

		ASSERT_TRUE(make_pieces(self->fd, self->memory, variant->order));
		if (i & 2) {
			ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					     self->memory + half, half / page_size, 0,
					     &self->range));
			ASSERT_EQ(half / page_size,
				  self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		}
		/* Write to one page of a piece, and check where the other pages are. */
		*byte ^= 1;
		*byte ^= 1;
		if (i & 2)
			EXPECT_EQ(half / page_size,
				  pages_at(self->fd, self->memory + half, half / page_size,
					   TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_EQ(0, wrong_in_pieces(self->memory, half));
	}
}

/* Migrate the pieces back and forth, and access them by the CPU. */
TEST_F_TIMEOUT(pieces, trip, TIMEOUT)
{
	size_t half = (page_size << variant->order) / 2;
	unsigned long npages = 3 * half / page_size;

	ASSERT_TRUE(make_pieces(self->fd, self->memory, variant->order));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory, npages,
			     TEST_HMM_MIGRATE_LARGE, &self->range));
	EXPECT_EQ(0, wrong_in_pieces(self->memory, half));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages,
			     TEST_HMM_MIGRATE_LARGE, &self->range));
	EXPECT_EQ(npages, pages_at(self->fd, self->memory, npages,
				   TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong_in_pieces(self->memory, half));
}

/* fork() while a device has memory exclusively, and its folio is locked. */

FIXTURE(exclusive)
{
	int fd;
	void *area;
	unsigned char *memory;
	size_t size;
	struct policy policies[2];
};

FIXTURE_VARIANT(exclusive)
{
	unsigned int order;
	/*
	 * Number of pages that are held. For a large folio, only the first one is
	 * held.
	 */
	unsigned long held;
};

FIXTURE_VARIANT_ADD(exclusive, 4k)
{
	.order = 0,
	.held = 1,
};

FIXTURE_VARIANT_ADD(exclusive, several_4k)
{
	.order = 0,
	.held = 16,
};

FIXTURE_VARIANT_ADD(exclusive, 64k)
{
	.order = LARGE_ORDER,
	.held = 1,
};

FIXTURE_VARIANT_ADD(exclusive, 2m)
{
	.order = HUGE_ORDER,
	.held = 1,
};

FIXTURE_SETUP(exclusive)
{
	self->fd = -1;
	if (!is_setup_right())
		SKIP(return, "no transparent huge pages of order %u", HUGE_ORDER);
	self->fd = open_device(0);
	ASSERT_LE(0, self->fd);
	/* Use folios of LARGE_ORDER for the variant, and no larger ones. */
	if (variant->order == LARGE_ORDER &&
	    (!set_policy(&self->policies[0], LARGE_ORDER, "madvise") ||
	     !set_policy(&self->policies[1], HUGE_ORDER, "never")))
		SKIP(return, "no folios of order %u", LARGE_ORDER);
	self->size = page_size << (variant->order ?: LARGE_ORDER);
	self->area = map_huge_page(SIZE, &self->memory);
	ASSERT_NE(MAP_FAILED, self->area);
	if (!variant->order)
		ASSERT_EQ(0, madvise(self->memory, SIZE, MADV_NOHUGEPAGE));
	fill(self->memory, self->size, 1);
}

FIXTURE_TEARDOWN(exclusive)
{
	restore_policy(&self->policies[0]);
	restore_policy(&self->policies[1]);
	if (self->area)
		munmap(self->area, 2 * SIZE);
	close(self->fd);
}

/* After fork(), neither process may see writes of the other one. */
TEST_F_TIMEOUT(exclusive, fork, TIMEOUT)
{
	struct test_hmm_migrate_page page;
	struct holder holder;
	int round;

	ASSERT_EQ(0, snapshot(self->fd, self->memory, 1, &page));
	ASSERT_EQ(variant->order, page.folio_order);
	for (round = 0; round < 3; round++) {
		int go[2], written[2];
		pid_t pid;

		fill(self->memory, self->size, 1);
		ASSERT_EQ(0, pipe(go));
		ASSERT_EQ(0, pipe(written));
		ASSERT_TRUE(start_holder(&holder, self->fd, TEST_HMM_MIGRATE_HOLD_TAKEN,
					 self->memory, variant->held, 500000));
		EXPECT_EQ(variant->held, pages_at(self->fd, self->memory, variant->held,
						  TEST_HMM_MIGRATE_EXCLUSIVE));
		pid = fork_child();
		if (!pid) {
			if (!wait_for(go[0]) || wrong(self->memory, self->size, 1))
				_exit(1);
			fill(self->memory, self->size, 3);
			if (!tell(written[1]) || !wait_for(go[0]))
				_exit(2);
			_exit(!!wrong(self->memory, self->size, 3));
		}
		EXPECT_LE(0, pid) {
			TH_LOG("fork: errno %d", errno);
		}
		if (pid > 0) {
			fill(self->memory, self->size, 2);
			EXPECT_TRUE(tell(go[1]));
			EXPECT_TRUE(wait_for(written[0]));
			EXPECT_EQ(0, wrong(self->memory, self->size, 2));
			fill(self->memory, self->size, 4);
			EXPECT_TRUE(tell(go[1]));
			EXPECT_EQ(0, reap(pid));
			EXPECT_EQ(0, wrong(self->memory, self->size, 4));
		}
		pthread_join(holder.thread, NULL);
		EXPECT_EQ(0, holder.ret);
		EXPECT_EQ(variant->held, holder.hold.pages);
		close(go[0]);
		close(go[1]);
		close(written[0]);
		close(written[1]);
	}
}

/* A fault from the kernel waits for a lock whose holder needs the same CPU. */

#define RT_RUNTIME	"/proc/sys/kernel/sched_rt_runtime_us"
#define FIFO_SIZE	(4UL << 20)
#define FIFO_SECONDS	5
/* Longer than any lock is held here, and less than the fair server's period. */
#define FIFO_WORST	0.5
#define FIFO_STUCK	5

FIXTURE(fifo)
{
	int fd;
	int other;
	unsigned char *memory;
	long runtime;
};

FIXTURE_VARIANT(fifo)
{
	/*
	 * Read by a second device with hmm_range_fault(), or else by
	 * process_vm_readv().
	 */
	bool device;
};

FIXTURE_VARIANT_ADD(fifo, gup)
{
	.device = false,
};

FIXTURE_VARIANT_ADD(fifo, device)
{
	.device = true,
};

FIXTURE_SETUP(fifo)
{
	self->runtime = 0;
	page_size = sysconf(_SC_PAGESIZE);
	self->fd = open_device(0);
	ASSERT_LE(0, self->fd);
	self->other = open_device(1);
	ASSERT_LE(0, self->other);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "one CPU");
	disarm(self->fd);
	self->memory = map_pages(FIFO_SIZE / page_size);
	ASSERT_NE(MAP_FAILED, (void *)self->memory);
	fill(self->memory, FIFO_SIZE, 1);
	self->runtime = read_number(RT_RUNTIME);
	if (!write_number(RT_RUNTIME, -1))
		SKIP(return, "no " RT_RUNTIME);
}

FIXTURE_TEARDOWN(fifo)
{
	if (self->runtime)
		write_number(RT_RUNTIME, self->runtime);
	if (self->memory)
		munmap(self->memory, FIFO_SIZE);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
	close(self->other);
}

struct fifo {
	int fd;
	int other;
	bool device;
	unsigned char *memory;
	atomic_bool stop;
	/* When the current read began, in microseconds; 0 between reads. */
	atomic_long began;
	atomic_long worst;
	unsigned long reads;
	unsigned long errors;
	unsigned long rounds;
};

static long now_us(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

static bool use_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return !sched_setaffinity(0, sizeof(set), &set);
}

static void *evict_again_and_again(void *data)
{
	struct test_hmm_migrate_range range;
	struct test_hmm_migrate_evict argument;
	struct fifo *fifo = data;

	fifo->errors += !use_cpu(0);
	while (!fifo->stop) {
		fifo->errors += !!to_device(fifo->fd, fifo->memory,
					    FIFO_SIZE / page_size, &range);
		fifo->errors += !!evict(fifo->fd, &argument);
		fifo->rounds++;
	}
	return NULL;
}

static bool read_a_word(struct fifo *fifo, size_t offset)
{
	void *from = fifo->memory + offset;
	uint64_t word = 0;
	struct iovec local = { .iov_base = &word, .iov_len = sizeof(word) };
	struct iovec remote = { .iov_base = from, .iov_len = sizeof(word) };

	if (fifo->device) {
		if (device_read(fifo->other, from, sizeof(word), &word))
			return false;
	} else if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != sizeof(word)) {
		return false;
	}
	return word == pattern(1, offset);
}

static void *read_in_a_hurry(void *data)
{
	struct sched_param param = { .sched_priority = 10 };
	struct fifo *fifo = data;
	unsigned int seed = 1;
	size_t offset;
	long took;

	fifo->errors += !use_cpu(0) || sched_setscheduler(0, SCHED_FIFO, &param);
	while (!fifo->stop) {
		usleep(500 + rand_r(&seed) % 20000);
		offset = rand_r(&seed) % (FIFO_SIZE / page_size) * page_size;
		fifo->began = now_us();
		fifo->errors += !read_a_word(fifo, offset);
		took = now_us() - fifo->began;
		if (took > fifo->worst)
			fifo->worst = took;
		fifo->began = 0;
		fifo->reads++;
	}
	return NULL;
}

/*
 * The reader has to sleep until the lock is free, so that the evictor gets the CPU. A
 * reader that retries without sleeping keeps the CPU until the fair server runs.
 */
TEST_F_TIMEOUT(fifo, locked_page, TIMEOUT)
{
	struct fifo fifo = {
		.fd = self->fd,
		.other = self->other,
		.device = variant->device,
		.memory = self->memory,
	};
	struct sched_param normal = {}, above = { .sched_priority = 20 };
	long end = now_us() + FIFO_SECONDS * 1000000L, began;
	pthread_t evictor, reader;

	ASSERT_EQ(0, pthread_create(&evictor, NULL, evict_again_and_again, &fifo));
	ASSERT_TRUE(use_cpu(1));
	ASSERT_EQ(0, sched_setscheduler(0, SCHED_FIFO, &above));
	ASSERT_EQ(0, pthread_create(&reader, NULL, read_in_a_hurry, &fifo));
	while (now_us() < end) {
		usleep(10000);
		began = fifo.began;
		if (!began || now_us() - began < FIFO_STUCK * 1000000L)
			continue;
		/* Without a fair server, the reader would run for ever. */
		pthread_setschedparam(reader, SCHED_OTHER, &normal);
		break;
	}
	fifo.stop = true;
	pthread_join(reader, NULL);
	pthread_join(evictor, NULL);
	sched_setscheduler(0, SCHED_OTHER, &normal);
	TH_LOG("%lu reads, %lu rounds, the worst read took %ld us", fifo.reads, fifo.rounds,
	       (long)fifo.worst);
	EXPECT_EQ(0, fifo.errors);
	EXPECT_LT(0, fifo.reads);
	EXPECT_LT(0, fifo.rounds);
	EXPECT_GT(FIFO_WORST * 1000000, fifo.worst);
	EXPECT_EQ(0, wrong(self->memory, FIFO_SIZE, 1));
}

/* A hole is filled only where a fault would fill it, and with the same kind of folio */

FIXTURE(holes)
{
	int fd;
	void *area;
	unsigned char *memory;
	struct policy large;
	struct policy huge;
	struct test_hmm_migrate_range range;
};

FIXTURE_VARIANT(holes)
{
	unsigned int device;
	/* Use the three calls, or hmm_migrate_range(). */
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(holes, private)
{
	.device = 0,
	.flags = 0,
};

FIXTURE_VARIANT_ADD(holes, coherent)
{
	.device = 2,
	.flags = 0,
};

FIXTURE_VARIANT_ADD(holes, private_bare)
{
	.device = 0,
	.flags = TEST_HMM_MIGRATE_BARE,
};

FIXTURE_VARIANT_ADD(holes, coherent_bare)
{
	.device = 2,
	.flags = TEST_HMM_MIGRATE_BARE,
};

FIXTURE_SETUP(holes)
{
	self->fd = -1;
	if (!is_setup_right())
		SKIP(return, "no transparent huge pages of order %u", HUGE_ORDER);
	if (!set_policy(&self->large, LARGE_ORDER, "never") ||
	    !set_policy(&self->huge, HUGE_ORDER, "never"))
		SKIP(return, "no folios of order %u", LARGE_ORDER);
	self->fd = open_device(variant->device);
	if (self->fd < 0 && variant->device >= 2)
		SKIP(return, "no coherent device, is there Soft Reserved memory?");
	ASSERT_LE(0, self->fd);
	disarm(self->fd);
	self->area = map_huge_page(SIZE, &self->memory);
	ASSERT_NE(MAP_FAILED, self->area);
}

FIXTURE_TEARDOWN(holes)
{
	restore_policy(&self->large);
	restore_policy(&self->huge);
	if (self->fd < 0)
		return;
	if (self->area)
		munmap(self->area, 2 * SIZE);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

/* Map a new hole. With MADV_NORMAL the vma has no advice for huge pages. */
static bool map_hole(unsigned char *memory, int prot, int advice)
{
	return mmap(memory, SIZE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		    -1, 0) == memory &&
	       (advice == MADV_NORMAL || !madvise(memory, SIZE, advice));
}

static int fill_holes(int fd, void *memory, unsigned int flags, unsigned int order,
		      struct test_hmm_migrate_range *range)
{
	memset(range, 0, sizeof(*range));
	range->size = sizeof(*range);
	range->flags = TEST_HMM_MIGRATE_LARGE | flags;
	range->addr = (uintptr_t)memory;
	range->length = SIZE;
	range->hole_order = order;
	return device_ioctl(fd, TEST_HMM_MIGRATE_TO_DEVICE, range);
}

/* Number of pages that are on the device in folios of @order. */
static long in_folios(int fd, void *memory, unsigned int order)
{
	struct test_hmm_migrate_page *pages = calloc(NPAGES, sizeof(*pages));
	unsigned long i;
	long count = -1;

	if (pages && !snapshot(fd, memory, NPAGES, pages))
		for (count = 0, i = 0; i < NPAGES; i++)
			count += pages[i].where == TEST_HMM_MIGRATE_THIS_DEVICE &&
				 pages[i].folio_order == order;
	free(pages);
	return count;
}

static const unsigned int orders[] = { 0, LARGE_ORDER, HUGE_ORDER };

/* Let the policies allow only folios of @order, with MADV_HUGEPAGE. */
static bool allow_only(struct policy *large, struct policy *huge, unsigned int order)
{
	return set_policy(large, LARGE_ORDER, order == LARGE_ORDER ? "madvise" : "never") &&
	       set_policy(huge, HUGE_ORDER, order == HUGE_ORDER ? "madvise" : "never");
}

/*
 * Memory that is only reserved, for example for malloc() arenas, must not be
 * populated.
 */
TEST_F_TIMEOUT(holes, prot_none, TIMEOUT)
{
	bool in_cgroup = make_cgroup();
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		long anon;

		ASSERT_TRUE(allow_only(&self->large, &self->huge, orders[i]));
		ASSERT_TRUE(map_hole(self->memory, PROT_NONE, MADV_HUGEPAGE));
		anon = read_key(MEMCG "memory.stat", "anon");
		ASSERT_EQ(0, fill_holes(self->fd, self->memory, variant->flags,
					orders[i] == LARGE_ORDER ? LARGE_ORDER : 0,
					&self->range));
		EXPECT_EQ(NPAGES, sum_of(&self->range));
		EXPECT_EQ(0, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
		EXPECT_EQ(0, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, smaps_kib(self->memory, "Rss:"));
		EXPECT_EQ(0, device_used(self->fd, 0));
		if (in_cgroup)
			EXPECT_GT(SIZE / 2, labs(read_key(MEMCG "memory.stat", "anon") - anon));
		ASSERT_EQ(0, mprotect(self->memory, SIZE, PROT_READ | PROT_WRITE));
		EXPECT_EQ(NPAGES, pages_at(self->fd, self->memory, NPAGES,
					   TEST_HMM_MIGRATE_NONE));
		EXPECT_EQ(0, nonzero(self->memory, SIZE));
	}
	if (in_cgroup) {
		EXPECT_TRUE(enter_cgroup(CGROUPS));
		munmap(self->memory, SIZE);
		EXPECT_EQ(0, rmdir(MEMCG));
	}
}

/* The same in the middle of a range. */
TEST_F_TIMEOUT(holes, prot_none_in_between, TIMEOUT)
{
	const unsigned long reserved = NPAGES / 2;

	ASSERT_TRUE(map_hole(self->memory, PROT_READ | PROT_WRITE, MADV_HUGEPAGE));
	ASSERT_EQ(0, mprotect(self->memory + SIZE / 4, SIZE / 2, PROT_NONE));
	ASSERT_EQ(0, fill_holes(self->fd, self->memory, variant->flags, 0, &self->range));
	EXPECT_EQ(NPAGES, sum_of(&self->range));
	EXPECT_EQ(NPAGES - reserved, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(NPAGES - reserved, device_used(self->fd, NPAGES - reserved));
	ASSERT_EQ(0, mprotect(self->memory + SIZE / 4, SIZE / 2, PROT_READ | PROT_WRITE));
	EXPECT_EQ(reserved, pages_at(self->fd, self->memory + SIZE / 4, reserved,
				     TEST_HMM_MIGRATE_NONE));
	EXPECT_EQ(0, nonzero(self->memory, SIZE));
}

/* A read fault populates a read-only vma, so migration does so, too. */
TEST_F_TIMEOUT(holes, read_only, TIMEOUT)
{
	ASSERT_TRUE(map_hole(self->memory, PROT_READ, MADV_HUGEPAGE));
	ASSERT_EQ(0, fill_holes(self->fd, self->memory, variant->flags, 0, &self->range));
	EXPECT_EQ(NPAGES, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, NPAGES));
	EXPECT_EQ(0, nonzero(self->memory, SIZE));
}

/*
 * No folio of LARGE_ORDER may fill a hole where a fault would not make one.
 * hmm_migrate_range() uses small pages there; the three calls may also refuse a folio
 * that is too large.
 */
static void expect_small(struct __test_metadata *_metadata, int fd, void *memory,
			 unsigned int flags, struct test_hmm_migrate_range *range)
{
	ASSERT_EQ(0, fill_holes(fd, memory, flags, LARGE_ORDER, range));
	EXPECT_EQ(NPAGES, sum_of(range));
	EXPECT_EQ(0, in_folios(fd, memory, LARGE_ORDER));
	EXPECT_EQ(range->pages[TEST_HMM_MIGRATE_FILLED], in_folios(fd, memory, 0));
	if (!(flags & TEST_HMM_MIGRATE_BARE))
		EXPECT_EQ(NPAGES, range->pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(0, nonzero(memory, SIZE));
}

static void expect_large(struct __test_metadata *_metadata, int fd, void *memory,
			 unsigned int flags, struct test_hmm_migrate_range *range)
{
	ASSERT_EQ(0, fill_holes(fd, memory, flags, LARGE_ORDER, range));
	EXPECT_EQ(NPAGES, range->pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(NPAGES, in_folios(fd, memory, LARGE_ORDER));
	EXPECT_EQ(0, nonzero(memory, SIZE));
}

/* hugepages-64kB/enabled selects the vmas, as it does for faults. */
TEST_F_TIMEOUT(holes, policy, TIMEOUT)
{
	static const struct {
		const char *choice;
		int advice;
		bool large;
	} cases[] = {
		{ "never", MADV_HUGEPAGE, false },
		{ "never", MADV_NORMAL, false },
		{ "madvise", MADV_HUGEPAGE, true },
		{ "madvise", MADV_NORMAL, false },
		{ "madvise", MADV_NOHUGEPAGE, false },
		{ "always", MADV_HUGEPAGE, true },
		{ "always", MADV_NORMAL, true },
		{ "always", MADV_NOHUGEPAGE, false },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_TRUE(set_policy(&self->large, LARGE_ORDER, cases[i].choice));
		ASSERT_TRUE(map_hole(self->memory, PROT_READ | PROT_WRITE,
				     cases[i].advice));
		if (cases[i].large)
			expect_large(_metadata, self->fd, self->memory, variant->flags,
				     &self->range);
		else
			expect_small(_metadata, self->fd, self->memory, variant->flags,
				     &self->range);
		ASSERT_EQ(KSFT_PASS, _metadata->exit_code) {
			TH_LOG("case %u", i);
		}
	}
}

/* Only the owner of the userfaultfd populates a missing page. */
TEST_F_TIMEOUT(holes, userfaultfd_missing, TIMEOUT)
{
	struct uffdio_range all = { .start = (uintptr_t)self->memory, .len = SIZE };
	unsigned int i;
	int uffd;

	uffd = open_userfaultfd(0);
	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		ASSERT_TRUE(allow_only(&self->large, &self->huge, orders[i]));
		ASSERT_TRUE(map_hole(self->memory, PROT_READ | PROT_WRITE, MADV_HUGEPAGE));
		ASSERT_TRUE(register_range(uffd, self->memory, SIZE,
					   UFFDIO_REGISTER_MODE_MISSING));
		ASSERT_EQ(0, fill_holes(self->fd, self->memory, variant->flags,
					orders[i] == LARGE_ORDER ? LARGE_ORDER : 0,
					&self->range));
		EXPECT_EQ(NPAGES, sum_of(&self->range));
		EXPECT_EQ(0, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
		EXPECT_EQ(0, smaps_kib(self->memory, "Rss:"));
		EXPECT_EQ(0, device_used(self->fd, 0));
		EXPECT_EQ(NPAGES, pages_at(self->fd, self->memory, NPAGES,
					   TEST_HMM_MIGRATE_NONE));
		ASSERT_EQ(0, ioctl(uffd, UFFDIO_UNREGISTER, &all));
		EXPECT_EQ(0, nonzero(self->memory, SIZE));
	}
	close(uffd);
}

/*
 * In a vma with userfaultfd-wp, a fault makes small pages, each with its own
 * protection.
 */
TEST_F_TIMEOUT(holes, userfaultfd_write_protect, TIMEOUT)
{
	struct uffdio_range all = { .start = (uintptr_t)self->memory, .len = SIZE };
	int uffd;

	uffd = open_userfaultfd(0);
	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_TRUE(allow_only(&self->large, &self->huge, LARGE_ORDER));
	ASSERT_TRUE(map_hole(self->memory, PROT_READ | PROT_WRITE, MADV_HUGEPAGE));
	ASSERT_TRUE(register_range(uffd, self->memory, SIZE, UFFDIO_REGISTER_MODE_WP));
	expect_small(_metadata, self->fd, self->memory, variant->flags, &self->range);
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_UNREGISTER, &all));
	close(uffd);
}

/* A filled hole is charged to the process and to its control group. */
TEST_F_TIMEOUT(holes, charged, TIMEOUT)
{
	/* The kernel charges in batches, for each CPU. */
	const long slack = SIZE / 4;
	unsigned int i;
	long anon, current, rss;

	if (!make_cgroup())
		SKIP(return, "no cgroup of version 2 for memory in " CGROUPS);
	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		ASSERT_TRUE(allow_only(&self->large, &self->huge, orders[i]));
		ASSERT_TRUE(map_hole(self->memory, PROT_READ | PROT_WRITE, MADV_HUGEPAGE));
		anon = read_key(MEMCG "memory.stat", "anon");
		current = read_number(MEMCG "memory.current");
		rss = read_key("/proc/self/status", "RssAnon:");
		ASSERT_EQ(0, fill_holes(self->fd, self->memory, variant->flags,
					orders[i] == LARGE_ORDER ? LARGE_ORDER : 0,
					&self->range));
		EXPECT_EQ(NPAGES, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
		EXPECT_EQ(NPAGES, in_folios(self->fd, self->memory, orders[i]));
		EXPECT_GT(slack, labs(read_key(MEMCG "memory.stat", "anon") - anon - (long)SIZE)) {
			TH_LOG("order %u: anon was %ld", orders[i], anon);
		}
		EXPECT_LT((long)SIZE - slack, read_number(MEMCG "memory.current") - current) {
			TH_LOG("order %u: current was %ld", orders[i], current);
		}
		EXPECT_GT(slack / 1024, labs(read_key("/proc/self/status", "RssAnon:") - rss -
					     (long)SIZE / 1024)) {
			TH_LOG("order %u: RssAnon was %ld", orders[i], rss);
		}
		EXPECT_EQ(0, nonzero(self->memory, SIZE));
		/* The charge must be given back, too. */
		ASSERT_EQ(0, munmap(self->memory, SIZE));
		EXPECT_EQ(0, device_used(self->fd, 0));
		EXPECT_GT(slack, labs(read_key(MEMCG "memory.stat", "anon") - anon)) {
			TH_LOG("order %u: anon was %ld", orders[i], anon);
		}
	}
	EXPECT_TRUE(enter_cgroup(CGROUPS));
	EXPECT_EQ(0, rmdir(MEMCG));
}

/* A write fault in a hole sets the soft-dirty bit, and so does migration. */
TEST_F_TIMEOUT(holes, soft_dirty, TIMEOUT)
{
	unsigned int i;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty bits");
	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		ASSERT_TRUE(allow_only(&self->large, &self->huge, orders[i]));
		ASSERT_TRUE(map_hole(self->memory, PROT_READ | PROT_WRITE, MADV_HUGEPAGE));
		/* Before that, the whole vma is soft-dirty. */
		ASSERT_TRUE(clear_references(CLEAR_SOFT_DIRTY));
		EXPECT_EQ(0, pagemap_of(self->memory) & PM_SOFT_DIRTY);
		ASSERT_EQ(0, fill_holes(self->fd, self->memory, variant->flags,
					orders[i] == LARGE_ORDER ? LARGE_ORDER : 0,
					&self->range));
		EXPECT_EQ(NPAGES, in_folios(self->fd, self->memory, orders[i]));
		EXPECT_EQ(NPAGES, pagemap_count(self->memory, NPAGES, PM_SOFT_DIRTY)) {
			TH_LOG("order %u", orders[i]);
		}
		EXPECT_EQ(0, nonzero(self->memory, SIZE));
	}
}

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE	0x08
#endif

/* The kernel may drop this memory at any time, and a device cannot. */
TEST_F_TIMEOUT(holes, droppable, TIMEOUT)
{
	const unsigned long half = NPAGES / 2;
	unsigned char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
				     MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);

	if ((void *)memory == MAP_FAILED)
		SKIP(return, "no MAP_DROPPABLE");
	fill(memory, SIZE / 2, 1);
	ASSERT_EQ(0, fill_holes(self->fd, memory, variant->flags, 0, &self->range));
	EXPECT_EQ(NPAGES, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(0, pages_at(self->fd, memory, NPAGES, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(half, pages_at(self->fd, memory + SIZE / 2, half, TEST_HMM_MIGRATE_NONE));
	EXPECT_EQ(0, nonzero(memory + SIZE / 2, SIZE / 2));
	munmap(memory, SIZE);
}

TEST_HARNESS_MAIN
