#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# tree.sh [--quiet | --stock]: makes or updates the kernel tree, build/linux (with KDIR,
# a clone of it below build/): branch series, one commit for the base (tag
# base), one a patch. --stock: also build/stock, a worktree of the base.

. "$(dirname "$0")/lib.sh"
NAME=tree

# What was applied last: the commit it made, the patches, the base.
applied=$STATE/applied-$(basename "$TREE")

remember()
{
	printf '%s %s %s\n' "$(kgit rev-parse series)" "$(patches_hash)" "$(kgit rev-parse base^0)" >"$applied"
}

# The last version of Debian's package that there is: prints it.
choose_version()
{
	local list
	list=$(apt-cache madison "$BASE_PACKAGE" 2>/dev/null | cut -d'|' -f2 | tr -d ' ')
	if grep -qxF "$BASE_VERSION" <<<"$list"; then
		echo "$BASE_VERSION"
	else
		sort -rV <<<"$list" | head -n 1
	fi
}

# Leaves the tarball's path in $tarball and its version in $version.
get_source()
{
	local deb
	tarball=/usr/src/$BASE_PACKAGE.tar.xz
	version=$(dpkg-query -W -f '${Version}' "$BASE_PACKAGE" 2>/dev/null) || version=
	if [ "$version" = "$BASE_VERSION" ] && [ -e "$tarball" ]; then
		return
	fi
	command -v apt-cache >/dev/null ||
		die "this is not Debian: give your own linux-6.12.y git tree as KDIR=/path."
	version=$(choose_version)
	if [ "$version" != "$BASE_VERSION" ]; then
		# The lists may be old or not there at all.
		"$SCRIPTS/packages.sh" --update
		version=$(choose_version)
	fi
	[ -n "$version" ] ||
		die "apt knows no $BASE_PACKAGE: enable Debian 12's security archive (suite bookworm-security, component main), or give your own linux-6.12.y git tree as KDIR=/path."
	[ "$version" = "$BASE_VERSION" ] ||
		say "$BASE_PACKAGE $BASE_VERSION is no longer in the archive: using the newest, $version"
	# Downloaded, not installed: a newer one on the system may stay.
	rm -rf "$BUILD/download"
	mkdir -p "$BUILD/download"
	(cd "$BUILD/download" && step "downloading $BASE_PACKAGE $version" download.log 5 \
		apt-get download "$BASE_PACKAGE=$version") ||
		die "apt-get could not download $BASE_PACKAGE $version: see $(rel "$LOGS/download.log")."
	deb=$(find "$BUILD/download" -name '*.deb')
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$BUILD/download" "./usr/src/$BASE_PACKAGE.tar.xz"
	tarball=$BUILD/download/usr/src/$BASE_PACKAGE.tar.xz
}

# Everything happens in a directory of another name, so that an interrupted
# run leaves nothing that looks finished.
base_from_debian()
{
	local new=$TREE.new tarball version
	get_source
	rm -rf "$new"
	mkdir -p "$new"
	step "unpacking $BASE_PACKAGE $version" unpack.log 92000 \
		tar -xvf "$tarball" -C "$new" --strip-components=1 ||
		die "$tarball could not be unpacked: see $(rel "$LOGS/unpack.log") (it takes 6 GB of disk space)."
	# Debian's own lines in it ignore everything, new files of ours included.
	sed -i '/^# Debian packaging: ignore everything/,$d' "$new/.gitignore"
	git init -q "$new"
	step "adding it to git" add.log 86000 git -C "$new" add -A -f -v ||
		die "git could not add the source: see $(rel "$LOGS/add.log")."
	GIT_AUTHOR_DATE=2024-11-17T22:15:08Z GIT_COMMITTER_DATE=2024-11-17T22:15:08Z \
		git -C "$new" commit -q --no-verify -m "Linux ${version%%-*}, Debian's $BASE_PACKAGE $version"
	git -C "$new" tag base
	adopt "$new"
	rm -rf "$BUILD/download"
}

# The user's tree is only read: a clone that shares its objects does the work.
base_from_kdir()
{
	local new=$TREE.new
	rm -rf "$new"
	step "cloning $KDIR" clone.log 5 git clone --shared --no-checkout --no-tags "$KDIR" "$new" ||
		die "$KDIR could not be cloned: see $(rel "$LOGS/clone.log")."
	step "checking out $KDIR" checkout.log 5 git -C "$new" checkout -q -B series "$kdir_head" ||
		die "$KDIR could not be checked out: see $(rel "$LOGS/checkout.log")."
	git -C "$new" tag -f base >/dev/null
	adopt "$new"
}

adopt()
{
	# Those who work in it commit as the project, and its loose objects do
	# not set off a gc in the middle of that.
	git -C "$1" config user.name "${AUTHOR% <*}"
	git -C "$1" config user.email "$EMAIL"
	git -C "$1" config gc.auto 0
	rm -rf "$TREE"
	mv "$1" "$TREE"
}

check_kdir()
{
	local version dirty
	export GIT_OPTIONAL_LOCKS=0
	[ "$(git -C "$KDIR" rev-parse --show-toplevel 2>/dev/null)" = "$KDIR" ] ||
		die "KDIR=$KDIR is not the top of a git work tree: give one of linux-6.12.y."
	version=$(sed -n 's/^\(VERSION\|PATCHLEVEL\) = //p' "$KDIR/Makefile" 2>/dev/null | paste -sd.)
	[ "$version" = 6.12 ] ||
		die "KDIR=$KDIR is Linux ${version:-of an unknown version}, and the series is for 6.12: check out a linux-6.12.y."
	dirty=$(git -C "$KDIR" status --porcelain --untracked-files=no) ||
		die "git status fails in KDIR=$KDIR: repair that tree first."
	[ -z "$dirty" ] ||
		die "KDIR=$KDIR has uncommitted changes (${dirty%%$'\n'*}, ...): commit or stash them, the series is put on what is committed."
	kdir_head=$(git -C "$KDIR" rev-parse HEAD)
	unset GIT_OPTIONAL_LOCKS
}

# Applies the patches beside the tree and only then moves the tree to the
# result: a patch that fails changes nothing, and files that stay the same keep
# their time, so that little is built again.
apply_patches()
{
	local onto=$1 dir files n failed
	mapfile -t files < <(patch_files)
	dir=$(scratch tree "$onto")
	if [ ${#files[@]} -gt 0 ]; then
		say "applying ${#files[@]} patches"
		if ! am "$dir" "${files[@]}" >"$LOGS/am.log" 2>&1; then
			n=$(cat "$dir/.git/rebase-apply/next" 2>/dev/null) || n=1
			failed=$(rel "${files[n - 1]}")
			die "$failed does not apply to $(kgit log -1 --format='%h (%s)' "$onto"): see $(rel "$LOGS/am.log"); ${KDIR:+$KDIR and }$(rel "$TREE") stayed as they were."
		fi
	fi
	kgit fetch -q "$dir" HEAD
	kgit checkout -q -B series FETCH_HEAD
	kgit tag -f base "$onto" >/dev/null
	remember
	rm -rf "$dir"
}

# The tree as the last run left it, with nothing of a developer's in it?
untouched()
{
	local head hash base
	# With no commit on the base, as an interrupted first run leaves it.
	[ "$(kgit rev-parse HEAD)" != "$(kgit rev-parse base^0)" ] || return 0
	[ -e "$applied" ] || return 1
	read -r head hash base <"$applied"
	[ "$(kgit rev-parse HEAD)" = "$head" ] && [ "$(kgit rev-parse base^0)" = "$base" ]
}

# The patches of the tree, as text, against those in patches/.
same_text()
{
	local dir=$BUILD/scratch/compare
	rm -rf "$dir"
	mkdir -p "$dir"
	kgit "${FORMAT_PATCH[@]}" -o "$dir" base..HEAD
	diff -q -r --exclude='cover-letter*' "$dir" "$PATCHES" >/dev/null 2>&1 ||
		{ [ -z "$(ls "$dir")" ] && [ -z "$(patch_files)" ]; }
}

update()
{
	local onto hash='' advice="'make export' takes them over; "
	if [ "$(kgit symbolic-ref -q --short HEAD)" != series ] || [ -d "$TREE/.git/rebase-merge" ] ||
	   [ -d "$TREE/.git/rebase-apply" ]; then
		say "$(rel "$TREE") is not on its branch 'series' (a rebase in progress?): left as it is"
		return
	fi
	onto=$(kgit rev-parse base^0)
	if [ -n "${KDIR-}" ]; then onto=$kdir_head; fi
	if untouched; then
		if [ -e "$applied" ]; then read -r _ hash _ <"$applied"; fi
		if [ "$hash" = "$(patches_hash)" ] && [ "$onto" = "$(kgit rev-parse base^0)" ]; then
			return
		fi
		[ -z "$(kgit status --porcelain --untracked-files=no)" ] ||
			die "patches/ has changed, and $(rel "$TREE") holds uncommitted changes: commit or stash them there first."
		if [ -n "${KDIR-}" ]; then kgit fetch -q --no-tags "$KDIR" HEAD; fi
		apply_patches "$onto"
	elif [ -z "${KDIR-}" ] && same_text; then
		remember
	else
		if [ -n "${KDIR-}" ]; then advice=; fi
		say "$(rel "$TREE") holds commits that patches/ lacks: used as it is (${advice}remove $(rel "$TREE") to start from patches/)"
	fi
}

stock()
{
	local dir=$BUILD/stock
	if [ "$(git -C "$dir" rev-parse HEAD 2>/dev/null)" = "$(kgit rev-parse base^0)" ] &&
	   [ -e "$dir/.complete" ]; then
		return
	fi
	rm -rf "$dir"
	kgit worktree prune
	kgit worktree add -q --detach "$dir" base
	touch "$dir/.complete"
}

need tree
if [ -n "${KDIR-}" ]; then check_kdir; fi
if ! kgit rev-parse -q --verify base^0 >/dev/null 2>&1; then
	if [ -n "${KDIR-}" ]; then base_from_kdir; else base_from_debian; fi
	apply_patches "$(kgit rev-parse base^0)"
else
	update
fi
if [ "${1-}" = --stock ]; then stock; fi
if [ $# -eq 0 ]; then
	say "$(rel "$TREE"): $(kgit log -1 --format=%s base), and $(kgit rev-list --count base..HEAD) patches"
fi
