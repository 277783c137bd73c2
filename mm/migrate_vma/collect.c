// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the first stage: from page tables to src[].
 *
 * Collect installs migration entries while it walks the page tables, and not after it has
 * locked the folios of the whole range: the PTE is at hand and the PTL is held, so a folio
 * that is mapped only here needs no rmap walk, neither to unmap the old folio nor to map
 * the new one.
 *
 * It flushes the TLB once, before it drops the PTL, because code that finds a migration
 * entry assumes that the page is unmapped and does not flush. MADV_DONTNEED and
 * userfaultfd's write-protection would return while another CPU still writes through a
 * stale TLB entry. Under the PTL, they cannot see the migration entries before the flush.
 * GUP-fast does not rely on the flush: see __folio_try_share_anon_rmap().
 */
#include <linux/ksm.h>
#include <linux/memremap.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/pagewalk.h>
#include <linux/rmap.h>
#include <linux/secretmem.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/tlbflush.h>
#include "../internal.h"
#include "collect.h"

/*
 * The maximum number of PTEs to look at before the PTL is dropped, for fairness: with 64
 * KiB pages, a page table has 8,192. Folios are not split for this, so the PTL is held for
 * at most this number of PTEs and one folio.
 */
#define MIGRATE_COLLECT_BATCH	512

static unsigned long *collect_slot(struct migrate_collect *collect,
				   unsigned long addr)
{
	return collect->migrate->src +
	       ((addr - collect->migrate->start) >> PAGE_SHIFT);
}

/* Did the previous pass settle this slot? */
static bool collect_is_done(struct migrate_collect *collect, unsigned long *slot)
{
	return collect->retry && *slot != MIGRATE_SRC_RETRY;
}

static void collect_leave_range(struct migrate_collect *collect,
				unsigned long start, unsigned long end,
				enum migrate_left reason)
{
	unsigned long addr;

	for (addr = start; addr < end; addr += PAGE_SIZE) {
		unsigned long *slot = collect_slot(collect, addr);

		if (!collect_is_done(collect, slot))
			collect_leave(collect, slot, reason);
	}
}

static void collect_hole(struct migrate_collect *collect, unsigned long *slot)
{
	struct vm_area_struct *vma = collect->migrate->vma;

	if (collect->no_holes) {
		*slot = 0;
		collect->stats->empty++;
	} else if (collect->holes) {
		*slot = MIGRATE_PFN_MIGRATE;
		migrate_stats_pass_hole(collect->stats, 0);
	} else if (!vma_is_anonymous(vma) || (vma->vm_flags & VM_DROPPABLE)) {
		collect_leave(collect, slot, MIGRATE_LEFT_KIND);
	} else {
		collect_leave(collect, slot, MIGRATE_LEFT_HOLE);
	}
}

/* Is [start, end) at least one whole PMD, aligned? */
static bool collect_is_huge(unsigned long start, unsigned long end)
{
	return IS_ALIGNED(start, PMD_SIZE) && end - start >= PMD_SIZE;
}

static int collect_holes(unsigned long start, unsigned long end,
			 __always_unused int depth, struct mm_walk *walk)
{
	struct migrate_collect *collect = walk->private;
	unsigned long addr = start;

	while (addr < end) {
		unsigned long *slot = collect_slot(collect, addr);

		if (collect->huge_holes && collect_is_huge(addr, end)) {
			collect_fill_slot(collect, slot, 0, MIGRATE_HUGE_ORDER);
			collect->stats->holes += BIT(MIGRATE_HUGE_ORDER);
			addr += PMD_SIZE;
			continue;
		}
		if (!collect_is_done(collect, slot))
			collect_hole(collect, slot);
		addr += PAGE_SIZE;
	}
	return 0;
}

static bool collect_takes_huge(struct migrate_vma *migrate)
{
	return thp_migration_supported() &&
	       collect_takes(migrate, MIGRATE_HUGE_ORDER);
}

/* Does hmm_migrate_range() migrate from the device memory of this owner, too? */
static noinline bool collect_is_peer(const struct migrate_vma *migrate,
				     const void *owner)
{
	unsigned int i;

	for (i = 0; i < migrate->nr_peers; i++)
		if (migrate->peers[i] == owner)
			return true;
	return false;
}

static bool collect_wants_pgmap(struct migrate_vma *migrate, struct page *page,
				unsigned long flag)
{
	return (migrate->flags & flag) &&
	       (page_pgmap(page)->owner == migrate->pgmap_owner ||
		unlikely(collect_is_peer(migrate, page_pgmap(page)->owner)));
}

/* Has the caller selected @page, which the CPU can access? */
static __always_inline bool
collect_wants_page(struct migrate_vma *migrate, struct page *page)
{
	if (likely(!is_zone_device_page(page)))
		return migrate->flags & MIGRATE_VMA_SELECT_SYSTEM;
	return !is_device_coherent_page(page) ||
	       collect_wants_pgmap(migrate, page,
				   MIGRATE_VMA_SELECT_DEVICE_COHERENT);
}

/* Look up what a swap entry maps. Sets the run's page, or returns why it stays. */
static __always_inline enum migrate_left
collect_look_up_swap(struct migrate_collect *collect, struct migrate_run *run,
		     swp_entry_t entry)
{
	/* A migration entry implies that whoever installed it holds the folio lock. */
	if (!is_device_private_entry(entry))
		return is_migration_entry(entry) ? MIGRATE_LEFT_LOCKED :
						   MIGRATE_LEFT_SWAPPED;
	run->page = pfn_to_page(swp_offset_pfn(entry));
	if (!collect_wants_pgmap(collect->migrate, run->page,
				 MIGRATE_VMA_SELECT_DEVICE_PRIVATE))
		return MIGRATE_LEFT_UNSELECTED;
	run->write = is_writable_device_private_entry(entry);
	return MIGRATE_LEFT_NONE;
}

/* Look up what the run's first PTE maps. Sets the run's page, or returns why it stays. */
static enum migrate_left collect_look_up(struct migrate_collect *collect,
					 struct migrate_run *run,
					 unsigned long addr)
{
	struct migrate_vma *migrate = collect->migrate;

	if (!pte_present(run->pte))
		return collect_look_up_swap(collect, run, pte_to_swp_entry(run->pte));
	run->page = vm_normal_page(migrate->vma, addr, run->pte);
	if (!run->page)
		return is_zero_pfn(pte_pfn(run->pte)) ?
		       MIGRATE_LEFT_UNSELECTED : MIGRATE_LEFT_KIND;
	run->write = pte_write(run->pte);
	return collect_wants_page(migrate, run->page) ?
	       MIGRATE_LEFT_NONE : MIGRATE_LEFT_UNSELECTED;
}

/* The same for a PMD; the run's page is the first one of the folio. */
static enum migrate_left collect_look_up_pmd(struct migrate_collect *collect,
					     struct migrate_run *run, pmd_t pmd,
					     unsigned long addr)
{
	struct migrate_vma *migrate = collect->migrate;

	if (!pmd_present(pmd))
		return collect_look_up_swap(collect, run, pmd_to_swp_entry(pmd));
	run->page = pmd_devmap(pmd) ? NULL :
		    vm_normal_page_pmd(migrate->vma, addr, pmd);
	if (!run->page)
		return MIGRATE_LEFT_KIND;
	run->page = &page_folio(run->page)->page;
	run->write = pmd_write(pmd);
	return collect_wants_page(migrate, run->page) ?
	       MIGRATE_LEFT_NONE : MIGRATE_LEFT_UNSELECTED;
}

/*
 * Is @folio on a node that it is to leave, and not shared? mbind(2) asks the same. This
 * must come before collect unmaps the folio, or it would not look shared.
 */
static bool collect_leaves_node(const struct migrate_nodes *nodes, struct folio *folio)
{
	if (node_isset(folio_nid(folio), *nodes->mask) == nodes->invert)
		return false;
	return nodes->shared || !folio_likely_mapped_shared(folio);
}

/*
 * Can the locked folio of a file migrate? Writeback is retried like a lock. Without a
 * mapping, the folio is truncated or a driver's page. Secret memory and private memory of a
 * guest must not be read, so they cannot be copied.
 */
static noinline enum migrate_left collect_check_file(struct folio *folio)
{
	struct address_space *mapping = folio->mapping;

	if (folio_is_zone_device(folio) || folio_test_hugetlb(folio) || !mapping ||
	    !mapping->a_ops->migrate_folio || mapping_inaccessible(mapping) ||
	    secretmem_mapping(mapping))
		return MIGRATE_LEFT_KIND;
	return folio_test_writeback(folio) ? MIGRATE_LEFT_LOCKED : MIGRATE_LEFT_NONE;
}

/*
 * Lock the folio of @run, or return why it stays. The PTL keeps the folio mapped, and a
 * mapped folio does not change between anonymous and file memory. So a folio that can never
 * migrate is refused before its lock is touched.
 *
 * KSM folios are such: KSM finds their mappings by the addresses where it merged them.
 * mremap() unmerges what it moves, except for swap entries, so the rmap would miss a device
 * entry that was moved. ksmd makes KSM folios under the folio lock, so this is checked once
 * more.
 */
static __always_inline enum migrate_left
collect_lock_folio(struct migrate_collect *collect, struct migrate_run *run)
{
	struct page *fault_page = collect->fault_page;
	struct folio *folio = page_folio(run->page);
	enum migrate_left reason = MIGRATE_LEFT_NONE;

	run->folio = folio;
	if (!folio_test_anon(folio) && collect->files_stay)
		return MIGRATE_LEFT_KIND;
	if (folio_test_ksm(folio))
		return MIGRATE_LEFT_KIND;
	if (unlikely(collect->system_stays) && !folio_is_zone_device(folio))
		return MIGRATE_LEFT_KIND;
	if (collect->nodes && !collect_leaves_node(collect->nodes, folio))
		return MIGRATE_LEFT_UNSELECTED;

	if (!migrate_folio_trylock(folio, fault_page))
		return MIGRATE_LEFT_LOCKED;
	if (unlikely(!folio_test_anon(folio)))
		reason = collect_check_file(folio);
	else if (unlikely(folio_test_ksm(folio)))
		reason = MIGRATE_LEFT_KIND;
	if (unlikely(reason != MIGRATE_LEFT_NONE))
		migrate_folio_unlock(folio, fault_page);
	return reason;
}

/*
 * Have the walk stop to split the folio of @run: splitting sleeps, so the PTL must be
 * dropped. The folio stays locked.
 */
void collect_stop_to_split(struct migrate_collect *collect, struct migrate_run *run)
{
	struct page *fault_page = collect->fault_page;

	if (migrate_is_fault_folio(run->folio, fault_page)) {
		collect->split = fault_page;
		return;
	}
	folio_get(run->folio);
	collect->split = run->page;
}

/* Split the folio that the walk has stopped at. Returns false if that failed. */
static bool collect_split(struct migrate_collect *collect)
{
	struct page *page = collect->split;
	struct folio *folio = page_folio(page);
	int ret = split_huge_page(page);

	collect->split = NULL;
	if (ret)
		collect->unsplittable = folio;
	/* After a split, the lock and the reference belong to the new folio of @page. */
	if (page != collect->fault_page) {
		folio_unlock(page_folio(page));
		put_page(page);
	}
	return !ret;
}

/*
 * Collect what the PTE at @ptep maps: a hole, a page, or a large folio of up to @max_nr
 * PTEs.
 *
 * Return: the number of PTEs that are done; 0 if the walk has to stop. In @unmapped,
 * whether present PTEs were replaced, so that the TLB has to be flushed.
 */
static unsigned int collect_entry(struct migrate_collect *collect,
				  unsigned long *slot, unsigned long addr,
				  pte_t *ptep, unsigned int max_nr,
				  bool *unmapped)
{
	struct vm_area_struct *vma = collect->migrate->vma;
	struct migrate_run run = { .pte = ptep_get(ptep) };
	enum migrate_left reason;

	if (pte_none(run.pte) ||
	    (pte_present(run.pte) && is_zero_pfn(pte_pfn(run.pte)) &&
	     (collect->migrate->flags & MIGRATE_VMA_SELECT_SYSTEM))) {
		collect_hole(collect, slot);
		return 1;
	}
	reason = collect_look_up(collect, &run, addr);
	if (reason == MIGRATE_LEFT_NONE)
		reason = collect_lock_folio(collect, &run);
	if (unlikely(reason != MIGRATE_LEFT_NONE))
		return collect_leave_run(collect, &run, slot, ptep, max_nr, reason);

	if (unlikely(!folio_test_anon(run.folio)))
		return collect_file(collect, &run, slot, addr, ptep, max_nr, unmapped);
	*unmapped = pte_present(run.pte);
	if (unlikely(folio_test_large(run.folio)))
		return collect_large(collect, &run, slot, addr, ptep, max_nr);

	/* The most common case, without loops. */
	run.exclusive = migrate_page_exclusive(run.page);
	if (!migrate_run_unmap(&run, vma, addr, ptep, 1)) {
		migrate_folio_unlock(run.folio, collect->fault_page);
		collect_leave(collect, slot, MIGRATE_LEFT_PINNED);
		return 1;
	}
	folio_remove_rmap_ptes_batch(run.folio, run.page, 1, vma,
				     &collect->rmap);
	collect_fill_slot(collect, slot, migrate_pfn(page_to_pfn(run.page)) |
			  (run.write ? MIGRATE_PFN_WRITE : 0), 0);
	return 1;
}

/*
 * Collect PTEs of the page table at @pmdp, MIGRATE_COLLECT_BATCH at most, and flush the
 * TLB.
 *
 * Return: the address to continue at, or where the walk has stopped to split a folio;
 * @start if the page table is gone.
 */
static unsigned long collect_ptes(struct migrate_collect *collect, pmd_t *pmdp,
				  unsigned long start, unsigned long end)
{
	unsigned long stop = min(end, start + MIGRATE_COLLECT_BATCH * PAGE_SIZE);
	struct vm_area_struct *vma = collect->migrate->vma;
	unsigned long *slot = collect_slot(collect, start);
	unsigned long addr, flush_start = 0, flush_end = 0;
	pte_t *first_ptep, *ptep;
	spinlock_t *ptl;	/* of the page table */
	unsigned int nr;

	first_ptep = pte_offset_map_lock(vma->vm_mm, pmdp, start, &ptl);
	if (!first_ptep)
		return start;
	ptep = first_ptep;
	arch_enter_lazy_mmu_mode();
	for (addr = start; addr < stop; addr += nr * PAGE_SIZE) {
		bool unmapped = false;

		nr = 1;
		if (!collect_is_done(collect, slot))
			nr = collect_entry(collect, slot, addr, ptep,
					   (end - addr) >> PAGE_SHIFT, &unmapped);
		if (unlikely(!nr))
			break;
		ptep += nr;
		slot += nr;
		if (!unmapped)
			continue;
		if (flush_start == flush_end)
			flush_start = addr;
		flush_end = addr + nr * PAGE_SIZE;
	}
	rmap_batch_flush(&collect->rmap);
	rmap_batch_flush(&collect->rmap_file);
	/* Lazy mode may delay PTE updates; they must be done before the flush. */
	arch_leave_lazy_mmu_mode();
	if (flush_start != flush_end)
		flush_tlb_range(vma, flush_start, flush_end);
	pte_unmap_unlock(first_ptep, ptl);
	return addr;
}

/*
 * Replace the PMD by a migration entry, which also flushes the TLB. If the folio is pinned,
 * the PMD stays as it is.
 */
static enum migrate_left collect_unmap_pmd(struct migrate_collect *collect,
					   struct migrate_run *run,
					   pmd_t *pmdp, unsigned long addr)
{
	struct page_vma_mapped_walk pvmw = {
		.vma = collect->migrate->vma,
		.address = addr,
		.pmd = pmdp,
	};

	/* set_pmd_migration_entry() drops the reference of the mapping, so take one. */
	folio_get(run->folio);
	if (set_pmd_migration_entry(&pvmw, run->page)) {
		folio_put(run->folio);
		migrate_folio_unlock(run->folio, collect->fault_page);
		return MIGRATE_LEFT_PINNED;
	}
	collect_fill_slot(collect, collect_slot(collect, addr),
			  migrate_pfn(page_to_pfn(run->page)) |
			  (run->write ? MIGRATE_PFN_WRITE : 0),
			  MIGRATE_HUGE_ORDER);
	return MIGRATE_LEFT_NONE;
}

/*
 * Collect the folio that the PMD maps, of which [start, end) may be only a part. The PTL is
 * held.
 *
 * Return: why the folio stays, or MIGRATE_LEFT_NONE. If that has set @split, the folio is
 * to be split, and its page table is collected then.
 */
static enum migrate_left collect_huge(struct migrate_collect *collect,
				      pmd_t *pmdp, unsigned long start,
				      unsigned long end)
{
	struct migrate_run run = {};
	enum migrate_left reason;
	bool whole;

	reason = collect_look_up_pmd(collect, &run, *pmdp, start);
	if (reason == MIGRATE_LEFT_NONE)
		reason = collect_lock_folio(collect, &run);
	if (reason != MIGRATE_LEFT_NONE)
		return reason;

	whole = collect_takes_huge(collect->migrate) && collect_is_huge(start, end);
	if (likely(folio_test_anon(run.folio))) {
		if (whole)
			return collect_unmap_pmd(collect, &run, pmdp, start);
		if (!collect->no_split) {
			collect_stop_to_split(collect, &run);
			return MIGRATE_LEFT_NONE;
		}
	} else if (whole) {
		collect_shared_file(collect, &run, collect_slot(collect, start));
		return MIGRATE_LEFT_NONE;
	}
	folio_unlock(run.folio);
	return MIGRATE_LEFT_LARGE;
}

/* True if the PMD maps a folio, present or not, rather than a page table. */
static bool collect_maps_folio(pmd_t pmd)
{
	return is_swap_pmd(pmd) || pmd_trans_huge(pmd) || pmd_devmap(pmd);
}

/*
 * Collect [start, end) if the PMD maps a folio or the huge zero page. Returns false if
 * there is a page table, or is one now because the folio was split.
 */
static bool collect_pmd(struct migrate_collect *collect, pmd_t *pmdp,
			unsigned long start, unsigned long end, struct mm_walk *walk)
{
	struct vm_area_struct *vma = collect->migrate->vma;
	enum migrate_left reason;
	spinlock_t *ptl;	/* of the PMD */

	if (!collect_maps_folio(pmdp_get_lockless(pmdp)))
		return false;
	ptl = pmd_lock(vma->vm_mm, pmdp);
	if (!collect_maps_folio(*pmdp)) {
		spin_unlock(ptl);
		return false;
	}
	if (is_huge_zero_pmd(*pmdp)) {
		spin_unlock(ptl);
		if (!(collect->migrate->flags & MIGRATE_VMA_SELECT_SYSTEM)) {
			collect_leave_range(collect, start, end, MIGRATE_LEFT_UNSELECTED);
			return true;
		}
		if (collect->no_holes || (collect->huge_holes && collect_is_huge(start, end))) {
			collect_holes(start, end, -1, walk);
			return true;
		}
		split_huge_pmd(vma, pmdp, start);
		return false;
	}
	reason = collect_huge(collect, pmdp, start, end);
	spin_unlock(ptl);

	if (collect->split) {
		if (collect_split(collect))
			return false;
		reason = MIGRATE_LEFT_LARGE;
	}
	if (reason != MIGRATE_LEFT_NONE)
		collect_leave_range(collect, start, end, reason);
	return true;
}

static int collect_pmd_entry(pmd_t *pmdp, unsigned long start,
			     unsigned long end, struct mm_walk *walk)
{
	struct migrate_collect *collect = walk->private;
	unsigned long addr = start, from;

	if (pmd_none(pmdp_get_lockless(pmdp)))
		return collect_holes(start, end, -1, walk);
	if (collect_pmd(collect, pmdp, start, end, walk)) {
		cond_resched();
		return 0;
	}
	do {
		from = addr;
		addr = collect_ptes(collect, pmdp, from, end);
		/* If the split fails, the folio is left when the walk meets it again. */
		if (collect->split)
			collect_split(collect);
		else if (addr == from)
			break;
		cond_resched();
	} while (addr < end);
	/*
	 * The page table is gone. With an anon_vma, mmap_lock prevents that. But if it
	 * happens nevertheless, then what is collected already must not be walked again.
	 */
	if (addr == start)
		walk->action = ACTION_AGAIN;
	else if (addr < end)
		collect_leave_range(collect, addr, end, MIGRATE_LEFT_LOCKED);
	cond_resched();
	return 0;
}

static const struct mm_walk_ops collect_walk_ops = {
	.pmd_entry	= collect_pmd_entry,
	.pte_hole	= collect_holes,
	.walk_lock	= PGWALK_RDLOCK,
};

/*
 * Make one pass over the range, or retry what the previous pass has set to
 * MIGRATE_SRC_RETRY, of which there is at least one slot. The notifiers get the owner, so
 * that a driver can tell its own migrations.
 */
static void collect_pass(struct migrate_collect *collect)
{
	struct migrate_vma *migrate = collect->migrate;
	struct mm_struct *mm = migrate->vma->vm_mm;
	unsigned long *src = migrate->src, first = 0, end = migrate->npages, i;
	struct mmu_notifier_range range;

	if (collect->retry) {
		while (src[first] != MIGRATE_SRC_RETRY)
			first++;
		while (src[end - 1] != MIGRATE_SRC_RETRY)
			end--;
	}
	collect->nr_retry = 0;
	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_MIGRATE, 0, mm,
				      migrate->start + first * PAGE_SIZE,
				      migrate->start + end * PAGE_SIZE,
				      migrate->pgmap_owner);
	mmu_notifier_invalidate_range_start(&range);
	if (!collect->retry)
		walk_page_range(mm, range.start, range.end, &collect_walk_ops, collect);
	for (i = first; collect->retry && i < end; i++) {
		if (src[i] != MIGRATE_SRC_RETRY)
			continue;
		first = i;
		while (i < end && src[i] == MIGRATE_SRC_RETRY)
			i++;
		walk_page_range(mm, migrate->start + first * PAGE_SIZE,
				migrate->start + i * PAGE_SIZE,
				&collect_walk_ops, collect);
	}
	mmu_notifier_invalidate_range_end(&range);
}

/**
 * migrate_stage_collect() - the first stage: from page tables to src[]
 * @migrate: the range; all its fields but cpages are valid
 * @flags: MIGRATE_COLLECT_*
 * @nodes: migrate only folios on these nodes; NULL for all
 * @stats: the counts of the stage
 *
 * Locks the folios of the range that the caller selects, takes over one reference of their
 * mappings, and replaces their PTEs by migration entries.
 *
 * Locked folios are retried once: most holders hold a folio lock only for a moment, which
 * is over when the rest of the range is collected. Collect never waits, since it holds
 * other folio locks by then, and the holder may wait for one of these. hmm_migrate_range()
 * can wait, with nothing locked. A CPU fault does not retry: it holds the lock of its own
 * folio, and the CPU repeats it anyway.
 *
 * Context: mmap_lock is held. Sleeps, but not for a folio lock.
 * Return: with MIGRATE_COLLECT_LEAVE_LOCKED, the number of slots with MIGRATE_SRC_RETRY,
 * which the caller has to clear; otherwise 0.
 */
unsigned long migrate_stage_collect(struct migrate_vma *migrate,
				    unsigned int flags,
				    const struct migrate_nodes *nodes,
				    struct migrate_stats *stats)
{
	struct migrate_collect collect = {
		.migrate = migrate,
		.fault_page = migrate->fault_page,
		.stats = stats,
		.nodes = nodes,
		.no_split = flags & MIGRATE_COLLECT_NO_SPLIT,
		.files_stay = flags & MIGRATE_COLLECT_TO_DEVICE,
		.no_holes = flags & MIGRATE_COLLECT_NO_HOLES,
	};
	vm_flags_t vm_flags = migrate->vma->vm_flags;
	unsigned long orders = migrate_hole_orders(migrate->vma), i;

	/*
	 * VM_DROPPABLE memory must never be written to swap. But it would come back dirty
	 * from a device, since no page table notes the device's writes. Devices do not keep
	 * the tags of VM_MTE memory. If such memory is on a device already, it can still
	 * come back.
	 */
	collect.system_stays = (vm_flags & VM_DROPPABLE) ||
			       ((flags & MIGRATE_COLLECT_TO_DEVICE) && (vm_flags & VM_MTE));
	if (collect.system_stays || collect.no_holes)
		orders = 0;
	collect.holes = orders;
	collect.huge_holes = MIGRATE_HUGE_ORDER && collect_takes_huge(migrate) &&
			     (orders & BIT(MIGRATE_HUGE_ORDER));
	memset(migrate->src, 0, sizeof(*migrate->src) * migrate->npages);
	memset(migrate->dst, 0, sizeof(*migrate->dst) * migrate->npages);

	collect_pass(&collect);
	if ((flags & MIGRATE_COLLECT_LEAVE_LOCKED) || !collect.nr_retry)
		return collect.nr_retry;
	if (!migrate->fault_page) {
		stats->retried = -stats->units;
		collect.retry = true;
		collect_pass(&collect);
		stats->retried += stats->units;
	}
	for (i = 0; collect.nr_retry && i < migrate->npages; i++) {
		if (migrate->src[i] != MIGRATE_SRC_RETRY)
			continue;
		migrate->src[i] = 0;
		migrate_stats_leave(stats, MIGRATE_LEFT_LOCKED, 1);
	}
	return 0;
}

#include "tests/collect-kunit.h"
