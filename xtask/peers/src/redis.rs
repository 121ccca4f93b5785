//! Redis streams over a Unix socket, with a server of this program's own.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{Client, Cmd, Connection, Pipeline, Value};

use crate::measure::{Latencies, Timer, now_ns};
use crate::payload::{Count, Payload};
use crate::store::{PAUSE, Store, Sync, Target, since};
use crate::{Result, failed};

const SERVER: &str = "redis-server";
const STREAM: &str = "log";
const GROUP: &str = "group";
/// Entries of one answer.
const PAGE: usize = 1000;

/// A server that ends with this value, and one connection.
pub(crate) struct Redis {
    // Dropped first: the server is asked to end while somebody is there to ask.
    connection: Connection,
    client: Client,
    _server: Server,
}

/// The version of the server, if there is one.
pub(crate) fn version() -> Option<String> {
    let output = Command::new(SERVER).arg("--version").output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    let version = printed.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    Some(version.to_owned())
}

/// The process, its socket, whose path must be short, and how to reach it.
struct Server {
    child: Child,
    socket: PathBuf,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing of it is needed any more, and nobody is there to be told.
        let _ = self.child.kill().and_then(|()| self.child.wait());
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Server {
    /// Nothing but the append-only file is written, and it is not rewritten while it is measured.
    fn start(target: &Target) -> Result<Self> {
        let sync = match target.sync {
            Sync::Process => "everysec",
            Sync::Power => "always",
            Sync::End => return Err("Redis cannot be asked to sync once".to_owned()),
        };
        let socket = std::env::temp_dir().join(format!("busline-peers-{}", std::process::id()));
        let mut server = Command::new(SERVER);
        let port = if target.tcp { free_port()? } else { 0 };
        server.arg("--port").arg(port.to_string()).args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            sync,
        ]);
        server.args(["--auto-aof-rewrite-percentage", "0", "--loglevel", "warning"]);
        server.arg("--unixsocket").arg(&socket).arg("--dir").arg(&target.dir);
        server.stdin(Stdio::null()).stdout(Stdio::null());
        let child = server.spawn().map_err(|error| format!("{SERVER}: {error}"))?;
        let url = if target.tcp {
            format!("redis://127.0.0.1:{port}/")
        } else {
            format!("unix:{}", socket.display())
        };
        Ok(Self { child, socket, url })
    }
}

impl Store for Redis {
    fn open(target: &Target) -> Result<Self> {
        let server = Server::start(target)?;
        let client = Client::open(server.url.as_str()).map_err(failed)?;
        let started = Timer::start();
        let connection = loop {
            match client.get_connection() {
                Ok(connection) => break connection,
                Err(error) if started.took() > Duration::from_secs(10) => {
                    return Err(format!("{SERVER} does not answer: {error}"));
                }
                Err(_) => std::thread::park_timeout(Duration::from_millis(10)),
            }
        };
        Ok(Self { connection, client, _server: server })
    }

    /// So many commands a pipeline.
    fn publish(
        &mut self,
        payload: &mut Payload,
        numbers: Range<u64>,
        commit_len: u64,
    ) -> Result<()> {
        let mut next = numbers.start;
        while next < numbers.end {
            let end = numbers.end.min(next + commit_len);
            let mut pipeline = Pipeline::new();
            for number in next..end {
                pipeline.add_command(add(payload, number)).ignore();
            }
            pipeline.exec(&mut self.connection).map_err(failed)?;
            next = end;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Count> {
        let mut count = Count::default();
        let mut after = "-".to_owned();
        loop {
            let mut range = redis::cmd("XRANGE");
            range.arg(STREAM).arg(&after).arg("+").arg("COUNT").arg(PAGE);
            let entries: Value = range.query(&mut self.connection).map_err(failed)?;
            let Some(last) = each_entry(&entries, &mut |body| count.add(body))? else {
                return Ok(count);
            };
            after = format!("({last}");
        }
    }

    /// A member of a group reads by the thousand and acknowledges each entry, in a pipeline.
    fn settle(&mut self, commit_len: u64) -> Result<Count> {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(STREAM).arg(GROUP).arg("0");
        create.exec(&mut self.connection).map_err(failed)?;
        let mut count = Count::default();
        loop {
            let mut read = redis::cmd("XREADGROUP");
            read.arg("GROUP").arg(GROUP).arg("member").arg("COUNT").arg(commit_len);
            let streams: Value = read
                .arg("STREAMS")
                .arg(STREAM)
                .arg(">")
                .query(&mut self.connection)
                .map_err(failed)?;
            let Some(entries) = first_stream(&streams)? else { return Ok(count) };
            let mut acks = Pipeline::new();
            for entry in entries {
                let (id, body) = entry_parts(entry)?;
                count.add(body);
                acks.cmd("XACK").arg(STREAM).arg(GROUP).arg(id).ignore();
            }
            acks.exec(&mut self.connection).map_err(failed)?;
        }
    }

    /// A connection each, all served by one thread: that leaves a processor to the server.
    fn publish_from_many(&mut self, publishers: u64, each: u64) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(failed)?.block_on(async {
            let mut tasks = VecDeque::new();
            for number in 0..publishers {
                let connection = self.client.get_multiplexed_async_connection().await;
                let mut connection = connection.map_err(failed)?;
                tasks.push_back(tokio::spawn(async move {
                    let mut payload = Payload::new(100);
                    for number in number * each..(number + 1) * each {
                        let added = add(&mut payload, number).exec_async(&mut connection).await;
                        added.map_err(failed)?;
                    }
                    Ok::<_, String>(())
                }));
            }
            for task in tasks {
                task.await.map_err(failed)??;
            }
            Ok(())
        })
    }

    /// A consumer that blocks in XREAD, on a connection of its own.
    fn wake(&mut self, messages: u64) -> Result<Latencies> {
        let mut consumer = self.client.get_connection().map_err(failed)?;
        let consume = move || {
            let mut latencies = Latencies::default();
            let mut after = "0".to_owned();
            for _ in 0..messages {
                let mut read = redis::cmd("XREAD");
                read.arg("COUNT").arg(1).arg("BLOCK").arg(10_000).arg("STREAMS").arg(STREAM);
                let streams: Value = read.arg(&after).query(&mut consumer).map_err(failed)?;
                let entries = first_stream(&streams)?.ok_or("waited in vain")?;
                let (id, body) = entry_parts(entries.first().ok_or("an empty answer")?)?;
                latencies.add(since(body)?);
                after = String::from_utf8(id.to_vec()).map_err(failed)?;
            }
            Ok(latencies)
        };
        let consumer = std::thread::spawn(consume);
        let mut payload = Payload::new(100);
        for _ in 0..messages {
            std::thread::park_timeout(PAUSE);
            let command = add(&mut payload, now_ns());
            command.exec(&mut self.connection).map_err(failed)?;
        }
        consumer.join().map_err(|_| "the consumer panicked")?
    }
}

/// A port that nobody listens on at the moment.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
    listener.local_addr().map(|address| address.port()).map_err(failed)
}

fn add(payload: &mut Payload, number: u64) -> Cmd {
    let (key, body) = payload.message(number);
    let mut add = redis::cmd("XADD");
    add.arg(STREAM).arg("*").arg("k").arg(key).arg("b").arg(body);
    add
}

/// Hands on the bodies of entries; returns the id of the last.
fn each_entry(entries: &Value, take: &mut dyn FnMut(&[u8])) -> Result<Option<String>> {
    let Value::Array(entries) = entries else { return Err(strange(entries)) };
    let mut last = None;
    for entry in entries {
        let (id, body) = entry_parts(entry)?;
        take(body);
        last = Some(id);
    }
    last.map(|id| String::from_utf8(id.to_vec()).map_err(failed)).transpose()
}

/// The entries of the only stream of an answer; `None` when it has none.
fn first_stream(streams: &Value) -> Result<Option<&[Value]>> {
    let Value::Array(streams) = streams else {
        return if *streams == Value::Nil { Ok(None) } else { Err(strange(streams)) };
    };
    match streams.as_slice() {
        [Value::Array(stream)] => match stream.as_slice() {
            [_, Value::Array(entries)] if entries.is_empty() => Ok(None),
            [_, Value::Array(entries)] => Ok(Some(entries)),
            other => Err(format!("a stream is {other:?}")),
        },
        other => Err(format!("streams are {other:?}")),
    }
}

/// The id and the body of an entry.
fn entry_parts(entry: &Value) -> Result<(&[u8], &[u8])> {
    let Value::Array(parts) = entry else { return Err(strange(entry)) };
    let [Value::BulkString(id), Value::Array(fields)] = parts.as_slice() else {
        return Err(strange(entry));
    };
    match fields.as_slice() {
        [_, Value::BulkString(_), _, Value::BulkString(body)] => Ok((id, body)),
        _ => Err(strange(entry)),
    }
}

fn strange(value: &Value) -> String {
    format!("the server answers {value:?}")
}
