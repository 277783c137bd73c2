/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Range migration, KUnit tests: a range of user memory to work on. The first word of each
 * page has a different value.
 */
#ifndef _MM_MIGRATE_VMA_TESTS_RANGE_H
#define _MM_MIGRATE_VMA_TESTS_RANGE_H

#include <kunit/test.h>
#include <kunit/test-bug.h>
#include <linux/mman.h>
#include <linux/mmap_lock.h>
#include <linux/swap.h>
#include <linux/uaccess.h>

#define RANGE_PAGES	8

struct test_range {
	unsigned long src[RANGE_PAGES];
	unsigned long dst[RANGE_PAGES];
	struct migrate_vma migrate;
	struct migrate_ctx ctx;
};

/* How many pages the stages have isolated and not put back. */
static inline long test_isolated(struct test_range *range)
{
	long isolated = 0;
	int nid;

	for_each_online_node(nid)
		isolated += range->ctx.isolated[migrate_isolated_slot(nid, false)];
	return isolated;
}

static inline unsigned long __user *test_word(struct test_range *range,
					      unsigned int i)
{
	return (void __user *)(range->migrate.start + i * PAGE_SIZE);
}

static inline unsigned long test_tag(unsigned int i)
{
	return 0x5eed0000UL + i;
}

/* Maps and fills the range, and takes mmap_lock. */
static inline struct test_range *test_range_init(struct kunit *test)
{
	struct test_range *range = kunit_kzalloc(test, sizeof(*range), GFP_KERNEL);
	unsigned long addr;
	unsigned int i;

	KUNIT_ASSERT_NOT_NULL(test, range);
	range->ctx.isolated = kunit_kcalloc(test, 2 * nr_node_ids, sizeof(long), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, range->ctx.isolated);
	addr = kunit_vm_mmap(test, NULL, 0, RANGE_PAGES * PAGE_SIZE,
			     PROT_READ | PROT_WRITE,
			     MAP_ANONYMOUS | MAP_PRIVATE, 0);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));

	range->migrate.start = addr;
	range->migrate.end = addr + RANGE_PAGES * PAGE_SIZE;
	range->migrate.npages = RANGE_PAGES;
	range->migrate.src = range->src;
	range->migrate.dst = range->dst;
	range->migrate.flags = MIGRATE_VMA_SELECT_SYSTEM;
	for (i = 0; i < RANGE_PAGES; i++)
		KUNIT_ASSERT_EQ(test, 0,
				put_user(test_tag(i), test_word(range, i)));
	/* Drop the references that per-CPU LRU batches hold, which look like pins. */
	lru_add_drain_all();

	mmap_read_lock(current->mm);
	range->migrate.vma = vma_lookup(current->mm, addr);
	return range;
}

/* Drops mmap_lock and checks that each page still has its value. */
static inline void test_range_exit(struct kunit *test, struct test_range *range)
{
	unsigned int i;

	mmap_read_unlock(current->mm);
	for (i = 0; i < RANGE_PAGES; i++) {
		unsigned long word = 0;

		KUNIT_EXPECT_EQ(test, 0, get_user(word, test_word(range, i)));
		KUNIT_EXPECT_EQ(test, word, test_tag(i));
	}
}

static inline pte_t test_pte(struct test_range *range, unsigned int i)
{
	unsigned long addr = range->migrate.start + i * PAGE_SIZE;
	pte_t *ptep, pte = __pte(0);
	spinlock_t *ptl;	/* of the page table */

	ptep = pte_offset_map_lock(current->mm, mm_find_pmd(current->mm, addr),
				   addr, &ptl);
	if (ptep) {
		pte = ptep_get(ptep);
		pte_unmap_unlock(ptep, ptl);
	}
	return pte;
}

static inline struct page *test_page(struct test_range *range, unsigned int i)
{
	pte_t pte = test_pte(range, i);

	return pte_present(pte) ? pte_page(pte) : NULL;
}

#endif /* _MM_MIGRATE_VMA_TESTS_RANGE_H */
