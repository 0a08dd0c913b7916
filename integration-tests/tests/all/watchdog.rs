//! The service manager's watchdog: fed while the work goes on, and starved by a loop that hangs in a process that lives.

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    time::{Duration, Instant},
};

use muster_integration_tests::processes::{PATIENCE, Processes};
use serde_json::json;

/// What stands for the service manager: a socket of its own.
struct Manager(UnixDatagram);

// === impl Manager ===

impl Manager {
    /// Listens in a house's folder, and is named to the programs that are started there from here on.
    fn over(house: &mut Processes, watchdog: Duration) -> Self {
        let path = house.path("notify");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(Path::new(&path)).expect("bound");
        let usec = watchdog.as_micros().to_string();
        house.env = vec![("NOTIFY_SOCKET", path.into()), ("WATCHDOG_USEC", usec.into())];
        Self(socket)
    }

    /// What is said next within `limit`.
    fn hears(&self, limit: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.0.set_read_timeout(Some(limit)).expect("a limit");
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Waits until this was said so often.
    fn waits_for(&self, word: &str, times: usize) {
        let mut heard = 0;
        while heard < times {
            let said = self.hears(PATIENCE).unwrap_or_else(|| panic!("{word} was said {heard} times, not {times}"));
            heard += usize::from(said.lines().any(|line| line == word));
        }
    }

    /// Waits until no ping has come for `silence`.
    fn misses_pings(&self, silence: Duration) {
        let (begun, mut last) = (Instant::now(), Instant::now());
        while last.elapsed() < silence {
            assert!(begun.elapsed() < PATIENCE + silence, "the pings go on");
            let left = silence.saturating_sub(last.elapsed()).max(Duration::from_millis(1));
            if self.hears(left).is_some_and(|said| said.contains("WATCHDOG=1")) {
                last = Instant::now();
            }
        }
    }
}

const PING: &str = "WATCHDOG=1";

#[test]
fn one_loop_of_the_controller_that_hangs_starves_the_watchdog() {
    let mut house = Processes::new();
    let manager = Manager::over(&mut house, Duration::from_secs(1));
    // The plan's loop stops in the middle of a round; every other goes on.
    house.start_controller(Some("hang:AfterPlanCommit"));
    manager.waits_for("READY=1", 1);
    manager.waits_for(PING, 4);
    house.env.clear();
    let token = house.invite();
    assert!(house.enroll(&token, None).success(), "{}", house.logs());
    house.project();
    house.start_agent(None);
    assert!(house.create(), "{}", house.logs());
    manager.misses_pings(Duration::from_secs(4));
    assert!(!house.controller_has_ended(), "it lives, and only its watchdog knows");
    assert_eq!(house.call("GET", "/livez", None).expect("it answers").0, 200);
}

#[test]
fn a_work_loop_of_the_agent_that_hangs_starves_the_watchdog() {
    let mut house = Processes::shop();
    assert!(house.create());
    house.start_agent(None);
    house.becomes("Running");
    house.kill_agent();
    let manager = Manager::over(&mut house, Duration::from_secs(30));
    house.start_agent(Some("hang:before_starting"));
    manager.waits_for("READY=1", 1);
    // The loop turns for each check, a second apart.
    manager.waits_for(PING, 4);
    house.ask("POST", &format!("{}/delete", Processes::STAGING), Some(&json!({})));
    // At rest it turns every ten seconds.
    manager.misses_pings(Duration::from_secs(12));
    assert!(!house.agent_has_ended(), "it lives, and only its watchdog knows");
}
