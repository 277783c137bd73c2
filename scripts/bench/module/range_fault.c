// SPDX-License-Identifier: GPL-2.0
/*
 * What hmm_range_fault() costs a driver that migrates nothing: it has memory
 * reported chunk by chunk, and a notifier that nothing invalidates meanwhile.
 */
#include <linux/hmm.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "hmm_migrate_bench.h"
#include "internal.h"

static bool bench_invalidate(struct mmu_interval_notifier *notifier,
			     const struct mmu_notifier_range *range,
			     unsigned long cur_seq)
{
	mmu_interval_set_seq(notifier, cur_seq);
	return true;
}

static const struct mmu_interval_notifier_ops bench_notifier_ops = {
	.invalidate = bench_invalidate,
};

#ifdef HAS_HMM_RANGE_FOLIO_ORDER
static int set_folio_order(struct hmm_range *range)
{
	range->flags = HMM_RANGE_FOLIO_ORDER;
	return 0;
}
#else
static int set_folio_order(struct hmm_range *range)
{
	return -EOPNOTSUPP;
}
#endif

/* A page that is not valid, or of an order that no kind has, counts nowhere. */
static void count_pages(const struct hmm_range *range,
			struct hmm_migrate_bench_range_fault *fault)
{
	unsigned long i, npages = (range->end - range->start) >> PAGE_SHIFT;

	for (i = 0; i < npages; i++) {
		unsigned long entry = range->hmm_pfns[i];
		unsigned int order = hmm_pfn_to_map_order(entry);

		if (entry & HMM_PFN_VALID && !(entry & HMM_PFN_ERROR) &&
		    order < HMM_MIGRATE_BENCH_ORDERS)
			fault->pages[order]++;
	}
}

static int fault_chunk(struct hmm_range *range,
		       struct hmm_migrate_bench_range_fault *fault)
{
	u64 start;
	int ret;

	memset(range->hmm_pfns, 0, sizeof(*range->hmm_pfns) *
	       ((range->end - range->start) >> PAGE_SHIFT));
	range->notifier_seq = mmu_interval_read_begin(range->notifier);
	mmap_read_lock(current->mm);
	start = ktime_get_ns();
	ret = hmm_range_fault(range);
	fault->time += ktime_get_ns() - start;
	mmap_read_unlock(current->mm);
	if (ret)
		return ret;

	fault->calls++;
	count_pages(range, fault);
	return 0;
}

static int fault_all(struct hmm_range *range,
		     struct hmm_migrate_bench_range_fault *fault)
{
	unsigned long addr, end = fault->addr + fault->length;
	struct mmu_interval_notifier notifier;
	int ret;

	ret = mmu_interval_notifier_insert(&notifier, current->mm, fault->addr,
					   fault->length, &bench_notifier_ops);
	if (ret)
		return ret;

	range->notifier = &notifier;
	for (addr = fault->addr; !ret && addr < end; addr += fault->chunk) {
		range->start = addr;
		range->end = min(addr + fault->chunk, end);
		ret = fault_chunk(range, fault);
	}
	mmu_interval_notifier_remove(&notifier);
	return ret;
}

static int check_range_fault(const struct hmm_migrate_bench_range_fault *fault)
{
	if (fault->flags & ~(HMM_MIGRATE_BENCH_REQ_FAULT |
			     HMM_MIGRATE_BENCH_FOLIO_ORDER))
		return -EINVAL;
	if (!PAGE_ALIGNED(fault->addr | fault->length | fault->chunk) ||
	    !fault->length || !fault->chunk || fault->chunk > fault->length ||
	    fault->addr + fault->length < fault->addr)
		return -EINVAL;
	return 0;
}

static int do_range_fault(struct hmm_migrate_bench_range_fault *fault)
{
	struct hmm_range range = { .dev_private_owner = &pgmap };
	int ret;

	ret = check_range_fault(fault);
	if (!ret && fault->flags & HMM_MIGRATE_BENCH_FOLIO_ORDER)
		ret = set_folio_order(&range);
	if (ret)
		return ret;

	if (fault->flags & HMM_MIGRATE_BENCH_REQ_FAULT)
		range.default_flags = HMM_PFN_REQ_FAULT;
	range.hmm_pfns = kvcalloc(fault->chunk >> PAGE_SHIFT,
				  sizeof(*range.hmm_pfns), GFP_KERNEL);
	if (!range.hmm_pfns)
		return -ENOMEM;
	ret = fault_all(&range, fault);
	kvfree(range.hmm_pfns);
	return ret;
}

long bench_range_fault(void __user *user)
{
	struct hmm_migrate_bench_range_fault fault;
	int ret;

	if (copy_from_user(&fault, user, sizeof(fault)))
		return -EFAULT;
	memset_startat(&fault, 0, time);
	fault.clock = clock_ns;
	ret = do_range_fault(&fault);
	if (!ret && copy_to_user(user, &fault, sizeof(fault)))
		ret = -EFAULT;
	return ret;
}
