#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Runs in a VM whose time counts instructions, with a second node of memory only.
set -e
sleep 2
insmod /test_hmm_migrate_dma.ko move=0
insmod /hmm_migrate_bench.ko size_mb=128 contents=0
/bench pipeline
rmmod hmm_migrate_bench
rmmod test_hmm_migrate_dma
