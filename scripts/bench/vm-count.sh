#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Runs in a VM whose time counts instructions.
set -e
# Until the kernel has settled for its clock.
sleep 2
uname -r | sed 's/.*/{"what":"kernel","release":"&"}/'
insmod /hmm_migrate_bench.ko size_mb=128
/bench trips
rmmod hmm_migrate_bench
insmod /hmm_migrate_bench.ko size_mb=512 contents=0
/bench ranges
/bench range-faults
rmmod hmm_migrate_bench
