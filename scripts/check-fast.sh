#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The tests that tell most in the shortest time: lint, and KUnit and the kselftest on the lean
# kernel. Its own configuration, fast, adds KUnit to bench, so that the kernel that
# bench.sh measures stays as it is.

. "$(dirname "$0")/check-lib.sh"
NAME=check-fast

need tree kernel vm lint
say '== patches'
if check 'the tree can be made from patches/' "$SCRIPTS/tree.sh"; then
	say '== lint'
	counted lint "$BUILD/lint.tally" "$SCRIPTS/lint.sh" --tally "$BUILD/lint.tally" || true
	say '== kernel'
	if check 'the fast kernel builds' "$SCRIPTS/kernel.sh" fast; then
		say '== KUnit and kselftest'
		counted kselftest "$LOGS/kselftest/tally" env KSELFTEST_CONFIG=fast "$SCRIPTS/kselftest.sh" || true
	fi
fi
finish
