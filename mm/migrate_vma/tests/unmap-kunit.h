/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KUnit tests of the unmap stage, after the collect stage. Included by unmap.c.
 */
#ifdef CONFIG_MIGRATE_VMA_KUNIT_TEST

#ifndef _MM_MIGRATE_VMA_TESTS_UNMAP_H
#define _MM_MIGRATE_VMA_TESTS_UNMAP_H

#include <linux/workqueue.h>
#include "range-kunit.h"

static void test_unmap_range(struct test_range *range,
			     struct migrate_stats *stats)
{
	struct migrate_stats collect = {};

	migrate_stage_collect(&range->migrate, 0, NULL, &collect);
	migrate_stage_unmap(range->src, RANGE_PAGES, NULL, &range->ctx, stats);
}

static void test_restore(struct test_range *range)
{
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, range->src, NULL, RANGE_PAGES))
		migrate_unit_restore(&unit, NULL, &range->ctx);
}

static void test_unmap(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct migrate_stats stats = {};
	struct migrate_unit unit = {};

	test_unmap_range(range, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, RANGE_PAGES);
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

/* A page with an unexpected reference is restored. */
static void test_unmap_finds_references(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct page *page = test_page(range, 5);
	struct migrate_stats stats = {};

	KUNIT_ASSERT_NOT_NULL(test, page);
	get_page(page);
	test_unmap_range(range, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, RANGE_PAGES - 1);
	KUNIT_EXPECT_EQ(test, stats.left[MIGRATE_LEFT_PINNED], 1);
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

/* A page that is not on the LRU is restored. */
static void test_unmap_finds_isolated(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct page *page = test_page(range, 0);
	struct migrate_stats stats = {};

	KUNIT_ASSERT_NOT_NULL(test, page);
	KUNIT_ASSERT_TRUE(test, folio_isolate_lru(page_folio(page)));
	test_unmap_range(range, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, RANGE_PAGES - 1);
	KUNIT_EXPECT_EQ(test, stats.left[MIGRATE_LEFT_LRU], 1);
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

/* Put @page into a batch of another CPU. The task stays on this CPU until migrate_enable(). */
static void test_putback_elsewhere(struct page *page)
{
	migrate_disable();
	work_on_cpu(cpumask_any_but(cpu_online_mask, smp_processor_id()),
		    test_putback, page);
}

/* Other tasks may drain the batch before the test does; so try several times. */
#define TEST_DRAIN_TRIES	20

/*
 * Unmap a range while another CPU's batch refers to one of its pages. With @drained, the stage
 * assumes that the batches were drained before. Returns the number of units that passed, or 0 if
 * another task drained the batch, so that the test says nothing.
 */
static unsigned long test_unmap_batched(struct kunit *test, bool drained)
{
	struct migrate_stats stats = {};
	struct test_range *range;
	struct page *page;
	bool batched;

	range = test_range_init(test);
	range->ctx.drained = drained;
	page = test_page(range, 7);
	KUNIT_ASSERT_NOT_NULL(test, page);
	KUNIT_ASSERT_TRUE(test, folio_isolate_lru(page_folio(page)));
	test_putback_elsewhere(page);
	batched = page_count(page) == 2;
	test_unmap_range(range, &stats);
	migrate_enable();
	/* The reference of the batch has made the stage drain it, or leave the page. */
	batched = batched && (drained ? stats.units < RANGE_PAGES : range->ctx.drained);
	KUNIT_EXPECT_EQ(test, test_isolated(range), stats.units);
	test_restore(range);
	lru_add_drain_all();
	test_range_exit(test, range);
	return batched ? stats.units : 0;
}

static unsigned long test_unmap_batched_retry(struct kunit *test, bool drained)
{
	unsigned long units = 0;
	unsigned int i;

	for (i = 0; i < TEST_DRAIN_TRIES && !units; i++)
		units = test_unmap_batched(test, drained);
	return units;
}

/* The stage drains a reference of another CPU's batch. */
static void test_unmap_drains(struct kunit *test)
{
	if (num_online_cpus() < 2)
		kunit_skip(test, "needs a second CPU");
	KUNIT_EXPECT_EQ(test, test_unmap_batched_retry(test, false), RANGE_PAGES);
}

/* It drains once per migration: after that, the same reference counts as a pin. */
static void test_unmap_drains_once(struct kunit *test)
{
	if (num_online_cpus() < 2)
		kunit_skip(test, "needs a second CPU");
	KUNIT_EXPECT_EQ(test, test_unmap_batched_retry(test, true), RANGE_PAGES - 1);
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
