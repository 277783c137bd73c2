#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Breaks the code on purpose, a patch of scripts/mutants at a time, and sees
# that the kselftest fails for it. The patches say in their head:
#   Mutant: what is broken
#   Noticed-by: the test, as in the TAP, that has to fail for it;
#               or 'splat: REGEX', which the kernel's log has to match;
#               or 'output: REGEX', which the output has to match
#   Tests: names of tests, for those that make the kernel or the output say it
#   Bare: yes, if they are to use the three calls and not hmm_migrate_range()
#   Cgroup-v1: yes, if memory cgroups are to be those of version 1
#   Config: debug, if only that kernel's checks notice it (default: fast)
# There can be several Noticed-by: each must. Only the tests that they and Tests
# name are run, or all if none is named.

. "$(dirname "$0")/lib.sh"
NAME=mutants

need tree kernel vm
tree=$BUILD/mutants/linux
mkdir -p "$tree"
table=$BUILD/mutants/table
: >"$table"

mapfile -t mutants < <(
	if [ -n "${MUTANTS-}" ]; then
		for m in $MUTANTS; do echo "$SCRIPTS/mutants/$(basename "$m" .patch).patch"; done
	else
		find "$SCRIPTS/mutants" -name '*.patch' | sort
	fi
)
[ ${#mutants[@]} -gt 0 ] ||
	die "scripts/mutants holds no patch: there is nothing to break the code with."

field()
{
	sed -n "/^---/q; s/^$1: *//p" "$2"
}

config_of()
{
	local config
	config=$(field Config "$1" 2>/dev/null)
	printf '%s' "${config:-fast}"
}

for config in $(for m in "${mutants[@]}"; do config_of "$m"; echo; done | sort -u); do
	"$SCRIPTS/kernel.sh" "$config"
done

# A copy of the tree with what was built in it for configuration $1, and the times of
# all files: what the last mutant left is undone, source and object, and nothing else
# is built again. Only objtool is built here once, as it knows the paths of its sources.
# build/linux itself is never touched.
fresh()
{
	rsync -a --delete --exclude='/.[a-z]*' "$TREE/" "$tree/"
	rsync -a --delete --exclude=/tools "$TREE/.$1/" "$tree/.$1/"
}

# Prints by what mutant $1 was noticed, or fails with the reason.
try()
{
	local m=$1 name log config by tests=() noticed=()
	name=$(basename "$m" .patch)
	config=$(config_of "$m")
	log=$LOGS/mutants/$name
	mkdir -p "$log"
	[ -e "$m" ] || { echo "there is no scripts/mutants/$name.patch"; return 1; }
	if [ -z "$(field Mutant "$m")" ] || [ -z "$(field Noticed-by "$m")" ]; then
		echo "its head lacks Mutant: or Noticed-by:"
		return 1
	fi
	fresh "$config"
	git -C "$tree" --git-dir="$TREE/.git" --work-tree="$tree" apply "$m" 2>"$log/apply.log" ||
		{ echo "it does not apply to the series any more: see $(rel "$log/apply.log")"; return 1; }
	kmake "$tree" ".$config" all >"$log/build.log" 2>&1 ||
		{ echo "it does not build: see $(rel "$log/build.log")"; return 1; }
	while read -r by; do
		case $by in
		splat:*|output:*) ;;
		*)	tests+=("$by") ;;
		esac
	done < <(field Noticed-by "$m")
	# A mutant may hang the VM.
	if KSELFTEST_TIMEOUT=900 TESTS="${tests[*]} $(field Tests "$m")" KSELFTEST_BARE=$(field Bare "$m") \
	   KSELFTEST_CGROUP_V1=$(field Cgroup-v1 "$m") KSELFTEST_TREE=$tree KSELFTEST_LOG=$log KSELFTEST_CONFIG=$config \
	   "$SCRIPTS/kselftest.sh" >"$log/kselftest.log" 2>&1; then
		echo "nothing noticed it: see $(rel "$log/kselftest.log")"
		return 1
	fi
	while read -r by; do
		case $by in
		splat:*)	grep -qaE -e "${by#splat: }" "$log/console.log" ;;
		output:*)	grep -qaE -e "${by#output: }" "$log/output.log" ;;
		*)		tr -d '\r' <"$log/output.log" | grep -E "^not ok [0-9]+ ${by//./\\.}( |$)" >/dev/null ;;
		esac || { echo "the run failed, but '$by' did not notice it: see $(rel "$log/kselftest.log")"; return 1; }
		noticed+=("$by")
	done < <(field Noticed-by "$m")
	(IFS=','; echo "${noticed[*]}")
}

survived=0 n=0
for m in "${mutants[@]}"; do
	n=$((n + 1))
	name=$(basename "$m" .patch)
	say "$n/${#mutants[@]} $name: $(field Mutant "$m" 2>/dev/null)"
	# Not in a condition: set -e shall hold in it.
	rc=0
	by=$(set -e; try "$m") || rc=$?
	if [ $rc -eq 0 ]; then
		verdict=noticed
	else
		verdict=SURVIVED
		survived=$((survived + 1))
	fi
	printf '%-9s %-32s %s\n' "$verdict" "$name" "$by" | tee -a "$table"
done

say
say 'mutants:'
cat "$table"
[ $survived -eq 0 ] ||
	die "$survived of ${#mutants[@]} mutants were not noticed as they should be: the reasons are in the table."
say "mutants: all ${#mutants[@]} noticed"
