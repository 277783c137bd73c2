// SPDX-License-Identifier: GPL-2.0
/* Migrates a mapping of the caller's to ordinary memory, by the three calls. */
#include <linux/highmem.h>
#include <linux/migrate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#define PAGES	64

static void copy_one(struct migrate_vma *args, unsigned long i)
{
	struct page *from = migrate_pfn_to_page(args->src[i]), *to;

	if (!from || !(args->src[i] & MIGRATE_PFN_MIGRATE))
		return;
	to = alloc_page(GFP_HIGHUSER_MOVABLE);
	if (!to)
		return;
	lock_page(to);
	copy_highpage(to, from);
	args->dst[i] = migrate_pfn(page_to_pfn(to));
}

/* The first address, in decimal, of PAGES pages. Returns how many have moved. */
static ssize_t file_write(struct file *file, const char __user *text, size_t size, loff_t *at)
{
	unsigned long src[PAGES] = {}, dst[PAGES] = {}, addr, i, moved = 0;
	struct migrate_vma args = { .src = src, .dst = dst, .flags = MIGRATE_VMA_SELECT_SYSTEM };
	int ret = kstrtoul_from_user(text, size, 10, &addr);

	if (ret)
		return ret;
	mmap_read_lock(current->mm);
	args.vma = find_vma(current->mm, addr);
	args.start = addr;
	args.end = addr + PAGES * PAGE_SIZE;
	ret = args.vma ? migrate_vma_setup(&args) : -EFAULT;
	if (!ret) {
		for (i = 0; i < PAGES; i++)
			copy_one(&args, i);
		migrate_vma_pages(&args);
		for (i = 0; i < PAGES; i++)
			moved += dst[i] && (src[i] & MIGRATE_PFN_MIGRATE);
		migrate_vma_finalize(&args);
	}
	mmap_read_unlock(current->mm);
	pr_info("file_migrate: %lu of %u pages have moved\n", moved, PAGES);
	return ret ?: size;
}

static const struct file_operations file_ops = { .owner = THIS_MODULE, .write = file_write };
static struct miscdevice device = { .minor = MISC_DYNAMIC_MINOR, .name = "file_migrate", .fops = &file_ops, .mode = 0600 };
module_misc_device(device);
MODULE_DESCRIPTION("Migrates files' memory to ordinary memory");
MODULE_LICENSE("GPL");
