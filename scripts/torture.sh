#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Everything at once in a VM with four processors: hmm_migrate_stress of the
# series' kselftest, whose model knows what each byte must be. In the environment:
#   MINUTES          how long (10)
#   SEED             repeats the draws of a run that said this seed
#   KINDS            names of operations: only these are drawn
#   LOAD             what else runs in the VM: stress-ng, trinity
#   TORTURE_CONFIG   the kernel's configuration: debug, or kcsan for data races
#   TORTURE_LOG      where the logs go, if not build/log/torture
#   TORTURE_AFTER    a file of more commands for the VM, when all is over

. "$(dirname "$0")/lib.sh"
NAME=torture

config=${TORTURE_CONFIG:-debug}
minutes=${MINUTES:-10}
seed=${SEED:-$(date +%s)}
load=${LOAD-}
log=${TORTURE_LOG:-$LOGS/torture}
out=$log/output.log
runs=$BUILD/torture.runs

[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "MINUTES=$minutes is not a number of minutes."
[[ $seed =~ ^[0-9]+$ ]] || die "SEED=$seed is not a number: take the one that a run has said."
for program in $load; do
	case $program in
	stress-ng|trinity) ;;
	*)	die "LOAD=$program is not known: there are stress-ng and trinity." ;;
	esac
done

need kernel vm ${load:+load}
"$SCRIPTS/kernel.sh" "$config"
o=$TREE/.$config
stress=$o/hmm_migrate_stress
source=$ROOT/tests/hmm_migrate_stress.c
[ -e "$source" ] || die "the series has no stress test yet: there is nothing to run."
mkdir -p "$log"
static_program "$TREE" ".$config" "$source" "$stress" >"$LOGS/torture-build.log" 2>&1 ||
	die "hmm_migrate_stress.c does not build: see $(rel "$LOGS/torture-build.log")."

options=(
	--kernel "$o/arch/x86/boot/bzImage" --run "$log/run" --log "$log"
	--injected --cpus 4 --nodes '1792M,256M' --timeout $((minutes * 120 + 1200))
	--file "$stress:/bin/hmm_migrate_stress"
	--file "$o/lib/test_hmm_migrate.ko:/lib/test_hmm_migrate.ko"
	--file "$o/lib/test_hmm_migrate_dma.ko:/lib/test_hmm_migrate_dma.ko"
	--file "$o/drivers/block/null_blk/null_blk.ko:/lib/null_blk.ko"
	--file "$SCRIPTS/vm/load:/bin/load"
	--file "$SCRIPTS/vm/leaks:/bin/leaks"
)
leaks=''
if [ "$config" = debug ]; then leaks=must; fi
if [ "$config" = kcsan ]; then options+=(--races); fi
if [ -n "${TORTURE_AFTER-}" ]; then options+=(--file "$TORTURE_AFTER:/after"); fi

# Debian's programs, with the libraries that they want. trinity runs as nobody.
for program in $load; do
	path=$(command -v "$program")
	libraries=$(ldd "$path")
	if grep 'not found' <<<"$libraries"; then
		die "$program lacks a library (above): install its package again."
	fi
	options+=(--file "$path:/bin/$program")
	while read -r library; do
		options+=(--file "$library:$library")
	done < <(grep -o '/[^ ]*' <<<"$libraries")
done
echo 'nobody:x:65534:65534:nobody:/:/bin/sh' >"$log/passwd"
echo 'nogroup:x:65534:' >"$log/group"
options+=(--file "$log/passwd:/etc/passwd" --file "$log/group:/etc/group")

# What handle_userfault() notices with DEBUG_VM (see splat.sh) is shown once a minute:
# each time takes the slow line a while.
cat >"$log/run" <<EOF
export HMM_MIGRATE_SEED=$seed HMM_MIGRATE_SECONDS=$((minutes * 60))
export HMM_MIGRATE_KINDS='${KINDS-}'
[ -n "\$HMM_MIGRATE_KINDS" ] || unset HMM_MIGRATE_KINDS
export HMM_MIGRATE_MODULE=/lib/test_hmm_migrate.ko
echo 1 >/proc/sys/kernel/printk_ratelimit_burst
echo 60 >/proc/sys/kernel/printk_ratelimit
insmod /lib/test_hmm_migrate_dma.ko && insmod \$HMM_MIGRATE_MODULE size_mb=16 || exit 100
# Swap to what answers at once, and to what takes a while. That one has all of its memory
# before anything is made to fail: after write errors of it, contents were lost also
# when nothing migrated.
echo 64M >/sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null || exit 103
insmod /lib/null_blk.ko nr_devices=1 gb=1 memory_backed=1 irqmode=2 \\
	completion_nsec=1000000 && dd if=/dev/zero of=/dev/nullb0 bs=1M count=64 2>/dev/null &&
	mkswap /dev/nullb0 65536 >/dev/null || exit 104
export HMM_MIGRATE_SWAP='/dev/zram0 /dev/nullb0'
for program in $load; do sh /bin/load \$program $((minutes * 60)) $seed & done
hmm_migrate_stress
rc=\$?
# Nobody waits for what runs beside it when it has failed.
[ \$rc -eq 0 ] || { touch /tmp/over; pkill -9 stress-ng; pkill -9 trinity; }
wait
rmmod test_hmm_migrate && rmmod test_hmm_migrate_dma || exit 101
leaks $leaks || exit 102
[ ! -e /after ] || . /after
exit \$rc
EOF

commit=$(kgit rev-parse --short HEAD)
say "torture: $minutes minutes on the $config kernel, seed $seed${load:+, with $load}"
vm=0
"$SCRIPTS/vm.sh" "${options[@]}" || vm=$?
operations=$(grep -o '^# operations .*' "$out" | tr -d '\r') || true
# Which runs there were, and of what: a line each.
result()
{
	echo "$(date +%F) $commit $config${load:+ with $load} minutes $minutes seed $seed ${KINDS:+kinds $KINDS }$1 ${operations#\# }" >>"$runs"
}
bad()
{
	result FAILED
	die "$1"
}

[ $vm -eq 0 ] ||
	bad "torture failed, and SEED=$seed draws the same again: see $(rel "$out") and $(rel "$log/console.log")."
if [ "$config" = kcsan ]; then
	"$SCRIPTS/kcsan.sh" "$log/console.log" "$o" || bad "torture failed by a data race (above)."
fi
tr -d '\r' <"$out" | grep '^ok 1 [^ ]*$' >/dev/null ||
	bad "torture said neither that it passed nor that it failed: see $(rel "$out")."
for program in $load; do
	case $program in
	stress-ng)	ran='^# stress-ng ended with 0$' ;;
	trinity)	ran='^# trinity: .*Ran [1-9][0-9]* syscalls' ;;
	esac
	tr -d '\r' <"$out" | grep "$ran" >/dev/null ||
		bad "$program did not run as it should beside it: see $(rel "$out")."
done
result clean
