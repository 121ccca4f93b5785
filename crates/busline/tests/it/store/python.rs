//! The same values, kept and taken by the real Python library.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use busline::Error;
use busline::store::TemporaryStore;
use serde_json::{Value, json};

use super::server::RedisServer;

/// Answers each line of Python on its standard input with a line of JSON.
const PEER: &str = r"
import json, sys
from eventail.tmp_store import STDataStore
port = int(sys.argv[1])
store = STDataStore.simple_redis_backend(('127.0.0.1', port), 0, None, 'shop:')
def tell(what):
    print(json.dumps(what, default=str), flush=True)
def slowly():
    tell('making')
    return sys.stdin.readline().strip()
for line in iter(sys.stdin.readline, ''):
    tell(eval(line))
";

struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(port: u16) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let installed = || root.join("target/python/bin/python");
        let python = std::env::var_os("BUSLINE_TEST_PYTHON").map_or_else(installed, PathBuf::from);
        if !python.exists() {
            let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
            assert!(!required, "there is no Python at {}", python.display());
            println!("skip: Python store: there is no Python at {}", python.display());
            return None;
        }
        let mut command = Command::new(python);
        command.args(["-c", PEER, &port.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { child, input, output: BufReader::new(output) })
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: '{line}'"))
    }

    fn ask(&mut self, line: &str) -> Value {
        self.say(line);
        self.hear()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn values_go_both_ways() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let Some(mut python) = Peer::start(server.port) else { return };
    let url = format!("redis://127.0.0.1:{}", server.port);
    let store = TemporaryStore::open(&url, "shop:").await.unwrap();

    let value = json!({ "name": "äpfel", "count": 3, "price": 0.5, "tags": ["a", null, true] });
    store.set("rust", &value).await.unwrap();
    assert_eq!(python.ask("store.peek('rust')"), value);
    assert_eq!(python.ask("[k.decode() for k in store.redis.keys()]"), json!(["shop:rust"]));
    assert_eq!(python.ask("269990 < store.redis.ttl('shop:rust') <= 270000"), json!(true));
    let same = "(lambda v: (store.set('python', v), store.redis.get('shop:rust') == \
                store.redis.get('shop:python')))(store.peek('rust'))[1]";
    assert_eq!(python.ask(same), json!(true), "byte for byte");
    assert_eq!(python.ask("store.pop('rust')"), value);
    assert_eq!(store.peek::<Value>("rust").await.unwrap(), None);
    assert_eq!(store.pop::<Value>("python").await.unwrap(), Some(value));

    python.ask("store.mset({'a': 1, 'b': [2]}, 60)");
    assert_eq!(store.pop_all::<Value>(&["b", "c"]).await.unwrap(), None);
    assert_eq!(store.pop_all(&["b", "a"]).await.unwrap(), Some(vec![json!([2]), json!(1)]));
    store.set_all_for([("a", 3), ("b", 4)], std::time::Duration::from_secs(60)).await.unwrap();
    assert_eq!(
        python.ask("[50 < store.redis.ttl('shop:' + k) <= 60 for k in 'ab']"),
        json!([true, true])
    );
    assert_eq!(python.ask("store.mpop('b', 'a', 'c')"), json!(null));
    assert_eq!(python.ask("store.mpop('b', 'a')"), json!([4, 3]));
    python.ask("store.set('null', None)");
    assert_eq!(store.pop::<Value>("null").await.unwrap(), None);
    assert_eq!(python.ask("store.is_down()"), json!(""));
    assert_eq!(python.ask("store.redis.keys()"), json!([]), "nothing is left behind");
}

#[tokio::test]
async fn a_value_is_made_by_one_of_both() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let Some(mut python) = Peer::start(server.port) else { return };
    let url = format!("redis://127.0.0.1:{}", server.port);
    let store = TemporaryStore::open(&url, "shop:").await.unwrap();
    let waiting = {
        python.say("store.peek_or_create('key', slowly, 60)");
        assert_eq!(python.hear(), json!("making"));
        let store = store.clone();
        let make = async || Ok::<_, Error>("made by Rust".to_owned());
        tokio::spawn(async move { store.peek_or_create("key", make).await })
    };
    // It tries, and sees that somebody else is at it.
    for _ in 0..3 {
        store.check().await.unwrap();
    }
    assert!(!waiting.is_finished());
    python.say("made by Python");
    assert_eq!(python.hear(), json!("made by Python"));
    assert_eq!(waiting.await.unwrap().unwrap(), "made by Python");

    store.pop::<String>("key").await.unwrap();
    let (tell, told) = tokio::sync::oneshot::channel::<&str>();
    let (start, started) = tokio::sync::oneshot::channel();
    let making = {
        let store = store.clone();
        let make = async || {
            start.send(()).unwrap();
            Ok::<_, Error>(told.await.unwrap().to_owned())
        };
        tokio::spawn(async move { store.peek_or_create("key", make).await })
    };
    started.await.unwrap();
    python.say("store.peek_or_create('key', slowly, 60)");
    tell.send("made by Rust").unwrap();
    assert_eq!(making.await.unwrap().unwrap(), "made by Rust");
    let heard = tokio::task::spawn_blocking(move || python.hear());
    assert_eq!(heard.await.unwrap(), json!("made by Rust"));
}
