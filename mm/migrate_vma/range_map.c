// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: DMA mapping of the segments of a chunk, for any driver's engine.
 *
 * A chunk is mapped in parts, mostly in one. A part has two scatterlists, for its sources
 * and for its destinations, and each is mapped at once. If bounce buffers or DMA
 * addresses do not suffice for the whole chunk, it is mapped in smaller parts, one after
 * the other. Device private memory is not mapped: the driver returns its addresses.
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

static const struct hmm_migrate_segment *
place_segment(const struct hmm_migrate_map *map, const struct hmm_migrate_place *place)
{
	return map->chunk->segments + place->segment;
}

/*
 * How many pages of @segment, from its beginning, lie before the end of the part? A part
 * may end within a segment.
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

/* Add @npages pages to the list, in entries of at most @max pages. */
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

/*
 * Fill the lists of both sides with the part, in entries of at most @max pages. Holes in
 * memory that the CPU can address are not for the device: the CPU clears them. Returns
 * true if the part has holes in private memory, which the device clears.
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

/* Map both sides of the part, which has @npages pages. */
static int map_sides(struct hmm_migrate_map *map, unsigned long npages)
{
	/* A scatterlist entry has a length of 32 bits. */
	size_t max_bytes = min3((size_t)dma_get_max_seg_size(map->dev),
				dma_max_mapping_size(map->dev), (size_t)SZ_1G);
	unsigned long max = max(max_bytes >> PAGE_SHIFT, 1UL), entries;
	bool zeros;
	int ret;

	/* Each segment may begin an entry, and so may each @max pages. */
	entries = map->end.segment - map->first.segment + 1 + npages / max;
	ret = side_make_room(&map->src, entries) ?: side_make_room(&map->dst, entries);
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
	/* The engine can only copy: it clears holes from a page of zeros. */
	map->zero = dma_map_page(map->dev, ZERO_PAGE(0), 0, PAGE_SIZE, DMA_TO_DEVICE);
	if (!dma_mapping_error(map->dev, map->zero))
		return 0;
	map->zero = DMA_MAPPING_ERROR;
	return -ENOMEM;
}

/**
 * hmm_migrate_map_begin() - begin to map a chunk for a device
 * @map: zeroed before its first use, but for @map->fills; its memory is kept from one
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
 * @map: after hmm_migrate_map_begin() or hmm_migrate_unmap_part()
 * @npages: how many pages it may have at most
 *
 * Context: sleeps.
 * Return: how many pages it has; 0 at the end of the chunk; -ENOMEM if it cannot be
 * mapped at the moment: a smaller part may fit, or the same one after others have freed
 * bounce buffers.
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

static __always_inline void entry_advance(struct scatterlist **sg, size_t *offset, size_t length)
{
	*offset += length;
	if (*offset == sg_dma_len(*sg)) {
		(*sg)++;
		*offset = 0;
	}
}

/* The address, for the device, of private memory @offset bytes behind @page. */
static __always_inline dma_addr_t
private_address(const struct hmm_migrate_chunk *chunk, struct page *page, size_t offset)
{
	return chunk->migrate->ops->address(chunk, page + (offset >> PAGE_SHIFT)) +
	       (offset & ~PAGE_MASK);
}

/* Clear a hole by the CPU. */
static noinline void clear_segment(const struct hmm_migrate_segment *segment,
				   unsigned long first, unsigned long npages)
{
	unsigned long i;

	for (i = first; i < first + npages; i++) {
		clear_highpage(segment->dst + i);
		cond_resched();
	}
}

/* Enter the next segment that is for the device. Returns false at the end of the part. */
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

/* The bytes at the cursor that are contiguous in the mappings of both sides. */
static __always_inline void
cursor_piece(const struct hmm_migrate_map *map, const struct hmm_migrate_cursor *cursor,
	     struct hmm_migrate_piece *piece)
{
	const struct hmm_migrate_segment *segment = cursor->segment;

	piece->length = cursor->left;
	piece->index = segment->index + (cursor->offset >> PAGE_SHIFT);
	if (cursor->src_mapped) {
		piece->src = sg_dma_address(cursor->src) + cursor->src_offset;
		piece->length = min(piece->length, sg_dma_len(cursor->src) - cursor->src_offset);
	} else if (segment->src) {
		piece->src = private_address(map->chunk, segment->src, cursor->offset);
	} else if (map->fills) {
		piece->src = DMA_MAPPING_ERROR;
	} else {
		piece->src = map->zero + (cursor->offset & ~PAGE_MASK);
		piece->length = min(piece->length, PAGE_SIZE - (cursor->offset & ~PAGE_MASK));
	}
	if (cursor->dst_mapped) {
		piece->dst = sg_dma_address(cursor->dst) + cursor->dst_offset;
		piece->length = min(piece->length, sg_dma_len(cursor->dst) - cursor->dst_offset);
	} else {
		piece->dst = private_address(map->chunk, segment->dst, cursor->offset);
	}
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
piece_continues(const struct hmm_migrate_piece *piece, const struct hmm_migrate_piece *next)
{
	/* A hole that the engine clears by itself is one piece already. */
	return next->dst == piece->dst + piece->length &&
	       next->src == piece->src + piece->length &&
	       piece->src != DMA_MAPPING_ERROR && next->src != DMA_MAPPING_ERROR;
}

/**
 * hmm_migrate_map_pieces() - the next pieces of a part, contiguous on both sides
 * @map: after hmm_migrate_map_part()
 * @pieces: returns the pieces
 * @nr: how many pieces to return at most
 * @max: how many bytes a piece may have at most; at least one
 *
 * Segments that an IOMMU, or the device's own memory, has made contiguous are one piece.
 * Holes in memory that the CPU can address are cleared by the CPU here.
 *
 * Context: sleeps.
 * Return: how many pieces there are. If fewer than @nr, or with &hmm_migrate_piece.last
 * in the last one, the part has no other pieces.
 */
unsigned int hmm_migrate_map_pieces(struct hmm_migrate_map *map,
				    struct hmm_migrate_piece *pieces, unsigned int nr,
				    size_t max)
{
	struct hmm_migrate_cursor cursor = map->cursor;
	struct hmm_migrate_piece *piece = NULL, next;
	unsigned int n = 0;

	while (cursor.left || cursor_enter(map, &cursor)) {
		cursor_piece(map, &cursor, &next);
		next.length = min(next.length, max);
		if (piece && piece->length < max && piece_continues(piece, &next)) {
			next.length = min(next.length, max - piece->length);
			piece->length += next.length;
		} else if (n < nr) {
			next.last = false;
			piece = &pieces[n++];
			*piece = next;
		} else {
			break;
		}
		cursor_advance(&cursor, next.length);
	}
	if (piece)
		piece->last = !cursor.left && cursor.segment == map->segments_end;
	map->cursor = cursor;
	return n;
}
EXPORT_SYMBOL_GPL(hmm_migrate_map_pieces);

/**
 * hmm_migrate_unmap_part() - unmap a part
 * @map: after hmm_migrate_map_part()
 *
 * The device must not access it any more.
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

/* Return the pieces of the part from the first one on, once more. */
void hmm_migrate_map_rewind(struct hmm_migrate_map *map)
{
	map->cursor = (struct hmm_migrate_cursor){
		.segment = place_segment(map, &map->first),
		.offset = map->first.page << PAGE_SHIFT,
		.src = map->src.list,
		.dst = map->dst.list,
	};
}

/* Make the part that was unmapped last the next one once more. */
void hmm_migrate_map_back(struct hmm_migrate_map *map)
{
	map->end = map->first;
}

/* The segment where the next part begins, and in @page its page; NULL at the end. */
const struct hmm_migrate_segment *
hmm_migrate_map_place(const struct hmm_migrate_map *map, unsigned long *page)
{
	if (map->end.segment == map->chunk->nr_segments)
		return NULL;
	if (page)
		*page = map->end.page;
	return place_segment(map, &map->end);
}

/* Move the beginning of the next part by one page. */
void hmm_migrate_map_skip(struct hmm_migrate_map *map)
{
	place_advance(map, &map->end, 1);
}

/**
 * hmm_migrate_map_free() - free the memory of a map
 * @map: the map; nothing is mapped
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
