// SPDX-License-Identifier: GPL-2.0
/*
 * mbind(2), migrate_pages(2) and cpusets, with vm.numa_range_migration off and on: the
 * return value, the node of each page, the folios of the memory and each byte must be the
 * same.
 *
 * Needs two nodes with memory, and root. NUMA_RANGE_DIR in the environment names a directory
 * on a disk file system, to test migration of its files as well.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include "../kselftest_harness.h"

#define SWITCH		"/proc/sys/vm/numa_range_migration"
#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define HUGE		(2UL << 20)
#define SIZE		(2 * HUGE)
#define MAX_PAGES	(SIZE >> 12)
#define TIMEOUT		120

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

/* Bit of /proc/self/pagemap: userfaultfd has write-protected the page. */
#define PAGEMAP_WP	0x200000000000000ULL

/* Bits of /proc/kpageflags. */
#define KPF_COMPOUND_HEAD	15
#define KPF_COMPOUND_TAIL	16

static unsigned long page_size;
static int nodes[2];

/* Kernel files */

static bool read_file(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t n = -1;

	if (fd >= 0) {
		n = read(fd, text, size - 1);
		close(fd);
	}
	text[n < 0 ? 0 : n] = 0;
	return n >= 0;
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return good;
}

static unsigned long read_vmstat(const char *name)
{
	unsigned long value = 0;
	char line[128], key[64];
	FILE *file = fopen("/proc/vmstat", "r");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%63s %lu", key, &value) == 2 && !strcmp(key, name))
			break;
	if (file)
		fclose(file);
	return value;
}

/* The first two nodes with memory. */
static bool find_nodes(void)
{
	unsigned int found = 0;
	char path[64];
	int node;

	for (node = 0; node < 64 && found < 2; node++) {
		char text[4096], *total;

		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/meminfo", node);
		if (!read_file(path, text, sizeof(text)))
			continue;
		total = strstr(text, "MemTotal:");
		if (total && atol(total + 9))
			nodes[found++] = node;
	}
	return found == 2;
}

/* System calls without a wrapper */

static int bind(void *addr, unsigned long length, int mode, unsigned long mask, unsigned int flags)
{
	return syscall(SYS_mbind, addr, length, mode, mask ? &mask : NULL,
		       mask ? 8 * sizeof(mask) : 0, flags);
}

static int set_policy(int mode, unsigned long mask)
{
	return syscall(SYS_set_mempolicy, mode, mask ? &mask : NULL, mask ? 8 * sizeof(mask) : 0);
}

static long migrate(pid_t pid, unsigned long from, unsigned long to)
{
	return syscall(SYS_migrate_pages, pid, 8 * sizeof(from), &from, &to);
}

/*
 * Move pages one by one, so that the vma is not split. Returns false if a page did
 * not move.
 */
static bool move_there(unsigned char *memory, unsigned long pages, unsigned long first,
		       unsigned long step)
{
	bool there = true;
	unsigned long i;

	for (i = first; i < pages; i += step) {
		void *page = memory + i * page_size;
		int status = -1;

		if (syscall(SYS_move_pages, 0, 1UL, &page, &nodes[1], &status, MPOL_MF_MOVE) < 0)
			return false;
		there &= status == nodes[1];
	}
	return there;
}

static unsigned long node_mask(int node)
{
	return 1UL << node;
}

static unsigned long both_nodes(void)
{
	return node_mask(nodes[0]) | node_mask(nodes[1]);
}

/* The outcome of a call */

struct outcome {
	long ret;
	int error;
	unsigned long moved_by_range;
	unsigned long migrated;
	int node[MAX_PAGES];
	char shape[MAX_PAGES + 1];
};

/* Record the node of each page, or -errno without a page. */
static void look_at_nodes(struct outcome *outcome, unsigned char *memory, unsigned long pages)
{
	static void *addresses[MAX_PAGES];
	unsigned long i;

	for (i = 0; i < pages; i++)
		addresses[i] = memory + i * page_size;
	if (syscall(SYS_move_pages, 0, pages, addresses, NULL, outcome->node, 0))
		memset(outcome->node, 0x7f, sizeof(outcome->node));
}

/*
 * Record the folios. H is the first page of a large folio, T another page of it, S a
 * small page, - no page; lower case if the page is write-protected by userfaultfd.
 */
static void look_at_shapes(struct outcome *outcome, unsigned char *memory, unsigned long pages)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	int kpageflags = open("/proc/kpageflags", O_RDONLY);
	static uint64_t entries[MAX_PAGES];
	unsigned long i;

	memset(outcome->shape, 0, sizeof(outcome->shape));
	if (pread(pagemap, entries, pages * sizeof(*entries),
		  (uintptr_t)memory / page_size * sizeof(*entries)) < 0)
		memset(entries, 0, sizeof(entries));
	for (i = 0; i < pages; i++) {
		uint64_t flags = 0, pfn;

		outcome->shape[i] = '-';
		if (!(entries[i] >> 63))
			continue;
		pfn = entries[i] & ((1ULL << 55) - 1);
		if (pread(kpageflags, &flags, 8, pfn * 8) != 8)
			continue;
		outcome->shape[i] = flags >> KPF_COMPOUND_HEAD & 1 ? 'H' :
				    flags >> KPF_COMPOUND_TAIL & 1 ? 'T' : 'S';
		if (entries[i] & PAGEMAP_WP)
			outcome->shape[i] += 'a' - 'A';
	}
	close(kpageflags);
	close(pagemap);
}

/* The memory */

/**
 * struct test_kind - the kind of memory of a variant
 * @kib: the size of its folios
 * @file: it belongs to a file, which is a memfd unless @disk
 * @private: mapped privately
 * @disk: a file in NUMA_RANGE_DIR
 */
struct test_kind {
	unsigned long kib;
	bool file;
	bool private;
	bool disk;
};

/**
 * struct test_memory - the memory that moves
 * @memory: its address, which is always the same
 * @pages: number of pages
 * @seed: the seed of its contents
 * @is_shared: writes are visible to others
 * @fd: the file, or -1
 * @userfault: a userfaultfd, or -1
 * @off: the outcome of a scenario with ranges off
 * @on: the outcome with ranges on
 */
struct test_memory {
	unsigned char *memory;
	unsigned long pages;
	unsigned long seed;
	bool is_shared;
	int fd;
	int userfault;
	struct outcome off;
	struct outcome on;
};

FIXTURE(numa_range)
{
	struct test_memory m;
};

FIXTURE_VARIANT(numa_range)
{
	struct test_kind kind;
};

FIXTURE_VARIANT_ADD(numa_range, anon_small) { .kind = { .kib = 4 } };
FIXTURE_VARIANT_ADD(numa_range, anon_64k) { .kind = { .kib = 64 } };
FIXTURE_VARIANT_ADD(numa_range, anon_huge) { .kind = { .kib = 2048 } };
FIXTURE_VARIANT_ADD(numa_range, shmem_small) { .kind = { .kib = 4, .file = true } };
FIXTURE_VARIANT_ADD(numa_range, shmem_64k) { .kind = { .kib = 64, .file = true } };
FIXTURE_VARIANT_ADD(numa_range, shmem_huge) { .kind = { .kib = 2048, .file = true } };
FIXTURE_VARIANT_ADD(numa_range, file_private)
{
	.kind = { .kib = 4, .file = true, .private = true }
};

FIXTURE_VARIANT_ADD(numa_range, disk)
{
	.kind = { .kib = 4, .file = true, .disk = true }
};

FIXTURE_VARIANT_ADD(numa_range, disk_private)
{
	.kind = { .kib = 4, .file = true, .private = true, .disk = true }
};

/* Make faults use folios of this size. Returns false if the kernel cannot. */
static bool set_size(unsigned long kib, bool file, bool on)
{
	char path[128];

	if (kib == 4)
		return true;
	snprintf(path, sizeof(path), THP "hugepages-%lukB/%s", kib,
		 file ? "shmem_enabled" : "enabled");
	return write_file(path, on ? "always" : "never");
}

FIXTURE_SETUP(numa_range)
{
	unsigned char *raw;
	char text[8];

	page_size = sysconf(_SC_PAGESIZE);
	if (page_size != 4096)
		SKIP(return, "needs pages of 4 KiB");
	if (!read_file(SWITCH, text, sizeof(text)) || !write_file(SWITCH, "1"))
		SKIP(return, "no " SWITCH ", or no root");
	if (!find_nodes())
		SKIP(return, "needs two nodes with memory");
	if (!set_size(variant->kind.kib, variant->kind.file, false))
		SKIP(return, "no folios of this size");
	if (variant->kind.disk && !getenv("NUMA_RANGE_DIR"))
		SKIP(return, "NUMA_RANGE_DIR is not set");
	raw = mmap(NULL, SIZE + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		   -1, 0);
	ASSERT_NE(MAP_FAILED, raw);
	self->m.memory = (void *)(((uintptr_t)raw + HUGE - 1) & ~(HUGE - 1));
	self->m.pages = SIZE / page_size;
	self->m.is_shared = variant->kind.file && !variant->kind.private;
	self->m.fd = -1;
	self->m.userfault = -1;
}

FIXTURE_TEARDOWN(numa_range)
{
	set_size(variant->kind.kib, variant->kind.file, false);
	write_file(SWITCH, "1");
}

static void fill(unsigned char *memory, unsigned long pages, unsigned long seed)
{
	unsigned long *words = (unsigned long *)memory;
	unsigned long i;

	for (i = 0; i < pages * page_size / sizeof(*words); i++)
		words[i] = (i + seed) * 0x9e3779b97f4a7c15;
}

static bool is_intact(unsigned char *memory, unsigned long pages, unsigned long seed)
{
	unsigned long *words = (unsigned long *)memory;
	unsigned long i;

	for (i = 0; i < pages * page_size / sizeof(*words); i++)
		if (words[i] != (i + seed) * 0x9e3779b97f4a7c15)
			return false;
	return true;
}

/* Interleaving depends on the inode number, so it must be the same each time, and odd. */
static int make_file(const struct test_kind *kind)
{
	int fds[64], fd = -1;
	unsigned int n = 0;
	struct stat stat;

	if (kind->disk) {
		char path[PATH_MAX];

		snprintf(path, sizeof(path), "%s/numa_range", getenv("NUMA_RANGE_DIR"));
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
		unlink(path);
		return fd;
	}

	while (fd < 0 && n < ARRAY_SIZE(fds)) {
		fds[n] = memfd_create("numa_range", MFD_ALLOW_SEALING);
		if (!fstat(fds[n], &stat) && stat.st_ino % 4 == 1)
			fd = fds[n];
		else
			n++;
	}
	while (n--)
		close(fds[n]);
	return fd;
}

/*
 * Make memory of the variant's kind, all of it on the first node. The address is
 * always the same, because interleaving depends on it.
 */
static void make_memory(struct test_memory *self,
			const struct test_kind *kind)
{
	int flags = MAP_FIXED | (kind->private || !kind->file ? MAP_PRIVATE : MAP_SHARED);

	self->seed++;
	set_policy(MPOL_BIND, node_mask(nodes[0]));
	set_size(kind->kib, kind->file, true);
	if (kind->file) {
		self->fd = make_file(kind);
		if (ftruncate(self->fd, SIZE))
			perror("ftruncate");
		if (kind->private) {
			unsigned char *shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
						     MAP_SHARED, self->fd, 0);

			fill(shared, self->pages, self->seed);
			munmap(shared, SIZE);
		}
	}
	mmap(self->memory, SIZE, PROT_READ | PROT_WRITE,
	     flags | (kind->file ? 0 : MAP_ANONYMOUS), self->fd, 0);
	if (kind->private) {
		/*
		 * Half of the pages stay pages of the file; the other half are private
		 * copies.
		 */
		unsigned char *byte;
		unsigned long i;

		for (i = 0; i < self->pages; i++) {
			byte = self->memory + i * page_size;
			if (i / 8 & 1)
				__atomic_fetch_or(byte, 0, __ATOMIC_RELAXED);
			else
				__atomic_load_n(byte, __ATOMIC_RELAXED);
		}
	} else {
		fill(self->memory, self->pages, self->seed);
	}
	/* All of it has been written to the disk once, and half of it is dirty again. */
	if (kind->disk) {
		fsync(self->fd);
		if (!kind->private)
			fill(self->memory, self->pages / 2, self->seed);
	}
	set_size(kind->kib, kind->file, false);
	set_policy(MPOL_DEFAULT, 0);
}

/* Whether the disk has the contents that were written to memory. */
static bool is_on_disk(struct test_memory *self)
{
	unsigned long words[512], i, j, at = 0;

	if (fsync(self->fd) || posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED))
		return false;
	for (i = 0; i < self->pages; i++) {
		if (pread(self->fd, words, sizeof(words), i * sizeof(words)) != sizeof(words))
			return false;
		for (j = 0; j < 512; j++, at++)
			if (words[j] != (at + self->seed) * 0x9e3779b97f4a7c15)
				return false;
	}
	return true;
}

/* Replace the vmas by a single one without access. */
static void end_memory(struct test_memory *self)
{
	if (self->userfault >= 0)
		close(self->userfault);
	self->userfault = -1;
	mmap(self->memory, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
	     MAP_FIXED, -1, 0);
	if (self->fd >= 0)
		close(self->fd);
}

/* Comparison of outcomes */

typedef long scenario_fn(struct __test_metadata *_metadata, struct test_memory *self,
			 const void *arg);

static void run_once(struct __test_metadata *_metadata, struct test_memory *self,
		     const struct test_kind *kind, scenario_fn *scenario,
		     const void *arg, bool on, struct outcome *outcome)
{
	make_memory(self, kind);
	ASSERT_TRUE(write_file(SWITCH, on ? "1" : "0"));
	outcome->moved_by_range = read_vmstat("migrate_vma_moved");
	outcome->migrated = read_vmstat("pgmigrate_success");
	errno = 0;
	outcome->ret = scenario(_metadata, self, arg);
	outcome->error = errno;
	outcome->moved_by_range = read_vmstat("migrate_vma_moved") - outcome->moved_by_range;
	outcome->migrated = read_vmstat("pgmigrate_success") - outcome->migrated;
	look_at_nodes(outcome, self->memory, self->pages);
	look_at_shapes(outcome, self->memory, self->pages);
	end_memory(self);
}

/*
 * Run the same scenario on memory of the same kind, with the switch off and on. The
 * nodes and the folios of all pages must be the same.
 */
static void compare(struct __test_metadata *_metadata, struct test_memory *self,
		    const struct test_kind *kind, scenario_fn *scenario,
		    const void *arg)
{
	unsigned long i;

	run_once(_metadata, self, kind, scenario, arg, false, &self->off);
	run_once(_metadata, self, kind, scenario, arg, true, &self->on);
	EXPECT_EQ(self->off.ret, self->on.ret);
	EXPECT_EQ(self->off.error, self->on.error);
	EXPECT_EQ(0, self->off.moved_by_range);
	for (i = 0; i < self->pages; i++)
		if (self->off.node[i] != self->on.node[i] ||
		    self->off.shape[i] != self->on.shape[i])
			break;
	if (i == self->pages)
		return;
	TH_LOG("page %lu: without the range, node %d and %c; with it, node %d and %c", i,
	       self->off.node[i], self->off.shape[i], self->on.node[i], self->on.shape[i]);
	EXPECT_EQ(i, self->pages);
}

/* Number of pages on the second node. */
static unsigned long count_moved(struct test_memory *self, const struct outcome *outcome)
{
	unsigned long i, moved = 0;

	for (i = 0; i < self->pages; i++)
		moved += outcome->node[i] == nodes[1];
	return moved;
}

/* Policies */

struct call {
	int mode;
	unsigned long mask;
	unsigned int flags;
};

static long do_bind(struct __test_metadata *_metadata, struct test_memory *self,
		    const void *arg)
{
	const struct call *call = arg;
	long ret = bind(self->memory, SIZE, call->mode, call->mask, call->flags);
	int error = errno;

	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	if (self->fd >= 0 && self->is_shared)
		EXPECT_TRUE(is_on_disk(self));
	errno = error;
	return ret;
}

static void compare_policy(struct __test_metadata *_metadata, struct test_memory *self,
			   const struct test_kind *kind, int mode, unsigned long mask)
{
	struct call call = {
		.mode = mode,
		.mask = mask,
		.flags = MPOL_MF_MOVE | MPOL_MF_STRICT,
	};

	compare(_metadata, self, kind, do_bind, &call);
}

TEST_F_TIMEOUT(numa_range, flags, TIMEOUT)
{
	static const unsigned int flags[] = {
		0, MPOL_MF_STRICT, MPOL_MF_MOVE, MPOL_MF_MOVE_ALL | MPOL_MF_STRICT,
	};
	struct call call = { .mode = MPOL_BIND, .mask = node_mask(nodes[1]) };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		call.flags = flags[i];
		compare(_metadata, &self->m, &variant->kind, do_bind, &call);
		EXPECT_EQ(flags[i] < MPOL_MF_MOVE ? 0 : self->m.pages,
			  self->m.on.moved_by_range);
	}
}

TEST_F_TIMEOUT(numa_range, bind, TIMEOUT)
{
	compare_policy(_metadata, &self->m, &variant->kind, MPOL_BIND, node_mask(nodes[1]));
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
	EXPECT_EQ(self->m.pages, self->m.on.moved_by_range);
	/* Bind to the node where the memory already is. */
	compare_policy(_metadata, &self->m, &variant->kind, MPOL_BIND, node_mask(nodes[0]));
	EXPECT_EQ(0, self->m.on.moved_by_range);
	compare_policy(_metadata, &self->m, &variant->kind, MPOL_BIND, both_nodes());
	EXPECT_EQ(0, self->m.on.moved_by_range);
}

TEST_F_TIMEOUT(numa_range, preferred, TIMEOUT)
{
	compare_policy(_metadata, &self->m, &variant->kind, MPOL_PREFERRED, node_mask(nodes[1]));
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
	EXPECT_EQ(self->m.pages, self->m.on.moved_by_range);
	compare_policy(_metadata, &self->m, &variant->kind, MPOL_PREFERRED_MANY,
		       node_mask(nodes[1]));
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
	EXPECT_EQ(self->m.pages, self->m.on.moved_by_range);
}

TEST_F_TIMEOUT(numa_range, interleave, TIMEOUT)
{
	char path[64];

	compare_policy(_metadata, &self->m, &variant->kind, MPOL_INTERLEAVE, node_mask(nodes[1]));
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
	/* All memory is on the first node, which is one of these. */
	compare_policy(_metadata, &self->m, &variant->kind, MPOL_INTERLEAVE, both_nodes());
	EXPECT_EQ(0, self->m.on.moved_by_range);
	snprintf(path, sizeof(path), "/sys/kernel/mm/mempolicy/weighted_interleave/node%d",
		 nodes[1]);
	if (!write_file(path, "3"))
		return;
	compare_policy(_metadata, &self->m, &variant->kind, MPOL_WEIGHTED_INTERLEAVE,
		       node_mask(nodes[1]));
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
	write_file(path, "1");
}

/* Without a mask, all memory moves to the CPU's node, where it already is. */
TEST_F_TIMEOUT(numa_range, local, TIMEOUT)
{
	compare_policy(_metadata, &self->m, &variant->kind, MPOL_LOCAL, 0);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_EQ(self->m.pages, self->m.on.moved_by_range);
	compare_policy(_metadata, &self->m, &variant->kind, MPOL_DEFAULT, 0);
	EXPECT_EQ(self->m.pages, self->m.on.moved_by_range);
}

/*
 * From the second node to both, by index: the base of the interleaving is the first
 * folio's, also for the pages that the range migration leaves.
 */
static long do_interleave_all(struct __test_metadata *_metadata, struct test_memory *self,
			      const void *arg)
{
	const struct call *call = arg;
	unsigned long from = 13 * page_size, length = SIZE - 29 * page_size;
	unsigned long mask = both_nodes();
	long ret;

	/* The policy of the task applies to memory without a mask. */
	EXPECT_EQ(0, set_policy(call->mode, mask));
	ret = bind(self->memory + from, length, MPOL_DEFAULT, 0, call->flags);
	EXPECT_EQ(0, set_policy(MPOL_DEFAULT, 0));
	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	errno = 0;
	return ret;
}

/*
 * Number of small pages that are not on the node for their index. For shared memory
 * the index is offset by the inode number, which is odd here.
 */
static unsigned long count_astray(struct test_memory *self, const struct test_kind *kind)
{
	unsigned int base = self->is_shared && !kind->disk;
	unsigned long i, astray = 0;

	for (i = 13; i < self->pages - 16; i++)
		astray += self->on.node[i] != nodes[(i + base) % 2];
	return astray;
}

TEST_F_TIMEOUT(numa_range, interleave_by_index, TIMEOUT)
{
	struct call call = { .mode = MPOL_INTERLEAVE, .flags = MPOL_MF_MOVE };
	unsigned long moved;

	compare(_metadata, &self->m, &variant->kind, do_interleave_all, &call);
	EXPECT_EQ(0, self->m.on.ret);
	/* Equal outcomes do not prove that the base is right, so check the nodes. */
	if (variant->kind.kib == 4 && !variant->kind.private)
		EXPECT_EQ(0, count_astray(&self->m, &variant->kind));
	moved = count_moved(&self->m, &self->m.on);
	EXPECT_GT(moved, self->m.pages / 3);
	EXPECT_LT(moved, self->m.pages * 2 / 3);
	call.mode = MPOL_WEIGHTED_INTERLEAVE;
	compare(_metadata, &self->m, &variant->kind, do_interleave_all, &call);
}

/* Pages that cannot move at once, or not at all */

static long bind_there(struct test_memory *self, unsigned long from, unsigned long length,
		       unsigned int flags)
{
	return bind(self->memory + from, length, MPOL_BIND, node_mask(nodes[1]), flags);
}

/* If a range cuts folios in two, the folios move whole and are not split. */
static long do_parts(struct __test_metadata *_metadata, struct test_memory *self,
		     const void *arg)
{
	long ret = 0;

	ret |= bind_there(self, 3 * page_size, 5 * page_size, MPOL_MF_MOVE);
	ret |= bind_there(self, HUGE - page_size, 2 * page_size, MPOL_MF_MOVE);
	ret |= bind_there(self, HUGE + 7 * page_size, HUGE / 2, MPOL_MF_MOVE | MPOL_MF_STRICT);
	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	errno = 0;
	return ret;
}

TEST_F_TIMEOUT(numa_range, parts_of_folios, TIMEOUT)
{
	compare(_metadata, &self->m, &variant->kind, do_parts, NULL);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_GE(count_moved(&self->m, &self->m.on), 263);
}

/*
 * Folios with holes in the middle, and with other folios in these holes; the range
 * has a part or all of them. Each folio must be queued, and counted, once.
 */
static long do_punched(struct __test_metadata *_metadata, struct test_memory *self,
		       const void *arg)
{
	unsigned long i, length = *(const unsigned long *)arg;

	set_policy(MPOL_BIND, node_mask(nodes[0]));
	for (i = 0; i < SIZE; i += HUGE / 2) {
		EXPECT_EQ(0, madvise(self->memory + i + 64 * page_size, 40 * page_size,
				     MADV_DONTNEED));
		EXPECT_EQ(0, madvise(self->memory + i + 3 * page_size, page_size, MADV_DONTNEED));
		EXPECT_EQ(0, madvise(self->memory + i + 5 * page_size, page_size, MADV_DONTNEED));
		self->memory[i + 3 * page_size] = 1;
		self->memory[i + 5 * page_size] = 1;
	}
	set_policy(MPOL_DEFAULT, 0);
	return bind_there(self, 0, length, MPOL_MF_MOVE | MPOL_MF_STRICT);
}

TEST_F_TIMEOUT(numa_range, punched_folios, TIMEOUT)
{
	unsigned long length = SIZE;

	compare(_metadata, &self->m, &variant->kind, do_punched, &length);
	EXPECT_EQ(0, self->m.on.ret);
	length = SIZE - HUGE / 2;
	compare(_metadata, &self->m, &variant->kind, do_punched, &length);
	EXPECT_EQ(0, self->m.on.ret);
	length = HUGE / 4;
	compare(_metadata, &self->m, &variant->kind, do_punched, &length);
	EXPECT_EQ(0, self->m.on.ret);
}

/* A pipe has references to every 32nd page. */
static long do_pinned(struct __test_metadata *_metadata, struct test_memory *self,
		      const void *arg)
{
	const struct call *call = arg;
	unsigned long i;
	int pipe_fds[2], error;
	long ret;

	ASSERT_EQ(0, pipe(pipe_fds));
	ASSERT_GE(fcntl(pipe_fds[1], F_SETPIPE_SZ, 1 << 20), 1 << 18);
	for (i = 0; i < self->pages; i += 32) {
		struct iovec iov = { self->memory + i * page_size, page_size };

		ASSERT_EQ(page_size, vmsplice(pipe_fds[1], &iov, 1, 0));
	}
	if (call->mode == MPOL_LOCAL)
		ret = bind(self->memory, SIZE, MPOL_LOCAL, 0, call->flags);
	else
		ret = bind_there(self, 0, SIZE, call->flags);
	error = errno;
	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	errno = error;
	return ret;
}

TEST_F_TIMEOUT(numa_range, pinned, TIMEOUT)
{
	struct call call = { .mode = MPOL_BIND, .flags = MPOL_MF_MOVE };

	compare(_metadata, &self->m, &variant->kind, do_pinned, &call);
	EXPECT_EQ(0, self->m.on.ret);
	call.flags |= MPOL_MF_STRICT;
	compare(_metadata, &self->m, &variant->kind, do_pinned, &call);
	EXPECT_EQ(-1, self->m.on.ret);
	EXPECT_EQ(EIO, self->m.on.error);
}

/*
 * All memory must move then, and pages that have moved must not move again because
 * others failed.
 */
TEST_F_TIMEOUT(numa_range, pinned_without_a_mask, TIMEOUT)
{
	struct call call = { .mode = MPOL_LOCAL, .flags = MPOL_MF_MOVE };

	compare(_metadata, &self->m, &variant->kind, do_pinned, &call);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_LE(self->m.on.migrated, self->m.off.migrated + self->m.pages / 8);
}

/* A hole is an error, and no page may move. */
static long do_hole(struct __test_metadata *_metadata, struct test_memory *self,
		    const void *arg)
{
	int mode = *(const int *)arg;

	EXPECT_EQ(0, munmap(self->memory + HUGE, page_size));
	return bind(self->memory, SIZE, mode, mode == MPOL_DEFAULT ? 0 : node_mask(nodes[1]),
		    MPOL_MF_MOVE);
}

TEST_F_TIMEOUT(numa_range, holes, TIMEOUT)
{
	int mode = MPOL_BIND;

	compare(_metadata, &self->m, &variant->kind, do_hole, &mode);
	EXPECT_EQ(-1, self->m.on.ret);
	EXPECT_EQ(EFAULT, self->m.on.error);
	EXPECT_EQ(0, self->m.on.moved_by_range);
	mode = MPOL_DEFAULT;
	compare(_metadata, &self->m, &variant->kind, do_hole, &mode);
	EXPECT_EQ(0, self->m.on.ret);
}

/* Several vmas, swapped-out pages, mlock(), missing pages, and pages on another node. */
static long do_mixed(struct __test_metadata *_metadata, struct test_memory *self,
		     const void *arg)
{
	unsigned long part = SIZE / 8;
	const bool *keep = arg;
	long ret;
	int error;

	EXPECT_EQ(0, mprotect(self->memory + part, part, PROT_READ));
	EXPECT_EQ(0, mprotect(self->memory + 2 * part, part, PROT_NONE));
	EXPECT_EQ(0, mlock(self->memory + 3 * part, part));
	EXPECT_EQ(0, bind_there(self, 5 * part, part, MPOL_MF_MOVE));
	if (!*keep)
		EXPECT_EQ(0, madvise(self->memory + 6 * part, 40 * page_size, MADV_DONTNEED));
	madvise(self->memory + 7 * part, part / 2, MADV_PAGEOUT);
	ret = bind_there(self, 0, SIZE, MPOL_MF_MOVE | MPOL_MF_STRICT);
	error = errno;
	EXPECT_EQ(0, mprotect(self->memory + part, 2 * part, PROT_READ | PROT_WRITE));
	if (*keep)
		EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	errno = error;
	return ret;
}

TEST_F_TIMEOUT(numa_range, mixed, TIMEOUT)
{
	bool keep = false;

	compare(_metadata, &self->m, &variant->kind, do_mixed, &keep);
	keep = true;
	compare(_metadata, &self->m, &variant->kind, do_mixed, &keep);
	EXPECT_EQ(0, self->m.on.ret);
}

/*
 * userfaultfd write-protects every second part, which must still be protected in the
 * end.
 */
static long do_write_protected(struct __test_metadata *_metadata, struct test_memory *self,
			       const void *arg)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM };
	struct uffdio_register reg = {
		.range = { (uintptr_t)self->memory, SIZE },
		.mode = UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING,
	};
	unsigned long i, part = SIZE / 16;
	int error;
	long ret;

	self->userfault = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	ASSERT_GE(self->userfault, 0);
	ASSERT_EQ(0, ioctl(self->userfault, UFFDIO_API, &api));
	ASSERT_EQ(0, ioctl(self->userfault, UFFDIO_REGISTER, &reg));
	for (i = 0; i < SIZE; i += 2 * part) {
		struct uffdio_writeprotect protect = {
			.range = { (uintptr_t)self->memory + i, part },
			.mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		EXPECT_EQ(0, ioctl(self->userfault, UFFDIO_WRITEPROTECT, &protect));
	}
	ret = bind_there(self, 0, SIZE, MPOL_MF_MOVE | MPOL_MF_STRICT);
	error = errno;
	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	errno = error;
	return ret;
}

TEST_F_TIMEOUT(numa_range, write_protected, TIMEOUT)
{
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		SKIP(return, "no userfaultfd");
	close(fd);
	/* userfaultfd does not support files of a disk. */
	if (variant->kind.disk)
		return;
	compare(_metadata, &self->m, &variant->kind, do_write_protected, NULL);
	EXPECT_EQ(0, self->m.on.ret);
	/* Write protection unmaps shared memory that a PMD maps. */
	if (variant->kind.kib == 2048 && variant->kind.file)
		return;
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
	EXPECT_NE(NULL, strpbrk(self->m.on.shape, "hts"));
}

/* The seals allow no writes except by this mapping, and no change of the size. */
static long do_sealed(struct __test_metadata *_metadata, struct test_memory *self,
		      const void *arg)
{
	EXPECT_EQ(0, fcntl(self->fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK |
			   F_SEAL_FUTURE_WRITE));
	return bind_there(self, 0, SIZE, MPOL_MF_MOVE | MPOL_MF_STRICT);
}

TEST_F_TIMEOUT(numa_range, sealed, TIMEOUT)
{
	/* Only memfds have seals. */
	if (!variant->kind.file || variant->kind.disk)
		return;
	compare(_metadata, &self->m, &variant->kind, do_sealed, NULL);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
}

/* hugetlb folios between other folios: the old code migrates them. */
static long do_hugetlb(struct __test_metadata *_metadata, struct test_memory *self,
		       const void *arg)
{
	void *huge = mmap(self->memory + HUGE, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			  MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED, -1, 0);
	int error;
	long ret;

	ASSERT_EQ(self->memory + HUGE, huge);
	set_policy(MPOL_BIND, node_mask(nodes[0]));
	fill(huge, HUGE / page_size, 9);
	set_policy(MPOL_DEFAULT, 0);
	ret = bind_there(self, 0, SIZE, MPOL_MF_MOVE | MPOL_MF_STRICT);
	error = errno;
	EXPECT_TRUE(is_intact(self->memory, HUGE / page_size, self->seed));
	EXPECT_TRUE(is_intact(huge, HUGE / page_size, 9));
	errno = error;
	return ret;
}

TEST_F_TIMEOUT(numa_range, hugetlb, TIMEOUT)
{
	char path[96];
	int node;

	for (node = 0; node < 2; node++) {
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages",
			 nodes[node]);
		if (!write_file(path, "2"))
			SKIP(return, "no hugetlb pages");
	}
	compare(_metadata, &self->m, &variant->kind, do_hugetlb, NULL);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
	for (node = 0; node < 2; node++) {
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages",
			 nodes[node]);
		write_file(path, "0");
	}
}

/* Another process maps the memory as well. */
static long do_shared(struct __test_metadata *_metadata, struct test_memory *self,
		      const void *arg)
{
	/* Written after the call; the child sees it if it shares the memory. */
	unsigned long written = self->seed + 1000;
	unsigned int flags = *(const unsigned int *)arg;
	int go[2], ready[2], error, status = -1;
	char c = 0;
	pid_t pid;
	long ret;

	ASSERT_EQ(0, pipe(go));
	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		/* fork() does not copy PTEs of file pages, so this maps them. */
		bool good = is_intact(self->memory, self->pages, self->seed);

		if (write(ready[1], &c, 1) != 1 || read(go[0], &c, 1) != 1)
			_exit(2);
		good &= is_intact(self->memory, self->pages,
				  self->is_shared ? written : self->seed);
		_exit(!good);
	}
	EXPECT_EQ(1, read(ready[0], &c, 1));
	ret = bind_there(self, 0, SIZE, flags);
	error = errno;
	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	if (self->is_shared)
		fill(self->memory, self->pages, written);
	EXPECT_EQ(1, write(go[1], &c, 1));
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	close(go[0]);
	close(go[1]);
	close(ready[0]);
	close(ready[1]);
	errno = error;
	return ret;
}

TEST_F_TIMEOUT(numa_range, shared, TIMEOUT)
{
	unsigned int flags = MPOL_MF_MOVE | MPOL_MF_STRICT;

	compare(_metadata, &self->m, &variant->kind, do_shared, &flags);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_EQ(0, count_moved(&self->m, &self->m.on));
	EXPECT_EQ(0, self->m.on.moved_by_range);
	flags = MPOL_MF_MOVE_ALL | MPOL_MF_STRICT;
	compare(_metadata, &self->m, &variant->kind, do_shared, &flags);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
}

/*
 * Pages are shared with a child, but the parent writes to two of every four pages,
 * one of which was moved to the target node before the fork.
 */
static long do_scattered(struct __test_metadata *_metadata, struct test_memory *self,
			 const void *arg)
{
	unsigned int flags = *(const unsigned int *)arg;
	unsigned long i, *word;
	int go[2], error;
	pid_t pid;
	long ret;

	EXPECT_TRUE(move_there(self->memory, self->pages, 1, 4));
	ASSERT_EQ(0, pipe(go));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		close(go[1]);
		error = read(go[0], &ret, 1);
		_exit(error);
	}
	set_policy(MPOL_BIND, node_mask(nodes[0]));
	for (i = 0; i < self->pages; i++) {
		word = (unsigned long *)(self->memory + i * page_size);
		if (i % 4 < 2)
			__atomic_fetch_or(word, 0, __ATOMIC_RELAXED);
	}
	set_policy(MPOL_DEFAULT, 0);
	ret = bind_there(self, 0, SIZE, flags);
	error = errno;
	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	close(go[0]);
	close(go[1]);
	EXPECT_EQ(pid, waitpid(pid, NULL, 0));
	errno = error;
	return ret;
}

TEST_F_TIMEOUT(numa_range, scattered, TIMEOUT)
{
	unsigned int flags = MPOL_MF_MOVE | MPOL_MF_STRICT;

	compare(_metadata, &self->m, &variant->kind, do_scattered, &flags);
	EXPECT_EQ(0, self->m.on.ret);
	flags = MPOL_MF_MOVE_ALL | MPOL_MF_STRICT;
	compare(_metadata, &self->m, &variant->kind, do_scattered, &flags);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
}

/* Every second page is on the node already: only the others move. */
static long do_half(struct __test_metadata *_metadata, struct test_memory *self,
		    const void *arg)
{
	unsigned long *moved = (unsigned long *)arg;
	long ret;

	EXPECT_TRUE(move_there(self->memory, self->pages, 0, 2));
	*moved = read_vmstat("migrate_vma_moved");
	ret = bind_there(self, 0, SIZE, MPOL_MF_MOVE | MPOL_MF_STRICT);
	*moved = read_vmstat("migrate_vma_moved") - *moved;
	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	errno = 0;
	return ret;
}

TEST_F_TIMEOUT(numa_range, half_is_there, TIMEOUT)
{
	unsigned long moved;

	compare(_metadata, &self->m, &variant->kind, do_half, &moved);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
	/* Large folios have already moved whole. */
	EXPECT_EQ(variant->kind.kib == 4 ? self->m.pages / 2 : 0, moved);
}

/* Make allocations fail that must not reclaim, and no others */

#define FAIL	"/sys/kernel/debug/fail_page_alloc/"

static bool fail_allocations(bool on, unsigned int min_order)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", min_order);
	return write_file(FAIL "min-order", text) && write_file(FAIL "ignore-gfp-wait", "Y") &&
	       write_file(FAIL "ignore-gfp-highmem", "N") &&
	       write_file(FAIL "task-filter", "Y") && write_file(FAIL "times", "-1") &&
	       write_file(FAIL "verbose", "0") &&
	       write_file(FAIL "probability", on ? "100" : "0") &&
	       write_file("/proc/self/make-it-fail", on ? "1" : "0");
}

static long do_without_memory(struct __test_metadata *_metadata, struct test_memory *self,
			      const void *arg)
{
	const unsigned int *min_order = arg;
	int error;
	long ret;

	EXPECT_TRUE(fail_allocations(true, *min_order));
	ret = bind_there(self, 0, SIZE, MPOL_MF_MOVE | MPOL_MF_STRICT);
	error = errno;
	EXPECT_TRUE(fail_allocations(false, *min_order));
	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	errno = error;
	return ret;
}

TEST_F_TIMEOUT(numa_range, without_memory, TIMEOUT)
{
	unsigned int min_order = 4;
	char text[8];

	if (!read_file(FAIL "min-order", text, sizeof(text)))
		SKIP(return, "no fault injection");
	compare(_metadata, &self->m, &variant->kind, do_without_memory, &min_order);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_EQ(variant->kind.kib == 4 ? self->m.pages : 0, self->m.on.moved_by_range);
	min_order = 0;
	compare(_metadata, &self->m, &variant->kind, do_without_memory, &min_order);
	EXPECT_EQ(0, self->m.on.ret);
	EXPECT_EQ(0, self->m.on.moved_by_range);
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
}

/* A number in the statistics of a node, in pages. */
static long node_stat(int node, const char *name)
{
	char path[64], key[32], line[128];
	long value = -1, n;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/vmstat", node);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%31s %ld", key, &n) == 2 && !strcmp(key, name))
			value = n;
	if (file)
		fclose(file);
	return value;
}

/* CPUs keep some of the count in batches. */
static bool is_near(long a, long b)
{
	return labs(a - b) < MAX_PAGES / 8;
}

TEST_F_TIMEOUT(numa_range, accounted, TIMEOUT)
{
	static const char * const stats[] = {
		"nr_anon_pages", "nr_mapped", "nr_file_pages", "nr_shmem",
	};
	unsigned int first = variant->kind.file ? 1 : 0, i, node;
	unsigned int last = variant->kind.file ? (variant->kind.disk ? 2 : 3) : 0;
	long before[4][2];

	if (variant->kind.private)
		return;
	for (i = first; i <= last; i++)
		for (node = 0; node < 2; node++)
			before[i][node] = node_stat(nodes[node], stats[i]);
	make_memory(&self->m, &variant->kind);
	EXPECT_EQ(0, bind_there(&self->m, 0, SIZE, MPOL_MF_MOVE | MPOL_MF_STRICT));
	for (i = first; i <= last; i++) {
		EXPECT_TRUE(is_near(before[i][0], node_stat(nodes[0], stats[i])));
		EXPECT_TRUE(is_near(before[i][1] + (long)self->m.pages,
				    node_stat(nodes[1], stats[i])));
	}
	end_memory(&self->m);
	for (i = first; i <= last; i++)
		for (node = 0; node < 2; node++)
			EXPECT_TRUE(is_near(before[i][node], node_stat(nodes[node], stats[i])));
}

static void merge(struct __test_metadata *_metadata, struct test_memory *self)
{
	unsigned long i, scans;
	char text[32];

	EXPECT_EQ(0, madvise(self->memory, SIZE, MADV_MERGEABLE));
	EXPECT_TRUE(read_file("/sys/kernel/mm/ksm/full_scans", text, sizeof(text)));
	scans = atol(text);
	EXPECT_TRUE(write_file("/sys/kernel/mm/ksm/run", "1"));
	for (i = 0; i < 3000 && atol(text) < (long)scans + 3; i++) {
		usleep(10000);
		EXPECT_TRUE(read_file("/sys/kernel/mm/ksm/full_scans", text, sizeof(text)));
	}
	EXPECT_TRUE(write_file("/sys/kernel/mm/ksm/run", "0"));
	EXPECT_TRUE(read_file("/proc/self/ksm_merging_pages", text, sizeof(text)));
	EXPECT_GE(atol(text), 25);
}

/* The old code migrates KSM pages; shared memory is never merged. */
static long do_merged(struct __test_metadata *_metadata, struct test_memory *self,
		      const void *arg)
{
	unsigned int flags = *(const unsigned int *)arg;
	unsigned long i;
	int error;
	long ret;

	for (i = 0; i < 64; i++)
		memset(self->memory + 5 * i * page_size, 0x5a, page_size);
	if (!self->is_shared)
		merge(_metadata, self);
	ret = bind_there(self, 0, SIZE, flags);
	error = errno;
	for (i = 0; i < 64; i++)
		EXPECT_EQ(0x5a, self->memory[5 * i * page_size + 77]);
	errno = error;
	return ret;
}

TEST_F_TIMEOUT(numa_range, merged, TIMEOUT)
{
	unsigned int flags = MPOL_MF_MOVE;
	char text[32];

	if (!read_file("/sys/kernel/mm/ksm/run", text, sizeof(text)))
		SKIP(return, "no KSM");
	write_file("/sys/kernel/mm/ksm/sleep_millisecs", "1");
	write_file("/sys/kernel/mm/ksm/pages_to_scan", "10000");
	compare(_metadata, &self->m, &variant->kind, do_merged, &flags);
	EXPECT_GE(self->m.on.moved_by_range, self->m.pages / 2);
	flags = MPOL_MF_MOVE_ALL;
	compare(_metadata, &self->m, &variant->kind, do_merged, &flags);
	write_file("/sys/kernel/mm/ksm/run", "2");
}

/*
 * More places than the range can note: 6 in every 40 pages. Returns the number of
 * pages moved by the range.
 */
static unsigned long move_many_places(struct __test_metadata *_metadata, bool shared,
				      unsigned long n)
{
	unsigned long step = 40 * page_size, i, moved, wrong = 0;
	unsigned char *memory;

	memory = mmap(NULL, n * step, PROT_READ | PROT_WRITE,
		      MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE), -1, 0);
	ASSERT_NE(MAP_FAILED, memory);
	set_policy(MPOL_BIND, node_mask(nodes[0]));
	for (i = 0; i < 6 * n; i++)
		memory[i / 6 * step + i % 6 * page_size] = i;
	set_policy(MPOL_DEFAULT, 0);
	moved = read_vmstat("migrate_vma_moved");
	EXPECT_EQ(0, bind(memory, n * step, MPOL_BIND, node_mask(nodes[1]),
			  MPOL_MF_MOVE | MPOL_MF_STRICT));
	moved = read_vmstat("migrate_vma_moved") - moved;
	for (i = 0; i < 6 * n; i++) {
		unsigned char *byte = memory + i / 6 * step + i % 6 * page_size;
		void *page = byte;
		int node = -1;

		EXPECT_EQ(0, syscall(SYS_move_pages, 0, 1UL, &page, NULL, &node, 0));
		wrong += node != nodes[1] || *byte != (unsigned char)i;
	}
	EXPECT_EQ(0, wrong);
	munmap(memory, n * step);
	return moved;
}

TEST(many_places)
{
	unsigned long n = 700, moved;
	unsigned int shared;
	char text[8];

	page_size = sysconf(_SC_PAGESIZE);
	if (!read_file(SWITCH, text, sizeof(text)) || !write_file(SWITCH, "0"))
		SKIP(return, "no " SWITCH ", or no root");
	if (!find_nodes())
		SKIP(return, "needs two nodes with memory");
	for (shared = 0; shared < 2; shared++) {
		EXPECT_TRUE(write_file(SWITCH, "0"));
		EXPECT_EQ(0, move_many_places(_metadata, shared, n));
		EXPECT_TRUE(write_file(SWITCH, "1"));
		/*
		 * The range moves the first places as noted; the rest is moved page by
		 * page.
		 */
		moved = move_many_places(_metadata, shared, n);
		EXPECT_GT(moved, 3000);
		EXPECT_LT(moved, 6 * n);
	}
}

/* Whole processes */

static long do_migrate_pages(struct __test_metadata *_metadata, struct test_memory *self,
			     const void *arg)
{
	long there = migrate(0, node_mask(nodes[0]), node_mask(nodes[1]));

	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	errno = 0;
	return there;
}

TEST_F_TIMEOUT(numa_range, migrate_pages, TIMEOUT)
{
	compare(_metadata, &self->m, &variant->kind, do_migrate_pages, NULL);
	EXPECT_EQ(self->m.pages, count_moved(&self->m, &self->m.on));
	EXPECT_GE(self->m.on.moved_by_range, self->m.pages);
	EXPECT_GE(migrate(0, node_mask(nodes[1]), node_mask(nodes[0])), 0);
}

/* Migrate another process: the child checks its memory. */
static long do_migrate_child(struct __test_metadata *_metadata, struct test_memory *self,
			     const void *arg)
{
	int go[2], status = -1;
	long ret, error;
	char c = 0;
	pid_t pid;

	ASSERT_EQ(0, pipe(go));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (read(go[0], &c, 1) != 1)
			_exit(2);
		_exit(!is_intact(self->memory, self->pages, self->seed));
	}
	ret = migrate(pid, node_mask(nodes[0]), node_mask(nodes[1]));
	error = errno;
	EXPECT_EQ(1, write(go[1], &c, 1));
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	close(go[0]);
	close(go[1]);
	/* With CAP_SYS_NICE, shared memory moves as well. */
	errno = ret < 0 ? error : 0;
	return ret < 0 ? ret : 0;
}

TEST_F_TIMEOUT(numa_range, migrate_another_process, TIMEOUT)
{
	compare(_metadata, &self->m, &variant->kind, do_migrate_child, NULL);
	EXPECT_EQ(0, self->m.on.ret);
}

static bool all_on(unsigned char *memory, unsigned long pages, int node, struct outcome *outcome)
{
	unsigned long i;

	look_at_nodes(outcome, memory, pages);
	for (i = 0; i < pages; i++)
		if (outcome->node[i] != node)
			return false;
	return true;
}

/* If a cpuset gets another node, a worker migrates the memory there. */
static long do_cpuset(struct __test_metadata *_metadata, struct test_memory *self,
		      const void *arg)
{
	const char *dir = arg;
	char path[PATH_MAX], text[32];
	unsigned int try;

	snprintf(path, sizeof(path), "%s/cpuset.mems", dir);
	snprintf(text, sizeof(text), "%d", nodes[1]);
	EXPECT_TRUE(write_file(path, text));
	for (try = 0; try < 1000; try++) {
		if (all_on(self->memory, self->pages, nodes[1], &self->on))
			break;
		usleep(10000);
	}
	EXPECT_TRUE(is_intact(self->memory, self->pages, self->seed));
	snprintf(text, sizeof(text), "%d", nodes[0]);
	EXPECT_TRUE(write_file(path, text));
	for (try = 0; try < 1000; try++) {
		if (all_on(self->memory, self->pages, nodes[0], &self->on))
			break;
		usleep(10000);
	}
	errno = 0;
	return 0;
}

TEST_F_TIMEOUT(numa_range, cpuset, TIMEOUT)
{
	char root[] = "/tmp/numa_range.XXXXXX", dir[64], path[128], text[32];
	bool usable;

	ASSERT_NE(NULL, mkdtemp(root));
	if (mount("cgroup2", root, "cgroup2", 0, NULL)) {
		rmdir(root);
		SKIP(return, "no cgroup2");
	}
	snprintf(dir, sizeof(dir), "%s/numa_range", root);
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", root);
	usable = write_file(path, "+cpuset") && !mkdir(dir, 0755);
	if (usable) {
		snprintf(path, sizeof(path), "%s/cpuset.mems", dir);
		snprintf(text, sizeof(text), "%d", nodes[0]);
		EXPECT_TRUE(write_file(path, text));
		snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
		EXPECT_TRUE(write_file(path, "0"));
		compare(_metadata, &self->m, &variant->kind, do_cpuset, dir);
		EXPECT_GE(self->m.on.moved_by_range, self->m.pages);
		snprintf(path, sizeof(path), "%s/cgroup.procs", root);
		EXPECT_TRUE(write_file(path, "0"));
		EXPECT_EQ(0, rmdir(dir));
	}
	umount(root);
	rmdir(root);
	if (!usable)
		SKIP(return, "no cpusets");
}

/* Migration beside other threads */

struct busy {
	struct test_memory *memory;
	bool stop;
	unsigned long lost;
};

/* Adds to a word of each page, and checks that its value is unchanged otherwise. */
static void *be_busy(void *arg)
{
	struct busy *busy = arg;
	unsigned long round = 0, i;

	while (!__atomic_load_n(&busy->stop, __ATOMIC_RELAXED)) {
		for (i = 0; i < busy->memory->pages; i++) {
			unsigned long *word = (void *)(busy->memory->memory + i * page_size + 8);

			if (!round)
				*word = 0;
			else if (*word != round - 1)
				busy->lost++;
			*word = round;
		}
		round++;
	}
	return NULL;
}

/* Splits and merges vmas, maps and unmaps. */
static void *change_vmas(void *arg)
{
	struct busy *busy = arg;
	unsigned char *memory = busy->memory->memory;

	while (!__atomic_load_n(&busy->stop, __ATOMIC_RELAXED)) {
		void *other = mmap(NULL, HUGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		mlock(memory + HUGE / 2, HUGE);
		munlock(memory + HUGE / 2, HUGE);
		munmap(other, HUGE);
	}
	return NULL;
}

TEST_F_TIMEOUT(numa_range, beside_threads, TIMEOUT)
{
	struct busy busy = { .memory = &self->m };
	pthread_t threads[2];
	unsigned int round;

	make_memory(&self->m, &variant->kind);
	ASSERT_TRUE(write_file(SWITCH, "1"));
	ASSERT_EQ(0, pthread_create(&threads[0], NULL, be_busy, &busy));
	ASSERT_EQ(0, pthread_create(&threads[1], NULL, change_vmas, &busy));
	for (round = 0; round < 40; round++) {
		EXPECT_EQ(0, bind(self->m.memory, SIZE, MPOL_BIND, node_mask(nodes[~round & 1]),
				  MPOL_MF_MOVE));
		if (round % 4 == 3) {
			EXPECT_GE(migrate(0, node_mask(nodes[0]), node_mask(nodes[1])), 0);
			EXPECT_GE(migrate(0, node_mask(nodes[1]), node_mask(nodes[0])), 0);
		}
	}
	__atomic_store_n(&busy.stop, true, __ATOMIC_RELAXED);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	EXPECT_EQ(0, busy.lost);
	end_memory(&self->m);
}

TEST_HARNESS_MAIN
