#!/bin/sh
# Installs the Debian packages that the tests read the kernel with, where they are missing, and builds
# the guest's kernel.
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
need iptables iptables
need cc gcc
need ipvsadm ipvsadm
need ipset ipset
need buildah buildah
need shellcheck shellcheck
# For the guest's kernel; the rest is in every Debian.
need make make
need flex flex
need bison bison
need bc bc
need xz xz-utils
need qemu-system-x86_64 qemu-system-x86
[ -x /usr/lib/qemu/virtiofsd ] || missing="$missing qemu-system-common"
[ -x /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
[ -x /usr/sbin/bird ] || missing="$missing bird2"
need wg wireguard-tools
need ethtool ethtool
need busybox busybox-static
# Runs the containers of the real containerd.
need runc runc
need modprobe kmod

if [ -n "$missing" ] && [ "$(id -u)" != 0 ]; then
	echo "install-tools: missing:$missing; install them as root (apt-get install$missing)" >&2
	exit 1
fi
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086
	apt-get install -y -qq --no-install-recommends $missing
fi
# Not installed: only fetched.
"$(dirname "$0")/prometheus.sh" promtool --version >/dev/null 2>&1
# Minutes, once.
guest="$(dirname "$0")/guest"
"$guest/build-kernel.sh"
"$guest/fetch-kernel.sh" 6.1
"$guest/fetch-kernel.sh" 5.10
