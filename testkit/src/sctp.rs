//! A question of SCTP, made by hand: few kernels have sockets of it, and those that
//! translate its packets need none.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use dhow_netlink::Namespace;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

/// How long it may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// The port that asks.
const FROM: u16 = 40_000;

/// Sends the first packet of an association from one namespace, and returns whom it
/// comes from, and for which port, in the other; none when it does not arrive.
///
/// # Panics
///
/// Without the right to open raw sockets.
pub fn ask_association(
    from: &Namespace,
    to: SocketAddrV4,
    at: &Namespace,
) -> Option<(Ipv4Addr, u16)> {
    let open = || {
        let (kind, protocol) = (SocketType::RAW, Some(ipproto::SCTP));
        rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, protocol)
            .expect("a raw socket")
    };
    let there = at.run(open).expect("enter");
    set_socket_timeout(&there, Timeout::Recv, Some(PATIENCE)).expect("a timeout");
    let here = from.run(open).expect("enter");
    let packet = init(to.port());
    rustix::net::sendto(&here, &packet, SendFlags::empty(), &to).ok()?;
    let began = Instant::now();
    let mut buffer = [0; 256];
    while began.elapsed() < PATIENCE {
        let (length, _) = rustix::net::recv(&there, &mut buffer, RecvFlags::empty()).ok()?;
        let header = usize::from(buffer[0] & 15) * 4;
        let Some(packet) = buffer[..length].get(header..header + 12) else {
            continue;
        };
        if packet[..2] == FROM.to_be_bytes() {
            let source: [u8; 4] = buffer[12..16].try_into().expect("four bytes");
            return Some((source.into(), u16::from_be_bytes([packet[2], packet[3]])));
        }
    }
    None
}

/// A packet with the chunk INIT (RFC 9260, section 3.3.2).
fn init(to: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    for half in [FROM, to, 0, 0, 0, 0] {
        packet.extend(half.to_be_bytes());
    }
    packet.extend([1, 0, 0, 20]);
    packet.extend(0x0102_0304_u32.to_be_bytes());
    packet.extend(65_536_u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(1_u32.to_be_bytes());
    let sum = checksum(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// CRC32c (RFC 9260, appendix A).
fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = !0_u32;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            let low = sum & 1;
            sum = (sum >> 1) ^ (low * 0x82f6_3b78);
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_nine_digits() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
    }
}
