/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The interface of the range migration test driver, lib/test_hmm_migrate.c.
 *
 * Each device has a node, /dev/hmm_migrate0 and so on. An open file represents
 * the address space of the process that opened it, also after fork(): every
 * address below, except the pointers to buffers, is an address of that process.
 *
 * Each ioctl takes a structure that starts with its own size in bytes, and that
 * follows the rules of copy_struct_from_user(): a program that was built against
 * an older or a newer version of a structure works as long as all fields that
 * the kernel does not know are zero. Fields marked (out) are ignored on input.
 * They are written back whenever the arguments are valid, even if the call then
 * fails, so that a caller always learns how far the call has come.
 *
 * Errors that any ioctl may return:
 *
 *   EFAULT  the structure cannot be read; or it cannot be written back after the
 *           call has been carried out
 *   EINVAL  the size is smaller than the first version of the structure; a
 *           flag is not known; a reserved field is not zero
 *   E2BIG   the size is larger than the kernel's structure and the rest is
 *           not zero, or larger than a page
 *   ENOTTY  no such ioctl
 *
 * The ioctls that take a range of addresses return in addition:
 *
 *   EINVAL  the length is zero, the range wraps, or (where pages are meant) an
 *           address or a length is not a multiple of the page size
 *   EFAULT  a part of the range is not mapped, or the buffer is not accessible
 *   ESRCH   the process that opened the file is gone
 *   EINTR   a fatal signal arrived
 *   ENOMEM  out of memory
 */
#ifndef _LIB_TEST_HMM_MIGRATE_UAPI_H
#define _LIB_TEST_HMM_MIGRATE_UAPI_H

#include <linux/types.h>
#include <linux/ioctl.h>

#define TEST_HMM_MIGRATE_MAX_DEVICES	4
#define TEST_HMM_MIGRATE_MAX_ORDER	9
/* One minute */
#define TEST_HMM_MIGRATE_MAX_USEC	60000000
#define TEST_HMM_MIGRATE_MAX_DEPTH	8

/* The outcome for a page of a range. */
enum {
	/* The core did not select the page: busy, pinned, too large, elsewhere, ... */
	TEST_HMM_MIGRATE_NOT_SELECTED,
	/* Nothing to move: a hole, or a zero page on the way to the device. */
	TEST_HMM_MIGRATE_NO_SOURCE,
	/* No memory at the destination. */
	TEST_HMM_MIGRATE_NO_DESTINATION,
	/* The copy failed. */
	TEST_HMM_MIGRATE_COPY_FAILED,
	/* Copied, but then refused by migrate_vma_pages(); or already on the node. */
	TEST_HMM_MIGRATE_REFUSED,
	/* The page moved. */
	TEST_HMM_MIGRATE_MOVED,
	/* A hole or a zero page, now filled with a page of zeros. */
	TEST_HMM_MIGRATE_FILLED,
	/* Fewer than TEST_HMM_MIGRATE_FATES, to leave room for more. */
	TEST_HMM_MIGRATE_NR_FATES,
};

#define TEST_HMM_MIGRATE_FATES		16

/* The parts of a migration that are timed. */
enum {
	TEST_HMM_MIGRATE_TIME_SETUP,
	TEST_HMM_MIGRATE_TIME_COPY,	/* allocate and copy */
	TEST_HMM_MIGRATE_TIME_PAGES,
	TEST_HMM_MIGRATE_TIME_FINALIZE,
	TEST_HMM_MIGRATE_NR_TIMES,
};

/* The kinds of a device's memory. */
enum {
	TEST_HMM_MIGRATE_PRIVATE,	/* the CPU cannot address it */
	TEST_HMM_MIGRATE_COHERENT,	/* the CPU can */
};

/**
 * struct test_hmm_migrate_info - properties of the device
 * @size: size of this structure in bytes
 * @flags: must be 0
 * @device: (out) number of the device, as in the name of its node
 * @kind: (out) TEST_HMM_MIGRATE_PRIVATE or TEST_HMM_MIGRATE_COHERENT
 * @pages: (out) device memory, in pages
 * @free: (out) number of pages that are free
 * @held: (out) number of pages that TEST_HMM_MIGRATE_HOLD holds now
 */
struct test_hmm_migrate_info {
	__u32 size;
	__u32 flags;
	__u32 device;
	__u32 kind;
	__u64 pages;
	__u64 free;
	__u64 held;
};

/* Skip holes and zero pages. Not with TO_SYSTEM. */
#define TEST_HMM_MIGRATE_SKIP_HOLES	0x1
/*
 * Migrate folios as large as a huge page whole, and (to the device) holes of that
 * size.
 */
#define TEST_HMM_MIGRATE_HUGE		0x2
/* Migrate from the device to other memory of the same device. Only with TO_DEVICE. */
#define TEST_HMM_MIGRATE_RELOCATE	0x4
/* Migrate folios of every order whole, and holes as large as a huge page. */
#define TEST_HMM_MIGRATE_LARGE		0x8
/*
 * Use migrate_vma_setup() and its sisters, one chunk at a time, instead of
 * hmm_migrate_range(). A failed copy fails one folio with this flag, and the whole
 * chunk without it. Not with TO_NODE.
 */
#define TEST_HMM_MIGRATE_BARE		0x10
/* Skip parts that are not mapped or cannot migrate at all. Not with BARE. */
#define TEST_HMM_MIGRATE_SKIP_GAPS	0x20
/* Stop with ENOMEM where a small page cannot be allocated. Not with BARE. */
#define TEST_HMM_MIGRATE_STOP_NO_MEMORY	0x40
/* Stop with EIO after a chunk that could not be copied. Not with BARE. */
#define TEST_HMM_MIGRATE_STOP_ON_ERROR	0x80
/*
 * Copy by an engine of lib/test_hmm_migrate_dma.c; EIO if the engine refuses. Not
 * with BARE.
 */
#define TEST_HMM_MIGRATE_ENGINE		0x100
/*
 * If the device has less free memory than the range needs, first evict all of the
 * device. A range that is larger than the device is handled in stretches that fit.
 * Only with TO_DEVICE. Not with BARE.
 */
#define TEST_HMM_MIGRATE_MAKE_ROOM	0x200
/* Migrate memory of other devices as well. Only with TO_DEVICE. Not with BARE. */
#define TEST_HMM_MIGRATE_PEERS		0x400
/* Do not wait for pages that other tasks have locked. Not with BARE. */
#define TEST_HMM_MIGRATE_NO_WAIT	0x800

/* The context that a migration runs in. */
enum {
	TEST_HMM_MIGRATE_BY_CALLER,
	TEST_HMM_MIGRATE_BY_READER,	/* the caller, with mmap_lock held for reading */
	TEST_HMM_MIGRATE_BY_WRITER,	/* the same, for writing */
	TEST_HMM_MIGRATE_BY_WORKER,	/* a workqueue */
	TEST_HMM_MIGRATE_NR_WAYS,
};

/* The kinds of engines. */
enum {
	/* Supports everything. */
	TEST_HMM_MIGRATE_ENGINE_ORDERED,
	/* Completes in any order, and does not support terminate. */
	TEST_HMM_MIGRATE_ENGINE_UNORDERED,
	/* Calls back without a result, and does not support terminate. */
	TEST_HMM_MIGRATE_ENGINE_SILENT,
	/* Has few descriptors with a length limit, and does not support synchronize. */
	TEST_HMM_MIGRATE_ENGINE_NARROW,
	TEST_HMM_MIGRATE_NR_ENGINES,
};

/**
 * struct test_hmm_migrate_range - migrate a range to the device, or back, or to a
 * node
 * @size: size of this structure in bytes
 * @flags: TEST_HMM_MIGRATE_SKIP_HOLES, ...
 * @addr: first address, page aligned
 * @length: bytes, a multiple of the page size
 * @chunk: bytes for each trip through the stages, a multiple of the page size,
 *	   at most 1 GiB; 0 means 2 MiB, or a huge page if that is larger. A
 *	   chunk ends at an address that is a multiple of this, or at the end of
 *	   a vma.
 * @hole_order: to the device or a node with TEST_HMM_MIGRATE_LARGE: the order of the
 *	   folios that fill holes, where the range has room for one; 0 means small pages,
 *	   and huge ones where a page fault would put them
 * @node: the node of ordinary memory, for TEST_HMM_MIGRATE_TO_NODE; otherwise
 *	must be 0
 * @engine: with TEST_HMM_MIGRATE_ENGINE: TEST_HMM_MIGRATE_ENGINE_*; otherwise must be 0
 * @way: TEST_HMM_MIGRATE_BY_*
 * @depth: maximum number of chunks in flight, up to TEST_HMM_MIGRATE_MAX_DEPTH; 0 for two
 * @reserved: must be 0
 * @usec: time limit in microseconds, up to TEST_HMM_MIGRATE_MAX_USEC; no chunk is
 *	started after that; 0 for no limit
 * @pages: (out) number of pages by outcome; with @skipped, the sum is
 *	   all pages from @addr to @done
 * @time: (out) nanoseconds by part of the migration
 * @done: (out) the address up to which the range is done
 * @skipped: (out) pages that are not mapped or cannot migrate at all; without
 *	   TEST_HMM_MIGRATE_SKIP_GAPS, only pages that were locked and then unmapped
 * @lost: (out) pages that an engine may still write to
 * @pages_reserved: (out) pages that were reserved
 * @in_flight: (out) maximum number of chunks that an engine had at once
 * @task: (out) the thread that ran the migration; not with TEST_HMM_MIGRATE_BARE
 * @lock: (out) for a @way that holds mmap_lock, how it was held when the call began:
 *	TEST_HMM_MIGRATE_BY_READER or TEST_HMM_MIGRATE_BY_WRITER
 *
 * Pages that cannot move stay where they were and are counted; that alone is
 * no error. If a large folio cannot be allocated, smaller ones are used: of any
 * order except 1 with TEST_HMM_MIGRATE_LARGE, otherwise small pages.
 *
 * EINVAL: a @chunk that is too large, or misaligned; a @hole_order that does not
 * exist, or without its flag; flags that do not go together; a @node without memory; an
 * @engine or a @way that does not exist; a @depth or @usec that is too large; or, with
 * TEST_HMM_MIGRATE_BARE, any of these four.
 * ENODEV: there is no engine.
 * EAGAIN: hmm_migrate_range_locked() met a locked page, or a task that waits for mmap_lock.
 * ECANCELED: stopped by TEST_HMM_MIGRATE_CANCEL.
 * ETIME: @usec have passed.
 * EIO: injected by TEST_HMM_MIGRATE_INJECT with TEST_HMM_MIGRATE_FAIL_BEGIN.
 * EOPNOTSUPP: the range has a vma that cannot migrate at all, hugetlbfs or
 * device memory for example.
 *
 * If a part of the range is the cause of an error, everything before that part has
 * been dealt with.
 */
struct test_hmm_migrate_range {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 length;
	__u64 chunk;
	__u32 hole_order;
	__u32 node;
	__u32 engine;
	__u32 way;
	__u32 depth;
	__u32 reserved;
	__u64 usec;
	__u64 pages[TEST_HMM_MIGRATE_FATES];
	__u64 time[TEST_HMM_MIGRATE_NR_TIMES];
	__u64 done;
	__u64 skipped;
	__u64 lost;
	__u64 pages_reserved;
	__u64 in_flight;
	__u32 task;
	__u32 lock;
};

/**
 * struct test_hmm_migrate_access - the device reads or writes memory
 * @size: size of this structure in bytes
 * @flags: must be 0
 * @addr: first address, of any alignment
 * @length: bytes
 * @buffer: pointer to @length bytes in the calling process
 * @done: (out) bytes that were read or written
 * @faults: (out) number of faults of the device
 *
 * EFAULT: the process cannot read a part of the range.
 * EPERM: the process cannot write a part of the range.
 * EBUSY: the page tables changed all the time for ten seconds.
 */
struct test_hmm_migrate_access {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 length;
	__u64 buffer;
	__u64 done;
	__u64 faults;
};

/* The place of a page. */
enum {
	TEST_HMM_MIGRATE_NONE,		/* nothing there yet */
	TEST_HMM_MIGRATE_ZERO,		/* the zero page, of any size */
	TEST_HMM_MIGRATE_SYSTEM,
	TEST_HMM_MIGRATE_THIS_DEVICE,
	TEST_HMM_MIGRATE_OTHER_DEVICE,
	TEST_HMM_MIGRATE_SWAPPED,
	TEST_HMM_MIGRATE_MIGRATING,	/* a migration entry, on its way */
	TEST_HMM_MIGRATE_INVALID,	/* no vma, not readable, or not ordinary memory */
	TEST_HMM_MIGRATE_EXCLUSIVE,	/* a device has exclusive access */
};

#define TEST_HMM_MIGRATE_WRITABLE	0x1

/**
 * struct test_hmm_migrate_page - one page of a snapshot
 * @where: TEST_HMM_MIGRATE_NONE, ...
 * @flags: TEST_HMM_MIGRATE_WRITABLE if the entry is writable
 * @map_order: order of the mapping as hmm_range_fault() reports it
 * @folio_order: order of the folio that the page belongs to
 * @folio_index: index of the page in that folio
 */
struct test_hmm_migrate_page {
	__u8 where;
	__u8 flags;
	__u8 map_order;
	__u8 folio_order;
	__u32 folio_index;
};

/**
 * struct test_hmm_migrate_snapshot - the place of each page of a range
 * @size: size of this structure in bytes
 * @flags: must be 0
 * @addr: first address, page aligned
 * @length: bytes, a multiple of the page size
 * @buffer: pointer to a struct test_hmm_migrate_page for each page of the range
 * @done: (out) number of entries written to @buffer
 *
 * Nothing is faulted in. A part of the range that is not mapped is no error
 * here; its pages are TEST_HMM_MIGRATE_INVALID. The snapshot is consistent for
 * 512 pages at a time, except that holes may be filled meanwhile.
 *
 * EFAULT: the buffer is not accessible, or the range leaves the address space.
 * EBUSY: the page tables changed all the time for ten seconds.
 */
struct test_hmm_migrate_snapshot {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 length;
	__u64 buffer;
	__u64 done;
};

/*
 * Evict by an array of pfns, in groups of 16 pages that are not consecutive. The
 * pages of larger folios migrate one by one.
 */
#define TEST_HMM_MIGRATE_SCATTERED	0x1
/* Use migrate_device_range() and its sisters instead of hmm_migrate_evict(). */
#define TEST_HMM_MIGRATE_EVICT_BARE	0x2
/* Copy by the first engine. Not with EVICT_BARE. */
#define TEST_HMM_MIGRATE_EVICT_ENGINE	0x4

/**
 * struct test_hmm_migrate_evict - empty the device of all processes' memory
 * @size: size of this structure in bytes
 * @flags: TEST_HMM_MIGRATE_SCATTERED, ...
 * @pages: (out) number of pages by outcome
 * @remaining: (out) pages of the device that are still in use
 * @time: (out) nanoseconds by part
 *
 * Works by device pfns, without looking at vmas. Busy and pinned pages remain, and so
 * does coherent memory that TEST_HMM_MIGRATE_TAKE has taken; they are not in @pages.
 *
 * EINTR: a fatal signal arrived.
 * ENOMEM: out of memory.
 * ENODEV: there is no engine.
 */
struct test_hmm_migrate_evict {
	__u32 size;
	__u32 flags;
	__u64 pages[TEST_HMM_MIGRATE_FATES];
	__u64 remaining;
	__u64 time[TEST_HMM_MIGRATE_NR_TIMES];
};

/* Reset the counters after they are read. */
#define TEST_HMM_MIGRATE_RESET		0x1

/**
 * struct test_hmm_migrate_statistics - counters of the device
 * @size: size of this structure in bytes
 * @flags: TEST_HMM_MIGRATE_RESET or 0
 * @to_device: (out) pages migrated to the device, by outcome
 * @to_system: (out) the same for the way back, by ioctl, CPU fault or eviction
 * @time: (out) nanoseconds of all of these, by part of the migration
 * @cpu_faults: (out) number of CPU faults on the device's private memory
 * @device_faults: (out) number of faults of the device
 * @allocated: (out) number of device allocations, by order
 * @freed: (out) number of frees of device memory, by order
 * @injected: (out) number of injected failures, by TEST_HMM_MIGRATE_FAIL_*
 * @splits: (out) number of device folios that were split
 */
struct test_hmm_migrate_statistics {
	__u32 size;
	__u32 flags;
	__u64 to_device[TEST_HMM_MIGRATE_FATES];
	__u64 to_system[TEST_HMM_MIGRATE_FATES];
	__u64 time[TEST_HMM_MIGRATE_NR_TIMES];
	__u64 cpu_faults;
	__u64 device_faults;
	__u64 allocated[TEST_HMM_MIGRATE_MAX_ORDER + 1];
	__u64 freed[TEST_HMM_MIGRATE_MAX_ORDER + 1];
	__u64 injected[16];
	__u64 splits;
};

/* Operations that can be made to fail. */
enum {
	TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC,
	TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC,
	TEST_HMM_MIGRATE_FAIL_COPY,
	/* From this chunk on, the engine gets no addresses of private memory. */
	TEST_HMM_MIGRATE_FAIL_ADDRESS,
	/* A page cannot be copied: its folio stays, but not the rest of the chunk. */
	TEST_HMM_MIGRATE_FAIL_PAGE,
	/* The chunk cannot access the memory of other devices. */
	TEST_HMM_MIGRATE_FAIL_MAP,
	TEST_HMM_MIGRATE_FAIL_BEGIN,
	TEST_HMM_MIGRATE_FAIL_RESERVE,
	/* Only half of the requested memory can be reserved. */
	TEST_HMM_MIGRATE_FAIL_RESERVE_ALL,
	TEST_HMM_MIGRATE_NR_FAIL,
};

/**
 * struct test_hmm_migrate_inject - make allocations or copies fail
 * @size: size of this structure in bytes
 * @what: TEST_HMM_MIGRATE_FAIL_*
 * @order: only attempts of this order or larger count, and fail
 * @reserved: must be 0
 * @nth: the first attempt to fail, 1 is the next one; 0 stops all failures
 * @times: how many attempts fail from then on, at least 1; must be 0 if @nth is 0
 *
 * Applies to the whole device, including CPU faults and evictions. A new call
 * replaces the previous one for the same @what.
 *
 * EINVAL: no such @what or @order; @nth and @times do not go together.
 */
struct test_hmm_migrate_inject {
	__u32 size;
	__u32 what;
	__u32 order;
	__u32 reserved;
	__u64 nth;
	__u64 times;
};

/* Hold the pages by a migration that is aborted, instead of only by their locks. */
#define TEST_HMM_MIGRATE_HOLD_MIGRATION	0x1
/* Take the pages as TEST_HMM_MIGRATE_TAKE does, and hold those that were taken. */
#define TEST_HMM_MIGRATE_HOLD_TAKEN	0x2

#define TEST_HMM_MIGRATE_MAX_HOLD_PAGES	512
#define TEST_HMM_MIGRATE_MAX_HOLD_TIME	3000000

/**
 * struct test_hmm_migrate_hold - hold the folio locks of a range for some time
 * @size: size of this structure in bytes
 * @flags: TEST_HMM_MIGRATE_HOLD_MIGRATION, TEST_HMM_MIGRATE_HOLD_TAKEN or 0
 * @addr: first address, page aligned
 * @length: bytes, a multiple of the page size, at most TEST_HMM_MIGRATE_MAX_HOLD_PAGES
 *	pages
 * @usec: for how long, TEST_HMM_MIGRATE_MAX_HOLD_TIME microseconds at most
 * @pages: (out) number of pages that were held
 *
 * Returns when the time is over. Pages that other tasks have locked are not held.
 * Without TEST_HMM_MIGRATE_HOLD_MIGRATION, private memory and swapped-out pages are
 * faulted in, and coherent memory is not held. With it, the range must lie in one
 * vma, and only anonymous memory is held.
 *
 * With TEST_HMM_MIGRATE_HOLD_TAKEN, only the first page of a large folio is held.
 *
 * EINVAL: @length or @usec is too large; both flags are set.
 * EFAULT: also, with TEST_HMM_MIGRATE_HOLD_MIGRATION, if the range has several vmas,
 * and without it, if a part of the range is not readable.
 * EOPNOTSUPP: with TEST_HMM_MIGRATE_HOLD_MIGRATION, the vma cannot migrate at all.
 */
struct test_hmm_migrate_hold {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 length;
	__u64 usec;
	__u64 pages;
};

/* Use migrate_vma_setup() and its sisters instead of hmm_migrate_fault(). */
#define TEST_HMM_MIGRATE_FAULT_BARE	0x1
/* Copy by the first engine. Not with FAULT_BARE. */
#define TEST_HMM_MIGRATE_FAULT_ENGINE	0x2

/**
 * struct test_hmm_migrate_fault_order - how much a CPU fault migrates back
 * @size: size of this structure in bytes
 * @flags: TEST_HMM_MIGRATE_FAULT_BARE, TEST_HMM_MIGRATE_FAULT_ENGINE or 0
 * @order: a device folio up to this order comes back whole; of a larger one, only the
 *	   touched page; TEST_HMM_MIGRATE_MAX_ORDER initially
 * @window_order: the aligned window of 1 << @window_order pages comes back as well; 0 for
 *	the folio alone. Not with TEST_HMM_MIGRATE_FAULT_BARE.
 * @stay_usec: microseconds that a folio stays on the device after its arrival: until then
 *	neither a fault window nor hmm_migrate_evict() takes it back
 *
 * Applies to the whole device.
 *
 * EINVAL: no such @order or @window_order; flags that do not go together.
 * ENODEV: there is no engine.
 */
struct test_hmm_migrate_fault_order {
	__u32 size;
	__u32 flags;
	__u32 order;
	__u32 window_order;
	__u64 stay_usec;
};

/**
 * struct test_hmm_migrate_cancel - cancel running migrations
 * @size: size of this structure in bytes
 * @flags: must be 0
 * @calls: (out) number of calls through this open file that were cancelled
 *
 * The calls finish the chunks that they have begun.
 */
struct test_hmm_migrate_cancel {
	__u32 size;
	__u32 flags;
	__u64 calls;
};

/**
 * struct test_hmm_migrate_take - get exclusive access to pages
 * @size: size of this structure in bytes
 * @flags: must be 0
 * @addr: first address, page aligned
 * @length: bytes, a multiple of the page size
 * @pages: (out) number of pages taken
 *
 * By make_device_exclusive_range(), which takes small pages, or the first page of a
 * large folio; that makes the whole folio inaccessible to the CPU. Lasts until the
 * CPU touches the page.
 *
 * EFAULT: also if the process must not write to a part of the range.
 * EOPNOTSUPP: the range has hugetlbfs memory.
 * EBUSY: the page tables changed all the time for ten seconds.
 */
struct test_hmm_migrate_take {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 length;
	__u64 pages;
};

/*
 * The structure contains its size, so the size is not a part of the ioctl number: the
 * number stays the same when a structure grows.
 */
#define TEST_HMM_MIGRATE_INFO		_IO(0xB9, 0x00)
#define TEST_HMM_MIGRATE_TO_DEVICE	_IO(0xB9, 0x01)
#define TEST_HMM_MIGRATE_TO_SYSTEM	_IO(0xB9, 0x02)
#define TEST_HMM_MIGRATE_READ		_IO(0xB9, 0x03)
#define TEST_HMM_MIGRATE_WRITE		_IO(0xB9, 0x04)
#define TEST_HMM_MIGRATE_SNAPSHOT	_IO(0xB9, 0x05)
#define TEST_HMM_MIGRATE_EVICT		_IO(0xB9, 0x06)
#define TEST_HMM_MIGRATE_STATISTICS	_IO(0xB9, 0x07)
#define TEST_HMM_MIGRATE_INJECT		_IO(0xB9, 0x08)
#define TEST_HMM_MIGRATE_HOLD		_IO(0xB9, 0x09)
#define TEST_HMM_MIGRATE_FAULT_ORDER	_IO(0xB9, 0x0a)
#define TEST_HMM_MIGRATE_TAKE		_IO(0xB9, 0x0b)
#define TEST_HMM_MIGRATE_TO_NODE	_IO(0xB9, 0x0c)
#define TEST_HMM_MIGRATE_CANCEL		_IO(0xB9, 0x0d)

#endif /* _LIB_TEST_HMM_MIGRATE_UAPI_H */
