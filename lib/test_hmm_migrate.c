// SPDX-License-Identifier: GPL-2.0
/*
 * A device made of RAM, to test the migration of a range of a process.
 *
 * The device has its own memory, and its own page table, which mirrors the page
 * table of a process. Through it the device reads and writes the memory of the
 * process. The parts that real hardware would do are simulated here; all
 * calls into mm/ are those of a real driver, so this file can be read as an example.
 * The interface is in test_hmm_migrate_uapi.h; Documentation/mm/hmm_migrate.rst
 * says which races this driver has to close, and how it does it.
 *
 * The locks, in the order in which they nest:
 *
 *   engine_lock	held while an engine is requested or reset
 *   mmap_lock (read)	held over one trip through the migration stages; not held for
 *			an eviction
 *   folio locks	taken by the migration core, try-lock only
 *   evict_lock		one eviction by the three calls at a time
 *   client->lock	protects the device's page table; taken inside mmu notifier
 *			callbacks, so nothing under it may allocate memory in a
 *			way that waits for reclaim, or touch user memory
 *   spin locks		the xarray's own, and fault injection; innermost
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/dmaengine.h>
#include <linux/fs.h>
#include <linux/genalloc.h>
#include <linux/highmem.h>
#include <linux/hmm.h>
#include <linux/hmm_migrate.h>
#include <linux/huge_mm.h>
#include <linux/ioport.h>
#include <linux/kmemleak.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>
#include <linux/vmalloc.h>
#include <linux/xarray.h>

#include "test_hmm_migrate_uapi.h"

#define NR_PRIVATE_DEVICES	2
#define NR_DEVICES		TEST_HMM_MIGRATE_MAX_DEVICES
#define MAX_ORDER_DEVICE	TEST_HMM_MIGRATE_MAX_ORDER
#define DEFAULT_CHUNK		max_t(unsigned long, SZ_2M, PMD_SIZE)
#define HUGE_ORDER		(PMD_SHIFT - PAGE_SHIFT)
#define MAX_CHUNK		SZ_1G
#define SNAPSHOT_PAGES		512UL
#define FAULT_PAGES		64UL
#define BUSY_TIMEOUT		(10 * HZ)

#define EVICT_FLAGS \
	(TEST_HMM_MIGRATE_SCATTERED | TEST_HMM_MIGRATE_EVICT_BARE | \
	 TEST_HMM_MIGRATE_EVICT_ENGINE)

/* 64 MiB if pages are small (4 KiB). */
#define MAX_WINDOW_ORDER	14

/* The flags that only hmm_migrate_range() supports, for every direction. */
#define RANGE_FLAGS \
	(TEST_HMM_MIGRATE_SKIP_GAPS | TEST_HMM_MIGRATE_STOP_NO_MEMORY | \
	 TEST_HMM_MIGRATE_STOP_ON_ERROR | TEST_HMM_MIGRATE_ENGINE | \
	 TEST_HMM_MIGRATE_NO_WAIT)

/* Overwrites freed memory. No test fills a whole page with this byte. */
#define POISON			0xd5

static unsigned int size_mb = 64;
module_param(size_mb, uint, 0444);
MODULE_PARM_DESC(size_mb, "memory of each device in MiB, a multiple of 2 (default 64)");

static bool poison = true;
module_param(poison, bool, 0444);
MODULE_PARM_DESC(poison, "overwrite freed device memory, so that a missed copy shows (default Y)");

static bool let_cpu;
module_param(let_cpu, bool, 0644);
MODULE_PARM_DESC(let_cpu, "let the CPU copy where it is faster than an engine (default N)");

/**
 * struct counts - the outcome for the pages of one request, and the time it took
 * @pages: number of pages by TEST_HMM_MIGRATE_NOT_SELECTED, ...
 * @time: nanoseconds by TEST_HMM_MIGRATE_TIME_SETUP, ...
 */
struct counts {
	u64 pages[TEST_HMM_MIGRATE_NR_FATES];
	u64 time[TEST_HMM_MIGRATE_NR_TIMES];
};

/**
 * struct batch - the arrays for one trip through the migration stages
 * @max: number of pages that the arrays have room for
 * @npages: number of pages in this trip
 * @src: as in struct migrate_vma
 * @dst: as in struct migrate_vma
 * @fates: the outcome for each page, TEST_HMM_MIGRATE_NOT_SELECTED, ...
 */
struct batch {
	unsigned long max;
	unsigned long npages;
	unsigned long *src;
	unsigned long *dst;
	u8 *fates;
};

/*
 * Fails the @nth attempt from now on, of those of at least @order, and the @times - 1
 * next ones.
 */
struct injection {
	unsigned int order;
	u64 nth;
	u64 times;
	u64 injected;
};

/**
 * struct testdev - one device
 * @misc: the misc device of its node
 * @name: name of the node
 * @id: number of the device
 * @kind: TEST_HMM_MIGRATE_PRIVATE or TEST_HMM_MIGRATE_COHERENT
 * @region: its physical addresses; larger than the memory if the kernel rounded
 *	    up the request
 * @pgmap: its struct pages; their owner is this &struct testdev
 * @vram: the contents of a private device's memory: page n of @pgmap is at
 *	  n * PAGE_SIZE. User space never maps it, and no memory is behind the
 *	  physical addresses in @pgmap. NULL for coherent memory, which the CPU
 *	  can address.
 * @pool: the free memory, by physical address
 * @evict_lock: serializes eviction, protects @evict_batch
 * @evict_batch: allocated in advance, because eviction runs when memory is short
 * @inject_lock: protects @inject
 * @inject: failures to inject
 * @fault_order: the largest order of which a CPU fault brings back the whole folio
 * @fault_window: bytes of the aligned window that comes back with it; 0 for none
 * @fault_bare: CPU faults use the three calls of migrate.h
 * @fault_engine: CPU faults copy by an engine
 * @stay: nanoseconds that a folio stays on the device after its arrival
 * @arrived: for the first page of each folio, the time of its arrival
 * @splits: device folios that were split
 * @to_device: pages by outcome
 * @to_system: the same for the way back
 * @time: nanoseconds by part of the migration
 * @held: pages that TEST_HMM_MIGRATE_HOLD holds at this moment
 * @cpu_faults: CPU faults on private memory
 * @device_faults: faults of the device
 * @allocated: allocations by order
 * @freed: frees by order
 */
struct testdev {
	struct miscdevice misc;
	char name[16];
	unsigned int id;
	unsigned int kind;
	struct resource *region;
	struct dev_pagemap pgmap;
	void *vram;
	struct gen_pool *pool;

	struct mutex evict_lock;	/* protects evict_batch */
	struct batch evict_batch;

	spinlock_t inject_lock;		/* protects inject */
	struct injection inject[TEST_HMM_MIGRATE_NR_FAIL];

	unsigned int fault_order;
	unsigned long fault_window;
	bool fault_bare;
	bool fault_engine;
	u64 stay;
	u64 *arrived;
	atomic64_t splits;
	atomic64_t to_device[TEST_HMM_MIGRATE_NR_FATES];
	atomic64_t to_system[TEST_HMM_MIGRATE_NR_FATES];
	atomic64_t time[TEST_HMM_MIGRATE_NR_TIMES];
	atomic_long_t held;
	atomic64_t cpu_faults;
	atomic64_t device_faults;
	atomic64_t allocated[MAX_ORDER_DEVICE + 1];
	atomic64_t freed[MAX_ORDER_DEVICE + 1];
};

/**
 * struct client - an open file: the process whose page table the device mirrors
 * @device: the device
 * @mm: the address space, which may have no users any more
 * @notifier: covers the whole address space
 * @lock: protects what follows
 * @page_table: the device's page table, a value entry for each page:
 *		pfn << 1 | writable. An entry holds no reference:
 *		client_invalidate() removes it before the page is freed.
 * @calls: migrations by hmm_migrate_range() that are under way
 * @tracker: tracks invalidations by others during migrations
 */
struct client {
	struct testdev *device;
	struct mm_struct *mm;
	struct mmu_interval_notifier notifier;
	struct mutex lock;		/* protects page_table and calls */
	struct xarray page_table;
	struct list_head calls;
	struct hmm_migrate_tracker tracker;
};

/**
 * struct flight - a migration by the three calls, from setup to finalize
 * @migrate: the fields that the tracker reads
 * @track: tracks invalidations by others
 */
struct flight {
	struct hmm_migrate migrate;
	struct hmm_migrate_track track;
};

/**
 * struct move - source and destination of one batch
 * @device: the device that the batch migrates to or from
 * @client: its device page table gets the new entries; NULL for a CPU fault
 * @vma: the vma; NULL for an eviction
 * @start: the first address, if there is a vma
 * @fault_page: the page that the CPU faulted on, or NULL
 * @to_device: whether the batch migrates to the device
 * @skip_holes: leave holes alone
 * @select: which large folios migrate whole: MIGRATE_VMA_SELECT_COMPOUND or
 *	    MIGRATE_VMA_SELECT_LARGE; 0 for none
 * @hole_order: the order of the folios that fill holes
 * @relocate: migrate from the device to the same device
 */
struct move {
	struct testdev *device;
	struct client *client;
	struct vm_area_struct *vma;
	unsigned long start;
	struct page *fault_page;
	bool to_device;
	bool skip_holes;
	unsigned long select;
	unsigned int hole_order;
	bool relocate;
};

/**
 * struct engine - a DMA channel that all calls copy by
 * @chan: the channel
 * @dma: the state of hmm_migrate_dma for this channel
 */
struct engine {
	struct dma_chan *chan;
	struct hmm_migrate_dma *dma;
};

static DEFINE_MUTEX(engine_lock);	/* protects engines[] */
static struct engine engines[TEST_HMM_MIGRATE_NR_ENGINES];

static struct testdev *testdevs[NR_DEVICES];
static unsigned int nr_testdevs;

/* Device memory */

static struct testdev *page_to_testdev(struct page *page)
{
	return container_of(page_pgmap(page), struct testdev, pgmap);
}

/* Look up by address rather than page_pgmap(): @pfn may be another driver's, or stale. */
static struct testdev *pfn_to_testdev(unsigned long pfn)
{
	unsigned int i;

	for (i = 0; i < nr_testdevs; i++) {
		struct range *range = &testdevs[i]->pgmap.range;

		if (pfn >= PHYS_PFN(range->start) && pfn <= PHYS_PFN(range->end))
			return testdevs[i];
	}
	return NULL;
}

static unsigned long testdev_first_pfn(struct testdev *device)
{
	return PHYS_PFN(device->pgmap.range.start);
}

static unsigned long testdev_pages(struct testdev *device)
{
	return range_len(&device->pgmap.range) >> PAGE_SHIFT;
}

/* The time when a folio arrived on the device. */
static u64 *testdev_arrived(struct testdev *device, struct folio *folio)
{
	return device->arrived + folio_pfn(folio) - testdev_first_pfn(device);
}

static unsigned long testdev_free_pages(struct testdev *device)
{
	return gen_pool_avail(device->pool) >> PAGE_SHIFT;
}

/*
 * Map the contents of @page, which is private device memory or memory that the CPU
 * can address.
 */
static void *map_contents(struct page *page)
{
	struct testdev *device;

	if (!is_device_private_page(page))
		return kmap_local_page(page);

	device = page_to_testdev(page);
	return device->vram +
		((page_to_pfn(page) - testdev_first_pfn(device)) << PAGE_SHIFT);
}

static void unmap_contents(struct page *page, void *contents)
{
	if (!is_device_private_page(page))
		kunmap_local(contents);
}

static void fill_contents(struct page *page, int byte)
{
	void *contents = map_contents(page);

	memset(contents, byte, PAGE_SIZE);
	unmap_contents(page, contents);
}

static bool testdev_fails(struct testdev *device, unsigned int what,
			  unsigned int order)
{
	struct injection *inject = &device->inject[what];
	bool fails = false;

	/* The usual case: not armed. A race with the ioctl is harmless. */
	if (!READ_ONCE(inject->times))
		return false;

	spin_lock(&device->inject_lock);
	if (inject->times && order >= inject->order) {
		if (inject->nth > 1) {
			inject->nth--;
		} else {
			WRITE_ONCE(inject->times, inject->times - 1);
			inject->injected++;
			fails = true;
		}
	}
	spin_unlock(&device->inject_lock);
	return fails;
}

/*
 * Take device memory of any order up to MAX_ORDER_DEVICE from the pool,
 * naturally aligned. Returns the pfn, or 0.
 */
static unsigned long testdev_take(struct testdev *device, unsigned int order)
{
	unsigned long addr;

	if (testdev_fails(device, TEST_HMM_MIGRATE_FAIL_DEVICE_ALLOC, order))
		return 0;

	addr = gen_pool_alloc(device->pool, PAGE_SIZE << order);
	if (!addr)
		return 0;

	atomic64_inc(&device->allocated[order]);
	return PHYS_PFN(addr);
}

/* Called from any context that can drop the last reference to a folio. */
static void testdev_give_back(struct testdev *device, unsigned long pfn,
			      unsigned int order)
{
	atomic64_inc(&device->freed[order]);
	gen_pool_free(device->pool, PFN_PHYS(pfn), PAGE_SIZE << order);
}

/*
 * Allocate a folio of the device, referenced and locked, or return NULL. A real
 * driver would store per-folio data; this one stores the device, and a folio without
 * it means a missed folio_split() callback.
 */
static struct folio *testdev_alloc_folio(struct testdev *device,
					 unsigned int order)
{
	unsigned long pfn = testdev_take(device, order);
	struct folio *folio;

	if (!pfn)
		return NULL;

	/* zone_device_folio_init() copes with stale tail pages of earlier folios. */
	folio = (struct folio *)pfn_to_page(pfn);
	zone_device_folio_init(folio, &device->pgmap, order);
	folio_set_zone_device_data(folio, device);
	return folio;
}

static void testdev_folio_free(struct folio *folio)
{
	struct testdev *device = page_to_testdev(&folio->page);
	unsigned long i;

	WARN_ON_ONCE(folio_zone_device_data(folio) != device);
	/*
	 * Poison freed memory: otherwise the next user could find the old contents
	 * there, which would hide a missed copy. Poison before the memory returns to
	 * the pool, because it may be allocated again at once.
	 */
	for (i = 0; poison && i < folio_nr_pages(folio); i++)
		fill_contents(folio_page(folio, i), POISON);
	testdev_give_back(device, folio_pfn(folio), folio_order(folio));
}

static void testdev_folio_split(struct folio *head, struct folio *tail)
{
	struct testdev *device = folio_zone_device_data(head);

	if (!tail)
		return;
	atomic64_inc(&device->splits);
	folio_set_zone_device_data(tail, device);
}

/* The checks of every ioctl that takes a range of pages. */
static int check_range(u64 addr, u64 length)
{
	u64 end;

	if (!PAGE_ALIGNED(addr) || !PAGE_ALIGNED(length) || !length ||
	    check_add_overflow(addr, length, &end))
		return -EINVAL;
	return 0;
}

/* The device's page table */

static void *device_entry(unsigned long pfn, bool writable)
{
	return xa_mk_value(pfn << 1 | writable);
}

static struct page *device_entry_page(void *entry)
{
	return pfn_to_page(xa_to_value(entry) >> 1);
}

static bool device_entry_writable(void *entry)
{
	return xa_to_value(entry) & 1;
}

static void client_forget(struct client *client, unsigned long start,
			  unsigned long end)
{
	XA_STATE(xas, &client->page_table, start >> PAGE_SHIFT);
	void *entry;

	lockdep_assert_held(&client->lock);
	xas_lock(&xas);
	xas_for_each(&xas, entry, (end - 1) >> PAGE_SHIFT)
		xas_store(&xas, NULL);
	xas_unlock(&xas);
}

static bool client_invalidate(struct mmu_interval_notifier *notifier,
			      const struct mmu_notifier_range *range,
			      unsigned long cur_seq)
{
	struct client *client = container_of(notifier, struct client, notifier);

	/* The CPU loses access to the page, but this device keeps it. */
	if (range->event == MMU_NOTIFY_EXCLUSIVE &&
	    range->owner == client->device)
		return true;

	if (mmu_notifier_range_blockable(range))
		mutex_lock(&client->lock);
	else if (!mutex_trylock(&client->lock))
		return false;

	/*
	 * Invalidate for our own migrations as well: between setup and finalize the
	 * device must not write to the old page, and a device fault that found the
	 * old page must not enter it.
	 */
	mmu_interval_set_seq(notifier, cur_seq);
	client_forget(client, range->start, range->end);

	hmm_migrate_tracker_invalidate(&client->tracker, range);
	mutex_unlock(&client->lock);
	return true;
}

static const struct mmu_interval_notifier_ops client_notifier_ops = {
	.invalidate = client_invalidate,
};

/*
 * From here on, the tracker sees invalidations of the range by others. Call this
 * before mmap_lock is taken, so that no other task has to wait for us.
 */
static void client_take_off(struct client *client, struct flight *flight)
{
	flight->migrate = (struct hmm_migrate){ .pgmap_owner = client->device };
	hmm_migrate_track_start(&flight->track, &client->tracker, &flight->migrate);
	hmm_migrate_track_begin(&flight->track, &client->notifier);
}

/*
 * The pages belong to the process now and are still locked. Enter them into the
 * device's page table, so that the device need not fault. If the range was
 * invalidated meanwhile, for example by MADV_DONTNEED, which takes mmap_lock only for
 * reading, pages may be gone already and their invalidation will not come again: skip
 * the range, and the device faults. The device also faults if an entry cannot be
 * allocated.
 */
static void client_commit(struct client *client, struct flight *flight,
			  struct move *move, struct batch *batch)
{
	unsigned long end = move->start + (batch->npages << PAGE_SHIFT);
	unsigned long index = move->start >> PAGE_SHIFT;
	unsigned long i, dst, pfn, first = 0;

	/* hmm_range_fault() would refuse to enter these pages as well. */
	if (!(move->vma->vm_flags & VM_READ))
		return;

	mutex_lock(&client->lock);
	if (!hmm_migrate_track_is_valid(&flight->track, move->start, end))
		goto out;
	for (i = 0; i < batch->npages; i++) {
		if (batch->dst[i])
			first = i;
		if (batch->fates[i] < TEST_HMM_MIGRATE_MOVED)
			continue;
		dst = batch->dst[first];
		pfn = page_to_pfn(migrate_pfn_to_page(dst)) + i - first;
		xa_store(&client->page_table, index + i,
			 device_entry(pfn, dst & MIGRATE_PFN_WRITE),
			 GFP_NOWAIT);
	}
out:
	mutex_unlock(&client->lock);
}

/* Enter the result of hmm_range_fault(). Called with client->lock held. */
static int client_enter(struct client *client, struct hmm_range *range)
{
	unsigned long index = range->start >> PAGE_SHIFT;
	unsigned long npages = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long i;

	lockdep_assert_held(&client->lock);
	for (i = 0; i < npages; i++) {
		unsigned long hmm_pfn = range->hmm_pfns[i];
		void *entry;

		entry = device_entry(page_to_pfn(hmm_pfn_to_page(hmm_pfn)),
				     hmm_pfn & HMM_PFN_WRITE);
		entry = xa_store(&client->page_table, index + i, entry,
				 GFP_NOWAIT);
		if (xa_is_err(entry))
			return xa_err(entry);
	}
	return 0;
}

/*
 * Repeat hmm_range_fault() until the range does not change meanwhile. Returns 0 with
 * client->lock held, or an error without the lock.
 */
static int client_range_fault(struct client *client, struct hmm_range *range,
			      int (*look)(struct client *client,
					  struct hmm_range *range))
{
	unsigned long npages = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long deadline = jiffies + BUSY_TIMEOUT;
	struct mm_struct *mm = client->mm;
	int ret;

	range->notifier = &client->notifier;
	do {
		if (fatal_signal_pending(current))
			return -EINTR;
		if (time_after(jiffies, deadline))
			return -EBUSY;
		cond_resched();

		/* hmm_pfns is also input to hmm_range_fault(). */
		memset(range->hmm_pfns, 0, npages * sizeof(*range->hmm_pfns));
		range->notifier_seq = mmu_interval_read_begin(&client->notifier);
		if (mmap_read_lock_killable(mm))
			return -EINTR;
		ret = hmm_range_fault(range);
		if (!ret && look)
			ret = look(client, range);
		mmap_read_unlock(mm);
		if (ret == -EBUSY)
			continue;
		if (ret)
			return ret;

		mutex_lock(&client->lock);
		if (!mmu_interval_read_retry(&client->notifier,
					     range->notifier_seq))
			return 0;
		mutex_unlock(&client->lock);
	} while (true);
}

static int client_fault_pages(struct client *client, unsigned long start,
			      unsigned long end, bool write)
{
	unsigned long hmm_pfns[FAULT_PAGES];
	struct hmm_range range = {
		.start = start,
		.end = end,
		.hmm_pfns = hmm_pfns,
		.default_flags = HMM_PFN_REQ_FAULT |
				 (write ? HMM_PFN_REQ_WRITE : 0),
		.dev_private_owner = client->device,
	};
	int ret;

	ret = client_range_fault(client, &range, NULL);
	if (ret)
		return ret;

	ret = client_enter(client, &range);
	mutex_unlock(&client->lock);
	if (!ret && write && !(hmm_pfns[0] & HMM_PFN_WRITE))
		return -EAGAIN;
	return ret;
}

/*
 * hmm_range_fault() accepts a private page of the owner also for a write to a
 * read-only entry. In that case take a fault like the CPU's, which migrates the page
 * back to system memory, where copy on write works.
 */
static int client_write_fault(struct client *client, unsigned long addr)
{
	struct mm_struct *mm = client->mm;
	struct vm_area_struct *vma;
	int ret = -EFAULT;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	vma = vma_lookup(mm, addr);
	if (vma && !(vma->vm_flags & VM_WRITE))
		ret = -EPERM;
	else if (vma)
		ret = fixup_user_fault(mm, addr, FAULT_FLAG_WRITE, NULL);
	mmap_read_unlock(mm);
	return ret;
}

/*
 * Fault in only the page at @start, and reserve memory for its entry where reclaim is
 * possible. An invalidation may drop the reservation; that is unlikely, because the
 * first attempt has already faulted the page in.
 */
static int client_fault_page(struct client *client, unsigned long start,
			     bool write)
{
	unsigned long index = start >> PAGE_SHIFT;
	int ret;

	ret = xa_reserve(&client->page_table, index, GFP_KERNEL);
	if (ret)
		return ret;
	ret = client_fault_pages(client, start, start + PAGE_SIZE, write);
	/* No effect if the index has an entry by now. */
	xa_release(&client->page_table, index);
	return ret;
}

/*
 * The device faults on @addr, and on the following pages up to @end as well. If the
 * following pages are not accessible or do not fit into memory, fault in only the
 * page at @addr.
 */
static int client_fault(struct client *client, unsigned long addr,
			unsigned long end, bool write)
{
	unsigned long start = PAGE_ALIGN_DOWN(addr);
	int ret;

	atomic64_inc(&client->device->device_faults);
	end = min(PAGE_ALIGN(end), start + FAULT_PAGES * PAGE_SIZE);
	ret = client_fault_pages(client, start, end, write);
	if (ret == -EFAULT || ret == -EPERM || ret == -ENOMEM)
		ret = client_fault_page(client, start, write);
	if (ret == -EAGAIN)
		ret = client_write_fault(client, start);
	return ret;
}

/* Copy through the device's page table. Returns -ENOENT if the device has to fault. */
static int client_copy(struct client *client, unsigned long addr, void *buffer,
		       size_t length, bool write)
{
	struct page *page;
	void *contents;
	void *entry;

	guard(mutex)(&client->lock);
	entry = xa_load(&client->page_table, addr >> PAGE_SHIFT);
	if (!entry || (write && !device_entry_writable(entry)))
		return -ENOENT;

	page = device_entry_page(entry);
	contents = map_contents(page);
	if (write) {
		memcpy(contents + offset_in_page(addr), buffer, length);
		/*
		 * The CPU's PTE may be clean although it is writable, for example after
		 * MADV_FREE. The page stays mapped while we hold client->lock, so
		 * folio->mapping is stable. Device memory needs no such mark: a page that
		 * migrates back is dirty.
		 */
		if (!is_zone_device_page(page))
			set_page_dirty(page);
	} else {
		memcpy(buffer, contents + offset_in_page(addr), length);
	}
	unmap_contents(page, contents);
	return 0;
}

/* Copy through a bounce buffer: user memory must not be touched under client->lock. */
static int client_access_page(struct client *client, void *bounce,
			      struct test_hmm_migrate_access *access, bool write)
{
	unsigned long addr = access->addr + access->done;
	void __user *user = u64_to_user_ptr(access->buffer + access->done);
	unsigned long end = access->addr + access->length;
	size_t length = min(end - addr, PAGE_SIZE - offset_in_page(addr));
	unsigned long deadline = jiffies + BUSY_TIMEOUT;
	int ret;

	if (write && copy_from_user(bounce, user, length))
		return -EFAULT;

	while ((ret = client_copy(client, addr, bounce, length, write)) == -ENOENT) {
		access->faults++;
		ret = client_fault(client, addr, end, write);
		if (ret)
			return ret;
		/* Other tasks may invalidate the page again each time. */
		if (time_after(jiffies, deadline))
			return -EBUSY;
	}

	if (!write && copy_to_user(user, bounce, length))
		return -EFAULT;

	access->done += length;
	return 0;
}

static long client_access(struct client *client,
			  struct test_hmm_migrate_access *access, bool write)
{
	struct mm_struct *mm = client->mm;
	unsigned long end;
	void *bounce;
	int ret = 0;

	if (access->flags || !access->length ||
	    check_add_overflow(access->addr, access->length, &end))
		return -EINVAL;

	access->done = 0;
	access->faults = 0;
	if (end > mm->task_size)
		return -EFAULT;
	if (!mmget_not_zero(mm))
		return -ESRCH;

	bounce = kmalloc(PAGE_SIZE, GFP_KERNEL);
	if (!bounce)
		ret = -ENOMEM;
	while (!ret && access->done < access->length) {
		ret = client_access_page(client, bounce, access, write);
		if (!ret && fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	kfree(bounce);
	mmput(mm);
	return ret;
}

static long client_read(struct client *client, void *argument)
{
	return client_access(client, argument, false);
}

static long client_write(struct client *client, void *argument)
{
	return client_access(client, argument, true);
}

/* Snapshot */

/* The entry has become present since hmm_range_fault() looked at it. */
#define LOOK_AGAIN		(TEST_HMM_MIGRATE_EXCLUSIVE + 1)

static u8 device_where(struct client *client, swp_entry_t entry)
{
	struct testdev *device = pfn_to_testdev(swp_offset_pfn(entry));

	return device == client->device ? TEST_HMM_MIGRATE_THIS_DEVICE :
					  TEST_HMM_MIGRATE_OTHER_DEVICE;
}

/*
 * hmm_range_fault() does not distinguish a hole, a swapped-out page and a private
 * page of another device. Read the entry itself, and store the result instead of a
 * pfn; HMM_PFN_VALID is not set for any of these. The walk is lockless: under
 * mmap_lock, page tables are not freed, except for those of files, which RCU
 * protects. If a present entry goes away meanwhile, the retry check of the notifier
 * fails. If a hole is filled meanwhile, no notifier is called, so hmm_range_fault()
 * has to look again.
 */
static u8 pte_where(struct client *client, pte_t pte)
{
	swp_entry_t entry;

	if (pte_none(pte))
		return TEST_HMM_MIGRATE_NONE;
	/* A PROT_NONE entry of NUMA balancing; the page is there. */
	if (pte_present(pte))
		return pte_protnone(pte) ? TEST_HMM_MIGRATE_SYSTEM : LOOK_AGAIN;

	entry = pte_to_swp_entry(pte);
	if (!non_swap_entry(entry))
		return TEST_HMM_MIGRATE_SWAPPED;
	if (is_migration_entry(entry))
		return TEST_HMM_MIGRATE_MIGRATING;
	if (is_pte_marker_entry(entry))
		return TEST_HMM_MIGRATE_NONE;
	if (is_device_exclusive_entry(entry))
		return TEST_HMM_MIGRATE_EXCLUSIVE;
	if (!is_device_private_entry(entry))
		return TEST_HMM_MIGRATE_INVALID;
	return device_where(client, entry);
}

static u8 pmd_where(struct client *client, pmd_t pmd, unsigned long addr)
{
	if (pmd_none(pmd))
		return TEST_HMM_MIGRATE_NONE;
	if (is_pmd_device_private_entry(pmd))
		return device_where(client, pmd_to_swp_entry(pmd));
	if (is_pmd_migration_entry(pmd))
		return TEST_HMM_MIGRATE_MIGRATING;
	if (!pmd_present(pmd))
		return TEST_HMM_MIGRATE_INVALID;
	if (pmd_leaf(pmd))
		return pmd_protnone(pmd) ? TEST_HMM_MIGRATE_SYSTEM : LOOK_AGAIN;
	if (pmd_bad(pmd))
		return TEST_HMM_MIGRATE_INVALID;
	/*
	 * pte_offset_map() is not exported; on 64-bit, pte_offset_kernel() does the
	 * same.
	 */
	return pte_where(client, ptep_get_lockless(pte_offset_kernel(&pmd, addr)));
}

static u8 addr_where(struct client *client, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(client->mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(*pgd) || pgd_bad(*pgd))
		return TEST_HMM_MIGRATE_NONE;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d) || p4d_bad(*p4d))
		return TEST_HMM_MIGRATE_NONE;
	pud = pud_offset(p4d, addr);
	if (pud_none(*pud))
		return TEST_HMM_MIGRATE_NONE;
	if (pud_leaf(*pud) || pud_bad(*pud))
		return TEST_HMM_MIGRATE_INVALID;

	guard(rcu)();
	return pmd_where(client, pmdp_get_lockless(pmd_offset(pud, addr)), addr);
}

static int snapshot_look(struct client *client, struct hmm_range *range)
{
	unsigned long npages = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long i;
	u8 where;

	for (i = 0; i < npages; i++) {
		/* PROT_NONE entries of NUMA balancing have a pfn but no flags. */
		if (range->hmm_pfns[i] & (HMM_PFN_VALID | HMM_PFN_ERROR))
			continue;
		where = addr_where(client, range->start + (i << PAGE_SHIFT));
		if (where == LOOK_AGAIN)
			return -EBUSY;
		range->hmm_pfns[i] = where;
	}
	return 0;
}

static u8 page_where(struct client *client, struct page *page)
{
	struct testdev *device = pfn_to_testdev(page_to_pfn(page));
	struct folio *folio = page_folio(page);

	if (device == client->device)
		return TEST_HMM_MIGRATE_THIS_DEVICE;
	if (device || is_zone_device_page(page))
		return TEST_HMM_MIGRATE_OTHER_DEVICE;
	if (is_zero_pfn(page_to_pfn(page)))
		return TEST_HMM_MIGRATE_ZERO;
	/*
	 * The huge zero folio is not exported to modules. Unlike ordinary huge pages
	 * it has no mapping; a folio of another driver without a mapping would be
	 * reported as a zero page, too.
	 */
	if (!folio->mapping && folio_order(folio) == HPAGE_PMD_ORDER)
		return TEST_HMM_MIGRATE_ZERO;
	return TEST_HMM_MIGRATE_SYSTEM;
}

/*
 * Called with client->lock held after the retry check: a mapped page stays mapped
 * until client_invalidate() gets the lock, so its folio can be inspected.
 */
static void snapshot_page(struct client *client, unsigned long hmm_pfn,
			  struct test_hmm_migrate_page *out)
{
	struct folio *folio;
	struct page *page;

	*out = (struct test_hmm_migrate_page){};
	if (hmm_pfn & HMM_PFN_ERROR) {
		out->where = TEST_HMM_MIGRATE_INVALID;
		return;
	}
	if (!(hmm_pfn & HMM_PFN_VALID)) {
		out->where = hmm_pfn;
		return;
	}

	page = hmm_pfn_to_page(hmm_pfn);
	folio = page_folio(page);
	out->where = page_where(client, page);
	out->flags = hmm_pfn & HMM_PFN_WRITE ? TEST_HMM_MIGRATE_WRITABLE : 0;
	out->map_order = hmm_pfn_to_map_order(hmm_pfn);
	out->folio_order = folio_order(folio);
	out->folio_index = folio_page_idx(folio, page);
}

static int snapshot_pages(struct client *client, unsigned long start,
			  unsigned long end, unsigned long *hmm_pfns,
			  struct test_hmm_migrate_page *out)
{
	struct hmm_range range = {
		.start = start,
		.end = end,
		.hmm_pfns = hmm_pfns,
		.dev_private_owner = client->device,
		.flags = HMM_RANGE_FOLIO_ORDER,
	};
	unsigned long i;
	int ret;

	ret = client_range_fault(client, &range, snapshot_look);
	if (ret)
		return ret;

	for (i = 0; i < (end - start) >> PAGE_SHIFT; i++)
		snapshot_page(client, hmm_pfns[i], &out[i]);
	mutex_unlock(&client->lock);
	return 0;
}

static int snapshot_range(struct client *client,
			  struct test_hmm_migrate_snapshot *snapshot,
			  unsigned long *hmm_pfns,
			  struct test_hmm_migrate_page *out)
{
	struct test_hmm_migrate_page __user *user =
		u64_to_user_ptr(snapshot->buffer);
	unsigned long end = snapshot->addr + snapshot->length;
	unsigned long addr, next, npages;
	int ret;

	for (addr = snapshot->addr; addr < end; addr = next) {
		next = min(end, addr + SNAPSHOT_PAGES * PAGE_SIZE);
		npages = (next - addr) >> PAGE_SHIFT;
		ret = snapshot_pages(client, addr, next, hmm_pfns, out);
		if (ret)
			return ret;
		if (copy_to_user(user + snapshot->done, out,
				 npages * sizeof(*out)))
			return -EFAULT;
		snapshot->done += npages;
	}
	return 0;
}

static long client_snapshot(struct client *client, void *argument)
{
	struct test_hmm_migrate_snapshot *snapshot = argument;
	struct mm_struct *mm = client->mm;
	struct test_hmm_migrate_page *out;
	unsigned long *hmm_pfns;
	long ret;

	if (snapshot->flags)
		return -EINVAL;
	ret = check_range(snapshot->addr, snapshot->length);
	if (ret)
		return ret;

	snapshot->done = 0;
	if (snapshot->addr + snapshot->length > mm->task_size)
		return -EFAULT;
	if (!mmget_not_zero(mm))
		return -ESRCH;
	hmm_pfns = kmalloc_array(SNAPSHOT_PAGES, sizeof(*hmm_pfns), GFP_KERNEL);
	out = kmalloc_array(SNAPSHOT_PAGES, sizeof(*out), GFP_KERNEL);
	ret = -ENOMEM;
	if (hmm_pfns && out)
		ret = snapshot_range(client, snapshot, hmm_pfns, out);
	kfree(out);
	kfree(hmm_pfns);
	mmput(mm);
	return ret;
}

/* Migration */

static int batch_alloc(struct batch *batch, unsigned long max)
{
	batch->max = max;
	batch->src = kvmalloc_array(max, sizeof(*batch->src), GFP_KERNEL);
	batch->dst = kvmalloc_array(max, sizeof(*batch->dst), GFP_KERNEL);
	batch->fates = kvmalloc_array(max, sizeof(*batch->fates), GFP_KERNEL);
	if (batch->src && batch->dst && batch->fates)
		return 0;
	return -ENOMEM;
}

static void batch_free(struct batch *batch)
{
	kvfree(batch->src);
	kvfree(batch->dst);
	kvfree(batch->fates);
}

static void batch_reset(struct batch *batch, unsigned long npages)
{
	batch->npages = npages;
	memset(batch->src, 0, npages * sizeof(*batch->src));
	memset(batch->dst, 0, npages * sizeof(*batch->dst));
}

static void counts_lap(struct counts *counts, unsigned int part, u64 *then)
{
	u64 now = ktime_get_ns();

	counts->time[part] += now - *then;
	*then = now;
}

static void counts_to_device(struct counts *counts, struct testdev *device,
			     bool to_device)
{
	atomic64_t *pages = to_device ? device->to_device : device->to_system;
	unsigned int i;

	for (i = 0; i < TEST_HMM_MIGRATE_NR_FATES; i++)
		atomic64_add(counts->pages[i], &pages[i]);
	for (i = 0; i < TEST_HMM_MIGRATE_NR_TIMES; i++)
		atomic64_add(counts->time[i], &device->time[i]);
}

/* Copy a page, or clear it without a source page. */
static int copy_page_contents(struct testdev *device, struct page *to,
			      struct page *from)
{
	void *to_contents, *from_contents;

	if (testdev_fails(device, TEST_HMM_MIGRATE_FAIL_COPY, 0))
		return -EIO;

	if (!from) {
		fill_contents(to, 0);
		return 0;
	}

	to_contents = map_contents(to);
	from_contents = map_contents(from);
	memcpy(to_contents, from_contents, PAGE_SIZE);
	unmap_contents(from, from_contents);
	unmap_contents(to, to_contents);
	return 0;
}

/* Allocate ordinary memory, referenced and locked, or return NULL. */
static struct folio *system_alloc_folio(struct move *move, unsigned long addr,
					unsigned int order)
{
	gfp_t gfp = order ? GFP_TRANSHUGE : GFP_HIGHUSER_MOVABLE;
	struct folio *folio;

	if (testdev_fails(move->device, TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC, order))
		return NULL;

	if (move->vma)
		folio = vma_alloc_folio(gfp, order, move->vma, addr, order);
	else
		folio = folio_alloc(gfp, order);
	if (!folio)
		return NULL;

	folio_lock(folio);
	return folio;
}

static struct folio *move_alloc(struct move *move, unsigned long i,
				unsigned int order)
{
	if (move->to_device)
		return testdev_alloc_folio(move->device, order);
	return system_alloc_folio(move, move->start + (i << PAGE_SHIFT), order);
}

static int copy_folio_contents(struct testdev *device, struct folio *to,
			       struct page *from)
{
	unsigned long i;
	int ret = 0;

	for (i = 0; !ret && i < folio_nr_pages(to); i++) {
		ret = copy_page_contents(device, folio_page(to, i),
					 from ? from + i : NULL);
		cond_resched();
	}
	return ret;
}

/*
 * Allocate a folio of @order for the unit that begins at slot @i, and copy @from to
 * it. @src is the src entry of the old folio.
 */
static u8 move_folio(struct move *move, struct batch *batch, unsigned long i,
		     unsigned long src, struct page *from, unsigned int order)
{
	bool writable = src & MIGRATE_PFN_WRITE;
	struct folio *to = move_alloc(move, i, order);

	if (!to)
		return TEST_HMM_MIGRATE_NO_DESTINATION;

	if (copy_folio_contents(move->device, to, from)) {
		folio_unlock(to);
		folio_put(to);
		return TEST_HMM_MIGRATE_COPY_FAILED;
	}

	/*
	 * A filled hole is writable if the vma is, see migrate_vma_pages(). In a vma
	 * with userfaultfd-wp the zero page may be write-protected, so make the
	 * device fault for a write.
	 */
	if (!from)
		writable = (move->vma->vm_flags & VM_WRITE) &&
			   !userfaultfd_wp(move->vma);
	batch->dst[i] = migrate_pfn(folio_pfn(to)) |
			(order ? MIGRATE_PFN_COMPOUND : 0) |
			(writable ? MIGRATE_PFN_WRITE : 0);
	return from ? TEST_HMM_MIGRATE_MOVED : TEST_HMM_MIGRATE_FILLED;
}

/*
 * Whether a hole of @order fits at slot @i. With userfaultfd a fault would use small
 * pages, and migrate_vma_pages() refuses large folios.
 */
static bool hole_is_large(struct move *move, struct batch *batch,
			  unsigned long i, unsigned int order)
{
	unsigned long addr = move->start + (i << PAGE_SHIFT);
	unsigned long end = i + (1UL << order);

	if (!IS_ALIGNED(addr, PAGE_SIZE << order) || end > batch->npages ||
	    userfaultfd_armed(move->vma))
		return false;
	for (; i < end; i++)
		if (batch->src[i] != MIGRATE_PFN_MIGRATE)
			return false;
	return true;
}

/* The order of the unit at slot @i: a folio, or a hole. */
static unsigned int unit_order(struct move *move, struct batch *batch,
			       unsigned long i)
{
	struct page *page = migrate_pfn_to_page(batch->src[i]);

	if (batch->src[i] & MIGRATE_PFN_COMPOUND)
		return page ? folio_order(page_folio(page)) : HUGE_ORDER;
	if (move->hole_order && hole_is_large(move, batch, i, move->hole_order))
		return move->hole_order;
	return 0;
}

/* The next smaller order. Anonymous folios cannot be order-1. */
static unsigned int smaller_order(struct move *move, unsigned int order)
{
	if (!(move->select & MIGRATE_VMA_SELECT_LARGE) || order <= 2)
		return 0;
	return order - 1;
}

/*
 * A unit for which no whole folio could be allocated: allocate folios for its parts.
 * Parts only get smaller on the way; a larger one would need an uneven split of the
 * unit.
 */
static void move_unit_in_parts(struct move *move, struct batch *batch,
			       unsigned long first, unsigned int order)
{
	struct page *from = migrate_pfn_to_page(batch->src[first]);
	unsigned long end = 1UL << order, i = 0;
	u8 fate;

	order = smaller_order(move, order);
	while (i < end) {
		fate = move_folio(move, batch, first + i, batch->src[first],
				  from ? from + i : NULL, order);
		if (fate == TEST_HMM_MIGRATE_NO_DESTINATION && order) {
			order = smaller_order(move, order);
			continue;
		}
		memset(batch->fates + first + i, fate, 1UL << order);
		i += 1UL << order;
	}
}

/* Allocate memory for the unit at slot @i, and copy to it. */
static void move_unit(struct move *move, struct batch *batch, unsigned long i,
		      unsigned int order)
{
	unsigned long src = batch->src[i];
	struct page *from = migrate_pfn_to_page(src);
	u8 fate;

	if (!(src & MIGRATE_PFN_MIGRATE))
		fate = TEST_HMM_MIGRATE_NOT_SELECTED;
	else if (!from && (!move->to_device || move->skip_holes))
		fate = TEST_HMM_MIGRATE_NO_SOURCE;
	else
		fate = move_folio(move, batch, i, src, from, order);

	if (order && fate == TEST_HMM_MIGRATE_NO_DESTINATION)
		move_unit_in_parts(move, batch, i, order);
	else
		memset(batch->fates + i, fate, 1UL << order);
}

static void move_pages_contents(struct move *move, struct batch *batch)
{
	unsigned long i, next;
	unsigned int order;

	for (i = 0; i < batch->npages; i = next) {
		order = unit_order(move, batch, i);
		next = i + (1UL << order);
		move_unit(move, batch, i, order);
	}
}

/* Number of slots of the unit that migrate_vma_pages() has left at slot @i. */
static unsigned long settled_pages(struct batch *batch, unsigned long i)
{
	struct page *page = migrate_pfn_to_page(batch->src[i]);

	if (batch->src[i] & MIGRATE_PFN_COMPOUND && page)
		return folio_nr_pages(page_folio(page));
	/* A hole is as large as the folio that fills it. */
	page = page ? NULL : migrate_pfn_to_page(batch->dst[i]);
	return page ? folio_nr_pages(page_folio(page)) : 1;
}

/*
 * After migrate_vma_pages(), which clears MIGRATE_PFN_MIGRATE for pages that it
 * refuses.
 */
static void move_settle(struct move *move, struct batch *batch,
			struct counts *counts)
{
	unsigned long i, src = 0, next = 0;

	for (i = 0; i < batch->npages; i++) {
		u8 *fate = &batch->fates[i];

		if (i >= next) {
			src = batch->src[i];
			next = i + settled_pages(batch, i);
		}
		if (*fate >= TEST_HMM_MIGRATE_MOVED &&
		    !(src & MIGRATE_PFN_MIGRATE))
			*fate = TEST_HMM_MIGRATE_REFUSED;
		/*
		 * In an eviction, unselected slots are unused pages of the device: do not
		 * count them.
		 */
		if (!move->vma && *fate == TEST_HMM_MIGRATE_NOT_SELECTED)
			continue;
		counts->pages[*fate]++;
	}
}

/* The kind of memory to migrate from: system memory, or the device's own. */
static unsigned long device_select(struct testdev *device, bool system)
{
	if (system)
		return MIGRATE_VMA_SELECT_SYSTEM;
	if (device->kind == TEST_HMM_MIGRATE_PRIVATE)
		return MIGRATE_VMA_SELECT_DEVICE_PRIVATE;
	return MIGRATE_VMA_SELECT_DEVICE_COHERENT;
}

/* The kinds of large folios that migrate whole. */
static unsigned long range_select(const struct test_hmm_migrate_range *range)
{
	if (range->flags & TEST_HMM_MIGRATE_LARGE)
		return MIGRATE_VMA_SELECT_LARGE;
	return range->flags & TEST_HMM_MIGRATE_HUGE ? MIGRATE_VMA_SELECT_COMPOUND : 0;
}

/* One trip through the stages. Called with mmap_lock held for reading. */
static int move_stages(struct move *move, struct batch *batch,
		       struct flight *flight, struct counts *counts)
{
	struct migrate_vma args = {
		.vma = move->vma,
		.start = move->start,
		.end = move->start + (batch->npages << PAGE_SHIFT),
		.src = batch->src,
		.dst = batch->dst,
		.pgmap_owner = move->device,
		.flags = device_select(move->device,
				       move->to_device && !move->relocate) |
			 move->select,
		.fault_page = move->fault_page,
	};
	u64 then = ktime_get_ns();

	if (flight)
		WRITE_ONCE(flight->migrate.unmapping, true);
	/*
	 * The range lies within the vma, so setup fails only if vmas of this kind
	 * cannot migrate.
	 */
	if (migrate_vma_setup(&args))
		return -EOPNOTSUPP;
	if (flight)
		WRITE_ONCE(flight->migrate.unmapping, false);
	counts_lap(counts, TEST_HMM_MIGRATE_TIME_SETUP, &then);

	move_pages_contents(move, batch);
	counts_lap(counts, TEST_HMM_MIGRATE_TIME_COPY, &then);

	migrate_vma_pages(&args);
	counts_lap(counts, TEST_HMM_MIGRATE_TIME_PAGES, &then);

	move_settle(move, batch, counts);
	if (flight && move->to_device)
		client_commit(move->client, flight, move, batch);

	then = ktime_get_ns();
	migrate_vma_finalize(&args);
	counts_lap(counts, TEST_HMM_MIGRATE_TIME_FINALIZE, &then);
	return 0;
}

/*
 * Move the part of [addr, end) that lies in the first vma. Returns the end of that
 * part through @next.
 */
static int client_move_vma(struct client *client, unsigned long addr,
			   unsigned long end, struct move *move,
			   struct batch *batch, struct flight *flight,
			   struct counts *counts, unsigned long *next)
{
	struct mm_struct *mm = client->mm;
	int ret = -EFAULT;

	if (mmap_read_lock_killable(mm))
		return -EINTR;

	move->vma = vma_lookup(mm, addr);
	if (move->vma) {
		end = min(end, move->vma->vm_end);
		move->start = addr;
		batch_reset(batch, (end - addr) >> PAGE_SHIFT);
		ret = move_stages(move, batch, flight, counts);
	}
	mmap_read_unlock(mm);
	if (!ret)
		*next = end;
	return ret;
}

/*
 * Move the next chunk of [addr, end). A chunk ends at a multiple of its size, so that
 * the default size cuts no huge page in two, or at the end of a vma.
 */
static int client_move_chunk(struct client *client, unsigned long addr,
			     unsigned long end, unsigned long chunk,
			     struct move *move, struct batch *batch,
			     struct counts *counts, unsigned long *next)
{
	struct flight flight;
	int ret;

	/* Behind task_size nothing is mapped, and the end of the chunk could overflow. */
	if (addr >= client->mm->task_size)
		return -EFAULT;

	end = min(end, addr - addr % chunk + chunk);
	client_take_off(client, &flight);
	ret = client_move_vma(client, addr, end, move, batch, &flight, counts,
			      next);
	hmm_migrate_track_stop(&flight.track);
	return ret;
}

static int client_move(struct client *client,
		       struct test_hmm_migrate_range *range, bool to_device,
		       struct counts *counts)
{
	struct move move = {
		.device = client->device,
		.client = client,
		.to_device = to_device,
		.skip_holes = range->flags & (TEST_HMM_MIGRATE_SKIP_HOLES |
					      TEST_HMM_MIGRATE_RELOCATE),
		.select = range_select(range),
		.hole_order = range->hole_order,
		.relocate = range->flags & TEST_HMM_MIGRATE_RELOCATE,
	};
	unsigned long chunk = range->chunk ?: DEFAULT_CHUNK;
	unsigned long end = range->addr + range->length;
	unsigned long addr = range->addr;
	struct batch batch;
	int ret;

	ret = batch_alloc(&batch, min(chunk, range->length) >> PAGE_SHIFT);
	while (!ret && addr < end) {
		ret = client_move_chunk(client, addr, end, chunk, &move,
					&batch, counts, &addr);
		if (!ret && fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	batch_free(&batch);
	range->done = addr;
	return ret;
}

/* The same by hmm_migrate_range() */

/**
 * struct call - one call of hmm_migrate_range() or its sisters
 * @device: the device
 * @client: the client that calls; NULL for a fault or an eviction
 * @node: entry in client->calls
 * @work: the request, with a work item for a call that a workqueue runs
 * @track: tracks invalidations by others
 * @make_room: evict what is on the device
 * @reserved: true between reserve and unreserve
 * @pages_reserved: number of pages reserved so far
 * @mapped: number of chunks that have mapped the memory of peers
 * @nid: the node to migrate to
 * @task: the thread that has begun the call
 * @way: TEST_HMM_MIGRATE_BY_*
 * @lock: how mmap_lock was held when the call began
 * @copying: number of chunks that the engine is copying
 * @in_flight: the maximum of @copying
 * @engine: the engine that copies, or NULL for the CPU
 * @peers: the other devices
 * @ops: the ops of this call, which may leave out some of the common ones
 */
struct call {
	struct testdev *device;
	struct client *client;
	struct list_head node;
	struct hmm_migrate_work work;
	struct hmm_migrate_track track;
	bool make_room;
	bool reserved;
	unsigned long pages_reserved;
	unsigned int mapped;
	int nid;
	pid_t task;
	unsigned int way;
	unsigned int lock;
	unsigned int copying;
	unsigned int in_flight;
	struct hmm_migrate_dma *engine;
	void *peers[NR_DEVICES];
	struct hmm_migrate_ops ops;
};

/* The destination of a call. */
enum direction {
	TO_DEVICE,
	TO_SYSTEM,
	TO_NODE,
	NR_DIRECTIONS
};

static int testdev_evict(struct testdev *device, unsigned int flags, bool goes_away,
			 struct counts *counts);

static struct call *migrate_call(struct hmm_migrate *migrate)
{
	return container_of(migrate, struct call, work.migrate);
}

static struct call *chunk_call(const struct hmm_migrate_chunk *chunk)
{
	return migrate_call(chunk->migrate);
}

/* How mmap_lock is held. This may see other holders than the call, too. */
static unsigned int mm_lock_held(struct mm_struct *mm)
{
	if (!mmap_read_trylock(mm))
		return TEST_HMM_MIGRATE_BY_WRITER;
	mmap_read_unlock(mm);
	if (!down_write_trylock(&mm->mmap_lock))
		return TEST_HMM_MIGRATE_BY_READER;
	up_write(&mm->mmap_lock);
	return TEST_HMM_MIGRATE_BY_CALLER;
}

/* No locks are held yet, so this callback may wait for other tasks. */
static int call_begin(struct hmm_migrate *migrate)
{
	struct call *call = migrate_call(migrate);

	call->task = task_pid_vnr(current);
	if (call->way == TEST_HMM_MIGRATE_BY_READER || call->way == TEST_HMM_MIGRATE_BY_WRITER)
		call->lock = mm_lock_held(migrate->mm);
	if (testdev_fails(call->device, TEST_HMM_MIGRATE_FAIL_BEGIN, 0))
		return -EIO;
	hmm_migrate_track_begin(&call->track, &call->client->notifier);
	return 0;
}

/*
 * This callback may also evict memory of other owners, or memory that this call has
 * moved to the device before. Reserve as many pages as fit.
 */
static int call_make_room(struct call *call, struct hmm_migrate_need *need)
{
	unsigned long npages = need->npages;
	struct testdev *device = call->device;
	struct counts counts = {};
	int ret = 0;

	npages = min(npages, testdev_pages(device));
	if (npages > testdev_free_pages(device))
		ret = testdev_evict(device, 0, false, &counts);
	npages = clamp(testdev_free_pages(device), 1UL, npages);
	if (npages < need->npages)
		need->end = min(need->end, need->start + (npages << PAGE_SHIFT));
	return ret;
}

static int call_reserve(struct hmm_migrate *migrate, struct hmm_migrate_need *need)
{
	struct call *call = migrate_call(migrate);
	int ret;

	WARN_ON_ONCE(call->reserved || !(need->orders & BIT(0)));
	if (testdev_fails(call->device, TEST_HMM_MIGRATE_FAIL_RESERVE, 0))
		return -ENOMEM;
	if (need->npages > 1 &&
	    testdev_fails(call->device, TEST_HMM_MIGRATE_FAIL_RESERVE_ALL, 0))
		need->end = need->start + (need->npages / 2 << PAGE_SHIFT);
	ret = call->make_room ? call_make_room(call, need) : 0;
	if (ret)
		return ret;
	call->reserved = true;
	call->pages_reserved += min(need->npages, (need->end - need->start) >> PAGE_SHIFT);
	return 0;
}

static void call_unreserve(struct hmm_migrate *migrate)
{
	migrate_call(migrate)->reserved = false;
}

/* A folio of device memory, from the pages that call_reserve() has reserved. */
static struct folio *call_alloc_device(const struct hmm_migrate_chunk *chunk,
				       unsigned long addr, unsigned int order)
{
	struct call *call = chunk_call(chunk);

	WARN_ON_ONCE(!call->reserved);
	return testdev_alloc_folio(call->device, order);
}

static struct folio *call_alloc_system(const struct hmm_migrate_chunk *chunk,
				       unsigned long addr, unsigned int order)
{
	struct testdev *device = chunk_call(chunk)->device;

	if (testdev_fails(device, TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC, order))
		return NULL;
	return hmm_migrate_alloc_system(chunk, addr, order);
}

static int call_copy_segment(struct hmm_migrate_chunk *chunk,
			     const struct hmm_migrate_segment *segment)
{
	struct testdev *device = chunk_call(chunk)->device;
	unsigned long i;
	int ret = 0;

	for (i = 0; !ret && i < segment->npages; i++) {
		if (testdev_fails(device, TEST_HMM_MIGRATE_FAIL_PAGE, 0))
			hmm_migrate_fail(chunk, segment->index + i);
		else
			ret = copy_page_contents(device, segment->dst + i,
						 segment->src ? segment->src + i : NULL);
		cond_resched();
	}
	return ret;
}

static int call_copy(struct hmm_migrate_chunk *chunk)
{
	unsigned long i;
	int ret = 0;

	for (i = 0; !ret && i < chunk->nr_segments; i++)
		ret = call_copy_segment(chunk, &chunk->segments[i]);
	return ret;
}

/* Whether the chunk contains memory of another device. */
static bool call_has_peers(const struct hmm_migrate_chunk *chunk)
{
	struct testdev *device;
	unsigned long i;

	for (i = 0; i < chunk->nr_segments; i++) {
		if (!chunk->segments[i].src)
			continue;
		device = pfn_to_testdev(page_to_pfn(chunk->segments[i].src));
		if (device && device != chunk_call(chunk)->device)
			return true;
	}
	return false;
}

/*
 * All devices are RAM here, so there is nothing to map. On real machines a mapping
 * can fail, which is injected here.
 */
static int call_map(struct hmm_migrate_chunk *chunk)
{
	struct call *call = chunk_call(chunk);

	if (call_has_peers(chunk) &&
	    testdev_fails(call->device, TEST_HMM_MIGRATE_FAIL_MAP, 0))
		return -EXDEV;
	call->mapped++;
	return 0;
}

static void call_unmap(struct hmm_migrate_chunk *chunk)
{
	chunk_call(chunk)->mapped--;
}

/* Pages that are already on the device stay where they are. */
static bool call_wants_peers(const struct hmm_migrate_chunk *chunk, unsigned long addr,
			     struct folio *src)
{
	return pfn_to_testdev(folio_pfn(src)) != chunk_call(chunk)->device;
}

/* Folios that have just arrived stay on the device for a while. */
static bool call_wants_old(const struct hmm_migrate_chunk *chunk, unsigned long addr,
			   struct folio *src)
{
	struct testdev *device = chunk_call(chunk)->device;
	u64 stay = READ_ONCE(device->stay);

	return !stay || ktime_get_ns() - READ_ONCE(*testdev_arrived(device, src)) >= stay;
}

static void call_enter(struct client *client, unsigned long addr,
		       struct folio *folio, bool writable)
{
	unsigned long index = addr >> PAGE_SHIFT, i;

	lockdep_assert_held(&client->lock);
	for (i = 0; i < folio_nr_pages(folio); i++)
		xa_store(&client->page_table, index + i,
			 device_entry(folio_pfn(folio) + i, writable), GFP_NOWAIT);
}

/* See client_commit(). */
static void call_commit(struct hmm_migrate_chunk *chunk)
{
	struct call *call = chunk_call(chunk);
	struct client *client = call->client;
	unsigned long addr, end, i = 0;
	struct folio *folio;

	mutex_lock(&client->lock);
	while ((folio = hmm_migrate_next(chunk, &i))) {
		addr = chunk->start + i * PAGE_SIZE;
		end = addr + folio_size(folio);
		WRITE_ONCE(*testdev_arrived(call->device, folio), ktime_get_ns());
		if ((chunk->vma->vm_flags & VM_READ) &&
		    hmm_migrate_track_is_valid(&call->track, addr, end))
			call_enter(client, addr, folio, chunk->dst[i] & MIGRATE_PFN_WRITE);
		i += folio_nr_pages(folio);
	}
	mutex_unlock(&client->lock);
}

static const struct hmm_migrate_ops call_to_device_ops = {
	.begin = call_begin,
	.reserve = call_reserve,
	.unreserve = call_unreserve,
	.alloc = call_alloc_device,
	.copy = call_copy,
	.commit = call_commit,
};

static const struct hmm_migrate_ops call_to_system_ops = {
	.begin = call_begin,
	.alloc = call_alloc_system,
	.copy = call_copy,
};

/* The address of @page's private memory, which our engine can copy from and to. */
static u64 call_address(const struct hmm_migrate_chunk *chunk, struct page *page)
{
	return (uintptr_t)map_contents(page);
}

static struct folio *call_alloc_node(const struct hmm_migrate_chunk *chunk,
				     unsigned long addr, unsigned int order)
{
	return hmm_migrate_alloc_node(chunk, addr, order, chunk_call(chunk)->nid);
}

/*
 * Private memory reports the device's node, but is not memory of that node, so it
 * moves.
 */
static bool call_wants_node(const struct hmm_migrate_chunk *chunk, unsigned long addr,
			    struct folio *src)
{
	return folio_is_device_private(src) || folio_nid(src) != chunk_call(chunk)->nid;
}

static const struct hmm_migrate_ops call_to_node_ops = {
	.begin = call_begin,
	.wants = call_wants_node,
	.alloc = call_alloc_node,
	.copy = hmm_migrate_copy,
};

/* The ops with copies by an engine */

/*
 * A driver may leave out its address op if it has no memory that needs one. Do not
 * pass on EINVAL: to user space it means an invalid argument.
 */
static int engine_copy(struct hmm_migrate_chunk *chunk)
{
	struct call *call = chunk_call(chunk);
	int ret;

	if (testdev_fails(call->device, TEST_HMM_MIGRATE_FAIL_ADDRESS, 0))
		call->ops.address = NULL;
	ret = hmm_migrate_dma_copy(chunk, call->engine);
	if (ret)
		return ret == -EINVAL ? -EIO : ret;
	call->copying++;
	call->in_flight = max(call->in_flight, call->copying);
	return 0;
}

static int engine_wait(struct hmm_migrate_chunk *chunk)
{
	chunk_call(chunk)->copying--;
	return hmm_migrate_dma_wait(chunk);
}

#define ENGINE_OPS						\
	.begin = call_begin,					\
	.copy = engine_copy,					\
	.wait = engine_wait,					\
	.address = call_address,				\
	.release = hmm_migrate_dma_release

static const struct hmm_migrate_ops engine_to_device_ops = {
	ENGINE_OPS,
	.reserve = call_reserve,
	.unreserve = call_unreserve,
	.alloc = call_alloc_device,
	.commit = call_commit,
};

static const struct hmm_migrate_ops engine_to_system_ops = {
	ENGINE_OPS,
	.alloc = call_alloc_system,
};

static const struct hmm_migrate_ops engine_to_node_ops = {
	ENGINE_OPS,
	.wants = call_wants_node,
	.alloc = call_alloc_node,
};

/* Indexed by engine or CPU, and by enum direction. */
static const struct hmm_migrate_ops *call_ops[2][NR_DIRECTIONS] = {
	{ &call_to_device_ops, &call_to_system_ops, &call_to_node_ops },
	{ &engine_to_device_ops, &engine_to_system_ops, &engine_to_node_ops },
};

static bool is_engine(struct dma_chan *chan, void *name)
{
	return !strcmp(dev_name(chan->device->dev), name);
}

static struct dma_chan *engine_request(unsigned int kind)
{
	dma_cap_mask_t mask;
	char name[32];

	snprintf(name, sizeof(name), "test_hmm_migrate_dma.%u", kind);
	dma_cap_zero(mask);
	dma_cap_set(DMA_MEMCPY, mask);
	return dma_request_channel(mask, is_engine, name);
}

/* The channel is kept until the module is unloaded; all calls copy by it. */
static struct hmm_migrate_dma *engine_get(unsigned int kind)
{
	struct engine *engine = &engines[kind];
	struct hmm_migrate_dma *dma;

	guard(mutex)(&engine_lock);
	if (!engine->chan)
		engine->chan = engine_request(kind);
	if (!engine->chan)
		return ERR_PTR(-ENODEV);
	if (!engine->dma) {
		dma = hmm_migrate_dma_create(engine->chan);
		if (IS_ERR(dma))
			return dma;
		engine->dma = dma;
	}
	hmm_migrate_dma_let_cpu(engine->dma, READ_ONCE(let_cpu));
	return engine->dma;
}

/* Retry failed engines. The tests make sure that such an engine works again. */
static void engines_reset(void)
{
	unsigned int kind;

	guard(mutex)(&engine_lock);
	for (kind = 0; kind < TEST_HMM_MIGRATE_NR_ENGINES; kind++)
		if (engines[kind].dma && hmm_migrate_dma_has_failed(engines[kind].dma))
			hmm_migrate_dma_reset(engines[kind].dma);
}

static void engines_put(void)
{
	unsigned int kind;

	for (kind = 0; kind < TEST_HMM_MIGRATE_NR_ENGINES; kind++) {
		/* After that no callback runs any more, not even for lost descriptors. */
		if (engines[kind].chan)
			dma_release_channel(engines[kind].chan);
		if (engines[kind].dma)
			hmm_migrate_dma_destroy(engines[kind].dma);
	}
}

static unsigned int call_flags(const struct test_hmm_migrate_range *range,
			       enum direction direction)
{
	unsigned int flags = direction == TO_DEVICE ? 0 : HMM_MIGRATE_TO_SYSTEM;

	if (direction != TO_SYSTEM &&
	    !(range->flags & (TEST_HMM_MIGRATE_SKIP_HOLES |
			      TEST_HMM_MIGRATE_RELOCATE)))
		flags |= HMM_MIGRATE_FILL_HOLES;
	if (!(range->flags & TEST_HMM_MIGRATE_SKIP_GAPS))
		flags |= HMM_MIGRATE_STRICT;
	if (!(range->flags & TEST_HMM_MIGRATE_STOP_NO_MEMORY))
		flags |= HMM_MIGRATE_SKIP_NO_MEMORY;
	if (range->flags & TEST_HMM_MIGRATE_STOP_ON_ERROR)
		flags |= HMM_MIGRATE_STOP_ON_COPY_ERROR;
	if (range->flags & TEST_HMM_MIGRATE_NO_WAIT)
		flags |= HMM_MIGRATE_NO_WAIT;
	return flags;
}

static void call_count(const struct hmm_migrate *migrate, struct counts *counts)
{
	u64 *pages = counts->pages, *time = counts->time;
	enum migrate_left reason;

	for (reason = 0; reason < NR_MIGRATE_LEFT; reason++)
		pages[reason < MIGRATE_LEFT_NO_DESTINATION ?
		      TEST_HMM_MIGRATE_NOT_SELECTED :
		      TEST_HMM_MIGRATE_REFUSED] += migrate->left[reason];
	pages[TEST_HMM_MIGRATE_REFUSED] += migrate->unwanted;
	pages[TEST_HMM_MIGRATE_NO_SOURCE] += migrate->holes;
	pages[TEST_HMM_MIGRATE_NO_DESTINATION] += migrate->no_memory;
	pages[TEST_HMM_MIGRATE_COPY_FAILED] += migrate->copy_failed;
	pages[TEST_HMM_MIGRATE_MOVED] += migrate->moved;
	pages[TEST_HMM_MIGRATE_FILLED] += migrate->filled;

	time[TEST_HMM_MIGRATE_TIME_SETUP] += migrate->time[HMM_MIGRATE_STEP_UNMAP];
	time[TEST_HMM_MIGRATE_TIME_COPY] += migrate->time[HMM_MIGRATE_STEP_ALLOC] +
					    migrate->time[HMM_MIGRATE_STEP_COPY] +
					    migrate->time[HMM_MIGRATE_STEP_WAIT];
	time[TEST_HMM_MIGRATE_TIME_PAGES] += migrate->time[HMM_MIGRATE_STEP_PAGES];
	time[TEST_HMM_MIGRATE_TIME_FINALIZE] += migrate->time[HMM_MIGRATE_STEP_FINALIZE];
}

/*
 * Most drivers allocate ordinary memory by the vma's policy, and need no op for that.
 * This driver has the op in order to inject failures.
 */
static void call_default_alloc(struct call *call, enum direction direction)
{
	struct injection *inject = &call->device->inject[TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC];

	if (direction == TO_SYSTEM && !READ_ONCE(inject->times))
		call->ops.alloc = NULL;
}

static unsigned long call_select(const struct call *call,
				 const struct test_hmm_migrate_range *range,
				 enum direction direction)
{
	bool relocate = range->flags & TEST_HMM_MIGRATE_RELOCATE;
	unsigned long select = range_select(range);

	if (range->flags & TEST_HMM_MIGRATE_PEERS)
		select |= MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
			  MIGRATE_VMA_SELECT_DEVICE_COHERENT;
	return select | device_select(call->device, direction != TO_SYSTEM && !relocate);
}

/*
 * All other devices are peers, and their memory is accessible unless a failure is
 * injected.
 */
static void call_add_peers(struct call *call)
{
	struct hmm_migrate *migrate = &call->work.migrate;
	unsigned int i;

	for (i = 0; i < nr_testdevs; i++)
		if (testdevs[i] != call->device)
			call->peers[migrate->nr_peers++] = testdevs[i];
	migrate->peers = call->peers;
	call->ops.wants = call_wants_peers;
	call->ops.map = call_map;
	call->ops.unmap = call_unmap;
}

static void call_init(struct call *call, struct client *client,
		      const struct test_hmm_migrate_range *range,
		      enum direction direction)
{
	call->device = client->device;
	call->client = client;
	call->make_room = range->flags & TEST_HMM_MIGRATE_MAKE_ROOM;
	call->nid = range->node;
	call->way = range->way;
	call->ops = *call_ops[!!call->engine][direction];
	call->work.migrate = (struct hmm_migrate){
		.mm = client->mm,
		.start = range->addr,
		.end = range->addr + range->length,
		.ops = &call->ops,
		.pgmap_owner = client->device,
		.select = call_select(call, range, direction),
		.flags = call_flags(range, direction),
		.hole_order = range->hole_order,
		.chunk_size = range->chunk ?: DEFAULT_CHUNK,
		.depth = range->depth,
		.deadline = range->usec ? ktime_add_us(ktime_get(), range->usec) : 0,
	};
	call_default_alloc(call, direction);
	if (range->flags & TEST_HMM_MIGRATE_PEERS)
		call_add_peers(call);
}

/* Run the call like a caller that holds mmap_lock, for reading or for writing. */
static int call_run_locked(struct call *call, bool write)
{
	struct hmm_migrate *migrate = &call->work.migrate;
	struct mm_struct *mm = migrate->mm;
	int ret;

	if (write ? mmap_write_lock_killable(mm) : mmap_read_lock_killable(mm))
		return -EINTR;
	ret = hmm_migrate_range_locked(migrate);
	if (write)
		mmap_write_unlock(mm);
	else
		mmap_read_unlock(mm);
	return ret;
}

static int call_run_queued(struct call *call)
{
	int ret;

	ret = hmm_migrate_queue(system_unbound_wq, &call->work);
	if (ret)
		return ret;
	ret = hmm_migrate_wait(&call->work);
	if (ret == -EINTR)
		hmm_migrate_cancel(&call->work);
	return ret;
}

static int call_run(struct call *call, unsigned int way, enum direction direction)
{
	switch (way) {
	case TEST_HMM_MIGRATE_BY_READER:
		return call_run_locked(call, false);
	case TEST_HMM_MIGRATE_BY_WRITER:
		return call_run_locked(call, true);
	case TEST_HMM_MIGRATE_BY_WORKER:
		return call_run_queued(call);
	}
	if (direction == TO_SYSTEM)
		return hmm_migrate_range_back(&call->work.migrate);
	return hmm_migrate_range(&call->work.migrate);
}

static int client_call(struct client *client, struct test_hmm_migrate_range *range,
		       enum direction direction, struct counts *counts,
		       struct hmm_migrate_dma *engine)
{
	struct call *call = kzalloc(sizeof(*call), GFP_KERNEL);
	int ret;

	if (!call)
		return -ENOMEM;
	call->engine = engine;
	call_init(call, client, range, direction);
	hmm_migrate_track_start(&call->track, &client->tracker, &call->work.migrate);
	mutex_lock(&client->lock);
	list_add(&call->node, &client->calls);
	mutex_unlock(&client->lock);

	ret = call_run(call, range->way, direction);

	mutex_lock(&client->lock);
	list_del(&call->node);
	mutex_unlock(&client->lock);
	hmm_migrate_track_stop(&call->track);
	WARN_ON_ONCE(call->reserved || call->mapped);
	call_count(&call->work.migrate, counts);
	range->done = call->work.migrate.done ?: range->addr;
	range->skipped = call->work.migrate.skipped;
	range->lost = call->work.migrate.lost;
	range->pages_reserved = call->pages_reserved;
	range->task = call->task;
	range->lock = call->lock;
	range->in_flight = call->in_flight;
	WARN_ON_ONCE(call->copying);
	kfree(call);
	return ret;
}

static int client_engine_call(struct client *client,
			      struct test_hmm_migrate_range *range,
			      enum direction direction, struct counts *counts)
{
	struct hmm_migrate_dma *engine = engine_get(range->engine);

	if (IS_ERR(engine))
		return PTR_ERR(engine);
	return client_call(client, range, direction, counts, engine);
}

static u32 range_flags(enum direction direction)
{
	u32 flags = TEST_HMM_MIGRATE_HUGE | TEST_HMM_MIGRATE_LARGE | RANGE_FLAGS;

	switch (direction) {
	case TO_DEVICE:
		return flags | TEST_HMM_MIGRATE_SKIP_HOLES | TEST_HMM_MIGRATE_RELOCATE |
		       TEST_HMM_MIGRATE_BARE | TEST_HMM_MIGRATE_MAKE_ROOM |
		       TEST_HMM_MIGRATE_PEERS;
	case TO_SYSTEM:
		return flags | TEST_HMM_MIGRATE_BARE;
	default:
		return flags | TEST_HMM_MIGRATE_SKIP_HOLES;
	}
}

static bool range_node_is_valid(const struct test_hmm_migrate_range *range,
				enum direction direction)
{
	if (direction != TO_NODE)
		return !range->node;
	return range->node < MAX_NUMNODES && node_state(range->node, N_MEMORY);
}

/* True unless the request needs features that only hmm_migrate_range() has. */
static bool range_is_bare(const struct test_hmm_migrate_range *range)
{
	return !(range->flags & (RANGE_FLAGS | TEST_HMM_MIGRATE_MAKE_ROOM |
				 TEST_HMM_MIGRATE_PEERS) ||
		 range->way || range->depth || range->usec);
}

static bool range_way_is_valid(const struct test_hmm_migrate_range *range)
{
	if (range->engine && !(range->flags & TEST_HMM_MIGRATE_ENGINE))
		return false;
	return range->engine < TEST_HMM_MIGRATE_NR_ENGINES &&
	       range->way < TEST_HMM_MIGRATE_NR_WAYS &&
	       range->depth <= TEST_HMM_MIGRATE_MAX_DEPTH &&
	       range->usec <= TEST_HMM_MIGRATE_MAX_USEC && !range->reserved;
}

static int check_migrate(const struct test_hmm_migrate_range *range,
			 enum direction direction)
{
	if (range->flags & ~range_flags(direction))
		return -EINVAL;
	if (range->flags & TEST_HMM_MIGRATE_BARE && !range_is_bare(range))
		return -EINVAL;
	if (range->flags & TEST_HMM_MIGRATE_PEERS &&
	    range->flags & TEST_HMM_MIGRATE_RELOCATE)
		return -EINVAL;
	if (!PAGE_ALIGNED(range->chunk) || range->chunk > MAX_CHUNK)
		return -EINVAL;
	if (range->hole_order > MAX_ORDER_DEVICE || range->hole_order == 1 ||
	    !range_node_is_valid(range, direction) || !range_way_is_valid(range))
		return -EINVAL;
	if (range->hole_order &&
	    (direction == TO_SYSTEM || !(range->flags & TEST_HMM_MIGRATE_LARGE)))
		return -EINVAL;
	return check_range(range->addr, range->length);
}

static long client_migrate(struct client *client,
			   struct test_hmm_migrate_range *range,
			   enum direction direction)
{
	struct mm_struct *mm = client->mm;
	struct counts counts = {};
	long ret;

	ret = check_migrate(range, direction);
	if (ret)
		return ret;

	memset(range->pages, 0, sizeof(range->pages));
	memset(range->time, 0, sizeof(range->time));
	range->done = range->addr;
	range->skipped = 0;
	range->lost = 0;
	range->pages_reserved = 0;
	range->task = 0;
	range->lock = 0;
	range->in_flight = 0;
	if (!mmget_not_zero(mm))
		return -ESRCH;
	if (range->flags & TEST_HMM_MIGRATE_BARE)
		ret = client_move(client, range, direction == TO_DEVICE, &counts);
	else if (range->flags & TEST_HMM_MIGRATE_ENGINE)
		ret = client_engine_call(client, range, direction, &counts);
	else
		ret = client_call(client, range, direction, &counts, NULL);
	mmput(mm);

	if (direction != TO_NODE)
		counts_to_device(&counts, client->device, direction == TO_DEVICE);
	memcpy(range->pages, counts.pages, sizeof(counts.pages));
	memcpy(range->time, counts.time, sizeof(counts.time));
	return ret;
}

static long client_migrate_to_device(struct client *client, void *argument)
{
	return client_migrate(client, argument, TO_DEVICE);
}

static long client_migrate_to_system(struct client *client, void *argument)
{
	return client_migrate(client, argument, TO_SYSTEM);
}

static long client_migrate_to_node(struct client *client, void *argument)
{
	return client_migrate(client, argument, TO_NODE);
}

static long client_cancel(struct client *client, void *argument)
{
	struct test_hmm_migrate_cancel *cancel = argument;
	struct call *call;

	if (cancel->flags)
		return -EINVAL;
	cancel->calls = 0;
	guard(mutex)(&client->lock);
	list_for_each_entry(call, &client->calls, node) {
		WRITE_ONCE(call->work.migrate.cancel, true);
		cancel->calls++;
	}
	return 0;
}

static vm_fault_t fate_to_fault(u8 fate)
{
	switch (fate) {
	case TEST_HMM_MIGRATE_NO_DESTINATION:
		return VM_FAULT_OOM;
	case TEST_HMM_MIGRATE_COPY_FAILED:
		return VM_FAULT_SIGBUS;
	default:
		/* Moved, or another task holds it: the CPU retries the access. */
		return 0;
	}
}

/* Migrate @npages pages at @start back for the CPU fault @vmf. */
static vm_fault_t fault_move(struct vm_fault *vmf, struct batch *batch,
			     unsigned long start, unsigned long npages)
{
	struct testdev *device = page_to_testdev(vmf->page);
	unsigned long i = (PAGE_ALIGN_DOWN(vmf->address) - start) >> PAGE_SHIFT;
	struct move move = {
		.device = device,
		.vma = vmf->vma,
		.start = start,
		.fault_page = vmf->page,
		.select = MIGRATE_VMA_SELECT_LARGE,
	};
	struct counts counts = {};

	batch_reset(batch, npages);
	if (move_stages(&move, batch, NULL, &counts))
		return VM_FAULT_SIGBUS;

	counts_to_device(&counts, device, false);
	return fate_to_fault(batch->fates[i]);
}

static vm_fault_t fault_move_page(struct vm_fault *vmf)
{
	unsigned long src, dst;
	u8 fate;
	struct batch batch = {
		.max = 1,
		.src = &src,
		.dst = &dst,
		.fates = &fate,
	};

	return fault_move(vmf, &batch, PAGE_ALIGN_DOWN(vmf->address), 1);
}

/* Migrate back all pages of the folio that this vma may map. */
static vm_fault_t fault_move_folio(struct vm_fault *vmf, struct folio *folio)
{
	unsigned long addr = PAGE_ALIGN_DOWN(vmf->address);
	unsigned long before = folio_page_idx(folio, vmf->page) << PAGE_SHIFT;
	unsigned long start, end;
	struct batch batch;
	vm_fault_t ret;

	start = addr - min(before, addr - vmf->vma->vm_start);
	end = min(addr - before + folio_size(folio), vmf->vma->vm_end);
	if (batch_alloc(&batch, (end - start) >> PAGE_SHIFT))
		ret = fault_move_page(vmf);
	else
		ret = fault_move(vmf, &batch, start, (end - start) >> PAGE_SHIFT);
	batch_free(&batch);
	return ret;
}

/*
 * Initialize a call that migrates back to system memory, whichever process owns the
 * memory. No client needs a commit, so the begin op is left out.
 */
static void call_init_back(struct call *call, struct testdev *device, unsigned long select,
			   struct hmm_migrate_dma *engine)
{
	call->device = device;
	call->engine = engine;
	call->ops = engine ? engine_to_system_ops : call_to_system_ops;
	call->ops.begin = NULL;
	call->ops.wants = call_wants_old;
	call->work.migrate = (struct hmm_migrate){
		.ops = &call->ops,
		.pgmap_owner = device,
		.select = select,
		.flags = HMM_MIGRATE_TO_SYSTEM | HMM_MIGRATE_SKIP_NO_MEMORY,
	};
}

/* Handle the fault by hmm_migrate_fault(). */
static vm_fault_t fault_call(struct vm_fault *vmf, bool whole)
{
	struct testdev *device = page_to_testdev(vmf->page);
	struct hmm_migrate_dma *engine = NULL;
	struct counts counts = {};
	struct call call = {};
	vm_fault_t ret;

	if (READ_ONCE(device->fault_engine))
		engine = engine_get(TEST_HMM_MIGRATE_ENGINE_ORDERED);
	if (IS_ERR(engine))
		return VM_FAULT_SIGBUS;
	call_init_back(&call, device, whole ? MIGRATE_VMA_SELECT_LARGE : 0, engine);
	ret = hmm_migrate_fault(vmf, &call.work.migrate, READ_ONCE(device->fault_window));
	call_count(&call.work.migrate, &counts);
	counts_to_device(&counts, device, false);
	return ret;
}

/* The CPU touched private memory: migrate it back. */
static vm_fault_t testdev_migrate_to_ram(struct vm_fault *vmf)
{
	struct testdev *device = page_to_testdev(vmf->page);
	struct folio *folio = page_folio(vmf->page);
	bool whole = folio_order(folio) <= READ_ONCE(device->fault_order);

	atomic64_inc(&device->cpu_faults);
	if (!READ_ONCE(device->fault_bare))
		return fault_call(vmf, whole);
	if (whole && folio_test_large(folio))
		return fault_move_folio(vmf, folio);
	return fault_move_page(vmf);
}

static const struct dev_pagemap_ops testdev_pgmap_ops = {
	.folio_free = testdev_folio_free,
	.folio_split = testdev_folio_split,
	.migrate_to_ram = testdev_migrate_to_ram,
};

/* Eviction, by the device's pfns */

#define SCATTERED_PAGES	16

/* List every second group of pages first, then the groups in between. */
static void scatter_pfns(unsigned long *pfns, unsigned long pfn, unsigned long npages)
{
	unsigned long i, odd;

	for (odd = 0; odd < 2; odd++)
		for (i = 0; i < npages; i++)
			if ((i / SCATTERED_PAGES) % 2 != odd)
				*pfns++ = pfn + i;
}

static void testdev_evict_pfns(struct testdev *device, unsigned long pfn,
			       unsigned long npages, unsigned int flags,
			       struct counts *counts)
{
	struct batch *batch = &device->evict_batch;
	struct move move = {
		.device = device,
		.select = MIGRATE_VMA_SELECT_LARGE,
	};
	u64 then;

	batch_reset(batch, npages);
	then = ktime_get_ns();
	if (flags & TEST_HMM_MIGRATE_SCATTERED) {
		scatter_pfns(batch->src, pfn, npages);
		migrate_device_pfns(batch->src, npages);
	} else {
		migrate_device_range(batch->src, pfn, npages);
	}
	counts_lap(counts, TEST_HMM_MIGRATE_TIME_SETUP, &then);

	move_pages_contents(&move, batch);
	counts_lap(counts, TEST_HMM_MIGRATE_TIME_COPY, &then);

	migrate_device_pages(batch->src, batch->dst, npages);
	counts_lap(counts, TEST_HMM_MIGRATE_TIME_PAGES, &then);

	move_settle(&move, batch, counts);
	then = ktime_get_ns();
	migrate_device_finalize(batch->src, batch->dst, npages);
	counts_lap(counts, TEST_HMM_MIGRATE_TIME_FINALIZE, &then);
}

/* Evict all pages that can move, by the three calls. */
static void testdev_evict_bare(struct testdev *device, unsigned int flags,
			       struct counts *counts)
{
	unsigned long pfn = testdev_first_pfn(device);
	unsigned long end = pfn + testdev_pages(device);

	mutex_lock(&device->evict_lock);
	while (pfn < end && !fatal_signal_pending(current)) {
		unsigned long npages = min(end - pfn, device->evict_batch.max);

		testdev_evict_pfns(device, pfn, npages, flags, counts);
		pfn += npages;
		cond_resched();
	}
	mutex_unlock(&device->evict_lock);
}

static int call_evict_scattered(struct call *call)
{
	unsigned long npages = testdev_pages(call->device), *pfns;
	int ret;

	pfns = kvmalloc_array(npages, sizeof(*pfns), GFP_KERNEL);
	if (!pfns)
		return -ENOMEM;
	scatter_pfns(pfns, testdev_first_pfn(call->device), npages);
	ret = hmm_migrate_evict_pfns(&call->work.migrate, pfns, npages);
	kvfree(pfns);
	return ret;
}

/*
 * Evict all pages that can move. If the device goes away, the eviction is not
 * killable.
 */
static int testdev_evict(struct testdev *device, unsigned int flags, bool goes_away,
			 struct counts *counts)
{
	struct hmm_migrate_dma *engine = NULL;
	struct call *call;
	int ret;

	if (flags & TEST_HMM_MIGRATE_EVICT_ENGINE)
		engine = engine_get(TEST_HMM_MIGRATE_ENGINE_ORDERED);
	if (IS_ERR(engine))
		return PTR_ERR(engine);
	call = kzalloc(sizeof(*call), GFP_KERNEL);
	if (!call)
		return -ENOMEM;
	call_init_back(call, device, MIGRATE_VMA_SELECT_LARGE, engine);
	if (goes_away)
		call->work.migrate.flags |= HMM_MIGRATE_UNKILLABLE;
	if (flags & TEST_HMM_MIGRATE_SCATTERED)
		ret = call_evict_scattered(call);
	else
		ret = hmm_migrate_evict(&call->work.migrate, testdev_first_pfn(device),
					testdev_pages(device));
	call_count(&call->work.migrate, counts);
	counts_to_device(counts, device, false);
	kfree(call);
	return ret;
}

static long client_evict(struct client *client, void *argument)
{
	struct test_hmm_migrate_evict *evict = argument;
	struct testdev *device = client->device;
	struct counts counts = {};
	int ret;

	if (evict->flags & ~EVICT_FLAGS ||
	    (evict->flags & TEST_HMM_MIGRATE_EVICT_BARE &&
	     evict->flags & TEST_HMM_MIGRATE_EVICT_ENGINE))
		return -EINVAL;

	memset(evict->pages, 0, sizeof(evict->pages));
	memset(evict->time, 0, sizeof(evict->time));
	if (evict->flags & TEST_HMM_MIGRATE_EVICT_BARE) {
		testdev_evict_bare(device, evict->flags, &counts);
		counts_to_device(&counts, device, false);
		ret = fatal_signal_pending(current) ? -EINTR : 0;
	} else {
		ret = testdev_evict(device, evict->flags, false, &counts);
	}
	evict->remaining = testdev_pages(device) - testdev_free_pages(device);
	memcpy(evict->pages, counts.pages, sizeof(counts.pages));
	memcpy(evict->time, counts.time, sizeof(counts.time));
	return ret;
}

/*
 * The device goes away. Wait for pages that other tasks have locked or pinned: their
 * contents exist nowhere else.
 */
static void testdev_evict_all(struct testdev *device)
{
	unsigned long remaining, rounds = 0;

	/* Disarm injected failures: no open file is left that could do so. */
	spin_lock(&device->inject_lock);
	memset(device->inject, 0, sizeof(device->inject));
	spin_unlock(&device->inject_lock);
	WRITE_ONCE(device->stay, 0);

	do {
		struct counts counts = {};

		testdev_evict(device, 0, true, &counts);
		remaining = testdev_pages(device) - testdev_free_pages(device);
		if (!remaining)
			return;
		if (++rounds % 500 == 0)
			pr_warn("%s: waiting for %lu pages that are in use\n",
				device->name, remaining);
		msleep(20);
	} while (true);
}

/* Information about a device */

static long client_info(struct client *client, void *argument)
{
	struct test_hmm_migrate_info *info = argument;
	struct testdev *device = client->device;

	if (info->flags)
		return -EINVAL;
	info->device = device->id;
	info->kind = device->kind;
	info->pages = testdev_pages(device);
	info->free = testdev_free_pages(device);
	info->held = atomic_long_read(&device->held);
	return 0;
}

static void read_counters(u64 *to, atomic64_t *from, unsigned int nr, bool reset)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		to[i] = reset ? atomic64_xchg(&from[i], 0) : atomic64_read(&from[i]);
}

static void read_injected(struct testdev *device,
			  struct test_hmm_migrate_statistics *stats, bool reset)
{
	unsigned int i;

	spin_lock(&device->inject_lock);
	for (i = 0; i < TEST_HMM_MIGRATE_NR_FAIL; i++) {
		stats->injected[i] = device->inject[i].injected;
		if (reset)
			device->inject[i].injected = 0;
	}
	spin_unlock(&device->inject_lock);
}

static long client_statistics(struct client *client, void *argument)
{
	struct test_hmm_migrate_statistics *stats = argument;
	struct testdev *device = client->device;
	bool reset = stats->flags & TEST_HMM_MIGRATE_RESET;

	if (stats->flags & ~TEST_HMM_MIGRATE_RESET)
		return -EINVAL;

	memset(&stats->to_device, 0, sizeof(*stats) -
	       offsetof(struct test_hmm_migrate_statistics, to_device));
	read_counters(stats->to_device, device->to_device,
		      TEST_HMM_MIGRATE_NR_FATES, reset);
	read_counters(stats->to_system, device->to_system,
		      TEST_HMM_MIGRATE_NR_FATES, reset);
	read_counters(stats->time, device->time, TEST_HMM_MIGRATE_NR_TIMES, reset);
	read_counters(&stats->splits, &device->splits, 1, reset);
	read_counters(&stats->cpu_faults, &device->cpu_faults, 1, reset);
	read_counters(&stats->device_faults, &device->device_faults, 1, reset);
	read_counters(stats->allocated, device->allocated,
		      MAX_ORDER_DEVICE + 1, reset);
	read_counters(stats->freed, device->freed, MAX_ORDER_DEVICE + 1, reset);
	read_injected(device, stats, reset);
	return 0;
}

static long client_inject(struct client *client, void *argument)
{
	struct test_hmm_migrate_inject *inject = argument;
	struct testdev *device = client->device;

	if (inject->what >= TEST_HMM_MIGRATE_NR_FAIL || inject->reserved ||
	    inject->order > MAX_ORDER_DEVICE || !inject->nth != !inject->times)
		return -EINVAL;

	spin_lock(&device->inject_lock);
	device->inject[inject->what].order = inject->order;
	device->inject[inject->what].nth = inject->nth;
	WRITE_ONCE(device->inject[inject->what].times, inject->times);
	spin_unlock(&device->inject_lock);
	return 0;
}

static long client_fault_order(struct client *client, void *argument)
{
	struct test_hmm_migrate_fault_order *fault_order = argument;
	struct testdev *device = client->device;
	bool bare = fault_order->flags & TEST_HMM_MIGRATE_FAULT_BARE;
	bool by_engine = fault_order->flags & TEST_HMM_MIGRATE_FAULT_ENGINE;
	struct hmm_migrate_dma *engine;

	if (fault_order->flags & ~(TEST_HMM_MIGRATE_FAULT_BARE |
				   TEST_HMM_MIGRATE_FAULT_ENGINE) ||
	    fault_order->order > MAX_ORDER_DEVICE ||
	    fault_order->window_order > MAX_WINDOW_ORDER ||
	    fault_order->stay_usec > TEST_HMM_MIGRATE_MAX_USEC ||
	    (bare && (by_engine || fault_order->window_order)))
		return -EINVAL;
	engine = by_engine ? engine_get(TEST_HMM_MIGRATE_ENGINE_ORDERED) : NULL;
	if (IS_ERR(engine))
		return PTR_ERR(engine);

	WRITE_ONCE(device->fault_order, fault_order->order);
	WRITE_ONCE(device->fault_window, fault_order->window_order ?
		   PAGE_SIZE << fault_order->window_order : 0);
	WRITE_ONCE(device->fault_bare, bare);
	WRITE_ONCE(device->fault_engine, by_engine);
	WRITE_ONCE(device->stay, fault_order->stay_usec * NSEC_PER_USEC);
	return 0;
}

/* Hold folio locks, to block migrations */

static void hold_wait(struct testdev *device, struct test_hmm_migrate_hold *hold)
{
	atomic_long_add(hold->pages, &device->held);
	fsleep(hold->usec);
	atomic_long_sub(hold->pages, &device->held);
}

/*
 * Lock the folios of @pages, and drop those that are already locked. Returns how many
 * are held.
 */
static unsigned long hold_lock(struct page **pages, long npages)
{
	unsigned long held = 0;
	long i;

	for (i = 0; i < npages; i++) {
		if (is_zone_device_page(pages[i]) ||
		    !folio_trylock(page_folio(pages[i])))
			put_page(pages[i]);
		else
			pages[held++] = pages[i];
	}
	return held;
}

static long hold_locks(struct client *client, struct test_hmm_migrate_hold *hold)
{
	unsigned long max = hold->length >> PAGE_SHIFT, i;
	struct mm_struct *mm = client->mm;
	struct page **pages;
	int locked = 1;
	long npages;

	pages = kvcalloc(max, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return -ENOMEM;
	if (mmap_read_lock_killable(mm)) {
		kvfree(pages);
		return -EINTR;
	}
	npages = get_user_pages_remote(mm, hold->addr, max, 0, pages, &locked);
	if (locked)
		mmap_read_unlock(mm);
	if (npages >= 0 && npages < max) {
		/*
		 * A part of the range has no pages: the range is held as a whole or not
		 * at all.
		 */
		for (i = 0; i < npages; i++)
			put_page(pages[i]);
		npages = fatal_signal_pending(current) ? -EINTR : -EFAULT;
	} else if (npages > 0) {
		hold->pages = hold_lock(pages, npages);
		hold_wait(client->device, hold);
		for (i = 0; i < hold->pages; i++) {
			folio_unlock(page_folio(pages[i]));
			put_page(pages[i]);
		}
	}
	kvfree(pages);
	return npages < 0 ? npages : 0;
}

/* Run the first two stages of a migration, hold the pages, and finalize. */
static long hold_stages(struct client *client, struct batch *batch,
			struct test_hmm_migrate_hold *hold)
{
	struct migrate_vma args = {
		.start = hold->addr,
		.end = hold->addr + hold->length,
		.src = batch->src,
		.dst = batch->dst,
		.pgmap_owner = client->device,
		.flags = MIGRATE_VMA_SELECT_SYSTEM |
			 MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
			 MIGRATE_VMA_SELECT_DEVICE_COHERENT,
	};
	unsigned long i;

	args.vma = vma_lookup(client->mm, hold->addr);
	if (!args.vma || args.end > args.vma->vm_end)
		return -EFAULT;
	if (migrate_vma_setup(&args))
		return -EOPNOTSUPP;
	for (i = 0; i < args.npages; i++)
		hold->pages += !!(args.src[i] & MIGRATE_PFN_VALID);
	hold_wait(client->device, hold);
	migrate_vma_finalize(&args);
	return 0;
}

static long hold_migration(struct client *client,
			   struct test_hmm_migrate_hold *hold)
{
	struct batch batch;
	long ret;

	ret = batch_alloc(&batch, hold->length >> PAGE_SHIFT);
	if (!ret) {
		ret = mmap_read_lock_killable(client->mm);
		if (!ret) {
			ret = hold_stages(client, &batch, hold);
			mmap_read_unlock(client->mm);
		}
	}
	batch_free(&batch);
	return ret;
}

/*
 * make_device_exclusive_range() returns the pages locked. The device does not enter
 * them into its page table, so its next access faults and restores the entries.
 */
static long hold_taken(struct client *client, struct test_hmm_migrate_hold *hold)
{
	unsigned long max = hold->length >> PAGE_SHIFT, i;
	struct mm_struct *mm = client->mm;
	struct page **pages;
	long npages, ret = 0;

	pages = kvcalloc(max, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return -ENOMEM;
	if (mmap_read_lock_killable(mm)) {
		kvfree(pages);
		return -EINTR;
	}
	npages = make_device_exclusive_range(mm, hold->addr, hold->addr + hold->length,
					     pages, client->device);
	mmap_read_unlock(mm);
	if (npages == max) {
		for (i = 0; i < max; i++)
			hold->pages += !!pages[i];
		hold_wait(client->device, hold);
	} else if (npages >= 0) {
		ret = -EFAULT;
	} else {
		ret = npages;
	}
	for (i = 0; npages > 0 && i < npages; i++) {
		if (!pages[i])
			continue;
		unlock_page(pages[i]);
		put_page(pages[i]);
	}
	kvfree(pages);
	return ret;
}

static long client_hold(struct client *client, void *argument)
{
	struct test_hmm_migrate_hold *hold = argument;
	long ret;

	if (hold->flags & ~TEST_HMM_MIGRATE_HOLD_MIGRATION &&
	    hold->flags != TEST_HMM_MIGRATE_HOLD_TAKEN)
		return -EINVAL;
	if (hold->usec > TEST_HMM_MIGRATE_MAX_HOLD_TIME)
		return -EINVAL;
	ret = check_range(hold->addr, hold->length);
	if (ret)
		return ret;
	if (hold->length >> PAGE_SHIFT > TEST_HMM_MIGRATE_MAX_HOLD_PAGES)
		return -EINVAL;

	hold->pages = 0;
	if (!mmget_not_zero(client->mm))
		return -ESRCH;
	if (hold->flags & TEST_HMM_MIGRATE_HOLD_MIGRATION)
		ret = hold_migration(client, hold);
	else if (hold->flags & TEST_HMM_MIGRATE_HOLD_TAKEN)
		ret = hold_taken(client, hold);
	else
		ret = hold_locks(client, hold);
	mmput(client->mm);
	return ret;
}

/* Device-exclusive access */

/*
 * Fault like a CPU write, which brings back device memory and removes exclusive
 * entries.
 */
static int take_fault(struct client *client, unsigned long addr)
{
	struct mm_struct *mm = client->mm;
	int ret;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	ret = fixup_user_fault(mm, addr, FAULT_FLAG_WRITE, NULL);
	mmap_read_unlock(mm);
	return ret;
}

/* Enter a page that was made exclusive, unless the range was invalidated meanwhile. */
static int take_enter(struct client *client, unsigned long addr,
		      struct page *page, unsigned long seq)
{
	void *entry;

	guard(mutex)(&client->lock);
	if (mmu_interval_read_retry(&client->notifier, seq))
		return -EAGAIN;
	entry = xa_store(&client->page_table, addr >> PAGE_SHIFT,
			 device_entry(page_to_pfn(page), true), GFP_NOWAIT);
	return xa_err(entry);
}

/*
 * Get exclusive access to the page at @addr. Returns the number of bytes that are
 * done with: for a large folio all of it, because the first page represents the
 * folio, and a request for another page of it would undo the first one. Returns 0 to
 * retry. The fault comes before the notifier sequence is read: a fault in
 * make_device_exclusive_range() would count as an invalidation.
 *
 * The page stays locked until it is entered: a CPU that touches it waits for the
 * lock, and only then calls client_invalidate().
 */
static long take_page(struct client *client, unsigned long addr,
		      struct test_hmm_migrate_take *take)
{
	struct mm_struct *mm = client->mm;
	struct page *page = NULL;
	unsigned long seq;
	long ret;

	ret = take_fault(client, addr);
	if (ret)
		return ret;
	seq = mmu_interval_read_begin(&client->notifier);
	if (mmap_read_lock_killable(mm))
		return -EINTR;
	ret = make_device_exclusive_range(mm, addr, addr + PAGE_SIZE, &page,
					  client->device);
	mmap_read_unlock(mm);
	if (ret < 0)
		return ret;
	if (!page)
		return PAGE_SIZE;

	ret = take_enter(client, addr, page, seq);
	if (!ret) {
		take->pages++;
		ret = folio_size(page_folio(page));
	}
	unlock_page(page);
	put_page(page);
	return ret == -EAGAIN ? 0 : ret;
}

static long take_range(struct client *client, struct test_hmm_migrate_take *take)
{
	unsigned long deadline = jiffies + BUSY_TIMEOUT;
	unsigned long end = take->addr + take->length;
	unsigned long addr = take->addr;
	long taken;

	while (addr < end) {
		taken = take_page(client, addr, take);
		if (taken < 0)
			return taken;
		if (!taken && time_after(jiffies, deadline))
			return -EBUSY;
		if (taken)
			deadline = jiffies + BUSY_TIMEOUT;
		addr += taken;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static long client_take(struct client *client, void *argument)
{
	struct test_hmm_migrate_take *take = argument;
	long ret;

	if (take->flags)
		return -EINVAL;
	ret = check_range(take->addr, take->length);
	if (ret)
		return ret;

	take->pages = 0;
	if (take->addr + take->length > client->mm->task_size)
		return -EFAULT;
	if (!mmget_not_zero(client->mm))
		return -ESRCH;
	ret = take_range(client, take);
	mmput(client->mm);
	return ret;
}

/* The device node */

union argument {
	struct test_hmm_migrate_info info;
	struct test_hmm_migrate_range range;
	struct test_hmm_migrate_access access;
	struct test_hmm_migrate_snapshot snapshot;
	struct test_hmm_migrate_evict evict;
	struct test_hmm_migrate_statistics statistics;
	struct test_hmm_migrate_inject inject;
	struct test_hmm_migrate_hold hold;
	struct test_hmm_migrate_fault_order fault_order;
	struct test_hmm_migrate_take take;
	struct test_hmm_migrate_cancel cancel;
};

#define COMMAND(_number, _type, _run) \
	{ .number = _number, .size = sizeof(struct _type), .run = _run }

/* So far each structure has only one version. */
static const struct command {
	unsigned int number;
	size_t size;
	long (*run)(struct client *client, void *argument);
} commands[] = {
	COMMAND(TEST_HMM_MIGRATE_INFO, test_hmm_migrate_info, client_info),
	COMMAND(TEST_HMM_MIGRATE_TO_DEVICE, test_hmm_migrate_range,
		client_migrate_to_device),
	COMMAND(TEST_HMM_MIGRATE_TO_SYSTEM, test_hmm_migrate_range,
		client_migrate_to_system),
	COMMAND(TEST_HMM_MIGRATE_READ, test_hmm_migrate_access, client_read),
	COMMAND(TEST_HMM_MIGRATE_WRITE, test_hmm_migrate_access, client_write),
	COMMAND(TEST_HMM_MIGRATE_SNAPSHOT, test_hmm_migrate_snapshot,
		client_snapshot),
	COMMAND(TEST_HMM_MIGRATE_EVICT, test_hmm_migrate_evict, client_evict),
	COMMAND(TEST_HMM_MIGRATE_STATISTICS, test_hmm_migrate_statistics,
		client_statistics),
	COMMAND(TEST_HMM_MIGRATE_INJECT, test_hmm_migrate_inject, client_inject),
	COMMAND(TEST_HMM_MIGRATE_HOLD, test_hmm_migrate_hold, client_hold),
	COMMAND(TEST_HMM_MIGRATE_FAULT_ORDER, test_hmm_migrate_fault_order,
		client_fault_order),
	COMMAND(TEST_HMM_MIGRATE_TAKE, test_hmm_migrate_take, client_take),
	COMMAND(TEST_HMM_MIGRATE_TO_NODE, test_hmm_migrate_range,
		client_migrate_to_node),
	COMMAND(TEST_HMM_MIGRATE_CANCEL, test_hmm_migrate_cancel, client_cancel),
};

static long run_command(struct client *client, const struct command *command,
			void __user *user)
{
	union argument argument;
	long ret;
	u32 size;

	if (get_user(size, (u32 __user *)user))
		return -EFAULT;
	if (size < command->size)
		return -EINVAL;
	/* Bound the size, because the kernel checks that the tail is zero. */
	if (size > PAGE_SIZE)
		return -E2BIG;
	ret = copy_struct_from_user(&argument, command->size, user, size);
	if (ret)
		return ret;
	/* User space may have changed it since it was read. */
	argument.info.size = size;

	ret = command->run(client, &argument);
	if (copy_to_user(user, &argument, command->size) && !ret)
		ret = -EFAULT;
	return ret;
}

static long client_ioctl(struct file *file, unsigned int number, unsigned long arg)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		if (commands[i].number == number)
			return run_command(file->private_data, &commands[i],
					   (void __user *)arg);
	}
	return -ENOTTY;
}

static int client_open(struct inode *inode, struct file *file)
{
	struct testdev *device = container_of(file->private_data,
					      struct testdev, misc);
	struct client *client;
	int ret;

	client = kzalloc(sizeof(*client), GFP_KERNEL);
	if (!client)
		return -ENOMEM;

	engines_reset();
	client->device = device;
	client->mm = current->mm;
	mutex_init(&client->lock);
	xa_init(&client->page_table);
	INIT_LIST_HEAD(&client->calls);
	hmm_migrate_tracker_init(&client->tracker);
	ret = mmu_interval_notifier_insert(&client->notifier, client->mm, 0,
					   ULONG_MAX & PAGE_MASK,
					   &client_notifier_ops);
	if (ret) {
		kfree(client);
		return ret;
	}

	mmgrab(client->mm);
	file->private_data = client;
	return 0;
}

/*
 * The process's device memory stays on the device, and still belongs to the process:
 * CPU faults find it without this file.
 */
static int client_release(struct inode *inode, struct file *file)
{
	struct client *client = file->private_data;

	mmu_interval_notifier_remove(&client->notifier);
	xa_destroy(&client->page_table);
	mmdrop(client->mm);
	kfree(client);
	return 0;
}

static const struct file_operations testdev_fops = {
	.owner = THIS_MODULE,
	.open = client_open,
	.release = client_release,
	.unlocked_ioctl = client_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/* Creation and removal of devices */

static int testdev_create_pool(struct testdev *device)
{
	struct range *range = &device->pgmap.range;

	device->pool = gen_pool_create(PAGE_SHIFT, NUMA_NO_NODE);
	if (!device->pool)
		return -ENOMEM;

	/*
	 * The region starts at a multiple of 2 MiB, so alignment within the pool is
	 * sufficient.
	 */
	gen_pool_set_algo(device->pool, gen_pool_first_fit_order_align, NULL);
	return gen_pool_add(device->pool, range->start, range_len(range),
			    NUMA_NO_NODE);
}

static int testdev_create_vram(struct testdev *device)
{
	if (device->kind != TEST_HMM_MIGRATE_PRIVATE)
		return 0;

	device->vram = vmalloc(range_len(&device->pgmap.range));
	if (!device->vram)
		return -ENOMEM;
	/*
	 * Contents of user memory: slow to scan, and without references to kernel
	 * objects.
	 */
	kmemleak_no_scan(device->vram);
	return 0;
}

static int testdev_create_pages(struct testdev *device)
{
	unsigned long pfn = testdev_first_pfn(device);
	unsigned long end = pfn + testdev_pages(device);
	struct dev_pagemap *pgmap = &device->pgmap;
	void *ret;

	pgmap->type = device->kind == TEST_HMM_MIGRATE_PRIVATE ?
		      MEMORY_DEVICE_PRIVATE : MEMORY_DEVICE_COHERENT;
	pgmap->nr_range = 1;
	pgmap->ops = &testdev_pgmap_ops;
	pgmap->owner = device;
	ret = memremap_pages(pgmap, numa_mem_id());
	if (IS_ERR(ret))
		return PTR_ERR(ret);

	for (; poison && pfn < end; pfn++) {
		fill_contents(pfn_to_page(pfn), POISON);
		cond_resched();
	}
	return 0;
}

static void release_region_of(struct resource *region)
{
	release_mem_region(region->start, resource_size(region));
}

/* Call testdev_evict_all() first: memunmap_pages() waits for every reference. */
static void testdev_destroy(struct testdev *device)
{
	memunmap_pages(&device->pgmap);
	batch_free(&device->evict_batch);
	gen_pool_destroy(device->pool);
	vfree(device->vram);
	kvfree(device->arrived);
	release_region_of(device->region);
	kfree(device);
}

static int testdev_create_parts(struct testdev *device)
{
	int ret;

	ret = testdev_create_vram(device);
	if (ret)
		return ret;
	ret = testdev_create_pool(device);
	if (ret)
		return ret;
	ret = batch_alloc(&device->evict_batch, DEFAULT_CHUNK >> PAGE_SHIFT);
	if (ret)
		return ret;
	device->arrived = kvcalloc(testdev_pages(device), sizeof(u64), GFP_KERNEL);
	if (!device->arrived)
		return -ENOMEM;
	return testdev_create_pages(device);
}

/* Takes over @region, of at least @size bytes, also when it fails. */
static int testdev_create(unsigned int kind, struct resource *region, u64 size)
{
	struct testdev *device;
	int ret;

	device = kzalloc(sizeof(*device), GFP_KERNEL);
	if (!device) {
		release_region_of(region);
		return -ENOMEM;
	}

	device->id = nr_testdevs;
	device->kind = kind;
	device->fault_order = MAX_ORDER_DEVICE;
	device->region = region;
	device->pgmap.range.start = region->start;
	device->pgmap.range.end = region->start + size - 1;
	mutex_init(&device->evict_lock);
	spin_lock_init(&device->inject_lock);
	snprintf(device->name, sizeof(device->name), "hmm_migrate%u", device->id);

	ret = testdev_create_parts(device);
	if (ret)
		goto err;

	device->misc.minor = MISC_DYNAMIC_MINOR;
	device->misc.name = device->name;
	device->misc.fops = &testdev_fops;
	testdevs[nr_testdevs++] = device;
	pr_info("%s: %lu MiB of %s memory\n", device->name,
		testdev_pages(device) >> (20 - PAGE_SHIFT),
		kind == TEST_HMM_MIGRATE_PRIVATE ? "private" : "coherent");
	return 0;
err:
	batch_free(&device->evict_batch);
	if (device->pool)
		gen_pool_destroy(device->pool);
	vfree(device->vram);
	kvfree(device->arrived);
	release_region_of(region);
	kfree(device);
	return ret;
}

static int create_private_devices(void)
{
	u64 size = (u64)size_mb << 20;
	unsigned int i;
	int ret;

	for (i = 0; i < NR_PRIVATE_DEVICES; i++) {
		struct resource *region;

		/* Physical addresses without memory behind them. */
		region = request_free_mem_region(&iomem_resource, size,
						 KBUILD_MODNAME);
		if (IS_ERR(region))
			return PTR_ERR(region);
		ret = testdev_create(TEST_HMM_MIGRATE_PRIVATE, region, size);
		if (ret)
			return ret;
	}
	return 0;
}

/*
 * The kernel's other HMM test driver uses this memory without requesting the region,
 * so check for page maps as well.
 */
static bool memory_in_use(u64 addr)
{
	struct dev_pagemap *pgmap = get_dev_pagemap(PHYS_PFN(addr), NULL);

	if (!pgmap)
		return false;
	put_dev_pagemap(pgmap);
	return true;
}

static int create_coherent_device(u64 start, u64 size)
{
	struct resource *region = NULL;

	if (!memory_in_use(start) && !memory_in_use(start + size - 1))
		region = request_mem_region(start, size, KBUILD_MODNAME);
	if (!region) {
		pr_warn("Soft Reserved memory at %#llx is in use, is test_hmm loaded?\n",
			start);
		return 0;
	}
	return testdev_create(TEST_HMM_MIGRATE_COHERENT, region, size);
}

/* Create as many devices as fit, up to two. */
static int use_soft_reserved(struct resource *soft_reserved, void *result)
{
	u64 start = ALIGN(soft_reserved->start, SZ_2M);
	u64 end = ALIGN_DOWN(soft_reserved->end + 1, SZ_2M);
	int *ret = result;
	u64 size;

	for (; start < end && nr_testdevs < NR_DEVICES && !*ret; start += size) {
		size = min(end - start, (u64)size_mb << 20);
		*ret = create_coherent_device(start, size);
	}
	return *ret;
}

/*
 * Use memory that the firmware has set aside for drivers. It is no error if there is
 * none or if another driver uses it, because private memory can still be tested.
 */
static int create_coherent_devices(void)
{
	int ret = 0;

	walk_iomem_res_desc(IORES_DESC_SOFT_RESERVED, IORESOURCE_MEM, 0, -1,
			    &ret, use_soft_reserved);
	return ret;
}

static void destroy_devices(void)
{
	while (nr_testdevs) {
		struct testdev *device = testdevs[nr_testdevs - 1];

		testdev_evict_all(device);
		nr_testdevs--;
		testdev_destroy(device);
	}
}

/* Register only after all devices exist, so that their minor numbers are consecutive. */
static int register_devices(void)
{
	unsigned int i;
	int ret;

	for (i = 0; i < nr_testdevs; i++) {
		ret = misc_register(&testdevs[i]->misc);
		if (ret)
			goto err;
	}
	return 0;
err:
	while (i--)
		misc_deregister(&testdevs[i]->misc);
	return ret;
}

static int __init test_hmm_migrate_init(void)
{
	int ret;

	if (!size_mb || size_mb % 2) {
		pr_err("size_mb=%u is not a multiple of 2\n", size_mb);
		return -EINVAL;
	}

	ret = create_private_devices();
	if (!ret)
		ret = create_coherent_devices();
	if (!ret)
		ret = register_devices();
	if (ret)
		destroy_devices();
	return ret;
}

static void __exit test_hmm_migrate_exit(void)
{
	unsigned int i;

	/* No file is open, so no more pages can move to the devices. */
	for (i = 0; i < nr_testdevs; i++)
		misc_deregister(&testdevs[i]->misc);
	engines_put();
	destroy_devices();
}

module_init(test_hmm_migrate_init);
module_exit(test_hmm_migrate_exit);
MODULE_DESCRIPTION("Test driver for the migration of ranges to device memory");
MODULE_LICENSE("GPL");
