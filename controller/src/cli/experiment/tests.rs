use clap::Parser;

use super::{
    super::{Cli, yaml},
    file, tasks,
};
use crate::experiment::run::{TaskRun, TaskState};

/// What is said of a file.
fn told(text: &str) -> String {
    let documents = yaml::parse("x.yaml", text).expect("it parses");
    match file::of(&documents[0], None) {
        Ok((name, _)) => format!("{name} is right"),
        Err(failure) => failure.to_string(),
    }
}

const RIGHT: &str = "name: ping\ndeployments:\n- nodes: {take: 2}\n  tasks:\n  - name: on\n    command: [ping]\n  \
                     - name: y\n    script: sort\n    needs: [on]\n";

#[test]
fn every_mistake_of_a_file_is_told_with_its_line_and_column() {
    assert_eq!(told(RIGHT), "ping is right");
    for (right, wrong, said) in [
        (
            "needs: [on]",
            "need: [on]",
            "x.yaml:9:5: deployments[0].tasks[1].need: unknown field `need`, expected one of",
        ),
        ("needs: [on]", "needs: [off]", "x.yaml:9:13: deployments[0].tasks[1].needs[0]: there is no task \"off\""),
        (
            "needs: [on]",
            "needs: [{task: on, on: sucess}]",
            "x.yaml:9:13: deployments[0].tasks[1].needs[0]: a task's name, or {task: its name, on: success, failure or any}",
        ),
        (
            "command: [ping]",
            "command: [3]",
            "x.yaml:6:15: deployments[0].tasks[0].command[0]: invalid type: integer `3`",
        ),
        ("name: ping", "name: 3", "x.yaml:1:1: name: a text is wanted; put it in quotes"),
        ("name: ping\n", "", "x.yaml:1:1: give the experiment a name"),
        ("deployments:", "deployment:", "x.yaml:2:1: deployment: unknown field"),
        (RIGHT, "- name: ping\n", "x.yaml:1:1: an experiment has a `name` and `deployments`"),
    ] {
        let said_of = told(&RIGHT.replacen(right, wrong, 1));
        assert!(said_of.starts_with(said), "{wrong}: {said_of}");
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once() {
    let said = told(&RIGHT.replace("take: 2", "take: 0").replace("needs: [on]", "needs: [off]"));
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn of_a_tasks_tries_the_last_one_counts() {
    let run = |task: &str, cycle: u32, attempt: u32, state: TaskState| TaskRun {
        task: task.into(),
        cycle,
        attempt,
        state,
        started_at: 0,
        ended_at: 0,
        exit_code: None,
        signal: None,
        value: String::new(),
        message: String::new(),
        artifacts: Vec::new(),
    };
    assert_eq!(tasks(&[]), "-");
    let tried = [run("a", 0, 1, TaskState::Failed), run("a", 0, 2, TaskState::Succeeded)];
    assert_eq!(tasks(&tried), "1 ok");
    let more = [run("a", 1, 1, TaskState::TimedOut), run("b", 0, 1, TaskState::Running)];
    assert_eq!(tasks(&[tried.as_slice(), &more].concat()), "1 ok, 1 running, 1 failed");
}

#[test]
fn every_example_of_the_help_is_understood() {
    let command = <Cli as clap::CommandFactory>::command();
    let experiment = command.find_subcommand("experiment").expect("there is one");
    let all = examples(experiment);
    assert!(all.len() > 10, "only {} examples were found", all.len());
    for line in all {
        let line = line.split(" #").next().unwrap_or_default();
        let parsed = Cli::try_parse_from(["muster", "experiment"].into_iter().chain(line.split_whitespace()));
        assert!(parsed.is_ok(), "{line}: {}", parsed.err().map(|e| e.to_string()).unwrap_or_default());
    }
}

/// What the help shows as an example, one line each.
fn examples(command: &clap::Command) -> Vec<String> {
    let own = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = own.lines().filter_map(|line| line.trim().strip_prefix("muster experiment ").map(str::to_owned));
    lines.chain(command.get_subcommands().flat_map(examples)).collect()
}
