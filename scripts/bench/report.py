#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""report.py FIGURES RESULTS DIR: prints the tables, writes what the charts are
drawn from into DIR, and fails when a must of an issue that is done is missed or
a measurement is missing."""

import json
import sys

STAGES = ('setup', 'pages', 'finalize')
DIRECTIONS = ('out', 'back')
SIZES = ('4k', '16k', '64k', '1m', '2m')
RANGES = ('2', '8', '32', '128', '512')
CURVES = ('4k', '4k-scattered', '64k', '2m')
PIPELINE = CURVES + tuple(f'{size}-{to}' for to in ('coherent', 'node') for size in ('4k', '64k', '2m'))
PIPELINE_MIB, CHUNK_KIB = 64, 2048
CHUNKS = tuple(1 << n for n in range(6, 17))
# What is timed besides, and what that is compared with: the largest of these.
AROUND = {'evict-64k': ('engine', 'cpu'), 'evict-2m': ('engine', 'cpu'),
          'peer-64k': ('engine', 'cpu'), 'peer-2m': ('engine', 'cpu'),
          'fault': ('back',), 'callers': ('alone',)}
# Pages of which so many are neighbours, and nanoseconds that a descriptor costs besides.
RUNS, PREPS = (1, 2, 4, 8, 16, 32, 64), (0, 2000, 4000)
COPIERS = ('engine', 'cpu', 'range')
# From node to node by mbind(2), and where it is already.
NODES = ('4k', '64k', '2m', 'tmpfs-4k', 'tmpfs-64k', 'tmpfs-2m')
MOVES = ('there', 'back', 'stay')
SPARSE = (1, 3, 6, 16, 64)
NODE_ORDERS = {'4k': '0', '64k': '4', '2m': '9'}
REQUESTS = ('fault', 'snapshot')
# The order that hmm_range_fault() reports without HMM_RANGE_FOLIO_ORDER, and with it.
MAPPED = {'4k': ('0', '0'), '64k': ('0', '4'), '2m': ('9', '9')}
TOLERANCE = 0.10

# Row of the table: the folio size and which trip it is. A second trip, since
# nothing is special about it; but a THP's first one is where it may be split.
CASES = {'4k': ('4k', 2), '16k': ('16k', 2), '64k': ('64k', 2), '1m': ('1m', 2),
         '2m': ('2m', 1), '2m-again': ('2m', 2)}


class Figures:
    """What the file scripts/bench/figures says."""

    def __init__(self, path):
        self.done, self.base, self.stock, self.musts, self.reached = set(), None, {}, {}, {}
        self.mainline = {}
        with open(path, encoding='utf-8') as file:
            for number, line in enumerate(file, 1):
                words = line.split('#')[0].split()
                if not words:
                    continue
                try:
                    self.take(words)
                except (ValueError, IndexError):
                    sys.exit(f'{path}:{number}: cannot be understood: {line.strip()}')

    def take(self, words):
        kind, rest = words[0], words[1:]
        if kind == 'done':
            self.done = {int(w) for w in rest if w != 'none'}
        elif kind == 'base':
            self.base = rest[0]
        elif kind == 'stock':
            self.stock[rest[0], rest[1]] = [None if w in ('none', '-') else float(w) for w in rest[2:]]
        elif kind == 'must':
            issue, case, direction, must, aim = rest
            self.musts[case, direction] = (int(issue), float(must), None if aim == '-' else float(aim))
        elif kind == 'mainline':
            self.mainline[rest[0], rest[1]] = float(rest[2])
        elif kind == 'reached':
            case, direction, value = rest
            self.reached[case, direction] = float(value)
        else:
            raise ValueError(kind)


class Kernel:
    """The measurements of one kernel, and the kernel that ratios are over."""

    def __init__(self, name, results, base=None):
        self.name, self.release, self.by_key, self.base = name, None, {}, base
        for r in results:
            if r['what'] == 'kernel':
                self.release = r['release']
                continue
            key = (r['what'], r['case'], r.get('trip'), r['direction'], r.get('copied'))
            self.by_key[key] = r

    def trip(self, case, direction, copied=False):
        size, trip = CASES[case]
        return self.by_key.get(('trip', size, trip, direction, copied))

    def range(self, mib, direction):
        return self.by_key.get(('range', mib, 2, direction, False))

    def shootdowns(self, size, direction):
        """The median of the trips but the first, or one that did not move all; None if there are none."""
        trips = [r for k, r in self.by_key.items()
                 if k[0] == 'shootdowns' and k[1] == size and k[3] == direction and k[2] > 1]
        for r in trips:
            if not whole(r):
                return r
        return sorted(trips, key=lambda r: r['sent'])[len(trips) // 2] if trips else None

    def range_fault(self, size, request):
        """The cheapest of the tries, as the timer's interrupt falls into some, or one that was not reported right."""
        tries = [r for k, r in self.by_key.items() if k[0] == 'range-fault' and k[1] == size and k[3] == request]
        for r in tries:
            if not reported(r):
                return r
        return min(tries, key=fault_per_page, default=None)

    def nodes(self, case, move, by_range=True):
        """The dearer of the trips of mbind(2), or one that did not move all. Stock has no ranges."""
        name = case if by_range and self.base else f'{case}-off'
        trips = [r for k, r in self.by_key.items() if k[0] == 'nodes' and k[1] == name and k[3] == move]
        for r in trips:
            if not arrived(r):
                return r
        return max(trips, key=lambda r: r['time']) if len(trips) == 2 else None

    def sparse(self, run, by_range=True):
        """mbind(2) of runs of so many pages, far from each other."""
        name = f'sparse-{run}' if by_range and self.base else f'sparse-{run}-off'
        return self.by_key.get(('nodes', name, 1, 'there', None))

    def missing(self):
        if not self.release:
            yield 'the kernel version'
        for direction in DIRECTIONS:
            for case in CASES:
                for copied in (False, True):
                    if not self.trip(case, direction, copied):
                        yield f'{case} {direction}{" with copy" if copied else ""}'
            for mib in RANGES:
                if not self.range(mib, direction):
                    yield f'{mib} MiB {direction}'
            for size in SIZES:
                if not self.shootdowns(size, direction):
                    yield f'shootdowns {size} {direction}'
        for case in NODES:
            for move in MOVES:
                for by_range in (True, False) if self.base else (False,):
                    if not arrived(self.nodes(case, move, by_range)):
                        yield f'mbind() of {case}, {move}'
        for run in SPARSE:
            for by_range in (True, False) if self.base else (False,):
                if not arrived(self.sparse(run, by_range)):
                    yield f'mbind() of runs of {run}'
        for size in MAPPED:
            for request in REQUESTS + (tuple(f'{r}-order' for r in REQUESTS) if self.base else ()):
                if not reported(self.range_fault(size, request)):
                    yield f'hmm_range_fault() of {size}, {request}'
        if self.name == 'series':
            for size in PIPELINE:
                for what in ('cpu', 'engine', 'serial', 'range'):
                    if not self.chunk(size, CHUNK_KIB, what):
                        yield f'the pipeline of {size}, {what}'
            for case, others in AROUND.items():
                for what in others + ('range',) + (('each',) if case == 'fault' else ()):
                    if not self.chunk(case, CHUNK_KIB, what):
                        yield f'{case}, {what}'
            for run in RUNS:
                for prep in PREPS:
                    for who in COPIERS:
                        if not self.chunk(f'run-{run}-{prep}', CHUNK_KIB, who):
                            yield f'runs of {run}, {prep} ns, copied by {who}'
            for size in CURVES:
                for kib in CHUNKS:
                    if not self.chunk(size, kib, 'range'):
                        yield f'the pipeline of {size}, chunks of {kib} KiB'

    def chunk(self, size, kib, what):
        """How many ns 64 MiB of a folio size take in chunks, by the engine, or a part of that."""
        r = self.by_key.get(('chunk', size, kib, what, None))
        return r['time'] if r else None


def whole(r):
    return r is not None and r['moved'] == r['asked']


def arrived(r):
    """Has mbind(2) moved all, or nothing where all is there?"""
    return r is not None and r['moved'] == (0 if r['direction'] == 'stay' else r['asked'])


def has_kept_folios(r):
    return list(r['after']) == [NODE_ORDERS[r['case'].removesuffix('-off').split('-')[-1]]]


def kept(r):
    return r.get('before') == r.get('after')


def per_page(r, *what):
    return sum(r[w] for w in what) / r['asked']


def partly(r):
    return 'not measured' if r is None else f"{r['moved']:,} of {r['asked']:,} pages"


def reported(r):
    return r is not None and r['pages'] == {MAPPED[r['case']][r['direction'].endswith('-order')]: r['asked']}


def fault_per_page(r):
    return (r['time'] - r['calls'] * r['clock']) / r['asked']


def misreported(r):
    if r is None:
        return 'not measured'
    found = ', '.join(f'{n:,} of order {o}' for o, n in r['pages'].items())
    return f"reported of {r['asked']:,} pages: {found or 'none'}"


def flatness(kernel, direction):
    ranges = [kernel.range(mib, direction) for mib in RANGES]
    if not all(whole(r) for r in ranges):
        return None
    costs = [per_page(r, *STAGES) for r in ranges]
    return max(costs) / min(costs)


def value_of(kernel, case, direction):
    """The figure of a case, and why there is none or it does not count."""
    if case == 'flat':
        value = flatness(kernel, direction)
        return value, None if value else 'not all pages migrate'
    if case.startswith('range-fault-'):
        found = [k.range_fault(case.removeprefix('range-fault-'), direction) for k in (kernel, kernel.base)]
        for r in found:
            if not reported(r):
                return None, misreported(r)
        return fault_per_page(found[0]) / fault_per_page(found[1]), None
    if case.startswith('pipeline-'):
        times = [kernel.chunk(case.removeprefix('pipeline-'), CHUNK_KIB, what) for what in ('range', 'engine', 'cpu')]
        return (times[0] / max(times[1:]), None) if all(times) else (None, 'not measured')
    if case.startswith('run-'):
        times = [kernel.chunk(case, CHUNK_KIB, what) for what in ('range', 'engine', 'cpu')]
        return (times[0] / min(times[1:]), None) if all(times) else (None, 'not measured')
    if case in AROUND:
        times = [kernel.chunk(case, CHUNK_KIB, what) for what in ('range',) + AROUND[case]]
        return (times[0] / max(times[1:]), None) if all(times) else (None, 'not measured')
    if case.startswith('nodes-'):
        return value_of_nodes(kernel, case.removeprefix('nodes-'), direction)
    if case.startswith('shootdowns-'):
        r = kernel.shootdowns(case.split('-')[1], direction)
        return (r['sent'], None) if whole(r) else (None, partly(r))
    r = kernel.trip(case, direction)
    if not whole(r):
        return None, partly(r)
    return per_page(r, *STAGES), None if kept(r) else 'folios split'


def value_of_nodes(kernel, case, direction):
    """Instructions a page; of files, and of what is there already, over those of stock."""
    found = [k.nodes(case, direction) for k in (kernel, kernel.base)]
    for r in found:
        if not arrived(r):
            return None, partly(r)
    cost = [r['time'] / r['asked'] for r in found]
    value = cost[0] / cost[1] if case.startswith('tmpfs') or direction == 'stay' else cost[0]
    return value, None if has_kept_folios(found[0]) else 'folios split'


def judge(figures, kernel, case, direction):
    """Returns the words for the table, and whether it is a failure."""
    if (case, direction) not in figures.musts:
        return '', False
    issue, must, aim = figures.musts[case, direction]
    value, why = value_of(kernel, case, direction)
    if value is not None and value <= must and not why:
        return ('met, aim too' if aim is not None and value <= aim else 'met'), False
    reached = figures.reached.get((case, direction))
    if issue in figures.done and reached and value is not None and value <= reached and not why:
        return f'NOT REACHED, holds {number(reached)}', False
    if issue in figures.done:
        return 'MISSED' + (f': {why}' if why else ''), True
    return f'open until {issue}/6', False


def number(value):
    if value is None:
        return '-'
    return f'{value:.2f}' if value < 10 and value != int(value) else f'{value:,.0f}'


def print_table(heads, rows):
    """A row is a list of cells, and a cell may span several columns: (text, n)."""
    cells = [[c if isinstance(c, tuple) else (c, 1) for c in row] for row in [heads] + rows]
    widths = [0] * len(heads)
    for row in cells:
        at = 0
        for text, span in row:
            if span == 1:
                widths[at] = max(widths[at], len(text))
            at += span
    for row in cells:
        at, line = 0, []
        for text, span in row:
            width = sum(widths[at:at + span]) + 2 * (span - 1)
            left = at < 2 or at == len(heads) - 1
            line.append(text.ljust(width) if left else text.rjust(width))
            at += span
        print('  '.join(line).rstrip())
    print()


def parts(r, *what):
    """Cells: each part and their sum, or why there are none."""
    if not whole(r):
        return [(partly(r), len(what) + 1)]
    return [number(per_page(r, w)) for w in what] + [number(per_page(r, *what))]


def must_cells(figures, kernel, case, direction):
    issue_must_aim = figures.musts.get((case, direction), (None, None, None))
    return [number(issue_must_aim[1]), number(issue_must_aim[2]),
            judge(figures, kernel, case, direction)[0]]


def print_trips(figures, stock, series):
    print('Instructions per 4 KiB page, contents not copied (2m: first trip of a THP, 2m-again: its second)\n')
    print_table(['case', 'direction', 'stock: setup', 'pages', 'finalize', 'sum',
                 'series: setup', 'pages', 'finalize', 'sum', 'must', 'aim', 'verdict'],
                [[case, direction] + parts(stock.trip(case, direction), *STAGES) +
                 parts(series.trip(case, direction), *STAGES) +
                 must_cells(figures, series, case, direction)
                 for case in CASES for direction in DIRECTIONS])


def orders(r, when):
    names = {'0': '4k', '1': '8k', '2': '16k', '3': '32k', '4': '64k', '5': '128k', '6': '256k',
             '7': '512k', '8': '1m', '9': '2m'}
    return ' + '.join(f'{n:,} x {names[o]}' for o, n in sorted(r[when].items())) or 'nothing'


def print_orders(stock, series):
    rows = []
    for case in CASES:
        for kernel in (stock, series):
            out, back = (kernel.trip(case, d, True) for d in DIRECTIONS)
            if out and back:
                rows.append([case, kernel.name, orders(out, 'before'), orders(out, 'to'), orders(back, 'after'),
                             '' if whole(out) and whole(back) else f'{partly(out)} migrate'])
    print('What 16 MiB consist of\n')
    print_table(['case', 'kernel', 'before', 'on the device', 'after', ''], rows)


def print_copies(stock, series):
    print('The same with the contents copied by the CPU, and verified after each trip\n')
    stages = ('copy',) + STAGES
    print_table(['case', 'direction', 'stock: copy', 'setup', 'pages', 'finalize', 'sum',
                 'series: copy', 'setup', 'pages', 'finalize', 'sum', ''],
                [[case, direction] + parts(stock.trip(case, direction, True), *stages) +
                 parts(series.trip(case, direction, True), *stages) + ['']
                 for case in CASES for direction in DIRECTIONS])


def print_ranges(figures, stock, series):
    rows = []
    for direction in DIRECTIONS:
        for kernel in (stock, series):
            cells = [number(per_page(r, *STAGES)) if whole(r) else partly(r)
                     for r in (kernel.range(mib, direction) for mib in RANGES)]
            must = must_cells(figures, kernel, 'flat', direction) if kernel is series else ['', '', '']
            rows.append([direction, kernel.name] + cells + [number(flatness(kernel, direction))] + must)
    print('Instructions per 4 KiB page against the size of the range, one call each, 4 KiB pages\n')
    print_table(['direction', 'kernel'] + [f'{m} MiB' for m in RANGES] + ['max/min', 'must', 'aim', 'verdict'], rows)


def print_shootdowns(figures, stock, series):
    rows = []
    for size in SIZES:
        for direction in DIRECTIONS:
            cells = []
            for kernel in (stock, series):
                r = kernel.shootdowns(size, direction)
                cells.append(number(r['sent']) if whole(r) else partly(r))
            rows.append([size, direction] + cells + must_cells(figures, series, f'shootdowns-{size}', direction))
    print('TLB shootdowns for 2 MiB, three other threads of the process running\n')
    print_table(['case', 'direction', 'stock', 'series', 'must', 'aim', 'verdict'], rows)


def print_range_faults(figures, stock, series):
    rows = []
    for size in MAPPED:
        for request in REQUESTS:
            found = [stock.range_fault(size, request), series.range_fault(size, request),
                     series.range_fault(size, f'{request}-order')]
            cells = [f'{fault_per_page(r):.1f}' if reported(r) else misreported(r) for r in found]
            ratio, _ = value_of(series, f'range-fault-{size}', request)
            cells.insert(2, '-' if ratio is None else f'{100 * (ratio - 1):+.1f} %')
            rows.append([size, request] + cells + must_cells(figures, series, f'range-fault-{size}', request))
    print('Instructions of hmm_range_fault() per 4 KiB page that is mapped, 2 MiB a call; '
          'the must is series over stock\n')
    print_table(['case', 'request', 'stock', 'series', 'deviation', 'with HMM_RANGE_FOLIO_ORDER', 'must', 'aim',
                 'verdict'], rows)


def milliseconds(ns):
    return '-' if ns is None else f'{ns / 1e6:.2f}'


def print_pipeline(figures, series):
    rows = []
    for size in PIPELINE:
        case = f'pipeline-{size}'
        value, why = value_of(series, case, 'out')
        rows.append([size, 'out'] + [milliseconds(series.chunk(size, CHUNK_KIB, what))
                                     for what in ('engine', 'cpu', 'serial', 'range')] +
                    [why or f'{value:.3f}'] + must_cells(figures, series, case, 'out'))
    print('64 MiB to a private device, a coherent one and another node by an engine of 20 GB/s and 10 us latency, chunks of 2 MiB, milliseconds: the engine '
          'alone,\nthe CPU alone (three calls, allocation, DMA mapping), three calls and the engine in turn, '
          'hmm_migrate_range()\n')
    print_table(['case', 'direction', 'engine', 'CPU', 'in turn', 'range', 'range / larger', 'must', 'aim', 'verdict'],
                rows)
    rows = []
    for kib in CHUNKS:
        rows.append([f'{kib} KiB' if kib < 1024 else f'{kib // 1024} MiB', ''] +
                    [gigabytes(series.chunk(size, kib, 'range')) for size in CURVES] + [''])
    print('GB/s of hmm_migrate_range() against the size of the chunk\n')
    print_table(['chunk', ''] + list(CURVES) + [''], rows)


def print_around(figures, series):
    rows = []
    for case, others in AROUND.items():
        value, why = value_of(series, case, 'out')
        rows.append([case, '', ' and '.join(others)] +
                    [milliseconds(max(filter(None, (series.chunk(case, CHUNK_KIB, w) for w in others)), default=None)),
                     milliseconds(series.chunk(case, CHUNK_KIB, 'range')), why or f'{value:.3f}'] +
                    must_cells(figures, series, case, 'out'))
    print('What drivers need around it, milliseconds: 64 MiB evicted by pfns, and from one device to another; one fault '
          'for a window of\n2 MiB of small pages, against hmm_migrate_range_back() of it; 15 callers with one engine '
          'while another one is stuck, against\n15 alone\n')
    print_table(['case', '', 'compared with', 'that', 'range', 'range / larger', 'must', 'aim', 'verdict'], rows)
    print(f"512 faults for the same 2 MiB: {milliseconds(series.chunk('fault', CHUNK_KIB, 'each'))} ms\n")


def print_copiers(figures, series):
    rows = []
    for run in RUNS:
        cells = []
        for prep in PREPS:
            case = f'run-{run}-{prep}'
            cells += [milliseconds(series.chunk(case, CHUNK_KIB, who)) for who in COPIERS]
            value, _ = value_of(series, case, 'out')
            cells.append('-' if value is None else f'{value:.2f}')
        rows.append([str(run), ''] + cells + [judge_runs(figures, series, run)])
    print('64 MiB of small pages to another node, of which so many are neighbours, milliseconds: copied by the engine, by '
          'the CPU, by whom\nhmm_migrate_dma_copy() chooses, and that over the sooner of both; where a descriptor costs 0, '
          '2 and 4 us besides\n')
    print_table(['neighbours', ''] + [f'{who}{mark}' for mark in ('', ' +2', ' +4')
                                      for who in ('engine', 'CPU', 'chosen', 'over')] + ['verdict'], rows)


def judge_runs(figures, series, run):
    words = {judge(figures, series, f'run-{run}-{prep}', 'out')[0] for prep in PREPS}
    return ', '.join(sorted(w for w in words if w))


def print_nodes(figures, stock, series):
    rows = []
    for case in NODES:
        for move in MOVES:
            found = [stock.nodes(case, move), series.nodes(case, move, False), series.nodes(case, move)]
            cells = [(number(r['time'] / r['asked']) + ('' if has_kept_folios(r) else ' split')) if arrived(r)
                     else partly(r) for r in found]
            cost = [r['time'] / r['asked'] if arrived(r) else None for r in found]
            cells.append(f'{cost[2] / cost[0]:.2f}' if all(cost) else '-')
            rows.append([case, move] + cells + must_cells(figures, series, f'nodes-{case}', move))
    print('Instructions per 4 KiB page, mbind(2) of 16 MiB to another node, back, and to where it is; of files and of what '
          'stays, the\nmust is series over stock\n')
    print_table(['case', 'direction', 'stock', 'series, off', 'series', 'over stock', 'must', 'aim', 'verdict'], rows)
    rows = []
    for run in SPARSE:
        found = [stock.sparse(run), series.sparse(run, False), series.sparse(run)]
        cost = [r['time'] / r['asked'] if arrived(r) else None for r in found]
        rows.append([str(run), ''] + [number(c) for c in cost] +
                    [f'{cost[2] / cost[0]:.2f}' if all(cost) else '-', ''])
    print('The same of 32 runs of so many pages, 512 KiB from one to the next, per page that moves\n')
    print_table(['run', '', 'stock', 'series, off', 'series', 'over stock', ''], rows)


def gigabytes(ns):
    return '-' if not ns else f'{PIPELINE_MIB * 2 ** 20 / ns:.2f}'


def deviations(figures, stock):
    """Yields row, whether it is too far off."""
    for (case, direction), want in figures.stock.items():
        if case.startswith('shootdowns-'):
            r = stock.shootdowns(case.split('-')[1], direction)
            got = [None, None, None, r['sent']] if r else [None] * 4
        else:
            r = stock.trip(case, direction)
            got = [per_page(r, s) for s in STAGES] + [per_page(r, *STAGES)] if r else [None] * 4
        if want == [None]:
            bad = not r or r['moved'] != 0
            yield [case, direction, 'none migrate', partly(r), 'DIFFERS' if bad else 'same'], bad
        elif not whole(r):
            yield [case, direction, number(want[3]), partly(r), 'DIFFERS'], True
        else:
            far = [abs(g / w - 1) > TOLERANCE for g, w in zip(got, want) if w]
            by = ', '.join(f'{100 * (g / w - 1):+.1f} %' for g, w in zip(got, want) if w)
            yield [case, direction, ' '.join(number(w) for w in want if w is not None),
                   ' '.join(number(g) for g, w in zip(got, want) if w is not None),
                   by + (' DIFFERS' if any(far) else '')], any(far)


def print_deviations(figures, stock):
    found = list(deviations(figures, stock))
    print('Stock now against stock as recorded (setup, pages, finalize, sum)\n')
    print_table(['case', 'direction', 'recorded', 'now', 'deviation'], [row for row, _ in found])
    return [' '.join(row[:2]) for row, bad in found if bad]


def write_charts(figures, stock, series, directory):
    with open(f'{directory}/bars.dat', 'w', encoding='utf-8') as file:
        for case in CASES:
            for direction in DIRECTIONS:
                mainline = figures.mainline.get((case, direction))
                values = []
                for kernel in (stock, series):
                    r = kernel.trip(case, direction)
                    values += [f'{per_page(r, *STAGES):.0f}' if whole(r) else '0',
                               f'"{per_page(r, *STAGES):,.0f}"' if whole(r) else '"none"' if r and not r['moved'] else '"part"']
                values += [f'{mainline:.0f}', f'"{mainline:,.0f}"'] if mainline else ['0', '""']
                print(f'"{case}\\n{direction}"', *values, file=file)
    with open(f'{directory}/ranges.dat', 'w', encoding='utf-8') as file:
        for mib in RANGES:
            values = [f'{per_page(r, *STAGES):.0f}' if whole(r) else 'NaN'
                      for r in (k.range(mib, d) for k in (stock, series) for d in DIRECTIONS)]
            print(mib, *values, file=file)


def write_chunk_chart(series, directory):
    with open(f'{directory}/chunks.dat', 'w', encoding='utf-8') as file:
        for kib in CHUNKS:
            values = [gigabytes(series.chunk(size, kib, 'range')).replace('-', 'NaN') for size in CURVES]
            print(kib, *values, file=file)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    figures = Figures(sys.argv[1])
    with open(sys.argv[2], encoding='utf-8') as file:
        results = json.load(file)
    stock = Kernel('stock', results.get('stock', []))
    series = Kernel('series', results.get('series', []), stock)

    print_trips(figures, stock, series)
    print_orders(stock, series)
    print_copies(stock, series)
    print_ranges(figures, stock, series)
    print_shootdowns(figures, stock, series)
    print_range_faults(figures, stock, series)
    print_pipeline(figures, series)
    print_around(figures, series)
    print_copiers(figures, series)
    print_nodes(figures, stock, series)

    failures = [f'{kernel.name}: {what} was not measured' for kernel in (stock, series) for what in kernel.missing()]
    for case, direction in figures.musts:
        words, failed = judge(figures, series, case, direction)
        if failed:
            value, _ = value_of(series, case, direction)
            failures.append(f'{case} {direction}: {number(value)} where the must is '
                            f'{number(figures.musts[case, direction][1])}: {words}')
    if stock.release == figures.base:
        far = print_deviations(figures, stock)
        if far:
            text = f'stock is more than 10 % off its recorded figures: {", ".join(far)}'
            print(f'{text} (scripts/bench/README says what they depend on)\n')
            if 1 in figures.done:
                failures.append(text)
    else:
        print(f'The stock figures on record are those of {figures.base}, this is {stock.release}: not compared.\n')
    write_charts(figures, stock, series, sys.argv[3])
    write_chunk_chart(series, sys.argv[3])

    for failure in failures:
        print(f'FAILED: {failure}')
    sys.exit(1 if failures else 0)


if __name__ == '__main__':
    main()
