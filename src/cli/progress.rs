//! Progress, warnings and notes on standard error, and the log.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use super::output;
use crate::ops::progress::Progress;

/// The time between two frames of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// Draws progress on standard error if it is a terminal.
#[derive(Clone)]
pub(super) struct Terminal {
    bar: ProgressBar,
    quiet: bool,
    json: bool,
}

impl Terminal {
    /// Returns a terminal that draws no progress if `quiet` or `verbose`. With `json`, warnings and notes are JSON, so
    /// that every line of standard error is.
    pub(super) fn new(quiet: bool, verbose: bool, json: bool) -> Self {
        let drawn = !quiet && !verbose && std::io::stderr().is_terminal();
        let target = if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bar: ProgressBar::with_draw_target(None, target), quiet, json }
    }

    /// Returns whether only errors are printed.
    pub(super) const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Clears the progress line before something else is printed.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn say(&self, kind: output::Kind, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| if self.json { output::say_json(kind, text) } else { output::say(kind, text) });
        }
    }
}

impl Progress for Terminal {
    fn step(&self, text: &str) {
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            self.bar.set_style(style);
        }
        self.bar.enable_steady_tick(TICK);
        self.bar.set_message(output::plain(text).replace('\n', " "));
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        let template = match total {
            Some(_) => "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
            None => "{spinner} {msg} {bytes} {bytes_per_sec}",
        };
        if self.bar.length() != total
            && let Ok(style) = ProgressStyle::with_template(template)
        {
            self.bar.set_style(style);
            self.bar.set_length(total.unwrap_or(0));
            // Bytes of an earlier, interrupted download must not count towards the rate.
            self.bar.set_position(done);
            self.bar.reset_eta();
        }
        self.bar.set_position(done);
    }

    fn warn(&self, text: &str) {
        self.say(output::Kind::Warning, text);
    }

    fn note(&self, text: &str) {
        self.say(output::Kind::Note, text);
    }
}

/// Logs to standard error as JSON lines.
pub(super) fn log_json(filter: &str) {
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(std::io::stderr)
        // At more verbose levels, rmcp logs whole requests, which may contain secrets.
        .with_filter(EnvFilter::new(format!("{filter},rmcp=warn")));
    tracing_subscriber::registry().with(layer).init();
}

/// Logs the commands that are run, in a form to paste into a shell: those that change something, or all of them.
pub(super) fn log_commands(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    // Only vmprov's own messages: the HTTP client also logs at these levels.
    let filter = tracing_subscriber::filter::Targets::new().with_target("vmprov", level);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_ansi(false);
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
}
