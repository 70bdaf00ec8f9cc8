//! An IPv6 address for a device, usable at once (rtnetlink(7)).
//!
//! `SIOCSIFADDR` leaves it tentative until the kernel's worker for duplicate address detection has
//! run, also on loopback: until then nothing can be bound to it.

use std::io;
use std::net::Ipv6Addr;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `linux/rtnetlink.h`.
const RTM_NEWADDR: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE` of `linux/netlink.h`.
const NEW: u16 = 0x001 | 0x004 | 0x200 | 0x400;
/// `linux/netlink.h`: the answer to a request, with an error number or 0.
const NLMSG_ERROR: u16 = 2;
/// `linux/if_addr.h`: no duplicate address detection, so that it is never tentative.
const IFA_F_NODAD: u8 = 0x02;
/// `linux/if_addr.h`: the attribute that holds the address.
const IFA_ADDRESS: u16 = 1;
/// A message's length: header 16, `ifaddrmsg` 8, attribute 4 and 16.
const LENGTH: u32 = 44;

/// Gives the device with this index an address with a prefix of 128, in this thread's network
/// namespace.
///
/// # Errors
/// What the kernel answers; `EACCES` where IPv6 is switched off.
pub(super) fn add(address: Ipv6Addr, index: u32) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // `NETLINK_ROUTE` is 0.
        None,
    )?;
    rustix::net::send(&socket, &request(address, index), SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (length, _) =
        rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut answer, RecvFlags::empty()))?;
    match error(answer.get(..length).unwrap_or_default()) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn request(address: Ipv6Addr, index: u32) -> Vec<u8> {
    let mut message = Vec::new();
    // `nlmsghdr`: length, type, flags, sequence, sender.
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWADDR.to_ne_bytes());
    message.extend(NEW.to_ne_bytes());
    message.extend([0; 8]);
    // `ifaddrmsg`: family AF_INET6, prefix, flags, scope, device.
    message.extend([10, 128, IFA_F_NODAD, 0]);
    message.extend(index.to_ne_bytes());
    // `rtattr`: length, type, value.
    message.extend(20_u16.to_ne_bytes());
    message.extend(IFA_ADDRESS.to_ne_bytes());
    message.extend(address.octets());
    message
}

/// The error number in an answer: `nlmsghdr`, then its negative.
fn error(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let number = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then(|| number.wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::{LENGTH, error, request};

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let message = request("fd00::1".parse().unwrap(), 1);
        assert_eq!(message.len(), usize::try_from(LENGTH).unwrap());
        assert_eq!(message[..4], LENGTH.to_ne_bytes());
    }

    #[test]
    fn an_answer_tells_the_error() {
        let answer = |kind: u16, number: i32| {
            let mut answer = vec![0; 36];
            answer[4..6].copy_from_slice(&kind.to_ne_bytes());
            answer[16..20].copy_from_slice(&number.to_ne_bytes());
            answer
        };
        assert_eq!(error(&answer(2, 0)), Some(0));
        assert_eq!(error(&answer(2, -13)), Some(13));
        assert_eq!(error(&answer(20, 0)), None);
        assert_eq!(error(&[0; 10]), None);
    }
}
