// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the first stage: from page tables to src[].
 *
 * Why migration entries are put in here already and not after the locks of the
 * whole range are held: the entry is under our eyes and its page table locked.
 * A folio that only this range maps then needs no walk of the rmap at all,
 * neither to unmap it nor to map its successor.
 *
 * Why the TLB is flushed before the page-table lock is dropped, once: who finds
 * a migration entry takes it for unmapped. MADV_DONTNEED and userfaultfd's
 * write-protect see nothing to flush in a non-present entry, and would return
 * while another CPU still writes through a stale one. Inside the lock nobody
 * sees the entries before the flush. GUP-fast needs no flush: see
 * __folio_try_share_anon_rmap().
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
#include "internal.h"

/*
 * The most entries to look at under one page-table lock, so that others get it: with
 * 64 KiB pages a page table has 8,192. A folio is not cut in two for it, so the longest
 * hold is this many entries and one folio.
 */
#define MIGRATE_COLLECT_BATCH	512

/**
 * struct migrate_collect - one pass over the page tables
 * @migrate: the caller's range
 * @fault_page: see there
 * @tally: what is counted
 * @nodes: folios of which nodes are to move, or NULL: all
 * @no_split: what is not in the range whole stays
 * @again: only addresses that an earlier pass remembered
 * @system_stays: what is the system's memory stays where it is, by what the vma is
 * @files_stay: so does what a file has
 * @holes: holes may be filled, see migrate_hole_orders()
 * @no_holes: nobody wants to fill them, so they are not left
 * @huge_holes: a hole as large as a PMD maps may be filled whole
 * @nr_again: pages that this pass remembered
 * @split: a page of a large folio, locked and with a reference (or the fault's
 *	page, and the fault has these), that the walk stops at to have it split
 * @whole: the last folio that could not be split; only to be compared with
 * @rmap: what is to be accounted for before the page-table lock is dropped
 * @rmap_file: the same of files
 */
struct migrate_collect {
	struct migrate_vma *migrate;
	struct page *fault_page;
	struct migrate_tally *tally;
	const struct migrate_nodes *nodes;
	bool no_split;
	bool again;
	bool system_stays;
	bool files_stay;
	bool holes;
	bool no_holes;
	bool huge_holes;
	unsigned long nr_again;
	struct page *split;
	struct folio *whole;
	struct rmap_batch rmap;
	struct rmap_batch rmap_file;
};

/**
 * struct migrate_run - entries that are alike but for the page
 * @pte: the first of them
 * @folio: what they map
 * @page: the page that the first one maps
 * @write: they are writable
 * @exclusive: the pages are exclusive to this address space
 */
struct migrate_run {
	pte_t pte;
	struct folio *folio;
	struct page *page;
	bool write;
	bool exclusive;
};

/* The part of a page table in which present entries were replaced. */
struct collect_flush {
	unsigned long start;
	unsigned long end;
};

static unsigned long *collect_slot(struct migrate_collect *collect,
				   unsigned long addr)
{
	return collect->migrate->src +
	       ((addr - collect->migrate->start) >> PAGE_SHIFT);
}

/* Has this slot been dealt with by an earlier pass? */
static bool collect_done(struct migrate_collect *collect, unsigned long *slot)
{
	return collect->again && *slot != MIGRATE_SRC_AGAIN;
}

static void collect_left(struct migrate_collect *collect, unsigned long *slot,
			 enum migrate_left reason)
{
	*slot = 0;
	migrate_left(collect->tally, reason, 1);
}

static void collect_remember(struct migrate_collect *collect,
			     unsigned long *slot)
{
	*slot = MIGRATE_SRC_AGAIN;
	collect->nr_again++;
}

static void collect_left_or_remember(struct migrate_collect *collect,
				     unsigned long *slot,
				     enum migrate_left reason)
{
	if (reason == MIGRATE_LEFT_LOCKED)
		collect_remember(collect, slot);
	else
		collect_left(collect, slot, reason);
}

static void collect_hole(struct migrate_collect *collect, unsigned long *slot)
{
	struct vm_area_struct *vma = collect->migrate->vma;

	if (collect->no_holes) {
		*slot = 0;
		collect->tally->empty++;
		return;
	}
	if (!collect->holes) {
		collect_left(collect, slot, !vma_is_anonymous(vma) ||
			     (vma->vm_flags & VM_DROPPABLE) ?
			     MIGRATE_LEFT_KIND : MIGRATE_LEFT_HOLE);
		return;
	}
	*slot = MIGRATE_PFN_MIGRATE;
	migrate_passed_hole(collect->tally, 0);
}

/* A large unit; in another pass its slots are remembered ones. */
static void collect_large_slot(struct migrate_collect *collect,
			       unsigned long *slot, unsigned long entry,
			       unsigned int order)
{
	if (collect->again)
		memset(slot, 0, sizeof(*slot) << order);
	*slot = entry | MIGRATE_PFN_COMPOUND;
}

static void collect_huge_hole(struct migrate_collect *collect,
			      unsigned long *slot)
{
	collect_large_slot(collect, slot, MIGRATE_PFN_MIGRATE,
			   MIGRATE_HUGE_ORDER);
	migrate_passed_hole(collect->tally, MIGRATE_HUGE_ORDER);
}

/* Does [start, end) begin with all that a PMD maps? */
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
			collect_huge_hole(collect, slot);
			addr += PMD_SIZE;
			continue;
		}
		if (!collect_done(collect, slot))
			collect_hole(collect, slot);
		addr += PAGE_SIZE;
	}
	return 0;
}

/* Does the caller take folios of @order whole? */
static bool collect_takes(struct migrate_vma *migrate, unsigned int order)
{
	if (migrate->flags & MIGRATE_VMA_SELECT_LARGE)
		return true;
	return (migrate->flags & MIGRATE_VMA_SELECT_COMPOUND) &&
	       order == MIGRATE_HUGE_ORDER;
}

static bool collect_takes_huge(struct migrate_vma *migrate)
{
	return thp_migration_supported() &&
	       collect_takes(migrate, MIGRATE_HUGE_ORDER);
}

/* The whole of [start, end) is locked by somebody. */
static void collect_remember_range(struct migrate_collect *collect,
				   unsigned long start, unsigned long end)
{
	unsigned long addr;

	for (addr = start; addr < end; addr += PAGE_SIZE) {
		unsigned long *slot = collect_slot(collect, addr);

		if (!collect_done(collect, slot))
			collect_remember(collect, slot);
	}
}

/* The whole of [start, end) cannot move. */
static void collect_left_range(struct migrate_collect *collect,
			       unsigned long start, unsigned long end,
			       enum migrate_left reason)
{
	unsigned long addr;

	for (addr = start; addr < end; addr += PAGE_SIZE) {
		unsigned long *slot = collect_slot(collect, addr);

		if (!collect_done(collect, slot))
			collect_left(collect, slot, reason);
	}
}

/* The pfn of what @pte maps that can be a unit's; 0 if it maps no such thing. */
static unsigned long collect_pte_pfn(pte_t pte)
{
	swp_entry_t entry;

	if (pte_present(pte))
		return pte_pfn(pte);
	if (pte_none(pte))
		return 0;
	entry = pte_to_swp_entry(pte);
	return is_device_private_entry(entry) ? swp_offset_pfn(entry) : 0;
}

/*
 * How many entries from the run's first one on map the pages of its folio one
 * after the other, whatever else they say. Under the page-table lock: as long as
 * an entry maps it, a folio is not split.
 */
static unsigned int collect_mapped(const struct migrate_run *run, pte_t *ptep,
				   unsigned int max_nr)
{
	unsigned long pfn = page_to_pfn(run->page);
	unsigned int nr;

	max_nr = min_t(unsigned long, max_nr, folio_nr_pages(run->folio) -
		       folio_page_idx(run->folio, run->page));
	for (nr = 1; nr < max_nr; nr++)
		if (collect_pte_pfn(ptep_get(ptep + nr)) != pfn + nr)
			break;
	return nr;
}

/*
 * PageAnonExclusive() looks up the folio of each page to ask whether it is hugetlb's. Only for
 * anonymous memory: of a file's page, the bit says something else.
 */
static __always_inline bool migrate_page_exclusive(const struct page *page)
{
	VM_WARN_ON_ONCE_PAGE(PageHuge(page), page);
	return __PageAnonExclusive(page);
}

/* How many of the first @nr pages are exclusive, or are not, as the first one is. */
static unsigned int migrate_run_exclusive(const struct migrate_run *run,
					  unsigned int nr)
{
	unsigned int i;

	if (unlikely(!folio_test_anon(run->folio)))
		return nr;
	for (i = 1; i < nr; i++)
		if (migrate_page_exclusive(run->page + i) != run->exclusive)
			break;
	return i;
}

/**
 * migrate_run_length() - how many entries are alike
 * @run: the run, whose folio is locked
 * @ptep: where its first entry is
 * @max_nr: how many entries to look at, at most; all in this page table
 *
 * folio_pte_batch() ignores the write and the young bit, and knows nothing of
 * AnonExclusive. A migration entry that took over the write bit of its neighbour
 * would break copy on write; so here everything must be the same but the pfn.
 *
 * Context: under the page-table lock.
 * Return: the number of entries, at least 1.
 */
static unsigned int migrate_run_length(struct migrate_run *run, pte_t *ptep,
				       unsigned int max_nr)
{
	pte_t expected = run->pte;
	unsigned int nr;

	max_nr = min_t(unsigned long, max_nr, folio_nr_pages(run->folio) -
		       folio_page_idx(run->folio, run->page));
	if (!pte_present(expected)) {
		nr = migrate_swp_run_length(ptep, expected, max_nr);
		return migrate_run_exclusive(run, nr);
	}
	for (nr = 1; nr < max_nr; nr++) {
		expected = pte_advance_pfn(expected, 1);
		if (!pte_same(ptep_get(ptep + nr), expected))
			break;
	}
	return migrate_run_exclusive(run, nr);
}

/* The migration entry that brings back all that the run's first entry says. */
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

/*
 * Clear the @nr entries of the run, and note what they were at the last moment.
 * Dirty and young of any are then those of all.
 */
static __always_inline void
migrate_run_clear(struct migrate_run *run, struct vm_area_struct *vma,
		  unsigned long addr, pte_t *ptep, unsigned int nr)
{
	bool soft_dirty = pte_soft_dirty(run->pte);
	unsigned int i;

	/* Nobody else changes these: they can just be overwritten. */
	if (!pte_present(run->pte))
		return;
	for (i = 0; i < nr; i++)
		flush_cache_page(vma, addr + i * PAGE_SIZE,
				 page_to_pfn(run->page + i));
	run->pte = get_and_clear_full_ptes(vma->vm_mm, addr, ptep, nr, 0);
	/* It gathers the dirty bits, and pte_mkdirty() brings this one along. */
	if (nr > 1 && !soft_dirty)
		run->pte = pte_clear_soft_dirty(run->pte);
}

/*
 * One by one: set_ptes() may make a contiguous mapping of them (arm64), and the TLB
 * still has what they were.
 */
static noinline void migrate_run_put_back(struct migrate_run *run,
					  struct vm_area_struct *vma,
					  unsigned long addr, pte_t *ptep,
					  unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		set_pte_at(vma->vm_mm, addr + i * PAGE_SIZE, ptep + i,
			   pte_advance_pfn(run->pte, i));
}

/**
 * migrate_run_unmap() - replace entries that are alike by migration entries
 * @run: what they are; the folio is locked
 * @vma: where they are
 * @addr: the address of the first one
 * @ptep: where the first one is
 * @nr: how many they are, see migrate_run_length()
 *
 * The references that the mappings had become the caller's. Before it drops the
 * page-table lock, the caller removes them from the rmap and flushes the TLB.
 *
 * Context: under the page-table lock.
 * Return: false if a page may be pinned; then they stay as they were.
 */
static __always_inline bool
migrate_run_unmap(struct migrate_run *run, struct vm_area_struct *vma,
		  unsigned long addr, pte_t *ptep, unsigned int nr)
{
	migrate_run_clear(run, vma, addr, ptep, nr);
	/* Pages that are no longer exclusive cannot be pinned any more. */
	if (run->exclusive &&
	    folio_try_share_anon_rmap_ptes(run->folio, run->page, nr)) {
		migrate_run_put_back(run, vma, addr, ptep, nr);
		return false;
	}

	/* Nobody can make it dirty through these entries any more. */
	if (pte_present(run->pte) && pte_dirty(run->pte))
		folio_mark_dirty(run->folio);

	migrate_set_swp_ptes(vma->vm_mm, addr, ptep, migrate_run_swp_pte(run),
			     nr);
	return true;
}

static bool collect_is_hole(struct migrate_vma *migrate, pte_t pte)
{
	if (pte_none(pte))
		return true;
	return pte_present(pte) && is_zero_pfn(pte_pfn(pte)) &&
	       (migrate->flags & MIGRATE_VMA_SELECT_SYSTEM);
}

/* Whose memory hmm_migrate_range() is to move as well. */
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

/*
 * Is @folio on a node that it is to leave, and not shared? As mbind(2) asks: before it is
 * unmapped here, since a folio that is not mapped here does not look shared.
 */
static bool collect_leaves_node(const struct migrate_nodes *nodes, struct folio *folio)
{
	if (node_isset(folio_nid(folio), *nodes->mask) == nodes->invert)
		return false;
	return nodes->shared || !folio_likely_mapped_shared(folio);
}

/*
 * Why a mapped folio can never migrate, or NR_MIGRATE_LEFT. The page-table lock keeps
 * it mapped, and while it is, neither anonymous memory nor a file's becomes the other:
 * so this is known without the folio lock.
 *
 * KSM knows its mappings by the addresses where it merged them. mremap() unmerges what
 * it moves, but not what it takes for a swap entry: after it, the rmap would miss the
 * device entry. ksmd turns a folio into one of its own under the folio lock, so
 * collect_lock_folio() asks again.
 */
static __always_inline enum migrate_left
collect_check_folio(struct migrate_collect *collect, struct folio *folio)
{
	if (!folio_test_anon(folio) && collect->files_stay)
		return MIGRATE_LEFT_KIND;
	if (folio_test_ksm(folio))
		return MIGRATE_LEFT_KIND;
	if (unlikely(collect->system_stays) && !folio_is_zone_device(folio))
		return MIGRATE_LEFT_KIND;
	if (collect->nodes && !collect_leaves_node(collect->nodes, folio))
		return MIGRATE_LEFT_UNSELECTED;
	return NR_MIGRATE_LEFT;
}

/*
 * Does the system's memory of @vma stay, whatever it is? What is on a device already,
 * however it got there, can come back.
 *
 * VM_DROPPABLE memory may never be written to swap. Nobody knows what a device writes,
 * so memory comes back from it dirty. And arm64's tags are lost on a device.
 */
static bool collect_system_stays(struct vm_area_struct *vma, unsigned int flags)
{
	if (vma->vm_flags & VM_DROPPABLE)
		return true;
	return (flags & MIGRATE_COLLECT_TO_DEVICE) && (vma->vm_flags & VM_MTE);
}

/* Has the caller selected @page, which the CPU can address? */
static __always_inline bool
collect_wants_page(struct migrate_vma *migrate, struct page *page)
{
	if (likely(!is_zone_device_page(page)))
		return migrate->flags & MIGRATE_VMA_SELECT_SYSTEM;
	return !is_device_coherent_page(page) ||
	       collect_wants_pgmap(migrate, page,
				   MIGRATE_VMA_SELECT_DEVICE_COHERENT);
}

/* What the device-private entry @entry maps; or the reason why it stays. */
static __always_inline enum migrate_left
collect_look_up_swap(struct migrate_collect *collect, struct migrate_run *run,
		     swp_entry_t entry)
{
	struct migrate_vma *migrate = collect->migrate;

	/* Who put a migration entry in has the folio's lock. */
	if (!is_device_private_entry(entry))
		return is_migration_entry(entry) ? MIGRATE_LEFT_LOCKED :
						   MIGRATE_LEFT_SWAPPED;
	run->page = pfn_to_page(swp_offset_pfn(entry));
	if (!collect_wants_pgmap(migrate, run->page,
				 MIGRATE_VMA_SELECT_DEVICE_PRIVATE))
		return MIGRATE_LEFT_UNSELECTED;
	run->write = is_writable_device_private_entry(entry);
	return NR_MIGRATE_LEFT;
}

/* The same for a present entry. */
static enum migrate_left collect_look_up_page(struct migrate_collect *collect,
					      struct migrate_run *run,
					      unsigned long addr)
{
	struct migrate_vma *migrate = collect->migrate;

	run->page = vm_normal_page(migrate->vma, addr, run->pte);
	if (!run->page)
		return is_zero_pfn(pte_pfn(run->pte)) ?
		       MIGRATE_LEFT_UNSELECTED : MIGRATE_LEFT_KIND;
	run->write = pte_write(run->pte);
	return collect_wants_page(migrate, run->page) ?
	       NR_MIGRATE_LEFT : MIGRATE_LEFT_UNSELECTED;
}

/*
 * Find out what the run's first entry maps. Returns NR_MIGRATE_LEFT, or the
 * reason why it stays: MIGRATE_LEFT_LOCKED if it is to be looked at again.
 */
static enum migrate_left collect_look_up(struct migrate_collect *collect,
					 struct migrate_run *run,
					 unsigned long addr)
{
	if (pte_present(run->pte))
		return collect_look_up_page(collect, run, addr);
	return collect_look_up_swap(collect, run, pte_to_swp_entry(run->pte));
}

/*
 * Why a locked folio of a file cannot migrate, or NR_MIGRATE_LEFT. One that is written out is
 * tried again later, like one that is locked. Without a mapping the folio is truncated, or a
 * driver's page. Secret memory and a guest's private memory must not be read, so not copied.
 */
static noinline enum migrate_left collect_check_file(struct folio *folio)
{
	struct address_space *mapping = folio->mapping;

	if (folio_is_zone_device(folio) || folio_test_hugetlb(folio) || !mapping ||
	    !mapping->a_ops->migrate_folio || mapping_inaccessible(mapping) ||
	    secretmem_mapping(mapping))
		return MIGRATE_LEFT_KIND;
	return folio_test_writeback(folio) ? MIGRATE_LEFT_LOCKED : NR_MIGRATE_LEFT;
}

/* Lock the folio of @run, unless it can never migrate. */
static __always_inline enum migrate_left
collect_lock_folio(struct migrate_collect *collect, struct migrate_run *run)
{
	struct page *fault_page = collect->fault_page;
	enum migrate_left reason;

	run->folio = page_folio(run->page);
	reason = collect_check_folio(collect, run->folio);
	if (reason != NR_MIGRATE_LEFT)
		return reason;
	if (!migrate_folio_trylock(run->folio, fault_page))
		return MIGRATE_LEFT_LOCKED;
	if (unlikely(!folio_test_anon(run->folio)))
		reason = collect_check_file(run->folio);
	else if (unlikely(folio_test_ksm(run->folio)))
		reason = MIGRATE_LEFT_KIND;
	if (unlikely(reason != NR_MIGRATE_LEFT))
		migrate_folio_unlock(run->folio, fault_page);
	return reason;
}

/*
 * The walk is to stop here and go on when the folio of @run is split, which the
 * page-table lock must not be held for. The lock on the folio stays.
 */
static void collect_stop_to_split(struct migrate_collect *collect,
				  struct migrate_run *run)
{
	struct page *fault_page = collect->fault_page;

	if (migrate_is_fault_folio(run->folio, fault_page)) {
		collect->split = fault_page;
		return;
	}
	folio_get(run->folio);
	collect->split = run->page;
}

/* Split what the walk has stopped at. Returns false if that is not possible. */
static bool collect_split(struct migrate_collect *collect)
{
	struct page *page = collect->split;
	struct folio *folio = page_folio(page);
	int ret = split_huge_page(page);

	collect->split = NULL;
	if (ret)
		collect->whole = folio;
	/* Both are of the folio of @page, whatever that is now. */
	if (page != collect->fault_page) {
		folio_unlock(page_folio(page));
		put_page(page);
	}
	return !ret;
}

/*
 * Find out what the run's first entry maps, and lock it. The page table keeps it
 * from going away.
 */
static __always_inline enum migrate_left
collect_lock(struct migrate_collect *collect, struct migrate_run *run,
	     unsigned long addr)
{
	enum migrate_left reason = collect_look_up(collect, run, addr);

	if (reason != NR_MIGRATE_LEFT)
		return reason;
	return collect_lock_folio(collect, run);
}

/*
 * What the run's first entry maps is locked by somebody, or cannot move. Returns
 * how many entries that settles: of a large folio all that are here. Were it
 * unlocked between two of them, the rest would be taken for a part of a folio.
 */
static noinline unsigned int
collect_stays(struct migrate_collect *collect, struct migrate_run *run,
	      unsigned long *slot, pte_t *ptep, unsigned int max_nr,
	      enum migrate_left reason)
{
	unsigned int nr = 1, i;

	if (run->folio && folio_test_large(run->folio))
		nr = collect_mapped(run, ptep, max_nr);
	for (i = 0; i < nr; i++)
		collect_left_or_remember(collect, slot + i, reason);
	return nr;
}

/* The run that begins with page @first of the folio of @run; its entry is at @ptep. */
static void collect_next_run(struct migrate_run *run, unsigned int first,
			     pte_t *ptep)
{
	run->pte = ptep_get(ptep);
	run->page = folio_page(run->folio, first);
	run->exclusive = folio_test_anon(run->folio) && migrate_page_exclusive(run->page);
	run->write = pte_present(run->pte) ? pte_write(run->pte) :
		is_writable_device_private_entry(pte_to_swp_entry(run->pte));
}

/*
 * The first @nr pages of a large folio are not mapped here any more. All at once: if
 * it were run by run, the folio would look partly mapped in between, and would be
 * queued to be split.
 */
static void collect_remove_rmap(struct migrate_collect *collect,
				struct folio *folio, unsigned int nr)
{
	struct vm_area_struct *vma = collect->migrate->vma;

	/*
	 * Each mapping has a reference and drops it last, so the count tells that
	 * there are no others, and that nobody is about to account for one that
	 * is gone. folio_mapcount() does not: it is changed first.
	 */
	if (unlikely(!folio_test_anon(folio)))
		folio_remove_rmap_ptes_batch(folio, &folio->page, nr, vma,
					     &collect->rmap_file);
	else if (nr == folio_nr_pages(folio) && folio_ref_count(folio) == nr)
		folio_remove_whole_anon_rmap_batch(folio, vma, &collect->rmap);
	else
		folio_remove_rmap_ptes_batch(folio, &folio->page, nr, vma,
					     &collect->rmap);
}

/*
 * Replace all entries of a large folio by migration entries, run by run; the first
 * run has @nr. Returns how many are; all but one of the references are dropped. If
 * a page is pinned, that is where it ends.
 */
static unsigned int collect_unmap_large(struct migrate_collect *collect,
					struct migrate_run run, unsigned int nr,
					unsigned long addr, pte_t *ptep,
					bool *write)
{
	struct vm_area_struct *vma = collect->migrate->vma;
	unsigned int nr_pages = folio_nr_pages(run.folio), done = 0;

	while (migrate_run_unmap(&run, vma, addr + done * PAGE_SIZE,
				 ptep + done, nr)) {
		*write &= run.write;
		done += nr;
		if (done == nr_pages)
			break;
		collect_next_run(&run, done, ptep + done);
		nr = migrate_run_length(&run, ptep + done, nr_pages - done);
	}
	if (done)
		collect_remove_rmap(collect, run.folio, done);
	if (done > 1)
		folio_ref_sub(run.folio, done - 1);
	return done;
}

/*
 * Collect a large folio that is locked, and is to migrate whole: the entries from
 * @ptep on map all of it, and the first @nr of them are alike.
 *
 * Pinned pages are found out before their entries are touched. Should one be
 * pinned by GUP-fast at this moment, then the folio is still mapped; the unmap
 * stage finds that, and puts all of it back.
 */
static void collect_whole(struct migrate_collect *collect,
			  struct migrate_run *run, unsigned int nr,
			  unsigned long *slot, unsigned long addr, pte_t *ptep)
{
	unsigned int nr_pages = folio_nr_pages(run->folio), done = 0, i;
	unsigned long flags = MIGRATE_PFN_MIGRATE;
	bool write = true;

	if (!folio_maybe_dma_pinned(run->folio))
		done = collect_unmap_large(collect, *run, nr, addr, ptep,
					   &write);
	if (!done) {
		migrate_folio_unlock(run->folio, collect->fault_page);
		for (i = 0; i < nr_pages; i++)
			collect_left(collect, slot + i, MIGRATE_LEFT_PINNED);
		return;
	}
	if (write)
		flags |= MIGRATE_PFN_WRITE;
	if (unlikely(done < nr_pages))
		flags |= MIGRATE_PFN_RMAP;
	collect_large_slot(collect, slot,
			   migrate_pfn(page_to_pfn(run->page)) | flags,
			   folio_order(run->folio));
	migrate_passed(collect->tally, folio_order(run->folio));
}

/*
 * Take a locked folio of a file that others map as well: its entries are left to the unmap
 * stage, which walks the rmap. Of a large one, the entries may differ in what may be written.
 */
static void collect_take_file(struct migrate_collect *collect, struct migrate_run *run,
			      unsigned long *slot)
{
	unsigned long entry = migrate_pfn(folio_pfn(run->folio)) | MIGRATE_PFN_MIGRATE |
			      MIGRATE_PFN_RMAP;

	folio_get(run->folio);
	if (folio_test_large(run->folio))
		collect_large_slot(collect, slot, entry, folio_order(run->folio));
	else
		*slot = entry | (run->write ? MIGRATE_PFN_WRITE : 0);
	migrate_passed(collect->tally, folio_order(run->folio));
}

/*
 * As collect_whole(), for a file's folio that nobody else maps: like anonymous memory, it
 * needs no walk of the rmap then. As long as it is locked, no mapping can be added: faults
 * lock it, also when they map what lies around, and so does userfaultfd.
 */
static void collect_own_file(struct migrate_collect *collect, struct migrate_run *run,
			     unsigned long *slot, unsigned long addr, pte_t *ptep)
{
	unsigned int nr_pages = folio_nr_pages(run->folio);
	unsigned long entry = migrate_pfn(folio_pfn(run->folio)) | MIGRATE_PFN_MIGRATE;
	bool write = run->write;

	run->exclusive = false;
	if (nr_pages == 1) {
		migrate_run_unmap(run, collect->migrate->vma, addr, ptep, 1);
		folio_remove_rmap_ptes_batch(run->folio, run->page, 1,
					     collect->migrate->vma, &collect->rmap_file);
		*slot = entry | (write ? MIGRATE_PFN_WRITE : 0);
	} else {
		collect_unmap_large(collect, *run, migrate_run_length(run, ptep, nr_pages),
				    addr, ptep, &write);
		collect_large_slot(collect, slot, entry | (write ? MIGRATE_PFN_WRITE : 0),
				   folio_order(run->folio));
	}
	migrate_passed(collect->tally, folio_order(run->folio));
}

/*
 * Collect what begins at @ptep and maps a file's folio, which is locked. One that is not to
 * move whole stays: a split would unmap it everywhere, and may wait for I/O. Returns how many
 * entries are done, and in @unmapped whether they were replaced.
 */
static noinline unsigned int
collect_file(struct migrate_collect *collect, struct migrate_run *run,
	     unsigned long *slot, unsigned long addr, pte_t *ptep,
	     unsigned int max_nr, bool *unmapped)
{
	unsigned int nr_pages = folio_nr_pages(run->folio), nr, i;

	nr = nr_pages == 1 ? 1 : collect_mapped(run, ptep, max_nr);
	if (nr == nr_pages &&
	    (nr == 1 || collect_takes(collect->migrate, folio_order(run->folio)))) {
		*unmapped = folio_mapcount(run->folio) == nr;
		if (*unmapped)
			collect_own_file(collect, run, slot, addr, ptep);
		else
			collect_take_file(collect, run, slot);
		return nr;
	}
	folio_unlock(run->folio);
	for (i = 0; i < nr; i++)
		collect_left(collect, slot + i, MIGRATE_LEFT_LARGE);
	return nr;
}

/*
 * Collect what begins at @ptep and maps a large folio, which is locked. What the
 * caller does not take, or is not whole here, is split: then the walk has to stop.
 * In several pieces is also what lies in two page tables.
 */
static noinline unsigned int
collect_large(struct migrate_collect *collect, struct migrate_run *run,
	      unsigned long *slot, unsigned long addr, pte_t *ptep,
	      unsigned int max_nr)
{
	unsigned int nr_pages = folio_nr_pages(run->folio), nr;

	if (collect_takes(collect->migrate, folio_order(run->folio))) {
		run->exclusive = migrate_page_exclusive(run->page);
		nr = migrate_run_length(run, ptep, max_nr);
		if (nr == nr_pages ||
		    collect_mapped(run, ptep, max_nr) == nr_pages) {
			collect_whole(collect, run, nr, slot, addr, ptep);
			return nr_pages;
		}
	}
	if (run->folio != collect->whole && !collect->no_split) {
		collect_stop_to_split(collect, run);
		return 0;
	}
	migrate_folio_unlock(run->folio, collect->fault_page);
	return collect_stays(collect, run, slot, ptep, max_nr, MIGRATE_LEFT_LARGE);
}

/*
 * Collect what begins at @ptep, @max_nr entries at most. Returns how many are
 * done, and in @unmapped whether they were present and may be replaced. None are
 * done if the walk has to stop.
 */
static unsigned int collect_entries(struct migrate_collect *collect,
				    unsigned long *slot, unsigned long addr,
				    pte_t *ptep, unsigned int max_nr,
				    bool *unmapped)
{
	struct vm_area_struct *vma = collect->migrate->vma;
	struct migrate_run run = { .pte = ptep_get(ptep) };
	enum migrate_left reason;

	if (collect_is_hole(collect->migrate, run.pte)) {
		collect_hole(collect, slot);
		return 1;
	}
	reason = collect_lock(collect, &run, addr);
	if (unlikely(reason != NR_MIGRATE_LEFT))
		return collect_stays(collect, &run, slot, ptep, max_nr, reason);

	if (unlikely(!folio_test_anon(run.folio)))
		return collect_file(collect, &run, slot, addr, ptep, max_nr, unmapped);
	*unmapped = pte_present(run.pte);
	if (unlikely(folio_test_large(run.folio)))
		return collect_large(collect, &run, slot, addr, ptep, max_nr);

	/* The common case, without any loop. */
	run.exclusive = migrate_page_exclusive(run.page);
	if (!migrate_run_unmap(&run, vma, addr, ptep, 1)) {
		migrate_folio_unlock(run.folio, collect->fault_page);
		collect_left(collect, slot, MIGRATE_LEFT_PINNED);
		return 1;
	}
	folio_remove_rmap_ptes_batch(run.folio, run.page, 1, vma,
				     &collect->rmap);
	*slot = migrate_pfn(page_to_pfn(run.page)) | MIGRATE_PFN_MIGRATE |
		(run.write ? MIGRATE_PFN_WRITE : 0);
	migrate_passed(collect->tally, 0);
	return 1;
}

/*
 * Collect [start, end), whose entries begin at @ptep, or MIGRATE_COLLECT_BATCH entries of
 * it. Returns in @flush which of it the TLB may still map, and the address where to go
 * on, or where the walk has to stop, or @end.
 */
static unsigned long collect_ptes(struct migrate_collect *collect,
				  unsigned long start, unsigned long end,
				  pte_t *ptep, struct collect_flush *flush)
{
	unsigned long stop = min(end, start + MIGRATE_COLLECT_BATCH * PAGE_SIZE);
	unsigned long *slot = collect_slot(collect, start);
	unsigned long addr;
	unsigned int nr;

	for (addr = start; addr < stop; addr += nr * PAGE_SIZE) {
		bool unmapped = false;

		nr = 1;
		if (!collect_done(collect, slot))
			nr = collect_entries(collect, slot, addr, ptep,
					     (end - addr) >> PAGE_SHIFT,
					     &unmapped);
		if (unlikely(!nr))
			break;
		ptep += nr;
		slot += nr;
		if (!unmapped)
			continue;
		if (flush->start == flush->end)
			flush->start = addr;
		flush->end = addr + nr * PAGE_SIZE;
	}
	return addr;
}

/*
 * Returns the address where to go on, or where the walk has to stop, which is @start if
 * there is no page table at @pmdp any more.
 */
static unsigned long collect_table_part(struct migrate_collect *collect,
					pmd_t *pmdp, unsigned long start,
					unsigned long end)
{
	struct vm_area_struct *vma = collect->migrate->vma;
	struct collect_flush flush = {};
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;

	ptep = pte_offset_map_lock(vma->vm_mm, pmdp, start, &ptl);
	if (!ptep)
		return start;
	arch_enter_lazy_mmu_mode();
	start = collect_ptes(collect, start, end, ptep, &flush);
	rmap_batch_flush(&collect->rmap);
	rmap_batch_flush(&collect->rmap_file);
	/* Lazy mode can hold changes back: they must be in before the flush. */
	arch_leave_lazy_mmu_mode();
	if (flush.start != flush.end)
		flush_tlb_range(vma, flush.start, flush.end);
	pte_unmap_unlock(ptep, ptl);
	return start;
}

/* Returns false if there is no page table at @pmdp any more. */
static bool collect_table(struct migrate_collect *collect, pmd_t *pmdp,
			  unsigned long start, unsigned long end)
{
	unsigned long addr = start, from;

	do {
		from = addr;
		addr = collect_table_part(collect, pmdp, from, end);
		/* What cannot be split is left behind when it is met again. */
		if (collect->split)
			collect_split(collect);
		else if (addr == from)
			break;
		cond_resched();
	} while (addr < end);
	/*
	 * With an anon_vma, tables do not go away while mmap_lock is held. But
	 * should one, then what is collected of it must not be met again.
	 */
	if (addr > start && addr < end) {
		collect_remember_range(collect, addr, end);
		return true;
	}
	return addr == end;
}

/* The huge zero page: a hole, or many. Returns whether [start, end) is done. */
static bool collect_huge_zero(struct migrate_collect *collect,
			      unsigned long start, unsigned long end)
{
	if (!(collect->migrate->flags & MIGRATE_VMA_SELECT_SYSTEM)) {
		collect_left_range(collect, start, end, MIGRATE_LEFT_UNSELECTED);
		return true;
	}
	if (collect->no_holes) {
		for (; start < end; start += PAGE_SIZE)
			collect_hole(collect, collect_slot(collect, start));
		return true;
	}
	if (!collect->huge_holes || !collect_is_huge(start, end))
		return false;
	collect_huge_hole(collect, collect_slot(collect, start));
	return true;
}

/* As collect_look_up() does for page tables. */
static enum migrate_left collect_look_up_pmd(struct migrate_collect *collect,
					     struct migrate_run *run, pmd_t pmd,
					     unsigned long addr)
{
	struct migrate_vma *migrate = collect->migrate;

	if (!pmd_present(pmd))
		return collect_look_up_swap(collect, run,
					    pmd_to_swp_entry(pmd));
	run->page = pmd_devmap(pmd) ? NULL :
		    vm_normal_page_pmd(migrate->vma, addr, pmd);
	if (!run->page)
		return MIGRATE_LEFT_KIND;
	/* It is the folio that counts, not where [start, end) begins. */
	run->page = &page_folio(run->page)->page;
	run->write = pmd_write(pmd);
	return collect_wants_page(migrate, run->page) ?
	       NR_MIGRATE_LEFT : MIGRATE_LEFT_UNSELECTED;
}

/*
 * Replace what @pmdp maps by a migration entry. That flushes the TLB. What is
 * pinned stays as it is, whole.
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

	/* It drops the reference that the mapping had. */
	folio_get(run->folio);
	if (set_pmd_migration_entry(&pvmw, run->page)) {
		folio_put(run->folio);
		migrate_folio_unlock(run->folio, collect->fault_page);
		return MIGRATE_LEFT_PINNED;
	}
	collect_large_slot(collect, collect_slot(collect, addr),
			   migrate_pfn(page_to_pfn(run->page)) |
			   MIGRATE_PFN_MIGRATE |
			   (run->write ? MIGRATE_PFN_WRITE : 0),
			   MIGRATE_HUGE_ORDER);
	migrate_passed(collect->tally, MIGRATE_HUGE_ORDER);
	return NR_MIGRATE_LEFT;
}

/* As collect_file(), for what a PMD maps. */
static noinline enum migrate_left
collect_huge_file(struct migrate_collect *collect, struct migrate_run *run,
		  unsigned long addr, bool whole)
{
	if (whole) {
		collect_take_file(collect, run, collect_slot(collect, addr));
		return NR_MIGRATE_LEFT;
	}
	folio_unlock(run->folio);
	return MIGRATE_LEFT_LARGE;
}

/*
 * Collect [start, end), which is what the PMD maps or a part of it. Returns the
 * reason why that stays, or NR_MIGRATE_LEFT. If @split is set then, it is for page
 * tables to collect when the folio is split.
 */
static enum migrate_left collect_huge(struct migrate_collect *collect,
				      pmd_t *pmdp, unsigned long start,
				      unsigned long end)
{
	struct migrate_run run = {};
	enum migrate_left reason;
	bool whole;

	reason = collect_look_up_pmd(collect, &run, *pmdp, start);
	if (reason != NR_MIGRATE_LEFT)
		return reason;
	reason = collect_lock_folio(collect, &run);
	if (reason != NR_MIGRATE_LEFT)
		return reason;
	whole = collect_takes_huge(collect->migrate) && collect_is_huge(start, end);
	if (unlikely(!folio_test_anon(run.folio)))
		return collect_huge_file(collect, &run, start, whole);
	if (whole)
		return collect_unmap_pmd(collect, &run, pmdp, start);
	if (collect->no_split) {
		folio_unlock(run.folio);
		return MIGRATE_LEFT_LARGE;
	}
	collect_stop_to_split(collect, &run);
	return NR_MIGRATE_LEFT;
}

/* A folio, be it by an entry that is not present; and no page table. */
static bool collect_maps_folio(pmd_t pmd)
{
	return is_swap_pmd(pmd) || pmd_trans_huge(pmd) || pmd_devmap(pmd);
}

/*
 * Collect [start, end) if a PMD maps it. Returns false if page tables do, be it
 * that what the PMD has mapped is split now.
 */
static bool collect_pmd(struct migrate_collect *collect, pmd_t *pmdp,
			unsigned long start, unsigned long end)
{
	struct vm_area_struct *vma = collect->migrate->vma;
	enum migrate_left reason;
	spinlock_t *ptl;	/* of the page table */

	if (!collect_maps_folio(pmdp_get_lockless(pmdp)))
		return false;
	ptl = pmd_lock(vma->vm_mm, pmdp);
	if (!collect_maps_folio(*pmdp)) {
		spin_unlock(ptl);
		return false;
	}
	if (is_huge_zero_pmd(*pmdp)) {
		spin_unlock(ptl);
		if (collect_huge_zero(collect, start, end))
			return true;
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
	if (reason == MIGRATE_LEFT_LOCKED)
		collect_remember_range(collect, start, end);
	else if (reason != NR_MIGRATE_LEFT)
		collect_left_range(collect, start, end, reason);
	return true;
}

static int collect_pmd_entry(pmd_t *pmdp, unsigned long start,
			     unsigned long end, struct mm_walk *walk)
{
	struct migrate_collect *collect = walk->private;

	if (pmd_none(pmdp_get_lockless(pmdp)))
		return collect_holes(start, end, -1, walk);
	if (!collect_pmd(collect, pmdp, start, end) &&
	    !collect_table(collect, pmdp, start, end))
		walk->action = ACTION_AGAIN;
	cond_resched();
	return 0;
}

static const struct mm_walk_ops collect_walk_ops = {
	.pmd_entry	= collect_pmd_entry,
	.pte_hole	= collect_holes,
	.walk_lock	= PGWALK_RDLOCK,
};

/* Walk the stretches of [first, end) that are remembered. */
static void collect_walk_again(struct migrate_collect *collect,
			       unsigned long first, unsigned long end)
{
	struct migrate_vma *migrate = collect->migrate;
	unsigned long i, start;

	for (i = first; i < end; i++) {
		if (migrate->src[i] != MIGRATE_SRC_AGAIN)
			continue;
		start = migrate->start + i * PAGE_SIZE;
		while (i < end && migrate->src[i] == MIGRATE_SRC_AGAIN)
			i++;
		walk_page_range(migrate->vma->vm_mm, start,
				migrate->start + i * PAGE_SIZE,
				&collect_walk_ops, collect);
	}
}

/*
 * One pass over the slots of [first, end), all of them or those that are
 * remembered. The driver's notifier gets the owner with it, so that it can tell a
 * migration of its own from others.
 */
static void collect_pass(struct migrate_collect *collect, unsigned long first,
			 unsigned long end)
{
	struct migrate_vma *migrate = collect->migrate;
	unsigned long from = migrate->start + first * PAGE_SIZE;
	unsigned long to = migrate->start + end * PAGE_SIZE;
	struct mm_struct *mm = migrate->vma->vm_mm;
	struct mmu_notifier_range range;

	collect->nr_again = 0;
	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_MIGRATE, 0, mm, from,
				      to, migrate->pgmap_owner);
	mmu_notifier_invalidate_range_start(&range);
	if (collect->again)
		collect_walk_again(collect, first, end);
	else
		walk_page_range(mm, from, to, &collect_walk_ops, collect);
	mmu_notifier_invalidate_range_end(&range);
}

/* The slots that are remembered, [*first, *end), of which there is one at least. */
static void collect_hull(struct migrate_vma *migrate, unsigned long *first,
			 unsigned long *end)
{
	*first = 0;
	*end = migrate->npages;
	while (migrate->src[*first] != MIGRATE_SRC_AGAIN)
		(*first)++;
	while (migrate->src[*end - 1] != MIGRATE_SRC_AGAIN)
		(*end)--;
}

/*
 * One more look at what was locked: most holders have a folio for a moment only, and
 * that was over while the rest of the range was collected. Nobody is waited for here,
 * with other folios locked: the holder may wait for one of these. A caller that can
 * wait is hmm_migrate_range(), with nothing locked.
 *
 * A fault does not look again: it has its own folio locked, and is repeated anyway.
 */
static void collect_locked_ones(struct migrate_collect *collect)
{
	struct migrate_vma *migrate = collect->migrate;
	unsigned long first, end, i;

	collect_hull(migrate, &first, &end);
	if (!migrate->fault_page) {
		collect->again = true;
		collect_pass(collect, first, end);
	}
	for (i = first; i < end && collect->nr_again; i++)
		if (migrate->src[i] == MIGRATE_SRC_AGAIN)
			collect_left(collect, &migrate->src[i],
				     MIGRATE_LEFT_LOCKED);
}

/**
 * migrate_stage_collect() - the first stage: from page tables to src[]
 * @migrate: the range; all but its cpages is valid
 * @flags: MIGRATE_COLLECT_*
 * @nodes: folios of which nodes are to move, or NULL: all
 * @tally: what is counted
 *
 * Locks the folios of the range that the caller selects, takes over a reference
 * to each, and replaces their entries by migration entries. What a lock keeps
 * from it is looked at once more, without waiting.
 *
 * Context: mmap_lock is held. Sleeps, but not for a folio lock.
 * Return: with MIGRATE_COLLECT_LEAVE_LOCKED, how many slots have MIGRATE_SRC_AGAIN,
 * which is for the caller to clear; otherwise 0.
 */
unsigned long migrate_stage_collect(struct migrate_vma *migrate,
				    unsigned int flags,
				    const struct migrate_nodes *nodes,
				    struct migrate_tally *tally)
{
	unsigned long orders = migrate_hole_orders(migrate->vma);
	struct migrate_collect collect = {
		.migrate = migrate,
		.fault_page = migrate->fault_page,
		.tally = tally,
		.nodes = nodes,
		.no_split = flags & MIGRATE_COLLECT_NO_SPLIT,
		.system_stays = collect_system_stays(migrate->vma, flags),
		.files_stay = flags & MIGRATE_COLLECT_TO_DEVICE,
	};

	if (collect.system_stays || flags & MIGRATE_COLLECT_NO_HOLES)
		orders = 0;
	collect.no_holes = flags & MIGRATE_COLLECT_NO_HOLES;
	collect.holes = orders;
	collect.huge_holes = MIGRATE_HUGE_ORDER && collect_takes_huge(migrate) &&
			     (orders & BIT(MIGRATE_HUGE_ORDER));
	memset(migrate->src, 0, sizeof(*migrate->src) * migrate->npages);
	memset(migrate->dst, 0, sizeof(*migrate->dst) * migrate->npages);

	collect_pass(&collect, 0, migrate->npages);
	if (flags & MIGRATE_COLLECT_LEAVE_LOCKED)
		return collect.nr_again;
	if (collect.nr_again) {
		tally->again = -tally->units;
		collect_locked_ones(&collect);
		tally->again += tally->units;
	}
	return 0;
}

#include "tests/collect-kunit.h"
