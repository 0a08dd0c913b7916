//! From an invitation to a stream.

use muster_controller::fleet::model::{Class, Labels};
use muster_integration_tests::{World, world::engines};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_by_invitation_and_is_online() {
    for engine in engines() {
        let world = World::on(engine).await;
        let mut agent = world.agent("host-1", Class::StagingHost, &[("pool", "a")]).await;
        agent.stop().await;
        world.gone(&agent).await;
        agent.start();
        world.online(&agent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_invitation_is_refused_and_says_so() {
    let world = World::new().await;
    let token = world.invite(Class::StagingHost, &Labels::new()).await;
    world.joined("host-1", &token).await.expect("the first joins");
    let refused = world.joined("host-2", &token).await.err().expect("the second does not");
    assert!(format!("{refused:#}").contains("used up"), "{refused:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_who_claim_an_invitation_for_one_exactly_one_joins() {
    for engine in engines() {
        let world = std::sync::Arc::new(World::on(engine).await);
        let token = world.invite(Class::StagingHost, &Labels::new()).await;
        let claims: Vec<_> = (0..50)
            .map(|n| {
                let (world, token) = (world.clone(), token.clone());
                tokio::spawn(async move { world.joined(&format!("host-{n}"), &token).await.is_ok() })
            })
            .collect();
        let mut joined = 0;
        for claim in claims {
            joined += usize::from(claim.await.expect("no panic"));
        }
        assert_eq!(joined, 1);
    }
}
