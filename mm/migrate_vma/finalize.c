// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the last stage: replace migration entries by the new folio, or restore
 * the old one.
 *
 * Finalize mirrors collect: the migration entries of a folio that only this range mapped
 * are where collect installed them, so it walks the page table once and the rmap not at
 * all. "Only this range mapped it" means that collect left no mapping, under the folio
 * lock. While that lock is held, no mapping can be added: faults take the lock, and fork()
 * of this mm needs mmap_lock for writing. The following may happen concurrently, and is
 * harmless:
 *
 * - MADV_DONTNEED and the OOM reaper zap the migration entry, and a fault may map a new page.
 *   So finalize checks that the PTE is a migration entry with the pfn of the source.
 *   Otherwise it replaces nothing, and dropping its reference frees the new folio.
 * - userfaultfd write-protects the migration entry. So finalize takes all bits from the entry
 *   as it is now, and none from src[].
 * - UFFDIO_MOVE waits for a migration entry to go away; MADV_FREE leaves it alone.
 * - Another mm that maps the same folio forks or exits. Then collect left a mapping, and
 *   MIGRATE_PFN_RMAP makes finalize walk the rmap. The walk finds all mappings: fork() inserts
 *   the child into the anon_vma's tree behind the parent, under the anon_vma lock.
 * - khugepaged frees the page table, of a private file mapping. Then it has no entries.
 * - This mm does not exit: the caller holds mm_users.
 */
#include <linux/export.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pagevec.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <trace/events/migrate.h>
#include "../internal.h"
#include "internal.h"

/**
 * struct finalize - state of the finalize stage
 * @migrate: the range; NULL without a vma
 * @fault_page: see &migrate_vma.fault_page
 * @mlocked: the vma is VM_LOCKED; stable, since changing it needs mmap_lock for writing
 * @src: the old folios
 * @dst: the new ones
 * @ctx: where isolated pages are counted
 * @zone: page_zone_id() of the last source
 * @zone_isolated: sources in this zone were isolated from the LRU: they are not device memory
 * @nid: the node of this zone
 * @nr_putback: pages of sources in this zone that are not isolated any more, but not yet
 *	subtracted from NR_ISOLATED_ANON
 * @stats: the counts of the stage
 * @pages: folios to free, linked by their lru: system memory that has migrated
 * @batch: other folios to put
 * @lru: folios to add to the LRU before the PTL is dropped
 * @nr: an upper limit of the number of folios in each of @pages, @batch and @lru
 * @rmap: anonymous mappings to account for before the PTL is dropped
 * @rmap_file: file mappings to account for before the PTL is dropped
 *
 * References are dropped in batches, outside of all locks.
 */
struct finalize {
	struct migrate_vma *migrate;
	struct page *fault_page;
	bool mlocked;
	unsigned long *src;
	unsigned long *dst;
	struct migrate_ctx *ctx;
	int zone;
	bool zone_isolated;
	int nid;
	long nr_putback;
	struct migrate_stats *stats;
	struct list_head pages;
	struct folio_batch batch;
	struct folio_batch lru;
	unsigned int nr;
	struct rmap_batch rmap;
	struct rmap_batch rmap_file;
};

/* Is the batch too full for the two folios of another unit? */
static bool finalize_is_full(struct finalize *finalize)
{
	return finalize->nr + 2 > PAGEVEC_SIZE;
}

/*
 * Has the unit a new identity? A driver may call finalize without the pages stage, after an
 * error. Then the new folio has no mapping, whatever src[] says.
 */
static __always_inline bool
finalize_is_migrated(const struct migrate_unit *unit)
{
	return unit->newpage && (*unit->src & MIGRATE_PFN_MIGRATE) &&
	       migrate_unit_newfolio(unit)->mapping;
}

/* Is @pte the migration entry of @page? */
static __always_inline bool finalize_is_ours(pte_t pte, struct page *page)
{
	swp_entry_t entry;

	if (!is_swap_pte(pte))
		return false;
	entry = pte_to_swp_entry(pte);
	return is_migration_entry(entry) &&
	       swp_offset_pfn(entry) == page_to_pfn(page);
}

static void finalize_count_isolated(struct finalize *finalize)
{
	if (finalize->nr_putback && finalize->zone_isolated)
		migrate_count_isolated(finalize->ctx, finalize->nid, false,
				       -finalize->nr_putback);
	finalize->nr_putback = 0;
}

static noinline void finalize_next_zone(struct finalize *finalize,
					struct folio *src)
{
	finalize_count_isolated(finalize);
	finalize->zone = page_zone_id(&src->page);
	finalize->zone_isolated = !folio_is_zone_device(src);
	finalize->nid = folio_nid(src);
}

/*
 * Count the @nr_pages pages of @src as not isolated any more. @folio is the folio that the
 * unit has now, the new one or @src. Consecutive sources mostly are in the same zone, so
 * they are counted at once.
 */
static __always_inline void finalize_putback(struct finalize *finalize, struct folio *src,
					     struct folio *folio, long nr_pages)
{
	if (unlikely(page_zone_id(&src->page) != finalize->zone))
		finalize_next_zone(finalize, src);
	if (unlikely(migrate_isolated_as_file(folio)))
		migrate_count_isolated(finalize->ctx, finalize->nid, true, -nr_pages);
	else
		finalize->nr_putback += nr_pages;
}

/*
 * Unlock a folio, and queue it to drop the reference. A source that was isolated and has
 * migrated is on no list and not charged to a memcg, so it can be queued by its lru. Comes
 * after finalize_putback(), which sets the zone.
 */
static __always_inline void
finalize_drop(struct finalize *finalize, struct folio *folio, bool migrated)
{
	migrate_folio_unlock(folio, finalize->fault_page);
	if (migrated && finalize->zone_isolated)
		list_add(&folio->lru, &finalize->pages);
	else
		folio_batch_add(&finalize->batch, folio);
}

static void finalize_put(struct finalize *finalize)
{
	put_pages_list(&finalize->pages);
	folios_put(&finalize->batch);
	finalize->nr = 0;
	cond_resched();
}

/*
 * Map @nr pages of @folio from @page on, in place of the migration entries at @ptep.
 * @old_pte is the first entry; the others differ only by consecutive pfns.
 */
static __always_inline void
finalize_map(struct finalize *finalize, struct folio *folio, struct page *page,
	     unsigned long addr, pte_t *ptep, pte_t old_pte, unsigned int nr)
{
	struct vm_area_struct *vma = finalize->migrate->vma;
	pte_t pte = migration_pte_to_pte(folio, page, vma, old_pte);
	rmap_t flags = migration_pte_rmap_flags(folio, old_pte);

	if (unlikely(!folio_test_anon(folio)))
		folio_add_file_rmap_ptes_batch(folio, page, nr, vma,
					       &finalize->rmap_file);
	else if (nr > 1 && nr == folio_nr_pages(folio))
		folio_add_whole_anon_rmap_batch(folio, flags, &finalize->rmap);
	else
		folio_add_anon_rmap_ptes_batch(folio, page, nr, vma, addr,
					       flags, &finalize->rmap);
	if (nr == 1)
		set_pte_at(vma->vm_mm, addr, ptep, pte);
	else if (pte_present(pte))
		set_ptes(vma->vm_mm, addr, ptep, pte, nr);
	else
		migrate_set_swp_ptes(vma->vm_mm, addr, ptep, pte, nr);
	if (unlikely(finalize->mlocked))
		mlock_drain_local();
	trace_remove_migration_pte(addr, pte_val(pte), folio_order(folio));
	/* No need to flush the TLB: the PTEs were not present before. */
	update_mmu_cache_range(NULL, vma, addr, ptep, nr);
}

/*
 * Add a folio to the LRU before it is mapped, for the mlock count: see
 * migrate_folio_move(). If the vma is not mlocked, the folio only joins the batch.
 */
static void finalize_add_lru(struct finalize *finalize, struct folio *folio)
{
	if (folio_is_zone_device(folio))
		return;
	if (unlikely(finalize->mlocked)) {
		folio_add_lru(folio);
		lru_add_drain();
		return;
	}
	folio_batch_add(&finalize->lru, folio);
}

/*
 * Are the migration entries of the unit only in this page table, and is it large or not, as
 * @large asks?
 */
static __always_inline bool
finalize_can_place(const struct migrate_unit *unit, bool large)
{
	return unit->page &&
	       (*unit->src & (MIGRATE_PFN_RMAP | MIGRATE_PFN_COMPOUND)) ==
	       (large ? MIGRATE_PFN_COMPOUND : 0);
}

/*
 * Place a large unit that has migrated, like finalize_place(), but run by run. If some of
 * its PTEs were zapped, then the folio is partially mapped; no rmap function has noticed
 * that, so queue it for deferred split here.
 *
 * A unit that has not migrated takes the slow path, since the driver may have given pages
 * for parts of it.
 */
static bool finalize_place_large(struct finalize *finalize,
				 const struct migrate_unit *unit, pte_t *ptep)
{
	unsigned long addr = finalize->migrate->start + unit->index * PAGE_SIZE;
	unsigned int nr_pages = migrate_unit_pages(unit), mapped = 0, nr, i;
	struct folio *src = migrate_unit_folio(unit);
	struct folio *dst = migrate_unit_newfolio(unit);

	if (!finalize_is_migrated(unit))
		return false;
	for (i = 0; i < nr_pages; i += nr) {
		pte_t pte = ptep_get(ptep + i);

		nr = 1;
		if (!finalize_is_ours(pte, unit->page + i))
			continue;
		nr = migrate_swp_run_length(ptep + i, pte, nr_pages - i);
		if (!mapped)
			finalize_add_lru(finalize, dst);
		/* A reference for each mapping, before it is visible; one is at hand. */
		if (nr > !mapped)
			folio_ref_add(dst, nr - !mapped);
		finalize_map(finalize, dst, folio_page(dst, i),
			     addr + i * PAGE_SIZE, ptep + i, pte, nr);
		mapped += nr;
	}
	if (!mapped)
		return false;
	if (mapped < nr_pages && folio_test_anon(dst) && !folio_is_zone_device(dst))
		deferred_split_folio(dst, true);

	finalize_putback(finalize, src, dst, nr_pages);
	folio_unlock(dst);
	migrate_stats_pass(finalize->stats, unit->order);
	finalize_drop(finalize, src, true);
	return true;
}

/*
 * Map a unit of one page where collect unmapped it. The mapping takes over the reference to
 * the folio. So unlock the folio here: once the PTL is dropped, a zap can free it, and
 * finalize must not touch it any more.
 *
 * Waiters for the migration entry wait for the lock of the old folio and hold no reference:
 * install the PTE, unlock the old folio, and drop the reference last.
 */
static __always_inline bool
finalize_place(struct finalize *finalize, const struct migrate_unit *unit,
	       pte_t *ptep)
{
	unsigned long addr = finalize->migrate->start + unit->index * PAGE_SIZE;
	bool migrated = finalize_is_migrated(unit);
	struct folio *src = migrate_unit_folio(unit);
	struct folio *dst = migrate_unit_newfolio(unit);
	struct folio *folio = migrated ? dst : src;
	pte_t pte = ptep_get(ptep);

	if (!finalize_is_ours(pte, unit->page))
		return false;

	finalize_putback(finalize, src, folio, 1);
	finalize_add_lru(finalize, folio);
	finalize_map(finalize, folio, &folio->page, addr, ptep, pte, 1);
	if (likely(migrated)) {
		folio_unlock(dst);
		migrate_stats_pass(finalize->stats, unit->order);
		finalize_drop(finalize, src, true);
		return true;
	}
	migrate_folio_unlock(src, finalize->fault_page);
	if (dst)
		finalize_drop(finalize, dst, false);
	return true;
}

/*
 * Place the units from slot @first to @end, whose migration entries are in one page table,
 * from @ptep on. Ends at a unit that cannot be placed, or when the batch is full. @large is
 * constant: large units have a separate loop, which keeps the loop over small ones tight.
 *
 * Return: the slot to continue at.
 */
static __always_inline unsigned long
finalize_place_units(struct finalize *finalize, unsigned long first,
		     unsigned long end, pte_t *ptep, bool large)
{
	unsigned long next = first;
	struct migrate_unit unit = {};

	while (!finalize_is_full(finalize)) {
		if (!migrate_unit_at(&unit, finalize->src, finalize->dst, next,
				     end)) {
			next = end;
			break;
		}
		next = unit.index;
		if (!finalize_can_place(&unit, large))
			break;
		if (!(large ?
		      finalize_place_large(finalize, &unit, ptep + (next - first)) :
		      finalize_place(finalize, &unit, ptep + (next - first))))
			break;
		finalize->nr++;
		next = unit.next;
	}
	/*
	 * The rmap comes before the LRU: a folio of a file may have other mappings by now,
	 * and a folio that reclaim isolates from the LRU may change its memcg.
	 */
	rmap_batch_flush(&finalize->rmap);
	rmap_batch_flush(&finalize->rmap_file);
	/* The PTL keeps the folios mapped, and so alive. */
	folio_batch_add_lru(&finalize->lru);
	return next;
}

static noinline unsigned long
finalize_place_large_units(struct finalize *finalize, unsigned long first,
			   unsigned long end, pte_t *ptep)
{
	return finalize_place_units(finalize, first, end, ptep, true);
}

/*
 * Place units in the page table that maps slot @first. If a PMD mapped this unit and still
 * has its migration entry, the page table does not exist.
 *
 * Return: the slot to continue at; @first if its unit could not be placed.
 */
static unsigned long finalize_table(struct finalize *finalize,
				    unsigned long first, bool large)
{
	struct migrate_vma *migrate = finalize->migrate;
	struct mm_struct *mm = migrate->vma->vm_mm;
	unsigned long addr = migrate->start + first * PAGE_SIZE;
	unsigned long next, end = pmd_addr_end(addr, migrate->end);
	spinlock_t *ptl;	/* of the page table */
	pmd_t *pmd;
	pte_t *ptep;

	mmap_assert_locked(mm);
	pmd = mm_find_pmd(mm, addr);
	if (!pmd)
		return first;
	ptep = pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (!ptep)
		return first;
	arch_enter_lazy_mmu_mode();
	end = (end - migrate->start) >> PAGE_SHIFT;
	if (unlikely(large))
		next = finalize_place_large_units(finalize, first, end, ptep);
	else
		next = finalize_place_units(finalize, first, end, ptep, false);
	arch_leave_lazy_mmu_mode();
	pte_unmap_unlock(ptep, ptl);
	return next;
}

/*
 * Map @folio by a PMD where collect has unmapped the unit's PMD. Returns false if the PMD
 * is not its migration entry any more: a part may have been zapped, so that the rest is in
 * a page table.
 */
static bool finalize_place_pmd(struct finalize *finalize,
			       const struct migrate_unit *unit,
			       struct folio *folio)
{
#ifdef CONFIG_ARCH_ENABLE_THP_MIGRATION
	struct vm_area_struct *vma = finalize->migrate->vma;
	struct page_vma_mapped_walk pvmw = {
		.vma = vma,
		.address = finalize->migrate->start + unit->index * PAGE_SIZE,
	};
	spinlock_t *ptl;	/* of the PMD */
	bool ours;

	mmap_assert_locked(vma->vm_mm);
	pvmw.pmd = mm_find_pmd(vma->vm_mm, pvmw.address);
	if (!pvmw.pmd)
		return false;
	ptl = pmd_lock(vma->vm_mm, pvmw.pmd);
	ours = is_pmd_migration_entry(*pvmw.pmd) &&
	       swp_offset_pfn(pmd_to_swp_entry(*pvmw.pmd)) == page_to_pfn(unit->page);
	if (ours) {
		/* Before it is mapped, see finalize_add_lru(). */
		if (!folio_is_zone_device(folio))
			folio_add_lru(folio);
		remove_migration_pmd(&pvmw, &folio->page);
	}
	spin_unlock(ptl);
	return ours;
#else
	return false;
#endif
}

/* Put the pages that the driver gave for parts of a unit that was not split. */
static void finalize_drop_parts(struct finalize *finalize,
				const struct migrate_unit *unit)
{
	unsigned long index;

	if (unit->newpage &&
	    folio_order(migrate_unit_newfolio(unit)) >= unit->order)
		return;
	for (index = unit->index + 1; index < unit->next; index++) {
		struct page *page = migrate_pfn_to_page(finalize->dst[index]);

		if (!page)
			continue;
		unlock_page(page);
		put_page(page);
	}
}

/*
 * Finalize a unit that was not placed in its page table: replace its PMD or walk the rmap.
 * The pages stage has mapped holes already, so only the references to their folios are
 * dropped.
 */
static void finalize_unit(struct finalize *finalize, struct migrate_unit *unit)
{
	bool migrated = unit->page && finalize_is_migrated(unit);
	struct folio *src, *folio;

	if (migrated)
		migrate_stats_pass(finalize->stats, unit->order);
	finalize->nr += !!unit->page + !!unit->newpage;
	finalize_drop_parts(finalize, unit);
	if (unit->page) {
		src = migrate_unit_folio(unit);
		folio = migrated ? migrate_unit_newfolio(unit) : src;
		finalize_putback(finalize, src, folio, migrate_unit_pages(unit));
		if (!finalize->migrate || !unit->order ||
		    (*unit->src & MIGRATE_PFN_RMAP) ||
		    !finalize_place_pmd(finalize, unit, folio)) {
			if (!folio_is_zone_device(folio))
				folio_add_lru(folio);
			/* For the mlock count; other vmas may have mlocked the folio. */
			if (finalize->mlocked || folio_test_unevictable(folio))
				lru_add_drain();
			remove_migration_ptes(src, folio, 0);
		}
		migrate_unit_put_anon_vma(unit);
		finalize_drop(finalize, src, migrated);
	}
	if (unit->newpage)
		finalize_drop(finalize, migrate_unit_newfolio(unit), false);
}

/**
 * migrate_stage_finalize() - the last stage: replace the migration entries
 * @src: the array of sources, from the previous stages
 * @dst: the driver's new pages
 * @npages: the number of slots in both
 * @migrate: the range, whose page tables have the migration entries of folios that only this
 *	range mapped; NULL to walk the rmap for all folios
 * @ctx: what the stages share
 * @stats: the counts of the stage
 *
 * Context: The folios of @src and @dst are locked; finalize unlocks them and drops the
 * references. mmap_lock is held if @migrate is not NULL. Sleeps.
 */
void migrate_stage_finalize(unsigned long *src, unsigned long *dst,
			    unsigned long npages, struct migrate_vma *migrate,
			    struct migrate_ctx *ctx,
			    struct migrate_stats *stats)
{
	struct finalize finalize = {
		.migrate = migrate,
		.fault_page = migrate ? migrate->fault_page : NULL,
		.mlocked = migrate && (migrate->vma->vm_flags & VM_LOCKED),
		.src = src,
		.dst = dst,
		.ctx = ctx,
		.zone = -1,
		.stats = stats,
	};
	struct migrate_unit unit = {};
	unsigned long index = 0, next;

	INIT_LIST_HEAD(&finalize.pages);
	folio_batch_init(&finalize.batch);
	folio_batch_init(&finalize.lru);
	while (migrate_unit_at(&unit, src, dst, index, npages)) {
		if (finalize_is_full(&finalize))
			finalize_put(&finalize);
		index = unit.index;
		if (migrate && finalize_can_place(&unit, unit.order)) {
			next = finalize_table(&finalize, index, unit.order);
			if (next != index) {
				index = next;
				continue;
			}
		}
		/* The slow path always makes progress. */
		finalize_unit(&finalize, &unit);
		index = unit.next;
	}
	finalize_count_isolated(&finalize);
	finalize_put(&finalize);
}

#include "tests/finalize-kunit.h"
