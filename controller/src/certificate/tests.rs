use std::sync::Arc;

use muster_pki::{ca::Sign, key::Key, leaf, seal::SealKey};

use super::{
    RouterLeaf,
    model::{ISSUING_LIFE, Lives, should_renew_listener, should_renew_tickets},
    service::Certificates,
    store,
};
use crate::{
    error::{Error, Result},
    platform::{
        db::{Db, Done, Tx},
        events::Actor,
    },
    testing::{engines, fresh},
};

async fn open(db: &Db, seal: &Arc<SealKey>) -> Certificates {
    Certificates::open(db.clone(), seal.clone(), "muster.test", Lives::default()).await.expect("the house opens")
}

fn seal() -> Arc<SealKey> {
    SealKey::new(&SealKey::generate()).into()
}

#[tokio::test]
async fn a_house_is_founded_once_and_found_again() {
    for url in engines() {
        let (db, seal) = (fresh(&url).await, seal());
        let first = open(&db, &seal).await;
        let again = open(&db, &seal).await;
        assert_eq!(first.house().authority_id, again.house().authority_id);
        assert_eq!(first.house().root_sha256, again.house().root_sha256);
    }
}

#[tokio::test]
async fn another_seal_key_opens_nothing_and_says_so() {
    let db = fresh("sqlite:").await;
    open(&db, &seal()).await;
    let refused = Certificates::open(db, seal(), "muster.test", Lives::default()).await.expect_err("refused");
    assert!(matches!(&refused, Error::Conflict(text) if text.contains("seal key")), "{refused}");
}

#[tokio::test]
async fn an_issuing_authority_is_replaced_while_leaves_live_on() {
    for url in engines() {
        let (db, seal) = (fresh(&url).await, seal());
        let certificates = open(&db, &seal).await;
        let old = certificates.house().subject_key.clone();
        assert!(!certificates.rotate("r", false).await.expect("runs"), "nothing is due");
        db.clock().shift(ISSUING_LIFE * 2 / 3 + 1000);
        assert!(certificates.rotate("r", false).await.expect("prepares"));
        assert_eq!(certificates.house().subject_key, old, "a prepared authority signs nothing");
        assert!(certificates.rotate("r", false).await.expect("activates"));
        assert_ne!(certificates.house().subject_key, old);
        assert_eq!(certificates.house().former, [old]);
        db.clock().shift(Lives::default().agent + Lives::default().grace + 1000);
        assert!(certificates.rotate("r", false).await.expect("retires"));
        assert!(certificates.house().former.is_empty());
    }
}

#[tokio::test]
async fn a_newer_leaf_that_is_used_supersedes_the_older() {
    for url in engines() {
        let (db, seal) = (fresh(&url).await, seal());
        let certificates = open(&db, &seal).await;
        let issue = async || {
            db.clock().shift(1000);
            let request = Key::generate().expect("a key").request().expect("a request");
            let chain = db
                .write(|mut tx| {
                    let (certificates, request) = (&certificates, &request);
                    async move {
                        let chain = certificates.issue_agent(&mut tx, request, "a1").await?;
                        tx.done(chain)
                    }
                })
                .await
                .expect("issued");
            assert_eq!(chain.len(), 2, "the root is not part of what an agent shows");
            leaf::read(&chain[0]).expect("reads").serial
        };
        let (first, second) = (issue().await, issue().await);
        let used = second.clone();
        db.write(|mut tx| {
            let used = used.clone();
            async move {
                store::save_used(&mut tx, &[used], 5).await?;
                tx.done(())
            }
        })
        .await
        .expect("marked");
        let rows = store::leaves(&mut db.read().await.expect("a connection"), "agent/a1", 10).await.expect("listed");
        let row = |serial: &str| rows.iter().find(|r| r.serial == serial).expect("is there");
        assert_eq!((row(&second).used_at, row(&second).superseded_at), (Some(5), None));
        assert_eq!((row(&first).used_at, row(&first).superseded_at), (None, Some(5)));
        db.write(|mut tx| {
            let certificates = &certificates;
            async move {
                certificates.revoke_agent(&mut tx, "a1").await?;
                tx.done(())
            }
        })
        .await
        .expect("revoked");
        let list = certificates.revocation_list().await.expect("a list");
        assert!(!list.is_empty());
        assert_eq!(certificates.house().authority.chain().len(), 2);
    }
}

#[test]
fn listeners_and_tickets_are_renewed_in_time() {
    assert!(!should_renew_listener(90 * 86_400_000, true, 0));
    assert!(should_renew_listener(90 * 86_400_000, true, 61 * 86_400_000));
    assert!(should_renew_listener(90 * 86_400_000, false, 0));
    assert!(should_renew_tickets(None, 0));
    assert!(!should_renew_tickets(Some(0), 1000));
}

#[tokio::test]
async fn a_line_signs_for_routers_and_nobody_else_believes_it() {
    for url in engines() {
        let (db, seal) = (fresh(&url).await, seal());
        let certificates = open(&db, &seal).await;
        let request = Key::generate().expect("a key").request().expect("a request");
        let it = RouterLeaf { line: "network/n1", subject: "member/m1/tls", common_name: "m1", names: &[] };
        let (certificates, request) = (&certificates, &request);
        let issue = || async move {
            db_write(certificates, |mut tx| async move {
                let chain = certificates.issue_router(&mut tx, request, it).await?;
                tx.done(chain)
            })
            .await
        };
        assert!(issue().await.is_err(), "a line without an authority signs nothing");
        let prepare = || async move {
            db_write(certificates, |mut tx| async move {
                certificates.prepare_line(&mut tx, &Actor::controller(), "network/n1", "sales").await?;
                tx.done(())
            })
            .await
        };
        prepare().await.expect("founded");
        let first = issue().await.expect("signed");
        assert_eq!(issue().await.expect("signed again"), first, "the same key gets the same leaf");
        prepare().await.expect("prepared");
        assert!(prepare().await.is_err(), "one is prepared already");
        assert_eq!(issue().await.expect("signed"), first, "a prepared authority signs nothing");
        let advance = |wholly: Option<bool>| async move {
            db_write(certificates, |mut tx| async move {
                match wholly {
                    None => certificates.activate_prepared(&mut tx, "network/n1").await?,
                    Some(wholly) => certificates.retire_line(&mut tx, "network/n1", wholly).await?,
                }
                tx.done(())
            })
            .await
        };
        let trusted = || async move {
            let mut conn = certificates.db.read().await.expect("a connection");
            let line = "network/n1".to_owned();
            let mut trusted = certificates.trusted(&mut conn, std::slice::from_ref(&line)).await.expect("read");
            trusted.remove(&line).unwrap_or_default()
        };
        assert_eq!(trusted().await.len(), 2, "both are trusted before either signs");
        advance(None).await.expect("activated");
        let second = issue().await.expect("signed by the next one");
        assert_ne!(second[1], first[1]);
        assert_eq!(trusted().await, [first[1].clone(), second[1].clone()]);
        advance(Some(false)).await.expect("the former one is retired");
        assert_eq!(trusted().await, [second[1].clone()]);
        advance(Some(true)).await.expect("the line is closed");
        assert!(trusted().await.is_empty());
        assert_eq!(certificates.house().roots.len(), 1, "the house trusts its own root alone");
    }
}

async fn db_write<T, Fut>(certificates: &Certificates, act: impl FnMut(Tx) -> Fut) -> Result<T>
where
    Fut: Future<Output = Result<Done<T>>>,
{
    certificates.db.write(act).await
}
