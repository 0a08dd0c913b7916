//! The program that sets limits and waits at a gate, as a host really starts it.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use muster_agent::{
    host::{Exit, Host, Machine, NotStarted, Program, Stream, Watch},
    ledger::Group,
};
use tokio_util::sync::CancellationToken;

const AGENT: &str = env!("CARGO_BIN_EXE_muster-agent");

#[derive(Default)]
struct Seen {
    out: Mutex<Vec<u8>>,
    fails: bool,
}

impl Watch for Seen {
    fn grouped(&self, _: Group) -> io::Result<()> {
        if self.fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    fn output(&self, stream: Stream, bytes: &[u8]) {
        if stream == Stream::Stdout {
            self.out.lock().expect("no test panics while writing").extend_from_slice(bytes);
        }
    }
}

fn script(dir: &Path, text: &str) -> Program {
    let path = dir.join("prog");
    fs::write(&path, text).expect("the script is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the script is its owner's");
    let limit = Duration::from_secs(20);
    Program {
        path,
        args: vec![],
        env: vec![],
        folder: dir.join("work"),
        keep_folder: false,
        limit,
        memory_bytes: 0,
        file_bytes: 0,
    }
}

async fn run(program: Program, seen: &Seen) -> Result<Exit, NotStarted> {
    Machine::new(Some(AGENT.into())).run(program, CancellationToken::new(), seen).await
}

#[tokio::test]
async fn limits_hold_and_the_program_leads_a_session_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        "#!/bin/bash\nulimit -d; ulimit -f; cut -d' ' -f5,6 /proc/self/stat; readlink /proc/self/fd/0; echo $$\n";
    let program = Program { memory_bytes: 512 << 20, file_bytes: 1 << 20, ..script(dir.path(), text) };
    let seen = Seen::default();
    assert_eq!(run(program, &seen).await.unwrap().code, Some(0));
    let text = String::from_utf8(seen.out.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["524288", "1024"]);
    assert_eq!(lines[2], format!("{} {}", lines[4], lines[4]), "group and session are its own");
    assert_eq!(lines[3], "/dev/null");
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_is_told_from_one_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    let error = run(script(dir.path(), "#!/nowhere/sh\n"), &Seen::default()).await.unwrap_err();
    assert!(error.0.contains("interpreter"), "{error}");
    let exit = run(script(dir.path(), "#!/bin/bash\nexit 127\n"), &Seen::default()).await.unwrap();
    assert_eq!(exit.code, Some(127));
}

#[tokio::test]
async fn nothing_is_executed_while_its_group_cannot_be_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("ran");
    let program = script(dir.path(), &format!("#!/bin/bash\ntouch {}\n", trace.display()));
    let error = run(program, &Seen { fails: true, ..Seen::default() }).await.unwrap_err();
    assert!(error.0.contains("recorded"), "{error}");
    assert!(!trace.exists());
}

#[test]
fn a_gate_whose_agent_is_gone_executes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("ran");
    let gated = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(AGENT);
        command.args(["exec-limited", "--gate", "--", "/usr/bin/touch"]).arg(&trace);
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::null()).spawn().unwrap();
        (child, ours)
    };
    let (mut orphan, gate) = gated();
    drop(gate);
    assert!(!orphan.wait().unwrap().success());
    assert!(!trace.exists());
    let (mut child, mut gate) = gated();
    gate.write_all(&[1]).unwrap();
    assert!(child.wait().unwrap().success());
    drop(child);
    assert_eq!(gate.read(&mut [0; 4]).unwrap(), 0, "the gate closes when the program begins");
    assert!(trace.exists());
}
