#!/bin/sh
# Runs a program of a Go module, building it once into the user's cache: for what is in no Debian.
#
# Usage: go-tool.sh PACKAGE VERSION ARGUMENT...
set -eu

package=$1 version=$2
shift 2
# The last part of the path that is no major version, as go install names it.
name=$(basename "${package%/v[0-9]}")
bin="${XDG_CACHE_HOME:-$HOME/.cache}/shunt-tools/bin"
if [ ! -x "$bin/$name-$version" ]; then
	mkdir -p "$bin"
	work=$(mktemp -d "$bin/$name.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	GOBIN="$work" CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "$package@$version" >&2
	mv "$work/$name" "$bin/$name-$version"
	rm -r "$work"
fi
exec "$bin/$name-$version" "$@"
