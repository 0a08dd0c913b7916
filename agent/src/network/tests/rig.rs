//! An agent's network driver with a home that signs, and documents for it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use muster_pki::ca::{self, Sign};
use muster_proto::network as proto;
use prost::Message;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    driver::{Act, Driver, Settled, Turn},
    host::{Host, Machine},
    ledger::{Assignment, Generation, Key},
    network::{Settings, apply::Sites, process::Running},
    spool::{Answer, Frame, Spool},
};

const DAY: i64 = 24 * 3_600_000;

/// An authority as home has it.
pub struct Authority {
    authority: ca::Authority,
    pub der: Vec<u8>,
}

/// One agent with its state folder and its home.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub name: String,
    pub settings: Settings,
    pub driver: Sites,
    pub host: Arc<dyn Host>,
    pub home: Arc<Home>,
    pub document: proto::Site,
    pub generation: u64,
    _answering: AbortOnDropHandle<()>,
}

/// Signs what is asked for.
pub struct Home {
    pub authorities: std::sync::Mutex<BTreeMap<String, Arc<Authority>>>,
    pub is_away: AtomicBool,
    pub common_name: String,
    pub life: std::sync::atomic::AtomicI64,
    pub asked: std::sync::Mutex<Vec<proto::Sign>>,
    pub decided: std::sync::Mutex<Vec<proto::Decide>>,
    /// Why decisions are refused, if they are.
    pub refuses: std::sync::Mutex<Option<String>>,
}

impl Authority {
    pub fn new(name: &str) -> Arc<Self> {
        let (authority, _) = ca::Authority::root(name, 10 * DAY, now_ms()).unwrap();
        let der = authority.chain()[0].to_vec();
        Arc::new(Self { authority, der })
    }

    pub fn sign(&self, request: &[u8], common_name: &str, life: i64) -> Vec<u8> {
        let (common_name, names) = (common_name.to_owned(), vec!["127.0.0.1".to_owned()]);
        let profile = ca::Profile::Router { common_name, names, life };
        self.authority.sign(request, &profile, now_ms()).unwrap().der.to_vec()
    }
}

pub fn now_ms() -> i64 {
    Machine::new(None).now_ms()
}

impl Home {
    /// A home that signs each profile by its authority.
    pub fn of(authorities: &[(&str, &Arc<Authority>)], common_name: &str) -> Arc<Self> {
        let authorities = authorities.iter().map(|(name, a)| ((*name).to_owned(), (*a).clone())).collect();
        Arc::new(Self {
            authorities: std::sync::Mutex::new(authorities),
            is_away: AtomicBool::new(false),
            common_name: common_name.into(),
            life: (5 * DAY).into(),
            asked: Default::default(),
            decided: Default::default(),
            refuses: Default::default(),
        })
    }

    async fn answer(self: Arc<Self>, spool: Arc<Spool>) {
        let stream = spool.begin();
        loop {
            while !self.is_away.load(Ordering::Relaxed)
                && let Some(frame) = spool.next(stream)
            {
                let Frame::Ask(question) = frame else { continue };
                let asked = proto::Question::decode(question.body.clone()).unwrap();
                let answer = match asked.question.unwrap() {
                    proto::question::Question::Sign(sign) => Ok(self.sign(sign)),
                    proto::question::Question::Decide(decide) => self.decide(decide),
                };
                let answer = match answer {
                    Ok(reply) => Answer::Ok(proto::Reply { reply: Some(reply) }.encode_to_vec().into()),
                    Err(why) => Answer::Denied(why),
                };
                spool.answered(&question.ask_id, answer);
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), spool.filled()).await;
        }
    }

    fn sign(&self, sign: proto::Sign) -> proto::reply::Reply {
        let authority = self.authorities.lock().unwrap()[&sign.profile].clone();
        let leaf = authority.sign(&sign.request, &self.common_name, self.life.load(Ordering::Relaxed));
        self.asked.lock().unwrap().push(sign);
        proto::reply::Reply::Signed(proto::Signed { chain: vec![leaf.into(), authority.der.clone().into()] })
    }

    fn decide(&self, decide: proto::Decide) -> Result<proto::reply::Reply, String> {
        if let Some(why) = self.refuses.lock().unwrap().clone() {
            return Err(why);
        }
        self.decided.lock().unwrap().push(decide);
        Ok(proto::reply::Reply::Decided(proto::Decided {}))
    }
}

impl Site {
    pub fn new(document: proto::Site, home: Arc<Home>, settings: Settings) -> Self {
        Self::on(Arc::new(Machine::new(None)), document, home, settings)
    }

    pub fn on(host: Arc<dyn Host>, document: proto::Site, home: Arc<Home>, settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (driver, answering) = begin(dir.path(), &host, &home, &settings);
        let name = document.router.clone();
        Self { dir, name, settings, driver, host, home, document, generation: 1, _answering: answering }
    }

    /// The agent ends without a word, and another begins in its folder.
    pub fn restart(&mut self) {
        (self.driver, self._answering) = begin(self.dir.path(), &self.host, &self.home, &self.settings);
    }

    pub fn assignment(&self) -> Assignment {
        Assignment {
            key: Key::new("network.site", &self.name),
            generation: Generation { epoch: 1, number: self.generation },
            version: 1,
            document: self.document.encode_to_vec().into(),
            ..Assignment::default()
        }
    }

    pub async fn turn(&self) -> Turn {
        let Act::Standing(standing) = self.driver.act() else { panic!("it is standing") };
        standing.turn(&self.assignment()).await
    }

    pub async fn undo(&self) -> Turn {
        let Act::Standing(standing) = self.driver.act() else { panic!("it is standing") };
        standing.undo(&self.assignment()).await
    }

    /// Turns until what is told satisfies the question.
    pub async fn until(
        &self,
        what: &str,
        mut enough: impl FnMut(&proto::SiteResult, bool) -> bool,
    ) -> proto::SiteResult {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let turn = self.turn().await;
            let told = match &turn {
                Turn::Settled(told) | Turn::Unsettled(told) => {
                    let result = proto::SiteResult::decode(told.result.clone()).unwrap();
                    if enough(&result, matches!(turn, Turn::Settled(_))) {
                        return result;
                    }
                    format!("{result:?}")
                }
                other => format!("{other:?}"),
            };
            let log = || tail(&self.folder().join("router.log"));
            assert!(Instant::now() < deadline, "{} never: {what}; {told}\n{}", self.name, log());
            sleep(Duration::from_millis(200)).await;
        }
    }

    pub async fn settled(&self) -> proto::SiteResult {
        self.until("settled", |_, settled| settled).await
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("network").join(crate::network::profile::slug(&self.name))
    }

    pub fn router(&self) -> Running {
        self.facts().router.expect("a router runs")
    }

    pub fn facts(&self) -> crate::network::memory::Facts {
        serde_json::from_slice(&std::fs::read(self.folder().join("site.json")).unwrap()).unwrap()
    }
}

fn begin(dir: &Path, host: &Arc<dyn Host>, home: &Arc<Home>, settings: &Settings) -> (Sites, AbortOnDropHandle<()>) {
    let spool = Arc::new(Spool::open(dir, 1 << 20, &[], []).unwrap());
    let answering = AbortOnDropHandle::new(tokio::spawn(home.clone().answer(spool.clone())));
    (Sites::new(settings.clone(), host.clone(), spool, dir.join("network")), answering)
}

impl Drop for Site {
    /// Leaves no router behind, whatever became of the test.
    fn drop(&mut self) {
        let Ok(bytes) = std::fs::read(self.folder().join("site.json")) else { return };
        let Ok(facts) = serde_json::from_slice::<crate::network::memory::Facts>(&bytes) else { return };
        for running in facts.processes.values().chain(&facts.router) {
            let group = running.group();
            if self.host.is_alive(&group) {
                let _ = rustix::process::kill_process_group(
                    rustix::process::Pid::from_raw(running.pid).unwrap(),
                    rustix::process::Signal::KILL,
                );
            }
        }
    }
}

/// The real router, if this machine has one.
pub fn skrouterd() -> Option<PathBuf> {
    let found = crate::network::router::program(None);
    if found.is_none() {
        eprintln!(
            "\n!!! NO ROUTER: neither SKROUTERD nor PATH names skrouterd, only the peer of these tests was tried !!!\n"
        );
    }
    found
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn settings(router: &Path) -> Settings {
    Settings { router: Some(router.to_owned()), ..Settings::default() }
}

pub fn told(turn: &Turn) -> Option<(&Settled, bool)> {
    match turn {
        Turn::Settled(told) => Some((told, true)),
        Turn::Unsettled(told) => Some((told, false)),
        _ => None,
    }
}

pub fn profile(name: &str, authorities: &[&Authority]) -> proto::Profile {
    let trust = authorities.iter().map(|a| a.der.clone().into()).collect();
    proto::Profile { name: name.into(), trust, edition: 1, ..proto::Profile::default() }
}

pub fn interior(router: &str) -> proto::Site {
    proto::Site { router: router.into(), mode: proto::Mode::Interior.into(), ..proto::Site::default() }
}

pub fn edge(router: &str, tenant: &str) -> proto::Site {
    let mode = proto::Mode::Edge.into();
    proto::Site { router: router.into(), mode, tenant: tenant.into(), ..proto::Site::default() }
}

pub fn listener(name: &str, role: proto::Role, port: u16, profile: &str, members: &[&str]) -> proto::Listener {
    proto::Listener {
        name: name.into(),
        role: role.into(),
        host: "127.0.0.1".into(),
        port: port.into(),
        profile: profile.into(),
        members: members.iter().map(|m| (*m).to_owned()).collect(),
        tenant: String::new(),
    }
}

pub fn connector(name: &str, role: proto::Role, port: u16, profile: &str, peer: &str) -> proto::Connector {
    proto::Connector {
        name: name.into(),
        role: role.into(),
        host: "127.0.0.1".into(),
        port: port.into(),
        profile: profile.into(),
        cost: 1,
        peer: peer.into(),
        priority: 0,
    }
}

pub fn tcp_listener(name: &str, address: &str, port: u16) -> proto::TcpListener {
    proto::TcpListener {
        name: name.into(),
        address: address.into(),
        host: "127.0.0.1".into(),
        port: port.into(),
        endpoint: String::new(),
    }
}

pub fn tcp_connector(name: &str, address: &str, port: u16) -> proto::TcpConnector {
    proto::TcpConnector {
        name: name.into(),
        address: address.into(),
        host: "127.0.0.1".into(),
        port: port.into(),
        endpoint: String::new(),
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|line| !line.contains("FLOW_LOG")).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
