// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: what each stage did, for tracepoints and /proc/vmstat.
 */
#include <linux/migrate.h>
#include <linux/vmstat.h>
#include "internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/migrate_vma.h>

static_assert(MIGRATE_VMA_LEFT_LAST - MIGRATE_VMA_LEFT_FIRST + 1 ==
	      NR_MIGRATE_LEFT);

static void tally_trace(const struct migrate_tally *tally)
{
	switch (tally->stage) {
	case MIGRATE_STAGE_COLLECT:
		trace_migrate_vma_collect(tally->start, tally->end,
					  tally->by_pfn, tally->units,
					  tally->holes, tally->pages);
		break;
	case MIGRATE_STAGE_UNMAP:
		trace_migrate_vma_unmap(tally->start, tally->end,
					tally->by_pfn, tally->units,
					tally->holes, tally->pages);
		break;
	case MIGRATE_STAGE_PAGES:
		trace_migrate_vma_pages(tally->start, tally->end,
					tally->by_pfn, tally->units,
					tally->holes, tally->pages);
		break;
	case MIGRATE_STAGE_FINALIZE:
		trace_migrate_vma_finalize(tally->start, tally->end,
					   tally->by_pfn, tally->units,
					   tally->holes, tally->pages);
		break;
	}
}

/* What the pages stage passed on has moved: from there is no way back. */
static void tally_count_moved(const struct migrate_tally *tally)
{
	unsigned long moved = 0;
	unsigned int order;

	for (order = 0; order < NR_PAGE_ORDERS; order++)
		moved += tally->pages[order];
	count_vm_events(MIGRATE_VMA_MOVED, moved - tally->holes);
	count_vm_events(MIGRATE_VMA_FILLED, tally->holes);
}

/**
 * migrate_tally_report() - a stage is over
 * @tally: what it did
 */
void migrate_tally_report(const struct migrate_tally *tally)
{
	enum migrate_left reason;

	tally_trace(tally);
	if (tally->stage == MIGRATE_STAGE_PAGES)
		tally_count_moved(tally);
	if (tally->again)
		count_vm_events(MIGRATE_VMA_AGAIN, tally->again);
	for (reason = 0; reason < NR_MIGRATE_LEFT; reason++) {
		if (!tally->left[reason])
			continue;
		trace_migrate_vma_left(tally->start, tally->end, tally->by_pfn,
				       tally->stage, reason,
				       tally->left[reason]);
		count_vm_events(MIGRATE_VMA_LEFT_FIRST + (int)reason,
				tally->left[reason]);
	}
}
