//! `stele cluster` and `stele member`. Exit codes: 0 all is well, 1 the command failed, 2 it found what is not well.

use super::NOT_WELL;
use super::client;
use super::keep::{Asked, show};
use crate::admin_client::ClientError;
use crate::admin_members::{BeginQuestion, MemberInfo, MemberQuestion, MembersAnswer};
use crate::progress::{Progress, Unit};
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
    /// The metadata nodes, as the one that is asked knows them. Exits with 2 when none leads, or one is not a voter yet.
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
            let well = answer.leader.is_some() && answer.members.iter().all(|member| member.voter);
            Ok(if well { 0 } else { NOT_WELL })
        }
        Member::Add { name, address, asked } => {
            let question = MemberQuestion { name, address };
            let answer = ask(&asked, "/v1/members/add", &question, "adding a metadata node").await?;
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
    answer.members.iter().for_each(print_one);
}

fn print_one(member: &MemberInfo) {
    let role = match (member.leader, member.voter) {
        (true, _) => "leader",
        (_, true) => "voter",
        _ => "learner",
    };
    let lag = member.lag.map_or_else(String::new, |lag| format!("  {lag} entries behind"));
    println!("{:<16} {:<24} {role:<8} {}{lag}", member.name, member.address, member.number);
}
