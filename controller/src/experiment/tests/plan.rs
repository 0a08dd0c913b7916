use crate::{
    experiment::{
        environment::Provision,
        model::{Outcome, Stage, Status},
        plan::{Action, End, Seen, Snapshot, Told, plan},
    },
    fleet::model::AgentId,
};

const NOW: i64 = 1_000_000;

fn seen(stage: Stage, told: Told) -> Seen {
    Seen {
        stage,
        is_cancelled: false,
        is_given_up: false,
        away_since: None,
        keep_alive: 60_000,
        provision: Provision::There,
        lease_ended: false,
        takers: None,
        told,
    }
}

fn ended(outcome: Outcome) -> Told {
    Told::Ended(end(outcome))
}

fn end(outcome: Outcome) -> End {
    End { outcome, message: "why".into(), started_at: Some(5), ended_at: 6 }
}

fn of(status: Status, deployments: Vec<Seen>) -> Vec<Action> {
    plan(&Snapshot { status, starts: false, deployments, here_since: 0, now: NOW })
}

#[test]
fn what_waits_is_sent_all_at_once() {
    let all = vec![seen(Stage::Waiting, Told::Nothing), seen(Stage::Waiting, Told::Nothing)];
    assert_eq!(of(Status::Preparing, all), [Action::Deploy(vec![0, 1])]);
}

#[test]
fn it_is_ready_when_nothing_is_being_prepared_and_something_is() {
    let deployed = end(Outcome::Succeeded);
    let some = vec![
        seen(Stage::Deploying, Told::Ended(deployed.clone())),
        seen(Stage::Deploying, ended(Outcome::NotDeployed)),
    ];
    let right = [
        Action::NoteDeployed(0, deployed),
        Action::End(1, end(Outcome::NotDeployed)),
        Action::Become(Status::Ready, String::new()),
    ];
    assert_eq!(of(Status::Preparing, some), right);
    let waits = vec![seen(Stage::Deploying, Told::Working(1)), seen(Stage::Deployed, Told::Nothing)];
    assert_eq!(of(Status::Preparing, waits), []);
}

#[test]
fn it_fails_when_not_one_node_could_be_prepared() {
    let none = vec![seen(Stage::Deploying, ended(Outcome::NotDeployed))];
    let actions = of(Status::Preparing, none);
    let Some(Action::Become(Status::Failed, why)) = actions.last() else { panic!("{actions:?}") };
    assert_eq!(why, "no node could be prepared: why");
}

#[test]
fn what_failed_to_be_prepared_is_not_started() {
    let some = vec![seen(Stage::Deployed, Told::Nothing), seen(Stage::Ended, Told::Nothing)];
    assert_eq!(of(Status::Running, some), [Action::Start(vec![0])]);
    let ready = vec![seen(Stage::Deployed, Told::Nothing)];
    assert_eq!(of(Status::Ready, ready), [], "nor anything before it is asked for");
}

#[test]
fn it_is_finished_when_the_last_executor_has_ended_and_what_it_left_is_here() {
    let arriving =
        vec![seen(Stage::Running, Told::Arriving(end(Outcome::Succeeded), NOW)), seen(Stage::Ended, Told::Nothing)];
    assert_eq!(of(Status::Running, arriving), []);
    let last = vec![seen(Stage::Running, ended(Outcome::Succeeded)), seen(Stage::Ended, Told::Nothing)];
    let right = [Action::End(0, end(Outcome::Succeeded)), Action::Become(Status::Finished, String::new())];
    assert_eq!(of(Status::Running, last), right);
}

#[test]
fn cancel_wins_over_a_preparation_and_over_a_start() {
    for stage in [Stage::Waiting, Stage::Deployed] {
        let actions = of(Status::Cancelling, vec![seen(stage, Told::Nothing)]);
        assert!(matches!(&actions[0], Action::End(0, end) if end.outcome == Outcome::Cancelled), "{actions:?}");
        assert_eq!(actions[1], Action::Become(Status::Cancelled, String::new()));
    }
    // The node was quicker than its withdrawal.
    let actions = of(Status::Cancelling, vec![seen(Stage::Deploying, ended(Outcome::Succeeded))]);
    assert!(matches!(&actions[0], Action::End(0, end) if end.outcome == Outcome::Cancelled), "{actions:?}");
    // What runs is over when its node says so.
    assert_eq!(of(Status::Cancelling, vec![seen(Stage::Running, Told::Working(1))]), []);
}

#[test]
fn one_executor_can_be_cancelled_alone() {
    let one = Seen { is_cancelled: true, ..seen(Stage::Deployed, Told::Nothing) };
    let actions = of(Status::Running, vec![one, seen(Stage::Deployed, Told::Nothing)]);
    assert!(matches!(&actions[0], Action::End(0, end) if end.outcome == Outcome::Cancelled), "{actions:?}");
    assert_eq!(actions[1..], [Action::Start(vec![1])]);
}

#[test]
fn a_node_is_given_up_after_its_own_time_and_heard_when_it_is_back() {
    let away = |since| Seen { away_since: Some(since), ..seen(Stage::Running, Told::Working(1)) };
    assert_eq!(of(Status::Running, vec![away(NOW - 59_999)]), []);
    let actions = of(Status::Running, vec![away(NOW - 60_000)]);
    assert!(matches!(&actions[0], Action::GiveUp(0, end) if end.outcome == Outcome::TimedOut), "{actions:?}");
    assert_eq!(actions[1], Action::Become(Status::Finished, String::new()));
    let back = Seen { is_given_up: true, ..seen(Stage::Ended, ended(Outcome::Cancelled)) };
    assert_eq!(of(Status::Finished, vec![back]), [Action::KeepLate(0, end(Outcome::Cancelled))]);
    assert_eq!(of(Status::Finished, vec![seen(Stage::Ended, ended(Outcome::Cancelled))]), []);
}

#[test]
fn while_home_was_away_no_node_was() {
    let of = |here_since| {
        let away = Seen { away_since: Some(0), ..seen(Stage::Running, Told::Working(1)) };
        plan(&Snapshot { status: Status::Running, starts: false, deployments: vec![away], here_since, now: NOW })
    };
    assert_eq!(of(NOW - 59_999), [], "it may not have come back yet");
    assert!(matches!(&of(NOW - 60_000)[0], Action::GiveUp(0, _)));
}

#[test]
fn a_result_that_came_before_its_node_went_away_counts() {
    let one = Seen { away_since: Some(0), ..seen(Stage::Running, ended(Outcome::Succeeded)) };
    assert_eq!(of(Status::Running, vec![one])[0], Action::End(0, end(Outcome::Succeeded)));
}

#[test]
fn a_plan_that_was_carried_out_leaves_nothing_to_do() {
    for (status, stage) in [
        (Status::Preparing, Stage::Deploying),
        (Status::Ready, Stage::Deployed),
        (Status::Running, Stage::Starting),
        (Status::Running, Stage::Running),
        (Status::Finished, Stage::Ended),
        (Status::Cancelled, Stage::Ended),
    ] {
        assert_eq!(of(status, vec![seen(stage, Told::Nothing)]), [], "{status:?} {stage:?}");
    }
}

#[test]
fn what_does_not_arrive_is_waited_for_so_long_as_a_node_may_be_silent_and_not_after_a_cancellation() {
    let arriving = |outcome, since| seen(Stage::Running, Told::Arriving(end(outcome), since));
    assert_eq!(of(Status::Running, vec![arriving(Outcome::Succeeded, NOW - 59_999)]), []);
    for (status, one, outcome) in [
        (Status::Running, arriving(Outcome::Succeeded, NOW - 60_000), Outcome::Failed),
        (Status::Cancelling, arriving(Outcome::Cancelled, NOW), Outcome::Cancelled),
    ] {
        let actions = of(status, vec![one]);
        let Action::End(0, ended) = &actions[0] else { panic!("{actions:?}") };
        assert_eq!((ended.outcome, ended.message.as_str()), (outcome, "why; what it left did not all arrive here"));
        assert!(matches!(&actions[1], Action::Become(after, _) if after.is_over()), "{actions:?}");
    }
    let late = Seen { is_given_up: true, ..seen(Stage::Ended, Told::Arriving(end(Outcome::Cancelled), NOW)) };
    assert!(matches!(&of(Status::Finished, vec![late])[0], Action::KeepLate(0, _)));
}

#[test]
fn work_that_may_move_does_so_when_its_first_agent_must_have_ended_it() {
    let agents = |names: &[&str]| Some(names.iter().map(|name| AgentId((*name).into())).collect());
    let away = |ago, takers| Seen { away_since: Some(NOW - ago), takers, ..seen(Stage::Running, Told::Working(1)) };
    let of = |all| of(Status::Running, all);
    assert_eq!(of(vec![away(149_999, agents(&["a"]))]), [], "its keep-alive and a margin");
    let moves = of(vec![away(150_000, agents(&["a", "b"])), away(150_000, agents(&["a", "b"]))]);
    let [Action::Move(0, a, end), Action::Move(1, b, _)] = moves.as_slice() else { panic!("{moves:?}") };
    assert_eq!((a.0.as_str(), b.0.as_str(), end.outcome), ("a", "b", Outcome::Moved), "and nothing is finished");
    let nowhere = of(vec![away(150_000, agents(&["a"])), away(150_000, agents(&["a"]))]);
    assert!(matches!(nowhere.as_slice(), [Action::Move(0, ..), Action::GiveUp(1, _)]), "{nowhere:?}");
    let stays = of(vec![away(60_000, None)]);
    assert!(matches!(stays[0], Action::GiveUp(0, _)), "{stays:?}");
    let cancelled = Seen { is_cancelled: true, ..away(60_000, agents(&["a"])) };
    assert!(matches!(of(vec![cancelled])[0], Action::GiveUp(0, _)));
}

#[test]
fn what_an_agent_ended_with_its_lease_moves_at_once() {
    let takers = Some(vec![AgentId("a".into())]);
    let over = || Seen { lease_ended: true, ..seen(Stage::Running, ended(Outcome::TimedOut)) };
    let moves = of(Status::Running, vec![Seen { takers, ..over() }]);
    assert!(matches!(moves.as_slice(), [Action::Move(0, _, end)] if end.outcome == Outcome::Moved), "{moves:?}");
    let ends = of(Status::Running, vec![Seen { takers: Some(vec![]), ..over() }]);
    assert_eq!(ends[0], Action::End(0, end(Outcome::TimedOut)), "where nobody takes it");
}
