#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Runs in the VM: makes what the selftests look for, then runs the one that
# /test names in the words LIMIT COMMAND..., and says how it ended. report.py
# reads the lines that start with @@ regress.

fail()
{
	echo "$*"
	exit 1
}

read -r limit command </test || fail '/test names no test'

# Hugetlb pages as run_vmtests.sh wants them, half of them on each node. The two
# of 1 GiB are had by the kernel's command line alone.
echo 128 >/proc/sys/vm/nr_hugepages
[ "$(cat /proc/sys/vm/nr_hugepages)" = 128 ] || fail 'no 128 hugetlb pages'
[ "$(cat /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages)" = 2 ] || fail 'no 2 hugetlb pages of 1 GiB'

{ echo 256M >/sys/block/zram0/disksize && mkswap /dev/zram0 && swapon /dev/zram0; } >/dev/null || fail 'no swap'

# A file system without large folios, one with them, and a tmpfs that has them
# where they are asked for.
mkdir /ext2 /xfs /tmpfs
{ truncate -s 128M /ext2.img && mke2fs -F /ext2.img && mount -o loop -t ext2 /ext2.img /ext2; } >/dev/null || fail 'no ext2'
mount -o loop -t xfs /xfs.img /xfs || fail 'no xfs'
mount -t tmpfs -o huge=advise,size=128M tmpfs /tmpfs || fail 'no tmpfs'

[ -e /sys/kernel/debug/gup_test ] || fail 'no gup_test in debugfs'
[ "$(cat /sys/devices/system/node/has_memory)" = 0-1 ] || fail 'no two nodes with memory'
[ "$(nproc)" = 4 ] || fail 'no four CPUs'

# One of them runs itself, by ./ and its name.
ln -s /bin/"${command%% *}" .

echo "@@ regress: begin $command"
begin=$(cut -d. -f1 /proc/uptime)
# shellcheck disable=SC2086 # a command with its arguments
timeout -k 10 "$limit" $command
rc=$?
took=$(($(cut -d. -f1 /proc/uptime) - begin))
echo
echo "@@ regress: end $rc $took $limit"
