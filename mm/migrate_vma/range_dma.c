// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration copied by a channel of the dmaengine framework.
 *
 * A channel is for a chunk and not for a call: several calls may copy by one, and a call
 * whose pages are under I/O keeps nobody from it. What an engine may do differently:
 *
 * - It completes in any order: each descriptor is counted, and the last one to be called
 *   back ends the chunk. An engine that completes in order interrupts once a chunk.
 * - It cannot terminate, or nothing excludes that a callback runs after that: what it has
 *   not ended within DMA_TIMEOUT is lost. Its memory is never given back, and counted.
 * - Terminating ends the copies of all calls. Those of others are submitted again: the
 *   source has not changed, so a copy can be repeated.
 * - It calls back without a result. The core says then that all is well, whatever has
 *   happened; where completion is in order, the status of the last descriptor is asked
 *   for, too. That is all there is: who hands out a channel vouches for it.
 *
 * A shortage is no error: without bounce buffers, addresses or descriptors, a chunk is
 * copied in smaller parts, and in the end by the CPU where that reaches both sides.
 *
 * Where few pages are neighbours, a chunk has many segments, and to map and submit each of
 * them may take longer than to copy its pages: an IOMMU, or bounce buffers, which the CPU
 * copies to. What both take is measured, and such a chunk is copied by the CPU.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/export.h>
#include <linux/highmem.h>
#include <linux/hmm_migrate.h>
#include <linux/iopoll.h>
#include <linux/list.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include "range.h"

/* An engine that takes longer for a chunk is taken for dead. */
#define DMA_TIMEOUT		(30 * HZ)

/* How long a page waits for others' bounce buffers. */
#define DMA_MAP_TIMEOUT		HZ

/* How often it is asked whether it has descriptors again, in microseconds. */
#define DMA_POLL		20

/* It refuses what it has not taken so often when it had nothing to do. */
#define DMA_IDLE		16

/* How long one who is killed waits for what it has submitted. */
#define DMA_KILL_TIMEOUT	HZ

/* How often a chunk is submitted again that others have terminated. */
#define DMA_TRIES		3

/* A part is not larger than this if the chunk cannot be mapped whole. */
#define DMA_PART_PAGES		((unsigned long)SZ_1M >> PAGE_SHIFT)

/* When it could not copy so many pages in a row, it is not tried for others of a chunk. */
#define DMA_FAILURES		8

/* What a segment costs is measured anew by each chunk of so many that the CPU copies. */
#define DMA_MEASURE		32

/* One measurement changes the average by this part of the difference. */
#define DMA_AVERAGE		8

/* Of fewer segments, it is what a chunk costs that is measured. */
#define DMA_MIN_SEGMENTS	32

/* So many pieces of a chunk are looked up at once. */
#define DMA_PIECES		16

/**
 * struct hmm_migrate_dma - a channel, and who copies by it
 * @chan: the channel
 * @dev: the device that memory is mapped for
 * @ordered: it completes in the order of submission
 * @stops: it can terminate, and no callback runs after that
 * @stop_lock: held for reading to submit, and for writing to terminate
 * @lock: protects @copies and the state of each
 * @copies: what has been submitted and is not over
 * @max: the longest descriptor that it has not refused, in bytes
 * @timeouts: how often in a row it has not ended what it had to within DMA_TIMEOUT
 * @failed: that was too often, or it cannot be stopped: it is not used any more
 * @segment_cost: nanoseconds, on average, to map, submit and unmap a segment; 0 at first
 * @page_cost: nanoseconds that the CPU takes to copy a page
 * @nr_by_cpu: how many chunks it has copied for that
 * @let_cpu: it may
 */
struct hmm_migrate_dma {
	struct dma_chan *chan;
	struct device *dev;
	bool ordered;
	bool stops;
	struct rw_semaphore stop_lock;
	spinlock_t lock;		/* see above */
	struct list_head copies;
	size_t max;
	unsigned int timeouts;
	bool failed;
	unsigned int segment_cost;
	unsigned int page_cost;
	unsigned int nr_by_cpu;
	bool let_cpu;
};

/**
 * struct dma_copy - a chunk that is copied
 * @dma: by which channel
 * @map: the addresses
 * @list: in the channel's @copies
 * @pending: descriptors that are not called back, and one for @submitting or @asks; in
 *	order, those with an interrupt
 * @pieces: those that are submitted at the moment
 * @first: what was submitted first, and can be repeated; of no length if nothing was
 * @cookie: that of what was submitted last
 * @submitting: there may be more
 * @error: an engine has reported an error
 * @stopped: somebody has terminated the channel
 * @lost: it is not over, and never will be; stays in the channel's @copies
 * @asks: the last one has no interrupt, and cannot get one: its status is asked for
 * @by_cpu: the CPU is to copy what it can reach
 * @failures: how many pages in a row the engine could not copy
 * @whole: the chunk is mapped whole
 * @in_parts: it could not be mapped whole, or not be submitted
 * @time: nanoseconds that it took to map and submit it; 0 if that is not known
 * @done: nothing is pending
 */
struct dma_copy {
	struct hmm_migrate_dma *dma;
	struct hmm_migrate_map map;
	struct list_head list;
	unsigned int pending;
	struct hmm_migrate_piece pieces[DMA_PIECES];
	struct hmm_migrate_piece first;
	dma_cookie_t cookie;
	bool submitting;
	bool error;
	bool stopped;
	bool lost;
	bool asks;
	bool by_cpu;
	unsigned int failures;
	bool whole;
	bool in_parts;
	u64 time;
	struct completion done;
};

/* Descriptors */

/* @nr of its descriptors are over; the channel's lock is held. */
static void copy_put(struct dma_copy *copy, unsigned int nr)
{
	lockdep_assert_held(&copy->dma->lock);
	copy->pending -= nr;
	if (!copy->pending && !copy->lost) {
		list_del_init(&copy->list);
		complete(&copy->done);
	}
}

static void copy_note(void *param, const struct dmaengine_result *result)
{
	struct dma_copy *copy = param;

	if (result && result->result != DMA_TRANS_NOERROR)
		WRITE_ONCE(copy->error, true);
}

/* A descriptor is over; in order, all those before it are, too. */
static void copy_callback(void *param, const struct dmaengine_result *result)
{
	struct dma_copy *copy = param;
	struct hmm_migrate_dma *dma = copy->dma;
	unsigned long flags;

	copy_note(param, result);
	spin_lock_irqsave(&dma->lock, flags);
	copy_put(copy, 1);
	spin_unlock_irqrestore(&dma->lock, flags);
}

static enum dma_status copy_status(struct dma_copy *copy)
{
	if (!copy->first.length || READ_ONCE(copy->stopped))
		return DMA_COMPLETE;
	return dma_async_is_tx_complete(copy->dma->chan, copy->cookie, NULL, NULL);
}

/*
 * Has the engine nothing to do, for this copy or another, and so all descriptors? Some
 * engines take them back only when they are asked.
 */
static bool copy_is_idle(struct dma_copy *copy)
{
	struct dma_chan *chan = copy->dma->chan;
	struct dma_copy *other;
	bool idle;

	if (dma_async_is_tx_complete(chan, chan->cookie, NULL, NULL) == DMA_IN_PROGRESS)
		return false;
	spin_lock_irq(&copy->dma->lock);
	idle = copy->pending == 1;
	list_for_each_entry(other, &copy->dma->copies, list)
		idle = idle && (other == copy || other->lost);
	spin_unlock_irq(&copy->dma->lock);
	return idle;
}

/* What has no source is filled with zeros: by an engine that can. */
static struct dma_async_tx_descriptor *
chan_prepare(struct dma_chan *chan, const struct hmm_migrate_piece *piece,
	     unsigned long flags)
{
	if (piece->src == DMA_MAPPING_ERROR)
		return dmaengine_prep_dma_memset(chan, piece->dst, 0, piece->length, flags);
	return dmaengine_prep_dma_memcpy(chan, piece->dst, piece->src, piece->length, flags);
}

static bool chan_is_aligned(struct dma_chan *chan, const struct hmm_migrate_piece *piece)
{
	if (piece->src == DMA_MAPPING_ERROR)
		return is_dma_fill_aligned(chan->device, piece->dst, 0, piece->length);
	return is_dma_copy_aligned(chan->device, piece->src, piece->dst, piece->length);
}

/*
 * Returns -EAGAIN if the engine does not take it, or -ECANCELED if the channel has been
 * terminated: nothing is submitted after that, so that all of the copy is over. Some
 * drivers hold a spinlock from preparing a descriptor to its submission: nothing sleeps
 * between.
 */
static int copy_try_submit(struct dma_copy *copy, const struct hmm_migrate_piece *piece)
{
	bool counts = piece->last || !copy->dma->ordered;
	unsigned long flags = DMA_CTRL_ACK | (counts ? DMA_PREP_INTERRUPT : 0);
	struct hmm_migrate_dma *dma = copy->dma;
	struct dma_async_tx_descriptor *tx;
	dma_cookie_t cookie;

	lockdep_assert_held_read(&dma->stop_lock);
	if (copy->stopped)
		return -ECANCELED;
	tx = chan_prepare(dma->chan, piece, flags);
	if (!tx)
		return -EAGAIN;
	tx->callback_result = counts ? copy_callback : copy_note;
	tx->callback_param = copy;
	if (counts) {
		spin_lock_irq(&dma->lock);
		copy->pending++;
		spin_unlock_irq(&dma->lock);
	}
	cookie = dmaengine_submit(tx);
	if (!dma_submit_error(cookie)) {
		if (!copy->first.length)
			copy->first = *piece;
		copy->cookie = cookie;
		return 0;
	}
	spin_lock_irq(&dma->lock);
	copy_put(copy, counts);
	spin_unlock_irq(&dma->lock);
	return -EIO;
}

/*
 * The engine may be out of descriptors until it has done what it has; and it may refuse
 * what it can never do, -EBUSY. That is told apart by whether it has anything to do. If it
 * completes in order it interrupts for the last one, and calls back for the others before
 * that, if at all. While this waits, the channel may be terminated.
 */
static noinline int copy_submit_later(struct dma_copy *copy,
				      const struct hmm_migrate_piece *piece, bool killable)
{
	unsigned long deadline = jiffies + DMA_TIMEOUT;
	unsigned int idle = 0;
	int ret;

	do {
		dma_async_issue_pending(copy->dma->chan);
		up_read(&copy->dma->stop_lock);
		usleep_range(DMA_POLL, 2 * DMA_POLL);
		idle += copy_is_idle(copy);
		down_read(&copy->dma->stop_lock);
		if (idle > DMA_IDLE)
			return -EBUSY;
		if (time_after(jiffies, deadline))
			return -ETIMEDOUT;
		if (killable && fatal_signal_pending(current))
			return -EINTR;
		ret = copy_try_submit(copy, piece);
	} while (ret == -EAGAIN);
	return ret;
}

static __always_inline int
copy_submit_one(struct dma_copy *copy, const struct hmm_migrate_piece *piece, bool killable)
{
	int ret;

	if (!chan_is_aligned(copy->dma->chan, piece))
		return -EOPNOTSUPP;
	ret = copy_try_submit(copy, piece);
	return unlikely(ret == -EAGAIN) ? copy_submit_later(copy, piece, killable) : ret;
}

/* In whole pages, and at least one. */
static size_t length_half(size_t length)
{
	return max(round_down(length / 2, PAGE_SIZE), PAGE_SIZE);
}

/* A piece in shorter ones, of @max bytes, or less if the engine refuses these, too. */
static noinline int copy_submit_shorter(struct dma_copy *copy,
					const struct hmm_migrate_piece *piece, size_t max)
{
	struct hmm_migrate_dma *dma = copy->dma;
	struct hmm_migrate_piece next = *piece;
	size_t left;
	int ret = 0;

	for (left = piece->length; !ret && left; left -= next.length) {
		next.dst = piece->dst + piece->length - left;
		if (piece->src != DMA_MAPPING_ERROR)
			next.src = piece->src + piece->length - left;
		next.length = min(left, max);
		next.last = piece->last && next.length == left;
		ret = copy_submit_one(copy, &next, true);
		if (ret == -EBUSY && next.length > PAGE_SIZE) {
			max = length_half(next.length);
			next.length = 0;
			ret = 0;
		} else if (!ret && max < READ_ONCE(dma->max)) {
			/* It takes shorter ones: it is not asked for longer ones again. */
			WRITE_ONCE(dma->max, max);
		}
	}
	return ret;
}

static int copy_submit(struct dma_copy *copy, const struct hmm_migrate_piece *piece)
{
	size_t max = READ_ONCE(copy->dma->max);
	int ret;

	if (unlikely(piece->length > max))
		return copy_submit_shorter(copy, piece, max);
	ret = copy_submit_one(copy, piece, true);
	if (unlikely(ret == -EBUSY && piece->length > PAGE_SIZE))
		return copy_submit_shorter(copy, piece, length_half(piece->length));
	return ret;
}

static int copy_submit_pieces(struct dma_copy *copy)
{
	size_t max = READ_ONCE(copy->dma->max);
	unsigned int nr, i;
	int ret = 0;

	while (!ret && (nr = hmm_migrate_map_pieces(&copy->map, copy->pieces, DMA_PIECES,
						    max))) {
		for (i = 0; !ret && i < nr; i++)
			ret = copy_submit(copy, &copy->pieces[i]);
		cond_resched();
	}
	return ret;
}

/*
 * The last descriptor that was submitted has no interrupt, and the engine does not take
 * those that were to follow. Copy once more what it has taken first, with an interrupt:
 * then the callbacks of all those before it are over, too, which their status would not
 * tell. One who is killed waits for it as well.
 */
static bool copy_submit_fence(struct dma_copy *copy)
{
	struct hmm_migrate_piece fence = copy->first;

	fence.last = true;
	return !fence.length || !copy_submit_one(copy, &fence, false);
}

/* Submit all of the part that is mapped. What is submitted is waited for in any case. */
static int copy_submit_part(struct dma_copy *copy)
{
	struct hmm_migrate_dma *dma = copy->dma;
	bool asks;
	int ret;

	init_completion(&copy->done);
	copy->pending = 1;
	copy->submitting = true;
	copy->first.length = 0;
	copy->error = false;
	copy->stopped = false;
	spin_lock_irq(&dma->lock);
	list_add_tail(&copy->list, &dma->copies);
	spin_unlock_irq(&dma->lock);

	down_read(&dma->stop_lock);
	ret = copy_submit_pieces(copy);
	asks = ret && dma->ordered && !copy_submit_fence(copy);
	up_read(&dma->stop_lock);
	dma_async_issue_pending(dma->chan);
	spin_lock_irq(&dma->lock);
	copy->submitting = false;
	copy->asks = asks && !copy->stopped;
	if (!copy->asks)
		copy_put(copy, 1);
	spin_unlock_irq(&dma->lock);
	return ret;
}

/* The end */

/* All copies are over: the channel has been terminated. */
static void dma_stop_copies(struct hmm_migrate_dma *dma)
{
	struct dma_copy *copy, *next;

	spin_lock_irq(&dma->lock);
	list_for_each_entry_safe(copy, next, &dma->copies, list) {
		copy->stopped = true;
		/* Who still submits has one of its own. */
		copy_put(copy, copy->pending - copy->submitting);
	}
	spin_unlock_irq(&dma->lock);
}

/*
 * @copy is not over in time, which counts if it is @late and not only killed. Returns
 * false if it cannot be stopped: the engine may write to its memory, and call back, at any
 * time.
 */
static bool dma_stop(struct hmm_migrate_dma *dma, struct dma_copy *copy, bool late)
{
	bool stopped = true;

	down_write(&dma->stop_lock);
	/* It may be over by now, or another one may have done it. */
	if (!completion_done(&copy->done)) {
		stopped = dma->stops && !dmaengine_terminate_sync(dma->chan);
		if (stopped)
			dma_stop_copies(dma);
		dma->timeouts += late;
		if (!stopped || dma->timeouts > 1)
			WRITE_ONCE(dma->failed, true);
	}
	up_write(&dma->stop_lock);
	return stopped;
}

/*
 * Ask until what was submitted last is over. Its callback, and those before it, may be yet
 * to come: what excludes that is what makes an engine one that can be stopped.
 */
static bool copy_ask(struct dma_copy *copy)
{
	struct hmm_migrate_dma *dma = copy->dma;
	enum dma_status status;

	if (!dma->stops ||
	    read_poll_timeout(copy_status, status, status != DMA_IN_PROGRESS, DMA_POLL,
			      jiffies_to_usecs(DMA_TIMEOUT), false, copy))
		return false;
	dmaengine_synchronize(dma->chan);
	spin_lock_irq(&dma->lock);
	if (!copy->stopped)
		copy_put(copy, 1);
	spin_unlock_irq(&dma->lock);
	return true;
}

/*
 * Wait until it is over; for one who is killed, not long if it can be stopped. Returns
 * whether it is, and in @late whether it has had all the time.
 */
static bool copy_wait_done(struct dma_copy *copy, bool *late)
{
	long left;

	*late = true;
	if (copy->asks)
		return copy_ask(copy);
	left = wait_for_completion_killable_timeout(&copy->done, DMA_TIMEOUT);
	if (left >= 0)
		return left;
	*late = !copy->dma->stops;
	return wait_for_completion_timeout(&copy->done,
					   *late ? DMA_TIMEOUT : DMA_KILL_TIMEOUT);
}

/*
 * Wait for what has been submitted of the part that is mapped. Returns 0; -EAGAIN if
 * somebody has terminated it; -EIO if the engine reports an error; -ETIMEDOUT if it
 * reports nothing, or -ENOTRECOVERABLE if it could not be stopped then.
 */
static int copy_wait_part(struct dma_copy *copy)
{
	struct hmm_migrate_dma *dma = copy->dma;
	bool late;

	if (!copy_wait_done(copy, &late))
		return dma_stop(dma, copy, late) ? -ETIMEDOUT : -ENOTRECOVERABLE;
	if (copy->stopped)
		return -EAGAIN;
	if (READ_ONCE(copy->error) || (dma->ordered && copy_status(copy) == DMA_ERROR))
		return -EIO;
	WRITE_ONCE(dma->timeouts, 0);
	return 0;
}

/* By the CPU */

static bool page_is_reachable(struct page *page)
{
	return !page || !is_device_private_page(page);
}

/* Copy a page by the CPU, or have it stay. Returns false if the CPU cannot reach it. */
static bool copy_page_by_cpu(struct hmm_migrate_chunk *chunk,
			     const struct hmm_migrate_segment *segment, unsigned long i)
{
	struct page *src = segment->src ? segment->src + i : NULL;
	struct page *dst = segment->dst + i;

	if (!page_is_reachable(src) || !page_is_reachable(dst))
		return false;
	if (!src)
		clear_highpage(dst);
	else if (copy_mc_highpage(dst, src))
		hmm_migrate_fail(chunk, segment->index + i);
	return true;
}

/* In parts */

/*
 * Map the next part, of @max pages, or of as many as can be mapped. Returns how many it
 * has, or -ENOMEM if not even one page can.
 */
static long copy_map_part(struct dma_copy *copy, unsigned long *max)
{
	long npages;

	while ((npages = hmm_migrate_map_part(&copy->map, *max)) == -ENOMEM && *max > 1)
		*max /= 2;
	return npages;
}

/* Others have the bounce buffers: a page that the CPU cannot copy waits for them. */
static long copy_map_page(struct dma_copy *copy)
{
	unsigned long deadline = jiffies + DMA_MAP_TIMEOUT;
	long npages;

	while ((npages = hmm_migrate_map_part(&copy->map, 1)) == -ENOMEM) {
		if (time_after(jiffies, deadline) || fatal_signal_pending(current))
			break;
		usleep_range(DMA_POLL, 2 * DMA_POLL);
	}
	return npages;
}

/* Have the engine copy what is mapped, and again if others have terminated it. */
static int copy_part(struct dma_copy *copy)
{
	unsigned int tries = 0;
	int ret, submitted;

	do {
		hmm_migrate_map_rewind(&copy->map);
		submitted = copy_submit_part(copy);
		ret = copy_wait_part(copy) ?: submitted;
	} while (ret == -EAGAIN && ++tries < DMA_TRIES);
	return ret;
}

/* The next page, if the CPU can copy it. */
static bool copy_next_by_cpu(struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	const struct hmm_migrate_segment *segment;
	unsigned long page;

	segment = hmm_migrate_map_place(&copy->map, &page);
	if (!copy_page_by_cpu(chunk, segment, page))
		return false;
	hmm_migrate_map_skip(&copy->map);
	return true;
}

/* The engine cannot copy the next page: the CPU does it, or its folio stays. */
static void copy_next_or_fail(struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	const struct hmm_migrate_segment *segment;
	unsigned long page, next;

	if (copy_next_by_cpu(chunk, copy))
		return;
	segment = hmm_migrate_map_place(&copy->map, &page);
	next = hmm_migrate_fail(chunk, segment->index + page);
	while (segment && segment->index + page < next) {
		hmm_migrate_map_skip(&copy->map);
		segment = hmm_migrate_map_place(&copy->map, &page);
	}
}

/*
 * Map the next part, of *@max pages or fewer. If not even a page can be mapped, the CPU
 * copies it, and 0 is returned; or it is waited for, as others may have the buffers.
 */
static long copy_map_next(struct hmm_migrate_chunk *chunk, struct dma_copy *copy,
			  unsigned long *max)
{
	long npages = copy_map_part(copy, max);

	if (npages >= 0)
		return npages;
	return copy_next_by_cpu(chunk, copy) ? 0 : copy_map_page(copy);
}

/*
 * Have the engine copy the part of @npages pages that is mapped. Where it reports an error
 * it is given less and less, so that the folio alone stays that cannot be copied; and
 * nothing more when it copies nothing at all.
 */
static int copy_mapped(struct hmm_migrate_chunk *chunk, struct dma_copy *copy, long npages,
		       unsigned long *max)
{
	int ret = copy_part(copy);

	if (ret == -ENOTRECOVERABLE)
		return ret;
	hmm_migrate_unmap_part(&copy->map);
	if (!ret) {
		copy->failures = 0;
		*max = min(2 * *max, DMA_PART_PAGES);
		return 0;
	}
	hmm_migrate_map_back(&copy->map);
	*max = max(npages / 2, 1L);
	if (npages > 1)
		return 0;
	copy_next_or_fail(chunk, copy);
	copy->failures++;
	return 0;
}

static int copy_in_parts(struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	unsigned long max = DMA_PART_PAGES;
	long npages;
	int ret = 0;

	copy->failures = 0;
	hmm_migrate_map_begin(&copy->map, chunk, copy->dma->dev);
	while (!ret && hmm_migrate_map_place(&copy->map, NULL)) {
		bool fails = copy->failures > DMA_FAILURES || READ_ONCE(copy->dma->failed);

		cond_resched();
		if ((fails || copy->by_cpu) && copy_next_by_cpu(chunk, copy))
			continue;
		if (fails)
			return -EIO;
		npages = copy_map_next(chunk, copy, &max);
		if (npages < 0)
			return npages;
		if (npages)
			ret = copy_mapped(chunk, copy, npages, &max);
	}
	return ret;
}

/* The ops */

static bool chunk_has_addresses(const struct hmm_migrate_chunk *chunk)
{
	unsigned long i;

	if (chunk->migrate->ops->address)
		return true;
	for (i = 0; i < chunk->nr_segments; i++)
		if (!page_is_reachable(chunk->segments[i].dst) ||
		    !page_is_reachable(chunk->segments[i].src))
			return false;
	return true;
}

/* Can the CPU read and write all of @chunk? Otherwise the engine has to copy it. */
static bool chunk_is_reachable(const struct hmm_migrate_chunk *chunk)
{
	unsigned long i;

	for (i = 0; i < chunk->nr_segments; i++)
		if (!page_is_reachable(chunk->segments[i].src) ||
		    !page_is_reachable(chunk->segments[i].dst))
			return false;
	return true;
}

static unsigned long chunk_pages(const struct hmm_migrate_chunk *chunk)
{
	unsigned long i, npages = 0;

	for (i = 0; i < chunk->nr_segments; i++)
		npages += chunk->segments[i].npages;
	return npages;
}

/* Does the CPU copy @chunk sooner than it maps and submits the segments? */
static bool dma_is_dearer(struct hmm_migrate_dma *dma, const struct hmm_migrate_chunk *chunk)
{
	unsigned int cost = READ_ONCE(dma->segment_cost), page_cost = READ_ONCE(dma->page_cost);
	unsigned int nr;

	/* A segment has a page at least. */
	if (cost <= page_cost || !READ_ONCE(dma->let_cpu) ||
	    (u64)cost * chunk->nr_segments <= (u64)page_cost * chunk_pages(chunk) ||
	    !chunk_is_reachable(chunk))
		return false;
	/* It may have become cheaper. */
	nr = READ_ONCE(dma->nr_by_cpu) + 1;
	WRITE_ONCE(dma->nr_by_cpu, nr);
	return nr % DMA_MEASURE;
}

/* If this has changed, the task has slept or was preempted: discard the measurement. */
static unsigned long nr_switches(void)
{
	return current->nvcsw + current->nivcsw;
}

/*
 * Two calls may race and lose one measurement, which does not matter. Clamp outliers, which
 * interrupts or the hypervisor cause.
 */
static void note_cost(unsigned int *average, u64 time, unsigned long nr)
{
	int cost = min_t(u64, div64_ul(time, nr), NSEC_PER_MSEC), old = READ_ONCE(*average);

	if (old)
		cost = old + (min(cost, 4 * old) - old) / DMA_AVERAGE;
	WRITE_ONCE(*average, cost);
}

/* Does the time that @chunk takes tell what a segment costs? The CPU fills what has no source. */
static bool chunk_tells_cost(const struct hmm_migrate_chunk *chunk)
{
	unsigned long i;

	if (chunk->nr_segments < DMA_MIN_SEGMENTS)
		return false;
	for (i = 0; i < chunk->nr_segments; i++)
		if (!chunk->segments[i].src)
			return false;
	return true;
}

/* No engine copies arm64's tags: the task would lose them, and fault at its next access. */
static bool chunk_has_tags(const struct hmm_migrate_chunk *chunk)
{
	return chunk->vma && chunk->vma->vm_flags & VM_MTE;
}

static struct dma_copy *chunk_copy(struct hmm_migrate_chunk *chunk,
				   struct hmm_migrate_dma *dma)
{
	struct dma_copy *copy = chunk->private;

	if (!copy) {
		copy = kzalloc(sizeof(*copy), GFP_KERNEL);
		if (!copy)
			return NULL;
		copy->map.fills = dma_has_cap(DMA_MEMSET, dma->chan->device->cap_mask);
		chunk->private = copy;
	}
	copy->dma = dma;
	INIT_LIST_HEAD(&copy->list);
	copy->by_cpu = chunk_has_tags(chunk) || dma_is_dearer(dma, chunk);
	copy->in_parts = false;
	copy->whole = false;
	return copy;
}

/**
 * hmm_migrate_dma_copy() - for a copy op: by a channel of a DMA engine
 * @chunk: what to copy
 * @dma: by hmm_migrate_dma_create(); several calls may use it at once
 *
 * To be used with hmm_migrate_dma_wait() and hmm_migrate_dma_release(); &hmm_migrate_chunk
 * .private is theirs then. Ordinary and coherent memory is mapped for the channel's device;
 * for private memory, &hmm_migrate_ops.address says where it is.
 *
 * Context: sleeps.
 * Return: 0 if copying has begun, or is to be done by hmm_migrate_dma_wait(); -ENOMEM; or
 * -EINVAL if there is private memory and no &hmm_migrate_ops.address.
 */
int hmm_migrate_dma_copy(struct hmm_migrate_chunk *chunk, struct hmm_migrate_dma *dma)
{
	unsigned long switches = nr_switches();
	struct dma_copy *copy;
	u64 then;

	if (!chunk_has_addresses(chunk))
		return -EINVAL;
	copy = chunk_copy(chunk, dma);
	if (!copy)
		return -ENOMEM;
	then = ktime_get_ns();
	hmm_migrate_map_begin(&copy->map, chunk, dma->dev);
	if (copy->by_cpu || READ_ONCE(dma->failed) ||
	    hmm_migrate_map_part(&copy->map, chunk->npages) < 0) {
		copy->in_parts = true;
		return 0;
	}
	/* What the engine does not take is found out again, part by part. */
	copy->whole = true;
	copy->in_parts = copy_submit_part(copy);
	copy->time = switches == nr_switches() ? ktime_get_ns() - then : 0;
	return 0;
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_copy);

/* What was mapped whole. Returns whether it is copied, or the error of copy_wait_part(). */
static int copy_whole(struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	bool refused = copy->in_parts;
	int ret = copy_wait_part(copy);
	unsigned long switches = nr_switches();
	u64 then = ktime_get_ns();

	if (ret != -ENOTRECOVERABLE)
		hmm_migrate_unmap_part(&copy->map);
	if (!ret && !refused && copy->time && switches == nr_switches() &&
	    chunk_tells_cost(chunk))
		note_cost(&copy->dma->segment_cost, copy->time + ktime_get_ns() - then,
			  chunk->nr_segments);
	return ret ?: refused ? -EAGAIN : 0;
}

/* Copy all of @chunk by the CPU; -EAGAIN if it does not reach all of it. */
static int copy_by_cpu(struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	unsigned long switches = nr_switches();
	u64 then = ktime_get_ns();
	int ret;

	if (!chunk_is_reachable(chunk))
		return -EAGAIN;
	ret = hmm_migrate_copy(chunk);
	if (switches == nr_switches())
		note_cost(&copy->dma->page_cost, ktime_get_ns() - then, chunk_pages(chunk));
	return ret;
}

/* The engine may still call back: what it knows of stays, mapped as it is. */
static void copy_lose(struct dma_copy *copy)
{
	struct hmm_migrate_dma *dma = copy->dma;

	spin_lock_irq(&dma->lock);
	copy->lost = true;
	if (list_empty(&copy->list))
		list_add_tail(&copy->list, &dma->copies);
	spin_unlock_irq(&dma->lock);
}

/**
 * hmm_migrate_dma_wait() - a wait op: for what hmm_migrate_dma_copy() has begun
 * @chunk: the chunk
 *
 * What the engine could not copy is copied in smaller parts, or by the CPU where that
 * reaches both sides. A folio that cannot be copied at all stays: hmm_migrate_fail().
 *
 * Context: sleeps.
 * Return: 0; -ENOMEM if a page that the CPU cannot reach could not be mapped for a second;
 * -EIO if the channel has failed before; or -ENOTRECOVERABLE if the engine has not ended
 * what it had to within half a minute, and cannot be stopped: hmm_migrate_lose() has been
 * called.
 */
int hmm_migrate_dma_wait(struct hmm_migrate_chunk *chunk)
{
	struct dma_copy *copy = chunk->private;
	int ret = -EAGAIN;

	if (copy->whole)
		ret = copy_whole(chunk, copy);
	else if (copy->by_cpu)
		ret = copy_by_cpu(chunk, copy);
	if (ret && ret != -ENOTRECOVERABLE)
		ret = copy_in_parts(chunk, copy);
	if (ret == -ENOTRECOVERABLE) {
		hmm_migrate_lose(chunk);
		copy_lose(copy);
		chunk->private = NULL;
	}
	return ret;
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_wait);

/**
 * hmm_migrate_dma_release() - a release op: give back what hmm_migrate_dma_copy() keeps
 * @chunk: whose @private it is
 *
 * Context: any in which memory can be freed.
 */
void hmm_migrate_dma_release(struct hmm_migrate_chunk *chunk)
{
	struct dma_copy *copy = chunk->private;

	if (!copy)
		return;
	hmm_migrate_map_free(&copy->map);
	kfree(copy);
	chunk->private = NULL;
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_release);

/* Of whole pages, so that each descriptor begins where a page does. */
static size_t dma_max_length(struct dma_chan *chan)
{
	size_t max = dma_get_max_seg_size(dmaengine_get_dma_device(chan));

	return max > PAGE_SIZE ? round_down(max, PAGE_SIZE) : max;
}

/* How long the CPU takes to copy a page, to begin with; without memory, for ever. */
static unsigned int measure_page_cost(void)
{
	struct page *from = alloc_page(GFP_KERNEL | __GFP_ZERO), *to = alloc_page(GFP_KERNEL);
	u64 shortest = NSEC_PER_MSEC, then;
	unsigned int i;

	for (i = 0; from && to && i < 4; i++) {
		then = ktime_get_ns();
		if (!copy_mc_highpage(to, from))
			shortest = min(shortest, ktime_get_ns() - then);
	}
	if (from)
		__free_page(from);
	if (to)
		__free_page(to);
	return shortest;
}

/**
 * hmm_migrate_dma_create() - to copy by a channel
 * @chan: a channel of the caller's that has DMA_MEMCPY; others may use it as well, if it
 *	is no matter to them that it is terminated when it hangs
 *
 * Return: for hmm_migrate_dma_copy(), or an error pointer: -EINVAL if the channel cannot
 * copy memory, or -ENOMEM.
 */
struct hmm_migrate_dma *hmm_migrate_dma_create(struct dma_chan *chan)
{
	struct hmm_migrate_dma *dma;

	if (!chan || !dma_has_cap(DMA_MEMCPY, chan->device->cap_mask))
		return ERR_PTR(-EINVAL);
	dma = kzalloc(sizeof(*dma), GFP_KERNEL);
	if (!dma)
		return ERR_PTR(-ENOMEM);
	dma->chan = chan;
	dma->dev = get_device(dmaengine_get_dma_device(chan));
	dma->max = dma_max_length(chan);
	dma->page_cost = measure_page_cost();
	dma->let_cpu = true;
	dma->ordered = !dma_has_cap(DMA_COMPLETION_NO_ORDER, chan->device->cap_mask);
	dma->stops = chan->device->device_terminate_all && chan->device->device_synchronize;
	init_rwsem(&dma->stop_lock);
	spin_lock_init(&dma->lock);
	INIT_LIST_HEAD(&dma->copies);
	return dma;
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_create);

/**
 * hmm_migrate_dma_destroy() - a channel is not to be used any more
 * @dma: by hmm_migrate_dma_create(); no call uses it
 *
 * The engine has ended all that it was given, by dma_release_channel() before this for
 * example, or by a reset of the device: what was lost is unmapped. If that cannot be said
 * of an engine, @dma must stay.
 *
 * Context: sleeps.
 */
void hmm_migrate_dma_destroy(struct hmm_migrate_dma *dma)
{
	struct dma_copy *copy, *next;

	list_for_each_entry_safe(copy, next, &dma->copies, list) {
		hmm_migrate_unmap_part(&copy->map);
		hmm_migrate_map_free(&copy->map);
		kfree(copy);
	}
	put_device(dma->dev);
	kfree(dma);
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_destroy);

/**
 * hmm_migrate_dma_let_cpu() - may the CPU copy what it copies sooner?
 * @dma: by hmm_migrate_dma_create()
 * @let: whether it may; it does if nothing is said
 *
 * Where few pages are neighbours, the CPU may copy a chunk sooner than it maps and submits
 * its segments: by an IOMMU, or with bounce buffers. Both are measured for each channel. A
 * driver that wants the CPU for something else says false.
 *
 * Context: any.
 */
void hmm_migrate_dma_let_cpu(struct hmm_migrate_dma *dma, bool let)
{
	WRITE_ONCE(dma->let_cpu, let);
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_let_cpu);

/**
 * hmm_migrate_dma_has_failed() - is a channel not used any more?
 * @dma: by hmm_migrate_dma_create()
 *
 * It has not ended what it had to within half a minute, twice in a row, or once and could
 * not be stopped. What is to be copied by it is copied by the CPU since then, where that
 * reaches both sides, until hmm_migrate_dma_reset().
 *
 * Context: any.
 * Return: true if so.
 */
bool hmm_migrate_dma_has_failed(const struct hmm_migrate_dma *dma)
{
	return READ_ONCE(dma->failed);
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_has_failed);

/**
 * hmm_migrate_dma_reset() - a channel works again
 * @dma: by hmm_migrate_dma_create()
 *
 * What was lost before is not given back.
 *
 * Context: any.
 */
void hmm_migrate_dma_reset(struct hmm_migrate_dma *dma)
{
	WRITE_ONCE(dma->timeouts, 0);
	WRITE_ONCE(dma->failed, false);
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_reset);
