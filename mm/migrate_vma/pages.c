// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the third stage: move the identity of the old folios to the new ones,
 * and fill holes. The driver has copied the contents before.
 *
 * A unit that has moved here has migrated; this cannot be undone.
 */
#include <linux/buffer_head.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/swap.h>
#include "../internal.h"
#include "internal.h"

/*
 * A reason only inside this file: the folio is under writeback. pages_leave() either defers
 * the unit or counts it as MIGRATE_LEFT_BUSY.
 */
#define PAGES_WRITEBACK	((enum migrate_left)NR_MIGRATE_LEFT)

/*
 * Would the vma lose arm64's memory tags? Private device memory zeroes them, and coherent
 * device memory may have no room for them.
 */
static bool pages_loses_tags(const struct migrate_vma *migrate,
			     struct folio *newfolio)
{
	return migrate && (migrate->vma->vm_flags & VM_MTE) &&
	       folio_is_zone_device(newfolio);
}

/* Do pages of a file have arm64's memory tags, from any mapping? DMA engines do not copy them. */
static bool pages_have_tags(struct folio *folio)
{
#ifdef CONFIG_ARCH_USES_PG_ARCH_2
	unsigned long i;

	for (i = 0; i < folio_nr_pages(folio); i++)
		if (test_bit(PG_arch_2, &folio_page(folio, i)->flags))
			return true;
#endif
	return false;
}

/*
 * Is it enough for this file system to replace the folio in the page cache? If the folio
 * has private data, or the file system keeps more state of its folios, it has to migrate
 * the folio itself, which copies once more, by the CPU. So it does if there are tags to
 * copy.
 */
static bool pages_file_is_plain(const struct address_space *mapping, struct folio *folio)
{
	const struct address_space_operations *aops = mapping->a_ops;

	if (folio_test_private(folio) || pages_have_tags(folio))
		return false;
	return aops->migrate_folio == migrate_folio ||
	       aops->migrate_folio == filemap_migrate_folio ||
	       (IS_ENABLED(CONFIG_BUFFER_HEAD) &&
		aops->migrate_folio == buffer_migrate_folio);
}

/*
 * Move the folio of a file, as migrate_folio() does, but without the copy, which the driver
 * has made. Since collect, the folio is locked and has no mapping but migration entries,
 * so truncation, writeback, write() and faults wait. folio_migrate_mapping() refuses it if
 * another task has a reference, by which it could still be read or written.
 */
static noinline enum migrate_left pages_move_file(struct folio *newfolio,
						  struct folio *folio,
						  struct mapping_batch *batch)
{
	struct address_space *mapping;
	int ret;

	/* Device memory cannot be in the page cache: read() and write() would not find it. */
	if (folio_is_zone_device(newfolio))
		return MIGRATE_LEFT_KIND;
	/* Some mappings are for devices that cannot address all memory. */
	if (folio_order(newfolio) != folio_order(folio) ||
	    folio_zonenum(newfolio) > gfp_zone(mapping_gfp_mask(folio->mapping)))
		return MIGRATE_LEFT_DESTINATION;
	if (folio_test_writeback(folio))
		return PAGES_WRITEBACK;
	migrate_make_rmappable(newfolio);

	mapping = folio_mapping(folio);
	if (!mapping)
		return MIGRATE_LEFT_BUSY;
	if (!pages_file_is_plain(mapping, folio)) {
		ret = mapping->a_ops->migrate_folio(mapping, newfolio, folio, MIGRATE_ASYNC);
	} else {
		ret = folio_migrate_mapping_batch(mapping, newfolio, folio, batch);
		if (!ret)
			folio_migrate_flags(newfolio, folio);
	}
	if (ret)
		return MIGRATE_LEFT_BUSY;
	/* A folio with a mapping would be freed as if it were in the page cache. */
	folio->mapping = NULL;
	flush_dcache_folio(newfolio);
	return MIGRATE_LEFT_NONE;
}

/* Move the identity of @unit to @newfolio. */
static enum migrate_left pages_move(const struct migrate_vma *migrate,
				    struct migrate_unit *unit,
				    struct folio *newfolio,
				    struct page *fault_page,
				    struct mapping_batch *batch)
{
	struct folio *folio = migrate_unit_folio(unit);
	struct address_space *swap_cache;
	void *private;

	if (unlikely(!folio_test_anon(folio)))
		return pages_move_file(newfolio, folio, batch);
	if (folio_order(newfolio) != folio_order(folio))
		return MIGRATE_LEFT_DESTINATION;
	/*
	 * Swap-out drops the folio lock while it writes a folio of the swap
	 * cache, and a fault can map it again meanwhile.
	 */
	if (folio_test_writeback(folio))
		return PAGES_WRITEBACK;
	if (!folio_is_zone_device(newfolio)) {
		migrate_make_rmappable(newfolio);
	} else {
		if (!folio_is_device_private(newfolio) &&
		    !folio_is_device_coherent(newfolio))
			return MIGRATE_LEFT_DESTINATION;
		if (pages_loses_tags(migrate, newfolio))
			return MIGRATE_LEFT_KIND;
		/* Device memory cannot be in the swap cache. */
		if (folio_test_swapcache(folio) && !folio_free_swap(folio))
			return MIGRATE_LEFT_DESTINATION;
	}
	/* The flag first: folio_mapping() is slow, and NULL for most folios. */
	swap_cache = folio_test_swapcache(folio) ? folio_mapping(folio) : NULL;
	private = folio->private;
	if (folio_migrate_mapping(swap_cache, newfolio, folio,
				  migrate_is_fault_folio(folio, fault_page)))
		return MIGRATE_LEFT_BUSY;
	folio_migrate_flags(newfolio, folio);
	/* folio_migrate_flags() has cleared it. */
	if (*unit->src & MIGRATE_PFN_ANON_VMA)
		folio->private = private;
	return MIGRATE_LEFT_NONE;
}

/**
 * struct pages_holes - state of filling the holes of a range
 * @migrate: the range; NULL without a vma, and so without holes
 * @range: what the notifiers got, from the first hole that was filled on
 * @notified: @range was started, so the stage has to end it
 */
struct pages_holes {
	struct migrate_vma *migrate;
	struct mmu_notifier_range range;
	bool notified;
};

/* Fill the hole of @order at slot @index. A larger @folio fills several slots of order 0. */
static noinline enum migrate_left
pages_fill(struct pages_holes *holes, unsigned long index,
	   unsigned int order, struct folio *folio)
{
	struct migrate_vma *migrate = holes->migrate;
	unsigned long addr;

	if (WARN_ON_ONCE(!migrate))
		return MIGRATE_LEFT_HOLE;
	if (folio_order(folio) != order &&
	    (order || !migrate_hole_is_large(migrate, index, folio_order(folio))))
		return MIGRATE_LEFT_DESTINATION;
	if (pages_loses_tags(migrate, folio))
		return MIGRATE_LEFT_KIND;

	addr = migrate->start + index * PAGE_SIZE;
	if (!holes->notified) {
		holes->notified = true;
		mmu_notifier_range_init_owner(&holes->range, MMU_NOTIFY_MIGRATE,
					      0, migrate->vma->vm_mm, addr,
					      migrate->end,
					      migrate->pgmap_owner);
		mmu_notifier_invalidate_range_start(&holes->range);
	}
	if (!migrate_hole_fill(migrate->vma, addr, folio))
		return MIGRATE_LEFT_HOLE;
	/* The slots are those of one unit now. */
	if (folio_order(folio) != order)
		memset(migrate->src + index + 1, 0,
		       (folio_nr_pages(folio) - 1) * sizeof(*migrate->src));
	return MIGRATE_LEFT_NONE;
}

/*
 * Split a large unit if the driver gave smaller folios for it. Returns false if it did not,
 * or if the unit cannot be split; then pages_move() refuses it by the order. Gets a copy of
 * the unit, so that the caller's can stay in registers.
 */
static bool pages_split(struct migrate_unit unit, unsigned long *dst,
			struct migrate_vma *migrate)
{
	return migrate_unit_must_split(&unit, dst) &&
	       migrate_unit_split(&unit, dst, migrate);
}

/* Leave a unit where it is; if the caller wants that, have it retry writeback, which is short. */
static void pages_leave(const struct migrate_unit *unit, unsigned long *dst,
			enum migrate_left reason, struct migrate_stats *stats)
{
	*unit->src &= ~MIGRATE_PFN_MIGRATE;
	if (reason == PAGES_WRITEBACK && stats->defer_writeback) {
		dst[unit->index] |= MIGRATE_DST_RETRY;
		stats->nr_deferred++;
		return;
	}
	if (reason == PAGES_WRITEBACK)
		reason = MIGRATE_LEFT_BUSY;
	migrate_stats_leave(stats, reason, migrate_unit_pages(unit));
}

/**
 * migrate_stage_pages() - the third stage: move identities, and fill holes
 * @src: the array of sources, from the previous stages
 * @dst: the driver's new pages, locked; 0 for sources that are to stay
 * @npages: the number of slots in both
 * @migrate: the range, to fill its holes; or NULL
 * @stats: the counts of the stage
 *
 * Clears MIGRATE_PFN_MIGRATE of units that do not migrate.
 *
 * Context: The folios of @src and @dst are locked; mmap_lock is held if @migrate
 * is not NULL. Sleeps.
 */
void migrate_stage_pages(unsigned long *src, unsigned long *dst,
			 unsigned long npages, struct migrate_vma *migrate,
			 struct migrate_stats *stats)
{
	struct page *fault_page = migrate ? migrate->fault_page : NULL;
	struct pages_holes holes = { .migrate = migrate };
	struct mapping_batch batch = {};
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, src, dst, npages)) {
		enum migrate_left reason;
		struct folio *newfolio;

		/* Skip units that do not migrate, and pages that the driver gave for none. */
		if (!(*unit.src & MIGRATE_PFN_MIGRATE))
			continue;
		if (unlikely(unit.order) && pages_split(unit, dst, migrate)) {
			/* Look at this slot once more, for the first part. */
			unit.next = unit.index;
			continue;
		}
		newfolio = migrate_unit_newfolio(&unit);
		if (!newfolio)
			reason = unit.page ? MIGRATE_LEFT_NO_DESTINATION :
					     MIGRATE_LEFT_HOLE;
		else if (unit.page)
			reason = pages_move(migrate, &unit, newfolio, fault_page, &batch);
		else
			reason = pages_fill(&holes, unit.index, unit.order, newfolio);

		if (reason != MIGRATE_LEFT_NONE)
			pages_leave(&unit, dst, reason, stats);
		else if (unit.page)
			migrate_stats_pass(stats, unit.order);
		else
			migrate_stats_pass_hole(stats, folio_order(newfolio));
		if (unit.index % SWAP_CLUSTER_MAX == 0)
			cond_resched();
	}
	mapping_batch_flush(&batch);
	if (holes.notified)
		mmu_notifier_invalidate_range_end(&holes.range);
}

#include "tests/pages-kunit.h"
