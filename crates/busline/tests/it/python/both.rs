//! A service of ours and one of theirs, to which the same is done: what each says, logs and loses is compared.

use std::collections::VecDeque;

use busline::{Bus, Consumer};
use serde_json::{Value, json};

use super::ground::{DEAD, Ground};
use super::peer::{PATIENCE, Peer};
use super::witness::{Witness, hex};

/// Their names. What one does must be what the other does, but for these.
pub(super) const OURS: &str = "ours";
pub(super) const THEIRS: &str = "theirs";

/// Who does the same: [`OURS`] and [`THEIRS`].
pub(super) struct Both {
    pub(super) ours: Witness,
    pub(super) theirs: Peer,
    logs: Logs,
    raw: Peer,
    /// Dead letters that came, by who lost them.
    dead: [VecDeque<Value>; 2],
}

impl Both {
    /// Starts them with the same options, where `S.` in a key to bind is the service's name.
    pub(super) async fn start(ground: &Ground, options: &Value) -> Self {
        ground.keep_dead();
        let logs = Logs::tap(ground).await;
        let of = |name: &str| {
            let own = options.to_string().replace("\"S.", &format!("\"{name}."));
            serde_json::from_str::<Value>(&own).unwrap()
        };
        let mut common = of(THEIRS);
        // To Python that is the same.
        if let Some(Value::Array(panics)) = common.as_object_mut().unwrap().remove("panics") {
            common["fails"].as_array_mut().unwrap().extend(panics);
        }
        let theirs = ground.probe(THEIRS, &common);
        let ours = Witness::start(ground, OURS, &of(OURS)).await;
        let raw = ground.start("raw.py", &[]);
        Self { ours, theirs, logs, raw, dead: Default::default() }
    }

    /// Publishes what is no convention's. A key that starts with `S.` goes to each.
    pub(super) async fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        properties: Value,
        body: &[u8],
    ) {
        let Some(own) = key.strip_prefix("S.") else {
            return self.publish_one(exchange, key, properties, body).await;
        };
        for name in [OURS, THEIRS] {
            self.publish_one(exchange, &format!("{name}.{own}"), properties.clone(), body).await;
        }
    }

    /// As [`Both::publish`], a key as it is.
    pub(super) async fn publish_one(
        &mut self,
        exchange: &str,
        key: &str,
        properties: Value,
        body: &[u8],
    ) {
        self.raw.tell(&json!(["publish", exchange, key, properties, hex(body)]));
        assert_eq!(self.raw.says().await, "published");
    }

    /// The next lines of each, which are the same.
    pub(super) async fn lines(&mut self, count: usize) -> Vec<Value> {
        let mut lines = Vec::new();
        for _ in 0..count {
            let (ours, theirs) = (self.ours.says().await, self.theirs.says().await);
            let ours = anonymous(&ours, OURS);
            assert_eq!(ours, anonymous(&theirs, THEIRS));
            lines.push(ours);
        }
        lines
    }

    /// The next log lines of each, which are the same: level, short message and conversation.
    pub(super) async fn logs(&mut self, count: usize) -> Vec<(i64, String, String)> {
        let mut lines = Vec::new();
        for _ in 0..count {
            let ours = self.logs.next(OURS).await;
            let theirs = self.logs.next(THEIRS).await;
            assert_eq!(comparable(&ours, OURS), comparable(&theirs, THEIRS));
            let text = |name: &str| ours[name].as_str().unwrap().replace(OURS, "S");
            let level = ours["level"].as_i64().unwrap();
            lines.push((level, text("short_message"), text("_conversation_id")));
        }
        lines
    }

    /// The next dead letter of each, which are the same; the headers that the broker adds are left out.
    pub(super) async fn dead(&mut self) -> Value {
        while self.dead.iter().any(VecDeque::is_empty) {
            self.raw.tell(&json!(["get", DEAD, 1]));
            let letter = self.raw.says().await;
            let queue = letter["properties"]["headers"]["x-first-death-queue"].as_str().unwrap();
            let of = usize::from(queue.starts_with(THEIRS));
            self.dead[of].push_back(letter);
        }
        let [ours, theirs] = &mut self.dead;
        let ours = anonymous(&timeless(ours.pop_front().unwrap()), OURS);
        assert_eq!(ours, anonymous(&timeless(theirs.pop_front().unwrap()), THEIRS));
        ours
    }

    /// The next dead letter of ours alone.
    pub(super) async fn dead_of_ours(&mut self) -> Value {
        self.raw.tell(&json!(["get", DEAD, 1]));
        anonymous(&timeless(self.raw.says().await), OURS)
    }

    /// The next log line of ours alone.
    pub(super) async fn log_of_ours(&mut self) -> Value {
        self.logs.next(OURS).await
    }

    pub(super) async fn stop(self) {
        self.ours.stop().await;
        drop(self.theirs);
    }
}

/// Log lines as they come over the bus.
pub(super) struct Logs {
    consumer: Consumer,
    _bus: Bus,
    /// Those that nobody asked for yet.
    waiting: Vec<Value>,
}

impl Logs {
    /// Hears everything from now on.
    pub(super) async fn tap(ground: &Ground) -> Self {
        let bus = Bus::open(&format!("{}?dialect=eventail", ground.url())).await.unwrap();
        let consumer = bus.broadcast("logs").unwrap().subscribe().await.unwrap();
        Self { consumer, _bus: bus, waiting: Vec::new() }
    }

    /// The next line of a service.
    pub(super) async fn next(&mut self, service: &str) -> Value {
        let is_its = |line: &Value| line["_logical_service"] == service;
        loop {
            if let Some(at) = self.waiting.iter().position(is_its) {
                return self.waiting.remove(at);
            }
            let next = tokio::time::timeout(PATIENCE, self.consumer.next()).await;
            let delivery = next.expect("a log line in time").unwrap().unwrap();
            let line: Value = serde_json::from_slice(&delivery.message.payload).unwrap();
            let (service, level) = (&line["_logical_service"], &line["_levelname"]);
            let key = format!("{}.{}", service.as_str().unwrap(), level.as_str().unwrap());
            assert_eq!(delivery.message.key.as_str(), key);
            self.waiting.push(line);
            delivery.settle_quietly(busline::Outcome::Ack);
        }
    }
}

/// What of a line is the same, whoever logs: all names, and all values but for tracebacks and numbers of
/// deliveries, processes and moments.
pub(super) fn comparable(line: &Value, name: &str) -> Value {
    let mut line = anonymous(line, name);
    for (field, value) in line.as_object_mut().unwrap() {
        match field.as_str() {
            "full_message" => {
                let text = value.as_str().unwrap();
                *value = json!({ "empty": text.is_empty(), "says": text.contains("no luck") });
            }
            "short_message" => {
                let text = value.as_str().unwrap();
                if let Some((front, rest)) = text.split_once(", 'delivery_tag': ") {
                    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
                    *value = json!(format!("{front}{rest}"));
                }
            }
            "_worker_pid" => *value = json!(value.is_u64()),
            "timestamp" => *value = json!(value.is_f64()),
            _ => {}
        }
    }
    line
}

/// With `S` for the name of the service.
fn anonymous(value: &Value, name: &str) -> Value {
    let text = value.to_string();
    let text = ['"', ' ', '[', '.'].iter().fold(text, |text, before| {
        [".", "@", "]", "\""].iter().fold(text, |text, after| {
            text.replace(&format!("{before}{name}{after}"), &format!("{before}S{after}"))
        })
    });
    serde_json::from_str(&text).unwrap()
}

/// A dead letter without the moment of its death.
fn timeless(mut letter: Value) -> Value {
    for death in letter["properties"]["headers"]["x-death"].as_array_mut().unwrap() {
        death.as_object_mut().unwrap().remove("time");
    }
    letter
}
