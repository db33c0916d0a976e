//! The host's own packet filter, as far as it concerns ours.
//!
//! A verdict of ours ends only our own chain: whatever the host drops stays
//! dropped, and nothing of the host's is changed. So a host that forwards
//! nothing by default has containers without a way out, and one that lets
//! nothing in by default has published ports that its `input` chain never sees,
//! since their packets are passed on. Both are told rather than left to be
//! found.

use dhow_netlink::Socket;
use dhow_nft::{Family, Hook, base_chains};

use crate::networks::Networks;

impl Networks {
    /// What the host's packet filter means for containers; empty when it stands
    /// in nobody's way.
    pub fn firewall(&self) -> Vec<String> {
        let Ok(socket) = Socket::netfilter() else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let (mut forward, mut input) = (None, None);
        for (family, word) in [
            (Family::Inet, "inet"),
            (Family::Ip, "ip"),
            (Family::Ip6, "ip6"),
        ] {
            let chains = base_chains(&socket, family).unwrap_or_default();
            for chain in chains
                .into_iter()
                .filter(|chain| chain.drops && chain.table != self.config.table)
            {
                let shown = format!("{word} {} {}", chain.table, chain.name);
                match chain.hook {
                    Hook::Forward => forward = forward.or(Some(shown)),
                    Hook::Input => input = input.or(Some(shown)),
                    _ => {}
                }
            }
        }
        if let Some(chain) = &forward {
            found.push(format!(
                "the host's chain {chain:?} drops what passes through: containers reach others and are reached only as far as it accepts that"
            ));
        } else if let Some(chain) = &input {
            found.push(format!(
                "the host's chain {chain:?} is not asked about published ports, whose packets pass through the host: filter them in a chain of the forward hook, or publish at 127.0.0.1"
            ));
        }
        found
    }

    /// Says so in the log, once at the start.
    pub(crate) fn report_firewall(&self) {
        for warning in self.firewall() {
            tracing::warn!("{warning}");
        }
    }
}
