use base64::{Engine, prelude::BASE64_STANDARD};

use crate::experiment::{
    pickle::result,
    run::{TaskRun, TaskState},
};

fn run(task: &str, state: TaskState, value: &str, message: &str) -> TaskRun {
    TaskRun {
        task: task.into(),
        cycle: 0,
        attempt: 1,
        state,
        started_at: 1,
        ended_at: 2,
        exit_code: None,
        signal: None,
        value: value.into(),
        message: message.into(),
        artifacts: vec![],
    }
}

/// The opcodes of `Success(value)` or `Failure(value)`.
fn wrapped(class: &str, value: &[u8]) -> Vec<u8> {
    [format!("creturns.result\n{class}\n)").as_bytes(), b"\x81}X\x0f\0\0\0container_value", value, b"sb"].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

#[test]
fn a_failed_pipeline_is_written_byte_for_byte_as_clients_read_it() {
    // Decoded by netunicorn's own client when it was recorded, but for the line of the log.
    let golden = "gANdKGNyZXR1cm5zLnJlc3VsdApGYWlsdXJlCimBfVgPAAAAY29udGFpbmVyX3ZhbHVlfShYBQAAAHNoZWxsXShjcmV0dXJucy5yZXN1bHQKU3VjY2VzcwopgX1YDwAAAGNvbnRhaW5lcl92YWx1ZVgCAAAAaGlzYmVYBAAAAGJvb21dKGNyZXR1cm5zLnJlc3VsdApGYWlsdXJlCimBfVgPAAAAY29udGFpbmVyX3ZhbHVlWB8AAABUcmFjZWJhY2sgLi4uClZhbHVlRXJyb3I6IGJvb20Kc2JldXNiXShYCQAAAGxvZyBsaW5lCmVlLg==";
    let golden = BASE64_STANDARD.decode(golden).expect("base64");
    let runs = [
        run("shell", TaskState::Succeeded, "hi", ""),
        run("boom", TaskState::Failed, "", "Traceback ...\nValueError: boom\n"),
    ];
    let ours = result(false, &runs);
    // The lines that follow are Muster's own.
    let lines = golden.windows(5).rposition(|w| w == b"usb](").expect("the end of the tasks") + 5;
    assert_eq!(golden[..lines], ours[..lines]);
    assert!(ours.ends_with(&[text("boom failed: Traceback ...\nValueError: boom\n\n"), b"ee.".to_vec()].concat()));
}

#[test]
fn a_pipeline_that_ran_nothing_is_an_empty_success() {
    let golden = "gANdKGNyZXR1cm5zLnJlc3VsdApTdWNjZXNzCimBfVgPAAAAY29udGFpbmVyX3ZhbHVlfSh1c2JdKGVlLg==";
    assert_eq!(BASE64_STANDARD.encode(result(true, &[])), golden);
}

#[test]
fn what_a_task_gave_is_what_its_text_says() {
    for (given, opcodes) in [
        ("hi\n", text("hi\n")),
        ("42", vec![b'J', 42, 0, 0, 0]),
        ("-1", vec![b'J', 0xff, 0xff, 0xff, 0xff]),
        ("5000000000", [vec![0x8a, 8], 5_000_000_000_i64.to_le_bytes().to_vec()].concat()),
        ("2.5", [vec![b'G'], 2.5_f64.to_be_bytes().to_vec()].concat()),
        ("null", vec![b'N']),
        ("true", vec![0x88]),
        ("[1,\"a\"]", [vec![b']', b'(', b'J', 1, 0, 0, 0], text("a"), vec![b'e']].concat()),
        ("{\"k\":1}", [vec![b'}', b'('], text("k"), vec![b'J', 1, 0, 0, 0, b'u']].concat()),
    ] {
        let pickle = result(true, &[run("t", TaskState::Succeeded, given, "")]);
        let one = wrapped("Success", &opcodes);
        assert!(pickle.windows(one.len()).any(|w| w == one), "{given}");
    }
}

#[test]
fn of_tries_the_last_counts_and_each_cycle_has_its_own() {
    let again = |cycle, attempt, state| TaskRun { cycle, attempt, ..run("t", state, "1", "no") };
    let runs = [
        again(0, 1, TaskState::Failed),
        again(0, 2, TaskState::Succeeded),
        again(1, 1, TaskState::Succeeded),
        TaskRun { attempt: 0, ..run("u", TaskState::Skipped, "", "t failed") },
    ];
    let one = wrapped("Success", &[b'J', 1, 0, 0, 0]);
    let expected = [text("t"), b"](".to_vec(), one.clone(), one, b"eusb".to_vec()].concat();
    let pickle = result(true, &runs);
    assert!(pickle.windows(expected.len()).any(|w| w == expected));
    assert!(pickle.windows(12).any(|w| w == b"u was skippe"), "what was skipped is told in a line");
}
