//! What agents say, on its way into the database: one batch at a time, one transaction a batch.
//!
//! Streams hand over what they read as they read it; while one batch is being written the next gathers. A batch first
//! checks that each stream is still its agent's (rows are kept as they are until the commit), then writes, and only after
//! the commit is anything acknowledged.

use std::{
    collections::{BTreeMap, HashSet},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use futures::{Stream, ready};
use muster_proto::fleet as proto;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::{
    desired::{self, NewReport, Refused},
    line::Line,
    logs::{self, LogKey},
    model::{AgentId, Key},
    registry::Registry,
    store, wire,
};
use crate::{
    error::Result,
    platform::{
        crash::CrashPoint,
        db::{Db, clean},
    },
};

/// What waits to be written, over all streams. A full queue stops reading, which stops the agents.
pub const QUEUE: usize = 4096;

/// The most that one transaction takes.
const BATCH: usize = 1000;

/// One thing an agent said.
#[derive(Debug)]
pub struct Said {
    /// On which stream.
    pub line: Arc<Line>,
    /// What.
    pub what: What,
}

/// The kinds of things that are written.
#[derive(Debug)]
pub enum What {
    /// A ledger holds a generation.
    Accept(Key, i64),
    /// An agent will not act on a generation.
    Refuse(Refused),
    /// A report.
    Report(Box<NewReport>),
    /// A piece of output.
    Log(proto::Log),
}

/// What a look at a stream came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<F> {
    /// A frame, and room for what it says.
    Frame(F),
    /// The other side is done.
    End,
    /// Home is closing.
    Closed,
}

/// Starts writing; streams send to what it gives.
pub fn spawn(db: Db, registry: Registry) -> mpsc::Sender<Said> {
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut batch: Vec<Said> = Vec::new();
        while receiver.recv_many(&mut batch, BATCH).await > 0 {
            match write(&db, &batch).await {
                Ok(written) => written.acknowledge(&registry),
                Err(error) => {
                    // Nothing was acknowledged, so nothing is lost: the agents say it again on their next streams.
                    tracing::error!(%error, "what agents said could not be written; their streams are closed");
                    batch.iter().for_each(|said| said.line.end(error_status()));
                }
            }
            batch.clear();
        }
    });
    sender
}

/// Reads one frame for which there is room. While there is nothing to read the room is given back: streams that are
/// silent, most of them at any time, must not keep it from those that speak.
pub fn poll_frame<T, S>(room: &mut PollSender<T>, inbound: &mut S, cx: &mut Context<'_>) -> Poll<Heard<S::Item>>
where
    T: Send + 'static,
    S: Stream + Unpin,
{
    if ready!(room.poll_reserve(cx)).is_err() {
        return Poll::Ready(Heard::Closed);
    }
    match Pin::new(inbound).poll_next(cx) {
        Poll::Ready(Some(frame)) => Poll::Ready(Heard::Frame(frame)),
        Poll::Ready(None) => Poll::Ready(Heard::End),
        Poll::Pending => {
            room.abort_send();
            Poll::Pending
        }
    }
}

fn error_status() -> tonic::Status {
    tonic::Status::unavailable("home could not store what was said; say it again")
}

/// What a batch came to.
#[derive(Default)]
struct Written {
    acks: Vec<(Arc<Line>, i64)>,
    log_acks: Vec<(Arc<Line>, Key, u32, proto::log::Stream, i64)>,
    landed: Vec<(Arc<Line>, Key)>,
    reports: u64,
    fenced: Vec<Arc<Line>>,
}

/// A batch, sorted by what is to be done.
#[derive(Default)]
struct Batch<'a> {
    accepts: BTreeMap<(AgentId, Key), i64>,
    refusals: Vec<&'a Refused>,
    /// The newest of each key; an outcome is never followed by another report.
    reports: BTreeMap<(AgentId, Key), &'a NewReport>,
    upto: BTreeMap<(AgentId, String), i64>,
    logs: Vec<(&'a Arc<Line>, &'a proto::Log)>,
}

async fn write(db: &Db, batch: &[Said]) -> Result<Written> {
    let mut sessions: Vec<(AgentId, i64)> = batch.iter().map(|s| (s.line.agent.clone(), s.line.epoch())).collect();
    sessions.sort();
    sessions.dedup();
    let sessions = &sessions;
    db.write(|mut tx| async move {
        let engine = tx.engine();
        let live: HashSet<_> = store::live_sessions(&mut tx, engine, sessions).await?.into_iter().collect();
        let is_live = |line: &Line| live.contains(&(line.agent.0.clone(), line.epoch()));
        let (live, fenced): (Vec<_>, Vec<_>) = batch.iter().partition(|s| is_live(&s.line));
        let sorted = sort(&live);
        let accepts: Vec<_> = sorted.accepts.iter().map(|((a, k), g)| (a.clone(), k.clone(), *g)).collect();
        desired::accept(&mut tx, &accepts).await?;
        for refused in &sorted.refusals {
            desired::refuse(&mut tx, refused).await?;
        }
        let reports: Vec<_> = sorted.reports.values().map(|r| (*r).clone()).collect();
        desired::save_reports(&mut tx, &reports).await?;
        let upto: Vec<_> = sorted.upto.iter().map(|((a, l), n)| (a.clone(), l.clone(), *n)).collect();
        store::save_acknowledged(&mut tx, &upto).await?;
        let mut written = Written::default();
        for (line, log) in &sorted.logs {
            let key = Key { kind: clean(&log.kind), id: clean(&log.id) };
            let stream = log.stream();
            let name = if stream == proto::log::Stream::Stderr { "stderr" } else { "stdout" };
            let log_key = LogKey { key: key.clone(), attempt: i64::from(log.attempt), stream: name };
            let begins = wire::signed(log.offset);
            let end = if logs::is_expected(&mut tx, &line.agent, &key).await? {
                tx.wake(desired::topic(&log.kind));
                logs::append(&mut tx, &log_key, begins, &log.data).await?
            } else {
                // Taken as if it were kept, so that the agent lets go of it.
                begins.saturating_add(log.data.len() as i64)
            };
            written.log_acks.push(((*line).clone(), key, log.attempt, stream, end));
        }
        match (reports.is_empty(), accepts.is_empty()) {
            (false, _) => tx.crash_points(CrashPoint::BeforeReportsCommit, CrashPoint::AfterReportsCommit),
            (true, false) => tx.crash_points(CrashPoint::BeforeAcceptsCommit, CrashPoint::AfterAcceptsCommit),
            _ => {}
        }
        written.reports = reports.len() as u64;
        written.fenced = fenced.into_iter().map(|s| s.line.clone()).collect();
        for said in live {
            match &said.what {
                What::Report(new) => written.acks.push((said.line.clone(), new.seq)),
                What::Accept(key, _) => written.landed.push((said.line.clone(), key.clone())),
                What::Refuse(refused) => written.landed.push((said.line.clone(), refused.key.clone())),
                What::Log(_) => {}
            }
        }
        tx.done(written)
    })
    .await
}

fn sort<'a>(live: &[&'a Said]) -> Batch<'a> {
    let mut sorted = Batch::default();
    for said in live {
        let agent = said.line.agent.clone();
        match &said.what {
            What::Accept(key, generation) => {
                let newest = sorted.accepts.entry((agent, key.clone())).or_default();
                *newest = (*newest).max(*generation);
            }
            What::Refuse(refused) => sorted.refusals.push(refused),
            What::Report(new) => {
                let upto = sorted.upto.entry((agent.clone(), new.ledger.clone())).or_default();
                *upto = (*upto).max(new.seq);
                let newest = sorted.reports.entry((agent, new.report.key.clone())).or_insert(new);
                if new.seq > newest.seq {
                    *newest = new;
                }
            }
            What::Log(log) => sorted.logs.push((&said.line, log)),
        }
    }
    sorted
}

// === impl Written ===

impl Written {
    fn acknowledge(self, registry: &Registry) {
        for (line, seq) in self.acks {
            line.ack(seq.unsigned_abs());
        }
        for (line, key, attempt, stream, upto) in self.log_acks {
            line.log_ack(key, attempt, stream, upto.unsigned_abs());
        }
        for (line, key) in self.landed {
            line.landed(&key, &registry.flight);
        }
        for line in self.fenced {
            line.end(tonic::Status::aborted("another stream of this agent has taken over"));
        }
        registry.counters.reports.fetch_add(self.reports, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::{stream, task::noop_waker_ref};

    use super::*;

    #[test]
    fn a_silent_stream_keeps_no_room_from_one_that_speaks() {
        let (sender, _receiver) = mpsc::channel::<u8>(1);
        let cx = &mut Context::from_waker(noop_waker_ref());
        let (mut silent, mut speaking) = (PollSender::new(sender.clone()), PollSender::new(sender));
        assert!(poll_frame(&mut silent, &mut stream::pending::<u8>(), cx).is_pending());
        let heard = poll_frame(&mut speaking, &mut stream::iter([7]), cx);
        assert_eq!(heard, Poll::Ready(Heard::Frame(7)));
    }
}
