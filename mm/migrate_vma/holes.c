// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: which holes may be filled, and with what. A hole is filled where a
 * page fault would fill it, and with a folio of an order that the fault would use.
 */
#include <linux/mm.h>
#include <linux/userfaultfd_k.h>
#include "../internal.h"
#include "internal.h"

/**
 * migrate_hole_orders() - the orders of the folios that may fill holes of a vma
 * @vma: the vma
 *
 * As do_anonymous_page() and do_huge_pmd_anonymous_page() decide: not in a file mapping,
 * where the page cache has the contents; not without access, where nothing ever faults
 * and the memory is not even accounted for; not where userfaultfd gives missing pages.
 * Large folios obey sysfs, madvise(2) and prctl(2), and with a userfaultfd of any mode
 * only a whole PMD gets one. VM_DROPPABLE memory must not get where it can only be kept.
 *
 * Context: mmap_lock is held.
 * Return: a bit for each order, bit 0 among them; or 0 if no hole is to be filled.
 */
unsigned long migrate_hole_orders(struct vm_area_struct *vma)
{
	unsigned long orders;

	if (!vma_is_anonymous(vma) || !vma_is_accessible(vma) ||
	    (vma->vm_flags & VM_DROPPABLE) || userfaultfd_missing(vma))
		return 0;
	orders = thp_vma_allowable_orders(vma, vma->vm_flags,
					  TVA_IN_PF | TVA_ENFORCE_SYSFS,
					  THP_ORDERS_ALL_ANON);
	if (userfaultfd_armed(vma))
		orders &= BIT(MIGRATE_HUGE_ORDER);
	return orders | BIT(0);
}

/**
 * migrate_hole_is_large() - can a large folio fill the hole at a slot?
 * @migrate: the range
 * @index: the slot
 * @order: the order of the folio, smaller than what a PMD maps
 *
 * A hole has no folio to ask for its order. So it is as large as the folio if all of it
 * is one: empty slots for which the driver has nothing else, aligned as in a fault.
 *
 * Context: mmap_lock is held, after the collect stage.
 * Return: true if so.
 */
bool migrate_hole_is_large(const struct migrate_vma *migrate,
			   unsigned long index, unsigned int order)
{
	unsigned long addr = migrate->start + index * PAGE_SIZE;
	unsigned long nr_pages = BIT(order), i;

	if (order >= MIGRATE_HUGE_ORDER || nr_pages > migrate->npages - index ||
	    !IS_ALIGNED(addr, PAGE_SIZE << order) ||
	    !(migrate_hole_orders(migrate->vma) & BIT(order)))
		return false;
	if (migrate->src[index] != MIGRATE_PFN_MIGRATE)
		return false;
	for (i = 1; i < nr_pages; i++)
		if (migrate->src[index + i] != MIGRATE_PFN_MIGRATE ||
		    migrate->dst[index + i])
			return false;
	return true;
}
