// SPDX-License-Identifier: GPL-2.0
/*
 * The interfaces for drivers around hmm_migrate_range(), through the devices of
 * lib/test_hmm_migrate.c: mmap_lock held by the caller, workers, eviction, fault
 * windows, memory of other devices, reserve and begin, a minimum stay on the device,
 * and engines of all kinds. Every test that moves data checks every byte of it. Every
 * test ends with all device memory free again.
 *
 * Needs root; for all of the tests also coherent memory, and the engines.
 */
#define _GNU_SOURCE
#include "more.h"

#define TWO_MEG		(2UL << 20)
/* One huge page, and the same size in small pages. */
#define SIZE		(2 * TWO_MEG)

static unsigned long npages;

/* The caller sets @range, except for size, addr and length. */
static int migrate_by(int fd, unsigned long request, void *addr, unsigned long pages,
		      struct test_hmm_migrate_range *range)
{
	int ret;

	range->size = sizeof(*range);
	range->addr = (uintptr_t)addr;
	range->length = pages * page_size;
	ret = device_ioctl(fd, request, range);
	if (sum_of(range) != (range->done - range->addr) / page_size)
		return -EPROTO;
	if (!ret && range->done != range->addr + range->length)
		return -EPROTO;
	return ret;
}

static int set_faults(int fd, unsigned int flags, unsigned int window_order,
		      unsigned long stay_usec)
{
	struct test_hmm_migrate_fault_order argument = {
		.size = sizeof(argument),
		.flags = flags,
		.order = TEST_HMM_MIGRATE_MAX_ORDER,
		.window_order = window_order,
		.stay_usec = stay_usec,
	};

	return device_ioctl(fd, TEST_HMM_MIGRATE_FAULT_ORDER, &argument);
}

/* A device, and memory that is filled with seed 1. */

FIXTURE(driver)
{
	int fd;
	unsigned char *memory;
	void *area;
	struct test_hmm_migrate_range range;
};

FIXTURE_VARIANT(driver)
{
	unsigned int device;
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(driver, private)
{
	.device = 0,
	.flags = TEST_HMM_MIGRATE_LARGE,
};

FIXTURE_VARIANT_ADD(driver, coherent)
{
	.device = 2,
	.flags = TEST_HMM_MIGRATE_LARGE,
};

FIXTURE_VARIANT_ADD(driver, private_engine)
{
	.device = 0,
	.flags = TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_ENGINE,
};

FIXTURE_VARIANT_ADD(driver, coherent_engine)
{
	.device = 2,
	.flags = TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_ENGINE,
};

FIXTURE_SETUP(driver)
{
	page_size = sysconf(_SC_PAGESIZE);
	npages = SIZE / page_size;
	self->fd = open_device(variant->device);
	if (self->fd < 0 && variant->device >= 2)
		SKIP(return, "no coherent device, is there Soft Reserved memory?");
	ASSERT_LE(0, self->fd);
	if (variant->flags & TEST_HMM_MIGRATE_ENGINE && !have_engine())
		SKIP(return, "no engine, is test_hmm_migrate_dma loaded?");
	reset_engine();
	disarm(self->fd);
	ASSERT_EQ(0, set_faults(self->fd, 0, 0, 0));
	ASSERT_TRUE(map_both(&self->area, &self->memory, SIZE));
	self->range.flags = variant->flags;
}

FIXTURE_TEARDOWN(driver)
{
	if (self->fd < 0)
		return;
	reset_engine();
	disarm(self->fd);
	set_faults(self->fd, 0, 0, 0);
	if (self->area)
		munmap(self->area, 4 * SIZE);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

/* The context of the call */

TEST_F_TIMEOUT(driver, ways, TIMEOUT)
{
	unsigned int way, round = 1;

	for (way = 0; way < TEST_HMM_MIGRATE_NR_WAYS; way++, round++) {
		self->range.way = way;
		fill(self->memory, SIZE, round);
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
					npages, &self->range));
		EXPECT_EQ(way == TEST_HMM_MIGRATE_BY_WORKER,
			  self->range.task != (uint32_t)syscall(SYS_gettid));
		/* While a writer waits, the driver cannot tell a reader from a writer. */
		if (way == TEST_HMM_MIGRATE_BY_READER)
			EXPECT_NE(0, self->range.lock);
		if (way == TEST_HMM_MIGRATE_BY_WRITER)
			EXPECT_EQ(way, self->range.lock);
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(npages, device_used(self->fd, npages));
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, round));
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
					npages, &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, device_used(self->fd, 0));
		EXPECT_EQ(0, wrong(self->memory, SIZE, round));
	}
}

/*
 * With mmap_lock held, the call does not wait: the caller drops the lock and calls
 * again.
 */
TEST_F_TIMEOUT(driver, locked_while_pages_are_held, TIMEOUT)
{
	const unsigned long held = 16, usec = 1000000;
	unsigned char *small = self->memory + SIZE / 2;
	unsigned int way;
	double before;

	for (way = TEST_HMM_MIGRATE_BY_READER; way <= TEST_HMM_MIGRATE_BY_WRITER; way++) {
		struct holder holder;

		self->range.way = way;
		ASSERT_TRUE(start_holder(&holder, self->fd, 0, small, held, usec));
		before = seconds();
		EXPECT_EQ(-EAGAIN, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					      self->memory, npages, &self->range));
		EXPECT_GT(usec / 2e6, seconds() - before);
		EXPECT_EQ(self->range.addr + SIZE, self->range.done);
		EXPECT_EQ(held, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
		EXPECT_EQ(npages - held, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		pthread_join(holder.thread, NULL);
		ASSERT_EQ(0, holder.ret);
		/* Pages that are already on the device are not selected. */
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					self->memory, npages, &self->range));
		EXPECT_EQ(held, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(npages, device_used(self->fd, npages));
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM,
					self->memory, npages, &self->range));
		EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	}
}

TEST_F_TIMEOUT(driver, does_not_wait, TIMEOUT)
{
	const unsigned long held = 16, usec = 1000000;
	struct holder holder;
	double before;

	ASSERT_TRUE(start_holder(&holder, self->fd, 0, self->memory + SIZE / 2, held, usec));
	self->range.flags |= TEST_HMM_MIGRATE_NO_WAIT;
	before = seconds();
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				npages, &self->range));
	EXPECT_GT(usec / 2e6, seconds() - before);
	EXPECT_EQ(held, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	EXPECT_EQ(npages - held, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	pthread_join(holder.thread, NULL);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* After the deadline the call neither waits nor begins another chunk. */
TEST_F_TIMEOUT(driver, deadline, TIMEOUT)
{
	const unsigned long held = 16, usec = 900000;
	struct holder holder;
	double before;

	ASSERT_TRUE(start_holder(&holder, self->fd, 0, self->memory + SIZE / 2, held, usec));
	self->range.usec = 100000;
	before = seconds();
	EXPECT_EQ(-ETIME, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				     npages, &self->range));
	EXPECT_GT(usec / 1.1e6, seconds() - before);
	EXPECT_EQ(held, self->range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
	pthread_join(holder.thread, NULL);
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
				npages, &self->range));
	self->range.usec = 1;
	EXPECT_EQ(-ETIME, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				     npages, &self->range));
	EXPECT_GT(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

TEST_F_TIMEOUT(driver, depths, TIMEOUT)
{
	bool by_engine = variant->flags & TEST_HMM_MIGRATE_ENGINE;
	unsigned int depth;

	/* The CPU copies the chunks one after another. */
	self->range.chunk = 65536;
	for (depth = 1; depth <= TEST_HMM_MIGRATE_MAX_DEPTH; depth++) {
		self->range.depth = depth;
		fill(self->memory, SIZE, depth);
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
					npages, &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(by_engine ? depth : 0, self->range.in_flight);
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, depth));
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
					npages, &self->range));
		EXPECT_EQ(0, wrong(self->memory, SIZE, depth));
	}
}

/* A worker migrates for a process that is killed, and ends with the process. */
TEST_F_TIMEOUT(driver, worker_for_a_process_that_is_killed, TIMEOUT)
{
	unsigned int round;

	for (round = 0; round < 20; round++) {
		pid_t pid = fork_child();

		ASSERT_LE(0, pid);
		if (!pid) {
			int fd = open_device(variant->device);

			/* Map memory that is not shared with this process. */
			if (fd < 0 || !map_both(&self->area, &self->memory, SIZE))
				_exit(1);
			self->range.way = TEST_HMM_MIGRATE_BY_WORKER;
			self->range.chunk = 65536;
			for (;;) {
				migrate_by(fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
					   npages, &self->range);
				migrate_by(fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
					   npages, &self->range);
			}
		}
		usleep(50000 + round * 1500);
		kill_and_release(pid);
		EXPECT_EQ(pid, waitpid(pid, NULL, 0));
		EXPECT_EQ(0, device_used(self->fd, 0));
	}
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* Begin and reserve */

TEST_F_TIMEOUT(driver, begin_and_reserve_fail, TIMEOUT)
{
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_BEGIN, 1, 1));
	EXPECT_EQ(-EIO, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				   npages, &self->range));
	EXPECT_EQ(self->range.addr, self->range.done);
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_RESERVE, 1, 1));
	EXPECT_EQ(-ENOMEM, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				      npages, &self->range));
	EXPECT_EQ(self->range.addr, self->range.done);
	EXPECT_EQ(0, device_used(self->fd, 0));

	/* Each reservation gets half of the remaining range. */
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_RESERVE_ALL, 1, 1000));
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				npages, &self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));

	/* The second reservation fails, after a part has moved. */
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
				npages, &self->range));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_RESERVE, 2, 1));
	EXPECT_EQ(-ENOMEM, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				      npages, &self->range));
	EXPECT_EQ(self->range.addr + SIZE / 2, self->range.done);
	EXPECT_EQ(npages / 2, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* Eviction */

/* Fill half of the device with memory of @nr processes, including this one. */
#define NR_OWNERS	3

struct owner {
	pid_t pid;
	int to;
	int from;
};

/* Each process has its own data, and checks all of it when told to. */
static void be_an_owner(int to, int from, unsigned int device, unsigned int seed,
			unsigned int flags)
{
	struct test_hmm_migrate_range range = { .flags = flags & TEST_HMM_MIGRATE_LARGE };
	unsigned char *memory;
	void *area;
	int fd = open_device(device);
	char c = 0;

	if (fd < 0 || !map_both(&area, &memory, SIZE))
		_exit(1);
	fill(memory, SIZE, seed);
	if (migrate_by(fd, TEST_HMM_MIGRATE_TO_DEVICE, memory, npages, &range) ||
	    range.pages[TEST_HMM_MIGRATE_MOVED] != npages)
		_exit(2);
	if (write(to, &c, 1) != 1 || read(from, &c, 1) != 1)
		_exit(3);
	if (pages_at(fd, memory, npages, TEST_HMM_MIGRATE_SYSTEM) != (long)npages)
		_exit(4);
	if (pages_of_order(fd, memory, npages, 9) != npages / 2)
		_exit(5);
	_exit(wrong(memory, SIZE, seed) ? 6 : 0);
}

static bool start_owner(struct owner *owner, unsigned int device, unsigned int seed,
			unsigned int flags)
{
	int up[2], down[2];
	char c;

	if (pipe(up) || pipe(down))
		return false;
	owner->pid = fork_child();
	if (!owner->pid)
		be_an_owner(up[1], down[0], device, seed, flags);
	close(up[1]);
	close(down[0]);
	owner->to = down[1];
	owner->from = up[0];
	return owner->pid > 0 && read(owner->from, &c, 1) == 1;
}

static int end_owner(struct owner *owner)
{
	char c = 0;
	int ret = -1;

	if (write(owner->to, &c, 1) == 1)
		ret = reap(owner->pid);
	close(owner->to);
	close(owner->from);
	return ret;
}

TEST_F_TIMEOUT(driver, eviction_of_several_processes, TIMEOUT)
{
	unsigned int by_engine = variant->flags & TEST_HMM_MIGRATE_ENGINE ?
				 TEST_HMM_MIGRATE_EVICT_ENGINE : 0;
	struct owner owners[NR_OWNERS];
	struct test_hmm_migrate_evict evict;
	unsigned int i;

	for (i = 0; i < NR_OWNERS; i++)
		ASSERT_TRUE(start_owner(&owners[i], variant->device, i + 2, variant->flags));
	EXPECT_EQ(NR_OWNERS * npages, device_used(self->fd, NR_OWNERS * npages));
	ASSERT_EQ(0, evict_by(self->fd, by_engine, &evict));
	EXPECT_EQ(0, evict.remaining);
	EXPECT_EQ(NR_OWNERS * npages, evict.pages[TEST_HMM_MIGRATE_MOVED]);
	for (i = 0; i < NR_OWNERS; i++)
		EXPECT_EQ(0, end_owner(&owners[i]));
}

/* A held page stays for a while, and the other pages do not wait for it. */
TEST_F_TIMEOUT(driver, eviction_waits, TIMEOUT)
{
	const unsigned long held = 16;
	struct test_hmm_migrate_evict evict;
	struct holder holder;

	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				npages, &self->range));
	ASSERT_TRUE(start_holder(&holder, self->fd, TEST_HMM_MIGRATE_HOLD_MIGRATION,
				 self->memory + SIZE / 2, held, 200000));
	ASSERT_EQ(0, evict_by(self->fd, 0, &evict));
	pthread_join(holder.thread, NULL);
	ASSERT_EQ(0, holder.ret);
	EXPECT_EQ(npages, evict.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, evict.remaining);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/*
 * A page without memory to move to and a page that cannot be copied stay, with their
 * contents.
 */
TEST_F_TIMEOUT(driver, eviction_fails_for_some, TIMEOUT)
{
	struct test_hmm_migrate_evict evict;

	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				npages, &self->range));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC, 100, 3));
	ASSERT_EQ(0, evict_by(self->fd, 0, &evict));
	EXPECT_EQ(3, evict.pages[TEST_HMM_MIGRATE_NO_DESTINATION]);
	EXPECT_EQ(3, evict.remaining);
	disarm(self->fd);
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));

	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
				npages, &self->range));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_PAGE, 1, 1));
	ASSERT_EQ(0, evict_by(self->fd, 0, &evict));
	EXPECT_LE(1, evict.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(evict.pages[TEST_HMM_MIGRATE_COPY_FAILED], evict.remaining);
	EXPECT_EQ(npages - evict.remaining, evict.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	ASSERT_EQ(0, evict_by(self->fd, 0, &evict));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* Faults */

static unsigned long cpu_faults(int fd)
{
	struct test_hmm_migrate_statistics stats;

	return statistics(fd, TEST_HMM_MIGRATE_RESET, &stats) ? -1UL : stats.cpu_faults;
}

/* One touch brings back the aligned window, within the limits of the vma. */
TEST_F_TIMEOUT(driver, fault_window, TIMEOUT)
{
	unsigned int by_engine = variant->flags & TEST_HMM_MIGRATE_ENGINE ?
				 TEST_HMM_MIGRATE_FAULT_ENGINE : 0;
	unsigned char *small = self->memory + SIZE / 2;
	unsigned int order;

	if (variant->device >= 2)
		SKIP(return, "coherent memory needs no fault");
	for (order = 0; order <= 9; order++) {
		unsigned long window = 1UL << order, first = 300 & ~(window - 1);

		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
					npages, &self->range));
		EXPECT_EQ(npages, pages_at(self->fd, self->memory, npages,
					   TEST_HMM_MIGRATE_THIS_DEVICE));
		ASSERT_EQ(0, set_faults(self->fd, by_engine, order, 0));
		cpu_faults(self->fd);
		EXPECT_EQ(0, wrong_part(self->memory, SIZE / 2 + 300 * page_size,
					SIZE / 2 + 301 * page_size, 1));
		EXPECT_EQ(1, cpu_faults(self->fd));
		EXPECT_EQ(window, pages_at(self->fd, small + first * page_size, window,
					   TEST_HMM_MIGRATE_SYSTEM));
		EXPECT_EQ(npages - window, pages_at(self->fd, self->memory, npages,
						    TEST_HMM_MIGRATE_THIS_DEVICE));
		ASSERT_EQ(0, set_faults(self->fd, 0, 0, 0));
		EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	}

	/*
	 * The vma begins and ends in the middle of the window; a huge page stays
	 * whole.
	 */
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages,
				&self->range));
	ASSERT_EQ(0, mprotect(small, 100 * page_size, PROT_READ));
	ASSERT_EQ(0, mprotect(small + 400 * page_size, 112 * page_size, PROT_READ));
	ASSERT_EQ(0, set_faults(self->fd, by_engine, 10, 0));
	EXPECT_EQ(0, wrong_part(self->memory, SIZE / 2 + 300 * page_size,
				SIZE / 2 + 301 * page_size, 1));
	EXPECT_EQ(300, pages_at(self->fd, small + 100 * page_size, 300,
				TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(npages - 300, pages_at(self->fd, self->memory, npages,
					 TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(npages / 2, pages_of_order(self->fd, self->memory, npages / 2, 9));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* Other tasks may hold pages of the window, or memory may be too short for all of it. */
TEST_F_TIMEOUT(driver, fault_window_in_part, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	struct holder holder;

	if (variant->device >= 2)
		SKIP(return, "coherent memory needs no fault");
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages,
				&self->range));
	ASSERT_EQ(0, set_faults(self->fd, 0, 9, 0));
	ASSERT_TRUE(start_holder(&holder, self->fd, TEST_HMM_MIGRATE_HOLD_MIGRATION, small, 16,
				 500000));
	EXPECT_EQ(0, wrong_part(self->memory, SIZE / 2 + 300 * page_size,
				SIZE / 2 + 301 * page_size, 1));
	EXPECT_EQ(512 - 16, pages_at(self->fd, small, 512, TEST_HMM_MIGRATE_SYSTEM));
	pthread_join(holder.thread, NULL);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));

	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages,
				&self->range));
	ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_SYSTEM_ALLOC, 10, 5));
	EXPECT_EQ(0, wrong_part(self->memory, SIZE / 2 + 300 * page_size,
				SIZE / 2 + 301 * page_size, 1));
	EXPECT_EQ(512 - 5, pages_at(self->fd, small, 512, TEST_HMM_MIGRATE_SYSTEM));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* Memory that has just arrived stays on the device, except for the touched page. */
TEST_F_TIMEOUT(driver, stays_for_a_while, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	struct test_hmm_migrate_evict evict;

	ASSERT_EQ(0, set_faults(self->fd, 0, 9, 30000000));
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages,
				&self->range));
	if (variant->device < 2) {
		EXPECT_EQ(0, wrong_part(self->memory, SIZE / 2 + 300 * page_size,
					SIZE / 2 + 301 * page_size, 1));
		EXPECT_EQ(1, pages_at(self->fd, small, 512, TEST_HMM_MIGRATE_SYSTEM));
	}
	ASSERT_EQ(0, evict_by(self->fd, 0, &evict));
	EXPECT_EQ(npages - (variant->device < 2), evict.remaining);
	EXPECT_EQ(evict.remaining, evict.pages[TEST_HMM_MIGRATE_REFUSED]);

	ASSERT_EQ(0, set_faults(self->fd, 0, 9, 1));
	ASSERT_EQ(0, evict_by(self->fd, 0, &evict));
	EXPECT_EQ(0, evict.remaining);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/* From one device to another */

static const unsigned int all_devices[] = { 0, 1, 2, 3 };

/* All devices and the CPU must read each byte of @memory unchanged. */
TEST_F_TIMEOUT(driver, from_other_devices, TIMEOUT)
{
	unsigned int i, way, fate;

	for (i = 0; i < ARRAY_SIZE(all_devices); i++) {
		struct test_hmm_migrate_range range = { .flags = variant->flags };
		int other = open_device(all_devices[i]);

		if (other < 0 || all_devices[i] == variant->device) {
			if (other >= 0)
				close(other);
			continue;
		}
		/*
		 * The device can access the other one's memory; it cannot; it cannot for
		 * the second chunk.
		 */
		for (way = 0; way < 3; way++) {
			fill(self->memory, SIZE, i + way);
			ASSERT_EQ(0, migrate_by(other, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
						npages, &range));
			EXPECT_EQ(npages, device_used(other, npages));
			if (way) {
				ASSERT_EQ(0, inject(self->fd, TEST_HMM_MIGRATE_FAIL_MAP, way,
						    way == 1 ? 1000 : 1));
			}
			self->range.flags = variant->flags | TEST_HMM_MIGRATE_PEERS;
			ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE,
						self->memory, npages, &self->range));
			/*
			 * Private memory can go through system memory instead; coherent
			 * memory cannot.
			 */
			fate = way == 1 && all_devices[i] >= 2 ? TEST_HMM_MIGRATE_COPY_FAILED :
								 TEST_HMM_MIGRATE_MOVED;
			if (way < 2 || all_devices[i] < 2)
				EXPECT_EQ(npages, self->range.pages[fate]);
			if (!way) {
				EXPECT_EQ(npages / 2, pages_of_order(self->fd, self->memory,
								     npages, 9));
			}
			disarm(self->fd);
			EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, i + way));
			self->range.flags = variant->flags;
			ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM,
						self->memory, npages, &self->range));
			ASSERT_EQ(0, migrate_by(other, TEST_HMM_MIGRATE_TO_SYSTEM,
						self->memory, npages, &range));
			EXPECT_EQ(0, wrong(self->memory, SIZE, i + way));
			EXPECT_EQ(0, device_used(other, 0));
		}
		close(other);
	}
}

/* Pages in system memory, on the device and on all other devices in turn. */
TEST_F_TIMEOUT(driver, from_everywhere, TIMEOUT)
{
	int fds[ARRAY_SIZE(all_devices)];
	unsigned long i, on_device = 0;

	for (i = 0; i < ARRAY_SIZE(all_devices); i++)
		fds[i] = open_device(all_devices[i]);
	for (i = 0; i < npages / 2; i++) {
		struct test_hmm_migrate_range range = { .flags = variant->flags };
		unsigned char *page = self->memory + SIZE / 2 + i * page_size;
		int fd = fds[i * 7 % ARRAY_SIZE(all_devices)];

		if (i % 5 == 0 || fd < 0)
			continue;
		ASSERT_EQ(0, migrate_by(fd, TEST_HMM_MIGRATE_TO_DEVICE, page, 1, &range));
		on_device += all_devices[i * 7 % ARRAY_SIZE(all_devices)] == variant->device;
	}
	self->range.flags = variant->flags | TEST_HMM_MIGRATE_PEERS;
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages,
				&self->range));
	EXPECT_EQ(npages - on_device, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(on_device, self->range.pages[TEST_HMM_MIGRATE_REFUSED]);
	EXPECT_EQ(npages, device_used(self->fd, npages));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	self->range.flags = variant->flags;
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory, npages,
				&self->range));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	for (i = 0; i < ARRAY_SIZE(all_devices); i++) {
		if (fds[i] < 0)
			continue;
		EXPECT_EQ(0, device_used(fds[i], 0));
		close(fds[i]);
	}
}

/* Engines of all kinds */

FIXTURE(engines)
{
	int fd;
	unsigned char *memory;
	void *area;
	struct test_hmm_migrate_range range;
};

FIXTURE_VARIANT(engines)
{
	unsigned int engine;
};

FIXTURE_VARIANT_ADD(engines, ordered)
{
	.engine = TEST_HMM_MIGRATE_ENGINE_ORDERED,
};

FIXTURE_VARIANT_ADD(engines, unordered)
{
	.engine = TEST_HMM_MIGRATE_ENGINE_UNORDERED,
};

FIXTURE_VARIANT_ADD(engines, silent)
{
	.engine = TEST_HMM_MIGRATE_ENGINE_SILENT,
};

FIXTURE_VARIANT_ADD(engines, narrow)
{
	.engine = TEST_HMM_MIGRATE_ENGINE_NARROW,
};

FIXTURE_SETUP(engines)
{
	page_size = sysconf(_SC_PAGESIZE);
	npages = SIZE / page_size;
	self->fd = open_device(0);
	ASSERT_LE(0, self->fd);
	if (!have_engine())
		SKIP(return, "no engine, is test_hmm_migrate_dma loaded?");
	reset_engine();
	disarm(self->fd);
	ASSERT_TRUE(map_both(&self->area, &self->memory, SIZE));
	self->range.flags = TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_ENGINE;
	self->range.engine = variant->engine;
}

FIXTURE_TEARDOWN(engines)
{
	if (self->fd < 0)
		return;
	reset_engine();
	disarm(self->fd);
	if (self->area)
		munmap(self->area, 4 * SIZE);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

static void there_and_back(struct __test_metadata *_metadata, int fd, unsigned char *memory,
			   struct test_hmm_migrate_range *range, unsigned long seed)
{
	fill(memory, SIZE, seed);
	ASSERT_EQ(0, migrate_by(fd, TEST_HMM_MIGRATE_TO_DEVICE, memory, npages, range));
	EXPECT_EQ(npages, range->pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, device_wrong(fd, memory, SIZE, seed));
	ASSERT_EQ(0, migrate_by(fd, TEST_HMM_MIGRATE_TO_SYSTEM, memory, npages, range));
	EXPECT_EQ(npages, range->pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(0, wrong(memory, SIZE, seed));
}

TEST_F_TIMEOUT(engines, there_and_back, TIMEOUT)
{
	unsigned int round;

	ASSERT_TRUE(scatter(self->memory + SIZE / 2, SIZE / 2));
	for (round = 0; round < 4; round++) {
		self->range.chunk = round % 2 ? 65536 : 0;
		self->range.depth = round;
		there_and_back(_metadata, self->fd, self->memory, &self->range, round + 2);
	}
	/* Holes are filled with zeros. */
	ASSERT_EQ(0, madvise(self->memory, SIZE, MADV_DONTNEED));
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages,
				&self->range));
	EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(0, nonzero(self->memory, SIZE));
}

/* Memory of other devices, private and coherent, and of another node. */
TEST_F_TIMEOUT(engines, other_memory, TIMEOUT)
{
	const unsigned int flags = self->range.flags;
	unsigned int i;

	for (i = 1; i < ARRAY_SIZE(all_devices); i++) {
		int other = open_device(all_devices[i]);

		if (other < 0)
			continue;
		fill(self->memory, SIZE, i);
		self->range.flags = flags;
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
					npages, &self->range));
		self->range.flags = flags | TEST_HMM_MIGRATE_PEERS;
		ASSERT_EQ(0, migrate_by(other, TEST_HMM_MIGRATE_TO_DEVICE, self->memory,
					npages, &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, device_used(self->fd, 0));
		EXPECT_EQ(0, device_wrong(other, self->memory, SIZE, i));
		self->range.flags = flags;
		ASSERT_EQ(0, migrate_by(other, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
					npages, &self->range));
		EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, wrong(self->memory, SIZE, i));
		close(other);
	}
	if (access("/sys/devices/system/node/node1", F_OK))
		return;
	for (i = 0; i < 3; i++) {
		self->range.node = i % 2;
		fill(self->memory, SIZE, i);
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_NODE, self->memory,
					npages, &self->range));
		if (i)
			EXPECT_EQ(npages, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, wrong(self->memory, SIZE, i));
	}
}

/* A page takes 100 us, so a chunk that is not waited for is not yet copied. */
TEST_F_TIMEOUT(engines, slow, TIMEOUT)
{
	ASSERT_TRUE(scatter(self->memory + SIZE / 2, SIZE / 2));
	ASSERT_TRUE(write_number(ENGINE "bandwidth_mb", 40));
	there_and_back(_metadata, self->fd, self->memory, &self->range, 1);
	self->range.chunk = 65536;
	self->range.depth = 3;
	there_and_back(_metadata, self->fd, self->memory, &self->range, 2);
}

/*
 * The driver asks for the features of the engine: a chunk is one batch with one
 * interrupt.
 */
TEST_F_TIMEOUT(engines, interrupts, TIMEOUT)
{
	long before;

	/* Without ordering, each descriptor has an interrupt. */
	if (variant->engine == TEST_HMM_MIGRATE_ENGINE_UNORDERED)
		return;
	there_and_back(_metadata, self->fd, self->memory, &self->range, 1);
	before = read_number(ENGINE "interrupts");
	ASSERT_LE(0, before);
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages / 2,
				&self->range));
	EXPECT_LT(0, read_number(ENGINE "interrupts") - before);
	EXPECT_GE(2, read_number(ENGINE "interrupts") - before);
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

/*
 * Holes need mappings as well: an engine that cannot write zeros copies them from a
 * page.
 */
TEST_F_TIMEOUT(engines, mappings_are_given_back, TIMEOUT)
{
	long before = dma_mappings();

	if (before < 0)
		SKIP(return, "no DMA_API_DEBUG");
	fill(self->memory, SIZE, 1);
	ASSERT_EQ(0, madvise(self->memory, SIZE / 2, MADV_DONTNEED));
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages,
				&self->range));
	EXPECT_EQ(npages / 2, self->range.pages[TEST_HMM_MIGRATE_FILLED]);
	EXPECT_EQ(npages / 2, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
	EXPECT_EQ(before, dma_mappings());
	EXPECT_EQ(0, nonzero(self->memory, SIZE / 2));
	EXPECT_EQ(0, wrong_part(self->memory, SIZE / 2, SIZE, 1));
}

/* If all DMA uses bounce buffers, scattered pages may be adjacent there. */
static bool all_bounces(void)
{
	char line[4096] = "";
	FILE *file = fopen("/proc/cmdline", "r");

	if (!file)
		return false;
	if (!fgets(line, sizeof(line), file))
		*line = 0;
	fclose(file);
	return strstr(line, "swiotlb=force");
}

/*
 * Fail the last descriptor of a chunk, and an earlier one. The silent engine does not
 * report an error of the latter.
 */
TEST_F_TIMEOUT(engines, errors, TIMEOUT)
{
	unsigned char *small = self->memory + SIZE / 2;
	unsigned int nth;

	for (nth = 1; nth <= 16; nth += 15) {
		if (nth == 1 && variant->engine == TEST_HMM_MIGRATE_ENGINE_SILENT)
			continue;
		ASSERT_TRUE(scatter(small, SIZE / 2));
		fill(self->memory, SIZE, nth);
		ASSERT_TRUE(write_number(ENGINE "fail_nth", nth));
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small, 16,
					&self->range));
		if (nth == 1 || !all_bounces())
			EXPECT_EQ(0, read_number(ENGINE "fail_nth"));
		reset_engine();
		EXPECT_EQ(16, self->range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, nth));
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, small, 16,
					&self->range));
		EXPECT_EQ(0, wrong(self->memory, SIZE, nth));
	}
}

/* Several calls at once share the channel. */

struct sharer {
	pthread_t thread;
	struct __test_metadata *metadata;
	int fd;
	unsigned int seed;
	unsigned int rounds;
	struct test_hmm_migrate_range range;
	unsigned char *memory;
	void *area;
	unsigned long moved;
	size_t wrong;
	int ret;
};

static void *share_engine(void *data)
{
	struct sharer *sharer = data;
	unsigned int round;

	for (round = 0; !sharer->ret && round < sharer->rounds; round++) {
		unsigned long request = round % 2 ? TEST_HMM_MIGRATE_TO_SYSTEM :
						    TEST_HMM_MIGRATE_TO_DEVICE;

		sharer->ret = migrate_by(sharer->fd, request, sharer->memory, npages,
					 &sharer->range);
		sharer->moved += sharer->range.pages[TEST_HMM_MIGRATE_MOVED];
	}
	sharer->wrong = wrong(sharer->memory, SIZE, sharer->seed);
	return NULL;
}

static bool start_sharer(struct sharer *sharer, int fd, unsigned int seed,
			 const struct test_hmm_migrate_range *range, unsigned int rounds)
{
	*sharer = (struct sharer){
		.fd = fd,
		.seed = seed,
		.range = *range,
		.rounds = rounds,
	};
	if (!map_both(&sharer->area, &sharer->memory, SIZE))
		return false;
	fill(sharer->memory, SIZE, seed);
	return !pthread_create(&sharer->thread, NULL, share_engine, sharer);
}

static void end_sharer(struct sharer *sharer)
{
	pthread_join(sharer->thread, NULL);
	munmap(sharer->area, 4 * SIZE);
}

#define NR_SHARERS	4

TEST_F_TIMEOUT(engines, shared, TIMEOUT)
{
	struct sharer sharers[NR_SHARERS];
	unsigned int i;

	self->range.chunk = 65536;
	for (i = 0; i < NR_SHARERS; i++)
		ASSERT_TRUE(start_sharer(&sharers[i], self->fd, i + 2, &self->range, 8));
	for (i = 0; i < NR_SHARERS; i++) {
		end_sharer(&sharers[i]);
		EXPECT_EQ(0, sharers[i].ret);
		EXPECT_EQ(8 * npages, sharers[i].moved);
		EXPECT_EQ(0, sharers[i].wrong);
	}
}

/* Two calls for the same pages: both end only when all pages are on the device. */

/* With @barrier, no thread has its stack mapped while another thread holds mmap_lock. */
struct twin {
	pthread_t thread;
	pthread_barrier_t *barrier;
	int fd;
	struct test_hmm_migrate_range range;
	unsigned long request;
	unsigned char *memory;
	unsigned long npages;
	long there;
	int ret;
};

static void *migrate_as_twin(void *data)
{
	struct twin *twin = data;

	if (twin->barrier)
		pthread_barrier_wait(twin->barrier);
	twin->ret = migrate_by(twin->fd, twin->request, twin->memory, twin->npages,
			       &twin->range);
	twin->there = pages_at(twin->fd, twin->memory, twin->npages,
			       TEST_HMM_MIGRATE_THIS_DEVICE);
	return NULL;
}

TEST_F_TIMEOUT(engines, two_calls_for_the_same_pages, TIMEOUT)
{
	struct twin twins[2];
	unsigned int i, round;

	/* Each chunk takes 10 ms. */
	ASSERT_TRUE(write_number(ENGINE "latency_ns", 10000000));
	self->range.chunk = SIZE / 8;
	for (round = 0; round < 4; round++) {
		for (i = 0; i < ARRAY_SIZE(twins); i++) {
			twins[i] = (struct twin){
				.fd = self->fd, .range = self->range, .memory = self->memory,
				.npages = npages, .request = TEST_HMM_MIGRATE_TO_DEVICE,
			};
			ASSERT_EQ(0, pthread_create(&twins[i].thread, NULL, migrate_as_twin,
						    &twins[i]));
			usleep(round * 5000);
		}
		for (i = 0; i < ARRAY_SIZE(twins); i++) {
			pthread_join(twins[i].thread, NULL);
			EXPECT_EQ(0, twins[i].ret);
			EXPECT_EQ(npages, twins[i].there);
		}
		EXPECT_EQ(npages, twins[0].range.pages[TEST_HMM_MIGRATE_MOVED] +
				  twins[1].range.pages[TEST_HMM_MIGRATE_MOVED]);
		ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, self->memory,
					npages, &self->range));
		EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	}
}

/*
 * The engine hangs once. If it supports terminate, it is terminated, and the copies
 * of other calls are repeated. Otherwise the memory that it may still write to is
 * never freed, and the process keeps its old pages.
 */
TEST_F_TIMEOUT(engines, hangs_once, TIMEOUT)
{
	bool stops = variant->engine == TEST_HMM_MIGRATE_ENGINE_ORDERED;
	unsigned char *small = self->memory + SIZE / 2;
	struct test_hmm_migrate_range range = { .flags = TEST_HMM_MIGRATE_LARGE };
	int fd;

	/*
	 * Move the pages to the device first, so that the lost memory is system
	 * memory.
	 */
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, small, 16, &range));
	ASSERT_TRUE(write_number(ENGINE "hang", 1));
	self->range.chunk = 65536;
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_SYSTEM, small, 16,
				&self->range));
	EXPECT_EQ(16, self->range.pages[TEST_HMM_MIGRATE_COPY_FAILED]);
	EXPECT_EQ(stops ? 0 : 16, self->range.lost);
	EXPECT_EQ(16, device_used(self->fd, 16));
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	ASSERT_TRUE(write_number(ENGINE "hang", 0));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));

	/* Opening a device resets failed engines. */
	fd = open_device(0);
	ASSERT_LE(0, fd);
	close(fd);
	self->range.chunk = 0;
	there_and_back(_metadata, self->fd, self->memory, &self->range, 2);
}

/*
 * The same with two calls that share the engine, and an engine that works again after
 * it is terminated.
 */
TEST_F_TIMEOUT(engines, hangs_for_several, TIMEOUT)
{
	/*
	 * A call that waits for one of the few descriptors polls, which completes
	 * copies.
	 */
	bool moves = variant->engine == TEST_HMM_MIGRATE_ENGINE_ORDERED ||
		     (variant->engine == TEST_HMM_MIGRATE_ENGINE_NARROW && !all_bounces());
	struct test_hmm_migrate_range range = { .flags = TEST_HMM_MIGRATE_LARGE };
	const unsigned long pages = 16;
	pthread_barrier_t barrier;
	struct twin twins[2];
	unsigned int i;
	int fd;

	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, ARRAY_SIZE(twins)));
	ASSERT_EQ(0, migrate_by(self->fd, TEST_HMM_MIGRATE_TO_DEVICE, self->memory, npages,
				&range));
	ASSERT_TRUE(write_number(ENGINE "hang", 1));
	for (i = 0; i < ARRAY_SIZE(twins); i++) {
		twins[i] = (struct twin){
			.fd = self->fd, .range = self->range, .npages = pages,
			.barrier = &barrier, .request = TEST_HMM_MIGRATE_TO_SYSTEM,
			.memory = self->memory + SIZE / 2 + i * 2 * pages * page_size,
		};
		ASSERT_EQ(0, pthread_create(&twins[i].thread, NULL, migrate_as_twin,
					    &twins[i]));
	}
	/* Let the engine receive descriptors before it stops hanging. */
	sleep(1);
	ASSERT_TRUE(write_number(ENGINE "hang", 0));
	for (i = 0; i < ARRAY_SIZE(twins); i++) {
		pthread_join(twins[i].thread, NULL);
		EXPECT_EQ(0, twins[i].ret);
		EXPECT_EQ(pages, twins[i].range.pages[moves ? TEST_HMM_MIGRATE_MOVED :
						      TEST_HMM_MIGRATE_COPY_FAILED]);
		EXPECT_EQ(moves ? 0 : pages, twins[i].range.lost);
	}
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
	/* Opening a device resets failed engines. */
	fd = open_device(0);
	ASSERT_LE(0, fd);
	close(fd);
}

/*
 * One call is stuck because its pages are held; meanwhile other calls can use the
 * engine.
 */
TEST_F_TIMEOUT(engines, stuck_call_holds_up_nobody, TIMEOUT)
{
	const unsigned long pages = 16;
	struct test_hmm_migrate_info info;
	struct twin twins[NR_SHARERS + 1];
	struct holder holder;
	unsigned int i;

	ASSERT_TRUE(start_holder(&holder, self->fd, 0, self->memory + SIZE / 2, pages, 900000));
	/* The first call is stuck. */
	for (i = 0; i < ARRAY_SIZE(twins); i++) {
		twins[i] = (struct twin){
			.fd = self->fd, .range = self->range, .npages = pages,
			.request = TEST_HMM_MIGRATE_TO_DEVICE,
			.memory = self->memory + SIZE / 2 + i * pages * page_size,
		};
		ASSERT_EQ(0, pthread_create(&twins[i].thread, NULL, migrate_as_twin, &twins[i]));
		if (!i)
			usleep(20000);
	}
	for (i = 1; i < ARRAY_SIZE(twins); i++)
		pthread_join(twins[i].thread, NULL);
	/* The other calls have ended while the first one is still stuck. */
	ASSERT_EQ(0, get_info(self->fd, &info));
	EXPECT_EQ(pages, info.held);
	pthread_join(holder.thread, NULL);
	pthread_join(twins[0].thread, NULL);
	for (i = 0; i < ARRAY_SIZE(twins); i++) {
		EXPECT_EQ(0, twins[i].ret);
		EXPECT_EQ(pages, twins[i].range.pages[TEST_HMM_MIGRATE_MOVED]);
	}
	EXPECT_EQ(0, device_wrong(self->fd, self->memory, SIZE, 1));
	EXPECT_EQ(0, wrong(self->memory, SIZE, 1));
}

TEST_HARNESS_MAIN
