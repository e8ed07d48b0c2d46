#!/bin/sh
# Builds Flannel's daemon at the version that go.mod names.
#
# Usage: build.sh [DIRECTORY]
#
# Puts the program flanneld into DIRECTORY, by default target/controlplane of the
# checkout. One that is newer than everything it is made from is left alone.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../target/controlplane}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$here"

if [ -x "$out/flanneld" ] && [ -z "$(find go.mod go.sum build.sh tencentcloud -newer "$out/flanneld")" ]; then
	exit 0
fi
package=github.com/flannel-io/flannel
version=$(awk -v package="$package" '$1 == package { print $2; exit }' go.mod)
# Its UDP backend is written in C.
CGO_ENABLED=1 go build -trimpath -ldflags "-s -w -X $package/pkg/version.Version=$version" \
	-o "$out/flanneld.new" "$package"
mv "$out/flanneld.new" "$out/flanneld"
touch "$out/flanneld"
