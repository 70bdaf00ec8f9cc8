//! An IP address as both sides compare it.

/// An IPv6 address, or an IPv4 address in its v4-mapped form (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2),
/// as four 32-bit words whose memory is in network order.
///
/// Words rather than bytes: the kernel hands addresses out as `u32` loads, and the verifier refuses
/// other widths on some context fields.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Address(pub [u32; 4]);

/// First word of the virtual IPv6 prefix `fd41:6775:6172:6400::/64`, in host order.
const VIRTUAL6_HIGH: u32 = 0xfd41_6775;
/// Second word of the virtual IPv6 prefix, in host order.
const VIRTUAL6_LOW: u32 = 0x6172_6400;
/// The virtual IPv4 range `198.18.0.0/15` (RFC 2544, reserved for benchmarking), in host order.
const VIRTUAL4: u32 = 0xc612_0000;
/// The mask of the virtual IPv4 range, in host order.
const VIRTUAL4_MASK: u32 = 0xfffe_0000;

impl Address {
    /// `::`, which stands for "no address" in map values.
    pub const UNSPECIFIED: Self = Self([0; 4]);
    /// `::1`.
    pub const LOOPBACK6: Self = Self([0, 0, 0, 1u32.to_be()]);
    /// `127.0.0.1`, v4-mapped.
    pub const LOOPBACK4: Self = Self::from_v4_word(0x7f00_0001u32.to_be());

    /// From an IPv4 address as one word in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, 0x0000_ffffu32.to_be(), word])
    }

    /// From 16 octets in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// As 16 octets in network order.
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let (a, b, c, d) = (
            a.to_ne_bytes(),
            b.to_ne_bytes(),
            c.to_ne_bytes(),
            d.to_ne_bytes(),
        );
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0x0000_ffffu32.to_be()
    }

    /// Whether this is `0.0.0.0` or `::`. The kernel takes a connect to either as one to loopback.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0
            && self.0[1] == 0
            && self.0[3] == 0
            && (self.0[2] == 0 || self.0[2] == 0x0000_ffffu32.to_be())
    }

    /// Whether packets to this address stay on this host's loopback: `127.0.0.0/8`, `::1`, or the
    /// unspecified address of either family.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        (self.is_v4() && u32::from_be(self.0[3]) >> 24 == 127)
            || (self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1u32.to_be())
            || self.is_unspecified()
    }

    /// Whether this lies in one of the two ranges from which names get their virtual addresses.
    #[inline(always)]
    #[must_use]
    pub const fn is_virtual(self) -> bool {
        (self.is_v4() && u32::from_be(self.0[3]) & VIRTUAL4_MASK == VIRTUAL4)
            || (self.0[0] == VIRTUAL6_HIGH.to_be() && self.0[1] == VIRTUAL6_LOW.to_be())
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Self::from_octets(v4.to_ipv6_mapped().octets()),
            core::net::IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    /// A mapped address comes back as the IPv4 address it stands for.
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::Address;
    use core::net::{IpAddr, Ipv6Addr};
    use proptest::prelude::*;

    #[test]
    fn loopback_covers_every_way_to_say_it() {
        for (text, loopback) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("0.0.0.0", true),
            ("::", true),
            ("::1", true),
            ("::2", false),
            ("128.0.0.1", false),
            ("10.0.0.1", false),
            ("fd00::1", false),
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn virtual_ranges_end_where_they_should() {
        for (text, virtual_) in [
            ("198.17.255.255", false),
            ("198.18.0.0", true),
            ("198.19.255.255", true),
            ("198.20.0.0", false),
            ("fd41:6775:6172:6400::1", true),
            ("fd41:6775:6172:6401::1", false),
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).is_virtual(), virtual_, "{text}");
        }
    }

    proptest! {
        #[test]
        fn v4_and_its_mapped_form_are_one_address(octets: [u8; 4]) {
            let v4 = core::net::Ipv4Addr::from(octets);
            prop_assert_eq!(
                Address::from(IpAddr::V4(v4)),
                Address::from(IpAddr::V6(v4.to_ipv6_mapped()))
            );
            prop_assert_eq!(IpAddr::from(Address::from(IpAddr::V4(v4))), IpAddr::V4(v4));
        }

        #[test]
        fn octets_round_trip(octets: [u8; 16]) {
            prop_assert_eq!(Address::from_octets(octets).octets(), octets);
            let ip = IpAddr::V6(Ipv6Addr::from(octets)).to_canonical();
            prop_assert_eq!(IpAddr::from(Address::from(ip)), ip);
        }
    }
}
