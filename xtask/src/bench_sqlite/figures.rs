//! Figures of all repetitions, and what they are held against.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Layout, Setup};

/// What is asked of each work: Busline beside the raw client, at least.
const GOAL: f64 = 0.8;

/// Messages a second of each repetition, by layout, work and who does it.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: BTreeMap<(Layout, &'static str), [Vec<f64>; 2]>,
    /// How many messages a transaction had that Busline joined.
    joined: BTreeMap<Layout, Vec<f64>>,
}

/// Whose figure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Ours,
    Raw,
}

impl Figures {
    pub(crate) fn add(&mut self, layout: Layout, work: &'static str, who: Who, rate: f64) {
        let [ours, raw] = self.rows.entry((layout, work)).or_default();
        if who == Who::Ours { ours.push(rate) } else { raw.push(rate) }
    }

    pub(crate) fn add_joined(&mut self, layout: Layout, messages: f64) {
        self.joined.entry(layout).or_default().push(messages);
    }

    pub(crate) fn print(&self, setup: &Setup) {
        println!(
            "# {} repetitions of {} messages of {} B; a receipt survives loss of power: synchronous=FULL, \
             a write-ahead log in our own layout, a rollback journal in that of Hermes",
            setup.repetitions, setup.messages, setup.size
        );
        for (layout, joined) in &self.joined {
            println!(
                "# {}: {:.0} messages a transaction, ours and raw",
                layout.name(),
                median(joined)
            );
        }
        for ((layout, work), [ours, raw]) in &self.rows {
            let (ours, raw) = (median(ours), median(raw));
            let ratio = ours / raw;
            if setup.json {
                let row = serde_json::json!({
                    "layout": layout.name(), "work": work, "ours": ours, "raw": raw, "ratio": ratio,
                });
                println!("{row}");
                continue;
            }
            let verdict = if ratio >= GOAL { "met" } else { "MISSED" };
            println!(
                "{:14} {work:26} {ours:>12.0} msg/s, raw {raw:>12.0}, ratio {ratio:.2} (>= {GOAL}) {verdict}",
                layout.name()
            );
        }
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures from now on.
pub(crate) struct Meter(Instant);

impl Meter {
    pub(crate) fn start() -> Self {
        #[allow(clippy::disallowed_methods, reason = "a benchmark reads clocks")]
        Self(Instant::now())
    }

    /// Messages a second.
    pub(crate) fn rate(self, messages: usize) -> f64 {
        messages as f64 / self.0.elapsed().as_secs_f64()
    }
}
