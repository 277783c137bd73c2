// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the last stage: migration entries become entries again, of
 * the new folio or of the old one.
 *
 * It is the mirror of collect: what only this range mapped has its migration
 * entries where collect put them, so the page table is walked once and the rmap
 * not at all. "Only this range mapped it" means that collect left no mapping,
 * under the folio lock. As long as that is held, no mapping can be added: faults
 * take the lock, and fork() of this mm would need mmap_lock for writing. What can
 * happen beside us, and why that is harmless:
 *
 * - MADV_DONTNEED and the OOM reaper zap the migration entry, and a new page may
 *   be faulted in. So nothing is assumed of an entry: it must be a migration
 *   entry and have the pfn of our source. Otherwise there is nothing to replace,
 *   and the new folio goes away with our reference.
 * - userfaultfd write-protects the migration entry. So all bits are taken from
 *   the entry as it is now, and none from src[].
 * - UFFDIO_MOVE and MADV_FREE meet a migration entry: the one waits until it is
 *   gone, the other leaves it alone.
 * - Another mm that maps the same folio forks or exits. Then collect left a
 *   mapping, MIGRATE_PFN_RMAP is set, and the rmap finds what there is: fork()
 *   inserts the child into the anon_vma's tree behind the parent, under its lock.
 * - The page table is gone (of a private file mapping: khugepaged). Then it has
 *   no entries.
 * - This mm exits: the caller has mm_users.
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

/*
 * A driver may come here without the pages stage, after an error. Then its pages
 * have no identity, whatever src[] says.
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

/**
 * struct finalize - the last stage at work
 * @migrate: the range; NULL if there is no vma
 * @fault_page: see struct migrate_vma
 * @mlocked: the vma is; that cannot change, as it needs mmap_lock for writing
 * @src: the old folios
 * @dst: the new ones
 * @npages: how many slots both have
 * @call: where isolated folios are counted
 * @zone: the zone of the last source, as page_zone_id() says
 * @zone_isolated: the unmap stage has isolated what is of that zone: it is no device's
 * @nid: the node of that zone
 * @over: how many pages of that zone had units that are over, and are still to be counted
 * @tally: what is counted
 * @pages: folios to drop our reference to, by their lru: of system memory, and no
 *	longer anybody's
 * @batch: other folios to drop our reference to
 * @lru: folios to put on the LRU before the page-table lock is dropped
 * @nr: how many folios @pages, @batch or @lru may have got
 * @rmap: what is to be accounted for before the page-table lock is dropped
 * @rmap_file: the same of files
 *
 * What is dropped is dropped outside of all locks, before there is too much.
 */
struct finalize {
	struct migrate_vma *migrate;
	struct page *fault_page;
	bool mlocked;
	unsigned long *src;
	unsigned long *dst;
	unsigned long npages;
	struct migrate_call *call;
	int zone;
	bool zone_isolated;
	int nid;
	long over;
	struct migrate_tally *tally;
	struct list_head pages;
	struct folio_batch batch;
	struct folio_batch lru;
	unsigned int nr;
	struct rmap_batch rmap;
	struct rmap_batch rmap_file;
};

/* No room for the folios of another unit. */
static bool finalize_is_full(struct finalize *finalize)
{
	return finalize->nr + 2 > PAGEVEC_SIZE;
}

/* What is over of the last zone is not isolated any more. */
static void finalize_count_isolated(struct finalize *finalize)
{
	if (finalize->over && finalize->zone_isolated)
		migrate_count_isolated(finalize->call, finalize->nid, false,
				       -finalize->over);
	finalize->over = 0;
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
 * The unit of @src, which has @nr_pages and now is, or still is, @folio, is over. Sources mostly
 * are of one zone.
 */
static __always_inline void finalize_over(struct finalize *finalize, struct folio *src,
					  struct folio *folio, long nr_pages)
{
	if (unlikely(page_zone_id(&src->page) != finalize->zone))
		finalize_next_zone(finalize, src);
	if (unlikely(migrate_isolated_as_file(folio)))
		migrate_count_isolated(finalize->call, finalize->nid, true, -nr_pages);
	else
		finalize->over += nr_pages;
}

/*
 * Unlock a folio and note that our reference goes.
 *
 * The lru of a source that has migrated is free if it was isolated: it is charged
 * to nobody. finalize_over() comes before.
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
 * Map @nr pages of @folio from @page on, where @old_pte is the migration entry of
 * the first one, and the others' are like it.
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
	/* No need to invalidate: it was not present before. */
	update_mmu_cache_range(NULL, vma, addr, ptep, nr);
}

/*
 * To the LRU before it is mapped, for mlock's count: see migrate_folio_move().
 * Where nothing is locked, it goes there together with others.
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
 * Map a large folio, run by run. What is not ours any more is zapped, or was: then
 * the folio is mapped in part, and no rmap function has noted it. Returns how many
 * of its pages are mapped; each mapping has a reference, and one of these was ours.
 */
static __always_inline unsigned int
finalize_map_large(struct finalize *finalize, const struct migrate_unit *unit,
		   struct folio *folio, unsigned long addr, pte_t *ptep)
{
	unsigned int nr_pages = migrate_unit_pages(unit);
	unsigned int i, nr, mapped = 0;

	for (i = 0; i < nr_pages; i += nr) {
		pte_t pte = ptep_get(ptep + i);

		nr = 1;
		if (!finalize_is_ours(pte, unit->page + i))
			continue;
		nr = migrate_swp_run_length(ptep + i, pte, nr_pages - i);
		if (!mapped)
			finalize_add_lru(finalize, folio);
		/* Before somebody can see the mappings; one we have. */
		if (nr > !mapped)
			folio_ref_add(folio, nr - !mapped);
		finalize_map(finalize, folio, folio_page(folio, i),
			     addr + i * PAGE_SIZE, ptep + i, pte, nr);
		mapped += nr;
	}
	if (mapped && mapped < nr_pages && folio_test_anon(folio) &&
	    !folio_is_zone_device(folio))
		deferred_split_folio(folio, true);
	return mapped;
}

/* Is it enough to look into the page table, for a unit that is large or is not? */
static __always_inline bool
finalize_can_place(const struct migrate_unit *unit, bool large)
{
	return unit->page &&
	       (*unit->src & (MIGRATE_PFN_RMAP | MIGRATE_PFN_COMPOUND)) ==
	       (large ? MIGRATE_PFN_COMPOUND : 0);
}

/*
 * As finalize_place() does, for a large unit that has migrated; if it has not, the
 * driver may have had pages for parts of it.
 */
static bool finalize_place_large(struct finalize *finalize,
				 const struct migrate_unit *unit, pte_t *ptep)
{
	unsigned long addr = finalize->migrate->start + unit->index * PAGE_SIZE;
	struct folio *dst = migrate_unit_newfolio(unit);

	if (!finalize_is_migrated(unit) ||
	    !finalize_map_large(finalize, unit, dst, addr, ptep))
		return false;

	finalize_over(finalize, migrate_unit_folio(unit), dst,
		      migrate_unit_pages(unit));
	folio_unlock(dst);
	migrate_passed(finalize->tally, unit->order);
	finalize_drop(finalize, migrate_unit_folio(unit), true);
	return true;
}

/*
 * Map a unit where collect unmapped it. Our reference to the folio becomes the
 * mapping's, so the folio is unlocked here: once the page-table lock is dropped,
 * it can be zapped, and is not ours to look at any more. Who waits for the
 * migration entry waits for the old folio's lock without a reference to it: that
 * comes after the entry, and our reference goes last.
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

	finalize_over(finalize, src, folio, 1);
	finalize_add_lru(finalize, folio);
	finalize_map(finalize, folio, &folio->page, addr, ptep, pte, 1);
	if (likely(migrated)) {
		folio_unlock(dst);
		migrate_passed(finalize->tally, unit->order);
		finalize_drop(finalize, src, true);
		return true;
	}
	migrate_folio_unlock(src, finalize->fault_page);
	if (dst)
		finalize_drop(finalize, dst, false);
	return true;
}

/*
 * Place the units of one page table, from slot @first to @end, @ptep being the
 * entry of @first. Returns the slot where that came to an end, because its unit
 * cannot be placed or because there is too much to drop. Large units have a loop of
 * their own, so that the registers of this one are the small ones'.
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
	 * Before they are on the LRU: a file's folio may be mapped elsewhere by now, and what
	 * is isolated there may change its memcg.
	 */
	rmap_batch_flush(&finalize->rmap);
	rmap_batch_flush(&finalize->rmap_file);
	/* The mappings keep the folios here until the lock is dropped. */
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
 * The same, with what is needed to get at the page table. There is none if a PMD
 * had mapped the unit at @first, and has the migration entry still.
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

#ifdef CONFIG_ARCH_ENABLE_THP_MIGRATION
static bool finalize_is_ours_pmd(pmd_t pmd, struct page *page)
{
	return is_pmd_migration_entry(pmd) &&
	       swp_offset_pfn(pmd_to_swp_entry(pmd)) == page_to_pfn(page);
}

/*
 * Place a unit where a PMD mapped it. Returns false if that is not what is there:
 * a part of it may be zapped meanwhile, and the rest be in a page table.
 */
static bool finalize_place_pmd(struct finalize *finalize,
			       const struct migrate_unit *unit,
			       struct folio *folio)
{
	struct vm_area_struct *vma = finalize->migrate->vma;
	struct page_vma_mapped_walk pvmw = {
		.vma = vma,
		.address = finalize->migrate->start + unit->index * PAGE_SIZE,
	};
	spinlock_t *ptl;	/* of the page table */
	bool ours;

	mmap_assert_locked(vma->vm_mm);
	pvmw.pmd = mm_find_pmd(vma->vm_mm, pvmw.address);
	if (!pvmw.pmd)
		return false;
	ptl = pmd_lock(vma->vm_mm, pvmw.pmd);
	ours = finalize_is_ours_pmd(*pvmw.pmd, unit->page);
	if (ours) {
		/* Before it is mapped, see finalize_add_lru(). */
		if (!folio_is_zone_device(folio))
			folio_add_lru(folio);
		remove_migration_pmd(&pvmw, &folio->page);
	}
	spin_unlock(ptl);
	return ours;
}
#else
static bool finalize_place_pmd(struct finalize *finalize,
			       const struct migrate_unit *unit,
			       struct folio *folio)
{
	return false;
}
#endif

static bool finalize_can_place_pmd(struct finalize *finalize,
				   const struct migrate_unit *unit)
{
	return finalize->migrate && unit->order &&
	       !(*unit->src & MIGRATE_PFN_RMAP);
}

/* Pages that the driver had for parts of a unit that then has not been split. */
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

/* A unit whose mappings only the rmap can find, if there are any; or a hole. */
static void finalize_unit(struct finalize *finalize, struct migrate_unit *unit)
{
	bool migrated = unit->page && finalize_is_migrated(unit);
	struct folio *src, *folio;

	/* Holes are in the page tables since the pages stage. */
	if (migrated)
		migrate_passed(finalize->tally, unit->order);
	finalize->nr += !!unit->page + !!unit->newpage;
	finalize_drop_parts(finalize, unit);
	if (unit->page) {
		src = migrate_unit_folio(unit);
		folio = migrated ? migrate_unit_newfolio(unit) : src;
		finalize_over(finalize, src, folio, migrate_unit_pages(unit));
		if (!finalize_can_place_pmd(finalize, unit) ||
		    !finalize_place_pmd(finalize, unit, folio)) {
			if (!folio_is_zone_device(folio))
				folio_add_lru(folio);
			/* For mlock's count, which others may have a part in. */
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

/*
 * Finalize some units from slot @index on. Returns the slot from which to go on:
 * there is always progress, as what cannot be placed goes through the rmap.
 */
static unsigned long finalize_some(struct finalize *finalize,
				   unsigned long index)
{
	struct migrate_unit unit = {};
	unsigned long next;

	if (!migrate_unit_at(&unit, finalize->src, finalize->dst, index,
			     finalize->npages))
		return finalize->npages;
	if (finalize->migrate && finalize_can_place(&unit, unit.order)) {
		next = finalize_table(finalize, unit.index, unit.order);
		if (next != unit.index)
			return next;
	}
	finalize_unit(finalize, &unit);
	return unit.next;
}

/**
 * migrate_stage_finalize() - the last stage: migration entries become entries
 * @src: what the stages before made
 * @dst: the driver's new pages
 * @npages: how many slots both have
 * @migrate: the range, whose page tables have the entries of what only this
 *	range mapped; or NULL, and everything goes through the rmap
 * @call: what the stages of the call share
 * @tally: what is counted
 *
 * Context: the folios of @src and @dst are locked; they are unlocked, and the
 * references to them dropped. mmap_lock is held if @migrate is not NULL. Sleeps.
 */
void migrate_stage_finalize(unsigned long *src, unsigned long *dst,
			    unsigned long npages, struct migrate_vma *migrate,
			    struct migrate_call *call,
			    struct migrate_tally *tally)
{
	struct finalize finalize = {
		.migrate = migrate,
		.fault_page = migrate ? migrate->fault_page : NULL,
		.mlocked = migrate && (migrate->vma->vm_flags & VM_LOCKED),
		.src = src,
		.dst = dst,
		.npages = npages,
		.call = call,
		.zone = -1,
		.tally = tally,
	};
	unsigned long index = 0;

	INIT_LIST_HEAD(&finalize.pages);
	folio_batch_init(&finalize.batch);
	folio_batch_init(&finalize.lru);
	while (index < npages) {
		if (finalize_is_full(&finalize))
			finalize_put(&finalize);
		index = finalize_some(&finalize, index);
	}
	finalize_count_isolated(&finalize);
	finalize_put(&finalize);
}

/**
 * migrate_device_finalize() - complete page migration
 * @src_pfns: src_pfns returned from migrate_device_range()
 * @dst_pfns: array of pfns allocated by the driver to migrate memory to
 * @npages: number of pages in the range
 *
 * Completes migration of the page by removing special migration entries.
 * Drivers must ensure copying of page data is complete and visible to the CPU
 * before calling this.
 */
void migrate_device_finalize(unsigned long *src_pfns, unsigned long *dst_pfns,
			     unsigned long npages)
{
	struct migrate_tally tally = migrate_tally_pfns(MIGRATE_STAGE_FINALIZE, src_pfns, npages);
	struct migrate_call call = {};

	migrate_stage_finalize(src_pfns, dst_pfns, npages, NULL, &call, &tally);
	migrate_tally_report(&tally);
}
EXPORT_SYMBOL(migrate_device_finalize);

/**
 * migrate_vma_finalize() - restore CPU page table entry
 * @migrate: migrate struct containing all migration information
 *
 * This replaces the special migration pte entry with either a mapping to the
 * new page if migration was successful for that page, or to the original page
 * otherwise.
 *
 * This also unlocks the pages and puts them back on the lru, or drops the extra
 * refcount, for device pages.
 *
 * Context: mmap_lock has been held, for reading at least, since before
 * migrate_vma_setup(). The page tables are walked, and would be freed without it: a
 * driver that drops it in between gets a warning here and in migrate_vma_pages().
 * Before Linux 6.12's series of range migration, the rmap found the entries, and a
 * driver that had dropped mmap_lock got away with it as long as the anon_vma lived.
 */
void migrate_vma_finalize(struct migrate_vma *migrate)
{
	struct migrate_tally tally = migrate_tally_init(MIGRATE_STAGE_FINALIZE, migrate);
	struct migrate_call call = {};

	mmap_assert_locked(migrate->vma->vm_mm);
	migrate_stage_finalize(migrate->src, migrate->dst, migrate->npages,
			       migrate, &call, &tally);
	migrate_tally_report(&tally);
}
EXPORT_SYMBOL(migrate_vma_finalize);

#include "tests/finalize-kunit.h"
