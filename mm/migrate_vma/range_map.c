// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: where a device finds the segments of a chunk.
 *
 * A chunk is mapped in parts, mostly one: each part is two scatter lists of the same
 * length in bytes, mapped at once. What cannot be mapped whole, because there are not
 * enough bounce buffers or addresses, is mapped in smaller parts, one after the other.
 * Private memory is not mapped: the driver knows its addresses.
 */
#include <linux/dma-mapping.h>
#include <linux/export.h>
#include <linux/highmem.h>
#include <linux/hmm_migrate.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include "range.h"

/* Places */

static const struct hmm_migrate_segment *
place_segment(const struct hmm_migrate_map *map, const struct hmm_migrate_place *place)
{
	return map->chunk->segments + place->segment;
}

static bool place_is(const struct hmm_migrate_place *a, const struct hmm_migrate_place *b)
{
	return a->segment == b->segment && a->page == b->page;
}

/* How many pages lie in one segment from @place on, up to the end of the part. */
static unsigned long place_pages(const struct hmm_migrate_map *map,
				 const struct hmm_migrate_place *place)
{
	if (place->segment == map->end.segment)
		return map->end.page - place->page;
	return place_segment(map, place)->npages - place->page;
}

static void place_advance(const struct hmm_migrate_map *map,
			  struct hmm_migrate_place *place, unsigned long npages)
{
	place->page += npages;
	if (place->page < place_segment(map, place)->npages)
		return;
	place->segment++;
	place->page = 0;
}

/* Scatter lists */

static __always_inline bool page_is_mappable(struct page *page)
{
	return likely(!is_zone_device_page(page)) || !is_device_private_page(page);
}

/*
 * The page of @side at @place, if there is something to map: not what is private; and
 * what the CPU fills with zeros is not the device's.
 */
static __always_inline struct page *
side_page(const struct hmm_migrate_map *map, const struct hmm_migrate_side *side,
	  const struct hmm_migrate_place *place)
{
	const struct hmm_migrate_segment *segment = place_segment(map, place);
	struct page *page = side->direction == DMA_TO_DEVICE ? segment->src :
							       segment->dst;

	return segment->src && page_is_mappable(page) ? page + place->page : NULL;
}

static int side_make_room(struct hmm_migrate_side *side, unsigned long entries)
{
	if (entries <= side->room)
		return 0;
	kvfree(side->list);
	side->room = 0;
	side->list = kvmalloc_array(entries, sizeof(*side->list), GFP_KERNEL);
	if (!side->list)
		return -ENOMEM;
	sg_init_table(side->list, entries);
	side->room = entries;
	return 0;
}

static struct scatterlist *side_add(struct scatterlist *sg, struct page *page,
				    unsigned long npages, unsigned long max)
{
	unsigned long now;

	for (; npages; npages -= now) {
		now = min(npages, max);
		sg_unmark_end(sg);
		sg_set_page(sg++, page, now << PAGE_SHIFT, 0);
		page += now;
	}
	return sg;
}

/* How many entries of @max pages the part has on any side, at most. */
static unsigned long map_max_entries(const struct hmm_migrate_map *map, unsigned long max)
{
	struct hmm_migrate_place place = map->first;
	unsigned long entries = 0, npages;

	while (!place_is(&place, &map->end)) {
		npages = place_pages(map, &place);
		entries += DIV_ROUND_UP(npages, max);
		place_advance(map, &place, npages);
	}
	return entries;
}

static void side_fill(const struct hmm_migrate_map *map, struct hmm_migrate_side *side,
		      unsigned long max)
{
	struct hmm_migrate_place place = map->first;
	struct scatterlist *sg = side->list;

	while (!place_is(&place, &map->end)) {
		struct page *page = side_page(map, side, &place);
		unsigned long npages = place_pages(map, &place);

		if (page)
			sg = side_add(sg, page, npages, max);
		place_advance(map, &place, npages);
	}
	side->entries = sg - side->list;
	if (side->entries)
		sg_mark_end(sg - 1);
}

static int side_map(struct hmm_migrate_map *map, struct hmm_migrate_side *side)
{
	/* A scatter list counts its bytes in 32 bits. */
	size_t max = min3((size_t)dma_get_max_seg_size(map->dev),
			  dma_max_mapping_size(map->dev), (size_t)SZ_1G);
	int ret;

	/* In pages. */
	max = max(max >> PAGE_SHIFT, 1UL);
	ret = side_make_room(side, map_max_entries(map, max));
	if (ret)
		return ret;
	side_fill(map, side, max);
	side->sg = side->list;
	side->offset = 0;
	if (!side->entries ||
	    dma_map_sg(map->dev, side->list, side->entries, side->direction))
		return 0;
	side->entries = 0;
	return -ENOMEM;
}

static void side_unmap(const struct hmm_migrate_map *map, struct hmm_migrate_side *side)
{
	if (side->entries)
		dma_unmap_sg(map->dev, side->list, side->entries, side->direction);
	side->entries = 0;
}

/* How many bytes there are on this side in one piece, from @address on. */
static __always_inline size_t
side_next(const struct hmm_migrate_side *side, dma_addr_t *address)
{
	*address = sg_dma_address(side->sg) + side->offset;
	return sg_dma_len(side->sg) - side->offset;
}

static __always_inline void side_advance(struct hmm_migrate_side *side, size_t length)
{
	side->offset += length;
	if (side->offset == sg_dma_len(side->sg)) {
		side->sg++;
		side->offset = 0;
	}
}

/* Is there a hole in private memory, which the device has to fill with zeros? */
static bool map_needs_zeros(const struct hmm_migrate_map *map)
{
	struct hmm_migrate_place place = map->first;

	if (map->fills)
		return false;
	while (!place_is(&place, &map->end)) {
		const struct hmm_migrate_segment *segment = place_segment(map, &place);

		if (!segment->src && !page_is_mappable(segment->dst))
			return true;
		place_advance(map, &place, place_pages(map, &place));
	}
	return false;
}

static int map_zeros(struct hmm_migrate_map *map)
{
	if (!map_needs_zeros(map))
		return 0;
	map->zero = dma_map_page(map->dev, ZERO_PAGE(0), 0, PAGE_SIZE, DMA_TO_DEVICE);
	if (!dma_mapping_error(map->dev, map->zero))
		return 0;
	map->zero = DMA_MAPPING_ERROR;
	return -ENOMEM;
}

/* For the ops */

/**
 * hmm_migrate_map_begin() - begin to map a chunk for a device
 * @map: to be all zero at first, but for @map->fills; what it has room for stays from one
 *	chunk to the next
 * @chunk: the chunk, in &hmm_migrate_ops.copy or &hmm_migrate_ops.wait
 * @dev: the device
 *
 * For drivers with an engine of their own; hmm_migrate_dma_copy() uses it as well::
 *
 *	hmm_migrate_map_begin(map, chunk, dev);
 *	while ((npages = hmm_migrate_map_part(map, max)) > 0) {
 *		while (hmm_migrate_map_next(map, &piece, SZ_1M))
 *			submit(piece.dst, piece.src, piece.length);
 *		wait();
 *		hmm_migrate_unmap_part(map);
 *	}
 *
 * Private memory needs &hmm_migrate_ops.address.
 */
void hmm_migrate_map_begin(struct hmm_migrate_map *map, struct hmm_migrate_chunk *chunk,
			   struct device *dev)
{
	map->chunk = chunk;
	map->dev = dev;
	map->src.direction = DMA_TO_DEVICE;
	map->dst.direction = DMA_FROM_DEVICE;
	map->zero = DMA_MAPPING_ERROR;
	map->first = (struct hmm_migrate_place){};
	map->end = map->first;
}
EXPORT_SYMBOL_GPL(hmm_migrate_map_begin);

/**
 * hmm_migrate_map_part() - map the next part of a chunk
 * @map: after hmm_migrate_map_begin(), or hmm_migrate_unmap_part()
 * @npages: at most so many pages
 *
 * Context: sleeps.
 * Return: how many pages it has; 0 if there is no other; -ENOMEM if it cannot be mapped
 * now: a smaller part may fit, or the same when others have given back bounce buffers.
 */
long hmm_migrate_map_part(struct hmm_migrate_map *map, unsigned long npages)
{
	unsigned long left = npages, now;

	map->first = map->end;
	map->ahead.length = 0;
	while (left && map->end.segment < map->chunk->nr_segments) {
		now = min(left, place_segment(map, &map->end)->npages - map->end.page);
		place_advance(map, &map->end, now);
		left -= now;
	}
	map->next = map->first;
	map->offset = 0;
	if (left == npages)
		return 0;
	if (!side_map(map, &map->src) && !side_map(map, &map->dst) && !map_zeros(map))
		return npages - left;
	hmm_migrate_unmap_part(map);
	map->end = map->first;
	return -ENOMEM;
}
EXPORT_SYMBOL_GPL(hmm_migrate_map_part);

/* Where private memory is, or the mapping of the other; how many bytes that goes. */
static size_t side_address(const struct hmm_migrate_map *map,
			   const struct hmm_migrate_side *side,
			   struct page *page, size_t length, dma_addr_t *address)
{
	const struct hmm_migrate_chunk *chunk = map->chunk;

	if (page_is_mappable(page))
		return min(length, side_next(side, address));
	*address = chunk->migrate->ops->address(chunk, page) + map->offset;
	return length;
}

/* Zeros that the CPU can write. */
static bool map_clear_page(struct hmm_migrate_map *map)
{
	const struct hmm_migrate_segment *segment = place_segment(map, &map->next);

	if (segment->src || !page_is_mappable(segment->dst))
		return false;
	clear_highpage(segment->dst + map->next.page);
	place_advance(map, &map->next, 1);
	cond_resched();
	return true;
}

/* What is next of a segment, as far as the mappings of both sides go. */
static bool map_look(struct hmm_migrate_map *map, struct hmm_migrate_piece *piece)
{
	const struct hmm_migrate_segment *segment;
	struct page *dst;

	while (!place_is(&map->next, &map->end) && map_clear_page(map))
		;
	if (place_is(&map->next, &map->end))
		return false;
	segment = place_segment(map, &map->next);
	dst = segment->dst + map->next.page;
	piece->index = segment->index + map->next.page;
	piece->length = (place_pages(map, &map->next) << PAGE_SHIFT) - map->offset;
	if (segment->src) {
		piece->length = side_address(map, &map->src, segment->src + map->next.page,
					     piece->length, &piece->src);
	} else if (map->fills) {
		piece->src = DMA_MAPPING_ERROR;
	} else {
		piece->length = PAGE_SIZE - map->offset;
		piece->src = map->zero + map->offset;
	}
	piece->length = side_address(map, &map->dst, dst, piece->length, &piece->dst);
	return true;
}

static void map_take(struct hmm_migrate_map *map, size_t length)
{
	const struct hmm_migrate_segment *segment = place_segment(map, &map->next);

	if (segment->src && page_is_mappable(segment->src))
		side_advance(&map->src, length);
	/* What is filled with zeros is not mapped. */
	if (segment->src && page_is_mappable(segment->dst))
		side_advance(&map->dst, length);
	map->offset += length;
	place_advance(map, &map->next, map->offset >> PAGE_SHIFT);
	map->offset &= ~PAGE_MASK;
}

static bool piece_goes_on(const struct hmm_migrate_piece *piece,
			  const struct hmm_migrate_piece *next)
{
	if (!piece->length)
		return true;
	/* Zeros are one segment already. */
	if (piece->src == DMA_MAPPING_ERROR || next->src == DMA_MAPPING_ERROR)
		return false;
	return next->src == piece->src + piece->length &&
	       next->dst == piece->dst + piece->length;
}

/**
 * hmm_migrate_map_next() - the next bytes of a part that follow each other on both sides
 * @map: after hmm_migrate_map_part()
 * @piece: where they are
 * @max: at most so many bytes
 *
 * What an IOMMU, or the device's own memory, has made neighbours of is one piece. What is
 * to be zero, and the CPU can address, is filled with zeros here.
 *
 * Context: sleeps.
 * Return: false if there is no other piece of this part.
 */
bool hmm_migrate_map_next(struct hmm_migrate_map *map, struct hmm_migrate_piece *piece,
			  size_t max)
{
	struct hmm_migrate_piece *ahead = &map->ahead;
	size_t now;

	piece->length = 0;
	while (piece->length < max) {
		if (!ahead->length && !map_look(map, ahead))
			break;
		if (!piece_goes_on(piece, ahead))
			break;
		now = min(ahead->length, max - piece->length);
		if (!piece->length) {
			*piece = *ahead;
			piece->length = 0;
		}
		piece->length += now;
		map_take(map, now);
		ahead->length = 0;
	}
	return piece->length;
}
EXPORT_SYMBOL_GPL(hmm_migrate_map_next);

/**
 * hmm_migrate_unmap_part() - a part is copied, or will not be
 * @map: after hmm_migrate_map_part()
 *
 * The device must not touch it any more.
 */
void hmm_migrate_unmap_part(struct hmm_migrate_map *map)
{
	side_unmap(map, &map->src);
	side_unmap(map, &map->dst);
	if (map->zero != DMA_MAPPING_ERROR)
		dma_unmap_page(map->dev, map->zero, PAGE_SIZE, DMA_TO_DEVICE);
	map->zero = DMA_MAPPING_ERROR;
}
EXPORT_SYMBOL_GPL(hmm_migrate_unmap_part);

/* For range_dma.c */

/* Begin with the pieces of the part once more. */
void hmm_migrate_map_rewind(struct hmm_migrate_map *map)
{
	map->next = map->first;
	map->ahead.length = 0;
	map->offset = 0;
	map->src.sg = map->src.list;
	map->src.offset = 0;
	map->dst.sg = map->dst.list;
	map->dst.offset = 0;
}

/* The part that was unmapped is to be the next one once more. */
void hmm_migrate_map_back(struct hmm_migrate_map *map)
{
	map->end = map->first;
}

/* The segment where the next part begins, and in @page with which of its pages. */
const struct hmm_migrate_segment *
hmm_migrate_map_place(const struct hmm_migrate_map *map, unsigned long *page)
{
	if (map->end.segment == map->chunk->nr_segments)
		return NULL;
	if (page)
		*page = map->end.page;
	return place_segment(map, &map->end);
}

/* The next part begins with the page after that. */
void hmm_migrate_map_skip(struct hmm_migrate_map *map)
{
	place_advance(map, &map->end, 1);
}

/**
 * hmm_migrate_map_free() - give back what a map has room for
 * @map: with nothing mapped
 */
void hmm_migrate_map_free(struct hmm_migrate_map *map)
{
	kvfree(map->src.list);
	kvfree(map->dst.list);
	map->src.list = NULL;
	map->dst.list = NULL;
	map->src.room = 0;
	map->dst.room = 0;
}
EXPORT_SYMBOL_GPL(hmm_migrate_map_free);

#include "tests/map-kunit.h"
