#!/bin/busybox sh
# The first process of a guest in QEMU, in its initial file system. The host's files come by virtiofs;
# an overlay of them becomes the root, as in init.sh.
set -e
busybox() { /bin/busybox "$@"; }
busybox mount -t proc proc /proc
busybox mount -t devtmpfs devtmpfs /dev
while read -r module; do
	busybox insmod "/modules/$module"
done </modules/order
for word in $(busybox cat /proc/cmdline); do
	case "$word" in
	guest.home=*) home=${word#*=} ;;
	guest.modules=*) modules=${word#*=} ;;
	esac
done

busybox mount -t virtiofs root /lower
busybox mount -t tmpfs tmpfs /mnt
busybox mkdir /mnt/upper /mnt/work /mnt/root
busybox mount -t overlay -o lowerdir=/lower,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
busybox mkdir -p "/mnt/root$home"
busybox mount -o bind "/lower$home" "/mnt/root$home"
while IFS= read -r directory; do
	busybox mount -o bind "/lower$directory" "/mnt/root$directory"
done <"/mnt/root$home/writable"
# What is not there yet is loaded by the kernel through the host's modprobe.
version=$(busybox uname -r)
busybox mkdir -p "/mnt/root/lib/modules/$version"
busybox mount -o bind "/lower$modules" "/mnt/root/lib/modules/$version"
exec /bin/busybox switch_root /mnt/root /bin/sh "$home/second.sh" "$home" "$home/stdout" "$home/stderr"
