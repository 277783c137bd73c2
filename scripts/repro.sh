#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Bugs of the base that a module of scripts/repro shows: stock must fail, or the module shows
# nothing, and the series must not. On the kernels of make regress.

. "$(dirname "$0")/lib.sh"
NAME=repro
REPRO=$SCRIPTS/repro
OUT=$BUILD/repro

need tree kernel vm
rc=0
mkdir -p "$OUT"
gcc -static -O2 -Wall -Werror -o "$OUT/file_migrate_user" "$REPRO/file_migrate_user.c" \
	>"$LOGS/repro-program.log" 2>&1 || die "file_migrate_user.c does not build: see $(rel "$LOGS/repro-program.log")."

for what in stock series; do
	if [ $what = stock ]; then tree=$BUILD/stock option=--stock; else tree=$TREE option=''; fi
	"$SCRIPTS/kernel.sh" regress ${option:+"$option"}
	log=$LOGS/repro-$what
	mkdir -p "$OUT/$what" "$log"
	install -C -m 644 "$REPRO/Makefile" "$REPRO/file_migrate.c" "$OUT/$what"
	kmake "$tree" .regress M="$OUT/$what" modules >"$LOGS/repro-module-$what.log" 2>&1 ||
		die "file_migrate.c does not build: see $(rel "$LOGS/repro-module-$what.log")."
	good=yes
	"$SCRIPTS/vm.sh" --kernel "$tree/.regress/arch/x86/boot/bzImage" --run "$REPRO/vm-run.sh" \
		--log "$log" --file "$OUT/$what/file_migrate.ko:/file_migrate.ko" \
		--file "$OUT/file_migrate_user:/bin/file_migrate_user" --mem 1G --quiet \
		>"$LOGS/repro-$what.log" 2>&1 || good=''
	if [ $what = stock ] && [ -n "$good" ]; then
		say "repro: stock migrates folios of files without a fault: the module shows nothing"
		rc=1
	elif [ $what = series ] && [ -z "$good" ]; then
		say "repro: the series fails with folios of files: see $(rel "$LOGS/repro-$what.log")"
		rc=1
	fi
done
# Tests that part A adds to hmm-tests.c: each must fail on stock, where the last one crashes
# the kernel. lib/test_hmm.c is that of each kernel.
"$SCRIPTS/kernel.sh" regress
mkdir -p "$OUT/selftests/mm"
for f in kselftest_harness.h kselftest.h mm/hmm-tests.c; do
	install -C -m 644 "$TREE/tools/testing/selftests/$f" "$OUT/selftests/$f"
done
sed -i 's/^#define TEST_TIMEOUT_DEFAULT .*/#define TEST_TIMEOUT_DEFAULT 300/' "$OUT/selftests/kselftest_harness.h"
gcc -O2 -static -pthread -I"$TREE/.regress/usr/include" -I"$OUT/selftests" -I"$TREE/tools/testing/selftests" \
	-I"$TREE" -o "$OUT/hmm-tests" "$OUT/selftests/mm/hmm-tests.c" >"$LOGS/repro-hmm-tests.log" 2>&1 ||
	die "hmm-tests.c does not build: see $(rel "$LOGS/repro-hmm-tests.log")."
new='migrate_madv_free migrate_mlocked migrate_uffd_wp_zero migrate_soft_dirty migrate_collapse
	migrate_clear_refs migrate_ksm_mremap'
cat >"$OUT/run-hmm-tests" <<E2
insmod /test_hmm.ko spm_addr_dev0=0x40000000 spm_addr_dev1=0x60000000 || exit 100
cd /
for t in $(tr -s '[:space:]' ' ' <<<"$new"); do hmm-tests -v hmm_device_private -t \$t; done
E2
for what in stock series; do
	if [ $what = stock ]; then tree=$BUILD/stock; else tree=$TREE; fi
	log=$LOGS/repro-hmm-tests-$what
	mkdir -p "$log"
	rm -f "$log/output.log"
	"$SCRIPTS/vm.sh" --kernel "$tree/.regress/arch/x86/boot/bzImage" --run "$OUT/run-hmm-tests" --log "$log" \
		--file "$tree/.regress/lib/test_hmm.ko:/test_hmm.ko" --file "$OUT/hmm-tests:/bin/hmm-tests" \
		--quiet >"$LOGS/repro-hmm-tests-$what.log" 2>&1 || true
	for t in $new; do
		passed=''
		if tr -d '\r' <"$log/output.log" | grep -E "^ok [0-9]+ .*\.$t\$" >/dev/null; then passed=yes; fi
		if [ $what = stock ] && [ -n "$passed" ]; then
			say "repro: $t of hmm-tests passes on stock: it shows no bug"
			rc=1
		elif [ $what = series ] && [ -z "$passed" ]; then
			say "repro: $t of hmm-tests fails with the series: see $(rel "$log/output.log")"
			rc=1
		fi
	done
done
[ $rc -eq 0 ] || die "a bug of the base is not shown, or not mended."
say "repro: stock fails with folios of files ($(grep -c 'Bad page state' "$LOGS/repro-stock/console.log") bad pages), the series does not"
