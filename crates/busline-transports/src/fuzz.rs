//! Entry points for fuzzing: URLs, and the properties of messages as the embedded log keeps them. For `fuzz/` and
//! the smoke test; no part of the API.

use busline_core::{Key, Message, Topic};
use bytes::Bytes;

use crate::file::meta;
use crate::{BusUrl, duration, open};

/// Does with arbitrary bytes what a program would do with them.
pub type Target = fn(&[u8]);

/// Every target by name. The seeds of one are the files of `fuzz/seeds/{name}`.
pub const TARGETS: &[(&str, Target)] = &[("bus_url", url), ("file_meta", file_meta)];

/// Runs a target on some bytes; panics when there is none of this name.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, run) = found.expect("the target is in the table");
    run(data);
}

/// A URL: opened as far as that goes without a broker, and never printed with its secrets.
fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = duration(&text);
    let parsed = match BusUrl::parse(&text) {
        Ok(parsed) => parsed,
        Err(error) => return is_silent(&text, &error.to_string()),
    };
    let shown = parsed.to_string();
    assert_eq!(shown, format!("{parsed:?}"));
    is_silent(&text, &shown);
    if let Err(error) = parsed.path() {
        is_silent(&text, &error.to_string());
    }
    // Each name of one in memory is kept for ever.
    if parsed.scheme != "memory" {
        match open(&text) {
            Ok(transport) => is_silent(&text, &format!("{transport} {transport:?}")),
            Err(error) => is_silent(&text, &format!("{error} {error:?}")),
        }
    }
}

/// Fails when a text holds the password of a URL, which is told by its mark: arbitrary ones stand elsewhere as well.
fn is_silent(url: &str, said: &str) {
    const MARK: &str = "s3cr3tm4rk";
    // Where the first colon does not begin it, it is an option's text and no address.
    let authority = url.split_once(':').and_then(|(_, rest)| rest.strip_prefix("//"));
    let authority = authority.unwrap_or_default();
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let password = user.split_once(':').map_or("", |(_, password)| password);
    // A scheme is said in lower case, however it was written.
    if password.contains(MARK) && url.to_ascii_lowercase().matches(MARK).count() == 1 {
        assert!(!said.contains(MARK), "{said}");
    }
}

/// Meta bytes: what is understood comes back as it was when it is written and read again.
fn file_meta(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let _ = meta::is_for_group(data, "group");
    let _ = meta::ordering_key(b"key", data);
    let Ok((properties, ordering_key, headers)) = meta::decode(&bytes) else { return };
    let topic = Topic::new("t").expect("it is a name");
    let mut message = Message::new(topic, Key::default(), Bytes::new());
    (message.properties, message.ordering_key, message.headers) =
        (properties, ordering_key, headers);
    let mut again = Vec::new();
    meta::encode(&message, &mut again);
    let decoded = meta::decode(&Bytes::from(again.clone()));
    let (properties, ordering_key, headers) = decoded.expect("what was encoded is understood");
    (message.properties, message.ordering_key, message.headers) =
        (properties, ordering_key, headers);
    let mut third = Vec::new();
    meta::encode(&message, &mut third);
    // Bytes, not values: a NaN is not equal to itself.
    assert_eq!(again, third);
}

#[cfg(test)]
mod tests;
