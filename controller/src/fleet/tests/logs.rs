use crate::{
    fleet::{
        logs::{self, LogKey, Piece, Place, beyond},
        model::Key,
    },
    platform::db::Db,
    testing::{engines, fresh},
    web::{Paging, paging::PagingQuery},
};

const MIB: i64 = 1 << 20;

fn log() -> LogKey {
    LogKey { key: Key { kind: "test.work".into(), id: "a".into() }, attempt: 1, stream: "stdout" }
}

async fn append(db: &Db, log: &LogKey, offset: i64, data: &[u8]) -> i64 {
    db.write(|mut tx| async move {
        let end = logs::append(&mut tx, log, offset, data).await?;
        tx.done(end)
    })
    .await
    .expect("appended")
}

async fn read(db: &Db) -> Vec<Piece> {
    let raw = logs::read(&mut db.read().await.expect("a connection"), &log().key, "", &Place::default(), 1000)
        .await
        .expect("read");
    let mut decoder = logs::Decoder::default();
    raw.into_iter().filter_map(|piece| decoder.decode(piece)).collect()
}

fn spans(pieces: &[Piece]) -> Vec<(i64, i64, Option<&str>)> {
    pieces.iter().map(|p| (p.begins, p.ends, p.text.as_deref())).collect()
}

#[test]
fn only_what_lies_beyond_the_stored_end_is_new() {
    assert_eq!(beyond(0, 0, 5), Some((0, 0, false)));
    assert_eq!(beyond(5, 5, 3), Some((5, 0, false)));
    assert_eq!(beyond(5, 3, 4), Some((5, 2, false)), "an overlap is skipped");
    assert_eq!(beyond(5, 0, 5), None, "a repetition is nothing");
    assert_eq!(beyond(5, 2, 1), None);
    assert_eq!(beyond(5, 9, 2), Some((9, 0, true)), "what is missing is marked");
}

#[test]
fn a_piece_without_bytes_or_beyond_all_numbers_is_nothing() {
    assert_eq!(beyond(0, 0, 0), None);
    assert_eq!(beyond(5, 9, 0), None);
    assert_eq!(beyond(5, i64::MAX, 2), None);
}

#[tokio::test]
async fn repeated_and_overlapping_pieces_are_stored_once() {
    for url in engines() {
        let db = fresh(&url).await;
        assert_eq!(append(&db, &log(), 0, b"hello").await, 5);
        assert_eq!(append(&db, &log(), 0, b"hello").await, 5);
        assert_eq!(append(&db, &log(), 3, b"lo world").await, 11);
        assert_eq!(append(&db, &log(), 20, b"").await, 11, "no bytes, no gap");
        assert_eq!(spans(&read(&db).await), [(0, 5, Some("hello")), (5, 11, Some(" world"))]);
    }
}

#[tokio::test]
async fn what_never_came_is_marked_as_a_gap() {
    for url in engines() {
        let db = fresh(&url).await;
        append(&db, &log(), 0, b"ab").await;
        assert_eq!(append(&db, &log(), 10, b"yz").await, 12);
        assert_eq!(spans(&read(&db).await), [(0, 2, Some("ab")), (2, 10, None), (10, 12, Some("yz"))]);
    }
}

#[tokio::test]
async fn streams_and_attempts_are_kept_apart_and_bytes_that_are_no_text_are_shown() {
    for url in engines() {
        let db = fresh(&url).await;
        append(&db, &log(), 0, b"out\0").await;
        append(&db, &LogKey { stream: "stderr", ..log() }, 0, b"\xff\xfe").await;
        append(&db, &LogKey { attempt: 2, ..log() }, 0, b"again").await;
        let pieces = read(&db).await;
        let text = |attempt, stream: &str| {
            let piece = pieces.iter().find(|p| p.attempt == attempt && p.stream == stream).expect("is there");
            piece.text.clone().expect("has text")
        };
        assert_eq!(text(1, "stdout"), "out\0");
        assert_eq!(text(1, "stderr"), "\u{fffd}\u{fffd}");
        assert_eq!(text(2, "stdout"), "again");
        db.write(|mut tx| async move {
            logs::forget(&mut tx, &log().key).await?;
            tx.done(())
        })
        .await
        .expect("forgotten");
        assert!(read(&db).await.is_empty());
    }
}

#[tokio::test]
async fn of_a_long_stream_head_and_tail_remain_around_one_gap() {
    for url in engines() {
        let db = fresh(&url).await;
        let piece = vec![b'x'; MIB as usize];
        for n in 0..25 {
            assert_eq!(append(&db, &log(), n * MIB, &piece).await, (n + 1) * MIB);
        }
        let pieces = read(&db).await;
        let kept: i64 = pieces.iter().filter(|p| p.text.is_some()).map(|p| p.ends - p.begins).sum();
        assert!((10 * MIB..=11 * MIB).contains(&kept), "{kept} bytes are kept");
        let gaps: Vec<_> = pieces.iter().filter(|p| p.text.is_none()).map(|p| (p.begins, p.ends)).collect();
        assert_eq!(gaps, [(5 * MIB, 20 * MIB)]);
        let mut ends: Vec<_> = pieces.iter().map(|p| (p.begins, p.ends)).collect();
        ends.sort_unstable();
        assert!(ends.windows(2).all(|w| w[0].1 == w[1].0), "no byte is unaccounted for: {ends:?}");
        assert_eq!((ends[0].0, ends[ends.len() - 1].1), (0, 25 * MIB));
    }
}

#[tokio::test]
async fn a_long_output_is_read_in_pages_that_lose_no_byte_and_cut_no_character() {
    for url in engines() {
        let db = fresh(&url).await;
        // Pieces of an odd length cut the two bytes of this character again and again.
        let text = "é".repeat(3 * MIB as usize / 2);
        let (mut offset, mut conn) = (0, db.read().await.expect("a connection"));
        for piece in text.as_bytes().chunks(65_535) {
            offset = append(&db, &log(), offset, piece).await;
        }
        append(&db, &LogKey { stream: "stderr", ..log() }, 0, "ü".as_bytes()).await;
        let (mut told, mut pages, mut after) = (String::new(), 0, String::new());
        loop {
            let paging = Paging { after: after.clone(), limit: 500 };
            let page = logs::page(&mut conn, &log().key, "stdout", &paging).await.expect("a page");
            let size: usize = page.items.iter().filter_map(|p| p.text.as_ref()).map(String::len).sum();
            assert!(size <= MIB as usize + 65_536, "{size}");
            told.extend(page.items.into_iter().filter_map(|p| p.text));
            pages += 1;
            let Some(next) = page.next else { break };
            after = Paging::try_from(PagingQuery { cursor: Some(next), limit: None }).expect("a cursor").after;
        }
        assert!(told == text && pages == 3, "{} of {} bytes in {pages} pages", told.len(), text.len());
    }
}

#[tokio::test]
async fn the_tail_of_an_output_says_whether_something_came_before() {
    for url in engines() {
        let db = fresh(&url).await;
        for (offset, piece) in [(0, b"first "), (6, b"second"), (12, b" third")] {
            append(&db, &log(), offset, piece).await;
        }
        let mut conn = db.read().await.expect("a connection");
        let tail = logs::tail(&mut conn, &log().key, "", 7).await.expect("read");
        assert_eq!((spans(&tail.pieces), tail.is_cut), (vec![(6, 12, Some("second")), (12, 18, Some(" third"))], true));
        let whole = logs::tail(&mut conn, &log().key, "stdout", 18).await.expect("read");
        assert_eq!((whole.pieces.len(), whole.is_cut), (3, false));
    }
}
