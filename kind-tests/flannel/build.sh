#!/bin/sh
# Builds Flannel's daemon at the version that go.mod names.
#
# Usage: build.sh [DIRECTORY]
#
# Puts the program flanneld into DIRECTORY, by default target/controlplane of the checkout.
set -eu

# shellcheck source=../go-build.sh
. "$(dirname "$0")/../go-build.sh"
begin controlplane "$@"

package=github.com/flannel-io/flannel
version=$(awk -v package="$package" '$1 == package { print $2; exit }' go.mod)
ldflags="-X $package/pkg/version.Version=$version"
# Its UDP backend is written in C.
export CGO_ENABLED=1

build flanneld "$package" tencentcloud
