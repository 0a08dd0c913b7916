use std::{fs::File, time::SystemTime};

use super::*;
use crate::testing::{blobs, engines, fresh};

const DAY: u64 = 86_400;

/// Bytes that differ from one position to the next.
fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| (n * 31 % 251) as u8).collect::<Vec<_>>().into()
}

async fn hold(blobs: &Blobs, bytes: &Bytes) -> Held {
    blobs.hold(bytes.clone()).await.expect("held")
}

async fn keep(db: &Db, held: &[Held], owner: &str) {
    db.write(|mut tx| async move {
        Blobs::keep(&mut tx, held, owner).await?;
        tx.done(())
    })
    .await
    .expect("kept");
}

async fn forget(db: &Db, owner: &str) {
    db.write(|mut tx| async move {
        Blobs::forget(&mut tx, owner).await?;
        tx.done(())
    })
    .await
    .expect("forgotten");
}

async fn read(blobs: &Blobs, db: &Db, digest: &str) -> Result<Option<Bytes>> {
    blobs.read(&mut db.read().await.expect("a connection"), digest).await
}

/// What is given from an offset on, and how many pieces it came in.
async fn read_from(blobs: &Blobs, db: &Db, digest: &str, from: i64) -> (Vec<u8>, usize) {
    let reader = blobs.reader(&mut db.read().await.expect("a connection"), digest, from).await.expect("read");
    let (mut reader, mut all, mut pieces) = (reader.expect("it is there"), Vec::new(), 0);
    while let Some(piece) = reader.next().await.expect("read") {
        assert!(piece.len() <= PIECE);
        all.extend_from_slice(&piece);
        pieces += 1;
    }
    (all, pieces)
}

/// Makes a blob's file as old as that.
fn age(blobs: &Blobs, digest: &str, days: u64) {
    let file = File::options().write(true).open(blobs.folder.path(digest)).expect("its file");
    file.set_modified(SystemTime::now() - Duration::from_secs(days * DAY)).expect("aged");
}

#[tokio::test]
async fn blobs_of_every_size_are_read_as_they_were_kept() {
    for url in engines() {
        let (db, blobs) = (fresh(&url).await, blobs());
        let sizes = [0, 1, SMALL, SMALL + 1, PIECE, 3 * PIECE + 7];
        let mut held = Vec::new();
        for size in sizes {
            held.push(hold(&blobs, &bytes(size)).await);
        }
        keep(&db, &held, "test/a").await;
        keep(&db, &held[..2], "test/a").await;
        for (one, size) in held.iter().zip(sizes) {
            assert_eq!(blobs.folder.path(&one.digest).exists(), size > SMALL, "{size}");
            assert_eq!(read(&blobs, &db, &one.digest).await.expect("read"), Some(bytes(size)), "{size}");
        }
        let digests: Vec<_> = held.iter().map(|one| one.digest.clone()).chain(["00".repeat(32)]).collect();
        let all = blobs.read_many(&mut db.read().await.expect("a connection"), &digests).await.expect("read");
        assert_eq!(all.values().map(Bytes::len).collect::<BTreeSet<_>>(), BTreeSet::from(sizes));
        let used = Blobs::use_of(&mut db.read().await.expect("a connection"), "test/a").await.expect("read");
        assert_eq!(used.values().sum::<i64>(), sizes.iter().sum::<usize>() as i64);

        let (large, whole) = (&held[5].digest, bytes(3 * PIECE + 7));
        for from in [0, 1, PIECE - 1, PIECE, 2 * PIECE + 100, whole.len()] {
            let (given, pieces) = read_from(&blobs, &db, large, from as i64).await;
            assert!(given == whole[from..], "from {from}");
            assert!(pieces <= 5, "from {from}: {pieces}");
        }
        assert_eq!(read_from(&blobs, &db, &held[2].digest, 5).await.0, bytes(SMALL)[5..]);
    }
}

#[tokio::test]
async fn a_blob_is_kept_for_as_long_as_anybody_needs_it_and_a_day_more() {
    for url in engines() {
        let (db, blobs) = (fresh(&url).await, blobs());
        let (small, large) = (hold(&blobs, &bytes(9)).await, hold(&blobs, &bytes(SMALL * 2)).await);
        let both = [small.digest.clone(), large.digest.clone()];
        keep(&db, &[small, large], "test/a").await;
        db.write(|mut tx| {
            let both = &both;
            async move {
                Blobs::keep_also(&mut tx, both, "test/b").await?;
                tx.done(())
            }
        })
        .await
        .expect("kept");
        let is_there = || async {
            let mut there = 0;
            for digest in &both {
                there += usize::from(read(&blobs, &db, digest).await.expect("read").is_some());
            }
            there
        };
        forget(&db, "test/a").await;
        age(&blobs, &both[1], 3);
        db.clock().shift(2 * DAY as i64 * 1000);
        assert_eq!(blobs.drop_orphans(&db).await.expect("dropped"), 0);
        assert_eq!(is_there().await, 2, "one owner is left");

        db.write(|mut tx| async move {
            Blobs::forget_all(&mut tx, "test/").await?;
            tx.done(())
        })
        .await
        .expect("forgotten");
        db.clock().shift(-2 * DAY as i64 * 1000);
        assert_eq!(blobs.drop_orphans(&db).await.expect("dropped"), 0, "it was wanted less than a day ago");
        db.clock().shift(2 * DAY as i64 * 1000);
        assert_eq!(blobs.drop_orphans(&db).await.expect("dropped"), 2);
        assert_eq!(is_there().await, 0);
        assert!(!blobs.folder.path(&both[1]).exists());
    }
}

#[tokio::test]
async fn what_is_not_there_cannot_be_kept_for_another_owner() {
    for url in engines() {
        let db = fresh(&url).await;
        let missing = ["ab".repeat(32)];
        let refused = db
            .write(|mut tx| {
                let missing = &missing;
                async move {
                    Blobs::keep_also(&mut tx, missing, "test/b").await?;
                    tx.done(())
                }
            })
            .await;
        assert!(matches!(&refused, Err(Error::NotFound { name, .. }) if *name == missing[0]), "{refused:?}");
    }
}

#[tokio::test]
async fn files_without_a_row_go_unless_somebody_relies_on_them_again() {
    let (db, blobs) = (fresh("sqlite:").await, blobs());
    let (left, wanted) = (hold(&blobs, &bytes(SMALL + 1)).await, hold(&blobs, &bytes(SMALL + 2)).await);
    let part = blobs.folder.part("left");
    std::fs::write(&part, "half").expect("written");
    blobs.drop_orphans(&db).await.expect("dropped");
    assert!(part.exists() && blobs.folder.path(&left.digest).exists(), "all are young");

    for digest in [&left.digest, &wanted.digest] {
        age(&blobs, digest, 2);
    }
    let old = File::options().write(true).open(&part).expect("there");
    old.set_modified(SystemTime::now() - Duration::from_secs(2 * DAY)).expect("aged");
    let again = hold(&blobs, &bytes(SMALL + 2)).await;
    blobs.drop_orphans(&db).await.expect("dropped");
    assert!(!part.exists() && !blobs.folder.path(&left.digest).exists());
    keep(&db, &[again], "test/a").await;
    assert_eq!(read(&blobs, &db, &wanted.digest).await.expect("read"), Some(bytes(SMALL + 2)));
}

#[tokio::test]
async fn a_damaged_or_missing_blob_is_named_and_never_given() {
    for url in engines() {
        let (db, blobs) = (fresh(&url).await, blobs());
        let (small, large) = (hold(&blobs, &bytes(5)).await, hold(&blobs, &bytes(PIECE + SMALL)).await);
        let (small_digest, digest) = (small.digest.clone(), large.digest.clone());
        keep(&db, &[small, large], "test/a").await;
        let fault = |read: Result<Option<Bytes>>, digest: &str| match read {
            Err(Error::Internal(cause)) => {
                let damaged = cause.downcast::<Damaged>().expect("said to be damaged");
                assert_eq!(damaged.digest, digest);
                damaged.why
            }
            other => panic!("{other:?}"),
        };
        let path = blobs.folder.path(&digest);
        let mut bad = bytes(PIECE + SMALL).to_vec();
        bad[PIECE + 3] ^= 1;
        std::fs::write(&path, &bad).expect("damaged");
        assert!(fault(read(&blobs, &db, &digest).await, &digest).contains("other bytes"));
        let mut reader =
            blobs.reader(&mut db.read().await.expect("a connection"), &digest, 0).await.expect("read").expect("there");
        assert!(reader.next().await.expect("a first piece").is_some());
        assert!(reader.next().await.is_err(), "the last piece is not given");
        std::fs::write(&path, &bad[..PIECE]).expect("cut off");
        assert!(fault(read(&blobs, &db, &digest).await, &digest).contains("cannot be read"));
        std::fs::remove_file(&path).expect("removed");
        assert!(fault(read(&blobs, &db, &digest).await, &digest).contains("missing"));

        // Whoever has the bytes mends it.
        hold(&blobs, &bytes(PIECE + SMALL)).await;
        assert!(read(&blobs, &db, &digest).await.expect("read").is_some());

        let row = sqlx::query("update platform_blob set bytes = $1 where digest = $2");
        let row = row.bind(vec![9_u8; 5]).bind(small_digest.clone());
        row.execute(&mut *db.read().await.expect("a connection")).await.expect("damaged");
        assert!(fault(read(&blobs, &db, &small_digest).await, &small_digest).contains("row"));
    }
}

#[tokio::test]
async fn a_blob_that_arrives_in_pieces_goes_on_where_it_stopped() {
    let (db, blobs) = (fresh("sqlite:").await, blobs());
    let whole = bytes(2 * PIECE);
    let (digest, size) = (hex(&sha256(&whole)), whole.len() as i64);
    let mut first = blobs.receive("a", &digest, size).await.expect("begun");
    first.append(whole.slice(..PIECE)).await.expect("written");
    let busy = blobs.receive("a", &digest, size).await;
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    assert_eq!(blobs.receive("b", &digest, size).await.expect("begun").there(), 0, "of another sender");
    drop(first);
    let mut second = blobs.receive("a", &digest, size).await.expect("begun");
    assert_eq!(second.there(), PIECE as i64);
    let more = second.append(whole.slice(PIECE - 1..)).await;
    assert!(matches!(more, Err(Error::Invalid { .. })), "{more:?}");
    second.append(whole.slice(PIECE..)).await.expect("written");
    assert!(second.is_whole());
    let held = second.finish().await.expect("durable").expect("its digest is right");
    assert!(!blobs.folder.part(&hex(&sha256(format!("a\0{digest}").as_bytes()))).exists());
    keep(&db, &[held], "test/a").await;
    assert_eq!(read(&blobs, &db, &digest).await.expect("read"), Some(whole));
}

#[tokio::test]
async fn of_a_blob_with_another_digest_nothing_stays() {
    for size in [10, SMALL * 3] {
        let blobs = blobs();
        let digest = "ab".repeat(32);
        let mut it = blobs.receive("a", &digest, size as i64).await.expect("begun");
        it.append(bytes(size)).await.expect("written");
        assert!(it.finish().await.expect("looked at").is_none());
        assert_eq!(blobs.receive("a", &digest, size as i64).await.expect("begun").there(), 0);
        assert!(!blobs.folder.path(&digest).exists());
    }
}

#[tokio::test]
async fn where_nothing_can_be_written_nothing_half_stays() {
    let blobs = blobs();
    let whole = bytes(SMALL * 3);
    let digest = hex(&sha256(&whole));
    let part = blobs.folder.part(&hex(&sha256(format!("a\0{digest}").as_bytes())));
    std::os::unix::fs::symlink("/dev/full", &part).expect("a disk that is full");
    let mut it = blobs.receive("a", &digest, whole.len() as i64).await.expect("begun");
    let full = it.append(whole.clone()).await;
    assert!(matches!(full, Err(Error::Internal(_))), "{full:?}");
    drop(it);
    let mut it = blobs.receive("a", &digest, whole.len() as i64).await.expect("begun again");
    assert_eq!(it.there(), 0);
    it.append(whole).await.expect("there is room again");
    assert!(it.finish().await.expect("durable").is_some());
}

#[tokio::test]
async fn a_thousand_small_blobs_are_kept_in_a_few_statements() {
    for url in engines() {
        let (db, blobs) = (fresh(&url).await, blobs());
        let mut held = Vec::new();
        for n in 0..1000_u32 {
            held.push(hold(&blobs, &Bytes::copy_from_slice(&n.to_be_bytes())).await);
        }
        let begun = std::time::Instant::now();
        keep(&db, &held, "test/many").await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let used = Blobs::use_of(&mut db.read().await.expect("a connection"), "test/many").await.expect("read");
        assert_eq!(used.len(), 1000);
    }
}
