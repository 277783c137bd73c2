#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# packages.sh GROUP...: installs the Debian packages that these groups need;
# silent and quick when all are there. --update: fetches apt's lists.

. "$(dirname "$0")/lib.sh"

declare -A GROUP=(
	[tree]='git ca-certificates xz-utils tar'
	[kernel]='build-essential flex bison bc libelf-dev libssl-dev cpio rsync ccache kmod python3'
	[vm]='qemu-system-x86 busybox-static cpio'
	[lint]='perl python3 python3-ply python3-git sparse shellcheck'
	[patches]='quilt b4'
	[bench]='gnuplot-nox python3'
	[regress]='libnuma-dev liburing-dev xfsprogs python3'
	[load]='stress-ng trinity'
	[powerpc]='gcc-powerpc64le-linux-gnu'
	[arm64]='gcc-aarch64-linux-gnu'
)

# How to see that a package's content is there where there is no dpkg.
declare -A TRIES=(
	[build-essential]='command -v gcc make'
	[bison]='command -v bison'
	[bc]='command -v bc'
	[busybox-static]='command -v busybox'
	[ca-certificates]='true'
	[ccache]='command -v ccache'
	[cpio]='command -v cpio'
	[flex]='command -v flex'
	[git]='command -v git'
	[gcc-aarch64-linux-gnu]='command -v aarch64-linux-gnu-gcc'
	[gcc-powerpc64le-linux-gnu]='command -v powerpc64le-linux-gnu-gcc'
	[gnuplot-nox]='command -v gnuplot'
	[kmod]='command -v depmod'
	[libelf-dev]='test -e /usr/include/libelf.h'
	[libnuma-dev]='test -e /usr/include/numa.h'
	[libssl-dev]='test -e /usr/include/openssl/ssl.h'
	[liburing-dev]='test -e /usr/include/liburing.h'
	[python3-git]='python3 -c import\ git'
	[python3-ply]='python3 -c import\ ply'
	[qemu-system-x86]='command -v qemu-system-x86_64'
	[xfsprogs]='command -v mkfs.xfs'
	[xz-utils]='command -v xz'
)

there()
{
	if command -v dpkg-query >/dev/null; then
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
	else
		# shellcheck disable=SC2086 # a command with its arguments
		eval ${TRIES[$1]-command -v $1} >/dev/null
	fi
}

[ "$(uname -m)" = x86_64 ] ||
	die "this builds and boots x86-64 kernels on an x86-64 machine; this one is $(uname -m)."

as_root=()
apt()
{
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300 "$@"
}

# Without root or sudo: return 1. Never stop at a password prompt that nobody
# sees.
become_root()
{
	if [ "$(id -u)" -ne 0 ]; then
		sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; } || return 1
		as_root=(sudo)
	fi
}

if [ "${1-}" = --update ]; then
	if become_root; then
		step "fetching apt's lists" apt-update.log 20 apt update ||
			die "apt-get update failed: see $(rel "$LOGS/apt-update.log")."
	fi
	exit 0
fi

missing=()
for group; do
	for package in ${GROUP[$group]}; do
		there "$package" || missing+=("$package")
	done
done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null ||
	die "what these Debian packages hold is missing, install your system's equivalents: ${missing[*]}."

become_root ||
	die "these Debian packages are missing, and there is neither root nor sudo to install them: ${missing[*]}."

# The lists may be old or not there at all: fetch them when it fails without.
install()
{
	apt install --no-install-recommends "${missing[@]}" ||
		{ apt update && apt install --no-install-recommends "${missing[@]}"; }
}

step "installing ${#missing[@]} packages" packages.log 400 install ||
	die "apt-get could not install ${missing[*]}: see $(rel "$LOGS/packages.log")."
