# The guest's first process, once its root is in place: makes what a running system has, runs the
# job, leaves its status and turns the machine off.
# Arguments: the guest's home, where standard output and standard error go.
set -e
home=$1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb

umount -l /mnt 2>/dev/null || true
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
ip link set lo up
# «(none)» is no name that an API server may have.
echo guest >/proc/sys/kernel/hostname
for output in "$2" "$3"; do
	# A terminal would write CR LF.
	if [ -c "$output" ]; then stty -F "$output" raw -echo; fi
done

status=0
sh "$home/job.sh" </dev/null >>"$2" 2>>"$3" || status=$?
echo "$status" >"$home/status"
sync
echo o >/proc/sysrq-trigger
exec sleep 60
