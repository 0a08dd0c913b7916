use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Mutex, time::Duration};

use tokio_util::sync::CancellationToken;

use super::*;

#[derive(Default)]
struct Seen {
    group: Mutex<Option<Group>>,
    out: Mutex<Vec<u8>>,
    err: Mutex<Vec<u8>>,
}

impl Watch for Seen {
    fn grouped(&self, group: Group) -> io::Result<()> {
        *self.group.lock().unwrap() = Some(group);
        Ok(())
    }
    fn output(&self, stream: Stream, bytes: &[u8]) {
        let to = if stream == Stream::Stdout { &self.out } else { &self.err };
        to.lock().unwrap().extend_from_slice(bytes);
    }
}

fn script(dir: &Path, text: &str) -> Program {
    let path = dir.join("prog");
    fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
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

async fn run(program: Program) -> (Result<Exit, NotStarted>, Seen) {
    let seen = Seen::default();
    let exit = Machine::new(None).run(program, CancellationToken::new(), &seen).await;
    (exit, seen)
}

#[tokio::test]
async fn output_exit_code_and_arguments_come_through_as_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = script(dir.path(), r#"printf 'a\0\377%s' "$1"; echo oops >&2; exit 3"#);
    program.args = vec!["x y;$(z)".into()];
    let (exit, seen) = run(program).await;
    assert_eq!(exit.unwrap(), Exit { code: Some(3), signal: None, timed_out: false, cancelled: false });
    assert_eq!(*seen.out.lock().unwrap(), b"a\0\xffx y;$(z)");
    assert_eq!(*seen.err.lock().unwrap(), b"oops\n");
}

#[tokio::test]
async fn ten_megabytes_on_one_line_do_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let text = "head -c 10485760 /dev/zero | tr '\\0' x; head -c 1048576 /dev/zero >&2";
    let (exit, seen) = run(script(dir.path(), text)).await;
    assert_eq!(exit.unwrap().code, Some(0));
    assert_eq!((seen.out.lock().unwrap().len(), seen.err.lock().unwrap().len()), (10_485_760, 1_048_576));
}

#[tokio::test]
async fn the_environment_is_cleared_but_for_what_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = script(dir.path(), "/usr/bin/env; pwd");
    program.env = vec![("GIVEN".into(), "yes".into())];
    let (_, seen) = run(program).await;
    let text = String::from_utf8(seen.out.lock().unwrap().clone()).unwrap();
    assert!(text.contains("GIVEN=yes\n") && text.ends_with("/work\n"), "{text}");
    assert!(!text.contains("CARGO"), "{text}");
}

#[tokio::test]
async fn a_limit_ends_the_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = script(dir.path(), "sleep 300 & echo $!; wait");
    program.limit = Duration::from_millis(300);
    let (exit, seen) = run(program).await;
    let exit = exit.unwrap();
    assert!(exit.timed_out && exit.signal == Some(15), "{exit:?}");
    let group = seen.group.lock().unwrap().clone().unwrap();
    Machine::new(None).end_group(&group).await;
    assert!(!proc::is_alive(&group));
}

#[tokio::test]
async fn a_cancelled_program_is_ended_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (seen, cancel) = (Seen::default(), CancellationToken::new());
    cancel.cancel();
    let exit = Machine::new(None).run(script(dir.path(), "exec sleep 300"), cancel, &seen).await.unwrap();
    assert!(exit.cancelled && !exit.timed_out);
}

#[tokio::test]
async fn what_is_left_running_after_success_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let (exit, seen) = run(script(dir.path(), "sleep 300 & exit 0")).await;
    assert_eq!(exit.unwrap().code, Some(0));
    let group = seen.group.lock().unwrap().clone().unwrap();
    assert!(proc::is_alive(&group));
    Machine::new(None).end_group(&group).await;
    assert!(!proc::is_alive(&group));
}

#[tokio::test]
async fn a_program_whose_future_is_dropped_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let seen = Seen::default();
    let machine = Machine::new(None);
    let running = machine.run(script(dir.path(), "sleep 300"), CancellationToken::new(), &seen);
    let _ = tokio::time::timeout(Duration::from_millis(200), running).await;
    let group = seen.group.lock().unwrap().clone().unwrap();
    machine.end_group(&group).await;
    assert!(!proc::is_alive(&group));
}

#[tokio::test]
async fn a_group_whose_number_was_reused_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (_, seen) = run(script(dir.path(), "sleep 300 & exit 0")).await;
    let group = seen.group.lock().unwrap().clone().unwrap();
    let elsewhere = Group { boot_id: "another boot".into(), ..group.clone() };
    Machine::new(None).end_group(&elsewhere).await;
    assert!(proc::is_alive(&group));
    Machine::new(None).end_group(&group).await;
}

#[tokio::test]
async fn what_cannot_be_started_is_named_with_what_would_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = script(dir.path(), "");
    fs::write(&program.path, "#!/nowhere/sh\n").unwrap();
    let (exit, _) = run(program.clone()).await;
    assert!(exit.unwrap_err().0.contains("interpreter"));
    fs::set_permissions(&program.path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Machine::new(None).executable(&program.path).unwrap_err().to_string().contains("chmod +x"));
    program.path = dir.path().join("absent");
    assert!(matches!(Machine::new(None).executable(&program.path), Err(NoProgram::Missing(_))));
    assert!(run(program).await.0.unwrap_err().0.contains("is not there"));
}

#[test]
fn a_program_name_with_parentheses_does_not_confuse_its_stat() {
    let stat = "42 (a) b) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
    assert_eq!(proc::parse(stat), Some(proc::Stat { pgid: 77, started: 12345, is_zombie: false }));
}

#[tokio::test]
async fn a_program_that_was_started_goes_on_by_itself_and_ends_when_it_is_asked() {
    let (dir, seen) = (tempfile::tempdir().unwrap(), Seen::default());
    let log = dir.path().join("log");
    let host = Machine::new(None);
    host.start(script(dir.path(), "echo begun; pwd >&2; exec sleep 1000"), &log, &seen).await.unwrap();
    let group = seen.group.lock().unwrap().clone().unwrap();
    let said = || fs::read_to_string(&log).unwrap();
    while !said().ends_with("/work\n") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(said().lines().next(), Some("begun"));
    assert!(host.is_alive(&group) && host.listens_on(&group).is_empty());
    let other = Group { started: group.started + 1, ..group.clone() };
    host.ask_to_end(&other);
    assert!(!host.is_alive(&other) && host.is_alive(&group), "another of the same number is left alone");
    host.ask_to_end(&group);
    while host.is_alive(&group) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(dir.path().join("work").exists(), "its folder stays");
}

#[test]
fn where_a_process_accepts_connections_is_known() {
    let four = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listeners = [std::net::TcpListener::bind("127.0.0.1:0"), std::net::TcpListener::bind("[::]:0")];
    let found = proc::listens_on(i32::try_from(std::process::id()).unwrap());
    for listener in listeners.into_iter().flatten() {
        let address = listener.local_addr().unwrap();
        assert!(found.contains(&address), "{address} in {found:?}");
    }
    assert!(!found.contains(&four), "it was closed");
}
