/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KUnit tests of units, runs, and the collect stage. Included by collect.c.
 */
#ifdef CONFIG_MIGRATE_VMA_KUNIT_TEST

#ifndef _MM_MIGRATE_VMA_TESTS_COLLECT_H
#define _MM_MIGRATE_VMA_TESTS_COLLECT_H

#include <linux/shmem_fs.h>
#include "range-kunit.h"

#define FOLIO_ORDER	3
#define FOLIO_PAGES	BIT(FOLIO_ORDER)
#define HUGE_PAGES	BIT(MIGRATE_HUGE_ORDER)

static unsigned long test_mpfn(struct folio *folio, unsigned long flags)
{
	return migrate_pfn(folio_pfn(folio)) | MIGRATE_PFN_MIGRATE | flags;
}

static struct folio *test_folio(struct kunit *test, unsigned int order)
{
	struct folio *folio = folio_alloc(GFP_KERNEL | __GFP_ZERO, order);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	return folio;
}

/* Each entry of a page or a hole is a unit; empty slots are skipped. */
static void test_units_of_pages(struct kunit *test)
{
	struct folio *folio = test_folio(test, 0);
	unsigned long src[] = {
		0, MIGRATE_PFN_MIGRATE, test_mpfn(folio, 0), 0, 0,
		test_mpfn(folio, MIGRATE_PFN_WRITE), 0
	};
	static const unsigned long expected[] = { 1, 2, 5 };
	struct migrate_unit unit = {};
	unsigned int n = 0;

	while (migrate_unit_next(&unit, src, NULL, ARRAY_SIZE(src))) {
		KUNIT_ASSERT_LT(test, n, ARRAY_SIZE(expected));
		KUNIT_EXPECT_EQ(test, unit.index, expected[n]);
		KUNIT_EXPECT_EQ(test, unit.order, 0);
		KUNIT_EXPECT_PTR_EQ(test, unit.src, src + expected[n]);
		KUNIT_EXPECT_PTR_EQ(test, unit.page,
				    n ? &folio->page : NULL);
		KUNIT_EXPECT_EQ(test, !unit.page, !n);
		n++;
	}
	KUNIT_EXPECT_EQ(test, n, ARRAY_SIZE(expected));
	folio_put(folio);
}

/* A large folio is one unit, and the iterator finds the unit after it. */
static void test_units_of_folios(struct kunit *test)
{
	struct folio *folio = test_folio(test, FOLIO_ORDER);
	unsigned long src[2 + FOLIO_PAGES] = {
		[0] = MIGRATE_PFN_MIGRATE,
		[1] = test_mpfn(folio, MIGRATE_PFN_COMPOUND),
		/* The iterator must not look at the other slots of the folio. */
		[2] = ~0UL,
		[1 + FOLIO_PAGES] = MIGRATE_PFN_MIGRATE,
	};
	unsigned long index[3], order[3], n = 0;
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, src, NULL, ARRAY_SIZE(src))) {
		KUNIT_ASSERT_LT(test, n, 3);
		index[n] = unit.index;
		order[n++] = unit.order;
	}
	KUNIT_ASSERT_EQ(test, n, 3);
	KUNIT_EXPECT_EQ(test, index[0], 0);
	KUNIT_EXPECT_EQ(test, index[1], 1);
	KUNIT_EXPECT_EQ(test, index[2], 1 + FOLIO_PAGES);
	KUNIT_EXPECT_EQ(test, order[0], 0);
	KUNIT_EXPECT_EQ(test, order[1], FOLIO_ORDER);
	KUNIT_EXPECT_EQ(test, order[2], 0);
	folio_put(folio);
}

static void test_unit_of_large_hole(struct kunit *test)
{
	unsigned long *src;
	struct migrate_unit unit = {};

	src = kunit_kcalloc(test, HUGE_PAGES + 1, sizeof(*src), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, src);
	src[0] = MIGRATE_PFN_MIGRATE | MIGRATE_PFN_COMPOUND;
	src[HUGE_PAGES] = MIGRATE_PFN_MIGRATE;

	KUNIT_ASSERT_TRUE(test, migrate_unit_at(&unit, src, NULL, 0,
						HUGE_PAGES + 1));
	KUNIT_EXPECT_NULL(test, unit.page);
	KUNIT_EXPECT_EQ(test, migrate_unit_pages(&unit), HUGE_PAGES);
	KUNIT_ASSERT_TRUE(test, migrate_unit_at(&unit, src, NULL, HUGE_PAGES,
						HUGE_PAGES + 1));
	KUNIT_EXPECT_EQ(test, migrate_unit_pages(&unit), 1);
}

/* A page that the driver gave for a slot without a source must not be lost. */
static void test_units_of_destinations(struct kunit *test)
{
	struct folio *folio = test_folio(test, 0);
	unsigned long src[4] = {};
	unsigned long dst[4] = { [2] = migrate_pfn(folio_pfn(folio)) };
	struct migrate_unit unit = {};

	KUNIT_EXPECT_FALSE(test, migrate_unit_at(&unit, src, NULL, 0, 4));
	KUNIT_ASSERT_TRUE(test, migrate_unit_at(&unit, src, dst, 0, 4));
	KUNIT_EXPECT_EQ(test, unit.index, 2);
	KUNIT_EXPECT_NULL(test, unit.page);
	KUNIT_EXPECT_PTR_EQ(test, unit.newpage, &folio->page);
	KUNIT_EXPECT_FALSE(test, migrate_unit_at(&unit, src, dst, 3, 4));
	folio_put(folio);
}

struct test_run {
	struct folio *folio;
	pte_t ptes[FOLIO_PAGES];
	struct migrate_run run;
};

/* PTEs that map a whole folio and differ only by their pfns. */
static struct test_run *test_run(struct kunit *test)
{
	struct test_run *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	unsigned int i;

	KUNIT_ASSERT_NOT_NULL(test, t);
	t->folio = test_folio(test, FOLIO_ORDER);
	/* Enough for folio_test_anon(); the tests need no more. */
	t->folio->mapping = (void *)PAGE_MAPPING_ANON;
	for (i = 0; i < FOLIO_PAGES; i++)
		t->ptes[i] = pte_mkold(pfn_pte(folio_pfn(t->folio) + i,
					       PAGE_READONLY));
	t->run.pte = t->ptes[0];
	t->run.folio = t->folio;
	t->run.page = &t->folio->page;
	return t;
}

static unsigned int test_run_length(struct test_run *t)
{
	return migrate_run_length(&t->run, t->ptes, FOLIO_PAGES);
}

static void test_run_exit(struct test_run *t)
{
	t->folio->mapping = NULL;
	folio_put(t->folio);
}

/* A run ends where any bit differs, or that PTE would get the bits of its neighbour. */
static void test_run_ends_where_entries_differ(struct kunit *test)
{
	struct test_run *t = test_run(test);
	pte_t pte = t->ptes[3];

	KUNIT_EXPECT_EQ(test, test_run_length(t), FOLIO_PAGES);
	KUNIT_EXPECT_EQ(test, migrate_run_length(&t->run, t->ptes, 5), 5);

	t->ptes[3] = pte_mkwrite_novma(pte);
	KUNIT_EXPECT_EQ(test, test_run_length(t), 3);
	t->ptes[3] = pte_mkyoung(pte);
	KUNIT_EXPECT_EQ(test, test_run_length(t), 3);
	t->ptes[3] = pte_mkdirty(pte);
	KUNIT_EXPECT_EQ(test, test_run_length(t), 3);
	t->ptes[3] = pte_advance_pfn(pte, 1);
	KUNIT_EXPECT_EQ(test, test_run_length(t), 3);
	t->ptes[3] = __pte(0);
	KUNIT_EXPECT_EQ(test, test_run_length(t), 3);
	if (IS_ENABLED(CONFIG_MEM_SOFT_DIRTY)) {
		t->ptes[3] = pte_mksoft_dirty(pte);
		KUNIT_EXPECT_EQ(test, test_run_length(t), 3);
	}
	if (IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP)) {
		t->ptes[3] = pte_mkuffd_wp(pte);
		KUNIT_EXPECT_EQ(test, test_run_length(t), 3);
	}

	t->ptes[3] = pte;
	SetPageAnonExclusive(folio_page(t->folio, 5));
	KUNIT_EXPECT_EQ(test, test_run_length(t), 5);
	ClearPageAnonExclusive(folio_page(t->folio, 5));
	KUNIT_EXPECT_EQ(test, test_run_length(t), FOLIO_PAGES);
	test_run_exit(t);
}

/* The next folio may be mapped behind this one, with consecutive pfns. */
static void test_run_ends_with_the_folio(struct kunit *test)
{
	struct test_run *t = test_run(test);

	t->run.page = folio_page(t->folio, 2);
	t->run.pte = t->ptes[2];
	KUNIT_EXPECT_EQ(test, migrate_run_length(&t->run, t->ptes + 2, 100),
			FOLIO_PAGES - 2);
	test_run_exit(t);
}

/* The migration entry keeps all bits of the PTE. */
static void test_run_keeps_bits(struct kunit *test)
{
	struct test_run *t = test_run(test);
	pte_t pte = migrate_run_swp_pte(&t->run);
	swp_entry_t entry = pte_to_swp_entry(pte);

	KUNIT_EXPECT_TRUE(test, is_readable_migration_entry(entry));
	KUNIT_EXPECT_EQ(test, swp_offset_pfn(entry), folio_pfn(t->folio));
	KUNIT_EXPECT_FALSE(test, is_migration_entry_dirty(entry));
	KUNIT_EXPECT_FALSE(test, pte_swp_soft_dirty(pte));

	t->run.exclusive = true;
	pte = migrate_run_swp_pte(&t->run);
	entry = pte_to_swp_entry(pte);
	KUNIT_EXPECT_TRUE(test, is_readable_exclusive_migration_entry(entry));

	t->run.write = true;
	t->run.pte = pte_mksoft_dirty(pte_mkyoung(pte_mkdirty(t->run.pte)));
	pte = migrate_run_swp_pte(&t->run);
	entry = pte_to_swp_entry(pte);
	KUNIT_EXPECT_TRUE(test, is_writable_migration_entry(entry));
	KUNIT_EXPECT_EQ(test, !!pte_swp_soft_dirty(pte),
			IS_ENABLED(CONFIG_MEM_SOFT_DIRTY));
	if (migration_entry_supports_ad()) {
		KUNIT_EXPECT_TRUE(test, is_migration_entry_young(entry));
		KUNIT_EXPECT_TRUE(test, is_migration_entry_dirty(entry));
	}
	if (IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP)) {
		t->run.pte = pte_mkuffd_wp(t->run.pte);
		pte = migrate_run_swp_pte(&t->run);
		KUNIT_EXPECT_TRUE(test, pte_swp_uffd_wp(pte));
	}
	test_run_exit(t);
}

/* Adding PTE_SWP_OFFSET_STEP carries from each bit of the pfn to the next one. */
static void test_next_swp_entry(struct kunit *test)
{
	unsigned int bit;

	for (bit = 0; bit < SWP_PFN_BITS; bit++) {
		unsigned long pfn = BIT(bit) - 1;
		pte_t pte = swp_entry_to_pte(make_readable_migration_entry(pfn));

		pte = pte_swp_mksoft_dirty(pte);
		KUNIT_EXPECT_TRUE(test, pte_same(migrate_swp_next(pte),
						 pte_next_swp_offset(pte)));
	}
}

/* Restore the mappings, as the later stages do for units that do not migrate. */
static void test_put_back(struct test_range *range)
{
	struct migrate_unit unit = {};

	while (migrate_unit_next(&unit, range->src, NULL, RANGE_PAGES)) {
		struct folio *folio = page_folio(unit.page);

		remove_migration_ptes(folio, folio, 0);
		folio_unlock(folio);
		folio_put(folio);
	}
}

static void test_collect(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct migrate_stats stats = {};
	unsigned int i;

	migrate_stage_collect(&range->migrate, 0, NULL, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, RANGE_PAGES);
	KUNIT_EXPECT_EQ(test, stats.pages[0], RANGE_PAGES);
	for (i = 0; i < RANGE_PAGES; i++) {
		struct page *page = migrate_pfn_to_page(range->src[i]);
		pte_t pte = test_pte(range, i);

		KUNIT_ASSERT_NOT_NULL(test, page);
		KUNIT_EXPECT_TRUE(test, range->src[i] & MIGRATE_PFN_WRITE);
		KUNIT_EXPECT_TRUE(test, PageLocked(page));
		KUNIT_EXPECT_EQ(test, page_count(page), 1);
		KUNIT_EXPECT_FALSE(test, folio_mapped(page_folio(page)));
		KUNIT_EXPECT_TRUE(test, is_swap_pte(pte));
		KUNIT_EXPECT_TRUE(test,
				  is_migration_entry(pte_to_swp_entry(pte)));
	}
	test_put_back(range);
	test_range_exit(test, range);
}

/* A page that stays locked is left; the others are collected. */
static void test_collect_gives_up(struct kunit *test)
{
	struct test_range *range = test_range_init(test);
	struct migrate_stats stats = {};
	struct page *page = test_page(range, 2);

	KUNIT_ASSERT_NOT_NULL(test, page);
	lock_page(page);
	migrate_stage_collect(&range->migrate, 0, NULL, &stats);
	KUNIT_EXPECT_EQ(test, stats.units, RANGE_PAGES - 1);
	KUNIT_EXPECT_EQ(test, stats.left[MIGRATE_LEFT_LOCKED], 1);
	KUNIT_EXPECT_EQ(test, range->src[2], 0);
	KUNIT_EXPECT_PTR_EQ(test, test_page(range, 2), page);
	KUNIT_EXPECT_EQ(test, page_count(page), 1);
	unlock_page(page);
	test_put_back(range);
	test_range_exit(test, range);
}

struct test_notifier {
	struct mmu_notifier notifier;
	unsigned int calls;
	unsigned long end;
	unsigned long start;
};

static int test_invalidate(struct mmu_notifier *notifier,
			   const struct mmu_notifier_range *range)
{
	struct test_notifier *t = container_of(notifier, struct test_notifier, notifier);

	t->calls++;
	t->start = range->start;
	t->end = range->end;
	return 0;
}

static const struct mmu_notifier_ops test_notifier_ops = {
	.invalidate_range_start = test_invalidate,
};

/*
 * Locked folios are retried once, with one notification from the first to the last of them, and
 * without waiting for the lock.
 */
static void test_collect_retries_once(struct kunit *test)
{
	struct test_notifier t = { .notifier.ops = &test_notifier_ops };
	struct test_range *range = test_range_init(test);
	struct page *first = test_page(range, 2), *last = test_page(range, 4);
	unsigned long start = range->migrate.start;
	struct migrate_stats stats = {};

	KUNIT_ASSERT_NOT_NULL(test, first);
	KUNIT_ASSERT_NOT_NULL(test, last);
	mmap_read_unlock(current->mm);
	KUNIT_ASSERT_EQ(test, 0, mmu_notifier_register(&t.notifier, current->mm));
	mmap_read_lock(current->mm);
	lock_page(first);
	lock_page(last);
	migrate_stage_collect(&range->migrate, 0, NULL, &stats);
	KUNIT_EXPECT_EQ(test, t.calls, 2);
	KUNIT_EXPECT_EQ(test, t.start, start + 2 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, t.end, start + 5 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, stats.units, RANGE_PAGES - 2);
	KUNIT_EXPECT_EQ(test, stats.left[MIGRATE_LEFT_LOCKED], 2);
	unlock_page(last);
	unlock_page(first);
	test_put_back(range);
	mmap_read_unlock(current->mm);
	mmu_notifier_unregister(&t.notifier, current->mm);
	mmap_read_lock(current->mm);
	test_range_exit(test, range);
}

/*
 * If the destination is a device, collect refuses a file's page without trying its lock. As
 * locked, it would be retried in vain, for as long as a server does not answer. If the
 * destination is ordinary memory, the page is retried.
 */
static void test_collect_leaves_files_alone(struct kunit *test)
{
	struct file *file = shmem_kernel_file_setup("kunit", PAGE_SIZE, 0);
	struct test_range range = {};
	struct migrate_stats stats = {};
	unsigned long addr, word;
	struct page *page;

	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	addr = kunit_vm_mmap(test, file, 0, PAGE_SIZE, PROT_READ, MAP_PRIVATE, 0);
	fput(file);
	KUNIT_ASSERT_FALSE(test, !addr || IS_ERR_VALUE(addr));
	range.migrate = (struct migrate_vma){
		.start = addr,
		.end = addr + PAGE_SIZE,
		.npages = 1,
		.src = range.src,
		.dst = range.dst,
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};
	KUNIT_ASSERT_EQ(test, 0, get_user(word, test_word(&range, 0)));
	KUNIT_EXPECT_EQ(test, word, 0);
	mmap_read_lock(current->mm);
	range.migrate.vma = vma_lookup(current->mm, addr);
	page = test_page(&range, 0);
	KUNIT_EXPECT_NOT_NULL(test, page);
	if (page) {
		lock_page(page);
		KUNIT_EXPECT_EQ(test, 0,
				migrate_stage_collect(&range.migrate,
						      MIGRATE_COLLECT_LEAVE_LOCKED |
						      MIGRATE_COLLECT_TO_DEVICE,
						      NULL, &stats));
		KUNIT_EXPECT_EQ(test, stats.left[MIGRATE_LEFT_KIND], 1);
		KUNIT_EXPECT_EQ(test, range.src[0], 0);
		KUNIT_EXPECT_EQ(test, 1,
				migrate_stage_collect(&range.migrate,
						      MIGRATE_COLLECT_LEAVE_LOCKED,
						      NULL, &stats));
		KUNIT_EXPECT_EQ(test, range.src[0], MIGRATE_SRC_RETRY);
		unlock_page(page);
	}
	mmap_read_unlock(current->mm);
}

static struct kunit_case collect_test_cases[] = {
	KUNIT_CASE(test_units_of_pages),
	KUNIT_CASE(test_units_of_folios),
	KUNIT_CASE(test_unit_of_large_hole),
	KUNIT_CASE(test_units_of_destinations),
	KUNIT_CASE(test_run_ends_where_entries_differ),
	KUNIT_CASE(test_run_ends_with_the_folio),
	KUNIT_CASE(test_run_keeps_bits),
	KUNIT_CASE(test_next_swp_entry),
	KUNIT_CASE(test_collect),
	KUNIT_CASE(test_collect_gives_up),
	KUNIT_CASE(test_collect_retries_once),
	KUNIT_CASE(test_collect_leaves_files_alone),
	{}
};

static struct kunit_suite collect_test_suite = {
	.name = "migrate_vma_collect",
	.test_cases = collect_test_cases,
};

kunit_test_suite(collect_test_suite);

#endif /* _MM_MIGRATE_VMA_TESTS_COLLECT_H */

#endif /* CONFIG_MIGRATE_VMA_KUNIT_TEST */
