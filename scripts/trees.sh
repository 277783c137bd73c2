#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# trees.sh: applies patches/ by plain, strict git am (no -3, no fuzz) to every 6.12.y
# that Debian's security archives offer, each in a repository that has that tree alone,
# and compiles there what the patches touch, unless the tree is the pinned base in all
# of it. A tree that cannot be fetched is named and skipped.
# trees.sh --boot: builds the newest of them as configuration fast, boots it, and runs
# KUnit and a test of the kselftest. In the environment:
#   TREES	only these, as 6.12.118

. "$(dirname "$0")/lib.sh"
NAME=trees

# The oldest that Debian 12 offers when this was written; older ones are not tried.
OLDEST=6.12.113
# Those that are named when they are not there.
EXPECTED=(6.12.113 6.12.115 6.12.117 6.12.118)
# The release whose archive has the newest 6.12.y, beside the one that runs here.
OTHER_SUITE=trixie-security

dir=$BUILD/trees
apt=$dir/apt
mkdir -p "$dir/good" "$apt"/{parts,lists/partial,cache/archives/partial}

# An apt of our own, whose sources are the machine's for security, and the same with
# the other suite: what is installed, and the machine's lists, stay as they are.
write_sources()
{
	local file suite='[a-z]+-security'
	rm -f "$apt"/parts/*
	for file in /etc/apt/sources.list.d/*.sources; do
		[ -e "$file" ] || continue
		awk -v RS= -v ORS='\n\n' "/(^|\n)Suites:[^\n]*$suite/" "$file"
	done >"$apt/parts/own.sources"
	sed -E "s/^(Suites:).*/\1 $OTHER_SUITE/" "$apt/parts/own.sources" >"$apt/parts/other.sources"
	cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
		grep -E "^deb[[:blank:]].*[[:blank:]]${suite}[[:blank:]]" >"$apt/parts/own.list" || true
	sed -E "s/[[:blank:]]${suite}[[:blank:]]/ $OTHER_SUITE /" "$apt/parts/own.list" >"$apt/parts/other.list"
	[ -s "$apt/parts/own.sources" ] || [ -s "$apt/parts/own.list" ] ||
		die "apt has no source for Debian's security archive: add one for suite bookworm-security, component main."
}

own_apt()
{
	"$@" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/parts" \
		-o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" \
		-o APT::Get::List-Cleanup=0 -o APT::Sandbox::User=root
}

# The versions to try, oldest first, one for each 6.12.y: that of the release that runs
# here, if it has one.
versions()
{
	own_apt apt-cache madison "$BASE_PACKAGE" 2>/dev/null | cut -d'|' -f2 | tr -d ' ' | sort -uV |
		awk -v oldest="$OLDEST" '
			function sub_level(version) {
				split(version, parts, /[.-]/)
				return parts[3] + 0
			}
			sub_level($1) >= sub_level(oldest) && /~deb|-/ {
				n = sub_level($1)
				if (!(n in best) || $1 ~ /~deb/)
					best[n] = $1
			}
			END { for (n in best) print best[n] }' | sort -V
}

# fetch VERSION: leaves the package in build/trees.
fetch()
{
	[ ! -e "$dir/$1.deb" ] || return 0
	rm -rf "$dir/download"
	mkdir -p "$dir/download"
	(cd "$dir/download" && own_apt apt-get download "$BASE_PACKAGE=$1") &&
	mv "$dir"/download/*.deb "$dir/$1.deb"
}

# unpack VERSION TO [PATH...]: the tree, or these files of it.
unpack()
{
	local version=$1 to=$2
	shift 2
	rm -rf "$to"
	mkdir -p "$to"
	dpkg-deb --fsys-tarfile "$dir/$version.deb" | tar -xO "./usr/src/$BASE_PACKAGE.tar.xz" |
		tar -xJ -C "$to" --strip-components=1 "${@/#/$BASE_PACKAGE/}"
}

# The files that the patches change or delete, and the Makefile, which says the version.
touched()
{
	echo Makefile
	kgit diff --no-renames --diff-filter=MD --name-only base HEAD
}

# apply VERSION: makes build/trees/VERSION, a repository that has what the patches touch
# of this tree and no object of another, and applies them.
apply()
{
	local version=$1 repo=$dir/$1 files patches
	mapfile -t files < <(touched)
	mapfile -t patches < <(patch_files)
	unpack "$version" "$repo" "${files[@]}" &&
	git init -q "$repo" &&
	git -C "$repo" add -A -f &&
	git -C "$repo" commit -q --no-verify -m "$version" &&
	git -C "$repo" tag base &&
	am "$repo" "${patches[@]}"
}

# Which of the touched files differ from the pinned base, the Makefile aside.
different()
{
	local f
	while read -r f; do
		[ "$(git -C "$dir/$1" rev-parse -q --verify "base:$f")" = "$(kgit rev-parse -q --verify "base:$f")" ] ||
			echo "$f"
	done < <(touched | grep -v '^Makefile$')
}

# The whole tree with the patches, in build/trees/full: only one at a time, for its size.
whole_tree()
{
	local version=$1 repo=$dir/$1 full=$dir/full f
	[ "$(cat "$full/.version" 2>/dev/null)" != "$version $(patches_hash)" ] || return 0
	unpack "$version" "$full" &&
	while read -r f; do
		rm -f "$full/$f"
	done < <(git -C "$repo" diff --no-renames --diff-filter=D --name-only base HEAD) &&
	git -C "$repo" archive HEAD | tar -x -C "$full" &&
	echo "$version $(patches_hash)" >"$full/.version"
}

# compile VERSION: the objects of what the patches change or add.
compile()
{
	local version=$1 full=$dir/full files objects
	whole_tree "$version" || return 1
	mapfile -t objects < <(git -C "$dir/$version" diff --no-renames --diff-filter=AM --name-only base HEAD \
		-- 'mm/*.c' 'fs/*.c' 'lib/*.c' | sed 's/c$/o/')
	mkdir -p "$full/.fast"
	mapfile -t files < <(fragments fast "$full")
	configure "$full" .fast "${files[@]}" &&
	kmake "$full" .fast "${objects[@]}"
}

boot_build()
{
	local full=$dir/full files
	whole_tree "$1" || return 1
	mkdir -p "$full/.fast"
	mapfile -t files < <(fragments fast "$full")
	configure "$full" .fast "${files[@]}" &&
	kmake "$full" .fast all headers_install
}

boot()
{
	local newest=$1
	step "building the kernel of $newest" trees/boot-build.log 2500 boot_build "$newest" ||
		die "$newest with the patches does not build: see $(rel "$LOGS/trees/boot-build.log")."
	env KSELFTEST_TREE="$dir/full" KSELFTEST_CONFIG=fast KSELFTEST_LOG="$LOGS/trees/boot" \
		KSELFTEST_APPEND='' TRIPS='' TESTS=there_and_back "$SCRIPTS/kselftest.sh" ||
		die "$newest with the patches boots, but KUnit or the kselftest fails: see $(rel "$LOGS/trees/boot")."
	say "trees: $newest boots and passes KUnit"
}

[ -z "${KDIR-}" ] ||
	die "trees.sh tries Debian's trees, and KDIR is a tree of your own: leave it out."
need tree kernel
if [ "${1-}" = --boot ]; then need vm; fi
command -v apt-get >/dev/null ||
	die "this is not Debian: the trees come from its security archives by apt-get."
"$SCRIPTS/tree.sh" --quiet
mkdir -p "$LOGS/trees"

write_sources
step "fetching apt's lists" trees/apt.log 10 own_apt apt-get update ||
	say "apt-get update failed for Debian's security archives: trying what was fetched before"
mapfile -t all < <({ versions; find "$dir" -maxdepth 1 -name '*.deb' -printf '%f\n' | sed 's/\.deb$//'; } | sort -uV)
for version in "${EXPECTED[@]}"; do
	printf '%s\n' "${all[@]}" | grep "^$version-" >/dev/null ||
		say "$version: skipped, no security archive of Debian offers it any more"
done
if [ -n "${TREES-}" ]; then
	mapfile -t all < <(for version in "${all[@]}"; do
		if [[ " $TREES " == *" ${version%%-*} "* ]]; then echo "$version"; fi
	done)
fi
[ ${#all[@]} -gt 0 ] ||
	die "no tree${TREES:+ of TREES=\"$TREES\"} can be fetched: look at $(rel "$LOGS/trees/apt.log")."

# Neither a failure nor a skipped tree keeps the others from being tried.
key=$(patches_hash; cat "$0" "$SCRIPTS/lib.sh" "$SCRIPTS"/config/*.config | sha256sum; gcc --version | head -n 1)
tried=0 failed=() newest=''
for version in "${all[@]}"; do
	if ! step "fetching $version" "trees/fetch-$version.log" 5 fetch "$version"; then
		say "$version: skipped, it cannot be fetched: see $(rel "$LOGS/trees/fetch-$version.log")"
		continue
	fi
	tried=$((tried + 1)) newest=$version
	good=$dir/good/$(printf '%s %s' "$key" "$version" | sha256sum | cut -c1-32)
	if [ -e "$good" ] && [ -d "$dir/$version/.git" ]; then
		say "$version: known to be good"
		continue
	fi
	if ! step "git am on $version" "trees/am-$version.log" 5 apply "$version"; then
		say "$version: the patches do not apply: see $(rel "$LOGS/trees/am-$version.log")"
		failed+=("$version")
		continue
	fi
	if [ -z "$(different "$version")" ]; then
		say "$version: the patches apply; what they touch is as in $BASE_VERSION"
	elif step "compiling on $version" "trees/compile-$version.log" 500 compile "$version"; then
		say "$version: the patches apply and compile; $(different "$version" | wc -l) of their files differ from $BASE_VERSION"
	else
		say "$version: the patches apply, but do not compile: see $(rel "$LOGS/trees/compile-$version.log")"
		failed+=("$version")
		continue
	fi
	touch "$good"
done
[ ${#failed[@]} -eq 0 ] ||
	die "${#failed[@]} of $tried trees fail (${failed[*]}): what is wrong with each is said above."
[ $tried -gt 0 ] ||
	die "no tree can be fetched: look at $(rel "$LOGS/trees")."
if [ "${1-}" = --boot ]; then
	boot "$newest"
else
	say "trees: the patches apply to $tried trees of Debian's by git am"
fi
