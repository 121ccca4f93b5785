//! Asked to end, an example ends soon, whatever it is doing and whoever is gone.

use std::io::Read;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::stage::{Stage, program, start};
use crate::python::ground::Ground;
use crate::python::peer::{Peer, SOON};

const ENDLESS: [&str; 4] = ["--count", "1000000", "--window", "50"];

async fn soon<T>(ending: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, ending).await.expect("it ends soon")
}

/// It says what it came to, and ends well.
async fn stops(mut caller: Peer) {
    caller.signal(Signal::TERM);
    let ending = async move {
        let last = caller.rest().await.pop().unwrap();
        (serde_json::from_str::<Value>(&last).unwrap(), caller.code().await)
    };
    let (summary, code) = soon(ending).await;
    assert_eq!((&summary["kind"], code), (&"summary".into(), Some(0)), "{summary}");
    assert!(summary["sent"].as_u64().unwrap() < 1_000_000, "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_stops_with_its_summary() {
    for stage in Stage::all() {
        let echo = stage.ready("01_echo", &[]).await;
        for mode in ["mixed", "later"] {
            let mut caller =
                stage.ready("02_caller", &[&ENDLESS[..], &["--mode", mode]].concat()).await;
            for _ in 0..20 {
                caller.expect("outcome").await;
            }
            stops(caller).await;
        }
        drop(echo);
        // Nobody answers.
        stops(stage.ready("02_caller", &ENDLESS).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_stops_when_the_broker_is_away() {
    let Some(ground) = Ground::find() else { return };
    let echo = start("01_echo", &["--bus", &ground.url()]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = ground.url().replace(&ground.address(), &listener.local_addr().unwrap().to_string());
    let broker = ground.address();
    let relay = tokio::spawn(async move {
        let mut pairs = tokio::task::JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&broker).await.unwrap();
            pairs.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let mut caller = start("02_caller", &[&["--bus", &url][..], &ENDLESS].concat());
    caller.expect("ready").await;
    for _ in 0..20 {
        caller.expect("outcome").await;
    }
    // The listener goes too: nobody gets in again.
    relay.abort();
    assert!(relay.await.unwrap_err().is_cancelled());
    stops(caller).await;
    drop(echo);
}

/// A reader that reads no more holds it up only until it is asked to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_pipe_holds_no_end_up() {
    let stage = Stage::all().remove(0);
    let echo = stage.ready("01_echo", &[]).await;
    let mut command = Command::new(program("02_caller"));
    let command = command.args(["--bus", &stage.url]).args(ENDLESS).args(["--timeout", "600"]);
    let mut caller = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut unread = caller.stdout.take().unwrap();
    let full = async {
        // Of the 16 pages of a pipe each may be half empty: it is full when nothing more comes.
        let (mut steady, mut before) = (0, 0);
        while steady < 20_000 {
            let now = rustix::io::ioctl_fionread(&unread).unwrap();
            steady = if now == before && now > 30_000 { steady + 1 } else { 0 };
            before = now;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::python::peer::PATIENCE, full).await.expect("lines");
    kill_process(Pid::from_child(&caller), Signal::TERM).unwrap();
    let ended = async {
        loop {
            if let Some(ended) = caller.try_wait().unwrap() {
                return ended;
            }
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(SOON, ended).await;
    let _ = caller.kill();
    assert_eq!(ended.expect("it ends soon").code(), Some(0));
    let mut read = Vec::new();
    unread.read_to_end(&mut read).unwrap();
    assert!(read.starts_with(b"{\"kind\":\"ready\"}\n"));
    drop(echo);
}
