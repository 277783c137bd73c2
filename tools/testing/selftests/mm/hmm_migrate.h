/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the tests of range migration: memory with known contents, wrappers for the
 * ioctls of lib/test_hmm_migrate.c, the kernel's figures for a process, and threads
 * that migrate.
 */
#ifndef _SELFTESTS_MM_HMM_MIGRATE_H
#define _SELFTESTS_MM_HMM_MIGRATE_H

#include "../kselftest_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/*
 * Private to the kernel's test driver, so it is not in the usual
 * include/uapi/... directory.
 */
#include <lib/test_hmm_migrate_uapi.h>
#include <mm/gup_test.h>

#define TIMEOUT		240
#define DEFAULT_TRIPS	1000

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

static unsigned long page_size;

static inline unsigned long trips(void)
{
	const char *text = getenv("HMM_MIGRATE_TRIPS");
	unsigned long number = text ? strtoul(text, NULL, 0) : 0;

	return number ?: DEFAULT_TRIPS;
}

/* Contents: each word depends on the seed and on its offset. */

static inline uint64_t pattern(unsigned long seed, size_t offset)
{
	return (offset / sizeof(uint64_t) + 1) * 0x9e3779b97f4a7c15ull ^ seed << 56 ^ seed;
}

static inline void fill_part(void *memory, size_t offset, size_t end,
			     unsigned long seed)
{
	uint64_t *words = memory;

	for (; offset < end; offset += sizeof(*words))
		words[offset / sizeof(*words)] = pattern(seed, offset);
}

static inline void fill(void *memory, size_t size, unsigned long seed)
{
	fill_part(memory, 0, size, seed);
}

/* Number of words from @offset to @end that are not as fill() left them. */
static inline size_t wrong_part(const void *memory, size_t offset, size_t end,
				unsigned long seed)
{
	const uint64_t *words = memory;
	size_t count = 0;

	for (; offset < end; offset += sizeof(*words))
		count += words[offset / sizeof(*words)] != pattern(seed, offset);
	return count;
}

static inline size_t wrong(const void *memory, size_t size, unsigned long seed)
{
	return wrong_part(memory, 0, size, seed);
}

/* Number of words that are not zero; @size is a multiple of the word size. */
static inline size_t nonzero(const void *memory, size_t size)
{
	const uint64_t *words = memory;
	size_t i, count = 0;

	for (i = 0; i < size / sizeof(*words); i++)
		count += words[i] != 0;
	return count;
}

/* Memory */

/* Map small pages, whatever the system's THP policy is. */
static inline void *map_pages(unsigned long npages)
{
	void *memory = mmap(NULL, npages * page_size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory != MAP_FAILED)
		madvise(memory, npages * page_size, MADV_NOHUGEPAGE);
	return memory;
}

/* Map memory that fits a huge page at @memory. Returns the start of the mapping. */
static inline void *map_huge_page(size_t size, unsigned char **memory)
{
	void *area = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*memory = (void *)(((uintptr_t)area + size - 1) & ~(size - 1));
	if (area != MAP_FAILED && madvise(*memory, size, MADV_HUGEPAGE)) {
		munmap(area, 2 * size);
		return MAP_FAILED;
	}
	return area;
}

/* Kernel files */

/*
 * Map @size bytes filled with seed 1: half of it huge pages if possible, half small
 * pages.
 */
static inline bool map_both(void **area, unsigned char **memory, size_t size)
{
	*area = map_huge_page(2 * size, memory);
	if (*area == MAP_FAILED || madvise(*memory + size / 2, size, MADV_NOHUGEPAGE))
		return false;
	fill(*memory, size, 1);
	return true;
}

static inline double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static inline long read_number(const char *path)
{
	FILE *file = fopen(path, "r");
	long value = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%ld", &value) != 1)
		value = -1;
	fclose(file);
	return value;
}

static inline bool write_number(const char *path, long value)
{
	FILE *file = fopen(path, "w");
	bool written;

	if (!file)
		return false;
	written = fprintf(file, "%ld", value) > 0;
	return !fclose(file) && written;
}

/* The number behind @key in a file with one key and number per line, or -1. */
static inline long read_key(const char *path, const char *key)
{
	FILE *file = fopen(path, "r");
	size_t length = strlen(key);
	char line[256];
	long value = -1;

	if (!file)
		return -1;
	while (value < 0 && fgets(line, sizeof(line), file)) {
		if (!strncmp(line, key, length) && isspace(line[length]))
			value = strtol(line + length, NULL, 10);
	}
	fclose(file);
	return value;
}

/* For example the counters of all range migrations. */
static inline long read_vmstat(const char *name)
{
	return read_key("/proc/vmstat", name);
}

static inline size_t huge_page_size(void)
{
	long size = read_number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");

	return size < 0 ? 0 : size;
}

/* Choose a word in a file that lists the words to choose from. */
static inline bool choose(const char *path, const char *choice)
{
	FILE *file = fopen(path, "w");
	bool written;

	if (!file)
		return false;
	written = fputs(choice, file) >= 0;
	return !fclose(file) && written;
}

/* The word in brackets, which is the current choice; or an empty string. */
static inline void read_choice(const char *path, char *choice, size_t size)
{
	FILE *file = fopen(path, "r");
	char text[256], *start, *end;

	*choice = '\0';
	if (!file)
		return;
	if (fgets(text, sizeof(text), file)) {
		start = strchr(text, '[');
		end = start ? strchr(start, ']') : NULL;
		if (end)
			snprintf(choice, size, "%.*s", (int)(end - start - 1), start + 1);
	}
	fclose(file);
}

/* The path of @file for folios of @order in /sys/kernel/mm/transparent_hugepage. */
static inline void size_path(unsigned int order, const char *file, char *path, size_t size)
{
	snprintf(path, size,
		 "/sys/kernel/mm/transparent_hugepage/hugepages-%lukB/%s",
		 (page_size << order) / 1024, file);
}

/* The page-fault policy for folios of one order, to be restored later. */
struct policy {
	char path[128];
	char before[32];
};

/* Returns false if the kernel does not know folios of @order. */
static inline bool set_policy(struct policy *policy, unsigned int order,
			      const char *choice)
{
	size_path(order, "enabled", policy->path, sizeof(policy->path));
	if (!*policy->before)
		read_choice(policy->path, policy->before, sizeof(policy->before));
	return *policy->before && choose(policy->path, choice);
}

static inline void restore_policy(struct policy *policy)
{
	if (*policy->before)
		choose(policy->path, policy->before);
}

/* The number behind @name in /proc/self/smaps for the mapping that starts at @addr. */
static inline long smaps_kib(const void *addr, const char *name)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	bool found = false;
	char line[512];
	long kib = -1;

	if (!file)
		return -1;
	while (kib < 0 && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			found = start == (uintptr_t)addr;
		else if (found && !strncmp(line, name, strlen(name)))
			kib = strtol(line + strlen(name) + 1, NULL, 10);
	}
	fclose(file);
	return kib;
}

/* Bits of /proc/self/pagemap. */
#define PM_PFN		0x007fffffffffffffULL
#define PM_SOFT_DIRTY	0x0080000000000000ULL
#define PM_UFFD_WP	0x0200000000000000ULL
#define PM_SWAP		0x4000000000000000ULL
#define PM_PRESENT	0x8000000000000000ULL

static inline uint64_t pagemap_of(const void *addr)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (fd >= 0 && pread(fd, &entry, sizeof(entry), (uintptr_t)addr /
			     page_size * sizeof(entry)) != sizeof(entry))
		entry = 0;
	if (fd >= 0)
		close(fd);
	return entry;
}

/*
 * Whether a write to memory that was read-only so far reuses the page, although a
 * pipe has a reference to it. That is so only if the page is known to be exclusive.
 * Leaves the memory writable.
 */
static inline bool written_in_place(void *memory, size_t size)
{
	struct iovec iov = { .iov_base = memory, .iov_len = page_size };
	atomic_ulong *word = memory;
	bool in_place;
	uint64_t pfn;
	int fds[2];

	if (pipe(fds))
		return false;
	in_place = vmsplice(fds[1], &iov, 1, 0) == (ssize_t)page_size &&
		   !mprotect(memory, size, PROT_READ | PROT_WRITE);
	if (in_place) {
		pfn = pagemap_of(memory) & PM_PFN;
		*word |= 0;
		in_place = pfn && pfn == (pagemap_of(memory) & PM_PFN);
	}
	close(fds[0]);
	close(fds[1]);
	return in_place;
}

#define CLEAR_REFERENCED	"1"
#define CLEAR_SOFT_DIRTY	"4"

static inline bool clear_references(const char *what)
{
	int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	bool cleared = fd >= 0 && write(fd, what, 1) == 1;

	if (fd >= 0)
		close(fd);
	return cleared;
}

/* Control groups */

#define CGROUPS	"/sys/fs/cgroup/"
#define MEMCG	CGROUPS "hmm_migrate/"

static inline bool have_swap(void)
{
	char line[256];
	int lines = 0;
	FILE *swaps = fopen("/proc/swaps", "r");

	if (!swaps)
		return false;
	while (fgets(line, sizeof(line), swaps))
		lines++;
	fclose(swaps);
	return lines > 1;
}

/* Other processes */

/* Fork a child that is killed if the test fails. */
static inline pid_t fork_child(void)
{
	pid_t pid = fork();

	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

/* Exit status of the child @pid, or -1. */
static inline int reap(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

/* Wait for a byte from the pipe, which the other side sends at a certain point. */
static inline bool wait_for(int fd)
{
	char byte;

	return read(fd, &byte, 1) == 1;
}

static inline bool tell(int fd)
{
	return write(fd, "t", 1) == 1;
}

/* The signal that kills a child that writes to @memory, or 0 if it may write. */
static inline int signal_of_write(unsigned char *memory)
{
	int status;
	pid_t pid = fork_child();

	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		*memory = ~*memory;
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* The driver's ioctls: 0 or -errno */

static inline int device_ioctl(int fd, unsigned long request, void *argument)
{
	return ioctl(fd, request, argument) ? -errno : 0;
}

static inline int open_device(unsigned int device)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/hmm_migrate%u", device);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* The order of the folios that fill holes, for calls with TEST_HMM_MIGRATE_LARGE. */
static unsigned int hole_order;

/* Migrate by the three calls of migrate.h instead of hmm_migrate_range(). */
static bool bare;

/* Flags that only hmm_migrate_range() supports. */
#define RANGE_FLAGS \
	(TEST_HMM_MIGRATE_SKIP_GAPS | TEST_HMM_MIGRATE_STOP_NO_MEMORY | \
	 TEST_HMM_MIGRATE_STOP_ON_ERROR | TEST_HMM_MIGRATE_ENGINE | \
	 TEST_HMM_MIGRATE_MAKE_ROOM | TEST_HMM_MIGRATE_PEERS | \
	 TEST_HMM_MIGRATE_NO_WAIT)

static inline bool is_bare(void)
{
	return bare || getenv("HMM_MIGRATE_BARE");
}

static inline unsigned int path_flag(unsigned int flags)
{
	return is_bare() && !(flags & RANGE_FLAGS) ? TEST_HMM_MIGRATE_BARE : 0;
}

static inline int set_fault_order(int fd, unsigned int order)
{
	struct test_hmm_migrate_fault_order argument = {
		.size = sizeof(argument),
		.flags = is_bare() ? TEST_HMM_MIGRATE_FAULT_BARE : 0,
		.order = order,
	};

	return device_ioctl(fd, TEST_HMM_MIGRATE_FAULT_ORDER, &argument);
}

static inline int migrate(int fd, unsigned long request, void *addr,
			  unsigned long npages, unsigned int flags,
			  struct test_hmm_migrate_range *range)
{
	memset(range, 0, sizeof(*range));
	range->size = sizeof(*range);
	range->flags = flags | path_flag(flags);
	range->addr = (uintptr_t)addr;
	range->length = npages * page_size;
	if (request == TEST_HMM_MIGRATE_TO_DEVICE && flags & TEST_HMM_MIGRATE_LARGE)
		range->hole_order = hole_order;
	return device_ioctl(fd, request, range);
}

static inline int to_device(int fd, void *addr, unsigned long npages,
			    struct test_hmm_migrate_range *range)
{
	return migrate(fd, TEST_HMM_MIGRATE_TO_DEVICE, addr, npages, 0, range);
}

static inline int to_system(int fd, void *addr, unsigned long npages,
			    struct test_hmm_migrate_range *range)
{
	return migrate(fd, TEST_HMM_MIGRATE_TO_SYSTEM, addr, npages, 0, range);
}

/*
 * All pages that are accounted for. A page counts as skipped if it was locked at
 * first and unmapped at the next look.
 */
static inline uint64_t sum_of(const struct test_hmm_migrate_range *range)
{
	uint64_t sum = range->skipped;
	int i;

	for (i = 0; i < TEST_HMM_MIGRATE_FATES; i++)
		sum += range->pages[i];
	return sum;
}

/* Migrate in chunks of @chunk bytes. Every page up to @range->done must be in a count. */
static inline int migrate_chunks(int fd, unsigned long request, void *addr,
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

static inline int access_memory(int fd, unsigned long request, void *addr,
				size_t size, const void *buffer,
				struct test_hmm_migrate_access *access)
{
	memset(access, 0, sizeof(*access));
	access->size = sizeof(*access);
	access->addr = (uintptr_t)addr;
	access->length = size;
	access->buffer = (uintptr_t)buffer;
	return device_ioctl(fd, request, access);
}

static inline int device_read(int fd, void *addr, size_t size, void *buffer)
{
	struct test_hmm_migrate_access access;

	return access_memory(fd, TEST_HMM_MIGRATE_READ, addr, size, buffer, &access);
}

static inline int device_write(int fd, void *addr, size_t size, const void *buffer)
{
	struct test_hmm_migrate_access access;

	return access_memory(fd, TEST_HMM_MIGRATE_WRITE, addr, size, buffer, &access);
}

/*
 * Number of wrong words in a part of @memory as the device sees them, without any CPU
 * access.
 */
static inline size_t device_wrong_part(int fd, void *memory, size_t offset,
				       size_t end, unsigned long seed)
{
	size_t count = end - offset;
	void *buffer = malloc(end);

	if (buffer && !device_read(fd, memory + offset, end - offset,
				   buffer + offset))
		count = wrong_part(buffer, offset, end, seed);
	free(buffer);
	return count;
}

static inline size_t device_wrong(int fd, void *addr, size_t size,
				  unsigned long seed)
{
	return device_wrong_part(fd, addr, 0, size, seed);
}

static inline int snapshot(int fd, void *addr, unsigned long npages,
			   struct test_hmm_migrate_page *pages)
{
	struct test_hmm_migrate_snapshot argument = {
		.size = sizeof(argument),
		.addr = (uintptr_t)addr,
		.length = npages * page_size,
		.buffer = (uintptr_t)pages,
	};
	int ret = device_ioctl(fd, TEST_HMM_MIGRATE_SNAPSHOT, &argument);

	if (!ret && argument.done != npages)
		return -EIO;
	return ret;
}

/* Number of pages that are in folios of @order. */
static inline unsigned long pages_of_order(int fd, void *addr, unsigned long pages,
					   unsigned int order)
{
	struct test_hmm_migrate_page *snap = calloc(pages, sizeof(*snap));
	unsigned long i, count = 0;

	if (snap && !snapshot(fd, addr, pages, snap))
		for (i = 0; i < pages; i++)
			count += snap[i].folio_order == order;
	free(snap);
	return count;
}

#define ANYWHERE	(-1U)

/* Number of pages of the range that are @where and have all of @flags, or -errno. */
static inline long count_pages(int fd, void *addr, unsigned long npages,
			       unsigned int where, unsigned int flags)
{
	struct test_hmm_migrate_page *pages = calloc(npages, sizeof(*pages));
	unsigned long i;
	long count = 0;
	int ret;

	ret = pages ? snapshot(fd, addr, npages, pages) : -ENOMEM;
	for (i = 0; !ret && i < npages; i++)
		count += (where == ANYWHERE || pages[i].where == where) &&
			 (pages[i].flags & flags) == flags;
	free(pages);
	return ret ? ret : count;
}

static inline long pages_at(int fd, void *addr, unsigned long npages,
			    unsigned int where)
{
	return count_pages(fd, addr, npages, where, 0);
}

static inline long writable_pages(int fd, void *addr, unsigned long npages)
{
	return count_pages(fd, addr, npages, ANYWHERE, TEST_HMM_MIGRATE_WRITABLE);
}

/* Inject failures for folios of @order or larger. */
static inline int inject_order(int fd, unsigned int what, unsigned int order,
			       unsigned long nth, unsigned long times)
{
	struct test_hmm_migrate_inject argument = {
		.size = sizeof(argument),
		.what = what,
		.order = order,
		.nth = nth,
		.times = times,
	};

	return device_ioctl(fd, TEST_HMM_MIGRATE_INJECT, &argument);
}

static inline int inject(int fd, unsigned int what, unsigned long nth,
			 unsigned long times)
{
	return inject_order(fd, what, 0, nth, times);
}

static inline void disarm(int fd)
{
	unsigned int what;

	for (what = 0; what < TEST_HMM_MIGRATE_NR_FAIL; what++)
		inject(fd, what, 0, 0);
}

static inline int statistics(int fd, unsigned int flags,
			     struct test_hmm_migrate_statistics *stats)
{
	memset(stats, 0, sizeof(*stats));
	stats->size = sizeof(*stats);
	stats->flags = flags;
	return device_ioctl(fd, TEST_HMM_MIGRATE_STATISTICS, stats);
}

static inline int get_info(int fd, struct test_hmm_migrate_info *info)
{
	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	return device_ioctl(fd, TEST_HMM_MIGRATE_INFO, info);
}

/* Device pages in use; a free may be delayed a little by RCU or a batch. */
static inline long device_used(int fd, unsigned long expected)
{
	struct test_hmm_migrate_info info;
	long used = -1;
	int tries;

	for (tries = 0; tries < 100; tries++) {
		int ret = get_info(fd, &info);

		if (ret)
			return ret;
		used = info.pages - info.free;
		if (used == (long)expected)
			break;
		usleep(20000);
	}
	return used;
}

static inline int evict_by(int fd, unsigned int flags,
			   struct test_hmm_migrate_evict *argument)
{
	memset(argument, 0, sizeof(*argument));
	argument->size = sizeof(*argument);
	argument->flags = flags;
	return device_ioctl(fd, TEST_HMM_MIGRATE_EVICT, argument);
}

static inline int evict(int fd, struct test_hmm_migrate_evict *argument)
{
	return evict_by(fd, is_bare() ? TEST_HMM_MIGRATE_EVICT_BARE : 0, argument);
}

/* Number of pages that the device got exclusive access to, or -errno. */
static inline long take(int fd, void *addr, unsigned long npages)
{
	struct test_hmm_migrate_take argument = {
		.size = sizeof(argument),
		.addr = (uintptr_t)addr,
		.length = npages * page_size,
	};
	int ret = device_ioctl(fd, TEST_HMM_MIGRATE_TAKE, &argument);

	return ret ? ret : (long)argument.pages;
}

/* The engines of lib/test_hmm_migrate_dma.c */

#define ENGINE	"/sys/module/test_hmm_migrate_dma/parameters/"
#define LET_CPU	"/sys/module/test_hmm_migrate/parameters/let_cpu"

static inline bool have_engine(void)
{
	return !access(ENGINE "latency_ns", R_OK);
}

/* Restore the defaults of the module parameters. */
static inline void reset_engine(void)
{
	write_number(ENGINE "bandwidth_mb", 20000);
	write_number(ENGINE "latency_ns", 10000);
	write_number(ENGINE "fail_nth", 0);
	write_number(ENGINE "fail_all", 0);
	write_number(ENGINE "fail_word", 0);
	write_number(ENGINE "descriptors", 0);
	write_number(ENGINE "hang", 0);
	write_number(ENGINE "prep_ns", 0);
	write_number(LET_CPU, 0);
}

/* The number of DMA mappings of all drivers, by DMA_API_DEBUG, or -1. */
#define DMA_DEBUG	"/sys/kernel/debug/dma-api/"

/* SIGBUS */

static sigjmp_buf on_sigbus;

/* Whether reading @memory, filled with @seed, raises SIGBUS. */
static inline bool raises_sigbus(const void *memory, size_t size,
				 unsigned long seed, size_t *wrong_words)
{
	if (sigsetjmp(on_sigbus, 1))
		return true;
	*wrong_words = wrong(memory, size, seed);
	return false;
}

static inline void jump_on_sigbus(int signal)
{
	siglongjmp(on_sigbus, 1);
}

/* KSM */

#define KSM "/sys/kernel/mm/ksm/"

/* Let KSM merge the equal pages of the memory, @expected of them. */
static inline bool merge_pages(void *memory, size_t size, long expected)
{
	long run = read_number(KSM "run"), scan = read_number(KSM "pages_to_scan");
	bool merged = false;
	int tries;

	if (madvise(memory, size, MADV_MERGEABLE))
		return false;
	write_number(KSM "pages_to_scan", 10000);
	write_number(KSM "run", 1);
	for (tries = 0; tries < 1000 && !merged; tries++) {
		merged = read_number("/proc/self/ksm_merging_pages") >= expected;
		usleep(20000);
	}
	write_number(KSM "run", run);
	write_number(KSM "pages_to_scan", scan);
	return merged;
}

/* Long-term pins, through gup_test */

#define GUP_TEST	"/sys/kernel/debug/gup_test"

static inline bool can_pin(void)
{
	return !access(GUP_TEST, W_OK);
}

/*
 * The pages stay pinned until the returned file is closed. Returns a negative errno
 * on failure.
 */
static inline int pin(void *addr, size_t size, unsigned int flags)
{
	struct pin_longterm_test argument = {
		.addr = (uintptr_t)addr,
		.size = size,
		.flags = flags,
	};
	int gup = open(GUP_TEST, O_RDWR | O_CLOEXEC), ret;

	if (gup < 0)
		return -errno;
	ret = device_ioctl(gup, PIN_LONGTERM_TEST_START, &argument);
	if (ret)
		close(gup);
	return ret ?: gup;
}

/* Read the contents through the pin. */
static inline int read_pinned(int gup, void *buffer)
{
	uint64_t to = (uintptr_t)buffer;

	return ioctl(gup, PIN_LONGTERM_TEST_READ, &to);
}

/* userfaultfd */

static inline int open_userfaultfd(__u64 features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK |
			 UFFD_USER_MODE_ONLY);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -1;
	}
	return fd;
}

static inline bool write_protect(int fd, void *addr, size_t size, bool protect)
{
	struct uffdio_writeprotect argument = {
		.range = { .start = (uintptr_t)addr, .len = size },
		.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return !ioctl(fd, UFFDIO_WRITEPROTECT, &argument);
}

/* Threads that migrate */

struct worker {
	pthread_t thread;
	int fd;
	unsigned char *memory;
	unsigned long npages;
	unsigned long rounds;
	unsigned int flags;
	unsigned long moved;
	unsigned long errors;
	atomic_bool *stop;
};

static inline void migrate_once(struct worker *worker, unsigned long request)
{
	struct test_hmm_migrate_range range;

	worker->errors += !!migrate(worker->fd, request, worker->memory,
				    worker->npages, worker->flags, &range);
	worker->errors += sum_of(&range) != worker->npages;
	if (request == TEST_HMM_MIGRATE_TO_DEVICE)
		worker->moved += range.pages[TEST_HMM_MIGRATE_MOVED];
}

static inline void *migrate_to_and_fro(void *data)
{
	struct worker *worker = data;
	unsigned long i;

	for (i = 0; i < worker->rounds; i++) {
		migrate_once(worker, TEST_HMM_MIGRATE_TO_DEVICE);
		migrate_once(worker, TEST_HMM_MIGRATE_TO_SYSTEM);
	}
	return NULL;
}

static inline void *read_by_cpu(void *data)
{
	struct worker *worker = data;

	while (!*worker->stop)
		worker->errors += wrong(worker->memory,
					worker->npages * page_size, 1);
	return NULL;
}

/* Two threads migrate the range through the two files, a third one reads it. */
static inline void
migrate_against_each_other(struct __test_metadata *_metadata, int first,
			   int second, unsigned char *memory,
			   unsigned long npages, unsigned int flags)
{
	atomic_bool stop = false;
	struct worker workers[3];
	int i;

	for (i = 0; i < 3; i++) {
		workers[i] = (struct worker) {
			.fd = i ? second : first,
			.memory = memory,
			.npages = npages,
			.flags = flags,
			.rounds = trips() / 10 + 1,
			.stop = &stop,
		};
		ASSERT_EQ(0, pthread_create(&workers[i].thread, NULL,
					    i < 2 ? migrate_to_and_fro : read_by_cpu,
					    &workers[i]));
	}
	for (i = 0; i < 3; i++) {
		if (i == 2)
			stop = true;
		pthread_join(workers[i].thread, NULL);
		EXPECT_EQ(0, workers[i].errors);
	}
	EXPECT_LT(0, workers[0].moved + workers[1].moved);
	EXPECT_EQ(0, wrong(memory, npages * page_size, 1));
}

/* Kill like the OOM killer: release the memory before the threads are gone. */
static inline void kill_and_release(pid_t pid)
{
	int fd = syscall(SYS_pidfd_open, pid, 0);

	kill(pid, SIGKILL);
	/*
	 * EAGAIN: the reaper could not get mmap_lock. ESRCH: the process is already
	 * gone.
	 */
	while (syscall(SYS_process_mrelease, fd, 0) && errno == EAGAIN)
		;
	close(fd);
}

/* Kill a process in the middle of a migration, again and again. */
static inline void kill_while_migrating(struct __test_metadata *_metadata,
					unsigned int device,
					unsigned char *memory,
					unsigned long npages, unsigned int flags)
{
	unsigned long round, rounds = trips() / 50 + 1;

	for (round = 0; round < rounds; round++) {
		int ready[2];
		pid_t pid;

		ASSERT_EQ(0, pipe(ready));
		pid = fork_child();
		ASSERT_LE(0, pid);
		if (!pid) {
			struct worker worker = {
				.fd = open_device(device),
				.memory = memory,
				.npages = npages,
				.flags = flags,
				.rounds = 1,
			};

			do {
				migrate_to_and_fro(&worker);
			} while (!worker.errors && tell(ready[1]));
			_exit(1);
		}
		close(ready[1]);
		/* The child is in its second trip or a later one. */
		ASSERT_TRUE(wait_for(ready[0]));
		usleep(round * 700 % 20000);
		if (round % 2)
			kill_and_release(pid);
		else
			kill(pid, SIGKILL);
		EXPECT_EQ(-1, reap(pid));
		ASSERT_EQ(0, wrong(memory, npages * page_size, 1));
		close(ready[0]);
	}
}

/* Threads that hold folio locks for a short time */

struct holder {
	pthread_t thread;
	int fd;
	int ret;
	struct test_hmm_migrate_hold hold;
};

static inline void *hold_range(void *data)
{
	struct holder *holder = data;

	holder->ret = device_ioctl(holder->fd, TEST_HMM_MIGRATE_HOLD,
				   &holder->hold);
	return NULL;
}

/* Returns when the pages are held, or when other holders hold as many. */
static inline bool start_holder(struct holder *holder, int fd,
				unsigned int flags, void *memory,
				unsigned long npages, unsigned long usec)
{
	struct test_hmm_migrate_info info = {};
	int tries;

	holder->fd = fd;
	holder->hold = (struct test_hmm_migrate_hold) {
		.size = sizeof(holder->hold),
		.flags = flags,
		.addr = (uintptr_t)memory,
		.length = npages * page_size,
		.usec = usec,
	};
	if (pthread_create(&holder->thread, NULL, hold_range, holder))
		return false;
	for (tries = 0; tries < 1000000 && info.held < npages; tries++) {
		if (get_info(fd, &info))
			return false;
	}
	return true;
}

#endif /* _SELFTESTS_MM_HMM_MIGRATE_H */
