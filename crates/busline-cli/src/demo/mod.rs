//! `demo`: separate processes exchange real events over one embedded bus; one of them is killed.
//!
//! A publisher, a group `alerts` with two members, a group `statistics` and a broadcast `ticker` are
//! processes of this very program. Both members of `alerts` hold their first deliveries until one
//! of them was killed with SIGKILL; the other takes over what the dead one held. Nothing waits for
//! time to pass: every step follows from what a process told. In the end every figure is counted
//! from the bus.

pub(crate) mod args;
mod count;
mod data;
mod event;
mod process;
mod report;
mod worker;

use std::path::{Path, PathBuf};
use std::time::Duration;

use busline::{Bus, KeyPattern, Patterns, Position};
use tokio::sync::mpsc;

use crate::app::{App, url_of};
use crate::demo::args::{DemoArgs, Role};
use crate::exit::{self, Failure, Outcome};
use crate::human;

use self::count::{Count, Killed, Observed};
use self::data::Survey;
use self::event::{Event, GO};
use self::process::{News, Process};
pub(crate) use self::worker::work;

const TOPIC: &str = "quakes";
const ALERTS: &str = "alerts";
const STATISTICS: &str = "statistics";
const STRONG: &str = "quake.*.strong";

/// How many deliveries a member of `alerts` takes at a time.
const HOLD: u32 = 16;

/// Runs the demo and prints what came of it.
pub(crate) async fn run(app: &mut App, args: DemoArgs) -> Outcome {
    if !app.global.bus.is_empty() {
        return Err(Failure::usage("the demo makes a bus of its own; --keep DIR says where"));
    }
    let strong: Patterns = [KeyPattern::new(STRONG)?].into_iter().collect();
    let survey = data::survey(args.data.as_deref(), &strong)?;
    let directory = directory(args.keep.as_deref())?;
    let url = url_of(&directory)
        .ok_or_else(|| Failure::usage(format!("{} is not UTF-8", directory.display())))?;
    let counted =
        tokio::time::timeout(args.deadline, demo(app, &args, &url, &strong, survey)).await;
    let count = counted.unwrap_or_else(|_| {
        let text = format!("the demo did not end within {}", human::span(args.deadline));
        Err(Failure::new(exit::ELAPSED, format!("{text}; --deadline gives it more")))
    });
    let count = count.map_err(|failure| failure.and(&format!("its bus is left in {url}")))?;
    report::print(app, &count, &url, &directory)?;
    app.out.flush()?;
    match count.problems().as_slice() {
        [] => Ok(()),
        problems => Err(Failure::new(exit::PROBLEM, problems.join("; "))),
    }
}

/// An empty directory for the bus: it is left behind, to look around in.
fn directory(keep: Option<&Path>) -> Outcome<PathBuf> {
    let Some(keep) = keep else {
        let temporary = tempfile::Builder::new().prefix("busline-demo-").tempdir();
        let temporary = temporary.map_err(|error| Failure::file(&std::env::temp_dir(), &error))?;
        return Ok(temporary.keep());
    };
    let failed = |error: std::io::Error| Failure::file(keep, &error);
    std::fs::create_dir_all(keep).map_err(failed)?;
    if std::fs::read_dir(keep).map_err(failed)?.next().is_some() {
        return Err(Failure::usage(format!(
            "{} is not empty; name a new directory, or remove it first",
            keep.display()
        )));
    }
    Ok(keep.to_owned())
}

async fn demo(
    app: &mut App,
    args: &DemoArgs,
    url: &str,
    strong: &Patterns,
    survey: Survey,
) -> Outcome<Count> {
    let started = app.clock.monotonic();
    let bus = Bus::open(url).await?;
    // Declared before anybody publishes: the groups miss nothing.
    let alerts = bus.group(TOPIC, ALERTS)?.patterns(strong.clone());
    alerts.start(Position::Earliest).declare().await?;
    bus.group(TOPIC, STATISTICS)?.start(Position::Earliest).declare().await?;
    let durability = bus.capabilities().await?.durability;
    say(app, &format!("bus       {url}, a receipt survives '{durability}'"))?;

    let mut stage = Stage::start(url, args.data.as_deref(), survey)?;
    let observed = stage.run(app, args.data.as_deref()).await?;
    let groups = bus.admin().await?.groups(None).await?;
    stage.finish().await?;
    let mut count = count::count(&bus, groups, observed, strong).await?;
    count.elapsed = app.clock.monotonic() - started;
    bus.close(Duration::from_secs(5)).await?;
    Ok(count)
}

/// A line for people, as it goes.
fn say(app: &mut App, text: &str) -> Outcome {
    if !app.out.is_json() {
        app.out.text(text)?;
        app.out.flush()?;
    }
    Ok(())
}

/// The numbers of the processes.
const MEMBERS: [usize; 2] = [0, 1];
const STATISTICIAN: usize = 2;
const TICKER: usize = 3;
const PUBLISHER: usize = 4;

/// The processes, and what is known of each.
struct Stage {
    url: String,
    survey: Survey,
    processes: Vec<Process>,
    known: Vec<Known>,
    sender: mpsc::UnboundedSender<(usize, News)>,
    news: mpsc::UnboundedReceiver<(usize, News)>,
    killed: Option<Kill>,
    takeover: Option<Duration>,
}

/// The member that was killed.
struct Kill {
    number: usize,
    pid: u32,
    held: u64,
    at: Duration,
}

/// The latest that a process told.
#[derive(Debug, Default, Clone, Copy)]
struct Known {
    ready: bool,
    done: u64,
    held: u64,
}

impl Stage {
    fn start(url: &str, data: Option<&Path>, survey: Survey) -> Outcome<Self> {
        let (sender, news) = mpsc::unbounded_channel();
        let mut stage = Self {
            url: url.to_owned(),
            survey,
            processes: Vec::new(),
            known: vec![Known::default(); PUBLISHER + 1],
            sender,
            news,
            killed: None,
            takeover: None,
        };
        stage.add("alerts member 1", Role::Alerts, data)?;
        stage.add("alerts member 2", Role::Alerts, data)?;
        stage.add("statistics", Role::Statistics, data)?;
        stage.add("ticker", Role::Ticker, data)?;
        Ok(stage)
    }

    fn add(&mut self, name: &'static str, role: Role, data: Option<&Path>) -> Outcome {
        let number = self.processes.len();
        let process = Process::start(name, role, &self.url, data, number, &self.sender)?;
        self.processes.push(process);
        Ok(())
    }

    /// Goes on from one thing told to the next, until everything is published and settled.
    async fn run(&mut self, app: &mut App, data: Option<&Path>) -> Outcome<Observed> {
        let mut started = None;
        while !self.is_complete() {
            let Some((number, news)) = self.news.recv().await else { break };
            self.note(app, number, news).await?;
            if started.is_none() && self.known.iter().take(PUBLISHER).all(|known| known.ready) {
                for process in &self.processes {
                    say(app, &format!("started   {} (pid {})", process.name, process.pid))?;
                }
                self.add("publisher", Role::Publisher, data)?;
                let publisher = &self.processes[PUBLISHER];
                let text = format!("started   {} (pid {})", publisher.name, publisher.pid);
                say(app, &text)?;
                started = Some(app.clock.now());
                if self.survey.selected == 0 {
                    say(app, "no record is strong: alerts has nothing to do, nobody is killed")?;
                }
            }
            self.maybe_kill(app).await?;
        }
        Ok(Observed {
            published: self.known[PUBLISHER].done,
            ended: app.clock.now(),
            killed: self.killed.as_ref().map(|kill| Killed { pid: kill.pid, held: kill.held }),
            takeover: self.takeover,
        })
    }

    async fn note(&mut self, app: &mut App, number: usize, news: News) -> Outcome {
        let event = match news {
            News::Told(event) => event,
            News::Silent if self.may_be_silent(number) => return Ok(()),
            News::Silent => {
                // How it ended says more than that it did.
                self.processes[number].finish().await?;
                let name = self.processes[number].name;
                return Err(Failure::new(exit::PROBLEM, format!("'{name}' ended before its work")));
            }
        };
        let known = &mut self.known[number];
        match event {
            Event::Ready => known.ready = true,
            Event::Published { stored } => known.done = stored,
            Event::Holding { deliveries } => known.held = deliveries,
            Event::Seen { deliveries } => known.done = deliveries,
            Event::Settled { deliveries, redelivered } => {
                known.done = deliveries;
                let Some(kill) = &self.killed else { return Ok(()) };
                if MEMBERS.contains(&number) && redelivered > 0 && self.takeover.is_none() {
                    let after = app.clock.monotonic() - kill.at;
                    self.takeover = Some(after);
                    let name = self.processes[number].name;
                    let text =
                        format!("took over {name} settled them, {} later", human::span(after));
                    say(app, &text)?;
                }
            }
        }
        Ok(())
    }

    fn may_be_silent(&self, number: usize) -> bool {
        let killed = self.killed.as_ref().is_some_and(|kill| kill.number == number);
        killed || (number == PUBLISHER && self.known[PUBLISHER].done == self.survey.records)
    }

    /// Kills a member as soon as both hold all that they can.
    async fn maybe_kill(&mut self, app: &mut App) -> Outcome {
        let held = MEMBERS.map(|member| self.known[member].held);
        let most = self.survey.selected.min(u64::from(2 * HOLD));
        if self.killed.is_some() || most == 0 || held.iter().sum::<u64>() < most {
            return Ok(());
        }
        let (victim, heir) = if held[0] >= held[1] { (0, 1) } else { (1, 0) };
        let at = app.clock.monotonic();
        self.processes[victim].kill().await?;
        let pid = self.processes[victim].pid;
        self.killed = Some(Kill { number: victim, pid, held: held[victim], at });
        let name = self.processes[victim].name;
        let holding = human::plural(held[victim], "delivery");
        let text = format!("SIGKILL   {name} (pid {pid}), holding {holding}");
        say(app, &text)?;
        self.processes[heir].tell(GO).await
    }

    /// Whether everything is published, and settled by who must.
    fn is_complete(&self) -> bool {
        let done = |number: usize| self.known[number].done;
        let records = self.survey.records;
        let alerts: u64 = MEMBERS.map(done).iter().sum();
        done(PUBLISHER) == records
            && done(STATISTICIAN) >= records
            && done(TICKER) >= records
            && alerts >= self.survey.selected
    }

    /// Lets all end, and sees that they do.
    async fn finish(&mut self) -> Outcome {
        let killed = self.killed.as_ref().map(|kill| kill.number);
        for (number, process) in self.processes.iter_mut().enumerate() {
            if Some(number) != killed {
                process.finish().await?;
            }
        }
        Ok(())
    }
}
