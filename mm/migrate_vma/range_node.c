// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration to ordinary memory: the allocators for it; and moves between nodes, for
 * mbind(2), migrate_pages(2) and cpusets.
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

/**
 * hmm_migrate_alloc_system() - an alloc op: ordinary memory, by the policy of the vma
 * @chunk: the chunk
 * @addr: the address
 * @order: the order
 *
 * For a large folio, tries as hard as a page fault in this vma would, see "defrag" in
 * Documentation/admin-guide/mm/transhuge.rst, but never invokes the OOM killer: smaller
 * folios will do as well.
 *
 * Context: sleeps.
 * Return: the folio, locked, or NULL.
 */
struct folio *hmm_migrate_alloc_system(const struct hmm_migrate_chunk *chunk,
				       unsigned long addr, unsigned int order)
{
	struct vm_area_struct *vma = chunk->vma;
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_NOWARN;

	if (order)
		gfp = (vma ? vma_thp_gfp_mask(vma) : GFP_TRANSHUGE_LIGHT) | __GFP_NORETRY;
	if (!vma)
		return lock_new_folio(folio_alloc(gfp, order));
	return lock_new_folio(vma_alloc_folio(gfp, order, vma, addr,
					      order == MIGRATE_HUGE_ORDER));
}
EXPORT_SYMBOL_GPL(hmm_migrate_alloc_system);

/**
 * hmm_migrate_alloc_node() - ordinary memory of one node, for an alloc op of the driver
 * @chunk: the chunk
 * @addr: not used
 * @order: the order
 * @nid: the node
 *
 * Does not reclaim: the memory of a full node is worth as much as the pages that are to
 * move there. The driver sets HMM_MIGRATE_TO_SYSTEM, since the call cannot know what its
 * alloc op allocates.
 *
 * Context: sleeps.
 * Return: the folio, locked, or NULL; never memory of another node.
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

/* How many order-0 pages are allocated at once. */
#define NODES_BULK	32UL

/**
 * migrate_places_alloc() - allocate an array of places for migrate_range_nodes()
 * @max: how many places the caller may note
 *
 * Context: any; the caller may hold a page table lock.
 * Return: the array, to be freed by kfree(); or NULL if range migration between nodes is
 * turned off, or the allocation failed.
 */
struct migrate_place *migrate_places_alloc(unsigned long max)
{
	if (!READ_ONCE(numa_range_migration))
		return NULL;
	/* The second half is for the places where memory stays. */
	return kmalloc_array(2 * max, sizeof(struct migrate_place), GFP_NOWAIT | __GFP_NOWARN);
}

/**
 * migrate_nodes_take_vma() - may the memory of a vma move between nodes?
 * @nodes: which memory is to move; NULL if the call is not one between nodes
 * @vma: the vma
 *
 * To be called each time that mmap_lock was dropped, because another mapping may be there
 * now, with another policy.
 *
 * Context: mmap_lock is held.
 * Return: true if it may.
 */
bool migrate_nodes_take_vma(const struct migrate_nodes *nodes, struct vm_area_struct *vma)
{
	if (!nodes)
		return true;
	return vma_migratable(vma) &&
	       (!nodes->by_policy || mpol_equal(vma_policy(vma), nodes->policy));
}

/**
 * struct nodes_ctx - the &hmm_migrate.private of a call between nodes
 * @nodes: which memory is to move
 * @pages: pages that were allocated at once
 * @next: the first one that is not used yet
 * @nr: how many pages there are
 */
struct nodes_ctx {
	const struct migrate_nodes *nodes;
	struct page *pages[NODES_BULK];
	unsigned int next;
	unsigned int nr;
};

/* Large folios move whole, so the slot of @addr has the folio that the new one is for. */
static struct folio *nodes_alloc(const struct hmm_migrate_chunk *chunk, unsigned long addr,
				 unsigned int order)
{
	unsigned long index = range_pages(chunk->start, addr), max;
	struct nodes_ctx *ctx = chunk->migrate->private;
	const struct migrate_nodes *nodes = ctx->nodes;
	struct page *page;

	if (order || !nodes->alloc_bulk) {
		page = migrate_pfn_to_page(chunk->src[index]);
		return lock_new_folio(nodes->alloc(page_folio(page), nodes->private));
	}
	if (ctx->next == ctx->nr) {
		max = min(chunk->npages - index, NODES_BULK);
		/* The bulk allocator fills only array entries that are NULL. */
		memset(ctx->pages, 0, max * sizeof(*ctx->pages));
		ctx->nr = nodes->alloc_bulk(max, ctx->pages, nodes->private);
		ctx->next = 0;
	}
	if (ctx->next == ctx->nr)
		return NULL;
	return lock_new_folio(page_folio(ctx->pages[ctx->next++]));
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
	const struct nodes_ctx *ctx = chunk->migrate->private;
	unsigned long index = 0;
	struct folio *folio;

	if (!nodes_have_page_owner())
		return;
	while ((folio = hmm_migrate_next(chunk, &index))) {
		set_page_owner_migrate_reason(&folio->page, ctx->nodes->reason);
		index += folio_nr_pages(folio);
	}
}

static const struct hmm_migrate_ops nodes_ops = {
	.alloc = nodes_alloc,
	.copy = hmm_migrate_copy,
	.commit = nodes_commit,
};

/*
 * How many pages have stayed so far that should have moved? Locked folios that are still
 * to be retried are not among them; nor are pages that were not selected or are mapped by
 * several processes, and swap entries.
 */
static unsigned long range_nr_left(const struct range_ctx *range)
{
	const struct hmm_migrate *migrate = range->migrate;
	unsigned long nr = migrate->no_memory + migrate->copy_failed;
	enum migrate_left reason;

	for (reason = 0; reason < NR_MIGRATE_LEFT; reason++)
		if (reason != MIGRATE_LEFT_UNSELECTED && reason != MIGRATE_LEFT_SWAPPED)
			nr += migrate->left[reason];
	return nr;
}

/**
 * range_note_left() - note a place where memory stays that should have moved
 * @range: the call, which has &range_ctx.nodes
 * @start: its first address
 * @end: the address behind it
 *
 * Keeps room for one entry for each of the caller's places that are still to come. Where
 * that leaves no room, extends the last entry instead, which is in the same place of the
 * caller's.
 */
void range_note_left(struct range_ctx *range, unsigned long start, unsigned long end)
{
	struct range_places *left = range->left;
	struct migrate_place *last = left->at + left->nr - 1;

	if (left->nr && (last->end == start || left->nr + range->nr_upcoming >= left->max))
		last->end = end;
	else
		left->at[left->nr++] = (struct migrate_place){ start, end };
}

/**
 * range_note_chunk() - note the parts of a chunk that have not moved
 * @range: the call, which has &range_ctx.nodes
 * @chunk: the chunk, after the pages stage
 *
 * Does nothing if all of the chunk has moved. Locked folios are noted here as well,
 * before they are retried and counted, so that the retry pass need not note them.
 */
void range_note_chunk(struct range_ctx *range, const struct hmm_migrate_chunk *chunk)
{
	unsigned long nr_left = range_nr_left(range), done = 0;
	struct migrate_unit unit = {};

	if (range->in_retry || (nr_left == range->nr_left && !range->retry.nr))
		return;
	range->nr_left = nr_left;
	while (migrate_unit_next(&unit, chunk->src, chunk->dst, chunk->npages)) {
		if (!unit.newpage || !(*unit.src & MIGRATE_PFN_MIGRATE))
			continue;
		if (unit.index > done)
			range_note_left(range, chunk->start + done * PAGE_SIZE,
					chunk->start + unit.index * PAGE_SIZE);
		done = unit.next;
	}
	if (done < chunk->npages)
		range_note_left(range, chunk->start + done * PAGE_SIZE,
				chunk->start + chunk->npages * PAGE_SIZE);
}

/* Migrate the places that are long enough. Note the others, and those after an error. */
static void nodes_migrate(struct range_ctx *range, const struct migrate_place *places,
			  unsigned long nr)
{
	unsigned long i, addr;
	int ret;

	range->start = places[0].start;
	range->end = places[nr - 1].end;
	ret = range_create(range);
	for (i = 0; i < nr; i++) {
		range->nr_upcoming = nr - 1 - i;
		addr = places[i].start;
		while (!ret && addr < places[i].end &&
		       places[i].end - places[i].start >= RANGE_MIN_PLACE) {
			ret = range_must_stop(range);
			ret = ret ?: range_pass(range, &addr, places[i].end);
			ret = range_retry(range, ret);
			/* range_note_chunk() has noted the folios that were retried. */
			range->nr_left = range_nr_left(range);
			cond_resched();
		}
		if (addr < places[i].end)
			range_note_left(range, addr, places[i].end);
	}
	range_destroy(range);
}

/**
 * migrate_range_nodes() - move memory of an address space between nodes, by range migration
 * @mm: the address space; the caller has a reference to its users
 * @nodes: which memory is to move, and where to
 * @places: where it is, in ascending order, in an array of migrate_places_alloc().
 *	Returns the places where some of it stays
 * @nr: how many places there are, at least one
 * @max: how many places the caller may note, as for migrate_places_alloc()
 *
 * Moves the folios that can move at once. Leaves to migrate_pages() those that are
 * locked, under writeback, pinned, not mapped contiguously, or for which memory could
 * only be had by reclaim. Splits no folio. Counts and traces as migrate_pages() does, but
 * folios that stay are not failures.
 *
 * Context: takes mmap_lock for reading, for a chunk at a time. Sleeps.
 * Return: how many places @places has afterwards.
 */
unsigned long migrate_range_nodes(struct mm_struct *mm, const struct migrate_nodes *nodes,
				  struct migrate_place *places, unsigned long nr,
				  unsigned long max)
{
	struct range_places left = { .at = places + max, .max = max };
	struct nodes_ctx ctx = { .nodes = nodes };
	struct hmm_migrate migrate = {
		.mm = mm,
		.ops = &nodes_ops,
		.private = &ctx,
	};
	struct range_ctx range = {
		.migrate = &migrate,
		.select = MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_LARGE,
		.flags = HMM_MIGRATE_TO_SYSTEM | HMM_MIGRATE_NO_WAIT | RANGE_NO_SPLIT,
		.nodes = nodes,
		.left = &left,
	};
	unsigned long i;

	/* If no place is long enough, there is nothing to do here. */
	for (i = 0; i < nr; i++)
		if (places[i].end - places[i].start >= RANGE_MIN_PLACE)
			break;
	if (i == nr)
		return nr;
	trace_mm_migrate_pages_start(MIGRATE_SYNC, nodes->reason);
	nodes_migrate(&range, places, nr);
	while (ctx.next < ctx.nr)
		__free_page(ctx.pages[ctx.next++]);
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
