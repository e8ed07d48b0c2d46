#!/bin/sh
# Builds a container runtime for tests: containerd with its shim, of the version that go.mod names, and the program
# that asks it as a kubelet does. runc is Debian's.
#
# Usage: build.sh [DIRECTORY]
#
# Puts them into DIRECTORY, by default target/runtime of the checkout. Programs that are newer than everything they are
# made from are left alone.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../target/runtime}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$here"

build() { # PROGRAM PACKAGE SOURCE...
	program=$out/$1
	package=$2
	shift 2
	[ ! -x "$program" ] || [ -n "$(find "$@" -newer "$program")" ] || return 0
	# Without what needs libraries of C, and without what no pod needs.
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -tags "no_btrfs no_zfs no_devmapper no_tracing" \
		-o "$program.new" "$package"
	# A running program cannot be written to, but it can be replaced.
	mv "$program.new" "$program"
	# go build takes over the time of a cached program.
	touch "$program"
}

containerd=github.com/containerd/containerd/v2/cmd
build containerd $containerd/containerd go.mod go.sum build.sh
build containerd-shim-runc-v2 $containerd/containerd-shim-runc-v2 go.mod go.sum build.sh
# shellcheck disable=SC2046 # The names of sources have no spaces.
build runtime . go.mod go.sum build.sh $(find . -name '*.go')
