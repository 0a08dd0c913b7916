//! Laws of the house that no compiler holds, read off the sources as text: who may import whom, what stays pure, where
//! the wire's types may appear, who starts programs, and that README.md names what is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The controller's modules, lowest first: each may import those of the ranks before its own, and none beside it.
const CONTROLLER: &[&[&str]] = &[
    &["error"],
    &["platform"],
    &["web"],
    &["access"],
    &["certificate"],
    &["fleet"],
    &["domain"],
    &["network", "staging", "experiment", "inventory", "release"],
    &["config", "ops"],
    &["app", "cli"],
];

/// The agent's modules, lowest first.
const AGENT: &[&[&str]] = &[
    &["crash", "dial", "durable", "flag"],
    &["ledger"],
    &["host"],
    &["identity", "spool", "blobs"],
    &["driver"],
    &["link", "settings", "network", "staging", "experiment", "inventory", "release"],
    &["console"],
    &["config", "status"],
    &["app", "doctor"],
];

/// Files with types of the wire beside the domains' `wire.rs`, each with its reason.
const WIRE: &[(&str, &str)] = &[
    ("agent/src/identity.rs", "enrols and renews"),
    ("agent/src/link/mod.rs", "is the stream"),
    ("agent/src/link/transfers.rs", "carries blobs beside the stream"),
    ("agent/src/settings.rs", "is the driver of the kernel's own document, one small message"),
    ("controller/src/domain.rs", "gives questions and answers to a domain's handler as they came"),
    ("controller/src/error.rs", "is the only mapping to a gRPC status, which carries a refusal"),
    ("controller/src/experiment/service/flags.rs", "answers its agents' questions"),
    ("controller/src/fleet/api.rs", "shows a host's sample, which is kept as it came"),
    ("controller/src/fleet/blobs.rs", "serves Blobs"),
    ("controller/src/fleet/enroll.rs", "serves Enrollment"),
    ("controller/src/fleet/intake.rs", "takes output as it came, so that its bytes are not copied"),
    ("controller/src/fleet/line.rs", "keeps frames to be sent as they will be sent"),
    ("controller/src/fleet/mod.rs", "builds the services and the settings document"),
    ("controller/src/fleet/registry.rs", "tells every line to leave, and keeps samples"),
    ("controller/src/fleet/service.rs", "spells an invitation's token"),
    ("controller/src/fleet/session.rs", "serves Home"),
    ("controller/src/network/service/ask.rs", "answers its agents' questions"),
    ("controller/src/staging/service.rs", "answers its agents' questions"),
];

/// Files without I/O, clocks and chance that are called neither `model.rs` nor `plan.rs`.
const PURE: &[&str] = &["agent/src/link/schedule.rs", "pki/src/rotate.rs", "pki/src/standing.rs"];

/// The longest a file may be, lines.
const LONGEST: usize = 700;

/// A source file: its path from the root of the repository, and its text without comment lines.
struct Source {
    path: String,
    code: String,
    lines: usize,
}

// === the laws ===

#[test]
fn imports_go_down_the_ranks_of_the_controller() {
    ranks_hold("controller/src/", CONTROLLER, &["lib", "bin", "testing"]);
}

#[test]
fn imports_go_down_the_ranks_of_the_agent() {
    ranks_hold("agent/src/", AGENT, &["lib", "main"]);
}

#[test]
fn the_command_line_is_imported_by_its_own_program_alone() {
    let importers = below(&["controller/src/"]).into_iter().filter(|s| !s.path.starts_with("controller/src/cli/"));
    let importers = importers.filter(|s| {
        ["crate", "muster_controller"].iter().any(|root| reached(&s.code, root).contains("cli")) && !s.is_test()
    });
    let importers: Vec<_> = importers.map(|s| s.path).collect();
    assert_eq!(importers, ["controller/src/bin/muster.rs"]);
}

#[test]
fn models_and_plans_know_no_io_no_clock_and_no_chance() {
    let foreign = ["async ", ".await", "sqlx", "tokio", "SystemTime", "Instant::now", "random("];
    let named = |path: &str| path.ends_with("/model.rs") || path.ends_with("/plan.rs") || PURE.contains(&path);
    let pure: Vec<_> =
        below(&["controller/src/", "agent/src/", "pki/src/"]).into_iter().filter(|s| named(&s.path)).collect();
    let pure: Vec<_> = pure.into_iter().filter(|s| !s.is_test()).collect();
    assert!(pure.len() >= 8, "only {} files were found", pure.len());
    let found = pure.iter().flat_map(|s| {
        let words = foreign.iter().filter(|word| s.code.contains(**word));
        words.map(|word| format!("{} has {word:?}", s.path))
    });
    none(found);
}

#[test]
fn types_of_the_wire_stay_in_the_files_that_speak_it() {
    let speaks = |s: &Source| {
        let names = reached(&s.code, "muster_proto");
        !s.is_test() && ["fleet", "network", "staging"].iter().any(|package| names.contains(*package))
    };
    let speakers = below(&["controller/src/", "agent/src/"]).into_iter().filter(speaks).map(|s| s.path);
    let speakers: BTreeSet<_> = speakers.filter(|path| !path.ends_with("/wire.rs")).collect();
    let allowed: BTreeSet<_> = WIRE.iter().map(|(path, _)| (*path).to_owned()).collect();
    none(speakers.difference(&allowed).map(|path| format!("{path} uses types of the wire")));
    none(allowed.difference(&speakers).map(|path| format!("{path} needs its exception no more")));
}

#[test]
fn programs_are_started_where_children_are_kept_and_nowhere_else() {
    let starts = |s: &Source| s.code.contains("Command::new(") && !s.is_test();
    let starters: Vec<_> =
        below(&["controller/src/", "agent/src/", "pki/src/", "proto/src/"]).into_iter().filter(starts).collect();
    assert!(starters.iter().any(|s| s.path.starts_with("agent/src/host/")), "the host starts programs");
    let may = |path: &str| {
        let is_below = |folder: &str| path.starts_with(folder);
        ["agent/src/host/", "controller/src/cli/dev/", "controller/src/platform/program.rs"].into_iter().any(is_below)
    };
    none(starters.iter().filter(|s| !may(&s.path)).map(|s| format!("{} starts a program", s.path)));
}

#[test]
fn nothing_is_left_to_be_written() {
    let marks = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let all = below(&["controller/", "agent/", "pki/", "proto/", "integration-tests/"]);
    none(all.iter().flat_map(|s| {
        let found = marks.iter().filter(|mark| s.code.contains(mark.as_str()));
        found.map(|mark| format!("{} has {mark}", s.path))
    }));
}

#[test]
fn no_file_outgrows_its_reader() {
    let all = below(&["controller/src/", "agent/src/", "pki/src/", "proto/src/"]);
    let long = all.iter().filter(|s| !s.is_test() && s.lines > LONGEST);
    none(long.map(|s| format!("{} has {} lines", s.path, s.lines)));
}

#[test]
fn readme_names_only_what_is_there() {
    let root = root();
    let (mut tests, mut wrong) = (0, Vec::new());
    for name in quoted(&prose(&read(&root.join("README.md")))) {
        if let Some((path, test)) = name.split_once(".rs::") {
            tests += 1;
            let text = fs::read_to_string(root.join(format!("{path}.rs"))).unwrap_or_default();
            if !text.contains(&format!("fn {test}(")) {
                wrong.push(format!("there is no test {name}"));
            }
        } else if is_path(&name) && !root.join(&name).exists() {
            wrong.push(format!("there is no {name}"));
        }
    }
    assert!(tests >= 40, "only {tests} tests are named");
    none(wrong.into_iter());
}

#[test]
fn readme_gives_a_reason_for_every_dependency() {
    let root = root();
    let readme = read(&root.join("README.md"));
    let reasons: BTreeSet<_> = readme.lines().filter(|l| l.starts_with("| ")).flat_map(quoted).collect();
    let members = ["controller", "agent", "proto", "pki", "integration-tests"];
    let used: BTreeSet<_> =
        members.iter().flat_map(|member| dependencies(&read(&root.join(member).join("Cargo.toml")))).collect();
    assert!(used.len() >= 40, "only {} dependencies were found", used.len());
    none(used.difference(&reasons).map(|name| format!("README.md gives no reason for {name}")));
}

// === reading the sources ===

impl Source {
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/") || self.path.ends_with("/testing.rs")
    }

    /// The module of the first level it belongs to.
    fn module(&self, under: &str) -> &str {
        let inside = &self.path[under.len()..];
        inside.split(['/', '.']).next().unwrap_or(inside)
    }
}

/// Checks that every module imports lower ranks alone. `outside` stand above all ranks.
fn ranks_hold(under: &str, ranks: &[&[&str]], outside: &[&str]) {
    let rank = |module: &str| ranks.iter().position(|rank| rank.contains(&module));
    let sources: Vec<_> = below(&[under]).into_iter().filter(|s| !s.is_test()).collect();
    let mut imports = 0;
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|s| !outside.contains(&s.module(under))) {
        let own = source.module(under);
        let Some(mine) = rank(own) else {
            wrong.push(format!("{} is of no rank", source.path));
            continue;
        };
        for other in reached(&source.code, "crate").iter().filter(|other| *other != own) {
            imports += 1;
            if rank(other).is_none_or(|other| other >= mine) {
                wrong.push(format!("{} imports {other}", source.path));
            }
        }
    }
    assert!(imports >= 20, "only {imports} imports were found below {under}");
    none(wrong.into_iter());
}

/// The names that follow `root::` anywhere, those of a braced group included; macros are not meant.
fn reached(code: &str, root: &str) -> BTreeSet<String> {
    let start = format!("{root}::");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(&start) {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let rest = &code[at + start.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

/// The first names of a braced group's members, up to its closing brace.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut found, mut begins) = (0, Vec::new(), true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && is_word(letter) => {
                begins = false;
                found.extend(head(&group[at..]));
            }
            _ => {}
        }
    }
    found
}

fn head(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| is_word(*c)).collect();
    (!name.is_empty() && !text[name.len()..].starts_with('!')).then_some(name)
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Every Rust file below these folders.
fn below(folders: &[&str]) -> Vec<Source> {
    let root = root();
    let mut files = Vec::new();
    folders.iter().for_each(|folder| walk(&root.join(folder), &mut files));
    files.sort();
    let source = |file: &PathBuf| {
        let text = read(file);
        let path = file.strip_prefix(&root).expect("it lies below the root").to_string_lossy().into_owned();
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        Source { path, code: code.collect::<Vec<_>>().join("\n"), lines: text.lines().count() }
    };
    files.iter().map(source).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_owned()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

// === reading README.md and Cargo.toml ===

/// The text outside of fenced blocks.
fn prose(text: &str) -> String {
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether a quoted text means a path in the repository: it has a slash and nothing that no path here has.
fn is_path(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    text.contains('/') && !text.starts_with('/') && text.chars().all(letter)
}

/// Crates of others that a manifest names.
fn dependencies(manifest: &str) -> Vec<String> {
    let tables = manifest.split("\n[").filter(|t| t.split(']').next().is_some_and(|n| n.ends_with("dependencies")));
    let names = tables.flat_map(|t| t.lines().skip(1)).filter_map(|l| l.split(['.', ' ']).next());
    names
        .filter(|n| !n.is_empty() && !n.starts_with(['#', '[']) && !n.starts_with("muster-"))
        .map(str::to_owned)
        .collect()
}

/// Fails with every finding at once.
fn none(found: impl Iterator<Item = String>) {
    let found: Vec<_> = found.collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
