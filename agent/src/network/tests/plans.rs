//! The pure part: what is wanted, the start-up file, plans, names, ordinals.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::network::{self as proto, Role, endpoint};
use proptest::prelude::*;
use prost::Message;

use super::rig::{self, Authority};
use crate::network::{
    model::{Attributes, Entity, Kind, Local, Material, Site, Value},
    plan::{self, Action, Contested},
    profile::{Held, Leaf},
    wire,
};

fn material(ordinal: u32) -> Material {
    Material { trust: "t.pem".into(), leaf: "l.pem".into(), key: "k.pem".into(), ordinal, oldest: 0 }
}

fn entity(kind: Kind, name: &str, value: u32) -> Entity {
    Entity { kind, name: name.into(), attributes: Attributes::from([("value".into(), value.into())]) }
}

/// What a router holds after a plan, by the rules of its management: no two entities of one name, nothing changed but
/// what can be.
fn carried_out(observed: &[Entity], actions: &[Action]) -> Vec<Entity> {
    let mut held: Vec<Entity> = observed.to_vec();
    for action in actions {
        match action {
            Action::Delete { kind, name } => {
                let before = held.len();
                held.retain(|e| (e.kind, &e.name) != (*kind, name));
                assert_eq!(held.len(), before - 1, "{action:?} removes one");
            }
            Action::Update(entity) => {
                assert!(entity.kind.is_updated(), "{action:?} is refused by a router");
                let found = held.iter_mut().find(|e| (e.kind, &e.name) == (entity.kind, &entity.name));
                *found.expect("it is there") = entity.clone();
            }
            Action::Create(entity) => {
                assert!(held.iter().all(|e| e.name != entity.name), "{action:?}: the name is taken");
                held.push(entity.clone());
            }
        }
    }
    held.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    held
}

fn entities() -> impl Strategy<Value = Vec<Entity>> {
    prop::collection::btree_map("[a-f]", (0..Kind::ALL.len(), 0..3_u32), 0..6).prop_map(|all| {
        let mut all: Vec<_> =
            all.into_iter().map(|(name, (kind, value))| entity(Kind::ALL[kind], &name, value)).collect();
        all.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        all
    })
}

fn applied(entities: &[Entity]) -> BTreeMap<String, Attributes> {
    entities.iter().filter(|e| e.kind == Kind::SslProfile).map(|e| (e.name.clone(), e.attributes.clone())).collect()
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_out_leaves_what_is_wanted_and_nothing_to_do(wanted in entities(), observed in entities()) {
        let told = applied(&observed);
        let actions = plan::plan(&wanted, &observed, &told);
        prop_assert_eq!(&actions, &plan::plan(&wanted, &observed, &told));
        let held = carried_out(&observed, &actions);
        prop_assert_eq!(&held, &wanted);
        prop_assert_eq!(plan::plan(&wanted, &held, &applied(&wanted)), vec![]);
    }

    #[test]
    fn the_agents_own_entities_are_left_alone(wanted in entities()) {
        let own = ["muster-agent-tls", "muster-agent-management", "vhost/muster-agent"];
        let own: Vec<_> = own.iter().map(|name| entity(Kind::Listener, name, 7)).collect();
        let actions = plan::plan(&wanted, &own, &BTreeMap::new());
        prop_assert!(actions.iter().all(|action| matches!(action, Action::Create(_))));
    }
}

#[test]
fn users_of_a_profile_go_before_it_and_come_after_it() {
    let (profile, listener) = (entity(Kind::SslProfile, "p", 1), entity(Kind::Listener, "l", 1));
    let both = [profile, listener];
    let kinds = |actions: Vec<Action>| -> Vec<Kind> {
        let kind = |action: &Action| match action {
            Action::Delete { kind, .. } => *kind,
            Action::Update(entity) | Action::Create(entity) => entity.kind,
        };
        actions.iter().map(kind).collect()
    };
    assert_eq!(kinds(plan::plan(&both, &[], &BTreeMap::new())), [Kind::SslProfile, Kind::Listener]);
    assert_eq!(kinds(plan::plan(&[], &both, &BTreeMap::new())), [Kind::Listener, Kind::SslProfile]);
}

#[test]
fn a_profile_that_shows_what_it_was_not_told_successfully_is_told_again() {
    let wanted = [entity(Kind::SslProfile, "p", 2)];
    assert_eq!(plan::plan(&wanted, &wanted, &BTreeMap::new()), [Action::Update(wanted[0].clone())]);
    assert_eq!(plan::plan(&wanted, &wanted, &applied(&wanted)), []);
}

#[test]
fn an_entity_that_somebody_else_keeps_changing_is_left_alone_for_a_minute() {
    let (wanted, other) = ([entity(Kind::TcpListener, "x", 1)], [entity(Kind::TcpListener, "x", 2)]);
    let mut contested = Contested::default();
    let step = |contested: &mut Contested, now_ms| {
        let (actions, left) = contested.sift(plan::plan(&wanted, &other, &BTreeMap::new()), now_ms);
        contested.note(&actions, now_ms);
        (actions.len(), left.len())
    };
    for now_ms in [0, 2_000, 4_000] {
        assert_eq!(step(&mut contested, now_ms), (2, 0), "it is set, deleted and made anew");
    }
    assert_eq!(step(&mut contested, 6_000), (0, 1), "the fourth time it is left");
    assert_eq!(step(&mut contested, 70_000), (2, 0), "after a minute it is tried again");
}

#[test]
fn a_change_of_mind_is_not_taken_for_somebody_else() {
    let mut contested = Contested::default();
    for n in 0..20_i64 {
        let wanted: Vec<_> = (n % 2 == 0).then(|| entity(Kind::TcpConnector, "x", 1)).into_iter().collect();
        let observed: Vec<_> = (n % 2 == 1).then(|| entity(Kind::TcpConnector, "x", 1)).into_iter().collect();
        let (actions, left) = contested.sift(plan::plan(&wanted, &observed, &BTreeMap::new()), n * 100);
        contested.note(&actions, n * 100);
        assert_eq!((actions.len(), left.len()), (1, 0));
    }
}

fn read(document: &proto::Site) -> Result<Site, String> {
    wire::site(&document.encode_to_vec()).map_err(|refused| refused.message)
}

fn example() -> proto::Site {
    let authority = Authority::new("a");
    proto::Site {
        profiles: vec![rig::profile("net1", &[&authority]), rig::profile("leafless", &[&authority])],
        listeners: vec![rig::listener("edges", Role::Edge, 45671, "net1", &["site-b", "site-a"])],
        connectors: vec![
            proto::Connector { priority: 2, ..rig::connector("second", Role::Edge, 1, "net1", "b") },
            proto::Connector { priority: 1, ..rig::connector("first", Role::Edge, 2, "net1", "a") },
            rig::connector("waits", Role::Edge, 3, "leafless", "c"),
        ],
        tcp_listeners: vec![proto::TcpListener { endpoint: "no".into(), ..rig::tcp_listener("in", "web", 4) }],
        tcp_connectors: vec![rig::tcp_connector("sick", "web", 5), rig::tcp_connector("sound", "web", 6)],
        endpoints: vec![proto::Endpoint {
            id: "no".into(),
            kind: endpoint::Kind::Ingress.into(),
            choice: endpoint::Choice::Declined.into(),
            ..proto::Endpoint::default()
        }],
        ..rig::edge("site-a", "net1")
    }
}

fn wanted() -> (Site, Vec<Entity>) {
    let site = read(&example()).unwrap();
    let materials = BTreeMap::from([("net1".to_owned(), material(3))]);
    let wanted = plan::wanted(&site, &materials, &BTreeSet::from(["sound".to_owned()]), &BTreeSet::new());
    let without = plan::wanted(&site, &materials, &BTreeSet::new(), &BTreeSet::from(["edges".to_owned()]));
    assert!(without.iter().all(|e| e.kind != Kind::Listener), "its port is taken");
    (site, wanted)
}

#[test]
fn only_what_has_its_leaf_its_answering_port_and_its_consent_is_wanted() {
    let names: Vec<_> = wanted().1.into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["vhost/edges", "net1", "edges", "first", "second", "sound"]);
}

#[test]
fn every_way_in_asks_for_a_certificate_and_every_way_out_checks_the_name() {
    for entity in wanted().1 {
        let value = |name: &str| entity.attributes.get(name).map(Value::text).unwrap_or_default();
        match entity.kind {
            Kind::Listener => {
                let locks = ["saslMechanisms", "authenticatePeer", "requireSsl", "policyVhost"].map(value);
                assert_eq!(locks, ["EXTERNAL", "true", "true", "edges"]);
            }
            Kind::Connector => {
                assert_eq!((value("verifyHostname"), value("saslMechanisms")), ("true".into(), "EXTERNAL".into()))
            }
            Kind::Vhost => assert!(value("groups").contains("users=site-a,site-b\n"), "{entity:?}"),
            _ => assert!(!entity.attributes.contains_key("multiAddressStrategy")),
        }
    }
}

#[test]
fn members_stay_within_the_network_that_their_access_point_names() {
    let groups = |tenant: &str| {
        let mut document = example();
        document.listeners[0].tenant = tenant.into();
        let materials = BTreeMap::from([("net1".to_owned(), material(3))]);
        let wanted = plan::wanted(&read(&document)?, &materials, &BTreeSet::new(), &BTreeSet::new());
        let vhost = wanted.iter().find(|e| e.kind == Kind::Vhost).unwrap();
        Ok::<_, String>(vhost.attributes["groups"].text())
    };
    let named = groups("net1").unwrap();
    assert!(named.contains("targetPattern=net1/#,") && named.contains("sourcePattern=net1/#,"), "{named}");
    assert!(!named.contains("targets=") && !named.contains("sources="), "{named}");
    assert!(groups("").unwrap().contains("targets=*\n"));
    for wild in ["*", "#", "net1,net2", "net/1", "net.1"] {
        assert!(groups(wild).unwrap_err().contains("listeners.tenant"), "{wild}");
    }
}

#[test]
fn the_start_file_begins_with_the_agents_own_way_in_and_says_all_that_is_wanted() {
    let (site, wanted) = wanted();
    let local = Local { port: 45670, material: material(0) };
    let text = plan::start_file(&site, &local, &wanted);
    assert_eq!(text, plan::start_file(&site, &local, &wanted));
    let read: Vec<(String, serde_json::Map<String, serde_json::Value>)> = serde_json::from_str(&text).unwrap();
    let listeners: Vec<_> =
        read.iter().filter(|(kind, _)| kind == "listener").map(|(_, a)| a["name"].clone()).collect();
    assert_eq!(listeners, ["muster-agent-management", "edges"]);
    let of = |kind: &str| read.iter().find(|(k, _)| k == kind).unwrap().1.clone();
    assert_eq!((&of("router")["id"], &of("router")["mode"]), (&"site-a".into(), &"edge".into()));
    assert_eq!(of("network")["tenantId"], "net1");
    assert_eq!(of("policy")["enableVhostPolicy"], true);
    assert_eq!(read.len(), 3 + 3 + wanted.len());
}

#[test]
fn what_cannot_be_is_refused_by_its_field() {
    let refused = |change: fn(&mut proto::Site)| {
        let mut document = example();
        change(&mut document);
        read(&document).unwrap_err()
    };
    assert!(refused(|d| d.mode = 0).contains("mode"));
    assert!(refused(|d| d.router = "a b".into()).contains("router"));
    assert!(refused(|d| d.listeners[0].name = "net1".into()).contains("twice"));
    assert!(refused(|d| d.listeners[0].name = "muster-agent-x".into()).contains("agent's own"));
    assert!(refused(|d| d.listeners[0].members.push("a,b".into())).contains("members"));
    assert!(refused(|d| d.listeners[0].profile = "gone".into()).contains("gone"));
    let everywhere = |d: &mut proto::Site| {
        let mut other = rig::listener("other", Role::Edge, 45671, "net1", &[]);
        other.host = String::new();
        d.listeners.push(other);
    };
    assert!(refused(everywhere).contains("45671"));
    assert!(refused(|d| d.tcp_listeners[0].port = 70_000).contains("70000"));
    assert!(refused(|d| d.connectors[0].role = 0).contains("role"));
    assert!(refused(|d| d.mode = proto::Mode::Interior.into()).contains("tenant"));
}

fn leaf(edition: u32, received_ms: i64, not_after_ms: i64) -> Leaf {
    let (file, key, serial) = ("l".into(), "k".into(), "01".into());
    Leaf { edition, file, key, serial, received_ms, not_after_ms }
}

#[test]
fn a_leaf_is_replaced_when_it_is_old_or_of_another_edition() {
    let site = read(&example()).unwrap();
    let mut held = Held::default();
    assert_eq!(held.needs(&site.profiles[0], 0), Some(1), "there is none");
    held.take(leaf(1, 0, 1_200));
    assert_eq!((held.needs(&site.profiles[0], 799), held.needs(&site.profiles[0], 900)), (None, Some(1)));
    held.take(leaf(0, 0, 1_200));
    assert_eq!(held.needs(&site.profiles[0], 0), Some(1), "home raised the edition");
}

#[test]
fn a_new_leaf_raises_the_ordinal_alone_and_a_cut_closes_what_is_older() {
    let mut held = Held::default();
    held.follow(4, 4);
    assert_eq!((held.ordinal, held.oldest), (0, 0), "before the first leaf there is nothing to cut");
    held.take(leaf(1, 0, 1));
    held.take(leaf(1, 0, 1));
    assert_eq!((held.ordinal, held.oldest), (2, 0));
    held.follow(5, 5);
    assert_eq!((held.ordinal, held.oldest), (3, 3));
    held.follow(5, 5);
    assert_eq!((held.ordinal, held.oldest), (3, 3), "a cut is made once");
    held.take(leaf(1, 0, 1));
    assert_eq!((held.ordinal, held.oldest), (4, 3));
}

#[test]
fn connections_of_a_round_outlive_the_cut_of_those_before_and_a_leaf_between_changes_nothing_of_that() {
    let mut held = Held::default();
    held.take(leaf(1, 0, 1));
    held.follow(1, 0);
    assert_eq!((held.ordinal, held.oldest), (2, 0), "made anew beside those that are there");
    held.take(leaf(1, 0, 1));
    held.follow(1, 1);
    assert_eq!((held.ordinal, held.oldest), (3, 2));
    held.follow(3, 2);
    assert_eq!((held.ordinal, held.oldest), (4, 4), "who comes late makes up for all of it");
}
