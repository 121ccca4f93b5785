//! Figures of all repetitions, and what they are held against.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Result, Setup, text};

/// One row: a work, what does it, and the figures of each repetition.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: BTreeMap<(&'static str, &'static str), Vec<f64>>,
}

/// What is asked: of a work, Busline beside whom, how many times at least; a negative one is a bound from above.
const GOALS: &[(&str, &str, &str, f64)] = &[
    ("G17", "publish, confirmed, msg/s", "lapin", 0.95),
    ("G17", "consume, multiple acks, msg/s", "lapin", 0.95),
    ("G17", "publish one, p50 us", "lapin", -1.05),
    ("G18", "consume and settle, msg/s", "lapin, each ack awaited", 2.0),
    ("G18", "service events, msg/s", "eventail", 1.5),
    ("issue", "commands answered, 1/s", "eventail", 5.0),
    ("issue", "commands, 1/s of its own CPU", "eventail", 5.0),
    ("issue", "events, 1/s of its own CPU", "eventail", 1.5),
];

/// The works whose processor time is compared, per message.
const CPU: &[&str] = &["publish CPU, us/msg", "consume CPU, us/msg"];
const CPU_MORE_US_MAX: f64 = 1.5;

impl Figures {
    pub(crate) fn add(&mut self, work: &'static str, who: &'static str, figure: f64) {
        self.rows.entry((work, who)).or_default().push(figure);
    }

    fn median(&self, work: &'static str, who: &'static str) -> Option<f64> {
        self.rows.get(&(work, who)).map(|figures| median(figures))
    }

    pub(crate) fn print(&self, setup: &Setup) {
        println!(
            "# {} repetitions of {} messages of 100 B, persistent, to a durable queue; confirms and acks in flight: 1000",
            setup.repetitions, setup.messages
        );
        for ((work, who), figures) in &self.rows {
            let (least, most) =
                figures.iter().fold((f64::INFINITY, 0.0_f64), |(l, m), f| (l.min(*f), m.max(*f)));
            let middle = median(figures);
            if setup.json {
                println!(
                    "{}",
                    serde_json::json!({ "work": work, "who": who, "median": middle, "least": least, "most": most })
                );
            } else {
                println!("{work:32} {who:26} {middle:>12.1}   {least:.1} to {most:.1}");
            }
        }
        for (goal, work, who, bound) in GOALS {
            let (Some(ours), Some(theirs)) = (self.median(work, "busline"), self.median(work, who))
            else {
                println!("{goal:6} {work:32} / {who}: NOT MEASURED");
                continue;
            };
            let ratio = ours / theirs;
            let met = if *bound < 0.0 { ratio <= -bound } else { ratio >= *bound };
            let sign = if *bound < 0.0 { "<=" } else { ">=" };
            say(goal, work, who, ratio, &format!("{sign} {} x", bound.abs()), met);
        }
        for work in CPU {
            if let (Some(ours), Some(theirs)) =
                (self.median(work, "busline"), self.median(work, "lapin"))
            {
                let more = ours - theirs;
                say("G17", work, "lapin, more", more, "<= 1.5", more <= CPU_MORE_US_MAX);
            }
        }
    }
}

fn say(goal: &str, work: &str, who: &str, figure: f64, bound: &str, met: bool) {
    let verdict = if met { "met" } else { "MISSED" };
    println!("{goal:6} {work:32} / {who}: {figure:.2} ({bound}) {verdict}");
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Time and processor time of this process since a moment.
pub(crate) struct Meter {
    start: Instant,
    cpu: Duration,
}

impl Meter {
    pub(crate) fn start() -> Result<Self> {
        #[allow(clippy::disallowed_methods, reason = "a benchmark reads clocks")]
        let start = Instant::now();
        Ok(Self { start, cpu: cpu("self")? })
    }

    /// Messages a second, and microseconds of processor time a message.
    pub(crate) fn stop(self, messages: usize) -> Result<(f64, f64)> {
        let (seconds, cpu) =
            (self.start.elapsed().as_secs_f64(), cpu("self")?.saturating_sub(self.cpu));
        Ok((messages as f64 / seconds, cpu.as_secs_f64() * 1e6 / messages as f64))
    }

    pub(crate) fn us(&self) -> f64 {
        self.start.elapsed().as_secs_f64() * 1e6
    }
}

/// What all threads of a process have used; Linux alone counts it like this.
pub(crate) fn cpu(process: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).map_err(text)?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    // utime and stime, the 14th and 15th; the name, which is left out, and the number before it are two.
    let (user, system) = (ticks(12), ticks(13));
    let ticks = user.zip(system).map(|(user, system)| user + system);
    Ok(Duration::from_millis(10 * ticks.ok_or("the figures of a process are not understood")?))
}
