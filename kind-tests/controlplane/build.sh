#!/bin/sh
# Builds the test control plane, and the kube-proxy it is measured against.
#
# Usage: build.sh [DIRECTORY]
#
# Puts the programs controlplane and kube-proxy into DIRECTORY, by default target/controlplane of the checkout.
set -eu

# shellcheck source=../go-build.sh
. "$(dirname "$0")/../go-build.sh"
begin controlplane "$@"

# The components derive their version from these variables, which Kubernetes' own build sets; without them it does not
# parse. go.mod holds the version, so that it is written down once.
version=$(awk '$1 == "k8s.io/kubernetes" && $2 ~ /^v/ { print $2; exit }' go.mod)
major=${version#v}
major=${major%%.*}
minor=${version#v*.}
minor=${minor%%.*}
variables=k8s.io/component-base/version
ldflags="-X $variables.gitVersion=$version -X $variables.gitMajor=$major -X $variables.gitMinor=$minor"
export CGO_ENABLED=0

build kube-proxy k8s.io/kubernetes/cmd/kube-proxy
# Test files do not go into the program, and so need no new one.
# shellcheck disable=SC2046 # The names of sources have no spaces.
build controlplane . $(find . -name '*.go' ! -name '*_test.go')
