/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Range migration: what the call, its chunks and its copiers share.
 *
 *   range.c        the call: where it goes on, when it ends, what it waits for
 *   range_chunk.c  one chunk: unmapped, given memory, copied, settled
 *   range_map.c    the DMA addresses of a chunk's segments
 *   range_dma.c    a channel of the dmaengine framework as the copier
 *   range_node.c   ordinary memory as the destination
 *   range_track.c  what others have changed between begin and commit
 */
#ifndef _MM_MIGRATE_VMA_RANGE_H
#define _MM_MIGRATE_VMA_RANGE_H

#include <linux/hmm_migrate.h>
#include <linux/ktime.h>
#include "internal.h"

/**
 * struct range_places - parts of the range that are to be looked at again
 * @at: the places; a call by device pfns has positions in its list of pfns in the place of
 *	addresses: the first page is at 0, the next one at PAGE_SIZE
 * @nr: how many
 * @max: how many there is room for
 */
struct range_places {
	struct migrate_place *at;
	unsigned int nr;
	unsigned int max;
};

/**
 * struct range_call - a call at work
 * @migrate: the caller's request
 * @start: as in @migrate; by device pfns, 0
 * @end: the same
 * @select: as in @migrate, but what this kind of call does not have
 * @flags: the same
 * @hole_order: the same
 * @pfns: by device pfns: the array of them, or NULL if they are consecutive
 * @first_pfn: then, the first one
 * @by_pfn: by device pfns: there is no vma
 * @keeps_lock: the caller holds mmap_lock, and goes on holding it
 * @fault_page: the page of a CPU fault, which the fault has locked; otherwise NULL
 * @chunk_size: in bytes
 * @chunks: a ring
 * @next: the one that is to be used next
 * @in_flight: how many before that are in use
 * @depth: how many there are
 * @locked: what is to be looked at again
 * @looked: what is looked at again at the moment
 * @again: that is what the chunks are now
 * @nodes: folios of which nodes are to move, see migrate_range_nodes(); NULL: all
 * @left: with @nodes, where something is left that should have moved
 * @nr_left: how much is left that @left has
 * @to_come: how many places are to come, of which something may be left
 * @moved_huge: folios moved that are as large as a PMD maps
 * @bounce: what has to go by ordinary memory, and is to be brought there; empty mostly
 * @bounced: what was brought there last
 * @left_locked: with @keeps_lock, something was locked, and stays
 * @waited: nanoseconds that the call has waited for others, but for the first passes
 * @stages: what the stages share
 * @error: why it has to stop; 0 if it has not
 * @fault_error: why the folio of the fault could not be copied
 * @files: what is in flight is of a file's vma
 */
struct range_call {
	struct hmm_migrate *migrate;
	unsigned long start;
	unsigned long end;
	unsigned long select;
	unsigned int flags;
	unsigned int hole_order;
	const unsigned long *pfns;
	unsigned long first_pfn;
	bool by_pfn;
	bool keeps_lock;
	struct page *fault_page;
	unsigned long chunk_size;
	struct hmm_migrate_chunk *chunks;
	unsigned int next;
	unsigned int in_flight;
	unsigned int depth;
	struct range_places locked;
	struct range_places looked;
	bool again;
	const struct migrate_nodes *nodes;
	struct range_places *left;
	unsigned long nr_left;
	unsigned long to_come;
	unsigned long moved_huge;
	struct migrate_place bounce;
	struct migrate_place bounced;
	bool left_locked;
	u64 waited;
	struct migrate_call stages;
	int error;
	int fault_error;
	bool files;
};

static inline unsigned long range_pages(unsigned long start, unsigned long end)
{
	return (end - start) >> PAGE_SHIFT;
}

/* Was what is at @addr brought to ordinary memory, so that it can go on from there? */
static inline bool range_was_bounced(const struct range_call *range, unsigned long addr)
{
	return addr >= range->bounced.start && addr < range->bounced.end;
}

/*
 * In &range_call.flags, for nodes: a large folio moves whole or not at all. No flag of a
 * driver's.
 */
#define RANGE_NO_SPLIT	BIT(31)

static_assert(!(HMM_MIGRATE_FLAGS & RANGE_NO_SPLIT));

/*
 * Between nodes, a chunk costs about as many instructions as four pages save. Shorter places are
 * left to migrate_pages().
 */
#define RANGE_MIN_PLACE	(6 * PAGE_SIZE)

/* By the caller's numbers: what is too large is ENOMEM, and no warning. */
#define RANGE_GFP	(GFP_KERNEL | __GFP_NOWARN)

void range_remember(struct range_call *range, unsigned long start, unsigned long end);
unsigned int range_flags(const struct range_call *range);
void range_note_left(struct range_call *range, unsigned long start, unsigned long end);
unsigned long range_nr_left(const struct range_call *range);
void range_over_places(struct range_call *range, const struct migrate_place *places,
		       unsigned long nr);

int chunk_create(struct range_call *range, struct hmm_migrate_chunk *chunk,
		 unsigned long npages);
void chunk_destroy(struct hmm_migrate_chunk *chunk);
int chunk_set_up(struct range_call *range, struct hmm_migrate_chunk *chunk,
		 struct vm_area_struct *vma, unsigned long start, unsigned long *end);
void chunk_settle(struct range_call *range, struct hmm_migrate_chunk *chunk);

void hmm_migrate_map_rewind(struct hmm_migrate_map *map);
void hmm_migrate_map_back(struct hmm_migrate_map *map);
const struct hmm_migrate_segment *
hmm_migrate_map_place(const struct hmm_migrate_map *map, unsigned long *page);
void hmm_migrate_map_skip(struct hmm_migrate_map *map);

#endif /* _MM_MIGRATE_VMA_RANGE_H */
