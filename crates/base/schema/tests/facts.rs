//! Our tables against the OpenAPI documents upstream serves, where they are at
//! hand: every type and field, its shape, list type, keys, strategies, enums.

use std::path::{Path, PathBuf};

use dhow_schema::openapi::Components;
use dhow_schema::{Shape, builtin};
use serde_json::Value;

fn documents() -> Option<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|root| root.join("shared/kube/openapi-v3"))
        .find(|folder| folder.exists())
}

/// Fields upstream removed, and facts it changed, since the documents were made.
const CHANGED: &[&str] = &[
    "ObjectMeta.clusterName",
    "PersistentVolumeClaimStatus.resizeStatus",
    "CSIStorageCapacityList",
    "PersistentVolumeClaimSpec.dataSourceRef",
    "IngressStatus.loadBalancer",
];

/// Fields that the documents close with an enum and upstream has opened since:
/// a pod's conditions may have any name, readiness gates live on that.
const OPENED: &[&str] = &["PodCondition.type", "PodReadinessGate.conditionType"];

fn of_type(schema: &Value) -> String {
    let inner = schema
        .get("allOf")
        .and_then(|all| all.get(0))
        .unwrap_or(schema);
    if let Some(reference) = inner.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or("");
        // A claim's own resource type was split off later; raw JSON has names of its own.
        return match name {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON"
            | "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray"
            | "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool"
            | "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray" => {
                "io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned()
            }
            name => name.to_owned(),
        };
    }
    let kind = inner.get("type").and_then(Value::as_str).unwrap_or("");
    let format = inner.get("format").and_then(Value::as_str).unwrap_or("");
    match kind {
        "array" => format!("[{}]", of_type(&inner["items"])),
        "object" => match inner.get("additionalProperties") {
            Some(item) => format!("{{{}}}", of_type(item)),
            None => "object".to_owned(),
        },
        kind => format!("{kind}:{format}"),
    }
}

#[test]
fn upstreams_facts_are_ours() {
    let Some(folder) = documents() else {
        return;
    };
    let types = builtin();
    let mut components = Components::default();
    for ty in types.iter() {
        let id = types.id(&ty.name).expect("it is listed");
        components.add(types, &Shape::Struct(id));
    }
    let ours = components.finish();
    let mut wrong = Vec::new();
    let mut n_fields = 0;
    for entry in std::fs::read_dir(folder).expect("listed").flatten() {
        let bytes = std::fs::read(entry.path()).expect("readable");
        let document: Value = serde_json::from_slice(&bytes).expect("JSON");
        let schemas = document["components"]["schemas"]
            .as_object()
            .expect("schemas");
        for (name, theirs) in schemas {
            let short = name.rsplit('.').next().unwrap_or("");
            let listed = short.ends_with("List") && theirs["properties"].get("items").is_some();
            if listed || CHANGED.contains(&short) {
                continue;
            }
            let Some(own) = ours.get(name) else {
                if theirs.get("properties").is_some() && !name.contains("JSONSchemaPropsOr") {
                    wrong.push(format!("{name} is missing"));
                }
                continue;
            };
            let properties = theirs.get("properties").and_then(Value::as_object);
            for (field, theirs) in properties.into_iter().flatten() {
                let place = format!("{short}.{field}");
                if CHANGED.contains(&&*place) {
                    continue;
                }
                n_fields += 1;
                let Some(own) = own["properties"].get(field) else {
                    wrong.push(format!("{place} is missing"));
                    continue;
                };
                let (a, b) = (of_type(own), of_type(theirs));
                let renamed =
                    a.ends_with("VolumeResourceRequirements") || b == "object" || a == "object";
                if a != b && !renamed {
                    wrong.push(format!("{place} is {a}, upstream {b}"));
                }
                for fact in [
                    "x-kubernetes-list-type",
                    "x-kubernetes-list-map-keys",
                    "x-kubernetes-patch-strategy",
                    "x-kubernetes-patch-merge-key",
                ] {
                    // A list without a type is atomic.
                    if let Some(wanted) = theirs.get(fact)
                        && own.get(fact) != Some(wanted)
                        && !(wanted == "atomic" && own.get(fact).is_none())
                    {
                        wrong.push(format!(
                            "{place}: {fact} is {:?}, upstream {wanted}",
                            own.get(fact)
                        ));
                    }
                }
                if OPENED.contains(&&*place) {
                    continue;
                }
                for legal in theirs
                    .get("enum")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    let known = own.get("enum").and_then(Value::as_array);
                    if known.is_none_or(|known| !known.contains(legal)) {
                        wrong.push(format!("{place} may be {legal}"));
                    }
                }
            }
        }
    }
    assert!(n_fields > 2000, "only {n_fields} fields were compared");
    assert!(
        wrong.is_empty(),
        "{} differences:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
