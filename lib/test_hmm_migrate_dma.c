// SPDX-License-Identifier: GPL-2.0
/*
 * A DMA engine in software, to test copies that take time.
 *
 * There is one engine of each kind, see engine_kinds[], because the engines of servers
 * support different features. Bandwidth and latency are parameters, and copies take that
 * time by the clock, whatever CPU time they take. A batch of issued descriptors begins
 * when the previous batch is done and the latency has passed. A descriptor without an
 * interrupt is reported together with the next one that has an interrupt, or when its
 * status is polled.
 *
 * Addresses are those of dma_map_sg(), which are physical addresses here; or kernel
 * virtual addresses, for memory without physical addresses.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/hrtimer.h>
#include <linux/io.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>

static unsigned int bandwidth_mb = 20000;
module_param(bandwidth_mb, uint, 0644);
MODULE_PARM_DESC(bandwidth_mb, "megabytes in a second (default 20000)");

static unsigned int latency_ns = 10000;
module_param(latency_ns, uint, 0644);
MODULE_PARM_DESC(latency_ns, "nanoseconds before a batch of descriptors begins (default 10000)");

static bool move = true;
module_param(move, bool, 0644);
MODULE_PARM_DESC(move, "copy the bytes; without it, only the time passes (default Y)");

static unsigned int fail_nth;
module_param(fail_nth, uint, 0644);
MODULE_PARM_DESC(fail_nth, "fail the n-th descriptor from now on, 1 is the next one; 0 for none");

static unsigned long fail_word;
module_param(fail_word, ulong, 0644);
MODULE_PARM_DESC(fail_word, "fail descriptors that read a page that begins with it; 0 for none");

static bool fail_all;
module_param(fail_all, bool, 0644);
MODULE_PARM_DESC(fail_all, "fail all descriptors (default N)");

static bool hang;
module_param(hang, bool, 0644);
MODULE_PARM_DESC(hang, "do not complete any descriptor until terminated (default N)");

static unsigned int descriptors;
module_param(descriptors, uint, 0644);
MODULE_PARM_DESC(descriptors, "maximum number of descriptors; 0 for any number");

static unsigned int prep_ns;
module_param(prep_ns, uint, 0644);
MODULE_PARM_DESC(prep_ns, "extra nanoseconds of CPU time to prepare a descriptor (default 0)");

static unsigned int prepared;
module_param(prepared, uint, 0644);
MODULE_PARM_DESC(prepared, "number of descriptors that were prepared");

static unsigned int interrupts;
module_param(interrupts, uint, 0644);
MODULE_PARM_DESC(interrupts, "number of interrupts");

/**
 * struct engine_kind - the features of an engine
 * @unordered: descriptors of a batch complete in reverse order, and their status cannot
 *	be polled, as with idxd
 * @terminates: it supports terminate, unlike idxd, ioat and plx_dma
 * @synchronizes: it supports synchronize, which waits until no callback runs
 * @silent: it calls back without a result
 * @fills: it can fill memory with a byte
 * @max_length: it refuses longer descriptors; 0 for any length
 * @descriptors: how many descriptors it has; 0 for any number
 */
struct engine_kind {
	bool unordered;
	bool terminates;
	bool synchronizes;
	bool silent;
	bool fills;
	size_t max_length;
	unsigned int descriptors;
};

/* In the order of TEST_HMM_MIGRATE_ENGINE_*. */
static const struct engine_kind engine_kinds[] = {
	{ .terminates = true, .synchronizes = true, .fills = true },
	{ .unordered = true },
	{ .silent = true },
	{ .terminates = true, .max_length = SZ_64K, .descriptors = 4 },
};

/**
 * struct job - a descriptor
 * @tx: for the framework
 * @node: in one of the lists of the engine
 * @to: where to copy to
 * @from: where to copy from
 * @length: bytes
 * @fills: fill with @byte instead of copying from @from
 * @byte: the byte to fill with
 * @end: the time when it is done; set when it is issued
 */
struct job {
	struct dma_async_tx_descriptor tx;
	struct list_head node;
	dma_addr_t to;
	dma_addr_t from;
	size_t length;
	bool fills;
	u8 byte;
	ktime_t end;
};

/**
 * struct engine - the engine, with one channel
 * @dma: for the dmaengine framework
 * @kind: its features
 * @chan: its channel
 * @finish: serializes reporting of completed jobs, in the order of the cookies; taken
 *	with bottom halves off, before @lock
 * @lock: protects the following fields; taken with bottom halves off
 * @unused: free jobs, to be reused
 * @submitted: jobs that are submitted but not issued
 * @issued: issued jobs, ordered by @end
 * @jobs: number of jobs in use
 * @failed: the cookie of the last job that failed
 * @free_at: the time when all jobs are done
 * @timer: for the next interrupt
 */
struct engine {
	struct dma_device dma;
	const struct engine_kind *kind;
	struct dma_chan chan;
	spinlock_t finish;		/* serializes reporting */
	spinlock_t lock;		/* protects all below */
	struct list_head unused;
	struct list_head submitted;
	struct list_head issued;
	unsigned int jobs;
	dma_cookie_t failed;
	ktime_t free_at;
	struct hrtimer timer;
};

static struct platform_device *platforms[ARRAY_SIZE(engine_kinds)];

static struct engine *chan_engine(struct dma_chan *chan)
{
	return container_of(chan, struct engine, chan);
}

static struct job *tx_job(struct dma_async_tx_descriptor *tx)
{
	return container_of(tx, struct job, tx);
}

static void *address_of(dma_addr_t address)
{
	if (address >= PAGE_OFFSET)
		return (void *)(uintptr_t)address;
	return phys_to_virt(address);
}

/* Whether the source contains a page that must fail. */
static bool job_is_poisoned(const struct job *job)
{
	unsigned long word = READ_ONCE(fail_word);
	dma_addr_t page;

	if (!word || job->fills)
		return false;
	for (page = PAGE_ALIGN(job->from); page < job->from + job->length; page += PAGE_SIZE)
		if (*(unsigned long *)address_of(page) == word)
			return true;
	return false;
}

static bool job_fails(const struct job *job)
{
	unsigned int nth = READ_ONCE(fail_nth);

	if (READ_ONCE(fail_all) || job_is_poisoned(job))
		return true;

	if (nth)
		WRITE_ONCE(fail_nth, nth - 1);
	return nth == 1;
}

/* Remove all jobs that are done from the engine. */
static void engine_take(struct engine *engine, struct list_head *over)
{
	ktime_t now = ktime_get();
	struct job *job;

	lockdep_assert_held(&engine->lock);
	if (READ_ONCE(hang))
		return;
	list_for_each_entry(job, &engine->issued, node)
		if (ktime_after(job->end, now))
			break;
	/* Cut before @job; if all jobs are done, @job is the list head. */
	list_cut_before(over, &engine->issued, &job->node);
}

static void engine_set_timer(struct engine *engine)
{
	struct job *job;

	lockdep_assert_held(&engine->lock);
	if (READ_ONCE(hang))
		return;
	list_for_each_entry(job, &engine->issued, node) {
		if (!(job->tx.flags & DMA_PREP_INTERRUPT))
			continue;
		hrtimer_start(&engine->timer, job->end, HRTIMER_MODE_ABS_SOFT);
		return;
	}
}

static void job_finish(struct engine *engine, struct job *job)
{
	struct dmaengine_result result = { .result = DMA_TRANS_NOERROR };
	struct dma_async_tx_descriptor *tx = &job->tx;

	if (job_fails(job)) {
		result.result = DMA_TRANS_WRITE_FAILED;
		WRITE_ONCE(engine->failed, tx->cookie);
	} else if (READ_ONCE(move) && job->fills) {
		memset(address_of(job->to), job->byte, job->length);
	} else if (READ_ONCE(move)) {
		memcpy(address_of(job->to), address_of(job->from), job->length);
	}
	/* The framework does so for engines that call back without a result. */
	if (engine->kind->silent)
		result.result = DMA_TRANS_NOERROR;
	/* Pairs with engine_tx_status(): a task that polls sees the copied data. */
	smp_store_release(&engine->chan.completed_cookie, tx->cookie);
	if (tx->callback_result)
		tx->callback_result(tx->callback_param, &result);
	else if (tx->callback)
		tx->callback(tx->callback_param);
}

static void engine_free(struct engine *engine, struct list_head *jobs)
{
	unsigned int nr = list_count_nodes(jobs);

	spin_lock_bh(&engine->lock);
	engine->jobs -= nr;
	list_splice(jobs, &engine->unused);
	spin_unlock_bh(&engine->lock);
}

/* Callbacks may submit descriptors, so call them without @lock. */
static void engine_finish(struct engine *engine)
{
	struct job *job;
	LIST_HEAD(over);

	spin_lock_bh(&engine->finish);
	spin_lock(&engine->lock);
	engine_take(engine, &over);
	spin_unlock(&engine->lock);
	list_for_each_entry(job, &over, node)
		job_finish(engine, job);
	spin_unlock_bh(&engine->finish);
	engine_free(engine, &over);
}

static enum hrtimer_restart engine_interrupt(struct hrtimer *timer)
{
	struct engine *engine = container_of(timer, struct engine, timer);

	WRITE_ONCE(interrupts, READ_ONCE(interrupts) + 1);
	engine_finish(engine);
	spin_lock(&engine->lock);
	engine_set_timer(engine);
	spin_unlock(&engine->lock);
	return HRTIMER_NORESTART;
}

static dma_cookie_t engine_submit(struct dma_async_tx_descriptor *tx)
{
	struct engine *engine = chan_engine(tx->chan);
	struct job *job = tx_job(tx);

	spin_lock_bh(&engine->lock);
	tx->cookie = max(engine->chan.cookie + 1, DMA_MIN_COOKIE);
	engine->chan.cookie = tx->cookie;
	list_add_tail(&job->node, &engine->submitted);
	spin_unlock_bh(&engine->lock);
	return tx->cookie;
}

static struct job *job_create(struct dma_chan *chan)
{
	struct job *job = kzalloc(sizeof(*job), GFP_NOWAIT);

	if (!job)
		return NULL;
	dma_async_tx_descriptor_init(&job->tx, chan);
	job->tx.tx_submit = engine_submit;
	return job;
}

static struct job *engine_get_job(struct engine *engine)
{
	unsigned int max = READ_ONCE(descriptors) ?: engine->kind->descriptors;
	struct job *job;

	lockdep_assert_held(&engine->lock);
	if (max && engine->jobs >= max)
		return NULL;
	job = list_first_entry_or_null(&engine->unused, struct job, node);
	if (job)
		list_del(&job->node);
	else
		job = job_create(&engine->chan);
	engine->jobs += !!job;
	return job;
}

static struct job *engine_prep(struct dma_chan *chan, dma_addr_t to, size_t length,
			       unsigned long flags)
{
	struct engine *engine = chan_engine(chan);
	struct job *job;

	if (engine->kind->max_length && length > engine->kind->max_length)
		return NULL;
	spin_lock_bh(&engine->lock);
	job = engine_get_job(engine);
	spin_unlock_bh(&engine->lock);
	if (!job)
		return NULL;
	WRITE_ONCE(prepared, READ_ONCE(prepared) + 1);
	ndelay(READ_ONCE(prep_ns));
	job->to = to;
	job->length = length;
	job->tx.flags = flags;
	job->tx.callback = NULL;
	job->tx.callback_result = NULL;
	return job;
}

static struct dma_async_tx_descriptor *
engine_prep_memcpy(struct dma_chan *chan, dma_addr_t to, dma_addr_t from,
		   size_t length, unsigned long flags)
{
	struct job *job = engine_prep(chan, to, length, flags);

	if (!job)
		return NULL;
	job->fills = false;
	job->from = from;
	return &job->tx;
}

static struct dma_async_tx_descriptor *
engine_prep_memset(struct dma_chan *chan, dma_addr_t to, int byte, size_t length,
		   unsigned long flags)
{
	struct job *job = engine_prep(chan, to, length, flags);

	if (!job)
		return NULL;
	job->fills = true;
	job->byte = byte;
	return &job->tx;
}

static u64 job_time(const struct job *job)
{
	unsigned int megabytes = READ_ONCE(bandwidth_mb) ?: 1;

	return div_u64((u64)job->length * 1000, megabytes);
}

static void jobs_reverse(struct list_head *jobs)
{
	struct job *job, *next;

	list_for_each_entry_safe(job, next, jobs, node)
		list_move(&job->node, jobs);
}

static void engine_issue_pending(struct dma_chan *chan)
{
	struct engine *engine = chan_engine(chan);
	ktime_t end = ktime_get();
	struct job *job;

	spin_lock_bh(&engine->lock);
	if (!list_empty(&engine->submitted)) {
		if (ktime_after(engine->free_at, end))
			end = engine->free_at;
		end = ktime_add_ns(end, READ_ONCE(latency_ns));
		if (engine->kind->unordered)
			jobs_reverse(&engine->submitted);
		list_for_each_entry(job, &engine->submitted, node) {
			end = ktime_add_ns(end, job_time(job));
			job->end = end;
		}
		engine->free_at = end;
		list_splice_tail_init(&engine->submitted, &engine->issued);
		if (!hrtimer_is_queued(&engine->timer))
			engine_set_timer(engine);
	}
	spin_unlock_bh(&engine->lock);
}

static enum dma_status engine_tx_status(struct dma_chan *chan, dma_cookie_t cookie,
					struct dma_tx_state *state)
{
	struct engine *engine = chan_engine(chan);
	dma_cookie_t completed;

	engine_finish(engine);
	if (engine->kind->unordered)
		return DMA_OUT_OF_ORDER;
	if (cookie == READ_ONCE(engine->failed))
		return DMA_ERROR;
	/* Pairs with job_finish(): the data of completed descriptors is copied. */
	completed = smp_load_acquire(&chan->completed_cookie);
	dma_set_tx_state(state, completed, chan->cookie, 0);
	return dma_async_is_complete(cookie, completed, chan->cookie);
}

static int engine_terminate_all(struct dma_chan *chan)
{
	struct engine *engine = chan_engine(chan);
	LIST_HEAD(jobs);

	spin_lock_bh(&engine->lock);
	list_splice_tail_init(&engine->issued, &jobs);
	list_splice_tail_init(&engine->submitted, &jobs);
	engine->free_at = 0;
	spin_unlock_bh(&engine->lock);
	engine_free(engine, &jobs);
	return 0;
}

/* Wait until reporting ends. Set the timer again, so that later jobs are not lost. */
static void engine_synchronize(struct dma_chan *chan)
{
	struct engine *engine = chan_engine(chan);

	hrtimer_cancel(&engine->timer);
	spin_lock_bh(&engine->finish);
	spin_lock(&engine->lock);
	engine_set_timer(engine);
	spin_unlock(&engine->lock);
	spin_unlock_bh(&engine->finish);
}

static int engine_alloc_chan_resources(struct dma_chan *chan)
{
	chan->cookie = DMA_MIN_COOKIE;
	chan->completed_cookie = DMA_MIN_COOKIE;
	return 1;
}

static void engine_free_chan_resources(struct dma_chan *chan)
{
	struct engine *engine = chan_engine(chan);
	struct job *job, *next;

	engine_terminate_all(chan);
	engine_synchronize(chan);
	list_for_each_entry_safe(job, next, &engine->unused, node)
		kfree(job);
	INIT_LIST_HEAD(&engine->unused);
}

static void engine_set_kind(struct engine *engine, const struct engine_kind *kind)
{
	struct dma_device *dma = &engine->dma;

	engine->kind = kind;
	if (kind->unordered)
		dma_cap_set(DMA_COMPLETION_NO_ORDER, dma->cap_mask);
	if (kind->fills) {
		dma_cap_set(DMA_MEMSET, dma->cap_mask);
		dma->device_prep_dma_memset = engine_prep_memset;
	}
	if (kind->terminates)
		dma->device_terminate_all = engine_terminate_all;
	if (kind->synchronizes)
		dma->device_synchronize = engine_synchronize;
}

static int engine_register(struct engine *engine, struct device *dev)
{
	struct dma_device *dma = &engine->dma;

	spin_lock_init(&engine->finish);
	spin_lock_init(&engine->lock);
	INIT_LIST_HEAD(&engine->unused);
	INIT_LIST_HEAD(&engine->submitted);
	INIT_LIST_HEAD(&engine->issued);
	hrtimer_init(&engine->timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS_SOFT);
	engine->timer.function = engine_interrupt;

	dma->dev = dev;
	dma_cap_set(DMA_MEMCPY, dma->cap_mask);
	dma_cap_set(DMA_PRIVATE, dma->cap_mask);
	dma->device_alloc_chan_resources = engine_alloc_chan_resources;
	dma->device_free_chan_resources = engine_free_chan_resources;
	dma->device_prep_dma_memcpy = engine_prep_memcpy;
	dma->device_issue_pending = engine_issue_pending;
	dma->device_tx_status = engine_tx_status;
	INIT_LIST_HEAD(&dma->channels);
	engine->chan.device = dma;
	list_add_tail(&engine->chan.device_node, &dma->channels);
	return dma_async_device_register(dma);
}

static int test_hmm_migrate_dma_probe(struct platform_device *pdev)
{
	struct engine *engine;
	int ret;

	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	dma_set_max_seg_size(&pdev->dev, UINT_MAX);
	engine = kzalloc(sizeof(*engine), GFP_KERNEL);
	if (!engine)
		return -ENOMEM;
	platform_set_drvdata(pdev, engine);
	engine_set_kind(engine, &engine_kinds[pdev->id]);
	ret = engine_register(engine, &pdev->dev);
	if (ret)
		kfree(engine);
	return ret;
}

static void test_hmm_migrate_dma_remove(struct platform_device *pdev)
{
	struct engine *engine = platform_get_drvdata(pdev);

	dma_async_device_unregister(&engine->dma);
	kfree(engine);
}

static struct platform_driver test_hmm_migrate_dma_driver = {
	.probe = test_hmm_migrate_dma_probe,
	.remove = test_hmm_migrate_dma_remove,
	.driver = {
		.name = KBUILD_MODNAME,
	},
};

static void test_hmm_migrate_dma_exit(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(platforms); i++)
		if (!IS_ERR_OR_NULL(platforms[i]))
			platform_device_unregister(platforms[i]);
	platform_driver_unregister(&test_hmm_migrate_dma_driver);
}

/* There is nothing to probe: the module creates both the driver and its devices. */
static int __init test_hmm_migrate_dma_init(void)
{
	unsigned int i;
	int ret;

	ret = platform_driver_register(&test_hmm_migrate_dma_driver);
	if (ret)
		return ret;
	for (i = 0; i < ARRAY_SIZE(platforms); i++) {
		platforms[i] = platform_device_register_simple(KBUILD_MODNAME, i, NULL, 0);
		if (IS_ERR(platforms[i])) {
			ret = PTR_ERR(platforms[i]);
			test_hmm_migrate_dma_exit();
			return ret;
		}
	}
	return 0;
}
module_init(test_hmm_migrate_dma_init);
module_exit(test_hmm_migrate_dma_exit);

MODULE_DESCRIPTION("DMA engine made of software, to test range migration");
MODULE_LICENSE("GPL");
