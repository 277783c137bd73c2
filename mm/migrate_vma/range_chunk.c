// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, one chunk:
 *
 *   set up    collect, unmap, allocate (range_alloc.c), map for the device, start the copy
 *   settle    wait for the copy; pages, commit, finalize
 *
 * The pages stage cannot be undone, so it begins only when the chunk is known to be copied.
 * Between set up and settle, nothing waits but for the copy, which needs no folio lock.
 *
 * Each page is counted once, by the code that knows why it stays. A unit that is unwanted
 * or could not be copied loses MIGRATE_PFN_MIGRATE here, so that the pages stage does not
 * count it again; a hole that is not to be populated loses its src[] entry.
 */
#include <linux/export.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmstat.h>
#include "range.h"

/* In dst[], until the copy is over: the unit of this slot could not be copied. */
#define CHUNK_DST_FAILED	BIT(5)

/* Pages without a destination are in &hmm_migrate.no_memory instead. */
static void count_left(struct hmm_migrate *migrate, const struct migrate_stats *stats)
{
	enum migrate_left reason;

	for (reason = 0; reason < NR_MIGRATE_LEFT; reason++)
		if (reason != MIGRATE_LEFT_NO_DESTINATION)
			migrate->left[reason] += stats->left[reason];
}

static void count_time(struct hmm_migrate *migrate, enum hmm_migrate_step step,
		       u64 *then)
{
	u64 now = ktime_get_ns();

	migrate->time[step] += now - *then;
	*then = now;
}

/*
 * Count the units that could not be copied: those with @flag in dst[], or all if that is 0.
 * They stay where they are, and their destinations are freed.
 */
static void chunk_discard(struct hmm_migrate_chunk *chunk, unsigned long flag)
{
	struct page *fault_page = chunk->args.fault_page;
	struct migrate_unit unit = {};
	unsigned long i;

	while (migrate_unit_next(&unit, chunk->src, chunk->dst, chunk->npages)) {
		bool found = false;

		/* A hole that got a large folio has several slots. */
		if (!unit.page && unit.newpage)
			unit.next = unit.index + folio_nr_pages(page_folio(unit.newpage));
		for (i = unit.index; i < unit.next && !found; i++)
			found = chunk->dst[i] && (chunk->dst[i] & flag) == flag;
		if (!found)
			continue;
		chunk->failed += unit.next - unit.index;
		for (i = unit.index; i < unit.next; i++) {
			chunk_free_dst(chunk, i);
			if (!unit.page)
				chunk->src[i] = 0;
		}
		if (!unit.page)
			continue;
		if (migrate_is_fault_folio(migrate_unit_folio(&unit), fault_page))
			chunk->fault_failed = true;
		*unit.src &= ~MIGRATE_PFN_MIGRATE;
	}
}

/**
 * hmm_migrate_fail() - a folio of a chunk cannot be copied
 * @chunk: the chunk, in &hmm_migrate_ops.copy or &hmm_migrate_ops.wait
 * @index: a slot of the folio
 *
 * The whole folio stays where it is, and counts in &hmm_migrate.copy_failed; the rest of
 * the chunk goes on. If its copy has been started, it must still have ended when
 * &hmm_migrate_ops.wait returns.
 *
 * Return: the first slot behind the folio; the slots before it need not be copied.
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
	/* Each page of a hole may have an entry in src[]: find its new folio. */
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
 * @chunk: the chunk, in &hmm_migrate_ops.copy or &hmm_migrate_ops.wait; the op must
 *	return an error afterwards
 *
 * For an engine that has not ended its copies and cannot be stopped. The destinations of
 * the chunk are never freed; &hmm_migrate.lost counts them. The sources still belong to
 * the process and may be freed while the engine reads them, so at least ask the engine to
 * stop before.
 */
void hmm_migrate_lose(struct hmm_migrate_chunk *chunk)
{
	chunk->lost = true;
}
EXPORT_SYMBOL_GPL(hmm_migrate_lose);

static unsigned int range_collect_flags(const struct range_ctx *range)
{
	const struct hmm_migrate_ops *ops = range->migrate->ops;
	unsigned int flags = MIGRATE_COLLECT_LEAVE_LOCKED;

	/* An alloc op allocates device memory, unless the caller says otherwise. */
	if (ops->alloc && ops->alloc != hmm_migrate_alloc_system &&
	    !(range->flags & HMM_MIGRATE_TO_SYSTEM))
		flags |= MIGRATE_COLLECT_TO_DEVICE;
	if (!(range->flags & HMM_MIGRATE_FILL_HOLES))
		flags |= MIGRATE_COLLECT_NO_HOLES;
	if (range->flags & RANGE_NO_SPLIT)
		flags |= MIGRATE_COLLECT_NO_SPLIT;
	return flags;
}

static unsigned long range_pfn(const struct range_ctx *range, unsigned long position)
{
	unsigned long i = position >> PAGE_SHIFT;

	return range->pfns ? range->pfns[i] : range->first_pfn + i;
}

static void chunk_collect(struct range_ctx *range, struct hmm_migrate_chunk *chunk,
			  struct migrate_stats *collect)
{
	unsigned long addr = chunk->start, locked, i;

	if (range->by_pfn) {
		for (i = 0; i < chunk->npages; i++) {
			chunk->src[i] = range_pfn(range, chunk->start + i * PAGE_SIZE) <<
					MIGRATE_PFN_SHIFT;
			chunk->dst[i] = 0;
		}
		locked = migrate_stage_lock_pfns(chunk->src, chunk->npages,
						 MIGRATE_COLLECT_LEAVE_LOCKED, collect);
	} else {
		locked = migrate_stage_collect(&chunk->args, range_collect_flags(range),
					       range->nodes, collect);
	}
	if (range->in_retry)
		collect->retried = collect->units;
	if (!locked)
		return;
	for (i = 0; i < chunk->npages; i++, addr += PAGE_SIZE) {
		if (chunk->src[i] != MIGRATE_SRC_RETRY)
			continue;
		chunk->src[i] = 0;
		range_retry_add(range, addr, addr + PAGE_SIZE);
	}
}

static struct migrate_stats chunk_stats(const struct range_ctx *range,
					const struct hmm_migrate_chunk *chunk,
					enum migrate_stage stage)
{
	struct migrate_stats stats = migrate_stats_init(stage, &chunk->args);

	if (range->by_pfn) {
		stats.by_pfn = true;
		stats.start = range_pfn(range, chunk->start);
		stats.end = stats.start + chunk->npages;
	}
	return stats;
}

static void chunk_init(struct range_ctx *range, struct hmm_migrate_chunk *chunk,
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

/*
 * Add the pages that this call has isolated to the node statistics, or subtract them
 * while it allocates: direct compaction waits until fewer pages are isolated, and would
 * wait for the call's own ones.
 */
static void range_count_isolated(const struct range_ctx *range, bool add)
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
						    add ? nr : -nr);
		}
	}
}

static bool segment_is_peers(const struct hmm_migrate_chunk *chunk,
			     const struct hmm_migrate_segment *segment)
{
	return segment->src && is_device_private_page(segment->src) &&
	       page_pgmap(segment->src)->owner != chunk->migrate->pgmap_owner;
}

/* Find the first slots with private memory of peers, if any: [*first, *end). */
static bool chunk_find_peers(const struct hmm_migrate_chunk *chunk, unsigned long *first,
			     unsigned long *end)
{
	const struct hmm_migrate_segment *segment = chunk->segments;
	const struct hmm_migrate_segment *last = segment + chunk->nr_segments;

	while (segment < last && !segment_is_peers(chunk, segment))
		segment++;
	if (segment == last)
		return false;
	*first = segment->index;
	do {
		*end = segment->index + segment->npages;
		segment++;
	} while (segment < last && segment->index == *end && segment_is_peers(chunk, segment));
	return true;
}

/*
 * Have the driver make the memory of peers reachable for its device. Returns -EXDEV if
 * the chunk must end before slot @index. Other errors are in chunk->error, and the chunk
 * stays.
 *
 * Memory that cannot be made reachable is brought to ordinary memory by CPU faults, for
 * which no chunk may be pending. So the chunk ends before that memory, or is not begun if
 * it starts with it. If the faults did not help, the chunk ends behind that memory, so
 * that nothing else fails with it.
 */
static int chunk_map(struct range_ctx *range, struct hmm_migrate_chunk *chunk,
		     unsigned long *index)
{
	const struct hmm_migrate_ops *ops = chunk->migrate->ops;
	unsigned long first, end;

	if (!ops->map || !chunk->nr_segments)
		return 0;
	chunk->error = ops->map(chunk);
	chunk->mapped = !chunk->error && ops->unmap;
	if (chunk->error != -EXDEV || range->keeps_lock || range->by_pfn ||
	    !chunk_find_peers(chunk, &first, &end))
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

static void chunk_finalize(struct range_ctx *range, struct hmm_migrate_chunk *chunk,
			   struct migrate_stats *stats)
{
	*stats = chunk_stats(range, chunk, MIGRATE_STAGE_FINALIZE);
	migrate_stage_finalize(chunk->src, chunk->dst, chunk->npages,
			       range->by_pfn ? NULL : &chunk->args, &range->stages, stats);
}

/*
 * Collect and unmap [start, *end), and allocate memory for it. If that fails, undo all of
 * it: nothing is counted, and nothing added to the retry list. Then *end is where it
 * failed.
 */
static int chunk_try(struct range_ctx *range, struct hmm_migrate_chunk *chunk,
		     struct vm_area_struct *vma, unsigned long start,
		     unsigned long *end)
{
	struct hmm_migrate *migrate = range->migrate;
	struct range_places *retry = &range->retry;
	unsigned long last = retry->nr ? retry->at[retry->nr - 1].end : 0, index;
	struct migrate_stats collect, unmap, finalize;
	unsigned int nr = retry->nr;
	u64 then = ktime_get_ns();
	int ret;

	chunk_init(range, chunk, vma, start, *end);
	collect = chunk_stats(range, chunk, MIGRATE_STAGE_COLLECT);
	unmap = chunk_stats(range, chunk, MIGRATE_STAGE_UNMAP);
	WRITE_ONCE(migrate->unmapping, true);
	chunk_collect(range, chunk, &collect);
	if (collect.units)
		migrate_stage_unmap(chunk->src, chunk->npages, range->fault_page,
				    &range->stages, &unmap);
	WRITE_ONCE(migrate->unmapping, false);
	count_time(migrate, HMM_MIGRATE_STEP_UNMAP, &then);

	range_count_isolated(range, false);
	ret = chunk_alloc(chunk, &index);
	range_count_isolated(range, true);
	count_time(migrate, HMM_MIGRATE_STEP_ALLOC, &then);
	ret = ret ?: chunk_map(range, chunk, &index);
	count_time(migrate, HMM_MIGRATE_STEP_COPY, &then);
	if (ret) {
		chunk_discard(chunk, 0);
		chunk_finalize(range, chunk, &finalize);
		retry->nr = nr;
		if (nr)
			retry->at[nr - 1].end = last;
		*end = start + index * PAGE_SIZE;
		return ret;
	}
	migrate_stats_report(&collect);
	migrate_stats_report(&unmap);
	migrate->holes += collect.empty;
	count_left(migrate, &collect);
	count_left(migrate, &unmap);
	return 0;
}

/**
 * chunk_set_up() - unmap a chunk, allocate memory for it, and start to copy it
 * @range: the call
 * @chunk: the chunk
 * @vma: where it is; NULL by device pfns
 * @start: its first address
 * @end: the address behind it; lowered if the memory does not suffice for all of it
 *
 * If a unit gets no memory, undo the chunk and set up a shorter one that ends before it,
 * so that nothing behind its end is counted or noted for a retry. That chunk is the last
 * one of the call.
 *
 * Context: mmap_lock is held, unless by device pfns. Sleeps. The folios of the chunk are
 * locked until chunk_settle().
 * Return: 0, or the error that ends the call. In both cases chunk_settle() is needed.
 */
int chunk_set_up(struct range_ctx *range, struct hmm_migrate_chunk *chunk,
		 struct vm_area_struct *vma, unsigned long start, unsigned long *end)
{
	int ret = 0, error;
	u64 then;

	while ((error = chunk_try(range, chunk, vma, start, end))) {
		/* Ending before memory of a peer is an error only if nothing is left. */
		if (error != -EXDEV || *end == start)
			ret = error;
		if (*end == start) {
			chunk_init(range, chunk, vma, start, start);
			return ret;
		}
	}
	then = ktime_get_ns();
	if (chunk->nr_segments && !chunk->error)
		chunk->error = chunk->migrate->ops->copy(chunk);
	count_time(range->migrate, HMM_MIGRATE_STEP_COPY, &then);
	return ret;
}

/* Wait until the engine writes no longer to the chunk, or its destinations are lost. */
static void chunk_end_copy(struct range_ctx *range, struct hmm_migrate_chunk *chunk)
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

/* Count all pages of the chunk that collect and unmap have passed on. */
static void chunk_count(struct range_ctx *range, const struct hmm_migrate_chunk *chunk,
			const struct migrate_stats *pages)
{
	struct hmm_migrate *migrate = range->migrate;
	unsigned long nr = 0;
	unsigned int order;

	for (order = 0; order < NR_PAGE_ORDERS; order++)
		nr += pages->pages[order];
	migrate->moved += nr - pages->holes;
	migrate->filled += pages->holes;
	migrate->unwanted += chunk->unwanted;
	migrate->copy_failed += chunk->failed;
	migrate->no_memory += chunk->no_memory_holes +
			      pages->left[MIGRATE_LEFT_NO_DESTINATION];
	count_left(migrate, pages);
	if (MIGRATE_HUGE_ORDER)
		range->moved_huge += pages->pages[MIGRATE_HUGE_ORDER] >> MIGRATE_HUGE_ORDER;
}

/* Folios that the pages stage found under writeback are retried, as locked ones are. */
static void chunk_retry_writeback(struct range_ctx *range, struct hmm_migrate_chunk *chunk)
{
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, chunk->src, chunk->dst, chunk->npages)) {
		unsigned long addr = chunk->start + unit.index * PAGE_SIZE;

		if (!(chunk->dst[unit.index] & MIGRATE_DST_RETRY))
			continue;
		range_retry_add(range, addr, addr + migrate_unit_pages(&unit) * PAGE_SIZE);
		/* The commit op must not see this bit. */
		chunk->dst[unit.index] &= ~MIGRATE_DST_RETRY;
	}
}

/**
 * chunk_settle() - wait for the copy of a chunk, and map the new folios
 * @range: the call
 * @chunk: after chunk_set_up()
 *
 * Context: as chunk_set_up(). Afterwards, no folio of the chunk is locked.
 */
void chunk_settle(struct range_ctx *range, struct hmm_migrate_chunk *chunk)
{
	struct hmm_migrate *migrate = range->migrate;
	u64 then = ktime_get_ns();
	struct migrate_stats stats;

	chunk_end_copy(range, chunk);
	count_time(migrate, HMM_MIGRATE_STEP_WAIT, &then);

	stats = chunk_stats(range, chunk, MIGRATE_STAGE_PAGES);
	stats.defer_writeback = true;
	migrate_stage_pages(chunk->src, chunk->dst, chunk->npages,
			    range->by_pfn ? NULL : &chunk->args, &stats);
	migrate_stats_report(&stats);
	if (stats.nr_deferred)
		chunk_retry_writeback(range, chunk);
	chunk_count(range, chunk, &stats);
	if (range->nodes)
		range_note_chunk(range, chunk);
	count_time(migrate, HMM_MIGRATE_STEP_PAGES, &then);

	if (migrate->ops->commit && stats.units)
		migrate->ops->commit(chunk);
	count_time(migrate, HMM_MIGRATE_STEP_COMMIT, &then);

	chunk_finalize(range, chunk, &stats);
	migrate_stats_report(&stats);
	count_time(migrate, HMM_MIGRATE_STEP_FINALIZE, &then);
}

/**
 * chunk_create() - allocate the arrays of a chunk
 * @range: the call
 * @chunk: the chunk, all zero, or one whose arrays are too small
 * @npages: how many pages it must have room for
 *
 * Return: 0, or -ENOMEM, and then the chunk has room for no page.
 */
int chunk_create(struct range_ctx *range, struct hmm_migrate_chunk *chunk,
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

/**
 * chunk_destroy() - free the arrays of a chunk, and have the driver free its part
 * @chunk: the chunk, settled; or all zero
 */
void chunk_destroy(struct hmm_migrate_chunk *chunk)
{
	if (chunk->migrate && chunk->migrate->ops->release)
		chunk->migrate->ops->release(chunk);
	kvfree(chunk->src);
	kvfree(chunk->dst);
	kvfree(chunk->segments);
}

/**
 * hmm_migrate_next() - find the next new folio of a chunk
 * @chunk: the chunk, in &hmm_migrate_ops.commit
 * @index: the slot to begin at, 0 at first. Returns the first slot of the folio; the caller
 *	adds the number of the folio's pages to it.
 *
 * Return: the new folio, or NULL if no other folio of the chunk has moved.
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

/**
 * hmm_migrate_copy() - a copy op: copy by the CPU
 * @chunk: the chunk; the CPU must be able to address all of its memory
 *
 * A folio with an uncorrectable memory error stays where it is: see hmm_migrate_fail().
 *
 * Context: sleeps.
 * Return: 0.
 */
int hmm_migrate_copy(struct hmm_migrate_chunk *chunk)
{
	unsigned long i, page;

	for (i = 0; i < chunk->nr_segments; i++) {
		for (page = 0; page < chunk->segments[i].npages; page++) {
			chunk_copy_page(chunk, &chunk->segments[i], page);
			cond_resched();
		}
	}
	return 0;
}
EXPORT_SYMBOL_GPL(hmm_migrate_copy);
