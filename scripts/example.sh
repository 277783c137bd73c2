#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Follows the manual: takes the drivers and the programs that
# Documentation/mm/hmm_migrate.rst prints, builds them, and runs them in a VM on the bench
# kernel. Fails if a driver has more lines of code than the manual's readers are promised.

. "$(dirname "$0")/lib.sh"
NAME=example

MANUAL=Documentation/mm/hmm_migrate.rst

dir=$BUILD/example
log=$LOGS/example
need tree kernel vm
"$SCRIPTS/kernel.sh" bench
mkdir -p "$dir" "$log"

# printed FILE DIR: what the manual prints under this name, up to the next line that is
# not indented.
printed()
{
	awk -v head="\`\`$1\`\`::" '
		inside && /^[^\t]/ { exit }
		inside { sub(/^\t/, ""); print }
		index($0, head) { inside = 1; getline }' "$TREE/$MANUAL" >"$2/$1"
	[ -s "$2/$1" ] || die "$MANUAL does not print $1 any more: see scripts/example.sh."
}

# example NAME MAX-LINES SETUP LINE...: builds NAME_device.c and NAME_test.c, and runs them
# after the commands SETUP. The program has to print the lines.
example()
{
	local name=$1 max=$2 setup=$3 lines
	shift 3
	mkdir -p "$dir/$name"
	printed "${name}_device.c" "$dir/$name"
	printed "${name}_test.c" "$dir/$name"
	echo "obj-m := ${name}_device.o" >"$dir/$name/Makefile"
	lines=$(gcc -fpreprocessed -dD -E -P "$dir/$name/${name}_device.c" | grep -c .)
	[ "$lines" -lt "$max" ] ||
		die "the driver ${name}_device.c of the manual has $lines lines of code, less than $max are promised."
	kmake "$TREE" .bench M="$dir/$name" modules >"$log/build.log" 2>&1 ||
		die "the driver ${name}_device.c of the manual does not build: see $(rel "$log/build.log")."
	! grep -q 'warning:' "$log/build.log" ||
		die "the driver ${name}_device.c of the manual builds with warnings: see $(rel "$log/build.log")."
	gcc -static -O2 -Wall -Werror -o "$dir/$name/${name}_test" "$dir/$name/${name}_test.c" >>"$log/build.log" 2>&1 ||
		die "the program ${name}_test.c of the manual does not build: see $(rel "$log/build.log")."

	echo "$setup insmod /${name}_device.ko && /${name}_test && rmmod ${name}_device" >"$log/run"
	"$SCRIPTS/vm.sh" --kernel "$TREE/.bench/arch/x86/boot/bzImage" --run "$log/run" --log "$log" --quiet \
		--file "$TREE/.bench/lib/test_hmm_migrate_dma.ko:test_hmm_migrate_dma.ko" \
		--file "$dir/$name/${name}_device.ko:${name}_device.ko" \
		--file "$dir/$name/${name}_test:${name}_test" --timeout 300 ||
		die "the driver ${name}_device.c of the manual does not do what the manual says: see $(rel "$log/output.log")."
	! grep -q 'nonexistent resource' "$log/console.log" ||
		die "the driver ${name}_device.c of the manual does not give back its region: see $(rel "$log/console.log")."
	printf '%s\n' "$@" | cmp -s - <(tr -d '\r' <"$log/output.log" | grep -v -e '^@@' -e '^$') ||
		die "the program ${name}_test.c prints something else than the manual says: see $(rel "$log/output.log")."
	say "the driver ${name}_device.c of the manual, $lines lines of code, builds and works"
}

example tiny 150 '' '4096 pages to the device' '4095 pages back' intact
example engine 300 'insmod /test_hmm_migrate_dma.ko &&' '3072 pages to the device' \
	'3072 pages written by the device' '3056 pages written by the device' \
	'16 pages to the device' '3072 pages to the device' '2816 pages written by the device' \
	'2816 pages evicted' '3072 pages to the device' '3072 pages written by the device' \
	'3072 pages back' intact
