//! Which resolved addresses may be dialled: the rebinding guard.
//!
//! A name that the policy allows is a name that somebody else's server gives addresses to. Where
//! such an address lies in a special range (private, loopback, metadata, …), the name is a handle
//! on the host's own surroundings, and the address is denied unless a rule for the name names the
//! range. Documentation ranges (RFC 5737, RFC 3849) are not special: nothing is there to protect.
//!
//! - A permitted range counts only if it lies *inside* the special range the address is in: who
//!   writes `0.0.0.0/0` has not named the metadata service.
//! - IPv4 inside IPv6 (mapped, compatible, NAT64, 6to4) is judged as the IPv4 address.
//! - Our own virtual ranges, multicast and the unspecified address are denied whatever is
//!   permitted: nothing real can be there.
//!
//! **Invariant:** pure; an address that no line of the tables names is public.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agentguard_model::{HostName, Reason, ReasonCode};
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
const SPECIAL4: [(Ipv4Net, Special); 19] = [
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
const SPECIAL6: [(Ipv6Net, Special); 14] = [
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

/// What of a name's addresses may be used.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Examined {
    /// These, each in its one form (a mapped address as IPv4), without repetition.
    pub fine: Vec<IpAddr>,
    /// These not.
    pub denied: Vec<(IpAddr, Special)>,
    /// Of the fine ones, those that pass only because the mode denies nothing that is not hard.
    pub unenforced: Vec<(IpAddr, Special)>,
}

/// Sorts addresses into what may be used and what not.
#[must_use]
pub fn examine(
    addresses: impl IntoIterator<Item = IpAddr>,
    permitted: &[IpNet],
    observing: bool,
) -> Examined {
    let mut examined = Examined::default();
    for ip in addresses {
        let ip = ip.to_canonical();
        if examined.fine.contains(&ip) {
            continue;
        }
        match special(ip) {
            None => {}
            Some((range, why)) => {
                let v4 = match ip {
                    IpAddr::V4(_) => None,
                    IpAddr::V6(v6) => embedded(v6).map(IpAddr::V4),
                };
                let named = permitted.iter().any(|net| {
                    range.contains(net)
                        && (net.contains(&ip) || v4.is_some_and(|v4| net.contains(&v4)))
                });
                if !named || why.never_permitted() {
                    if why.hard() || !observing {
                        examined.denied.push((ip, why));
                        continue;
                    }
                    examined.unenforced.push((ip, why));
                }
            }
        }
        examined.fine.push(ip);
    }
    examined
}

/// Why an address may not be used behind a name, if it may not; as for [`examine`].
#[must_use]
pub fn closed(name: &HostName, ip: IpAddr, permitted: &[IpNet], observing: bool) -> Option<Reason> {
    let examined = examine([ip], permitted, observing);
    let (ip, special) = examined.denied.first()?;
    Some(Reason::new(
        ReasonCode::Rebinding,
        format!("{name} is at {ip}, a {special} address that no rule lets it have."),
    ))
}

/// The sentence for a name whose addresses are denied.
#[must_use]
pub fn sentence(name: &str, denied: &[(IpAddr, Special)]) -> String {
    let mut text = format!("{name} resolves to");
    for (index, (ip, why)) in denied.iter().take(3).enumerate() {
        let comma = if index == 0 { "" } else { "," };
        text.push_str(&format!("{comma} {ip} ({why})"));
    }
    if denied.len() > 3 {
        text.push_str(&format!(" and {} more", denied.len() - 3));
    }
    text.push_str("; a rule must name the range to permit it");
    text
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

    #[test]
    fn a_permitted_range_must_name_what_it_permits() {
        for (address, permitted, fine) in [
            ("10.1.2.3", "10.0.0.0/8", true),
            ("10.1.2.3", "10.1.0.0/16", true),
            ("10.1.2.3", "10.2.0.0/16", false),
            ("10.1.2.3", "0.0.0.0/0", false),
            ("169.254.169.254", "169.254.0.0/16", false),
            ("169.254.169.254", "169.254.169.254/32", true),
            ("127.0.0.1", "127.0.0.0/8", true),
            ("::ffff:10.1.2.3", "10.0.0.0/8", true),
            ("64:ff9b::10.1.2.3", "10.0.0.0/8", true),
            ("fd00::1", "fc00::/7", true),
            ("fd00::1", "::/0", false),
            ("198.18.4.4", "198.18.0.0/15", false),
            ("224.0.0.1", "224.0.0.0/4", false),
            ("0.0.0.0", "0.0.0.0/8", false),
        ] {
            let permitted: IpNet = permitted.parse().unwrap();
            let examined = examine([address.parse().unwrap()], &[permitted], false);
            assert_eq!(
                examined.fine.len() == 1,
                fine,
                "{address} under {permitted}"
            );
            assert_eq!(examined.denied.is_empty(), fine);
        }
    }

    #[test]
    fn the_fine_addresses_of_a_mixed_answer_are_kept() {
        let examined = examine(
            [
                "203.0.113.1",
                "10.0.0.1",
                "::ffff:203.0.113.1",
                "2001:db8::1",
            ]
            .map(|text| text.parse().unwrap()),
            &[],
            false,
        );
        assert_eq!(
            examined.fine,
            ["203.0.113.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap())
        );
        assert_eq!(
            examined.denied,
            [("10.0.0.1".parse().unwrap(), Special::Private)]
        );
    }

    #[test]
    fn observing_denies_only_what_is_hard() {
        let all = ["10.0.0.1", "169.254.169.254", "127.0.0.1", "198.18.9.9"];
        let examined = examine(all.map(|text| text.parse().unwrap()), &[], true);
        assert_eq!(examined.fine, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(examined.unenforced.len(), 1);
        assert_eq!(examined.denied.len(), 3);
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

        #[test]
        fn nothing_is_lost_and_nothing_invented(
            addresses in proptest::collection::vec(any::<[u8; 16]>(), 0..20),
        ) {
            let addresses: Vec<IpAddr> =
                addresses.into_iter().map(|o| IpAddr::V6(Ipv6Addr::from(o))).collect();
            let examined = examine(addresses.iter().copied(), &[], false);
            for ip in &addresses {
                let ip = ip.to_canonical();
                prop_assert_eq!(examined.fine.contains(&ip), special(ip).is_none());
            }
        }
    }
}
