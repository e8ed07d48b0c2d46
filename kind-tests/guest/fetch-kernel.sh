#!/bin/bash
# Fetches one of Debian's stock cloud kernels for QEMU, once, and makes what it boots from. Prints the
# directory with `vmlinuz`, `initrd` and `modules` as the last line of its output.
#
# Usage: fetch-kernel.sh 5.10|6.1 [--print]
#
# --print fetches nothing, and fails where the kernel is not there.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/apt.sh"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/shunt-tools"
series=${1:?usage: fetch-kernel.sh 5.10|6.1 [--print]}
case "$series" in
5.10) suite=bullseye ;;
6.1) suite=bookworm ;;
*)
	echo "fetch-kernel: there is 5.10 and 6.1, no $series" >&2
	exit 2
	;;
esac
# By what stands in the scripts, not by where the checkout is.
key=$(cat "$here/src/init-qemu.sh" "$here/fetch-kernel.sh" | sha256sum | cut -c 1-12)
directory="$cache/linux-cloud-$series-$key"
if [ -d "$directory" ]; then
	echo "$directory"
	exit 0
fi
if [ "${2:-}" = --print ]; then
	echo "fetch-kernel: no kernel $series in $cache; run $here/fetch-kernel.sh $series" >&2
	exit 1
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/linux-cloud.XXXXXX")
trap 'rm -rf "$work"' EXIT
make_apt "$work/apt" "$(debian_mirror main) $suite" "$(debian_mirror security) $suite-security"
package=$(dependency linux-image-cloud-amd64 linux-image-)
[ -n "$package" ] || { echo "fetch-kernel: $suite has no linux-image-cloud-amd64" >&2; exit 1; }
echo "fetch-kernel: fetching $package" >&2
(cd "$work" && our_apt apt-get download "$package")
dpkg-deb -x "$work"/linux-image-*.deb "$work/package"
version=$(ls "$work/package/lib/modules")
depmod -b "$work/package" "$version"

# The initial file system: busybox, the first process, and the modules that lead to the host's files.
tree="$work/tree"
mkdir -p "$tree/bin" "$tree/modules" "$tree/proc" "$tree/dev" "$tree/lower" "$tree/mnt" "$work/done"
cp /bin/busybox "$tree/bin/busybox"
install -m 755 "$here/src/init-qemu.sh" "$tree/init"
for module in virtio_pci virtiofs overlay; do
	modprobe -d "$work/package" -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' | while read -r file; do
	cp "$file" "$tree/modules/"
	basename "$file" >>"$tree/modules/order"
done
(cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/done/initrd"
mv "$work/package/boot/vmlinuz-$version" "$work/done/vmlinuz"
mv "$work/package/lib/modules/$version" "$work/done/modules"
mv -T "$work/done" "$directory" 2>/dev/null || [ -d "$directory" ] # Another may have been first.
echo "$directory"
