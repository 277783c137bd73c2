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

	/*
	 * Device memory is not in the swap cache, so nothing but this uses the field.
	 * A driver's data belongs into zone_device_data.
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

/* What is to be looked at: the pfn without MIGRATE_PFN_VALID. */
static bool device_is_pending(unsigned long src)
{
	return src && !(src & MIGRATE_PFN_VALID);
}

static unsigned long device_pending(unsigned long pfn)
{
	return pfn << MIGRATE_PFN_SHIFT;
}

/**
 * struct device_collect - device folios to be locked
 * @src_pfns: the pfns, and then the units
 * @npages: how many slots that are
 * @tally: what is counted
 */
struct device_collect {
	unsigned long *src_pfns;
	unsigned long npages;
	struct migrate_tally *tally;
};

/* Are all pages of @folio in the array, one after the other, from slot @i on? */
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

/* Slot @i has a tail page. Is its head before it in the array, to be locked yet? */
static bool device_follows_head(struct device_collect *collect, unsigned long i,
				struct folio *folio)
{
	unsigned long pfn = collect->src_pfns[i] >> MIGRATE_PFN_SHIFT;
	unsigned long n = pfn - folio_pfn(folio);

	return n && n <= i &&
	       collect->src_pfns[i - n] == device_pending(folio_pfn(folio));
}

/*
 * The folio is locked, and slot @i has one of its pages. If the array has all of
 * them, the slot becomes that of the folio. If it has not, the folio is split, and
 * the slot is to be looked at again. Returns whether the lock is to stay.
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
			migrate_left(collect->tally, MIGRATE_LEFT_LARGE, 1);
		}
		return false;
	}
	memset(slot, 0, nr_pages * sizeof(*slot));
	*slot = device_src(folio);
	return *slot;
}

/*
 * Get a reference to the folio of @page. There is none if the page is free, and
 * then it may say that it is a tail of what is another folio now.
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
		/* Split, or freed and made ready again, just now. */
		folio_put(folio);
	}
	if (page_to_pfn(page) - folio_pfn(folio) < folio_nr_pages(folio))
		return folio;
	folio_put(folio);
	return NULL;
}

/*
 * Is it worth a reference to try the lock? A reference would make the migration fail that
 * has the lock; and a folio that is being split has no references for a moment, but is
 * not free. A racy check is fine here. Without a reference the folio may have become a
 * tail page of one that is readied just now, for which folio_test_locked() has a
 * VM_BUG_ON(): so this reads the flag alone.
 */
static bool device_seems_locked(const struct folio *folio)
{
	return test_bit(PG_locked, &folio->flags);
}

/* Returns false if slot @i is to be looked at again at once. */
static bool device_lock_slot(struct device_collect *collect, unsigned long i)
{
	struct page *page =
		pfn_to_page(collect->src_pfns[i] >> MIGRATE_PFN_SHIFT);
	struct folio *folio;

	if (device_seems_locked(page_folio(page)))
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

/* Try those that are pending. Returns how many still are. */
static unsigned long device_lock_pfns(struct device_collect *collect)
{
	unsigned long i, nr_again = 0;

	for (i = 0; i < collect->npages; i++) {
		if (i % SWAP_CLUSTER_MAX == 0)
			cond_resched();
		while (device_is_pending(collect->src_pfns[i]) &&
		       !device_lock_slot(collect, i))
			;
		nr_again += device_is_pending(collect->src_pfns[i]);
	}
	return nr_again;
}

/* What is still pending stays; with @leave it is the caller's to look at again. */
static void device_tally(struct device_collect *collect, bool leave)
{
	unsigned long *src_pfns = collect->src_pfns, i;

	for (i = 0; i < collect->npages; i++) {
		struct migrate_unit unit = {};

		if (device_is_pending(src_pfns[i])) {
			src_pfns[i] = leave ? MIGRATE_SRC_AGAIN : 0;
			if (!leave)
				migrate_left(collect->tally, MIGRATE_LEFT_LOCKED, 1);
		} else if (src_pfns[i]) {
			migrate_unit_at(&unit, src_pfns, NULL, i, collect->npages);
			migrate_passed(collect->tally, unit.order);
		}
	}
}

/**
 * migrate_stage_lock_pfns() - the first stage, by device pfns
 * @src_pfns: the pfns, shifted by MIGRATE_PFN_SHIFT; then the units
 * @npages: how many they are
 * @flags: MIGRATE_COLLECT_LEAVE_LOCKED, as for migrate_stage_collect()
 * @tally: what is counted
 *
 * What is locked by somebody is looked at once more, as in collect. A large folio is one
 * unit if all its pages are among the pfns, in their order; if not, it is split.
 *
 * Context: Sleeps, but not for a folio lock.
 * Return: how many slots are still locked.
 */
unsigned long migrate_stage_lock_pfns(unsigned long *src_pfns, unsigned long npages,
				      unsigned int flags, struct migrate_tally *tally)
{
	struct device_collect device = {
		.src_pfns = src_pfns,
		.npages = npages,
		.tally = tally,
	};
	bool leave = flags & MIGRATE_COLLECT_LEAVE_LOCKED;
	unsigned long first, locked;

	first = device_lock_pfns(&device);
	locked = first && !leave ? device_lock_pfns(&device) : first;
	tally->again = first - locked;
	device_tally(&device, leave);
	return locked;
}

/**
 * migrate_stage_device() - the first two stages, by device pfns
 * @src_pfns: the pfns, shifted by MIGRATE_PFN_SHIFT
 * @npages: how many they are
 * @collect: what is counted, of the locking
 * @unmap: what is counted, of the rest
 *
 * Context: Sleeps.
 */
void migrate_stage_device(unsigned long *src_pfns, unsigned long npages,
			  struct migrate_tally *collect,
			  struct migrate_tally *unmap)
{
	struct migrate_call call = {};

	migrate_stage_lock_pfns(src_pfns, npages, 0, collect);
	migrate_stage_unmap(src_pfns, npages, NULL, &call, unmap);
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
 * migrate_device_range() is similar in concept to migrate_vma_setup() except that
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
 * A driver that has large folios finds each of them whole, with
 * MIGRATE_PFN_COMPOUND in the first of its slots: see migrate_vma_setup(). At the
 * edges of the range they are split.
 *
 * Return: 0
 */
int migrate_device_range(unsigned long *src_pfns, unsigned long start,
			 unsigned long npages)
{
	unsigned long i;

	for (i = 0; i < npages; i++)
		src_pfns[i] = device_pending(start + i);
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

/* The folio to move @folio to; none that is smaller. */
static struct folio *device_coherent_alloc(struct folio *folio)
{
	gfp_t gfp = folio_test_large(folio) ? GFP_TRANSHUGE_LIGHT : GFP_USER;

	return folio_alloc(gfp | __GFP_NOWARN, folio_order(folio));
}

/* All stages for a unit that unmap has not restored. */
static int device_coherent_move(unsigned long src, struct folio *newfolio)
{
	struct folio *folio = page_folio(migrate_pfn_to_page(src));
	unsigned long dst = migrate_pfn(folio_pfn(newfolio));

	folio_lock(newfolio);
	migrate_device_pages(&src, &dst, 1);
	if (src & MIGRATE_PFN_MIGRATE)
		folio_copy(newfolio, folio);
	migrate_device_finalize(&src, &dst, 1);
	return src & MIGRATE_PFN_MIGRATE ? 0 : -EBUSY;
}

/*
 * Migrate a device coherent folio back to normal memory. The caller should have
 * a reference on folio, which is dropped. Returns 0 also if nobody maps the folio
 * any more, so that there was nothing to migrate: the caller looks again. Of a
 * large folio for which there is no memory it is the first page that migrates; the
 * caller will meet the others.
 */
int migrate_device_coherent_folio(struct folio *folio)
{
	struct folio *newfolio = device_coherent_alloc(folio);
	struct migrate_call call = {};
	struct migrate_tally unmap;
	unsigned long src = 0;
	int ret = -EBUSY;

	folio_lock(folio);
	if (!newfolio && folio_test_large(folio) && !split_folio(folio))
		newfolio = device_coherent_alloc(folio);
	if (newfolio && folio_order(newfolio) == folio_order(folio))
		src = device_src(folio);
	if (!src) {
		/*
		 * If nobody maps it any more, or it was split before it was
		 * locked, whoever wanted it looks again.
		 */
		if (!folio_mapped(folio) ||
		    (newfolio && folio_order(newfolio) != folio_order(folio)))
			ret = 0;
		folio_unlock(folio);
		folio_put(folio);
		goto out;
	}
	unmap = migrate_tally_pfns(MIGRATE_STAGE_UNMAP, &src, 1);
	migrate_stage_unmap(&src, 1, NULL, &call, &unmap);
	migrate_tally_report(&unmap);
	if (src)
		return device_coherent_move(src, newfolio);
out:
	if (newfolio)
		folio_put(newfolio);
	return ret;
}

#include "tests/device-kunit.h"
