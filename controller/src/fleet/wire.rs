//! The fleet's model to and from the wire.

use bytes::Bytes;
use muster_pki::{hex, sha256, unhex};
use muster_proto::MAX_HELD;
use muster_proto::fleet as proto;
use prost::Message;

use super::{
    desired::{Condition, Envelope, NewReport, OnInterrupt, OnRevoke, Refused, Report},
    model::{AgentId, Held, Key, LedgerView, Mode, Phase},
};
use crate::platform::db::clean;

/// The frame that puts or withdraws an assignment.
pub fn assign(envelope: &Envelope, document: Option<&Bytes>) -> proto::Assign {
    let wanted = &envelope.wanted;
    proto::Assign {
        kind: wanted.key.kind.clone(),
        id: wanted.key.id.clone(),
        epoch: wanted.epoch.unsigned_abs(),
        generation: wanted.generation.unsigned_abs(),
        mode: match wanted.mode {
            Mode::Standing => proto::Mode::Standing.into(),
            Mode::Once => proto::Mode::Once.into(),
        },
        version: envelope.version,
        digest: unhex(&wanted.digest).into(),
        document: document.cloned().unwrap_or_default(),
        withdrawn: wanted.digest.is_empty(),
        on_interrupt: match envelope.on_interrupt {
            OnInterrupt::Report => proto::OnInterrupt::Report.into(),
            OnInterrupt::Rerun => proto::OnInterrupt::Rerun.into(),
        },
        on_revoke: match envelope.on_revoke {
            OnRevoke::Keep => proto::OnRevoke::Keep.into(),
            OnRevoke::Stop => proto::OnRevoke::Stop.into(),
        },
        start_by_ms: envelope.start_by,
    }
}

/// The longest name of a ledger, a kind or an id that home takes, bytes: what is longer fits no index.
const LONGEST_NAME: usize = 256;

/// The most an agent may say of itself, its ledger apart, bytes.
const LONGEST_INTRODUCTION: usize = 64 * 1024;

/// Why home takes no Hello like this; none if it does.
pub fn fault(hello: &proto::Hello) -> Option<&'static str> {
    let is_name = |name: &String| name.len() <= LONGEST_NAME && !name.contains('\0');
    let held = hello.held.iter().flat_map(|h| [&h.kind, &h.id]);
    let done = hello.done.iter().flat_map(|d| [&d.kind, &d.id]);
    let facts = hello.facts.as_ref().map_or(0, Message::encoded_len);
    let capabilities: usize = hello.capabilities.iter().map(Message::encoded_len).sum();
    if hello.held.len() > MAX_HELD || hello.done.len() > MAX_HELD {
        Some("a ledger holds at most 4,096 assignments, and remembers as many outcomes")
    } else if ![&hello.ledger_id].into_iter().chain(held).chain(done).all(is_name) {
        Some("a name of a ledger, a kind or an id is at most 256 bytes long and holds no NUL")
    } else if hello.agent_version.len() + facts + capabilities > LONGEST_INTRODUCTION {
        Some("what an agent says of itself, its version, facts and capabilities, is at most 64 KiB")
    } else {
        None
    }
}

/// What a Hello says of the ledger, which holds `held`. Home's rows decide whether it is the ledger they know.
pub fn ledger_view(hello: &proto::Hello, held: Vec<Held>, same_ledger: bool, capability_digest: &str) -> LedgerView {
    LedgerView {
        same_ledger,
        held: held.into_iter().map(|h| (h.key, (h.epoch, h.generation, h.digest))).collect(),
        done: hello.done.iter().map(|d| Key { kind: d.kind.clone(), id: d.id.clone() }).collect(),
        capability_digest: capability_digest.into(),
    }
}

/// What the ledger holds.
pub fn held(hello: &proto::Hello) -> Vec<Held> {
    let one = |h: &proto::Held| Held {
        key: Key { kind: h.kind.clone(), id: h.id.clone() },
        epoch: signed(h.epoch),
        generation: signed(h.generation),
        digest: hex(&h.digest),
        once: h.mode() == proto::Mode::Once,
    };
    hello.held.iter().map(one).collect()
}

/// A report as it came.
pub fn report(agent: &AgentId, ledger: &str, report: proto::Report) -> NewReport {
    let phase = match report.phase() {
        proto::Phase::Waiting => Phase::Waiting,
        proto::Phase::Unspecified | proto::Phase::Working => Phase::Working,
        proto::Phase::Applied => Phase::Applied,
        proto::Phase::Failed => Phase::Failed,
        proto::Phase::Gone => Phase::Gone,
        proto::Phase::Succeeded => Phase::Succeeded,
        proto::Phase::Interrupted => Phase::Interrupted,
        proto::Phase::Cancelled => Phase::Cancelled,
        proto::Phase::Late => Phase::Late,
    };
    let condition = |c: proto::Condition| Condition {
        kind: clean(&c.r#type),
        holds: c.holds,
        reason: clean(&c.reason),
        message: clean(&c.message),
    };
    NewReport {
        ledger: ledger.into(),
        seq: signed(report.seq),
        epoch: signed(report.epoch),
        report: Report {
            agent: agent.clone(),
            key: Key { kind: clean(&report.kind), id: clean(&report.id) },
            generation: signed(report.generation),
            phase,
            conditions: report.conditions.into_iter().map(condition).collect(),
            result: report.result.to_vec(),
            at: report.at_ms,
            received_at: 0,
            outcome: report.outcome,
            may_have_run: report.may_have_run,
            attempt: i64::from(report.attempt),
        },
    }
}

/// A refusal as it came.
pub fn refused(agent: &AgentId, refuse: &proto::Refuse) -> Refused {
    use proto::refuse::Reason;
    let reason = match refuse.reason() {
        Reason::Unspecified => "unspecified",
        Reason::UnknownKind => "unknown_kind",
        Reason::UnknownVersion => "unknown_version",
        Reason::NotAllowed => "not_allowed",
        Reason::Malformed => "malformed",
        Reason::Older => "older",
        Reason::Conflict => "conflict",
        Reason::Full => "full",
        Reason::Digest => "digest",
    };
    Refused {
        agent: agent.clone(),
        key: Key { kind: clean(&refuse.kind), id: clean(&refuse.id) },
        generation: signed(refuse.generation),
        reason: reason.into(),
        message: clean(&refuse.message),
    }
}

/// What an agent can do, as kept: a JSON list in the order of kinds.
pub fn capabilities(hello: &proto::Hello) -> serde_json::Value {
    let one = |c: &proto::Capability| {
        serde_json::json!({
            "kind": clean(&c.kind), "oldest_version": c.oldest_version, "newest_version": c.newest_version,
            "offers": c.offers.iter().map(|o| clean(o)).collect::<Vec<_>>(),
        })
    };
    sorted_capabilities(hello).into_iter().map(one).collect()
}

/// SHA-256 of what an agent can do, hexadecimal: equal for equal capabilities in any order of kinds.
pub fn capability_digest(hello: &proto::Hello) -> String {
    let encoded: Vec<u8> =
        sorted_capabilities(hello).into_iter().flat_map(Message::encode_length_delimited_to_vec).collect();
    hex(&sha256(&encoded))
}

fn sorted_capabilities(hello: &proto::Hello) -> Vec<&proto::Capability> {
    let mut sorted: Vec<_> = hello.capabilities.iter().collect();
    sorted.sort_by(|a, b| a.kind.cmp(&b.kind));
    sorted
}

/// What a host is, as kept.
pub fn facts(facts: Option<&proto::Facts>) -> serde_json::Value {
    let none = proto::Facts::default();
    let f = facts.unwrap_or(&none);
    serde_json::json!({
        "hostname": clean(&f.hostname), "os": clean(&f.os), "kernel": clean(&f.kernel), "arch": clean(&f.arch),
        "cpus": f.cpus, "memory_bytes": f.memory_bytes, "boot_id": clean(&f.boot_id),
    })
}

/// Numbers travel unsigned and are stored signed.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
