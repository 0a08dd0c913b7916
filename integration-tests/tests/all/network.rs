//! Networks of real sites: who joins, who is sent away and whose authority is replaced end the same, whichever side is
//! killed and wherever.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    thread,
};

use muster_integration_tests::{
    network::{BACKBONE, NETWORK, Net, items, text},
    processes::wait,
    site::{Site, told},
};
use serde_json::{Value, json};

/// No router is installed: sites are rendered.
const NO_ROUTER: &str = "/no/router/here";

#[test]
fn of_two_who_claim_one_place_one_joins_and_whoever_comes_late_is_told_why() {
    let net = Net::new(Path::new(NO_ROUTER));
    let (one_place, unused) = (net.invite(1), net.invite(1));
    let racers = ["one", "other"].map(|name| Site::new(&net.house, name, Path::new(NO_ROUTER)));
    let said = thread::scope(|scope| {
        let claims = racers.each_ref().map(|site| scope.spawn(|| site.enroll(&net.house, &one_place, None)));
        claims.map(|claim| claim.join().expect("no panic"))
    });
    let [first, second] = &said;
    assert_ne!(first.status.success(), second.status.success(), "{}\n{}", told(first), told(second));
    let loser = if first.status.success() { second } else { first };
    assert!(told(loser).contains("used up"), "{}", told(loser));
    // Once more, by somebody who found the token, after the one who won is in.
    wait("the winner is a member", || (net.table("members").len() == 1).then_some(()));
    let replayed = Site::new(&net.house, "thief", Path::new(NO_ROUTER)).enroll(&net.house, &one_place, None);
    assert!(!replayed.status.success() && told(&replayed).contains("used up"), "{}", told(&replayed));

    net.done("POST", &format!("{NETWORK}/end"), &json!({}));
    let late = Site::new(&net.house, "late", Path::new(NO_ROUTER)).enroll(&net.house, &unused, None);
    assert!(!late.status.success() && told(&late).contains("revoked"), "{}", told(&late));
    assert_eq!(net.table("members").len(), 1);
}

/// Two members join, the first of them is evicted, and a third takes its name. With `kills` home dies around each of its
/// commits, and agents around each of their durable writes. Gives what is there after each of the three.
fn lives(kills: bool) -> Vec<Value> {
    let mut net = Net::new(Path::new(NO_ROUTER));
    let token = net.invite(3);
    net.settled();
    if kills {
        join_as_home_dies(&mut net, &token)
    } else {
        net.join("one", &token)
    }
    net.settled();
    if kills {
        join_as_agent_dies(&mut net, &token)
    } else {
        net.join("two", &token)
    }
    net.settled();
    let joined = net.state();

    let evict = format!("{NETWORK}/members/{}/evict", net.table("members")[0]["id"]);
    if kills {
        evict_as_all_die(&mut net, &evict)
    } else {
        drop(net.done("POST", &evict, &json!({})))
    }
    net.settled();
    wait("the evicted site is gone from its host", || net.site("one").router_file().is_none().then_some(()));
    let evicted = net.state();
    assert_eq!(net.house.call("POST", &evict, Some(&json!({}))).expect("it answers").0, 409);

    net.join("three", &token);
    net.settled();
    let members = net.table("members");
    let names: Vec<_> = members.iter().filter(|m| m["membership"] == "member").map(|m| &m["name"]).collect();
    assert!(names.contains(&&members[0]["name"]), "the name is free again: {members:?}");
    vec![joined, evicted, net.state()]
}

fn join_as_home_dies(net: &mut Net, token: &str) {
    let site = Site::new(&net.house, "one", Path::new(NO_ROUTER));
    for point in ["BeforeEnrolCommit", "AfterEnrolCommit"] {
        net.home_dies_at(point, |net| assert!(!site.enroll(&net.house, token, None).status.success(), "{point}"));
    }
    // Its place is taken, and nobody has told it. Home dies as it makes it a member, and right after.
    net.home_dies_at("BeforePlanCommit", |_| ());
    net.home_dies_at("AfterPlanCommit", |_| ());
    net.restart_home(None);
    let said = site.enroll(&net.house, token, None);
    assert!(said.status.success(), "its own place is kept for it: {}", told(&said));
    net.sites.push(site);
    for point in ["BeforeReportsCommit", "AfterReportsCommit"] {
        net.restart("one", None);
        net.home_dies_at(point, |_| ());
    }
    net.restart_home(None);
    net.restart("one", None);
}

fn join_as_agent_dies(net: &mut Net, token: &str) {
    let site = Site::new(&net.house, "two", Path::new(NO_ROUTER));
    for point in ["before_joining_key", "after_joining_key", "before_enrolled", "after_enrolled"] {
        let said = site.enroll(&net.house, token, Some(point));
        assert_eq!(said.status.signal(), Some(9), "{point}: {}", told(&said));
    }
    net.sites.push(site);
    for point in [
        "before_ledger_begin",
        "after_ledger_begin",
        "before_token",
        "after_token",
        "before_accepted",
        "after_accepted",
    ] {
        net.agent_dies_at("two", point);
    }
    net.restart("two", None);
}

fn evict_as_all_die(net: &mut Net, evict: &str) {
    let unanswered = |net: &Net| assert!(net.house.call("POST", evict, Some(&json!({}))).is_none());
    net.home_dies_at("BeforePutCommit", unanswered);
    net.restart_home(None);
    assert_eq!(net.table("members")[0]["membership"], "member", "what was not committed did not happen");
    net.sites.iter_mut().for_each(Site::kill);
    net.home_dies_at("AfterPutCommit", unanswered);
    net.restart_home(None);
    for (name, points) in
        [("one", ["before_revoked", "after_revoked"]), ("east", ["before_accepted", "after_accepted"])]
    {
        points.iter().for_each(|point| net.agent_dies_at(name, point));
    }
    for name in ["one", "two", "east", "west"] {
        net.restart(name, None);
    }
}

#[test]
fn joins_and_evictions_end_the_same_wherever_home_or_an_agent_is_killed() {
    let (calm, killed) = thread::scope(|scope| {
        let lives = [false, true].map(|kills| scope.spawn(move || lives(kills)));
        let [calm, killed] = lives.map(|life| life.join().expect("it ends well"));
        (calm, killed)
    });
    for (what, (calm, killed)) in ["joined", "evicted", "another joined"].iter().zip(calm.iter().zip(&killed)) {
        let lines = [calm, killed].map(|state| format!("{state:#}").lines().map(str::to_owned).collect::<Vec<_>>());
        let apart: Vec<_> = lines[0].iter().zip(&lines[1]).filter(|(calm, killed)| calm != killed).take(9).collect();
        assert!(calm == killed, "{what}: {apart:#?}");
    }
    let raised = items(&calm[1]["profiles"]).iter().filter(|row| row[3] == "1").count();
    assert_eq!(raised, 1, "an eviction cuts the network's profile once: {:#}", calm[1]["profiles"]);
}

/// The router of this machine, or else the stand-in, which has no links.
pub(crate) fn router() -> (PathBuf, bool) {
    let named = std::env::var_os("SKROUTERD").map(PathBuf::from).filter(|path| path.is_file());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| std::env::split_paths(&path).map(|p| p.join("skrouterd")).find(|p| p.is_file()));
    let Some(found) = found else {
        eprintln!("\n!!! NO ROUTER: neither SKROUTERD nor PATH names skrouterd, only a stand-in was tried !!!\n");
        return (env!("CARGO_BIN_EXE_router-peer").into(), false);
    };
    (found, true)
}

/// Each profile that a site has in use, by the site's name and its own.
fn profiles(net: &Net) -> BTreeMap<(String, String), Value> {
    let site = |name: &str| (name.to_owned(), format!("{BACKBONE}/sites/{name}/status"));
    let members = net.table("members");
    let member =
        |row: &BTreeMap<String, String>| (row["name"].clone(), format!("{NETWORK}/members/{}/status", row["id"]));
    let all = ["east", "west"].map(site).into_iter().chain(members.iter().map(member));
    let told = all.flat_map(|(site, path)| {
        let profiles = items(&net.get(&path)["told"]["profiles"]);
        profiles.into_iter().map(move |p| ((site.clone(), text(&p["name"])), p))
    });
    told.collect()
}

/// The authority of a line that signs.
fn active(net: &Net, line: &str) -> Value {
    let all = items(&net.get("/api/v1/pki/authorities"));
    let is_it = |a: &&Value| text(&a["line"]).starts_with(line) && a["stage"] == "active";
    all.iter().find(is_it).cloned().expect("one signs")
}

/// Replaces the authority of a line while somebody is killed at every step.
fn is_replaced(path: &str, line: &str, dies: impl FnOnce(&mut Net, &str)) {
    let (program, is_real) = router();
    let mut net = Net::new(&program);
    let token = net.invite(1);
    net.join("till", &token);
    net.settled();
    let is_well = |site: &Value| !is_real || site["state"]["health"] == "well";
    let well = |net: &Net| {
        wait("all sites are well", || {
            let (sites, members) = (net.get(&format!("{BACKBONE}/sites")), net.get(&format!("{NETWORK}/members")));
            [items(&sites), items(&members)].concat().iter().all(is_well).then_some(())
        });
    };
    well(&net);
    let (before, old) = (profiles(&net), active(&net, line));
    let rotation = format!("{path}/rotation");
    net.done("POST", &rotation, &json!({"drain_seconds": 1}));
    dies(&mut net, &rotation);
    let last = wait("the rotation is over", || Some(net.get(&rotation)).filter(|r| !r["finished_at"].is_null()));
    assert_eq!((&last["step"], &last["left_behind"]), (&json!("done"), &json!([])));
    net.settled();
    well(&net);

    let events = items(&net.get("/api/v1/events?kind=rotation.moved_on&limit=100")["items"]);
    let mut steps: Vec<_> =
        events.iter().map(|e| format!("{} {}", text(&e["after"]["step"]), e["after"]["level"])).collect();
    steps.sort();
    let mut each = STEPS.to_vec();
    each.sort_unstable();
    assert_eq!(steps, each, "each step was taken once");
    let (new, after) = (active(&net, line), profiles(&net));
    assert_ne!(old["fingerprint"], new["fingerprint"]);
    let leaves: Vec<_> = ["site", "member"]
        .iter()
        .flat_map(|of| items(&net.get(&format!("/api/v1/pki/leaves?subject={of}&limit=500"))["items"]))
        .collect();
    for (key, was) in &before {
        let is = &after[key];
        if was["trust"] != json!([old["fingerprint"]]) {
            assert_eq!(
                (&was["trust"], &was["cuts"], &was["serial"]),
                (&is["trust"], &is["cuts"], &is["serial"]),
                "{key:?}"
            );
            continue;
        }
        assert_eq!(is["trust"], json!([new["fingerprint"]]), "{key:?} trusts the new authority alone");
        let counts = |of: &Value| ["cuts", "edition"].map(|count| of[count].as_i64().expect("a number"));
        assert_eq!(counts(is), counts(was).map(|count| count + 1), "{key:?} was cut once, and has one new leaf");
        let leaf = leaves.iter().find(|l| l["serial"] == is["serial"]).expect("home issued the leaf in use");
        assert_eq!(leaf["authority_id"], new["id"], "{key:?} uses a leaf of the new authority");
    }
    assert_eq!(before.values().filter(|p| p["trust"] == json!([old["fingerprint"]])).count(), 2, "{before:?}");
}

/// What happens in every rotation here, whose lines have two levels each.
const STEPS: [&str; 8] = ["leaves 0", "leaves 1", "trust_new 0", "drain 0", "drain 1", "cut 1", "cut 0", "done 0"];

/// Home dies before each step is committed and right after, and with it every agent, before it heard of the step.
fn home_dies(net: &mut Net, _: &str) {
    for _ in STEPS {
        net.home_dies_at("BeforePlanCommit", |_| ());
        net.home_dies_at("AfterPlanCommit", |_| ());
        for name in ["east", "west", "till"] {
            net.restart(name, None);
        }
    }
    net.restart_home(None);
}

/// Each agent dies at each step: at once, before it took the step's document, and before it acted on it.
fn agents_die(net: &mut Net, rotation: &str) {
    let (mut step, mut deaths) = (Value::Null, 0);
    let mut left: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    wait("the rotation is over", || {
        let rotation = net.get(rotation);
        let at = json!([rotation["step"], rotation["level"]]);
        for name in ["east", "west", "till"] {
            if at != step {
                left.insert(name, vec!["after_accepted", "before_accepted"]);
            } else if !net.site(name).crashed() {
                continue;
            }
            deaths += 1;
            let point = left.get_mut(name).and_then(Vec::pop);
            net.restart(name, point);
        }
        step = at;
        (!rotation["finished_at"].is_null()).then_some(())
    });
    assert!(deaths > 3 * STEPS.len(), "agents died {deaths} times");
    for name in ["east", "west", "till"] {
        net.restart(name, None);
    }
}

#[test]
fn the_authority_of_a_backbone_is_replaced_though_home_is_killed_at_every_step() {
    is_replaced(BACKBONE, "backbone/", home_dies);
}

#[test]
fn the_authority_of_a_network_is_replaced_though_home_is_killed_at_every_step() {
    is_replaced(NETWORK, "network/", home_dies);
}

#[test]
fn the_authority_of_a_backbone_is_replaced_though_agents_are_killed_at_every_step() {
    is_replaced(BACKBONE, "backbone/", agents_die);
}

#[test]
fn the_authority_of_a_network_is_replaced_though_agents_are_killed_at_every_step() {
    is_replaced(NETWORK, "network/", agents_die);
}
