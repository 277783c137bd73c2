// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: split a unit if the driver gave smaller folios for it.
 *
 * The driver sees a large unit after setup. If it cannot allocate a folio of that order, it
 * puts smaller ones into the slots of dst[] where they belong, perhaps not for all of the
 * unit. So the pages stage splits the unit, when nothing maps the folio any more.
 */
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include "../internal.h"
#include "internal.h"

/* The first page that the driver gave for a part of @unit, or NULL. */
static struct page *split_first_page(const struct migrate_unit *unit,
				     unsigned long *dst)
{
	unsigned long index;

	for (index = unit->index; index < unit->next; index++)
		if (dst[index])
			return migrate_pfn_to_page(dst[index]);
	return NULL;
}

/**
 * migrate_unit_must_split() - did the driver give smaller folios than the unit?
 * @unit: the unit, of more than one page
 * @dst: the driver's pages
 *
 * Return: true if so; false if it gave none, or one that is as large or too large.
 */
bool migrate_unit_must_split(const struct migrate_unit *unit,
			     unsigned long *dst)
{
	if (unit->newpage)
		return folio_order(migrate_unit_newfolio(unit)) < unit->order;
	return split_first_page(unit, dst);
}

/* Fill the slots of the folios of @order that the unit was split into. @first is the first. */
static void split_fill_slots(struct migrate_unit *unit, struct folio *first,
			     unsigned int order)
{
	unsigned long flags = *unit->src & (BIT(MIGRATE_PFN_SHIFT) - 1);
	unsigned long pfn = folio_pfn(first), i;

	flags &= ~MIGRATE_PFN_COMPOUND;
	if (order)
		flags |= MIGRATE_PFN_COMPOUND;
	for (i = 0; i < migrate_unit_pages(unit); i += BIT(order)) {
		/* Each folio holds a reference to the anon_vma, as the first one does. */
		if (i && (flags & MIGRATE_PFN_ANON_VMA)) {
			struct anon_vma *anon_vma = first->private;

			get_anon_vma(anon_vma);
			pfn_folio(pfn + i)->private = anon_vma;
		}
		unit->src[i] = migrate_pfn(pfn + i) | flags;
	}
}

/* Take and drop the lock of each page table that has a migration entry of @folio. */
static bool split_pass_tables(struct folio *folio, struct vm_area_struct *vma,
			      unsigned long addr, void *arg)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, folio, vma, addr, PVMW_SYNC | PVMW_MIGRATION);

	while (page_vma_mapped_walk(&pvmw))
		;
	return true;
}

/*
 * Code that finds a migration entry under the PTL looks up page_folio() and relies on its
 * lock, see pfn_swap_entry_folio(). If it did so before the split, it has found the first
 * part. But finalize unlocks and frees the first part without this PTL, if the migration
 * entry here is that of another part. split_huge_page() takes all of these PTLs in
 * remap_page(), before it unlocks a part. Here, an rmap walk for each part does the same.
 * If all migration entries are in one page table, this is not needed, since finalize takes
 * its PTL first.
 */
static void split_wait_for_readers(struct folio *first, unsigned long nr_pages,
				   unsigned int order)
{
	struct rmap_walk_control rwc = {
		.rmap_one = split_pass_tables,
	};
	unsigned long i;

	for (i = 0; i < nr_pages; i += BIT(order)) {
		rmap_walk(pfn_folio(folio_pfn(first) + i), &rwc);
		cond_resched();
	}
}

/**
 * migrate_unit_split() - split a unit into several
 * @unit: the unit, see migrate_unit_must_split()
 * @dst: the driver's pages
 * @migrate: the range; NULL without a vma, and so without holes
 *
 * The new units are as large as the first folio that the driver gave for a part of @unit.
 * If a later folio is smaller still, its unit can be split again.
 *
 * Context: As in the pages stage. Sleeps.
 * Return: true if the unit was split, and its slots are those of the new units; false if
 * the folio has unexpected references or cannot be split.
 */
bool migrate_unit_split(struct migrate_unit *unit, unsigned long *dst,
			struct migrate_vma *migrate)
{
	struct page *fault_page = migrate ? migrate->fault_page : NULL;
	unsigned int order = folio_order(page_folio(split_first_page(unit, dst)));
	unsigned long addr, i;
	struct folio *folio;
	pmd_t *pmd;

	if (!unit->page) {
		if (WARN_ON_ONCE(!migrate))
			return false;
		/* Small folios need a page table at the PMD. */
		addr = migrate->start + unit->index * PAGE_SIZE;
		pmd = mm_find_pmd(migrate->vma->vm_mm, addr);
		if (pmd && is_huge_zero_pmd(pmdp_get_lockless(pmd)))
			split_huge_pmd(migrate->vma, pmd, addr);
		for (i = 0; i < migrate_unit_pages(unit); i++)
			unit->src[i] = MIGRATE_PFN_MIGRATE;
		return true;
	}
	folio = migrate_unit_folio(unit);
	/* The file system would have to agree to a split. */
	if (!folio_test_anon(folio))
		return false;
	/* Anonymous folios cannot be order-1. */
	if (order == 1)
		order = 0;
	if (split_unmapped_folio(folio, order, fault_page))
		return false;
	if (*unit->src & MIGRATE_PFN_RMAP)
		split_wait_for_readers(folio, migrate_unit_pages(unit), order);
	split_fill_slots(unit, folio, order);
	return true;
}
