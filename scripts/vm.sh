#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boots a kernel in QEMU with an initramfs made on the spot, runs a shell
# script in it, and fails when the script fails, when the VM ends in silence or
# takes too long, or when the kernel's log holds a splat.

. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<-E
	usage: vm.sh --kernel BZIMAGE --run SCRIPT --log DIR [option]...
	  --kernel BZIMAGE   the kernel
	  --run SCRIPT       runs in the VM under busybox sh, in /tmp; its output
	                     is shown live and kept in DIR/output.log
	  --log DIR          for output.log and console.log (the kernel's messages)
	  --file SRC:DST     puts a file into the VM, as the path DST; repeatable
	  --cpus N           (default: 2)
	  --mem SIZE         (default: 2G)
	  --nodes A,B        two NUMA nodes of these sizes, the second one memory only
	  --icount           one CPU, time counts instructions: figures repeat exactly
	  --timeout SECONDS  (default: 600)
	  --append STRING    more for the kernel's command line
	  --quiet            do not show the output
	  --races            data races that KCSAN reports are left to the caller
	  --injected         allocations are made to fail, and the kernel may say so
	  --input FILE       what the VM's second serial line is sent (nothing)
	  --monitor SOCKET   QEMU's monitor listens there
	E
	exit 2
}

args=("$@")
kernel='' run='' log='' files=() cpus=2 mem=2G nodes='' timeout=600 append='' show=yes input=/dev/null monitor=() splat=()
accel=(-accel 'tcg,thread=multi')
while [ $# -gt 0 ]; do
	case $1 in
	--icount)	cpus=1 accel=(-accel tcg -icount 'shift=0,sleep=off') ;;
	--quiet)	show='' ;;
	--races|--injected)	splat+=("$1") ;;
	--kernel|--run|--log|--file|--cpus|--mem|--nodes|--timeout|--append|--input|--monitor)
		[ $# -ge 2 ] || usage
		case $1 in
		--kernel)	kernel=$2 ;;
		--run)		run=$2 ;;
		--log)		log=$2 ;;
		--file)		files+=("$2") ;;
		--cpus)		cpus=$2 ;;
		--mem)		mem=$2 ;;
		--nodes)	nodes=$2 ;;
		--timeout)	timeout=$2 ;;
		--append)	append+=" $2" ;;
		--input)	input=$2 ;;
		--monitor)	monitor=(-monitor "unix:$2,server,nowait") ;;
		esac
		shift ;;
	*)	usage ;;
	esac
	shift
done
if [ -z "$kernel" ] || [ -z "$run" ] || [ -z "$log" ]; then usage; fi

need vm

# Coherent device memory: two ranges that the firmware would call Soft Reserved.
append="memmap=256M%0x40000000-1+0xefffffff memmap=256M%0x60000000-1+0xefffffff$append"

numa=()
if [ -n "$nodes" ]; then
	numa=(
		-object "memory-backend-ram,id=m0,size=${nodes%,*}"
		-object "memory-backend-ram,id=m1,size=${nodes#*,}"
		-numa "node,nodeid=0,cpus=0-$((cpus - 1)),memdev=m0"
		-numa 'node,nodeid=1,memdev=m1'
	)
fi

mkdir -p "$log"
rm -f "$log/console.log" "$log/output.log"
root=$(mktemp -d "${TMPDIR:-/tmp}/vm.XXXXXX")
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/fs/{bin,dev,proc,sys,tmp}
cp /bin/busybox "$root/fs/bin/busybox"
cp "$SCRIPTS/vm/init" "$root/fs/init"
cp "$run" "$root/fs/run"
chmod 755 "$root/fs/init"
for f in "${files[@]}"; do
	install -D "${f%%:*}" "$root/fs/${f#*:}" ||
		die "$(rel "${f%%:*}") cannot be put into the VM: build it first."
done
# Sorted, without times and owners: the same files make the same image, and
# with --icount the same image makes the same run.
find "$root/fs" -exec touch -h -d @0 {} +
(cd "$root/fs" && find . -print0 | sort -z |
	cpio --quiet --null --create --format=newc --owner=0:0 --reproducible |
	gzip -n -1 >"$root/initrd.gz")

# With more virtual CPUs than processors, one that spins for a lock or waits for an
# IPI waits for one that does not run: a fifth of the torture's time, with slices of
# 3 ms. sched_setattr() asks for 0.5 ms, policy and nice as they are, and all threads
# inherit it. A kernel older than 6.12 knows no slices.
slice=()
if [ "$cpus" -gt "$(nproc)" ]; then
	# shellcheck disable=SC2016 # perl's, not the shell's
	slice=(perl -e '$slice = pack("LLQlLQ3", 48, 0, 8, getpriority(0, 0), 0, 500_000, 0, 0);
			syscall 314, 0, $slice, 0;
			exec @ARGV or die "$ARGV[0]: $!\n"')
fi

# The marker that init prints last is for us, not for the reader. No line
# buffering of the pipe's end may hold back a running test's output.
begin=$SECONDS
rc=0
timeout --foreground -k 5 "$timeout" "${slice[@]}" qemu-system-x86_64 -M q35 -cpu 'qemu64,+pdpe1gb' \
	"${accel[@]}" -smp "$cpus" -m "$mem" "${numa[@]}" \
	-display none -nodefaults -no-user-config -no-reboot \
	-serial "file:$log/console.log" -serial stdio "${monitor[@]}" \
	-kernel "$kernel" -initrd "$root/initrd.gz" \
	-append "console=ttyS0 panic=-1 oops=panic loglevel=8 ignore_loglevel printk.time=1 $append" \
	<"$input" 2>"$log/qemu.log" | tee "$log/output.log" |
	if [ -n "$show" ]; then
		sed -u -e '/^$/{N;/\n@@ vm: exit status/d}' -e '/^@@ vm: exit status/d'
	else
		cat >/dev/null
	fi || rc=$?
took=$((SECONDS - begin))

# With several threads, QEMU can let a virtual CPU run into the int3 that the
# kernel puts in while it patches a jump label, when the patching is over and
# nobody expects it any more. Nothing else in these kernels makes an int3. Once
# can be bad luck.
if [ -z "${HMM_VM_AGAIN-}" ] && grep -q 'Oops: int3' "$log/console.log"; then
	say "vm: QEMU ran into an int3 of the kernel's code patching, which is no bug of the kernel's: booting again"
	cp "$log/console.log" "$log/console-int3.log"
	rm -rf "$root"
	HMM_VM_AGAIN=yes exec "$0" "${args[@]}"
fi

# The splat first: it is the reason for all else.
"$SCRIPTS/splat.sh" "${splat[@]}" "$log/console.log" ||
	die "the kernel's log has a splat (above): see $(rel "$log/console.log")."
status=$(sed -n 's/^@@ vm: exit status \([0-9]*\)\r*$/\1/p' "$log/output.log")
if [ -z "$status" ]; then
	tail -n 5 "$log/console.log" "$log/qemu.log" >&2 || true
	[ "$took" -lt "$timeout" ] ||
		die "the VM was stopped after its time limit of $timeout s: see $(rel "$log/output.log") and $(rel "$log/console.log")."
	die "the VM ended after $took s without saying how its script ended (QEMU: $rc): see $(rel "$log/console.log")."
fi
[ "$status" -eq 0 ] ||
	die "the script in the VM failed with status $status: see $(rel "$log/output.log")."
