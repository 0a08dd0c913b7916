use std::time::Duration;

use prost::Message;

use super::{
    schedule::{Ended, MOST, Schedule},
    wire,
};
use crate::ledger::{Assignment, Condition, Key, Phase, Report};

const SHORT: Duration = Duration::from_secs(1);

#[test]
fn failures_wait_longer_each_time_up_to_five_minutes_with_full_jitter() {
    let mut schedule = Schedule::new(MOST);
    let envelope: Vec<u64> = (0..12).map(|_| schedule.wait(Ended::Lost, SHORT, 1.0).as_secs()).collect();
    assert_eq!(envelope, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    assert_eq!(Schedule::new(MOST).wait(Ended::Lost, SHORT, 0.0), Duration::ZERO);
    let mut hurried = Schedule::new(Duration::from_secs(5));
    let envelope: Vec<u64> = (0..5).map(|_| hurried.wait(Ended::Lost, SHORT, 1.0).as_secs()).collect();
    assert_eq!(envelope, [1, 2, 4, 5, 5], "its host's owner may want it back sooner");
}

#[test]
fn a_healthy_minute_forgives_former_failures() {
    let mut schedule = Schedule::new(MOST);
    for _ in 0..9 {
        schedule.wait(Ended::Lost, SHORT, 1.0);
    }
    assert_eq!(schedule.wait(Ended::Lost, Duration::from_secs(60), 1.0), Duration::from_secs(1));
}

#[test]
fn homes_word_on_when_to_come_back_is_kept_and_spread() {
    let told = |chance| Schedule::new(MOST).wait(Ended::Told(Duration::from_secs(10)), SHORT, chance);
    assert_eq!((told(0.0), told(1.0)), (Duration::from_secs(10), Duration::from_secs(15)));
    assert!(Schedule::new(MOST).wait(Ended::Unwanted, SHORT, 0.0) >= Duration::from_secs(300));
}

#[test]
fn an_outcome_has_one_encoding_and_so_one_digest_on_both_sides() {
    let assignment = Assignment { key: Key::new("t.x", "a"), ..Assignment::default() };
    let report = Report {
        seq: 7,
        conditions: vec![Condition { holds: true, message: "m".into(), ..Condition::default() }],
        result: bytes::Bytes::from_static(b"r"),
        outcome: true,
        may_have_run: true,
        attempt: 2,
        ..Report::new(&assignment, Phase::Interrupted, 5)
    };
    assert_eq!(wire::report(report.clone()).encode_to_vec(), report.encode_to_vec());
    let unnumbered = Report { seq: 0, ..report.clone() };
    assert_eq!(muster_pki::sha256(&wire::report(unnumbered).encode_to_vec()), report.digest());
}
