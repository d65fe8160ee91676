//! `stele cluster` and `stele member`. Exit codes: 0 all is well, 1 the command failed, 2 it found what is not well.

use super::NOT_WELL;
use super::client;
use super::keep::{Asked, length, show};
use crate::admin_client::ClientError;
use crate::admin_members::{BeginQuestion, MemberQuestion};
use crate::member_answers::{GatewayInfo, MemberInfo, MembersAnswer, is_well};
use crate::progress::{Progress, Unit, with_a_word};
use clap::Subcommand;
use hyper::Method;
use serde::Serialize;

#[derive(Debug, Subcommand)]
pub(super) enum Cluster {
    /// Begin a cluster on one metadata node, which runs and waits, over the drives of its storage nodes. Once per cluster:
    /// further metadata nodes are added with stele member add.
    Init {
        /// The drives hold a cluster's data: all its metadata nodes are lost, or its metadata was one process until now. Never
        /// while a metadata node of it may still run.
        #[arg(long)]
        existing: bool,
        #[command(flatten)]
        asked: Asked,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Member {
    /// The metadata nodes and the gateways, as the one that is asked and the leader know them. Exits with 2 when none leads, or
    /// one is silent or not a voter yet.
    List(Asked),
    /// Add a metadata node that runs and waits. It catches up first, and votes then. Ask the leader.
    Add {
        /// Its name, as in its certificate.
        #[arg(value_name = "NAME")]
        name: String,
        /// Where it listens, as the others reach it.
        #[arg(value_name = "HOST:PORT")]
        address: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Remove a metadata node, also one that is lost: a majority of all, it included, must be there. Ask the leader.
    Remove {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        asked: Asked,
    },
}

/// Runs `stele cluster`.
pub(super) async fn cluster(command: Cluster) -> Result<u8, ClientError> {
    let Cluster::Init { existing, asked } = command;
    let answer = ask(&asked, "/v1/cluster/begin", &BeginQuestion { existing }, "beginning a cluster").await?;
    show(&answer, asked.json, |answer| {
        println!("{} is the metadata node of the cluster; stele member add adds others", answer.me)
    });
    Ok(0)
}

/// Runs `stele member`.
pub(super) async fn member(command: Member) -> Result<u8, ClientError> {
    match command {
        Member::List(asked) => {
            let answer: MembersAnswer = client(&asked.server)?.ask(Method::GET, "/v1/members").await?;
            show(&answer, asked.json, print);
            Ok(if is_well(&answer) { 0 } else { NOT_WELL })
        }
        Member::Add { name, address, asked } => {
            let waits = format!("waiting for {name} to answer at {address}, for up to 30 s, and to catch up");
            let question = MemberQuestion { name, address };
            let adding = ask(&asked, "/v1/members/add", &question, "adding a metadata node");
            let answer = with_a_word(&waits, asked.json, adding).await?;
            show(&answer, asked.json, |_| println!("{} is a metadata node now, and votes", question.name));
            Ok(0)
        }
        Member::Remove { name, asked } => {
            let question = MemberQuestion { name, address: String::new() };
            let answer = ask(&asked, "/v1/members/remove", &question, "removing a metadata node").await?;
            show(&answer, asked.json, |_| println!("{} is no metadata node any more; stop it", question.name));
            Ok(0)
        }
    }
}

async fn ask(
    asked: &Asked,
    path: &str,
    question: &impl Serialize,
    what: &'static str,
) -> Result<MembersAnswer, ClientError> {
    let client = client(&asked.server)?;
    let _bar = Progress::new(what, Unit::Nothing, asked.json);
    client.send(path, question).await
}

fn print(answer: &MembersAnswer) {
    println!("{}: {}", answer.me, answer.condition);
    if !answer.unasked.is_empty() {
        println!("{}; who is silent, only it knows", answer.unasked);
    }
    answer.members.iter().for_each(|member| print_one(member, answer));
    answer.gateways.iter().for_each(print_gateway);
}

fn print_one(member: &MemberInfo, answer: &MembersAnswer) {
    let lag = match member.lag {
        Some(lag) if lag > 0 => format!("  {lag} entries behind"),
        _ => String::new(),
    };
    let MemberInfo { name, address, number, .. } = member;
    println!("{name:<16} {address:<24} {:<8} {number}{lag}  {}", role(member), words(member, &answer.leader));
}

fn role(member: &MemberInfo) -> &'static str {
    match (member.leader, member.voter) {
        (true, _) => "leader",
        (_, true) => "voter",
        _ => "learner",
    }
}

/// How a node is, in words.
fn words(member: &MemberInfo, leader: &Option<String>) -> String {
    let silent = member.silent_ms.filter(|_| member.is_silent()).map(|ms| format!("silent for {}", length(ms)));
    match (silent, member.condition.as_str()) {
        (Some(silent), "") => silent,
        (Some(silent), why) => format!("{silent}: {why}"),
        (None, "") if leader.is_none() => "not known".to_owned(),
        (None, "") => "answers".to_owned(),
        (None, condition) => condition.to_owned(),
    }
}

fn print_gateway(gateway: &GatewayInfo) {
    let GatewayInfo { name, role, software, heard_ms, .. } = gateway;
    let what = if role == "gateway" { "gateway" } else { "serves S3" };
    let software = if software.is_empty() { "an older release" } else { software };
    match gateway.is_alive() {
        true => println!("{name:<16} {what}, {software}"),
        false => println!("{name:<16} {what}, {software}, not heard of for {}", length(*heard_ms)),
    }
}

/// The part of `stele status` about the metadata nodes and the gateways.
pub(super) fn print_in_status(answer: &MembersAnswer) {
    for member in &answer.members {
        println!(
            "metadata {:<16} {:<7}  {}  {}",
            member.name,
            role(member),
            member.address,
            words(member, &answer.leader)
        );
    }
    if !answer.gateways.is_empty() {
        let named = |gateway: &GatewayInfo| match gateway.is_alive() {
            true => gateway.name.clone(),
            false => format!("{} (not heard of for {})", gateway.name, length(gateway.heard_ms)),
        };
        println!("S3 by {}", answer.gateways.iter().map(named).collect::<Vec<_>>().join(", "));
    }
}
