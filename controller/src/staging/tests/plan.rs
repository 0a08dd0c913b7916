use crate::{
    fleet::model::Phase,
    staging::{
        model::{OperationId, Outcome, ProjectSpec, Status, Verb},
        plan::{Action, Checked, End, Pending, Progress, Snapshot, WARN_BEFORE, Watch, plan, progress},
    },
};

const NOW: i64 = 1_790_000_000_000;
const DAY: i64 = 86_400_000;
const LIMIT: i64 = 600_000;

pub(super) fn spec() -> ProjectSpec {
    ProjectSpec {
        base_domain: "staging.example.org".into(),
        namespace: "shop".into(),
        wrappers: "process".into(),
        agents: [].into(),
        check_interval_seconds: 30,
        pending_limit_seconds: LIMIT / 1000,
        timeout_seconds: 1800,
        memory_bytes: 0,
        file_bytes: 0,
        archived_retention_days: None,
    }
}

pub(super) fn snapshot(status: Status) -> Snapshot {
    Snapshot {
        project: spec(),
        status,
        status_at: NOW,
        archived_at: (status == Status::Archived).then_some(NOW),
        retention_warned_at: None,
        pending: None,
        watch: None,
        checked: None,
        now: NOW,
    }
}

pub(super) fn end(outcome: Outcome) -> End {
    let message = if outcome == Outcome::Succeeded { "" } else { "the wrapper's last lines" };
    let exit_code = Some(i64::from(outcome != Outcome::Succeeded));
    End { outcome, exit_code, signal: None, started_at: Some(NOW), ended_at: NOW, message: message.into() }
}

fn op() -> OperationId {
    "op".into()
}

fn pending(verb: Verb, previous: Status, progress: Progress) -> Option<Pending> {
    let previous = (verb != Verb::Create).then_some(previous);
    Some(Pending { id: op(), verb, previous, started_at: None, progress })
}

/// A staging whose operation just ended.
fn ended(status: Status, verb: Verb, previous: Status, outcome: Outcome) -> Snapshot {
    Snapshot { pending: pending(verb, previous, Progress::Ended(end(outcome))), ..snapshot(status) }
}

fn watched(status: Status, watch: Watch, passed: bool) -> Snapshot {
    let checked = Some(Checked { passed, message: "port closed".into() });
    Snapshot { watch: Some(watch), checked, ..snapshot(status) }
}

fn becomes(actions: &[Action]) -> Option<(Status, &str)> {
    actions.iter().find_map(|a| match a {
        Action::Become(status, why) => Some((*status, why.as_str())),
        _ => None,
    })
}

fn ends(verb: Verb, outcome: Outcome) -> Action {
    Action::End(op(), verb, end(outcome))
}

// === what an operation's end leads to ===

#[test]
fn a_wrapper_that_succeeded_leaves_its_staging_pending_until_a_check_begun_afterwards_passes() {
    use Status::{CreatePending, UpdatePending};
    let cases = [(Verb::Create, CreatePending), (Verb::Update, UpdatePending), (Verb::Restore, CreatePending)];
    for (verb, status) in cases {
        let actions = plan(&ended(status, verb, Status::Running, Outcome::Succeeded));
        assert_eq!(actions, [ends(verb, Outcome::Succeeded), Action::Watch(Watch::Check, Some(op()))]);
        let unseen = Snapshot { watch: Some(Watch::Check), ..snapshot(status) };
        assert!(plan(&unseen).is_empty(), "no check has come back");
        assert_eq!(plan(&watched(status, Watch::Check, true)), [Action::Become(Status::Running, String::new())]);
    }
}

#[test]
fn a_check_while_its_operation_runs_counts_for_nothing() {
    for passed in [true, false] {
        let pending = pending(Verb::Update, Status::Running, Progress::Waiting);
        let it = Snapshot { pending, ..watched(Status::UpdatePending, Watch::Check, passed) };
        assert!(plan(&it).is_empty());
    }
}

#[test]
fn a_wrapper_that_failed_is_a_failure_at_once_and_says_why() {
    let cases = [(Verb::Create, Status::CreatePending), (Verb::Update, Status::UpdatePending)];
    for (verb, status) in cases {
        for outcome in [Outcome::Failed, Outcome::TimedOut, Outcome::Cancelled, Outcome::Interrupted, Outcome::Late] {
            let actions = plan(&ended(status, verb, Status::Running, outcome));
            assert_eq!(actions[0], ends(verb, outcome));
            assert_eq!(becomes(&actions), Some((Status::Failure, "the wrapper's last lines")));
            assert_eq!(actions[2], Action::Watch(Watch::Check, Some(op())), "it may come up after all");
        }
    }
}

#[test]
fn an_operation_whose_host_is_gone_is_a_failure() {
    let actions = plan(&ended(Status::UpdatePending, Verb::Update, Status::Running, Outcome::Lost));
    assert_eq!(becomes(&actions).map(|(s, _)| s), Some(Status::Failure));
}

#[test]
fn a_start_is_noted_once() {
    let since = Progress::Running(NOW - 5);
    let it = Snapshot {
        pending: pending(Verb::Create, Status::CreatePending, since.clone()),
        ..snapshot(Status::CreatePending)
    };
    assert_eq!(plan(&it), [Action::NoteStarted(op(), NOW - 5)]);
    let noted = it.pending.map(|p| Pending { started_at: Some(NOW - 5), ..p });
    assert!(plan(&Snapshot { pending: noted, ..snapshot(Status::CreatePending) }).is_empty());
}

// === checks ===

#[test]
fn a_running_staging_fails_with_its_check_and_comes_back_with_it() {
    let actions = plan(&watched(Status::Running, Watch::Check, false));
    assert_eq!(becomes(&actions), Some((Status::Failure, "its check failed: port closed")));
    assert_eq!(plan(&watched(Status::Failure, Watch::Check, true)), [Action::Become(Status::Running, String::new())]);
    assert!(plan(&watched(Status::Running, Watch::Check, true)).is_empty());
    assert!(plan(&watched(Status::Failure, Watch::Check, false)).is_empty());
}

#[test]
fn a_pending_staging_may_fail_its_checks_until_the_limit() {
    for status in [Status::CreatePending, Status::UpdatePending] {
        let it = watched(status, Watch::Check, false);
        assert!(plan(&Snapshot { now: NOW + LIMIT, ..it.clone() }).is_empty());
        let actions = plan(&Snapshot { now: NOW + LIMIT + 1, ..it });
        let why = "not done within 600 seconds; the last check said: port closed";
        assert_eq!(actions, [Action::Become(Status::Failure, why.into())]);
    }
}

#[test]
fn the_limit_is_a_failure_whatever_the_operation_does() {
    let it = Snapshot {
        pending: pending(Verb::Create, Status::CreatePending, Progress::Waiting),
        now: NOW + LIMIT + 1,
        ..snapshot(Status::CreatePending)
    };
    let why = "not done within 600 seconds; its operation has not ended";
    assert_eq!(plan(&it), [Action::Become(Status::Failure, why.into())]);
    let failed = Snapshot { status: Status::Failure, ..it };
    assert!(plan(&failed).is_empty(), "and the operation stays pending until it ends or is cancelled");
    let late = Snapshot { pending: None, now: NOW + LIMIT + 1, ..snapshot(Status::CreatePending) };
    assert_eq!(becomes(&plan(&late)).map(|(_, w)| w), Some("not done within 600 seconds; no check came back"));
}

// === archiving ===

#[test]
fn a_staging_is_archived_only_when_archive_check_says_so() {
    let actions = plan(&ended(Status::DeletePending, Verb::Delete, Status::Running, Outcome::Succeeded));
    assert_eq!(actions, [ends(Verb::Delete, Outcome::Succeeded), Action::Watch(Watch::ArchiveCheck, Some(op())),]);
    assert!(plan(&watched(Status::DeletePending, Watch::ArchiveCheck, false)).is_empty());
    assert!(plan(&watched(Status::DeletePending, Watch::Check, true)).is_empty(), "a check is no archive_check");
    assert_eq!(
        plan(&watched(Status::DeletePending, Watch::ArchiveCheck, true)),
        [Action::Become(Status::Archived, String::new()), Action::Unwatch,]
    );
}

#[test]
fn a_failed_delete_is_a_failure_and_delete_may_be_repeated() {
    let actions = plan(&ended(Status::DeletePending, Verb::Delete, Status::Running, Outcome::Failed));
    assert_eq!(becomes(&actions).map(|(s, _)| s), Some(Status::Failure));
    assert!(actions.contains(&Action::Watch(Watch::Check, Some(op()))));
    assert_eq!(crate::staging::model::why_not(Status::Failure, Verb::Delete), None);
}

#[test]
fn a_delete_that_never_proves_itself_fails_with_the_limit_and_is_checked_for_life_again() {
    let it = Snapshot { now: NOW + LIMIT + 1, ..watched(Status::DeletePending, Watch::ArchiveCheck, false) };
    let actions = plan(&it);
    assert_eq!(becomes(&actions).map(|(s, _)| s), Some(Status::Failure));
    assert_eq!(actions[1], Action::Watch(Watch::Check, None));
}

// === a refused tag ===

#[test]
fn a_refused_create_leaves_nothing() {
    let actions = plan(&ended(Status::CreatePending, Verb::Create, Status::CreatePending, Outcome::Refused));
    assert_eq!(actions, [ends(Verb::Create, Outcome::Refused), Action::Remove]);
}

#[test]
fn a_refused_update_goes_back_to_what_it_was() {
    for previous in [Status::Running, Status::Failure] {
        let actions = plan(&ended(Status::UpdatePending, Verb::Update, previous, Outcome::Refused));
        assert_eq!(
            actions,
            [
                ends(Verb::Update, Outcome::Refused),
                Action::Revert(op()),
                Action::Become(previous, "the wrapper's last lines".into()),
                Action::Watch(Watch::Check, Some(op())),
            ]
        );
    }
}

#[test]
fn a_refused_restore_stays_archived_and_is_not_watched() {
    let actions = plan(&ended(Status::CreatePending, Verb::Restore, Status::Archived, Outcome::Refused));
    assert_eq!(becomes(&actions).map(|(s, _)| s), Some(Status::Archived));
    assert!(!actions.iter().any(|a| matches!(a, Action::Watch(..))));
}

// === cleaning up ===

#[test]
fn a_cleanup_that_succeeded_removes_the_staging() {
    let actions = plan(&ended(Status::Archived, Verb::Cleanup, Status::Archived, Outcome::Succeeded));
    assert_eq!(actions, [ends(Verb::Cleanup, Outcome::Succeeded), Action::Remove]);
}

#[test]
fn a_cleanup_that_failed_loses_nothing() {
    for outcome in [Outcome::Failed, Outcome::TimedOut, Outcome::Cancelled, Outcome::Interrupted, Outcome::Late] {
        let actions = plan(&ended(Status::Archived, Verb::Cleanup, Status::Archived, outcome));
        assert_eq!(actions, [ends(Verb::Cleanup, outcome)], "it stays Archived and can be cleaned up again");
    }
}

fn kept(days: Option<i64>, since: i64, warned: Option<i64>) -> Vec<Action> {
    plan(&Snapshot {
        project: ProjectSpec { archived_retention_days: days, ..spec() },
        archived_at: Some(since),
        retention_warned_at: warned,
        ..snapshot(Status::Archived)
    })
}

#[test]
fn an_archived_staging_is_kept_for_ever_unless_its_project_says_otherwise() {
    assert!(kept(None, 0, None).is_empty());
}

#[test]
fn retention_warns_a_day_before_and_then_cleans_up() {
    assert!(kept(Some(7), NOW - 6 * DAY + 1, None).is_empty(), "not yet");
    assert_eq!(kept(Some(7), NOW - 6 * DAY, None), [Action::WarnOfEnd(NOW + DAY)]);
    assert!(kept(Some(7), NOW - 7 * DAY + 1, Some(NOW - DAY)).is_empty(), "warned, not over");
    assert_eq!(kept(Some(7), NOW - 7 * DAY, Some(NOW - DAY)), [Action::CleanUp]);
}

#[test]
fn a_retention_made_shorter_still_warns_a_whole_day_before() {
    assert_eq!(kept(Some(1), NOW - 30 * DAY, None), [Action::WarnOfEnd(NOW + WARN_BEFORE)]);
    assert!(kept(Some(1), NOW - 30 * DAY, Some(NOW - DAY + 1)).is_empty());
    assert_eq!(kept(Some(1), NOW - 30 * DAY, Some(NOW - DAY)), [Action::CleanUp]);
}

// === what an agent says ===

#[test]
fn only_the_end_is_an_end() {
    let say = |phase, outcome| progress(phase, outcome, 7, end(Outcome::Failed));
    assert_eq!(say(Phase::Waiting, false), Progress::Waiting);
    assert_eq!(say(Phase::Working, false), Progress::Running(7));
    assert_eq!(say(Phase::Failed, false), Progress::Waiting);
    assert_eq!(say(Phase::Failed, true), Progress::Ended(end(Outcome::Failed)));
}

#[test]
fn an_update_that_was_never_started_leaves_everything_as_it_was() {
    for outcome in [Outcome::Late, Outcome::Cancelled, Outcome::Failed] {
        let never = End { started_at: None, exit_code: None, signal: None, ..end(outcome) };
        let pending = pending(Verb::Update, Status::Running, Progress::Ended(never));
        let it = Snapshot { pending, ..snapshot(Status::UpdatePending) };
        let planned = plan(&it);
        assert!(planned.contains(&Action::Revert(op())), "{outcome:?}: {planned:?}");
        assert_eq!(becomes(&planned).map(|(status, _)| status), Some(Status::Running), "{outcome:?}");
    }
}
