use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::super::plan::{Action, History, Need, On, Outcome, Pipeline, Repeat, Stand, Task, next};

const NOW: Duration = Duration::ZERO;

/// Tasks by name with what they need: `?` before a name means any end, `!` a failure.
fn pipeline(tasks: &[(&str, &[&str])]) -> Pipeline {
    let at = |name: &str| tasks.iter().position(|(known, _)| *known == name).unwrap();
    let need = |text: &&str| match text.split_at(1) {
        ("?", name) => Need { task: at(name), on: On::Any },
        ("!", name) => Need { task: at(name), on: On::Failure },
        _ => Need { task: at(text), on: On::Success },
    };
    let task = |(name, needs): &(&str, &[&str])| Task {
        name: (*name).into(),
        needs: needs.iter().map(need).collect(),
        ..Task::default()
    };
    Pipeline { tasks: tasks.iter().map(task).collect(), ..Pipeline::default() }
}

/// Plays a pipeline to its end; tasks end at once, in the order of their begin. Gives what happened in words.
fn play(pipeline: &Pipeline, outcome: impl Fn(&str, u32, u32) -> Outcome) -> (Vec<String>, Option<String>) {
    let (mut history, mut now, mut told) = (History::new(pipeline), NOW, Vec::new());
    for _ in 0..10_000 {
        let mut started = Vec::new();
        let mut wake = None;
        let actions = next(pipeline, &history, now);
        assert_eq!(actions, next(pipeline, &history, now), "equal histories give equal actions");
        for action in actions {
            match action {
                Action::Start(at) => {
                    history.started(at);
                    started.push(at);
                }
                Action::Skip(at, why) => {
                    told.push(format!("{} skipped: {why}", pipeline.tasks[at].name));
                    history.skipped(at);
                }
                Action::Cancel(at) => history.ended(pipeline, at, Outcome::Cancelled, now),
                Action::Wake(at) => wake = Some(at),
                Action::End(verdict) => return (told, verdict),
            }
        }
        for at in &started {
            let (name, slot) = (&pipeline.tasks[*at].name, history.slots[*at]);
            told.push(format!("{name}{}.{}", slot.cycle, slot.attempt));
            history.ended(pipeline, *at, outcome(name, slot.cycle, slot.attempt), now);
        }
        if started.is_empty() {
            now = wake.unwrap_or(now);
        }
    }
    panic!("it has no end: {told:?}");
}

fn well(_: &str, _: u32, _: u32) -> Outcome {
    Outcome::Succeeded
}

fn names(pipeline: &Pipeline, history: &History) -> Vec<String> {
    let started = next(pipeline, history, NOW).into_iter().filter_map(|action| match action {
        Action::Start(at) => Some(pipeline.tasks[at].name.clone()),
        _ => None,
    });
    started.collect()
}

#[test]
fn a_task_begins_when_all_it_needs_has_ended() {
    let it = pipeline(&[("d", &["b", "c"]), ("a", &[]), ("b", &["a"]), ("c", &["a"])]);
    let (told, verdict) = play(&it, well);
    assert_eq!((told, verdict), (["a0.1", "b0.1", "c0.1", "d0.1"].map(str::to_owned).to_vec(), None));
}

#[test]
fn no_more_run_at_once_than_may() {
    let mut it = pipeline(&[("a", &[]), ("b", &[]), ("c", &[])]);
    it.parallel = 2;
    let mut history = History::new(&it);
    assert_eq!(names(&it, &history), ["a", "b"]);
    history.started(0);
    history.started(1);
    assert!(next(&it, &history, NOW).is_empty());
    history.ended(&it, 1, Outcome::Succeeded, NOW);
    assert_eq!(names(&it, &history), ["c"]);
}

#[test]
fn what_needs_another_end_is_skipped_and_says_why() {
    let it = pipeline(&[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("mend", &["!a"]), ("last", &["?c", "?mend"])]);
    let failing = |name: &str, _, _| if name == "a" { Outcome::Failed } else { Outcome::Succeeded };
    let (told, verdict) = play(&it, failing);
    assert_eq!(told, ["a0.1", "b skipped: a failed", "mend0.1", "c skipped: b was skipped", "last0.1"]);
    assert_eq!(verdict.as_deref(), Some("failed: a"));
    let (told, verdict) = play(&it, well);
    assert_eq!(told, ["a0.1", "mend skipped: a succeeded", "b0.1", "c0.1", "last0.1"]);
    assert_eq!(verdict, None);
}

#[test]
fn a_failure_nobody_waits_for_ends_a_pipeline_that_stops_early() {
    let mut it = pipeline(&[("a", &[]), ("b", &[]), ("after", &["b"])]);
    it.early_stopping = true;
    let failing = |name: &str, _, _| if name == "a" { Outcome::Failed } else { Outcome::Succeeded };
    let (told, verdict) = play(&it, failing);
    assert_eq!(told, ["a0.1", "b0.1", "after skipped: a failed"]);
    assert_eq!(verdict.as_deref(), Some("failed: a"));
    let mut history = History::new(&it);
    history.started(0);
    history.started(1);
    history.ended(&it, 0, Outcome::Failed, NOW);
    assert_eq!(next(&it, &history, NOW), [Action::Cancel(1), Action::Skip(2, "a failed".into())]);
    let mut awaited = pipeline(&[("a", &[]), ("mend", &["!a"])]);
    awaited.early_stopping = true;
    assert_eq!(play(&awaited, failing).0, ["a0.1", "mend0.1"], "a failure that is awaited ends nothing");
}

#[test]
fn a_failed_try_is_followed_by_another_when_it_is_due() {
    let mut it = pipeline(&[("a", &[]), ("b", &["a"])]);
    it.tasks[0].retries = 2;
    it.tasks[0].retry_delay = Duration::from_secs(5);
    let second = |name: &str, _, attempt| if name == "a" && attempt < 2 { Outcome::Failed } else { Outcome::Succeeded };
    assert_eq!(play(&it, second), (vec!["a0.1".into(), "a0.2".into(), "b0.1".into()], None));
    let (told, verdict) = play(&it, |_, _, _| Outcome::Failed);
    assert_eq!(told, ["a0.1", "a0.2", "a0.3", "b skipped: a failed"]);
    assert_eq!(verdict.as_deref(), Some("failed: a"));
    let mut history = History::new(&it);
    history.started(0);
    history.ended(&it, 0, Outcome::Failed, Duration::from_secs(1));
    assert_eq!(next(&it, &history, Duration::from_secs(5)), [Action::Wake(Duration::from_secs(6))]);
    assert_eq!(next(&it, &history, Duration::from_secs(6)), [Action::Start(0)]);
}

#[test]
fn a_repeat_begins_its_part_again_before_anybody_sees_an_end() {
    let mut it = pipeline(&[("a", &[]), ("b", &["a"]), ("side", &["a"]), ("c", &["b"]), ("end", &["c"])]);
    it.tasks[3].repeat = Some(Repeat { from: 1, times: 2 });
    assert_eq!(it.part(1, 3), [1, 3]);
    assert_eq!(it.part(0, 3), [0, 1, 3]);
    let (told, verdict) = play(&it, well);
    assert_eq!(told, ["a0.1", "b0.1", "side0.1", "c0.1", "b1.1", "c1.1", "b2.1", "c2.1", "end0.1"]);
    assert_eq!(verdict, None);
    let failing = |name: &str, cycle, _| if name == "b" && cycle == 1 { Outcome::Failed } else { Outcome::Succeeded };
    let (told, verdict) = play(&it, failing);
    assert_eq!(told[3..], ["c0.1", "b1.1", "c skipped: b failed", "end skipped: c was skipped"]);
    assert_eq!(verdict.as_deref(), Some("failed: b"));
}

#[test]
fn a_stopped_pipeline_begins_nothing_and_ends_with_its_reason() {
    let it = pipeline(&[("a", &[]), ("b", &["a"])]);
    let mut history = History::new(&it);
    history.started(0);
    history.stop("it was cancelled".into());
    history.stop("a later reason".into());
    assert_eq!(next(&it, &history, NOW), [Action::Cancel(0), Action::Skip(1, "it was cancelled".into())]);
    history.skipped(1);
    history.ended(&it, 0, Outcome::Cancelled, NOW);
    assert_eq!(next(&it, &history, NOW), [Action::End(Some("it was cancelled".into()))]);
}

#[test]
fn a_circle_is_named() {
    assert_eq!(pipeline(&[("a", &[]), ("b", &["a"])]).circle(), None);
    assert_eq!(
        pipeline(&[("a", &["c"]), ("b", &["a"]), ("c", &["b"]), ("d", &["c"])]).circle().as_deref(),
        Some("a, b, c")
    );
}

proptest! {
    /// Whatever the graph and whatever fails: every task ends or is skipped, none begins before what it needs has ended as
    /// it wants, none is tried more often than it may be, and equal histories give equal plans.
    #[test]
    fn every_pipeline_comes_to_an_end(
        needs in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8), 0..3), 1..9),
        failing in prop::collection::vec(any::<bool>(), 64),
        retries in prop::collection::vec(0..3_u32, 9),
        repeats in prop::collection::vec(prop::option::of((any::<prop::sample::Index>(), 0..4_u32)), 9),
        early_stopping in any::<bool>(),
        parallel in 0..4_usize,
    ) {
        let mut it = Pipeline { early_stopping, parallel, ..Pipeline::default() };
        for (at, needs) in needs.iter().enumerate() {
            let needs = needs.iter().filter(|_| at > 0).map(|(index, on)| Need {
                task: index.index(at),
                on: [On::Success, On::Failure, On::Any][usize::from(*on)],
            });
            let repeat = repeats[at].map(|(index, times)| Repeat { from: index.index(at + 1), times });
            it.tasks.push(Task { name: at.to_string(), needs: needs.collect(), retries: retries[at], ..Task::default() });
            it.tasks[at].repeat = repeat.filter(|repeat| !it.part(repeat.from, at).is_empty());
        }
        prop_assert_eq!(it.circle(), None);
        let fails = |name: &str, cycle: u32, attempt: u32| {
            let n = name.parse::<usize>().unwrap() * 7 + cycle as usize * 3 + attempt as usize;
            if failing[n % failing.len()] { Outcome::Failed } else { Outcome::Succeeded }
        };
        let (told, _) = play(&it, fails);
        let mut tries: BTreeMap<&str, u32> = BTreeMap::new();
        told.iter().filter(|said| !said.contains(' ')).for_each(|said| *tries.entry(said.split('.').next().unwrap()).or_default() += 1);
        for (which, count) in tries {
            let at: usize = which[..1].parse().unwrap();
            prop_assert!(count <= it.tasks[at].retries + 1, "{} was tried {} times: {:?}", which, count, told);
        }
        for at in 0..it.tasks.len() {
            prop_assert!(told.iter().any(|said| said.starts_with(&at.to_string())), "{at} is not heard of: {told:?}");
        }
        let first = |at: usize| told.iter().position(|said| said.starts_with(&format!("{at}0."))).unwrap_or(usize::MAX);
        for (at, task) in it.tasks.iter().enumerate().filter(|(at, _)| first(*at) < usize::MAX) {
            let needed = |need: &Need| told[..first(at)].iter().any(|said| said.starts_with(&need.task.to_string()));
            prop_assert!(task.needs.iter().all(needed), "{at} began too early: {told:?}");
        }
    }
}

#[test]
fn a_history_shows_where_each_task_stands() {
    let it = pipeline(&[("a", &[])]);
    let mut history = History::new(&it);
    history.started(0);
    assert_eq!((history.slots[0].stand, history.slots[0].attempt), (Stand::Running, 1));
}
