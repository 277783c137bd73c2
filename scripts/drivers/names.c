// SPDX-License-Identifier: GPL-2.0
/*
 * A driver with large folios, in outline: every name that it needs of the kernel,
 * as later kernels have them. It is compiled and not run.
 */
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>

struct names_block {
	unsigned int order;
};

static struct dev_pagemap names_pgmap;

static struct folio *names_ready(struct page *page, struct names_block *block,
				 unsigned int order)
{
	struct folio *folio = (struct folio *)page;

	zone_device_folio_init(folio, &names_pgmap, order);
	folio_set_zone_device_data(folio, block);
	return folio;
}

/* The arguments of 6.12, and those of later kernels. */
static void names_ready_page(struct page *page, unsigned int order)
{
	if (order)
		zone_device_page_init(page, &names_pgmap, order);
	else
		zone_device_page_init(page);
}

static void names_folio_free(struct folio *folio)
{
	struct names_block *block = folio_zone_device_data(folio);

	WARN_ON(folio->pgmap != page_pgmap(&folio->page));
	block->order = folio_order(folio);
}

static void names_folio_split(struct folio *head, struct folio *tail)
{
	if (tail)
		folio_set_zone_device_data(tail, folio_zone_device_data(head));
}

static vm_fault_t names_migrate_to_ram(struct vm_fault *vmf)
{
	struct folio *folio = page_folio(vmf->page);
	unsigned long src[HPAGE_PMD_NR] = {}, dst[HPAGE_PMD_NR] = {};
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = ALIGN_DOWN(vmf->address, folio_size(folio)),
		.src = src,
		.dst = dst,
		.fault_page = vmf->page,
		.pgmap_owner = &names_pgmap,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
			 MIGRATE_VMA_SELECT_COMPOUND |
			 MIGRATE_VMA_SELECT_LARGE,
	};

	args.end = args.start + folio_size(folio);
	if (migrate_vma_setup(&args))
		return VM_FAULT_SIGBUS;
	if (src[0] & MIGRATE_PFN_COMPOUND)
		dst[0] |= MIGRATE_PFN_COMPOUND;
	migrate_vma_pages(&args);
	migrate_vma_finalize(&args);
	return 0;
}

static void names_evict(unsigned long *src_pfns, unsigned long *dst_pfns,
			unsigned long npages)
{
	migrate_device_pfns(src_pfns, npages);
	migrate_device_pages(src_pfns, dst_pfns, npages);
	migrate_device_finalize(src_pfns, dst_pfns, npages);
}

static const struct dev_pagemap_ops names_ops = {
	.folio_free = names_folio_free,
	.folio_split = names_folio_split,
	.migrate_to_ram = names_migrate_to_ram,
};

static int __init names_init(void)
{
	struct names_block block = {};
	unsigned long pfn = 0;

	names_pgmap.ops = &names_ops;
	names_ready(NULL, &block, HPAGE_PMD_ORDER);
	names_ready_page(NULL, HPAGE_PMD_ORDER);
	names_evict(&pfn, &pfn, 1);
	return -ENODEV;
}

module_init(names_init);
MODULE_DESCRIPTION("The names that a driver with large folios uses");
MODULE_LICENSE("GPL");
