//! The forms of stagings and projects: rows of overrides in, settings out. Pure.
//!
//! A row is `overrides[n].level`, `.key`, `.value`, `.secret` and `.remove`; `rows` says how many there are. A secret comes
//! to the browser as an empty row that says "unchanged", and stays as it is unless something is typed.

use super::model::{Level, MaskedOverride, MaskedSettings, Override, OverrideKey, ProjectSpec, SettingsChange};
use crate::{
    error::{Error, Result},
    web::Fields,
};

/// Rows shown beside those that are filled in.
const SPARE: usize = 2;

/// Rows of a form at most.
const MOST: usize = 500;

/// A row as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub n: usize,
    /// Whom it is for.
    pub level: Level,
    /// Its key.
    pub key: String,
    /// Its value; empty for a secret.
    pub value: String,
    /// Whether it is secret.
    pub secret: bool,
    /// It is a secret that is there already.
    pub kept: bool,
    /// It is to be taken away.
    pub removed: bool,
    /// What is wrong with the key; empty if nothing is.
    pub key_error: String,
    /// What is wrong with the value.
    pub value_error: String,
}

/// What was typed into rows, with the row that each override came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Typed {
    /// The overrides of rows that are not empty.
    pub overrides: Vec<Override>,
    /// Their rows.
    pub places: Vec<usize>,
}

// === rows ===

/// The rows of a form that is shown for the first time.
pub fn rows_of(settings: &MaskedSettings) -> Vec<Row> {
    let row = |(n, o): (usize, &MaskedOverride)| Row {
        n,
        level: o.level,
        key: o.key.clone(),
        value: o.value.clone().unwrap_or_default(),
        secret: o.secret,
        kept: o.secret,
        removed: false,
        key_error: String::new(),
        value_error: String::new(),
    };
    with_spare(settings.overrides.iter().enumerate().map(row).collect(), SPARE)
}

/// The rows of a form that comes back. `before` tells which secrets are there already.
pub fn rows_typed(fields: &Fields, before: &MaskedSettings) -> Vec<Row> {
    let rows = (0..count(fields)).map(|n| {
        let (level, key) = (level_of(fields, n), fields.text(&at(n, "key")).to_owned());
        let secret = fields.is_on(&at(n, "secret"));
        Row {
            n,
            kept: is_kept(before, level, &key),
            // A secret is not sent back to the browser, even to the one who typed it.
            value: if secret { String::new() } else { fields.raw(&at(n, "value")).into() },
            removed: fields.is_on(&at(n, "remove")),
            key_error: fields.error(&at(n, "key")).into(),
            value_error: fields.error(&at(n, "value")).into(),
            level,
            key,
            secret,
        }
    });
    let spare = if fields.is_on("more") { 2 * SPARE } else { 0 };
    with_spare(rows.collect(), spare)
}

fn with_spare(mut rows: Vec<Row>, spare: usize) -> Vec<Row> {
    let end = (rows.len() + spare).min(MOST);
    let empty = |n| Row {
        n,
        level: Level::App,
        key: String::new(),
        value: String::new(),
        secret: false,
        kept: false,
        removed: false,
        key_error: String::new(),
        value_error: String::new(),
    };
    rows.extend((rows.len()..end).map(empty));
    rows
}

/// The overrides of a staging to be made.
pub fn overrides(fields: &Fields) -> Result<Typed> {
    let none = MaskedSettings { tag: String::new(), overrides: Vec::new() };
    let (typed, _) = read(fields, &none)?;
    Ok(typed)
}

/// What the form changes of the settings before, and the rows that its overrides came from.
pub fn change(fields: &Fields, before: &MaskedSettings) -> Result<(SettingsChange, Vec<usize>)> {
    let (typed, stay) = read(fields, before)?;
    let is_there = |o: &&MaskedOverride| stay.iter().any(|key| key.level == o.level && key.key == o.key);
    let gone = before.overrides.iter().filter(|o| !is_there(o));
    let unset = gone.map(|o| OverrideKey { level: o.level, key: o.key.clone() }).collect();
    let is_new = |o: &Override| {
        let same = |b: &MaskedOverride| {
            (b.level, &b.key, b.secret, b.value.as_ref()) == (o.level, &o.key, o.secret, Some(&o.value))
        };
        !before.overrides.iter().any(same)
    };
    let (set, places) = typed.overrides.into_iter().zip(typed.places).filter(|(o, _)| is_new(o)).unzip();
    let tag = Some(fields.text("tag").to_owned()).filter(|tag| *tag != before.tag);
    Ok((SettingsChange { tag, set, unset }, places))
}

/// Takes an error about the n-th override to the row it came from.
pub fn place(error: Error, places: &[usize]) -> Error {
    let Error::Invalid { field, message } = error else { return error };
    let split = field.strip_prefix("overrides[").and_then(|rest| rest.split_once(']'));
    let row = split.and_then(|(n, part)| Some((places.get(n.parse::<usize>().ok()?)?, part)));
    match row {
        Some((row, part)) => Error::invalid(format!("overrides[{row}]{part}"), message),
        None => Error::Invalid { field, message },
    }
}

/// What was typed, and the keys that stay.
fn read(fields: &Fields, before: &MaskedSettings) -> Result<(Typed, Vec<OverrideKey>)> {
    let (mut typed, mut stay) = (Typed::default(), Vec::new());
    for n in 0..count(fields) {
        let (level, key) = (level_of(fields, n), fields.text(&at(n, "key")).to_owned());
        let (value, secret) = (fields.raw(&at(n, "value")).replace("\r\n", "\n"), fields.is_on(&at(n, "secret")));
        if fields.is_on(&at(n, "remove")) || (key.is_empty() && value.is_empty()) {
            continue;
        }
        let was_secret = is_kept(before, level, &key);
        stay.push(OverrideKey { level, key: key.clone() });
        match (value.is_empty(), secret, was_secret) {
            (true, true, true) => {}
            (true, false, true) => {
                return Err(Error::invalid(at(n, "value"), "a secret cannot be read back; type what is to be shown"));
            }
            (true, true, false) => return Err(Error::invalid(at(n, "value"), "type the secret")),
            _ => {
                typed.overrides.push(Override { level, key, value, secret });
                typed.places.push(n);
            }
        }
    }
    Ok((typed, stay))
}

fn is_kept(before: &MaskedSettings, level: Level, key: &str) -> bool {
    before.overrides.iter().any(|o| o.secret && o.level == level && o.key == key)
}

fn count(fields: &Fields) -> usize {
    fields.text("rows").parse::<usize>().unwrap_or_default().min(MOST)
}

fn level_of(fields: &Fields, n: usize) -> Level {
    if fields.text(&at(n, "level")) == "staging" { Level::Staging } else { Level::App }
}

fn at(n: usize, part: &str) -> String {
    format!("overrides[{n}].{part}")
}

// === projects ===

/// The fields of a project's form.
pub fn of_project(name: &str, spec: &ProjectSpec) -> Fields {
    let labels: Vec<_> = spec.agents.iter().map(|(k, v)| format!("{k}={v}")).collect();
    Fields::filled([
        ("name", name.to_owned()),
        ("spec.base_domain", spec.base_domain.clone()),
        ("spec.namespace", spec.namespace.clone()),
        ("spec.wrappers", spec.wrappers.clone()),
        ("spec.agents", labels.join(", ")),
        ("spec.check_interval_seconds", spec.check_interval_seconds.to_string()),
        ("spec.pending_limit_seconds", spec.pending_limit_seconds.to_string()),
        ("spec.timeout_seconds", spec.timeout_seconds.to_string()),
        ("spec.memory_bytes", spec.memory_bytes.to_string()),
        ("spec.file_bytes", spec.file_bytes.to_string()),
        ("spec.archived_retention_days", spec.archived_retention_days.map(|d| d.to_string()).unwrap_or_default()),
    ])
}

/// What a project's form says.
pub fn project(fields: &Fields) -> Result<ProjectSpec> {
    let days = match fields.text("spec.archived_retention_days") {
        "" => None,
        _ => Some(fields.number("spec.archived_retention_days")?),
    };
    Ok(ProjectSpec {
        base_domain: fields.text("spec.base_domain").into(),
        namespace: fields.text("spec.namespace").into(),
        wrappers: fields.text("spec.wrappers").into(),
        agents: fields.pairs("spec.agents")?,
        check_interval_seconds: fields.number("spec.check_interval_seconds")?,
        pending_limit_seconds: fields.number("spec.pending_limit_seconds")?,
        timeout_seconds: fields.number("spec.timeout_seconds")?,
        memory_bytes: fields.number("spec.memory_bytes")?,
        file_bytes: fields.number("spec.file_bytes")?,
        archived_retention_days: days,
    })
}
