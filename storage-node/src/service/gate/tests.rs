//! What passes the gate, and what does not.

#![allow(clippy::unwrap_used)]
use super::*;
use futures::FutureExt;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn identity(role: Role, name: &str) -> Identity {
    Identity { cluster: CLUSTER, role, name: NodeName::new(name).unwrap() }
}

fn gates() -> Arc<Gates> {
    Gates::new(identity(Role::StorageNode, "n1"), "test".into(), 2..=3, CurrentLevel::default())
}

fn hello() -> Hello {
    Hello {
        oldest: 1,
        newest: 2,
        cluster: Bytes::copy_from_slice(&[7; 16]),
        node: "n1".into(),
        client: Bytes::copy_from_slice(&[1; 16]),
        lane: 0,
        software: "stele 2".into(),
        formats: formats::ours(&CurrentLevel::default()),
        knows: FormatLevel::NEWEST.0,
        at: FormatLevel::BEFORE.0,
    }
}

fn headers(order: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(TO, format!("{CLUSTER}/n1").parse().unwrap());
    headers.insert(ORDER, order.to_string().parse().unwrap());
    headers
}

fn leader(gates: &Arc<Gates>, name: &str, client: u8) -> Gate {
    let gate = Gate::new(Arc::clone(gates), identity(Role::Metadata, name));
    gate.hello(&Hello { client: Bytes::copy_from_slice(&[client; 16]), ..hello() }).unwrap();
    gate
}

fn why<T>(result: Result<T, Status>) -> Option<Refusal> {
    result.err().and_then(|status| Refusal::of(&status))
}

#[test]
fn an_order_number_counts_once() {
    let mut orders = Orders::new();
    for order in [0, 3, 1, 5000, 4999, 5000 - WINDOW + 1, 1 << 40] {
        assert!(orders.take(order), "{order}");
        assert!(!orders.take(order), "{order}");
    }
    for order in [0, 1, 2, 5000, 4998, (1 << 40) - WINDOW - 1, u64::MAX] {
        assert!(!orders.take(order), "{order}");
    }
    assert!(orders.take((1 << 40) - 1));
}

#[test]
fn the_handshake_names_cluster_node_and_version() {
    let gate = || Gate::new(gates(), identity(Role::Gateway, "g1"));
    assert_eq!(gate().hello(&hello()).unwrap().version, 2);
    let other = Bytes::copy_from_slice(&[8; 16]);
    assert_eq!(why(gate().hello(&Hello { cluster: other, ..hello() })), Some(Refusal::WrongCluster));
    assert_eq!(why(gate().hello(&Hello { cluster: Bytes::new(), ..hello() })), Some(Refusal::WrongCluster));
    assert_eq!(why(gate().hello(&Hello { node: "n2".into(), ..hello() })), Some(Refusal::WrongNode));
    let version = gate().hello(&Hello { newest: 1, ..hello() });
    let named = |status: &Status| status.message().contains("n1 (test)") && status.message().contains("g1 (stele 2)");
    assert!(version.as_ref().is_err_and(named), "{version:?}");
    assert_eq!(why(version), Some(Refusal::Version));
    let mut newer = hello();
    newer.formats[0].writes += 1;
    let format = gate().hello(&newer);
    assert!(format.as_ref().is_err_and(named), "{format:?}");
    assert_eq!(why(format), Some(Refusal::Format));
    assert_eq!(why(gate().hello(&Hello { oldest: 4, newest: 9, ..hello() })), Some(Refusal::Version));
    assert_eq!(why(gate().hello(&Hello { client: Bytes::new(), ..hello() })), Some(Refusal::NoHandshake));
    let foreign = Identity { cluster: ClusterId([8; 16]), ..identity(Role::Metadata, "m1") };
    assert_eq!(why(Gate::new(gates(), foreign).hello(&hello())), Some(Refusal::WrongCluster));
}

#[test]
fn who_does_not_know_the_level_is_refused_also_on_a_connection_from_before_the_raise() {
    let gates = gates();
    let open = |hello: Hello| {
        let gate = Gate::new(Arc::clone(&gates), identity(Role::Gateway, "g1"));
        gate.hello(&hello).map(|_| gate)
    };
    let old = || Hello { knows: FormatLevel::BEFORE.0, ..hello() };
    let gate = open(old()).unwrap();
    assert_eq!(why(gate.admit(Method::ReadShard, &headers(0))), None);
    gates.level.raise(FormatLevel::NEWEST);
    let refused = gate.admit(Method::ReadShard, &headers(1)).unwrap_err();
    assert!(refused.message().contains("g1 (stele 2) knows levels up to 2"), "{}", refused.message());
    assert_eq!(Refusal::of(&refused), Some(Refusal::Format));
    assert_eq!(why(open(old())), Some(Refusal::Format));
    let current = open(hello()).unwrap();
    assert_eq!(why(current.admit(Method::ReadShard, &headers(0))), None);
}

#[test]
fn a_node_takes_the_level_from_who_leads_and_then_refuses_who_does_not_know_it() {
    let gates = gates();
    let old = Gate::new(Arc::clone(&gates), identity(Role::Gateway, "g1"));
    old.hello(&Hello { knows: FormatLevel::BEFORE.0, ..hello() }).unwrap();
    let leader = leader(&gates, "m1", 1);
    let tell = |who: &Identity, epoch, level| gates.hear_of_level(who, Epoch(epoch), level);
    tell(&leader.peer, 5, FormatLevel::NEWEST);
    assert_eq!(why(old.admit(Method::ReadShard, &headers(0))), None, "it has not begun the node");
    leader.lead(Epoch(5), None).unwrap();
    for (who, epoch) in [(identity(Role::Metadata, "m2"), 5), (old.peer.clone(), 5), (leader.peer.clone(), 4)] {
        tell(&who, epoch, FormatLevel::NEWEST);
    }
    assert_eq!(why(old.admit(Method::ReadShard, &headers(1))), None, "none of them leads");
    tell(&leader.peer, 5, FormatLevel::NEWEST);
    tell(&leader.peer, 5, FormatLevel(0));
    assert_eq!(why(old.admit(Method::ReadShard, &headers(2))), Some(Refusal::Format));
    // The raise was lost, and that was accepted.
    tell(&leader.peer, 5, FormatLevel::BEFORE);
    assert_eq!(why(old.admit(Method::ReadShard, &headers(3))), None);
}

#[test]
fn a_request_passes_once_and_only_where_it_belongs() {
    let gate = Gate::new(gates(), identity(Role::Gateway, "g1"));
    let read = |headers: &HeaderMap| why(gate.admit(Method::ReadShard, headers));
    assert_eq!(read(&headers(0)), Some(Refusal::NoHandshake));
    gate.hello(&hello()).unwrap();
    assert_eq!(why(gate.hello(&hello())), Some(Refusal::Replayed));
    assert_eq!(read(&headers(0)), None);
    assert_eq!(read(&headers(0)), Some(Refusal::Replayed));
    let mut wrong = headers(1);
    wrong.insert(TO, format!("{CLUSTER}/n2").parse().unwrap());
    assert_eq!(read(&wrong), Some(Refusal::WrongNode));
    wrong.insert(TO, format!("{}/n1", ClusterId([8; 16])).parse().unwrap());
    assert_eq!(read(&wrong), Some(Refusal::WrongCluster));
    wrong.remove(TO);
    assert_eq!(read(&wrong), Some(Refusal::NoHandshake));
    assert_eq!(why(gate.admit(Method::FreeShards, &headers(2))), Some(Refusal::Role));
    assert_eq!(read(&headers(2)), None, "what was refused has not used its number");
}

#[test]
fn a_newer_connection_ends_the_one_before_it_and_no_other() {
    let gates = gates();
    let open = |lane| {
        let gate = Gate::new(Arc::clone(&gates), identity(Role::Metadata, "m1"));
        gate.hello(&Hello { lane, ..hello() }).unwrap();
        gate
    };
    let (first, other) = (open(0), open(1));
    assert_eq!(why(first.admit(Method::WriteRegister, &headers(0))), None);
    let second = open(0);
    assert_eq!(why(first.admit(Method::WriteRegister, &headers(1))), Some(Refusal::Superseded));
    drop(first);
    assert_eq!(why(second.admit(Method::WriteRegister, &headers(0))), None);
    assert_eq!(why(other.admit(Method::WriteRegister, &headers(0))), None);
    drop((second, other));
    assert!(gates.newest().is_empty());
}

#[test]
fn a_register_of_a_superseded_connection_is_refused() {
    let gates = gates();
    let open = || {
        let gate = Gate::new(Arc::clone(&gates), identity(Role::Metadata, "m1"));
        gate.hello(&hello()).unwrap();
        gate
    };
    let first = open();
    assert_eq!(why(first.admit(Method::WriteRegister, &headers(0))), None);
    // Admitted, and its message comes after the client has come back on another connection.
    let second = open();
    assert_eq!(why(first.admit_register(DriveId([1; 16]), Some(0))), Some(Refusal::Superseded));
    assert_eq!(why(second.admit_register(DriveId([1; 16]), Some(0))), None);
}

#[test]
fn orders_for_the_journal_come_from_who_has_begun_the_node() {
    let gates = gates();
    let (old, new) = (leader(&gates, "m1", 1), leader(&gates, "m2", 2));
    assert_eq!(why(old.lead(Epoch(5), None)), None);
    assert_eq!(why(old.admit(Method::JournalAppend, &headers(0))), Some(Refusal::Superseded), "not taken over yet");
    gates.taken(Epoch(5));
    assert_eq!(why(old.admit(Method::JournalAppend, &headers(0))), None);
    assert_eq!(why(new.admit(Method::JournalAppend, &headers(0))), Some(Refusal::Superseded));
    assert_eq!(why(new.lead(Epoch(5), None)), Some(Refusal::Superseded));
    assert_eq!(why(new.lead(Epoch(6), None)), None);
    assert_eq!(why(old.lead(Epoch(5), None)), Some(Refusal::Superseded));
    gates.taken(Epoch(5));
    assert_eq!(why(new.admit(Method::JournalAppend, &headers(1))), Some(Refusal::Superseded), "another's");
    gates.taken(Epoch(6));
    for method in [Method::JournalAppend, Method::WriteRegister, Method::FreeShards] {
        assert_eq!(why(old.admit(method, &headers(1))), Some(Refusal::Superseded));
    }
    assert_eq!(why(old.admit(Method::ReadShard, &headers(1))), None, "reading is free");
    assert_eq!(why(new.admit(Method::JournalAppend, &headers(1))), None);
    // The same process, by another connection of its own: it names its epoch, or begins the node once more.
    let again = leader(&gates, "m2", 3);
    assert_eq!(why(again.admit(Method::JournalAppend, &headers(0))), Some(Refusal::Superseded));
    let mut in_epoch = headers(0);
    in_epoch.insert(EPOCH, "6".parse().unwrap());
    assert_eq!(why(again.admit(Method::JournalAppend, &in_epoch)), None);
    in_epoch.insert(EPOCH, "5".parse().unwrap());
    assert_eq!(why(again.admit(Method::JournalAppend, &in_epoch)), Some(Refusal::Superseded));
    assert_eq!(why(again.lead(Epoch(6), None)), None);
    assert_eq!(why(again.admit(Method::JournalAppend, &headers(1))), None);
    // An epoch that somebody else has, in whatever way it was learned.
    in_epoch.insert(EPOCH, "6".parse().unwrap());
    assert_eq!(why(old.admit(Method::JournalAppend, &in_epoch)), Some(Refusal::Superseded));
}

#[tokio::test]
async fn an_order_that_passed_is_not_in_force_after_a_takeover_which_waits_for_those_that_are() {
    for method in Method::ALL.iter().filter(|method| method.is_of_leader()) {
        let gates = gates();
        let (old, new) = (leader(&gates, "m1", 1), leader(&gates, "m2", 2));
        old.lead(Epoch(5), None).unwrap();
        gates.taken(Epoch(5));
        assert_eq!(why(old.admit(*method, &headers(0))), None);
        let carried_out = old.in_force(None).await.unwrap();
        new.lead(Epoch(6), None).unwrap();
        let refused = tokio::time::timeout(TAKEOVER, old.in_force(None)).await.unwrap();
        assert_eq!(why(refused), Some(Refusal::Superseded), "{}", method.name());
        // The takeover waits for the one that had begun, and for no other.
        assert!(gates.taken_over().now_or_never().is_none(), "{}", method.name());
        drop(carried_out);
        assert!(gates.taken_over().now_or_never().is_some(), "{}", method.name());
        gates.taken(Epoch(6));
        assert!(new.in_force(Some(Epoch(6))).await.is_ok());
    }
}

#[test]
fn whom_the_drives_follow_leads_before_it_has_come_back() {
    let gates = gates();
    let followed = Leader { epoch: Epoch(6), name: identity(Role::Metadata, "m2").to_string() };
    gates.remember(Some(followed.clone()));
    let (old, new) = (leader(&gates, "m1", 1), leader(&gates, "m2", 2));
    assert_eq!(why(old.admit(Method::FreeShards, &headers(0))), Some(Refusal::Superseded));
    assert_eq!((gates.begun(), gates.told()), (None, Some(Epoch(6))));
    for epoch in [5, 6] {
        let refused = old.lead(Epoch(epoch), None).unwrap_err();
        assert!(refused.message().contains("metadata/m2"), "{}", refused.message());
    }
    assert_eq!(new.lead(Epoch(6), None).unwrap(), followed);
    // A drive that came from another node, where somebody newer leads.
    let newer = Leader { epoch: Epoch(8), name: identity(Role::Metadata, "m3").to_string() };
    assert_eq!(why(new.lead(Epoch(7), Some(newer))), Some(Refusal::Superseded));
    assert_eq!(why(new.admit(Method::FreeShards, &headers(0))), Some(Refusal::Superseded));
    assert_eq!(why(new.lead(Epoch(9), None)), None);
}

#[test]
fn an_older_register_never_follows_a_newer_one() {
    let gate = Gate::new(gates(), identity(Role::Metadata, "m1"));
    gate.hello(&hello()).unwrap();
    let (one, two) = (DriveId([1; 16]), DriveId([2; 16]));
    assert_eq!(why(gate.admit_register(one, Some(5))), None);
    assert_eq!(why(gate.admit_register(one, Some(4))), Some(Refusal::Replayed));
    assert_eq!(why(gate.admit_register(one, Some(5))), Some(Refusal::Replayed));
    assert_eq!(why(gate.admit_register(two, Some(4))), None);
    assert_eq!(why(gate.admit_register(one, Some(6))), None);
}
