use crate::{
    error::Error,
    network::model::{Deployment, Phase, Standing, Times, check_host, check_name, check_port, deployment, name_from},
};

const NOW: i64 = 1_000_000;

fn field(result: Result<(), Error>) -> Option<String> {
    match result {
        Err(Error::Invalid { field, .. }) => Some(field),
        _ => None,
    }
}

#[test]
fn names_are_words_of_a_dns_name() {
    for right in ["a", "paris-2", "x9"] {
        assert!(check_name("name", right).is_ok(), "{right}");
    }
    let long = "a".repeat(64);
    for wrong in ["", "Paris", "2nd", "-a", "a-", "a.b", "a/b", "ä", &long] {
        assert_eq!(field(check_name("name", wrong)).as_deref(), Some("name"), "{wrong}");
    }
}

#[test]
fn what_others_dial_is_a_name_or_an_address() {
    for right in ["edge.example.org", "127.0.0.2", "::1", "localhost", "A-1.example"] {
        assert!(check_host("host", right).is_ok(), "{right}");
    }
    for wrong in ["", "a b", "http://x", "a..b", "-a.org", "a:7443"] {
        assert_eq!(field(check_host("host", wrong)).as_deref(), Some("host"), "{wrong}");
    }
    assert!(check_port("port", 65_535).is_ok());
    assert!(check_port("port", 0).is_err() && check_port("port", 65_536).is_err());
}

#[test]
fn a_host_is_called_what_it_calls_itself_as_far_as_that_is_a_name() {
    for (host, name) in [("Web-01.example", "web-01-example"), ("9", "site"), ("", "site"), ("--x--", "x")] {
        assert_eq!(name_from(host), name);
        assert!(check_name("name", &name_from(host)).is_ok());
    }
}

#[test]
fn a_network_waits_lives_ends_and_goes() {
    let times = Times { starts_at: 100, ends_at: Some(200), delete_delay: 50 };
    let phases = [99, 100, 199, 200, 249, 250].map(|now| times.phase(now));
    assert_eq!(phases, [Phase::Waiting, Phase::Active, Phase::Active, Phase::Ended, Phase::Ended, Phase::Over]);
    let endless = Times { ends_at: None, ..times };
    assert_eq!(endless.phase(i64::MAX), Phase::Active);
}

#[test]
fn times_that_cannot_be_are_refused_by_name() {
    let times = Times { starts_at: NOW + 10, ends_at: Some(NOW + 20), delete_delay: 0 };
    assert!(times.check(None, NOW).is_ok());
    let refused = |t: Times, before: Option<&Times>| field(t.check(before, NOW));
    assert_eq!(refused(Times { ends_at: Some(NOW + 10), ..times }, None).as_deref(), Some("ends_at"));
    let past = Times { starts_at: NOW - 20, ends_at: Some(NOW - 10), ..times };
    assert_eq!(refused(past, None).as_deref(), Some("ends_at"));
    assert_eq!(refused(past, Some(&past)), None, "what was so before may stay");
    assert_eq!(refused(Times { delete_delay: -1, ..times }, None).as_deref(), Some("delete_delay"));
    let started = Times { starts_at: NOW - 5, ..times };
    assert_eq!(refused(times, Some(&started)).as_deref(), Some("starts_at"));
}

#[test]
fn deployment_says_what_a_site_waits_for() {
    let bare = Standing { runs: false, rendered: false, deployed_neighbour: false, has_way: false };
    let way = Standing { has_way: true, ..bare };
    let neighbour = Standing { deployed_neighbour: true, ..way };
    let applied = Standing { runs: true, ..bare };
    let states = [bare, way, neighbour, applied].map(|s| deployment(s).0);
    let wanted = [Deployment::NotReady, Deployment::ReadyBootstrap, Deployment::ReadyAutomatic, Deployment::Deployed];
    assert_eq!(states, wanted);
    assert!([bare, way, neighbour].iter().all(|s| !deployment(*s).1.is_empty()));
    assert_eq!(deployment(applied).1, "");
}
