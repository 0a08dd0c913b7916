use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use muster_pki::unhex;
use muster_proto::fleet::{Chunk, FetchRequest};
use tokio::sync::mpsc;
use tonic::Code;

use crate::{
    error::{Error, Result},
    fleet::{
        Fleet,
        blobs::{Transfers, give, take},
        desired::{self, Document, OnInterrupt, OnRevoke},
        line::Line,
        model::{AgentId, Class, Key, Mode, Phase},
        service::Removal,
    },
    platform::{
        blobs::{Blobs, Held},
        events::Actor,
    },
    testing::{engines, fresh, house, settle_agent},
};

const DAY: i64 = 86_400_000;

fn key(id: &str) -> Key {
    Key { kind: "test.thing".into(), id: id.into() }
}

fn agent() -> AgentId {
    "a".into()
}

fn document(mode: Mode, bytes: &[u8], blobs: &[&str]) -> Document {
    Document {
        mode,
        version: 1,
        bytes: bytes.into(),
        on_interrupt: OnInterrupt::Report,
        on_revoke: OnRevoke::Keep,
        start_by: 0,
        blobs: blobs.iter().map(|blob| (*blob).to_owned()).collect(),
        store_bytes: 100,
    }
}

async fn home(url: &str) -> Fleet {
    let fleet = house(&fresh(url).await, "r1").await;
    for id in ["a", "b"] {
        settle_agent(&fleet, id, Class::StagingHost, &[]).await;
    }
    fleet
}

/// Runs statements in one transaction after recording an event.
macro_rules! change {
    ($fleet:expr, |$tx:ident, $seq:ident| $act:expr) => {
        $fleet
            .db
            .write(|mut tx| async move {
                let $seq = tx.record(Actor::controller().change("test.changed", "test/x")).await?;
                let $tx = &mut tx;
                $act;
                tx.done($seq)
            })
            .await
    };
}

async fn put(fleet: &Fleet, id: &str, document: &Document) -> i64 {
    change!(fleet, |tx, seq| fleet.desired.put(tx, seq, &[agent()], &key(id), document).await?).expect("put")
}

async fn withdraw(fleet: &Fleet, id: &str) {
    change!(fleet, |tx, seq| fleet.desired.withdraw(tx, seq, &agent(), &key(id)).await?).expect("withdrawn");
}

async fn settle(fleet: &Fleet, id: &str) {
    change!(fleet, |tx, _seq| desired::settle(tx, &agent(), &key(id), Phase::Succeeded, false, "").await?)
        .expect("ended");
}

/// Which of these blobs agent `a` may fetch.
async fn granted(fleet: &Fleet, agent: &str, blobs: &[&str]) -> Vec<bool> {
    let mut conn = fleet.db.read().await.expect("a connection");
    let mut found = Vec::new();
    for blob in blobs {
        found.push(desired::is_granted(&mut conn, &agent.into(), blob).await.expect("read"));
    }
    found
}

async fn held(fleet: &Fleet, size: usize, fill: u8) -> Held {
    fleet.blobs.hold(Bytes::from(vec![fill; size])).await.expect("held")
}

async fn store(fleet: &Fleet, agent: &str, id: &str, held: &Held) -> Result<i64> {
    change!(fleet, |tx, _seq| desired::store(tx, &agent.into(), &key(id), held.clone()).await?)
}

async fn accept(fleet: &Fleet, id: &str, generation: i64) {
    let accepts = &[(agent(), key(id), generation)];
    change!(fleet, |tx, _seq| desired::accept(tx, accepts).await?).expect("accepted");
}

async fn kept(fleet: &Fleet, id: &str) -> usize {
    let mut conn = fleet.db.read().await.expect("a connection");
    Blobs::use_of(&mut conn, &desired::blob_owner(&agent(), &key(id))).await.expect("read").len()
}

#[tokio::test]
async fn an_agent_may_fetch_what_an_assignment_names_while_it_stands() {
    for url in engines() {
        let fleet = home(&url).await;
        let all = ["d1", "d2", "d3"];
        put(&fleet, "x", &document(Mode::Standing, b"one", &["d1", "d2", "d2"])).await;
        assert_eq!(granted(&fleet, "a", &all).await, [true, true, false]);
        assert_eq!(granted(&fleet, "b", &all).await, [false; 3], "of another agent");
        put(&fleet, "x", &document(Mode::Standing, b"two", &["d3"])).await;
        assert_eq!(granted(&fleet, "a", &all).await, [false, false, true]);
        withdraw(&fleet, "x").await;
        assert_eq!(granted(&fleet, "a", &all).await, [false; 3]);

        put(&fleet, "y", &document(Mode::Once, b"work", &["d1"])).await;
        put(&fleet, "y", &document(Mode::Once, b"other work", &["d2"])).await;
        assert_eq!(granted(&fleet, "a", &all).await, [true, false, false], "once work stays as it is");
        settle(&fleet, "y").await;
        assert_eq!(granted(&fleet, "a", &all).await, [false; 3], "it is over");
        for id in ["x", "y"] {
            change!(fleet, |tx, _seq| desired::forget(tx, &agent(), &key(id)).await?).expect("forgotten");
        }
        let left = sqlx::query("select 1 from fleet_blob_grant");
        let left = left.fetch_all(&mut *fleet.db.read().await.expect("a connection")).await;
        assert!(left.expect("read").is_empty());
    }
}

#[tokio::test]
async fn an_agent_may_store_what_an_accepted_assignment_allows_in_all() {
    for url in engines() {
        let fleet = home(&url).await;
        let (forty, sixty) = (held(&fleet, 40, 1).await, held(&fleet, 60, 2).await);
        let one = held(&fleet, 1, 3).await;
        let generation = put(&fleet, "x", &document(Mode::Once, b"work", &[])).await;
        let early = store(&fleet, "a", "x", &forty).await;
        assert!(matches!(&early, Err(Error::Conflict(why)) if why.contains("not accepted")), "{early:?}");
        accept(&fleet, "x", generation).await;
        let large = store(&fleet, "a", "x", &held(&fleet, 101, 4).await).await;
        assert!(matches!(&large, Err(Error::Forbidden(why)) if why.contains("100 bytes")), "{large:?}");
        for stored in [&forty, &sixty, &forty] {
            store(&fleet, "a", "x", stored).await.expect("stored; the same again takes no more");
        }
        let full = store(&fleet, "a", "x", &one).await;
        assert!(matches!(&full, Err(Error::Forbidden(why)) if why.contains("100 are taken")), "{full:?}");
        for (agent, id) in [("b", "x"), ("a", "y")] {
            let foreign = store(&fleet, agent, id, &one).await;
            assert!(matches!(&foreign, Err(Error::Forbidden(why)) if why.contains("not an assignment")), "{foreign:?}");
        }
        assert_eq!(kept(&fleet, "x").await, 2);
        change!(fleet, |tx, _seq| desired::forget(tx, &agent(), &key("x")).await?).expect("forgotten");
        assert_eq!(kept(&fleet, "x").await, 0);
    }
}

#[tokio::test]
async fn what_ended_stores_for_a_day_more_and_what_was_withdrawn_no_longer() {
    for url in engines() {
        let fleet = home(&url).await;
        for id in ["x", "y"] {
            let generation = put(&fleet, id, &document(Mode::Once, b"work", &[])).await;
            accept(&fleet, id, generation).await;
        }
        settle(&fleet, "x").await;
        fleet.db.clock().shift(DAY - 60_000);
        store(&fleet, "a", "x", &held(&fleet, 1, 1).await).await.expect("less than a day after its end");
        fleet.db.clock().shift(120_000);
        let late = store(&fleet, "a", "x", &held(&fleet, 1, 2).await).await;
        assert!(matches!(&late, Err(Error::Forbidden(why)) if why.contains("a day ago")), "{late:?}");

        store(&fleet, "a", "y", &held(&fleet, 1, 1).await).await.expect("while it runs");
        withdraw(&fleet, "y").await;
        let late = store(&fleet, "a", "y", &held(&fleet, 1, 2).await).await;
        assert!(matches!(&late, Err(Error::Forbidden(why)) if why.contains("withdrawn")), "{late:?}");

        let removal = Removal { agent: agent(), force: true };
        fleet.remove_agent(&Actor::controller(), &removal).await.expect("removed");
        assert_eq!((kept(&fleet, "x").await, kept(&fleet, "y").await), (0, 0));
    }
}

/// A transfer may stand still for so long here.
const STALL: Duration = Duration::from_millis(100);

fn line() -> Arc<Line> {
    Line::new(agent(), "l1".into(), String::new(), Arc::default()).into()
}

#[tokio::test]
async fn a_transfer_that_stands_still_is_ended_and_goes_on_where_it_stopped() {
    let fleet = home("sqlite:").await;
    let transfers = Transfers::standing(STALL);
    let large = &[held(&fleet, 1 << 20, 1).await];
    let digest = large[0].digest.clone();
    change!(fleet, |tx, _seq| Blobs::keep(tx, large, "test/a").await?).expect("kept");
    let mut conn = fleet.db.read().await.expect("a connection");
    let reader = fleet.blobs.reader(&mut conn, &digest, 0).await.expect("read").expect("there");
    let (send, mut receive) = mpsc::channel(1);
    let request = FetchRequest { digest: unhex(&digest).into(), offset: 0 };
    give(reader, request, line(), transfers.begin(&agent()).await.expect("a turn"), send).await;
    let head = receive.recv().await.expect("the head").expect("no fault");
    assert_eq!((head.size, head.data.len()), (1 << 20, 0));
    assert!(receive.recv().await.is_none(), "nobody took it, so no more was read");

    let mut incoming = fleet.blobs.receive("a", &digest, 1 << 20).await.expect("begun");
    let slot = transfers.begin(&agent()).await.expect("a turn");
    let first = Chunk { data: vec![1; 1000].into(), ..Chunk::default() };
    let stood = take(&mut futures::stream::pending(), first, &line(), &slot, &mut incoming).await;
    assert_eq!(stood.expect_err("ended").code(), Code::DeadlineExceeded);
    drop(incoming);
    assert_eq!(fleet.blobs.receive("a", &digest, 1 << 20).await.expect("begun").there(), 1000);
}

#[tokio::test]
async fn a_transfer_ends_with_the_stream_it_runs_beside() {
    let fleet = home("sqlite:").await;
    let (transfers, line) = (Transfers::default(), line());
    let mut incoming = fleet.blobs.receive("a", &"ab".repeat(32), 1 << 20).await.expect("begun");
    line.abandon();
    let slot = transfers.begin(&agent()).await.expect("a turn");
    let ended = take(&mut futures::stream::pending(), Chunk::default(), &line, &slot, &mut incoming).await;
    assert_eq!(ended.expect_err("ended").code(), Code::Aborted);
}

#[tokio::test]
async fn few_transfers_run_at_once_and_the_others_wait_for_their_turn() {
    let transfers = Transfers::standing(STALL);
    let mut running = Vec::new();
    for n in 0..32 {
        running.push(transfers.begin(&format!("agent-{}", n / 4).as_str().into()).await.expect("a turn"));
    }
    let busy = |begun: Result<_>| matches!(begun, Err(Error::Busy { .. }));
    let began = std::time::Instant::now();
    assert!(busy(transfers.begin(&"agent-0".into()).await.map(drop)), "it has four already");
    assert!(began.elapsed() < STALL, "and is told so at once");
    assert!(busy(transfers.begin(&"agent-9".into()).await.map(drop)), "all places are taken");
    let next = tokio::spawn({
        let transfers = transfers.clone();
        async move { transfers.begin(&"agent-9".into()).await.map(drop) }
    });
    running.pop();
    next.await.expect("no panic").expect("a turn");
    transfers.begin(&"agent-7".into()).await.expect("its place is free again");
}
