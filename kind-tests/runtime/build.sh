#!/bin/sh
# Builds a container runtime for tests: containerd with its shim, of the version that go.mod names, and the program
# that asks it as a kubelet does. runc is Debian's.
#
# Usage: build.sh [DIRECTORY]
#
# Puts them into DIRECTORY, by default target/runtime of the checkout.
set -eu

# shellcheck source=../go-build.sh
. "$(dirname "$0")/../go-build.sh"
begin runtime "$@"

# Without what needs libraries of C, and without what no pod needs.
tags=no_btrfs,no_zfs,no_devmapper,no_tracing
export CGO_ENABLED=0

containerd=github.com/containerd/containerd/v2/cmd
build containerd $containerd/containerd
build containerd-shim-runc-v2 $containerd/containerd-shim-runc-v2
# shellcheck disable=SC2046 # The names of sources have no spaces.
build runtime . $(find . -name '*.go')
