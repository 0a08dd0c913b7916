use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::{
    fleet::model::AgentId,
    network::{
        model::{
            AccessKind, Choice, Distribution, EndpointKind, MemberId, Membership, NetworkId, Part, Phase, Scope, SiteId,
        },
        plan::{
            AccessPoint, Attachment, Concern, Decision, Endpoint, Interior, Link, Member, Network, PEER_PROFILE, Place,
            Port, ServiceLink, Site, Snapshot, UPLINK_PROFILE, member_profile, plan,
        },
    },
};

/// Two interior sites, `a` with access points for peers and members, `b` linked to it; the network `n` with two members.
fn world() -> Snapshot {
    let mut it = Snapshot::default();
    for id in ["a", "b"] {
        let site = Interior {
            id: id.into(),
            backbone: "bb".into(),
            router: format!("r-{id}"),
            agent: Some(format!("agent-{id}").as_str().into()),
        };
        it.interiors.insert(id.into(), site);
    }
    for (id, kind, port) in [("peer", AccessKind::Peer, 100), ("edge", AccessKind::Member, 200)] {
        let point =
            AccessPoint { id: id.into(), site: "a".into(), kind, host: "a.test".into(), bind: String::new(), port };
        it.access_points.insert(id.into(), point);
    }
    it.links.push(Link { id: "l".into(), access_point: "peer".into(), site: "b".into(), cost: 7 });
    add_network(&mut it, "n", 200);
    for id in ["m1", "m2"] {
        it.members.push(member(id, "n"));
    }
    it
}

fn add_network(it: &mut Snapshot, id: &str, port: u16) {
    let network = Network { id: id.into(), backbone: "bb".into(), tenant: format!("t-{id}"), phase: Phase::Active };
    it.networks.insert(id.into(), network);
    it.ports.push(Port { access_point: "edge".into(), network: id.into(), port });
    it.trust.insert(format!("network/{id}"), [id.as_bytes().to_vec()].into());
    it.trust.insert("backbone/bb".into(), [b"bb".to_vec()].into());
}

fn member(id: &str, network: &str) -> Member {
    Member {
        id: id.into(),
        network: network.into(),
        router: format!("r-{id}"),
        name: id.into(),
        class: "gold".into(),
        agent: Some(format!("agent-{id}").as_str().into()),
        membership: Membership::Member,
        uplinks: vec![("edge".into(), 1)],
    }
}

fn everything(it: &Snapshot) -> Concern {
    Concern {
        sites: it.interiors.keys().cloned().collect(),
        members: it.members.iter().map(|m| m.id.clone()).collect(),
    }
}

fn site(it: &Snapshot, agent: &str) -> Option<Site> {
    plan(it, &everything(it)).remove(&AgentId::from(agent))
}

fn service_link(it: &mut Snapshot, scope: Scope, distribution: Distribution) {
    let link = ServiceLink {
        id: "web".into(),
        network: "n".into(),
        name: "web".into(),
        address: "web".into(),
        scope,
        distribution,
    };
    it.service_links.insert("web".into(), link);
}

fn endpoint(id: &str, kind: EndpointKind, place: Place, part: Part, port: u16) -> Endpoint {
    Endpoint {
        id: id.into(),
        network: "n".into(),
        name: id.into(),
        kind,
        place,
        program: None,
        host: "0.0.0.0".into(),
        generation: 5,
        attachments: vec![Attachment { service_link: "web".into(), part, port }],
    }
}

#[test]
fn an_interior_listens_for_peers_by_its_backbone_and_for_each_network_by_that() {
    let mut it = world();
    add_network(&mut it, "other", 201);
    let a = site(&it, "agent-a").expect("planned");
    assert_eq!(a.tenant, None);
    let profiles: Vec<_> = a.profiles.iter().map(|p| (p.name.as_str(), p.trust[0].as_slice())).collect();
    let (n, other) = (member_profile(&"n".into()), member_profile(&"other".into()));
    assert_eq!(profiles, [(n.as_str(), &b"n"[..]), (other.as_str(), b"other"), (PEER_PROFILE, b"bb")]);
    let listeners: Vec<_> = a.listeners.iter().map(|l| (l.port, l.profile.as_str(), l.members.clone())).collect();
    let members = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
    let wanted =
        [(200, n.as_str(), members(&["m1", "m2"])), (201, other.as_str(), members(&[])), (100, PEER_PROFILE, None)];
    assert_eq!(listeners, wanted);
}

#[test]
fn a_link_leads_to_an_access_point_and_names_who_is_there() {
    let b = site(&world(), "agent-b").expect("planned");
    let link = &b.connectors[0];
    assert_eq!((link.host.as_str(), link.port, link.cost, link.peer.as_str()), ("a.test", 100, 7, "r-a"));
    assert_eq!((link.edge, link.profile.as_str()), (false, PEER_PROFILE));
    assert!(b.listeners.is_empty());
}

#[test]
fn a_member_hangs_on_its_networks_own_port_under_its_tenant() {
    let m = site(&world(), "agent-m1").expect("planned");
    assert_eq!(m.tenant.as_deref(), Some("t-n"));
    let uplink = &m.connectors[0];
    assert_eq!((uplink.edge, uplink.port, uplink.peer.as_str()), (true, 200, "r-a"));
    assert_eq!(uplink.profile, UPLINK_PROFILE);
}

#[test]
fn a_network_that_has_not_begun_or_has_ended_has_identity_and_no_link() {
    for phase in [Phase::Waiting, Phase::Ended] {
        let mut it = world();
        it.networks.get_mut(&NetworkId::from("n")).expect("there").phase = phase;
        let m = site(&it, "agent-m1").expect("it is known");
        assert_eq!((m.connectors.len(), m.profiles.len()), (0, 1), "{phase:?}");
        let a = site(&it, "agent-a").expect("planned");
        assert!(a.listeners.iter().all(|l| l.members.is_none()), "{phase:?}");
    }
    let mut it = world();
    it.networks.get_mut(&NetworkId::from("n")).expect("there").phase = Phase::Over;
    assert_eq!(site(&it, "agent-m1"), None);
}

#[test]
fn who_asks_or_was_evicted_is_nothing_and_nobody_lets_it_in() {
    for membership in [Membership::Asking, Membership::Evicted] {
        let mut it = world();
        it.members[0].membership = membership;
        assert_eq!(site(&it, "agent-m1"), None);
        let a = site(&it, "agent-a").expect("planned");
        let members = a.listeners.iter().find_map(|l| l.members.clone()).expect("members may connect");
        assert_eq!(members, ["m2"], "{membership:?}");
    }
}

#[test]
fn what_is_allocated_to_a_class_is_at_each_of_its_sites() {
    let mut it = world();
    service_link(&mut it, Scope::Van, Distribution::Balanced);
    it.members[1].class = "silver".into();
    it.endpoints.push(endpoint("in", EndpointKind::Ingress, Place::Class("gold".into()), Part::Connects, 8080));
    it.endpoints.push(endpoint("out", EndpointKind::Egress, Place::Member("m2".into()), Part::Accepts, 80));
    let (m1, m2) = (site(&it, "agent-m1").expect("planned"), site(&it, "agent-m2").expect("planned"));
    let tcp = |site: &Site| (site.tcp_listeners.len(), site.tcp_connectors.len());
    assert_eq!((tcp(&m1), tcp(&m2)), ((1, 0), (0, 1)));
    assert_eq!((m1.tcp_listeners[0].address.as_str(), m1.tcp_listeners[0].port), ("web", 8080));
    assert_eq!(m2.tcp_connectors[0].address, "web");
}

#[test]
fn an_address_reaches_as_far_as_its_scope() {
    let wanted = [
        (Scope::Van, "web", "t-n/web"),
        (Scope::Site, "web.m1", "t-n/web.#"),
        (Scope::Instance, "web.m1.in", "t-n/web.#"),
    ];
    for (scope, address, pattern) in wanted {
        let mut it = world();
        service_link(&mut it, scope, Distribution::Closest);
        it.endpoints.push(endpoint("in", EndpointKind::Ingress, Place::Member("m1".into()), Part::Connects, 1));
        let m = site(&it, "agent-m1").expect("planned");
        assert_eq!(m.tcp_listeners[0].address, address);
        assert_eq!(m.addresses[0].pattern, pattern);
        assert_eq!(site(&it, "agent-a").expect("planned").addresses, m.addresses, "interiors spread alike");
    }
}

#[test]
fn a_site_declines_completes_or_leaves_it_be() {
    let mut it = world();
    service_link(&mut it, Scope::Van, Distribution::Balanced);
    let mut open = endpoint("out", EndpointKind::Egress, Place::Class("gold".into()), Part::Accepts, 0);
    open.host = String::new();
    it.endpoints.push(open);
    let choice = |it: &Snapshot| {
        let m = site(it, "agent-m1").expect("planned");
        (m.endpoints[0].choice, m.tcp_connectors.iter().map(|c| (c.host.clone(), c.port)).collect::<Vec<_>>())
    };
    assert_eq!(choice(&it), (Choice::Incomplete, vec![]));
    let key = ("m1".into(), "out".into());
    it.decisions.insert(key, Decision { accepted: true, host: "db.local".into(), port: 5432 });
    assert_eq!(choice(&it), (Choice::Accepted, vec![("db.local".into(), 5432)]));
    let key = ("m1".into(), "out".into());
    it.decisions.insert(key, Decision { accepted: false, host: String::new(), port: 0 });
    assert_eq!(choice(&it), (Choice::Declined, vec![]));
    let other = site(&it, "agent-m2").expect("planned");
    assert_eq!(other.endpoints[0].choice, Choice::Incomplete, "one site's choice is its own");
}

/// Every name of a router entity in a site.
fn names(site: &Site) -> Vec<&str> {
    let tcp = site.tcp_listeners.iter().chain(&site.tcp_connectors).map(|t| t.name.as_str());
    let profiles = site.profiles.iter().map(|p| p.name.as_str());
    let listeners = site.listeners.iter().map(|l| l.name.as_str());
    let connectors = site.connectors.iter().map(|c| c.name.as_str());
    let addresses = site.addresses.iter().map(|a| a.name.as_str());
    profiles.chain(listeners).chain(connectors).chain(tcp).chain(addresses).collect()
}

prop_compose! {
    fn any_world()(
        networks in 1_usize..4,
        members in prop::collection::vec((0_usize..4, 0_usize..3, 0_usize..3), 0..12),
        endpoints in prop::collection::vec((0_usize..12, any::<bool>(), 0_u16..3), 0..8),
        distribution in 0_usize..3,
    ) -> Snapshot {
        let mut it = world();
        it.members.clear();
        let spread = [Distribution::Balanced, Distribution::Closest, Distribution::Unavailable][distribution];
        service_link(&mut it, Scope::Site, spread);
        for n in 1..networks {
            add_network(&mut it, &format!("n{n}"), 200 + u16::try_from(n).expect("small"));
        }
        let ids: Vec<NetworkId> = it.networks.keys().cloned().collect();
        for (n, (network, membership, class)) in members.iter().enumerate() {
            let mut one = member(&format!("m{n}"), &ids[network % ids.len()].0);
            one.membership = [Membership::Member, Membership::Asking, Membership::Evicted][*membership];
            one.class = ["gold", "silver", "iron"][*class].into();
            it.members.push(one);
        }
        for (n, (at, connects, port)) in endpoints.iter().enumerate() {
            let place = match it.members.get(*at) {
                Some(member) => Place::Member(member.id.clone()),
                None => Place::Class("gold".into()),
            };
            let part = if *connects { Part::Connects } else { Part::Accepts };
            it.endpoints.push(endpoint(&format!("e{n}"), EndpointKind::Ingress, place, part, *port));
        }
        it
    }
}

proptest! {
    #[test]
    fn the_union_of_scoped_plans_is_the_full_plan(it in any_world(), cut in 0_usize..12) {
        let all = everything(&it);
        let (left, right): (BTreeSet<MemberId>, BTreeSet<MemberId>) =
            all.members.iter().cloned().enumerate().fold(Default::default(), |(mut l, mut r), (n, id)| {
                if n < cut { l.insert(id); } else { r.insert(id); }
                (l, r)
            });
        let mut union = plan(&it, &Concern { members: left, ..Concern::default() });
        union.extend(plan(&it, &Concern { members: right, ..Concern::default() }));
        for id in all.sites.iter().cloned() {
            union.extend(plan(&it, &Concern { sites: BTreeSet::<SiteId>::from([id]), ..Concern::default() }));
        }
        prop_assert_eq!(union, plan(&it, &all));
    }

    #[test]
    fn names_differ_across_types_and_order_of_rows_means_nothing(it in any_world()) {
        let planned = plan(&it, &everything(&it));
        for site in planned.values() {
            let names = names(site);
            prop_assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{:?}", names);
        }
        let mut turned = it.clone();
        turned.members.reverse();
        turned.endpoints.reverse();
        turned.ports.reverse();
        turned.links.reverse();
        prop_assert_eq!(plan(&turned, &everything(&turned)), planned);
    }

    #[test]
    fn an_edge_listener_admits_exactly_its_networks_members(it in any_world()) {
        for (agent, site) in plan(&it, &everything(&it)) {
            for listener in site.listeners.iter().filter(|l| l.members.is_some()) {
                let network = listener.profile.strip_prefix("tls/").map(NetworkId::from);
                let wanted: BTreeSet<_> = it
                    .members
                    .iter()
                    .filter(|m| Some(&m.network) == network.as_ref() && m.membership == Membership::Member)
                    .map(|m| m.id.0.clone())
                    .collect();
                let admitted: BTreeSet<_> = listener.members.iter().flatten().cloned().collect();
                prop_assert_eq!(admitted, wanted, "{:?}", agent);
            }
        }
    }
}
