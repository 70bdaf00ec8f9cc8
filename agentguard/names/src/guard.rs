//! Which resolved addresses may be dialled: the rebinding guard.
//!
//! A name that the policy allows is a name that somebody else's server gives addresses to. Where
//! such an address lies in a special range (private, loopback, metadata, …), the name is a handle
//! on the host's own surroundings, and the address is denied unless a rule for the name names the
//! range.
//!
//! Which ranges these are, and what a range that is permitted opens, is for all rooms to know alike
//! ([`agentguard_model::special`]). This decides for a name as a whole, by what any of its rules permits; what
//! goes there is decided by the rule that allows it.
//!
//! **Invariant:** pure; what is never permitted is denied whatever is permitted, in every mode.

use std::net::IpAddr;

use agentguard_model::special::{Special, is_opened, special};
use agentguard_model::{HostName, Reason, ReasonCode};
use ipnet::IpNet;

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
            Some(_) if is_opened(ip, permitted) => {}
            Some((_, why)) if why.hard() || !observing => {
                examined.denied.push((ip, why));
                continue;
            }
            Some((_, why)) => examined.unenforced.push((ip, why)),
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
    use std::net::Ipv6Addr;

    use super::*;
    use proptest::prelude::*;

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
