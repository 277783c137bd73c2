// SPDX-License-Identifier: GPL-2.0
/*
 * Migrates anonymous memory to each device of lib/test_hmm_migrate.c and back,
 * verifies the contents on the device and after the return, and prints what
 * moved where and how fast. Times are those of the VM, where an instruction
 * takes a nanosecond.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <lib/test_hmm_migrate_uapi.h>

#include "folios.h"

#define SIZE		(16UL << 20)
#define HUGE_PAGE	(2UL << 20)

static const struct kind {
	const char *name;
	unsigned int order;
} kinds[] = {
	{ "4 KiB", 0 }, { "64 KiB", 4 }, { "2 MiB THP", 9 },
};

struct device {
	int fd;
	unsigned int number;
	bool private;
};

static unsigned long page_size;

static void fail(const char *what)
{
	fprintf(stderr, "demo: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void fill(uint64_t *words, uint64_t seed)
{
	size_t i;

	for (i = 0; i < SIZE / sizeof(*words); i++)
		words[i] = (i + seed) * 0x9e3779b97f4a7c15ull;
}

static bool intact(const uint64_t *words, uint64_t seed)
{
	size_t i;

	for (i = 0; i < SIZE / sizeof(*words); i++) {
		if (words[i] != (i + seed) * 0x9e3779b97f4a7c15ull)
			return false;
	}
	return true;
}

/* What the device sees, without any access of the CPU to the memory itself. */
static bool intact_on_device(struct device *device, void *memory, uint64_t seed)
{
	uint64_t *buffer = malloc(SIZE);
	struct test_hmm_migrate_access access = {
		.size = sizeof(access),
		.addr = (uintptr_t)memory,
		.length = SIZE,
		.buffer = (uintptr_t)buffer,
	};
	bool good;

	if (!buffer || ioctl(device->fd, TEST_HMM_MIGRATE_READ, &access))
		fail("the device cannot read the memory");
	good = intact(buffer, seed);
	free(buffer);
	return good;
}

/* How many pages are where and in what they should be, by the device's snapshot. */
static unsigned long pages_at(struct device *device, void *memory,
			      unsigned int where, unsigned int order)
{
	unsigned long npages = SIZE / page_size, count = 0, i;
	struct test_hmm_migrate_page *pages = calloc(npages, sizeof(*pages));
	struct test_hmm_migrate_snapshot snapshot = {
		.size = sizeof(snapshot),
		.addr = (uintptr_t)memory,
		.length = SIZE,
		.buffer = (uintptr_t)pages,
	};

	if (!pages || ioctl(device->fd, TEST_HMM_MIGRATE_SNAPSHOT, &snapshot))
		fail("no snapshot");
	for (i = 0; i < npages; i++)
		count += pages[i].where == where && pages[i].folio_order == order;
	free(pages);
	return count;
}

static void print_line(const char *kind, const char *way,
		       const struct test_hmm_migrate_range *range,
		       unsigned long arrived, bool good)
{
	unsigned long npages = SIZE / page_size;
	unsigned long moved = range->pages[TEST_HMM_MIGRATE_MOVED];
	uint64_t total = 0;
	int i;

	for (i = 0; i < TEST_HMM_MIGRATE_NR_TIMES; i++)
		total += range->time[i];
	printf("%-10s  %-15s %6lu %6lu ", kind, way, moved, npages - moved);
	for (i = 0; i < TEST_HMM_MIGRATE_NR_TIMES; i++)
		printf(" %8llu", (unsigned long long)(range->time[i] / npages));
	printf(" %8llu %7llu  %s\n", (unsigned long long)(total / npages),
	       (unsigned long long)(moved * page_size * 1000 / (total ?: 1)),
	       !good ? "CONTENTS WRONG" : arrived != npages ? "NOT ALL" : "intact");
}

static bool trip(struct device *device, const struct kind *kind,
		 const char *name, void *memory, uint64_t seed)
{
	struct test_hmm_migrate_range range = {
		.size = sizeof(range),
		.flags = TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_BARE,
		.addr = (uintptr_t)memory,
		.length = SIZE,
	};
	unsigned long npages = SIZE / page_size, arrived;
	bool there, back;
	char way[32];

	fill(memory, seed);
	if (ioctl(device->fd, TEST_HMM_MIGRATE_TO_DEVICE, &range))
		fail("cannot migrate to the device");
	arrived = pages_at(device, memory, TEST_HMM_MIGRATE_THIS_DEVICE,
			   kind->order);
	there = intact_on_device(device, memory, seed);
	snprintf(way, sizeof(way), "to device %u", device->number);
	print_line(name, way, &range, arrived, there);
	there = there && arrived == npages;

	if (ioctl(device->fd, TEST_HMM_MIGRATE_TO_SYSTEM, &range))
		fail("cannot migrate to the system");
	arrived = pages_at(device, memory, TEST_HMM_MIGRATE_SYSTEM, kind->order);
	back = intact(memory, seed);
	print_line(name, "back", &range, arrived, back);
	return there && back && arrived == npages;
}

/* Memory that starts where a huge page does, of folios of @order. */
static void *map_memory(unsigned int order)
{
	char *area = mmap(NULL, SIZE + HUGE_PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *memory = (char *)(((uintptr_t)area + HUGE_PAGE - 1) & -HUGE_PAGE);

	if (area == MAP_FAILED)
		fail("no memory");
	if (!choose_order(order, page_size))
		fail("the folios' size cannot be chosen");
	return memory;
}

static bool open_device(struct device *device, unsigned int number)
{
	struct test_hmm_migrate_info info = { .size = sizeof(info) };
	char path[64];

	snprintf(path, sizeof(path), "/dev/hmm_migrate%u", number);
	device->fd = open(path, O_RDWR);
	if (device->fd < 0)
		return false;
	if (ioctl(device->fd, TEST_HMM_MIGRATE_INFO, &info))
		fail(path);
	device->number = number;
	device->private = info.kind == TEST_HMM_MIGRATE_PRIVATE;
	return true;
}

static bool show_device(struct device *device)
{
	const struct kind *kind;
	bool good = true;

	printf("\ndevice %u, %s memory\n", device->number,
	       device->private ? "private (the CPU cannot address it)" :
				 "coherent (the CPU can address it)");
	printf("%-10s  %-15s %6s %6s  %8s %8s %8s %8s %8s %7s\n", "memory", "way",
	       "moved", "left", "setup", "copy", "pages", "finalize", "sum", "MB/s");
	for (kind = kinds; kind < kinds + sizeof(kinds) / sizeof(kinds[0]); kind++) {
		void *memory = map_memory(kind->order);

		/* The first trip sets up page tables and caches, both show. */
		good &= trip(device, kind, kind->name, memory, 1);
		if (!kind->order)
			good &= trip(device, kind, "again", memory, 2);
		munmap(memory, SIZE);
	}
	return good;
}

int main(void)
{
	struct device device;
	unsigned int number, shown = 0;
	bool good = true;

	page_size = sysconf(_SC_PAGESIZE);
	printf("%lu MiB of anonymous memory, there and back. Times are instructions of the VM per\n"
	       "4 KiB page; copy includes the allocation of the new page. MB/s counts an instruction\n"
	       "as a nanosecond.\n", SIZE >> 20);
	for (number = 0; number < TEST_HMM_MIGRATE_MAX_DEVICES; number += 2) {
		if (!open_device(&device, number))
			continue;
		good &= show_device(&device);
		close(device.fd);
		shown++;
	}
	if (!shown)
		fail("no /dev/hmm_migrate0, is the driver loaded?");
	printf("\n%s\n", good ? "All memory moved, and every byte of it is intact." :
				"Something did not move or is not intact.");
	return !good;
}
