//! What the admin port says about the metadata nodes and the gateways, and how it is put together.
//!
//! The leader knows who answers it: it hears from each with every heartbeat, also while nothing is written. How a node is otherwise it
//! says itself, where it is asked in time; one that follows asks the leader for what it can't know.

use crate::passing::Passing;
use crate::roles::seat::{Room, Seat};
use axum::http::StatusCode;
use codec::level::{FormatLevel, SOFTWARE};
use futures::future::join_all;
use metadata::raft::{MemberLine, Peer};
use metadata::rpc::{Caller, Callers};
use metadata::topology::Level;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A metadata node that has not answered the leader for so long is silent: some thirty heartbeats.
pub(crate) const SILENT: Duration = Duration::from_secs(10);
/// A process that has not asked for a session for so long serves no S3: it asks each second.
const GONE: Duration = Duration::from_secs(15);
/// How long another node is waited for when it is asked how it is.
const ASK: Duration = Duration::from_secs(3);
/// A certificate that is good for fewer days is warned of.
pub(crate) const RENEW: u32 = 30;
/// As far as a certificate is looked ahead, in days: as long as the longest that is issued.
pub(crate) const FAR: u32 = 7300;
/// Where it is asked, and where the leader is asked for all of them: for longer, since it first asks each of them, and one that is dead
/// would make it seem dead as well.
const SELF: &str = "/v1/members/self";
const ALL: &str = "/v1/members";

/// `GET /v1/members`, the answer to every change, and part of `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersAnswer {
    /// The name of the node that answers.
    pub me: String,
    /// Raft's term; absent while it waits to be added.
    pub term: Option<u64>,
    /// The name of the leader; absent while none is known.
    pub leader: Option<String>,
    /// How the node that answers is: why it is ready, or is not.
    pub condition: String,
    /// The metadata nodes, as this one knows them; none while it waits.
    pub members: Vec<MemberInfo>,
    /// The processes that serve S3, as the leader knows them.
    #[serde(default)]
    pub gateways: Vec<GatewayInfo>,
    /// Why the leader could not be asked for what only it knows; empty where it was, and where none is known.
    #[serde(default)]
    pub unasked: String,
}

/// A metadata node in [`MembersAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// Its number, in hex.
    pub number: String,
    /// It votes; one that does not is catching up.
    pub voter: bool,
    /// It leads.
    pub leader: bool,
    /// The last entry that it is known to have; known to the leader only.
    pub matched: Option<u64>,
    /// Entries that it lacks; known to the leader only.
    pub lag: Option<u64>,
    /// How long it has not answered the leader, in milliseconds, since that began to lead at most; absent where nobody could say.
    #[serde(default)]
    pub silent_ms: Option<u64>,
    /// What it says of itself, or why it says nothing; empty where it was not asked.
    #[serde(default)]
    pub condition: String,
    /// Its release; empty where it did not say.
    #[serde(default)]
    pub software: String,
    /// The newest format level that it knows; 0 where it did not say.
    #[serde(default)]
    pub level: u32,
    /// The rule of placement in its configuration file; absent where there is none, or it did not say.
    #[serde(default)]
    pub survive: Option<String>,
    /// For how many more days its certificate is good; absent where it did not say.
    #[serde(default)]
    pub certificate_days: Option<u32>,
    /// Room for its state; absent where it did not say.
    #[serde(default)]
    pub room: Option<Room>,
}

impl MemberInfo {
    /// Whether the leader has not heard of it for longer than a busy machine explains.
    pub fn is_silent(&self) -> bool {
        self.silent_ms.is_some_and(|ms| u128::from(ms) >= SILENT.as_millis())
    }
}

/// A process that serves S3, in [`MembersAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayInfo {
    /// Its name.
    pub name: String,
    /// `gateway`, or `metadata` of a metadata node that serves S3 as well.
    pub role: String,
    /// Its release; empty where it did not say.
    pub software: String,
    /// The newest format level that it knows.
    #[serde(default)]
    pub level: u32,
    /// How long ago it asked how the cluster is, in milliseconds. It does each second.
    pub heard_ms: u64,
}

impl GatewayInfo {
    fn new(caller: &Caller) -> GatewayInfo {
        GatewayInfo {
            name: caller.name.to_string(),
            role: caller.role.name().to_owned(),
            software: caller.software.clone(),
            level: caller.level.0,
            heard_ms: ms(caller.heard),
        }
    }

    /// Whether it was heard of lately.
    pub fn is_alive(&self) -> bool {
        u128::from(self.heard_ms) < GONE.as_millis()
    }
}

/// `GET /v1/members/self`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSelf {
    /// Its name.
    pub name: String,
    /// How it is.
    pub condition: String,
    /// Its release.
    pub software: String,
    /// The newest format level that it knows.
    #[serde(default)]
    pub level: u32,
    /// The rule of placement in its configuration file.
    pub survive: Option<String>,
    /// For how many more days its certificate is good.
    #[serde(default)]
    pub certificate_days: Option<u32>,
    /// Room for its state; absent where it did not say.
    #[serde(default)]
    pub room: Option<Room>,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How this node is.
pub(crate) fn describe_self(seat: &Seat) -> MemberSelf {
    MemberSelf {
        name: seat.name().to_owned(),
        condition: seat.condition(false).unwrap_or_else(|why| why),
        software: SOFTWARE.to_owned(),
        level: FormatLevel::NEWEST.0,
        survive: seat.survive().map(|level| level.to_string()),
        certificate_days: Some(seat.certificate_days()),
        room: seat.room(),
    }
}

/// The metadata nodes, and who serves S3, as this node knows them by itself.
pub(crate) fn describe(seat: &Seat, callers: &Callers) -> MembersAnswer {
    let mut lines = seat.members();
    lines.sort_by(|one, other| one.peer.name.cmp(&other.peer.name));
    let last = lines.iter().filter_map(|line| line.matched).max();
    let leads = lines.iter().any(|line| line.silent.is_some());
    let line = |line: &MemberLine| MemberInfo {
        name: line.peer.name.clone(),
        address: line.peer.address.clone(),
        number: format!("{:016x}", line.id),
        voter: line.voter,
        leader: line.leader,
        matched: line.matched,
        lag: line.matched.and_then(|matched| Some(last?.saturating_sub(matched))),
        silent_ms: line.silent.map(ms),
        certificate_days: (line.peer.name == seat.name()).then(|| seat.certificate_days()),
        room: (line.peer.name == seat.name()).then(|| seat.room()).flatten(),
        ..MemberInfo::default()
    };
    MembersAnswer {
        me: seat.name().to_owned(),
        term: seat.term().map(|(term, _)| term),
        leader: lines.iter().find(|line| line.leader).map(|line| line.peer.name.clone()),
        condition: seat.condition(false).unwrap_or_else(|why| why),
        members: lines.iter().map(line).collect(),
        // What was heard while this node led before is of then.
        gateways: if leads { callers.list().iter().map(GatewayInfo::new).collect() } else { Vec::new() },
        unasked: String::new(),
    }
}

/// The same, and what the others know: asked of the leader, the members say how they are; asked of another one, the leader says it.
pub(crate) async fn describe_all(seat: &Seat, callers: &Callers) -> MembersAnswer {
    let mut answer = describe(seat, callers);
    let leader = answer.leader.clone();
    if leader.as_ref() == Some(&answer.me) {
        ask_members(seat, &mut answer).await;
    } else if let Some(peer) = answer.members.iter().find(|member| Some(&member.name) == leader.as_ref()).map(peer) {
        match ask::<MembersAnswer>(seat.passing(), &peer, ALL, 2 * ASK).await {
            Ok(known) => take(&mut answer, known),
            Err(why) => answer.unasked = format!("{peer} leads, and can't be asked: {why}"),
        }
    }
    answer
}

fn peer(member: &MemberInfo) -> Peer {
    Peer { address: member.address.clone(), name: member.name.clone() }
}

async fn ask_members(seat: &Seat, answer: &mut MembersAnswer) {
    let me = answer.me.clone();
    let asked = answer.members.iter().map(|member| async {
        if member.name == me {
            return Ok(describe_self(seat));
        }
        ask::<MemberSelf>(seat.passing(), &peer(member), SELF, ASK).await
    });
    let said = join_all(asked).await;
    for (member, said) in answer.members.iter_mut().zip(said) {
        match said {
            Ok(said) => {
                (member.condition, member.software) = (said.condition, said.software);
                (member.survive, member.level) = (said.survive, said.level);
                (member.certificate_days, member.room) = (said.certificate_days, said.room);
            }
            Err(why) => member.condition = why,
        }
    }
}

/// What the leader knows of the members that this node knows, too.
fn take(answer: &mut MembersAnswer, known: MembersAnswer) {
    let MembersAnswer { leader, members, gateways, .. } = known;
    if leader != answer.leader {
        // It leads no more: the next time its successor is asked.
        return;
    }
    for member in &mut answer.members {
        let Some(theirs) = members.iter().find(|theirs| theirs.number == member.number) else { continue };
        let (voter, leader) = (member.voter, member.leader);
        *member = MemberInfo { voter, leader, ..theirs.clone() };
    }
    answer.gateways = gateways;
}

async fn ask<T: DeserializeOwned>(passing: &Passing, peer: &Peer, path: &str, time: Duration) -> Result<T, String> {
    let (status, body) = passing.get(peer, path, time).await.map_err(|error| error.to_string())?;
    if status != StatusCode::OK {
        return Err(String::from_utf8_lossy(&body).trim().chars().take(300).collect());
    }
    serde_json::from_slice(&body).map_err(|_| format!("{} answered something else", peer.name))
}

/// What is not as it should be, for people.
pub(crate) fn warnings(answer: &MembersAnswer) -> Vec<String> {
    let voters = answer.members.iter().filter(|member| member.voter);
    let (all, silent) =
        voters.fold((0_usize, 0_usize), |(all, silent), m| (all + 1, silent + usize::from(m.is_silent())));
    let spare = (all - silent).saturating_sub(all / 2 + 1);
    let mut said = Vec::new();
    for member in answer.members.iter().filter(|member| member.is_silent()) {
        let (name, address) = (&member.name, &member.address);
        let seconds = member.silent_ms.unwrap_or_default() / 1000;
        let left = match (member.voter, spare) {
            (false, _) => "it does not vote".to_owned(),
            (true, 0) => format!("with another of the {all} lost, nothing is served"),
            (true, spare) => format!("{spare} more of the {all} may be lost, and no more"),
        };
        said.push(format!("metadata node {name} ({address}) has not answered for {seconds} s: {left}"));
    }
    for member in answer.members.iter().filter(|member| !member.voter && !member.is_silent()) {
        let (name, address) = (&member.name, &member.address);
        said.push(format!(
            "metadata node {name} does not vote yet: it catches up, or stele member add {name} {address} goes on"
        ));
    }
    for member in &answer.members {
        if let Some(days) = member.certificate_days.filter(|days| *days < RENEW) {
            said.push(format!("the certificate of metadata node {} runs out in {days} days: renew it", member.name));
        }
        if let Some(room) = member.room.filter(Room::is_short) {
            let (free, wanted) = (room.free >> 20, room.wanted >> 20);
            said.push(format!(
                "the data directory of metadata node {} has {free} MiB free and should have {wanted}: without room the node ends",
                member.name
            ));
        }
    }
    said
}

/// Files that ask for another rule of placement than the one that is in force. Nobody's is taken up by itself: each new leader would
/// set its own.
pub(crate) fn other_rules(answer: &MembersAnswer, in_force: Level) -> Option<String> {
    let rule = in_force.to_string();
    let differs = |member: &&MemberInfo| member.survive.as_ref().is_some_and(|of| *of != rule);
    let named = |member: &MemberInfo| format!("{} ({})", member.name, member.survive.as_deref().unwrap_or_default());
    let named: Vec<String> = answer.members.iter().filter(differs).map(named).collect();
    (!named.is_empty()).then(|| {
        format!(
            "[placement] survive in the configuration of {} is not what is in force ({rule}): stele placement survive sets it",
            named.join(", ")
        )
    })
}

/// Whether every metadata node answers and votes, and one leads. Who could not ask the one that leads does not know it.
pub fn is_well(answer: &MembersAnswer) -> bool {
    let known = answer.leader.is_some() && answer.unasked.is_empty();
    known && answer.members.iter().all(|member| member.voter && !member.is_silent())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, silent_s: Option<u64>) -> MemberInfo {
        MemberInfo {
            name: name.to_owned(),
            address: format!("{name}:9200"),
            number: format!("{name}-1"),
            voter: true,
            leader: name == "m1",
            silent_ms: silent_s.map(|s| s * 1000),
            ..MemberInfo::default()
        }
    }

    fn members(silent: &[Option<u64>]) -> MembersAnswer {
        let line = |(n, silent): (usize, &Option<u64>)| member(&format!("m{}", n + 1), *silent);
        MembersAnswer {
            me: "m1".to_owned(),
            leader: Some("m1".to_owned()),
            members: silent.iter().enumerate().map(line).collect(),
            ..MembersAnswer::default()
        }
    }

    #[test]
    fn who_is_silent_is_named_with_what_may_still_be_lost() {
        assert!(is_well(&members(&[Some(0), Some(1), Some(9)])));
        assert_eq!(warnings(&members(&[Some(0), Some(1), Some(9)])), [""; 0]);
        let one = members(&[Some(0), Some(43), Some(0)]);
        let said =
            "metadata node m2 (m2:9200) has not answered for 43 s: with another of the 3 lost, nothing is served";
        assert_eq!(warnings(&one), [said]);
        assert!(!is_well(&one));
        let five = members(&[Some(0), Some(43), Some(0), Some(0), Some(0)]);
        assert!(warnings(&five)[0].ends_with("1 more of the 5 may be lost, and no more"));
        let mut follows = members(&[None, None, None]);
        assert!(is_well(&follows), "a node that follows knows of no silence by itself");
        follows.unasked = "m1:9200 leads, and can't be asked: no answer in time".to_owned();
        assert!(!is_well(&follows), "one that could not ask who leads can't say that all is well");
        let mut learner = members(&[Some(0), Some(0)]);
        learner.members[1].voter = false;
        assert!(warnings(&learner)[0].contains("stele member add m2 m2:9200"), "{:?}", warnings(&learner));
        learner.members[0].certificate_days = Some(29);
        assert_eq!(warnings(&learner)[1], "the certificate of metadata node m1 runs out in 29 days: renew it");
        learner.members[0].room = Some(Room { free: 1 << 30, wanted: 1 << 30 });
        assert_eq!(warnings(&learner).len(), 2);
        learner.members[0].room = Some(Room { free: 700 << 20, wanted: 1 << 30 });
        let said =
            "the data directory of metadata node m1 has 700 MiB free and should have 1024: without room the node ends";
        assert_eq!(warnings(&learner)[2], said);
        learner.members[1].silent_ms = Some(60_000);
        assert!(warnings(&learner)[0].ends_with("60 s: it does not vote"), "{:?}", warnings(&learner));
    }

    #[test]
    fn a_node_that_follows_takes_over_what_the_leader_knows() {
        let mut mine = members(&[None, None, None]);
        mine.me = "m2".to_owned();
        let mut known = members(&[Some(0), Some(1), Some(50)]);
        known.gateways.push(GatewayInfo { name: "g1".to_owned(), ..GatewayInfo::default() });
        known.members.remove(0);
        take(&mut mine, known.clone());
        assert_eq!(mine.members.iter().map(|m| m.silent_ms).collect::<Vec<_>>(), [None, Some(1000), Some(50_000)]);
        assert_eq!((mine.me.as_str(), mine.gateways.len()), ("m2", 1));
        let before = mine.clone();
        known.leader = Some("m3".to_owned());
        known.gateways.clear();
        take(&mut mine, known);
        assert_eq!(mine, before, "who does not lead any more knows nothing");
    }

    #[test]
    fn files_that_ask_for_another_rule_are_named() {
        let mut answer = members(&[Some(0), Some(0), Some(0)]);
        assert_eq!(other_rules(&answer, Level::Rack), None);
        answer.members[0].survive = Some("rack".to_owned());
        assert_eq!(other_rules(&answer, Level::Rack), None);
        answer.members[2].survive = Some("node".to_owned());
        let said = other_rules(&answer, Level::Rack).unwrap_or_default();
        assert!(said.contains("of m3 (node) is not what is in force (rack)"), "{said}");
    }

    #[test]
    fn a_gateway_that_was_not_heard_of_for_a_while_is_gone() {
        let caller = |heard| GatewayInfo { heard_ms: heard, ..GatewayInfo::default() };
        assert!(caller(14_999).is_alive() && !caller(15_000).is_alive());
    }
}
