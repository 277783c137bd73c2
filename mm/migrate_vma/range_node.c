// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration to ordinary memory: its allocators.
 */
#include <linux/export.h>
#include <linux/gfp.h>
#include <linux/hmm_migrate.h>
#include <linux/huge_mm.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include "range.h"

static struct folio *lock_new_folio(struct folio *folio)
{
	if (folio)
		__folio_set_locked(folio);
	return folio;
}

/*
 * How hard to try for a large folio at a place of @vma: as hard as a fault would, but
 * nobody is to be killed for it, as smaller ones will do.
 */
static gfp_t large_folio_gfp(struct vm_area_struct *vma)
{
	return (vma ? vma_thp_gfp_mask(vma) : GFP_TRANSHUGE_LIGHT) | __GFP_NORETRY;
}

/**
 * hmm_migrate_alloc_system() - an allocator: ordinary memory, by the vma's policy
 * @chunk: whose vma it is
 * @addr: the address
 * @order: the order
 *
 * For a large folio it is tried as hard as a page fault there would try, see
 * Documentation/admin-guide/mm/transhuge.rst, "defrag".
 *
 * Context: sleeps.
 * Return: the folio, locked, or NULL.
 */
struct folio *hmm_migrate_alloc_system(const struct hmm_migrate_chunk *chunk,
				       unsigned long addr, unsigned int order)
{
	gfp_t gfp = order ? large_folio_gfp(chunk->vma) :
			    GFP_HIGHUSER_MOVABLE | __GFP_NOWARN;

	if (!chunk->vma)
		return lock_new_folio(folio_alloc(gfp, order));
	return lock_new_folio(vma_alloc_folio(gfp, order, chunk->vma, addr,
					      order == MIGRATE_HUGE_ORDER));
}
EXPORT_SYMBOL_GPL(hmm_migrate_alloc_system);

/**
 * hmm_migrate_alloc_node() - an allocator: ordinary memory of one node
 * @chunk: the chunk
 * @addr: not used
 * @order: the order
 * @nid: the node
 *
 * For an alloc op of the driver, which knows the node. A node that is full does not make
 * room: its memory is as good as what is to move there. With HMM_MIGRATE_TO_SYSTEM, the
 * call knows what this is.
 *
 * Context: sleeps.
 * Return: the folio, locked, or NULL; memory of other nodes is not taken.
 */
struct folio *hmm_migrate_alloc_node(const struct hmm_migrate_chunk *chunk,
				     unsigned long addr, unsigned int order, int nid)
{
	gfp_t gfp = order ? GFP_TRANSHUGE_LIGHT : GFP_HIGHUSER_MOVABLE & ~__GFP_RECLAIM;

	gfp |= __GFP_THISNODE | __GFP_NOWARN | __GFP_NORETRY | __GFP_KSWAPD_RECLAIM;
	return lock_new_folio(__folio_alloc_node(gfp, order, nid));
}
EXPORT_SYMBOL_GPL(hmm_migrate_alloc_node);
