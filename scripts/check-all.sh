#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The tests that take too long for check.sh: all configurations, all trees that Debian offers,
# the run of the kselftest that needs another command line, regress,
# coverage and the mutants. They take hours; each step is also a target.

. "$(dirname "$0")/check-lib.sh"
NAME=check-all

# kselftest_run LOG VARIABLE=VALUE...: a run of the kselftest, counted in LOG.
kselftest_run()
{
	local log=$LOGS/$1
	shift
	counted "kselftest: $*" "$log/tally" env TESTS='' TRIPS='' KSELFTEST_LOG="$log" "$@" \
		"$SCRIPTS/kselftest.sh" || true
}

need tree kernel vm
say '== patches'
if check 'the tree can be made from patches/' "$SCRIPTS/tree.sh"; then
	say '== configurations'
	check 'mm/ compiles in every configuration' "$SCRIPTS/matrix.sh" || true
	say "== Debian's trees"
	check "the patches apply to Debian's trees, and compile" "$SCRIPTS/trees.sh" || true
	check 'the newest of them boots and passes KUnit' "$SCRIPTS/trees.sh" --boot || true
	say '== kselftest'
	# With every DMA by the bounce buffers: what the engine does not sync is lost.
	kselftest_run kselftest-swiotlb KSELFTEST_APPEND=swiotlb=force \
		TESTS='engine. engines. .private_engine .coherent_engine'
	say '== regress'
	check "the kernel's own selftests give what stock gives" env TESTS='' "$SCRIPTS/regress.sh" || true
	check 'bugs of the base show on stock, and not with the series' "$SCRIPTS/repro.sh" || true
	say '== nodes with ZONE_MOVABLE'
	kselftest_run kselftest-movable KSELFTEST_APPEND=kernelcore=50% TESTS='numa_range. node.'
	say '== coverage'
	check 'the tests run the new code' "$SCRIPTS/coverage.sh" || true
	say '== mutants'
	check 'a test notices each mutant' "$SCRIPTS/mutants.sh" || true
fi
finish
