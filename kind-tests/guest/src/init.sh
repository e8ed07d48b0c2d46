#!/bin/sh
# The first process of a user-mode guest. Its root is the host's, and cannot be written to: an overlay
# of it becomes the root, so that everything can be, and the host sees nothing of it.
set -e
home=$1

mount -t proc proc /proc
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
mkdir -p "/mnt/root$home"
# What is written to hostfs is written on the host.
mount -t hostfs -o "$home" none "/mnt/root$home"
while IFS= read -r directory; do
	mount -t hostfs -o "$directory" none "/mnt/root$directory"
done <"$home/writable"

cd /mnt/root
# Not merely chroot: a process with another root than its namespace's may not make user namespaces.
pivot_root . mnt
exec chroot . /bin/sh "$home/second.sh" "$home" /dev/ttyS0 /dev/ttyS1
