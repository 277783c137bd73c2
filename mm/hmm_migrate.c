// SPDX-License-Identifier: GPL-2.0
/*
 * Migrate a range of a process to other memory, and back, in one call.
 *
 * The range is cut into chunks. Each goes through the stages of mm/migrate_vma/,
 * with the allocation and the copy between the second and the third one:
 *
 *   set up    collect, unmap, allocate; start the copy
 *   settle    wait for the copy; pages, commit, finalize
 *
 * While the copy engine works on one chunk, the CPU settles the one before and sets
 * up the one after it. The rules that make this safe:
 *
 * - A chunk is known to be copied before its pages stage begins: from there on,
 *   there is no way back.
 * - Nothing is waited for while folios are locked, but the copy, which needs none
 *   of them. What is locked by others is remembered by its address, and waited for
 *   when the pipeline is empty. The holder may wait for us: UFFDIO_MOVE waits for
 *   a folio lock, and reclaim for the notifier of a device.
 * - mmap_lock is held for reading as long as a chunk is in flight: finalize needs
 *   the page tables where collect found them. When somebody waits for it, the
 *   pipeline is emptied and the lock dropped. Then the vmas may be others.
 */
#include <linux/export.h>
#include <linux/highmem.h>
#include <linux/hmm_migrate.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/oom.h>
#include <linux/pagemap.h>
#include <linux/pagewalk.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>
#include <linux/vmstat.h>
#include "migrate_vma/internal.h"

/* How many chunks are in flight, if copying takes its time. */
#define HMM_MIGRATE_DEPTH	2

/*
 * How often what was locked is looked at again while its holder has it for a moment, a
 * fault or reclaim: 4 to 8 ms in all.
 */
#define HMM_MIGRATE_PASSES	10

/* And then, in microseconds, until the call has waited for HMM_MIGRATE_MAX_WAIT. */
#define HMM_MIGRATE_POLL	8000UL

/*
 * So many places that were locked can be remembered, however small the chunks are: what
 * comes to pieces and finds no room is not looked at again.
 */
#define HMM_MIGRATE_MIN_LOCKED	1024UL

/* Where something was locked, from @start to @end. */
struct again {
	unsigned long start;
	unsigned long end;
};

/**
 * struct again_list - where something was locked
 * @at: the places
 * @nr: how many
 * @max: how many there is room for
 */
struct again_list {
	struct again *at;
	unsigned int nr;
	unsigned int max;
};

/**
 * struct pipeline - a call at work
 * @migrate: the caller's request
 * @chunk_size: in bytes
 * @chunks: a ring
 * @next: the one that is to be used next
 * @in_flight: how many before that are in use
 * @depth: how many there are
 * @locked: what is to be looked at again
 * @looked: what is looked at again at the moment
 * @again: that is what the chunks are now
 * @waited: nanoseconds that the call has waited for others, but for the first passes
 * @stages: what the stages share
 * @error: why it has to stop; 0 if it has not
 * @fault_page: the page of a CPU fault, see hmm_migrate_fault(); otherwise NULL
 */
struct pipeline {
	struct hmm_migrate *migrate;
	unsigned long chunk_size;
	struct hmm_migrate_chunk chunks[HMM_MIGRATE_DEPTH];
	unsigned int next;
	unsigned int in_flight;
	unsigned int depth;
	struct again_list locked;
	struct again_list looked;
	bool again;
	u64 waited;
	struct migrate_call stages;
	int error;
	struct page *fault_page;
};

static unsigned long pages_of(unsigned long start, unsigned long end)
{
	return (end - start) >> PAGE_SHIFT;
}

/* What was locked, and shall be looked at again */

static void again_add(struct again_list *list, unsigned long start,
		      unsigned long end)
{
	if (list->nr && list->at[list->nr - 1].end == start)
		list->at[list->nr - 1].end = end;
	else
		list->at[list->nr++] = (struct again){ start, end };
}

/*
 * Is there no room for what can come before it is looked at: what collect finds locked
 * in another chunk, and what is under writeback in it and in those in flight? Each
 * page of them makes one entry at most.
 */
static bool again_is_full(const struct again_list *list)
{
	return list->nr > list->max / 2;
}

/* Move what collect has left for later from the slots to the list. */
static void again_take(struct pipeline *pipeline, struct hmm_migrate_chunk *chunk)
{
	unsigned long addr = chunk->start, i;

	for (i = 0; i < chunk->npages; i++, addr += PAGE_SIZE) {
		if (chunk->src[i] != MIGRATE_SRC_AGAIN)
			continue;
		chunk->src[i] = 0;
		again_add(&pipeline->locked, addr, addr + PAGE_SIZE);
	}
}

/* Counting */

static void count_left(struct hmm_migrate *migrate,
		       const struct migrate_tally *tally)
{
	enum migrate_left reason;

	for (reason = 0; reason < NR_MIGRATE_LEFT; reason++)
		migrate->left[reason] += tally->left[reason];
}

/*
 * What has no new page here has none for the pages stage, which does not know why.
 * It may also have found another reason to leave a page.
 */
static void count_instead(struct migrate_tally *tally, enum migrate_left reason,
			  unsigned long *count, unsigned long npages)
{
	npages = min(npages, tally->left[reason]);
	tally->left[reason] -= npages;
	*count += npages;
}

/* What the pages stage has done. */
static void count_pages(struct hmm_migrate_chunk *chunk,
			struct migrate_tally *tally)
{
	struct hmm_migrate *migrate = chunk->migrate;
	unsigned long pages = 0;
	unsigned int order;

	migrate_tally_report(tally);
	for (order = 0; order < NR_PAGE_ORDERS; order++)
		pages += tally->pages[order];
	migrate->moved += pages - tally->holes;
	migrate->filled += tally->holes;

	count_instead(tally, MIGRATE_LEFT_HOLE, &migrate->holes, chunk->holes);
	count_instead(tally, MIGRATE_LEFT_HOLE, &migrate->no_memory,
		      chunk->no_memory_holes);
	count_instead(tally, MIGRATE_LEFT_HOLE, &migrate->copy_failed,
		      chunk->failed_holes);
	count_instead(tally, MIGRATE_LEFT_NO_DESTINATION, &migrate->unwanted,
		      chunk->unwanted);
	count_instead(tally, MIGRATE_LEFT_NO_DESTINATION, &migrate->no_memory,
		      chunk->no_memory);
	count_instead(tally, MIGRATE_LEFT_NO_DESTINATION, &migrate->copy_failed,
		      chunk->failed);
	count_left(migrate, tally);
}

static void count_time(struct hmm_migrate *migrate, enum hmm_migrate_step step,
		       u64 *then)
{
	u64 now = ktime_get_ns();

	migrate->time[step] += now - *then;
	*then = now;
}

/* Memory for a chunk */

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
segment_goes_on(const struct hmm_migrate_segment *segment, struct page *src,
		struct page *dst)
{
	if (!page_goes_on(segment->dst, segment->npages, dst) ||
	    !src != !segment->src)
		return false;
	return !src || page_goes_on(segment->src, segment->npages, src);
}

static __always_inline void
chunk_add_segment(struct hmm_migrate_chunk *chunk, struct page *src,
		  struct page *dst, unsigned long npages)
{
	struct hmm_migrate_segment *next = chunk->segments + chunk->nr_segments;

	if (chunk->nr_segments && segment_goes_on(next - 1, src, dst)) {
		next[-1].npages += npages;
		return;
	}
	next->src = src;
	next->dst = dst;
	next->npages = npages;
	chunk->nr_segments++;
}

/* The order to try next for parts of @unit; a hole takes those that a fault would use. */
static unsigned int smaller_order(const struct hmm_migrate_chunk *chunk,
				  const struct migrate_unit *unit, unsigned int order)
{
	unsigned long orders = GENMASK(order - 1, 0);

	/* Anonymous folios cannot be order-1. */
	if (!(chunk->migrate->select & MIGRATE_VMA_SELECT_LARGE) || order <= 2)
		return 0;
	if (!unit->page)
		orders &= migrate_hole_orders(chunk->vma) | BIT(0);
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

static void chunk_drop(struct hmm_migrate_chunk *chunk, unsigned long index)
{
	struct page *page = migrate_pfn_to_page(chunk->dst[index]);

	if (!page)
		return;
	chunk->dst[index] = 0;
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
		chunk_add_segment(chunk, unit->page ? unit->page + i : NULL, dst,
				  npages);
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
	chunk_add_segment(chunk, unit->page, &folio->page,
			  migrate_unit_pages(unit));
	return 0;
}

/* Make one unit of a hole and those that follow it, if the caller wants that. */
static void chunk_enlarge_hole(struct hmm_migrate_chunk *chunk,
			       struct migrate_unit *unit)
{
	unsigned int order = chunk->migrate->hole_order;

	if (unit->order || !migrate_hole_is_large(&chunk->args, unit->index, order))
		return;
	unit->order = order;
	unit->next = unit->index + migrate_unit_pages(unit);
}

/* Is this unit to move at all? Counts it if it is not. */
static bool chunk_wants(struct hmm_migrate_chunk *chunk,
			const struct migrate_unit *unit)
{
	struct hmm_migrate *migrate = chunk->migrate;

	if (!unit->page) {
		if (chunk->flags & HMM_MIGRATE_FILL_HOLES)
			return true;
		chunk->holes += migrate_unit_pages(unit);
		return false;
	}
	if (!migrate->ops->wants || chunk->args.fault_page ||
	    migrate->ops->wants(chunk, migrate_unit_folio(unit)))
		return true;
	chunk->unwanted += migrate_unit_pages(unit);
	return false;
}

/*
 * Find memory for all units of the chunk. Returns in @index the slot of the one that
 * there is none for.
 */
static int chunk_alloc_units(struct hmm_migrate_chunk *chunk, unsigned long *index)
{
	struct hmm_migrate *migrate = chunk->migrate;
	struct migrate_unit unit = {};
	long missing;

	while (migrate_unit_next(&unit, chunk->src, NULL, chunk->npages)) {
		if (!(*unit.src & MIGRATE_PFN_MIGRATE))
			continue;
		if (!chunk_wants(chunk, &unit))
			continue;
		if (!unit.page && migrate->hole_order)
			chunk_enlarge_hole(chunk, &unit);
		missing = chunk_alloc_unit(chunk, &unit);
		if (unlikely(missing < 0)) {
			*index = unit.index;
			return missing;
		}
		if (unit.page)
			chunk->no_memory += missing;
		else
			chunk->no_memory_holes += missing;
		if (unit.index % SWAP_CLUSTER_MAX == 0)
			cond_resched();
	}
	return 0;
}

/* The chunk's pages stay where they are: it could not be copied. */
static void chunk_discard(struct hmm_migrate_chunk *chunk)
{
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, chunk->src, NULL, chunk->npages)) {
		unsigned long *count = unit.page ? &chunk->failed : &chunk->failed_holes;
		unsigned long i;

		for (i = unit.index; i < unit.next; i++) {
			struct page *dst = migrate_pfn_to_page(chunk->dst[i]);

			if (!dst)
				continue;
			*count += folio_nr_pages(page_folio(dst));
			/* Nobody knows what still writes to it. */
			if (chunk->migrate->engine_lost)
				chunk->dst[i] = 0;
			else
				chunk_drop(chunk, i);
		}
	}
}

/* A chunk's way */

/* Allocators of ordinary memory are known; any other is taken for a device's. */
static unsigned int chunk_collect_flags(const struct hmm_migrate *migrate)
{
	const struct hmm_migrate_ops *ops = migrate->ops;

	if (!ops->alloc || ops->alloc == hmm_migrate_alloc_system ||
	    ops->alloc == hmm_migrate_alloc_node)
		return MIGRATE_COLLECT_LEAVE_LOCKED;
	return MIGRATE_COLLECT_LEAVE_LOCKED | MIGRATE_COLLECT_TO_DEVICE;
}

static void chunk_unmap(struct pipeline *pipeline, struct hmm_migrate_chunk *chunk,
			struct migrate_tally *collect, struct migrate_tally *unmap)
{
	struct hmm_migrate *migrate = pipeline->migrate;
	struct migrate_vma *args = &chunk->args;

	WRITE_ONCE(migrate->unmapping, true);
	*collect = migrate_tally_init(MIGRATE_STAGE_COLLECT, args);
	*unmap = migrate_tally_init(MIGRATE_STAGE_UNMAP, args);
	if (migrate_stage_collect(args, chunk_collect_flags(migrate), collect))
		again_take(pipeline, chunk);
	if (pipeline->again)
		collect->again = collect->units;
	if (collect->units)
		migrate_stage_unmap(args->src, args->npages, args->fault_page,
				    &pipeline->stages, unmap);
	WRITE_ONCE(migrate->unmapping, false);
}

/*
 * What is looked at again lies before the place where the call ends, so it is no
 * reason for it to end.
 */
static unsigned int pipeline_flags(const struct pipeline *pipeline)
{
	unsigned int flags = pipeline->migrate->flags;

	if (!pipeline->again)
		return flags;
	return (flags | HMM_MIGRATE_SKIP_NO_MEMORY) & ~HMM_MIGRATE_STRICT;
}

static void chunk_init(struct pipeline *pipeline, struct hmm_migrate_chunk *chunk,
		       struct vm_area_struct *vma, unsigned long start,
		       unsigned long end)
{
	struct hmm_migrate *migrate = pipeline->migrate;

	chunk->vma = vma;
	chunk->start = start;
	chunk->npages = pages_of(start, end);
	chunk->nr_segments = 0;
	chunk->error = 0;
	chunk->flags = pipeline_flags(pipeline);
	chunk->holes = 0;
	chunk->unwanted = 0;
	chunk->no_memory = 0;
	chunk->no_memory_holes = 0;
	chunk->failed = 0;
	chunk->failed_holes = 0;
	chunk->args = (struct migrate_vma){
		.vma = vma,
		.start = start,
		.end = end,
		.src = chunk->src,
		.dst = chunk->dst,
		.npages = chunk->npages,
		.pgmap_owner = migrate->pgmap_owner,
		.flags = migrate->select,
		.fault_page = pipeline->fault_page,
	};
}

/*
 * Put everything back as it was: nothing of it is counted, or remembered. Before it,
 * @nr places were, and the last of them ended at @end.
 */
static void chunk_undo(struct pipeline *pipeline, struct hmm_migrate_chunk *chunk,
		       unsigned int nr, unsigned long end)
{
	struct again_list *list = &pipeline->locked;
	struct migrate_vma *args = &chunk->args;
	struct migrate_tally tally;

	chunk_discard(chunk);
	tally = migrate_tally_init(MIGRATE_STAGE_FINALIZE, args);
	migrate_stage_finalize(args->src, args->dst, args->npages, args,
			       &pipeline->stages, &tally);
	list->nr = nr;
	if (nr)
		list->at[nr - 1].end = end;
}

/*
 * Count what this call has isolated, or count it no more. Compaction waits until less is
 * isolated, and an allocation of this call would wait for itself.
 */
static void pipeline_count_isolated(const struct pipeline *pipeline, bool count)
{
	const long *isolated = pipeline->stages.isolated;
	int nid;

	if (!isolated)
		return;
	for_each_online_node(nid)
		if (isolated[nid])
			mod_node_page_state(NODE_DATA(nid), NR_ISOLATED_ANON,
					    count ? isolated[nid] : -isolated[nid]);
}

/* Unmap [start, *end) and find memory for it. If that fails, *end is where. */
static int chunk_try(struct pipeline *pipeline, struct hmm_migrate_chunk *chunk,
		     struct vm_area_struct *vma, unsigned long start,
		     unsigned long *end)
{
	struct hmm_migrate *migrate = pipeline->migrate;
	struct again_list *list = &pipeline->locked;
	unsigned long last = list->nr ? list->at[list->nr - 1].end : 0, index;
	struct migrate_tally collect, unmap;
	unsigned int nr = list->nr;
	u64 then = ktime_get_ns();
	int ret;

	chunk_init(pipeline, chunk, vma, start, *end);
	chunk_unmap(pipeline, chunk, &collect, &unmap);
	count_time(migrate, HMM_MIGRATE_STEP_UNMAP, &then);
	pipeline_count_isolated(pipeline, false);
	ret = chunk_alloc_units(chunk, &index);
	pipeline_count_isolated(pipeline, true);
	count_time(migrate, HMM_MIGRATE_STEP_ALLOC, &then);
	if (ret) {
		chunk_undo(pipeline, chunk, nr, last);
		*end = start + index * PAGE_SIZE;
		return ret;
	}
	migrate_tally_report(&collect);
	migrate_tally_report(&unmap);
	if (!(chunk->flags & HMM_MIGRATE_FILL_HOLES))
		count_instead(&collect, MIGRATE_LEFT_HOLE, &migrate->holes,
			      chunk->npages);
	count_left(migrate, &collect);
	count_left(migrate, &unmap);
	return 0;
}

/*
 * Set up [start, *end), and start to copy it. Where there is no memory, the chunk ends
 * before: it is undone and done again, so that nothing behind its end is counted or
 * remembered. Then this is the last one, and an error is returned.
 */
static int chunk_set_up(struct pipeline *pipeline, struct hmm_migrate_chunk *chunk,
			struct vm_area_struct *vma, unsigned long start,
			unsigned long *end)
{
	struct hmm_migrate *migrate = pipeline->migrate;
	int ret = 0, error;
	u64 then;

	while ((error = chunk_try(pipeline, chunk, vma, start, end))) {
		ret = error;
		if (*end > start)
			continue;
		/* Nothing is left of it. */
		chunk_init(pipeline, chunk, vma, start, start);
		return ret;
	}
	then = ktime_get_ns();
	if (chunk->nr_segments)
		chunk->error = migrate->ops->copy(chunk);
	count_time(migrate, HMM_MIGRATE_STEP_COPY, &then);
	return ret;
}

/* Is it the I/O of swap-out that keeps a unit, and not that nothing fits it? */
static bool again_is_busy(struct hmm_migrate_chunk *chunk,
			  const struct migrate_unit *unit)
{
	struct page *dst = migrate_pfn_to_page(chunk->dst[unit->index]);

	return dst && folio_order(page_folio(dst)) == unit->order &&
	       folio_test_writeback(migrate_unit_folio(unit));
}

/* Swap-out keeps a folio for the time of its I/O. */
static void again_writeback(struct pipeline *pipeline,
			    struct hmm_migrate_chunk *chunk,
			    struct migrate_tally *tally)
{
	struct migrate_unit unit = {};

	if (!tally->left[MIGRATE_LEFT_BUSY])
		return;
	while (migrate_unit_next(&unit, chunk->src, NULL, chunk->npages)) {
		unsigned long addr = chunk->start + unit.index * PAGE_SIZE;

		if (*unit.src & MIGRATE_PFN_MIGRATE || !unit.page ||
		    !again_is_busy(chunk, &unit))
			continue;
		again_add(&pipeline->locked, addr,
			  addr + migrate_unit_pages(&unit) * PAGE_SIZE);
		tally->left[MIGRATE_LEFT_BUSY] -= migrate_unit_pages(&unit);
	}
}

/* Returns whether the chunk is copied; then nothing more is written of it. */
static bool chunk_wait(struct pipeline *pipeline, struct hmm_migrate_chunk *chunk)
{
	struct hmm_migrate *migrate = pipeline->migrate;

	if (!chunk->error && chunk->nr_segments && migrate->ops->wait)
		chunk->error = migrate->ops->wait(chunk);
	if (!chunk->error)
		return true;
	if (!pipeline->error && (migrate->flags & HMM_MIGRATE_STOP_ON_COPY_ERROR ||
				 migrate->engine_failed))
		pipeline->error = chunk->error;
	return false;
}

static void chunk_settle(struct pipeline *pipeline, struct hmm_migrate_chunk *chunk)
{
	struct hmm_migrate *migrate = pipeline->migrate;
	struct migrate_vma *args = &chunk->args;
	u64 then = ktime_get_ns();
	struct migrate_tally tally;

	if (!chunk_wait(pipeline, chunk))
		chunk_discard(chunk);
	count_time(migrate, HMM_MIGRATE_STEP_WAIT, &then);

	tally = migrate_tally_init(MIGRATE_STAGE_PAGES, args);
	migrate_stage_pages(args->src, args->dst, args->npages, args, &tally);
	again_writeback(pipeline, chunk, &tally);
	count_pages(chunk, &tally);
	count_time(migrate, HMM_MIGRATE_STEP_PAGES, &then);

	if (migrate->ops->commit && tally.units)
		migrate->ops->commit(chunk);
	count_time(migrate, HMM_MIGRATE_STEP_COMMIT, &then);

	tally = migrate_tally_init(MIGRATE_STAGE_FINALIZE, args);
	migrate_stage_finalize(args->src, args->dst, args->npages, args,
			       &pipeline->stages, &tally);
	migrate_tally_report(&tally);
	count_time(migrate, HMM_MIGRATE_STEP_FINALIZE, &then);
}

/* The pipeline */

static void pipeline_settle_oldest(struct pipeline *pipeline)
{
	unsigned int oldest = (pipeline->next + pipeline->depth -
			       pipeline->in_flight) % pipeline->depth;

	chunk_settle(pipeline, &pipeline->chunks[oldest]);
	pipeline->in_flight--;
}

static void pipeline_drain(struct pipeline *pipeline)
{
	while (pipeline->in_flight)
		pipeline_settle_oldest(pipeline);
}

/* The next chunk is [addr, next). If the ring is full then, the oldest one leaves it. */
static int pipeline_feed(struct pipeline *pipeline, struct vm_area_struct *vma,
			 unsigned long addr, unsigned long *next)
{
	struct hmm_migrate_chunk *chunk = &pipeline->chunks[pipeline->next];
	int ret;

	ret = chunk_set_up(pipeline, chunk, vma, addr, next);
	pipeline->next = (pipeline->next + 1) % pipeline->depth;
	pipeline->in_flight++;
	if (pipeline->in_flight == pipeline->depth)
		pipeline_settle_oldest(pipeline);
	return ret;
}

/*
 * Has a process this address space? References that others have to its users do not
 * tell: they may be those of other calls.
 */
static bool mm_has_process(struct mm_struct *mm)
{
	/* See mm_update_next_owner(). */
#ifdef CONFIG_MEMCG
	return rcu_access_pointer(mm->owner);
#else
	struct task_struct *process;

	guard(rcu)();
	for_each_process(process)
		if (!(process->flags & PF_KTHREAD) && process_shares_mm(process, mm))
			return true;
	return false;
#endif
}

/*
 * The OOM reaper is at the process, or it has ended. A process that migrates its own
 * memory is here.
 */
static bool mm_is_gone(struct mm_struct *mm)
{
	if (check_stable_address_space(mm))
		return true;
	if (current->mm == mm && !(current->flags & PF_KTHREAD))
		return false;
	return atomic_read(&mm->mm_users) == 1 || !mm_has_process(mm);
}

/* Why there is to be no other chunk; 0 if there is no reason. */
static int pipeline_must_stop(struct pipeline *pipeline)
{
	if (pipeline->error)
		return pipeline->error;
	if (fatal_signal_pending(current))
		return -EINTR;
	if ((current->flags & PF_KTHREAD) && kthread_should_stop())
		return -EINTR;
	if (mm_is_gone(pipeline->migrate->mm))
		return -ESRCH;
	return READ_ONCE(pipeline->migrate->cancel) ? -ECANCELED : 0;
}

/* [addr, end) cannot migrate: nothing is there, or of a kind that never can. */
static int pipeline_skip(struct pipeline *pipeline, unsigned long addr,
			 unsigned long end, int error)
{
	if (pipeline_flags(pipeline) & HMM_MIGRATE_STRICT)
		return error;
	pipeline->migrate->skipped += pages_of(addr, end);
	return 0;
}

/* One chunk from @addr on, or one gap. Returns in @next where that ends. */
static int pipeline_step(struct pipeline *pipeline, unsigned long addr,
			 unsigned long end, unsigned long *next)
{
	struct mm_struct *mm = pipeline->migrate->mm;
	struct vm_area_struct *vma = find_vma(mm, addr);
	unsigned long size = pipeline->chunk_size;
	int ret;

	if (!vma || vma->vm_start > addr) {
		*next = vma ? min(end, vma->vm_start) : end;
		ret = pipeline_skip(pipeline, addr, *next, -EFAULT);
	} else if (!migrate_takes_vma(vma)) {
		*next = min(end, vma->vm_end);
		ret = pipeline_skip(pipeline, addr, *next, -EOPNOTSUPP);
	} else {
		*next = min(min(end, vma->vm_end) - 1, addr - addr % size + size - 1) + 1;
		return pipeline_feed(pipeline, vma, addr, next);
	}
	if (ret)
		*next = addr;
	return ret;
}

/* From *@addr on, until somebody else wants mmap_lock. */
static int pipeline_steps(struct pipeline *pipeline, unsigned long *addr,
			  unsigned long end)
{
	struct mm_struct *mm = pipeline->migrate->mm;
	int ret;

	/* One in any case: with many who want it, there is always somebody waiting. */
	do {
		ret = pipeline_must_stop(pipeline);
		if (!ret)
			ret = pipeline_step(pipeline, *addr, end, addr);
		cond_resched();
	} while (!ret && *addr < end && !mmap_lock_is_contended(mm) &&
		 !again_is_full(&pipeline->locked));
	pipeline_drain(pipeline);
	return ret ?: pipeline->error;
}

/* From *@addr on, until there is no room for what is locked. */
static int pipeline_run(struct pipeline *pipeline, unsigned long *addr,
			unsigned long end)
{
	struct hmm_migrate *migrate = pipeline->migrate;
	int ret = 0;

	while (!ret && *addr < end && !again_is_full(&pipeline->locked)) {
		if (migrate->ops->begin)
			migrate->ops->begin(migrate);
		if (mmap_read_lock_killable(migrate->mm))
			return -EINTR;
		ret = pipeline_steps(pipeline, addr, end);
		mmap_read_unlock(migrate->mm);
	}
	return ret;
}

/*
 * Does somebody have the folio at @addr locked, or is it written to swap? Looked at under
 * the page-table lock: a reference would make another migration of it fail, and a look
 * by the collect stage would call the notifiers. Returns in @next where the folio ends:
 * one answer is for all of it, or a range would begin in the middle of a folio and have
 * it split. Under mmap_lock.
 */
static bool again_is_held(struct mm_struct *mm, unsigned long addr,
			  unsigned long *next)
{
	struct vm_area_struct *vma = vma_lookup(mm, addr);
	struct folio_walk fw;
	unsigned long nr_pages, index;
	struct folio *folio;
	bool held;

	*next = addr + PAGE_SIZE;
	folio = vma ? folio_walk_start(&fw, vma, addr, FW_MIGRATION) : NULL;
	if (!folio)
		return false;
	held = folio_test_locked(folio) || folio_test_writeback(folio);
	/*
	 * A migration entry does not tell the page, but mostly lies as a fault's does.
	 * And its folio may be split just now: ask for its size once.
	 */
	nr_pages = folio_nr_pages(folio);
	index = fw.page ? folio_page_idx(folio, fw.page) :
			  (addr >> PAGE_SHIFT) & (nr_pages - 1);
	*next = addr + (nr_pages - index) * PAGE_SIZE;
	/* folio_walk_start() says nothing to sparse. */
	__acquire(fw.ptl);
	folio_walk_end(&fw, vma);
	return held;
}

/*
 * Returns in @held whether the folio at @addr is, and in @end how far that goes, or how
 * far it was looked.
 */
static int again_stretch(struct mm_struct *mm, unsigned long addr,
			 unsigned long *end, bool *held)
{
	unsigned long next, last = *end;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	*held = again_is_held(mm, addr, end);
	while (*end < last && !mmap_lock_is_contended(mm) &&
	       !fatal_signal_pending(current) &&
	       again_is_held(mm, *end, &next) == *held) {
		*end = next;
		cond_resched();
	}
	mmap_read_unlock(mm);
	*end = min(*end, last);
	return 0;
}

/* Migrate what is not held any more of @place, and remember the rest. */
static int again_place(struct pipeline *pipeline, struct again *place,
		       unsigned int pass)
{
	struct mm_struct *mm = pipeline->migrate->mm;
	bool held = false;
	int ret = 0;

	while (!ret && place->start < place->end &&
	       !again_is_full(&pipeline->locked)) {
		unsigned long end = place->end;

		/* At first, it is cheaper to try. */
		if (pass)
			ret = again_stretch(mm, place->start, &end, &held);
		if (!ret && !held) {
			ret = pipeline_run(pipeline, &place->start, end);
		} else if (!ret) {
			again_add(&pipeline->locked, place->start, end);
			place->start = end;
		}
		cond_resched();
	}
	return ret;
}

/*
 * Sleep before pass @pass, with nothing locked and nothing unmapped. The first passes
 * are for those who have a folio for a moment, the others for I/O.
 */
static int again_wait(struct pipeline *pipeline, unsigned int pass)
{
	unsigned long usecs = pass < HMM_MIGRATE_PASSES ? 4UL << pass :
							  HMM_MIGRATE_POLL;
	ktime_t timeout = ns_to_ktime(usecs * NSEC_PER_USEC);
	u64 then = ktime_get_ns();

	/* usleep_range_state() would not end for a signal, but spin. */
	set_current_state(TASK_KILLABLE);
	schedule_hrtimeout_range(&timeout, usecs * NSEC_PER_USEC, HRTIMER_MODE_REL);
	if (pass >= HMM_MIGRATE_PASSES)
		pipeline->waited += ktime_get_ns() - then;
	return pipeline_must_stop(pipeline);
}

/* What is still locked, or was not looked at any more, stays. */
static void again_give_up(struct pipeline *pipeline, struct again_list *list,
			  unsigned int first)
{
	struct migrate_tally tally = { .stage = MIGRATE_STAGE_COLLECT };
	unsigned int i;

	for (i = first; i < list->nr; i++) {
		tally.start = list->at[i].start;
		tally.end = list->at[i].end;
		tally.left[MIGRATE_LEFT_LOCKED] = pages_of(tally.start, tally.end);
		migrate_tally_report(&tally);
		count_left(pipeline->migrate, &tally);
	}
	list->nr = 0;
}

static int again_pass(struct pipeline *pipeline, unsigned int pass)
{
	struct again_list *list = &pipeline->looked;
	unsigned int i;
	int ret;

	swap(pipeline->locked, pipeline->looked);
	ret = again_wait(pipeline, pass);
	pipeline->again = true;
	for (i = 0; !ret && i < list->nr; i++) {
		ret = again_place(pipeline, &list->at[i], pass);
		/* An error; or what was one place has become too many. */
		if (list->at[i].start < list->at[i].end)
			break;
	}
	pipeline->again = false;
	again_give_up(pipeline, list, i);
	return ret;
}

/*
 * Look again at what was locked, with nothing in flight: until nothing is, or the call
 * has waited long enough.
 */
static int pipeline_again(struct pipeline *pipeline)
{
	unsigned int pass;
	int ret = 0;

	for (pass = 0; !ret && pipeline->locked.nr; pass++) {
		unsigned long moved = pipeline->migrate->moved;
		u64 waited = pipeline->waited, then = ktime_get_ns();

		if (pass >= HMM_MIGRATE_PASSES &&
		    waited >= HMM_MIGRATE_MAX_WAIT * NSEC_PER_MSEC)
			break;
		ret = again_pass(pipeline, pass);
		/* To look is to wait, too, if it is in vain. */
		if (pass >= HMM_MIGRATE_PASSES && pipeline->migrate->moved == moved)
			pipeline->waited = waited + ktime_get_ns() - then;
	}
	again_give_up(pipeline, &pipeline->locked, 0);
	return ret;
}

/* By the caller's numbers: what is too large is ENOMEM, and no warning. */
#define HMM_MIGRATE_GFP		(GFP_KERNEL | __GFP_NOWARN)

static int again_alloc(struct again_list *list, unsigned long max)
{
	list->max = max;
	list->at = kvmalloc_array(max, sizeof(*list->at), HMM_MIGRATE_GFP);
	return list->at ? 0 : -ENOMEM;
}

static int chunk_create(struct pipeline *pipeline, struct hmm_migrate_chunk *chunk,
			unsigned long max)
{
	chunk->migrate = pipeline->migrate;
	chunk->src = kvmalloc_array(max, sizeof(*chunk->src), HMM_MIGRATE_GFP);
	chunk->dst = kvmalloc_array(max, sizeof(*chunk->dst), HMM_MIGRATE_GFP);
	chunk->segments = kvmalloc_array(max, sizeof(*chunk->segments), HMM_MIGRATE_GFP);
	return chunk->src && chunk->dst && chunk->segments ? 0 : -ENOMEM;
}

static void chunk_destroy(struct hmm_migrate_chunk *chunk)
{
	if (chunk->migrate && chunk->migrate->ops->release)
		chunk->migrate->ops->release(chunk);
	kvfree(chunk->src);
	kvfree(chunk->dst);
	kvfree(chunk->segments);
}

/* A fault brings back device memory, which is on no LRU. */
static int isolated_alloc(struct pipeline *pipeline)
{
	if (pipeline->fault_page)
		return 0;
	pipeline->stages.isolated = kcalloc(nr_node_ids, sizeof(long), GFP_KERNEL);
	return pipeline->stages.isolated ? 0 : -ENOMEM;
}

static int pipeline_create(struct pipeline *pipeline, struct hmm_migrate *migrate)
{
	unsigned long range = migrate->end - migrate->start, max, locked;
	unsigned int i;
	int ret;

	pipeline->migrate = migrate;
	pipeline->chunk_size = min(migrate->chunk_size ?: HMM_MIGRATE_CHUNK_SIZE,
				   HMM_MIGRATE_MAX_CHUNK_SIZE);
	pipeline->depth = migrate->ops->wait && !pipeline->fault_page ?
			  HMM_MIGRATE_DEPTH : 1;
	max = min(pipeline->chunk_size, range) >> PAGE_SHIFT;
	/* Twice what all chunks can add: see again_is_full(). A fault looks once. */
	locked = 2 * pipeline->depth * max;
	if (!pipeline->fault_page)
		locked = max(locked, HMM_MIGRATE_MIN_LOCKED);
	ret = isolated_alloc(pipeline) ?:
	      again_alloc(&pipeline->locked, locked) ?:
	      again_alloc(&pipeline->looked, locked);
	for (i = 0; !ret && i < pipeline->depth; i++)
		ret = chunk_create(pipeline, &pipeline->chunks[i], max);
	return ret;
}

static void pipeline_destroy(struct pipeline *pipeline)
{
	unsigned int i;

	for (i = 0; i < HMM_MIGRATE_DEPTH; i++)
		chunk_destroy(&pipeline->chunks[i]);
	kvfree(pipeline->locked.at);
	kvfree(pipeline->looked.at);
	kfree(pipeline->stages.isolated);
}

/* The whole range, and in between and in the end what was locked. */
static int pipeline_range(struct pipeline *pipeline)
{
	struct hmm_migrate *migrate = pipeline->migrate;
	int ret = 0, again;

	while (!ret && migrate->done < migrate->end) {
		ret = pipeline_run(pipeline, &migrate->done, migrate->end);
		again = pipeline_again(pipeline);
		ret = ret ?: again;
	}
	return ret;
}

static bool hmm_migrate_is_valid(const struct hmm_migrate *migrate)
{
	const unsigned long kinds = MIGRATE_VMA_SELECT_SYSTEM |
				    MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
				    MIGRATE_VMA_SELECT_DEVICE_COHERENT;
	const unsigned long sizes = MIGRATE_VMA_SELECT_COMPOUND |
				    MIGRATE_VMA_SELECT_LARGE;

	if (!migrate->mm || !migrate->ops || !migrate->ops->copy)
		return false;
	if (!PAGE_ALIGNED(migrate->start | migrate->end | migrate->chunk_size) ||
	    migrate->start >= migrate->end)
		return false;
	if (!(migrate->select & kinds) || migrate->select & ~(kinds | sizes) ||
	    migrate->flags & ~HMM_MIGRATE_FLAGS)
		return false;
	return !migrate->hole_order ||
	       (migrate->select & MIGRATE_VMA_SELECT_LARGE &&
		migrate->hole_order != 1 && migrate->hole_order <= MIGRATE_HUGE_ORDER);
}

/* Everything that is an answer. */
static void hmm_migrate_reset(struct hmm_migrate *migrate)
{
	migrate->unmapping = false;
	migrate->engine_failed = false;
	migrate->engine_stopped = false;
	migrate->engine_lost = false;
	migrate->engine_pieces = false;
	migrate->done = migrate->start;
	migrate->moved = 0;
	migrate->filled = 0;
	migrate->holes = 0;
	migrate->unwanted = 0;
	migrate->no_memory = 0;
	migrate->copy_failed = 0;
	migrate->skipped = 0;
	memset(migrate->left, 0, sizeof(migrate->left));
	memset(migrate->time, 0, sizeof(migrate->time));
}

/**
 * hmm_migrate_range() - migrate a range of a process to other memory
 * @migrate: what to migrate, how, and what came of it
 *
 * Moves the memory behind a range of virtual addresses to memory that the special
 * allocator of @migrate hands out, in chunks that are large enough for a copy
 * engine. Goes across vmas. What cannot move stays where it is, with its contents,
 * and is counted by its reason. What somebody else has locked, or writes to swap, is
 * tried again when nothing of this call is locked: some times within a few milliseconds,
 * and then every few milliseconds until the call has waited for HMM_MIGRATE_MAX_WAIT in
 * all. What is held still counts as MIGRATE_LEFT_LOCKED.
 *
 * "[A helper that] differs from NUMA migration by working on a range of virtual
 * addresses, and thus by migrating in chunks that can be large enough to use a DMA
 * engine or a special copy-offload engine, into memory that a special allocator
 * hands out" is what the HMM patches of 2016 promised; this is that helper.
 *
 * Context: takes mmap_lock for reading, and drops it when somebody waits for it.
 * Sleeps. The caller must not hold mmap_lock, nor a folio lock, nor anything that an
 * mmu notifier or a fault of this address space may wait for.
 *
 * Return: 0 if the whole range has been dealt with, whether or not it could move.
 * Otherwise, @migrate->done says how far it came, everything before that is
 * counted, and the error is
 *
 * * -EINVAL: the arguments do not make sense; nothing has been done, and nothing in
 *   @migrate is set
 * * -ENOMEM: no memory at @migrate->done, by the special allocator; or none for the
 *   arrays, and nothing has been done
 * * -EINTR: a fatal signal; or the caller is a kthread, and is to stop
 * * -ECANCELED: @migrate->cancel
 * * -ESRCH: the process has ended, or the OOM reaper takes its memory
 * * -EFAULT: with HMM_MIGRATE_STRICT, nothing is mapped at @migrate->done
 * * -EOPNOTSUPP: with HMM_MIGRATE_STRICT, the vma there cannot migrate at all
 * * with HMM_MIGRATE_STOP_ON_COPY_ERROR, or if a DMA engine has failed, what the copy
 *   ops said; the pages of that chunk are in @migrate->copy_failed, and if it was the
 *   engine, those of a chunk that was begun meanwhile
 */
int hmm_migrate_range(struct hmm_migrate *migrate)
{
	struct pipeline pipeline = {};
	int ret;

	if (!hmm_migrate_is_valid(migrate))
		return -EINVAL;
	hmm_migrate_reset(migrate);
	ret = pipeline_create(&pipeline, migrate);
	if (!ret)
		ret = pipeline_range(&pipeline);
	pipeline_destroy(&pipeline);
	return ret;
}
EXPORT_SYMBOL_GPL(hmm_migrate_range);

/**
 * hmm_migrate_range_back() - migrate device memory of a range to ordinary memory
 * @migrate: as for hmm_migrate_range()
 *
 * The reverse of hmm_migrate_range(): only the device memory of @migrate->pgmap_owner
 * moves, private and coherent, whatever memory @migrate selects. Holes stay holes.
 * @migrate says so afterwards.
 *
 * Context: as hmm_migrate_range().
 * Return: as hmm_migrate_range().
 */
int hmm_migrate_range_back(struct hmm_migrate *migrate)
{
	migrate->select &= ~MIGRATE_VMA_SELECT_SYSTEM;
	migrate->select |= MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
			   MIGRATE_VMA_SELECT_DEVICE_COHERENT;
	migrate->flags &= ~HMM_MIGRATE_FILL_HOLES;
	migrate->hole_order = 0;
	return hmm_migrate_range(migrate);
}
EXPORT_SYMBOL_GPL(hmm_migrate_range_back);

/* What of the folio @vmf touched the vma may map, or the page alone. */
static void fault_range(struct hmm_migrate *migrate, const struct vm_fault *vmf)
{
	struct folio *folio = page_folio(vmf->page);
	unsigned long addr = PAGE_ALIGN_DOWN(vmf->address);
	unsigned long before = folio_page_idx(folio, vmf->page) * PAGE_SIZE;

	migrate->start = addr;
	migrate->end = addr + PAGE_SIZE;
	if (!(migrate->select & MIGRATE_VMA_SELECT_LARGE))
		return;
	migrate->start -= min(before, addr - vmf->vma->vm_start);
	migrate->end = min(addr - before + folio_size(folio), vmf->vma->vm_end);
}

/* One chunk; what is locked is a part of the fault, or another fault's. */
static void fault_migrate(struct pipeline *pipeline, struct vm_area_struct *vma)
{
	struct hmm_migrate *migrate = pipeline->migrate;
	struct hmm_migrate_chunk *chunk = &pipeline->chunks[0];
	unsigned long end = migrate->end;

	chunk_set_up(pipeline, chunk, vma, migrate->start, &end);
	chunk_settle(pipeline, chunk);
	again_give_up(pipeline, &pipeline->locked, 0);
	migrate->done = migrate->end;
}

static vm_fault_t fault_result(const struct pipeline *pipeline)
{
	const struct hmm_migrate *migrate = pipeline->migrate;

	/* Want of memory is no reason to kill the process: a retry may find some. */
	if (migrate->copy_failed && pipeline->chunks[0].error != -ENOMEM)
		return VM_FAULT_SIGBUS;
	if ((migrate->copy_failed || migrate->no_memory) && !migrate->moved)
		return VM_FAULT_OOM;
	/* Moved, or a part of it is, or somebody else holds it: the CPU tries again. */
	return 0;
}

/**
 * hmm_migrate_fault() - bring back what a CPU fault touched
 * @vmf: the fault, in &dev_pagemap_ops.migrate_to_ram
 * @migrate: how: its @ops, @private, @pgmap_owner, @node and @dma_chan; and its @select:
 *	with MIGRATE_VMA_SELECT_LARGE the whole folio comes back, otherwise the page alone
 *
 * Does for one fault what hmm_migrate_range_back() does for a range, and counts the
 * same. &hmm_migrate_ops.begin and &hmm_migrate_ops.wants are not called. @cancel is not
 * looked at, and what else there is in @migrate is set. A DMA channel for faults must be
 * one of their own, with a lock around this that can be taken with mmap_lock held.
 *
 * Context: as &dev_pagemap_ops.migrate_to_ram: mmap_lock is held, the page's folio is
 * locked. Sleeps.
 *
 * Return: what &dev_pagemap_ops.migrate_to_ram is to return.
 */
vm_fault_t hmm_migrate_fault(struct vm_fault *vmf, struct hmm_migrate *migrate)
{
	struct pipeline pipeline = { .fault_page = vmf->page };
	vm_fault_t result = VM_FAULT_OOM;

	if (WARN_ON_ONCE(!migrate->ops || !migrate->ops->copy))
		return VM_FAULT_SIGBUS;
	migrate->mm = vmf->vma->vm_mm;
	migrate->select &= MIGRATE_VMA_SELECT_LARGE;
	migrate->select |= MIGRATE_VMA_SELECT_DEVICE_PRIVATE;
	migrate->flags = HMM_MIGRATE_SKIP_NO_MEMORY;
	migrate->hole_order = 0;
	fault_range(migrate, vmf);
	migrate->chunk_size = migrate->end - migrate->start;
	hmm_migrate_reset(migrate);
	if (!pipeline_create(&pipeline, migrate)) {
		fault_migrate(&pipeline, vmf->vma);
		result = fault_result(&pipeline);
	}
	pipeline_destroy(&pipeline);
	return result;
}
EXPORT_SYMBOL_GPL(hmm_migrate_fault);

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

static int copy_segment(const struct hmm_migrate_segment *segment)
{
	unsigned long i;

	for (i = 0; i < segment->npages; i++) {
		if (!segment->src)
			clear_highpage(segment->dst + i);
		else if (copy_mc_highpage(segment->dst + i, segment->src + i))
			return -EHWPOISON;
		cond_resched();
	}
	return 0;
}

/**
 * hmm_migrate_copy() - a copy op: by the CPU
 * @chunk: what to copy; all of it must be memory that the CPU can address
 *
 * Context: sleeps.
 * Return: 0, or -EHWPOISON if the memory has an uncorrectable error.
 */
int hmm_migrate_copy(struct hmm_migrate_chunk *chunk)
{
	unsigned long i;
	int ret = 0;

	for (i = 0; !ret && i < chunk->nr_segments; i++)
		ret = copy_segment(&chunk->segments[i]);
	return ret;
}
EXPORT_SYMBOL_GPL(hmm_migrate_copy);

static struct folio *lock_new_folio(struct folio *folio)
{
	if (folio)
		__folio_set_locked(folio);
	return folio;
}

/**
 * hmm_migrate_alloc_system() - an allocator: ordinary memory, by the vma's policy
 * @chunk: whose vma it is
 * @addr: the address
 * @order: the order
 *
 * Context: sleeps.
 * Return: the folio, locked, or NULL.
 */
struct folio *hmm_migrate_alloc_system(const struct hmm_migrate_chunk *chunk,
				       unsigned long addr, unsigned int order)
{
	/* Smaller folios will do: nobody is to be killed for one of order 2. */
	gfp_t gfp = order ? GFP_TRANSHUGE | __GFP_NORETRY :
			    GFP_HIGHUSER_MOVABLE | __GFP_NOWARN;

	return lock_new_folio(vma_alloc_folio(gfp, order, chunk->vma, addr,
					      order == MIGRATE_HUGE_ORDER));
}
EXPORT_SYMBOL_GPL(hmm_migrate_alloc_system);

/**
 * hmm_migrate_alloc_node() - an allocator: ordinary memory of one node
 * @chunk: whose @migrate has the node
 * @addr: not used
 * @order: the order
 *
 * Context: sleeps.
 * Return: the folio, locked, or NULL; memory of other nodes is not taken.
 */
struct folio *hmm_migrate_alloc_node(const struct hmm_migrate_chunk *chunk,
				     unsigned long addr, unsigned int order)
{
	gfp_t gfp = order ? GFP_TRANSHUGE : GFP_HIGHUSER_MOVABLE;

	gfp |= __GFP_THISNODE | __GFP_NOWARN | __GFP_NORETRY;
	return lock_new_folio(__folio_alloc_node(gfp, order, chunk->migrate->node));
}
EXPORT_SYMBOL_GPL(hmm_migrate_alloc_node);

/**
 * hmm_migrate_wants_node() - to move only what is on another node
 * @chunk: whose @migrate has the node
 * @src: where something is
 *
 * Return: false if that is on the node already.
 */
bool hmm_migrate_wants_node(const struct hmm_migrate_chunk *chunk,
			    struct folio *src)
{
	return folio_nid(src) != chunk->migrate->node;
}
EXPORT_SYMBOL_GPL(hmm_migrate_wants_node);
