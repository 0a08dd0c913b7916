//! Bytes from a network's ingresses to its processes and egresses, through the routers of two interior sites.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use super::{BACKBONE, DOORS, MEMBERS, NETWORK, doors, has_programs, is_rendered, sites};
use crate::cli::{
    Failure, Result,
    client::Client,
    dev::{House, get, step, wait, word},
    output::red,
};

/// A step may take this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// While an authority is replaced, requests may be without an answer for this long: less than it takes a router to
/// connect again.
const GAP: Duration = Duration::from_secs(2);

/// Sends bytes through both ingresses, takes one away, and sends a member away. Where no router is installed it looks at
/// the configurations that the agents wrote instead, and says so.
pub(super) fn send_bytes(house: &mut House) -> Result {
    if !has_programs(house) {
        return Ok(());
    }
    let client = house.client()?;
    let sites = sites(&client)?;
    if sites.iter().all(is_rendered) {
        let text = "no router on this machine (skrouterd): no bytes went through the network";
        eprintln!("  {} {text}", red("--"));
        return must_be_rendered(house, &client);
    }
    let doors = doors(&client)?;
    must_say(house, &doors[DOORS[0]], "Hello from the other side")?;
    step("an ingress at one site leads to a process at another");
    must_say(house, &format!("{}livez", doors[DOORS[1]]), "ok")?;
    step("and one to a server outside of the network");

    let path = format!("/api/v1/network/networks/{NETWORK}");
    for (line, what) in [(&format!("/api/v1/network/backbones/{BACKBONE}"), "backbone"), (&path, "network")] {
        let gap = must_rotate(house, &client, line, &doors[DOORS[0]])?.as_secs_f64();
        step(&format!("rotated: the {what} has another authority; without an answer for {gap:.1} s at most"));
    }
    client.act(Method::DELETE, &format!("{path}/endpoints/{}", DOORS[0]), None::<&Value>)?;
    must_be_shut(house, &doors[DOORS[0]])?;
    must_say(house, &format!("{}livez", doors[DOORS[1]]), "ok")?;
    step("withdrawn: that ingress is shut, the other one is not");

    client.act(Method::POST, &format!("{path}/members/{}/evict", MEMBERS[0].0), None::<&Value>)?;
    must_be_shut(house, &doors[DOORS[1]])?;
    step("evicted: the site has no ingress any more");
    Ok(())
}

fn must_say(house: &mut House, url: &str, text: &str) -> Result {
    let mut last = String::new();
    let said = wait(PATIENCE, &format!("{url} says {text:?}"), || {
        house.must_live()?;
        match get(url) {
            Ok(body) if body.contains(text) => return Ok(Some(())),
            Ok(body) => last = body,
            Err(failure) => last = failure.to_string(),
        }
        Ok(None)
    });
    said.map_err(|failure| Failure::failed(format!("{failure}; it said: {last}")))
}

/// Replaces the authority of a line while requests go through the network. Gives the longest time without an answer.
fn must_rotate(house: &mut House, client: &Client, line: &str, door: &str) -> Result<Duration> {
    let path = format!("{line}/rotation");
    client.act(Method::POST, &path, Some(&serde_json::json!({"drain_seconds": 2})))?;
    let (mut last, mut answered, mut longest) = (Value::Null, Instant::now(), Duration::ZERO);
    let rotated = wait(PATIENCE, "the rotation is over and requests are answered", || {
        house.must_live()?;
        let answer = get(door);
        if answer.is_ok() {
            longest = longest.max(answered.elapsed());
            answered = Instant::now();
        }
        if answered.elapsed() > GAP {
            return Err(Failure::failed(format!("nothing is answered for {} s", GAP.as_secs())));
        }
        last = client.get(&path)?;
        Ok((answer.is_ok() && !last["finished_at"].is_null()).then_some(()))
    });
    rotated.map(|()| longest).map_err(|failure| Failure::failed(format!("{failure}; the rotation stands at {last}")))
}

fn must_be_shut(house: &mut House, url: &str) -> Result {
    wait(PATIENCE, &format!("{url} answers no more"), || {
        house.must_live()?;
        Ok(get(url).err().map(drop))
    })
}

/// The configuration of each site is on its host, the ingresses in that of the front.
fn must_be_rendered(house: &House, client: &Client) -> Result {
    let front = format!("agents/{NETWORK}-{}/state/network", MEMBERS[0].0);
    let files = walk(&house.data_dir().join(front))?;
    let texts = files.iter().filter_map(|f| std::fs::read_to_string(f).ok());
    let listeners = texts.filter(|t| t.contains("tcpListener")).count();
    if listeners == 0 {
        return Err(Failure::failed("the front's router configuration has no ingress"));
    }
    for site in sites(client)? {
        if !is_rendered(&site) {
            return Err(Failure::failed(format!("{}: {}", word(&site, "name"), site["state"])));
        }
    }
    step("rendered: each site's router configuration is on its host");
    Ok(())
}

fn walk(folder: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(walk(&path)?) } else { found.push(path) }
    }
    Ok(found)
}
