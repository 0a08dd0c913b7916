//! Frames that no agent sends. Each is refused with a fitting status, or changes nothing; the other agents notice nothing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use muster_controller::{
    fleet::model::{Class, Key, Labels, Wanted},
    platform::db::query,
    staging::model::Status,
};
use muster_integration_tests::{
    World,
    raw::{self, Raw, encoded},
    world::{Agent, engines},
};
use muster_proto::{
    KIND_STAGING_OPERATION, MAX_DOCUMENT, MAX_ENROLL, MAX_FRAME, MAX_HELD, MAX_LOG_PIECE,
    fleet::{
        Accept, Ask, Done, EnrollRequest, Facts, Held, Hello, Leave, Log, Phase, Pong, Refuse, Report, Sample,
        enrollment_client::EnrollmentClient, from_agent::Frame, from_home, log, refusal::Reason,
    },
    refusal,
};
use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tokio::sync::Notify;
use tonic::Code;

use crate::staging::{becomes, create, holding, running, shop};

/// Random streams, and frames on each.
const STREAMS: usize = 24;
const FRAMES: usize = 40;

/// One who has an identity and misuses it, beside an agent that does its work.
struct Odd {
    world: World,
    witness: Agent,
    odd: Agent,
    /// What its last Welcome gave it.
    token: Bytes,
    /// The witness's operation, which goes on until it is let go.
    theirs: Key,
    until: Arc<Notify>,
}

// === impl Odd ===

impl Odd {
    async fn new(engine: Option<String>) -> Self {
        let world = World::on(engine).await;
        let witness = shop(&world).await;
        let (play, until) = holding("create");
        witness.host.play(play);
        let theirs = Key { kind: KIND_STAGING_OPERATION.into(), id: create(&world).await.0 };
        running(&witness, "create").await;
        let token = world.invite(Class::StagingHost, &Labels::new()).await;
        let odd = world.joined("odd", &token).await.expect("joined");
        Self { world, witness, odd, token: Bytes::new(), theirs, until }
    }

    fn hello(&self) -> Hello {
        let (oldest_protocol, newest_protocol) = muster_proto::PROTOCOL;
        let (ledger_id, session_token) = ("odd".into(), self.token.clone());
        Hello { oldest_protocol, newest_protocol, ledger_id, session_token, ..Hello::default() }
    }

    async fn channel(&self) -> tonic::transport::Channel {
        raw::channel(&self.world.home.address.to_string(), &self.odd.state).await
    }

    async fn stream(&mut self) -> Raw {
        self.world.gone(&self.odd).await;
        let (stream, welcome) = Raw::welcomed(self.channel().await, self.hello()).await.expect("welcome");
        self.token = welcome.session_token;
        stream
    }

    /// What comes of a stream that begins with these bytes.
    async fn begins_with(&self, first: Vec<Bytes>) -> tonic::Status {
        let opened = Raw::open(self.channel().await, first).await;
        match opened {
            Err(status) => status,
            Ok(mut stream) => stream.end().await.expect_err("it is refused"),
        }
    }

    /// The witness is on the stream it was on before all this, and answers on it.
    async fn nobody_else_noticed(&self, what: &str) {
        let line = self.world.home.fleet.registry.line(&self.witness.id).unwrap_or_else(|| panic!("{what}: cut off"));
        let nonce = u64::from_be_bytes(muster_pki::random());
        let pong = tokio::time::timeout(Duration::from_secs(10), line.ping(nonce)).await;
        pong.unwrap_or_else(|_| panic!("{what}: the witness does not answer"));
    }

    /// Home still takes in what agents say, and acknowledges it.
    async fn work_goes_on(&self) {
        self.until.notify_one();
        becomes(&self.world, Status::Running).await;
    }

    /// What home knows of the witness's operation.
    async fn theirs(&self) -> Wanted {
        let held = self.world.home.fleet.holdings(&self.witness.id).await.expect("read");
        held.into_iter().map(|(e, _)| e.wanted).find(|w| w.key == self.theirs).expect("an operation")
    }

    async fn count(&self, text: &str) -> i64 {
        let mut conn = self.world.home.fleet.db.read().await.expect("a connection");
        let row = query(text.to_owned()).fetch_one(&mut *conn).await.expect("counted");
        sqlx::Row::try_get(&row, 0).expect("a number")
    }
}

fn report(kind: &str, id: &str, result: usize) -> Report {
    let (kind, id) = (kind.into(), id.into());
    Report { seq: 1, kind, id, phase: Phase::Applied.into(), result: vec![0; result].into(), ..Report::default() }
}

fn piece(kind: &str, id: &str, offset: u64, length: usize) -> Log {
    let (kind, id, stream) = (kind.into(), id.into(), log::Stream::Stdout.into());
    Log { kind, id, attempt: 1, stream, offset, data: vec![b'x'; length].into(), gap: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_does_not_begin_as_it_should_is_refused() {
    for engine in engines() {
        let it = Odd::new(engine).await;
        let hello = it.hello();
        let held = |kind: &str, id: String| Held { kind: kind.into(), id, ..Held::default() };
        let long = "x".repeat(3_000_000);
        let cases = [
            ("another frame first", vec![encoded(Frame::Pong(Pong { nonce: 1 }))], Code::InvalidArgument, "Hello"),
            ("a frame without content", vec![Bytes::new()], Code::InvalidArgument, "Hello"),
            ("no protobuf", vec![Bytes::from_static(b"\xff\xff\xff\xff")], Code::Internal, ""),
            ("a message above the limit", vec![vec![0; MAX_FRAME + 1].into()], Code::OutOfRange, ""),
            (
                "protocols of the future",
                vec![encoded(Frame::Hello(Hello {
                    oldest_protocol: u32::MAX,
                    newest_protocol: u32::MAX,
                    ..hello.clone()
                }))],
                Code::FailedPrecondition,
                "upgrade the older",
            ),
            (
                "protocols the wrong way round",
                vec![encoded(Frame::Hello(Hello { oldest_protocol: 7, newest_protocol: 0, ..hello.clone() }))],
                Code::FailedPrecondition,
                "upgrade the older",
            ),
            (
                "a ledger with a long name",
                vec![encoded(Frame::Hello(Hello { ledger_id: long.clone(), ..hello.clone() }))],
                Code::InvalidArgument,
                "at most 256 bytes",
            ),
            (
                "a held id with NUL",
                vec![encoded(Frame::Hello(Hello { held: vec![held("a", "\0".into())], ..hello.clone() }))],
                Code::InvalidArgument,
                "no NUL",
            ),
            (
                "a done id that is long",
                vec![encoded(Frame::Hello(Hello {
                    done: vec![Done { id: long.clone(), ..Done::default() }],
                    ..hello.clone()
                }))],
                Code::InvalidArgument,
                "at most 256 bytes",
            ),
            (
                "too many held",
                vec![encoded(Frame::Hello(Hello {
                    held: (0..=MAX_HELD).map(|n| held("a", n.to_string())).collect(),
                    ..hello.clone()
                }))],
                Code::InvalidArgument,
                "4,096",
            ),
            (
                "a host with a long name",
                vec![encoded(Frame::Hello(Hello {
                    facts: Some(Facts { hostname: long.clone(), ..Facts::default() }),
                    ..hello.clone()
                }))],
                Code::InvalidArgument,
                "64 KiB",
            ),
        ];
        for (what, first, code, says) in cases {
            let status = it.begins_with(first).await;
            assert_eq!(status.code(), code, "{what}: {status:?}");
            assert!(status.message().contains(says), "{what}: {status:?}");
            it.nobody_else_noticed(what).await;
        }
        it.work_goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_says_nothing_is_ended_in_time() {
    let world = World::new().await;
    let token = world.invite(Class::StagingHost, &Labels::new()).await;
    let odd = world.joined("odd", &token).await.expect("joined");
    let channel = raw::channel(&world.home.address.to_string(), &odd.state).await;
    let refused = Raw::open(channel, vec![]).await.err().expect("refused");
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    assert!(refused.message().contains("Hello"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_breaks_a_rule_ends_its_own_stream_alone() {
    for engine in engines() {
        let mut it = Odd::new(engine).await;
        let cases = [
            ("a second Hello", encoded(Frame::Hello(it.hello())), Code::InvalidArgument),
            ("a frame without content", Bytes::new(), Code::InvalidArgument),
            ("no protobuf", Bytes::from_static(b"\x22\xff\xff\xff\x0f"), Code::Internal),
            ("a long report", encoded(Frame::Report(report("a.b", "c", MAX_DOCUMENT + 1))), Code::ResourceExhausted),
            (
                "a report that says much",
                encoded(Frame::Report(Report {
                    conditions: vec![muster_proto::fleet::Condition {
                        message: "x".repeat(1 << 20),
                        ..Default::default()
                    }],
                    ..report("a.b", "c", 1)
                })),
                Code::ResourceExhausted,
            ),
            (
                "a long piece of output",
                encoded(Frame::Log(piece("a.b", "c", 0, MAX_LOG_PIECE + 1))),
                Code::ResourceExhausted,
            ),
            ("a message above the limit", vec![0; MAX_FRAME + 1].into(), Code::OutOfRange),
        ];
        for (what, bytes, code) in cases {
            let mut stream = it.stream().await;
            stream.say_bytes(bytes).await;
            let status = stream.end().await.expect_err("the stream ends");
            assert_eq!(status.code(), code, "{what}: {status:?}");
            it.nobody_else_noticed(what).await;
        }
        it.work_goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_another_agents_work_changes_nothing() {
    for engine in engines() {
        let mut it = Odd::new(engine).await;
        let wanted = it.theirs().await;
        let (Key { kind, id }, generation) = (it.theirs.clone(), wanted.generation.unsigned_abs());
        let size = "select cast(coalesce(sum(ends - begins), 0) as bigint) from fleet_log";
        let reports = format!("select count(*) from fleet_report where agent_id = '{}'", it.odd.id);
        let before = (it.count(size).await, it.count(&reports).await);
        let mut stream = it.stream().await;
        for (kind, id) in [(kind.as_str(), id.as_str()), (&kind, "none"), ("no.such", "none"), ("\0", "\0")] {
            for (generation, seq, offset) in [(generation, 1, 0), (u64::MAX, u64::MAX, u64::MAX), (0, 0, u64::MAX - 1)]
            {
                let (k, i) = (kind.to_owned(), id.to_owned());
                stream
                    .say(Frame::Accept(Accept { kind: k.clone(), id: i.clone(), epoch: generation, generation }))
                    .await;
                let refuse = Refuse { kind: k, id: i, epoch: generation, generation, reason: 99, message: "\0".into() };
                stream.say(Frame::Refuse(refuse)).await;
                let ended = Report {
                    seq,
                    generation,
                    epoch: generation,
                    phase: 99,
                    outcome: true,
                    at_ms: i64::MIN,
                    attempt: u32::MAX,
                    ..report(kind, id, 3)
                };
                stream.say(Frame::Report(ended)).await;
                stream.say(Frame::Log(Log { attempt: u32::MAX, gap: u64::MAX, ..piece(kind, id, offset, 10) })).await;
            }
        }
        let mut acknowledged = 0;
        while acknowledged < i64::MAX.unsigned_abs() {
            if let Some(from_home::Frame::Ack(ack)) = stream.hear().await.expect("the stream goes on") {
                acknowledged = ack.up_to;
            }
        }
        assert_eq!(it.theirs().await, wanted);
        assert_eq!((it.count(size).await, it.count(&reports).await), before);
        it.nobody_else_noticed("the work of others").await;
        it.work_goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_there_is_enrolment_alone_and_little_of_it() {
    let world = World::new().await;
    let token = world.invite(Class::StagingHost, &Labels::new()).await;
    let odd = world.joined("odd", &token).await.expect("joined");
    let home = world.home.address.to_string();
    let hello = encoded(Frame::Hello(Hello::default()));
    let refused = Raw::open(raw::stranger(&home, &odd.state).await, vec![hello]).await.err().expect("refused");
    let reason = refusal::from_status(&refused).expect("a typed refusal").reason();
    assert_eq!((refused.code(), reason), (Code::Unauthenticated, Reason::NoCertificate));
    let mut enrollment = EnrollmentClient::new(raw::stranger(&home, &odd.state).await);
    let large = EnrollRequest { secret: vec![0; MAX_ENROLL + 1].into(), ..EnrollRequest::default() };
    let refused = enrollment.enroll(large).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    let odd = EnrollRequest { secret: "\0".into(), csr: "no request".into(), facts: None };
    let refused = enrollment.enroll(odd).await.expect_err("no request");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

/// Anything that can be said, with a liking for what is there and for what is at the edge.
fn any_frame(theirs: Key) -> impl Strategy<Value = Frame> {
    let kind = prop_oneof![Just("fleet.settings".to_owned()), Just(theirs.kind), ".{0,40}"];
    let id = prop_oneof![Just("settings".to_owned()), Just(theirs.id), ".{0,40}"];
    let number = || prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 1..9u64];
    let bytes = || vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let names = (kind, id, number(), number(), any::<u32>(), any::<i32>(), ".{0,80}", bytes());
    (0..10, names, any::<i64>(), any::<f64>(), any::<(bool, bool)>()).prop_map(
        |(which, (kind, id, epoch, generation, version, word, text, bytes), at_ms, share, (outcome, may_have_run))| {
            let stream = word.rem_euclid(4);
            match which {
                0 => Frame::Accept(Accept { kind, id, epoch, generation }),
                1 => Frame::Refuse(Refuse { kind, id, epoch, generation, reason: word, message: text }),
                2 | 3 => Frame::Report(Report {
                    seq: epoch,
                    kind,
                    id,
                    epoch,
                    generation,
                    phase: word.rem_euclid(11),
                    conditions: vec![],
                    result: bytes,
                    at_ms,
                    outcome,
                    may_have_run,
                    attempt: version,
                }),
                4 | 5 => {
                    Frame::Log(Log { kind, id, attempt: version, stream, offset: generation, data: bytes, gap: epoch })
                }
                6 => Frame::Sample(Sample {
                    at_ms,
                    cpu: share,
                    load1: -share,
                    memory_used_bytes: epoch,
                    ..Sample::default()
                }),
                7 => Frame::Ask(Ask { ask_id: text, kind, id, version, body: bytes }),
                8 => Frame::Pong(Pong { nonce: epoch }),
                _ => Frame::Leave(Leave { retry_after_ms: at_ms, homes: vec![text], message: id }),
            }
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_one_agent_says_the_others_are_served() {
    for engine in engines() {
        let mut it = Odd::new(engine).await;
        let frames = vec(any_frame(it.theirs.clone()), 1..FRAMES);
        let mut runner = TestRunner::default();
        for _ in 0..STREAMS {
            let said = frames.new_tree(&mut runner).expect("frames").current();
            let stream = it.stream().await;
            for frame in &said {
                stream.say(frame.clone()).await;
            }
            it.nobody_else_noticed(&format!("{said:?}")).await;
            drop(stream);
        }
        it.work_goes_on().await;
    }
}
