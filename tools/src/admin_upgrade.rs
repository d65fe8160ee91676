//! The admin port's routes for upgrades: who runs what, and raising the format level. They want the token.
//!
//! Who decides is the service that serves: the leader of several metadata nodes, or the process that is all of metadata. It asks each
//! process now, over the connections that it has or makes for it; what a process said of an earlier start counts for nothing. The
//! level is raised by one journaled command, so whatever happens in between leaves the level before or the new one.

use crate::admin::{AdminState, unavailable};
use crate::member_answers::{self, GatewayInfo, MemberInfo};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use codec::level::{FormatLevel, SOFTWARE};
use metadata::index::IndexError;
use metadata::service::{Metadata, NodeRelease};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

type Shared = State<Arc<AdminState>>;

/// A leader hears of every gateway that runs within so long of its beginning: they ask each second, and look for a new leader for
/// some time after the one before is gone.
const HEARD_OF_ALL: Duration = Duration::from_secs(15);

/// `GET /v1/upgrade`, and the answer to `POST /v1/upgrade/finish`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeAnswer {
    /// The cluster's format level: what is written.
    pub level: u32,
    /// The release that raised it; empty where nobody did since there are levels.
    pub raised_by: String,
    /// The newest level that the process which answers knows: what `finish` raises to.
    pub newest: u32,
    /// Every process of the cluster.
    pub processes: Vec<ProcessInfo>,
}

/// A process in [`UpgradeAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// `metadata`, `storage-node` or `gateway`; `serve` of a process that is all of them.
    pub role: String,
    /// Its name; empty of one that has none.
    pub name: String,
    /// Its release; empty where it did not say.
    pub software: String,
    /// The newest format level that it knows; absent where that is not known.
    pub knows: Option<u32>,
    /// Why it is not known; empty otherwise.
    pub problem: String,
    /// It was not heard of lately and may be gone: it is not waited for, and refused should it come back as it was.
    #[serde(default)]
    pub gone: bool,
}

impl ProcessInfo {
    /// Why the level can't be raised because of it, if that is so.
    fn keeps_from(&self, level: u32) -> Option<String> {
        let who = match (self.name.as_str(), self.software.as_str()) {
            ("", software) => format!("{} ({software})", self.role),
            (name, "") => format!("{} {name}", self.role),
            (name, software) => format!("{} {name} ({software})", self.role),
        };
        match self.knows {
            _ if self.gone => None,
            Some(knows) if knows >= level => None,
            Some(knows) => Some(format!("{who} knows levels up to {knows}")),
            None if self.problem.is_empty() => Some(format!("{who} does not answer")),
            None => Some(format!("{who} does not answer: {}", self.problem)),
        }
    }
}

impl UpgradeAnswer {
    /// Who keeps the level from being raised to the newest one, each in a few words.
    pub fn behind(&self) -> Vec<String> {
        self.processes.iter().filter_map(|process| process.keeps_from(self.newest)).collect()
    }

    /// What operators should do about it; `None` where nothing is to be done.
    pub fn warning(&self) -> Option<String> {
        let UpgradeAnswer { level, newest, .. } = self;
        (newest > level && self.behind().is_empty()).then(|| {
            format!("the cluster writes format level {level}, and every process knows {newest}: stele upgrade finish")
        })
    }
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new().route("/v1/upgrade", get(show)).route("/v1/upgrade/finish", post(finish))
}

fn of_member(member: &MemberInfo) -> ProcessInfo {
    let said = !member.software.is_empty();
    ProcessInfo {
        role: "metadata".to_owned(),
        name: member.name.clone(),
        software: member.software.clone(),
        // One that says its release and no level is of before there were levels.
        knows: said.then(|| member.level.max(FormatLevel::BEFORE.0)),
        problem: if said { String::new() } else { member.condition.clone() },
        gone: false,
    }
}

fn of_node(node: NodeRelease) -> ProcessInfo {
    let (software, knows) = node.release.map(|release| (release.software, release.level.0)).unzip();
    let software = software.unwrap_or_default();
    let (role, name) = ("storage-node".to_owned(), node.name.to_string());
    ProcessInfo { role, name, software, knows, problem: node.problem, gone: false }
}

fn of_gateway(gateway: &GatewayInfo) -> ProcessInfo {
    let seconds = gateway.heard_ms / 1000;
    let gone = !gateway.is_alive();
    ProcessInfo {
        role: gateway.role.clone(),
        name: gateway.name.clone(),
        software: gateway.software.clone(),
        knows: Some(gateway.level),
        problem: if gone { format!("not heard of for {seconds} s") } else { String::new() },
        gone,
    }
}

/// Who runs what, asked now.
pub(crate) async fn describe(state: &AdminState, metadata: &Metadata) -> Result<UpgradeAnswer, IndexError> {
    let row = metadata.level_row()?;
    let nodes = metadata.node_releases().await?;
    let mut processes = Vec::new();
    match state.seat() {
        Some(seat) => {
            let members = member_answers::describe_all(&seat, &state.callers()).await;
            processes.extend(members.members.iter().map(of_member));
            // A metadata node that serves S3 is among the members.
            let serves = |gateway: &&GatewayInfo| !members.members.iter().any(|member| member.name == gateway.name);
            let gateways = members.gateways.iter().filter(|gateway| gateway.role == "gateway" || serves(gateway));
            processes.extend(gateways.map(of_gateway));
        }
        None => processes.push(ProcessInfo {
            role: if nodes.is_empty() { "serve" } else { "metadata" }.to_owned(),
            software: SOFTWARE.to_owned(),
            knows: Some(FormatLevel::NEWEST.0),
            ..ProcessInfo::default()
        }),
    }
    processes.extend(nodes.into_iter().map(of_node));
    Ok(UpgradeAnswer { level: row.level, raised_by: row.by, newest: FormatLevel::NEWEST.0, processes })
}

async fn show(State(state): Shared) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    match describe(&state, &metadata).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => unavailable(error),
    }
}

async fn finish(State(state): Shared) -> Response {
    // On its own task: a client that goes away must not leave it half way.
    tokio::spawn(async move { try_finish(&state).await }).await.unwrap_or_else(|_| unavailable("stopping"))
}

async fn try_finish(state: &AdminState) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    if state.seat().is_some() {
        tokio::time::sleep(HEARD_OF_ALL.saturating_sub(metadata.serving_for())).await;
    }
    let answer = match describe(state, &metadata).await {
        Ok(answer) => answer,
        Err(error) => return unavailable(error),
    };
    let behind = answer.behind();
    if !behind.is_empty() {
        let why = format!(
            "the format level stays {}, {} is not known to all: {}\n",
            answer.level,
            answer.newest,
            behind.join("; ")
        );
        return (StatusCode::CONFLICT, why).into_response();
    }
    match metadata.raise_level(FormatLevel::NEWEST).await {
        Ok(()) => match metadata.level_row() {
            Ok(row) => Json(UpgradeAnswer { level: row.level, raised_by: row.by, ..answer }).into_response(),
            Err(error) => unavailable(error),
        },
        Err(error) => unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(role: &str, name: &str, knows: Option<u32>) -> ProcessInfo {
        let software = if knows.is_some() { "stele 1" } else { "" };
        let (role, name, software) = (role.to_owned(), name.to_owned(), software.to_owned());
        ProcessInfo { role, name, software, knows, ..ProcessInfo::default() }
    }

    #[test]
    fn whoever_does_not_know_the_level_or_does_not_answer_is_named() {
        let mut answer = UpgradeAnswer { level: 3, newest: 4, ..UpgradeAnswer::default() };
        answer.processes = vec![process("metadata", "m1", Some(4)), process("gateway", "g1", Some(5))];
        assert_eq!(answer.behind(), [""; 0]);
        let warning = answer.warning().unwrap_or_default();
        assert!(warning.contains("writes format level 3, and every process knows 4"), "{warning}");
        answer.processes.push(process("storage-node", "n1", Some(3)));
        answer.processes.push(process("storage-node", "n2", None));
        assert_eq!(
            answer.behind(),
            ["storage-node n1 (stele 1) knows levels up to 3", "storage-node n2 does not answer"]
        );
        assert_eq!(answer.warning(), None, "there is nothing to do yet");
        answer.processes.iter_mut().for_each(|process| process.gone = true);
        assert!(answer.behind().is_empty());
        answer.level = 4;
        assert_eq!(answer.warning(), None);
    }

    #[test]
    fn a_member_that_says_no_level_is_of_before_there_were_any_and_one_that_says_nothing_is_not_known() {
        let member = |software: &str, level| MemberInfo {
            name: "m2".to_owned(),
            software: software.to_owned(),
            level,
            condition: "it is gone".to_owned(),
            ..MemberInfo::default()
        };
        assert_eq!(of_member(&member("stele 1", 0)).knows, Some(2));
        assert_eq!(of_member(&member("stele 2", 7)).knows, Some(7));
        let silent = of_member(&member("", 0));
        assert_eq!((silent.knows, silent.problem.as_str()), (None, "it is gone"));
    }
}
