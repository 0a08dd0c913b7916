//! Home and one agent as small as they can be, driven through random histories of changes, cuts, crashes, lost ledgers
//! and restores. What is decided on coming home is decided by the real `step` and `adopted`; the rest is the rules of
//! the kernel in their shortest form.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use crate::fleet::model::{Held, Key, LedgerView, Mode, State, Step, Wanted, adopted, step};

/// (epoch, number)
type Generation = (i64, i64);

#[derive(Debug, Clone, Copy)]
enum Op {
    Put(u8, u8),
    PutOnce,
    Withdraw(u8),
    Forget(u8),
    Connect,
    Cut,
    DeliverDown,
    DeliverUp,
    Work(u8),
    AgentDies { after_writing: bool },
    HomeDies { after_writing: bool },
    LoseLedger,
    Backup,
    Restore,
}

#[derive(Debug, Clone)]
struct Row {
    wanted: Wanted,
    /// Home has the document; not so of what it adopted.
    has_document: bool,
}

#[derive(Debug, Clone, Default)]
struct Home {
    epoch: i64,
    head: i64,
    rows: BTreeMap<Key, Row>,
    ledger: u32,
    acknowledged: BTreeMap<u32, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Standing { applied: Option<Generation> },
    Accepted,
    Starting,
    Finished,
    Done,
}

#[derive(Debug, Clone)]
struct Entry {
    generation: Generation,
    digest: String,
    stage: Stage,
}

#[derive(Debug, Clone)]
struct Report {
    seq: u64,
    key: Key,
    generation: Generation,
    running: bool,
    outcome: bool,
    gone: bool,
}

#[derive(Debug, Default)]
struct Agent {
    ledger: u32,
    seq: u64,
    entries: BTreeMap<Key, Entry>,
    /// Said and not acknowledged.
    said: Vec<Report>,
}

enum Down {
    Assign(Wanted),
    Ack(u64),
}

enum Up {
    Accept(Key, i64),
    Report(Report),
}

#[derive(Default)]
struct Link {
    down: VecDeque<Down>,
    up: VecDeque<Up>,
}

#[derive(Default)]
struct World {
    home: Home,
    backup: Option<Home>,
    agent: Agent,
    link: Option<Link>,
    next_once: u32,
    /// What the host has seen, whatever became of ledgers: runs of once work, and the newest generation applied.
    runs: BTreeMap<Key, u32>,
    applied: BTreeMap<Key, Generation>,
    /// Outcomes that home acknowledged since it was last restored.
    acknowledged: BTreeSet<Key>,
}

fn standing(n: u8) -> Key {
    Key { kind: "test.standing".into(), id: n.to_string() }
}

// === impl Home ===

impl Home {
    fn next(&mut self) -> Generation {
        self.head += 1;
        (self.epoch, self.head)
    }

    fn put(&mut self, key: &Key, mode: Mode, digest: &str) {
        if self.rows.get(key).is_some_and(|r| mode == Mode::Once || r.wanted.digest == digest) {
            return;
        }
        let (epoch, generation) = self.next();
        let (key, digest, state) = (key.clone(), digest.into(), State::Queued);
        let wanted = Wanted { key: key.clone(), epoch, generation, mode, digest, state, refused: None };
        self.rows.insert(key, Row { wanted, has_document: true });
    }

    fn withdraw(&mut self, key: &Key) {
        let (epoch, generation) = self.next();
        let Some(Row { wanted, .. }) = self.rows.get_mut(key) else { return };
        if wanted.digest.is_empty() || wanted.state == State::Finished {
            return;
        }
        (wanted.epoch, wanted.generation) = (epoch, generation);
        wanted.digest.clear();
        wanted.state = match (wanted.mode, wanted.state) {
            (Mode::Standing, _) => State::Queued,
            (Mode::Once, State::Queued) => State::Finished,
            (Mode::Once, state) => state,
        };
    }

    fn hear(&mut self, ledger: u32, said: &Up) -> Option<Down> {
        match said {
            Up::Accept(key, generation) => {
                if let Some(Row { wanted, .. }) = self.rows.get_mut(key)
                    && wanted.generation == *generation
                    && matches!(wanted.state, State::Queued | State::Offered)
                {
                    wanted.state = State::Accepted;
                }
                None
            }
            Up::Report(report) => {
                if let Some(Row { wanted, .. }) = self.rows.get_mut(&report.key) {
                    if report.outcome {
                        wanted.state = State::Finished;
                    } else if report.running && wanted.state != State::Finished {
                        wanted.state = State::Running;
                    } else if report.gone && wanted.digest.is_empty() && wanted.generation == report.generation.1 {
                        self.rows.remove(&report.key);
                    }
                }
                let upto = self.acknowledged.entry(ledger).or_default();
                *upto = report.seq.max(*upto);
                Some(Down::Ack(*upto))
            }
        }
    }

    /// A former state of home comes back. What it knows of standing assignments outranks what was sent since.
    fn restored(mut self, epoch: i64) -> Self {
        self.epoch = epoch;
        for row in self.rows.values_mut().filter(|r| r.wanted.mode == Mode::Standing && r.has_document) {
            (row.wanted.epoch, row.wanted.state) = (epoch, State::Queued);
        }
        self
    }
}

// === impl Agent ===

impl Agent {
    /// Takes an assignment, durably. A home that keeps the rules is never refused.
    fn take(&mut self, new: &Wanted) -> Vec<Up> {
        let generation = (new.epoch, new.generation);
        let accept = Up::Accept(new.key.clone(), new.generation);
        let once = new.mode == Mode::Once;
        match self.entries.get_mut(&new.key) {
            None => {
                let stage = if once { Stage::Accepted } else { Stage::Standing { applied: None } };
                self.entries.insert(new.key.clone(), Entry { generation, digest: new.digest.clone(), stage });
                vec![accept]
            }
            Some(entry) if matches!(entry.stage, Stage::Done | Stage::Finished) => {
                entry.generation = generation;
                entry.stage = Stage::Finished;
                vec![accept, self.say(&new.key)]
            }
            Some(entry) if generation > entry.generation => {
                assert!(
                    !once || new.digest.is_empty() || new.digest == entry.digest,
                    "a once document changed: {new:?}"
                );
                (entry.generation, entry.digest) = (generation, new.digest.clone());
                vec![accept]
            }
            Some(entry) => {
                assert_eq!(
                    (entry.generation, &entry.digest),
                    (generation, &new.digest),
                    "older, or other bytes: {new:?}"
                );
                vec![accept]
            }
        }
    }

    fn say(&mut self, key: &Key) -> Up {
        let entry = &self.entries[key];
        self.seq += 1;
        let report = Report {
            seq: self.seq,
            key: key.clone(),
            generation: entry.generation,
            running: entry.stage == Stage::Starting,
            outcome: entry.stage == Stage::Finished,
            gone: matches!(entry.stage, Stage::Standing { .. }) && entry.digest.is_empty(),
        };
        self.said.push(report.clone());
        Up::Report(report)
    }

    /// What a ledger says again on a new stream.
    fn say_all_again(&mut self) -> Vec<Up> {
        self.said.clear();
        let due = |e: &Entry| match e.stage {
            Stage::Standing { applied } => applied == Some(e.generation),
            stage => stage == Stage::Finished,
        };
        let keys: Vec<_> = self.entries.iter().filter(|(_, e)| due(e)).map(|(k, _)| k.clone()).collect();
        keys.iter().map(|k| self.say(k)).collect()
    }

    /// Gives the keys of outcomes that home has by its own word.
    fn acknowledge(&mut self, upto: u64) -> Vec<Key> {
        let (known, rest): (Vec<_>, Vec<_>) = self.said.drain(..).partition(|r| r.seq <= upto);
        self.said = rest;
        let mut outcomes = Vec::new();
        for report in known {
            match self.entries.get_mut(&report.key) {
                Some(entry) if report.outcome => {
                    entry.stage = Stage::Done;
                    outcomes.push(report.key);
                }
                Some(entry) if report.gone && entry.generation == report.generation => {
                    self.entries.remove(&report.key);
                }
                _ => {}
            }
        }
        outcomes
    }

    fn dies(&mut self) {
        self.said.clear();
        let starting = self.entries.values_mut().filter(|e| e.stage == Stage::Starting);
        starting.for_each(|e| e.stage = Stage::Finished);
    }

    fn hello(&self, same_ledger: bool) -> (LedgerView, Vec<Held>) {
        let held = |(key, e): (&Key, &Entry)| Held {
            key: key.clone(),
            epoch: e.generation.0,
            generation: e.generation.1,
            digest: e.digest.clone(),
            once: !matches!(e.stage, Stage::Standing { .. }),
        };
        let held: Vec<_> = self.entries.iter().filter(|(_, e)| e.stage != Stage::Done).map(held).collect();
        let done = self.entries.iter().filter(|(_, e)| e.stage == Stage::Done).map(|(k, _)| k.clone()).collect();
        let by_key = held.iter().map(|h| (h.key.clone(), (h.epoch, h.generation, h.digest.clone()))).collect();
        (LedgerView { same_ledger, held: by_key, done, capability_digest: "able".into() }, held)
    }
}

// === impl World ===

impl World {
    fn run(&mut self, op: Op) {
        match op {
            Op::Put(n, document) => {
                self.home.put(&standing(n), Mode::Standing, &format!("document {document}"));
                self.push(&standing(n));
            }
            Op::PutOnce => {
                self.next_once += 1;
                let key = Key { kind: "test.once".into(), id: self.next_once.to_string() };
                self.home.put(&key, Mode::Once, "work");
                self.push(&key);
            }
            Op::Withdraw(n) => {
                if let Some(key) = self.pick(n, |_| true) {
                    self.home.withdraw(&key);
                    self.push(&key);
                }
            }
            Op::Forget(n) => {
                if let Some(key) = self.pick(n, |w| w.state == State::Finished) {
                    self.home.rows.remove(&key);
                }
            }
            Op::Connect => self.connect(),
            Op::Cut => self.link = None,
            Op::DeliverDown => {
                self.deliver_down();
            }
            Op::DeliverUp => {
                self.deliver_up();
            }
            Op::Work(n) => {
                self.work(n);
            }
            Op::AgentDies { after_writing } => {
                if after_writing {
                    self.deliver_down();
                }
                self.link = None;
                self.agent.dies();
            }
            Op::HomeDies { after_writing } => {
                if after_writing {
                    self.deliver_up();
                }
                self.link = None;
            }
            Op::LoseLedger => {
                self.link = None;
                self.agent = Agent { ledger: self.agent.ledger + 1, ..Agent::default() };
            }
            Op::Backup => self.backup = Some(self.home.clone()),
            Op::Restore => {
                if let Some(backup) = self.backup.clone() {
                    self.link = None;
                    self.home = backup.restored(self.home.epoch + 1);
                    self.acknowledged.clear();
                }
            }
        }
    }

    fn pick(&self, n: u8, which: impl Fn(&Wanted) -> bool) -> Option<Key> {
        let keys: Vec<_> = self.home.rows.values().map(|r| &r.wanted).filter(|w| which(w)).map(|w| &w.key).collect();
        keys.get(usize::from(n) % keys.len().max(1)).copied().cloned()
    }

    /// What was committed reaches the stream that is open.
    fn push(&mut self, key: &Key) {
        let Some(link) = &mut self.link else { return };
        let Some(Row { wanted, .. }) = self.home.rows.get_mut(key) else { return };
        let lacks = match wanted.state {
            State::Queued | State::Offered => true,
            State::Accepted | State::Running => wanted.mode == Mode::Once && wanted.digest.is_empty(),
            State::Finished => false,
        };
        if lacks {
            if wanted.mode == Mode::Once && wanted.state == State::Queued {
                wanted.state = State::Offered;
            }
            link.down.push_back(Down::Assign(wanted.clone()));
        }
    }

    fn connect(&mut self) {
        let (view, held) = self.agent.hello(self.home.ledger == self.agent.ledger);
        let home = &mut self.home;
        home.ledger = self.agent.ledger;
        let keys: Vec<_> = home.rows.keys().cloned().collect();
        let known = keys.iter().collect();
        let mut link = Link::default();
        link.down.extend(home.acknowledged.get(&home.ledger).map(|upto| Down::Ack(*upto)));
        for it in adopted(&known, &held, home.epoch) {
            let mode = if it.once { Mode::Once } else { Mode::Standing };
            let (key, epoch, generation, digest) = (it.key.clone(), it.epoch, it.generation, it.digest.clone());
            let wanted = Wanted { key, epoch, generation, mode, digest, state: State::Accepted, refused: None };
            home.rows.insert(it.key.clone(), Row { wanted, has_document: false });
        }
        for key in known {
            let row = home.rows.get_mut(key).expect("it was just read");
            let wanted = &mut row.wanted;
            match step(wanted, &view, home.epoch) {
                Step::Agree => {}
                Step::NoteAccepted => wanted.state = State::Accepted,
                Step::Cancel | Step::Interrupt => wanted.state = State::Finished,
                Step::Send if row.has_document || wanted.digest.is_empty() => {
                    if wanted.mode == Mode::Once && wanted.state == State::Queued {
                        wanted.state = State::Offered;
                    }
                    link.down.push_back(Down::Assign(wanted.clone()));
                }
                Step::Send => {}
                Step::Forget => {
                    home.rows.remove(key);
                }
            }
        }
        link.up.extend(self.agent.say_all_again());
        self.link = Some(link);
    }

    fn deliver_down(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        match link.down.pop_front() {
            None => return false,
            Some(Down::Assign(wanted)) => link.up.extend(self.agent.take(&wanted)),
            Some(Down::Ack(upto)) => self.acknowledged.extend(self.agent.acknowledge(upto)),
        }
        true
    }

    fn deliver_up(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let Some(said) = link.up.pop_front() else { return false };
        link.down.extend(self.home.hear(self.agent.ledger, &said));
        true
    }

    /// One action of the agent's on its host.
    fn work(&mut self, n: u8) -> bool {
        let due = |e: &Entry| match e.stage {
            Stage::Standing { applied } => applied != Some(e.generation),
            Stage::Accepted | Stage::Starting => true,
            Stage::Finished | Stage::Done => false,
        };
        let keys: Vec<_> = self.agent.entries.iter().filter(|(_, e)| due(e)).map(|(k, _)| k.clone()).collect();
        let Some(key) = keys.get(usize::from(n) % keys.len().max(1)) else { return false };
        let entry = self.agent.entries.get_mut(key).expect("it was just read");
        let generation = entry.generation;
        match &mut entry.stage {
            Stage::Standing { applied } => {
                assert!(*applied < Some(generation), "{key:?} was applied before, or something newer was");
                assert!(self.applied.get(key) <= Some(&generation), "the host has seen a newer generation of {key:?}");
                *applied = Some(generation);
                self.applied.insert(key.clone(), generation);
            }
            stage @ Stage::Accepted if entry.digest.is_empty() => *stage = Stage::Finished,
            stage @ Stage::Accepted => {
                *stage = Stage::Starting;
                *self.runs.entry(key.clone()).or_default() += 1;
            }
            stage => *stage = Stage::Finished,
        }
        let said = self.agent.say(key);
        if let Some(link) = &mut self.link {
            link.up.push_back(said);
        }
        true
    }

    fn keeps_its_promises(&self) {
        assert!(self.runs.values().all(|n| *n <= 1), "once work ran twice: {:?}", self.runs);
        for key in &self.acknowledged {
            let row = self.home.rows.get(key);
            assert!(row.is_none_or(|r| r.wanted.state == State::Finished), "an acknowledged outcome is lost: {row:?}");
        }
    }

    /// The link stays up until neither side has anything to say or to do.
    fn settle(&mut self) {
        self.connect();
        for _ in 0..10_000 {
            let moved = [self.deliver_down(), self.deliver_up(), self.work(0)];
            self.keeps_its_promises();
            if moved == [false; 3] {
                return;
            }
        }
        panic!("the two sides talk for ever");
    }

    fn agrees(&self) {
        for row in self.home.rows.values() {
            let Row { wanted, has_document } = row;
            let entry = self.agent.entries.get(&wanted.key);
            match wanted.mode {
                Mode::Once => assert_eq!(wanted.state, State::Finished, "{wanted:?} has no end"),
                Mode::Standing if *has_document => {
                    let generation = (wanted.epoch, wanted.generation);
                    let entry = entry.unwrap_or_else(|| panic!("the agent lacks {wanted:?}"));
                    assert_eq!((entry.generation, &entry.digest), (generation, &wanted.digest));
                    assert_eq!(entry.stage, Stage::Standing { applied: Some(generation) });
                    assert_eq!(wanted.state, State::Accepted);
                }
                // What was adopted stays as it is; a ledger that lost it cannot be given it back.
                Mode::Standing => assert!(entry.is_none_or(|e| e.digest == wanted.digest)),
            }
        }
        for (key, entry) in &self.agent.entries {
            let is_known = self.home.rows.contains_key(key);
            assert!(is_known || entry.stage == Stage::Done, "home does not know of {key:?}: {entry:?}");
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3_u8, 0..3_u8).prop_map(|(n, document)| Op::Put(n, document)),
        3 => Just(Op::PutOnce),
        3 => any::<u8>().prop_map(Op::Withdraw),
        1 => any::<u8>().prop_map(Op::Forget),
        4 => Just(Op::Connect),
        1 => Just(Op::Cut),
        8 => Just(Op::DeliverDown),
        8 => Just(Op::DeliverUp),
        8 => any::<u8>().prop_map(Op::Work),
        1 => any::<bool>().prop_map(|after_writing| Op::AgentDies { after_writing }),
        1 => any::<bool>().prop_map(|after_writing| Op::HomeDies { after_writing }),
        1 => Just(Op::LoseLedger),
        1 => Just(Op::Backup),
        1 => Just(Op::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_runs_twice_nothing_acknowledged_is_lost_and_both_sides_agree_in_the_end(
        history in prop::collection::vec(op(), 0..80)
    ) {
        let mut world = World::default();
        for op in history {
            world.run(op);
            world.keeps_its_promises();
        }
        world.settle();
        world.agrees();
    }
}
