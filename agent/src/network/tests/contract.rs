//! What the driver relies on, tried on the real router where there is one, and always on the peer of these tests, which
//! is held to what the real one answered.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use muster_proto::network::{self as proto, Role};
use serde::{Deserialize, Serialize};

use super::{
    peer_host::PeerHost,
    rig::{self, Authority, Home, Site},
};
use crate::{
    host::{Host, Machine},
    network::{
        management::{Failure, Management, Request},
        model::{Attributes, Entity, Kind, Value},
        profile::Own,
    },
};

const TRANSCRIPT: &str = "src/network/tests/transcript.json";

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Exchange {
    request: BTreeMap<String, String>,
    body: Attributes,
    status: i64,
    description: String,
    answer: Attributes,
}

/// Where a driver is tried.
fn grounds() -> Vec<(&'static str, Arc<dyn Host>, PathBuf)> {
    // The peer needs a file that stands for a program.
    let mut grounds: Vec<(_, Arc<dyn Host>, _)> = vec![("peer", PeerHost::new(), std::env::current_exe().unwrap())];
    if let Some(router) = rig::skrouterd() {
        grounds.push(("router", Arc::new(Machine::new(None)), router));
    }
    grounds
}

fn site(host: &Arc<dyn Host>, program: &Path) -> Site {
    let network = Authority::new("network");
    let document = proto::Site {
        profiles: vec![rig::profile("net1", &[&network])],
        listeners: vec![rig::listener("edges", Role::Edge, rig::free_port(), "net1", &["edge-a"])],
        connectors: vec![rig::connector("to-b", Role::InterRouter, rig::free_port(), "net1", "int-b")],
        tcp_listeners: vec![rig::tcp_listener("in", "web", rig::free_port())],
        addresses: vec![proto::Address {
            name: "spread".into(),
            pattern: "web/#".into(),
            distribution: proto::address::Distribution::Closest.into(),
        }],
        ..rig::interior("int-a")
    };
    Site::on(host.clone(), document, Home::of(&[("net1", &network)], "int-a"), rig::settings(program))
}

/// Another one who speaks to the router, by the agent's key.
async fn management(site: &Site) -> Management {
    let own = Own::open(&site.folder(), rig::now_ms()).unwrap();
    Management::connect(site.facts().port, own.tls).await.unwrap()
}

async fn entity(management: &mut Management, kind: Kind, name: &str) -> Option<Entity> {
    management.list(kind).await.unwrap().into_iter().find(|e| e.name == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_carried_out_on_a_running_router_and_kept() {
    for (ground, host, program) in grounds() {
        let mut site = site(&host, &program);
        let told = site.settled().await;
        assert_eq!(told.problems, Vec::<String>::new(), "on the {ground}");
        let first = site.router();
        let mut other = management(&site).await;
        // What the router cannot change is made anew.
        let port = rig::free_port();
        site.document.tcp_listeners[0].port = port.into();
        site.document.listeners[0].members = vec!["edge-a".into(), "edge-b".into()];
        site.document.profiles[0].cuts = 1;
        site.document.connectors.clear();
        site.document.tcp_listeners.push(rig::tcp_listener("in-2", "web2", rig::free_port()));
        site.generation += 1;
        let told = site.settled().await;
        assert_eq!((told.profiles[0].ordinal, told.profiles[0].cuts), (2, 1), "on the {ground}");
        let value =
            |e: Option<Entity>, name: &str| e.unwrap().attributes.get(name).map(Value::text).unwrap_or_default();
        let tcp = entity(&mut other, Kind::TcpListener, "in").await;
        assert_eq!(value(tcp, "port"), port.to_string(), "on the {ground}");
        assert!(entity(&mut other, Kind::TcpListener, "in-2").await.is_some(), "on the {ground}");
        assert!(entity(&mut other, Kind::Connector, "to-b").await.is_none(), "on the {ground}");
        let vhost = entity(&mut other, Kind::Vhost, "vhost/edges").await;
        assert!(value(vhost, "groups").contains("users=edge-a,edge-b\n"), "on the {ground}");
        let profile = entity(&mut other, Kind::SslProfile, "net1").await;
        assert_eq!(value(profile.clone(), "oldestValidOrdinal"), "2", "on the {ground}");
        // A change of somebody else is undone, also one that was refused and shows all the same.
        let mut bad = profile.unwrap().attributes;
        bad.retain(|name, _| name == "certFile");
        bad.insert("certFile".into(), "/no/such/leaf.pem".into());
        let bad = Entity { kind: Kind::SslProfile, name: "net1".into(), attributes: bad };
        let refused = other.update(&bad, bad.attributes.clone()).await.unwrap_err();
        assert!(matches!(refused, Failure::Refused { status: 400..=599, .. }), "on the {ground}: {refused:?}");
        let shown = entity(&mut other, Kind::SslProfile, "net1").await;
        assert_eq!(value(shown, "certFile"), "/no/such/leaf.pem", "on the {ground}: what was refused shows");
        other.delete(Kind::TcpListener, "in-2").await.unwrap();
        site.settled().await;
        assert!(entity(&mut other, Kind::TcpListener, "in-2").await.is_some(), "on the {ground}");
        let shown = entity(&mut other, Kind::SslProfile, "net1").await;
        assert_ne!(value(shown, "certFile"), "/no/such/leaf.pem", "on the {ground}");
        assert_eq!(site.router(), first, "on the {ground}: the same process all the time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_who_changes_an_entity_again_and_again_is_told_and_left() {
    for (ground, host, program) in grounds() {
        let site = site(&host, &program);
        site.settled().await;
        let mut other = management(&site).await;
        let mut deleted = 0;
        let told = loop {
            other.delete(Kind::TcpListener, "in").await.unwrap();
            deleted += 1;
            assert!(deleted < 10, "on the {ground}");
            let turn = site.turn().await;
            let (told, settled) = rig::told(&turn).unwrap();
            let told: proto::SiteResult = prost::Message::decode(told.result.clone()).unwrap();
            if !told.problems.is_empty() {
                assert!(!settled, "on the {ground}");
                break told;
            }
        };
        assert!(told.problems[0].contains("set otherwise by somebody else"), "on the {ground}: {told:?}");
        assert_eq!(deleted, 4, "on the {ground}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_port_is_taken_is_told_and_made_anew_when_it_is_free() {
    for (ground, host, program) in grounds() {
        let mut site = site(&host, &program);
        site.settled().await;
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        site.document.listeners[0].port = taken.local_addr().unwrap().port().into();
        site.generation += 1;
        let told = site.settled().await;
        let port = told.ports.iter().find(|p| p.name == "edges").unwrap();
        assert!(!port.up && port.message.contains("taken by another program"), "on the {ground}: {told:?}");
        drop(taken);
        site.until("used", |told, _| told.ports.iter().any(|p| p.name == "edges" && p.up)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_restarts_with_its_file_alone_and_needs_nobody() {
    for (ground, host, program) in grounds() {
        let site = site(&host, &program);
        site.settled().await;
        let mut other = management(&site).await;
        let mut before = Vec::new();
        for kind in Kind::ALL {
            before.extend(other.list(kind).await.unwrap().into_iter().map(|e| (e.kind, e.name)));
        }
        host.end_group(&site.router().group()).await;
        site.settled().await;
        let mut other = management(&site).await;
        let mut after = Vec::new();
        for kind in Kind::ALL {
            after.extend(other.list(kind).await.unwrap().into_iter().map(|e| (e.kind, e.name)));
        }
        before.sort();
        after.sort();
        assert_eq!(after, before, "on the {ground}");
    }
}

fn request(operation: &str, kind: &str, name: &str, body: &[(&str, Value)]) -> Request {
    let mut properties = BTreeMap::from([("operation", operation.to_owned())]);
    for (key, value) in [("type", kind), ("name", name)] {
        if !value.is_empty() {
            properties.insert(key, value.to_owned());
        }
    }
    Request { properties, body: body.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect() }
}

/// What the driver asks of management, right and wrong.
fn script(site: &Site, [port, taken, unnamed]: [u16; 3]) -> Vec<Request> {
    let profile: Vec<(&str, Value)> = {
        let all = site.facts().applied["net1"].clone();
        let value = |name: &str| all[name].clone();
        let (ca, leaf, key) = (value("caCertFile"), value("certFile"), value("privateKeyFile"));
        vec![
            ("caCertFile", ca),
            ("certFile", leaf),
            ("privateKeyFile", key),
            ("uidFormat", "n".into()),
            ("ordinal", 1_u32.into()),
        ]
    };
    let kind = |kind: Kind| kind.full_name();
    let (listener, ssl) = (kind(Kind::Listener), kind(Kind::SslProfile));
    let at =
        |port: u16| [("host", Value::from("127.0.0.1")), ("port", port.to_string().into()), ("role", "edge".into())];
    let tcp =
        |port: u16| [("host", Value::from("127.0.0.1")), ("port", port.to_string().into()), ("address", "a".into())];
    let group = |users: &str| {
        let group = Attributes::from([("users".into(), users.into()), ("targets".into(), "*".into())]);
        Value::Map(Attributes::from([("members".to_owned(), Value::Map(group))]))
    };
    let names = |of: &str, names: &[&str]| {
        let names = Value::List(names.iter().map(|name| Value::from(*name)).collect());
        let mut query = request("QUERY", "org.amqp.management", "self", &[("attributeNames", names)]);
        query.properties.insert("entityType", of.to_owned());
        query
    };
    vec![
        request("CREATE", ssl, "p", &profile),
        request("CREATE", listener, "l", &at(port)),
        request("CREATE", listener, "l", &at(port)),
        request("CREATE", kind(Kind::TcpListener), "p", &tcp(port)),
        request("CREATE", listener, "", &at(unnamed)),
        request("CREATE", listener, "x", &[("no-such-attribute", "1".into()), ("port", "1".into())]),
        request("READ", listener, "l", &[]),
        request("READ", listener, "gone", &[]),
        request("UPDATE", listener, "l", &[("port", "1".into())]),
        request("CREATE", kind(Kind::TcpListener), "tcp-conflict", &tcp(taken)),
        request("READ", kind(Kind::TcpListener), "tcp-conflict", &[]),
        request("UPDATE", ssl, "p", &[("ordinal", 2_u32.into()), ("oldestValidOrdinal", 1_u32.into())]),
        request("READ", ssl, "p", &[]),
        request("UPDATE", ssl, "net1", &[("certFile", "/no/such/leaf.pem".into())]),
        request("UPDATE", ssl, "net1", &[("certFile", profile[1].1.clone())]),
        request("CREATE", kind(Kind::Vhost), "vhost/v", &[("hostname", "v".into()), ("groups", group("a"))]),
        request("UPDATE", kind(Kind::Vhost), "vhost/v", &[("groups", group("a,b"))]),
        request("READ", kind(Kind::Vhost), "vhost/v", &[]),
        request("CREATE", kind(Kind::Address), "ad", &[("pattern", "a/#".into()), ("distribution", "closest".into())]),
        request("DELETE", kind(Kind::Address), "ad", &[]),
        request("DELETE", listener, "l", &[]),
        request("DELETE", listener, "gone", &[]),
        names("sslProfile", &["name"]),
        names("connection", &["container"]),
        names(kind(Kind::TcpListener), &["name", "operStatus"]),
    ]
}

async fn record(site: &Site) -> Vec<Exchange> {
    site.settled().await;
    let mut management = management(site).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, taken_port) = (rig::free_port(), taken.local_addr().unwrap().port());
    let unnamed = rig::free_port();
    let mut exchanges = Vec::new();
    for request in script(site, [port, taken_port, unnamed]) {
        let answer = match management.ask(&request).await {
            Ok(answer) => answer,
            Err(failure) => panic!("{request:?}: {failure}"),
        };
        let scrub = |text: &str| {
            let text = text.replace(&site.dir.path().to_string_lossy().into_owned(), "DIR");
            let text = text
                .replace(&port.to_string(), "45001")
                .replace(&taken_port.to_string(), "45002")
                .replace(&unnamed.to_string(), "45003");
            // Names of leaves and keys differ from run to run.
            text.split('/')
                .map(|part| if part.ends_with(".pem") { part.split('-').next().unwrap() } else { part })
                .collect::<Vec<_>>()
                .join("/")
        };
        let json = |attributes: &Attributes| -> Attributes {
            fn walk(value: &Value, scrub: &dyn Fn(&str) -> String) -> Value {
                match value {
                    Value::Text(text) => Value::Text(scrub(text)),
                    Value::Map(map) => Value::Map(map.iter().map(|(k, v)| (k.clone(), walk(v, scrub))).collect()),
                    Value::List(list) => Value::List(list.iter().map(|v| walk(v, scrub)).collect()),
                    other => other.clone(),
                }
            }
            attributes.iter().map(|(name, value)| (name.clone(), walk(value, &scrub))).collect()
        };
        exchanges.push(Exchange {
            request: request.properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            body: json(&request.body),
            status: answer.status,
            description: scrub(&without_parentheses(&answer.description)),
            answer: json(&answer.body),
        });
    }
    exchanges
}

/// The router prints all of an entity in parentheses.
fn without_parentheses(text: &str) -> String {
    let mut depth = 0;
    let mut keep = |letter: &char| {
        depth -= usize::from(*letter == ')' && depth > 0);
        let is_kept = depth == 0;
        depth += usize::from(*letter == '(');
        is_kept
    };
    text.chars().filter(|letter| keep(letter)).collect()
}

fn recorded() -> Vec<Exchange> {
    serde_json::from_slice(&std::fs::read(TRANSCRIPT).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_answers_as_it_was_recorded() {
    let Some(router) = rig::skrouterd() else { return };
    let host: Arc<dyn Host> = Arc::new(Machine::new(None));
    let now = record(&site(&host, &router)).await;
    if std::env::var_os("MUSTER_BLESS").is_some() {
        std::fs::write(TRANSCRIPT, serde_json::to_string_pretty(&now).unwrap() + "\n").unwrap();
    }
    for (now, then) in now.iter().zip(&recorded()) {
        let words = |of: &Exchange| (of.request.clone(), of.status, of.description.clone());
        assert_eq!(words(now), words(then));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_answers_as_the_router_did() {
    let host: Arc<dyn Host> = PeerHost::new();
    let peer = record(&site(&host, &std::env::current_exe().unwrap())).await;
    let router = recorded();
    assert_eq!(peer.len(), router.len());
    for (peer, router) in peer.iter().zip(&router) {
        let asked = &peer.request;
        let words = |of: &Exchange| (of.request.clone(), of.status, of.description.clone());
        assert_eq!(words(peer), words(router));
        // The router says more than anybody asks for; what the driver reads is the same.
        let read =
            ["host", "port", "role", "certFile", "ordinal", "oldestValidOrdinal", "groups", "operStatus", "pattern"];
        for name in read.iter().filter(|name| peer.status < 300 && router.answer.contains_key(**name)) {
            let text = |of: &Exchange| of.answer.get(*name).map(Value::text).unwrap_or_default();
            if asked["operation"] != "DELETE" {
                assert_eq!(text(peer), text(router), "{name} of {asked:?}");
            }
        }
        if asked["operation"] == "QUERY" {
            let rows = |of: &Exchange| matches!(of.answer.get("results"), Some(Value::List(rows)) if !rows.is_empty());
            assert_eq!(rows(peer), rows(router), "{asked:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_silent_or_away_is_told_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let own = || Own::open(dir.path(), rig::now_ms()).unwrap().tls;
    let began = tokio::time::Instant::now();
    let port = silent.local_addr().unwrap().port();
    assert_eq!(Management::connect(port, own()).await.err(), Some(Failure::Silent));
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(silent);
    assert!(matches!(Management::connect(port, own()).await.err(), Some(Failure::Lost(_))));
}
