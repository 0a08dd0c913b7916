use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    host::Machine,
    ledger::{Generation, Group, Key, Reason, Record, Stage, model::Starting},
    spool::Frame,
};

/// Counts how often each document was run; `hang` waits for its cancellation.
#[derive(Default)]
struct Job(Mutex<BTreeMap<String, u32>>);

impl Driver for Job {
    fn capability(&self) -> Capability {
        Capability { kind: "t.job", versions: (1, 1), offers: vec![] }
    }
    fn admit(&self, document: &[u8]) -> Result<(), Refused> {
        if document == b"bad" { Err(Refused::new(Reason::Malformed, "bad")) } else { Ok(()) }
    }
    fn act(&self) -> Act<'_> {
        Act::Once(self)
    }
}

impl Once for Job {
    fn run<'a>(&'a self, work: Attempt<'a>) -> BoxFuture<'a, End> {
        Box::pin(async move {
            *self.0.lock().unwrap().entry(work.assignment.key.id.clone()).or_default() += 1;
            let hangs = work.assignment.document == "hang";
            if work.assignment.document == "steps" {
                work.home.tell(Bytes::from_static(b"1"));
                work.home.tell(Bytes::from_static(b"2"));
                tokio::task::yield_now().await;
                work.home.tell(Bytes::from_static(b"3"));
            }
            if hangs {
                work.cancel.cancelled().await;
            }
            End { succeeded: !hangs, conditions: vec![], result: Bytes::from_static(b"r") }
        })
    }
}

/// Needs as many actions as the document says; undoing needs one.
#[derive(Default)]
struct Count(AtomicU32);

impl Driver for Count {
    fn capability(&self) -> Capability {
        Capability { kind: "t.count", versions: (1, 1), offers: vec![] }
    }
    fn admit(&self, _: &[u8]) -> Result<(), Refused> {
        Ok(())
    }
    fn act(&self) -> Act<'_> {
        Act::Standing(self)
    }
}

impl Standing for Count {
    fn turn<'a>(&'a self, assignment: &'a Assignment) -> BoxFuture<'a, Turn> {
        let goal: u32 = String::from_utf8_lossy(&assignment.document).parse().unwrap();
        let done = self.0.load(Ordering::SeqCst) >= goal;
        if !done {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        Box::pin(async move { if done { Turn::Settled(Settled::default()) } else { Turn::Acted } })
    }
    fn undo<'a>(&'a self, _: &'a Assignment) -> BoxFuture<'a, Turn> {
        let was = self.0.swap(0, Ordering::SeqCst);
        Box::pin(async move { if was == 0 { Turn::Settled(Settled::default()) } else { Turn::Acted } })
    }
}

struct World {
    kernel: Arc<Kernel>,
    jobs: Arc<Job>,
    count: Arc<Count>,
}

impl World {
    fn open(dir: &Path) -> Self {
        let host = Arc::new(Machine::new(None));
        let ledger = Ledger::open(dir, host.now_ms()).unwrap().ledger;
        let spool = Spool::open(dir, 1 << 20, &[], ledger.read(|s| s.outcomes().cloned().collect::<Vec<_>>())).unwrap();
        let (jobs, count) = (Arc::new(Job::default()), Arc::new(Count::default()));
        let drivers: Vec<Arc<dyn Driver>> = vec![jobs.clone(), count.clone()];
        let blobs = Blobs::open(dir, 1 << 20).unwrap();
        let kernel = Kernel::new(ledger, spool.into(), blobs.into(), host, drivers, vec!["t.*".into()], dir.into());
        Self { kernel: kernel.into(), jobs, count }
    }

    /// Runs the loop until a report satisfies the question; returns all that was said.
    async fn until(&self, mut enough: impl FnMut(&Report) -> bool) -> Vec<Report> {
        let stop = CancellationToken::new();
        let work = tokio::spawn(work::run(self.kernel.clone(), stop.clone(), || ()));
        let mut said = Vec::new();
        loop {
            match self.kernel.spool.next(0) {
                Some(Frame::Report(report)) => {
                    let last = enough(&report);
                    said.push(report);
                    if last {
                        break;
                    }
                }
                Some(_) => {}
                None => self.kernel.spool.filled().await,
            }
        }
        stop.cancel();
        work.await.unwrap();
        said
    }

    fn put(&self, assignment: Assignment) {
        intake::take(&self.kernel, vec![assignment]).unwrap();
    }

    fn runs(&self, id: &str) -> u32 {
        self.jobs.0.lock().unwrap().get(id).copied().unwrap_or(0)
    }
}

fn assignment(kind: &str, id: &str, number: u64, document: &str) -> Assignment {
    Assignment {
        key: Key::new(kind, id),
        generation: Generation { epoch: 0, number },
        once: kind == "t.job",
        version: 1,
        digest: Bytes::copy_from_slice(&muster_pki::sha256(document.as_bytes())),
        document: Bytes::copy_from_slice(document.as_bytes()),
        ..Assignment::default()
    }
}

fn withdrawn(mut assignment: Assignment) -> Assignment {
    assignment.generation.number += 1;
    Assignment { withdrawn: true, digest: Bytes::new(), document: Bytes::new(), ..assignment }
}

#[tokio::test]
async fn once_work_runs_once_and_its_outcome_is_durable_before_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    world.put(assignment("t.job", "a", 1, "x"));
    let said = world.until(|r| r.outcome).await;
    let outcome = said.last().unwrap();
    assert_eq!((outcome.phase(), outcome.attempt), (Phase::Succeeded, 1));
    assert!(world.kernel.ledger.read(|s| s.outcomes().any(|o| o == outcome)));
    let again = World::open(dir.path());
    again.put(assignment("t.job", "a", 1, "x"));
    assert_eq!(again.until(|r| r.outcome).await.last(), Some(outcome), "said again, as it was");
    again.kernel.acknowledge(outcome.seq);
    again.put(assignment("t.job", "a", 9, "x"));
    let repeated = again.until(|r| r.outcome).await;
    assert_eq!((repeated[0].generation, &repeated[0].result), (9, &outcome.result));
    assert_eq!((world.runs("a"), again.runs("a")), (1, 0));
}

#[tokio::test]
async fn work_says_how_far_it_is_and_the_outcome_comes_last() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    world.put(assignment("t.job", "a", 1, "steps"));
    let said = world.until(|r| r.outcome).await;
    let told: Vec<_> = said.iter().map(|r| (r.phase(), r.result.clone(), r.attempt)).collect();
    assert!(told.contains(&(Phase::Working, Bytes::from_static(b"2"), 1)), "{told:?}");
    assert!(!told.contains(&(Phase::Working, Bytes::from_static(b"1"), 1)), "a newer one took its place: {told:?}");
    assert_eq!(told.last(), Some(&(Phase::Succeeded, Bytes::from_static(b"r"), 1)));
    assert!(said.is_sorted_by_key(|r| r.seq), "each is newer than the one before");
}

#[tokio::test]
async fn every_process_group_of_an_attempt_is_remembered_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    world.put(assignment("t.job", "a", 1, "x"));
    let key = Key::new("t.job", "a");
    let group = |pgid| Group { pgid, started: 1, boot_id: "b".into() };
    let grouped = |pgid, others: &[i32]| {
        let others = others.iter().map(|n| group(*n)).collect();
        Record::Grouped(crate::ledger::model::Grouped { key: key.clone(), group: group(pgid), others })
    };
    let starting = Record::Starting(Starting { key: key.clone(), attempt: 1, boot_id: "b".into() });
    world.kernel.ledger.write(|_| vec![starting, grouped(1, &[]), grouped(2, &[1]), grouped(3, &[2])]).unwrap();
    drop(world);
    let again = World::open(dir.path());
    let held = again.kernel.ledger.read(|s| s.entries[&key].stage.clone());
    assert_eq!(held, Stage::Starting { boot_id: "b".into(), groups: vec![group(2), group(3)] });
    let compacted = again.kernel.ledger.read(|s| s.records());
    let mut rebuilt = crate::ledger::State::default();
    compacted.into_iter().for_each(|record| rebuilt.apply(record));
    assert_eq!(rebuilt.entries[&key].stage, held);
}

#[tokio::test]
async fn late_and_withdrawn_work_is_never_started() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    world.put(Assignment { start_by_ms: 1, ..assignment("t.job", "late", 1, "x") });
    world.put(assignment("t.job", "gone", 1, "x"));
    world.put(withdrawn(assignment("t.job", "gone", 1, "x")));
    let mut left = 2;
    let said = world.until(|r| {
        left -= u32::from(r.outcome);
        left == 0
    });
    let phases: Vec<_> = said.await.iter().map(|r| (r.id.clone(), r.phase(), r.attempt)).collect();
    assert!(phases.contains(&("late".into(), Phase::Late, 0)), "{phases:?}");
    assert!(phases.contains(&("gone".into(), Phase::Cancelled, 0)), "{phases:?}");
    assert!(world.jobs.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn withdrawing_running_work_cancels_it() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    world.put(assignment("t.job", "a", 1, "hang"));
    let said = world.until(|r| {
        if r.phase() == Phase::Working {
            world.put(withdrawn(assignment("t.job", "a", 1, "hang")));
        }
        r.outcome
    });
    let outcome = said.await.pop().unwrap();
    assert_eq!((outcome.phase(), outcome.may_have_run), (Phase::Cancelled, true));
}

#[tokio::test]
async fn a_stop_or_a_revocation_interrupts_running_work() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    world.put(assignment("t.job", "stopped", 1, "hang"));
    world.until(|r| r.phase() == Phase::Working).await;
    assert_eq!(world.kernel.ledger.read(|s| s.outcomes().map(Report::phase).collect::<Vec<_>>()), [Phase::Interrupted]);
    world.put(assignment("t.job", "revoked", 2, "hang"));
    let said = world.until(|r| {
        if r.phase() == Phase::Working {
            world.kernel.set_revoked(true);
        }
        r.outcome && r.id == "revoked"
    });
    assert_eq!(said.await.pop().unwrap().phase(), Phase::Interrupted);
}

#[tokio::test]
async fn work_found_in_the_middle_follows_its_documents_word() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    world.put(assignment("t.job", "report", 1, "x"));
    world.put(Assignment { rerun: true, ..assignment("t.job", "rerun", 1, "x") });
    for id in ["report", "rerun"] {
        let starting = Starting { key: Key::new("t.job", id), attempt: 1, boot_id: "b".into() };
        world.kernel.ledger.write(|_| vec![Record::Starting(starting)]).unwrap();
    }
    drop(world);
    let world = World::open(dir.path());
    let mut left = 2;
    let said = world.until(|r| {
        left -= u32::from(r.outcome);
        left == 0
    });
    let mut ends: Vec<_> = said.await.into_iter().filter(|r| r.outcome).collect();
    ends.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!((ends[0].phase(), ends[0].may_have_run, ends[0].attempt), (Phase::Interrupted, true, 1));
    assert_eq!((ends[1].phase(), ends[1].attempt), (Phase::Succeeded, 2));
    assert_eq!((world.runs("report"), world.runs("rerun")), (0, 1));
}

#[tokio::test]
async fn a_process_left_by_a_former_run_is_ended_before_its_work_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    world.put(assignment("t.job", "a", 1, "x"));
    let mut left = std::os::unix::process::CommandExt::process_group(std::process::Command::new("sleep").arg("300"), 0)
        .spawn()
        .unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", left.id())).unwrap();
    let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    let group = Group { pgid: left.id() as i32, started, boot_id: world.kernel.host.boot_id() };
    let key = Key::new("t.job", "a");
    let starting = Starting { key: key.clone(), attempt: 1, boot_id: group.boot_id.clone() };
    let grouped = crate::ledger::model::Grouped { key, group, others: vec![] };
    world.kernel.ledger.write(|_| vec![Record::Starting(starting), Record::Grouped(grouped)]).unwrap();
    let outcome = world.until(|r| r.outcome).await.pop().unwrap();
    assert_eq!(outcome.phase(), Phase::Interrupted);
    assert!(left.try_wait().unwrap().is_some(), "the process is gone");
}

#[tokio::test]
async fn applied_is_said_only_when_nothing_is_left_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    world.put(assignment("t.count", "a", 1, "3"));
    let said = world.until(|r| {
        assert!(r.phase() != Phase::Applied || world.count.0.load(Ordering::SeqCst) == 3);
        r.phase() == Phase::Applied
    });
    assert_eq!(said.await.pop().unwrap().generation, 1);
    world.put(assignment("t.count", "a", 2, "5"));
    let last = world.until(|r| r.phase() == Phase::Applied && r.generation == 2).await.pop().unwrap();
    assert_eq!((last.generation, world.count.0.load(Ordering::SeqCst)), (2, 5));
}

#[tokio::test]
async fn a_withdrawal_is_undone_and_leaves_the_ledger_when_home_knows() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    world.put(assignment("t.count", "a", 1, "2"));
    world.until(|r| r.phase() == Phase::Applied).await;
    world.put(withdrawn(assignment("t.count", "a", 1, "2")));
    let gone = world.until(|r| r.phase() == Phase::Gone).await.pop().unwrap();
    assert_eq!((gone.generation, world.count.0.load(Ordering::SeqCst)), (2, 0));
    assert_eq!(world.kernel.ledger.read(|s| s.entries.len()), 1);
    world.kernel.acknowledge(gone.seq);
    assert_eq!(world.kernel.ledger.read(|s| s.entries.len()), 0);
}

#[tokio::test]
async fn what_cannot_be_acted_on_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    let version = Assignment { version: 7, ..assignment("t.job", "version", 1, "x") };
    for new in [assignment("u.x", "kind", 1, "x"), version, assignment("t.job", "bad", 1, "bad")] {
        world.put(new);
    }
    let said = std::iter::from_fn(|| world.kernel.spool.next(0)).map(|frame| match frame {
        Frame::Refuse(key, _, refused) => (key.id, refused.reason),
        other => panic!("{other:?}"),
    });
    let said: BTreeMap<String, Reason> = said.collect();
    assert_eq!(said["kind"], Reason::UnknownKind);
    assert_eq!(said["version"], Reason::UnknownVersion);
    assert_eq!(said["bad"], Reason::Malformed);
    assert_eq!(world.kernel.ledger.read(|s| s.entries.len()), 0);
}

#[tokio::test]
async fn generations_that_arrive_together_leave_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path());
    let all = [3, 1, 2].map(|n| assignment("t.count", "a", n, "1"));
    intake::take(&world.kernel, all.to_vec()).unwrap();
    let held = world.kernel.ledger.read(|s| s.entries[&Key::new("t.count", "a")].clone());
    assert_eq!((held.assignment.generation.number, held.stage), (3, Stage::Standing));
}

#[test]
fn a_glob_matches_the_whole_kind() {
    assert!(matches("*", "staging.watch") && matches("staging.*", "staging.watch") && matches("a*c*e", "abcde"));
    assert!(!matches("staging.*", "fleet.settings") && !matches("staging", "staging.watch"));
}
