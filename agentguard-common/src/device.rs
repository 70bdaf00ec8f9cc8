//! Devices that send what no socket sent, or do in other programs' places what an agent may not do.
//!
//! Numbers as in the kernel's `Documentation/admin-guide/devices.txt`; none of these is given out anew.

/// Whether agents do not get a character device.
#[must_use]
pub const fn is_way_out(major: u32, minor: u32) -> bool {
    matches!(
        (major, minor),
        (MEMORY, 1 | 2 | 4)
            | (MISC, 137 | 196 | 200 | 223 | 235 | 238..=241)
            | (PPP, 0)
            | (INFINIBAND, _)
    )
}

/// What the device is called that [`is_way_out`] names, as it lies in `/dev`.
#[must_use]
pub const fn name(major: u32, minor: u32) -> Option<&'static str> {
    Some(match (major, minor) {
        (MEMORY, 1) => "/dev/mem",
        (MEMORY, 2) => "/dev/kmem",
        (MEMORY, 4) => "/dev/port",
        (MISC, 137) => "/dev/vhci",
        (MISC, 196) => "/dev/vfio/vfio",
        (MISC, 200) => "/dev/net/tun",
        (MISC, 223) => "/dev/uinput",
        (MISC, 235) => "/dev/autofs",
        (MISC, 238) => "/dev/vhost-net",
        (MISC, 239) => "/dev/uhid",
        (MISC, 240) => "/dev/userio",
        (MISC, 241) => "/dev/vhost-vsock",
        (PPP, 0) => "/dev/ppp",
        (INFINIBAND, _) => "/dev/infiniband",
        _ => return None,
    })
}

/// The machine's memory and I/O ports.
const MEMORY: u32 = 1;
/// Miscellaneous devices.
const MISC: u32 = 10;
/// Network devices over a serial line, or over whatever a program says.
const PPP: u32 = 108;
/// Remote memory, which leaves the host without a socket.
const INFINIBAND: u32 = 231;

#[cfg(test)]
mod tests {
    use super::{is_way_out, name};

    #[test]
    fn each_device_that_is_refused_has_a_name() {
        for major in 0..300 {
            for minor in 0..300 {
                assert_eq!(is_way_out(major, minor), name(major, minor).is_some());
            }
        }
    }

    #[test]
    fn what_every_program_opens_is_not_among_them() {
        // null, zero, full, random, urandom, tty, ptmx, fuse, kvm, the first terminal, a graphics card.
        for (major, minor) in [
            (1, 3),
            (1, 5),
            (1, 7),
            (1, 8),
            (1, 9),
            (5, 0),
            (5, 2),
            (10, 229),
            (10, 232),
            (136, 0),
            (195, 0),
            (226, 128),
        ] {
            assert!(!is_way_out(major, minor), "{major}:{minor}");
        }
    }
}
