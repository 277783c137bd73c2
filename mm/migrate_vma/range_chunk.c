// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, one chunk: unmapped, given memory, copied, settled.
 *
 *   set up    collect, unmap, allocate; start the copy
 *   settle    wait for the copy; pages, commit, finalize
 *
 * A chunk is known to be copied before its pages stage begins: from there on, there is
 * no way back. Nothing is waited for between, but the copy, which needs no folio lock.
 *
 * Each page is counted once, where it is known why it stays. What is not to go on, be it
 * unwanted or not copied, loses its MIGRATE_PFN_MIGRATE here, so that the pages stage
 * does not count it again; a hole that is not to be filled loses its slot.
 */
#include <linux/export.h>
#include <linux/highmem.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>
#include <linux/vmstat.h>
#include "range.h"

/* In dst[], until the copy is over: the unit of this slot could not be copied. */
#define CHUNK_DST_FAILED	BIT(5)

/* Counting */

/* What has no destination has a name of its own: @no_memory. */
static void count_left(struct hmm_migrate *migrate, const struct migrate_tally *tally)
{
	enum migrate_left reason;

	for (reason = 0; reason < NR_MIGRATE_LEFT; reason++)
		if (reason != MIGRATE_LEFT_NO_DESTINATION)
			migrate->left[reason] += tally->left[reason];
}

static void count_time(struct hmm_migrate *migrate, enum hmm_migrate_step step,
		       u64 *then)
{
	u64 now = ktime_get_ns();

	migrate->time[step] += now - *then;
	*then = now;
}

/* What the pages stage has done, and what did not get there. */
static void count_pages(struct hmm_migrate_chunk *chunk, const struct migrate_tally *tally)
{
	struct hmm_migrate *migrate = chunk->migrate;
	unsigned long pages = 0;
	unsigned int order;

	for (order = 0; order < NR_PAGE_ORDERS; order++)
		pages += tally->pages[order];
	migrate->moved += pages - tally->holes;
	migrate->filled += tally->holes;
	migrate->unwanted += chunk->unwanted;
	migrate->copy_failed += chunk->failed;
	migrate->no_memory += chunk->no_memory_holes +
			      tally->left[MIGRATE_LEFT_NO_DESTINATION];
	count_left(migrate, tally);
}

/* Segments */

/*
 * Is @page the one behind @npages pages from @first on, and of the same kind? Where
 * ordinary memory and the memory of devices meet, a subsection begins.
 */
static __always_inline bool page_goes_on(struct page *first, unsigned long npages,
					 struct page *page)
{
	if (first + npages != page)
		return false;
	return likely(!IS_ALIGNED(page_to_pfn(page), PAGES_PER_SUBSECTION)) ||
	       zone_device_pages_have_same_pgmap(first, page);
}

/* Do @src and @dst, or nothing and @dst, follow the pages of @segment? */
static __always_inline bool
segment_goes_on(const struct hmm_migrate_segment *segment, unsigned long index,
		struct page *src, struct page *dst)
{
	if (segment->index + segment->npages != index ||
	    !page_goes_on(segment->dst, segment->npages, dst) ||
	    !src != !segment->src)
		return false;
	return !src || page_goes_on(segment->src, segment->npages, src);
}

static __always_inline void
chunk_add_segment(struct hmm_migrate_chunk *chunk, unsigned long index,
		  struct page *src, struct page *dst, unsigned long npages)
{
	struct hmm_migrate_segment *next = chunk->segments + chunk->nr_segments;

	if (chunk->nr_segments && segment_goes_on(next - 1, index, src, dst)) {
		next[-1].npages += npages;
		return;
	}
	next->src = src;
	next->dst = dst;
	next->npages = npages;
	next->index = index;
	chunk->nr_segments++;
}

/* Memory */

/* The orders that a hole of this chunk may be filled with. */
static unsigned long chunk_hole_orders(const struct hmm_migrate_chunk *chunk)
{
	return chunk->vma ? migrate_hole_orders(chunk->vma) : 0;
}

/* The order to try next for parts of @unit; a hole takes those that a fault would use. */
static unsigned int smaller_order(const struct hmm_migrate_chunk *chunk,
				  const struct migrate_unit *unit, unsigned int order)
{
	unsigned long orders = GENMASK(order - 1, 0);

	/* Anonymous folios cannot be order-1. */
	if (!(chunk->args.flags & MIGRATE_VMA_SELECT_LARGE) || order <= 2)
		return 0;
	if (!unit->page)
		orders &= chunk_hole_orders(chunk) | BIT(0);
	return fls_long(orders) - 1;
}

/* A folio of @order for what begins at slot @index, if there is memory. */
static __always_inline struct folio *
chunk_alloc(struct hmm_migrate_chunk *chunk, unsigned long index,
	    unsigned int order, bool writable)
{
	const struct hmm_migrate_ops *ops = chunk->migrate->ops;
	unsigned long addr = chunk->start + index * PAGE_SIZE;
	struct folio *folio;

	folio = ops->alloc ? ops->alloc(chunk, addr, order) :
			     hmm_migrate_alloc_system(chunk, addr, order);
	if (folio)
		chunk->dst[index] = migrate_pfn(folio_pfn(folio)) |
				    (order ? MIGRATE_PFN_COMPOUND : 0) |
				    (writable ? MIGRATE_PFN_WRITE : 0);
	return folio;
}

/* Give back what there is for slot @index; or nobody gets it any more. */
static void chunk_drop(struct hmm_migrate_chunk *chunk, unsigned long index)
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

/* A hole gets the access that a fault would give it, the rest keeps what it has. */
static __always_inline bool
chunk_is_writable(struct hmm_migrate_chunk *chunk, const struct migrate_unit *unit)
{
	if (unit->page)
		return *unit->src & MIGRATE_PFN_WRITE;
	return (chunk->vma->vm_flags & VM_WRITE) && !userfaultfd_wp(chunk->vma);
}

/* Add what there is memory for, folio by folio. */
static void chunk_add_parts(struct hmm_migrate_chunk *chunk,
			    const struct migrate_unit *unit)
{
	unsigned long end = migrate_unit_pages(unit), i = 0, npages;

	for (i = 0; i < end; i += npages) {
		struct page *dst = migrate_pfn_to_page(chunk->dst[unit->index + i]);

		npages = 1;
		if (!dst)
			continue;
		npages = folio_nr_pages(page_folio(dst));
		chunk_add_segment(chunk, unit->index + i,
				  unit->page ? unit->page + i : NULL, dst, npages);
	}
}

/*
 * As there is no memory for a unit whole: the same for its parts. They do not get
 * larger on the way, for which it would have to be split unevenly. Returns for how
 * many pages there is none, if the caller goes on without, or -ENOMEM.
 */
static long chunk_alloc_parts(struct hmm_migrate_chunk *chunk,
			      const struct migrate_unit *unit)
{
	bool writable = chunk_is_writable(chunk, unit);
	unsigned long end = migrate_unit_pages(unit), i = 0;
	unsigned int order;
	long missing = 0;

	/* A page cannot be split. */
	if (!unit->order)
		return chunk->flags & HMM_MIGRATE_SKIP_NO_MEMORY ? 1 : -ENOMEM;
	/* A file's folio is not; that there is no memory as large does not end the range. */
	if (unit->page && (chunk->flags & RANGE_NO_SPLIT ||
			   !folio_test_anon(migrate_unit_folio(unit))))
		return migrate_unit_pages(unit);
	order = smaller_order(chunk, unit, unit->order);
	while (i < end) {
		if (chunk_alloc(chunk, unit->index + i, order, writable)) {
			i += 1UL << order;
		} else if (order) {
			order = smaller_order(chunk, unit, order);
		} else if (chunk->flags & HMM_MIGRATE_SKIP_NO_MEMORY) {
			missing++;
			i++;
		} else {
			while (i--)
				chunk_drop(chunk, unit->index + i);
			return -ENOMEM;
		}
	}
	chunk_add_parts(chunk, unit);
	return missing;
}

/* Find memory for a unit: a folio of its order, or smaller ones. */
static __always_inline long
chunk_alloc_unit(struct hmm_migrate_chunk *chunk, const struct migrate_unit *unit)
{
	struct folio *folio = chunk_alloc(chunk, unit->index, unit->order,
					  chunk_is_writable(chunk, unit));

	if (unlikely(!folio))
		return chunk_alloc_parts(chunk, unit);
	chunk_add_segment(chunk, unit->index, unit->page, &folio->page,
			  migrate_unit_pages(unit));
	return 0;
}

/* Make one unit of a hole and those that follow it, if the caller wants that. */
static void chunk_enlarge_hole(struct hmm_migrate_chunk *chunk,
			       struct migrate_unit *unit)
{
	unsigned int order = chunk->migrate->hole_order;

	if (!order || unit->order ||
	    !migrate_hole_is_large(&chunk->args, unit->index, order))
		return;
	unit->order = order;
	unit->next = unit->index + migrate_unit_pages(unit);
}

/* Is this unit to move at all? The fault's own is not asked for. */
static bool chunk_wants(struct hmm_migrate_chunk *chunk,
			const struct migrate_unit *unit)
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

/* Of a hole, only what there is memory for is a unit still, or several. */
static void chunk_keep_parts(struct hmm_migrate_chunk *chunk,
			     const struct migrate_unit *unit)
{
	unsigned long i, end = unit->index;

	for (i = unit->index; i < unit->next; i++) {
		struct page *dst = migrate_pfn_to_page(chunk->dst[i]);

		if (dst)
			end = i + folio_nr_pages(page_folio(dst));
		chunk->src[i] = i < end ? MIGRATE_PFN_MIGRATE : 0;
	}
}

/* Returns -ENOMEM if there is no memory for @unit, and that ends the range. */
static int chunk_provide(struct hmm_migrate_chunk *chunk, struct migrate_unit *unit)
{
	long missing;

	if (!unit->page)
		chunk_enlarge_hole(chunk, unit);
	else if (!chunk_wants(chunk, unit))
		return 0;
	missing = chunk_alloc_unit(chunk, unit);
	if (unlikely(missing < 0))
		return missing;
	/* Of pages, those that have none are the pages stage's to count. */
	if (missing && !unit->page) {
		chunk->no_memory_holes += missing;
		chunk_keep_parts(chunk, unit);
	}
	return 0;
}

/*
 * Find memory for all units of the chunk. Returns in @index the slot of the one that
 * there is none for.
 */
static int chunk_provide_all(struct hmm_migrate_chunk *chunk, unsigned long *index)
{
	struct migrate_unit unit = {};
	int ret;

	while (migrate_unit_next(&unit, chunk->src, NULL, chunk->npages)) {
		if (!(*unit.src & MIGRATE_PFN_MIGRATE))
			continue;
		ret = chunk_provide(chunk, &unit);
		if (unlikely(ret)) {
			*index = unit.index;
			return ret;
		}
		if (unit.index % SWAP_CLUSTER_MAX == 0)
			cond_resched();
	}
	return 0;
}

/* The copy */

/*
 * The slots of @unit that have a destination with @flag, or any. What fills a hole can
 * be larger than the slot of the hole says.
 */
static bool chunk_has_dst(const struct hmm_migrate_chunk *chunk,
			  struct migrate_unit *unit, unsigned long flag)
{
	unsigned long i;

	if (!unit->page && unit->newpage)
		unit->next = unit->index + folio_nr_pages(page_folio(unit->newpage));
	for (i = unit->index; i < unit->next; i++)
		if ((chunk->dst[i] & flag) == flag && chunk->dst[i])
			return true;
	return false;
}

/* @unit stays where it is, and what there was for it is given back. */
static void chunk_discard_unit(struct hmm_migrate_chunk *chunk,
			       const struct migrate_unit *unit)
{
	unsigned long i;

	chunk->failed += unit->next - unit->index;
	if (unit->page && migrate_is_fault_folio(migrate_unit_folio(unit),
						 chunk->args.fault_page))
		chunk->fault_failed = true;
	for (i = unit->index; i < unit->next; i++) {
		chunk_drop(chunk, i);
		if (!unit->page)
			chunk->src[i] = 0;
	}
	if (unit->page)
		*unit->src &= ~MIGRATE_PFN_MIGRATE;
}

/*
 * What could not be copied stays where it is: all of the chunk, or with @flag what
 * hmm_migrate_fail() was called for.
 */
static void chunk_discard(struct hmm_migrate_chunk *chunk, unsigned long flag)
{
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, chunk->src, chunk->dst, chunk->npages))
		if (chunk_has_dst(chunk, &unit, flag))
			chunk_discard_unit(chunk, &unit);
}

/**
 * hmm_migrate_fail() - a folio of a chunk cannot be copied
 * @chunk: the chunk, in &hmm_migrate_ops.copy or &hmm_migrate_ops.wait
 * @index: a slot of the folio
 *
 * It stays where it is, whole, and is in &hmm_migrate.copy_failed; the rest of the chunk
 * goes on. A copy that has been started must be at its end all the same when
 * &hmm_migrate_ops.wait returns.
 *
 * Return: the first slot behind the folio; those before it need not be copied.
 */
unsigned long hmm_migrate_fail(struct hmm_migrate_chunk *chunk, unsigned long index)
{
	struct migrate_unit unit = {};
	unsigned long i = index;

	chunk->partly_failed = true;
	while (i && !chunk->src[i])
		i--;
	if (!migrate_unit_at(&unit, chunk->src, chunk->dst, i, chunk->npages))
		return index + 1;
	/* Of a hole, each page has a slot, and the folio that fills it begins before. */
	while (!unit.page && i && !chunk->dst[i])
		i--;
	if (!unit.page && chunk->dst[i])
		unit.next = i + folio_nr_pages(page_folio(migrate_pfn_to_page(chunk->dst[i])));
	for (; i < unit.next; i++)
		if (chunk->dst[i])
			chunk->dst[i] |= CHUNK_DST_FAILED;
	return max(unit.next, index + 1);
}
EXPORT_SYMBOL_GPL(hmm_migrate_fail);

/**
 * hmm_migrate_lose() - an engine may still write to a chunk
 * @chunk: the chunk, in &hmm_migrate_ops.copy or &hmm_migrate_ops.wait, which is to return
 *	an error
 *
 * The engine has not ended what it was asked to do, and cannot be stopped. The chunk's
 * destinations are never given back; &hmm_migrate.lost counts them. What the engine reads
 * is the process's still, and may be freed: so this is for engines that at least have
 * been asked to stop.
 */
void hmm_migrate_lose(struct hmm_migrate_chunk *chunk)
{
	chunk->lost = true;
}
EXPORT_SYMBOL_GPL(hmm_migrate_lose);

/* A chunk's way */

/* An allocator of ordinary memory is known, or said to be one; others are a device's. */
static bool range_is_to_device(const struct range_call *range)
{
	const struct hmm_migrate_ops *ops = range->migrate->ops;

	return ops->alloc && ops->alloc != hmm_migrate_alloc_system &&
	       !(range->flags & HMM_MIGRATE_TO_SYSTEM);
}

static unsigned int chunk_collect_flags(const struct range_call *range)
{
	unsigned int flags = MIGRATE_COLLECT_LEAVE_LOCKED;

	if (range_is_to_device(range))
		flags |= MIGRATE_COLLECT_TO_DEVICE;
	if (!(range->flags & HMM_MIGRATE_FILL_HOLES))
		flags |= MIGRATE_COLLECT_NO_HOLES;
	if (range->flags & RANGE_NO_SPLIT)
		flags |= MIGRATE_COLLECT_NO_SPLIT;
	return flags;
}

/* Remember what collect has left for later, which has MIGRATE_SRC_AGAIN in its slots. */
static void chunk_take_again(struct range_call *range, struct hmm_migrate_chunk *chunk)
{
	unsigned long addr = chunk->start, i;

	for (i = 0; i < chunk->npages; i++, addr += PAGE_SIZE) {
		if (chunk->src[i] != MIGRATE_SRC_AGAIN)
			continue;
		chunk->src[i] = 0;
		range_remember(range, addr, addr + PAGE_SIZE);
	}
}

static unsigned long range_pfn(const struct range_call *range, unsigned long position)
{
	unsigned long i = position >> PAGE_SHIFT;

	return range->pfns ? range->pfns[i] : range->first_pfn + i;
}

/* By device pfns: the slots have these, to begin with. */
static void chunk_list_pfns(const struct range_call *range, struct hmm_migrate_chunk *chunk)
{
	unsigned long i;

	for (i = 0; i < chunk->npages; i++) {
		chunk->src[i] = range_pfn(range, chunk->start + i * PAGE_SIZE) <<
				MIGRATE_PFN_SHIFT;
		chunk->dst[i] = 0;
	}
}

static void chunk_collect(struct range_call *range, struct hmm_migrate_chunk *chunk,
			  struct migrate_tally *collect)
{
	struct migrate_vma *args = &chunk->args;
	unsigned long locked;

	if (range->by_pfn) {
		chunk_list_pfns(range, chunk);
		locked = migrate_stage_lock_pfns(args->src, args->npages,
						 MIGRATE_COLLECT_LEAVE_LOCKED, collect);
	} else {
		locked = migrate_stage_collect(args, chunk_collect_flags(range),
					       range->nodes, collect);
	}
	if (locked)
		chunk_take_again(range, chunk);
	if (range->again)
		collect->again = collect->units;
}

static void chunk_unmap(struct range_call *range, struct hmm_migrate_chunk *chunk,
			struct migrate_tally *collect, struct migrate_tally *unmap)
{
	struct hmm_migrate *migrate = range->migrate;
	struct migrate_vma *args = &chunk->args;

	WRITE_ONCE(migrate->unmapping, true);
	chunk_collect(range, chunk, collect);
	if (collect->units)
		migrate_stage_unmap(args->src, args->npages, args->fault_page,
				    &range->stages, unmap);
	WRITE_ONCE(migrate->unmapping, false);
}

static struct migrate_tally chunk_tally(const struct range_call *range,
					const struct hmm_migrate_chunk *chunk,
					enum migrate_stage stage)
{
	struct migrate_tally tally = migrate_tally_init(stage, &chunk->args);

	if (range->by_pfn) {
		tally.by_pfn = true;
		tally.start = range_pfn(range, chunk->start);
		tally.end = tally.start + chunk->npages;
	}
	return tally;
}

static void chunk_init(struct range_call *range, struct hmm_migrate_chunk *chunk,
		       struct vm_area_struct *vma, unsigned long start,
		       unsigned long end)
{
	chunk->vma = vma;
	chunk->start = start;
	chunk->npages = range_pages(start, end);
	chunk->nr_segments = 0;
	chunk->error = 0;
	chunk->lost = false;
	chunk->partly_failed = false;
	chunk->fault_failed = false;
	chunk->mapped = false;
	chunk->flags = range_flags(range);
	chunk->unwanted = 0;
	chunk->no_memory_holes = 0;
	chunk->failed = 0;
	chunk->args = (struct migrate_vma){
		.vma = vma,
		.start = start,
		.end = end,
		.src = chunk->src,
		.dst = chunk->dst,
		.npages = chunk->npages,
		.pgmap_owner = range->migrate->pgmap_owner,
		.flags = range->select |
			 (range_was_bounced(range, start) ? MIGRATE_VMA_SELECT_SYSTEM : 0),
		.fault_page = range->fault_page,
		.peers = range->migrate->peers,
		.nr_peers = range->migrate->nr_peers,
	};
}

/* The arguments of the stages that are different by pfns: there is no vma. */
static struct migrate_vma *chunk_args(const struct range_call *range,
				      struct hmm_migrate_chunk *chunk)
{
	return range->by_pfn ? NULL : &chunk->args;
}

static void chunk_finalize(struct range_call *range, struct hmm_migrate_chunk *chunk,
			   struct migrate_tally *tally)
{
	*tally = chunk_tally(range, chunk, MIGRATE_STAGE_FINALIZE);
	migrate_stage_finalize(chunk->src, chunk->dst, chunk->npages,
			       chunk_args(range, chunk), &range->stages, tally);
}

/*
 * Put everything back as it was: nothing of it is counted, or remembered. Before it,
 * @nr places were, and the last of them ended at @end.
 */
static void chunk_undo(struct range_call *range, struct hmm_migrate_chunk *chunk,
		       unsigned int nr, unsigned long end)
{
	struct range_places *places = &range->locked;
	struct migrate_tally tally;

	chunk_discard(chunk, 0);
	chunk_finalize(range, chunk, &tally);
	places->nr = nr;
	if (nr)
		places->at[nr - 1].end = end;
}

/*
 * Count what this call has isolated, or count it no more. Compaction waits until less is
 * isolated, and an allocation of this call would wait for itself.
 */
static void range_count_isolated(const struct range_call *range, bool count)
{
	const long *isolated = range->stages.isolated;
	unsigned int file;
	int nid;

	if (!isolated)
		return;
	for_each_online_node(nid) {
		for (file = 0; file < 2; file++) {
			long nr = isolated[migrate_isolated_slot(nid, file)];

			if (nr)
				mod_node_page_state(NODE_DATA(nid), NR_ISOLATED_ANON + file,
						    count ? nr : -nr);
		}
	}
}

/* Peers */

static bool chunk_is_peers(const struct hmm_migrate_chunk *chunk,
			   const struct hmm_migrate_segment *segment)
{
	return segment->src && is_device_private_page(segment->src) &&
	       page_pgmap(segment->src)->owner != chunk->migrate->pgmap_owner;
}

/* The first slots with private memory of peers: [first, end). Is there any? */
static bool chunk_find_peers(const struct hmm_migrate_chunk *chunk, unsigned long *first,
			     unsigned long *end)
{
	const struct hmm_migrate_segment *segment = chunk->segments;
	const struct hmm_migrate_segment *last = segment + chunk->nr_segments;

	while (segment < last && !chunk_is_peers(chunk, segment))
		segment++;
	if (segment == last)
		return false;
	*first = segment->index;
	do {
		*end = segment->index + segment->npages;
		segment++;
	} while (segment < last && segment->index == *end && chunk_is_peers(chunk, segment));
	return true;
}

/*
 * What there is no way for is brought to ordinary memory by CPU faults, for which nothing
 * may be in flight: the chunk ends before it, in slot @index, or is not begun. What that
 * did not help for ends the chunk, too, so that nothing else fails with it.
 */
static int chunk_bounce(struct range_call *range, struct hmm_migrate_chunk *chunk,
			unsigned long *index)
{
	unsigned long first, end;

	if (range->keeps_lock || range->by_pfn || !chunk_find_peers(chunk, &first, &end))
		return 0;
	*index = first;
	if (first)
		return -EXDEV;
	if (!range_was_bounced(range, chunk->start)) {
		range->bounce.start = chunk->start;
		range->bounce.end = chunk->start + end * PAGE_SIZE;
		return -EXDEV;
	}
	*index = end;
	return end < chunk->npages ? -EXDEV : 0;
}

static int chunk_map(struct range_call *range, struct hmm_migrate_chunk *chunk,
		     unsigned long *index)
{
	const struct hmm_migrate_ops *ops = chunk->migrate->ops;

	if (!ops->map || !chunk->nr_segments)
		return 0;
	chunk->error = ops->map(chunk);
	chunk->mapped = !chunk->error && ops->unmap;
	return chunk->error == -EXDEV ? chunk_bounce(range, chunk, index) : 0;
}

/* Unmap [start, *end) and find memory for it. If that fails, *end is where. */
static int chunk_try(struct range_call *range, struct hmm_migrate_chunk *chunk,
		     struct vm_area_struct *vma, unsigned long start,
		     unsigned long *end)
{
	struct hmm_migrate *migrate = range->migrate;
	struct range_places *places = &range->locked;
	unsigned long last = places->nr ? places->at[places->nr - 1].end : 0, index;
	struct migrate_tally collect, unmap;
	unsigned int nr = places->nr;
	u64 then = ktime_get_ns();
	int ret;

	chunk_init(range, chunk, vma, start, *end);
	collect = chunk_tally(range, chunk, MIGRATE_STAGE_COLLECT);
	unmap = chunk_tally(range, chunk, MIGRATE_STAGE_UNMAP);
	chunk_unmap(range, chunk, &collect, &unmap);
	count_time(migrate, HMM_MIGRATE_STEP_UNMAP, &then);
	range_count_isolated(range, false);
	ret = chunk_provide_all(chunk, &index);
	range_count_isolated(range, true);
	count_time(migrate, HMM_MIGRATE_STEP_ALLOC, &then);
	ret = ret ?: chunk_map(range, chunk, &index);
	count_time(migrate, HMM_MIGRATE_STEP_COPY, &then);
	if (ret) {
		chunk_undo(range, chunk, nr, last);
		*end = start + index * PAGE_SIZE;
		return ret;
	}
	migrate_tally_report(&collect);
	migrate_tally_report(&unmap);
	migrate->holes += collect.empty;
	count_left(migrate, &collect);
	count_left(migrate, &unmap);
	return 0;
}

/* Let the copy begin, if there is anything to copy. */
static void chunk_start_copy(struct hmm_migrate_chunk *chunk)
{
	if (chunk->nr_segments && !chunk->error)
		chunk->error = chunk->migrate->ops->copy(chunk);
}

/**
 * chunk_set_up() - unmap a chunk, find memory for it, and start to copy it
 * @range: the call
 * @chunk: the chunk
 * @vma: where it is
 * @start: its first address
 * @end: the address behind it; changed to where it ends if there is no memory for all of
 *	it
 *
 * Where there is no memory, the chunk ends before: it is undone and done again, so that
 * nothing behind its end is counted or remembered. Then it is the call's last one.
 *
 * Context: mmap_lock is held, but by pfns. Sleeps. Until chunk_settle(), folios are
 * locked.
 * Return: 0, or the error that ends the call.
 */
int chunk_set_up(struct range_call *range, struct hmm_migrate_chunk *chunk,
		 struct vm_area_struct *vma, unsigned long start, unsigned long *end)
{
	int ret = 0, error;
	u64 then;

	while ((error = chunk_try(range, chunk, vma, start, end))) {
		/* That a chunk ends before what has to go another way is no error. */
		if (error != -EXDEV || *end == start)
			ret = error;
		if (*end > start)
			continue;
		/* Nothing is left of it. */
		chunk_init(range, chunk, vma, start, start);
		return ret;
	}
	then = ktime_get_ns();
	chunk_start_copy(chunk);
	count_time(range->migrate, HMM_MIGRATE_STEP_COPY, &then);
	return ret;
}

/* What is under writeback is looked at again, as what is locked. */
static void chunk_remember_deferred(struct range_call *range,
				    struct hmm_migrate_chunk *chunk)
{
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, chunk->src, chunk->dst, chunk->npages)) {
		unsigned long addr = chunk->start + unit.index * PAGE_SIZE;

		if (!(chunk->dst[unit.index] & MIGRATE_DST_AGAIN))
			continue;
		range_remember(range, addr, addr + migrate_unit_pages(&unit) * PAGE_SIZE);
		/* Drivers do not know it. */
		chunk->dst[unit.index] &= ~MIGRATE_DST_AGAIN;
	}
}

/*
 * Between nodes: if pages of the chunk are left, note each part of it that has not moved.
 * Locked pages are noted here as well, before they are counted, so that the second look at
 * them does not have to.
 */
static void chunk_note_left(struct range_call *range, const struct hmm_migrate_chunk *chunk)
{
	unsigned long nr_left = range_nr_left(range), done = 0;
	struct migrate_unit unit = {};

	if (range->again || (nr_left == range->nr_left && !range->locked.nr))
		return;
	range->nr_left = nr_left;
	while (migrate_unit_next(&unit, chunk->src, chunk->dst, chunk->npages)) {
		if (!unit.newpage || !(*unit.src & MIGRATE_PFN_MIGRATE))
			continue;
		if (unit.index > done)
			range_note_left(range, chunk->start + done * PAGE_SIZE,
					chunk->start + unit.index * PAGE_SIZE);
		done = unit.next;
	}
	if (done < chunk->npages)
		range_note_left(range, chunk->start + done * PAGE_SIZE,
				chunk->start + chunk->npages * PAGE_SIZE);
}

/* When this returns, nothing more is written of the chunk, or its memory is lost. */
static void chunk_end_copy(struct range_call *range, struct hmm_migrate_chunk *chunk)
{
	const struct hmm_migrate *migrate = range->migrate;

	if (!chunk->error && chunk->nr_segments && migrate->ops->wait)
		chunk->error = migrate->ops->wait(chunk);
	if (chunk->mapped)
		migrate->ops->unmap(chunk);
	if (chunk->error)
		chunk_discard(chunk, 0);
	else if (chunk->partly_failed)
		chunk_discard(chunk, CHUNK_DST_FAILED);
	if (chunk->fault_failed)
		range->fault_error = chunk->error ?: -EIO;
	if (!range->error && chunk->failed &&
	    chunk->flags & HMM_MIGRATE_STOP_ON_COPY_ERROR)
		range->error = chunk->error ?: -EIO;
}

/**
 * chunk_settle() - wait for the copy of a chunk, and let the process have it
 * @range: the call
 * @chunk: after chunk_set_up()
 *
 * Context: as chunk_set_up(). Then nothing of it is locked any more.
 */
void chunk_settle(struct range_call *range, struct hmm_migrate_chunk *chunk)
{
	struct hmm_migrate *migrate = range->migrate;
	u64 then = ktime_get_ns();
	struct migrate_tally tally;

	chunk_end_copy(range, chunk);
	count_time(migrate, HMM_MIGRATE_STEP_WAIT, &then);

	tally = chunk_tally(range, chunk, MIGRATE_STAGE_PAGES);
	tally.defer_writeback = true;
	migrate_stage_pages(chunk->src, chunk->dst, chunk->npages,
			    chunk_args(range, chunk), &tally);
	migrate_tally_report(&tally);
	if (tally.nr_deferred)
		chunk_remember_deferred(range, chunk);
	count_pages(chunk, &tally);
	range->moved_huge += tally.pages[MIGRATE_HUGE_ORDER] >> MIGRATE_HUGE_ORDER;
	if (range->nodes)
		chunk_note_left(range, chunk);
	count_time(migrate, HMM_MIGRATE_STEP_PAGES, &then);

	if (migrate->ops->commit && tally.units)
		migrate->ops->commit(chunk);
	count_time(migrate, HMM_MIGRATE_STEP_COMMIT, &then);

	chunk_finalize(range, chunk, &tally);
	migrate_tally_report(&tally);
	count_time(migrate, HMM_MIGRATE_STEP_FINALIZE, &then);
}

/**
 * chunk_create() - make room for a chunk
 * @range: the call
 * @chunk: the chunk, all zero, or one that has become too small
 * @npages: for so many pages
 *
 * Return: 0 or -ENOMEM, and then it has no room at all.
 */
int chunk_create(struct range_call *range, struct hmm_migrate_chunk *chunk,
		 unsigned long npages)
{
	kvfree(chunk->src);
	kvfree(chunk->dst);
	kvfree(chunk->segments);
	chunk->migrate = range->migrate;
	chunk->src = kvmalloc_array(npages, sizeof(*chunk->src), RANGE_GFP);
	chunk->dst = kvmalloc_array(npages, sizeof(*chunk->dst), RANGE_GFP);
	chunk->segments = kvmalloc_array(npages, sizeof(*chunk->segments), RANGE_GFP);
	chunk->room = chunk->src && chunk->dst && chunk->segments ? npages : 0;
	return chunk->room ? 0 : -ENOMEM;
}

void chunk_destroy(struct hmm_migrate_chunk *chunk)
{
	if (chunk->migrate && chunk->migrate->ops->release)
		chunk->migrate->ops->release(chunk);
	kvfree(chunk->src);
	kvfree(chunk->dst);
	kvfree(chunk->segments);
}

/* For the ops */

/**
 * hmm_migrate_next() - the next folio of a chunk that has a new place
 * @chunk: in &hmm_migrate_ops.commit
 * @index: the slot from which to look; 0 at first. Then it is the slot where the
 *	folio begins, and the caller adds the number of its pages.
 *
 * Return: the new folio, or NULL if there is no other.
 */
struct folio *hmm_migrate_next(const struct hmm_migrate_chunk *chunk,
			       unsigned long *index)
{
	struct migrate_unit unit = {};

	while (migrate_unit_at(&unit, chunk->src, chunk->dst, *index,
			       chunk->npages)) {
		*index = unit.index;
		if (unit.newpage && *unit.src & MIGRATE_PFN_MIGRATE)
			return migrate_unit_newfolio(&unit);
		*index = unit.next;
	}
	return NULL;
}
EXPORT_SYMBOL_GPL(hmm_migrate_next);

/* A page that cannot be read is the end of its folio alone. */
static void copy_segment(struct hmm_migrate_chunk *chunk,
			 const struct hmm_migrate_segment *segment)
{
	unsigned long i;

	for (i = 0; i < segment->npages; i++) {
		if (!segment->src)
			clear_highpage(segment->dst + i);
		else if (copy_mc_highpage(segment->dst + i, segment->src + i))
			hmm_migrate_fail(chunk, segment->index + i);
		cond_resched();
	}
}

/**
 * hmm_migrate_copy() - a copy op: by the CPU
 * @chunk: what to copy; all of it must be memory that the CPU can address
 *
 * A folio that has an uncorrectable error stays where it is: see hmm_migrate_fail().
 *
 * Context: sleeps.
 * Return: 0.
 */
int hmm_migrate_copy(struct hmm_migrate_chunk *chunk)
{
	unsigned long i;

	for (i = 0; i < chunk->nr_segments; i++)
		copy_segment(chunk, &chunk->segments[i]);
	return 0;
}
EXPORT_SYMBOL_GPL(hmm_migrate_copy);
