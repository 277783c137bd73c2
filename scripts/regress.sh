#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs the kernel's own selftests of memory management, those that
# scripts/regress/tests lists, in VMs with the stock kernel and with the series,
# and fails when the series gives anything else than stock. In the environment:
#   TESTS	only these, by their names in that list

. "$(dirname "$0")/lib.sh"
NAME=regress

dir=$BUILD/regress
log=$LOGS/regress
stock=$BUILD/stock
src=$stock/tools/testing/selftests/mm
o=.regress

# The tests that are asked for, one a line: a name, a limit, a command.
tests=$(sed 's/#.*//' "$SCRIPTS/regress/tests" | awk 'NF')
for t in ${TESTS-}; do
	grep -q "^${t}[[:blank:]]" <<<"$tests" ||
		die "TESTS names '$t', which scripts/regress/tests does not list: there are $(cut -f1 <<<"$tests" | paste -sd' ')."
done
if [ -n "${TESTS-}" ]; then
	tests=$(awk -v only=" $(tr -s '[:space:]' ' ' <<<"$TESTS") " 'index(only, " " $1 " ")' <<<"$tests")
fi

need tree kernel vm regress
"$SCRIPTS/regress/report_test.py" >"$LOGS/regress-report-test.log" 2>&1 ||
	die "report.py does not judge made-up results right: see $(rel "$LOGS/regress-report-test.log")."
"$SCRIPTS/kernel.sh" regress --stock
"$SCRIPTS/kernel.sh" regress

# source_of PROGRAM: prints where its source is: in stock's tree, or, where the
# test itself is broken and scripts/regress has a patch for it, in a copy.
source_of()
{
	local program=$1 patch=$SCRIPTS/regress/$1.patch copy=$dir/$1.c
	if [ -e "$patch" ]; then
		if patch --quiet --force --fuzz=0 -o "$copy" "$src/$program.c" "$patch" >"$LOGS/regress-patch-$program.log" 2>&1; then
			printf '%s' "$copy"
			return
		fi
		say "$(rel "$patch") does not apply to this tree's $program.c, which is used as it is" >&2
	fi
	printf '%s' "$program.c"
}

# build PROGRAM: from stock's source, for both kernels, by what the selftests'
# Makefile says, and -static, since the VM has no libraries. In its directory,
# since some name files after their source.
build()
{
	local program=$1 files=(vm_util.c thp_settings.c)
	files+=("$(source_of "$program")")
	if [ "$program" = uffd-unit-tests ]; then files+=(uffd-common.c); fi
	(cd "$src" && gcc -static -O2 -Wall -U_FORTIFY_SOURCE -D_GNU_SOURCE= \
		-I"$dir/include" -I. -I"$stock" -isystem "$stock/$o/usr/include" \
		-isystem "$stock/tools/include/uapi" -o "$dir/bin/$program" "${files[@]}" \
		-lrt -lpthread -lm -lnuma -luring) >"$LOGS/regress-build-$program.log" 2>&1 ||
		die "$program does not build: see $(rel "$LOGS/regress-build-$program.log")."
}

# vm WHAT TREE NAME LIMIT COMMAND [AGAIN]: what it gives goes to build/log/regress.
# A VM that fails is for report.py to judge.
vm()
{
	local what=$1 tree=$2 name=$3 limit=$4 command=$5 again=${6-} out
	out=$log/$name/$what${again:+-again}
	mkdir -p "$out"
	echo "$limit $command" >"$out/test"
	# A virtual CPU that a busy host does not run is no stall of the kernel's.
	step "$name, $what${again:+, again}" "regress/$name/$what${again:+-again}.log" 60 "$SCRIPTS/vm.sh" \
		--kernel "$tree/$o/arch/x86/boot/bzImage" --run "$SCRIPTS/regress/vm-run.sh" --log "$out" \
		--cpus 4 --mem 6G --nodes 3G,3G --timeout $((limit + 180)) \
		--append 'hugepagesz=1G hugepages=2 hugepagesz=2M rcupdate.rcu_cpu_stall_suppress=1' \
		--file "$dir/bin/${command%% *}:/bin/${command%% *}" --file "$dir/xfs.img:/xfs.img" \
		--file "$out/test:/test" 2>/dev/null ||
		tail -n 1 "$LOGS/regress/$name/$what${again:+-again}.log" | sed 's/^vm: //' >"$out/failure"
}

mkdir -p "$dir/bin" "$dir/include"
# What check_config.sh of the selftests finds out.
echo '#define LOCAL_CONFIG_HAVE_LIBURING 1' >"$dir/include/local_config.h"
while read -r _ _ program _; do build "$program"; done <<<"$tests"
# Smaller than mkfs.xfs likes to make it: the VM holds it in memory.
rm -f "$dir/xfs.img"
truncate -s 64M "$dir/xfs.img"
mkfs.xfs -q --unsupported "$dir/xfs.img" >"$LOGS/regress-xfs.log" 2>&1 ||
	die "mkfs.xfs makes no file system for the VM: see $(rel "$LOGS/regress-xfs.log")."

names=()
while read -r name limit command; do
	names+=("$name")
	rm -rf "${log:?}/$name"
	vm stock "$stock" "$name" "$limit" "$command"
	vm series "$TREE" "$name" "$limit" "$command"
	# Some depend on timing, and a VM without KVM on a busy host has a strange one.
	if "$SCRIPTS/regress/report.py" --again "$log" "$name"; then
		say "$name: the results differ or did not come in time: running it once more on both kernels"
		vm stock "$stock" "$name" "$limit" "$command" again
		vm series "$TREE" "$name" "$limit" "$command" again
	fi
done <<<"$tests"

say
"$SCRIPTS/regress/report.py" "$SCRIPTS/regress/known" "$log" "${names[@]}" ||
	die "the series does not give what stock gives, or a test did not end well (FAILED, above): see $(rel "$log")."
