//! `dead purge`: letters are dropped for good.

use busline::ErrorKind;

use super::queue::Queue;
use super::sweep::Sweep;
use super::{Letters, Tally, line_of, reason_of};
use crate::admin::ask;
use crate::app::{App, Missing};
use crate::args::PurgeArgs;
use crate::exit::Outcome;
use crate::human;
use crate::progress::Progress;

/// Drops letters, or shows which would be.
pub(super) async fn run(app: &mut App, args: PurgeArgs) -> Outcome {
    let bus = app.open(Missing::Fail).await?;
    let outcome = match Queue::find(&bus, &args.which.queue).await? {
        None => {
            let status = if args.caution.dry_run { "would_purge" } else { "purged" };
            Tally::default().print(app, None, status, "dropped")
        }
        Some(queue) => {
            let purged = purge(app, &args, &queue).await;
            purged.and(queue.close().await)
        }
    };
    let closed = app.close(&bus).await;
    outcome.and(closed)
}

async fn purge(app: &mut App, args: &PurgeArgs, queue: &Queue) -> Outcome {
    let mut tally = look(args, queue).await?;
    let letters = human::plural(tally.matched, "letter");
    let what = format!("drop {letters} of {} for good", queue.name());
    if let Some(status) = ask(&what, args.caution, "would_purge")? {
        tally.done = tally.matched;
        tally.remaining = queue.waiting().await?;
        return tally.print(app, Some(queue), status, "would be dropped");
    }
    let mut outcome = Ok(());
    let mut remaining = None;
    if args.which.filter.is_none() && args.which.count.is_none() && !queue.is_brokers() {
        tally.done = queue.admin.purge(&queue.topic, &queue.group).await?;
        tally.matched = tally.done;
    } else {
        let waiting = queue.waiting().await?;
        let mut sweep = Sweep::open(queue, waiting, app.stop.clone()).await?;
        outcome = drop_chosen(app, args, &mut sweep, &mut tally).await;
        let finished = sweep.finish().await;
        remaining = finished.as_ref().ok().copied();
        outcome = outcome.and(finished.map(drop));
    }
    tally.remaining = match remaining {
        Some(remaining) => remaining,
        None => queue.waiting().await?,
    };
    tally.print(app, Some(queue), "purged", "dropped")?;
    outcome
}

/// Counts what is chosen, by reason.
async fn look(args: &PurgeArgs, queue: &Queue) -> Outcome<Tally> {
    let mut tally = Tally::default();
    let mut letters = Letters::new(queue);
    let count = args.which.count.unwrap_or(u64::MAX);
    loop {
        let page = letters.next().await?;
        if page.is_empty() || tally.matched >= count {
            return Ok(tally);
        }
        for letter in &page {
            let message = &letter.record.message;
            let filter = args.which.filter.as_ref();
            if tally.matched < count && queue.chooses(filter, message, &line_of(&letter.record)) {
                tally.matched += 1;
                tally.reasons.add(reason_of(message));
            }
        }
    }
}

async fn drop_chosen(
    app: &mut App,
    args: &PurgeArgs,
    sweep: &mut Sweep<'_>,
    tally: &mut Tally,
) -> Outcome {
    let mut progress = Progress::new(app, "dropped", None);
    let count = args.which.count.unwrap_or(u64::MAX);
    while tally.done < count {
        let limit = (count - tally.done).min(args.batch_size.into());
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let batch = sweep.next(args.which.filter.as_ref(), limit).await?;
        if batch.is_empty() {
            break;
        }
        progress.advance(app, batch.len() as u64);
        let settling: Vec<_> = batch.into_iter().map(busline::Delivery::ack).collect();
        for settled in settling {
            match settled.await {
                Ok(()) => tally.done += 1,
                // Somebody else has it by now: it is not dropped.
                Err(error) if error.kind() == ErrorKind::Lost => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
