//! What operators are told of a cluster of metadata nodes, whichever of them they ask: who leads, who is down, who serves S3; and what
//! they change while it serves: accounts, the rule of placement.

use super::access::{make_bucket, until};
use serde_json::Value;
use std::process::Output;
use std::time::{Duration, Instant};
use tests::cluster::site::{Layout, PATIENCE, Site};
use tests::s3::{client_with, refused};

pub(crate) struct Seen<'a>(pub(crate) &'a Site);

impl Seen<'_> {
    async fn ask(&self, of: &str, arguments: &[&str]) -> Output {
        self.0.stele(&[arguments, &["--data", self.0.path(of).as_str()]].concat()).await
    }

    async fn json(&self, of: &str, arguments: &[&str]) -> Value {
        let output = self.ask(of, &[arguments, &["--json"]].concat()).await;
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Asks whoever leads, which may change at any time, until its answer is as it should be.
    async fn leader_says(&self, arguments: &[&str], good: impl Fn(&Output) -> bool) -> Output {
        let begun = Instant::now();
        loop {
            let output = self.ask(&self.0.leader().await, arguments).await;
            if good(&output) {
                return output;
            }
            assert!(begun.elapsed() < PATIENCE, "{arguments:?}: {output:?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// A change that the leader makes.
    pub(crate) async fn changes(&self, arguments: &[&str]) -> Value {
        let output = self.leader_says(&[arguments, &["--json"]].concat(), |output| output.status.success()).await;
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A change that it refuses.
    async fn refuses(&self, arguments: &[&str], why: &str) {
        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).contains(why);
        let output = self.leader_says(arguments, said).await;
        assert_eq!(output.status.code(), Some(1));
    }

    /// Asks a node until its answer is as it should be.
    async fn until(&self, of: &str, arguments: &[&str], good: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let answer = self.json(of, arguments).await;
            if good(&answer) {
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "{of}: {arguments:?}: {answer:#}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
}

fn member<'a>(answer: &'a Value, name: &str) -> &'a Value {
    answer["members"].as_array().into_iter().flatten().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

fn warnings(status: &Value) -> Vec<&str> {
    status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Nothing is written here, so nobody is behind: a node that was down was seen nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_down_on_an_idle_cluster_is_seen_on_any_metadata_node() {
    let site = Site::start(Layout { nodes: 3, drives: 1, metadata: 3, gateways: 1 }).await.unwrap();
    let seen = Seen(&site);
    // Who leads may change on a busy machine at any time.
    let mut left = site.layout.metadata_names();
    let first = site.leader().await;
    left.retain(|name| *name != first);
    let down = left.remove(0);
    left.push(first);
    let serves = |answer: &Value| names(&answer["gateways"]) == ["g1"] && names(&answer["members"]).len() == 3;
    let calm = |status: &Value| {
        let metadata = &status["metadata"];
        let quiet = !warnings(status).iter().any(|warning| warning.contains("metadata node"));
        serves(metadata) && metadata["leader"].is_string() && metadata["me"] == metadata["leader"] && quiet
    };
    for name in &left {
        let answer = seen.until(name, &["member", "list"], serves).await;
        assert_eq!(answer["me"], **name, "{answer:#}");
        seen.until(name, &["status"], calm).await;
    }

    site.supervisor.kill(&down);
    let silent = |answer: &Value| member(answer, &down)["silent_ms"].as_u64().is_some_and(|ms| ms >= 10_000);
    let warned = |status: &Value| {
        let named = |warning: &&str| {
            warning.starts_with(&format!("metadata node {down} (")) && warning.contains("with another of the 3 lost")
        };
        warnings(status).iter().any(named)
    };
    for name in &left {
        seen.until(name, &["member", "list"], silent).await;
        // Another leader has its own count of who was silent for how long.
        let begun = Instant::now();
        loop {
            let output = seen.ask(name, &["member", "list"]).await;
            if output.status.code() == Some(2) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{output:?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        seen.until(name, &["status"], warned).await;
        // Whatever only looks is answered by any of them.
        seen.until(name, &["drive", "list"], |answer| !answer.is_null()).await;
    }

    site.supervisor.start(&down);
    let well = |answer: &Value| member(answer, &down)["silent_ms"].as_u64().is_some_and(|ms| ms < 10_000);
    seen.until(&left[0], &["member", "list"], well).await;

    // With two of three down the third one says why nothing is served.
    site.supervisor.kill(&left[1]);
    site.supervisor.kill(&down);
    let begun = Instant::now();
    loop {
        let output = seen.ask(&left[0], &["status"]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains(&format!("no metadata node serves at present, as far as {} knows: ", left[0])) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{said}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_and_the_rule_of_placement_are_changed_while_the_cluster_serves() {
    let site = Site::start(Layout { nodes: 6, drives: 1, metadata: 3, gateways: 1 }).await.unwrap();
    let seen = Seen(&site);
    let made = seen.changes(&["account", "put", "scans"]).await;
    let (access, secret) = (made["access_key"].as_str().unwrap(), made["secret_key"].as_str().unwrap());
    let client = |secret: &str| client_with(&site.endpoints()[0], access, secret, Duration::from_secs(60));
    make_bucket(async || client(secret).create_bucket().bucket("scans").send().await).await;
    seen.refuses(&["account", "put", "scans"], "there is an account scans").await;
    let file = site.path("secret");
    std::fs::write(&file, "another-secret\n").unwrap();
    seen.changes(&["account", "put", "scans", "--replace", "--access-key", access, "--secret-file", &file]).await;
    let begun = Instant::now();
    let is_denied = async || {
        let asked = client(secret).list_buckets().send().await;
        asked.is_err_and(|error| refused(&error).is_some_and(|refused| refused.status == 403))
    };
    while !is_denied().await {
        assert!(begun.elapsed() < PATIENCE, "the old key still opens");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let listed = until("the new key", None, async || client("another-secret").list_buckets().send().await).await;
    assert_eq!(listed.unwrap().buckets().len(), 1);
    seen.refuses(&["account", "remove", "scans"], "owns 1 buckets").await;
    let removed = async || client("another-secret").delete_bucket().bucket("scans").send().await;
    until("the bucket's end", None, removed).await;
    seen.changes(&["account", "remove", "scans"]).await;
    assert_eq!(names(&seen.changes(&["account", "list"]).await["accounts"]), ["admin"]);

    assert_eq!(seen.changes(&["placement", "survive", "node"]).await["survive"], "node");
    seen.refuses(&["placement", "survive", "rack"], "can't be kept").await;
    // Each leader set its own file's rule.
    for name in site.layout.metadata_names() {
        let file = site.root().join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&file).unwrap();
        let other = text.replacen("credentials", "placement = { survive = \"drive\" }\ncredentials", 1);
        std::fs::write(&file, other).unwrap();
        site.supervisor.kill(&name);
        site.supervisor.start(&name);
        site.supervisor.ready(&name, PATIENCE).await.unwrap();
    }
    let differs =
        |warning: &&str| warning.contains("m1 (drive), m2 (drive), m3 (drive) is not what is in force (node)");
    seen.until("m1", &["status"], |status| warnings(status).iter().any(differs)).await;
    assert_eq!(seen.changes(&["placement", "survive"]).await["survive"], "node");
}
