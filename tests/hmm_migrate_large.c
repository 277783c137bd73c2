// SPDX-License-Identifier: GPL-2.0
/*
 * Migration of large folios to device memory and back, each as one folio, through
 * the devices of lib/test_hmm_migrate.c. On a private device a huge page is mapped by
 * one non-present PMD, and a smaller folio by a run of non-present PTEs; every
 * operation of a process on its memory has to support these, for all of a folio and
 * for parts. Every test that moves data checks every byte of it. Every test ends with
 * all device memory free again.
 *
 * Environment:
 *   HMM_MIGRATE_TRIPS	how often to repeat the tests that loop (default 1000)
 *
 * Needs root; for all of the tests also gup_test, KSM, cgroups of version 2, and
 * swap space, which hmm_migrate.sh provides.
 */
#define _GNU_SOURCE
#include "more.h"

#include <linux/fs.h>
#include <linux/mempolicy.h>
#include <sys/swap.h>
#include <sys/uio.h>
#include <time.h>

#define HUGE_ORDER	TEST_HMM_MIGRATE_MAX_ORDER

/* The order of the folios under test, and the flag that migrates them whole. */
static unsigned int folio_order;
static unsigned long folio_pages;
static size_t folio_size;
static unsigned int whole_flag;
/* The file with the number of anonymous folios of this order. */
static char nr_anon_path[128];

/* How long to run an operation while another thread migrates, in milliseconds. */
#define DURING		400

/* Expected contents of a part of the memory, instead of a seed. */
#define ZEROS		(~0UL)
#define GONE		(~0UL - 1)

static size_t differing(const void *memory, size_t start, size_t end,
			unsigned long seed)
{
	if (seed == ZEROS)
		return nonzero(memory + start, end - start);
	return wrong_part(memory, start, end, seed);
}

static size_t device_differing(int fd, void *memory, size_t start, size_t end,
			       unsigned long seed)
{
	size_t count = end - start;
	void *buffer;

	if (seed != ZEROS)
		return device_wrong_part(fd, memory, start, end, seed);

	buffer = malloc(count);
	if (buffer && !device_read(fd, memory + start, end - start, buffer))
		count = nonzero(buffer, end - start);
	free(buffer);
	return count;
}

/* Write by the CPU, or by the device. */
typedef int (*writer)(int fd, void *memory, size_t start, size_t end,
		      unsigned long seed);

static int cpu_fill_part(int fd, void *memory, size_t start, size_t end,
			 unsigned long seed)
{
	fill_part(memory, start, end, seed);
	return 0;
}

static int device_fill_part(int fd, void *memory, size_t start, size_t end,
			    unsigned long seed)
{
	void *buffer = malloc(end);
	int ret = -ENOMEM;

	if (buffer) {
		fill_part(buffer, start, end, seed);
		ret = device_write(fd, memory + start, end - start, buffer + start);
	}
	free(buffer);
	return ret;
}

/* Number of pages that moved, or -errno. */
static long moved(int fd, unsigned long request, void *addr,
		  unsigned long npages, unsigned int flags)
{
	struct test_hmm_migrate_range range;
	int ret = migrate(fd, request, addr, npages, flags, &range);

	if (ret)
		return ret;
	return sum_of(&range) == npages ? range.pages[TEST_HMM_MIGRATE_MOVED] : -EIO;
}

static long whole_to_device(int fd, void *addr, unsigned long npages)
{
	return moved(fd, TEST_HMM_MIGRATE_TO_DEVICE, addr, npages,
		     whole_flag);
}

static long whole_to_system(int fd, void *addr, unsigned long npages)
{
	return moved(fd, TEST_HMM_MIGRATE_TO_SYSTEM, addr, npages,
		     whole_flag);
}

/*
 * Whether all pages of the range are @where, in folios of @order that are aligned
 * like their addresses, mapped by entries of @map_order. Prints the first page that
 * is not.
 */
static bool placed(int fd, void *addr, unsigned long npages, unsigned int where,
		   unsigned int order, unsigned int map_order)
{
	struct test_hmm_migrate_page *pages = calloc(npages, sizeof(*pages));
	unsigned long first = (uintptr_t)addr / page_size, i;
	bool right;

	right = pages && !snapshot(fd, addr, npages, pages);
	for (i = 0; right && i < npages; i++) {
		const struct test_hmm_migrate_page *page = &pages[i];

		right = page->where == where && page->folio_order == order &&
			page->map_order == map_order &&
			page->folio_index == (first + i) % (1UL << order);
		if (!right)
			fprintf(stderr, "# page %lu: at %u, page %u of order %u, mapped by %u\n",
				i, page->where, page->folio_index,
				page->folio_order, page->map_order);
	}
	free(pages);
	return right;
}

static bool whole_at(int fd, void *addr, unsigned int where)
{
	return placed(fd, addr, folio_pages, where, folio_order, folio_order);
}

/*
 * The order that the driver tries next if the folio cannot be allocated: never order
 * 1.
 */
static unsigned int smaller_order(void)
{
	if (whole_flag != TEST_HMM_MIGRATE_LARGE || folio_order <= 2)
		return 0;
	return folio_order - 1;
}

/* Whether the folio's range is in folios of the next smaller order. */
static bool smaller_at(int fd, void *addr, unsigned int where)
{
	return placed(fd, addr, folio_pages, where, smaller_order(),
		      smaller_order());
}

/* Number of pages of the memory that are @where, in folios of @order. */
static long in_folios(int fd, void *addr, unsigned int order, unsigned int where)
{
	struct test_hmm_migrate_page *pages = calloc(folio_pages, sizeof(*pages));
	unsigned long i;
	long count = -1;

	if (pages && !snapshot(fd, addr, folio_pages, pages))
		for (count = 0, i = 0; i < folio_pages; i++)
			count += pages[i].where == where &&
				 pages[i].folio_order == order;
	free(pages);
	return count;
}

static bool small_at(int fd, void *addr, unsigned long npages, unsigned int where)
{
	return placed(fd, addr, npages, where, 0, 0);
}

/*
 * Make a hole as large as a huge page. MADV_DONTNEED would leave the page table in place,
 * and where a page table exists, faults make small pages.
 */
static bool make_hole(void *memory)
{
	return mmap(memory, folio_size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory &&
	       !madvise(memory, folio_size, MADV_HUGEPAGE);
}

/* Fill the memory. Retry until it is one folio. */
static bool make_folio(int fd, void *memory, unsigned long seed)
{
	int tries;

	for (tries = 0; tries < 10 && make_hole(memory); tries++) {
		fill(memory, folio_size, seed);
		if (whole_at(fd, memory, TEST_HMM_MIGRATE_SYSTEM))
			return true;
		write_number("/proc/sys/vm/compact_memory", 1);
	}
	return false;
}

/*
 * Set the order for the following tests. From now on, faults make folios of @order
 * where MADV_HUGEPAGE allows it, and of no other order.
 */
static bool choose_order(unsigned int order)
{
	unsigned int i;
	char path[128];

	folio_order = order;
	folio_pages = 1UL << order;
	folio_size = page_size << order;
	whole_flag = order == HUGE_ORDER ? TEST_HMM_MIGRATE_HUGE :
					   TEST_HMM_MIGRATE_LARGE;
	hole_order = order == HUGE_ORDER ? 0 : order;
	size_path(order, "stats/nr_anon", nr_anon_path, sizeof(nr_anon_path));
	for (i = 2; i <= HUGE_ORDER; i++) {
		size_path(i, "enabled", path, sizeof(path));
		if (!choose(path, i == order ? "madvise" : "never"))
			return false;
	}
	return true;
}

/* From now on, faults may make folios of @order as well. */
static bool allow_order(unsigned int order)
{
	char path[128];

	if (!order)
		return true;
	size_path(order, "enabled", path, sizeof(path));
	return choose(path, "madvise");
}

/* From now on, neither faults nor khugepaged make large folios. */
static bool choose_pages(void)
{
	char path[128];

	size_path(folio_order, "enabled", path, sizeof(path));
	return choose(path, "never");
}

static int reset_statistics(int fd)
{
	struct test_hmm_migrate_statistics stats;

	return statistics(fd, TEST_HMM_MIGRATE_RESET, &stats);
}

/*
 * Set up a device, and a huge page that is filled with seed 1. The caller unmaps
 * @area in the end. Returns false if the test is skipped.
 */
static bool set_up(struct __test_metadata *_metadata, unsigned int device,
		   unsigned int order, int *fd, void **area, unsigned char **memory)
{
	page_size = sysconf(_SC_PAGESIZE);
	if (huge_page_size() != page_size << HUGE_ORDER)
		SKIP(return false, "no transparent huge pages of order %u", HUGE_ORDER);
	if (!choose_order(order))
		SKIP(return false, "no folios of order %u", order);
	*fd = open_device(device);
	if (*fd < 0 && device >= 2)
		SKIP(return false, "no coherent device, is there Soft Reserved memory?");
	ASSERT_LE(0, *fd);
	disarm(*fd);
	ASSERT_EQ(0, set_fault_order(*fd, HUGE_ORDER));
	*area = map_huge_page(folio_size, memory);
	ASSERT_NE(MAP_FAILED, *area);
	ASSERT_TRUE(make_folio(*fd, *memory, 1));
	return true;
}

static void tear_down(struct __test_metadata *_metadata, int fd, void *area)
{
	disarm(fd);
	set_fault_order(fd, HUGE_ORDER);
	/* Some tests have already unmapped all or a part of it, so ignore errors. */
	munmap(area, 2 * folio_size);
	EXPECT_EQ(0, device_used(fd, 0));
	close(fd);
}

/* Another process that shares the memory */

struct sharer {
	unsigned int device;
	unsigned char *memory;
	/* The part that the process writes. */
	size_t start;
	size_t end;
	pid_t pid;
	int go;
};

/* The child runs @before at once, if any, and @after when told to. */
static bool start_sharer(struct sharer *sharer, int (*before)(struct sharer *sharer),
			 int (*after)(struct sharer *sharer))
{
	int ready[2], go[2];
	bool is_ready;

	if (pipe(ready) || pipe(go))
		return false;
	sharer->pid = fork_child();
	if (!sharer->pid) {
		close(ready[0]);
		close(go[1]);
		if ((before && before(sharer)) || !tell(ready[1]) ||
		    !wait_for(go[0]))
			_exit(100);
		_exit(after(sharer));
	}
	close(ready[1]);
	close(go[0]);
	sharer->go = go[1];
	is_ready = sharer->pid > 0 && wait_for(ready[0]);
	close(ready[0]);
	return is_ready;
}

/* Returns the result of @after, which is 0 on success. */
static int end_sharer(struct sharer *sharer)
{
	bool told = tell(sharer->go);
	int status = reap(sharer->pid);

	close(sharer->go);
	return told ? status : -1;
}

static int sees_seed_1(struct sharer *sharer)
{
	return !!wrong(sharer->memory, folio_size, 1);
}

static int sees_and_writes(struct sharer *sharer)
{
	if (sees_seed_1(sharer))
		return 1;
	fill_part(sharer->memory, sharer->start, sharer->end, 3);
	if (wrong_part(sharer->memory, sharer->start, sharer->end, 3))
		return 2;
	return wrong_part(sharer->memory, 0, sharer->start, 1) ||
	       wrong_part(sharer->memory, sharer->end, folio_size, 1) ? 3 : 0;
}

/* The child needs its own open file, which represents its page table. */
static int has_it_whole_on_the_device(struct sharer *sharer)
{
	int fd = open_device(sharer->device);

	if (fd < 0 || !whole_at(fd, sharer->memory, TEST_HMM_MIGRATE_THIS_DEVICE))
		return 4;
	close(fd);
	return sees_and_writes(sharer);
}

static int has_it_whole_in_the_system(struct sharer *sharer)
{
	int fd = open_device(sharer->device);

	if (fd < 0 || !whole_at(fd, sharer->memory, TEST_HMM_MIGRATE_SYSTEM))
		return 4;
	close(fd);
	return sees_and_writes(sharer);
}

/* Replace the child's PMD by 512 PTEs for the same folio. */
static int maps_it_by_pages(struct sharer *sharer)
{
	size_t half = folio_size / 2;

	return mprotect(sharer->memory, half, PROT_READ) ||
	       mprotect(sharer->memory, half, PROT_READ | PROT_WRITE);
}

static int unmaps_the_part(struct sharer *sharer)
{
	return munmap(sharer->memory + sharer->start, sharer->end - sharer->start);
}

static int sees_the_rest(struct sharer *sharer)
{
	return wrong_part(sharer->memory, 0, sharer->start, 1) ||
	       wrong_part(sharer->memory, sharer->end, folio_size, 1);
}

static int has_the_part(struct sharer *sharer)
{
	return !!wrong_part(sharer->memory, sharer->start, sharer->end, 1);
}

/* A folio of each order on each kind of device. */

FIXTURE(whole)
{
	int fd;
	void *area;
	unsigned char *memory;
	struct test_hmm_migrate_range range;
};

FIXTURE_VARIANT(whole)
{
	unsigned int device;
	bool private;
	unsigned int order;
};

FIXTURE_VARIANT_ADD(whole, private_16k)
{
	.device = 0,
	.private = true,
	.order = 2,
};

FIXTURE_VARIANT_ADD(whole, coherent_16k)
{
	.device = 2,
	.private = false,
	.order = 2,
};

FIXTURE_VARIANT_ADD(whole, private_32k)
{
	.device = 0,
	.private = true,
	.order = 3,
};

FIXTURE_VARIANT_ADD(whole, coherent_32k)
{
	.device = 2,
	.private = false,
	.order = 3,
};

FIXTURE_VARIANT_ADD(whole, private_64k)
{
	.device = 0,
	.private = true,
	.order = 4,
};

FIXTURE_VARIANT_ADD(whole, coherent_64k)
{
	.device = 2,
	.private = false,
	.order = 4,
};

FIXTURE_VARIANT_ADD(whole, private_128k)
{
	.device = 0,
	.private = true,
	.order = 5,
};

FIXTURE_VARIANT_ADD(whole, coherent_128k)
{
	.device = 2,
	.private = false,
	.order = 5,
};

FIXTURE_VARIANT_ADD(whole, private_256k)
{
	.device = 0,
	.private = true,
	.order = 6,
};

FIXTURE_VARIANT_ADD(whole, coherent_256k)
{
	.device = 2,
	.private = false,
	.order = 6,
};

FIXTURE_VARIANT_ADD(whole, private_512k)
{
	.device = 0,
	.private = true,
	.order = 7,
};

FIXTURE_VARIANT_ADD(whole, coherent_512k)
{
	.device = 2,
	.private = false,
	.order = 7,
};

FIXTURE_VARIANT_ADD(whole, private_1m)
{
	.device = 0,
	.private = true,
	.order = 8,
};

FIXTURE_VARIANT_ADD(whole, coherent_1m)
{
	.device = 2,
	.private = false,
	.order = 8,
};

FIXTURE_VARIANT_ADD(whole, private_2m)
{
	.device = 0,
	.private = true,
	.order = HUGE_ORDER,
};

FIXTURE_VARIANT_ADD(whole, coherent_2m)
{
	.device = 2,
	.private = false,
	.order = HUGE_ORDER,
};

FIXTURE_SETUP(whole)
{
	set_up(_metadata, variant->device, variant->order, &self->fd, &self->area,
	       &self->memory);
}

FIXTURE_TEARDOWN(whole)
{
	tear_down(_metadata, self->fd, self->area);
}

/* smaps counts only pages that a PMD maps. */
static long anon_huge_kib(void)
{
	return folio_order == HUGE_ORDER ? folio_size / 1024 : 0;
}

TEST_F_TIMEOUT(whole, there_and_back, TIMEOUT)
{
	long split_pages = read_vmstat("thp_split_page");
	long split_entries = read_vmstat("thp_split_pmd");
	struct test_hmm_migrate_statistics stats;

	ASSERT_LE(0, split_pages);
	ASSERT_LE(0, split_entries);
	ASSERT_EQ(anon_huge_kib(), smaps_kib(self->memory, "AnonHugePages:"));
	ASSERT_EQ(0, reset_statistics(self->fd));

	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(folio_pages, writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(folio_pages, device_used(self->fd, folio_pages));
	EXPECT_EQ(anon_huge_kib(), smaps_kib(self->memory, "AnonHugePages:"));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));

	ASSERT_EQ(folio_pages, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(folio_pages, writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(anon_huge_kib(), smaps_kib(self->memory, "AnonHugePages:"));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	EXPECT_EQ(split_pages, read_vmstat("thp_split_page"));
	EXPECT_EQ(split_entries, read_vmstat("thp_split_pmd"));
	EXPECT_EQ(0, device_used(self->fd, 0));
	ASSERT_EQ(0, statistics(self->fd, 0, &stats));
	EXPECT_EQ(0, stats.splits);
	EXPECT_EQ(1, stats.allocated[folio_order]);
	EXPECT_EQ(1, stats.freed[folio_order]);
	EXPECT_EQ(0, stats.allocated[0]);
	EXPECT_EQ(folio_pages, stats.to_device[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(folio_pages, stats.to_system[TEST_HMM_MIGRATE_MOVED]);
}

/*
 * The migration splits a huge page of zeros. A split in system memory may map zero pages
 * instead, but these pages must stay on the device: the process wants them there, and the
 * CPU cannot even read private memory.
 */
TEST_F_TIMEOUT(whole, zeros_stay_on_the_device, TIMEOUT)
{
	memset(self->memory, 0, folio_size);
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(1, whole_to_system(self->fd, self->memory, 1));
	EXPECT_EQ(folio_pages - 1, pages_at(self->fd, self->memory, folio_pages,
					    TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(folio_pages - 1, device_used(self->fd, folio_pages - 1));
	EXPECT_EQ(0, device_differing(self->fd, self->memory, 0, folio_size, ZEROS));
	EXPECT_EQ(folio_pages - 1, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, nonzero(self->memory, folio_size));
}

TEST_F_TIMEOUT(whole, without_the_flag, TIMEOUT)
{
	struct test_hmm_migrate_statistics stats;

	ASSERT_EQ(folio_pages, moved(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
				     self->memory, folio_pages, 0));
	EXPECT_TRUE(small_at(self->fd, self->memory, folio_pages,
			     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	/* The flag does not change small pages. */
	ASSERT_EQ(folio_pages, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(small_at(self->fd, self->memory, folio_pages,
			     TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	/* To the device with the flag, and back without it. */
	ASSERT_TRUE(make_folio(self->fd, self->memory, 2));
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(0, reset_statistics(self->fd));
	ASSERT_EQ(folio_pages, moved(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM,
				     self->memory, folio_pages, 0));
	ASSERT_EQ(0, statistics(self->fd, 0, &stats));
	EXPECT_EQ(folio_pages - 1, stats.splits);
	EXPECT_EQ(folio_pages, stats.freed[0]);
	EXPECT_TRUE(small_at(self->fd, self->memory, folio_pages,
			     TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 2));
}

TEST_F_TIMEOUT(whole, read_only_mapping, TIMEOUT)
{
	ASSERT_EQ(0, mprotect(self->memory, folio_size, PROT_READ));
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(-EPERM, device_write(self->fd, self->memory, 1, "x"));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));

	ASSERT_EQ(folio_pages, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	EXPECT_TRUE(written_in_place(self->memory, folio_size));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	ASSERT_EQ(0, mprotect(self->memory, folio_size, PROT_READ));
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(SIGSEGV, signal_of_write(self->memory));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

/*
 * Copy on write: each process maps the folio by one entry, and neither may write to
 * it.
 */
TEST_F_TIMEOUT(whole, shared_with_a_child, TIMEOUT)
{
	struct sharer sharer = {
		.device = variant->device,
		.memory = self->memory,
		.end = folio_size,
	};

	ASSERT_TRUE(start_sharer(&sharer, NULL, has_it_whole_on_the_device));
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	EXPECT_EQ(0, end_sharer(&sharer));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

TEST_F_TIMEOUT(whole, shared_there_and_back, TIMEOUT)
{
	struct sharer sharer = {
		.device = variant->device,
		.memory = self->memory,
		.end = folio_size / 2,
	};

	ASSERT_TRUE(start_sharer(&sharer, NULL, has_it_whole_in_the_system));
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(folio_pages, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	EXPECT_EQ(0, end_sharer(&sharer));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

/* The child must not see what the CPU or the device of the parent writes. */
TEST_F_TIMEOUT(whole, shared_and_written, TIMEOUT)
{
	static const writer writers[] = { cpu_fill_part, device_fill_part };
	size_t end = 3 * page_size;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(writers); i++) {
		struct sharer sharer = { .memory = self->memory };

		ASSERT_TRUE(make_folio(self->fd, self->memory, 1));
		ASSERT_TRUE(start_sharer(&sharer, NULL, sees_seed_1));
		ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
						       folio_pages));
		ASSERT_EQ(0, writers[i](self->fd, self->memory, page_size, end, 2));
		EXPECT_EQ(0, end_sharer(&sharer));
		EXPECT_EQ(0, wrong(self->memory, page_size, 1));
		EXPECT_EQ(0, wrong_part(self->memory, page_size, end, 2));
		EXPECT_EQ(0, wrong_part(self->memory, end, folio_size, 1));
	}
}

/* One folio, mapped by a PMD in the parent and by PTEs in the child. */
TEST_F_TIMEOUT(whole, shared_and_mapped_by_pages, TIMEOUT)
{
	struct sharer sharer = {
		.memory = self->memory,
		.start = folio_size / 4,
		.end = folio_size / 2,
	};

	ASSERT_TRUE(start_sharer(&sharer, maps_it_by_pages, sees_and_writes));
	EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	EXPECT_EQ(folio_pages, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, end_sharer(&sharer));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

TEST_F_TIMEOUT(whole, shared_and_half_unmapped, TIMEOUT)
{
	int early;

	for (early = 0; early < 2; early++) {
		struct sharer sharer = {
			.memory = self->memory,
			.end = folio_size / 2,
		};

		ASSERT_TRUE(make_folio(self->fd, self->memory, 1));
		if (early)
			ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
							       folio_pages));
		ASSERT_TRUE(start_sharer(&sharer, unmaps_the_part, sees_the_rest));
		if (!early)
			EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
							       folio_pages));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
		EXPECT_EQ(folio_pages, whole_to_system(self->fd, self->memory,
						       folio_pages));
		EXPECT_EQ(0, end_sharer(&sharer));
		EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	}
}

/*
 * The entries of an exclusively mapped folio differ in their soft-dirty bits. After
 * the trip each entry holds a reference, so the folio is freed with the last entry,
 * not earlier.
 */
TEST_F_TIMEOUT(whole, entries_that_differ, TIMEOUT)
{
	size_t half = folio_size / 2;
	unsigned int i;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty bits");
	for (i = 0; i < 4; i++) {
		ASSERT_TRUE(make_folio(self->fd, self->memory, 1));
		/* Map by PTEs instead of a PMD. */
		ASSERT_EQ(0, mprotect(self->memory, half, PROT_READ));
		ASSERT_EQ(0, mprotect(self->memory, half, PROT_READ | PROT_WRITE));
		ASSERT_TRUE(clear_references(CLEAR_SOFT_DIRTY));
		fill_part(self->memory, i & 1 ? half : 0, i & 1 ? folio_size : half, 1);
		ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
						       folio_pages));
		ASSERT_EQ(folio_pages, whole_to_system(self->fd, self->memory,
						       folio_pages));
		EXPECT_EQ(folio_pages / 2, pagemap_count(self->memory, folio_pages,
							 PM_SOFT_DIRTY));
		/* Discard one half first, and then move the other half. */
		if (i & 2) {
			ASSERT_EQ(0, madvise(self->memory, half, MADV_DONTNEED));
			EXPECT_EQ(0, wrong_part(self->memory, half, folio_size, 1));
			fill_part(self->memory, 0, half, 1);
		}
		EXPECT_EQ(folio_pages / (i & 2 ? 2 : 1),
			  whole_to_device(self->fd, self->memory + (i & 2 ? half : 0),
					  folio_pages / (i & 2 ? 2 : 1)));
		EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	}
}

/* Share a folio so that only the part from @start to @end is mapped by a child. */
static bool share_half(int fd, struct sharer *sharer, unsigned char *kept, int prot)
{
	const size_t half = folio_size / 2;

	return make_folio(fd, sharer->memory, 1) &&
	       !mprotect(sharer->memory, folio_size, prot) &&
	       !madvise(kept, half, MADV_DONTFORK) &&
	       start_sharer(sharer, NULL, has_the_part) &&
	       !madvise(kept, half, MADV_DOFORK);
}

/*
 * A child shares one half of a folio. The pages of the other half are still exclusive
 * to the parent, although all entries of the folio are read-only. The migration must
 * keep PageAnonExclusive for each page; otherwise the child would see what the parent
 * writes.
 */
TEST_F_TIMEOUT(whole, half_shared_with_a_child, TIMEOUT)
{
	static const writer writers[] = { cpu_fill_part, device_fill_part };
	const size_t half = folio_size / 2;
	unsigned int i;

	/*
	 * For each half and each writer, on the device and after the return; also
	 * with a writable half.
	 */
	for (i = 0; i < 16; i++) {
		unsigned char *kept = self->memory + (i & 1 ? half : 0);
		struct sharer sharer = {
			.memory = self->memory,
			.start = i & 1 ? 0 : half,
			.end = i & 1 ? half : folio_size,
		};

		ASSERT_TRUE(share_half(self->fd, &sharer, kept,
				       i & 8 ? PROT_READ | PROT_WRITE : PROT_READ));
		ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
						       folio_pages));
		EXPECT_EQ(folio_pages, in_folios(self->fd, self->memory, folio_order,
						 TEST_HMM_MIGRATE_THIS_DEVICE));
		if (i & 4)
			ASSERT_EQ(folio_pages, whole_to_system(self->fd, self->memory,
							       folio_pages));
		EXPECT_EQ(i & 8 ? folio_pages / 2 : 0,
			  writable_pages(self->fd, self->memory, folio_pages));
		ASSERT_EQ(0, mprotect(self->memory, folio_size, PROT_READ | PROT_WRITE));
		ASSERT_EQ(0, writers[i >> 1 & 1](self->fd, self->memory, 0, folio_size, 2));
		EXPECT_EQ(0, end_sharer(&sharer)) {
			TH_LOG("case %u", i);
		}
		EXPECT_EQ(0, wrong(self->memory, folio_size, 2));
	}
}

/* Holes */

/* Check the memory after a hole or a zero page has migrated to the device and back. */
static void expect_filled(struct __test_metadata *_metadata, int fd,
			  unsigned char *memory)
{
	EXPECT_TRUE(whole_at(fd, memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(folio_pages, writable_pages(fd, memory, folio_pages));
	EXPECT_EQ(folio_pages, device_used(fd, folio_pages));
	EXPECT_EQ(0, device_differing(fd, memory, 0, folio_size, ZEROS));
	EXPECT_EQ(folio_pages, whole_to_system(fd, memory, folio_pages));
	EXPECT_TRUE(whole_at(fd, memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, nonzero(memory, folio_size));
	fill(memory, folio_size, 2);
	EXPECT_EQ(0, wrong(memory, folio_size, 2));
}

/* Holes, and the huge zero page after a read; the flag SKIP_HOLES leaves both alone. */
TEST_F_TIMEOUT(whole, holes, TIMEOUT)
{
	static const unsigned int kinds[] = {
		TEST_HMM_MIGRATE_NONE, TEST_HMM_MIGRATE_ZERO,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		ASSERT_TRUE(make_hole(self->memory));
		if (kinds[i] == TEST_HMM_MIGRATE_ZERO)
			ASSERT_EQ(0, nonzero(self->memory, folio_size));
		ASSERT_EQ(folio_pages, pages_at(self->fd, self->memory, folio_pages,
						kinds[i]));
		ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
				     self->memory, folio_pages,
				     whole_flag |
				     TEST_HMM_MIGRATE_SKIP_HOLES, &self->range));
		EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_NO_SOURCE]);
		EXPECT_EQ(folio_pages, pages_at(self->fd, self->memory, folio_pages,
						kinds[i]));

		ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
				     self->memory, folio_pages,
				     whole_flag, &self->range));
		EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
		expect_filled(_metadata, self->fd, self->memory);
	}
}

TEST_F_TIMEOUT(whole, read_only_hole, TIMEOUT)
{
	ASSERT_TRUE(make_hole(self->memory));
	ASSERT_EQ(0, mprotect(self->memory, folio_size, PROT_READ));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(-EPERM, device_write(self->fd, self->memory, 1, "x"));
	ASSERT_EQ(0, mprotect(self->memory, folio_size, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, device_fill_part(self->fd, self->memory, 0, page_size, 2));
	EXPECT_EQ(0, wrong(self->memory, page_size, 2));
	EXPECT_EQ(0, nonzero(self->memory + page_size, folio_size - page_size));
}

/* Holes where huge pages are disabled, or where a page table exists. */
TEST_F_TIMEOUT(whole, holes_for_small_pages, TIMEOUT)
{
	unsigned long page = folio_pages / 2 + 1;

	ASSERT_TRUE(make_hole(self->memory));
	ASSERT_EQ(0, madvise(self->memory, folio_size, MADV_NOHUGEPAGE));
	/* hmm_migrate_range() does not even try a folio that would be refused. */
	bare = true;
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	/* A destination that is too large is refused. */
	EXPECT_EQ(whole_flag == TEST_HMM_MIGRATE_LARGE ? folio_pages : 0,
		  self->range.pages[TEST_HMM_MIGRATE_REFUSED]);
	EXPECT_EQ(folio_pages, pages_at(self->fd, self->memory, folio_pages,
					whole_flag == TEST_HMM_MIGRATE_LARGE ?
					TEST_HMM_MIGRATE_NONE :
					TEST_HMM_MIGRATE_THIS_DEVICE));
	bare = false;
	hole_order = 0;
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_TRUE(small_at(self->fd, self->memory, folio_pages,
			     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_differing(self->fd, self->memory, 0, folio_size, ZEROS));
	EXPECT_EQ(0, nonzero(self->memory, folio_size));

	ASSERT_EQ(0, madvise(self->memory, folio_size, MADV_DONTNEED));
	fill_part(self->memory, page * page_size, (page + 1) * page_size, 2);
	ASSERT_EQ(0, madvise(self->memory, folio_size, MADV_HUGEPAGE));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_EQ(1, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(folio_pages - 1, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_TRUE(small_at(self->fd, self->memory, folio_pages,
			     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, nonzero(self->memory, page * page_size));
	EXPECT_EQ(0, wrong_part(self->memory, page * page_size,
				(page + 1) * page_size, 2));
	EXPECT_EQ(0, nonzero(self->memory + (page + 1) * page_size,
			     (folio_pages - page - 1) * page_size));
}

/* Writes a word to the last page of each folio, while the migration fills the holes. */
struct late_writer {
	pthread_t thread;
	unsigned char *memory;
	size_t size;
};

static uint64_t *late_word(const struct late_writer *writer, size_t offset)
{
	return (uint64_t *)(writer->memory + offset + folio_size - page_size);
}

static void *write_late(void *data)
{
	struct late_writer *writer = data;
	size_t offset;

	for (offset = 0; offset < writer->size; offset += folio_size)
		*late_word(writer, offset) = pattern(3, offset);
	return NULL;
}

/*
 * Holes that a fault fills before the migration does. One chunk has all holes, so
 * that there is much time between finding a hole and filling it. No write may be
 * lost, and the other words must be zero.
 */
TEST_F_TIMEOUT(whole, holes_that_fill, TIMEOUT)
{
	size_t align = page_size << HUGE_ORDER, size = 4 * align, offset;
	unsigned char *area = mmap(NULL, size + align, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct late_writer writer = {
		.memory = (void *)(((uintptr_t)area + align - 1) & ~(align - 1)),
		.size = size,
	};
	struct test_hmm_migrate_range range = {
		.size = sizeof(range),
		.flags = whole_flag,
		.addr = (uintptr_t)writer.memory,
		.length = size,
		.chunk = size,
		.hole_order = hole_order,
	};
	unsigned long round, lost;

	ASSERT_NE(MAP_FAILED, (void *)area);
	ASSERT_TRUE(folio_order == HUGE_ORDER ? choose_pages() :
		    !madvise(writer.memory, size, MADV_HUGEPAGE));
	for (round = 0; round < 10; round++) {
		/*
		 * A zero page counts as a hole, too. There the writer's fault makes a
		 * small page, although the policy allows folios.
		 */
		for (offset = 0; offset < size; offset += folio_size)
			ASSERT_EQ(0, nonzero(writer.memory + offset, sizeof(uint64_t)));
		ASSERT_EQ(0, pthread_create(&writer.thread, NULL, write_late, &writer));
		spin(round);
		EXPECT_EQ(0, device_ioctl(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, &range));
		pthread_join(writer.thread, NULL);
		ASSERT_LE(0, whole_to_system(self->fd, writer.memory, size / page_size));
		for (offset = 0, lost = 0; offset < size; offset += folio_size) {
			lost += *late_word(&writer, offset) != pattern(3, offset);
			*late_word(&writer, offset) = 0;
		}
		ASSERT_EQ(0, lost);
		ASSERT_EQ(0, nonzero(writer.memory, size));
		ASSERT_EQ(0, madvise(writer.memory, size, MADV_DONTNEED));
	}
	munmap(area, size + align);
}

/* Parts of a folio, and several folios */

/* Only the part moves, and the folio is split. */
TEST_F_TIMEOUT(whole, part_of_a_huge_page, TIMEOUT)
{
	const struct {
		unsigned long first, npages;
	} parts[] = {
		{ 0, folio_pages / 2 }, { folio_pages / 2, folio_pages / 2 },
		{ folio_pages / 2 + 1, 1 }, { 1, folio_pages - 1 },
	};
	const unsigned int flags[] = { 0, whole_flag };
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		for (j = 0; j < ARRAY_SIZE(flags); j++) {
			unsigned long first = parts[i].first, npages = parts[i].npages;
			unsigned char *part = self->memory + first * page_size;

			ASSERT_TRUE(make_folio(self->fd, self->memory, i + 2));
			EXPECT_EQ(npages, moved(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
						part, npages, flags[j]));
			EXPECT_TRUE(small_at(self->fd, part, npages,
					     TEST_HMM_MIGRATE_THIS_DEVICE));
			EXPECT_TRUE(!first || small_at(self->fd, self->memory, first,
						       TEST_HMM_MIGRATE_SYSTEM));
			EXPECT_EQ(folio_pages - npages,
				  pages_at(self->fd, self->memory, folio_pages,
					   TEST_HMM_MIGRATE_SYSTEM));
			EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size,
						  i + 2));
			EXPECT_EQ(0, wrong(self->memory, folio_size, i + 2));
		}
	}
}

/* Chunks that hold several huge pages, and chunks that cut them. */
TEST_F_TIMEOUT(whole, chunks_of_any_size, TIMEOUT)
{
	const unsigned long chunks[] = {
		folio_pages, 4 * folio_pages, folio_pages * 3 / 2, folio_pages / 2, 7,
	};
	size_t size = 4 * folio_size;
	unsigned char *area = mmap(NULL, size + folio_size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *memory = (void *)(((uintptr_t)area + folio_size - 1) &
					 ~(folio_size - 1));
	unsigned int i;

	ASSERT_NE(MAP_FAILED, (void *)area);
	ASSERT_EQ(0, madvise(memory, size, MADV_HUGEPAGE));
	for (i = 0; i < ARRAY_SIZE(chunks); i++) {
		struct test_hmm_migrate_range range = {
			.size = sizeof(range),
			.flags = whole_flag,
			.addr = (uintptr_t)memory,
			.length = size,
			.chunk = chunks[i] * page_size,
		};

		ASSERT_EQ(0, madvise(memory, size, MADV_DONTNEED));
		fill(memory, size, i);
		ASSERT_EQ(0, device_ioctl(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, &range));
		EXPECT_EQ(4 * folio_pages, range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_TRUE(chunks[i] % folio_pages ||
			    whole_at(self->fd, memory + folio_size,
				     TEST_HMM_MIGRATE_THIS_DEVICE));
		ASSERT_EQ(0, device_ioctl(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, &range));
		EXPECT_EQ(4 * folio_pages, range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, wrong(memory, size, i)) {
			TH_LOG("chunks of %lu pages", chunks[i]);
		}
	}
	munmap(area, size + folio_size);
}

/*
 * A huge page that is mapped by PTEs migrates whole like any other folio, also after
 * a part had another protection. It is split after a part was unmapped or moved
 * elsewhere; then the part in the range moves.
 */
TEST_F_TIMEOUT(whole, mapped_by_pages, TIMEOUT)
{
	unsigned char *memory = self->memory, *target;
	size_t half = folio_size / 2;
	void *area = map_huge_page(folio_size, &target);

	ASSERT_NE(MAP_FAILED, area);
	ASSERT_EQ(0, mprotect(memory, half, PROT_READ));
	ASSERT_EQ(0, mprotect(memory, half, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, smaps_kib(memory, "AnonHugePages:"));
	ASSERT_TRUE(whole_at(self->fd, memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(folio_pages, whole_to_device(self->fd, memory, folio_pages));
	EXPECT_EQ(folio_pages, in_folios(self->fd, memory, folio_order,
					 TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong(self->fd, memory, folio_size, 1));
	EXPECT_EQ(folio_pages, whole_to_system(self->fd, memory, folio_pages));
	EXPECT_EQ(folio_pages, in_folios(self->fd, memory, folio_order,
					 TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(memory, folio_size, 1));

	/* Map the folio in two pieces: the second one is elsewhere. */
	ASSERT_EQ(target, mremap(memory + half, half, half, MREMAP_MAYMOVE |
				 MREMAP_FIXED, target));
	EXPECT_EQ(folio_pages / 2, whole_to_device(self->fd, memory, folio_pages / 2));
	EXPECT_EQ(folio_pages / 2, in_folios(self->fd, memory, 0,
					     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(folio_pages / 2, whole_to_device(self->fd, target, folio_pages / 2));
	EXPECT_EQ(0, device_wrong(self->fd, memory, half, 1));
	EXPECT_EQ(0, wrong(memory, half, 1));
	EXPECT_EQ(0, wrong_part(target - half, half, folio_size, 1));
	munmap(area, 2 * folio_size);

	ASSERT_TRUE(make_folio(self->fd, memory, 2));
	ASSERT_EQ(0, munmap(memory + half, half));
	EXPECT_EQ(folio_pages / 2, whole_to_device(self->fd, memory, folio_pages / 2));
	EXPECT_TRUE(small_at(self->fd, memory, folio_pages / 2,
			     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong(self->fd, memory, half, 2));
	EXPECT_EQ(folio_pages / 2, whole_to_system(self->fd, memory, folio_pages / 2));
	EXPECT_EQ(0, wrong(memory, half, 2));
}

/*
 * Folios and small pages in one range. Each end of the range cuts a folio; these two
 * are split, and their parts in the range move. The other folios stay whole.
 */
TEST_F_TIMEOUT(whole, among_others, TIMEOUT)
{
	size_t half = folio_size / 2, size = 4 * folio_size;
	unsigned char *area = mmap(NULL, size + folio_size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *memory = (void *)(((uintptr_t)area + folio_size - 1) &
					 ~(folio_size - 1));
	unsigned long npages = 3 * folio_pages;

	ASSERT_NE(MAP_FAILED, (void *)area);
	ASSERT_EQ(0, madvise(memory, size, MADV_HUGEPAGE));
	fill_part(memory, 0, folio_size, 2);
	fill_part(memory, 2 * folio_size, size, 2);
	ASSERT_TRUE(choose_pages());
	fill_part(memory, folio_size, 2 * folio_size, 2);
	ASSERT_TRUE(whole_at(self->fd, memory, TEST_HMM_MIGRATE_SYSTEM));
	ASSERT_TRUE(small_at(self->fd, memory + folio_size, folio_pages,
			     TEST_HMM_MIGRATE_SYSTEM));
	ASSERT_TRUE(whole_at(self->fd, memory + 3 * folio_size, TEST_HMM_MIGRATE_SYSTEM));

	/* From the middle of the first folio to the middle of the last one. */
	ASSERT_EQ(npages, whole_to_device(self->fd, memory + half, npages));
	EXPECT_TRUE(small_at(self->fd, memory, folio_pages / 2, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_TRUE(small_at(self->fd, memory + half, folio_pages * 3 / 2,
			     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_TRUE(whole_at(self->fd, memory + 2 * folio_size,
			     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_TRUE(small_at(self->fd, memory + 3 * folio_size, folio_pages / 2,
			     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong(self->fd, memory, size, 2));

	ASSERT_EQ(npages, whole_to_system(self->fd, memory, 4 * folio_pages));
	EXPECT_TRUE(whole_at(self->fd, memory + 2 * folio_size, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(memory, size, 2));
	munmap(area, size + folio_size);
}

/* For a caller that supports only huge pages, folios of other orders are split. */
TEST_F_TIMEOUT(whole, for_who_takes_huge_pages, TIMEOUT)
{
	bool huge = folio_order == HUGE_ORDER;

	whole_flag = TEST_HMM_MIGRATE_HUGE;
	EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(placed(self->fd, self->memory, folio_pages,
			   TEST_HMM_MIGRATE_THIS_DEVICE, huge ? HUGE_ORDER : 0,
			   huge ? HUGE_ORDER : 0));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	EXPECT_EQ(folio_pages, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	/* A caller that supports all orders gets these folios whole. */
	ASSERT_TRUE(make_folio(self->fd, self->memory, 2));
	whole_flag = TEST_HMM_MIGRATE_LARGE;
	EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(folio_pages, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 2));
}

/* Pins and locks */

/* A huge page with a pinned page stays where it is, and is not split. */
TEST_F_TIMEOUT(whole, pinned_page, TIMEOUT)
{
	unsigned char *page = self->memory + folio_pages / 3 * page_size;
	unsigned char *buffer = malloc(page_size);
	long split_pages = read_vmstat("thp_split_page");
	int gup;

	ASSERT_NE(NULL, buffer);
	if (!can_pin())
		SKIP(return, "no gup_test, is debugfs mounted?");
	gup = pin(page, page_size, PIN_LONGTERM_TEST_FLAG_USE_WRITE);
	ASSERT_LE(0, gup);
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(split_pages, read_vmstat("thp_split_page"));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	/* The contents through the pin still change with the memory. */
	memset(page, 0x5a, page_size);
	ASSERT_EQ(0, read_pinned(gup, buffer));
	EXPECT_EQ(0, memcmp(buffer, page, page_size));
	/* The folio cannot be split either. */
	EXPECT_EQ(0, moved(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			   folio_pages, 0));
	memset(page, 0xa5, page_size);
	ASSERT_EQ(0, read_pinned(gup, buffer));
	EXPECT_EQ(0, memcmp(buffer, page, page_size));
	close(gup);

	/* The attempts leave no trace: without the pin, the same folio moves. */
	EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, memcmp(buffer, page, page_size));
	EXPECT_EQ(0, wrong_part(self->memory, 0, page - self->memory, 1));
	EXPECT_EQ(0, wrong_part(self->memory, page + page_size - self->memory, folio_size, 1));

	ASSERT_TRUE(make_folio(self->fd, self->memory, 2));
	EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 2));
	free(buffer);
}

/*
 * A device has exclusive access to a folio, or to the rest of it after CPU accesses.
 * No page of the folio can move then, because its references are not all from
 * mappings.
 */
TEST_F_TIMEOUT(whole, taken_by_a_device, TIMEOUT)
{
	const unsigned long touched[] = { 0, folio_pages / 2 + 1, folio_pages - 1 };
	unsigned long i, left = folio_pages;

	ASSERT_EQ(1, take(self->fd, self->memory, folio_pages));
	for (i = 0; i < ARRAY_SIZE(touched); i++) {
		EXPECT_EQ(left, pages_at(self->fd, self->memory, folio_pages,
					 TEST_HMM_MIGRATE_EXCLUSIVE));
		EXPECT_EQ(0, whole_to_device(self->fd, self->memory, folio_pages));
		EXPECT_EQ(0, moved(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
				   self->memory, folio_pages, 0));
		EXPECT_EQ(left, pages_at(self->fd, self->memory, folio_pages,
					 TEST_HMM_MIGRATE_EXCLUSIVE));
		fill_part(self->memory, touched[i] * page_size,
			  (touched[i] + 1) * page_size, 1);
		left--;
	}
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	EXPECT_EQ(folio_pages, in_folios(self->fd, self->memory, folio_order,
					 TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(folio_pages, in_folios(self->fd, self->memory, folio_order,
					 TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

/*
 * If its lock is held for a short time, hmm_migrate_range() still moves a huge page
 * whole, and the three calls leave it where it is, unsplit. On a slow machine the
 * migration may miss the lock, so only one of many tries has to meet and outlast it.
 */
TEST_F_TIMEOUT(whole, locked_for_a_moment, TIMEOUT)
{
	bool outlasted = false;
	struct holder holder;
	unsigned int i;

	for (i = 0; i < 200 && !outlasted; i++) {
		long again = read_vmstat("migrate_vma_retried"), count;

		ASSERT_LE(0, again);
		ASSERT_TRUE(start_holder(&holder, self->fd, 0, self->memory, 1,
					 500 + i * 7919 % 20000));
		count = whole_to_device(self->fd, self->memory, folio_pages);
		pthread_join(holder.thread, NULL);
		ASSERT_EQ(0, holder.ret);
		ASSERT_TRUE(whole_at(self->fd, self->memory, count ?
				    TEST_HMM_MIGRATE_THIS_DEVICE :
				    TEST_HMM_MIGRATE_SYSTEM));
		outlasted = holder.hold.pages == 1 && count == (long)folio_pages &&
			    read_vmstat("migrate_vma_retried") > again;
		if (is_bare())
			outlasted = holder.hold.pages == 1 && !count;
		ASSERT_LE(0, whole_to_system(self->fd, self->memory, folio_pages));
	}
	EXPECT_TRUE(outlasted);
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

TEST_F_TIMEOUT(whole, locked_for_long, TIMEOUT)
{
	struct holder holder;

	/* hmm_migrate_range() would wait for the lock. */
	bare = true;
	ASSERT_TRUE(start_holder(&holder, self->fd, 0, self->memory, 1, 500000));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	pthread_join(holder.thread, NULL);
	ASSERT_EQ(0, holder.ret);
	EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	/* All pages of a folio share one lock. */
	holder.hold.length = 2 * page_size;
	holder.hold.usec = 1000;
	hold_range(&holder);
	EXPECT_EQ(0, holder.ret);
	EXPECT_EQ(1, holder.hold.pages);
}

/* Faults */

/* A touch of any page brings back the whole folio. */
TEST_F_TIMEOUT(whole, cpu_fault, TIMEOUT)
{
	const unsigned long touched[] = {
		0, folio_pages * 3 / 5, folio_pages - 1,
	};
	struct test_hmm_migrate_statistics stats;
	unsigned int i;

	for (i = 0; i < 2 * ARRAY_SIZE(touched); i++) {
		size_t offset = touched[i / 2] * page_size;
		atomic_ulong *word = (void *)self->memory + offset;

		ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
						       folio_pages));
		ASSERT_EQ(0, reset_statistics(self->fd));
		if (i % 2)
			*word = pattern(1, offset);
		EXPECT_EQ(pattern(1, offset), *word);
		ASSERT_EQ(0, statistics(self->fd, 0, &stats));
		EXPECT_EQ(variant->private, stats.cpu_faults);
		EXPECT_EQ(0, stats.splits);
		EXPECT_TRUE(whole_at(self->fd, self->memory, variant->private ?
				    TEST_HMM_MIGRATE_SYSTEM :
				    TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_EQ(folio_pages, writable_pages(self->fd, self->memory,
						      folio_pages));
		EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
		ASSERT_LE(0, whole_to_system(self->fd, self->memory, folio_pages));
	}
}

/* If only the touched page may come back, the folio is split on the device. */
TEST_F_TIMEOUT(whole, cpu_fault_for_a_page, TIMEOUT)
{
	const unsigned long touched[] = {
		0, folio_pages * 3 / 5, folio_pages - 1,
	};
	struct test_hmm_migrate_statistics stats;
	unsigned int i;

	if (!variant->private)
		return;
	ASSERT_EQ(0, set_fault_order(self->fd, 0));
	for (i = 0; i < ARRAY_SIZE(touched); i++) {
		size_t offset = touched[i] * page_size;

		ASSERT_TRUE(make_folio(self->fd, self->memory, 1));
		ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
						       folio_pages));
		ASSERT_EQ(0, reset_statistics(self->fd));
		EXPECT_EQ(0, wrong_part(self->memory, offset, offset + 8, 1));
		ASSERT_EQ(0, statistics(self->fd, 0, &stats));
		EXPECT_EQ(folio_pages - 1, stats.splits);
		EXPECT_EQ(1, stats.to_system[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_TRUE(small_at(self->fd, self->memory + offset, 1,
				     TEST_HMM_MIGRATE_SYSTEM));
		EXPECT_EQ(folio_pages - 1, pages_at(self->fd, self->memory, folio_pages,
						    TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_TRUE(!offset || small_at(self->fd, self->memory, touched[i],
						TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_EQ(folio_pages - 1, device_used(self->fd, folio_pages - 1));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
		EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	}
}

struct toucher {
	pthread_t thread;
	pthread_barrier_t *barrier;
	unsigned char *memory;
	unsigned long first;
	unsigned long npages;
	unsigned long rounds;
	unsigned long errors;
};

/*
 * In each round, all threads touch one page each at the same time, and then the other
 * pages.
 */
static void *touch(void *data)
{
	struct toucher *toucher = data;
	unsigned long round, i;

	for (round = 0; round < toucher->rounds; round++) {
		unsigned long shift = round * 7 % toucher->npages;

		pthread_barrier_wait(toucher->barrier);
		for (i = 0; i < toucher->npages; i++) {
			size_t offset = (toucher->first + (i + shift) % toucher->npages) *
					page_size;

			toucher->errors += wrong_part(toucher->memory, offset,
						      offset + page_size, 1);
		}
		pthread_barrier_wait(toucher->barrier);
	}
	return NULL;
}

static void touch_at_once(struct __test_metadata *_metadata, int fd,
			  unsigned char *memory, unsigned int order,
			  unsigned long rounds)
{
	pthread_barrier_t barrier;
	struct toucher touchers[8];
	unsigned long round, i;

	ASSERT_EQ(0, set_fault_order(fd, order));
	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, ARRAY_SIZE(touchers) + 1));
	for (i = 0; i < ARRAY_SIZE(touchers); i++) {
		touchers[i] = (struct toucher) {
			.barrier = &barrier,
			.memory = memory,
			.first = i * folio_pages / ARRAY_SIZE(touchers),
			.npages = folio_pages / ARRAY_SIZE(touchers) ?: 1,
			.rounds = rounds,
		};
		ASSERT_EQ(0, pthread_create(&touchers[i].thread, NULL, touch,
					    &touchers[i]));
	}
	for (round = 0; round < rounds; round++) {
		EXPECT_TRUE(make_folio(fd, memory, 1));
		EXPECT_EQ(folio_pages, whole_to_device(fd, memory, folio_pages));
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
	}
	for (i = 0; i < ARRAY_SIZE(touchers); i++) {
		pthread_join(touchers[i].thread, NULL);
		EXPECT_EQ(0, touchers[i].errors);
	}
	EXPECT_EQ(0, wrong(memory, folio_size, 1));
}

/* Eight threads fault on one device folio, and must not block each other for long. */
TEST_F_TIMEOUT(whole, eight_threads_fault_at_once, 90)
{
	touch_at_once(_metadata, self->fd, self->memory, folio_order,
		      trips() / 100 + 2);
}

TEST_F_TIMEOUT(whole, eight_threads_fault_for_pages, 90)
{
	touch_at_once(_metadata, self->fd, self->memory, 0, trips() / 500 + 2);
}

/* Access through the device's page table, and by faults of the device. */
TEST_F_TIMEOUT(whole, device_access, TIMEOUT)
{
	struct test_hmm_migrate_access access;
	unsigned char *buffer = malloc(folio_size);

	ASSERT_NE(NULL, buffer);
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	/* The driver entered the pages during the migration. */
	ASSERT_EQ(0, access_memory(self->fd, TEST_HMM_MIGRATE_READ, self->memory,
				   folio_size, buffer, &access));
	EXPECT_EQ(0, access.faults);
	EXPECT_EQ(0, wrong(buffer, folio_size, 1));
	fill(buffer, folio_size, 2);
	ASSERT_EQ(0, access_memory(self->fd, TEST_HMM_MIGRATE_WRITE, self->memory,
				   folio_size, buffer, &access));
	EXPECT_EQ(0, access.faults);

	/* After an invalidation the device has to fault. */
	ASSERT_EQ(0, mprotect(self->memory, folio_size, PROT_READ));
	ASSERT_EQ(0, access_memory(self->fd, TEST_HMM_MIGRATE_READ, self->memory,
				   folio_size, buffer, &access));
	EXPECT_LT(0, access.faults);
	EXPECT_EQ(0, wrong(buffer, folio_size, 2));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	ASSERT_EQ(0, mprotect(self->memory, folio_size, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, device_fill_part(self->fd, self->memory, 0, folio_size, 3));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 3));
	free(buffer);
}

/* Failures */

TEST_F_TIMEOUT(whole, no_folio_on_the_device, TIMEOUT)
{
	ASSERT_EQ(0, inject_order(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC,
				  folio_order, 1, -1));
	EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(smaller_at(self->fd, self->memory,
			       TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	/* The same for a hole, where the policy allows folios of that order. */
	ASSERT_TRUE(make_hole(self->memory));
	ASSERT_TRUE(allow_order(smaller_order()));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_TRUE(smaller_at(self->fd, self->memory,
			       TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, nonzero(self->memory, folio_size));

	/* The same for the huge zero page. */
	if (folio_order != HUGE_ORDER)
		return;
	ASSERT_TRUE(make_hole(self->memory));
	ASSERT_EQ(0, nonzero(self->memory, folio_size));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_TRUE(smaller_at(self->fd, self->memory,
			       TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, nonzero(self->memory, folio_size));
}

/* Make all orders down to @order fail, for each @order. */
TEST_F_TIMEOUT(whole, orders_that_fail, TIMEOUT)
{
	unsigned int order;

	whole_flag = TEST_HMM_MIGRATE_LARGE;
	for (order = 1; order <= folio_order; order++) {
		unsigned int expected = order <= 2 ? 0 : order - 1;

		ASSERT_TRUE(make_folio(self->fd, self->memory, order));
		ASSERT_EQ(0, inject_order(self->fd,
					  TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC,
					  order, 1, -1));
		EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
						       folio_pages));
		EXPECT_TRUE(placed(self->fd, self->memory, folio_pages,
				   TEST_HMM_MIGRATE_THIS_DEVICE, expected, expected));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, order));
		/* The folios are smaller now, so make a smaller order fail. */
		ASSERT_EQ(0, inject_order(self->fd,
					  TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC,
					  order > 2 ? order - 1 : order, 1, -1));
		expected = order <= 3 ? 0 : order - 2;
		EXPECT_EQ(folio_pages, whole_to_system(self->fd, self->memory,
						       folio_pages));
		EXPECT_TRUE(placed(self->fd, self->memory, folio_pages,
				   TEST_HMM_MIGRATE_SYSTEM, expected, expected));
		EXPECT_EQ(0, wrong(self->memory, folio_size, order));
		disarm(self->fd);
	}
}

/* Make small pages fail, too: first some of them, then all. */
TEST_F_TIMEOUT(whole, no_memory_on_the_device, TIMEOUT)
{
	unsigned long fail = 1, order, pages = folio_pages / 2;

	/* Fail each larger order once, and then @pages small pages. */
	for (order = folio_order; whole_flag == TEST_HMM_MIGRATE_LARGE && order > 2;
	     order--)
		fail++;
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, 1,
			    fail + pages));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_EQ(pages, self->range.pages[TEST_HMM_MIGRATE_NO_DESTINATION]);
	EXPECT_EQ(folio_pages - pages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	ASSERT_TRUE(make_folio(self->fd, self->memory, 2));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, 1, -1));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_NO_DESTINATION]);
	EXPECT_EQ(0, wrong(self->memory, folio_size, 2));
}

TEST_F_TIMEOUT(whole, device_is_full, TIMEOUT)
{
	unsigned long more = 2 * folio_pages, few = folio_pages - 1;
	struct test_hmm_migrate_info info;
	unsigned char *memory;
	size_t size, align = page_size << HUGE_ORDER;
	void *area;

	ASSERT_EQ(0, get_info(self->fd, &info));
	size = (info.pages + more) * page_size;
	area = mmap(NULL, size + align, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, area);
	memory = (void *)(((uintptr_t)area + align - 1) & ~(align - 1));
	ASSERT_EQ(0, madvise(memory, size, MADV_HUGEPAGE));
	fill(memory, folio_size, 2);
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, memory,
			     size / page_size, whole_flag, &self->range));
	EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(info.pages, self->range.pages[TEST_HMM_MIGRATE_FILLED] + folio_pages);
	EXPECT_EQ(more, self->range.pages[TEST_HMM_MIGRATE_NO_DESTINATION]);
	EXPECT_TRUE(whole_at(self->fd, memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_TRUE(whole_at(self->fd, memory + folio_size,
			     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	/* Some small pages are free, but no folio of the order. */
	ASSERT_EQ(few, whole_to_system(self->fd, memory, few));
	EXPECT_EQ(few, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	EXPECT_EQ(0, wrong(memory, folio_size, 2));
	munmap(area, size + align);
}

/* The order after a failure in a CPU fault, which may use every order. */
static unsigned int fault_fallback(void)
{
	return folio_order <= 2 ? 0 : folio_order - 1;
}

TEST_F_TIMEOUT(whole, no_folio_in_the_system, TIMEOUT)
{
	int fault;

	for (fault = 0; fault < (variant->private ? 2 : 1); fault++) {
		ASSERT_TRUE(make_folio(self->fd, self->memory, 1));
		ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
						       folio_pages));
		ASSERT_EQ(0, inject_order(self->fd, TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC,
					  folio_order, 1, 1));
		EXPECT_EQ(fault ? 0 : folio_pages,
			  fault ? wrong_part(self->memory, page_size,
					     2 * page_size, 1) :
				  whole_to_system(self->fd, self->memory, folio_pages));
		EXPECT_EQ(1, pages_at(self->fd, self->memory + page_size, 1,
				      TEST_HMM_MIGRATE_SYSTEM));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
		EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
		EXPECT_TRUE(placed(self->fd, self->memory, folio_pages,
				   TEST_HMM_MIGRATE_SYSTEM,
				   fault ? fault_fallback() : smaller_order(),
				   fault ? fault_fallback() : smaller_order()));
		EXPECT_EQ(0, device_used(self->fd, 0));
	}
}

/* If one page cannot be copied, the folio stays where it is, unsplit. */
TEST_F_TIMEOUT(whole, copy_fails, TIMEOUT)
{
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_COPY, folio_pages / 2, 1));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, device_used(self->fd, 0));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_COPY, folio_pages, 1));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	ASSERT_TRUE(make_hole(self->memory));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_COPY, 1, 1));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &self->range));
	EXPECT_EQ(folio_pages, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(folio_pages, pages_at(self->fd, self->memory, folio_pages,
					TEST_HMM_MIGRATE_NONE));
	EXPECT_EQ(0, nonzero(self->memory, folio_size));
}

TEST_F_TIMEOUT(whole, copy_fails_in_a_cpu_fault, TIMEOUT)
{
	struct sigaction action = { .sa_handler = jump_on_sigbus };
	size_t wrong_words = 0;

	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(0, sigaction(SIGBUS, &action, NULL));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_COPY, folio_pages / 2, 1));
	EXPECT_EQ(variant->private, raises_sigbus(self->memory, page_size, 1,
						  &wrong_words));
	EXPECT_EQ(0, wrong_words);
	signal(SIGBUS, SIG_DFL);
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

/* Relocation and eviction */

/* The part of a pagemap entry that identifies the memory. */
static uint64_t frame_of(void *addr)
{
	return pagemap_of(addr) & PM_PFN;
}

TEST_F_TIMEOUT(whole, relocation, TIMEOUT)
{
	struct test_hmm_migrate_statistics stats;
	uint64_t before;

	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	before = frame_of(self->memory);
	ASSERT_EQ(0, reset_statistics(self->fd));
	EXPECT_EQ(folio_pages, moved(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
				     self->memory, folio_pages,
				    whole_flag |
				    TEST_HMM_MIGRATE_RELOCATE));
	EXPECT_NE(before, frame_of(self->memory));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(folio_pages, writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(folio_pages, device_used(self->fd, folio_pages));
	ASSERT_EQ(0, statistics(self->fd, 0, &stats));
	EXPECT_EQ(1, stats.allocated[folio_order]);
	EXPECT_EQ(0, stats.splits);
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));

	/* If no folio of the order is free, smaller ones are used. */
	ASSERT_EQ(0, inject_order(self->fd, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC,
				  folio_order, 1, 1));
	EXPECT_EQ(folio_pages, moved(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
				     self->memory, folio_pages,
				    whole_flag |
				    TEST_HMM_MIGRATE_RELOCATE));
	EXPECT_TRUE(smaller_at(self->fd, self->memory,
			       TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(folio_pages, device_used(self->fd, folio_pages));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

/* Pages that are not on the device are not relocated. */
TEST_F_TIMEOUT(whole, relocation_of_nothing, TIMEOUT)
{
	EXPECT_EQ(0, moved(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			   folio_pages, whole_flag |
			   TEST_HMM_MIGRATE_RELOCATE));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

TEST_F_TIMEOUT(whole, eviction, TIMEOUT)
{
	long locked = read_vmstat("migrate_vma_left_locked");
	struct test_hmm_migrate_evict argument;

	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(0, evict(self->fd, &argument));
	EXPECT_EQ(folio_pages, argument.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, argument.remaining);
	/* Folios that the eviction itself has locked must not count as locked. */
	EXPECT_EQ(locked, read_vmstat("migrate_vma_left_locked"));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(folio_pages, writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(0, inject_order(self->fd, TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC,
				  folio_order, 1, 1));
	ASSERT_EQ(0, evict(self->fd, &argument));
	EXPECT_EQ(folio_pages, argument.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, argument.remaining);
	EXPECT_TRUE(placed(self->fd, self->memory, folio_pages,
			   TEST_HMM_MIGRATE_SYSTEM, fault_fallback(),
			   fault_fallback()));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	ASSERT_TRUE(make_folio(self->fd, self->memory, 2));
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_COPY, folio_pages / 2, 1));
	ASSERT_EQ(0, evict(self->fd, &argument));
	EXPECT_EQ(folio_pages, argument.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(folio_pages, argument.remaining);
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 2));
}

/* Evict in groups of 16 pages: folios up to that size come back whole. */
TEST_F_TIMEOUT(whole, scattered_eviction, TIMEOUT)
{
	unsigned int order = folio_order <= 4 ? folio_order : 0;
	struct test_hmm_migrate_evict argument;

	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(0, evict_by(self->fd, TEST_HMM_MIGRATE_SCATTERED, &argument));
	EXPECT_EQ(folio_pages, argument.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, argument.remaining);
	EXPECT_TRUE(placed(self->fd, self->memory, folio_pages,
			   TEST_HMM_MIGRATE_SYSTEM, order, order));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

/* Evict until the device is empty: a page may be busy for a short time. */
static bool evict_all(int fd)
{
	struct test_hmm_migrate_evict argument;
	int tries = 0;

	do {
		if (evict(fd, &argument))
			return false;
	} while (argument.remaining && ++tries < 100);
	return !argument.remaining;
}

/*
 * A pipe has a reference to one page, so the folio cannot move; and a folio that is
 * larger than a group cannot be split either. Private memory has already come back
 * for vmsplice().
 */
TEST_F_TIMEOUT(whole, scattered_eviction_of_a_page_in_use, TIMEOUT)
{
	unsigned long stays = variant->device < 2 ? 0 : folio_pages;
	long left = read_vmstat("migrate_vma_left_large");
	struct test_hmm_migrate_evict argument;
	struct iovec iov = {
		.iov_base = self->memory + folio_pages / 2 * page_size,
		.iov_len = page_size,
	};
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(page_size, vmsplice(fds[1], &iov, 1, 0));
	ASSERT_EQ(0, evict_by(self->fd, TEST_HMM_MIGRATE_SCATTERED, &argument));
	EXPECT_EQ(0, argument.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(stays, argument.remaining);
	if (stays && folio_order > 4)
		EXPECT_LE(left + (long)stays, read_vmstat("migrate_vma_left_large"));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	close(fds[0]);
	close(fds[1]);
	EXPECT_TRUE(evict_all(self->fd));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

TEST_F_TIMEOUT(whole, eviction_of_shared_memory, TIMEOUT)
{
	static int (*const before[])(struct sharer *sharer) = {
		NULL, maps_it_by_pages, sees_and_writes,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(before); i++) {
		struct sharer sharer = {
			.device = variant->device,
			.memory = self->memory,
			.start = folio_size / 2,
			.end = folio_size / 2 + page_size,
		};

		ASSERT_TRUE(make_folio(self->fd, self->memory, 1));
		ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
						       folio_pages));
		ASSERT_TRUE(start_sharer(&sharer, before[i], i ? sees_the_rest :
					 has_it_whole_in_the_system));
		EXPECT_TRUE(evict_all(self->fd));
		EXPECT_EQ(folio_pages, pages_at(self->fd, self->memory, folio_pages,
						TEST_HMM_MIGRATE_SYSTEM));
		EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
		EXPECT_EQ(0, end_sharer(&sharer));
		EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	}
}

/* Unmap a part of a folio, which may split it; the rest of it must come back. */
TEST_F_TIMEOUT(whole, eviction_of_what_is_partly_unmapped, TIMEOUT)
{
	const struct {
		unsigned long first, npages;
	} parts[] = {
		{ 0, folio_pages / 2 }, { folio_pages / 2, folio_pages / 2 },
		{ folio_pages / 2 + 1, 1 }, { 0, folio_pages - 1 },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		size_t start = parts[i].first * page_size;
		size_t end = start + parts[i].npages * page_size;

		ASSERT_TRUE(make_folio(self->fd, self->memory, 1));
		ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory,
						       folio_pages));
		ASSERT_EQ(0, madvise(self->memory + start, end - start,
				     MADV_DONTNEED));
		EXPECT_TRUE(evict_all(self->fd));
		EXPECT_EQ(folio_pages - parts[i].npages,
			  pages_at(self->fd, self->memory, folio_pages,
				   TEST_HMM_MIGRATE_SYSTEM));
		EXPECT_EQ(0, wrong(self->memory, start, 1));
		EXPECT_EQ(0, nonzero(self->memory + start, end - start));
		EXPECT_EQ(0, wrong_part(self->memory, end, folio_size, 1));
	}
}

/*
 * TAKE brings back private memory; coherent memory stays on the device while it is
 * taken.
 */
TEST_F_TIMEOUT(whole, eviction_of_what_is_taken, TIMEOUT)
{
	unsigned long remain = variant->device < 2 ? 0 : folio_pages;
	size_t last = folio_size - page_size;
	struct test_hmm_migrate_evict argument;

	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_EQ(1, take(self->fd, self->memory, folio_pages));
	ASSERT_EQ(0, evict(self->fd, &argument));
	EXPECT_EQ(remain, argument.remaining);
	fill_part(self->memory, last, folio_size, 1);
	ASSERT_EQ(0, evict(self->fd, &argument));
	EXPECT_EQ(remain, argument.remaining);
	EXPECT_EQ(folio_pages - 1, pages_at(self->fd, self->memory, folio_pages,
					    TEST_HMM_MIGRATE_EXCLUSIVE));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	EXPECT_TRUE(evict_all(self->fd));
	EXPECT_EQ(folio_pages, in_folios(self->fd, self->memory, folio_order,
					 TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

/* A device does not take the memory of another device, which first has to come back. */
TEST_F_TIMEOUT(whole, another_device, TIMEOUT)
{
	int other = open_device(variant->device + 1);

	if (other < 0 && !variant->private)
		SKIP(return, "no two coherent devices, is there Soft Reserved memory?");
	ASSERT_LE(0, other);
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(folio_pages, pages_at(other, self->memory, folio_pages,
					TEST_HMM_MIGRATE_OTHER_DEVICE));
	EXPECT_EQ(0, whole_to_device(other, self->memory, folio_pages));
	EXPECT_EQ(0, whole_to_system(other, self->memory, folio_pages));
	EXPECT_EQ(0, moved(other, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
			   folio_pages / 2, 0));
	EXPECT_EQ(folio_pages, pages_at(self->fd, self->memory, folio_pages,
					TEST_HMM_MIGRATE_THIS_DEVICE));

	EXPECT_EQ(0, device_wrong(other, self->memory, folio_size, 1));
	EXPECT_EQ(folio_pages, pages_at(other, self->memory, folio_pages,
					variant->private ? TEST_HMM_MIGRATE_SYSTEM :
				       TEST_HMM_MIGRATE_OTHER_DEVICE));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	close(other);
}

TEST_F_TIMEOUT(whole, two_threads_against_each_other, TIMEOUT)
{
	migrate_against_each_other(_metadata, self->fd, self->fd, self->memory,
				   folio_pages, whole_flag);
}

TEST_F_TIMEOUT(whole, kill_while_migrating, TIMEOUT)
{
	kill_while_migrating(_metadata, variant->device, self->memory, folio_pages,
			     whole_flag);
}

static int migrate_holes(int fd, void *addr, unsigned long npages,
			 unsigned int flags, unsigned int order)
{
	struct test_hmm_migrate_range range = {
		.size = sizeof(range),
		.flags = flags,
		.addr = (uintptr_t)addr,
		.length = npages * page_size,
		.hole_order = order,
	};

	return device_ioctl(fd, TEST_HMM_MIGRATE_TO_DEVICE, &range);
}

/* Invalid values of the arguments for large folios. */
TEST_F_TIMEOUT(whole, bad_arguments, TIMEOUT)
{
	static const struct {
		unsigned long request;
		unsigned int flags;
		int error;
	} cases[] = {
		{ TEST_HMM_MIGRATE_TO_DEVICE, 0x1000, -EINVAL },
		{ TEST_HMM_MIGRATE_TO_DEVICE, TEST_HMM_MIGRATE_HUGE | 0x80000000, -EINVAL },
		{ TEST_HMM_MIGRATE_TO_SYSTEM, 0x1000, -EINVAL },
		{ TEST_HMM_MIGRATE_TO_SYSTEM, TEST_HMM_MIGRATE_RELOCATE, -EINVAL },
		{ TEST_HMM_MIGRATE_TO_SYSTEM, TEST_HMM_MIGRATE_RELOCATE |
		  TEST_HMM_MIGRATE_HUGE, -EINVAL },
		{ TEST_HMM_MIGRATE_TO_SYSTEM, TEST_HMM_MIGRATE_SKIP_HOLES |
		  TEST_HMM_MIGRATE_HUGE, -EINVAL },
		{ TEST_HMM_MIGRATE_TO_SYSTEM, TEST_HMM_MIGRATE_HUGE, 0 },
		{ TEST_HMM_MIGRATE_TO_DEVICE, TEST_HMM_MIGRATE_HUGE |
		  TEST_HMM_MIGRATE_RELOCATE | TEST_HMM_MIGRATE_SKIP_HOLES, 0 },
	};
	static const struct test_hmm_migrate_fault_order orders[] = {
		{ .order = HUGE_ORDER + 1 }, { .order = -1 }, { .flags = 4 },
		{ .window_order = 32 },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		EXPECT_EQ(cases[i].error, migrate(self->fd, cases[i].request,
						  self->memory, folio_pages,
						  cases[i].flags, &self->range)) {
			TH_LOG("case %u", i);
		}
	}
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(-EINVAL, migrate_holes(self->fd, self->memory, 1,
					 TEST_HMM_MIGRATE_HUGE, 2));
	EXPECT_EQ(-EINVAL, migrate_holes(self->fd, self->memory, 1,
					 TEST_HMM_MIGRATE_LARGE, HUGE_ORDER + 1));
	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		struct test_hmm_migrate_fault_order argument = orders[i];

		argument.size = sizeof(argument);
		EXPECT_EQ(-EINVAL, device_ioctl(self->fd, TEST_HMM_MIGRATE_FAULT_ORDER,
						&argument)) {
			TH_LOG("order %u", i);
		}
	}
	for (i = 0; i <= HUGE_ORDER; i++)
		EXPECT_EQ(0, set_fault_order(self->fd, i));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

/* Accounting */

/* A number that must not change. */
struct figure {
	/* NULL: the memory's entry in /proc/self/smaps. */
	const char *path;
	/* NULL: the file contains only the number. */
	const char *key;
	/* The allowed difference, because the kernel counts some of them in batches. */
	long slack;
};

/* The first ones are system-wide, the last ones those of our cgroup. */
#define NR_SYSTEM_FIGURES	2
#define NR_CGROUP_FIGURES	3

static const struct figure figures[] = {
	{ "/proc/vmstat", "nr_anon_transparent_hugepages" },
	/* The path depends on the order, see choose_order(). */
	{ nr_anon_path },
	{ NULL, "Rss:" },
	{ NULL, "Anonymous:" },
	{ NULL, "AnonHugePages:" },
	/* Includes stack and heap. */
	{ "/proc/self/status", "RssAnon:", 64 },
	{ "/proc/self/status", "VmSwap:" },
	{ MEMCG "memory.current", NULL, 1 << 20 },
	{ MEMCG "memory.stat", "anon", 1 << 20 },
	{ MEMCG "memory.stat", "anon_thp", 1 << 20 },
};

static void read_figures(const void *memory, unsigned int count, long *values)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		const struct figure *figure = &figures[i];

		if (!figure->path)
			values[i] = smaps_kib(memory, figure->key);
		else if (!figure->key)
			values[i] = read_number(figure->path);
		else
			values[i] = read_key(figure->path, figure->key);
	}
}

static void expect_figures(struct __test_metadata *_metadata, const void *memory,
			   unsigned int count, const long *before)
{
	long now[ARRAY_SIZE(figures)];
	unsigned int i;

	read_figures(memory, count, now);
	for (i = 0; i < count; i++) {
		EXPECT_LE(0, before[i]);
		EXPECT_GE(figures[i].slack, labs(now[i] - before[i])) {
			TH_LOG("%s %s was %ld and is %ld", figures[i].path ?: "smaps",
			       figures[i].key ?: "", before[i], now[i]);
		}
	}
}

/* Write to another word in each trip. All counters of the kernel must stay the same. */
TEST_F_TIMEOUT(whole, a_thousand_trips, TIMEOUT)
{
	bool in_cgroup = make_cgroup();
	unsigned int count = ARRAY_SIZE(figures) - (in_cgroup ? 0 : NR_CGROUP_FIGURES);
	long before[ARRAY_SIZE(figures)];
	bool often = variant->private && (folio_order == 4 || folio_order == HUGE_ORDER);
	unsigned long trip, end = often ? trips() : trips() / 10 + 1;

	ASSERT_TRUE(make_folio(self->fd, self->memory, 1));
	/* Reading the numbers the first time allocates memory. */
	read_figures(self->memory, count, before);
	read_figures(self->memory, count, before);
	for (trip = 0; trip < end; trip++) {
		size_t offset = trip * 4104 % folio_size;
		uint64_t *word = (uint64_t *)(self->memory + offset);

		ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages)) {
			TH_LOG("trip %lu", trip);
		}
		/* Device memory is charged to the process, too. */
		if (!trip)
			expect_figures(_metadata, self->memory, count, before);
		ASSERT_EQ(folio_pages, whole_to_system(self->fd, self->memory, folio_pages)) {
			TH_LOG("trip %lu", trip);
		}
		EXPECT_EQ(pattern(1, offset), *word);
		*word = ~*word;
		*word = pattern(1, offset);
	}
	expect_figures(_metadata, self->memory, count, before);
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));

	if (in_cgroup) {
		EXPECT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
		EXPECT_EQ(0, munmap(self->memory, folio_size));
		EXPECT_GT(1 << 20, read_key(MEMCG "memory.stat", "anon"));
		EXPECT_TRUE(enter_cgroup(CGROUPS));
		EXPECT_EQ(0, rmdir(MEMCG));
	} else if (_metadata->exit_code == KSFT_PASS) {
		SKIP(return, "no cgroup of version 2 for memory in " CGROUPS);
	}
}

/*
 * Memory that is unmapped on the device, at once or in two parts, is no longer
 * counted.
 */
TEST_F_TIMEOUT(whole, figures_after_munmap, TIMEOUT)
{
	size_t half = folio_size / 2;
	long before[NR_SYSTEM_FIGURES];
	unsigned int i;

	ASSERT_EQ(0, munmap(self->memory, folio_size));
	read_figures(NULL, NR_SYSTEM_FIGURES, before);
	for (i = 0; i < 3; i++) {
		unsigned char *memory;
		void *area = map_huge_page(folio_size, &memory);

		ASSERT_NE(MAP_FAILED, area);
		ASSERT_TRUE(make_folio(self->fd, memory, 1));
		ASSERT_EQ(folio_pages, whole_to_device(self->fd, memory, folio_pages));
		if (i)
			ASSERT_EQ(0, munmap(memory + half, half));
		if (i == 2)
			ASSERT_EQ(folio_pages / 2, whole_to_system(self->fd, memory,
								   folio_pages / 2));
		ASSERT_EQ(0, munmap(area, 2 * folio_size));
		EXPECT_EQ(0, device_used(self->fd, 0));
		expect_figures(_metadata, NULL, NR_SYSTEM_FIGURES, before);
	}
}

/*
 * Operations of a process on memory that is on the device as a huge page: on all of
 * it, on half of it, or on a page in its middle.
 */

FIXTURE(operation)
{
	int fd;
	void *area;
	unsigned char *memory;
	/* The part that the operation applies to. */
	unsigned char *part;
	size_t start;
	size_t end;
	size_t length;
	unsigned long npages;
	bool whole;
};

FIXTURE_VARIANT(operation)
{
	unsigned int device;
	bool private;
	unsigned int order;
	unsigned long first;
	unsigned long npages;
};

FIXTURE_VARIANT_ADD(operation, private_16k_whole)
{
	.device = 0,
	.private = true,
	.order = 2,
	.first = 0,
	.npages = 4,
};

FIXTURE_VARIANT_ADD(operation, private_16k_half)
{
	.device = 0,
	.private = true,
	.order = 2,
	.first = 0,
	.npages = 2,
};

FIXTURE_VARIANT_ADD(operation, private_16k_page)
{
	.device = 0,
	.private = true,
	.order = 2,
	.first = 2,
	.npages = 1,
};

FIXTURE_VARIANT_ADD(operation, private_32k_page)
{
	.device = 0,
	.private = true,
	.order = 3,
	.first = 5,
	.npages = 1,
};

FIXTURE_VARIANT_ADD(operation, private_64k_whole)
{
	.device = 0,
	.private = true,
	.order = 4,
	.first = 0,
	.npages = 16,
};

FIXTURE_VARIANT_ADD(operation, private_64k_half)
{
	.device = 0,
	.private = true,
	.order = 4,
	.first = 8,
	.npages = 8,
};

FIXTURE_VARIANT_ADD(operation, private_64k_page)
{
	.device = 0,
	.private = true,
	.order = 4,
	.first = 9,
	.npages = 1,
};

FIXTURE_VARIANT_ADD(operation, coherent_64k_whole)
{
	.device = 2,
	.private = false,
	.order = 4,
	.first = 0,
	.npages = 16,
};

FIXTURE_VARIANT_ADD(operation, coherent_64k_page)
{
	.device = 2,
	.private = false,
	.order = 4,
	.first = 9,
	.npages = 1,
};

FIXTURE_VARIANT_ADD(operation, private_128k_half)
{
	.device = 0,
	.private = true,
	.order = 5,
	.first = 0,
	.npages = 16,
};

FIXTURE_VARIANT_ADD(operation, private_256k_page)
{
	.device = 0,
	.private = true,
	.order = 6,
	.first = 33,
	.npages = 1,
};

FIXTURE_VARIANT_ADD(operation, private_512k_half)
{
	.device = 0,
	.private = true,
	.order = 7,
	.first = 64,
	.npages = 64,
};

FIXTURE_VARIANT_ADD(operation, private_1m_whole)
{
	.device = 0,
	.private = true,
	.order = 8,
	.first = 0,
	.npages = 256,
};

FIXTURE_VARIANT_ADD(operation, private_1m_page)
{
	.device = 0,
	.private = true,
	.order = 8,
	.first = 129,
	.npages = 1,
};

FIXTURE_VARIANT_ADD(operation, private_2m_whole)
{
	.device = 0,
	.private = true,
	.order = HUGE_ORDER,
	.first = 0,
	.npages = 512,
};

FIXTURE_VARIANT_ADD(operation, private_2m_half)
{
	.device = 0,
	.private = true,
	.order = HUGE_ORDER,
	.first = 0,
	.npages = 256,
};

FIXTURE_VARIANT_ADD(operation, private_2m_page)
{
	.device = 0,
	.private = true,
	.order = HUGE_ORDER,
	.first = 257,
	.npages = 1,
};

FIXTURE_VARIANT_ADD(operation, coherent_2m_half)
{
	.device = 2,
	.private = false,
	.order = HUGE_ORDER,
	.first = 256,
	.npages = 256,
};

FIXTURE_SETUP(operation)
{
	if (!set_up(_metadata, variant->device, variant->order, &self->fd,
		    &self->area, &self->memory))
		return;
	self->start = variant->first * page_size;
	self->length = variant->npages * page_size;
	self->end = self->start + self->length;
	self->part = self->memory + self->start;
	self->npages = variant->npages;
	self->whole = variant->npages == folio_pages;
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
}

FIXTURE_TEARDOWN(operation)
{
	tear_down(_metadata, self->fd, self->area);
}

/*
 * Check a part of the memory as the device sees it, after the way back, and by the
 * CPU.
 */
static void expect_piece(struct __test_metadata *_metadata, int fd,
			 unsigned char *memory, size_t start, size_t end,
			 unsigned long seed)
{
	unsigned long npages = (end - start) / page_size;

	if (!npages || seed == GONE)
		return;
	EXPECT_EQ(0, device_differing(fd, memory, start, end, seed));
	EXPECT_LE(0, whole_to_system(fd, memory + start, npages));
	EXPECT_EQ(0, pages_at(fd, memory + start, npages,
			      TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, differing(memory, start, end, seed));
}

/*
 * The part has contents of @seed, at its offset from @part_memory, and the rest is
 * unchanged. All of it can migrate back, and then the device is empty.
 */
static void expect_pieces_at(struct __test_metadata *_metadata,
			     const struct _test_data_operation *self,
			     unsigned char *part_memory, unsigned long seed)
{
	expect_piece(_metadata, self->fd, self->memory, 0, self->start, 1);
	expect_piece(_metadata, self->fd, part_memory, self->start, self->end, seed);
	expect_piece(_metadata, self->fd, self->memory, self->end, folio_size, 1);
	EXPECT_EQ(0, device_used(self->fd, 0));
}

static void expect_pieces(struct __test_metadata *_metadata,
			  const struct _test_data_operation *self, unsigned long seed)
{
	expect_pieces_at(_metadata, self, self->memory, seed);
}

/*
 * All pages are still on the device, and an operation on a whole folio has not split
 * it.
 */
static void expect_on_the_device(struct __test_metadata *_metadata,
				 const struct _test_data_operation *self)
{
	EXPECT_EQ(folio_pages, pages_at(self->fd, self->memory, folio_pages,
					TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_TRUE(!self->whole || whole_at(self->fd, self->memory,
					     TEST_HMM_MIGRATE_THIS_DEVICE));
}

/* The operation needed the part in system memory, so it must be there. */
static void expect_in_the_system(struct __test_metadata *_metadata,
				 const struct _test_data_operation *self)
{
	EXPECT_EQ(self->npages, pages_at(self->fd, self->part, self->npages,
					 TEST_HMM_MIGRATE_SYSTEM));
}

/* Only private memory comes back for an access of the CPU. */
static void expect_touched(struct __test_metadata *_metadata,
			   const struct _test_data_operation *self, bool private)
{
	EXPECT_EQ(self->npages, pages_at(self->fd, self->part, self->npages,
					 private ? TEST_HMM_MIGRATE_SYSTEM :
					 TEST_HMM_MIGRATE_THIS_DEVICE));
}

TEST_F_TIMEOUT(operation, nothing, TIMEOUT)
{
	expect_on_the_device(_metadata, self);
	expect_pieces(_metadata, self, 1);
}

/* Unmapping and discarding */

TEST_F_TIMEOUT(operation, munmap, TIMEOUT)
{
	ASSERT_EQ(0, munmap(self->part, self->length));
	EXPECT_EQ(self->npages, pages_at(self->fd, self->memory, folio_pages,
					 TEST_HMM_MIGRATE_INVALID));
	EXPECT_EQ(folio_pages - self->npages,
		  pages_at(self->fd, self->memory, folio_pages,
			   TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(-EFAULT, device_write(self->fd, self->part, 1, "x"));
	expect_pieces(_metadata, self, GONE);
}

TEST_F_TIMEOUT(operation, madv_dontneed, TIMEOUT)
{
	ASSERT_EQ(0, madvise(self->part, self->length, MADV_DONTNEED));
	EXPECT_EQ(self->npages, pages_at(self->fd, self->memory, folio_pages,
					 TEST_HMM_MIGRATE_NONE));
	EXPECT_EQ(folio_pages - self->npages,
		  pages_at(self->fd, self->memory, folio_pages,
			   TEST_HMM_MIGRATE_THIS_DEVICE));
	expect_pieces(_metadata, self, ZEROS);
}

/* A write by the device after MADV_FREE makes the pages dirty, so they must be kept. */
TEST_F_TIMEOUT(operation, madv_free, TIMEOUT)
{
	ASSERT_EQ(0, madvise(self->part, self->length, MADV_FREE));
	ASSERT_EQ(0, device_fill_part(self->fd, self->memory, self->start,
				      self->end, 2));
	EXPECT_EQ(0, device_differing(self->fd, self->memory, self->start,
				      self->end, 2));
	ASSERT_LE(0, whole_to_system(self->fd, self->memory, folio_pages));
	ASSERT_EQ(0, madvise(self->memory, folio_size, MADV_PAGEOUT));
	expect_pieces(_metadata, self, 2);
}

/* These kinds of advice must not bring anything back. */
TEST_F_TIMEOUT(operation, madvise, TIMEOUT)
{
	static const int advice[] = {
		MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_SEQUENTIAL, MADV_NORMAL,
		MADV_NOHUGEPAGE, MADV_HUGEPAGE, MADV_DONTDUMP, MADV_DODUMP,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(advice); i++) {
		EXPECT_EQ(0, madvise(self->part, self->length, advice[i]));
		expect_on_the_device(_metadata, self);
		ASSERT_EQ(KSFT_PASS, _metadata->exit_code) {
			TH_LOG("advice %d", advice[i]);
		}
	}
	expect_pieces(_metadata, self, 1);
}

TEST_F_TIMEOUT(operation, madv_populate_read, TIMEOUT)
{
	ASSERT_EQ(0, madvise(self->part, self->length, MADV_POPULATE_READ));
	expect_touched(_metadata, self, variant->private);
	expect_pieces(_metadata, self, 1);
}

TEST_F_TIMEOUT(operation, madv_populate_write, TIMEOUT)
{
	ASSERT_EQ(0, madvise(self->part, self->length, MADV_POPULATE_WRITE));
	expect_touched(_metadata, self, variant->private);
	expect_pieces(_metadata, self, 1);
}

/* A huge page on the device needs no collapse. */
TEST_F_TIMEOUT(operation, madv_collapse, TIMEOUT)
{
	if (self->whole && folio_order == HUGE_ORDER) {
		EXPECT_EQ(0, madvise(self->memory, folio_size, MADV_COLLAPSE));
		expect_on_the_device(_metadata, self);
	} else {
		ASSERT_EQ(self->npages, whole_to_system(self->fd, self->part,
							self->npages));
		/* The collapse may fail here. */
		madvise(self->memory, folio_size, MADV_COLLAPSE);
	}
	expect_pieces(_metadata, self, 1);
}

/* KSM scans the memory, while it has pages to merge elsewhere. */
TEST_F_TIMEOUT(operation, ksm, TIMEOUT)
{
	unsigned char *equal = map_pages(16);
	unsigned long i;

	if (read_number(KSM "run") < 0)
		SKIP(return, "no KSM");
	ASSERT_NE(MAP_FAILED, (void *)equal);
	for (i = 0; i < 16; i++)
		fill(equal + i * page_size, page_size, 9);
	ASSERT_EQ(0, madvise(self->part, self->length, MADV_MERGEABLE));
	EXPECT_TRUE(merge_pages(equal, 16 * page_size, 16));
	expect_on_the_device(_metadata, self);
	ASSERT_EQ(0, madvise(self->part, self->length, MADV_UNMERGEABLE));
	expect_on_the_device(_metadata, self);
	munmap(equal, 16 * page_size);
	expect_pieces(_metadata, self, 1);
}

/* Protection and address */

TEST_F_TIMEOUT(operation, mprotect, TIMEOUT)
{
	uint64_t word;

	ASSERT_EQ(0, mprotect(self->part, self->length, PROT_READ));
	expect_on_the_device(_metadata, self);
	EXPECT_EQ(0, writable_pages(self->fd, self->part, self->npages));
	EXPECT_EQ(folio_pages - self->npages,
		  writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(-EPERM, device_write(self->fd, self->part, 1, "x"));
	ASSERT_EQ(0, mprotect(self->part, self->length, PROT_NONE));
	EXPECT_EQ(-EFAULT, device_read(self->fd, self->part, 8, &word));
	ASSERT_EQ(0, mprotect(self->part, self->length, PROT_READ | PROT_WRITE));
	expect_on_the_device(_metadata, self);
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	ASSERT_EQ(0, device_fill_part(self->fd, self->memory, self->start,
				      self->end, 2));
	expect_pieces(_metadata, self, 2);
}

/*
 * Move to an address with huge page alignment, where the PMD can move, and to one
 * without.
 */
TEST_F_TIMEOUT(operation, mremap, TIMEOUT)
{
	unsigned char *target;
	void *area = map_huge_page(folio_size, &target);
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED, i;

	ASSERT_NE(MAP_FAILED, area);
	for (i = 0; i < 2; i++, target += page_size) {
		ASSERT_EQ(target + self->start,
			  mremap(self->part, self->length, self->length, flags,
				 target + self->start));
		EXPECT_EQ(self->npages, pages_at(self->fd, self->memory, folio_pages,
						 TEST_HMM_MIGRATE_INVALID));
		EXPECT_EQ(self->npages, pages_at(self->fd, target + self->start,
						 self->npages,
						 TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_TRUE(!self->whole || i ||
			    whole_at(self->fd, target, TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_EQ(0, device_differing(self->fd, target, self->start,
					      self->end, 1));
		ASSERT_EQ(self->part, mremap(target + self->start, self->length,
					     self->length, flags, self->part));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	}
	ASSERT_EQ(target + self->start, mremap(self->part, self->length, self->length,
					       flags, target + self->start));
	expect_pieces_at(_metadata, self, target, 1);
	munmap(area, 2 * folio_size);
}

TEST_F_TIMEOUT(operation, mremap_dontunmap, TIMEOUT)
{
	unsigned char *target = mremap(self->part, self->length, self->length,
				       MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

	ASSERT_NE(MAP_FAILED, (void *)target);
	expect_piece(_metadata, self->fd, self->memory, self->start, self->end, ZEROS);
	expect_pieces_at(_metadata, self, target - self->start, 1);
	munmap(target, self->length);
}

/*
 * mremap() moves the memory when it grows; it shrinks to an end in the middle of the
 * folio.
 */
TEST_F_TIMEOUT(operation, mremap_grow_and_shrink, TIMEOUT)
{
	size_t rest = self->start ?: folio_size / 2;
	unsigned char *grown;

	grown = mremap(self->memory, folio_size, 2 * folio_size, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, (void *)grown);
	EXPECT_EQ(folio_pages, pages_at(self->fd, grown, folio_pages,
					TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong(self->fd, grown, folio_size, 1));
	EXPECT_EQ(0, nonzero(grown + folio_size, folio_size));
	ASSERT_EQ(grown, mremap(grown, 2 * folio_size, rest, 0));
	EXPECT_EQ(rest / page_size, pages_at(self->fd, grown, 2 * folio_pages,
					     TEST_HMM_MIGRATE_THIS_DEVICE));
	expect_piece(_metadata, self->fd, grown, 0, rest, 1);
	EXPECT_EQ(0, device_used(self->fd, 0));
	munmap(grown, rest);
}

TEST_F_TIMEOUT(operation, mlock, TIMEOUT)
{
	ASSERT_EQ(0, syscall(SYS_mlock2, self->part, self->length, MLOCK_ONFAULT));
	expect_on_the_device(_metadata, self);
	ASSERT_EQ(0, munlock(self->part, self->length));
	ASSERT_EQ(0, mlock(self->part, self->length));
	expect_touched(_metadata, self, variant->private);
	/* Locked pages may migrate, too. */
	EXPECT_LE(0, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	ASSERT_EQ(0, munlock(self->part, self->length));
	expect_pieces(_metadata, self, 1);
}

/*
 * mincore() must report device memory as resident, although its entries are
 * non-present.
 */
TEST_F_TIMEOUT(operation, mincore, TIMEOUT)
{
	unsigned char *vector = calloc(folio_pages, 1);
	unsigned long i;

	ASSERT_NE(NULL, vector);
	ASSERT_EQ(0, mincore(self->part, self->length, vector));
	for (i = 0; i < folio_pages; i++)
		EXPECT_EQ(i < self->npages, vector[i]);
	free(vector);
	expect_on_the_device(_metadata, self);
	expect_pieces(_metadata, self, 1);
}

static unsigned int online_nodes(void)
{
	unsigned int node;
	char path[64];

	for (node = 0; node < 8; node++) {
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%u", node);
		if (access(path, F_OK))
			break;
	}
	return node;
}

TEST_F_TIMEOUT(operation, memory_policy, TIMEOUT)
{
	unsigned int nodes = online_nodes(), node;

	if (!nodes)
		SKIP(return, "no NUMA");
	for (node = 0; node < nodes; node++) {
		unsigned long mask = 1UL << node;

		EXPECT_EQ(0, syscall(SYS_mbind, self->part, self->length, MPOL_BIND,
				     &mask, 8 * sizeof(mask), MPOL_MF_MOVE));
	}
	expect_on_the_device(_metadata, self);
	EXPECT_EQ(0, syscall(SYS_mbind, self->part, self->length, MPOL_DEFAULT, NULL,
			     0, 0));
	expect_pieces(_metadata, self, 1);
}

TEST_F_TIMEOUT(operation, move_pages, TIMEOUT)
{
	unsigned int count = online_nodes(), node;
	void **pages = calloc(self->npages, sizeof(*pages));
	int *nodes = calloc(self->npages, sizeof(*nodes));
	int *status = calloc(self->npages, sizeof(*status));
	unsigned long i;

	if (!count)
		SKIP(return, "no NUMA");
	ASSERT_NE(NULL, pages);
	ASSERT_NE(NULL, nodes);
	ASSERT_NE(NULL, status);
	for (i = 0; i < self->npages; i++)
		pages[i] = self->part + i * page_size;
	/* First only ask for the nodes of the pages. */
	for (node = 0; node <= count; node++) {
		EXPECT_LE(0, syscall(SYS_move_pages, 0, self->npages, pages,
				     node ? nodes : NULL, status, MPOL_MF_MOVE));
		for (i = 0; i < self->npages; i++) {
			EXPECT_TRUE(!variant->private || status[i] < 0);
			nodes[i] = node;
		}
		expect_on_the_device(_metadata, self);
	}
	free(pages);
	free(nodes);
	free(status);
	expect_pieces(_metadata, self, 1);
}

/* Processes */

/*
 * The memory exists before the fork: each process writes, and sees only its own
 * writes.
 */
TEST_F_TIMEOUT(operation, fork, TIMEOUT)
{
	struct sharer sharer = {
		.device = variant->device,
		.memory = self->memory,
		.start = self->start,
		.end = self->end,
	};

	ASSERT_TRUE(start_sharer(&sharer, NULL, has_it_whole_on_the_device));
	expect_on_the_device(_metadata, self);
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, end_sharer(&sharer));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));

	/* The same when the parent writes first. */
	ASSERT_LE(0, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_TRUE(start_sharer(&sharer, NULL, sees_and_writes));
	fill_part(self->memory, self->start, self->end, 2);
	EXPECT_EQ(0, end_sharer(&sharer));
	expect_pieces(_metadata, self, 2);
}

static int unmaps_the_part_and_has_its_own(struct sharer *sharer)
{
	int fd = open_device(sharer->device);
	unsigned char *memory;

	return fd < 0 || unmaps_the_part(sharer) ||
	       map_huge_page(folio_size, &memory) == MAP_FAILED ||
	       !make_folio(fd, memory, 4) ||
	       whole_to_device(fd, memory, folio_pages) != (long)folio_pages;
}

static int leaves(struct sharer *sharer)
{
	return 0;
}

static int leaves_by_exec(struct sharer *sharer)
{
	execl("/bin/true", "true", NULL);
	return 1;
}

static int leaves_by_a_signal(struct sharer *sharer)
{
	return kill(getpid(), SIGKILL);
}

/*
 * Other processes that share the memory exit in different ways, which frees their own
 * memory.
 */
TEST_F_TIMEOUT(operation, exit, TIMEOUT)
{
	static int (*const ways[])(struct sharer *sharer) = {
		leaves, leaves_by_exec, leaves_by_a_signal,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		struct sharer sharer = {
			.device = variant->device,
			.memory = self->memory,
			.start = self->start,
			.end = self->end,
		};

		ASSERT_TRUE(start_sharer(&sharer, unmaps_the_part_and_has_its_own,
					 ways[i]));
		EXPECT_EQ(2 * folio_pages, device_used(self->fd, 2 * folio_pages));
		EXPECT_EQ(ways[i] == leaves_by_a_signal ? -1 : 0,
			  end_sharer(&sharer));
		EXPECT_EQ(folio_pages, device_used(self->fd, folio_pages));
		expect_on_the_device(_metadata, self);
	}
	expect_pieces(_metadata, self, 1);
}

/* Access as a debugger or a core dump does it. */
TEST_F_TIMEOUT(operation, proc_mem, TIMEOUT)
{
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	unsigned char *buffer = malloc(folio_size);

	ASSERT_LE(0, mem);
	ASSERT_NE(NULL, buffer);
	EXPECT_EQ(self->length, pread(mem, buffer + self->start, self->length,
				      (uintptr_t)self->part));
	EXPECT_EQ(0, wrong_part(buffer, self->start, self->end, 1));
	expect_touched(_metadata, self, variant->private);
	ASSERT_LE(0, whole_to_device(self->fd, self->memory, folio_pages));
	fill_part(buffer, self->start, self->end, 2);
	EXPECT_EQ(self->length, pwrite(mem, buffer + self->start, self->length,
				       (uintptr_t)self->part));
	close(mem);
	free(buffer);
	expect_pieces(_metadata, self, 2);
}

TEST_F_TIMEOUT(operation, process_vm_readv, TIMEOUT)
{
	unsigned char *buffer = malloc(folio_size);
	struct iovec to = { .iov_base = buffer + self->start, .iov_len = self->length };
	struct iovec from = { .iov_base = self->part, .iov_len = self->length };

	ASSERT_NE(NULL, buffer);
	if (syscall(SYS_process_vm_readv, getpid(), &to, 0, &from, 0, 0))
		SKIP(return, "no process_vm_readv()");
	EXPECT_EQ(self->length, syscall(SYS_process_vm_readv, getpid(), &to, 1,
					&from, 1, 0));
	EXPECT_EQ(0, wrong_part(buffer, self->start, self->end, 1));
	free(buffer);
	expect_pieces(_metadata, self, 1);
}

/* Long-term pinning brings back device memory, private and coherent. */
TEST_F_TIMEOUT(operation, pin, TIMEOUT)
{
	unsigned char *buffer = malloc(folio_size);
	int gup;

	ASSERT_NE(NULL, buffer);
	if (!can_pin())
		SKIP(return, "no gup_test, is debugfs mounted?");
	gup = pin(self->part, self->length, 0);
	ASSERT_LE(0, gup);
	expect_in_the_system(_metadata, self);
	EXPECT_LE(0, whole_to_device(self->fd, self->memory, folio_pages));
	expect_in_the_system(_metadata, self);
	ASSERT_EQ(0, read_pinned(gup, buffer + self->start));
	EXPECT_EQ(0, wrong_part(buffer, self->start, self->end, 1));
	close(gup);
	free(buffer);
	expect_pieces(_metadata, self, 1);
}

/* userfaultfd */

static bool write_raises_sigbus(unsigned char *byte)
{
	if (sigsetjmp(on_sigbus, 1))
		return true;
	*(atomic_uchar *)byte = ~*byte;
	return false;
}

TEST_F_TIMEOUT(operation, userfaultfd_write_protect, TIMEOUT)
{
	int fd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP |
				  UFFD_FEATURE_SIGBUS);
	struct sigaction action = { .sa_handler = jump_on_sigbus };

	if (fd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, sigaction(SIGBUS, &action, NULL));
	ASSERT_TRUE(register_range(fd, self->memory, folio_size,
				   UFFDIO_REGISTER_MODE_WP));
	ASSERT_TRUE(write_protect(fd, self->part, self->length, true));
	expect_on_the_device(_metadata, self);
	EXPECT_EQ(self->npages, pagemap_count(self->part, self->npages, PM_UFFD_WP));
	EXPECT_EQ(self->npages, pagemap_count(self->memory, folio_pages, PM_UFFD_WP));
	/* Different entries prevent one large mapping. */
	EXPECT_TRUE(self->whole ||
		    placed(self->fd, self->memory, folio_pages,
			   TEST_HMM_MIGRATE_THIS_DEVICE, folio_order, 0));
	EXPECT_EQ(0, writable_pages(self->fd, self->part, self->npages));
	EXPECT_NE(0, device_write(self->fd, self->part, 1, "x"));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));

	/* To system memory, to the device, and back again. */
	ASSERT_LE(0, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_EQ(self->npages, pagemap_count(self->part, self->npages, PM_UFFD_WP));
	EXPECT_TRUE(write_raises_sigbus(self->part));
	ASSERT_LE(0, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_TRUE(write_raises_sigbus(self->part + self->length - 1));
	EXPECT_EQ(self->npages, pagemap_count(self->memory, folio_pages, PM_UFFD_WP));

	ASSERT_LE(0, whole_to_device(self->fd, self->memory, folio_pages));
	ASSERT_TRUE(write_protect(fd, self->part, self->length, false));
	EXPECT_EQ(0, pagemap_count(self->memory, folio_pages, PM_UFFD_WP));
	EXPECT_EQ(0, device_fill_part(self->fd, self->memory, self->start,
				      self->end, 2));
	close(fd);
	expect_pieces(_metadata, self, 2);
}

/* Device memory is not missing, so UFFDIO_COPY and UFFDIO_ZEROPAGE must fail. */
TEST_F_TIMEOUT(operation, userfaultfd_copy, TIMEOUT)
{
	int fd = open_userfaultfd(UFFD_FEATURE_SIGBUS);
	unsigned char *buffer = malloc(folio_size);
	struct uffdio_copy copy = {
		.dst = (uintptr_t)self->part,
		.src = (uintptr_t)buffer + self->start,
		.len = self->length,
	};
	struct uffdio_zeropage zero = {
		.range = { .start = (uintptr_t)self->part, .len = self->length },
	};

	if (fd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_NE(NULL, buffer);
	fill(buffer, folio_size, 2);
	ASSERT_TRUE(register_range(fd, self->memory, folio_size,
				   UFFDIO_REGISTER_MODE_MISSING));
	EXPECT_EQ(-1, ioctl(fd, UFFDIO_COPY, &copy));
	EXPECT_EQ(-EEXIST, copy.copy);
	EXPECT_EQ(-1, ioctl(fd, UFFDIO_ZEROPAGE, &zero));
	EXPECT_EQ(-EEXIST, zero.zeropage);
	expect_on_the_device(_metadata, self);
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));

	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
	ASSERT_LE(0, whole_to_device(self->fd, self->memory, folio_pages));

	/* Copy into a hole in the middle of the device memory. */
	ASSERT_EQ(0, madvise(self->part, self->length, MADV_DONTNEED));
	copy.copy = 0;
	EXPECT_EQ(0, ioctl(fd, UFFDIO_COPY, &copy));
	close(fd);
	free(buffer);
	expect_pieces(_metadata, self, 2);
}

TEST_F_TIMEOUT(operation, userfaultfd_move_from, TIMEOUT)
{
	int fd = open_userfaultfd(UFFD_FEATURE_MOVE);
	unsigned char *target;
	void *area = map_huge_page(folio_size, &target);
	struct uffdio_move move = {
		.dst = (uintptr_t)target + self->start,
		.src = (uintptr_t)self->part,
		.len = self->length,
	};
	int error = 0;
	size_t done;

	if (fd < 0)
		SKIP(return, "no UFFDIO_MOVE");
	ASSERT_NE(MAP_FAILED, area);
	ASSERT_TRUE(register_range(fd, target, folio_size,
				   UFFDIO_REGISTER_MODE_MISSING));
	if (ioctl(fd, UFFDIO_MOVE, &move))
		error = errno;
	done = move.move > 0 ? move.move : 0;
	if (variant->private) {
		EXPECT_EQ(EFAULT, error);
		EXPECT_EQ(0, done);
		expect_on_the_device(_metadata, self);
	}
	close(fd);
	/* @done bytes have moved; no contents are lost. */
	expect_piece(_metadata, self->fd, target, self->start, self->start + done, 1);
	expect_piece(_metadata, self->fd, self->memory, self->start,
		     self->start + done, ZEROS);
	expect_piece(_metadata, self->fd, self->memory, 0, self->start, 1);
	expect_piece(_metadata, self->fd, self->memory, self->start + done,
		     folio_size, 1);
	EXPECT_EQ(0, device_used(self->fd, 0));
	munmap(area, 2 * folio_size);
}

TEST_F_TIMEOUT(operation, userfaultfd_move_onto, TIMEOUT)
{
	int fd = open_userfaultfd(UFFD_FEATURE_MOVE);
	unsigned char *source;
	void *area = map_huge_page(folio_size, &source);
	struct uffdio_move move = {
		.dst = (uintptr_t)self->part,
		.src = (uintptr_t)source + self->start,
		.len = self->length,
	};

	if (fd < 0)
		SKIP(return, "no UFFDIO_MOVE");
	ASSERT_NE(MAP_FAILED, area);
	fill(source, folio_size, 2);
	ASSERT_TRUE(register_range(fd, self->memory, folio_size,
				   UFFDIO_REGISTER_MODE_MISSING));
	EXPECT_EQ(-1, ioctl(fd, UFFDIO_MOVE, &move));
	EXPECT_EQ(EEXIST, errno);
	expect_on_the_device(_metadata, self);
	EXPECT_EQ(0, wrong(source, folio_size, 2));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));

	/* Make the part a hole, with device memory around it. */
	ASSERT_EQ(0, madvise(self->part, self->length, MADV_DONTNEED));
	move.move = 0;
	EXPECT_EQ(0, ioctl(fd, UFFDIO_MOVE, &move));
	close(fd);
	expect_pieces(_metadata, self, 2);
	munmap(area, 2 * folio_size);
}

/*
 * If a zero page is write-protected, the page that replaces it is so too, also for
 * the device.
 */
TEST_F_TIMEOUT(operation, userfaultfd_protects_zeros, TIMEOUT)
{
	int fd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_SIGBUS);
	struct test_hmm_migrate_range range;

	if (fd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_TRUE(make_hole(self->memory));
	ASSERT_EQ(0, nonzero(self->memory, folio_size));
	ASSERT_TRUE(register_range(fd, self->memory, folio_size,
				   UFFDIO_REGISTER_MODE_WP));
	ASSERT_TRUE(write_protect(fd, self->part, self->length, true));
	ASSERT_EQ(0, migrate(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
			     folio_pages, whole_flag, &range));
	EXPECT_EQ(folio_pages, range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(self->npages, pagemap_count(self->memory, folio_pages, PM_UFFD_WP));
	EXPECT_NE(0, device_write(self->fd, self->part, 1, "x"));
	EXPECT_NE(0, device_write(self->fd, self->part + self->length - 1, 1, "x"));
	EXPECT_EQ(0, device_differing(self->fd, self->memory, 0, folio_size, ZEROS));
	ASSERT_TRUE(write_protect(fd, self->part, self->length, false));
	close(fd);
	EXPECT_LE(0, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, nonzero(self->memory, folio_size));
}

/* Information about the memory */

TEST_F_TIMEOUT(operation, pagemap, TIMEOUT)
{
	uint64_t here = variant->private ? PM_SWAP : PM_PRESENT;
	/* In a swap entry of pagemap, the type is in the lowest 5 bits. */
	uint64_t step = variant->private ? 1 << 5 : 1;

	EXPECT_EQ(frame_of(self->memory) + self->start / page_size * step,
		  frame_of(self->part));
	EXPECT_EQ(frame_of(self->part) + (self->npages - 1) * step,
		  frame_of(self->part + self->length - page_size));
	EXPECT_EQ(folio_pages, pagemap_count(self->memory, folio_pages, here));
	EXPECT_EQ(0, pagemap_count(self->memory, folio_pages, PM_SWAP | PM_PRESENT));
	EXPECT_EQ(self->npages, pagemap_count(self->part, self->npages, here));
	ASSERT_EQ(self->npages, whole_to_system(self->fd, self->part, self->npages));
	EXPECT_EQ(self->npages, pagemap_count(self->part, self->npages, PM_PRESENT));
	EXPECT_EQ(variant->private ? self->npages : folio_pages,
		  pagemap_count(self->memory, folio_pages, PM_PRESENT));
	expect_pieces(_metadata, self, 1);
}

/* Only pages that the device writes become soft-dirty again, also after a trip. */
TEST_F_TIMEOUT(operation, soft_dirty, TIMEOUT)
{
	if (!pagemap_count(self->memory, folio_pages, PM_SOFT_DIRTY))
		SKIP(return, "no soft-dirty");
	EXPECT_EQ(folio_pages, pagemap_count(self->memory, folio_pages, PM_SOFT_DIRTY));
	ASSERT_TRUE(clear_references(CLEAR_SOFT_DIRTY));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, pagemap_count(self->memory, folio_pages, PM_SOFT_DIRTY));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	ASSERT_EQ(folio_pages, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, pagemap_count(self->memory, folio_pages, PM_SOFT_DIRTY));
	ASSERT_EQ(folio_pages, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(0, pagemap_count(self->memory, folio_pages, PM_SOFT_DIRTY));

	ASSERT_EQ(0, device_fill_part(self->fd, self->memory, self->start,
				      self->end, 2));
	EXPECT_EQ(self->npages, pagemap_count(self->part, self->npages,
					      PM_SOFT_DIRTY));
	ASSERT_LE(0, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(self->npages, pagemap_count(self->part, self->npages,
					      PM_SOFT_DIRTY));
	ASSERT_LE(0, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_EQ(self->npages, pagemap_count(self->part, self->npages,
					      PM_SOFT_DIRTY));
	expect_pieces(_metadata, self, 2);
}

#define REGIONS	(folio_pages + 1)

/*
 * PAGEMAP_SCAN for pages in at least one of @categories; returns the number of
 * regions or -1.
 */
static long pagemap_scan(void *addr, size_t size, __u64 flags, __u64 categories,
			 struct page_region *regions)
{
	struct pm_scan_arg argument = {
		.size = sizeof(argument),
		.flags = flags,
		.start = (uintptr_t)addr,
		.end = (uintptr_t)addr + size,
		.vec = (uintptr_t)regions,
		.vec_len = REGIONS,
		.category_anyof_mask = categories,
		.return_mask = categories | PAGE_IS_HUGE,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	long ret = -1;

	if (fd >= 0) {
		ret = ioctl(fd, PAGEMAP_SCAN, &argument);
		close(fd);
	}
	return ret;
}

/* Number of pages that were written, as userfaultfd tracks them. */
static long pages_written(void *addr, size_t size, __u64 flags)
{
	struct page_region *regions = calloc(REGIONS, sizeof(*regions));
	long count = regions ? pagemap_scan(addr, size, flags, PAGE_IS_WRITTEN,
					    regions) : -1;
	long pages = count < 0 ? count : 0, i;

	for (i = 0; i < count; i++)
		pages += (regions[i].end - regions[i].start) / page_size;
	free(regions);
	return pages;
}

TEST_F_TIMEOUT(operation, pagemap_scan, TIMEOUT)
{
	struct page_region *regions = calloc(REGIONS, sizeof(*regions));
	__u64 here = variant->private ? PAGE_IS_SWAPPED : PAGE_IS_PRESENT;

	ASSERT_NE(NULL, regions);
	EXPECT_EQ(1, pagemap_scan(self->part, self->length, 0,
				  PAGE_IS_SWAPPED | PAGE_IS_PRESENT, regions));
	EXPECT_EQ((uintptr_t)self->part, regions[0].start);
	EXPECT_EQ((uintptr_t)self->part + self->length, regions[0].end);
	EXPECT_EQ(here | (folio_order == HUGE_ORDER ? PAGE_IS_HUGE : 0),
		  regions[0].categories);
	free(regions);
	expect_on_the_device(_metadata, self);
	expect_pieces(_metadata, self, 1);
}

TEST_F_TIMEOUT(operation, pagemap_scan_write_protects, TIMEOUT)
{
	int fd = open_userfaultfd(UFFD_FEATURE_WP_ASYNC |
				  UFFD_FEATURE_WP_UNPOPULATED);
	__u64 protect = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;

	if (fd < 0)
		SKIP(return, "no asynchronous write protection by userfaultfd");
	ASSERT_TRUE(register_range(fd, self->memory, folio_size,
				   UFFDIO_REGISTER_MODE_WP));
	EXPECT_EQ(folio_pages, pages_written(self->memory, folio_size, 0));
	EXPECT_EQ(self->npages, pages_written(self->part, self->length, protect));
	EXPECT_EQ(0, pages_written(self->part, self->length, 0));
	EXPECT_EQ(folio_pages - self->npages, pages_written(self->memory, folio_size, 0));
	EXPECT_EQ(0, writable_pages(self->fd, self->part, self->npages));
	expect_on_the_device(_metadata, self);

	/* The device writes one page. */
	ASSERT_EQ(0, device_fill_part(self->fd, self->memory, self->start,
				      self->start + page_size, 1));
	EXPECT_EQ(1, pages_written(self->part, self->length, 0));
	ASSERT_LE(0, whole_to_device(self->fd, self->memory, folio_pages));
	EXPECT_EQ(1, pages_written(self->part, self->length, 0));
	ASSERT_LE(0, whole_to_system(self->fd, self->memory, folio_pages));
	EXPECT_EQ(1, pages_written(self->part, self->length, 0));
	close(fd);
	expect_pieces(_metadata, self, 1);
}

/* Read all of a kernel file; returns its length. */
static size_t read_all(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char buffer[4096];
	size_t size = 0;
	ssize_t count;

	if (fd < 0)
		return 0;
	while ((count = read(fd, buffer, sizeof(buffer))) > 0)
		size += count;
	close(fd);
	return count < 0 ? 0 : size;
}

TEST_F_TIMEOUT(operation, smaps_and_numa_maps, TIMEOUT)
{
	long kib = folio_size / 1024;

	EXPECT_EQ(kib, smaps_kib(self->memory, "Rss:"));
	EXPECT_EQ(kib, smaps_kib(self->memory, "Anonymous:"));
	EXPECT_EQ(anon_huge_kib(), smaps_kib(self->memory, "AnonHugePages:"));
	ASSERT_EQ(self->npages, whole_to_system(self->fd, self->part, self->npages));
	EXPECT_EQ(kib, smaps_kib(self->memory, "Rss:"));
	EXPECT_EQ(kib, smaps_kib(self->memory, "Anonymous:"));
	EXPECT_EQ(self->whole ? anon_huge_kib() : 0, smaps_kib(self->memory, "AnonHugePages:"));
	ASSERT_TRUE(clear_references(CLEAR_REFERENCED));
	EXPECT_LT(0, read_all("/proc/self/smaps_rollup"));
	EXPECT_TRUE(!online_nodes() || read_all("/proc/self/numa_maps"));
	expect_pieces(_metadata, self, 1);
}

/* Other memory */

/* Find the first swap space. */
static bool find_swap(char *path, size_t size)
{
	FILE *swaps = fopen("/proc/swaps", "r");
	char line[256];
	bool found;

	if (!swaps)
		return false;
	found = fgets(line, sizeof(line), swaps) && fgets(line, sizeof(line), swaps);
	fclose(swaps);
	return found && snprintf(path, size, "%.*s", (int)strcspn(line, " \t"),
				 line) < (int)size;
}

/* swapoff() must read in the swapped-out pages, and must not touch device memory. */
TEST_F_TIMEOUT(operation, swapoff, TIMEOUT)
{
	char swap[256];

	if (!find_swap(swap, sizeof(swap)))
		SKIP(return, "no swap space");
	if (!self->whole) {
		ASSERT_EQ(self->npages, whole_to_system(self->fd, self->part,
							self->npages));
		ASSERT_EQ(0, madvise(self->part, self->length, MADV_PAGEOUT));
		EXPECT_LT(0, pages_at(self->fd, self->part, self->npages,
				      TEST_HMM_MIGRATE_SWAPPED));
	}
	ASSERT_EQ(0, swapoff(swap));
	EXPECT_EQ(0, swapon(swap, 0));
	EXPECT_EQ(0, pages_at(self->fd, self->part, self->npages,
			      TEST_HMM_MIGRATE_SWAPPED));
	EXPECT_EQ(self->whole ? folio_pages : folio_pages - self->npages,
		  pages_at(self->fd, self->memory, folio_pages,
			   TEST_HMM_MIGRATE_THIS_DEVICE));
	expect_pieces(_metadata, self, 1);
}

/* Split huge pages by a debugfs file that exists for tests. */
static bool split_folios(void *addr, size_t size)
{
	FILE *file = fopen("/sys/kernel/debug/split_huge_pages", "w");
	bool written;

	if (!file)
		return false;
	written = fprintf(file, "%d,0x%lx,0x%lx", getpid(), (uintptr_t)addr,
			  (uintptr_t)addr + size) > 0;
	return !fclose(file) && written;
}

/* It splits folios that the CPU can address, and skips the others. */
TEST_F_TIMEOUT(operation, split_huge_pages, TIMEOUT)
{
	ASSERT_TRUE(split_folios(self->part, self->length));
	EXPECT_EQ(variant->private, whole_at(self->fd, self->memory,
					     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(folio_pages, pages_at(self->fd, self->memory, folio_pages,
					TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	expect_pieces(_metadata, self, 1);
}

TEST_F_TIMEOUT(operation, cpu_writes, TIMEOUT)
{
	fill_part(self->memory, self->start, self->end, 2);
	expect_touched(_metadata, self, variant->private);
	expect_pieces(_metadata, self, 2);
}

TEST_F_TIMEOUT(operation, device_writes, TIMEOUT)
{
	ASSERT_EQ(0, device_fill_part(self->fd, self->memory, self->start,
				      self->end, 2));
	EXPECT_TRUE(whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_THIS_DEVICE));
	expect_pieces(_metadata, self, 2);
}

/*
 * Only the part comes back; then all pages that are not on the device move there
 * again.
 */
TEST_F_TIMEOUT(operation, to_system, TIMEOUT)
{
	const unsigned int flags[] = { whole_flag, 0 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		ASSERT_EQ(self->npages, moved(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM,
					      self->part, self->npages, flags[i]));
		expect_in_the_system(_metadata, self);
		EXPECT_EQ(folio_pages - self->npages,
			  pages_at(self->fd, self->memory, folio_pages,
				   TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_TRUE(!self->whole || !flags[i] ||
			    whole_at(self->fd, self->memory, TEST_HMM_MIGRATE_SYSTEM));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
		ASSERT_EQ(self->npages, whole_to_device(self->fd, self->memory,
							folio_pages));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	}
	expect_pieces(_metadata, self, 1);
}

TEST_F_TIMEOUT(operation, relocation, TIMEOUT)
{
	ASSERT_EQ(self->npages, moved(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
				      self->part, self->npages,
				      whole_flag |
				      TEST_HMM_MIGRATE_RELOCATE));
	expect_on_the_device(_metadata, self);
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, folio_size, 1));
	expect_pieces(_metadata, self, 1);
}

/* Evict the pages that are left on the device after the part has come back. */
TEST_F_TIMEOUT(operation, eviction, TIMEOUT)
{
	ASSERT_EQ(self->npages, whole_to_system(self->fd, self->part, self->npages));
	EXPECT_TRUE(evict_all(self->fd));
	EXPECT_EQ(folio_pages, pages_at(self->fd, self->memory, folio_pages,
					TEST_HMM_MIGRATE_SYSTEM));
	expect_pieces(_metadata, self, 1);
}

/*
 * The same operations while another thread keeps moving the huge page to the device
 * and back: all of it, half of it and one page in turn. Folios that are split by this
 * become huge pages again.
 */

struct mover {
	pthread_t thread;
	int fd;
	unsigned char *memory;
	/* The operation unmaps the part for some time. */
	bool gaps;
	atomic_bool stop;
	atomic_ulong trips;
	atomic_ulong moved;
	unsigned long errors;
};

FIXTURE(during)
{
	int fd, userfaultfd;
	void *area;
	unsigned char *memory, *target;
	struct mover mover;
	/* The part of this round, as in struct operation. */
	unsigned char *part;
	size_t start, end, length;
	unsigned long npages;
};

FIXTURE_VARIANT(during)
{
	unsigned int device;
	unsigned int order;
};

FIXTURE_VARIANT_ADD(during, private_64k)
{
	.device = 0,
	.order = 4,
};

FIXTURE_VARIANT_ADD(during, private_2m)
{
	.device = 0,
	.order = HUGE_ORDER,
};

FIXTURE_VARIANT_ADD(during, coherent_2m)
{
	.device = 2,
	.order = HUGE_ORDER,
};

FIXTURE_SETUP(during)
{
	set_up(_metadata, variant->device, variant->order, &self->fd, &self->area,
	       &self->memory);
	self->mover.fd = self->fd;
	self->mover.memory = self->memory;
}

FIXTURE_TEARDOWN(during)
{
	tear_down(_metadata, self->fd, self->area);
}

static void choose_part(struct _test_data_during *self, unsigned long round)
{
	const struct {
		unsigned long first, npages;
	} parts[] = {
		{ 0, folio_pages }, { folio_pages / 2, folio_pages / 2 },
		{ folio_pages / 2 + 1, 1 }, { 0, folio_pages / 2 },
	};

	self->start = parts[round % ARRAY_SIZE(parts)].first * page_size;
	self->npages = parts[round % ARRAY_SIZE(parts)].npages;
	self->length = self->npages * page_size;
	self->end = self->start + self->length;
	self->part = self->memory + self->start;
}

static void move_once(struct mover *mover, unsigned long request)
{
	long count = moved(mover->fd, request, mover->memory, folio_pages,
			   whole_flag);

	if (count > 0)
		mover->moved += count;
	else if (count < 0 && !(mover->gaps && count == -EFAULT))
		mover->errors++;
}

static void *move_to_and_fro(void *data)
{
	struct mover *mover = data;

	while (!mover->stop) {
		move_once(mover, TEST_HMM_MIGRATE_TO_DEVICE);
		move_once(mover, TEST_HMM_MIGRATE_TO_SYSTEM);
		madvise(mover->memory, folio_size, MADV_COLLAPSE);
		mover->trips++;
	}
	return NULL;
}

static unsigned long milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Repeat the operation for each part in turn. @once returns the number of errors that
 * it has seen, and leaves the memory unchanged.
 */
static void repeat(struct __test_metadata *_metadata, struct _test_data_during *self,
		   unsigned long (*once)(struct _test_data_during *self,
					 unsigned long round))
{
	unsigned long begin = milliseconds(), round = 0, errors = 0;
	struct mover *mover = &self->mover;

	ASSERT_EQ(0, pthread_create(&mover->thread, NULL, move_to_and_fro, mover));
	while (!errors && (round < 4 || mover->trips < 2 || !mover->moved ||
			   milliseconds() < begin + DURING)) {
		choose_part(self, round);
		spin(round);
		errors += once(self, round++);
	}
	mover->stop = true;
	pthread_join(mover->thread, NULL);
	EXPECT_EQ(0, errors) {
		TH_LOG("in round %lu", round);
	}
	EXPECT_EQ(0, mover->errors);
	EXPECT_EQ(0, wrong(self->memory, folio_size, 1));
}

/* The first and the last page of the part, and their neighbours. */
static unsigned long edges_wrong(const struct _test_data_during *self)
{
	size_t before = self->start ? self->start - page_size : 0;
	size_t behind = self->end < folio_size ? self->end + page_size : self->end;

	return wrong_part(self->memory, before, self->start + page_size, 1) +
	       wrong_part(self->memory, self->end - page_size, behind, 1);
}

static unsigned long protect_once(struct _test_data_during *self, unsigned long round)
{
	unsigned long errors = !!mprotect(self->part, self->length, PROT_READ);

	errors += edges_wrong(self);
	errors += !!mprotect(self->part, self->length, PROT_NONE);
	errors += !!mprotect(self->part, self->length, PROT_READ | PROT_WRITE);
	return errors + edges_wrong(self);
}

TEST_F_TIMEOUT(during, mprotect, TIMEOUT)
{
	repeat(_metadata, self, protect_once);
}

static unsigned long forget_once(struct _test_data_during *self, unsigned long round)
{
	unsigned long errors;

	fill_part(self->memory, self->start, self->end, round + 2);
	errors = wrong_part(self->memory, self->start, self->end, round + 2);
	errors += !!madvise(self->part, self->length, MADV_DONTNEED);
	errors += nonzero(self->part, self->length);
	/* Fill the last page first: a large hole needs all of its pages to be empty. */
	fill_part(self->memory, self->end - page_size, self->end, 1);
	spin(round);
	fill_part(self->memory, self->start, self->end - page_size, 1);
	return errors;
}

TEST_F_TIMEOUT(during, madv_dontneed, TIMEOUT)
{
	repeat(_metadata, self, forget_once);
}

static unsigned long map_once(struct _test_data_during *self, unsigned long round)
{
	void *part;

	if (munmap(self->part, self->length))
		return 1;
	spin(round);
	part = mmap(self->part, self->length, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (part != self->part || madvise(part, self->length, MADV_HUGEPAGE))
		return 1;
	fill_part(self->memory, self->start, self->end, 1);
	return wrong_part(self->memory, self->start, self->end, 1);
}

TEST_F_TIMEOUT(during, munmap_and_mmap, TIMEOUT)
{
	self->mover.gaps = true;
	repeat(_metadata, self, map_once);
}

static bool move_part(unsigned char *from, unsigned char *to, size_t size)
{
	return mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
}

static unsigned long remap_once(struct _test_data_during *self, unsigned long round)
{
	unsigned char *target = self->target + self->start;
	unsigned long errors;

	if (!move_part(self->part, target, self->length))
		return 1;
	spin(round);
	errors = wrong_part(self->target, self->start, self->start + page_size, 1) +
		 wrong_part(self->target, self->end - page_size, self->end, 1);
	return errors + !move_part(target, self->part, self->length);
}

TEST_F_TIMEOUT(during, mremap, TIMEOUT)
{
	void *area = map_huge_page(folio_size, &self->target);

	ASSERT_NE(MAP_FAILED, area);
	self->mover.gaps = true;
	repeat(_metadata, self, remap_once);
	munmap(area, 2 * folio_size);
}

/* The child accesses only some pages: each fault may meet a page that is migrating. */
static int sees_and_writes_some(struct sharer *sharer)
{
	size_t offset, page;

	for (offset = 0; offset < folio_size; offset += 31 * page_size) {
		page = offset + page_size;
		if (wrong_part(sharer->memory, offset, page, 1))
			return 1;
		if (offset < sharer->start || offset >= sharer->end)
			continue;
		fill_part(sharer->memory, offset, page, 3);
		if (wrong_part(sharer->memory, offset, page, 3))
			return 2;
	}
	return 0;
}

static unsigned long fork_once(struct _test_data_during *self, unsigned long round)
{
	struct sharer sharer = {
		.memory = self->memory,
		.start = self->start,
		.end = self->end,
	};

	if (!start_sharer(&sharer, NULL, sees_and_writes_some))
		return 1;
	return !!end_sharer(&sharer) + edges_wrong(self);
}

TEST_F_TIMEOUT(during, fork, TIMEOUT)
{
	repeat(_metadata, self, fork_once);
}

static unsigned long clear_once(struct _test_data_during *self, unsigned long round)
{
	return !clear_references(CLEAR_SOFT_DIRTY) + !clear_references(CLEAR_REFERENCED);
}

TEST_F_TIMEOUT(during, clear_refs, TIMEOUT)
{
	repeat(_metadata, self, clear_once);
}

/* Migration entries must have the right uffd-wp bit, too. */
static unsigned long protect_by_userfaultfd_once(struct _test_data_during *self,
						 unsigned long round)
{
	int fd = self->userfaultfd;
	unsigned long errors;

	errors = !write_protect(fd, self->part, self->length, true);
	errors += pagemap_count(self->part, self->npages, PM_UFFD_WP) !=
		  (long)self->npages;
	errors += edges_wrong(self);
	errors += !write_protect(fd, self->part, self->length, false);
	return errors + pagemap_count(self->memory, folio_pages, PM_UFFD_WP);
}

TEST_F_TIMEOUT(during, userfaultfd_write_protect, TIMEOUT)
{
	self->userfaultfd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	if (self->userfaultfd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_TRUE(register_range(self->userfaultfd, self->memory, folio_size,
				   UFFDIO_REGISTER_MODE_WP));
	repeat(_metadata, self, protect_by_userfaultfd_once);
	close(self->userfaultfd);
}

/* Writes since the last scan must be found, wherever the page is. */
static unsigned long scan_once(struct _test_data_during *self, unsigned long round)
{
	size_t offset = self->start + round * 17 % self->npages * page_size;
	unsigned long errors;

	errors = pages_written(self->part, self->length, PM_SCAN_WP_MATCHING |
			       PM_SCAN_CHECK_WPASYNC) < 0;
	fill_part(self->memory, offset, offset + page_size, 1);
	return errors + (pages_written(self->memory + offset, page_size, 0) != 1);
}

TEST_F_TIMEOUT(during, pagemap_scan, TIMEOUT)
{
	self->userfaultfd = open_userfaultfd(UFFD_FEATURE_WP_ASYNC |
					     UFFD_FEATURE_WP_UNPOPULATED);
	if (self->userfaultfd < 0)
		SKIP(return, "no asynchronous write protection by userfaultfd");
	ASSERT_TRUE(register_range(self->userfaultfd, self->memory, folio_size,
				   UFFDIO_REGISTER_MODE_WP));
	repeat(_metadata, self, scan_once);
	close(self->userfaultfd);
}

/* Write the first word of each page, twice. */
static unsigned long cpu_once(struct _test_data_during *self, unsigned long round)
{
	const unsigned long seeds[] = { 1, round + 2, 1 };
	unsigned long errors = 0, i;
	size_t offset;

	for (i = 0; i < 2; i++) {
		for (offset = self->start; offset < self->end; offset += page_size) {
			uint64_t *word = (uint64_t *)(self->memory + offset);

			errors += *word != pattern(seeds[i], offset);
			*word = pattern(seeds[i + 1], offset);
		}
	}
	return errors;
}

TEST_F_TIMEOUT(during, cpu_writes, TIMEOUT)
{
	repeat(_metadata, self, cpu_once);
}

/* Write to every 16th page by the device, and check what it wrote before. */
static unsigned long device_once(struct _test_data_during *self, unsigned long round)
{
	unsigned long errors = 0;
	uint64_t found, other;
	size_t offset;

	for (offset = self->start; offset < self->end; offset += 16 * page_size) {
		unsigned char *word = self->memory + offset;
		uint64_t value = pattern(1, offset);

		other = ~value;
		errors += !!device_write(self->fd, word, 8, &other);
		errors += !!device_read(self->fd, word, 8, &found);
		errors += found != other;
		errors += !!device_write(self->fd, word, 8, &value);
	}
	return errors;
}

TEST_F_TIMEOUT(during, device_writes, TIMEOUT)
{
	repeat(_metadata, self, device_once);
}

static unsigned long relocate_once(struct _test_data_during *self, unsigned long round)
{
	return moved(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->part, self->npages,
		     whole_flag | TEST_HMM_MIGRATE_RELOCATE) < 0;
}

TEST_F_TIMEOUT(during, relocation, TIMEOUT)
{
	repeat(_metadata, self, relocate_once);
}

static unsigned long evict_once(struct _test_data_during *self, unsigned long round)
{
	struct test_hmm_migrate_evict argument;

	return !!evict(self->fd, &argument) + edges_wrong(self);
}

TEST_F_TIMEOUT(during, eviction, TIMEOUT)
{
	repeat(_metadata, self, evict_once);
}

static unsigned long page_out_once(struct _test_data_during *self, unsigned long round)
{
	return !!madvise(self->part, self->length, round % 2 ? MADV_PAGEOUT :
			 MADV_COLD) + edges_wrong(self);
}

TEST_F_TIMEOUT(during, madv_pageout, TIMEOUT)
{
	repeat(_metadata, self, page_out_once);
}

static unsigned long lock_once(struct _test_data_during *self, unsigned long round)
{
	return !!mlock(self->part, self->length) + edges_wrong(self) +
	       !!munlock(self->part, self->length);
}

TEST_F_TIMEOUT(during, mlock, TIMEOUT)
{
	repeat(_metadata, self, lock_once);
}

static unsigned long split_once(struct _test_data_during *self, unsigned long round)
{
	return !split_folios(self->part, self->length) + edges_wrong(self);
}

TEST_F_TIMEOUT(during, split_huge_pages, TIMEOUT)
{
	repeat(_metadata, self, split_once);
}

TEST_HARNESS_MAIN
