//! The console in a real browser: a staging's life by mouse, and once more without scripts. Pictures of the pages, at
//! desktop and phone width, in light and dark, stay in `target/screenshots`.

mod experiments;

use std::path::PathBuf;

use muster_controller::fleet::model::Class;
use muster_integration_tests::{
    World,
    browser::Browser,
    host::Play,
    network::{NETWORK, Net},
    processes::{Processes, free_port, wait},
    world::tester,
};
use serde_json::json;

const PASSWORD: &str = "a password for this house";
const HELLO: &str = "/staging/projects/shop/stagings/hello";
const STATUS: &str = "#staging [role=status]";

fn shots() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it lies");
    own.ancestors().nth(3).expect("tests lie in target/<profile>/deps").join("screenshots")
}

/// A house with a host and a project.
async fn shop() -> (World, muster_integration_tests::world::Agent) {
    let world = World::new().await;
    let agent = world.agent("host-1", Class::StagingHost, &[("pool", "a")]).await;
    world.home.staging.save_project(&tester(), "shop", &crate::staging::project(), None).await.expect("a project");
    (world, agent)
}

/// Logs in with the first password and chooses another, as the console asks for.
fn log_in(browser: &mut Browser, api: &str, first: &str) {
    browser.go(&format!("{api}/"));
    browser.fill("#name", "admin");
    browser.fill("#password", first);
    browser.follow("form#login button");
    for width in [390, 1280] {
        browser.look(width, false);
        assert!(browser.fits(), "the first page of a new user is wider than {width}");
    }
    browser.fill("#current", first);
    browser.fill("#password", PASSWORD);
    browser.fill("#again", PASSWORD);
    browser.follow("form#password-form button");
}

/// Makes a staging with an open and a secret override.
fn create(browser: &mut Browser, api: &str) {
    browser.go(&format!("{api}/staging/new"));
    browser.fill("#name", "hello");
    browser.fill("#tag", "v1");
    browser.fill("#key-0", "COLOUR");
    browser.fill("#value-0", "blue");
    browser.fill("#key-1", "PASSWORD");
    browser.fill("#value-1", "hunter2-is-secret");
    browser.click("[name='overrides[1].secret']");
    browser.follow("form#create-staging button[name=create]");
}

/// Looks at pages as wide as a desktop and as a phone, in light and dark: none may be wider than its window.
fn look_at_all(browser: &mut Browser, api: &str, pages: &[(&str, &str)]) {
    for (name, path) in pages {
        browser.go(&format!("{api}{path}"));
        for (width, size) in [(1280, "desktop"), (390, "phone")] {
            for (dark, scheme) in [(false, "light"), (true, "dark")] {
                browser.look(width, dark);
                assert!(browser.fits(), "{name} is wider than a {size}");
                browser.shot(&format!("{name}-{size}-{scheme}"));
            }
        }
        browser.look(1280, false);
    }
}

fn act(browser: &mut Browser, verb: &str) {
    browser.follow(&format!("form#act button[value={verb}]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_lives_its_life_by_mouse() {
    let (world, _agent) = shop().await;
    let (api, first) = (world.home.api.clone(), world.home.first_admin.clone().expect("a first admin"));
    let walk = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start(&shots());
        log_in(&mut browser, &api, &first);
        create(&mut browser, &api);
        // What follows comes by itself: nobody loads the page again.
        browser.wait_for(STATUS, "Running");
        let page = browser.text("main");
        assert!(page.contains("COLOUR") && page.contains("blue") && !page.contains("hunter2"), "{page}");
        act(&mut browser, "update");
        browser.fill("#tag", "v2");
        browser.follow("form#update-staging button[name=update]");
        browser.wait_for("#tag", "v2");
        browser.wait_for(STATUS, "Running");
        look_at_all(
            &mut browser,
            &api,
            &[
                ("staging", HELLO),
                ("stagings", "/staging"),
                ("home", "/"),
                ("fleet", "/fleet"),
                ("events", "/events"),
                ("create", "/staging/new"),
                ("projects", "/staging/projects"),
                ("invitations", "/invitations"),
                ("users", "/users"),
                ("account", "/account"),
                ("certificates", "/certificates"),
            ],
        );
        browser.go(&format!("{api}{HELLO}"));
        act(&mut browser, "archive");
        browser.wait_for(STATUS, "Archived");
        act(&mut browser, "restore");
        browser.wait_for(STATUS, "Running");
        act(&mut browser, "archive");
        browser.wait_for(STATUS, "Archived");
        act(&mut browser, "cleanup");
        browser.follow("form#confirm button[name=confirm]");
        browser.go(&format!("{api}/staging"));
        browser.reload_for("main", "No stagings");
    });
    walk.await.expect("the walk ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_lives_its_life_without_scripts() {
    let (world, _agent) = shop().await;
    let (api, first) = (world.home.api.clone(), world.home.first_admin.clone().expect("a first admin"));
    let walk = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start(&shots());
        browser.scripts(false);
        log_in(&mut browser, &api, &first);
        create(&mut browser, &api);
        browser.reload_for(STATUS, "Running");
        act(&mut browser, "archive");
        browser.reload_for(STATUS, "Archived");
        act(&mut browser, "cleanup");
        browser.follow("form#confirm button[name=confirm]");
        browser.go(&format!("{api}/staging"));
        browser.reload_for("main", "No stagings");
    });
    walk.await.expect("the walk ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_lose_something_is_asked_for_by_mouse() {
    let (world, first_host) = shop().await;
    let second_host = world.agent("host-2", Class::StagingHost, &[("pool", "a")]).await;
    let hosts = [first_host.host.clone(), second_host.host.clone()];
    for host in &hosts {
        let (held, _) = crate::staging::holding("create");
        // What is cut off in the middle does not answer.
        host.play(move |program| match program.path.ends_with("check") {
            true => Play::exit(1, "nobody answers"),
            false => held(program),
        });
    }
    let (api, first) = (world.home.api.clone(), world.home.first_admin.clone().expect("a first admin"));
    let walk = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start(&shots());
        log_in(&mut browser, &api, &first);
        browser.go(&format!("{api}/staging/projects/shop"));
        browser.fill("[name='spec.archived_retention_days']", "thirty");
        browser.follow("form#change-project button");
        browser.wait_for(".mistake", "number");
        browser.shot("project-refused");
        browser.fill("[name='spec.archived_retention_days']", "30");
        browser.follow("form#change-project button");
        browser.wait_for(".flash", "Saved");

        create(&mut browser, &api);
        browser.wait_for("#pending", "create is under way");
        browser.shot("staging-pending");
        act(&mut browser, "cancel");
        browser.wait_for("main", "stops it in the middle");
        browser.shot("cancel");
        browser.follow("form#confirm button[name=confirm]");
        browser.wait_for(STATUS, "Failure");

        let before = browser.text("#host");
        act(&mut browser, "move");
        browser.wait_for("main", "Stays behind");
        browser.shot("move");
        browser.follow("form#move-staging button[name=move]");
        let after = browser.text("#host");
        assert!(before != after && after.starts_with("host-"), "{before} → {after}");

        for host in &hosts {
            host.play(|_| Play::default());
        }
        act(&mut browser, "update");
        browser.follow("form#update-staging button[name=update]");
        browser.wait_for(STATUS, "Running");
        act(&mut browser, "archive");
        browser.wait_for(STATUS, "Archived");
        browser.wait_for("#staging", "Cleaned up by itself");
        browser.follow("#forget");
        browser.shot("forget");
        browser.follow("form#confirm button[name=confirm]");
        browser.wait_for(".flash", "shop/hello is forgotten");
        browser.wait_for("main", "No stagings");
    });
    walk.await.expect("the walk ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backbone_and_a_network_on_it_are_made_by_mouse() {
    let world = World::new().await;
    let (api, first) = (world.home.api.clone(), world.home.first_admin.clone().expect("a first admin"));
    let walk = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start(&shots());
        log_in(&mut browser, &api, &first);
        browser.go(&format!("{api}/networks"));
        browser.wait_for("main", "No backbones yet");
        browser.shot("networks-empty");
        browser.follow(".empty a[href='/networks/new-backbone']");
        browser.fill("#name", "europe");
        browser.follow("form#create-backbone button");
        for site in ["paris", "berlin", "rome"] {
            browser.fill("#name", site);
            browser.follow("form#create-site button");
            browser.wait_for("#topology", site);
        }
        browser.go(&format!("{api}/networks/backbones/europe/sites/paris"));
        for (name, kind, port) in [("peers", "peer", "5671"), ("members", "member", "6000")] {
            browser.fill("#name", name);
            browser.eval(&format!("document.querySelector('#kind').value = '{kind}'"));
            browser.fill("#host", "paris.example.org");
            browser.fill("#port", port);
            browser.follow("form#create-access-point button");
            browser.wait_for("#site", name);
        }
        browser.go(&format!("{api}/networks/backbones/europe"));
        browser.eval("document.querySelector('#from').value = 'berlin'");
        browser.eval("document.querySelector('#to').value = 'rome'");
        browser.follow("form#create-link button");
        browser.wait_for(".mistake", "access point for peers");
        browser.eval("document.querySelector('#to').value = 'paris'");
        browser.follow("form#create-link button");
        browser.wait_for("#topology", "not told yet");
        assert!(browser.has("svg[data-pan] line"), "the link is in the picture");

        browser.go(&format!("{api}/networks/new"));
        browser.fill("#name", "shop");
        browser.fill("#ends_in_days", "30");
        browser.follow("form#create-network button");
        browser.fill("#name", "front");
        browser.fill("#description", "tills");
        browser.follow("form#save-class button");
        browser.go(&format!("{api}/networks/net/shop/invite"));
        browser.fill("#name", "tills of spring");
        browser.follow("form#create-invitation button");
        let token = browser.eval("document.querySelector('#secret')?.value ?? ''");
        assert!(token.as_str().is_some_and(|token| token.len() > 40), "the token is shown: {token}");
        look_at_all(
            &mut browser,
            &api,
            &[
                ("networks", "/networks"),
                ("backbone", "/networks/backbones/europe"),
                ("site", "/networks/backbones/europe/sites/paris"),
                ("network", "/networks/net/shop"),
                ("network-invite", "/networks/net/shop/invite"),
                ("network-endpoint", "/networks/net/shop/endpoint"),
                ("library", "/networks/library"),
                ("network-tables", "/networks/tables/access-points"),
                ("backbone-remove", "/networks/backbones/europe/remove"),
            ],
        );

        browser.go(&format!("{api}/networks/net/shop"));
        browser.follow("a[href*='/invitations/']");
        browser.fill("#limit", "0");
        browser.follow("form#change-invitation button");
        browser.wait_for(".mistake", "1 to 100000");
        browser.fill("#limit", "5");
        browser.shot("network-invitation");
        browser.follow("form#change-invitation button");
        browser.wait_for("main", "0 of 5");

        browser.go(&format!("{api}/networks/backbones/europe/sites/paris"));
        browser.follow("a[href$='/access-points/peers/remove']");
        browser.wait_for(".losses", "link berlin → paris");
        browser.follow("form#confirm a");
        browser.go(&format!("{api}/networks/backbones/europe/remove"));
        browser.wait_for(".losses", "network shop with all that is under it");
        browser.follow("form#confirm button[name=confirm]");
        browser.wait_for("main", "No backbones yet");
    });
    walk.await.expect("the walk ends well");
}

/// A site with an ingress allocated to its class.
fn till() -> Net {
    let mut net = Net::new(&crate::network::router().0);
    net.done("PUT", "/api/v1/network/services/web", &json!({"protocol": "http", "default_port": 80}));
    net.done("PUT", &format!("{NETWORK}/service-links/shelf"), &json!({"service": "web"}));
    let attachments = json!([{"service_link": "shelf", "port": free_port()}]);
    let door = json!({"kind": "ingress", "class": "front", "host": "127.0.0.1", "attachments": attachments});
    net.done("PUT", &format!("{NETWORK}/endpoints/door"), &door);
    let token = net.invite(1);
    net.join("till", &token);
    net.settled();
    net
}

#[test]
fn a_site_is_seen_and_decided_on_at_its_own_host() {
    let mut net = till();
    let opened = net.site("till").console();
    let (console, _) = opened.split_once("/enter").expect("it has a token");
    let mut browser = Browser::start(&shots());
    browser.go(console);
    browser.wait_for("main", "Not let in");
    browser.go(&opened.replace("token=", "token=0"));
    browser.wait_for("main", "lets nobody in");
    let closed = [("host-closed", "/")];
    look_at_all(&mut browser, console, &closed);

    browser.go(&opened);
    browser.reload_for("main", "east-");
    browser.go(&format!("{console}/certificates"));
    browser.wait_for("main", "uplink");
    browser.go(&format!("{console}/endpoints"));
    browser.wait_for(".card", "door");
    for (word, choice, accepted) in [("decline", "declined", "0"), ("accept", "accepted", "1")] {
        browser.follow(&format!("button[value={word}]"));
        browser.wait_for(".flash.good", &format!("door is {choice} at home"));
        wait(&format!("home knows that it is {choice}"), || {
            net.table("decisions").iter().any(|row| row["accepted"] == accepted).then_some(())
        });
        // What is asked for next must be about what is there then.
        browser.go(&format!("{console}/endpoints"));
        browser.reload_for(".card .chip", choice);
    }
    let pages = ["site", "endpoints", "certificates", "counters", "events"];
    let named = pages.map(|page| (format!("host-{page}"), format!("/{page}")));
    let pages: Vec<_> = named.iter().map(|(name, path)| (name.as_str(), path.as_str())).collect();
    look_at_all(&mut browser, console, &pages);

    net.house.kill_controller();
    browser.go(&format!("{console}/endpoints"));
    browser.reload_for("header", "home is away");
    browser.follow("button[value=decline]");
    browser.wait_for(".flash.bad", "Home cannot be reached");
    look_at_all(&mut browser, console, &[("host-away", "/site")]);
    browser.go(&format!("{console}/site"));
    browser.wait_for("main", "east-");
}

/// Names in a picture that cover one another, and the height of the smallest, as they are seen.
const NAMES: &str = "(() => {
    const all = [...document.querySelectorAll('svg[data-pan] text')].map((name) => name.getBoundingClientRect());
    const covers = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    const covered = all.filter((a, n) => all.slice(n + 1).some((b) => covers(a, b)));
    return [all.length, covered.length, Math.min(...all.map((a) => a.height))];
})()";

const PART: &str = "document.querySelector('svg[data-pan]').getAttribute('viewBox').split(' ').map(Number)";

#[test]
fn a_backbone_of_a_hundred_sites_is_read_and_moved_about() {
    let mut house = Processes::new();
    house.start_controller(None);
    let backbones = "/api/v1/network/backbones";
    house.ask("POST", backbones, Some(&json!({"name": "world"})));
    let name = |n: usize| format!("{}-{n}", ["oslo", "copenhagen", "rome", "buenos-aires", "singapore"][n % 5]);
    for n in 0..100 {
        house.ask("POST", &format!("{backbones}/world/sites"), Some(&json!({"name": name(n)})));
        let point = json!({"name": "peers", "kind": "peer", "host": "router.example.org", "port": 5671});
        house.ask("POST", &format!("{backbones}/world/sites/{}/access-points", name(n)), Some(&point));
        if n > 0 {
            let link = json!({"from": name(n), "to": name((n - 1) / 3)});
            let (status, said) =
                house.call("POST", &format!("{backbones}/world/links"), Some(&link)).expect("home answers");
            assert_eq!(status, 201, "{said}");
        }
    }
    let mut browser = Browser::start(&shots());
    let first = std::fs::read_to_string(house.path("controller/first-admin")).expect("a first admin");
    log_in(&mut browser, &house.url, first.trim());
    look_at_all(&mut browser, &house.url, &[("backbone-of-100", "/networks/backbones/world")]);
    for width in [390, 1280] {
        browser.look(width, false);
        let names = browser.eval(NAMES);
        assert!(names[2].as_f64() > Some(11.0), "{width}: names are too small to read: {names}");
    }
    let names = browser.eval(NAMES);
    assert_eq!((&names[0], &names[1]), (&json!(100), &json!(0)), "{names}");

    for _ in 0..3 {
        browser.click("[data-zoom='0.67']");
    }
    let near = browser.eval(PART);
    assert!(near[2].as_f64() < Some(400.0), "{near}");
    browser.shot("backbone-of-100-near");
    browser.drag("svg[data-pan]", (-150.0, -80.0));
    let moved = browser.eval(PART);
    assert!(moved[0].as_f64() > near[0].as_f64() && moved[1].as_f64() > near[1].as_f64(), "{near} {moved}");
    assert_eq!(browser.text("h1"), "world", "a drag is no click");
    for _ in 0..3 {
        browser.click("[data-zoom='1.5']");
    }
    assert_eq!(browser.eval(PART)[2], json!(1000));
    browser.follow("svg[data-pan] a circle");
    browser.wait_for("h1", "buenos-aires-");
}
