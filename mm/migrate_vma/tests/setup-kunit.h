/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KUnit tests of the arguments of migrate_vma_setup(). Included by setup.c.
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

/* If it is not, what is locked then must not be in anybody's way. */
static void test_setup_is_refused(struct kunit *test, struct test_range *range)
{
	int ret = migrate_vma_setup(&range->migrate);

	KUNIT_EXPECT_EQ(test, -EINVAL, ret);
	if (!ret)
		migrate_vma_finalize(&range->migrate);
}

/* What is not known is refused, and nothing has been done. */
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

/* Ordinary memory is no page of a device's fault. */
static void test_setup_refuses_fault_page(struct kunit *test)
{
	struct test_range *range = test_range_init(test);

	range->migrate.fault_page = test_page(range, 0);
	test_setup_is_refused(test, range);
	range->migrate.fault_page = NULL;
	test_range_exit(test, range);
}

/* The driver takes the mark from one page after setup: that one stays. */
static void test_setup_allows_second_thoughts(struct kunit *test)
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
	KUNIT_CASE(test_setup_allows_second_thoughts),
	{}
};

static struct kunit_suite setup_test_suite = {
	.name = "migrate_vma_setup",
	.test_cases = setup_test_cases,
};

kunit_test_suite(setup_test_suite);

#endif /* _MM_MIGRATE_VMA_TESTS_SETUP_H */

#endif /* CONFIG_MIGRATE_VMA_KUNIT_TEST */
