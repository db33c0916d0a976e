//! How much of what: requests of pods and capacities of nodes.
//!
//! Whole numbers in the units the scheduler counts in: thousandths of a core,
//! bytes, pieces. Parsing what people write is `dhow-quantity`'s.

use std::collections::BTreeMap;

use dhow_quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// What a container that asks for nothing is taken for when nodes are scored.
const UNASKED_CPU: i64 = 100;
const UNASKED_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Processor time in thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of local scratch space.
    pub ephemeral: i64,
    /// Everything else, by name: devices, huge pages.
    pub extended: BTreeMap<Box<str>, i64>,
}

impl Amounts {
    /// Reads what the API carries; `pods` is left out, and what is no quantity
    /// counts as nothing (the API server refuses it).
    pub fn read(amounts: Option<&BTreeMap<String, Text>>) -> Self {
        let mut read = Self::default();
        for (name, text) in amounts.into_iter().flatten() {
            let Ok(quantity) = text.0.parse::<Quantity>() else {
                continue;
            };
            match name.as_str() {
                "cpu" => read.milli_cpu = quantity.milli_value(),
                "memory" => read.memory = quantity.value(),
                "ephemeral-storage" => read.ephemeral = quantity.value(),
                "pods" => {}
                other => {
                    read.extended.insert(other.into(), quantity.value());
                }
            }
        }
        read
    }

    /// Adds another's amounts.
    pub fn add(&mut self, other: &Self) {
        self.milli_cpu += other.milli_cpu;
        self.memory += other.memory;
        self.ephemeral += other.ephemeral;
        for (name, amount) in &other.extended {
            *self.extended.entry(name.clone()).or_insert(0) += amount;
        }
    }

    /// Takes another's amounts away.
    pub fn subtract(&mut self, other: &Self) {
        self.milli_cpu -= other.milli_cpu;
        self.memory -= other.memory;
        self.ephemeral -= other.ephemeral;
        for (name, amount) in &other.extended {
            if let Some(mine) = self.extended.get_mut(name) {
                *mine -= amount;
                if *mine == 0 {
                    self.extended.remove(name);
                }
            }
        }
    }

    /// The greater of both, resource by resource.
    fn raise_to(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_insert(0);
            *mine = (*mine).max(*amount);
        }
    }

    /// Replaces the amounts that `other` names.
    fn override_with(&mut self, other: &Self, named: &BTreeMap<String, Text>) {
        if named.contains_key("cpu") {
            self.milli_cpu = other.milli_cpu;
        }
        if named.contains_key("memory") {
            self.memory = other.memory;
        }
    }

    /// Names of the resources of which `asked` more is not to be had when
    /// `used` of this capacity is taken.
    pub fn lacking(&self, used: &Self, asked: &Self) -> Vec<Box<str>> {
        let mut lacking: Vec<Box<str>> = Vec::new();
        let three = [
            ("cpu", self.milli_cpu, used.milli_cpu, asked.milli_cpu),
            ("memory", self.memory, used.memory, asked.memory),
            (
                "ephemeral-storage",
                self.ephemeral,
                used.ephemeral,
                asked.ephemeral,
            ),
        ];
        for (name, capacity, used, asked) in three {
            if asked > 0 && asked > capacity - used {
                lacking.push(name.into());
            }
        }
        for (name, asked) in &asked.extended {
            let capacity = self.extended.get(name).copied().unwrap_or(0);
            let used = used.extended.get(name).copied().unwrap_or(0);
            if *asked > 0 && *asked > capacity - used {
                lacking.push(name.clone());
            }
        }
        lacking
    }
}

/// What a pod asks for: exactly, and as it is taken for in scores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// What must fit.
    pub exact: Amounts,
    /// The same, with a little for containers that ask for nothing.
    pub felt: Amounts,
}

/// What a pod asks for: its containers and sidecars together, or the largest
/// step of its initialization if that is more, and the overhead of its runtime.
pub fn demand(spec: &PodSpec) -> Demand {
    let of = |kind: Kind| {
        let mut running = Amounts::default();
        let mut most = Amounts::default();
        for container in spec.init_containers.iter().flatten() {
            let asked = asked(container, kind);
            if container.restart_policy.as_deref() == Some("Always") {
                running.add(&asked);
                most.raise_to(&running);
            } else {
                let mut step = running.clone();
                step.add(&asked);
                most.raise_to(&step);
            }
        }
        for container in &spec.containers {
            running.add(&asked(container, kind));
        }
        most.raise_to(&running);
        if let Some(named) = spec
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref())
        {
            most.override_with(&Amounts::read(Some(named)), named);
        }
        most.add(&Amounts::read(spec.overhead.as_ref()));
        most
    };
    Demand {
        exact: of(Kind::Exact),
        felt: of(Kind::Felt),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    Felt,
}

fn asked(container: &Container, kind: Kind) -> Amounts {
    let none = ResourceRequirements::default();
    let resources = container.resources.as_ref().unwrap_or(&none);
    let mut asked = Amounts::read(resources.requests.as_ref());
    if kind == Kind::Felt {
        let named = |name| {
            resources
                .requests
                .as_ref()
                .is_some_and(|requests| requests.contains_key(name))
        };
        if !named("cpu") {
            asked.milli_cpu = UNASKED_CPU;
        }
        if !named("memory") {
            asked.memory = UNASKED_MEMORY;
        }
    }
    asked
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).expect("a spec")
    }

    fn cpu(text: &str) -> serde_json::Value {
        json!({ "requests": { "cpu": text } })
    }

    #[test]
    fn the_largest_step_of_a_pods_life_counts() {
        let pod = spec(json!({
            "initContainers": [
                { "name": "a", "resources": cpu("500m") },
                { "name": "side", "restartPolicy": "Always", "resources": cpu("200m") },
                { "name": "b", "resources": cpu("2") },
            ],
            "containers": [{ "name": "c", "resources": cpu("1") }],
            "overhead": { "cpu": "50m" },
        }));
        // The sidecar runs beside the last step of the initialization.
        assert_eq!(demand(&pod).exact.milli_cpu, 2250);
        let pod = spec(json!({
            "initContainers": [{ "name": "side", "restartPolicy": "Always", "resources": cpu("1") }],
            "containers": [{ "name": "c", "resources": cpu("1500m") }, { "name": "d" }],
        }));
        assert_eq!(demand(&pod).exact.milli_cpu, 2500);
        assert_eq!(demand(&pod).felt.milli_cpu, 2600);
        let pod = spec(json!({
            "resources": { "requests": { "cpu": "3" } },
            "containers": [{ "name": "c", "resources": cpu("1500m") }],
        }));
        assert_eq!(demand(&pod).exact.milli_cpu, 3000);
    }

    #[test]
    fn what_lacks_is_named() {
        let amounts = |value| -> Amounts {
            Amounts::read(Some(&serde_json::from_value(value).expect("amounts")))
        };
        let capacity = amounts(json!({ "cpu": "1", "memory": "1Gi" }));
        let asked = amounts(json!({ "cpu": "600m", "memory": "1Gi", "example.com/gpu": "1" }));
        let used = amounts(json!({ "cpu": "500m" }));
        let lacking = capacity.lacking(&used, &asked);
        assert_eq!(lacking, ["cpu".into(), "example.com/gpu".into()]);
        assert!(capacity.lacking(&used, &Amounts::default()).is_empty());
    }
}
