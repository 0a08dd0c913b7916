//! What the router is to hold, its start-up file, and what has to be done to a running one.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Attributes, Entity, Kind, Listener, Local, Material, Mode, OWN, Role, Site, Tcp, Value};

/// Name of a router's policy for the members of a listener, as management spells it.
const VHOST: &str = "vhost/";

/// One step that brings a running router closer to what is wanted.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Removes an entity.
    Delete {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// Changes attributes of an entity.
    Update(Entity),
    /// Makes an entity.
    Create(Entity),
}

/// The entities a site's router is to hold, in the order in which they are made: those of profiles that can be used, of
/// endpoints that are wanted, and of ports behind which somebody answers. A listener whose port is `taken` by somebody
/// else is left out: a router that is told to bind one lists it all the same, and may crash over the next.
pub fn wanted(
    site: &Site,
    profiles: &BTreeMap<String, Material>,
    healthy: &BTreeSet<String>,
    taken: &BTreeSet<String>,
) -> Vec<Entity> {
    let mut entities = Vec::new();
    for profile in &site.profiles {
        if let Some(material) = profiles.get(&profile.name) {
            entities.push(ssl_profile(&profile.name, material));
        }
    }
    let can_listen = |l: &&Listener| profiles.contains_key(&l.profile) && !taken.contains(&l.name);
    for listener in site.listeners.iter().filter(can_listen) {
        let mut attributes = locked(listener.role.word(), &listener.host, listener.port, &listener.profile);
        if listener.role == Role::Edge {
            attributes.insert("policyVhost".into(), listener.name.as_str().into());
            entities.push(vhost(&listener.name, members(&listener.members, &listener.tenant)));
        }
        entities.push(Entity { kind: Kind::Listener, name: listener.name.clone(), attributes });
    }
    let mut connectors: Vec<_> = site.connectors.iter().filter(|c| profiles.contains_key(&c.profile)).collect();
    // The router tries edge connectors in the order in which they were made.
    connectors.sort_by_key(|c| c.priority);
    for connector in connectors {
        let attributes = attributes([
            ("role", connector.role.word().into()),
            ("host", connector.host.as_str().into()),
            ("port", connector.port.to_string().into()),
            ("cost", connector.cost.max(1).into()),
            ("sslProfile", connector.profile.as_str().into()),
            ("saslMechanisms", "EXTERNAL".into()),
            ("verifyHostname", true.into()),
        ]);
        entities.push(Entity { kind: Kind::Connector, name: connector.name.clone(), attributes });
    }
    for address in &site.addresses {
        use super::model::Distribution::{Balanced, Closest, Unavailable};
        let distribution = match address.distribution {
            Balanced => "balanced",
            Closest => "closest",
            Unavailable => "unavailable",
        };
        let attributes =
            attributes([("pattern", address.pattern.as_str().into()), ("distribution", distribution.into())]);
        entities.push(Entity { kind: Kind::Address, name: address.name.clone(), attributes });
    }
    let wanted = |tcp: &&Tcp| site.is_wanted(&tcp.endpoint);
    entities.extend(site.tcp_listeners.iter().filter(wanted).map(|t| tcp(Kind::TcpListener, t)));
    let connectors = site.tcp_connectors.iter().filter(wanted).filter(|t| healthy.contains(&t.name));
    entities.extend(connectors.map(|t| tcp(Kind::TcpConnector, t)));
    entities.sort_by_key(|e| e.kind);
    entities
}

/// The start-up file: all that is wanted, after the agent's own way in. The router tries listeners in order and ends
/// when it cannot bind the first.
pub fn start_file(site: &Site, local: &Local, wanted: &[Entity]) -> String {
    let mut all = base(site);
    all.extend(own(local));
    let entry = |e: &Entity| (e.kind.file_name(), with_name(e));
    all.extend(wanted.iter().map(entry));
    let lines: Vec<_> = all.iter().filter_map(|entity| serde_json::to_string(entity).ok()).collect();
    format!("[{}]\n", lines.join(",\n "))
}

/// What a running router cannot be told: another value needs another start.
pub fn base(site: &Site) -> Vec<(&'static str, Attributes)> {
    let mode = match site.mode {
        Mode::Interior => "interior",
        Mode::Edge => "edge",
    };
    let mut all = vec![("router", attributes([("id", site.router.as_str().into()), ("mode", mode.into())]))];
    if !site.tenant.is_empty() {
        all.push(("network", attributes([("tenantId", site.tenant.as_str().into())])));
    }
    all.push(("policy", attributes([("enableVhostPolicy", true.into())])));
    all
}

/// What was set lately, to see when somebody else sets it otherwise again and again.
#[derive(Debug, Default)]
pub struct Contested(BTreeMap<(Kind, String), Setting>);

#[derive(Debug)]
struct Setting {
    /// What it was set to; none: it was removed.
    to: Option<Attributes>,
    times: u32,
    last_ms: i64,
}

/// An entity set this often within [`QUIET_MS`] of each other is somebody else's concern too …
const PATIENCE: u32 = 3;

/// … and is left alone this long, milliseconds.
const QUIET_MS: i64 = 60_000;

impl Contested {
    /// Takes from a plan what is contested, and names it.
    pub fn sift(&self, actions: Vec<Action>, now_ms: i64) -> (Vec<Action>, BTreeSet<String>) {
        let intents = intents(&actions);
        let is_left = |key: &(Kind, String)| {
            let setting = self.0.get(key);
            setting.is_some_and(|s| {
                s.times >= PATIENCE && now_ms < s.last_ms + QUIET_MS && intents.get(key) == Some(&s.to)
            })
        };
        let (left, kept): (Vec<_>, Vec<_>) = actions.into_iter().partition(|action| is_left(&key(action)));
        (kept, left.iter().map(|action| key(action).1).collect())
    }

    /// Remembers what a plan set.
    pub fn note(&mut self, actions: &[Action], now_ms: i64) {
        self.0.retain(|_, setting| now_ms < setting.last_ms + QUIET_MS);
        for (key, to) in intents(actions) {
            let setting = self.0.entry(key).or_insert(Setting { to: to.clone(), times: 0, last_ms: now_ms });
            setting.times = if setting.to == to { setting.times + 1 } else { 1 };
            (setting.to, setting.last_ms) = (to, now_ms);
        }
    }
}

/// What each entity of a plan is to be in the end.
fn intents(actions: &[Action]) -> BTreeMap<(Kind, String), Option<Attributes>> {
    let to = |action: &Action| match action {
        Action::Delete { .. } => None,
        Action::Update(entity) | Action::Create(entity) => Some(entity.attributes.clone()),
    };
    actions.iter().map(|action| (key(action), to(action))).collect()
}

fn key(action: &Action) -> (Kind, String) {
    match action {
        Action::Delete { kind, name } => (*kind, name.clone()),
        Action::Update(entity) | Action::Create(entity) => (entity.kind, entity.name.clone()),
    }
}

/// What brings a running router to what is wanted. Kinds the agent does not keep and entities of its own are left alone.
///
/// `applied` is what each profile was last told successfully: after a refused change the router shows values that it
/// does not use, so that what is observed proves nothing.
pub fn plan(wanted: &[Entity], observed: &[Entity], applied: &BTreeMap<String, Attributes>) -> Vec<Action> {
    let (mut deletes, mut updates, mut creates) = (Vec::new(), Vec::new(), Vec::new());
    let is_ours = |e: &&Entity| !bare(&e.name).starts_with(OWN);
    let there: BTreeMap<_, _> = observed.iter().filter(is_ours).map(|e| ((e.kind, e.name.as_str()), e)).collect();
    let named: BTreeSet<_> = wanted.iter().map(|e| (e.kind, e.name.as_str())).collect();
    for ((kind, name), _) in there.iter().filter(|(key, _)| !named.contains(*key)) {
        deletes.push((*kind, (*name).to_owned()));
    }
    for entity in wanted {
        let Some(found) = there.get(&(entity.kind, entity.name.as_str())) else {
            creates.push(entity.clone());
            continue;
        };
        let is_told = entity.kind != Kind::SslProfile || applied.get(&entity.name) == Some(&entity.attributes);
        if is_told && equals(entity, found) {
            continue;
        }
        if entity.kind.is_updated() {
            updates.push(entity.clone());
        } else {
            deletes.push((entity.kind, entity.name.clone()));
            creates.push(entity.clone());
        }
    }
    // Users go before what they use, and names become free before they are taken by another kind.
    deletes.sort_by(|a, b| b.cmp(a));
    let order = |e: &Entity| e.kind;
    updates.sort_by_key(order);
    creates.sort_by_key(order);
    let deletes = deletes.into_iter().map(|(kind, name)| Action::Delete { kind, name });
    deletes.chain(updates.into_iter().map(Action::Update)).chain(creates.into_iter().map(Action::Create)).collect()
}

/// Whether an entity that was found is the one wanted. What is not wanted has the router's own default.
fn equals(wanted: &Entity, found: &Entity) -> bool {
    wanted.attributes.iter().all(|(name, value)| match found.attributes.get(name) {
        Some(Value::Map(map)) => includes(map, value),
        Some(found) => found.text() == value.text(),
        None => is_default(value),
    })
}

/// Whether a value is as good as none: the router leaves such out.
fn is_default(value: &Value) -> bool {
    matches!(value.text().as_str(), "" | "0" | "false")
}

/// The router answers groups of a policy with all their defaults.
fn includes(found: &Attributes, wanted: &Value) -> bool {
    let Value::Map(wanted) = wanted else { return false };
    let is_there = |(name, value): (&String, &Value)| match (found.get(name), value) {
        (Some(Value::Map(found)), Value::Map(_)) => includes(found, value),
        (Some(found), _) => found.text() == value.text(),
        (None, _) => is_default(value),
    };
    let no_more = found.iter().all(|(name, value)| !matches!(value, Value::Map(_)) || wanted.contains_key(name));
    wanted.iter().all(is_there) && no_more
}

fn own(local: &Local) -> [(&'static str, Attributes); 3] {
    let profile = ssl_profile(&format!("{OWN}-tls"), &local.material);
    let host = "127.0.0.1";
    let mut listener = locked("normal", host, local.port, &profile.name);
    listener.insert("policyVhost".into(), OWN.into());
    let listener = Entity { kind: Kind::Listener, name: format!("{OWN}-management"), attributes: listener };
    let may = attributes([
        ("remoteHosts", "*".into()),
        ("users", OWN.into()),
        ("targets", "$management".into()),
        ("sources", "".into()),
        ("allowDynamicSource", true.into()),
    ]);
    let vhost = vhost(OWN, may);
    [&vhost, &profile, &listener].map(|e| (e.kind.file_name(), with_name(e)))
}

/// A listener at which both ends show a certificate.
fn locked(role: &str, host: &str, port: u16, profile: &str) -> Attributes {
    attributes([
        ("role", role.into()),
        ("host", host.into()),
        ("port", port.to_string().into()),
        ("sslProfile", profile.into()),
        ("saslMechanisms", "EXTERNAL".into()),
        ("authenticatePeer", true.into()),
        ("requireSsl", true.into()),
    ])
}

/// Whoever may connect, and the addresses within which they stay. A member's own router puts the network's name before
/// its addresses, so that only the access point can hold it to that.
fn members(names: &[String], tenant: &str) -> Attributes {
    let mut group = attributes([
        ("remoteHosts", "*".into()),
        // A group must name somebody; a common name is never a single hyphen.
        ("users", if names.is_empty() { "-".into() } else { names.join(",").into() }),
        ("allowDynamicSource", true.into()),
        ("allowAnonymousSender", true.into()),
    ]);
    if tenant.is_empty() {
        group.extend(attributes([("targets", "*".into()), ("sources", "*".into())]));
    } else {
        // Beside the network's addresses: what routers say to each other, records of flows, and answers to where a
        // connection came from. What comes to an edge itself has the one word that is its name; a lone `*`, which
        // should mean that, is taken by the router as a letter.
        let targets = format!("{tenant}/#,_$qd.#,mc/sfe.#,amqp:/_edge/*/{tenant}/#");
        let sources = format!("{tenant}/#,_$qd.#,sfe.#,vfcr.#,/*");
        group.extend(attributes([("targetPattern", targets.into()), ("sourcePattern", sources.into())]));
    }
    group
}

/// Lets one group do what it may and nobody else in.
fn vhost(hostname: &str, group: Attributes) -> Entity {
    let groups = Attributes::from([("members".to_owned(), Value::Map(group))]);
    let attributes =
        attributes([("hostname", hostname.into()), ("allowUnknownUser", false.into()), ("groups", Value::Map(groups))]);
    Entity { kind: Kind::Vhost, name: format!("{VHOST}{hostname}"), attributes }
}

fn ssl_profile(name: &str, material: &Material) -> Entity {
    let attributes = attributes([
        ("caCertFile", material.trust.as_str().into()),
        ("certFile", material.leaf.as_str().into()),
        ("privateKeyFile", material.key.as_str().into()),
        ("uidFormat", "n".into()),
        ("ordinal", material.ordinal.into()),
        ("oldestValidOrdinal", material.oldest.into()),
    ]);
    Entity { kind: Kind::SslProfile, name: name.to_owned(), attributes }
}

fn tcp(kind: Kind, tcp: &Tcp) -> Entity {
    let attributes = attributes([
        ("address", tcp.address.as_str().into()),
        ("host", tcp.host.as_str().into()),
        ("port", tcp.port.to_string().into()),
    ]);
    Entity { kind, name: tcp.name.clone(), attributes }
}

fn with_name(entity: &Entity) -> Attributes {
    let mut all = entity.attributes.clone();
    if entity.kind != Kind::Vhost {
        all.insert("name".into(), entity.name.as_str().into());
    }
    all
}

/// A name without what management puts before it.
fn bare(name: &str) -> &str {
    name.strip_prefix(VHOST).unwrap_or(name)
}

fn attributes<const N: usize>(pairs: [(&str, Value); N]) -> Attributes {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
