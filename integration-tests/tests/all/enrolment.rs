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
