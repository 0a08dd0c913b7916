use crate::{
    error::Error,
    fleet::model::{Labels, Phase},
    staging::model::{
        Candidate,
        Evidence::{self, ArchiveCheck, Check, Ended, LimitPassed, Requested},
        Level, Outcome, Override, OverrideKey, ProjectSpec, Settings, SettingsChange,
        Status::{self, Archived, CreatePending, DeletePending, Failure, Running, UpdatePending},
        Verb, check_name, check_project, next, place, why_not,
    },
};

const OUTCOMES: [Outcome; 8] = [
    Outcome::Succeeded,
    Outcome::Failed,
    Outcome::Refused,
    Outcome::TimedOut,
    Outcome::Cancelled,
    Outcome::Interrupted,
    Outcome::Late,
    Outcome::Lost,
];

#[rustfmt::skip]
#[test]
fn the_transition_table_is_this_and_nothing_else() {
    let stay = None;
    let [runs, fail, crea, upda, dele, arch] =
        [Running, Failure, CreatePending, UpdatePending, DeletePending, Archived].map(Some);
    // A column for each status, in the order of `Status::ALL`.
    let table: [(Evidence, [Option<Status>; 6]); 9] = [
        //                              Running Failure Create  Update  Delete  Archived
        (Requested(Verb::Create),      [stay,   stay,   stay,   stay,   stay,   stay]),
        (Requested(Verb::Update),      [upda,   upda,   stay,   stay,   stay,   stay]),
        (Requested(Verb::Delete),      [dele,   dele,   stay,   stay,   stay,   stay]),
        (Requested(Verb::Restore),     [stay,   stay,   stay,   stay,   stay,   crea]),
        (Requested(Verb::Cleanup),     [stay,   stay,   stay,   stay,   stay,   arch]),
        (Check(true),                  [stay,   runs,   runs,   runs,   stay,   stay]),
        (Check(false),                 [fail,   stay,   stay,   stay,   stay,   stay]),
        (ArchiveCheck(true),           [stay,   stay,   stay,   stay,   arch,   stay]),
        (LimitPassed,                  [stay,   stay,   fail,   fail,   fail,   stay]),
    ];
    for (evidence, row) in table {
        for (status, right) in Status::ALL.into_iter().zip(row) {
            assert_eq!(next(status, evidence), right, "{status:?} on {evidence:?}");
        }
    }
    for status in Status::ALL {
        assert_eq!(next(status, ArchiveCheck(false)), None, "{status:?} waits on");
        for verb in Verb::ALL {
            for outcome in OUTCOMES {
                let right = if outcome != Outcome::Succeeded && status.is_pending() { fail } else { stay };
                assert_eq!(next(status, Ended(verb, outcome)), right, "{status:?}, {verb:?} ended {outcome:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_asked_for_says_what_would_be_right() {
    let says = |status, verb, right: &str| {
        let why = why_not(status, verb).expect("it cannot be asked for");
        assert!(why.starts_with(&format!("the staging is {}: ", status.word())) && why.contains(right), "{why}");
    };
    says(Running, Verb::Create, "update it");
    says(Archived, Verb::Update, "restore it first");
    says(Archived, Verb::Delete, "restore it first");
    says(CreatePending, Verb::Update, "wait until it is Running or Failure, or cancel");
    says(Running, Verb::Restore, "only an archived staging");
    says(Failure, Verb::Cleanup, "delete it first");
    assert_eq!(why_not(Failure, Verb::Delete), None, "delete may be repeated");
}

#[test]
fn every_word_reads_as_what_it_was_written_for() {
    assert!(Status::ALL.into_iter().all(|s| Status::from_word(s.word()) == Some(s)));
    assert!(Verb::ALL.into_iter().all(|v| Verb::from_word(v.word()) == Some(v)));
    assert!(OUTCOMES.into_iter().all(|o| Outcome::from_word(o.word()) == Some(o)));
    assert_eq!(Status::from_word("running"), None);
}

#[test]
fn an_outcome_is_read_from_the_agents_last_word() {
    assert_eq!(Outcome::of(Phase::Succeeded, false, false), Outcome::Succeeded);
    assert_eq!(Outcome::of(Phase::Failed, false, false), Outcome::Failed);
    assert_eq!(Outcome::of(Phase::Failed, true, false), Outcome::Refused);
    assert_eq!(Outcome::of(Phase::Failed, false, true), Outcome::TimedOut);
    assert_eq!(Outcome::of(Phase::Failed, true, true), Outcome::TimedOut, "a tag_check that hangs refuses nothing");
    assert_eq!(Outcome::of(Phase::Interrupted, true, false), Outcome::Interrupted);
    assert_eq!(Outcome::of(Phase::Cancelled, true, true), Outcome::Cancelled);
    assert_eq!(Outcome::of(Phase::Late, false, false), Outcome::Late);
    assert_eq!(Outcome::of(Phase::Lost, false, false), Outcome::Lost);
}

// === settings ===

fn app(key: &str, value: &str) -> Override {
    Override { level: Level::App, key: key.into(), value: value.into(), secret: false }
}

fn secret(key: &str, value: &str) -> Override {
    Override { level: Level::Staging, secret: true, ..app(key, value) }
}

fn set(overrides: &[Override]) -> SettingsChange {
    SettingsChange { set: overrides.to_vec(), ..SettingsChange::default() }
}

fn field_of(result: Result<Settings, Error>) -> String {
    match result.expect_err("refused") {
        Error::Invalid { field, .. } => field,
        other => panic!("{other}"),
    }
}

#[test]
fn overrides_are_set_replaced_and_taken_away_in_one_order() {
    let settings = Settings::new("v1".into(), vec![secret("z", "0"), app("b", "1"), app("a", "2")]).expect("right");
    let keys = |s: &Settings| s.overrides.iter().map(|o| (o.level, o.key.clone())).collect::<Vec<_>>();
    let key = |level, key: &str| (level, key.to_owned());
    assert_eq!(keys(&settings), [key(Level::App, "a"), key(Level::App, "b"), key(Level::Staging, "z")]);
    let change = SettingsChange {
        tag: Some("v2".into()),
        set: vec![app("z", "3"), app("a", "4")],
        unset: vec![OverrideKey { level: Level::Staging, key: "z".into() }],
    };
    let changed = settings.changed(&change).expect("right");
    assert_eq!(changed.tag, "v2");
    assert_eq!(changed.overrides, [app("a", "4"), app("b", "1"), app("z", "3")]);
    assert_eq!(settings.changed(&SettingsChange::default()).expect("right"), settings, "no change is no change");
}

#[test]
fn a_wrong_override_is_refused_by_its_place() {
    let settings = Settings::new("v1".into(), vec![app("a", "1")]).expect("right");
    let wrong = [
        ("overrides[1].key", set(&[app("x", ""), app("k=v", "1")])),
        ("overrides[0].key", set(&[app("", "1")])),
        ("overrides[0].key", set(&[app("a\nb", "1")])),
        ("overrides[0].key", set(&[app(&"k".repeat(201), "1")])),
        ("overrides[0].value", set(&[app("x", "a\0b")])),
        ("overrides[0].value", set(&[app("x", &"v".repeat(100 * 1024 + 1))])),
        ("overrides[1].key", set(&[app("x", "1"), app("x", "2")])),
        (
            "unset[0].key",
            SettingsChange {
                unset: vec![OverrideKey { level: Level::Staging, key: "a".into() }],
                ..SettingsChange::default()
            },
        ),
    ];
    for (right, change) in wrong {
        assert_eq!(field_of(settings.changed(&change)), right);
    }
    settings.changed(&set(&[app("x", "a=b\nc"), secret("x", &"v".repeat(100 * 1024))])).expect("right");
}

#[test]
fn an_equals_sign_in_a_key_is_refused_with_what_would_be_right() {
    let refused = Settings::new("v1".into(), vec![app("A=B", "1")]).expect_err("refused").to_string();
    assert!(refused.contains("put what follows the '=' into the value"), "{refused}");
}

#[test]
fn a_tag_that_a_wrapper_could_misread_is_refused() {
    for wrong in ["", "-v", "a b", "a\0", "é", &"t".repeat(256)] {
        assert_eq!(field_of(Settings::new(wrong.into(), vec![])), "tag", "{wrong:?}");
    }
    Settings::new("registry.test/app:v1@sha256=0".into(), vec![]).expect("right");
}

#[test]
fn masked_settings_keep_the_names_of_secrets_and_not_their_values() {
    let settings = Settings::new("v1".into(), vec![app("OPEN", "shown"), secret("KEY", "hidden")]).expect("right");
    let json = serde_json::to_string(&settings.masked()).expect("plain data");
    assert!(json.contains("shown") && json.contains("KEY") && !json.contains("hidden"), "{json}");
}

// === names, projects, places ===

#[test]
fn a_name_has_two_to_seventeen_small_characters() {
    for right in ["ab", "a1", "a-b", "abcdefghijklmnopq", "a-"] {
        check_name(right).expect(right);
    }
    for wrong in ["", "a", "abcdefghijklmnopqr", "1a", "-a", "Ab", "aB", "a_b", "a.b", "é1", "a\0"] {
        let refused = check_name(wrong).expect_err(wrong);
        assert!(matches!(&refused, Error::Invalid { field, .. } if field == "name"), "{refused}");
    }
}

fn spec() -> ProjectSpec {
    serde_json::from_value(serde_json::json!({
        "base_domain": "staging.example.org", "namespace": "shop", "wrappers": "process", "agents": {"zone": "a"},
    }))
    .expect("a spec")
}

#[test]
fn a_project_says_as_little_as_it_must() {
    let spec = spec();
    assert_eq!((spec.check_interval_seconds, spec.pending_limit_seconds), (30, 600));
    assert_eq!(spec.archived_retention_days, None, "off unless asked for");
    check_project("shop", &spec).expect("right");
    let unknown = serde_json::from_str::<ProjectSpec>(r#"{"base_domain": "x", "namespace": "x", "wrapers": "x"}"#);
    assert!(unknown.expect_err("refused").to_string().contains("wrapers"));
}

#[test]
fn a_wrong_project_is_refused_by_its_field() {
    let wrong = [
        ("name", "-shop", spec()),
        ("name", "", spec()),
        ("spec.namespace", "shop", ProjectSpec { namespace: "a b".into(), ..spec() }),
        ("spec.wrappers", "shop", ProjectSpec { wrappers: "../etc".into(), ..spec() }),
        ("spec.base_domain", "shop", ProjectSpec { base_domain: "a..b".into(), ..spec() }),
        ("spec.base_domain", "shop", ProjectSpec { base_domain: "-x.org".into(), ..spec() }),
        ("spec.agents.a b", "shop", ProjectSpec { agents: Labels::from([("a b".into(), "".into())]), ..spec() }),
        ("spec.check_interval_seconds", "shop", ProjectSpec { check_interval_seconds: 0, ..spec() }),
        ("spec.pending_limit_seconds", "shop", ProjectSpec { pending_limit_seconds: 86_401, ..spec() }),
        ("spec.timeout_seconds", "shop", ProjectSpec { timeout_seconds: -1, ..spec() }),
        ("spec.memory_bytes", "shop", ProjectSpec { memory_bytes: -1, ..spec() }),
        ("spec.archived_retention_days", "shop", ProjectSpec { archived_retention_days: Some(0), ..spec() }),
    ];
    for (right, name, spec) in wrong {
        let refused = check_project(name, &spec).expect_err(right);
        assert!(matches!(&refused, Error::Invalid { field, .. } if field == right), "{right}: {refused}");
    }
}

fn candidate(agent: &str, stagings: i64) -> Candidate {
    Candidate { agent: agent.into(), stagings, folders: Some(vec!["process".into()]), is_offline: false }
}

fn placed(candidates: &[Candidate]) -> Result<String, String> {
    place("shop", &spec(), candidates).map(|a| a.0).map_err(|e| e.to_string())
}

#[test]
fn a_staging_goes_to_the_host_with_fewest_then_to_the_lowest_id() {
    assert_eq!(placed(&[candidate("c", 2), candidate("b", 1), candidate("a", 1)]), Ok("a".into()));
    assert_eq!(placed(&[candidate("a", 2), candidate("b", 1)]), Ok("b".into()));
    let offline = Candidate { is_offline: true, ..candidate("a", 0) };
    assert_eq!(placed(&[offline.clone(), candidate("b", 9)]), Ok("b".into()), "who is there comes first");
    assert_eq!(placed(&[offline]), Ok("a".into()), "who is not is better than nobody");
}

#[test]
fn a_host_that_does_not_offer_the_folder_carries_nothing() {
    let lacks = Candidate { folders: Some(vec!["helm".into()]), ..candidate("a", 0) };
    assert_eq!(placed(&[lacks.clone(), candidate("b", 9)]), Ok("b".into()));
    let unheard = Candidate { folders: None, ..candidate("c", 0) };
    assert_eq!(placed(&[lacks.clone(), unheard]), Ok("c".into()), "one that was never home may yet offer it");
    let refused = placed(&[lacks]).expect_err("refused");
    assert!(refused.contains("[staging.wrappers.process]"), "{refused}");
}

#[test]
fn labels_that_match_no_host_are_named() {
    let refused = placed(&[]).expect_err("refused");
    assert!(refused.starts_with("project: ") && refused.contains("(zone=a)"), "{refused}");
}
