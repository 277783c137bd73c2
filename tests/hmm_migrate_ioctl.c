// SPDX-License-Identifier: GPL-2.0
/*
 * The ioctls of lib/test_hmm_migrate.c with wrong arguments. Each must be refused with
 * the error that lib/test_hmm_migrate_uapi.h documents, and must change nothing: not
 * the structure, except for its (out) fields, no byte of memory, not the memory on the
 * device, and it arms no failure. The rules of that header are repeated here as tables,
 * and as a few functions that check one value or one page.
 *
 * Also with random arguments: HMM_MIGRATE_FUZZ of them, from the seed HMM_MIGRATE_SEED.
 *
 * Each test prints how many wrong arguments it has tried. Each test first makes a valid
 * call, which must succeed, so that later calls are refused only for the intended
 * reason.
 *
 * Needs root; for all of the tests also coherent memory, hugetlbfs, and the engine:
 * without the engine, requests for it must return ENODEV.
 */
#define _GNU_SOURCE
#include "hmm_migrate.h"

#include <stddef.h>

#define HAS_MEMORY	"/sys/devices/system/node/has_memory"
/* The order of the folios that fill large holes. */
#define LARGE_ORDER	4

#define NR_HUGEPAGES	"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

#define TWO_MEG		(2UL << 20)
#define MAX_CHUNK	(512 * TWO_MEG)
#define MAX_NODES	1024
/* 64 MiB if pages are small (4 KiB). */
#define MAX_WINDOW_ORDER	14
/* Longer than any call of this program takes, in microseconds. */
#define LONG_ENOUGH	10000000
#define MAX_COMPLAINTS	5
/* No process has memory at or above this address, on any machine. */
#define BEYOND		0x0200000000000000ULL
/* The value of the (out) fields before the call. */
#define GARBAGE		0xa5

/* The commands */

union argument {
	__u32 size;
	/*
	 * The first fields of all structures with a range; others have only some of
	 * them.
	 */
	struct {
		__u32 size;
		__u32 flags;
		__u64 addr;
		__u64 length;
	} any;
	struct test_hmm_migrate_info info;
	struct test_hmm_migrate_range range;
	struct test_hmm_migrate_access access;
	struct test_hmm_migrate_snapshot snapshot;
	struct test_hmm_migrate_evict evict;
	struct test_hmm_migrate_statistics statistics;
	struct test_hmm_migrate_inject inject;
	struct test_hmm_migrate_hold hold;
	struct test_hmm_migrate_fault_order fault_order;
	struct test_hmm_migrate_cancel cancel;
	struct test_hmm_migrate_take take;
};

/**
 * struct command - an ioctl
 * @name: its name
 * @request: its number
 * @size: size of its structure
 * @in: number of bytes of the structure that are not (out)
 * @flags: valid flags of this ioctl, or of another one with the same structure
 * @flagless: it has no flags field
 * @ranged: it takes a range of addresses
 */
struct command {
	const char *name;
	unsigned long request;
	size_t size;
	size_t in;
	__u32 flags;
	bool flagless;
	bool ranged;
};

#define ARGUMENT(_type)		struct test_hmm_migrate_##_type
#define IN(_type, _out)		offsetof(ARGUMENT(_type), _out)
#define NUMBER(_name)		_IOC_NR(TEST_HMM_MIGRATE_##_name)
#define BIT_OF(_name)		(1U << NUMBER(_name))

#define MIGRATE_FLAGS \
	(TEST_HMM_MIGRATE_SKIP_HOLES | TEST_HMM_MIGRATE_HUGE | \
	 TEST_HMM_MIGRATE_RELOCATE | TEST_HMM_MIGRATE_LARGE | \
	 TEST_HMM_MIGRATE_BARE | RANGE_FLAGS)

#define COMMAND(_name, _type, _in, ...)					\
	[NUMBER(_name)] = {						\
		.name = #_name,						\
		.request = TEST_HMM_MIGRATE_##_name,			\
		.size = sizeof(ARGUMENT(_type)),			\
		.in = _in,						\
		__VA_ARGS__						\
	}

static const struct command commands[] = {
	COMMAND(INFO, info, IN(info, device)),
	COMMAND(TO_DEVICE, range, IN(range, pages), .flags = MIGRATE_FLAGS,
		.ranged = true),
	COMMAND(TO_SYSTEM, range, IN(range, pages), .flags = MIGRATE_FLAGS,
		.ranged = true),
	COMMAND(READ, access, IN(access, done), .ranged = true),
	COMMAND(WRITE, access, IN(access, done), .ranged = true),
	COMMAND(SNAPSHOT, snapshot, IN(snapshot, done), .ranged = true),
	COMMAND(EVICT, evict, IN(evict, pages), .flags = TEST_HMM_MIGRATE_SCATTERED |
		TEST_HMM_MIGRATE_EVICT_BARE | TEST_HMM_MIGRATE_EVICT_ENGINE),
	COMMAND(STATISTICS, statistics, IN(statistics, to_device),
		.flags = TEST_HMM_MIGRATE_RESET),
	COMMAND(INJECT, inject, sizeof(ARGUMENT(inject)), .flagless = true),
	COMMAND(HOLD, hold, IN(hold, pages), .flags = TEST_HMM_MIGRATE_HOLD_MIGRATION |
		TEST_HMM_MIGRATE_HOLD_TAKEN, .ranged = true),
	COMMAND(FAULT_ORDER, fault_order, sizeof(ARGUMENT(fault_order)),
		.flags = TEST_HMM_MIGRATE_FAULT_BARE | TEST_HMM_MIGRATE_FAULT_ENGINE),
	COMMAND(TAKE, take, IN(take, pages), .ranged = true),
	COMMAND(TO_NODE, range, IN(range, pages), .flags = MIGRATE_FLAGS,
		.ranged = true),
	COMMAND(CANCEL, cancel, IN(cancel, calls)),
};

#define NR_COMMANDS	ARRAY_SIZE(commands)

#define MIGRATES	(BIT_OF(TO_DEVICE) | BIT_OF(TO_SYSTEM) | BIT_OF(TO_NODE))
#define ACCESSES	(BIT_OF(READ) | BIT_OF(WRITE))
/* These take whole pages. */
#define PAGED		(MIGRATES | BIT_OF(SNAPSHOT) | BIT_OF(HOLD) | BIT_OF(TAKE))

static bool is_one_of(const struct command *command, unsigned int mask)
{
	unsigned int nr = _IOC_NR(command->request);

	return nr < NR_COMMANDS && mask & 1U << nr;
}

/* Whether the known flags in @flags are valid together. */
static bool flags_go_together(const struct command *command, __u32 flags)
{
	if (flags & ~command->flags)
		return false;
	if (is_one_of(command, BIT_OF(HOLD) | BIT_OF(FAULT_ORDER)))
		return flags != command->flags;
	if (is_one_of(command, BIT_OF(EVICT)))
		return !(flags & TEST_HMM_MIGRATE_EVICT_BARE &&
			 flags & TEST_HMM_MIGRATE_EVICT_ENGINE);
	if (!is_one_of(command, MIGRATES))
		return true;
	if (command->request != TEST_HMM_MIGRATE_TO_DEVICE &&
	    flags & (TEST_HMM_MIGRATE_RELOCATE | TEST_HMM_MIGRATE_MAKE_ROOM |
		     TEST_HMM_MIGRATE_PEERS))
		return false;
	if (flags & TEST_HMM_MIGRATE_RELOCATE && flags & TEST_HMM_MIGRATE_PEERS)
		return false;
	/* A migration to a node fills holes, too. */
	if (command->request == TEST_HMM_MIGRATE_TO_SYSTEM &&
	    flags & TEST_HMM_MIGRATE_SKIP_HOLES)
		return false;
	/* Only hmm_migrate_range() can migrate to a node. */
	if (command->request == TEST_HMM_MIGRATE_TO_NODE &&
	    flags & TEST_HMM_MIGRATE_BARE)
		return false;
	return !(flags & TEST_HMM_MIGRATE_BARE && flags & RANGE_FLAGS);
}

/*
 * For calls that do work, try at most two flags at once: with the kernel's debug
 * options such a call takes more than a million instructions.
 */
static bool few_flags(__u32 flags)
{
	flags &= flags - 1;
	return !(flags & (flags - 1));
}

/*
 * Step through the valid combinations of flags, starting after 0, which is always
 * valid. PEERS and NO_WAIT are independent of the other flags, so combine each of
 * them with only one other flag.
 */
static bool next_flags(const struct command *command, __u32 *flags)
{
	const __u32 apart = TEST_HMM_MIGRATE_PEERS | TEST_HMM_MIGRATE_NO_WAIT;

	while (++*flags <= command->flags)
		if (flags_go_together(command, *flags) &&
		    !(*flags & apart && !few_flags(*flags)))
			return true;
	return false;
}

/* The arena */

/*
 * All memory of a test; below, in pages from here on. mmap() without an address never
 * returns this area, so unmapped pages stay unmapped. All of it is filled with seed
 * 1.
 */
static unsigned char *const arena = (void *)(1UL << 36);

#define UNMAPPED	(-1)

enum part {
	/* Memory for the device to access. */
	MEMORY,
	BEHIND,
	READ_ONLY,
	NO_ACCESS,
	/* Memory that is always on the device. */
	RESIDENT,
	/* Memory of the caller, for structures and buffers. */
	STRUCTURE,
	WRITABLE,
	FIXED,
	HIDDEN,
	MIRROR,
	SCRATCH,
};

#define ADDRESSED	40	/* pages, from the first one on, and gaps among them */
#define RESIDENT_END	48
#define ARENA_PAGES	132

static const struct {
	unsigned int first;
	unsigned int npages;
	int protection;
} parts[] = {
	[MEMORY]	= { 4, 16, PROT_READ | PROT_WRITE },
	[BEHIND]	= { 24, 4, PROT_READ | PROT_WRITE },
	[READ_ONLY]	= { 28, 4, PROT_READ },
	[NO_ACCESS]	= { 32, 4, PROT_NONE },
	[RESIDENT]	= { ADDRESSED, RESIDENT_END - ADDRESSED, PROT_READ | PROT_WRITE },
	[STRUCTURE]	= { 52, 2, PROT_READ | PROT_WRITE },
	[WRITABLE]	= { 56, 1, PROT_READ | PROT_WRITE },
	[FIXED]		= { 57, 1, PROT_READ },
	[HIDDEN]	= { 60, 1, PROT_NONE },
	/* Contents of the memory for the device, at the same offsets. */
	[MIRROR]	= { 64, ADDRESSED, PROT_READ | PROT_WRITE },
	[SCRATCH]	= { 112, 16, PROT_READ | PROT_WRITE },
};

static int part_of(unsigned int page)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(parts); i++)
		if (page - parts[i].first < parts[i].npages)
			return i;
	return UNMAPPED;
}

static int protection_of(unsigned int page)
{
	int part = part_of(page);

	return part == UNMAPPED ? UNMAPPED : parts[part].protection;
}

static unsigned char *at(enum part part)
{
	return arena + parts[part].first * page_size;
}

static size_t size_of(enum part part)
{
	return parts[part].npages * page_size;
}

static unsigned char *end_of(enum part part)
{
	return at(part) + size_of(part);
}

/* The page of MIRROR with the contents of @addr. */
static unsigned char *mirror(uint64_t addr)
{
	uint64_t offset = addr - (uintptr_t)arena;

	return at(MIRROR) + (offset < size_of(MIRROR) ? offset : 0);
}

static bool map_arena(void)
{
	size_t size = ARENA_PAGES * page_size;
	unsigned int page, end;

	if (mmap(arena, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		 -1, 0) != arena || madvise(arena, size, MADV_NOHUGEPAGE))
		return false;
	fill(arena, size, 1);
	fill(at(MIRROR), size_of(MIRROR), 1);
	for (page = 0; page < ARENA_PAGES; page = end) {
		void *addr = arena + page * page_size;
		int protection = protection_of(page);

		for (end = page + 1; end < ARENA_PAGES; end++)
			if (part_of(end) != part_of(page))
				break;
		size = (end - page) * page_size;
		if (protection == UNMAPPED ? munmap(addr, size) :
					     mprotect(addr, size, protection))
			return false;
	}
	return true;
}

/* Number of words of a part that have changed. The CPU must be able to read the part. */
static size_t wrong_words(enum part part)
{
	return wrong_part(arena, at(part) - arena, end_of(part) - arena, 1);
}

/* Calls and the checks of their results */

/**
 * struct bench - the state of a test
 * @metadata: of the test harness
 * @fd: the device
 * @engine: whether an engine is available
 * @nodes: has_memory, node by node
 * @node: a node that has memory
 * @policy: the previous policy for folios of LARGE_ORDER
 * @wrong: how many wrong arguments were tried
 * @complaints: how many of them had a wrong result
 */
struct bench {
	struct __test_metadata *metadata;
	int fd;
	bool engine;
	bool nodes[MAX_NODES];
	unsigned int node;
	struct policy policy;
	unsigned long wrong;
	unsigned long complaints;
};

/**
 * struct input - one ioctl call
 * @command: the ioctl
 * @field: the name of the wrong field
 * @value: the value of that field
 * @error: the expected error
 * @came: how many bytes, from the first address on, are done before the error
 * @argument: the structure
 */
struct input {
	const struct command *command;
	const char *field;
	uint64_t value;
	int error;
	uint64_t came;
	union argument argument;
};

/* @more: what is wrong besides the error */
static void complain(struct bench *bench, const struct input *input, int ret,
		     const char *more)
{
	struct __test_metadata *_metadata = bench->metadata;
	const uint64_t *words = (const void *)&input->argument;
	char text[256] = "";
	unsigned int i;

	_metadata->exit_code = KSFT_FAIL;
	if (bench->complaints++ >= MAX_COMPLAINTS)
		return;
	for (i = 0; i < input->command->in / sizeof(*words); i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), " %llx",
			 (unsigned long long)words[i]);
	TH_LOG("%s, %s %#llx: expected %d (%s), got %d (%s)%s%s", input->command->name,
	       input->field, (unsigned long long)input->value, input->error,
	       strerror(-input->error), ret, strerror(-ret), more ? "; wrong: " : "",
	       more ?: "");
	TH_LOG("the structure as 64-bit words:%s", text);
}

/* True if the arguments were refused, so that nothing is written back. */
static bool is_refusal(int error)
{
	return error == -EINVAL || error == -E2BIG || error == -ENOTTY;
}

/* The counts must add up to the pages up to @done, and unknown counts must be zero. */
static const char *wrong_range(const struct input *input,
			       const struct test_hmm_migrate_range *range)
{
	unsigned int i;

	if (range->done != range->addr + input->came)
		return "done";
	if (sum_of(range) != input->came / page_size)
		return "pages";
	for (i = TEST_HMM_MIGRATE_NR_FATES; i < TEST_HMM_MIGRATE_FATES; i++)
		if (range->pages[i])
			return "pages";
	for (i = 0; i < TEST_HMM_MIGRATE_NR_TIMES; i++)
		if (range->time[i] >= TIMEOUT * 1000000000ULL)
			return "time";
	return NULL;
}

/* The name of an (out) field that does not match the progress of the call, or NULL. */
static const char *wrong_out(const struct input *input, const union argument *argument)
{
	uint64_t npages = input->came / page_size;

	switch (input->command->request) {
	case TEST_HMM_MIGRATE_TO_DEVICE:
	case TEST_HMM_MIGRATE_TO_SYSTEM:
	case TEST_HMM_MIGRATE_TO_NODE:
		return wrong_range(input, &argument->range);
	case TEST_HMM_MIGRATE_READ:
	case TEST_HMM_MIGRATE_WRITE:
		if (argument->access.faults > npages + 2)
			return "faults";
		return argument->access.done == input->came ? NULL : "done";
	case TEST_HMM_MIGRATE_SNAPSHOT:
		return argument->snapshot.done == npages ? NULL : "done";
	/* Pages that other tasks have locked are not held or taken. */
	case TEST_HMM_MIGRATE_HOLD:
		return argument->hold.pages <= npages ? NULL : "pages";
	case TEST_HMM_MIGRATE_TAKE:
		return argument->take.pages <= npages ? NULL : "pages";
	case TEST_HMM_MIGRATE_CANCEL:
		return argument->cancel.calls ? "calls" : NULL;
	default:
		return NULL;
	}
}

/* The rules of the header that apply to all fields. */
static void judge(struct bench *bench, const struct input *input,
		  const union argument *after, int ret)
{
	const struct command *command = input->command;
	bool refused = is_refusal(ret);
	const char *field = NULL;

	if (ret != input->error) {
		complain(bench, input, ret, NULL);
		return;
	}
	if (memcmp(after, &input->argument, refused ? command->size : command->in))
		complain(bench, input, ret, "the structure has changed");
	else if (!refused)
		field = wrong_out(input, after);
	if (field)
		complain(bench, input, ret, field);
}

static bool wants_engine(const struct input *input)
{
	__u32 flags = input->argument.any.flags;

	switch (input->command->request) {
	case TEST_HMM_MIGRATE_TO_DEVICE:
	case TEST_HMM_MIGRATE_TO_SYSTEM:
	case TEST_HMM_MIGRATE_TO_NODE:
		return flags & TEST_HMM_MIGRATE_ENGINE;
	case TEST_HMM_MIGRATE_EVICT:
		return flags & TEST_HMM_MIGRATE_EVICT_ENGINE;
	case TEST_HMM_MIGRATE_FAULT_ORDER:
		return flags & TEST_HMM_MIGRATE_FAULT_ENGINE;
	default:
		return false;
	}
}

/* Without an engine, the error comes only when an engine would be needed. */
static bool lacks_engine(const struct bench *bench, const struct input *input)
{
	return !bench->engine && wants_engine(input) &&
	       !is_refusal(input->error) && input->error != -ESRCH;
}

/* Call with the structure at @where. */
static void call_at(struct bench *bench, const struct input *input,
		    unsigned char *where)
{
	size_t size = input->command->size;
	struct input expected = *input;
	union argument after;
	int ret;

	if (lacks_engine(bench, input)) {
		expected.error = -ENODEV;
		expected.came = 0;
	}
	memcpy(where, &input->argument, size);
	ret = device_ioctl(bench->fd, input->command->request, where);
	memcpy(&after, where, size);
	judge(bench, &expected, &after, ret);
}

static void send_at(struct bench *bench, const struct input *input,
		    unsigned char *where)
{
	bench->wrong++;
	call_at(bench, input, where);
}

static void send(struct bench *bench, const struct input *input)
{
	send_at(bench, input, at(STRUCTURE));
}

/* The structure is already at @pointer, or @pointer is invalid: check only the error. */
static void send_pointer(struct bench *bench, const struct input *input,
			 const void *pointer)
{
	int ret = device_ioctl(bench->fd, input->command->request, (void *)pointer);

	bench->wrong++;
	if (ret != input->error)
		complain(bench, input, ret, NULL);
}

/* A valid call for each ioctl, which changes nothing or is easy to undo. */
static struct input right_input(const struct bench *bench,
				const struct command *command)
{
	struct input input = { .command = command, .field = "nothing wrong" };
	union argument *argument = &input.argument;

	memset(argument, GARBAGE, sizeof(*argument));
	memset(argument, 0, command->in);
	argument->size = command->size;
	if (command->ranged) {
		argument->any.addr = (uintptr_t)at(MEMORY);
		argument->any.length = page_size;
		input.came = page_size;
	}

	switch (command->request) {
	case TEST_HMM_MIGRATE_READ:
	case TEST_HMM_MIGRATE_WRITE:
		argument->access.buffer = (uintptr_t)mirror(argument->access.addr);
		break;
	case TEST_HMM_MIGRATE_SNAPSHOT:
		argument->snapshot.buffer = (uintptr_t)at(SCRATCH);
		break;
	case TEST_HMM_MIGRATE_TO_NODE:
		argument->range.node = bench->node;
		break;
	case TEST_HMM_MIGRATE_FAULT_ORDER:
		/* The initial value. */
		argument->fault_order.order = TEST_HMM_MIGRATE_MAX_ORDER;
		break;
	}
	return input;
}

static struct input wrong_input(const struct bench *bench,
				const struct command *command, const char *field,
				int error)
{
	struct input input = right_input(bench, command);

	input.field = field;
	input.error = error;
	input.came = 0;
	return input;
}

/* Migrate back the memory that may be on the device. */
static int bring_back(const struct bench *bench)
{
	struct test_hmm_migrate_range range = {
		.size = sizeof(range),
		.flags = TEST_HMM_MIGRATE_SKIP_GAPS,
		.addr = (uintptr_t)at(MEMORY),
		.length = end_of(NO_ACCESS) - at(MEMORY),
	};

	return device_ioctl(bench->fd, TEST_HMM_MIGRATE_TO_SYSTEM, &range);
}

static int make_resident(const struct bench *bench)
{
	struct test_hmm_migrate_range range;

	return to_device(bench->fd, at(RESIDENT), parts[RESIDENT].npages, &range);
}

/* Undo the effect of a valid call. */
static void undo(const struct bench *bench, const struct command *command)
{
	if (is_one_of(command, BIT_OF(TO_DEVICE)))
		bring_back(bench);
	else if (is_one_of(command, BIT_OF(EVICT)))
		make_resident(bench);
}

/* A valid call must succeed. */
static void control(struct bench *bench, const struct input *input)
{
	call_at(bench, input, at(STRUCTURE));
}

static void control_command(struct bench *bench, const struct command *command)
{
	struct input input = right_input(bench, command);

	control(bench, &input);
	undo(bench, command);
}

/* Checks that nothing has changed */

static void expect_nothing_moved(struct bench *bench)
{
	struct __test_metadata *_metadata = bench->metadata;
	const unsigned long resident = parts[RESIDENT].npages;

	EXPECT_EQ(resident, device_used(bench->fd, resident));
}

static size_t wrong_words_of_all(void)
{
	size_t count = 0;

	mprotect(at(NO_ACCESS), size_of(NO_ACCESS), PROT_READ);
	count += wrong_words(MEMORY) + wrong_words(BEHIND) + wrong_words(READ_ONLY) +
		 wrong_words(NO_ACCESS);
	mprotect(at(NO_ACCESS), size_of(NO_ACCESS), PROT_NONE);
	return count + wrong(at(MIRROR), size_of(MIRROR), 1);
}

/* Migrate to the device and back without any failure. */
static void check_trip(struct bench *bench, void *memory, unsigned long npages,
		       unsigned int fate, unsigned int flags, unsigned int order)
{
	struct __test_metadata *_metadata = bench->metadata;
	struct test_hmm_migrate_range range = {
		.size = sizeof(range),
		.flags = flags,
		.addr = (uintptr_t)memory,
		.length = npages * page_size,
		.hole_order = order,
	};

	EXPECT_EQ(0, device_ioctl(bench->fd, TEST_HMM_MIGRATE_TO_DEVICE, &range));
	EXPECT_EQ(npages, range.pages[fate]);
	range.hole_order = 0;
	EXPECT_EQ(0, device_ioctl(bench->fd, TEST_HMM_MIGRATE_TO_SYSTEM, &range));
	EXPECT_EQ(npages, range.pages[TEST_HMM_MIGRATE_MOVED]);
}

/*
 * No failure may be armed. A failure for large folios would show only in the second
 * trip.
 */
static void check_injections(struct bench *bench)
{
	struct __test_metadata *_metadata = bench->metadata;
	const unsigned int order = LARGE_ORDER;
	void *holes = arena + 64 * (page_size << order);
	struct test_hmm_migrate_statistics stats;
	unsigned int what;

	ASSERT_EQ(holes, mmap(holes, page_size << order, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	ASSERT_EQ(0, madvise(holes, page_size << order, MADV_HUGEPAGE));
	check_trip(bench, at(MEMORY), parts[MEMORY].npages, TEST_HMM_MIGRATE_MOVED, 0, 0);
	check_trip(bench, holes, 1UL << order, TEST_HMM_MIGRATE_FILLED,
		   TEST_HMM_MIGRATE_LARGE, order);
	ASSERT_EQ(0, munmap(holes, page_size << order));
	ASSERT_EQ(0, statistics(bench->fd, 0, &stats));
	for (what = 0; what < TEST_HMM_MIGRATE_NR_FAIL; what++)
		EXPECT_EQ(0, stats.injected[what]);
}

static void check_intact(struct bench *bench)
{
	struct __test_metadata *_metadata = bench->metadata;
	const unsigned long resident = parts[RESIDENT].npages;

	expect_nothing_moved(bench);
	EXPECT_EQ(resident, pages_at(bench->fd, at(RESIDENT), resident,
				     TEST_HMM_MIGRATE_THIS_DEVICE));
	EXPECT_EQ(0, device_wrong_part(bench->fd, arena, at(RESIDENT) - arena,
				       end_of(RESIDENT) - arena, 1));
	EXPECT_EQ(0, wrong_words_of_all());
	check_injections(bench);
	EXPECT_EQ(0, wrong_words_of_all());
}

/* The fixture */

FIXTURE(ioctl)
{
	struct bench bench;
};

FIXTURE_VARIANT(ioctl)
{
	unsigned int device;
	unsigned int kind;
};

FIXTURE_VARIANT_ADD(ioctl, private)
{
	.device = 0,
	.kind = TEST_HMM_MIGRATE_PRIVATE,
};

FIXTURE_VARIANT_ADD(ioctl, coherent)
{
	.device = 2,
	.kind = TEST_HMM_MIGRATE_COHERENT,
};

/*
 * Parse a list such as "0-1,4". Without NUMA the file does not exist, and there is
 * one node.
 */
static void find_nodes(struct bench *bench)
{
	FILE *file = fopen(HAS_MEMORY, "r");
	unsigned int first, last;

	bench->nodes[0] = !file;
	while (file && fscanf(file, "%u", &first) == 1) {
		last = first;
		if (fscanf(file, "-%u", &last) < 0)
			last = first;
		for (; first <= last && first < MAX_NODES; first++) {
			bench->nodes[first] = true;
			bench->node = first;
		}
		if (fgetc(file) != ',')
			break;
	}
	if (file)
		fclose(file);
}

FIXTURE_SETUP(ioctl)
{
	struct bench *bench = &self->bench;
	struct test_hmm_migrate_statistics stats;
	struct test_hmm_migrate_info info;

	page_size = sysconf(_SC_PAGESIZE);
	bench->metadata = _metadata;
	bench->fd = open_device(variant->device);
	if (bench->fd < 0 && variant->device >= 2)
		SKIP(return, "no coherent device, is there Soft Reserved memory?");
	ASSERT_LE(0, bench->fd);
	ASSERT_EQ(0, get_info(bench->fd, &info));
	ASSERT_EQ(variant->kind, info.kind);
	bench->engine = have_engine();
	find_nodes(bench);
	/* The tests that fill large holes need this. */
	set_policy(&bench->policy, LARGE_ORDER, "madvise");
	disarm(bench->fd);
	ASSERT_EQ(0, set_fault_order(bench->fd, TEST_HMM_MIGRATE_MAX_ORDER));
	ASSERT_EQ(0, statistics(bench->fd, TEST_HMM_MIGRATE_RESET, &stats));
	ASSERT_TRUE(map_arena());
	ASSERT_EQ(0, make_resident(bench));
}

FIXTURE_TEARDOWN(ioctl)
{
	struct bench *bench = &self->bench;

	restore_policy(&bench->policy);
	if (bench->fd < 0)
		return;
	disarm(bench->fd);
	munmap(arena, ARENA_PAGES * page_size);
	EXPECT_EQ(0, device_used(bench->fd, 0));
	close(bench->fd);
	EXPECT_EQ(0, bench->complaints);
	/* Print the number, so that a script can add up all tests. */
	if (bench->wrong)
		ksft_print_msg("%lu wrong inputs\n", bench->wrong);
}

/* Boundary values: powers of two and their neighbours, and -1. */

#define NR_EDGES	(3 + 62 * 3 + 1)

static uint64_t edge(unsigned int i)
{
	if (i < 3)
		return i;
	if (i == NR_EDGES - 1)
		return -1;
	i -= 3;
	return (1ULL << (2 + i / 3)) + i % 3 - 1;
}

/* The address of the structure */

static void pointers_to_nothing(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "pointer", -EFAULT);
	uint64_t base, offset;
	unsigned int shift;

	for (shift = 0; shift < 63; shift++) {
		for (offset = 0; offset < 8; offset++) {
			/*
			 * Addresses in the first page, which is never mapped, or kernel
			 * addresses.
			 */
			base = shift < 10 ? 8 * shift : 1ULL << shift;
			if (shift < 10 || base >= BEYOND)
				send_pointer(bench, &input, (void *)(base + offset));
			/* The last of these is -8. */
			base = -(1ULL << shift);
			if (shift >= 3)
				send_pointer(bench, &input, (void *)(base + offset));
		}
	}
	for (offset = 0; offset < page_size; offset += offset < 64 ? 1 : 61) {
		send_pointer(bench, &input, end_of(STRUCTURE) + offset);
		send_pointer(bench, &input, at(HIDDEN) + offset);
	}
}

/* Only the first bytes of the structure are mapped. */
static void pointers_to_a_beginning(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "bytes of it that are mapped",
					 -EFAULT);
	size_t mapped;

	for (mapped = 1; mapped < command->size; mapped++) {
		input.value = mapped;
		memcpy(end_of(STRUCTURE) - mapped, &input.argument, mapped);
		send_pointer(bench, &input, end_of(STRUCTURE) - mapped);
		if (memcmp(end_of(STRUCTURE) - mapped, &input.argument, mapped))
			complain(bench, &input, -EFAULT, "the structure has changed");
	}
	expect_nothing_moved(bench);
}

/*
 * The structure is readable but not writable: the kernel notices only after the call
 * is done.
 */
static void pointers_to_what_is_fixed(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "bytes of it that are writable",
					 -EFAULT);
	size_t writable = 0;

	while (writable < command->size) {
		unsigned char *where = at(FIXED) - writable;

		input.value = writable;
		mprotect(at(FIXED), size_of(FIXED), PROT_READ | PROT_WRITE);
		memcpy(where, &input.argument, command->size);
		mprotect(at(FIXED), size_of(FIXED), PROT_READ);
		send_pointer(bench, &input, where);
		undo(bench, command);
		if (memcmp(where + writable, (void *)&input.argument + writable,
			   command->size - writable))
			complain(bench, &input, -EFAULT, "the read-only part has changed");
		/* An eviction is slow. */
		writable += writable < 4 && !is_one_of(command, BIT_OF(EVICT)) ?
			    1 : command->size / 3;
	}
}

/* Alignment does not matter, for valid and for wrong calls. */
static void misaligned_pointers(struct bench *bench, const struct command *command)
{
	struct input right = right_input(bench, command);
	struct input input = wrong_input(bench, command, "size, misaligned by", -EINVAL);
	unsigned int offset;

	for (offset = 1; offset < 64; offset++) {
		input.value = offset;
		input.argument.size = command->size - 1;
		send_at(bench, &input, at(STRUCTURE) + offset);
		if (offset == 1)
			call_at(bench, &right, at(STRUCTURE) + offset);
	}
	undo(bench, command);
}

TEST_F_TIMEOUT(ioctl, pointers, TIMEOUT)
{
	struct bench *bench = &self->bench;
	unsigned int i;

	for (i = 0; i < NR_COMMANDS; i++) {
		control_command(bench, &commands[i]);
		pointers_to_nothing(bench, &commands[i]);
		pointers_to_a_beginning(bench, &commands[i]);
		pointers_to_what_is_fixed(bench, &commands[i]);
		misaligned_pointers(bench, &commands[i]);
	}
	check_intact(bench);
}

/* The size of the structure */

static void sizes_below(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "size", -EINVAL);
	size_t size;

	for (size = 0; size < command->size; size++) {
		input.value = size;
		input.argument.size = size;
		send(bench, &input);
	}
	expect_nothing_moved(bench);
}

/* Very large sizes, with zeros behind the structure as far as memory is mapped. */
static void sizes_above_a_page(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "size", -E2BIG);
	unsigned int i;

	for (i = 0; i < NR_EDGES + 64; i++) {
		uint64_t size = i < NR_EDGES ? edge(i) : page_size + 2 + i - NR_EDGES;

		if (size <= page_size || size > UINT32_MAX)
			continue;
		input.value = size;
		input.argument.size = size;
		send(bench, &input);
	}
	expect_nothing_moved(bench);
}

/* One nonzero byte at each place of the tail that this kernel does not know. */
static void nonzero_tails(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "last byte of the tail", -E2BIG);
	unsigned char *where = at(STRUCTURE);
	size_t byte;

	for (byte = command->size; byte < page_size; byte++) {
		input.value = byte;
		where[byte] = byte % 255 + 1;
		/* The nonzero byte is the last one. */
		input.field = "last byte of the tail";
		input.argument.size = byte + 1;
		send(bench, &input);
		/* The nonzero byte is surrounded by zeros. */
		input.field = "byte of the tail";
		input.argument.size = page_size;
		if (byte + 1 < page_size && byte % 7 == 0)
			send(bench, &input);
		if (where[byte] != byte % 255 + 1)
			complain(bench, &input, -E2BIG, "the tail has changed");
		where[byte] = 0;
	}
	expect_nothing_moved(bench);
}

/* The structure is mapped, but not all of the tail. */
static void unmapped_tails(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "size", -EFAULT);
	size_t mapped, missing;

	for (mapped = 0; mapped < 64; mapped += 9) {
		unsigned char *where = end_of(STRUCTURE) - command->size - mapped;

		memset(where, 0, command->size + mapped);
		for (missing = 1; missing < page_size / 4;
		     missing += missing < 64 ? 1 : 37) {
			input.value = command->size + mapped + missing;
			input.argument.size = input.value;
			memcpy(where, &input.argument, command->size);
			send_pointer(bench, &input, where);
			if (memcmp(where, &input.argument, command->size))
				complain(bench, &input, -EFAULT,
					 "the structure has changed");
		}
	}
	expect_nothing_moved(bench);
}

/* A structure of a newer program that uses only the fields known here. */
static void zero_tails(struct bench *bench, const struct command *command)
{
	const size_t sizes[] = { command->size + 1, command->size + 8, page_size };
	struct input input = right_input(bench, command);
	unsigned int i;

	input.field = "size with a tail of zeros";
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		input.value = sizes[i];
		input.argument.size = sizes[i];
		control(bench, &input);
	}
	undo(bench, command);
}

TEST_F_TIMEOUT(ioctl, sizes, TIMEOUT)
{
	struct bench *bench = &self->bench;
	unsigned int i;

	for (i = 0; i < NR_COMMANDS; i++) {
		memset(at(STRUCTURE), 0, size_of(STRUCTURE));
		control_command(bench, &commands[i]);
		sizes_below(bench, &commands[i]);
		sizes_above_a_page(bench, &commands[i]);
		nonzero_tails(bench, &commands[i]);
		zero_tails(bench, &commands[i]);
		unmapped_tails(bench, &commands[i]);
	}
	check_intact(bench);
}

/* Flags */

/* Set each undefined bit, with every valid combination of flags. */
static void undefined_flags(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "flags", -EINVAL);
	__u32 flags = 0;
	unsigned int i;

	do {
		for (i = 0; i < 32; i++) {
			if (command->flags & 1U << i)
				continue;
			input.value = flags | 1U << i;
			input.argument.any.flags = input.value;
			send(bench, &input);
		}
	} while (next_flags(command, &flags));
	expect_nothing_moved(bench);
}

/* Try all invalid combinations of defined flags. */
static void combined_flags(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "flags", -EINVAL);
	__u32 flags;

	for (flags = 0; flags <= command->flags; flags++) {
		if (flags_go_together(command, flags))
			continue;
		input.value = flags;
		input.argument.any.flags = flags;
		send(bench, &input);
	}
	expect_nothing_moved(bench);
}

/* Valid combinations must work. */
static void right_flags(struct bench *bench, const struct command *command)
{
	struct input input = right_input(bench, command);
	__u32 flags = 0;

	input.field = "flags";
	do {
		if (!few_flags(flags))
			continue;
		input.value = flags;
		input.argument.any.flags = flags;
		control(bench, &input);
	} while (next_flags(command, &flags));
	undo(bench, command);
}

TEST_F_TIMEOUT(ioctl, flags, TIMEOUT)
{
	struct bench *bench = &self->bench;
	unsigned int i;

	for (i = 0; i < NR_COMMANDS; i++) {
		control_command(bench, &commands[i]);
		if (commands[i].flagless)
			continue;
		undefined_flags(bench, &commands[i]);
		combined_flags(bench, &commands[i]);
		right_flags(bench, &commands[i]);
	}
	check_intact(bench);
}

/* The other fields, one at a time */

struct field {
	const char *name;
	size_t offset;
	bool wide;
	unsigned int commands;
	unsigned int flags;
	bool (*is_right)(const struct bench *bench, const struct command *command,
			 uint64_t value);
};

#define FIELD(_type, _name, _wide, ...)					\
	{								\
		.name = #_name,						\
		.offset = offsetof(ARGUMENT(_type), _name),		\
		.wide = _wide,						\
		__VA_ARGS__						\
	}
#define U32(_type, _name, ...)	FIELD(_type, _name, false, ##__VA_ARGS__)
#define U64(_type, _name, ...)	FIELD(_type, _name, true, ##__VA_ARGS__)

static bool is_zero(const struct bench *bench, const struct command *command,
		    uint64_t value)
{
	return !value;
}

static bool is_nonzero(const struct bench *bench, const struct command *command,
		       uint64_t value)
{
	return value;
}

/* The address may be unmapped; other tests try that. */
static bool is_aligned(const struct bench *bench, const struct command *command,
		       uint64_t value)
{
	return !(value % page_size);
}

/* The length may reach unmapped memory; other tests try that. */
static bool is_length(const struct bench *bench, const struct command *command,
		      uint64_t value)
{
	if (is_one_of(command, BIT_OF(HOLD)) &&
	    value / page_size > TEST_HMM_MIGRATE_MAX_HOLD_PAGES)
		return false;
	return value && is_aligned(bench, command, value);
}

static bool is_chunk(const struct bench *bench, const struct command *command,
		     uint64_t value)
{
	return is_aligned(bench, command, value) && value <= MAX_CHUNK;
}

/* Valid with TEST_HMM_MIGRATE_LARGE. */
static bool is_hole_order(const struct bench *bench, const struct command *command,
			  uint64_t value)
{
	if (is_one_of(command, BIT_OF(TO_SYSTEM)))
		return !value;
	return value != 1 && value <= TEST_HMM_MIGRATE_MAX_ORDER;
}

static bool is_node(const struct bench *bench, const struct command *command,
		    uint64_t value)
{
	if (!is_one_of(command, BIT_OF(TO_NODE)))
		return !value;
	return value < MAX_NODES && bench->nodes[value];
}

static bool is_usec(const struct bench *bench, const struct command *command,
		    uint64_t value)
{
	return value <= TEST_HMM_MIGRATE_MAX_HOLD_TIME;
}

static bool is_way(const struct bench *bench, const struct command *command,
		   uint64_t value)
{
	return value < TEST_HMM_MIGRATE_NR_WAYS;
}

static bool is_engine(const struct bench *bench, const struct command *command,
		      uint64_t value)
{
	return value < TEST_HMM_MIGRATE_NR_ENGINES;
}

static bool is_depth(const struct bench *bench, const struct command *command,
		     uint64_t value)
{
	return value <= TEST_HMM_MIGRATE_MAX_DEPTH;
}

static bool is_time(const struct bench *bench, const struct command *command,
		    uint64_t value)
{
	return value <= TEST_HMM_MIGRATE_MAX_USEC;
}

static bool is_window(const struct bench *bench, const struct command *command,
		      uint64_t value)
{
	return value <= MAX_WINDOW_ORDER;
}

static bool is_what(const struct bench *bench, const struct command *command,
		    uint64_t value)
{
	return value < TEST_HMM_MIGRATE_NR_FAIL;
}

static bool is_order(const struct bench *bench, const struct command *command,
		     uint64_t value)
{
	return value <= TEST_HMM_MIGRATE_MAX_ORDER;
}

static const struct field fields[] = {
	U64(take, addr, .commands = PAGED, .is_right = is_aligned),
	U64(take, length, .commands = PAGED, .is_right = is_length),
	U64(hold, addr, .commands = BIT_OF(HOLD), .is_right = is_aligned,
	    .flags = TEST_HMM_MIGRATE_HOLD_MIGRATION),
	U64(hold, length, .commands = BIT_OF(HOLD), .is_right = is_length,
	    .flags = TEST_HMM_MIGRATE_HOLD_MIGRATION),
	U64(hold, usec, .commands = BIT_OF(HOLD), .is_right = is_usec),
	U64(hold, usec, .commands = BIT_OF(HOLD), .is_right = is_usec,
	    .flags = TEST_HMM_MIGRATE_HOLD_MIGRATION),
	U64(access, length, .commands = ACCESSES, .is_right = is_nonzero),
	U64(range, chunk, .commands = MIGRATES, .is_right = is_chunk),
	U64(range, chunk, .commands = MIGRATES & ~BIT_OF(TO_NODE),
	    .is_right = is_chunk, .flags = TEST_HMM_MIGRATE_BARE),
	U32(range, hole_order, .commands = MIGRATES, .is_right = is_hole_order,
	    .flags = TEST_HMM_MIGRATE_LARGE),
	U32(range, hole_order, .commands = MIGRATES, .is_right = is_zero),
	U32(range, hole_order, .commands = MIGRATES, .is_right = is_zero,
	    .flags = TEST_HMM_MIGRATE_HUGE),
	U32(range, node, .commands = MIGRATES, .is_right = is_node),
	U32(range, engine, .commands = MIGRATES, .is_right = is_zero),
	U32(range, engine, .commands = MIGRATES, .is_right = is_engine,
	    .flags = TEST_HMM_MIGRATE_ENGINE),
	U32(range, way, .commands = MIGRATES, .is_right = is_way),
	U32(range, way, .commands = MIGRATES & ~BIT_OF(TO_NODE), .is_right = is_zero,
	    .flags = TEST_HMM_MIGRATE_BARE),
	U32(range, depth, .commands = MIGRATES, .is_right = is_depth),
	U32(range, depth, .commands = MIGRATES & ~BIT_OF(TO_NODE), .is_right = is_zero,
	    .flags = TEST_HMM_MIGRATE_BARE),
	U64(range, usec, .commands = MIGRATES, .is_right = is_time),
	U64(range, usec, .commands = MIGRATES & ~BIT_OF(TO_NODE), .is_right = is_zero,
	    .flags = TEST_HMM_MIGRATE_BARE),
	U32(inject, what, .commands = BIT_OF(INJECT), .is_right = is_what),
	U32(inject, order, .commands = BIT_OF(INJECT), .is_right = is_order),
	U32(range, reserved, .commands = MIGRATES, .is_right = is_zero),
	U32(inject, reserved, .commands = BIT_OF(INJECT), .is_right = is_zero),
	/* 0 is valid because the other one of the two fields is 0. */
	U64(inject, nth, .commands = BIT_OF(INJECT), .is_right = is_zero),
	U64(inject, times, .commands = BIT_OF(INJECT), .is_right = is_zero),
	U32(fault_order, order, .commands = BIT_OF(FAULT_ORDER), .is_right = is_order),
	U32(fault_order, order, .commands = BIT_OF(FAULT_ORDER), .is_right = is_order,
	    .flags = TEST_HMM_MIGRATE_FAULT_BARE),
	U32(fault_order, window_order, .commands = BIT_OF(FAULT_ORDER),
	    .is_right = is_window),
	U32(fault_order, window_order, .commands = BIT_OF(FAULT_ORDER),
	    .is_right = is_zero, .flags = TEST_HMM_MIGRATE_FAULT_BARE),
	U64(fault_order, stay_usec, .commands = BIT_OF(FAULT_ORDER), .is_right = is_time),
};

static void set_field(struct input *input, const struct field *field, uint64_t value)
{
	void *where = (void *)&input->argument + field->offset;

	input->field = field->name;
	input->value = value;
	if (field->wide)
		*(__u64 *)where = value;
	else
		*(__u32 *)where = value;
}

static bool fits(const struct field *field, uint64_t value)
{
	return field->wide || value <= UINT32_MAX;
}

static void try_value(struct bench *bench, struct input *input,
		      const struct field *field, uint64_t value)
{
	if (!fits(field, value) || field->is_right(bench, input->command, value))
		return;
	set_field(input, field, value);
	send(bench, input);
}

static void wrong_values(struct bench *bench, const struct command *command,
			 const struct field *field)
{
	struct input input = wrong_input(bench, command, field->name, -EINVAL);
	const uint64_t some = 600 * page_size;
	uint64_t value;
	unsigned int i;

	if (!command->flagless)
		input.argument.any.flags = field->flags;
	for (value = 0; value < page_size; value += value < 256 ? 1 : 13)
		try_value(bench, &input, field, value);
	for (value = page_size; value <= some; value += page_size)
		try_value(bench, &input, field, value);
	for (i = 0; i < NR_EDGES; i++) {
		value = edge(i);
		if (value > some || (value > page_size && value % page_size))
			try_value(bench, &input, field, value);
	}
	expect_nothing_moved(bench);
}

/* Try the valid values of a field that decides what moves, and how. */
static void right_values(struct bench *bench, const struct command *command,
			 const struct field *field)
{
	struct input input = right_input(bench, command);
	unsigned int i;

	input.argument.range.flags = field->flags;
	for (i = 0; i < NR_EDGES; i++) {
		if (!fits(field, edge(i)) || !field->is_right(bench, command, edge(i)))
			continue;
		if (field->is_right == is_time && edge(i) && edge(i) < LONG_ENOUGH)
			continue;
		set_field(&input, field, edge(i));
		control(bench, &input);
	}
	undo(bench, command);
}

static void try_field(struct bench *bench, const struct field *field)
{
	unsigned int i;

	for (i = 0; i < NR_COMMANDS; i++) {
		if (!is_one_of(&commands[i], field->commands))
			continue;
		control_command(bench, &commands[i]);
		wrong_values(bench, &commands[i], field);
		if (field->offset >= offsetof(ARGUMENT(range), chunk) &&
		    is_one_of(&commands[i], MIGRATES))
			right_values(bench, &commands[i], field);
	}
}

TEST_F_TIMEOUT(ioctl, fields, TIMEOUT)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		try_field(&self->bench, &fields[i]);
		if (self->bench.complaints)
			break;
	}
	check_intact(&self->bench);
}

/* Several fields at once */

#define MAX_VALUES	4

/* A field with a valid value, followed by values that are wrong in any combination. */
struct axis {
	struct field field;
	uint64_t values[MAX_VALUES];
	unsigned int nr;
};

#define AXIS(_field, ...)						\
	{								\
		.field = _field,					\
		.values = { __VA_ARGS__ },				\
		.nr = ARRAY_SIZE(((uint64_t[]) { __VA_ARGS__ })),	\
	}

static void cross_command(struct bench *bench, const struct command *command,
			  const struct axis *axes, unsigned int nr)
{
	struct input input = wrong_input(bench, command, "", -EINVAL);
	unsigned int i, rest, combination = 0;

	do {
		rest = combination;
		for (i = 0; i < nr; i++) {
			set_field(&input, &axes[i].field,
				  axes[i].values[rest % axes[i].nr]);
			rest /= axes[i].nr;
		}
		input.field = "several fields, combination";
		input.value = combination;
		/*
		 * Combination 0 is valid; a rest means that all combinations have been
		 * tried.
		 */
		if (combination && !rest)
			send(bench, &input);
		combination++;
	} while (!rest);
	expect_nothing_moved(bench);
}

static void cross(struct bench *bench, unsigned int mask, const struct axis *axes,
		  unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < NR_COMMANDS; i++) {
		if (!is_one_of(&commands[i], mask))
			continue;
		control_command(bench, &commands[i]);
		cross_command(bench, &commands[i], axes, nr);
	}
}

TEST_F_TIMEOUT(ioctl, several_fields, TIMEOUT)
{
	struct bench *bench = &self->bench;
	const uint64_t addr = (uintptr_t)at(MEMORY), half = page_size / 2;
	const struct axis start = AXIS(U64(take, addr), addr, addr + 1, addr + half, -half);
	const struct axis length = AXIS(U64(take, length), page_size, 0, half, -addr);
	const struct axis range[] = {
		start, length,
		AXIS(U64(range, chunk), 0, 1, MAX_CHUNK + page_size, -page_size),
		AXIS(U32(range, hole_order), 0, 1, TEST_HMM_MIGRATE_MAX_ORDER + 1, -1),
		AXIS(U32(range, flags), 0, MIGRATE_FLAGS + 1, 1U << 31,
		     TEST_HMM_MIGRATE_BARE | TEST_HMM_MIGRATE_ENGINE),
		AXIS(U32(range, node), 0, MAX_NODES, INT32_MAX, -1),
	};
	const struct axis node[] = {
		range[0], range[1], range[2], range[3], range[4],
		AXIS(U32(range, node), bench->node, MAX_NODES, INT32_MAX, -1),
	};
	const struct axis take[] = {
		start, length,
		AXIS(U32(take, flags), 0, 2, 1U << 31, -1),
	};
	const struct axis access[] = {
		AXIS(U64(access, length), 1, 0, -addr, -1),
		AXIS(U32(access, flags), 0, 1, 1U << 31, -1),
	};
	const struct axis hold[] = {
		start, length,
		AXIS(U32(hold, flags), 0, 4, 1U << 31, -1),
		AXIS(U64(hold, usec), 0, TEST_HMM_MIGRATE_MAX_HOLD_TIME + 1, 1ULL << 32, -1),
	};
	const struct axis inject[] = {
		AXIS(U32(inject, what), 0, TEST_HMM_MIGRATE_NR_FAIL, 1U << 31, -1),
		AXIS(U32(inject, order), 0, TEST_HMM_MIGRATE_MAX_ORDER + 1, 1U << 31, -1),
		AXIS(U32(inject, reserved), 0, 1, 1U << 31, -1),
		AXIS(U64(inject, times), 0, 1, 1ULL << 32, -1),
	};
	const struct axis fault_order[] = {
		AXIS(U32(fault_order, flags), 0, 3, 1U << 31, -1),
		AXIS(U32(fault_order, order), 0, TEST_HMM_MIGRATE_MAX_ORDER + 1, 1U << 31, -1),
		AXIS(U32(fault_order, window_order), 0, MAX_WINDOW_ORDER + 1, 1U << 31, -1),
	};

	cross(bench, BIT_OF(TO_DEVICE) | BIT_OF(TO_SYSTEM), range, ARRAY_SIZE(range));
	cross(bench, BIT_OF(TO_NODE), node, ARRAY_SIZE(node));
	cross(bench, BIT_OF(TAKE) | BIT_OF(SNAPSHOT), take, ARRAY_SIZE(take));
	cross(bench, ACCESSES, access, ARRAY_SIZE(access));
	cross(bench, BIT_OF(HOLD), hold, ARRAY_SIZE(hold));
	cross(bench, BIT_OF(INJECT), inject, ARRAY_SIZE(inject));
	cross(bench, BIT_OF(FAULT_ORDER), fault_order, ARRAY_SIZE(fault_order));
	check_intact(bench);
}

/* Try wrong values of one field of a range, with every valid combination of flags. */
TEST_F_TIMEOUT(ioctl, fields_and_flags, TIMEOUT)
{
	struct bench *bench = &self->bench;
	const uint64_t addr = (uintptr_t)at(MEMORY);
	const struct axis axes[] = {
		AXIS(U64(range, addr), addr + 1, addr + page_size - 1, -1),
		AXIS(U64(range, length), 0, 1, -addr, -page_size),
		AXIS(U64(range, chunk), 1, page_size / 2, MAX_CHUNK + page_size, -page_size),
		AXIS(U32(range, hole_order), 1, TEST_HMM_MIGRATE_MAX_ORDER + 1, 1U << 31, -1),
		AXIS(U32(range, node), MAX_NODES, 1U << 31, INT32_MAX, -1),
	};
	unsigned int i, j, value;

	for (i = 0; i < NR_COMMANDS; i++) {
		__u32 flags = 0;

		if (!is_one_of(&commands[i], MIGRATES))
			continue;
		do {
			for (j = 0; j < ARRAY_SIZE(axes); j++) {
				struct input input = wrong_input(bench, &commands[i], "",
								 -EINVAL);

				input.argument.range.flags = flags;
				for (value = 0; value < axes[j].nr; value++) {
					set_field(&input, &axes[j].field,
						  axes[j].values[value]);
					send(bench, &input);
				}
			}
		} while (next_flags(&commands[i], &flags));
		expect_nothing_moved(bench);
	}
	check_intact(bench);
}

/* Injections and the fault order are unchanged after a wrong call */

/* Arm one failure, and check that only this failure happens. */
TEST_F_TIMEOUT(ioctl, injections_stay, TIMEOUT)
{
	const struct command *command = &commands[NUMBER(INJECT)];
	const unsigned long npages = parts[MEMORY].npages;
	struct bench *bench = &self->bench;
	struct test_hmm_migrate_statistics stats;
	struct test_hmm_migrate_range range;
	unsigned int what, i;

	/* The following failures are for the engine. */
	for (what = 0; what <= TEST_HMM_MIGRATE_FAIL_COPY; what++) {
		struct input input = wrong_input(bench, command, "times", -EINVAL);

		ASSERT_EQ(0, inject(bench->fd, what, npages, 1));
		input.argument.inject.what = what;
		for (i = 0; i < NR_EDGES; i++) {
			if (!edge(i))
				continue;
			input.value = edge(i);
			input.argument.inject.nth = 0;
			input.argument.inject.times = edge(i);
			send(bench, &input);
			input.argument.inject.nth = edge(i);
			input.argument.inject.times = 0;
			send(bench, &input);
		}
		/*
		 * Each page is allocated and copied once on the way to the device, and
		 * once on the way back.
		 */
		ASSERT_EQ(0, to_device(bench->fd, at(MEMORY), npages, &range));
		ASSERT_EQ(0, to_system(bench->fd, at(MEMORY), npages, &range));
		ASSERT_EQ(0, statistics(bench->fd, TEST_HMM_MIGRATE_RESET, &stats));
		for (i = 0; i < TEST_HMM_MIGRATE_NR_FAIL; i++)
			EXPECT_EQ(i == what, stats.injected[i]);
		/* The injected failure has left a page on the device. */
		ASSERT_EQ(0, bring_back(bench));
	}
	check_intact(bench);
}

/* Touch the first page of a folio, and count how many pages come back. */
TEST_F_TIMEOUT(ioctl, fault_order_stays, TIMEOUT)
{
	const struct command *command = &commands[NUMBER(FAULT_ORDER)];
	const unsigned int order = LARGE_ORDER;
	unsigned char *holes = arena + (page_size << order) * 64;
	struct test_hmm_migrate_range range = {
		.size = sizeof(range),
		.flags = TEST_HMM_MIGRATE_LARGE,
		.addr = (uintptr_t)holes,
		.length = page_size << order,
		.hole_order = order,
	};
	struct bench *bench = &self->bench;
	struct input input = wrong_input(bench, command, "order", -EINVAL);
	unsigned int i;

	ASSERT_EQ(holes, mmap(holes, page_size << order, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	ASSERT_EQ(0, madvise(holes, page_size << order, MADV_HUGEPAGE));
	ASSERT_EQ(0, device_ioctl(bench->fd, TEST_HMM_MIGRATE_TO_DEVICE, &range));
	ASSERT_EQ(1 << order, range.pages[TEST_HMM_MIGRATE_FILLED]);
	ASSERT_EQ(0, set_fault_order(bench->fd, order - 1));
	for (i = 0; i < NR_EDGES; i++) {
		if (edge(i) <= TEST_HMM_MIGRATE_MAX_ORDER || edge(i) > UINT32_MAX)
			continue;
		input.value = edge(i);
		input.argument.fault_order.order = edge(i);
		send(bench, &input);
	}
	EXPECT_EQ(0, holes[0]);
	/* Coherent memory needs no fault. */
	EXPECT_EQ((1 << order) - (variant->kind == TEST_HMM_MIGRATE_PRIVATE),
		  pages_at(bench->fd, holes, 1 << order, TEST_HMM_MIGRATE_THIS_DEVICE));
	ASSERT_EQ(0, munmap(holes, page_size << order));
	ASSERT_EQ(0, set_fault_order(bench->fd, TEST_HMM_MIGRATE_MAX_ORDER));
	check_intact(bench);
}

/* Ranges that the device must not use */

/* The error of the ioctl for a page of the arena. */
static int page_error(const struct input *input, unsigned int page)
{
	int protection = protection_of(page);

	switch (input->command->request) {
	case TEST_HMM_MIGRATE_TO_DEVICE:
	case TEST_HMM_MIGRATE_TO_SYSTEM:
	case TEST_HMM_MIGRATE_TO_NODE:
		if (input->argument.range.flags & TEST_HMM_MIGRATE_SKIP_GAPS)
			return 0;
		return protection == UNMAPPED ? -EFAULT : 0;
	case TEST_HMM_MIGRATE_WRITE:
		if (protection == PROT_READ)
			return -EPERM;
		__attribute__((fallthrough));
	case TEST_HMM_MIGRATE_READ:
		return protection == UNMAPPED || !(protection & PROT_READ) ? -EFAULT : 0;
	case TEST_HMM_MIGRATE_TAKE:
		return protection == UNMAPPED || !(protection & PROT_WRITE) ? -EFAULT : 0;
	default:
		return 0;
	}
}

/* HOLD needs the whole range, and with HOLD_MIGRATION a single vma. */
static int hold_error(const struct test_hmm_migrate_hold *hold, unsigned int first,
		      unsigned int end)
{
	unsigned int page;

	for (page = first; page < end; page++) {
		int protection = protection_of(page);

		if (protection == UNMAPPED)
			return -EFAULT;
		if (hold->flags & TEST_HMM_MIGRATE_HOLD_MIGRATION ?
		    part_of(page) != part_of(first) : !(protection & PROT_READ))
			return -EFAULT;
	}
	return 0;
}

/* Find the first error in the range, and set how far the ioctl comes. */
static bool find_error(struct input *input)
{
	const uint64_t base = (uintptr_t)arena, addr = input->argument.any.addr;
	const uint64_t last = addr + input->argument.any.length - 1;
	unsigned int page, first = (addr - base) / page_size;
	unsigned int end = (last - base) / page_size + 1;

	input->came = 0;
	if (is_one_of(input->command, BIT_OF(HOLD))) {
		input->error = hold_error(&input->argument.hold, first, end);
		return input->error;
	}
	for (page = first; page < end; page++) {
		input->error = page_error(input, page);
		if (!input->error)
			continue;
		if (page > first)
			input->came = base + page * page_size - addr;
		return true;
	}
	return false;
}

static void set_range(struct input *input, uint64_t addr, uint64_t length)
{
	input->value = addr;
	input->argument.any.addr = addr;
	input->argument.any.length = length;
	/*
	 * A partial write must not change anything, so write the contents that are
	 * already there.
	 */
	if (is_one_of(input->command, ACCESSES))
		input->argument.access.buffer = (uintptr_t)mirror(addr);
}

/* Ranges of pages within the addressed part of the arena. */
static void try_windows(struct bench *bench, struct input *input)
{
	static const unsigned int lengths[] = { 1, 2, 3, 5, 8, 13, 21, 34 };
	unsigned int first, i;

	for (first = 0; first < ADDRESSED; first++) {
		for (i = 0; i < ARRAY_SIZE(lengths); i++) {
			if (first + lengths[i] > ADDRESSED)
				break;
			set_range(input, (uintptr_t)arena + first * page_size,
				  lengths[i] * page_size);
			if (find_error(input))
				send(bench, input);
		}
	}
}

/* Short ranges that do not begin and end at page boundaries. */
static void try_bytes(struct bench *bench, struct input *input)
{
	const unsigned long offsets[] = { 1, page_size - 1 };
	const unsigned long lengths[] = { 1, 16, page_size, 2 * page_size + 1 };
	unsigned int page, i, j;

	for (page = 0; page < ADDRESSED - 4; page++) {
		for (i = 0; i < ARRAY_SIZE(offsets) * ARRAY_SIZE(lengths); i++) {
			j = i / ARRAY_SIZE(offsets);
			set_range(input, (uintptr_t)arena + page * page_size +
				  offsets[i % ARRAY_SIZE(offsets)], lengths[j]);
			if (find_error(input))
				send(bench, input);
		}
	}
}

/*
 * The device accesses its own memory without a fault, but must still not do more than
 * the process may do.
 */
TEST_F_TIMEOUT(ioctl, ranges_of_the_device, TIMEOUT)
{
	struct test_hmm_migrate_range range = {
		.size = sizeof(range),
		.flags = TEST_HMM_MIGRATE_SKIP_GAPS,
		.addr = (uintptr_t)arena,
		.length = ADDRESSED * page_size,
	};
	struct bench *bench = &self->bench;
	unsigned int i;

	for (i = 0; i < NR_COMMANDS; i++) {
		struct input input = wrong_input(bench, &commands[i], "addr", -EFAULT);

		if (!is_one_of(&commands[i], ACCESSES))
			continue;
		ASSERT_EQ(0, device_ioctl(bench->fd, TEST_HMM_MIGRATE_TO_DEVICE, &range));
		try_windows(bench, &input);
		try_bytes(bench, &input);
	}
	EXPECT_EQ(0, bring_back(bench));
	check_intact(bench);
}

TEST_F_TIMEOUT(ioctl, ranges, TIMEOUT)
{
	static const struct {
		unsigned int commands;
		__u32 flags;
	} ways[] = {
		{ MIGRATES | ACCESSES | BIT_OF(TAKE) | BIT_OF(HOLD), 0 },
		{ BIT_OF(HOLD), TEST_HMM_MIGRATE_HOLD_MIGRATION },
		{ MIGRATES & ~BIT_OF(TO_NODE), TEST_HMM_MIGRATE_BARE },
	};
	struct bench *bench = &self->bench;
	unsigned int i, j;

	for (i = 0; i < NR_COMMANDS; i++) {
		struct input input = wrong_input(bench, &commands[i], "addr", -EFAULT);

		for (j = 0; j < ARRAY_SIZE(ways); j++) {
			if (!is_one_of(&commands[i], ways[j].commands))
				continue;
			input.argument.any.flags = ways[j].flags;
			try_windows(bench, &input);
			if (is_one_of(&commands[i], ACCESSES))
				try_bytes(bench, &input);
		}
	}
	EXPECT_EQ(0, bring_back(bench));
	check_intact(bench);
}

/* A gap alone, a gap in the middle, and kernel addresses, with all pairs of flags. */
TEST_F_TIMEOUT(ioctl, ranges_and_flags, TIMEOUT)
{
	const uint64_t end = (uintptr_t)end_of(MEMORY);
	const struct {
		uint64_t addr, length;
	} cases[] = {
		{ end, page_size },
		{ end - page_size, (uintptr_t)at(BEHIND) - end + 2 * page_size },
		{ 1ULL << 63, 1ULL << 62 },
	};
	struct bench *bench = &self->bench;
	unsigned int i, j;

	for (i = 0; i < NR_COMMANDS; i++) {
		struct input input = wrong_input(bench, &commands[i], "addr", -EFAULT);
		__u32 flags = 0;

		if (!is_one_of(&commands[i], MIGRATES))
			continue;
		do {
			if (flags & TEST_HMM_MIGRATE_SKIP_GAPS || !few_flags(flags))
				continue;
			for (j = 0; j < ARRAY_SIZE(cases); j++) {
				input.argument.range.flags = flags;
				set_range(&input, cases[j].addr, cases[j].length);
				input.error = -EFAULT;
				input.came = 0;
				if (cases[j].addr < BEYOND)
					find_error(&input);
				send(bench, &input);
			}
			/*
			 * The range did not fit on the device, so all of the device was
			 * evicted.
			 */
			if (flags & TEST_HMM_MIGRATE_MAKE_ROOM)
				make_resident(bench);
		} while (next_flags(&commands[i], &flags));
	}
	EXPECT_EQ(0, bring_back(bench));
	check_intact(bench);
}

/*
 * Returns 0 if the range is valid, or if that depends on the other mappings of the
 * process.
 */
static int far_error(const struct command *command, uint64_t addr, uint64_t length)
{
	const unsigned int whole = ACCESSES | BIT_OF(SNAPSHOT) | BIT_OF(TAKE);

	if (addr + length < addr)
		return -EINVAL;
	if (is_one_of(command, BIT_OF(HOLD)) &&
	    length / page_size > TEST_HMM_MIGRATE_MAX_HOLD_PAGES)
		return -EINVAL;
	if (addr >= BEYOND)
		return -EFAULT;
	/* These check the end of the range first. */
	if (is_one_of(command, whole) && addr + length > BEYOND)
		return -EFAULT;
	return 0;
}

/*
 * Powers of two from the page size on, and the same distances from the end of all
 * addresses.
 */
static uint64_t far(unsigned int i)
{
	uint64_t value = page_size << i / 2;

	return i % 2 ? -value : value;
}

/* Ranges that begin in MEMORY, and end where no process has memory. */
static void try_far_ends(struct bench *bench, struct input *input)
{
	uint64_t addr = (uintptr_t)at(MEMORY), length;

	for (length = BEYOND; length < 1ULL << 63; length *= 2) {
		set_range(input, addr, length);
		input->error = far_error(input->command, addr, length);
		input->came = 0;
		/* Migrations move pages up to the first gap. */
		if (is_one_of(input->command, MIGRATES)) {
			input->error = -EFAULT;
			input->came = size_of(MEMORY);
		}
		send(bench, input);
	}
	input->came = 0;
}

/* Ranges that wrap, and ranges where no process has memory. */
TEST_F_TIMEOUT(ioctl, far_ranges, TIMEOUT)
{
	struct bench *bench = &self->bench;
	unsigned int i, j, k;

	for (i = 0; i < NR_COMMANDS; i++) {
		struct input input = wrong_input(bench, &commands[i], "addr", 0);

		if (!commands[i].ranged)
			continue;
		try_far_ends(bench, &input);
		/* 1 << 63 is the same from both ends. */
		for (j = 0; far(j) && j < 2 * 63; j++) {
			for (k = 0; far(k) && k < 2 * 63; k++) {
				if (far(j) == far(j - 1) || far(k) == far(k - 1))
					continue;
				set_range(&input, far(j), far(k));
				input.error = far_error(&commands[i], far(j), far(k));
				/*
				 * Migrations do slow work before they find the error, so
				 * try only some of these.
				 */
				if (is_one_of(&commands[i], MIGRATES) &&
				    input.error == -EFAULT && (j + k) % 16)
					continue;
				if (input.error == -EINVAL && (j + k) % 2)
					continue;
				if (input.error)
					send(bench, &input);
			}
		}
	}
	EXPECT_EQ(0, bring_back(bench));
	check_intact(bench);
}

/* Buffers */

/*
 * The first @mapped bytes of the buffer are mapped. Accesses stop at page boundaries
 * of the memory.
 */
static uint64_t came_in_buffer(uint64_t addr, uint64_t length, uint64_t mapped)
{
	uint64_t came = 0, step;

	while (came < length) {
		step = page_size - (addr + came) % page_size;
		if (step > length - came)
			step = length - came;
		if (came + step > mapped)
			break;
		came += step;
	}
	return came;
}

/*
 * The buffer ends at an unmapped page. For a write, it must have the right bytes up
 * to there.
 */
static void try_short_buffer(struct bench *bench, struct input *input, uint64_t mapped)
{
	struct test_hmm_migrate_access *access = &input->argument.access;
	unsigned char *buffer = end_of(SCRATCH) - mapped;

	memcpy(buffer, mirror(access->addr), mapped);
	access->buffer = (uintptr_t)buffer;
	input->value = mapped;
	input->came = came_in_buffer(access->addr, access->length, mapped);
	send(bench, input);
	if (memcmp(buffer, mirror(access->addr), mapped))
		complain(bench, input, input->error, "the buffer has changed");
}

static void short_buffers(struct bench *bench, const struct command *command)
{
	const uint64_t offsets[] = { 0, 1, page_size - 8 };
	const uint64_t lengths[] = { 1, 16, page_size, 3 * page_size + 5 };
	struct input input = wrong_input(bench, command,
					 "bytes of the buffer that are mapped", -EFAULT);
	uint64_t mapped;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(offsets) * ARRAY_SIZE(lengths); i++) {
		input.argument.access.addr = (uintptr_t)at(MEMORY) +
					     offsets[i % ARRAY_SIZE(offsets)];
		input.argument.access.length = lengths[i / ARRAY_SIZE(offsets)];
		for (mapped = 0; mapped < input.argument.access.length;
		     mapped += mapped < 16 ? 1 : 509)
			try_short_buffer(bench, &input, mapped);
	}
}

static void try_buffer(struct bench *bench, struct input *input, uint64_t buffer)
{
	input->value = buffer;
	input->argument.access.buffer = buffer;
	send(bench, input);
}

/* No byte of the buffer is readable, or writable. */
static void bad_buffers(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "buffer", -EFAULT);
	unsigned int i;

	for (i = 0; i < NR_EDGES; i++) {
		/* Addresses in the first page, and kernel addresses. */
		if (edge(i) >= 1024 && edge(i) < BEYOND)
			continue;
		try_buffer(bench, &input, edge(i));
		try_buffer(bench, &input, -edge(i) - BEYOND);
	}
	for (i = 0; i < 16; i++) {
		try_buffer(bench, &input, (uintptr_t)end_of(SCRATCH) + i);
		try_buffer(bench, &input, (uintptr_t)at(HIDDEN) + i);
		if (!is_one_of(command, BIT_OF(WRITE)))
			try_buffer(bench, &input, (uintptr_t)at(FIXED) + i);
	}
}

/* The buffer has room for some of the entries, but they are written 512 at a time. */
static void short_snapshots(struct bench *bench)
{
	const size_t one = sizeof(struct test_hmm_migrate_page);
	struct input input = wrong_input(bench, &commands[NUMBER(SNAPSHOT)],
					 "bytes of the buffer that are mapped", -EFAULT);
	struct test_hmm_migrate_snapshot *argument = &input.argument.snapshot;
	size_t mapped;

	for (argument->length = page_size; argument->length <= 16 * page_size;
	     argument->length += page_size) {
		for (mapped = 0; mapped < argument->length / page_size * one; mapped += 3) {
			input.value = mapped;
			argument->buffer = (uintptr_t)end_of(SCRATCH) - mapped;
			send(bench, &input);
		}
	}
	argument->length = 1024 * page_size;
	for (mapped = 512 * one; mapped < 1024 * one; mapped += 99) {
		input.value = mapped;
		input.came = 512 * page_size;
		argument->buffer = (uintptr_t)end_of(SCRATCH) - mapped;
		send(bench, &input);
	}
}

TEST_F_TIMEOUT(ioctl, buffers, TIMEOUT)
{
	struct bench *bench = &self->bench;
	unsigned int i;

	for (i = 0; i < NR_COMMANDS; i++) {
		if (!is_one_of(&commands[i], ACCESSES | BIT_OF(SNAPSHOT)))
			continue;
		control_command(bench, &commands[i]);
		bad_buffers(bench, &commands[i]);
		if (is_one_of(&commands[i], ACCESSES))
			short_buffers(bench, &commands[i]);
	}
	short_snapshots(bench);
	check_intact(bench);
}

/* Memory that cannot migrate at all */

/* Try all ways to migrate: no page of the vma moves, but all pages before it do. */
static void try_immovable(struct bench *bench, uint64_t addr, uint64_t length,
			  uint64_t before)
{
	unsigned int i;

	for (i = 0; i < NR_COMMANDS; i++) {
		struct input input = wrong_input(bench, &commands[i], "addr",
						 -EOPNOTSUPP);
		__u32 flags = 0;

		if (!is_one_of(&commands[i], MIGRATES))
			continue;
		do {
			if (flags & TEST_HMM_MIGRATE_SKIP_GAPS || !few_flags(flags))
				continue;
			input.argument.range.flags = flags;
			set_range(&input, addr - before, before + length);
			input.came = before;
			send(bench, &input);
		} while (next_flags(&commands[i], &flags));
		input.field = "addr";
		input.error = 0;
		input.argument.range.flags = TEST_HMM_MIGRATE_SKIP_GAPS;
		set_range(&input, addr, length);
		input.came = length;
		control(bench, &input);
	}
}

/* Try one ioctl that does not migrate. */
static void try_one(struct bench *bench, const struct command *command, __u32 flags,
		    uint64_t addr, int error)
{
	struct input input = wrong_input(bench, command, "addr", error);

	input.argument.any.flags = flags;
	set_range(&input, addr, page_size);
	send(bench, &input);
}

/* The start of the mapping with this name, or 0. */
static uint64_t find_mapping(const char *name)
{
	FILE *file = fopen("/proc/self/maps", "r");
	unsigned long start, found = 0;
	char line[512];

	if (!file)
		return 0;
	while (!found && fgets(line, sizeof(line), file)) {
		if (strstr(line, name) && sscanf(line, "%lx-", &start) == 1)
			found = start;
	}
	fclose(file);
	return found;
}

/* Kernel code that all processes map: it can only be read. */
TEST_F_TIMEOUT(ioctl, special_mapping, TIMEOUT)
{
	const uint64_t vdso = find_mapping("[vdso]");
	struct bench *bench = &self->bench;

	if (!vdso)
		SKIP(return, "no vdso on this architecture");
	try_immovable(bench, vdso, page_size, 0);
	try_one(bench, &commands[NUMBER(HOLD)], TEST_HMM_MIGRATE_HOLD_MIGRATION, vdso,
		-EOPNOTSUPP);
	try_one(bench, &commands[NUMBER(WRITE)], 0, vdso, -EPERM);
	try_one(bench, &commands[NUMBER(TAKE)], 0, vdso, -EFAULT);
	check_intact(bench);
}

/* The same with kernel data, which are not even ordinary pages. */
TEST_F_TIMEOUT(ioctl, io_mapping, TIMEOUT)
{
	const uint64_t vvar = find_mapping("[vvar]");
	struct bench *bench = &self->bench;

	if (!vvar)
		SKIP(return, "no vvar on this architecture");
	try_immovable(bench, vvar, page_size, 0);
	try_one(bench, &commands[NUMBER(HOLD)], TEST_HMM_MIGRATE_HOLD_MIGRATION, vvar,
		-EOPNOTSUPP);
	try_one(bench, &commands[NUMBER(HOLD)], 0, vvar, -EFAULT);
	try_one(bench, &commands[NUMBER(READ)], 0, vvar, -EFAULT);
	try_one(bench, &commands[NUMBER(WRITE)], 0, vvar, -EFAULT);
	try_one(bench, &commands[NUMBER(TAKE)], 0, vvar, -EFAULT);
	check_intact(bench);
}

static void try_hugetlb(struct __test_metadata *_metadata, struct bench *bench,
			unsigned char *memory, size_t before)
{
	fill(memory - before, before + TWO_MEG, 2);
	try_immovable(bench, (uintptr_t)memory, TWO_MEG, 0);
	try_immovable(bench, (uintptr_t)memory + page_size, page_size, 0);
	try_immovable(bench, (uintptr_t)memory, page_size, before);
	try_one(bench, &commands[NUMBER(HOLD)], TEST_HMM_MIGRATE_HOLD_MIGRATION,
		(uintptr_t)memory, -EOPNOTSUPP);
	try_one(bench, &commands[NUMBER(TAKE)], 0, (uintptr_t)memory, -EOPNOTSUPP);
	EXPECT_EQ(0, wrong(memory - before, before + TWO_MEG, 2));
	EXPECT_EQ(0, munmap(memory - before, before + TWO_MEG));
}

/* A hugetlb vma with ordinary memory before it. */
TEST_F_TIMEOUT(ioctl, hugetlb, TIMEOUT)
{
	const size_t before = 4 * page_size;
	unsigned char *memory = arena + 16 * TWO_MEG;
	long nr = read_number(NR_HUGEPAGES);

	if (nr < 0)
		SKIP(return, "no huge pages of 2 MiB");
	ASSERT_EQ(memory - before, mmap(memory - before, before, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	write_number(NR_HUGEPAGES, nr + 1);
	if (mmap(memory, TWO_MEG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		 MAP_HUGETLB | 21 << MAP_HUGE_SHIFT, -1, 0) != memory) {
		write_number(NR_HUGEPAGES, nr);
		SKIP(return, "cannot allocate a huge page of 2 MiB");
	}
	try_hugetlb(_metadata, &self->bench, memory, before);
	write_number(NR_HUGEPAGES, nr);
	check_intact(&self->bench);
}

/* The process that opened the file is gone */

/* An open file whose process is gone, or -1. */
static int file_of_nobody(unsigned int device)
{
	int answer[2], stay[2], fd = -1, pidfd, theirs = -1;
	pid_t pid;

	if (pipe(answer) || pipe(stay))
		return -1;
	pid = fork_child();
	if (!pid) {
		fd = open_device(device);
		if (write(answer[1], &fd, sizeof(fd)) == sizeof(fd))
			wait_for(stay[0]);
		_exit(0);
	}
	pidfd = syscall(__NR_pidfd_open, pid, 0);
	if (read(answer[0], &theirs, sizeof(theirs)) == sizeof(theirs) && theirs >= 0)
		fd = syscall(__NR_pidfd_getfd, pidfd, theirs, 0);
	tell(stay[1]);
	reap(pid);
	close(pidfd);
	close(answer[0]);
	close(answer[1]);
	close(stay[0]);
	close(stay[1]);
	return fd;
}

/* No range can be valid, because the process is gone. */
static void try_gone(struct bench *bench, const struct command *command)
{
	struct input input = wrong_input(bench, command, "process", -ESRCH);
	unsigned int first, end;
	__u32 flags = 0;

	do {
		input.argument.any.flags = flags;
		set_range(&input, (uintptr_t)at(MEMORY), page_size);
		send(bench, &input);
	} while (next_flags(command, &flags));

	input.argument.any.flags = 0;
	for (first = 0; first < ADDRESSED; first++) {
		for (end = first + 1; end <= ADDRESSED; end++) {
			set_range(&input, (uintptr_t)arena + first * page_size,
				  (end - first) * page_size);
			send(bench, &input);
		}
	}
	/* The arguments are checked first. */
	input.error = -EINVAL;
	input.argument.any.length = 0;
	send(bench, &input);
}

TEST_F_TIMEOUT(ioctl, process_is_gone, TIMEOUT)
{
	struct bench gone = self->bench;
	unsigned int i;

	gone.fd = file_of_nobody(variant->device);
	ASSERT_LE(0, gone.fd);
	for (i = 0; i < NR_COMMANDS; i++) {
		if (commands[i].ranged)
			try_gone(&gone, &commands[i]);
		else if (!is_one_of(&commands[i], BIT_OF(EVICT)))
			control_command(&gone, &commands[i]);
	}
	close(gone.fd);
	self->bench.wrong = gone.wrong;
	self->bench.complaints = gone.complaints;
	check_intact(&self->bench);
}

/* Unknown ioctl numbers */

static void try_number(struct bench *bench, unsigned int number)
{
	struct command command = {
		.name = "number",
		.request = number,
		.size = sizeof(union argument),
	};
	struct input input = {
		.command = &command,
		.field = "number",
		.value = number,
		.error = -ENOTTY,
	};

	/* The size is large enough for any of the structures. */
	input.argument.size = sizeof(input.argument);
	send(bench, &input);
}

TEST_F_TIMEOUT(ioctl, numbers, TIMEOUT)
{
	static const unsigned int sizes[] = {
		0, 1, 4, 8, sizeof(void *) * 2, sizeof(ARGUMENT(fault_order)) + 8,
		sizeof(ARGUMENT(info)), sizeof(ARGUMENT(range)),
		sizeof(ARGUMENT(access)), sizeof(ARGUMENT(statistics)), _IOC_SIZEMASK,
	};
	const unsigned int type = _IOC_TYPE(TEST_HMM_MIGRATE_INFO);
	struct bench *bench = &self->bench;
	unsigned int nr, other, dir, i;

	for (nr = NR_COMMANDS; nr <= _IOC_NRMASK; nr++)
		try_number(bench, _IO(type, nr));
	/* Encode the size of a structure in the number. */
	for (nr = 0; nr <= _IOC_NRMASK; nr++)
		for (dir = 0; dir <= _IOC_DIRMASK; dir++)
			for (i = 0; i < ARRAY_SIZE(sizes); i++)
				if (dir != _IOC_NONE || sizes[i])
					try_number(bench, _IOC(dir, type, nr, sizes[i]));
	/* Type 0 has some ioctls that every file supports. */
	for (other = 1; other <= _IOC_TYPEMASK; other++)
		for (nr = 0; other != type && nr < NR_COMMANDS; nr++)
			try_number(bench, _IO(other, nr));
	check_intact(bench);
}

/* Random calls */

/**
 * struct fuzz - a random walk
 * @bench: the state of the test
 * @seed: the seed
 * @state: of the generator
 * @round: number of calls so far
 * @refused: how many of them failed
 * @expected: the expected contents of the memory for the device
 * @input: the current call
 */
struct fuzz {
	struct bench *bench;
	uint64_t seed;
	uint64_t state;
	unsigned long round;
	unsigned long refused;
	unsigned char *expected;
	struct input input;
};

static unsigned long number_from(const char *name, unsigned long otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoul(text, NULL, 0) : otherwise;
}

/* xorshift64* */
static uint64_t any(struct fuzz *fuzz)
{
	fuzz->state ^= fuzz->state >> 12;
	fuzz->state ^= fuzz->state << 25;
	fuzz->state ^= fuzz->state >> 27;
	return fuzz->state * 0x2545f4914f6cdd1dULL;
}

static uint64_t below(struct fuzz *fuzz, uint64_t end)
{
	return (any(fuzz) >> 16) % end;
}

static bool one_in(struct fuzz *fuzz, unsigned int n)
{
	return !below(fuzz, n);
}

/* A random value, which mostly is invalid. */
static uint64_t any_value(struct fuzz *fuzz)
{
	switch (below(fuzz, 4)) {
	case 0:
		return below(fuzz, 16);
	case 1:
		return edge(below(fuzz, NR_EDGES));
	case 2:
		return below(fuzz, 64) * page_size;
	default:
		return any(fuzz);
	}
}

/*
 * An address in the arena, an unmapped one or a kernel address: never memory of the
 * program.
 */
static uint64_t any_addr(struct fuzz *fuzz)
{
	uint64_t page = (uintptr_t)arena + below(fuzz, RESIDENT_END) * page_size;

	switch (below(fuzz, 16)) {
	case 0:
		return any_value(fuzz) | 1ULL << 63;
	case 1:
		return below(fuzz, 1024);
	case 2:
		return page + below(fuzz, page_size);
	default:
		return page;
	}
}

static uint64_t any_length(struct fuzz *fuzz)
{
	switch (below(fuzz, 8)) {
	case 0:
		return any_value(fuzz);
	case 1:
		return below(fuzz, 3 * page_size);
	default:
		return (1 + below(fuzz, 8)) * page_size;
	}
}

static uint64_t any_buffer(struct fuzz *fuzz, enum part part)
{
	switch (below(fuzz, 16)) {
	case 0:
		return any_value(fuzz) | 1ULL << 63;
	case 1:
		return below(fuzz, 1024);
	case 2:
		return (uintptr_t)at(FIXED);
	case 3:
		return (uintptr_t)end_of(part) - below(fuzz, page_size);
	default:
		return (uintptr_t)at(part) + below(fuzz, size_of(part));
	}
}

/* Whether a call that skips gaps stays away from memory that this program needs. */
static bool may_skip_gaps(const union argument *argument)
{
	uint64_t offset = argument->any.addr - (uintptr_t)arena;

	return argument->any.addr >= 1ULL << 63 ||
	       (offset < RESIDENT_END * page_size &&
		argument->any.length <= RESIDENT_END * page_size - offset);
}

static void any_migration(struct fuzz *fuzz, struct test_hmm_migrate_range *range)
{
	range->flags = one_in(fuzz, 4) ? 0 : any(fuzz) & MIGRATE_FLAGS;
	/* Most flags are not valid for all ioctls. */
	if (one_in(fuzz, 2))
		range->flags &= TEST_HMM_MIGRATE_LARGE | TEST_HMM_MIGRATE_HUGE |
				RANGE_FLAGS;
	/* An eviction is slow. */
	if (!one_in(fuzz, 32))
		range->flags &= ~TEST_HMM_MIGRATE_MAKE_ROOM;
	if (!may_skip_gaps((union argument *)range))
		range->flags &= ~TEST_HMM_MIGRATE_SKIP_GAPS;
	range->chunk = one_in(fuzz, 8) ? any_value(fuzz) : below(fuzz, 4) * page_size;
	range->hole_order = one_in(fuzz, 4) ? below(fuzz, 12) : 0;
	range->node = one_in(fuzz, 8) ? below(fuzz, 4) : 0;
	if (one_in(fuzz, 32))
		range->node = any_value(fuzz);
	/* The following fields are only for hmm_migrate_range(). */
	if (range->flags & TEST_HMM_MIGRATE_BARE && !one_in(fuzz, 32))
		return;
	range->way = below(fuzz, TEST_HMM_MIGRATE_NR_WAYS + 1);
	range->depth = one_in(fuzz, 4) ? below(fuzz, TEST_HMM_MIGRATE_MAX_DEPTH + 2) : 0;
	if (range->flags & TEST_HMM_MIGRATE_ENGINE)
		range->engine = below(fuzz, TEST_HMM_MIGRATE_NR_ENGINES + 1);
	range->usec = one_in(fuzz, 16) ? any_value(fuzz) : 0;
}

/* Writes use their own part of the arena. */
static void any_access(struct fuzz *fuzz, const struct command *command,
		       struct test_hmm_migrate_access *access)
{
	unsigned int page = (access->addr - (uintptr_t)arena) / page_size;

	access->buffer = any_buffer(fuzz, SCRATCH);
	if (!is_one_of(command, BIT_OF(WRITE)))
		return;
	access->buffer = any_buffer(fuzz, MIRROR);
	if (page < RESIDENT_END && part_of(page) != UNMAPPED && part_of(page) != BEHIND)
		access->addr = (uintptr_t)at(BEHIND) + below(fuzz, size_of(BEHIND));
}

static void any_injection(struct fuzz *fuzz, struct test_hmm_migrate_inject *inject)
{
	inject->what = below(fuzz, TEST_HMM_MIGRATE_NR_FAIL + 1);
	inject->order = below(fuzz, TEST_HMM_MIGRATE_MAX_ORDER + 2);
	inject->reserved = one_in(fuzz, 16) ? any_value(fuzz) : 0;
	inject->nth = below(fuzz, 8);
	inject->times = one_in(fuzz, 16) ? any_value(fuzz) : below(fuzz, 8);
}

static void any_fields(struct fuzz *fuzz, const struct command *command,
		       union argument *argument)
{
	if (command->ranged) {
		argument->any.addr = any_addr(fuzz);
		argument->any.length = any_length(fuzz);
	}
	if (!command->flagless && one_in(fuzz, 2))
		argument->any.flags = any(fuzz) & command->flags;
	if (is_one_of(command, MIGRATES)) {
		any_migration(fuzz, &argument->range);
	} else if (is_one_of(command, ACCESSES)) {
		any_access(fuzz, command, &argument->access);
	} else if (is_one_of(command, BIT_OF(SNAPSHOT))) {
		argument->snapshot.buffer = any_buffer(fuzz, SCRATCH);
	} else if (is_one_of(command, BIT_OF(HOLD))) {
		argument->hold.usec = one_in(fuzz, 8) ?
			TEST_HMM_MIGRATE_MAX_HOLD_TIME + 1 + any_value(fuzz) / 2 :
			below(fuzz, 20);
	} else if (is_one_of(command, BIT_OF(INJECT))) {
		any_injection(fuzz, &argument->inject);
	} else if (is_one_of(command, BIT_OF(FAULT_ORDER))) {
		argument->fault_order.order = below(fuzz, TEST_HMM_MIGRATE_MAX_ORDER + 2);
		argument->fault_order.window_order = below(fuzz, MAX_WINDOW_ORDER + 2);
		argument->fault_order.stay_usec = one_in(fuzz, 16) ? any_value(fuzz) : 0;
	}
	/* Sometimes set an undefined flag. */
	if (!command->flagless && one_in(fuzz, 16))
		argument->any.flags |= 1U << (12 + below(fuzz, 20));
}

static void any_size(struct fuzz *fuzz, const struct command *command,
		     union argument *argument)
{
	size_t size;

	memset(at(STRUCTURE), 0, size_of(STRUCTURE));
	if (!one_in(fuzz, 16))
		return;
	size = one_in(fuzz, 2) ? below(fuzz, 2 * command->size) :
				 below(fuzz, page_size + 64);
	if (one_in(fuzz, 2))
		at(STRUCTURE)[below(fuzz, size_of(STRUCTURE))] = 1;
	argument->size = size;
}

static void any_input(struct fuzz *fuzz)
{
	const struct command *command = &commands[below(fuzz, NR_COMMANDS)];

	/* These are slow, so choose them less often. */
	if (is_one_of(command, MIGRATES | BIT_OF(EVICT)) && !one_in(fuzz, 3))
		command = &commands[below(fuzz, NR_COMMANDS)];
	if (is_one_of(command, BIT_OF(EVICT)) && !one_in(fuzz, 64))
		command = &commands[NUMBER(SNAPSHOT)];
	fuzz->input = right_input(fuzz->bench, command);
	fuzz->input.field = "round";
	fuzz->input.value = fuzz->round;
	any_fields(fuzz, command, &fuzz->input.argument);
	any_size(fuzz, command, &fuzz->input.argument);
}

/*
 * Whether the call may return this error here: memory is short only by injections,
 * and no signals are sent.
 */
static bool may_return(struct fuzz *fuzz, int ret)
{
	const struct command *command = fuzz->input.command;

	switch (-ret) {
	case 0:
	case EFAULT:
	case EINVAL:
	case E2BIG:
		return true;
	case ENOMEM:
		return command->ranged;
	case EPERM:
		return is_one_of(command, BIT_OF(WRITE));
	case EIO:
		return is_one_of(command, MIGRATES);
	case EAGAIN:
		return is_one_of(command, MIGRATES) &&
		       (fuzz->input.argument.range.way == TEST_HMM_MIGRATE_BY_READER ||
			fuzz->input.argument.range.way == TEST_HMM_MIGRATE_BY_WRITER);
	case ETIME:
		return is_one_of(command, MIGRATES) && fuzz->input.argument.range.usec;
	case ENODEV:
		return !fuzz->bench->engine && wants_engine(&fuzz->input);
	default:
		return false;
	}
}

static bool accounts_for_all(const struct test_hmm_migrate_range *range)
{
	return range->done - range->addr <= range->length &&
	       sum_of(range) == (range->done - range->addr) / page_size;
}

/* Up to @done, a read returns the contents, and a write has changed them. */
static bool access_is_right(struct fuzz *fuzz, const struct command *command,
			    const struct test_hmm_migrate_access *access)
{
	uint64_t offset = access->addr - (uintptr_t)arena;
	const void *buffer = (void *)access->buffer;

	if (!access->done)
		return true;
	if (access->done > access->length || offset > RESIDENT_END * page_size ||
	    access->done > RESIDENT_END * page_size - offset)
		return false;
	if (is_one_of(command, BIT_OF(READ)))
		return !memcmp(buffer, fuzz->expected + offset, access->done);
	memcpy(fuzz->expected + offset, buffer, access->done);
	return true;
}

static bool fuzz_is_right(struct fuzz *fuzz, const union argument *after, int ret)
{
	const struct command *command = fuzz->input.command;
	bool refused = is_refusal(ret);

	if (memcmp(after, &fuzz->input.argument, refused ? command->size : command->in))
		return false;
	if (refused)
		return true;
	if (is_one_of(command, MIGRATES))
		return accounts_for_all(&after->range);
	if (is_one_of(command, ACCESSES))
		return access_is_right(fuzz, command, &after->access);
	return true;
}

static void fuzz_once(struct fuzz *fuzz)
{
	unsigned char *where = at(STRUCTURE) + below(fuzz, 8);
	const struct command *command;
	union argument after;
	int ret;

	any_input(fuzz);
	command = fuzz->input.command;
	memcpy(where, &fuzz->input.argument, command->size);
	ret = device_ioctl(fuzz->bench->fd, command->request, where);
	memcpy(&after, where, command->size);
	fuzz->refused += ret != 0;
	fuzz->input.error = 0;
	if (!may_return(fuzz, ret))
		complain(fuzz->bench, &fuzz->input, ret, "that is none of its errors");
	else if (!fuzz_is_right(fuzz, &after, ret))
		complain(fuzz->bench, &fuzz->input, ret, "what came of it");
}

/* Device-exclusive pages cannot move until the CPU touches them. */
static void touch(enum part part)
{
	size_t offset;

	for (offset = 0; offset < size_of(part); offset += page_size)
		*(atomic_uchar *)(at(part) + offset) |= 0;
}

static void fuzz_check(struct __test_metadata *_metadata, struct fuzz *fuzz)
{
	struct test_hmm_migrate_evict argument;
	struct bench *bench = fuzz->bench;

	disarm(bench->fd);
	EXPECT_EQ(0, set_fault_order(bench->fd, TEST_HMM_MIGRATE_MAX_ORDER));
	touch(MEMORY);
	touch(BEHIND);
	touch(RESIDENT);
	EXPECT_EQ(0, evict(bench->fd, &argument));
	EXPECT_EQ(0, device_used(bench->fd, 0));
	mprotect(at(NO_ACCESS), size_of(NO_ACCESS), PROT_READ);
	EXPECT_EQ(0, memcmp(at(MEMORY), fuzz->expected + (at(MEMORY) - arena),
			    size_of(MEMORY)));
	EXPECT_EQ(0, memcmp(at(BEHIND), fuzz->expected + (at(BEHIND) - arena),
			    end_of(NO_ACCESS) - at(BEHIND)));
	mprotect(at(NO_ACCESS), size_of(NO_ACCESS), PROT_NONE);
	EXPECT_EQ(0, wrong_words(RESIDENT));
	EXPECT_EQ(0, wrong(at(MIRROR), size_of(MIRROR), 1));
}

/*
 * Random arguments that are partly valid. They never address memory that the program
 * needs, so it can run while injected failures make CPU faults fail.
 */
TEST_F_TIMEOUT(ioctl, fuzz, TIMEOUT)
{
	unsigned long rounds = number_from("HMM_MIGRATE_FUZZ", 20000);
	struct fuzz fuzz = {
		.bench = &self->bench,
		.seed = number_from("HMM_MIGRATE_SEED", 1),
	};

	ksft_print_msg("HMM_MIGRATE_SEED=%llu\n", (unsigned long long)fuzz.seed);
	/* A state of 0 would never change. */
	fuzz.state = (fuzz.seed + 1) * 0x9e3779b97f4a7c15ULL ?: 1;
	fuzz.expected = malloc(RESIDENT_END * page_size);
	ASSERT_NE(NULL, fuzz.expected);
	fill(fuzz.expected, RESIDENT_END * page_size, 1);

	for (fuzz.round = 0; fuzz.round < rounds; fuzz.round++) {
		fuzz_once(&fuzz);
		if (fuzz.round % 4096 == 4095)
			fuzz_check(_metadata, &fuzz);
		if (_metadata->exit_code)
			break;
	}
	fuzz_check(_metadata, &fuzz);
	ksft_print_msg("%lu of %lu random inputs refused\n", fuzz.refused, fuzz.round);
	free(fuzz.expected);
}

TEST_HARNESS_MAIN
