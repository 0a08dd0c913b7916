//! What experiments cost, beside what netunicorn's own services took for the same on two cores and loopback.
//!
//! `cargo bench -p muster-integration-tests --bench experiment`, or with `crowd` or `node` after `--` for a part of it. A
//! *crowd* of simulated nodes, whose drivers end what they are given at once, shows what home costs; one *node* as a real
//! program shows what an agent costs, with netunicorn's own executor where `MUSTER_TEST_PYTHON` names a Python of it.
//! Everything stays on loopback and stops by itself.

mod crowd;
mod gateway;
mod home;
mod http;
mod node;
mod nodes;
#[path = "../fleet/part.rs"]
mod part;

use std::{path::Path, time::Duration};

/// Netunicorn's own measure of the same, and what is wanted here.
struct Wanted {
    upstream: Option<(f64, f64)>,
    wanted: Option<f64>,
    /// Whether more is better.
    more: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match words[..] {
        ["home", folder, port] => runtime()?.block_on(home::run(Path::new(folder), port.parse()?)),
        ["nodes", folder, number] => runtime()?.block_on(nodes::run(Path::new(folder), number.parse()?)),
        ["crowd"] => crowd::measure(),
        ["node"] => node::measure(),
        _ => {
            crowd::measure()?;
            node::measure()
        }
    }
}

// === printing ===

impl Wanted {
    /// Less than this is wanted; upstream took from so much to so much.
    fn less(upstream: (f64, f64), wanted: f64) -> Self {
        Self { upstream: Some(upstream), wanted: Some(wanted), more: false }
    }

    /// More than this is wanted; upstream reached from so much to so much.
    fn more(upstream: (f64, f64), wanted: f64) -> Self {
        Self { upstream: Some(upstream), wanted: Some(wanted), more: true }
    }

    /// It is only told.
    fn none() -> Self {
        Self { upstream: None, wanted: None, more: false }
    }
}

/// Prints a figure beside upstream's, the ratio of the better way round, and whether it is as wanted.
fn line(what: &str, ours: f64, unit: &str, it: &Wanted) {
    let upstream = it.upstream.map_or(String::new(), |(low, high)| {
        let near = if it.more { high } else { low };
        let (ratio, word) = if it.more { (ours / near, "as many") } else { (near / ours, "quicker") };
        let range = if low == high { format!("{low:.0}") } else { format!("{low:.0}–{high:.0}") };
        format!(", upstream {range} {unit}: {ratio:.1} times {word}")
    });
    let verdict = it.wanted.map_or(String::new(), |wanted| {
        let is_well = if it.more { ours >= wanted } else { ours <= wanted };
        format!(", wanted {wanted:.0} {}", if is_well { "ok" } else { "MISSED" })
    });
    println!("  {what:80} {ours:9.1} {unit}{upstream}{verdict}");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The median of some times, milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    ms(times[times.len() / 2])
}
