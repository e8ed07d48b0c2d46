#!/bin/bash
# Runs Debian's prometheus or promtool. Fetched once into the user's cache and not installed: the package would start a
# server on the machine.
#
# Usage: prometheus.sh prometheus|promtool ARGUMENT...
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/guest/apt.sh"
program=${1:?usage: prometheus.sh prometheus|promtool ARGUMENT...}
shift
cache="${XDG_CACHE_HOME:-$HOME/.cache}/shunt-tools"
directory="$cache/prometheus-bookworm"
if [ ! -x "$directory/$program" ]; then
	mkdir -p "$cache"
	work=$(mktemp -d "$cache/prometheus.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	make_apt "$work/apt" "$(debian_mirror main) bookworm" >&2
	(cd "$work" && our_apt apt-get download prometheus >&2)
	dpkg-deb -x "$work"/prometheus_*.deb "$work/package"
	mv -T "$work/package/usr/bin" "$directory" 2>/dev/null || [ -x "$directory/$program" ] # Another may have been first.
	rm -rf "$work"
fi
exec "$directory/$program" "$@"
