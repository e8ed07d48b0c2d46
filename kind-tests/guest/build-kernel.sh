#!/bin/bash
# Builds the guest's kernel, user-mode Linux, from Debian's linux-source package, once: about ten
# minutes of CPU. Prints the path of the binary as the last line of its output.
#
# Usage: build-kernel.sh [--print]
#
# --print builds nothing, and fails where no binary fits the configuration and the compiler.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/apt.sh"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/shunt-tools"
config="$here/kernel.config"
compiler=$(cc --version | head -n 1)
key=$( (cat "$config"; echo "$compiler") | sha256sum | cut -c 1-12)

built() { # Prints the newest binary for this configuration and compiler.
	find "$cache" -maxdepth 1 -name "linux-um-*-$key" -perm -u+x 2>/dev/null | sort -V | tail -n 1 || true
}

finish() {
	echo "$1"
	exit 0
}

binary=$(built)
[ -z "$binary" ] || finish "$binary"
if [ "${1:-}" = --print ]; then
	echo "build-kernel: no guest kernel for $config and $compiler in $cache; run $here/build-kernel.sh" >&2
	exit 1
fi

mkdir -p "$cache"
exec 9>"$cache/linux-um.lock"
flock 9 # One build at a time; who waited finds what the other built.
binary=$(built)
[ -z "$binary" ] || finish "$binary"

work=$(mktemp -d "$cache/linux-um-build.XXXXXX")
trap 'rm -rf "$work"' EXIT

mirror=$(debian_mirror main)
make_apt "$work/apt" "$mirror trixie-backports" "$mirror forky"
package=$(dependency linux-source linux-source-)
[ -n "$package" ] || { echo "build-kernel: $mirror has no linux-source" >&2; exit 1; }
echo "build-kernel: fetching $package" >&2
(cd "$work" && our_apt apt-get download "$package")
deb=$(find "$work" -maxdepth 1 -name 'linux-source-*.deb')
version=$(dpkg-deb -f "$deb" Version)

dpkg-deb -x "$deb" "$work/package"
mkdir "$work/source" "$work/build"
tar -C "$work/source" --strip-components=1 -xf "$work"/package/usr/src/linux-source-*.tar.xz
rm -r "$work/package" "$deb"

run_make() { make -s -C "$work/source" ARCH=um O="$work/build" "$@" >&2; }
run_make KCONFIG_ALLCONFIG="$config" allnoconfig
lost=$(grep -E '^CONFIG_|is not set$' "$config" | grep -vxF -f "$work/build/.config" || true)
if [ -n "$lost" ]; then
	printf 'build-kernel: %s does not know, or refuses:\n%s\n' "$version" "$lost" >&2
	exit 1
fi
echo "build-kernel: compiling $version" >&2
run_make -j"$(nproc)" linux
strip "$work/build/linux"
binary="$cache/linux-um-$version-$key"
mv "$work/build/linux" "$binary"
finish "$binary"
