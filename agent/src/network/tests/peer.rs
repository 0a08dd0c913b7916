//! A stand-in for a router's management, with its quirks.
//!
//! It keeps entities, binds the ports of listeners, and has neither links nor routing. What it answers is held to what
//! the real router answered, see `contract`. It knows nothing of the agent, so that stories of the whole house can start
//! it as a program of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, Weak},
};

use fe2o3_amqp::{
    Delivery, Receiver, Sender,
    acceptor::{ConnectionAcceptor, LinkAcceptor, LinkEndpoint, SessionAcceptor},
    types::{
        messaging::{ApplicationProperties, Body, Message, Properties, Source},
        primitives::{SimpleValue, Value as Amqp},
    },
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// The router's words for what it keeps, in start-up files and in management, and whether it can change one that exists.
const KINDS: [(&str, &str, bool); 7] = [
    ("vhost", "io.skupper.router.vhost", true),
    ("sslProfile", "io.skupper.router.sslProfile", true),
    ("address", "io.skupper.router.router.config.address", false),
    ("listener", LISTENER, false),
    ("connector", CONNECTOR, false),
    ("tcpConnector", "io.skupper.router.tcpConnector", false),
    ("tcpListener", TCP_LISTENER, false),
];
const LISTENER: &str = "io.skupper.router.listener";
const CONNECTOR: &str = "io.skupper.router.connector";
const TCP_LISTENER: &str = "io.skupper.router.tcpListener";

/// How the names begin of what an agent has for itself.
const OWN: &str = "muster-agent";

type Attributes = Map<String, Value>;

/// What management answers: a number as in HTTP, words, and what was asked for.
struct Answer {
    status: i32,
    description: String,
    body: Attributes,
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

fn full_name(short: &str) -> String {
    let known = KINDS.into_iter().find(|(name, ..)| *name == short);
    known.map_or_else(|| format!("io.skupper.router.{short}"), |(_, full, _)| full.to_owned())
}

/// Whether a kind is kept, and if so, whether one that exists can be changed.
fn is_changed(full_name: &str) -> Option<bool> {
    KINDS.into_iter().find(|(_, full, _)| *full == full_name).map(|(.., changed)| changed)
}

/// A value as the router may spell it elsewhere: ports are texts.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn port(value: &Value) -> Option<u16> {
    text(value).parse().ok()
}

impl Peer {
    /// A peer as its start-up file says; none when it would end at once, as for a first listener that cannot be bound.
    pub fn start(file: &Path) -> Option<Arc<Self>> {
        let entities: Vec<(String, Attributes)> = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        let find = |kind: &str| entities.iter().find(|(k, _)| k == kind).map(|(_, attributes)| attributes.clone());
        let (profile, listener) = (find("sslProfile")?, find("listener")?);
        let tls = tls(&profile)?;
        let own = std::net::TcpListener::bind(("127.0.0.1", port(&listener["port"])?)).ok()?;
        own.set_nonblocking(true).ok()?;
        let state = State { own: own.local_addr().ok(), ..State::default() };
        let peer = Arc::new(Self { state: Mutex::new(state), serving: Mutex::default() });
        for (short, mut attributes) in entities {
            let name = attributes.remove("name").map(|name| text(&name));
            let name = name.or_else(|| attributes.get("hostname").map(|host| format!("vhost/{}", text(host))));
            peer.make(&full_name(&short), &name.unwrap_or(short), attributes);
        }
        let serving = tokio::spawn(serve(Arc::downgrade(&peer), own, tls));
        *peer.serving.lock().unwrap() = Some(AbortOnDropHandle::new(serving));
        // What serves does not hold the peer: it ends when it is forgotten.
        Some(peer)
    }

    /// Where it accepts connections.
    pub fn listens(&self) -> BTreeSet<SocketAddr> {
        let state = self.state.lock().unwrap();
        let bound = state.bound.values().filter_map(|listener| listener.local_addr().ok());
        bound.chain(state.own).collect()
    }

    fn make(&self, full_name: &str, name: &str, mut attributes: Attributes) {
        let mut state = self.state.lock().unwrap();
        let is_own = name.starts_with(OWN);
        let host = attributes.get("host").map(text).unwrap_or_default();
        let port = attributes.get("port").and_then(port);
        if full_name == TCP_LISTENER {
            // While nothing behind its address can be reached no port is tried, so that no conflict shows.
            attributes.insert("operStatus".into(), "down".into());
            attributes.insert("connectionMsg".into(), "".into());
        }
        if full_name == CONNECTOR {
            attributes.insert("connectionStatus".into(), "CONNECTING".into());
            attributes.insert("connectionMsg".into(), "Connection refused".into());
        }
        if let (LISTENER, Some(port), false) = (full_name, port, is_own)
            && let Ok(listener) = std::net::TcpListener::bind((host.as_str(), port))
        {
            state.bound.insert(name.to_owned(), listener);
        }
        state.entities.insert(name.to_owned(), (full_name.to_owned(), attributes));
    }

    /// What management answers; nothing to a request without an address for the answer.
    fn answer(&self, properties: &BTreeMap<String, String>, body: &Attributes) -> Answer {
        let property = |name: &str| properties.get(name).map(String::as_str).unwrap_or_default();
        match property("operation") {
            "QUERY" => self.query(property("entityType"), body),
            operation => self.one(operation, property("type"), property("name"), body),
        }
    }

    fn query(&self, full_name: &str, body: &Attributes) -> Answer {
        let state = self.state.lock().unwrap();
        // A short name finds entities of configuration, and nothing of what the router's core holds, without an error.
        let long = self::full_name(full_name);
        let known = is_changed(&long).map_or(full_name, |_| &long);
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
            rows.push(Attributes::from_iter([
                (String::new(), "3.5.1".into()),
                ("residentMemoryUsage".to_owned(), 1.into()),
            ]));
        }
        let asked = match body.get("attributeNames") {
            Some(Value::Array(names)) => names.iter().map(text).collect::<BTreeSet<_>>(),
            _ => BTreeSet::new(),
        };
        let all: BTreeSet<_> = rows.iter().flat_map(|row| row.keys().cloned()).collect();
        let names: Vec<_> = if asked.is_empty() { all } else { asked }.into_iter().collect();
        let value = |row: &Attributes, name: &String| row.get(name).cloned().unwrap_or(Value::Null);
        let results: Vec<Value> = rows.iter().map(|row| names.iter().map(|name| value(row, name)).collect()).collect();
        let body = [("attributeNames".to_owned(), json!(names)), ("results".to_owned(), json!(results))];
        said(200, "OK", Attributes::from_iter(body))
    }

    fn one(&self, operation: &str, full_name: &str, name: &str, body: &Attributes) -> Answer {
        let found = self.state.lock().unwrap().entities.get(name).cloned();
        let found = found.filter(|(kind, _)| kind == full_name);
        match (operation, found, is_changed(full_name)) {
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
            ("UPDATE", Some((_, mut attributes)), Some(true)) => {
                attributes.extend(body.clone());
                // Values are shown whether they could be used or not.
                let files = ["caCertFile", "certFile", "privateKeyFile"];
                let is_missing =
                    |name: &&str| attributes.get(*name).is_some_and(|path| !Path::new(&text(path)).exists());
                let bad = files.into_iter().find(is_missing);
                self.state.lock().unwrap().entities.insert(name.into(), (full_name.into(), attributes.clone()));
                attributes.insert("name".into(), name.into());
                match bad {
                    None => said(200, "OK", attributes),
                    Some(bad) => {
                        let path = text(&attributes[bad]);
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
        let place = || format!("listener/{}:{}", text(&body["host"]), text(&body["port"]));
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

fn said(status: i32, description: &str, body: Attributes) -> Answer {
    Answer { status, description: description.into(), body }
}

fn tls(profile: &Attributes) -> Option<TlsAcceptor> {
    let path = |name: &str| text(&profile[name]);
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
    let asked = asked.into_iter().map(|(name, value)| (name, text(&from_amqp(value.into())))).collect();
    let body = match request.body {
        Body::Value(value) => match from_amqp(value.0) {
            Value::Object(map) => map,
            _ => Attributes::new(),
        },
        _ => Attributes::new(),
    };
    let answer = peer.answer(&asked, &body);
    let mut answering = Properties::new();
    answering.correlation_id = properties.correlation_id;
    let message = Message::builder()
        .properties(answering)
        .application_properties(
            ApplicationProperties::builder()
                .insert("statusCode", SimpleValue::Int(answer.status))
                .insert("statusDescription", SimpleValue::String(answer.description))
                .build(),
        )
        .value(to_amqp(&Value::Object(answer.body)))
        .build();
    (properties.reply_to.is_some(), message)
}

fn to_amqp(value: &Value) -> Amqp {
    match value {
        Value::Null => Amqp::Null,
        Value::Bool(flag) => Amqp::Bool(*flag),
        Value::Number(number) => Amqp::Long(number.as_i64().unwrap_or_default()),
        Value::String(text) => Amqp::String(text.clone()),
        Value::Array(list) => Amqp::List(list.iter().map(to_amqp).collect()),
        Value::Object(map) => {
            Amqp::Map(map.iter().map(|(name, value)| (Amqp::String(name.clone()), to_amqp(value))).collect())
        }
    }
}

fn from_amqp(value: Amqp) -> Value {
    match value {
        Amqp::Bool(flag) => flag.into(),
        Amqp::Int(number) => number.into(),
        Amqp::Long(number) => number.into(),
        Amqp::String(text) => text.into(),
        Amqp::Symbol(text) => text.0.into(),
        Amqp::List(list) => list.into_iter().map(from_amqp).collect(),
        Amqp::Map(map) => {
            Value::Object(map.into_iter().map(|(name, value)| (text(&from_amqp(name)), from_amqp(value))).collect())
        }
        _ => Value::Null,
    }
}
