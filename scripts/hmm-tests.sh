#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# hmm-tests.sh CONFIG [--stock]: runs the kernel's own test of HMM, hmm-tests, with
# coherent memory, on the kernel with the series. With --stock, the driver is that of the
# base, which migrates by the three calls: drivers and programs that know nothing of the
# series must go on working.

. "$(dirname "$0")/lib.sh"
NAME=hmm-tests

config=${1:-bench}
what=series
if [ "${2-}" = --stock ]; then what=stock; fi
# One of the 72 is for private memory alone, and skips coherent memory.
tests=71
log=$LOGS/hmm-tests-$config-$what
out=$log/output.log
dir=$BUILD/hmm-tests
mkdir -p "$log" "$dir/include"
rm -f "$out"

need kernel vm
"$SCRIPTS/kernel.sh" "$config"

# Only the limit of time is changed, on a copy of the header: 30 s are not enough
# for two of the tests on the debug kernel in a VM without KVM, with or without
# the series. hmm-tests.c includes it by a relative path.
mkdir -p "$dir/selftests/mm"
for f in kselftest_harness.h kselftest.h; do
	install -C -m 644 "$TREE/tools/testing/selftests/$f" "$dir/selftests/$f"
done
sed -i 's/^#define TEST_TIMEOUT_DEFAULT .*/#define TEST_TIMEOUT_DEFAULT 600/' "$dir/selftests/kselftest_harness.h"
grep -q '^#define TEST_TIMEOUT_DEFAULT 600$' "$dir/selftests/kselftest_harness.h" ||
	die "kselftest_harness.h has no TEST_TIMEOUT_DEFAULT to change any more: look how it limits a test's time now."
install -C -m 644 "$TREE/tools/testing/selftests/mm/hmm-tests.c" "$dir/selftests/mm/hmm-tests.c"
gcc -O2 -static -pthread -I"$TREE/.$config/usr/include" -I"$dir/selftests" -I"$TREE/tools/testing/selftests" -I"$TREE" \
	-o "$dir/hmm-tests" "$dir/selftests/mm/hmm-tests.c" >"$LOGS/hmm-tests-build.log" 2>&1 ||
	die "hmm-tests.c does not build: see $(rel "$LOGS/hmm-tests-build.log")."

driver=$TREE/.$config/lib/test_hmm.ko
if [ $what = stock ]; then
	mkdir -p "$dir/driver-$config"
	for f in test_hmm.c test_hmm_uapi.h; do
		kgit show "base:lib/$f" >"$dir/driver-$config/$f"
	done
	echo 'obj-m := test_hmm.o' >"$dir/driver-$config/Makefile"
	kmake "$TREE" ".$config" M="$dir/driver-$config" modules >"$LOGS/hmm-tests-driver.log" 2>&1 ||
		die "the base's test_hmm.c does not build on the $config kernel: see $(rel "$LOGS/hmm-tests-driver.log")."
	driver=$dir/driver-$config/test_hmm.ko
fi

cat >"$log/run" <<'E2'
echo 16 >/proc/sys/vm/nr_hugepages || exit 101
insmod /test_hmm.ko spm_addr_dev0=0x40000000 spm_addr_dev1=0x60000000 || exit 100
cd /
hmm-tests
E2

vm=0
step "hmm-tests on the $config kernel, $what driver" "hmm-tests-$config-$what.log" 150 "$SCRIPTS/vm.sh" \
	--kernel "$TREE/.$config/arch/x86/boot/bzImage" --run "$log/run" --log "$log" \
	--file "$driver:/test_hmm.ko" --file "$dir/hmm-tests:/bin/hmm-tests" \
	--timeout 1500 --append kmemleak=off || vm=$?
passed=$(tr -d '\r' <"$out" | grep -c '^ok .*' || true)
skipped=$(tr -d '\r' <"$out" | grep -c '^ok .*# *SKIP' || true)
passed=$((passed - skipped))
[ "$vm $passed" = "0 $tests" ] ||
	die "$passed of $tests tests of hmm-tests pass on the $config kernel: see $(rel "$out") and $(rel "$log/console.log")."
say "hmm-tests on the $config kernel, $what driver: $passed passed"
