//! The console in a real browser: a staging's life by mouse, and once more without scripts. Pictures of the pages, at
//! desktop and phone width, in light and dark, stay in `target/screenshots`.

use std::path::PathBuf;

use muster_controller::fleet::model::Class;
use muster_integration_tests::{World, browser::Browser, host::Play, world::tester};

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
        browser.follow("form#change-invitation button[value=change]");
        browser.wait_for(".mistake", "1 to 100000");
        browser.fill("#limit", "5");
        browser.shot("network-invitation");
        browser.follow("form#change-invitation button[value=change]");
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
