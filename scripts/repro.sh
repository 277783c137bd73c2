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
[ $rc -eq 0 ] || die "a bug of the base is not shown, or not mended."
say "repro: stock fails with folios of files ($(grep -c 'Bad page state' "$LOGS/repro-stock/console.log") bad pages), the series does not"
