/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Range migration: the unit and its iterator, and runs of swap entries.
 */
#ifndef _MM_MIGRATE_VMA_UNIT_H
#define _MM_MIGRATE_VMA_UNIT_H

#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/rmap.h>
#include "../internal.h"

/*
 * Bits of src[] entries that only the stages use; drivers ignore them. After setup, a
 * driver may clear MIGRATE_PFN_MIGRATE in an entry and must not change anything else.
 * Together with these two, all bits below MIGRATE_PFN_SHIFT are in use.
 *
 * MIGRATE_PFN_RMAP	collect did not replace all mappings of the folio: finding the others,
 *			or their migration entries, takes an rmap walk
 * MIGRATE_PFN_ANON_VMA	folio->private holds a reference to the folio's anon_vma, see
 *			device.c; only for device memory
 */
#define MIGRATE_PFN_RMAP	BIT(2)
#define MIGRATE_PFN_ANON_VMA	BIT(5)

static_assert(BIT(MIGRATE_PFN_SHIFT) > MIGRATE_PFN_ANON_VMA);

/*
 * In src[], while collect runs and after it with MIGRATE_COLLECT_LEAVE_LOCKED: the folio
 * lock was taken, so look at this address again. Collect remembers the address and not the
 * folio, because a reference to the folio would fail the migration that holds its lock. Bit
 * 0, MIGRATE_PFN_VALID, is clear.
 */
#define MIGRATE_SRC_RETRY	BIT(MIGRATE_PFN_SHIFT)

/* In dst[], after the pages stage: see &migrate_stats.defer_writeback. */
#define MIGRATE_DST_RETRY	BIT(2)

/* The order of what a PMD maps. Collect makes large holes of this order only. */
#define MIGRATE_HUGE_ORDER \
	(IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) ? HPAGE_PMD_ORDER : 0)

/**
 * struct migrate_unit - one folio or one hole, which migrates whole
 * @index: its first slot in the arrays
 * @order: the order of the folio or hole; the unit has 1 << @order slots
 * @page: the page in its slot of src[]; NULL for a hole
 * @newpage: the page in its slot of dst[]; NULL if the driver gave none (yet)
 * @src: its slot in src[]
 * @next: the slot after the unit
 *
 * All slots of a unit but the first are 0. The stages iterate over units and not over
 * pages, so their cost does not depend on the size of the folios. Only dst[] may have pages
 * in the other slots, if the driver had no folio that is large enough: see split.c.
 */
struct migrate_unit {
	unsigned long index;
	unsigned int order;
	struct page *page;
	struct page *newpage;
	unsigned long *src;
	unsigned long next;
};

static inline unsigned long migrate_unit_pages(const struct migrate_unit *unit)
{
	return BIT(unit->order);
}

/* page_folio() without the lookup of the head page: @page is NULL or a folio's first page. */
static inline struct folio *migrate_head_folio(struct page *page)
{
	VM_WARN_ON_ONCE_PAGE(page && PageTail(page), page);
	return page ? container_of(page, struct folio, page) : NULL;
}

/* The unit's folio; NULL for a hole. */
static inline struct folio *migrate_unit_folio(const struct migrate_unit *unit)
{
	return migrate_head_folio(unit->page);
}

/* The folio that the driver gave for the unit, or NULL. */
static inline struct folio *
migrate_unit_newfolio(const struct migrate_unit *unit)
{
	return migrate_head_folio(unit->newpage);
}

/**
 * migrate_unit_at() - find the first unit at a slot or after it
 * @unit: set to the unit that was found
 * @src: the array of sources
 * @dst: the array of destinations, or NULL in a stage that has none
 * @index: the slot to start from
 * @npages: the number of slots in the arrays
 *
 * A slot that is empty in @src but not in @dst holds a page that the driver gave for a
 * source that stayed. It is returned as a unit of one slot without a @page.
 *
 * Return: false if no slot is left.
 */
static __always_inline bool
migrate_unit_at(struct migrate_unit *unit, unsigned long *src,
		unsigned long *dst, unsigned long index, unsigned long npages)
{
	while (index < npages && !src[index] && !(dst && dst[index]))
		index++;
	if (index >= npages)
		return false;

	unit->index = index;
	unit->src = src + index;
	unit->page = migrate_pfn_to_page(src[index]);
	unit->newpage = dst ? migrate_pfn_to_page(dst[index]) : NULL;
	unit->order = 0;
	if (unlikely(src[index] & MIGRATE_PFN_COMPOUND))
		unit->order = unit->page ?
			      folio_order(page_folio(unit->page)) :
			      MIGRATE_HUGE_ORDER;
	unit->next = index + migrate_unit_pages(unit);
	return true;
}

/**
 * migrate_unit_next() - find the next unit
 * @unit: the previous unit; all zero at first
 * @src: the array of sources
 * @dst: the array of destinations, or NULL in a stage that has none
 * @npages: the number of slots in the arrays
 *
 * The caller may have changed the slot of the previous unit and freed its folio.
 *
 * Return: false if no unit is left.
 */
static __always_inline bool
migrate_unit_next(struct migrate_unit *unit, unsigned long *src,
		  unsigned long *dst, unsigned long npages)
{
	return migrate_unit_at(unit, src, dst, unit->next, npages);
}

/*
 * Migration by device pfns does not hold mmap_lock. It holds a reference to the anon_vma
 * instead: without mappings, nothing else keeps it alive during the rmap walk.
 */
static inline void migrate_unit_put_anon_vma(struct migrate_unit *unit)
{
	struct folio *folio;

	if (!(*unit->src & MIGRATE_PFN_ANON_VMA))
		return;
	folio = migrate_unit_folio(unit);
	put_anon_vma(folio->private);
	folio->private = NULL;
}

/*
 * The swap entry of the next pfn. pte_next_swp_offset() takes the entry apart and builds a
 * new one; if the architecture keeps the offset in one field, an addition is enough.
 * KUnit's test_next_swp_entry compares both.
 */
static __always_inline pte_t migrate_swp_next(pte_t pte)
{
#ifdef PTE_SWP_OFFSET_STEP
	return __pte(pte_val(pte) + PTE_SWP_OFFSET_STEP);
#else
	return pte_next_swp_offset(pte);
#endif
}

/*
 * The number of swap entries from @ptep on, at most @max_nr, that differ from the first
 * one, @pte, only by consecutive pfns.
 */
static __always_inline unsigned int
migrate_swp_run_length(pte_t *ptep, pte_t pte, unsigned int max_nr)
{
	unsigned int nr;

	for (nr = 1; nr < max_nr; nr++) {
		pte = migrate_swp_next(pte);
		if (!pte_same(ptep_get(ptep + nr), pte))
			break;
	}
	return nr;
}

/* set_ptes() for swap entries. */
static __always_inline void
migrate_set_swp_ptes(struct mm_struct *mm, unsigned long addr, pte_t *ptep,
		     pte_t pte, unsigned int nr)
{
	unsigned int i;

	set_pte_at(mm, addr, ptep, pte);
	for (i = 1; i < nr; i++) {
		pte = migrate_swp_next(pte);
		set_pte_at(mm, addr + i * PAGE_SIZE, ptep + i, pte);
	}
}

#endif /* _MM_MIGRATE_VMA_UNIT_H */
