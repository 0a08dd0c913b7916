//! A ground on this machine, a home that answers questions about flags, and the real netunicorn where it is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use muster_proto::experiment as proto;
use prost::Message;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::{Settings, cleanup::Cleanups, deployment::Deployments, executor::Executors, ground::Ground};
use crate::{
    blobs::Blobs,
    driver::{Attempt, End, Home, Once},
    host::{Machine, Stream, Watch},
    ledger::{Assignment, Group, Key},
    spool::{Answer, Frame, Spool},
};

/// The Python with netunicorn in it, for tests.
const PYTHON: &str = "MUSTER_TEST_PYTHON";

pub struct Rig {
    pub dir: TempDir,
    pub ground: Arc<Ground>,
    pub spool: Arc<Spool>,
    pub blobs: Arc<Blobs>,
}

/// Everything an attempt said.
#[derive(Default)]
pub struct Heard {
    pub log: Mutex<Vec<u8>>,
    pub told: Mutex<Vec<Bytes>>,
    pub groups: Mutex<Vec<Group>>,
    pub silence_ms: AtomicU64,
}

/// A home for flags. It is there while its sender says so.
pub struct Flags {
    pub values: Mutex<BTreeMap<String, proto::FlagAnswer>>,
    pub requests: Mutex<BTreeSet<String>>,
    pub asked: AtomicU64,
    /// So many answers get lost on their way.
    pub losing: AtomicU64,
    pub there: watch::Sender<bool>,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::within(tempfile::tempdir().unwrap(), change).await
    }

    pub async fn within(dir: TempDir, change: impl FnOnce(&mut Settings)) -> Self {
        let (ground, spool, blobs) = ground(dir.path(), change).await;
        Self { dir, ground, spool, blobs }
    }

    /// One over the real netunicorn; none, and a loud line, where it is not there.
    pub async fn python() -> Option<Self> {
        let python = python()?;
        Some(Self::with(|settings| settings.python = python).await)
    }

    pub async fn deploy(&self, id: &str, document: &proto::Deployment) -> (End, proto::DeploymentResult, Arc<Heard>) {
        let (cancel, heard) = (CancellationToken::new(), Arc::new(Heard::default()));
        let end = run(&Deployments(self.ground.clone()), id, document, cancel, &heard).await;
        let result = proto::DeploymentResult::decode(end.result.clone()).unwrap();
        (end, result, heard)
    }

    pub async fn execute(&self, id: &str, document: &proto::Executor) -> (End, proto::ExecutorResult, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        let (end, result) = self.execute_until(id, document, CancellationToken::new(), &heard).await;
        (end, result, heard)
    }

    pub async fn execute_until(
        &self,
        id: &str,
        document: &proto::Executor,
        cancel: CancellationToken,
        heard: &Heard,
    ) -> (End, proto::ExecutorResult) {
        let end = run(&Executors(self.ground.clone()), id, document, cancel, heard).await;
        let result = proto::ExecutorResult::decode(end.result.clone()).unwrap();
        (end, result)
    }

    pub async fn clean(&self, id: &str, document: &proto::Cleanup) -> (End, proto::CleanupResult) {
        let heard = Heard::default();
        let end = run(&Cleanups(self.ground.clone()), id, document, CancellationToken::new(), &heard).await;
        let result = proto::CleanupResult::decode(end.result.clone()).unwrap();
        (end, result)
    }

    /// Prepares an executor whose environment holds this `python3`.
    pub async fn prepared(&self, id: &str, script: &str) -> proto::Executor {
        let file = self.dir.path().join("python3");
        fs::write(&file, format!("#!/bin/bash\n{script}\n")).unwrap();
        let command = format!("cp {0} bin/python3; chmod +x bin/python3", file.display());
        let (end, result, _) = self.deploy(id, &deployment(&shell(&[&command]))).await;
        assert!(end.succeeded, "{result:?}");
        executor(&shell(&[&command]))
    }
}

pub async fn ground(dir: &Path, change: impl FnOnce(&mut Settings)) -> (Arc<Ground>, Arc<Spool>, Arc<Blobs>) {
    let spool = Arc::new(Spool::open(dir, 1 << 20, &[], []).unwrap());
    let mut settings = Settings {
        python: PathBuf::new(),
        packages: Vec::new(),
        engine: None,
        builder: false,
        environments_bytes: 1 << 30,
        environment_seconds: 120,
    };
    change(&mut settings);
    let blobs = Arc::new(Blobs::open(dir, 1 << 30).unwrap());
    let host = Arc::new(Machine::new(None));
    (Ground::open(settings, host, spool.clone(), blobs.clone(), dir).await, spool, blobs)
}

/// The real netunicorn's Python. One that is named and does not work fails the test.
pub fn python() -> Option<PathBuf> {
    let Some(python) = std::env::var_os(PYTHON).map(PathBuf::from) else {
        eprintln!("======== {PYTHON} names no Python with netunicorn: the REAL EXECUTOR is NOT tried ========");
        return None;
    };
    let imported = Command::new(&python).args(["-c", "import netunicorn.executor, netunicorn.library"]).status();
    assert!(imported.is_ok_and(|status| status.success()), "{PYTHON}={} has no netunicorn", python.display());
    Some(python)
}

/// What a piece of Python prints.
pub fn says(dir: &Path, text: &str) -> String {
    let file = dir.join("piece.py");
    fs::write(&file, text).unwrap();
    let output = Command::new(python().unwrap()).arg(&file).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A pickled graph, made as a client makes it: `text` defines `graph`.
pub fn graph(dir: &Path, text: &str) -> Vec<u8> {
    let head = "import cloudpickle, sys\nfrom netunicorn.base import Task, Pipeline, ExecutionGraph\n";
    says(dir, &format!("{head}{text}\nopen('graph', 'wb').write(cloudpickle.dumps(graph))\n"));
    fs::read(dir.join("graph")).unwrap()
}

pub async fn run(once: &dyn Once, id: &str, document: &impl Message, cancel: CancellationToken, heard: &Heard) -> End {
    let key = Key::new("experiment.test", id);
    let assignment = Assignment { key, document: document.encode_to_vec().into(), ..Assignment::default() };
    once.run(Attempt { assignment: &assignment, cancel, watch: heard, home: heard }).await
}

pub fn digest(shell: &proto::Shell) -> Bytes {
    Bytes::copy_from_slice(&muster_pki::sha256(&shell.encode_to_vec()))
}

pub fn shell(commands: &[&str]) -> proto::Shell {
    let commands = commands.iter().map(|command| (*command).to_owned()).collect();
    proto::Shell { commands, ..proto::Shell::default() }
}

pub fn python_shell() -> proto::Shell {
    proto::Shell { python: true, ..proto::Shell::default() }
}

pub fn deployment(shell: &proto::Shell) -> proto::Deployment {
    let kind = Some(proto::environment::Kind::Shell(shell.clone()));
    let environment = proto::Environment { digest: digest(shell), kind, limit_seconds: 60, limit_bytes: 0 };
    proto::Deployment { experiment_id: "e".into(), environment: Some(environment), graph: None }
}

pub fn with_graph(shell: &proto::Shell, graph: &[u8]) -> proto::Deployment {
    let content = proto::Content { inline: graph.to_vec().into(), blob: Bytes::new(), size: graph.len() as u64 };
    proto::Deployment { graph: Some(content), ..deployment(shell) }
}

pub fn executor(shell: &proto::Shell) -> proto::Executor {
    let python = proto::Python { heartbeat_seconds: 1 };
    proto::Executor {
        experiment_id: "e".into(),
        environment: digest(shell),
        work: Some(proto::executor::Work::Python(python)),
        limit_seconds: 60,
        ..proto::Executor::default()
    }
}

/// Waits until something is there; fails when it never is.
pub async fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

impl Heard {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    pub fn results(&self) -> Vec<proto::ExecutorResult> {
        self.told.lock().unwrap().iter().map(|told| proto::ExecutorResult::decode(told.clone()).unwrap()).collect()
    }
}

impl Watch for Heard {
    fn grouped(&self, group: Group) -> io::Result<()> {
        self.groups.lock().unwrap().push(group);
        Ok(())
    }

    fn output(&self, _: Stream, bytes: &[u8]) {
        self.log.lock().unwrap().extend_from_slice(bytes);
    }
}

impl Home for Heard {
    fn tell(&self, result: Bytes) {
        self.told.lock().unwrap().push(result);
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(self.silence_ms.load(Ordering::Relaxed))
    }
}

impl Rig {
    /// A blob that is to be carried home.
    pub fn outgoing(&self, digest: &[u8]) -> Vec<u8> {
        let digest = muster_pki::hex(digest);
        let files = fs::read_dir(self.dir.path().join("blobs/out")).unwrap().flatten();
        let found = files.map(|file| fs::read(file.path()).unwrap()).find_map(|bytes| {
            let (line, bytes) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1);
            String::from_utf8_lossy(line).contains(&digest).then(|| bytes.to_vec())
        });
        found.unwrap_or_else(|| panic!("{digest} is not kept"))
    }

    /// Lets a blob that somebody waits for arrive from home.
    pub async fn arrive(&self, bytes: Vec<u8>) {
        let (digest, size) = until("somebody needs it", || self.blobs.to_fetch().pop()).await;
        let mut it = self.blobs.arriving(&digest, size).await.unwrap().expect("it is not here");
        it.append(bytes.into()).await.unwrap();
        assert!(it.finish().await.unwrap());
        self.blobs.conclude(&digest, Ok(()));
    }
}

impl Flags {
    /// Answers the questions of a spool for as long as the test lives.
    pub fn answer(spool: Arc<Spool>) -> Arc<Self> {
        let (there, mut changed) = watch::channel(true);
        let (values, requests) = (Mutex::default(), Mutex::default());
        let (asked, losing) = (AtomicU64::new(0), AtomicU64::new(0));
        let flags = Arc::new(Self { values, requests, asked, losing, there });
        let own = flags.clone();
        tokio::spawn(async move {
            loop {
                let _ = changed.wait_for(|there| *there).await;
                let stream = spool.begin();
                while *changed.borrow() {
                    while let Some(frame) = spool.next(stream) {
                        if let Frame::Ask(question) = frame {
                            let (own, spool) = (own.clone(), spool.clone());
                            tokio::spawn(async move {
                                let answer = own.decide(&question.body).await;
                                let less = |losing: u64| losing.checked_sub(1);
                                let is_lost =
                                    own.losing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
                                // A home that is away answers nothing, whatever it did.
                                if *own.there.borrow() && !is_lost {
                                    spool.answered(&question.ask_id, answer);
                                }
                            });
                        }
                    }
                    tokio::select! {
                        () = spool.filled() => {}
                        _ = changed.changed() => {}
                    }
                }
            }
        });
        flags
    }

    async fn decide(&self, body: &[u8]) -> Answer {
        let ask = proto::FlagAsk::decode(body).unwrap();
        self.asked.fetch_add(1, Ordering::Relaxed);
        if ask.name == "forbidden" {
            return Answer::Denied("no such experiment".into());
        }
        match ask.what.unwrap() {
            proto::flag_ask::What::Get(get) => {
                let until = tokio::time::Instant::now() + Duration::from_millis(get.wait_ms.into());
                loop {
                    let value = self.values.lock().unwrap().get(&ask.name).cloned();
                    let met = value.as_ref().is_some_and(|value| {
                        get.until_at_least.is_none_or(|least| value.int_value >= least)
                            && (get.until_text.is_none() || get.until_text == value.text_value)
                    });
                    if met || tokio::time::Instant::now() >= until {
                        let unset = proto::FlagAnswer { unset: true, ..Default::default() };
                        return Answer::Ok(value.unwrap_or(unset).encode_to_vec().into());
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            what => {
                if self.requests.lock().unwrap().insert(ask.request_id) {
                    let mut values = self.values.lock().unwrap();
                    let value = values.entry(ask.name).or_default();
                    match what {
                        proto::flag_ask::What::Set(set) => {
                            (value.text_value, value.int_value) = (set.text_value, set.int_value);
                        }
                        proto::flag_ask::What::Add(add) => value.int_value += add.by,
                        proto::flag_ask::What::Get(_) => unreachable!(),
                    }
                }
                Answer::Ok(proto::FlagAnswer::default().encode_to_vec().into())
            }
        }
    }

    pub fn number(&self, name: &str) -> i64 {
        self.values.lock().unwrap().get(name).map_or(0, |value| value.int_value)
    }
}
