//! What is taken although it is unusual, and what is not: as a Python service decides.

use busline_core::{HeaderValue, Key, Message};

use super::super::*;
use super::bytes;

fn message(kind: Kind, content_type: Option<&str>, body: &'static [u8]) -> Message {
    let mut message = Message::new(topic(kind), Key::new("svc.Key").unwrap(), body);
    message.properties.content_type = content_type.map(Into::into);
    message.properties.conversation_id = Some("conv".into());
    message
}

fn refused(kind: Kind, message: &Message) -> (String, String, String) {
    let invalid = decode(kind, message).unwrap_err();
    let line = invalid.log_line();
    assert_eq!(line.level(), Level::EMERGENCY);
    (line.short().to_owned(), invalid.conversation().to_string(), invalid.to_string())
}

#[test]
fn no_conversation() {
    let mut bare = message(Kind::Event, None, b"{bad");
    bare.properties.conversation_id = None;
    for kind in [Kind::Event, Kind::Command, Kind::Result] {
        let (short, conversation, reason) = refused(kind, &bare);
        assert_eq!(short, "Missing headers on svc.Key");
        assert_eq!(
            (conversation.as_str(), reason.as_str()),
            ("", "it has no header conversation_id")
        );
    }
    // Configurations need none, so it is their bodies that are looked at.
    let (short, ..) = refused(Kind::Configuration, &bare);
    assert_eq!(short, "Unable to decode payload for svc.Key; dead lettering.");
    // Its value is not looked at.
    for (value, text) in [
        (HeaderValue::Null, ""),
        (HeaderValue::Int(77), "77"),
        (HeaderValue::Bool(true), "True"),
        (HeaderValue::Str("".into()), ""),
    ] {
        let mut odd = message(Kind::Event, None, b"1");
        odd.properties.conversation_id = None;
        odd.headers.append("conversation_id", value);
        let incoming = decode(Kind::Event, &odd).unwrap();
        assert_eq!(incoming.conversation(), text);
        assert_eq!(incoming.meta.get("conversation_id"), None);
    }
}

#[test]
fn undecodable_bodies() {
    let cbor = Some("application/cbor");
    let cases: &[(Option<&str>, &str)] = &[
        (None, "7b626164"),
        (Some("application/json"), "c328ff"),
        (Some("text/plain"), "01"),
        (None, "5b312c5d"),
        (None, "3031"),
        (None, "31203220"),
        (None, "220a22"),
        (None, "225c7822"),
        (None, "2e35"),
        (cbor, "a16161"),
        (cbor, "1c"),
        (cbor, "61ff"),
        (cbor, "62c328"),
        (cbor, "ff"),
        (cbor, "bf6161ff"),
        // Lengths that nothing stands behind.
        (cbor, "9bffffffffffffffff00"),
        (cbor, "5b7fffffffffffffff00"),
        (cbor, "7b00000000ffffffff61"),
        (cbor, "bb000000ffffffffff6161"),
    ];
    for (content_type, hex) in cases {
        let mut bad = message(Kind::Event, *content_type, b"");
        bad.payload = bytes(hex);
        let (short, conversation, reason) = refused(Kind::Event, &bad);
        assert_eq!(short, "Unable to decode payload for svc.Key; dead lettering.", "{hex}");
        assert_eq!(conversation, "conv", "{hex}");
        assert!(reason.starts_with("the payload is not application/"), "{hex}: {reason}");
    }
}

/// Deep enough to be refused, on a thread with the stack that threads have.
#[test]
fn bombs_are_undecodable() {
    for (content_type, open, close) in [
        ("application/cbor", &b"\x81"[..], &b""[..]),
        ("application/cbor", b"\xbf\x61a", b""),
        ("application/cbor", b"\xc1", b""),
        ("application/cbor", b"\x9f", b"\xff"),
        ("application/json", b"[", b"]"),
        ("application/json", b"{\"a\": ", b"}"),
    ] {
        let edges = [(400, true), (401, false)];
        // Of tags in tags Python takes fewer.
        let edges = if open == b"\xc1" { &edges[..0] } else { &edges[..] };
        for (depth, is_fine) in [&[(100, true), (100_000, false)], edges].concat() {
            let zero: &[u8] = if content_type.ends_with("json") { b"0" } else { b"\0" };
            let mut body = open.repeat(depth);
            body.extend_from_slice(zero);
            body.extend(close.repeat(depth));
            if open.starts_with(b"\xbf") {
                body.extend(b"\xff".repeat(depth));
            }
            let mut bomb = message(Kind::Event, Some(content_type), b"");
            bomb.payload = body.into();
            let decoded = decode(Kind::Event, &bomb);
            assert_eq!(decoded.is_ok(), is_fine, "{depth} times {open:?}: {decoded:?}");
            if let Ok(incoming) = decoded {
                assert!(incoming.body.value().is_ok());
                // Given on without a look at it, it is still the same.
                let given_on: Body = incoming.body.decode().unwrap();
                assert_eq!(given_on.value().unwrap(), incoming.body.value().unwrap());
            }
        }
    }
}

#[test]
fn commands_and_results_are_told_by_their_envelopes() {
    let plain = message(Kind::Command, None, b"{\"a\": 1}");
    let mut cases = vec![(plain.clone(), None)];
    for (reply_to, status, kind) in [
        (Some("r"), None, Some(Kind::Command)),
        (Some("r"), Some(HeaderValue::from("success")), Some(Kind::Command)),
        (None, Some(HeaderValue::from("partial")), Some(Kind::Result)),
        (Some(""), Some(HeaderValue::from("error")), Some(Kind::Result)),
        (None, Some(HeaderValue::Int(1)), Some(Kind::Result)),
        (None, Some(HeaderValue::Int(0)), None),
        (None, Some(HeaderValue::from("")), None),
        (None, Some(HeaderValue::Null), None),
        (Some(""), None, None),
    ] {
        let mut case = plain.clone();
        case.properties.reply_to = reply_to.map(Into::into);
        if let Some(status) = status {
            case.headers.append("status", status);
        }
        cases.push((case, kind));
    }
    for (case, kind) in cases {
        let decoded = decode(Kind::Command, &case);
        assert_eq!(decoded.as_ref().ok().map(|incoming| incoming.kind), kind, "{case:?}");
        if let Ok(incoming) = decoded {
            assert_eq!(incoming.reply_to.is_some(), kind == Some(Kind::Command));
            assert_eq!(incoming.status.is_some(), kind == Some(Kind::Result));
            assert_eq!(incoming.meta.get("status"), None);
            assert_eq!(incoming.correlation_id, None);
        }
    }
    let odd = plain.header("x", "it's").header("n", 3);
    let (short, conversation, _) = refused(Kind::Command, &odd);
    let meta = "{'x': \"it's\", 'n': 3, 'timestamp': None, 'expiration': None, 'user_id': None, 'app_id': None}";
    assert_eq!(short, format!("invalid enveloppe for command/result: {meta}; dead lettering."));
    assert_eq!(conversation, "conv");
}

#[test]
fn the_body_is_looked_at_before_the_envelope() {
    let both = message(Kind::Command, None, b"{bad");
    assert!(matches!(decode(Kind::Command, &both), Err(Invalid::Undecodable { .. })));
}

#[test]
fn who_consumes_decides_the_kind() {
    let event = message(Kind::Command, None, b"1");
    assert_eq!(decode(Kind::Event, &event).unwrap().kind, Kind::Event);
    assert_eq!(decode(Kind::Configuration, &event).unwrap().kind, Kind::Configuration);
}

#[test]
fn what_cannot_be_sent_is_refused() {
    let conversation = Conversation::new("c");
    let long = "x".repeat(256);
    let (format, body) = (Format::Cbor, || bytes("f6"));
    assert!(event(&long, format, body(), &conversation).is_err());
    assert!(command("s.C", format, body(), &conversation, &long, "1").is_err());
    assert!(command("s.C", format, body(), &conversation, "r", &long).is_err());
    assert!(command("s.C", format, body(), &conversation, "", "1").is_err());
    assert!(result("r", format, body(), &conversation, Status::Error, Some(&long)).is_err());
    let result = result("r", format, body(), &conversation, Status::Error, None).unwrap();
    assert_eq!(result.properties.correlation_id, None);
}
