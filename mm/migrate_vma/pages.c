// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the third stage: the old folio's identity moves to the new
 * one, and holes are filled. The driver has copied the contents before.
 *
 * From here there is no way back for what moved.
 */
#include <linux/buffer_head.h>
#include <linux/export.h>
#include <linux/ksm.h>
#include <linux/memcontrol.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mmu_notifier.h>
#include <linux/oom.h>
#include <linux/pagemap.h>
#include <linux/pgalloc.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/userfaultfd_k.h>
#include <asm/tlbflush.h>
#include "../internal.h"
#include "internal.h"

/* Where the hole at @addr lies, made if need be; NULL if there is no memory. */
static pmd_t *pages_huge_hole_pmd(struct mm_struct *mm, unsigned long addr)
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

/* The same with its page table; NULL also if there can be none. */
static pmd_t *pages_hole_pmd(struct mm_struct *mm, unsigned long addr)
{
	pmd_t *pmd = pages_huge_hole_pmd(mm, addr);

	if (!pmd || pmd_trans_huge(*pmd) || pmd_devmap(*pmd))
		return NULL;
	return pte_alloc(mm, pmd) ? NULL : pmd;
}

/* The entry for @page of @folio, which is new, in place of @old: nothing, or zeros. */
static pte_t pages_hole_pte(struct folio *folio, struct page *page,
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
		/* What pte_mkdirty() does below. */
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

/* May we fill holes? Under the page-table lock. */
static bool pages_may_fill(struct vm_area_struct *vma)
{
	if (check_stable_address_space(vma->vm_mm))
		return false;
	/* A missing page is userfaultfd's to give. */
	return !userfaultfd_missing(vma);
}

/* The same, and are all @nr entries still holes? */
static bool pages_hole_is_open(struct vm_area_struct *vma, pte_t *ptep,
			       unsigned int nr)
{
	unsigned int i;

	if (!pages_may_fill(vma))
		return false;
	for (i = 0; i < nr; i++) {
		pte_t pte = ptep_get(ptep + i);

		if (!pte_none(pte) &&
		    !(pte_present(pte) && is_zero_pfn(pte_pfn(pte))))
			return false;
	}
	return true;
}

/* Map @page of @folio into a hole, or where the zero page is. */
static void pages_map_page(struct folio *folio, struct page *page,
			   struct vm_area_struct *vma, unsigned long addr,
			   pte_t *ptep)
{
	struct mm_struct *mm = vma->vm_mm;
	pte_t old = ptep_get(ptep);

	if (pte_present(old)) {
		ksm_might_unmap_zero_page(mm, old);
		flush_cache_page(vma, addr, pte_pfn(old));
		ptep_clear_flush(vma, addr, ptep);
	}
	set_pte_at(mm, addr, ptep, pages_hole_pte(folio, page, vma, old));
	update_mmu_cache(vma, addr, ptep);
}

/* Map @folio into the hole, which is as large. */
static bool pages_map_hole(struct folio *folio, struct vm_area_struct *vma,
			   unsigned long addr, pmd_t *pmd)
{
	unsigned int nr_pages = folio_nr_pages(folio), i;
	struct mm_struct *mm = vma->vm_mm;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;
	bool open;

	ptep = pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (!ptep)
		return false;
	open = pages_hole_is_open(vma, ptep, nr_pages);
	if (open) {
		add_mm_counter(mm, MM_ANONPAGES, nr_pages);
		folio_add_new_anon_rmap(folio, vma, addr, RMAP_EXCLUSIVE);
		if (!folio_is_zone_device(folio))
			folio_add_lru_vma(folio, vma);
		folio_ref_add(folio, nr_pages);
		for (i = 0; i < nr_pages; i++)
			pages_map_page(folio, folio_page(folio, i), vma,
				       addr + i * PAGE_SIZE, ptep + i);
	}
	pte_unmap_unlock(ptep, ptl);
	return open;
}

#ifdef CONFIG_ARCH_ENABLE_THP_MIGRATION
/* As pages_hole_pte() does. */
static pmd_t pages_huge_hole_entry(struct folio *folio,
				   struct vm_area_struct *vma, pmd_t old)
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

/*
 * Map @folio where there is nothing, or the huge zero page. Under the page-table
 * lock. Takes the page table over for the day when the entry is split, unless the
 * zero page has one already: then it is the caller's still.
 */
static pgtable_t pages_map_huge(struct folio *folio, struct vm_area_struct *vma,
				unsigned long addr, pmd_t *pmd,
				pgtable_t pgtable)
{
	struct mm_struct *mm = vma->vm_mm;
	pmd_t old = *pmd;

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
		flush_cache_range(vma, addr, addr + HPAGE_PMD_SIZE);
		pmdp_huge_clear_flush(vma, addr, pmd);
	}
	set_pmd_at(mm, addr, pmd, pages_huge_hole_entry(folio, vma, old));
	update_mmu_cache_pmd(vma, addr, pmd);
	return pgtable;
}

static bool pages_map_huge_hole(struct folio *folio, struct vm_area_struct *vma,
				unsigned long addr)
{
	pmd_t *pmd = pages_huge_hole_pmd(vma->vm_mm, addr);
	spinlock_t *ptl;	/* of the page table */
	pgtable_t pgtable;
	bool open;

	pgtable = pmd ? pte_alloc_one(vma->vm_mm) : NULL;
	if (!pgtable)
		return false;
	ptl = pmd_lock(vma->vm_mm, pmd);
	open = (pmd_none(*pmd) || is_huge_zero_pmd(*pmd)) &&
	       pages_may_fill(vma);
	if (open)
		pgtable = pages_map_huge(folio, vma, addr, pmd, pgtable);
	spin_unlock(ptl);
	if (pgtable)
		pte_free(vma->vm_mm, pgtable);
	return open;
}
#else
static bool pages_map_huge_hole(struct folio *folio, struct vm_area_struct *vma,
				unsigned long addr)
{
	return false;
}
#endif

/* The same as do_huge_pmd_anonymous_page(): nobody is killed for a large page. */
static gfp_t pages_charge_gfp(struct folio *folio, struct vm_area_struct *vma)
{
	if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) && folio_test_large(folio))
		return vma_thp_gfp_mask(vma);
	return GFP_KERNEL;
}

/*
 * No device keeps arm64's tags: private memory zeroes them, and coherent memory may have
 * no room for them.
 */
static bool pages_loses_tags(const struct migrate_vma *migrate,
			     struct folio *newfolio)
{
	return migrate && (migrate->vma->vm_flags & VM_MTE) &&
	       folio_is_zone_device(newfolio);
}

/*
 * alloc_pages(__GFP_COMP) leaves the flag clear, folio_alloc() sets it. rmap and the
 * deferred split queue take only folios that have it.
 */
static void pages_make_rmappable(struct folio *newfolio)
{
	if (folio_test_large(newfolio) && !folio_test_large_rmappable(newfolio))
		folio_set_large_rmappable(newfolio);
}

/*
 * Fill a hole, as do_anonymous_page() does: the rest of the fault that did not
 * come yet.
 */
static bool pages_fill_hole(struct vm_area_struct *vma, unsigned long addr,
			    struct folio *folio)
{
	pmd_t *pmd = NULL;

	if (!vma_is_anonymous(vma))
		return false;
	if (folio_is_zone_device(folio) && !folio_is_device_private(folio) &&
	    !folio_is_device_coherent(folio)) {
		pr_warn_once("Unsupported ZONE_DEVICE page type.\n");
		return false;
	}
	if (!folio_test_large(folio) || folio_order(folio) < MIGRATE_HUGE_ORDER) {
		pmd = pages_hole_pmd(vma->vm_mm, addr);
		if (!pmd)
			return false;
	}
	if (anon_vma_prepare(vma))
		return false;
	if (mem_cgroup_charge(folio, vma->vm_mm, pages_charge_gfp(folio, vma)))
		return false;
	pages_make_rmappable(folio);
	/*
	 * The barrier in __folio_mark_uptodate() makes the contents visible
	 * before the entry.
	 */
	__folio_mark_uptodate(folio);
	return pmd ? pages_map_hole(folio, vma, addr, pmd) :
		     pages_map_huge_hole(folio, vma, addr);
}

/* folio_mapping() is right, too, but slow for the common case. */
static struct address_space *pages_mapping(struct folio *folio)
{
	return folio_test_swapcache(folio) ? folio_mapping(folio) : NULL;
}

/*
 * The folio is under writeback: from pages_check() to pages_leave(), which knows whether
 * that counts as MIGRATE_LEFT_BUSY. No index into what counts.
 */
#define PAGES_WRITEBACK	((enum migrate_left)(NR_MIGRATE_LEFT + 1))

/* Only what is nowhere else may get into device memory: no swap cache has it. */
static bool pages_leave_swap_cache(struct folio *folio)
{
	return !folio_test_swapcache(folio) || folio_free_swap(folio);
}

/*
 * Can @folio of a file become @newfolio? The device's memory has no place in the page cache:
 * read() and write() would not find it. Writeback cannot begin while we have the lock, and
 * collect has looked, also that there is a mapping.
 */
static enum migrate_left pages_check_file(struct folio *newfolio, struct folio *folio)
{
	if (folio_is_zone_device(newfolio))
		return MIGRATE_LEFT_KIND;
	/* Some mappings are for devices that do not reach all memory. */
	if (folio_order(newfolio) != folio_order(folio) ||
	    folio_zonenum(newfolio) > gfp_zone(mapping_gfp_mask(folio->mapping)))
		return MIGRATE_LEFT_DESTINATION;
	if (folio_test_writeback(folio))
		return PAGES_WRITEBACK;
	pages_make_rmappable(newfolio);
	return NR_MIGRATE_LEFT;
}

/* Can @folio become @newfolio? */
static enum migrate_left pages_check(const struct migrate_vma *migrate,
				     struct folio *newfolio, struct folio *folio)
{
	if (unlikely(!folio_test_anon(folio)))
		return pages_check_file(newfolio, folio);
	if (folio_order(newfolio) != folio_order(folio))
		return MIGRATE_LEFT_DESTINATION;
	/*
	 * The swap cache lets go of a folio's lock while it writes the folio
	 * out, and a fault can map it again meanwhile.
	 */
	if (folio_test_writeback(folio))
		return PAGES_WRITEBACK;
	if (!folio_is_zone_device(newfolio)) {
		pages_make_rmappable(newfolio);
		return NR_MIGRATE_LEFT;
	}
	if (!folio_is_device_private(newfolio) &&
	    !folio_is_device_coherent(newfolio))
		return MIGRATE_LEFT_DESTINATION;
	if (pages_loses_tags(migrate, newfolio))
		return MIGRATE_LEFT_KIND;
	return pages_leave_swap_cache(folio) ? NR_MIGRATE_LEFT :
					       MIGRATE_LEFT_DESTINATION;
}

/* Has a task arm64's tags in @folio, by a mapping of its own? No engine copies them. */
static bool pages_have_tags(struct folio *folio)
{
#ifdef CONFIG_ARCH_USES_PG_ARCH_2
	unsigned long i;

	for (i = 0; i < folio_nr_pages(folio); i++)
		if (test_bit(PG_arch_2, &folio_page(folio, i)->flags))
			return true;
#endif
	return false;
}

/*
 * Is it enough for this file system that the page cache gets the new folio? With private
 * data, or where it knows more of its folios than we do, it has to move them itself, and
 * copies by the CPU once more; so it does with tags.
 */
static bool pages_file_is_plain(const struct address_space *mapping, struct folio *folio)
{
	const struct address_space_operations *aops = mapping->a_ops;

	if (folio_test_private(folio) || pages_have_tags(folio))
		return false;
	return aops->migrate_folio == migrate_folio ||
	       aops->migrate_folio == filemap_migrate_folio ||
	       (IS_ENABLED(CONFIG_BUFFER_HEAD) &&
		aops->migrate_folio == buffer_migrate_folio);
}

/*
 * The same for a file's folio: as migrate_folio() does, but for the copy, which is there.
 * folio_migrate_mapping() freezes the references, so nobody else has one who could write.
 */
static noinline enum migrate_left pages_move_file(struct folio *newfolio,
						  struct folio *folio,
						  struct mapping_batch *batch)
{
	struct address_space *mapping = folio_mapping(folio);
	int ret;

	if (!mapping)
		return MIGRATE_LEFT_BUSY;
	if (!pages_file_is_plain(mapping, folio)) {
		ret = mapping->a_ops->migrate_folio(mapping, newfolio, folio, MIGRATE_ASYNC);
	} else {
		ret = folio_migrate_mapping_batch(mapping, newfolio, folio, batch);
		if (!ret)
			folio_migrate_flags(newfolio, folio);
	}
	if (ret)
		return MIGRATE_LEFT_BUSY;
	/* Who frees it would take it for one that is in the page cache. */
	folio->mapping = NULL;
	flush_dcache_folio(newfolio);
	return NR_MIGRATE_LEFT;
}

/* Move the identity of a unit to @newfolio. */
static enum migrate_left pages_move(const struct migrate_vma *migrate,
				    struct migrate_unit *unit,
				    struct folio *newfolio,
				    struct page *fault_page,
				    struct mapping_batch *batch)
{
	struct folio *folio = migrate_unit_folio(unit);
	enum migrate_left reason = pages_check(migrate, newfolio, folio);
	void *private = folio->private;

	if (reason != NR_MIGRATE_LEFT)
		return reason;
	if (unlikely(!folio_test_anon(folio)))
		return pages_move_file(newfolio, folio, batch);
	if (folio_migrate_mapping(pages_mapping(folio), newfolio, folio,
				  migrate_is_fault_folio(folio, fault_page)))
		return MIGRATE_LEFT_BUSY;
	folio_migrate_flags(newfolio, folio);
	/* That forgets what is private to the old folio. */
	if (*unit->src & MIGRATE_PFN_ANON_VMA)
		folio->private = private;
	return NR_MIGRATE_LEFT;
}

/**
 * struct migrate_pages_holes - the part of the range where holes are filled
 * @migrate: the range; NULL if there is no vma, and then there are no holes
 * @range: for the notifiers, from the first hole that is filled
 * @notified: @range has begun
 */
struct migrate_pages_holes {
	struct migrate_vma *migrate;
	struct mmu_notifier_range range;
	bool notified;
};

/* @index is the hole's slot, and @order what collect knew of its size. */
static noinline enum migrate_left
pages_fill(struct migrate_pages_holes *holes, unsigned long index,
	   unsigned int order, struct folio *folio)
{
	struct migrate_vma *migrate = holes->migrate;
	unsigned long addr;

	/* Device pfns have no holes between them. */
	if (WARN_ON_ONCE(!migrate))
		return MIGRATE_LEFT_HOLE;
	if (folio_order(folio) != order &&
	    (order || !migrate_hole_is_large(migrate, index, folio_order(folio))))
		return MIGRATE_LEFT_DESTINATION;
	if (pages_loses_tags(migrate, folio))
		return MIGRATE_LEFT_KIND;

	addr = migrate->start + index * PAGE_SIZE;
	if (!holes->notified) {
		holes->notified = true;
		mmu_notifier_range_init_owner(&holes->range, MMU_NOTIFY_MIGRATE,
					      0, migrate->vma->vm_mm, addr,
					      migrate->end,
					      migrate->pgmap_owner);
		mmu_notifier_invalidate_range_start(&holes->range);
	}
	if (!pages_fill_hole(migrate->vma, addr, folio))
		return MIGRATE_LEFT_HOLE;
	/* Small slots are those of one unit now. */
	if (folio_order(folio) != order)
		memset(migrate->src + index + 1, 0,
		       (folio_nr_pages(folio) - 1) * sizeof(*migrate->src));
	return NR_MIGRATE_LEFT;
}

static __always_inline enum migrate_left
pages_unit(struct migrate_pages_holes *holes, struct migrate_unit *unit,
	   struct page *fault_page, struct mapping_batch *batch)
{
	if (!unit->newpage)
		return unit->page ? MIGRATE_LEFT_NO_DESTINATION :
				    MIGRATE_LEFT_HOLE;
	if (!unit->page)
		return pages_fill(holes, unit->index, unit->order,
				  migrate_unit_newfolio(unit));
	return pages_move(holes->migrate, unit, migrate_unit_newfolio(unit),
			  fault_page, batch);
}

/*
 * Has the unit been split, as the driver has only smaller folios for it? If that
 * was not possible, it is found out once more that they are not as large. A copy
 * of the unit, so that the caller's can stay in registers.
 */
static bool pages_split(struct migrate_unit unit, unsigned long *dst,
			struct migrate_vma *migrate)
{
	return migrate_unit_must_split(&unit, dst) &&
	       migrate_unit_split(&unit, dst, migrate);
}

/* The unit stays where it is. Swap-out keeps it only for the time of its I/O. */
static void pages_leave(const struct migrate_unit *unit, unsigned long *dst,
			enum migrate_left reason, struct migrate_tally *tally)
{
	*unit->src &= ~MIGRATE_PFN_MIGRATE;
	if (reason == PAGES_WRITEBACK && tally->defer_writeback) {
		dst[unit->index] |= MIGRATE_DST_AGAIN;
		tally->nr_deferred++;
		return;
	}
	if (reason == PAGES_WRITEBACK)
		reason = MIGRATE_LEFT_BUSY;
	migrate_left(tally, reason, migrate_unit_pages(unit));
}

/**
 * migrate_stage_pages() - the third stage: new folios take the old ones' place
 * @src: what the stages before made
 * @dst: the driver's new pages, locked; 0 where it does not want to migrate
 * @npages: how many slots both have
 * @migrate: the range, with which holes can be filled, or NULL
 * @tally: what is counted
 *
 * What does not migrate loses its MIGRATE_PFN_MIGRATE.
 *
 * Context: the folios of @src and @dst are locked; mmap_lock is held if @migrate
 * is not NULL. Sleeps.
 */
void migrate_stage_pages(unsigned long *src, unsigned long *dst,
			 unsigned long npages, struct migrate_vma *migrate,
			 struct migrate_tally *tally)
{
	struct page *fault_page = migrate ? migrate->fault_page : NULL;
	struct migrate_pages_holes holes = { .migrate = migrate };
	struct mapping_batch batch = {};
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, src, dst, npages)) {
		enum migrate_left reason;

		/* No unit of setup's, only a page that the driver had left. */
		if (!(*unit.src & MIGRATE_PFN_MIGRATE))
			continue;
		if (unlikely(unit.order) && pages_split(unit, dst, migrate)) {
			/* What it is now is to be looked at again. */
			unit.next = unit.index;
			continue;
		}
		reason = pages_unit(&holes, &unit, fault_page, &batch);
		if (reason != NR_MIGRATE_LEFT) {
			pages_leave(&unit, dst, reason, tally);
		} else if (unit.page) {
			migrate_passed(tally, unit.order);
		} else {
			migrate_passed_hole(tally,
					    folio_order(migrate_unit_newfolio(&unit)));
		}
		if (unit.index % SWAP_CLUSTER_MAX == 0)
			cond_resched();
	}
	mapping_batch_flush(&batch);
	if (holes.notified)
		mmu_notifier_invalidate_range_end(&holes.range);
}

/**
 * migrate_device_pages() - migrate meta-data from src page to dst page
 * @src_pfns: src_pfns returned from migrate_device_range()
 * @dst_pfns: array of pfns allocated by the driver to migrate memory to
 * @npages: number of pages in the range
 *
 * Equivalent to migrate_vma_pages(). This is called to migrate struct page
 * meta-data from source struct page to destination.
 */
void migrate_device_pages(unsigned long *src_pfns, unsigned long *dst_pfns,
			  unsigned long npages)
{
	struct migrate_tally tally = migrate_tally_pfns(MIGRATE_STAGE_PAGES, src_pfns, npages);

	migrate_stage_pages(src_pfns, dst_pfns, npages, NULL, &tally);
	migrate_tally_report(&tally);
}
EXPORT_SYMBOL(migrate_device_pages);

/**
 * migrate_vma_pages() - migrate meta-data from src page to dst page
 * @migrate: migrate struct containing all migration information
 *
 * This migrates struct page meta-data from source struct page to destination
 * struct page. This effectively finishes the migration from source page to the
 * destination page.
 *
 * Context: mmap_lock has been held, for reading at least, since before
 * migrate_vma_setup().
 */
void migrate_vma_pages(struct migrate_vma *migrate)
{
	struct migrate_tally tally = migrate_tally_init(MIGRATE_STAGE_PAGES, migrate);

	mmap_assert_locked(migrate->vma->vm_mm);
	migrate_stage_pages(migrate->src, migrate->dst, migrate->npages, migrate,
			    &tally);
	migrate_tally_report(&tally);
}
EXPORT_SYMBOL(migrate_vma_pages);

#include "tests/pages-kunit.h"
