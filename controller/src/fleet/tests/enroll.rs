use std::sync::Arc;

use muster_pki::{hex, key::Key as PrivateKey, leaf, sha256};
use muster_proto::{
    fleet::{EnrollRequest, EnrollResponse, Facts, enrollment_server::Enrollment, refusal::Reason},
    refusal, token,
};
use tonic::{Request, Status};

use crate::{
    error::Error,
    fleet::{
        Fleet, Pulse, agents,
        desired::{self, Document, OnInterrupt, OnRevoke},
        enroll::EnrollmentService,
        line::Line,
        model::{AgentId, Class, InvitationId, Key, Labels, Liveness, Mode, OFFLINE_AFTER, Phase, STALE_AFTER},
        service::{NewInvitation, Removal},
        store,
    },
    platform::{
        events::{self, Actor},
        reconcile::Reconciler,
    },
    testing::{engines, fresh, house, settle_agent},
};

const HOUR: i64 = 3_600_000;

fn user() -> Actor {
    Actor { name: "user/ada".into(), source: events::Source::Cli }
}

fn invitation() -> NewInvitation {
    NewInvitation {
        name: "hosts of zone a".into(),
        class: Class::StagingHost,
        labels: Labels::from([("zone".into(), "a".into())]),
        max_uses: 1,
        life: HOUR,
        for_agent: None,
    }
}

async fn home(url: &str) -> Fleet {
    house(&fresh(url).await, "r1").await
}

/// Makes an invitation; gives its id and the secret in its token.
async fn invite(fleet: &Fleet, new: &NewInvitation) -> (InvitationId, Vec<u8>) {
    let (row, text) = fleet.invite(&user(), new).await.expect("invited");
    (InvitationId(row.id), token::parse(&text).expect("a token").secret.to_vec())
}

fn request(secret: &[u8], key: &PrivateKey) -> EnrollRequest {
    EnrollRequest {
        secret: secret.to_vec().into(),
        csr: key.request().expect("a request").into(),
        facts: Some(Facts { hostname: "host\0one".into(), ..Facts::default() }),
    }
}

async fn enroll(fleet: &Fleet, secret: &[u8], key: &PrivateKey) -> Result<EnrollResponse, Status> {
    let service = EnrollmentService { fleet: fleet.clone() };
    service.enroll(Request::new(request(secret, key))).await.map(tonic::Response::into_inner)
}

fn key() -> PrivateKey {
    PrivateKey::generate().expect("a key")
}

/// The sentence of a refusal for its invitation's sake.
fn why(refused: Result<EnrollResponse, Status>) -> String {
    let refusal = refusal::from_status(&refused.expect_err("refused")).expect("a typed refusal");
    assert_eq!(refusal.reason(), Reason::Invitation);
    refusal.message
}

async fn used(fleet: &Fleet, id: &InvitationId) -> i64 {
    let mut conn = fleet.db.read().await.expect("a connection");
    store::fetch_invitation(&mut conn, id).await.expect("read").expect("is there").used
}

/// What happened since the house was founded, in order.
async fn kinds(fleet: &Fleet) -> Vec<String> {
    let mut conn = fleet.db.read().await.expect("a connection");
    let found = events::list(&mut conn, &events::Filter::default(), 100).await.expect("listed");
    found.into_iter().rev().map(|e| e.kind).filter(|k| k != "certificate.house_founded").collect()
}

// === invitations ===

#[tokio::test]
async fn of_fifty_who_take_the_one_use_at_once_exactly_one_gets_it() {
    for url in engines() {
        let fleet = home(&url).await;
        let (id, _) = invite(&fleet, &invitation()).await;
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (db, id) = (fleet.db.clone(), id.clone());
                tokio::spawn(async move {
                    let id = &id;
                    db.write(|mut tx| async move {
                        let now = tx.now();
                        let took = store::take_use(&mut tx, &id.0, now).await?;
                        tx.done(took)
                    })
                    .await
                    .expect("written")
                })
            })
            .collect();
        let mut taken = 0;
        for task in tasks {
            taken += usize::from(task.await.expect("no panic"));
        }
        assert_eq!((taken, used(&fleet, &id).await), (1, 1));
    }
}

#[tokio::test]
async fn of_fifty_keys_that_enrol_at_once_as_many_as_are_invited_get_an_identity() {
    for url in engines() {
        let fleet = home(&url).await;
        let (id, secret) = invite(&fleet, &NewInvitation { max_uses: 3, ..invitation() }).await;
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (fleet, secret) = (fleet.clone(), secret.clone());
                tokio::spawn(async move { enroll(&fleet, &secret, &key()).await })
            })
            .collect();
        let mut identities = std::collections::BTreeSet::new();
        for task in tasks {
            match task.await.expect("no panic") {
                Ok(enrolled) => assert!(identities.insert(enrolled.agent_id)),
                refused => assert!(why(refused).contains("is used up")),
            }
        }
        assert_eq!((identities.len(), used(&fleet, &id).await), (3, 3));
    }
}

#[tokio::test]
async fn a_wrong_invitation_is_refused_by_the_field_that_is_wrong() {
    let fleet = home("sqlite:").await;
    let wrong = [
        ("name", NewInvitation { name: String::new(), ..invitation() }),
        ("max_uses", NewInvitation { max_uses: 0, ..invitation() }),
        ("expires_in_seconds", NewInvitation { life: 1000, ..invitation() }),
        ("labels.zone", NewInvitation { labels: Labels::from([("zone".into(), "a b".into())]), ..invitation() }),
        ("max_uses", NewInvitation { max_uses: 2, for_agent: Some("a".into()), ..invitation() }),
    ];
    for (right, new) in wrong {
        let refused = fleet.invite(&user(), &new).await.expect_err("refused");
        assert!(matches!(&refused, Error::Invalid { field, .. } if field == right), "{right}: {refused}");
    }
    let gone = NewInvitation { for_agent: Some("a".into()), ..invitation() };
    assert!(matches!(fleet.invite(&user(), &gone).await, Err(Error::NotFound { .. })));
    assert!(kinds(&fleet).await.is_empty(), "nothing was changed");
}

#[tokio::test]
async fn the_secret_of_an_invitation_is_not_kept() {
    for url in engines() {
        let fleet = home(&url).await;
        let (_, secret) = invite(&fleet, &invitation()).await;
        let mut conn = fleet.db.read().await.expect("a connection");
        let rows: Vec<(String,)> =
            sqlx::query_as("select secret_hash from fleet_invitation").fetch_all(&mut *conn).await.expect("read");
        assert_eq!(rows, [(hex(&sha256(&secret)),)]);
    }
}

#[tokio::test]
async fn an_invitation_is_revoked_once() {
    for url in engines() {
        let fleet = home(&url).await;
        let (id, secret) = invite(&fleet, &invitation()).await;
        fleet.revoke_invitation(&user(), &id).await.expect("revoked");
        let again = fleet.revoke_invitation(&user(), &id).await.expect_err("refused");
        assert!(matches!(again, Error::Conflict(_)), "{again}");
        let none = fleet.revoke_invitation(&user(), &"none".into()).await.expect_err("refused");
        assert!(matches!(none, Error::NotFound { .. }), "{none}");
        assert!(why(enroll(&fleet, &secret, &key()).await).contains("\"hosts of zone a\" has been revoked"));
    }
}

// === enrolment ===

#[tokio::test]
async fn an_identity_is_minted_by_home_with_what_the_invitation_says() {
    for url in engines() {
        let fleet = home(&url).await;
        let (id, secret) = invite(&fleet, &invitation()).await;
        let enrolled = enroll(&fleet, &secret, &key()).await.expect("enrolled");
        let leaf = leaf::read(&enrolled.chain[0]).expect("a certificate");
        assert_eq!(leaf.agent_id.as_ref(), Some(&enrolled.agent_id));
        assert_eq!((enrolled.class.as_str(), enrolled.homes), ("staging-host", vec!["home.test:7443".to_owned()]));
        let mut conn = fleet.db.read().await.expect("a connection");
        let agent = AgentId(enrolled.agent_id);
        let row = store::fetch_agent(&mut conn, &agent).await.expect("read").expect("is there");
        assert_eq!((row.name.as_str(), row.labels.as_str()), ("host\u{fffd}one", "{\"zone\":\"a\"}"));
        assert_eq!((row.invitation_id, row.liveness.as_str()), (Some(id.0), "never"));
        let filter = |zone: &str| store::AgentFilter {
            labels: Labels::from([("zone".into(), zone.into())]),
            ..store::AgentFilter::default()
        };
        assert_eq!(store::agents(&mut conn, &filter("a"), 10).await.expect("listed").len(), 1);
        assert!(store::agents(&mut conn, &filter("b"), 10).await.expect("listed").is_empty());
        let held = desired::assignments(&mut conn, &[agent]).await.expect("read");
        assert_eq!(held.len(), 1, "it is told about its home");
        drop(conn);
        assert_eq!(kinds(&fleet).await, ["invitation.created", "agent.enrolled"]);
    }
}

#[tokio::test]
async fn the_same_key_gets_the_same_identity_again_for_an_hour_and_burns_no_use() {
    for url in engines() {
        let fleet = home(&url).await;
        for max_uses in [1, 5] {
            let (id, secret) = invite(&fleet, &NewInvitation { max_uses, ..invitation() }).await;
            let key = key();
            let first = enroll(&fleet, &secret, &key).await.expect("enrolled");
            let again = enroll(&fleet, &secret, &key).await.expect("enrolled again");
            assert_eq!(again.agent_id, first.agent_id);
            assert_eq!(used(&fleet, &id).await, 1);
        }
    }
}

#[tokio::test]
async fn the_same_key_is_refused_after_its_grace() {
    for url in engines() {
        let fleet = home(&url).await;
        let (_, secret) = invite(&fleet, &NewInvitation { max_uses: 2, life: 24 * HOUR, ..invitation() }).await;
        let key = key();
        enroll(&fleet, &secret, &key).await.expect("enrolled");
        fleet.db.clock().shift(HOUR + 1000);
        assert!(why(enroll(&fleet, &secret, &key).await).contains("this key has used the invitation before"));
    }
}

#[tokio::test]
async fn another_key_is_refused_after_the_limit_the_deadline_or_a_revocation() {
    for url in engines() {
        let fleet = home(&url).await;
        let (_, secret) = invite(&fleet, &invitation()).await;
        enroll(&fleet, &secret, &key()).await.expect("enrolled");
        assert!(
            why(enroll(&fleet, &secret, &key()).await).contains("\"hosts of zone a\" is used up; ask for a new one")
        );
        assert!(why(enroll(&fleet, b"guessed", &key()).await).contains("knows no such invitation"));
        let (_, secret) = invite(&fleet, &invitation()).await;
        fleet.db.clock().shift(HOUR);
        assert!(why(enroll(&fleet, &secret, &key()).await).contains("is past its deadline"));
    }
}

#[tokio::test]
async fn a_request_that_is_no_request_burns_no_use() {
    for url in engines() {
        let fleet = home(&url).await;
        let (id, secret) = invite(&fleet, &invitation()).await;
        let service = EnrollmentService { fleet: fleet.clone() };
        let bad = EnrollRequest { csr: b"not a request".to_vec().into(), ..request(&secret, &key()) };
        let refused = service.enroll(Request::new(bad)).await.expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        assert_eq!(used(&fleet, &id).await, 0);
    }
}

#[tokio::test]
async fn a_revoked_identity_comes_back_by_an_invitation_bound_to_it() {
    for url in engines() {
        let fleet = home(&url).await;
        let (_, secret) = invite(&fleet, &invitation()).await;
        let agent = AgentId(enroll(&fleet, &secret, &key()).await.expect("enrolled").agent_id);
        fleet.revoke_agent(&user(), &agent, "stolen").await.expect("revoked");
        let other = NewInvitation { class: Class::TaskRunner, for_agent: Some(agent.clone()), ..invitation() };
        assert!(matches!(fleet.invite(&user(), &other).await, Err(Error::Invalid { .. })), "of another class");
        let (_, secret) = invite(&fleet, &NewInvitation { for_agent: Some(agent.clone()), ..invitation() }).await;
        assert_eq!(enroll(&fleet, &secret, &key()).await.expect("readmitted").agent_id, agent.0);
        let row = fleet.agent(&mut fleet.db.read().await.expect("a connection"), &agent).await.expect("is there");
        assert_eq!((row.standing.as_str(), row.revoked_at), ("ok", None));
        assert_eq!(kinds(&fleet).await.last().map(String::as_str), Some("agent.readmitted"));
    }
}

// === agents ===

fn work(id: &str) -> Key {
    Key { kind: "test.work".into(), id: id.into() }
}

async fn put(fleet: &Fleet, agent: &AgentId, id: &str, mode: Mode) {
    let document = Document {
        mode,
        version: 1,
        bytes: b"work".to_vec(),
        on_interrupt: OnInterrupt::Report,
        on_revoke: OnRevoke::Keep,
        start_by: 0,
        blobs: Vec::new(),
        store_bytes: 0,
    };
    let document = &document;
    fleet
        .db
        .write(|mut tx| async move {
            let seq = tx.record(Actor::controller().change("test.put", "test/x")).await?;
            fleet.desired.put(&mut tx, seq, std::slice::from_ref(agent), &work(id), document).await?;
            tx.done(())
        })
        .await
        .expect("put");
}

#[tokio::test]
async fn once_work_of_a_revoked_agent_is_lost_and_says_so() {
    for url in engines() {
        let fleet = home(&url).await;
        let agent = settle_agent(&fleet, "a", Class::StagingHost, &[]).await;
        put(&fleet, &agent, "once", Mode::Once).await;
        put(&fleet, &agent, "standing", Mode::Standing).await;
        fleet.revoke_agent(&user(), &agent, "stolen").await.expect("revoked");
        let held = fleet.holdings(&agent).await.expect("read");
        let end = held.iter().find(|(e, _)| e.wanted.key == work("once")).and_then(|(_, r)| r.as_ref());
        let end = end.expect("an end");
        assert_eq!((end.phase, end.outcome, end.may_have_run), (Phase::Lost, true, false));
        assert_eq!(end.conditions[0].message, "its agent was revoked");
        assert!(held.iter().any(|(e, r)| e.wanted.key == work("standing") && r.is_none()), "a state is kept");
        let mut conn = fleet.db.read().await.expect("a connection");
        assert_eq!(store::revoked_since(&mut conn, 0).await.expect("read"), ["a"]);
        let head = events::head(&mut conn).await.expect("a head");
        assert!(store::revoked_since(&mut conn, head).await.expect("read").is_empty());
        drop(conn);
        let again = fleet.revoke_agent(&user(), &agent, "again").await.expect_err("refused");
        assert!(matches!(again, Error::Conflict(_)), "{again}");
        let none = fleet.revoke_agent(&user(), &"none".into(), "?").await.expect_err("refused");
        assert!(matches!(none, Error::NotFound { .. }), "{none}");
    }
}

#[tokio::test]
async fn an_agent_that_holds_something_is_removed_only_by_force() {
    for url in engines() {
        let fleet = home(&url).await;
        let agent = settle_agent(&fleet, "a", Class::StagingHost, &[]).await;
        put(&fleet, &agent, "x", Mode::Standing).await;
        let removal = Removal { agent: agent.clone(), force: false };
        let refused = fleet.remove_agent(&user(), &removal).await.expect_err("refused").to_string();
        assert!(refused.contains("1 assignment(s), test.work x among them"), "{refused}");
        fleet.remove_agent(&user(), &Removal { force: true, ..removal.clone() }).await.expect("removed");
        let none = fleet.remove_agent(&user(), &removal).await.expect_err("refused");
        assert!(matches!(none, Error::NotFound { .. }), "{none}");
        let mut conn = fleet.db.read().await.expect("a connection");
        assert!(desired::assignments(&mut conn, &[agent]).await.expect("read").is_empty());
    }
}

#[tokio::test]
async fn an_agent_that_holds_nothing_but_its_homes_own_document_is_removed_without_force() {
    for url in engines() {
        let fleet = home(&url).await;
        let (_, secret) = invite(&fleet, &invitation()).await;
        let agent = AgentId(enroll(&fleet, &secret, &key()).await.expect("enrolled").agent_id);
        fleet.remove_agent(&user(), &Removal { agent, force: false }).await.expect("removed");
    }
}

#[tokio::test]
async fn labels_are_changed_only_by_who_has_read_the_newest() {
    for url in engines() {
        let fleet = home(&url).await;
        let agent = settle_agent(&fleet, "a", Class::StagingHost, &[("zone", "a")]).await;
        let labels = Labels::from([("zone".into(), "b".into())]);
        assert_eq!(fleet.relabel(&user(), &agent, "one", &labels, Some(1)).await.expect("relabelled"), 2);
        let stale = fleet.relabel(&user(), &agent, "two", &labels, Some(1)).await.expect_err("refused");
        assert!(matches!(stale, Error::Stale), "{stale}");
        assert_eq!(fleet.relabel(&user(), &agent, "three", &labels, None).await.expect("relabelled"), 3);
        let mut conn = fleet.db.read().await.expect("a connection");
        let filter = store::AgentFilter { labels, search: "THREE".into(), ..store::AgentFilter::default() };
        assert_eq!(store::agents(&mut conn, &filter, 10).await.expect("listed").len(), 1);
    }
}

#[tokio::test]
async fn settings_reach_every_agent_that_lacks_them_and_then_no_more() {
    for url in engines() {
        let fleet = home(&url).await;
        settle_agent(&fleet, "a", Class::StagingHost, &[]).await;
        fleet.refresh_settings().await.expect("refreshed");
        assert_eq!(fleet.holdings(&"a".into()).await.expect("read").len(), 1);
        fleet.refresh_settings().await.expect("refreshed");
        assert_eq!(kinds(&fleet).await, ["fleet.settings_changed"]);
    }
}

// === liveness over replicas ===

fn stream(agent: &AgentId) -> Arc<Line> {
    Line::new(agent.clone(), "l1".into(), "able".into(), Arc::default()).into()
}

/// A stream of `agent` opens at this replica, as far as registry and database go.
async fn opens_at(fleet: &Fleet, agent: &AgentId) -> Arc<Line> {
    let line = stream(agent);
    fleet.registry.join(&line, Liveness::Never);
    let opened = &[(agent.clone(), "token".to_owned())];
    let epochs = fleet.db.write(|mut tx| async move {
        let epochs = store::save_sessions(&mut tx, &fleet.replica, opened).await?;
        tx.done(epochs)
    });
    line.open(epochs.await.expect("opened")[0].1);
    line
}

async fn pulse(fleet: &Fleet) {
    Pulse::new(fleet.clone()).reconcile().await.expect("a round");
}

async fn liveness(fleet: &Fleet, agent: &AgentId) -> String {
    let mut conn = fleet.db.read().await.expect("a connection");
    fleet.agent(&mut conn, agent).await.expect("is there").liveness
}

#[tokio::test]
async fn an_agent_that_moved_to_another_replica_is_not_written_off_by_the_former() {
    for url in engines() {
        let first = home(&url).await;
        let second = house(&first.db, "r2").await;
        let agent = settle_agent(&first, "a", Class::StagingHost, &[]).await;
        let old = opens_at(&first, &agent).await;
        pulse(&first).await;
        let new = opens_at(&second, &agent).await;
        pulse(&second).await;
        first.registry.part(&old, first.db.clock().now());
        first.db.clock().shift(STALE_AFTER);
        pulse(&first).await;
        assert_eq!(liveness(&first, &agent).await, "online");
        second.registry.part(&new, second.db.clock().now());
        second.db.clock().shift(STALE_AFTER);
        pulse(&second).await;
        assert_eq!(liveness(&first, &agent).await, "stale", "its last replica says so");
    }
}

#[tokio::test]
async fn an_agent_is_away_since_its_stream_ended() {
    for url in engines() {
        let fleet = home(&url).await;
        let agent = settle_agent(&fleet, "a", Class::StagingHost, &[]).await;
        let line = opens_at(&fleet, &agent).await;
        pulse(&fleet).await;
        let ended = fleet.db.clock().now();
        fleet.registry.part(&line, ended);
        for (passes, since) in [(0, None), (STALE_AFTER, Some(&ended)), (OFFLINE_AFTER, Some(&ended))] {
            fleet.db.clock().shift(passes);
            pulse(&fleet).await;
            let mut conn = fleet.db.read().await.expect("a connection");
            let away = agents::away(&mut conn, std::slice::from_ref(&agent.0)).await.expect("read");
            assert_eq!(away.get(&agent), since, "{passes} ms later");
        }
    }
}

#[tokio::test]
async fn a_replica_that_starts_does_not_miss_agents_that_live_at_another() {
    for url in engines() {
        let first = home(&url).await;
        let agent = settle_agent(&first, "a", Class::StagingHost, &[]).await;
        opens_at(&first, &agent).await;
        pulse(&first).await;
        let second = house(&first.db, "r2").await;
        second.expect_back().await.expect("read");
        second.db.clock().shift(STALE_AFTER);
        pulse(&second).await;
        assert_eq!(liveness(&first, &agent).await, "online");
    }
}

#[tokio::test]
async fn that_a_stream_ended_is_not_forgotten_while_it_cannot_be_written() {
    for url in engines() {
        let fleet = home(&url).await;
        let agent = settle_agent(&fleet, "a", Class::StagingHost, &[]).await;
        let line = opens_at(&fleet, &agent).await;
        pulse(&fleet).await;
        fleet.part(&line);
        fleet.db.close().await;
        Pulse::new(fleet.clone()).reconcile().await.expect_err("the database is gone");
        assert_eq!(fleet.take_closed(), [(agent, line.epoch())]);
    }
}
