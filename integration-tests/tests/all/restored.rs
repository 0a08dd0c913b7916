//! A database restored from a backup: what agents were told since is adopted and kept, and nothing runs twice.

use muster_controller::{
    platform::events,
    staging::{
        model::{SettingsChange, Status},
        service::{NewStaging, Which},
    },
};
use muster_integration_tests::{
    World,
    world::{Agent, engines, eventually, tester},
};
use muster_proto::KIND_STAGING_WATCH;

use crate::staging::{HELLO, becomes, holding, is, running, shop};

const OLD: Which<'static> = Which { project: "shop", name: "old" };
const YOUNG: Which<'static> = Which { project: "shop", name: "young" };

async fn create(world: &World, which: Which<'_>) {
    let (project, name) = (which.project.into(), which.name.into());
    let new = NewStaging { project, name, tag: "v1".into(), overrides: vec![] };
    world.home.staging.create(&tester(), &new).await.expect("created");
    is(world, which, Status::Running).await;
}

async fn update(world: &World, tag: &str) {
    let change = SettingsChange { tag: Some(tag.into()), ..SettingsChange::default() };
    world.home.staging.update(&tester(), HELLO, &change, None).await.expect("taken");
}

/// How often each wrapper that changes something was run.
fn runs(agent: &Agent) -> [usize; 4] {
    ["create", "update", "delete", "cleanup"].map(|wrapper| agent.host.count(wrapper))
}

/// The watches of an agent that home adopted and left as they are.
async fn adopted(world: &World, agent: &Agent) -> Vec<String> {
    let filter = events::Filter { kind: Some("agent.assignment_adopted".into()), ..events::Filter::default() };
    let mut conn = world.home.fleet.db.read().await.expect("a connection");
    let told = events::list(&mut conn, &filter, 100).await.expect("listed");
    let told: Vec<_> = told.into_iter().filter_map(|e| Some(e.after?["id"].as_str()?.to_owned())).collect();
    let held = world.home.fleet.holdings(&agent.id).await.expect("read");
    let old = held.into_iter().map(|(e, _)| e.wanted).filter(|w| w.key.kind == KIND_STAGING_WATCH && w.epoch == 1);
    old.map(|w| w.key.id).filter(|id| told.contains(id)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_house_adopts_what_agents_were_told_since_and_runs_nothing_twice() {
    for engine in engines() {
        let mut world = World::on(engine).await;
        let agent = shop(&world).await;
        create(&world, HELLO).await;
        create(&world, OLD).await;
        let (play, until) = holding("update");
        agent.host.play(play);
        update(&world, "v2").await;
        running(&agent, "update").await;

        world.stop_home().await;
        let backup = world.backup().await;
        world.start_home().await;
        world.online(&agent).await;

        // What follows is lost with the database.
        until.notify_one();
        becomes(&world, Status::Running).await;
        create(&world, YOUNG).await;
        world.home.staging.delete(&tester(), OLD).await.expect("taken");
        is(&world, OLD, Status::Archived).await;
        let before = runs(&agent);
        assert_eq!(before, [3, 1, 1, 0]);

        world.stop_home().await;
        world.restore(backup);
        world.start_home().await;
        world.online(&agent).await;
        let lost = world.home.staging.status(YOUNG).await.expect("read");
        assert_eq!(lost, None, "home knows of it no more");
        // The operation that was under way in the backup has ended since: its outcome is asked for again, not its work.
        is(&world, HELLO, Status::Running).await;
        is(&world, OLD, Status::Running).await;
        let young = adopted(&world, &agent).await;
        assert_eq!(young.len(), 1, "the watch of the lost staging alone: home wants the others as of now");
        // The check that home wants of the archived one outranks what the agent was told of it since.
        let checks = |name: &'static str| {
            let of = agent.host.runs().into_iter().filter(move |p| p.args.iter().any(|a| a == name));
            of.filter(|p| p.path.ends_with("check") && !p.path.ends_with("archive_check")).count()
        };
        for name in ["old", "young"] {
            let seen = checks(name);
            eventually("it is checked again", || async { (checks(name) > seen).then_some(()) }).await;
        }
        assert_eq!(runs(&agent), before, "nothing ran a second time");
        assert_eq!(adopted(&world, &agent).await, young, "and what was adopted stays");

        // All can be operated on again.
        agent.host.play(|_| muster_integration_tests::host::Play::default());
        update(&world, "v3").await;
        is(&world, HELLO, Status::Running).await;
        world.home.staging.delete(&tester(), OLD).await.expect("taken");
        is(&world, OLD, Status::Archived).await;
        create(&world, YOUNG).await;
        assert_eq!(runs(&agent), [4, 2, 2, 0]);
    }
}
