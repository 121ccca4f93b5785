//! `doctor`: whether a bus can be used, what it promises, what is likely wrong and what to do.

use std::time::Duration;

use busline::transport::GroupInfo;
use busline::{
    Admin, Bus, Capabilities, ErrorKind, Lease, OrderScope, Position, Support, Timestamp,
};
use owo_colors::Style;
use serde::Serialize;

use crate::app::{App, Missing, directory_of};
use crate::args::DoctorArgs;
use crate::exit::{self, Failure, Outcome};
use crate::human;

/// No clock that was ever set is before this: 2020-01-01.
const CLOCK_MIN_US: i64 = 1_577_836_800_000_000;

/// Records may be this much newer than this machine's clock: two machines are never quite equal.
const AHEAD_MAX_US: i64 = 60_000_000;

/// What a broker lists of policies may be five seconds old: no alarm before it had the time to be true.
const POLICY_LOOKS_MAX: u32 = 12;
const POLICY_PAUSE: Duration = Duration::from_millis(500);

/// Examines the bus.
pub(crate) async fn run(app: &mut App, args: DoctorArgs) -> Outcome {
    if let Some(url) = args.url {
        app.global.bus = vec![url];
    }
    let config = app.config(Missing::Fail)?;
    let urls = config.urls.clone();
    let mut report = Report::new(&config, app.clock.now());
    let opened = Bus::connect(config).await;
    let outcome = match opened {
        Ok(bus) => {
            report.bus = bus.to_string();
            report.reachable = true;
            report.add(Check::fine("open", "the bus can be opened"));
            let examined = examine(&bus, &urls, &mut report).await;
            examined.and(bus.close(Duration::from_secs(5)).await.map_err(Failure::from))
        }
        Err(error) => {
            let way_out = error.way_out().unwrap_or("check the URL and the permissions");
            report.add(Check::wrong("open", error.message(), way_out));
            Err(Failure::from(error))
        }
    };
    report.print(app)?;
    app.out.flush()?;
    outcome?;
    let wrong: Vec<_> = report.checks.iter().filter(|check| !check.ok).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = wrong.iter().map(|check| check.check).collect();
    Err(Failure::new(exit::PROBLEM, format!("found a problem: {}", names.join(", "))))
}

async fn examine(bus: &Bus, urls: &[String], report: &mut Report) -> Outcome {
    report.capabilities(&bus.capabilities().await?);
    if let Some(check) = urls.iter().find_map(|url| writable(url)) {
        report.add(check);
    }
    match bus.admin().await {
        Ok(admin) => match topics(bus, &admin, report).await {
            // The bus is open: what may not be used is the list of what there is.
            Err(error) if error.kind() == ErrorKind::Unauthorized => {
                let way_out = error.way_out().unwrap_or("check the permissions of this user");
                report.add(Check::note("lists", error.message(), way_out));
                Ok(())
            }
            examined => Ok(examined?),
        },
        Err(error) if error.kind() == ErrorKind::Refused => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the directory of an embedded bus can be written, by writing to it.
fn writable(url: &str) -> Option<Check> {
    let path = directory_of(url)?;
    if !path.is_dir() {
        return None;
    }
    Some(match tempfile::Builder::new().prefix(".busline-doctor-").tempfile_in(&path) {
        Ok(_) => Check::fine("permissions", format!("{} can be written", path.display())),
        Err(error) => Check::wrong(
            "permissions",
            format!("{} cannot be written: {error}", path.display()),
            "give this user the right to write there, or free some space",
        ),
    })
}

/// What topics and groups tell: clocks that jumped, groups that nobody serves, dead letters.
async fn topics(bus: &Bus, admin: &Admin, report: &mut Report) -> busline::Result<()> {
    let topics = admin.topics().await?;
    let bytes: u64 = topics.iter().map(|info| info.bytes).sum();
    let sum = format!("{}, {}", human::plural(topics.len() as u64, "topic"), human::bytes(bytes));
    report.add(Check::fine("topics", sum));
    let soon = Timestamp::from_unix_us(report.now.unix_us().saturating_add(AHEAD_MAX_US));
    for info in &topics {
        let mut reader = match bus.reader(info.topic.clone(), Position::Time(soon))?.open().await {
            Err(error) if error.kind() == ErrorKind::Refused => break,
            reader => reader?,
        };
        if let Some(record) = reader.next().await? {
            report.add(Check::wrong(
                "clock",
                format!("topic '{}' holds a record of {}", info.topic, record.time),
                "the clock went back since, or is behind another machine's: set it right",
            ));
        }
    }
    let mut groups = admin.groups(None).await?;
    for _ in 0..POLICY_LOOKS_MAX {
        if groups.iter().all(|info| info.keeps_rejected != Some(false)) {
            break;
        }
        tokio::time::sleep(POLICY_PAUSE).await;
        groups = admin.groups(None).await?;
    }
    policies(bus, &groups, report);
    for info in groups {
        let unsettled = info.lag + info.in_flight + info.waiting;
        if unsettled == 0 || info.members > 0 {
            continue;
        }
        let (topic, group) = (&info.topic, &info.group);
        if group.as_str() == busline::dead::DEAD_GROUP {
            let letters = human::plural(unsettled, "dead letter");
            report.add(Check::note(
                "dead letters",
                format!("{letters} in {topic}"),
                format!("busline dead list {topic}"),
            ));
            continue;
        }
        let age = info.oldest_unsettled.map(|time| human::ago(time, report.now));
        let age = age.map_or(String::new(), |age| format!(", the oldest {age} old"));
        report.add(Check::note(
            "group without members",
            format!("{group} of {topic}: {}{age}", human::plural(unsettled, "message")),
            format!("start a member, or 'busline group delete {topic} {group}': it pins space"),
        ));
    }
    Ok(())
}

/// Whether the broker keeps what services reject, where it is the only one that could.
fn policies(bus: &Bus, groups: &[GroupInfo], report: &mut Report) {
    let policed = groups.iter().filter(|info| info.keeps_rejected.is_some());
    let (kept, dropped): (Vec<_>, Vec<_>) =
        policed.partition(|info| info.keeps_rejected == Some(true));
    let name = |info: &&GroupInfo| format!("{}.{}", info.group, info.topic);
    let names: Vec<_> = dropped.iter().map(name).collect();
    report.without_dead_letters = Some(names.clone());
    if dropped.is_empty() {
        if !kept.is_empty() {
            let queues = human::plural(kept.len() as u64, "queue");
            report
                .add(Check::fine("dead letter policy", format!("{queues} of services kept by it")));
        }
        return;
    }
    let names = names.join(", ");
    let bus = bus.to_string();
    let vhost = bus.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
    let vhost = vhost.map_or("/", |(_, vhost)| vhost);
    report.add(Check::wrong(
        "dead letter policy",
        format!("what services reject is dropped, no policy leads it to a queue: {names}"),
        format!(
            "rabbitmqctl set_policy -p '{vhost}' dead-letters '.*\\.events|.*\\.commands' \
             '{{\"dead-letter-exchange\":\"am-dlx\"}}' --apply-to queues, and bind a queue to the exchange am-dlx"
        ),
    ));
}

/// The JSON line.
#[derive(Debug, Serialize)]
struct Report {
    bus: String,
    reachable: bool,
    version: &'static str,
    profile: Option<String>,
    durability: Option<&'static str>,
    order_scope: Option<&'static str>,
    lease: Option<String>,
    limits: Option<LimitsLine>,
    capabilities: Vec<Promise>,
    /// Queues of services from which what is rejected vanishes; `None` when they could not be listed.
    without_dead_letters: Option<Vec<String>>,
    checks: Vec<Check>,
    #[serde(skip)]
    now: Timestamp,
}

#[derive(Debug, Serialize)]
struct LimitsLine {
    payload_bytes_max: usize,
    headers_max: usize,
    headers_bytes_max: usize,
    header_name_bytes_max: usize,
    header_depth_max: usize,
    conversation_id_bytes_max: usize,
}

#[derive(Debug, Serialize)]
struct Promise {
    promise: &'static str,
    support: &'static str,
    note: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    ok: bool,
    found: String,
    #[serde(rename = "do")]
    advice: Option<String>,
}

impl Check {
    fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, ok: true, found: found.into(), advice: None }
    }

    fn note(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, ok: true, found: found.into(), advice: Some(advice.into()) }
    }

    fn wrong(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, ok: false, found: found.into(), advice: Some(advice.into()) }
    }
}

impl Report {
    fn new(config: &busline::BusConfig, now: Timestamp) -> Self {
        let mut report = Self {
            // Secrets are hidden by whoever opens it; before that there is only the scheme.
            bus: config.urls.iter().map(|url| scheme(url)).collect::<Vec<_>>().join(", "),
            reachable: false,
            version: env!("CARGO_PKG_VERSION"),
            profile: None,
            durability: None,
            order_scope: None,
            lease: None,
            limits: None,
            capabilities: Vec::new(),
            without_dead_letters: None,
            checks: Vec::new(),
            now,
        };
        report.add(if now.unix_us() < CLOCK_MIN_US {
            Check::wrong("clock", format!("it says {now}"), "set the clock of this machine")
        } else {
            Check::fine("clock", format!("it says {now}"))
        });
        report
    }

    fn add(&mut self, check: Check) {
        self.checks.push(check);
    }

    fn capabilities(&mut self, capabilities: &Capabilities) {
        let limits = capabilities.limits;
        self.profile = Some(capabilities.profile.clone());
        self.durability = Some(capabilities.durability.as_str());
        self.order_scope = Some(match capabilities.order_scope {
            OrderScope::Topic => "topic",
            OrderScope::Key => "key",
        });
        self.lease = Some(match capabilities.lease {
            Lease::None => "as long as the session lives".to_owned(),
            Lease::Renewable(time) => format!("{}, renewed while held", human::span(time)),
            Lease::Fixed(time) => human::span(time),
        });
        self.limits = Some(LimitsLine {
            payload_bytes_max: limits.payload_bytes_max,
            headers_max: limits.headers_max,
            headers_bytes_max: limits.headers_bytes_max,
            header_name_bytes_max: limits.header_name_bytes_max,
            header_depth_max: limits.header_depth_max,
            conversation_id_bytes_max: limits.conversation_id_bytes_max,
        });
        let promise = |(capability, support): (busline::Capability, Support)| Promise {
            promise: capability.as_str(),
            support: support.as_str(),
            note: support.note(),
        };
        self.capabilities = capabilities.iter().map(promise).collect();
    }

    fn print(&self, app: &mut App) -> Outcome {
        if app.out.is_json() {
            return Ok(app.out.line(self)?);
        }
        let text = |value: Option<&str>| value.unwrap_or("unknown").to_owned();
        let pair = |name: &str, value: String| vec![name.to_owned(), value];
        let mut rows =
            vec![pair("bus", self.bus.clone()), pair("busline", self.version.to_owned())];
        if self.reachable {
            rows.push(pair("profile", text(self.profile.as_deref())));
            rows.push(pair("a receipt survives", text(self.durability)));
            rows.push(pair("order within", text(self.order_scope)));
            rows.push(pair("a delivery is leased", text(self.lease.as_deref())));
        }
        app.out.text(&human::table(&[], 2, rows))?;
        if !self.capabilities.is_empty() {
            let row = |promise: &Promise| {
                let note = promise.note.unwrap_or_default();
                vec![promise.promise.to_owned(), promise.support.to_owned(), note.to_owned()]
            };
            let rows = self.capabilities.iter().map(row).collect();
            app.out.text(&format!("\n{}", human::table(&["promise", "kept", ""], 3, rows)))?;
        }
        app.out.text("")?;
        for check in &self.checks {
            let (word, style) = match (check.ok, &check.advice) {
                (true, None) => ("ok   ", Style::new().green()),
                (true, Some(_)) => ("note ", Style::new().yellow()),
                (false, _) => ("WRONG", Style::new().red().bold()),
            };
            let word = app.out.styled(word, style);
            let found = crate::output::one_line(&check.found);
            app.out.text(&format!("{word}  {}: {found}", check.check))?;
            if let Some(advice) = &check.advice {
                app.out.text(&format!("       -> {advice}"))?;
            }
        }
        Ok(())
    }
}

fn scheme(url: &str) -> String {
    let is_file = url.starts_with("file:") || url.starts_with("memory:");
    match url.split_once(':') {
        _ if is_file => url.to_owned(),
        Some((scheme, _)) => format!("{scheme}:"),
        None => "(no URL)".to_owned(),
    }
}
