//! What every plan must satisfy, whatever the drives and the stripes are; and the rules, one by one.

use super::*;
use crate::topology::Drive;
use codec::id::Epoch;
use proptest::prelude::*;
use std::collections::BTreeSet;

const GB: u64 = 1 << 30;
const NOW: u64 = 100_000_000;

fn id(n: usize) -> DriveId {
    DriveId([n as u8; 16])
}

fn drive(n: usize, usable: bool) -> Drive {
    Drive { node: 1 + n as u32 / 2, free: 100 * GB, usable, ..Drive::new(id(n)) }
}

fn topology(drives: usize, unusable: &[usize]) -> Topology {
    Topology { drives: (0..drives).map(|n| drive(n, !unusable.contains(&n))).collect(), ..Topology::default() }
}

fn scene(topology: &Topology) -> Scene<'_> {
    Scene { topology, lost_drives: 0, room: 100 * GB, geometry: Geometry::new(4, 2).unwrap(), now_ms: NOW }
}

/// A 4+2 stripe (or a narrower one) on drives 0, 1, 2...
fn stripe(counter: u64, data: u8, conditions: &[Condition]) -> Stripe {
    let shard = |(n, condition): (usize, &Condition)| {
        // The parity shards of a narrow stripe keep their indices.
        let index = if n < usize::from(data) { n } else { n + 4 - usize::from(data) };
        Shard { index: index as u8, drive: Some(id(n)), len: 1 << 20, condition: *condition }
    };
    let id = StripeId { epoch: Epoch(1), counter };
    Stripe { id, class: StripeClass::Data, data, shards: conditions.iter().enumerate().map(shard).collect() }
}

const GOOD: Condition = Condition::Good;
const MISSING: Condition = Condition::Missing { since_ms: NOW - 1000 };
const ROTTEN: Condition = Condition::Damaged { since_ms: NOW - 1000, elsewhere: false };
const FAILING: Condition = Condition::Damaged { since_ms: NOW - 1000, elsewhere: true };
const SILENT: Condition = Condition::Unreachable { since_ms: NOW - 60_000 };
const GONE: Condition = Condition::Unreachable { since_ms: 1 };

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        8 => Just(GOOD),
        1 => Just(Condition::Draining),
        1 => Just(Condition::Unverified),
        1 => (NOW - 2_000_000..NOW).prop_map(|since_ms| Condition::Unreachable { since_ms }),
        1 => (0..NOW).prop_map(|since_ms| Condition::Missing { since_ms }),
        1 => (0..NOW, any::<bool>()).prop_map(|(since_ms, elsewhere)| Condition::Damaged { since_ms, elsewhere }),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    topology: Topology,
    stripes: Vec<Stripe>,
    lost_drives: usize,
    room: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let drives = prop::collection::vec((0u32..6, 0u32..3, any::<bool>(), 0..2000 * MIN_FREE), 6..30);
    let stripes =
        prop::collection::vec((1u8..=4, prop::collection::vec(condition(), 6), any::<u64>(), any::<bool>()), 0..20);
    (drives, stripes, 0usize..3, 0..30u64 << 20).prop_map(|(drives, stripes, lost_drives, room)| {
        let drives = drives.into_iter().enumerate().map(|(n, (node, rack, usable, free))| {
            let room = free >= MIN_FREE;
            Drive { node, rack, free, usable: usable && room, full: usable && !room, ..Drive::new(id(n)) }
        });
        let topology = Topology { drives: drives.collect(), ..Topology::default() };
        let all = topology.drives.iter().map(|d| Drive { usable: true, ..d.clone() }).collect();
        let all = Topology { drives: all, ..Topology::default() };
        let of = |(counter, (data, conditions, seed, ledger)): (usize, (u8, Vec<Condition>, u64, bool))| {
            let mut stripe = stripe(counter as u64, data, &conditions[..usize::from(data) + 2]);
            let drives = place(&all, &placement::Need { seed, ..placement::Need::new(6, 2) });
            for (shard, drive) in stripe.shards.iter_mut().zip(drives) {
                shard.drive = Some(drive);
            }
            stripe.class = if ledger { StripeClass::Ledger } else { StripeClass::Data };
            stripe
        };
        let stripes = stripes.into_iter().enumerate().map(of).collect();
        Case { topology, stripes, lost_drives, room }
    })
}

fn check_item(case: &Case, stripe: &Stripe, item: &RepairItem, policy: &Policy) {
    let shard = |index: u8| stripe.shards.iter().find(|shard| shard.index == index).unwrap();
    assert_eq!((item.slack, item.share), (stripe.slack(), policy.share(stripe.slack())));
    let lost = stripe.shards.iter().filter(|shard| shard.condition.lost_since().is_some()).count();
    let unverified = stripe.shards.iter().filter(|shard| shard.condition == Condition::Unverified).count();
    for target in &item.targets {
        let shard = shard(target.index);
        assert_eq!(target.from, shard.drive);
        assert!(shard.condition == Condition::Draining || shard.condition.lost_since().is_some(), "{shard:?}");
        if let Condition::Unreachable { since_ms } = shard.condition {
            assert!(lost + unverified > 1 || since_ms + policy.grace_ms <= NOW, "the grace: {stripe:?}");
            let since = |shard: &Shard| match shard.condition {
                Condition::Unreachable { since_ms } => Some(since_ms),
                _ => None,
            };
            let silent: Vec<u64> = stripe.shards.iter().filter_map(since).collect();
            let together = silent.len() == lost + unverified
                && silent.iter().max() <= silent.iter().min().map(|at| at + 30_000).as_ref();
            let drives = case.topology.drives.iter().filter(|drive| {
                stripe.shards.iter().any(|shard| since(shard).is_some() && shard.drive == Some(drive.id))
            });
            let nodes: BTreeSet<u32> = drives.map(|drive| drive.node).collect();
            let waits = together && nodes.len() == 1 && stripe.slack() > 0;
            assert!(
                !waits || silent.iter().min().unwrap() + policy.grace_ms <= NOW,
                "the grace of several: {stripe:?}"
            );
        }
        let drive = case.topology.drives.iter().find(|drive| drive.id == target.to).unwrap();
        assert!(drive.usable, "{target:?}");
    }
    // Afterwards every shard of the stripe is still on a drive of its own.
    let after: Vec<DriveId> = stripe
        .shards
        .iter()
        .filter_map(|shard| {
            let target = item.targets.iter().find(|target| target.index == shard.index);
            // A shard that is lost and has found no place yet is nowhere.
            target.map(|target| target.to).or(shard.drive.filter(|_| shard.condition.lost_since().is_none()))
        })
        .collect();
    assert_eq!(after.iter().collect::<BTreeSet<_>>().len(), after.len(), "{item:?}");
    assert!(item.reads > 0 && item.reads <= item.sources.len(), "{item:?}");
    for (index, drive) in &item.sources {
        let shard = shard(*index);
        assert_eq!(shard.drive, Some(*drive));
        assert!(shard.condition.is_readable() || shard.condition == Condition::Unverified);
        assert!(item.targets.iter().all(|target| target.index == *index || target.to != *drive));
    }
    let copied = item.targets.iter().all(|target| item.sources[..item.reads].iter().any(|(i, _)| *i == target.index));
    assert!(copied || item.reads == usize::from(stripe.data));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_plan_is_safe_and_leaves_nothing_out(case in case(), items in 1usize..30) {
        let policy = Policy { items, ..Policy::default() };
        let scene = Scene { lost_drives: case.lost_drives, room: case.room, ..scene(&case.topology) };
        let plan = plan_repairs(&scene, &case.stripes, &policy);
        prop_assert_eq!(&plan, &plan_repairs(&scene, &case.stripes, &policy));
        let find = |id: StripeId| case.stripes.iter().find(|stripe| stripe.id == id).unwrap();
        let mut seen = BTreeSet::new();
        for item in &plan.items {
            prop_assert!(seen.insert(item.stripe));
            check_item(&case, find(item.stripe), item, &policy);
        }
        prop_assert!(plan.items.is_sorted_by_key(|item| item.slack), "risk first");
        let mut room = case.room;
        for id in &plan.narrower {
            prop_assert!(seen.insert(*id));
            let stripe = find(*id);
            prop_assert!(stripe.slack() >= 0 || stripe.shards.iter().any(|s| s.condition == Condition::Unverified));
            room = room.checked_sub(stripe.data_bytes()).expect("beyond the reserve");
        }
        for waiting in &plan.waiting {
            prop_assert!(seen.insert(waiting.stripe));
            let stripe = find(waiting.stripe);
            let sources = stripe.shards.iter().filter(|s| s.condition.lost_since().is_none()).count();
            prop_assert_eq!(matches!(waiting.why, Wait::Beyond { .. }), sources < usize::from(stripe.data));
        }
        let unwhole = case.stripes.iter().filter(|stripe| !stripe.is_whole());
        for stripe in unwhole.clone() {
            prop_assert!(plan.later > 0 || seen.contains(&stripe.id), "{:?}", stripe);
        }
        prop_assert_eq!(seen.len() + plan.later, unwhole.count());
        let printed = plan.to_string();
        prop_assert_eq!(printed.lines().count(), seen.len() + usize::from(plan.later > 0));
    }

    /// With drives to spare, carrying out what is planned leads to whole stripes.
    #[test]
    fn with_spare_drives_a_plan_brings_everything_back(
        stripes in prop::collection::vec((1u8..=4, prop::collection::vec(condition(), 6)), 1..10)
    ) {
        let topology = topology(20, &[]);
        let policy = Policy { grace_ms: 0, ..Policy::default() };
        let mut stripes: Vec<Stripe> = (0..).zip(&stripes)
            .map(|(counter, (data, conditions))| stripe(counter, *data, &conditions[..usize::from(*data) + 2]))
            .collect();
        let plan = plan_repairs(&scene(&topology), &stripes, &policy);
        for stripe in &mut stripes {
            let Some(item) = plan.items.iter().find(|item| item.stripe == stripe.id) else { continue };
            for shard in &mut stripe.shards {
                if let Some(target) = item.targets.iter().find(|target| target.index == shard.index) {
                    (shard.drive, shard.condition) = (Some(target.to), GOOD);
                }
            }
            prop_assert!(stripe.shards.iter().all(|s| matches!(s.condition, Condition::Good | Condition::Unverified)));
        }
        let again = plan_repairs(&scene(&topology), &stripes, &policy);
        prop_assert!(again.items.is_empty() && again.narrower.is_empty(), "{}", again);
    }
}

fn waits(plan: &Plan) -> Vec<Wait> {
    plan.waiting.iter().map(|waiting| waiting.why).collect()
}

#[test]
fn a_silent_drive_has_its_grace_and_no_longer_than_the_second_loss() {
    let topology = topology(10, &[0]);
    let policy = Policy::default();
    let silent = stripe(1, 4, &[SILENT, GOOD, GOOD, GOOD, GOOD, GOOD]);
    let until_ms = NOW - 60_000 + policy.grace_ms;
    let plan = plan_repairs(&scene(&topology), std::slice::from_ref(&silent), &policy);
    assert_eq!((waits(&plan), plan.items.len()), (vec![Wait::Grace { until_ms }], 0));
    let later = Scene { now_ms: until_ms, ..scene(&topology) };
    assert_eq!(plan_repairs(&later, std::slice::from_ref(&silent), &policy).items.len(), 1);

    let second = stripe(2, 4, &[SILENT, GOOD, MISSING, GOOD, GOOD, GOOD]);
    let plan = plan_repairs(&scene(&topology), std::slice::from_ref(&second), &policy);
    let [item] = &plan.items[..] else { panic!("{plan}") };
    let written: Vec<u8> = item.targets.iter().map(|target| target.index).collect();
    assert_eq!((written.len(), item.reads, item.slack), (2, 4, 0), "both with one read: {item}");

    let returning = stripe(3, 4, &[SILENT, GOOD, Condition::Unverified, GOOD, GOOD, GOOD]);
    let plan = plan_repairs(&scene(&topology), std::slice::from_ref(&returning), &policy);
    assert_eq!(plan.items[0].targets.iter().map(|target| target.index).collect::<Vec<_>>(), [0]);
    let alone = stripe(4, 4, &[GOOD, GOOD, Condition::Unverified, GOOD, GOOD, GOOD]);
    assert_eq!(waits(&plan_repairs(&scene(&topology), std::slice::from_ref(&alone), &policy)), [Wait::Verify]);
}

/// Two drives behind one expander that was reset were two losses, and rebuilding began at once.
#[test]
fn drives_of_a_node_that_fell_silent_together_have_one_grace_while_another_shard_can_be_lost() {
    let (topology, policy) = (topology(12, &[0, 1, 2]), Policy::default());
    let at = |since_ms| Condition::Unreachable { since_ms };
    let first = NOW - 60_000;
    let plan_of = |data: u8, now_ms: u64, conditions: &[Condition]| {
        let stripes = [stripe(1, data, conditions)];
        plan_repairs(&Scene { now_ms, ..scene(&topology) }, &stripes, &policy)
    };
    // Drives 0 and 1 are of one node; 3+3.
    let together = [at(first + ONE_CAUSE_MS), at(first), GOOD, GOOD, GOOD, GOOD];
    let until_ms = first + policy.grace_ms;
    let plan = plan_of(3, NOW, &together);
    assert_eq!((waits(&plan), plan.items.len()), (vec![Wait::Grace { until_ms }], 0));
    let later = plan_of(3, until_ms, &together);
    assert_eq!(later.items[0].targets.len(), 2, "as long as for one drive, since the first of them");
    // With nothing left to lose, at different times, of two nodes, or with something else wrong, nothing is waited for.
    let begins =
        |data, conditions: &[Condition]| assert_eq!(plan_of(data, NOW, conditions).items.len(), 1, "{conditions:?}");
    begins(4, &together);
    begins(3, &[at(first + ONE_CAUSE_MS + 1), at(first), GOOD, GOOD, GOOD, GOOD]);
    begins(3, &[GOOD, at(first), at(first), GOOD, GOOD, GOOD]);
    begins(2, &[at(first), at(first), MISSING, GOOD, GOOD, GOOD]);
    begins(2, &[at(first), at(first), Condition::Unverified, GOOD, GOOD, GOOD]);
    // Drives that this process serves itself: a machine that is gone would have taken the process with it.
    let near = topology.drives.iter().map(|drive| Drive { node: NEAR, ..drive.clone() }).collect();
    let near = Topology { drives: near, ..Topology::default() };
    let stripes = [stripe(1, 3, &together)];
    assert_eq!(plan_repairs(&Scene { now_ms: NOW, ..scene(&near) }, &stripes, &policy).items.len(), 1);
}

#[test]
fn bad_bytes_are_written_again_where_they_were_and_a_failing_drive_is_left() {
    let topology = topology(8, &[]);
    let stripes =
        [stripe(1, 4, &[ROTTEN, GOOD, GOOD, GOOD, GOOD, GOOD]), stripe(2, 4, &[FAILING, GOOD, GOOD, GOOD, GOOD, GOOD])];
    let plan = plan_repairs(&scene(&topology), &stripes, &Policy::default());
    let to = |n: usize| plan.items.iter().find(|item| item.stripe == stripes[n].id).unwrap().targets[0].to;
    assert_eq!(to(0), id(0));
    assert!(to(1) == id(6) || to(1) == id(7));
    // Where there is no other, the failing drive is better than none.
    let full = self::topology(6, &[]);
    let plan = plan_repairs(&scene(&full), &stripes[1..], &Policy::default());
    assert_eq!(plan.items[0].targets[0].to, id(0));
}

#[test]
fn a_draining_drive_is_copied_from_with_one_read() {
    let topology = topology(8, &[2]);
    let stripe = stripe(1, 4, &[GOOD, GOOD, Condition::Draining, GOOD, GOOD, GOOD]);
    let plan = plan_repairs(&scene(&topology), std::slice::from_ref(&stripe), &Policy::default());
    let [item] = &plan.items[..] else { panic!("{plan}") };
    assert_eq!((item.reads, item.sources[0], item.read_bytes()), (1, (2, id(2)), 1 << 20));
    assert_eq!((item.share, item.since_ms, plan.oldest_ms), (40, None, None), "nothing is lost");
    let none = self::topology(6, &[2]);
    let plan = plan_repairs(&scene(&none), std::slice::from_ref(&stripe), &Policy::default());
    assert_eq!(waits(&plan), [Wait::NoSpare]);
}

#[test]
fn without_a_spare_drive_one_loss_waits_two_do_not_and_the_reserve_ends_it() {
    let topology = topology(6, &[0]);
    let policy = Policy::default();
    let one = [stripe(1, 4, &[GONE, GOOD, GOOD, GOOD, GOOD, GOOD])];
    let begun = [stripe(1, 4, &[SILENT, GOOD, GOOD, GOOD, GOOD, GOOD])];
    let late = Scene { now_ms: NOW + policy.replacement_ms, ..scene(&topology) };
    let soon = Scene { now_ms: NOW + policy.grace_ms, ..scene(&topology) };
    let until_ms = NOW - 60_000 + policy.replacement_ms;
    assert_eq!(waits(&plan_repairs(&soon, &begun, &policy)), [Wait::Replacement { until_ms }]);
    assert_eq!(plan_repairs(&late, &begun, &policy).narrower, [one[0].id]);
    assert_eq!(plan_repairs(&scene(&topology), &one, &policy).narrower, [one[0].id], "lost for longer than that");

    let two_drives = Scene { lost_drives: 2, ..soon };
    assert_eq!(plan_repairs(&two_drives, &begun, &policy).narrower, [one[0].id]);
    let two = [stripe(1, 4, &[SILENT, SILENT, GOOD, GOOD, GOOD, GOOD])];
    let four = self::topology(6, &[0, 1]);
    assert_eq!(plan_repairs(&scene(&four), &two, &policy).narrower, [two[0].id]);

    let full = Scene { room: 5 << 20, ..two_drives };
    assert_eq!(waits(&plan_repairs(&full, &begun, &policy)), [Wait::NoRoom]);
    let narrow = [stripe(1, 1, &[SILENT, GOOD, GOOD])];
    let three = self::topology(3, &[0]);
    let plan = plan_repairs(&Scene { lost_drives: 2, ..Scene { topology: &three, ..soon } }, &narrow, &policy);
    assert_eq!(waits(&plan), [Wait::TooFewDrives]);
}

#[test]
fn the_most_endangered_stripe_comes_first_and_the_ledger_before_data() {
    let topology = topology(12, &[]);
    let stripes = [
        stripe(1, 4, &[MISSING, GOOD, GOOD, GOOD, GOOD, GOOD]),
        Stripe { class: StripeClass::Ledger, ..stripe(2, 4, &[MISSING, GOOD, GOOD, GOOD, GOOD, GOOD]) },
        stripe(3, 4, &[MISSING, MISSING, GOOD, GOOD, GOOD, GOOD]),
        stripe(4, 4, &[MISSING, MISSING, GOOD, GOOD, GOOD, GONE]),
        stripe(5, 4, &[GOOD; 6]),
    ];
    let plan = plan_repairs(&scene(&topology), &stripes, &Policy::default());
    let order: Vec<u64> = plan.items.iter().map(|item| item.stripe.counter).collect();
    assert_eq!(order, [3, 2, 1]);
    assert_eq!(waits(&plan), [Wait::Beyond { lacking: 1, may_return: true }]);
    assert_eq!(plan.oldest_ms, Some(1));
    assert_eq!(plan.items.iter().map(|item| item.share).collect::<Vec<_>>(), [70, 70, 70]);
}
