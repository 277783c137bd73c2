#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# splat.sh [--races] [--injected] LOG...: fails, and shows the first splat, if a kernel
# log holds one. With --races, data races that KCSAN reports are none: they are left to
# kcsan.sh. With --injected, an allocation that fails, and says so, is none.
# splat.sh --self-test: sees that each line of splat.test is judged right.

. "$(dirname "$0")/lib.sh"

# What the kernel says when something is wrong, one expression a line. The
# detectors' own greetings at boot must not match.
SPLATS='(^|[^a-z])WARNING: |WARNING: CPU: |BUG: |kernel BUG at|BUG at
KASAN: |KCSAN: |UBSAN: |KFENCE: |KMSAN:
Oops|general protection fault|Unable to handle kernel|Kernel panic - not syncing
possible (circular|recursive|irq lock) |circular locking dependency|inconsistent lock state|lock held when returning
suspicious RCU usage|invalid wait context|sleeping function called from
INFO: task .* blocked for more than|INFO: rcu|rcu.*(detected.*stall|stall on CPU|stalls on CPU)|soft lockup|hard LOCKUP
page_table_check|Bad page state|Bad page map|Bad rss-counter|bad (pmd|pud|p4d|pgd|pte)[ (]
kmemleak: [0-9]+ new suspected|unreferenced object|Left over .*pages
vmstat_refresh: |DMA-API: debugging out of memory|refcount_t: |list_(add|del) corruption|ODEBUG: |Object already free|Poison overwritten|Redzone overwritten
Call Trace:|cut here \]|DEBUG_LOCKS_WARN_ON|Out of memory: Killed|Memory cgroup out of memory'
PATTERN=$(paste -sd'|' <<<"$SPLATS")

# With DEBUG_VM, handle_userfault() shows the way of whoever touches what userfaultfd
# protects and cannot wait, as hmm_range_fault() cannot: that is a notice, and the one
# who asked gets an error. Its trace becomes empty lines, so that numbers stay; of two
# at the same time, both may speak before the first trace comes.
without_notices()
{
	tr -d '\r' <"$1" | awk -v races="$races" -v injected="$injected" '
		races && /BUG: KCSAN: data-race/ { race = 100 }
		race { race = /Reported by Kernel Concurrency/ ? 0 : race - 1; print ""; next }
		/FAULT_FLAG_ALLOW_RETRY missing/ { notices++ }
		injected && /vmalloc error: size|page allocation failure: order/ { notices++ }
		notices && /Call Trace:/ { notices--; left = 100 }
		left { left = /<\/TASK>/ ? 0 : left - 1; print ""; next }
		{ print }'
}

races='' injected=''
scan()
{
	local log first
	for log; do
		first=$(without_notices "$log" | grep -n -a -E -m 1 -e "$PATTERN" | cut -d: -f1) || true
		if [ -n "$first" ]; then
			say "splat in $(rel "$log"):"
			tr -d '\r' <"$log" | sed -n "$((first > 2 ? first - 2 : 1)),$((first + 40))p"
			return 1
		fi
	done
}

# Each line of splat.test stands for a whole log, of several lines with \n: '+' if it
# is a splat. With (races) or (injected) in front, it is for that option.
self_test()
{
	local verdict line rc bad=0 n=0 log
	log=$(mktemp)
	while read -r verdict line; do
		case $verdict in [+-]) ;; *) continue ;; esac
		printf '%b\n' "$line" >"$log"
		rc=0
		races='' injected=''
		case $line in
		'(races) '*)	races=yes ;;
		'(injected) '*)	injected=yes ;;
		esac
		scan "$log" >/dev/null || rc=$?
		n=$((n + 1))
		case $verdict$rc in
		+1|-0) ;;
		*)	say "splat.test: judged wrong: $verdict $line"; bad=1 ;;
		esac
	done <"$SCRIPTS/splat.test"
	rm -f "$log"
	[ $n -gt 0 ] && [ $bad -eq 0 ]
}

while [ $# -gt 0 ]; do
	case $1 in
	--self-test)	self_test; exit ;;
	--races)	races=yes ;;
	--injected)	injected=yes ;;
	*)		break ;;
	esac
	shift
done
scan "$@"
