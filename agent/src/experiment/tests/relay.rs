use std::{fs, sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{
    super::relay::{Relay, Seated},
    rig::*,
};
use crate::{ledger::Key, spool::Spool};

const HOLD: Duration = Duration::from_millis(300);

async fn seated(dir: &tempfile::TempDir) -> (Relay, Seated, Arc<Spool>) {
    let spool = Arc::new(Spool::open(dir.path(), 1 << 20, &[], []).unwrap());
    let relay = Relay::holding(spool.clone(), HOLD);
    let seat = relay.seat(Key::new("experiment.executor", "x"), "e", dir.path().join("graph")).await.unwrap();
    (relay, seat, spool)
}

/// One request: status and body.
pub async fn http(method: &str, url: &str, body: &[u8]) -> (u16, String) {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn post(executor: &str, results: &str, state: &str) -> Vec<u8> {
    format!(r#"{{"executor_id": "{executor}", "results": "{results}"{state}, "more": 1}}"#).into_bytes()
}

#[tokio::test]
async fn a_graph_is_given_to_its_own_executor_and_others_are_sent_away_slowly() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, it, _) = seated(&dir).await;
    let ask = |base: &str, id: &str| {
        let url = format!("{base}/api/v1/executor/execution_graph?executor_id={id}");
        async move { (Instant::now(), http("GET", &url, b"").await, Instant::now()) }
    };
    let (began, answer, ended) = ask(&it.url, "x").await;
    assert!(answer == (200, String::new()) && ended - began >= HOLD, "not there yet: {answer:?}");
    fs::write(dir.path().join("graph"), b"pickle").unwrap();
    assert_eq!(ask(&it.url, "x").await.1, (200, "\"cGlja2xl\"".into()));
    let unknown = format!("{}/{}", it.url.rsplit_once('/').unwrap().0, "0".repeat(32));
    for (base, id) in [(&it.url, "other"), (&unknown, "x")] {
        let (began, answer, ended) = ask(base, id).await;
        assert!(answer == (200, String::new()) && ended - began >= HOLD, "{answer:?}");
    }
}

#[tokio::test]
async fn a_result_is_always_answered_and_taken_once_from_its_own_executor() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, it, _) = seated(&dir).await;
    let unknown = format!("{}/{}", it.url.rsplit_once('/').unwrap().0, "0".repeat(32));
    let send = |base: &str, body: Vec<u8>| {
        let url = format!("{base}/api/v1/executor/result/");
        async move { http("POST", &url, &body).await }
    };
    let taken = (200, "null".to_owned());
    for (base, body) in [
        (&it.url, post("other", "Zm9yZ2Vk", ", \"state\": 2")),
        (&it.url, b"{".to_vec()),
        (&it.url, b"{}".to_vec()),
        (&it.url, post("x", "!!", "")),
        (&unknown, post("x", "Zm9yZ2Vk", "")),
    ] {
        assert_eq!(send(base, body).await, taken);
        assert_eq!(it.seat.posted().results, None);
    }
    assert_eq!(send(&it.url, post("x", "b25l", ", \"state\": 1")).await, taken);
    assert_eq!((it.seat.posted().results.unwrap().as_ref(), it.seat.posted().is_final), (b"one".as_slice(), false));
    assert_eq!(send(&it.url, post("x", "dHdv", "")).await, taken);
    assert_eq!(send(&it.url, post("x", "b25l", ", \"state\": 1")).await, taken);
    assert_eq!((it.seat.posted().results.unwrap().as_ref(), it.seat.posted().is_final), (b"two".as_slice(), true));
}

#[tokio::test]
async fn a_result_that_is_too_long_is_answered_and_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, it, _) = seated(&dir).await;
    let url = format!("{}/api/v1/executor/result", it.url);
    let large = post("x", &"A".repeat(20 << 20), ", \"state\": 1");
    assert_eq!(http("POST", &url, &large).await.0, 200);
    assert_eq!(it.seat.posted().results.unwrap().len(), 15 << 20);
    let larger = post("x", &"A".repeat(33 << 20), ", \"state\": 2");
    assert_eq!(http("POST", &url, &larger).await.0, 200);
    assert!(it.seat.posted().too_long && it.seat.posted().results.is_none());
}

#[tokio::test]
async fn flags_are_homes_and_only_of_ones_own_experiment() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, it, spool) = seated(&dir).await;
    let flags = Flags::answer(spool);
    let own = format!("{}/api/v1/experiment/e/flag/go%2Fon", it.url);
    let other = format!("{}/api/v1/experiment/other/flag/go", it.url);
    let ok = (200, "null".to_owned());
    assert_eq!(http("GET", &own, b"").await, (404, "null".into()));
    assert_eq!(http("POST", &own, br#"{"text_value": "run", "int_value": 5}"#).await, ok);
    assert_eq!(http("GET", &own, b"").await, (200, r#"{"text_value":"run","int_value":5}"#.into()));
    assert_eq!(http("POST", &format!("{own}/increment"), b"").await, ok);
    assert_eq!(http("POST", &format!("{own}/increment?by=10"), b"").await, ok);
    assert_eq!(http("POST", &format!("{own}/decrement"), b"").await, ok);
    assert_eq!(flags.number("go/on"), 15);
    assert_eq!(http("POST", &own, br#"{"text_value": "x", "int_value": null}"#).await.0, 422);
    assert_eq!(http("POST", &own, br#"{"text_value": "only"}"#).await, ok);
    assert_eq!(flags.number("go/on"), 0);
    let asked = flags.asked.load(Ordering::Relaxed);
    for (method, url) in [("GET", &other), ("POST", &other)] {
        assert_eq!(http(method, url, b"{}").await, (404, "null".into()));
    }
    assert_eq!(flags.asked.load(Ordering::Relaxed), asked, "home was not asked");
    let denied = format!("{}/api/v1/experiment/e/flag/forbidden", it.url);
    assert_eq!(http("GET", &denied, b"").await, (400, "\"no such experiment\"".into()));
}

#[tokio::test]
async fn a_flag_is_waited_for_instead_of_asked_for_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, it, spool) = seated(&dir).await;
    let flags = Flags::answer(spool);
    let own = format!("{}/api/v1/experiment/e/flag/n", it.url);
    let waiting = format!("{own}?wait_ms=20000&until_at_least=2");
    let setting = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            http("POST", &format!("{own}/increment"), b"").await;
        }
    };
    let (answer, ()) = tokio::join!(http("GET", &waiting, b""), setting);
    assert_eq!(answer, (200, r#"{"text_value":null,"int_value":2}"#.into()));
    assert!(flags.asked.load(Ordering::Relaxed) <= 4, "two additions and few questions");
    let never = format!("{own}?wait_ms=100&until_text=never");
    assert_eq!(http("GET", &never, b"").await.0, 200, "the time is over: it is told as it is");
}

#[tokio::test]
async fn an_addition_whose_answer_was_lost_is_asked_again_and_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, it, spool) = seated(&dir).await;
    let flags = Flags::answer(spool);
    flags.losing.store(1, Ordering::Relaxed);
    let add = format!("{}/api/v1/experiment/e/flag/n/increment", it.url);
    let held = tokio::spawn(async move { http("POST", &add, b"").await });
    until("home has added", || (flags.losing.load(Ordering::Relaxed) == 0).then_some(())).await;
    assert!(!held.is_finished() && flags.number("n") == 1);
    flags.there.send_replace(false);
    tokio::time::sleep(Duration::from_millis(50)).await;
    flags.there.send_replace(true);
    assert_eq!(held.await.unwrap().0, 200);
    assert_eq!((flags.asked.load(Ordering::Relaxed), flags.number("n")), (2, 1));
}

#[tokio::test]
async fn while_home_is_away_a_flag_is_held_and_then_changed_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, it, spool) = seated(&dir).await;
    let flags = Flags::answer(spool);
    let add = format!("{}/api/v1/experiment/e/flag/n/increment", it.url);
    assert_eq!(http("POST", &add, b"").await.0, 200);
    flags.there.send_replace(false);
    let held = tokio::spawn(async move { http("POST", &add, b"").await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!held.is_finished(), "home said nothing");
    flags.there.send_replace(true);
    assert_eq!(held.await.unwrap().0, 200);
    assert_eq!(flags.number("n"), 2);
}
