//! Services between real sockets, from the API to the packet. Needs root.

mod world;

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::UdpSocket;
use std::process::Command;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Service;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use world::{
    Cluster, NODE, PATIENCE, TABLE, World, address, ask, ask_briefly, ask_often, pod, tables,
};

fn ports() -> Value {
    json!([
        { "name": "tcp", "port": 80, "protocol": "TCP" },
        { "name": "udp", "port": 80, "protocol": "UDP" },
    ])
}

fn cluster_ip(service: &Service) -> String {
    let spec = service.spec.as_ref().expect("a spec");
    spec.cluster_ip.clone().expect("an address")
}

fn node_port(service: &Service) -> i32 {
    let spec = service.spec.as_ref().expect("a spec");
    spec.ports.as_ref().expect("ports")[0]
        .node_port
        .expect("a node port")
}

fn is_refused<T>(result: io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_address_leads_to_every_endpoint() {
    let world = World::new();
    world.serve();
    let mut cluster = Cluster::new(&world).await;
    let service = cluster.service("web", json!({ "ports": ports() })).await;
    let web = format!("{}:80", cluster_ip(&service));
    cluster
        .until("refused without endpoints", || {
            is_refused(ask(&world.node, &web)) && is_refused(ask(&world.pods[0], &web))
        })
        .await;

    cluster
        .endpoints("web", &[(1, NODE), (2, NODE), (3, NODE)])
        .await;
    cluster
        .until("served", || ask(&world.node, &web).is_ok())
        .await;
    let all = BTreeSet::from([1, 2, 3]);
    let (answered, seen) = ask_often(&world.node, &web);
    assert_eq!(answered, all);
    assert_eq!(
        seen,
        [address("10.1.0.1")].into(),
        "the host is masqueraded"
    );
    let (answered, seen) = ask_often(&world.pods[0], &web);
    assert_eq!(answered, all);
    assert_eq!(
        seen,
        [address(&pod(1)), address("10.1.0.1")].into(),
        "pods keep their address but before themselves"
    );
    let other_port = format!("{}:81", cluster_ip(&service));
    assert!(is_refused(ask(&world.pods[0], &other_port)));
    assert!(is_refused(ask(&world.node, &other_port)));

    cluster
        .services()
        .delete("web", &DeleteParams::default())
        .await
        .expect("deleted");
    let web = cluster_ip(&service);
    let remembers = || {
        world.on_node(|| {
            let output = Command::new("nft")
                .args(["list", "table", "ip", TABLE])
                .output()
                .expect("nft is installed (Debian package nftables)");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).contains(&format!("{web} "))
        })
    };
    cluster.until("forgotten", || !remembers()).await;
    cluster.end(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_follow_when_endpoints_move() {
    let world = World::new();
    world.serve();
    let mut cluster = Cluster::new(&world).await;
    let service = cluster.service("web", json!({ "ports": ports() })).await;
    cluster.endpoints("web", &[(2, NODE)]).await;
    let to = format!("{}:80", cluster_ip(&service));
    cluster
        .until("served", || ask(&world.node, &to).is_ok())
        .await;

    // One socket, so one flow.
    let socket = world.pods[0]
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_read_timeout(Some(PATIENCE)).expect("set");
            socket.connect(&to).expect("connected");
            socket
        })
        .expect("enter");
    let asked = || {
        socket.send(b"who?")?;
        let mut answer = [0; 16];
        socket.recv(&mut answer)?;
        io::Result::Ok(answer[0])
    };
    assert_eq!(asked().expect("an answer"), 2);
    cluster.endpoints("web", &[(3, NODE)]).await;
    cluster
        .until("the flow moved", || asked().expect("an answer") == 3)
        .await;
    cluster.endpoints("web", &[]).await;
    cluster
        .until("the flow ended", || is_refused(asked()))
        .await;
    cluster.end(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_ports_answer_at_every_address() {
    let world = World::new();
    world.serve();
    let mut cluster = Cluster::new(&world).await;
    let spec = json!({ "type": "NodePort", "ports": ports(), "externalIPs": ["198.51.100.7"] });
    let service = cluster.service("web", spec).await;
    let port = node_port(&service);
    let outer = format!("192.0.2.2:{port}");
    cluster
        .until("refused without endpoints", || {
            is_refused(ask(&world.outside, &outer))
                && is_refused(ask(&world.outside, "198.51.100.7:80"))
                && is_refused(ask(&world.node, &format!("127.0.0.1:{port}")))
        })
        .await;
    cluster.endpoints("web", &[(1, NODE), (2, "there")]).await;
    cluster
        .until("served", || ask(&world.outside, &outer).is_ok())
        .await;
    let places = [
        (&world.outside, outer.clone()),
        (&world.outside, "198.51.100.7:80".into()),
        (&world.node, outer.clone()),
        (&world.node, format!("127.0.0.1:{port}")),
        (&world.pods[2], outer.clone()),
        (&world.pods[2], format!("10.1.0.1:{port}")),
    ];
    for (from, to) in places {
        let (answered, seen) = ask_often(from, &to);
        assert_eq!(answered, [1, 2].into(), "{to}");
        assert_eq!(seen, [address("10.1.0.1")].into(), "{to}");
    }

    // Endpoints of this node alone, which see the client; but clients of the
    // cluster reach all.
    let patch = json!({ "spec": { "externalTrafficPolicy": "Local" } });
    cluster
        .services()
        .patch(
            "web",
            &kube::api::PatchParams::default(),
            &kube::api::Patch::Merge(patch),
        )
        .await
        .expect("patched");
    cluster
        .until("the client is seen", || {
            ask(&world.outside, &outer).is_ok_and(|(_, seen)| seen == address("192.0.2.1"))
        })
        .await;
    for to in [&outer, "198.51.100.7:80"] {
        let (answered, seen) = ask_often(&world.outside, to);
        assert_eq!(answered, [1].into(), "{to}");
        assert_eq!(seen, [address("192.0.2.1")].into(), "{to}");
    }
    for (from, to) in [
        (&world.pods[2], outer.clone()),
        (&world.node, format!("127.0.0.1:{port}")),
    ] {
        assert_eq!(ask_often(from, &to).0, [1, 2].into(), "{to}");
    }
    cluster.end(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_lets_in_whom_it_should() {
    let world = World::new();
    world.serve();
    let mut cluster = Cluster::new(&world).await;
    let spec = json!({
        "type": "LoadBalancer",
        "ports": ports(),
        "loadBalancerSourceRanges": ["192.0.2.0/24", "10.1.0.2/32"],
    });
    cluster.service("web", spec).await;
    cluster.endpoints("web", &[(1, NODE), (2, NODE)]).await;
    let ingress =
        json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "198.51.100.9" }] } } });
    cluster
        .services()
        .patch_status(
            "web",
            &kube::api::PatchParams::default(),
            &kube::api::Patch::Merge(ingress),
        )
        .await
        .expect("patched");
    let to = "198.51.100.9:80";
    cluster
        .until("served", || ask_briefly(&world.outside, to).is_ok())
        .await;
    assert_eq!(ask_often(&world.outside, to).0, [1, 2].into());
    assert_eq!(ask_often(&world.pods[0], to).0, [1, 2].into());
    let error = ask_briefly(&world.pods[1], to).expect_err("it is not among them");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    cluster.end(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_stays_with_its_endpoint() {
    let world = World::new();
    world.serve();
    let mut cluster = Cluster::new(&world).await;
    let spec = json!({ "type": "NodePort", "ports": ports(), "sessionAffinity": "ClientIP" });
    let service = cluster.service("web", spec).await;
    cluster
        .endpoints("web", &[(1, NODE), (2, NODE), (3, NODE)])
        .await;
    let web = format!("{}:80", cluster_ip(&service));
    let outer = format!("192.0.2.2:{}", node_port(&service));
    cluster
        .until("served", || ask(&world.node, &web).is_ok())
        .await;
    let (first, _) = ask(&world.pods[0], &web).expect("an answer");
    assert_eq!(ask_often(&world.pods[0], &web).0, [first].into());
    assert_eq!(ask_often(&world.outside, &outer).0.len(), 1);

    // Its endpoint goes: it stays with another, also when the first is back.
    let others: Vec<(u8, &str)> = (1..=3)
        .filter(|number| *number != first)
        .map(|number| (number, NODE))
        .collect();
    cluster.endpoints("web", &others).await;
    cluster
        .until("moved", || {
            ask(&world.pods[0], &web).is_ok_and(|(number, _)| number != first)
        })
        .await;
    let (second, _) = ask(&world.pods[0], &web).expect("an answer");
    assert_eq!(ask_often(&world.pods[0], &web).0, [second].into());
    cluster.end(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_strangers_break_is_repaired() {
    let world = World::new();
    world.serve();
    let mut cluster = Cluster::new(&world).await;
    let service = cluster.service("web", json!({ "ports": ports() })).await;
    cluster.endpoints("web", &[(1, NODE)]).await;
    let web = format!("{}:80", cluster_ip(&service));
    cluster
        .until("served", || ask(&world.node, &web).is_ok())
        .await;
    for command in ["flush ruleset", "flush chain ip TABLE dispatch"] {
        let command = command.replace("TABLE", TABLE);
        world.on_node(|| {
            let status = Command::new("nft").args(command.split(' ')).status();
            assert!(status.expect("nft is installed").success());
        });
        cluster
            .until(&command, || {
                world.on_node(|| tables().len() == 1) && ask(&world.node, &web).is_ok()
            })
            .await;
    }
    cluster.end(&world);
}

/// As a cluster of one machine has it: the name server listens on the node, and
/// pods find it at its cluster address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_answered_at_the_cluster_address() {
    let world = World::new();
    world.serve();
    let mut cluster = Cluster::new(&world).await;
    let config = dhow_dns::Config {
        listen: vec!["10.1.0.1:10053".parse().expect("an address")],
        domain: "cluster.local".into(),
        upstreams: Vec::new(),
    };
    let here = tokio::runtime::Handle::current();
    let bound = tokio::task::block_in_place(|| {
        world.on_node(|| here.block_on(dhow_dns::Server::bind(config)))
    });
    let server = bound.expect("bound");
    let endpoints = server.addresses();
    let running = tokio::spawn(server.run(cluster.client.clone(), std::future::pending()));
    let at = address("10.96.0.10");
    dhow_dns::publish(cluster.client.clone(), at, &endpoints)
        .await
        .expect("published");
    let service = cluster.service("web", json!({ "ports": ports() })).await;
    let web = cluster_ip(&service);

    let mut question = Message::query();
    let name = Name::from_ascii("web.default.svc.cluster.local.").expect("a name");
    question.add_query(Query::query(name, RecordType::A));
    let question = question.to_vec().expect("bytes");
    cluster
        .until("its address is forwarded", || {
            let connect = || std::net::TcpStream::connect_timeout(&(at, 53).into(), PATIENCE);
            world.pods[0].run(connect).expect("enter").is_ok()
        })
        .await;
    let asked = |from: &dhow_netlink::Namespace| -> io::Result<Vec<String>> {
        let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).expect("enter")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((at, 53))?;
        socket.send(&question)?;
        let mut bytes = [0; 512];
        let length = socket.recv(&mut bytes)?;
        let answer = Message::from_vec(&bytes[..length]).map_err(io::Error::other)?;
        let records = answer.answers.iter();
        Ok(records.map(|record| record.data.to_string()).collect())
    };
    for from in [&world.pods[0], &world.node] {
        // The server hears of the Service by a watch of its own.
        let began = std::time::Instant::now();
        while tokio::task::block_in_place(|| asked(from)).expect("an answer") != [&*web] {
            assert!(began.elapsed() < PATIENCE, "the name is not known");
        }
    }
    // By stream, too.
    let streamed = tokio::task::block_in_place(|| {
        let connect = || std::net::TcpStream::connect_timeout(&(at, 53).into(), PATIENCE);
        let mut stream = world.pods[1].run(connect).expect("enter")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&(question.len() as u16).to_be_bytes())?;
        stream.write_all(&question)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        io::Result::Ok(u16::from_be_bytes(length))
    });
    assert!(streamed.expect("an answer") > 12);
    running.abort();
    cluster.end(&world);
}
