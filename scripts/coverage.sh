#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Counts which lines of the series' new code the tests run, by gcov: the kselftest and
# KUnit with hmm_migrate_range(), the kselftest once more by the three calls, and two
# minutes of torture, for what only want of memory and races lead to. Prints a table,
# and leaves in build/coverage the annotated sources (*.gcov) and the lines that nothing
# ran (uncovered), each with its function and the reason that coverage.reasons gives.
# Fails when fewer than MUST percent of the lines were run.

. "$(dirname "$0")/lib.sh"
NAME=coverage

MUST=97
OUT=$BUILD/coverage
DATA=$OUT/data
# What the figure of the core and its test driver is made of; the rest is the engine of the
# tests.
CORE='^(mm/migrate_vma/|lib/test_hmm_migrate\.c$)'

need tree kernel vm
for tool in gcov gcov-tool; do
	command -v $tool >/dev/null ||
		die "$tool is missing, which comes with gcc: install the package of the gcc that builds the kernel."
done
"$SCRIPTS/kernel.sh" coverage
o=$TREE/.coverage
rm -rf "$OUT"
mkdir -p "$OUT"

# What kselftest.sh has the VM do at the end. The files have no size before they
# are read, so tar alone would take nothing. base64 has neither blanks nor dots:
# no line of it passes for a test's result.
cat >"$OUT/after" <<'E2'
mkdir -p /tmp/gcov
cd /sys/kernel/debug/gcov || exit 110
find . -name '*.gcda' | while read -r f; do
	to=/tmp/gcov/${f#*/.coverage/}
	mkdir -p "${to%/*}" && cat "$f" >"$to" || exit 111
done || exit 111
cd /tmp
echo '@@ coverage: begin'
tar -c -C /tmp/gcov . | gzip | base64
echo '@@ coverage: end'
E2

# run WHAT LABEL COMMAND...: a test, and its counters to build/coverage/WHAT.
run()
{
	local what=$1 label=$2 log=$LOGS/coverage-$1
	shift 2
	step "$label" "coverage-$what.log" 5600 env -u KSELFTEST_TREE KSELFTEST_CONFIG=coverage KSELFTEST_LOG="$log" \
		KSELFTEST_AFTER="$OUT/after" KSELFTEST_BARE='' KSELFTEST_APPEND='' TESTS='' \
		TORTURE_CONFIG=coverage TORTURE_LOG="$log" TORTURE_AFTER="$OUT/after" \
		MINUTES=2 SEED=1 KINDS='' LOAD='' "$@" ||
		die "a test fails on the kernel that counts: see $(rel "$LOGS/coverage-$what.log"), and try 'make kselftest' or 'make torture'."
	mkdir -p "$OUT/$what"
	tr -d '\r' <"$log/output.log" | sed '1,/^@@ coverage: begin$/d; /^@@ coverage: end$/,$d' |
		base64 -d 2>/dev/null | tar -xz -C "$OUT/$what" 2>/dev/null ||
		die "the counters did not come out of the VM whole: see the end of $(rel "$log/output.log")."
}

run range 'the kselftest by hmm_migrate_range()' "$SCRIPTS/kselftest.sh"
run bare 'the kselftest by the three calls' env KSELFTEST_BARE=yes "$SCRIPTS/kselftest.sh"
run torture 'everything at once' "$SCRIPTS/torture.sh"

{
	gcov-tool merge -o "$OUT/both" "$OUT/range" "$OUT/bare" &&
		gcov-tool merge -o "$DATA" "$OUT/both" "$OUT/torture"
} >"$LOGS/coverage-gcov.log" 2>&1 ||
	die "gcov-tool could not add up the runs: see $(rel "$LOGS/coverage-gcov.log")."
rm -rf "$OUT"/{range,bare,both,torture,after}

mapfile -t counters < <(cd "$DATA" && find . -name '*.gcda' -printf '%P\n' | sort)
[ ${#counters[@]} -gt 0 ] ||
	die "no counters came out of the VM: does $(rel "$o/.config") say CONFIG_GCOV_KERNEL=y?"
for f in "${counters[@]}"; do
	cp "$o/${f%.gcda}.gcno" "$DATA/${f%.gcda}.gcno" ||
		die "gcc left no ${f%.gcda}.gcno beside the object: remove $(rel "$o") and try again."
done
# One that is not there would not be missed in the table.
while read -r f; do
	[ -e "$DATA/${f%.o}.gcda" ] ||
		die "${f%.o}.c has no counters: does kernel.sh still set GCOV_PROFILE as scripts/Makefile.lib wants it?"
done < <(
	cd "$o"
	# shellcheck disable=SC2086 # several, and without a % they are names
	find mm/migrate_vma ${COVERED//mm\/migrate_vma\/%.o/} -name '*.o' ! -name 'built-in*' | sort
)

# gcov writes where it is, and finds the sources from a directory beside the one
# that they were compiled in. One call for all, so that it adds up the headers.
work=$TREE/.coverage-gcov
rm -rf "$work"
mkdir "$work"
(cd "$work" && gcov --branch-probabilities --branch-counts --preserve-paths --relative-only \
	"${counters[@]/#/$DATA/}") >"$OUT/gcov.out" 2>"$LOGS/coverage-gcov.log" ||
	die "gcov fails: see $(rel "$LOGS/coverage-gcov.log")."
for f in "$work"/*.gcov; do
	name=$(sed -n '1s/^.*:Source:\(\.\.\/\)*//p' "$f")
	case $name in
	mm/migrate_vma/tests/*)		;;
	mm/migrate_vma/*|*/hmm_migrate*.[ch]|lib/test_hmm_migrate*.c)
		mv "$f" "$OUT/${name//\//-}.gcov" ;;
	esac
done
rm -rf "$work" "$DATA"

# A line's count is in front of it, and its branches follow it. What gcov repeats
# for each copy of an inline function stands between lines of dashes.
rc=0
: >"$OUT/uncovered"
awk -v core="$CORE" -v must=$MUST -v uncovered="$OUT/uncovered" -v reasons="$SCRIPTS/coverage.reasons" '
	BEGIN {
		while ((getline line <reasons) > 0)
			if (line !~ /^(#|$)/) {
				name = line
				sub(/:.*/, "", name)
				sub(/^[^:]*: */, "", line)
				reason[name] = line
			}
	}
	function percent(n, all) { return all ? sprintf("%5.1f%%", 100 * n / all) : "     -" }
	function row(name, l, nl, b, nb) {
		printf "%-36s %5d /%5d %s  %5d /%5d %s\n", name, l, nl, percent(l, nl), b, nb, percent(b, nb)
	}
	FNR == 1 {
		file = $0
		sub(/^.*:Source:(\.\.\/)*/, "", file)
		files[n++] = file
		copy = 0
	}
	/^------------------$/ { copy = 1; next }
	/^function / {
		function_name = $2
		sub(/\..*/, "", function_name)
		next
	}
	/^ *([0-9]+\*?|-|#####|=====): *[0-9]+:/ {
		split($0, field, ":")
		gsub(/ /, "", field[1])
		number = field[2] + 0
		# The copies go back; after the last one it goes on.
		if (copy && number > last)
			copy = 0
		if (copy)
			next
		last = number
		if (!number || field[1] == "-")
			next
		lines[file]++
		if (field[1] !~ /^[#=]/)
			run[file]++
		else {
			name = file " " function_name
			why = name in reason ? reason[name] : "no reason is given"
			used[name] = 1
			if (!(name in reason))
				unexplained++
			else
				explained++
			text = substr($0, 17)
			sub(/^[ \t]*/, "", text)
			print file ":" number ": " function_name "(): " text "  [" why "]" >uncovered
		}
		next
	}
	!copy && /^branch / {
		branches[file]++
		if ($3 == "taken" && $4 > 0)
			taken[file]++
	}
	END {
		printf "%-36s %19s  %19s\n", "", "lines run     ", "branches taken  "
		for (i = 0; i < n; i++) {
			f = files[i]
			if (!lines[f])
				continue
			row(f, run[f], lines[f], taken[f], branches[f])
			r += run[f]; l += lines[f]; t += taken[f]; b += branches[f]
			if (f ~ core) {
				cr += run[f]; cl += lines[f]; ct += taken[f]; cb += branches[f]
			}
		}
		row("without the DMA engine", cr, cl, ct, cb)
		row("total", r, l, t, b)
		for (name in reason)
			if (!(name in used))
				print "all of it was run this time, and coverage.reasons says why not: " name
		printf "%d lines that nothing ran have a reason in scripts/coverage.reasons, %d have none\n", explained, unexplained
		exit !l || !cl || 100 * r < must * l || 100 * cr < must * cl
	}' "$OUT"/*.gcov >"$OUT/table" || rc=$?
say
cat "$OUT/table"
say "what nothing ran: $(rel "$OUT/uncovered"); the annotated sources: $(rel "$OUT")/*.gcov"
[ $rc -eq 0 ] ||
	die "fewer than $MUST % of the lines were run: add tests for what $(rel "$OUT/uncovered") lists."
