use clap::CommandFactory;
use serde_json::json;

use super::{
    Cli, Failure,
    client::{self, Client},
    context::Target,
    output, people,
    yaml::{self, Document},
};

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

fn documents(text: &str) -> Vec<Document> {
    yaml::parse("shop.yaml", text).expect("it parses")
}

const TWO: &str = "version: muster/v1\nkind: staging.project\nname: shop\nspec:\n  agents: {pool: a}\n---\n\
                   version: muster/v1\nkind: staging.staging\nname: hello\nspec:\n  overrides:\n    - level: app\n      key: X\n";

#[test]
fn every_document_of_a_file_is_read() {
    let all = documents(TWO);
    let titles: Vec<_> = all.iter().map(Document::title).collect();
    assert_eq!(titles, ["staging.project shop", "staging.staging hello"]);
    assert_eq!(all[0].value()["spec"]["agents"]["pool"], "a");
}

#[test]
fn a_field_is_found_with_its_line_and_column() {
    let all = documents(TWO);
    assert_eq!(all[0].place("spec.agents.pool"), "shop.yaml:5:12");
    assert_eq!(all[1].place("spec.overrides[0].key"), "shop.yaml:13:7");
    assert_eq!(all[1].place("spec.overrides[0].value"), "shop.yaml:12:7", "what is missing is where its parent is");
    assert_eq!(all[0].place("nonsense"), "shop.yaml:1:1");
}

#[test]
fn broken_yaml_is_told_with_its_line_and_column() {
    let told = |text: &str| yaml::parse("x.yaml", text).expect_err("it does not parse").to_string();
    assert!(told("a: [1,\nb: 2\n").starts_with("x.yaml:2:"), "{}", told("a: [1,\nb: 2\n"));
    assert_eq!(told("a: 1\na: 2\n"), "x.yaml:2:1: duplicate mapping key: a not allowed here");
}

#[test]
fn only_true_and_false_are_no_words() {
    let value = documents("{on: y, no: [true, false, yes, off]}").remove(0).value();
    assert_eq!(value, json!({"on": "y", "no": [true, false, "yes", "off"]}));
}

#[test]
fn a_table_is_as_wide_as_its_cells() {
    let rows = vec![vec!["A".into(), "B".into()], vec!["long".into(), "x".into()]];
    assert_eq!(output::table(rows), "A     B\nlong  x\n");
}

#[test]
fn ages_are_told_in_their_largest_unit() {
    assert_eq!([999, 59_000, 61_000, 7_200_000, 200_000_000].map(output::age), ["0s", "59s", "1m", "2h", "2d"]);
}

#[test]
fn what_a_person_typed_is_one_piece_of_a_url() {
    assert_eq!(client::encoded("a b&c=é/~"), "a%20b%26c%3D%C3%A9%2F~");
    assert_eq!(client::query(&[("search", "a b".into()), ("project", String::new())]), "search=a%20b");
}

#[test]
fn an_address_that_cannot_be_talked_to_is_a_failure_and_no_panic() {
    let ask = |url: &str| {
        let target = Target { url: url.into(), ..Target::default() };
        Client::new(&target).and_then(|client| client.text("/livez")).expect_err("nobody is there").code
    };
    assert_eq!(ask("muster.example"), Failure::USAGE);
    assert_eq!(ask("http://127.0.0.1:1"), Failure::UNREACHABLE);
    // Without a file the machine's own authorities are trusted, where it has any.
    assert!([Failure::UNREACHABLE, Failure::USAGE].contains(&ask("https://127.0.0.1:1")));
}

#[test]
fn a_password_in_a_file_ends_where_its_line_does() {
    let file = std::env::temp_dir().join(format!("muster-password-{}", std::process::id()));
    std::fs::write(&file, " correct horse battery \n").expect("writes");
    let read = people::password_in(&file);
    std::fs::remove_file(&file).expect("is there");
    assert_eq!(read.expect("reads"), " correct horse battery ");
    assert_eq!(people::password_in(&file).expect_err("it is gone").code, Failure::USAGE);
}
