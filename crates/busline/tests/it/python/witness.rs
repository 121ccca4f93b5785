//! A service of ours that says what `probe.py` would: the same options, the same lines.

use std::sync::{Arc, Mutex, MutexGuard};

use busline::Result;
use busline::service::wire::{self, Body, Format};
use busline::service::{
    App, Context, Fault, FromRequest, Kind, Rejection, Request, Returned, State,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::ground::Ground;
use super::peer::PATIENCE;
use crate::service::harness::{Running, World};

/// A service that runs, what it says, and what it publishes with.
pub(super) struct Witness {
    lines: mpsc::UnboundedReceiver<Value>,
    saying: Saying,
    running: Running,
}

/// As `probe.py` describes them.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Options {
    events: Vec<String>,
    commands: Vec<String>,
    configurations: Vec<String>,
    fails: Vec<String>,
    once: Vec<String>,
    unhandled: Vec<String>,
    asks: Option<String>,
    returned: Option<bool>,
    json: bool,
    exclusive: bool,
    /// The last words of keys whose handler panics; raising is the same to Python.
    panics: Vec<String>,
}

#[derive(Clone)]
struct Saying {
    said: mpsc::UnboundedSender<Value>,
    options: Arc<Mutex<Options>>,
    context: Arc<Mutex<Option<Context>>>,
}

/// What a handler got, as a line.
struct Heard(Value);

impl Witness {
    pub(super) async fn start(ground: &Ground, name: &str, options: &Value) -> Self {
        let (said, lines) = mpsc::unbounded_channel();
        let options: Options = serde_json::from_value(options.clone()).unwrap();
        let mut app = app(name, &options);
        let saying = Saying {
            said,
            options: Arc::new(Mutex::new(options)),
            context: Arc::new(Mutex::new(None)),
        };
        for kind in ["ready", "unconfigured"] {
            let saying = saying.clone();
            let hook = move |context: Context| {
                let saying = saying.clone();
                async move { saying.hook(kind, context).await }
            };
            app = if kind == "ready" { app.on_ready(hook) } else { app.on_unconfigured(hook) };
        }
        let returning = saying.clone();
        let app = app
            .returned(move |returned, _| {
                let said = returning.returned(&returned);
                async { said }
            })
            .state(saying.clone());
        // As a program opens it: services know their dialect.
        let running = World::at(ground.url()).await.start_unready(app).await;
        Self { lines, saying, running }
    }

    /// What it publishes with, once it said that it is ready or unconfigured.
    pub(super) fn context(&self) -> Context {
        self.saying.context.lock().unwrap().clone().expect("it said so")
    }

    /// The next line.
    pub(super) async fn says(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        line.expect("a line in time").expect("it runs")
    }

    /// The next line, which is to be of this kind.
    pub(super) async fn expect(&mut self, kind: &str) -> Value {
        let said = self.says().await;
        assert_eq!(said["kind"], kind, "{said}");
        said
    }

    pub(super) async fn stop(self) {
        self.finish().await;
    }

    /// Stops it; what it said until its end.
    pub(super) async fn finish(mut self) -> Vec<Value> {
        self.running.stop().await.unwrap();
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }
}

impl Saying {
    fn options(&self) -> MutexGuard<'_, Options> {
        self.options.lock().unwrap()
    }

    async fn hook(&self, kind: &str, context: Context) -> Result<()> {
        *self.context.lock().unwrap() = Some(context.clone());
        self.said.send(json!({ "kind": kind })).unwrap();
        let asks = self.options().asks.clone();
        if let (Some(asks), "unconfigured") = (asks, kind) {
            context.configuration(&asks, &json!({ "who": context.service() })).await?;
        }
        Ok(())
    }

    fn returned(&self, returned: &Returned) -> Result<(), Fault> {
        if self.options().returned == Some(false) {
            return Err(Fault::failure("no luck"));
        }
        let came = wire::decode(returned.kind, &returned.message).unwrap();
        let mut envelope = json!({ "conversation_id": &*returned.conversation });
        let fields = [
            ("reply_to", &came.reply_to),
            ("correlation_id", &returned.correlation_id),
            ("status", &came.status),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                envelope[name] = json!(&**value);
            }
        }
        let payload = hex(&wire::encode(Format::Cbor, &came.body).unwrap());
        let line = json!({
            "kind": "returned", "key": returned.key, "payload": payload, "envelope": envelope,
        });
        self.said.send(line).unwrap();
        Ok(())
    }

    fn perhaps_fail(&self, line: &Value) -> Result<(), Fault> {
        let last = line["key"].as_str().unwrap().rsplit('.').next().unwrap();
        let mut options = self.options();
        if options.panics.iter().any(|key| key == last) {
            drop(options);
            panic!("no luck");
        }
        let once = options.once.iter().position(|key| key == last);
        if options.fails.iter().any(|key| key == last) || once.is_some() {
            once.map(|at| options.once.remove(at));
            return Err(Fault::failure("no luck"));
        }
        Ok(())
    }
}

impl FromRequest for Heard {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        let came = request.incoming();
        let body: Body = request.payload()?;
        let mut line = json!({
            "kind": came.kind.as_str(),
            "key": &*came.key,
            "payload": hex(&wire::encode(Format::Cbor, &body).unwrap()),
            "conversation_id": &*came.conversation(),
            "correlation_id": came.correlation_id.as_deref().unwrap_or_default(),
            "meta": serde_json::to_value(&came.meta).unwrap(),
        });
        match came.kind {
            Kind::Command => line["reply_to"] = json!(came.reply_to.as_deref()),
            Kind::Result => line["status"] = json!(came.status.as_deref()),
            _ => {}
        }
        Ok(Self(line))
    }
}

/// Bytes as Python prints them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value in CBOR, as Python prints it.
pub(super) fn cbor(value: &Value) -> String {
    hex(&wire::encode(Format::Cbor, value).unwrap())
}

fn app(name: &str, options: &Options) -> App {
    let mut app = App::new(name);
    for key in &options.events {
        app = match options.unhandled.contains(key) {
            true => app.bind_event(key),
            false if key.contains('#') => app.bind_event(key).fallback_event(heard),
            false => app.event(key, heard),
        };
    }
    for key in &options.commands {
        app = app.bind_command(key);
    }
    for key in &options.configurations {
        app = app.configuration(key, configured);
    }
    let app = app.fallback_command(asked).fallback_result(heard).concurrency(1);
    let app = if options.json { app.json() } else { app };
    if options.exclusive { app.exclusive() } else { app }
}

async fn heard(Heard(line): Heard, State(saying): State<Saying>) -> Result<(), Fault> {
    saying.said.send(line.clone()).unwrap();
    saying.perhaps_fail(&line)
}

/// It answers nobody: whoever tells it to, does.
async fn asked(
    Heard(line): Heard,
    State(saying): State<Saying>,
    _by_hand: busline::service::Replier,
) -> Result<(), Fault> {
    saying.said.send(line.clone()).unwrap();
    saying.perhaps_fail(&line)
}

async fn configured(
    Heard(line): Heard,
    busline::service::Payload(payload): busline::service::Payload<Value>,
    State(saying): State<Saying>,
) -> Result<bool, Fault> {
    saying.said.send(line.clone()).unwrap();
    saying.perhaps_fail(&line)?;
    if payload["fail"] == true {
        return Err(Fault::failure("no luck"));
    }
    Ok(payload["complete"] == true)
}
