/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Migrate a range of a process to other memory, and back.
 *
 * See Documentation/mm/hmm_migrate.rst.
 */
#ifndef _LINUX_HMM_MIGRATE_H
#define _LINUX_HMM_MIGRATE_H

#include <linux/bits.h>
#include <linux/migrate.h>
#include <linux/mm_types.h>
#include <linux/types.h>

struct dma_chan;
struct folio;
struct hmm_migrate;
struct hmm_migrate_chunk;
struct mm_struct;
struct page;
struct vm_area_struct;
struct vm_fault;

/**
 * struct hmm_migrate_segment - pages to copy that follow each other on both sides
 * @src: the first page to copy from; NULL: fill the destination with zeros
 * @dst: the first page to copy to
 * @npages: how many pages
 *
 * May have several folios, or a part of one where the destination is smaller than
 * the source.
 */
struct hmm_migrate_segment {
	struct page *src;
	struct page *dst;
	unsigned long npages;
};

/**
 * struct hmm_migrate_chunk - what is collected, copied and mapped at once
 * @migrate: the call that it belongs to
 * @vma: where it is
 * @start: its first address
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
	unsigned int flags;
	int error;
	unsigned long holes;
	unsigned long unwanted;
	unsigned long no_memory;
	unsigned long no_memory_holes;
	unsigned long failed;
	unsigned long failed_holes;
};

/**
 * struct hmm_migrate_ops - what a driver contributes to a migration
 * @begin: optional. Nothing of this call is in flight, no lock is held. At the
 *	beginning, and again each time that mmap_lock has been dropped. For what
 *	must be waited for before pages are locked, as by mmu_interval_read_begin().
 *	May sleep.
 * @wants: optional. Is this source to move? For what is where it should be already.
 *	The folio is locked and not mapped. Must not sleep.
 * @alloc: the special allocator: a folio of @order for what is at @addr, locked and
 *	with one reference, as zone_device_folio_init() leaves it; or NULL, and a
 *	smaller order is asked for, but never 1. NULL for order 0 ends the range
 *	before the folio or hole that @addr is in; or see HMM_MIGRATE_SKIP_NO_MEMORY.
 *	If the op itself is NULL, ordinary memory is allocated by the vma's policy.
 *	May sleep, and may evict, as by migrate_device_range(): what this call has
 *	locked is then passed over like everything that is locked, so that an
 *	allocator has to give up when it finds nothing else.
 * @copy: start copying the segments of the chunk, or copy them. Returns 0 or an
 *	error, and then the copying does not go on. May sleep.
 * @wait: optional, if @copy only starts. Wait until the chunk is copied. Returns 0 or
 *	an error, and then nothing of it is written any more. May sleep. It is called
 *	once for each @copy that has returned 0, in the same order.
 * @address: optional, for hmm_migrate_dma_copy(): the address of a page of device
 *	private memory, as the engine knows it. Must not sleep.
 * @commit: optional. The chunk's folios are the process's, and still locked; the CPU's
 *	page tables are yet to learn of them, but for those that fill holes. Update the
 *	device's, see hmm_migrate_next(). May sleep.
 * @release: optional. The chunk's memory goes away, and so should @private.
 *
 * But for @begin, and for @release outside of hmm_migrate_fault(), mmap_lock is held for
 * reading by the caller's task, and so are the locks of the folios of up to two chunks.
 * So no op may take mmap_lock, wait for a folio lock, or fault on user memory; nor wait
 * for anybody who does. The driver's mmu notifier is called while folios are locked and
 * others are copied, so the same holds for it, and it must not wait for a copy.
 */
struct hmm_migrate_ops {
	void (*begin)(struct hmm_migrate *migrate);
	bool (*wants)(const struct hmm_migrate_chunk *chunk, struct folio *src);
	struct folio *(*alloc)(const struct hmm_migrate_chunk *chunk,
			       unsigned long addr, unsigned int order);
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

#define HMM_MIGRATE_FLAGS \
	(HMM_MIGRATE_FILL_HOLES | HMM_MIGRATE_STRICT | \
	 HMM_MIGRATE_SKIP_NO_MEMORY | HMM_MIGRATE_STOP_ON_COPY_ERROR)

/**
 * struct hmm_migrate - migrate a range of a process
 * @mm: its address space; the caller has a reference to its users, as by mmget()
 * @start: first address, page aligned
 * @end: behind the last address, page aligned
 * @ops: the driver's part
 * @private: the driver's
 * @pgmap_owner: as in struct migrate_vma
 * @select: MIGRATE_VMA_SELECT_*: which memory is to move, and whether large folios
 *	are to move whole
 * @flags: HMM_MIGRATE_*
 * @hole_order: the order of the folios that fill holes, where there is room for
 *	one and a page fault might use that order; 0 means small pages, and huge ones
 *	where a page fault would put them. Needs MIGRATE_VMA_SELECT_LARGE.
 * @node: the node for hmm_migrate_alloc_node() and hmm_migrate_wants_node()
 * @dma_chan: the channel for hmm_migrate_dma_copy()
 * @chunk_size: bytes that are collected, copied and mapped at once, a multiple of the
 *	page size, or 0 for HMM_MIGRATE_CHUNK_SIZE. More than HMM_MIGRATE_MAX_CHUNK_SIZE
 *	is as much as that. A chunk ends at an address that is
 *	a multiple of this, and where a vma ends.
 * @cancel: somebody wants it to stop, between two chunks, or while it waits for what
 *	is locked; to be written by WRITE_ONCE()
 * @unmapping: (out) this task is unmapping pages for this call at the moment, so that
 *	invalidations by it are the migration's own
 * @engine_failed: (out) the engine does not do what it should, or cannot be asked to:
 *	it does not copy memory, or is not told where memory is; that ends the call
 * @engine_stopped: (out) it has been terminated: there is nothing to wait for
 * @engine_lost: (out) and it could not be stopped: the memory that it may still write
 *	to is not given back
 * @done: (out) where it ended: everything before it is in one of the counts that
 *	follow, as a number of pages
 * @moved: (out) moved
 * @filled: (out) were empty, and now are filled
 * @holes: (out) are empty, and were left alone
 * @unwanted: (out) are not wanted, see &hmm_migrate_ops.wants
 * @no_memory: (out) stay, as there is no memory for them
 * @copy_failed: (out) stay, as their chunk could not be copied
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
	unsigned long select;
	unsigned int flags;
	unsigned int hole_order;
	int node;
	struct dma_chan *dma_chan;
	unsigned long chunk_size;
	bool cancel;

	bool unmapping;
	bool engine_failed;
	bool engine_stopped;
	bool engine_lost;
	/* private: */
	bool engine_pieces;
	/* public: */
	unsigned long done;
	unsigned long moved;
	unsigned long filled;
	unsigned long holes;
	unsigned long unwanted;
	unsigned long no_memory;
	unsigned long copy_failed;
	unsigned long skipped;
	unsigned long left[NR_MIGRATE_LEFT];
	u64 time[HMM_MIGRATE_NR_STEPS];
};

/*
 * At least PMD_SIZE, so that THPs are not cut; small enough that the head and tail that
 * do not overlap are negligible.
 */
#define HMM_MIGRATE_CHUNK_SIZE		max(2UL << 20, PMD_SIZE)

/*
 * Up to two chunks are off the LRU at a time, where neither reclaim nor compaction
 * reaches them. The benchmark measures chunks up to this size.
 */
#define HMM_MIGRATE_MAX_CHUNK_SIZE	max(64UL << 20, PMD_SIZE)

/* How many milliseconds a call waits at most for what others have locked. */
#define HMM_MIGRATE_MAX_WAIT		1000

int hmm_migrate_range(struct hmm_migrate *migrate);
int hmm_migrate_range_back(struct hmm_migrate *migrate);
vm_fault_t hmm_migrate_fault(struct vm_fault *vmf, struct hmm_migrate *migrate);

struct folio *hmm_migrate_next(const struct hmm_migrate_chunk *chunk,
			       unsigned long *index);

int hmm_migrate_copy(struct hmm_migrate_chunk *chunk);
int hmm_migrate_dma_copy(struct hmm_migrate_chunk *chunk);
int hmm_migrate_dma_wait(struct hmm_migrate_chunk *chunk);
void hmm_migrate_dma_release(struct hmm_migrate_chunk *chunk);

struct folio *hmm_migrate_alloc_system(const struct hmm_migrate_chunk *chunk,
				       unsigned long addr, unsigned int order);
struct folio *hmm_migrate_alloc_node(const struct hmm_migrate_chunk *chunk,
				     unsigned long addr, unsigned int order);
bool hmm_migrate_wants_node(const struct hmm_migrate_chunk *chunk,
			    struct folio *src);

#endif /* _LINUX_HMM_MIGRATE_H */
