/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Migrate a range of a process, or of a device, to other memory.
 *
 * See Documentation/mm/hmm_migrate.rst.
 */
#ifndef _LINUX_HMM_MIGRATE_H
#define _LINUX_HMM_MIGRATE_H

#include <linux/bits.h>
#include <linux/completion.h>
#include <linux/dma-direction.h>
#include <linux/ktime.h>
#include <linux/list.h>
#include <linux/migrate.h>
#include <linux/mm_types.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/workqueue.h>

struct device;
struct dma_chan;
struct folio;
struct hmm_migrate;
struct hmm_migrate_chunk;
struct mm_struct;
struct mmu_interval_notifier;
struct mmu_notifier_range;
struct page;
struct task_struct;
struct vm_area_struct;
struct vm_fault;

/**
 * struct hmm_migrate_segment - pages to copy that follow each other on both sides
 * @src: the first page to copy from; NULL: fill the destination with zeros
 * @dst: the first page to copy to
 * @npages: how many pages
 * @index: their first slot in the arrays of the chunk; the others are those behind it
 *
 * May have several folios, or a part of one where the destination is smaller than
 * the source.
 */
struct hmm_migrate_segment {
	struct page *src;
	struct page *dst;
	unsigned long npages;
	unsigned long index;
};

/**
 * struct hmm_migrate_chunk - what is collected, copied and mapped at once
 * @migrate: the call that it belongs to
 * @vma: where it is; NULL in hmm_migrate_evict()
 * @start: its first address; in hmm_migrate_evict() the position of its first page in
 *	what is evicted, times the page size
 * @npages: how many pages it has; the slots of @src and @dst
 * @src: as in struct migrate_vma
 * @dst: the same
 * @segments: what to copy
 * @nr_segments: how many these are
 * @private: for the ops; NULL at first, kept from one chunk to the next one that
 *	uses the same memory. See &hmm_migrate_ops.release.
 */
struct hmm_migrate_chunk {
	struct hmm_migrate *migrate;
	struct vm_area_struct *vma;
	unsigned long start;
	unsigned long npages;
	unsigned long *src;
	unsigned long *dst;
	struct hmm_migrate_segment *segments;
	unsigned long nr_segments;
	void *private;
	/* private: */
	struct migrate_vma args;
	unsigned long room;
	unsigned int flags;
	int error;
	bool mapped;
	bool lost;
	bool partly_failed;
	bool fault_failed;
	unsigned long unwanted;
	unsigned long no_memory_holes;
	unsigned long failed;
};

/**
 * struct hmm_migrate_need - what a call may ask the allocator for
 * @start: from this address on
 * @end: up to this one; &hmm_migrate_ops.reserve may make it less
 * @npages: how many pages, at most: gaps, and vmas that cannot migrate at all, are not among
 *	them
 * @orders: a bit for each order that can be asked for: of order n, at most @npages >> n
 *	folios, and of all orders together @npages pages
 */
struct hmm_migrate_need {
	unsigned long start;
	unsigned long end;
	unsigned long npages;
	unsigned long orders;
};

/**
 * struct hmm_migrate_ops - what a driver contributes to a migration
 * @begin: optional. Nothing of this call is in flight or locked. At the beginning, and
 *	again each time that mmap_lock has been dropped, or would have been if the caller
 *	did not hold it. For what must be waited for before pages are locked, as by
 *	hmm_migrate_track_begin(). Returns 0, or an error that ends the call. May sleep.
 * @reserve: optional; not for hmm_migrate_fault(). Nothing of this call is in flight or
 *	locked, and, but for hmm_migrate_range_locked(), mmap_lock is not held by it. See
 *	that there is memory for what @alloc may be asked for, or lower
 *	&hmm_migrate_need.end to what there is memory for, which is to be more than its
 *	start. May sleep, take the driver's locks, evict, as by hmm_migrate_evict(), and
 *	fail: the error ends the call.
 * @unreserve: optional. After each @reserve that has returned 0: what is left of it will
 *	not be asked for.
 * @wants: optional. Is this source, at @addr, to move? For what is where it should be
 *	already, and for what has arrived so lately that it should stay for a while. Not
 *	asked of the folio that a CPU fault is for. The folio is locked and not mapped.
 *	Must not sleep.
 * @alloc: the special allocator: a folio of @order for what is at @addr, locked and
 *	with one reference, as zone_device_folio_init() leaves it; or NULL, and a
 *	smaller order is asked for, but never 1. NULL for order 0 ends the range
 *	before the folio or hole that @addr is in; or see HMM_MIGRATE_SKIP_NO_MEMORY.
 *	If the op itself is NULL, ordinary memory is allocated by the vma's policy.
 *	May sleep, but must wait for nobody who may want a folio lock; so it should take
 *	out of what @reserve has found.
 * @map: optional. Make the other device's memory in the segments reachable, before
 *	@copy. Returns 0; or -EXDEV if there is no way between the two, and then CPU faults
 *	bring the private memory of peers to ordinary memory, and it goes on from there;
 *	or another error, and then the chunk stays where it is. So it does with -EXDEV in
 *	hmm_migrate_range_locked() and hmm_migrate_evict(), or if it has no private memory
 *	of peers. May sleep.
 * @unmap: optional. Of each chunk that @map has returned 0 for, when it is copied or
 *	will not be.
 * @copy: start copying the segments of the chunk, or copy them. Returns 0, or an
 *	error, and then the copying does not go on. A folio alone that cannot be copied
 *	is for hmm_migrate_fail(). May sleep.
 * @wait: optional, if @copy only starts. Wait until the chunk is copied. Returns 0 or
 *	an error, and then nothing of it is written any more, or hmm_migrate_lose() has
 *	been called. May sleep. It is called once for each @copy that has returned 0, in
 *	the same order.
 * @address: optional, for hmm_migrate_map_next(): the address of a page of private
 *	memory, as the device knows it. Pages that follow each other in pfns must do so
 *	there, too. Must not sleep.
 * @commit: optional. The chunk's folios are the process's, and still locked; the CPU's
 *	page tables are yet to learn of them, but for those that fill holes. Update the
 *	device's, see hmm_migrate_next(). May sleep.
 * @release: optional. The chunk's memory goes away, and so should @private.
 *
 * But for @begin, @reserve, @unreserve and @release, mmap_lock is held by the caller's task
 * (not in hmm_migrate_evict()), and so are the locks of the folios of all chunks in flight;
 * with hmm_migrate_range_locked() and hmm_migrate_fault() it is held for all of them. So no
 * op may take mmap_lock, wait for a folio lock, or fault on user memory; nor wait for
 * anybody who does. The driver's mmu notifier is called while folios are locked and others
 * are copied, so the same holds for it, and it must not wait for a copy.
 */
struct hmm_migrate_ops {
	int (*begin)(struct hmm_migrate *migrate);
	int (*reserve)(struct hmm_migrate *migrate, struct hmm_migrate_need *need);
	void (*unreserve)(struct hmm_migrate *migrate);
	bool (*wants)(const struct hmm_migrate_chunk *chunk, unsigned long addr,
		      struct folio *src);
	struct folio *(*alloc)(const struct hmm_migrate_chunk *chunk,
			       unsigned long addr, unsigned int order);
	int (*map)(struct hmm_migrate_chunk *chunk);
	void (*unmap)(struct hmm_migrate_chunk *chunk);
	int (*copy)(struct hmm_migrate_chunk *chunk);
	int (*wait)(struct hmm_migrate_chunk *chunk);
	u64 (*address)(const struct hmm_migrate_chunk *chunk, struct page *page);
	void (*commit)(struct hmm_migrate_chunk *chunk);
	void (*release)(struct hmm_migrate_chunk *chunk);
};

/**
 * enum hmm_migrate_step - what the time of a migration goes to
 * @HMM_MIGRATE_STEP_UNMAP: collect and unmap
 * @HMM_MIGRATE_STEP_ALLOC: the allocator
 * @HMM_MIGRATE_STEP_COPY: copying, or starting to
 * @HMM_MIGRATE_STEP_WAIT: waiting for the copy engine
 * @HMM_MIGRATE_STEP_PAGES: the pages stage
 * @HMM_MIGRATE_STEP_COMMIT: the device's page tables
 * @HMM_MIGRATE_STEP_FINALIZE: finalize
 * @HMM_MIGRATE_NR_STEPS: how many steps there are
 */
enum hmm_migrate_step {
	HMM_MIGRATE_STEP_UNMAP,
	HMM_MIGRATE_STEP_ALLOC,
	HMM_MIGRATE_STEP_COPY,
	HMM_MIGRATE_STEP_WAIT,
	HMM_MIGRATE_STEP_PAGES,
	HMM_MIGRATE_STEP_COMMIT,
	HMM_MIGRATE_STEP_FINALIZE,
	HMM_MIGRATE_NR_STEPS
};

/* Fill what is empty, and zero pages, with memory of the destination. */
#define HMM_MIGRATE_FILL_HOLES		BIT(0)
/* A gap between vmas, or a vma that cannot migrate at all, is an error. */
#define HMM_MIGRATE_STRICT		BIT(1)
/* Go on behind what there is no memory for. */
#define HMM_MIGRATE_SKIP_NO_MEMORY	BIT(2)
/* An error of a copy is an error of the call. */
#define HMM_MIGRATE_STOP_ON_COPY_ERROR	BIT(3)
/* Look once more at what others have locked, and do not wait for it. */
#define HMM_MIGRATE_NO_WAIT		BIT(4)
/* The destination is ordinary memory, whatever allocator hands it out. */
#define HMM_MIGRATE_TO_SYSTEM		BIT(5)
/* An eviction goes on though its task is killed: the device goes away. */
#define HMM_MIGRATE_UNKILLABLE		BIT(6)

#define HMM_MIGRATE_FLAGS \
	(HMM_MIGRATE_FILL_HOLES | HMM_MIGRATE_STRICT | \
	 HMM_MIGRATE_SKIP_NO_MEMORY | HMM_MIGRATE_STOP_ON_COPY_ERROR | \
	 HMM_MIGRATE_NO_WAIT | HMM_MIGRATE_TO_SYSTEM | HMM_MIGRATE_UNKILLABLE)

/**
 * struct hmm_migrate - migrate a range of a process
 * @mm: its address space; the caller has a reference to its users, as by mmget()
 * @start: first address, page aligned
 * @end: behind the last address, page aligned
 * @ops: the driver's part
 * @private: the driver's
 * @pgmap_owner: as in struct migrate_vma
 * @peers: other owners whose private and coherent memory is to move as well
 * @nr_peers: how many these are
 * @select: MIGRATE_VMA_SELECT_*: which memory is to move, and whether large folios
 *	are to move whole
 * @flags: HMM_MIGRATE_*
 * @hole_order: the order of the folios that fill holes, where there is room for
 *	one and a page fault might use that order; 0 means small pages, and huge ones
 *	where a page fault would put them. Needs MIGRATE_VMA_SELECT_LARGE.
 * @chunk_size: bytes that are collected, copied and mapped at once, a multiple of the
 *	page size, or 0 for HMM_MIGRATE_CHUNK_SIZE. More than HMM_MIGRATE_MAX_CHUNK_SIZE
 *	is as much as that. A chunk ends at an address that is a multiple of this, and
 *	where a vma ends; where that would be in the middle of a folio that is to move
 *	whole, it ends behind the folio.
 * @depth: how many chunks are in flight, if copying takes its time; 0 for two, and
 *	HMM_MIGRATE_MAX_DEPTH at most
 * @deadline: no chunk is begun, and nothing waited for, after this; 0 if there is none
 * @cancel: somebody wants it to stop, between two chunks, or while it waits for what
 *	is locked; to be written by WRITE_ONCE()
 * @unmapping: (out) this task is unmapping pages for this call at the moment, so that
 *	invalidations by it are the migration's own
 * @done: (out) where it ended: everything before it is in one of the counts that
 *	follow, as a number of pages
 * @moved: (out) moved
 * @filled: (out) were empty, and now are filled
 * @holes: (out) are empty, and were left alone
 * @unwanted: (out) are not wanted, see &hmm_migrate_ops.wants
 * @no_memory: (out) stay, as there is no memory for them
 * @copy_failed: (out) stay, as they could not be copied
 * @lost: (out) of these, pages of the destination that an engine may write to still,
 *	and that are never given back
 * @skipped: (out) are not mapped, or in a vma that cannot migrate at all
 * @left: (out) stay for other reasons, by enum migrate_left
 * @time: (out) nanoseconds, by enum hmm_migrate_step
 */
struct hmm_migrate {
	struct mm_struct *mm;
	unsigned long start;
	unsigned long end;
	const struct hmm_migrate_ops *ops;
	void *private;
	void *pgmap_owner;
	void *const *peers;
	unsigned int nr_peers;
	unsigned long select;
	unsigned int flags;
	unsigned int hole_order;
	unsigned long chunk_size;
	unsigned int depth;
	ktime_t deadline;
	bool cancel;

	bool unmapping;
	unsigned long done;
	unsigned long moved;
	unsigned long filled;
	unsigned long holes;
	unsigned long unwanted;
	unsigned long no_memory;
	unsigned long copy_failed;
	unsigned long lost;
	unsigned long skipped;
	unsigned long left[NR_MIGRATE_LEFT];
	u64 time[HMM_MIGRATE_NR_STEPS];
};

/*
 * Small enough that the head and tail that do not overlap are negligible. Folios that
 * are larger widen a chunk.
 */
#define HMM_MIGRATE_CHUNK_SIZE		SZ_2M

/*
 * All chunks in flight are off the LRU, where neither reclaim nor compaction reaches
 * them. The benchmark measures chunks up to this size.
 */
#define HMM_MIGRATE_MAX_CHUNK_SIZE	max_t(unsigned long, SZ_64M, PMD_SIZE)

/* So many chunks in flight, at most. */
#define HMM_MIGRATE_MAX_DEPTH		8

/* How many milliseconds a call waits at most for what others have locked. */
#define HMM_MIGRATE_MAX_WAIT		1000

int hmm_migrate_range(struct hmm_migrate *migrate);
int hmm_migrate_range_back(struct hmm_migrate *migrate);
int hmm_migrate_range_locked(struct hmm_migrate *migrate);
int hmm_migrate_evict(struct hmm_migrate *migrate, unsigned long first_pfn,
		      unsigned long npages);
int hmm_migrate_evict_pfns(struct hmm_migrate *migrate, const unsigned long *pfns,
			   unsigned long npages);
vm_fault_t hmm_migrate_fault(struct vm_fault *vmf, struct hmm_migrate *migrate,
			     unsigned long window);

/**
 * struct hmm_migrate_work - a migration that somebody else does
 * @migrate: what is to migrate; hmm_migrate_queue() takes a reference to the users of its
 *	mm
 * @complete: optional, called when it is over, by whoever has done it
 * @ret: what hmm_migrate_range() has returned, when it is over
 * @done: completed when it is over
 */
struct hmm_migrate_work {
	struct hmm_migrate migrate;
	void (*complete)(struct hmm_migrate_work *work);
	int ret;
	struct completion done;
	/* private: */
	struct work_struct work;
};

int hmm_migrate_queue(struct workqueue_struct *wq, struct hmm_migrate_work *work);
int hmm_migrate_wait(struct hmm_migrate_work *work);
void hmm_migrate_cancel(struct hmm_migrate_work *work);

/* For the ops */

struct folio *hmm_migrate_next(const struct hmm_migrate_chunk *chunk,
			       unsigned long *index);
unsigned long hmm_migrate_fail(struct hmm_migrate_chunk *chunk, unsigned long index);
void hmm_migrate_lose(struct hmm_migrate_chunk *chunk);

int hmm_migrate_copy(struct hmm_migrate_chunk *chunk);

struct folio *hmm_migrate_alloc_system(const struct hmm_migrate_chunk *chunk,
				       unsigned long addr, unsigned int order);
struct folio *hmm_migrate_alloc_node(const struct hmm_migrate_chunk *chunk,
				     unsigned long addr, unsigned int order, int nid);

/* What others have changed meanwhile */

/**
 * struct hmm_migrate_tracker - the migrations that a driver's notifier tells
 */
struct hmm_migrate_tracker {
	/* private: */
	spinlock_t lock;		/* protects the list and what was invalidated */
	struct list_head tracks;
};

/**
 * struct hmm_migrate_track - what was invalidated while a range migrates
 */
struct hmm_migrate_track {
	/* private: */
	struct list_head node;
	struct hmm_migrate_tracker *tracker;
	const struct hmm_migrate *migrate;
	struct task_struct *task;
	unsigned long start;
	unsigned long end;
};

void hmm_migrate_tracker_init(struct hmm_migrate_tracker *tracker);
void hmm_migrate_tracker_invalidate(struct hmm_migrate_tracker *tracker,
				    const struct mmu_notifier_range *range);
void hmm_migrate_track_start(struct hmm_migrate_track *track,
			     struct hmm_migrate_tracker *tracker,
			     const struct hmm_migrate *migrate);
void hmm_migrate_track_stop(struct hmm_migrate_track *track);
void hmm_migrate_track_begin(struct hmm_migrate_track *track,
			     struct mmu_interval_notifier *notifier);
bool hmm_migrate_track_is_valid(struct hmm_migrate_track *track, unsigned long start,
				unsigned long end);

/* Addresses for a device */

/**
 * struct hmm_migrate_side - where the bytes of a chunk come from, or where they go
 */
struct hmm_migrate_side {
	/* private: */
	struct scatterlist *list;
	unsigned long room;
	unsigned int entries;
	enum dma_data_direction direction;
};

/**
 * struct hmm_migrate_place - a place in the segments of a chunk
 */
struct hmm_migrate_place {
	/* private: */
	unsigned long segment;
	unsigned long page;
};

/**
 * struct hmm_migrate_cursor - where the next piece of a part begins
 */
struct hmm_migrate_cursor {
	/* private: */
	const struct hmm_migrate_segment *segment;
	size_t offset;			/* of its bytes */
	size_t left;			/* 0 before the segment is entered */
	bool src_mapped;
	bool dst_mapped;
	struct scatterlist *src;
	size_t src_offset;
	struct scatterlist *dst;
	size_t dst_offset;
};

/**
 * struct hmm_migrate_piece - bytes that follow each other on both sides, for a device
 * @src: from where; DMA_MAPPING_ERROR: write zeros, see &hmm_migrate_map.fills
 * @dst: to where
 * @length: how many
 * @index: the slot of the chunk where the first of them is
 * @last: there is no other piece of this part
 */
struct hmm_migrate_piece {
	dma_addr_t src;
	dma_addr_t dst;
	size_t length;
	unsigned long index;
	bool last;
};

/**
 * struct hmm_migrate_map - the addresses of a chunk for a device
 * @chunk: the chunk
 * @dev: the device
 * @fills: the driver's, before hmm_migrate_map_begin(): the engine can write zeros by
 *	itself
 */
struct hmm_migrate_map {
	struct hmm_migrate_chunk *chunk;
	struct device *dev;
	bool fills;
	/* private: */
	struct hmm_migrate_side src;
	struct hmm_migrate_side dst;
	dma_addr_t zero;
	struct hmm_migrate_place first;
	struct hmm_migrate_place end;
	const struct hmm_migrate_segment *end_segment;	/* where @end is */
	const struct hmm_migrate_segment *segments_end;	/* the one behind the part's last one */
	struct hmm_migrate_cursor cursor;
};

void hmm_migrate_map_begin(struct hmm_migrate_map *map, struct hmm_migrate_chunk *chunk,
			   struct device *dev);
long hmm_migrate_map_part(struct hmm_migrate_map *map, unsigned long npages);
unsigned int hmm_migrate_map_pieces(struct hmm_migrate_map *map,
				    struct hmm_migrate_piece *pieces, unsigned int nr,
				    size_t max);
void hmm_migrate_unmap_part(struct hmm_migrate_map *map);
void hmm_migrate_map_free(struct hmm_migrate_map *map);

/**
 * hmm_migrate_map_next() - the next piece of a part
 * @map: after hmm_migrate_map_part()
 * @piece: where it is
 * @max: at most so many bytes, and at least one
 *
 * Context: sleeps.
 * Return: false if there is none. See hmm_migrate_map_pieces().
 */
static inline bool hmm_migrate_map_next(struct hmm_migrate_map *map,
					struct hmm_migrate_piece *piece, size_t max)
{
	return hmm_migrate_map_pieces(map, piece, 1, max);
}

/* A channel of the dmaengine framework */

struct hmm_migrate_dma;

struct hmm_migrate_dma *hmm_migrate_dma_create(struct dma_chan *chan);
void hmm_migrate_dma_destroy(struct hmm_migrate_dma *dma);
void hmm_migrate_dma_let_cpu(struct hmm_migrate_dma *dma, bool let);
bool hmm_migrate_dma_has_failed(const struct hmm_migrate_dma *dma);
void hmm_migrate_dma_reset(struct hmm_migrate_dma *dma);
int hmm_migrate_dma_copy(struct hmm_migrate_chunk *chunk, struct hmm_migrate_dma *dma);
int hmm_migrate_dma_wait(struct hmm_migrate_chunk *chunk);
void hmm_migrate_dma_release(struct hmm_migrate_chunk *chunk);

#endif /* _LINUX_HMM_MIGRATE_H */
