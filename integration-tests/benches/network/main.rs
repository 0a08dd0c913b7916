//! What networks cost: their plans; one membership change, from the request to the frame at an agent; and the change of a
//! service link at a site, on a real router where there is one (skrouterd, named by SKROUTERD or found on PATH).
//!
//! `cargo bench -p muster-integration-tests --bench network`. Everything stays on loopback and stops by itself.

mod membership;
mod plans;
mod site;

use std::time::Duration;

fn main() -> anyhow::Result<()> {
    plans::measure();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        membership::measure().await?;
        site::measure().await
    })
}

/// Prints the median and the tail of some times, beside what is wanted of the median; gives the median.
fn print(what: &str, mut times: Vec<Duration>, wanted: Option<Duration>) -> Duration {
    times.sort_unstable();
    let at = |percent: usize| times[(percent * times.len() / 100).min(times.len() - 1)];
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let verdict = wanted.map_or(String::new(), |wanted| {
        format!(", wanted {:.0} ms {}", ms(wanted), if at(50) <= wanted { "ok" } else { "TOO MUCH" })
    });
    println!("  {what:58} p50 {:6.1} ms, p99 {:6.1} ms of {}{verdict}", ms(at(50)), ms(at(99)), times.len());
    at(50)
}
