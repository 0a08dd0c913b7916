//! The processes of a house on one machine: started, watched, stopped.

use std::{
    fs::{self, File},
    io::Write,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Args, Result, Tenant, dev_json, failed};
use crate::{
    access::{LogIn, LoggedIn, Want},
    cli::{Failure, client::Client, context::Target},
    fleet::model::Class,
};

/// A program may take this long to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that was asked to stop may take this long.
const FAREWELL: Duration = Duration::from_secs(15);

/// Which agents, and how many of each.
pub(super) type Agents = Vec<(Class, u32)>;

/// A house.
pub(in crate::cli) struct House {
    tenants: &'static [Tenant],
    data_dir: PathBuf,
    programs: PathBuf,
    wrappers: Option<PathBuf>,
    url: String,
    http: SocketAddr,
    agents_listen: SocketAddr,
    password: Option<String>,
    token: String,
    processes: Vec<(String, Child)>,
    /// Those that run, as they stand in `dev.json`.
    agents: Vec<Value>,
}

/// Reads `class=number,…`.
pub(super) fn parse_agents(text: &str) -> Result<Agents, String> {
    let mut agents = Agents::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (class, number) = part.split_once('=').ok_or_else(|| format!("{part:?} is not class=number"))?;
        let class = Class::parse(class).map_err(|e| e.to_string())?;
        let number = number.parse().map_err(|_| format!("{number:?} is no number"))?;
        agents.push((class, number));
    }
    Ok(agents)
}

/// Tries until something comes of it.
pub(in crate::cli) fn wait<T>(
    limit: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = attempt()? {
            return Ok(found);
        }
        if begun.elapsed() > limit {
            return Err(failed(format!("waited {} s in vain until {what}", limit.as_secs())));
        }
        sleep(Duration::from_millis(100));
    }
}

// === impl House ===

impl House {
    /// The house of a folder, not running. Programs left over from a start that was killed are ended.
    pub fn open(args: &Args, tenants: &'static [Tenant]) -> Result<Self> {
        let data_dir = match &args.data_dir {
            Some(folder) => folder.clone(),
            None => default_folder()?,
        };
        fs::create_dir_all(data_dir.join("logs"))?;
        let data_dir = data_dir.canonicalize()?;
        let own = std::env::current_exe()?;
        let programs = own.parent().unwrap_or(Path::new(".")).to_owned();
        for program in ["muster-controller", "muster-agent"] {
            if !programs.join(program).is_file() {
                let text =
                    format!("{program} is not in {}; build it: cargo build --release --bins", programs.display());
                return Err(failed(text));
            }
        }
        let before: Value = fs::read_to_string(data_dir.join("dev.json"))
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        end_leftovers(&data_dir);
        let port = |key: &str| {
            let address = before[key].as_str().map(|s| s.trim_start_matches("http://").trim_end_matches('/'));
            free_port(address.and_then(|s| s.parse().ok()))
        };
        let (http, agents_listen) = (port("url")?, port("agents_address")?);
        Ok(Self {
            tenants,
            password: before["password"].as_str().map(str::to_owned),
            token: fs::read_to_string(data_dir.join("token")).unwrap_or_default().trim().to_owned(),
            wrappers: args.wrappers.clone().or_else(|| find_examples(&programs, "wrappers")),
            url: format!("http://{http}"),
            data_dir,
            programs,
            http,
            agents_listen,
            processes: Vec::new(),
            agents: Vec::new(),
        })
    }

    /// Starts the controller and the agents, and waits until all are there.
    pub fn start(&mut self, agents: &Agents) -> Result {
        eprintln!("Muster in {}", self.data_dir.display());
        self.start_controller()?;
        self.log_in()?;
        let client = self.client()?;
        let roots: String = client.text("/api/v1/pki/roots.pem")?;
        fs::write(self.ca_file(), roots)?;
        for (class, number) in agents {
            for n in 1..=*number {
                self.start_agent(*class, &format!("{}-{n}", class.name()))?;
            }
        }
        wait(PATIENCE, "every agent is online", || {
            self.must_live()?;
            let all = client.all("/api/v1/agents?liveness=online")?;
            Ok(self.agents.iter().all(|a| all.iter().any(|o| o["id"] == a["id"])).then_some(()))
        })?;
        eprintln!("  {} agent(s) online", self.agents.len());
        Ok(())
    }

    fn start_controller(&mut self) -> Result {
        let data = self.data_dir.join("controller");
        let mut command = Command::new(self.programs.join("muster-controller"));
        command
            .arg("run")
            .env("MUSTER_DATA_DIR", &data)
            .env("MUSTER_HTTP_LISTEN", self.http.to_string())
            .env("MUSTER_AGENTS_LISTEN", self.agents_listen.to_string())
            .env("MUSTER_HOMES", self.agents_listen.to_string())
            .env("MUSTER_SAMPLE_SECONDS", "5");
        self.spawn("controller", command)?;
        self.note_processes()?;
        let client = self.client()?;
        wait(PATIENCE, "the controller is ready", || {
            self.must_live()?;
            Ok(client.text("/readyz").ok().map(drop))
        })?;
        eprintln!("  controller ready at {}", self.url);
        Ok(())
    }

    /// Logs in as the first admin and keeps a token, unless there is one that still works.
    fn log_in(&mut self) -> Result {
        if !self.token.is_empty() && self.client()?.get::<Value>("/api/v1/me").is_ok() {
            return Ok(());
        }
        let file = self.data_dir.join("controller/first-admin");
        let password = fs::read_to_string(&file).map(|text| text.trim().to_owned());
        let password = password.or_else(|e| self.password.clone().ok_or(e)).map_err(|e| {
            failed(format!("{}: {e}; log in yourself, or begin with another --data-dir", file.display()))
        })?;
        let log_in = LogIn {
            name: "admin".into(),
            password: password.clone(),
            want: Want::Token,
            token_name: Some("muster dev".into()),
        };
        let in_: LoggedIn = self.client()?.post("/api/v1/login", &log_in)?;
        self.token = in_.token.unwrap_or_default();
        write_private(&self.token_file(), &format!("{}\n", self.token))?;
        self.password = in_.must_change.then_some(password);
        Ok(())
    }

    /// An agent of the class, labelled for anything.
    fn start_agent(&mut self, class: Class, name: &str) -> Result {
        self.join(class, name, |client| {
            let order = json!({
                "name": name, "class": class, "labels": {"pool": "dev"}, "max_uses": 1, "expires_in_seconds": 3600,
            });
            let made: Value = client.post("/api/v1/invitations", &order)?;
            Ok(made["token"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Starts an agent; one that has not joined yet does so by the token that `invite` gets.
    pub fn join(&mut self, class: Class, name: &str, invite: impl FnOnce(&Client) -> Result<String>) -> Result {
        let client = self.client()?;
        let folder = self.data_dir.join("agents").join(name);
        fs::create_dir_all(&folder)?;
        let config = folder.join("agent.toml");
        fs::write(&config, self.agent_config(class, &folder)?)?;
        let program = self.programs.join("muster-agent");
        if !folder.join("state/identity/agent.json").is_file() {
            enroll(name, &program, &config, &invite(&client)?)?;
            eprintln!("  {name} joined by invitation");
        }
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(&config);
        self.spawn(name, command)?;
        self.note_processes()?;
        let identity: Value = serde_json::from_str(&fs::read_to_string(folder.join("state/identity/agent.json"))?)
            .map_err(|e| failed(format!("the identity of {name} cannot be read: {e}")))?;
        let id = identity["agent_id"].clone();
        let path = format!("/api/v1/agents/{}", id.as_str().unwrap_or_default());
        let _: Value = client.patch(&path, &json!({"name": name}), None)?;
        self.agents.push(json!({"name": name, "class": class, "id": id, "state_dir": folder.join("state")}));
        write_private(&self.data_dir.join("dev.json"), &format!("{:#}\n", dev_json(self, &self.agents)))
    }

    /// The configuration of an agent, with the sections of the domains whose work its class carries out.
    fn agent_config(&self, class: Class, folder: &Path) -> Result<String> {
        let mut table = toml::Table::new();
        table.insert("state_dir".into(), folder.join("state").display().to_string().into());
        for tenant in self.tenants.iter().filter(|t| t.classes.contains(&class)) {
            if let Some(section) = (tenant.agent_config)(self, folder)? {
                table.insert(tenant.name.into(), section.into());
            }
        }
        toml::to_string(&table).map_err(|e| failed(e.to_string()))
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> Result {
        let log =
            File::options().create(true).append(true).open(self.data_dir.join("logs").join(format!("{name}.log")))?;
        // A group of its own: a Ctrl-C reaches this program alone, which then stops the others in order.
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).spawn()?;
        self.processes.push((name.to_owned(), child));
        Ok(())
    }

    /// Fails when a program has ended by itself, with the last lines of its log.
    pub fn must_live(&mut self) -> Result {
        for (name, child) in &mut self.processes {
            if let Some(status) = child.try_wait()? {
                let log = self.data_dir.join("logs").join(format!("{name}.log"));
                let text = fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<_> = text.lines().rev().take(5).collect();
                let last: Vec<_> = last.into_iter().rev().collect();
                return Err(failed(format!(
                    "{name} ended ({status}):\n{}\nall of it: {}",
                    last.join("\n"),
                    log.display()
                )));
            }
        }
        Ok(())
    }

    /// Stops everything: agents first, so that they can say goodbye.
    pub fn stop(&mut self) {
        for is_controller in [false, true] {
            for (_, child) in self.processes.iter().filter(|(name, _)| (name == "controller") == is_controller) {
                signal(child.id(), Signal::TERM);
            }
            for (_, child) in self.processes.iter_mut().filter(|(name, _)| (name == "controller") == is_controller) {
                let ended = wait(FAREWELL, "it ends", || Ok(child.try_wait()?));
                if ended.is_err() {
                    // It had its time; what it holds is durable.
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        }
        self.processes.clear();
        end_within(&self.data_dir.join("agents"));
        let _ = fs::remove_file(self.data_dir.join("pids"));
    }

    /// Notes which programs run, so that the next start can end what a killed one left behind.
    fn note_processes(&self) -> Result {
        let pids: String = self.processes.iter().map(|(_, child)| format!("{}\n", child.id())).collect();
        Ok(fs::write(self.data_dir.join("pids"), pids)?)
    }

    /// A client of the controller.
    pub fn client(&self) -> Result<Client> {
        let token = (!self.token.is_empty()).then(|| self.token.clone());
        Client::new(&Target { url: self.url.clone(), ca_pem: None, token })
    }

    /// What domains bring.
    pub fn tenants(&self) -> &'static [Tenant] {
        self.tenants
    }

    /// The folder of wrappers that hosts offer.
    pub fn wrappers(&self) -> Option<&Path> {
        self.wrappers.as_deref()
    }

    /// A folder of the examples.
    pub fn examples(&self, name: &str) -> Option<PathBuf> {
        find_examples(&self.programs, name)
    }

    /// Where people and programs reach it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where agents reach it.
    pub fn agents_address(&self) -> String {
        self.agents_listen.to_string()
    }

    /// The one-time password of the first admin; none when it was changed.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Where everything lies.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The token scripts may use.
    pub fn token_file(&self) -> PathBuf {
        self.data_dir.join("token")
    }

    /// The certificate authority of the agents' port.
    pub fn ca_file(&self) -> PathBuf {
        self.data_dir.join("ca.pem")
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Lets an agent join. The token goes by standard input: an argument would stand in the list of processes.
fn enroll(name: &str, program: &Path, config: &Path, token: &str) -> Result {
    let mut child = Command::new(program)
        .arg("enroll")
        .arg("--config")
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or_else(|| failed("the agent takes no input"))?;
    stdin.write_all(token.as_bytes())?;
    drop(stdin);
    let done = child.wait_with_output()?;
    if !done.status.success() {
        return Err(failed(format!("{name} did not join: {}", String::from_utf8_lossy(&done.stderr).trim())));
    }
    Ok(())
}

fn default_folder() -> Result<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    Ok(state.ok_or_else(|| Failure::usage("HOME is not set; say --data-dir"))?.join("muster-dev"))
}

/// A folder of the examples, beside the sources or where a package puts it.
fn find_examples(programs: &Path, name: &str) -> Option<PathBuf> {
    let here = std::env::current_dir().ok().map(|d| d.join("deploy/examples").join(name));
    let packaged = programs.parent().map(|d| d.join("share/muster-agent").join(name));
    [here, packaged].into_iter().flatten().find(|path| path.is_dir())
}

/// The port that was used before, if it is free; else one that is.
fn free_port(before: Option<SocketAddr>) -> Result<SocketAddr> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let taken = before.and_then(|address| TcpListener::bind(address).ok());
    let listener = taken.map_or_else(|| TcpListener::bind(any), Ok)?;
    Ok(listener.local_addr()?)
}

/// Ends programs that a killed start left running: those it noted, if they still are programs of this folder.
fn end_leftovers(data_dir: &Path) {
    let pids = fs::read_to_string(data_dir.join("pids")).unwrap_or_default();
    let is_ours = |pid: &u32| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let environment = [read("cmdline"), read("environ")].concat();
        let folder = data_dir.as_os_str().as_encoded_bytes();
        environment.windows(folder.len()).any(|w| w == folder)
    };
    let left: Vec<u32> = pids.lines().filter_map(|l| l.parse().ok()).filter(is_ours).collect();
    left.iter().for_each(|pid| signal(*pid, Signal::TERM));
    let _ = wait(FAREWELL, "they end", || Ok((!left.iter().any(is_ours)).then_some(())));
}

/// Ends programs that outlive their agents, as a site's router and its processes do: those that run in a folder of the
/// network domain's. Here nothing is to stay.
fn end_within(agents: &Path) {
    let runs_there = |pid: &u32| {
        let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        folder.strip_prefix(agents).is_ok_and(|rest| rest.components().any(|c| c.as_os_str() == "network"))
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let left: Vec<u32> = all.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(runs_there).collect();
    left.iter().for_each(|pid| signal(*pid, Signal::TERM));
    let _ = wait(FAREWELL, "they end", || Ok((!left.iter().any(runs_there)).then_some(())));
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile, which is what is wanted.
        let _ = kill_process(pid, signal);
    }
}

fn write_private(path: &Path, text: &str) -> Result {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
