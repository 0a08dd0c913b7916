//! What is to be said to home, kept as state and not as a queue.
//!
//! Of each standing assignment only the newest report waits, of samples only the newest, and of output what fits.
//! Outcomes never give way; the ledger holds them, and they wait here to be sent. The next frame is made when the
//! stream has room for it: answers, reports, questions, a sample, output.

mod log;

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Mutex, MutexGuard},
};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::{
    durable,
    host::Sample,
    ledger::{Generation, Key, Phase, Refused, Report},
};
use log::Logs;
pub use log::{LogKey, Piece};

/// Questions in flight.
const MAX_ASKS: usize = 64;

/// The spool of one agent.
#[derive(Debug)]
pub struct Spool {
    inner: Mutex<Inner>,
    filled: Notify,
}

/// What is said next.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// The stream lives.
    Pong(u64),
    /// A generation is held durably.
    Accept(Key, Generation),
    /// A generation is refused.
    Refuse(Key, Generation, Refused),
    /// Where an assignment stands.
    Report(Report),
    /// A question.
    Ask(Question),
    /// How the host fares.
    Sample(Sample),
    /// Output.
    Log(Piece),
}

/// A question about an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Names the question, however often it is sent.
    pub ask_id: String,
    /// The assignment.
    pub key: Key,
    /// Version of the body's message.
    pub version: u32,
    /// The domain's own message.
    pub body: Bytes,
}

/// Home's answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Answered.
    Ok(Bytes),
    /// Understood, and the answer is no.
    Denied(String),
    /// Nobody at home answers such questions.
    Unknown(String),
    /// Not to be found out at this time, or too many questions are in flight; ask again later.
    Unavailable(String),
}

#[derive(Debug)]
struct Inner {
    pong: Option<u64>,
    answers: BTreeMap<Key, Frame>,
    reports: BTreeMap<u64, Report>,
    newest: BTreeMap<Key, u64>,
    sent: u64,
    stream: u64,
    asks: BTreeMap<String, Asked>,
    unsent_asks: VecDeque<String>,
    sample: Option<Sample>,
    logs: Logs,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    reply: oneshot::Sender<Answer>,
}

// === impl Spool ===

impl Spool {
    /// The spool of a state folder; `known` are the once assignments whose output may lie there, `outcomes` what home
    /// may not have.
    pub fn open(
        state_dir: &Path,
        limit: u64,
        known: &[Key],
        outcomes: impl IntoIterator<Item = Report>,
    ) -> std::io::Result<Self> {
        let folder = state_dir.join("spool");
        durable::folder(&folder)?;
        let inner = Inner {
            pong: None,
            answers: BTreeMap::new(),
            reports: BTreeMap::new(),
            newest: BTreeMap::new(),
            sent: 0,
            stream: 0,
            asks: BTreeMap::new(),
            unsent_asks: VecDeque::new(),
            sample: None,
            logs: Logs::open(&folder, limit, known),
        };
        let spool = Self { inner: Mutex::new(inner), filled: Notify::new() };
        outcomes.into_iter().for_each(|outcome| spool.report(outcome));
        Ok(spool)
    }

    /// Waits until there may be something to say. One waiter at a time.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Wakes the waiter.
    pub fn wake(&self) {
        self.filled.notify_one();
    }

    /// To be said before anything else: the stream lives.
    pub fn pong(&self, nonce: u64) {
        self.change(|inner| inner.pong = Some(nonce));
    }

    /// To be said: a generation is held.
    pub fn accept(&self, key: Key, generation: Generation) {
        self.change(|inner| drop(inner.answers.insert(key.clone(), Frame::Accept(key, generation))));
    }

    /// To be said: a generation is refused.
    pub fn refuse(&self, key: Key, generation: Generation, refused: Refused) {
        self.change(|inner| drop(inner.answers.insert(key.clone(), Frame::Refuse(key, generation, refused))));
    }

    /// To be said: a numbered report. It replaces an older one of the same assignment, unless that is an outcome.
    pub fn report(&self, report: Report) {
        self.change(|inner| {
            let (key, seq) = (report.key(), report.seq);
            if let Some(old) = inner.newest.insert(key, seq)
                && inner.reports.get(&old).is_some_and(|old| !old.outcome)
            {
                inner.reports.remove(&old);
            }
            inner.reports.insert(seq, report);
        });
    }

    /// To be said: how the host fares.
    pub fn sample(&self, sample: Sample) {
        self.change(|inner| inner.sample = Some(sample));
    }

    /// To be sent: output.
    pub fn output(&self, log: &LogKey, bytes: &[u8]) {
        self.change(|inner| inner.logs.append(log, bytes));
    }

    /// Asks home about an assignment. The question is sent again after each reconnect until it is answered.
    pub async fn ask(&self, key: Key, version: u32, body: Bytes) -> Answer {
        let ask_id = muster_pki::hex(&muster_pki::random::<16>());
        let (reply, answer) = oneshot::channel();
        let question = Question { ask_id: ask_id.clone(), key, version, body };
        let taken = self.change(|inner| {
            let room = inner.asks.len() < MAX_ASKS;
            if room {
                inner.unsent_asks.push_back(ask_id.clone());
                inner.asks.insert(ask_id.clone(), Asked { question, reply });
            }
            room
        });
        if !taken {
            return Answer::Unavailable(format!("{MAX_ASKS} questions are in flight"));
        }
        let _withdrawn = Unasked { spool: self, ask_id };
        answer.await.unwrap_or_else(|_| Answer::Unavailable("the agent is stopping".into()))
    }

    /// Home answered a question.
    pub fn answered(&self, ask_id: &str, answer: Answer) {
        if let Some(asked) = self.lock().asks.remove(ask_id) {
            // The asker may have gone meanwhile.
            let _ = asked.reply.send(answer);
        }
    }

    /// The next frame for a stream, in the order of the house. A stream that is no longer the newest gets nothing, so
    /// that a connection on its way out swallows nothing.
    pub fn next(&self, stream: u64) -> Option<Frame> {
        let mut inner = self.lock();
        if inner.stream != stream {
            return None;
        }
        if let Some(nonce) = inner.pong.take() {
            return Some(Frame::Pong(nonce));
        }
        if let Some((_, answer)) = inner.answers.pop_first() {
            return Some(answer);
        }
        let sent = inner.sent;
        if let Some((seq, report)) = inner.reports.range(sent + 1..).next().map(|(seq, r)| (*seq, r.clone())) {
            inner.sent = seq;
            return Some(Frame::Report(report));
        }
        while let Some(id) = inner.unsent_asks.pop_front() {
            if let Some(asked) = inner.asks.get(&id) {
                return Some(Frame::Ask(asked.question.clone()));
            }
        }
        if let Some(sample) = inner.sample.take() {
            return Some(Frame::Sample(sample));
        }
        inner.logs.next().map(Frame::Log)
    }

    /// A new stream begins and is given its number: everything home has not acknowledged is said again. Answers are
    /// not, since Hello names what is held and home offers again what is not.
    pub fn begin(&self) -> u64 {
        self.change(|inner| {
            inner.pong = None;
            inner.answers.clear();
            inner.sent = 0;
            inner.unsent_asks = inner.asks.keys().cloned().collect();
            inner.logs.rewind();
            inner.stream += 1;
            inner.stream
        })
    }

    /// Home has every report up to a number. Returns the withdrawals whose end it thereby knows.
    pub fn acknowledge(&self, up_to: u64) -> Vec<(Key, Generation)> {
        let mut inner = self.lock();
        let waiting = inner.reports.split_off(&up_to.saturating_add(1));
        let known = std::mem::replace(&mut inner.reports, waiting);
        inner.newest.retain(|_, seq| *seq > up_to);
        let gone = known.into_values().filter(|r| r.phase() == Phase::Gone);
        gone.map(|r| (r.key(), Generation { epoch: r.epoch, number: r.generation })).collect()
    }

    /// Home has the output up to an offset, or wants no more of it.
    pub fn acknowledge_log(&self, log: &LogKey, up_to: u64) {
        self.lock().logs.acknowledge(log, up_to);
    }

    /// Drops the output of once work that is forgotten.
    pub fn forget(&self, key: &Key) {
        self.lock().logs.forget(key);
    }

    /// Whether no output of once work waits to be sent.
    pub fn is_drained(&self, key: &Key) -> bool {
        self.lock().logs.is_drained(key)
    }

    /// Whether output cannot be written.
    pub fn is_failing(&self) -> bool {
        self.lock().logs.failing
    }

    fn change<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let result = change(&mut self.lock());
        self.wake();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Takes a question back when its asker no longer waits.
struct Unasked<'a> {
    spool: &'a Spool,
    ask_id: String,
}

impl Drop for Unasked<'_> {
    fn drop(&mut self) {
        self.spool.lock().asks.remove(&self.ask_id);
    }
}

#[cfg(test)]
mod tests;
