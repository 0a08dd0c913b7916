//! Streams: cut, frozen, cloned, revoked, and what their agents are told.

use std::time::{Duration, Instant};

use muster_controller::{
    certificate::{leaves, model::Lives},
    fleet::model::{Class, Labels},
    platform::events,
};
use muster_integration_tests::{
    World,
    world::{Agent, engines, eventually, tester},
};

const HOUR: i64 = 3_600_000;

/// What an agent says of its last stream.
pub async fn is_told(agent: &Agent, word: &str) {
    let path = agent.state.join("status.json");
    eventually(&format!("the agent is told {word:?}"), || async {
        let status = std::fs::read_to_string(&path).unwrap_or_default().replace(": ", ":");
        status.contains(word).then_some(())
    })
    .await;
}

async fn happened(world: &World, kind: &str) -> bool {
    let filter = events::Filter { kind: Some(kind.into()), ..events::Filter::default() };
    let mut conn = world.home.fleet.db.read().await.expect("a connection");
    !events::list(&mut conn, &filter, 1).await.expect("listed").is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_finds_a_restarted_home_again() {
    for engine in engines() {
        let mut world = World::on(engine).await;
        let agent = world.agent("host-1", Class::StagingHost, &[]).await;
        world.restart_home().await;
        world.online(&agent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cycled_agent_takes_its_half_open_stream_over_at_once() {
    let world = World::new().await;
    let mut agent = world.agent("host-1", Class::StagingHost, &[]).await;
    is_told(&agent, "\"connected\":true").await;
    let old = world.home.fleet.registry.line(&agent.id).expect("a line");
    agent.kill().await;
    let begun = Instant::now();
    agent.start();
    eventually("a new line", || async {
        let line = world.home.fleet.registry.line(&agent.id)?;
        (line.epoch() > old.epoch()).then_some(())
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(4), "its token proves it; no probe is needed");
    assert!(!happened(&world, "agent.clone_held_off").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_lost_its_token_is_let_in_once_its_old_stream_proves_dead() {
    let world = World::new().await;
    let token = world.invite(Class::StagingHost, &Labels::new()).await;
    let mut agent = world.joined("host-1", &token).await.expect("joined");
    let mut reborn = agent.clone_to("host-1-disk");
    agent.start();
    world.online(&agent).await;
    let old = world.home.fleet.registry.line(&agent.id).expect("a line");
    agent.kill().await;
    reborn.start();
    eventually("a new line", || async {
        let line = world.home.fleet.registry.line(&agent.id)?;
        (line.epoch() > old.epoch()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_held_off_while_the_original_lives_and_both_are_shown() {
    let world = World::new().await;
    let mut agent = world.agent("host-1", Class::StagingHost, &[]).await;
    agent.stop().await;
    let mut clone = agent.clone_to("host-2");
    agent.start();
    world.online(&agent).await;
    is_told(&agent, "\"connected\":true").await;
    let line = world.home.fleet.registry.line(&agent.id).expect("a line");
    clone.start();
    is_told(&clone, "REASON_CLONE").await;
    let same = world.home.fleet.registry.line(&agent.id).expect("still a line");
    assert_eq!(same.epoch(), line.epoch(), "the original was not disturbed");
    assert!(happened(&world, "agent.clone_held_off").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_cut_within_a_second_and_told_so() {
    for engine in engines() {
        let world = World::on(engine).await;
        let agent = world.agent("host-1", Class::StagingHost, &[]).await;
        let begun = Instant::now();
        world.home.fleet.revoke_agent(&tester(), &agent.id, "lost laptop").await.expect("revoked");
        world.gone(&agent).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "cut after {:?}", begun.elapsed());
        is_told(&agent, "REASON_REVOKED").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_survives_a_restart_of_home_but_not_a_revocation() {
    let mut world = World::new().await;
    let mut agent = world.agent("host-1", Class::StagingHost, &[]).await;
    world.restart_home().await;
    world.online(&agent).await;
    world.home.fleet.revoke_agent(&tester(), &agent.id, "").await.expect("revoked");
    world.gone(&agent).await;
    agent.stop().await;
    agent.start();
    is_told(&agent, "REASON_REVOKED").await;
    assert!(world.home.fleet.registry.line(&agent.id).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_in_time_and_the_old_one_kept_until_the_new_one_connected() {
    let lives = Lives { agent: 3_000, grace: HOUR };
    let world = World::with(None, lives).await;
    let agent = world.agent("host-1", Class::StagingHost, &[]).await;
    let subject = format!("agent/{}", agent.id);
    eventually("the first leaf is superseded by one that was used", || async {
        let mut conn = world.home.fleet.db.read().await.expect("a connection");
        let rows = leaves(&mut conn, &subject, 10).await.expect("listed");
        let first = rows.last()?;
        let second = rows.iter().rev().nth(1)?;
        (second.used_at.is_some() && first.superseded_at.is_some()).then_some(())
    })
    .await;
    world.online(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_slept_past_its_expiry_renews_and_is_back() {
    let world = World::new().await;
    let mut agent = world.agent("host-1", Class::StagingHost, &[]).await;
    agent.stop().await;
    world.clock.shift(world.lives.agent + HOUR);
    agent.start();
    world.online(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gone_for_longer_than_the_grace_is_told_that_only_an_invitation_helps() {
    let world = World::new().await;
    let mut agent = world.agent("host-1", Class::StagingHost, &[]).await;
    agent.stop().await;
    world.clock.shift(world.lives.agent + world.lives.grace + HOUR);
    agent.start();
    is_told(&agent, "REASON_EXPIRED_BEYOND_GRACE").await;
    assert!(world.home.fleet.registry.line(&agent.id).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_from_the_future_is_told_that_a_clock_is_wrong() {
    let world = World::new().await;
    let mut agent = world.agent("host-1", Class::StagingHost, &[]).await;
    agent.stop().await;
    world.clock.shift(-2 * HOUR);
    agent.start();
    is_told(&agent, "REASON_NOT_YET_VALID").await;
    world.clock.shift(2 * HOUR);
    world.online(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_house_gets_no_further_than_the_handshake() {
    let (here, there) = (World::new().await, World::new().await);
    let mut agent = there.agent("host-1", Class::StagingHost, &[]).await;
    agent.stop().await;
    let address = here.home.address.to_string();
    agent.configure(|config| config.homes = vec![address]);
    agent.start();
    is_told(&agent, "certificate").await;
    assert!(here.home.fleet.registry.lines().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_agent_is_unknown() {
    let world = World::new().await;
    let agent = world.agent("host-1", Class::StagingHost, &[]).await;
    let removal = muster_controller::fleet::service::Removal { agent: agent.id.clone(), force: false };
    world.home.fleet.remove_agent(&tester(), &removal).await.expect("it holds nothing");
    is_told(&agent, "REASON_UNKNOWN").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_comes_back() {
    let world = World::new().await;
    let agent = world.agent("host-1", Class::StagingHost, &[]).await;
    agent.cable.cut();
    world.gone(&agent).await;
    agent.cable.mend();
    world.online(&agent).await;
}
