// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the call: a range of a process, or of a device, in chunks.
 *
 * While the copy engine works on one chunk, the CPU settles the one before and sets up
 * the one after it: see range_chunk.c. The rules that make this safe:
 *
 * - Nothing is waited for while folios are locked, but the copy, which needs none of
 *   them. What is locked by others is remembered by its address, and waited for when
 *   nothing is in flight. The holder may wait for us: UFFDIO_MOVE waits for a folio lock,
 *   and reclaim for the notifier of a device.
 * - A driver finds memory when nothing is in flight: it may have to evict, and evicting
 *   waits for folio locks.
 * - mmap_lock is held as long as a chunk is in flight: finalize needs the page tables
 *   where collect found them. When somebody waits for it, what is in flight is settled
 *   and the lock dropped. Then the vmas may be others.
 */
#include <linux/export.h>
#include <linux/freezer.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/oom.h>
#include <linux/pagemap.h>
#include <linux/pagewalk.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include "range.h"

/*
 * How often what was locked is looked at again while its holder has it for a moment, a
 * fault or reclaim: 4 to 8 ms in all.
 */
#define RANGE_PASSES	10

/* And then, in microseconds, until the call has waited for HMM_MIGRATE_MAX_WAIT. */
#define RANGE_POLL	8000UL

/*
 * So many places that were locked can be remembered, however small the chunks are: what
 * comes to pieces and finds no room is not looked at again.
 */
#define RANGE_MIN_PLACES	1024UL

/* So many vmas are looked at to see what is to be reserved. */
#define RANGE_COUNTED_VMAS	256

/* What was locked, and shall be looked at again */

/**
 * range_remember() - something is locked, and is to be looked at again
 * @range: the call
 * @start: its first address
 * @end: the address behind it
 *
 * There is room, see range_is_full(), but perhaps not for a chunk that has become wider.
 * What finds none is not looked at again.
 */
void range_remember(struct range_call *range, unsigned long start, unsigned long end)
{
	struct range_places *places = &range->locked;

	if (places->nr && places->at[places->nr - 1].end == start)
		places->at[places->nr - 1].end = end;
	else if (places->nr < places->max)
		places->at[places->nr++] = (struct migrate_place){ start, end };
	else
		range->migrate->left[MIGRATE_LEFT_LOCKED] += range_pages(start, end);
}

/*
 * Is there no room for what can come before it is looked at: what collect finds locked
 * in another chunk, and what is under writeback in it and in those in flight? Each
 * page of them makes one entry at most.
 */
static bool range_is_full(const struct range_call *range)
{
	return range->locked.nr > range->locked.max / 2;
}

/* What is still locked, or was not looked at any more, stays. */
static void range_give_up(struct range_call *range, struct range_places *places,
			  unsigned int first)
{
	struct migrate_tally tally = {
		.stage = MIGRATE_STAGE_COLLECT,
		.by_pfn = range->by_pfn,
	};
	unsigned int i;

	for (i = first; i < places->nr; i++) {
		tally.start = places->at[i].start;
		tally.end = places->at[i].end;
		tally.left[MIGRATE_LEFT_LOCKED] = range_pages(tally.start, tally.end);
		migrate_tally_report(&tally);
		range->migrate->left[MIGRATE_LEFT_LOCKED] += tally.left[MIGRATE_LEFT_LOCKED];
	}
	places->nr = 0;
}

/*
 * What is looked at again lies before the place where the call ends, so it is no
 * reason for it to end.
 */
unsigned int range_flags(const struct range_call *range)
{
	if (!range->again)
		return range->flags;
	return (range->flags | HMM_MIGRATE_SKIP_NO_MEMORY) & ~HMM_MIGRATE_STRICT;
}

/* What is left, between nodes */

/**
 * range_nr_left() - how much is left that should have moved?
 * @range: the call
 *
 * Not what is unselected or shared, nor what is no page at all; and not yet what is locked.
 *
 * Return: a number that grows with it.
 */
unsigned long range_nr_left(const struct range_call *range)
{
	const struct hmm_migrate *migrate = range->migrate;
	unsigned long nr = migrate->no_memory + migrate->copy_failed;
	enum migrate_left reason;

	for (reason = 0; reason < NR_MIGRATE_LEFT; reason++)
		if (reason != MIGRATE_LEFT_UNSELECTED && reason != MIGRATE_LEFT_SWAPPED)
			nr += migrate->left[reason];
	return nr;
}

/**
 * range_note_left() - something was left in a part of the range
 * @range: the call, which has @nodes
 * @start: its first address
 * @end: the address behind it
 *
 * Each place that is still to come has room for one. Without more, the last one becomes as
 * large as it takes, within the place that is at work.
 */
void range_note_left(struct range_call *range, unsigned long start, unsigned long end)
{
	struct range_places *left = range->left;
	struct migrate_place *last = left->at + left->nr - 1;

	if (left->nr && (last->end == start || left->nr + range->to_come >= left->max))
		last->end = end;
	else
		left->at[left->nr++] = (struct migrate_place){ start, end };
}

/* When to stop */

/*
 * Has a process this address space? References that others have to its users do not
 * tell: they may be those of other calls.
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

/*
 * The OOM reaper is at the process, or it has ended. A process that migrates its own
 * memory is here.
 */
static bool mm_is_gone(const struct range_call *range)
{
	struct mm_struct *mm = range->migrate->mm;

	if (check_stable_address_space(mm))
		return true;
	if (current->mm == mm && !(current->flags & PF_KTHREAD))
		return false;
	/* A call between nodes waits for nobody, and asks for each chunk. */
	return atomic_read(&mm->mm_users) == 1 || (!range->nodes && !mm_has_process(mm));
}

static bool range_is_late(const struct range_call *range)
{
	ktime_t deadline = range->migrate->deadline;

	return deadline && ktime_after(ktime_get(), deadline);
}

static bool range_is_killed(const struct range_call *range)
{
	if (range->flags & HMM_MIGRATE_UNKILLABLE)
		return false;
	return fatal_signal_pending(current) ||
	       ((current->flags & PF_KTHREAD) && kthread_should_stop());
}

/* Why there is to be no other chunk; 0 if there is no reason. */
static int range_must_stop(const struct range_call *range)
{
	const struct hmm_migrate *migrate = range->migrate;

	if (range->error)
		return range->error;
	if (range_is_killed(range))
		return -EINTR;
	if (!range->by_pfn && mm_is_gone(range))
		return -ESRCH;
	if (range_is_late(range))
		return -ETIME;
	return READ_ONCE(migrate->cancel) ? -ECANCELED : 0;
}

/* The pipeline */

static void range_settle_oldest(struct range_call *range)
{
	unsigned int oldest = (range->next + range->depth - range->in_flight) %
			      range->depth;

	chunk_settle(range, &range->chunks[oldest]);
	range->in_flight--;
}

static void range_drain(struct range_call *range)
{
	while (range->in_flight)
		range_settle_oldest(range);
}

/* The next chunk is [addr, next). If the ring is full then, the oldest one leaves it. */
static int range_feed(struct range_call *range, struct vm_area_struct *vma,
		      unsigned long addr, unsigned long *next)
{
	struct hmm_migrate_chunk *chunk = &range->chunks[range->next];
	unsigned long npages = range_pages(addr, *next);
	int ret;

	/* It was made wider than others are. */
	if (unlikely(npages > chunk->room)) {
		ret = chunk_create(range, chunk, npages);
		if (ret) {
			*next = addr;
			return ret;
		}
	}
	ret = chunk_set_up(range, chunk, vma, addr, next);
	range->next = (range->next + 1) % range->depth;
	range->in_flight++;
	if (range->in_flight == range->depth)
		range_settle_oldest(range);
	return ret;
}

/* [addr, end) cannot migrate: nothing is there, or of a kind that never can. */
static int range_skip(struct range_call *range, unsigned long addr, unsigned long end,
		      int error)
{
	if (range_flags(range) & HMM_MIGRATE_STRICT)
		return error;
	range->migrate->skipped += range_pages(addr, end);
	/* What is looked at again has been noted. */
	if (range->nodes && !range->again)
		range_note_left(range, addr, end);
	return 0;
}

/* Where a chunk ends that begins at @addr, if nothing else ends it. */
static unsigned long range_chunk_end(const struct range_call *range, unsigned long addr,
				     unsigned long end)
{
	unsigned long size = range->chunk_size;

	return min(end - 1, addr - addr % size + size - 1) + 1;
}

/* The page that @pte maps, be it by a device-private entry, or NULL. */
static struct page *mapped_page(struct vm_area_struct *vma, unsigned long addr, pte_t pte)
{
	swp_entry_t entry;

	if (pte_present(pte))
		return vm_normal_page(vma, addr, pte);
	if (!is_swap_pte(pte))
		return NULL;
	entry = pte_to_swp_entry(pte);
	return is_device_private_entry(entry) ? pfn_swap_entry_to_page(entry) : NULL;
}

/* Where the folio ends that a page table maps at @addr; @addr if one begins there. */
static unsigned long folio_end_by_pte(struct vm_area_struct *vma, pmd_t *pmdp,
				      unsigned long addr)
{
	unsigned long index = 0, nr_pages = 0;
	struct page *page;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;

	ptep = pte_offset_map_lock(vma->vm_mm, pmdp, addr, &ptl);
	if (!ptep)
		return addr;
	page = mapped_page(vma, addr, ptep_get(ptep));
	if (page) {
		nr_pages = folio_nr_pages(page_folio(page));
		index = folio_page_idx(page_folio(page), page);
	}
	pte_unmap_unlock(ptep, ptl);
	return index ? addr + (nr_pages - index) * PAGE_SIZE : addr;
}

/*
 * A chunk that ends in the middle of a folio would have it split. If folios are to move
 * whole, it ends behind that one.
 */
static unsigned long range_widen(const struct range_call *range, struct vm_area_struct *vma,
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

/*
 * With folios of a file locked, no hole is filled: its charge may have to reclaim, and that,
 * with version 1 of memory cgroups, may wait for writeback of a writer who waits for one of
 * these locks. See __do_fault().
 */
static void range_part_files(struct range_call *range, struct vm_area_struct *vma)
{
	bool files = !vma_is_anonymous(vma);

	if (files != range->files)
		range_drain(range);
	range->files = files;
}

/*
 * What is at @addr? Returns its vma, or NULL and why nothing there can migrate; and in
 * @end where that ends.
 */
static struct vm_area_struct *range_vma(const struct range_call *range, unsigned long addr,
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

/* One chunk from @addr on, or one gap. Returns in @next where that ends. */
static int range_step(struct range_call *range, unsigned long addr, unsigned long end,
		      unsigned long *next)
{
	struct vm_area_struct *vma;
	int ret;

	vma = range_vma(range, addr, &end, &ret);
	if (!vma) {
		ret = range_skip(range, addr, end, ret);
		*next = ret ? addr : end;
		return ret;
	}
	/* Of this, ordinary memory is to move in any case. */
	if (unlikely(range_was_bounced(range, addr)))
		end = min(end, range->bounced.end);
	*next = range_widen(range, vma, range_chunk_end(range, addr, end), end);
	/* Copied with mmap_lock held: a folio that is larger than chunks stays. */
	if (range->nodes && *next - addr > 2 * range->chunk_size)
		*next = range_chunk_end(range, addr, end);
	range_part_files(range, vma);
	return range_feed(range, vma, addr, next);
}

static bool range_is_contended(const struct range_call *range)
{
	return !range->by_pfn && mmap_lock_is_contended(range->migrate->mm);
}

/* From *@addr on, until somebody else wants mmap_lock. */
static int range_steps(struct range_call *range, unsigned long *addr, unsigned long end)
{
	unsigned long start = *addr;
	int ret;

	/*
	 * Two in any case: with many who want it, there is always somebody waiting. And
	 * all for a fault, which would only come back. Between nodes, one and no more:
	 * migrate_pages() copies without the lock.
	 */
	do {
		ret = range->fault_page ? 0 : range_must_stop(range);
		if (ret)
			break;
		if (range->by_pfn) {
			unsigned long next = range_chunk_end(range, *addr, end);

			ret = range_feed(range, NULL, *addr, &next);
			*addr = next;
		} else {
			ret = range_step(range, *addr, end, addr);
		}
		cond_resched();
	} while (!ret && *addr < end && !range->nodes &&
		 (range->fault_page ||
		  (!range_is_full(range) && (*addr - start <= range->chunk_size ||
					     !range_is_contended(range)))));
	range_drain(range);
	return ret ?: range->error;
}

/* As range_steps(), with the lock that it needs. */
static int range_steps_locked(struct range_call *range, unsigned long *addr,
			      unsigned long end)
{
	struct mm_struct *mm = range->migrate->mm;
	int ret;

	if (range->by_pfn || range->keeps_lock)
		return range_steps(range, addr, end);
	if (mmap_read_lock_killable(mm))
		return -EINTR;
	ret = range_steps(range, addr, end);
	mmap_read_unlock(mm);
	return ret;
}

/*
 * Bring what a peer has, and there is no way for, to ordinary memory, as a CPU fault does.
 * What that fails for stays with the peer, and its copy will have failed.
 */
static int range_bounce(struct range_call *range)
{
	struct mm_struct *mm = range->migrate->mm;
	unsigned long addr = range->bounce.start;
	int ret = 0;

	while (!ret && addr < range->bounce.end) {
		bool unlocked;

		ret = range_must_stop(range);
		if (ret)
			break;
		if (mmap_read_lock_killable(mm))
			return -EINTR;
		/* Of whatever task: protection keys are not looked at. */
		fixup_user_fault(mm, addr, FAULT_FLAG_REMOTE, &unlocked);
		mmap_read_unlock(mm);
		addr += PAGE_SIZE;
		cond_resched();
	}
	range->bounced = range->bounce;
	range->bounce = (struct migrate_place){};
	return ret;
}

/* Who waits for the lock that the caller keeps is to have it. */
static int range_gives_way(const struct range_call *range)
{
	return range->keeps_lock && range_is_contended(range) ? -EAGAIN : 0;
}

/* From *@addr on, until there is no room for what is locked. */
static int range_run(struct range_call *range, unsigned long *addr, unsigned long end)
{
	const struct hmm_migrate_ops *ops = range->migrate->ops;
	int ret = 0;

	while (!ret && *addr < end && !range_is_full(range)) {
		if (ops->begin)
			ret = ops->begin(range->migrate);
		if (!ret)
			ret = range_steps_locked(range, addr, end);
		if (range->bounce.end)
			ret = range_bounce(range);
		if (!ret && *addr < end)
			ret = range_gives_way(range);
	}
	return ret;
}

/* What is held */

/*
 * Does somebody have the folio at @addr locked, or is it written to swap? Looked at under
 * the page-table lock: a reference would make another migration of it fail, and a look
 * by the collect stage would call the notifiers. Returns in @next where the folio ends:
 * one answer is for all of it, or a range would begin in the middle of a folio and have
 * it split. Under mmap_lock.
 */
static bool is_held(struct mm_struct *mm, unsigned long addr, unsigned long *next)
{
	struct vm_area_struct *vma = vma_lookup(mm, addr);
	struct folio_walk fw;
	unsigned long nr_pages, index;
	struct folio *folio;
	bool held;

	*next = addr + PAGE_SIZE;
	folio = vma ? folio_walk_start(&fw, vma, addr, FW_MIGRATION) : NULL;
	if (!folio)
		return false;
	held = folio_test_locked(folio) || folio_test_writeback(folio);
	/*
	 * A migration entry does not tell the page, but mostly lies as a fault's does.
	 * And its folio may be split just now: ask for its size once.
	 */
	nr_pages = folio_nr_pages(folio);
	index = fw.page ? folio_page_idx(folio, fw.page) :
			  (addr >> PAGE_SHIFT) & (nr_pages - 1);
	*next = addr + (nr_pages - index) * PAGE_SIZE;
	/* folio_walk_start() says nothing to sparse. */
	__acquire(fw.ptl);
	folio_walk_end(&fw, vma);
	return held;
}

/*
 * Returns in @held whether the folio at @addr is, and in @end how far that goes, or how
 * far it was looked. By pfns, it is as cheap to try.
 */
static int range_look(const struct range_call *range, unsigned long addr,
		      unsigned long *end, bool *held)
{
	struct mm_struct *mm = range->migrate->mm;
	unsigned long next, last = *end;

	*held = false;
	if (range->by_pfn)
		return 0;
	if (!range->keeps_lock && mmap_read_lock_killable(mm))
		return -EINTR;
	*held = is_held(mm, addr, end);
	while (*end < last && !mmap_lock_is_contended(mm) &&
	       !fatal_signal_pending(current) && is_held(mm, *end, &next) == *held) {
		*end = next;
		cond_resched();
	}
	if (!range->keeps_lock)
		mmap_read_unlock(mm);
	*end = min(*end, last);
	return 0;
}

/* Migrate what is not held any more of @place, and remember the rest. */
static int range_try_place(struct range_call *range, struct migrate_place *place,
			   unsigned int pass)
{
	bool held = false;
	int ret = 0;

	while (!ret && place->start < place->end && !range_is_full(range)) {
		unsigned long end = place->end;

		/* At first, it is cheaper to try. */
		if (pass)
			ret = range_look(range, place->start, &end, &held);
		if (!ret && !held) {
			ret = range_run(range, &place->start, end);
		} else if (!ret) {
			range_remember(range, place->start, end);
			place->start = end;
		}
		cond_resched();
	}
	return ret;
}

/*
 * Sleep before pass @pass, with nothing locked and nothing unmapped. The first passes
 * are for those who have a folio for a moment, the others for I/O.
 */
static int range_wait(struct range_call *range, unsigned int pass)
{
	unsigned long usecs = pass < RANGE_PASSES ? 4UL << pass : RANGE_POLL;
	bool killable = !(range->flags & HMM_MIGRATE_UNKILLABLE);
	ktime_t timeout = ns_to_ktime(usecs * NSEC_PER_USEC);
	u64 then = ktime_get_ns();

	/* usleep_range_state() would not end for a signal, but spin. */
	set_current_state(killable ? TASK_KILLABLE | TASK_FREEZABLE : TASK_UNINTERRUPTIBLE);
	schedule_hrtimeout_range(&timeout, usecs * NSEC_PER_USEC, HRTIMER_MODE_REL);
	if (pass >= RANGE_PASSES)
		range->waited += ktime_get_ns() - then;
	return range_must_stop(range);
}

static int range_again_pass(struct range_call *range, unsigned int pass)
{
	struct range_places *places = &range->looked;
	unsigned int i;
	int ret = 0;

	swap(range->locked, range->looked);
	if (!(range->flags & HMM_MIGRATE_NO_WAIT))
		ret = range_wait(range, pass);
	range->again = true;
	for (i = 0; !ret && i < places->nr; i++) {
		ret = range_try_place(range, &places->at[i], pass);
		/* An error; or what was one place has become too many. */
		if (places->at[i].start < places->at[i].end)
			break;
	}
	range->again = false;
	range_give_up(range, places, i);
	return ret;
}

/* Is another look at what is locked worth it? */
static bool range_may_wait(const struct range_call *range, unsigned int pass)
{
	if (range->flags & HMM_MIGRATE_NO_WAIT)
		return !pass;
	return pass < RANGE_PASSES ||
	       range->waited < HMM_MIGRATE_MAX_WAIT * NSEC_PER_MSEC;
}

/*
 * Look again at what was locked, with nothing in flight: until nothing is, or the call
 * has waited long enough. After @error, nothing is begun any more.
 */
static int range_again(struct range_call *range, int error)
{
	unsigned int pass;

	for (pass = 0; !error && range->locked.nr && range_may_wait(range, pass); pass++) {
		unsigned long moved = range->migrate->moved;
		u64 waited = range->waited, then = ktime_get_ns();

		error = range_again_pass(range, pass);
		/* A pass that moves nothing is time waited, too. */
		if (pass >= RANGE_PASSES && range->migrate->moved == moved)
			range->waited = waited + ktime_get_ns() - then;
	}
	range->left_locked |= range->locked.nr && range->keeps_lock;
	range_give_up(range, &range->locked, 0);
	return error;
}

/* The call */

static int places_alloc(struct range_places *places, unsigned long max)
{
	places->max = max;
	places->at = kvmalloc_array(max, sizeof(*places->at), RANGE_GFP);
	return places->at ? 0 : -ENOMEM;
}

/* A fault brings back device memory, which is on no LRU; so is what has a pfn. */
static int isolated_alloc(struct range_call *range)
{
	if (range->fault_page || range->by_pfn)
		return 0;
	range->stages.isolated = kcalloc(2 * nr_node_ids, sizeof(long), GFP_KERNEL);
	return range->stages.isolated ? 0 : -ENOMEM;
}

static unsigned int range_depth(const struct hmm_migrate *migrate)
{
	if (!migrate->ops->wait)
		return 1;
	return migrate->depth ? min(migrate->depth, HMM_MIGRATE_MAX_DEPTH) : 2;
}

static int range_create(struct range_call *range)
{
	const struct hmm_migrate *migrate = range->migrate;
	unsigned long max, places;
	unsigned int i;
	int ret;

	range->chunk_size = min(migrate->chunk_size ?: HMM_MIGRATE_CHUNK_SIZE,
				HMM_MIGRATE_MAX_CHUNK_SIZE);
	range->depth = range_depth(migrate);
	max = range_pages(0, min(range->chunk_size, range->end - range->start));
	/* Twice what all chunks can add: see range_is_full(). */
	places = max(2 * range->depth * max, range->nodes ? 0 : RANGE_MIN_PLACES);
	range->chunks = kcalloc(range->depth, sizeof(*range->chunks), GFP_KERNEL);
	ret = range->chunks ? 0 : -ENOMEM;
	ret = ret ?: isolated_alloc(range);
	ret = ret ?: places_alloc(&range->locked, places);
	ret = ret ?: places_alloc(&range->looked, places);
	for (i = 0; !ret && i < range->depth; i++)
		ret = chunk_create(range, &range->chunks[i], max);
	return ret;
}

static void range_destroy(struct range_call *range)
{
	unsigned int i;

	for (i = 0; range->chunks && i < range->depth; i++)
		chunk_destroy(&range->chunks[i]);
	kfree(range->chunks);
	kvfree(range->locked.at);
	kvfree(range->looked.at);
	kfree(range->stages.isolated);
}

/*
 * Pass over what cannot migrate from *@addr on, and count what can behind that, so that
 * nothing is reserved for gaps. Behind many vmas, all of the rest may.
 */
static int range_count(struct range_call *range, unsigned long *addr, unsigned long *npages)
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

/* The same, with the lock that it needs. */
static int range_count_locked(struct range_call *range, unsigned long *addr,
			      unsigned long *npages)
{
	struct mm_struct *mm = range->migrate->mm;
	int ret;

	if (range->by_pfn) {
		*npages = range_pages(*addr, range->end);
		return 0;
	}
	if (range->keeps_lock)
		return range_count(range, addr, npages);
	if (mmap_read_lock_killable(mm))
		return -EINTR;
	ret = range_count(range, addr, npages);
	mmap_read_unlock(mm);
	return ret;
}

static unsigned long range_orders(const struct range_call *range)
{
	if (range->select & MIGRATE_VMA_SELECT_LARGE)
		return GENMASK(MIGRATE_HUGE_ORDER, 0) & ~BIT(1);
	if (range->select & MIGRATE_VMA_SELECT_COMPOUND)
		return BIT(0) | BIT(MIGRATE_HUGE_ORDER);
	return BIT(0);
}

static void range_unreserve(const struct range_call *range)
{
	struct hmm_migrate *migrate = range->migrate;

	if (migrate->ops->reserve && migrate->ops->unreserve)
		migrate->ops->unreserve(migrate);
}

/*
 * Have the driver see that there is memory, from *@addr on, which may be behind a gap then,
 * to @end.
 */
static int range_reserve(struct range_call *range, unsigned long *addr, unsigned long *end)
{
	struct hmm_migrate *migrate = range->migrate;
	struct hmm_migrate_need need = {
		.end = range->end,
		.orders = range_orders(range),
	};
	int ret;

	*end = range->end;
	if (!migrate->ops->reserve)
		return 0;
	ret = range_count_locked(range, addr, &need.npages);
	if (ret || !need.npages)
		return ret;
	need.start = *addr;
	ret = migrate->ops->reserve(migrate, &need);
	if (ret)
		return ret;
	*end = clamp(PAGE_ALIGN_DOWN(need.end), *addr, range->end);
	if (*end > *addr)
		return 0;
	range_unreserve(range);
	return -ENOMEM;
}

/* The whole range, and in between and in the end what was locked. */
static int range_do(struct range_call *range)
{
	struct hmm_migrate *migrate = range->migrate;
	unsigned long addr = range->start, end;
	int ret = 0;

	while (!ret && addr < range->end) {
		ret = range_must_stop(range);
		ret = ret ?: range_reserve(range, &addr, &end);
		/* Or nothing but gaps was left. */
		if (ret || addr == range->end)
			break;
		while (!ret && addr < end) {
			ret = range_run(range, &addr, end);
			ret = range_again(range, ret);
		}
		range_unreserve(range);
		if (!ret && addr < range->end)
			ret = range_gives_way(range);
	}
	migrate->done = range->by_pfn ? addr >> PAGE_SHIFT : addr;
	/* The caller keeps mmap_lock, so this cannot wait, but the caller can drop it. */
	return ret ?: range->left_locked ? -EAGAIN : 0;
}

/* Migrate what is at @place. What was not even tried is left. */
static int range_over_place(struct range_call *range, const struct migrate_place *place)
{
	unsigned long addr = place->start;
	int ret = 0;

	while (!ret && addr < place->end) {
		ret = range_must_stop(range);
		ret = ret ?: range_steps_locked(range, &addr, place->end);
		ret = range_again(range, ret);
		/* That is noted. */
		range->nr_left = range_nr_left(range);
		cond_resched();
	}
	if (addr < place->end)
		range_note_left(range, addr, place->end);
	return ret;
}

/**
 * range_over_places() - migrate several places of an address space between nodes
 * @range: the call, which has @nodes, and gets in @left where something is left
 * @places: which, in ascending order
 * @nr: how many, at least one
 *
 * As hmm_migrate_range() for each of them, but with the arrays of one call.
 *
 * Context: as hmm_migrate_range().
 */
void range_over_places(struct range_call *range, const struct migrate_place *places,
		       unsigned long nr)
{
	unsigned long i;
	int ret;

	range->start = places[0].start;
	range->end = places[nr - 1].end;
	ret = range_create(range);
	for (i = 0; !ret && i < nr; i++) {
		range->to_come = nr - 1 - i;
		if (places[i].end - places[i].start < RANGE_MIN_PLACE)
			range_note_left(range, places[i].start, places[i].end);
		else
			ret = range_over_place(range, &places[i]);
	}
	for (; i < nr; i++) {
		range->to_come = nr - 1 - i;
		range_note_left(range, places[i].start, places[i].end);
	}
	range_destroy(range);
}

static bool range_is_valid(const struct range_call *range)
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

/* Everything that is an answer. */
static void hmm_migrate_reset(struct hmm_migrate *migrate)
{
	memset_startat(migrate, 0, unmapping);
}

static struct range_call range_init(struct hmm_migrate *migrate)
{
	struct range_call range = {
		.migrate = migrate,
		.start = migrate->start,
		.end = migrate->end,
		.select = migrate->select,
		.flags = migrate->flags,
		.hole_order = migrate->hole_order,
	};

	return range;
}

/* Only device memory moves, to ordinary memory, and holes stay holes. */
static void range_select_device(struct range_call *range)
{
	range->select &= ~MIGRATE_VMA_SELECT_SYSTEM;
	range->select |= MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
			 MIGRATE_VMA_SELECT_DEVICE_COHERENT;
	range->flags &= ~HMM_MIGRATE_FILL_HOLES;
	range->flags |= HMM_MIGRATE_TO_SYSTEM;
	range->hole_order = 0;
}

static int range_start(struct range_call *range)
{
	int ret;

	if (!range_is_valid(range))
		return -EINVAL;
	hmm_migrate_reset(range->migrate);
	range->migrate->done = range->start;
	ret = range_create(range) ?: range_do(range);
	range_destroy(range);
	return ret;
}

/**
 * hmm_migrate_range() - migrate a range of a process to other memory
 * @migrate: what to migrate, how, and what came of it
 *
 * Moves the memory behind a range of virtual addresses to memory that the special
 * allocator of @migrate hands out, in chunks that are large enough for a copy
 * engine. Goes across vmas. What cannot move stays where it is, with its contents,
 * and is counted by its reason. What somebody else has locked, or writes to swap, is
 * tried again when nothing of this call is locked: some times within a few milliseconds,
 * and then every few milliseconds until the call has waited for HMM_MIGRATE_MAX_WAIT in
 * all, or not at all with HMM_MIGRATE_NO_WAIT. What is held still counts as
 * MIGRATE_LEFT_LOCKED.
 *
 * "[A helper that] differs from NUMA migration by working on a range of virtual
 * addresses, and thus by migrating in chunks that can be large enough to use a DMA
 * engine or a special copy-offload engine, into memory that a special allocator
 * hands out" is what the HMM patches of 2016 promised; this is that helper.
 *
 * Context: takes mmap_lock for reading, and drops it when somebody waits for it.
 * Sleeps, and while it waits it can be frozen. The caller must not hold mmap_lock, nor a
 * folio lock, nor anything that an mmu notifier or a fault of this address space may wait
 * for. In a kthread or a workqueue, the policy of a vma applies as in the process; where
 * the vma has none, that of the caller's task does, and its cpuset.
 *
 * Return: 0 if the whole range has been dealt with, whether or not it could move.
 * Otherwise, @migrate->done says how far it came, everything before that is
 * counted, and the error is
 *
 * * -EINVAL: the arguments do not make sense; nothing has been done, and nothing in
 *   @migrate is set
 * * -ENOMEM: no memory at @migrate->done, by the special allocator; or none for the
 *   arrays, and nothing has been done
 * * -EINTR: a fatal signal; or the caller is a kthread, and is to stop
 * * -ECANCELED: @migrate->cancel
 * * -ETIME: @migrate->deadline
 * * -ESRCH: the process has ended, or the OOM reaper takes its memory
 * * -EFAULT: with HMM_MIGRATE_STRICT, nothing is mapped at @migrate->done
 * * -EOPNOTSUPP: with HMM_MIGRATE_STRICT, the vma there cannot migrate at all
 * * what &hmm_migrate_ops.begin or &hmm_migrate_ops.reserve has said
 * * with HMM_MIGRATE_STOP_ON_COPY_ERROR, what the copy ops have said, or -EIO for
 *   hmm_migrate_fail(); the pages of that chunk are in @migrate->copy_failed
 */
int hmm_migrate_range(struct hmm_migrate *migrate)
{
	struct range_call range = range_init(migrate);

	return range_start(&range);
}
EXPORT_SYMBOL_GPL(hmm_migrate_range);

/**
 * hmm_migrate_range_locked() - hmm_migrate_range() for who holds mmap_lock
 * @migrate: what to migrate, how, and what came of it
 *
 * Does what can be done without dropping the lock, and without waiting for anybody but the
 * copy engine: what others have locked is looked at once more, and stays.
 *
 * Context: mmap_lock of @migrate->mm is held, for reading or for writing, and stays so.
 * Sleeps. &hmm_migrate_ops.begin and &hmm_migrate_ops.reserve are called with it, too.
 *
 * Return: as hmm_migrate_range(); and
 *
 * * -EAGAIN: drop the lock and call again: with @migrate->done before @migrate->end,
 *   somebody waits for the lock, and the rest is yet to be done; what was locked meanwhile
 *   is in @migrate->left
 */
int hmm_migrate_range_locked(struct hmm_migrate *migrate)
{
	struct range_call range = range_init(migrate);

	if (migrate->mm)
		mmap_assert_locked(migrate->mm);
	range.keeps_lock = true;
	range.flags |= HMM_MIGRATE_NO_WAIT;
	return range_start(&range);
}
EXPORT_SYMBOL_GPL(hmm_migrate_range_locked);

/**
 * hmm_migrate_range_back() - migrate device memory of a range to ordinary memory
 * @migrate: as for hmm_migrate_range()
 *
 * The reverse of hmm_migrate_range(): only the device memory of @migrate->pgmap_owner
 * and its peers moves, private and coherent, whatever memory @migrate selects. Holes stay
 * holes.
 *
 * Context: as hmm_migrate_range().
 * Return: as hmm_migrate_range().
 */
int hmm_migrate_range_back(struct hmm_migrate *migrate)
{
	struct range_call range = range_init(migrate);

	range_select_device(&range);
	return range_start(&range);
}
EXPORT_SYMBOL_GPL(hmm_migrate_range_back);

/* What is evicted has no addresses, but positions. */
static int range_evict(struct range_call *range, unsigned long npages)
{
	range_select_device(range);
	range->flags &= ~HMM_MIGRATE_STRICT;
	range->by_pfn = true;
	range->start = 0;
	range->end = npages << PAGE_SHIFT;
	return range_start(range);
}

/**
 * hmm_migrate_evict() - migrate device memory to ordinary memory, whoever has it mapped
 * @migrate: how, and what came of it: its @mm, @start, @end, @peers and @hole_order are not
 *	looked at, of its @select only whether large folios are to move whole
 * @first_pfn: the first page
 * @npages: how many
 *
 * As hmm_migrate_range_back(), for memory of a device and not of a process: no vma is
 * known, and several processes may have a page. What is free is passed over. A large
 * folio that is not all of it in a chunk is split.
 *
 * @migrate->done says how many pages have been dealt with. For the ops, the chunk's @vma
 * is NULL, and its @start, like the address for &hmm_migrate_ops.alloc, counts from the
 * first page. Which page something is, the source says.
 *
 * A driver whose device goes away, and that has nothing better to do than to wait for its
 * memory, sets HMM_MIGRATE_UNKILLABLE: then neither a fatal signal nor kthread_stop()
 * ends the call.
 *
 * Context: sleeps. The caller must not hold a folio lock, nor anything that an mmu
 * notifier or a fault may wait for; mmap_lock may be held.
 *
 * Return: as hmm_migrate_range().
 */
int hmm_migrate_evict(struct hmm_migrate *migrate, unsigned long first_pfn,
		      unsigned long npages)
{
	struct range_call range = range_init(migrate);

	range.first_pfn = first_pfn;
	return range_evict(&range, npages);
}
EXPORT_SYMBOL_GPL(hmm_migrate_evict);

/**
 * hmm_migrate_evict_pfns() - the same for pages that do not follow each other
 * @migrate: as for hmm_migrate_evict()
 * @pfns: the pages; those of a large folio that is to move whole are one after the other
 * @npages: how many
 *
 * Context: as hmm_migrate_evict().
 * Return: as hmm_migrate_range().
 */
int hmm_migrate_evict_pfns(struct hmm_migrate *migrate, const unsigned long *pfns,
			   unsigned long npages)
{
	struct range_call range = range_init(migrate);

	range.pfns = pfns;
	return range_evict(&range, npages);
}
EXPORT_SYMBOL_GPL(hmm_migrate_evict_pfns);

/* Faults */

/* What of the folio @vmf touched the vma may map, or the page alone. */
static void fault_folio(struct range_call *range, const struct vm_fault *vmf)
{
	struct folio *folio = page_folio(vmf->page);
	unsigned long addr = PAGE_ALIGN_DOWN(vmf->address);
	unsigned long before = folio_page_idx(folio, vmf->page) * PAGE_SIZE;

	range->start = addr;
	range->end = addr + PAGE_SIZE;
	if (!(range->select & MIGRATE_VMA_SELECT_LARGE) &&
	    !(range->select & MIGRATE_VMA_SELECT_COMPOUND &&
	      folio_order(folio) == MIGRATE_HUGE_ORDER))
		return;
	range->start -= min(before, addr - vmf->vma->vm_start);
	range->end = min(addr - before + folio_size(folio), vmf->vma->vm_end);
}

/* The aligned window around it in the vma, but at least the folio. */
static void fault_window(struct range_call *range, const struct vm_fault *vmf,
			 unsigned long window)
{
	unsigned long start = ALIGN_DOWN(vmf->address, window);

	start = max(start, vmf->vma->vm_start);
	range->start = min(range->start, start);
	range->end = max(range->end, min(ALIGN_DOWN(vmf->address, window) + window - 1,
					 vmf->vma->vm_end - 1) + 1);
}

/*
 * What is locked is a part of the fault, or another fault's. Nothing is reserved, as a
 * driver that evicts for it would wait for the fault's folio. Returns an error if nothing
 * was begun.
 */
static int fault_migrate(struct range_call *range)
{
	unsigned long addr = range->start;
	int ret;

	ret = range_create(range);
	if (!ret) {
		range_steps(range, &addr, range->end);
		range_give_up(range, &range->locked, 0);
	}
	range_destroy(range);
	range->migrate->done = addr;
	return ret;
}

/* A shortage is no reason to kill the process: a retry may find some. */
static vm_fault_t fault_result(const struct range_call *range, int error)
{
	const struct hmm_migrate *migrate = range->migrate;

	if (range->fault_error && range->fault_error != -ENOMEM)
		return VM_FAULT_SIGBUS;
	if ((error || range->fault_error || migrate->no_memory) && !migrate->moved)
		return VM_FAULT_OOM;
	/* Moved, or a part of it is, or somebody else holds it: the CPU tries again. */
	return 0;
}

/**
 * hmm_migrate_fault() - bring back what a CPU fault touched
 * @vmf: the fault, in &dev_pagemap_ops.migrate_to_ram
 * @migrate: how: its @ops, @private, @pgmap_owner, @peers, @chunk_size, @depth, and
 *	its select: with MIGRATE_VMA_SELECT_LARGE folios come back whole, with
 *	MIGRATE_VMA_SELECT_COMPOUND only those that a PMD maps
 * @window: what lies in the aligned window of this many bytes, a power of two, around the
 *	address comes back with it, as far as the vma goes; 0 for the folio alone
 *
 * Does for one fault what hmm_migrate_range_back() does for a range, and counts the
 * same. &hmm_migrate_ops.begin and &hmm_migrate_ops.reserve are not called, as the fault's
 * folio is locked, and &hmm_migrate_ops.wants not for that folio. Of @migrate, its @flags,
 * @cancel and @deadline are not looked at.
 *
 * Context: as &dev_pagemap_ops.migrate_to_ram: mmap_lock is held, the page's folio is
 * locked. Sleeps.
 *
 * Return: what &dev_pagemap_ops.migrate_to_ram is to return.
 */
vm_fault_t hmm_migrate_fault(struct vm_fault *vmf, struct hmm_migrate *migrate,
			     unsigned long window)
{
	struct range_call range = range_init(migrate);
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
	fault_folio(&range, vmf);
	if (window)
		fault_window(&range, vmf, window);
	hmm_migrate_reset(migrate);
	ret = fault_migrate(&range);
	return fault_result(&range, ret);
}
EXPORT_SYMBOL_GPL(hmm_migrate_fault);

/* Somebody else does it */

static void range_work(struct work_struct *work_struct)
{
	struct hmm_migrate_work *work = container_of(work_struct, struct hmm_migrate_work,
						     work);
	struct mm_struct *mm = work->migrate.mm;

	work->ret = hmm_migrate_range(&work->migrate);
	/* The end of the mm may wait for this: a notifier that cancels what is queued. */
	mmput_async(mm);
	if (work->complete)
		work->complete(work);
	complete_all(&work->done);
}

/**
 * hmm_migrate_queue() - have a workqueue migrate a range
 * @wq: the workqueue
 * @work: what is to migrate; not to be touched but for its @migrate.cancel until @done is
 *	completed
 *
 * For prefetching. Only to be called when @work is not in use. Its @complete is called
 * before @done is completed, and must not free it.
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
 * hmm_migrate_wait() - wait until what hmm_migrate_queue() has queued is over
 * @work: what was queued
 *
 * Context: sleeps. When this returns 0 or what the migration has, @work is the caller's.
 * Return: what hmm_migrate_range() has returned, or -EINTR if a fatal signal came first.
 */
int hmm_migrate_wait(struct hmm_migrate_work *work)
{
	return wait_for_completion_killable(&work->done) ? -EINTR : work->ret;
}
EXPORT_SYMBOL_GPL(hmm_migrate_wait);

/**
 * hmm_migrate_cancel() - end what hmm_migrate_queue() has queued
 * @work: what was queued
 *
 * Context: sleeps until the chunks in flight are settled. Then @work is the caller's.
 */
void hmm_migrate_cancel(struct hmm_migrate_work *work)
{
	WRITE_ONCE(work->migrate.cancel, true);
	wait_for_completion(&work->done);
}
EXPORT_SYMBOL_GPL(hmm_migrate_cancel);
