//! The database server is killed in the middle of operations, with every process of it.

use std::{thread::sleep, time::Duration};

use muster_integration_tests::{
    cluster::Cluster,
    processes::{Processes, wait},
};
use serde_json::json;

#[test]
fn a_database_server_that_is_killed_costs_no_operation_and_no_restart() {
    let mut cluster = Cluster::start();
    let mut house = Processes::new();
    house.env = vec![("MUSTER_DATABASE", cluster.url().into())];
    house.open_shop();
    house.start_agent(None);
    // A wrapper works for 0.3 s: it is killed before, while and after one runs, and down for longer than one takes.
    let rounds =
        [("create", 0, 0), ("delete", 150, 500), ("restore", 350, 0), ("delete", 50, 500), ("restore", 250, 500)];
    for (n, (verb, before, down)) in rounds.into_iter().enumerate() {
        let taken = match verb {
            "create" => house.create(),
            _ => {
                house.ask("POST", &format!("{}/{verb}", Processes::STAGING), Some(&json!({})))["operation"].is_string()
            }
        };
        assert!(taken, "{verb}: not taken\n{}", house.logs());
        sleep(Duration::from_millis(before));
        cluster.kill();
        sleep(Duration::from_millis(down));
        cluster.start_again();
        let (staging, operations) = wait(&format!("{verb}: all is settled"), || house.settled());
        assert!(!house.controller_has_ended(), "it recovers by itself\n{}", house.logs());
        assert_eq!(operations.len(), n + 1, "{verb}: what was acknowledged is there: {operations:#?}");
        let newest = &operations[0];
        assert_eq!(newest["outcome"], "succeeded", "{verb}: {newest:#}\n{}", house.logs());
        assert_eq!(staging["status"], if verb == "delete" { "Archived" } else { "Running" }, "{verb}: {staging:#}");
        let ran = ["create", "delete"].map(|wrapper| house.runs(wrapper)).iter().sum::<usize>();
        assert_eq!(ran, n + 1, "{verb}: each ran once\n{}", house.logs());
    }
    wait("it is ready again", || (house.call("GET", "/readyz", None)?.0 == 200).then_some(()));
}
