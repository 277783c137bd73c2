#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Load the test drivers and run the tests of range migration, with some swap space if the
# machine has none. Afterwards the script removes what it has set up.

# kselftest's code for a test that cannot run here
ksft_skip=4

thp=/sys/kernel/mm/transparent_hugepage

skip()
{
	echo "$0: $1"
	exit $ksft_skip
}

cleanup()
{
	if [ -n "$enabled" ]; then
		echo never > $thp/enabled
	fi
	for file in "${!sizes[@]}"; do
		echo "${sizes[$file]}" > "$file"
	done
	if [ -n "$sleep" ]; then
		echo "$sleep" > $thp/khugepaged/scan_sleep_millisecs
	fi
	if [ -n "$swap" ]; then
		swapoff /dev/zram0
	fi
	if [ -n "$disksize" ]; then
		echo 1 > /sys/block/zram0/reset
	fi
	if [ -n "$zram" ]; then
		modprobe -r zram
	fi
	if [ -n "$null_blk" ]; then
		# A test that did not come to its end may have left it on.
		swapoff /dev/nullb0 2> /dev/null
		modprobe -r null_blk
	fi
	if [ -n "$driver" ]; then
		modprobe -r test_hmm_migrate
	fi
	if [ -n "$engine" ]; then
		modprobe -r test_hmm_migrate_dma
	fi
}

add_swap()
{
	if [ ! -e /sys/module/zram ]; then
		modprobe -q zram || return
		zram=y
	fi
	[ -e /sys/block/zram0 ] || return
	# A device with a size is in use.
	[ "$(cat /sys/block/zram0/disksize)" = 0 ] || return
	echo 64M > /sys/block/zram0/disksize || return
	disksize=y
	mkswap /dev/zram0 > /dev/null && swapon /dev/zram0 && swap=y
}

# For the test that wants I/O to take a while, which swaps to it by itself.
add_slow_swap()
{
	[ ! -e /sys/module/null_blk ] || return
	modprobe -q null_blk nr_devices=1 gb=1 memory_backed=1 irqmode=2 \
		completion_nsec=5000000000 || return
	null_blk=y
	mkswap /dev/nullb0 65536 > /dev/null && export HMM_MIGRATE_SLOW_SWAP=/dev/nullb0
}

[ "$(id -u)" = 0 ] || skip "must be run as root"
trap cleanup EXIT
if [ ! -e /sys/module/test_hmm_migrate ]; then
	modprobe -q test_hmm_migrate ||
		skip "cannot load test_hmm_migrate, is CONFIG_TEST_HMM_MIGRATE=m?"
	driver=y
fi
if [ ! -e /sys/module/test_hmm_migrate_dma ] && modprobe -q test_hmm_migrate_dma; then
	engine=y
fi
if [ "$(wc -l < /proc/swaps)" = 1 ]; then
	add_swap
fi
add_slow_swap

# Large folios only where a test wants them: the tests choose which sizes page faults use.
declare -A sizes
for file in "$thp"/hugepages-*/enabled; do
	[ -e "$file" ] || continue
	sizes[$file]=$(sed 's/.*\[\(.*\)\].*/\1/' "$file")
done
if [ -e $thp/khugepaged ]; then
	sleep=$(cat $thp/khugepaged/scan_sleep_millisecs)
	echo 3600000 > $thp/khugepaged/scan_sleep_millisecs
	if grep -q '\[never\]' $thp/enabled; then
		echo madvise > $thp/enabled && enabled=y
	fi
fi

module=$(modinfo -n test_hmm_migrate)
# finit_module() without flags does not load a compressed module: skip the test.
case $module in
*.ko)	export HMM_MIGRATE_MODULE="$module" ;;
esac
status=0
for program in hmm_migrate hmm_migrate_range; do
	"$(dirname "$0")"/$program || status=1
done
exit $status
