//! One membership change: from the request to the frame with the changed document at an agent's stream. The whole of a
//! controller on SQLite, a backbone of 32 interior sites, 1,000 members in ten networks; a member and the interior site
//! it hangs on are connected. Beside it, in the same house, a document of the same size that nobody plans.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use muster_controller::{
    fleet::{
        desired::{Document, OnInterrupt, OnRevoke},
        model::{Key, Mode},
    },
    platform::{db::query, events::Actor},
};
use muster_integration_tests::{
    World,
    raw::{self, Raw},
    world::Agent,
};
use muster_proto::{
    KIND_NETWORK_SITE,
    fleet::{Accept, Assign, Capability, Hello, Pong, from_agent, from_home},
};
use serde_json::{Value, json};
use sqlx::Row;

use crate::print;

const INTERIORS: usize = 32;
const NETWORKS: usize = 10;
const MEMBERS: usize = 1000;

/// A network has a port at each so manieth interior site.
const APART: usize = 8;

/// Changes of each sort that are timed.
const CHANGES: usize = 100;

/// Wanted of the median.
const WANTED: Duration = Duration::from_millis(20);

/// The house may take this long to let all members in.
const PATIENCE: Duration = Duration::from_secs(300);

/// A kind that no domain plans.
const UNPLANNED: &str = "bench.document";

/// A house with its API.
struct House {
    world: World,
    http: ureq::Agent,
    token: String,
}

/// The stream of an agent that takes what it is sent.
struct Stream(Raw);

/// Times changes of members, then documents without a plan.
pub async fn measure() -> anyhow::Result<()> {
    println!("\nA membership change: {INTERIORS} interior sites, {MEMBERS} members in {NETWORKS} networks");
    let house = House::new().await?;
    let (interior, member) = house.settle().await?;
    let member_id = house.one("select id from network_member where agent_id = $1", &member.id.0).await?;
    let waiting = "select id from network_member where membership = $1 limit 1";

    let mut stream = Stream::open(&house.world, &member).await?;
    let mut reclassed = Vec::new();
    for n in 0..CHANGES {
        let path = format!("/network/networks/net0/members/{member_id}");
        let class = ["silver", "gold"][n % 2];
        reclassed.push(house.time("PATCH", &path, Some(json!({"class": class})), &mut stream).await?.0);
    }
    let mut stream = Stream::open(&house.world, &interior).await?;
    let (mut approved, mut evicted, mut size) = (Vec::new(), Vec::new(), 0);
    for _ in 0..CHANGES {
        let path = format!("/network/networks/net0/members/{}", house.one(waiting, "asking").await?);
        approved.push(house.time("POST", &format!("{path}/approve"), None, &mut stream).await?.0);
        let (took, assign) = house.time("POST", &format!("{path}/evict"), None, &mut stream).await?;
        evicted.push(took);
        size = assign.document.len();
    }
    let mut unplanned = Vec::new();
    for _ in 0..CHANGES {
        unplanned.push(house.put(&interior, size, &mut stream).await?);
    }
    let floor = print(&format!("a document of {size} bytes without a plan"), unplanned, None);
    for (what, times) in [
        ("a member of another class: until it has its document", reclassed),
        ("a member approved: until its interior site knows", approved),
        ("a member evicted: until its interior site knows", evicted),
    ] {
        let ours = print(what, times, Some(WANTED));
        println!("  {:58} {:.1} times as much as without a plan", "", ours.as_secs_f64() / floor.as_secs_f64());
    }
    Ok(())
}

// === impl House ===

impl House {
    async fn new() -> anyhow::Result<Self> {
        let world = World::new().await;
        let http = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut house = Self { world, http, token: String::new() };
        let password = house.world.home.first_admin.clone().context("a first admin")?;
        let log_in = house.ask("POST", "/login", Some(json!({"name": "admin", "password": password.trim()}))).await?;
        log_in["token"].as_str().context("a token")?.clone_into(&mut house.token);
        Ok(house)
    }

    /// Makes backbone, networks and members. Gives the agents that may connect: of the first interior site, and of a
    /// member that hangs on it.
    async fn settle(&self) -> anyhow::Result<(Agent, Agent)> {
        let interior = self.backbone().await?;
        let mut invitations = Vec::new();
        for n in 0..NETWORKS {
            let network = format!("/network/networks/net{n}");
            self.ask("POST", "/network/networks", Some(json!({"name": format!("net{n}"), "backbone": "bb"}))).await?;
            self.ask("PUT", &format!("{network}/service-links/web"), Some(json!({"service": "web"}))).await?;
            for (class, port) in [("gold", 8080), ("silver", 8081)] {
                self.ask("PUT", &format!("{network}/classes/{class}"), Some(json!({}))).await?;
                let attachments = json!([{"service_link": "web", "port": port}]);
                let ingress =
                    json!({"kind": "ingress", "class": class, "host": "127.0.0.1", "attachments": attachments});
                self.ask("PUT", &format!("{network}/endpoints/{class}"), Some(ingress)).await?;
            }
            for site in (n % APART..INTERIORS).step_by(APART) {
                invitations.push(self.invite(n, site, false).await?.0);
            }
        }
        let (_, token) = self.invite(0, 0, false).await?;
        let member = self.world.joined("member", &token).await?;
        let joining: Vec<_> = invitations.iter().cycle().take(MEMBERS - 1).cloned().collect();
        self.join("member-site", &joining).await?;
        let (asking, _) = self.invite(0, 0, true).await?;
        self.join("member-site", &vec![asking; CHANGES]).await?;
        let began = Instant::now();
        while self.one("select count(*) from network_member where class = $1", "gold").await?
            != (MEMBERS + CHANGES).to_string()
        {
            ensure!(began.elapsed() < PATIENCE, "the members are not let in");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok((interior, member))
    }

    /// A ring of interior sites with chords. The first has an agent that may connect.
    async fn backbone(&self) -> anyhow::Result<Agent> {
        let backbone = "/network/backbones/bb";
        self.ask("POST", "/network/backbones", Some(json!({"name": "bb"}))).await?;
        let web = json!({"protocol": "tcp", "default_port": 80, "description": ""});
        self.ask("PUT", "/network/services/web", Some(web)).await?;
        for n in 0..INTERIORS {
            self.ask("POST", &format!("{backbone}/sites"), Some(json!({"name": format!("s{n}")}))).await?;
            for (kind, port, ports) in [("peer", 5671, 1), ("member", 6000, 64)] {
                let point = json!({
                    "name": kind, "kind": kind, "host": format!("s{n}.test"), "port": port, "ports": ports,
                });
                self.ask("POST", &format!("{backbone}/sites/s{n}/access-points"), Some(point)).await?;
            }
        }
        let mut invitations = Vec::new();
        let mut first = None;
        for n in 0..INTERIORS {
            for step in [1, 7] {
                let link = json!({"from": format!("s{n}"), "to": format!("s{}", (n + step) % INTERIORS)});
                self.ask("POST", &format!("{backbone}/links"), Some(link)).await?;
            }
            let invited = self.ask("POST", &format!("{backbone}/sites/s{n}/invitation"), Some(json!({}))).await?;
            if n == 0 {
                first = Some(self.world.joined("interior", invited["token"].as_str().context("a token")?).await?);
            } else {
                let invitation = "select invitation_id from network_site where name = $1";
                invitations.push(self.one(invitation, &format!("s{n}")).await?);
            }
        }
        self.join("interior-site", &invitations).await?;
        first.context("there is a first site")
    }

    async fn invite(&self, network: usize, site: usize, approval: bool) -> anyhow::Result<(String, String)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let order = json!({
            "name": "bench", "class": "gold", "deadline_at": u64::try_from(now)? + 3_600_000, "limit": MEMBERS,
            "approval": approval, "edge_links": [{"site": format!("s{site}"), "access_point": "member"}],
        });
        let invited = self.ask("POST", &format!("/network/networks/net{network}/invitations"), Some(order)).await?;
        let word = |name: &str| Ok::<_, anyhow::Error>(invited[name].as_str().context("a word")?.to_owned());
        Ok((word("id")?, word("token")?))
    }

    /// Rows of agents that joined by these invitations, and never connect.
    async fn join(&self, class: &str, invitations: &[String]) -> anyhow::Result<()> {
        let text = "insert into fleet_agent (id, name, class, labels, invitation_id, enrolled_at, standing, standing_seq, \
                    revoke_reason, agent_version, facts, capabilities, capability_digest, ledger_id, liveness, \
                    liveness_at, version) values ($1, $2, $3, '{}', $4, 1, 'ok', 0, '', '', '{}', '[]', '', '', \
                    'never', 1, 1)";
        let fleet = &self.world.home.fleet;
        let write = fleet.db.write(|mut tx| async move {
            for invitation in invitations {
                let id = muster_pki::hex(&muster_pki::random::<10>());
                let insert = query(text.into()).bind(id.clone()).bind(id).bind(class.to_owned());
                insert.bind(invitation.clone()).execute(&mut *tx).await?;
            }
            tx.wake("network");
            tx.done(())
        });
        Ok(write.await?)
    }

    /// The time from a request to the frame at a stream, with that frame.
    async fn time(
        &self,
        method: &'static str,
        path: &str,
        body: Option<Value>,
        stream: &mut Stream,
    ) -> anyhow::Result<(Duration, Assign)> {
        let began = Instant::now();
        let heard = async {
            let assign = stream.hear(KIND_NETWORK_SITE).await?;
            anyhow::Ok((began.elapsed(), assign))
        };
        let (_, (took, assign)) = tokio::try_join!(self.ask(method, path, body), heard)?;
        stream.take(&assign).await;
        // The next one finds a quiet house.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok((took, assign))
    }

    /// The time from the put of a fresh document of a length to the frame at a stream.
    async fn put(&self, agent: &Agent, length: usize, stream: &mut Stream) -> anyhow::Result<Duration> {
        let mut bytes = muster_pki::random::<32>().to_vec();
        bytes.resize(length, b'.');
        let document = Document {
            mode: Mode::Standing,
            version: 1,
            bytes,
            on_interrupt: OnInterrupt::Report,
            on_revoke: OnRevoke::Keep,
            start_by: 0,
            blobs: Vec::new(),
            store_bytes: 0,
        };
        let (fleet, document, agents) = (&self.world.home.fleet, &document, std::slice::from_ref(&agent.id));
        let began = Instant::now();
        let write = fleet.db.write(|mut tx| async move {
            let key = Key { kind: UNPLANNED.into(), id: "it".into() };
            let generation = tx.record(Actor::controller().change("bench.put", "bench")).await?;
            fleet.desired.put(&mut tx, generation, agents, &key, document).await?;
            tx.done(())
        });
        write.await?;
        let assign = stream.hear(UNPLANNED).await?;
        let took = began.elapsed();
        stream.take(&assign).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(took)
    }

    async fn one(&self, text: &str, of: &str) -> anyhow::Result<String> {
        let mut conn = self.world.home.fleet.db.read().await?;
        let row = query(text.into()).bind(of.to_owned()).fetch_one(&mut *conn).await?;
        Ok(row.try_get::<String, _>(0).or_else(|_| row.try_get::<i64, _>(0).map(|n| n.to_string()))?)
    }

    async fn ask(&self, method: &'static str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}/api/v1{path}", self.world.home.api))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(body.map(|body| body.to_string()).unwrap_or_default())?;
        let http = self.http.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let mut answer = http.run(request)?;
            anyhow::Ok((answer.status(), answer.body_mut().read_to_string()?))
        });
        let (status, text) = asked.await??;
        ensure!(status.is_success(), "{method} {path}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}

// === impl Stream ===

impl Stream {
    /// Connects an agent and takes what there is for it.
    async fn open(world: &World, agent: &Agent) -> anyhow::Result<Self> {
        let (oldest_protocol, newest_protocol) = muster_proto::PROTOCOL;
        let capability =
            |kind: &str| Capability { kind: kind.into(), oldest_version: 1, newest_version: 1, offers: Vec::new() };
        let hello = Hello {
            oldest_protocol,
            newest_protocol,
            ledger_id: "bench".into(),
            capabilities: [KIND_NETWORK_SITE, UNPLANNED].map(capability).into(),
            ..Hello::default()
        };
        let channel = raw::channel(&world.home.address.to_string(), &agent.state).await;
        let (raw, _) = Raw::welcomed(channel, hello).await?;
        let mut stream = Self(raw);
        let first = stream.hear(KIND_NETWORK_SITE).await?;
        stream.take(&first).await;
        Ok(stream)
    }

    /// The next assignment of a kind. What else comes is taken.
    async fn hear(&mut self, kind: &str) -> anyhow::Result<Assign> {
        loop {
            match self.0.hear().await?.context("the stream goes on")? {
                from_home::Frame::Assign(assign) if assign.kind == kind => return Ok(assign),
                from_home::Frame::Assign(assign) => self.take(&assign).await,
                from_home::Frame::Ping(ping) => self.0.say(from_agent::Frame::Pong(Pong { nonce: ping.nonce })).await,
                _ => {}
            }
        }
    }

    /// Says that an assignment is held.
    async fn take(&self, it: &Assign) {
        let (kind, id) = (it.kind.clone(), it.id.clone());
        let accept = Accept { kind, id, epoch: it.epoch, generation: it.generation };
        self.0.say(from_agent::Frame::Accept(accept)).await;
    }
}
