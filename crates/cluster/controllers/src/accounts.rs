//! What every namespace gets: the ServiceAccount `default` and the ConfigMap
//! `kube-root-ca.crt`.

use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::error::{Error, again};

const CONFIG_MAP: &str = "kube-root-ca.crt";
const ENTRY: &str = "ca.crt";

struct Context {
    client: Client,
    root_certificate: String,
}

pub(crate) async fn run(client: Client, root_certificate: String) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let of_namespace =
        |namespace: Option<String>| namespace.map(|name| ObjectRef::<Namespace>::new(&name));
    Controller::new(namespaces, watcher::Config::default())
        .watches(
            Api::<ServiceAccount>::all(client.clone()),
            watcher::Config::default().fields("metadata.name=default"),
            move |account| of_namespace(account.namespace()),
        )
        .watches(
            Api::<ConfigMap>::all(client.clone()),
            watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}")),
            move |map| of_namespace(map.namespace()),
        )
        .run(
            reconcile,
            again,
            Arc::new(Context {
                client,
                root_certificate,
            }),
        )
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn reconcile(namespace: Arc<Namespace>, context: Arc<Context>) -> Result<Action, Error> {
    if namespace.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let name = namespace.name_any();
    let accounts: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &name);
    if accounts.get_opt("default").await?.is_none() {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some("default".into()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        accounts.create(&PostParams::default(), &account).await?;
    }
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &name);
    let data = [(ENTRY.to_owned(), context.root_certificate.clone())].into();
    match maps.get_opt(CONFIG_MAP).await? {
        None => {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(CONFIG_MAP.into()),
                    ..ObjectMeta::default()
                },
                data: Some(data),
                ..ConfigMap::default()
            };
            maps.create(&PostParams::default(), &map).await?;
        }
        Some(map) if map.data.as_ref() != Some(&data) => {
            let patch = Patch::Merge(json!({ "data": data }));
            maps.patch(CONFIG_MAP, &PatchParams::default(), &patch)
                .await?;
        }
        Some(_) => {}
    }
    Ok(Action::await_change())
}
