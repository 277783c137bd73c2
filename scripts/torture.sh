#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Everything at once in a VM with four processors: hmm_migrate_stress of the
# series' kselftest, whose model knows what each byte must be. In the environment:
#   MINUTES          how long (10)
#   SEED             repeats the draws of a run that said this seed
#   KINDS            names of operations: only these are drawn
#   TORTURE_CONFIG   the kernel's configuration (debug)

. "$(dirname "$0")/lib.sh"
NAME=torture

config=${TORTURE_CONFIG:-debug}
minutes=${MINUTES:-10}
seed=${SEED:-$(date +%s)}
log=$LOGS/torture
out=$log/output.log

[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "MINUTES=$minutes is not a number of minutes."
[[ $seed =~ ^[0-9]+$ ]] || die "SEED=$seed is not a number: take the one that a run has said."

need kernel vm
"$SCRIPTS/kernel.sh" "$config"
o=$TREE/.$config
program=$o/hmm_migrate_stress
source=$TREE/tools/testing/selftests/mm/hmm_migrate_stress.c
[ -e "$source" ] || die "the series has no stress test yet: there is nothing to run."
mkdir -p "$log"
static_program "$TREE" ".$config" "$source" "$program" >"$LOGS/torture-build.log" 2>&1 ||
	die "hmm_migrate_stress.c does not build: see $(rel "$LOGS/torture-build.log")."

# kmemleak takes what it finds for a leak only at its second look, and never
# what is younger than five seconds.
cat >"$log/run" <<EOF
leaks=/sys/kernel/debug/kmemleak
export HMM_MIGRATE_SEED=$seed HMM_MIGRATE_SECONDS=$((minutes * 60))
export HMM_MIGRATE_KINDS='${KINDS-}'
[ -n "\$HMM_MIGRATE_KINDS" ] || unset HMM_MIGRATE_KINDS
export HMM_MIGRATE_MODULE=/lib/test_hmm_migrate.ko
insmod /lib/test_hmm_migrate_dma.ko && insmod \$HMM_MIGRATE_MODULE size_mb=16 || exit 100
echo 96M >/sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null &&
	swapon /dev/zram0 || exit 103
hmm_migrate_stress
rc=\$?
rmmod test_hmm_migrate && rmmod test_hmm_migrate_dma || exit 101
if [ -e \$leaks ] && grep -qv kmemleak=off /proc/cmdline; then
	echo '# looking for memory leaks'
	echo scan >\$leaks
	sleep 6
	echo scan >\$leaks
	[ -z "\$(cat \$leaks)" ] || { cat \$leaks; exit 102; }
fi
exit \$rc
EOF

say "torture: $minutes minutes on the $config kernel, seed $seed"
vm=0
"$SCRIPTS/vm.sh" --kernel "$o/arch/x86/boot/bzImage" --run "$log/run" --log "$log" \
	--file "$program:/bin/hmm_migrate_stress" \
	--file "$o/lib/test_hmm_migrate.ko:/lib/test_hmm_migrate.ko" \
	--file "$o/lib/test_hmm_migrate_dma.ko:/lib/test_hmm_migrate_dma.ko" \
	--cpus 4 --nodes 1792M,256M --timeout $((minutes * 120 + 1200)) || vm=$?
[ $vm -eq 0 ] ||
	die "torture failed, and SEED=$seed draws the same again: see $(rel "$out") and $(rel "$log/console.log")."
grep -q '^ok 1 ' "$out" ||
	die "torture said neither that it passed nor that it failed: see $(rel "$out")."
