//! Lines on standard output, written by a thread of its own: a reader that reads no more holds nobody up
//! who was asked to end.

use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use serde_json::Value;

/// What may wait for the reader.
const BYTES_MAX: usize = 1 << 16;

/// How long the end waits for a reader, once it was asked for.
const LAST_MAX: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Waiting {
    text: String,
    /// The thread is at some that it took.
    is_writing: bool,
    /// Nobody waits for the reader any more.
    is_given_up: bool,
}

static WAITING: Mutex<Waiting> =
    Mutex::new(Waiting { text: String::new(), is_writing: false, is_given_up: false });
static CHANGED: Condvar = Condvar::new();

/// Prints one JSON object on a line of its own; waits while the reader is far behind.
pub(crate) fn line(value: &Value) {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| drop(std::thread::spawn(write)));
    let room = CHANGED.wait_while(lock(), |all| all.text.len() > BYTES_MAX && !all.is_given_up);
    let mut waiting = room.unwrap_or_else(PoisonError::into_inner);
    if waiting.text.len() <= BYTES_MAX {
        waiting.text.push_str(&format!("{value}\n"));
        CHANGED.notify_all();
    }
}

/// The program was asked to end: lines for which there is no room are dropped.
pub(crate) fn give_up() {
    lock().is_given_up = true;
    CHANGED.notify_all();
}

/// Waits until everything is written; once it was asked to end, not for long.
pub(crate) fn finish() {
    let is_behind = |waiting: &mut Waiting| waiting.is_writing || !waiting.text.is_empty();
    let waited = CHANGED.wait_while(lock(), |all| is_behind(all) && !all.is_given_up);
    let waiting = waited.unwrap_or_else(PoisonError::into_inner);
    // Who reads no more does not read the rest either.
    drop(CHANGED.wait_timeout_while(waiting, LAST_MAX, is_behind));
}

fn write() {
    let mut waiting = lock();
    loop {
        waiting.is_writing = false;
        CHANGED.notify_all();
        let more = CHANGED.wait_while(waiting, |all| all.text.is_empty());
        waiting = more.unwrap_or_else(PoisonError::into_inner);
        let text = std::mem::take(&mut waiting.text);
        waiting.is_writing = true;
        drop(waiting);
        let mut out = std::io::stdout().lock();
        // When nobody reads any more the service goes on.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        drop(out);
        waiting = lock();
    }
}

fn lock() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}
