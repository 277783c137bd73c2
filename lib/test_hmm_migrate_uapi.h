/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The interface of the range migration test driver, lib/test_hmm_migrate.c.
 *
 * Each device has a node, /dev/hmm_migrate0 and so on. An open file stands for
 * the address space of the process that opened it, also after fork(): every
 * address below, except the pointers to buffers, is an address of that process.
 *
 * Each ioctl takes a structure that starts with its own size in bytes, by the
 * rules of copy_struct_from_user(): a program that was built against an older
 * or a newer version of a structure works as long as it leaves what the kernel
 * does not know zero. Fields marked (out) are ignored on the way in. They are
 * written back whenever the arguments were accepted, also when the call then
 * fails, so that a caller always learns how far it came.
 *
 * Errors that any ioctl may return:
 *
 *   EFAULT  the structure cannot be read; or it cannot be written, and what was asked
 *           for has been done
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
/* A minute. */
#define TEST_HMM_MIGRATE_MAX_USEC	60000000
#define TEST_HMM_MIGRATE_MAX_DEPTH	8

/* What became of a page of a range. */
enum {
	/* The core did not select it: busy, pinned, large, elsewhere, ... */
	TEST_HMM_MIGRATE_NOT_SELECTED,
	/* Nothing to move: a hole (or, to the device, a zero page). */
	TEST_HMM_MIGRATE_NO_SOURCE,
	/* No memory for it at the destination. */
	TEST_HMM_MIGRATE_NO_DESTINATION,
	/* The copy failed. */
	TEST_HMM_MIGRATE_COPY_FAILED,
	/* Copied, and then refused by migrate_vma_pages(); or on its node already. */
	TEST_HMM_MIGRATE_REFUSED,
	/* It moved. */
	TEST_HMM_MIGRATE_MOVED,
	/* A hole or a zero page, now filled with a page of zeros. */
	TEST_HMM_MIGRATE_FILLED,
	/* Fewer than TEST_HMM_MIGRATE_FATES, which leaves room for more. */
	TEST_HMM_MIGRATE_NR_FATES,
};

#define TEST_HMM_MIGRATE_FATES		16

/* The parts of a migration whose time is taken. */
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
 * struct test_hmm_migrate_info - what kind of a device is this?
 * @size: size of this structure in bytes
 * @flags: must be 0
 * @device: (out) number of the device, as in the name of its node
 * @kind: (out) TEST_HMM_MIGRATE_PRIVATE or TEST_HMM_MIGRATE_COHERENT
 * @pages: (out) device memory, in pages
 * @free: (out) how many of these are free
 * @held: (out) pages that TEST_HMM_MIGRATE_HOLD holds at this moment
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

/* Leave holes and zero pages alone. Not to the system. */
#define TEST_HMM_MIGRATE_SKIP_HOLES	0x1
/* Take what is as large as a huge page whole: folios, and (to the device) holes. */
#define TEST_HMM_MIGRATE_HUGE		0x2
/* From the device's own memory to other memory of it. To the device only. */
#define TEST_HMM_MIGRATE_RELOCATE	0x4
/* Take folios of every order whole, and what is as large as a huge page. */
#define TEST_HMM_MIGRATE_LARGE		0x8
/*
 * By migrate_vma_setup() and its sisters, a chunk at a time, and not by
 * hmm_migrate_range(). With this, and without, a copy that fails has failed for
 * a folio, or for a chunk. Not to a node.
 */
#define TEST_HMM_MIGRATE_BARE		0x10
/* Pass over what is not mapped or cannot migrate at all. Not with BARE. */
#define TEST_HMM_MIGRATE_SKIP_GAPS	0x20
/* Stop where there is no memory for a small page: ENOMEM. Not with BARE. */
#define TEST_HMM_MIGRATE_STOP_NO_MEMORY	0x40
/* Stop after a chunk that could not be copied: EIO. Not with BARE. */
#define TEST_HMM_MIGRATE_STOP_ON_ERROR	0x80
/* Copy by the engine of lib/test_hmm_migrate_dma.c: EIO if it is refused. Not with BARE. */
#define TEST_HMM_MIGRATE_ENGINE		0x100
/*
 * Where the device has less free than the range has, evict all of it before; of a range that
 * is larger than the device, for each stretch that fits. To the device only. Not with BARE.
 */
#define TEST_HMM_MIGRATE_MAKE_ROOM	0x200
/* What other devices have moves as well. To the device only. Not with BARE. */
#define TEST_HMM_MIGRATE_PEERS		0x400
/* Wait for nothing that others have locked. Not with BARE. */
#define TEST_HMM_MIGRATE_NO_WAIT	0x800

/* Who migrates. */
enum {
	TEST_HMM_MIGRATE_BY_CALLER,
	TEST_HMM_MIGRATE_BY_READER,	/* the caller, with mmap_lock held for reading */
	TEST_HMM_MIGRATE_BY_WRITER,	/* the same, for writing */
	TEST_HMM_MIGRATE_BY_WORKER,	/* a workqueue */
	TEST_HMM_MIGRATE_NR_WAYS,
};

/* What kinds of engines there are. */
enum {
	/* Has everything. */
	TEST_HMM_MIGRATE_ENGINE_ORDERED,
	/* Completes in any order, and cannot terminate. */
	TEST_HMM_MIGRATE_ENGINE_UNORDERED,
	/* Calls back without a result, and cannot terminate. */
	TEST_HMM_MIGRATE_ENGINE_SILENT,
	/* Takes short and few descriptors, and does not synchronize. */
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
 *	   chunk ends at an address that is a multiple of this, or where the vma
 *	   ends.
 * @hole_order: to the device or a node with TEST_HMM_MIGRATE_LARGE: the order of the
 *	   folios that fill holes, where the range has room for one; 0 means small pages,
 *	   and huge ones where a page fault would put them
 * @node: the node of ordinary memory, for TEST_HMM_MIGRATE_TO_NODE; otherwise
 *	must be 0
 * @engine: with TEST_HMM_MIGRATE_ENGINE: TEST_HMM_MIGRATE_ENGINE_*; otherwise must be 0
 * @way: TEST_HMM_MIGRATE_BY_*
 * @depth: how many chunks are in flight, TEST_HMM_MIGRATE_MAX_DEPTH at most; 0 for two
 * @reserved: must be 0
 * @usec: after so many microseconds, TEST_HMM_MIGRATE_MAX_USEC at most, no chunk is
 *	begun; 0 for no limit
 * @pages: (out) number of pages by what became of them; with @skipped, the sum is
 *	   all pages from @addr to @done
 * @time: (out) nanoseconds by part
 * @done: (out) up to which address it came
 * @skipped: (out) pages that are not mapped or cannot migrate at all; without
 *	   TEST_HMM_MIGRATE_SKIP_GAPS, only what was locked and then went away
 * @lost: (out) pages that an engine may still write to
 * @pages_reserved: (out) pages that were reserved
 * @in_flight: (out) how many chunks an engine had at once, at most
 * @task: (out) the thread that has done it; not with TEST_HMM_MIGRATE_BARE
 * @lock: (out) for a @way that holds mmap_lock, how it was held when that began:
 *	TEST_HMM_MIGRATE_BY_READER or TEST_HMM_MIGRATE_BY_WRITER
 *
 * Pages that cannot move stay where they were and are counted; that alone is
 * no error. Where there is no memory for a large folio, smaller ones are taken,
 * with TEST_HMM_MIGRATE_LARGE of every order but 1, else small pages.
 *
 * EINVAL: a @chunk that is too large, or misaligned; a @hole_order that does not
 * exist, or without its flag; flags that do not go together; a @node without memory; an
 * @engine or a @way that does not exist; a @depth or @usec that is too large; or, with
 * TEST_HMM_MIGRATE_BARE, any of these four.
 * ENODEV: there is no engine.
 * EAGAIN: by hmm_migrate_range_locked(): something is locked, or somebody wants mmap_lock.
 * ECANCELED: by TEST_HMM_MIGRATE_CANCEL.
 * ETIME: after @usec.
 * EIO: by TEST_HMM_MIGRATE_INJECT, of TEST_HMM_MIGRATE_FAIL_BEGIN.
 * EOPNOTSUPP: the range has a vma that cannot migrate at all, hugetlbfs or
 * device memory for example.
 *
 * Where a part of the range is the reason of an error, what lies before it has been
 * dealt with.
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
 * EFAULT: a part of the range is not readable for the process.
 * EPERM: a part of the range must not be written.
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

/* Where a page is. */
enum {
	TEST_HMM_MIGRATE_NONE,		/* nothing there yet */
	TEST_HMM_MIGRATE_ZERO,		/* the zero page, of any size */
	TEST_HMM_MIGRATE_SYSTEM,
	TEST_HMM_MIGRATE_THIS_DEVICE,
	TEST_HMM_MIGRATE_OTHER_DEVICE,
	TEST_HMM_MIGRATE_SWAPPED,
	TEST_HMM_MIGRATE_MIGRATING,	/* a migration entry, on its way */
	TEST_HMM_MIGRATE_INVALID,	/* no vma, not readable, or not ordinary memory */
	TEST_HMM_MIGRATE_EXCLUSIVE,	/* a device's to access alone */
};

#define TEST_HMM_MIGRATE_WRITABLE	0x1

/**
 * struct test_hmm_migrate_page - one page of a snapshot
 * @where: TEST_HMM_MIGRATE_NONE, ...
 * @flags: TEST_HMM_MIGRATE_WRITABLE if the entry is writable
 * @map_order: order of the mapping as hmm_range_fault() reports it
 * @folio_order: order of the folio that the page belongs to
 * @folio_index: which page of that folio it is
 */
struct test_hmm_migrate_page {
	__u8 where;
	__u8 flags;
	__u8 map_order;
	__u8 folio_order;
	__u32 folio_index;
};

/**
 * struct test_hmm_migrate_snapshot - where is each page of a range?
 * @size: size of this structure in bytes
 * @flags: must be 0
 * @addr: first address, page aligned
 * @length: bytes, a multiple of the page size
 * @buffer: pointer to a struct test_hmm_migrate_page for each page of the range
 * @done: (out) number of pages that were written to @buffer
 *
 * Nothing is faulted in. A part of the range that is not mapped is no error
 * here, its pages are TEST_HMM_MIGRATE_INVALID. Mapped pages are seen as of one
 * moment for 512 pages at a time; holes may be filled meanwhile.
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
 * By an array of pfns: groups of 16 pages that are not one after the other. Of
 * folios that are larger each page comes back for itself.
 */
#define TEST_HMM_MIGRATE_SCATTERED	0x1
/* By migrate_device_range() and its sisters, and not by hmm_migrate_evict(). */
#define TEST_HMM_MIGRATE_EVICT_BARE	0x2
/* By the first engine. Not with EVICT_BARE. */
#define TEST_HMM_MIGRATE_EVICT_ENGINE	0x4

/**
 * struct test_hmm_migrate_evict - empty the device, whoever's memory it holds
 * @size: size of this structure in bytes
 * @flags: TEST_HMM_MIGRATE_SCATTERED, ...
 * @pages: (out) number of pages by what became of them
 * @remaining: (out) pages of the device that are still in use
 * @time: (out) nanoseconds by part
 *
 * By device pfn, no vma is looked at. Pages that are busy or pinned remain, and so
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

/* Set the counters to zero after they were read. */
#define TEST_HMM_MIGRATE_RESET		0x1

/**
 * struct test_hmm_migrate_statistics - counters of the device
 * @size: size of this structure in bytes
 * @flags: TEST_HMM_MIGRATE_RESET or 0
 * @to_device: (out) pages by what became of them, to the device
 * @to_system: (out) the same for the way back: by ioctl, CPU fault, eviction
 * @time: (out) nanoseconds by part, in all of these
 * @cpu_faults: (out) CPU faults on the device's private memory
 * @device_faults: (out) faults of the device
 * @allocated: (out) device allocations by order
 * @freed: (out) frees of device memory by order
 * @injected: (out) failures injected, by TEST_HMM_MIGRATE_FAIL_*
 * @splits: (out) device folios that were split
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

/* What can be made to fail. */
enum {
	TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC,
	TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC,
	TEST_HMM_MIGRATE_FAIL_COPY,
	/* From this chunk on the engine is not told where private memory is. */
	TEST_HMM_MIGRATE_FAIL_ADDRESS,
	/* A page cannot be copied; that costs its folio, and not the chunk. */
	TEST_HMM_MIGRATE_FAIL_PAGE,
	/* There is no way to the memory of other devices, for a chunk. */
	TEST_HMM_MIGRATE_FAIL_MAP,
	TEST_HMM_MIGRATE_FAIL_BEGIN,
	TEST_HMM_MIGRATE_FAIL_RESERVE,
	/* Half of what is asked for is there. */
	TEST_HMM_MIGRATE_FAIL_RESERVE_ALL,
	TEST_HMM_MIGRATE_NR_FAIL,
};

/**
 * struct test_hmm_migrate_inject - make allocations or copies fail
 * @size: size of this structure in bytes
 * @what: TEST_HMM_MIGRATE_FAIL_*
 * @order: only what is of this order or larger counts, and fails
 * @reserved: must be 0
 * @nth: the first one to fail, 1 is the next one; 0 stops all failures
 * @times: how many fail from there on, at least 1; must be 0 if @nth is 0
 *
 * For the whole device, for CPU faults and evictions too. A new call takes
 * the place of the one before for the same @what.
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

/* Hold them by a migration that comes to nothing, not by their locks alone. */
#define TEST_HMM_MIGRATE_HOLD_MIGRATION	0x1
/* Take them, as TEST_HMM_MIGRATE_TAKE does, and hold what is taken. */
#define TEST_HMM_MIGRATE_HOLD_TAKEN	0x2

#define TEST_HMM_MIGRATE_MAX_HOLD_PAGES	512
#define TEST_HMM_MIGRATE_MAX_HOLD_TIME	3000000

/**
 * struct test_hmm_migrate_hold - hold the folio locks of a range for some time
 * @size: size of this structure in bytes
 * @flags: TEST_HMM_MIGRATE_HOLD_MIGRATION, TEST_HMM_MIGRATE_HOLD_TAKEN or 0
 * @addr: first address, page aligned
 * @length: bytes, a multiple of the page size, of TEST_HMM_MIGRATE_MAX_HOLD_PAGES
 *	at most
 * @usec: for how long, TEST_HMM_MIGRATE_MAX_HOLD_TIME microseconds at most
 * @pages: (out) how many pages were held
 *
 * Returns when the time is over. What is locked by somebody else is not held,
 * nor, without TEST_HMM_MIGRATE_HOLD_MIGRATION, coherent memory; what is private or
 * swapped out is faulted in then.
 * With it the range must lie in one vma; of what is not anonymous memory, nothing is
 * held.
 *
 * With TEST_HMM_MIGRATE_HOLD_TAKEN, of a large folio the first page is held.
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

/* By migrate_vma_setup() and its sisters, and not by hmm_migrate_fault(). */
#define TEST_HMM_MIGRATE_FAULT_BARE	0x1
/* By the first engine. Not with FAULT_BARE. */
#define TEST_HMM_MIGRATE_FAULT_ENGINE	0x2

/**
 * struct test_hmm_migrate_fault_order - what a CPU fault brings back
 * @size: size of this structure in bytes
 * @flags: TEST_HMM_MIGRATE_FAULT_BARE, TEST_HMM_MIGRATE_FAULT_ENGINE or 0
 * @order: of a device folio up to this order the whole folio, of a larger one the
 *	   page that was touched alone; TEST_HMM_MIGRATE_MAX_ORDER at first
 * @window_order: what lies in the aligned window of so many pages comes back with it; 0
 *	for the folio alone. Not with TEST_HMM_MIGRATE_FAULT_BARE.
 * @stay_usec: for how long what has arrived stays: it is not taken back with a fault's
 *	window, or evicted by hmm_migrate_evict(), before that
 *
 * For the whole device.
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
 * struct test_hmm_migrate_cancel - stop migrations that are under way
 * @size: size of this structure in bytes
 * @flags: must be 0
 * @calls: (out) how many there are, by this open file
 *
 * They end after the chunks that they have begun.
 */
struct test_hmm_migrate_cancel {
	__u32 size;
	__u32 flags;
	__u64 calls;
};

/**
 * struct test_hmm_migrate_take - the device wants to access pages alone
 * @size: size of this structure in bytes
 * @flags: must be 0
 * @addr: first address, page aligned
 * @length: bytes, a multiple of the page size
 * @pages: (out) how many pages it got
 *
 * By make_device_exclusive_range(), which takes small pages, and the first page of
 * a large folio: with it the whole folio becomes inaccessible to the CPU. Lasts
 * until the CPU touches the page.
 *
 * EFAULT: also if a part of the range must not be written.
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
 * The size travels in the structure, so it is not a part of the number: the
 * number stays when a structure grows.
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
