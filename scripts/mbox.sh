#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes build/series.mbox: the whole series as mails, with a cover letter whose
# text is patches/cover-letter (its first line the subject). With PART=A in the
# environment, or as an argument, build/part-A.mbox: the patches of that part, with
# patches/cover-letter-A, addressed as get_maintainer.pl says. The same series makes
# the same bytes.

. "$(dirname "$0")/lib.sh"
NAME=mbox

part=${1-${PART-}}
cover=$PATCHES/cover-letter${part:+-$part}
out=$BUILD/${part:+part-}${part:-series}.mbox

need tree
"$SCRIPTS/tree.sh" --quiet
range=base..series
if [ -n "$part" ]; then range=$(part_commits "$part"); fi
[ -s "$cover" ] ||
	die "$(rel "$cover") is missing: write it, the subject on its first line, a blank line, the text."
[ "$(kgit rev-list --count "$range")" -gt 0 ] ||
	die "the series holds no patch to send."

# A part goes to those whose files it touches.
addresses=()
if [ -n "$part" ]; then
	dir=$BUILD/scratch/mbox
	rm -rf "$dir"
	mkdir -p "$dir"
	kgit "${FORMAT_PATCH[@]}" -o "$dir" "$range"
	for kind in to cc; do
		who=(--nol)
		if [ $kind = cc ]; then who=(--nom --nor); fi
		while read -r address; do
			addresses+=("--$kind=$address")
		done < <(cd "$TREE" && find "$dir" -name '*.patch' -print0 | sort -z |
			xargs -0 scripts/get_maintainer.pl "${who[@]}" --no-git --no-git-fallback --no-rolestats \
				2>"$LOGS/mbox-maintainers.log" | sort -u)
	done
fi

# git takes the cover letter's text from the description of the branch at which
# the range ends: a part ends at a branch of its own for that.
branch=series
if [ -n "$part" ]; then
	branch=part-$part
	kgit branch -f "$branch" "${range#*..}" >/dev/null
	range=${range%..*}..$branch
fi

# git makes the cover letter out of the branch's description, dates it today
# and numbers the mails by the clock: the date is told to it, and the numbers
# are replaced by some that depend on the patches alone. It also folds a long
# subject, which the b4 of Debian 12 does not read.
GIT_COMMITTER_DATE=$(kgit log -1 --format=%aI series) \
git -C "$TREE" -c "branch.$branch.description=$(<"$cover")" "${FORMAT_PATCH[@]}" \
	--numbered --cover-letter --cover-from-description=subject --thread=shallow \
	"${addresses[@]}" --stdout "$range" |
	awk -v id="hmm-migrate.$(patches_hash | cut -c1-12)${part:+.$part}" '
		function flush() { if (held != "") print held; held = "" }
		/^From [0-9a-f]+ Mon Sep 17/ { header = 1 }
		/^$/ { header = 0 }
		header && match($0, /<[^>]*\.git\.[^>]*>/) {
			old = substr($0, RSTART, RLENGTH)
			if (!(old in new))
				new[old] = "<" id "." n++ "@example.org>"
			$0 = substr($0, 1, RSTART - 1) new[old] substr($0, RSTART + RLENGTH)
		}
		header && /^Subject: / { held = $0; next }
		header && held != "" && /^ / { held = held $0; next }
		{ flush(); print }' >"$out.new"
mv "$out.new" "$out"
say "$(rel "$out"): $(grep -c '^Subject: ' "$out") mails"
