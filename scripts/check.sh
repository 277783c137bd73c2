#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The tests that CI runs. Each step counts as a test, and so does each check of lint
# and each test of the kselftest. Longer tests are in check-all.sh.

. "$(dirname "$0")/check-lib.sh"
NAME=check

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
	say '== configurations'
	check 'mm/ compiles without MEMCG, and without any of nine options' "$SCRIPTS/matrix.sh" memcg none || true
	say '== kernel'
	if check 'the debug kernel builds' "$SCRIPTS/kernel.sh" debug; then
		say '== kselftest'
		counted kselftest "$LOGS/kselftest/tally" "$SCRIPTS/kselftest.sh" || true
		# These cannot be beside those of version 2, which others of its tests use.
		counted 'kselftest with memory cgroups of version 1' "$LOGS/kselftest-v1/tally" \
			env KSELFTEST_CGROUP_V1=yes KSELFTEST_LOG="$LOGS/kselftest-v1" \
			TESTS=charge_moving "$SCRIPTS/kselftest.sh" || true
		say '== torture'
		check 'nothing is lost when everything happens at once' \
			env MINUTES=2 SEED=1 KINDS='' LOAD='' TORTURE_CONFIG=debug "$SCRIPTS/torture.sh" || true
	fi
	say '== drivers of today'
	check 'nouveau, amdkfd and the ultravisor code compile' "$SCRIPTS/drivers.sh" || true
	check "all of hmm-tests pass on the debug kernel" "$SCRIPTS/hmm-tests.sh" debug || true
	check "all of hmm-tests pass on the bench kernel" "$SCRIPTS/hmm-tests.sh" bench || true
	check "and with the base's driver" "$SCRIPTS/hmm-tests.sh" bench --stock || true
	say '== manual'
	check 'the driver of the manual builds and works' "$SCRIPTS/example.sh" || true
	say '== figures'
	check 'the benchmark holds its figures' "$SCRIPTS/bench/bench.sh" || true
	say '== demo'
	check 'the demo moves memory and finds it intact' "$SCRIPTS/demo.sh" || true
fi

finish
