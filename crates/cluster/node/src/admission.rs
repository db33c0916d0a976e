//! Whether a pod fits on this machine: the scheduler's decision, checked again
//! where it counts.

use std::collections::BTreeMap;

use dhow_quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};

use crate::config::Capacity;

/// What a pod takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Processor time, in thousandths of a core.
    cpu: i64,
    /// Bytes of memory.
    memory: i64,
    /// Ports of the host: protocol, number, address.
    ports: Vec<(String, i32, String)>,
}

/// Why a pod does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Reason in the pod's status.
    pub(crate) reason: &'static str,
    /// In words.
    pub(crate) message: String,
}

impl Needs {
    /// What a pod takes: the sum of its containers, or the greatest of what
    /// its init containers take one by one (with the sidecars before them).
    pub(crate) fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else {
            return Self::default();
        };
        Self {
            cpu: total(spec, "cpu", |amount| amount.milli_value()),
            memory: total(spec, "memory", |amount| amount.value()),
            ports: ports(spec),
        }
    }
}

fn total(spec: &PodSpec, name: &str, unit: fn(&Quantity) -> i64) -> i64 {
    let of = |resources: &Option<ResourceRequirements>| {
        request(resources.as_ref(), name).map_or(0, |amount| unit(&amount))
    };
    let mut sidecars = 0_i64;
    let mut peak = 0_i64;
    for init in spec.init_containers.iter().flatten() {
        let own = of(&init.resources);
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.saturating_add(own);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.saturating_add(own));
        }
    }
    let mains = spec
        .containers
        .iter()
        .map(|container| of(&container.resources));
    let sum = mains.fold(sidecars, i64::saturating_add).max(peak);
    let overhead = spec.overhead.as_ref().and_then(|map| map.get(name));
    let overhead = overhead.and_then(|text| text.0.parse::<Quantity>().ok());
    // What is asked for the pod as a whole stands for its containers.
    let whole = request(spec.resources.as_ref(), name).map_or(sum, |amount| unit(&amount));
    whole.saturating_add(overhead.map_or(0, |amount| unit(&amount)))
}

fn request(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    let text = resources?.requests.as_ref()?.get(name)?;
    text.0.parse().ok()
}

fn ports(spec: &PodSpec) -> Vec<(String, i32, String)> {
    let ports = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    ports
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let address = port.host_ip.clone().unwrap_or_default();
            Some((protocol, number, address))
        })
        .collect()
}

/// Whether a pod fits beside others.
pub(crate) fn admit<'a>(
    capacity: &Capacity,
    others: impl Iterator<Item = &'a Needs>,
    pod: &Needs,
) -> Result<(), Refusal> {
    let (mut n_pods, mut cpu, mut memory) = (0_i64, 0_i64, 0_i64);
    let mut taken: BTreeMap<(&str, i32), Vec<&str>> = BTreeMap::new();
    for other in others {
        n_pods += 1;
        cpu = cpu.saturating_add(other.cpu);
        memory = memory.saturating_add(other.memory);
        for (protocol, number, address) in &other.ports {
            taken.entry((protocol, *number)).or_default().push(address);
        }
    }
    let out_of = |reason: &'static str, name: &str, asked: i64, used: i64, capacity: i64| {
        if asked == 0 || used.saturating_add(asked) <= capacity {
            return Ok(());
        }
        Err(Refusal {
            reason,
            message: format!(
                "Pod was rejected: Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {capacity}"
            ),
        })
    };
    out_of("OutOfpods", "pods", 1, n_pods, capacity.pods)?;
    out_of("OutOfcpu", "cpu", pod.cpu, cpu, capacity.cpu)?;
    out_of("OutOfmemory", "memory", pod.memory, memory, capacity.memory)?;
    let is_any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
    for (protocol, number, address) in &pod.ports {
        let clash = taken
            .get(&(protocol.as_str(), *number))
            .is_some_and(|list| {
                let mut list = list.iter();
                list.any(|other| is_any(address) || is_any(other) || other == address)
            });
        if clash {
            return Err(Refusal {
                reason: "NodePorts",
                message: "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn needs(spec: serde_json::Value) -> Needs {
        let pod = json!({"metadata": {}, "spec": spec});
        Needs::of(&serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn sidecars_add_and_inits_peak() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"initContainers": [sidecar, container("2")],
            "containers": [container("500m"), container("500m")]});
        assert_eq!(needs(spec).cpu, 2100);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let capacity = Capacity {
            cpu: 1000,
            memory: 1 << 30,
            ephemeral_storage: 0,
            pods: 2,
        };
        let spec = |cpu: &str, port: i32| {
            needs(json!({"containers": [{"name": "c",
                "ports": [{"containerPort": 80, "hostPort": port}],
                "resources": {"requests": {"cpu": cpu}}}]}))
        };
        let one = spec("600m", 80);
        let refused = |others: &[Needs], pod: Needs| {
            let outcome = admit(&capacity, others.iter(), &pod);
            outcome.err().map(|refusal| refusal.reason)
        };
        assert_eq!(refused(std::slice::from_ref(&one), spec("400m", 81)), None);
        assert_eq!(
            refused(std::slice::from_ref(&one), spec("500m", 81)),
            Some("OutOfcpu")
        );
        assert_eq!(
            refused(std::slice::from_ref(&one), spec("1m", 80)),
            Some("NodePorts")
        );
        assert_eq!(
            refused(&[one.clone(), one], spec("0", 81)),
            Some("OutOfpods")
        );
    }
}
