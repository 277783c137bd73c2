/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_MIGRATE_LEFT_H
#define _LINUX_MIGRATE_LEFT_H

/*
 * The reasons why a page of a range does not migrate. enum migrate_left, the counters
 * migrate_vma_left_* of /proc/vmstat and the symbols of the tracepoint migrate_vma_left are
 * generated from this list: its users define LEFT_REASON() for each entry, and
 * LEFT_REASON_LAST() for the last one, and undefine them afterwards.
 *
 * UNSELECTED: the caller did not select this kind of memory, or it is the device memory of
 *	another owner.
 * SWAPPED: the page is swapped out, or the PTE holds no page at all: a poison or userfaultfd
 *	marker, or a device-exclusive entry.
 * KIND: this kind of page cannot migrate. It is not an ordinary page, or is merged by KSM, or
 *	droppable; or its destination is device memory, and it is a file's or has arm64's tags;
 *	or its file system cannot move it.
 * LARGE: the page is part of a large folio that could not be split, or of a file's, which is
 *	never split.
 * LOCKED: another task held the folio lock in all passes; or the folio was under writeback for
 *	as long as hmm_migrate_range() waits.
 * PINNED: another task has a reference to the folio.
 * LRU: another task has isolated the folio from the LRU.
 * MAPPED: another mapping of the folio could not be removed.
 * NO_DESTINATION: the driver gave no page.
 * DESTINATION: the page that the driver gave cannot replace this one: it is device memory and
 *	this one is in the swap cache; or it is larger; or it is smaller, and the folio could
 *	not be split.
 * BUSY: another task took a reference after the setup, or is writing the folio to swap.
 * HOLE: a hole was not filled. The driver did not want to or could not, or a page fault would
 *	not fill it either, or it is no longer a hole.
 */
#define LEFT_REASON_LIST(...)	__VA_ARGS__	/* keeps its argument together */

#define MIGRATE_LEFT_REASONS					\
	LEFT_REASON_LIST(					\
		LEFT_REASON(UNSELECTED, unselected)		\
		LEFT_REASON(SWAPPED, swapped)			\
		LEFT_REASON(KIND, kind)				\
		LEFT_REASON(LARGE, large)			\
		LEFT_REASON(LOCKED, locked)			\
		LEFT_REASON(PINNED, pinned)			\
		LEFT_REASON(LRU, lru)				\
		LEFT_REASON(MAPPED, mapped)			\
		LEFT_REASON(NO_DESTINATION, no_destination)	\
		LEFT_REASON(DESTINATION, destination)		\
		LEFT_REASON(BUSY, busy)				\
		LEFT_REASON_LAST(HOLE, hole))

#endif /* _LINUX_MIGRATE_LEFT_H */
