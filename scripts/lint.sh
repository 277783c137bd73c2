#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Everything that can be said about the patches without running them. Results
# are cached by what they depend on. --tally FILE: also writes how many checks
# passed and failed.

. "$(dirname "$0")/lib.sh"
NAME=lint

cache=$BUILD/lint
o=.lint
passed=0 failed=0
mkdir -p "$cache/ok"

ok()
{
	passed=$((passed + 1))
}

finding()
{
	failed=$((failed + 1))
	say "lint: $*"
}

# cached KEY COMMAND...: runs it, unless it has succeeded with this key.
cached()
{
	local key
	key=$(printf %s "$1" | sha256sum | cut -c1-32)
	shift
	[ ! -e "$cache/ok/$key" ] || return 0
	"$@" || return 1
	touch "$cache/ok/$key"
}

# Each line that comes in is one finding of the check NAME.
report()
{
	local n=0 line
	while IFS= read -r line; do
		say "lint: $1: $line"
		n=$((n + 1))
	done
	[ $n -eq 0 ]
}

agree()
{
	local line n=0 list
	list=$(patch_files | sed 's|.*/||')
	if [ "$list" = "$(grep -v '^#' "$ROOT/series" 2>/dev/null)" ]; then
		ok
	else
		finding "series does not list exactly the files of patches/, in order: run 'make export'"
	fi
	if ! base_is_pinned; then
		say "lint: not on $BASE_PACKAGE $BASE_VERSION: patches/ and the mirrored files are not compared with the tree"
		return
	fi
	rm -rf "$BUILD/lint/export"
	"$SCRIPTS/export.sh" --to "$BUILD/lint/export" >"$LOGS/lint-export.log" 2>&1 || {
		finding "$(tail -n 1 "$LOGS/lint-export.log")"
		return
	}
	while IFS= read -r line; do
		finding "$line: run 'make export', or 'make tree' if patches/ is right"
		n=1
	done < <(for f in patches series MAINTAINERS.fragment "${MIRRORED[@]}"; do
		[ -e "$ROOT/$f" ] || [ -e "$BUILD/lint/export/$f" ] || continue
		diff -q -r --no-dereference --exclude='cover-letter*' --exclude=parts "$BUILD/lint/export/$f" "$ROOT/$f" 2>&1 |
			sed -e "s|$BUILD/lint/export|the tree's|g" -e "s|$ROOT/||g" || true
	done)
	[ $n -ne 0 ] || ok
}

# Drops what checkpatch says of the lines that patch $1 only moves. checkpatch knows no
# moves; only a patch that deletes a file counts as one.
not_moved()
{
	if ! grep -q '^deleted file mode' "$1"; then
		cat
		return
	fi
	awk -v patch="$1" '
		BEGIN {
			while ((getline line < patch) > 0) {
				text[++n] = line
				if (line ~ /^-/) gone[substr(line, 2)]
			}
		}
		index($0, patch ":") == 1 {
			split(substr($0, length(patch) + 2), place, ":")
			line = text[place[1]]
			if (line ~ /^\+/ && substr(line, 2) in gone) next
		}
		{ print }'
}

checkpatch()
{
	(
		cd "$TREE"
		# The tree has no history: fixes_tag() looks the commits up. Where no commit that is
		# known here fits, the message says in words since when the bug is there.
		scripts/checkpatch.pl -q --strict --terse --show-types \
			--ignore UNKNOWN_COMMIT_ID,MISSING_FIXES_TAG "$1" 2>&1 || true
		fixes_tag "$1"
	) | not_moved "$1" | sed "s|^$ROOT/||; /^total: /d; /^$/d" | report checkpatch
}

checkpatch_file()
{
	(
		cd "$TREE"
		scripts/checkpatch.pl -q --strict --terse --show-types --ignore PREFER_KERNEL_TYPES -f "$1" 2>&1 || true
	) | sed "s|^$ROOT/||; /^total: /d; /^$/d" | report checkpatch
}

# Prints the Fixes: of patch $1 that scripts/fixes does not have so.
fixes_tag()
{
	sed -n '/^---$/q; s/^Fixes: //p' "$1" | while IFS= read -r tag; do
		sed -n 's/^\([0-9a-f]*\) \(.*\)/\1 ("\2")/p' "$SCRIPTS/fixes" | grep -xF -- "$tag" >/dev/null ||
			echo "$1: Fixes: $tag: scripts/fixes knows no such commit"
	done
}

# compile TREE OUTPUT FILE...: the messages of W=1 and sparse, without line
# numbers, which a patch shifts.
compile()
{
	local tree=$1 out=$2 f objects=()
	shift 2
	for f; do
		if [ -e "$tree/$f" ]; then objects+=("${f%.c}.o"); fi
	done
	: >"$out"
	[ ${#objects[@]} -gt 0 ] || return 0
	# Make does not build again what is up to date, and says nothing then.
	(cd "$tree/$o" && rm -f "${objects[@]}")
	kmake "$tree" "$o" -k W=1 C=2 "${objects[@]}" >"$out.log" 2>&1 || {
		say "lint: the touched files do not compile: see $(rel "$out.log")"
		return 1
	}
	# Sparse does not see the rcu_read_lock() of pte_offset_map_lock(): every
	# function that unmaps a page table has this, the base's too. The note
	# says only by which headers a message came.
	grep -E ': (warning|error|note):|: (warning|error): ' "$out.log" |
		sed -E 's|^(\.\./)+||; s|:[0-9]+(:[0-9]+)?:|:|g
			s|(rcupdate.h: warning: context imbalance in) .* - |\1 a function - |
			/: note: in included file/d' | sort -u >"$out" || true
}

prepare()
{
	local files
	mapfile -t files < <(fragments debug "$1")
	# With what the touched files need to be compiled at all.
	configure "$1" "$o" "${files[@]}" "$SCRIPTS/config/lint.config"
	kmake "$1" "$o" prepare modules_prepare
}

prepared()
{
	local tree=$1 label=$2
	if [ "$(cat "$tree/$o/.prepared" 2>/dev/null)" = "$config_key" ]; then return; fi
	mkdir -p "$tree/$o"
	step "preparing to compile ($label)" "lint-$label.log" 900 prepare "$tree" ||
		die "the kernel cannot be prepared for lint: see $(rel "$LOGS/lint-$label.log")."
	echo "$config_key" >"$tree/$o/.prepared"
}

# No message of the compiler or of sparse that the base lacks.
compare_messages()
{
	local files=("$@")
	prepared "$TREE" series
	compile "$TREE" "$cache/series.messages" "${files[@]}" || return 1
	: >"$cache/base.messages"
	# Only if there is something to excuse.
	if [ -s "$cache/series.messages" ]; then
		"$SCRIPTS/tree.sh" --stock
		prepared "$BUILD/stock" stock
		# What the series deletes may have had the same.
		mapfile -t -O ${#files[@]} files < <(kgit diff --no-renames --diff-filter=D --name-only base HEAD -- '*.c')
		compile "$BUILD/stock" "$cache/base.messages" "${files[@]}" || return 1
	fi
	comm -23 "$cache/series.messages" "$cache/base.messages" | report 'compiler or sparse'
}

kernel_doc()
{
	local f tree
	for tree in "$TREE" base; do
		for f; do
			if [ "$tree" != base ]; then
				cat "$TREE/$f" >"$cache/doc.c"
			else
				kgit cat-file blob "base:$f" >"$cache/doc.c" 2>/dev/null || continue
			fi
			"$TREE/scripts/kernel-doc" -none -Wall "$cache/doc.c" 2>&1 | sed -E "s|.*doc\.c:[0-9]+|$f|"
		done | sort -u >"$cache/doc.$(basename "$tree")"
	done
	comm -23 "$cache/doc.$(basename "$TREE")" "$cache/doc.base" | report kernel-doc
}

scripts_clean()
{
	{
		shellcheck --color=never -f gcc "${shell[@]}" 2>&1 || true
		grep -nE '[[:blank:]]+$' "${shell[@]}" "$ROOT/Makefile" | sed 's|:.*||; s|$|: trailing blanks|' | sort -u || true
	} | sed "s|$ROOT/||g" | report shellcheck
}

need tree kernel lint
"$SCRIPTS/tree.sh" --quiet

agree

while read -r p; do
	if cached "checkpatch $(sha256sum <"$p") $(sha256sum <"$SCRIPTS/fixes") $(sha256sum <"$TREE/scripts/checkpatch.pl")" checkpatch "$p"; then
		ok
	else
		failed=$((failed + 1))
	fi
done < <(patch_files)

# The tests outside of the series are in the same style.
for f in "$ROOT"/tests/*.[ch]; do
	if cached "checkpatch $(sha256sum <"$f") $(sha256sum <"$TREE/scripts/checkpatch.pl")" checkpatch_file "$f"; then
		ok
	else
		failed=$((failed + 1))
	fi
done

# What git am warns of. A heading of a document looks like a conflict marker.
while read -r c; do
	found=$(kgit diff-tree --check "$c^" "$c" | grep -v -e '^+' -e ': leftover conflict marker' || true)
	if [ -n "$found" ]; then
		finding "'$(kgit log -1 --format=%s "$c")': $found"
	else
		ok
	fi
done < <(kgit rev-list --reverse base..HEAD)

# A patch that adds or deletes files says in MAINTAINERS whose they are.
while read -r c; do
	if [ -n "$(kgit diff-tree -r --no-renames --diff-filter=AD --name-only "$c^" "$c")" ] &&
	   [ -z "$(kgit diff-tree -r --name-only "$c^" "$c" -- MAINTAINERS)" ]; then
		finding "'$(kgit log -1 --format=%s "$c")' adds or deletes files and does not touch MAINTAINERS"
	else
		ok
	fi
done < <(kgit rev-list --reverse base..HEAD)

while read -r subject; do
	if [ ${#subject} -gt 72 ]; then
		finding "the subject '$subject' has ${#subject} characters, 72 are what a mail's line has room for: shorten it"
	else
		ok
	fi
done < <(kgit log --reverse --format=%s base..HEAD; head -q -n 1 "$PATCHES"/cover-letter*)

mapfile -t sources < <(kgit diff --no-renames --diff-filter=AM --name-only base HEAD -- '*.c' '*.h')
compiled=()
for f in "${sources[@]}"; do
	case $f in
	tools/*|scripts/*|samples/*|*.h) ;;
	*)	compiled+=("$f") ;;
	esac
done
config_key=$(cat "$SCRIPTS"/config/*.config "$0" | sha256sum; gcc --version | head -n 1; kgit rev-parse base^0)
tree_key="$config_key $(kgit rev-parse 'HEAD^{tree}')"
dirty=$(kgit status --porcelain)
if [ -n "$dirty" ]; then tree_key+=$(date +%s%N); fi

if [ ${#compiled[@]} -gt 0 ]; then
	if cached "compile $tree_key" compare_messages "${compiled[@]}"; then ok; else failed=$((failed + 1)); fi
fi
if [ ${#sources[@]} -gt 0 ]; then
	if cached "kernel-doc $tree_key" kernel_doc "${sources[@]}"; then ok; else failed=$((failed + 1)); fi
fi

mapfile -t shell < <(find "$SCRIPTS" "$ROOT/.ci" -type f -exec grep -lE -m1 '^#!/bin/(ba|busybox )?sh|^# shellcheck shell=' {} + | sort)
if cached "shellcheck $(shellcheck --version) $(cat "${shell[@]}" "$ROOT/Makefile" | sha256sum)" scripts_clean; then
	ok
else
	failed=$((failed + 1))
fi
# A mutant that does not apply breaks nothing, and then no test has to notice. And
# what the benchmark measures by another patch is measured no more.
base_is_pinned && while read -r m; do
	if kgit apply --check "$m" 2>/dev/null; then
		ok
	else
		finding "$(rel "$m") does not apply to the series: make it again, for the code as it is now"
	fi
done < <(find "$SCRIPTS/mutants" "$SCRIPTS/bench" -name '*.patch' | sort)
if "$SCRIPTS/splat.sh" --self-test; then ok; else finding "splat.sh does not judge splat.test right"; fi

if [ "${1-}" = --tally ]; then echo "$passed $failed 0" >"$2"; fi
[ $failed -eq 0 ] ||
	die "$failed of $((passed + failed)) checks failed: the findings are above."
say "lint: $passed checks passed"
