/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KUnit tests of the pages stage on arrays, without page tables. The tests in finalize-kunit.h
 * run all stages. Included by pages.c.
 */
#ifdef CONFIG_MIGRATE_VMA_KUNIT_TEST

#ifndef _MM_MIGRATE_VMA_TESTS_PAGES_H
#define _MM_MIGRATE_VMA_TESTS_PAGES_H

#include <kunit/test.h>

static struct folio *test_folio(struct kunit *test, unsigned int order)
{
	struct folio *folio = folio_alloc(GFP_KERNEL, order);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	folio_lock(folio);
	return folio;
}

/* A folio that the checks of the stage take as anonymous. */
static struct folio *test_anon_folio(struct kunit *test)
{
	struct folio *folio = test_folio(test, 0);

	folio->mapping = (void *)PAGE_MAPPING_ANON;
	return folio;
}

static void test_folio_put(struct folio *folio)
{
	folio->mapping = NULL;
	folio_unlock(folio);
	folio_put(folio);
}

/* Pages without a destination, or with one that is too large, do not migrate. */
static void test_pages_refuses(struct kunit *test)
{
	struct folio *folio = test_anon_folio(test), *large = test_folio(test, 2);
	unsigned long mpfn = migrate_pfn(folio_pfn(folio)) | MIGRATE_PFN_MIGRATE;
	unsigned long src[] = { mpfn, mpfn, MIGRATE_PFN_MIGRATE, 0 };
	unsigned long dst[] = { 0, migrate_pfn(folio_pfn(large)), 0, 0 };
	struct migrate_stats stats = {};

	migrate_stage_pages(src, dst, ARRAY_SIZE(src), NULL, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, 0);
	KUNIT_EXPECT_EQ(test, stats.left[MIGRATE_LEFT_NO_DESTINATION], 1);
	KUNIT_EXPECT_EQ(test, stats.left[MIGRATE_LEFT_DESTINATION], 1);
	KUNIT_EXPECT_EQ(test, stats.left[MIGRATE_LEFT_HOLE], 1);
	KUNIT_EXPECT_EQ(test, src[0], mpfn & ~MIGRATE_PFN_MIGRATE);
	KUNIT_EXPECT_EQ(test, src[1], mpfn & ~MIGRATE_PFN_MIGRATE);
	KUNIT_EXPECT_EQ(test, src[2], 0);
	test_folio_put(large);
	test_folio_put(folio);
}

/* A page that is being written to swap must not migrate, nor crash the kernel. */
static void test_pages_busy(struct kunit *test)
{
	struct folio *folio = test_anon_folio(test), *to = test_folio(test, 0);
	unsigned long src = migrate_pfn(folio_pfn(folio)) | MIGRATE_PFN_MIGRATE;
	unsigned long dst = migrate_pfn(folio_pfn(to));
	struct migrate_stats stats = {};

	set_bit(PG_writeback, &folio->flags);
	migrate_stage_pages(&src, &dst, 1, NULL, &stats);
	clear_bit(PG_writeback, &folio->flags);
	KUNIT_EXPECT_EQ(test, stats.units, 0);
	KUNIT_EXPECT_EQ(test, stats.left[MIGRATE_LEFT_BUSY], 1);
	KUNIT_EXPECT_FALSE(test, src & MIGRATE_PFN_MIGRATE);
	test_folio_put(to);
	test_folio_put(folio);
}

static struct kunit_case pages_test_cases[] = {
	KUNIT_CASE(test_pages_refuses),
	KUNIT_CASE(test_pages_busy),
	{}
};

static struct kunit_suite pages_test_suite = {
	.name = "migrate_vma_pages",
	.test_cases = pages_test_cases,
};

kunit_test_suite(pages_test_suite);

#endif /* _MM_MIGRATE_VMA_TESTS_PAGES_H */

#endif /* CONFIG_MIGRATE_VMA_KUNIT_TEST */
