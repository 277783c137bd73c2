# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
# What the scripts share; each of them sources this first.

set -euo pipefail
umask 022

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
SCRIPTS=$ROOT/scripts
BUILD=$ROOT/build
LOGS=$BUILD/log
STATE=$BUILD/state
PATCHES=$ROOT/patches
NAME=$(basename "$0" .sh)

# The base. Figures and patches are made on this version; see tree.sh for what
# happens when it is no longer to be had.
BASE_PACKAGE=linux-source-6.12
BASE_VERSION=6.12.117-1~deb12u1
EMAIL=hmm-migrate@example.org
AUTHOR="hmm-migrate maintainers <$EMAIL>"

# The directories that mirror the new files of the series.
MIRRORED=(mm include lib tools Documentation)

die()
{
	printf '%s: %s\n' "$NAME" "$*" >&2
	exit 1
}

say()
{
	printf '%s\n' "$*"
}

# Paths in messages are relative to where the user typed make.
rel()
{
	printf '%s' "${1#"$ROOT"/}"
}

case $ROOT in
*[[:space:]:%]*)
	die "the kernel cannot be built below '$ROOT': move this repository to a path without blanks, ':' and '%'." ;;
esac

mkdir -p "$LOGS" "$STATE"

# Scripts call one another: only the outermost takes the lock. Its children
# inherit the file descriptor, so the lock lasts as long as any of them runs.
if [ "${HMM_LOCK-}" != "$BUILD" ]; then
	exec 9>"$BUILD/.lock"
	flock -n 9 || die "another make is running in this checkout: wait for it to end, then try again."
	export HMM_LOCK=$BUILD
fi

# Nothing of the user's environment may change what is built: not the make
# that called us, not settings for other kernels, not git's.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL GNUMAKEFLAGS
unset ARCH CROSS_COMPILE LLVM KBUILD_OUTPUT KBUILD_EXTRA_SYMBOLS KCONFIG_CONFIG \
	KCFLAGS KCPPFLAGS KAFLAGS CFLAGS CPPFLAGS LDFLAGS INSTALL_HDR_PATH \
	INSTALL_MOD_PATH CONFIG_ CDPATH GREP_OPTIONS
unset "${!GIT_@}"
export LC_ALL=C TZ=UTC
# What the packages bring, before any other python or gcc that the user has.
export PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH
export LOCALVERSION='' KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' \
	KBUILD_BUILD_USER=hmm-migrate KBUILD_BUILD_HOST=localhost

# One configuration for git, ours. A file and not `git -c`, because git drops
# that one where it starts itself in another repository. A KDIR may belong to
# another user: naming it was the consent that safe.directory asks for. No
# automatic gc: it would go on in the background and hold our lock.
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=$BUILD/gitconfig GIT_PAGER=cat \
	GIT_EDITOR=false GIT_TERMINAL_PROMPT=0
printf '%s\n' '[user]' "name = ${AUTHOR% <*}" "email = $EMAIL" \
	'[safe]' 'directory = *' '[gc]' 'auto = 0' '[maintenance]' 'auto = false' \
	'[advice]' 'detachedHead = false' '[init]' 'defaultBranch = series' \
	>"$GIT_CONFIG_GLOBAL.$$"
mv "$GIT_CONFIG_GLOBAL.$$" "$GIT_CONFIG_GLOBAL"

# The objects of which coverage.sh counts what is run, as kbuild names them.
COVERED='mm/migrate_vma/%.o lib/test_hmm_migrate.o lib/test_hmm_migrate_dma.o'

# Which kernel tree: Debian's source, or a clone of the user's own.
if [ -n "${KDIR-}" ]; then
	KDIR=$(realpath -m "$KDIR")
	export KDIR
	TREE=$BUILD/kdir-$(printf %s "$KDIR" | sha256sum | cut -c1-8)
else
	TREE=$BUILD/linux
fi

kgit()
{
	git -C "$TREE" "$@"
}

# kmake TREE O ARGUMENT...: the kernel's make. O is a direct child of the tree
# with a name that starts with a dot: kbuild then speaks of the source as "..",
# so ccache hits whatever directory the checkout is in, and git ignores it.
kmake()
{
	local tree=$1 o=$2
	shift 2
	make -C "$tree" -j"$(nproc)" O="$tree/$o" CC='ccache gcc' HOSTCC='ccache gcc' "$@"
}

# configure TREE O FRAGMENT...: tinyconfig with these files on top.
configure()
{
	local tree=$1 o=$2
	shift 2
	kmake "$tree" "$o" tinyconfig
	(cd "$tree" && scripts/kconfig/merge_config.sh -m -O "$o" "$o/.config" "$@")
	kmake "$tree" "$o" olddefconfig
}

# The fragments of configuration $1 for tree $2, one a line: the series' own
# options only where the tree has them.
fragments()
{
	echo "$SCRIPTS/config/bench.config"
	if [ "$1" != bench ]; then echo "$SCRIPTS/config/$1.config"; fi
	# Other users of page tables and pages in the kernel: not where speed counts.
	case $1 in debug|fast|coverage|regress|matrix) echo "$SCRIPTS/config/walkers.config" ;; esac
	if grep -q '^config TEST_HMM_MIGRATE$' "$2/lib/Kconfig.debug"; then
		echo "$SCRIPTS/config/series.config"
	fi
	case $1 in debug|coverage|fast|matrix)
		if grep -q '^config MIGRATE_VMA_KUNIT_TEST$' "$2/mm/Kconfig"; then
			echo "$SCRIPTS/config/series-debug.config"
		fi ;;
	esac
}

need()
{
	"$SCRIPTS/packages.sh" "$@"
}

# The patches in order, one path a line; none is a valid series too.
patch_files()
{
	find "$PATCHES" -maxdepth 1 -name '*.patch' 2>/dev/null | sort
}

patches_hash()
{
	patch_files | while read -r p; do
		basename "$p"
		cat "$p"
	done | sha256sum | cut -c1-64
}

# The parts of the series, as patches/parts has them: letter, title, subject of the
# first patch; without comments, and with a tab between.
parts()
{
	sed -e '/^#/d' -e '/^$/d' "$PATCHES/parts"
}

# part_commits PART: prints the range of commits of a part, as PARENT..LAST.
part_commits()
{
	local letter title subject c first='' last=''
	while IFS=$'\t' read -r letter title subject; do
		c=$(kgit log --format='%H%x09%s' base..series | awk -F '\t' -v s="$subject" '$2 == s { print $1 }')
		[ "$(wc -w <<<"$c")" -eq 1 ] ||
			die "patches/parts lets part $letter begin with '$subject', and that is no patch of the series: write the subject of its first patch."
		if [ -n "$first" ]; then
			last=$c^
			break
		fi
		if [ "$letter" = "$1" ]; then first=$c; fi
	done < <(parts)
	[ -n "$first" ] ||
		die "the series has no part '$1': there are $(parts | cut -f1 | paste -sd' ')."
	echo "$first^..${last:-series}"
}

# Every choice here is for stability: nothing depends on the day, the git
# version, the user's configuration, what else the repository holds (full
# index), or how many patches there are (no n/m; the mbox has those). Renames
# are written out, because quilt and patch(1) do not undo them.
FORMAT_PATCH=(format-patch --quiet --no-numbered --zero-commit --no-signature
	--full-index --no-renames --diff-algorithm=histogram --no-color
	--src-prefix=a/ --dst-prefix=b/ --no-cover-letter --no-thread
	--no-attach --no-base --no-notes --no-encode-email-headers)

# What depends on the base's exact content is only compared on the pinned one.
base_is_pinned()
{
	[ -z "${KDIR-}" ] && [[ $(kgit log -1 --format=%s base) == *" $BASE_VERSION" ]]
}

human_time()
{
	printf '%d:%02d' $(($1 / 60)) $(($1 % 60))
}

# Prints how far a step is, from the number of lines in its log.
step_reporter()
{
	local label=$1 log=$2 lines=$3 begin=$SECONDS last=0 n pct bar now
	trap - EXIT
	# Its last sleep must not keep the lock.
	exec 9>&-
	while sleep 1 && kill -0 $$ 2>/dev/null; do
		n=$(wc -l <"$log")
		pct=$((n * 100 / lines))
		[ $pct -le 99 ] || pct=99
		now=$((SECONDS - begin))
		if [ -t 1 ]; then
			printf -v bar '%*s' $((pct / 5)) ''
			printf '\r%-44s [%-20s] %2d%% %s ' "$label" "${bar// /#}" $pct "$(human_time $now)"
		elif [ $((now - last)) -ge 30 ]; then
			last=$now
			printf '%-44s %2d%% %s\n' "$label" $pct "$(human_time $now)"
		fi
	done
}

# step LABEL LOG LINES COMMAND...: runs a long command with its output in
# build/log/LOG, showing progress; LINES is how long the log is expected to get
# until an earlier run has told. The caller says what a failure means.
step()
{
	local label=$1 log=$LOGS/$2 lines=$3 known=$STATE/lines-${2//\//-} rc=0 reporter begin=$SECONDS n
	shift 3
	mkdir -p "$(dirname "$log")"
	: >"$log"
	if [ -s "$known" ]; then lines=$(<"$known"); fi
	step_reporter "$label" "$log" "$lines" &
	reporter=$!
	# In the foreground, so that an interrupt reaches it.
	"$@" >>"$log" 2>&1 </dev/null || rc=$?
	kill "$reporter" 2>/dev/null || true
	wait "$reporter" 2>/dev/null || true
	if [ -t 1 ]; then printf '\r\033[K'; fi
	if [ $rc -ne 0 ]; then
		say "$label: failed"
		# What the compiler or make complained about; else how it ended.
		grep -E -m 10 'error:|\*\*\*|undefined reference|^(E|ERROR|fatal|error):' "$log" >&2 ||
			tail -n 10 "$log" >&2
		return $rc
	fi
	printf '%-44s done %s\n' "$label" "$(human_time $((SECONDS - begin)))"
	n=$(wc -l <"$log")
	if [ "$n" -gt 20 ]; then echo "$n" >"$known"; fi
}

# scratch NAME REV: a clone of the kernel tree at REV, in build/scratch/NAME,
# with only those files in its work tree that the patches touch: made in a
# moment, and what is done in it cannot hurt the tree. Prints its path.
scratch()
{
	local dir=$BUILD/scratch/$1 rev=$2
	rm -rf "$dir"
	mkdir -p "$BUILD/scratch"
	git clone -q --shared --no-checkout --no-tags "$TREE" "$dir"
	git -C "$dir" sparse-checkout init --no-cone
	{
		echo /Makefile
		patch_files | while read -r p; do
			git -C "$dir" apply --numstat "$p" | cut -f3 | sed 's|^|/|'
		done
	} | sort -u | git -C "$dir" sparse-checkout set --no-cone --stdin
	# The tree may have the commits checked out by any name: by id only.
	git -C "$dir" checkout -q --detach "$(kgit rev-parse "$rev^0")"
	printf '%s' "$dir"
}

# am DIR PATCH...: git am with nothing of today's in the commits, so that the
# same patches on the same base are the same commits everywhere.
am()
{
	local dir=$1
	shift
	git -C "$dir" am --quiet --committer-date-is-author-date --no-3way --no-gpg-sign \
		--no-keep-cr "$@"
}

# static_program TREE O SOURCE OUTPUT: what the kernel's selftests are built
# with, and -static, since the VM has no libraries. ccache knows no linking.
static_program()
{
	local tree=$1 o=$2 src=$3 out=$4
	ccache gcc -O2 -Wall -Werror -D_GNU_SOURCE= -I"$tree" -isystem "$tree/$o/usr/include" \
		-isystem "$tree/tools/include/uapi" -I"$tree/tools/testing/selftests" \
		-I"$tree/tools/testing/selftests/mm" -c -o "$out.o" "$src" &&
		gcc -static -o "$out" "$out.o" -lrt -lpthread
}
