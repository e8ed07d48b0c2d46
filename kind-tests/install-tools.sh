#!/bin/sh
# Installs the Debian packages that the tests read the kernel with, where they are missing.
# The daemon and `make demo` need none of them.
set -eu

missing=""
need() { # COMMAND PACKAGE
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need nft nftables
need conntrack conntrack
need setpriv util-linux
need ip iproute2
need cc gcc

[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "install-tools: missing:$missing; install them as root (apt-get install$missing)" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing
