//! Progress bars: on a terminal only, and only for what lasts longer than a second.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::app::App;

/// Nothing is shown before.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// A bar that appears when it is worth it. On standard error; hidden unless that is a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Duration,
    shown: bool,
}

impl Progress {
    /// Of a known length, or counting.
    pub(crate) fn new(app: &App, what: &'static str, length: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::hidden());
        let template = match length {
            Some(_) => "{msg} {bar:30} {human_pos}/{human_len} {per_sec} {eta}",
            None => "{msg} {human_pos} {per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Self { bar, started: app.clock.monotonic(), shown: false }
    }

    /// Awaits work of unknown length, with a sign of life when it is worth it.
    pub(crate) async fn spin<T>(
        app: &App,
        what: &'static str,
        mut work: impl Future<Output = T> + Unpin,
    ) -> T {
        tokio::select! {
            done = &mut work => return done,
            () = app.clock.sleep(SHOWN_AFTER) => {}
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        let done = work.await;
        bar.finish_and_clear();
        done
    }

    /// Whether anybody would see it.
    pub(crate) fn is_seen(&self) -> bool {
        std::io::stderr().is_terminal()
    }

    /// Says something else from here on.
    pub(crate) fn say(&self, what: String) {
        self.bar.set_message(what);
    }

    /// This much more is done.
    pub(crate) fn advance(&mut self, app: &App, by: u64) {
        self.bar.inc(by);
        if !self.shown && app.clock.monotonic().saturating_sub(self.started) > SHOWN_AFTER {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
