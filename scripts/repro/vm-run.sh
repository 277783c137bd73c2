#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Runs in the VM: a file of a disk, and one of tmpfs.
set -e
mkdir -p /ext2 /tmpfs
truncate -s 48M /ext2.img
mke2fs -F /ext2.img >/dev/null
mount -o loop -t ext2 /ext2.img /ext2
mount -t tmpfs tmpfs /tmpfs
insmod /file_migrate.ko
/bin/file_migrate_user /ext2/file
/bin/file_migrate_user /tmpfs/file
echo 3 >/proc/sys/vm/drop_caches
umount /ext2
