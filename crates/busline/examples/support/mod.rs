//! What the example services share: their arguments, the bus, and one JSON object a line.
#![allow(dead_code, reason = "not every example needs all of it")]
#![allow(clippy::print_stderr, reason = "an example says why it does not start")]

mod output;
mod signals;

use std::process::ExitCode;

use busline::service::wire::{self, Body, Format, Value};
use busline::service::{
    App, Context, Conversation, Correlation, FromRequest, Meta, Rejection, ReplyTo, Request,
};
use busline::{Attempt, BusConfig};
pub(crate) use output::{finish, line};
use serde_json::{Value as Json, json};
pub(crate) use signals::Signals;
use tracing_subscriber::filter::{LevelFilter as Level, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The arguments of every example.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// The bus; may repeat or take a comma list, tried in turn.
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = "file:./busline-data")]
    pub(crate) bus: Vec<String>,
    /// Under which name it runs; instances of a name share its messages.
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
}

impl Common {
    /// The name, or the one that the example is known by.
    pub(crate) fn name(&self, otherwise: &str) -> String {
        self.service.clone().unwrap_or_else(|| otherwise.to_owned())
    }

    /// Runs it to its end; what makes running impossible is said on standard error.
    pub(crate) async fn run(&self, app: App, signals: Signals) -> ExitCode {
        self.run_until(app, signals, async {}).await
    }

    /// As [`Common::run`]; asked to stop, it does this first.
    pub(crate) async fn run_until(
        &self,
        app: App,
        signals: Signals,
        first: impl Future<Output = ()> + Send + 'static,
    ) -> ExitCode {
        // What the library warns of, as a broker that is waited for, goes to standard error.
        // Not what the AMQP client says below it: each look at what is not there as an error, and what comes back with
        // its payload.
        let said = Targets::new().with_default(Level::WARN).with_target("lapin", Level::OFF);
        let written = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        tracing_subscriber::registry().with(written).with(said).init();
        let mut config = BusConfig::new(&self.bus.join(","));
        config.client_name = env!("CARGO_CRATE_NAME").to_owned();
        tokio::spawn(signals.stop(app.stopper(), first));
        let ended = app.serve_until(config, std::future::pending()).await;
        finish();
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(error.kind().exit_code())
            }
        }
    }
}

/// Prints that it is ready, each time that it is.
pub(crate) fn ready() {
    line(&json!({"kind": "ready"}));
}

/// A message as an argument of handlers, whatever its shape.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    pub(crate) body: Body,
    pub(crate) conversation_id: String,
    pub(crate) correlation_id: String,
    pub(crate) reply_to: String,
    pub(crate) meta: Json,
    pub(crate) attempt: Attempt,
    pub(crate) context: Context,
}

impl FromRequest for Seen {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(Self {
            kind: request.kind().as_str(),
            key: request.key().to_owned(),
            body: request.incoming().body.clone(),
            conversation_id: Conversation::from_request(request)?.0.to_string(),
            correlation_id: Correlation::from_request(request)?.0.to_string(),
            reply_to: ReplyTo::from_request(request)?.0.to_string(),
            meta: meta(&request.incoming().meta),
            attempt: request.attempt(),
            context: request.context().clone(),
        })
    }
}

impl Seen {
    /// Prints it.
    pub(crate) fn print(&self) {
        line(&json!({
            "kind": self.kind,
            "key": self.key,
            "payload": self.payload(),
            "conversation_id": self.conversation_id,
            "correlation_id": self.correlation_id,
            "reply_to": self.reply_to,
            "meta": self.meta,
        }));
    }

    /// The payload as JSON, for looking at it.
    pub(crate) fn payload(&self) -> Json {
        self.body.value().map_or(Json::Null, |value| shown(&value))
    }

    /// The text of this name, when the payload is a map that has one.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.payload().get(name)?.as_str().map(str::to_owned)
    }
}

/// The meta values as text or null.
pub(crate) fn meta(meta: &Meta) -> Json {
    let values = meta.iter().filter(|(name, _)| *name != "delivery_tag");
    values.map(|(name, _)| (name.to_string(), json!(meta.text(name).map(String::from)))).collect()
}

/// A payload as JSON; what JSON has no place for becomes something that looks like it.
pub(crate) fn shown(value: &Value) -> Json {
    match value {
        Value::Integer(number) => {
            let number = i128::from(*number);
            match (i64::try_from(number), u64::try_from(number)) {
                (Ok(number), _) => number.into(),
                (_, Ok(number)) => number.into(),
                _ => number.to_string().into(),
            }
        }
        Value::Float(number) if number.is_finite() => (*number).into(),
        Value::Float(number) => number.to_string().into(),
        Value::Text(text) => text.clone().into(),
        Value::Bool(value) => (*value).into(),
        Value::Bytes(bytes) => json!({"bytes": bytes}),
        Value::Tag(tag, inner) => {
            long(value).unwrap_or_else(|| json!({"tag": tag, "value": shown(inner)}))
        }
        Value::Array(items) => items.iter().map(shown).collect(),
        Value::Map(entries) => {
            let name = |key: &Value| match shown(key) {
                Json::String(text) => text,
                other => other.to_string(),
            };
            entries.iter().map(|(key, value)| (name(key), shown(value))).collect()
        }
        _ => Json::Null,
    }
}

/// An integer that CBOR writes as bytes, as the text of its digits.
fn long(value: &Value) -> Option<Json> {
    let is_long = matches!(value, Value::Tag(2 | 3, _));
    let digits = is_long.then(|| wire::encode(Format::Json, value).ok()).flatten()?;
    Some(String::from_utf8_lossy(&digits).into())
}
