use std::time::Duration;

use super::{
    clock::Clock,
    db::{Db, Engine},
    events::{self, Actor, Filter},
    id,
    jobs::{self, NewJob, Next},
    lease, setting,
    wake::{Wake, spell},
};
use crate::{
    error::Error,
    testing::{engines, fresh},
};

#[test]
fn ids_sort_by_the_time_they_were_made() {
    let early = id::new(1_000, [255; 10]);
    let late = id::new(1_001, [0; 10]);
    assert_eq!(early.len(), 26);
    assert!(early < late);
}

#[test]
fn values_are_numbered_through_and_cast() {
    let values = |engine: Engine| engine.values(&["", "bigint"], 2);
    assert_eq!(values(Engine::Postgres), "($1, cast($2 as bigint)), ($3, cast($4 as bigint))");
    assert_eq!(values(Engine::Sqlite), "(?, cast(? as bigint)), (?, cast(? as bigint))");
}

#[tokio::test]
async fn a_migrated_database_migrates_again_to_nothing() {
    for url in engines() {
        let db = fresh(&url).await;
        db.migrate().await.expect("a second run changes nothing");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_controller_is_refused() {
    for url in engines() {
        let db = fresh(&url).await;
        db.write(|mut tx| async move {
            sqlx::query("update schema_guard set oldest = '99.0.0'").execute(&mut *tx).await?;
            tx.done(())
        })
        .await
        .expect("the guard is raised");
        let refused = db.migrate().await.expect_err("refused");
        assert!(matches!(&refused, Error::Conflict(text) if text.contains("99.0.0")), "{refused}");
    }
}

#[tokio::test]
async fn a_closure_that_fails_leaves_nothing() {
    for url in engines() {
        let db = fresh(&url).await;
        let failed = db
            .write(|mut tx| async move {
                setting::save(&mut tx, "x", "1").await?;
                if true {
                    return Err(Error::Conflict("no".into()));
                }
                tx.done(())
            })
            .await;
        assert!(failed.is_err());
        assert_eq!(setting::fetch(&mut db.read().await.expect("a connection"), "x").await.expect("reads"), None);
    }
}

#[tokio::test]
async fn concurrent_increments_are_all_counted() {
    for url in engines() {
        let db = fresh(&url).await;
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move {
                    db.write(|mut tx| async move {
                        tx.record(Actor::controller().change("test.counted", "test/x")).await?;
                        tx.done(())
                    })
                    .await
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic").expect("written");
        }
        assert_eq!(events::head(&mut db.read().await.expect("a connection")).await.expect("a head"), 40);
    }
}

#[tokio::test]
async fn events_are_sealed_in_a_chain_and_a_changed_one_is_found() {
    for url in engines() {
        let db = fresh(&url).await;
        let record = async |subject: &'static str| {
            db.write(|mut tx| async move {
                tx.record(Actor::controller().change("test.done", subject).after(serde_json::json!({"n": 1}))).await?;
                tx.done(())
            })
            .await
            .expect("recorded");
        };
        record("test/a").await;
        record("test/b").await;
        assert_eq!(events::seal(&db).await.expect("sealed"), 2);
        record("other/c").await;
        assert_eq!(events::seal(&db).await.expect("sealed"), 1);
        assert_eq!(events::seal(&db).await.expect("sealed"), 0);
        let mut conn = db.read().await.expect("a connection");
        let found = events::verify(&mut conn).await.expect("verified");
        assert_eq!((found.checked, found.sealed_up_to, found.fault), (2, 3, None));
        let below = Filter { subject: Some("test".into()), ..Filter::default() };
        assert_eq!(events::list(&mut conn, &below, 10).await.expect("listed").len(), 2);
        drop(conn);
        db.write(|mut tx| async move {
            sqlx::query("update event set actor = 'user/mallory' where seq = 2").execute(&mut *tx).await?;
            tx.done(())
        })
        .await
        .expect("tampered");
        let mut conn = db.read().await.expect("a connection");
        assert!(events::verify(&mut conn).await.expect("verified").fault.is_some());
    }
}

#[tokio::test]
async fn retention_drops_whole_sealed_ranges_and_the_chain_stays_whole() {
    for url in engines() {
        let db = fresh(&url).await;
        for _ in 0..3 {
            db.write(|mut tx| async move {
                tx.record(Actor::controller().change("test.done", "test/a")).await?;
                tx.done(())
            })
            .await
            .expect("recorded");
            events::seal(&db).await.expect("sealed");
        }
        assert_eq!(events::drop_old(&db, db.clock().now() + 1000).await.expect("dropped"), 3);
        let found = events::verify(&mut db.read().await.expect("a connection")).await.expect("verified");
        assert_eq!((found.checked, found.dropped, found.fault), (0, 3, None));
    }
}

fn job(dedupe: &str) -> NewJob {
    NewJob { kind: "test", dedupe: dedupe.into(), payload: "p".into(), run_at: 0 }
}

async fn enqueue(db: &Db, job: NewJob) -> bool {
    db.write(|mut tx| {
        let job = job.clone();
        async move {
            let added = jobs::enqueue(&mut tx, job).await?;
            tx.done(added)
        }
    })
    .await
    .expect("enqueued")
}

#[tokio::test]
async fn a_job_is_claimed_once_and_its_end_is_fenced() {
    for url in engines() {
        let db = fresh(&url).await;
        assert!(enqueue(&db, job("a")).await);
        assert!(!enqueue(&db, job("a")).await, "one with its key waits already");
        let first = jobs::claim(&db, "r1", &["test"]).await.expect("claims").expect("a job");
        assert!(jobs::claim(&db, "r2", &["test"]).await.expect("claims").is_none(), "it is held");
        db.write(|mut tx| async move {
            sqlx::query("update job set until = 0").execute(&mut *tx).await?;
            tx.done(())
        })
        .await
        .expect("the lease runs out");
        let second = jobs::claim(&db, "r2", &["test"]).await.expect("claims").expect("the job again");
        assert_eq!(second.attempts, 2);
        assert!(!jobs::finish(&db, &first, &Next::Done).await.expect("runs"), "the first holder is fenced off");
        assert!(jobs::finish(&db, &second, &Next::Retry("why".into())).await.expect("runs"));
        assert!(jobs::claim(&db, "r2", &["test"]).await.expect("claims").is_none(), "the next try lies ahead");
        db.clock().shift(10_000);
        let third = jobs::claim(&db, "r2", &["test"]).await.expect("claims").expect("the job again");
        assert!(jobs::finish(&db, &third, &Next::Fail("bad".into())).await.expect("runs"));
        assert!(enqueue(&db, job("a")).await, "a failed one does not stand in the way");
    }
}

#[tokio::test]
async fn a_lease_has_one_holder_and_counts_them() {
    for url in engines() {
        let db = fresh(&url).await;
        let long = Duration::from_secs(60);
        assert_eq!(lease::hold(&db, "plan", "a", long).await.expect("runs"), Some(1));
        assert_eq!(lease::hold(&db, "plan", "b", long).await.expect("runs"), None);
        assert_eq!(lease::hold(&db, "plan", "a", long).await.expect("runs"), Some(1), "kept");
        lease::release(&db, "a").await.expect("released");
        assert_eq!(lease::hold(&db, "plan", "b", long).await.expect("runs"), Some(2));
    }
}

#[test]
fn a_commit_wakes_followers_with_the_newest_number_only() {
    let wake = Wake::default();
    let head = wake.head();
    wake.committed(Some(5), &[]);
    wake.committed(Some(3), &[]);
    assert_eq!(*head.borrow(), 5);
}

#[tokio::test]
async fn an_unknown_database_url_is_refused() {
    let refused = Db::open("mysql://x", Wake::default(), Clock::default()).await.expect_err("refused");
    assert!(refused.to_string().contains("sqlite: or postgres:"), "{refused}");
    assert_eq!(fresh(&engines()[0]).await.engine(), Engine::Sqlite);
}

#[tokio::test]
async fn other_replicas_are_told_which_loops_to_wake() {
    use futures::FutureExt;
    let wake = Wake::default();
    let (staging, jobs) = (wake.listen(&["staging", "agents"]), wake.listen(&["jobs"]));
    let woken = || (staging.woken().now_or_never().is_some(), jobs.woken().now_or_never().is_some());
    assert_eq!(spell(None, &[]), None);
    let news = spell(Some(7), &["agents".into()]).expect("news");
    assert_eq!(news, "7 agents");
    wake.committed_elsewhere(&news);
    assert_eq!((woken(), *wake.head().borrow()), ((true, false), 7));
    let too_long = spell(None, &["x".repeat(5000)]).expect("news");
    assert_eq!(too_long, "0", "whoever is told no topic looks at everything");
    wake.committed_elsewhere(&too_long);
    assert_eq!(woken(), (true, true));
}
