//! A worker that says everything that can be said, and much that cannot, in any order.
//!
//! What it asks for is never what the tests' policy grants: agent 1 may have `api.example.com` inspected, so
//! its own name comes with an address that is nobody's to allow, and with a key that is none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use agentguard_model::{AgentId, HostName};
use rustix::net::SendFlags;

use super::{Worker, answer, say, unknown};
use crate::message::{LeafSubject, ToKeeper, ToWorker};

/// What is said.
const ROUNDS: usize = 2_000;

/// The agent that may something, and its name.
const AGENT: u32 = 1;
const NAME: &str = "api.example.com";

/// Names that nobody may, though some are near.
const OTHERS: [&str; 6] = [
    "evil.example.com",
    "example.com",
    "a.api.example.com",
    "xapi.example.com",
    "api.example.com.evil.test",
    "localhost",
];

/// Addresses that no name stands for.
const CLOSED: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// The keeper must refuse all of it.
pub(super) fn babble(worker: &Worker<'_>, seed: &str) -> io::Result<()> {
    let seed: u64 = seed.parse().map_err(|_| unknown())?;
    let mut random = Random(seed.wrapping_mul(2).wrapping_add(1));
    for round in 0..ROUNDS {
        let request = random.next();
        match random.below(12) {
            0 => say(worker, &ToKeeper::Ready)?,
            1 => {
                let possible = random.below(2) == 0;
                say(worker, &ToKeeper::Recording { possible })?;
            }
            2 => {
                let generation = random.number();
                say(worker, &ToKeeper::Taken { generation })?;
            }
            3 => {
                let number = random.number();
                say(worker, &ToKeeper::Cut { number })?;
            }
            4 => {
                let number = random.number().into();
                say(worker, &ToKeeper::Recorded { number })?;
            }
            5 => say(worker, &ToKeeper::Alive)?,
            6 => say(worker, &ToKeeper::Look)?,
            7 => {
                let address = random.address();
                say(worker, &ToKeeper::Retire { address })?;
            }
            8 => {
                let mut bytes = vec![0; random.below(200) + 1];
                bytes.fill_with(|| random.next().to_le_bytes()[0]);
                rustix::net::send(worker.keeper.as_fd(), &bytes, SendFlags::NOSIGNAL)?;
            }
            9 | 10 => {
                say(worker, &random.publish(request)?)?;
                let refused = answer(worker, |message| match message {
                    ToWorker::Published {
                        request: of,
                        refused,
                    } if of == request => Some(refused),
                    _ => None,
                })?;
                refused.ok_or_else(|| granted(round))?;
            }
            _ => {
                say(worker, &random.sign(request)?)?;
                let leaf = answer(worker, |message| match message {
                    ToWorker::Signed { request: of, leaf } if of == request => Some(leaf),
                    _ => None,
                })?;
                leaf.err().ok_or_else(|| granted(round))?;
            }
        }
    }
    Ok(())
}

fn granted(round: usize) -> io::Error {
    io::Error::other(format!("the keeper granted what was said in round {round}"))
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        let [a, b, ..] = self.next().to_be_bytes();
        usize::from(u16::from_be_bytes([a, b])) % bound.max(1)
    }

    fn number(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next().to_be_bytes();
        match self.below(4) {
            0 => u32::from(a % 4),
            1 => u32::MAX,
            _ => u32::from_be_bytes([a, b, c, d]),
        }
    }

    /// Virtual, closed, public, or any.
    fn address(&mut self) -> IpAddr {
        let last = self.next().to_be_bytes()[0];
        match self.below(5) {
            0 => Ipv4Addr::new(198, 18, 9, last).into(),
            1 => Ipv4Addr::new(203, 0, 113, last).into(),
            2 => Ipv6Addr::from(u128::from(self.next()) << 64 | u128::from(self.next())).into(),
            3 => Ipv4Addr::from(self.number()).into(),
            _ => self.closed(),
        }
    }

    fn closed(&mut self) -> IpAddr {
        let [a, b, c, d] = CLOSED;
        match self.below(4) {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        }
    }

    /// Mostly one that there is.
    fn agent(&mut self) -> u32 {
        match self.below(8) {
            0..4 => AGENT,
            4 => AGENT + 1,
            5 => AGENT + 2,
            _ => self.number(),
        }
    }

    /// Such as would be granted for a name of the agent's, and others. More than a name may have, now and
    /// then.
    fn addresses(&mut self, fine: [u8; 3]) -> Vec<IpAddr> {
        if self.below(2) == 0 {
            let [a, b, c] = fine;
            return vec![Ipv4Addr::new(a, b, c, self.next().to_be_bytes()[0]).into()];
        }
        let count = if self.below(8) == 0 {
            300
        } else {
            self.below(4)
        };
        (0..count).map(|_| self.address()).collect()
    }

    fn name(&mut self) -> io::Result<HostName> {
        let name = OTHERS.get(self.below(OTHERS.len())).ok_or_else(unknown)?;
        name.parse().map_err(|_| unknown())
    }

    fn publish(&mut self, request: u64) -> io::Result<ToKeeper> {
        let own = self.below(2) == 0;
        let mut real = self.addresses([203, 0, 113]);
        let (agent, name) = if own {
            let at = self.below(real.len() + 1);
            real.insert(at, self.closed());
            (AGENT, NAME.parse().map_err(|_| unknown())?)
        } else {
            (self.agent(), self.name()?)
        };
        Ok(ToKeeper::Publish {
            request,
            agent: AgentId(agent),
            name,
            virtual_addresses: self.addresses([198, 18, 9]),
            real,
            ttl: Duration::new(self.next(), 0),
        })
    }

    fn sign(&mut self, request: u64) -> io::Result<ToKeeper> {
        use rcgen::PublicKeyData as _;
        let key = rcgen::KeyPair::generate().map_err(io::Error::other)?;
        let mut public_key = key.subject_public_key_info();
        let (agent, subject) = match self.below(3) {
            0 => {
                let cut = self.below(public_key.len());
                public_key.truncate(cut);
                (
                    AGENT,
                    LeafSubject::Name(NAME.parse().map_err(|_| unknown())?),
                )
            }
            1 => (self.agent(), LeafSubject::Ip(self.address())),
            _ => (self.agent(), LeafSubject::Name(self.name()?)),
        };
        Ok(ToKeeper::Sign {
            request,
            agent: AgentId(agent),
            subject,
            public_key,
        })
    }
}
