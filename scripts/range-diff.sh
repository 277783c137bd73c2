#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Shows by git range-diff what changed in the patches since OLD, a revision of this
# repository, on the base that both are for. In the environment or as arguments:
#   OLD     the revision, as git names it
#   PART    only this part of the series, in build/linux

. "$(dirname "$0")/lib.sh"
NAME='range-diff'

old=${1-${OLD-}}
[ -n "$old" ] ||
	die "which revision of this repository is the old one? Say OLD=REVISION, as git names it."
commit=$(git -C "$ROOT" rev-parse -q --verify "$old^{commit}") ||
	die "OLD=$old is no revision of this repository: see git log."

need tree
"$SCRIPTS/tree.sh" --quiet
range=base..series
if [ -n "${PART-}" ]; then range=$(part_commits "$PART"); fi

files=$BUILD/scratch/range-diff-patches
rm -rf "$files"
mkdir -p "$files"
git -C "$ROOT" archive "$commit" patches | tar -x -C "$files"
mapfile -t patches < <(find "$files/patches" -name '*.patch' | sort)
[ ${#patches[@]} -gt 0 ] || die "revision $old has no patches/."
# All files, as the old patches may touch others than these do.
dir=$BUILD/scratch/range-diff
rm -rf "$dir"
git clone -q --shared --no-checkout --no-tags "$TREE" "$dir"
git -C "$dir" checkout -q --detach "$(kgit rev-parse 'base^0')"
am "$dir" "${patches[@]}" >"$LOGS/range-diff-am.log" 2>&1 ||
	die "the patches of $old do not apply to the base of today: see $(rel "$LOGS/range-diff-am.log")."
kgit fetch -q "$dir" HEAD
kgit range-diff --creation-factor=80 "base..FETCH_HEAD" "$range"
rm -rf "$dir" "$files"
