// SPDX-License-Identifier: GPL-2.0
/*
 * Copy ops of hmm_migrate_range(): by a channel of the dmaengine framework that can
 * copy memory.
 *
 * A chunk is two scatter lists of the same length in bytes, mapped at once. Where
 * both go on, that is one descriptor; only the last descriptor of a chunk asks for
 * an interrupt, and all of them are issued together.
 *
 * If a chunk cannot be mapped whole, because there are not enough bounce buffers or
 * addresses, it and all chunks after it are copied in pieces: each is mapped, copied and
 * unmapped before the next one. That is done by the wait op, when nothing else of the
 * call is mapped.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/export.h>
#include <linux/highmem.h>
#include <linux/hmm_migrate.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>

/* An engine that takes longer for a chunk is taken for dead. */
#define DMA_COPY_TIMEOUT	(30 * HZ)

/* How long a chunk waits for others' bounce buffers, if not even a page can be mapped. */
#define DMA_COPY_MAP_TIMEOUT	HZ

/* How often it is asked whether it has descriptors again, in microseconds. */
#define DMA_COPY_POLL		20

/**
 * struct dma_side - where the bytes of a chunk come from, or where they go
 * @list: the pages that the CPU can address; in one piece, and kept for other chunks
 * @room: how many entries @list has room for
 * @entries: how many of them are mapped
 * @direction: for the mapping
 * @sg: the next bytes are here
 * @offset: that many bytes from its beginning
 */
struct dma_side {
	struct scatterlist *list;
	unsigned long room;
	unsigned int entries;
	enum dma_data_direction direction;
	struct scatterlist *sg;
	unsigned int offset;
};

/**
 * struct dma_copy - a chunk that is copied
 * @src: from where
 * @dst: to where
 * @zero: a page of zeros for device private memory; DMA_MAPPING_ERROR if none
 * @done: the last descriptor is through
 * @error: what came of it
 * @submitted: the engine has, or had, a descriptor of it
 * @pieces: it is to be copied in pieces
 * @deadline: then, until when to wait for bounce buffers, in jiffies
 * @to: the next descriptor, which is not submitted yet
 * @from: where it copies from
 * @length: how many bytes; 0 if there is none
 * @max: how many a descriptor can have
 */
struct dma_copy {
	struct dma_side src;
	struct dma_side dst;
	dma_addr_t zero;
	struct completion done;
	int error;
	bool submitted;
	bool pieces;
	unsigned long deadline;
	dma_addr_t to;
	dma_addr_t from;
	size_t length;
	size_t max;
};

static struct device *chunk_device(const struct hmm_migrate_chunk *chunk)
{
	return dmaengine_get_dma_device(chunk->migrate->dma_chan);
}

/* Scatter lists */

static __always_inline bool page_is_mappable(struct page *page)
{
	return likely(!is_zone_device_page(page)) || !is_device_private_page(page);
}

/*
 * What there is to map: not what is private; and what the CPU fills with zeros is
 * not the engine's.
 */
static __always_inline struct page *
side_page(const struct hmm_migrate_segment *segment, const struct dma_side *side)
{
	struct page *page = side->direction == DMA_TO_DEVICE ? segment->src :
							       segment->dst;

	return segment->src && page_is_mappable(page) ? page : NULL;
}

/* How many entries there are at most, of @max pages each. */
static unsigned long side_max_entries(const struct hmm_migrate_chunk *chunk,
				      unsigned long max)
{
	unsigned long entries = chunk->nr_segments, i;

	for (i = 0; i < chunk->nr_segments; i++)
		if (unlikely(chunk->segments[i].npages > max))
			entries += chunk->segments[i].npages / max;
	return entries;
}

static int side_make_room(struct dma_side *side, unsigned long entries)
{
	if (entries <= side->room)
		return 0;
	kvfree(side->list);
	side->room = 0;
	side->list = kvmalloc_array(entries, sizeof(*side->list), GFP_KERNEL);
	if (!side->list)
		return -ENOMEM;
	sg_init_table(side->list, entries);
	side->room = entries;
	return 0;
}

static struct scatterlist *side_add(struct scatterlist *sg, struct page *page,
				    unsigned long npages, unsigned long max)
{
	unsigned long now;

	for (; npages; npages -= now) {
		now = min(npages, max);
		sg_unmark_end(sg);
		sg_set_page(sg++, page, now << PAGE_SHIFT, 0);
		page += now;
	}
	return sg;
}

static void side_fill(const struct hmm_migrate_chunk *chunk, struct dma_side *side,
		      unsigned long max)
{
	struct scatterlist *sg = side->list;
	unsigned long i;

	for (i = 0; i < chunk->nr_segments; i++) {
		struct page *page = side_page(&chunk->segments[i], side);

		if (page)
			sg = side_add(sg, page, chunk->segments[i].npages, max);
	}
	side->entries = sg - side->list;
	if (side->entries)
		sg_mark_end(sg - 1);
}

static int side_map(const struct hmm_migrate_chunk *chunk, struct dma_side *side)
{
	struct device *dev = chunk_device(chunk);
	/* A scatter list counts its bytes in 32 bits. */
	size_t max = min3((size_t)dma_get_max_seg_size(dev), dma_max_mapping_size(dev),
			  (size_t)SZ_1G);
	int ret;

	/* In pages. */
	max = max(max >> PAGE_SHIFT, 1UL);

	ret = side_make_room(side, side_max_entries(chunk, max));
	if (ret)
		return ret;
	side_fill(chunk, side, max);
	side->sg = side->list;
	side->offset = 0;
	if (!side->entries ||
	    dma_map_sg(dev, side->list, side->entries, side->direction))
		return 0;
	side->entries = 0;
	return -ENOMEM;
}

static void side_unmap(const struct hmm_migrate_chunk *chunk, struct dma_side *side)
{
	if (side->entries)
		dma_unmap_sg(chunk_device(chunk), side->list, side->entries,
			     side->direction);
	side->entries = 0;
}

static int map_zero_page(const struct hmm_migrate_chunk *chunk,
			 struct dma_copy *copy)
{
	if (copy->zero != DMA_MAPPING_ERROR)
		return 0;
	copy->zero = dma_map_page(chunk_device(chunk), ZERO_PAGE(0), 0, PAGE_SIZE,
				  DMA_TO_DEVICE);
	return dma_mapping_error(chunk_device(chunk), copy->zero) ? -ENOMEM : 0;
}

static void copy_unmap(const struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	side_unmap(chunk, &copy->src);
	side_unmap(chunk, &copy->dst);
	if (copy->zero != DMA_MAPPING_ERROR)
		dma_unmap_page(chunk_device(chunk), copy->zero, PAGE_SIZE,
			       DMA_TO_DEVICE);
	copy->zero = DMA_MAPPING_ERROR;
}

/* How many bytes there are on this side in one piece, from @address on. */
static __always_inline size_t
side_next(const struct dma_side *side, dma_addr_t *address)
{
	*address = sg_dma_address(side->sg) + side->offset;
	return sg_dma_len(side->sg) - side->offset;
}

static __always_inline void side_advance(struct dma_side *side, size_t length)
{
	side->offset += length;
	if (side->offset == sg_dma_len(side->sg)) {
		side->sg++;
		side->offset = 0;
	}
}

/* Descriptors */

static void copy_is_done(struct dma_copy *copy, const struct dmaengine_result *result)
{
	if (result && result->result != DMA_TRANS_NOERROR)
		WRITE_ONCE(copy->error, -EIO);
}

static void copy_callback(void *param, const struct dmaengine_result *result)
{
	copy_is_done(param, result);
}

static void copy_callback_last(void *param, const struct dmaengine_result *result)
{
	struct dma_copy *copy = param;

	copy_is_done(copy, result);
	complete(&copy->done);
}

/* The engine may be out of descriptors until it has done what it has. */
static struct dma_async_tx_descriptor *
copy_prepare(struct dma_chan *chan, struct dma_copy *copy, unsigned long flags)
{
	unsigned long deadline = jiffies + DMA_COPY_TIMEOUT;
	struct dma_async_tx_descriptor *tx;

	while (!(tx = dmaengine_prep_dma_memcpy(chan, copy->to, copy->from,
						copy->length, flags))) {
		if (time_after(jiffies, deadline))
			return NULL;
		dma_async_issue_pending(chan);
		usleep_range(DMA_COPY_POLL, 2 * DMA_COPY_POLL);
		/* Some engines take descriptors back only when they are asked. */
		dma_async_is_tx_complete(chan, chan->cookie, NULL, NULL);
	}
	return tx;
}

static int copy_submit(struct dma_chan *chan, struct dma_copy *copy, bool last)
{
	struct dma_async_tx_descriptor *tx;

	tx = copy_prepare(chan, copy, DMA_CTRL_ACK | (last ? DMA_PREP_INTERRUPT : 0));
	if (!tx)
		return -ETIMEDOUT;
	tx->callback_result = last ? copy_callback_last : copy_callback;
	tx->callback_param = copy;
	copy->length = 0;
	copy->submitted = true;
	return dma_submit_error(dmaengine_submit(tx)) ? -EIO : 0;
}

/* Enlarges the descriptor that is not submitted yet, or submits it. */
static __always_inline int
copy_add(struct dma_chan *chan, struct dma_copy *copy, dma_addr_t to,
	 dma_addr_t from, size_t length)
{
	int ret;

	if (copy->length && copy->to + copy->length == to &&
	    copy->from + copy->length == from &&
	    copy->length + length <= copy->max) {
		copy->length += length;
		return 0;
	}
	if (copy->length) {
		ret = copy_submit(chan, copy, false);
		if (ret)
			return ret;
	}
	copy->to = to;
	copy->from = from;
	copy->length = length;
	return 0;
}

/* The address of the private memory of @page; there is one run of it. */
static __always_inline size_t
private_next(const struct hmm_migrate_chunk *chunk, struct page *page,
	     size_t done, size_t length, dma_addr_t *address)
{
	*address = chunk->migrate->ops->address(chunk, page) + done;
	return length - done;
}

static int copy_segment(struct hmm_migrate_chunk *chunk, struct dma_copy *copy,
			const struct hmm_migrate_segment *segment)
{
	size_t length = segment->npages << PAGE_SHIFT, done, now, from_length;
	bool src_mapped = page_is_mappable(segment->src);
	bool dst_mapped = page_is_mappable(segment->dst);
	dma_addr_t from, to;
	int ret = 0;

	for (done = 0; !ret && done < length; done += now) {
		from_length = src_mapped ? side_next(&copy->src, &from) :
			private_next(chunk, segment->src, done, length, &from);
		now = dst_mapped ? side_next(&copy->dst, &to) :
			private_next(chunk, segment->dst, done, length, &to);
		now = min3(now, from_length, min(length - done, copy->max));
		if (src_mapped)
			side_advance(&copy->src, now);
		if (dst_mapped)
			side_advance(&copy->dst, now);
		ret = copy_add(chunk->migrate->dma_chan, copy, to, from, now);
	}
	return ret;
}

static int zero_segment(struct hmm_migrate_chunk *chunk, struct dma_copy *copy,
			const struct hmm_migrate_segment *segment)
{
	unsigned long i;
	dma_addr_t to;
	int ret = 0;

	if (page_is_mappable(segment->dst)) {
		for (i = 0; i < segment->npages; i++)
			clear_highpage(segment->dst + i);
		return 0;
	}
	to = chunk->migrate->ops->address(chunk, segment->dst);
	for (i = 0; !ret && i < segment->npages; i++)
		ret = copy_add(chunk->migrate->dma_chan, copy, to + i * PAGE_SIZE,
			       copy->zero, PAGE_SIZE);
	return ret;
}

static int copy_segments(struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	struct dma_chan *chan = chunk->migrate->dma_chan;
	unsigned long i;
	int ret;

	for (i = 0; i < chunk->nr_segments; i++) {
		const struct hmm_migrate_segment *segment = &chunk->segments[i];

		ret = segment->src ? copy_segment(chunk, copy, segment) :
				     zero_segment(chunk, copy, segment);
		if (ret)
			return ret;
		cond_resched();
	}
	/* Holes alone may leave nothing to do. */
	if (!copy->length) {
		complete(&copy->done);
		return 0;
	}
	return copy_submit(chan, copy, true);
}

/*
 * The engine does not do what it should, and must not touch memory any more that is
 * about to be given back. That ends the other chunk in flight as well, and the call.
 */
static void engine_terminate(struct hmm_migrate *migrate)
{
	migrate->engine_failed = true;
	migrate->engine_stopped = true;
	if (WARN_ONCE(dmaengine_terminate_sync(migrate->dma_chan),
		      "%s cannot be stopped\n", dma_chan_name(migrate->dma_chan)))
		migrate->engine_lost = true;
}

/* What the engine has of a chunk is over; or it is never given back. */
static void copy_end(struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	if (chunk->migrate->engine_lost)
		chunk->private = NULL;
	else
		copy_unmap(chunk, copy);
}

/* Pieces */

/* Maps @npages from @page on, or asks where they are if they are private. */
static int piece_map(struct hmm_migrate_chunk *chunk, struct page *page,
		     unsigned long npages, enum dma_data_direction direction,
		     dma_addr_t *address)
{
	struct device *dev = chunk_device(chunk);

	if (!page_is_mappable(page)) {
		*address = chunk->migrate->ops->address(chunk, page);
		return 0;
	}
	*address = dma_map_page(dev, page, 0, npages << PAGE_SHIFT, direction);
	return dma_mapping_error(dev, *address) ? -ENOMEM : 0;
}

static void piece_unmap(struct hmm_migrate_chunk *chunk, struct page *page,
			unsigned long npages, enum dma_data_direction direction,
			dma_addr_t address)
{
	if (page_is_mappable(page) && !chunk->migrate->engine_lost)
		dma_unmap_page(chunk_device(chunk), address, npages << PAGE_SHIFT,
			       direction);
}

/* One descriptor, to its end. */
static int piece_submit(struct hmm_migrate_chunk *chunk, struct dma_copy *copy,
			dma_addr_t to, dma_addr_t from, size_t length)
{
	struct dma_chan *chan = chunk->migrate->dma_chan;
	int ret;

	reinit_completion(&copy->done);
	copy->to = to;
	copy->from = from;
	copy->length = length;
	ret = copy_submit(chan, copy, true);
	if (!ret) {
		dma_async_issue_pending(chan);
		if (wait_for_completion_io_timeout(&copy->done, DMA_COPY_TIMEOUT))
			return copy->error;
		ret = -ETIMEDOUT;
	}
	engine_terminate(chunk->migrate);
	return ret;
}

/* A descriptor may have less than a page. */
static int piece_run(struct hmm_migrate_chunk *chunk, struct dma_copy *copy,
		     dma_addr_t to, dma_addr_t from, size_t length)
{
	size_t done, now;
	int ret = 0;

	for (done = 0; !ret && done < length; done += now) {
		now = min(length - done, copy->max);
		ret = piece_submit(chunk, copy, to + done, from + done, now);
	}
	return ret;
}

/* Returns -ENOMEM if the pages cannot be mapped. */
static int copy_piece(struct hmm_migrate_chunk *chunk, struct dma_copy *copy,
		      struct page *dst, struct page *src, unsigned long npages)
{
	dma_addr_t from, to;
	int ret;

	ret = piece_map(chunk, src, npages, DMA_TO_DEVICE, &from);
	if (ret)
		return ret;
	ret = piece_map(chunk, dst, npages, DMA_FROM_DEVICE, &to);
	if (!ret) {
		ret = piece_run(chunk, copy, to, from, npages << PAGE_SHIFT);
		piece_unmap(chunk, dst, npages, DMA_FROM_DEVICE, to);
	}
	piece_unmap(chunk, src, npages, DMA_TO_DEVICE, from);
	return ret;
}

/* Not even a page can be mapped: others have the bounce buffers. */
static int copy_page_somehow(struct hmm_migrate_chunk *chunk, struct dma_copy *copy,
			     struct page *dst, struct page *src)
{
	int ret;

	if (page_is_mappable(src) && page_is_mappable(dst))
		return copy_mc_highpage(dst, src) ? -EHWPOISON : 0;
	do {
		usleep_range(DMA_COPY_POLL, 2 * DMA_COPY_POLL);
		ret = copy_piece(chunk, copy, dst, src, 1);
	} while (ret == -ENOMEM && time_before(jiffies, copy->deadline) &&
		 !fatal_signal_pending(current));
	return ret;
}

/* @max is how many pages a piece may have; it becomes less where that is too much. */
static int copy_segment_in_pieces(struct hmm_migrate_chunk *chunk,
				  struct dma_copy *copy,
				  const struct hmm_migrate_segment *segment,
				  unsigned long *max)
{
	unsigned long done = 0, npages;
	int ret;

	while (done < segment->npages) {
		struct page *src = segment->src ? segment->src + done : ZERO_PAGE(0);
		struct page *dst = segment->dst + done;

		npages = segment->src ? min(segment->npages - done, *max) : 1;
		if (!segment->src && page_is_mappable(dst)) {
			clear_highpage(dst);
			ret = 0;
		} else {
			ret = copy_piece(chunk, copy, dst, src, npages);
		}
		if (ret == -ENOMEM && npages > 1) {
			*max = npages / 2;
			continue;
		}
		if (ret == -ENOMEM)
			ret = copy_page_somehow(chunk, copy, dst, src);
		if (ret)
			return ret;
		done += npages;
		cond_resched();
	}
	return 0;
}

static int copy_in_pieces(struct hmm_migrate_chunk *chunk, struct dma_copy *copy)
{
	size_t size = min(dma_max_mapping_size(chunk_device(chunk)), copy->max);
	unsigned long max = clamp(size, PAGE_SIZE, (size_t)SZ_1M) >> PAGE_SHIFT, i;
	int ret;

	copy->deadline = jiffies + DMA_COPY_MAP_TIMEOUT;
	for (i = 0; i < chunk->nr_segments; i++) {
		if (chunk->migrate->engine_stopped)
			return -ETIMEDOUT;
		ret = copy_segment_in_pieces(chunk, copy, &chunk->segments[i], &max);
		if (ret)
			return ret;
	}
	return 0;
}

static bool chunk_has_addresses(const struct hmm_migrate_chunk *chunk)
{
	unsigned long i;

	if (chunk->migrate->ops->address)
		return true;
	for (i = 0; i < chunk->nr_segments; i++)
		if (is_device_private_page(chunk->segments[i].dst) ||
		    (chunk->segments[i].src &&
		     is_device_private_page(chunk->segments[i].src)))
			return false;
	return true;
}

/*
 * No engine copies arm64's tags: the task would lose them, and fault at its next access.
 * Private memory has none, and what comes back from it gets those of new memory.
 */
static bool chunk_has_tags(const struct hmm_migrate_chunk *chunk)
{
	unsigned long i;

	if (!(chunk->args.vma->vm_flags & VM_MTE))
		return false;
	for (i = 0; i < chunk->nr_segments; i++)
		if (chunk->segments[i].src && page_is_mappable(chunk->segments[i].src))
			return true;
	return false;
}

/* Is there a hole that the engine has to fill with zeros? */
static bool chunk_has_private_holes(const struct hmm_migrate_chunk *chunk)
{
	unsigned long i;

	for (i = 0; i < chunk->nr_segments; i++)
		if (!chunk->segments[i].src &&
		    is_device_private_page(chunk->segments[i].dst))
			return true;
	return false;
}

/* An engine that cannot be stopped could write to memory that is somebody else's. */
static bool engine_is_suitable(struct dma_chan *chan)
{
	return chan && chan->device->device_terminate_all &&
	       dma_has_cap(DMA_MEMCPY, chan->device->cap_mask) &&
	       !dma_has_cap(DMA_COMPLETION_NO_ORDER, chan->device->cap_mask);
}

static struct dma_copy *chunk_copy(struct hmm_migrate_chunk *chunk)
{
	struct dma_copy *copy = chunk->private;

	if (!copy) {
		copy = kzalloc(sizeof(*copy), GFP_KERNEL);
		if (!copy)
			return NULL;
		copy->src.direction = DMA_TO_DEVICE;
		copy->dst.direction = DMA_FROM_DEVICE;
		copy->zero = DMA_MAPPING_ERROR;
		chunk->private = copy;
	}
	init_completion(&copy->done);
	copy->error = 0;
	copy->submitted = false;
	copy->pieces = false;
	copy->length = 0;
	copy->max = dma_get_max_seg_size(chunk_device(chunk));
	/* Of whole pages, so that each descriptor begins where a page does. */
	if (copy->max > PAGE_SIZE)
		copy->max = round_down(copy->max, PAGE_SIZE);
	return copy;
}

/**
 * hmm_migrate_dma_copy() - a copy op: by a channel of a DMA engine
 * @chunk: what to copy; its @migrate has the channel, which must have DMA_MEMCPY,
 *	complete in the order of submission, report an error to the descriptor's
 *	callback, and be able to terminate
 *
 * Whether a driver reports errors cannot be asked for: one that calls a descriptor back
 * without a result says that all is well, whatever has happened. With such a channel a
 * failed copy is taken for a good one, and the contents are lost.
 *
 * Ordinary and coherent memory is mapped for the channel's device. For private
 * memory, &hmm_migrate_ops.address says where it is: pages that follow each other
 * in pfns must do so there, too. To be used with hmm_migrate_dma_wait() and
 * hmm_migrate_dma_release(). During the call of hmm_migrate_range(), nobody else may
 * use the channel.
 *
 * Context: sleeps.
 * Return: 0 if copying has begun, or -ENOMEM. -EOPNOTSUPP for memory with arm64's tags,
 * which stays where it is. -EINVAL if the channel is not suitable, or there is private
 * memory and no &hmm_migrate_ops.address: the call ends, and the next chunk, if it is
 * begun, does not move either. -EIO or -ETIMEDOUT if the engine does not take it: then
 * what it has is terminated, and the call ends. If memory cannot be mapped for it, that
 * is no error: hmm_migrate_dma_wait() copies the chunk in pieces.
 */
int hmm_migrate_dma_copy(struct hmm_migrate_chunk *chunk)
{
	struct hmm_migrate *migrate = chunk->migrate;
	struct dma_copy *copy;
	int ret;

	if (migrate->engine_failed)
		return -EIO;
	if (!engine_is_suitable(migrate->dma_chan) || !chunk_has_addresses(chunk)) {
		/* The engine may be at work on the chunk before: that is still waited for. */
		migrate->engine_failed = true;
		return -EINVAL;
	}
	if (chunk_has_tags(chunk))
		return -EOPNOTSUPP;
	copy = chunk_copy(chunk);
	if (!copy)
		return -ENOMEM;
	if (!migrate->engine_pieces &&
	    (side_map(chunk, &copy->src) || side_map(chunk, &copy->dst) ||
	     (chunk_has_private_holes(chunk) && map_zero_page(chunk, copy)))) {
		copy_unmap(chunk, copy);
		migrate->engine_pieces = true;
	}
	if (migrate->engine_pieces) {
		copy->pieces = true;
		return 0;
	}
	ret = copy_segments(chunk, copy);
	if (!ret) {
		dma_async_issue_pending(migrate->dma_chan);
		return 0;
	}
	if (copy->submitted || ret == -ETIMEDOUT)
		engine_terminate(migrate);
	copy_end(chunk, copy);
	return ret;
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_copy);

/**
 * hmm_migrate_dma_wait() - wait for what hmm_migrate_dma_copy() has begun
 * @chunk: the chunk
 *
 * Context: sleeps.
 * Return: 0, -EIO if the engine reports an error, or -ETIMEDOUT if it reports
 * nothing for half a minute: then what it has is terminated, and the call ends. -ENOMEM
 * if the chunk has waited for a second to map a page that the CPU cannot reach.
 */
int hmm_migrate_dma_wait(struct hmm_migrate_chunk *chunk)
{
	struct hmm_migrate *migrate = chunk->migrate;
	struct dma_copy *copy = chunk->private;
	int ret;

	if (copy->pieces) {
		ret = copy_in_pieces(chunk, copy);
		copy_end(chunk, copy);
		return ret;
	}
	if (!migrate->engine_stopped &&
	    !wait_for_completion_io_timeout(&copy->done, DMA_COPY_TIMEOUT))
		engine_terminate(migrate);
	ret = copy->error;
	copy_end(chunk, copy);
	/* It may have been done before that, but nobody knows. */
	return migrate->engine_stopped ? -ETIMEDOUT : ret;
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_wait);

/**
 * hmm_migrate_dma_release() - give back what hmm_migrate_dma_copy() keeps
 * @chunk: whose @private it is
 *
 * Context: any in which memory can be freed.
 */
void hmm_migrate_dma_release(struct hmm_migrate_chunk *chunk)
{
	struct dma_copy *copy = chunk->private;

	if (!copy)
		return;
	kvfree(copy->src.list);
	kvfree(copy->dst.list);
	kfree(copy);
	chunk->private = NULL;
}
EXPORT_SYMBOL_GPL(hmm_migrate_dma_release);

#include "migrate_vma/tests/dma-kunit.h"
