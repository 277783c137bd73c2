// SPDX-License-Identifier: GPL-2.0
/*
 * Runs in the VM: prepares memory of each kind, sends it to the device and
 * back, and prints what each trip cost, one JSON object a line. What the
 * figures mean, and whether they are good, is for the host to say.
 *
 * bench trips          each folio size, with and without copying the contents
 * bench ranges         4 KiB pages, ranges of 2 MiB to 512 MiB
 * bench range-faults   hmm_range_fault() of memory that is mapped
 * bench pipeline       64 MiB by an engine that takes its time, against the parts
 * bench profile SIZE   a trip of 2 MiB, while somebody else counts what runs
 * bench nodes          mbind(2) of 16 MiB to another node, and back
 * bench shootdowns     TLB shootdowns while other threads of the process run
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "module/hmm_migrate_bench.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define KIB		1024UL
#define MIB		(1024 * KIB)
#define PAGE		(4 * KIB)
#define HUGE		(2 * MIB)
#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define TRIP_LENGTH	(16 * MIB)
#define TRIPS		2
#define SHOOTDOWN_TRIPS	4
#define RANGE_FAULT_TRIES	5
#define STAY_TRIES	5
#define PIPELINE_LENGTH	(64 * MIB)
#define PIPELINE_CHUNK	(2 * MIB)
#define BUSY		3

/* Bits of /proc/kpageflags. */
#define KPF_COMPOUND_HEAD	15
#define KPF_COMPOUND_TAIL	16

static const struct kind {
	const char *name;
	unsigned int order;
} kinds[] = {
	{ "4k", 0 },
	{ "16k", 2 },
	{ "64k", 4 },
	{ "1m", 8 },
	{ "2m", 9 },
};

struct orders {
	__u64 folios[HMM_MIGRATE_BENCH_ORDERS];
};

static int device;

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		err(1, "%s can't be set to '%s'", path, text);
	close(fd);
}

/*
 * Let new anonymous memory come in folios of this order, and no other; 0 for
 * pages only.
 */
static void set_folio_order(unsigned int order)
{
	struct dirent *entry;
	char path[512];
	DIR *dir;

	dir = opendir(THP);
	if (!dir)
		err(1, THP);
	while ((entry = readdir(dir))) {
		unsigned long kib;

		if (sscanf(entry->d_name, "hugepages-%lukB", &kib) != 1)
			continue;
		snprintf(path, sizeof(path), THP "%s/enabled", entry->d_name);
		/* Some sizes are only for shared memory. */
		if (access(path, F_OK))
			continue;
		write_file(path, order && kib == (4UL << order) ? "always" : "never");
	}
	closedir(dir);
}

/* The same for shared memory. */
static void set_shmem_order(unsigned int order)
{
	char path[128];

	snprintf(path, sizeof(path), THP "hugepages-%lukB/shmem_enabled", 4UL << 9);
	write_file(path, "never");
	snprintf(path, sizeof(path), THP "hugepages-%lukB/shmem_enabled", 4UL << 4);
	write_file(path, "never");
	if (!order)
		return;
	snprintf(path, sizeof(path), THP "hugepages-%lukB/shmem_enabled", 4UL << order);
	write_file(path, "always");
}

static unsigned char *map_aligned(unsigned long length)
{
	unsigned char *raw;
	uintptr_t start;

	raw = mmap(NULL, length + HUGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (raw == MAP_FAILED)
		err(1, "%lu MiB can't be mapped", length / MIB);
	start = ((uintptr_t)raw + HUGE - 1) & ~(HUGE - 1);
	if (start > (uintptr_t)raw)
		munmap(raw, start - (uintptr_t)raw);
	munmap((void *)(start + length), (uintptr_t)raw + HUGE - start);
	return (void *)start;
}

/* Each word of the range is different, so that no page passes for another. */
static void fill(unsigned char *memory, unsigned long length)
{
	unsigned long *words = (unsigned long *)memory;
	unsigned long i;

	for (i = 0; i < length / sizeof(*words); i++)
		words[i] = i * 0x9e3779b97f4a7c15;
}

static void verify(unsigned char *memory, unsigned long length)
{
	unsigned long *words = (unsigned long *)memory;
	unsigned long i;

	for (i = 0; i < length / sizeof(*words); i++) {
		if (words[i] != i * 0x9e3779b97f4a7c15)
			errx(1, "contents lost at byte %#lx of the range",
			     i * sizeof(*words));
	}
}

/* A page table walk is enough to populate; filling costs more, in the VM. */
static void touch(unsigned char *memory, unsigned long length)
{
	unsigned long i;

	for (i = 0; i < length; i += PAGE)
		memory[i] = 1;
}

static int open_or_die(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static void read_words(int fd, unsigned long *words, unsigned long n,
		       unsigned long first)
{
	ssize_t bytes = n * sizeof(*words);

	if (pread(fd, words, bytes, first * sizeof(*words)) != bytes)
		err(1, "pagemap or kpageflags can't be read");
}

/*
 * What folios a range of system memory consists of: the truth, where the
 * settings are only a wish. A folio counts if all of it is mapped, in order.
 */
static void count_orders(const unsigned char *memory, unsigned long length,
			 struct orders *orders)
{
	int pagemap = open_or_die("/proc/self/pagemap");
	int kpageflags = open_or_die("/proc/kpageflags");
	unsigned long i, n = length / PAGE, size;
	unsigned long *flags, *pfns;

	memset(orders, 0, sizeof(*orders));
	pfns = calloc(n, sizeof(*pfns));
	flags = calloc(n, sizeof(*flags));
	if (!pfns || !flags)
		err(1, "calloc");
	read_words(pagemap, pfns, n, (uintptr_t)memory / PAGE);
	for (i = 0; i < n; i++) {
		/* Not present: an entry of a device, or nothing. */
		if (!(pfns[i] >> 63))
			continue;
		pfns[i] &= (1ULL << 55) - 1;
		read_words(kpageflags, &flags[i], 1, pfns[i]);
	}
	for (i = 0; i < n; i += size) {
		size = 1;
		if (!pfns[i] || flags[i] >> KPF_COMPOUND_TAIL & 1)
			continue;
		if (flags[i] >> KPF_COMPOUND_HEAD & 1)
			while (i + size < n && pfns[i + size] == pfns[i] + size &&
			       flags[i + size] >> KPF_COMPOUND_TAIL & 1)
				size++;
		orders->folios[__builtin_ctzl(size)]++;
	}
	free(flags);
	free(pfns);
	close(kpageflags);
	close(pagemap);
}

static bool only_order(const struct orders *orders, unsigned int order,
		       unsigned long length)
{
	return orders->folios[order] == length / (PAGE << order);
}

static void send(unsigned char *memory, unsigned long length, bool back,
		 bool copy, struct hmm_migrate_bench_trip *trip)
{
	memset(trip, 0, sizeof(*trip));
	trip->addr = (uintptr_t)memory;
	trip->length = length;
	trip->chunk = length;
	trip->flags = (back ? HMM_MIGRATE_BENCH_BACK : 0) |
		      (copy ? HMM_MIGRATE_BENCH_COPY : 0);
	if (ioctl(device, HMM_MIGRATE_BENCH_TRIP, trip))
		err(1, "the %s of %lu MiB failed", back ? "return" : "migration",
		    length / MIB);
}

static void print_orders(const char *name, const __u64 *folios)
{
	const char *comma = "";
	unsigned int i;

	printf(",\"%s\":{", name);
	for (i = 0; i < HMM_MIGRATE_BENCH_ORDERS; i++) {
		if (!folios[i])
			continue;
		printf("%s\"%u\":%llu", comma, i, folios[i]);
		comma = ",";
	}
	printf("}");
}

static void print_trip(const char *what, const char *name, unsigned int nr,
		       const struct hmm_migrate_bench_trip *trip,
		       const struct orders *before, const struct orders *after)
{
	printf("{\"what\":\"%s\",\"case\":\"%s\",\"trip\":%u", what, name, nr);
	printf(",\"direction\":\"%s\"",
	       trip->flags & HMM_MIGRATE_BENCH_BACK ? "back" : "out");
	printf(",\"copied\":%s",
	       trip->flags & HMM_MIGRATE_BENCH_COPY ? "true" : "false");
	printf(",\"asked\":%llu,\"moved\":%llu",
	       trip->length / PAGE, trip->moved);
	printf(",\"calls\":%llu,\"clock\":%llu",
	       trip->calls, trip->clock);
	printf(",\"setup\":%llu,\"copy\":%llu",
	       trip->setup, trip->copy);
	printf(",\"pages\":%llu,\"finalize\":%llu",
	       trip->pages, trip->finalize);
	print_orders("from", trip->from);
	print_orders("to", trip->to);
	print_orders("before", before->folios);
	print_orders("after", after->folios);
	printf("}\n");
}

static void do_kind(const struct kind *kind, bool copy)
{
	struct hmm_migrate_bench_trip out, back;
	struct orders before, after;
	unsigned char *memory;
	unsigned int nr;

	memory = map_aligned(TRIP_LENGTH);
	set_folio_order(kind->order);
	fill(memory, TRIP_LENGTH);
	/* And khugepaged has nothing to do. */
	set_folio_order(0);

	for (nr = 1; nr <= TRIPS; nr++) {
		count_orders(memory, TRIP_LENGTH, &before);
		if (nr == 1 && !only_order(&before, kind->order, TRIP_LENGTH))
			errx(1, "%s: the memory is not made of such folios",
			     kind->name);
		send(memory, TRIP_LENGTH, false, copy, &out);
		send(memory, TRIP_LENGTH, true, copy, &back);
		count_orders(memory, TRIP_LENGTH, &after);
		print_trip("trip", kind->name, nr, &out, &before, &after);
		print_trip("trip", kind->name, nr, &back, &before, &after);
		if (copy)
			verify(memory, TRIP_LENGTH);
	}
	munmap(memory, TRIP_LENGTH);
}

static void do_trips(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		do_kind(&kinds[i], false);
		do_kind(&kinds[i], true);
	}
}

static void do_range(unsigned long length)
{
	struct hmm_migrate_bench_trip out, back;
	struct orders none = {};
	unsigned char *memory;
	unsigned int nr;
	char name[32];

	snprintf(name, sizeof(name), "%lu", length / MIB);
	memory = map_aligned(length);
	touch(memory, length);
	for (nr = 1; nr <= TRIPS; nr++) {
		send(memory, length, false, false, &out);
		send(memory, length, true, false, &back);
		print_trip("range", name, nr, &out, &none, &none);
		print_trip("range", name, nr, &back, &none, &none);
	}
	munmap(memory, length);
}

static void do_ranges(void)
{
	unsigned long mib;

	set_folio_order(0);
	for (mib = 2; mib <= 512; mib *= 4)
		do_range(mib * MIB);
}

static const struct request {
	const char *name;
	unsigned int flags;
} requests[] = {
	{ "fault", HMM_MIGRATE_BENCH_REQ_FAULT },
	{ "snapshot", 0 },
	{ "fault-order", HMM_MIGRATE_BENCH_REQ_FAULT | HMM_MIGRATE_BENCH_FOLIO_ORDER },
	{ "snapshot-order", HMM_MIGRATE_BENCH_FOLIO_ORDER },
};

/* Returns false when this kernel does not know the request. */
static bool range_fault(unsigned char *memory, unsigned int flags,
			struct hmm_migrate_bench_range_fault *fault)
{
	memset(fault, 0, sizeof(*fault));
	fault->addr = (uintptr_t)memory;
	fault->length = TRIP_LENGTH;
	fault->chunk = HUGE;
	fault->flags = flags;
	if (!ioctl(device, HMM_MIGRATE_BENCH_RANGE_FAULT, fault))
		return true;
	if (errno != EOPNOTSUPP)
		err(1, "hmm_range_fault() failed");
	return false;
}

static void do_range_fault(const char *name, unsigned char *memory,
			   const struct request *request)
{
	struct hmm_migrate_bench_range_fault fault;
	unsigned int nr;

	for (nr = 1; nr <= RANGE_FAULT_TRIES; nr++) {
		if (!range_fault(memory, request->flags, &fault))
			return;
		printf("{\"what\":\"range-fault\",\"case\":\"%s\",\"trip\":%u",
		       name, nr);
		printf(",\"direction\":\"%s\",\"asked\":%llu,\"calls\":%llu",
		       request->name, fault.length / PAGE, fault.calls);
		printf(",\"clock\":%llu,\"time\":%llu", fault.clock, fault.time);
		print_orders("pages", fault.pages);
		printf("}\n");
	}
}

static void do_range_faults_kind(const struct kind *kind)
{
	struct orders orders;
	unsigned char *memory;
	unsigned int i;

	memory = map_aligned(TRIP_LENGTH);
	set_folio_order(kind->order);
	touch(memory, TRIP_LENGTH);
	set_folio_order(0);
	count_orders(memory, TRIP_LENGTH, &orders);
	if (!only_order(&orders, kind->order, TRIP_LENGTH))
		errx(1, "%s: the memory is not made of such folios", kind->name);
	for (i = 0; i < ARRAY_SIZE(requests); i++)
		do_range_fault(kind->name, memory, &requests[i]);
	munmap(memory, TRIP_LENGTH);
}

static void do_range_faults(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i].order == 0 || kinds[i].order == 4 || kinds[i].order == 9)
			do_range_faults_kind(&kinds[i]);
}

/* One thing whose time is taken by the pipeline's ioctl. */
struct pipeline_run {
	const struct kind *kind;
	/* Private, coherent, or another node. */
	unsigned int to;
	const char *name;
	bool scattered;
	/* NULL: on memory of its own. */
	unsigned char *memory;
	unsigned long chunk;
};

static void ask_length(const struct pipeline_run *run, unsigned char *memory,
		       unsigned long length, unsigned int what,
		       struct hmm_migrate_bench_pipeline *pipeline)
{
	memset(pipeline, 0, sizeof(*pipeline));
	pipeline->addr = (uintptr_t)memory;
	pipeline->length = length;
	pipeline->chunk = run->chunk;
	pipeline->what = what;
	pipeline->kind = run->to;
	if (ioctl(device, HMM_MIGRATE_BENCH_PIPELINE, pipeline))
		err(1, "the pipeline of %s, chunks of %lu KiB", run->name,
		    run->chunk / KIB);
	if (pipeline->moved != length / PAGE)
		errx(1, "%s: %llu pages moved in chunks of %lu KiB, by %u", run->name,
		     pipeline->moved, run->chunk / KIB, what);
}

static void ask_pipeline(const struct pipeline_run *run, unsigned char *memory,
			 unsigned int what, struct hmm_migrate_bench_pipeline *pipeline)
{
	ask_length(run, memory, PIPELINE_LENGTH, what, pipeline);
}

/* Says how long it took; all is back then. */
static void run_pipeline(const struct pipeline_run *run, unsigned char *memory,
			 unsigned int what)
{
	static const char * const whats[] = { "range", "cpu", "engine", "serial" };
	struct hmm_migrate_bench_pipeline pipeline, back;
	unsigned int i;

	ask_pipeline(run, memory, what, &pipeline);
	printf("{\"what\":\"chunk\",\"case\":\"%s\",\"trip\":%lu", run->name,
	       run->chunk / KIB);
	printf(",\"direction\":\"%s\",\"time\":%llu,\"steps\":[", whats[what],
	       pipeline.time);
	for (i = 0; i < ARRAY_SIZE(pipeline.step); i++)
		printf("%s%llu", i ? "," : "", pipeline.step[i]);
	printf("]}\n");
	if (what != HMM_MIGRATE_BENCH_ENGINE)
		ask_pipeline(run, memory, HMM_MIGRATE_BENCH_RETURN, &back);
}

/* Neighbours in the range are none in memory: what is copied is in small pieces. */
static void touch_scattered(unsigned char *memory, unsigned long length)
{
	unsigned long i, n = length / PAGE;

	for (i = 0; i < n; i++)
		memory[i * 517 % n * PAGE] = 1;
}

static unsigned char *map_pipeline(const struct pipeline_run *run)
{
	unsigned char *memory = map_aligned(PIPELINE_LENGTH);
	struct hmm_migrate_bench_trip trip;
	struct orders orders;

	set_folio_order(run->kind->order);
	if (run->scattered)
		touch_scattered(memory, PIPELINE_LENGTH);
	else
		touch(memory, PIPELINE_LENGTH);
	set_folio_order(0);
	if (!run->scattered) {
		/* The first trip of a THP is one of its own. */
		send(memory, PIPELINE_LENGTH, false, false, &trip);
		send(memory, PIPELINE_LENGTH, true, false, &trip);
		/* What is all zeros is a hole when it is split. */
		touch(memory, PIPELINE_LENGTH);
	}
	count_orders(memory, PIPELINE_LENGTH, &orders);
	if (!only_order(&orders, run->kind->order, PIPELINE_LENGTH))
		errx(1, "%s: the memory is not made of such folios", run->name);
	return memory;
}

/*
 * On memory of its own if that does not stay as it is: small chunks cut huge pages in
 * pieces, and what comes back is scattered no more.
 */
static void time_pipeline(const struct pipeline_run *run, unsigned int what)
{
	unsigned char *own = run->memory ? NULL : map_pipeline(run);

	run_pipeline(run, run->memory ? run->memory : own, what);
	if (own)
		munmap(own, PIPELINE_LENGTH);
}

static void compare_pipeline(struct pipeline_run *run)
{
	run->chunk = PIPELINE_CHUNK;
	time_pipeline(run, HMM_MIGRATE_BENCH_CPU);
	time_pipeline(run, HMM_MIGRATE_BENCH_ENGINE);
	time_pipeline(run, HMM_MIGRATE_BENCH_SERIAL);
	time_pipeline(run, HMM_MIGRATE_BENCH_RANGE);
}

static void curve_of_chunks(struct pipeline_run *run)
{
	for (run->chunk = 64 * KIB; run->chunk <= PIPELINE_LENGTH; run->chunk *= 2)
		if (run->chunk != PIPELINE_CHUNK)
			time_pipeline(run, HMM_MIGRATE_BENCH_RANGE);
}

static void do_pipeline_kind(const struct kind *kind)
{
	static const char * const suffixes[] = { "", "-coherent", "-node" };
	struct pipeline_run run = { .kind = kind };
	char name[32];

	run.name = name;
	if (kind->order != 9)
		run.memory = map_pipeline(&run);
	for (run.to = 0; run.to < HMM_MIGRATE_BENCH_NR_KINDS; run.to++) {
		snprintf(name, sizeof(name), "%s%s", kind->name, suffixes[run.to]);
		compare_pipeline(&run);
		if (run.to == HMM_MIGRATE_BENCH_PRIVATE)
			curve_of_chunks(&run);
	}
	if (run.memory)
		munmap(run.memory, PIPELINE_LENGTH);
}

/* What a driver needs around the call: evictions, other devices, faults, many callers */

static void print_figure(const char *name, const char *kind, unsigned long long time)
{
	printf("{\"what\":\"chunk\",\"case\":\"%s\",\"trip\":%lu,\"direction\":\"%s\","
	       "\"time\":%llu,\"steps\":[]}\n", name, PIPELINE_CHUNK / KIB, kind, time);
}

/* Out to the private device, and then @what, whose time is printed. */
static void time_from_device(const struct pipeline_run *run, unsigned char *memory,
			     const char *name, const char *kind, unsigned int what)
{
	struct hmm_migrate_bench_pipeline pipeline;

	ask_pipeline(run, memory, HMM_MIGRATE_BENCH_RANGE, &pipeline);
	ask_pipeline(run, memory, what, &pipeline);
	print_figure(name, kind, pipeline.time);
	if (what == HMM_MIGRATE_BENCH_PEER || what == HMM_MIGRATE_BENCH_PEER_CPU)
		ask_pipeline(run, memory, HMM_MIGRATE_BENCH_PEER_RETURN, &pipeline);
}

static void do_from_device(const struct kind *kind)
{
	struct pipeline_run run = { .kind = kind, .name = kind->name, .chunk = PIPELINE_CHUNK };
	struct hmm_migrate_bench_pipeline pipeline;
	static const struct {
		const char *name;
		unsigned int with;
		unsigned int without;
	} whats[] = {
		{ "evict", HMM_MIGRATE_BENCH_EVICT, HMM_MIGRATE_BENCH_EVICT_CPU },
		{ "peer", HMM_MIGRATE_BENCH_PEER, HMM_MIGRATE_BENCH_PEER_CPU },
	};
	unsigned char *memory;
	char name[32];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(whats); i++) {
		snprintf(name, sizeof(name), "%s-%s", whats[i].name, kind->name);
		memory = map_pipeline(&run);
		time_from_device(&run, memory, name, "range", whats[i].with);
		munmap(memory, PIPELINE_LENGTH);
		memory = map_pipeline(&run);
		time_from_device(&run, memory, name, "cpu", whats[i].without);
		munmap(memory, PIPELINE_LENGTH);
		memory = map_pipeline(&run);
		ask_pipeline(&run, memory, HMM_MIGRATE_BENCH_ENGINE, &pipeline);
		print_figure(name, "engine", pipeline.time);
		munmap(memory, PIPELINE_LENGTH);
	}
}

static unsigned long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/* 2 MiB of small device pages: by one fault, by 512 of them, and by the call. */
static void do_faults(void)
{
	struct pipeline_run run = { .kind = &kinds[0], .name = "4k", .chunk = PIPELINE_CHUNK };
	unsigned char *memory = map_pipeline(&run);
	struct hmm_migrate_bench_pipeline pipeline;
	unsigned long long then;
	unsigned long i, pages = PIPELINE_CHUNK / PAGE;

	ask_pipeline(&run, memory, HMM_MIGRATE_BENCH_RANGE, &pipeline);
	ask_length(&run, memory, PIPELINE_CHUNK, HMM_MIGRATE_BENCH_BACK_CPU, &pipeline);
	print_figure("fault", "back", pipeline.time);
	ask_length(&run, memory, PIPELINE_CHUNK, HMM_MIGRATE_BENCH_WINDOW, &pipeline);
	then = now_ns();
	*(volatile unsigned char *)(memory + PIPELINE_CHUNK + 5 * PAGE);
	print_figure("fault", "range", now_ns() - then);
	ask_length(&run, memory, 2 * PIPELINE_CHUNK, HMM_MIGRATE_BENCH_WINDOW, &pipeline);
	for (i = 0, then = now_ns(); i < pages; i++)
		*(volatile unsigned char *)(memory + 2 * PIPELINE_CHUNK + i * PAGE);
	print_figure("fault", "each", now_ns() - then);
	ask_length(&run, memory + 3 * PIPELINE_CHUNK, PIPELINE_LENGTH - 3 * PIPELINE_CHUNK,
		   HMM_MIGRATE_BENCH_BACK_CPU, &pipeline);
	munmap(memory, PIPELINE_LENGTH);
}

#define CALLERS		15
#define CALLER_LENGTH	(2 * PIPELINE_CHUNK)

/* One of many processes that migrate to and fro by one engine. */
static void be_a_caller(int go, unsigned int rounds)
{
	struct pipeline_run run = { .kind = &kinds[0], .name = "4k", .chunk = PIPELINE_CHUNK };
	unsigned char *memory = map_aligned(CALLER_LENGTH);
	struct hmm_migrate_bench_pipeline pipeline;
	char c;

	touch(memory, CALLER_LENGTH);
	if (read(go, &c, 1))
		_exit(1);
	while (rounds--) {
		ask_length(&run, memory, CALLER_LENGTH, HMM_MIGRATE_BENCH_RANGE, &pipeline);
		ask_length(&run, memory, CALLER_LENGTH, HMM_MIGRATE_BENCH_RETURN, &pipeline);
	}
	_exit(0);
}

static void *hold_first(void *memory)
{
	struct pipeline_run run = { .kind = &kinds[0], .name = "4k", .chunk = PIPELINE_CHUNK };
	struct hmm_migrate_bench_pipeline pipeline;

	ask_length(&run, memory, 900 * PAGE, HMM_MIGRATE_BENCH_HOLD, &pipeline);
	return NULL;
}

/* One whose pages are held by somebody, as if they were under I/O. */
static void be_stuck(void)
{
	struct pipeline_run run = { .kind = &kinds[0], .name = "4k", .chunk = PIPELINE_CHUNK };
	unsigned char *memory = map_aligned(CALLER_LENGTH);
	struct hmm_migrate_bench_pipeline pipeline;
	pthread_t thread;

	touch(memory, CALLER_LENGTH);
	if (pthread_create(&thread, NULL, hold_first, memory))
		_exit(1);
	usleep(20000);
	ask_length(&run, memory, CALLER_LENGTH, HMM_MIGRATE_BENCH_RANGE, &pipeline);
	ask_length(&run, memory, CALLER_LENGTH, HMM_MIGRATE_BENCH_RETURN, &pipeline);
	pthread_join(thread, NULL);
	_exit(0);
}

static pid_t must_fork(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	return pid;
}

static void must_reap(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid || status)
		errx(1, "a caller failed");
}

/* Several that share the engine, and one that is stuck. */
static void time_callers(const char *kind, bool with_stuck)
{
	pid_t pids[CALLERS], stuck = 0;
	unsigned long long then;
	unsigned int i;
	int go[2];

	if (pipe(go))
		err(1, "pipe");
	if (with_stuck) {
		stuck = must_fork();
		if (!stuck) {
			close(go[0]);
			close(go[1]);
			be_stuck();
		}
	}
	for (i = 0; i < CALLERS; i++) {
		pids[i] = must_fork();
		if (!pids[i]) {
			close(go[1]);
			be_a_caller(go[0], 2);
		}
	}
	/* All of them have their memory, and the other one is stuck, by then. */
	usleep(200000);
	close(go[0]);
	then = now_ns();
	close(go[1]);
	for (i = 0; i < CALLERS; i++)
		must_reap(pids[i]);
	print_figure("callers", kind, now_ns() - then);
	if (stuck)
		must_reap(stuck);
}

static void do_around(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i].order == 4 || kinds[i].order == 9)
			do_from_device(&kinds[i]);
	do_faults();
	time_callers("alone", false);
	time_callers("range", true);
}

static void set_parameter(const char *module, const char *name, unsigned int value)
{
	char path[128], text[16];

	snprintf(path, sizeof(path), "/sys/module/%s/parameters/%s", module, name);
	snprintf(text, sizeof(text), "%u", value);
	write_file(path, text);
}

#define BY_NOBODY	3

/* To a node where so many pages are neighbours, copied by @copier. Says how long that took. */
static unsigned long long move_runs(unsigned char *memory, unsigned int node,
				    unsigned long run_length, unsigned int copier)
{
	struct pipeline_run run = {
		.kind = &kinds[0],
		.name = "runs",
		.to = HMM_MIGRATE_BENCH_NODE,
		.chunk = PIPELINE_CHUNK,
	};
	struct hmm_migrate_bench_pipeline pipeline;

	set_parameter("hmm_migrate_bench", "to_node", node);
	set_parameter("hmm_migrate_bench", "run", run_length);
	set_parameter("hmm_migrate_bench", "copier", copier);
	ask_pipeline(&run, memory, HMM_MIGRATE_BENCH_RANGE, &pipeline);
	set_parameter("hmm_migrate_bench", "run", 0);
	set_parameter("hmm_migrate_bench", "copier", 0);
	return pipeline.time;
}

/* From runs to where all are neighbours. The first time is not taken. */
static void time_copier(const char *name, const char *who, unsigned int copier,
			unsigned long run_length)
{
	unsigned char *memory = map_aligned(PIPELINE_LENGTH);
	unsigned long long time = 0;
	unsigned int nr;

	touch(memory, PIPELINE_LENGTH);
	for (nr = 0; nr < 2; nr++) {
		move_runs(memory, 1, run_length, BY_NOBODY);
		time = move_runs(memory, 0, HUGE / PAGE, copier);
	}
	print_figure(name, who, time);
	munmap(memory, PIPELINE_LENGTH);
}

/*
 * Against how many neighbours a page has, and what a descriptor costs besides: who copies
 * sooner, and who is chosen?
 */
static void do_copiers(void)
{
	static const char * const who[] = { "engine", "range", "cpu" };
	unsigned int prep_ns, copier;
	unsigned long run;
	char name[32];

	set_folio_order(0);
	for (prep_ns = 0; prep_ns <= 4000; prep_ns += 2000) {
		set_parameter("test_hmm_migrate_dma", "prep_ns", prep_ns);
		for (run = 64; run; run /= 2) {
			snprintf(name, sizeof(name), "run-%lu-%u", run, prep_ns);
			for (copier = 0; copier < ARRAY_SIZE(who); copier++)
				time_copier(name, who[copier], copier, run);
		}
	}
	set_parameter("test_hmm_migrate_dma", "prep_ns", 0);
}

static void do_pipeline(void)
{
	struct pipeline_run scattered = {
		.kind = &kinds[0],
		.name = "4k-scattered",
		.scattered = true,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i].order == 0 || kinds[i].order == 4 || kinds[i].order == 9)
			do_pipeline_kind(&kinds[i]);
	compare_pipeline(&scattered);
	curve_of_chunks(&scattered);
	do_around();
	do_copiers();
}

/* From node to node, by the calls that every kernel has */

#define SWITCH		"/proc/sys/vm/numa_range_migration"
#define MPOL_BIND	2
#define MPOL_MF_MOVE	2

static void bind_to(unsigned char *memory, unsigned int node)
{
	unsigned long mask = 1UL << node;

	if (syscall(SYS_mbind, memory, TRIP_LENGTH, MPOL_BIND, &mask,
		    8 * sizeof(mask), MPOL_MF_MOVE))
		err(1, "mbind to node %u", node);
}

/* How many pages are on a node? */
static unsigned long pages_on(unsigned char *memory, int node)
{
	static void *pages[TRIP_LENGTH / PAGE];
	static int status[TRIP_LENGTH / PAGE];
	unsigned long i, n = 0;

	for (i = 0; i < TRIP_LENGTH / PAGE; i++)
		pages[i] = memory + i * PAGE;
	if (syscall(SYS_move_pages, 0, TRIP_LENGTH / PAGE, pages, NULL, status, 0))
		err(1, "move_pages");
	for (i = 0; i < TRIP_LENGTH / PAGE; i++)
		n += status[i] == node;
	return n;
}

static void print_nodes(const char *name, unsigned int nr, const char *direction,
			bool by_range, unsigned long long time, unsigned long moved,
			const struct orders *after)
{
	printf("{\"what\":\"nodes\",\"case\":\"%s%s\",\"trip\":%u,\"direction\":\"%s\"",
	       name, by_range ? "" : "-off", nr, direction);
	printf(",\"asked\":%lu,\"moved\":%lu,\"time\":%llu", TRIP_LENGTH / PAGE, moved, time);
	print_orders("after", after->folios);
	printf("}\n");
}

/* Nothing moves the second time: the cheapest of some, as timers fall into others. */
static void time_bind(const char *name, unsigned int nr, const char *direction,
		      bool by_range, unsigned char *memory, unsigned int node)
{
	unsigned long before = pages_on(memory, node), moved;
	unsigned int tries = before == TRIP_LENGTH / PAGE ? STAY_TRIES : 1;
	unsigned long long time = -1, then;
	struct orders after;

	while (tries--) {
		then = now_ns();
		bind_to(memory, node);
		then = now_ns() - then;
		time = then < time ? then : time;
	}
	moved = pages_on(memory, node) - before;
	count_orders(memory, TRIP_LENGTH, &after);
	print_nodes(name, nr, direction, by_range, time, moved, &after);
	verify(memory, TRIP_LENGTH);
}

static unsigned char *map_nodes(const struct kind *kind, bool file)
{
	unsigned char *memory = map_aligned(TRIP_LENGTH);

	if (file && mmap(memory, TRIP_LENGTH, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != memory)
		err(1, "shared memory can't be mapped");
	set_folio_order(kind->order);
	if (file)
		set_shmem_order(kind->order);
	fill(memory, TRIP_LENGTH);
	set_folio_order(0);
	if (file)
		set_shmem_order(0);
	return memory;
}

static void do_nodes_kind(const struct kind *kind, bool file, bool by_range)
{
	unsigned char *memory = map_nodes(kind, file);
	unsigned int nr;
	char name[32];

	/* What others have left in the allocator's lists is theirs to pay. */
	bind_to(memory, 1);
	bind_to(memory, 0);
	munmap(memory, TRIP_LENGTH);

	snprintf(name, sizeof(name), "%s%s", file ? "tmpfs-" : "", kind->name);
	memory = map_nodes(kind, file);
	for (nr = 1; nr <= TRIPS; nr++) {
		time_bind(name, nr, "there", by_range, memory, 1);
		time_bind(name, nr, "stay", by_range, memory, 1);
		time_bind(name, nr, "back", by_range, memory, 0);
	}
	munmap(memory, TRIP_LENGTH);
}

#define SPARSE_RUNS	32
#define SPARSE_STEP	(TRIP_LENGTH / SPARSE_RUNS)

/* Runs of pages far from each other move: each is a place by itself. */
static unsigned long long time_sparse(unsigned int run, unsigned long *moved)
{
	unsigned char *memory = map_aligned(TRIP_LENGTH);
	unsigned long long time;
	unsigned long i;

	for (i = 0; i < SPARSE_RUNS * run; i++)
		memory[i / run * SPARSE_STEP + i % run * PAGE] = 1;
	*moved = pages_on(memory, 1);
	time = now_ns();
	bind_to(memory, 1);
	time = now_ns() - time;
	*moved = pages_on(memory, 1) - *moved;
	munmap(memory, TRIP_LENGTH);
	return time;
}

/* The cheapest of some, as timers and the allocator's lists fall into others. */
static void do_sparse(unsigned int run, bool by_range)
{
	unsigned long long time = -1, one;
	struct orders none = {};
	unsigned long moved = 0;
	unsigned int nr;
	char name[32];

	set_folio_order(0);
	for (nr = 0; nr < STAY_TRIES; nr++) {
		one = time_sparse(run, &moved);
		time = one < time ? one : time;
	}
	snprintf(name, sizeof(name), "sparse-%u%s", run, by_range ? "" : "-off");
	printf("{\"what\":\"nodes\",\"case\":\"%s\",\"trip\":1,\"direction\":\"there\"", name);
	printf(",\"asked\":%u,\"moved\":%lu,\"time\":%llu", SPARSE_RUNS * run, moved, time);
	print_orders("after", none.folios);
	printf("}\n");
}

static void do_nodes_kinds(bool by_range)
{
	static const unsigned int runs[] = { 1, 3, 6, 16, 64 };
	unsigned int i;

	for (i = ARRAY_SIZE(kinds); i--;) {
		if (kinds[i].order != 0 && kinds[i].order != 4 && kinds[i].order != 9)
			continue;
		do_nodes_kind(&kinds[i], false, by_range);
		do_nodes_kind(&kinds[i], true, by_range);
	}
	for (i = 0; i < ARRAY_SIZE(runs); i++)
		do_sparse(runs[i], by_range);
}

/* With the series, also with the ranges turned off. Stock is as it is: "off". */
static void do_nodes(void)
{
	bool has_switch = !access(SWITCH, F_OK);

	if (has_switch) {
		do_nodes_kinds(true);
		write_file(SWITCH, "0");
	}
	do_nodes_kinds(false);
	if (has_switch)
		write_file(SWITCH, "1");
}

static unsigned long read_vmstat(const char *name)
{
	unsigned long value;
	char line[128], key[64];
	bool found = false;
	FILE *file;

	file = fopen("/proc/vmstat", "r");
	if (!file)
		err(1, "/proc/vmstat");
	while (!found && fgets(line, sizeof(line), file))
		found = sscanf(line, "%63s %lu", key, &value) == 2 &&
			!strcmp(key, name);
	fclose(file);
	if (!found)
		errx(1, "/proc/vmstat has no %s", name);
	return value;
}

static void run_on(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "CPU %u can't be had", cpu);
}

static unsigned int running;

/* In user space all the time: its CPU holds translations of this process. */
static void *be_busy(void *cpu)
{
	run_on((uintptr_t)cpu);
	__atomic_add_fetch(&running, 1, __ATOMIC_SEQ_CST);
	while (true)
		__builtin_ia32_pause();
	return NULL;
}

/*
 * If the threads did not run there would be no shootdowns, and that would look
 * like a good result: so see that write-protecting a page reaches all of them.
 */
static void see_that_all_run(void)
{
	unsigned char *page = map_aligned(HUGE);
	unsigned long received;
	unsigned int try;

	for (try = 0; try < 100; try++) {
		page[0] = 1;
		received = read_vmstat("nr_tlb_remote_flush_received");
		if (mprotect(page, PAGE, PROT_READ) ||
		    mprotect(page, PAGE, PROT_READ | PROT_WRITE))
			err(1, "mprotect");
		received = read_vmstat("nr_tlb_remote_flush_received") - received;
		if (received >= BUSY) {
			munmap(page, HUGE);
			return;
		}
		usleep(10000);
	}
	errx(1, "the busy threads do not run");
}

/*
 * One page table's worth, since each shootdown waits for virtual CPUs that the
 * host may not be running.
 */
static void do_shootdowns_kind(const struct kind *kind)
{
	struct hmm_migrate_bench_trip trip;
	unsigned char *memory;
	unsigned int nr;

	memory = map_aligned(HUGE);
	set_folio_order(kind->order);
	touch(memory, HUGE);
	set_folio_order(0);
	for (nr = 1; nr <= 2 * SHOOTDOWN_TRIPS; nr++) {
		bool back = nr % 2 == 0;
		unsigned long sent, received;

		see_that_all_run();
		sent = read_vmstat("nr_tlb_remote_flush");
		received = read_vmstat("nr_tlb_remote_flush_received");
		send(memory, HUGE, back, false, &trip);
		sent = read_vmstat("nr_tlb_remote_flush") - sent;
		received = read_vmstat("nr_tlb_remote_flush_received") - received;
		printf("{\"what\":\"shootdowns\",\"case\":\"%s\",\"trip\":%u",
		       kind->name, (nr + 1) / 2);
		printf(",\"direction\":\"%s\",\"sent\":%lu,\"received\":%lu",
		       back ? "back" : "out", sent, received);
		printf(",\"asked\":%lu,\"moved\":%llu}\n", HUGE / PAGE, trip.moved);
	}
	munmap(memory, HUGE);
}

static void do_shootdowns(void)
{
	pthread_t thread;
	uintptr_t i;

	run_on(0);
	for (i = 1; i <= BUSY; i++)
		if (pthread_create(&thread, NULL, be_busy, (void *)i))
			errx(1, "no thread for CPU %lu", (unsigned long)i);
	while (__atomic_load_n(&running, __ATOMIC_SEQ_CST) < BUSY)
		usleep(1000);

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		do_shootdowns_kind(&kinds[i]);
}

/* Say where we are, and wait until whoever counts has heard it. */
static void rendezvous(FILE *line, const char *what, const char *direction)
{
	printf("@ %s %s\n", what, direction);
	fflush(stdout);
	if (fgetc(line) == EOF)
		errx(1, "nobody answers");
}

static const struct kind *find_kind(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	errx(2, "there is no folio size %s here", name);
}

/* Second trip, nothing copied: as the figures are measured. */
static void do_profile(const struct kind *kind)
{
	FILE *line = fopen("/dev/ttyS1", "r");
	struct hmm_migrate_bench_trip trip;
	unsigned char *memory;
	bool back;

	if (!line)
		err(1, "/dev/ttyS1");
	memory = map_aligned(HUGE);
	set_folio_order(kind->order);
	touch(memory, HUGE);
	set_folio_order(0);
	send(memory, HUGE, false, false, &trip);
	send(memory, HUGE, true, false, &trip);
	for (back = false; ; back = true) {
		rendezvous(line, "ready", back ? "back" : "out");
		send(memory, HUGE, back, false, &trip);
		rendezvous(line, "done", back ? "back" : "out");
		if (trip.moved != HUGE / PAGE)
			errx(1, "%llu pages moved", trip.moved);
		if (back)
			break;
	}
	munmap(memory, HUGE);
	fclose(line);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	setlinebuf(stdout);
	if (!strcmp(what, "nodes")) {
		do_nodes();
		return 0;
	}
	device = open("/dev/hmm_migrate_bench", O_RDWR);
	if (device < 0)
		err(1, "/dev/hmm_migrate_bench");

	if (!strcmp(what, "trips"))
		do_trips();
	else if (!strcmp(what, "ranges"))
		do_ranges();
	else if (!strcmp(what, "range-faults"))
		do_range_faults();
	else if (!strcmp(what, "pipeline"))
		do_pipeline();
	else if (!strcmp(what, "profile") && argc == 3)
		do_profile(find_kind(argv[2]));
	else if (!strcmp(what, "shootdowns"))
		do_shootdowns();
	else
		errx(2, "usage: bench trips | ranges | range-faults | pipeline | %s",
		     "nodes | shootdowns | profile SIZE");
	return 0;
}
