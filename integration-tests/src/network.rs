//! A small network of real programs: a backbone of two sites, members, and their home.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{
    processes::{Processes, free_port, wait},
    site::{Site, told},
};

/// Where the API has the backbone.
pub const BACKBONE: &str = "/api/v1/network/backbones/europe";
/// Where the API has the network on it.
pub const NETWORK: &str = "/api/v1/network/networks/shop";
const HOUR: u32 = 3600;

/// A backbone of two sites, of which `west` connects to `east`, and on it the network `shop`, whose members hang on `east`.
pub struct Net {
    // Sites end before the folder in which they lie goes.
    /// Its hosts, members among them.
    pub sites: Vec<Site>,
    /// Its home.
    pub house: Processes,
    router: PathBuf,
}

// === impl Net ===

impl Net {
    /// A home with all of it, and the agents of its interior sites, which start `router`.
    pub fn new(router: &Path) -> Self {
        let mut house = Processes::new();
        house.certificate_seconds = HOUR;
        house.start_controller(None);
        let mut net = Self { sites: Vec::new(), house, router: router.to_owned() };
        net.done("POST", "/api/v1/network/backbones", &json!({"name": "europe"}));
        for name in ["east", "west"] {
            net.done("POST", &format!("{BACKBONE}/sites"), &json!({"name": name}));
        }
        for kind in ["peer", "member"] {
            let (host, port) = ("127.0.0.1", free_port());
            let point = json!({"name": format!("{kind}s"), "kind": kind, "host": host, "bind": host, "port": port});
            net.done("POST", &format!("{BACKBONE}/sites/east/access-points"), &point);
        }
        net.done("POST", &format!("{BACKBONE}/links"), &json!({"from": "west", "to": "east"}));
        let shop = json!({"name": "shop", "backbone": "europe", "delete_delay": HOUR * 1000});
        net.done("POST", "/api/v1/network/networks", &shop);
        net.done("PUT", &format!("{NETWORK}/classes/front"), &json!({"description": "tills"}));
        for name in ["east", "west"] {
            let invitation = net.done("POST", &format!("{BACKBONE}/sites/{name}/invitation"), &json!({}));
            net.join(name, &text(&invitation["token"]));
        }
        net
    }

    /// Asks the API, which must say yes.
    pub fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = wait(path, || self.house.call(method, path, Some(body)));
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    /// Asks the API for something.
    pub fn get(&self, path: &str) -> Value {
        self.house.ask("GET", path, None)
    }

    /// A token for so many members.
    pub fn invite(&self, limit: u32) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        let deadline = i64::try_from(now).expect("it fits") + i64::from(HOUR) * 1000;
        let order = json!({
            "name": "tills", "class": "front", "deadline_at": deadline, "limit": limit,
            "edge_links": [{"site": "east", "access_point": "members"}],
        });
        text(&self.done("POST", &format!("{NETWORK}/invitations"), &order)["token"])
    }

    /// A site whose agent has joined and runs.
    pub fn join(&mut self, name: &str, token: &str) {
        let mut site = Site::new(&self.house, name, &self.router);
        let said = site.enroll(&self.house, token, None);
        assert!(said.status.success(), "{name}: {}", told(&said));
        site.start(&self.house, None);
        self.sites.push(site);
    }

    /// One of its hosts.
    pub fn site(&mut self, name: &str) -> &mut Site {
        self.sites.iter_mut().find(|site| site.name == name).expect("it is a site")
    }

    /// Starts home so that it kills itself at a point, and waits for that.
    pub fn home_dies_at(&mut self, point: &str, meanwhile: impl FnOnce(&Self)) {
        self.restart_home(Some(point));
        meanwhile(self);
        let what = format!("home kills itself at {point}\n{}", self.house.logs());
        wait(&what, || self.house.controller_crashed().then_some(()));
    }

    /// Kills home and starts it again; `crash` names where it is to kill itself.
    pub fn restart_home(&mut self, crash: Option<&str>) {
        self.house.kill_controller();
        self.house.start_controller(crash);
    }

    /// Starts a site's agent so that it kills itself at a point, and waits for that.
    pub fn agent_dies_at(&mut self, name: &str, point: &str) {
        self.restart(name, Some(point));
        let what = format!("{name} kills itself at {point}\n{}", self.house.logs());
        wait(&what, || self.site(name).crashed().then_some(()));
    }

    /// Starts a site's agent anew.
    pub fn restart(&mut self, name: &str, crash: Option<&str>) {
        let at = self.sites.iter().position(|site| site.name == name).expect("it is a site");
        self.sites[at].kill();
        self.sites[at].start(&self.house, crash);
    }

    /// The rows of a table, by the names of columns.
    pub fn table(&self, name: &str) -> Vec<BTreeMap<String, String>> {
        let table = self.get(&format!("/api/v1/network/tables/{name}"));
        let columns: Vec<_> = items(&table["columns"]).iter().map(text).collect();
        let row = |row: &Value| columns.iter().cloned().zip(items(row).iter().map(text)).collect();
        items(&table["rows"]).iter().map(row).collect()
    }

    /// Waits until every agent has said that its site is as home wants it.
    pub fn settled(&self) {
        let is_settled = |agent: &Value| {
            let (_, detail) = self.house.call("GET", &format!("/api/v1/agents/{}", text(&agent["id"])), None)?;
            let mut holdings = items(&detail["holdings"]).into_iter();
            holdings
                .all(|h| h["report"]["phase"] == "applied" && h["report"]["generation"] == h["desired_generation"])
                .then_some(())
        };
        wait(&format!("all is settled\n{}", self.house.logs()), || {
            let agents = self.house.call("GET", "/api/v1/agents", None)?.1;
            let here: Vec<_> = items(&agents["items"]).into_iter().filter(|a| a["is_revoked"] == false).collect();
            let joined = self.table("members").len() + 2 == items(&agents["items"]).len();
            (joined && here.iter().all(|agent| is_settled(agent).is_some())).then_some(())
        });
    }

    /// All that is there in the end, at home and at the agents, whatever chance called it.
    pub fn state(&mut self) -> Value {
        let pick = |net: &Self, table: &str, columns: &[&str]| -> Vec<Vec<String>> {
            let rows = net.table(table);
            rows.iter().map(|row| columns.iter().map(|column| row[*column].clone()).collect()).collect()
        };
        let agents = self.get("/api/v1/agents");
        let agent = |a: &Value| json!([a["class"], a["is_revoked"], a["revoke_reason"]]);
        let mut agents: Vec<_> = items(&agents["items"]).iter().map(agent).map(|a| a.to_string()).collect();
        agents.sort();
        let invited = |i: &Value| json!([i["name"], i["limit"], i["used"]]);
        let entity = |e: &Value| {
            let name = e[1].get("name").or(e[1].get("hostname")).map(text).unwrap_or_default();
            let users = text(&e[1]["groups"]["members"]["users"]);
            let users = users.split(',').map(|user| format!("{name} lets in: {user}"));
            let of = |name: &str| e[1][name].clone();
            let own = json!([e[0], name, of("role"), of("ordinal"), of("oldestValidOrdinal")]);
            users.chain([own.to_string()]).collect::<Vec<_>>()
        };
        let router = |site: &Site| site.router_file().map(|file| file.iter().flat_map(entity).collect::<Vec<_>>());
        let routers: BTreeMap<_, _> = self.sites.iter().map(|site| (&site.name, router(site))).collect();
        let state = json!({
            "sites": pick(self, "sites", &["name", "router"]),
            "members": pick(self, "members", &["name", "class", "membership", "router", "invitation_id"]),
            "uplinks": pick(self, "uplinks", &["member_id", "access_point_id"]),
            "ports": pick(self, "ports", &["network_id", "access_point_id"]),
            "profiles": pick(self, "profiles", &["owner", "name", "edition", "cuts"]),
            "invitations": items(&self.get(&format!("{NETWORK}/invitations"))).iter().map(invited).collect::<Value>(),
            "agents": agents,
            "routers": routers,
        });
        // What is made by chance is called after its place in its table.
        let mut state = state.to_string();
        for table in ["sites", "access-points", "links", "networks", "invitations", "members"] {
            for (n, row) in self.table(table).iter().enumerate() {
                for column in ["router", "id"] {
                    let name = row.get(column).filter(|name| !name.is_empty());
                    state = name.map_or(state.clone(), |name| state.replace(name, &format!("{table} {n}")));
                }
            }
        }
        let mut state: Value = serde_json::from_str(&state).expect("it is JSON");
        let routers = state["routers"].as_object_mut().expect("they are there").values_mut();
        routers.filter_map(Value::as_array_mut).for_each(|router| router.sort_by_key(text));
        state
    }
}

/// A value that is a text.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A value that is a list.
pub fn items(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}
