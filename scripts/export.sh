#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Writes the kernel tree's commits to patches/ and series, the files that they
# create to the same path at the top level, and the series' MAINTAINERS entry
# to MAINTAINERS.fragment. Touches only what changes.
#
# export.sh --to DIR: writes it all to DIR instead of this repository; check.sh
# and lint.sh compare.

. "$(dirname "$0")/lib.sh"
NAME='export'

to=$ROOT
if [ "${1-}" = --to ]; then to=$2; fi

[ -z "${KDIR-}" ] ||
	die "patches/ is made on Debian's source: take your commits to build/linux (git am, git cherry-pick) and export without KDIR."
need tree
kgit rev-parse -q --verify base^0 >/dev/null 2>&1 ||
	die "there is no kernel tree to export from: run 'make tree' first."
if [ -d "$TREE/.git/rebase-merge" ] || [ -d "$TREE/.git/rebase-apply" ]; then
	die "a rebase or am is in progress in build/linux: finish it first."
fi
[ "$(kgit symbolic-ref -q --short HEAD)" = series ] ||
	die "build/linux is not on its branch 'series': check it out first."
[ -z "$(kgit status --porcelain)" ] ||
	die "build/linux holds uncommitted changes ($(kgit status --porcelain | head -n 1 | cut -c4-), ...): commit them first, export takes commits."
[ -z "$(kgit rev-list --merges base..series)" ] ||
	die "build/linux holds merges, which are no patches: rebase them away first."
# Whoever wrote a patch has signed it.
unsigned=$(kgit log --format='%h' base..series | while read -r c; do
	kgit log -1 --format='%(trailers:key=Signed-off-by,valueonly)' "$c" |
		grep -xF "$(kgit log -1 --format='%an <%ae>' "$c")" >/dev/null ||
		kgit log -1 --format="commit %h (%s) lacks the line 'Signed-off-by: %an <%ae>', its author" "$c"
done | tail -n 1)
[ -z "$unsigned" ] ||
	die "$unsigned: git commit --amend -s, or --reset-author."
base_is_pinned ||
	say "export: build/linux is not $BASE_PACKAGE $BASE_VERSION, so that even unchanged patches can come out different"

new=$BUILD/export
rm -rf "$new"
mkdir -p "$new/patches" "$to/patches"

kgit "${FORMAT_PATCH[@]}" -o "$new/patches" base..series
# The names of the patches, and comments where a part begins: quilt passes over these.
list_series()
{
	local c n=0 letter title subject
	local -A begins=()
	while IFS=$'\t' read -r letter title subject; do
		part_commits "$letter" >/dev/null
		begins[$subject]="# Part $letter: $title"
	done < <(parts)
	while read -r c; do
		n=$((n + 1))
		subject=$(kgit log -1 --format=%s "$c")
		if [ -n "${begins[$subject]-}" ]; then echo "${begins[$subject]}"; fi
		(cd "$new/patches" && ls "$(printf '%04d' $n)"-*)
	done < <(kgit rev-list --reverse base..series)
}
list_series >"$new/series"
kgit diff --no-renames --diff-filter=A --name-only base series >"$new/created"
while read -r path; do
	case "${MIRRORED[*]} " in
	*"${path%%/*} "*) ;;
	*)	die "the series creates $path, and only files in ${MIRRORED[*]} are mirrored: add its directory to MIRRORED in scripts/lib.sh." ;;
	esac
	mkdir -p "$new/$(dirname "$path")"
	kgit cat-file blob "series:$path" >"$new/$path"
done <"$new/created"
# The selftests' directory had another name before Linux 6.3.
if [ -d "$new/tools/testing/selftests/mm" ]; then
	ln -s mm "$new/tools/testing/selftests/vm"
fi
# Of the diff of MAINTAINERS the lines that come, without blank ones around.
kgit diff --unified=0 --no-renames --no-color --diff-algorithm=histogram base series -- MAINTAINERS |
	sed -n '/^+++ /d; s/^+//p' | sed -e '/./,$!d' | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' \
	>"$new/MAINTAINERS.fragment"
rm "$new/created"

# By content, not time; and nothing but what export owns is deleted.
changes=$(
	for dir in "${MIRRORED[@]}"; do
		mkdir -p "$new/$dir" "$to/$dir"
		rsync --recursive --links --perms --checksum --delete --out-format="%o $dir/%n" "$new/$dir/" "$to/$dir/"
	done
	rsync --recursive --checksum --delete --include='*.patch' --exclude='*' --out-format='%o patches/%n' \
		"$new/patches/" "$to/patches/"
	rsync --checksum --out-format='%o %n' "$new/series" "$new/MAINTAINERS.fragment" "$to/"
)
find "${MIRRORED[@]/#/$to/}" -type d -empty -delete
if [ "$to" = "$ROOT" ]; then
	printf '%s %s %s\n' "$(kgit rev-parse series)" "$(patches_hash)" "$(kgit rev-parse base^0)" \
		>"$STATE/applied-$(basename "$TREE")"
	changes=$(grep -v -e '/$' -e '^$' <<<"$changes") || true
	sed -e '/^$/d' -e 's/^send /wrote /' -e 's/^del\. /removed /' <<<"$changes"
	say "export: $(grep -vc '^#' "$new/series") patches, $(grep -c . <<<"$changes" || true) files changed"
fi
