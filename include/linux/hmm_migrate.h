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
 * struct hmm_migrate_segment - pages to copy that are contiguous on both sides
 * @src: the first page to copy from; NULL for a hole: clear the destination
 * @dst: the first page to copy to
 * @npages: how many pages
 * @index: the slot of the first page in the arrays of the chunk; the slots of the other
 *	pages follow
 *
 * May cover several folios, or a part of one if the destination folio is smaller than the
 * source folio.
 */
struct hmm_migrate_segment {
	struct page *src;
	struct page *dst;
	unsigned long npages;
	unsigned long index;
};

/**
 * struct hmm_migrate_chunk - a part of the range that is migrated at once
 * @migrate: the call that it belongs to
 * @vma: the vma; NULL in hmm_migrate_evict()
 * @start: its first address; in hmm_migrate_evict(), the position of its first page in the
 *	list of pages to evict, times the page size
 * @npages: how many pages it has, and slots in @src and @dst
 * @src: as in struct migrate_vma
 * @dst: as in struct migrate_vma
 * @segments: the pages to copy
 * @nr_segments: how many segments there are
 * @private: for the ops; NULL at first, and kept from one chunk to the next one that uses
 *	the same memory. See &hmm_migrate_ops.release.
 *
 * A chunk is pending from when it is collected until its new folios are mapped: meanwhile
 * its folios are locked and unmapped.
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
 * struct hmm_migrate_need - how much memory a call may need
 * @start: the first address
 * @end: the address behind the last one; &hmm_migrate_ops.reserve may lower it
 * @npages: how many pages at most, without gaps and vmas that cannot migrate
 * @orders: a bit for each order that &hmm_migrate_ops.alloc may be called with: at most
 *	@npages >> n folios of order n, and @npages pages in all orders together
 */
struct hmm_migrate_need {
	unsigned long start;
	unsigned long end;
	unsigned long npages;
	unsigned long orders;
};

/**
 * struct hmm_migrate_ops - the driver's part of a migration
 * @begin: optional. No chunk is pending. Called at the beginning, and again each time
 *	that mmap_lock was dropped, or would have been if the caller did not hold it. For
 *	waits that must come before pages are locked, as in hmm_migrate_track_begin().
 *	Returns 0, or an error that ends the call. May sleep.
 * @reserve: optional; not called by hmm_migrate_fault(). No chunk is pending, and the
 *	call does not hold mmap_lock, except hmm_migrate_range_locked(). Makes sure that
 *	@alloc will have memory, or lowers &hmm_migrate_need.end to the address up to
 *	which it will, which must be above &hmm_migrate_need.start. May sleep, take the
 *	driver's locks, evict, as by hmm_migrate_evict(), and fail: the error ends the
 *	call.
 * @unreserve: optional. Called after each @reserve that returned 0, when the call does not
 *	need the rest of the reserved memory any more.
 * @wants: optional. Returns true if this source folio, at @addr, is to move. For folios
 *	that are already where they should be, or that have arrived so recently that they
 *	should stay for a while. Not called for the folio of a CPU fault. The folio is
 *	locked and unmapped. Must not sleep.
 * @alloc: the special allocator. Returns a folio of @order for the unit at @addr, locked
 *	and with one reference, as zone_device_folio_init() leaves it. If it returns NULL,
 *	it is called for a smaller order, but never for order 1. NULL for order 0 ends the
 *	range before the folio or hole that @addr is in, unless HMM_MIGRATE_SKIP_NO_MEMORY
 *	is set. Without this op, ordinary memory is allocated by the policy of the vma.
 *	May sleep, but must not wait for a task that may want a folio lock; so it should
 *	use the memory that @reserve has found.
 * @map: optional. Makes the private memory of other devices in the segments reachable for
 *	@copy. Returns 0. If it returns -EXDEV, because the device cannot reach that
 *	memory, CPU faults bring the private memory of peers to ordinary memory, and the
 *	call goes on from there. With another error, the chunk stays where it is; with
 *	-EXDEV as well in hmm_migrate_range_locked() and hmm_migrate_evict(), or if the
 *	chunk has no private memory of peers. May sleep.
 * @unmap: optional. Called for each chunk for which @map returned 0, after it was copied or
 *	when it will not be.
 * @copy: starts to copy the segments of the chunk, or copies them. Returns 0, or an
 *	error, and then the copying must have ended. For a single folio that cannot be
 *	copied, call hmm_migrate_fail() instead. May sleep.
 * @wait: optional, if @copy only starts. Waits until the chunk is copied. Returns 0 or an
 *	error, and then nothing writes to the destinations any more, or hmm_migrate_lose()
 *	has been called. May sleep. Called once for each @copy that returned 0, in the
 *	same order.
 * @address: optional, for hmm_migrate_map_next(): returns the address of a page of private
 *	memory, as the device knows it. Pages with consecutive pfns must have consecutive
 *	addresses. Must not sleep.
 * @commit: optional. The chunk's new folios belong to the process, and are still locked.
 *	They are not yet in the CPU's page tables, except those that fill holes. Updates
 *	the page tables of the device, see hmm_migrate_next(). May sleep.
 * @release: optional. The memory of the chunk is freed; frees &hmm_migrate_chunk.private.
 *
 * All ops but @begin, @reserve, @unreserve and @release are called with mmap_lock held by
 * the calling task (not in hmm_migrate_evict()) and with the folios of all pending chunks
 * locked. In hmm_migrate_range_locked() and hmm_migrate_fault(), mmap_lock is held in all
 * ops. So no op may take mmap_lock, wait for a folio lock, fault on user memory, or wait
 * for a task that does one of these. The same holds for the driver's mmu notifier,
 * because it is called while folios are locked and other chunks are being copied; and it
 * must not wait for a copy.
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
 * enum hmm_migrate_step - the steps of a migration whose time is measured
 * @HMM_MIGRATE_STEP_UNMAP: the collect and unmap stages
 * @HMM_MIGRATE_STEP_ALLOC: &hmm_migrate_ops.alloc
 * @HMM_MIGRATE_STEP_COPY: &hmm_migrate_ops.map and &hmm_migrate_ops.copy
 * @HMM_MIGRATE_STEP_WAIT: &hmm_migrate_ops.wait and &hmm_migrate_ops.unmap
 * @HMM_MIGRATE_STEP_PAGES: the pages stage
 * @HMM_MIGRATE_STEP_COMMIT: &hmm_migrate_ops.commit
 * @HMM_MIGRATE_STEP_FINALIZE: the finalize stage
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

/* Populate holes and zero pages with memory of the destination. */
#define HMM_MIGRATE_FILL_HOLES		BIT(0)
/* A gap between vmas, or a vma that cannot migrate, is an error. */
#define HMM_MIGRATE_STRICT		BIT(1)
/* Skip units for which no memory could be allocated, instead of ending the call. */
#define HMM_MIGRATE_SKIP_NO_MEMORY	BIT(2)
/* An error of a copy op ends the call. */
#define HMM_MIGRATE_STOP_ON_COPY_ERROR	BIT(3)
/* Retry locked folios once, without waiting for them. */
#define HMM_MIGRATE_NO_WAIT		BIT(4)
/* The alloc op allocates ordinary memory. */
#define HMM_MIGRATE_TO_SYSTEM		BIT(5)
/* Only for eviction: continue though the task is killed, because the device is removed. */
#define HMM_MIGRATE_UNKILLABLE		BIT(6)

#define HMM_MIGRATE_FLAGS \
	(HMM_MIGRATE_FILL_HOLES | HMM_MIGRATE_STRICT | \
	 HMM_MIGRATE_SKIP_NO_MEMORY | HMM_MIGRATE_STOP_ON_COPY_ERROR | \
	 HMM_MIGRATE_NO_WAIT | HMM_MIGRATE_TO_SYSTEM | HMM_MIGRATE_UNKILLABLE)

/**
 * struct hmm_migrate - a request to migrate a range of a process
 * @mm: its address space; the caller holds a reference to its users, as by mmget()
 * @start: first address, page aligned
 * @end: the address behind the last one, page aligned
 * @ops: the driver's part
 * @private: for the driver
 * @pgmap_owner: as in struct migrate_vma
 * @peers: other owners whose private and coherent memory is to move as well
 * @nr_peers: how many peers there are
 * @select: MIGRATE_VMA_SELECT_*: which memory is to move, and whether large folios move
 *	whole
 * @flags: HMM_MIGRATE_*
 * @hole_order: the order of the folios that populate holes, where one fits and a page fault
 *	might use that order; 0 for small pages, and huge ones where a page fault would use
 *	them. Needs MIGRATE_VMA_SELECT_LARGE.
 * @chunk_size: the size of a chunk in bytes, a multiple of the page size; 0 for
 *	HMM_MIGRATE_CHUNK_SIZE. Limited to HMM_MIGRATE_MAX_CHUNK_SIZE. Chunks end at
 *	addresses that are multiples of this, and at the ends of vmas. A chunk that would
 *	end in the middle of a folio that is to move whole ends behind the folio.
 * @depth: how many chunks are pending at once if @ops have a wait op; 0 for two, and at
 *	most HMM_MIGRATE_MAX_DEPTH
 * @deadline: after this time, the call neither begins a chunk nor waits; 0 for no deadline
 * @cancel: set by WRITE_ONCE() to end the call before the next chunk, or while it waits for
 *	locked folios
 * @unmapping: (out) the calling task unmaps pages for this call at the moment, so that its
 *	invalidations are the migration's own
 * @done: (out) where the call ended. Each page before that is in one of the following
 *	counts
 * @moved: (out) pages that have moved
 * @filled: (out) pages that were holes, and are populated now
 * @holes: (out) pages that are holes, and were left alone
 * @unwanted: (out) pages that &hmm_migrate_ops.wants did not want
 * @no_memory: (out) pages that stay because no memory could be allocated
 * @copy_failed: (out) pages that stay because they could not be copied
 * @lost: (out) pages of the destination for these that an engine may still write to, and
 *	that are never freed
 * @skipped: (out) pages in gaps, or in vmas that cannot migrate
 * @left: (out) pages that stay for other reasons, by enum migrate_left
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
 * Small enough that setting up the first chunk and settling the last one, which overlap
 * with no copy, are negligible. A chunk is widened for a folio that is larger.
 */
#define HMM_MIGRATE_CHUNK_SIZE		SZ_2M

/*
 * The folios of pending chunks are off the LRU, where neither reclaim nor compaction can
 * reach them. The benchmark measures chunks up to this size.
 */
#define HMM_MIGRATE_MAX_CHUNK_SIZE	max_t(unsigned long, SZ_64M, PMD_SIZE)

/* How many chunks are pending at most. */
#define HMM_MIGRATE_MAX_DEPTH		8

/* How many milliseconds a call waits at most for folios that are locked. */
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
 * struct hmm_migrate_work - a migration that a workqueue does
 * @migrate: the request; hmm_migrate_queue() takes a reference to the users of its mm
 * @complete: optional; called by the worker when the migration is over
 * @ret: the result of hmm_migrate_range(), when the migration is over
 * @done: completed when the migration is over
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

/* To be called by the ops */

struct folio *hmm_migrate_next(const struct hmm_migrate_chunk *chunk,
			       unsigned long *index);
unsigned long hmm_migrate_fail(struct hmm_migrate_chunk *chunk, unsigned long index);
void hmm_migrate_lose(struct hmm_migrate_chunk *chunk);

int hmm_migrate_copy(struct hmm_migrate_chunk *chunk);

struct folio *hmm_migrate_alloc_system(const struct hmm_migrate_chunk *chunk,
				       unsigned long addr, unsigned int order);
struct folio *hmm_migrate_alloc_node(const struct hmm_migrate_chunk *chunk,
				     unsigned long addr, unsigned int order, int nid);

/* Track invalidations */

/**
 * struct hmm_migrate_tracker - the migrations that a driver's notifier has to inform
 */
struct hmm_migrate_tracker {
	/* private: */
	spinlock_t lock;		/* protects the list and the ranges in the tracks */
	struct list_head tracks;
};

/**
 * struct hmm_migrate_track - the range that was invalidated during a migration
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

/* Map a chunk for a device */

/**
 * struct hmm_migrate_side - the mapping of the sources of a part, or of its destinations
 */
struct hmm_migrate_side {
	/* private: */
	struct scatterlist *list;
	unsigned long room;
	unsigned int entries;
	enum dma_data_direction direction;
};

/**
 * struct hmm_migrate_place - a position in the segments of a chunk
 */
struct hmm_migrate_place {
	/* private: */
	unsigned long segment;
	unsigned long page;
};

/**
 * struct hmm_migrate_cursor - the position of the next piece of a part
 */
struct hmm_migrate_cursor {
	/* private: */
	const struct hmm_migrate_segment *segment;
	size_t offset;			/* in the segment, in bytes */
	size_t left;			/* bytes; 0 before the segment is entered */
	bool src_mapped;
	bool dst_mapped;
	struct scatterlist *src;
	size_t src_offset;
	struct scatterlist *dst;
	size_t dst_offset;
};

/**
 * struct hmm_migrate_piece - bytes that are contiguous for the device on both sides
 * @src: the address to copy from; DMA_MAPPING_ERROR: write zeros, see
 *	&hmm_migrate_map.fills
 * @dst: the address to copy to
 * @length: how many bytes
 * @index: the slot of the first byte in the chunk
 * @last: this is the last piece of the part
 */
struct hmm_migrate_piece {
	dma_addr_t src;
	dma_addr_t dst;
	size_t length;
	unsigned long index;
	bool last;
};

/**
 * struct hmm_migrate_map - the mapping of a chunk for a device
 * @chunk: the chunk
 * @dev: the device
 * @fills: set by the driver before hmm_migrate_map_begin() if its engine can write zeros
 *	without a source
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
	const struct hmm_migrate_segment *end_segment;	/* the one with @end */
	const struct hmm_migrate_segment *segments_end;	/* behind the part's last one */
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
 * @piece: returns the piece
 * @max: how many bytes it may have at most; at least one
 *
 * Context: sleeps.
 * Return: false at the end of the part. See hmm_migrate_map_pieces().
 */
static inline bool hmm_migrate_map_next(struct hmm_migrate_map *map,
					struct hmm_migrate_piece *piece, size_t max)
{
	return hmm_migrate_map_pieces(map, piece, 1, max);
}

/* Copy by a channel of the dmaengine framework */

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
