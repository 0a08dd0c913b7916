use std::collections::BTreeMap;

use crate::{
    error::Error,
    fleet::{
        Fleet,
        desired::{self, Condition, Document, Envelope, NewReport, OnInterrupt, OnRevoke, Refused, Report},
        model::{AgentId, Class, Held, Key, Mode, Phase, State},
        store,
    },
    platform::{db::Db, events::Actor, setting},
    testing::{engines, fresh, house, settle_agent},
};

const DAY: i64 = 86_400_000;

fn key(id: &str) -> Key {
    Key { kind: "staging.thing".into(), id: id.into() }
}

fn standing(bytes: &[u8]) -> Document {
    Document {
        mode: Mode::Standing,
        version: 1,
        bytes: bytes.into(),
        on_interrupt: OnInterrupt::Report,
        on_revoke: OnRevoke::Keep,
        start_by: 0,
        blobs: Vec::new(),
        store_bytes: 0,
    }
}

fn once(bytes: &[u8]) -> Document {
    Document { mode: Mode::Once, start_by: 99, ..standing(bytes) }
}

/// A house with agents `a` and `b`.
async fn home(url: &str) -> Fleet {
    let fleet = house(&fresh(url).await, "r1").await;
    for id in ["a", "b"] {
        settle_agent(&fleet, id, Class::StagingHost, &[]).await;
    }
    fleet
}

/// Runs statements in one transaction after recording an event; gives the event's number.
macro_rules! change {
    ($db:expr, |$tx:ident, $seq:ident| $act:expr) => {
        $db.write(|mut tx| async move {
            let $seq = tx.record(Actor::controller().change("test.changed", "test/x")).await?;
            let $tx = &mut tx;
            let value = $act;
            tx.done((value, $seq))
        })
        .await
        .expect("written")
    };
}

async fn put(fleet: &Fleet, agents: &[&str], id: &str, document: &Document) -> i64 {
    let agents: Vec<AgentId> = agents.iter().map(|a| (*a).into()).collect();
    let agents = &agents;
    change!(fleet.db, |tx, seq| fleet.desired.put(tx, seq, agents, &key(id), document).await?).1
}

async fn withdraw(fleet: &Fleet, agent: &str, id: &str) -> i64 {
    change!(fleet.db, |tx, seq| fleet.desired.withdraw(tx, seq, &agent.into(), &key(id)).await?).1
}

async fn accept(fleet: &Fleet, id: &str, generation: i64) {
    let accepts = &[("a".into(), key(id), generation)];
    change!(fleet.db, |tx, _seq| desired::accept(tx, accepts).await?);
}

async fn save(fleet: &Fleet, reports: &[NewReport]) {
    change!(fleet.db, |tx, _seq| desired::save_reports(tx, reports).await?);
}

async fn all(db: &Db, agent: &str) -> Vec<Envelope> {
    desired::assignments(&mut db.read().await.expect("a connection"), &[agent.into()]).await.expect("read")
}

async fn fetch(fleet: &Fleet, agent: &str, id: &str) -> Option<Envelope> {
    all(&fleet.db, agent).await.into_iter().find(|e| e.wanted.key == key(id))
}

async fn state(fleet: &Fleet, id: &str) -> State {
    fetch(fleet, "a", id).await.expect("is there").wanted.state
}

async fn reported(fleet: &Fleet, id: &str) -> Option<Report> {
    let reports = desired::reports_of(&mut fleet.db.read().await.expect("a connection"), &"a".into()).await;
    reports.expect("read").into_iter().find(|r| r.key == key(id))
}

fn report(id: &str, seq: i64, generation: i64, phase: Phase) -> NewReport {
    NewReport {
        ledger: "l1".into(),
        seq,
        epoch: 1,
        report: Report {
            agent: "a".into(),
            key: key(id),
            generation,
            phase,
            conditions: vec![],
            result: vec![1, 2, 0],
            at: 1000 + seq,
            received_at: 0,
            outcome: false,
            may_have_run: false,
            attempt: 0,
        },
    }
}

fn outcome(id: &str, seq: i64, generation: i64, phase: Phase) -> NewReport {
    let mut new = report(id, seq, generation, phase);
    (new.report.outcome, new.report.attempt) = (true, 1);
    new
}

/// Opens a stream of agent `a`, as far as the database goes. Gives its number.
async fn open_session(fleet: &Fleet) -> i64 {
    let opened = &[("a".into(), "token".to_owned())];
    change!(fleet.db, |tx, _seq| store::save_sessions(tx, "r1", opened).await?).0[0].1
}

// === put and withdraw ===

#[tokio::test]
async fn a_put_is_queued_under_the_number_of_its_event_with_its_document_sealed() {
    for url in engines() {
        let fleet = home(&url).await;
        let seq = put(&fleet, &["a", "b"], "x", &standing(b"secret words")).await;
        for agent in ["a", "b"] {
            let it = fetch(&fleet, agent, "x").await.expect("is there").wanted;
            assert_eq!((it.generation, it.epoch, it.state, it.mode), (seq, 1, State::Queued, Mode::Standing));
        }
        let digest = fetch(&fleet, "a", "x").await.expect("is there").wanted.digest;
        let mut conn = fleet.db.read().await.expect("a connection");
        let found = fleet.desired.documents(&mut conn, &[digest.clone(), "none".into()]).await.expect("read");
        assert_eq!(found, BTreeMap::from([(digest, b"secret words".to_vec().into())]));
        let sealed: Vec<(Vec<u8>,)> =
            sqlx::query_as("select sealed from fleet_document").fetch_all(&mut *conn).await.expect("read");
        assert_eq!(sealed.len(), 1, "equal documents lie once");
        assert!(!sealed[0].0.windows(6).any(|w| w == b"secret"), "a document lies sealed");
    }
}

#[tokio::test]
async fn the_same_bytes_are_no_change_and_other_bytes_are_a_newer_generation() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a"], "x", &standing(b"1")).await;
        accept(&fleet, "x", first).await;
        put(&fleet, &["a"], "x", &standing(b"1")).await;
        let it = fetch(&fleet, "a", "x").await.expect("is there").wanted;
        assert_eq!((it.generation, it.state), (first, State::Accepted));
        let second = put(&fleet, &["a"], "x", &standing(b"2")).await;
        let it = fetch(&fleet, "a", "x").await.expect("is there").wanted;
        assert_eq!((it.generation, it.state), (second, State::Queued));
    }
}

#[tokio::test]
async fn once_work_never_changes_its_document() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a"], "x", &once(b"1")).await;
        let before = fetch(&fleet, "a", "x").await.expect("is there");
        put(&fleet, &["a"], "x", &once(b"2")).await;
        let after = fetch(&fleet, "a", "x").await.expect("is there");
        assert_eq!((after.wanted.generation, &after.wanted.digest), (first, &before.wanted.digest));
        assert_eq!(after.start_by, 99);
    }
}

#[tokio::test]
async fn a_document_too_large_is_refused_and_nothing_is_written() {
    for url in engines() {
        let fleet = home(&url).await;
        let document = &standing(&vec![0; muster_proto::MAX_DOCUMENT + 1]);
        let refused = fleet
            .db
            .write(|mut tx| {
                let fleet = &fleet;
                async move {
                    fleet.desired.put(&mut tx, 1, &["a".into()], &key("x"), document).await?;
                    tx.done(())
                }
            })
            .await
            .expect_err("refused");
        assert!(matches!(refused, Error::TooLarge { limit: muster_proto::MAX_DOCUMENT }));
        assert!(all(&fleet.db, "a").await.is_empty());
    }
}

#[tokio::test]
async fn queued_once_work_that_is_withdrawn_ends_at_once_as_cancelled() {
    for url in engines() {
        let fleet = home(&url).await;
        put(&fleet, &["a"], "x", &once(b"1")).await;
        withdraw(&fleet, "a", "x").await;
        assert_eq!(state(&fleet, "x").await, State::Finished);
        let end = reported(&fleet, "x").await.expect("an end");
        assert_eq!((end.phase, end.outcome, end.may_have_run), (Phase::Cancelled, true, false));
        assert_eq!(end.conditions[0].message, "cancelled before it was sent");
    }
}

#[tokio::test]
async fn once_work_under_way_that_is_withdrawn_waits_for_its_agents_word() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a"], "x", &once(b"1")).await;
        let epoch = open_session(&fleet).await;
        let work = &[("a".into(), key("x"), "l1".into(), epoch)];
        change!(fleet.db, |tx, _seq| desired::offer(tx, work).await?);
        accept(&fleet, "x", first).await;
        let second = withdraw(&fleet, "a", "x").await;
        let it = fetch(&fleet, "a", "x").await.expect("is there");
        assert_eq!((it.wanted.generation, it.wanted.state), (second, State::Accepted));
        assert!(it.wanted.digest.is_empty() && it.wanted.is_to_be_sent(), "the agent is to be told");
        assert!(reported(&fleet, "x").await.is_none());
        let third = withdraw(&fleet, "a", "x").await;
        assert!(fetch(&fleet, "a", "x").await.expect("is there").wanted.generation < third, "twice is once");
    }
}

#[tokio::test]
async fn a_standing_assignment_that_is_withdrawn_stays_until_its_effect_is_gone() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a"], "x", &standing(b"1")).await;
        accept(&fleet, "x", first).await;
        save(&fleet, &[report("x", 1, first, Phase::Applied)]).await;
        let second = withdraw(&fleet, "a", "x").await;
        let it = fetch(&fleet, "a", "x").await.expect("is there").wanted;
        assert_eq!((it.generation, it.digest.as_str(), it.state), (second, "", State::Queued));
        save(&fleet, &[report("x", 2, first, Phase::Gone)]).await;
        assert!(fetch(&fleet, "a", "x").await.is_some(), "that was another generation's end");
        save(&fleet, &[report("x", 3, second, Phase::Gone)]).await;
        assert!(fetch(&fleet, "a", "x").await.is_none());
        assert!(reported(&fleet, "x").await.is_none(), "its report goes with it");
    }
}

#[tokio::test]
async fn a_standing_assignment_put_again_before_it_was_gone_stays() {
    for url in engines() {
        let fleet = home(&url).await;
        put(&fleet, &["a"], "x", &standing(b"1")).await;
        let withdrawn = withdraw(&fleet, "a", "x").await;
        let again = put(&fleet, &["a"], "x", &standing(b"1")).await;
        save(&fleet, &[report("x", 1, withdrawn, Phase::Gone)]).await;
        let it = fetch(&fleet, "a", "x").await.expect("is there").wanted;
        assert_eq!((it.generation, it.state), (again, State::Queued));
    }
}

#[tokio::test]
async fn withdrawing_what_is_not_there_or_over_changes_nothing() {
    for url in engines() {
        let fleet = home(&url).await;
        withdraw(&fleet, "a", "none").await;
        let first = put(&fleet, &["a"], "x", &once(b"1")).await;
        save(&fleet, &[outcome("x", 1, first, Phase::Succeeded)]).await;
        withdraw(&fleet, "a", "x").await;
        assert_eq!(fetch(&fleet, "a", "x").await.expect("is there").wanted.generation, first);
        assert_eq!(reported(&fleet, "x").await.expect("an end").phase, Phase::Succeeded);
    }
}

#[tokio::test]
async fn a_withdrawal_the_agent_never_needed_is_forgotten() {
    for url in engines() {
        let fleet = home(&url).await;
        put(&fleet, &["a"], "x", &standing(b"1")).await;
        let seq = withdraw(&fleet, "a", "x").await;
        let (agent, key) = (&AgentId::from("a"), &key("x"));
        change!(fleet.db, |tx, _seq| desired::forget_withdrawn(tx, agent, key, seq - 1).await?);
        assert!(fetch(&fleet, "a", "x").await.is_some(), "another generation");
        change!(fleet.db, |tx, _seq| desired::forget_withdrawn(tx, agent, key, seq).await?);
        assert!(fetch(&fleet, "a", "x").await.is_none());
    }
}

// === offer, accept, refuse ===

#[tokio::test]
async fn only_the_stream_that_is_its_agents_may_offer_once_work() {
    for url in engines() {
        let fleet = home(&url).await;
        put(&fleet, &["a"], "x", &once(b"1")).await;
        put(&fleet, &["a"], "s", &standing(b"1")).await;
        let old = open_session(&fleet).await;
        let new = open_session(&fleet).await;
        assert_eq!(new, old + 1);
        let offer = async |epoch: i64| {
            let work = ["x", "s", "none"].map(|id| ("a".into(), key(id), "l1".into(), epoch));
            let work = &work;
            change!(fleet.db, |tx, _seq| desired::offer(tx, work).await?).0
        };
        assert!(offer(old).await.is_empty(), "a stream that was taken over offers nothing");
        assert_eq!(state(&fleet, "x").await, State::Queued);
        assert_eq!(offer(new).await, [("a".into(), key("x"))], "a standing one needs no offer");
        assert_eq!(state(&fleet, "x").await, State::Offered);
        assert_eq!(offer(new).await.len(), 1, "what was offered and not accepted is offered again");
        accept(&fleet, "x", fetch(&fleet, "a", "x").await.expect("is there").wanted.generation).await;
        assert!(offer(new).await.is_empty(), "what was accepted is not");
    }
}

#[tokio::test]
async fn an_accept_of_an_older_generation_says_nothing_of_the_newer() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a", "b"], "x", &standing(b"1")).await;
        let second = put(&fleet, &["a"], "x", &standing(b"2")).await;
        accept(&fleet, "x", first).await;
        assert_eq!(state(&fleet, "x").await, State::Queued);
        accept(&fleet, "x", second).await;
        assert_eq!(state(&fleet, "x").await, State::Accepted);
        assert_eq!(fetch(&fleet, "b", "x").await.expect("is there").wanted.state, State::Queued, "another's");
    }
}

fn refused(id: &str, generation: i64) -> Refused {
    let (reason, message) = ("not_allowed".into(), "list the kind in accept.kinds".into());
    Refused { agent: "a".into(), key: key(id), generation, reason, message }
}

#[tokio::test]
async fn a_refusal_is_kept_for_its_generation_and_what_the_agent_could_do_then() {
    for url in engines() {
        let fleet = home(&url).await;
        change!(fleet.db, |tx, _seq| {
            let able = "update fleet_agent set capability_digest = 'able' where id = 'a'";
            sqlx::query(able).execute(&mut **tx).await?;
        });
        let first = put(&fleet, &["a"], "x", &standing(b"1")).await;
        change!(fleet.db, |tx, _seq| desired::refuse(tx, &refused("x", first - 1)).await?);
        assert_eq!(fetch(&fleet, "a", "x").await.expect("is there").wanted.refused, None, "of another generation");
        change!(fleet.db, |tx, _seq| desired::refuse(tx, &refused("x", first)).await?);
        let it = fetch(&fleet, "a", "x").await.expect("is there");
        assert_eq!(it.wanted.refused, Some((first, "able".into())));
        assert_eq!(it.refusal, Some(("not_allowed".into(), "list the kind in accept.kinds".into())));
        assert_eq!(it.wanted.state, State::Queued, "a standing one waits for a change");
        assert!(reported(&fleet, "x").await.is_none());
    }
}

#[tokio::test]
async fn refused_once_work_is_over_and_says_why() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a"], "x", &once(b"1")).await;
        change!(fleet.db, |tx, _seq| desired::refuse(tx, &refused("x", first)).await?);
        assert_eq!(state(&fleet, "x").await, State::Finished);
        let end = reported(&fleet, "x").await.expect("an end");
        assert_eq!((end.phase, end.outcome, end.may_have_run), (Phase::Failed, true, false));
        assert_eq!(end.conditions[0].message, "list the kind in accept.kinds");
    }
}

#[tokio::test]
async fn home_ends_work_in_place_of_an_outcome_only_once() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a"], "x", &once(b"1")).await;
        let (agent, key) = (&AgentId::from("a"), &key("x"));
        change!(fleet.db, |tx, _seq| desired::settle(tx, agent, key, Phase::Interrupted, true, "ledger lost").await?);
        save(&fleet, &[outcome("x", 9, first, Phase::Succeeded)]).await;
        change!(fleet.db, |tx, _seq| desired::settle(tx, agent, key, Phase::Lost, true, "host gone").await?);
        let end = reported(&fleet, "x").await.expect("an end");
        assert_eq!((end.phase, end.may_have_run), (Phase::Interrupted, true));
        assert_eq!(end.conditions[0].message, "ledger lost");
    }
}

// === reports ===

#[tokio::test]
async fn of_reports_the_newest_wins_and_an_outcome_is_never_overwritten() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a"], "x", &once(b"1")).await;
        let mut running = report("x", 5, first, Phase::Working);
        running.report.attempt = 1;
        let said = Condition { kind: "Ready".into(), holds: true, reason: "Up".into(), message: "fine".into() };
        running.report.conditions = vec![said.clone()];
        save(&fleet, std::slice::from_ref(&running)).await;
        assert_eq!(state(&fleet, "x").await, State::Running);
        save(&fleet, &[report("x", 4, first, Phase::Waiting)]).await;
        let it = reported(&fleet, "x").await.expect("a report");
        assert_eq!((it.phase, it.at, it.result, it.attempt), (Phase::Working, 1005, vec![1, 2, 0], 1));
        assert_eq!(it.conditions, [said]);
        assert!(it.received_at > 0);
        save(&fleet, &[outcome("x", 6, first, Phase::Failed)]).await;
        assert_eq!(state(&fleet, "x").await, State::Finished);
        save(&fleet, &[running, outcome("x", 7, first, Phase::Succeeded)][..1]).await;
        save(&fleet, &[outcome("x", 7, first, Phase::Succeeded)]).await;
        assert_eq!(reported(&fleet, "x").await.expect("a report").phase, Phase::Failed);
        assert_eq!(state(&fleet, "x").await, State::Finished);
    }
}

#[tokio::test]
async fn a_new_ledger_counts_its_reports_anew() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a"], "x", &standing(b"1")).await;
        save(&fleet, &[report("x", 50, first, Phase::Applied)]).await;
        save(&fleet, &[NewReport { ledger: "l2".into(), ..report("x", 1, first, Phase::Failed) }]).await;
        assert_eq!(reported(&fleet, "x").await.expect("a report").phase, Phase::Failed);
    }
}

#[tokio::test]
async fn a_report_on_what_was_forgotten_is_not_kept() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a"], "x", &standing(b"1")).await;
        save(&fleet, &[report("none", 1, first, Phase::Applied), report("x", 2, first, Phase::Applied)]).await;
        assert!(reported(&fleet, "none").await.is_none());
        assert!(reported(&fleet, "x").await.is_some());
        change!(fleet.db, |tx, _seq| desired::forget(tx, &"a".into(), &key("x")).await?);
        assert!(reported(&fleet, "x").await.is_none());
        assert!(fetch(&fleet, "a", "x").await.is_none());
    }
}

#[tokio::test]
async fn a_standing_assignment_has_no_outcome() {
    for url in engines() {
        let fleet = home(&url).await;
        let first = put(&fleet, &["a"], "x", &standing(b"1")).await;
        save(&fleet, &[outcome("x", 1, first, Phase::Applied)]).await;
        assert_eq!(state(&fleet, "x").await, State::Queued);
        save(&fleet, &[report("x", 2, first, Phase::Failed)]).await;
        assert_eq!(reported(&fleet, "x").await.expect("a report").phase, Phase::Failed, "it goes on reporting");
    }
}

#[tokio::test]
async fn more_than_one_statement_takes_is_written_whole() {
    for url in engines() {
        let fleet = house(&fresh(&url).await, "r1").await;
        let names: Vec<_> = (0..230).map(|n| format!("a{n:03}")).collect();
        for name in &names {
            settle_agent(&fleet, name, Class::StagingHost, &[]).await;
        }
        let agents: Vec<_> = names.iter().map(String::as_str).collect();
        let seq = put(&fleet, &agents, "x", &standing(b"1")).await;
        let accepts: Vec<_> = names.iter().map(|a| (AgentId(a.clone()), key("x"), seq)).collect();
        let accepts = &accepts;
        change!(fleet.db, |tx, _seq| desired::accept(tx, accepts).await?);
        let reports: Vec<_> = names
            .iter()
            .map(|a| {
                let mut new = report("x", 1, seq, Phase::Applied);
                new.report.agent = AgentId(a.clone());
                new
            })
            .collect();
        save(&fleet, &reports).await;
        let ids: Vec<_> = names.iter().map(|a| AgentId(a.clone())).collect();
        let mut conn = fleet.db.read().await.expect("a connection");
        let found = desired::assignments(&mut conn, &ids).await.expect("read");
        assert_eq!(found.iter().filter(|e| e.wanted.state == State::Accepted).count(), 230);
        assert_eq!(desired::reports(&mut conn, "staging.thing", &["x".into()]).await.expect("read").len(), 230);
        let of_kind = desired::assignments_of_kind(&mut conn, "staging.thing", &["x".into()]).await.expect("read");
        assert_eq!(of_kind.len(), 230);
        assert_eq!(desired::of_generation(&mut conn, seq).await.expect("read").len(), 230);
    }
}

// === reading for dispatch, documents, restores ===

#[tokio::test]
async fn changes_are_read_in_the_order_of_their_events() {
    for url in engines() {
        let fleet = home(&url).await;
        let x = put(&fleet, &["b"], "x", &standing(b"1")).await;
        let y = put(&fleet, &["a"], "y", &standing(b"1")).await;
        let z = put(&fleet, &["a"], "z", &once(b"1")).await;
        let gone = withdraw(&fleet, "b", "x").await;
        let since = async |seq, limit| {
            let mut conn = fleet.db.read().await.expect("a connection");
            let found = desired::changed_since(&mut conn, seq, limit).await.expect("read");
            found.into_iter().map(|e| e.wanted.generation).collect::<Vec<_>>()
        };
        assert_eq!(since(0, 10).await, [y, z, gone], "a newer generation takes the place of an older one");
        assert_eq!(since(0, 2).await, [y, z]);
        assert_eq!(since(y, 10).await, [z, gone]);
        assert_eq!(since(gone, 10).await, [0; 0]);
        assert!(x < y);
    }
}

#[tokio::test]
async fn what_was_not_accepted_is_found_for_the_replica_that_has_the_stream() {
    for url in engines() {
        let fleet = home(&url).await;
        let accepted = put(&fleet, &["a", "b"], "x", &standing(b"1")).await;
        put(&fleet, &["a", "b"], "y", &standing(b"1")).await;
        accept(&fleet, "x", accepted).await;
        open_session(&fleet).await;
        let unsent = async |replica| {
            let mut conn = fleet.db.read().await.expect("a connection");
            let found = desired::unsent(&mut conn, replica).await.expect("read");
            found.into_iter().map(|e| (e.agent.0, e.wanted.key.id)).collect::<Vec<_>>()
        };
        assert_eq!(unsent("r1").await, [("a".to_owned(), "y".to_owned())]);
        assert!(unsent("r2").await.is_empty());
    }
}

#[tokio::test]
async fn a_document_is_dropped_a_while_after_the_last_assignment_named_it() {
    for url in engines() {
        let fleet = home(&url).await;
        put(&fleet, &["a"], "x", &standing(b"old")).await;
        put(&fleet, &["a"], "x", &standing(b"named")).await;
        let drop_orphans = async || change!(fleet.db, |tx, _seq| desired::drop_orphans(tx).await?).0;
        assert_eq!(drop_orphans().await, 0, "what was just put may be read by a stream that is about to send it");
        fleet.db.clock().shift(DAY);
        assert_eq!(drop_orphans().await, 1);
        let digest = fetch(&fleet, "a", "x").await.expect("is there").wanted.digest;
        let mut conn = fleet.db.read().await.expect("a connection");
        assert_eq!(fleet.desired.documents(&mut conn, &[digest]).await.expect("read").len(), 1);
    }
}

async fn restore(fleet: &Fleet) {
    change!(fleet.db, |tx, _seq| desired::raise_epoch(tx).await?);
}

#[tokio::test]
async fn after_a_restore_what_home_wants_outranks_what_agents_were_told_since() {
    for url in engines() {
        let fleet = home(&url).await;
        let kept = put(&fleet, &["a"], "x", &standing(b"1")).await;
        accept(&fleet, "x", kept).await;
        put(&fleet, &["a"], "w", &once(b"1")).await;
        restore(&fleet).await;
        let it = fetch(&fleet, "a", "x").await.expect("is there").wanted;
        assert_eq!((it.epoch, it.generation, it.state), (2, kept, State::Queued));
        assert_eq!(fetch(&fleet, "a", "w").await.expect("is there").wanted.epoch, 1, "once work is not put anew");
        put(&fleet, &["a"], "y", &standing(b"1")).await;
        assert_eq!(fetch(&fleet, "a", "y").await.expect("is there").wanted.epoch, 2);
    }
}

#[tokio::test]
async fn a_withdrawal_after_a_restore_is_of_the_new_epoch() {
    for url in engines() {
        let fleet = home(&url).await;
        let held = put(&fleet, &["a"], "w", &once(b"1")).await;
        accept(&fleet, "w", held).await;
        change!(fleet.db, |tx, _seq| setting::save(tx, "epoch", "2").await?);
        withdraw(&fleet, "a", "w").await;
        assert_eq!(fetch(&fleet, "a", "w").await.expect("is there").wanted.epoch, 2);
    }
}

#[tokio::test]
async fn what_an_agent_holds_from_before_a_restore_is_adopted_and_left_as_it_is() {
    for url in engines() {
        let fleet = home(&url).await;
        let held = Held { key: key("x"), epoch: 1, generation: 77, digest: "d".into(), once: false };
        let held = &held;
        change!(fleet.db, |tx, _seq| desired::adopt(tx, &"a".into(), held).await?);
        restore(&fleet).await;
        let it = fetch(&fleet, "a", "x").await.expect("is there");
        assert_eq!((it.wanted.epoch, it.wanted.generation, it.wanted.state), (1, 77, State::Accepted));
        assert!(!it.wanted.is_to_be_sent(), "home has no document to send");
        save(&fleet, &[report("x", 1, 77, Phase::Applied)]).await;
        assert!(reported(&fleet, "x").await.is_some());
    }
}

#[tokio::test]
async fn what_was_adopted_is_wanted_anew_when_it_is_put_again() {
    for url in engines() {
        let fleet = home(&url).await;
        let digest = muster_pki::hex(&muster_pki::sha256(b"same"));
        let held = Held { key: key("x"), epoch: 1, generation: 77, digest, once: false };
        let held = &held;
        change!(fleet.db, |tx, _seq| desired::adopt(tx, &"a".into(), held).await?);
        restore(&fleet).await;
        let generation = put(&fleet, &["a"], "x", &standing(b"same")).await;
        let it = fetch(&fleet, "a", "x").await.expect("is there");
        assert_eq!((it.wanted.epoch, it.wanted.generation, it.wanted.state), (2, generation, State::Queued));
    }
}
