// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the second stage: isolate the folios from the LRU, and remove their
 * other mappings.
 *
 * Collect has locked the folios and replaced their PTEs in this range. This stage isolates
 * them, so that reclaim and compaction do not take references, finds the mappings of other
 * address spaces by the rmap, and restores folios that have unexpected references.
 */
#include <linux/memcontrol.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include "../internal.h"
#include "internal.h"

/* The number of slots to look at under the LRU lock, with interrupts disabled. */
#define MIGRATE_ISOLATE_BATCH	SWAP_CLUSTER_MAX

/* The references that @folio has if only the migration and the fault hold extra ones. */
static int unmap_expected_refs(struct folio *folio, struct page *fault_page)
{
	return folio_expected_ref_count(folio) + 1 +
	       migrate_is_fault_folio(folio, fault_page);
}

/**
 * struct unmap_lru - isolate folios in batches, under one hold of the LRU lock
 * @lruvec: the lruvec whose lock is held; NULL for none
 * @flags: the interrupt state to restore
 * @sizes: LRU sizes to subtract before the lock is dropped
 * @nr_pages: isolated pages that are not yet counted: anonymous, file
 * @ctx: where they are counted
 */
struct unmap_lru {
	struct lruvec *lruvec;
	unsigned long flags;
	struct lru_size_batch sizes;
	long nr_pages[2];
	struct migrate_ctx *ctx;
};

static void unmap_lru_unlock(struct unmap_lru *lru)
{
	unsigned int file;

	if (!lru->lruvec)
		return;
	for (file = 0; file < ARRAY_SIZE(lru->nr_pages); file++) {
		if (lru->nr_pages[file])
			migrate_count_isolated(lru->ctx,
					       lruvec_pgdat(lru->lruvec)->node_id,
					       file, lru->nr_pages[file]);
		lru->nr_pages[file] = 0;
	}
	lru_size_batch_unlock(lru->lruvec, &lru->sizes, lru->flags);
	lru->lruvec = NULL;
}

/*
 * folio_isolate_lru(), but keep the LRU lock for the next folio. The folio cannot change
 * its memcg, since PG_lru is clear. It needs no further reference: the one from collect is
 * enough.
 */
static bool unmap_isolate(struct unmap_lru *lru, struct folio *folio,
			  unsigned long nr_pages)
{
	if (!folio_test_clear_lru(folio))
		return false;

	if (lru->lruvec && !folio_matches_lruvec(folio, lru->lruvec))
		unmap_lru_unlock(lru);
	if (!lru->lruvec)
		lru->lruvec = folio_lruvec_lock_irqsave(folio, &lru->flags);
	lruvec_del_folio_batch(lru->lruvec, folio, &lru->sizes);
	lru->nr_pages[migrate_isolated_as_file(folio)] += nr_pages;
	return true;
}

/*
 * Isolate a unit. Returns true if it has no other mappings or references, so that the stage
 * is done with it. Otherwise it is marked for the second pass: by MIGRATE_PFN_RMAP, or by a
 * clear MIGRATE_PFN_MIGRATE if it could not be isolated.
 */
static bool unmap_isolate_unit(struct unmap_lru *lru, struct migrate_unit *unit)
{
	struct folio *folio = migrate_unit_folio(unit);

	if (folio_is_zone_device(folio)) {
		/*
		 * Device memory is on no LRU. No page table notes the device's writes, so
		 * the folio counts as dirty. It counts as swap-backed, too, even after
		 * MADV_FREE: reclaim discards folios that are neither dirty nor
		 * swap-backed.
		 */
		if (!folio_test_swapbacked(folio))
			folio_set_swapbacked(folio);
		if (!folio_test_dirty(folio))
			folio_set_dirty(folio);
	} else if (!unmap_isolate(lru, folio, migrate_unit_pages(unit))) {
		*unit->src &= ~MIGRATE_PFN_MIGRATE;
		return false;
	}
	if (!(*unit->src & MIGRATE_PFN_RMAP)) {
		/* If the migration holds the only reference, there is no mapping either. */
		if (likely(folio_ref_count(folio) == 1))
			return true;
		/* A file's folio is also referred to by the page cache and the file system. */
		if (!folio_test_anon(folio) && !folio_mapped(folio) &&
		    folio_ref_count(folio) == unmap_expected_refs(folio, NULL))
			return true;
	}
	*unit->src |= MIGRATE_PFN_RMAP;
	return false;
}

/*
 * The first pass: isolate all units, in small batches since interrupts are disabled.
 * Returns true if there are units for the second pass.
 */
static bool unmap_isolate_units(unsigned long *src, unsigned long npages,
				struct migrate_ctx *ctx,
				struct migrate_stats *stats)
{
	struct unmap_lru lru = { .ctx = ctx };
	unsigned long index = 0, end;
	struct migrate_unit unit = {};
	bool rest = false;

	lru_add_drain();
	while (index < npages) {
		end = min(index + MIGRATE_ISOLATE_BATCH, npages);
		while (migrate_unit_at(&unit, src, NULL, index, end)) {
			if (!unit.page)
				migrate_stats_pass_hole(stats, unit.order);
			else if (unmap_isolate_unit(&lru, &unit))
				migrate_stats_pass(stats, unit.order);
			else
				rest = true;
			index = unit.next;
		}
		index = max(index, end);
		unmap_lru_unlock(&lru);
		cond_resched();
	}
	return rest;
}

/**
 * migrate_unit_restore() - leave a unit where it was
 * @unit: the unit; has a folio, which is locked
 * @fault_page: see &migrate_vma.fault_page
 * @isolated_by: where the folio is counted as isolated; NULL if it is not isolated
 *
 * Restores the mappings, unlocks the folio, drops the reference and clears the slot.
 *
 * Context: Sleeps.
 */
void migrate_unit_restore(struct migrate_unit *unit, struct page *fault_page,
			  struct migrate_ctx *isolated_by)
{
	struct folio *folio = migrate_unit_folio(unit);

	/* Add it to the LRU before it is mapped, see finalize_add_lru(). */
	if (isolated_by) {
		migrate_count_isolated(isolated_by, folio_nid(folio),
				       migrate_isolated_as_file(folio),
				       -folio_nr_pages(folio));
		folio_add_lru(folio);
		lru_add_drain();
	}
	remove_migration_ptes(folio, folio, 0);
	migrate_unit_put_anon_vma(unit);
	migrate_folio_unlock(folio, fault_page);
	folio_put(folio);
	*unit->src = 0;
}

static bool unmap_is_pinned(struct folio *folio, struct page *fault_page)
{
	return folio_ref_count(folio) > unmap_expected_refs(folio, fault_page);
}

/*
 * Drain the per-CPU batches of all CPUs, since one of them may hold the unexpected
 * reference. PG_lru does not tell: a folio that is about to be activated is in a batch and
 * on the LRU. Returns false if they were drained before, so that another look is useless.
 */
static bool unmap_drain(struct migrate_ctx *ctx)
{
	if (ctx->drained)
		return false;
	lru_add_drain_all();
	ctx->drained = true;
	return true;
}

/* Remove the other mappings of a unit, and check that it has no unexpected references. */
static enum migrate_left unmap_unit(struct migrate_unit *unit, struct page *fault_page,
				    struct migrate_ctx *ctx)
{
	struct folio *folio = migrate_unit_folio(unit);

	if (!(*unit->src & MIGRATE_PFN_MIGRATE)) {
		unmap_drain(ctx);
		if (!folio_isolate_lru(folio))
			return MIGRATE_LEFT_LRU;
		/* Drop the reference of the isolation: the one from collect is enough. */
		folio_put(folio);
		migrate_count_isolated(ctx, folio_nid(folio), migrate_isolated_as_file(folio),
				       folio_nr_pages(folio));
		*unit->src |= MIGRATE_PFN_MIGRATE | MIGRATE_PFN_RMAP;
	}
	if (folio_mapped(folio)) {
		try_to_migrate(folio, TTU_BATCH_FLUSH);
		if (folio_mapped(folio))
			return MIGRATE_LEFT_MAPPED;
	} else if (folio_test_anon(folio) && !(*unit->src & MIGRATE_PFN_ANON_VMA)) {
		/* Collect has replaced all mappings: the reference was not a mapping's. */
		*unit->src &= ~MIGRATE_PFN_RMAP;
	}
	if (!unmap_is_pinned(folio, fault_page))
		return MIGRATE_LEFT_NONE;
	/* Draining helps neither a pinned folio nor device memory, which is in no batch. */
	if (folio_maybe_dma_pinned(folio) || folio_is_zone_device(folio))
		return MIGRATE_LEFT_PINNED;
	return unmap_drain(ctx) && !unmap_is_pinned(folio, fault_page) ?
	       MIGRATE_LEFT_NONE : MIGRATE_LEFT_PINNED;
}

/**
 * migrate_stage_unmap() - the second stage: isolate, and remove all mappings
 * @src: the array of sources, from collect
 * @npages: the number of slots
 * @fault_page: see &migrate_vma.fault_page
 * @ctx: what the stages share
 * @stats: the counts of the stage
 *
 * Units that cannot go on are restored and counted.
 *
 * Context: The folios are locked. Sleeps.
 */
void migrate_stage_unmap(unsigned long *src, unsigned long npages,
			 struct page *fault_page, struct migrate_ctx *ctx,
			 struct migrate_stats *stats)
{
	struct migrate_unit unit = {};

	if (!unmap_isolate_units(src, npages, ctx, stats))
		return;
	while (migrate_unit_next(&unit, src, NULL, npages)) {
		enum migrate_left reason;

		/* Skip holes, and units that the first pass is done with. */
		if (!unit.page ||
		    (*unit.src & (MIGRATE_PFN_MIGRATE | MIGRATE_PFN_RMAP)) ==
		    MIGRATE_PFN_MIGRATE)
			continue;
		cond_resched();
		reason = unmap_unit(&unit, fault_page, ctx);
		if (reason == MIGRATE_LEFT_NONE) {
			migrate_stats_pass(stats, unit.order);
			continue;
		}
		migrate_stats_leave(stats, reason, migrate_unit_pages(&unit));
		migrate_unit_restore(&unit, fault_page,
				     reason == MIGRATE_LEFT_LRU ||
				     is_zone_device_page(unit.page) ? NULL : ctx);
	}
	/*
	 * Flush before anything is copied, so that no CPU writes through a stale TLB entry.
	 * If another task changes these page tables before, it does the pending flush
	 * itself, see flush_tlb_batched_pending().
	 */
	try_to_unmap_flush();
}

#include "tests/unmap-kunit.h"
