# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# The tests of check.sh that are no target of their own: functions that fail.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
NAME=check

# Fails if DIR's commit or work tree is not what the series' tip is.
same_tree()
{
	[ "$(git -C "$1" rev-parse "$2")" = "$(kgit rev-parse 'HEAD^{tree}')" ] ||
		die "the result in $(rel "$1") is not the tree of $(rel "$TREE"): compare them with git diff."
}

# An export writes the very bytes that patches/ and series hold.
stable()
{
	local new=$BUILD/scratch/stable
	base_is_pinned || { say "check: not on $BASE_VERSION, patches come out different there"; return 0; }
	rm -rf "$new"
	mkdir -p "$new"
	"$SCRIPTS/export.sh" --to "$new"
	{
		diff -r --exclude='cover-letter*' --exclude=parts "$new/patches" "$PATCHES" &&
		diff "$new/series" "$ROOT/series"
	} >"$LOGS/check-export.log" || die "'make export' would change patches/: see $(rel "$LOGS/check-export.log")."
}

by_am()
{
	local dir
	dir=$(scratch am base)
	am "$dir" "$PATCHES"/*.patch >"$LOGS/check-am.log" 2>&1 ||
		die "git am patches/*.patch fails: see $(rel "$LOGS/check-am.log")."
	same_tree "$dir" 'HEAD^{tree}'
}

by_quilt()
{
	local dir
	dir=$(scratch quilt base)
	(cd "$dir" && QUILT_PATCHES=$PATCHES QUILT_SERIES=$ROOT/series quilt --quiltrc - push -a) \
		>"$LOGS/check-quilt.log" 2>&1 ||
		die "quilt push -a fails: see $(rel "$LOGS/check-quilt.log")."
	if grep -E 'fuzz|offset' "$LOGS/check-quilt.log" && base_is_pinned; then
		die "quilt had to shift a patch: see $(rel "$LOGS/check-quilt.log")."
	fi
	(cd "$dir" && quilt --quiltrc - applied >/dev/null && rm -rf .pc)
	git -C "$dir" add --sparse -A -f
	same_tree "$dir" "$(git -C "$dir" write-tree)"
}

by_b4()
{
	local dir part letters
	mapfile -t letters < <(parts | cut -f1)
	"$SCRIPTS/mbox.sh"
	dir=$(scratch b4 base)
	take_mbox "$dir" "$BUILD/series.mbox"
	same_tree "$dir" 'HEAD^{tree}'
	# And each part on the parts before it.
	git -C "$dir" checkout -q --detach "$(kgit rev-parse base^0)"
	for part in "${letters[@]}"; do
		"$SCRIPTS/mbox.sh" "$part"
		take_mbox "$dir" "$BUILD/part-$part.mbox"
	done
	same_tree "$dir" 'HEAD^{tree}'
}

# take_mbox DIR MBOX: b4 am and git am, in the kernel tree DIR.
take_mbox()
{
	local dir=$1 mbox=$2 out=$BUILD/scratch/b4-out log
	log=$LOGS/check-b4-$(basename "$mbox" .mbox).log
	rm -rf "$out"
	mkdir -p "$out"
	# -T: do not look for trailers on the network. A home of its own: its
	# cache and configuration are not the user's.
	(cd "$dir" && HOME=$out XDG_CACHE_HOME=$out XDG_DATA_HOME=$out b4 am -m "$mbox" -T -o "$out") \
		>"$log" 2>&1 || die "b4 am -m $(rel "$mbox") fails: see $(rel "$log")."
	am "$dir" "$out"/*.mbx >>"$log" 2>&1 ||
		die "git am fails on what b4 wrote of $(rel "$mbox"): see $(rel "$log")."
}
