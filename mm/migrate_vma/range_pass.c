// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, one pass over a range of addresses: cut it into chunks.
 *
 * While the copy engine works on one chunk, the CPU settles the chunk before it and sets
 * up the one after it; see range_chunk.c. Chunks that are set up and not yet settled are
 * pending: their folios are locked and unmapped.
 *
 * mmap_lock is held as long as a chunk is pending, since finalize needs the page tables
 * where collect found them. When another task waits for the lock, the pass settles the
 * pending chunks and drops it. Afterwards, other vmas may be there.
 */
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/oom.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include "range.h"

/*
 * Is @mm still the address space of a process? mm_users does not tell, because other calls
 * hold references, too.
 */
static bool mm_has_process(struct mm_struct *mm)
{
	/* See mm_update_next_owner(). */
#ifdef CONFIG_MEMCG
	return rcu_access_pointer(mm->owner);
#else
	struct task_struct *process;

	guard(rcu)();
	for_each_process(process)
		if (!(process->flags & PF_KTHREAD) && process_shares_mm(process, mm))
			return true;
	return false;
#endif
}

/* Has the process ended, or does the OOM reaper take its memory? */
static bool mm_is_gone(const struct range_ctx *range)
{
	struct mm_struct *mm = range->migrate->mm;

	if (check_stable_address_space(mm))
		return true;
	/* A process that migrates its own memory has not ended. */
	if (current->mm == mm && !(current->flags & PF_KTHREAD))
		return false;
	/*
	 * A call between nodes does not sleep for long and comes here for each chunk:
	 * spare it the search for a process.
	 */
	return atomic_read(&mm->mm_users) == 1 || (!range->nodes && !mm_has_process(mm));
}

/**
 * range_must_stop() - must the call end before it begins another chunk?
 * @range: the call
 *
 * Return: the error to end it with, or 0 if it can go on.
 */
int range_must_stop(const struct range_ctx *range)
{
	const struct hmm_migrate *migrate = range->migrate;

	if (range->error)
		return range->error;
	if (!(range->flags & HMM_MIGRATE_UNKILLABLE) &&
	    (fatal_signal_pending(current) ||
	     ((current->flags & PF_KTHREAD) && kthread_should_stop())))
		return -EINTR;
	if (!range->by_pfn && mm_is_gone(range))
		return -ESRCH;
	if (migrate->deadline && ktime_after(ktime_get(), migrate->deadline))
		return -ETIME;
	return READ_ONCE(migrate->cancel) ? -ECANCELED : 0;
}

/**
 * range_flags() - the flags that apply at the moment
 * @range: the call
 *
 * All that a retry pass works on lies before the place that the call has reached, so
 * neither a gap nor a lack of memory there ends the call.
 *
 * Return: &range_ctx.flags, adjusted.
 */
unsigned int range_flags(const struct range_ctx *range)
{
	if (!range->in_retry)
		return range->flags;
	return (range->flags | HMM_MIGRATE_SKIP_NO_MEMORY) & ~HMM_MIGRATE_STRICT;
}

/**
 * range_skip() - pass over addresses where nothing is mapped, or a vma that cannot migrate
 * @range: the call
 * @addr: the first address
 * @end: the address behind them
 * @error: which of the two, as range_vma() returns it
 *
 * Return: 0, or with HMM_MIGRATE_STRICT @error.
 */
int range_skip(struct range_ctx *range, unsigned long addr, unsigned long end, int error)
{
	if (range_flags(range) & HMM_MIGRATE_STRICT)
		return error;
	range->migrate->skipped += range_pages(addr, end);
	/* Places that are retried have been noted before. */
	if (range->nodes && !range->in_retry)
		range_note_left(range, addr, end);
	return 0;
}

/**
 * range_vma() - find the vma at an address
 * @range: the call
 * @addr: the address
 * @end: lowered to the end of the vma or of the gap
 * @error: 0; or -EFAULT if nothing is mapped there; or -EOPNOTSUPP if the vma cannot
 *	migrate
 *
 * Context: mmap_lock is held.
 * Return: the vma, or NULL with @error set.
 */
struct vm_area_struct *range_vma(const struct range_ctx *range, unsigned long addr,
				 unsigned long *end, int *error)
{
	struct vm_area_struct *vma = find_vma(range->migrate->mm, addr);

	if (!vma || vma->vm_start > addr) {
		if (vma)
			*end = min(*end, vma->vm_start);
		*error = -EFAULT;
		return NULL;
	}
	*end = min(*end, vma->vm_end);
	*error = migrate_takes_vma(vma) && migrate_nodes_take_vma(range->nodes, vma) ?
		 0 : -EOPNOTSUPP;
	return *error ? NULL : vma;
}

/*
 * Returns the end of the folio that PTEs map at @addr, or @addr if no folio is mapped
 * there, or one begins there.
 */
static unsigned long folio_end_by_pte(struct vm_area_struct *vma, pmd_t *pmdp,
				      unsigned long addr)
{
	unsigned long index = 0, nr_pages = 0;
	struct page *page = NULL;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep, pte;

	ptep = pte_offset_map_lock(vma->vm_mm, pmdp, addr, &ptl);
	if (!ptep)
		return addr;
	pte = ptep_get(ptep);
	if (pte_present(pte))
		page = vm_normal_page(vma, addr, pte);
	else if (is_swap_pte(pte) && is_device_private_entry(pte_to_swp_entry(pte)))
		page = pfn_swap_entry_to_page(pte_to_swp_entry(pte));
	if (page) {
		nr_pages = folio_nr_pages(page_folio(page));
		index = folio_page_idx(page_folio(page), page);
	}
	pte_unmap_unlock(ptep, ptl);
	return index ? addr + (nr_pages - index) * PAGE_SIZE : addr;
}

/*
 * A chunk that ended at @addr in the middle of a folio would have the folio split. Where
 * folios are to move whole, returns the end of that folio instead, but not more than @end.
 */
static unsigned long range_widen(const struct range_ctx *range, struct vm_area_struct *vma,
				 unsigned long addr, unsigned long end)
{
	pmd_t *pmdp, pmd;

	if (!(range->select & (MIGRATE_VMA_SELECT_LARGE | MIGRATE_VMA_SELECT_COMPOUND)))
		return addr;
	if (addr >= end)
		return end;
	pmdp = mm_find_pmd(vma->vm_mm, addr);
	if (!pmdp)
		return addr;
	pmd = pmdp_get_lockless(pmdp);
	if (pmd_none(pmd))
		return addr;
	if (pmd_trans_huge(pmd) || is_swap_pmd(pmd))
		return min(ALIGN(addr, PMD_SIZE), end);
	if (!(range->select & MIGRATE_VMA_SELECT_LARGE))
		return addr;
	return min(folio_end_by_pte(vma, pmdp, addr), end);
}

/* Settle the oldest chunks until at most @max are pending. */
static void range_drain(struct range_ctx *range, unsigned int max)
{
	while (range->nr_pending > max) {
		unsigned int oldest = (range->next + range->depth - range->nr_pending) %
				      range->depth;

		chunk_settle(range, &range->chunks[oldest]);
		range->nr_pending--;
	}
}

/*
 * Set up one chunk that begins at *@addr, or skip one gap, and move *@addr behind it. If
 * that fills the ring, settle the oldest chunk. The error, if any, ends the call at
 * *@addr.
 */
static int range_next_chunk(struct range_ctx *range, unsigned long *addr, unsigned long end)
{
	struct hmm_migrate_chunk *chunk = &range->chunks[range->next];
	unsigned long size = range->chunk_size, next;
	struct vm_area_struct *vma = NULL;
	int ret;

	if (!range->by_pfn) {
		vma = range_vma(range, *addr, &end, &ret);
		if (!vma) {
			ret = range_skip(range, *addr, end, ret);
			if (!ret)
				*addr = end;
			return ret;
		}
		/* Until there, the chunk selects ordinary memory as well. */
		if (unlikely(range_was_bounced(range, *addr)))
			end = min(end, range->bounced.end);
	}
	/* Compare the last bytes, since the next multiple of @size may overflow. */
	next = min(end - 1, *addr - *addr % size + size - 1) + 1;
	if (vma) {
		unsigned long wide = range_widen(range, vma, next, end);

		/*
		 * Between nodes, the CPU copies the chunk with mmap_lock held: do not
		 * widen it for a folio that is larger than a chunk. Such a folio stays.
		 */
		if (!range->nodes || wide - *addr <= 2 * size)
			next = wide;
		/*
		 * Never populate a hole while folios of a file are locked: its memcg
		 * charge may reclaim, and with cgroup v1 reclaim may wait for writeback,
		 * by a writer that waits for one of these folio locks. See __do_fault().
		 */
		if (range->files == vma_is_anonymous(vma))
			range_drain(range, 0);
		range->files = !vma_is_anonymous(vma);
	}
	/* A chunk that was widened may need larger arrays than the others. */
	if (unlikely(range_pages(*addr, next) > chunk->room)) {
		ret = chunk_create(range, chunk, range_pages(*addr, next));
		if (ret)
			return ret;
	}
	ret = chunk_set_up(range, chunk, vma, *addr, &next);
	*addr = next;
	range->next = (range->next + 1) % range->depth;
	range->nr_pending++;
	range_drain(range, range->depth - 1);
	return ret;
}

/**
 * range_pass() - migrate addresses chunk by chunk, until another task waits for mmap_lock
 * @range: the call
 * @addr: where to begin; moved to where the pass ended
 * @end: where to end
 *
 * Context: takes and releases mmap_lock, unless the caller holds it or the call is by
 * device pfns. Sleeps. Before and after it, no chunk is pending.
 * Return: 0 or the error that ends the call.
 */
int range_pass(struct range_ctx *range, unsigned long *addr, unsigned long end)
{
	bool lock = !range->by_pfn && !range->keeps_lock;
	struct mm_struct *mm = range->migrate->mm;
	unsigned long start = *addr;
	int ret;

	if (lock && mmap_read_lock_killable(mm))
		return -EINTR;
	/*
	 * Do at least two chunks per lock hold, for forward progress: with many tasks,
	 * one of them always waits for the lock. A fault does all, since it would only be
	 * repeated. A call between nodes does one chunk: it copies with the lock held,
	 * which migrate_pages() does not.
	 */
	do {
		ret = range->fault_page ? 0 : range_must_stop(range);
		if (ret)
			break;
		ret = range_next_chunk(range, addr, end);
		cond_resched();
	} while (!ret && *addr < end && !range->nodes &&
		 (range->fault_page ||
		  (!range_retry_is_full(range) &&
		   (*addr - start <= range->chunk_size || range->by_pfn ||
		    !mmap_lock_is_contended(mm)))));
	range_drain(range, 0);
	if (lock)
		mmap_read_unlock(mm);
	return ret ?: range->error;
}

/*
 * Bring peer memory that the device cannot reach to ordinary memory, as a CPU fault does.
 * Pages for which the fault fails stay with the peer, and the next chunk counts them as not
 * copied.
 */
static int range_bounce(struct range_ctx *range)
{
	struct mm_struct *mm = range->migrate->mm;
	unsigned long addr = range->bounce.start;
	int ret = 0;

	while (addr < range->bounce.end) {
		bool unlocked;

		ret = range_must_stop(range);
		if (ret)
			break;
		if (mmap_read_lock_killable(mm))
			return -EINTR;
		/* Remote: the protection keys of this task do not matter. */
		fixup_user_fault(mm, addr, FAULT_FLAG_REMOTE, &unlocked);
		mmap_read_unlock(mm);
		addr += PAGE_SIZE;
		cond_resched();
	}
	range->bounced = range->bounce;
	range->bounce = (struct migrate_place){};
	return ret;
}

/**
 * range_run() - migrate addresses, pass by pass, until the retry list is full
 * @range: the call
 * @addr: where to begin; moved to where it ended
 * @end: where to end
 *
 * Context: as range_pass(). No folio is locked by the call when it calls the begin op.
 * Return: 0 or the error that ends the call; -EAGAIN if the caller keeps mmap_lock, and
 * another task waits for it.
 */
int range_run(struct range_ctx *range, unsigned long *addr, unsigned long end)
{
	const struct hmm_migrate_ops *ops = range->migrate->ops;
	int ret = 0;

	while (!ret && *addr < end && !range_retry_is_full(range)) {
		if (ops->begin)
			ret = ops->begin(range->migrate);
		if (!ret)
			ret = range_pass(range, addr, end);
		/* The pass has ended before memory that CPU faults have to bring first. */
		if (range->bounce.end)
			ret = range_bounce(range);
		if (!ret && *addr < end && range->keeps_lock &&
		    mmap_lock_is_contended(range->migrate->mm))
			ret = -EAGAIN;
	}
	return ret;
}
