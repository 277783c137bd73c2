// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: where a device finds the segments of a chunk.
 *
 * A chunk is mapped in parts, mostly one: each part is two scatter lists, of its sources
 * and its destinations, mapped at once. What cannot be mapped whole, because there are not
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

/*
 * A part may begin and end within a segment. How many pages of @segment are before the end
 * of the part?
 */
static __always_inline unsigned long
part_pages(const struct hmm_migrate_map *map, const struct hmm_migrate_segment *segment)
{
	return segment == map->end_segment ? map->end.page : segment->npages;
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

/* Add @npages pages to the list, in entries of @max of them. */
static __always_inline struct scatterlist *
side_add(struct scatterlist *sg, struct page *page, unsigned long npages, unsigned long max)
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

static int side_map(const struct hmm_migrate_map *map, struct hmm_migrate_side *side)
{
	if (!side->entries)
		return 0;
	sg_mark_end(side->list + side->entries - 1);
	if (dma_map_sg(map->dev, side->list, side->entries, side->direction))
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

/* The parts of a chunk */

/* How many pages an entry of a scatter list may have. */
static unsigned long map_max_pages(const struct hmm_migrate_map *map)
{
	/* It counts its bytes in 32 bits. */
	size_t max = min3((size_t)dma_get_max_seg_size(map->dev),
			  dma_max_mapping_size(map->dev), (size_t)SZ_1G);

	return max(max >> PAGE_SHIFT, 1UL);
}

static int map_make_room(struct hmm_migrate_map *map, unsigned long npages,
			 unsigned long max)
{
	/* Each segment may begin an entry, and so may each @max pages. */
	unsigned long entries = map->end.segment - map->first.segment + 1 + npages / max;

	return side_make_room(&map->src, entries) ?: side_make_room(&map->dst, entries);
}

/*
 * List what there is to map of the part: not what is private; and what the CPU fills with
 * zeros is not the device's. Returns whether there is a hole in private memory, which
 * the device fills with zeros.
 */
static bool map_list(struct hmm_migrate_map *map, unsigned long max)
{
	const struct hmm_migrate_segment *segment = place_segment(map, &map->first);
	struct scatterlist *src = map->src.list, *dst = map->dst.list;
	unsigned long first = map->first.page, npages;
	bool zeros = false;

	for (; segment < map->segments_end; segment++, first = 0) {
		bool is_mappable = page_is_mappable(segment->dst);

		if (!segment->src) {
			zeros |= !is_mappable;
			continue;
		}
		npages = part_pages(map, segment) - first;
		if (page_is_mappable(segment->src))
			src = side_add(src, segment->src + first, npages, max);
		if (is_mappable)
			dst = side_add(dst, segment->dst + first, npages, max);
	}
	map->src.entries = src - map->src.list;
	map->dst.entries = dst - map->dst.list;
	return zeros;
}

/* A page of zeros, for an engine that can only copy. */
static int map_zeros(struct hmm_migrate_map *map)
{
	map->zero = dma_map_page(map->dev, ZERO_PAGE(0), 0, PAGE_SIZE, DMA_TO_DEVICE);
	if (!dma_mapping_error(map->dev, map->zero))
		return 0;
	map->zero = DMA_MAPPING_ERROR;
	return -ENOMEM;
}

/* Map the @npages pages of the part. */
static int map_sides(struct hmm_migrate_map *map, unsigned long npages)
{
	unsigned long max = map_max_pages(map);
	bool zeros;
	int ret;

	ret = map_make_room(map, npages, max);
	if (ret)
		return ret;
	zeros = map_list(map, max) && !map->fills;
	ret = side_map(map, &map->src);
	if (ret) {
		map->dst.entries = 0;
		return ret;
	}
	ret = side_map(map, &map->dst);
	if (ret || !zeros)
		return ret;
	return map_zeros(map);
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
	map->cursor = (struct hmm_migrate_cursor){};
	map->segments_end = NULL;
	while (left && map->end.segment < map->chunk->nr_segments) {
		now = min(left, place_segment(map, &map->end)->npages - map->end.page);
		place_advance(map, &map->end, now);
		left -= now;
	}
	if (left == npages)
		return 0;
	map->end_segment = place_segment(map, &map->end);
	map->segments_end = map->end_segment + !!map->end.page;
	if (!map_sides(map, npages - left)) {
		hmm_migrate_map_rewind(map);
		return npages - left;
	}
	hmm_migrate_unmap_part(map);
	map->end = map->first;
	map->segments_end = NULL;
	return -ENOMEM;
}
EXPORT_SYMBOL_GPL(hmm_migrate_map_part);

/* What is next of a part */

/* How many bytes are in one piece where @sg is, from @offset on, and where that is. */
static __always_inline size_t
entry_bytes(const struct scatterlist *sg, size_t offset, dma_addr_t *address)
{
	*address = sg_dma_address(sg) + offset;
	return sg_dma_len(sg) - offset;
}

static __always_inline void entry_advance(struct scatterlist **sg, size_t *offset, size_t length)
{
	*offset += length;
	if (*offset == sg_dma_len(*sg)) {
		(*sg)++;
		*offset = 0;
	}
}

/* Where the private memory of a segment is, from @offset on. */
static __always_inline dma_addr_t
private_address(const struct hmm_migrate_chunk *chunk, struct page *page, size_t offset)
{
	return chunk->migrate->ops->address(chunk, page + (offset >> PAGE_SHIFT)) +
	       (offset & ~PAGE_MASK);
}

/* Zeros that the CPU can write. */
static noinline void clear_segment(const struct hmm_migrate_segment *segment,
				   unsigned long first, unsigned long npages)
{
	unsigned long i;

	for (i = first; i < first + npages; i++) {
		clear_highpage(segment->dst + i);
		cond_resched();
	}
}

/* Enter the next segment of the part. Returns false if there is none. */
static __always_inline bool
cursor_enter(const struct hmm_migrate_map *map, struct hmm_migrate_cursor *cursor)
{
	for (; cursor->segment < map->segments_end; cursor->segment++, cursor->offset = 0) {
		const struct hmm_migrate_segment *segment = cursor->segment;

		cursor->dst_mapped = page_is_mappable(segment->dst);
		cursor->src_mapped = segment->src && page_is_mappable(segment->src);
		cursor->left = (part_pages(map, segment) << PAGE_SHIFT) - cursor->offset;
		if (segment->src || !cursor->dst_mapped)
			return true;
		clear_segment(segment, cursor->offset >> PAGE_SHIFT, cursor->left >> PAGE_SHIFT);
		cursor->left = 0;
	}
	return false;
}

/* The bytes of the segment that follow, as far as the mappings of both sides go. */
static __always_inline void
cursor_look(const struct hmm_migrate_map *map, const struct hmm_migrate_cursor *cursor,
	    struct hmm_migrate_piece *piece)
{
	const struct hmm_migrate_segment *segment = cursor->segment;

	piece->length = cursor->left;
	piece->index = segment->index + (cursor->offset >> PAGE_SHIFT);
	if (cursor->src_mapped) {
		piece->length = min(piece->length, entry_bytes(cursor->src, cursor->src_offset,
							       &piece->src));
	} else if (segment->src) {
		piece->src = private_address(map->chunk, segment->src, cursor->offset);
	} else if (map->fills) {
		piece->src = DMA_MAPPING_ERROR;
	} else {
		piece->src = map->zero + (cursor->offset & ~PAGE_MASK);
		piece->length = min(piece->length, PAGE_SIZE - (cursor->offset & ~PAGE_MASK));
	}
	if (cursor->dst_mapped)
		piece->length = min(piece->length, entry_bytes(cursor->dst, cursor->dst_offset,
							       &piece->dst));
	else
		piece->dst = private_address(map->chunk, segment->dst, cursor->offset);
}

static __always_inline void cursor_advance(struct hmm_migrate_cursor *cursor, size_t length)
{
	if (cursor->src_mapped)
		entry_advance(&cursor->src, &cursor->src_offset, length);
	if (cursor->dst_mapped)
		entry_advance(&cursor->dst, &cursor->dst_offset, length);
	cursor->offset += length;
	cursor->left -= length;
	if (!cursor->left) {
		cursor->segment++;
		cursor->offset = 0;
	}
}

static __always_inline bool
piece_goes_on(const struct hmm_migrate_piece *piece, const struct hmm_migrate_piece *next)
{
	/* Zeros that an engine fills in are one segment already. */
	return next->dst == piece->dst + piece->length &&
	       next->src == piece->src + piece->length &&
	       piece->src != DMA_MAPPING_ERROR && next->src != DMA_MAPPING_ERROR;
}

/**
 * hmm_migrate_map_pieces() - the next bytes of a part that follow each other on both sides
 * @map: after hmm_migrate_map_part()
 * @pieces: where they are
 * @nr: for so many pieces
 * @max: at most so many bytes in each, and at least one
 *
 * What an IOMMU, or the device's own memory, has made neighbours of is one piece. What is
 * to be zero, and the CPU can address, is filled with zeros here.
 *
 * Context: sleeps.
 * Return: how many there are; fewer than @nr if there is no other piece of this part, which
 * &hmm_migrate_piece.last says of the last one.
 */
unsigned int hmm_migrate_map_pieces(struct hmm_migrate_map *map,
				    struct hmm_migrate_piece *pieces, unsigned int nr,
				    size_t max)
{
	struct hmm_migrate_cursor cursor = map->cursor;
	struct hmm_migrate_piece *piece = NULL, look;
	unsigned int n = 0;

	while (cursor.left || cursor_enter(map, &cursor)) {
		cursor_look(map, &cursor, &look);
		look.length = min(look.length, max);
		if (piece && piece->length < max && piece_goes_on(piece, &look)) {
			look.length = min(look.length, max - piece->length);
			piece->length += look.length;
		} else if (n < nr) {
			look.last = false;
			piece = &pieces[n++];
			*piece = look;
		} else {
			break;
		}
		cursor_advance(&cursor, look.length);
	}
	if (piece)
		piece->last = !cursor.left && cursor.segment == map->segments_end;
	map->cursor = cursor;
	return n;
}
EXPORT_SYMBOL_GPL(hmm_migrate_map_pieces);

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
	map->cursor = (struct hmm_migrate_cursor){
		.segment = place_segment(map, &map->first),
		.offset = map->first.page << PAGE_SHIFT,
		.src = map->src.list,
		.dst = map->dst.list,
	};
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
