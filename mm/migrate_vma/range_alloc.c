// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, destination memory: a folio for each unit of a chunk, or several smaller
 * ones; and the segments that the copier works on, which join units that are neighbours on
 * both sides.
 */
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>
#include "range.h"

/*
 * Is @page the one that follows @npages pages from @first on, and memory of the same kind?
 * Ordinary and device memory meet only where a subsection begins.
 */
static __always_inline bool page_follows(struct page *first, unsigned long npages,
					 struct page *page)
{
	if (first + npages != page)
		return false;
	return likely(!IS_ALIGNED(page_to_pfn(page), PAGES_PER_SUBSECTION)) ||
	       zone_device_pages_have_same_pgmap(first, page);
}

/* Extend the last segment by @npages pages, or begin a new one. A hole has no @src. */
static __always_inline void
chunk_add_segment(struct hmm_migrate_chunk *chunk, unsigned long index,
		  struct page *src, struct page *dst, unsigned long npages)
{
	struct hmm_migrate_segment *next = chunk->segments + chunk->nr_segments;
	struct hmm_migrate_segment *last = next - 1;

	if (chunk->nr_segments && last->index + last->npages == index &&
	    page_follows(last->dst, last->npages, dst) && !src == !last->src &&
	    (!src || page_follows(last->src, last->npages, src))) {
		last->npages += npages;
		return;
	}
	next->src = src;
	next->dst = dst;
	next->npages = npages;
	next->index = index;
	chunk->nr_segments++;
}

/* The order to try next for parts of @unit, after @order has failed. */
static unsigned int smaller_order(const struct hmm_migrate_chunk *chunk,
				  const struct migrate_unit *unit, unsigned int order)
{
	unsigned long orders = GENMASK(order - 1, 0);

	/* Anonymous folios cannot be order-1. */
	if (!(chunk->args.flags & MIGRATE_VMA_SELECT_LARGE) || order <= 2)
		return 0;
	/* Populate a hole with the orders that a page fault would use there. */
	if (!unit->page)
		orders &= migrate_hole_orders(chunk->vma) | BIT(0);
	return fls_long(orders) - 1;
}

/*
 * Allocate a folio of @order for what begins at slot @index, and put it into dst[]. A
 * hole gets the write access that a fault would give it; a page keeps the access that it
 * has.
 */
static __always_inline struct folio *
chunk_alloc_folio(struct hmm_migrate_chunk *chunk, const struct migrate_unit *unit,
		  unsigned long index, unsigned int order)
{
	const struct hmm_migrate_ops *ops = chunk->migrate->ops;
	unsigned long addr = chunk->start + index * PAGE_SIZE;
	struct folio *folio;
	bool writable;

	folio = ops->alloc ? ops->alloc(chunk, addr, order) :
			     hmm_migrate_alloc_system(chunk, addr, order);
	if (unlikely(!folio))
		return NULL;
	if (unit->page)
		writable = *unit->src & MIGRATE_PFN_WRITE;
	else
		writable = (chunk->vma->vm_flags & VM_WRITE) && !userfaultfd_wp(chunk->vma);
	chunk->dst[index] = migrate_pfn(folio_pfn(folio)) |
			    (order ? MIGRATE_PFN_COMPOUND : 0) |
			    (writable ? MIGRATE_PFN_WRITE : 0);
	return folio;
}

/**
 * chunk_free_dst() - free the destination of a slot
 * @chunk: the chunk
 * @index: the slot; may be empty
 *
 * A destination that an engine may still write to is leaked instead: see
 * hmm_migrate_lose().
 */
void chunk_free_dst(struct hmm_migrate_chunk *chunk, unsigned long index)
{
	struct page *page = migrate_pfn_to_page(chunk->dst[index]);

	chunk->dst[index] = 0;
	if (!page)
		return;
	if (chunk->lost) {
		chunk->migrate->lost += folio_nr_pages(page_folio(page));
		return;
	}
	folio_unlock(page_folio(page));
	folio_put(page_folio(page));
}

/*
 * Make the parts of a hole that got a folio units of one slot each, count the slots that
 * did not, and clear them, so that they are not populated.
 */
static void chunk_trim_hole(struct hmm_migrate_chunk *chunk, const struct migrate_unit *unit)
{
	unsigned long i, end = unit->index;

	for (i = unit->index; i < unit->next; i++) {
		struct page *dst = migrate_pfn_to_page(chunk->dst[i]);

		if (dst)
			end = i + folio_nr_pages(page_folio(dst));
		chunk->src[i] = i < end ? MIGRATE_PFN_MIGRATE : 0;
		chunk->no_memory_holes += i >= end;
	}
}

/*
 * The driver has no folio of the order of @unit: allocate smaller ones for its parts. The
 * order never increases again within the unit, since the source would then have to be
 * split unevenly. Returns -ENOMEM if a part gets no memory and that ends the range.
 */
static int chunk_alloc_parts(struct hmm_migrate_chunk *chunk, const struct migrate_unit *unit)
{
	unsigned int order = smaller_order(chunk, unit, unit->order);
	unsigned long i = unit->index, npages;
	bool missing = false;

	while (i < unit->next) {
		if (chunk_alloc_folio(chunk, unit, i, order)) {
			i += 1UL << order;
		} else if (order) {
			order = smaller_order(chunk, unit, order);
		} else if (chunk->flags & HMM_MIGRATE_SKIP_NO_MEMORY) {
			missing = true;
			i++;
		} else {
			while (i-- > unit->index)
				chunk_free_dst(chunk, i);
			return -ENOMEM;
		}
	}
	for (i = unit->index; i < unit->next; i += npages) {
		struct page *dst = migrate_pfn_to_page(chunk->dst[i]);

		npages = 1;
		if (!dst)
			continue;
		npages = folio_nr_pages(page_folio(dst));
		chunk_add_segment(chunk, i, unit->page ? unit->page + (i - unit->index) : NULL,
				  dst, npages);
	}
	/* Pages without a destination are counted by the pages stage; holes are not. */
	if (missing && !unit->page)
		chunk_trim_hole(chunk, unit);
	return 0;
}

/* Ask the driver whether @unit is to move. The folio of a CPU fault always is. */
static bool chunk_wants(struct hmm_migrate_chunk *chunk, const struct migrate_unit *unit)
{
	const struct hmm_migrate_ops *ops = chunk->migrate->ops;
	struct folio *folio = migrate_unit_folio(unit);

	if (!ops->wants || migrate_is_fault_folio(folio, chunk->args.fault_page) ||
	    ops->wants(chunk, chunk->start + unit->index * PAGE_SIZE, folio))
		return true;
	chunk->unwanted += migrate_unit_pages(unit);
	*unit->src &= ~MIGRATE_PFN_MIGRATE;
	return false;
}

/* Allocate memory for one unit. Returns -ENOMEM if that fails and ends the range. */
static __always_inline int
chunk_alloc_unit(struct hmm_migrate_chunk *chunk, struct migrate_unit *unit)
{
	unsigned int hole_order = chunk->migrate->hole_order;
	struct folio *folio;

	if (unit->page) {
		if (!chunk_wants(chunk, unit))
			return 0;
	} else if (hole_order && !unit->order &&
		   migrate_hole_is_large(&chunk->args, unit->index, hole_order)) {
		/* Join this hole and the next ones to a unit of the caller's order. */
		unit->order = hole_order;
		unit->next = unit->index + migrate_unit_pages(unit);
	}
	folio = chunk_alloc_folio(chunk, unit, unit->index, unit->order);
	if (likely(folio)) {
		chunk_add_segment(chunk, unit->index, unit->page, &folio->page,
				  migrate_unit_pages(unit));
		return 0;
	}
	if (unit->order) {
		/* A folio that must not be split stays, and the range goes on. */
		if (unit->page && (chunk->flags & RANGE_NO_SPLIT ||
				   !folio_test_anon(migrate_unit_folio(unit))))
			return 0;
		return chunk_alloc_parts(chunk, unit);
	}
	if (!(chunk->flags & HMM_MIGRATE_SKIP_NO_MEMORY))
		return -ENOMEM;
	if (!unit->page)
		chunk_trim_hole(chunk, unit);
	return 0;
}

/**
 * chunk_alloc() - allocate memory for all units of a chunk, and list its segments
 * @chunk: the chunk, collected and unmapped
 * @index: on failure, returns the slot of the unit that got no memory
 *
 * Context: sleeps; the folios of the chunk are locked.
 * Return: 0; or -ENOMEM if a unit got no memory, and the range is to end before it.
 */
int chunk_alloc(struct hmm_migrate_chunk *chunk, unsigned long *index)
{
	struct migrate_unit unit = {};
	int ret;

	while (migrate_unit_next(&unit, chunk->src, NULL, chunk->npages)) {
		if (!(*unit.src & MIGRATE_PFN_MIGRATE))
			continue;
		ret = chunk_alloc_unit(chunk, &unit);
		if (unlikely(ret)) {
			*index = unit.index;
			return ret;
		}
		if (unit.index % SWAP_CLUSTER_MAX == 0)
			cond_resched();
	}
	return 0;
}
