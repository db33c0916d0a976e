//! The first objects of a cluster, written at every start where they are missing.

use serde_json::{Value, json};

use crate::api::{Api, DryRun};
use crate::auth::bootstrap;
use crate::error::ApiError;
use crate::managed::Manager;
use crate::resource::Resource;
use crate::tree;
use crate::verb::{Scope, Write};

fn own_write() -> Write {
    Write {
        scope: Scope::Internal,
        manager: Manager::Update("kube-apiserver".to_owned()),
        dry_run: DryRun::No,
        user: None,
    }
}

impl Api {
    /// Makes sure of namespaces, roles, bindings, priority classes and the
    /// server's own Service.
    pub(crate) async fn bootstrap(&self) -> Result<(), ApiError> {
        let services = self.registry.known("", "services");
        for service in self.caches.of(services).list("").0 {
            self.addresses.note(&service.tree());
        }
        let namespaces = self.registry.known("", "namespaces");
        for name in bootstrap::NAMESPACES {
            let namespace = json!({"kind": "Namespace", "apiVersion": "v1",
                "metadata": {"name": name}});
            self.ensure(namespaces, namespace).await?;
        }
        let rbac = "rbac.authorization.k8s.io";
        let roles = self.registry.known(rbac, "clusterroles");
        for role in bootstrap::cluster_roles() {
            self.ensure(roles, role).await?;
        }
        let bindings = self.registry.known(rbac, "clusterrolebindings");
        for binding in bootstrap::cluster_role_bindings() {
            self.ensure(bindings, binding).await?;
        }
        let classes = self.registry.known("scheduling.k8s.io", "priorityclasses");
        for class in crate::admission::classes() {
            self.ensure(classes, class).await?;
        }
        self.own_service().await
    }

    /// Creates an object if there is none of its name.
    async fn ensure(&self, resource: &Resource, value: Value) -> Result<(), ApiError> {
        let namespace = tree::text(&value, &["metadata", "namespace"]);
        let name = tree::text(&value, &["metadata", "name"]);
        if self.find(resource, namespace, name).await?.is_some() {
            return Ok(());
        }
        match self.create_value(resource, value, &own_write()).await {
            Err(error) if error.reason != "AlreadyExists" => Err(error),
            _ => Ok(()),
        }
    }

    /// The `kubernetes` Service and where it leads.
    async fn own_service(&self) -> Result<(), ApiError> {
        let first = self.addresses.first().to_string();
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let port = self.config.port;
        let service = json!({"kind": "Service", "apiVersion": "v1",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {"clusterIP": first, "ports": [
                {"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}});
        let services = self.registry.known("", "services");
        self.ensure(services, service).await?;
        let address = self.config.advertise.to_string();
        let endpoints = json!({"kind": "Endpoints", "apiVersion": "v1",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": address}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
        self.settle("", "endpoints", endpoints, "subsets").await?;
        let family = if self.config.advertise.is_ipv4() {
            "IPv4"
        } else {
            "IPv6"
        };
        let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]});
        let group = "discovery.k8s.io";
        self.settle(group, "endpointslices", slice.clone(), "endpoints")
            .await?;
        self.settle(group, "endpointslices", slice, "ports").await
    }

    /// Creates an object, or brings one field of the existing one up to date.
    async fn settle(
        &self,
        group: &str,
        plural: &str,
        value: Value,
        field: &str,
    ) -> Result<(), ApiError> {
        let resource = self.registry.known(group, plural);
        self.ensure(resource, value.clone()).await?;
        let name = tree::text(&value, &["metadata", "name"]).to_owned();
        self.modify(resource, "default", &name, &own_write(), |current| {
            let mut new = current.clone();
            tree::set(&mut new, &[field], value[field].clone());
            Ok(new)
        })
        .await?;
        Ok(())
    }
}
