//! Asking a container once: a program in it, or a connection to it.

use std::net::IpAddr;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Container as Spec, ExecAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::{grpc, http};
use crate::agent::Shared;
use crate::runtime::{Exec, Output};

/// Output of a program that is kept, in bytes.
const N_BYTES: usize = 10 << 10;

/// What a container has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is well.
    Success,
    /// It is not, and why.
    Failure(String),
    /// It could not be asked.
    Unknown(String),
}

/// Who is asked.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) spec: &'a Spec,
    pub(crate) id: &'a str,
    pub(crate) addresses: &'a [IpAddr],
}

impl Target<'_> {
    /// The pod's address, or the host's for pods on its network.
    pub(crate) fn address(&self) -> Option<String> {
        let own = self.addresses.first();
        let address = own.or(self.shared.config.addresses.first())?;
        Some(address.to_string())
    }

    /// Runs a program in the container; its exit code and output.
    pub(crate) async fn run(&self, action: &ExecAction) -> Result<(i32, String), String> {
        let exec = Exec {
            command: action.command.clone().unwrap_or_default(),
            stdin: false,
            tty: false,
        };
        let session = self.shared.runtime.exec(self.id, exec).await;
        let mut session = session.map_err(|error| error.to_string())?;
        let mut text = Vec::new();
        while let Some(piece) = session.output.next().await {
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece;
            let left = N_BYTES.saturating_sub(text.len());
            text.extend_from_slice(&bytes[..bytes.len().min(left)]);
        }
        let exit = session.exit.take().ok_or("the program has no exit code")?;
        let code = exit.await.map_err(|_| "the exit code is not known")?;
        Ok((code, String::from_utf8_lossy(&text).into_owned()))
    }
}

/// Asks once.
pub(super) async fn ask(target: &Target<'_>, probe: &Probe) -> Answer {
    if let Some(action) = &probe.exec {
        return match target.run(action).await {
            Ok((0, _)) => Answer::Success,
            Ok((_, output)) => Answer::Failure(output),
            Err(why) => Answer::Unknown(why),
        };
    }
    if let Some(action) = &probe.http_get {
        return match http::get(target, action).await {
            Ok(code @ 200..400) => {
                tracing::trace!(code, "a probe has succeeded");
                Answer::Success
            }
            Ok(code) => Answer::Failure(format!("HTTP probe failed with statuscode: {code}")),
            Err(why) => Answer::Failure(why),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.clone().filter(|host| !host.is_empty());
        let host = host.or_else(|| target.address());
        let (Some(host), Some(port)) = (host, port_number(target.spec, &action.port)) else {
            return Answer::Unknown("the address or port is not known".to_owned());
        };
        return match TcpStream::connect((host.as_str(), port)).await {
            Ok(_) => Answer::Success,
            Err(error) => Answer::Failure(format!("dial tcp {host}:{port}: {error}")),
        };
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).ok();
        let (Some(host), Some(port)) = (target.address(), port) else {
            return Answer::Unknown("the address or port is not known".to_owned());
        };
        let service = action.service.as_deref().unwrap_or_default();
        return grpc::check(&host, port, service).await;
    }
    Answer::Unknown("missing probe handler".to_owned())
}

/// A port by number, or by its name in the container.
pub(crate) fn port_number(spec: &Spec, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let mut ports = spec.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_deref() == Some(name));
            match named {
                Some(port) => u16::try_from(port.container_port).ok(),
                None => name.parse().ok(),
            }
        }
    }
    .filter(|number| *number > 0)
}
