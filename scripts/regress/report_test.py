#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Does report.py fail when it must? On made-up output of tests."""

import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))

TAP = '''TAP version 13
1..4
# [RUN] Basic COW ... with base page
ok 1 No leak
# [RUN] Basic COW ... with THP
ok 2 No leak
ok 3 # SKIP no swap
ok 4 transact_test count 192
# Totals: pass:3 fail:0 xfail:0 xpass:0 skip:1 error:0
'''
UFFD = '''Testing UFFDIO_API (with syscall)... done
Testing minor on shmem... skipped [reason: feature missing]
Testing events on anon... done
Userfaults unit tests: pass=2, skip=1, fail=0 (total=3)
'''
KHUGEPAGED = '''Save THP and khugepaged settings... \x1b[32mOK\x1b[0m

Run test: collapse_full (khugepaged:anon)
Collapse multiple fully populated PTE table.... \x1b[32mOK\x1b[0m

Run test: collapse_max_ptes_none (madvise:file)
tmpfs... \x1b[33mSkip\x1b[0m
Restore THP and khugepaged settings... \x1b[32mOK\x1b[0m
'''

KNOWN = """# why
test	skip	no swap -- there is none
test	skip	feature missing -- too old
test	skip	tmpfs: Skip -- always in the page cache
test	skip	stopped before -- it stops
test	skip	no soft-dirty -- too old
"""


def output(command, body, status=0, took=7, limit=60):
    return f'@@ regress: begin {command}\r\n{body}\n@@ regress: end {status} {took} {limit}\r\n'


class Report(unittest.TestCase):
    def setUp(self):
        # pylint: disable=consider-using-with
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.both(output('cow', TAP))
        self.known = KNOWN

    def put(self, column, text, failure=None):
        path = f'{self.directory.name}/test/{column}'
        os.makedirs(path, exist_ok=True)
        for name, content in (('output.log', text), ('failure', failure)):
            if content is not None:
                with open(f'{path}/{name}', 'w', encoding='utf-8') as file:
                    file.write(content)

    def both(self, text):
        self.put('stock', text)
        self.put('series', text)

    def run_it(self, again=False):
        with open(f'{self.directory.name}/known', 'w', encoding='utf-8') as file:
            file.write(self.known)
        done = subprocess.run([sys.executable, f'{HERE}/report.py',
                               '--again' if again else f'{self.directory.name}/known', self.directory.name, 'test'],
                              capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def good(self, *texts):
        code, printed = self.run_it()
        self.assertEqual(code, 0, printed)
        for text in texts:
            self.assertIn(text, printed)
        self.assertEqual(self.run_it(again=True)[0], 1)

    def bad(self, *texts, again=True):
        code, printed = self.run_it()
        self.assertEqual(code, 1, printed)
        for text in texts:
            self.assertIn(text, '\n'.join(line for line in printed.splitlines() if line.startswith('FAILED')))
        self.assertEqual(self.run_it(again=True)[0], 0 if again else 1)

    def test_same(self):
        self.good('3     0     1  0:07', 'same', 'test: 1: no swap: there is none')

    def test_not_known(self):
        self.known = KNOWN.replace('no swap', 'no memory')
        self.bad('test: 1 run on neither kernel, and scripts/regress/known does not say why: no swap', again=False)

    def test_known_with_a_slip(self):
        self.known = 'test skip no swap\n'
        code, printed = self.run_it()
        self.assertEqual(code, 1)
        self.assertIn('known:1: cannot be understood', printed)

    def test_fails_alike(self):
        self.both(output('cow', TAP.replace('ok 1', 'not ok 1').replace('pass:3 fail:0', 'pass:2 fail:1'), 1))
        self.good('Fails on both', 'Basic COW ... with base page: No leak')

    def test_what_varies(self):
        self.put('series', output('cow', TAP.replace('192', '187')))
        self.good()

    def test_fails_on_series(self):
        self.put('series', output('cow', TAP.replace('ok 2', 'not ok 2').replace('pass:3 fail:0', 'pass:2 fail:1'), 1))
        self.bad('Basic COW ... with THP: No leak: stock pass, series fail', 'exit status: stock 0, series 1')

    def test_passes_on_series_alone(self):
        self.put('stock', output('cow', TAP.replace('ok 2', 'not ok 2').replace('pass:3 fail:0', 'pass:2 fail:1'), 1))
        self.bad('stock fail, series pass')

    def test_skipped_on_series(self):
        self.put('series', output('cow', TAP.replace('ok 4 ', 'ok 4 # SKIP ').replace('pass:3', 'pass:2')
                                  .replace('skip:1', 'skip:2')))
        self.bad('stock pass, series skip')

    def test_missing_on_series(self):
        self.put('series', output('cow', TAP.split('ok 2', maxsplit=1)[0] + '# too few\nBail out!\n', 1))
        self.bad('Basic COW ... with THP: No leak: no result on series', 'series 1 (too few)')

    def test_many_missing_on_series(self):
        plan = '1..9\n' + ''.join(f'ok {n} sub-test {n}\n' for n in range(1, 10))
        self.put('stock', output('cow', plan))
        self.put('series', output('cow', plan.split('ok 3', maxsplit=1)[0]))
        self.bad('sub-test 3: no result on series', '... 5 more ...', 'sub-test 9: no result on series')

    def test_other_exit_status(self):
        self.put('series', output('cow', TAP, 139))
        self.bad('exit status: stock 0, series 139')

    def test_stops_alike(self):
        self.both(output('cow', '1..4\nok 1 No leak\n# no memory\nBail out!\n', 1))
        self.good('test: 3: the program stopped before: no memory: it stops', 'exit status 1')

    def test_skipped_as_a_whole(self):
        self.both(output('cow', 'TAP version 13\n1..0 # SKIP no soft-dirty\n', 4))
        self.good('not run', 'no soft-dirty')

    def test_no_output(self):
        self.both(output('cow', ''))
        self.bad('gave no result at all')

    def test_silence(self):
        self.both('')
        self.bad('did not come to its end')

    def test_end_missing(self):
        self.put('series', output('cow', TAP).split('@@ regress: end', maxsplit=1)[0])
        self.bad('test on series: did not come to its end')

    def test_time_limit(self):
        self.both(output('cow', TAP, 143, 60))
        self.bad('time limit of 60 s')

    def test_results_lost(self):
        self.both(output('cow', TAP.replace('ok 4', 'xok 4').replace('1..4', '1..3')))
        self.bad('counts other results')

    def test_splat(self):
        self.put('series', output('cow', TAP), "the kernel's log has a splat (above): see it.")
        self.bad('test on series: the kernel', again=False)

    def test_flaky(self):
        self.test_fails_on_series()
        self.put('stock-again', output('cow', TAP))
        self.put('series-again', output('cow', TAP))
        code, printed = self.run_it()
        self.assertEqual(code, 0, printed)
        self.assertIn('same, at the second run', printed)
        self.assertIn('stock pass, series fail', printed)

    def test_differs_again(self):
        self.test_fails_on_series()
        self.put('stock-again', output('cow', TAP))
        self.put('series-again', output('cow', TAP.replace('ok 1', 'not ok 1')))
        self.assertEqual(self.run_it()[0], 1)

    def test_uffd(self):
        self.both(output('uffd-unit-tests', UFFD))
        self.good('2     0     1', 'minor on shmem')

    def test_uffd_fails(self):
        self.both(output('uffd-unit-tests', UFFD))
        self.put('series', output('uffd-unit-tests', UFFD.replace('anon... done', 'anon... failed [reason: x]')
                                  .replace('pass=2, skip=1, fail=0', 'pass=1, skip=1, fail=1'), 1))
        self.bad('events on anon: stock pass, series fail')

    def test_uffd_dies(self):
        self.both(output('uffd-unit-tests', UFFD))
        self.put('series', output('uffd-unit-tests', 'Testing events on anon... ERROR: fork()\n', 1))
        self.bad('events on anon: stock pass, series fail')

    def test_khugepaged(self):
        self.both(output('khugepaged', KHUGEPAGED))
        self.good('1     0     1', 'collapse_max_ptes_none (madvise:file): tmpfs')

    def test_khugepaged_dots(self):
        self.both(output('khugepaged', KHUGEPAGED))
        self.put('series', output('khugepaged', KHUGEPAGED.replace('table....', 'table......')))
        self.good()

    def test_khugepaged_stops(self):
        self.both(output('khugepaged', KHUGEPAGED))
        self.put('series', output('khugepaged', KHUGEPAGED.replace('tmpfs... \x1b[33mSkip\x1b[0m', 'Unexpected huge page'), 1))
        self.bad('tmpfs: no result on series', 'series 1 (Unexpected huge page)')

    def test_khugepaged_fails(self):
        self.both(output('khugepaged', KHUGEPAGED))
        self.put('series', output('khugepaged', KHUGEPAGED.replace('table.... \x1b[32mOK', 'table.... \x1b[31mFail'), 1))
        self.bad('collapse_full (khugepaged:anon): Collapse multiple fully populated PTE table: stock pass, series fail')


if __name__ == '__main__':
    unittest.main()
