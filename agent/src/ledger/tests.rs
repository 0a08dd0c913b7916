use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::{journal::*, model::*, state::*, *};

const NOW: i64 = 1_790_000_000_000;

fn assignment(id: &str, number: u64, document: &str, once: bool) -> Assignment {
    Assignment {
        key: Key::new("t.x", id),
        generation: Generation { epoch: 0, number },
        once,
        version: 1,
        digest: Bytes::copy_from_slice(&muster_pki::sha256(document.as_bytes())),
        document: Bytes::copy_from_slice(document.as_bytes()),
        ..Assignment::default()
    }
}

fn withdrawal(id: &str, number: u64, once: bool) -> Assignment {
    let put = assignment(id, number, "", once);
    Assignment { withdrawn: true, digest: Bytes::new(), ..put }
}

fn holding(assignments: &[Assignment]) -> State {
    let mut state = State::default();
    assignments.iter().for_each(|a| state.apply(Record::Accepted(a.clone())));
    state
}

fn reason(verdict: Verdict) -> Option<Reason> {
    match verdict {
        Verdict::Refuse(refused) => Some(refused.reason),
        _ => None,
    }
}

#[test]
fn a_stale_generation_is_refused() {
    let state = holding(&[assignment("a", 5, "x", false)]);
    assert_eq!(reason(state.admit(&assignment("a", 4, "y", false))), Some(Reason::Older));
    assert_eq!(state.admit(&assignment("a", 6, "y", false)), Verdict::Accept);
}

#[test]
fn a_higher_epoch_is_newer_than_any_number() {
    let state = holding(&[assignment("a", 500, "x", false)]);
    let mut restored = assignment("a", 3, "x", false);
    restored.generation.epoch = 1;
    assert_eq!(state.admit(&restored), Verdict::Accept);
}

#[test]
fn the_same_generation_is_nothing_to_do_or_a_fault() {
    let state = holding(&[assignment("a", 5, "x", false)]);
    assert_eq!(state.admit(&assignment("a", 5, "x", false)), Verdict::Same);
    assert_eq!(reason(state.admit(&assignment("a", 5, "y", false))), Some(Reason::Conflict));
    assert_eq!(reason(state.admit(&withdrawal("a", 5, false))), Some(Reason::Conflict));
}

#[test]
fn bytes_that_do_not_match_their_digest_are_refused() {
    let mut bad = assignment("a", 1, "x", false);
    bad.document = Bytes::from_static(b"y");
    assert_eq!(reason(State::default().admit(&bad)), Some(Reason::Digest));
}

#[test]
fn no_more_is_held_than_may_be() {
    let all: Vec<_> = (0..muster_proto::MAX_HELD).map(|n| assignment(&n.to_string(), 1, "x", false)).collect();
    let state = holding(&all);
    assert_eq!(reason(state.admit(&assignment("one more", 1, "x", false))), Some(Reason::Full));
    assert_eq!(state.admit(&assignment("7", 2, "y", false)), Verdict::Accept, "what is held may change");
}

#[test]
fn a_once_document_does_not_change() {
    let state = holding(&[assignment("a", 5, "x", true)]);
    assert_eq!(reason(state.admit(&assignment("a", 6, "y", true))), Some(Reason::Conflict));
    assert_eq!(state.admit(&assignment("a", 6, "x", true)), Verdict::Accept, "a restored home sends it again");
    assert_eq!(state.admit(&withdrawal("a", 6, true)), Verdict::Accept);
    assert_eq!(reason(state.admit(&assignment("a", 6, "x", false))), Some(Reason::Conflict));
}

#[test]
fn a_once_assignment_that_is_over_answers_with_its_outcome() {
    let put = assignment("a", 5, "x", true);
    let mut state = holding(std::slice::from_ref(&put));
    let outcome = Report { seq: 7, outcome: true, ..Report::new(&put, Phase::Succeeded, NOW) };
    state.apply(Record::Finished(outcome.clone()));
    for record in state.acknowledge(7, &[], NOW) {
        state.apply(record);
    }
    assert_eq!(state.held().count(), 0);
    assert_eq!(state.done().map(|(_, _, o)| o.digest()).collect::<Vec<_>>(), [outcome.digest()]);
    assert_eq!(state.admit(&put), Verdict::Ended);
    assert_eq!(state.admit(&assignment("a", 9, "x", true)), Verdict::Ended);
    assert_eq!(state.admit(&withdrawal("a", 9, true)), Verdict::Ended);
}

#[test]
fn an_outcome_is_forgotten_after_thirty_days_and_not_before() {
    let put = assignment("a", 5, "x", true);
    let mut state = holding(std::slice::from_ref(&put));
    state.apply(Record::Finished(Report { seq: 1, ..Report::new(&put, Phase::Succeeded, NOW) }));
    state.apply(Record::Closed(Closed { key: put.key.clone(), at_ms: NOW }));
    assert!(state.forget(NOW + REMEMBER_MS - 1).is_empty());
    assert_eq!(state.forget(NOW + REMEMBER_MS), [put.key]);
}

#[test]
fn a_withdrawal_stays_until_home_knows_that_its_effect_is_gone() {
    let mut state = holding(&[assignment("a", 5, "x", false), withdrawal("a", 6, false)]);
    let gone = (Key::new("t.x", "a"), Generation { epoch: 0, number: 6 });
    assert!(state.acknowledge(9, &[], NOW).is_empty());
    state.apply(Record::Accepted(assignment("a", 7, "z", false)));
    assert!(state.acknowledge(9, std::slice::from_ref(&gone), NOW).is_empty(), "it was put again meanwhile");
    state.apply(Record::Accepted(withdrawal("a", 8, false)));
    let gone = (gone.0, Generation { epoch: 0, number: 8 });
    state.acknowledge(9, &[gone], NOW).into_iter().for_each(|r| state.apply(r));
    assert!(state.entries.is_empty());
}

#[test]
fn a_ledger_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Ledger::open(dir.path(), NOW).unwrap();
    opened.ledger.write(|_| vec![Record::Accepted(assignment("a", 1, "x", true))]).unwrap();
    opened.ledger.keep_token(Bytes::from_static(b"token")).unwrap();
    let (number, before) = (opened.ledger.number().unwrap(), opened.ledger.read(State::clone));
    let again = Ledger::open(dir.path(), NOW).unwrap();
    assert!(again.set_aside.is_none());
    assert_eq!(again.ledger.read(State::clone), before);
    assert!(again.ledger.number().unwrap() > number, "a number is never used twice");
}

#[test]
fn a_corrupt_ledger_is_set_aside_and_a_new_one_begins() {
    let dir = tempfile::tempdir().unwrap();
    let first = Ledger::open(dir.path(), NOW).unwrap().ledger;
    let name = first.read(|s| s.ledger_id.clone());
    for n in 1..4 {
        first.write(|_| vec![Record::Accepted(assignment("a", n, "x", false))]).unwrap();
    }
    let mut bytes = fs::read(path(dir.path())).unwrap();
    bytes[20] ^= 1;
    fs::write(path(dir.path()), bytes).unwrap();
    let opened = Ledger::open(dir.path(), NOW).unwrap();
    assert!(opened.set_aside.is_some_and(|p| p.exists()));
    assert_ne!(opened.ledger.read(|s| s.ledger_id.clone()), name);
    assert!(opened.ledger.read(|s| s.entries.is_empty()));
}

#[test]
fn a_ledger_that_grew_is_compacted_and_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), NOW).unwrap().ledger;
    let document = "x".repeat(4096);
    for n in 1..200 {
        ledger.write(|_| vec![Record::Accepted(assignment("a", n, &document, false))]).unwrap();
    }
    assert!(fs::metadata(path(dir.path())).unwrap().len() < 100 * 4096);
    assert_eq!(Ledger::open(dir.path(), NOW).unwrap().ledger.read(State::clone), ledger.read(State::clone));
}

#[test]
fn a_failed_write_changes_nothing_and_the_next_one_holds() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), NOW).unwrap().ledger;
    let file = path(dir.path());
    let hidden = dir.path().join("hidden");
    fs::rename(&file, &hidden).unwrap();
    assert!(ledger.write(|_| vec![Record::Accepted(assignment("a", 1, "x", false))]).is_err());
    assert!(ledger.read(|s| s.entries.is_empty()));
    fs::rename(&hidden, &file).unwrap();
    let mut torn = fs::read(&file).unwrap();
    torn.extend_from_slice(b"half a frame");
    fs::write(&file, torn).unwrap();
    ledger.write(|_| vec![Record::Accepted(assignment("b", 1, "x", false))]).unwrap();
    assert_eq!(Ledger::open(dir.path(), NOW).unwrap().ledger.read(State::clone), ledger.read(State::clone));
}

/// What a random history may do.
#[derive(Debug, Clone)]
enum Move {
    Put { id: u8, number: u64, document: u8, once: bool },
    Withdraw { id: u8, number: u64, once: bool },
    Start { id: u8, once: bool },
    Finish { id: u8, once: bool },
    Acknowledge,
    Crash,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0..4u8, 0..20u64, 0..3u8, any::<bool>())
            .prop_map(|(id, number, document, once)| Move::Put { id, number, document, once }),
        2 => (0..4u8, 0..20u64, any::<bool>()).prop_map(|(id, number, once)| Move::Withdraw { id, number, once }),
        2 => (0..4u8, Just(true)).prop_map(|(id, once)| Move::Start { id, once }),
        2 => (0..4u8, Just(true)).prop_map(|(id, once)| Move::Finish { id, once }),
        1 => Just(Move::Acknowledge),
        2 => Just(Move::Crash),
    ];
    prop::collection::vec(one, 1..60)
}

/// Standing and once assignments share no ids.
fn name(id: u8, once: bool) -> String {
    format!("{}{id}", if once { "o" } else { "s" })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_runs_twice_nothing_older_is_taken_nothing_acknowledged_is_lost(moves in moves()) {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path(), NOW).unwrap().ledger;
        let mut newest = std::collections::BTreeMap::new();
        let (mut started, mut at_home) = (BTreeSet::new(), BTreeSet::new());
        for step in moves {
            match step {
                Move::Crash => {
                    let before = ledger.read(State::clone);
                    ledger = Ledger::open(dir.path(), NOW).unwrap().ledger;
                    prop_assert_eq!(ledger.read(State::clone), before);
                }
                Move::Put { .. } | Move::Withdraw { .. } => {
                    let new = match step {
                        Move::Put { id, number, document, once } =>
                            assignment(&name(id, once), number, &document.to_string(), once),
                        Move::Withdraw { id, number, once } => withdrawal(&name(id, once), number, once),
                        _ => unreachable!("matched above"),
                    };
                    if ledger.read(|s| s.admit(&new)) == Verdict::Accept {
                        let old = newest.insert(new.key.clone(), new.generation);
                        prop_assert!(old < Some(new.generation), "an older generation was taken");
                        ledger.write(|_| vec![Record::Accepted(new)]).unwrap();
                    }
                }
                Move::Start { id, once } => {
                    let key = Key::new("t.x", name(id, once));
                    if ledger.read(|s| s.entries.get(&key).is_some_and(|e| e.stage == Stage::Accepted)) {
                        prop_assert!(started.insert(key.clone()), "once work was started twice");
                        ledger.write(|_| vec![Record::Starting(Starting { key, attempt: 1, boot_id: "b".into() })]).unwrap();
                    }
                }
                Move::Finish { id, once } => {
                    let key = Key::new("t.x", name(id, once));
                    let entry = ledger.read(|s| s.entries.get(&key).cloned());
                    if let Some(Entry { stage: Stage::Starting { .. }, assignment, .. }) = entry {
                        let seq = ledger.number().unwrap();
                        let outcome = Report { seq, outcome: true, ..Report::new(&assignment, Phase::Succeeded, NOW) };
                        ledger.write(|_| vec![Record::Finished(outcome)]).unwrap();
                    }
                }
                Move::Acknowledge => {
                    let up_to = ledger.read(|s| s.outcomes().map(|o| o.seq).max().unwrap_or(0));
                    at_home.extend(ledger.read(|s| s.outcomes().map(Report::key).collect::<Vec<_>>()));
                    ledger.write(|s| s.acknowledge(up_to, &[], NOW)).unwrap();
                }
            }
            let known: BTreeSet<Key> = ledger.read(|s| s.done().map(|(k, _, _)| k.clone()).collect());
            prop_assert!(at_home.is_subset(&known), "an acknowledged outcome was lost");
        }
    }
}

#[test]
fn a_journal_torn_at_any_byte_holds_every_frame_before_the_tear() {
    let frames: Vec<Vec<u8>> = (1..5)
        .map(|n| frame(&[Record::Accepted(assignment("a", n, "document", false)), Record::Reserved(n)]))
        .collect();
    let whole = frames.concat();
    for cut in 0..=whole.len() {
        let ends = frames.iter().scan(0, |at, f| {
            *at += f.len();
            Some(*at)
        });
        let complete = ends.filter(|end| *end <= cut).count();
        for zeros in [0, 1, 600] {
            let mut torn = whole[..cut].to_vec();
            if cut < whole.len() {
                torn.extend(std::iter::repeat_n(0, zeros));
            }
            let Reading::Whole { records, .. } = read(&torn) else {
                panic!("cut at {cut} with {zeros} zeros is corrupt")
            };
            assert_eq!(records.len(), complete * 2, "cut at {cut} with {zeros} zeros");
        }
    }
}

#[test]
fn a_flipped_bit_before_the_last_frame_is_never_taken_for_a_tear() {
    let frames: Vec<Vec<u8>> = (1..4).map(|n| frame(&[Record::Reserved(n)])).collect();
    let whole = frames.concat();
    for at in 0..whole.len() - frames[2].len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x40;
        assert_eq!(read(&bad), Reading::Corrupt, "at {at}");
    }
}
