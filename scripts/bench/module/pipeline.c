// SPDX-License-Identifier: GPL-2.0
/*
 * hmm_migrate_range() with an engine that takes its time, and what it is compared
 * with: the same without copying, copying without migration, and both one after the
 * other, as drivers do it by hand. To private and coherent memory, and to another node.
 * The private memory is nowhere, so the engine must be told to move no bytes.
 */
#include <linux/dma-mapping.h>
#include <linux/delay.h>
#include <linux/dmaengine.h>
#include <linux/highmem.h>
#include <linux/hmm_migrate.h>
#include <linux/ioport.h>
#include <linux/ktime.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "hmm_migrate_bench.h"
#include "internal.h"

/* Soft Reserved, if it is anything: vm.sh sees to that. */
#define COHERENT_START	0x40000000UL
#define MEMORY_SIZE	0x08000000UL

static_assert(ARRAY_SIZE(((struct hmm_migrate_bench_pipeline *)0)->step) ==
	      HMM_MIGRATE_NR_STEPS);

/**
 * struct memory - memory of a device of its own, besides that of main.c
 * @pgmap: its struct pages; whose owner is NULL before it is asked for
 * @used: how many pages are in use
 * @next: the next one that was never used
 *
 * It is handed out from the beginning to the end, and from the beginning again when all
 * of it is back.
 */
struct memory {
	struct dev_pagemap pgmap;
	atomic_t used;
	unsigned long next;
};

static struct memory coherent, peer;

static struct memory *memory_of(struct dev_pagemap *pgmap)
{
	return container_of(pgmap, struct memory, pgmap);
}

static void memory_free(struct folio *folio)
{
	struct memory *memory = memory_of(page_pgmap(&folio->page));

	if (!atomic_sub_return(folio_nr_pages(folio), &memory->used))
		memory->next = 0;
}

/* Nothing is left there when the program ends. */
static vm_fault_t memory_to_ram(struct vm_fault *vmf)
{
	return VM_FAULT_SIGBUS;
}

static const struct dev_pagemap_ops memory_ops = {
	.folio_free = memory_free,
	.migrate_to_ram = memory_to_ram,
};

static struct folio *memory_alloc(struct memory *memory, unsigned int order)
{
	unsigned long first = ALIGN(memory->next, BIT(order));
	struct folio *folio;

	if (first + BIT(order) > MEMORY_SIZE >> PAGE_SHIFT)
		return NULL;
	memory->next = first + BIT(order);
	atomic_add(BIT(order), &memory->used);
	folio = (struct folio *)pfn_to_page(PHYS_PFN(memory->pgmap.range.start) + first);
	zone_device_folio_init(folio, &memory->pgmap, order);
	return folio;
}

static int memory_map(struct memory *memory, enum memory_type type, u64 start, void *owner)
{
	void *pages;

	memory->pgmap.type = type;
	memory->pgmap.range.start = start;
	memory->pgmap.range.end = start + MEMORY_SIZE - 1;
	memory->pgmap.nr_range = 1;
	memory->pgmap.ops = &memory_ops;
	memory->pgmap.owner = owner;
	pages = memremap_pages(&memory->pgmap, 0);
	if (IS_ERR(pages))
		memory->pgmap.owner = NULL;
	return PTR_ERR_OR_ZERO(pages);
}

/* When it is asked for first: what is measured without it must not have it. */
static int coherent_create(void)
{
	if (coherent.pgmap.owner)
		return 0;
	if (region_intersects(COHERENT_START, MEMORY_SIZE, IORESOURCE_MEM,
			      IORES_DESC_SOFT_RESERVED) != REGION_INTERSECTS)
		return -ENODEV;
	return memory_map(&coherent, MEMORY_DEVICE_COHERENT, COHERENT_START, &pgmap);
}

static int peer_create(void)
{
	struct resource *region;

	if (peer.pgmap.owner)
		return 0;
	region = request_free_mem_region(&iomem_resource, MEMORY_SIZE, "hmm_migrate_bench_peer");
	if (IS_ERR(region))
		return PTR_ERR(region);
	return memory_map(&peer, MEMORY_DEVICE_PRIVATE, region->start, &peer);
}

static struct dma_chan *engine_chan;
static struct hmm_migrate_dma *engine_dma;

void bench_pipeline_exit(void)
{
	if (engine_chan)
		dma_release_channel(engine_chan);
	if (engine_dma)
		hmm_migrate_dma_destroy(engine_dma);
	if (coherent.pgmap.owner)
		memunmap_pages(&coherent.pgmap);
	if (peer.pgmap.owner) {
		memunmap_pages(&peer.pgmap);
		release_mem_region(peer.pgmap.range.start, MEMORY_SIZE);
	}
}

/* The ops, for each kind of memory */

static struct folio *node_alloc(unsigned int order)
{
	gfp_t gfp = order ? GFP_TRANSHUGE : GFP_HIGHUSER_MOVABLE;
	struct folio *folio = __folio_alloc_node(gfp | __GFP_THISNODE, order, 1);

	if (folio)
		__folio_set_locked(folio);
	return folio;
}

static struct folio *alloc_kind(unsigned int kind, unsigned int order)
{
	struct page *page;

	if (kind == HMM_MIGRATE_BENCH_COHERENT)
		return memory_alloc(&coherent, order);
	if (kind == HMM_MIGRATE_BENCH_NODE)
		return node_alloc(order);
	page = alloc_device(order);
	return page ? page_folio(page) : NULL;
}

static struct folio *private_op(const struct hmm_migrate_chunk *chunk,
				unsigned long addr, unsigned int order)
{
	return alloc_kind(HMM_MIGRATE_BENCH_PRIVATE, order);
}

static struct folio *coherent_op(const struct hmm_migrate_chunk *chunk,
				 unsigned long addr, unsigned int order)
{
	return memory_alloc(&coherent, order);
}

static struct folio *peer_op(const struct hmm_migrate_chunk *chunk,
			     unsigned long addr, unsigned int order)
{
	return memory_alloc(&peer, order);
}

static u64 pipeline_address(const struct hmm_migrate_chunk *chunk, struct page *page)
{
	return PFN_PHYS(page_to_pfn(page));
}

static struct folio *node_op(const struct hmm_migrate_chunk *chunk, unsigned long addr,
			     unsigned int order)
{
	return hmm_migrate_alloc_node(chunk, addr, order, 1);
}

static struct folio *node_back_op(const struct hmm_migrate_chunk *chunk,
				  unsigned long addr, unsigned int order)
{
	return hmm_migrate_alloc_node(chunk, addr, order, 0);
}

static int engine_op(struct hmm_migrate_chunk *chunk)
{
	return hmm_migrate_dma_copy(chunk, chunk->migrate->private);
}

#define ENGINE_OPS						\
	.copy = engine_op,					\
	.wait = hmm_migrate_dma_wait,				\
	.address = pipeline_address,				\
	.release = hmm_migrate_dma_release

static const struct hmm_migrate_ops pipeline_ops[] = {
	[HMM_MIGRATE_BENCH_PRIVATE] = { ENGINE_OPS, .alloc = private_op },
	[HMM_MIGRATE_BENCH_COHERENT] = { ENGINE_OPS, .alloc = coherent_op },
	[HMM_MIGRATE_BENCH_NODE] = { ENGINE_OPS, .alloc = node_op },
};

static void init_migrate(struct hmm_migrate *migrate, struct hmm_migrate_dma *dma,
			 const struct hmm_migrate_bench_pipeline *pipeline)
{
	*migrate = (struct hmm_migrate){
		.mm = current->mm,
		.start = pipeline->addr,
		.end = pipeline->addr + pipeline->length,
		.ops = &pipeline_ops[pipeline->kind],
		.pgmap_owner = &pgmap,
		.select = MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_LARGE,
		.flags = HMM_MIGRATE_STRICT | HMM_MIGRATE_STOP_ON_COPY_ERROR |
			 (pipeline->kind == HMM_MIGRATE_BENCH_NODE ? HMM_MIGRATE_TO_SYSTEM : 0),
		.private = dma,
		.chunk_size = pipeline->chunk,
	};
}

/* Who copies: the engine alone, whoever is sooner, the CPU alone, or nobody. */
static unsigned int copier;
module_param(copier, uint, 0644);

/* To a node: how many pages in a row are neighbours there; 0: as they come. */
static unsigned int run;
module_param(run, uint, 0644);

/* Which node that is. */
static unsigned int to_node = 1;
module_param(to_node, uint, 0644);

/* Pages in the order in which they are handed out. */
static struct page **pool;
static unsigned long pool_next, pool_end;

static void pool_free(void)
{
	while (pool_next < pool_end) {
		if (pool[pool_next])
			__free_page(pool[pool_next]);
		pool_next++;
	}
	kvfree(pool);
	pool = NULL;
}

/* Blocks of 512 pages, taken apart: of each, @run pages stay together. */
static int pool_fill(unsigned long npages)
{
	unsigned long runs = npages / run, i, j;

	pool_next = 0;
	pool_end = npages;
	pool = kvcalloc(npages, sizeof(*pool), GFP_KERNEL);
	if (!pool)
		return -ENOMEM;
	for (i = 0; i < npages; i += 512) {
		struct page *block = alloc_pages_node(to_node, GFP_HIGHUSER_MOVABLE |
						      __GFP_THISNODE, 9);

		if (!block) {
			pool_free();
			return -ENOMEM;
		}
		split_page(block, 9);
		for (j = 0; j < 512; j++)
			pool[(i + j) / run * 517 % runs * run + (i + j) % run] = block + j;
	}
	return 0;
}

static struct folio *pool_op(const struct hmm_migrate_chunk *chunk, unsigned long addr,
			     unsigned int order)
{
	struct folio *folio;

	if (order || pool_next == pool_end)
		return NULL;
	folio = page_folio(pool[pool_next++]);
	__folio_set_locked(folio);
	return folio;
}

static int copy_nothing(struct hmm_migrate_chunk *chunk)
{
	return 0;
}

static const struct hmm_migrate_ops pool_ops[] = {
	{ ENGINE_OPS, .alloc = pool_op },
	{ ENGINE_OPS, .alloc = pool_op },
	{ .alloc = pool_op, .copy = hmm_migrate_copy },
	{ .alloc = pool_op, .copy = copy_nothing },
};

static int do_range(struct hmm_migrate_dma *dma, struct hmm_migrate_bench_pipeline *pipeline)
{
	struct hmm_migrate migrate;
	int ret, i;

	init_migrate(&migrate, dma, pipeline);
	hmm_migrate_dma_let_cpu(dma, copier == 1);
	if (run && pipeline->kind == HMM_MIGRATE_BENCH_NODE) {
		ret = copier < ARRAY_SIZE(pool_ops) ? pool_fill(pipeline->length >> PAGE_SHIFT) :
						      -EINVAL;
		if (ret)
			return ret;
		migrate.ops = &pool_ops[copier];
	}
	pipeline->time = ktime_get_ns();
	ret = hmm_migrate_range(&migrate);
	pipeline->time = ktime_get_ns() - pipeline->time;
	pipeline->moved = migrate.moved;
	for (i = 0; i < HMM_MIGRATE_NR_STEPS; i++)
		pipeline->step[i] = migrate.time[i];
	if (pool)
		pool_free();
	return ret;
}

static int do_return(struct hmm_migrate_bench_pipeline *pipeline)
{
	static const struct hmm_migrate_ops system_ops = { .copy = copy_nothing };
	static const struct hmm_migrate_ops node_ops = {
		.alloc = node_back_op,
		.copy = copy_nothing,
	};
	bool node = pipeline->kind == HMM_MIGRATE_BENCH_NODE;
	struct hmm_migrate migrate;
	int ret;

	init_migrate(&migrate, NULL, pipeline);
	migrate.ops = node ? &node_ops : &system_ops;
	ret = node ? hmm_migrate_range(&migrate) : hmm_migrate_range_back(&migrate);
	pipeline->moved = migrate.moved;
	return ret;
}

/* Evictions, devices among themselves, and faults */

static const struct hmm_migrate_ops engine_back_ops = { ENGINE_OPS };
static const struct hmm_migrate_ops nothing_back_ops = { .copy = copy_nothing };
static const struct hmm_migrate_ops engine_peer_ops = { ENGINE_OPS, .alloc = peer_op };
static const struct hmm_migrate_ops nothing_peer_ops = {
	.alloc = peer_op,
	.copy = copy_nothing,
};

static int do_evict(struct hmm_migrate_dma *dma, struct hmm_migrate_bench_pipeline *pipeline)
{
	bool engine = pipeline->what == HMM_MIGRATE_BENCH_EVICT;
	struct hmm_migrate migrate;
	int ret;

	init_migrate(&migrate, dma, pipeline);
	migrate.ops = engine ? &engine_back_ops : &nothing_back_ops;
	pipeline->time = ktime_get_ns();
	ret = hmm_migrate_evict(&migrate, PHYS_PFN(pgmap.range.start),
				pipeline->length >> PAGE_SHIFT);
	pipeline->time = ktime_get_ns() - pipeline->time;
	pipeline->moved = migrate.moved;
	return ret;
}

static int do_peer(struct hmm_migrate_dma *dma, struct hmm_migrate_bench_pipeline *pipeline)
{
	bool engine = pipeline->what == HMM_MIGRATE_BENCH_PEER;
	void *peers[] = { &pgmap };
	struct hmm_migrate migrate;
	int ret;

	init_migrate(&migrate, dma, pipeline);
	migrate.ops = engine ? &engine_peer_ops : &nothing_peer_ops;
	migrate.pgmap_owner = &peer;
	migrate.peers = peers;
	migrate.nr_peers = ARRAY_SIZE(peers);
	migrate.select = MIGRATE_VMA_SELECT_DEVICE_PRIVATE | MIGRATE_VMA_SELECT_LARGE;
	pipeline->time = ktime_get_ns();
	ret = hmm_migrate_range(&migrate);
	pipeline->time = ktime_get_ns() - pipeline->time;
	pipeline->moved = migrate.moved;
	return ret;
}

static int do_back(struct hmm_migrate_bench_pipeline *pipeline)
{
	struct hmm_migrate migrate;
	int ret;

	init_migrate(&migrate, NULL, pipeline);
	migrate.ops = &nothing_back_ops;
	if (pipeline->what == HMM_MIGRATE_BENCH_PEER_RETURN)
		migrate.pgmap_owner = &peer;
	pipeline->time = ktime_get_ns();
	ret = hmm_migrate_range_back(&migrate);
	pipeline->time = ktime_get_ns() - pipeline->time;
	pipeline->moved = migrate.moved;
	return ret;
}

unsigned int bench_window_fault(struct vm_fault *vmf)
{
	struct hmm_migrate migrate = {
		.ops = &nothing_back_ops,
		.pgmap_owner = &pgmap,
		.select = MIGRATE_VMA_SELECT_LARGE,
	};

	return (__force unsigned int)hmm_migrate_fault(vmf, &migrate, fault_window);
}

static int do_hold(struct hmm_migrate_bench_pipeline *pipeline)
{
	struct page *page;

	if (get_user_pages_fast(pipeline->addr, 1, 0, &page) != 1)
		return -EFAULT;
	folio_lock(page_folio(page));
	put_page(page);
	msleep(pipeline->length >> PAGE_SHIFT);
	folio_unlock(page_folio(page));
	pipeline->moved = pipeline->length >> PAGE_SHIFT;
	return 0;
}

/* The three calls */

struct bare {
	struct migrate_vma args;
	struct dma_chan *chan;
	dma_addr_t *from;
	dma_addr_t *to;
	struct hmm_migrate_bench_pipeline *pipeline;
};

static unsigned long slot_pages(unsigned long entry)
{
	return entry & MIGRATE_PFN_COMPOUND ?
	       folio_nr_pages(page_folio(migrate_pfn_to_page(entry))) : 1;
}

static dma_addr_t map_page(struct device *dev, struct page *page, unsigned long npages,
			   enum dma_data_direction direction)
{
	if (is_device_private_page(page))
		return PFN_PHYS(page_to_pfn(page));
	return dma_map_page(dev, page, 0, npages << PAGE_SHIFT, direction);
}

static void unmap_page(struct device *dev, struct page *page, dma_addr_t address,
		       unsigned long npages, enum dma_data_direction direction)
{
	if (!is_device_private_page(page))
		dma_unmap_page(dev, address, npages << PAGE_SHIFT, direction);
}

/* Allocate and map, a folio at a time. */
static int bare_map(struct bare *bare)
{
	struct device *dev = dmaengine_get_dma_device(bare->chan);
	struct migrate_vma *args = &bare->args;
	unsigned long i, npages;

	for (i = 0; i < args->npages; i += npages) {
		struct page *src = migrate_pfn_to_page(args->src[i]);
		struct folio *dst;

		npages = 1;
		if (!src || !(args->src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		npages = slot_pages(args->src[i]);
		dst = alloc_kind(bare->pipeline->kind, ilog2(npages));
		if (!dst)
			continue;
		args->dst[i] = migrate_pfn(folio_pfn(dst)) |
			       (args->src[i] & MIGRATE_PFN_COMPOUND);
		bare->from[i] = map_page(dev, src, npages, DMA_TO_DEVICE);
		bare->to[i] = map_page(dev, &dst->page, npages, DMA_FROM_DEVICE);
		if (dma_mapping_error(dev, bare->from[i]) ||
		    dma_mapping_error(dev, bare->to[i]))
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
		unmap_page(dev, migrate_pfn_to_page(args->src[i]), bare->from[i],
			   npages, DMA_TO_DEVICE);
		unmap_page(dev, migrate_pfn_to_page(args->dst[i]), bare->to[i],
			   npages, DMA_FROM_DEVICE);
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
		tx = dmaengine_prep_dma_memcpy(bare->chan, bare->to[i], bare->from[i],
					       npages << PAGE_SHIFT,
					       DMA_CTRL_ACK | DMA_PREP_INTERRUPT);
		if (!tx)
			return -EIO;
		/* Of all but the last one nobody needs to know. */
		if (last) {
			last->flags &= ~DMA_PREP_INTERRUPT;
			dmaengine_submit(last);
		}
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

static int bare_chunks(struct bare *bare)
{
	struct hmm_migrate_bench_pipeline *pipeline = bare->pipeline;
	unsigned long addr, end = pipeline->addr + pipeline->length;
	struct migrate_vma *args = &bare->args;
	int ret = 0;

	mmap_read_lock(current->mm);
	args->vma = vma_lookup(current->mm, pipeline->addr);
	if (!args->vma || args->vma->vm_end < end)
		ret = -EFAULT;
	for (addr = pipeline->addr; !ret && addr < end; addr += pipeline->chunk) {
		args->start = addr;
		args->end = min(addr + pipeline->chunk, end);
		ret = bare_chunk(bare);
	}
	mmap_read_unlock(current->mm);
	return ret;
}

static int do_bare(struct dma_chan *chan, struct hmm_migrate_bench_pipeline *pipeline)
{
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
	bare.from = kvcalloc(max, sizeof(*bare.from), GFP_KERNEL);
	bare.to = kvcalloc(max, sizeof(*bare.to), GFP_KERNEL);
	if (bare.args.src && bare.args.dst && bare.from && bare.to) {
		pipeline->time = ktime_get_ns();
		ret = bare_chunks(&bare);
		pipeline->time = ktime_get_ns() - pipeline->time;
	}
	kvfree(bare.to);
	kvfree(bare.from);
	kvfree(bare.args.dst);
	kvfree(bare.args.src);
	return ret;
}

/* The engine alone */

struct engine_chunk {
	struct hmm_migrate_chunk chunk;
	struct page **pages;
	struct folio **folios;
	long pinned;
	unsigned long nr_folios;
};

static void add_segment(struct hmm_migrate_chunk *chunk, struct page *src,
			struct page *dst)
{
	struct hmm_migrate_segment *next = chunk->segments + chunk->nr_segments;

	if (chunk->nr_segments && next[-1].src + next[-1].npages == src &&
	    next[-1].dst + next[-1].npages == dst) {
		next[-1].npages++;
		return;
	}
	next->src = src;
	next->dst = dst;
	next->npages = 1;
	next->index = chunk->npages;
	chunk->nr_segments++;
}

/* The segments of the chunk at @addr, if it were to migrate; its pages are pinned. */
static int engine_fill(struct engine_chunk *engine, unsigned long addr,
		       unsigned long npages, unsigned int kind)
{
	unsigned long i, j;

	engine->pinned = pin_user_pages_fast(addr, npages, 0, engine->pages);
	if (engine->pinned != npages)
		return -EFAULT;
	for (i = 0; i < npages; i += j) {
		struct folio *dst = alloc_kind(kind, folio_order(page_folio(engine->pages[i])));

		if (!dst)
			return -ENOMEM;
		engine->folios[engine->nr_folios++] = dst;
		for (j = 0; j < folio_nr_pages(dst); j++, engine->chunk.npages++)
			add_segment(&engine->chunk, engine->pages[i + j],
				    folio_page(dst, j));
	}
	return 0;
}

static int engine_create(struct engine_chunk *engine, unsigned long max)
{
	engine->chunk.segments = kvcalloc(max, sizeof(*engine->chunk.segments),
					  GFP_KERNEL);
	engine->pages = kvcalloc(max, sizeof(*engine->pages), GFP_KERNEL);
	engine->folios = kvcalloc(max, sizeof(*engine->folios), GFP_KERNEL);
	return engine->chunk.segments && engine->pages && engine->folios ? 0 : -ENOMEM;
}

static void engine_destroy(struct engine_chunk *engine)
{
	unsigned long i;

	for (i = 0; i < engine->nr_folios; i++) {
		folio_unlock(engine->folios[i]);
		folio_put(engine->folios[i]);
	}
	if (engine->pinned > 0)
		unpin_user_pages(engine->pages, engine->pinned);
	hmm_migrate_dma_release(&engine->chunk);
	kvfree(engine->chunk.segments);
	kvfree(engine->pages);
	kvfree(engine->folios);
}

static int engine_run(struct hmm_migrate_dma *dma, struct engine_chunk *engines,
		      unsigned int nr)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && i < nr; i++) {
		ret = hmm_migrate_dma_copy(&engines[i].chunk, dma);
		if (!ret && i)
			ret = hmm_migrate_dma_wait(&engines[i - 1].chunk);
	}
	return ret ?: hmm_migrate_dma_wait(&engines[nr - 1].chunk);
}

static int do_engine(struct hmm_migrate_dma *dma, struct hmm_migrate_bench_pipeline *pipeline)
{
	unsigned int nr = DIV_ROUND_UP(pipeline->length, pipeline->chunk), i;
	unsigned long max = pipeline->chunk >> PAGE_SHIFT;
	struct engine_chunk *engines;
	struct hmm_migrate migrate;
	int ret = 0;

	engines = kvcalloc(nr, sizeof(*engines), GFP_KERNEL);
	if (!engines)
		return -ENOMEM;
	init_migrate(&migrate, dma, pipeline);
	for (i = 0; !ret && i < nr; i++) {
		engines[i].chunk.migrate = &migrate;
		ret = engine_create(&engines[i], max);
		if (!ret)
			ret = engine_fill(&engines[i], pipeline->addr + i * pipeline->chunk,
					  max, pipeline->kind);
		if (!ret)
			pipeline->moved += max;
	}
	pipeline->time = ktime_get_ns();
	if (!ret)
		ret = engine_run(dma, engines, nr);
	pipeline->time = ktime_get_ns() - pipeline->time;
	for (i = 0; i < nr; i++)
		engine_destroy(&engines[i]);
	kvfree(engines);
	return ret;
}

static int check_pipeline(const struct hmm_migrate_bench_pipeline *pipeline)
{
	if (!PAGE_ALIGNED(pipeline->addr | pipeline->length | pipeline->chunk) ||
	    !pipeline->length || !pipeline->chunk ||
	    pipeline->chunk > pipeline->length ||
	    pipeline->length > MEMORY_SIZE ||
	    pipeline->addr + pipeline->length < pipeline->addr ||
	    pipeline->what >= HMM_MIGRATE_BENCH_NR_WHATS ||
	    pipeline->kind >= HMM_MIGRATE_BENCH_NR_KINDS)
		return -EINVAL;
	return 0;
}

static int do_pipeline(struct dma_chan *chan, struct hmm_migrate_dma *dma,
		       struct hmm_migrate_bench_pipeline *pipeline)
{
	switch (pipeline->what) {
	case HMM_MIGRATE_BENCH_RANGE:
		return do_range(dma, pipeline);
	case HMM_MIGRATE_BENCH_ENGINE:
		return do_engine(dma, pipeline);
	case HMM_MIGRATE_BENCH_RETURN:
		return do_return(pipeline);
	case HMM_MIGRATE_BENCH_EVICT:
	case HMM_MIGRATE_BENCH_EVICT_CPU:
		return do_evict(dma, pipeline);
	case HMM_MIGRATE_BENCH_PEER:
	case HMM_MIGRATE_BENCH_PEER_CPU:
		return peer_create() ?: do_peer(dma, pipeline);
	case HMM_MIGRATE_BENCH_PEER_RETURN:
	case HMM_MIGRATE_BENCH_BACK_CPU:
		return do_back(pipeline);
	case HMM_MIGRATE_BENCH_WINDOW:
		fault_window = pipeline->chunk < pipeline->length ? 0 : pipeline->chunk;
		pipeline->moved = pipeline->length >> PAGE_SHIFT;
		return 0;
	case HMM_MIGRATE_BENCH_HOLD:
		return do_hold(pipeline);
	default:
		return do_bare(chan, pipeline);
	}
}

/* The first of them has everything. */
static bool is_engine(struct dma_chan *chan, void *data)
{
	return !strcmp(dev_name(chan->device->dev), "test_hmm_migrate_dma.0");
}

static DEFINE_MUTEX(engine_lock);	/* held to get it */

/* It is everybody's: calls share it. */
static int get_engine(void)
{
	struct hmm_migrate_dma *dma;
	dma_cap_mask_t mask;

	guard(mutex)(&engine_lock);
	if (engine_dma)
		return 0;
	dma_cap_zero(mask);
	dma_cap_set(DMA_MEMCPY, mask);
	if (!engine_chan)
		engine_chan = dma_request_channel(mask, is_engine, NULL);
	if (!engine_chan)
		return -ENODEV;
	dma = hmm_migrate_dma_create(engine_chan);
	if (IS_ERR(dma))
		return PTR_ERR(dma);
	engine_dma = dma;
	return 0;
}

long bench_pipeline(void __user *user)
{
	struct hmm_migrate_bench_pipeline pipeline;
	int ret;

	if (copy_from_user(&pipeline, user, sizeof(pipeline)))
		return -EFAULT;
	pipeline.moved = 0;
	pipeline.time = 0;
	memset(pipeline.step, 0, sizeof(pipeline.step));
	ret = check_pipeline(&pipeline);
	if (!ret && pipeline.kind == HMM_MIGRATE_BENCH_COHERENT)
		ret = coherent_create();
	ret = ret ?: get_engine();
	ret = ret ?: do_pipeline(engine_chan, engine_dma, &pipeline);
	if (!ret && copy_to_user(user, &pipeline, sizeof(pipeline)))
		ret = -EFAULT;
	return ret;
}
