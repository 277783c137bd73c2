/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Range migration: a channel of the dmaengine framework, for range_dma.c and
 * range_dma_chan.c only.
 */
#ifndef _MM_MIGRATE_VMA_RANGE_DMA_H
#define _MM_MIGRATE_VMA_RANGE_DMA_H

#include <linux/completion.h>
#include <linux/dmaengine.h>
#include <linux/hmm_migrate.h>
#include <linux/list.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>

/* How many pieces of a chunk are looked up at once. */
#define DMA_PIECES		16

/* How long to sleep, in microseconds, before asking for descriptors or buffers again. */
#define DMA_POLL_USECS		20

/**
 * struct hmm_migrate_dma - a channel, and the copies that use it
 * @chan: the channel
 * @dev: the device that memory is mapped for
 * @ordered: the engine completes descriptors in the order of submission
 * @stops: the engine can terminate, and no callback runs afterwards
 * @stop_lock: held for reading to submit, and for writing to terminate
 * @lock: protects @copies and the state of each of them
 * @copies: copies that are submitted and have not ended
 * @max: the longest descriptor that the engine has not refused, in bytes
 * @timeouts: how many copies in a row have not ended within DMA_TIMEOUT
 * @failed: too many have not, or one that could not be stopped: the channel is not used
 * @segment_cost: nanoseconds, on average, to map, submit and unmap a segment; 0 if not yet
 *	measured
 * @page_cost: nanoseconds that the CPU takes to copy a page
 * @nr_by_cpu: how many chunks the CPU has copied because that was faster
 * @let_cpu: the CPU may copy chunks if that is faster
 */
struct hmm_migrate_dma {
	struct dma_chan *chan;
	struct device *dev;
	bool ordered;
	bool stops;
	struct rw_semaphore stop_lock;
	spinlock_t lock;		/* protects the copies, see above */
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
 * struct dma_copy - the copy of one chunk
 * @dma: the channel
 * @map: the addresses for the device
 * @list: in &hmm_migrate_dma.copies
 * @pending: descriptors that will still be called back, and one more while @submitting or
 *	@polled; on an ordered channel, only descriptors with an interrupt count
 * @pieces: the pieces that are being submitted
 * @first: the first piece that was submitted, which can be submitted again as a fence; its
 *	length is 0 if nothing was submitted
 * @cookie: of the last descriptor that was submitted
 * @submitting: more descriptors may follow
 * @error: the engine has reported an error
 * @stopped: the channel was terminated, for this copy or for another one
 * @lost: the copy has not ended, and never will; it stays in &hmm_migrate_dma.copies
 * @polled: the last descriptor has no interrupt and cannot get one: poll its status
 * @by_cpu: the CPU is to copy the pages that it can reach
 * @failures: how many pages in a row the engine could not copy
 * @whole: the chunk was mapped in one part
 * @in_parts: the chunk could not be mapped whole, or not all of it submitted
 * @time: nanoseconds that mapping and submitting took; 0 if unknown
 * @done: completed when @pending is 0
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
	bool polled;
	bool by_cpu;
	unsigned int failures;
	bool whole;
	bool in_parts;
	u64 time;
	struct completion done;
};

int dma_copy_submit(struct dma_copy *copy);
int dma_copy_wait(struct dma_copy *copy);
void dma_copy_lose(struct dma_copy *copy);

#endif /* _MM_MIGRATE_VMA_RANGE_DMA_H */
