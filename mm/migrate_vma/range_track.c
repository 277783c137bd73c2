// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: what others have changed between begin and commit.
 *
 * A driver that enters what has arrived into its device's page tables, without a fault of
 * the device for it, has to know that it is the process's still: MADV_DONTNEED and others
 * need mmap_lock for reading only, so their invalidation may come before the driver has
 * entered anything, and then never again. A tracker notes what was invalidated. The
 * migration's own invalidations do not count: they come before each chunk is there.
 */
#include <linux/export.h>
#include <linux/hmm_migrate.h>
#include <linux/list.h>
#include <linux/minmax.h>
#include <linux/mmu_notifier.h>
#include <linux/sched.h>
#include <linux/spinlock.h>

/**
 * hmm_migrate_tracker_init() - nothing migrates yet
 * @tracker: the driver's, one for each of its notifiers or for several
 */
void hmm_migrate_tracker_init(struct hmm_migrate_tracker *tracker)
{
	spin_lock_init(&tracker->lock);
	INIT_LIST_HEAD(&tracker->tracks);
}
EXPORT_SYMBOL_GPL(hmm_migrate_tracker_init);

/*
 * Our own migration announces itself by invalidations, too. While it unmaps, all that this
 * task does is a part of it: the announcement, the split of a huge page, the unmapping of
 * a page that others share. Later, the announcement alone is, for the holes that the pages
 * stage fills: the allocation of new pages may reclaim something of the range. The owner
 * alone would not tell it from another thread that migrates to the same device.
 */
static bool track_is_own(const struct hmm_migrate_track *track,
			 const struct mmu_notifier_range *range)
{
	if (track->task != current)
		return false;
	return READ_ONCE(track->migrate->unmapping) ||
	       (range->event == MMU_NOTIFY_MIGRATE &&
		range->owner == track->migrate->pgmap_owner);
}

/**
 * hmm_migrate_tracker_invalidate() - pages of the process go away
 * @tracker: the tracker
 * @range: which ones, in the driver's &mmu_interval_notifier_ops.invalidate
 *
 * To be called under the lock under which the driver enters pages.
 *
 * Context: any.
 */
void hmm_migrate_tracker_invalidate(struct hmm_migrate_tracker *tracker,
				    const struct mmu_notifier_range *range)
{
	struct hmm_migrate_track *track;

	spin_lock(&tracker->lock);
	list_for_each_entry(track, &tracker->tracks, node) {
		if (track_is_own(track, range))
			continue;
		track->start = min(track->start, range->start);
		track->end = max(track->end, range->end);
	}
	spin_unlock(&tracker->lock);
}
EXPORT_SYMBOL_GPL(hmm_migrate_tracker_invalidate);

/**
 * hmm_migrate_track_start() - a migration is to be tracked
 * @track: the track
 * @tracker: the tracker that hears of invalidations in its range
 * @migrate: the migration
 *
 * Before hmm_migrate_range(); and hmm_migrate_track_stop() after it.
 */
void hmm_migrate_track_start(struct hmm_migrate_track *track,
			     struct hmm_migrate_tracker *tracker,
			     const struct hmm_migrate *migrate)
{
	track->tracker = tracker;
	track->migrate = migrate;
	track->task = NULL;
	track->start = ULONG_MAX;
	track->end = 0;
	spin_lock(&tracker->lock);
	list_add(&track->node, &tracker->tracks);
	spin_unlock(&tracker->lock);
}
EXPORT_SYMBOL_GPL(hmm_migrate_track_start);

/**
 * hmm_migrate_track_stop() - a migration is over
 * @track: the track
 */
void hmm_migrate_track_stop(struct hmm_migrate_track *track)
{
	spin_lock(&track->tracker->lock);
	list_del(&track->node);
	spin_unlock(&track->tracker->lock);
}
EXPORT_SYMBOL_GPL(hmm_migrate_track_stop);

/**
 * hmm_migrate_track_begin() - what was changed before does not matter
 * @track: the track
 * @notifier: the notifier whose invalidations the tracker hears of
 *
 * For &hmm_migrate_ops.begin: nothing is in flight. What is being invalidated at this
 * moment is waited for, since its pages may be unmapped only after those of this call are
 * in their place. With several notifiers, mmu_interval_read_begin() of the others follows.
 *
 * Context: sleeps. In the task that migrates.
 */
void hmm_migrate_track_begin(struct hmm_migrate_track *track,
			     struct mmu_interval_notifier *notifier)
{
	spin_lock(&track->tracker->lock);
	track->task = current;
	track->start = ULONG_MAX;
	track->end = 0;
	spin_unlock(&track->tracker->lock);
	mmu_interval_read_begin(notifier);
}
EXPORT_SYMBOL_GPL(hmm_migrate_track_begin);

/**
 * hmm_migrate_track_is_valid() - has nobody changed these pages meanwhile?
 * @track: the track
 * @start: the first address
 * @end: the address behind it
 *
 * For &hmm_migrate_ops.commit, under the lock of hmm_migrate_tracker_invalidate(), which
 * is to be held until the pages are entered. What is not valid is left to a fault of the
 * device. A range between two that were invalidated is not valid either.
 *
 * Context: any.
 * Return: whether what has arrived there is the process's still.
 */
bool hmm_migrate_track_is_valid(struct hmm_migrate_track *track, unsigned long start,
				unsigned long end)
{
	bool valid;

	spin_lock(&track->tracker->lock);
	valid = end <= track->start || start >= track->end;
	spin_unlock(&track->tracker->lock);
	return valid;
}
EXPORT_SYMBOL_GPL(hmm_migrate_track_is_valid);
