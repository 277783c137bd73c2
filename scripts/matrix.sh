#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# matrix.sh [NAME...]: compiles mm/, fs/proc/ and what drives them (the test drivers,
# and the migration of nouveau and amdkfd) with options of the kernel turned off, which
# must bring no warning that the base does not have; and mm/ for arm64 with W=1. NAME
# is thp, memcg, hugetlb, private, zone-device, numa, ksm, userfaultfd or swap, which is
# the one option that is off, none (all nine are off), rt (PREEMPT_RT, which excludes
# THP) or arm64; without one, all of them. A configuration that passed is remembered by the
# content of the tree and not done again.

. "$(dirname "$0")/lib.sh"
NAME=matrix

ALL=(thp memcg hugetlb private zone-device numa ksm userfaultfd swap none rt arm64)

# The options that each configuration turns off. All others of these options must be on, and a
# configuration that is short of one would test something else.
declare -A OFF=(
	[thp]='TRANSPARENT_HUGEPAGE'
	[memcg]='MEMCG'
	[hugetlb]='HUGETLBFS HUGETLB_PAGE'
	[private]='DEVICE_PRIVATE'
	[zone-device]='ZONE_DEVICE DEVICE_PRIVATE'
	[numa]='NUMA'
	[ksm]='KSM'
	[userfaultfd]='USERFAULTFD'
	[swap]='SWAP'
	[rt]='TRANSPARENT_HUGEPAGE'
	[arm64]=''
)
OPTIONS='TRANSPARENT_HUGEPAGE MEMCG HUGETLBFS HUGETLB_PAGE DEVICE_PRIVATE ZONE_DEVICE NUMA KSM USERFAULTFD SWAP'
OFF[none]=$OPTIONS

dir=$BUILD/matrix
mkdir -p "$dir/good"

names=("$@")
[ ${#names[@]} -gt 0 ] || names=("${ALL[@]}")
for name in "${names[@]}"; do
	[ -n "${OFF[$name]+x}" ] ||
		die "there is no configuration '$name': there are ${ALL[*]}."
done

need tree kernel
if [[ " ${names[*]} " == *' arm64 '* ]]; then need arm64; fi
"$SCRIPTS/tree.sh" --quiet

# use NAME: sets what the functions below build with. One directory serves all
# configurations of x86, since only what an option matters to is prepared again.
use()
{
	name=$1 o=.matrix args=()
	if [ "$name" = arm64 ]; then
		o=.matrix-arm64
		args=(ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- 'CC=ccache aarch64-linux-gnu-gcc' W=1)
	fi
}

# Writes the options of configuration $name for tree $1 to a fragment, and lists all
# fragments, one a line.
matrix_fragments()
{
	local option
	fragments matrix "$1"
	for option in ${OFF[$name]}; do echo "CONFIG_$option=n"; done >"$dir/$name.config"
	if [ "$name" = rt ]; then echo CONFIG_PREEMPT_RT=y >>"$dir/$name.config"; fi
	echo "$dir/$name.config"
}

is_on()
{
	grep -q "^CONFIG_$2=[ym]$" "$1/$o/.config"
}

# olddefconfig drops what it cannot have without a word.
check_config()
{
	local tree=$1 option wrong=''
	for option in $OPTIONS; do
		if [[ " ${OFF[$name]} " == *" $option "* ]]; then
			if is_on "$tree" "$option"; then wrong+=" CONFIG_$option is on, and must be off."; fi
		elif ! is_on "$tree" "$option"; then
			wrong+=" CONFIG_$option is off, and must be on."
		fi
	done
	if [ "$name" = rt ] && ! is_on "$tree" PREEMPT_RT; then
		wrong+=" CONFIG_PREEMPT_RT is off, and must be on."
	fi
	[ -z "$wrong" ] || { say "error: configuration $name:$wrong"; return 1; }
}

# The targets for make: no object of a driver that this configuration does not have.
targets()
{
	local tree=$1 option object
	echo mm/
	[ "$name" != arm64 ] || return 0
	echo fs/proc/
	while read -r option object; do
		[ -e "$tree/${object%.o}.c" ] || continue
		if is_on "$tree" "$option"; then echo "$object"; fi
	done <<-E2
	TEST_HMM lib/test_hmm.o
	TEST_HMM_MIGRATE lib/test_hmm_migrate.o
	TEST_HMM_MIGRATE_DMA lib/test_hmm_migrate_dma.o
	DRM_NOUVEAU_SVM drivers/gpu/drm/nouveau/nouveau_dmem.o
	HSA_AMD_SVM drivers/gpu/drm/amd/amdgpu/../amdkfd/kfd_migrate.o
	E2
}

# build TREE: configures and compiles.
build()
{
	local tree=$1 list files
	mkdir -p "$tree/$o"
	mapfile -t files < <(matrix_fragments "$tree")
	kmake "$tree" "$o" "${args[@]}" tinyconfig &&
	(cd "$tree" && scripts/kconfig/merge_config.sh -m -O "$o" "$o/.config" "${files[@]}") &&
	kmake "$tree" "$o" "${args[@]}" olddefconfig &&
	check_config "$tree" || return 1
	mapfile -t list < <(targets "$tree")
	# Make does not build again what is up to date, and says nothing then.
	(cd "$tree/$o" && rm -rf "${list[@]}")
	kmake "$tree" "$o" "${args[@]}" "${list[@]}"
}

# The warnings in a log, without line numbers, which a patch shifts.
warnings()
{
	{ grep -E 'warning:|^WARNING:' "$1" || true; } | sed -E 's|^(\.\./)+||; s|:[0-9]+(:[0-9]+)?:|:|g' | sort -u
}

# Prints the warnings that the series has and the base does not.
new_warnings()
{
	warnings "$LOGS/matrix-$name.log" >"$dir/series"
	: >"$dir/base"
	# Only if there is something to excuse.
	if [ -s "$dir/series" ]; then
		"$SCRIPTS/tree.sh" --stock
		build "$BUILD/stock" >"$LOGS/matrix-stock-$name.log" 2>&1 ||
			die "configuration $name of the stock kernel does not compile: see $(rel "$LOGS/matrix-stock-$name.log")."
		warnings "$LOGS/matrix-stock-$name.log" >"$dir/base"
	fi
	comm -23 "$dir/series" "$dir/base"
}

mapfile -t files < <(fragments matrix "$TREE")
key=$(cat "${files[@]}" "$0" | sha256sum; gcc --version | head -n 1; kgit rev-parse 'HEAD^{tree}')
failed=()
for name in "${names[@]}"; do
	use "$name"
	good=$dir/good/$(printf '%s %s' "$key" "$name" | sha256sum | cut -c1-32)
	if [ -e "$good" ] && [ -z "$(kgit status --porcelain)" ]; then
		say "configuration $name: known to be good"
		continue
	fi
	if ! step "configuration $name" "matrix-$name.log" 500 build "$TREE"; then
		say "configuration $name does not compile: see $(rel "$LOGS/matrix-$name.log")"
		failed+=("$name")
		continue
	fi
	new=$(new_warnings)
	if [ -n "$new" ]; then
		say "$new"
		say "configuration $name brings the warnings above: see $(rel "$LOGS/matrix-$name.log")"
		failed+=("$name")
		continue
	fi
	if [ -z "$(kgit status --porcelain)" ]; then touch "$good"; fi
done
[ ${#failed[@]} -eq 0 ] ||
	die "${#failed[@]} of ${#names[@]} configurations fail (${failed[*]}): what is wrong with each is said above."
say "matrix: ${#names[@]} configurations compile without a new warning"
