//! Ranges that are not like other addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use agentguard_common::address::Address;
use agentguard_model::{ReasonCode, special};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A range that stays closed in every mode, unless a rule names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hard {
    /// A cloud metadata service: it hands out the host's credentials.
    Metadata,
    /// This host's own services.
    Loopback,
}

impl Hard {
    pub(crate) const fn code(self) -> ReasonCode {
        match self {
            Self::Metadata => ReasonCode::MetadataService,
            Self::Loopback => ReasonCode::LoopbackNotOwn,
        }
    }
}

/// A range of IPv4 behind a prefix of IPv6.
const fn behind(prefix: u128, net: Ipv4Net) -> IpNet {
    let ip = Ipv6Addr::from_bits(prefix | net.addr().to_bits() as u128);
    IpNet::V6(Ipv6Net::new_assert(ip, net.prefix_len() + 96))
}

/// A range of IPv4 behind NAT64's well-known prefix (RFC 6052, 2.1): a translator hands it on as IPv4.
const fn translated(net: Ipv4Net) -> IpNet {
    behind(0x0064_ff9b << 96, net)
}

/// All that 6to4 (RFC 3056, 2) carries to a range of IPv4.
const fn carried(net: Ipv4Net) -> IpNet {
    let ip = net.addr().to_bits() as u128;
    let ip = Ipv6Addr::from_bits(0x2002 << 112 | ip << 80);
    IpNet::V6(Ipv6Net::new_assert(ip, net.prefix_len() + 16))
}

/// The ranges of IPv6 by which a range of IPv4 is reached too, where something translates or carries.
pub(crate) const fn ways_to(net: &IpNet) -> [Option<IpNet>; 2] {
    match net {
        IpNet::V4(net) => [Some(translated(*net)), Some(carried(*net))],
        IpNet::V6(_) => [None, None],
    }
}

/// The ranges that stay closed; none holds another. The kernel takes the unspecified addresses as loopback.
pub(crate) static HARD: LazyLock<Vec<(Hard, IpNet)>> = LazyLock::new(|| {
    let mut hard: Vec<_> = LOOPBACK.map(|net| (Hard::Loopback, net)).into();
    for net in special::metadata() {
        hard.push((Hard::Metadata, net));
        // By ways that lead there from IPv6. Loopback is not: it is the translator's own.
        let ways = ways_to(&net).into_iter().flatten();
        hard.extend(ways.map(|way| (Hard::Metadata, way)));
        if let IpNet::V4(net) = net {
            // IPv4-compatible (RFC 4291, 2.5.5.1) and IPv4-translated (RFC 2765, 2.1).
            let old = [0, 0xffff << 48].map(|prefix| (Hard::Metadata, behind(prefix, net)));
            hard.extend(old);
        }
    }
    hard
});

const LOOPBACK: [IpNet; 4] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 32)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128)),
];

/// The closed range that holds all of `net`.
pub(crate) fn hard(net: &IpNet) -> Option<(Hard, IpNet)> {
    // Most of them are of the other family, and asked of each address.
    let may = |range: &IpNet| matches!(range, IpNet::V4(_)) == matches!(net, IpNet::V4(_));
    HARD.iter()
        .find(|(_, range)| may(range) && range.contains(net))
        .copied()
}

/// Whether an address is one of those that the guard makes up for names.
pub(crate) fn is_virtual(ip: IpAddr) -> bool {
    Address::from(ip).is_virtual()
}

/// An address in the one form that rules are compared with.
pub(crate) const fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::{Hard, hard, ways_to};

    #[test]
    fn ipv6_leads_to_ipv4_in_two_ways() {
        let ways = |net: &str| -> Vec<String> {
            let ways = ways_to(&net.parse().unwrap());
            ways.iter().flatten().map(ToString::to_string).collect()
        };
        assert_eq!(ways("10.0.0.0/8"), ["64:ff9b::a00:0/104", "2002:a00::/24"]);
        assert_eq!(
            ways("192.0.2.1/32"),
            ["64:ff9b::c000:201/128", "2002:c000:201::/48"]
        );
        assert_eq!(ways("0.0.0.0/0"), ["64:ff9b::/96", "2002::/16"]);
        assert_eq!(ways("2001:db8::/32"), [""; 0]);
    }

    #[test]
    fn only_what_lies_inside_is_closed() {
        for (net, expected) in [
            ("169.254.169.254/32", Some(Hard::Metadata)),
            ("169.254.0.0/16", None),
            ("127.0.0.1/32", Some(Hard::Loopback)),
            ("127.0.0.0/8", Some(Hard::Loopback)),
            ("126.0.0.0/7", None),
            ("0.0.0.0/0", None),
            ("0.0.0.0/32", Some(Hard::Loopback)),
            ("::/0", None),
            ("::1/128", Some(Hard::Loopback)),
            ("fd00:ec2::254/128", Some(Hard::Metadata)),
            ("10.0.0.0/8", None),
            ("64:ff9b::169.254.169.254/128", Some(Hard::Metadata)),
            ("64:ff9b::203.0.113.1/128", None),
            ("::169.254.169.254/128", Some(Hard::Metadata)),
            ("::ffff:0:169.254.169.254/128", Some(Hard::Metadata)),
            ("::ffff:0:203.0.113.1/128", None),
            ("64:ff9b::169.254.42.42/128", Some(Hard::Metadata)),
            ("64:ff9b::/96", None),
            ("2002:a9fe:a9fe::1/128", Some(Hard::Metadata)),
            ("2002::/16", None),
        ] {
            let got = hard(&net.parse().unwrap()).map(|(kind, _)| kind);
            assert_eq!(got, expected, "{net}");
        }
    }
}
