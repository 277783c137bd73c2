#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs scripts/demo/demo.c in a VM on the bench kernel with the series: it
# migrates memory to a device and back and prints what moved. Time counts
# instructions there, one a nanosecond, so the figures are the same everywhere.

. "$(dirname "$0")/lib.sh"
NAME=demo

need kernel vm
"$SCRIPTS/kernel.sh" bench
o=.bench
[ -e "$TREE/lib/test_hmm_migrate.c" ] ||
	die "the series has no lib/test_hmm_migrate.c yet: there is no device to migrate to."
log=$LOGS/demo
mkdir -p "$log"
static_program "$TREE" "$o" "$SCRIPTS/demo/demo.c" "$TREE/$o/demo" >"$log/build.log" 2>&1 ||
	die "scripts/demo/demo.c does not build: see $(rel "$log/build.log")."
cat >"$log/run" <<E2
insmod /lib/test_hmm_migrate.ko || exit 100
demo
E2
"$SCRIPTS/vm.sh" --kernel "$TREE/$o/arch/x86/boot/bzImage" --run "$log/run" --log "$log" --icount \
	--file "$TREE/$o/lib/test_hmm_migrate.ko:/lib/test_hmm_migrate.ko" \
	--file "$TREE/$o/demo:/bin/demo" --timeout 600 ||
	die "the demonstration failed in the VM: see $(rel "$log/output.log")."
