#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# kernel.sh CONFIG [--stock]: builds the kernel, its modules and its headers
# for user space in .CONFIG of the kernel tree (--stock: of build/stock).
# CONFIG is bench (lean), fast (bench and KUnit), debug (what the tests run on),
# regress (what the kernel's own selftests run on), coverage (what coverage.sh counts
# with) or kcsan (which looks for data races).

. "$(dirname "$0")/lib.sh"
NAME=kernel

config=${1-}
case $config in
bench|fast|debug|regress|coverage|kcsan) ;;
*)	die "CONFIG=$config is not a configuration: there are bench, fast, debug, regress, coverage and kcsan." ;;
esac

need tree kernel
if [ "${2-}" = --stock ]; then
	"$SCRIPTS/tree.sh" --stock
	tree=$BUILD/stock what=stock
else
	"$SCRIPTS/tree.sh" --quiet
	tree=$TREE what=series
fi

mapfile -t files < <(fragments "$config" "$tree")
o=.$config
label="$what kernel ($config)"
log=kernel-$what-$config.log
stamp=$tree/$o/.complete

# The build need not even be looked at when it was finished for this commit.
state=$(
	git -C "$tree" rev-parse HEAD
	cat "${files[@]}" "$0" | sha256sum
	gcc --version | head -n 1
)
if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ] && [ -z "$(git -C "$tree" status --porcelain)" ]; then
	exit 0
fi
rm -f "$stamp"

# What is not in a configuration. GCOV_PROFILE is whatever is not empty: make looks
# at it anew for each object, so that no Makefile of the series has to know.
settings=()
if [ "$config" = coverage ]; then
	settings+=("GCOV_PROFILE=\$(filter $COVERED,\$(obj)/\$(target-stem).o)")
fi

mkdir -p "$tree/$o"
step "configuring the $label" "config-$what-$config.log" 350 configure "$tree" "$o" "${files[@]}" ||
	die "the $label could not be configured: see $(rel "$LOGS/config-$what-$config.log")."

# olddefconfig drops what it cannot have without a word. A later fragment
# overrides an earlier one.
declare -A wanted=()
while IFS='=' read -r option value; do
	case $option in CONFIG_*) wanted[$option]=$value ;; esac
done < <(cat "${files[@]}")
for option in "${!wanted[@]}"; do
	value=$(sed -n "s/^$option=//p" "$tree/$o/.config")
	[ "${value:-n}" = "${wanted[$option]}" ] ||
		die "$option=${wanted[$option]} is requested by scripts/config, but this kernel's configuration says '${value:-n}': see $(rel "$tree/$o/.config")."
done

step "building the $label" "$log" 2500 kmake "$tree" "$o" "${settings[@]}" all headers_install ||
	die "the $label does not build: see $(rel "$LOGS/$log")."
# What was built with changes that are not committed is no commit's.
if [ -z "$(git -C "$tree" status --porcelain)" ]; then echo "$state" >"$stamp"; fi
