//! What an operation's way costs: from the call of the API to the first instruction of the wrapper, through real programs.
//! And what an agent's program takes while it has nothing to do.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use muster_integration_tests::processes::{Processes, wait};
use serde_json::{Value, json};

/// Operations that are timed.
const OPERATIONS: usize = 100;

const WRAPPERS: [&str; 6] = ["create", "update", "delete", "check", "cleanup", "archive_check"];

/// Beside the wrappers: when `create` began, nanoseconds since the Unix epoch.
const BEGAN: &str = "began";

/// Whether this program was started under a wrapper's name.
pub fn is_wrapper(program: &str) -> bool {
    WRAPPERS.contains(&name(program))
}

/// Is a wrapper: notes when it began.
pub fn wrap() -> anyhow::Result<()> {
    let began = now()?.as_nanos().to_string();
    let own = std::env::args().next().unwrap_or_default();
    if name(&own) == "create" {
        let beside = Path::new(&own).with_file_name("beginning");
        fs::write(&beside, began)?;
        fs::rename(beside, Path::new(&own).with_file_name(BEGAN))?;
    }
    Ok(())
}

/// Times operations one after the other, then looks at the agent.
pub fn measure() -> anyhow::Result<()> {
    let mut house = Processes::new();
    house.certificate_seconds = 86_400;
    let wrappers = house.path("wrappers");
    for name in WRAPPERS {
        fs::remove_file(wrappers.join(name))?;
        std::os::unix::fs::symlink(std::env::current_exe()?, wrappers.join(name))?;
    }
    house.start_controller(None);
    let token = house.invite();
    anyhow::ensure!(house.enroll(&token, None).success(), "{}", house.logs());
    house.start_agent(None);
    let spec = json!({
        "base_domain": "shop.test", "namespace": "shop", "wrappers": "test", "check_interval_seconds": 30,
        "pending_limit_seconds": 60, "timeout_seconds": 30,
    });
    house.ask("PUT", "/api/v1/staging/projects/shop", Some(&spec));
    wait("the agent is online", || {
        (house.ask("GET", "/api/v1/agents", None)["items"][0]["liveness"] == "online").then_some(())
    });
    let mut ways: Vec<Duration> = (0..OPERATIONS).map(|n| way(&house, n, &wrappers)).collect::<anyhow::Result<_>>()?;
    ways.sort_unstable();
    let at = |share: usize| ways[share * OPERATIONS / 100].as_secs_f64() * 1000.0;
    println!("\nAn operation's way, API call to wrapper, {OPERATIONS} times");
    let verdict = if at(50) <= 20.0 { "ok" } else { "TOO MUCH" };
    println!("  p50 {:.1} ms of 20 {verdict}, p90 {:.1} ms, p99 {:.1} ms", at(50), at(90), at(99));
    std::thread::sleep(Duration::from_secs(2));
    let rss = house.agent_rss().expect("the agent runs") as f64 / 1e6;
    let verdict = if rss <= 15.0 { "ok" } else { "TOO MUCH" };
    println!("\nAn agent's process, idle after that: {rss:.1} MB of 15 {verdict}");
    Ok(())
}

fn way(house: &Processes, n: usize, wrappers: &Path) -> anyhow::Result<Duration> {
    let began = wrappers.join(BEGAN);
    let name = format!("s{n}");
    let called = now()?;
    let order = json!({"name": name, "tag": "v1", "overrides": []});
    let answer = house.call("POST", "/api/v1/staging/projects/shop/stagings", Some(&order));
    let Some((202, _)) = answer else { anyhow::bail!("{name} was not made: {answer:?}") };
    let at: u64 = wait("the wrapper begins", || fs::read_to_string(&began).ok()?.parse().ok());
    fs::remove_file(&began)?;
    // The next one finds a quiet house.
    let path = format!("/api/v1/staging/projects/shop/stagings/{name}");
    let quiet = Instant::now();
    wait("the staging is Running", || {
        let staging: Value = house.ask("GET", &path, None);
        (staging["status"] == "Running" && quiet.elapsed() > Duration::from_millis(50)).then_some(())
    });
    Ok(Duration::from_nanos(at).saturating_sub(called))
}

fn now() -> anyhow::Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

fn name(program: &str) -> &str {
    Path::new(program).file_name().and_then(|n| n.to_str()).unwrap_or_default()
}
