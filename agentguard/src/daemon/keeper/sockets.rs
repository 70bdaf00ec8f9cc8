//! UNIX sockets of programs that would do for an agent what it may not do itself.
//!
//! What is listed is what its daemon calls it: the kernel compares the name that the listening socket was
//! bound to, whatever path led there. The guard's own control socket is not listed: it refuses governed
//! processes itself, and says so.

/// Paths for the socket itself and all below, or with an `*` for all that begins so; what an agent made
/// itself is open to it. `/run/` stands for `/var/run/` too.
pub(super) const REFUSED: &[&str] = &[
    // Containers: whoever reaches one of these is root of the host.
    "/run/docker*",
    "/run/containerd",
    "/run/podman",
    "/run/crio",
    "/run/cri-dockerd.sock",
    "/run/buildkit",
    "/run/k3s",
    "/var/lib/lxd/unix.socket",
    "/var/lib/incus/unix.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/snap/docker/common/run/docker.sock",
    // Virtual machines.
    "/run/libvirt",
    // Services, and what is asked of them over D-Bus: systemd-run starts anything, anywhere.
    "/run/dbus",
    "/run/systemd/private",
    "/run/systemd/notify",
    "/run/systemd/io.systemd*",
    "/run/systemd/io.system.*",
    "/run/systemd/machine",
    "/run/systemd/userdb",
    "/run/udev/control",
    "/run/snapd*",
    "/run/supervisor.sock",
    "/run/supervisor",
    // Name services: questions would leave the host by them, past the guard's resolver.
    "/run/systemd/resolve/io.systemd*",
    "/run/nscd",
    "/run/avahi-daemon",
    // Sessions: buses, the user's systemd, keys.
    "/run/user",
    "/tmp/dbus-*",
    // tmux, screen and X run what is typed into them from outside.
    "/tmp/tmux-*",
    "/run/screen",
    "/tmp/.X11-unix",
];
