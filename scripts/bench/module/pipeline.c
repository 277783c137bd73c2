// SPDX-License-Identifier: GPL-2.0
/*
 * hmm_migrate_range() with an engine that takes its time, and what it is compared
 * with: the same without copying, copying without migration, and both one after the
 * other, as drivers do it by hand. The device's memory is nowhere, so the engine must
 * be told to move no bytes.
 */
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/highmem.h>
#include <linux/hmm_migrate.h>
#include <linux/ktime.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "hmm_migrate_bench.h"
#include "internal.h"

#define DEPTH	2

static_assert(ARRAY_SIZE(((struct hmm_migrate_bench_pipeline *)0)->step) ==
	      HMM_MIGRATE_NR_STEPS);

static struct folio *pipeline_alloc(const struct hmm_migrate_chunk *chunk,
				    unsigned long addr, unsigned int order)
{
	struct page *page = alloc_device(order);

	return page ? page_folio(page) : NULL;
}

static u64 pipeline_address(const struct hmm_migrate_chunk *chunk, struct page *page)
{
	return PFN_PHYS(page_to_pfn(page));
}

static const struct hmm_migrate_ops pipeline_ops = {
	.alloc = pipeline_alloc,
	.copy = hmm_migrate_dma_copy,
	.wait = hmm_migrate_dma_wait,
	.address = pipeline_address,
	.release = hmm_migrate_dma_release,
};

static void init_migrate(struct hmm_migrate *migrate, struct dma_chan *chan,
			 const struct hmm_migrate_bench_pipeline *pipeline)
{
	*migrate = (struct hmm_migrate){
		.mm = current->mm,
		.start = pipeline->addr,
		.end = pipeline->addr + pipeline->length,
		.ops = &pipeline_ops,
		.pgmap_owner = &pgmap,
		.select = MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_LARGE,
		.flags = HMM_MIGRATE_STRICT | HMM_MIGRATE_STOP_ON_COPY_ERROR,
		.dma_chan = chan,
		.chunk_size = pipeline->chunk,
	};
}

static int do_range(struct dma_chan *chan, struct hmm_migrate_bench_pipeline *pipeline)
{
	struct hmm_migrate migrate;
	int ret, i;

	init_migrate(&migrate, chan, pipeline);
	pipeline->time = ktime_get_ns();
	ret = hmm_migrate_range(&migrate);
	pipeline->time = ktime_get_ns() - pipeline->time;
	pipeline->moved = migrate.moved;
	for (i = 0; i < HMM_MIGRATE_NR_STEPS; i++)
		pipeline->step[i] = migrate.time[i];
	return ret;
}

/* The three calls */

struct bare {
	struct migrate_vma args;
	struct dma_chan *chan;
	dma_addr_t *addresses;
	struct hmm_migrate_bench_pipeline *pipeline;
};

static unsigned long slot_pages(unsigned long entry)
{
	return entry & MIGRATE_PFN_COMPOUND ?
	       folio_nr_pages(page_folio(migrate_pfn_to_page(entry))) : 1;
}

/* Allocate and map, a folio at a time. */
static int bare_map(struct bare *bare)
{
	struct device *dev = dmaengine_get_dma_device(bare->chan);
	struct migrate_vma *args = &bare->args;
	unsigned long i, npages;

	for (i = 0; i < args->npages; i += npages) {
		struct page *src = migrate_pfn_to_page(args->src[i]), *dst;

		npages = 1;
		if (!src || !(args->src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		npages = slot_pages(args->src[i]);
		dst = alloc_device(ilog2(npages));
		if (!dst)
			continue;
		args->dst[i] = migrate_pfn(page_to_pfn(dst)) |
			       (args->src[i] & MIGRATE_PFN_COMPOUND);
		bare->addresses[i] = dma_map_page(dev, src, 0, npages << PAGE_SHIFT,
						  DMA_TO_DEVICE);
		if (dma_mapping_error(dev, bare->addresses[i]))
			return -EIO;
	}
	return 0;
}

static void bare_unmap(struct bare *bare)
{
	struct device *dev = dmaengine_get_dma_device(bare->chan);
	struct migrate_vma *args = &bare->args;
	unsigned long i, npages;

	for (i = 0; i < args->npages; i += npages) {
		npages = 1;
		if (!args->dst[i])
			continue;
		npages = slot_pages(args->dst[i]);
		dma_unmap_page(dev, bare->addresses[i], npages << PAGE_SHIFT,
			       DMA_TO_DEVICE);
		bare->pipeline->moved += npages;
	}
}

static void bare_done(void *done)
{
	complete(done);
}

/* One descriptor a folio, and the CPU waits for the last one. */
static int bare_copy(struct bare *bare)
{
	struct dma_async_tx_descriptor *tx = NULL, *last = NULL;
	DECLARE_COMPLETION_ONSTACK(done);
	struct migrate_vma *args = &bare->args;
	unsigned long i, npages;

	for (i = 0; i < args->npages; i += npages) {
		npages = 1;
		if (!args->dst[i])
			continue;
		npages = slot_pages(args->dst[i]);
		if (last)
			dmaengine_submit(last);
		tx = dmaengine_prep_dma_memcpy(bare->chan,
					       PFN_PHYS(args->dst[i] >> MIGRATE_PFN_SHIFT),
					       bare->addresses[i],
					       npages << PAGE_SHIFT,
					       DMA_CTRL_ACK | DMA_PREP_INTERRUPT);
		if (!tx)
			return -EIO;
		/* Of all but the last one nobody needs to know. */
		if (last)
			last->flags &= ~DMA_PREP_INTERRUPT;
		last = tx;
	}
	if (!last)
		return 0;
	last->callback = bare_done;
	last->callback_param = &done;
	dmaengine_submit(last);
	dma_async_issue_pending(bare->chan);
	wait_for_completion(&done);
	return 0;
}

static int bare_chunk(struct bare *bare)
{
	struct migrate_vma *args = &bare->args;
	int ret;

	memset(args->dst, 0, sizeof(*args->dst) *
	       ((args->end - args->start) >> PAGE_SHIFT));
	ret = migrate_vma_setup(args);
	if (ret)
		return ret;
	ret = bare_map(bare);
	if (!ret && bare->pipeline->what == HMM_MIGRATE_BENCH_SERIAL)
		ret = bare_copy(bare);
	bare_unmap(bare);
	migrate_vma_pages(args);
	migrate_vma_finalize(args);
	return ret;
}

static int do_bare(struct dma_chan *chan, struct hmm_migrate_bench_pipeline *pipeline)
{
	unsigned long addr, end = pipeline->addr + pipeline->length;
	unsigned long max = pipeline->chunk >> PAGE_SHIFT;
	struct bare bare = {
		.chan = chan,
		.pipeline = pipeline,
		.args = {
			.pgmap_owner = &pgmap,
			.flags = MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_LARGE,
		},
	};
	int ret = -ENOMEM;

	bare.args.src = kvcalloc(max, sizeof(*bare.args.src), GFP_KERNEL);
	bare.args.dst = kvcalloc(max, sizeof(*bare.args.dst), GFP_KERNEL);
	bare.addresses = kvcalloc(max, sizeof(*bare.addresses), GFP_KERNEL);
	if (!bare.args.src || !bare.args.dst || !bare.addresses)
		goto out;
	ret = 0;
	pipeline->time = ktime_get_ns();
	mmap_read_lock(current->mm);
	bare.args.vma = vma_lookup(current->mm, pipeline->addr);
	if (!bare.args.vma || bare.args.vma->vm_end < end)
		ret = -EFAULT;
	for (addr = pipeline->addr; !ret && addr < end; addr += pipeline->chunk) {
		bare.args.start = addr;
		bare.args.end = min(addr + pipeline->chunk, end);
		ret = bare_chunk(&bare);
	}
	mmap_read_unlock(current->mm);
	pipeline->time = ktime_get_ns() - pipeline->time;
out:
	kvfree(bare.addresses);
	kvfree(bare.args.dst);
	kvfree(bare.args.src);
	return ret;
}

/* The engine alone */

/* The segments of the chunk at @addr, if it were to migrate; its pages are pinned. */
static long engine_fill(struct hmm_migrate_chunk *chunk, unsigned long addr,
			unsigned long npages, struct page **pages, struct page *dst)
{
	long pinned = pin_user_pages_fast(addr, npages, 0, pages), i;
	struct hmm_migrate_segment *last = NULL;

	chunk->nr_segments = 0;
	for (i = 0; i < pinned; i++) {
		if (last && last->src + last->npages == pages[i]) {
			last->npages++;
			continue;
		}
		last = &chunk->segments[chunk->nr_segments++];
		last->src = pages[i];
		last->dst = dst + i;
		last->npages = 1;
	}
	return pinned;
}

static int engine_run(struct hmm_migrate_chunk *chunks, unsigned int nr)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && i < nr; i++) {
		ret = hmm_migrate_dma_copy(&chunks[i]);
		if (!ret && i)
			ret = hmm_migrate_dma_wait(&chunks[i - 1]);
	}
	return ret ?: hmm_migrate_dma_wait(&chunks[nr - 1]);
}

static int do_engine(struct dma_chan *chan, struct hmm_migrate_bench_pipeline *pipeline)
{
	unsigned long max = pipeline->chunk >> PAGE_SHIFT;
	unsigned int nr = DIV_ROUND_UP(pipeline->length, pipeline->chunk), i;
	struct hmm_migrate_chunk *chunks = kvcalloc(nr, sizeof(*chunks), GFP_KERNEL);
	struct page **pages = kvcalloc(nr * max, sizeof(*pages), GFP_KERNEL);
	struct page *dst = pfn_to_page(PHYS_PFN(pgmap.range.start));
	struct hmm_migrate migrate;
	long pinned = 0;
	int ret = chunks && pages ? 0 : -ENOMEM;

	init_migrate(&migrate, chan, pipeline);
	for (i = 0; !ret && i < nr; i++) {
		chunks[i].migrate = &migrate;
		chunks[i].segments = kvcalloc(max, sizeof(*chunks[i].segments), GFP_KERNEL);
		if (!chunks[i].segments) {
			ret = -ENOMEM;
			break;
		}
		pinned = engine_fill(&chunks[i], pipeline->addr + i * pipeline->chunk,
				     max, pages + i * max, dst + i * max);
		if (pinned > 0)
			pipeline->moved += pinned;
		if (pinned != max)
			ret = -EFAULT;
	}
	pipeline->time = ktime_get_ns();
	if (!ret)
		ret = engine_run(chunks, nr);
	pipeline->time = ktime_get_ns() - pipeline->time;
	if (pages)
		unpin_user_pages(pages, pipeline->moved);
	for (i = 0; chunks && i < nr; i++) {
		hmm_migrate_dma_release(&chunks[i]);
		kvfree(chunks[i].segments);
	}
	kvfree(pages);
	kvfree(chunks);
	return ret;
}

static int check_pipeline(const struct hmm_migrate_bench_pipeline *pipeline)
{
	if (!PAGE_ALIGNED(pipeline->addr | pipeline->length | pipeline->chunk) ||
	    !pipeline->length || !pipeline->chunk ||
	    pipeline->chunk > pipeline->length ||
	    pipeline->length > range_len(&pgmap.range) ||
	    pipeline->addr + pipeline->length < pipeline->addr ||
	    pipeline->what > HMM_MIGRATE_BENCH_SERIAL)
		return -EINVAL;
	return 0;
}

long bench_pipeline(void __user *user)
{
	struct hmm_migrate_bench_pipeline pipeline;
	struct dma_chan *chan;
	dma_cap_mask_t mask;
	int ret;

	if (copy_from_user(&pipeline, user, sizeof(pipeline)))
		return -EFAULT;
	pipeline.moved = 0;
	pipeline.time = 0;
	memset(pipeline.step, 0, sizeof(pipeline.step));
	ret = check_pipeline(&pipeline);
	if (ret)
		return ret;
	dma_cap_zero(mask);
	dma_cap_set(DMA_MEMCPY, mask);
	chan = dma_request_channel(mask, NULL, NULL);
	if (!chan)
		return -ENODEV;
	if (pipeline.what == HMM_MIGRATE_BENCH_RANGE)
		ret = do_range(chan, &pipeline);
	else if (pipeline.what == HMM_MIGRATE_BENCH_ENGINE)
		ret = do_engine(chan, &pipeline);
	else
		ret = do_bare(chan, &pipeline);
	dma_release_channel(chan);
	if (!ret && copy_to_user(user, &pipeline, sizeof(pipeline)))
		ret = -EFAULT;
	return ret;
}
