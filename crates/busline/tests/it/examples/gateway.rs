//! Commands from HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::stage::Stage;
use crate::python::peer::Peer;

/// Sends one request; status, head and body of the answer.
async fn ask(address: &str, head: &str, body: &str) -> (u16, String, Value) {
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let address = address.to_owned();
    let asking = tokio::task::spawn_blocking(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = asking.await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

async fn post(address: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, _, body) = ask(address, &format!("POST {path} HTTP/1.0"), body).await;
    (status, body)
}

async fn gateway(stage: &Stage, more: &[&str]) -> (Peer, String) {
    let mut peer = stage.start("06_gateway", &[&["--listen", "127.0.0.1:0"], more].concat());
    let ready = peer.expect("ready").await;
    let address = ready["address"].as_str().unwrap().to_owned();
    (peer, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_called_from_http_and_their_results_told() {
    for stage in Stage::all() {
        let echo = stage.ready("01_echo", &[]).await;
        let (mut gateway, address) = gateway(&stage, &["--timeout", "20"]).await;
        let head = "POST /echo/Reverse HTTP/1.0\r\nX-Conversation-Id: c1";
        let (status, head, body) = ask(&address, head, r#"{"text": "añb"}"#).await;
        assert_eq!((status, body), (200, json!({ "text": "bña" })), "{}", stage.url);
        assert!(head.to_lowercase().contains("x-conversation-id: c1"), "{head}");
        let said = gateway.expect("request").await;
        let expected = json!({"kind": "request", "command": "echo.Reverse", "status": 200,
            "conversation_id": "c1"});
        assert_eq!(said, expected);
        let shapes = r#"[1, -2.5, null, {"a": "b"}, 18446744073709551615]"#;
        let same = post(&address, "/echo/Identity", shapes).await;
        assert_eq!(same, (200, serde_json::from_str(shapes).unwrap()));
        assert_eq!(post(&address, "/echo/Identity", "").await, (200, Value::Null));

        let (status, fault) = post(&address, "/echo/Reverse", "{}").await;
        assert!(status == 422 && fault["reason"].is_string(), "{status} {fault}");
        assert_eq!(post(&address, "/nobody/Reverse", "{}").await.0, 404);
        assert_eq!(post(&address, "/echo/Identity", "{").await.0, 400);
        assert_eq!(post(&address, &format!("/echo/{}", "x".repeat(251)), "1").await.0, 400);
        assert_eq!(post(&address, "/echo", "1").await.0, 404);
        assert_eq!(ask(&address, "GET /echo/Identity HTTP/1.0", "").await.0, 405);
        let large = format!("\"{}\"", "x".repeat(8 << 20));
        assert_eq!(post(&address, "/echo/Identity", &large).await.0, 413);
        for peer in [gateway, echo] {
            peer.signal(Signal::TERM);
            assert_eq!(peer.code().await, Some(0));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_answers_whom_it_serves_and_says_what_it_does_not_know() {
    for stage in Stage::all() {
        let echo = stage.ready("01_echo", &[]).await;
        let (hasty, address) = gateway(&stage, &["--timeout", "0.2", "--service", "hasty"]).await;
        let (status, body) = post(&address, "/echo/Later", r#"{"seconds": 5}"#).await;
        assert_eq!(status, 504, "{body}");
        hasty.signal(Signal::INT);
        assert_eq!(hasty.code().await, Some(0));

        let (gateway, address) = gateway(&stage, &["--json"]).await;
        let asked = post(&address, "/echo/Later", r#"{"seconds": 1}"#);
        let stopped = async {
            // The command is on its way when the service says so.
            let mut echo = echo;
            while echo.expect("command").await["payload"] != json!({ "seconds": 1 }) {}
            gateway.signal(Signal::TERM);
            (gateway.code().await, echo)
        };
        let ((status, body), (code, echo)) = tokio::join!(asked, stopped);
        assert!(status == 200 && body["waited"].is_number(), "{status} {body}");
        assert_eq!(code, Some(0));
        echo.signal(Signal::TERM);
        assert_eq!(echo.code().await, Some(0));
    }
}
