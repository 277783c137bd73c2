// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration copied by a channel of the dmaengine framework: the copy ops, which
 * choose between the engine and the CPU. The descriptors are in range_dma_chan.c.
 *
 * A channel belongs to a call for a chunk, not for the whole call: several calls may share
 * it, and a call that waits for I/O keeps no other from it.
 *
 * A shortage is not an error: without bounce buffers, DMA addresses or descriptors, a chunk
 * is copied in smaller parts, and in the end by the CPU if it can reach both sides.
 *
 * Where few pages are neighbours, a chunk has many segments. To map and submit each of
 * them may take longer than to copy its pages, because of an IOMMU, or because of bounce
 * buffers, which the CPU copies to. Both costs are measured, and such a chunk is copied
 * by the CPU.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/export.h>
#include <linux/highmem.h>
#include <linux/hmm_migrate.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include "range.h"
#include "range_dma.h"

/* How long a page waits for bounce buffers that other mappings use. */
#define DMA_MAP_TIMEOUT		HZ

/* How often a part is submitted again after another call has terminated the channel. */
#define DMA_TRIES		3

/* The size of a part, at most, if the chunk cannot be mapped whole. */
#define DMA_PART_PAGES		((unsigned long)SZ_1M >> PAGE_SHIFT)

/* After the engine has failed for so many pages in a row, the rest of the chunk skips it. */
#define DMA_FAILURES		8

/* One in so many chunks that the CPU would copy goes to the engine, to measure it. */
#define DMA_MEASURE		32

/* A new measurement changes the average by this fraction of the difference. */
#define DMA_AVERAGE		8

/* With fewer segments, the fixed cost of a chunk would distort the cost of a segment. */
#define DMA_MIN_SEGMENTS	32

/* Can the CPU read and write the pages of @segment? They are all of the same kind. */
static bool segment_is_reachable(const struct hmm_migrate_segment *segment)
{
	return !is_device_private_page(segment->dst) &&
	       !(segment->src && is_device_private_page(segment->src));
}

static bool chunk_is_reachable(const struct hmm_migrate_chunk *chunk)
{
	unsigned long i;

	for (i = 0; i < chunk->nr_segments; i++)
		if (!segment_is_reachable(&chunk->segments[i]))
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

/* Is the CPU faster at copying @chunk than at mapping and submitting its segments? */
static bool dma_cpu_is_faster(struct hmm_migrate_dma *dma, const struct hmm_migrate_chunk *chunk)
{
	unsigned int cost = READ_ONCE(dma->segment_cost), page_cost = READ_ONCE(dma->page_cost);
	unsigned int nr;

	/* The first test is cheap, and sufficient: a segment has one page at least. */
	if (cost <= page_cost || !READ_ONCE(dma->let_cpu) ||
	    (u64)cost * chunk->nr_segments <= (u64)page_cost * chunk_pages(chunk) ||
	    !chunk_is_reachable(chunk))
		return false;
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

/*
 * Does the time for @chunk tell what a segment costs? Not with holes, because the CPU may
 * have cleared them meanwhile.
 */
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

/* Copy the next page by the CPU. Returns false if the CPU cannot reach it. */
static bool copy_next_by_cpu(struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	const struct hmm_migrate_segment *segment;
	unsigned long page;

	segment = hmm_migrate_map_place(&copy->map, &page);
	if (!segment_is_reachable(segment))
		return false;
	chunk_copy_page(chunk, segment, page);
	hmm_migrate_map_skip(&copy->map);
	return true;
}

/* The engine cannot copy the next page: the CPU does, or all of its folio stays. */
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
 * Map the next part, of *@max pages or of as many as can be mapped, and return how many.
 * If not even one page can be mapped, the CPU copies it, and 0 is returned; or if it
 * cannot, wait for bounce buffers that others use.
 */
static long copy_map_next(struct hmm_migrate_chunk *chunk, struct dma_copy *copy,
			  unsigned long *max)
{
	unsigned long deadline;
	long npages;

	while ((npages = hmm_migrate_map_part(&copy->map, *max)) == -ENOMEM && *max > 1)
		*max /= 2;
	if (npages >= 0)
		return npages;
	if (copy_next_by_cpu(chunk, copy))
		return 0;
	deadline = jiffies + DMA_MAP_TIMEOUT;
	while ((npages = hmm_migrate_map_part(&copy->map, 1)) == -ENOMEM) {
		if (time_after(jiffies, deadline) || fatal_signal_pending(current))
			break;
		usleep_range(DMA_POLL_USECS, 2 * DMA_POLL_USECS);
	}
	return npages;
}

/*
 * Have the engine copy the part of @npages pages that is mapped, again if another call
 * has terminated the channel. If it fails, halve the parts, down to one page, so that
 * only the folio stays that cannot be copied. Returns -ENOTRECOVERABLE if the engine
 * cannot be stopped.
 */
static int copy_mapped(struct hmm_migrate_chunk *chunk, struct dma_copy *copy, long npages,
		       unsigned long *max)
{
	unsigned int tries = 0;
	int ret, submitted;

	do {
		hmm_migrate_map_rewind(&copy->map);
		submitted = dma_copy_submit(copy);
		ret = dma_copy_wait(copy) ?: submitted;
	} while (ret == -EAGAIN && ++tries < DMA_TRIES);
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

/* The copy of @chunk, allocated with the first copy that uses the memory of this chunk. */
static struct dma_copy *chunk_get_copy(struct hmm_migrate_chunk *chunk,
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
	/* Engines do not copy arm64's MTE tags, without which the task would fault. */
	copy->by_cpu = (chunk->vma && chunk->vma->vm_flags & VM_MTE) ||
		       dma_cpu_is_faster(dma, chunk);
	copy->in_parts = false;
	copy->whole = false;
	return copy;
}

/**
 * hmm_migrate_dma_copy() - for a copy op: copy by a channel of a DMA engine
 * @chunk: the chunk
 * @dma: by hmm_migrate_dma_create(); several calls may use it at once
 *
 * To be used with hmm_migrate_dma_wait() and hmm_migrate_dma_release(), which then own
 * &hmm_migrate_chunk.private. Ordinary and coherent memory is mapped for the device of the
 * channel; for private memory, &hmm_migrate_ops.address returns the address.
 *
 * Context: sleeps.
 * Return: 0 if copying has begun, or is left to hmm_migrate_dma_wait(); -ENOMEM; or
 * -EINVAL if the chunk has private memory and the ops have no &hmm_migrate_ops.address.
 */
int hmm_migrate_dma_copy(struct hmm_migrate_chunk *chunk, struct hmm_migrate_dma *dma)
{
	unsigned long switches = nr_switches();
	struct dma_copy *copy;
	u64 then;

	if (!chunk->migrate->ops->address && !chunk_is_reachable(chunk))
		return -EINVAL;
	copy = chunk_get_copy(chunk, dma);
	if (!copy)
		return -ENOMEM;
	then = ktime_get_ns();
	hmm_migrate_map_begin(&copy->map, chunk, dma->dev);
	if (copy->by_cpu || READ_ONCE(dma->failed) ||
	    hmm_migrate_map_part(&copy->map, chunk->npages) < 0) {
		copy->in_parts = true;
		return 0;
	}
	/*
	 * After an error, hmm_migrate_dma_wait() finds out part by part what the engine
	 * takes.
	 */
	copy->whole = true;
	copy->in_parts = dma_copy_submit(copy);
	copy->time = switches == nr_switches() ? ktime_get_ns() - then : 0;
	return 0;
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_copy);

/* Wait for a chunk that was mapped whole. Returns 0 if all of it has been copied. */
static int copy_wait_whole(struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	bool refused = copy->in_parts;
	int ret = dma_copy_wait(copy);
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

/* Copy all of @chunk by the CPU. Returns -EAGAIN if it cannot reach all of it. */
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

/**
 * hmm_migrate_dma_wait() - a wait op: wait for what hmm_migrate_dma_copy() has begun
 * @chunk: the chunk
 *
 * Memory that the engine could not copy is copied in smaller parts, or by the CPU if it can
 * reach both sides. A folio that cannot be copied at all stays: see hmm_migrate_fail().
 *
 * Context: sleeps.
 * Return: 0; -ENOMEM if a page that the CPU cannot reach could not be mapped for a
 * second; -EIO if the channel has failed before; or -ENOTRECOVERABLE if the engine has
 * not ended a copy within half a minute and cannot be stopped: hmm_migrate_lose() has
 * been called.
 */
int hmm_migrate_dma_wait(struct hmm_migrate_chunk *chunk)
{
	struct dma_copy *copy = chunk->private;
	int ret = -EAGAIN;

	if (copy->whole)
		ret = copy_wait_whole(chunk, copy);
	else if (copy->by_cpu)
		ret = copy_by_cpu(chunk, copy);
	if (ret && ret != -ENOTRECOVERABLE)
		ret = copy_in_parts(chunk, copy);
	if (ret == -ENOTRECOVERABLE) {
		hmm_migrate_lose(chunk);
		dma_copy_lose(copy);
		chunk->private = NULL;
	}
	return ret;
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_wait);

/**
 * hmm_migrate_dma_release() - a release op: free what hmm_migrate_dma_copy() has allocated
 * @chunk: the chunk
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

/*
 * A first guess at how long the CPU takes to copy a page. If pages for it cannot be
 * allocated, that is the maximum, so that the CPU is not used.
 */
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
 * hmm_migrate_dma_create() - prepare to copy by a channel
 * @chan: a channel of the caller's with DMA_MEMCPY; other users may share it if they can
 *	cope with its termination when it hangs
 *
 * Return: the argument for hmm_migrate_dma_copy(), or an error pointer: -EINVAL if the
 * channel cannot copy memory, or -ENOMEM.
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
	dma->max = dma_get_max_seg_size(dma->dev);
	/* Whole pages, so that each descriptor begins at a page boundary. */
	if (dma->max > PAGE_SIZE)
		dma->max = round_down(dma->max, PAGE_SIZE);
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
 * hmm_migrate_dma_destroy() - free what hmm_migrate_dma_create() has allocated
 * @dma: by hmm_migrate_dma_create(); no call uses it
 *
 * Copies that were lost are unmapped, so the engine must have ended them before this, for
 * example by dma_release_channel() or a reset of the device. If the driver cannot make
 * sure of that, it must keep @dma.
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
 * hmm_migrate_dma_let_cpu() - let the CPU copy chunks that it copies faster, or not
 * @dma: by hmm_migrate_dma_create()
 * @let: whether it may; the default is true
 *
 * Where few pages are neighbours, the CPU may copy a chunk faster than it maps and
 * submits the segments, because of an IOMMU or bounce buffers. Both costs are measured
 * for each channel. A driver that has other work for the CPU passes false.
 *
 * Context: any.
 */
void hmm_migrate_dma_let_cpu(struct hmm_migrate_dma *dma, bool let)
{
	WRITE_ONCE(dma->let_cpu, let);
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_let_cpu);

/**
 * hmm_migrate_dma_has_failed() - has a channel failed for good?
 * @dma: by hmm_migrate_dma_create()
 *
 * A channel fails if it does not end copies within half a minute twice in a row, or once
 * if it cannot be stopped. From then on, until hmm_migrate_dma_reset(), the CPU copies
 * memory that it can reach.
 *
 * Context: any.
 * Return: true if it has failed.
 */
bool hmm_migrate_dma_has_failed(const struct hmm_migrate_dma *dma)
{
	return READ_ONCE(dma->failed);
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_has_failed);

/**
 * hmm_migrate_dma_reset() - use a channel again that has failed
 * @dma: by hmm_migrate_dma_create()
 *
 * Memory that was lost before is not freed.
 *
 * Context: any.
 */
void hmm_migrate_dma_reset(struct hmm_migrate_dma *dma)
{
	WRITE_ONCE(dma->timeouts, 0);
	WRITE_ONCE(dma->failed, false);
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_reset);
