# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# How check.sh, check-fast.sh and check-all.sh run their steps and count. Each step
# counts as a test; a script goes on after a failure where that makes sense, and ends
# with 'N passed, N failed'.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

passed=0 failed=0 skipped=0

summary()
{
	local line="$passed passed, $failed failed"
	[ $skipped -eq 0 ] || line+=", $skipped skipped"
	say "$line"
}

# An interrupt or an error of the script itself must not look like a result.
finished=''
# shellcheck disable=SC2317 # reached by the trap
aborted()
{
	if [ -z "$finished" ]; then
		failed=$((failed + 1))
		say "$NAME: stopped before its end"
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

# The last thing that a script does.
finish()
{
	finished=yes
	say
	summary
	[ "$failed" -eq 0 ]
}
