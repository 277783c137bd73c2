// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, by device pfns: for a driver that needs its memory back and does not
 * know who maps it. It has neither a vma nor mmap_lock, so all mappings are found by the
 * rmap.
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

/**
 * struct device_collect - lock device folios by their pfns
 * @src_pfns: in: the pfns, shifted by MIGRATE_PFN_SHIFT; out: the units
 * @npages: the number of slots
 * @stats: the counts of the stage
 */
struct device_collect {
	unsigned long *src_pfns;
	unsigned long npages;
	struct migrate_stats *stats;
};

/* The slot of a pfn that is still to be locked: the pfn without MIGRATE_PFN_VALID. */
static unsigned long device_pending(unsigned long pfn)
{
	return pfn << MIGRATE_PFN_SHIFT;
}

static bool device_is_pending(unsigned long src)
{
	return src && !(src & MIGRATE_PFN_VALID);
}

/*
 * Make the src[] entry of a folio that the caller has locked and has a reference to.
 * Returns 0 if there is nothing to migrate.
 *
 * The entry holds a reference to the anon_vma, because nothing maps the folio until
 * finalize, and the anon_vma could go away with the processes: see rmap_walk_anon().
 * Without an anon_vma, the folio is not mapped. Then a fault has just migrated it and still
 * holds a reference; it must not be migrated again.
 */
static unsigned long device_src(struct folio *folio)
{
	struct anon_vma *anon_vma;

	/*
	 * Device memory is not in the swap cache, so the field is free. A driver's
	 * data belongs into zone_device_data.
	 */
	if (WARN_ON_ONCE(folio->private))
		return 0;
	anon_vma = folio_get_anon_vma(folio);
	if (!anon_vma)
		return 0;
	folio->private = anon_vma;
	return migrate_pfn(folio_pfn(folio)) | MIGRATE_PFN_MIGRATE |
	       MIGRATE_PFN_RMAP | MIGRATE_PFN_ANON_VMA |
	       (folio_test_large(folio) ? MIGRATE_PFN_COMPOUND : 0);
}

/* Does the array have all pages of @folio, consecutively, from slot @i on? */
static bool device_has_all(struct device_collect *collect, unsigned long i,
			   struct folio *folio)
{
	unsigned long nr_pages = folio_nr_pages(folio), n;

	if (nr_pages > collect->npages - i)
		return false;
	for (n = 0; n < nr_pages; n++)
		if (collect->src_pfns[i + n] !=
		    device_pending(folio_pfn(folio) + n))
			return false;
	return true;
}

/* Slot @i has a tail page of @folio. Is the head page pending, where it belongs before @i? */
static bool device_follows_head(struct device_collect *collect, unsigned long i,
				struct folio *folio)
{
	unsigned long pfn = collect->src_pfns[i] >> MIGRATE_PFN_SHIFT;
	unsigned long n = pfn - folio_pfn(folio);

	return n && n <= i &&
	       collect->src_pfns[i - n] == device_pending(folio_pfn(folio));
}

/*
 * Slot @i has a page of @folio, which is locked. If the array has the whole folio, make the
 * slot its unit. If not, split the folio, so that the slot can be tried again; but if the
 * head page is still pending, too, leave both to the next pass, which meets the head first.
 *
 * Return: false if the caller has to drop the lock.
 */
static bool device_take(struct device_collect *collect, unsigned long i,
			struct folio *folio)
{
	unsigned long nr_pages = folio_nr_pages(folio);
	unsigned long *slot = collect->src_pfns + i;

	if (folio_test_large(folio) && !device_has_all(collect, i, folio)) {
		if (!device_follows_head(collect, i, folio) &&
		    split_folio(folio)) {
			*slot = 0;
			migrate_stats_leave(collect->stats, MIGRATE_LEFT_LARGE, 1);
		}
		return false;
	}
	memset(slot, 0, nr_pages * sizeof(*slot));
	*slot = device_src(folio);
	return *slot;
}

/*
 * Get a reference to the folio of @page, or return NULL if the page is free. A free page
 * may still look like a tail page of a folio that is another one now.
 */
static struct folio *device_try_get(struct page *page)
{
	struct folio *folio;

	for (;;) {
		folio = page_folio(page);
		if (!folio_try_get(folio))
			return NULL;
		if (likely(page_folio(page) == folio))
			break;
		/* It was just split, or freed and reused. */
		folio_put(folio);
	}
	if (page_to_pfn(page) - folio_pfn(folio) < folio_nr_pages(folio))
		return folio;
	folio_put(folio);
	return NULL;
}

/* Try to lock the folio of slot @i. Returns false if the slot is to be tried again at once. */
static bool device_lock_slot(struct device_collect *collect, unsigned long i)
{
	struct page *page =
		pfn_to_page(collect->src_pfns[i] >> MIGRATE_PFN_SHIFT);
	struct folio *folio;

	/*
	 * Do not take a reference if the lock looks taken: it would fail the migration that
	 * holds the lock. And a folio that is just being split has no references, but is
	 * not free. A racy check is fine here. Without a reference, the page may just
	 * become a tail page, for which folio_test_locked() has a VM_BUG_ON(); so read the
	 * flag alone.
	 */
	if (test_bit(PG_locked, &page_folio(page)->flags))
		return true;
	folio = device_try_get(page);
	if (!folio) {
		collect->src_pfns[i] = 0;
		return true;
	}
	if (!folio_trylock(folio)) {
		folio_put(folio);
		return true;
	}
	if (device_take(collect, i, folio))
		return true;
	folio_unlock(folio);
	folio_put(folio);
	return !device_is_pending(collect->src_pfns[i]) ||
	       device_follows_head(collect, i, page_folio(page));
}

/* Try all pending slots once. Returns how many are still pending. */
static unsigned long device_lock_pfns(struct device_collect *collect)
{
	unsigned long i, nr_retry = 0;

	for (i = 0; i < collect->npages; i++) {
		if (i % SWAP_CLUSTER_MAX == 0)
			cond_resched();
		while (device_is_pending(collect->src_pfns[i]) &&
		       !device_lock_slot(collect, i))
			;
		nr_retry += device_is_pending(collect->src_pfns[i]);
	}
	return nr_retry;
}

/**
 * migrate_stage_lock_pfns() - the first stage, by device pfns
 * @src_pfns: the pfns, shifted by MIGRATE_PFN_SHIFT; on return, the units
 * @npages: the number of pfns
 * @flags: MIGRATE_COLLECT_LEAVE_LOCKED, as for migrate_stage_collect()
 * @stats: the counts of the stage
 *
 * Locked folios are retried once, as in collect. A large folio is one unit if the pfns have
 * all of its pages in their order; otherwise it is split.
 *
 * Context: Sleeps, but not for a folio lock.
 * Return: the number of slots that are still locked. With MIGRATE_COLLECT_LEAVE_LOCKED,
 * they have MIGRATE_SRC_RETRY.
 */
unsigned long migrate_stage_lock_pfns(unsigned long *src_pfns, unsigned long npages,
				      unsigned int flags, struct migrate_stats *stats)
{
	struct device_collect device = {
		.src_pfns = src_pfns,
		.npages = npages,
		.stats = stats,
	};
	bool leave_locked = flags & MIGRATE_COLLECT_LEAVE_LOCKED;
	unsigned long first, locked, i;

	first = device_lock_pfns(&device);
	locked = first && !leave_locked ? device_lock_pfns(&device) : first;
	stats->retried = first - locked;
	for (i = 0; i < npages; i++) {
		struct migrate_unit unit = {};

		if (!src_pfns[i])
			continue;
		if (!device_is_pending(src_pfns[i])) {
			migrate_unit_at(&unit, src_pfns, NULL, i, npages);
			migrate_stats_pass(stats, unit.order);
		} else if (leave_locked) {
			src_pfns[i] = MIGRATE_SRC_RETRY;
		} else {
			src_pfns[i] = 0;
			migrate_stats_leave(stats, MIGRATE_LEFT_LOCKED, 1);
		}
	}
	return locked;
}

/* A folio to move @folio to, of the same order. */
static struct folio *device_coherent_alloc(struct folio *folio)
{
	gfp_t gfp = folio_test_large(folio) ? GFP_TRANSHUGE_LIGHT : GFP_USER;

	return folio_alloc(gfp | __GFP_NOWARN, folio_order(folio));
}

/*
 * Migrate a device coherent folio back to normal memory. The caller should have a reference
 * on folio, which is dropped. If no large folio can be allocated, only the first page
 * migrates, and the caller will meet the others.
 *
 * Return: 0 if it was migrated, or if it is not mapped any more, so that the caller has to
 * look again; -EBUSY otherwise.
 */
int migrate_device_coherent_folio(struct folio *folio)
{
	struct folio *newfolio = device_coherent_alloc(folio);
	struct migrate_ctx ctx = {};
	struct migrate_stats unmap;
	unsigned long src = 0, dst;
	int ret = -EBUSY;

	folio_lock(folio);
	if (!newfolio && folio_test_large(folio) && !split_folio(folio))
		newfolio = device_coherent_alloc(folio);
	if (newfolio && folio_order(newfolio) == folio_order(folio))
		src = device_src(folio);
	if (!src) {
		/* The caller looks again if it was unmapped, or split before it was locked. */
		if (!folio_mapped(folio) ||
		    (newfolio && folio_order(newfolio) != folio_order(folio)))
			ret = 0;
		folio_unlock(folio);
		folio_put(folio);
		goto out;
	}
	unmap = migrate_stats_init_pfns(MIGRATE_STAGE_UNMAP, &src, 1);
	migrate_stage_unmap(&src, 1, NULL, &ctx, &unmap);
	migrate_stats_report(&unmap);
	/* The unmap stage has restored the folio if src is 0. */
	if (src) {
		dst = migrate_pfn(folio_pfn(newfolio));
		folio_lock(newfolio);
		migrate_device_pages(&src, &dst, 1);
		if (src & MIGRATE_PFN_MIGRATE)
			folio_copy(newfolio, folio);
		migrate_device_finalize(&src, &dst, 1);
		return src & MIGRATE_PFN_MIGRATE ? 0 : -EBUSY;
	}
out:
	if (newfolio)
		folio_put(newfolio);
	return ret;
}

#include "tests/device-kunit.h"
