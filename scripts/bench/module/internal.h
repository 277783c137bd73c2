/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of the measuring module share. */
#ifndef INTERNAL_H
#define INTERNAL_H

#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/types.h>

struct page;
struct vm_fault;

extern struct dev_pagemap pgmap;
extern u64 clock_ns;
extern unsigned long fault_window;

struct page *alloc_device(unsigned int order);
long bench_range_fault(void __user *user);

#ifdef HAS_hmm_migrate
unsigned int bench_window_fault(struct vm_fault *vmf);
long bench_pipeline(void __user *user);
void bench_pipeline_exit(void);
#else
static inline unsigned int bench_window_fault(struct vm_fault *vmf)
{
	return 0;
}

static inline long bench_pipeline(void __user *user)
{
	return -ENOTTY;
}

static inline void bench_pipeline_exit(void)
{
}
#endif

#endif
