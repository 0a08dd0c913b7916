//! A host that plays wrappers instead of running them: the one fake, at the very edge.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use muster_agent::{
    host::{Exit, Facts, Host, NoProgram, NotStarted, Program, Sample, Stream, Watch},
    ledger::Group,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How one run goes.
#[derive(Debug, Clone, Default)]
pub struct Play {
    /// Exit code.
    pub code: i32,
    /// Written to standard output.
    pub stdout: Vec<u8>,
    /// Written to standard error.
    pub stderr: Vec<u8>,
    /// The run ends only after this.
    pub until: Option<Arc<Notify>>,
}

type Script = Box<dyn Fn(&Program) -> Play + Send + Sync>;

/// A host without processes.
pub struct FakeHost {
    name: String,
    boot_id: String,
    script: Mutex<Script>,
    runs: Mutex<Vec<Program>>,
    missing: Mutex<BTreeSet<String>>,
    clock_skew: AtomicI64,
    began: Instant,
}

// === impl Play ===

impl Play {
    /// Exits with a code and says something on standard error.
    pub fn exit(code: i32, stderr: &str) -> Self {
        Self { code, stderr: stderr.into(), ..Self::default() }
    }
}

// === impl FakeHost ===

impl FakeHost {
    /// A host on which every wrapper is there and succeeds, and there is no `tag_check`.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            boot_id: muster_pki::hex(&muster_pki::random::<16>()),
            script: Mutex::new(Box::new(|_| Play::default())),
            runs: Mutex::default(),
            missing: Mutex::new(BTreeSet::from(["tag_check".to_owned()])),
            clock_skew: AtomicI64::new(0),
            began: Instant::now(),
        })
    }

    /// From here on runs go like this.
    pub fn play(&self, script: impl Fn(&Program) -> Play + Send + Sync + 'static) {
        *self.script.lock().expect("not poisoned") = Box::new(script);
    }

    /// Whether a wrapper is there.
    pub fn has(&self, wrapper: &str, there: bool) {
        let mut missing = self.missing.lock().expect("not poisoned");
        if there {
            missing.remove(wrapper)
        } else {
            missing.insert(wrapper.into())
        };
    }

    /// Moves the host's clock.
    pub fn skew_clock(&self, ms: i64) {
        self.clock_skew.store(ms, Ordering::Relaxed);
    }

    /// What was run so far.
    pub fn runs(&self) -> Vec<Program> {
        self.runs.lock().expect("not poisoned").clone()
    }

    /// How often a wrapper was run.
    pub fn count(&self, wrapper: &str) -> usize {
        self.runs().iter().filter(|p| p.path.ends_with(wrapper)).count()
    }
}

impl Host for FakeHost {
    fn run<'a>(
        &'a self,
        program: Program,
        cancel: CancellationToken,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<Exit, NotStarted>> {
        Box::pin(async move {
            self.runs.lock().expect("not poisoned").push(program.clone());
            let play = (self.script.lock().expect("not poisoned"))(&program);
            for (stream, bytes) in [(Stream::Stdout, &play.stdout), (Stream::Stderr, &play.stderr)] {
                if !bytes.is_empty() {
                    watch.output(stream, bytes);
                }
            }
            let ended = Exit { code: Some(play.code), signal: None, timed_out: false, cancelled: false };
            let Some(until) = play.until else { return Ok(ended) };
            tokio::select! {
                () = until.notified() => Ok(ended),
                () = cancel.cancelled() => Ok(Exit { code: None, signal: Some(15), timed_out: false, cancelled: true }),
                () = tokio::time::sleep(program.limit) => Ok(Exit { code: None, signal: Some(15), timed_out: true, cancelled: false }),
            }
        })
    }

    fn start<'a>(&'a self, program: Program, _: &'a Path, _: &'a dyn Watch) -> BoxFuture<'a, Result<(), NotStarted>> {
        let why = format!("{} is not started: nothing goes on by itself on this host", program.path.display());
        Box::pin(async { Err(NotStarted(why)) })
    }

    fn is_alive(&self, _: &Group) -> bool {
        false
    }

    fn groups_in(&self, _: &Path) -> Vec<Group> {
        Vec::new()
    }

    fn ask_to_end(&self, _: &Group) {}

    fn listens_on(&self, _: &Group) -> BTreeSet<SocketAddr> {
        BTreeSet::new()
    }

    fn end_group<'a>(&'a self, _: &'a Group) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn executable(&self, path: &Path) -> Result<(), NoProgram> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if self.missing.lock().expect("not poisoned").contains(&name) {
            return Err(NoProgram::Missing(format!("{} is not there", path.display())));
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn now_ms(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        i64::try_from(now).expect("before the year 292 million") + self.clock_skew.load(Ordering::Relaxed)
    }

    fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }

    fn facts(&self) -> Facts {
        Facts { hostname: self.name.clone(), boot_id: self.boot_id.clone(), ..Facts::default() }
    }

    fn sample(&self, _: &Path) -> Sample {
        Sample { at_ms: self.now_ms(), cpu: 0.5, ..Sample::default() }
    }

    fn free_bytes(&self, _: &Path) -> Option<u64> {
        Some(1 << 40)
    }
}
