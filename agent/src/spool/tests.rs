use proptest::prelude::*;

use super::*;
use crate::{host::Stream, ledger::Assignment};

fn report(id: &str, seq: u64, phase: Phase) -> Report {
    let assignment = Assignment { key: Key::new("t.x", id), ..Assignment::default() };
    Report { seq, ..Report::new(&assignment, phase, 0) }
}

fn spool(dir: &Path, limit: u64) -> Spool {
    Spool::open(dir, limit, &[Key::new("t.x", "a"), Key::new("t.x", "b")], []).unwrap()
}

fn log(id: &str, stream: Stream) -> LogKey {
    LogKey { key: Key::new("t.x", id), attempt: 1, stream }
}

fn pieces(spool: &Spool) -> Vec<Piece> {
    std::iter::from_fn(|| match spool.next(0) {
        Some(Frame::Log(piece)) => Some(piece),
        _ => None,
    })
    .collect()
}

#[test]
fn what_matters_most_is_said_first() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path(), 1 << 20);
    spool.output(&log("a", Stream::Stdout), b"x");
    spool.sample(Sample::default());
    spool.report(report("a", 1, Phase::Applied));
    spool.accept(Key::new("t.x", "a"), Generation::default());
    let said: Vec<Frame> = std::iter::from_fn(|| spool.next(0)).collect();
    assert!(matches!(said[..], [Frame::Accept(..), Frame::Report(_), Frame::Sample(_), Frame::Log(_)]), "{said:?}");
}

#[test]
fn standing_reports_coalesce_and_outcomes_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let spool = &spool(dir.path(), 1 << 20);
    spool.report(report("a", 1, Phase::Working));
    spool.report(Report { outcome: true, ..report("b", 2, Phase::Succeeded) });
    spool.report(report("a", 3, Phase::Applied));
    spool.report(Report { outcome: true, ..report("b", 4, Phase::Succeeded) });
    let seqs = |stream| {
        std::iter::from_fn(move || spool.next(stream)).map(|f| match f {
            Frame::Report(r) => r.seq,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(seqs(0).collect::<Vec<_>>(), [2, 3, 4]);
    spool.acknowledge(2);
    let stream = spool.begin();
    assert_eq!(seqs(0).count(), 0, "the former stream says nothing more");
    assert_eq!(seqs(stream).collect::<Vec<_>>(), [3, 4], "what is not acknowledged is said again");
}

#[test]
fn an_acknowledged_end_is_told_to_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path(), 1 << 20);
    spool.report(report("a", 1, Phase::Gone));
    assert_eq!(spool.acknowledge(1), [(Key::new("t.x", "a"), Generation::default())]);
    assert!(spool.acknowledge(1).is_empty());
}

#[test]
fn output_survives_a_restart_and_goes_on_at_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let stdout = log("a", Stream::Stdout);
    spool(dir.path(), 1 << 20).output(&stdout, b"before ");
    let again = spool(dir.path(), 1 << 20);
    again.output(&stdout, b"after");
    let all = pieces(&again);
    assert_eq!(all.iter().flat_map(|p| p.data.to_vec()).collect::<Vec<_>>(), b"before after");
    again.acknowledge_log(&stdout, 12);
    assert!(again.is_drained(&stdout.key));
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
}

#[test]
fn output_of_unknown_work_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    spool(dir.path(), 1 << 20).output(&log("a", Stream::Stderr), b"x");
    Spool::open(dir.path(), 1 << 20, &[], []).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_question_is_asked_again_after_a_reconnect_and_answered_once() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path(), 1 << 20);
    let asking = spool.ask(Key::new("t.x", "a"), 1, Bytes::from_static(b"?"));
    let home = async {
        spool.filled().await;
        let Some(Frame::Ask(first)) = spool.next(0) else { panic!("no question") };
        let stream = spool.begin();
        let Some(Frame::Ask(second)) = spool.next(stream) else { panic!("no question") };
        assert_eq!(first, second);
        spool.answered(&first.ask_id, Answer::Ok(Bytes::from_static(b"!")));
    };
    let (answer, ()) = tokio::join!(asking, home);
    assert_eq!(answer, Answer::Ok(Bytes::from_static(b"!")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is written, what is read back is what was written there, gaps are counted, and the limit holds.
    #[test]
    fn output_keeps_its_offsets_and_its_bounds(
        writes in prop::collection::vec((any::<bool>(), 1..400_000usize), 1..30),
        limit in 1_000_000..6_000_000u64,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path(), limit);
        let byte = |at: u64| (at % 251) as u8;
        let mut produced = BTreeMap::new();
        for (out, n) in writes {
            let log = log("a", if out { Stream::Stdout } else { Stream::Stderr });
            let at = produced.entry(log.clone()).or_insert(0u64);
            spool.output(&log, &(*at..*at + n as u64).map(byte).collect::<Vec<_>>());
            *at += n as u64;
        }
        let on_disk: u64 =
            std::fs::read_dir(dir.path().join("spool")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        prop_assert!(on_disk <= limit);
        let mut reached: BTreeMap<LogKey, u64> = BTreeMap::new();
        for piece in pieces(&spool) {
            let at = reached.entry(piece.log.clone()).or_default();
            prop_assert_eq!(*at + piece.gap, piece.offset);
            prop_assert!(piece.data.iter().enumerate().all(|(n, b)| *b == byte(piece.offset + n as u64)));
            *at = piece.offset + piece.data.len() as u64;
        }
        for (log, at) in reached {
            prop_assert_eq!(at, produced[&log], "the end is kept");
        }
    }
}
