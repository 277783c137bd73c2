// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: a unit becomes several, because the driver has smaller pages
 * for it than it has.
 *
 * That comes out between the second and the third stage: the driver has looked at
 * the unit, found no memory as large as that, and put smaller folios into the
 * slots of dst[] where they belong. They need not be there for all of the unit.
 */
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include "../internal.h"
#include "internal.h"

/* The first page that the driver has for a part of @unit, or NULL. */
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
 * migrate_unit_must_split() - has the driver smaller pages than the unit has?
 * @unit: the unit, of more than one page
 * @dst: the driver's pages
 *
 * Return: true if so. Not if it has none at all, or one that is as large, or too
 * large.
 */
bool migrate_unit_must_split(const struct migrate_unit *unit,
			     unsigned long *dst)
{
	if (unit->newpage)
		return folio_order(migrate_unit_newfolio(unit)) < unit->order;
	return split_first_page(unit, dst);
}

/* Each folio holds the anon_vma, see device.c; the first one does already. */
static void split_share_anon_vma(struct folio *first, struct folio *folio)
{
	struct anon_vma *anon_vma = first->private;

	get_anon_vma(anon_vma);
	folio->private = anon_vma;
}

/* Give each folio that @unit has become its slot. */
static void split_fill_slots(struct migrate_unit *unit, struct folio *first,
			     unsigned int order)
{
	unsigned long flags = *unit->src & (BIT(MIGRATE_PFN_SHIFT) - 1);
	unsigned long pfn = folio_pfn(first), i;

	flags &= ~MIGRATE_PFN_COMPOUND;
	if (order)
		flags |= MIGRATE_PFN_COMPOUND;
	for (i = 0; i < migrate_unit_pages(unit); i += BIT(order)) {
		if (i && (flags & MIGRATE_PFN_ANON_VMA))
			split_share_anon_vma(first, pfn_folio(pfn + i));
		unit->src[i] = migrate_pfn(pfn + i) | flags;
	}
}

/* Order 1 is not for anonymous folios. */
static unsigned int split_order(const struct migrate_unit *unit,
				unsigned long *dst)
{
	unsigned int order =
		folio_order(page_folio(split_first_page(unit, dst)));

	return order == 1 ? 0 : order;
}

/*
 * Take and drop the lock of each page table that has a migration entry of @folio.
 */
static bool split_pass_tables(struct folio *folio, struct vm_area_struct *vma,
			      unsigned long addr, void *arg)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, folio, vma, addr, PVMW_SYNC | PVMW_MIGRATION);

	while (page_vma_mapped_walk(&pvmw))
		;
	return true;
}

/*
 * Code that finds a migration entry under its page-table lock looks up page_folio() and
 * relies on its lock, see pfn_swap_entry_folio(). If that was before the split, it has
 * found the first part; and finalize unlocks and frees this part without the lock of
 * that page table, when the entry there is of another part. split_huge_page() takes all
 * of these locks before it unlocks a part, in remap_page(); here, the rmap is walked for
 * each part. If one page table has all of the entries, finalize takes its lock first.
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

/* A large hole is many small ones, where page tables can be. */
static void split_hole(struct migrate_unit *unit, struct migrate_vma *migrate)
{
	unsigned long i, addr = migrate->start + unit->index * PAGE_SIZE;
	pmd_t *pmd = mm_find_pmd(migrate->vma->vm_mm, addr);

	if (pmd && is_huge_zero_pmd(pmdp_get_lockless(pmd)))
		split_huge_pmd(migrate->vma, pmd, addr);
	for (i = 0; i < migrate_unit_pages(unit); i++)
		unit->src[i] = MIGRATE_PFN_MIGRATE;
}

/**
 * migrate_unit_split() - make several units of one
 * @unit: the unit, see migrate_unit_must_split()
 * @dst: the driver's pages
 * @migrate: the range, or NULL: then there are no holes
 *
 * They are as large as the first page that the driver has for a part of it; those
 * for which the driver's page is smaller still can be split again.
 *
 * Context: as in the pages stage. Sleeps.
 * Return: true, and its slots are those of the new units; or false if somebody has
 * a reference to the folio, or it cannot be split.
 */
bool migrate_unit_split(struct migrate_unit *unit, unsigned long *dst,
			struct migrate_vma *migrate)
{
	struct page *fault_page = migrate ? migrate->fault_page : NULL;
	unsigned int order = split_order(unit, dst);
	struct folio *folio;

	if (!unit->page) {
		if (WARN_ON_ONCE(!migrate))
			return false;
		split_hole(unit, migrate);
		return true;
	}
	folio = migrate_unit_folio(unit);
	/* A file system may have something to say to that. */
	if (!folio_test_anon(folio))
		return false;
	if (split_unmapped_folio(folio, order, fault_page))
		return false;
	if (*unit->src & MIGRATE_PFN_RMAP)
		split_wait_for_readers(folio, migrate_unit_pages(unit), order);
	split_fill_slots(unit, folio, order);
	return true;
}
