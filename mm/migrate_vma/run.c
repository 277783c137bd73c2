// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration, the collect stage: PTEs of large folios and of files.
 *
 * The PTEs of a large folio are replaced run by run. A run is a number of PTEs that differ
 * only by consecutive pfns, so that one migration entry tells what all of them were.
 */
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include "../internal.h"
#include "collect.h"

/*
 * The number of PTEs from the run's first one on, at most @max_nr, that map consecutive
 * pages of its folio, whatever their other bits are. The PTL is held, which keeps a mapped
 * folio from being split.
 */
static unsigned int run_mapped(const struct migrate_run *run, pte_t *ptep,
			       unsigned int max_nr)
{
	unsigned long pfn = page_to_pfn(run->page);
	unsigned int nr;

	max_nr = min_t(unsigned long, max_nr, folio_nr_pages(run->folio) -
		       folio_page_idx(run->folio, run->page));
	for (nr = 1; nr < max_nr; nr++) {
		pte_t pte = ptep_get(ptep + nr);
		swp_entry_t entry;

		if (pte_present(pte)) {
			if (pte_pfn(pte) != pfn + nr)
				break;
			continue;
		}
		if (pte_none(pte))
			break;
		entry = pte_to_swp_entry(pte);
		if (!is_device_private_entry(entry) ||
		    swp_offset_pfn(entry) != pfn + nr)
			break;
	}
	return nr;
}

/**
 * migrate_run_length() - the number of PTEs in a run
 * @run: the run; its folio is locked
 * @ptep: its first PTE
 * @max_nr: the maximum; all of them are in this page table
 *
 * folio_pte_batch() ignores the write and young bits and does not know AnonExclusive. A
 * migration entry that took over the write bit of its neighbour would break copy-on-write,
 * so in a run, everything but the pfn must be equal.
 *
 * Context: The PTL is held.
 * Return: the number of PTEs, at least 1.
 */
unsigned int migrate_run_length(struct migrate_run *run, pte_t *ptep,
				unsigned int max_nr)
{
	pte_t expected = run->pte;
	unsigned int nr, i;

	max_nr = min_t(unsigned long, max_nr, folio_nr_pages(run->folio) -
		       folio_page_idx(run->folio, run->page));
	if (pte_present(expected)) {
		for (nr = 1; nr < max_nr; nr++) {
			expected = pte_advance_pfn(expected, 1);
			if (!pte_same(ptep_get(ptep + nr), expected))
				break;
		}
	} else {
		nr = migrate_swp_run_length(ptep, expected, max_nr);
	}
	if (unlikely(!folio_test_anon(run->folio)))
		return nr;
	for (i = 1; i < nr; i++)
		if (migrate_page_exclusive(run->page + i) != run->exclusive)
			break;
	return i;
}

/*
 * Restore the PTEs that migrate_run_unmap() has cleared. One by one: the TLB still holds
 * the old translations, which set_ptes() could turn into a contiguous mapping (arm64).
 */
noinline void migrate_run_restore(struct migrate_run *run, struct vm_area_struct *vma,
				  unsigned long addr, pte_t *ptep, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		set_pte_at(vma->vm_mm, addr + i * PAGE_SIZE, ptep + i,
			   pte_advance_pfn(run->pte, i));
}

/*
 * Leave the folio that the run's first PTE maps, or a PTE that maps none. For a large
 * folio, this settles all of its PTEs here: if its holder unlocked it between two of them,
 * the rest would look like a part of a folio.
 *
 * Return: the number of PTEs that are done.
 */
noinline unsigned int
collect_leave_run(struct migrate_collect *collect, struct migrate_run *run,
		  unsigned long *slot, pte_t *ptep, unsigned int max_nr,
		  enum migrate_left reason)
{
	unsigned int nr = 1, i;

	if (run->folio && folio_test_large(run->folio))
		nr = run_mapped(run, ptep, max_nr);
	for (i = 0; i < nr; i++)
		collect_leave(collect, slot + i, reason);
	return nr;
}

/*
 * Replace the PTEs of a locked large folio by migration entries, run by run, until all are
 * replaced or a run has a pinned page. @run is the first run, @nr its length. Clears @write
 * if a run was not writable. Drops all references of the mappings but one.
 *
 * Return: the number of PTEs that are replaced.
 */
static unsigned int collect_unmap_large(struct migrate_collect *collect,
					struct migrate_run run, unsigned int nr,
					unsigned long addr, pte_t *ptep,
					bool *write)
{
	struct vm_area_struct *vma = collect->migrate->vma;
	struct folio *folio = run.folio;
	unsigned int nr_pages = folio_nr_pages(folio), done = 0;

	while (migrate_run_unmap(&run, vma, addr + done * PAGE_SIZE,
				 ptep + done, nr)) {
		*write &= run.write;
		done += nr;
		if (done == nr_pages)
			break;
		run.pte = ptep_get(ptep + done);
		run.page = folio_page(folio, done);
		run.exclusive = folio_test_anon(folio) && migrate_page_exclusive(run.page);
		run.write = pte_present(run.pte) ? pte_write(run.pte) :
			is_writable_device_private_entry(pte_to_swp_entry(run.pte));
		nr = migrate_run_length(&run, ptep + done, nr_pages - done);
	}
	if (!done)
		return 0;
	/*
	 * All runs at once: in between, the folio would look partially mapped and would be
	 * queued for deferred split.
	 *
	 * Is this the only mapping? The reference count tells, because whoever removes a
	 * mapping drops its reference last. The mapcount does not, because it changes
	 * first.
	 */
	if (unlikely(!folio_test_anon(folio)))
		folio_remove_rmap_ptes_batch(folio, &folio->page, done, vma,
					     &collect->rmap_file);
	else if (done == nr_pages && folio_ref_count(folio) == done)
		folio_remove_whole_anon_rmap_batch(folio, vma, &collect->rmap);
	else
		folio_remove_rmap_ptes_batch(folio, &folio->page, done, vma,
					     &collect->rmap);
	if (done > 1)
		folio_ref_sub(folio, done - 1);
	return done;
}

/*
 * Collect a locked folio of a file that has other mappings, too. It keeps its PTEs until
 * the unmap stage, which walks the rmap. The PTEs of a large folio may differ in their
 * write bits, so its slot does not say MIGRATE_PFN_WRITE.
 */
void collect_shared_file(struct migrate_collect *collect, struct migrate_run *run,
			 unsigned long *slot)
{
	unsigned long entry = migrate_pfn(folio_pfn(run->folio)) | MIGRATE_PFN_RMAP;

	folio_get(run->folio);
	if (!folio_test_large(run->folio) && run->write)
		entry |= MIGRATE_PFN_WRITE;
	collect_fill_slot(collect, slot, entry, folio_order(run->folio));
}

/*
 * Collect a locked folio of a file, mapped from @ptep on. A file's folio is not split: that
 * would unmap it everywhere, and may wait for I/O. So it stays unless it migrates whole.
 *
 * Like anonymous memory, a folio without other mappings needs no rmap walk. While it is
 * locked, no mapping can be added: faults lock it, also those that map the surrounding
 * pages, and so does userfaultfd.
 *
 * Return: the number of PTEs that are done; in @unmapped, whether they were replaced.
 */
noinline unsigned int
collect_file(struct migrate_collect *collect, struct migrate_run *run,
	     unsigned long *slot, unsigned long addr, pte_t *ptep,
	     unsigned int max_nr, bool *unmapped)
{
	struct vm_area_struct *vma = collect->migrate->vma;
	unsigned int nr_pages = folio_nr_pages(run->folio), nr, i;
	unsigned int order = folio_order(run->folio);
	bool write = run->write;

	nr = order ? run_mapped(run, ptep, max_nr) : 1;
	if (nr < nr_pages || (order && !collect_takes(collect->migrate, order))) {
		folio_unlock(run->folio);
		for (i = 0; i < nr; i++)
			collect_leave(collect, slot + i, MIGRATE_LEFT_LARGE);
		return nr;
	}
	*unmapped = folio_mapcount(run->folio) == nr;
	if (!*unmapped) {
		collect_shared_file(collect, run, slot);
		return nr;
	}
	run->exclusive = false;
	if (order) {
		collect_unmap_large(collect, *run, migrate_run_length(run, ptep, nr),
				    addr, ptep, &write);
	} else {
		migrate_run_unmap(run, vma, addr, ptep, 1);
		folio_remove_rmap_ptes_batch(run->folio, run->page, 1, vma,
					     &collect->rmap_file);
	}
	collect_fill_slot(collect, slot, migrate_pfn(folio_pfn(run->folio)) |
			  (write ? MIGRATE_PFN_WRITE : 0), order);
	return nr;
}

/*
 * Collect a locked large anonymous folio, mapped from @ptep on. If the caller does not take
 * its order, or not all of it is mapped here contiguously (it may cross the end of the
 * range or of the page table), the walk stops to split it.
 *
 * Return: the number of PTEs that are done; 0 if the walk has to stop.
 */
noinline unsigned int
collect_large(struct migrate_collect *collect, struct migrate_run *run,
	      unsigned long *slot, unsigned long addr, pte_t *ptep,
	      unsigned int max_nr)
{
	unsigned int nr_pages = folio_nr_pages(run->folio), nr = 0, done = 0;
	unsigned int order = folio_order(run->folio);
	unsigned long entry = migrate_pfn(folio_pfn(run->folio));
	bool whole = false, write = true;

	if (collect_takes(collect->migrate, order)) {
		run->exclusive = migrate_page_exclusive(run->page);
		nr = migrate_run_length(run, ptep, max_nr);
		whole = nr == nr_pages || run_mapped(run, ptep, max_nr) == nr_pages;
	}
	if (!whole) {
		if (run->folio != collect->unsplittable && !collect->no_split) {
			collect_stop_to_split(collect, run);
			return 0;
		}
		migrate_folio_unlock(run->folio, collect->fault_page);
		return collect_leave_run(collect, run, slot, ptep, max_nr, MIGRATE_LEFT_LARGE);
	}
	/*
	 * Check pins before any PTE is touched. If GUP-fast pins a page just now, after
	 * some of the PTEs are replaced, then the folio is still mapped; the unmap stage
	 * finds the pin and restores all of it.
	 */
	if (!folio_maybe_dma_pinned(run->folio))
		done = collect_unmap_large(collect, *run, nr, addr, ptep, &write);
	if (!done) {
		migrate_folio_unlock(run->folio, collect->fault_page);
		return collect_leave_run(collect, run, slot, ptep, max_nr, MIGRATE_LEFT_PINNED);
	}
	if (write)
		entry |= MIGRATE_PFN_WRITE;
	if (unlikely(done < nr_pages))
		entry |= MIGRATE_PFN_RMAP;
	collect_fill_slot(collect, slot, entry, order);
	return nr_pages;
}
