// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the call: a range of a process, or of a device, in chunks.
 *
 * range_pass.c cuts the range into chunks, range_chunk.c migrates one chunk, and
 * range_retry.c retries folios that were locked. The rules that make this safe:
 *
 * - While folios are locked, the call waits for nothing but the copy, and the copy needs
 *   no folio lock. Folios that are locked by other tasks are noted by address and retried
 *   when no chunk is pending.
 * - A driver finds memory, by the reserve op, when no chunk is pending: it may have to
 *   evict, and eviction waits for folio locks.
 * - mmap_lock is held as long as a chunk is pending.
 */
#include <linux/export.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include "range.h"

/*
 * Room in the retry list at least, however small the chunks are. A place that breaks up
 * into more than this is not retried to its end.
 */
#define RANGE_MIN_PLACES	1024UL

/* How many vmas range_count_pages() looks at; behind them, it counts every page. */
#define RANGE_COUNTED_VMAS	256

/**
 * range_create() - allocate what a call needs: its chunks and lists
 * @range: the call
 *
 * Return: 0 or -ENOMEM; range_destroy() is needed after both.
 */
int range_create(struct range_ctx *range)
{
	const struct hmm_migrate *migrate = range->migrate;
	unsigned long max, places;
	unsigned int i;
	int ret = 0;

	range->chunk_size = min(migrate->chunk_size ?: HMM_MIGRATE_CHUNK_SIZE,
				HMM_MIGRATE_MAX_CHUNK_SIZE);
	range->depth = min(migrate->depth ?: 2U, HMM_MIGRATE_MAX_DEPTH);
	if (!migrate->ops->wait)
		range->depth = 1;
	range->chunks = kcalloc(range->depth, sizeof(*range->chunks), GFP_KERNEL);

	max = range_pages(0, min(range->chunk_size, range->end - range->start));
	/* Twice as many places as all chunks can add: see range_retry_is_full(). */
	places = max(2 * range->depth * max, range->nodes ? 0 : RANGE_MIN_PLACES);
	range->retry.max = places;
	range->retry.at = kvmalloc_array(places, sizeof(*range->retry.at), RANGE_GFP);
	range->retrying.max = places;
	range->retrying.at = kvmalloc_array(places, sizeof(*range->retrying.at), RANGE_GFP);
	if (!range->chunks || !range->retry.at || !range->retrying.at)
		return -ENOMEM;
	/* Faults and calls by device pfns move device memory, which is on no LRU list. */
	if (!range->fault_page && !range->by_pfn) {
		range->stages.isolated = kcalloc(2 * nr_node_ids, sizeof(long), GFP_KERNEL);
		if (!range->stages.isolated)
			return -ENOMEM;
	}
	for (i = 0; !ret && i < range->depth; i++)
		ret = chunk_create(range, &range->chunks[i], max);
	return ret;
}

/**
 * range_destroy() - free what range_create() has allocated
 * @range: the call; no chunk is pending
 */
void range_destroy(struct range_ctx *range)
{
	unsigned int i;

	for (i = 0; range->chunks && i < range->depth; i++)
		chunk_destroy(&range->chunks[i]);
	kfree(range->chunks);
	kvfree(range->retry.at);
	kvfree(range->retrying.at);
	kfree(range->stages.isolated);
}

/*
 * Move *@addr behind gaps and vmas that cannot migrate, and count the pages from there on
 * that can, so that the driver reserves nothing for gaps. Called under mmap_lock.
 */
static int range_count_pages(struct range_ctx *range, unsigned long *addr,
			     unsigned long *npages)
{
	unsigned int vmas = RANGE_COUNTED_VMAS;
	unsigned long at, next;
	int ret;

	for (at = *addr; at < range->end; at = next) {
		next = range->end;
		if (!vmas-- || range_vma(range, at, &next, &ret)) {
			*npages += range_pages(at, next);
		} else if (!*npages) {
			ret = range_skip(range, at, next, ret);
			if (ret)
				return ret;
			*addr = next;
		}
	}
	return 0;
}

/*
 * Have the driver reserve memory from *@addr on, which moves behind gaps. Returns in @end
 * how far the reserved memory goes.
 */
static int range_reserve(struct range_ctx *range, unsigned long *addr, unsigned long *end)
{
	bool lock = !range->by_pfn && !range->keeps_lock;
	struct hmm_migrate *migrate = range->migrate;
	struct hmm_migrate_need need = {
		.end = range->end,
		.orders = BIT(0),
	};
	int ret = 0;

	*end = range->end;
	if (!migrate->ops->reserve)
		return 0;
	if (lock && mmap_read_lock_killable(migrate->mm))
		return -EINTR;
	if (range->by_pfn)
		need.npages = range_pages(*addr, range->end);
	else
		ret = range_count_pages(range, addr, &need.npages);
	if (lock)
		mmap_read_unlock(migrate->mm);
	if (ret || !need.npages)
		return ret;

	/* Anonymous folios cannot be order-1. */
	if (range->select & MIGRATE_VMA_SELECT_LARGE)
		need.orders = GENMASK(MIGRATE_HUGE_ORDER, 0) & ~BIT(1);
	else if (range->select & MIGRATE_VMA_SELECT_COMPOUND)
		need.orders = BIT(0) | BIT(MIGRATE_HUGE_ORDER);
	need.start = *addr;
	ret = migrate->ops->reserve(migrate, &need);
	if (ret)
		return ret;
	*end = clamp(PAGE_ALIGN_DOWN(need.end), *addr, range->end);
	if (*end > *addr)
		return 0;
	if (migrate->ops->unreserve)
		migrate->ops->unreserve(migrate);
	return -ENOMEM;
}

static bool range_is_valid(const struct range_ctx *range)
{
	const unsigned long kinds = MIGRATE_VMA_SELECT_SYSTEM |
				    MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
				    MIGRATE_VMA_SELECT_DEVICE_COHERENT;
	const unsigned long sizes = MIGRATE_VMA_SELECT_COMPOUND |
				    MIGRATE_VMA_SELECT_LARGE;
	const struct hmm_migrate *migrate = range->migrate;

	if (!migrate->ops || !migrate->ops->copy || !PAGE_ALIGNED(migrate->chunk_size) ||
	    migrate->depth > HMM_MIGRATE_MAX_DEPTH ||
	    range->flags & ~HMM_MIGRATE_FLAGS || range->select & ~(kinds | sizes) ||
	    (migrate->nr_peers && !migrate->peers))
		return false;
	if (!PAGE_ALIGNED(range->start | range->end) || range->start >= range->end)
		return false;
	if (!range->by_pfn && (!migrate->mm || !(range->select & kinds) ||
			       range->flags & HMM_MIGRATE_UNKILLABLE))
		return false;
	return !range->hole_order ||
	       (range->select & MIGRATE_VMA_SELECT_LARGE &&
		range->hole_order != 1 && range->hole_order <= MIGRATE_HUGE_ORDER);
}

static struct range_ctx range_init(struct hmm_migrate *migrate)
{
	struct range_ctx range = {
		.migrate = migrate,
		.start = migrate->start,
		.end = migrate->end,
		.select = migrate->select,
		.flags = migrate->flags,
		.hole_order = migrate->hole_order,
	};

	return range;
}

/* Reset all (out) fields. */
static void hmm_migrate_reset(struct hmm_migrate *migrate)
{
	memset_startat(migrate, 0, unmapping);
}

/* Migrate the whole range. Each time that the retry list fills up, and at the end, retry. */
static int range_migrate(struct range_ctx *range)
{
	struct hmm_migrate *migrate = range->migrate;
	unsigned long addr = range->start, end;
	int ret;

	if (!range_is_valid(range))
		return -EINVAL;
	hmm_migrate_reset(migrate);
	migrate->done = range->start;
	ret = range_create(range);
	while (!ret && addr < range->end) {
		ret = range_must_stop(range);
		ret = ret ?: range_reserve(range, &addr, &end);
		/* range_reserve() has met nothing but gaps. */
		if (ret || addr == range->end)
			break;
		while (!ret && addr < end) {
			ret = range_run(range, &addr, end);
			ret = range_retry(range, ret);
		}
		if (migrate->ops->reserve && migrate->ops->unreserve)
			migrate->ops->unreserve(migrate);
		if (!ret && addr < range->end && range->keeps_lock &&
		    mmap_lock_is_contended(migrate->mm))
			ret = -EAGAIN;
	}
	migrate->done = range->by_pfn ? addr >> PAGE_SHIFT : addr;
	range_destroy(range);
	/* With mmap_lock held, the call cannot wait; the caller can drop it and retry. */
	return ret ?: range->left_locked ? -EAGAIN : 0;
}

/* Move device memory only, to ordinary memory, and leave holes alone. */
static void range_select_device(struct range_ctx *range)
{
	range->select &= ~MIGRATE_VMA_SELECT_SYSTEM;
	range->select |= MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
			 MIGRATE_VMA_SELECT_DEVICE_COHERENT;
	range->flags &= ~HMM_MIGRATE_FILL_HOLES;
	range->flags |= HMM_MIGRATE_TO_SYSTEM;
	range->hole_order = 0;
}

/**
 * hmm_migrate_range() - migrate a range of a process to other memory
 * @migrate: what to migrate and how; returns the results
 *
 * Moves the memory behind a range of virtual addresses to memory that the driver's
 * special allocator hands out, in chunks that are large enough for a copy engine. The
 * range may span several vmas. A page that cannot move stays where it is, with its
 * contents, and is counted by its reason.
 *
 * Folios that are locked or under writeback are retried when the call holds no folio
 * lock: first several times within a few milliseconds, and then every few milliseconds
 * until the call has waited for HMM_MIGRATE_MAX_WAIT in all. With HMM_MIGRATE_NO_WAIT,
 * they are retried once, without waiting. Folios that are busy even then count as
 * MIGRATE_LEFT_LOCKED.
 *
 * "[A helper that] differs from NUMA migration by working on a range of virtual
 * addresses, and thus by migrating in chunks that can be large enough to use a DMA
 * engine or a special copy-offload engine, into memory that a special allocator
 * hands out" is what the HMM patches of 2016 promised; this is that helper.
 *
 * Context: takes mmap_lock for reading, and drops it when another task waits for it.
 * Sleeps; the task can be frozen while the call waits. The caller must not hold
 * mmap_lock, a folio lock, or any lock that an mmu notifier or a page fault of this
 * address space may wait for. Ordinary memory is allocated by the policy of the vma, also
 * in a kthread or a workqueue; where the vma has no policy, by the policy and the cpuset
 * of the calling task.
 *
 * Return: 0 if the whole range has been dealt with, whether or not it could move.
 * Otherwise, @migrate->done says how far the call came, everything before that is counted,
 * and the error is
 *
 * * -EINVAL: the arguments are invalid; the call has done nothing, and has set nothing in
 *   @migrate
 * * -ENOMEM: the special allocator had no memory for @migrate->done; or the call could not
 *   allocate its arrays, and has done nothing
 * * -EINTR: a fatal signal is pending; or the caller is a kthread that is to stop
 * * -ECANCELED: @migrate->cancel is set
 * * -ETIME: @migrate->deadline has passed
 * * -ESRCH: the process has ended, or the OOM reaper takes its memory
 * * -EFAULT: with HMM_MIGRATE_STRICT, nothing is mapped at @migrate->done
 * * -EOPNOTSUPP: with HMM_MIGRATE_STRICT, the vma there cannot migrate
 * * the error that &hmm_migrate_ops.begin or &hmm_migrate_ops.reserve returned
 * * with HMM_MIGRATE_STOP_ON_COPY_ERROR, the error that a copy op returned, or -EIO for
 *   hmm_migrate_fail(); the pages of that chunk are in @migrate->copy_failed
 */
int hmm_migrate_range(struct hmm_migrate *migrate)
{
	struct range_ctx range = range_init(migrate);

	return range_migrate(&range);
}
EXPORT_SYMBOL_GPL(hmm_migrate_range);

/**
 * hmm_migrate_range_locked() - hmm_migrate_range() with mmap_lock held
 * @migrate: what to migrate and how; returns the results
 *
 * Does as much as is possible without dropping the lock, and waits for nothing but the copy
 * engine. Folios that other tasks have locked are retried once.
 *
 * Context: mmap_lock of @migrate->mm is held, for reading or for writing, and stays held.
 * Sleeps. &hmm_migrate_ops.begin and &hmm_migrate_ops.reserve are called with the lock held
 * as well.
 *
 * Return: as hmm_migrate_range(); and
 *
 * * -EAGAIN: drop the lock and call again. With @migrate->done before @migrate->end,
 *   another task waits for the lock, and the rest of the range has not been tried.
 *   Otherwise, folios stay because they were locked. They are counted in @migrate->left
 */
int hmm_migrate_range_locked(struct hmm_migrate *migrate)
{
	struct range_ctx range = range_init(migrate);

	if (migrate->mm)
		mmap_assert_locked(migrate->mm);
	range.keeps_lock = true;
	range.flags |= HMM_MIGRATE_NO_WAIT;
	return range_migrate(&range);
}
EXPORT_SYMBOL_GPL(hmm_migrate_range_locked);

/**
 * hmm_migrate_range_back() - migrate device memory of a range to ordinary memory
 * @migrate: as for hmm_migrate_range()
 *
 * The reverse of hmm_migrate_range(): moves the device memory of @migrate->pgmap_owner
 * and its peers, private and coherent, and nothing else, whatever @migrate->select says.
 * Holes are left alone.
 *
 * Context: as hmm_migrate_range().
 * Return: as hmm_migrate_range().
 */
int hmm_migrate_range_back(struct hmm_migrate *migrate)
{
	struct range_ctx range = range_init(migrate);

	range_select_device(&range);
	return range_migrate(&range);
}
EXPORT_SYMBOL_GPL(hmm_migrate_range_back);

/* Pages to evict have no addresses. The range is their positions in the list, in bytes. */
static int range_evict(struct range_ctx *range, unsigned long npages)
{
	range_select_device(range);
	range->flags &= ~HMM_MIGRATE_STRICT;
	range->by_pfn = true;
	range->start = 0;
	range->end = npages << PAGE_SHIFT;
	return range_migrate(range);
}

/**
 * hmm_migrate_evict() - migrate device memory to ordinary memory, by device pfns
 * @migrate: how to migrate; returns the results. Its @mm, @start, @end, @peers and
 *	@hole_order are ignored; of its @select, only the bits that say whether large
 *	folios move whole apply
 * @first_pfn: the first page
 * @npages: how many pages
 *
 * As hmm_migrate_range_back(), but for memory of a device and not of a process: it has no
 * vma, and several processes may map a page. Free pages are skipped. A large folio that
 * does not lie in one chunk with all its pages is split.
 *
 * @migrate->done returns how many pages have been dealt with. In the ops, the chunk's
 * @vma is NULL, and its @start and the address for &hmm_migrate_ops.alloc count bytes
 * from the first page; the source tells which page it is.
 *
 * A driver that removes its device, and can only wait for its memory to be evicted, sets
 * HMM_MIGRATE_UNKILLABLE: then neither a fatal signal nor kthread_stop() ends the call.
 *
 * Context: sleeps. The caller must not hold a folio lock, or any lock that an mmu
 * notifier or a page fault may wait for. It may hold mmap_lock.
 *
 * Return: as hmm_migrate_range().
 */
int hmm_migrate_evict(struct hmm_migrate *migrate, unsigned long first_pfn,
		      unsigned long npages)
{
	struct range_ctx range = range_init(migrate);

	range.first_pfn = first_pfn;
	return range_evict(&range, npages);
}
EXPORT_SYMBOL_GPL(hmm_migrate_evict);

/**
 * hmm_migrate_evict_pfns() - hmm_migrate_evict() for pages that are not consecutive
 * @migrate: as for hmm_migrate_evict()
 * @pfns: the pages; those of a large folio that is to move whole must be consecutive
 * @npages: how many pages
 *
 * Context: as hmm_migrate_evict().
 * Return: as hmm_migrate_range().
 */
int hmm_migrate_evict_pfns(struct hmm_migrate *migrate, const unsigned long *pfns,
			   unsigned long npages)
{
	struct range_ctx range = range_init(migrate);

	range.pfns = pfns;
	return range_evict(&range, npages);
}
EXPORT_SYMBOL_GPL(hmm_migrate_evict_pfns);

/*
 * The range of a fault: the folio of its page if that is to move whole, otherwise the page;
 * and the aligned @window around the address. Both only as far as the vma goes.
 */
static void range_set_fault(struct range_ctx *range, const struct vm_fault *vmf,
			    unsigned long window)
{
	unsigned long vm_start = vmf->vma->vm_start, vm_end = vmf->vma->vm_end, start;
	unsigned long addr = PAGE_ALIGN_DOWN(vmf->address);
	struct folio *folio = page_folio(vmf->page);
	unsigned long before = folio_page_idx(folio, vmf->page) * PAGE_SIZE;

	range->start = addr;
	range->end = addr + PAGE_SIZE;
	if (range->select & MIGRATE_VMA_SELECT_LARGE ||
	    (range->select & MIGRATE_VMA_SELECT_COMPOUND &&
	     folio_order(folio) == MIGRATE_HUGE_ORDER)) {
		range->start -= min(before, addr - vm_start);
		range->end = min(addr - before + folio_size(folio), vm_end);
	}
	if (!window)
		return;
	start = ALIGN_DOWN(vmf->address, window);
	range->start = min(range->start, max(start, vm_start));
	range->end = max(range->end, min(start + window - 1, vm_end - 1) + 1);
}

/**
 * hmm_migrate_fault() - bring back the memory that a CPU fault needs
 * @vmf: the fault, in &dev_pagemap_ops.migrate_to_ram
 * @migrate: how to migrate: its @ops, @private, @pgmap_owner, @peers, @chunk_size,
 *	@depth, and its @select: with MIGRATE_VMA_SELECT_LARGE, folios come back whole;
 *	with MIGRATE_VMA_SELECT_COMPOUND, only those that a PMD maps do. Its @flags,
 *	@cancel and @deadline are ignored. Returns the results.
 * @window: bring back the aligned window of this many bytes around the address as well,
 *	as far as the vma goes; a power of two, or 0 for the folio alone
 *
 * Does for one fault what hmm_migrate_range_back() does for a range, and counts the same.
 * &hmm_migrate_ops.begin and &hmm_migrate_ops.reserve are not called, because the folio
 * of the fault is locked; &hmm_migrate_ops.wants is called for all folios but that one.
 *
 * Context: as &dev_pagemap_ops.migrate_to_ram: mmap_lock is held, and the page's folio is
 * locked. Sleeps.
 *
 * Return: the value for &dev_pagemap_ops.migrate_to_ram to return.
 */
vm_fault_t hmm_migrate_fault(struct vm_fault *vmf, struct hmm_migrate *migrate,
			     unsigned long window)
{
	struct range_ctx range = range_init(migrate);
	unsigned long addr;
	int ret;

	if (WARN_ON_ONCE(!migrate->ops || !migrate->ops->copy ||
			 !PAGE_ALIGNED(migrate->chunk_size) ||
			 migrate->depth > HMM_MIGRATE_MAX_DEPTH ||
			 (window && !is_power_of_2(window))))
		return VM_FAULT_SIGBUS;
	migrate->mm = vmf->vma->vm_mm;
	range.fault_page = vmf->page;
	range.keeps_lock = true;
	range.flags = HMM_MIGRATE_SKIP_NO_MEMORY | HMM_MIGRATE_NO_WAIT;
	range_select_device(&range);
	range.select &= ~MIGRATE_VMA_SELECT_DEVICE_COHERENT;
	range_set_fault(&range, vmf, window);
	hmm_migrate_reset(migrate);

	addr = range.start;
	ret = range_create(&range);
	if (!ret) {
		range_pass(&range, &addr, range.end);
		/* Other faults work on the folios that are locked: do not retry. */
		range_retry_give_up(&range, &range.retry, 0);
	}
	range_destroy(&range);
	migrate->done = addr;

	if (range.fault_error && range.fault_error != -ENOMEM)
		return VM_FAULT_SIGBUS;
	/* Do not kill the process for a lack of memory: the fault is retried. */
	if ((ret || range.fault_error || migrate->no_memory) && !migrate->moved)
		return VM_FAULT_OOM;
	/* Memory has moved, or another task has the folio locked: retry the access. */
	return 0;
}
EXPORT_SYMBOL_GPL(hmm_migrate_fault);

static void range_work(struct work_struct *work_struct)
{
	struct hmm_migrate_work *work = container_of(work_struct, struct hmm_migrate_work,
						     work);
	struct mm_struct *mm = work->migrate.mm;

	work->ret = hmm_migrate_range(&work->migrate);
	/*
	 * The teardown of the mm may wait for this work, in a notifier that cancels queued
	 * migrations, so it must not run here.
	 */
	mmput_async(mm);
	if (work->complete)
		work->complete(work);
	complete_all(&work->done);
}

/**
 * hmm_migrate_queue() - migrate a range in a workqueue
 * @wq: the workqueue
 * @work: what to migrate; must not be in use. Until its @done is completed, the caller may
 *	only write its @migrate.cancel
 *
 * For prefetching. Its @complete is called before @done is completed, and must not free
 * @work.
 *
 * Context: any in which the caller has a reference to @work->migrate.mm.
 * Return: 0, or -ESRCH if the process has no address space any more.
 */
int hmm_migrate_queue(struct workqueue_struct *wq, struct hmm_migrate_work *work)
{
	init_completion(&work->done);
	INIT_WORK(&work->work, range_work);
	work->migrate.cancel = false;
	work->ret = 0;
	if (!mmget_not_zero(work->migrate.mm)) {
		work->ret = -ESRCH;
		complete_all(&work->done);
		return -ESRCH;
	}
	queue_work(wq, &work->work);
	return 0;
}
EXPORT_SYMBOL_GPL(hmm_migrate_queue);

/**
 * hmm_migrate_wait() - wait until a queued migration is over
 * @work: the argument of hmm_migrate_queue()
 *
 * Context: sleeps. Unless this returns because of a fatal signal, @work is the caller's
 * again.
 * Return: the result of hmm_migrate_range(), or -EINTR if a fatal signal came first.
 */
int hmm_migrate_wait(struct hmm_migrate_work *work)
{
	return wait_for_completion_killable(&work->done) ? -EINTR : work->ret;
}
EXPORT_SYMBOL_GPL(hmm_migrate_wait);

/**
 * hmm_migrate_cancel() - stop a queued migration
 * @work: the argument of hmm_migrate_queue()
 *
 * Context: sleeps until the pending chunks are settled. Then @work is the caller's again.
 */
void hmm_migrate_cancel(struct hmm_migrate_work *work)
{
	WRITE_ONCE(work->migrate.cancel, true);
	wait_for_completion(&work->done);
}
EXPORT_SYMBOL_GPL(hmm_migrate_cancel);
