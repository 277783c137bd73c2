// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: the checks before the first stage, and the first two stages.
 */
#include <linux/export.h>
#include <linux/hugetlb.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include "internal.h"

/**
 * migrate_takes_vma() - can a vma migrate at all?
 * @vma: the vma, or NULL
 *
 * Return: false if migrate_vma_setup() would refuse it.
 */
bool migrate_takes_vma(struct vm_area_struct *vma)
{
	return vma && !is_vm_hugetlb_page(vma) && !vma_is_dax(vma) &&
	       !(vma->vm_flags & VM_SPECIAL);
}

#define SETUP_FLAGS \
	(MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_DEVICE_PRIVATE | \
	 MIGRATE_VMA_SELECT_DEVICE_COHERENT | MIGRATE_VMA_SELECT_COMPOUND | \
	 MIGRATE_VMA_SELECT_LARGE)

#ifdef CONFIG_DEVICE_PRIVATE
/*
 * A fault that this task takes has its folio locked. If migrate_to_ram() does not say so,
 * the folio looks locked by somebody else, nothing migrates, and the CPU takes the fault
 * again for ever.
 */
static bool setup_fits_fault(const struct migrate_vma *args)
{
	const struct vm_fault *vmf = current->device_private_fault;

	if (likely(!vmf) || args->fault_page || args->vma != vmf->vma)
		return true;
	return vmf->address < args->start || vmf->address >= args->end ||
	       !(args->flags & MIGRATE_VMA_SELECT_DEVICE_PRIVATE);
}
#else
static bool setup_fits_fault(const struct migrate_vma *args)
{
	return true;
}
#endif

/* The fault's page is what a driver got as vmf->page: private, and locked. */
static bool setup_fault_page_is_valid(const struct migrate_vma *args)
{
	if (!args->fault_page)
		return !WARN_ON_ONCE(!setup_fits_fault(args));
	if (!is_device_private_page(args->fault_page))
		return false;
	return !WARN_ON_ONCE(!folio_test_locked(page_folio(args->fault_page)));
}

static bool setup_args_are_valid(struct migrate_vma *args)
{
	if (!migrate_takes_vma(args->vma) || !args->src || !args->dst)
		return false;
	if (args->start >= args->end || args->start < args->vma->vm_start ||
	    args->end > args->vma->vm_end)
		return false;
	return !(args->flags & ~SETUP_FLAGS) && setup_fault_page_is_valid(args);
}

/**
 * migrate_stage_setup() - the first two stages
 * @args: the range
 * @collect: what is counted in the first
 * @unmap: what is counted in the second
 *
 * Context: mmap_lock is held. Sleeps.
 * Return: 0, or -EINVAL if @args do not make sense.
 */
int migrate_stage_setup(struct migrate_vma *args,
			struct migrate_tally *collect,
			struct migrate_tally *unmap)
{
	struct migrate_call call = {};

	args->start &= PAGE_MASK;
	args->end &= PAGE_MASK;
	if (!setup_args_are_valid(args))
		return -EINVAL;
	args->npages = (args->end - args->start) >> PAGE_SHIFT;

	*collect = migrate_tally_init(MIGRATE_STAGE_COLLECT, args);
	migrate_stage_collect(args, 0, NULL, collect);
	args->cpages = collect->units;

	*unmap = migrate_tally_init(MIGRATE_STAGE_UNMAP, args);
	if (!args->cpages)
		return 0;
	migrate_stage_unmap(args->src, args->npages, args->fault_page, &call,
			    unmap);
	args->cpages = unmap->units;
	return 0;
}

/**
 * migrate_vma_setup() - prepare to migrate a range of memory
 * @args: contains the vma, start, and pfns arrays for the migration
 *
 * Returns: 0 when 0 or more pages were collected without an error. cpages is then the
 * number of units (folios and holes) that can migrate, whatever their size. -EINVAL if
 * the arguments do not make sense, and then nothing has been done: among them flags that
 * are not known; and, with a warning, a migrate_to_ram() that does not pass on the page
 * of its fault, or a page that no fault has locked.
 *
 * A caller that sets MIGRATE_VMA_SELECT_LARGE gets a folio of any order as one unit,
 * if the range has all of it, and one page table or PMD maps all of it, page after
 * page. The first slot in src[] has MIGRATE_PFN_COMPOUND and stands for the folio,
 * whose order folio_order() tells; the other slots are 0. The caller puts a folio of
 * that order into the first slot of dst[], with MIGRATE_PFN_COMPOUND. If it has
 * none, it can put smaller folios, but not of order 1, into the slots where they
 * belong, none of them larger than the one before it, and migrate_vma_pages()
 * splits the unit: each of them has a slot in src[] then. What is larger than its
 * source is refused.
 *
 * With MIGRATE_VMA_SELECT_COMPOUND alone that is so for folios of the size that a
 * PMD maps, and for no others.
 *
 * With either flag, a hole of that size where a page fault could put a huge page is
 * one unit, too: it has MIGRATE_PFN_COMPOUND and no folio. Smaller holes have a slot
 * for each page, and a folio in dst[] may fill as many of them as it has pages, if
 * these slots are all holes, dst[] has nothing else for them, the address of the
 * first is a multiple of the folio's size, and a page fault might use that order there,
 * see migrate_hole_orders(). The other slots in src[] are 0 then.
 *
 * Without a flag, and at the edges of the range, large folios are split in the
 * setup, and so are those that are mapped in part or in several pieces. What cannot
 * be split, because somebody else has a reference to it, stays where it is, whole.
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
 * destination and source page are still locked, unless somebody else has
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
	struct migrate_tally collect, unmap;
	int ret = migrate_stage_setup(args, &collect, &unmap);

	if (ret)
		return ret;
	migrate_tally_report(&collect);
	migrate_tally_report(&unmap);
	return 0;
}
EXPORT_SYMBOL(migrate_vma_setup);

#include "tests/setup-kunit.h"
