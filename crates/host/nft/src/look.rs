//! What others have in the kernel, as far as one must know it.

use dhow_netlink::{Attributes, Batch, Error, Socket};

use crate::ruleset::{Family, Hook};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETCHAIN: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NF_DROP: u32 = 0;

/// A base chain that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// Name of its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it meets packets.
    pub hook: Hook,
    /// Chains of one hook are asked in the order of their priorities.
    pub priority: i32,
    /// Whether a packet that no rule speaks about is dropped.
    pub drops: bool,
}

/// All base chains of `family` in the socket's network namespace.
///
/// # Errors
///
/// The kernel's refusal or the socket's failure.
pub fn base_chains(socket: &Socket, family: Family) -> Result<Vec<BaseChain>, Error> {
    let mut batch = Batch::new();
    batch
        .request(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, NLM_F_DUMP)
        .header(&[family as u8, 0, 0, 0]);
    let mut chains = Vec::new();
    socket.dump(&mut batch, |message| {
        chains.extend(read(message.attributes(4)));
    })?;
    Ok(chains)
}

fn read(chain: Attributes<'_>) -> Option<BaseChain> {
    let number = |attributes: Attributes<'_>, kind| {
        let bytes: [u8; 4] = attributes.get(kind)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    let place = Attributes::nested(chain.get(4)?);
    let hook = match number(place, 1)? {
        0 => Hook::Prerouting,
        1 => Hook::Input,
        2 => Hook::Forward,
        3 => Hook::Output,
        4 => Hook::Postrouting,
        _ => return None,
    };
    Some(BaseChain {
        table: chain.string(1)?,
        name: chain.string(3)?,
        hook,
        priority: number(place, 2)? as i32,
        drops: number(chain, 5) == Some(NF_DROP),
    })
}
