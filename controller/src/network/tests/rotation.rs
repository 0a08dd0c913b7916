use std::collections::{BTreeMap, BTreeSet};

use muster_pki::{key::Key, leaf, sha256};
use muster_proto::network as proto;
use proptest::prelude::*;
use prost::Message;

use super::service::{ada, ask, document, from_now, home, invitation, network, round, rows, seat};
use crate::{
    fleet::{
        desired::Report,
        model::{AgentId, Class, Phase},
    },
    network::{
        Networks,
        rotation::{DRAIN, PATIENCE, Seat, Standing, Step, levels},
        service::{Line, site_key},
        status::Profile,
        store::{MemberRow, NetworkRow, RotationRow, SiteRow},
    },
    testing::{engines, settle_joined, tell},
};

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

/// A seat of this level that trusts both, with an old leaf.
fn at(level: i64) -> Seat {
    Seat {
        owner: format!("s{level}"),
        site: format!("site {level}"),
        level,
        is_there: true,
        told: Some(Profile { trust: set(&["old", "new"]), ..Profile::default() }),
        ..Seat::default()
    }
}

fn standing<'a>(step: Step, level: i64, age: i64, seats: &'a [Seat], trust: &'a BTreeSet<String>) -> Standing<'a> {
    Standing { step, level, age, drain: DRAIN, seats, trust }
}

#[test]
fn listening_ends_begin_and_are_cut_last() {
    let both = set(&["old", "new"]);
    let mut seats = vec![at(0), at(1), at(2)];
    assert_eq!(standing(Step::TrustBoth, 0, 0, &seats, &both).next(), Some((Step::Leaves, 0)));
    for level in 0..3_usize {
        let now = i64::try_from(level).expect("small");
        assert_eq!(standing(Step::Leaves, now, 0, &seats, &both).next(), None);
        seats[level].is_new = true;
        let next = if level == 2 { (Step::TrustNew, 0) } else { (Step::Leaves, now + 1) };
        assert_eq!(standing(Step::Leaves, now, 0, &seats, &both).next(), Some(next));
    }
    let new = set(&["new"]);
    assert_eq!(standing(Step::TrustNew, 0, 0, &seats, &new).waits_for().len(), 3);
    for seat in &mut seats {
        seat.told = Some(Profile { trust: new.clone(), ..Profile::default() });
    }
    assert_eq!(standing(Step::TrustNew, 0, 0, &seats, &new).next(), Some((Step::Drain, 0)));
    for level in 0..3_usize {
        let now = i64::try_from(level).expect("small");
        seats[level].rounds = 1;
        assert_eq!(standing(Step::Drain, now, 2 * DRAIN, &seats, &new).next(), None, "no time makes up for that");
        seats[level].told.as_mut().expect("told").rounds = 1;
        let next = if level == 2 { (Step::Cut, 2) } else { (Step::Drain, now + 1) };
        assert_eq!(standing(Step::Drain, now, 0, &seats, &new).next(), Some(next));
    }
    seats.iter_mut().for_each(|seat| seat.cuts = 1);
    assert_eq!(standing(Step::Cut, 2, 0, &seats, &new).next(), None);
    for level in [2_usize, 1, 0] {
        seats[level].told.as_mut().expect("told").cuts = 1;
        let now = i64::try_from(level).expect("small");
        let next = if level == 0 { (Step::Done, 0) } else { (Step::Cut, now - 1) };
        assert_eq!(standing(Step::Cut, now, 0, &seats, &new).next(), Some(next));
    }
}

#[test]
fn a_transfer_may_drain_for_an_hour_and_a_dead_site_is_waited_for_as_long() {
    let new = set(&["new"]);
    let mut seats = vec![at(0), at(1)];
    seats[0].told.as_mut().expect("told").older_connections = 3;
    assert_eq!(standing(Step::Drain, 0, 0, &seats, &new).next(), Some((Step::Drain, 1)), "the others go on meanwhile");
    assert_eq!(standing(Step::Drain, 1, DRAIN - 1, &seats, &new).next(), None);
    assert_eq!(standing(Step::Drain, 1, DRAIN, &seats, &new).next(), Some((Step::Cut, 1)));
    seats[0].is_new = true;
    let late = standing(Step::Leaves, 1, PATIENCE, &seats, &new);
    assert_eq!(late.next(), None, "one that home hears from is waited for, however long it takes");
    seats[1].is_away = true;
    assert_eq!(standing(Step::Leaves, 1, PATIENCE - 1, &seats, &new).next(), None);
    let late = standing(Step::Leaves, 1, PATIENCE, &seats, &new);
    assert_eq!((late.next(), late.left_behind()), (Some((Step::TrustNew, 0)), set(&["site 1"])));
    seats[1].is_there = false;
    assert_eq!(
        standing(Step::Leaves, 1, 0, &seats, &new).next(),
        Some((Step::TrustNew, 0)),
        "nobody is there to wait for"
    );
}

#[test]
fn a_site_that_has_older_connections_alone_is_not_cut_off() {
    let new = set(&["new"]);
    let mut seats = vec![at(0), at(1)];
    seats[1].told.as_mut().expect("told").older_connections = 1;
    let next = |age, seats: &[Seat]| Standing { drain: 0, ..standing(Step::Drain, 1, age, seats, &new) }.next();
    assert_eq!(next(PATIENCE - 1, &seats), None);
    assert_eq!(next(PATIENCE, &seats), Some((Step::Cut, 1)));
    seats[1].told.as_mut().expect("told").connections = 1;
    assert_eq!(next(0, &seats), Some((Step::Cut, 1)));
}

#[test]
fn a_link_made_meanwhile_leaves_nobody_out() {
    let both = set(&["old", "new"]);
    let mut seats = vec![at(1), at(1)];
    seats[0].is_new = true;
    seats[1].level = 0;
    assert_eq!(standing(Step::Leaves, 1, 0, &seats, &both).next(), Some((Step::Leaves, 0)));
}

proptest! {
    #[test]
    fn a_site_stands_above_all_it_connects_to_unless_they_are_in_a_circle(
        pairs in proptest::collection::vec((0..8_usize, 0..8_usize), 0..20)
    ) {
        const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        // Links towards smaller numbers alone make no circle.
        let links: Vec<_> = pairs.iter().filter(|(f, t)| f > t).map(|(f, t)| (NAMES[*f], NAMES[*t])).collect();
        let found = levels(&NAMES, &links);
        for (from, to) in &links {
            prop_assert!(found[from] > found[to], "{from} → {to}: {found:?}");
        }
        let all: Vec<_> = pairs.iter().map(|(f, t)| (NAMES[*f], NAMES[*t])).collect();
        prop_assert_eq!(levels(&NAMES, &all).len(), 8, "a circle has levels too");
    }
}

/// Agents that do at once what their documents say, as those with real routers do a little later.
#[derive(Default)]
struct Obedient {
    /// Leaf and edition by agent and profile.
    leaves: BTreeMap<(AgentId, String), (Vec<u8>, u32)>,
    seq: i64,
}

impl Obedient {
    async fn act(&mut self, it: &Networks, agent: &AgentId, site: &str) {
        let Some(wanted) = document(it, agent).await else { return };
        let mut profiles = Vec::new();
        for profile in &wanted.profiles {
            let held = (agent.clone(), profile.name.clone());
            if self.leaves.get(&held).is_none_or(|(_, edition)| *edition != profile.edition) {
                let request = Key::generate().expect("a key").request().expect("a request").into();
                let sign = proto::Sign { profile: profile.name.clone(), edition: profile.edition, request };
                let answer = ask(it, agent, site, proto::question::Question::Sign(sign)).await;
                let reply = proto::Reply::decode(answer.body.as_ref()).expect("a reply").reply;
                let Some(proto::reply::Reply::Signed(signed)) = reply else { panic!("no leaf: {}", answer.message) };
                self.leaves.insert(held.clone(), (signed.chain[0].to_vec(), profile.edition));
            }
            let (der, edition) = &self.leaves[&held];
            profiles.push(proto::ProfileStatus {
                name: profile.name.clone(),
                edition: *edition,
                rounds: profile.rounds,
                cuts: profile.cuts,
                trust: profile.trust.iter().map(|der| sha256(der).to_vec().into()).collect(),
                serial: muster_pki::unhex(&leaf::read(der).expect("a leaf").serial).into(),
                ..proto::ProfileStatus::default()
            });
        }
        let state = proto::router_status::State::Running.into();
        let router = Some(proto::RouterStatus { state, ..proto::RouterStatus::default() });
        let result = proto::SiteResult { router, profiles, ..proto::SiteResult::default() };
        self.seq += 1;
        let report = Report {
            agent: agent.clone(),
            key: site_key(site),
            generation: 1,
            phase: Phase::Applied,
            conditions: Vec::new(),
            result: result.encode_to_vec(),
            at: 1,
            received_at: 1,
            outcome: false,
            may_have_run: false,
            attempt: 0,
        };
        tell(&it.fleet.db, report, self.seq).await;
    }
}

/// A network with one member on two interior sites: (agent, site) of each.
async fn staffed(url: &str) -> (Networks, Vec<(AgentId, String)>) {
    let it = home(url).await;
    for site in ["paris", "berlin"] {
        seat(&it, site).await;
    }
    network(&it, "shop", from_now(&it)).await.expect("a network");
    let (invited, _) = it.invite(&ada(), "shop", &invitation(&it, false)).await.expect("invited");
    settle_joined(&it.fleet, "till", Class::MemberSite, &invited).await;
    round(&it).await;
    let sites = rows::<SiteRow>(&it).await.into_iter().map(|s| (s.agent_id, s.id));
    let members = rows::<MemberRow>(&it).await.into_iter().map(|m| (m.agent_id, m.id));
    let all = sites.chain(members).filter_map(|(agent, id)| Some((agent?.as_str().into(), id)));
    (it, all.collect())
}

async fn step(it: &Networks) -> (String, i64) {
    let row = rows::<RotationRow>(it).await.remove(0);
    (row.step, row.level)
}

#[tokio::test]
async fn a_rotation_goes_through_all_sites_in_order_and_leaves_one_authority() {
    for url in engines() {
        let (it, all) = staffed(&url).await;
        let shop = Line::Network(rows::<NetworkRow>(&it).await.remove(0));
        let mut agents = Obedient::default();
        for (agent, site) in &all {
            agents.act(&it, agent, site).await;
        }
        let first = agents.leaves.clone();
        it.rotate(&ada(), &shop, DRAIN).await.expect("begun");
        assert!(it.rotate(&ada(), &shop, DRAIN).await.is_err(), "it is under way already");
        it.pause_rotation(&ada(), &shop, true).await.expect("paused");
        for (agent, site) in &all {
            agents.act(&it, agent, site).await;
        }
        round(&it).await;
        assert_eq!(step(&it).await.0, "trust_both", "what is paused stays where it stands");
        it.pause_rotation(&ada(), &shop, false).await.expect("resumed");
        let mut seen = Vec::new();
        while rows::<RotationRow>(&it).await[0].finished_at.is_none() {
            round(&it).await;
            seen.push(step(&it).await);
            assert!(seen.len() < 20, "{seen:?}");
            for (agent, site) in &all {
                agents.act(&it, agent, site).await;
            }
        }
        let steps: Vec<_> = seen.iter().map(|(step, level)| (step.as_str(), *level)).collect();
        let wanted = [
            ("leaves", 0),
            ("leaves", 1),
            ("trust_new", 0),
            ("drain", 0),
            ("drain", 1),
            ("cut", 1),
            ("cut", 0),
            ("done", 0),
        ];
        assert_eq!(steps, wanted);
        let changed = agents.leaves.iter().filter(|(held, leaf)| first[*held] != **leaf);
        let names: BTreeSet<_> = changed.map(|((agent, profile), _)| (agent.0.as_str(), profile.as_str())).collect();
        assert_eq!(names.len(), 2, "the ends of the network's links alone: {names:?}");
        let mut conn = it.fleet.db.read().await.expect("a connection");
        let trusted = it.fleet.certificates.trusted(&mut conn, &[shop.name()]).await.expect("read");
        assert_eq!(trusted[&shop.name()].len(), 1);
        let (till, _) = all.iter().find(|(agent, _)| agent.0 == "till").expect("in");
        let uplink = &document(&it, till).await.expect("told").profiles[0];
        assert_eq!((uplink.trust[0].to_vec(), uplink.cuts), (trusted[&shop.name()][0].clone(), 1));
        assert_eq!(uplink.edition, 2);
    }
}

#[tokio::test]
async fn an_authority_that_nears_its_end_is_replaced_by_itself() {
    for url in engines() {
        let (it, _) = staffed(&url).await;
        assert_eq!(it.begin_due_rotations().await.expect("looked"), 0);
        it.fleet.db.clock().shift(crate::certificate::model::LINE_LIFE / 4 * 3);
        assert_eq!(it.begin_due_rotations().await.expect("looked"), 2, "the backbone's and the network's");
        assert_eq!(it.begin_due_rotations().await.expect("looked"), 0, "once each");
        let kinds: BTreeSet<_> = rows::<RotationRow>(&it).await.into_iter().map(|r| r.line).collect();
        assert_eq!(kinds.len(), 2);
        assert!(kinds.iter().any(|line| line.starts_with("backbone/")), "{kinds:?}");
    }
}
