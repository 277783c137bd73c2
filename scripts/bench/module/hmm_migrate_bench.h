/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What the measuring module and the program that drives it share. Both are
 * built from the same checkout, so there is no compatibility to care for.
 */
#ifndef HMM_MIGRATE_BENCH_H
#define HMM_MIGRATE_BENCH_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define HMM_MIGRATE_BENCH_ORDERS	10

/* Bring the range back to system memory; without it: to the device. */
#define HMM_MIGRATE_BENCH_BACK		0x1
/* Copy the contents; without it they are lost, and only time is measured. */
#define HMM_MIGRATE_BENCH_COPY		0x2

/**
 * struct hmm_migrate_bench_trip - one trip of a range, and what it cost
 * @addr: in: where the range starts; in one vma
 * @length: in: its length in bytes
 * @chunk: in: how many bytes each migrate_vma_setup() is asked for
 * @flags: in: HMM_MIGRATE_BENCH_BACK, _COPY
 * @moved: out: pages that moved
 * @setup: out: ns in migrate_vma_setup()
 * @copy: out: ns copying
 * @pages: out: ns in migrate_vma_pages()
 * @finalize: out: ns in migrate_vma_finalize()
 * @clock: out: ns that taking the time adds to each of the three, a call
 * @calls: out: how many migrate_vma_setup() it took
 * @from: out: folios that moved by the order they had
 * @to: out: folios that they became by order
 */
struct hmm_migrate_bench_trip {
	__u64 addr;
	__u64 length;
	__u64 chunk;
	__u64 flags;
	__u64 moved;
	__u64 setup;
	__u64 copy;
	__u64 pages;
	__u64 finalize;
	__u64 clock;
	__u64 calls;
	__u64 from[HMM_MIGRATE_BENCH_ORDERS];
	__u64 to[HMM_MIGRATE_BENCH_ORDERS];
};

/* What to take the time of. */
enum {
	/* hmm_migrate_range() with the engine. */
	HMM_MIGRATE_BENCH_RANGE,
	/* The three calls, allocation and DMA mapping, and no copy. */
	HMM_MIGRATE_BENCH_CPU,
	/* The same chunks given to the engine, and nothing migrated. */
	HMM_MIGRATE_BENCH_ENGINE,
	/* The three calls, and the engine between two of them: one after the other. */
	HMM_MIGRATE_BENCH_SERIAL,
	/* All comes back; of this nobody wants to know the time. */
	HMM_MIGRATE_BENCH_RETURN,
	/* hmm_migrate_evict() of all private memory, with the engine; and no copy. */
	HMM_MIGRATE_BENCH_EVICT,
	HMM_MIGRATE_BENCH_EVICT_CPU,
	/* From the private memory of one device to that of another; the same. */
	HMM_MIGRATE_BENCH_PEER,
	HMM_MIGRATE_BENCH_PEER_CPU,
	/* And back from there, which nobody wants to know the time of. */
	HMM_MIGRATE_BENCH_PEER_RETURN,
	/* hmm_migrate_range_back(), no copy. */
	HMM_MIGRATE_BENCH_BACK_CPU,
	/* From now on a fault brings back a window of the chunk's size, no copy. */
	HMM_MIGRATE_BENCH_WINDOW,
	/* Hold the lock of the folio at the address for as many ms as the range has pages. */
	HMM_MIGRATE_BENCH_HOLD,
	HMM_MIGRATE_BENCH_NR_WHATS
};

/* Where to. */
enum {
	HMM_MIGRATE_BENCH_PRIVATE,
	HMM_MIGRATE_BENCH_COHERENT,
	/* Ordinary memory of node 1; it is on node 0 otherwise. */
	HMM_MIGRATE_BENCH_NODE,
	HMM_MIGRATE_BENCH_NR_KINDS
};

/**
 * struct hmm_migrate_bench_pipeline - migrate a range by an engine
 * @addr: in: where the range starts; in one vma
 * @length: in: its length in bytes
 * @chunk: in: bytes a chunk
 * @what: in: HMM_MIGRATE_BENCH_RANGE, ...
 * @kind: in: HMM_MIGRATE_BENCH_PRIVATE, ...
 * @time: out: ns
 * @moved: out: pages that moved; with HMM_MIGRATE_BENCH_ENGINE, that were copied
 * @step: out: ns of each step of HMM_MIGRATE_BENCH_RANGE
 */
struct hmm_migrate_bench_pipeline {
	__u64 addr;
	__u64 length;
	__u64 chunk;
	__u64 what;
	__u64 kind;
	__u64 time;
	__u64 moved;
	__u64 step[7];
};

/* Request HMM_PFN_REQ_FAULT; without it: what is there is reported. */
#define HMM_MIGRATE_BENCH_REQ_FAULT	0x1
/* Set HMM_RANGE_FOLIO_ORDER; EOPNOTSUPP from a kernel that does not have it. */
#define HMM_MIGRATE_BENCH_FOLIO_ORDER	0x2

/**
 * struct hmm_migrate_bench_range_fault - hmm_range_fault() and what it cost
 * @addr: in: where the range starts; in one vma
 * @length: in: its length in bytes
 * @chunk: in: how many bytes each hmm_range_fault() is asked for
 * @flags: in: HMM_MIGRATE_BENCH_REQ_FAULT, _FOLIO_ORDER
 * @time: out: ns in hmm_range_fault()
 * @clock: out: ns that taking the time adds to it, a call
 * @calls: out: how many hmm_range_fault() it took
 * @pages: out: valid pages by the order that was reported of them
 */
struct hmm_migrate_bench_range_fault {
	__u64 addr;
	__u64 length;
	__u64 chunk;
	__u64 flags;
	__u64 time;
	__u64 clock;
	__u64 calls;
	__u64 pages[HMM_MIGRATE_BENCH_ORDERS];
};

#define HMM_MIGRATE_BENCH_RANGE_FAULT \
	_IOWR('H', 0xb2, struct hmm_migrate_bench_range_fault)
#define HMM_MIGRATE_BENCH_PIPELINE \
	_IOWR('H', 0xb1, struct hmm_migrate_bench_pipeline)
#define HMM_MIGRATE_BENCH_TRIP	_IOWR('H', 0xb0, struct hmm_migrate_bench_trip)

#endif
