//! Ledger stripes of nobody, which a seal that failed has left, or one that was to be made narrower.

use super::*;
use crate::command::REQUEST_LIFE_MS;
use crate::index::Overlay;
use crate::service::Metadata;

/// Stripes of the ledger that drives have shards of and no row knows.
pub(super) async fn unknown(metadata: &Metadata) -> BTreeSet<StripeId> {
    let mut found = BTreeSet::new();
    for drive in metadata.node().drives().await {
        let listed = metadata.node().list_shards(drive.id, Some(StripeClass::Ledger), None, 10_000).await;
        found.extend(listed.unwrap_or_default().into_iter().map(|header| header.id().stripe));
    }
    let view = Overlay::new(&**metadata.kv());
    found.retain(|id| index::stripe(&view, *id).unwrap().is_none());
    found.retain(|id| rows::dropped_stripe(&view, *id).unwrap().is_none());
    found
}

/// Lets time pass for the steady count.
async fn tick(metadata: &Metadata, ms: u64) {
    for ms in [rows::TICK_STEP_MS, ms] {
        let last = index::clock(&Overlay::new(&**metadata.kv())).unwrap().unwrap_or_default();
        let (retention_ms, steady_ms) = (last.retention_ms + ms, last.steady_ms + ms);
        let tick = codec::effect::ClockTick { retention_ms, steady_ms, ..last };
        metadata.commit(metadata.epoch(), Command::ClockTick(tick)).await.unwrap();
    }
}

async fn fence(metadata: &Metadata) {
    metadata.renew_epoch().await.unwrap();
    tick(metadata, REQUEST_LIFE_MS).await;
    metadata.renew_epoch().await.unwrap();
}

#[test]
fn ledger_stripes_of_a_seal_that_failed_are_orphans_once_the_ledger_has_their_entries() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        store.put(1, &[1, 2], How::Inline).await;
        store.metadata.seal_now().await.unwrap();
        store.put(2, &[3, 4], How::Inline).await;
        store.world.trace.inject(Fault::lost_write().drive(0).path("segments"));
        let mut failed = 0;
        for _ in 0..20 {
            failed += usize::from(store.metadata.seal_now().await.is_err());
            store.world.trace.heal_all();
            if failed > 0 {
                break;
            }
            store.put(2, &[3, 4], How::Inline).await;
            store.world.trace.inject(Fault::lost_write().drive(0).path("segments"));
        }
        // Written in this epoch, by whatever failed before its commit: entries that are sealed, and some that are not yet.
        let sealed = index::last_sealed(&store.view()).unwrap().unwrap();
        let past = ledger_of(&store, 1000, (sealed.first, sealed.last)).await;
        let last = index::applied(&store.view()).unwrap().0.0;
        let ahead = ledger_of(&store, 1001, (sealed.last + 1, last)).await;
        store.round().await;
        assert!(unknown(&store.metadata).await.is_superset(&[past, ahead].into()));
        fence(&store.metadata).await;
        tick(&store.metadata, DAY).await;
        assert!(store.round().await.orphans > 0);
        assert_eq!(unknown(&store.metadata).await, [ahead].into(), "it may be all that is left of them");
        store.metadata.seal_now().await.unwrap();
        tick(&store.metadata, DAY).await;
        // A drive that is away may have the only whole copy of what the ledger says that it has.
        let wounded = index::last_sealed(&store.view()).unwrap().unwrap().stripes;
        assert!(!wounded.is_empty());
        assert!(store.round().await.orphans > 0);
        assert_eq!(unknown(&store.metadata).await, BTreeSet::new());
        store.check().await;
        store.metadata = store.world.rebuilt(store.metadata).await;
        store.check().await;
    });
}

/// Writes a ledger stripe that claims a range of entries, and commits nothing.
async fn ledger_of(store: &Store, counter: u64, (first, last): (u64, u64)) -> StripeId {
    let id = StripeId { epoch: store.metadata.epoch(), counter };
    let geometry = "2+1".parse().unwrap();
    let mut packer = StripePacker::in_order(1, 1, 64 << 10);
    packer.add(bytes::Bytes::from(noise(counter, 1000)));
    let known = store.stripes(StripeClass::Ledger).into_values().next().unwrap();
    let cluster = StripeDescriptor::parse(&known.descriptor).unwrap().cluster;
    let range = Some((Lsn(first), Lsn(last)));
    let packed = packer.finish(id, StripeClass::Ledger, geometry, cluster, range, &Erasure::new(geometry)).unwrap();
    let drives: Vec<_> = store.metadata.node().drives().await.iter().map(|drive| drive.id).collect();
    let mut targets = |wanted: TargetsWanted<'_>| drives[..wanted.count].to_vec();
    write_stripe(&**store.metadata.node(), &packed, Reserve::Client, &mut targets).await.unwrap();
    id
}
