//! What an agent measured of late, as lines to draw. Pure.

use crate::{fleet::api::SampleInfo, web::view::bytes};

/// Size of a chart, in its own units.
const CHART: (f64, f64) = (240.0, 48.0);

/// What one measure did of late.
#[derive(Debug, PartialEq, Eq)]
pub struct Chart {
    /// Of what.
    pub label: &'static str,
    /// The newest value, in words.
    pub latest: String,
    /// The line, from left to right.
    pub points: String,
}

/// The charts of an agent's samples, oldest first; none while there are too few to draw.
pub fn charts(samples: &[SampleInfo]) -> Vec<Chart> {
    let Some(last) = samples.last().filter(|_| samples.len() > 1) else { return Vec::new() };
    let share = |used: u64, total: u64| if total == 0 { 0.0 } else { used as f64 / total as f64 };
    let rate = |pair: &[SampleInfo], of: fn(&SampleInfo) -> u64| {
        let seconds = (pair[1].at - pair[0].at).max(1) as f64 / 1000.0;
        // A counter that went back was reset by a boot.
        of(&pair[1]).saturating_sub(of(&pair[0])) as f64 / seconds
    };
    let each = |of: &dyn Fn(&SampleInfo) -> f64| samples.iter().map(of).collect::<Vec<_>>();
    let rates = |of: fn(&SampleInfo) -> u64| samples.windows(2).map(|p| rate(p, of)).collect::<Vec<_>>();
    let (received, sent) = (rates(|s| s.network_received_bytes), rates(|s| s.network_sent_bytes));
    let per_second = |rates: &[f64]| format!("{}/s", bytes(rates.last().copied().unwrap_or_default() as u64));
    let of = |used: u64, total: u64| format!("{} of {}", bytes(used), bytes(total));
    let chart = |label, latest, values: Vec<f64>, top| Chart { label, latest, points: points(&values, top) };
    vec![
        chart("Processor", format!("{:.0} %", last.cpu * 100.0), each(&|s| s.cpu), 1.0),
        chart(
            "Memory",
            of(last.memory_used_bytes, last.memory_total_bytes),
            each(&|s| share(s.memory_used_bytes, s.memory_total_bytes)),
            1.0,
        ),
        chart(
            "Disk",
            of(last.disk_used_bytes, last.disk_total_bytes),
            each(&|s| share(s.disk_used_bytes, s.disk_total_bytes)),
            1.0,
        ),
        chart("Load", format!("{:.2}", last.load1), each(&|s| s.load1), 0.0),
        chart("Received", per_second(&received), received, 0.0),
        chart("Sent", per_second(&sent), sent, 0.0),
        chart("The agent itself", bytes(last.agent_rss_bytes), each(&|s| s.agent_rss_bytes as f64), 0.0),
    ]
}

/// The points of a line, from left to right. `top` is what the upper edge stands for; 0: the largest value.
pub fn points(values: &[f64], top: f64) -> String {
    let largest = values.iter().copied().fold(0.0, f64::max);
    let top = if top > 0.0 { top } else { largest.max(f64::MIN_POSITIVE) };
    let step = CHART.0 / (values.len().max(2) - 1) as f64;
    let point = |(n, value): (usize, &f64)| {
        let height = (value / top).clamp(0.0, 1.0) * (CHART.1 - 4.0);
        format!("{:.1},{:.1}", n as f64 * step, CHART.1 - 2.0 - height)
    };
    values.iter().enumerate().map(point).collect::<Vec<_>>().join(" ")
}
