/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Range migration: what its stages share.
 *
 * A migration is two arrays with a slot for each page of a range, and four
 * stages over them:
 *
 *   collect   page tables -> src[]: lock the folios, put migration entries in
 *   unmap     take the folios off the LRU, and their other mappings away
 *   pages     the old folio's identity moves to the new one; holes are filled
 *   finalize  migration entries -> the new folio, or back to the old one
 *
 * What a stage may rely on, for each unit whose src[] entry has both
 * MIGRATE_PFN_VALID and MIGRATE_PFN_MIGRATE:
 *
 *   after collect   the folio is locked and this migration has one reference to
 *                   it, which is the one that the mapping had
 *   after unmap     nothing maps it any more, it is not on the LRU, and nobody
 *                   else has a reference to it, so its contents are stable
 *
 * A unit that cannot go on is put back as it was, in the stage that finds out,
 * and counted by its reason.
 */
#ifndef _MM_MIGRATE_VMA_INTERNAL_H
#define _MM_MIGRATE_VMA_INTERNAL_H

#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/rmap.h>
#include "../internal.h"

/*
 * Bits of src[] entries that are the stages' own. Drivers do not look at them. After
 * setup, a driver may clear MIGRATE_PFN_MIGRATE in an entry, and change nothing else.
 * With these, all bits below MIGRATE_PFN_SHIFT are in use.
 *
 * MIGRATE_PFN_RMAP	there are, or were, mappings that collect did not meet:
 *			only the rmap finds all of them
 * MIGRATE_PFN_ANON_VMA	folio->private is a reference to the folio's anon_vma,
 *			see device.c; the folio is a device's
 */
#define MIGRATE_PFN_RMAP	BIT(2)
#define MIGRATE_PFN_ANON_VMA	BIT(5)

static_assert(BIT(MIGRATE_PFN_SHIFT) > MIGRATE_PFN_ANON_VMA);

/*
 * Only inside collect, but for MIGRATE_COLLECT_LEAVE_LOCKED: the folio lock was taken,
 * look at this address again. It is the address that is remembered and not the
 * folio: the reference that would keep the folio from going away would also make the
 * migration fail that holds the lock. Bit 0, MIGRATE_PFN_VALID, is clear.
 */
#define MIGRATE_SRC_AGAIN	BIT(MIGRATE_PFN_SHIFT)

/* In dst[], after the pages stage: see &migrate_tally.defer_writeback. */
#define MIGRATE_DST_AGAIN	BIT(2)

/*
 * For migrate_stage_collect(), by hmm_migrate_range():
 *
 * MIGRATE_COLLECT_LEAVE_LOCKED	do not look again at what is locked: leave
 *				MIGRATE_SRC_AGAIN in the slots
 * MIGRATE_COLLECT_TO_DEVICE	the destination is a device's memory
 * MIGRATE_COLLECT_NO_HOLES	holes are not to be filled, and are not left either
 * MIGRATE_COLLECT_NO_SPLIT	a large folio that is not in the range whole stays
 *
 * Files' memory moves to ordinary memory only: MIGRATE_COLLECT_TO_DEVICE leaves it. The three
 * calls do not know the destination; for them the pages stage looks.
 */
#define MIGRATE_COLLECT_LEAVE_LOCKED	BIT(0)
#define MIGRATE_COLLECT_TO_DEVICE	BIT(1)
#define MIGRATE_COLLECT_NO_HOLES	BIT(2)
#define MIGRATE_COLLECT_NO_SPLIT	BIT(3)

/* What a PMD maps. A large hole is as large as that: collect marks no other. */
#define MIGRATE_HUGE_ORDER \
	(IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) ? HPAGE_PMD_ORDER : 0)

/**
 * struct migrate_unit - what migrates whole: one folio, or one hole
 * @index: its first slot in the arrays
 * @order: the order of the folio; it has 1 << @order slots
 * @page: the page that its slot in src[] stands for; NULL for a hole
 * @newpage: the page in its slot in dst[]; NULL if there is none (yet)
 * @src: its slot in src[]
 * @next: the slot behind it
 *
 * All slots of a unit but the first are 0. A stage looks at units and never at
 * pages, so what it costs does not depend on the size of the folios. Only dst[]
 * may have pages in the other slots, if the driver had none that is large enough:
 * see split.c.
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

/*
 * page_folio() for a page that is its folio's first one, or NULL: there is no need to look
 * for the head page of each.
 */
static inline struct folio *migrate_head_folio(struct page *page)
{
	VM_WARN_ON_ONCE_PAGE(page && PageTail(page), page);
	return page ? container_of(page, struct folio, page) : NULL;
}

/* A unit is a whole folio, so its page is the folio's first one. */
static inline struct folio *migrate_unit_folio(const struct migrate_unit *unit)
{
	return migrate_head_folio(unit->page);
}

/* The same of what the driver puts in its place, or NULL. */
static inline struct folio *
migrate_unit_newfolio(const struct migrate_unit *unit)
{
	return migrate_head_folio(unit->newpage);
}

/*
 * The folio of a CPU fault is locked by the fault, which also has a reference: see
 * device_private_fault(). It is the folio of a page, as the stages may split it.
 */
static inline bool migrate_is_fault_folio(struct folio *folio,
					  struct page *fault_page)
{
	return unlikely(fault_page) && page_folio(fault_page) == folio;
}

static inline bool migrate_folio_trylock(struct folio *folio,
					 struct page *fault_page)
{
	return migrate_is_fault_folio(folio, fault_page) ||
	       folio_trylock(folio);
}

static inline void migrate_folio_unlock(struct folio *folio,
					struct page *fault_page)
{
	if (!migrate_is_fault_folio(folio, fault_page))
		folio_unlock(folio);
}

/**
 * migrate_unit_at() - find the first unit at a slot or after it
 * @unit: describes the unit then
 * @src: the array
 * @dst: the array of destinations, or NULL in a stage that has none
 * @index: the slot where to look first
 * @npages: how many slots the arrays have
 *
 * Where only @dst has an entry, a driver had a page for what did not migrate:
 * that is a unit with one slot and no @page.
 *
 * Return: false if there is none.
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
 * @unit: the unit before; all zero at first
 * @src: the array
 * @dst: the array of destinations, or NULL in a stage that has none
 * @npages: how many slots the arrays have
 *
 * Meanwhile the entry of the unit's slot may change, and its folio go away.
 *
 * Return: false if there is none.
 */
static __always_inline bool
migrate_unit_next(struct migrate_unit *unit, unsigned long *src,
		  unsigned long *dst, unsigned long npages)
{
	return migrate_unit_at(unit, src, dst, unit->next, npages);
}

static inline bool migrate_unit_is_hole(const struct migrate_unit *unit)
{
	return !unit->page && (*unit->src & MIGRATE_PFN_MIGRATE);
}

/**
 * struct migrate_tally - what a stage did, for its tracepoint and for vmstat
 * @stage: which stage
 * @by_pfn: @start and @end are device pfns and not addresses
 * @start: where the range begins
 * @end: where the range ends
 * @units: the units that it passed on
 * @holes: how many pages of these are holes
 * @empty: how many pages are holes that nobody wants to fill
 * @again: how many units were locked at first, and then not any more
 * @defer_writeback: (in) the caller looks again at what is under writeback: the pages
 *	stage does not count it, but puts MIGRATE_DST_AGAIN in its slot in dst[]
 * @nr_deferred: how many units these are
 * @pages: how many pages these have, by the order of the unit
 * @left: the pages that stay where they are, by the reason
 */
struct migrate_tally {
	enum migrate_stage stage;
	bool by_pfn;
	unsigned long start;
	unsigned long end;
	unsigned long units;
	unsigned long holes;
	unsigned long empty;
	unsigned long again;
	bool defer_writeback;
	unsigned long nr_deferred;
	unsigned long pages[NR_PAGE_ORDERS];
	unsigned long left[NR_MIGRATE_LEFT];
};

/**
 * struct migrate_call - what the stages of one call share
 * @drained: lru_add_drain_all() has been called, once is enough
 * @isolated: by migrate_isolated_slot(), how many pages the call has isolated; NULL if nobody
 *	asks
 */
struct migrate_call {
	bool drained;
	long *isolated;
};

static inline unsigned int migrate_isolated_slot(int nid, bool file)
{
	return 2 * nid + file;
}

/*
 * Which count of isolated pages has @folio? Anonymous memory the first one, also if
 * MADV_FREE has put it on a file list: that may change meanwhile.
 */
static inline bool migrate_isolated_as_file(struct folio *folio)
{
	return !folio_test_anon(folio) && folio_is_file_lru(folio);
}

/*
 * Account for isolated folios as reclaim and compaction do, so that they see how much of
 * the memory is in nobody's reach.
 */
static inline void migrate_count_isolated(struct migrate_call *call, int nid, bool file,
					  long nr_pages)
{
	mod_node_page_state(NODE_DATA(nid), NR_ISOLATED_ANON + file, nr_pages);
	if (call->isolated)
		call->isolated[migrate_isolated_slot(nid, file)] += nr_pages;
}

static inline struct migrate_tally
migrate_tally_init(enum migrate_stage stage, const struct migrate_vma *migrate)
{
	struct migrate_tally tally = {
		.stage = stage,
		.start = migrate->start,
		.end = migrate->end,
	};

	return tally;
}

/*
 * The pfns may be scattered: what is shown is the first one that is in the array
 * still, and the one after the last.
 */
static inline struct migrate_tally
migrate_tally_pfns(enum migrate_stage stage, const unsigned long *src,
		   unsigned long npages)
{
	struct migrate_tally tally = { .stage = stage, .by_pfn = true };
	unsigned long i;

	for (i = 0; i < npages && !src[i]; i++)
		;
	while (npages && !src[npages - 1])
		npages--;
	if (i < npages) {
		tally.start = src[i] >> MIGRATE_PFN_SHIFT;
		tally.end = (src[npages - 1] >> MIGRATE_PFN_SHIFT) + 1;
	}
	return tally;
}

static inline void migrate_passed(struct migrate_tally *tally,
				  unsigned int order)
{
	tally->units++;
	tally->pages[order] += BIT(order);
}

static inline void migrate_passed_hole(struct migrate_tally *tally,
				       unsigned int order)
{
	migrate_passed(tally, order);
	tally->holes += BIT(order);
}

static inline void migrate_left(struct migrate_tally *tally,
				enum migrate_left reason,
				unsigned long nr_pages)
{
	tally->left[reason] += nr_pages;
}

void migrate_tally_report(const struct migrate_tally *tally);

/*
 * The entry, not present, of the next pfn. pte_next_swp_offset() takes an entry apart and
 * puts it together again; where the architecture has the offset in one field, adding is
 * enough. The test_next_swp_entry test of KUnit compares both.
 */
static __always_inline pte_t migrate_swp_next(pte_t pte)
{
#ifdef PTE_SWP_OFFSET_STEP
	return __pte(pte_val(pte) + PTE_SWP_OFFSET_STEP);
#else
	return pte_next_swp_offset(pte);
#endif
}

/* How many entries from @ptep on are as the first one, @pte, foretells. */
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

/* set_ptes() for entries that are not present. */
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

/*
 * A migration by device pfns has no mmap_lock, so it holds the anon_vma itself:
 * without mappings, nothing else would while the rmap is walked.
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

void migrate_unit_restore(struct migrate_unit *unit, struct page *fault_page,
			  struct migrate_call *isolated_by);

bool migrate_takes_vma(struct vm_area_struct *vma);
unsigned long migrate_hole_orders(struct vm_area_struct *vma);
bool migrate_hole_is_large(const struct migrate_vma *migrate,
			   unsigned long index, unsigned int order);
unsigned long migrate_stage_collect(struct migrate_vma *migrate,
				    unsigned int flags,
				    const struct migrate_nodes *nodes,
				    struct migrate_tally *tally);
int migrate_stage_setup(struct migrate_vma *args, struct migrate_tally *collect,
			struct migrate_tally *unmap);
void migrate_stage_unmap(unsigned long *src, unsigned long npages,
			 struct page *fault_page, struct migrate_call *call,
			 struct migrate_tally *tally);
bool migrate_unit_must_split(const struct migrate_unit *unit,
			     unsigned long *dst);
bool migrate_unit_split(struct migrate_unit *unit, unsigned long *dst,
			struct migrate_vma *migrate);
void migrate_stage_pages(unsigned long *src, unsigned long *dst,
			 unsigned long npages, struct migrate_vma *migrate,
			 struct migrate_tally *tally);
void migrate_stage_finalize(unsigned long *src, unsigned long *dst,
			    unsigned long npages, struct migrate_vma *migrate,
			    struct migrate_call *call,
			    struct migrate_tally *tally);
void migrate_stage_device(unsigned long *src_pfns, unsigned long npages,
			  struct migrate_tally *collect,
			  struct migrate_tally *unmap);
unsigned long migrate_stage_lock_pfns(unsigned long *src_pfns, unsigned long npages,
				      unsigned int flags, struct migrate_tally *tally);

#endif /* _MM_MIGRATE_VMA_INTERNAL_H */
