#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Runs in a VM that profile.py watches instruction by instruction.
set -e
stty -F /dev/ttyS1 raw -echo
sleep 2
insmod /hmm_migrate_bench.ko size_mb=64
/bench profile "$(sed 's/.*bench_size=\([0-9a-z]*\).*/\1/' /proc/cmdline)"
