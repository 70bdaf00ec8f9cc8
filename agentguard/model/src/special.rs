//! Addresses that are not public: what a name may lead to only where a rule says so.
//!
//! Documentation ranges (RFC 5737, RFC 3849) are not among them: nothing is there to protect.
//!
//! - IPv4 inside IPv6 (mapped, compatible, NAT64, 6to4) is judged as the IPv4 address.
//! - A range that a rule names opens only the special range that it lies *inside* of: who writes
//!   `0.0.0.0/0` has not named the metadata service.
//!
//! **Invariant:** an address that no line of the tables names is public.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address is special.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Special {
    /// `0.0.0.0/8`, `::`: the host itself.
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// A cloud provider's metadata or credential service.
    Metadata,
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// RFC 1918, RFC 4193, and the deprecated site-local `fec0::/10`.
    Private,
    /// `100.64.0.0/10` (RFC 6598).
    CarrierNat,
    /// Multicast and broadcast.
    Multicast,
    /// The guard's own virtual addresses, and the rest of `198.18.0.0/15`.
    Virtual,
    /// Reserved by IETF (`192.0.0.0/24`, `240.0.0.0/4`, `100::/64`), or a tunnel whose end cannot
    /// be told (Teredo, the local NAT64 prefix of RFC 8215).
    Reserved,
}

impl Special {
    /// Whether no rule can permit it.
    #[must_use]
    pub const fn never_permitted(self) -> bool {
        matches!(self, Self::Virtual | Self::Multicast | Self::Unspecified)
    }

    /// Whether it is denied even where the mode denies nothing else.
    #[must_use]
    pub const fn hard(self) -> bool {
        self.never_permitted() || matches!(self, Self::Loopback | Self::Metadata)
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Metadata => "cloud metadata",
            Self::LinkLocal => "link-local",
            Self::Private => "private",
            Self::CarrierNat => "carrier NAT",
            Self::Multicast => "multicast",
            Self::Virtual => "virtual",
            Self::Reserved => "reserved",
        })
    }
}

const fn net4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn net6(segments: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// First match wins, so the narrow ones come first.
const SPECIAL4: [(Ipv4Net, Special); 21] = [
    // AWS, GCP, Azure, OpenStack, DigitalOcean, …
    (net4(169, 254, 169, 254, 32), Special::Metadata),
    // AWS task roles (ECS) and pod identities (EKS).
    (net4(169, 254, 170, 2, 32), Special::Metadata),
    (net4(169, 254, 170, 23, 32), Special::Metadata),
    // Alibaba Cloud.
    (net4(100, 100, 100, 200, 32), Special::Metadata),
    // Azure's platform services.
    (net4(168, 63, 129, 16, 32), Special::Metadata),
    // Oracle Cloud.
    (net4(192, 0, 0, 192, 32), Special::Metadata),
    // Tencent Cloud, Scaleway.
    (net4(169, 254, 0, 23, 32), Special::Metadata),
    (net4(169, 254, 42, 42, 32), Special::Metadata),
    (net4(0, 0, 0, 0, 8), Special::Unspecified),
    (net4(127, 0, 0, 0, 8), Special::Loopback),
    (net4(169, 254, 0, 0, 16), Special::LinkLocal),
    (net4(10, 0, 0, 0, 8), Special::Private),
    (net4(172, 16, 0, 0, 12), Special::Private),
    (net4(192, 168, 0, 0, 16), Special::Private),
    (net4(100, 64, 0, 0, 10), Special::CarrierNat),
    (net4(198, 18, 0, 0, 15), Special::Virtual),
    (net4(224, 0, 0, 0, 4), Special::Multicast),
    (net4(255, 255, 255, 255, 32), Special::Multicast),
    (net4(192, 0, 0, 0, 24), Special::Reserved),
    (net4(192, 88, 99, 0, 24), Special::Reserved),
    (net4(240, 0, 0, 0, 4), Special::Reserved),
];

/// As [`SPECIAL4`]; what embeds IPv4 is unwrapped before this is asked.
const SPECIAL6: [(Ipv6Net, Special); 17] = [
    // AWS: metadata and pod identities.
    (
        net6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
        Special::Metadata,
    ),
    (
        net6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128),
        Special::Metadata,
    ),
    // GCP.
    (
        net6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
        Special::Metadata,
    ),
    // Scaleway.
    (
        net6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
        Special::Metadata,
    ),
    // OpenStack.
    (
        net6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
        Special::Metadata,
    ),
    // The first of IPv4 behind the translators' local prefix (RFC 8215).
    (
        net6([0x64, 0xff9b, 1, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
        Special::Metadata,
    ),
    (net6([0, 0, 0, 0, 0, 0, 0, 0], 128), Special::Unspecified),
    (net6([0, 0, 0, 0, 0, 0, 0, 1], 128), Special::Loopback),
    (
        net6([0xfd41, 0x6775, 0x6172, 0x6400, 0, 0, 0, 0], 64),
        Special::Virtual,
    ),
    (net6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Special::LinkLocal),
    (net6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Special::Private),
    (net6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Special::Private),
    (net6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Special::Multicast),
    (
        net6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
        Special::Reserved,
    ),
    (net6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Special::Reserved),
    (net6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), Special::Reserved),
    // Benchmarking, the IPv6 counterpart of 198.18.0.0/15 (RFC 5180).
    (net6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), Special::Reserved),
];

/// The special range that `ip` lies in.
#[must_use]
pub fn special(ip: IpAddr) -> Option<(IpNet, Special)> {
    match ip {
        IpAddr::V4(v4) => special4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => special4(v4),
            None => SPECIAL6
                .iter()
                .find(|(net, _)| net.contains(&v6))
                .map(|(net, special)| (IpNet::V6(*net), *special)),
        },
    }
}

fn special4(v4: Ipv4Addr) -> Option<(IpNet, Special)> {
    SPECIAL4
        .iter()
        .find(|(net, _)| net.contains(&v4))
        .map(|(net, special)| (IpNet::V4(*net), *special))
}

/// The IPv4 address that an IPv6 address leads to: mapped (RFC 4291 §2.5.5.2), compatible
/// (§2.5.5.1), translated (RFC 2765 §2.1), NAT64's well-known prefix (RFC 6052), 6to4 (RFC 3056).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = v6.to_bits();
    let low = Ipv4Addr::from_bits(u32::try_from(bits & 0xffff_ffff).ok()?);
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(low),
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, ..] if bits > 1 => Some(low),
        [0x2002, high, middle, ..] => Some(Ipv4Addr::from_bits(
            (u32::from(high) << 16) | u32::from(middle),
        )),
        _ => None,
    }
}

/// The ranges of cloud metadata services, as they are written: not the forms of IPv6 that lead to those of IPv4.
pub fn metadata() -> impl Iterator<Item = IpNet> {
    let is_metadata = |special: Special| special == Special::Metadata;
    let v4 = SPECIAL4.iter().filter(move |(_, why)| is_metadata(*why));
    let v6 = SPECIAL6.iter().filter(move |(_, why)| is_metadata(*why));
    let v4 = v4.map(|(net, _)| IpNet::V4(*net));
    v4.chain(v6.map(|(net, _)| IpNet::V6(*net)))
}

/// Whether an address is public, or one of the ranges opens it: it holds the address, or the IPv4 address that
/// this leads to, and lies inside the special range that the address is in.
#[must_use]
pub fn is_opened(ip: IpAddr, ranges: &[IpNet]) -> bool {
    let Some((special, why)) = special(ip) else {
        return true;
    };
    let v4 = match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => embedded(v6).map(IpAddr::V4),
    };
    let holds = |net: &IpNet| net.contains(&ip) || v4.is_some_and(|v4| net.contains(&v4));
    !why.never_permitted() && ranges.iter().any(|net| special.contains(net) && holds(net))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn special_ranges_in_every_spelling() {
        for (text, expected) in [
            ("192.0.2.1", None),
            ("198.51.100.1", None),
            ("203.0.113.255", None),
            ("2001:db8::1", None),
            ("1.1.1.1", None),
            ("2606:4700::1111", None),
            ("172.15.255.255", None),
            ("172.32.0.1", None),
            ("198.17.255.255", None),
            ("198.20.0.0", None),
            ("10.0.0.1", Some(Special::Private)),
            ("172.16.0.1", Some(Special::Private)),
            ("172.31.255.255", Some(Special::Private)),
            ("192.168.1.1", Some(Special::Private)),
            ("fd00::1", Some(Special::Private)),
            ("fec0::1", Some(Special::Private)),
            ("127.0.0.1", Some(Special::Loopback)),
            ("127.255.255.255", Some(Special::Loopback)),
            ("::1", Some(Special::Loopback)),
            ("0.0.0.0", Some(Special::Unspecified)),
            ("0.1.2.3", Some(Special::Unspecified)),
            ("::", Some(Special::Unspecified)),
            ("169.254.0.1", Some(Special::LinkLocal)),
            ("fe80::1", Some(Special::LinkLocal)),
            ("100.64.0.1", Some(Special::CarrierNat)),
            ("100.127.255.255", Some(Special::CarrierNat)),
            ("169.254.169.254", Some(Special::Metadata)),
            ("169.254.170.2", Some(Special::Metadata)),
            ("100.100.100.200", Some(Special::Metadata)),
            ("168.63.129.16", Some(Special::Metadata)),
            ("192.0.0.192", Some(Special::Metadata)),
            ("fd00:ec2::254", Some(Special::Metadata)),
            ("fd20:ce::254", Some(Special::Metadata)),
            ("fd00:42::42", Some(Special::Metadata)),
            ("169.254.0.23", Some(Special::Metadata)),
            ("fe80::a9fe:a9fe", Some(Special::Metadata)),
            ("64:ff9b:1::a9fe:a9fe", Some(Special::Metadata)),
            ("224.0.0.1", Some(Special::Multicast)),
            ("255.255.255.255", Some(Special::Multicast)),
            ("ff02::1", Some(Special::Multicast)),
            ("198.18.0.1", Some(Special::Virtual)),
            ("198.19.255.255", Some(Special::Virtual)),
            ("fd41:6775:6172:6400::1", Some(Special::Virtual)),
            ("fd41:6775:6172:6401::1", Some(Special::Private)),
            ("240.0.0.1", Some(Special::Reserved)),
            ("2001::1", Some(Special::Reserved)),
            ("64:ff9b:1::a00:1", Some(Special::Reserved)),
            ("::ffff:127.0.0.1", Some(Special::Loopback)),
            ("::ffff:203.0.113.1", None),
            ("::127.0.0.1", Some(Special::Loopback)),
            ("::2", Some(Special::Unspecified)),
            ("64:ff9b::169.254.169.254", Some(Special::Metadata)),
            ("64:ff9b::203.0.113.1", None),
            ("::ffff:0:127.0.0.1", Some(Special::Loopback)),
            ("::ffff:0:203.0.113.1", None),
            ("2002:7f00:1::1", Some(Special::Loopback)),
            ("2002:cb00:7101::1", None),
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(special(ip).map(|(_, why)| why), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn embedding_never_hides_an_address(octets: [u8; 4]) {
            let v4 = Ipv4Addr::from(octets);
            let direct = special(IpAddr::V4(v4)).map(|(_, why)| why);
            let bits = u128::from(v4.to_bits());
            for v6 in [
                Ipv6Addr::from_bits((0xffff_u128 << 32) | bits),
                Ipv6Addr::from_bits((0x0064_ff9b_u128 << 96) | bits),
                Ipv6Addr::from_bits((0x2002_u128 << 112) | (bits << 80) | 1),
            ] {
                prop_assert_eq!(special(IpAddr::V6(v6)).map(|(_, why)| why), direct, "{}", v6);
            }
        }
    }
}
