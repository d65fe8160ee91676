//! The judgement over copies made by hand.

use super::*;
use codec::id::ClusterId;

fn drive(n: u8) -> DriveId {
    DriveId([n; 16])
}

/// An entry of a history: `branch` tells entries of one LSN apart.
fn mark(lsn: u64, epoch: u64, branch: u8, before: u8) -> Mark {
    let hash = |lsn: u64, branch: u8| if lsn == 0 { NO_ENTRY } else { [lsn as u8 ^ (branch << 6); 32] };
    Mark {
        lsn: Lsn(lsn),
        epoch: Epoch(epoch),
        hash: hash(lsn, branch),
        prev_hash: hash(lsn - 1, before),
        len: 100,
        kept: None,
        sealed: None,
    }
}

fn run(range: std::ops::RangeInclusive<u64>) -> Vec<Mark> {
    range.map(|lsn| mark(lsn, 1, 0, 0)).collect()
}

fn copy(n: u8, first_lsn: u64, marks: Vec<Mark>) -> DriveCopy {
    let segment = SegmentCopy { first_lsn: Lsn(first_lsn), epoch: Epoch(1), marks, damaged: false };
    DriveCopy { drive: drive(n), register: None, register_damaged: false, segments: vec![segment] }
}

fn register(members: &[u8], m: u8, first_lsn: u64) -> Register {
    Register {
        cluster: ClusterId([1; 16]),
        sequence: 1,
        epoch: Epoch(1),
        first_lsn: Lsn(first_lsn),
        k: 1,
        m,
        members: members.iter().map(|n| drive(*n)).collect(),
        registered: (1..=5).map(drive).collect(),
    }
}

fn verdict(copies: &[DriveCopy], register: &Register, index: IndexMark) -> (Chain, Result<(), ReadOnlyReason>) {
    let sabotage = SabotageSet::default();
    let chain = best_chain(copies, index, &sabotage);
    let verdict = judge(copies, register, &chain, index, &sabotage);
    (chain, verdict)
}

#[test]
fn an_entry_that_lost_a_recovery_is_not_the_one_that_counts() {
    // Drive 1 has two entries of epoch 1 that nobody acknowledged; epoch 2 went on without them.
    let mut left_out = run(1..=5);
    left_out.truncate(5);
    let mut went_on = run(1..=3);
    went_on.push(mark(4, 2, 1, 0));
    let copies = [copy(1, 1, left_out), copy(2, 1, went_on.clone()), copy(3, 1, went_on)];
    let (chain, verdict) = verdict(&copies, &register(&[2, 3], 1, 1), IndexMark::NONE);
    assert_eq!(verdict, Ok(()));
    assert_eq!(chain.last.0, Lsn(4));
    assert_eq!(chain.held[&Lsn(4)].holders[..], [drive(2), drive(3)]);
    assert_eq!(chain.held[&Lsn(3)].holders.len(), 3);

    let by_length = best_chain(&copies, IndexMark::NONE, &SabotageSet::only(Sabotage::TailByEpoch));
    assert_eq!(by_length.last.0, Lsn(5), "the longest tail is the wrong one");
}

#[test]
fn a_gap_that_another_copy_fills_is_none_and_one_that_none_fills_is_said() {
    let holes = |missing: u64| run(1..=6).into_iter().filter(|m| m.lsn.0 != missing).collect::<Vec<_>>();
    let copies = [copy(1, 1, holes(2)), copy(2, 1, holes(5)), copy(3, 1, Vec::new())];
    let (chain, filled) = verdict(&copies, &register(&[1, 2], 1, 1), IndexMark::NONE);
    assert_eq!((filled, chain.held.len()), (Ok(()), 6));
    assert_eq!(chain.held[&Lsn(2)].holders[..], [drive(2)]);

    let copies = [copy(1, 1, holes(4)), copy(2, 1, holes(4)), copy(3, 1, Vec::new())];
    let (_, gap) = verdict(&copies, &register(&[1, 2], 1, 1), IndexMark::NONE);
    assert_eq!(gap, Err(ReadOnlyReason::Gap(Lsn(4))));
}

#[test]
fn a_member_without_the_tail_that_it_was_to_get_counts_as_absent() {
    // Ensemble (1, 4) was to begin at LSN 5; drive 4 has only a part of the tail, and drive 1 is gone.
    let copies = [copy(4, 1, run(1..=2)), copy(3, 1, Vec::new()), copy(5, 1, Vec::new())];
    let (_, verdict) = verdict(&copies, &register(&[1, 4], 1, 5), IndexMark::NONE);
    // What it has is all that there is, so the chain can't tell; the register can: LSN 3 and 4 were acknowledged.
    assert!(matches!(verdict, Err(ReadOnlyReason::MembersAbsent { .. })), "{verdict:?}");
}

#[test]
fn damage_in_the_newest_segment_is_no_torn_tail() {
    let mut rotten = copy(2, 1, run(1..=3));
    rotten.segments[0].damaged = true;
    let mut whole = copy(1, 1, run(1..=5));
    let others = [copy(3, 1, Vec::new()), copy(4, 1, Vec::new())];
    let with = |first: &DriveCopy| [first.clone(), rotten.clone(), others[0].clone(), others[1].clone()];
    assert_eq!(verdict(&with(&whole), &register(&[1, 2], 1, 1), IndexMark::NONE).1, Ok(()));
    whole.drive = drive(5);
    whole.segments.clear();
    let (_, alone) = verdict(&with(&whole), &register(&[1, 2], 1, 1), IndexMark::NONE);
    assert!(matches!(alone, Err(ReadOnlyReason::MembersAbsent { .. })), "{alone:?}");
}

#[test]
fn a_seal_in_the_tail_says_where_the_ledger_takes_over() {
    let mut marks = run(4..=9);
    marks[4].sealed = Some(Lsn(3));
    let copies = [copy(1, 4, marks.clone()), copy(2, 4, marks), copy(3, 1, Vec::new())];
    let (chain, verdict) = verdict(&copies, &register(&[1, 2], 1, 1), IndexMark::NONE);
    assert_eq!((verdict, chain.sealed, chain.gap), (Ok(()), Lsn(3), None));
    assert_eq!(chain.held.keys().next(), Some(&Lsn(4)));
}

#[test]
fn an_index_of_another_history_is_not_gone_on_with() {
    let copies = [copy(1, 1, run(1..=5)), copy(2, 1, run(1..=5)), copy(3, 1, Vec::new())];
    let index = |applied: u64, hash: [u8; 32]| IndexMark { applied: Lsn(applied), hash, sealed: Lsn(0) };
    let with = |index| verdict(&copies, &register(&[1, 2], 1, 1), index).1;
    assert_eq!(with(index(4, mark(4, 1, 0, 0).hash)), Ok(()));
    assert_eq!(with(index(4, [0xee; 32])), Err(ReadOnlyReason::IndexDiffers(Lsn(4))));
    assert_eq!(with(index(9, [0xee; 32])), Err(ReadOnlyReason::IndexAhead { index: Lsn(9), media: Lsn(5) }));
}

#[test]
fn more_than_half_of_the_registered_drives_are_needed() {
    let copies = [copy(1, 1, run(1..=5)), copy(2, 1, run(1..=5))];
    let (_, verdict) = verdict(&copies, &register(&[1, 2], 1, 1), IndexMark::NONE);
    let absent = vec![drive(3), drive(4), drive(5)];
    assert_eq!(verdict, Err(ReadOnlyReason::NoMajority { present: 2, registered: 5, absent }));
}

/// An addition that was interrupted: two drives have the register with the new drive, and which of the two counts is not known.
#[test]
fn a_majority_is_needed_of_every_set_of_drives_that_may_be_the_registered_one() {
    let of = |n: u8, register: &Register| DriveCopy { register: Some(register.clone()), ..copy(n, 1, run(1..=5)) };
    let before = Register { registered: (1..=4).map(drive).collect(), ..register(&[1, 2], 1, 1) };
    let after = Register { sequence: 2, registered: (1..=5).map(drive).collect(), ..before.clone() };
    let few = [of(1, &before), of(4, &after), of(5, &after)];
    let absent = vec![drive(2), drive(3)];
    let reason = ReadOnlyReason::NoMajority { present: 2, registered: 4, absent };
    assert_eq!(verdict(&few, &after, IndexMark::NONE).1, Err(reason));
    let enough = [of(1, &before), of(2, &before), of(4, &after), of(5, &after)];
    assert_eq!(verdict(&enough, &after, IndexMark::NONE).1, Ok(()));
    // A drive that was away for long knows an older set, of which most are gone for good. The newer one is on a majority.
    let old = Register { registered: (1..=9).map(drive).collect(), ..before.clone() };
    let back = [of(1, &after), of(4, &after), of(5, &after), of(3, &old)];
    assert_eq!(verdict(&back, &after, IndexMark::NONE).1, Ok(()));
}

/// A start was to copy again what rot had hidden in an older segment, and ended right after it had begun a new one: the new one
/// looks whole, and the member does not know the tail.
#[test]
fn a_member_with_damage_behind_a_new_segment_counts_only_when_that_segment_went_on() {
    let spoiled = |epoch: u64, marks: Vec<Mark>| {
        let mut member = copy(1, 1, run(1..=4));
        member.segments[0].damaged = true;
        let segment = SegmentCopy { first_lsn: Lsn(5), epoch: Epoch(epoch), marks, damaged: false };
        member.segments.push(segment);
        member
    };
    let register = register(&[1, 2], 1, 1);
    let others = || [copy(3, 1, Vec::new()), copy(4, 1, Vec::new())];
    let alone = |member: DriveCopy| {
        let copies: Vec<DriveCopy> = others().into_iter().chain([member]).collect();
        verdict(&copies, &register, IndexMark::NONE).1
    };
    assert!(matches!(alone(spoiled(2, Vec::new())), Err(ReadOnlyReason::MembersAbsent { .. })));
    assert!(matches!(alone(spoiled(2, vec![mark(5, 1, 0, 0)])), Err(ReadOnlyReason::MembersAbsent { .. })));
    assert_eq!(alone(spoiled(2, vec![mark(5, 1, 0, 0), mark(6, 2, 0, 0)])), Ok(()));
}

/// After an accepted loss the old index came back to its place: its last entry is one that was left out.
#[test]
fn an_index_from_before_an_accepted_loss_is_seen_before_anything_is_written() {
    let mut after = mark(9, 2, 0, 0);
    (after.kept, after.prev_hash) = (Some(Lsn(4)), mark(4, 1, 0, 0).hash);
    let marks: Vec<Mark> = run(1..=4).into_iter().chain([after]).collect();
    let copies = [copy(1, 1, marks.clone()), copy(2, 1, marks.clone()), copy(3, 1, marks)];
    let register = register(&[1, 2], 1, 1);
    let index = |lsn, hash| IndexMark { applied: Lsn(lsn), hash, sealed: Lsn(0) };
    let said = |index| verdict(&copies, &register, index).1;
    assert_eq!(said(index(4, mark(4, 1, 0, 0).hash)), Ok(()));
    assert_eq!(said(index(7, [7; 32])), Err(ReadOnlyReason::IndexDiffers(Lsn(7))));
    assert_eq!(said(index(3, [7; 32])), Err(ReadOnlyReason::IndexDiffers(Lsn(3))));
    // What is sealed is compared with what the first unsealed entry names.
    let sealed = IndexMark { applied: Lsn(4), hash: [7; 32], sealed: Lsn(4) };
    assert_eq!(said(sealed), Err(ReadOnlyReason::IndexDiffers(Lsn(4))));
}
