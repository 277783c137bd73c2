/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KUnit tests of the stages by device pfns. The folios are system memory, which makes no
 * difference to these tests. Included by device.c.
 */
#ifdef CONFIG_MIGRATE_VMA_KUNIT_TEST

#ifndef _MM_MIGRATE_VMA_TESTS_DEVICE_H
#define _MM_MIGRATE_VMA_TESTS_DEVICE_H

#include "range-kunit.h"

/* The first two stages, by device pfns. */
static void test_device_pfns(unsigned long *src, unsigned long npages,
			     struct migrate_stats *collect, struct migrate_stats *unmap)
{
	struct migrate_ctx ctx = {};

	migrate_stage_lock_pfns(src, npages, 0, collect);
	migrate_stage_unmap(src, npages, NULL, &ctx, unmap);
}

static void test_device(struct test_range *range, struct migrate_stats *collect,
			struct migrate_stats *unmap)
{
	unsigned int i;

	for (i = 0; i < RANGE_PAGES; i++)
		range->src[i] = page_to_pfn(test_page(range, i)) <<
				MIGRATE_PFN_SHIFT;
	test_device_pfns(range->src, RANGE_PAGES, collect, unmap);
}

static void test_restore(struct test_range *range)
{
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, range->src, NULL, RANGE_PAGES))
		migrate_unit_restore(&unit, NULL, &range->ctx);
}

/* The rmap walk unmaps each folio, and the unit holds a reference to the anon_vma. */
static void test_device_unmaps(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct migrate_stats collect = {}, unmap = {};
	struct migrate_unit unit = {};

	test_device(range, &collect, &unmap);
	KUNIT_EXPECT_EQ(test, collect.units, RANGE_PAGES);
	KUNIT_EXPECT_EQ(test, unmap.units, RANGE_PAGES);
	while (migrate_unit_next(&unit, range->src, NULL, RANGE_PAGES)) {
		KUNIT_EXPECT_TRUE(test, PageLocked(unit.page));
		KUNIT_EXPECT_FALSE(test, page_mapped(unit.page));
		KUNIT_EXPECT_PTR_EQ(test, (void *)page_private(unit.page),
				    (void *)range->migrate.vma->anon_vma);
	}
	test_restore(range);
	test_range_exit(test, range);
}

/*
 * A folio without mappings is not collected: a fault may have just migrated it, and still hold
 * a reference to the old folio.
 */
static void test_device_leaves_unmapped(struct kunit *test)
{
	struct folio *folio = folio_alloc(GFP_KERNEL, 0);
	struct migrate_stats collect = {}, unmap = {};
	unsigned long src;

	KUNIT_ASSERT_NOT_NULL(test, folio);
	src = folio_pfn(folio) << MIGRATE_PFN_SHIFT;
	test_device_pfns(&src, 1, &collect, &unmap);
	KUNIT_EXPECT_EQ(test, src, 0);
	KUNIT_EXPECT_EQ(test, collect.units, 0);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	folio_put(folio);
}

static void test_device_gives_up(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct migrate_stats collect = {}, unmap = {};
	struct page *page = test_page(range, 1);

	KUNIT_ASSERT_NOT_NULL(test, page);
	lock_page(page);
	test_device(range, &collect, &unmap);
	KUNIT_EXPECT_EQ(test, collect.units, RANGE_PAGES - 1);
	KUNIT_EXPECT_EQ(test, collect.left[MIGRATE_LEFT_LOCKED], 1);
	KUNIT_EXPECT_EQ(test, range->src[1], 0);
	KUNIT_EXPECT_EQ(test, page_count(page), 1);
	unlock_page(page);
	test_restore(range);
	test_range_exit(test, range);
}

static struct kunit_case device_test_cases[] = {
	KUNIT_CASE(test_device_unmaps),
	KUNIT_CASE(test_device_leaves_unmapped),
	KUNIT_CASE(test_device_gives_up),
	{}
};

static struct kunit_suite device_test_suite = {
	.name = "migrate_vma_device",
	.test_cases = device_test_cases,
};

kunit_test_suite(device_test_suite);

#endif /* _MM_MIGRATE_VMA_TESTS_DEVICE_H */

#endif /* CONFIG_MIGRATE_VMA_KUNIT_TEST */
