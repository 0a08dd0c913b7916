use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use muster_proto::fleet::{Answer, Assign, Leave, Sample, from_home::Frame, log::Stream};
use tonic::Status;

use crate::{
    fleet::{
        Registry,
        line::{Flight, Line, MAX_ANSWERS},
        model::{AgentId, Key, Liveness, OFFLINE_AFTER, STALE_AFTER},
        registry::SAMPLES,
    },
    platform::wake::Activator,
};

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn line_of(agent: &str) -> Arc<Line> {
    Line::new(agent.into(), "ledger".into(), "able".into(), Arc::default()).into()
}

fn document(id: &str, generation: u64, bytes: usize) -> Assign {
    let document = vec![0; bytes].into();
    Assign { kind: "test.thing".into(), id: id.into(), epoch: 1, generation, document, ..Assign::default() }
}

fn key(id: &str) -> Key {
    Key { kind: "test.thing".into(), id: id.into() }
}

/// The next frame; None when there is nothing to say.
fn next(line: &Line, flight: &Flight) -> Option<Result<Frame, Status>> {
    match line.poll_next(flight, &Context::from_waker(Waker::noop())) {
        Poll::Ready(said) => said.map(|frame| frame.map(|f| f.frame.expect("a frame is never empty"))),
        Poll::Pending => None,
    }
}

fn next_frame(line: &Line, flight: &Flight) -> Frame {
    next(line, flight).expect("something to say").expect("no end")
}

fn generation(frame: Frame) -> u64 {
    match frame {
        Frame::Assign(assign) => assign.generation,
        other => panic!("no assignment: {other:?}"),
    }
}

#[test]
fn a_newer_generation_takes_the_place_of_an_older_one_that_was_not_sent() {
    let (line, flight) = (line_of("a"), Flight::default());
    line.assign(document("x", 5, 1));
    line.assign(document("x", 7, 1));
    line.assign(document("x", 6, 1));
    assert_eq!(generation(next_frame(&line, &flight)), 7);
    assert!(next(&line, &flight).is_none(), "there was room for one");
    line.assign(Assign { epoch: 2, ..document("y", 1, 1) });
    line.assign(document("y", 9, 1));
    assert_eq!(generation(next_frame(&line, &flight)), 1, "an epoch outweighs any number");
}

#[test]
fn acknowledgements_only_grow() {
    let (line, flight) = (line_of("a"), Flight::default());
    line.ack(7);
    line.ack(3);
    line.log_ack(key("x"), 1, Stream::Stdout, 90);
    line.log_ack(key("x"), 1, Stream::Stdout, 50);
    assert!(matches!(next_frame(&line, &flight), Frame::Ack(ack) if ack.up_to == 7));
    assert!(matches!(next_frame(&line, &flight), Frame::LogAck(ack) if ack.up_to == 90));
    assert!(next(&line, &flight).is_none());
}

#[test]
fn what_frees_the_agent_is_said_before_what_burdens_it() {
    let (line, flight) = (line_of("a"), Flight::default());
    line.leave(Leave { retry_after_ms: 5, message: "home moves".into(), ..Leave::default() });
    line.assign(document("x", 1, 1));
    line.answer(Answer { ask_id: "q".into(), ..Answer::default() });
    line.log_ack(key("x"), 1, Stream::Stderr, 1);
    line.ack(1);
    assert!(matches!(next_frame(&line, &flight), Frame::Ack(_)));
    assert!(matches!(next_frame(&line, &flight), Frame::LogAck(_)));
    assert!(matches!(next_frame(&line, &flight), Frame::Answer(_)));
    assert!(matches!(next_frame(&line, &flight), Frame::Assign(_)));
    assert!(matches!(next_frame(&line, &flight), Frame::Leave(_)));
    let end = next(&line, &flight).expect("an end").expect_err("the stream ends behind Leave");
    assert_eq!(end.message(), "home moves");
}

#[test]
fn the_first_reason_to_end_is_the_one_that_is_given() {
    let (line, flight) = (line_of("a"), Flight::default());
    line.end(Status::aborted("first"));
    line.end(Status::aborted("second"));
    assert_eq!(next(&line, &flight).expect("an end").expect_err("an end").message(), "first");
}

#[test]
fn answers_that_wait_are_bounded() {
    let (line, flight) = (line_of("a"), Flight::default());
    (0..MAX_ANSWERS + 5).for_each(|_| line.answer(Answer::default()));
    assert_eq!((0..).take_while(|_| next(&line, &flight).is_some()).count(), MAX_ANSWERS);
}

#[test]
fn a_full_flight_holds_a_large_document_back_until_another_has_landed() {
    const HUGE: usize = 200 << 20;
    let (first, second, flight) = (line_of("a"), line_of("b"), Flight::default());
    first.assign(document("x", 1, HUGE));
    second.assign(document("x", 1, HUGE));
    assert_eq!(generation(next_frame(&first, &flight)), 1);
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(flag.clone());
    assert!(second.poll_next(&flight, &Context::from_waker(&waker)).is_pending(), "both would be too much");
    second.ack(1);
    assert!(matches!(next_frame(&second, &flight), Frame::Ack(_)), "what is small goes on");
    flag.0.store(false, Ordering::SeqCst);
    first.landed(&key("other"), &flight);
    assert!(next(&second, &flight).is_none(), "another key's landing frees nothing");
    first.landed(&key("x"), &flight);
    assert!(flag.0.load(Ordering::SeqCst), "who waits is woken");
    assert_eq!(generation(next_frame(&second, &flight)), 1);
    first.assign(document("x", 2, HUGE));
    assert!(next(&first, &flight).is_none());
    second.close(&flight);
    assert_eq!(generation(next_frame(&first, &flight)), 2, "a stream that ends gives back what it had");
}

#[test]
fn small_documents_do_not_wait_for_the_flight() {
    let (line, flight) = (line_of("a"), Flight::default());
    line.assign(document("x", 1, 300 << 20));
    assert_eq!(generation(next_frame(&line, &flight)), 1, "one document always finds room, whatever its size");
    line.assign(document("y", 2, 100));
    assert_eq!(generation(next_frame(&line, &flight)), 2);
}

#[tokio::test]
async fn a_ping_resolves_on_the_pong_of_its_own_nonce() {
    let (line, flight) = (line_of("a"), Flight::default());
    let mut ping = pin!(line.ping(42));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(ping.as_mut().poll(&mut cx).is_pending());
    assert!(matches!(next_frame(&line, &flight), Frame::Ping(ping) if ping.nonce == 42));
    line.pong(41);
    assert!(ping.as_mut().poll(&mut cx).is_pending(), "an answer to another question");
    line.pong(42);
    ping.await;
}

#[test]
fn a_killed_connection_wakes_its_reader() {
    let line = line_of("a");
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(flag.clone());
    assert!(!line.kill.poll_killed(&Context::from_waker(&waker)));
    line.kill.kill();
    assert!(flag.0.load(Ordering::SeqCst));
    assert!(line.kill.poll_killed(&Context::from_waker(&waker)));
}

// === registry ===

fn registry() -> Registry {
    Registry::new(Activator::default())
}

#[test]
fn a_newer_stream_takes_over_and_the_older_ones_end_changes_nothing() {
    let registry = registry();
    let (old, new) = (line_of("a"), line_of("a"));
    assert!(registry.join(&old, Liveness::Never).is_none());
    let replaced = registry.join(&new, Liveness::Never).expect("the old stream");
    assert!(Arc::ptr_eq(&replaced, &old));
    assert!(!registry.part(&old, 10), "another has taken its place");
    assert!(Arc::ptr_eq(&registry.line(&"a".into()).expect("a stream"), &new));
    assert_eq!(registry.liveness(&"a".into(), 20), Some(Liveness::Online));
    assert!(registry.part(&new, 30));
    assert!(registry.line(&"a".into()).is_none());
    assert_eq!(registry.liveness(&"a".into(), 30 + STALE_AFTER), Some(Liveness::Stale));
}

#[test]
fn each_transition_is_written_once() {
    let registry = registry();
    let agent: AgentId = "a".into();
    let line = line_of("a");
    registry.join(&line, Liveness::Never);
    let told = registry.transitions(10);
    assert_eq!(told, [(agent.clone(), Liveness::Online, 10)]);
    assert_eq!(registry.transitions(11).len(), 1, "not written, so told again");
    registry.written(&told);
    assert!(registry.transitions(12).is_empty());
    registry.part(&line, 20);
    assert!(registry.transitions(19 + STALE_AFTER).is_empty(), "it may be back in a moment");
    let told = registry.transitions(20 + STALE_AFTER);
    assert_eq!(told, [(agent.clone(), Liveness::Stale, 20)], "since the stream ended");
    registry.written(&told);
    assert!(registry.transitions(21 + STALE_AFTER).is_empty());
    assert_eq!(registry.transitions(20 + OFFLINE_AFTER), [(agent, Liveness::Offline, 20)]);
}

#[test]
fn a_stream_that_comes_back_in_a_moment_is_no_transition() {
    let registry = registry();
    let line = line_of("a");
    registry.join(&line, Liveness::Online);
    registry.part(&line, 10);
    assert!(registry.transitions(15).is_empty());
    registry.join(&line_of("a"), Liveness::Online);
    assert!(registry.transitions(20).is_empty());
}

#[test]
fn who_is_offline_and_written_so_costs_nothing_more() {
    let registry = registry();
    let line = line_of("a");
    registry.join(&line, Liveness::Online);
    registry.part(&line, 0);
    let told = registry.transitions(OFFLINE_AFTER);
    registry.written(&told);
    assert_eq!(registry.liveness(&"a".into(), OFFLINE_AFTER), None);
    assert!(registry.counts(OFFLINE_AFTER).is_empty());
}

#[test]
fn who_joined_while_its_absence_was_being_written_is_kept_and_told_again() {
    let registry = registry();
    let line = line_of("a");
    registry.join(&line, Liveness::Online);
    registry.part(&line, 0);
    let told = registry.transitions(OFFLINE_AFTER);
    registry.join(&line_of("a"), Liveness::Stale);
    registry.written(&told);
    assert_eq!(registry.transitions(OFFLINE_AFTER + 5), [("a".into(), Liveness::Online, OFFLINE_AFTER + 5)]);
}

#[test]
fn who_was_here_before_a_start_is_missed_after_it() {
    let registry = registry();
    registry.expect_back("a".into(), Liveness::Online, 0);
    assert!(registry.transitions(1).is_empty());
    assert_eq!(registry.transitions(STALE_AFTER), [("a".into(), Liveness::Stale, 0)]);
    registry.join(&line_of("a"), Liveness::Online);
    assert!(registry.transitions(2).is_empty(), "it is where the database says it is");
}

#[test]
fn of_the_samples_the_newest_are_kept() {
    let registry = registry();
    let sample = |at: usize| Sample { at_ms: at as i64, ..Sample::default() };
    registry.sample(&"a".into(), sample(0));
    assert!(registry.samples(&"a".into()).is_empty(), "nobody of that name is here");
    registry.join(&line_of("a"), Liveness::Never);
    (0..SAMPLES + 3).for_each(|at| registry.sample(&"a".into(), sample(at)));
    let kept: Vec<_> = registry.samples(&"a".into()).iter().map(|s| s.at_ms).collect();
    assert_eq!(kept, (3..SAMPLES as i64 + 3).collect::<Vec<_>>());
}
