//! The admin API is what its OpenAPI document says: every route of the document is asked on a real server, and every answer,
//! those that refuse included, has a code and a body that the document describes.
#![allow(clippy::unwrap_used, missing_docs)]

use aws_sdk_s3::primitives::ByteStream;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use tests::openapi::faults;
use tests::process::{ACCESS_KEY, SECRET_KEY, ServerConfig, exchange, flip};
use tests::s3::{client, document};

/// How long something may take to show on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

struct Api<'a> {
    config: &'a ServerConfig,
    token: String,
    document: Value,
    /// Method and path of what was answered with success.
    asked: RefCell<BTreeSet<(String, String)>>,
}

impl<'a> Api<'a> {
    async fn new(config: &'a ServerConfig) -> Api<'a> {
        let token = std::fs::read_to_string(config.data.join("admin-token")).unwrap().trim().to_owned();
        let (code, text) = exchange(config.admin(), "GET", "/v1/openapi.json", None, "").await.unwrap();
        assert_eq!(code, 200);
        Api { config, token, document: serde_json::from_str(&text).unwrap(), asked: RefCell::default() }
    }

    /// Asks, and compares the answer with the document; its code and body.
    async fn ask(&self, method: &str, target: &str, question: Option<Value>) -> (u16, Value) {
        let body = question.map(|question| question.to_string()).unwrap_or_default();
        let answered = exchange(self.config.admin(), method, target, Some(&self.token), &body).await;
        let (code, text) = answered.unwrap_or_else(|error| panic!("{method} {target}: {error}"));
        let path = target.split('?').next().unwrap();
        let operation = &self.document["paths"][path][method.to_lowercase()];
        assert!(operation.is_object(), "{method} {path} is not in the document");
        let described = &operation["responses"][code.to_string()];
        assert!(described.is_object(), "{method} {target}: {code} is not described: {text}");
        let schema = &described["content"]["application/json"]["schema"];
        let answer = match schema.is_object() {
            true => serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {target}: {error}: {text}")),
            false => Value::String(text),
        };
        if schema.is_object() {
            let faults = faults(&self.document, schema, &answer);
            assert!(faults.is_empty(), "{method} {target}: {faults:#?}\n{answer:#}");
        }
        if code < 300 {
            self.asked.borrow_mut().insert((path.to_owned(), method.to_lowercase()));
        }
        (code, answer)
    }

    async fn get(&self, target: &str) -> Value {
        let (code, answer) = self.ask("GET", target, None).await;
        assert_eq!(code, 200, "{target}: {answer}");
        answer
    }

    async fn post(&self, target: &str, question: Option<Value>) -> Value {
        let (code, answer) = self.ask("POST", target, question).await;
        assert!(code == 200 || code == 202, "{target}: {code} {answer}");
        answer
    }

    async fn until(&self, target: &str, good: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let answer = self.get(target).await;
            if good(&answer) {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "{target} stays at {answer:#}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn is_public(operation: &Value) -> bool {
        operation["security"].as_array().is_some_and(Vec::is_empty)
    }

    /// Every operation of the document: path, method, and whether it is for everybody.
    fn operations(&self) -> Vec<(String, String, bool)> {
        let paths = self.document["paths"].as_object().unwrap().iter();
        let all = paths.flat_map(|(path, methods)| methods.as_object().unwrap().iter().map(move |(m, o)| (path, m, o)));
        all.map(|(path, method, operation)| (path.clone(), method.clone(), Self::is_public(operation))).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_as_the_openapi_document_says() {
    let directory = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(directory.path().join("data"), 6);
    let server = config.start().await;
    let s3 = client(&config);
    s3.create_bucket().bucket("api").send().await.unwrap();
    for (n, key) in ["large", "large-2", "large-3", "large-4", "large-5", "small"].into_iter().enumerate() {
        let size = if key == "small" { 900 } else { 2_000_000 };
        // Of an odd number: it does not compress, so that what any of them leaves on a drive is long enough for [`flip`].
        let body = ByteStream::from(document(2 * n as u64 + 1, size));
        s3.put_object().bucket("api").key(key).body(body).send().await.unwrap();
    }
    let api = Api::new(&config).await;

    for path in ["/health/live", "/health/ready", "/health/ready?for=reads", "/v1/openapi.json", "/metrics"] {
        api.get(path).await;
    }
    api.get("/v1/status").await;
    assert_eq!(api.ask("POST", "/v1/journal/seal", None).await.0, 202);
    assert!(api.post("/v1/journal/seal?wait=true", None).await["report"].is_object());
    objects(&api).await;
    findings(&api).await;
    for path in ["/v1/reclaim/hold", "/v1/reclaim/release"] {
        api.post(path, None).await;
    }
    api.until("/v1/reclaim", |answer| answer["held"].is_null()).await;
    let copy = s3.create_bucket().bucket("api-copy").send().await;
    assert!(copy.is_ok());
    replication(&api).await;
    drives(&api, directory.path()).await;
    let mut refused = of_a_cluster(&api).await;
    accounts(&api).await;
    users(&api).await;
    rules(&api).await;
    quotas(&api).await;
    refused.extend(webhooks(&api).await);
    kms(&api).await;

    let operations = api.operations();
    for (path, method, public) in &operations {
        if api.document["paths"][path][method]["requestBody"].is_object() {
            // A question without anything lacks nothing where each part of it may be left out.
            let expected = match path.as_str() {
                "/v1/cluster/begin" => 409,
                "/v1/quota" => 400,
                _ => 422,
            };
            assert_eq!(api.ask(&method.to_uppercase(), path, Some(json!({}))).await.0, expected, "{path}");
        }
        let asked = exchange(config.admin(), &method.to_uppercase(), path, Some("another"), "").await.unwrap();
        assert_eq!(asked.0 == 401, !public, "{method} {path} with a wrong token: {}", asked.0);
    }
    let all: BTreeSet<_> = operations.into_iter().map(|(path, method, _)| (path, method)).collect();
    let asked: BTreeSet<_> = api.asked.borrow().union(&refused).cloned().collect();
    assert_eq!(asked, all, "the document and what was asked");
    assert_eq!(server.stop().await.code(), Some(0));
}

/// What only a cluster of several processes has is refused in the document's words; which that is.
async fn of_a_cluster(api: &Api<'_>) -> BTreeSet<(String, String)> {
    assert!(api.get("/v1/nodes").await["nodes"].as_array().unwrap().is_empty());
    let node = json!({"name": "n1", "address": "localhost:9100"});
    let known = json!({"name": "n1"});
    let asked = [
        ("GET", "/v1/members", None, 409),
        ("GET", "/v1/members/self", None, 409),
        ("POST", "/v1/members/add", Some(node.clone()), 409),
        ("POST", "/v1/members/remove", Some(known.clone()), 409),
        ("POST", "/v1/cluster/begin", Some(json!({})), 409),
        ("POST", "/v1/nodes/add", Some(node), 409),
        ("POST", "/v1/placement/survive", Some(json!({"survive": "node"})), 409),
        ("POST", "/v1/nodes/drain", Some(known.clone()), 404),
        ("POST", "/v1/nodes/remove", Some(known), 404),
    ];
    let mut refused = BTreeSet::new();
    for (method, path, question, code) in asked {
        assert_eq!(api.ask(method, path, question).await.0, code, "{method} {path}");
        refused.insert((path.to_owned(), method.to_lowercase()));
    }
    let nowhere = json!({"name": "n1", "address": "localhost"});
    assert_eq!(api.ask("POST", "/v1/nodes/add", Some(nowhere)).await.0, 400);
    refused
}

async fn accounts(api: &Api<'_>) {
    let before = api.get("/v1/accounts").await;
    let account = json!({"name": "scans", "access_key": "SCANSACCESSKEY000001", "secret_key": "a-secret-of-scans-01"});
    let after = api.post("/v1/accounts/put", Some(account.clone())).await;
    assert!(!after.to_string().contains("a-secret-of-scans-01"));
    assert_eq!(api.ask("POST", "/v1/accounts/put", Some(account)).await.0, 409, "there is one");
    assert_eq!(api.post("/v1/accounts/remove", Some(json!({"id": "scans"}))).await, before);
    assert_eq!(api.ask("POST", "/v1/accounts/remove", Some(json!({"id": "scans"}))).await.0, 404);
}

async fn users(api: &Api<'_>) {
    let ask =
        |action: &str, parameters: Value| Some(json!({"account": "admin", "action": action, "parameters": parameters}));
    let made = api.post("/v1/iam", ask("CreateUser", json!({"UserName": "anna"}))).await;
    assert_eq!(made["User"]["UserName"], "anna");
    let key = api.post("/v1/iam", ask("CreateAccessKey", json!({"UserName": "anna"}))).await;
    assert_eq!(key["AccessKey"]["SecretAccessKey"].as_str().unwrap().len(), 40);
    let listed = api.post("/v1/iam", ask("ListUsers", json!({}))).await;
    assert_eq!(listed["Users"].as_array().unwrap().len(), 1);
    for (action, parameters, code) in [
        ("CreateUser", json!({"UserName": "ANNA"}), 409),
        ("GetUser", json!({"UserName": "nobody"}), 404),
        ("CreateUser", json!({}), 400),
        ("MakeCoffee", json!({}), 400),
    ] {
        assert_eq!(api.ask("POST", "/v1/iam", ask(action, parameters)).await.0, code, "{action}");
    }
    api.post("/v1/iam", ask("DeleteUser", json!({"UserName": "anna"}))).await;
}

async fn rules(api: &Api<'_>) {
    assert_eq!(api.get("/v1/placement").await["survive"], "drive");
    let level = api.get("/v1/upgrade").await["level"].clone();
    assert_eq!(api.post("/v1/upgrade/finish", None).await["level"], level, "a new store is at the newest");
}

async fn objects(api: &Api<'_>) {
    for key in ["large", "small"] {
        for word in ["locate", "verify"] {
            let question = json!({"bucket": "api", "key": key});
            let answer = api.post(&format!("/v1/object/{word}"), Some(question)).await;
            assert!(!answer["stripes"].as_array().unwrap().is_empty(), "{answer:#}");
        }
    }
    let nothing = json!({"bucket": "api", "key": "nothing"});
    assert_eq!(api.ask("POST", "/v1/object/locate", Some(nothing)).await.0, 404);
    let page = api.post("/v1/fixity", Some(json!({"bucket": "api", "max": 1}))).await;
    assert!(page["next"].is_object() && page["objects"][0]["stripes"].is_array(), "{page:#}");
    assert_eq!(api.ask("POST", "/v1/fixity", Some(json!({"bucket": "nothing"}))).await.0, 404);
}

/// A bucket is copied into another one of the same server.
async fn replication(api: &Api<'_>) {
    let set = json!({
        "bucket": "api", "endpoint": api.config.endpoint(), "region": "us-east-1", "target": "api-copy",
        "access_key": ACCESS_KEY, "secret_key": SECRET_KEY,
    });
    let wrong = |field: &str, value: &str| {
        let mut set = set.clone();
        set[field] = value.into();
        Some(set)
    };
    let ask = |question| api.ask("POST", "/v1/replication/set", question);
    assert_eq!(ask(wrong("bucket", "nothing")).await.0, 404);
    assert_eq!(ask(wrong("endpoint", "far:9000")).await.0, 400);
    assert_eq!(ask(wrong("target", "nothing")).await.0, 502);
    assert_eq!(ask(wrong("secret_key", "another-secret-key")).await.0, 502);
    assert!(api.get("/v1/replication").await["rules"].as_array().unwrap().is_empty());
    api.post("/v1/replication/set", Some(set.clone())).await;
    api.until("/v1/replication", |answer| answer["rules"][0]["state"] == "idle").await;
    let of_bucket = Some(json!({"bucket": "api"}));
    for word in ["pause", "resume"] {
        api.post(&format!("/v1/replication/{word}"), of_bucket.clone()).await;
    }
    let compared = api.post("/v1/replication/verify", of_bucket.clone()).await;
    assert_eq!((compared["same"].as_u64(), compared["next"].is_null()), (Some(6), true), "{compared:#}");
    let text = api.get("/metrics").await;
    assert!(text.as_str().unwrap().contains("stele_replication_waiting_keys{bucket=\"api\"} 0"));
    assert!(api.get("/v1/status").await["replication"]["rules"].is_array());
    api.post("/v1/replication/unset", of_bucket.clone()).await;
    assert_eq!(api.ask("POST", "/v1/replication/unset", of_bucket).await.0, 404);
}

/// Limits of buckets and accounts.
async fn quotas(api: &Api<'_>) {
    let limited = api.post("/v1/quota", Some(json!({"bucket": "api", "max_objects": 1000}))).await;
    assert_eq!(limited["max_objects"], 1000, "{limited:#}");
    assert_eq!(api.post("/v1/quota", Some(json!({"bucket": "api"}))).await, limited);
    for (question, code) in [(json!({"bucket": "none"}), 404), (json!({"bucket": "api", "account": "admin"}), 400)] {
        assert_eq!(api.ask("POST", "/v1/quota", Some(question.clone())).await.0, code, "{question}");
    }
}

/// Webhooks: there are none here, so nothing waits, and nobody's rules may name one. Which route is refused for it.
async fn webhooks(api: &Api<'_>) -> [(String, String); 1] {
    assert!(api.get("/v1/webhooks").await["webhooks"].as_array().unwrap().is_empty());
    assert_eq!(api.ask("POST", "/v1/webhooks/drop", Some(json!({"name": "none"}))).await.0, 404);
    [("/v1/webhooks/drop".to_owned(), "post".to_owned())]
}

/// Keys of the key store: one that is in use is not destroyed, and one that nothing needs is, sooner or later.
async fn kms(api: &Api<'_>) {
    let change = |id: &str, action: &str| Some(json!({"id": id, "account": "admin", "action": action}));
    api.post("/v1/kms/change", change("archive", "create")).await;
    for (id, action, code) in [("archive", "destroy", 409), ("none", "disable", 404)] {
        assert_eq!(api.ask("POST", "/v1/kms/change", change(id, action)).await.0, code, "{action} {id}");
    }
    assert_eq!(api.ask("POST", "/v1/kms/change", change("archive", "sell")).await.0, 400);
    for action in ["disable", "destroy"] {
        api.post("/v1/kms/change", change("archive", action)).await;
    }
    let state = |answer: &Value| {
        let keys = answer["keys"].as_array().unwrap().iter();
        keys.filter(|key| key["id"] == "archive").map(|key| key["state"].clone()).next()
    };
    api.until("/v1/kms", |answer| state(answer) == Some(json!("destroyed"))).await;
}

/// Something is rotten: reported with what depends on it, planned, and mended.
async fn findings(api: &Api<'_>) {
    api.post("/v1/scrub/pause", None).await;
    api.post("/v1/scrub/resume", None).await;
    api.post("/v1/repair/pause", None).await;
    flip(&api.config.drive(2));
    api.post("/v1/scrub/start", None).await;
    let found = |answer: &Value| !answer["findings"].as_array().unwrap().is_empty();
    let report = api.until("/v1/scrub/report?objects=5", found).await;
    let object = report["findings"][0]["objects"][0].as_str().unwrap_or_default();
    assert!(object.starts_with("api/large"), "{report:#}");
    assert_eq!(api.ask("GET", "/v1/scrub/report?objects=many", None).await.0, 400);
    let plan = api.until("/v1/repair/plan", |plan| !plan["items"].as_array().unwrap().is_empty()).await;
    assert_eq!(plan["items"].as_array().unwrap().len(), 1, "{plan:#}");
    api.get("/v1/scrub").await;
    api.post("/v1/repair/resume", None).await;
    api.until("/v1/scrub/report", |answer| !found(answer)).await;
    api.until("/v1/repair", |answer| answer["by_slack"].as_array().unwrap().is_empty()).await;
}

async fn drives(api: &Api<'_>, directory: &Path) {
    // Not the one that is lost below: the drain may have emptied it before it is cancelled, and nothing would wait for it.
    let drives = api.get("/v1/drives").await["drives"].as_array().unwrap().clone();
    let at_1 = |drive: &&Value| Path::new(drive["path"].as_str().unwrap()).ends_with("drives/1");
    let other = drives.iter().find(at_1).unwrap()["id"].as_str().unwrap().to_owned();
    let new = |name: &str| json!({"path": directory.join(name), "wait": true});
    let added = api.post("/v1/drives/add", Some(new("new"))).await;
    assert!(added["drive"].is_string(), "{added:#}");
    assert_eq!(api.ask("POST", "/v1/drives/add", Some(new("new"))).await.0, 409);
    let nobody = json!({"drive": "ffffffffffffffffffffffffffffffff"});
    assert_eq!(api.ask("POST", "/v1/drives/drain", Some(nobody)).await.0, 404);
    api.post("/v1/drives/drain", Some(json!({"drive": other}))).await;
    api.post("/v1/drives/drain", Some(json!({"drive": other, "cancel": true}))).await;
    assert_eq!(api.ask("POST", "/v1/drives/remove", Some(json!({"drive": other}))).await.0, 409);
    api.until("/v1/repair", |answer| answer["by_slack"].as_array().unwrap().is_empty()).await;

    // A drive is gone: what lay there waits for it, and the plan says until when although nothing is to be done now.
    std::fs::rename(api.config.drive(3), directory.join("gone")).unwrap();
    // What is to be done and what waits are noted in one round, and read one after the other.
    let waits = |plan: &Value| {
        let is_empty = |list: &str| plan[list].as_array().unwrap().is_empty();
        !is_empty("waits") && !is_empty("waiting") && is_empty("items")
    };
    let plan = api.until("/v1/repair/plan", waits).await;
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let until_ms = plan["waits"][0]["until_ms"].as_u64().unwrap();
    assert!((1..16 * 60_000).contains(&until_ms.saturating_sub(now_ms)), "{plan:#}");
    assert!(plan["waiting"][0]["until_ms"].is_u64() && plan["items"].as_array().unwrap().is_empty(), "{plan:#}");
    let lost = api.get("/v1/drives").await["drives"].as_array().unwrap().clone();
    let lost = lost.iter().find(|drive| drive["state"] == "failed" || drive["state"] == "absent").unwrap();
    let question = json!({"drive": lost["id"], "path": directory.join("instead"), "wait": true});
    assert!(api.post("/v1/drives/replace", Some(question)).await["replaced"].is_string());
    api.post("/v1/drives/drain", Some(json!({"drive": added["drive"]}))).await;
    let drained = |answer: &Value| {
        let drives = answer["drives"].as_array().unwrap().iter();
        drives.filter(|drive| drive["id"] == added["drive"]).any(|drive| drive["state"] == "drained")
    };
    api.until("/v1/drives", drained).await;
    api.post("/v1/drives/remove", Some(json!({"drive": added["drive"]}))).await;
}
