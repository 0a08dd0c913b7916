//! Stories on the real router.

use std::time::Duration;

use muster_proto::network::{self as proto, Role, router_status::State};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use super::rig::{self, Authority, Home, Site};

/// Answers each connection with all that it read, in capitals.
pub async fn backend(port: u16) -> AbortOnDropHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(n @ 1..) = client.read(&mut buffer).await {
                    buffer[..n].make_ascii_uppercase();
                    if client.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
            });
        }
    }))
}

pub async fn call(port: u16, text: &str) -> std::io::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8(answer).unwrap())
    };
    tokio::time::timeout(Duration::from_secs(5), exchange)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

pub async fn until_called(port: u16, within: Duration) -> Duration {
    let began = tokio::time::Instant::now();
    loop {
        match call(port, "hello").await {
            Ok(answer) => {
                assert_eq!(answer, "HELLO");
                return began.elapsed();
            }
            Err(e) => assert!(began.elapsed() < within, "no answer within {within:?}: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Two interiors, an edge at each, a way from one to the other.
pub struct Mesh {
    pub int_a: Site,
    pub int_b: Site,
    pub edge_a: Site,
    pub edge_b: Site,
    pub ingress: u16,
    pub egress: u16,
}

impl Mesh {
    pub fn new(router: &std::path::Path) -> Self {
        let settings = || rig::settings(router);
        let (backbone, network) = (Authority::new("backbone"), Authority::new("network"));
        let [inter, at_a, at_b, ingress, egress] = [(); 5].map(|()| rig::free_port());
        let interior = |name: &str, at: u16, member: &[&str]| proto::Site {
            profiles: vec![rig::profile("backbone", &[&backbone]), rig::profile("net1", &[&network])],
            listeners: vec![proto::Listener {
                tenant: "net1".into(),
                ..rig::listener("net1-edges", Role::Edge, at, "net1", member)
            }],
            ..rig::interior(name)
        };
        let mut a = interior("int-a", at_a, &["edge-a"]);
        a.listeners.push(rig::listener("inter", Role::InterRouter, inter, "backbone", &[]));
        let mut b = interior("int-b", at_b, &["edge-b"]);
        b.connectors = vec![rig::connector("to-int-a", Role::InterRouter, inter, "backbone", "int-a")];
        let edge = |name: &str, at: u16, peer: &str| proto::Site {
            profiles: vec![rig::profile("net1", &[&network])],
            connectors: vec![rig::connector("uplink", Role::Edge, at, "net1", peer)],
            ..rig::edge(name, "net1")
        };
        let mut ea = edge("edge-a", at_a, "int-a");
        ea.tcp_listeners = vec![rig::tcp_listener("web-in", "web", ingress)];
        let mut eb = edge("edge-b", at_b, "int-b");
        eb.tcp_connectors = vec![rig::tcp_connector("web-out", "web", egress)];
        // Home signs each profile of an interior by the authority it belongs to.
        let home = |name: &str| Home::of(&[("backbone", &backbone), ("net1", &network)], name);
        Self {
            int_a: Site::new(a, home("int-a"), settings()),
            int_b: Site::new(b, home("int-b"), settings()),
            edge_a: Site::new(ea, home("edge-a"), settings()),
            edge_b: Site::new(eb, home("edge-b"), settings()),
            ingress,
            egress,
        }
    }

    pub async fn linked(&self) {
        for site in [&self.int_a, &self.int_b, &self.edge_a, &self.edge_b] {
            site.until("all links up", |told, settled| settled && told.links.iter().all(|link| link.up)).await;
        }
    }

    /// Linked, with something behind the address.
    pub async fn up(&self) {
        self.linked().await;
        self.edge_a.until("all ports up", |told, _| told.ports.iter().all(|port| port.up)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_sent_to_an_ingress_arrive_at_a_process_at_another_site() {
    let Some(router) = rig::skrouterd() else { return };
    let mesh = Mesh::new(&router);
    let _backend = backend(mesh.egress).await;
    mesh.up().await;
    until_called(mesh.ingress, Duration::from_secs(5)).await;
    let told = mesh.int_a.settled().await;
    assert_eq!(told.reachable, ["int-b"]);
    assert_eq!(told.router.as_ref().unwrap().state(), State::Running);
    assert_eq!(told.router.as_ref().unwrap().version, "3.5.1");
    assert_eq!(told.problems, Vec::<String>::new());
}

/// One connection kept in use until told to stop; every byte must come back.
pub struct Talk {
    stop: tokio_util::sync::CancellationToken,
    task: tokio::task::JoinHandle<u64>,
}

impl Talk {
    pub async fn begin(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut round, block) = (0, [b'a'; 16 * 1024]);
            while !stopped.is_cancelled() {
                stream.write_all(&block).await.expect("the connection holds");
                let mut answer = [0; 16 * 1024];
                stream.read_exact(&mut answer).await.expect("the connection holds");
                assert!(answer.iter().all(|byte| *byte == b'A'));
                round += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            round
        });
        Self { stop, task }
    }

    pub async fn end(self) -> u64 {
        self.stop.cancel();
        self.task.await.expect("the connection held")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_restarts_finds_its_router_and_no_connection_drops() {
    let Some(router) = rig::skrouterd() else { return };
    let mut mesh = Mesh::new(&router);
    let _backend = backend(mesh.egress).await;
    mesh.up().await;
    until_called(mesh.ingress, Duration::from_secs(10)).await;
    let before = [&mesh.int_a, &mesh.int_b, &mesh.edge_a, &mesh.edge_b].map(Site::router);
    let talk = Talk::begin(mesh.ingress).await;
    for site in [&mut mesh.int_a, &mut mesh.int_b, &mut mesh.edge_a, &mut mesh.edge_b] {
        site.restart();
        site.settled().await;
    }
    let after = [&mesh.int_a, &mesh.int_b, &mesh.edge_a, &mesh.edge_b].map(Site::router);
    assert_eq!(after, before, "the same processes");
    assert!(talk.end().await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_outlives_new_leaves_on_both_ends_of_its_links() {
    let Some(router) = rig::skrouterd() else { return };
    let mut mesh = Mesh::new(&router);
    let _backend = backend(mesh.egress).await;
    mesh.up().await;
    until_called(mesh.ingress, Duration::from_secs(10)).await;
    let talk = Talk::begin(mesh.ingress).await;
    let old = mesh.edge_a.facts().profiles["net1"].leaf.clone().unwrap();
    // Owners of listeners first, then those that connect.
    for site in [&mut mesh.int_a, &mut mesh.int_b, &mut mesh.edge_a, &mut mesh.edge_b] {
        site.document.profiles.iter_mut().for_each(|profile| profile.edition = 2);
        site.generation += 1;
        let told = site.settled().await;
        assert!(told.profiles.iter().all(|p| (p.edition, p.ordinal) == (2, 2)), "{told:?}");
    }
    let renewed = |told: &proto::SiteResult, _| told.profiles[0].connections > 0 && told.links[0].up;
    let told = mesh.edge_a.until("connected by the new leaf", renewed).await;
    assert_ne!(told.profiles[0].serial.to_vec(), muster_pki::unhex(&old.serial));
    call(mesh.ingress, "again").await.unwrap();
    assert!(talk.end().await > 0);
    let folder = mesh.edge_a.folder().join("profiles").join(crate::network::profile::slug("net1"));
    let files = std::fs::read_dir(&folder).unwrap().count();
    assert!(!folder.join(&old.file).exists() && !folder.join(&old.key).exists(), "what nobody uses is removed");
    assert_eq!(files, 3, "key, leaf and trust");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_home_is_away_the_old_leaf_stays_in_use_and_the_status_says_so() {
    let Some(router) = rig::skrouterd() else { return };
    let mut mesh = Mesh::new(&router);
    mesh.linked().await;
    let edge = &mut mesh.edge_a;
    edge.home.is_away.store(true, std::sync::atomic::Ordering::Relaxed);
    edge.document.profiles[0].edition = 2;
    edge.generation += 1;
    let told = edge.until("waiting", |told, settled| settled && !told.problems.is_empty()).await;
    assert!(told.problems[0].contains("waits for home to sign"), "{told:?}");
    assert!(told.links[0].up && told.profiles[0].edition == 1, "{told:?}");
    edge.home.is_away.store(false, std::sync::atomic::Ordering::Relaxed);
    let told = edge.until("the new edition", |told, _| told.profiles[0].edition == 2).await;
    assert_eq!(told.problems, Vec::<String>::new());
    let asked: Vec<_> =
        edge.home.asked.lock().unwrap().iter().map(|sign| (sign.edition, sign.request.len() > 64)).collect();
    assert_eq!(asked, [(1, true), (2, true)], "the same key is asked for until it is answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_left_out_is_cut_at_once_and_the_others_are_back_within_five_seconds() {
    let Some(router) = rig::skrouterd() else { return };
    let network = Authority::new("network");
    let (at, ingress, egress) = (rig::free_port(), rig::free_port(), rig::free_port());
    let _backend = backend(egress).await;
    let home = |name: &str| Home::of(&[("net1", &network)], name);
    let mut interior = Site::new(
        proto::Site {
            profiles: vec![rig::profile("net1", &[&network])],
            listeners: vec![rig::listener("net1-edges", Role::Edge, at, "net1", &["edge-a", "edge-b", "edge-c"])],
            ..rig::interior("int-a")
        },
        home("int-a"),
        rig::settings(&router),
    );
    let edge = |name: &str, change: &dyn Fn(&mut proto::Site)| {
        let mut document = proto::Site {
            profiles: vec![rig::profile("net1", &[&network])],
            connectors: vec![rig::connector("uplink", Role::Edge, at, "net1", "int-a")],
            ..rig::edge(name, "net1")
        };
        change(&mut document);
        Site::new(document, home(name), rig::settings(&router))
    };
    let edge_a = edge("edge-a", &|d| d.tcp_listeners = vec![rig::tcp_listener("in", "web", ingress)]);
    let edge_b = edge("edge-b", &|d| d.tcp_connectors = vec![rig::tcp_connector("out", "web", egress)]);
    let edge_c = edge("edge-c", &|_| ());
    interior.settled().await;
    for edge in [&edge_a, &edge_b, &edge_c] {
        edge.until("up", |told, _| told.links[0].up).await;
    }
    until_called(ingress, Duration::from_secs(10)).await;
    interior.document.listeners[0].members = vec!["edge-a".into(), "edge-b".into()];
    interior.document.profiles[0].cuts = 1;
    interior.generation += 1;
    let cut = tokio::time::Instant::now();
    let told = interior.settled().await;
    assert_eq!((told.profiles[0].cuts, told.profiles[0].ordinal, told.profiles[0].older_connections), (1, 2, 0));
    eprintln!("cut within {:?}", cut.elapsed());
    edge_c.until("cut", |told, _| !told.links[0].up).await;
    let back = until_called(ingress, Duration::from_secs(5)).await;
    eprintln!("traffic is back {:?} after the cut, looked for {back:?}", cut.elapsed());
    tokio::time::sleep(Duration::from_secs(6)).await;
    let told = edge_c.until("refused", |_, settled| settled).await;
    assert!(!told.links[0].up && !told.links[0].message.is_empty(), "{told:?}");
    eprintln!("to the one that was cut: {}", told.links[0].message);
    for edge in [&edge_a, &edge_b] {
        edge.until("up again", |told, _| told.links[0].up).await;
    }
}

fn signal(site: &Site, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(site.router().pid).unwrap(), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_router_is_started_again_and_traffic_with_it() {
    let Some(router) = rig::skrouterd() else { return };
    let mesh = Mesh::new(&router);
    let _backend = backend(mesh.egress).await;
    mesh.up().await;
    until_called(mesh.ingress, Duration::from_secs(10)).await;
    let before = mesh.int_a.router();
    signal(&mesh.int_a, rustix::process::Signal::KILL);
    let began = tokio::time::Instant::now();
    let told = mesh.int_a.until("another process", |told, settled| {
        settled && told.router.as_ref().is_some_and(|r| r.pid != before.pid.unsigned_abs())
    });
    told.await;
    let back = until_called(mesh.ingress, Duration::from_secs(20)).await;
    eprintln!("a killed interior: router answers and traffic is back after {:?} ({back:?})", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_router_is_told_silent_its_peers_see_it_and_it_is_started_anew() {
    let Some(router) = rig::skrouterd() else { return };
    let mesh = Mesh::new(&router);
    mesh.linked().await;
    let before = mesh.int_a.router();
    signal(&mesh.int_a, rustix::process::Signal::STOP);
    let silent = |told: &proto::SiteResult, _| told.router.as_ref().unwrap().state() == State::Silent;
    let told = mesh.int_a.until("silent", silent).await;
    assert!(told.problems.iter().any(|p| p.contains("does not answer")), "{told:?}");
    let told = mesh.int_b.until("the peer is frozen", |told, _| !told.links[0].up).await;
    assert!(told.links[0].message.contains("frozen"), "{told:?}");
    let anew =
        |told: &proto::SiteResult, settled| settled && told.router.as_ref().unwrap().pid != before.pid.unsigned_abs();
    mesh.int_a.until("another process", anew).await;
    mesh.int_b.until("the link is up", |told, _| told.links[0].up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_at_the_other_end_is_told_as_what_it_is() {
    let Some(router) = rig::skrouterd() else { return };
    let mesh = Mesh::new(&router);
    mesh.linked().await;
    let quiet = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let quiet_port = quiet.local_addr().unwrap().port();
    let _quiet = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((client, _)) = quiet.accept().await {
            held.push(client);
        }
    }));
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let mut b = mesh.int_b;
    let inter = b.document.connectors[0].port;
    let nobody = rig::free_port();
    b.document.connectors.extend([
        rig::connector("says-nothing", Role::InterRouter, quiet_port, "backbone", "int-x"),
        rig::connector("nobody-there", Role::InterRouter, nobody, "backbone", "int-y"),
        proto::Connector {
            cost: 7,
            ..rig::connector("another", Role::InterRouter, u16::try_from(inter).unwrap(), "backbone", "int-z")
        },
    ]);
    b.document.listeners.push(rig::listener("conflict", Role::Edge, taken_port, "net1", &[]));
    b.document.tcp_listeners.push(rig::tcp_listener("tcp-conflict", "db", taken_port));
    b.document.tcp_listeners.push(rig::tcp_listener("no-backend", "none", rig::free_port()));
    b.generation += 1;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let known = |told: &proto::SiteResult, _| {
        let link =
            |name: &str| told.links.iter().find(|l| l.name == name).map(|l| l.message.clone()).unwrap_or_default();
        let port =
            |name: &str| told.ports.iter().find(|p| p.name == name).map(|p| p.message.clone()).unwrap_or_default();
        link("says-nothing").contains("says nothing")
            && link("nobody-there").contains("nobody accepts")
            && link("another").contains("router int-a is there, not int-z")
            && port("conflict").contains("taken by another program")
            && port("tcp-conflict").contains("taken by another program")
            && port("no-backend").contains("can be reached")
    };
    let told = b.until("each as what it is", known).await;
    eprintln!("{:#?} {:#?}", told.links, told.ports);
    drop(taken);
    let up = |told: &proto::SiteResult, _| told.ports.iter().any(|p| p.name == "conflict" && p.up);
    b.until("the port that became free is used", up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_whose_port_is_taken_says_so_and_takes_it_when_it_is_free() {
    let Some(router) = rig::skrouterd() else { return };
    let mut mesh = Mesh::new(&router);
    let other = TcpListener::bind(("127.0.0.1", mesh.ingress)).await.unwrap();
    let twice = rig::free_port();
    mesh.edge_a
        .document
        .tcp_listeners
        .extend([rig::tcp_listener("first", "web", twice), rig::tcp_listener("second", "web", twice)]);
    let _backend = backend(mesh.egress).await;
    mesh.linked().await;
    let port = |told: &proto::SiteResult, name: &str| told.ports.iter().find(|p| p.name == name).unwrap().clone();
    let is_conflict =
        |told: &proto::SiteResult, name: &str| port(told, name).message.contains("taken by another program");
    let told = mesh.edge_a.until("told", |told, _| is_conflict(told, "web-in")).await;
    assert!(!port(&told, "web-in").up);
    // Of two that want one port, one has it.
    let one = |told: &proto::SiteResult, _| {
        port(told, "first").up != port(told, "second").up && (is_conflict(told, "first") || is_conflict(told, "second"))
    };
    mesh.edge_a.until("one of two", one).await;
    until_called(twice, Duration::from_secs(10)).await;
    let before = mesh.edge_a.router();
    drop(other);
    mesh.edge_a.until("it is taken", |told, _| port(told, "web-in").up).await;
    until_called(mesh.ingress, Duration::from_secs(10)).await;
    mesh.edge_a.document.tcp_listeners.retain(|t| t.name != "first");
    mesh.edge_a.generation += 1;
    mesh.edge_a.until("the other one has it", |told, settled| settled && port(told, "second").up).await;
    until_called(twice, Duration::from_secs(10)).await;
    assert_eq!(mesh.edge_a.router(), before, "the router lived through it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_nobody_remembers_is_ended_and_another_has_its_ports() {
    let Some(router) = rig::skrouterd() else { return };
    let mut mesh = Mesh::new(&router);
    let _backend = backend(mesh.egress).await;
    mesh.up().await;
    let before = mesh.int_a.router();
    std::fs::write(mesh.int_a.folder().join("site.json"), b"{").unwrap();
    mesh.int_a.restart();
    mesh.int_a.until("settled", |told, settled| settled && told.ports.iter().all(|p| p.up)).await;
    assert!(!crate::host::Host::is_alive(mesh.int_a.host.as_ref(), &before.group()));
    mesh.linked().await;
    until_called(mesh.ingress, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_answer_loses_its_way_in_until_it_does() {
    let Some(router) = rig::skrouterd() else { return };
    let mesh = Mesh::new(&router);
    let up = |told: &proto::SiteResult, settled| settled && told.ports[0].up;
    let down = |told: &proto::SiteResult, settled| {
        settled && !told.ports[0].up && told.ports[0].message.contains("nobody answers")
    };
    for site in [&mesh.int_a, &mesh.int_b, &mesh.edge_a] {
        site.until("settled", |_, settled| settled).await;
    }
    mesh.edge_b.until("down", down).await;
    let first = backend(mesh.egress).await;
    mesh.edge_b.until("up", up).await;
    until_called(mesh.ingress, Duration::from_secs(20)).await;
    drop(first);
    mesh.edge_b.until("down again", down).await;
    mesh.edge_a.until("closed", |told, _| told.ports.iter().all(|p| !p.up)).await;
    assert!(call(mesh.ingress, "hello").await.is_err());
    let file = std::fs::read_to_string(mesh.edge_b.folder().join("router.json")).unwrap();
    assert!(!file.contains("web-out"), "the start-up file says what runs");
    let _second = backend(mesh.egress).await;
    mesh.edge_b.until("up again", up).await;
    until_called(mesh.ingress, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_withdrawn_leaves_nothing_behind() {
    let Some(router) = rig::skrouterd() else { return };
    let site = Site::new(rig::interior("int-a"), Home::of(&[], "int-a"), rig::settings(&router));
    site.settled().await;
    let running = site.router();
    assert!(crate::host::Host::is_alive(site.host.as_ref(), &running.group()));
    assert!(matches!(site.undo().await, crate::driver::Turn::Settled(_)));
    assert!(!crate::host::Host::is_alive(site.host.as_ref(), &running.group()));
    assert!(!site.folder().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_running_router_cannot_be_told_starts_it_anew() {
    let Some(router) = rig::skrouterd() else { return };
    let mut site = Site::new(rig::edge("edge-a", "net1"), Home::of(&[], "edge-a"), rig::settings(&router));
    site.settled().await;
    let first = site.router();
    site.document.tcp_listeners = vec![rig::tcp_listener("in", "web", rig::free_port())];
    site.generation += 1;
    site.settled().await;
    assert_eq!(site.router(), first);
    site.document.tenant = "net2".into();
    site.generation += 1;
    let told = site.until("settled", |_, settled| settled).await;
    assert_ne!(site.router().pid, first.pid);
    assert_eq!(told.ports.len(), 1);
    assert!(!crate::host::Host::is_alive(site.host.as_ref(), &first.group()));
}
