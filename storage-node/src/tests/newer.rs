//! What a newer Stele wrote is refused by name, and nothing of it is taken for damage (R16).
use super::*;
use crate::disk::{Access, Disk};
use crate::drive::{DriveError, IDENTITY_FILE, ProbedState};
use crate::free_log::FREES_FILE;
use crate::leader::{LEADER_FILE, Leader};
use crate::segment::{
    BLOCK_BYTES, HEADER_SPACE, SegmentMeta, parse_segment_name, read_record_header, read_segment_header,
    seal_segment_header, segment_path,
};
use codec::block::{self, blocks_for};
use codec::effect::EFFECT_VERSION;
use codec::journal::encode_empty_entry;
use codec::segment::{JournalHead, SegmentClass};

/// A small file whose version, behind its magic, is another.
fn newer_small(bytes: &[u8]) -> Vec<u8> {
    let mut body = bytes[..bytes.len() - 32].to_vec();
    body[8] += 1;
    let check = *blake3::hash(&body).as_bytes();
    [&body[..], &check].concat()
}

async fn refused(trace: &Trace, what: &str) {
    let probed: Vec<_> = trace.disks().into_iter().map(|disk| probe(disk as Arc<dyn Disk>, Some(CLUSTER))).collect();
    let (node, index) = (config(), memory_kv());
    let error = match probed.iter().find(|probed| !matches!(probed.state, ProbedState::Ours)) {
        Some(probed) => probed.state.to_string(),
        None => match StorageNode::open(node, probed, index).await {
            Err(DriveError::Disk(error)) => error.to_string(),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was opened: {what}"),
        },
    };
    assert!(error.contains(what) && error.contains("version 2") && error.contains("newer"), "{error}");
}

#[tokio::test]
async fn r16_a_drive_with_what_a_newer_stele_wrote_is_refused_by_name() {
    let (trace, node, drive) = one_drive().await;
    node.begin_for(Leader { epoch: EPOCH, name: "m1".to_owned() }).await.unwrap();
    for counter in 0..3 {
        put(&node, drive, counter, 5000).await.unwrap();
    }
    let authority = crate::keep::Authority { epoch: EPOCH, lsn: Lsn(1) };
    let (first, _) = shard(0, 5000);
    let freed = crate::keep::ShardRef { id: first.id(), root: first.descriptor.root() };
    node.free_shards(drive, authority, vec![freed]).await.unwrap();
    node.stop().await;

    let disk = trace.disk(0);
    for (name, what) in [(FREES_FILE, "free log"), (LEADER_FILE, "leader file")] {
        let before = disk.read_small(name).unwrap();
        disk.write_durably(name, &newer_small(&before)).unwrap();
        refused(&trace, what).await;
        disk.write_durably(name, &before).unwrap();
    }
    let before = disk.read_small(IDENTITY_FILE).unwrap();
    let text = String::from_utf8(before.to_vec()).unwrap().replace("version 1\n", "version 2\n");
    let (body, _) = text.split_at(text.find("check ").unwrap());
    let newer = format!("{body}check {}\n", blake3::hash(body.as_bytes()).to_hex());
    disk.write_durably(IDENTITY_FILE, newer.as_bytes()).unwrap();
    refused(&trace, "drive identity").await;
    disk.write_durably(IDENTITY_FILE, &before).unwrap();

    // The second record and then the whole segment.
    let names = disk.list(crate::segment::class_dir(SegmentClass::Data)).unwrap();
    let number = names.iter().filter_map(|name| parse_segment_name(name)).min().unwrap();
    let file = disk.open(&segment_path(SegmentClass::Data, number), Access::ReadWrite).unwrap();
    let header = read_segment_header(&*file).unwrap().unwrap();
    let meta = SegmentMeta::new(header.clone(), disk.sabotage());
    let record = read_record_header(&*file, &meta, 1).unwrap();
    let second = record.block + 1 + blocks_for(record.payload_len);
    let record = read_record_header(&*file, &meta, second).unwrap();
    let mut payload = record.encode().unwrap();
    payload[8] += 1;
    let (mut sealed, mut good) = (Vec::new(), Vec::new());
    block::seal_into(&mut sealed, meta.seed, second | HEADER_SPACE, &payload);
    block::seal_into(&mut good, meta.seed, second | HEADER_SPACE, &record.encode().unwrap());
    let at = second * BLOCK_BYTES;
    file.write_at(&sealed, at).unwrap();
    refused(&trace, "record").await;
    file.write_at(&good, at).unwrap();
    file.write_at(&seal_segment_header(&codec::segment::SegmentHeader { version: 2, ..header.clone() }), 0).unwrap();
    refused(&trace, "segment").await;
    file.write_at(&seal_segment_header(&header), 0).unwrap();

    let node = open_with(&trace, memory_kv(), config()).await;
    assert_readable(&node, drive, 2, 5000).await;
    assert_eq!(node.damage(drive).unwrap(), []);
}

/// The entry after another, without effects, as a later release would write it: of effects that are not known here.
fn of_a_later_release(before: &Bytes, lsn: Lsn) -> Bytes {
    let hash = 72..104;
    let previous = before[hash.clone()].try_into().unwrap();
    let mut bytes = encode_empty_entry(lsn, EPOCH, previous).unwrap().bytes.to_vec();
    bytes[6..8].copy_from_slice(&(EFFECT_VERSION + 1).to_le_bytes());
    let mut hasher = blake3::Hasher::new_derive_key("stele 2026 journal entry v1");
    let hashed = *hasher.update(&bytes[..hash.start]).finalize().as_bytes();
    bytes[hash].copy_from_slice(&hashed);
    bytes.into()
}

/// They were called damaged: a start of the older release without an index took what is before them for all there is.
#[tokio::test]
async fn r16_journal_entries_of_a_later_release_are_no_damage() {
    let (_trace, node, drive) = one_drive().await;
    let mut all = entries(2, 100);
    all.push(of_a_later_release(&all[1], Lsn(3)));
    let number = node.journal_begin(drive, JournalHead { ensemble: 1, first_lsn: Lsn(1) }).await.unwrap();
    for batched in [&all[..2], &all[2..]] {
        let (header, payload) = batch(batched);
        node.journal_append(drive, header, payload, Reserve::Client).await.unwrap();
    }
    let Err(ReadError::Later(why)) = node.journal_scan(drive, number, Lsn(1)).await else { panic!("it was scanned") };
    assert!(
        why.contains(&format!("effects of version {}", EFFECT_VERSION + 1)) && why.contains("later release"),
        "{why}"
    );
    assert_eq!(node.damage(drive).unwrap(), []);
}

/// A node of the later release reads them, and so says nothing of it: what this program could not read counted as no answer, the
/// drive as absent, and its entries as lost.
#[test]
fn r16_entries_of_a_later_release_that_a_node_can_read_are_named_by_its_client() {
    use crate::service::message::Strings;
    let mut strings = entries(2, 100);
    strings.push(of_a_later_release(&strings[1], Lsn(3)));
    let answer = |strings: &[Bytes]| Strings { strings: strings.to_vec(), end: 2, ..Strings::default() };
    let Some(Err(later)) = answer(&strings).scan() else { panic!("it was scanned") };
    assert!(later.to_string().contains(&format!("effects of version {}", EFFECT_VERSION + 1)), "{later}");
    assert_eq!(answer(&strings[..2]).scan().unwrap().unwrap().entries.len(), 2);
    let damaged = Bytes::from(strings[1].iter().map(|byte| byte ^ 1).collect::<Vec<u8>>());
    assert!(answer(&[damaged]).scan().is_none(), "no answer that can be used");
}
