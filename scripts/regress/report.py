#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""report.py KNOWN DIR NAME...: prints what the selftests NAME gave on the stock
kernel and on the series, and fails when the series gave anything else than stock,
when a test did not come to its end, when a kernel's log held a splat, or when
neither kernel ran a sub-test and the file KNOWN does not say why.
report.py --again DIR NAME: says, by succeeding, that NAME is to be run again.

DIR/NAME/stock and DIR/NAME/series hold a run's output.log each, and a file
'failure' if the VM failed; stock-again and series-again are the second run."""

import collections
import os
import re
import sys

KERNELS = ('stock', 'series')
PASS, FAIL, SKIP, NONE = 'pass', 'fail', 'skip', 'none'

# What differs from run to run in the names of sub-tests, and is no result.
VARYING = ((r'(transact_test) count \d+', r'\1 count N'),
           (r'(transact_test) Extra pages .*', r'\1 Extra pages N'),
           # cow expects these to fail, and counts them as neither; now and then one does not.
           (r'(vmsplice\(\) .* with hugetlb .*): (No leak|Leak) from', r'\1: no leak, or one that is expected, from'))

RESULT = re.compile(r'(not )?ok (\d+)(?: - )? ?(.*)')
TOTALS = re.compile(r'# Totals: pass:(\d+) fail:(\d+) xfail:(\d+) xpass:(\d+) skip:(\d+) error:(\d+)')
UFFD = re.compile(r'(done|skipped|failed)(?: \[reason: (.*)\])?$')
UFFD_TOTALS = re.compile(r'Userfaults unit tests: pass=(\d+), skip=(\d+), fail=(\d+)')
KHUGEPAGED = re.compile(r'\s*(.*?)[. ]*\x1b\[(\d+)m(.*?)\x1b\[0m')
COLOURS = {'32': PASS, '31': FAIL, '33': SKIP}


class Run:
    """One run of one program on one kernel: what its output says."""

    def __init__(self, directory):
        self.results = collections.OrderedDict()    # name: (outcome, reason)
        self.status = self.took = self.totals = None
        self.planned, self.last = 0, ''
        self.failure = self.read(f'{directory}/failure').strip() or None
        lines = [line.rstrip('\r') for line in self.read(f'{directory}/output.log').split('\n')]
        command = None
        body = []
        for line in lines:
            words = line.split()
            if words[:3] == ['@@', 'regress:', 'begin']:
                command, body = words[3], []
            elif words[:3] == ['@@', 'regress:', 'end']:
                self.status, self.took, limit = (int(w) for w in words[3:6])
                if self.took >= limit:
                    self.failure = self.failure or f'was ended after its time limit of {limit} s'
                break
            elif command:
                body.append(line)
        parse = {'uffd-unit-tests': self.uffd, 'khugepaged': self.khugepaged}.get(command, self.tap)
        parse(body)
        self.complete()

    @staticmethod
    def read(path):
        try:
            with open(path, encoding='utf-8', errors='replace') as file:
                return file.read()
        except FileNotFoundError:
            return ''

    def add(self, name, outcome, reason=''):
        for pattern, plain in VARYING:
            name = re.sub(pattern, plain, name)
        n, unique = 1, name
        while unique in self.results:
            n += 1
            unique = f'{name} ({n})'
        self.results[unique] = (outcome, reason)

    def tap(self, lines):
        """The TAP of kselftest.h and kselftest_harness.h."""
        context, comment = '', ''
        for line in lines:
            if re.match(r'1\.\.\d+', line):
                self.planned = int(line[3:].split()[0])
                if not self.planned:
                    self.last = line
            elif re.match(r'# \[(RUN|INFO)\] (?!detected)', line):
                context = line.split('] ', 1)[1] + ': '
            elif line.startswith('Bail out!'):
                self.last = line[len('Bail out!'):].strip() or comment
            elif TOTALS.match(line):
                self.totals = [int(n) for n in TOTALS.match(line).groups()]
            elif line.startswith('#'):
                comment = line[1:].strip()
            match = RESULT.match(line)
            if match:
                bad, _, text = match.groups()
                name, reason, outcome = text, '', FAIL if bad else PASS
                for word, becomes in (('SKIP', SKIP), ('XFAIL', outcome), ('error', FAIL)):
                    found = re.match(rf'(.*?)\s*# {word}\s*(.*)', text)
                    if found:
                        outcome = becomes
                        name, reason = found.groups() if found.group(1) else (found.group(2),) * 2
                self.add(context + name, outcome, reason)

    def uffd(self, lines):
        name = None
        for line in lines:
            match = re.match(r'Testing (.*?)\.\.\. (.*)', line)
            if match:
                name, line = match.groups()
            ended = UFFD.search(line)
            if name and ended:
                self.add(name, {'done': PASS, 'skipped': SKIP, 'failed': FAIL}[ended.group(1)], ended.group(2) or '')
                name = None
            elif line.startswith('ERROR: '):
                self.last = line
            if UFFD_TOTALS.match(line):
                passed, skipped, failed = (int(n) for n in UFFD_TOTALS.match(line).groups())
                self.totals = [passed, failed, 0, 0, skipped, 0]
        if name:
            self.add(name, FAIL, self.last)
        if not self.totals:
            self.last = self.last or 'the program did not come to its totals'

    def khugepaged(self, lines):
        context = ''
        for line in lines:
            if line.startswith('Run test: '):
                context = line[len('Run test: '):] + ': '
            for name, colour, word in KHUGEPAGED.findall(line):
                if not re.match('(Save|Restore) THP', name):
                    self.add(context + name, COLOURS.get(colour, FAIL), word)
                    self.last = ''
            if line.strip() and '\x1b' not in line and not line.startswith('Run test: '):
                self.last = line.strip()

    def complete(self):
        """What the output owes: planned results, its totals, an end."""
        if self.status is None:
            self.failure = self.failure or 'did not come to its end'
        n = self.count()
        if self.totals and self.status is not None:
            passed, failed, xfail, xpass, skipped, error = self.totals
            if (passed + xfail + xpass, failed + error, skipped) != (n[PASS], n[FAIL], n[SKIP]):
                self.failure = self.failure or f'counts other results than its output shows: {self.totals}'
        for number in range(len(self.results) + 1, self.planned + 1):
            self.add(f'planned test {number}', NONE, ': '.join(filter(None, ('the program stopped before', self.last))))
        if self.status not in (None, 0, 4) and not n[FAIL]:
            self.add(f'exit status {self.status}', FAIL, self.last)
        if not self.results and self.status == 4:
            self.add('the program as a whole', SKIP, self.last)
        if not self.results:
            self.failure = self.failure or 'gave no result at all'

    def count(self):
        return collections.Counter(outcome for outcome, _ in self.results.values())

    def outcome(self, name):
        return self.results.get(name, (NONE, ''))[0]


class Test:
    """A program's runs on both kernels."""

    def __init__(self, directory, name):
        self.name = name
        self.first = {k: Run(f'{directory}/{name}/{k}') for k in KERNELS}
        self.again = {k: Run(f'{directory}/{name}/{k}-again') for k in KERNELS} \
            if os.path.isdir(f'{directory}/{name}/stock-again') else None
        self.last = self.again or self.first

    @staticmethod
    def differences(runs):
        stock, series = (runs[k] for k in KERNELS)
        missing = {k: [] for k in KERNELS}
        for name in list(stock.results) + [n for n in series.results if n not in stock.results]:
            outcomes = {k: runs[k].outcome(name) for k in KERNELS}
            if outcomes['stock'] == outcomes['series'] or name.startswith('exit status '):
                continue
            if NONE in outcomes.values():
                missing['stock' if outcomes['stock'] == NONE else 'series'].append(name)
            else:
                yield f'{name}: stock {outcomes["stock"]}, series {outcomes["series"]}'
        for kernel, names in missing.items():
            if len(names) > 3:
                names = [names[0], f'... {len(names) - 2} more ...', names[-1]]
            for name in names:
                yield f'{name}: no result on {kernel}'
        if stock.status != series.status:
            yield 'exit status: ' + ', '.join(
                f'{k} {runs[k].status}' + (f' ({runs[k].last})' if runs[k].status and runs[k].last else '')
                for k in KERNELS)

    def unclear(self):
        """Whether the first runs are worth a second look; a splat needs none."""
        failures = [self.first[k].failure for k in KERNELS]
        return not any(f and 'splat' in f for f in failures) and \
            (any(failures) or any(self.differences(self.first)))

    def failures(self):
        """Yields why this test fails the whole run."""
        runs = [(k, self.last[k]) for k in KERNELS]
        if self.again:
            runs += [(k, self.first[k]) for k in KERNELS if 'splat' in (self.first[k].failure or '')]
        for kernel, run in runs:
            if run.failure:
                yield f'{self.name} on {kernel}: {run.failure}'
        if not any(run.failure for _, run in runs):
            for difference in self.differences(self.last):
                yield f'{self.name}: {difference}'

    def flaky(self):
        if self.again:
            for kernel in KERNELS:
                if self.first[kernel].failure:
                    yield f'{self.name} on {kernel}: {self.first[kernel].failure}'
            for difference in self.differences(self.first):
                yield f'{self.name}: {difference}'

    def alike(self, outcomes):
        """Yields name and reason of the sub-tests with one of these outcomes on both kernels."""
        stock, series = (self.last[k] for k in KERNELS)
        for name, (outcome, reason) in stock.results.items():
            if outcome in outcomes and series.outcome(name) in outcomes:
                yield name, reason

    def verdict(self):
        if any(self.failures()):
            return 'FAILED'
        ran = self.last['stock'].count()
        if not ran[PASS] + ran[FAIL]:
            return 'not run'
        return 'same, at the second run' if self.again else 'same'


class Known:
    """What scripts/regress/known says: why sub-tests do not run or fail on stock."""

    def __init__(self, path):
        self.entries = []
        with open(path, encoding='utf-8') as file:
            for number, line in enumerate(file, 1):
                words = line.strip().split(None, 2)
                if not words or words[0].startswith('#'):
                    continue
                try:
                    pattern, why = words[2].split(' -- ')
                    self.entries.append((re.compile(words[0]), words[1], re.compile(pattern.strip()), why.strip()))
                except (ValueError, IndexError, re.error):
                    sys.exit(f'{path}:{number}: cannot be understood: {line.strip()}')

    def why(self, test, outcome, name, reason):
        for tests, which, pattern, why in self.entries:
            if tests.fullmatch(test) and which == outcome and pattern.search(f'{name}: {reason}'):
                return why
        return None


def cells(run):
    n = run.count()
    return [str(n[PASS]), str(n[FAIL]), str(n[SKIP] + n[NONE]),
            '-' if run.took is None else f'{run.took // 60}:{run.took % 60:02}']


def print_table(tests):
    heads = ['', 'stock: pass', 'fail', 'skip', 'time', 'series: pass', 'fail', 'skip', 'time', '']
    rows = [heads] + [[t.name] + cells(t.last['stock']) + cells(t.last['series']) + [t.verdict()] for t in tests]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    for row in rows:
        line = [c.ljust(w) if i in (0, len(heads) - 1) else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
        print('  '.join(line).rstrip())
    print()


def print_alike(title, outcomes, tests, known):
    """Prints the sub-tests with one of these outcomes on both kernels, those of a
    test with the same reason as one entry. Returns what is wrong with reasons unknown."""
    groups = collections.OrderedDict()
    for test in tests:
        for name, reason in test.alike(outcomes):
            why = known.why(test.name, outcomes[0], name, reason)
            groups.setdefault((test, reason, why), []).append(name)
    if not groups:
        return []
    print(title)
    for (test, reason, why), names in groups.items():
        print(f'  {test.name}: {len(names)}' + ''.join(f': {text}' for text in (reason, why) if text))
        for name in names:
            if name != reason and not name.startswith('planned test '):
                print(f'    {name}')
    print()
    return [f'{test.name}: {len(names)} run on neither kernel, and scripts/regress/known does not say why: {reason}'
            for (test, reason, why), names in groups.items() if not why and not any(test.failures())]


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    if sys.argv[1] == '--again':
        sys.exit(0 if Test(sys.argv[2], sys.argv[3]).unclear() else 1)
    known = Known(sys.argv[1])
    tests = [Test(sys.argv[2], name) for name in sys.argv[3:]]
    print_table(tests)
    failures = print_alike('Not run on either kernel:', (SKIP, NONE), tests, known)
    print_alike('Fails on both kernels alike:', (FAIL,), tests, known)
    flaky = [line for t in tests for line in t.flaky()]
    if flaky:
        print('Run a second time on both kernels, and only that counts, since at the first:')
        for line in flaky:
            print(f'  {line}')
        print()
    failures += [line for t in tests for line in t.failures()]
    passed, failed, unrun = (sum(len(list(t.alike(o))) for t in tests) for o in ((PASS,), (FAIL,), (SKIP, NONE)))
    print(f'On both kernels {passed:,} sub-tests pass, {failed:,} fail and {unrun:,} do not run.')
    for line in failures:
        print(f'FAILED: {line}')
    sys.exit(1 if failures else 0)


if __name__ == '__main__':
    main()
