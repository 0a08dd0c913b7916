//! What a fleet costs, beside what the same number of bare streams costs in the same run.
//!
//! `cargo bench -p muster-integration-tests --bench fleet -- [AGENTS …]` starts a controller and that many agents (2,000
//! and 10,000 unless told), and before each a bare tonic server with as many clients. It prints memory per idle agent, the
//! time of a document's way to all of them, and processor time per reconnect after a restart, each with its ratio; then
//! what an agent's process takes, and what an operation's way costs. Everything stays on loopback and stops by itself.

mod agents;
mod clients;
mod floor;
mod home;
mod operation;
mod part;

use std::{net::TcpListener, path::Path, time::Duration};

use part::Part;

/// Documents each way before memory is looked at, and their size.
const WARM: (usize, &str) = (20, "1024 echo");

/// Documents whose way is timed: the median counts.
const TIMED: usize = 5;

/// After the last agent is back, what follows from it is written within this time.
const SETTLE: Duration = Duration::from_secs(5);

/// Figures of one side.
struct Figures {
    /// Resident memory per agent, bytes.
    memory: f64,
    /// From the commit to the last durable answer, microseconds.
    fan_out: f64,
    /// Processor time per agent that came back, microseconds.
    reconnect: f64,
    /// Until all were back, from the restart.
    back: Duration,
}

/// Bytes that no two documents share. A form is a length, and `echo` when the answer is to be as long.
fn document(form: &str) -> Vec<u8> {
    let (length, manner) = form.split_once(' ').unwrap_or((form, ""));
    let mut bytes = vec![u8::from(manner == "echo")];
    bytes.extend(muster_pki::random::<32>());
    bytes.resize(length.parse().expect("a length"), b'.');
    bytes
}

/// The answer to a document.
fn reply(document: &[u8]) -> &[u8] {
    if document.first() == Some(&1) { document } else { &document[..document.len().min(16)] }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if operation::is_wrapper(words[0]) {
        return operation::wrap();
    }
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match words[1..] {
        ["home", folder, port] => runtime()?.block_on(home::run(Path::new(folder), port.parse()?)),
        ["agents", folder, number] => runtime()?.block_on(agents::run(Path::new(folder), number.parse()?)),
        ["floor", folder, port] => runtime()?.block_on(floor::serve(Path::new(folder), port.parse()?)),
        ["clients", folder, number, port] => {
            runtime()?.block_on(clients::dial(folder.into(), number.parse()?, port.parse()?))
        }
        ref numbers => {
            let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
            let numbers = if numbers.is_empty() { vec![2000, 10_000] } else { numbers };
            numbers.into_iter().try_for_each(compare)?;
            operation::measure()
        }
    }
}

fn compare(number: usize) -> anyhow::Result<()> {
    println!("\n{number} agents");
    let floor = measure_floor(number)?;
    let ours = measure_ours(number)?;
    line("memory per idle agent", "kB", 1024.0, floor.memory, ours.memory, 1.5);
    line("document to all, last durable answer", "ms", 1000.0, floor.fan_out, ours.fan_out, 2.5);
    line("processor time per reconnect", "µs", 1.0, floor.reconnect, ours.reconnect, 1.5);
    println!("  all back after {:.1} s, floor {:.1} s", ours.back.as_secs_f64(), floor.back.as_secs_f64());
    if !(35.0..=50.0).contains(&(floor.memory / 1024.0)) {
        println!("  note: the floor's memory lies outside 35–50 kB, so the ratio says little");
    }
    Ok(())
}

fn line(what: &str, unit: &str, scale: f64, floor: f64, ours: f64, bound: f64) {
    let ratio = ours / floor;
    let verdict = if ratio <= bound { "ok" } else { "TOO MUCH" };
    let (floor, ours) = (floor / scale, ours / scale);
    println!("  {what:38} floor {floor:8.1} {unit}  ours {ours:8.1} {unit}  ratio {ratio:4.2} of {bound} {verdict}");
}

fn measure_floor(number: usize) -> anyhow::Result<Figures> {
    let folder = tempfile::tempdir()?;
    clients::found(folder.path())?;
    let (path, port) = (folder.path().to_string_lossy().into_owned(), free_port()?.to_string());
    let start = || Part::start(&["floor", &path, &port]).0;
    let server = start();
    let empty = server.rss();
    let (_clients, _) = Part::start(&["clients", &path, &number.to_string(), &port]);
    measure(server, start, number, empty, || ())
}

fn measure_ours(number: usize) -> anyhow::Result<Figures> {
    let folder = tempfile::tempdir()?;
    let inside = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (home, port) = (inside("home"), free_port()?.to_string());
    let start = || Part::start(&["home", &home, &port]).0;
    let mut server = start();
    let token = server.ask(&format!("invite {number}"));
    let (mut agents, _) = Part::start(&["agents", &inside("agents"), &number.to_string()]);
    agents.ask(&format!("join {token}"));
    // Enrolling leaves its own traces; memory at none is that of a controller without agents that has seen them join.
    drop(server);
    server = start();
    let empty = server.rss();
    agents.ask("start");
    let mut turns = None;
    measure(server, start, number, empty, || {
        let now = agents.number("turns");
        let before = turns.replace(now).unwrap_or(now);
        assert_eq!(before, now, "something was applied again after a restart");
    })
}

/// Figures of a server whose clients are on their way. `look` is called before and after the restart.
fn measure(
    mut server: Part,
    start: impl Fn() -> Part,
    number: usize,
    empty: u64,
    mut look: impl FnMut(),
) -> anyhow::Result<Figures> {
    let all = u64::try_from(number)?;
    server.until("online", all);
    for _ in 0..WARM.0 {
        server.number(&format!("put {}", WARM.1));
    }
    std::thread::sleep(SETTLE);
    let memory = (server.rss() - empty) as f64 / number as f64;
    let mut times: Vec<_> = (0..TIMED).map(|_| server.number("put 1024")).collect();
    times.sort_unstable();
    look();
    drop(server);
    let mut server = start();
    let (begun, before) = (std::time::Instant::now(), server.cpu());
    server.until("online", all);
    let back = begun.elapsed();
    std::thread::sleep(SETTLE);
    let reconnect = (server.cpu() - before).as_micros() as f64 / number as f64;
    look();
    Ok(Figures { memory, fan_out: times[TIMED / 2] as f64, reconnect, back })
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
