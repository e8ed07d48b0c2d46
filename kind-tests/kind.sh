#!/bin/sh
# Runs kind, building it once into the user's cache: it is in no Debian.
set -eu

VERSION=v0.30.0
bin="${XDG_CACHE_HOME:-$HOME/.cache}/shunt-tools/bin"
if [ ! -x "$bin/kind-$VERSION" ]; then
	GOBIN="$bin" go install "sigs.k8s.io/kind@$VERSION" >&2
	mv "$bin/kind" "$bin/kind-$VERSION"
fi
exec "$bin/kind-$VERSION" "$@"
