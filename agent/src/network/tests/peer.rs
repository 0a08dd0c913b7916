//! A stand-in for a router's management, with its quirks, and a host on which it is started in the router's place.
//!
//! It keeps entities, binds the ports of listeners, and has neither links nor routing. What it answers is held to what
//! the real router answered, see `contract`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicI32, Ordering},
    },
};

use fe2o3_amqp::{
    Delivery, Receiver, Sender,
    acceptor::{ConnectionAcceptor, LinkAcceptor, LinkEndpoint, SessionAcceptor},
    types::{
        messaging::{ApplicationProperties, Body, Message, Properties, Source},
        primitives::{SimpleValue, Value as Amqp},
    },
};
use futures::future::BoxFuture;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    host::{Exit, Facts, Host, Machine, NoProgram, NotStarted, Program, Sample, Watch},
    ledger::Group,
    network::{
        management::{Answer, from_amqp, to_amqp},
        model::{Attributes, Kind, OWN, Value},
    },
};

/// A host whose long-lived programs are peers of ours.
pub struct PeerHost {
    machine: Machine,
    peers: Mutex<BTreeMap<i32, Arc<Peer>>>,
    next: AtomicI32,
}

/// One peer.
pub struct Peer {
    state: Mutex<State>,
    serving: Mutex<Option<AbortOnDropHandle<()>>>,
}

#[derive(Default)]
struct State {
    entities: BTreeMap<String, (String, Attributes)>,
    bound: BTreeMap<String, std::net::TcpListener>,
    own: Option<SocketAddr>,
}

/// The router's half of SASL EXTERNAL. Who leaves the initial response out is asked for it, as the router does.
async fn external(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).await?;
    stream.write_all(&header).await?;
    // One mechanism, in an array, and an outcome that says ok.
    let mechanisms = b"\x00\x53\x40\xc0\x0e\x01\xe0\x0b\x01\xb3\x00\x00\x00\x08EXTERNAL";
    stream.write_all(&framed(mechanisms)).await?;
    stream.flush().await?;
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    let mut init = vec![0; usize::from(head[3]) - 8];
    stream.read_exact(&mut init).await?;
    if !init.ends_with(b"EXTERNAL\xa0\x00") {
        stream.write_all(&framed(b"\x00\x53\x42\xc0\x03\x01\xa0\x00")).await?;
        return Err(io::Error::other("no initial response"));
    }
    stream.write_all(&framed(b"\x00\x53\x44\xc0\x03\x01\x50\x00")).await?;
    stream.flush().await
}

fn framed(body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len() + 8).unwrap();
    [&[0, 0, 0, length, 2, 1, 0, 0], body].concat()
}

impl PeerHost {
    pub fn new() -> Arc<Self> {
        let next = AtomicI32::new(2_000_000_000);
        Arc::new(Self { machine: Machine::new(None), peers: Mutex::default(), next })
    }

    fn peer(&self, group: &Group) -> Option<Arc<Peer>> {
        self.peers.lock().unwrap().get(&group.pgid).cloned()
    }
}

impl Host for PeerHost {
    fn run<'a>(
        &'a self,
        program: Program,
        cancel: CancellationToken,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<Exit, NotStarted>> {
        self.machine.run(program, cancel, watch)
    }

    fn start<'a>(
        &'a self,
        program: Program,
        _: &'a Path,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<(), NotStarted>> {
        Box::pin(async move {
            let pgid = self.next.fetch_add(1, Ordering::Relaxed);
            let group = Group { pgid, started: 1, boot_id: self.boot_id() };
            watch.grouped(group).map_err(|e| NotStarted(e.to_string()))?;
            if let Some(peer) = Peer::start(Path::new(&program.args[1])) {
                self.peers.lock().unwrap().insert(pgid, peer);
            }
            Ok(())
        })
    }

    fn is_alive(&self, group: &Group) -> bool {
        self.peer(group).is_some()
    }

    fn ask_to_end(&self, group: &Group) {
        self.peers.lock().unwrap().remove(&group.pgid);
    }

    fn groups_in(&self, _: &Path) -> Vec<Group> {
        Vec::new()
    }

    fn listens_on(&self, group: &Group) -> BTreeSet<SocketAddr> {
        let Some(peer) = self.peer(group) else { return BTreeSet::new() };
        let state = peer.state.lock().unwrap();
        let bound = state.bound.values().filter_map(|listener| listener.local_addr().ok());
        bound.chain(state.own).collect()
    }

    fn end_group<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, ()> {
        self.ask_to_end(group);
        Box::pin(async {})
    }

    fn executable(&self, path: &Path) -> Result<(), NoProgram> {
        self.machine.executable(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.machine.read(path)
    }

    fn now_ms(&self) -> i64 {
        self.machine.now_ms()
    }

    fn boot_id(&self) -> String {
        self.machine.boot_id()
    }

    fn facts(&self) -> Facts {
        self.machine.facts()
    }

    fn sample(&self, path: &Path) -> Sample {
        self.machine.sample(path)
    }

    fn free_bytes(&self, path: &Path) -> Option<u64> {
        self.machine.free_bytes(path)
    }
}

fn full_name(short: &str) -> String {
    match short {
        "address" => Kind::Address.full_name().to_owned(),
        other => format!("io.skupper.router.{other}"),
    }
}

fn kept(full_name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.full_name() == full_name)
}

impl Peer {
    /// A peer as its start-up file says; none when it would end at once, as for a first listener that cannot be bound.
    fn start(file: &Path) -> Option<Arc<Self>> {
        let text = std::fs::read(file).ok()?;
        let entities: Vec<(String, Attributes)> = serde_json::from_slice(&text).ok()?;
        let find = |kind: &str| entities.iter().find(|(k, _)| k == kind).map(|(_, attributes)| attributes.clone());
        let (profile, listener) = (find("sslProfile")?, find("listener")?);
        let tls = tls(&profile)?;
        let own = std::net::TcpListener::bind(("127.0.0.1", u16::try_from(listener["port"].number()?).ok()?)).ok()?;
        own.set_nonblocking(true).ok()?;
        let state = State { own: own.local_addr().ok(), ..State::default() };
        let peer = Arc::new(Self { state: Mutex::new(state), serving: Mutex::default() });
        for (short, mut attributes) in entities {
            let name = attributes.remove("name").map(|name| name.text());
            let name = name.or_else(|| attributes.get("hostname").map(|host| format!("vhost/{}", host.text())));
            peer.make(&full_name(&short), &name.unwrap_or(short), attributes);
        }
        let serving = tokio::spawn(serve(Arc::downgrade(&peer), own, tls));
        *peer.serving.lock().unwrap() = Some(AbortOnDropHandle::new(serving));
        // What serves holds the peer: it ends when the host forgets it.
        Some(peer)
    }

    fn make(&self, full_name: &str, name: &str, mut attributes: Attributes) {
        let mut state = self.state.lock().unwrap();
        let is_own = name.starts_with(OWN);
        let host = attributes.get("host").map(Value::text).unwrap_or_default();
        let port = attributes.get("port").and_then(Value::number).and_then(|port| u16::try_from(port).ok());
        if full_name == Kind::TcpListener.full_name() {
            // While nothing behind its address can be reached no port is tried, so that no conflict shows.
            attributes.insert("operStatus".into(), "down".into());
            attributes.insert("connectionMsg".into(), "".into());
        }
        if full_name == Kind::Connector.full_name() {
            attributes.insert("connectionStatus".into(), "CONNECTING".into());
            attributes.insert("connectionMsg".into(), "Connection refused".into());
        }
        if let (Kind::Listener, Some(port), false) = (kept(full_name).unwrap_or(Kind::Address), port, is_own)
            && let Ok(listener) = std::net::TcpListener::bind((host.as_str(), port))
        {
            state.bound.insert(name.to_owned(), listener);
        }
        state.entities.insert(name.to_owned(), (full_name.to_owned(), attributes));
    }

    /// What management answers; nothing to a request without an address for the answer.
    pub fn answer(&self, properties: &BTreeMap<String, String>, body: &Attributes) -> Answer {
        let property = |name: &str| properties.get(name).map(String::as_str).unwrap_or_default();
        match property("operation") {
            "QUERY" => self.query(property("entityType"), body),
            operation => self.one(operation, property("type"), property("name"), body),
        }
    }

    fn query(&self, full_name: &str, body: &Attributes) -> Answer {
        let state = self.state.lock().unwrap();
        // A short name finds entities of configuration, and nothing of what the router's core holds, without an error.
        let known = kept(&self::full_name(full_name)).map_or(full_name, |kind| kind.full_name());
        let found: Vec<_> = state.entities.iter().filter(|(_, (kind, _))| kind == known).collect();
        let mut rows: Vec<Attributes> = found
            .into_iter()
            .map(|(name, (_, attributes))| {
                let mut row = attributes.clone();
                row.insert("name".into(), name.as_str().into());
                row
            })
            .collect();
        if full_name.ends_with(".routerMetrics") {
            rows.push(Attributes::from([("".into(), "3.5.1".into()), ("residentMemoryUsage".into(), 1_u32.into())]));
        }
        let asked = match body.get("attributeNames") {
            Some(Value::List(names)) => names.iter().map(Value::text).collect::<BTreeSet<_>>(),
            _ => BTreeSet::new(),
        };
        let all: BTreeSet<_> = rows.iter().flat_map(|row| row.keys().cloned()).collect();
        let names: Vec<_> = if asked.is_empty() { all } else { asked }.into_iter().collect();
        let value = |row: &Attributes, name: &String| row.get(name).cloned().unwrap_or(Value::Null);
        let row = |row: &Attributes| Value::List(names.iter().map(|name| value(row, name)).collect());
        let results = Value::List(rows.iter().map(row).collect());
        let names = Value::List(names.iter().map(|name| name.as_str().into()).collect());
        said(200, "OK", Attributes::from([("attributeNames".into(), names), ("results".into(), results)]))
    }

    fn one(&self, operation: &str, full_name: &str, name: &str, body: &Attributes) -> Answer {
        let found = self.state.lock().unwrap().entities.get(name).cloned();
        let found = found.filter(|(kind, _)| kind == full_name);
        let kind = kept(full_name);
        match (operation, found, kind) {
            (_, _, None) => said(400, "No such entity type", Attributes::new()),
            ("CREATE", _, Some(_)) => self.create(full_name, name, body),
            (_, None, _) => said(404, &format!("No entity with name={name}"), Attributes::new()),
            ("READ", Some((_, mut attributes)), _) => {
                attributes.insert("name".into(), name.into());
                said(200, "OK", attributes)
            }
            ("DELETE", Some(_), _) => {
                let mut state = self.state.lock().unwrap();
                state.entities.remove(name);
                state.bound.remove(name);
                said(204, "No Content", Attributes::new())
            }
            ("UPDATE", Some((_, mut attributes)), Some(kind)) if kind.is_updated() => {
                attributes.extend(body.clone());
                // Values are shown whether they could be used or not.
                let files = ["caCertFile", "certFile", "privateKeyFile"];
                let is_missing =
                    |name: &&str| attributes.get(*name).is_some_and(|path| !Path::new(&path.text()).exists());
                let bad = files.into_iter().find(is_missing);
                self.state.lock().unwrap().entities.insert(name.into(), (full_name.into(), attributes.clone()));
                attributes.insert("name".into(), name.into());
                match bad {
                    None => said(200, "OK", attributes),
                    Some(bad) => {
                        let path = attributes[bad].text();
                        let why = format!("Failed to configure TLS {bad} '{path}' from sslProfile '{name}'");
                        said(500, &format!("CError: Configuration: {why}"), Attributes::new())
                    }
                }
            }
            _ => {
                let may = "['CREATE', 'DELETE', 'READ']";
                said(
                    501,
                    &format!("Operation '{operation}' not implemented for '{full_name}' {may}"),
                    Attributes::new(),
                )
            }
        }
    }

    fn create(&self, full_name: &str, name: &str, body: &Attributes) -> Answer {
        if body.contains_key("no-such-attribute") {
            let why = format!("Unknown attribute 'no-such-attribute' for '{full_name}'");
            return said(400, &why, Attributes::new());
        }
        let place = || format!("listener/{}:{}", body["host"].text(), body["port"].text());
        let name = if name.is_empty() { place() } else { name.to_owned() };
        let existing = self.state.lock().unwrap().entities.get(&name).map(|(kind, _)| kind.clone());
        if let Some(existing) = existing {
            let (new, old) = (class(full_name), class(&existing));
            let why = format!("adding {new}() duplicates unique attribute 'name' from existing {old}()");
            return said(400, &why, Attributes::new());
        }
        self.make(full_name, &name, body.clone());
        let (_, mut made) = self.state.lock().unwrap().entities[&name].clone();
        made.insert("name".into(), name.into());
        said(201, "Created", made)
    }
}

/// What the router calls an entity of a type in its own code.
fn class(full_name: &str) -> String {
    let short = full_name.rsplit('.').next().unwrap();
    format!("{}{}Entity", short[..1].to_uppercase(), &short[1..])
}

fn said(status: i64, description: &str, body: Attributes) -> Answer {
    Answer { status, description: description.into(), body }
}

fn tls(profile: &Attributes) -> Option<TlsAcceptor> {
    let path = |name: &str| profile[name].text();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path("caCertFile")).ok()?).ok()?;
    let provider = muster_pki::tls::provider();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let leaf = CertificateDer::from_pem_file(path("certFile")).ok()?;
    let key = PrivateKeyDer::from_pem_file(path("privateKeyFile")).ok()?;
    let config = config.with_client_cert_verifier(verifier.build().ok()?).with_single_cert(vec![leaf], key).ok()?;
    Some(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(peer: Weak<Peer>, listener: std::net::TcpListener, tls: TlsAcceptor) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut clients = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (peer, tls) = (peer.clone(), tls.clone());
        clients.spawn(async move {
            let mut client = tls.accept(client).await.ok()?;
            external(&mut client).await.ok()?;
            let acceptor = ConnectionAcceptor::builder().container_id("peer").build();
            let mut connection = acceptor.accept(client).await.ok()?;
            let mut session = SessionAcceptor::new().accept(&mut connection).await.ok()?;
            let dynamic = |source: Source| {
                let address = Some("amqp:/_topo/0/peer/temp.1".to_owned());
                Some(Source { address, dynamic: false, ..source })
            };
            let links = LinkAcceptor::builder().on_dynamic_source(dynamic).build();
            let (mut requests, mut answers): (Option<Receiver>, Option<Sender>) = (None, None);
            while requests.is_none() || answers.is_none() {
                match links.accept(&mut session).await.ok()? {
                    LinkEndpoint::Sender(sender) => answers = Some(sender),
                    LinkEndpoint::Receiver(receiver) => requests = Some(receiver),
                }
            }
            let (mut requests, mut answers) = (requests?, answers?);
            loop {
                let delivery: Delivery<Body<Amqp>> = requests.recv().await.ok()?;
                requests.accept(&delivery).await.ok()?;
                let (reply_to, message) = answered(&*peer.upgrade()?, delivery.into_message());
                if reply_to {
                    answers.send(message).await.ok()?;
                }
            }
            #[expect(unreachable_code, reason = "gives the block its type")]
            Some(())
        });
    }
}

/// The answer to a request, and whether the request names an address for it.
fn answered(
    peer: &Peer,
    request: Message<Body<Amqp>>,
) -> (bool, Message<fe2o3_amqp::types::messaging::AmqpValue<Amqp>>) {
    let properties = request.properties.unwrap_or_default();
    let asked = request.application_properties.map(|p| p.0).unwrap_or_default();
    let asked = asked.into_iter().map(|(name, value)| (name, from_amqp(value.into()).text())).collect();
    let body = match request.body {
        Body::Value(value) => match from_amqp(value.0) {
            Value::Map(map) => map,
            _ => Attributes::new(),
        },
        _ => Attributes::new(),
    };
    let answer = peer.answer(&asked, &body);
    let mut answering = Properties::new();
    answering.correlation_id = properties.correlation_id;
    let status = i32::try_from(answer.status).unwrap();
    let message = Message::builder()
        .properties(answering)
        .application_properties(
            ApplicationProperties::builder()
                .insert("statusCode", SimpleValue::Int(status))
                .insert("statusDescription", SimpleValue::String(answer.description))
                .build(),
        )
        .value(to_amqp(&Value::Map(answer.body)))
        .build();
    (properties.reply_to.is_some(), message)
}
