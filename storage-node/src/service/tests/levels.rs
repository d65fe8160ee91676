//! A client that writes by a format level works with no node that does not know it, also over a connection from before the raise.
use super::*;
use codec::id::Epoch;
use codec::level::FormatLevel;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_node_that_does_not_know_the_level_is_asked_nothing_more() {
    let cluster = Cluster::small().await;
    let credentials = cluster.credentials(Role::Metadata);
    let leader = RemoteNode::new(&credentials, cluster.config()).unwrap();
    assert_eq!(leader.drives().await.len(), 1);
    let known = leader.nodes().remove(0).release.unwrap();
    assert_eq!((known.level, known.software), (FormatLevel::NEWEST, codec::level::SOFTWARE.to_owned()));

    credentials.level().raise(FormatLevel::NEWEST);
    assert!(leader.connect().await.is_ok(), "a level that the node knows");
    credentials.level().raise(FormatLevel(FormatLevel::NEWEST.0 + 1));
    let refused = leader.connect().await.unwrap_err().to_string();
    let says = format!("n1 ({}) knows levels up to {}", codec::level::SOFTWARE, FormatLevel::NEWEST);
    assert!(refused.contains(&says), "{refused}");
    // What it has is there: it is silent, like a node that can't be reached (R13).
    assert_eq!(leader.drives().await.len(), 1);
    assert_eq!(NodeHost::silent(&*leader), ["n1"]);
    assert!(leader.nodes().remove(0).problem.contains("knows levels up to"), "{:?}", leader.nodes());
}

/// Before a node was told the level, its gate refused nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_node_is_told_the_level_when_it_is_begun_and_with_each_question_of_the_leader() {
    let cluster = Cluster::small().await;
    let credentials = cluster.credentials(Role::Metadata);
    let leader = RemoteNode::new(&credentials, cluster.config()).unwrap();
    let level = || cluster.server.as_ref().unwrap().shared.gates.level.get();
    leader.drives().await;
    assert_eq!(level(), FormatLevel::BEFORE);
    leader.begin(Epoch(EPOCH.0 + 1)).await.unwrap();
    credentials.level().raise(FormatLevel::NEWEST);
    leader.drives().await;
    assert_eq!(level(), FormatLevel::NEWEST);

    let cluster = Cluster::small().await;
    let credentials = cluster.credentials(Role::Metadata);
    credentials.level().raise(FormatLevel::NEWEST);
    RemoteNode::new(&credentials, cluster.config()).unwrap().begin(Epoch(EPOCH.0 + 1)).await.unwrap();
    assert_eq!(cluster.server.as_ref().unwrap().shared.gates.level.get(), FormatLevel::NEWEST);
}

/// What a node has answered before is no answer to what it is asked now: it may be another program since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_what_a_node_said_before_it_was_asked_is_told_from_what_it_answered() {
    let mut cluster = Cluster::small().await;
    let leader = cluster.client(Role::Metadata);
    let answers = async || {
        let asked = tokio::time::Instant::now();
        leader.drives().await;
        leader.nodes().remove(0).answered.is_some_and(|at| at >= asked)
    };
    assert!(answers().await);
    cluster.server.take().unwrap().stop(Duration::ZERO).await;
    assert!(!answers().await);
}
