//! Every metric that Stele has, by name: `GET /metrics` on the admin port, in the Prometheus text format.
//!
//! Gauges of how things are; ages are in seconds, so that an alert compares one number. docs/alerts.yml has the rules.

use crate::admin_client::StatusAnswer;
use crate::admin_drives::DriveInfo;
use crate::keep_answers::{ReclaimAnswer, ScrubDrive};
use std::fmt::Write;

/// 1 while reads and writes are served, 0 while only reads are.
pub const SERVING: &str = "stele_serving";
/// The last journal entry.
pub const JOURNAL_APPLIED: &str = "stele_journal_applied_lsn";
/// The last sealed journal entry.
pub const JOURNAL_SEALED: &str = "stele_journal_sealed_lsn";
/// Registered drives by state.
pub const DRIVES: &str = "stele_drives";
/// Bytes of a drive's file system.
pub const DRIVE_TOTAL: &str = "stele_drive_total_bytes";
/// Bytes free on a drive's file system.
pub const DRIVE_FREE: &str = "stele_drive_free_bytes";
/// Failed reads and writes of a drive since it was opened.
pub const DRIVE_ERRORS: &str = "stele_drive_errors_total";
/// What 99 of 100 recent reads or writes of a drive did not exceed.
pub const DRIVE_P99: &str = "stele_drive_p99_seconds";
/// 1 for a drive that takes far longer than the others.
pub const DRIVE_SLOW: &str = "stele_drive_slow";
/// Bytes that are still to be moved or rebuilt elsewhere, of a drive that is being emptied or was removed.
pub const DRIVE_LEFT: &str = "stele_drive_left_bytes";
/// Bytes of all drives' file systems, each counted once.
pub const CAPACITY_TOTAL: &str = "stele_capacity_total_bytes";
/// Bytes free on them.
pub const CAPACITY_FREE: &str = "stele_capacity_free_bytes";
/// Stripes that are not whole, by how many more shards they can lose.
pub const WOUNDED: &str = "stele_stripes_wounded";
/// Age of the oldest loss that is not yet made good.
pub const OLDEST_REPAIR: &str = "stele_repair_oldest_seconds";
/// 1 while an operator has paused repair.
pub const REPAIR_PAUSED: &str = "stele_repair_paused";
/// Shards rebuilt since the start.
pub const REBUILT: &str = "stele_repair_rebuilt_shards_total";
/// Repairs that failed since the start.
pub const REPAIR_FAILED: &str = "stele_repair_failed_total";
/// What somebody should look at.
pub const ALARMS: &str = "stele_alarms";
/// Rows of the index that the last check found wrong.
pub const ROW_FAULTS: &str = "stele_index_row_faults";
/// Age of the verification of the shard that has waited longest, by drive.
pub const OLDEST_UNVERIFIED: &str = "stele_scrub_oldest_seconds";
/// Part of the scrub pass that is done, 0 to 1, by drive.
pub const SCRUB_PROGRESS: &str = "stele_scrub_progress_ratio";
/// Findings, by drive and kind.
pub const FINDINGS: &str = "stele_scrub_findings";

/// 1 while nothing is deleted: an operator or a rule holds it.
pub const RECLAIM_HELD: &str = "stele_reclaim_held";
/// Bytes given back since the start.
pub const RECLAIM_FREED: &str = "stele_reclaim_freed_bytes_total";
/// Bytes of chunks that nobody names any more, by the last pass.
pub const RECLAIM_CONDEMNED: &str = "stele_reclaim_condemned_bytes";
/// Time served since the oldest such chunk was condemned; 0 when there is none.
pub const RECLAIM_OLDEST: &str = "stele_reclaim_oldest_condemned_seconds";
/// Bytes of stripes that were dropped and are not freed yet.
pub const RECLAIM_WAITING: &str = "stele_reclaim_waiting_bytes";
/// Time since the last mark pass ended.
pub const RECLAIM_PASS: &str = "stele_reclaim_pass_age_seconds";
/// Stripes that are worth rewriting and wait.
pub const RECLAIM_BACKLOG: &str = "stele_reclaim_backlog_stripes";
/// Bytes that may be freed in a day.
pub const RECLAIM_DAY: &str = "stele_reclaim_day_bytes";
/// Bytes of them that may be freed now.
pub const RECLAIM_LEFT: &str = "stele_reclaim_day_left_bytes";
/// Bytes that compressing again what was rewritten has saved since the start.
pub const RECLAIM_SAVED: &str = "stele_reclaim_saved_bytes_total";
/// Manifests that can't be read, so that their dedup domain gives nothing back.
pub const RECLAIM_UNREAD: &str = "stele_reclaim_unread_manifests";

/// All names, and what they mean: for the page itself, and for the test that compares the alert rules with it.
pub const ALL: [(&str, &str, &str); 33] = [
    (SERVING, "gauge", "1 while reads and writes are served"),
    (JOURNAL_APPLIED, "counter", "The last journal entry"),
    (JOURNAL_SEALED, "counter", "The last sealed journal entry"),
    (DRIVES, "gauge", "Registered drives by state"),
    (DRIVE_TOTAL, "gauge", "Bytes of a drive's file system"),
    (DRIVE_FREE, "gauge", "Bytes free on a drive's file system"),
    (DRIVE_ERRORS, "counter", "Failed reads and writes of a drive since it was opened"),
    (DRIVE_P99, "gauge", "Time that 99 of 100 recent reads or writes of a drive did not exceed"),
    (DRIVE_SLOW, "gauge", "1 for a drive that takes far longer than the others"),
    (
        DRIVE_LEFT,
        "gauge",
        "Bytes still to be moved or rebuilt elsewhere, of a drive that is being emptied or was removed",
    ),
    (CAPACITY_TOTAL, "gauge", "Bytes of all drives' file systems, each counted once"),
    (CAPACITY_FREE, "gauge", "Bytes free on them, parity included"),
    (WOUNDED, "gauge", "Stripes that are not whole, by how many more shards they can lose"),
    (OLDEST_REPAIR, "gauge", "Age of the oldest loss that is not yet made good; 0 when there is none"),
    (REPAIR_PAUSED, "gauge", "1 while an operator has paused repair"),
    (REBUILT, "counter", "Shards rebuilt since the start"),
    (REPAIR_FAILED, "counter", "Repairs that failed since the start"),
    (ALARMS, "gauge", "What somebody should look at: see stele status"),
    (ROW_FAULTS, "gauge", "Rows of the index that the last check found wrong"),
    (OLDEST_UNVERIFIED, "gauge", "Time since the shard that has waited longest was verified or written"),
    (SCRUB_PROGRESS, "gauge", "Part of the scrub pass that is done"),
    (FINDINGS, "gauge", "Findings of scrub and inventory, by kind"),
    (RECLAIM_HELD, "gauge", "1 while nothing is deleted: an operator or a rule holds it"),
    (RECLAIM_FREED, "counter", "Bytes given back since the start"),
    (RECLAIM_CONDEMNED, "gauge", "Bytes of chunks that nobody names any more, by the last pass"),
    (RECLAIM_OLDEST, "gauge", "Time served since the oldest such chunk was condemned; 0 when there is none"),
    (RECLAIM_WAITING, "gauge", "Bytes of stripes that were dropped and are not freed yet"),
    (RECLAIM_PASS, "gauge", "Time since the last mark pass ended"),
    (RECLAIM_BACKLOG, "gauge", "Stripes that are worth rewriting and wait"),
    (RECLAIM_DAY, "gauge", "Bytes that may be freed in a day"),
    (RECLAIM_LEFT, "gauge", "Bytes of them that may be freed now"),
    (RECLAIM_SAVED, "counter", "Bytes that compressing again what was rewritten has saved since the start"),
    (RECLAIM_UNREAD, "gauge", "Manifests that can't be read, so that their dedup domain gives nothing back"),
];

struct Page(String);

impl Page {
    fn head(&mut self, name: &str) {
        for (_, kind, help) in ALL.iter().filter(|(known, ..)| *known == name) {
            // Writing to a string does not fail.
            let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, value: f64) {
        self.head(name);
        self.sample(name, &[], value);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The page.
pub fn page(status: &StatusAnswer, drives_now: &[DriveInfo], scrub: &[ScrubDrive], now_ms: u64) -> String {
    let mut page = Page(String::new());
    page.single(SERVING, f64::from(u8::from(status.mode == "serving")));
    page.single(JOURNAL_APPLIED, status.applied as f64);
    page.single(JOURNAL_SEALED, status.sealed as f64);
    page.single(CAPACITY_TOTAL, status.capacity.total as f64);
    page.single(CAPACITY_FREE, status.capacity.free as f64);
    drives(&mut page, status);
    drive_details(&mut page, drives_now);
    if let Some(repair) = &status.repair {
        page.head(WOUNDED);
        for line in &repair.by_slack {
            page.sample(WOUNDED, &[("slack", &line.slack.to_string())], line.stripes as f64);
        }
        page.single(OLDEST_REPAIR, repair.oldest_ms.unwrap_or(0) as f64 / 1000.0);
        page.single(REPAIR_PAUSED, f64::from(u8::from(repair.paused)));
        page.single(REBUILT, repair.rebuilt_shards as f64);
        page.single(REPAIR_FAILED, repair.failed as f64);
        page.single(ALARMS, repair.alarms.len() as f64);
        page.single(ROW_FAULTS, repair.row_faults.unwrap_or(0) as f64);
    }
    if let Some(answer) = &status.reclaim {
        reclaim(&mut page, answer, now_ms);
    }
    scrubs(&mut page, scrub, now_ms);
    page.0
}

fn reclaim(page: &mut Page, answer: &ReclaimAnswer, now_ms: u64) {
    page.single(RECLAIM_HELD, f64::from(u8::from(answer.held.is_some())));
    page.single(RECLAIM_FREED, answer.freed_bytes as f64);
    page.single(RECLAIM_CONDEMNED, answer.condemned_bytes as f64);
    page.single(RECLAIM_OLDEST, answer.oldest_condemned_ms as f64 / 1000.0);
    page.single(RECLAIM_WAITING, answer.waiting_bytes as f64);
    // Without a pass there is no age of one.
    if answer.pass_ms > 0 {
        page.single(RECLAIM_PASS, now_ms.saturating_sub(answer.pass_ms) as f64 / 1000.0);
    }
    page.single(RECLAIM_BACKLOG, answer.backlog_stripes as f64);
    if let (Some(day), Some(left)) = (answer.day_bytes, answer.day_left) {
        page.single(RECLAIM_DAY, day as f64);
        page.single(RECLAIM_LEFT, left as f64);
    }
    page.single(RECLAIM_SAVED, answer.saved_bytes as f64);
    page.single(RECLAIM_UNREAD, answer.unread_manifests as f64);
}

fn drives(page: &mut Page, status: &StatusAnswer) {
    page.head(DRIVES);
    let mut states: Vec<&str> = status.drives.iter().map(|drive| drive.state.as_str()).collect();
    states.sort_unstable();
    for group in states.chunk_by(|a, b| a == b) {
        page.sample(DRIVES, &[("state", group.first().copied().unwrap_or_default())], group.len() as f64);
    }
    for (name, value) in [(DRIVE_TOTAL, 0), (DRIVE_FREE, 1)] {
        page.head(name);
        for drive in &status.drives {
            let bytes = if value == 0 { drive.total } else { drive.free };
            page.sample(name, &[("drive", &drive.id), ("path", &drive.path)], bytes as f64);
        }
    }
}

fn drive_details(page: &mut Page, drives: &[DriveInfo]) {
    let present = || drives.iter().filter(|drive| !matches!(drive.state.as_str(), "removed" | "adding"));
    page.head(DRIVE_ERRORS);
    present().for_each(|drive| page.sample(DRIVE_ERRORS, &[("drive", &drive.id)], drive.errors as f64));
    page.head(DRIVE_P99);
    for (drive, ms) in present().filter_map(|drive| Some((drive, drive.p99_ms?))) {
        page.sample(DRIVE_P99, &[("drive", &drive.id)], f64::from(ms) / 1000.0);
    }
    page.head(DRIVE_SLOW);
    present().for_each(|drive| page.sample(DRIVE_SLOW, &[("drive", &drive.id)], f64::from(u8::from(drive.slow))));
    page.head(DRIVE_LEFT);
    for (drive, bytes) in drives.iter().filter_map(|drive| Some((drive, drive.left_bytes?))) {
        page.sample(DRIVE_LEFT, &[("drive", &drive.id)], bytes as f64);
    }
}

fn scrubs(page: &mut Page, scrub: &[ScrubDrive], now_ms: u64) {
    page.head(OLDEST_UNVERIFIED);
    for drive in scrub.iter().filter(|drive| drive.oldest_ms > 0) {
        let age = now_ms.saturating_sub(drive.oldest_ms) as f64 / 1000.0;
        page.sample(OLDEST_UNVERIFIED, &[("drive", &drive.drive)], age);
    }
    page.head(SCRUB_PROGRESS);
    for drive in scrub {
        let done = if drive.total_bytes == 0 { 1.0 } else { drive.pass_bytes as f64 / drive.total_bytes as f64 };
        page.sample(SCRUB_PROGRESS, &[("drive", &drive.drive)], done.min(1.0));
    }
    page.head(FINDINGS);
    for drive in scrub {
        for (kind, count) in &drive.findings {
            page.sample(FINDINGS, &[("drive", &drive.drive), ("kind", kind)], *count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An alert on a metric that nobody exports never fires.
    #[test]
    fn alert_rules_name_metrics_that_exist() {
        let rules = include_str!("../../docs/alerts.yml");
        let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let used: Vec<&str> = words.filter(|word| word.starts_with("stele_")).collect();
        assert!(used.len() >= 6, "{used:?}");
        for word in used {
            assert!(ALL.iter().any(|(name, ..)| *name == word), "{word} is not a metric");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut page = Page(String::new());
        page.sample(DRIVE_FREE, &[("path", "a\"b\\c\nd")], 1.0);
        assert_eq!(page.0, "stele_drive_free_bytes{path=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
