// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration to ordinary memory: its allocators; and mbind(2), migrate_pages(2) and
 * cpusets, which move memory from node to node.
 */
#include <linux/export.h>
#include <linux/gfp.h>
#include <linux/hmm_migrate.h>
#include <linux/huge_mm.h>
#include <linux/init.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/page_owner.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/sysctl.h>
#include <linux/vmstat.h>
#include <trace/events/migrate.h>
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

#ifdef CONFIG_NUMA_RANGE_MIGRATION

/* /proc/sys/vm/numa_range_migration */
static u8 numa_range_migration __read_mostly = 1;

/* So many small pages are allocated together. */
#define NODES_BULK	32UL

/**
 * migrate_places_alloc() - make room for places with memory that is to leave its node
 * @max: how many
 *
 * Context: any; page tables may be locked.
 * Return: an array for migrate_range_nodes() and kfree(), or NULL if range migration is
 * turned off, or there is no memory.
 */
struct migrate_place *migrate_places_alloc(unsigned long max)
{
	if (!READ_ONCE(numa_range_migration))
		return NULL;
	/* And as many where something is left. */
	return kmalloc_array(2 * max, sizeof(struct migrate_place), GFP_NOWAIT | __GFP_NOWARN);
}

/**
 * migrate_nodes_take_vma() - may what is in a vma move?
 * @nodes: what is to move; NULL: it is no call between nodes
 * @vma: the vma
 *
 * Asked again each time that mmap_lock was dropped: another mapping may be there, with
 * another policy.
 *
 * Context: mmap_lock is held.
 * Return: whether it may.
 */
bool migrate_nodes_take_vma(const struct migrate_nodes *nodes, struct vm_area_struct *vma)
{
	if (!nodes)
		return true;
	return vma_migratable(vma) &&
	       (!nodes->by_policy || mpol_equal(vma_policy(vma), nodes->policy));
}

/**
 * struct nodes_call - a call at work
 * @nodes: what is to move
 * @pages: pages that have been allocated together
 * @next: the first of them that is not used yet
 * @nr: how many they were
 */
struct nodes_call {
	const struct migrate_nodes *nodes;
	struct page *pages[NODES_BULK];
	unsigned int next;
	unsigned int nr;
};

/* The next of some pages that are allocated together, for what has @max_nr pages at most. */
static struct page *nodes_alloc_page(struct nodes_call *call, unsigned long max_nr)
{
	const struct migrate_nodes *nodes = call->nodes;
	unsigned int nr;

	if (call->next == call->nr) {
		nr = min(max_nr, NODES_BULK);
		/* The allocator fills only the entries that are NULL. */
		memset(call->pages, 0, nr * sizeof(*call->pages));
		call->nr = nodes->alloc_bulk(nr, call->pages, nodes->private);
		call->next = 0;
	}
	return call->next < call->nr ? call->pages[call->next++] : NULL;
}

/* A large folio moves whole, so the slot at @addr has the folio that it is for. */
static struct folio *nodes_alloc(const struct hmm_migrate_chunk *chunk, unsigned long addr,
				 unsigned int order)
{
	unsigned long index = range_pages(chunk->start, addr);
	struct nodes_call *call = chunk->migrate->private;
	const struct migrate_nodes *nodes = call->nodes;
	struct page *page;

	if (order || !nodes->alloc_bulk) {
		page = migrate_pfn_to_page(chunk->src[index]);
		return lock_new_folio(nodes->alloc(page_folio(page), nodes->private));
	}
	page = nodes_alloc_page(call, chunk->npages - index);
	return page ? lock_new_folio(page_folio(page)) : NULL;
}

static void nodes_free_pages(struct nodes_call *call)
{
	while (call->next < call->nr)
		__free_page(call->pages[call->next++]);
}

static bool nodes_have_page_owner(void)
{
#ifdef CONFIG_PAGE_OWNER
	return static_branch_unlikely(&page_owner_inited);
#else
	return false;
#endif
}

static void nodes_commit(struct hmm_migrate_chunk *chunk)
{
	const struct nodes_call *call = chunk->migrate->private;
	unsigned long index = 0;
	struct folio *folio;

	if (!nodes_have_page_owner())
		return;
	while ((folio = hmm_migrate_next(chunk, &index))) {
		set_page_owner_migrate_reason(&folio->page, call->nodes->reason);
		index += folio_nr_pages(folio);
	}
}

static const struct hmm_migrate_ops nodes_ops = {
	.alloc = nodes_alloc,
	.copy = hmm_migrate_copy,
	.commit = nodes_commit,
};

/* Is there a place that is not left to migrate_pages() in any case? */
static bool nodes_are_worth_it(const struct migrate_place *places, unsigned long nr)
{
	unsigned long i;

	for (i = 0; i < nr; i++)
		if (places[i].end - places[i].start >= RANGE_MIN_PLACE)
			return true;
	return false;
}

/**
 * migrate_range_nodes() - move memory of an address space from node to node, by its range
 * @mm: the address space; the caller has a reference to its users
 * @nodes: which memory, and where to
 * @places: where it is, in ascending order, and in the end where some of it was left that is
 *	to be looked at again; by migrate_places_alloc()
 * @nr: how many these are, at least one
 * @max: how many there is room for
 *
 * Moves the folios that can be moved at once. Leaves to migrate_pages() those that are locked,
 * under writeback, pinned, mapped in two pieces, or for which memory could only be had by
 * reclaim. Splits no folio. Counts and traces as migrate_pages() does, but folios that stay are
 * no failures.
 *
 * Context: takes mmap_lock for reading, for a chunk at a time. Sleeps.
 * Return: how many places there are in the end.
 */
unsigned long migrate_range_nodes(struct mm_struct *mm, const struct migrate_nodes *nodes,
				  struct migrate_place *places, unsigned long nr,
				  unsigned long max)
{
	struct range_places left = { .at = places + max, .max = max };
	struct nodes_call call = { .nodes = nodes };
	struct hmm_migrate migrate = {
		.mm = mm,
		.ops = &nodes_ops,
		.private = &call,
	};
	struct range_call range = {
		.migrate = &migrate,
		.select = MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_LARGE,
		.flags = HMM_MIGRATE_TO_SYSTEM | HMM_MIGRATE_NO_WAIT | RANGE_NO_SPLIT,
		.nodes = nodes,
		.left = &left,
	};

	if (!nodes_are_worth_it(places, nr))
		return nr;
	trace_mm_migrate_pages_start(MIGRATE_SYNC, nodes->reason);
	range_over_places(&range, places, nr);
	nodes_free_pages(&call);
	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		range.moved_huge = 0;
	count_vm_events(PGMIGRATE_SUCCESS, migrate.moved);
	count_vm_events(THP_MIGRATION_SUCCESS, range.moved_huge);
	trace_mm_migrate_pages(migrate.moved, 0, range.moved_huge, 0, 0, 0, MIGRATE_SYNC,
			       nodes->reason);
	memcpy(places, left.at, left.nr * sizeof(*places));
	return left.nr;
}

static struct ctl_table nodes_sysctls[] = {
	{
		.procname	= "numa_range_migration",
		.data		= &numa_range_migration,
		.maxlen		= sizeof(numa_range_migration),
		.mode		= 0644,
		.proc_handler	= proc_dou8vec_minmax,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
};

static int __init nodes_init(void)
{
	register_sysctl_init("vm", nodes_sysctls);
	return 0;
}
subsys_initcall(nodes_init);

#endif /* CONFIG_NUMA_RANGE_MIGRATION */
