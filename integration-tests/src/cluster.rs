//! A PostgreSQL server of a test's own, that can be killed.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::processes::{free_port, wait};

/// A server over a folder.
pub struct Cluster {
    dir: TempDir,
    bin: PathBuf,
    port: u16,
    password: String,
    server: Option<Child>,
}

// === impl Cluster ===

impl Cluster {
    /// A new one, running.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let password = muster_pki::hex(&muster_pki::random::<16>());
        let mut it = Self { bin: programs(), port: free_port(), password, server: None, dir };
        let folder = it.folder();
        // Folders on the way must be open to the user it runs as.
        fs::set_permissions(it.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("opened");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("password"), &it.password).expect("written");
        if rustix::process::geteuid().is_root() {
            let given = Command::new("chown").arg("-R").arg(user()).arg(&folder).status();
            assert!(given.expect("chown runs").success());
        }
        let made = it
            .unprivileged("initdb")
            .arg("--pgdata")
            .arg(folder.join("data"))
            .args(["--username", "muster", "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"])
            .arg("--pwfile")
            .arg(folder.join("password"))
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        it.start_again();
        it
    }

    /// Its database.
    pub fn url(&self) -> String {
        format!("postgres://muster:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }

    /// Kills the server and every process of it, as a power cut would.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("it runs");
        let own = children(server.id());
        server.kill().expect("killed");
        server.wait().expect("it ended");
        for pid in own.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            // It may have ended with the server.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Starts it over what is on the disk.
    pub fn start_again(&mut self) {
        let folder = self.folder();
        wait("the database server takes connections", || {
            let running = self.server.as_mut().is_some_and(|s| s.try_wait().expect("its state").is_none());
            if !running {
                // A process of the one before may still be on its way out, for which a new one does not wait.
                self.server = Some(self.spawn(&folder));
            }
            let ready = self
                .unprivileged("pg_isready")
                .args(["--quiet", "--host", "127.0.0.1", "--port"])
                .arg(self.port.to_string())
                .status();
            ready.expect("pg_isready runs").success().then_some(())
        });
    }

    fn spawn(&self, folder: &Path) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log");
        let mut command = self.unprivileged("postgres");
        command.arg("-D").arg(folder.join("data")).args(["-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", &format!("port={}", self.port)]);
        command.args(["-c", &format!("unix_socket_directories={}", folder.display())]);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts")
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("postgres")
    }

    /// One of its programs. It refuses to run as root.
    fn unprivileged(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user(), "--regid", "nogroup", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.dir.path());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.kill();
        }
    }
}

fn user() -> &'static str {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if users.lines().any(|line| line.starts_with("postgres:")) { "postgres" } else { "nobody" }
}

/// The folder of the newest PostgreSQL's programs, which Debian keeps out of PATH.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u32>().ok());
    let newest = versions.map(|v| v.path()).filter(|p| p.join("bin/initdb").exists()).max_by_key(|p| version(p));
    let in_path = || std::env::split_paths(&std::env::var_os("PATH")?).find(|p| p.join("initdb").is_file());
    newest.map(|p| p.join("bin")).or_else(in_path).expect("PostgreSQL is installed")
}

/// The processes that a process started.
fn children(parent: u32) -> Vec<u32> {
    let parent_of = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may hold anything, come the state and the parent.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let all = fs::read_dir("/proc").expect("proc is there").flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(|pid| parent_of(*pid) == Some(parent)).collect()
}
