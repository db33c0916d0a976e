//! The cluster: bringing it up, looking at it, taking it down.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};

use crate::Outcome;
use crate::client::{Client, query};
use crate::error::Error;

// `dhow up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Port of the Kubernetes API at 127.0.0.1; 6443 unless told otherwise.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Name of the node; the host's unless told otherwise.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Addresses of pods; 10.244.0.0/16 unless told otherwise.
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<String>,
    /// Addresses of Services; 10.96.0.0/16 unless told otherwise.
    #[arg(long, value_name = "CIDR")]
    service_cidr: Option<String>,
    /// Write the kubeconfig to this file as well.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Print only the path of the kubeconfig.
    #[arg(short, long)]
    quiet: bool,
}

// `dhow down`.
#[derive(Debug, Args)]
pub struct Down {
    /// Forget the cluster's objects and keys as well.
    #[arg(long)]
    forget: bool,
}

pub(crate) async fn up(client: &Client, up: Up) -> Outcome {
    let mut settings = Map::new();
    for (name, value) in [
        ("port", up.port.map(Value::from)),
        ("node", up.node_name.map(Value::from)),
        ("podCidr", up.pod_cidr.map(Value::from)),
        ("serviceCidr", up.service_cidr.map(Value::from)),
    ] {
        if let Some(value) = value {
            settings.insert(name.into(), value);
        }
    }
    let status = client
        .post("/dhow/cluster", Some(&Value::Object(settings)))
        .await?;
    let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
    let mut path = text("kubeconfigPath");
    if let Some(file) = &up.kubeconfig {
        write(file, &text("kubeconfig"))?;
        path = file.display().to_string();
    }
    if up.quiet {
        println!("{path}");
        return Ok(0);
    }
    println!("The cluster is up: node {} is ready.", text("node"));
    println!("The Kubernetes API is at {}. To use it:", text("server"));
    println!();
    println!("    export KUBECONFIG={path}");
    println!("    kubectl get nodes");
    Ok(0)
}

pub(crate) async fn down(client: &Client, down: Down) -> Outcome {
    let forget = if down.forget { "1" } else { "" };
    let query = query(&[("forget", forget.into())]);
    client.delete(&format!("/dhow/cluster{query}")).await?;
    Ok(0)
}

/// Writes a file that only its owner may read.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let written = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Error::File(path.display().to_string(), error))
}
