//! `kill -9` at every point around a durable write, on either side. After each, whatever was begun comes to a definite end,
//! nothing has run twice, and the action log says so.

use std::{
    os::unix::process::ExitStatusExt,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use muster_agent::crash::CrashPoint as AgentPoint;
use muster_controller::platform::crash::CrashPoint as HomePoint;
use muster_integration_tests::processes::{Processes, wait};
use serde_json::{Value, json};

/// Houses at once.
const AT_ONCE: usize = 4;

const STAGING: &str = Processes::STAGING;

/// The staging and its first operation, when nothing is under way any more.
fn settled(house: &Processes) -> Option<(Value, Value)> {
    let (staging, operations) = house.settled()?;
    Some((staging, operations.last()?.clone()))
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// What must hold after a crash, whichever point it was.
fn holds(point: &str, house: &Processes) {
    let (staging, operation) = wait(&format!("{point}: all is settled"), || settled(house));
    let runs = house.runs("create");
    assert!(runs <= 1, "{point}: create ran {runs} times");
    match word(&operation, "outcome") {
        "succeeded" => {
            assert_eq!(runs, 1, "{point}");
            assert_eq!(word(&staging, "status"), "Running", "{point}: {staging:#}\n{}", house.logs());
        }
        // The checks may find it healthy all the same.
        "interrupted" => assert!(word(&operation, "message").contains("interrupted"), "{point}: {operation}"),
        other => panic!("{point}: {other}: {operation}\n{}", house.logs()),
    }
}

#[test]
fn the_controller_may_be_killed_around_every_commit() {
    each(&HomePoint::ALL, |point| {
        let name = format!("{point:?}");
        let mut house = Processes::new();
        house.start_controller(None);
        let token = house.invite();
        house.project();
        house.kill_controller();
        house.start_controller(Some(&name));
        let joined = house.enroll(&token, None).success();
        if !joined {
            wait(&format!("{name}: it killed itself"), || house.controller_crashed().then_some(()));
            house.start_controller(None);
            assert!(house.enroll(&token, None).success(), "{name}: the invitation was burnt\n{}", house.logs());
        }
        house.start_agent(None);
        let acknowledged = house.create();
        if joined {
            wait(&format!("{name}: it killed itself"), || house.controller_crashed().then_some(()));
            house.start_controller(None);
        }
        let is_there = house.ask("GET", STAGING, None)["name"] == "hello";
        assert!(is_there || !acknowledged, "{name}: what was acknowledged is lost");
        if !is_there {
            assert!(house.create(), "{name}");
        }
        holds(&name, &house);
    });
}

/// Visits every point, a few houses at a time: they wait more than they work.
fn each<P: Sync>(points: &[P], visit: impl Fn(&P) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    visit(point);
                }
            });
        }
    });
}

/// When a point of the agent comes up.
enum When {
    Joining,
    Working,
    Later,
    Revoked,
}

fn when(point: AgentPoint) -> When {
    use AgentPoint::*;
    match point {
        BeforeJoiningKey | AfterJoiningKey | BeforeEnrolled | AfterEnrolled => When::Joining,
        BeforeLedgerBegin | AfterLedgerBegin | BeforeToken | AfterToken | BeforeAccepted | AfterAccepted
        | BeforeStarting | AfterStarting | BeforeGroup | AfterGroup | BeforeFinished | AfterFinished
        | BeforeAcknowledged | AfterAcknowledged => When::Working,
        BeforeRevoked | AfterRevoked => When::Revoked,
        // A first ledger begins with numbers reserved; the next start reserves more.
        BeforeReserved | AfterReserved | BeforeGone | AfterGone | BeforeCompaction | AfterCompaction
        | BeforeCandidate | AfterCandidate | BeforePromotion | AfterPromotion => When::Later,
    }
}

#[test]
fn the_agent_may_be_killed_around_every_durable_write() {
    each(AgentPoint::ALL, |point| {
        let name = point.name();
        match when(*point) {
            When::Joining => joining(name),
            When::Working => working(name),
            When::Later => later(name),
            When::Revoked => revoked(name),
        }
    });
}

fn joining(name: &str) {
    let mut house = Processes::new();
    house.start_controller(None);
    house.project();
    let token = house.invite();
    assert_eq!(house.enroll(&token, Some(name)).signal(), Some(9), "{name}: it did not kill itself");
    let again = house.enroll(&token, None);
    // Killed after the last write it has joined already, and says so.
    assert!(again.success() || house.path("agent/identity/agent.json").is_file(), "{name}: the invitation was burnt");
    house.start_agent(None);
    assert!(house.create(), "{name}");
    holds(name, &house);
}

fn working(name: &str) {
    let mut house = Processes::shop();
    assert!(house.create(), "{name}");
    house.start_agent(Some(name));
    wait(&format!("{name}: it killed itself"), || house.agent_crashed().then_some(()));
    house.start_agent(None);
    holds(name, &house);
}

/// Points that come up when a staging is archived, a journal has grown, or a certificate is renewed.
fn later(name: &str) {
    let mut house = Processes::shop();
    assert!(house.create(), "{name}");
    house.start_agent(None);
    holds(name, &house);
    house.kill_agent();
    house.start_agent(Some(name));
    for verb in ["delete", "restore", "delete", "restore"] {
        if house.agent_crashed() {
            break;
        }
        wait(&format!("{name}: {verb} is taken, or it killed itself"), || {
            let asked = house.call("POST", &format!("{STAGING}/{verb}"), Some(&json!({})));
            (asked.is_some_and(|(status, _)| status == 202) || house.agent_crashed()).then_some(())
        });
    }
    wait(&format!("{name}: it killed itself"), || house.agent_crashed().then_some(()));
    house.start_agent(None);
    wait(&format!("{name}: all is settled\n{}", house.logs()), || settled(&house));
    wait(&format!("{name}: it is online"), || {
        let online = house.call("GET", "/api/v1/fleet", None)?.1["online"].as_i64();
        (online == Some(1)).then_some(())
    });
}

/// An agent that was told of its revocation knows it after a crash, home or no home.
fn revoked(name: &str) {
    let mut house = Processes::shop();
    house.start_agent(Some(name));
    let agents = wait(&format!("{name}: it is online"), || {
        let agents = house.call("GET", "/api/v1/agents", None)?.1;
        (agents["items"][0]["liveness"] == "online").then_some(agents)
    });
    let path = format!("/api/v1/agents/{}/revoke", word(&agents["items"][0], "id"));
    house.ask("POST", &path, Some(&json!({"reason": "lost"})));
    wait(&format!("{name}: it killed itself"), || house.agent_crashed().then_some(()));
    if name.starts_with("after") {
        house.kill_controller();
    }
    house.start_agent(None);
    wait(&format!("{name}: it knows"), || {
        let status = std::fs::read_to_string(house.path("agent/status.json")).ok()?;
        (serde_json::from_str::<Value>(&status).ok()?["revoked"] == true).then_some(())
    });
}
