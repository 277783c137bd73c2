/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Range migration, the collect stage: what collect.c, the walk over the page tables, and
 * run.c, PTEs of large folios and of files, share.
 */
#ifndef _MM_MIGRATE_VMA_COLLECT_H
#define _MM_MIGRATE_VMA_COLLECT_H

#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include "internal.h"

/**
 * struct migrate_collect - one pass over the page tables
 * @migrate: the caller's range
 * @fault_page: see &migrate_vma.fault_page
 * @stats: the counts of the stage
 * @nodes: migrate only folios on these nodes; NULL for all
 * @no_split: leave large folios that do not lie in the range whole, do not split them
 * @retry: look only at slots that the previous pass set to MIGRATE_SRC_RETRY
 * @system_stays: leave system memory of this vma where it is
 * @files_stay: leave folios of files where they are
 * @holes: holes may be filled, see migrate_hole_orders()
 * @no_holes: the caller does not fill holes, so do not count them as left
 * @huge_holes: a PMD-sized hole may be filled by one folio
 * @nr_retry: slots that this pass set to MIGRATE_SRC_RETRY
 * @split: a page of the large folio that the walk stopped at to split it. The folio is locked
 *	and has a reference; if the page is @fault_page, the fault holds both
 * @unsplittable: the last folio that could not be split; only compared, never dereferenced
 * @rmap: anonymous mappings to account for before the PTL is dropped
 * @rmap_file: file mappings to account for before the PTL is dropped
 */
struct migrate_collect {
	struct migrate_vma *migrate;
	struct page *fault_page;
	struct migrate_stats *stats;
	const struct migrate_nodes *nodes;
	bool no_split;
	bool retry;
	bool system_stays;
	bool files_stay;
	bool holes;
	bool no_holes;
	bool huge_holes;
	unsigned long nr_retry;
	struct page *split;
	struct folio *unsplittable;
	struct rmap_batch rmap;
	struct rmap_batch rmap_file;
};

/**
 * struct migrate_run - consecutive PTEs that differ only by consecutive pfns
 * @pte: the first of them
 * @folio: the folio that they map; locked, but for a run that is left
 * @page: the page that the first one maps
 * @write: they are writable
 * @exclusive: the pages are exclusive to this mm
 */
struct migrate_run {
	pte_t pte;
	struct folio *folio;
	struct page *page;
	bool write;
	bool exclusive;
};

/* Leave a page where it is; if its folio is only locked, remember the address for a retry. */
static __always_inline void
collect_leave(struct migrate_collect *collect, unsigned long *slot,
	      enum migrate_left reason)
{
	if (reason == MIGRATE_LEFT_LOCKED) {
		*slot = MIGRATE_SRC_RETRY;
		collect->nr_retry++;
	} else {
		*slot = 0;
		migrate_stats_leave(collect->stats, reason, 1);
	}
}

/*
 * Fill the slot of a unit. A retry must clear the other slots of a large unit, which hold
 * MIGRATE_SRC_RETRY.
 */
static __always_inline void
collect_fill_slot(struct migrate_collect *collect, unsigned long *slot,
		  unsigned long entry, unsigned int order)
{
	entry |= MIGRATE_PFN_MIGRATE;
	if (order) {
		if (collect->retry)
			memset(slot, 0, sizeof(*slot) << order);
		entry |= MIGRATE_PFN_COMPOUND;
	}
	*slot = entry;
	migrate_stats_pass(collect->stats, order);
}

/* Does the caller take folios of @order as one unit? */
static inline bool collect_takes(const struct migrate_vma *migrate, unsigned int order)
{
	if (migrate->flags & MIGRATE_VMA_SELECT_LARGE)
		return true;
	return (migrate->flags & MIGRATE_VMA_SELECT_COMPOUND) &&
	       order == MIGRATE_HUGE_ORDER;
}

/*
 * PageAnonExclusive() without the lookup of the folio, which it needs for hugetlb. Only for
 * anonymous memory: the bit means something else for pages of files.
 */
static __always_inline bool migrate_page_exclusive(const struct page *page)
{
	VM_WARN_ON_ONCE_PAGE(PageHuge(page), page);
	return __PageAnonExclusive(page);
}

void migrate_run_restore(struct migrate_run *run, struct vm_area_struct *vma,
			 unsigned long addr, pte_t *ptep, unsigned int nr);
unsigned int migrate_run_length(struct migrate_run *run, pte_t *ptep, unsigned int max_nr);

/* The migration entry that keeps all bits of the run's first PTE. */
static __always_inline pte_t migrate_run_swp_pte(struct migrate_run *run)
{
	unsigned long pfn = page_to_pfn(run->page);
	bool soft_dirty, uffd_wp;
	swp_entry_t entry;
	pte_t pte;

	if (run->write)
		entry = make_writable_migration_entry(pfn);
	else if (run->exclusive)
		entry = make_readable_exclusive_migration_entry(pfn);
	else
		entry = make_readable_migration_entry(pfn);

	if (pte_present(run->pte)) {
		if (pte_young(run->pte))
			entry = make_migration_entry_young(entry);
		if (pte_dirty(run->pte))
			entry = make_migration_entry_dirty(entry);
		soft_dirty = pte_soft_dirty(run->pte);
		uffd_wp = pte_uffd_wp(run->pte);
	} else {
		soft_dirty = pte_swp_soft_dirty(run->pte);
		uffd_wp = pte_swp_uffd_wp(run->pte);
	}

	pte = swp_entry_to_pte(entry);
	if (soft_dirty)
		pte = pte_swp_mksoft_dirty(pte);
	if (uffd_wp)
		pte = pte_swp_mkuffd_wp(pte);
	return pte;
}

/**
 * migrate_run_unmap() - replace a run of PTEs by migration entries
 * @run: the run; its folio is locked
 * @vma: the vma
 * @addr: the address of the first PTE
 * @ptep: the first PTE
 * @nr: the number of PTEs, see migrate_run_length()
 *
 * The caller takes over the references of the mappings. Before it drops the PTL, it removes
 * the mappings from the rmap and flushes the TLB.
 *
 * Context: The PTL is held.
 * Return: false if a page may be pinned; then the PTEs are unchanged.
 */
static __always_inline bool
migrate_run_unmap(struct migrate_run *run, struct vm_area_struct *vma,
		  unsigned long addr, pte_t *ptep, unsigned int nr)
{
	/* Swap entries change under the PTL only, so they can just be overwritten. */
	if (pte_present(run->pte)) {
		bool soft_dirty = pte_soft_dirty(run->pte);
		unsigned int i;

		for (i = 0; i < nr; i++)
			flush_cache_page(vma, addr + i * PAGE_SIZE,
					 page_to_pfn(run->page + i));
		/* If one PTE became dirty or young meanwhile, all of them count as such. */
		run->pte = get_and_clear_full_ptes(vma->vm_mm, addr, ptep, nr, 0);
		/* It gathers the dirty bits by pte_mkdirty(), which also sets soft-dirty. */
		if (nr > 1 && !soft_dirty)
			run->pte = pte_clear_soft_dirty(run->pte);
	}
	/* A page that is not exclusive cannot be pinned. */
	if (run->exclusive &&
	    folio_try_share_anon_rmap_ptes(run->folio, run->page, nr)) {
		migrate_run_restore(run, vma, addr, ptep, nr);
		return false;
	}

	/* The PTEs are clear, so the folio cannot get dirty through them any more. */
	if (pte_present(run->pte) && pte_dirty(run->pte))
		folio_mark_dirty(run->folio);
	migrate_set_swp_ptes(vma->vm_mm, addr, ptep, migrate_run_swp_pte(run),
			     nr);
	return true;
}

/* collect.c */
void collect_stop_to_split(struct migrate_collect *collect, struct migrate_run *run);

/* run.c */
void collect_shared_file(struct migrate_collect *collect, struct migrate_run *run,
			 unsigned long *slot);
unsigned int collect_leave_run(struct migrate_collect *collect, struct migrate_run *run,
			       unsigned long *slot, pte_t *ptep, unsigned int max_nr,
			       enum migrate_left reason);
unsigned int collect_file(struct migrate_collect *collect, struct migrate_run *run,
			  unsigned long *slot, unsigned long addr, pte_t *ptep,
			  unsigned int max_nr, bool *unmapped);
unsigned int collect_large(struct migrate_collect *collect, struct migrate_run *run,
			   unsigned long *slot, unsigned long addr, pte_t *ptep,
			   unsigned int max_nr);

#endif /* _MM_MIGRATE_VMA_COLLECT_H */
