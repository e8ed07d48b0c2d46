#!/bin/sh
# Runs cargo-deny, building it once into the user's cache where it is missing.
set -eu

VERSION=0.20.2
if command -v cargo-deny >/dev/null 2>&1; then
	exec cargo-deny "$@"
fi
root="${XDG_CACHE_HOME:-$HOME/.cache}/shunt-tools"
if [ ! -x "$root/bin/cargo-deny" ]; then
	cargo install --quiet --locked --root "$root" --version "$VERSION" cargo-deny
fi
exec "$root/bin/cargo-deny" "$@"
