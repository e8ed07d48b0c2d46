#!/bin/sh
# Builds the test control plane, and the kube-proxy it is measured against.
#
# Usage: build.sh [DIRECTORY]
#
# Puts the programs controlplane and kube-proxy into DIRECTORY, by default
# target/controlplane of the checkout. Programs that are newer than everything
# they are made from are left alone: linking them takes several seconds even
# when nothing has to be compiled.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../target/controlplane}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$here"

# Succeeds if the program $1 is newer than each of the files that follow. The
# Go version is not looked at: go.mod names the one in use.
up_to_date() {
	program=$1
	shift
	[ -x "$program" ] && [ -z "$(find "$@" -newer "$program")" ]
}

# The components derive their version from these variables, which Kubernetes'
# own build sets; without them it does not parse. go.mod holds the version, so
# that it is written down once.
version=$(awk '$1 == "k8s.io/kubernetes" && $2 ~ /^v/ { print $2; exit }' go.mod)
major=${version#v}
major=${major%%.*}
minor=${version#v*.}
minor=${minor%%.*}
variables=k8s.io/component-base/version
ldflags="-s -w -X $variables.gitVersion=$version -X $variables.gitMajor=$major -X $variables.gitMinor=$minor"

build() {
	program=$1
	package=$2
	CGO_ENABLED=0 go build -trimpath -ldflags "$ldflags" -o "$program.new" "$package"
	# A running program cannot be written to, but it can be replaced.
	mv "$program.new" "$program"
	# go build takes over the time of a cached program.
	touch "$program"
}

if ! up_to_date "$out/kube-proxy" go.mod go.sum build.sh; then
	build "$out/kube-proxy" k8s.io/kubernetes/cmd/kube-proxy
fi
# Test files do not go into the program, and so need no new one.
sources=$(find . -name '*.go' ! -name '*_test.go')
# shellcheck disable=SC2086 # The names of sources have no spaces.
if ! up_to_date "$out/controlplane" go.mod go.sum build.sh $sources; then
	build "$out/controlplane" .
fi
