#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Removes what the other targets made. The kernel tree goes only when it holds
# nothing that patches/ lacks.

. "$(dirname "$0")/lib.sh"
NAME=clean

# All but the lock that we hold and the kernel trees.
find "$BUILD" -mindepth 1 -maxdepth 1 ! -name .lock ! -name gitconfig ! -name log ! -name state \
	! -name linux ! -name 'kdir-*' -exec rm -rf {} +
for tree in "$BUILD"/linux "$BUILD"/kdir-*; do
	[ -e "$tree" ] || continue
	head=''
	read -r head _ 2>/dev/null <"$STATE/applied-$(basename "$tree")" || true
	if [ "$(git -C "$tree" rev-parse HEAD 2>/dev/null)" != "$head" ] ||
	   [ -n "$(git -C "$tree" status --porcelain)" ]; then
		say "$(rel "$tree") is kept: it holds work that patches/ lacks ('make export' takes it over)"
		find "$tree" -mindepth 1 -maxdepth 1 \( -name .bench -o -name .debug -o -name .regress -o -name .lint \
			-o -name '.coverage*' -o -name .kcsan -o -name .fast -o -name '.matrix*' \) -exec rm -rf {} +
		continue
	fi
	rm -rf "$tree" "$STATE/applied-$(basename "$tree")"
done
rm -rf "$LOGS"
