#!/bin/sh
# Tests must leave nothing behind: no network namespace, no process of ours, no nftables table,
# no device. `record` notes what is there, `compare` fails if there is more.
set -eu

cd "$(dirname "$0")/.."
record=target/leftovers

list() {
	for process in /proc/[0-9]*; do
		readlink "$process/ns/net" 2>/dev/null || true
	done | sort -u | sed 's/^/namespace /'
	ls /run/netns 2>/dev/null | sed 's/^/named namespace /'
	ls /sys/class/net | sed 's/^/device /'
	nft list tables 2>/dev/null | sed 's/^/nftables /'
	for process in /proc/[0-9]*; do
		name=$(cat "$process/comm" 2>/dev/null) || continue
		case "$name" in
		shunt | controlplane | kube-proxy | containerd | containerd-shim | linux-um-* | qemu-system-x86 | virtiofsd) echo "process $name ${process#/proc/}" ;;
		esac
	done
}

mkdir -p target
case "${1:-}" in
record) list >"$record" ;;
compare)
	list >"$record.now"
	if left=$(grep -vxF -f "$record" "$record.now"); then
		echo "left behind by the tests:" >&2
		echo "$left" >&2
		exit 1
	fi
	echo "nothing left behind"
	;;
*)
	echo "usage: leftovers.sh record|compare" >&2
	exit 2
	;;
esac
