// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the second stage: off the LRU, and no mapping left.
 *
 * Collect has the folios locked and their entries in this range replaced. Here
 * they leave the LRU, so that reclaim and compaction do not take references to
 * them, the rmap finds the mappings that other address spaces have, and what
 * somebody else has a reference to goes back.
 */
#include <linux/memcontrol.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include "../internal.h"
#include "internal.h"

/* How many slots are looked at under the LRU lock, with interrupts off. */
#define MIGRATE_ISOLATE_BATCH	SWAP_CLUSTER_MAX

/* References of @folio that a migration has to expect. */
static int unmap_expected_refs(struct folio *folio, struct page *fault_page)
{
	return folio_expected_ref_count(folio) + 1 +
	       migrate_is_fault_folio(folio, fault_page);
}

/**
 * struct unmap_lru - folios that leave the LRU under one lock
 * @lruvec: whose lock is held, if any
 * @flags: the interrupt state before
 * @sizes: what @lruvec has become smaller by
 * @nr_pages: how many pages these folios have; of files, in the second one
 * @call: where they are counted
 */
struct unmap_lru {
	struct lruvec *lruvec;
	unsigned long flags;
	struct lru_size_batch sizes;
	long nr_pages[2];
	struct migrate_call *call;
};

static void unmap_lru_unlock(struct unmap_lru *lru)
{
	unsigned int file;

	if (!lru->lruvec)
		return;
	for (file = 0; file < ARRAY_SIZE(lru->nr_pages); file++) {
		if (lru->nr_pages[file])
			migrate_count_isolated(lru->call,
					       lruvec_pgdat(lru->lruvec)->node_id,
					       file, lru->nr_pages[file]);
		lru->nr_pages[file] = 0;
	}
	lru_size_batch_unlock(lru->lruvec, &lru->sizes, lru->flags);
	lru->lruvec = NULL;
}

/* PG_lru is clear, so @folio cannot change its memcg. */
static void unmap_lru_lock(struct unmap_lru *lru, struct folio *folio)
{
	if (lru->lruvec && !folio_matches_lruvec(folio, lru->lruvec))
		unmap_lru_unlock(lru);
	if (!lru->lruvec)
		lru->lruvec = folio_lruvec_lock_irqsave(folio, &lru->flags);
}

/*
 * Like folio_isolate_lru(), but the lock stays for the next folio. The reference
 * that collect took over is the only one that we need.
 */
static bool unmap_isolate(struct unmap_lru *lru, struct folio *folio,
			  unsigned long nr_pages)
{
	if (!folio_test_clear_lru(folio))
		return false;

	unmap_lru_lock(lru, folio);
	lruvec_del_folio_batch(lru->lruvec, folio, &lru->sizes);
	lru->nr_pages[migrate_isolated_as_file(folio)] += nr_pages;
	return true;
}

/*
 * The device writes to its memory and no page table notes it. So what has been
 * there is dirty; and it is not free any more, should MADV_FREE have called it
 * so: reclaim throws away what is neither dirty nor swap-backed.
 */
static void unmap_note_device_writes(struct folio *folio)
{
	if (!folio_test_swapbacked(folio))
		folio_set_swapbacked(folio);
	if (!folio_test_dirty(folio))
		folio_set_dirty(folio);
}

/*
 * Has collect removed all mappings of this file's folio, and do only the page cache and the
 * file system have references to it besides ours?
 */
static bool unmap_is_own_file(const struct migrate_unit *unit)
{
	struct folio *folio = migrate_unit_folio(unit);

	return !(*unit->src & MIGRATE_PFN_RMAP) && !folio_test_anon(folio) &&
	       !folio_mapped(folio) &&
	       folio_ref_count(folio) == unmap_expected_refs(folio, NULL);
}

/*
 * Take a unit off the LRU. Returns true if it is nobody else's after that, so
 * that the stage is done with it. Otherwise it is marked: by MIGRATE_PFN_RMAP, or
 * by having no MIGRATE_PFN_MIGRATE if it could not be isolated.
 */
static bool unmap_isolate_unit(struct unmap_lru *lru, struct migrate_unit *unit)
{
	struct folio *folio = migrate_unit_folio(unit);

	/* Device memory is on no LRU. */
	if (folio_is_zone_device(folio)) {
		unmap_note_device_writes(folio);
	} else if (!unmap_isolate(lru, folio, migrate_unit_pages(unit))) {
		*unit->src &= ~MIGRATE_PFN_MIGRATE;
		return false;
	}
	/* If our reference is the only one, there is no mapping either. */
	if (likely(folio_ref_count(folio) == 1 &&
		   !(*unit->src & MIGRATE_PFN_RMAP)))
		return true;
	if (unmap_is_own_file(unit))
		return true;
	*unit->src |= MIGRATE_PFN_RMAP;
	return false;
}

/*
 * All units are isolated before any is unmapped, a few at a time, as interrupts
 * are off. Returns whether there are units that the stage is not done with.
 */
static bool unmap_isolate_units(unsigned long *src, unsigned long npages,
				struct migrate_call *call,
				struct migrate_tally *tally)
{
	struct unmap_lru lru = { .call = call };
	unsigned long index = 0, end;
	struct migrate_unit unit = {};
	bool rest = false;

	lru_add_drain();
	while (index < npages) {
		end = min(index + MIGRATE_ISOLATE_BATCH, npages);
		while (migrate_unit_at(&unit, src, NULL, index, end)) {
			if (!unit.page)
				migrate_passed_hole(tally, unit.order);
			else if (unmap_isolate_unit(&lru, &unit))
				migrate_passed(tally, unit.order);
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
 * migrate_unit_restore() - a unit that is not to migrate stays where it was
 * @unit: the unit; has a folio, which is locked
 * @fault_page: see struct migrate_vma
 * @isolated_by: the call that has isolated it; NULL if it is on the LRU, or a device's
 *
 * Puts its entries back, unlocks it, drops the reference and clears the slot.
 */
void migrate_unit_restore(struct migrate_unit *unit, struct page *fault_page,
			  struct migrate_call *isolated_by)
{
	struct folio *folio = migrate_unit_folio(unit);

	/* To the LRU before it is mapped, for mlock's count: see finalize. */
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

/* Does somebody that we do not know have a reference to @folio? */
static bool unmap_is_pinned(struct folio *folio, struct page *fault_page)
{
	return folio_ref_count(folio) > unmap_expected_refs(folio, fault_page);
}

/**
 * struct unmap_rest - the units that isolation is not done with
 * @fault_page: see struct migrate_vma
 * @call: whether the per-CPU batches have been drained, and where to count
 */
struct unmap_rest {
	struct page *fault_page;
	struct migrate_call *call;
};

/*
 * What stands in our way may be the reference of a per-CPU batch. PG_lru does not
 * tell: a folio that is about to be activated is in such a batch and on the LRU.
 * Returns true if it is worth another look.
 */
static bool unmap_drain(struct unmap_rest *rest)
{
	if (rest->call->drained)
		return false;
	lru_add_drain_all();
	rest->call->drained = true;
	return true;
}

/* Isolate what could not be isolated with the others. */
static bool unmap_isolate_late(struct unmap_rest *rest, struct folio *folio)
{
	unmap_drain(rest);
	if (!folio_isolate_lru(folio))
		return false;
	/* We have collect's reference. */
	folio_put(folio);
	migrate_count_isolated(rest->call, folio_nid(folio),
			       migrate_isolated_as_file(folio), folio_nr_pages(folio));
	return true;
}

static bool unmap_stays_pinned(struct unmap_rest *rest, struct folio *folio)
{
	if (!unmap_is_pinned(folio, rest->fault_page))
		return false;
	/* Device memory is in no batch. */
	if (folio_maybe_dma_pinned(folio) || folio_is_zone_device(folio))
		return true;
	return !unmap_drain(rest) || unmap_is_pinned(folio, rest->fault_page);
}

/* Remove what maps a unit still, and see that nobody else refers to it. */
static enum migrate_left unmap_unit(struct unmap_rest *rest,
				    struct migrate_unit *unit)
{
	struct folio *folio = migrate_unit_folio(unit);

	if (!(*unit->src & MIGRATE_PFN_MIGRATE)) {
		if (!unmap_isolate_late(rest, folio))
			return MIGRATE_LEFT_LRU;
		*unit->src |= MIGRATE_PFN_MIGRATE | MIGRATE_PFN_RMAP;
	}
	if (folio_mapped(folio)) {
		try_to_migrate(folio, TTU_BATCH_FLUSH);
		if (folio_mapped(folio))
			return MIGRATE_LEFT_MAPPED;
	} else if (folio_test_anon(folio) && !(*unit->src & MIGRATE_PFN_ANON_VMA)) {
		/* The reference was no mapping's: collect has met them all. */
		*unit->src &= ~MIGRATE_PFN_RMAP;
	}
	return unmap_stays_pinned(rest, folio) ? MIGRATE_LEFT_PINNED :
						 NR_MIGRATE_LEFT;
}

static bool unmap_is_done(struct migrate_unit *unit)
{
	return !unit->page ||
	       (*unit->src & (MIGRATE_PFN_MIGRATE | MIGRATE_PFN_RMAP)) ==
	       MIGRATE_PFN_MIGRATE;
}

static void unmap_units(unsigned long *src, unsigned long npages,
			struct page *fault_page, struct migrate_call *call,
			struct migrate_tally *tally)
{
	struct unmap_rest rest = { .fault_page = fault_page, .call = call };
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, src, NULL, npages)) {
		enum migrate_left reason;

		if (unmap_is_done(&unit))
			continue;
		cond_resched();
		reason = unmap_unit(&rest, &unit);
		if (reason == NR_MIGRATE_LEFT) {
			migrate_passed(tally, unit.order);
			continue;
		}
		migrate_left(tally, reason, migrate_unit_pages(&unit));
		migrate_unit_restore(&unit, fault_page,
				     reason == MIGRATE_LEFT_LRU ||
				     is_zone_device_page(unit.page) ? NULL : call);
	}
	/*
	 * Before anything is copied: nobody writes by a stale translation any more. Who
	 * changes these page tables meanwhile flushes what is pending himself, see
	 * flush_tlb_batched_pending().
	 */
	try_to_unmap_flush();
}

/**
 * migrate_stage_unmap() - the second stage: off the LRU, and no mapping left
 * @src: what collect made
 * @npages: how many slots it has
 * @fault_page: see struct migrate_vma
 * @call: what the stages of the call share
 * @tally: what is counted
 *
 * Units that cannot go on are restored and counted.
 *
 * Context: the folios are locked. Sleeps.
 */
void migrate_stage_unmap(unsigned long *src, unsigned long npages,
			 struct page *fault_page, struct migrate_call *call,
			 struct migrate_tally *tally)
{
	if (unmap_isolate_units(src, npages, call, tally))
		unmap_units(src, npages, fault_page, call, tally);
}

#include "tests/unmap-kunit.h"
