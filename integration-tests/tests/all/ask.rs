//! Questions of an agent about what it holds, end to end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use muster_agent::{driver::Kernel, ledger::Key, spool::Answer};
use muster_controller::{
    fleet::model::{Class, Labels},
    staging::model::Status,
};
use muster_integration_tests::{
    World,
    world::{engines, eventually},
};
use muster_proto::{KIND_SETTINGS, KIND_STAGING_OPERATION};

use crate::staging::{becomes, create, holding, project, running};

/// Home answers within this time.
const LIMIT: Duration = Duration::from_secs(20);

async fn ask(kernel: &Arc<Kernel>, kind: &str, id: &str) -> Answer {
    let asked = kernel.spool.ask(Key::new(kind, id), 1, Bytes::new());
    tokio::time::timeout(LIMIT, asked).await.expect("home answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_answered_about_its_own_work_alone() {
    for engine in engines() {
        let world = World::on(engine).await;
        let labels = Labels::from([("pool".to_owned(), "a".to_owned())]);
        let tokens =
            (world.invite(Class::StagingHost, &labels).await, world.invite(Class::StagingHost, &Labels::new()).await);
        let mut worker = world.joined("worker", &tokens.0).await.expect("joined");
        let mut other = world.joined("other", &tokens.1).await.expect("joined");
        let (play, until) = holding("create");
        worker.host.play(play);
        let (kernel, others) = (worker.start_open(), other.start_open());
        world.online(&worker).await;
        world.online(&other).await;
        let tester = muster_integration_tests::world::tester();
        world.home.staging.save_project(&tester, "shop", &project(), None).await.expect("a project");
        let operation = create(&world).await.0;
        running(&worker, "create").await;

        assert_eq!(ask(&kernel, KIND_STAGING_OPERATION, &operation).await, Answer::Ok(Bytes::new()));
        let denied = ask(&others, KIND_STAGING_OPERATION, &operation).await;
        assert_eq!(denied, Answer::Denied("this agent has no such operation".into()));
        let unknown = ask(&kernel, KIND_SETTINGS, "settings").await;
        assert!(matches!(unknown, Answer::Unknown(_)), "{unknown:?}");

        // Asked while there is no stream, it is asked again on the next one, and answered once.
        worker.cable.cut();
        world.gone(&worker).await;
        let asked = kernel.spool.ask(Key::new(KIND_STAGING_OPERATION, &operation), 1, Bytes::new()).shared();
        assert_eq!(asked.clone().now_or_never(), None);
        let silent = Duration::from_millis(500);
        let is_silent = || async { (kernel.silence() > silent).then_some(()) };
        eventually("the agent knows for how long home is away", is_silent).await;
        worker.cable.mend();
        let answer = tokio::time::timeout(LIMIT, asked).await.expect("home answers");
        assert_eq!(answer, Answer::Ok(Bytes::new()));
        assert!(kernel.silence() < silent, "home was heard of again");

        until.notify_one();
        becomes(&world, Status::Running).await;
        let denied = ask(&kernel, KIND_STAGING_OPERATION, &operation).await;
        assert_eq!(denied, Answer::Denied("the operation is not wanted any more".into()));
    }
}
