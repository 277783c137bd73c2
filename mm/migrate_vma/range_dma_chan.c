// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the descriptors of a dmaengine channel: submit them for a mapped part of
 * a chunk, wait until they complete, and terminate the channel if they do not.
 *
 * dmaengine drivers differ in these ways:
 *
 * - An engine may complete descriptors in any order. Each one is counted, and the last
 *   callback ends the copy. An engine that completes in order interrupts once per part.
 * - An engine may be unable to terminate, or a callback may run after that. If it does not
 *   complete a copy within DMA_TIMEOUT, the copy is lost: its memory is never freed, and
 *   counted.
 * - Terminating ends the copies of all calls. The other calls submit theirs again; the
 *   sources have not changed, so a copy can be repeated.
 * - A driver may call back without a result. The dmaengine core then reports success,
 *   whatever happened. If completion is in order, the status of the last descriptor is
 *   checked as well. More is not possible: the driver that hands out a channel vouches for
 *   it.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/iopoll.h>
#include <linux/sched/signal.h>
#include "range.h"
#include "range_dma.h"

/* An engine that takes longer than this for a part of a chunk counts as hung. */
#define DMA_TIMEOUT		(30 * HZ)

/* How long a task with a fatal signal waits for the descriptors that it has submitted. */
#define DMA_KILL_TIMEOUT	HZ

/* An engine that was idle so often and took no descriptor refuses it for good. */
#define DMA_IDLE		16

/* @nr descriptors of the copy have completed. */
static void copy_put(struct dma_copy *copy, unsigned int nr)
{
	lockdep_assert_held(&copy->dma->lock);
	copy->pending -= nr;
	if (!copy->pending && !copy->lost) {
		list_del_init(&copy->list);
		complete(&copy->done);
	}
}

/* Callback of a descriptor that does not count in &dma_copy.pending. */
static void copy_note_error(void *param, const struct dmaengine_result *result)
{
	struct dma_copy *copy = param;

	if (result && result->result != DMA_TRANS_NOERROR)
		WRITE_ONCE(copy->error, true);
}

/* Callback of a descriptor that counts. On an ordered channel, those before it are done. */
static void copy_callback(void *param, const struct dmaengine_result *result)
{
	struct dma_copy *copy = param;
	struct hmm_migrate_dma *dma = copy->dma;
	unsigned long flags;

	copy_note_error(param, result);
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
 * Has the engine nothing left to do, for this copy or another one, so that all of its
 * descriptors should be free? Some drivers free them only when their status is asked for.
 */
static bool channel_is_idle(struct dma_copy *copy)
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

/*
 * Submit one descriptor. Returns -EAGAIN if the engine does not take it; -ECANCELED if the
 * channel was terminated. Nothing may be submitted after that, so that all of the copy has
 * ended.
 *
 * Must not sleep between preparing and submitting: some drivers hold a spinlock.
 */
static int desc_submit(struct dma_copy *copy, const struct hmm_migrate_piece *piece)
{
	bool counts = piece->last || !copy->dma->ordered;
	unsigned long flags = DMA_CTRL_ACK | (counts ? DMA_PREP_INTERRUPT : 0);
	struct hmm_migrate_dma *dma = copy->dma;
	struct dma_chan *chan = dma->chan;
	struct dma_async_tx_descriptor *tx;
	dma_cookie_t cookie;

	lockdep_assert_held_read(&dma->stop_lock);
	if (copy->stopped)
		return -ECANCELED;
	if (piece->src == DMA_MAPPING_ERROR)
		tx = dmaengine_prep_dma_memset(chan, piece->dst, 0, piece->length, flags);
	else
		tx = dmaengine_prep_dma_memcpy(chan, piece->dst, piece->src, piece->length,
					       flags);
	if (!tx)
		return -EAGAIN;
	tx->callback_result = counts ? copy_callback : copy_note_error;
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
 * Wait for a free descriptor, and submit it. The engine may be out of descriptors until
 * it has completed some; or it may refuse this one for good, which is assumed if it stays
 * idle: -EBUSY.
 *
 * The lock is dropped meanwhile, so the channel may be terminated. On an ordered channel,
 * earlier descriptors call back, if at all, before the last one, which has the interrupt.
 */
static noinline int desc_submit_later(struct dma_copy *copy,
				      const struct hmm_migrate_piece *piece, bool killable)
{
	unsigned long deadline = jiffies + DMA_TIMEOUT;
	unsigned int idle = 0;
	int ret;

	do {
		dma_async_issue_pending(copy->dma->chan);
		up_read(&copy->dma->stop_lock);
		usleep_range(DMA_POLL_USECS, 2 * DMA_POLL_USECS);
		idle += channel_is_idle(copy);
		down_read(&copy->dma->stop_lock);
		if (idle > DMA_IDLE)
			return -EBUSY;
		if (time_after(jiffies, deadline))
			return -ETIMEDOUT;
		if (killable && fatal_signal_pending(current))
			return -EINTR;
		ret = desc_submit(copy, piece);
	} while (ret == -EAGAIN);
	return ret;
}

/* Submit a piece as one descriptor. -EOPNOTSUPP: the engine cannot address it. */
static __always_inline int
piece_submit(struct dma_copy *copy, const struct hmm_migrate_piece *piece, bool killable)
{
	struct dma_device *device = copy->dma->chan->device;
	bool aligned;
	int ret;

	if (piece->src == DMA_MAPPING_ERROR)
		aligned = is_dma_fill_aligned(device, piece->dst, 0, piece->length);
	else
		aligned = is_dma_copy_aligned(device, piece->src, piece->dst, piece->length);
	if (!aligned)
		return -EOPNOTSUPP;
	ret = desc_submit(copy, piece);
	return unlikely(ret == -EAGAIN) ? desc_submit_later(copy, piece, killable) : ret;
}

/* Half of @length, in whole pages, and at least one. */
static size_t length_half(size_t length)
{
	return max(round_down(length / 2, PAGE_SIZE), PAGE_SIZE);
}

/* Submit a piece in several of @max bytes, or less if the engine refuses these as well. */
static noinline int piece_submit_split(struct dma_copy *copy,
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
		ret = piece_submit(copy, &next, true);
		if (ret == -EBUSY && next.length > PAGE_SIZE) {
			max = length_half(next.length);
			next.length = 0;
			ret = 0;
		} else if (!ret && max < READ_ONCE(dma->max)) {
			/* The engine takes this length: do not try a longer one again. */
			WRITE_ONCE(dma->max, max);
		}
	}
	return ret;
}

static int copy_submit_pieces(struct dma_copy *copy)
{
	size_t first_max = READ_ONCE(copy->dma->max), max;
	const struct hmm_migrate_piece *piece;
	unsigned int nr, i;
	int ret = 0;

	while (!ret && (nr = hmm_migrate_map_pieces(&copy->map, copy->pieces, DMA_PIECES,
						    first_max))) {
		for (i = 0; !ret && i < nr; i++) {
			piece = &copy->pieces[i];
			max = READ_ONCE(copy->dma->max);
			if (unlikely(piece->length > max)) {
				ret = piece_submit_split(copy, piece, max);
				continue;
			}
			ret = piece_submit(copy, piece, true);
			if (unlikely(ret == -EBUSY && piece->length > PAGE_SIZE))
				ret = piece_submit_split(copy, piece,
							 length_half(piece->length));
		}
		cond_resched();
	}
	return ret;
}

/**
 * dma_copy_submit() - submit all of the part that is mapped
 * @copy: the copy
 *
 * After an error, some of it may have been submitted: dma_copy_wait() is needed in any
 * case.
 *
 * Context: sleeps.
 * Return: 0, or an error if the engine does not take all of it.
 */
int dma_copy_submit(struct dma_copy *copy)
{
	struct hmm_migrate_dma *dma = copy->dma;
	struct hmm_migrate_piece fence;
	bool polled = false;
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
	if (ret && dma->ordered && copy->first.length) {
		/*
		 * The last descriptor was not to be the last one, so it has no interrupt.
		 * Submit the first piece once more, with an interrupt, as a fence: it
		 * tells, unlike the status, that the callbacks before it have run. Wait
		 * for it even with a fatal signal pending. If the engine does not take
		 * it, poll.
		 */
		fence = copy->first;
		fence.last = true;
		polled = piece_submit(copy, &fence, false);
	}
	up_read(&dma->stop_lock);
	dma_async_issue_pending(dma->chan);
	spin_lock_irq(&dma->lock);
	copy->submitting = false;
	copy->polled = polled && !copy->stopped;
	if (!copy->polled)
		copy_put(copy, 1);
	spin_unlock_irq(&dma->lock);
	return ret;
}

/*
 * Poll the status of the last descriptor. Then its callback, and those before it, may still
 * have to run, until dmaengine_synchronize(), which only engines that can be stopped have.
 */
static bool copy_poll(struct dma_copy *copy)
{
	struct hmm_migrate_dma *dma = copy->dma;
	enum dma_status status;

	if (!dma->stops ||
	    read_poll_timeout(copy_status, status, status != DMA_IN_PROGRESS, DMA_POLL_USECS,
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
 * @copy has not ended in time: terminate the channel, and with it the copies of all calls.
 * @late is false if a fatal signal cut the wait short, which does not count as a timeout.
 * Returns false if the channel cannot be terminated: then the engine may write to the
 * memory of the copy, and call back, at any time.
 */
static bool dma_stop(struct hmm_migrate_dma *dma, struct dma_copy *copy, bool late)
{
	struct dma_copy *other, *next;
	bool stopped = true;

	down_write(&dma->stop_lock);
	/* It may have ended by now, or another task may have terminated the channel. */
	if (completion_done(&copy->done))
		goto unlock;
	stopped = dma->stops && !dmaengine_terminate_sync(dma->chan);
	if (stopped) {
		spin_lock_irq(&dma->lock);
		list_for_each_entry_safe(other, next, &dma->copies, list) {
			other->stopped = true;
			/* A copy that is still being submitted drops the last one itself. */
			copy_put(other, other->pending - other->submitting);
		}
		spin_unlock_irq(&dma->lock);
	}
	dma->timeouts += late;
	if (!stopped || dma->timeouts > 1)
		WRITE_ONCE(dma->failed, true);
unlock:
	up_write(&dma->stop_lock);
	return stopped;
}

/**
 * dma_copy_wait() - wait for the part that dma_copy_submit() has submitted
 * @copy: the copy
 *
 * With a fatal signal pending, waits only briefly if the engine can be stopped.
 *
 * Context: sleeps.
 * Return: 0; -EAGAIN if another call has terminated the channel; -EIO if the engine reports
 * an error; -ETIMEDOUT if the copy has not ended, and was stopped; -ENOTRECOVERABLE if it
 * could not be stopped.
 */
int dma_copy_wait(struct dma_copy *copy)
{
	struct hmm_migrate_dma *dma = copy->dma;
	bool late = true, done;
	long left;

	if (copy->polled) {
		done = copy_poll(copy);
	} else {
		left = wait_for_completion_killable_timeout(&copy->done, DMA_TIMEOUT);
		if (left < 0) {
			late = !dma->stops;
			left = wait_for_completion_timeout(&copy->done, late ? DMA_TIMEOUT :
							   DMA_KILL_TIMEOUT);
		}
		done = left;
	}
	if (!done)
		return dma_stop(dma, copy, late) ? -ETIMEDOUT : -ENOTRECOVERABLE;
	if (copy->stopped)
		return -EAGAIN;
	if (READ_ONCE(copy->error) || (dma->ordered && copy_status(copy) == DMA_ERROR))
		return -EIO;
	WRITE_ONCE(dma->timeouts, 0);
	return 0;
}

/**
 * dma_copy_lose() - keep a copy that could not be stopped
 * @copy: the copy; its descriptors may still call back
 *
 * Leaves the copy mapped, and in the list of the channel until hmm_migrate_dma_destroy().
 */
void dma_copy_lose(struct dma_copy *copy)
{
	struct hmm_migrate_dma *dma = copy->dma;

	spin_lock_irq(&dma->lock);
	copy->lost = true;
	if (list_empty(&copy->list))
		list_add_tail(&copy->list, &dma->copies);
	spin_unlock_irq(&dma->lock);
}
