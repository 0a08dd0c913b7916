//! Programs that an administrator installed for an occasion: bytes in, bytes out, within a limit of time.
//!
//! A folder holds them; each runs in a process group of its own, with nothing of this process's environment but PATH, HOME
//! and LANG, which names no secret. What is over its limit is killed with its group.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::Semaphore,
    time::{sleep, timeout},
};

/// The most a program may write to its standard output, bytes.
const MAX_OUTPUT: usize = 64 << 20;

/// Of what it writes to standard error so much is kept, from the end, bytes.
const MAX_COMPLAINT: usize = 4096;

/// How long output may still come after the program's own process ended.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// A program that is open for writing is tried again so often, so far apart: somebody is just installing it.
const BUSY: (usize, Duration) = (20, Duration::from_millis(10));

/// Programs that run at the same time; others wait.
static AT_ONCE: Semaphore = Semaphore::const_new(8);

/// The programs of one occasion; without a folder there are none.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    folder: Option<PathBuf>,
    limit: Duration,
}

/// What became of a program.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub output: Vec<u8>,
    /// The end of what it wrote to standard error.
    pub complaint: Vec<u8>,
}

/// Why a program did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum NotEnded {
    /// It is no program, or there is no room for it.
    #[error("cannot be started: {0}")]
    NotStarted(io::Error),
    /// It was killed.
    #[error("took longer than {} s and was ended", .0.as_secs_f64())]
    TimedOut(Duration),
    /// It was killed.
    #[error("wrote more than {} MiB and was ended", MAX_OUTPUT >> 20)]
    TooMuch,
    /// It was killed.
    #[error("cannot be heard: {0}")]
    Unheard(#[from] io::Error),
}

/// Kills a process group unless told that it ended.
struct Reins(Option<Pid>);

// === impl Programs ===

impl Programs {
    /// The executables of this folder, each with this much time.
    pub fn new(folder: PathBuf, limit: Duration) -> Self {
        Self { folder: Some(folder), limit }
    }

    /// Whether there is a folder.
    pub fn are_wanted(&self) -> bool {
        self.folder.is_some()
    }

    /// The executables, in order of their names; hidden files are none.
    pub async fn list(&self) -> io::Result<Vec<PathBuf>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let mut entries = tokio::fs::read_dir(folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            let about = match tokio::fs::metadata(entry.path()).await {
                // A link to nothing, or a file that was there a moment ago.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                about => about?,
            };
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if about.is_file() && about.permissions().mode() & 0o111 != 0 && !is_hidden {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Runs one of them to its end.
    pub async fn run(&self, program: &Path, input: &[u8]) -> Result<Ended, NotEnded> {
        let _turn = AT_ONCE.acquire().await;
        let mut child = start_patiently(program).await.map_err(NotEnded::NotStarted)?;
        let mut reins = Reins(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut output, mut complaint) = (Vec::new(), Vec::new());
        let status = {
            let talk = async {
                let say = async {
                    if let Some(mut stdin) = stdin {
                        // A program need not listen to the end.
                        let _ = stdin.write_all(input).await;
                    }
                    Ok(())
                };
                let hear = hear(stdout, &mut output);
                tokio::try_join!(say, hear, hear_end(stderr, &mut complaint)).map(drop)
            };
            tokio::pin!(talk);
            let mut is_heard = false;
            let end = async {
                let status = loop {
                    tokio::select! {
                        status = child.wait() => break status?,
                        heard = &mut talk, if !is_heard => {
                            heard?;
                            is_heard = true;
                        }
                    }
                };
                if !is_heard {
                    // What it left running may hold its output open for good.
                    timeout(LAST_OUTPUT, &mut talk).await.unwrap_or(Ok(()))?;
                }
                Ok::<_, NotEnded>(status)
            };
            timeout(self.limit, end).await.map_err(|_| NotEnded::TimedOut(self.limit))??
        };
        reins.0 = None;
        Ok(Ended { status, output, complaint })
    }
}

async fn start_patiently(program: &Path) -> io::Result<Child> {
    for _ in 0..BUSY.0 {
        match start(program) {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => sleep(BUSY.1).await,
            other => return other,
        }
    }
    start(program)
}

fn start(program: &Path) -> io::Result<Child> {
    let kept = ["PATH", "HOME", "LANG"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    let mut command = Command::new(program);
    command.env_clear().envs(kept).process_group(0).kill_on_drop(true);
    command.current_dir(program.parent().unwrap_or(Path::new("/")));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

async fn hear(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), NotEnded> {
    let Some(from) = from else { return Ok(()) };
    from.take(MAX_OUTPUT as u64 + 1).read_to_end(into).await?;
    if into.len() > MAX_OUTPUT { Err(NotEnded::TooMuch) } else { Ok(()) }
}

async fn hear_end(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), NotEnded> {
    let Some(mut from) = from else { return Ok(()) };
    while from.read_buf(into).await? > 0 {
        into.drain(..into.len().saturating_sub(MAX_COMPLAINT));
    }
    Ok(())
}

impl Drop for Reins {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by itself meanwhile.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
