#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Runs in a VM whose time counts instructions, with two NUMA nodes.
set -e
# Until the kernel has settled for its clock.
sleep 2
# khugepaged would look at what is measured.
echo 3600000 >/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs
sleep 1
/bench nodes
