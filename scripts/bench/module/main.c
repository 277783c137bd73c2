// SPDX-License-Identifier: GPL-2.0
/*
 * The smallest driver with device-private memory, made to measure what the
 * migrate_vma_*() calls cost and nothing else: no page table of a device, no
 * notifier while they run, an allocator of a few instructions.
 */
#include <linux/highmem.h>
#include <linux/ktime.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "hmm_migrate_bench.h"
#include "internal.h"

/*
 * What this kernel does not have is 0 here, and the compiler drops what
 * depends on it.
 */
#ifndef HAS_MIGRATE_PFN_COMPOUND
#define MIGRATE_PFN_COMPOUND		0UL
#endif
#ifndef HAS_MIGRATE_VMA_SELECT_COMPOUND
#define MIGRATE_VMA_SELECT_COMPOUND	0
#endif
#ifndef HAS_MIGRATE_VMA_SELECT_LARGE
#define MIGRATE_VMA_SELECT_LARGE	0
#endif

#define NO_PAGE		UINT_MAX
#define ORDERS		HMM_MIGRATE_BENCH_ORDERS
#define CLOCK_TRIES	1000

static unsigned int size_mb = 128;
module_param(size_mb, uint, 0444);
MODULE_PARM_DESC(size_mb, "Device memory in MiB (default: 128)");

static bool contents = true;
module_param(contents, bool, 0444);
MODULE_PARM_DESC(contents, "Have memory for the contents, to copy them (default: yes)");

struct dev_pagemap pgmap;
static unsigned long first_pfn;
static unsigned int nr_pages;
static void *vram;
u64 clock_ns;
/* A fault brings back what lies in a window of so many bytes, if it is not 0. */
unsigned long fault_window;

/*
 * The allocator: pages never used start at @unused; freed folios are in a list
 * by order, linked by @next. Page numbers count from first_pfn. When the last
 * page comes back all is forgotten, so each test finds the device as if new.
 */
static DEFINE_SPINLOCK(lock);
static unsigned int *next;
static unsigned int freed[ORDERS];
static unsigned int unused;
static unsigned int nr_used;

static void forget_all(void)
{
	unsigned int order;

	for (order = 0; order < ORDERS; order++)
		freed[order] = NO_PAGE;
	unused = 0;
}

static unsigned int take(unsigned int order)
{
	unsigned int nr;

	spin_lock(&lock);
	nr = freed[order];
	if (nr != NO_PAGE) {
		freed[order] = next[nr];
	} else {
		nr = ALIGN(unused, 1U << order);
		if (nr + (1U << order) > nr_pages) {
			spin_unlock(&lock);
			return NO_PAGE;
		}
		unused = nr + (1U << order);
	}
	nr_used += 1U << order;
	spin_unlock(&lock);
	return nr;
}

/* Runs within migrate_vma_finalize(), so what it costs is part of the figure. */
static void give_back(unsigned long pfn, unsigned int order)
{
	unsigned int nr = pfn - first_pfn;

	spin_lock(&lock);
	next[nr] = freed[order];
	freed[order] = nr;
	nr_used -= 1U << order;
	if (!nr_used)
		forget_all();
	spin_unlock(&lock);
}

#ifdef HAS_zone_device_folio_init
static void bench_folio_free(struct folio *folio)
{
	give_back(folio_pfn(folio), folio_order(folio));
}

static void ready(struct page *page, unsigned int order)
{
	/* Not page_folio(): a free page may pass for a tail of an earlier folio. */
	zone_device_folio_init((struct folio *)page, &pgmap, order);
}
#else
static void bench_page_free(struct page *page)
{
	give_back(page_to_pfn(page), 0);
}

static void ready(struct page *page, unsigned int order)
{
	zone_device_page_init(page);
}
#endif

struct page *alloc_device(unsigned int order)
{
	unsigned int nr = take(order);
	struct page *page;

	if (nr == NO_PAGE)
		return NULL;

	page = pfn_to_page(first_pfn + nr);
	ready(page, order);
	return page;
}

static struct page *alloc_system(unsigned int order)
{
	struct folio *folio;

	folio = folio_alloc(order ? GFP_TRANSHUGE : GFP_HIGHUSER_MOVABLE, order);
	if (!folio)
		return NULL;

	folio_lock(folio);
	return &folio->page;
}

/* How many pages the entry in src[] or dst[] stands for. */
static unsigned int entry_order(unsigned long entry)
{
	struct page *page = migrate_pfn_to_page(entry);

	if (!(entry & MIGRATE_PFN_COMPOUND))
		return 0;
	/* A hole of more than a page is as large as a PMD maps. */
	return page ? folio_order(page_folio(page)) : PMD_SHIFT - PAGE_SHIFT;
}

static void alloc_all(struct migrate_vma *args, bool back)
{
	unsigned long i, n;

	for (i = 0; i < args->npages; i += n) {
		unsigned int order = entry_order(args->src[i]);
		struct page *page;

		n = 1UL << order;
		/* Holes are left alone: what is measured is memory that exists. */
		if (!(args->src[i] & MIGRATE_PFN_MIGRATE) ||
		    !(args->src[i] & MIGRATE_PFN_VALID))
			continue;

		page = back ? alloc_system(order) : alloc_device(order);
		if (!page)
			continue;
		args->dst[i] = migrate_pfn(page_to_pfn(page));
		if (order)
			args->dst[i] |= MIGRATE_PFN_COMPOUND;
	}
}

static void copy_page_contents(struct page *page, unsigned long device_pfn,
			       bool back)
{
	void *device = vram + ((device_pfn - first_pfn) << PAGE_SHIFT);
	void *system = kmap_local_page(page);

	if (back)
		memcpy(system, device, PAGE_SIZE);
	else
		memcpy(device, system, PAGE_SIZE);
	kunmap_local(system);
}

static void copy_all(struct migrate_vma *args, bool back)
{
	unsigned long i, j, n;

	for (i = 0; i < args->npages; i += n) {
		struct page *src = migrate_pfn_to_page(args->src[i]);
		struct page *dst = migrate_pfn_to_page(args->dst[i]);

		n = 1UL << entry_order(args->src[i]);
		for (j = 0; dst && j < n; j++) {
			if (back)
				copy_page_contents(dst + j,
						   page_to_pfn(src + j), true);
			else
				copy_page_contents(src + j,
						   page_to_pfn(dst + j), false);
		}
	}
}

/* Between pages and finalize: what has moved is known, and still locked. */
static void count_all(struct migrate_vma *args,
		      struct hmm_migrate_bench_trip *trip)
{
	unsigned long i, n;

	for (i = 0; i < args->npages; i += n) {
		struct page *dst = migrate_pfn_to_page(args->dst[i]);
		unsigned int order = entry_order(args->src[i]);

		n = 1UL << order;
		if (!dst || !(args->src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		trip->moved += n;
		trip->from[order]++;
		trip->to[folio_order(page_folio(dst))]++;
	}
}

static int migrate_chunk(struct migrate_vma *args,
			 struct hmm_migrate_bench_trip *trip)
{
	bool back = trip->flags & HMM_MIGRATE_BENCH_BACK;
	u64 start;
	int ret;

	memset(args->dst, 0, sizeof(*args->dst) *
	       ((args->end - args->start) >> PAGE_SHIFT));
	start = ktime_get_ns();
	ret = migrate_vma_setup(args);
	trip->setup += ktime_get_ns() - start;
	if (ret)
		return ret;

	alloc_all(args, back);
	if (trip->flags & HMM_MIGRATE_BENCH_COPY) {
		start = ktime_get_ns();
		copy_all(args, back);
		trip->copy += ktime_get_ns() - start;
	}

	start = ktime_get_ns();
	migrate_vma_pages(args);
	trip->pages += ktime_get_ns() - start;

	count_all(args, trip);

	start = ktime_get_ns();
	migrate_vma_finalize(args);
	trip->finalize += ktime_get_ns() - start;

	trip->calls++;
	return 0;
}

static void init_args(struct migrate_vma *args, bool back)
{
	args->pgmap_owner = &pgmap;
	args->flags = back ? MIGRATE_VMA_SELECT_DEVICE_PRIVATE :
			     MIGRATE_VMA_SELECT_SYSTEM;
	args->flags |= MIGRATE_VMA_SELECT_COMPOUND | MIGRATE_VMA_SELECT_LARGE;
}

static int migrate_all(struct migrate_vma *args,
		       struct hmm_migrate_bench_trip *trip)
{
	unsigned long addr, end = trip->addr + trip->length;
	int ret = 0;

	init_args(args, trip->flags & HMM_MIGRATE_BENCH_BACK);
	mmap_read_lock(current->mm);
	args->vma = vma_lookup(current->mm, trip->addr);
	if (!args->vma || args->vma->vm_end < end)
		ret = -EFAULT;
	for (addr = trip->addr; !ret && addr < end; addr += trip->chunk) {
		args->start = addr;
		args->end = min(addr + trip->chunk, end);
		ret = migrate_chunk(args, trip);
	}
	mmap_read_unlock(current->mm);
	return ret;
}

static int check_trip(struct hmm_migrate_bench_trip *trip)
{
	u64 size = (u64)nr_pages << PAGE_SHIFT;

	if (trip->flags & ~(HMM_MIGRATE_BENCH_BACK | HMM_MIGRATE_BENCH_COPY))
		return -EINVAL;
	if (!PAGE_ALIGNED(trip->addr) || !PAGE_ALIGNED(trip->length) ||
	    !PAGE_ALIGNED(trip->chunk))
		return -EINVAL;
	if (!trip->length || trip->length > size || !trip->chunk ||
	    trip->chunk > trip->length || trip->addr + trip->length < trip->addr)
		return -EINVAL;
	if (!vram && (trip->flags & HMM_MIGRATE_BENCH_COPY))
		return -EINVAL;
	return 0;
}

static long bench_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct hmm_migrate_bench_trip __user *user = (void __user *)arg;
	struct hmm_migrate_bench_trip *trip;
	struct migrate_vma args = {};
	int ret;

	if (cmd == HMM_MIGRATE_BENCH_PIPELINE)
		return bench_pipeline((void __user *)arg);
	if (cmd == HMM_MIGRATE_BENCH_RANGE_FAULT)
		return bench_range_fault((void __user *)arg);
	if (cmd != HMM_MIGRATE_BENCH_TRIP)
		return -ENOTTY;

	trip = memdup_user(user, sizeof(*trip));
	if (IS_ERR(trip))
		return PTR_ERR(trip);
	memset_startat(trip, 0, moved);
	trip->clock = clock_ns;

	ret = check_trip(trip);
	if (ret)
		goto out_free_trip;

	ret = -ENOMEM;
	args.src = kvcalloc(trip->chunk >> PAGE_SHIFT, sizeof(*args.src),
			    GFP_KERNEL);
	args.dst = kvcalloc(trip->chunk >> PAGE_SHIFT, sizeof(*args.dst),
			    GFP_KERNEL);
	if (args.src && args.dst)
		ret = migrate_all(&args, trip);
	if (!ret && copy_to_user(user, trip, sizeof(*trip)))
		ret = -EFAULT;

	kvfree(args.dst);
	kvfree(args.src);
out_free_trip:
	kfree(trip);
	return ret;
}

/*
 * Not measured. The program brings back all that it took out, so this is for
 * what was left behind, and for a program that ended early.
 */
static vm_fault_t bench_migrate_to_ram(struct vm_fault *vmf)
{
	struct folio *folio = page_folio(vmf->page);
	unsigned long size = folio_size(folio);
	struct hmm_migrate_bench_trip *trip;
	struct migrate_vma args = {
		.vma = vmf->vma,
		.fault_page = vmf->page,
	};
	vm_fault_t ret = VM_FAULT_SIGBUS;

	if (fault_window)
		return (__force vm_fault_t)bench_window_fault(vmf);
	args.start = ALIGN_DOWN(vmf->address, size);
	args.end = args.start + size;
	if (args.start < vmf->vma->vm_start || args.end > vmf->vma->vm_end) {
		args.start = ALIGN_DOWN(vmf->address, PAGE_SIZE);
		args.end = args.start + PAGE_SIZE;
	}

	args.src = kvcalloc(size >> PAGE_SHIFT, sizeof(*args.src), GFP_KERNEL);
	args.dst = kvcalloc(size >> PAGE_SHIFT, sizeof(*args.dst), GFP_KERNEL);
	trip = kzalloc(sizeof(*trip), GFP_KERNEL);
	if (args.src && args.dst && trip) {
		trip->flags = HMM_MIGRATE_BENCH_BACK;
		if (vram)
			trip->flags |= HMM_MIGRATE_BENCH_COPY;
		init_args(&args, true);
		/* Not moved: another thread did, or the fault tries again. */
		if (!migrate_chunk(&args, trip))
			ret = 0;
	}
	kfree(trip);
	kvfree(args.dst);
	kvfree(args.src);
	return ret;
}

static const struct dev_pagemap_ops bench_pagemap_ops = {
#ifdef HAS_zone_device_folio_init
	.folio_free = bench_folio_free,
#else
	.page_free = bench_page_free,
#endif
	.migrate_to_ram = bench_migrate_to_ram,
};

static const struct file_operations bench_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = bench_ioctl,
};

static struct miscdevice bench_miscdev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "hmm_migrate_bench",
	.fops = &bench_fops,
};

/* What a pair of ktime_get_ns() counts with nothing between. */
static void measure_clock(void)
{
	u64 start, sum = 0;
	unsigned int i;

	for (i = 0; i < CLOCK_TRIES; i++) {
		start = ktime_get_ns();
		sum += ktime_get_ns() - start;
	}
	clock_ns = div_u64(sum, CLOCK_TRIES);
}

static int bench_init_device(void)
{
	struct resource *res;
	void *addr;

	res = request_free_mem_region(&iomem_resource, (u64)size_mb * SZ_1M,
				      "hmm_migrate_bench");
	if (IS_ERR(res))
		return PTR_ERR(res);

	pgmap.type = MEMORY_DEVICE_PRIVATE;
	pgmap.range.start = res->start;
	pgmap.range.end = res->end;
	pgmap.nr_range = 1;
	pgmap.ops = &bench_pagemap_ops;
	pgmap.owner = &pgmap;
	addr = memremap_pages(&pgmap, numa_node_id());
	if (IS_ERR(addr)) {
		release_mem_region(res->start, resource_size(res));
		return PTR_ERR(addr);
	}
	first_pfn = PHYS_PFN(res->start);
	nr_pages = size_mb * (SZ_1M / PAGE_SIZE);
	forget_all();
	return 0;
}

static void bench_exit_device(void)
{
	struct range range = pgmap.range;

	memunmap_pages(&pgmap);
	release_mem_region(range.start, range_len(&range));
}

static int __init bench_init(void)
{
	u64 size = (u64)size_mb * SZ_1M;
	int ret = -ENOMEM;

	next = vcalloc(size >> PAGE_SHIFT, sizeof(*next));
	if (!next)
		return -ENOMEM;
	if (contents) {
		vram = vmalloc(size);
		if (!vram)
			goto out_free;
	}
	measure_clock();

	ret = bench_init_device();
	if (ret)
		goto out_free;
	ret = misc_register(&bench_miscdev);
	if (ret)
		goto out_exit_device;
	return 0;

out_exit_device:
	bench_exit_device();
out_free:
	vfree(vram);
	vfree(next);
	return ret;
}

static void __exit bench_exit(void)
{
	misc_deregister(&bench_miscdev);
	bench_pipeline_exit();
	bench_exit_device();
	vfree(vram);
	vfree(next);
}

module_init(bench_init);
module_exit(bench_exit);
MODULE_DESCRIPTION("Measures what migrate_vma_*() and hmm_range_fault() cost");
MODULE_LICENSE("GPL");
