use std::collections::BTreeMap;

use muster_pki::key::Key;
use muster_proto::{
    KIND_NETWORK_SITE,
    fleet::{Answer, Ask, answer::Outcome},
    network as proto,
};
use prost::Message;

use crate::{
    domain::Ground,
    error::{Error, Result},
    fleet::{
        agents, desired,
        model::{AgentId, Class},
    },
    network::{
        Networks, Reconcile,
        model::{AccessKind, Membership, Phase, Times},
        plan::{Concern, PEER_PROFILE, UPLINK_PROFILE, member_profile, plan},
        service::{NewAccessPoint, NewInvitation, NewLink, NewNetwork, load, spell},
        store::{self, HomeRow, MemberRow, NetworkRow, Of, SiteRow},
    },
    platform::{
        db::query,
        events::{Actor, Source},
        reconcile::Reconciler,
    },
    testing::{engines, fresh, house, settle_agent, settle_joined},
};

const HOUR: i64 = 3_600_000;

pub(super) fn ada() -> Actor {
    Actor { name: "user/ada".into(), source: Source::Cli }
}

/// The backbone `bb`: `paris` with access points for peers and members, `berlin` linked to it.
pub(super) async fn home(url: &str) -> Networks {
    let it = Networks { fleet: house(&fresh(url).await, "r1").await };
    it.create_backbone(&ada(), "bb").await.expect("a backbone");
    for site in ["paris", "berlin"] {
        it.create_site(&ada(), "bb", site).await.expect("a site");
    }
    for (name, kind, port, ports) in [("peer", AccessKind::Peer, 5671, 1), ("edge", AccessKind::Member, 6000, 2)] {
        point(&it, name, kind, port, ports).await.expect("an access point");
    }
    it.create_link(&ada(), "bb", &link("berlin", "paris", 1)).await.expect("a link");
    it
}

async fn point(it: &Networks, name: &str, kind: AccessKind, port: i64, ports: i64) -> Result<()> {
    let (name, host) = (name.to_owned(), "paris.test".to_owned());
    let new = NewAccessPoint { name, kind, host, bind: String::new(), port, ports };
    it.create_access_point(&ada(), "bb", "paris", &new).await.map(drop)
}

fn link(from: &str, to: &str, cost: i64) -> NewLink {
    NewLink { from: from.into(), to: to.into(), access_point: String::new(), cost }
}

/// The network `name` with the class `gold`.
pub(super) async fn network(it: &Networks, name: &str, times: Times) -> Result<NetworkRow> {
    let new = NewNetwork { name: name.into(), backbone: "bb".into(), owner: "user/ada".into(), times };
    let row = it.create_network(&ada(), &new).await?;
    it.save_class(&ada(), name, "gold", "the good ones").await?;
    Ok(row)
}

pub(super) fn from_now(it: &Networks) -> Times {
    Times { starts_at: it.fleet.db.clock().now(), ends_at: None, delete_delay: HOUR }
}

pub(super) fn invitation(it: &Networks, approval: bool) -> NewInvitation {
    NewInvitation {
        name: "shops".into(),
        class: "gold".into(),
        deadline: it.fleet.db.clock().now() + HOUR,
        limit: 10,
        approval,
        edge_links: vec![("paris".into(), "edge".into(), 1)],
    }
}

pub(super) async fn round(it: &Networks) {
    let mut reconcile = Reconcile { networks: it.clone(), planned: None };
    reconcile.reconcile().await.expect("a round");
}

pub(super) async fn rows<T: store::Table>(it: &Networks) -> Vec<T> {
    store::rows(&mut it.fleet.db.read().await.expect("a connection"), Of::All).await.expect("read")
}

/// What an agent is to be, if anything.
pub(super) async fn document(it: &Networks, agent: &AgentId) -> Option<proto::Site> {
    let mut conn = it.fleet.db.read().await.expect("a connection");
    let all = desired::assignments(&mut conn, std::slice::from_ref(agent)).await.expect("read");
    let digest = all.into_iter().find(|e| e.wanted.key.kind == KIND_NETWORK_SITE)?.wanted.digest;
    let documents = it.fleet.desired.documents(&mut conn, std::slice::from_ref(&digest)).await.expect("read");
    let bytes = documents.get(&digest)?;
    Some(proto::Site::decode(bytes.as_ref()).expect("a document"))
}

/// The agent of an interior site, joined by that site's invitation.
pub(super) async fn seat(it: &Networks, site: &str) -> AgentId {
    it.invite_site(&ada(), "bb", site).await.expect("invited");
    let row = rows::<SiteRow>(it).await.into_iter().find(|s| s.name == site).expect("there");
    let invitation = row.invitation_id.expect("invited");
    settle_joined(&it.fleet, &format!("agent-{site}"), Class::InteriorSite, &invitation).await
}

/// What home answers an agent that asks about a site.
pub(super) async fn ask(it: &Networks, agent: &AgentId, id: &str, question: proto::question::Question) -> Answer {
    let fleet = it.fleet.clone();
    let ground = Ground { db: fleet.db, certificates: fleet.certificates, blobs: fleet.blobs };
    let asks = super::super::service::asks(&ground);
    let body = proto::Question { question: Some(question) }.encode_to_vec().into();
    let kind = KIND_NETWORK_SITE.to_owned();
    asks[KIND_NETWORK_SITE](agent.clone(), Ask { kind, id: id.into(), body, ..Ask::default() }).await
}

fn members_admitted(paris: &proto::Site) -> Vec<String> {
    paris.listeners.iter().filter(|l| l.role() == proto::Role::Edge).flat_map(|l| l.members.clone()).collect()
}

#[tokio::test]
async fn agents_that_join_become_sites_and_are_told_what_they_are() {
    for url in engines() {
        let it = home(&url).await;
        let (paris, berlin) = (seat(&it, "paris").await, seat(&it, "berlin").await);
        network(&it, "shop", from_now(&it)).await.expect("a network");
        let (invited, _) = it.invite(&ada(), "shop", &invitation(&it, false)).await.expect("invited");
        let till = settle_joined(&it.fleet, "till", Class::MemberSite, &invited).await;
        round(&it).await;
        let (at_paris, at_berlin) =
            (document(&it, &paris).await.expect("told"), document(&it, &berlin).await.expect("told"));
        assert_eq!(at_berlin.connectors[0].peer, at_paris.router);
        let member = rows::<MemberRow>(&it).await.remove(0);
        assert_eq!(member.name, "host-till");
        assert_eq!(members_admitted(&at_paris), [member.id.as_str()]);
        let at_till = document(&it, &till).await.expect("told");
        assert_eq!((at_till.connectors[0].port, at_till.connectors[0].peer.as_str()), (6000, at_paris.router.as_str()));
        round(&it).await;
        assert_eq!(document(&it, &till).await, Some(at_till), "a round over nothing new changes nothing");
        assert_eq!(rows::<MemberRow>(&it).await.len(), 1);
    }
}

#[tokio::test]
async fn what_is_loaded_for_one_site_plans_it_as_the_whole_does() {
    for url in engines() {
        let it = home(&url).await;
        for site in ["paris", "berlin"] {
            seat(&it, site).await;
        }
        for name in ["shop", "bank"] {
            network(&it, name, from_now(&it)).await.expect("a network");
            let (invited, _) = it.invite(&ada(), name, &invitation(&it, false)).await.expect("invited");
            for n in 0..3 {
                settle_joined(&it.fleet, &format!("{name}-{n}"), Class::MemberSite, &invited).await;
            }
        }
        round(&it).await;
        let mut conn = it.fleet.db.read().await.expect("a connection");
        let all = Concern::all(&mut conn).await.expect("read");
        let certificates = &it.fleet.certificates;
        let whole = plan(&load(&mut conn, certificates, &all).await.expect("read"), &all);
        assert_eq!(whole.len(), 8);
        let sites = all.sites.iter().map(|s| Concern { sites: [s.clone()].into(), ..Concern::default() });
        let members = all.members.iter().map(|m| Concern { members: [m.clone()].into(), ..Concern::default() });
        let mut union = BTreeMap::new();
        for concern in sites.chain(members) {
            let snapshot = load(&mut conn, certificates, &concern).await.expect("read");
            let planned = plan(&snapshot, &concern);
            assert_eq!(planned.len(), 1, "{concern:?}");
            union.extend(planned);
        }
        assert_eq!(union, whole);
    }
}

#[tokio::test]
async fn an_evicted_site_is_cut_and_only_its_own_network_notices() {
    for url in engines() {
        let it = home(&url).await;
        let paris = seat(&it, "paris").await;
        let mut agents = Vec::new();
        for name in ["shop", "bank"] {
            network(&it, name, from_now(&it)).await.expect("a network");
            let (invited, _) = it.invite(&ada(), name, &invitation(&it, false)).await.expect("invited");
            for n in 0..2 {
                agents.push(settle_joined(&it.fleet, &format!("{name}-{n}"), Class::MemberSite, &invited).await);
            }
        }
        round(&it).await;
        let before = document(&it, &paris).await.expect("told");
        it.evict(&ada(), "shop", "host-shop-0").await.expect("evicted");
        let after = document(&it, &paris).await.expect("told");
        let evicted = rows::<MemberRow>(&it).await.into_iter().find(|m| m.name == "host-shop-0").expect("kept");
        assert_eq!(evicted.membership, spell(&Membership::Evicted));
        assert!(members_admitted(&before).contains(&evicted.id) && !members_admitted(&after).contains(&evicted.id));
        assert_eq!(members_admitted(&after).len(), 3);
        let shop = rows::<NetworkRow>(&it).await.into_iter().find(|n| n.name == "shop").expect("there");
        let cuts =
            |site: &proto::Site| site.profiles.iter().map(|p| (p.name.clone(), p.cuts)).collect::<BTreeMap<_, _>>();
        let profile = member_profile(&shop.id.as_str().into());
        for (name, now) in cuts(&after) {
            assert_eq!(now, u32::from(name == profile), "{name}");
        }
        assert_eq!(document(&it, &agents[0]).await, None, "nothing is left for it");
        let gone =
            it.fleet.agent(&mut it.fleet.db.read().await.expect("a connection"), &agents[0]).await.expect("known");
        assert_eq!(gone.standing, "revoked");
        let again = it.evict(&ada(), "shop", &evicted.id).await;
        assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    }
}

#[tokio::test]
async fn who_waits_for_approval_has_nothing_until_the_owner_lets_it_in() {
    for url in engines() {
        let it = home(&url).await;
        let paris = seat(&it, "paris").await;
        network(&it, "shop", from_now(&it)).await.expect("a network");
        let (invited, _) = it.invite(&ada(), "shop", &invitation(&it, true)).await.expect("invited");
        let till = settle_joined(&it.fleet, "till", Class::MemberSite, &invited).await;
        round(&it).await;
        assert_eq!(document(&it, &till).await, None);
        assert!(members_admitted(&document(&it, &paris).await.expect("told")).is_empty());
        it.approve(&ada(), "shop", "host-till").await.expect("let in");
        assert_eq!(members_admitted(&document(&it, &paris).await.expect("told")).len(), 1);
        assert_eq!(document(&it, &till).await.expect("told").connectors.len(), 1);
        assert!(it.approve(&ada(), "shop", "host-till").await.is_err(), "it is in already");
    }
}

#[tokio::test]
async fn a_network_starts_ends_and_goes_at_its_times() {
    for url in engines() {
        let it = home(&url).await;
        let paris = seat(&it, "paris").await;
        let now = it.fleet.db.clock().now();
        let times = Times { starts_at: now + HOUR / 2, ends_at: Some(now + 2 * HOUR), delete_delay: HOUR };
        network(&it, "shop", times).await.expect("a network");
        let (invited, _) = it.invite(&ada(), "shop", &invitation(&it, false)).await.expect("invited before the start");
        let till = settle_joined(&it.fleet, "till", Class::MemberSite, &invited).await;
        let phase = || async { rows::<NetworkRow>(&it).await.pop().map(|n| n.phase) };
        let links = || async { document(&it, &till).await.map(|d| d.connectors.len()) };
        round(&it).await;
        assert_eq!((phase().await.as_deref(), links().await), (Some("waiting"), Some(0)));
        it.fleet.db.clock().shift(HOUR / 2 + 1000);
        round(&it).await;
        assert_eq!((phase().await.as_deref(), links().await), (Some("active"), Some(1)));
        it.fleet.db.clock().shift(2 * HOUR);
        round(&it).await;
        assert_eq!((phase().await.as_deref(), links().await), (Some("ended"), Some(0)));
        let late = it.invite(&ada(), "shop", &invitation(&it, false)).await;
        assert!(matches!(late, Err(Error::Conflict(_))), "{late:?}");
        it.fleet.db.clock().shift(HOUR);
        round(&it).await;
        assert_eq!((phase().await, links().await), (None, None));
        let at_paris = document(&it, &paris).await.expect("told");
        assert_eq!(at_paris.profiles.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), [PEER_PROFILE]);
        assert!(rows::<MemberRow>(&it).await.is_empty());
        assert_eq!(spell(&Phase::Over), "over");
    }
}

#[tokio::test]
async fn a_network_has_a_home_the_controllers_host_or_that_of_an_agent_that_is_there_for_it() {
    for url in engines() {
        let it = home(&url).await;
        network(&it, "shop", from_now(&it)).await.expect("a network");
        let agent = || async { rows::<HomeRow>(&it).await.remove(0).agent_id };
        assert_eq!(agent().await, None);
        let host = settle_agent(&it.fleet, "helsinki", Class::NetworkHome, &[]).await;
        settle_agent(&it.fleet, "elsewhere", Class::StagingHost, &[]).await;
        for wrong in ["elsewhere", "nowhere", ""] {
            let refused = it.set_home(&ada(), "shop", Some(wrong)).await.expect_err("refused").to_string();
            assert!(refused.starts_with("agent: ") && refused.contains("network-home"), "{refused}");
        }
        it.set_home(&ada(), "shop", Some(&host.0)).await.expect("set");
        assert_eq!(agent().await, Some(host.0));
        it.set_home(&ada(), "shop", None).await.expect("set");
        assert_eq!(agent().await, None);
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name_and_changes_nothing() {
    for url in engines() {
        let it = home(&url).await;
        let field = |result: Result<()>| match result {
            Err(Error::Invalid { field, .. }) => field,
            Err(Error::Conflict(text)) => format!("conflict: {text}"),
            other => panic!("not refused: {other:?}"),
        };
        let taken = it.create_site(&ada(), "bb", "paris").await.map(drop);
        assert!(field(taken).contains("\"paris\" exists already"));
        assert_eq!(field(it.create_link(&ada(), "bb", &link("paris", "paris", 1)).await.map(drop)), "to");
        assert_eq!(field(it.create_link(&ada(), "bb", &link("berlin", "paris", 1)).await.map(drop)), "cost");
        it.create_link(&ada(), "bb", &link("berlin", "paris", 9)).await.expect("another cost is another way");
        assert_eq!(field(it.create_link(&ada(), "bb", &link("paris", "berlin", 1)).await.map(drop)), "to");
        let wrong_kind = NewLink { access_point: "edge".into(), ..link("berlin", "paris", 3) };
        assert_eq!(field(it.create_link(&ada(), "bb", &wrong_kind).await.map(drop)), "access_point");
        assert_eq!(field(point(&it, "late", AccessKind::Member, 6001, 5).await), "port");
        let now = it.fleet.db.clock().now();
        let past = Times { starts_at: now, ends_at: Some(now - HOUR), delete_delay: 0 };
        assert_eq!(field(network(&it, "old", past).await.map(drop)), "ends_at");
        network(&it, "shop", from_now(&it)).await.expect("a network");
        let refused = |new: NewInvitation| {
            let it = &it;
            async move { field(it.invite(&ada(), "shop", &new).await.map(drop)) }
        };
        let good = invitation(&it, false);
        assert_eq!(refused(NewInvitation { class: "tin".into(), ..good.clone() }).await, "class");
        assert_eq!(refused(NewInvitation { deadline: now - 1, ..good.clone() }).await, "deadline_at");
        let at = |point: &str| vec![("paris".to_owned(), point.to_owned(), 1)];
        let peer = NewInvitation { edge_links: at("peer"), ..good.clone() };
        assert_eq!(refused(peer).await, "edge_links[0].access_point");
        assert_eq!(refused(NewInvitation { edge_links: vec![], ..good.clone() }).await, "edge_links");
        it.invite(&ada(), "shop", &good).await.expect("invited");
        network(&it, "bank", from_now(&it)).await.expect("a network");
        it.invite(&ada(), "bank", &good).await.expect("the second port");
        network(&it, "farm", from_now(&it)).await.expect("a network");
        let full = it.invite(&ada(), "farm", &good).await.map(drop);
        assert!(field(full).contains("taken by other networks"));
    }
}

#[tokio::test]
async fn an_invitation_is_prolonged_and_never_admits_fewer_than_it_did() {
    for url in engines() {
        let it = home(&url).await;
        network(&it, "shop", from_now(&it)).await.expect("a network");
        let (id, _) = it.invite(&ada(), "shop", &invitation(&it, false)).await.expect("invited");
        let used = it.fleet.db.write(|mut tx| async move {
            query("update fleet_invitation set used = 3".into()).execute(&mut *tx).await?;
            tx.done(())
        });
        used.await.expect("three joined");
        let now = it.fleet.db.clock().now();
        let change = |limit: Option<i64>, deadline: Option<i64>| {
            let (it, id) = (&it, &id);
            async move { it.change_invitation(&ada(), "shop", id, (limit, deadline)).await }
        };
        let refused = |result: Result<()>| result.expect_err("refused").to_string();
        assert_eq!(refused(change(Some(2), None).await), "limit: 3 joined by it already; it cannot admit fewer");
        assert!(refused(change(Some(0), None).await).starts_with("limit: "));
        assert!(refused(change(None, Some(now - 1)).await).starts_with("deadline_at: the deadline lies in the past"));
        change(Some(3), None).await.expect("as many as joined");
        change(None, Some(now + 2 * HOUR)).await.expect("later");
        let mut conn = it.fleet.db.read().await.expect("a connection");
        let terms = agents::invitation(&mut conn, &id.as_str().into()).await.expect("read").expect("there");
        assert_eq!((terms.limit, terms.deadline), (3, now + 2 * HOUR));
        it.revoke_invitation(&ada(), "shop", &id).await.expect("revoked");
        assert!(refused(change(Some(9), None).await).contains("revoked"));
    }
}

#[tokio::test]
async fn a_backbone_has_as_many_sites_as_its_routers_carry() {
    let it = home("sqlite:").await;
    for n in 2..128 {
        it.create_site(&ada(), "bb", &format!("s{n}")).await.expect("a site");
    }
    let refused = it.create_site(&ada(), "bb", "one-more").await;
    assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains("128")), "{refused:?}");
}

#[tokio::test]
async fn a_site_gets_leaves_for_its_own_profiles_alone() {
    for url in engines() {
        let it = home(&url).await;
        let paris = seat(&it, "paris").await;
        network(&it, "shop", from_now(&it)).await.expect("a network");
        let (invited, _) = it.invite(&ada(), "shop", &invitation(&it, false)).await.expect("invited");
        let till = settle_joined(&it.fleet, "till", Class::MemberSite, &invited).await;
        let stranger = settle_joined(&it.fleet, "stranger", Class::MemberSite, &invited).await;
        round(&it).await;
        let request = Key::generate().expect("a key").request().expect("a request");
        let sign = |agent: &AgentId, id: &str, profile: &str| {
            let (profile, request) = (profile.to_owned(), request.clone().into());
            let sign = proto::Sign { profile, edition: 1, request };
            let (agent, id, it) = (agent.clone(), id.to_owned(), &it);
            async move { ask(it, &agent, &id, proto::question::Question::Sign(sign)).await }
        };
        let chain = |answer: Answer| match proto::Reply::decode(answer.body.as_ref()).expect("a reply").reply {
            Some(proto::reply::Reply::Signed(signed)) => signed.chain,
            other => panic!("no leaf: {other:?}"),
        };
        let site = rows::<SiteRow>(&it).await.into_iter().find(|s| s.name == "paris").expect("there");
        let member =
            rows::<MemberRow>(&it).await.into_iter().find(|m| m.agent_id.as_deref() == Some("till")).expect("in");
        let shop = member_profile(&member.network_id.as_str().into());
        let peer = chain(sign(&paris, &site.id, PEER_PROFILE).await);
        let edge = chain(sign(&paris, &site.id, &shop).await);
        let uplink = chain(sign(&till, &member.id, UPLINK_PROFILE).await);
        assert_eq!(edge[1], uplink[1], "both ends of an edge are under their network's authority");
        assert_ne!(peer[1], edge[1], "an edge's leaf is worth nothing to interiors");
        let names = |der: &[u8], name: &str| der.windows(name.len()).any(|w| w == name.as_bytes());
        assert!(names(&uplink[0], &member.id), "an edge is admitted by its member's id");
        for (agent, id, profile) in [
            (&stranger, member.id.as_str(), UPLINK_PROFILE),
            (&stranger, site.id.as_str(), PEER_PROFILE),
            (&till, member.id.as_str(), PEER_PROFILE),
            (&paris, site.id.as_str(), "tls/none"),
            (&paris, "nothing", PEER_PROFILE),
        ] {
            let answer = sign(agent, id, profile).await;
            assert_eq!(answer.outcome(), Outcome::Denied, "{agent} {id} {profile}");
        }
        it.evict(&ada(), "shop", &member.id).await.expect("evicted");
        assert_eq!(sign(&till, &member.id, UPLINK_PROFILE).await.outcome(), Outcome::Denied);
    }
}
