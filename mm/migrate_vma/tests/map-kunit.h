/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KUnit tests of the pieces that a chunk is mapped and copied in. Included by range_map.c.
 */
#ifdef CONFIG_MIGRATE_VMA_KUNIT_TEST

#ifndef _MM_MIGRATE_VMA_TESTS_MAP_H
#define _MM_MIGRATE_VMA_TESTS_MAP_H

#include <kunit/device.h>
#include <kunit/test.h>

#define MAP_TEST_ORDER	3
#define MAP_TEST_PAGES	BIT(MAP_TEST_ORDER)

struct map_test {
	struct device *dev;
	struct page *src;
	struct page *dst;
	struct hmm_migrate_segment segments[MAP_TEST_PAGES];
	struct hmm_migrate_chunk chunk;
	struct hmm_migrate_map map;
	bool last;
};

static void map_test_free(void *pages)
{
	__free_pages(pages, MAP_TEST_ORDER);
}

static struct page *map_test_pages(struct kunit *test)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_ZERO, MAP_TEST_ORDER);

	KUNIT_ASSERT_NOT_NULL(test, page);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, map_test_free, page));
	return page;
}

static struct map_test *map_test_init(struct kunit *test)
{
	struct map_test *map = kunit_kzalloc(test, sizeof(*map), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, map);
	map->dev = kunit_device_register(test, "migrate_vma_map");
	KUNIT_ASSERT_FALSE(test, IS_ERR(map->dev));
	map->dev->dma_mask = &map->dev->coherent_dma_mask;
	KUNIT_ASSERT_EQ(test, 0, dma_set_mask_and_coherent(map->dev, DMA_BIT_MASK(64)));
#ifdef CONFIG_SWIOTLB
	/* No bounce buffers, whatever the command line says. */
	map->dev->dma_io_tlb_mem = NULL;
#endif
	map->src = map_test_pages(test);
	map->dst = map_test_pages(test);
	map->chunk.segments = map->segments;
	return map;
}

/* Add a segment: @npages pages from page @src, or a hole if that is -1, to page @dst. */
static void map_test_add(struct map_test *map, int src, int dst, unsigned int npages)
{
	struct hmm_migrate_chunk *chunk = &map->chunk;
	struct hmm_migrate_segment *segment = chunk->segments + chunk->nr_segments++;

	segment->src = src < 0 ? NULL : map->src + src;
	segment->dst = map->dst + dst;
	segment->npages = npages;
	segment->index = chunk->npages;
	chunk->npages += npages;
}

static void map_test_begin(struct kunit *test, struct map_test *map, unsigned long max,
			   long npages)
{
	hmm_migrate_map_begin(&map->map, &map->chunk, map->dev);
	KUNIT_EXPECT_EQ(test, npages, hmm_migrate_map_part(&map->map, max));
	map->last = false;
}

/* Expect the next piece to begin at slot @index and to have @length bytes. */
static void map_test_expect(struct kunit *test, struct map_test *map, size_t max,
			    unsigned long index, size_t length)
{
	struct hmm_migrate_piece piece = {};
	struct page *src, *dst;

	/* The piece before this one must not have been marked as the last one. */
	KUNIT_EXPECT_FALSE(test, map->last);
	KUNIT_EXPECT_TRUE(test, hmm_migrate_map_next(&map->map, &piece, max));
	map->last = piece.last;
	KUNIT_EXPECT_EQ(test, piece.index, index);
	KUNIT_EXPECT_EQ(test, piece.length, length);
	src = pfn_to_page(PHYS_PFN(piece.src));
	dst = pfn_to_page(PHYS_PFN(piece.dst));
	/* Without an IOMMU, DMA addresses are physical addresses. */
	KUNIT_EXPECT_TRUE(test, src >= map->src && src < map->src + MAP_TEST_PAGES);
	KUNIT_EXPECT_TRUE(test, dst >= map->dst && dst < map->dst + MAP_TEST_PAGES);
}

static void map_test_end(struct kunit *test, struct map_test *map)
{
	struct hmm_migrate_piece piece;

	KUNIT_EXPECT_TRUE(test, map->last);
	KUNIT_EXPECT_FALSE(test, hmm_migrate_map_next(&map->map, &piece, SZ_1G));
	hmm_migrate_unmap_part(&map->map);
}

static void map_test_exit(struct kunit *test, struct map_test *map)
{
	KUNIT_EXPECT_EQ(test, 0, hmm_migrate_map_part(&map->map, 1));
	hmm_migrate_map_free(&map->map);
}

/* Pages that are neighbours on both sides are one piece, even in several segments. */
static void test_map_joins_neighbours(struct kunit *test)
{
	struct map_test *map = map_test_init(test);
	unsigned int i;

	for (i = 0; i < 6; i++)
		map_test_add(map, i, i, 1);
	map_test_begin(test, map, 8, 6);
	map_test_expect(test, map, 4 * PAGE_SIZE, 0, 4 * PAGE_SIZE);
	map_test_expect(test, map, 4 * PAGE_SIZE, 4, 2 * PAGE_SIZE);
	map_test_end(test, map);
	map_test_exit(test, map);
}

/* Pages that are neighbours on one side only are separate pieces. */
static void test_map_joins_nothing_else(struct kunit *test)
{
	struct map_test *map = map_test_init(test);

	map_test_add(map, 0, 0, 1);
	map_test_add(map, 1, 2, 1);
	map_test_add(map, 3, 3, 1);
	/* On both sides, a neighbour of the last segment, but in front of it. */
	map_test_add(map, 2, 1, 1);
	map_test_begin(test, map, 8, 4);
	map_test_expect(test, map, SZ_1M, 0, PAGE_SIZE);
	map_test_expect(test, map, SZ_1M, 1, PAGE_SIZE);
	map_test_expect(test, map, SZ_1M, 2, PAGE_SIZE);
	map_test_expect(test, map, SZ_1M, 3, PAGE_SIZE);
	map_test_end(test, map);
	map_test_exit(test, map);
}

/* Pieces may end within a page, and parts within a segment. */
static void test_map_parts_and_pieces(struct kunit *test)
{
	struct map_test *map = map_test_init(test);

	map_test_add(map, 1, 2, 4);
	map_test_begin(test, map, 3, 3);
	map_test_expect(test, map, 2 * PAGE_SIZE - 512, 0, 2 * PAGE_SIZE - 512);
	map_test_expect(test, map, SZ_1M, 1, PAGE_SIZE + 512);
	map_test_end(test, map);
	KUNIT_EXPECT_EQ(test, 1, hmm_migrate_map_part(&map->map, 3));
	map->last = false;
	map_test_expect(test, map, SZ_1M, 3, PAGE_SIZE);
	/* After a rewind, the pieces of the part are returned again. */
	hmm_migrate_map_rewind(&map->map);
	map->last = false;
	map_test_expect(test, map, SZ_1M, 3, PAGE_SIZE);
	map_test_end(test, map);
	map_test_exit(test, map);
}

/* Holes in ordinary memory are not pieces, but cleared by the CPU. */
static void test_map_clears_holes(struct kunit *test)
{
	struct map_test *map = map_test_init(test);

	memset(page_address(map->dst), 0x55, MAP_TEST_PAGES * PAGE_SIZE);
	map_test_add(map, 0, 0, 1);
	map_test_add(map, -1, 1, 2);
	map_test_add(map, 3, 3, 1);
	map_test_begin(test, map, 8, 4);
	map_test_expect(test, map, SZ_1M, 0, PAGE_SIZE);
	map_test_expect(test, map, SZ_1M, 3, PAGE_SIZE);
	map_test_end(test, map);
	KUNIT_EXPECT_NULL(test, memchr_inv(page_address(map->dst + 1), 0, 2 * PAGE_SIZE));
	KUNIT_EXPECT_NULL(test, memchr_inv(page_address(map->dst + 4), 0x55, PAGE_SIZE));
	map_test_exit(test, map);
}

/* Several pieces at once: fill the array, then return the rest. */
static void test_map_several_pieces(struct kunit *test)
{
	struct map_test *map = map_test_init(test);
	struct hmm_migrate_piece pieces[3];

	map_test_add(map, 0, 0, 1);
	map_test_add(map, 2, 1, 1);
	/* Two neighbours, and a hole at the end. */
	map_test_add(map, 4, 4, 1);
	map_test_add(map, 5, 5, 1);
	map_test_add(map, -1, 7, 1);
	map_test_begin(test, map, 8, 5);
	KUNIT_EXPECT_EQ(test, 2, hmm_migrate_map_pieces(&map->map, pieces, 2, SZ_1M));
	KUNIT_EXPECT_EQ(test, 1, pieces[1].index);
	KUNIT_EXPECT_FALSE(test, pieces[0].last);
	KUNIT_EXPECT_FALSE(test, pieces[1].last);
	KUNIT_EXPECT_EQ(test, 1, hmm_migrate_map_pieces(&map->map, pieces, 3, SZ_1M));
	KUNIT_EXPECT_EQ(test, 2, pieces[0].index);
	KUNIT_EXPECT_EQ(test, 2 * PAGE_SIZE, pieces[0].length);
	KUNIT_EXPECT_TRUE(test, pieces[0].last);
	KUNIT_EXPECT_EQ(test, 0, hmm_migrate_map_pieces(&map->map, pieces, 3, SZ_1M));
	hmm_migrate_unmap_part(&map->map);
	map_test_exit(test, map);
}

static struct kunit_case map_test_cases[] = {
	KUNIT_CASE(test_map_joins_neighbours),
	KUNIT_CASE(test_map_joins_nothing_else),
	KUNIT_CASE(test_map_parts_and_pieces),
	KUNIT_CASE(test_map_clears_holes),
	KUNIT_CASE(test_map_several_pieces),
	{}
};

static struct kunit_suite map_test_suite = {
	.name = "migrate_vma_map",
	.test_cases = map_test_cases,
};

kunit_test_suite(map_test_suite);

#endif /* _MM_MIGRATE_VMA_TESTS_MAP_H */

#endif /* CONFIG_MIGRATE_VMA_KUNIT_TEST */
