use crate::{
    fleet::model::Liveness,
    network::{
        model::Phase,
        status::{Health, Link, Port, Router, RouterState, Summary, Told, divided, judge},
    },
};

fn told(state: RouterState, links: &[bool]) -> Told {
    let link = |(n, up): (usize, &bool)| Link {
        name: format!("link/{n}"),
        up: *up,
        message: if *up { String::new() } else { format!("refused {n}") },
        ..Link::default()
    };
    let router = Router { state, ..Router::default() };
    Told { router, links: links.iter().enumerate().map(link).collect(), ..Told::default() }
}

#[test]
fn a_site_is_judged_by_its_host_its_network_its_router_and_its_links_in_this_order() {
    let running = |links: &[bool]| told(RouterState::Running, links);
    let online = Some(Liveness::Online);
    for (told, liveness, phase, health, why) in [
        (Some(running(&[true])), None, None, Health::Waiting, "no agent has joined"),
        (None, Some(Liveness::Never), None, Health::Waiting, "was not seen yet"),
        (Some(running(&[true])), Some(Liveness::Offline), Some(Phase::Ended), Health::Away, "two minutes"),
        (Some(running(&[])), online, Some(Phase::Waiting), Health::Waiting, "waiting for start"),
        (Some(running(&[])), online, Some(Phase::Ended), Health::Down, "has ended"),
        (None, online, None, Health::Waiting, "has not said anything"),
        (Some(told(RouterState::Rendered, &[])), online, None, Health::Down, "rendered: no router on this host"),
        (Some(told(RouterState::Silent, &[true])), online, None, Health::Down, "does not answer"),
        (Some(running(&[false, false])), online, None, Health::Down, "refused 0"),
        (Some(running(&[true, false])), online, None, Health::Impaired, "1 of 2 links are down: refused 1"),
        (Some(running(&[true])), Some(Liveness::Stale), Some(Phase::Active), Health::Well, ""),
        (Some(running(&[])), online, None, Health::Well, ""),
    ] {
        let state = judge(told.as_ref(), liveness, phase);
        assert_eq!(state.health, health, "{told:?} {liveness:?} {phase:?}");
        assert!(state.why.contains(why) && why.is_empty() == state.why.is_empty(), "{:?}", state.why);
    }
    let problem = Told { problems: vec!["port 80 is taken".into()], ..running(&[true]) };
    assert_eq!(judge(Some(&problem), online, None).why, "port 80 is taken");
}

#[test]
fn routers_that_run_and_do_not_reach_one_another_are_named() {
    let reaching = |names: &[&str]| Told {
        reachable: names.iter().map(|n| (*n).to_owned()).collect(),
        ..told(RouterState::Running, &[])
    };
    let (a, b, c) = (reaching(&["b"]), reaching(&["a"]), told(RouterState::Failed, &[]));
    assert!(divided([("a", &a), ("b", &b), ("c", &c)]).is_empty(), "who does not run is not reached and not missed");
    let d = reaching(&["a", "b"]);
    assert_eq!(divided([("a", &a), ("b", &b), ("d", &d)]), [("a", "d"), ("b", "d")]);
}

#[test]
fn traffic_is_told_by_endpoint_and_service_link() {
    let port = |name: &str, opened, closed| Port { name: name.into(), up: true, opened, closed, ..Port::default() };
    let ports = vec![port("in/e1/l1", 5, 2), port("out/e2/l1", 9, 9), port("listen/p1", 1, 0)];
    let all = Told { ports, ..Told::default() }.traffic();
    let rows: Vec<_> = all.iter().map(|t| (&*t.endpoint, &*t.service_link, t.comes_in, t.open, t.opened)).collect();
    assert_eq!(rows, [("e1", "l1", true, 3, 5), ("e2", "l1", false, 0, 9)]);
    let summary: Summary = [Health::Well, Health::Away, Health::Well].into_iter().collect();
    assert_eq!((summary.well, summary.away, summary.down), (2, 1, 0));
}
