#!/bin/sh
# Runs kustomize, building it once into the user's cache: it is in no Debian.
set -eu

VERSION=v5.7.1
bin="${XDG_CACHE_HOME:-$HOME/.cache}/shunt-tools/bin"
if [ ! -x "$bin/kustomize-$VERSION" ]; then
	GOBIN="$bin" go install "sigs.k8s.io/kustomize/kustomize/v5@$VERSION" >&2
	mv "$bin/kustomize" "$bin/kustomize-$VERSION"
fi
exec "$bin/kustomize-$VERSION" "$@"
