//! The name server over real sockets, with an API server in this process and
//! an upstream made for the purpose.

mod support;

use std::net::SocketAddr;

use hickory_proto::op::{Edns, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::json;

use support::{Cluster, Upstream, ask, ask_stream, name, query, send, texts};

#[tokio::test]
async fn services_are_found_as_they_come_and_go() {
    let upstream = Upstream::start().await;
    let cluster = Cluster::new(vec![upstream.address]).await;
    let web = "web.default.svc.cluster.local.";
    cluster
        .until(web, RecordType::A, |answer| {
            answer.metadata.response_code == ResponseCode::NXDomain
                && answer.authorities[0].record_type() == RecordType::SOA
        })
        .await;
    cluster
        .apply_service(
            "web",
            json!({ "clusterIP": "10.96.0.77", "ports": [{ "name": "http", "port": 80 }] }),
        )
        .await;
    let answer = cluster
        .until(web, RecordType::A, |answer| !answer.answers.is_empty())
        .await;
    assert_eq!(texts(&answer), ["10.96.0.77"]);
    assert!(answer.metadata.authoritative);
    let at = cluster.at();
    let service = ask(
        at,
        "_http._tcp.web.default.svc.cluster.local.",
        RecordType::SRV,
    )
    .await;
    assert_eq!(texts(&service), [format!("0 100 80 {web}")]);
    assert_eq!(service.additionals.len(), 1);
    let pointer = ask(at, "77.0.96.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(texts(&pointer), [web]);
    let nothing = ask(at, web, RecordType::AAAA).await;
    assert_eq!(nothing.metadata.response_code, ResponseCode::NoError);
    assert_eq!(nothing.authorities[0].record_type(), RecordType::SOA);
    let version = ask(at, "dns-version.cluster.local.", RecordType::TXT).await;
    assert_eq!(texts(&version), ["1.1.0"]);

    cluster.delete_service("web").await;
    cluster
        .until(web, RecordType::A, |answer| {
            answer.metadata.response_code == ResponseCode::NXDomain
        })
        .await;
    assert_eq!(upstream.n_asked(), 0, "names of the cluster are our own");
}

#[tokio::test]
async fn headless_services_are_their_endpoints() {
    let cluster = Cluster::new(Vec::new()).await;
    cluster
        .apply_service(
            "db",
            json!({ "clusterIP": "None", "ports": [{ "name": "sql", "port": 5432 }] }),
        )
        .await;
    let endpoints: Vec<_> = (1..=200)
        .map(|number| {
            json!({
                "addresses": [format!("10.1.0.{number}")],
                "hostname": format!("db-{number}"),
                "conditions": { "ready": number != 7 },
            })
        })
        .collect();
    cluster.apply_slice("db", json!(endpoints)).await;
    let db = "db.default.svc.cluster.local.";
    // 199 addresses do not fit a datagram: it is cut, and the stream has all.
    let cut = cluster
        .until(db, RecordType::A, |answer| answer.metadata.truncation)
        .await;
    assert_eq!(cut.answers.len(), 0);
    let at = cluster.at();
    let whole = ask_stream(at, &query(db, RecordType::A)).await;
    assert_eq!(whole.answers.len(), 199);
    let one = ask(at, "db-3.db.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(texts(&one), ["10.1.0.3"]);
    let unready = ask(at, "db-7.db.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(unready.metadata.response_code, ResponseCode::NXDomain);
    // The first answer changes from question to question.
    let first = ask_stream(at, &query(db, RecordType::A)).await;
    assert_ne!(first.answers[0], whole.answers[0]);
}

#[tokio::test]
async fn a_larger_datagram_is_used_when_the_asker_takes_it() {
    let cluster = Cluster::new(Vec::new()).await;
    cluster
        .apply_service("db", json!({ "clusterIP": "None" }))
        .await;
    let endpoints: Vec<_> = (1..=40)
        .map(|number| json!({ "addresses": [format!("10.1.0.{number}")] }))
        .collect();
    cluster.apply_slice("db", json!(endpoints)).await;
    let db = "db.default.svc.cluster.local.";
    cluster
        .until(db, RecordType::A, |answer| answer.metadata.truncation)
        .await;
    let mut question = query(db, RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    question.set_edns(edns);
    let answer = send(cluster.at(), &question).await;
    assert_eq!(answer.answers.len(), 40);
    let edns = answer.edns.expect("the answer says what it takes, too");
    assert_eq!(edns.max_payload(), 1232);
}

#[tokio::test]
async fn others_names_are_forwarded_and_remembered() {
    let upstream = Upstream::start().await;
    // The first does not answer at all.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("a socket");
    let cluster = Cluster::new(vec![silent.local_addr().expect("bound"), upstream.address]).await;
    let at = cluster.at();
    let answer = ask(at, "Host.Example.com.", RecordType::A).await;
    assert_eq!(texts(&answer), ["192.0.2.55"]);
    assert_eq!(
        answer.queries[0].name().to_ascii(),
        "Host.Example.com.",
        "in the asker's own letters"
    );
    assert_eq!(upstream.n_asked(), 1);
    let again = ask(at, "host.example.com.", RecordType::A).await;
    assert_eq!(texts(&again), ["192.0.2.55"]);
    assert_eq!(upstream.n_asked(), 1, "the answer is remembered");
    let stream = ask_stream(at, &query("host.example.com.", RecordType::A)).await;
    assert_eq!(texts(&stream), ["192.0.2.55"]);

    cluster
        .apply_service(
            "far",
            json!({ "type": "ExternalName", "externalName": "host.example.com" }),
        )
        .await;
    let far = cluster
        .until("far.default.svc.cluster.local.", RecordType::A, |answer| {
            !answer.answers.is_empty()
        })
        .await;
    assert_eq!(texts(&far), ["host.example.com.", "192.0.2.55"]);
    let none = ask(at, "missing.example.com.", RecordType::A).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_server_that_is_its_own_upstream_ends_the_loop() {
    // Whatever the server asks comes back to it as somebody's question.
    let relay = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("a socket");
    let cluster = Cluster::new(vec![relay.local_addr().expect("bound")]).await;
    let at = cluster.at();
    let looping = async {
        let (mut n_asked, mut buffer) = (0, [0; 4096]);
        loop {
            let (length, from) = relay.recv_from(&mut buffer).await.expect("received");
            if from != at {
                n_asked += 1;
                relay.send_to(&buffer[..length], at).await.expect("sent");
            } else {
                return n_asked;
            }
        }
    };
    let (answer, n_asked) = tokio::join!(ask(at, "host.example.com.", RecordType::A), looping);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(n_asked, 1, "it went round once");
}

#[tokio::test]
async fn what_is_no_question_is_refused_or_ignored() {
    let cluster = Cluster::new(Vec::new()).await;
    let at = cluster.at();
    let web = "web.default.svc.cluster.local.";
    cluster
        .until(web, RecordType::A, |answer| {
            answer.metadata.response_code == ResponseCode::NXDomain
        })
        .await;
    let mut two = query(web, RecordType::A);
    two.add_query(Query::query(name(web), RecordType::AAAA));
    assert_eq!(
        send(at, &two).await.metadata.response_code,
        ResponseCode::FormErr
    );
    let mut update = query(web, RecordType::A);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(
        send(at, &update).await.metadata.response_code,
        ResponseCode::NotImp
    );
    let transfer = ask(at, "cluster.local.", RecordType::AXFR).await;
    assert_eq!(transfer.metadata.response_code, ResponseCode::Refused);
    let mut newer = query(web, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    // "Bad version" and "bad signature" have one number.
    let code = send(at, &newer).await.metadata.response_code;
    assert_eq!(u16::from(code), u16::from(ResponseCode::BADVERS));
    // Bytes after a header that promises more than there is.
    let mut broken = query(web, RecordType::A).to_vec().expect("bytes");
    broken.truncate(20);
    let answer = support::send_bytes(at, &broken).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(answer.metadata.id.to_be_bytes(), broken[..2]);
}

#[tokio::test]
async fn it_survives_hostile_datagrams() {
    let cluster = Cluster::new(Vec::new()).await;
    let at = cluster.at();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("a socket");
    let good = query("web.default.svc.cluster.local.", RecordType::A)
        .to_vec()
        .expect("bytes");
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let noise = proptest::collection::vec(any::<u8>(), 0..600);
    let bent = (0..good.len(), any::<u8>(), 0..=good.len()).prop_map(move |(at, byte, end)| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes.truncate(end);
        bytes
    });
    let hostile = prop_oneof![noise, bent];
    for _ in 0..3000 {
        let bytes = hostile.new_tree(&mut runner).expect("a value").current();
        // A full queue may drop it: so be it.
        let _ = socket.send_to(&bytes, at).await;
    }
    let answer = cluster
        .until("web.default.svc.cluster.local.", RecordType::A, |answer| {
            answer.metadata.response_code == ResponseCode::NXDomain
        })
        .await;
    assert_eq!(answer.queries.len(), 1);
}

#[tokio::test]
async fn the_cluster_is_told_where_names_are_answered() {
    let cluster = Cluster::new(Vec::new()).await;
    let endpoints: [SocketAddr; 2] =
        ["10.1.0.1:53", "10.1.0.1:5353"].map(|text| text.parse().expect("an address"));
    let publish = |ip: &str, endpoints: &[SocketAddr]| {
        let (client, endpoints) = (cluster.client.clone(), endpoints.to_vec());
        let ip = ip.parse().expect("an address");
        async move {
            dhow_dns::publish(client, ip, &endpoints)
                .await
                .expect("published");
        }
    };
    publish("10.96.0.10", &endpoints).await;
    publish("10.96.0.10", &endpoints).await;
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), "kube-system");
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.client.clone(), "kube-system");
    let found = slices.list(&Default::default()).await.expect("listed");
    assert_eq!(found.items.len(), 2);
    let dns = "kube-dns.kube-system.svc.cluster.local.";
    let answer = cluster
        .until(dns, RecordType::A, |answer| !answer.answers.is_empty())
        .await;
    assert_eq!(texts(&answer), ["10.96.0.10"]);

    publish("10.96.0.11", &endpoints[1..]).await;
    let service = services.get("kube-dns").await.expect("it is there");
    let spec = service.spec.expect("a spec");
    assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.11"));
    assert_eq!(spec.selector, None);
    let found = slices.list(&Default::default()).await.expect("listed");
    let ports: Vec<Option<i32>> = found
        .iter()
        .flat_map(|slice| slice.ports.iter().flatten().map(|port| port.port))
        .collect();
    assert_eq!(ports, [Some(5353), Some(5353)]);
    let _: Name = name(dns);
}
