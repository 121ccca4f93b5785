//! `consume`: as a member of a group, or alone; each delivery is shown, then settled.

use std::collections::VecDeque;
use std::time::Duration;

use busline::transport::OnDifference;
use busline::{
    Bus, Capability, Consumer, Delivery, ErrorKind, GroupName, Outcome as Settlement, Position,
    Settled, dead,
};

use crate::app::{App, Missing};
use crate::args::{ConsumeArgs, OutcomeArgs, patterns};
use crate::exit::{self, Failure, Outcome};
use crate::human;
use crate::line::Line;
use crate::output;

/// The most settles whose answers are outstanding.
const SETTLING_MAX: usize = 4096;

/// Consumes until the count, the quiet or a signal.
pub(crate) async fn run(app: &mut App, args: ConsumeArgs) -> Outcome {
    let bus = app.open(Missing::Create).await?;
    let window = window(&args);
    let consumer = match &args.group {
        Some(group) => join(&bus, &args, group, window).await?,
        None => {
            let broadcast = bus.broadcast(args.topic.clone())?.max_in_flight(window);
            broadcast.patterns(patterns(args.pattern.clone())).subscribe().await?
        }
    };
    let mut run = Run {
        app,
        consumer,
        outcome: settlement(&args.outcome),
        held: VecDeque::new(),
        settling: VecDeque::new(),
        shown: 0,
        lost: 0,
    };
    let outcome = run.consume(&args, window).await;
    let (shown, lost) = (run.shown, run.lost);
    drop(run);
    let closed = app.close(&bus).await;
    outcome.and(closed)?;
    if lost > 0 {
        let text = format!("{} lost before they were settled", human::plural(lost, "delivery"));
        return Err(Failure::new(exit::PROBLEM, format!("{text}; they are delivered again")));
    }
    match args.count {
        Some(count) if shown < count && !app.stop.is_requested() => Err(Failure::new(
            exit::ELAPSED,
            format!("{} of {} came", human::count(shown), human::plural(count, "delivery")),
        )),
        _ => Ok(()),
    }
}

/// The most unsettled deliveries: never more than are still wanted.
fn window(args: &ConsumeArgs) -> u32 {
    let wanted = args.count.map_or(u32::MAX, |count| u32::try_from(count).unwrap_or(u32::MAX));
    args.max_in_flight.min(wanted.max(1))
}

/// Joins the group as it is, or declares it where it is missing or patterns are given.
async fn join(bus: &Bus, args: &ConsumeArgs, group: &GroupName, window: u32) -> Outcome<Consumer> {
    let builder = bus.group(args.topic.clone(), group.clone())?.max_in_flight(window);
    let is_dead = group.as_str() == dead::DEAD_GROUP;
    if args.pattern.is_empty() || is_dead {
        match builder.clone().join().await {
            // Declared here it would make an ordinary topic pass for one of dead letters.
            Err(error) if error.kind() == ErrorKind::NotFound && is_dead => {
                return Err(Failure::usage(format!(
                    "topic '{}' holds no dead letters, which '{group}' is reserved for; \
                     choose another group",
                    args.topic
                )));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            joined => return Ok(joined?),
        }
    }
    let start = match &args.from {
        Some(position) => position.clone(),
        None if bus.capabilities().await?.get(Capability::Replay).is_kept() => Position::Earliest,
        None => Position::Latest,
    };
    let builder = builder.patterns(patterns(args.pattern.clone())).start(start);
    match builder.on_difference(OnDifference::Refuse).subscribe().await {
        Err(error) if error.kind() == ErrorKind::Conflict => {
            Err(Failure::from(error).and("without --pattern it is joined as it is"))
        }
        joined => Ok(joined?),
    }
}

fn settlement(args: &OutcomeArgs) -> Settlement {
    match (args.ack, &args.retry_after, &args.reject) {
        (false, Some(after), _) => Settlement::Retry { after: Some(*after) },
        (false, _, Some(reason)) => Settlement::Reject { reason: reason.clone() },
        _ => Settlement::Ack,
    }
}

fn name(outcome: &Settlement) -> &'static str {
    match outcome {
        Settlement::Ack => "ack",
        Settlement::Retry { .. } => "retry",
        Settlement::Reject { .. } => "reject",
    }
}

struct Run<'a> {
    app: &'a mut App,
    consumer: Consumer,
    outcome: Settlement,
    /// Shown and not settled yet.
    held: VecDeque<Delivery>,
    settling: VecDeque<Settled>,
    shown: u64,
    lost: u64,
}

impl Run<'_> {
    async fn consume(&mut self, args: &ConsumeArgs, window: u32) -> Outcome {
        while args.count.is_none_or(|count| self.shown < count) {
            let Some(chunk) = self.next(args.timeout).await? else { break };
            for delivery in chunk {
                self.show(&delivery)?;
                self.held.push_back(delivery);
            }
            // Nobody has seen it before it is flushed: only then it may be settled.
            self.app.out.flush()?;
            // The last ones are held until all have come: settling makes room for more, and what
            // comes beyond the count would have been delivered for nothing.
            let hold = args.count.map_or(0, |count| {
                let more = count.saturating_sub(self.shown);
                u64::from(window).saturating_sub(more)
            });
            let hold = if args.count == Some(self.shown) { 0 } else { hold };
            self.settle(usize::try_from(hold).unwrap_or(usize::MAX)).await?;
        }
        self.consumer.stop().await?;
        self.settle(0).await?;
        while let Some(settled) = self.settling.pop_front() {
            self.answer(settled).await?;
        }
        Ok(())
    }

    /// The next deliveries; `None` when it is quiet or a signal came.
    async fn next(&mut self, timeout: Option<Duration>) -> Outcome<Option<Vec<Delivery>>> {
        let mut stop = self.app.stop.clone();
        let quiet = async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.requested() => Ok(None),
            chunk = self.consumer.next_chunk() => Ok(chunk?),
            () = quiet => Ok(None),
        }
    }

    fn show(&mut self, delivery: &Delivery) -> Outcome {
        let line = Line::delivery(delivery, name(&self.outcome));
        if self.app.out.is_json() {
            self.app.out.line(&line)?;
        } else {
            let text = line.human(&self.app.out);
            self.app.out.text(&text)?;
        }
        self.shown += 1;
        Ok(())
    }

    /// Settles all but the newest `hold`.
    async fn settle(&mut self, hold: usize) -> Outcome {
        while self.held.len() > hold {
            let Some(delivery) = self.held.pop_front() else { break };
            self.settling.push_back(delivery.settle(self.outcome.clone()));
            if self.settling.len() > SETTLING_MAX
                && let Some(settled) = self.settling.pop_front()
            {
                self.answer(settled).await?;
            }
        }
        Ok(())
    }

    async fn answer(&mut self, settled: Settled) -> Outcome {
        match settled.await {
            Err(error) if error.kind() == ErrorKind::Lost => {
                if self.lost == 0 {
                    output::warning(&error.to_string());
                }
                self.lost += 1;
                Ok(())
            }
            answer => Ok(answer?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_in_flight_than_wanted() {
        use clap::Parser;
        let of = |more: &[&str]| {
            let args = ["busline", "consume", "t", "--group", "g"].iter().chain(more);
            match crate::args::Cli::parse_from(args).verb {
                crate::args::Verb::Consume(args) => window(&args),
                _ => unreachable!("it is consume"),
            }
        };
        assert_eq!(of(&[]), 256);
        assert_eq!(of(&["--count", "3"]), 3);
        assert_eq!(of(&["--count", "0"]), 1);
        assert_eq!(of(&["--count", "900", "--max-in-flight", "7"]), 7);
    }
}
