// SPDX-License-Identifier: GPL-2.0
/*
 * Migration of a range beside threads and processes that use it, and between two
 * devices, through the devices of lib/test_hmm_migrate.c: see hmm_migrate.c of the
 * kernel's selftests, which has the same device fixture.
 */
#define _GNU_SOURCE
#include "more.h"

#include <sched.h>
#include <stddef.h>
#include <time.h>

#define PAGES		128UL

/* One device and a buffer of PAGES pages, filled with seed 1. */

FIXTURE(device)
{
	int fd;
	unsigned char *memory;
	size_t size;
	struct test_hmm_migrate_range range;
};

FIXTURE_VARIANT(device)
{
	unsigned int device;
	bool private;
};

FIXTURE_VARIANT_ADD(device, private)
{
	.device = 0,
	.private = true,
};

FIXTURE_VARIANT_ADD(device, coherent)
{
	.device = 2,
	.private = false,
};

FIXTURE_SETUP(device)
{
	page_size = sysconf(_SC_PAGESIZE);
	self->size = PAGES * page_size;
	self->fd = open_device(variant->device);
	if (self->fd < 0 && variant->device == 2)
		SKIP(return, "no coherent device, is there Soft Reserved memory?");
	ASSERT_LE(0, self->fd);
	disarm(self->fd);
	ASSERT_EQ(0, set_fault_order(self->fd, TEST_HMM_MIGRATE_MAX_ORDER));
	self->memory = map_pages(PAGES);
	ASSERT_NE(MAP_FAILED, (void *)self->memory);
	fill(self->memory, self->size, 1);
}

FIXTURE_TEARDOWN(device)
{
	if (self->fd < 0)
		return;
	disarm(self->fd);
	/* Some tests have already unmapped all or a part of it, so ignore errors. */
	munmap(self->memory, self->size);
	EXPECT_EQ(0, device_used(self->fd, 0));
	close(self->fd);
}

/*
 * A range that takes minutes although it is empty: a fatal signal must end the call
 * at once.
 */
TEST_F_TIMEOUT(device, kill_in_a_long_range, TIMEOUT)
{
	size_t size = 1UL << 44;
	struct timespec before, after;
	void *memory;
	int ready[2];
	pid_t pid;

	memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		SKIP(return, "no address space for a long range");
	ASSERT_EQ(0, pipe(ready));
	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = open_device(variant->device);

		if (!tell(ready[1]))
			_exit(1);
		to_system(fd, memory, size / page_size, &self->range);
		_exit(2);
	}
	close(ready[1]);
	ASSERT_TRUE(wait_for(ready[0]));
	usleep(200000);
	clock_gettime(CLOCK_MONOTONIC, &before);
	kill(pid, SIGKILL);
	EXPECT_EQ(-1, reap(pid));
	clock_gettime(CLOCK_MONOTONIC, &after);
	EXPECT_GT(20, after.tv_sec - before.tv_sec);
	close(ready[0]);
	munmap(memory, size);
}

/* Threads */

TEST_F_TIMEOUT(device, two_threads_against_each_other, TIMEOUT)
{
	migrate_against_each_other(_metadata, self->fd, self->fd, self->memory,
				   PAGES, 0);
}

/*
 * The device writes, and reads back what it wrote, while the pages move. A write to
 * the old page after its copy would be lost.
 */
static void *write_by_device(void *data)
{
	struct worker *worker = data;
	uint64_t value = 0, found;
	unsigned long page;

	while (!*worker->stop) {
		value++;
		for (page = 0; page < worker->npages; page += 5) {
			unsigned char *addr = worker->memory + page * page_size;

			worker->errors += !!device_write(worker->fd, addr, 8, &value);
		}
		for (page = 0; page < worker->npages; page += 5) {
			unsigned char *addr = worker->memory + page * page_size;

			worker->errors += !!device_read(worker->fd, addr, 8, &found);
			worker->errors += found != value;
		}
	}
	worker->moved = value;
	return NULL;
}

/* Every @step-th page must begin with @value; restore the word that fill() wrote. */
static void expect_counted(struct __test_metadata *_metadata,
			   const struct worker *worker, unsigned long step,
			   uint64_t value)
{
	unsigned long i;

	for (i = 0; i < worker->npages; i += step) {
		uint64_t *word = (uint64_t *)(worker->memory + i * page_size);

		EXPECT_EQ(value, *word);
		*word = pattern(1, i * page_size);
	}
}

TEST_F_TIMEOUT(device, device_writes_while_migrating, TIMEOUT)
{
	atomic_bool stop = false;
	struct worker mover = {
		.fd = self->fd,
		.memory = self->memory,
		.npages = PAGES / 4,
		.rounds = trips() / 5 + 1,
	};
	struct worker writer = mover;

	writer.stop = &stop;
	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, migrate_to_and_fro, &mover));
	ASSERT_EQ(0, pthread_create(&writer.thread, NULL, write_by_device, &writer));
	pthread_join(mover.thread, NULL);
	stop = true;
	pthread_join(writer.thread, NULL);
	EXPECT_EQ(0, mover.errors);
	EXPECT_EQ(0, writer.errors);
	EXPECT_LT(0, mover.moved);
	EXPECT_LT(0, writer.moved);
	expect_counted(_metadata, &mover, 5, writer.moved);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

static void *migrate_to_device_only(void *data)
{
	struct worker *worker = data;
	struct test_hmm_migrate_range range;

	while (!*worker->stop) {
		worker->errors += !!migrate(worker->fd, TEST_HMM_MIGRATE_TO_DEVICE,
					    worker->memory, worker->npages,
					    TEST_HMM_MIGRATE_SKIP_HOLES, &range);
		worker->moved += range.pages[TEST_HMM_MIGRATE_MOVED];
	}
	return NULL;
}

/*
 * Zap pages that are migrating: the device must not keep an entry for them. All
 * writes are zeros, and freed memory is full of poison. Zap real pages, not holes: a
 * page is zapped in the middle of a migration, but a hole is filled only late in it.
 */
TEST_F_TIMEOUT(device, dontneed_while_migrating, TIMEOUT)
{
	atomic_bool stop = false;
	struct worker mover = {
		.fd = self->fd,
		.npages = PAGES / 8,
		.stop = &stop,
	};
	size_t size = mover.npages * page_size;
	unsigned char *buffer = malloc(size);
	unsigned long round;
	int i;

	ASSERT_NE(NULL, buffer);
	mover.memory = map_pages(mover.npages);
	ASSERT_NE(MAP_FAILED, (void *)mover.memory);
	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, migrate_to_device_only,
				    &mover));
	for (round = 0; round < trips(); round++) {
		memset(mover.memory, 0, size);
		spin(round);
		EXPECT_EQ(0, madvise(mover.memory, size, MADV_DONTNEED));
		for (i = 0; i < 3; i++) {
			EXPECT_EQ(0, device_read(self->fd, mover.memory, size,
						 buffer));
			EXPECT_EQ(0, nonzero(buffer, size));
		}
		if (_metadata->exit_code != KSFT_PASS)
			break;
	}
	stop = true;
	pthread_join(mover.thread, NULL);
	EXPECT_EQ(0, mover.errors);
	EXPECT_LT(0, mover.moved);
	munmap(mover.memory, size);
	free(buffer);
}

static void *count_by_cpu(void *data)
{
	struct worker *worker = data;
	uint64_t value = 0;
	unsigned long i;

	while (!*worker->stop) {
		value++;
		for (i = 0; i < worker->npages; i++) {
			uint64_t *word = (uint64_t *)(worker->memory + i * page_size);

			worker->errors += *word != value - 1;
			*word = value;
		}
	}
	worker->moved = value;
	return NULL;
}

/*
 * A CPU writes while the pages migrate. If its TLB still had an entry for a page that
 * has been copied, its writes there would be lost.
 */
TEST_F_TIMEOUT(device, cpu_writes_while_migrating, TIMEOUT)
{
	atomic_bool stop = false;
	struct worker mover = {
		.fd = self->fd,
		.memory = self->memory,
		.npages = PAGES,
		.rounds = trips() / 5 + 10,
	};
	struct worker writer = {
		.memory = self->memory,
		.npages = PAGES,
		.stop = &stop,
	};
	unsigned long i;

	for (i = 0; i < PAGES; i++)
		*(uint64_t *)(self->memory + i * page_size) = 0;
	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, migrate_to_and_fro, &mover));
	ASSERT_EQ(0, pthread_create(&writer.thread, NULL, count_by_cpu, &writer));
	pthread_join(mover.thread, NULL);
	stop = true;
	pthread_join(writer.thread, NULL);
	EXPECT_EQ(0, mover.errors);
	EXPECT_EQ(0, writer.errors);
	EXPECT_LT(0, mover.moved);
	EXPECT_LT(0, writer.moved);
	expect_counted(_metadata, &mover, 1, writer.moved);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* Another process that shares the pages keeps forking and exiting. */
TEST_F_TIMEOUT(device, others_fork_and_exit_while_migrating, TIMEOUT)
{
	unsigned long i, moved = 0;
	pid_t pid;

	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		for (;;) {
			pid_t child = fork_child();

			if (!child)
				_exit(wrong(self->memory, self->size, 1) != 0);
			if (reap(child))
				_exit(1);
		}
	}
	for (i = 0; i < trips() / 5 + 5; i++) {
		ASSERT_EQ(0, to_device(self->fd, self->memory, PAGES, &self->range));
		EXPECT_EQ(PAGES, sum_of(&self->range));
		moved += self->range.pages[TEST_HMM_MIGRATE_MOVED];
		ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
		EXPECT_EQ(PAGES, sum_of(&self->range));
		EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	}
	EXPECT_LT(0, moved);
	/* It has not found an error so far. */
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Write-protect and unprotect by userfaultfd while the pages migrate. */
static void *protect_to_and_fro(void *data)
{
	struct worker *worker = data;
	size_t size = worker->npages * page_size;

	while (!*worker->stop) {
		worker->errors += !write_protect(worker->fd, worker->memory, size,
						 true);
		worker->errors += !write_protect(worker->fd, worker->memory, size,
						 false);
		worker->moved++;
	}
	worker->errors += !write_protect(worker->fd, worker->memory, size, true);
	return NULL;
}

TEST_F_TIMEOUT(device, userfaultfd_write_protects_while_migrating, TIMEOUT)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)self->memory, .len = self->size },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	atomic_bool stop = false;
	struct worker mover = {
		.fd = self->fd,
		.memory = self->memory,
		.npages = PAGES,
		.rounds = trips() / 10 + 5,
	};
	struct worker protector = {
		.fd = fd,
		.memory = self->memory,
		.npages = PAGES,
		.stop = &stop,
	};
	unsigned long i;

	if (fd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, migrate_to_and_fro, &mover));
	ASSERT_EQ(0, pthread_create(&protector.thread, NULL, protect_to_and_fro,
				    &protector));
	pthread_join(mover.thread, NULL);
	stop = true;
	pthread_join(protector.thread, NULL);
	EXPECT_EQ(0, mover.errors);
	EXPECT_EQ(0, protector.errors);
	EXPECT_LT(0, mover.moved);
	EXPECT_LT(0, protector.moved);
	/* The last call was to protect. */
	ASSERT_EQ(0, to_system(self->fd, self->memory, PAGES, &self->range));
	EXPECT_EQ(0, writable_pages(self->fd, self->memory, PAGES));
	for (i = 0; i < PAGES; i++)
		EXPECT_TRUE(pagemap_of(self->memory + i * page_size) & PM_UFFD_WP);
	close(fd);
	EXPECT_EQ(0, wrong(self->memory, self->size, 1));
}

/* UFFDIO_MOVE of migrating pages may wait or fail, but must not lose contents. */
TEST_F_TIMEOUT(device, userfaultfd_moves_while_migrating, TIMEOUT)
{
	unsigned char *target = map_pages(PAGES);
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)target, .len = self->size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = open_userfaultfd(UFFD_FEATURE_MOVE);
	struct worker mover = {
		.fd = self->fd,
		.memory = self->memory,
		.npages = PAGES,
		.rounds = 20,
	};
	unsigned long i, moved = 0;

	ASSERT_NE(MAP_FAILED, (void *)target);
	if (fd < 0)
		SKIP(return, "no UFFDIO_MOVE");
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, migrate_to_and_fro, &mover));
	for (i = 0; i < PAGES; i++) {
		struct uffdio_move move = {
			.dst = (uintptr_t)target + i * page_size,
			.src = (uintptr_t)self->memory + i * page_size,
			.len = page_size,
		};
		int tries;

		for (tries = 0; tries < 1000; tries++) {
			move.move = 0;
			if (!ioctl(fd, UFFDIO_MOVE, &move))
				break;
			/* The page is busy, or on the device. */
			EXPECT_TRUE(errno == EAGAIN || errno == EBUSY ||
				    errno == EFAULT || errno == ENOENT);
		}
		if (move.move == (__s64)page_size) {
			moved++;
			EXPECT_EQ(0, wrong_part(target, i * page_size,
						(i + 1) * page_size, 1));
		} else {
			EXPECT_EQ(0, wrong_part(self->memory, i * page_size,
						(i + 1) * page_size, 1));
		}
	}
	pthread_join(mover.thread, NULL);
	EXPECT_EQ(0, mover.errors);
	EXPECT_LT(0, moved);
	close(fd);
	munmap(target, self->size);
}

/* Two devices of the same kind */

FIXTURE(two_devices)
{
	int fd[2];
	unsigned char *memory;
	size_t size;
};

FIXTURE_VARIANT(two_devices)
{
	unsigned int first;
	bool private;
};

FIXTURE_VARIANT_ADD(two_devices, private)
{
	.first = 0,
	.private = true,
};

FIXTURE_VARIANT_ADD(two_devices, coherent)
{
	.first = 2,
	.private = false,
};

FIXTURE_SETUP(two_devices)
{
	int i;

	page_size = sysconf(_SC_PAGESIZE);
	self->size = PAGES * page_size;
	for (i = 0; i < 2; i++) {
		self->fd[i] = open_device(variant->first + i);
		if (self->fd[i] < 0 && variant->first + i >= 2)
			SKIP(return, "no two coherent devices, is there Soft Reserved memory?");
		ASSERT_LE(0, self->fd[i]);
		disarm(self->fd[i]);
	}
	self->memory = map_pages(PAGES);
	ASSERT_NE(MAP_FAILED, (void *)self->memory);
	fill(self->memory, self->size, 1);
}

FIXTURE_TEARDOWN(two_devices)
{
	if (self->fd[0] < 0 || self->fd[1] < 0)
		return;
	munmap(self->memory, self->size);
	EXPECT_EQ(0, device_used(self->fd[0], 0));
	EXPECT_EQ(0, device_used(self->fd[1], 0));
	close(self->fd[0]);
	close(self->fd[1]);
}

TEST_F_TIMEOUT(two_devices, in_turn, TIMEOUT)
{
	struct test_hmm_migrate_range range;
	int i;

	for (i = 0; i < 6; i++) {
		int fd = self->fd[i % 2], other = self->fd[(i + 1) % 2];

		ASSERT_EQ(0, to_device(fd, self->memory, PAGES, &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(PAGES, pages_at(fd, self->memory, PAGES,
					  TEST_HMM_MIGRATE_THIS_DEVICE));
		EXPECT_EQ(PAGES, pages_at(other, self->memory, PAGES,
					  TEST_HMM_MIGRATE_OTHER_DEVICE));

		/* A device cannot migrate memory that is owned by another device. */
		ASSERT_EQ(0, to_device(other, self->memory, PAGES, &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);
		ASSERT_EQ(0, to_system(other, self->memory, PAGES, &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_NOT_SELECTED]);

		ASSERT_EQ(0, to_system(fd, self->memory, PAGES, &range));
		EXPECT_EQ(PAGES, range.pages[TEST_HMM_MIGRATE_MOVED]);
		EXPECT_EQ(0, wrong(self->memory, self->size, 1));
	}
}

/* Each device has half of the range, and reads and writes all of it. */
TEST_F_TIMEOUT(two_devices, access_each_others_memory, TIMEOUT)
{
	struct test_hmm_migrate_range range;
	unsigned char *buffer = malloc(self->size);
	unsigned long half = PAGES / 2;
	int i;

	ASSERT_NE(NULL, buffer);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, to_device(self->fd[0], self->memory, half, &range));
		ASSERT_EQ(half, range.pages[TEST_HMM_MIGRATE_MOVED]);
		ASSERT_EQ(0, to_device(self->fd[1], self->memory + self->size / 2,
				       half, &range));
		ASSERT_EQ(half, range.pages[TEST_HMM_MIGRATE_MOVED]);

		EXPECT_EQ(0, device_wrong(self->fd[i], self->memory, self->size,
					  i + 1));
		/*
		 * Private memory of the other device has come back to system memory for
		 * that.
		 */
		EXPECT_EQ(variant->private ? half : 0,
			  pages_at(self->fd[i], self->memory, PAGES,
				   TEST_HMM_MIGRATE_SYSTEM));
		fill(buffer, self->size, i + 2);
		ASSERT_EQ(0, device_write(self->fd[i], self->memory, self->size,
					  buffer));
		EXPECT_EQ(0, device_wrong(self->fd[1 - i], self->memory,
					  self->size, i + 2));
		EXPECT_EQ(0, wrong(self->memory, self->size, i + 2));
		ASSERT_EQ(0, to_system(self->fd[0], self->memory, PAGES, &range));
		ASSERT_EQ(0, to_system(self->fd[1], self->memory, PAGES, &range));
	}
	free(buffer);
}

TEST_F_TIMEOUT(two_devices, against_each_other, TIMEOUT)
{
	migrate_against_each_other(_metadata, self->fd[0], self->fd[1],
				   self->memory, PAGES, 0);
}

TEST_HARNESS_MAIN
