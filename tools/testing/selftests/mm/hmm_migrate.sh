#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Load the test driver and run hmm_migrate, with some swap space if the machine
# has none. What was not there before is gone again afterwards.

# kselftest's code for a test that cannot run here
ksft_skip=4

skip()
{
	echo "$0: $1"
	exit $ksft_skip
}

cleanup()
{
	if [ -n "$swap" ]; then
		swapoff /dev/zram0
		echo 1 > /sys/block/zram0/reset
	fi
	if [ -n "$loaded" ]; then
		modprobe -r test_hmm_migrate
	fi
}

[ "$(id -u)" = 0 ] || skip "must be run as root"
modprobe -q test_hmm_migrate ||
	skip "cannot load test_hmm_migrate, is CONFIG_TEST_HMM_MIGRATE=m and test_hmm unloaded?"
loaded=y
trap cleanup EXIT

if [ "$(wc -l < /proc/swaps)" = 1 ] && modprobe -q zram &&
   echo 64M > /sys/block/zram0/disksize && mkswap -q /dev/zram0 &&
   swapon /dev/zram0; then
	swap=y
fi

HMM_MIGRATE_MODULE=$(modinfo -n test_hmm_migrate)
# A compressed module is not for finit_module(): one test less.
case $HMM_MIGRATE_MODULE in
*.ko)	export HMM_MIGRATE_MODULE ;;
*)	unset HMM_MIGRATE_MODULE ;;
esac
./hmm_migrate
