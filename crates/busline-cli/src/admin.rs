//! `topics`, `groups`, `group reset`, `group delete`, `topic delete`.

use std::time::Duration;

use busline::transport::{DeleteIf, GroupInfo, Retention, TopicInfo};
use busline::{Admin, GroupName, Offset, Patterns, Timestamp, Topic};
use serde::Serialize;

use crate::app::{App, Missing};
use crate::args::{
    Caution, GroupDeleteArgs, GroupVerb, GroupsArgs, ResetArgs, TopicDeleteArgs, TopicVerb,
};
use crate::exit::{self, Failure, Outcome};
use crate::human;
use crate::output::{self, Output};

/// Lists topics.
pub(crate) async fn topics(app: &mut App) -> Outcome {
    let bus = app.open(Missing::Fail).await?;
    let topics = bus.admin().await?.topics().await?;
    if app.out.is_json() {
        topics.iter().try_for_each(|info| app.out.line(&TopicLine::of(info)))?;
    } else {
        let header = ["topic", "messages", "bytes", "groups", "retention"];
        let rows = topics.iter().map(|info| {
            vec![
                info.topic.to_string(),
                human::count(info.messages),
                human::bytes(info.bytes),
                human::count(info.groups),
                retention(info.retention),
            ]
        });
        print_table(&mut app.out, &header, 1, rows.collect(), "there are no topics")?;
    }
    app.close(&bus).await
}

/// Lists groups.
pub(crate) async fn groups(app: &mut App, args: GroupsArgs) -> Outcome {
    let bus = app.open(Missing::Fail).await?;
    let groups = bus.admin().await?.groups(args.topic.as_ref()).await?;
    if app.out.is_json() {
        groups.iter().try_for_each(|info| app.out.line(&GroupLine::of(info)))?;
    } else {
        let now = app.clock.now();
        let header = [
            "topic",
            "group",
            "patterns",
            "lag",
            "in flight",
            "waiting",
            "oldest",
            "members",
            "delivered",
            "redelivered",
            "acked",
            "rejected",
        ];
        let rows = groups.iter().map(|info| group_row(info, now)).collect();
        print_table(&mut app.out, &header, 3, rows, "there are no groups")?;
    }
    app.close(&bus).await
}

/// Moves or deletes a group.
pub(crate) async fn group(app: &mut App, verb: GroupVerb) -> Outcome {
    match verb {
        GroupVerb::Reset(args) => reset(app, args).await,
        GroupVerb::Delete(args) => delete_group(app, args).await,
    }
}

/// Deletes a topic.
pub(crate) async fn topic(app: &mut App, verb: TopicVerb) -> Outcome {
    let TopicVerb::Delete(args) = verb;
    let TopicDeleteArgs { topic, if_unused, if_empty, caution } = args;
    let bus = app.open(Missing::Fail).await?;
    let admin = bus.admin().await?;
    let topics = admin.topics().await?;
    let info = topics.iter().find(|info| info.topic == topic);
    let info = info.ok_or_else(|| no_topic(&topic))?;
    let what = format!(
        "delete topic '{topic}' with {} and {}",
        human::plural(info.messages, "record"),
        human::plural(info.groups, "group")
    );
    let change = Change { topic: &topic, group: None, to: None, messages: info.messages };
    if let Some(status) = ask(&what, caution, "would_delete")? {
        change.print(app, status, &what)?;
    } else {
        let condition = DeleteIf { unused: if_unused, empty: if_empty };
        admin.delete_topic(&topic, condition).await?;
        change.print(app, "deleted", &what)?;
    }
    app.close(&bus).await
}

async fn reset(app: &mut App, args: ResetArgs) -> Outcome {
    let ResetArgs { topic, group, to, caution } = args;
    let bus = app.open(Missing::Fail).await?;
    let admin = bus.admin().await?;
    let info = info_of(&admin, &topic, &group).await?;
    let what = format!(
        "move group '{group}' of topic '{topic}' to {to}: {} in flight are lost to their members",
        human::count(info.in_flight)
    );
    let messages = unsettled(&info);
    let change = Change { topic: &topic, group: Some(&group), to: Some(to.to_string()), messages };
    if let Some(status) = ask(&what, caution, "would_reset")? {
        change.print(app, status, &what)?;
    } else {
        admin.reset_group(&topic, &group, &to).await?;
        change.print(app, "reset", &what)?;
    }
    app.close(&bus).await
}

async fn delete_group(app: &mut App, args: GroupDeleteArgs) -> Outcome {
    let GroupDeleteArgs { topic, group, if_unused, if_empty, caution } = args;
    let bus = app.open(Missing::Fail).await?;
    let admin = bus.admin().await?;
    let info = info_of(&admin, &topic, &group).await?;
    let messages = unsettled(&info);
    let what = format!(
        "delete group '{group}' of topic '{topic}' with {} unsettled or not looked at",
        human::plural(messages, "message")
    );
    let change = Change { topic: &topic, group: Some(&group), to: None, messages };
    if let Some(status) = ask(&what, caution, "would_delete")? {
        change.print(app, status, &what)?;
    } else {
        let condition = DeleteIf { unused: if_unused, empty: if_empty };
        admin.delete_group(&topic, &group, condition).await?;
        change.print(app, "deleted", &what)?;
    }
    app.close(&bus).await
}

/// The status when nothing is to be done: a dry run. Fails when the answer on the terminal is no.
pub(crate) fn ask(
    what: &str,
    caution: Caution,
    dry: &'static str,
) -> Outcome<Option<&'static str>> {
    if caution.dry_run {
        return Ok(Some(dry));
    }
    if !caution.yes && output::confirm(&format!("{what}?"))? == Some(false) {
        return Err(Failure::new(exit::PROBLEM, "not confirmed, nothing was done"));
    }
    Ok(None)
}

/// A group by name; `NotFound` names what is missing.
async fn info_of(admin: &Admin, topic: &Topic, group: &GroupName) -> Outcome<GroupInfo> {
    let groups = admin.groups(Some(topic)).await?;
    groups.into_iter().find(|info| info.group == *group).ok_or_else(|| {
        Failure::usage(format!(
            "topic '{topic}' has no group '{group}'; 'busline groups {topic}' lists them"
        ))
    })
}

fn no_topic(topic: &Topic) -> Failure {
    Failure::usage(format!("there is no topic '{topic}'; 'busline topics' lists them"))
}

fn unsettled(info: &GroupInfo) -> u64 {
    info.lag + info.in_flight + info.waiting
}

fn print_table(
    out: &mut Output,
    header: &[&str],
    left: usize,
    rows: Vec<Vec<String>>,
    empty: &str,
) -> Outcome {
    if rows.is_empty() {
        output::note(empty);
        return Ok(());
    }
    Ok(out.text(&human::table(header, left, rows))?)
}

fn retention(retention: Retention) -> String {
    let parts: Vec<_> = [
        retention.age_max.map(human::span),
        retention.bytes_max.map(human::bytes),
        retention.ignore_groups.then(|| "ignoring groups".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() { "for ever".to_owned() } else { parts.join(", ") }
}

fn group_row(info: &GroupInfo, now: Timestamp) -> Vec<String> {
    vec![
        info.topic.to_string(),
        if info.broadcast { format!("{} (broadcast)", info.group) } else { info.group.to_string() },
        info.patterns.to_string(),
        human::count(info.lag),
        human::count(info.in_flight),
        human::count(info.waiting),
        info.oldest_unsettled.map_or("-".to_owned(), |time| human::ago(time, now)),
        human::count(info.members),
        human::count(info.delivered),
        human::count(info.redelivered),
        human::count(info.acked),
        human::count(info.rejected),
    ]
}

/// The JSON line of a topic.
#[derive(Serialize)]
struct TopicLine<'a> {
    topic: &'a Topic,
    messages: u64,
    bytes: u64,
    earliest: &'a Option<Offset>,
    end: &'a Option<Offset>,
    groups: u64,
    retention: RetentionLine,
}

#[derive(Serialize)]
struct RetentionLine {
    age_ms_max: Option<u64>,
    bytes_max: Option<u64>,
    ignore_groups: bool,
}

impl<'a> TopicLine<'a> {
    fn of(info: &'a TopicInfo) -> Self {
        let ms = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Self {
            topic: &info.topic,
            messages: info.messages,
            bytes: info.bytes,
            earliest: &info.earliest,
            end: &info.end,
            groups: info.groups,
            retention: RetentionLine {
                age_ms_max: info.retention.age_max.map(ms),
                bytes_max: info.retention.bytes_max,
                ignore_groups: info.retention.ignore_groups,
            },
        }
    }
}

/// The JSON line of a group.
#[derive(Serialize)]
pub(crate) struct GroupLine<'a> {
    topic: &'a Topic,
    group: &'a GroupName,
    patterns: &'a Patterns,
    lag: u64,
    in_flight: u64,
    waiting: u64,
    oldest_unsettled: Option<Timestamp>,
    floor: &'a Option<Offset>,
    members: u64,
    delivered: u64,
    redelivered: u64,
    acked: u64,
    rejected: u64,
    broadcast: bool,
    attempts_max: Option<u32>,
}

impl<'a> GroupLine<'a> {
    pub(crate) fn of(info: &'a GroupInfo) -> Self {
        Self {
            topic: &info.topic,
            group: &info.group,
            patterns: &info.patterns,
            lag: info.lag,
            in_flight: info.in_flight,
            waiting: info.waiting,
            oldest_unsettled: info.oldest_unsettled,
            floor: &info.floor,
            members: info.members,
            delivered: info.delivered,
            redelivered: info.redelivered,
            acked: info.acked,
            rejected: info.rejected,
            broadcast: info.broadcast,
            attempts_max: info.attempts_max,
        }
    }
}

/// What a destructive verb does, for its JSON line.
#[derive(Debug)]
struct Change<'a> {
    topic: &'a Topic,
    group: Option<&'a GroupName>,
    to: Option<String>,
    messages: u64,
}

impl Change<'_> {
    fn print(&self, app: &mut App, status: &str, what: &str) -> Outcome {
        #[derive(Serialize)]
        struct Line<'a> {
            topic: &'a Topic,
            group: Option<&'a GroupName>,
            to: Option<&'a str>,
            messages: u64,
            status: &'a str,
        }
        let Change { topic, group, to, messages } = self;
        if app.out.is_json() {
            let to = to.as_deref();
            app.out.line(&Line { topic, group: *group, to, messages: *messages, status })?;
        } else {
            let would = if status.starts_with("would") { "would " } else { "done: " };
            app.out.text(&format!("{would}{what}"))?;
        }
        Ok(())
    }
}
