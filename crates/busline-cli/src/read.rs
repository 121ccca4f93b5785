//! `read`: replays a topic's log and follows it; settles nothing.

use busline::{LogReader, Record};

use crate::app::{App, Missing};
use crate::args::{ReadArgs, patterns};
use crate::exit::{self, Failure, Outcome};
use crate::human;
use crate::line::Line;

/// Prints records until the end of the log, the count, the quiet or a signal.
pub(crate) async fn run(app: &mut App, args: ReadArgs) -> Outcome {
    let bus = app.open(Missing::Fail).await?;
    let reader = bus.reader(args.topic.clone(), args.from.clone())?;
    let mut reader = reader.patterns(patterns(args.pattern.clone())).open().await?;
    let shown = show(app, &args, &mut reader).await?;
    app.close(&bus).await?;
    match args.count {
        Some(count) if shown < count && !app.stop.is_requested() => Err(Failure::new(
            exit::ELAPSED,
            format!("{} of {} came", human::count(shown), human::plural(count, "record")),
        )),
        _ => Ok(()),
    }
}

async fn show(app: &mut App, args: &ReadArgs, reader: &mut LogReader) -> Outcome<u64> {
    let mut shown = 0;
    let mut stop = app.stop.clone();
    while args.count.is_none_or(|count| shown < count) && !stop.is_requested() {
        let record = match reader.next().await? {
            Some(record) => record,
            None => {
                app.out.flush()?;
                let waited = tokio::select! {
                    () = stop.requested() => None,
                    record = wait(args, reader) => record?,
                };
                let Some(record) = waited else { break };
                record
            }
        };
        print(app, &record)?;
        shown += 1;
    }
    app.out.flush()?;
    Ok(shown)
}

/// The next record at the end of the log; `None` when it is not waited for, or did not come.
async fn wait(args: &ReadArgs, reader: &mut LogReader) -> Outcome<Option<Record>> {
    match args.timeout {
        Some(timeout) => match tokio::time::timeout(timeout, reader.follow()).await {
            Ok(record) => Ok(Some(record?)),
            Err(_) => Ok(None),
        },
        None if args.follow => Ok(Some(reader.follow().await?)),
        None => Ok(None),
    }
}

fn print(app: &mut App, record: &Record) -> Outcome {
    let line = Line::record(record);
    if app.out.is_json() {
        app.out.line(&line)?;
    } else {
        let text = line.human(&app.out);
        app.out.text(&text)?;
    }
    Ok(())
}
