//! Speaking to a router: requests and answers of its AMQP management.
//!
//! One connection, one request in flight. Every request has an end: a router that does not answer in time is silent,
//! and the connection is of no use any more, since an answer may still come.

use std::{collections::BTreeMap, time::Duration};

use fe2o3_amqp::{
    Connection, Receiver, Sender, Session,
    connection::ConnectionHandle,
    session::SessionHandle,
    types::{
        messaging::{AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties, Source},
        primitives::{OrderedMap, SimpleValue, Value as Amqp},
    },
};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    model::{Attributes, Entity, Kind, Value},
    sasl,
};

/// From dialling to a connection that can be used.
const CONNECT: Duration = Duration::from_secs(3);

/// From a request to its answer.
const ANSWER: Duration = Duration::from_secs(3);

/// The name in the certificate that a router shows its agent.
pub const ROUTER_NAME: &str = "router.muster.internal";

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No answer in time.
    #[error("the router does not answer")]
    Silent,
    /// There is no connection, or it broke.
    #[error("the router's management cannot be reached: {0}")]
    Lost(String),
    /// The router answered and says no.
    #[error("{description} ({status})")]
    Refused {
        /// Its number, as in HTTP.
        status: i64,
        /// Its words.
        description: String,
    },
}

/// A connection to the management of one router.
pub struct Management {
    // Both end when they are dropped.
    _connection: ConnectionHandle<()>,
    _session: SessionHandle<()>,
    sender: Sender,
    receiver: Receiver,
    reply_to: String,
    asked: u64,
}

/// One request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// What to do and with what: operation, type, name.
    pub properties: BTreeMap<&'static str, String>,
    /// Attributes.
    pub body: Attributes,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// As in HTTP.
    pub status: i64,
    /// In words.
    pub description: String,
    /// What was asked for.
    pub body: Attributes,
}

// === impl Management ===

impl Management {
    /// Connects to a router on loopback.
    pub async fn connect(port: u16, tls: TlsConnector) -> Result<Self, Failure> {
        timeout(CONNECT, Self::open(port, tls)).await.map_err(|_| Failure::Silent)?
    }

    async fn open(port: u16, tls: TlsConnector) -> Result<Self, Failure> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.map_err(lost)?;
        let name = ServerName::try_from(ROUTER_NAME).map_err(lost)?;
        let mut stream = tls.connect(name, tcp).await.map_err(lost)?;
        sasl::external(&mut stream).await.map_err(lost)?;
        let opening = Connection::builder().container_id("muster-agent").scheme("amqp").open_with_stream(stream);
        let mut connection = opening.await.map_err(lost)?;
        let mut session = Session::begin(&mut connection).await.map_err(lost)?;
        let receiver = Receiver::builder()
            .name("muster-agent-answers")
            .source(Source::builder().dynamic(true).build())
            .attach(&mut session)
            .await
            .map_err(lost)?;
        let reply_to = receiver.source().as_ref().and_then(|source| source.address.clone());
        let reply_to = reply_to.ok_or_else(|| lost("it gave no address for answers"))?;
        let sender = Sender::attach(&mut session, "muster-agent-requests", "$management").await.map_err(lost)?;
        Ok(Self { _connection: connection, _session: session, sender, receiver, reply_to, asked: 0 })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// After [`Failure::Silent`] and [`Failure::Lost`] the connection is of no more use.
    pub async fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        timeout(ANSWER, self.exchange(request)).await.map_err(|_| Failure::Silent)?
    }

    async fn exchange(&mut self, request: &Request) -> Result<Answer, Failure> {
        self.asked += 1;
        // A number is echoed in a form that is no correlation id; a text comes back as it is.
        let correlation = MessageId::String(self.asked.to_string());
        let message = Message::builder()
            .properties(
                Properties::builder().reply_to(self.reply_to.clone()).correlation_id(correlation.clone()).build(),
            )
            .application_properties(ApplicationProperties(
                request
                    .properties
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), SimpleValue::String(value.clone())))
                    .collect(),
            ))
            .value(to_amqp(&Value::Map(request.body.clone())))
            .build();
        let outcome = self.sender.send(message).await.map_err(lost)?;
        outcome.accepted_or_else(|state| lost(format!("a request was not taken: {state:?}")))?;
        loop {
            let delivery = self.receiver.recv::<Body<Amqp>>().await.map_err(lost)?;
            self.receiver.accept(&delivery).await.map_err(lost)?;
            let message = delivery.into_message();
            if message.properties.as_ref().is_some_and(|p| p.correlation_id.as_ref() == Some(&correlation)) {
                return Ok(answer(message));
            }
        }
    }

    /// The entities of a type, by its full name: short ones are not understood everywhere.
    pub async fn query(&mut self, full_name: &str, attributes: &[&str]) -> Result<Vec<Attributes>, Failure> {
        let names = attributes.iter().map(|name| Value::from(*name)).collect();
        let request = Request {
            properties: BTreeMap::from([
                ("operation", "QUERY".into()),
                ("entityType", full_name.into()),
                ("type", "org.amqp.management".into()),
                ("name", "self".into()),
            ]),
            body: Attributes::from([("attributeNames".into(), Value::List(names))]),
        };
        let answer = succeeded(self.ask(&request).await?)?;
        let (Some(Value::List(names)), Some(Value::List(rows))) =
            (answer.body.get("attributeNames"), answer.body.get("results"))
        else {
            return Err(lost("an answer to QUERY holds no table"));
        };
        Ok(rows.iter().map(|row| zip(names, row)).collect())
    }

    /// All entities of a kind that the agent keeps.
    pub async fn list(&mut self, kind: Kind) -> Result<Vec<Entity>, Failure> {
        let rows = self.query(kind.full_name(), &[]).await?;
        let entity = |mut attributes: Attributes| {
            let name = attributes.remove("name").map(|name| name.text()).unwrap_or_default();
            Entity { kind, name, attributes }
        };
        Ok(rows.into_iter().map(entity).collect())
    }

    /// Makes an entity.
    pub async fn create(&mut self, entity: &Entity) -> Result<(), Failure> {
        let request = about("CREATE", entity.kind, &entity.name, entity.attributes.clone());
        succeeded(self.ask(&request).await?).map(drop)
    }

    /// Changes an entity.
    pub async fn update(&mut self, entity: &Entity, body: Attributes) -> Result<(), Failure> {
        let request = about("UPDATE", entity.kind, &entity.name, body);
        succeeded(self.ask(&request).await?).map(drop)
    }

    /// Removes an entity; one that is not there is fine.
    pub async fn delete(&mut self, kind: Kind, name: &str) -> Result<(), Failure> {
        match succeeded(self.ask(&about("DELETE", kind, name, Attributes::new())).await?) {
            Ok(_) | Err(Failure::Refused { status: 404, .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

fn about(operation: &str, kind: Kind, name: &str, body: Attributes) -> Request {
    let properties = BTreeMap::from([
        ("operation", operation.to_owned()),
        ("type", kind.full_name().to_owned()),
        ("name", name.to_owned()),
    ]);
    Request { properties, body }
}

/// The transfer is accepted whatever becomes of the request: only the status counts.
fn succeeded(answer: Answer) -> Result<Answer, Failure> {
    match answer.status {
        200..=299 => Ok(answer),
        status => Err(Failure::Refused { status, description: answer.description }),
    }
}

fn answer(message: Message<Body<Amqp>>) -> Answer {
    let properties = message.application_properties.map(|p| p.0).unwrap_or_default();
    let property = |name: &str| properties.get(name).map_or(Value::Null, |value| from_amqp(value.clone().into()));
    let body = match message.body {
        Body::Value(AmqpValue(Amqp::Map(map))) => pairs(map),
        _ => Attributes::new(),
    };
    Answer {
        status: property("statusCode").number().unwrap_or(0),
        description: property("statusDescription").text(),
        body,
    }
}

fn zip(names: &[Value], row: &Value) -> Attributes {
    let Value::List(row) = row else { return Attributes::new() };
    let known = names.iter().zip(row).filter(|(_, value)| **value != Value::Null);
    known.map(|(name, value)| (name.text(), value.clone())).collect()
}

/// The value as AMQP spells it.
pub fn to_amqp(value: &Value) -> Amqp {
    match value {
        Value::Null => Amqp::Null,
        Value::Flag(flag) => Amqp::Bool(*flag),
        Value::Number(number) => i32::try_from(*number).map_or(Amqp::Long(*number), Amqp::Int),
        Value::Text(text) => Amqp::String(text.clone()),
        Value::Map(map) => {
            Amqp::Map(map.iter().map(|(name, value)| (Amqp::String(name.clone()), to_amqp(value))).collect())
        }
        Value::List(list) => Amqp::List(list.iter().map(to_amqp).collect()),
    }
}

/// The value that AMQP spelled, whatever the width. What no entity holds is null.
pub fn from_amqp(value: Amqp) -> Value {
    let number = |n: u64| Value::Number(i64::try_from(n).unwrap_or(i64::MAX));
    match value {
        Amqp::Bool(flag) => Value::Flag(flag),
        Amqp::Ubyte(n) => number(n.into()),
        Amqp::Ushort(n) => number(n.into()),
        Amqp::Uint(n) => number(n.into()),
        Amqp::Ulong(n) => number(n),
        Amqp::Byte(n) => Value::Number(n.into()),
        Amqp::Short(n) => Value::Number(n.into()),
        Amqp::Int(n) => Value::Number(n.into()),
        Amqp::Long(n) => Value::Number(n),
        Amqp::Timestamp(at) => Value::Number(at.milliseconds()),
        Amqp::String(text) => Value::Text(text),
        Amqp::Symbol(text) => Value::Text(text.0),
        Amqp::List(list) => Value::List(list.into_iter().map(from_amqp).collect()),
        Amqp::Map(map) => Value::Map(pairs(map)),
        _ => Value::Null,
    }
}

fn pairs(map: OrderedMap<Amqp, Amqp>) -> Attributes {
    let pairs = map.into_iter().map(|(name, value)| (from_amqp(name).text(), from_amqp(value)));
    pairs.filter(|(_, value)| *value != Value::Null).collect()
}

fn lost(error: impl std::fmt::Display) -> Failure {
    Failure::Lost(error.to_string())
}
