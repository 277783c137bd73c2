# SPDX-License-Identifier: GPL-2.0
# The front door: each target is one script. `make help` lists them.

# The scripts share build/, so they run one at a time, and each of them uses
# all processors by itself.
.NOTPARALLEL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# What a user may set on make's command line reaches the scripts by name.
export KDIR CONFIG SIZES TESTS TRIPS KSELFTEST_CONFIG BISECT_CONFIG MUTANTS \
	KSELFTEST_APPEND MATRIX TREES MINUTES SEED KINDS LOAD TORTURE_CONFIG PART OLD

.PHONY: help tree kernel kselftest coverage torture regress repro bench profile demo check check-fast \
	check-all lint matrix trees mutants export bisect mbox range-diff clean

help:		## show this list
	@echo 'Targets:'
	@sed -n 's/^\([a-z-]*\):[[:space:]]*## /\1\t/p' Makefile | \
		while IFS="$$(printf '\t')" read -r t d; do \
			printf '  %-10s %s\n' "$$t" "$$d"; done
	@echo 'Variables:'
	@echo '  KDIR=/path      your own 6.12.y git tree instead of Debian'\''s source'
	@echo '  CONFIG=bench    make kernel: the lean kernel (default: debug)'
	@echo '  MATRIX="memcg"  make matrix: only these configurations'
	@echo '  TREES=6.12.118  make trees: only these'
	@echo '  TESTS="a b"     make kselftest: only tests a and b, by name or as the TAP says'
	@echo '                  make regress: only these lines of scripts/regress/tests'
	@echo '  TRIPS=n         make kselftest: repeat the round trips n times'
	@echo '  SIZES="64k 2m"  make profile: these folio sizes (4k 16k 64k 1m 2m; default: 4k 2m)'
	@echo '  MINUTES=30      make torture: for how long (default: 10)'
	@echo '  SEED=n          make torture: the draws of the run that said this seed'
	@echo '  KINDS="fork write"  make torture: only these operations'
	@echo '  LOAD="stress-ng trinity"  make torture: with these beside it'
	@echo '  MUTANTS="a b"   make mutants: only these files of scripts/mutants'
	@echo '  PART=A          make mbox: build/part-A.mbox, one part with its own cover letter'
	@echo '  OLD=revision    make range-diff: of this repository; PART=A: only that part'

demo:		## migrate memory to a device and back in a VM, and show what moved
	@scripts/demo.sh

check:		## run every test, as CI does
	@scripts/check.sh

check-fast:	## lint, KUnit and the kselftest on the lean kernel
	@scripts/check-fast.sh

check-all:	## what takes too long for check: hours
	@scripts/check-all.sh

tree:		## build/linux: a git tree, one commit for the base, one a patch
	@scripts/tree.sh

kernel:		## build the kernel with the series (CONFIG=debug or bench)
	@scripts/kernel.sh "$${CONFIG:-debug}"

kselftest:	## run the kselftest in a VM
	@scripts/kselftest.sh

coverage:	## which lines of the new code do the tests run?
	@scripts/coverage.sh

torture:	## everything at once against a model that knows each byte, in a VM
	@scripts/torture.sh

regress:	## run the kernel's own mm selftests, stock against the series
	@scripts/regress.sh

repro:		## bugs of the base that a module shows: stock fails, the series does not
	@scripts/repro.sh

bench:		## measure the stock kernel against the series
	@scripts/bench/bench.sh

profile:	## in which functions the instructions of a trip are, of both kernels
	@scripts/bench/bench.sh --profile

lint:		## checkpatch, W=1, sparse, kernel-doc, shellcheck, mirrored files
	@scripts/lint.sh

matrix:		## compile with each of nine options off, for PREEMPT_RT and for arm64
	@scripts/matrix.sh $(MATRIX)

trees:		## apply the patches to every 6.12.y of Debian's, and compile
	@scripts/trees.sh

mutants:	## break the code on purpose and see that the kselftest notices
	@scripts/mutants.sh

export:		## write build/linux back to patches/, series and the mirrored files
	@scripts/export.sh

bisect:		## build every patch by itself, boot those that touch mm/
	@scripts/bisect.sh

mbox:		## build/series.mbox: the series with its cover letter, for b4
	@scripts/mbox.sh

range-diff:	## what changed in the patches since OLD, a revision of this repository
	@scripts/range-diff.sh

clean:		## remove build/, except what cannot be made again
	@scripts/clean.sh
