use std::sync::Arc;

use super::{
    Access,
    model::{self, ATTEMPT_WINDOW, LOGIN_TOKEN_LIFE, MAX_ATTEMPTS, SESSION_IDLE, SESSION_LIFE, UserChange},
    service::TokenOrder,
};
use crate::{
    error::Error,
    platform::{
        db::Db,
        events::{self, Actor, Filter, Source},
    },
    testing::{engines, fresh},
    web::{
        Authenticate, Caller, Role,
        gate::{Client, Shown},
    },
};

const PASSWORD: &str = "correct horse battery";

fn client(address: &str) -> Client {
    Client { address: address.into(), user_agent: "test".into() }
}

async fn house(url: &str) -> (Db, Access) {
    let db = fresh(url).await;
    (db.clone(), Access::cheap(db))
}

async fn with_user(url: &str, name: &str, role: Role) -> (Db, Access) {
    let (db, access) = house(url).await;
    access.create_user(&Actor::controller(), name, role, Some(PASSWORD)).await.expect("made");
    (db, access)
}

async fn session(access: &Access, name: &str) -> String {
    let entrance = access.enter(name, PASSWORD, &client("192.0.2.1")).await.expect("enters");
    access.open_session(&entrance, &client("192.0.2.1"), None).await.expect("a session")
}

async fn by_session(access: &Access, secret: &str) -> Option<Caller> {
    access.who(Shown::Session(secret), Source::Console).await.expect("an answer")
}

async fn by_token(access: &Access, token: &str) -> Option<Caller> {
    access.who(Shown::Token(token), Source::Api).await.expect("an answer")
}

#[tokio::test]
async fn the_first_start_makes_an_admin_and_the_second_does_not() {
    for url in engines() {
        let (_, access) = house(&url).await;
        let password = access.found().await.expect("founds").expect("a password");
        assert_eq!(access.found().await.expect("finds"), None);
        let entrance = access.enter("admin", &password, &client("")).await.expect("enters");
        assert_eq!((entrance.role, entrance.must_change), (Role::Admin, true));
    }
}

#[tokio::test]
async fn a_session_ends_when_idle_and_when_old() {
    for url in engines() {
        let (db, access) = with_user(&url, "ada", Role::Viewer).await;
        let idle = session(&access, "ada").await;
        assert_eq!(by_session(&access, &idle).await.expect("is known").name, "ada");
        db.clock().shift(SESSION_IDLE + 1000);
        assert!(by_session(&access, &idle).await.is_none(), "an idle session is over");
        let used = session(&access, "ada").await;
        for _ in 0..SESSION_LIFE / SESSION_IDLE * 2 - 1 {
            db.clock().shift(SESSION_IDLE / 2);
            assert!(by_session(&access, &used).await.is_some(), "a session in use lives on");
        }
        db.clock().shift(SESSION_IDLE / 2);
        assert!(by_session(&access, &used).await.is_none(), "no session lives for ever");
    }
}

#[tokio::test]
async fn a_log_in_ends_the_session_it_comes_with() {
    let (_, access) = with_user("sqlite:", "ada", Role::Viewer).await;
    let first = session(&access, "ada").await;
    let entrance = access.enter("ada", PASSWORD, &client("")).await.expect("enters");
    let second = access.open_session(&entrance, &client(""), Some(&first)).await.expect("a session");
    assert!(by_session(&access, &first).await.is_none());
    assert!(by_session(&access, &second).await.is_some());
}

#[tokio::test]
async fn one_session_may_be_ended_or_all_but_this() {
    for url in engines() {
        let (_, access) = with_user(&url, "ada", Role::Viewer).await;
        access.create_user(&Actor::controller(), "eve", Role::Operator, Some(PASSWORD)).await.expect("made");
        let (one, two, three) =
            (session(&access, "ada").await, session(&access, "ada").await, session(&access, "ada").await);
        let ada = by_session(&access, &one).await.expect("is known");
        let eve = by_session(&access, &session(&access, "eve").await).await.expect("is known");
        let listed = access.sessions(&ada.user_id).await.expect("listed");
        let second = by_session(&access, &two).await.expect("is known");
        let crate::web::gate::Via::Session { id, .. } = &second.via else { panic!("a session") };
        assert_eq!(listed.len(), 3);
        let refused = access.end_session(&eve, id).await.expect_err("refused");
        assert!(matches!(refused, Error::Forbidden(_)), "{refused}");
        access.end_session(&ada, id).await.expect("ended");
        assert!(by_session(&access, &two).await.is_none());
        assert_eq!(access.end_other_sessions(&ada).await.expect("ended"), 1);
        assert!(by_session(&access, &three).await.is_none());
        assert!(by_session(&access, &one).await.is_some());
    }
}

#[tokio::test]
async fn a_disabled_user_loses_sessions_and_tokens_at_once() {
    for url in engines() {
        let (_, access) = with_user(&url, "ada", Role::Operator).await;
        let secret = session(&access, "ada").await;
        let ada = by_session(&access, &secret).await.expect("is known");
        let order = TokenOrder { name: "ci".into(), role: Role::Viewer, life: None };
        let (_, token) = access.create_token(&ada, &order).await.expect("made");
        assert!(access.still(&ada).await.expect("an answer"));
        access
            .change_user(
                &Actor::controller(),
                "ada",
                &UserChange { disabled: Some(true), ..UserChange::default() },
                None,
            )
            .await
            .expect("disabled");
        assert!(by_session(&access, &secret).await.is_none());
        assert!(by_token(&access, &token).await.is_none());
        assert!(!access.still(&ada).await.expect("an answer"));
        assert!(access.enter("ada", PASSWORD, &client("")).await.is_err());
    }
}

#[tokio::test]
async fn a_token_may_no_more_than_its_owner() {
    for url in engines() {
        let (db, access) = with_user(&url, "ada", Role::Operator).await;
        let ada = by_session(&access, &session(&access, "ada").await).await.expect("is known");
        let order = |name: &str, role| TokenOrder { name: name.into(), role, life: Some(60_000) };
        let refused = access.create_token(&ada, &order("a", Role::Admin)).await.expect_err("refused");
        assert!(matches!(&refused, Error::Invalid { field, .. } if field == "role"), "{refused}");
        let (row, token) = access.create_token(&ada, &order("a", Role::Operator)).await.expect("made");
        assert!(token.starts_with(&format!("muster_{}_", row.id)));
        let refused = access.create_token(&ada, &order("a", Role::Viewer)).await.expect_err("refused");
        assert!(matches!(refused, Error::Conflict(_)), "{refused}");
        access
            .change_user(
                &Actor::controller(),
                "ada",
                &UserChange { role: Some(Role::Viewer), ..UserChange::default() },
                None,
            )
            .await
            .expect("demoted");
        assert_eq!(by_token(&access, &token).await.expect("is known").role, Role::Viewer);
        assert!(by_token(&access, &token[..token.len() - 1]).await.is_none());
        db.clock().shift(60_000);
        assert!(by_token(&access, &token).await.is_none(), "it has expired");
    }
}

#[tokio::test]
async fn the_last_admin_stays() {
    for url in engines() {
        let (_, access) = with_user(&url, "root", Role::Admin).await;
        let by = Actor::controller();
        for (role, disabled) in [(Some(Role::Operator), None), (None, Some(true))] {
            let refused = access
                .change_user(&by, "root", &UserChange { role, disabled, tags: None }, None)
                .await
                .expect_err("refused");
            assert!(matches!(&refused, Error::Conflict(text) if text.contains("last admin")), "{refused}");
        }
        assert!(access.remove_user(&by, "root").await.is_err());
        access.create_user(&by, "other", Role::Admin, Some(PASSWORD)).await.expect("made");
        let (a, b) = tokio::join!(access.remove_user(&by, "root"), access.remove_user(&by, "other"));
        assert!(a.is_ok() != b.is_ok(), "of two removals at once one is refused: {a:?} {b:?}");
    }
}

#[tokio::test]
async fn ten_failures_close_the_door_for_five_minutes() {
    for url in engines() {
        let (db, access) = with_user(&url, "ada", Role::Viewer).await;
        for n in 0..MAX_ATTEMPTS {
            let refused = access.enter("ada", "wrong", &client(&format!("192.0.2.{n}"))).await.expect_err("refused");
            assert!(matches!(refused, Error::Unauthenticated(_)), "{refused}");
        }
        let refused = access.enter("ada", PASSWORD, &client("198.51.100.1")).await.expect_err("refused");
        let Error::Busy { retry_after_secs, .. } = refused else { panic!("not {refused}") };
        assert!((1..=300).contains(&retry_after_secs), "{retry_after_secs}");
        for n in 0..MAX_ATTEMPTS {
            let name = format!("nobody{n}");
            assert!(access.enter(&name, "wrong", &client("203.0.113.9")).await.is_err());
        }
        let refused = access.enter("bob", PASSWORD, &client("203.0.113.9")).await.expect_err("refused");
        assert!(matches!(refused, Error::Busy { .. }), "the address is closed too: {refused}");
        db.clock().shift(ATTEMPT_WINDOW + 1000);
        access.enter("ada", PASSWORD, &client("203.0.113.9")).await.expect("the door is open again");
    }
}

#[tokio::test]
async fn a_right_password_does_not_count_as_a_failure() {
    let (_, access) = with_user("sqlite:", "ada", Role::Viewer).await;
    for _ in 0..2 * MAX_ATTEMPTS {
        access.enter("ada", PASSWORD, &client("192.0.2.1")).await.expect("enters");
    }
}

#[tokio::test]
async fn a_changed_password_ends_the_other_sessions() {
    let (_, access) = with_user("sqlite:", "ada", Role::Viewer).await;
    let (own, other) = (session(&access, "ada").await, session(&access, "ada").await);
    let ada = by_session(&access, &own).await.expect("is known");
    let change = async |current: &str, new: &str| access.change_password(&ada, &client(""), current, new).await;
    let field = |result: Result<(), Error>| match result {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("not {other:?}"),
    };
    assert_eq!(field(change("not it", "another good one").await), "current");
    assert_eq!(field(change(PASSWORD, "short").await), "password");
    assert_eq!(field(change(PASSWORD, PASSWORD).await), "password");
    change(PASSWORD, "another good one").await.expect("changed");
    assert!(by_session(&access, &own).await.is_some());
    assert!(by_session(&access, &other).await.is_none());
}

#[tokio::test]
async fn the_history_tells_who_and_never_a_secret() {
    for url in engines() {
        let (db, access) = with_user(&url, "ada", Role::Admin).await;
        let ada = by_session(&access, &session(&access, "ada").await).await.expect("is known");
        let order = TokenOrder { name: "ci".into(), role: Role::Viewer, life: Some(LOGIN_TOKEN_LIFE) };
        let (row, token) = access.create_token(&ada, &order).await.expect("made");
        access.revoke_token(&ada, &row.id).await.expect("revoked");
        let made_up = access.reset_password(&ada.actor, "ada", None).await.expect("reset");
        let found = events::list(&mut db.read().await.expect("a connection"), &Filter::default(), 100).await;
        let found = found.expect("listed");
        let kinds: Vec<_> = found.iter().rev().map(|e| e.kind.as_str()).collect();
        let wanted = ["user.created", "session.opened", "token.created", "token.revoked", "user.password_reset"];
        assert_eq!(kinds, wanted);
        assert_eq!((found[1].actor.as_str(), found[1].source), ("user/ada", Source::Console));
        let text = serde_json::to_string(&found).expect("JSON");
        for secret in [PASSWORD, &made_up, token.rsplit('_').next().expect("a secret")] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn what_is_over_is_forgotten() {
    for url in engines() {
        let (db, access) = with_user(&url, "ada", Role::Viewer).await;
        let ada = by_session(&access, &session(&access, "ada").await).await.expect("is known");
        access.forget().await.expect("forgets");
        assert_eq!(access.sessions(&ada.user_id).await.expect("listed").len(), 1);
        db.clock().shift(SESSION_IDLE + 1000);
        access.forget().await.expect("forgets");
        assert!(access.sessions(&ada.user_id).await.expect("listed").is_empty());
    }
}

#[tokio::test]
async fn of_two_changes_of_one_version_the_second_is_stale() {
    let (_, access) = with_user("sqlite:", "ada", Role::Viewer).await;
    let by = Actor::controller();
    let read = access.user("ada").await.expect("there").version;
    access
        .change_user(&by, "ada", &UserChange { role: Some(Role::Operator), ..UserChange::default() }, Some(read))
        .await
        .expect("changed");
    let refused = access
        .change_user(&by, "ada", &UserChange { role: Some(Role::Admin), ..UserChange::default() }, Some(read))
        .await
        .expect_err("refused");
    assert!(matches!(refused, Error::Stale), "{refused}");
}

#[test]
fn names_and_passwords_that_are_none_are_refused() {
    for name in ["", "Ada", "a b", "ä", "a/b", &"x".repeat(33)] {
        assert!(model::check_name(name).is_err(), "{name}");
    }
    model::check_name("ada-1.b_c").expect("is a name");
    assert!(model::check_password("password", "elevenchars", "ada").is_err());
    assert!(model::check_password("password", "adalovelace12", "adalovelace").is_err());
    model::check_password("password", "twelve chars", "ada").expect("is a password");
}

#[test]
fn owners_may_and_so_may_higher_roles() {
    assert!(model::may(("a", Role::Viewer), Role::Admin, Some("a")));
    assert!(!model::may(("a", Role::Operator), Role::Admin, Some("b")));
    assert!(!model::may(("a", Role::Operator), Role::Admin, None));
    assert!(model::may(("a", Role::Admin), Role::Operator, None));
}

#[test]
fn the_wait_ends_with_the_tenth_newest_failure() {
    let failures: Vec<_> = (0..12).map(|n| n * 1000).collect();
    assert_eq!(model::wait(&failures[..9], 0), None);
    assert_eq!(model::wait(&failures, 20_000), Some(2000 + ATTEMPT_WINDOW - 20_000));
    assert_eq!(model::wait(&failures, 2000 + ATTEMPT_WINDOW), None);
}

#[tokio::test]
async fn a_name_nobody_has_is_checked_against_a_hash_too() {
    let hasher = super::password::Hasher::cheap();
    assert!(!hasher.is_right("anything", None).await.expect("checked"));
    let hash = hasher.hash(PASSWORD).await.expect("hashed");
    assert!(hash.starts_with("$argon2id$"));
    assert!(hasher.is_right(PASSWORD, Some(&hash)).await.expect("checked"));
    let damaged = Arc::<str>::from("not a hash");
    assert!(hasher.is_right(PASSWORD, Some(&damaged)).await.is_err());
}
