/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KUnit tests of the unmap stage, behind the collect stage. Included by unmap.c.
 */
#ifdef CONFIG_MIGRATE_VMA_KUNIT_TEST

#ifndef _MM_MIGRATE_VMA_TESTS_UNMAP_H
#define _MM_MIGRATE_VMA_TESTS_UNMAP_H

#include <linux/workqueue.h>
#include "range-kunit.h"

static void test_unmap_range(struct test_range *range,
			     struct migrate_tally *tally)
{
	struct migrate_tally collect = {};

	migrate_stage_collect(&range->migrate, 0, NULL, &collect);
	migrate_stage_unmap(range->src, RANGE_PAGES, NULL, &range->call, tally);
}

static void test_restore(struct test_range *range)
{
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, range->src, NULL, RANGE_PAGES))
		migrate_unit_restore(&unit, NULL, &range->call);
}

static void test_unmap(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct migrate_tally tally = {};
	struct migrate_unit unit = {};

	test_unmap_range(range, &tally);
	KUNIT_EXPECT_EQ(test, tally.units, RANGE_PAGES);
	KUNIT_EXPECT_EQ(test, test_isolated(range), RANGE_PAGES);
	while (migrate_unit_next(&unit, range->src, NULL, RANGE_PAGES)) {
		KUNIT_EXPECT_FALSE(test, PageLRU(unit.page));
		KUNIT_EXPECT_EQ(test, page_count(unit.page), 1);
		KUNIT_EXPECT_FALSE(test, *unit.src & MIGRATE_PFN_RMAP);
	}
	test_restore(range);
	KUNIT_EXPECT_EQ(test, test_isolated(range), 0);
	test_range_exit(test, range);
}

/* A page that somebody refers to goes back, mapped as before. */
static void test_unmap_finds_references(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct page *page = test_page(range, 5);
	struct migrate_tally tally = {};

	KUNIT_ASSERT_NOT_NULL(test, page);
	get_page(page);
	test_unmap_range(range, &tally);
	KUNIT_EXPECT_EQ(test, tally.units, RANGE_PAGES - 1);
	KUNIT_EXPECT_EQ(test, tally.left[MIGRATE_LEFT_PINNED], 1);
	KUNIT_EXPECT_EQ(test, test_isolated(range), RANGE_PAGES - 1);
	KUNIT_EXPECT_EQ(test, range->src[5], 0);
	KUNIT_EXPECT_PTR_EQ(test, test_page(range, 5), page);
	KUNIT_EXPECT_FALSE(test, PageLocked(page));
	test_restore(range);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, page_count(page), 2);
	KUNIT_EXPECT_TRUE(test, PageLRU(page));
	put_page(page);
	test_range_exit(test, range);
}

/* So does one that is not on the LRU. */
static void test_unmap_finds_isolated(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct page *page = test_page(range, 0);
	struct migrate_tally tally = {};

	KUNIT_ASSERT_NOT_NULL(test, page);
	KUNIT_ASSERT_TRUE(test, folio_isolate_lru(page_folio(page)));
	test_unmap_range(range, &tally);
	KUNIT_EXPECT_EQ(test, tally.units, RANGE_PAGES - 1);
	KUNIT_EXPECT_EQ(test, tally.left[MIGRATE_LEFT_LRU], 1);
	KUNIT_EXPECT_PTR_EQ(test, test_page(range, 0), page);
	folio_putback_lru(page_folio(page));
	test_restore(range);
	test_range_exit(test, range);
}

static long test_putback(void *page)
{
	folio_putback_lru(page_folio((struct page *)page));
	return 0;
}

/* Into a batch of another CPU; the task stays on this one until migrate_enable(). */
static void test_putback_elsewhere(struct page *page)
{
	migrate_disable();
	work_on_cpu(cpumask_any_but(cpu_online_mask, smp_processor_id()),
		    test_putback, page);
}

/* Others may drain the batch before us: so often it is tried again. */
#define TEST_DRAIN_TRIES	20

/*
 * Unmap a range of which another CPU's batch has a page; @drained: as if the batches had been
 * drained before. Returns how many units have passed, or 0 if the batch was drained meanwhile.
 */
static unsigned long test_unmap_batched(struct kunit *test, bool drained)
{
	struct migrate_tally tally = {};
	struct test_range *range;
	struct page *page;
	bool batched;

	range = test_range_init(test);
	range->call.drained = drained;
	page = test_page(range, 7);
	KUNIT_ASSERT_NOT_NULL(test, page);
	KUNIT_ASSERT_TRUE(test, folio_isolate_lru(page_folio(page)));
	test_putback_elsewhere(page);
	batched = page_count(page) == 2;
	test_unmap_range(range, &tally);
	migrate_enable();
	/* What was in its way is what is waited for, or what is left. */
	batched = batched && (drained ? tally.units < RANGE_PAGES : range->call.drained);
	KUNIT_EXPECT_EQ(test, test_isolated(range), tally.units);
	test_restore(range);
	lru_add_drain_all();
	test_range_exit(test, range);
	return batched ? tally.units : 0;
}

static unsigned long test_unmap_batched_again(struct kunit *test, bool drained)
{
	unsigned long units = 0;
	unsigned int i;

	for (i = 0; i < TEST_DRAIN_TRIES && !units; i++)
		units = test_unmap_batched(test, drained);
	return units;
}

/* A reference of another CPU's batch is not somebody's. */
static void test_unmap_drains(struct kunit *test)
{
	if (num_online_cpus() < 2)
		kunit_skip(test, "needs a second CPU");
	KUNIT_EXPECT_EQ(test, test_unmap_batched_again(test, false), RANGE_PAGES);
}

/* Once a call: with the batches drained before, the same reference is in the way. */
static void test_unmap_drains_once(struct kunit *test)
{
	if (num_online_cpus() < 2)
		kunit_skip(test, "needs a second CPU");
	KUNIT_EXPECT_EQ(test, test_unmap_batched_again(test, true), RANGE_PAGES - 1);
}

static struct kunit_case unmap_test_cases[] = {
	KUNIT_CASE(test_unmap),
	KUNIT_CASE(test_unmap_finds_references),
	KUNIT_CASE(test_unmap_finds_isolated),
	KUNIT_CASE(test_unmap_drains),
	KUNIT_CASE(test_unmap_drains_once),
	{}
};

static struct kunit_suite unmap_test_suite = {
	.name = "migrate_vma_unmap",
	.test_cases = unmap_test_cases,
};

kunit_test_suite(unmap_test_suite);

#endif /* _MM_MIGRATE_VMA_TESTS_UNMAP_H */

#endif /* CONFIG_MIGRATE_VMA_KUNIT_TEST */
