#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# All tests, as CI runs them. Each step counts as a test, and so does each
# check of lint and each test of the kselftest. Goes on after a failure where
# that makes sense, and ends with 'N passed, N failed'.

. "$(dirname "$0")/lib.sh"
NAME=check

passed=0 failed=0 skipped=0

summary()
{
	local line="$passed passed, $failed failed"
	[ $skipped -eq 0 ] || line+=", $skipped skipped"
	say "$line"
}

# An interrupt or an error of this script itself must not look like a result.
finished=''
# shellcheck disable=SC2317 # reached by the trap
aborted()
{
	if [ -z "$finished" ]; then
		failed=$((failed + 1))
		say "check: stopped before its end"
		summary
	fi
}
trap aborted EXIT

# check LABEL COMMAND...: one test.
check()
{
	local label=$1
	shift
	# In a shell of its own: in a condition, set -e would mean nothing.
	if bash -euo pipefail -c '. "$0"; "$@"' "$SCRIPTS/check-steps.sh" "$@"; then
		passed=$((passed + 1))
		say "ok: $label"
	else
		failed=$((failed + 1))
		say "FAILED: $label"
		return 1
	fi
}

# counted LABEL TALLY COMMAND...: one that counts its tests itself.
counted()
{
	local label=$1 tally=$2 rc=0 p=0 f=0 s=0
	shift 2
	rm -f "$tally"
	"$@" || rc=$?
	if [ -e "$tally" ]; then read -r p f s <"$tally"; fi
	# A failure that no test accounts for (a splat, a VM that died).
	if [ $rc -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
	passed=$((passed + p))
	failed=$((failed + f))
	skipped=$((skipped + s))
	if [ $rc -eq 0 ]; then say "ok: $label"; else say "FAILED: $label"; fi
	return $rc
}

need tree kernel vm lint patches
say '== patches'
if check 'the tree can be made from patches/' "$SCRIPTS/tree.sh"; then
	check 'exporting the tree changes nothing' stable || true
	check 'git am makes the series of patches/*.patch' by_am || true
	check 'quilt push -a makes it of series' by_quilt || true
	check 'b4 am and git am make it of the mbox' by_b4 || true
	say '== lint'
	counted lint "$BUILD/lint.tally" "$SCRIPTS/lint.sh" --tally "$BUILD/lint.tally" || true
	check 'the judgement of the benchmark is tested' python3 "$SCRIPTS/bench/report_test.py" || true
	say '== kernel'
	if check 'the debug kernel builds' "$SCRIPTS/kernel.sh" debug; then
		say '== kselftest'
		counted kselftest "$LOGS/kselftest/tally" "$SCRIPTS/kselftest.sh" || true
		say '== torture'
		check 'nothing is lost when everything happens at once' \
			env MINUTES=2 SEED=1 KINDS='' LOAD='' TORTURE_CONFIG=debug "$SCRIPTS/torture.sh" || true
	fi
	say '== drivers of today'
	check 'nouveau, amdkfd and the ultravisor code compile' "$SCRIPTS/drivers.sh" || true
	check "all of hmm-tests pass on the debug kernel" "$SCRIPTS/hmm-tests.sh" debug || true
	check "all of hmm-tests pass on the bench kernel" "$SCRIPTS/hmm-tests.sh" bench || true
	say '== manual'
	check 'the driver of the manual builds and works' "$SCRIPTS/example.sh" || true
	say '== figures'
	check 'the benchmark holds its figures' "$SCRIPTS/bench/bench.sh" || true
	say '== demo'
	check 'the demo moves memory and finds it intact' "$SCRIPTS/demo.sh" || true
fi

finished=yes
say
summary
[ $failed -eq 0 ]
