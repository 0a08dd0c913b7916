//! One staging driven through random histories: whatever is asked for and whatever is seen, statuses rest on evidence.

use proptest::prelude::*;

use super::plan::{end, snapshot};
use crate::staging::{
    model::{Evidence, FIRST, OperationId, Outcome, Status, Verb, next},
    plan::{Action, Checked, Pending, Progress, Snapshot, Watch, plan},
};

const DAY: i64 = 86_400_000;

#[derive(Debug, Clone, Copy)]
enum Seen {
    Ask(Verb),
    Started,
    Ended(Outcome),
    Checked(bool),
    TimeGoes(i64),
}

struct World {
    it: Snapshot,
    gone: bool,
}

impl World {
    fn new() -> Self {
        let mut it = snapshot(FIRST);
        it.project.archived_retention_days = Some(3);
        let mut world = Self { it, gone: false };
        world.begin(Verb::Create);
        world
    }

    fn begin(&mut self, verb: Verb) {
        let it = &mut self.it;
        let previous = (verb != Verb::Create).then_some(it.status);
        let id = OperationId("op".into());
        it.pending = Some(Pending { id, verb, previous, started_at: None, progress: Progress::Waiting });
        (it.watch, it.checked) = (None, None);
        if let Some(status) = next(it.status, Evidence::Requested(verb)) {
            self.set(status);
        }
    }

    fn set(&mut self, status: Status) {
        let it = &mut self.it;
        it.archived_at = (status == Status::Archived).then(|| it.archived_at.unwrap_or(it.now));
        if status != Status::Archived {
            it.retention_warned_at = None;
        }
        (it.status, it.status_at) = (status, it.now);
    }

    fn see(&mut self, seen: Seen) {
        let it = &mut self.it;
        match seen {
            Seen::Ask(verb) if it.pending.is_none() && next(it.status, Evidence::Requested(verb)).is_some() => {
                self.begin(verb);
            }
            Seen::Ask(_) => {}
            Seen::Started => {
                if let Some(pending) = &mut it.pending {
                    pending.progress = Progress::Running(it.now);
                }
            }
            Seen::Ended(outcome) => {
                if let Some(pending) = &mut it.pending {
                    pending.progress = Progress::Ended(end(outcome));
                }
            }
            Seen::Checked(passed) => {
                it.checked = it.watch.map(|_| Checked { passed, message: "said".into() });
            }
            Seen::TimeGoes(ms) => it.now += ms,
        }
    }

    /// Carries out a plan, and holds each change of status to its evidence.
    fn apply(&mut self, actions: Vec<Action>) {
        let before = self.it.clone();
        for action in actions {
            match action {
                Action::NoteStarted(_, at) => {
                    let pending = self.it.pending.as_mut().expect("only what is pending starts");
                    assert_eq!(pending.started_at.replace(at), None, "a start is noted once");
                }
                Action::End(..) => self.it.pending = None,
                Action::Revert(_) => assert_eq!(outcome(&before), Some(Outcome::Refused)),
                Action::Become(status, _) => {
                    assert!(is_proven(&before, status), "{status:?} without evidence: {before:?}");
                    self.set(status);
                }
                Action::Watch(watch, _) => (self.it.watch, self.it.checked) = (Some(watch), None),
                Action::Unwatch => (self.it.watch, self.it.checked) = (None, None),
                Action::Remove => {
                    let verb = before.pending.as_ref().map(|p| p.verb);
                    let right = [(Some(Verb::Cleanup), Outcome::Succeeded), (Some(Verb::Create), Outcome::Refused)];
                    assert!(right.iter().any(|(v, o)| verb == *v && outcome(&before) == Some(*o)), "{before:?}");
                    self.gone = true;
                }
                Action::WarnOfEnd(at) => {
                    assert!(at >= self.it.now + DAY);
                    self.it.retention_warned_at = Some(self.it.now);
                }
                Action::CleanUp => {
                    let warned = self.it.retention_warned_at.expect("people were warned");
                    assert!(self.it.now - warned >= DAY && self.it.status == Status::Archived);
                    self.it.retention_warned_at = Some(self.it.now);
                    self.begin(Verb::Cleanup);
                }
            }
        }
    }
}

fn outcome(it: &Snapshot) -> Option<Outcome> {
    match &it.pending.as_ref()?.progress {
        Progress::Ended(end) => Some(end.outcome),
        _ => None,
    }
}

fn is_proven(it: &Snapshot, status: Status) -> bool {
    let refused = outcome(it) == Some(Outcome::Refused) && it.pending.as_ref().and_then(|p| p.previous) == Some(status);
    let passed =
        |watch| it.pending.is_none() && it.watch == Some(watch) && it.checked.as_ref().is_some_and(|c| c.passed);
    match status {
        Status::Running => passed(Watch::Check) || refused,
        Status::Archived => passed(Watch::ArchiveCheck) || refused,
        Status::Failure => true,
        _ => false,
    }
}

fn seen() -> impl Strategy<Value = Seen> {
    use Outcome::{Cancelled, Failed, Interrupted, Late, Lost, Refused, Succeeded, TimedOut};
    let outcomes = prop::sample::select(vec![
        Succeeded,
        Succeeded,
        Succeeded,
        Failed,
        Refused,
        TimedOut,
        Cancelled,
        Interrupted,
        Late,
        Lost,
    ]);
    prop_oneof![
        4 => prop::sample::select(Verb::ALL.to_vec()).prop_map(Seen::Ask),
        1 => Just(Seen::Started),
        4 => outcomes.prop_map(Seen::Ended),
        4 => prop::sample::select(vec![true, true, false]).prop_map(Seen::Checked),
        2 => prop::sample::select(vec![1, 30_000, 600_001, DAY, 4 * DAY]).prop_map(Seen::TimeGoes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_status_rests_on_evidence_and_a_plan_that_was_carried_out_leaves_nothing_to_do(
        history in prop::collection::vec(seen(), 0..60)
    ) {
        let mut world = World::new();
        for seen in history {
            world.see(seen);
            let before = world.it.clone();
            let actions = plan(&before);
            prop_assert_eq!(&actions, &plan(&before), "equal snapshots give equal plans");
            let is_end = actions.iter().any(|a| matches!(a, Action::End(..)));
            world.apply(actions);
            if is_end && !world.gone {
                // What the operation kept from being done, the clock may ask for as soon as it is over.
                world.apply(plan(&world.it));
            }
            if world.gone {
                break;
            }
            let again = plan(&world.it);
            prop_assert!(again.is_empty(), "{:?} after {:?} led to {:?}", again, before, world.it);
            prop_assert!(!world.it.status.is_pending() || world.it.now - world.it.status_at <= 600_000,
                "nothing is pending for longer than its limit");
        }
    }
}
