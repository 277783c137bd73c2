// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: report what a stage did, by tracepoints and in /proc/vmstat.
 */
#include <linux/migrate.h>
#include <linux/vmstat.h>
#include "internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/migrate_vma.h>

static void stats_trace(const struct migrate_stats *stats)
{
	switch (stats->stage) {
	case MIGRATE_STAGE_COLLECT:
		trace_migrate_vma_collect(stats->start, stats->end,
					  stats->by_pfn, stats->units,
					  stats->holes, stats->pages);
		break;
	case MIGRATE_STAGE_UNMAP:
		trace_migrate_vma_unmap(stats->start, stats->end,
					stats->by_pfn, stats->units,
					stats->holes, stats->pages);
		break;
	case MIGRATE_STAGE_PAGES:
		trace_migrate_vma_pages(stats->start, stats->end,
					stats->by_pfn, stats->units,
					stats->holes, stats->pages);
		break;
	case MIGRATE_STAGE_FINALIZE:
		trace_migrate_vma_finalize(stats->start, stats->end,
					   stats->by_pfn, stats->units,
					   stats->holes, stats->pages);
		break;
	}
}

/**
 * migrate_stats_report() - trace the counts of a stage and add them to vmstat
 * @stats: the counts of a stage that is finished
 *
 * Pages count as moved after the pages stage, because that stage cannot be undone.
 */
void migrate_stats_report(const struct migrate_stats *stats)
{
	enum migrate_left reason;

	stats_trace(stats);
	if (stats->stage == MIGRATE_STAGE_PAGES) {
		unsigned long pages = 0;
		unsigned int order;

		for (order = 0; order < NR_PAGE_ORDERS; order++)
			pages += stats->pages[order];
		count_vm_events(MIGRATE_VMA_MOVED, pages - stats->holes);
		count_vm_events(MIGRATE_VMA_FILLED, stats->holes);
	}
	if (stats->retried)
		count_vm_events(MIGRATE_VMA_RETRIED, stats->retried);
	for (reason = 0; reason < NR_MIGRATE_LEFT; reason++) {
		if (!stats->left[reason])
			continue;
		trace_migrate_vma_left(stats->start, stats->end, stats->by_pfn,
				       stats->stage, reason,
				       stats->left[reason]);
		count_vm_events(MIGRATE_VMA_LEFT_UNSELECTED + (int)reason,
				stats->left[reason]);
	}
}
