//! `muster-agent flag` as a task calls it, before a stand-in for the relay.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Command, Output},
    sync::mpsc::{Receiver, channel},
    thread,
};

const AGENT: &str = env!("CARGO_BIN_EXE_muster-agent");

/// Answers requests one after another, in turn as given, and tells what was asked.
fn relay(answers: &[(u16, &str)]) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/secret", listener.local_addr().expect("it is bound"));
    let answers: Vec<_> = answers.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
    let (tell, told) = channel();
    thread::spawn(move || {
        for (status, body) in answers {
            let mut stream = BufReader::new(listener.accept().expect("a request").0);
            let (mut first, mut headers, mut line) = (String::new(), BTreeMap::new(), String::new());
            stream.read_line(&mut first).expect("a first line");
            while stream.read_line(&mut line).expect("a header") > 2 {
                let (name, value) = line.trim().split_once(": ").expect("a header");
                headers.insert(name.to_lowercase(), value.to_owned());
                line.clear();
            }
            let length = headers.get("content-length").map_or(0, |value| value.parse().expect("a length"));
            let mut sent = vec![0; length];
            stream.read_exact(&mut sent).expect("a body");
            let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.get_mut().write_all(format!("{head}{body}").as_bytes()).expect("the task listens");
            let path = first.split(' ').take(2).collect::<Vec<_>>().join(" ");
            tell.send(format!("{path} {}", String::from_utf8_lossy(&sent))).expect("the test listens");
        }
    });
    (url, told)
}

fn flag(url: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(AGENT);
    command.arg("flag").args(args).env_remove("MUSTER_EXPERIMENT").env_remove("MUSTER_RELAY");
    if !url.is_empty() {
        command.env("MUSTER_RELAY", url).env("MUSTER_EXPERIMENT", "e 1");
    }
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

const BOTH: &str = r#"{"text_value":"run","int_value":5}"#;
const NUMBER: &str = r#"{"text_value":null,"int_value":5}"#;

#[test]
fn a_flag_is_read_set_and_added_to() {
    let (url, told) =
        relay(&[(200, BOTH), (200, NUMBER), (200, BOTH), (404, "null"), (200, "null"), (200, "null"), (400, "\"no\"")]);
    assert_eq!(flag(&url, &["get", "a/b"]), (Some(0), "run\n".into(), String::new()));
    assert_eq!(flag(&url, &["get", "n"]).1, "5\n");
    assert_eq!(flag(&url, &["get", "n", "--json"]).1, format!("{BOTH}\n"));
    let (code, out, err) = flag(&url, &["get", "n"]);
    assert!(code == Some(3) && out.is_empty() && err.contains("never set"), "{err}");
    assert_eq!(flag(&url, &["set", "n", "--text", "go", "--number", "-2"]).0, Some(0));
    assert_eq!(flag(&url, &["add", "n", "-3"]).0, Some(0));
    let (code, _, err) = flag(&url, &["add", "n"]);
    assert!(code == Some(1) && err.contains("refused: \"no\""), "{err}");
    let asked: Vec<_> = told.iter().collect();
    let base = "/secret/api/v1/experiment/e%201/flag";
    assert_eq!(asked[0], format!("GET {base}/a%2Fb "));
    assert_eq!(asked[4], format!("POST {base}/n {{\"int_value\":-2,\"text_value\":\"go\"}}"));
    assert_eq!(asked[5..], [format!("POST {base}/n/increment?by=-3 "), format!("POST {base}/n/increment?by=1 ")]);
}

#[test]
fn waiting_is_left_to_home_and_a_barrier_is_an_addition_and_a_wait() {
    let (url, told) = relay(&[(200, BOTH), (200, NUMBER), (200, "null"), (200, NUMBER), (404, "null")]);
    assert_eq!(flag(&url, &["wait", "n", "--text", "run", "--timeout", "7"]), (Some(0), "run\n".into(), String::new()));
    assert_eq!(
        flag(&url, &["wait", "n", "--at-least", "6", "--timeout", "1"]).0,
        Some(3),
        "told as it is, not as awaited"
    );
    assert_eq!(flag(&url, &["barrier", "n", "5"]).0, Some(0));
    assert_eq!(flag(&url, &["wait", "n", "--timeout", "0"]).0, Some(3));
    let asked: Vec<_> = told.iter().collect();
    let base = "/secret/api/v1/experiment/e%201/flag/n";
    assert_eq!(asked[0], format!("GET {base}?wait_ms=7000&until_text=run "));
    assert_eq!(asked[2], format!("POST {base}/increment?by=1 "));
    assert!(asked[3].ends_with("&until_at_least=5 "), "{}", asked[3]);
}

#[test]
fn outside_of_a_task_it_says_what_is_missing_and_needs_no_settings() {
    let (code, _, err) = flag("", &["get", "n"]);
    assert!(code == Some(1) && err.contains("MUSTER_RELAY"), "{err}");
    let (code, out, _) = flag("", &["--help"]);
    assert!(code == Some(0) && out.contains("muster-agent flag barrier start 5"), "{out}");
    assert_eq!(flag("", &["set", "n"]).0, Some(2), "a text or a number");
}
