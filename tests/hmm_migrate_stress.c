// SPDX-License-Identifier: GPL-2.0
/*
 * All features at once: processes and threads that migrate memory, through the devices
 * of lib/test_hmm_migrate.c, while they fork, unmap, remap, protect, pin, swap, merge,
 * fail and die. A model has the expected value of each byte.
 *
 * The draws depend only on the seed, which a run prints: with the same seed, each thread
 * draws the same operations. Their interleaving is up to the scheduler.
 *
 * The model: each process has areas of memory and, for each, a shadow that never
 * moves. Thread t owns the words t, t + THREADS, t + 2 * THREADS, ... of every page:
 * only this thread writes them, so it always knows their values, and notices a loss
 * whichever thread caused it. An operation that discards contents, or takes away access,
 * holds the blocks of its range exclusively; an operation that reads or writes contents
 * shares them; an operation that only moves memory takes no blocks.
 *
 * In the environment:
 *   HMM_MIGRATE_SEED        the seed; by default the time
 *   HMM_MIGRATE_SECONDS     how long it runs; 20 by default
 *   HMM_MIGRATE_OPERATIONS  how many operations each thread draws at most
 *   HMM_MIGRATE_KINDS       names of operations: no others are drawn
 *   HMM_MIGRATE_MODULE      path of test_hmm_migrate.ko: it is unloaded and loaded
 *			     again, with all memory on the devices, after each round
 *   HMM_MIGRATE_SWAP        names of swap space, used by turns, and swapped off in the
 *			     end; by default the system's swap space is not changed
 *
 * Needs root, swap, cgroup v2 with memory, debugfs, the engine of
 * lib/test_hmm_migrate_dma.c and a second node with memory, and is skipped without these.
 * Fault injection by task (CONFIG_FAULT_INJECTION), gup_test, userfaultfd and a second
 * CPU are used if available.
 */
#define _GNU_SOURCE
#include "hmm_migrate.h"

#include <limits.h>
#include <linux/mempolicy.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <time.h>

#define PROCESSES	3
#define THREADS		4
#define DEVICES		TEST_HMM_MIGRATE_MAX_DEVICES

/* All areas and pages have these sizes, also where a huge page is larger. */
#define PAGE		4096UL
#define WORDS		(PAGE / sizeof(uint64_t))
#define TWO_MEG		(2UL << 20)
#define AREA_PAGES	512UL
#define BLOCK_PAGES	32UL
#define AREA_BLOCKS	(AREA_PAGES / BLOCK_PAGES)

#define ROUND_SECONDS	30
/* The longest time without any progress, on a slow machine. */
#define PATIENCE	300

#define HISTORY		16

#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define RANGES		"/proc/sys/vm/numa_range_migration"
#define CGROUP		"/sys/fs/cgroup/hmm_migrate_stress/"
#define FAULTS		"/sys/kernel/debug/"

#ifndef MADV_COLD
#define MADV_COLD	20
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED	24
#endif

/* Random numbers: splitmix64 */

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Memory */

enum area_kind {
	AREA_HUGE,	/* anonymous, with MADV_HUGEPAGE */
	AREA_PLAIN,	/* anonymous, by the system's policy; merged by KSM */
	AREA_FILE,	/* private mapping of a file with contents */
	AREA_SHARED,	/* shared mapping of a file: migrates only to nodes */
	NR_AREAS,
};

/**
 * struct area - a piece of memory of a process
 * @kind: the kind of memory
 * @memory: its address
 * @shadow: the expected value of each word
 * @file: the mapped file, or -1
 * @blocks: locks for parts of the area; see the comment at the top
 */
struct area {
	enum area_kind kind;
	unsigned char *memory;
	uint64_t *shadow;
	int file;
	pthread_rwlock_t blocks[AREA_BLOCKS];
};

/**
 * struct process - one address space
 * @index: its number
 * @areas: its memory
 * @devices: its open files, -1 for a device that does not exist
 * @userfault: for the anonymous areas, or -1
 * @stop: its threads end after the current operation
 */
struct process {
	unsigned int index;
	struct area areas[NR_AREAS];
	int devices[DEVICES];
	int userfault;
	atomic_bool stop;
};

/**
 * struct draw - an operation, as it was drawn
 * @kind: the operation
 * @area: its area
 * @first: first page
 * @npages: number of pages
 * @random: random numbers for the operation
 * @nth: the kernel allocation that fails in the operation; 0 for none
 */
struct draw {
	unsigned int kind;
	unsigned int area;
	unsigned long first;
	unsigned long npages;
	uint64_t random[4];
	unsigned int nth;
};

/**
 * union result - output of the kernel after an operation
 * @access: of a device's access
 * @move: of userfaultfd's move
 * @text: of fail-nth
 *
 * In memory that is locked and shared with children. The stack is swapped and copied on
 * write, so a failure could come between the operation and the output of its result.
 */
union result {
	struct test_hmm_migrate_access access;
	struct uffdio_move move;
	char text[16];
};

/**
 * struct thread - draws operations and runs them
 * @process: its address space
 * @index: its number in the process
 * @random: state of its random numbers
 * @remaining: how many operations are left to draw
 * @hash: hash of all its draws
 * @alone: it is a temporary child of fork(): no locks, no other threads
 * @scratch: where mremap() may move parts of an area
 * @buffer: as large as an area
 * @arrived: number of pages that its last migration moved or filled
 * @result: of the operation
 * @nth_text: of @fail_nth
 * @fail_nth: its open fail-nth file, or -1
 * @armed: a failure has been requested
 * @injected: the failure has happened
 * @gup: its open file of gup_test, or -1
 * @history: its last draws
 * @drawn: number of draws
 * @id: the thread that it runs as
 */
struct thread {
	struct process *process;
	unsigned int index;
	uint64_t random;
	uint64_t remaining;
	uint64_t hash;
	bool alone;
	unsigned char *scratch;
	unsigned char *buffer;
	unsigned long arrived;
	union result *result;
	union result *nth_text;
	int fail_nth;
	bool armed;
	bool injected;
	int gup;
	struct draw history[HISTORY];
	unsigned long drawn;
	pthread_t id;
};

#define MAX_KINDS	64

/**
 * struct shared - shared by all processes
 * @draws: number of draws of each kind
 * @done: how often each kind was successful
 * @injected: how often an injected failure hit each kind
 * @all_injected: the sum of these, in the end
 * @usec: time spent in each kind
 * @pages: outcome for the pages that were to migrate
 * @asked: number of these pages
 * @sigbus: CPU accesses that raised SIGBUS, and were repeated
 * @checked: number of words that were compared
 * @killed: number of processes that were killed while running
 * @unloaded: how often the module was unloaded
 * @phase: odd: processes park; even: they run
 * @joined: number of processes whose threads have all ended in this phase
 * @parked: number of processes that have moved their memory to the devices
 * @on_devices: number of their pages that are there
 * @failed: contents were lost; all processes stop
 * @stop: the last round is over
 * @hotplug: 1 + the process that switches a CPU, or 0
 * @pins: a thread has pins by gup_test, which supports only one user, and drops the
 *	  pins when any of its files is closed
 * @hash: hash of each thread's draws, when the thread ends
 */
struct shared {
	atomic_ulong draws[MAX_KINDS];
	atomic_ulong done[MAX_KINDS];
	atomic_ulong injected[MAX_KINDS];
	atomic_ulong all_injected;
	atomic_ulong usec[MAX_KINDS];
	atomic_ulong pages[TEST_HMM_MIGRATE_FATES + 1];
	atomic_ulong asked;
	atomic_ulong sigbus;
	atomic_ulong checked;
	atomic_ulong killed;
	atomic_ulong unloaded;
	atomic_ulong phase;
	atomic_ulong joined;
	atomic_ulong parked;
	atomic_ulong on_devices;
	atomic_bool failed;
	atomic_bool stop;
	atomic_uint hotplug;
	atomic_bool pins;
	atomic_ulong hash;
};

static struct shared *shared;
static uint64_t seed;

static const char *kind_name(unsigned int kind);

/*
 * Print by one write(), so that lines of several processes are not mixed; safe after
 * fork().
 */
static void __printf(1, 2) say(const char *format, ...)
{
	char line[512];
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (write(STDOUT_FILENO, line, length) != length)
		_exit(3);
}

static void say_history(struct thread *thread)
{
	unsigned long i = thread->drawn > HISTORY ? thread->drawn - HISTORY : 0;
	struct draw *draw;

	for (; i < thread->drawn; i++) {
		draw = &thread->history[i % HISTORY];
		say("# %u.%u draw %lu: %s area %u pages %lu+%lu nth %u random %#llx %#llx\n",
		    thread->process->index, thread->index, i,
		    kind_name(draw->kind), draw->area, draw->first, draw->npages,
		    draw->nth, (unsigned long long)draw->random[0],
		    (unsigned long long)draw->random[1]);
	}
}

/* Contents were lost, or an undocumented error was returned. End the whole run. */
static __noreturn void __printf(2, 3)
lost(struct thread *thread, const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	say("# seed %llu, process %u, thread %u%s: %s\n", (unsigned long long)seed,
	    thread->process->index, thread->index,
	    thread->alone ? " (a child)" : "", text);
	say_history(thread);
	shared->failed = true;
	_exit(1);
}

/* Failures in the kernel, only for this thread */

static void fail_nth_write(struct thread *thread, unsigned int nth)
{
	char *text = thread->nth_text->text;

	snprintf(text, sizeof(thread->nth_text->text), "%u", nth);
	if (pwrite(thread->fail_nth, text, strlen(text), 0) < 0)
		lost(thread, "fail-nth cannot be written: %m");
}

static void arm(struct thread *thread, unsigned int nth)
{
	thread->injected = false;
	thread->armed = nth && thread->fail_nth >= 0;
	if (thread->armed)
		fail_nth_write(thread, nth);
}

/* Inject no more failures: before operations that must succeed, and in the end. */
static void disarm_thread(struct thread *thread)
{
	char *text = thread->nth_text->text;

	if (!thread->armed)
		return;
	thread->armed = false;
	memset(text, 0, sizeof(thread->nth_text->text));
	if (pread(thread->fail_nth, text, sizeof(thread->nth_text->text) - 1, 0) < 0)
		lost(thread, "fail-nth cannot be read: %m");
	thread->injected = atoi(text) == 0;
	if (!thread->injected)
		fail_nth_write(thread, 0);
}

/* The model */

static struct area *area_of(struct thread *thread, const struct draw *draw)
{
	return &thread->process->areas[draw->area];
}

static unsigned char *memory_of(struct thread *thread, const struct draw *draw)
{
	return area_of(thread, draw)->memory + draw->first * PAGE;
}

static bool is_anonymous(const struct area *area)
{
	return area->kind == AREA_HUGE || area->kind == AREA_PLAIN;
}

/* The value of a word before the first write, or after MADV_DONTNEED. */
static uint64_t initial_word(const struct area *area, unsigned long page,
			     unsigned long word)
{
	if (area->kind != AREA_FILE)
		return 0;
	return pattern(7, page * PAGE + word * sizeof(uint64_t));
}

static void lock_blocks(struct thread *thread, const struct draw *draw, bool write)
{
	struct area *area = area_of(thread, draw);
	unsigned long block = draw->first / BLOCK_PAGES;
	unsigned long last = (draw->first + draw->npages - 1) / BLOCK_PAGES;

	/* All threads lock in ascending order. */
	for (; !thread->alone && block <= last; block++) {
		if (write)
			pthread_rwlock_wrlock(&area->blocks[block]);
		else
			pthread_rwlock_rdlock(&area->blocks[block]);
	}
}

static void unlock_blocks(struct thread *thread, const struct draw *draw)
{
	struct area *area = area_of(thread, draw);
	unsigned long block = draw->first / BLOCK_PAGES;
	unsigned long last = (draw->first + draw->npages - 1) / BLOCK_PAGES;

	for (; !thread->alone && block <= last; block++)
		pthread_rwlock_unlock(&area->blocks[block]);
}

/*
 * SIGBUS: an injected failure of the copy or of the allocation for a CPU fault raises
 * it. The contents must still be there for the next access.
 */
static __thread struct {
	sigjmp_buf *jump;
	unsigned int tries;
} sigbus;

static void handle_sigbus(int signal)
{
	if (sigbus.jump)
		siglongjmp(*sigbus.jump, 1);
	say("# unexpected SIGBUS\n");
	shared->failed = true;
	_exit(1);
}

/* Run @function, and repeat it if it raises SIGBUS, so it must be repeatable. */
static void with_sigbus(struct thread *thread,
			void (*function)(struct thread *thread,
					 const struct draw *draw,
					 struct area *area, void *data),
			const struct draw *draw, struct area *area, void *data)
{
	sigjmp_buf jump;

	sigbus.tries = 0;
	if (sigsetjmp(jump, 1)) {
		shared->sigbus++;
		if (++sigbus.tries > 10000)
			lost(thread, "SIGBUS does not end");
		usleep(100);
	}
	sigbus.jump = &jump;
	function(thread, draw, area, data);
	sigbus.jump = NULL;
}

/*
 * Other threads write to neighbouring words, and devices write without the compiler's
 * knowledge.
 */
static uint64_t load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static void store(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

/* Number of my words in a page that are wrong, as the CPU sees them now. */
static unsigned int wrong_words(struct thread *thread, struct area *area,
				unsigned long page)
{
	const uint64_t *memory = (uint64_t *)(area->memory + page * PAGE);
	uint64_t *shadow = area->shadow + page * WORDS;
	unsigned int word, count = 0;

	for (word = thread->index; word < WORDS; word += THREADS)
		count += load(&memory[word]) != shadow[word];
	return count;
}

/* For a wrong page: report if it has the contents of another page. */
static void say_confused(struct thread *thread, struct area *area, unsigned long page)
{
	unsigned long word = thread->index, other;
	uint64_t value = load((uint64_t *)(area->memory + page * PAGE) + word);

	for (other = 0; other < AREA_PAGES; other++)
		if (value && area->shadow[other * WORDS + word] == value)
			say("# page %lu has what page %lu should have\n", page, other);
}

/* Report where the page is, and how many pages around it are wrong. */
static void say_loss(struct thread *thread, struct area *area, unsigned long page)
{
	struct test_hmm_migrate_page where = {};
	unsigned long i, count = 0;
	int ret;

	ret = snapshot(thread->process->devices[0], area->memory + page * PAGE, 1,
		       &where);
	say("# page %lu: snapshot %d: where %u flags %u map order %u\n", page, ret,
	    where.where, where.flags, where.map_order);
	say("# page %lu: folio order %u index %u, pagemap %#llx\n", page,
	    where.folio_order, where.folio_index,
	    (unsigned long long)pagemap_of(area->memory + page * PAGE));
	say("# page %lu: %u words are wrong now\n", page,
	    wrong_words(thread, area, page));
	for (i = 0; i < AREA_PAGES; i++) {
		if (!wrong_words(thread, area, i))
			continue;
		if (!count++)
			say("# page %lu of area %u is the first one that is wrong\n",
			    i, area->kind);
		if (count <= 8)
			say_confused(thread, area, i);
	}
	say("# %lu pages of area %u are wrong\n", count, area->kind);
}

/* Compare my words in @memory, which holds page @page of @area. */
static void compare_page(struct thread *thread, struct area *area,
			 unsigned long page, const uint64_t *memory,
			 const char *by)
{
	uint64_t *shadow = area->shadow + page * WORDS;
	unsigned long word;
	uint64_t value;

	for (word = thread->index; word < WORDS; word += THREADS) {
		value = load(&memory[word]);
		if (value == shadow[word])
			continue;
		say("# area %u page %lu word %lu is %#llx, should be %#llx, read by %s\n",
		    area->kind, page, word, (unsigned long long)value,
		    (unsigned long long)shadow[word], by);
		say_loss(thread, area, page);
		lost(thread, "%s reads wrong contents", by);
	}
	shared->checked += WORDS / THREADS;
}

static void check_by_cpu(struct thread *thread, const struct draw *draw,
			 struct area *area, void *data)
{
	unsigned long page, stride = *(unsigned long *)data;

	for (page = draw->first; page < draw->first + draw->npages; page += stride)
		compare_page(thread, area, page,
			     (uint64_t *)(area->memory + page * PAGE), "the CPU");
}

/* Called with the blocks held. */
static void check_range(struct thread *thread, const struct draw *draw,
			unsigned long stride)
{
	with_sigbus(thread, check_by_cpu, draw, area_of(thread, draw), &stride);
}

static void check_all_words(struct thread *thread, const struct draw *draw,
			    struct area *area, void *data)
{
	struct thread owner = *thread;

	for (owner.index = 0; owner.index < THREADS; owner.index++)
		check_by_cpu(&owner, draw, area, data);
}

/* Called with the blocks held exclusively: check the words of all threads. */
static void check_alone(struct thread *thread, const struct draw *draw)
{
	unsigned long stride = 1;

	with_sigbus(thread, check_all_words, draw, area_of(thread, draw), &stride);
}

/*
 * Check contents before they are discarded; not always, because the check brings them
 * back from the device.
 */
static void check_before(struct thread *thread, const struct draw *draw)
{
	if (!(draw->random[3] >> 12 & 3))
		check_alone(thread, draw);
}

/* Write a new value to each of my words, or to one word per page. */
static void write_by_cpu(struct thread *thread, const struct draw *draw,
			 struct area *area, void *data)
{
	unsigned long page, word, step = *(bool *)data ? THREADS : WORDS;
	uint64_t *memory, value;

	for (page = draw->first; page < draw->first + draw->npages; page++) {
		memory = (uint64_t *)(area->memory + page * PAGE);
		for (word = thread->index; word < WORDS; word += step) {
			value = draw->random[0] + page * WORDS + word;
			/* In this order: SIGBUS or an error leaves both unchanged. */
			store(&memory[word], value);
			area->shadow[page * WORDS + word] = value;
		}
	}
}

static void write_range(struct thread *thread, const struct draw *draw, bool all)
{
	with_sigbus(thread, write_by_cpu, draw, area_of(thread, draw), &all);
}

/*
 * After an operation that may have discarded contents: each page must have either the
 * old or the initial contents. The blocks are held exclusively. @must: the contents
 * are discarded.
 */
static void resolve_pages(struct thread *thread, const struct draw *draw,
			  struct area *area, void *data)
{
	bool must = *(bool *)data, kept, initial;
	uint64_t value, *memory, *shadow;
	unsigned long page, word;

	for (page = draw->first; page < draw->first + draw->npages; page++) {
		memory = (uint64_t *)(area->memory + page * PAGE);
		shadow = area->shadow + page * WORDS;
		/*
		 * A write ends the effect of MADV_FREE, so the page is no longer
		 * discarded.
		 */
		__atomic_fetch_or(memory, 0, __ATOMIC_RELAXED);
		kept = !must;
		initial = true;
		for (word = 0; word < WORDS; word++) {
			value = load(&memory[word]);
			kept = kept && value == shadow[word];
			initial = initial && value == initial_word(area, page, word);
		}
		if (!kept && !initial)
			lost(thread, "area %u page %lu is neither old nor new: %#llx, was %#llx",
			     area->kind, page, (unsigned long long)load(memory),
			     (unsigned long long)shadow[0]);
		for (word = 0; !kept && word < WORDS; word++)
			shadow[word] = initial_word(area, page, word);
	}
	shared->checked += draw->npages * WORDS;
}

/* Inject no failures here, because the new contents must be determined. */
static void resolve_range(struct thread *thread, const struct draw *draw, bool must)
{
	disarm_thread(thread);
	with_sigbus(thread, resolve_pages, draw, area_of(thread, draw), &must);
}

/* Mapping an area, or mapping a part of it again */

static void register_userfault(struct process *process, struct area *area,
			       unsigned long first, unsigned long npages)
{
	struct uffdio_register argument = {
		.range = { .start = (uintptr_t)area->memory + first * PAGE,
			   .len = npages * PAGE },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	/*
	 * Registration fails if other threads have split the mapping; the memory is not
	 * write-protected then.
	 */
	if (process->userfault >= 0 && is_anonymous(area))
		ioctl(process->userfault, UFFDIO_REGISTER, &argument);
}

static bool map_part(struct process *process, struct area *area,
		     unsigned long first, unsigned long npages)
{
	int flags = area->kind == AREA_SHARED ? MAP_SHARED : MAP_PRIVATE;
	unsigned char *memory = area->memory + first * PAGE;
	void *mapped;

	if (area->file < 0)
		flags |= MAP_ANONYMOUS;
	mapped = mmap(memory, npages * PAGE, PROT_READ | PROT_WRITE,
		      flags | MAP_FIXED_NOREPLACE, area->file,
		      area->file < 0 ? 0 : first * PAGE);
	if (mapped != memory)
		return false;
	if (area->kind == AREA_HUGE)
		madvise(memory, npages * PAGE, MADV_HUGEPAGE);
	if (area->kind == AREA_PLAIN)
		madvise(memory, npages * PAGE, MADV_MERGEABLE);
	register_userfault(process, area, first, npages);
	return true;
}

/*
 * Map memory again, which must succeed in the end: it can fail only for lack of
 * memory.
 */
static void insist_on_mapping(struct thread *thread, const struct draw *draw)
{
	unsigned int tries = 0;

	disarm_thread(thread);
	while (!map_part(thread->process, area_of(thread, draw), draw->first,
			 draw->npages)) {
		if (++tries > 1000)
			lost(thread, "cannot map memory again: %m");
		usleep(1000);
	}
}

static void *reserve(size_t size)
{
	unsigned char *memory = mmap(NULL, size + TWO_MEG, PROT_NONE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned char *aligned;

	if (memory == MAP_FAILED)
		return NULL;
	aligned = (void *)(((uintptr_t)memory + TWO_MEG - 1) & ~(TWO_MEG - 1));
	return aligned;
}

/*
 * Memory for the model, which is not under test: small pages, charged before the
 * process enters the limited cgroup, and shared, so that fork() does not copy it.
 */
static void *map_aside(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	madvise(memory, size, MADV_NOHUGEPAGE);
	memset(memory, 0, size);
	return memory;
}

static bool fill_file(int file)
{
	unsigned long offset;
	uint64_t words[WORDS];
	unsigned int word;

	for (offset = 0; offset < AREA_PAGES * PAGE; offset += PAGE) {
		for (word = 0; word < WORDS; word++)
			words[word] = pattern(7, offset + word * sizeof(uint64_t));
		if (pwrite(file, words, PAGE, offset) != PAGE)
			return false;
	}
	return true;
}

static bool create_area(struct process *process, enum area_kind kind)
{
	struct area *area = &process->areas[kind];
	size_t size = AREA_PAGES * PAGE;
	unsigned long i;

	area->kind = kind;
	area->file = -1;
	area->memory = reserve(size);
	area->shadow = map_aside(size);
	if (!area->memory || !area->shadow)
		return false;
	if (kind == AREA_FILE || kind == AREA_SHARED) {
		area->file = memfd_create("stress", MFD_CLOEXEC);
		if (area->file < 0 || ftruncate(area->file, size))
			return false;
		if (kind == AREA_FILE && !fill_file(area->file))
			return false;
	}
	for (i = 0; i < AREA_PAGES * WORDS; i++)
		area->shadow[i] = initial_word(area, i / WORDS, i % WORDS);
	for (i = 0; i < AREA_BLOCKS; i++)
		pthread_rwlock_init(&area->blocks[i], NULL);
	munmap(area->memory, size);
	return map_part(process, area, 0, AREA_PAGES);
}

/* Operations: 0, a negative errno, or one of these */

#define NOT_DONE	1	/* no error, but nothing was done */

static int result(int ret)
{
	return ret < 0 ? -errno : 0;
}

static int device_of(struct thread *thread, uint64_t random)
{
	int fd = thread->process->devices[random % DEVICES];

	return fd < 0 ? thread->process->devices[random % 2] : fd;
}

/* Draw the context, the depth, the time limit and the engine of a migration. */
static void draw_way(struct test_hmm_migrate_range *range, unsigned long request,
		     uint64_t random)
{
	unsigned int way = random >> 16 & 15;

	if (range->flags & TEST_HMM_MIGRATE_BARE)
		return;
	if (way < TEST_HMM_MIGRATE_NR_WAYS)
		range->way = way;
	range->depth = random >> 20 & 15;
	if (range->depth > TEST_HMM_MIGRATE_MAX_DEPTH)
		range->depth = 0;
	if (range->flags & TEST_HMM_MIGRATE_ENGINE)
		range->engine = random >> 24 & 3;
	if (!(random >> 28 & 7))
		range->flags |= TEST_HMM_MIGRATE_NO_WAIT;
	if (!(random >> 32 & 15))
		range->usec = random >> 36 & 4095;
	if (request == TEST_HMM_MIGRATE_TO_DEVICE && !(random >> 48 & 3) &&
	    !(range->flags & TEST_HMM_MIGRATE_RELOCATE))
		range->flags |= TEST_HMM_MIGRATE_PEERS;
}

/* The counts must add up to the pages of the range. */
static int migrate_part(struct thread *thread, int fd, unsigned long request,
			unsigned char *addr, unsigned long npages,
			unsigned int flags, const uint64_t *random)
{
	static const unsigned char hole_orders[] = { 0, 0, 2, 3, 4, 6, 9, 9 };
	static const unsigned short chunks[] = { 0, 0, 0, 1, 16, 64, 100, 512 };
	struct test_hmm_migrate_range range = {
		.size = sizeof(range),
		.flags = flags,
		.addr = (uintptr_t)addr,
		.length = npages * PAGE,
		.chunk = chunks[random[3] % 8] * PAGE,
	};
	int ret, i;

	if (flags & TEST_HMM_MIGRATE_LARGE && request != TEST_HMM_MIGRATE_TO_SYSTEM)
		range.hole_order = hole_orders[random[3] / 8 % 8];
	if (request == TEST_HMM_MIGRATE_TO_NODE)
		range.node = random[3] / 64 % 2;
	draw_way(&range, request, random[3]);
	ret = device_ioctl(fd, request, &range);
	if (ret == -EINVAL || ret == -ENODEV)
		return ret;
	/* The kernel could not write back the structure. */
	if (ret == -EFAULT && thread->armed && !range.done)
		return ret;
	if (sum_of(&range) != (range.done - range.addr) / PAGE ||
	    range.done > range.addr + range.length)
		lost(thread, "%llu pages of %llu accounted for, errno %d",
		     (unsigned long long)sum_of(&range),
		     (unsigned long long)(range.done - range.addr) / PAGE, -ret);
	if (!ret && range.done != range.addr + range.length)
		lost(thread, "success, but only a part is done");
	for (i = 0; i < TEST_HMM_MIGRATE_FATES; i++)
		shared->pages[i] += range.pages[i];
	shared->pages[i] += range.skipped;
	thread->arrived = range.pages[TEST_HMM_MIGRATE_MOVED] +
			  range.pages[TEST_HMM_MIGRATE_FILLED];
	shared->asked += (range.done - range.addr) / PAGE;
	return ret;
}

static unsigned int size_flag(uint64_t random)
{
	static const unsigned int flags[] = {
		0, TEST_HMM_MIGRATE_HUGE, TEST_HMM_MIGRATE_LARGE, TEST_HMM_MIGRATE_LARGE
	};

	return flags[random % 4];
}

static unsigned int range_flag(uint64_t random)
{
	return (random & 1 ? TEST_HMM_MIGRATE_SKIP_GAPS : 0) |
	       (random & 14 ? 0 : TEST_HMM_MIGRATE_STOP_NO_MEMORY) |
	       (random & 112 ? 0 : TEST_HMM_MIGRATE_STOP_ON_ERROR);
}

static int migrate_drawn(struct thread *thread, const struct draw *draw,
			 unsigned long request, unsigned int flags)
{
	return migrate_part(thread, device_of(thread, draw->random[0]), request,
			    memory_of(thread, draw), draw->npages,
			    flags | size_flag(draw->random[1]), draw->random);
}

static int run_to_device(struct thread *thread, const struct draw *draw)
{
	uint64_t random = draw->random[2];
	unsigned int flags = range_flag(random);

	if (random >> 8 & 1)
		flags |= TEST_HMM_MIGRATE_SKIP_HOLES;
	if (!(random >> 9 & 7))
		flags |= TEST_HMM_MIGRATE_MAKE_ROOM;
	return migrate_drawn(thread, draw, TEST_HMM_MIGRATE_TO_DEVICE, flags);
}

static int run_to_device_bare(struct thread *thread, const struct draw *draw)
{
	unsigned int flags = draw->random[2] & 1 ? TEST_HMM_MIGRATE_SKIP_HOLES : 0;

	return migrate_drawn(thread, draw, TEST_HMM_MIGRATE_TO_DEVICE,
			     flags | TEST_HMM_MIGRATE_BARE);
}

static int run_to_system(struct thread *thread, const struct draw *draw)
{
	return migrate_drawn(thread, draw, TEST_HMM_MIGRATE_TO_SYSTEM,
			     range_flag(draw->random[2]));
}

static int run_to_system_bare(struct thread *thread, const struct draw *draw)
{
	return migrate_drawn(thread, draw, TEST_HMM_MIGRATE_TO_SYSTEM,
			     TEST_HMM_MIGRATE_BARE);
}

static int run_relocate(struct thread *thread, const struct draw *draw)
{
	unsigned int flags = TEST_HMM_MIGRATE_RELOCATE;

	if (draw->random[2] & 128)
		flags |= TEST_HMM_MIGRATE_BARE;
	else
		flags |= range_flag(draw->random[2]);
	return migrate_drawn(thread, draw, TEST_HMM_MIGRATE_TO_DEVICE, flags);
}

static int run_to_node(struct thread *thread, const struct draw *draw)
{
	unsigned int flags = range_flag(draw->random[2]);

	if (draw->random[2] & 256)
		flags |= TEST_HMM_MIGRATE_SKIP_HOLES;
	return migrate_drawn(thread, draw, TEST_HMM_MIGRATE_TO_NODE, flags);
}

static int run_by_engine(struct thread *thread, const struct draw *draw)
{
	static const unsigned long requests[] = {
		TEST_HMM_MIGRATE_TO_DEVICE, TEST_HMM_MIGRATE_TO_DEVICE,
		TEST_HMM_MIGRATE_TO_SYSTEM, TEST_HMM_MIGRATE_TO_NODE,
	};

	return migrate_drawn(thread, draw, requests[draw->random[2] / 256 % 4],
			     TEST_HMM_MIGRATE_ENGINE | range_flag(draw->random[2]));
}

static int run_evict(struct thread *thread, const struct draw *draw)
{
	static const unsigned int ways[] = {
		0, TEST_HMM_MIGRATE_EVICT_BARE, TEST_HMM_MIGRATE_EVICT_ENGINE, 0,
	};
	struct test_hmm_migrate_evict argument;

	return evict_by(device_of(thread, draw->random[0]), ways[draw->random[1] / 2 % 4] |
			(draw->random[1] & 1 ? TEST_HMM_MIGRATE_SCATTERED : 0), &argument);
}

/* Compare my words in thread->buffer, which has read contents. */
static void compare_buffer(struct thread *thread, const struct draw *draw,
			   unsigned long npages, const char *by)
{
	unsigned long i;

	for (i = 0; i < npages; i++)
		compare_page(thread, area_of(thread, draw), draw->first + i,
			     (uint64_t *)(thread->buffer + i * PAGE), by);
}

static int run_device_read(struct thread *thread, const struct draw *draw)
{
	struct test_hmm_migrate_access *access = &thread->result->access;
	int ret;

	lock_blocks(thread, draw, false);
	ret = access_memory(device_of(thread, draw->random[0]),
			    TEST_HMM_MIGRATE_READ, memory_of(thread, draw),
			    draw->npages * PAGE, thread->buffer, access);
	compare_buffer(thread, draw, access->done / PAGE, "a device");
	unlock_blocks(thread, draw);
	return ret;
}

/* Write one of my words in each of some pages. */
static int run_device_write_words(struct thread *thread, const struct draw *draw)
{
	unsigned long page, end = draw->first + draw->npages, word;
	struct area *area = area_of(thread, draw);
	struct test_hmm_migrate_access *access = &thread->result->access;
	uint64_t value;
	int ret = 0;

	word = draw->random[1] % (WORDS / THREADS) * THREADS + thread->index;
	lock_blocks(thread, draw, false);
	for (page = draw->first; !ret && page < end; page += 1 + draw->npages / 8) {
		value = draw->random[2] + page;
		ret = access_memory(device_of(thread, draw->random[0]),
				    TEST_HMM_MIGRATE_WRITE,
				    area->memory + page * PAGE + word * sizeof(value),
				    sizeof(value), &value, access);
		if (access->done)
			area->shadow[page * WORDS + word] = value;
	}
	unlock_blocks(thread, draw);
	return ret;
}

/* Write all of the range, including words of other threads. */
static int run_device_write(struct thread *thread, const struct draw *draw)
{
	struct area *area = area_of(thread, draw);
	struct test_hmm_migrate_access *access = &thread->result->access;
	uint64_t *words = (uint64_t *)thread->buffer;
	unsigned long i;
	int ret;

	for (i = 0; i < draw->npages * WORDS; i++)
		words[i] = draw->random[1] + i * 3;
	lock_blocks(thread, draw, true);
	check_before(thread, draw);
	ret = access_memory(device_of(thread, draw->random[0]),
			    TEST_HMM_MIGRATE_WRITE, memory_of(thread, draw),
			    draw->npages * PAGE, words, access);
	memcpy(area->shadow + draw->first * WORDS, words, access->done);
	unlock_blocks(thread, draw);
	return ret;
}

static int run_write(struct thread *thread, const struct draw *draw)
{
	lock_blocks(thread, draw, false);
	write_range(thread, draw, draw->npages <= 64);
	unlock_blocks(thread, draw);
	return 0;
}

static int run_snapshot(struct thread *thread, const struct draw *draw)
{
	struct test_hmm_migrate_page *pages = (void *)thread->buffer;
	unsigned long i;
	int ret;

	ret = snapshot(device_of(thread, draw->random[0]), memory_of(thread, draw),
		       draw->npages, pages);
	for (i = 0; !ret && i < draw->npages; i++)
		if (pages[i].where > TEST_HMM_MIGRATE_EXCLUSIVE ||
		    pages[i].folio_order > TEST_HMM_MIGRATE_MAX_ORDER + 1)
			lost(thread, "page %lu of a snapshot makes no sense", i);
	return ret;
}

static int run_take(struct thread *thread, const struct draw *draw)
{
	unsigned long npages = draw->npages > 64 ? 64 : draw->npages;
	long taken;

	lock_blocks(thread, draw, false);
	taken = take(device_of(thread, draw->random[0]), memory_of(thread, draw),
		     npages);
	unlock_blocks(thread, draw);
	return taken < 0 ? taken : 0;
}

static int run_hold(struct thread *thread, const struct draw *draw)
{
	struct test_hmm_migrate_hold hold = {
		.size = sizeof(hold),
		.flags = draw->random[2] & 1 ? TEST_HMM_MIGRATE_HOLD_MIGRATION : 0,
		.addr = (uintptr_t)memory_of(thread, draw),
		.length = draw->npages * PAGE,
		.usec = draw->random[1] % 2000,
	};

	return device_ioctl(device_of(thread, draw->random[0]),
			    TEST_HMM_MIGRATE_HOLD, &hold);
}

static int run_cancel(struct thread *thread, const struct draw *draw)
{
	struct test_hmm_migrate_cancel cancel = { .size = sizeof(cancel) };

	return device_ioctl(device_of(thread, draw->random[0]),
			    TEST_HMM_MIGRATE_CANCEL, &cancel);
}

static int run_fault_order(struct thread *thread, const struct draw *draw)
{
	static const unsigned char orders[] = {
		0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9, 9,
	};
	struct test_hmm_migrate_fault_order argument = {
		.size = sizeof(argument),
		.order = orders[draw->random[2] % 16],
		.stay_usec = draw->random[2] / 16 % 4 ? 0 : draw->random[2] / 64 % 5000,
	};

	if (draw->random[1] & 1) {
		argument.flags = TEST_HMM_MIGRATE_FAULT_BARE;
	} else {
		argument.flags = draw->random[1] & 2 ? TEST_HMM_MIGRATE_FAULT_ENGINE : 0;
		argument.window_order = draw->random[1] & 4 ? draw->random[1] / 8 % 11 : 0;
	}
	return device_ioctl(device_of(thread, draw->random[0]),
			    TEST_HMM_MIGRATE_FAULT_ORDER, &argument);
}

/* Inject failures of the device, for any later operation. */
static int run_inject(struct thread *thread, const struct draw *draw)
{
	return inject_order(device_of(thread, draw->random[0]),
			    draw->random[1] % TEST_HMM_MIGRATE_NR_FAIL,
			    draw->random[1] & 256 ? draw->random[1] / 512 % 10 : 0,
			    1 + draw->random[2] % 16, 1 + draw->random[3] % 8);
}

/* Open another file of the device, and close it. */
static int run_reopen(struct thread *thread, const struct draw *draw)
{
	int fd = open_device(draw->random[0] % 2), ret;

	if (fd < 0)
		return -errno;
	ret = migrate_part(thread, fd, TEST_HMM_MIGRATE_TO_DEVICE,
			   memory_of(thread, draw), draw->npages,
			   size_flag(draw->random[1]), draw->random);
	close(fd);
	return ret;
}

/* fork(): the child sees the contents as of the fork, and its writes are private. */

/* The shadow is shared, so copy it for the child before it changes. */
static void copy_shadow(struct thread *thread, const struct draw *draw)
{
	memcpy(thread->buffer + draw->first * PAGE,
	       area_of(thread, draw)->shadow + draw->first * WORDS,
	       draw->npages * PAGE);
}

static void child_write(struct thread *thread, const struct draw *draw, int fd)
{
	struct draw other = *draw;

	other.random[0] = ~draw->random[0];
	write_range(thread, &other, true);
	migrate_part(thread, fd, TEST_HMM_MIGRATE_TO_SYSTEM, memory_of(thread, draw),
		     draw->npages, size_flag(draw->random[2]), draw->random);
	check_range(thread, draw, 1);
}

static __noreturn void
child_of_fork(struct thread *thread, const struct draw *draw, bool forever)
{
	struct area *area = area_of(thread, draw);
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	thread->alone = true;
	thread->armed = false;
	area->shadow = (uint64_t *)thread->buffer;
	/* Shared memory may still change. */
	if (area->kind != AREA_SHARED)
		check_range(thread, draw, 1);
	fd = open_device(draw->random[0] % 2);
	do {
		if (fd >= 0)
			migrate_part(thread, fd, TEST_HMM_MIGRATE_TO_DEVICE,
				     memory_of(thread, draw), draw->npages,
				     size_flag(draw->random[1]), draw->random);
		if (fd >= 0 && area->kind != AREA_SHARED)
			child_write(thread, draw, fd);
	} while (forever);
	_exit(0);
}

static int run_fork(struct thread *thread, const struct draw *draw)
{
	int status = 0;
	pid_t pid;

	/*
	 * My words do not change meanwhile, and no other thread hides the range from
	 * children.
	 */
	lock_blocks(thread, draw, false);
	copy_shadow(thread, draw);
	pid = fork();
	if (!pid)
		child_of_fork(thread, draw, false);
	if (pid > 0)
		check_range(thread, draw, 1);
	unlock_blocks(thread, draw);
	if (pid < 0)
		return -errno;
	disarm_thread(thread);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			lost(thread, "waitpid: %m");
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		lost(thread, "a child ended with %#x", status);
	return 0;
}

static int run_kill(struct thread *thread, const struct draw *draw)
{
	int status = 0;
	pid_t pid;

	lock_blocks(thread, draw, false);
	copy_shadow(thread, draw);
	pid = fork();
	if (!pid)
		child_of_fork(thread, draw, true);
	unlock_blocks(thread, draw);
	if (pid < 0)
		return -errno;
	disarm_thread(thread);
	usleep(draw->random[3] % 20000);
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			lost(thread, "waitpid: %m");
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		lost(thread, "a child that was to be killed ended with %#x", status);
	return 0;
}

/* Operations that discard contents */

static int run_munmap(struct thread *thread, const struct draw *draw)
{
	struct area *area = area_of(thread, draw);
	int ret;

	lock_blocks(thread, draw, true);
	check_before(thread, draw);
	ret = result(munmap(memory_of(thread, draw), draw->npages * PAGE));
	if (!ret) {
		if (draw->random[1] & 1)
			migrate_drawn(thread, draw, TEST_HMM_MIGRATE_TO_DEVICE, 0);
		insist_on_mapping(thread, draw);
	}
	disarm_thread(thread);
	/* The file still has the contents of shared memory. */
	if (ret || area->kind == AREA_SHARED)
		check_alone(thread, draw);
	else
		resolve_range(thread, draw, true);
	unlock_blocks(thread, draw);
	return ret;
}

static int advise(struct thread *thread, const struct draw *draw, int advice)
{
	return result(madvise(memory_of(thread, draw), draw->npages * PAGE, advice));
}

static int run_dontneed(struct thread *thread, const struct draw *draw)
{
	struct area *area = area_of(thread, draw);
	int ret;

	lock_blocks(thread, draw, true);
	check_before(thread, draw);
	ret = advise(thread, draw, draw->random[1] & 1 ? MADV_DONTNEED :
						       MADV_DONTNEED_LOCKED);
	disarm_thread(thread);
	if (area->kind == AREA_SHARED)
		check_alone(thread, draw);
	else
		resolve_range(thread, draw, !ret);
	unlock_blocks(thread, draw);
	return ret;
}

static int run_free(struct thread *thread, const struct draw *draw)
{
	int ret;

	lock_blocks(thread, draw, true);
	check_before(thread, draw);
	ret = advise(thread, draw, MADV_FREE);
	if (!ret && draw->random[2] & 1)
		migrate_drawn(thread, draw, TEST_HMM_MIGRATE_TO_DEVICE, 0);
	disarm_thread(thread);
	/* It works only for anonymous memory. */
	if (is_anonymous(area_of(thread, draw)))
		resolve_range(thread, draw, false);
	else
		check_alone(thread, draw);
	unlock_blocks(thread, draw);
	return ret;
}

static int run_remove(struct thread *thread, const struct draw *drawn)
{
	struct draw draw = *drawn;
	int ret;

	draw.area = AREA_SHARED;
	lock_blocks(thread, &draw, true);
	check_before(thread, &draw);
	ret = advise(thread, &draw, MADV_REMOVE);
	resolve_range(thread, &draw, !ret);
	unlock_blocks(thread, &draw);
	return ret;
}

/* Move away and back; at the other address, check all of it, and migrate it. */
static int run_mremap(struct thread *thread, const struct draw *draw)
{
	struct area *area = area_of(thread, draw), moved = *area;
	size_t size = draw->npages * PAGE;
	void *memory = memory_of(thread, draw), *there;
	unsigned long stride = 1;
	unsigned int tries = 0;
	int ret = 0;

	there = thread->scratch + (draw->random[1] & 1 ? draw->first * PAGE : 0);
	lock_blocks(thread, draw, true);
	if (mremap(memory, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, there) != there) {
		ret = -errno;
		/* It may have unmapped the target, but nothing else. */
		check_range(thread, draw, 1);
		goto out;
	}
	if (draw->random[2] & 1)
		migrate_part(thread, device_of(thread, draw->random[0]),
			     TEST_HMM_MIGRATE_TO_DEVICE, there, draw->npages,
			     size_flag(draw->random[1]), draw->random);
	moved.memory = (unsigned char *)there - draw->first * PAGE;
	with_sigbus(thread, check_by_cpu, draw, &moved, &stride);
	disarm_thread(thread);
	while (mremap(there, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, memory) !=
	       memory) {
		if (++tries > 1000)
			lost(thread, "cannot move memory back: %m");
		usleep(1000);
	}
	register_userfault(thread->process, area, draw->first, draw->npages);
	check_range(thread, draw, 1);
out:
	disarm_thread(thread);
	mmap(there, size, PROT_NONE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	unlock_blocks(thread, draw);
	return ret;
}

static void insist_on_access(struct thread *thread, const struct draw *draw)
{
	unsigned int tries = 0;

	disarm_thread(thread);
	while (mprotect(memory_of(thread, draw), draw->npages * PAGE,
			PROT_READ | PROT_WRITE)) {
		if (++tries > 1000)
			lost(thread, "cannot make memory writable again: %m");
		usleep(1000);
	}
}

static int run_mprotect(struct thread *thread, const struct draw *draw)
{
	int protection = draw->random[1] & 1 ? PROT_READ : PROT_NONE;
	struct test_hmm_migrate_access *access = &thread->result->access;
	int ret, wrote;

	lock_blocks(thread, draw, true);
	ret = result(mprotect(memory_of(thread, draw), draw->npages * PAGE,
			      protection));
	if (!ret && draw->random[1] & 2)
		migrate_drawn(thread, draw, TEST_HMM_MIGRATE_TO_DEVICE, 0);
	if (!ret && draw->random[1] & 4) {
		wrote = access_memory(device_of(thread, draw->random[0]),
				      TEST_HMM_MIGRATE_WRITE, memory_of(thread, draw),
				      PAGE, thread->buffer, access);
		if (!wrote || access->done)
			lost(thread, "a device has written to read-only memory");
	}
	insist_on_access(thread, draw);
	check_range(thread, draw, 1);
	unlock_blocks(thread, draw);
	return ret;
}

/* Operations that move memory, or change how it is kept */

/* Advise all of the area, so that its mapping does not end up in vmas of single pages. */
static int advise_area(struct thread *thread, const struct draw *draw, int advice)
{
	return result(madvise(area_of(thread, draw)->memory, AREA_PAGES * PAGE, advice));
}

static int run_mlock(struct thread *thread, const struct draw *draw)
{
	void *memory = memory_of(thread, draw);
	size_t size = draw->npages * PAGE;

	if (draw->random[1] & 1)
		return result(munlock(area_of(thread, draw)->memory, AREA_PAGES * PAGE));
	if (draw->random[1] & 2)
		return result(mlock2(memory, size, MLOCK_ONFAULT));
	return result(mlock(memory, size));
}

static int run_pageout(struct thread *thread, const struct draw *draw)
{
	return advise(thread, draw, MADV_PAGEOUT);
}

static int run_cold(struct thread *thread, const struct draw *draw)
{
	return advise(thread, draw, MADV_COLD);
}

static int run_populate(struct thread *thread, const struct draw *draw)
{
	return advise(thread, draw, draw->random[1] & 1 ? MADV_POPULATE_READ :
							MADV_POPULATE_WRITE);
}

static int run_collapse(struct thread *thread, const struct draw *drawn)
{
	struct draw draw = *drawn;

	/* Parts of a huge page have no effect. */
	draw.first = 0;
	draw.npages = AREA_PAGES;
	return advise(thread, &draw, MADV_COLLAPSE);
}

static int run_hugepage(struct thread *thread, const struct draw *draw)
{
	if (draw->random[1] & 1)
		return advise_area(thread, draw, MADV_HUGEPAGE);
	return advise(thread, draw, MADV_NOHUGEPAGE);
}

static int run_mergeable(struct thread *thread, const struct draw *draw)
{
	if (draw->random[1] & 1)
		return advise_area(thread, draw, draw->area == AREA_PLAIN ?
				   MADV_MERGEABLE : MADV_UNMERGEABLE);
	return advise(thread, draw, draw->random[1] & 6 ? MADV_MERGEABLE :
							MADV_UNMERGEABLE);
}

static int run_other_advice(struct thread *thread, const struct draw *draw)
{
	static const int kinds[] = {
		MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTDUMP,
	};

	if (draw->random[1] & 1)
		return advise_area(thread, draw, draw->random[1] & 2 ? MADV_NORMAL :
								 MADV_DODUMP);
	return advise(thread, draw, kinds[draw->random[1] / 2 % 4]);
}

/*
 * Set the advice only while the blocks are held exclusively, so that no thread forks
 * and expects the range in the child.
 */
static int run_fork_advice(struct thread *thread, const struct draw *draw)
{
	bool wipe = draw->random[1] & 1;
	unsigned int tries = 0;
	int ret;

	lock_blocks(thread, draw, true);
	ret = advise(thread, draw, wipe ? MADV_WIPEONFORK : MADV_DONTFORK);
	if (draw->random[2] & 1)
		migrate_drawn(thread, draw, TEST_HMM_MIGRATE_TO_DEVICE, 0);
	disarm_thread(thread);
	/* WIPEONFORK is only for private anonymous memory. */
	while (advise(thread, draw, wipe ? MADV_KEEPONFORK : MADV_DOFORK) == -ENOMEM) {
		if (++tries > 1000)
			lost(thread, "cannot reset the advice");
		usleep(1000);
	}
	unlock_blocks(thread, draw);
	return ret;
}

/* A pinned page stays where it is: later writes must be visible through the pin. */
static int run_pin(struct thread *thread, const struct draw *drawn)
{
	struct pin_longterm_test argument = {};
	struct draw draw = *drawn;
	uint64_t to = (uintptr_t)thread->buffer;
	int ret;

	if (thread->gup < 0 || atomic_exchange(&shared->pins, true))
		return NOT_DONE;
	if (draw.npages > 64)
		draw.npages = 64;
	argument.addr = (uintptr_t)memory_of(thread, &draw);
	argument.size = draw.npages * PAGE;
	argument.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE |
		(draw.random[1] & 1 ? PIN_LONGTERM_TEST_FLAG_USE_FAST : 0);
	lock_blocks(thread, &draw, false);
	ret = device_ioctl(thread->gup, PIN_LONGTERM_TEST_START, &argument);
	disarm_thread(thread);
	if (!ret) {
		write_range(thread, &draw, false);
		usleep(draw.random[2] % 4000);
		ret = device_ioctl(thread->gup, PIN_LONGTERM_TEST_READ, &to);
		if (!ret)
			compare_buffer(thread, &draw, draw.npages, "a pin");
		ioctl(thread->gup, PIN_LONGTERM_TEST_STOP);
	}
	shared->pins = false;
	unlock_blocks(thread, &draw);
	return ret;
}

/* A pipe holds references for a while. */
static int run_vmsplice(struct thread *thread, const struct draw *draw)
{
	struct iovec iov = {
		.iov_base = memory_of(thread, draw),
		.iov_len = (draw->npages > 16 ? 16 : draw->npages) * PAGE,
	};
	int fds[2], ret;

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK))
		return -errno;
	ret = result(vmsplice(fds[1], &iov, 1, 0));
	usleep(draw->random[1] % 2000);
	close(fds[0]);
	close(fds[1]);
	return ret;
}

static int run_write_protect(struct thread *thread, const struct draw *draw)
{
	struct uffdio_writeprotect argument = {
		.range = { .start = (uintptr_t)memory_of(thread, draw),
			   .len = draw->npages * PAGE },
		.mode = draw->random[1] & 3 ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	if (thread->process->userfault < 0)
		return NOT_DONE;
	return device_ioctl(thread->process->userfault, UFFDIO_WRITEPROTECT,
			    &argument);
}

/* Lock both blocks in the common order. */
static void lock_two(struct thread *thread, const struct draw *one,
		     const struct draw *two)
{
	bool in_order = one->area < two->area ||
			(one->area == two->area && one->first < two->first);

	lock_blocks(thread, in_order ? one : two, true);
	lock_blocks(thread, in_order ? two : one, true);
}

static void moved_by_userfault(struct thread *thread, const struct draw *from,
			       const struct draw *to, unsigned long npages)
{
	uint64_t *shadow_from = area_of(thread, from)->shadow + from->first * WORDS;
	uint64_t *shadow_to = area_of(thread, to)->shadow + to->first * WORDS;

	memcpy(shadow_to, shadow_from, npages * PAGE);
	memset(shadow_from, 0, npages * PAGE);
}

/* Move from one half of the area to the other. */
static int run_userfault_move(struct thread *thread, const struct draw *drawn)
{
	struct uffdio_move *argument = &thread->result->move;
	struct draw from = *drawn, to;
	int ret;

	if (thread->process->userfault < 0)
		return NOT_DONE;
	from.area %= 2;
	from.first %= AREA_PAGES / 2;
	/*
	 * The range must lie in one vma, and other threads split these, so mostly use
	 * short ranges.
	 */
	if (from.npages > 16 && drawn->random[2] & 3)
		from.npages = 16;
	if (from.npages > AREA_PAGES / 2 - from.first)
		from.npages = AREA_PAGES / 2 - from.first;
	to = from;
	*(drawn->random[1] & 1 ? &to.first : &from.first) += AREA_PAGES / 2;

	lock_two(thread, &from, &to);
	check_before(thread, &to);
	ret = advise(thread, &to, MADV_DONTNEED);
	if (ret) {
		resolve_range(thread, &to, false);
		goto out;
	}
	memset(area_of(thread, &to)->shadow + to.first * WORDS, 0, to.npages * PAGE);
	*argument = (struct uffdio_move) {
		.dst = (uintptr_t)memory_of(thread, &to),
		.src = (uintptr_t)memory_of(thread, &from),
		.len = from.npages * PAGE,
		.mode = UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
	};
	ret = device_ioctl(thread->process->userfault, UFFDIO_MOVE, argument);
	if (!ret)
		argument->move = argument->len;
	if (argument->move > 0)
		moved_by_userfault(thread, &from, &to, argument->move / PAGE);
	check_range(thread, &from, 1);
	check_range(thread, &to, 1);
out:
	disarm_thread(thread);
	unlock_blocks(thread, &from);
	unlock_blocks(thread, &to);
	return ret;
}

/* The system around it */

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = result(write(fd, text, strlen(text)));
	close(fd);
	return ret;
}

/* Set a limit below the memory in use, or none; sometimes reclaim at once. */
static int run_memcg(struct thread *thread, const struct draw *draw)
{
	static const char * const limits[] = { "32M", "48M", "max", "max" };
	char text[32];

	if (draw->random[1] & 7)
		return write_text(CGROUP "memory.high", limits[draw->random[2] % 4]);
	snprintf(text, sizeof(text), "%lluK",
		 16 + (unsigned long long)draw->random[2] % 512);
	return write_text(CGROUP "memory.reclaim", text);
}

static int run_settings(struct thread *thread, const struct draw *draw)
{
	static const char * const sizes[] = {
		"16", "32", "64", "128", "256", "512", "1024", "2048",
	};
	static const char * const choices[] = {
		"always", "madvise", "never", "inherit",
	};
	static const char * const naps[] = { "0", "0", "20", "10000" };
	char path[128];

	switch (draw->random[1] % 5) {
	case 0:
		return write_text(THP "enabled", choices[draw->random[2] % 3]);
	case 4:
		/* Mostly migrate by ranges. */
		return write_text(RANGES, draw->random[2] % 4 ? "1" : "0");
	case 1:
		return write_text(THP "khugepaged/scan_sleep_millisecs",
				  naps[draw->random[2] % 4]);
	default:
		snprintf(path, sizeof(path), THP "hugepages-%skB/enabled",
			 sizes[draw->random[2] % 8]);
		return write_text(path, choices[draw->random[3] % 4]);
	}
}

static int run_hotplug(struct thread *thread, const struct draw *draw)
{
	static const char path[] = "/sys/devices/system/cpu/cpu%d/online";
	unsigned int nobody = 0;
	char name[64];
	int ret;

	/*
	 * A CPU that does not come up for lack of memory is not our bug, and prints a
	 * warning.
	 */
	disarm_thread(thread);
	if (get_nprocs_conf() < 2 ||
	    !atomic_compare_exchange_strong(&shared->hotplug, &nobody,
					    1 + thread->process->index))
		return NOT_DONE;
	snprintf(name, sizeof(name), path, get_nprocs_conf() - 1);
	ret = write_text(name, draw->random[1] & 1 ? "1" : "0");
	shared->hotplug = 0;
	/* The CPU is already in that state. */
	return ret == -EINVAL ? NOT_DONE : ret;
}

static int run_move_pages(struct thread *thread, const struct draw *draw)
{
	unsigned long count = draw->npages > 64 ? 64 : draw->npages, i;
	int nodes[64], status[64];
	void *pages[64];

	for (i = 0; i < count; i++) {
		pages[i] = memory_of(thread, draw) + i * PAGE;
		nodes[i] = draw->random[1] % 2;
	}
	return result(syscall(__NR_move_pages, 0, count, pages, nodes, status,
			      MPOL_MF_MOVE));
}

/*
 * Move by a policy, and reset the policy, so that vmas do not stay split. The policy
 * must allow memory of both nodes; otherwise another thread's fault in the range
 * could run out of memory.
 */
static int run_mbind(struct thread *thread, const struct draw *draw)
{
	unsigned int flags = draw->random[2] & 1 ? MPOL_MF_MOVE : MPOL_MF_MOVE_ALL;
	unsigned long mask = 1UL << (draw->random[2] >> 1 & 1), both = 3;
	static const int modes[] = {
		MPOL_PREFERRED, MPOL_PREFERRED, MPOL_PREFERRED_MANY, MPOL_INTERLEAVE,
		MPOL_LOCAL, MPOL_BIND, MPOL_DEFAULT, MPOL_PREFERRED,
	};
	int mode = modes[draw->random[1] % ARRAY_SIZE(modes)], ret;
	unsigned long length = draw->npages * PAGE;
	void *memory = memory_of(thread, draw);

	if (draw->random[2] & 4)
		flags |= MPOL_MF_STRICT;
	if (mode == MPOL_INTERLEAVE || mode == MPOL_BIND)
		mask = both;
	if (mode == MPOL_LOCAL || mode == MPOL_DEFAULT)
		mask = 0;
	ret = result(syscall(__NR_mbind, memory, length, mode, mask ? &mask : NULL,
			     mask ? 8 * sizeof(mask) : 0, flags));
	syscall(__NR_mbind, memory, length, MPOL_DEFAULT, NULL, 0, 0);
	return ret;
}

/* Migrate all memory of this process. A positive result is the number of pages left. */
static int run_migrate_pages(struct thread *thread, const struct draw *draw)
{
	unsigned long from = 1UL << (draw->random[1] & 1), to = 3 & ~from;

	return result(syscall(__NR_migrate_pages, 0, 8 * sizeof(from), &from, &to) < 0 ? -1 : 0);
}

/* Operations that walk all memory. */
static int run_everywhere(const struct draw *draw)
{
	static const char * const files[] = {
		"/proc/sys/vm/drop_caches",
		"/sys/devices/system/node/node0/compact",
		"/sys/devices/system/node/node1/compact",
	};
	unsigned int which = draw->random[2] % 3;

	return write_text(files[which], which ? "1" : "3");
}

/* Read files of /proc, and write to some. */
static int run_proc(struct thread *thread, const struct draw *draw)
{
	static const char * const files[] = {
		"/proc/self/smaps", "/proc/self/numa_maps",
		"/proc/self/smaps_rollup", "/proc/self/clear_refs",
		"/proc/self/pagemap", "/proc/sys/vm/stat_refresh",
	};
	unsigned int which = draw->random[1] % 6;
	off_t offset = (uintptr_t)memory_of(thread, draw) / PAGE * 8;
	int fd, ret = 0;

	if (!(draw->random[3] & 7))
		return run_everywhere(draw);
	if (which == 3)
		return write_text(files[which], draw->random[2] & 1 ?
						CLEAR_SOFT_DIRTY : CLEAR_REFERENCED);
	fd = open(files[which], O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (which == 4)
		ret = result(pread(fd, thread->buffer, draw->npages * 8, offset));
	else
		while ((ret = read(fd, thread->buffer, AREA_PAGES * PAGE)) > 0)
			;
	ret = result(ret);
	close(fd);
	return ret;
}

/* Access through the kernel, as ptrace() does. */
static int run_proc_mem(struct thread *thread, const struct draw *draw)
{
	int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	ssize_t done;

	if (fd < 0)
		return -errno;
	lock_blocks(thread, draw, false);
	done = pread(fd, thread->buffer, draw->npages * PAGE,
		     (uintptr_t)memory_of(thread, draw));
	if (done > 0)
		compare_buffer(thread, draw, done / PAGE, "/proc/self/mem");
	unlock_blocks(thread, draw);
	close(fd);
	return result(done);
}

/* The list of operations */

/* Errors of a migration that are no loss. */
#define MIGRATE_ERRORS	{ EFAULT, ENOMEM, EIO, ECANCELED, EOPNOTSUPP, EAGAIN, ETIME }

static const struct kind {
	const char *name;
	unsigned int weight;
	int (*run)(struct thread *thread, const struct draw *draw);
	int errors[8];
	const char *needs;
} kinds[] = {
	{ "to_device", 110, run_to_device, MIGRATE_ERRORS },
	{ "to_device_bare", 80, run_to_device_bare, MIGRATE_ERRORS },
	{ "to_system", 60, run_to_system, MIGRATE_ERRORS },
	{ "to_system_bare", 40, run_to_system_bare, MIGRATE_ERRORS },
	{ "relocate", 20, run_relocate, MIGRATE_ERRORS },
	{ "to_node", 40, run_to_node, MIGRATE_ERRORS },
	{ "by_engine", 20, run_by_engine, MIGRATE_ERRORS },
	{ "reopen", 13, run_reopen, MIGRATE_ERRORS },
	{ "evict", 12, run_evict, { ENOMEM, EINTR } },
	{ "device_read", 50, run_device_read, { EFAULT, EBUSY } },
	{ "device_write", 30, run_device_write, { EFAULT, EBUSY } },
	{ "device_write_words", 40, run_device_write_words, { EFAULT, EBUSY } },
	{ "write", 70, run_write },
	{ "snapshot", 15, run_snapshot, { EBUSY, EFAULT } },
	{ "take", 15, run_take, { EFAULT, EBUSY, ENOMEM } },
	{ "hold", 13, run_hold, { EFAULT, EOPNOTSUPP } },
	{ "cancel", 13, run_cancel },
	{ "fault_order", 13, run_fault_order },
	{ "inject", 30, run_inject },
	{ "fork", 12, run_fork, { EAGAIN } },
	{ "kill", 12, run_kill, { EAGAIN } },
	{ "munmap", 20, run_munmap },
	{ "dontneed", 20, run_dontneed, { EINVAL } },
	{ "free", 20, run_free, { EINVAL } },
	{ "remove", 13, run_remove, { EINVAL } },
	{ "mremap", 20, run_mremap, { EFAULT } },
	{ "mprotect", 25, run_mprotect },
	{ "mlock", 15, run_mlock, { EAGAIN } },
	{ "pageout", 25, run_pageout, { EINVAL } },
	{ "cold", 13, run_cold, { EINVAL } },
	{ "populate", 15, run_populate, { EFAULT, EINVAL } },
	{ "collapse", 15, run_collapse, { EINVAL, EBUSY, EAGAIN, ENOMEM } },
	{ "hugepage", 13, run_hugepage },
	{ "mergeable", 13, run_mergeable },
	{ "other_advice", 13, run_other_advice, { EBADF } },
	{ "fork_advice", 13, run_fork_advice, { EINVAL } },
	{ "pin", 20, run_pin, { EFAULT, EBUSY }, GUP_TEST },
	{ "vmsplice", 13, run_vmsplice, { EFAULT, EAGAIN } },
	{ "write_protect", 20, run_write_protect, { ENOENT, EAGAIN },
	  "/dev/userfaultfd" },
	{ "userfault_move", 15, run_userfault_move,
	  { ENOENT, EAGAIN, EBUSY, EINVAL, EEXIST, EFAULT }, "/dev/userfaultfd" },
	{ "memcg", 12, run_memcg, { EAGAIN } },
	{ "settings", 13, run_settings },
	{ "hotplug", 12, run_hotplug, { EBUSY }, "/sys/devices/system/cpu/cpu1/online" },
	{ "move_pages", 13, run_move_pages, { EFAULT, ENOENT } },
	{ "mbind", 30, run_mbind, { EFAULT, EIO, ENOMEM } },
	{ "migrate_pages", 12, run_migrate_pages, { ENOMEM } },
	{ "proc", 12, run_proc, { EINVAL } },
	{ "proc_mem", 15, run_proc_mem, { EFAULT, EIO } },
};

#define NR_KINDS	ARRAY_SIZE(kinds)

static const char *kind_name(unsigned int kind)
{
	return kinds[kind].name;
}

static unsigned int weights[NR_KINDS], total_weight;

static bool is_chosen(const char *chosen, const char *name)
{
	size_t length = strlen(name);

	for (; *chosen; chosen += strspn(chosen, " ")) {
		if (strcspn(chosen, " ") == length && !strncmp(chosen, name, length))
			return true;
		chosen += strcspn(chosen, " ");
	}
	return false;
}

/*
 * Enable all operations that the system supports, or those named in the environment,
 * to find the one that causes a loss. Returns whether all named operations are
 * enabled.
 */
static bool set_weights(void)
{
	const char *chosen = getenv("HMM_MIGRATE_KINDS"), *name;
	unsigned int kind, named = 0, found = 0;

	for (name = chosen; name && *name; name += strcspn(name, " ")) {
		name += strspn(name, " ");
		named += !!*name;
	}
	total_weight = 0;
	for (kind = 0; kind < NR_KINDS; kind++) {
		weights[kind] = kinds[kind].weight;
		if (chosen && !is_chosen(chosen, kinds[kind].name))
			weights[kind] = 0;
		if (kinds[kind].needs && access(kinds[kind].needs, F_OK))
			weights[kind] = 0;
		found += !!weights[kind];
		total_weight += weights[kind];
	}
	return !chosen || (named && found == named);
}

static unsigned int draw_kind(uint64_t *random)
{
	unsigned int kind, ticket = next_random(random) % total_weight;

	for (kind = 0; ticket >= weights[kind]; kind++)
		ticket -= weights[kind];
	return kind;
}

/* Mostly short ranges, sometimes all of an area, which is a huge page. */
static void draw_range(uint64_t *random, struct draw *draw)
{
	static const unsigned long at_most[] = { 1, 1, 2, 2, 4, 4, 16, 32 };
	uint64_t number = next_random(random);

	if (number >> 40 & 255) {
		draw->npages = 1 + number / 256 % at_most[number / 16 % 8];
	} else if (number >> 48 & 1) {
		draw->npages = 1 + number / 256 % AREA_PAGES;
	} else {
		draw->first = 0;
		draw->npages = AREA_PAGES;
		return;
	}
	number = next_random(random);
	draw->first = number % (AREA_PAGES - draw->npages + 1);
	/* Align the range, so that whole folios lie in it. */
	if (number >> 32 & 1) {
		while (draw->npages & (draw->npages - 1))
			draw->npages &= draw->npages - 1;
		draw->first -= draw->first % draw->npages;
	}
}

/* Draw always the same amount of numbers, whatever the operation does with them. */
static void draw_operation(struct thread *thread, struct draw *draw)
{
	/* Prefer the areas that can migrate to devices. */
	static const unsigned char areas[] = {
		AREA_HUGE, AREA_HUGE, AREA_HUGE, AREA_PLAIN, AREA_PLAIN, AREA_PLAIN,
		AREA_FILE, AREA_SHARED,
	};
	uint64_t number;
	unsigned int i;

	draw->kind = draw_kind(&thread->random);
	number = next_random(&thread->random);
	draw->area = areas[number % 8];
	draw->nth = 0;
	/*
	 * Inject a failure for two draws in five, mostly at one of the first
	 * allocations.
	 */
	if (number / 8 % 5 < 2)
		draw->nth = 1 + (number >> 16) % (number >> 8 & 3 ? 12 : 120);
	draw_range(&thread->random, draw);
	for (i = 0; i < 4; i++)
		draw->random[i] = next_random(&thread->random);
	thread->hash = thread->hash * 0x100000001b3ull ^ draw->kind ^
		       draw->random[0] ^ draw->first << 32 ^ draw->npages;
	thread->history[thread->drawn++ % HISTORY] = *draw;
}

static bool is_expected(const struct thread *thread, const struct kind *kind, int error)
{
	unsigned int i;

	/*
	 * Injected failures are lack of memory, which can be returned as several
	 * errors.
	 */
	if (error == ENOMEM)
		return true;
	if (thread->injected && (error == EFAULT || error == EAGAIN || error == ENFILE ||
				 error == ENOENT || error == EBUSY || error == EIO))
		return true;
	for (i = 0; i < 7; i++)
		if (kind->errors[i] && kind->errors[i] == error)
			return true;
	return false;
}

static unsigned long now_usec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void operate(struct thread *thread)
{
	const struct kind *kind;
	unsigned long before;
	struct draw draw;
	int ret;

	draw_operation(thread, &draw);
	kind = &kinds[draw.kind];
	shared->draws[draw.kind]++;
	before = now_usec();
	arm(thread, draw.nth);
	ret = kind->run(thread, &draw);
	disarm_thread(thread);
	shared->usec[draw.kind] += now_usec() - before;
	shared->done[draw.kind] += !ret;
	shared->injected[draw.kind] += thread->injected;
	if (ret < 0 && !is_expected(thread, kind, -ret))
		lost(thread, "%s: %s", kind->name, strerror(-ret));

	/* Plain reads: a few pages of the range, sometimes all of them. */
	lock_blocks(thread, &draw, false);
	check_range(thread, &draw, draw.random[3] & 0xf00 ? draw.npages : 1);
	unlock_blocks(thread, &draw);
}

/* Threads and processes */

static void *run_thread(void *data)
{
	struct thread *thread = data;
	struct process *process = thread->process;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%ld/fail-nth",
		 (long)syscall(__NR_gettid));
	thread->fail_nth = open(path, O_RDWR | O_CLOEXEC);
	while (!process->stop && !shared->failed && thread->remaining) {
		thread->remaining--;
		operate(thread);
	}
	if (thread->fail_nth >= 0)
		close(thread->fail_nth);
	return NULL;
}

/* Unblock writers. Takes no locks, so it always makes progress. */
static void *answer_userfaults(void *data)
{
	struct process *process = data;
	struct uffdio_writeprotect argument = { .range = { .len = PAGE } };
	struct uffd_msg message;

	while (read(process->userfault, &message, sizeof(message)) ==
	       sizeof(message)) {
		if (message.event != UFFD_EVENT_PAGEFAULT)
			continue;
		argument.range.start = message.arg.pagefault.address & ~(PAGE - 1);
		/* If the page is gone or no longer protected, a wakeup is enough. */
		while (ioctl(process->userfault, UFFDIO_WRITEPROTECT, &argument) &&
		       errno == EAGAIN)
			;
		ioctl(process->userfault, UFFDIO_WAKE, &argument.range);
	}
	return NULL;
}

static int open_userfault(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP |
							       UFFD_FEATURE_MOVE };
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void open_devices(struct process *process)
{
	unsigned int i;

	for (i = 0; i < DEVICES; i++)
		process->devices[i] = open_device(i);
}

static void close_devices(struct process *process)
{
	unsigned int i;

	for (i = 0; i < DEVICES; i++)
		if (process->devices[i] >= 0)
			close(process->devices[i]);
}

static bool create_thread(struct thread *thread, struct process *process,
			  unsigned int index, unsigned int generation)
{
	static const char operations[] = "HMM_MIGRATE_OPERATIONS";
	const char *text = getenv(operations);

	thread->process = process;
	thread->index = index;
	thread->random = seed ^ (uint64_t)(process->index + 1) << 32 ^
			 (uint64_t)(index + 1) << 48 ^ (uint64_t)generation << 56;
	thread->remaining = text ? strtoull(text, NULL, 0) : UINT64_MAX;
	thread->gup = open(GUP_TEST, O_RDWR | O_CLOEXEC);
	thread->scratch = reserve(AREA_PAGES * PAGE);
	thread->buffer = map_aside(AREA_PAGES * PAGE);
	thread->result = map_aside(PAGE);
	if (!thread->scratch || !thread->buffer || !thread->result)
		return false;
	thread->nth_text = thread->result + 1;
	return !mlock(thread->result, PAGE);
}

/* Check every word of every area for its owner, while no other thread runs. */
static void check_everything(struct process *process, struct thread *threads)
{
	struct draw draw = { .npages = AREA_PAGES };
	unsigned int i;

	for (draw.area = 0; draw.area < NR_AREAS; draw.area++)
		for (i = 0; i < THREADS; i++)
			check_range(&threads[i], &draw, 1);
}

static long pages_on_devices(int fd, struct area *area)
{
	return pages_at(fd, area->memory, AREA_PAGES, TEST_HMM_MIGRATE_THIS_DEVICE) +
	       pages_at(fd, area->memory, AREA_PAGES, TEST_HMM_MIGRATE_OTHER_DEVICE);
}

/*
 * The pages that the migration reports must be on the device, as no other thread
 * moves them now.
 */
static void put_on_device(struct thread *thread, int fd, struct area *area)
{
	/*
	 * No peers, and the simplest context: pages from another device would not
	 * increase the count.
	 */
	const uint64_t random[4] = { [3] = ~0xffffULL };
	long before, after;

	disarm(fd);
	before = pages_on_devices(fd, area);
	thread->arrived = 0;
	migrate_part(thread, fd, TEST_HMM_MIGRATE_TO_DEVICE, area->memory, AREA_PAGES,
		     TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_SKIP_GAPS, random);
	after = pages_on_devices(fd, area);
	if (before < 0 || after - before != (long)thread->arrived)
		lost(thread, "%lu pages of area %u have arrived, and there were %ld, are %ld",
		     thread->arrived, area->kind, before, after);
	shared->on_devices += after;
}

/*
 * Move memory to the devices, so that the module is unloaded with as much as possible
 * on them.
 */
static void put_on_devices(struct process *process, struct thread *thread)
{
	static uint64_t state;
	unsigned int area;

	/* Until the last process has joined, threads of other processes can evict our pages. */
	shared->joined++;
	while (shared->joined < PROCESSES && !shared->failed)
		usleep(5000);
	for (area = 0; area < NR_AREAS; area++)
		put_on_device(thread, device_of(thread, next_random(&state)),
			      &process->areas[area]);
}

static bool wait_for_phase(unsigned long phase)
{
	while (shared->phase < phase && !shared->failed && !shared->stop)
		usleep(5000);
	return !shared->failed && !shared->stop;
}

static void run_round(struct process *process, struct thread *threads,
		      unsigned long phase)
{
	unsigned int i;

	process->stop = false;
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i].id, NULL, run_thread, &threads[i]))
			lost(&threads[0], "pthread_create: %m");
	wait_for_phase(phase + 1);
	process->stop = true;
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i].id, NULL);
}

static bool create_process(struct process *process, struct thread *threads,
			   unsigned int generation)
{
	pthread_t answering;
	unsigned int i;

	process->userfault = open_userfault();
	for (i = 0; i < NR_AREAS; i++)
		if (!create_area(process, i))
			return false;
	if (process->userfault >= 0 &&
	    pthread_create(&answering, NULL, answer_userfaults, process))
		return false;
	for (i = 0; i < THREADS; i++)
		if (!create_thread(&threads[i], process, i, generation))
			return false;
	return true;
}

/* Run a process until its exit. */
static __noreturn void
run_process(unsigned int index, unsigned int generation, unsigned long phase)
{
	static struct process process;
	static struct thread threads[THREADS];
	unsigned int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGBUS, handle_sigbus);
	process.index = index;
	if (!create_process(&process, threads, generation)) {
		say("# process %u cannot be set up: %m\n", index);
		shared->failed = true;
		_exit(1);
	}
	write_text(CGROUP "cgroup.procs", "0");
	do {
		open_devices(&process);
		check_everything(&process, threads);
		run_round(&process, threads, phase);
		/* The CPU accesses also restore device-exclusive pages. */
		check_everything(&process, threads);
		put_on_devices(&process, &threads[0]);
		close_devices(&process);
		shared->parked++;
		phase += 2;
	} while (wait_for_phase(phase));
	check_everything(&process, threads);
	for (i = 0; i < THREADS; i++)
		shared->hash ^= threads[i].hash * (index * THREADS + i + 1);
	_exit(shared->failed);
}

/* The supervisor */

static pid_t pids[PROCESSES];

static bool start_process(unsigned int index, unsigned int generation,
			  unsigned long phase)
{
	pids[index] = fork();
	if (!pids[index]) {
		setpgid(0, 0);
		run_process(index, generation, phase);
	}
	/* Both parent and child call this, because either may run first. */
	if (pids[index] > 0)
		setpgid(pids[index], pids[index]);
	return pids[index] > 0;
}

/* No process may end before it is told to. */
static bool all_alive(void)
{
	unsigned int i;
	int status;

	for (i = 0; i < PROCESSES; i++) {
		if (waitpid(pids[i], &status, WNOHANG) == 0)
			continue;
		say("# process %u ended with %#x\n", i, status);
		pids[i] = -1;
		shared->failed = true;
	}
	return !shared->failed;
}

static bool wait_until(time_t deadline)
{
	while (time(NULL) < deadline && all_alive())
		usleep(50000);
	return !shared->failed;
}

static bool wait_for_parked(void)
{
	time_t deadline = time(NULL) + PATIENCE;

	while (shared->parked < PROCESSES && all_alive()) {
		if (time(NULL) > deadline) {
			say("# %lu of %u processes have stopped\n", shared->parked,
			    PROCESSES);
			shared->failed = true;
		}
		usleep(10000);
	}
	return !shared->failed;
}

static bool unload(void)
{
	unsigned int tries;

	/* A file may be released shortly after close(). */
	for (tries = 0; tries < 500; tries++) {
		if (!syscall(__NR_delete_module, "test_hmm_migrate", 0))
			return true;
		usleep(20000);
	}
	say("# the module cannot be unloaded: %m\n");
	return false;
}

static bool reload(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	ret = fd < 0 ? fd : syscall(__NR_finit_module, fd, "size_mb=16", 0);
	if (ret)
		say("# the module cannot be loaded again: %m\n");
	close(fd);
	shared->unloaded += !ret;
	return !ret;
}

/* Unload and reload the module with all the memory on the devices. */
static bool unload_and_reload(void)
{
	const char *path = getenv("HMM_MIGRATE_MODULE");

	if (!shared->on_devices) {
		say("# no memory is on the devices\n");
		shared->failed = true;
	} else if (path && !(unload() && reload(path))) {
		shared->failed = true;
	}
	return !shared->failed;
}

/* Kill a process during any operation. */
static bool kill_one(uint64_t *random, unsigned int *generation, unsigned long phase)
{
	unsigned int index = next_random(random) % PROCESSES;
	unsigned int owner = 1 + index;

	/*
	 * Killing it closes its gup_test file, which drops all pins: no other thread
	 * may have pins then.
	 */
	while (all_alive() && atomic_exchange(&shared->pins, true))
		usleep(100);
	if (shared->failed)
		return false;
	/* Its children have the same files, and become our children when it is dead. */
	kill(-pids[index], SIGKILL);
	while (waitpid(-pids[index], NULL, 0) > 0)
		;
	atomic_compare_exchange_strong(&shared->hotplug, &owner, 0);
	shared->pins = false;
	shared->killed++;
	return start_process(index, ++*generation, phase);
}

static bool supervise_round(uint64_t *random, unsigned int *generation,
			    time_t deadline)
{
	unsigned long phase = shared->phase;
	time_t end = time(NULL) + ROUND_SECONDS;

	if (end > deadline)
		end = deadline;
	if (!wait_until(time(NULL) + next_random(random) % ROUND_SECONDS) ||
	    !kill_one(random, generation, phase) || !wait_until(end))
		return false;
	shared->phase = phase + 1;
	if (!wait_for_parked() || !unload_and_reload())
		return false;
	shared->joined = 0;
	shared->parked = 0;
	shared->on_devices = 0;
	if (time(NULL) >= deadline)
		shared->stop = true;
	shared->phase = phase + 2;
	return !shared->stop;
}

static void reap_all(void)
{
	time_t deadline = time(NULL) + PATIENCE;
	unsigned int i;
	int status;

	for (i = 0; i < PROCESSES; i++) {
		while (pids[i] > 0 && !waitpid(pids[i], &status, WNOHANG)) {
			if (time(NULL) > deadline || shared->failed)
				kill(pids[i], SIGKILL);
			usleep(10000);
		}
		if (pids[i] > 0 && (!WIFEXITED(status) || WEXITSTATUS(status))) {
			say("# process %u ended with %#x\n", i, status);
			shared->failed = true;
		}
	}
}

static void tell_kinds(void)
{
	unsigned long draws = 0, injected = 0, done = 0;
	unsigned int kind;

	for (kind = 0; kind < NR_KINDS; kind++) {
		draws += shared->draws[kind];
		done += shared->done[kind];
		injected += shared->injected[kind];
	}
	say("# %-20s %10s %6s %10s %10s %10s\n", "operation", "draws", "%", "done",
	    "injected", "usec");
	for (kind = 0; kind < NR_KINDS; kind++)
		say("# %-20s %10lu %6.2f %10lu %10lu %10lu\n", kinds[kind].name,
		    shared->draws[kind],
		    draws ? 100.0 * shared->draws[kind] / draws : 0.0,
		    shared->done[kind], shared->injected[kind],
		    shared->draws[kind] ? shared->usec[kind] / shared->draws[kind] : 0);
	shared->all_injected = injected;
	say("# operations %lu done %lu injected %lu\n", draws, done, injected);
}

static unsigned int count_never_done(void)
{
	unsigned int kind, count = 0;

	for (kind = 0; kind < NR_KINDS; kind++) {
		if (shared->done[kind] || !weights[kind])
			continue;
		say("# %s was never done\n", kinds[kind].name);
		count++;
	}
	return count;
}

/* Results that every run of sufficient length must have. */
static bool nothing_missing(void)
{
	return shared->pages[TEST_HMM_MIGRATE_MOVED] &&
	       shared->pages[TEST_HMM_MIGRATE_FILLED] && shared->killed &&
	       (shared->unloaded || !getenv("HMM_MIGRATE_MODULE")) &&
	       (shared->all_injected || access("/proc/self/fail-nth", F_OK)) &&
	       !count_never_done();
}

static void tell_pages(void)
{
	static const char * const fates[] = {
		"not selected", "no source", "no destination", "copy failed",
		"refused", "moved", "filled",
	};
	unsigned int fate;

	for (fate = 0; fate < TEST_HMM_MIGRATE_NR_FATES; fate++)
		say("# pages %s %lu\n", fates[fate], shared->pages[fate]);
	say("# pages skipped %lu\n", shared->pages[TEST_HMM_MIGRATE_FATES]);
	say("# pages asked for %lu\n", shared->asked);
	say("# words compared %lu, SIGBUS %lu, processes killed %lu, modules unloaded %lu\n",
	    shared->checked, shared->sigbus, shared->killed, shared->unloaded);
}

/* Numbers that must be as before when all processes are gone */

/**
 * struct balance - a number in the kernel
 * @file: its file
 * @key: the word before it, if the file has several numbers
 * @slack: a difference up to this is no leak
 * @falls: it may fall by any amount, as memory of other processes may be swapped out
 * @free: it is an amount of free memory: only a smaller value is a leak
 * @before: the value before the run
 */
struct balance {
	const char *file;
	const char *key;
	long slack;
	bool falls;
	bool free;
	long before;
};

static struct balance balances[] = {
	{ "/proc/vmstat", "nr_isolated_anon" },
	{ "/proc/vmstat", "nr_isolated_file" },
	/* A few other processes of the system start and end. */
	{ "/proc/vmstat", "nr_anon_pages", 256, true },
	{ "/proc/vmstat", "nr_anon_transparent_hugepages" },
	{ "/proc/vmstat", "nr_shmem", 16, true },
	{ "/proc/vmstat", "nr_mlock", 16 },
	{ "/proc/vmstat", "nr_mapped", 512, true },
	{ "/proc/vmstat", "nr_page_table_pages", 128, true },
	{ THP "hugepages-16kB/stats/nr_anon", NULL },
	{ THP "hugepages-64kB/stats/nr_anon", NULL },
	{ THP "hugepages-256kB/stats/nr_anon", NULL },
	{ THP "hugepages-2048kB/stats/nr_anon", NULL },
	/*
	 * In MiB rather than pages, because KASAN's quarantine and kmemleak's objects
	 * grow.
	 */
	{ "/proc/meminfo", "MemAvailable:", 192 << 10, .free = true },
};

#define NR_BALANCES	ARRAY_SIZE(balances)

static long read_balance(const struct balance *balance)
{
	return balance->key ? read_key(balance->file, balance->key) :
			      read_number(balance->file);
}

/* Fold the per-CPU counters; the kernel warns if a sum is negative. */
static void settle(void)
{
	char byte;
	int fd;

	write_text("/proc/sys/vm/drop_caches", "3");
	write_text("/sys/fs/cgroup/memory.reclaim", "1M");
	fd = open("/proc/sys/vm/stat_refresh", O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, &byte, 1) < 0)
		say("# stat_refresh: %m\n");
	close(fd);
}

static void take_balance(void)
{
	unsigned int i;

	settle();
	for (i = 0; i < NR_BALANCES; i++)
		balances[i].before = read_balance(&balances[i]);
}

static unsigned int count_unbalanced(bool tell)
{
	unsigned int i, count = 0;
	long now, difference;

	settle();
	for (i = 0; i < NR_BALANCES; i++) {
		now = read_balance(&balances[i]);
		difference = now - balances[i].before;
		if (balances[i].free)
			difference = -difference;
		if ((balances[i].free || balances[i].falls) && difference < 0)
			difference = 0;
		/* An unreadable number counts as unbalanced. */
		if (now >= 0 && labs(difference) <= balances[i].slack)
			continue;
		count++;
		if (tell)
			say("# %s %s was %ld and is %ld\n", balances[i].file,
			    balances[i].key ?: "", balances[i].before, now);
	}
	return count;
}

/* No process is in the group any more: pages that are still charged have leaked. */
#define CGROUP_SLACK	(2 << 20)

static bool cgroup_is_empty(void)
{
	long left = 0;
	unsigned int tries;

	for (tries = 0; tries < 50; tries++) {
		write_text(CGROUP "memory.reclaim", "64M");
		left = read_number(CGROUP "memory.current");
		if (left >= 0 && left <= CGROUP_SLACK)
			return true;
		usleep(200000);
	}
	say("# the memory cgroup still has %ld bytes\n", left);
	return false;
}

/* Memory that is freed by RCU or by a work item takes some time. */
static bool is_balanced(void)
{
	unsigned int tries;

	for (tries = 0; tries < 50; tries++) {
		if (!count_unbalanced(false))
			return true;
		usleep(200000);
	}
	return !count_unbalanced(true);
}

static bool devices_are_free(void)
{
	unsigned int i;
	bool all = true;
	long used;
	int fd;

	for (i = 0; i < DEVICES; i++) {
		fd = open_device(i);
		if (fd < 0)
			continue;
		disarm(fd);
		set_fault_order(fd, TEST_HMM_MIGRATE_MAX_ORDER);
		used = device_used(fd, 0);
		if (used)
			say("# device %u: %ld pages are still in use after the run\n",
			    i, used);
		all = all && !used;
		close(fd);
	}
	return all;
}

/* Settings of the system */

static const char * const setting_files[] = {
	THP "enabled",
	THP "hugepages-16kB/enabled",
	THP "hugepages-32kB/enabled",
	THP "hugepages-64kB/enabled",
	THP "hugepages-128kB/enabled",
	THP "hugepages-256kB/enabled",
	THP "hugepages-512kB/enabled",
	THP "hugepages-1024kB/enabled",
	THP "hugepages-2048kB/enabled",
	THP "khugepaged/alloc_sleep_millisecs",
	THP "khugepaged/scan_sleep_millisecs",
	RANGES,
	THP "khugepaged/pages_to_scan",
	KSM "pages_to_scan",
	KSM "sleep_millisecs",
	KSM "run",
	FAULTS "failslab/verbose",
	FAULTS "failslab/ignore-gfp-wait",
	FAULTS "fail_page_alloc/verbose",
	FAULTS "fail_page_alloc/ignore-gfp-wait",
	FAULTS "fail_page_alloc/ignore-gfp-highmem",
	FAULTS "fail_page_alloc/min-order",
};

#define NR_SETTINGS	ARRAY_SIZE(setting_files)

static char settings[NR_SETTINGS][64];

/* Save a number or, from a list of words, the one in brackets. */
static void save_settings(void)
{
	char *text, *end;
	unsigned int i;
	ssize_t length;
	int fd;

	for (i = 0; i < NR_SETTINGS; i++) {
		text = settings[i];
		fd = open(setting_files[i], O_RDONLY | O_CLOEXEC);
		length = fd < 0 ? 0 : read(fd, text, sizeof(settings[i]) - 1);
		text[length < 0 ? 0 : length] = '\0';
		if (fd >= 0)
			close(fd);
		end = strchr(text, ']');
		if (!end || !strchr(text, '['))
			continue;
		*end = '\0';
		text = strchr(text, '[') + 1;
		memmove(settings[i], text, strlen(text) + 1);
	}
}

static void restore_settings(void)
{
	unsigned int i;

	for (i = 0; i < NR_SETTINGS; i++)
		if (*settings[i])
			write_text(setting_files[i], settings[i]);
}

/* Let all allocations fail if a thread's fail-nth selects them, and do not log that. */
static void quiet_faults(void)
{
	write_text(FAULTS "failslab/verbose", "0");
	write_text(FAULTS "failslab/ignore-gfp-wait", "N");
	write_text(FAULTS "fail_page_alloc/verbose", "0");
	write_text(FAULTS "fail_page_alloc/ignore-gfp-wait", "N");
	write_text(FAULTS "fail_page_alloc/ignore-gfp-highmem", "N");
	write_text(FAULTS "fail_page_alloc/min-order", "0");
}

static bool swapped;

/* Swap each of the names on, all with the same priority, or off. */
static unsigned int switch_swap(bool on)
{
	const char *names = getenv("HMM_MIGRATE_SWAP") ?: "";
	unsigned int failed = 0;
	char name[PATH_MAX];
	int length;

	swapped = on;
	while (sscanf(names, " %4095s%n", name, &length) == 1) {
		names += length;
		if (!(on ? swapon(name, SWAP_FLAG_PREFER | 1) : swapoff(name)))
			continue;
		say("# %s cannot be swapped %s: %m\n", name, on ? "on" : "off");
		failed++;
	}
	return failed;
}

static void set_system_up(void)
{
	save_settings();
	quiet_faults();
	write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	mkdir(CGROUP, 0755);
	write_text(KSM "pages_to_scan", "1000");
	write_text(KSM "sleep_millisecs", "20");
	write_text(KSM "run", "1");
	write_text(THP "khugepaged/alloc_sleep_millisecs", "0");
	write_text(THP "khugepaged/scan_sleep_millisecs", "0");
	write_text(THP "khugepaged/pages_to_scan", "4096");
}

static void set_system_down(void)
{
	char name[64];

	snprintf(name, sizeof(name), "/sys/devices/system/cpu/cpu%d/online",
		 get_nprocs_conf() - 1);
	write_text(name, "1");
	write_text(CGROUP "memory.high", "max");
	/* Unmerge all pages. */
	write_text(KSM "run", "2");
	restore_settings();
	rmdir(CGROUP);
}

/* The first missing requirement of the operations, or NULL. */
static const char *what_is_missing(void)
{
	static const struct {
		const char *path;
		const char *name;
	} needs[] = {
		{ "/dev/hmm_migrate0", "devices: load test_hmm_migrate" },
		{ "/sys/module/test_hmm_migrate_dma", "engine: load test_hmm_migrate_dma" },
		{ "/sys/devices/system/node/node1", "second node with memory" },
		{ "/sys/fs/cgroup/cgroup.controllers", "cgroup v2" },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(needs); i++)
		if (access(needs[i].path, F_OK))
			return needs[i].name;
	return NULL;
}

FIXTURE(stress)
{
	time_t seconds;
};

FIXTURE_SETUP(stress)
{
	const char *text;

	page_size = sysconf(_SC_PAGESIZE);
	if (page_size != PAGE)
		SKIP(return, "needs pages of 4 KiB");
	text = what_is_missing();
	if (text)
		SKIP(return, "there is no %s", text);
	text = getenv("HMM_MIGRATE_SECONDS");
	self->seconds = text ? strtol(text, NULL, 0) : 20;
	text = getenv("HMM_MIGRATE_SEED");
	seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)shared);
	ASSERT_TRUE(set_weights());
	set_system_up();
	ASSERT_EQ(0, switch_swap(true));
}

FIXTURE_TEARDOWN(stress)
{
	if (swapped)
		switch_swap(false);
	set_system_down();
}

TEST_F_TIMEOUT(stress, nothing_is_lost, 24 * 3600)
{
	uint64_t random = seed;
	unsigned int generation = 0, i;
	time_t deadline;

	say("# seed %llu\n", (unsigned long long)seed);
	/* Let one-time allocations happen before the numbers are read. */
	ASSERT_TRUE(devices_are_free());
	take_balance();
	deadline = time(NULL) + self->seconds;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (i = 0; i < PROCESSES; i++)
		ASSERT_TRUE(start_process(i, 0, 0));
	while (supervise_round(&random, &generation, deadline))
		;
	reap_all();
	tell_kinds();
	tell_pages();
	say("# draws %#lx\n", shared->hash);
	ASSERT_FALSE(shared->failed);
	write_text(CGROUP "memory.high", "max");
	EXPECT_TRUE(cgroup_is_empty());
	set_system_down();
	EXPECT_TRUE(devices_are_free());
	EXPECT_TRUE(is_balanced());
	EXPECT_EQ(0, switch_swap(false));
	if (self->seconds >= 120 && !getenv("HMM_MIGRATE_KINDS"))
		EXPECT_TRUE(nothing_missing());
}

TEST_HARNESS_MAIN
