// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: the exported functions.
 *
 * Originally written by Jérôme Glisse.
 */
#include <linux/export.h>
#include <linux/hugetlb.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include "internal.h"

#define SETUP_FLAGS \
	(MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_DEVICE_PRIVATE | \
	 MIGRATE_VMA_SELECT_DEVICE_COHERENT | MIGRATE_VMA_SELECT_COMPOUND | \
	 MIGRATE_VMA_SELECT_LARGE)

/**
 * migrate_takes_vma() - can memory of a vma migrate at all?
 * @vma: the vma, or NULL
 *
 * Context: mmap_lock is held.
 * Return: false if migrate_vma_setup() would refuse the vma.
 */
bool migrate_takes_vma(struct vm_area_struct *vma)
{
	return vma && !is_vm_hugetlb_page(vma) && !vma_is_dax(vma) &&
	       !(vma->vm_flags & VM_SPECIAL);
}

/*
 * The fault on device-private memory that this task handles holds the folio lock. If
 * migrate_to_ram() does not pass its page as fault_page, then collect finds the folio locked,
 * nothing migrates, and the CPU takes the same fault forever.
 */
static bool setup_fits_fault(const struct migrate_vma *args)
{
#ifdef CONFIG_DEVICE_PRIVATE
	const struct vm_fault *vmf = current->device_private_fault;

	if (likely(!vmf) || args->fault_page || args->vma != vmf->vma)
		return true;
	return vmf->address < args->start || vmf->address >= args->end ||
	       !(args->flags & MIGRATE_VMA_SELECT_DEVICE_PRIVATE);
#else
	return true;
#endif
}

static bool setup_args_are_valid(struct migrate_vma *args)
{
	if (!migrate_takes_vma(args->vma) || !args->src || !args->dst)
		return false;
	if (args->start >= args->end || args->start < args->vma->vm_start ||
	    args->end > args->vma->vm_end || (args->flags & ~SETUP_FLAGS))
		return false;
	if (!args->fault_page)
		return !WARN_ON_ONCE(!setup_fits_fault(args));
	/* The page must be the vmf->page that migrate_to_ram() got: private, and locked. */
	return is_device_private_page(args->fault_page) &&
	       !WARN_ON_ONCE(!folio_test_locked(page_folio(args->fault_page)));
}

/**
 * migrate_vma_setup() - prepare to migrate a range of memory
 * @args: contains the vma, start, and pfns arrays for the migration
 *
 * Returns: 0 when 0 or more pages were collected without an error; cpages is then the
 * number of units (folios and holes) that can migrate, whatever their size. -EINVAL if the
 * arguments are invalid, and then nothing was done. Unknown flags are invalid. So are, with a
 * warning, a migrate_to_ram() that does not pass the page of its fault, and a fault page that
 * is not locked.
 *
 * With MIGRATE_VMA_SELECT_LARGE, the caller gets a folio of any order as one unit, if the
 * whole folio lies in the range, and one page table or PMD maps all of it contiguously.
 * The first slot in src[] has MIGRATE_PFN_COMPOUND and stands for the folio; the other slots
 * are 0. folio_order() tells the order. The caller puts a folio of the same order into the
 * first slot of dst[], with MIGRATE_PFN_COMPOUND. If it cannot allocate one, it can fill the
 * slots of dst[] with smaller folios, each in the slot of its first page, not of order 1, and
 * none larger than the one before it. Then migrate_vma_pages() splits the unit, and each of
 * the parts has a slot in src[]. A destination that is larger than its source is refused.
 *
 * With MIGRATE_VMA_SELECT_COMPOUND alone, this is so for PMD-sized folios only.
 *
 * With either flag, a PMD-sized hole is one unit, too, if a page fault could map a huge page
 * there: its slot has MIGRATE_PFN_COMPOUND but no folio. A smaller hole has a slot for
 * each page. A large folio in dst[] may fill several of these slots: all of them must be holes,
 * dst[] must be empty for the others, the address of the first must be aligned to the
 * size of the folio, and a page fault could use this order there, see migrate_hole_orders().
 * Afterwards the other slots in src[] are 0.
 *
 * Setup splits large folios if neither flag is set, if they cross an edge of the range, and
 * if they are mapped only partly or not contiguously. A folio that cannot be split, because
 * it has other references, stays where it is.
 *
 * Prepare to migrate a range of memory virtual address range by collecting all
 * the pages backing each virtual address in the range, saving them inside the
 * src array.  Then lock those pages and unmap them. Once the pages are locked
 * and unmapped, check whether each page is pinned or not.  Pages that aren't
 * pinned have the MIGRATE_PFN_MIGRATE flag set (by this function) in the
 * corresponding src array entry.  Then restores any pages that are pinned, by
 * remapping and unlocking those pages.
 *
 * The caller should then allocate destination memory and copy source memory to
 * it for all those entries (ie with MIGRATE_PFN_VALID and MIGRATE_PFN_MIGRATE
 * flag set).  Once these are allocated and copied, the caller must update each
 * corresponding entry in the dst array with the pfn value of the destination
 * page and with MIGRATE_PFN_VALID. Destination pages must be locked via
 * lock_page().
 *
 * Note that the caller does not have to migrate all the pages that are marked
 * with MIGRATE_PFN_MIGRATE flag in src array unless this is a migration from
 * device memory to system memory.  If the caller cannot migrate a device page
 * back to system memory, then it must return VM_FAULT_SIGBUS, which has severe
 * consequences for the userspace process, so it must be avoided if at all
 * possible.
 *
 * For empty entries inside CPU page table (pte_none() or pmd_none() is true) we
 * do set MIGRATE_PFN_MIGRATE flag inside the corresponding source array thus
 * allowing the caller to allocate device memory for those unbacked virtual
 * addresses.  For this the caller simply has to allocate device memory and
 * properly set the destination entry like for regular migration.  Note that
 * this can still fail, and thus inside the device driver you must check if the
 * migration was successful for those entries after calling migrate_vma_pages(),
 * just like for regular migration.
 *
 * After that, the callers must call migrate_vma_pages() to go over each entry
 * in the src array that has the MIGRATE_PFN_VALID and MIGRATE_PFN_MIGRATE flag
 * set. If the corresponding entry in dst array has MIGRATE_PFN_VALID flag set,
 * then migrate_vma_pages() to migrate struct page information from the source
 * struct page to the destination struct page.  If it fails to migrate the
 * struct page information, then it clears the MIGRATE_PFN_MIGRATE flag in the
 * src array.
 *
 * At this point all successfully migrated pages have an entry in the src
 * array with MIGRATE_PFN_VALID and MIGRATE_PFN_MIGRATE flag set and the dst
 * array entry with MIGRATE_PFN_VALID flag set.
 *
 * Once migrate_vma_pages() returns the caller may inspect which pages were
 * successfully migrated, and which were not.  Successfully migrated pages will
 * have the MIGRATE_PFN_MIGRATE flag set for their src array entry.
 *
 * The device page table may be updated after migrate_vma_pages(), while both
 * destination and source page are still locked, unless another task has
 * invalidated the range since before migrate_vma_setup(): MADV_DONTNEED takes
 * the mmap_lock for reading only.
 *
 * Once the caller is done cleaning up things and updating its page table (if it
 * chose to do so, this is not an obligation) it finally calls
 * migrate_vma_finalize() to update the CPU page table to point to new pages
 * for successfully migrated pages or otherwise restore the CPU page table to
 * point to the original source pages.
 */
int migrate_vma_setup(struct migrate_vma *args)
{
	struct migrate_stats collect, unmap;
	struct migrate_ctx ctx = {};

	args->start &= PAGE_MASK;
	args->end &= PAGE_MASK;
	if (!setup_args_are_valid(args))
		return -EINVAL;
	args->npages = (args->end - args->start) >> PAGE_SHIFT;

	collect = migrate_stats_init(MIGRATE_STAGE_COLLECT, args);
	unmap = migrate_stats_init(MIGRATE_STAGE_UNMAP, args);
	migrate_stage_collect(args, 0, NULL, &collect);
	args->cpages = collect.units;
	if (args->cpages) {
		migrate_stage_unmap(args->src, args->npages, args->fault_page,
				    &ctx, &unmap);
		args->cpages = unmap.units;
	}
	migrate_stats_report(&collect);
	migrate_stats_report(&unmap);
	return 0;
}
EXPORT_SYMBOL(migrate_vma_setup);

/**
 * migrate_vma_pages() - migrate meta-data from src page to dst page
 * @migrate: migrate struct containing all migration information
 *
 * This migrates struct page meta-data from source struct page to destination
 * struct page. This effectively finishes the migration from source page to the
 * destination page.
 *
 * Context: mmap_lock has been held, for reading at least, since before
 * migrate_vma_setup().
 */
void migrate_vma_pages(struct migrate_vma *migrate)
{
	struct migrate_stats stats = migrate_stats_init(MIGRATE_STAGE_PAGES, migrate);

	mmap_assert_locked(migrate->vma->vm_mm);
	migrate_stage_pages(migrate->src, migrate->dst, migrate->npages, migrate,
			    &stats);
	migrate_stats_report(&stats);
}
EXPORT_SYMBOL(migrate_vma_pages);

/**
 * migrate_vma_finalize() - restore CPU page table entry
 * @migrate: migrate struct containing all migration information
 *
 * This replaces the special migration pte entry with either a mapping to the
 * new page if migration was successful for that page, or to the original page
 * otherwise.
 *
 * This also unlocks the pages and puts them back on the lru, or drops the extra
 * refcount, for device pages.
 *
 * Context: mmap_lock has been held, for reading at least, since before
 * migrate_vma_setup(). This walks the page tables, which mmap_lock keeps from being freed: a
 * driver that drops mmap_lock in between gets a warning here and in migrate_vma_pages().
 * Earlier kernels walked the rmap instead, and tolerated such a driver as long as the
 * anon_vma lived.
 */
void migrate_vma_finalize(struct migrate_vma *migrate)
{
	struct migrate_stats stats = migrate_stats_init(MIGRATE_STAGE_FINALIZE, migrate);
	struct migrate_ctx ctx = {};

	mmap_assert_locked(migrate->vma->vm_mm);
	migrate_stage_finalize(migrate->src, migrate->dst, migrate->npages,
			       migrate, &ctx, &stats);
	migrate_stats_report(&stats);
}
EXPORT_SYMBOL(migrate_vma_finalize);

/* Lock and unmap the folios of @src_pfns, which has pfns shifted by MIGRATE_PFN_SHIFT. */
static void device_setup(unsigned long *src_pfns, unsigned long npages)
{
	struct migrate_stats collect = migrate_stats_init_pfns(MIGRATE_STAGE_COLLECT,
							       src_pfns, npages);
	struct migrate_stats unmap = migrate_stats_init_pfns(MIGRATE_STAGE_UNMAP,
							     src_pfns, npages);
	struct migrate_ctx ctx = {};

	migrate_stage_lock_pfns(src_pfns, npages, 0, &collect);
	migrate_stage_unmap(src_pfns, npages, NULL, &ctx, &unmap);
	migrate_stats_report(&collect);
	migrate_stats_report(&unmap);
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
 * Each large folio is one unit, with MIGRATE_PFN_COMPOUND in its first slot: see
 * migrate_vma_setup(). Folios that cross an edge of the range are split.
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
 * @src_pfns: the device pfns; on return, the same entries that migrate_device_range() makes
 * @npages: the number of pfns
 *
 * Like migrate_device_range(), for pfns that are not consecutive.
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

/**
 * migrate_device_pages() - migrate meta-data from src page to dst page
 * @src_pfns: src_pfns returned from migrate_device_range()
 * @dst_pfns: array of pfns allocated by the driver to migrate memory to
 * @npages: number of pages in the range
 *
 * Equivalent to migrate_vma_pages(). This is called to migrate struct page
 * meta-data from source struct page to destination.
 */
void migrate_device_pages(unsigned long *src_pfns, unsigned long *dst_pfns,
			  unsigned long npages)
{
	struct migrate_stats stats = migrate_stats_init_pfns(MIGRATE_STAGE_PAGES,
							     src_pfns, npages);

	migrate_stage_pages(src_pfns, dst_pfns, npages, NULL, &stats);
	migrate_stats_report(&stats);
}
EXPORT_SYMBOL(migrate_device_pages);

/**
 * migrate_device_finalize() - complete page migration
 * @src_pfns: src_pfns returned from migrate_device_range()
 * @dst_pfns: array of pfns allocated by the driver to migrate memory to
 * @npages: number of pages in the range
 *
 * Completes migration of the page by removing special migration entries.
 * Drivers must ensure copying of page data is complete and visible to the CPU
 * before calling this.
 */
void migrate_device_finalize(unsigned long *src_pfns, unsigned long *dst_pfns,
			     unsigned long npages)
{
	struct migrate_stats stats = migrate_stats_init_pfns(MIGRATE_STAGE_FINALIZE,
							     src_pfns, npages);
	struct migrate_ctx ctx = {};

	migrate_stage_finalize(src_pfns, dst_pfns, npages, NULL, &ctx, &stats);
	migrate_stats_report(&stats);
}
EXPORT_SYMBOL(migrate_device_finalize);

#include "tests/setup-kunit.h"
