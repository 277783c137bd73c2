#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes build/series.mbox: the whole series as mails, with a cover letter whose
# text is patches/cover-letter (its first line the subject). The same series
# makes the same bytes.

. "$(dirname "$0")/lib.sh"
NAME=mbox

cover=$PATCHES/cover-letter
[ -s "$cover" ] ||
	die "patches/cover-letter is missing: write it, the subject on its first line, a blank line, the text."

need tree
"$SCRIPTS/tree.sh" --quiet
[ "$(kgit rev-list --count base..series)" -gt 0 ] ||
	die "the series holds no patch to send."

# git makes the cover letter out of the branch's description, dates it today
# and numbers the mails by the clock: the date is told to it, and the numbers
# are replaced by some that depend on the patches alone.
GIT_COMMITTER_DATE=$(kgit log -1 --format=%aI series) \
git -C "$TREE" -c "branch.series.description=$(<"$cover")" "${FORMAT_PATCH[@]}" \
	--numbered --cover-letter --cover-from-description=subject --thread=shallow \
	--stdout base..series |
	awk -v id="hmm-migrate.$(patches_hash | cut -c1-12)" '
		/^From [0-9a-f]+ Mon Sep 17/ { header = 1 }
		/^$/ { header = 0 }
		header && match($0, /<[^>]*\.git\.[^>]*>/) {
			old = substr($0, RSTART, RLENGTH)
			if (!(old in new))
				new[old] = "<" id "." n++ "@example.org>"
			$0 = substr($0, 1, RSTART - 1) new[old] substr($0, RSTART + RLENGTH)
		}
		{ print }' >"$BUILD/series.mbox.new"
mv "$BUILD/series.mbox.new" "$BUILD/series.mbox"
say "build/series.mbox: $(grep -c '^Subject: ' "$BUILD/series.mbox") mails"
