//! The house as its users run it: real programs, killed where a test says so.

use std::{
    ffi::OsString,
    fs,
    io::{ErrorKind, Write},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::Agent as Http;

/// The longest anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Where a program is to kill itself, or with `hang:` before the name to stand still; the environment variable it reads.
pub const CRASH_AT: &str = "MUSTER_CRASH_AT";

/// A controller and an agent as programs.
pub struct Processes {
    /// Where everything lies.
    pub dir: TempDir,
    /// How long an agent's certificate lives, seconds: short enough that one is renewed while a test looks.
    pub certificate_seconds: u32,
    /// What else stands in the environment of programs that are started.
    pub env: Vec<(&'static str, OsString)>,
    /// Where the API is.
    pub url: String,
    home: String,
    token: String,
    http: Http,
    controller: Option<Child>,
    agent: Option<Child>,
}

/// The folder of the programs that were built with these tests.
///
/// # Panics
/// They were not built.
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it lies");
    let folder = own.ancestors().nth(2).expect("tests lie in target/<profile>/deps").to_owned();
    for program in ["muster", "muster-controller", "muster-agent"] {
        let path = folder.join(program);
        assert!(path.is_file(), "{} is not built; run cargo build --bins in this profile first", path.display());
    }
    folder
}

/// Tries until something comes of it.
pub fn wait<T>(why: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {why}");
        sleep(Duration::from_millis(20));
    }
}

/// A port that nobody uses.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

// === impl Processes ===

impl Processes {
    /// Where the API has the staging `hello`.
    pub const STAGING: &str = "/api/v1/staging/projects/shop/stagings/hello";

    /// A folder and two ports; nothing runs yet. The agent's wrappers write a line into `runs` each time they run, and
    /// exit with what `exit-<wrapper>` holds.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let wrappers = dir.path().join("wrappers");
        fs::create_dir(&wrappers).expect("a folder");
        let runs = dir.path().join("runs");
        for name in ["create", "update", "delete", "check", "cleanup", "archive_check"] {
            let slow = if matches!(name, "check" | "archive_check") { "" } else { "sleep 0.3\n" };
            let text = format!("#!/bin/bash\necho {name} $$ >> {}\necho {name} at work\n{slow}", runs.display());
            let path = wrappers.join(name);
            fs::write(&path, text).expect("written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&path, mode).expect("executable");
        }
        let state = dir.path().join("agent");
        let config = format!(
            "state_dir = \"{}\"\n[staging.wrappers.test]\npath = \"{}\"\n",
            state.display(),
            wrappers.display()
        );
        fs::write(dir.path().join("agent.toml"), config).expect("written");
        let (http, agents) = (free_port(), free_port());
        Self {
            url: format!("http://127.0.0.1:{http}"),
            home: format!("127.0.0.1:{agents}"),
            token: String::new(),
            certificate_seconds: 6,
            http: Http::config_builder().http_status_as_error(false).build().new_agent(),
            controller: None,
            agent: None,
            env: Vec::new(),
            dir,
        }
    }

    /// Starts the controller; `crash` names where it is to kill itself.
    pub fn start_controller(&mut self, crash: Option<&str>) {
        let mut command = self.program("muster-controller", crash);
        command
            .arg("run")
            .env("MUSTER_DATA_DIR", self.dir.path().join("controller"))
            .env("MUSTER_HTTP_LISTEN", self.url.trim_start_matches("http://"))
            .env("MUSTER_AGENTS_LISTEN", &self.home)
            .env("MUSTER_HOMES", &self.home)
            .env("MUSTER_AGENT_CERTIFICATE_SECONDS", self.certificate_seconds.to_string());
        self.controller = Some(command.spawn().expect("it starts"));
        wait("the controller is ready, or has killed itself", || {
            let ready = self.call("GET", "/readyz", None).is_some_and(|(status, _)| status == 200);
            (ready || self.controller_has_ended()).then_some(())
        });
        if self.token.is_empty() {
            let password = fs::read_to_string(self.dir.path().join("controller/first-admin")).expect("a first admin");
            let log_in = json!({"name": "admin", "password": password.trim()});
            let in_ = self.ask("POST", "/api/v1/login", Some(&log_in));
            self.token = in_["token"].as_str().expect("a token").to_owned();
        }
    }

    /// Where agents reach the controller.
    pub fn agents_address(&self) -> &str {
        &self.home
    }

    /// An invitation's token, once the controller gives one.
    pub fn invite(&self) -> String {
        self.invite_as("staging-host", &json!({}))
    }

    /// The same for an agent of a class and with labels.
    pub fn invite_as(&self, class: &str, labels: &Value) -> String {
        let order =
            json!({"name": "test", "class": class, "labels": labels, "max_uses": 1, "expires_in_seconds": 3600});
        self.ask("POST", "/api/v1/invitations", Some(&order))["token"].as_str().expect("a token").to_owned()
    }

    /// A house with a running controller, a project and an agent that has joined and is ready to be started.
    pub fn shop() -> Self {
        let mut house = Self::new();
        house.open_shop();
        house
    }

    /// The same in a house where nothing ran yet.
    pub fn open_shop(&mut self) {
        self.start_controller(None);
        let token = self.invite();
        assert!(self.enroll(&token, None).success(), "{}", self.logs());
        self.project();
    }

    /// The staging `hello` and the operations on it, newest first, when nothing is under way any more.
    pub fn settled(&self) -> Option<(Value, Vec<Value>)> {
        let (status, staging) = self.call("GET", Self::STAGING, None)?;
        let pending = staging["status"].as_str().is_none_or(|status| status.ends_with("Pending"));
        let stable = status == 200 && staging["pending"].is_null() && !pending;
        let operations = self.call("GET", "/api/v1/staging/projects/shop/operations?name=hello", None)?.1;
        stable.then(|| (staging, operations["items"].as_array().cloned().unwrap_or_default()))
    }

    /// Makes the project `shop`.
    pub fn project(&self) {
        let spec = json!({
            "base_domain": "shop.test", "namespace": "shop", "wrappers": "test", "check_interval_seconds": 1,
            "pending_limit_seconds": 30, "timeout_seconds": 30,
        });
        self.ask("PUT", "/api/v1/staging/projects/shop", Some(&spec));
    }

    /// Asks for the staging `hello`; whether the controller said yes. It may be killed before it can answer.
    pub fn create(&self) -> bool {
        let long = json!({"level": "app", "key": "LONG", "value": "x".repeat(90_000)});
        let new = json!({"name": "hello", "tag": "v1", "overrides": [long]});
        let made = self.call("POST", "/api/v1/staging/projects/shop/stagings", Some(&new));
        made.is_some_and(|(status, _)| status == 202)
    }

    /// Waits until the staging `hello` has a status.
    pub fn becomes(&self, status: &str) {
        wait(&format!("hello is {status}"), || {
            let (_, found) = self.call("GET", Self::STAGING, None)?;
            (found["status"] == status && found["pending"].is_null()).then_some(())
        });
    }

    /// Lets the agent join; how that program ended.
    pub fn enroll(&self, token: &str, crash: Option<&str>) -> ExitStatus {
        let mut command = self.program("muster-agent", crash);
        command.arg("enroll").arg("--config").arg(self.dir.path().join("agent.toml")).stdin(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let written = child.stdin.take().expect("piped").write_all(token.as_bytes());
        // One that has joined already may end before it reads.
        assert!(!written.is_err_and(|e| e.kind() != ErrorKind::BrokenPipe), "the token cannot be handed over");
        child.wait().expect("it ends")
    }

    /// Starts the agent.
    pub fn start_agent(&mut self, crash: Option<&str>) {
        let mut command = self.program("muster-agent", crash);
        command.arg("run").arg("--config").arg(self.dir.path().join("agent.toml"));
        self.agent = Some(command.spawn().expect("it starts"));
    }

    pub(crate) fn program(&self, name: &str, crash: Option<&str>) -> Command {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join(format!("{name}.log")));
        let log = log.expect("a log");
        let mut command = Command::new(programs().join(name));
        command
            .env_remove(CRASH_AT)
            .envs(self.env.clone())
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a log"))
            .stdout(log);
        if let Some(point) = crash {
            command.env(CRASH_AT, point);
        }
        command
    }

    /// The controller's process; none when it does not run.
    pub fn controller_pid(&self) -> Option<u32> {
        self.controller.as_ref().map(Child::id)
    }

    /// Whether the controller has ended.
    pub fn controller_has_ended(&mut self) -> bool {
        self.controller.as_mut().is_none_or(|child| child.try_wait().expect("its state").is_some())
    }

    /// Whether the agent has ended.
    pub fn agent_has_ended(&mut self) -> bool {
        self.agent.as_mut().is_none_or(|child| child.try_wait().expect("its state").is_some())
    }

    /// Whether the controller killed itself.
    pub fn controller_crashed(&mut self) -> bool {
        Self::crashed(self.controller.as_mut())
    }

    /// Whether the agent killed itself.
    pub fn agent_crashed(&mut self) -> bool {
        Self::crashed(self.agent.as_mut())
    }

    fn crashed(child: Option<&mut Child>) -> bool {
        child.is_some_and(|c| c.try_wait().expect("its state").is_some_and(|status| status.signal() == Some(9)))
    }

    /// Kills the controller and waits for its end.
    pub fn kill_controller(&mut self) {
        Self::kill(self.controller.take());
    }

    /// Kills the agent and waits for its end.
    pub fn kill_agent(&mut self) {
        Self::kill(self.agent.take());
    }

    fn kill(child: Option<Child>) {
        if let Some(mut child) = child {
            // It may have ended meanwhile, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the API once; none when the controller cannot be reached.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(body.map(Value::to_string).unwrap_or_default())
            .expect("a request");
        let mut answer = self.http.run(request).ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        Some((answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Asks the API until the controller is there to answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        wait(&format!("{method} {path}"), || self.call(method, path, body)).1
    }

    /// How often a wrapper has run.
    pub fn runs(&self, wrapper: &str) -> usize {
        let text = fs::read_to_string(self.dir.path().join("runs")).unwrap_or_default();
        text.lines().filter(|l| l.split(' ').next() == Some(wrapper)).count()
    }

    /// Resident memory of the agent, bytes; none when it does not run.
    pub fn agent_rss(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.agent.as_ref()?.id())).ok()?;
        let kilobytes = text.lines().find_map(|l| l.strip_prefix("Rss:"))?.trim().trim_end_matches(" kB");
        Some(kilobytes.parse::<u64>().ok()? * 1024)
    }

    /// The logs of both programs, for a test that failed.
    pub fn logs(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        format!("{}\n{}", read("muster-controller.log"), read("muster-agent.log"))
    }

    /// A path in the house's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(self.dir.path()).join(name)
    }
}

impl Default for Processes {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill_agent();
        self.kill_controller();
    }
}
