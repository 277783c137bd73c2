#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs scripts/demo/demo.c in a VM on the bench kernel with the series: it
# migrates memory to a device and back and prints what moved; and picture.c, which
# draws it. Time counts instructions there, one a nanosecond, so the figures are the
# same everywhere. The picture is also in build/demo/picture.svg.

. "$(dirname "$0")/lib.sh"
NAME=demo

need kernel vm
"$SCRIPTS/kernel.sh" bench
o=.bench
[ -e "$TREE/lib/test_hmm_migrate.c" ] ||
	die "the series has no lib/test_hmm_migrate.c yet: there is no device to migrate to."
log=$LOGS/demo
mkdir -p "$log"
for program in demo picture; do
	static_program "$TREE" "$o" "$SCRIPTS/demo/$program.c" "$TREE/$o/$program" >"$log/build.log" 2>&1 ||
		die "scripts/demo/$program.c does not build: see $(rel "$log/build.log")."
done
# Colours are for a terminal whose user wants them; a file gets letters and digits.
colours=''
if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then colours=-c; fi
cat >"$log/run" <<E2
insmod /lib/test_hmm_migrate.ko || exit 100
demo || exit
picture $colours -o /tmp/picture.svg
rc=\$?
echo '@@ picture'
cat /tmp/picture.svg
echo '@@ end'
exit \$rc
E2
rc=0
"$SCRIPTS/vm.sh" --kernel "$TREE/$o/arch/x86/boot/bzImage" --run "$log/run" --log "$log" --icount --quiet \
	--file "$TREE/$o/lib/test_hmm_migrate.ko:/lib/test_hmm_migrate.ko" \
	--file "$TREE/$o/demo:/bin/demo" --file "$TREE/$o/picture:/bin/picture" --timeout 600 || rc=$?
# The drawing comes by the same line as what is to be read.
mkdir -p "$BUILD/demo"
tr -d '\r' <"$log/output.log" | sed -n '/^@@ picture/,/^@@ end/{/^@@/!p}' >"$BUILD/demo/picture.svg"
tr -d '\r' <"$log/output.log" | sed '/^@@ picture/,/^@@ end/d; /^@@ vm: /d'
[ $rc -eq 0 ] ||
	die "the demonstration failed in the VM: see $(rel "$log/output.log")."
say "the picture: $(rel "$BUILD/demo/picture.svg")"
