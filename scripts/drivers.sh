#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Compiles the drivers that use the migration API against the kernel with the series:
# amdkfd for x86 and the ultravisor code for powerpc, unmodified; nouveau, unmodified and
# as the series has it; and the outline of a driver that uses the names of later kernels,
# scripts/drivers/names.c. The objects alone: nothing here can run them.

. "$(dirname "$0")/lib.sh"
NAME=drivers

need tree kernel powerpc
"$SCRIPTS/tree.sh" --quiet

cross=(ARCH=powerpc CROSS_COMPILE=powerpc64le-linux-gnu- 'CC=ccache powerpc64le-linux-gnu-gcc')

# compile O CONFIG-FRAGMENT MAKE-ARGUMENTS... -- OBJECT...: in this configuration.
compile()
{
	local o=$1 defconfig=$2 fragment=$3 args=() object
	shift 3
	while [ "$1" != -- ]; do args+=("$1"); shift; done
	shift
	mkdir -p "$TREE/$o"
	kmake "$TREE" "$o" "${args[@]}" "$defconfig"
	(cd "$TREE" && scripts/kconfig/merge_config.sh -m -O "$o" "$o/.config" "$SCRIPTS/config/$fragment")
	kmake "$TREE" "$o" "${args[@]}" olddefconfig
	while IFS= read -r option; do
		grep -qx "$option" "$TREE/$o/.config" ||
			die "$option is requested by scripts/config/$fragment, but this kernel cannot have it."
	done <"$SCRIPTS/config/$fragment"
	for object; do rm -f "$TREE/$o/$object"; done
	kmake "$TREE" "$o" "${args[@]}" "$@"
}

x86()
{
	compile .drivers tinyconfig drivers-x86.config -- \
		drivers/gpu/drm/nouveau/nouveau_dmem.o drivers/gpu/drm/amd/amdgpu/../amdkfd/kfd_migrate.o lib/test_hmm.o
}

powerpc()
{
	compile .powerpc pseries_le_defconfig drivers-powerpc.config "${cross[@]}" -- \
		arch/powerpc/kvm/book3s_hv_uvmem.o
}

# nouveau_dmem.c of the base, out of the tree; all that it includes but its own header is
# the series'.
nouveau()
{
	local dir=$BUILD/names/nouveau src=drivers/gpu/drm/nouveau f
	mkdir -p "$dir"
	for f in nouveau_dmem.c nouveau_dmem.h nouveau_svm.h; do
		kgit show "base:$src/$f" >"$dir/$f"
	done
	printf 'obj-m := nouveau_dmem.o\nccflags-y := %s\n' \
		"$(printf -- "-I$TREE/$src/%s " include include/nvkm nvkm .)" >"$dir/Makefile"
	kmake "$TREE" .drivers M="$dir" nouveau_dmem.o
}

# Out of the tree, so that it leaves nothing there.
names()
{
	mkdir -p "$BUILD/names"
	install -C -m 644 "$SCRIPTS"/drivers/* "$BUILD/names"
	kmake "$TREE" .drivers M="$BUILD/names" names.o
}

step 'compiling nouveau and amdkfd' drivers-x86.log 1500 x86 ||
	die "the drivers do not compile: see $(rel "$LOGS/drivers-x86.log")."
step 'compiling the base'\''s nouveau_dmem.c' drivers-nouveau.log 300 nouveau ||
	die "the base's nouveau_dmem.c does not compile: see $(rel "$LOGS/drivers-nouveau.log")."
step 'compiling the ultravisor code' drivers-powerpc.log 1500 powerpc ||
	die "book3s_hv_uvmem.c does not compile: see $(rel "$LOGS/drivers-powerpc.log")."
step 'compiling a driver with large folios' drivers-names.log 300 names ||
	die "scripts/drivers/names.c does not compile: see $(rel "$LOGS/drivers-names.log")."
say 'the drivers compile'
