/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KUnit tests of the finalize stage: migrate a range to other pages of system memory, through
 * all stages. Included by finalize.c.
 */
#ifdef CONFIG_MIGRATE_VMA_KUNIT_TEST

#ifndef _MM_MIGRATE_VMA_TESTS_FINALIZE_H
#define _MM_MIGRATE_VMA_TESTS_FINALIZE_H

#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include "range-kunit.h"

/* Run the first two stages; then allocate and copy a page for each source but @except. */
static void test_begin(struct kunit *test, struct test_range *range, int except)
{
	struct migrate_stats stats = {};
	unsigned int i;

	migrate_stage_collect(&range->migrate, 0, NULL, &stats);
	migrate_stage_unmap(range->src, RANGE_PAGES, NULL, &range->ctx, &stats);
	for (i = 0; i < RANGE_PAGES; i++) {
		struct page *page = migrate_pfn_to_page(range->src[i]);
		struct folio *folio;

		if (!page || i == except)
			continue;
		folio = folio_alloc(GFP_HIGHUSER_MOVABLE, 0);
		KUNIT_ASSERT_NOT_NULL(test, folio);
		folio_lock(folio);
		copy_highpage(&folio->page, page);
		range->dst[i] = migrate_pfn(folio_pfn(folio));
	}
}

static void test_end(struct test_range *range, struct migrate_stats *pages)
{
	struct migrate_stats stats = {};

	migrate_stage_finalize(range->src, range->dst, RANGE_PAGES,
			       &range->migrate, &range->ctx, &stats);
	KUNIT_EXPECT_EQ(kunit_get_current_test(), test_isolated(range), 0);
	pages->units -= stats.units;
}

static void test_pages(struct test_range *range, struct migrate_stats *pages)
{
	migrate_stage_pages(range->src, range->dst, RANGE_PAGES,
			    &range->migrate, pages);
}

static void test_trip(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct migrate_stats stats = {};
	unsigned int i;

	test_begin(test, range, -1);
	test_pages(range, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, RANGE_PAGES);
	test_end(range, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, 0);
	lru_add_drain_all();
	for (i = 0; i < RANGE_PAGES; i++) {
		struct page *page = test_page(range, i);

		KUNIT_ASSERT_NOT_NULL(test, page);
		KUNIT_EXPECT_PTR_EQ(test, page,
				    migrate_pfn_to_page(range->dst[i]));
		KUNIT_EXPECT_EQ(test, page_count(page), 1);
		KUNIT_EXPECT_FALSE(test, PageLocked(page));
		KUNIT_EXPECT_TRUE(test, PageLRU(page));
		KUNIT_EXPECT_TRUE(test, PageAnonExclusive(page));
		KUNIT_EXPECT_TRUE(test, pte_write(test_pte(range, i)));
		KUNIT_EXPECT_TRUE(test, pte_dirty(test_pte(range, i)));
	}
	test_range_exit(test, range);
}

/* A page without a destination is mapped as before; the others migrate. */
static void test_trip_of_some(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct page *page = test_page(range, 3);
	struct migrate_stats stats = {};

	test_begin(test, range, 3);
	test_pages(range, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, RANGE_PAGES - 1);
	test_end(range, &stats);
	KUNIT_EXPECT_PTR_EQ(test, test_page(range, 3), page);
	KUNIT_EXPECT_EQ(test, page_count(page), 1);
	KUNIT_EXPECT_FALSE(test, PageLocked(page));
	test_range_exit(test, range);
}

/* The driver calls finalize right after setup. */
static void test_trip_that_is_called_off(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct page *pages[RANGE_PAGES];
	struct migrate_stats stats = {};
	unsigned int i;

	for (i = 0; i < RANGE_PAGES; i++)
		pages[i] = test_page(range, i);
	migrate_stage_collect(&range->migrate, 0, NULL, &stats);
	migrate_stage_unmap(range->src, RANGE_PAGES, NULL, &range->ctx, &stats);
	test_end(range, &stats);
	lru_add_drain_all();
	for (i = 0; i < RANGE_PAGES; i++) {
		KUNIT_EXPECT_PTR_EQ(test, test_page(range, i), pages[i]);
		KUNIT_EXPECT_EQ(test, page_count(pages[i]), 1);
		KUNIT_EXPECT_TRUE(test, PageLRU(pages[i]));
		KUNIT_EXPECT_FALSE(test, PageLocked(pages[i]));
	}
	test_range_exit(test, range);
}

/*
 * MADV_DONTNEED between setup and finalize: the new page must not be mapped, and finalize drops
 * the reference.
 */
static void test_zap_before_finalize(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct migrate_stats stats = {};
	unsigned long word = ~0UL;
	struct page *newpage;

	test_begin(test, range, -1);
	test_pages(range, &stats);
	newpage = migrate_pfn_to_page(range->dst[4]);
	get_page(newpage);
	zap_page_range_single(range->migrate.vma,
			      range->migrate.start + 4 * PAGE_SIZE, PAGE_SIZE,
			      NULL);
	test_end(range, &stats);
	KUNIT_EXPECT_TRUE(test, pte_none(test_pte(range, 4)));
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, page_count(newpage), 1);
	KUNIT_EXPECT_FALSE(test, page_mapped(newpage));
	put_page(newpage);

	mmap_read_unlock(current->mm);
	KUNIT_EXPECT_EQ(test, 0, get_user(word, test_word(range, 4)));
	KUNIT_EXPECT_EQ(test, word, 0);
	KUNIT_EXPECT_EQ(test, 0, put_user(test_tag(4), test_word(range, 4)));
	mmap_read_lock(current->mm);
	test_range_exit(test, range);
}

/* userfaultfd write-protects before finalize: the PTE must still be write-protected. */
static void test_write_protect_before_finalize(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	unsigned long addr = range->migrate.start + 6 * PAGE_SIZE;
	struct migrate_stats stats = {};
	swp_entry_t entry;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep, pte;

	test_begin(test, range, -1);
	test_pages(range, &stats);
	ptep = pte_offset_map_lock(current->mm, mm_find_pmd(current->mm, addr),
				   addr, &ptl);
	KUNIT_ASSERT_NOT_NULL(test, ptep);
	entry = pte_to_swp_entry(ptep_get(ptep));
	/* As change_pte_range() does. */
	entry = make_readable_exclusive_migration_entry(swp_offset(entry));
	pte = swp_entry_to_pte(entry);
	if (IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		pte = pte_swp_mkuffd_wp(pte);
	set_pte_at(current->mm, addr, ptep, pte);
	pte_unmap_unlock(ptep, ptl);
	test_end(range, &stats);

	pte = test_pte(range, 6);
	KUNIT_EXPECT_TRUE(test, pte_present(pte));
	KUNIT_EXPECT_FALSE(test, pte_write(pte));
	if (IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		KUNIT_EXPECT_TRUE(test, pte_uffd_wp(pte));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(pte_page(pte)));
	KUNIT_EXPECT_TRUE(test, pte_write(test_pte(range, 5)));
	test_range_exit(test, range);
}

/* The page that the driver gave for a hole is mapped there. */
static void test_trip_fills_hole(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct migrate_stats stats = {};
	struct folio *folio;

	zap_page_range_single(range->migrate.vma,
			      range->migrate.start + PAGE_SIZE, PAGE_SIZE, NULL);
	test_begin(test, range, -1);
	KUNIT_EXPECT_EQ(test, range->src[1], MIGRATE_PFN_MIGRATE);
	folio = folio_alloc(GFP_HIGHUSER_MOVABLE | __GFP_ZERO, 0);
	KUNIT_ASSERT_NOT_NULL(test, folio);
	folio_lock(folio);
	range->dst[1] = migrate_pfn(folio_pfn(folio));
	test_pages(range, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, RANGE_PAGES);
	KUNIT_EXPECT_EQ(test, stats.holes, 1);
	test_end(range, &stats);
	KUNIT_EXPECT_PTR_EQ(test, test_page(range, 1), &folio->page);
	mmap_read_unlock(current->mm);
	KUNIT_EXPECT_EQ(test, 0, put_user(test_tag(1), test_word(range, 1)));
	mmap_read_lock(current->mm);
	KUNIT_EXPECT_PTR_EQ(test, test_page(range, 1), &folio->page);
	test_range_exit(test, range);
}

/* A page that the driver gave for a source that was restored is put. */
static void test_trip_frees_what_nothing_needs(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct page *page = test_page(range, 2), *newpage;
	struct migrate_stats stats = {};
	struct migrate_unit unit;

	test_begin(test, range, -1);
	newpage = migrate_pfn_to_page(range->dst[2]);
	get_page(newpage);
	KUNIT_ASSERT_TRUE(test, migrate_unit_at(&unit, range->src, NULL, 2, 3));
	migrate_unit_restore(&unit, NULL, &range->ctx);
	KUNIT_EXPECT_EQ(test, range->src[2], 0);
	test_pages(range, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, RANGE_PAGES - 1);
	test_end(range, &stats);
	KUNIT_EXPECT_PTR_EQ(test, test_page(range, 2), page);
	KUNIT_EXPECT_FALSE(test, PageLocked(newpage));
	KUNIT_EXPECT_EQ(test, page_count(newpage), 1);
	put_page(newpage);
	test_range_exit(test, range);
}

/* A folio of four pages in the state after the unmap stage, with one reference. */
static struct folio *test_unmapped_folio(struct kunit *test, struct test_range *range)
{
	struct folio *folio = folio_alloc(GFP_HIGHUSER_MOVABLE, 2);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	KUNIT_ASSERT_EQ(test, 0, mem_cgroup_charge(folio, current->mm, GFP_KERNEL));
	folio->mapping = (void *)range->migrate.vma->anon_vma + PAGE_MAPPING_ANON;
	folio->index = linear_page_index(range->migrate.vma, range->migrate.start);
	folio_lock(folio);
	return folio;
}

/*
 * The driver gave small pages for a large folio, but an unexpected reference keeps it from being
 * split: it stays as it is, and the driver's pages are put.
 */
static void test_folio_that_cannot_be_split(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct folio *folio = test_unmapped_folio(test, range);
	struct migrate_stats stats = {};
	struct page *pages[4];
	unsigned int i;

	range->src[0] = migrate_pfn(folio_pfn(folio)) | MIGRATE_PFN_MIGRATE |
			MIGRATE_PFN_COMPOUND;
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		pages[i] = alloc_page(GFP_HIGHUSER_MOVABLE);
		KUNIT_ASSERT_NOT_NULL(test, pages[i]);
		lock_page(pages[i]);
		get_page(pages[i]);
		range->dst[i] = migrate_pfn(page_to_pfn(pages[i]));
	}
	folio_get(folio);
	migrate_stage_pages(range->src, range->dst, ARRAY_SIZE(pages), NULL, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, 0);
	KUNIT_EXPECT_EQ(test, folio_order(folio), 2);
	migrate_count_isolated(&range->ctx, folio_nid(folio), false, ARRAY_SIZE(pages));
	migrate_stage_finalize(range->src, range->dst, ARRAY_SIZE(pages), NULL,
			       &range->ctx, &stats);
	KUNIT_EXPECT_EQ(test, test_isolated(range), 0);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, stats.units, 0);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	KUNIT_EXPECT_TRUE(test, folio_test_lru(folio));
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		KUNIT_EXPECT_FALSE(test, PageLocked(pages[i]));
		KUNIT_EXPECT_EQ(test, page_count(pages[i]), 1);
		put_page(pages[i]);
	}
	/* The folio was not accounted as anonymous, so do not free it as such. */
	folio->mapping = NULL;
	folio_put(folio);
	test_range_exit(test, range);
}

/* Map the first page of a file, and write to it. Returns its address. */
static unsigned long test_map_file(struct kunit *test, struct file *file)
{
	unsigned long addr;

	addr = kunit_vm_mmap(test, file, 0, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	KUNIT_ASSERT_FALSE(test, !addr || IS_ERR_VALUE(addr));
	KUNIT_ASSERT_EQ(test, 0, put_user(test_tag(0), (unsigned long __user *)addr));
	lru_add_drain_all();
	return addr;
}

/* A page of a file migrates to ordinary memory by migrate_vma_setup(), as ever. */
static void test_trip_of_a_file(struct kunit *test)
{
	struct file *file = shmem_kernel_file_setup("kunit", PAGE_SIZE, 0);
	struct test_range range = {};
	struct page *old, *new = alloc_page(GFP_HIGHUSER_MOVABLE);
	struct folio *cached;
	unsigned long word = 0;

	KUNIT_ASSERT_NOT_NULL(test, new);
	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	range.migrate.start = test_map_file(test, file);
	range.migrate.end = range.migrate.start + PAGE_SIZE;
	range.migrate.src = range.src;
	range.migrate.dst = range.dst;
	range.migrate.flags = MIGRATE_VMA_SELECT_SYSTEM;
	mmap_read_lock(current->mm);
	range.migrate.vma = vma_lookup(current->mm, range.migrate.start);
	KUNIT_EXPECT_EQ(test, 0, migrate_vma_setup(&range.migrate));
	KUNIT_EXPECT_EQ(test, 1, range.migrate.cpages);
	old = migrate_pfn_to_page(range.src[0]);
	if (old) {
		lock_page(new);
		copy_highpage(new, old);
		range.dst[0] = migrate_pfn(page_to_pfn(new));
	} else {
		__free_page(new);
	}
	migrate_vma_pages(&range.migrate);
	KUNIT_EXPECT_TRUE(test, range.src[0] & MIGRATE_PFN_MIGRATE);
	/* With a mapping, it would be freed as if it were in the page cache. */
	KUNIT_EXPECT_TRUE(test, old && !old->mapping);
	migrate_vma_finalize(&range.migrate);
	KUNIT_EXPECT_PTR_EQ(test, new, test_page(&range, 0));
	mmap_read_unlock(current->mm);
	KUNIT_EXPECT_EQ(test, 0, get_user(word, test_word(&range, 0)));
	KUNIT_EXPECT_EQ(test, word, test_tag(0));
	cached = filemap_get_folio(file->f_mapping, 0);
	KUNIT_EXPECT_PTR_EQ(test, page_folio(new), cached);
	if (!IS_ERR(cached))
		folio_put(cached);
	fput(file);
}

static struct kunit_case finalize_test_cases[] = {
	KUNIT_CASE(test_trip),
	KUNIT_CASE(test_trip_of_some),
	KUNIT_CASE(test_trip_that_is_called_off),
	KUNIT_CASE(test_zap_before_finalize),
	KUNIT_CASE(test_write_protect_before_finalize),
	KUNIT_CASE(test_trip_fills_hole),
	KUNIT_CASE(test_trip_frees_what_nothing_needs),
	KUNIT_CASE(test_folio_that_cannot_be_split),
	KUNIT_CASE(test_trip_of_a_file),
	{}
};

static struct kunit_suite finalize_test_suite = {
	.name = "migrate_vma_finalize",
	.test_cases = finalize_test_cases,
};

kunit_test_suite(finalize_test_suite);

#endif /* _MM_MIGRATE_VMA_TESTS_FINALIZE_H */

#endif /* CONFIG_MIGRATE_VMA_KUNIT_TEST */
