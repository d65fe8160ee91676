//! A progress bar for work that takes a while: on standard error, and only if that is a terminal. What a command reports goes
//! to standard output as if there were no bar, so output that is piped or kept in a file is the same either way.
//!
//! A bar is taken away when it is finished or dropped: an error message is never printed into it.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// How often a bar moves although nothing was reported, so that one sees that the command has not hung.
const TICK: Duration = Duration::from_millis(250);
/// Work that takes no longer needs no words.
const A_WHILE: Duration = Duration::from_secs(3);
/// Longest note shown beside a bar, in characters: a line that wraps can't be taken away again.
const MAX_NOTE: usize = 40;

/// What a bar counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes, shown in KiB, MiB and so on.
    Bytes,
    /// Things: shards, stripes, objects.
    Things,
    /// Nothing: how much there is to do is not known.
    Nothing,
}

/// A progress bar, or nothing at all where nobody would see one.
#[derive(Debug)]
pub struct Progress(Option<(ProgressBar, Unit)>);

impl Progress {
    /// A bar that says what is being done. There is none when `quiet` (the command's `--json`, or its output goes to the
    /// same terminal line by line), and none when standard error is not a terminal.
    pub fn new(what: &'static str, unit: Unit, quiet: bool) -> Progress {
        if quiet || !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style(unit, false));
        bar.set_prefix(what);
        bar.enable_steady_tick(TICK);
        Progress(Some((bar, unit)))
    }

    /// How far it is: `done` of `total`, in the bar's unit. A total of 0 is one that is not known yet; it may change.
    pub fn set(&self, done: u64, total: u64) {
        let Some((bar, unit)) = &self.0 else { return };
        let known = total > 0;
        if known != bar.length().is_some() {
            bar.set_style(style(*unit, known));
        }
        match known {
            true => bar.set_length(total.max(done)),
            false => bar.unset_length(),
        }
        bar.set_position(done);
    }

    /// A few words beside the bar. Control characters, which an object's key may have, do not reach the terminal.
    pub fn note(&self, words: &str) {
        if let Some((bar, _)) = &self.0 {
            bar.set_message(printable(words));
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {}
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((bar, _)) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Waits for work; where no bar is seen, a line on standard error says after a while that it is being waited for, and for what: who
/// reads a script's output must not take it for hung. `quiet`: not even that.
pub async fn with_a_word<T>(what: &str, quiet: bool, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(A_WHILE) => {}
    }
    if !quiet && !std::io::stderr().is_terminal() {
        eprintln!("stele: {what}, which may take a while ...");
    }
    work.await
}

fn printable(words: &str) -> String {
    words.chars().take(MAX_NOTE).map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn template(unit: Unit, known: bool) -> &'static str {
    match (unit, known) {
        (Unit::Bytes, true) => {
            "{prefix} [{bar:25}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec} {msg}"
        }
        (Unit::Bytes, false) => "{spinner} {prefix} {binary_bytes}, {binary_bytes_per_sec} {msg}",
        (Unit::Things, true) => "{prefix} [{bar:25}] {human_pos} of {human_len}, {elapsed} {msg}",
        (Unit::Things, false) => "{spinner} {prefix} {human_pos}, {elapsed} {msg}",
        (Unit::Nothing, _) => "{spinner} {prefix}, {elapsed} {msg}",
    }
}

fn style(unit: Unit, known: bool) -> ProgressStyle {
    let plain = || ProgressStyle::default_spinner();
    let style = ProgressStyle::with_template(template(unit, known)).unwrap_or_else(|_| plain());
    style.progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_understood() {
        for unit in [Unit::Bytes, Unit::Things, Unit::Nothing] {
            for known in [false, true] {
                assert!(ProgressStyle::with_template(template(unit, known)).is_ok(), "{unit:?} {known}");
            }
        }
    }

    #[test]
    fn what_a_key_has_does_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2J\nb"), "a?[2J?b");
        assert_eq!(printable(&"x".repeat(100)).len(), MAX_NOTE);
    }

    #[test]
    fn where_nobody_looks_there_is_no_bar() {
        let progress = Progress::new("testing", Unit::Things, true);
        progress.set(1, 2);
        progress.note("words");
        assert!(progress.0.is_none());
        progress.finish();
    }
}
