//! The machine itself.

use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            process::ExitStatusExt,
        },
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Exit, Facts, Host, NoProgram, NotStarted, Program, Sample, Stream, Watch, proc};
use crate::ledger::Group;

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// How long output may still come after the program's own process ended.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// How often a group that was killed is looked at: the kernel tells nobody but a parent when a process is gone.
const LOOK: Duration = Duration::from_millis(10);

/// How often a program that is open for writing is tried again, [`LOOK`] apart.
const BUSY_LOOKS: usize = 20;

const PIECE: usize = 16 * 1024;

/// The host this process runs on.
#[derive(Debug)]
pub struct Machine {
    helper: Option<PathBuf>,
    /// Total and idle ticks of the last sample: `/proc/stat` gives only totals.
    ticks: Mutex<(u64, u64)>,
}

/// Kills a process group unless told that it ended.
struct Reins(Option<Pid>);

/// Removes a working folder when its run is over. What a program wants to keep it keeps elsewhere.
struct Folder<'a>(&'a Path);

// === impl Machine ===

impl Machine {
    /// The machine. `helper` is the `muster-agent` executable that sets limits and waits at the gate; without one,
    /// programs run with the host's own limits and start before their group is recorded.
    pub fn new(helper: Option<PathBuf>) -> Self {
        Self { helper, ticks: Mutex::default() }
    }

    fn command(&self, program: &Program) -> Command {
        let mut command = match &self.helper {
            Some(helper) => {
                let mut command = Command::new(helper);
                command.args(["exec-limited", "--gate"]);
                let limits = [("--data", program.memory_bytes), ("--fsize", program.file_bytes)];
                for (flag, bytes) in limits.into_iter().filter(|(_, bytes)| *bytes > 0) {
                    command.arg(flag).arg(bytes.to_string());
                }
                command.arg("--").arg(&program.path);
                command
            }
            None => {
                let mut command = Command::new(&program.path);
                command.process_group(0);
                command
            }
        };
        let kept = ["PATH", "HOME", "LANG"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.args(&program.args).env_clear().envs(kept).envs(program.env.iter().map(|(k, v)| (k, v)));
        command.current_dir(&program.folder);
        command
    }

    /// Starts a program, waiting a moment for one that is just being written: a fork elsewhere in this process may hold
    /// the file open for the time until its own exec.
    async fn start_patiently(
        &self,
        program: &Program,
        log: Option<&Path>,
        watch: &dyn Watch,
    ) -> Result<(Child, Reins), NotStarted> {
        for _ in 0..BUSY_LOOKS {
            match self.start_once(program, log, watch).await {
                Err(e) if Errno::from_io_error(&e) == Some(Errno::TXTBSY) => sleep(LOOK).await,
                started => return started.map_err(|e| explain(program, &e)),
            }
        }
        self.start_once(program, log, watch).await.map_err(|e| explain(program, &e))
    }

    /// Output goes to the end of `log`, or else to the caller.
    async fn start_once(&self, program: &Program, log: Option<&Path>, watch: &dyn Watch) -> io::Result<(Child, Reins)> {
        fs::create_dir_all(&program.folder)
            .map_err(|e| io::Error::other(format!("no working folder {}: {e}", program.folder.display())))?;
        let mut command = self.command(program);
        match log {
            Some(path) => {
                let log = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
                command.stdout(log.try_clone()?).stderr(log);
            }
            None => drop(command.stdout(Stdio::piped()).stderr(Stdio::piped())),
        }
        let gate = match &self.helper {
            Some(_) => {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                command.stdin(Stdio::from(OwnedFd::from(theirs)));
                Some(UnixStream::from_std(ours)?)
            }
            None => {
                command.stdin(Stdio::null());
                None
            }
        };
        let child = command.spawn()?;
        // The command holds the child's end of the gate: while it lives, the end of the socket would never be seen.
        drop(command);
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).expect("a child that was not awaited has a number");
        let reins = Reins(Pid::from_raw(pid));
        let group = proc::group_of(pid).ok_or_else(|| io::Error::other("the process is gone before it began"))?;
        watch.grouped(group).map_err(|e| io::Error::other(format!("its start cannot be recorded: {e}")))?;
        if let Some(gate) = gate {
            open(gate).await?;
        }
        Ok((child, reins))
    }

    /// Busy share of all processors since the last sample, at first since boot.
    fn busy_share(&self) -> Option<f64> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let ticks: Vec<u64> = text.lines().next()?.split_ascii_whitespace().filter_map(|f| f.parse().ok()).collect();
        let (total, idle) = (ticks.iter().take(8).sum::<u64>(), ticks.get(3)? + ticks.get(4)?);
        let mut last = self.ticks.lock().unwrap_or_else(|e| e.into_inner());
        let (all, rest) = (total.checked_sub(last.0)?, idle.saturating_sub(last.1));
        *last = (total, idle);
        (all > 0).then(|| 1.0 - rest as f64 / all as f64)
    }
}

impl Host for Machine {
    fn run<'a>(
        &'a self,
        program: Program,
        cancel: CancellationToken,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<Exit, NotStarted>> {
        Box::pin(async move {
            let _folder = (!program.keep_folder).then(|| Folder(&program.folder));
            let (mut child, mut reins) = self.start_patiently(&program, None, watch).await?;
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            let output = async {
                tokio::join!(copy(stdout, Stream::Stdout, watch), copy(stderr, Stream::Stderr, watch));
            };
            tokio::pin!(output);
            let mut drained = false;
            let mut exit = Exit { code: None, signal: None, timed_out: false, cancelled: false };
            let mut deadline = Instant::now() + program.limit;
            let mut asked = false;
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status,
                    () = &mut output, if !drained => drained = true,
                    () = cancel.cancelled(), if !asked => {
                        exit.cancelled = true;
                        asked = true;
                        reins.signal(Signal::TERM);
                        deadline = Instant::now() + GRACE;
                    }
                    () = sleep_until(deadline) => {
                        let signal = if asked { Signal::KILL } else { Signal::TERM };
                        exit.timed_out |= !asked;
                        asked = true;
                        reins.signal(signal);
                        deadline = Instant::now() + GRACE;
                    }
                }
            };
            if asked {
                // What a limit or a cancellation ends, it ends whole.
                reins.signal(Signal::KILL);
            }
            reins.0 = None;
            if !drained {
                let _ = timeout(LAST_OUTPUT, output).await;
            }
            let status: ExitStatus = status.map_err(|e| NotStarted(format!("its end cannot be awaited: {e}")))?;
            Ok(Exit { code: status.code(), signal: status.signal(), ..exit })
        })
    }

    fn start<'a>(
        &'a self,
        program: Program,
        log: &'a Path,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<(), NotStarted>> {
        Box::pin(async move {
            let (_child, mut reins) = self.start_patiently(&program, Some(log), watch).await?;
            reins.0 = None;
            Ok(())
        })
    }

    fn is_alive(&self, group: &Group) -> bool {
        proc::is_alive(group)
    }

    fn ask_to_end(&self, group: &Group) {
        if proc::is_alive(group) {
            signal_group(Pid::from_raw(group.pgid), Signal::TERM);
        }
    }

    fn groups_in(&self, folder: &Path) -> Vec<Group> {
        fs::canonicalize(folder).map(|folder| proc::groups_in(&folder)).unwrap_or_default()
    }

    fn listens_on(&self, group: &Group) -> BTreeSet<SocketAddr> {
        if proc::is_alive(group) { proc::listens_on(group.pgid) } else { BTreeSet::new() }
    }

    fn end_group<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while proc::is_alive(group) {
                signal_group(Pid::from_raw(group.pgid), Signal::KILL);
                sleep(LOOK).await;
            }
        })
    }

    fn executable(&self, path: &Path) -> Result<(), NoProgram> {
        let shown = path.display();
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(NoProgram::Missing(format!("{shown} is not there; put an executable file of that name")))
            }
            Err(e) => Err(NoProgram::Unfit(format!("{shown} cannot be looked at: {e}; let the agent's user reach it"))),
            Ok(found) if !found.is_file() => {
                Err(NoProgram::Unfit(format!("{shown} is not a file; put an executable file in its place")))
            }
            Ok(found) if found.permissions().mode() & 0o111 == 0 => {
                Err(NoProgram::Unfit(format!("{shown} is not executable; run chmod +x {shown}")))
            }
            Ok(_) => Ok(()),
        }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn uptime(&self) -> Duration {
        let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(since).unwrap_or_default()
    }

    fn boot_id(&self) -> String {
        proc::boot_id()
    }

    fn facts(&self) -> Facts {
        let name = rustix::system::uname();
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let pretty = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|v| v.trim_matches('"').to_owned());
        Facts {
            hostname: name.nodename().to_string_lossy().into_owned(),
            os: pretty.unwrap_or_else(|| std::env::consts::OS.into()),
            kernel: name.release().to_string_lossy().into_owned(),
            arch: std::env::consts::ARCH.into(),
            cpus: std::thread::available_parallelism().map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory_bytes: rustix::system::sysinfo().totalram,
            boot_id: proc::boot_id(),
        }
    }

    fn sample(&self, path: &Path) -> Sample {
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        let networks = sysinfo::Networks::new_with_refreshed_list();
        let outward = || networks.iter().filter(|(name, _)| name.as_str() != "lo").map(|(_, n)| n);
        let disk = rustix::fs::statvfs(path).ok();
        let total = disk.as_ref().map_or(0, |d| d.f_blocks * d.f_frsize);
        let load1 = sysinfo::System::load_average().one;
        Sample {
            at_ms: self.now_ms(),
            cpu: self.busy_share().unwrap_or(0.0),
            memory_used_bytes: system.used_memory(),
            memory_total_bytes: system.total_memory(),
            disk_used_bytes: disk.as_ref().map_or(0, |d| (d.f_blocks - d.f_bfree) * d.f_frsize),
            disk_total_bytes: total,
            load1,
            network_received_bytes: outward().map(|n| n.total_received()).sum(),
            network_sent_bytes: outward().map(|n| n.total_transmitted()).sum(),
            agent_rss_bytes: own_rss().unwrap_or(0),
        }
    }

    fn free_bytes(&self, path: &Path) -> Option<u64> {
        rustix::fs::statvfs(path).ok().map(|d| d.f_bavail * d.f_frsize)
    }
}

// === impl Reins ===

impl Reins {
    fn signal(&self, signal: Signal) {
        signal_group(self.0, signal);
    }
}

impl Drop for Reins {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

// === impl Folder ===

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0);
    }
}

fn signal_group(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // Before it made its own group, the helper is met when it leaves its gate unopened: its socket ends.
        let _ = kill_process_group(group, signal);
    }
}

async fn open(mut gate: UnixStream) -> io::Result<()> {
    gate.write_all(&[1]).await?;
    let mut error = Vec::new();
    gate.read_to_end(&mut error).await?;
    match <[u8; 4]>::try_from(error.as_slice()) {
        Ok(number) => Err(io::Error::from_raw_os_error(i32::from_le_bytes(number))),
        Err(_) => Ok(()),
    }
}

async fn copy(from: Option<impl AsyncRead + Unpin>, stream: Stream, watch: &dyn Watch) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; PIECE];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        watch.output(stream, &buffer[..n]);
    }
}

fn explain(program: &Program, error: &io::Error) -> NotStarted {
    let shown = program.path.display();
    let right = match Errno::from_io_error(error) {
        Some(Errno::NOENT) if program.path.exists() => {
            "the interpreter named in its first line is not there; install it or correct the line".into()
        }
        Some(Errno::NOENT) => "it is not there; put an executable file of that name".into(),
        Some(Errno::ACCESS) => format!("the agent's user may not execute it; run chmod +x {shown} and open its folder"),
        Some(Errno::TXTBSY) => {
            "it is open for writing; finish copying it, best under another name and then rename".into()
        }
        Some(Errno::NOEXEC) => "it begins neither with #! nor as a binary of this machine; add a first line".into(),
        Some(Errno::TOOBIG) => {
            "its arguments and environment are too long for the kernel; shorten the overrides".into()
        }
        _ => error.to_string(),
    };
    NotStarted(format!("{shown} cannot be started: {right}"))
}

fn own_rss() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
