#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Follows the manual: takes the driver and the program of 'A complete driver' in
# Documentation/mm/hmm_migrate.rst as they are printed there, builds both, and runs
# them in a VM on the bench kernel. Fails if the driver has more lines of code than
# the manual's readers are promised.

. "$(dirname "$0")/lib.sh"
NAME=example

MANUAL=Documentation/mm/hmm_migrate.rst
MAX_LINES=150

dir=$BUILD/example
log=$LOGS/example
need tree kernel vm
"$SCRIPTS/kernel.sh" bench
mkdir -p "$dir" "$log"

# printed FILE: what the manual prints under this name, up to the next line that is
# not indented.
printed()
{
	awk -v head="\`\`$1\`\`::" '
		inside && /^[^\t]/ { exit }
		inside { sub(/^\t/, ""); print }
		index($0, head) { inside = 1; getline }' "$TREE/$MANUAL" >"$dir/$1"
	[ -s "$dir/$1" ] || die "$MANUAL does not print $1 any more: see scripts/example.sh."
}

for file in tiny_device.c Makefile tiny_test.c; do
	printed $file
done

lines=$(gcc -fpreprocessed -dD -E -P "$dir/tiny_device.c" | grep -c .)
[ "$lines" -lt $MAX_LINES ] ||
	die "the driver of the manual has $lines lines of code, less than $MAX_LINES are promised."

kmake "$TREE" .bench M="$dir" modules >"$log/build.log" 2>&1 ||
	die "the driver of the manual does not build: see $(rel "$log/build.log")."
gcc -static -O2 -Wall -Werror -o "$dir/tiny_test" "$dir/tiny_test.c" >>"$log/build.log" 2>&1 ||
	die "the program of the manual does not build: see $(rel "$log/build.log")."

cat >"$log/run" <<E2
insmod /tiny_device.ko && /tiny_test && rmmod tiny_device
E2
"$SCRIPTS/vm.sh" --kernel "$TREE/.bench/arch/x86/boot/bzImage" --run "$log/run" --log "$log" --quiet \
	--file "$dir/tiny_device.ko:tiny_device.ko" --file "$dir/tiny_test:tiny_test" --timeout 300 ||
	die "the driver of the manual does not do what the manual says: see $(rel "$log/output.log")."
! grep -q 'nonexistent resource' "$log/console.log" ||
	die "the driver of the manual does not give back its region: see $(rel "$log/console.log")."
printf '%s\n' '4096 pages to the device' '4095 pages back' intact |
	cmp -s - <(tr -d '\r' <"$log/output.log" | grep -v -e '^@@' -e '^$') ||
	die "the program prints something else than the manual says: see $(rel "$log/output.log")."
say "the driver of the manual, $lines lines of code, builds and works"
