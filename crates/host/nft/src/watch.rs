//! News of changes that others make to a table.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use dhow_netlink::{Error, Socket};

/// Multicast group of nf_tables (`NFNLGRP_NFTABLES`).
const GROUP: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWGEN: u16 = 15;

/// What happened since [`Watch::look`] was called last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    /// Nobody else changed the table.
    No,
    /// Somebody else did.
    Yes,
    /// The kernel had more news than the socket could hold.
    Unknown,
}

/// Hears of every change in the network namespace it was opened in.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Opens a watch in the caller's network namespace.
    ///
    /// # Errors
    ///
    /// The socket's failure.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::netfilter()?;
        socket.join(GROUP)?;
        Ok(Self { socket })
    }

    /// Whether anybody but the socket with port `ours` changed a table named
    /// `table`, of any family, since last time. Elements that packets add or that time out are no change.
    /// Does not wait; poll the descriptor for that.
    ///
    /// # Errors
    ///
    /// The socket's failure.
    pub fn look(&self, table: &str, ours: u32) -> Result<Touched, Error> {
        let mut touched = Touched::No;
        let heard = self.socket.news(|message| {
            let is_change =
                message.kind >> 8 == NFNL_SUBSYS_NFTABLES && message.kind & 0xff != NFT_MSG_NEWGEN;
            if is_change
                && message.port != ours
                && message.attributes(4).string(1).as_deref() == Some(table)
            {
                touched = Touched::Yes;
            }
        });
        match heard {
            Ok(()) => Ok(touched),
            Err(error) if error.is_overrun() => Ok(Touched::Unknown),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
