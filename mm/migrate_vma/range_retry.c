// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the retry list: folios that were locked or under writeback.
 *
 * Nothing waits for a folio lock or for I/O while chunks are pending, because the holder
 * may wait for this call: UFFDIO_MOVE waits for a folio lock, and reclaim for the
 * notifier of a device. Collect and the pages stage leave such folios alone, and the call
 * notes their addresses here. Addresses and not folios, because a reference to the folio
 * would make the migration fail that holds its lock. Once all chunks are settled,
 * range_retry() sleeps and migrates these places again.
 */
#include <linux/freezer.h>
#include <linux/hrtimer.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pagemap.h>
#include <linux/pagewalk.h>
#include <linux/sched/signal.h>
#include "range.h"

/*
 * The first passes are for holders that keep a folio for a moment, such as a fault or
 * reclaim. Their sleeps double from one to the next and add up to 4 to 8 ms.
 */
#define RANGE_QUICK_PASSES	10

/*
 * Later passes are for I/O. They sleep this long each, until the call has waited for
 * HMM_MIGRATE_MAX_WAIT.
 */
#define RANGE_POLL_USECS	8000UL

/**
 * range_retry_add() - note a place that is to be retried
 * @range: the call
 * @start: its first address
 * @end: the address behind it
 *
 * range_retry_is_full() keeps enough room, except for a chunk that was widened. A place
 * that finds no room is not retried, and counts as locked.
 */
void range_retry_add(struct range_ctx *range, unsigned long start, unsigned long end)
{
	struct range_places *retry = &range->retry;

	if (retry->nr && retry->at[retry->nr - 1].end == start)
		retry->at[retry->nr - 1].end = end;
	else if (retry->nr < retry->max)
		retry->at[retry->nr++] = (struct migrate_place){ start, end };
	else
		range->migrate->left[MIGRATE_LEFT_LOCKED] += range_pages(start, end);
}

/**
 * range_retry_is_full() - does the retry list have no room for another chunk?
 * @range: the call
 *
 * Half of the list is for entries that can still come before the next retry pass: folios
 * that are locked in the next chunk, and folios under writeback in that chunk and in the
 * pending ones. Each of their pages adds one entry at most.
 *
 * Return: true if the call has to retry before it begins another chunk.
 */
bool range_retry_is_full(const struct range_ctx *range)
{
	return range->retry.nr > range->retry.max / 2;
}

/**
 * range_retry_give_up() - count places as locked, and forget them
 * @range: the call
 * @places: the list, which is empty afterwards
 * @first: index of the first place to count; the places before it have been dealt with
 */
void range_retry_give_up(struct range_ctx *range, struct range_places *places,
			 unsigned int first)
{
	struct migrate_stats stats = {
		.stage = MIGRATE_STAGE_COLLECT,
		.by_pfn = range->by_pfn,
	};
	unsigned int i;

	for (i = first; i < places->nr; i++) {
		stats.start = places->at[i].start;
		stats.end = places->at[i].end;
		stats.left[MIGRATE_LEFT_LOCKED] = range_pages(stats.start, stats.end);
		migrate_stats_report(&stats);
		range->migrate->left[MIGRATE_LEFT_LOCKED] += stats.left[MIGRATE_LEFT_LOCKED];
	}
	places->nr = 0;
}

/*
 * Is the folio at @addr locked or under writeback? Called under mmap_lock. Looks under
 * the PTL, without a reference, which would make another migration of the folio fail; and
 * without the collect stage, which would call the notifiers.
 *
 * Returns in @next the end of the folio. The answer holds for all of it: a range that
 * began in the middle of a folio would have the folio split.
 */
static bool addr_is_busy(struct mm_struct *mm, unsigned long addr, unsigned long *next)
{
	struct vm_area_struct *vma = vma_lookup(mm, addr);
	struct folio_walk fw;
	unsigned long nr_pages, index;
	struct folio *folio;
	bool busy;

	*next = addr + PAGE_SIZE;
	folio = vma ? folio_walk_start(&fw, vma, addr, FW_MIGRATION) : NULL;
	if (!folio)
		return false;
	busy = folio_test_locked(folio) || folio_test_writeback(folio);
	/*
	 * Read the size once, because the folio may be split at this moment. A migration
	 * entry does not give the page; assume that the folio is mapped naturally
	 * aligned, as by a fault.
	 */
	nr_pages = folio_nr_pages(folio);
	index = fw.page ? folio_page_idx(folio, fw.page) :
			  (addr >> PAGE_SHIFT) & (nr_pages - 1);
	*next = addr + (nr_pages - index) * PAGE_SIZE;
	/* folio_walk_start() has taken the PTL without an annotation for sparse. */
	__acquire(fw.ptl);
	folio_walk_end(&fw, vma);
	return busy;
}

/*
 * Returns in @busy whether the folio at @addr is busy, and lowers *@end to where that
 * changes, or to where a contended mmap_lock or a fatal signal stopped the search. In a
 * call by device pfns, an attempt to migrate is as cheap as a look, so nothing is busy.
 */
static int range_find_busy(const struct range_ctx *range, unsigned long addr,
			   unsigned long *end, bool *busy)
{
	struct mm_struct *mm = range->migrate->mm;
	unsigned long next, last = *end;

	*busy = false;
	if (range->by_pfn)
		return 0;
	if (!range->keeps_lock && mmap_read_lock_killable(mm))
		return -EINTR;
	*busy = addr_is_busy(mm, addr, end);
	while (*end < last && !mmap_lock_is_contended(mm) &&
	       !fatal_signal_pending(current) && addr_is_busy(mm, *end, &next) == *busy) {
		*end = next;
		cond_resched();
	}
	if (!range->keeps_lock)
		mmap_read_unlock(mm);
	*end = min(*end, last);
	return 0;
}

/* Migrate the folios of @place that are not busy any more, and note the others again. */
static int range_retry_place(struct range_ctx *range, struct migrate_place *place,
			     unsigned int pass)
{
	bool busy = false;
	int ret = 0;

	while (!ret && place->start < place->end && !range_retry_is_full(range)) {
		unsigned long end = place->end;

		/* Most folios are free by the first pass: do not look, but try. */
		if (pass)
			ret = range_find_busy(range, place->start, &end, &busy);
		if (!ret && !busy) {
			ret = range_run(range, &place->start, end);
		} else if (!ret) {
			range_retry_add(range, place->start, end);
			place->start = end;
		}
		cond_resched();
	}
	return ret;
}

/* Sleep before a retry pass; no folio is locked or unmapped by the call. */
static int range_sleep(struct range_ctx *range, unsigned int pass)
{
	unsigned long usecs = pass < RANGE_QUICK_PASSES ? 4UL << pass : RANGE_POLL_USECS;
	bool killable = !(range->flags & HMM_MIGRATE_UNKILLABLE);
	ktime_t timeout = ns_to_ktime(usecs * NSEC_PER_USEC);
	u64 then = ktime_get_ns();

	/* usleep_range_state() would spin on a pending signal until the time is up. */
	set_current_state(killable ? TASK_KILLABLE | TASK_FREEZABLE : TASK_UNINTERRUPTIBLE);
	schedule_hrtimeout_range(&timeout, usecs * NSEC_PER_USEC, HRTIMER_MODE_REL);
	if (pass >= RANGE_QUICK_PASSES)
		range->waited += ktime_get_ns() - then;
	return range_must_stop(range);
}

/**
 * range_retry() - retry the places of the list until it is empty, or for long enough
 * @range: the call; no chunk is pending
 * @error: if not 0, the call ends with it: do not retry, only count the places
 *
 * Places that are left in the list count as locked, and the list is empty afterwards.
 *
 * Context: sleeps. mmap_lock is not held, but with &range_ctx.keeps_lock.
 * Return: @error, or the error that ends the call, or 0.
 */
int range_retry(struct range_ctx *range, int error)
{
	bool wait = !(range->flags & HMM_MIGRATE_NO_WAIT);
	struct range_places *places = &range->retrying;
	unsigned int pass, i;

	for (pass = 0; !error && range->retry.nr; pass++) {
		bool quick = pass < RANGE_QUICK_PASSES;
		unsigned long moved = range->migrate->moved;
		u64 waited = range->waited, then = ktime_get_ns();

		if (!wait && pass)
			break;
		if (wait && !quick && waited >= HMM_MIGRATE_MAX_WAIT * NSEC_PER_MSEC)
			break;
		/* Folios that are still busy make up the list of the next pass. */
		swap(range->retry, range->retrying);
		if (wait)
			error = range_sleep(range, pass);
		range->in_retry = true;
		for (i = 0; !error && i < places->nr; i++) {
			error = range_retry_place(range, &places->at[i], pass);
			/* An error; or so many busy parts that the next list is full. */
			if (places->at[i].start < places->at[i].end)
				break;
		}
		range->in_retry = false;
		range_retry_give_up(range, places, i);
		/* All of a pass that moves nothing counts as waiting. */
		if (!quick && range->migrate->moved == moved)
			range->waited = waited + ktime_get_ns() - then;
	}
	range->left_locked |= range->retry.nr && range->keeps_lock;
	range_retry_give_up(range, &range->retry, 0);
	return error;
}
