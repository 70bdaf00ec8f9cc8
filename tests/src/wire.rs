//! What arrives on the wire.
//!
//! A packet socket in the internet namespace sees every packet before any server does, so a count
//! of zero means that nothing was sent, not that nobody answered.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::net::AddressFamily;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::process::setpriority_process;
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;

/// `ETH_P_ALL` of `linux/if_ether.h`.
const EVERY_PROTOCOL: u16 = 3;

/// Holds what arrives while our thread is kept from reading: a flood fills a few megabytes before a busy
/// machine comes back to us, and what does not fit is lost to the count.
const BUFFER: usize = 64 << 20;

/// The nice value of our thread: before everything that a test or its machine has to do.
const FIRST: i32 = -20;

/// How many different destinations are told apart. When there are more, [`Wire::arrived`] fails:
/// a count that may be too low must not pass for an answer.
const DESTINATIONS: usize = 1 << 16;

/// How often the reading thread looks whether it is to stop.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a packet went: the address, the IP protocol number, and the port where there is one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Destination {
    /// The address.
    pub ip: IpAddr,
    /// 6 for TCP, 17 for UDP, 1 and 58 for ICMP.
    pub protocol: u8,
    /// For TCP and UDP.
    pub port: Option<u16>,
}

/// What a packet says that the escape suite sends: this and letters and digits behind it.
pub const MARK: &[u8] = b"escape";

#[derive(Debug, Default)]
struct Counts {
    packets: HashMap<Destination, u64>,
    marks: HashMap<String, u64>,
    /// When the last one was read.
    last: HashMap<IpAddr, Instant>,
    overflow: bool,
}

/// The tap. Counts by destination, from the start.
#[derive(Debug)]
pub struct Wire {
    counts: Arc<Mutex<Counts>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    pub(crate) fn start(internet: &Namespace) -> Result<Self> {
        let socket = internet.enter(open)??;
        let counts = Arc::<Mutex<Counts>>::default();
        let stop = Arc::<AtomicBool>::default();
        let thread = thread::Builder::new()
            .name("wire".into())
            .spawn({
                let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
                move || read(&socket, &counts, &stop)
            })
            .context("cannot start a thread")?;
        Ok(Self {
            counts,
            stop,
            thread: Some(thread),
        })
    }

    /// Everything that has been counted so far. A packet that was sent just now may still be in the
    /// queue: [`crate::World::arrivals`] waits for it.
    ///
    /// # Errors
    /// There were more destinations than can be told apart.
    pub(crate) fn arrived(&self) -> Result<HashMap<Destination, u64>> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.overflow {
            bail!("more than {DESTINATIONS} destinations on the wire");
        }
        Ok(counts.packets.clone())
    }

    /// The marks of packets so far, of any protocol, with how many had each.
    pub(crate) fn marks(&self) -> HashMap<String, u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.marks.clone()
    }
}

impl Wire {
    /// When the last packet for an address was seen.
    pub(crate) fn last(&self, ip: IpAddr) -> Option<Instant> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.last.get(&ip).copied()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the wire's thread panicked");
        }
    }
}

fn open() -> Result<Socket> {
    let family = i32::from(AddressFamily::PACKET.as_raw());
    let socket = Socket::new(
        Domain::from(family),
        Type::DGRAM,
        Some(Protocol::from(i32::from(EVERY_PROTOCOL.to_be()))),
    )
    .context("cannot open a packet socket")?;
    // Beyond `net.core.rmem_max`.
    set_socket_recv_buffer_size_force(&socket, BUFFER)
        .map_err(Into::into)
        .and_then(|()| socket.set_read_timeout(Some(PAUSE)))
        .context("cannot set up a packet socket")?;
    Ok(socket)
}

fn read(socket: &Socket, counts: &Mutex<Counts>, stop: &AtomicBool) {
    // Of this thread alone: Linux has a nice value for each (setpriority(2), "C library/kernel differences").
    if let Err(error) = setpriority_process(None, FIRST) {
        eprintln!("the wire is read in its turn: {error}");
    }
    let mut socket = socket;
    let mut packet = [0; HEAD];
    while !stop.load(Ordering::Relaxed) {
        let length = match socket.read(&mut packet) {
            Ok(length) => length,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                continue;
            }
            Err(error) => {
                eprintln!("the wire is cut: {error}");
                counts
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .overflow = true;
                return;
            }
        };
        let packet = packet.get(..length).unwrap_or_default();
        if let Some(mark) = mark(packet) {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            if counts.marks.len() < DESTINATIONS {
                *counts.marks.entry(mark).or_default() += 1;
            } else {
                counts.overflow = true;
            }
        }
        for destination in destination(packet).into_iter().chain(reported(packet)) {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            if counts.packets.len() >= DESTINATIONS && !counts.packets.contains_key(&destination) {
                counts.overflow = true;
                return;
            }
            counts.last.insert(destination.ip, Instant::now());
            *counts.packets.entry(destination).or_default() += 1;
        }
    }
}

/// As much of a packet as we look at: the headers, and the beginning of what it says.
const HEAD: usize = 256;

/// The first mark in a packet.
fn mark(packet: &[u8]) -> Option<String> {
    let at = packet.windows(MARK.len()).position(|bytes| bytes == MARK)?;
    let text = packet.get(at..)?.iter();
    let text = text.take_while(|byte| byte.is_ascii_alphanumeric());
    Some(text.map(|byte| char::from(*byte)).collect())
}

/// The groups and senders that a multicast report tells of (IGMPv3, RFC 3376, 4.2; MLDv2, RFC 3810, 5.2),
/// as if the packet went to each: whoever is on the link reads them. None in any other packet.
fn reported(packet: &[u8]) -> Vec<Destination> {
    let (protocol, report, width) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.get(9) == Some(&2) => {
            let header = packet
                .first()
                .map_or(0, |first| usize::from(first & 15) * 4);
            (2, packet.get(header..), 4)
        }
        // Behind the hop-by-hop option that each has.
        Some(6) if packet.get(6) == Some(&0) && packet.get(40) == Some(&58) => {
            let options = packet
                .get(41)
                .map_or(0, |length| usize::from(*length) * 8 + 8);
            (58, packet.get(40 + options..), 16)
        }
        _ => return Vec::new(),
    };
    let Some((kind, mut records)) =
        report.and_then(|report| Some((report.first()?, report.get(8..)?)))
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if !matches!((protocol, kind), (2, 0x22) | (58, 143)) {
        return found;
    }
    while let Some((head, rest)) = records.split_first_chunk::<4>() {
        let [_, extra, high, low] = *head;
        let sources = usize::from(u16::from_be_bytes([high, low]));
        let addresses = rest.chunks_exact(width).take(sources + 1);
        found.extend(addresses.filter_map(address).map(|ip| Destination {
            ip,
            protocol,
            port: None,
        }));
        let length = width * (sources + 1) + 4 * usize::from(extra);
        records = rest.get(length..).unwrap_or_default();
    }
    found
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let six = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| six()).ok()
}

/// Where an IP packet goes; none for what is not IP.
fn destination(packet: &[u8]) -> Option<Destination> {
    let (ip, protocol, payload) = match packet.first()? >> 4 {
        4 => {
            let ip: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            let header = usize::from(packet.first()? & 15) * 4;
            (
                IpAddr::from(Ipv4Addr::from(ip)),
                *packet.get(9)?,
                packet.get(header..),
            )
        }
        6 => {
            let ip: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (
                IpAddr::from(Ipv6Addr::from(ip)),
                *packet.get(6)?,
                packet.get(40..),
            )
        }
        _ => return None,
    };
    let port = || Some(u16::from_be_bytes(payload?.get(2..4)?.try_into().ok()?));
    let port = if matches!(protocol, 6 | 17) {
        port()
    } else {
        None
    };
    Some(Destination { ip, protocol, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_is_read_behind_options_and_in_both_families() {
        let mut four = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        four.extend([
            198, 51, 100, 10, 192, 0, 2, 66, 1, 1, 1, 1, 0x30, 0x39, 0, 53,
        ]);
        assert_eq!(
            destination(&four),
            Some(Destination {
                ip: "192.0.2.66".parse().unwrap(),
                protocol: 17,
                port: Some(53),
            })
        );

        let mut six = vec![0x60, 0, 0, 0, 0, 4, 6, 64];
        six.extend([0; 16]);
        six.extend("2001:db8:113::66".parse::<Ipv6Addr>().unwrap().octets());
        six.extend([0, 1, 1, 187]);
        assert_eq!(
            destination(&six),
            Some(Destination {
                ip: "2001:db8:113::66".parse().unwrap(),
                protocol: 6,
                port: Some(443),
            })
        );
    }

    #[test]
    fn what_a_multicast_report_tells_of_is_read() {
        let mut four = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0];
        four.extend([198, 51, 100, 10, 224, 0, 0, 22, 148, 4, 0, 0]);
        four.extend([0x22, 0, 0, 0, 0, 0, 0, 2]);
        four.extend([4, 0, 0, 1, 239, 1, 1, 1, 192, 0, 2, 7]);
        four.extend([4, 0, 0, 0, 239, 0, 2, 9]);
        let told = |packet: &[u8]| -> Vec<String> {
            let found = reported(packet);
            found.iter().map(|to| to.ip.to_string()).collect()
        };
        assert_eq!(told(&four), ["239.1.1.1", "192.0.2.7", "239.0.2.9"]);
        for end in 0..four.len() {
            assert!(reported(&four[..end]).len() < 3, "{end}");
        }

        let mut six = vec![0x60, 0, 0, 0, 0, 0, 0, 1];
        six.extend([0; 32]);
        six.extend([58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 1]);
        six.extend([4, 0, 0, 0]);
        six.extend("ff05::7".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(told(&six), ["ff05::7"]);
        assert_eq!(reported(&six)[0].protocol, 58);
        six[48] = 135;
        assert_eq!(reported(&six), []);
    }

    #[test]
    fn a_mark_is_found_wherever_it_stands() {
        assert_eq!(
            mark(b"\0\x09escape12a\x07example").as_deref(),
            Some("escape12a")
        );
        assert_eq!(mark(b"escap"), None);
    }

    #[test]
    fn what_is_not_ip_or_cut_short_is_not_counted_as_something_else() {
        assert_eq!(destination(&[]), None);
        assert_eq!(destination(&[0, 1, 8, 0, 6, 4]), None);
        assert_eq!(destination(&[0x45; 12]), None);
        let icmp = {
            let mut packet = vec![0x45; 20];
            packet[9] = 1;
            packet
        };
        assert_eq!(destination(&icmp).unwrap().port, None);
    }
}
