/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Range migration: what the call, its chunks and its copiers share.
 *
 *   range.c           the call: arguments, the range from start to end, faults, work items
 *   range_pass.c      one pass over addresses: cut them into chunks, keep the chunks pending
 *   range_retry.c     the retry list: folios that were locked, and the wait for them
 *   range_chunk.c     one chunk: collect, unmap, allocate, copy, commit
 *   range_alloc.c     destination memory for the units of a chunk, and its segments
 *   range_map.c       DMA mapping of a chunk's segments
 *   range_dma.c       a dmaengine channel as the copier: engine or CPU, whole or in parts
 *   range_dma_chan.c  the channel's descriptors: submit, complete, terminate
 *   range_node.c      ordinary memory: node allocators, mbind() and migrate_pages()
 *   range_track.c     invalidations between the begin op and the commit op
 */
#ifndef _MM_MIGRATE_VMA_RANGE_H
#define _MM_MIGRATE_VMA_RANGE_H

#include <linux/highmem.h>
#include <linux/hmm_migrate.h>
#include <linux/ktime.h>
#include "internal.h"

/**
 * struct range_places - a list of parts of the range
 * @at: the places. A call by device pfns has no addresses; there, a place is given as
 *	positions in its list of pfns, in bytes: the first page is at 0, the second one at
 *	PAGE_SIZE
 * @nr: how many places are in the list
 * @max: how many it has room for
 */
struct range_places {
	struct migrate_place *at;
	unsigned int nr;
	unsigned int max;
};

/**
 * struct range_ctx - the state of one call
 * @migrate: the caller's request
 * @start: first address, as in @migrate; 0 in a call by device pfns
 * @end: the address behind the last one, as in @migrate; in a call by device pfns, the
 *	number of pages in bytes
 * @select: as in @migrate, adjusted to the kind of call
 * @flags: as in @migrate, adjusted to the kind of call; may also have RANGE_NO_SPLIT
 * @hole_order: as in @migrate, adjusted to the kind of call
 * @pfns: call by device pfns: the array of pfns, or NULL if they are consecutive
 * @first_pfn: call by device pfns without @pfns: the first pfn
 * @by_pfn: the call works on device pfns; it has no vma and takes no mmap_lock
 * @keeps_lock: the caller holds mmap_lock, and the call must not drop it
 * @fault_page: the page of a CPU fault, whose folio the fault has locked; otherwise NULL
 * @chunk_size: in bytes
 * @chunks: a ring of @depth chunks
 * @next: index in @chunks of the chunk to set up next
 * @nr_pending: how many chunks before @next are set up and not yet settled
 * @depth: how many chunks the ring has
 * @retry: the places to retry once no chunk is pending
 * @retrying: the places that the current retry pass works on
 * @in_retry: a retry pass runs
 * @nodes: which memory moves between nodes, see migrate_range_nodes(); NULL in other calls
 * @left: with @nodes, the places where memory stays that should have moved
 * @nr_left: with @nodes, how many pages stayed when @left was last extended
 * @nr_upcoming: with @nodes, how many of the caller's places come after the current one
 * @moved_huge: how many folios of PMD size have moved
 * @bounce: peer memory that the device cannot reach, to be brought to ordinary memory by
 *	CPU faults as soon as no chunk is pending; mostly empty
 * @bounced: the place for which this was done last
 * @left_locked: with @keeps_lock, some folios were still locked at the end
 * @waited: nanoseconds waited in retry passes after the first RANGE_QUICK_PASSES: the
 *	sleep, and all of a pass that moves nothing
 * @stages: what the stages share
 * @error: why the call has to stop; 0 if it need not
 * @fault_error: why the folio of the fault could not be copied
 * @files: the pending chunks are of a vma that is not anonymous
 */
struct range_ctx {
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
	unsigned int nr_pending;
	unsigned int depth;
	struct range_places retry;
	struct range_places retrying;
	bool in_retry;
	const struct migrate_nodes *nodes;
	struct range_places *left;
	unsigned long nr_left;
	unsigned long nr_upcoming;
	unsigned long moved_huge;
	struct migrate_place bounce;
	struct migrate_place bounced;
	bool left_locked;
	u64 waited;
	struct migrate_ctx stages;
	int error;
	int fault_error;
	bool files;
};

static inline unsigned long range_pages(unsigned long start, unsigned long end)
{
	return (end - start) >> PAGE_SHIFT;
}

/* CPU faults have brought peer memory at @addr to ordinary memory: select that, too. */
static inline bool range_was_bounced(const struct range_ctx *range, unsigned long addr)
{
	return addr >= range->bounced.start && addr < range->bounced.end;
}

/*
 * Only in &range_ctx.flags, for calls between nodes: large folios are never split; they
 * move whole or stay.
 */
#define RANGE_NO_SPLIT	BIT(31)

static_assert(!(HMM_MIGRATE_FLAGS & RANGE_NO_SPLIT));

/*
 * Between nodes, setting up a chunk costs about as many instructions as four pages save.
 * Leave shorter places to migrate_pages().
 */
#define RANGE_MIN_PLACE	(6 * PAGE_SIZE)

/* The caller chooses the sizes of the arrays: do not warn if one is too large. */
#define RANGE_GFP	(GFP_KERNEL | __GFP_NOWARN)

/*
 * Copy or clear page @i of a segment by the CPU, which must be able to address it. If the
 * source cannot be read, its folio stays: see hmm_migrate_fail().
 */
static inline void chunk_copy_page(struct hmm_migrate_chunk *chunk,
				   const struct hmm_migrate_segment *segment,
				   unsigned long i)
{
	if (!segment->src)
		clear_highpage(segment->dst + i);
	else if (copy_mc_highpage(segment->dst + i, segment->src + i))
		hmm_migrate_fail(chunk, segment->index + i);
}

/* range.c */
int range_create(struct range_ctx *range);
void range_destroy(struct range_ctx *range);

/* range_pass.c */
int range_must_stop(const struct range_ctx *range);
unsigned int range_flags(const struct range_ctx *range);
int range_skip(struct range_ctx *range, unsigned long addr, unsigned long end, int error);
struct vm_area_struct *range_vma(const struct range_ctx *range, unsigned long addr,
				 unsigned long *end, int *error);
int range_pass(struct range_ctx *range, unsigned long *addr, unsigned long end);
int range_run(struct range_ctx *range, unsigned long *addr, unsigned long end);

/* range_retry.c */
void range_retry_add(struct range_ctx *range, unsigned long start, unsigned long end);
bool range_retry_is_full(const struct range_ctx *range);
void range_retry_give_up(struct range_ctx *range, struct range_places *places,
			 unsigned int first);
int range_retry(struct range_ctx *range, int error);

/* range_chunk.c */
int chunk_create(struct range_ctx *range, struct hmm_migrate_chunk *chunk,
		 unsigned long npages);
void chunk_destroy(struct hmm_migrate_chunk *chunk);
int chunk_set_up(struct range_ctx *range, struct hmm_migrate_chunk *chunk,
		 struct vm_area_struct *vma, unsigned long start, unsigned long *end);
void chunk_settle(struct range_ctx *range, struct hmm_migrate_chunk *chunk);

/* range_alloc.c */
int chunk_alloc(struct hmm_migrate_chunk *chunk, unsigned long *index);
void chunk_free_dst(struct hmm_migrate_chunk *chunk, unsigned long index);

/* range_map.c */
void hmm_migrate_map_rewind(struct hmm_migrate_map *map);
void hmm_migrate_map_back(struct hmm_migrate_map *map);
const struct hmm_migrate_segment *
hmm_migrate_map_place(const struct hmm_migrate_map *map, unsigned long *page);
void hmm_migrate_map_skip(struct hmm_migrate_map *map);

/* range_node.c */
#ifdef CONFIG_NUMA_RANGE_MIGRATION
void range_note_left(struct range_ctx *range, unsigned long start, unsigned long end);
void range_note_chunk(struct range_ctx *range, const struct hmm_migrate_chunk *chunk);
#else
static inline void range_note_left(struct range_ctx *range, unsigned long start,
				   unsigned long end)
{
}

static inline void range_note_chunk(struct range_ctx *range,
				    const struct hmm_migrate_chunk *chunk)
{
}
#endif

#endif /* _MM_MIGRATE_VMA_RANGE_H */
