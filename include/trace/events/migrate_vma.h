/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM migrate_vma

#if !defined(_TRACE_MIGRATE_VMA_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_MIGRATE_VMA_H

#include <linux/migrate.h>
#include <linux/mmzone.h>
#include <linux/tracepoint.h>

/* Export the values of the enums in the events' formats, for tools that parse these. */
TRACE_DEFINE_ENUM(MIGRATE_STAGE_COLLECT);
TRACE_DEFINE_ENUM(MIGRATE_STAGE_UNMAP);
TRACE_DEFINE_ENUM(MIGRATE_STAGE_PAGES);
TRACE_DEFINE_ENUM(MIGRATE_STAGE_FINALIZE);

#undef LEFT_REASON
#undef LEFT_REASON_LAST
#define LEFT_REASON(type, ...)	LEFT_REASON_LIST(TRACE_DEFINE_ENUM(MIGRATE_LEFT_##type);)
#define LEFT_REASON_LAST	LEFT_REASON

MIGRATE_LEFT_REASONS

#undef LEFT_REASON
#undef LEFT_REASON_LAST
#define LEFT_REASON(type, name)		{ MIGRATE_LEFT_##type, #name },
#define LEFT_REASON_LAST(type, name)	{ MIGRATE_LEFT_##type, #name }

DECLARE_EVENT_CLASS(migrate_vma_stage,
		    TP_PROTO(unsigned long start, unsigned long end,
			     bool by_pfn, unsigned long units,
			     unsigned long holes, const unsigned long *pages),

	TP_ARGS(start, end, by_pfn, units, holes, pages),

	TP_STRUCT__entry(__field(unsigned long, start)
			 __field(unsigned long, end)
			 __field(bool, by_pfn)
			 __field(unsigned long, units)
			 __field(unsigned long, holes)
			 __array(unsigned long, pages, NR_PAGE_ORDERS)
	),

	TP_fast_assign(__entry->start = start;
		       __entry->end = end;
		       __entry->by_pfn = by_pfn;
		       __entry->units = units;
		       __entry->holes = holes;
		       memcpy(__entry->pages, pages, sizeof(__entry->pages));
	),

	TP_printk("%s=%lx-%lx units=%lu holes=%lu pages_by_order=%s",
		  __entry->by_pfn ? "pfn" : "addr",
		  __entry->start, __entry->end, __entry->units, __entry->holes,
		  __print_array(__entry->pages, NR_PAGE_ORDERS,
				sizeof(unsigned long)))
);

DEFINE_EVENT(migrate_vma_stage, migrate_vma_collect,
	     TP_PROTO(unsigned long start, unsigned long end, bool by_pfn,
		      unsigned long units, unsigned long holes,
		 const unsigned long *pages),
	TP_ARGS(start, end, by_pfn, units, holes, pages)
);

DEFINE_EVENT(migrate_vma_stage, migrate_vma_unmap,
	     TP_PROTO(unsigned long start, unsigned long end, bool by_pfn,
		      unsigned long units, unsigned long holes,
		 const unsigned long *pages),
	TP_ARGS(start, end, by_pfn, units, holes, pages)
);

DEFINE_EVENT(migrate_vma_stage, migrate_vma_pages,
	     TP_PROTO(unsigned long start, unsigned long end, bool by_pfn,
		      unsigned long units, unsigned long holes,
		 const unsigned long *pages),
	TP_ARGS(start, end, by_pfn, units, holes, pages)
);

DEFINE_EVENT(migrate_vma_stage, migrate_vma_finalize,
	     TP_PROTO(unsigned long start, unsigned long end, bool by_pfn,
		      unsigned long units, unsigned long holes,
		 const unsigned long *pages),
	TP_ARGS(start, end, by_pfn, units, holes, pages)
);

TRACE_EVENT(migrate_vma_left,
	    TP_PROTO(unsigned long start, unsigned long end, bool by_pfn,
		     enum migrate_stage stage, enum migrate_left reason,
		     unsigned long pages),

	TP_ARGS(start, end, by_pfn, stage, reason, pages),

	TP_STRUCT__entry(__field(unsigned long, start)
			 __field(unsigned long, end)
			 __field(bool, by_pfn)
			 __field(int, stage)
			 __field(int, reason)
			 __field(unsigned long, pages)
	),

	TP_fast_assign(__entry->start = start;
		       __entry->end = end;
		       __entry->by_pfn = by_pfn;
		       __entry->stage = stage;
		       __entry->reason = reason;
		       __entry->pages = pages;
	),

	TP_printk("%s=%lx-%lx stage=%s reason=%s pages=%lu",
		  __entry->by_pfn ? "pfn" : "addr",
		  __entry->start, __entry->end,
		  __print_symbolic(__entry->stage,
				   { MIGRATE_STAGE_COLLECT, "collect" },
				   { MIGRATE_STAGE_UNMAP, "unmap" },
				   { MIGRATE_STAGE_PAGES, "pages" },
				   { MIGRATE_STAGE_FINALIZE, "finalize" }),
		  __print_symbolic(__entry->reason,
				   MIGRATE_LEFT_REASONS),
		  __entry->pages)
);

#endif /* _TRACE_MIGRATE_VMA_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
