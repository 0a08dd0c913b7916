use crate::{
    error::Error,
    staging::{
        form::{change, overrides, place, rows_of, rows_typed},
        model::{Level, MaskedOverride, MaskedSettings, Override, OverrideKey},
    },
    web::Fields,
};

fn before() -> MaskedSettings {
    let open = MaskedOverride { level: Level::App, key: "COLOUR".into(), value: Some("red".into()), secret: false };
    let secret = MaskedOverride { level: Level::App, key: "TOKEN".into(), value: None, secret: true };
    MaskedSettings { tag: "v1".into(), overrides: vec![open, secret] }
}

/// A form as the update page sends it: the two overrides that are there, and one empty row.
fn sent(colour: &str, token: &str, extra: [(&str, &str); 2]) -> Fields {
    let text = |t: &str| t.to_owned();
    Fields::filled([
        ("tag", text("v1")),
        ("rows", text("3")),
        ("overrides[0].level", text("app")),
        ("overrides[0].key", text("COLOUR")),
        ("overrides[0].value", text(colour)),
        ("overrides[1].level", text("app")),
        ("overrides[1].key", text("TOKEN")),
        ("overrides[1].value", text(token)),
        ("overrides[1].secret", text("on")),
        (extra[0].0, text(extra[0].1)),
        (extra[1].0, text(extra[1].1)),
    ])
}

const NOTHING: [(&str, &str); 2] = [("overrides[2].key", ""), ("overrides[2].value", "")];

#[test]
fn a_form_sent_back_as_it_came_changes_nothing() {
    let (change, places) = change(&sent("red", "", NOTHING), &before()).expect("is right");
    assert_eq!((change.tag, change.set, change.unset, places), (None, vec![], vec![], vec![]));
}

#[test]
fn a_secret_changes_only_when_one_is_typed() {
    let (change, places) = change(&sent("red", "fresh", NOTHING), &before()).expect("is right");
    let fresh = Override { level: Level::App, key: "TOKEN".into(), value: "fresh".into(), secret: true };
    assert_eq!((change.set, places), (vec![fresh], vec![1]));
    assert_eq!(change.unset, []);
}

#[test]
fn a_secret_that_is_to_be_shown_must_be_typed_again() {
    let shown = Fields::filled([
        ("rows", "1".to_owned()),
        ("overrides[0].key", "TOKEN".to_owned()),
        ("overrides[0].value", String::new()),
    ]);
    let refused = change(&shown, &before()).expect_err("refused");
    assert!(matches!(refused, Error::Invalid { field, .. } if field == "overrides[0].value"));
}

#[test]
fn a_row_taken_away_or_renamed_unsets_what_it_was() {
    let removed = sent("red", "", [("overrides[0].remove", "on"), ("tagged", "")]);
    let (gone, _) = change(&removed, &before()).expect("is right");
    assert_eq!(gone.unset, [OverrideKey { level: Level::App, key: "COLOUR".into() }]);
    let renamed = sent("red", "", [("overrides[2].key", "SHADE"), ("overrides[2].value", "blue")]);
    let (added, places) = change(&renamed, &before()).expect("is right");
    assert_eq!((added.set.len(), added.unset.len(), places), (1, 0, vec![2]));
}

#[test]
fn a_mistake_is_shown_at_the_row_it_was_typed_in() {
    let fields = sent("red", "x", [("overrides[2].key", "A=B"), ("overrides[2].value", "v")]);
    let typed = overrides(&fields).expect("is read");
    assert_eq!(typed.places, [0, 1, 2]);
    let found = place(Error::invalid("overrides[1].key", "wrong"), &[0, 4]);
    assert!(matches!(found, Error::Invalid { field, .. } if field == "overrides[4].key"));
    let other = place(Error::invalid("tag", "wrong"), &[0]);
    assert!(matches!(other, Error::Invalid { field, .. } if field == "tag"));
}

#[test]
fn secrets_are_not_in_rows() {
    let shown = rows_of(&before());
    assert_eq!(
        shown.iter().map(|r| (r.value.as_str(), r.kept)).take(2).collect::<Vec<_>>(),
        [("red", false), ("", true)]
    );
    assert!(shown.len() > 2, "there is room for more");
    let typed = rows_typed(&sent("red", "fresh", NOTHING), &before());
    assert_eq!(typed[1].value, "");
    let absurd = Fields::filled([("rows", u64::MAX.to_string())]);
    assert!(rows_typed(&absurd, &before()).len() <= 500);
}
