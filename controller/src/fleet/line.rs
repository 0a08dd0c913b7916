//! Home's end of one stream: what is to be said to one agent, as state and not as a queue.
//!
//! Whoever has something to say puts it here; the stream renders the next frame when the transport has room. A newer
//! generation takes the place of an older one that was not sent yet, so a slow agent costs no more than a quick one.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures::task::AtomicWaker;
use muster_proto::fleet::{
    Ack, Answer, Assign, FromHome, Leave, LogAck, Ping, from_home::Frame, log::Stream as LogStream,
};
use tokio::sync::Notify;
use tonic::Status;

use super::model::{AgentId, Key};

/// Bytes of documents under way to all agents at once; those below [`SMALL`] do not count.
const MAX_IN_FLIGHT: usize = 256 * 1024 * 1024;

/// A document this small is within what a stream costs anyway, bytes.
const SMALL: usize = 4096;

/// Answers that wait to be sent on one stream.
pub const MAX_ANSWERS: usize = 16;

/// Closes a connection from outside.
#[derive(Debug, Default)]
pub struct Kill {
    killed: AtomicBool,
    waker: AtomicWaker,
}

/// Documents under way to all agents, bytes.
#[derive(Debug, Default)]
pub struct Flight {
    bytes: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

/// Home's end of one stream.
#[derive(Debug)]
pub struct Line {
    /// Who is at the other end.
    pub agent: AgentId,
    /// Its ledger.
    pub ledger: String,
    /// SHA-256 of its capabilities, hexadecimal.
    pub capability_digest: String,
    /// Closes the connection below.
    pub kill: std::sync::Arc<Kill>,
    /// The session's number; 0 until the stream is open.
    epoch: AtomicI64,
    abandoned: AtomicBool,
    saying: Mutex<Saying>,
    pong: AtomicU64,
    ponged: Notify,
}

#[derive(Debug, Default)]
struct Saying {
    assign: BTreeMap<Key, Assign>,
    /// Large documents sent and not answered: what they take of the flight.
    flying: BTreeMap<Key, usize>,
    ack: Option<u64>,
    log_acks: BTreeMap<(Key, u32, i32), u64>,
    answers: VecDeque<Answer>,
    ping: Option<u64>,
    leave: Option<Leave>,
    end: Option<Status>,
    waker: Option<Waker>,
}

// === impl Kill ===

impl Kill {
    /// Closes the connection: its next read fails.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it was killed; if not, `cx` is woken when it is.
    pub fn poll_killed(&self, cx: &Context<'_>) -> bool {
        if !self.killed.load(Ordering::Acquire) {
            self.waker.register(cx.waker());
        }
        self.killed.load(Ordering::Acquire)
    }
}

// === impl Flight ===

impl Flight {
    fn take(&self, bytes: usize, cx: &Context<'_>) -> bool {
        let room = |now: usize| (now == 0 || now + bytes <= MAX_IN_FLIGHT).then_some(now + bytes);
        if self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok() {
            return true;
        }
        self.waiting.lock().expect("no holder of this lock panics").push(cx.waker().clone());
        self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            let waiting = std::mem::take(&mut *self.waiting.lock().expect("no holder of this lock panics"));
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

// === impl Line ===

impl Line {
    /// The end of a stream that is not open yet.
    pub fn new(agent: AgentId, ledger: String, capability_digest: String, kill: std::sync::Arc<Kill>) -> Self {
        Self {
            agent,
            ledger,
            capability_digest,
            kill,
            epoch: AtomicI64::new(0),
            abandoned: AtomicBool::new(false),
            saying: Mutex::default(),
            pong: AtomicU64::new(0),
            ponged: Notify::new(),
        }
    }

    /// The session's number; 0 until the stream is open.
    pub fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The stream is open under this number.
    pub fn open(&self, epoch: i64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Nobody is at the other end any more.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Whether nobody is at the other end any more.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Sends an assignment, unless a newer generation of it waits already.
    pub fn assign(&self, assign: Assign) {
        self.say(|s| {
            let key = Key { kind: assign.kind.clone(), id: assign.id.clone() };
            let newer = s.assign.get(&key).is_some_and(|a| (a.epoch, a.generation) > (assign.epoch, assign.generation));
            if !newer {
                s.assign.insert(key, assign);
            }
        });
    }

    /// The agent answered an assignment: its document is no longer under way.
    pub fn landed(&self, key: &Key, flight: &Flight) {
        let bytes = self.saying.lock().expect("no holder of this lock panics").flying.remove(key);
        flight.give_back(bytes.unwrap_or(0));
    }

    /// Acknowledges reports up to a number.
    pub fn ack(&self, up_to: u64) {
        self.say(|s| s.ack = s.ack.max(Some(up_to)));
    }

    /// Acknowledges output of once work up to an offset.
    pub fn log_ack(&self, key: Key, attempt: u32, stream: LogStream, up_to: u64) {
        self.say(|s| {
            let at = s.log_acks.entry((key, attempt, stream.into())).or_default();
            *at = up_to.max(*at);
        });
    }

    /// Answers a question.
    pub fn answer(&self, answer: Answer) {
        self.say(|s| {
            if s.answers.len() < MAX_ANSWERS {
                s.answers.push_back(answer);
            }
        });
    }

    /// Says goodbye: the agent is to come back as told, and the stream ends.
    pub fn leave(&self, leave: Leave) {
        self.say(|s| s.leave = Some(leave));
    }

    /// Ends the stream with a status.
    pub fn end(&self, status: Status) {
        self.say(|s| s.end = s.end.take().or(Some(status)));
    }

    /// Asks whether the other end lives, and resolves when it says so.
    pub async fn ping(&self, nonce: u64) {
        loop {
            let ponged = self.ponged.notified();
            if self.pong.load(Ordering::Acquire) == nonce {
                return;
            }
            self.say(|s| s.ping = Some(nonce));
            ponged.await;
        }
    }

    /// The other end lives.
    pub fn pong(&self, nonce: u64) {
        self.pong.store(nonce, Ordering::Release);
        self.ponged.notify_waiters();
    }

    /// The next frame, the end, or nothing yet. Assignments come last: an acknowledgement frees the agent to say more.
    pub fn poll_next(&self, flight: &Flight, cx: &Context<'_>) -> Poll<Option<Result<FromHome, Status>>> {
        let mut saying = self.saying.lock().expect("no holder of this lock panics");
        if let Some(status) = saying.end.take() {
            return Poll::Ready(Some(Err(status)));
        }
        match saying.next(flight, cx) {
            Some(frame) => Poll::Ready(Some(Ok(FromHome { frame: Some(frame) }))),
            None => {
                if !saying.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    saying.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Gives back what this stream had under way.
    pub fn close(&self, flight: &Flight) {
        let flying = std::mem::take(&mut self.saying.lock().expect("no holder of this lock panics").flying);
        flight.give_back(flying.values().sum());
    }

    fn say(&self, what: impl FnOnce(&mut Saying)) {
        let waker = {
            let mut saying = self.saying.lock().expect("no holder of this lock panics");
            what(&mut saying);
            saying.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

// === impl Saying ===

impl Saying {
    fn next(&mut self, flight: &Flight, cx: &Context<'_>) -> Option<Frame> {
        if let Some(nonce) = self.ping.take() {
            return Some(Frame::Ping(Ping { nonce }));
        }
        if let Some(up_to) = self.ack.take() {
            return Some(Frame::Ack(Ack { up_to }));
        }
        if let Some(((key, attempt, stream), up_to)) = self.log_acks.pop_first() {
            return Some(Frame::LogAck(LogAck { kind: key.kind, id: key.id, attempt, stream, up_to }));
        }
        if let Some(answer) = self.answers.pop_front() {
            return Some(Frame::Answer(answer));
        }
        if let Some(assign) = self.next_assign(flight, cx) {
            return Some(Frame::Assign(assign));
        }
        if let Some(leave) = self.leave.take() {
            let message = leave.message.clone();
            self.end = Some(Status::unavailable(message));
            return Some(Frame::Leave(leave));
        }
        None
    }

    fn next_assign(&mut self, flight: &Flight, cx: &Context<'_>) -> Option<Assign> {
        let (key, assign) = self.assign.pop_first()?;
        let bytes = if assign.document.len() > SMALL { assign.document.len() } else { 0 };
        if bytes > 0 {
            if !flight.take(bytes, cx) {
                self.assign.insert(key, assign);
                return None;
            }
            let before = self.flying.insert(key, bytes).unwrap_or(0);
            flight.give_back(before);
        }
        Some(assign)
    }
}
