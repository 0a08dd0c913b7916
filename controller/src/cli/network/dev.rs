//! A small backbone with one application network in a house on one machine: an ingress at one site leads to a process at
//! another, and a second one to a server outside of the network.

mod check;

use std::{collections::BTreeMap, net::TcpListener, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    cli::{
        Failure, Form, Result,
        client::Client,
        dev::{House, Tenant, wait, word},
        output,
    },
    fleet::model::Class,
};

/// What this domain brings.
pub(in crate::cli) const TENANT: Tenant = Tenant {
    name: "network",
    classes: &[Class::InteriorSite, Class::MemberSite],
    agent_config,
    settle,
    show,
    check: check::send_bytes,
    example: "network list",
};

/// The backbone, its sites, the network and its sites.
const BACKBONE: &str = "dev";
const INTERIORS: [&str; 2] = ["east", "west"];
const NETWORK: &str = "shop-net";
/// Each member with its class, which is called the same, and the interior site it hangs on.
const MEMBERS: [(&str, &str); 2] = [("front", "east"), ("back", "west")];
/// The ingresses, both at the front.
pub(super) const DOORS: [&str; 2] = ["door", "home-door"];

/// Networks that may hang on one site here.
const PORTS: u16 = 8;

/// The sites may take this long to be as they should.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sites run the example programs.
fn agent_config(house: &House, _: &Path) -> Result<Option<toml::Table>> {
    let Some(programs) = house.examples("programs") else { return Ok(None) };
    let folder = programs.canonicalize()?.display().to_string();
    Ok(Some(toml::Table::from_iter([("processes".to_owned(), vec![toml::Value::from(folder)].into())])))
}

/// Makes what is not there yet, lets the sites join, and waits until each is as it should be.
fn settle(house: &mut House) -> Result {
    if !has_programs(house) {
        eprintln!("  no network: the example programs that its sites would run are not here");
        return Ok(());
    }
    let client = house.client()?;
    if client.get::<Value>(&format!("/api/v1/network/networks/{NETWORK}")).is_err() {
        let mut ports = Ports::new();
        make_backbone(&client, &mut ports)?;
        make_network(house, &client, &mut ports)?;
    }
    for site in INTERIORS {
        house.join(Class::InteriorSite, &format!("{BACKBONE}-{site}"), |client| {
            let path = format!("/api/v1/network/backbones/{BACKBONE}/sites/{site}/invitation");
            Ok(word(&client.post::<Value>(&path, &json!({}))?, "token").to_owned())
        })?;
    }
    for (class, site) in MEMBERS {
        house.join(Class::MemberSite, &format!("{NETWORK}-{class}"), |client| invite(client, class, site))?;
    }
    name_members(house, &client)?;
    let mut progress = output::Progress::new();
    wait(PATIENCE, "the sites of the network are as they should be", || {
        house.must_live()?;
        let sites = sites(&client)?;
        let line: Vec<_> = sites.iter().map(|s| format!("{} {}", word(s, "name"), s["state"]["health"])).collect();
        progress.show(&format!("  sites: {}", line.join(", ").replace('"', "")), "");
        Ok(sites.iter().all(is_settled).then_some(()))
    })
    .map_err(|failure| Failure::failed(format!("{failure}; {}", reasons(&client))))?;
    progress.end();
    Ok(())
}

/// Whether there is something that the sites could run.
fn has_programs(house: &House) -> bool {
    house.examples("programs").is_some()
}

fn make_backbone(client: &Client, free: &mut Ports) -> Result {
    let path = format!("/api/v1/network/backbones/{BACKBONE}");
    let _: Value = client.post("/api/v1/network/backbones", &json!({"name": BACKBONE}))?;
    for site in INTERIORS {
        let _: Value = client.post(&format!("{path}/sites"), &json!({"name": site}))?;
        for (kind, ports) in [("peer", 1), ("member", PORTS)] {
            let point = json!({
                "name": format!("{kind}s"), "kind": kind, "host": "127.0.0.1", "bind": "127.0.0.1",
                "port": free.take(ports)?, "ports": ports,
            });
            let _: Value = client.post(&format!("{path}/sites/{site}/access-points"), &point)?;
        }
    }
    let _: Value = client.post(&format!("{path}/links"), &json!({"from": INTERIORS[1], "to": INTERIORS[0]}))?;
    Ok(())
}

fn make_network(house: &House, client: &Client, free: &mut Ports) -> Result {
    let _: Value = client.put(
        "/api/v1/network/services/web",
        &json!({"protocol": "http", "default_port": 80, "description": "HTTP"}),
        None,
    )?;
    let offers = [json!({"service": "web", "port": free.take(1)?})];
    let image = json!({"reference": "hello", "description": "says what it is asked for", "offers": offers});
    let _: Value = client.put("/api/v1/network/images/hello", &image, None)?;
    let _: Value = client.post("/api/v1/network/networks", &json!({"name": NETWORK, "backbone": BACKBONE}))?;
    let path = format!("/api/v1/network/networks/{NETWORK}");
    for (class, description) in [("front", "where people come in"), ("back", "where the work is done")] {
        let _: Value = client.put(&format!("{path}/classes/{class}"), &json!({"description": description}), None)?;
    }
    for link in ["hello", "home"] {
        let _: Value = client.put(&format!("{path}/service-links/{link}"), &json!({"service": "web"}), None)?;
    }
    let (host, port) = house.url().trim_start_matches("http://").rsplit_once(':').unwrap_or(("127.0.0.1", "0"));
    let home_port = port.parse::<u16>().map_err(|e| Failure::failed(e.to_string()))?;
    let attached = |link: &str, port: Option<u16>| json!([{"service_link": link, "port": port}]);
    for (name, endpoint) in [
        (
            "hello",
            json!({"kind": "process", "class": "back", "image": "hello", "attachments": attached("hello", None)}),
        ),
        (
            "home",
            json!({"kind": "egress", "class": "back", "host": host, "attachments": attached("home", Some(home_port))}),
        ),
        ("door", ingress(attached("hello", Some(free.take(1)?)))),
        ("home-door", ingress(attached("home", Some(free.take(1)?)))),
    ] {
        let _: Value = client.put(&format!("{path}/endpoints/{name}"), &endpoint, None)?;
    }
    Ok(())
}

fn ingress(attachments: Value) -> Value {
    json!({"kind": "ingress", "class": "front", "host": "127.0.0.1", "attachments": attachments})
}

fn invite(client: &Client, class: &str, site: &str) -> Result<String> {
    let hour = 3_600_000;
    let order = json!({
        "name": class, "class": class, "deadline_at": now_ms() + hour,
        "edge_links": [{"site": site, "access_point": "members"}],
    });
    let made: Value = client.post(&format!("/api/v1/network/networks/{NETWORK}/invitations"), &order)?;
    Ok(word(&made, "token").to_owned())
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Calls members by their classes: each has one, and hosts on one machine are all called the same.
fn name_members(house: &mut House, client: &Client) -> Result {
    let path = format!("/api/v1/network/networks/{NETWORK}/members");
    wait(PATIENCE, "the members have joined", || {
        house.must_live()?;
        let joined = client.all(&path)?;
        for (class, _) in MEMBERS {
            let Some(member) = joined.iter().find(|m| word(m, "class") == class) else { return Ok(None) };
            if word(member, "name") != class {
                client.act(
                    http::Method::PATCH,
                    &format!("{path}/{}", word(member, "id")),
                    Some(&json!({"name": class})),
                )?;
            }
        }
        Ok(Some(()))
    })
}

/// All sites, interior ones first, each with its state.
pub(super) fn sites(client: &Client) -> Result<Vec<Value>> {
    let mut all = client.all(&format!("/api/v1/network/backbones/{BACKBONE}/sites"))?;
    all.extend(client.all(&format!("/api/v1/network/networks/{NETWORK}/members"))?);
    Ok(all)
}

/// Whether a site will not get any better: its router carries traffic, or there is none.
fn is_settled(site: &Value) -> bool {
    is_rendered(site) || word(&site["state"], "health") == "well"
}

/// Whether there is no router on a site's host.
pub(super) fn is_rendered(site: &Value) -> bool {
    site["state"]["router"] == "rendered"
}

fn reasons(client: &Client) -> String {
    let sites = sites(client).unwrap_or_default();
    let not_yet = sites.iter().filter(|s| !is_settled(s));
    not_yet.map(|s| format!("{}: {}", word(s, "name"), word(&s["state"], "why"))).collect::<Vec<_>>().join("; ")
}

/// Where the ingresses listen, by name.
pub(super) fn doors(client: &Client) -> Result<BTreeMap<String, String>> {
    let endpoints = client.all(&format!("/api/v1/network/networks/{NETWORK}/endpoints"))?;
    let url = |name: &str| {
        let endpoint = endpoints.iter().find(|e| word(e, "name") == name)?;
        Some((name.to_owned(), format!("http://127.0.0.1:{}/", endpoint["attachments"][0]["port"])))
    };
    Ok(DOORS.into_iter().filter_map(url).collect())
}

fn show(house: &House) -> Result {
    if !has_programs(house) {
        return Ok(());
    }
    let client = house.client()?;
    let mut sites = sites(&client)?;
    let doors = doors(&client)?;
    for site in &mut sites {
        let is_front = word(site, "class") == "front" && !is_rendered(site);
        let urls = doors.values().filter(|_| is_front).map(String::as_str).collect::<Vec<_>>().join(" ");
        site["ingresses"] = urls.into();
        site["of"] = if site["class"].is_null() { BACKBONE.into() } else { NETWORK.into() };
    }
    let columns = [
        ("SITE", "/name"),
        ("OF", "/of"),
        ("STATE", "/state/health"),
        ("WHY", "/state/why"),
        ("INGRESSES", "/ingresses"),
    ];
    output::list(Form::Table, sites, &columns, "/name", "no sites")
}

/// Gives out ports that are free on loopback, each once. They lie below those that are given out for clients.
struct Ports {
    next: u16,
}

// === impl Ports ===

impl Ports {
    fn new() -> Self {
        // Two houses at once begin at different places.
        Self { next: 20_000 + u16::try_from(std::process::id() % 8_000).unwrap_or_default() }
    }

    /// The first of so many in a row.
    fn take(&mut self, count: u16) -> Result<u16> {
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let found = (self.next..32_000).find(|port| (*port..*port + count).all(is_free));
        let found = found.ok_or_else(|| Failure::failed("no ports are free on loopback below 32000"))?;
        self.next = found + count;
        Ok(found)
    }
}
