// SPDX-License-Identifier: GPL-2.0
/*
 * Range migration: invalidations between the begin op and the commit op.
 *
 * A driver that maps migrated pages in its device's page tables, without a fault of the
 * device, has to know that they are still mapped in the process. MADV_DONTNEED, for
 * example, takes mmap_lock for reading only, so its invalidation may come before the
 * driver has mapped the pages, and will not come again. A tracker notes which addresses
 * were invalidated. The migration's own invalidations do not count: they come before the
 * pages of the chunk arrive.
 */
#include <linux/export.h>
#include <linux/hmm_migrate.h>
#include <linux/list.h>
#include <linux/minmax.h>
#include <linux/mmu_notifier.h>
#include <linux/sched.h>
#include <linux/spinlock.h>

/**
 * hmm_migrate_tracker_init() - initialize a tracker
 * @tracker: the tracker, for one or several notifiers of the driver
 */
void hmm_migrate_tracker_init(struct hmm_migrate_tracker *tracker)
{
	spin_lock_init(&tracker->lock);
	INIT_LIST_HEAD(&tracker->tracks);
}
EXPORT_SYMBOL_GPL(hmm_migrate_tracker_init);

/*
 * Is this an invalidation by the migration itself? While it unmaps, each invalidation by
 * this task is: the one for the range, the split of a THP, the unmapping of a shared
 * page. Later, only the event of the pages stage is, for holes that it fills: other
 * invalidations by this task may be reclaim, by an allocation, of pages in the range. The
 * owner alone would not do, because another thread may migrate to the same device.
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
 * hmm_migrate_tracker_invalidate() - note an invalidation
 * @tracker: the tracker
 * @range: the argument of the driver's &mmu_interval_notifier_ops.invalidate
 *
 * To be called under the lock under which the driver maps pages in the device.
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
 * hmm_migrate_track_start() - start to track a migration
 * @track: the track
 * @tracker: the tracker that is told of invalidations in the range of @migrate
 * @migrate: the migration
 *
 * To be called before hmm_migrate_range(), and hmm_migrate_track_stop() after it.
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
 * hmm_migrate_track_stop() - stop to track a migration
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
 * hmm_migrate_track_begin() - forget the invalidations so far
 * @track: the track
 * @notifier: the notifier that tells the tracker of invalidations
 *
 * For &hmm_migrate_ops.begin, when no chunk is pending. Waits for invalidations that have
 * begun, since these may unmap pages only after this call has migrated others to the same
 * addresses. With several notifiers, call mmu_interval_read_begin() for the others
 * afterwards.
 *
 * Context: sleeps. Called by the task that migrates.
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
 * hmm_migrate_track_is_valid() - may the driver map these pages in the device?
 * @track: the track
 * @start: the first address
 * @end: the address behind the last one
 *
 * For &hmm_migrate_ops.commit, under the lock of hmm_migrate_tracker_invalidate(), which
 * the driver holds until it has mapped the pages. Leave pages that are not valid to a
 * fault of the device. Only one range is kept for each track: addresses between two
 * invalidations are not valid either.
 *
 * Context: any.
 * Return: true if the addresses have not been invalidated since hmm_migrate_track_begin().
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
