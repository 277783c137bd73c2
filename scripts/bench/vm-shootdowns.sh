#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Runs in a VM with four CPUs.
set -e
insmod /hmm_migrate_bench.ko size_mb=128 contents=0
/bench shootdowns
rmmod hmm_migrate_bench
