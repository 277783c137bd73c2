#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds every patch of the series with W=1, which must say nothing that it
# does not say of the base, and boots those that touch mm/. What was found good
# is remembered by the content of the patches up to there and not done again.
# BISECT_CONFIG: the configuration (bench).

. "$(dirname "$0")/lib.sh"
NAME=bisect

need tree kernel vm
"$SCRIPTS/tree.sh" --quiet

config=${BISECT_CONFIG:-bench}
o=.$config
dir=$BUILD/bisect
tree=$dir/linux
mkdir -p "$dir/good"

# A clone, so that build/linux can be worked in meanwhile.
if ! git -C "$tree" rev-parse -q --verify HEAD >/dev/null 2>&1; then
	rm -rf "$tree" "$tree.new"
	git clone -q --shared --no-checkout --no-tags "$TREE" "$tree.new"
	git -C "$tree.new" checkout -q --detach "$(kgit rev-parse base^0)"
	mv "$tree.new" "$tree"
fi
rm -f "$tree/.git/index.lock"

# build COMMIT LABEL OUT: W=1, its warnings without line numbers into OUT.
build()
{
	local commit=$1 label=$2 out=$3 log=bisect/$2.log files
	git -C "$tree" fetch -q "$TREE" "$commit"
	git -C "$tree" checkout -q -f --detach "$commit"
	mkdir -p "$tree/$o" "$LOGS/bisect"
	mapfile -t files < <(fragments "$config" "$tree")
	configure "$tree" "$o" "${files[@]}" >"$LOGS/bisect/config.log" 2>&1 ||
		die "$label cannot be configured: see $(rel "$LOGS/bisect/config.log")."
	step "building $label" "$log" 2600 kmake "$tree" "$o" W=1 all ||
		die "$label does not build: see $(rel "$LOGS/$log")."
	# With a line number: what the compiler and kernel-doc say.
	{ grep -E ':[0-9]+: (warning|error):|^WARNING: modpost' "$LOGS/$log" || true; } |
		sed -E 's|^(\.\./)+||; s|:[0-9]+(:[0-9]+)?:|:|g' | sort -u >"$out"
}

boot()
{
	local label=$1
	echo 'uname -r' >"$dir/run"
	"$SCRIPTS/vm.sh" --kernel "$tree/$o/arch/x86/boot/bzImage" --run "$dir/run" --quiet \
		--log "$LOGS/bisect/$label" --timeout 300 ||
		die "$label does not boot: see $(rel "$LOGS/bisect/$label/console.log")."
}

# Its compiler and configuration are part of what was found good.
key=$(gcc --version | head -n 1; cat "$SCRIPTS"/config/*.config "$0"; echo "$config"; kgit rev-parse 'base^{tree}')
hash()
{
	printf '%s %s' "$key" "$1" | sha256sum | cut -c1-32
}

base=$dir/warnings-$(hash base)
n=0 total=$(kgit rev-list --count base..HEAD)
while read -r commit; do
	n=$((n + 1))
	subject=$(kgit log -1 --format=%s "$commit")
	good=$dir/good/$(hash "$(kgit rev-parse "$commit^{tree}")")
	if [ -e "$good" ]; then
		say "$n/$total $subject: known to be good"
		continue
	fi
	if [ ! -e "$base" ]; then
		# From nothing, since only what is compiled warns.
		rm -rf "${tree:?}/$o"
		build "$(kgit rev-parse base^0)" base "$base.new"
		mv "$base.new" "$base"
	fi
	say "$n/$total $subject"
	label=$(printf '%04d' "$n")
	rm -f "$dir/warnings"
	build "$commit" "$label" "$dir/warnings"
	new=$(comm -13 "$base" "$dir/warnings")
	[ -z "$new" ] || {
		say "$new"
		die "patch $n ($subject) brings the warnings above: see $(rel "$LOGS/bisect/$label.log")."
	}
	if [ -n "$(kgit diff --name-only "$commit^" "$commit" -- mm)" ]; then boot "$label"; fi
	touch "$good"
done < <(kgit rev-list --reverse base..HEAD)
say "bisect: all $total patches build without a new warning; those that touch mm/ boot"
