//! Network devices of the host's, moved into a container (config-linux.md,
//! "Network Devices").

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use dhow_netlink::{Batch, Message, Namespace, Prefix, Socket};
use dhow_sys::namespace::{self, Kind};

use crate::error::{Result, RuntimeError};
use crate::spec::NetDevice;

/// Longest name of a device, in bytes.
const MAX_NAME: usize = 15;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_PERMANENT: u8 = 0x80;
/// Size of `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;

/// Refuses names that are none, and two devices of one name.
pub(crate) fn check(devices: &BTreeMap<String, NetDevice>) -> Result<()> {
    let mut seen = Vec::new();
    for (outside, device) in devices {
        let inside = inside(outside, device);
        for name in [outside.as_str(), inside] {
            let letter = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
            let good = (1..=MAX_NAME).contains(&name.len())
                && name.bytes().all(letter)
                && !matches!(name, "." | ".." | "lo");
            if !good {
                return Err(wrong(outside, format!("{name:?} is no name of a device")));
            }
        }
        if seen.contains(&inside) {
            return Err(wrong(outside, format!("there are two called {inside:?}")));
        }
        seen.push(inside);
    }
    Ok(())
}

fn wrong(device: &str, problem: impl Into<String>) -> RuntimeError {
    RuntimeError::spec(format!("linux.netDevices ({device})"), problem)
}

/// Name inside of a device.
fn inside<'a>(outside: &'a str, device: &'a NetDevice) -> &'a str {
    if device.name.is_empty() {
        outside
    } else {
        &device.name
    }
}

/// Moves devices into the network namespace of a process, with their permanent
/// global addresses, and sets them up there. With the namespace the kernel takes
/// them away or, if they are real ones, back.
pub(crate) fn move_in(devices: &BTreeMap<String, NetDevice>, pid: i32) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let path = format!("/proc/{pid}/ns/net");
    let path = Path::new(&path);
    let file = namespace::open(path, Kind::Network)
        .map_err(|error| RuntimeError::io("open namespace", path, error))?;
    let there = Namespace::open(path).map_err(|error| failed("the namespace", error))?;
    let here = Socket::route().map_err(|error| failed("the namespace", error))?;
    for (outside, device) in devices {
        move_one(&here, &there, &file, outside, inside(outside, device))?;
    }
    Ok(())
}

fn failed(device: &str, error: impl std::error::Error + Send + Sync + 'static) -> RuntimeError {
    RuntimeError::NetDevice {
        device: device.to_owned(),
        source: Box::new(error),
    }
}

fn move_one(
    here: &Socket,
    there: &Namespace,
    file: &OwnedFd,
    outside: &str,
    inside: &str,
) -> Result<()> {
    let told = |error: dhow_netlink::Error| failed(outside, error);
    let link = here.link(outside).map_err(told)?;
    let link = link.ok_or_else(|| wrong(outside, "there is no such device"))?;
    let addresses = addresses(here, link.index).map_err(told)?;
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&link.index.to_ne_bytes());
    let mut batch = Batch::new();
    batch
        .request(RTM_NEWLINK, NLM_F_ACK)
        .header(&header)
        // Descriptors are not negative.
        .number(IFLA_NET_NS_FD, file.as_raw_fd().unsigned_abs())
        .string(IFLA_IFNAME, inside);
    here.run(&mut batch).map_err(told)?;
    let arrive = || {
        let socket = Socket::route()?;
        // The index may be another one there.
        let Some(link) = socket.link(inside)? else {
            return Ok(());
        };
        let mut batch = Batch::new();
        for address in addresses {
            batch.add_address(link.index, address);
        }
        batch.set_up(link.index);
        socket.run(&mut batch)
    };
    there
        .run(arrive)
        .map_err(|error| failed(outside, error))?
        .map_err(told)
}

/// The permanent addresses of a device that hold everywhere.
fn addresses(socket: &Socket, index: u32) -> std::result::Result<Vec<Prefix>, dhow_netlink::Error> {
    let mut batch = Batch::new();
    batch
        .request(RTM_GETADDR, NLM_F_DUMP)
        .header(&[0; ADDRESS_HEADER]);
    let mut found = Vec::new();
    socket.dump(&mut batch, |message| found.extend(parse(&message, index)))?;
    Ok(found)
}

fn parse(message: &Message<'_>, index: u32) -> Option<Prefix> {
    let header: &[u8; ADDRESS_HEADER] = message.payload.first_chunk()?;
    let [family, length, flags, scope, of @ ..] = *header;
    let wanted = message.kind == RTM_NEWADDR
        && u32::from_ne_bytes(of) == index
        && flags & IFA_F_PERMANENT != 0
        && scope == libc::RT_SCOPE_UNIVERSE;
    if !wanted {
        return None;
    }
    let attributes = message.attributes(ADDRESS_HEADER);
    let value = attributes.get(IFA_LOCAL).or(attributes.get(IFA_ADDRESS))?;
    let address = match i32::from(family) {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
        _ => return None,
    };
    Some(Prefix { address, length })
}
