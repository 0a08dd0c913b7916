//! Frames ↔ model.

use muster_proto::fleet::{self, from_agent::Frame as Said, refuse::Reason as Wire};

use crate::{
    driver::Kernel,
    host::Stream,
    identity,
    ledger::{Assignment, Condition, Generation, Key, Reason, Report, State},
    spool::{Answer, Frame, LogKey},
};

/// The first frame: who calls, what it can do, what it holds.
pub fn hello(kernel: &Kernel) -> fleet::FromAgent {
    let hello = kernel.ledger.read(|state: &State| fleet::Hello {
        oldest_protocol: muster_proto::PROTOCOL.0,
        newest_protocol: muster_proto::PROTOCOL.1,
        agent_version: env!("CARGO_PKG_VERSION").into(),
        ledger_id: state.ledger_id.clone(),
        session_token: state.token.clone(),
        held: state.held().map(|(key, entry)| held(key, &entry.assignment)).collect(),
        done: state.done().map(|(key, entry, outcome)| done(key, entry.assignment.generation, outcome)).collect(),
        acknowledged: state.acknowledged,
        ..fleet::Hello::default()
    });
    let capabilities = kernel.capabilities().into_iter().map(|c| fleet::Capability {
        kind: c.kind.into(),
        oldest_version: c.versions.0,
        newest_version: c.versions.1,
        offers: c.offers,
    });
    let hello = fleet::Hello {
        capabilities: capabilities.collect(),
        facts: Some(identity::wire(&kernel.host.facts())),
        agent_time_ms: kernel.host.now_ms(),
        ..hello
    };
    said(Said::Hello(hello))
}

/// A frame as it travels.
pub fn frame(frame: Frame) -> fleet::FromAgent {
    said(match frame {
        Frame::Pong(nonce) => Said::Pong(fleet::Pong { nonce }),
        Frame::Accept(Key { kind, id }, Generation { epoch, number: generation }) => {
            Said::Accept(fleet::Accept { kind, id, epoch, generation })
        }
        Frame::Refuse(Key { kind, id }, Generation { epoch, number: generation }, refused) => {
            let reason = reason(refused.reason).into();
            Said::Refuse(fleet::Refuse { kind, id, epoch, generation, reason, message: refused.message })
        }
        Frame::Report(report) => Said::Report(self::report(report)),
        Frame::Ask(q) => {
            Said::Ask(fleet::Ask { ask_id: q.ask_id, kind: q.key.kind, id: q.key.id, version: q.version, body: q.body })
        }
        Frame::Sample(s) => Said::Sample(fleet::Sample {
            at_ms: s.at_ms,
            cpu: s.cpu,
            memory_used_bytes: s.memory_used_bytes,
            memory_total_bytes: s.memory_total_bytes,
            disk_used_bytes: s.disk_used_bytes,
            disk_total_bytes: s.disk_total_bytes,
            load1: s.load1,
            network_received_bytes: s.network_received_bytes,
            network_sent_bytes: s.network_sent_bytes,
            agent_rss_bytes: s.agent_rss_bytes,
        }),
        Frame::Log(piece) => Said::Log(fleet::Log {
            kind: piece.log.key.kind,
            id: piece.log.key.id,
            attempt: piece.log.attempt,
            stream: match piece.log.stream {
                Stream::Stdout => fleet::log::Stream::Stdout.into(),
                Stream::Stderr => fleet::log::Stream::Stderr.into(),
            },
            offset: piece.offset,
            data: piece.data,
            gap: piece.gap,
        }),
    })
}

/// The agent ends the stream next.
pub fn leave(message: &str) -> fleet::FromAgent {
    said(Said::Leave(fleet::Leave { retry_after_ms: 0, homes: Vec::new(), message: message.into() }))
}

/// An assignment as it arrived.
pub fn assignment(assign: fleet::Assign) -> Assignment {
    Assignment {
        once: assign.mode() == fleet::Mode::Once,
        rerun: assign.on_interrupt() == fleet::OnInterrupt::Rerun,
        stop_on_revoke: assign.on_revoke() == fleet::OnRevoke::Stop,
        key: Key { kind: assign.kind, id: assign.id },
        generation: Generation { epoch: assign.epoch, number: assign.generation },
        version: assign.version,
        digest: if assign.withdrawn { bytes::Bytes::new() } else { assign.digest },
        document: if assign.withdrawn { bytes::Bytes::new() } else { assign.document },
        withdrawn: assign.withdrawn,
        start_by_ms: assign.start_by_ms,
    }
}

/// Which output an acknowledgement is for; none when it names no stream.
pub fn log_key(ack: &fleet::LogAck) -> Option<LogKey> {
    let stream = match ack.stream() {
        fleet::log::Stream::Stdout => Stream::Stdout,
        fleet::log::Stream::Stderr => Stream::Stderr,
        fleet::log::Stream::Unspecified => return None,
    };
    Some(LogKey { key: Key::new(&ack.kind, &ack.id), attempt: ack.attempt, stream })
}

/// An answer as it arrived.
pub fn answer(answer: fleet::Answer) -> Answer {
    use fleet::answer::Outcome;
    match answer.outcome() {
        Outcome::Ok => Answer::Ok(answer.body),
        Outcome::Denied => Answer::Denied(answer.message),
        Outcome::Unknown => Answer::Unknown(answer.message),
        Outcome::Unspecified | Outcome::Unavailable => Answer::Unavailable(answer.message),
    }
}

fn said(frame: Said) -> fleet::FromAgent {
    fleet::FromAgent { frame: Some(frame) }
}

fn held(key: &Key, assignment: &Assignment) -> fleet::Held {
    let mode = if assignment.once { fleet::Mode::Once } else { fleet::Mode::Standing };
    fleet::Held {
        kind: key.kind.clone(),
        id: key.id.clone(),
        epoch: assignment.generation.epoch,
        generation: assignment.generation.number,
        digest: assignment.digest.clone(),
        mode: mode.into(),
    }
}

fn done(key: &Key, generation: Generation, outcome: &Report) -> fleet::Done {
    fleet::Done {
        kind: key.kind.clone(),
        id: key.id.clone(),
        epoch: generation.epoch,
        generation: generation.number,
        outcome_digest: bytes::Bytes::copy_from_slice(&outcome.digest()),
    }
}

pub(super) fn report(report: Report) -> fleet::Report {
    let condition =
        |c: Condition| fleet::Condition { r#type: c.r#type, holds: c.holds, reason: c.reason, message: c.message };
    fleet::Report {
        seq: report.seq,
        kind: report.kind,
        id: report.id,
        epoch: report.epoch,
        generation: report.generation,
        phase: report.phase,
        conditions: report.conditions.into_iter().map(condition).collect(),
        result: report.result,
        at_ms: report.at_ms,
        outcome: report.outcome,
        may_have_run: report.may_have_run,
        attempt: report.attempt,
    }
}

fn reason(reason: Reason) -> Wire {
    match reason {
        Reason::UnknownKind => Wire::UnknownKind,
        Reason::UnknownVersion => Wire::UnknownVersion,
        Reason::NotAllowed => Wire::NotAllowed,
        Reason::Malformed => Wire::Malformed,
        Reason::Older => Wire::Older,
        Reason::Conflict => Wire::Conflict,
        Reason::Full => Wire::Full,
        Reason::Digest => Wire::Digest,
    }
}
