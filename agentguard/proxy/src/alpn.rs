//! Which protocol is spoken inside TLS (RFC 7301).

/// HTTP/2 over TLS (RFC 9113, 3.2).
const H2: &[u8] = b"h2";
/// HTTP/1.1.
const HTTP1: &[u8] = b"http/1.1";

/// The protocol that both ends agreed upon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Alpn {
    /// HTTP/2.
    H2,
    /// HTTP/1.1.
    Http1,
    /// None was agreed upon.
    None,
}

impl Alpn {
    /// What a peer chose.
    pub(crate) fn chosen(protocol: Option<&[u8]>) -> Self {
        match protocol {
            Some(H2) => Self::H2,
            Some(HTTP1) => Self::Http1,
            _ => Self::None,
        }
    }

    /// As an offer or an answer of this one.
    pub(crate) fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::H2 => vec![H2.to_vec()],
            Self::Http1 => vec![HTTP1.to_vec()],
            Self::None => Vec::new(),
        }
    }
}

/// What of a client's offer the guard can carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Offer {
    h2: bool,
    http1: bool,
}

impl Offer {
    /// HTTP/2 alone.
    pub(crate) const H2: Self = Self {
        h2: true,
        http1: false,
    };
    /// HTTP/1.1, or none where the client named none.
    pub(crate) const HTTP1: Self = Self {
        h2: false,
        http1: true,
    };
    /// Nothing: the client does not negotiate.
    pub(crate) const NOTHING: Self = Self {
        h2: false,
        http1: false,
    };

    /// The client's offer ∩ {h2, http/1.1}. `None`: it offers others alone.
    pub(crate) fn of(client: &[Vec<u8>]) -> Option<Self> {
        let has = |protocol: &[u8]| client.iter().any(|own| own == protocol);
        let offer = Self {
            h2: has(H2),
            http1: has(HTTP1),
        };
        (client.is_empty() || offer != Self::NOTHING).then_some(offer)
    }

    /// What is offered to the upstream.
    pub(crate) fn protocols(self) -> Vec<Vec<u8>> {
        let h2 = self.h2.then(|| H2.to_vec());
        let http1 = self.http1.then(|| HTTP1.to_vec());
        h2.into_iter().chain(http1).collect()
    }

    /// What to answer the client where the upstream chose `chosen`: that, if it was offered; an
    /// upstream that negotiates nothing speaks HTTP/1.1 (RFC 9112, 9.7). `None`: the client
    /// speaks nothing that the upstream does.
    pub(crate) fn answer(self, chosen: Alpn) -> Option<Alpn> {
        match chosen {
            Alpn::H2 => self.h2.then_some(Alpn::H2),
            Alpn::Http1 | Alpn::None if self.http1 => Some(Alpn::Http1),
            Alpn::Http1 | Alpn::None => (!self.h2).then_some(Alpn::None),
        }
    }

    /// Whether an upstream that chose `chosen` when `before` was offered can be taken to choose the
    /// same of this offer, so that a connection from then serves now.
    pub(crate) fn is_served_by(self, before: Self, chosen: Alpn) -> bool {
        match chosen {
            Alpn::H2 => self.h2,
            // It might prefer HTTP/2, and was not asked.
            Alpn::Http1 => self.http1 && (!self.h2 || before.h2),
            // It negotiates nothing, or was not asked to.
            Alpn::None => {
                self.answer(chosen).is_some() && (self == before || before != Self::NOTHING)
            }
        }
    }

    /// What to answer where no upstream can be asked.
    pub(crate) const fn alone(self) -> Alpn {
        match (self.http1, self.h2) {
            (true, _) => Alpn::Http1,
            (false, true) => Alpn::H2,
            (false, false) => Alpn::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Alpn, Offer};

    #[test]
    fn a_connection_serves_whom_the_upstream_would_answer_the_same() {
        let both = Offer::of(&[b"h2".to_vec(), b"http/1.1".to_vec()]).unwrap();
        for (offer, before, chosen, served) in [
            (both, both, Alpn::H2, true),
            (Offer::H2, both, Alpn::H2, true),
            (both, Offer::H2, Alpn::H2, true),
            (both, both, Alpn::Http1, true),
            (Offer::HTTP1, both, Alpn::Http1, true),
            (Offer::HTTP1, both, Alpn::None, true),
            (Offer::NOTHING, both, Alpn::None, true),
            (Offer::NOTHING, Offer::NOTHING, Alpn::None, true),
            // It might have chosen another.
            (Offer::HTTP1, Offer::NOTHING, Alpn::None, false),
            (both, Offer::HTTP1, Alpn::Http1, false),
            // Not offered by the client.
            (Offer::HTTP1, both, Alpn::H2, false),
            (Offer::NOTHING, Offer::H2, Alpn::H2, false),
            (Offer::NOTHING, Offer::HTTP1, Alpn::Http1, false),
            (Offer::H2, both, Alpn::None, false),
            (Offer::H2, both, Alpn::Http1, false),
        ] {
            let told = format!("{offer:?} {before:?} {chosen:?}");
            assert_eq!(offer.is_served_by(before, chosen), served, "{told}");
        }
    }

    #[test]
    fn the_client_is_answered_what_the_upstream_chose() {
        let h2 = b"h2".to_vec();
        let http1 = b"http/1.1".to_vec();
        let other = b"imap".to_vec();
        for (client, chosen, answer) in [
            (vec![h2.clone(), http1.clone()], Alpn::H2, Some(Alpn::H2)),
            (
                vec![h2.clone(), http1.clone()],
                Alpn::Http1,
                Some(Alpn::Http1),
            ),
            (
                vec![h2.clone(), http1.clone()],
                Alpn::None,
                Some(Alpn::Http1),
            ),
            (
                vec![http1.clone(), other.clone()],
                Alpn::Http1,
                Some(Alpn::Http1),
            ),
            (vec![h2.clone()], Alpn::None, None),
            (vec![], Alpn::None, Some(Alpn::None)),
            // An upstream that chooses what nobody offered.
            (vec![http1], Alpn::H2, None),
        ] {
            let offer = Offer::of(&client).unwrap();
            assert_eq!(offer.answer(chosen), answer, "{client:?} {chosen:?}");
        }
        assert_eq!(Offer::of(&[other]), None);
        assert_eq!(Offer::of(&[h2]).unwrap().alone(), Alpn::H2);
    }
}
