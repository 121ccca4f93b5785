//! The service that answers, and the one that calls it.

use busline::service::wire::Body;
use busline::service::{App, Conversation, Key, Payload};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::stage::{Stage, listen, start};
use crate::harness::Random;
use crate::python::ground::Ground;
use crate::python::peer::Peer;
use crate::service::harness::soon;

fn count(lines: &[Value], outcome: &str) -> usize {
    lines.iter().filter(|line| line["outcome"] == outcome).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_of_the_caller_is_answered_right() {
    for stage in Stage::all() {
        let echo = stage.ready("01_echo", &["--service", "sound", "--prefetch", "7"]).await;
        for (mode, more) in [
            ("reverse", &["--events"][..]),
            ("identity", &["--json"]),
            ("error", &["--durable"]),
            ("meta", &[]),
            ("later", &["--json", "--durable"]),
            ("mixed", &["--events", "--timeout", "60"]),
        ] {
            let arguments = ["--target", "sound", "--count", "30", "--window", "8", "--mode", mode];
            let (lines, code) = stage.call(&[&arguments, more].concat()).await;
            let summary = lines.last().unwrap();
            assert_eq!(code, Some(0), "{mode} on {}: {summary}", stage.url);
            assert_eq!(count(&lines, "good"), 30, "{mode}");
            let status = if mode == "error" { "error" } else { "success" };
            let first = lines.iter().find(|line| line["kind"] == "outcome").unwrap();
            assert!(first["status"] == status || mode == "mixed", "{first}");
            assert_eq!((&summary["good"], &summary["missing"]), (&json!(30), &json!(0)));
        }
        echo.signal(Signal::TERM);
        assert_eq!(echo.code().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_says_what_came_back_and_what_is_missing() {
    for stage in Stage::all() {
        let echo = stage.ready("01_echo", &[]).await;
        let (lines, code) =
            stage.call(&["--count", "5", "--mode", "unroutable", "--timeout", "5"]).await;
        // Its commands are bound by their names, so a name that it does not have is not taken.
        assert_eq!((code, &lines.last().unwrap()["returned"]), (Some(1), &json!(5)), "{lines:?}");
        echo.signal(Signal::INT);
        assert_eq!(echo.code().await, Some(0));
        // The queue is there, and nobody at it.
        let (lines, code) = stage.call(&["--count", "3", "--timeout", "1"]).await;
        assert_eq!((code, &lines.last().unwrap()["missing"]), (Some(2), &json!(3)), "{lines:?}");
    }
}

/// Queues that are not there yet and commands that come back are no errors, and no payload is ever in a log.
#[tokio::test(flavor = "multi_thread")]
async fn a_normal_run_has_nothing_to_complain_of() {
    for stage in Stage::all() {
        let files = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        let [echo_says, caller_says] = files.each_ref().map(|file| file.reopen().unwrap());
        let mut echo = Peer::start(stage.command("01_echo", &[]).stderr(echo_says));
        echo.expect("ready").await;
        let arguments = ["--count", "5", "--mode", "unroutable", "--timeout", "5"];
        let mut caller = Peer::start(stage.command("02_caller", &arguments).stderr(caller_says));
        caller.expect("ready").await;
        let (lines, code) = listen(caller).await;
        assert_eq!(code, Some(1), "{lines:?}");
        echo.signal(Signal::TERM);
        assert_eq!(echo.code().await, Some(0));
        for file in files {
            let said = std::fs::read_to_string(file.path()).unwrap();
            assert!(!said.contains("ERROR") && !said.contains("lapin"), "{}: {said}", stage.url);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_publishes_copies_in_the_conversation_and_says_what_it_got() {
    for stage in Stage::all() {
        let (said, mut events) = mpsc::unbounded_channel();
        let heard =
            move |Key(key): Key, Payload(p): Payload<Value>, Conversation(c): Conversation| {
                said.send((key.to_string(), p, c.to_string())).unwrap();
                async {}
            };
        let probe = stage
            .probe(
                App::new("probe")
                    .concurrency(1)
                    .event("EchoPublished", heard.clone())
                    .event("TextReversed", heard),
            )
            .await;
        let mut echo = stage.ready("01_echo", &["--json"]).await;
        let context = probe.context.in_conversation("talk");
        context.event("EchoRequested", &json!({ "text": "Zoé", "copies": 3 })).await.unwrap();
        let line = echo.expect("event").await;
        assert_eq!(line["key"], "EchoRequested");
        assert_eq!(
            (&line["payload"]["text"], &line["conversation_id"]),
            (&json!("Zoé"), &json!("talk"))
        );
        for n in 1..=3 {
            let (key, payload, conversation) = soon("a copy", events.recv()).await.unwrap();
            assert_eq!((key.as_str(), conversation.as_str()), ("EchoPublished", "talk"));
            assert_eq!(payload, json!({ "text": "Zoé", "n": n, "of": 3 }));
        }
        context.event("EchoIgnored", &json!(1)).await.unwrap();
        assert_eq!(echo.expect("event").await["key"], "EchoIgnored");
        let long = std::time::Duration::from_secs(60);
        let reversed: Value =
            context.call("echo.Reverse", &json!({ "text": "aéß" }), long).await.unwrap();
        assert_eq!(reversed, json!({ "text": "ßéa" }));
        let line = echo.expect("command").await;
        assert_eq!(line["key"], "echo.Reverse");
        assert!(
            line["reply_to"].is_string()
                && line["correlation_id"].is_string()
                && line["meta"].is_object(),
            "{line}"
        );
        let (key, payload, _) = soon("an event", events.recv()).await.unwrap();
        assert_eq!(
            (key.as_str(), payload),
            ("TextReversed", json!({ "text": "aéß", "reversed": "ßéa" }))
        );
        let fault =
            context.call::<_, Body>("echo.Reverse", &json!({ "text": 1 }), long).await.unwrap_err();
        assert!(fault.to_string().contains("error"), "{fault}");
        echo.signal(Signal::HUP);
        assert_eq!(echo.code().await, Some(0));
        probe.stop().await;
    }
}

/// What was answered and not settled is answered once more by the other; nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn no_command_is_missing_when_one_of_two_is_killed() {
    for stage in Stage::all() {
        let mut victim = stage.ready("01_echo", &[]).await;
        let other = stage.ready("01_echo", &[]).await;
        let mut caller = stage
            .ready("02_caller", &["--count", "1000", "--window", "50", "--timeout", "60"])
            .await;
        for _ in 0..300 {
            caller.expect("outcome").await;
        }
        victim.kill();
        let (lines, code) = listen(caller).await;
        let summary = lines.last().unwrap();
        let doubled = summary["doubled"].as_u64().unwrap();
        println!("{}: {doubled} of 1,000 were answered twice", stage.url);
        assert_eq!(
            (&summary["good"], &summary["missing"], &summary["wrong"]),
            (&json!(1000), &json!(0), &json!(0))
        );
        assert_eq!(code, Some(i32::from(doubled > 0)));
        other.signal(Signal::TERM);
        assert_eq!(other.code().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_at_any_moment_ends_it_well() {
    let mut random = Random::for_test("a_signal_at_any_moment_ends_it_well");
    for stage in Stage::all() {
        // Its queue is there from then on.
        let first = stage.ready("01_echo", &["--service", "any"]).await;
        let arguments =
            ["--target", "any", "--count", "1000000", "--window", "50", "--timeout", "60"];
        let more = ["--mode", "mixed", "--durable"];
        let mut caller = stage.ready("02_caller", &[&arguments[..], &more].concat()).await;
        drop(first);
        for _ in 0..10 {
            let echo = stage.ready("01_echo", &["--service", "any"]).await;
            for _ in 0..random.below(200) {
                caller.expect("outcome").await;
            }
            echo.signal(Signal::TERM);
            assert_eq!(echo.code_soon().await, Some(0));
        }
        caller.signal(Signal::TERM);
        assert_eq!(caller.code_soon().await, Some(0));
    }
    // Nobody is there, and it tries to connect.
    let absent = start("01_echo", &["--bus", "amqp://127.0.0.1:9/"]);
    let is_listening = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", absent.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() >> 14 & 1 == 1
    };
    while !is_listening() {
        tokio::task::yield_now().await;
    }
    absent.signal(Signal::TERM);
    assert_eq!(absent.code_soon().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_calls_a_python_service_all_the_same() {
    let Some(ground) = Ground::find() else { return };
    for format in [&[][..], &["--json"]] {
        let mut theirs = ground.start("echo.py", &[&["theirs"], format].concat());
        theirs.expect("ready").await;
        for mode in ["reverse", "identity", "error", "meta"] {
            let arguments =
                ["--target", "theirs", "--count", "100", "--window", "10", "--mode", mode];
            let url = ground.url();
            let mut caller =
                start("02_caller", &[&["--bus", &url], &arguments[..], format].concat());
            caller.expect("ready").await;
            let (lines, code) = listen(caller).await;
            assert_eq!(code, Some(0), "{mode}: {:?}", lines.last());
        }
    }
}
