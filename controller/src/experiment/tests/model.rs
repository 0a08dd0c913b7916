use crate::experiment::model::{Evidence, FlagChange, FlagValues, Status, Until, check_name, next, uuid};

#[test]
fn a_status_changes_by_the_table_alone() {
    use Status::{Cancelled, Cancelling, Failed, Finished, Preparing, Ready, Running};
    let table = [
        (Preparing, [Some(Ready), Some(Failed), None, Some(Cancelling), None]),
        (Ready, [None, None, Some(Running), Some(Cancelling), Some(Finished)]),
        (Running, [None, None, None, Some(Cancelling), Some(Finished)]),
        (Cancelling, [None, None, None, None, Some(Cancelled)]),
        (Finished, [None; 5]),
        (Cancelled, [None; 5]),
        (Failed, [None; 5]),
    ];
    let evidence = [
        Evidence::Prepared(true),
        Evidence::Prepared(false),
        Evidence::StartRequested,
        Evidence::CancelRequested,
        Evidence::AllEnded,
    ];
    for (status, after) in table {
        assert_eq!(evidence.map(|e| next(status, e)), after, "{status:?}");
    }
}

#[test]
fn clients_are_told_the_five_numbers_they_know() {
    for word in ["preparing", "ready", "running", "cancelling", "finished", "cancelled", "failed"] {
        let status = Status::from_word(word).expect("a status");
        assert_eq!(status.word(), word);
        assert!(status.number() <= 4);
    }
    assert_eq!(Status::Failed.client_name(), "ExperimentStatus.UNKNOWN");
    assert_eq!(Status::Cancelling.client_name(), "ExperimentStatus.RUNNING");
}

#[test]
fn a_flag_that_was_never_set_counts_as_nothing() {
    let added = FlagChange::Add(2).apply(None).expect("added");
    assert_eq!(added, FlagValues { text_value: None, int_value: 2 });
    let before = FlagValues { text_value: Some("t".into()), int_value: i64::MAX };
    assert_eq!(FlagChange::Add(-1).apply(Some(&before)).expect("added").text_value.as_deref(), Some("t"));
    assert!(FlagChange::Add(1).apply(Some(&before)).is_err(), "a number that would not fit is refused");
    let set = FlagValues { text_value: None, int_value: 3 };
    assert_eq!(FlagChange::Set(set.clone()).apply(Some(&before)).expect("set"), set);
}

#[test]
fn waiting_ends_when_a_flag_is_as_awaited() {
    let flag = |text: Option<&str>, int_value| FlagValues { text_value: text.map(str::to_owned), int_value };
    let until = |text: Option<&str>, at_least| Until { text: text.map(str::to_owned), at_least };
    assert!(!Until::default().is_met(None), "an unset flag is never as awaited");
    assert!(Until::default().is_met(Some(&flag(None, 0))));
    assert!(until(None, Some(5)).is_met(Some(&flag(None, 6))));
    assert!(!until(None, Some(5)).is_met(Some(&flag(None, 4))));
    assert!(until(Some("go"), None).is_met(Some(&flag(Some("go"), 0))));
    assert!(!until(Some("go"), Some(1)).is_met(Some(&flag(Some("go"), 0))));
}

#[test]
fn names_are_what_clients_make_of_them() {
    for right in ["a+b", "é", "a/b", &"x".repeat(300)] {
        assert!(check_name("name", right).is_ok(), "{right}");
    }
    for wrong in ["", "a\0b", "a\nb", &"x".repeat(513)] {
        assert!(check_name("name", wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn an_id_is_a_uuid_of_version_4() {
    assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
}
