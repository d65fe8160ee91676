//! What a cluster holds, looked at shard by shard from the medium: metadata's own opinion of its rows may be wrong, and a read gets by
//! with as many bad shards in every stripe as it may lose.

use crate::cluster::load::BUCKET;
use crate::cluster::load::versions::{LOCKED, VERSIONED};
use crate::cluster::site::{AGAIN, Site};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Shards that are named in an answer, at most.
const NAMED: usize = 20;

/// What is not as it should be.
#[derive(Debug, Default)]
pub struct Unsound {
    /// Shards that are where their rows say, and whose bytes are other ones: drives rot, and repair mends that.
    pub rotten: Vec<Value>,
    /// Anything else. Nothing that befalls a cluster may lead to it once repair has nothing left to do.
    pub wrong: Vec<Value>,
    /// A drive did not answer in time, which says nothing of what it holds.
    is_late: bool,
}

impl Site {
    /// Verifies every shard and every journal entry of every object from its medium, as `stele fixity --verify` does for operators.
    /// `Err`: there was no report within `within`.
    pub async fn verified(&self, within: Duration) -> Result<Unsound, String> {
        let mut all = Unsound::default();
        for bucket in [BUCKET, VERSIONED, LOCKED] {
            let of = self.verified_bucket(bucket, within).await?;
            all.rotten.extend(of.rotten);
            all.wrong.extend(of.wrong);
        }
        Ok(all)
    }

    async fn verified_bucket(&self, bucket: &str, within: Duration) -> Result<Unsound, String> {
        let begun = Instant::now();
        loop {
            let leader = self.path(&self.leader().await);
            let output = self.stele(&["fixity", bucket, "--verify", "--json", "--data", &leader]).await;
            // 2: there is a report, and something in it.
            if matches!(output.status.code(), Some(0 | 2)) {
                let unsound = report(&String::from_utf8_lossy(&output.stdout))?;
                if !unsound.is_late || begun.elapsed() >= within {
                    return Ok(unsound);
                }
            } else if begun.elapsed() >= within {
                return Err(format!("no report: {}", String::from_utf8_lossy(&output.stderr)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until no stripe has more shards on one node, rack or site than it may lose where new ones have not. `Err`: the warning.
    pub async fn apart(&self, within: Duration) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let status = self.json(&["status", "--json", "--data", &self.path(&self.leader().await)]).await;
            let warnings = status["warnings"].as_array().cloned();
            let crowded =
                warnings.iter().flatten().filter_map(Value::as_str).find(|text| text.contains("older stripes"));
            match (crowded, warnings.is_some()) {
                (None, true) => return Ok(()),
                _ if begun.elapsed() < within => tokio::time::sleep(AGAIN).await,
                (crowded, _) => return Err(crowded.unwrap_or("no status").to_owned()),
            }
        }
    }
}

fn report(lines: &str) -> Result<Unsound, String> {
    let mut unsound = Unsound::default();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
        let object = &line["object"];
        if object.is_null() || object["outcome"] == "ok" {
            continue;
        }
        unsound.is_late |= object["unreachable"].as_u64() > Some(0);
        let of = |what: &Value, copies: &str| what[copies].as_array().cloned().unwrap_or_default();
        let stripes = of(object, "stripes").into_iter().flat_map(|stripe| {
            let bad = of(&stripe, "shards").into_iter().filter(|shard| shard["state"] != "good");
            bad.map(|shard| json!({ "key": object["key"], "stripe": stripe["stripe"], "shard": shard }))
                .collect::<Vec<_>>()
        });
        let (rotten, wrong): (Vec<Value>, Vec<Value>) = stripes.partition(|bad| bad["shard"]["state"] == "damaged");
        if rotten.is_empty() && wrong.is_empty() {
            unsound
                .wrong
                .push(json!({ "key": object["key"], "outcome": object["outcome"], "journal": object["journal"] }));
        }
        unsound.rotten.extend(rotten);
        unsound.wrong.extend(wrong);
    }
    unsound.rotten.truncate(NAMED);
    unsound.wrong.truncate(NAMED);
    Ok(unsound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rot_is_told_from_a_shard_that_is_not_there() {
        let object = |outcome: &str, state: &str| {
            let shards = json!([{ "index": 0, "state": "good" }, { "index": 1, "state": state }]);
            let stripes = json!([{ "stripe": "1.1", "shards": shards }]);
            json!({ "object": { "key": "k", "outcome": outcome, "stripes": stripes, "journal": [] } }).to_string()
        };
        let of = |lines: &[String]| report(&lines.join("\n")).map(|of| (of.rotten.len(), of.wrong.len()));
        let summary = json!({ "summary": { "objects": 1 } }).to_string();
        assert_eq!(of(&[object("ok", "good"), summary]), Ok((0, 0)));
        assert_eq!(of(&[object("degraded", "damaged"), object("degraded", "missing")]), Ok((1, 1)));
        assert_eq!(of(&[object("unverified", "good")]), Ok((0, 1)), "whatever else it is");
        assert!(of(&["nothing".to_owned()]).is_err());
        let late = json!({ "object": { "key": "k", "outcome": "unknown", "unreachable": 1 } }).to_string();
        assert!(report(&late).is_ok_and(|of| of.is_late && of.wrong.len() == 1), "a drive that did not answer");
    }
}
