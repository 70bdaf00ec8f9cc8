#!/usr/bin/busybox sh
# The first process of a test machine. It makes what a system has at its start, runs the suites and ends
# the machine. What it says for others to read begins with @@agentguard (see console.rs).

export PATH=/usr/sbin:/usr/bin:/usr/libexec/busybox HOME=/root TERM=dumb

say() { echo "@@agentguard $*"; }
# Seconds since the start, with two decimals.
now() { read -r up _ </proc/uptime; echo "$up"; }

# On the kernel's first root nothing can pivot. The same files, mounted on it, are a root as any other.
if [ "$1" != again ]; then
    busybox mkdir -p /again
    busybox mount --bind / /again
    cd /again && busybox mount --move . / && exec busybox chroot . /init again
fi

busybox mount -t proc proc /proc
busybox --install -s /usr/libexec/busybox
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
ln -sf /proc/self/fd /dev/fd
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/netns
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount --make-rshared /
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
hostname vm
ip link set lo up

while read -r module; do
    insmod "/vm/modules/$module.ko" || say without "$module"
done </vm/modules/order

say kernel "$(uname -r)" "$(uname -v)"
say lsm "$(cat /sys/kernel/security/lsm)"
say booted "$(now)"
. /vm/suites
# What the kernel had to warn of. A warning or an oops taints it: 512, 128.
say tainted "$(($(cat /proc/sys/kernel/tainted) & 640))"
dmesg -r | grep '^<[0-4]>'
say over "$(now)"
poweroff -f
