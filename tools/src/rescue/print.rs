//! A rescue's report for people.

use super::{MANIFEST, RescueReport};

/// Lines of one kind that are shown; the rest is counted.
const SHOWN: usize = 20;

/// Prints the report.
pub fn report(report: &RescueReport) {
    for drive in &report.drives {
        let id = drive.drive.as_deref().map_or("unknown", |id| &id[..8.min(id.len())]);
        println!("drive {id}  {} segments, {} shards  {}", drive.segments, drive.shards, drive.path);
        some(drive.damage.iter().map(|line| format!("  {line}")), drive.damage_total);
    }
    println!("journal up to entry {}", report.last_lsn);
    for gap in &report.gaps {
        println!("lost: entries {} to {}: objects may be missing, older, or back again", gap.first, gap.last);
    }
    for doubt in &report.doubts {
        println!("doubt: {doubt}");
    }
    some(report.unreadable.iter().map(|line| format!("unreadable: {line}")), report.unreadable.len() as u64);
    println!("{} objects rescued, {} bytes; verified by", report.rescued, report.bytes);
    println!("  chunk ids                          {}", report.proved_by_chunk_ids);
    println!("  frame hashes and tag or checksum   {}", report.proved_by_digest);
    println!("  frame hashes alone                 {}", report.proved_by_frames);
    if report.digest_differs > 0 {
        println!("  chunk ids, and differ from their tag or checksum {}: see {MANIFEST}", report.digest_differs);
    }
    if report.noncurrent > 0 {
        println!("{} of them are not their key's latest version: they are below VERSIONS", report.noncurrent);
    }
    if report.delete_markers > 0 {
        println!("{} delete markers: see {MANIFEST}", report.delete_markers);
    }
    if report.renamed > 0 {
        println!("{} objects are not named like their keys: see {MANIFEST}", report.renamed);
    }
    if report.sealed > 0 {
        println!("{} objects are under keys of their clients (SSE-C) and are left out: see {MANIFEST}", report.sealed);
    }
    if report.open_uploads > 0 {
        println!("{} multipart uploads were never completed: their parts are left out", report.open_uploads);
    }
    let lost = report.lost_objects.iter().map(|o| format!("lost: {}/{}: {}", o.bucket, o.key, o.reason));
    some(lost, report.lost);
}

fn some(lines: impl Iterator<Item = String>, total: u64) {
    lines.take(SHOWN).for_each(|line| println!("{}", line.replace(char::is_control, "?")));
    if total > SHOWN as u64 {
        println!("... and {} more", total - SHOWN as u64);
    }
}
