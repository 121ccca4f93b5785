//! `bridge`: copies a topic to another bus, resumable and at least once.
//!
//! A message counts as copied when the target has given its receipt, and only then is the progress saved. So a bridge that
//! is killed copies the last messages once more, in order, and loses none. When the target refuses a message, those
//! that were on their way behind it may be there before it; they come again in their order too.

pub(crate) mod args;
mod copy;
mod progress;
mod source;

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use busline::{Bus, Offset, Topic};
use serde::Serialize;

use self::args::{BridgeArgs, Plan};
use self::copy::{Copying, Target};
use self::source::Source;
use crate::app::{App, Missing};
use crate::exit::Outcome;
use crate::{human, output};

/// Copies what the arguments say.
pub(crate) async fn run(app: &mut App, args: BridgeArgs) -> Outcome {
    let plan = Plan::of(args)?;
    let from = app.open_at(&plan.from.url, Missing::Fail).await?;
    let outcome = match app.open_at(&plan.to.url, Missing::Create).await {
        Ok(to) => {
            let outcome = between(app, &plan, &from, &to).await;
            let closed = app.close(&to).await;
            outcome.and(closed)
        }
        Err(failure) => Err(failure),
    };
    let closed = app.close(&from).await;
    outcome.and(closed)
}

async fn between(app: &mut App, plan: &Plan, from: &Bus, to: &Bus) -> Outcome {
    let started = app.clock.monotonic();
    let target = Target::open(to, plan).await?;
    let (source, resumed) = Source::open(from, plan).await?;
    let kept = source.kept(plan);
    let place = resumed.as_ref().map_or_else(
        || "it begins here".to_owned(),
        |next| format!("it goes on at {next}, where it had stopped"),
    );
    output::note(&format!("the progress is kept in {kept}; {place}"));
    if !target.keeps_all {
        output::warning("the target does not keep every field of a message, as its table says");
    }
    let copying = Copying::new(app, from, plan, (source, resumed.clone()), target);
    let (tally, outcome) = copying.run().await;
    let lag = copy::lag(from, plan, tally.next.as_ref()).await;
    let elapsed = app.clock.monotonic().saturating_sub(started);
    if app.out.is_json() {
        app.out.line(&Line {
            from: from.to_string(),
            from_topic: &plan.from.topic,
            to: to.to_string(),
            to_topic: &plan.to.topic,
            progress: &kept,
            resumed_at: resumed.as_ref(),
            copied: tally.copied,
            bytes: tally.bytes,
            next: tally.next.as_ref(),
            lag,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            status: match (&outcome, app.stop.is_requested()) {
                (Err(_), _) => "failed",
                (_, true) => "stopped",
                (_, false) => "done",
            },
        })?;
    } else {
        let behind = lag.map_or_else(String::new, |lag| format!(", {} behind", human::count(lag)));
        let copied = human::plural(tally.copied, "message");
        app.out.text(&format!("copied {copied} to {}{behind}", plan.to.topic))?;
    }
    app.out.flush()?;
    outcome.map_err(|failure| {
        failure.and(&format!("copied before: {}", human::plural(tally.copied, "message")))
    })
}

/// What a future comes to at once, if it does.
fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// The JSON line of a bridge.
#[derive(Serialize)]
struct Line<'a> {
    from: String,
    from_topic: &'a Topic,
    to: String,
    to_topic: &'a Topic,
    progress: &'a str,
    resumed_at: Option<&'a Offset>,
    copied: u64,
    bytes: u64,
    next: Option<&'a Offset>,
    lag: Option<u64>,
    elapsed_ms: u64,
    status: &'static str,
}
