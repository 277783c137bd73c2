// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration by device pfns: what a driver uses that needs its memory back
 * and does not know who has it mapped where. There is no vma and no mmap_lock,
 * so every mapping is found by the rmap.
 */
#include <linux/export.h>
#include <linux/gfp.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include "../internal.h"
#include "internal.h"

/*
 * Make the src[] entry of a folio that the caller has locked and has a reference
 * to. Returns 0 if there is nothing to migrate.
 *
 * Until the last stage nothing may map the folio, and then its anon_vma would go
 * away with the processes: the rmap needs it to be held, see rmap_walk_anon().
 * That it can be held also tells that the folio is mapped: one that a fault has
 * just migrated, and has a reference to still, is empty and not to be moved
 * again.
 */
static unsigned long device_src(struct folio *folio)
{
	struct anon_vma *anon_vma;

	/* A device folio has no use for this, not being in the swap cache. */
	if (folio_test_large(folio) || folio->private)
		return 0;
	anon_vma = folio_get_anon_vma(folio);
	if (!anon_vma)
		return 0;
	folio->private = anon_vma;
	return migrate_pfn(folio_pfn(folio)) | MIGRATE_PFN_MIGRATE |
	       MIGRATE_PFN_RMAP | MIGRATE_PFN_ANON_VMA;
}

/*
 * Lock what @pfn belongs to. Returns its src[] entry, 0 if it is free or empty,
 * or the pfn without MIGRATE_PFN_VALID if somebody else has the lock.
 */
static unsigned long device_lock_pfn(unsigned long pfn)
{
	struct page *page = pfn_to_page(pfn);
	struct folio *folio;
	unsigned long src;

	/*
	 * Before the reference is taken: it would make the migration fail that
	 * has the lock. There is no need to be right.
	 */
	if (PageLocked(page) && page_count(page))
		return pfn << MIGRATE_PFN_SHIFT;
	folio = folio_get_nontail_page(page);
	if (!folio)
		return 0;
	if (!folio_trylock(folio)) {
		folio_put(folio);
		return pfn << MIGRATE_PFN_SHIFT;
	}
	src = device_src(folio);
	if (!src) {
		folio_unlock(folio);
		folio_put(folio);
	}
	return src;
}

static bool device_is_locked(unsigned long src)
{
	return src && !(src & MIGRATE_PFN_VALID);
}

/* Try those again that were locked. Returns how many still are. */
static unsigned long device_lock_pfns(unsigned long *src_pfns,
				      unsigned long npages)
{
	unsigned long i, nr_again = 0;

	for (i = 0; i < npages; i++) {
		if (i % SWAP_CLUSTER_MAX == 0)
			cond_resched();
		if (!device_is_locked(src_pfns[i]))
			continue;
		src_pfns[i] = device_lock_pfn(src_pfns[i] >> MIGRATE_PFN_SHIFT);
		nr_again += device_is_locked(src_pfns[i]);
	}
	return nr_again;
}

static void device_tally(unsigned long *src_pfns, unsigned long npages,
			 struct migrate_tally *tally)
{
	unsigned long i;

	for (i = 0; i < npages; i++) {
		if (device_is_locked(src_pfns[i])) {
			migrate_left(tally, MIGRATE_LEFT_LOCKED, 1);
			src_pfns[i] = 0;
		} else if (src_pfns[i]) {
			migrate_passed(tally, 0);
		}
	}
}

/**
 * migrate_stage_device() - the first two stages, by device pfns
 * @src_pfns: the pfns, shifted by MIGRATE_PFN_SHIFT
 * @npages: how many they are
 * @collect: what is counted, of the locking
 * @unmap: what is counted, of the rest
 *
 * What is locked by somebody is looked at again as in collect.
 *
 * Context: Sleeps.
 */
void migrate_stage_device(unsigned long *src_pfns, unsigned long npages,
			  struct migrate_tally *collect,
			  struct migrate_tally *unmap)
{
	unsigned long left, again;
	unsigned int pass = 0;

	left = device_lock_pfns(src_pfns, npages);
	again = left;
	while (left && migrate_backoff(pass++))
		left = device_lock_pfns(src_pfns, npages);
	collect->again = again - left;
	device_tally(src_pfns, npages, collect);
	migrate_stage_unmap(src_pfns, npages, NULL, unmap);
}

static void device_setup(unsigned long *src_pfns, unsigned long npages)
{
	struct migrate_tally collect = migrate_tally_pfns(MIGRATE_STAGE_COLLECT, src_pfns, npages);
	struct migrate_tally unmap = migrate_tally_pfns(MIGRATE_STAGE_UNMAP, src_pfns, npages);

	migrate_stage_device(src_pfns, npages, &collect, &unmap);
	migrate_tally_report(&collect);
	migrate_tally_report(&unmap);
}

/**
 * migrate_device_range() - migrate device private pfns to normal memory.
 * @src_pfns: array large enough to hold migrating source device private pfns.
 * @start: starting pfn in the range to migrate.
 * @npages: number of pages to migrate.
 *
 * migrate_vma_setup() is similar in concept to migrate_vma_setup() except that
 * instead of looking up pages based on virtual address mappings a range of
 * device pfns that should be migrated to system memory is used instead.
 *
 * This is useful when a driver needs to free device memory but doesn't know the
 * virtual mappings of every page that may be in device memory. For example this
 * is often the case when a driver is being unloaded or unbound from a device.
 *
 * Like migrate_vma_setup() this function will take a reference and lock any
 * migrating pages that aren't free before unmapping them. Drivers may then
 * allocate destination pages and start copying data from the device to CPU
 * memory before calling migrate_device_pages().
 *
 * Return: 0
 */
int migrate_device_range(unsigned long *src_pfns, unsigned long start,
			 unsigned long npages)
{
	unsigned long i;

	for (i = 0; i < npages; i++)
		src_pfns[i] = (start + i) << MIGRATE_PFN_SHIFT;
	device_setup(src_pfns, npages);
	return 0;
}
EXPORT_SYMBOL(migrate_device_range);

/**
 * migrate_device_pfns() - migrate scattered device pfns to normal memory
 * @src_pfns: the device pfns; on return, what migrate_device_range() would have
 *	made of them
 * @npages: how many they are
 *
 * Like migrate_device_range(), for pfns that are not one after the other.
 *
 * Return: 0
 */
int migrate_device_pfns(unsigned long *src_pfns, unsigned long npages)
{
	unsigned long i;

	for (i = 0; i < npages; i++)
		src_pfns[i] <<= MIGRATE_PFN_SHIFT;
	device_setup(src_pfns, npages);
	return 0;
}
EXPORT_SYMBOL(migrate_device_pfns);

/*
 * Migrate a device coherent folio back to normal memory. The caller should have
 * a reference on folio, which is dropped. Returns 0 also if nobody maps the folio
 * any more, so that there was nothing to migrate: the caller looks again.
 */
int migrate_device_coherent_folio(struct folio *folio)
{
	struct migrate_tally unmap;
	unsigned long src, dst = 0;
	struct folio *newfolio;

	WARN_ON_ONCE(folio_test_large(folio));

	folio_lock(folio);
	src = device_src(folio);
	if (!src) {
		/* If nobody maps it any more, whoever wanted it looks again. */
		int ret = folio_mapped(folio) ? -EBUSY : 0;

		folio_unlock(folio);
		folio_put(folio);
		return ret;
	}
	unmap = migrate_tally_pfns(MIGRATE_STAGE_UNMAP, &src, 1);
	migrate_stage_unmap(&src, 1, NULL, &unmap);
	migrate_tally_report(&unmap);
	if (!src)
		return -EBUSY;

	newfolio = folio_alloc(GFP_USER | __GFP_NOWARN, 0);
	if (newfolio) {
		folio_lock(newfolio);
		dst = migrate_pfn(folio_pfn(newfolio));
	}
	migrate_device_pages(&src, &dst, 1);
	if (src & MIGRATE_PFN_MIGRATE)
		folio_copy(newfolio, folio);
	migrate_device_finalize(&src, &dst, 1);

	return src & MIGRATE_PFN_MIGRATE ? 0 : -EBUSY;
}

#include "tests/device-kunit.h"
