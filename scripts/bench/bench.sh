#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Measures the stock kernel and the series by the same module and program in
# VMs, prints both against what scripts/bench/figures asks for, draws charts,
# and fails when a must of an issue that is done is missed.
# bench.sh --profile: says instead in which functions the instructions are, for
# folios of the SIZES in the environment (4k 2m).

. "$(dirname "$0")/../lib.sh"
NAME=bench
BENCH=$SCRIPTS/bench
OUT=$BUILD/bench

need kernel vm bench
"$SCRIPTS/kernel.sh" bench --stock
"$SCRIPTS/kernel.sh" bench
mkdir -p "$OUT"

log=$LOGS/bench-program.log
gcc -static -O2 -Wall -Wextra -Werror -D_GNU_SOURCE -o "$OUT/bench" "$BENCH/bench.c" -lpthread \
	>"$log" 2>&1 || die "scripts/bench/bench.c does not build: see $(rel "$log")."

# module WHAT TREE: a copy of the sources for each kernel, since kbuild leaves
# its files beside them. What has not changed keeps its time and is not built.
module()
{
	local what=$1 tree=$2 dir=$OUT/$1 log=$LOGS/bench-module-$1.log
	mkdir -p "$dir"
	install -C -m 644 "$BENCH"/module/* "$dir"
	kmake "$tree" .bench M="$dir" modules >"$log" 2>&1 ||
		die "the measuring module does not build against the $what kernel: see $(rel "$log")."
}

# vm WHAT TREE RUN OPTION...: runs vm-RUN.sh, whose output goes to
# build/log/bench-WHAT-RUN/output.log.
vm()
{
	local what=$1 tree=$2 run=$3 label
	shift 3
	case $run in
	count)		label="counting instructions, $what" ;;
	shootdowns)	label="counting TLB shootdowns, $what" ;;
	pipeline)	label="timing the pipeline" ;;
	nodes)		label="counting instructions from node to node, $what" ;;
	esac
	step "$label" "bench-$what-$run.log" 70 "$SCRIPTS/vm.sh" \
		--kernel "$tree/.bench/arch/x86/boot/bzImage" --run "$BENCH/vm-$run.sh" \
		--log "$LOGS/bench-$what-$run" --file "$OUT/bench:bench" \
		--file "$OUT/$what/hmm_migrate_bench.ko:hmm_migrate_bench.ko" "$@" ||
		die "$label: failed in the VM: see $(rel "$LOGS/bench-$what-$run.log")."
}

if [ "${1-}" = --profile ]; then
	for what in stock series; do
		if [ $what = stock ]; then tree=$BUILD/stock; else tree=$TREE; fi
		module $what "$tree"
		mkdir -p "$LOGS/bench-$what-profile"
		say "== $what"
		for size in ${SIZES:-4k 2m}; do
			# Of the other sizes stock migrates nothing.
			case $what-$size in stock-4k|stock-2m|series-*) ;; *) continue ;; esac
			"$BENCH/profile.py" "$SCRIPTS/vm.sh" "$tree/.bench/arch/x86/boot/bzImage" \
				"$OUT/$what/hmm_migrate_bench.ko" "$OUT/bench" "$tree/.bench/System.map" \
				"$LOGS/bench-$what-profile" "$size" ||
				die "the $what kernel could not be profiled: see $(rel "$LOGS/bench-$what-profile")."
		done
	done
	exit 0
fi

for what in stock series; do
	if [ $what = stock ]; then tree=$BUILD/stock; else tree=$TREE; fi
	module $what "$tree"
	vm $what "$tree" count --icount --mem 6G --timeout 600
	vm $what "$tree" nodes --icount --mem 3G --nodes 2G,1G --timeout 600
	# A virtual CPU that a busy host does not run is no stall of the kernel's.
	vm $what "$tree" shootdowns --cpus 4 --mem 2G --timeout 600 \
		--append rcupdate.rcu_cpu_stall_suppress=1
done
vm series "$TREE" pipeline --icount --mem 6G --nodes 5G,1G --timeout 600 \
	--file "$TREE/.bench/lib/test_hmm_migrate_dma.ko:test_hmm_migrate_dma.ko"

# From what the VMs printed, one JSON object a line, to one file.
{
	printf '{\n'
	for what in stock series; do
		printf '"%s": [\n' $what
		runs=(count shootdowns nodes)
		[ $what = stock ] || runs+=(pipeline)
		for run in "${runs[@]}"; do cat "$LOGS/bench-$what-$run/output.log"; done |
			tr -d '\r' | grep '^{' | sed '$!s/$/,/'
		if [ $what = stock ]; then printf '],\n'; else printf ']\n'; fi
	done
	printf '}\n'
} >"$OUT/results.json.new"
mv "$OUT/results.json.new" "$OUT/results.json"

say
rc=0
"$BENCH/report.py" "$BENCH/figures" "$OUT/results.json" "$OUT" || rc=$?

log=$LOGS/bench-chart.log
gnuplot -e "dir='$OUT'" "$BENCH/chart.gp" >"$log" 2>&1 ||
	die "the charts could not be drawn: see $(rel "$log")."
say "charts: $(rel "$OUT/bench.svg"), $(rel "$OUT/bench-range.svg") and $(rel "$OUT/bench-chunk.svg"); all measurements: $(rel "$OUT/results.json")"
[ $rc -eq 0 ] ||
	die "a must is missed or a measurement is missing (FAILED, above): see $(rel "$OUT/results.json")."
