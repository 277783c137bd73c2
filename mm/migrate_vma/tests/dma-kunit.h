/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KUnit tests of descriptors, with a channel that only notes them. Included by
 * hmm_migrate_dma.c.
 */
#ifdef CONFIG_MIGRATE_VMA_KUNIT_TEST

#ifndef _MM_MIGRATE_VMA_TESTS_DMA_H
#define _MM_MIGRATE_VMA_TESTS_DMA_H

#include <kunit/test.h>

#define DMA_TEST_TO	0x100000
#define DMA_TEST_FROM	0x800000

struct dma_test {
	struct dma_device device;
	struct dma_chan chan;
	struct dma_copy copy;
	struct dma_async_tx_descriptor tx;
	unsigned int submitted;
	dma_addr_t to;
	dma_addr_t from;
	size_t length;
};

static dma_cookie_t dma_test_submit(struct dma_async_tx_descriptor *tx)
{
	struct dma_test *dma = container_of(tx, struct dma_test, tx);

	return ++dma->submitted;
}

static struct dma_async_tx_descriptor *
dma_test_prepare(struct dma_chan *chan, dma_addr_t to, dma_addr_t from,
		 size_t length, unsigned long flags)
{
	struct dma_test *dma = container_of(chan, struct dma_test, chan);

	dma->to = to;
	dma->from = from;
	dma->length = length;
	dma->tx.tx_submit = dma_test_submit;
	return &dma->tx;
}

static struct dma_test *dma_test_init(struct kunit *test)
{
	struct dma_test *dma = kunit_kzalloc(test, sizeof(*dma), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, dma);
	dma->device.device_prep_dma_memcpy = dma_test_prepare;
	dma->chan.device = &dma->device;
	dma->copy.max = 4 * PAGE_SIZE;
	return dma;
}

static int dma_test_add(struct dma_test *dma, unsigned int to, unsigned int from)
{
	return copy_add(&dma->chan, &dma->copy, DMA_TEST_TO + to * PAGE_SIZE,
			DMA_TEST_FROM + from * PAGE_SIZE, PAGE_SIZE);
}

static void dma_test_expect(struct kunit *test, const struct dma_test *dma,
			    unsigned int submitted, unsigned int first, unsigned int npages)
{
	KUNIT_EXPECT_EQ(test, dma->submitted, submitted);
	KUNIT_EXPECT_EQ(test, dma->to, DMA_TEST_TO + first * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, dma->from, DMA_TEST_FROM + first * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, dma->length, npages * PAGE_SIZE);
}

/*
 * What an IOMMU has made neighbours of is one descriptor, up to what a descriptor
 * can have.
 */
static void test_dma_joins_neighbours(struct kunit *test)
{
	struct dma_test *dma = dma_test_init(test);
	unsigned int i;

	for (i = 0; i < 6; i++)
		KUNIT_EXPECT_EQ(test, 0, dma_test_add(dma, i, i));
	dma_test_expect(test, dma, 1, 0, 4);
	KUNIT_EXPECT_EQ(test, 0, copy_submit(&dma->chan, &dma->copy, true));
	dma_test_expect(test, dma, 2, 4, 2);
	KUNIT_EXPECT_EQ(test, 0, dma->copy.length);
}

/* Neighbours on one side only are none. */
static void test_dma_joins_nothing_else(struct kunit *test)
{
	struct dma_test *dma = dma_test_init(test);

	KUNIT_EXPECT_EQ(test, 0, dma_test_add(dma, 0, 0));
	KUNIT_EXPECT_EQ(test, 0, dma_test_add(dma, 1, 2));
	dma_test_expect(test, dma, 1, 0, 1);
	KUNIT_EXPECT_EQ(test, 0, dma_test_add(dma, 3, 3));
	KUNIT_EXPECT_EQ(test, dma->submitted, 2);
	KUNIT_EXPECT_EQ(test, dma->from, DMA_TEST_FROM + 2 * PAGE_SIZE);
	/* The one before, in both. */
	KUNIT_EXPECT_EQ(test, 0, dma_test_add(dma, 2, 2));
	dma_test_expect(test, dma, 3, 3, 1);
}

static struct kunit_case dma_test_cases[] = {
	KUNIT_CASE(test_dma_joins_neighbours),
	KUNIT_CASE(test_dma_joins_nothing_else),
	{}
};

static struct kunit_suite dma_test_suite = {
	.name = "migrate_vma_dma",
	.test_cases = dma_test_cases,
};

kunit_test_suite(dma_test_suite);

#endif /* _MM_MIGRATE_VMA_TESTS_DMA_H */

#endif /* CONFIG_MIGRATE_VMA_KUNIT_TEST */
