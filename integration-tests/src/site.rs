//! One host beside a house: an agent as a program, with a state folder of its own. A site of a network has a router too.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::processes::{Processes, programs, wait};

/// A host's agent, running or not.
pub struct Site {
    /// What the host is called.
    pub name: String,
    folder: PathBuf,
    agent: Option<Child>,
}

// === impl Site ===

impl Site {
    /// A host in a house, on which nothing runs yet. `router` is the program its agent starts.
    pub fn new(house: &Processes, name: &str, router: &Path) -> Self {
        Self::with(house, name, &format!("[network]\nrouter = {}\n", json!(router)))
    }

    /// The same with other settings of its agent.
    pub fn with(house: &Processes, name: &str, settings: &str) -> Self {
        let folder = house.path(name);
        fs::create_dir(&folder).expect("a folder");
        let config = format!("state_dir = {}\n{settings}", json!(folder.join("state")));
        fs::write(folder.join("agent.toml"), config).expect("written");
        Self { name: name.into(), folder, agent: None }
    }

    /// Lets its agent join; how that ended, and what it said.
    pub fn enroll(&self, house: &Processes, token: &str, crash: Option<&str>) -> Output {
        let mut command = house.program("muster-agent", crash);
        command.arg("enroll").arg("--config").arg(self.folder.join("agent.toml"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let written = child.stdin.take().expect("piped").write_all(token.as_bytes());
        // One that has joined already may end before it reads.
        assert!(!written.is_err_and(|e| e.kind() != ErrorKind::BrokenPipe), "the token cannot be handed over");
        child.wait_with_output().expect("it ends")
    }

    /// Starts its agent.
    pub fn start(&mut self, house: &Processes, crash: Option<&str>) {
        let mut command = house.program("muster-agent", crash);
        command.arg("run").arg("--config").arg(self.folder.join("agent.toml"));
        self.agent = Some(command.spawn().expect("it starts"));
    }

    /// The agent's process; none when it does not run.
    pub fn pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Child::id)
    }

    /// Kills its agent and waits for its end. What the agent started goes on.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // It may have ended meanwhile, which is what is wanted.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// Whether its agent killed itself.
    pub fn crashed(&mut self) -> bool {
        let status = self.agent.as_mut().and_then(|agent| agent.try_wait().expect("its state"));
        status.is_some_and(|status| status.signal() == Some(9))
    }

    /// What its agent says of itself.
    pub fn status(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.folder.join("state/status.json")).ok()?).ok()
    }

    /// What its router is to hold, as its start-up file has it; none where the agent keeps no site.
    pub fn router_file(&self) -> Option<Vec<Value>> {
        let mut folders = fs::read_dir(self.folder.join("state/network")).ok()?.flatten();
        serde_json::from_slice(&fs::read(folders.next()?.path().join("router.json")).ok()?).ok()
    }

    /// The address of the site's own console, with the token that opens it.
    pub fn console(&self) -> String {
        let asked = || {
            let mut command = Command::new(programs().join("muster-agent"));
            let said =
                command.arg("console").arg("--config").arg(self.folder.join("agent.toml")).output().expect("it runs");
            said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
        };
        wait(&format!("{} has a console", self.name), asked)
    }

    /// The agent's id.
    pub fn id(&self) -> String {
        let text = fs::read(self.folder.join("state/identity/agent.json")).expect("it has joined");
        let identity: Value = serde_json::from_slice(&text).expect("it is JSON");
        identity["agent_id"].as_str().expect("an id").to_owned()
    }

    /// The programs that run in a folder of its state, such as those that outlive the agent.
    pub fn running(&self, folder: &str) -> Vec<Pid> {
        let folder = self.folder.join("state").join(folder);
        let runs_there = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at.starts_with(&folder));
        let all = fs::read_dir("/proc").expect("proc is there").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(runs_there).filter_map(Pid::from_raw).collect()
    }
}

/// What a program said of what went wrong.
pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
        for pid in self.running("") {
            // It may have ended meanwhile, which is what is wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
