//! Stagings on hosts that play their wrappers.

use muster_controller::{
    fleet::model::{Class, Labels},
    staging::{
        model::{ProjectSpec, Status},
        service::{NewStaging, Which},
    },
};
use muster_integration_tests::{
    World,
    world::{engines, eventually, tester},
};

const HELLO: Which<'static> = Which { project: "shop", name: "hello" };

fn project() -> ProjectSpec {
    ProjectSpec {
        base_domain: "shop.test".into(),
        namespace: "shop".into(),
        wrappers: "test".into(),
        agents: Labels::from([("pool".to_owned(), "a".to_owned())]),
        check_interval_seconds: 1,
        pending_limit_seconds: 60,
        timeout_seconds: 60,
        memory_bytes: 0,
        file_bytes: 0,
        archived_retention_days: None,
    }
}

async fn becomes(world: &World, status: Status) {
    let why = format!("hello is {status:?}");
    eventually(&why, || async {
        let found = world.home.staging.status(HELLO).await.expect("read");
        (found == Some((status, false))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_lives_its_life() {
    for engine in engines() {
        let world = World::on(engine).await;
        let agent = world.agent("host-1", Class::StagingHost, &[("pool", "a")]).await;
        let staging = &world.home.staging;
        staging.save_project(&tester(), "shop", &project(), None).await.expect("a project");
        let new = NewStaging { project: "shop".into(), name: "hello".into(), tag: "v1".into(), overrides: vec![] };
        staging.create(&tester(), &new).await.expect("created");
        becomes(&world, Status::Running).await;
        staging.delete(&tester(), HELLO).await.expect("archived");
        becomes(&world, Status::Archived).await;
        staging.restore(&tester(), HELLO).await.expect("restored");
        becomes(&world, Status::Running).await;
        staging.delete(&tester(), HELLO).await.expect("archived again");
        becomes(&world, Status::Archived).await;
        staging.cleanup(&tester(), HELLO).await.expect("cleaned up");
        eventually("hello is gone", || async {
            world.home.staging.status(HELLO).await.expect("read").is_none().then_some(())
        })
        .await;
        assert_eq!((agent.host.count("create"), agent.host.count("delete"), agent.host.count("cleanup")), (2, 2, 1));
    }
}
