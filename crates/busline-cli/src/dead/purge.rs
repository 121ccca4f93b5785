//! `dead purge`: letters are dropped for good.

use busline::{Admin, Bus, ErrorKind, Topic, dead};

use super::sweep::Sweep;
use super::{Letters, Tally, chosen, line_of, queue, reason_of};
use crate::admin::ask;
use crate::app::{App, Missing};
use crate::args::PurgeArgs;
use crate::exit::Outcome;
use crate::human;
use crate::progress::Progress;

/// Drops letters, or shows which would be.
pub(super) async fn run(app: &mut App, args: PurgeArgs) -> Outcome {
    let bus = app.open(Missing::Fail).await?;
    let admin = bus.admin().await?;
    let outcome = match queue::resolve(&admin, &args.which.queue).await? {
        None => {
            let status = if args.caution.dry_run { "would_purge" } else { "purged" };
            Tally::default().print(app, None, status, "dropped")
        }
        Some(queue) => purge(app, &args, &bus, &admin, &queue).await,
    };
    let closed = app.close(&bus).await;
    outcome.and(closed)
}

async fn purge(
    app: &mut App,
    args: &PurgeArgs,
    bus: &Bus,
    admin: &Admin,
    queue: &Topic,
) -> Outcome {
    let mut tally = look(args, admin, queue).await?;
    let what = format!("drop {} of {queue} for good", human::plural(tally.matched, "letter"));
    if let Some(status) = ask(&what, args.caution, "would_purge")? {
        tally.done = tally.matched;
        tally.remaining = queue::waiting(admin, queue).await?;
        return tally.print(app, Some(queue), status, "would be dropped");
    }
    let mut outcome = Ok(());
    let mut remaining = None;
    if args.which.filter.is_none() && args.which.count.is_none() {
        tally.done = admin.purge(queue, &dead::dead_group()).await?;
        tally.matched = tally.done;
    } else {
        let waiting = queue::waiting(admin, queue).await?;
        let mut sweep = Sweep::open(bus, queue, waiting, app.stop.clone()).await?;
        outcome = drop_chosen(app, args, &mut sweep, &mut tally).await;
        let finished = sweep.finish(admin, queue).await;
        remaining = finished.as_ref().ok().copied();
        outcome = outcome.and(finished.map(drop));
    }
    tally.remaining = match remaining {
        Some(remaining) => remaining,
        None => queue::waiting(admin, queue).await?,
    };
    tally.print(app, Some(queue), "purged", "dropped")?;
    outcome
}

/// Counts what is chosen, by reason.
async fn look(args: &PurgeArgs, admin: &Admin, queue: &Topic) -> Outcome<Tally> {
    let mut tally = Tally::default();
    let mut letters = Letters::new(admin, queue);
    let count = args.which.count.unwrap_or(u64::MAX);
    loop {
        let page = letters.next().await?;
        if page.is_empty() || tally.matched >= count {
            return Ok(tally);
        }
        for letter in &page {
            if tally.matched < count && chosen(args.which.filter.as_ref(), &line_of(&letter.record))
            {
                tally.matched += 1;
                tally.reasons.add(reason_of(&letter.record.message));
            }
        }
    }
}

async fn drop_chosen(
    app: &mut App,
    args: &PurgeArgs,
    sweep: &mut Sweep,
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
