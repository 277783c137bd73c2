#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds the programs of the series' kselftest and those of tests/, runs them in a VM
# on the debug kernel, and judges their TAP and the kernel's log. In the environment:
#   TESTS            tests to run: names for all fixtures and variants (holes),
#                    or full ones as in the TAP (device.private.zero_page), or
#                    those of a fixture (engine.) or variant (.private); a
#                    program that has none of them runs nothing
#   TRIPS            how often the tests that repeat do so
#   KSELFTEST_BARE   not empty: by the three calls of migrate.h, where there is a
#                    choice, and not by hmm_migrate_range()
#   KSELFTEST_CONFIG the kernel's configuration (debug)
#   KSELFTEST_TREE   where the built kernel tree is, if not the usual one
#   KSELFTEST_LOG    where the logs go, if not build/log/kselftest
#   KSELFTEST_APPEND more for the kernel's command line
#   KSELFTEST_CGROUP_V1  not empty: memory cgroups are those of version 1
#   KSELFTEST_AFTER  a file of more commands for the VM, when all have passed or failed

. "$(dirname "$0")/lib.sh"
NAME=kselftest

config=${KSELFTEST_CONFIG:-debug}
log=${KSELFTEST_LOG:-$LOGS/kselftest}
out=$log/output.log
mkdir -p "$log"
rm -f "$log/tally" "$out"

need kernel vm
if [ -n "${KSELFTEST_TREE-}" ]; then
	tree=$KSELFTEST_TREE
else
	tree=$TREE
	"$SCRIPTS/kernel.sh" "$config"
fi
o=.$config
tests=$tree/tools/testing/selftests/mm
programs=() files=()
for source in "$tests"/{hmm_migrate,hmm_migrate_range,numa_range_migration}.c \
	"$ROOT"/tests/hmm_migrate_{races,large,others,range_more,driver,ioctl}.c; do
	[ -e "$source" ] || continue
	program=$(basename "$source" .c)
	programs+=("$program")
	files+=(--file "$tree/$o/$program:/bin/$program")
	static_program "$tree" "$o" "$source" "$tree/$o/$program" \
		>"$LOGS/kselftest-build.log" 2>&1 ||
		die "$program.c does not build: see $(rel "$LOGS/kselftest-build.log")."
done
[ ${#programs[@]} -gt 0 ] ||
	die "the series has no kselftest yet: there is nothing to run."

leaks=''
if [ "$config" = debug ]; then leaks=must; fi
filters=''
for t in ${TESTS-}; do
	case $t in
	*.)	filters+=" -f ${t%.}" ;;
	.*)	filters+=" -v ${t#.}" ;;
	*.*)	filters+=" -r $t" ;;
	*)	filters+=" -t $t" ;;
	esac
done

# Is there a test that wants slow I/O? Only names of tests tell that there is none.
slow=''
for t in ${TESTS:-all}; do
	case $t in all|*.|.*|*writeback*|*process_ends_while_waiting*) slow=yes ;; esac
done

cat >"$log/run" <<E2
if [ -n '${KSELFTEST_CGROUP_V1-}' ]; then
	mkdir -p /tmp/memory && mount -t cgroup -o memory memory /tmp/memory || exit 107
fi
export HMM_MIGRATE_BARE=${KSELFTEST_BARE-}
[ -n "\$HMM_MIGRATE_BARE" ] || unset HMM_MIGRATE_BARE
export HMM_MIGRATE_TRIPS=${TRIPS-}
[ -n "\$HMM_MIGRATE_TRIPS" ] || unset HMM_MIGRATE_TRIPS
export HMM_MIGRATE_MODULE=/lib/test_hmm_migrate.ko
insmod \$HMM_MIGRATE_MODULE || exit 100
[ ! -e /lib/test_hmm_migrate_dma.ko ] || insmod /lib/test_hmm_migrate_dma.ko || exit 104
echo 64M >/sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null &&
	swapon /dev/zram0 || exit 103
# For the test that wants I/O to take a while, which mkswap's does as well.
if [ -e /lib/null_blk.ko ] && [ -n '$slow' ]; then
	insmod /lib/null_blk.ko nr_devices=1 gb=1 memory_backed=1 irqmode=2 \
		completion_nsec=5000000000 && mkswap /dev/nullb0 65536 >/dev/null || exit 106
	export HMM_MIGRATE_SLOW_SWAP=/dev/nullb0
fi
# A disk's file system, whose folios have buffers.
if grep -qw ext2 /proc/filesystems; then
	mkdir /ext2 && truncate -s 48M /ext2.img && mke2fs -F /ext2.img >/dev/null 2>&1 &&
		mount -o loop -t ext2 /ext2.img /ext2 || exit 108
	export NUMA_RANGE_DIR=/ext2
fi
# khugepaged must not make huge pages of what a test wants to be small.
echo 3600000 >/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs
# KUnit ran when the kernel booted. Its lines must not pass for this test's.
for f in /sys/kernel/debug/kunit/migrate_vma*/results; do
	[ ! -e "\$f" ] || sed 's/^/kunit: /' "\$f"
done
rc=0
for program in ${programs[*]}; do
	\$program$filters || rc=\$?
done
# It waits for ever for memory that somebody leaked, and cannot be killed.
rmmod test_hmm_migrate &
rmmod=\$!
n=0
while kill -0 \$rmmod 2>/dev/null; do
	n=\$((n + 1))
	[ \$n -le 60 ] || { echo 'the module cannot be unloaded'; exit 101; }
	sleep 1
done
wait \$rmmod || exit 101
[ ! -e /lib/test_hmm_migrate_dma.ko ] || rmmod test_hmm_migrate_dma || exit 105
leaks $leaks || exit 102
[ ! -e /after ] || . /after
exit \$rc
E2
if [ -n "${KSELFTEST_AFTER-}" ]; then files+=(--file "$KSELFTEST_AFTER:/after"); fi

if [ -e "$tree/$o/drivers/block/null_blk/null_blk.ko" ]; then
	files+=(--file "$tree/$o/drivers/block/null_blk/null_blk.ko:/lib/null_blk.ko")
fi
if [ -e "$tree/$o/lib/test_hmm_migrate_dma.ko" ]; then
	files+=(--file "$tree/$o/lib/test_hmm_migrate_dma.ko:/lib/test_hmm_migrate_dma.ko")
fi

say "running the kselftest on the $config kernel"
vm=0
"$SCRIPTS/vm.sh" --kernel "$tree/$o/arch/x86/boot/bzImage" --run "$log/run" --log "$log" \
	--file "$tree/$o/lib/test_hmm_migrate.ko:/lib/test_hmm_migrate.ko" \
	--file "$SCRIPTS/vm/leaks:/bin/leaks" \
	"${files[@]}" \
	--nodes 1792M,256M \
	--timeout "${KSELFTEST_TIMEOUT:-3600}" --append "${KSELFTEST_APPEND-}" || vm=$?

# Every program must have a plan, and every planned test a result. A result's line is
#   [not ]ok NUMBER NAME [# SKIP REASON]
# and one of KUnit's is indented behind its mark.
kunit=0
if fragments "$config" "$tree" | grep '/series-debug\.config$' >/dev/null; then
	kunit=$(find "$tree/mm/migrate_vma/tests" -name '*-kunit.h' -exec cat {} + | grep -c '^	KUNIT_CASE(')
fi
skips=$SCRIPTS/kselftest.skips
if [ -n "${KSELFTEST_CGROUP_V1-}" ]; then skips=/dev/null; fi
tr -d '\r' <"$out" | awk -v skips="$skips" -v tally="$log/tally" -v kunit="$kunit" \
		-v programs=${#programs[@]} '
	BEGIN {
		while ((getline line <skips) > 0)
			if (split(line, w, " ") > 1 && w[1] !~ /^#/)
				allowed[w[1]] = 1
	}
	/^kunit:     not ok / { failed[nfailed++] = "kunit " $5; nkunit++; next }
	/^kunit:     ok .*# *SKIP/ { failed[nfailed++] = "kunit, skipped: " $4; nkunit++; next }
	/^kunit:     ok / { npassed++; nkunit++; next }
	/^1\.\.[0-9]+/ { plan += substr($1, 4); nplans++ }
	/^not ok [0-9]+ / { failed[nfailed++] = $4; next }
	/^ok [0-9]+ .*# *SKIP/ {
		if ($3 in allowed)
			nskipped++
		else {
			print "skipped, and not listed in scripts/kselftest.skips: " $3
			failed[nfailed++] = $3
		}
		next
	}
	/^ok [0-9]+ / { npassed++ }
	END {
		tests = plan + 0
		plan += kunit
		missing = plan - npassed - nfailed - nskipped
		printf "%d %d %d\n", npassed, nfailed + (missing > 0 ? missing : 0), nskipped >tally
		for (i = 0; i < nfailed; i++)
			print "failed: " failed[i]
		if (!tests)
			print "no test ran at all"
		else if (nplans + 0 != programs)
			print programs " programs, but " nplans + 0 " plans"
		else if (nkunit + 0 != kunit)
			print "KUnit has " kunit " tests, the results are " nkunit + 0
		else if (missing)
			print "the plan is " plan " tests, the results are " plan - missing
		exit nfailed || missing || !tests || nplans != programs
	}' >"$log/verdict" || vm=1
cat "$log/verdict"

read -r passed failed skipped <"$log/tally"
[ $vm -eq 0 ] ||
	die "$passed passed, $failed failed, $skipped skipped, and the run as a whole failed: see $(rel "$out") and $(rel "$log/console.log")."
say "kselftest: $passed passed, $failed failed, $skipped skipped"
