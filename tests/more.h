/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers that only the tests outside of the kernel's tree need, in addition to
 * hmm_migrate.h.
 */
#ifndef _TESTS_MORE_H
#define _TESTS_MORE_H

#include "hmm_migrate.h"

/* Neighbours in the range are not adjacent in memory, so each page needs a descriptor. */
static inline bool scatter(unsigned char *memory, size_t size)
{
	unsigned long i, n = size / page_size;

	if (madvise(memory, size, MADV_DONTNEED))
		return false;
	for (i = 0; i < n; i++)
		memory[i * 37 % n * page_size] = 1;
	return true;
}

/* New memory is soft-dirty if the kernel supports these bits. */
static inline bool have_soft_dirty(void)
{
	unsigned char *memory = map_pages(1);
	bool dirty;

	if ((void *)memory == MAP_FAILED)
		return false;
	*(atomic_uchar *)memory = 1;
	dirty = pagemap_of(memory) & PM_SOFT_DIRTY;
	munmap(memory, page_size);
	return dirty;
}

/* Number of pages of the range that have all of these bits. */
static inline long pagemap_count(void *addr, unsigned long npages, uint64_t bits)
{
	uint64_t *entries = calloc(npages, sizeof(*entries));
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t size = npages * sizeof(*entries);
	long count = -1;

	if (fd >= 0 && entries &&
	    pread(fd, entries, size, (uintptr_t)addr / page_size *
		  sizeof(*entries)) == (ssize_t)size) {
		count = 0;
		while (npages--)
			count += (entries[npages] & bits) == bits;
	}
	if (fd >= 0)
		close(fd);
	free(entries);
	return count;
}

static inline bool enter_cgroup(const char *path)
{
	char procs[256];

	snprintf(procs, sizeof(procs), "%scgroup.procs", path);
	return write_number(procs, getpid());
}

/* Charge all later allocations to a new cgroup. */
static inline bool make_cgroup(void)
{
	int control = open(CGROUPS "cgroup.subtree_control", O_WRONLY | O_CLOEXEC);
	bool made = control >= 0 && write(control, "+memory", 7) == 7 &&
		    (!mkdir(MEMCG, 0755) || errno == EEXIST);

	if (control >= 0)
		close(control);
	return made && enter_cgroup(MEMCG);
}

static inline long dma_mappings(void)
{
	long total = read_number(DMA_DEBUG "nr_total_entries");

	return total < 0 ? -1 : total - read_number(DMA_DEBUG "num_free_entries");
}

static inline bool register_range(int fd, void *addr, size_t size, __u64 mode)
{
	struct uffdio_register argument = {
		.range = { .start = (uintptr_t)addr, .len = size },
		.mode = mode,
	};

	return !ioctl(fd, UFFDIO_REGISTER, &argument);
}

/* Wait a little, for a different time in each round, so that phases drift. */
static inline void spin(unsigned long round)
{
	atomic_ulong turns = round * 7919 % 20000;

	while (turns)
		turns--;
}

#endif /* _TESTS_MORE_H */
