use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::model::{
    Class, Held, Key, Labels, LedgerView, Liveness, Mode, OFFLINE_AFTER, Phase, STALE_AFTER, State, Step, Wanted,
    adopted, check_labels, liveness, matches, parse_labels, step,
};

const EPOCH: i64 = 1;

fn key() -> Key {
    Key { kind: "test.thing".into(), id: "a".into() }
}

fn wanted(mode: Mode, state: State, digest: &str) -> Wanted {
    Wanted { key: key(), epoch: EPOCH, generation: 5, mode, digest: digest.into(), state, refused: None }
}

fn nothing() -> LedgerView {
    LedgerView { same_ledger: true, capability_digest: "able".into(), ..LedgerView::default() }
}

fn holds(epoch: i64, generation: i64, digest: &str) -> LedgerView {
    LedgerView { held: BTreeMap::from([(key(), (epoch, generation, digest.into()))]), ..nothing() }
}

fn remembers() -> LedgerView {
    LedgerView { done: BTreeSet::from([key()]), ..nothing() }
}

fn other_ledger(view: LedgerView) -> LedgerView {
    LedgerView { same_ledger: false, ..view }
}

#[test]
fn a_standing_assignment_is_sent_exactly_where_the_ledger_differs() {
    use State::{Accepted, Queued};
    let put = |state| wanted(Mode::Standing, state, "x");
    let withdrawn = |state| wanted(Mode::Standing, state, "");
    let table = [
        ("never sent, not held", put(Queued), nothing(), Step::Send),
        ("accepted once, ledger lost since", put(Accepted), other_ledger(nothing()), Step::Send),
        ("held, its accept was lost", put(Queued), holds(1, 5, "x"), Step::NoteAccepted),
        ("held and noted", put(Accepted), holds(1, 5, "x"), Step::Agree),
        ("an older generation is held", put(Queued), holds(1, 4, "w"), Step::Send),
        ("the same bytes are held under an older generation", put(Queued), holds(1, 4, "x"), Step::Send),
        ("the same generation is held with other bytes", put(Accepted), holds(1, 5, "y"), Step::Send),
        ("a newer generation is held", put(Accepted), holds(1, 6, "z"), Step::Agree),
        ("a higher number of an older epoch is held", put(Queued), holds(0, 900, "z"), Step::Send),
        ("a lower number of a newer epoch is held", put(Queued), holds(2, 1, "z"), Step::Agree),
        ("withdrawn, still held", withdrawn(Queued), holds(1, 4, "x"), Step::Send),
        ("withdrawn, the withdrawal is held", withdrawn(Queued), holds(1, 5, ""), Step::NoteAccepted),
        ("withdrawn, the withdrawal is held and noted", withdrawn(Accepted), holds(1, 5, ""), Step::Agree),
        ("withdrawn, not held", withdrawn(Queued), nothing(), Step::Forget),
        ("withdrawn, ledger lost", withdrawn(Accepted), other_ledger(nothing()), Step::Forget),
    ];
    for (case, wanted, ledger, right) in table {
        assert_eq!(step(&wanted, &ledger, EPOCH), right, "{case}");
    }
}

#[test]
fn once_work_that_may_have_run_is_never_sent_again() {
    use State::{Accepted, Finished, Offered, Queued, Running};
    let put = |state| wanted(Mode::Once, state, "x");
    let withdrawn = |state| wanted(Mode::Once, state, "");
    let table = [
        ("never offered", put(Queued), nothing(), Step::Send),
        ("never offered, to a first ledger", put(Queued), other_ledger(nothing()), Step::Send),
        ("offered, and this ledger never had it", put(Offered), nothing(), Step::Send),
        ("offered under a lost ledger", put(Offered), other_ledger(nothing()), Step::Interrupt),
        ("accepted under a lost ledger", put(Accepted), other_ledger(nothing()), Step::Interrupt),
        ("running under a lost ledger", put(Running), other_ledger(nothing()), Step::Interrupt),
        ("accepted, and the ledger does not know it", put(Accepted), nothing(), Step::Interrupt),
        ("offered and held: the accept was lost", put(Offered), holds(1, 5, "x"), Step::NoteAccepted),
        ("queued and held: home was restored", put(Queued), holds(1, 5, "x"), Step::NoteAccepted),
        ("accepted and held", put(Accepted), holds(1, 5, "x"), Step::Agree),
        ("running and held", put(Running), holds(1, 5, "x"), Step::Agree),
        ("over for the agent, not for a restored home", put(Queued), remembers(), Step::Send),
        ("over for the agent, running for a restored home", put(Running), remembers(), Step::Send),
        ("cancelled and held", withdrawn(Running), holds(1, 4, "x"), Step::Send),
        ("cancelled, and the cancellation is held", withdrawn(Running), holds(1, 5, ""), Step::Agree),
        ("cancelled, offered, never had", withdrawn(Offered), nothing(), Step::Cancel),
        ("cancelled, offered under a lost ledger", withdrawn(Offered), other_ledger(nothing()), Step::Interrupt),
        ("cancelled, never offered", withdrawn(Queued), nothing(), Step::Cancel),
        ("finished, not held", put(Finished), nothing(), Step::Agree),
        ("finished, held: its outcome was not acknowledged", put(Finished), holds(1, 5, "x"), Step::Agree),
        ("finished, ledger lost", put(Finished), other_ledger(nothing()), Step::Agree),
    ];
    for (case, wanted, ledger, right) in table {
        assert_eq!(step(&wanted, &ledger, EPOCH), right, "{case}");
    }
}

#[test]
fn after_a_restore_once_work_is_sent_only_to_the_ledger_home_remembers() {
    let queued = wanted(Mode::Once, State::Queued, "x");
    assert_eq!(step(&queued, &nothing(), EPOCH + 1), Step::Send);
    assert_eq!(step(&queued, &other_ledger(nothing()), EPOCH + 1), Step::Interrupt);
    let newer = Wanted { epoch: EPOCH + 1, ..queued };
    assert_eq!(step(&newer, &other_ledger(nothing()), EPOCH + 1), Step::Send, "it was put after the restore");
}

#[test]
fn a_refused_generation_is_sent_again_only_when_it_or_the_agent_changes() {
    let refused = |generation, able: &str| Wanted {
        refused: Some((generation, able.into())),
        ..wanted(Mode::Standing, State::Queued, "x")
    };
    assert_eq!(step(&refused(5, "able"), &nothing(), EPOCH), Step::Agree);
    assert_eq!(step(&refused(4, "able"), &nothing(), EPOCH), Step::Send, "another generation was refused");
    assert_eq!(step(&refused(5, "less able"), &nothing(), EPOCH), Step::Send, "the agent could do less then");
}

#[test]
fn only_what_is_unknown_and_from_an_older_epoch_is_adopted() {
    let held = |id: &str, epoch| Held {
        key: Key { kind: "test.thing".into(), id: id.into() },
        epoch,
        generation: 9,
        digest: "x".into(),
        once: false,
    };
    let all = [held("known", 1), held("unknown", 1), held("current", 2)];
    let known = BTreeSet::from([&all[0].key]);
    assert_eq!(adopted(&known, &all, 2), [&all[1]]);
}

#[test]
fn liveness_follows_one_rule() {
    let at = 1_000_000;
    assert_eq!(liveness(false, None, at), Liveness::Never);
    assert_eq!(liveness(true, None, at), Liveness::Online);
    assert_eq!(liveness(true, Some(0), at), Liveness::Online, "an open stream outweighs any past");
    assert_eq!(liveness(false, Some(at), at + STALE_AFTER - 1), Liveness::Online, "it may be back in a moment");
    assert_eq!(liveness(false, Some(at), at + STALE_AFTER), Liveness::Stale);
    assert_eq!(liveness(false, Some(at), at + OFFLINE_AFTER - 1), Liveness::Stale);
    assert_eq!(liveness(false, Some(at), at + OFFLINE_AFTER), Liveness::Offline);
}

#[test]
fn every_word_in_the_database_reads_as_what_it_was_written_for() {
    for word in ["standing", "once"] {
        assert_eq!(Mode::from_word(word).map(Mode::word), Some(word));
    }
    for word in ["queued", "offered", "accepted", "running", "finished"] {
        assert_eq!(State::from_word(word).map(State::word), Some(word));
    }
    let phases =
        ["waiting", "working", "applied", "failed", "gone", "succeeded", "interrupted", "cancelled", "late", "lost"];
    for word in phases {
        assert_eq!(Phase::from_word(word).map(Phase::word), Some(word));
    }
    for word in ["never", "online", "stale", "offline"] {
        assert_eq!(Liveness::from_word(word).map(Liveness::word), Some(word));
    }
    assert_eq!(Mode::from_word("twice"), None);
}

#[test]
fn an_unknown_class_is_refused_with_those_there_are() {
    for class in Class::ALL {
        assert_eq!(Class::parse(class.name()).expect("a class"), class);
    }
    let refused = Class::parse("router").expect_err("refused").to_string();
    assert!(refused.starts_with("class: ") && refused.contains("staging-host"), "{refused}");
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

#[test]
fn labels_match_when_every_pair_asked_for_is_there() {
    let own = labels(&[("zone", "a"), ("disk", "fast")]);
    assert!(matches(&own, &labels(&[])));
    assert!(matches(&own, &labels(&[("zone", "a")])));
    assert!(!matches(&own, &labels(&[("zone", "b")])));
    assert!(!matches(&own, &labels(&[("zone", "a"), ("rack", "1")])));
}

#[test]
fn a_wrong_label_is_refused_by_its_name() {
    let wrong = [("", "x"), ("a b", "x"), ("a", "x y"), ("a=", "x"), ("a", "é")];
    for (key, value) in wrong {
        let refused = check_labels("labels", &labels(&[(key, value)])).expect_err("refused").to_string();
        assert!(refused.starts_with(&format!("labels.{key}: ")), "{refused}");
    }
    assert!(check_labels("labels", &labels(&[(&"k".repeat(64), "")])).is_err());
    check_labels("labels", &labels(&[("a.b/c-d_1", ""), (&"k".repeat(63), &"v".repeat(63))])).expect("right");
}

#[test]
fn labels_are_read_as_pairs_with_room_around_them() {
    assert_eq!(parse_labels("l", " a=1, b = 2 ,,c=").expect("reads"), labels(&[("a", "1"), ("b", "2"), ("c", "")]));
    assert_eq!(parse_labels("l", "").expect("reads"), Labels::new());
    let refused = parse_labels("l", "a=1,b").expect_err("refused").to_string();
    assert!(refused.contains("\"b\" is not key=value"), "{refused}");
}

#[test]
fn once_work_is_offered_before_it_is_sent_and_its_withdrawal_is_not() {
    use State::{Accepted, Offered, Queued, Running};
    for state in [Queued, Offered] {
        let (put, withdrawn) = (wanted(Mode::Once, state, "x"), wanted(Mode::Once, state, ""));
        assert!(put.is_new_once() && put.is_to_be_sent());
        assert!(!withdrawn.is_new_once() && withdrawn.is_to_be_sent());
    }
    for state in [Accepted, Running] {
        let (put, withdrawn) = (wanted(Mode::Once, state, "x"), wanted(Mode::Once, state, ""));
        assert!(!put.is_new_once() && !put.is_to_be_sent());
        assert!(!withdrawn.is_new_once() && withdrawn.is_to_be_sent());
    }
}
