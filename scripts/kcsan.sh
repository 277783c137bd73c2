#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# kcsan.sh LOG OBJECTS: sorts the data races that KCSAN reports in a kernel's log. One
# is the series' own when one of the two accesses is in a function of mm/migrate_vma/ or
# the test driver, or right below one, and no line of kcsan.known describes it: then this
# fails. All others are told by name. OBJECTS is where the kernel was built.

. "$(dirname "$0")/lib.sh"

[ $# -eq 2 ] || die "usage: kcsan.sh LOG OBJECTS"
log=$1 objects=$2
[ -e "$objects/mm/migrate_vma/range.o" ] ||
	die "$(rel "$objects")/mm/migrate_vma/range.o is missing: build that kernel first."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
nm "$objects"/mm/migrate_vma/*.o |
	awk 'NF == 3 && $2 ~ /[tT]/ { sub(/\..*/, "", $3); print $3 }' | sort -u >"$work/functions"
grep -v -E '^(#|$)' "$SCRIPTS/kcsan.known" >"$work/known" || true

# A report becomes one line: the verdict, its two names and all of it. One whose end is
# missing can be anybody's.
tr -d '\r' <"$log" | sed 's/^\[[^]]*\] //' | awk -v names="$work/functions" -v known="$work/known" '
	BEGIN {
		while ((getline line <names) > 0)
			own[line] = 1
		while ((getline line <known) > 0)
			expressions[++n] = line
	}
	function unfinished() {
		if (title != "")
			print "own\t" title " (the report is cut off)\t" text
	}
	END { unfinished() }
	/BUG: KCSAN:/ {
		unfinished()
		sub(/.*BUG: KCSAN: /, "")
		title = text = $0
		mine = 0
		frames = 0
		next
	}
	title == "" { next }
	/^Reported by Kernel Concurrency/ {
		verdict = mine ? "own" : "kernel"
		for (i = 1; mine && i <= n; i++)
			if (text ~ expressions[i])
				verdict = "known"
		print verdict "\t" title "\t" text
		title = ""
		next
	}
	/^ / {
		frame = $1
		sub(/\+.*/, "", frame)
		sub(/\..*/, "", frame)
		if (++frames <= 2 && (frame in own || /\[test_hmm_migrate/))
			mine = 1
	}
	/^[^ ]/ { frames = 0 }
	{ text = text $0 }' >"$work/reports"

cut -f 1,2 "$work/reports" | sort | uniq -c | sort -rn |
	awk '{ count = $1; verdict = $2; $1 = $2 = ""; print "# " count " times, " verdict ": " $0 }'
if grep -q '^own' "$work/reports"; then
	say "a data race of the series' own: see $(rel "$log"), and scripts/kcsan.known for those that are explained."
	exit 1
fi
