//! Every metric that Stele has, by name: `GET /metrics` on the admin port, in the Prometheus text format.
//!
//! Gauges of how things are; ages are in seconds, so that an alert compares one number. docs/alerts.yml has the rules.

use crate::admin_client::StatusAnswer;
use crate::admin_drives::DriveInfo;
use crate::admin_webhooks::WebhookInfo;
use crate::keep_answers::{LifecycleAnswer, ReclaimAnswer, RepairAnswer, ScrubDrive};
use crate::member_answers::MembersAnswer;
use crate::open_files::OpenFiles;
use crate::replication::answers::{ReplicationAnswer, RuleAnswer};
use std::fmt::Write;

/// 1 while reads and writes are served, 0 while only reads are.
pub const SERVING: &str = "stele_serving";
/// Raft's term, of one metadata node among several.
pub const RAFT_TERM: &str = "stele_raft_term";
/// 1 on the metadata node that leads.
pub const RAFT_LEADS: &str = "stele_raft_leads";
/// Metadata nodes that vote, as this one knows them.
pub const RAFT_VOTERS: &str = "stele_raft_voters";
/// Entries that a metadata node lacks, by name; on the leader only.
pub const RAFT_LAG: &str = "stele_raft_lag_entries";
/// Time since a metadata node last answered the leader, by name; on the leader only.
pub const RAFT_SILENT: &str = "stele_raft_silent_seconds";
/// Free bytes in the file system of this metadata node's data directory.
pub const ROOM: &str = "stele_metadata_free_bytes";
/// Free bytes that this metadata node wants there.
pub const ROOM_WANTED: &str = "stele_metadata_wanted_free_bytes";
/// Time until the certificate of this metadata node runs out.
pub const CERTIFICATE: &str = "stele_certificate_left_seconds";
/// Gateways that have asked how the cluster is in the last seconds; on the leader only.
pub const GATEWAYS: &str = "stele_gateways";
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

/// What the rules of buckets have done since the start, by what.
pub const LIFECYCLE_DONE: &str = "stele_lifecycle_done_total";
/// What the pass in progress, or else the last one, came to, by what.
pub const LIFECYCLE_PASS: &str = "stele_lifecycle_pass";
/// 1 while a pass over the buckets with rules is in progress.
pub const LIFECYCLE_RUNNING: &str = "stele_lifecycle_running";
/// Time since the last pass ended.
pub const LIFECYCLE_AGE: &str = "stele_lifecycle_pass_age_seconds";
/// Time since the day began whose rules were followed last.
pub const LIFECYCLE_DAY: &str = "stele_lifecycle_day_age_seconds";
/// 1 when the last round ended early.
pub const LIFECYCLE_FAILED: &str = "stele_lifecycle_failed";
/// Buckets whose rules can't be followed.
pub const LIFECYCLE_UNFOLLOWED: &str = "stele_lifecycle_unfollowed_buckets";

/// Stripes that are not whole, and that nothing can be done about for now.
pub const REPAIR_WAITING: &str = "stele_repair_waiting_stripes";
/// Stripes that are beyond repair unless drives come back.
pub const REPAIR_BEYOND: &str = "stele_repair_beyond_stripes";
/// Stripes that are to be made narrower.
pub const REPAIR_NARROWER: &str = "stele_repair_narrower_stripes";
/// Bytes read for repair since the start.
pub const REPAIR_READ: &str = "stele_repair_read_bytes_total";
/// Bytes written by repair since the start.
pub const REPAIR_WRITTEN: &str = "stele_repair_written_bytes_total";
/// Stripes that the last whole walk over all of them met.
pub const STRIPES: &str = "stele_stripes";
/// 1 when all stripes were looked at since the start and since a drive last changed.
pub const WALKED: &str = "stele_repair_walked";
/// Time since the last inventory ended.
pub const INVENTORY_AGE: &str = "stele_inventory_age_seconds";
/// Shards that the last inventory found wrong.
pub const INVENTORY_FOUND: &str = "stele_inventory_found";
/// Shards that no row names.
pub const ORPHANS: &str = "stele_inventory_orphans";
/// Shards on a drive.
pub const SCRUB_SHARDS: &str = "stele_scrub_shards";
/// Shards on a drive that were verified from the medium at least once.
pub const SCRUB_VERIFIED: &str = "stele_scrub_verified_shards";
/// 1 for a drive whose scrub an operator has paused.
pub const SCRUB_PAUSED: &str = "stele_scrub_paused";
/// Warnings: see stele status.
pub const WARNINGS: &str = "stele_warnings";
/// Key-encryption keys that are there.
pub const KEYS: &str = "stele_keys";
/// 1 where one of two key-encryption keys is missing.
pub const KEY_MISSING: &str = "stele_key_missing";
/// Secrets that no key opens that is there.
pub const SECRETS_CLOSED: &str = "stele_secrets_closed";
/// Chunks that nobody names any more, by the last pass.
pub const RECLAIM_CHUNKS: &str = "stele_reclaim_condemned_chunks";
/// Stripes that were dropped and are not freed yet.
pub const RECLAIM_STRIPES: &str = "stele_reclaim_waiting_stripes";
/// Rounds of reclaim since the start.
pub const RECLAIM_ROUNDS: &str = "stele_reclaim_rounds_total";
/// Chunks that the last round deleted.
pub const RECLAIM_DELETED: &str = "stele_reclaim_deleted_chunks";
/// Frames that the last round moved into fuller stripes.
pub const RECLAIM_MOVED: &str = "stele_reclaim_moved_frames";
/// 1 when the last round ended early.
pub const RECLAIM_FAILED: &str = "stele_reclaim_failed";
/// Shards that were left alone since the start, because something else lies in their place.
pub const RECLAIM_REFUSED: &str = "stele_reclaim_refused_total";
/// How long the last mark pass took.
pub const RECLAIM_TOOK: &str = "stele_reclaim_pass_seconds";
/// The epoch of this start.
pub const EPOCH: &str = "stele_epoch";
/// Files that the process has open.
pub const OPEN_FILES: &str = "stele_open_files";
/// Files that the process may have open.
pub const OPEN_FILES_LIMIT: &str = "stele_open_files_limit";

/// Events that wait to be told to a webhook.
pub const WEBHOOK_WAITING: &str = "stele_webhook_waiting_events";
/// Events that a webhook is not told, because too many waited; since somebody last dropped what waits.
pub const WEBHOOK_LOST: &str = "stele_webhook_lost_events";
/// Keys that wait to be copied elsewhere, by bucket.
pub const REPLICATION_WAITING: &str = "stele_replication_waiting_keys";
/// How far a copy is behind, by bucket.
pub const REPLICATION_LAG: &str = "stele_replication_lag_seconds";
/// Keys that failed and are tried again, by bucket and reason.
pub const REPLICATION_FAILING: &str = "stele_replication_failing_keys";
/// 1 for a bucket whose replication an operator has paused.
pub const REPLICATION_PAUSED: &str = "stele_replication_paused";
/// Objects copied since the start, by bucket.
pub const REPLICATION_COPIED: &str = "stele_replication_copied_total";
/// Bytes copied since the start, by bucket.
pub const REPLICATION_BYTES: &str = "stele_replication_copied_bytes_total";
/// Objects deleted elsewhere since the start, by bucket.
pub const REPLICATION_DELETED: &str = "stele_replication_deleted_total";
/// Keys that were the same already, since the start, by bucket.
pub const REPLICATION_SAME: &str = "stele_replication_same_total";

/// All names, and what they mean: for the page itself, and for the test that compares the alert rules with it.
pub const ALL: [(&str, &str, &str); 87] = [
    (RAFT_TERM, "gauge", "Raft's term, of one metadata node among several"),
    (RAFT_LEADS, "gauge", "1 on the metadata node that leads"),
    (RAFT_VOTERS, "gauge", "Metadata nodes that vote, as this one knows them"),
    (RAFT_LAG, "gauge", "Entries that a metadata node lacks, by name; on the leader only"),
    (RAFT_SILENT, "gauge", "Time since a metadata node last answered the leader, by name; on the leader only"),
    (ROOM, "gauge", "Free bytes in the file system of this metadata node's data directory"),
    (
        ROOM_WANTED,
        "gauge",
        "Free bytes that this metadata node wants there: for another copy of its index, its log, and what RocksDB rewrites",
    ),
    (CERTIFICATE, "gauge", "Time until the certificate of this metadata node runs out"),
    (GATEWAYS, "gauge", "Gateways that have asked how the cluster is in the last seconds; on the leader only"),
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
    (LIFECYCLE_DONE, "counter", "Versions that lifecycle came to since the start, by what was done with them"),
    (LIFECYCLE_PASS, "gauge", "The same of the lifecycle pass in progress, or else of the last one"),
    (LIFECYCLE_RUNNING, "gauge", "1 while a lifecycle pass is in progress"),
    (LIFECYCLE_AGE, "gauge", "Time since the last lifecycle pass ended"),
    (LIFECYCLE_DAY, "gauge", "Time since the day began that the last lifecycle pass was for"),
    (LIFECYCLE_FAILED, "gauge", "1 when the last round of lifecycle ended early"),
    (LIFECYCLE_UNFOLLOWED, "gauge", "Buckets whose lifecycle rules can't be followed; 100 are counted at most"),
    (REPAIR_WAITING, "gauge", "Stripes that are not whole, and that nothing can be done about for now"),
    (REPAIR_BEYOND, "gauge", "Stripes that are beyond repair unless drives come back"),
    (REPAIR_NARROWER, "gauge", "Stripes that are to be made narrower"),
    (REPAIR_READ, "counter", "Bytes read for repair since the start"),
    (REPAIR_WRITTEN, "counter", "Bytes written by repair since the start"),
    (STRIPES, "gauge", "Stripes that the last whole walk over all of them met"),
    (WALKED, "gauge", "1 when all stripes were looked at since the start and since a drive last changed"),
    (INVENTORY_AGE, "gauge", "Time since the last inventory ended"),
    (INVENTORY_FOUND, "gauge", "Shards that the last inventory found wrong"),
    (ORPHANS, "gauge", "Shards that no row names"),
    (SCRUB_SHARDS, "gauge", "Shards on a drive"),
    (SCRUB_VERIFIED, "gauge", "Shards on a drive that were verified from the medium at least once"),
    (SCRUB_PAUSED, "gauge", "1 for a drive whose scrub an operator has paused"),
    (WARNINGS, "gauge", "Warnings: see stele status"),
    (KEYS, "gauge", "Key-encryption keys that are there"),
    (KEY_MISSING, "gauge", "1 where one of two key-encryption keys is missing"),
    (SECRETS_CLOSED, "gauge", "Secrets that no key-encryption key opens that is there"),
    (RECLAIM_CHUNKS, "gauge", "Chunks that nobody names any more, by the last pass"),
    (RECLAIM_STRIPES, "gauge", "Stripes that were dropped and are not freed yet"),
    (RECLAIM_ROUNDS, "counter", "Rounds of reclaim since the start"),
    (RECLAIM_DELETED, "gauge", "Chunks that the last round deleted"),
    (RECLAIM_MOVED, "gauge", "Frames that the last round moved into fuller stripes"),
    (RECLAIM_FAILED, "gauge", "1 when the last round ended early"),
    (
        RECLAIM_REFUSED,
        "counter",
        "Shards that were left alone since the start, because something else lies in their place",
    ),
    (RECLAIM_TOOK, "gauge", "How long the last mark pass took"),
    (EPOCH, "gauge", "The epoch of this start"),
    (REPLICATION_WAITING, "gauge", "Keys that wait to be copied elsewhere"),
    (REPLICATION_LAG, "gauge", "Age of the oldest change that the copy may lack; 0 when it lacks none"),
    (REPLICATION_FAILING, "gauge", "Keys that failed and are tried again, by reason"),
    (REPLICATION_PAUSED, "gauge", "1 for a bucket whose replication an operator has paused"),
    (REPLICATION_COPIED, "counter", "Objects copied elsewhere since the start"),
    (REPLICATION_BYTES, "counter", "Bytes copied elsewhere since the start"),
    (REPLICATION_DELETED, "counter", "Objects deleted elsewhere since the start"),
    (REPLICATION_SAME, "counter", "Keys that were the same already, since the start"),
    (WEBHOOK_WAITING, "gauge", "Events that wait to be told to a webhook"),
    (
        WEBHOOK_LOST,
        "gauge",
        "Events that a webhook is not told, because too many waited, since somebody last dropped what waits",
    ),
    (OPEN_FILES, "gauge", "Files that the process has open"),
    (OPEN_FILES_LIMIT, "gauge", "Files that the process may have open"),
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

/// The part of the page about the metadata nodes.
pub(crate) fn members(answer: &MembersAnswer) -> String {
    let mut page = Page(String::new());
    page.single(RAFT_TERM, answer.term.unwrap_or(0) as f64);
    page.single(RAFT_LEADS, f64::from(u8::from(answer.leader.as_ref() == Some(&answer.me))));
    page.single(RAFT_VOTERS, answer.members.iter().filter(|member| member.voter).count() as f64);
    page.head(RAFT_LAG);
    for member in &answer.members {
        if let Some(lag) = member.lag {
            page.sample(RAFT_LAG, &[("member", &member.name)], lag as f64);
        }
    }
    let own = answer.members.iter().find(|member| member.name == answer.me);
    if let Some(days) = own.and_then(|own| own.certificate_days) {
        page.single(CERTIFICATE, f64::from(days) * 86_400.0);
    }
    if let Some(room) = own.and_then(|own| own.room) {
        page.single(ROOM, room.free as f64);
        page.single(ROOM_WANTED, room.wanted as f64);
    }
    let silent = answer.members.iter().filter_map(|member| Some((&member.name, member.silent_ms?)));
    let silent: Vec<_> = silent.collect();
    if silent.is_empty() {
        return page.0;
    }
    page.head(RAFT_SILENT);
    for (name, ms) in silent {
        page.sample(RAFT_SILENT, &[("member", name)], ms as f64 / 1000.0);
    }
    page.single(GATEWAYS, answer.gateways.iter().filter(|gateway| gateway.is_alive()).count() as f64);
    page.0
}

/// The page.
pub fn page(status: &StatusAnswer, drives_now: &[DriveInfo], scrub: &[ScrubDrive], now_ms: u64) -> String {
    let mut page = Page(String::new());
    page.single(SERVING, f64::from(u8::from(status.mode == "serving")));
    page.single(WARNINGS, status.warnings.len() as f64);
    page.single(KEYS, f64::from(status.keys.there));
    page.single(KEY_MISSING, f64::from(u8::from(status.keys.one_is_missing)));
    page.single(SECRETS_CLOSED, status.keys.closed as f64);
    page.single(EPOCH, status.epoch as f64);
    if let Some(open) = OpenFiles::now() {
        page.single(OPEN_FILES, open.used as f64);
        page.single(OPEN_FILES_LIMIT, open.limit as f64);
    }
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
        repairs(&mut page, repair, now_ms);
    }
    if let Some(answer) = &status.reclaim {
        reclaim(&mut page, answer, now_ms);
    }
    if let Some(answer) = &status.lifecycle {
        lifecycle(&mut page, answer, now_ms);
    }
    if let Some(answer) = &status.replication {
        replication(&mut page, answer);
    }
    webhooks(&mut page, &status.webhooks);
    scrubs(&mut page, scrub, now_ms);
    page.0
}

fn webhooks(page: &mut Page, webhooks: &[WebhookInfo]) {
    for (name, of) in [
        (WEBHOOK_WAITING, (|webhook| webhook.waiting) as fn(&WebhookInfo) -> u64),
        (WEBHOOK_LOST, |webhook| webhook.lost),
    ] {
        page.head(name);
        webhooks.iter().for_each(|webhook| page.sample(name, &[("webhook", &webhook.name)], of(webhook) as f64));
    }
}

fn repairs(page: &mut Page, answer: &RepairAnswer, now_ms: u64) {
    page.single(REPAIR_WAITING, answer.waiting as f64);
    page.single(REPAIR_BEYOND, answer.beyond as f64);
    page.single(REPAIR_NARROWER, answer.narrower as f64);
    page.single(REPAIR_READ, answer.read_bytes as f64);
    page.single(REPAIR_WRITTEN, answer.written_bytes as f64);
    page.single(STRIPES, answer.stripes as f64);
    page.single(WALKED, f64::from(u8::from(answer.whole_walk)));
    // Without an inventory there is no age of one.
    if let Some(ended_ms) = answer.inventory_ms {
        page.single(INVENTORY_AGE, now_ms.saturating_sub(ended_ms) as f64 / 1000.0);
        page.single(INVENTORY_FOUND, answer.inventory_found as f64);
        page.single(ORPHANS, answer.orphans as f64);
    }
}

fn reclaim(page: &mut Page, answer: &ReclaimAnswer, now_ms: u64) {
    page.single(RECLAIM_CHUNKS, answer.condemned as f64);
    page.single(RECLAIM_STRIPES, answer.waiting as f64);
    page.single(RECLAIM_ROUNDS, answer.rounds as f64);
    page.single(RECLAIM_DELETED, answer.deleted as f64);
    page.single(RECLAIM_MOVED, answer.moved as f64);
    page.single(RECLAIM_FAILED, f64::from(u8::from(!answer.error.is_empty())));
    page.single(RECLAIM_REFUSED, answer.refused as f64);
    page.single(RECLAIM_HELD, f64::from(u8::from(answer.held.is_some())));
    page.single(RECLAIM_FREED, answer.freed_bytes as f64);
    page.single(RECLAIM_CONDEMNED, answer.condemned_bytes as f64);
    page.single(RECLAIM_OLDEST, answer.oldest_condemned_ms as f64 / 1000.0);
    page.single(RECLAIM_WAITING, answer.waiting_bytes as f64);
    // Without a pass there is no age of one.
    if answer.pass_ms > 0 {
        page.single(RECLAIM_PASS, now_ms.saturating_sub(answer.pass_ms) as f64 / 1000.0);
        page.single(RECLAIM_TOOK, answer.pass_took_ms as f64 / 1000.0);
    }
    page.single(RECLAIM_BACKLOG, answer.backlog_stripes as f64);
    if let (Some(day), Some(left)) = (answer.day_bytes, answer.day_left) {
        page.single(RECLAIM_DAY, day as f64);
        page.single(RECLAIM_LEFT, left as f64);
    }
    page.single(RECLAIM_SAVED, answer.saved_bytes as f64);
    page.single(RECLAIM_UNREAD, answer.unread_manifests as f64);
}

fn lifecycle(page: &mut Page, answer: &LifecycleAnswer, now_ms: u64) {
    for (name, done) in [(LIFECYCLE_DONE, &answer.since_start), (LIFECYCLE_PASS, &answer.pass)] {
        page.head(name);
        done.each().into_iter().for_each(|(what, count)| page.sample(name, &[("what", what)], count as f64));
    }
    page.single(LIFECYCLE_RUNNING, f64::from(u8::from(answer.running)));
    // Without a pass there is no age of one.
    for (name, ms) in [(LIFECYCLE_AGE, answer.ended_ms), (LIFECYCLE_DAY, answer.day_ms)] {
        if ms > 0 {
            page.single(name, now_ms.saturating_sub(ms) as f64 / 1000.0);
        }
    }
    page.single(LIFECYCLE_FAILED, f64::from(u8::from(!answer.error.is_empty())));
    page.single(LIFECYCLE_UNFOLLOWED, answer.unfollowed.len() as f64);
}

fn replication(page: &mut Page, answer: &ReplicationAnswer) {
    for (name, of) in [
        (REPLICATION_WAITING, (|rule| rule.waiting) as fn(&RuleAnswer) -> u64),
        (REPLICATION_LAG, |rule| rule.lag_seconds),
        (REPLICATION_PAUSED, |rule| u64::from(rule.state == "paused")),
        (REPLICATION_COPIED, |rule| rule.copied),
        (REPLICATION_BYTES, |rule| rule.copied_bytes),
        (REPLICATION_DELETED, |rule| rule.deleted),
        (REPLICATION_SAME, |rule| rule.same),
    ] {
        page.head(name);
        answer.rules.iter().for_each(|rule| page.sample(name, &[("bucket", &rule.bucket)], of(rule) as f64));
    }
    page.head(REPLICATION_FAILING);
    for rule in &answer.rules {
        for (reason, count) in &rule.failing {
            page.sample(REPLICATION_FAILING, &[("bucket", &rule.bucket), ("reason", reason)], *count as f64);
        }
    }
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
    for (name, of) in [
        (SCRUB_SHARDS, (|drive| drive.shards) as fn(&ScrubDrive) -> u64),
        (SCRUB_VERIFIED, |drive| drive.verified_shards),
        (SCRUB_PAUSED, |drive| u64::from(drive.state == "paused")),
    ] {
        page.head(name);
        scrub.iter().for_each(|drive| page.sample(name, &[("drive", &drive.drive)], of(drive) as f64));
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
    use crate::admin_client::{CapacityAnswer, KeysAnswer};
    use crate::keep_answers::{LifecycleDone, SlackLine, UnfollowedLine};
    use crate::member_answers::{GatewayInfo, MemberInfo};
    use crate::roles::seat::Room;

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
        let expressions: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
        assert_eq!(expressions.len(), rules.matches("- alert: ").count());
        assert!(expressions.iter().all(|expression| expression.contains("stele_")), "{expressions:?}");
    }

    /// Puts another number, all of them different, in the place of each number and each absent value.
    fn numbered<T: serde::Serialize + serde::de::DeserializeOwned>(of: &T, next: &mut u64) -> (T, Vec<(String, u64)>) {
        let mut value = serde_json::to_value(of).unwrap();
        let mut numbers = Vec::new();
        for (name, field) in value.as_object_mut().unwrap() {
            if (field.is_number() || field.is_null()) && name != "held" {
                *next += 1000;
                *field = (*next).into();
                numbers.push((name.clone(), *next));
            }
        }
        (serde_json::from_value(value).unwrap(), numbers)
    }

    /// What `stele status` shows and nobody can watch is watched by nobody.
    #[test]
    fn every_figure_of_the_status_has_a_metric() {
        let mut next = 1_000_000;
        let (repair, mut figures) = numbered(&RepairAnswer::default(), &mut next);
        let (reclaim, more) = numbered(&ReclaimAnswer::default(), &mut next);
        figures.extend(more);
        let (lifecycle, more) = numbered(&LifecycleAnswer::default(), &mut next);
        figures.extend(more);
        let (pass, more) = numbered(&LifecycleDone::default(), &mut next);
        figures.extend(more);
        let (since_start, more) = numbered(&LifecycleDone::default(), &mut next);
        figures.extend(more);
        let unfollowed = vec![UnfollowedLine::default(); 23];
        let drive = ScrubDrive {
            drive: "d".to_owned(),
            state: "running".to_owned(),
            medium: "direct".to_owned(),
            pass_began_ms: 0,
            last_pass_ms: 0,
            pass_bytes: 0,
            total_bytes: 0,
            verified_shards: 0,
            shards: 0,
            oldest_ms: 0,
            findings: [("missing".to_owned(), 77)].into(),
        };
        let (scrub, more) = numbered(&drive, &mut next);
        // Of a pass `stele status` shows which part is done.
        let of_pass = ["pass_began_ms", "last_pass_ms", "pass_bytes", "total_bytes"];
        figures.extend(more.into_iter().filter(|(name, _)| !of_pass.contains(&name.as_str())));
        let (mut rule, more) = numbered(&RuleAnswer::default(), &mut next);
        figures.extend(more);
        rule.failing = [("busy".to_owned(), 16)].into();
        let (webhook, more) = numbered(&WebhookInfo::default(), &mut next);
        figures.extend(more);
        let (capacity, more) = numbered(&CapacityAnswer::default(), &mut next);
        figures.extend(more);
        let repair = RepairAnswer { by_slack: vec![SlackLine { slack: 1, stripes: 33 }], ..repair };
        let status = StatusAnswer {
            mode: "serving".to_owned(),
            reason: String::new(),
            geometry: "3+2".to_owned(),
            epoch: 11,
            applied: 12,
            sealed: 13,
            drives: Vec::new(),
            capacity,
            survives: String::new(),
            warnings: vec![String::new(); 14],
            repair: Some(RepairAnswer { alarms: vec![String::new(); 15], ..repair }),
            reclaim: Some(reclaim),
            lifecycle: Some(LifecycleAnswer { pass, since_start, unfollowed, ..lifecycle }),
            replication: Some(ReplicationAnswer { rules: vec![rule] }),
            webhooks: vec![webhook],
            keys: KeysAnswer { there: 1, one_is_missing: true, closed: 2 },
            old_indexes: Vec::new(),
            metadata: None,
            format_level: 0,
        };
        let room = Some(Room { free: 21, wanted: 22 });
        let behind = MemberInfo {
            lag: Some(18),
            silent_ms: Some(19_000),
            certificate_days: Some(1),
            room,
            ..MemberInfo::default()
        };
        let gateways = vec![GatewayInfo::default(); 20];
        let seats = MembersAnswer { term: Some(17), members: vec![behind], gateways, ..MembersAnswer::default() };
        figures.extend(
            [33, 77, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23].map(|n: u64| (format!("number {n}"), n)),
        );
        let now_ms = 1_000_000_000;
        let page = page(&status, &[], &[scrub], now_ms) + &members(&seats);
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        let values: Vec<f64> = samples.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        for (name, figure) in figures {
            let shown = [figure as f64, figure as f64 / 1000.0, (now_ms - figure) as f64 / 1000.0];
            assert!(shown.iter().any(|value| values.contains(value)), "{name} has no metric:\n{page}");
        }
        let named =
            |name: &str| page.contains(&format!("\n# TYPE {name} ")) || page.starts_with(&format!("# HELP {name} "));
        let missing: Vec<&str> = ALL.iter().map(|(name, ..)| *name).filter(|name| !named(name)).collect();
        assert!(missing.is_empty(), "never on the page: {missing:?}");
    }

    #[test]
    fn labels_are_escaped() {
        let mut page = Page(String::new());
        page.sample(DRIVE_FREE, &[("path", "a\"b\\c\nd")], 1.0);
        assert_eq!(page.0, "stele_drive_free_bytes{path=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
