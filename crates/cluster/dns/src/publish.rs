//! Tells the cluster where its name server is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::Error;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const MANAGER: &str = "dhow-dns";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Writes the Service `kube-dns` of namespace `kube-system` at `cluster_ip`,
/// and slices that lead it to `endpoints`, where a [`crate::Server`] listens.
///
/// What is there is brought in line; a Service with another address is made
/// anew. Loopback addresses are refused as endpoints.
///
/// The user of `client` must be able to write Namespaces, Services and
/// EndpointSlices, and to claim the address.
///
/// # Errors
///
/// [`Error::Api`].
pub async fn publish(
    client: Client,
    cluster_ip: IpAddr,
    endpoints: &[SocketAddr],
) -> Result<(), Error> {
    let force = PatchParams::apply(MANAGER).force();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    if namespaces.get_opt(NAMESPACE).await?.is_none() {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
        });
        namespaces
            .patch(NAMESPACE, &force, &Patch::Apply(namespace))
            .await?;
    }

    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    if let Some(known) = services.get_opt(NAME).await? {
        let address = known.spec.and_then(|spec| spec.cluster_ip);
        if address != Some(cluster_ip.to_string()) {
            services.delete(NAME, &DeleteParams::default()).await?;
        }
    }
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "clusterIP": cluster_ip,
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ],
        },
    });
    services.patch(NAME, &force, &Patch::Apply(service)).await?;

    let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    // A slice has one port and one kind of address for all its endpoints.
    let mut wanted: BTreeMap<String, (&str, u16, Vec<IpAddr>)> = BTreeMap::new();
    for endpoint in endpoints {
        let kind = if endpoint.is_ipv4() { "IPv4" } else { "IPv6" };
        let name = format!("{NAME}-{}-{}", kind.to_ascii_lowercase(), endpoint.port());
        let entry = wanted.entry(name);
        let (_, _, addresses) = entry.or_insert_with(|| (kind, endpoint.port(), Vec::new()));
        addresses.push(endpoint.ip());
    }
    for (name, (kind, port, addresses)) in &wanted {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|address| json!({ "addresses": [address], "conditions": { "ready": true } }))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "labels": {
                    SERVICE_LABEL: NAME,
                    "endpointslice.kubernetes.io/managed-by": MANAGER,
                },
            },
            "addressType": kind,
            "endpoints": endpoints,
            "ports": [
                { "name": "dns", "port": port, "protocol": "UDP" },
                { "name": "dns-tcp", "port": port, "protocol": "TCP" },
            ],
        });
        slices.patch(name, &force, &Patch::Apply(slice)).await?;
    }
    let ours = ListParams::default().labels(&format!("{SERVICE_LABEL}={NAME}"));
    for slice in slices.list(&ours).await? {
        if !wanted.contains_key(&slice.name_any()) {
            slices
                .delete(&slice.name_any(), &DeleteParams::default())
                .await?;
        }
    }
    Ok(())
}
