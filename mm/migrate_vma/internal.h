/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Range migration: what its stages share.
 *
 * A migration works on two arrays with a slot for each page of a range. Four stages run
 * over them:
 *
 *   collect   page tables -> src[]: lock the folios, install migration entries
 *   unmap     isolate the folios from the LRU, remove their other mappings
 *   pages     move the old folio's identity to the new one; fill holes
 *   finalize  replace the migration entries by the new folio, or restore the old one
 *
 * A stage relies on the following, for each unit whose src[] entry has both
 * MIGRATE_PFN_VALID and MIGRATE_PFN_MIGRATE:
 *
 *   after collect   the folio is locked, and the migration holds one reference to it, which
 *                   it took over from the mapping
 *   after unmap     nothing maps the folio, it is isolated from the LRU, and only the
 *                   migration and the page cache refer to it, so its contents are stable
 *
 * A stage restores the mappings of a unit that cannot go on, and counts its pages by the
 * reason.
 */
#ifndef _MM_MIGRATE_VMA_INTERNAL_H
#define _MM_MIGRATE_VMA_INTERNAL_H

#include "unit.h"

/*
 * Flags of migrate_stage_collect(), for hmm_migrate_range():
 *
 * MIGRATE_COLLECT_LEAVE_LOCKED	do not retry locked folios, but leave MIGRATE_SRC_RETRY in
 *				their slots
 * MIGRATE_COLLECT_TO_DEVICE	the destination is device memory
 * MIGRATE_COLLECT_NO_HOLES	the caller does not fill holes: count them as empty and not
 *				as left
 * MIGRATE_COLLECT_NO_SPLIT	leave a large folio that does not lie in the range whole,
 *				instead of splitting it
 *
 * File memory migrates to ordinary memory only, so MIGRATE_COLLECT_TO_DEVICE leaves it.
 * migrate_vma_setup() does not know the destination; for it, the pages stage refuses.
 */
#define MIGRATE_COLLECT_LEAVE_LOCKED	BIT(0)
#define MIGRATE_COLLECT_TO_DEVICE	BIT(1)
#define MIGRATE_COLLECT_NO_HOLES	BIT(2)
#define MIGRATE_COLLECT_NO_SPLIT	BIT(3)

/*
 * A CPU fault on device-private memory holds the lock of its folio and a reference, see
 * device_private_fault(). The stages must not lock or unlock this folio. They compare by
 * @fault_page, since they may split the folio.
 */
static inline bool migrate_is_fault_folio(struct folio *folio,
					  struct page *fault_page)
{
	return unlikely(fault_page) && page_folio(fault_page) == folio;
}

static inline bool migrate_folio_trylock(struct folio *folio,
					 struct page *fault_page)
{
	return migrate_is_fault_folio(folio, fault_page) ||
	       folio_trylock(folio);
}

static inline void migrate_folio_unlock(struct folio *folio,
					struct page *fault_page)
{
	if (!migrate_is_fault_folio(folio, fault_page))
		folio_unlock(folio);
}

/*
 * Drivers may allocate destinations by alloc_pages(__GFP_COMP), which leaves the flag
 * clear, unlike folio_alloc(). The rmap and the deferred split queue take only folios that
 * have it.
 */
static inline void migrate_make_rmappable(struct folio *newfolio)
{
	if (folio_test_large(newfolio) && !folio_test_large_rmappable(newfolio))
		folio_set_large_rmappable(newfolio);
}

/**
 * struct migrate_stats - counts of one stage, for its tracepoint and for vmstat
 * @stage: the stage
 * @by_pfn: @start and @end are device pfns and not addresses
 * @start: the start of the range
 * @end: the end of the range, exclusive
 * @units: units that the stage passed on
 * @holes: pages of these that are holes
 * @empty: pages that are holes, with MIGRATE_COLLECT_NO_HOLES
 * @retried: units that were locked at first and collected in a later pass
 * @defer_writeback: (in) the caller retries folios under writeback: the pages stage does
 *	not count them as left, but sets MIGRATE_DST_RETRY in their slots in dst[]
 * @nr_deferred: the number of these units
 * @pages: pages that the stage passed on, by the order of the unit
 * @left: pages that stay where they are, by the reason
 */
struct migrate_stats {
	enum migrate_stage stage;
	bool by_pfn;
	unsigned long start;
	unsigned long end;
	unsigned long units;
	unsigned long holes;
	unsigned long empty;
	unsigned long retried;
	bool defer_writeback;
	unsigned long nr_deferred;
	unsigned long pages[NR_PAGE_ORDERS];
	unsigned long left[NR_MIGRATE_LEFT];
};

static inline struct migrate_stats
migrate_stats_init(enum migrate_stage stage, const struct migrate_vma *migrate)
{
	struct migrate_stats stats = {
		.stage = stage,
		.start = migrate->start,
		.end = migrate->end,
	};

	return stats;
}

/* Device pfns may be scattered: the statistics show the first and the last in the array. */
static inline struct migrate_stats
migrate_stats_init_pfns(enum migrate_stage stage, const unsigned long *src,
			unsigned long npages)
{
	struct migrate_stats stats = { .stage = stage, .by_pfn = true };
	unsigned long i;

	for (i = 0; i < npages && !src[i]; i++)
		;
	while (npages && !src[npages - 1])
		npages--;
	if (i < npages) {
		stats.start = src[i] >> MIGRATE_PFN_SHIFT;
		stats.end = (src[npages - 1] >> MIGRATE_PFN_SHIFT) + 1;
	}
	return stats;
}

static inline void migrate_stats_pass(struct migrate_stats *stats,
				      unsigned int order)
{
	stats->units++;
	stats->pages[order] += BIT(order);
}

static inline void migrate_stats_pass_hole(struct migrate_stats *stats,
					   unsigned int order)
{
	migrate_stats_pass(stats, order);
	stats->holes += BIT(order);
}

static inline void migrate_stats_leave(struct migrate_stats *stats,
				       enum migrate_left reason,
				       unsigned long nr_pages)
{
	stats->left[reason] += nr_pages;
}

void migrate_stats_report(const struct migrate_stats *stats);

/**
 * struct migrate_ctx - what the stages of one migration share
 * @drained: lru_add_drain_all() was called; once per migration is enough
 * @isolated: the number of pages that the migration has isolated, indexed by
 *	migrate_isolated_slot(); NULL if the caller does not need it
 */
struct migrate_ctx {
	bool drained;
	long *isolated;
};

static inline unsigned int migrate_isolated_slot(int nid, bool file)
{
	return 2 * nid + file;
}

/*
 * Does @folio count as NR_ISOLATED_FILE? Anonymous memory counts as NR_ISOLATED_ANON even
 * if MADV_FREE has put it on a file list, since that can change during the migration.
 */
static inline bool migrate_isolated_as_file(struct folio *folio)
{
	return !folio_test_anon(folio) && folio_is_file_lru(folio);
}

/* Account isolated pages as reclaim and compaction do, for too_many_isolated(). */
static inline void migrate_count_isolated(struct migrate_ctx *ctx, int nid, bool file,
					  long nr_pages)
{
	mod_node_page_state(NODE_DATA(nid), NR_ISOLATED_ANON + file, nr_pages);
	if (ctx->isolated)
		ctx->isolated[migrate_isolated_slot(nid, file)] += nr_pages;
}

/* api.c */
bool migrate_takes_vma(struct vm_area_struct *vma);

/* collect.c */
unsigned long migrate_stage_collect(struct migrate_vma *migrate,
				    unsigned int flags,
				    const struct migrate_nodes *nodes,
				    struct migrate_stats *stats);

/* device.c */
unsigned long migrate_stage_lock_pfns(unsigned long *src_pfns, unsigned long npages,
				      unsigned int flags, struct migrate_stats *stats);

/* unmap.c */
void migrate_unit_restore(struct migrate_unit *unit, struct page *fault_page,
			  struct migrate_ctx *isolated_by);
void migrate_stage_unmap(unsigned long *src, unsigned long npages,
			 struct page *fault_page, struct migrate_ctx *ctx,
			 struct migrate_stats *stats);

/* holes.c */
unsigned long migrate_hole_orders(struct vm_area_struct *vma);
bool migrate_hole_is_large(const struct migrate_vma *migrate,
			   unsigned long index, unsigned int order);
bool migrate_hole_fill(struct vm_area_struct *vma, unsigned long addr,
		       struct folio *folio);

/* split.c */
bool migrate_unit_must_split(const struct migrate_unit *unit,
			     unsigned long *dst);
bool migrate_unit_split(struct migrate_unit *unit, unsigned long *dst,
			struct migrate_vma *migrate);

/* pages.c */
void migrate_stage_pages(unsigned long *src, unsigned long *dst,
			 unsigned long npages, struct migrate_vma *migrate,
			 struct migrate_stats *stats);

/* finalize.c */
void migrate_stage_finalize(unsigned long *src, unsigned long *dst,
			    unsigned long npages, struct migrate_vma *migrate,
			    struct migrate_ctx *ctx,
			    struct migrate_stats *stats);

#endif /* _MM_MIGRATE_VMA_INTERNAL_H */
