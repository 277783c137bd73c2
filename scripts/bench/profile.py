#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""profile.py VM KERNEL MODULE PROGRAM MAP DIR SIZE: which functions the
instructions of a trip are in, per 4 KiB page.

VM is vm.sh. SIZE is that of the folios: 4k, 16k, 64k, 1m, 2m. QEMU writes down each instruction of one trip out and one back, and
System.map (MAP) says whose it is. What an interrupt does in between is in the
list, too.
"""
import bisect
import collections
import os
import re
import socket
import subprocess
import sys
import time

PAGES = 512
LISTED = 45

# What belongs together. The first that matches counts.
GROUPS = [
    ('walking the rmap', r'rmap_walk|remove_migration_pte|page_vma_mapped|check_pte'
     r'|anon_vma|interval_tree|__pte_offset_map|down_read_trylock|up_read|rmap_one'),
    ('statistics of rmap and LRU', r'__mod_(memcg_)?(lruvec|node|zone)|lruvec_stat'
     r'|rstat_updated'),
    ('flushing the TLB', r'flush_tlb|ptep_clear_flush'),
    ('freeing', r'free_|__folio_put|folios_put|put_pages_list|pfnblock|uncharge'),
]


def read_map(path):
    symbols = []
    with open(path) as lines:
        for line in lines:
            address, kind, name = line.split()
            if kind in 'tTwW':
                symbols.append((int(address, 16), name))
    symbols.sort()
    return [a for a, _ in symbols], [n for _, n in symbols]


class Machine:
    """A VM, its second serial line, and its monitor."""

    def __init__(self, vm, kernel, module, program, directory, size):
        here = os.path.dirname(os.path.abspath(__file__))
        self.directory = directory
        self.fifo = os.path.join(directory, 'input')
        self.output = os.path.join(directory, 'output.log')
        monitor = os.path.join(directory, 'monitor')
        for path in (self.fifo, self.output, monitor):
            if os.path.lexists(path):
                os.unlink(path)
        os.mkfifo(self.fifo)
        self.process = subprocess.Popen(
            [vm, '--kernel', kernel, '--run', here + '/vm-profile.sh', '--log', directory,
             '--file', module + ':hmm_migrate_bench.ko', '--file', program + ':bench',
             '--icount', '--quiet', '--timeout', '600', '--input', self.fifo,
             '--monitor', monitor, '--append', 'nokaslr bench_size=' + size])
        self.line = open(self.fifo, 'w')
        self.heard = 0
        self.monitor = socket.socket(socket.AF_UNIX)
        for _ in range(100):
            try:
                self.monitor.connect(monitor)
                return
            except OSError:
                time.sleep(0.1)
        sys.exit('profile: QEMU does not open its monitor: see ' + directory)

    def command(self, text):
        self.monitor.sendall(text.encode() + b'\n')
        time.sleep(0.3)
        self.monitor.recv(1 << 16)

    def wait(self, text):
        while True:
            with open(self.output, errors='replace') as output:
                if text in output.read():
                    return
            if self.process.poll() is not None:
                sys.exit('profile: the VM ended before "%s": see %s' % (text, self.output))
            time.sleep(0.2)

    def answer(self):
        self.line.write('x')
        self.line.flush()

    def trip(self, direction):
        """The log of a trip's instructions."""
        log = os.path.join(self.directory, 'instructions-' + direction)
        self.wait('@ ready ' + direction)
        self.command('logfile ' + log)
        self.command('singlestep on')
        self.command('log exec,nochain')
        self.answer()
        self.wait('@ done ' + direction)
        self.command('log none')
        self.command('singlestep off')
        self.answer()
        return log


def count(log, addresses, names):
    counts = collections.Counter()
    with open(log) as lines:
        for line in lines:
            match = re.match(r'Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/', line)
            if not match:
                continue
            address = int(match[1], 16)
            # Not user space, and not the module.
            if addresses[0] <= address <= addresses[-1]:
                counts[names[bisect.bisect(addresses, address) - 1]] += 1
    return counts


def main():
    vm, kernel, module, program, path, directory, size = sys.argv[1:]
    addresses, names = read_map(path)
    machine = Machine(vm, kernel, module, program, directory, size)
    for direction in ('out', 'back'):
        log = machine.trip(direction)
        counts = count(log, addresses, names)
        os.unlink(log)
        print('\n%s, %s: instructions per page, by function and together' % (size, direction))
        for name, number in counts.most_common(LISTED):
            print('%8.1f  %s' % (number / PAGES, name))
        for group, pattern in GROUPS:
            total = sum(n for name, n in counts.items() if re.search(pattern, name))
            print('%8.1f  = %s' % (total / PAGES, group))
    if machine.process.wait():
        sys.exit('profile: the VM failed: see ' + directory)


main()
