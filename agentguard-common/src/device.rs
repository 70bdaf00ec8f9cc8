//! Devices that send what no socket sent, or do in other programs' places what an agent may not do.
//!
//! Numbers as in the kernel's `Documentation/admin-guide/devices.txt`; none of these is given out anew.
//! What has no number there gets one when its driver starts, on each host another: those are looked up by
//! the driver's name ([`DYNAMIC`]) and are in the map `DEVICES`.

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

/// A character device whose number is in `DEVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct DeviceKey {
    /// The major number.
    pub major: u32,
    /// The minor number, or [`ANY_MINOR`].
    pub minor: u32,
}

/// All minor numbers of a major one.
pub const ANY_MINOR: u32 = u32::MAX;

/// What `DEVICES` can hold: a driver can have several major numbers.
pub const MOST_DYNAMIC: usize = 256;

/// Which list of the kernel's has a driver's number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum List {
    /// `/proc/misc`: a minor number of the miscellaneous devices.
    Misc,
    /// `/proc/devices`: a major number.
    Major,
}

/// Drivers that are refused and have another number on each host: the list, the name there, and what their
/// devices are called. The value in `DEVICES` is the place in here, counted from 1.
pub const DYNAMIC: [(List, &str, &str); 11] = [
    (List::Misc, "rdma_cm", "/dev/infiniband/rdma_cm"),
    (List::Misc, "iommu", "/dev/iommu"),
    (List::Major, "macvtap", "/dev/tap (macvtap)"),
    (List::Major, "ipvtap", "/dev/tap (ipvtap)"),
    (List::Major, "vfio", "/dev/vfio"),
    (List::Major, "vfio-dev", "/dev/vfio/devices"),
    (List::Major, "vhost-vdpa", "/dev/vhost-vdpa"),
    (List::Major, "uio", "/dev/uio"),
    (List::Major, "infiniband_verbs", "/dev/infiniband/uverbs"),
    (List::Major, "infiniband_mad", "/dev/infiniband/umad"),
    (List::Major, "infiniband_cm", "/dev/infiniband/ucm"),
];

/// What the devices of a driver in [`DYNAMIC`] are called, by its place there, counted from 1.
#[must_use]
pub fn dynamic_name(place: u16) -> Option<&'static str> {
    let place = usize::from(place).checked_sub(1)?;
    DYNAMIC.get(place).map(|(_, _, name)| *name)
}

/// The number that miscellaneous devices have in common.
pub const MISC_MAJOR: u32 = MISC;

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
    use super::{dynamic_name, is_way_out, name};

    #[test]
    fn a_driver_is_known_by_its_place() {
        assert_eq!(dynamic_name(0), None);
        assert_eq!(dynamic_name(1), Some("/dev/infiniband/rdma_cm"));
        assert_eq!(dynamic_name(3), Some("/dev/tap (macvtap)"));
        assert_eq!(dynamic_name(u16::MAX), None);
    }

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
