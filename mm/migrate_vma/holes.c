// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: which holes may be filled, and filling them. A hole is filled where a
 * page fault would fill it, and with a folio of an order that the fault would use.
 */
#include <linux/ksm.h>
#include <linux/memcontrol.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/oom.h>
#include <linux/pgalloc.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/userfaultfd_k.h>
#include <asm/tlbflush.h>
#include "../internal.h"
#include "internal.h"

/**
 * migrate_hole_orders() - the orders of the folios that may fill holes of a vma
 * @vma: the vma
 *
 * Decides like do_anonymous_page() and do_huge_pmd_anonymous_page(). No hole is filled in
 * file mappings, where the page cache has the contents; without access, since nothing
 * faults there and the memory is not even accounted for; and where userfaultfd provides
 * missing pages. Nor in VM_DROPPABLE vmas: their pages may be discarded at any time, device
 * memory cannot be. Large folios obey sysfs, madvise(2) and prctl(2), and with a
 * userfaultfd of any mode only a whole PMD gets one.
 *
 * Context: mmap_lock is held.
 * Return: a bit for each order, bit 0 included; 0 if no hole may be filled.
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
 * @order: the order of the folio, smaller than PMD order
 *
 * A hole has no folio that tells its order. It is as large as the new folio if all slots of
 * the folio are holes for which the driver gave nothing else, and aligned as in a fault.
 *
 * Context: mmap_lock is held, after the collect stage.
 * Return: true if the folio can fill all these slots.
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

/* Find the PMD of @addr, and allocate its tables; NULL if out of memory. */
static pmd_t *hole_alloc_pmd(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	p4d = p4d_alloc(mm, pgd, addr);
	if (!p4d)
		return NULL;
	pud = pud_alloc(mm, p4d, addr);
	if (!pud)
		return NULL;
	return pmd_alloc(mm, pud, addr);
}

/* May holes be filled now? Missing pages are for userfaultfd to provide. The PTL is held. */
static bool hole_may_fill(struct vm_area_struct *vma)
{
	return !check_stable_address_space(vma->vm_mm) && !userfaultfd_missing(vma);
}

/* The PTE for @page of the new @folio. @old is none, or maps the zero page. */
static pte_t hole_pte(struct folio *folio, struct page *page,
		      struct vm_area_struct *vma, pte_t old)
{
	bool uffd_wp = pte_present(old) && pte_uffd_wp(old);
	bool write = (vma->vm_flags & VM_WRITE) && !uffd_wp;
	pte_t pte;

	if (folio_is_device_private(folio)) {
		unsigned long pfn = page_to_pfn(page);

		pte = swp_entry_to_pte(write ?
				       make_writable_device_private_entry(pfn) :
				       make_readable_device_private_entry(pfn));
		/* As pte_mkdirty() below. */
		if (vma->vm_flags & VM_WRITE)
			pte = pte_swp_mksoft_dirty(pte);
		return uffd_wp ? pte_swp_mkuffd_wp(pte) : pte;
	}

	pte = mk_pte(page, vma->vm_page_prot);
	if (vma->vm_flags & VM_WRITE)
		pte = pte_mkdirty(pte);
	if (write)
		pte = pte_mkwrite(pte, vma);
	return uffd_wp ? pte_mkuffd_wp(pte) : pte;
}

/* Map all pages of @folio by PTEs. Returns false if one of these is not a hole any more. */
static bool hole_map_ptes(struct folio *folio, struct vm_area_struct *vma,
			  unsigned long addr, pmd_t *pmd)
{
	unsigned int nr_pages = folio_nr_pages(folio), i;
	struct mm_struct *mm = vma->vm_mm;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep, old;
	bool open;

	ptep = pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (!ptep)
		return false;
	open = hole_may_fill(vma);
	for (i = 0; open && i < nr_pages; i++) {
		old = ptep_get(ptep + i);
		open = pte_none(old) ||
		       (pte_present(old) && is_zero_pfn(pte_pfn(old)));
	}
	if (!open)
		goto out;

	add_mm_counter(mm, MM_ANONPAGES, nr_pages);
	folio_add_new_anon_rmap(folio, vma, addr, RMAP_EXCLUSIVE);
	if (!folio_is_zone_device(folio))
		folio_add_lru_vma(folio, vma);
	folio_ref_add(folio, nr_pages);
	for (i = 0; i < nr_pages; i++, addr += PAGE_SIZE) {
		old = ptep_get(ptep + i);
		if (pte_present(old)) {
			ksm_might_unmap_zero_page(mm, old);
			flush_cache_page(vma, addr, pte_pfn(old));
			ptep_clear_flush(vma, addr, ptep + i);
		}
		set_pte_at(mm, addr, ptep + i,
			   hole_pte(folio, folio_page(folio, i), vma, old));
		update_mmu_cache(vma, addr, ptep + i);
	}
out:
	pte_unmap_unlock(ptep, ptl);
	return open;
}

#ifdef CONFIG_ARCH_ENABLE_THP_MIGRATION
/* As hole_pte(), for a PMD. */
static pmd_t hole_pmd(struct folio *folio, struct vm_area_struct *vma, pmd_t old)
{
	bool uffd_wp = pmd_present(old) && pmd_uffd_wp(old);
	bool write = (vma->vm_flags & VM_WRITE) && !uffd_wp;
	pmd_t pmd;

	if (folio_is_device_private(folio)) {
		unsigned long pfn = folio_pfn(folio);

		pmd = swp_entry_to_pmd(write ?
				       make_writable_device_private_entry(pfn) :
				       make_readable_device_private_entry(pfn));
		if (vma->vm_flags & VM_WRITE)
			pmd = pmd_swp_mksoft_dirty(pmd);
		return uffd_wp ? pmd_swp_mkuffd_wp(pmd) : pmd;
	}

	pmd = mk_huge_pmd(&folio->page, vma->vm_page_prot);
	if (vma->vm_flags & VM_WRITE)
		pmd = pmd_mkdirty(pmd);
	if (write)
		pmd = pmd_mkwrite(pmd, vma);
	return uffd_wp ? pmd_mkuffd_wp(pmd) : pmd;
}

/* Map @folio by a PMD. Returns false if that is not a hole any more. */
static bool hole_map_pmd(struct folio *folio, struct vm_area_struct *vma,
			 unsigned long addr)
{
	struct mm_struct *mm = vma->vm_mm;
	pmd_t *pmd = hole_alloc_pmd(mm, addr), old;
	spinlock_t *ptl;	/* of the PMD */
	pgtable_t pgtable;
	bool open;

	/* The page table to deposit, for when the PMD is split. */
	pgtable = pmd ? pte_alloc_one(mm) : NULL;
	if (!pgtable)
		return false;
	ptl = pmd_lock(mm, pmd);
	old = *pmd;
	open = (pmd_none(old) || is_huge_zero_pmd(old)) && hole_may_fill(vma);
	if (!open)
		goto out;

	add_mm_counter(mm, MM_ANONPAGES, HPAGE_PMD_NR);
	folio_add_new_anon_rmap(folio, vma, addr, RMAP_EXCLUSIVE);
	if (!folio_is_zone_device(folio))
		folio_add_lru_vma(folio, vma);
	folio_get(folio);
	if (pmd_none(old)) {
		pgtable_trans_huge_deposit(mm, pmd, pgtable);
		mm_inc_nr_ptes(mm);
		pgtable = NULL;
	} else {
		/* The huge zero page has deposited one already. */
		flush_cache_range(vma, addr, addr + HPAGE_PMD_SIZE);
		pmdp_huge_clear_flush(vma, addr, pmd);
	}
	set_pmd_at(mm, addr, pmd, hole_pmd(folio, vma, old));
	update_mmu_cache_pmd(vma, addr, pmd);
out:
	spin_unlock(ptl);
	if (pgtable)
		pte_free(mm, pgtable);
	return open;
}
#else
static bool hole_map_pmd(struct folio *folio, struct vm_area_struct *vma,
			 unsigned long addr)
{
	return false;
}
#endif

/**
 * migrate_hole_fill() - map a new folio where there is a hole or the zero page
 * @vma: the vma; anonymous, or else nothing is filled
 * @addr: the address of the hole
 * @folio: the folio, as large as the hole
 *
 * Does what do_anonymous_page() does in the page fault that did not happen yet.
 *
 * Context: mmap_lock is held, and @folio is locked. Sleeps.
 * Return: false if the hole was not filled.
 */
bool migrate_hole_fill(struct vm_area_struct *vma, unsigned long addr,
		       struct folio *folio)
{
	gfp_t gfp = GFP_KERNEL;
	pmd_t *pmd = NULL;

	if (!vma_is_anonymous(vma))
		return false;
	if (folio_is_zone_device(folio) && !folio_is_device_private(folio) &&
	    !folio_is_device_coherent(folio)) {
		pr_warn_once("Unsupported ZONE_DEVICE page type.\n");
		return false;
	}
	if (!folio_test_large(folio) || folio_order(folio) < MIGRATE_HUGE_ORDER) {
		pmd = hole_alloc_pmd(vma->vm_mm, addr);
		if (!pmd || pmd_trans_huge(*pmd) || pmd_devmap(*pmd) ||
		    pte_alloc(vma->vm_mm, pmd))
			return false;
	}
	if (anon_vma_prepare(vma))
		return false;
	/* As do_huge_pmd_anonymous_page(): do not invoke the OOM killer for a large folio. */
	if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) && folio_test_large(folio))
		gfp = vma_thp_gfp_mask(vma);
	if (mem_cgroup_charge(folio, vma->vm_mm, gfp))
		return false;
	migrate_make_rmappable(folio);
	/*
	 * The barrier in __folio_mark_uptodate() makes the contents visible
	 * before the PTE.
	 */
	__folio_mark_uptodate(folio);
	return pmd ? hole_map_ptes(folio, vma, addr, pmd) :
		     hole_map_pmd(folio, vma, addr);
}
