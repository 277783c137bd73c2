/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KUnit tests of the arguments of migrate_vma_setup(). Included by api.c.
 */
#ifdef CONFIG_MIGRATE_VMA_KUNIT_TEST

#ifndef _MM_MIGRATE_VMA_TESTS_SETUP_H
#define _MM_MIGRATE_VMA_TESTS_SETUP_H

#include <linux/highmem.h>
#include "range-kunit.h"

static void test_setup_takes_all_flags(struct kunit *test)
{
	struct test_range *range = test_range_init(test);

	range->migrate.flags = SETUP_FLAGS;
	KUNIT_EXPECT_EQ(test, 0, migrate_vma_setup(&range->migrate));
	KUNIT_EXPECT_EQ(test, RANGE_PAGES, range->migrate.cpages);
	migrate_vma_pages(&range->migrate);
	migrate_vma_finalize(&range->migrate);
	test_range_exit(test, range);
}

/* If setup is not refused by mistake, unlock what it has collected. */
static void test_setup_is_refused(struct kunit *test, struct test_range *range)
{
	int ret = migrate_vma_setup(&range->migrate);

	KUNIT_EXPECT_EQ(test, -EINVAL, ret);
	if (!ret)
		migrate_vma_finalize(&range->migrate);
}

/* Unknown flags are refused, and nothing is collected. */
static void test_setup_refuses_other_flags(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct page *page = test_page(range, 0);
	unsigned int bit;

	for (bit = 0; bit < BITS_PER_LONG; bit++) {
		if (SETUP_FLAGS & BIT(bit))
			continue;
		range->migrate.flags = MIGRATE_VMA_SELECT_SYSTEM | BIT(bit);
		test_setup_is_refused(test, range);
	}
	KUNIT_EXPECT_PTR_EQ(test, test_page(range, 0), page);
	test_range_exit(test, range);
}

/* The page of a fault must be device memory. */
static void test_setup_refuses_fault_page(struct kunit *test)
{
	struct test_range *range = test_range_init(test);

	range->migrate.fault_page = test_page(range, 0);
	test_setup_is_refused(test, range);
	range->migrate.fault_page = NULL;
	test_range_exit(test, range);
}

/* The driver clears MIGRATE_PFN_MIGRATE of a page after setup: the page stays. */
static void test_setup_allows_clear_migrate(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct page *pages[RANGE_PAGES];
	unsigned int i;

	for (i = 0; i < RANGE_PAGES; i++)
		pages[i] = test_page(range, i);
	KUNIT_ASSERT_EQ(test, 0, migrate_vma_setup(&range->migrate));
	for (i = 0; i < RANGE_PAGES; i++) {
		struct folio *folio = folio_alloc(GFP_HIGHUSER_MOVABLE, 0);

		KUNIT_ASSERT_NOT_NULL(test, folio);
		folio_lock(folio);
		copy_highpage(&folio->page, pages[i]);
		range->dst[i] = migrate_pfn(folio_pfn(folio));
	}
	range->src[3] &= ~MIGRATE_PFN_MIGRATE;
	migrate_vma_pages(&range->migrate);
	migrate_vma_finalize(&range->migrate);
	for (i = 0; i < RANGE_PAGES; i++)
		KUNIT_EXPECT_EQ(test, i == 3, test_page(range, i) == pages[i]);
	test_range_exit(test, range);
}

static struct kunit_case setup_test_cases[] = {
	KUNIT_CASE(test_setup_takes_all_flags),
	KUNIT_CASE(test_setup_refuses_other_flags),
	KUNIT_CASE(test_setup_refuses_fault_page),
	KUNIT_CASE(test_setup_allows_clear_migrate),
	{}
};

static struct kunit_suite setup_test_suite = {
	.name = "migrate_vma_setup",
	.test_cases = setup_test_cases,
};

kunit_test_suite(setup_test_suite);

#endif /* _MM_MIGRATE_VMA_TESTS_SETUP_H */

#endif /* CONFIG_MIGRATE_VMA_KUNIT_TEST */
