//! `stele node`. Exit codes: 0 all is well, 1 the command failed, 2 it found what is not well.

use super::keep::{Asked, show};
use super::{NOT_WELL, client, wait};
use crate::admin_client::{AdminClient, ClientError};
use crate::admin_nodes::{NodeChanged, NodeInfo, NodeQuestion, NodesAnswer};
use crate::progress::{Progress, Unit, with_a_word};
use clap::Subcommand;
use hyper::Method;

#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// Every storage node, and how it is. Exits with 2 when one is not as it should be.
    List(Asked),
    /// Take a storage node that runs into the cluster, with the drives that it has formatted; or say where a node is now.
    Add {
        /// Its name, as in its certificate.
        #[arg(value_name = "NAME")]
        name: String,
        /// Where it listens, as the others reach it.
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// Take none of its drives: stele drive add NAME:PATH does, one by one.
        #[arg(long)]
        no_drives: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// Empty all drives of a storage node: their data moves to the others, and new data goes elsewhere.
    Drain {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: String,
        /// Wait until nothing is left there.
        #[arg(long, conflicts_with = "cancel")]
        wait: bool,
        /// Take new data there again.
        #[arg(long)]
        cancel: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// Take a drained storage node out of the cluster for good, with its drives.
    Remove {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: String,
        /// It does not answer and will not come back: what lay there is rebuilt at once.
        #[arg(long)]
        lost: bool,
        #[command(flatten)]
        asked: Asked,
    },
}

/// Runs `stele node`.
pub(super) async fn node(command: Node) -> Result<u8, ClientError> {
    match command {
        Node::List(asked) => list(asked).await,
        Node::Add { name, address, no_drives, asked } => {
            let waits = format!("waiting for {name} to answer at {address}, for up to 20 s, and for its drives");
            let question = NodeQuestion { name, address: Some(address), no_drives, ..NodeQuestion::default() };
            let adding = ask(&asked, "/v1/nodes/add", &question, "adding a storage node");
            let changed = with_a_word(&waits, asked.json, adding).await?;
            show(&changed, asked.json, |changed| {
                println!("storage node {} belongs to the cluster", changed.name);
                changed.drives.iter().for_each(|drive| println!("drive {drive} takes new data"));
                changed.left.iter().for_each(|line| println!("left alone: drive {line}"));
            });
            Ok(if changed.left.is_empty() { 0 } else { NOT_WELL })
        }
        Node::Drain { name, wait, cancel, asked } => {
            let question = NodeQuestion { name, cancel, ..NodeQuestion::default() };
            let changed = ask(&asked, "/v1/nodes/drain", &question, "draining").await?;
            if wait {
                emptied(&asked, &changed.name).await?;
            }
            show(&changed, asked.json, |changed| match (cancel, wait) {
                (true, _) => println!("storage node {} takes new data again", changed.name),
                (_, true) => println!("storage node {0} is drained; stele node remove {0} takes it out", changed.name),
                _ => println!("storage node {} is being drained; stele node list shows how far it is", changed.name),
            });
            Ok(0)
        }
        Node::Remove { name, lost, asked } => {
            let question = NodeQuestion { name, lost, ..NodeQuestion::default() };
            let changed = ask(&asked, "/v1/nodes/remove", &question, "removing").await?;
            show(&changed, asked.json, |changed| {
                println!("storage node {} was removed, with {} drives", changed.name, changed.drives.len())
            });
            Ok(0)
        }
    }
}

async fn ask(
    asked: &Asked,
    path: &str,
    question: &NodeQuestion,
    what: &'static str,
) -> Result<NodeChanged, ClientError> {
    let _bar = Progress::new(what, Unit::Nothing, asked.json);
    client(&asked.server)?.send(path, question).await
}

async fn nodes(client: &AdminClient) -> Result<Vec<NodeInfo>, ClientError> {
    Ok(client.ask::<NodesAnswer>(Method::GET, "/v1/nodes").await?.nodes)
}

/// Waits until nothing is left on a node, or it is not emptied any more.
async fn emptied(asked: &Asked, name: &str) -> Result<(), ClientError> {
    let client = client(&asked.server)?;
    let _bar = Progress::new("moving", Unit::Nothing, asked.json);
    loop {
        let found = wait::answer(|| nodes(&client)).await?.into_iter().find(|node| node.name == name);
        if found.is_none_or(|node| !matches!(node.state.as_str(), "draining" | "silent")) {
            return Ok(());
        }
        tokio::time::sleep(wait::EVERY).await;
    }
}

async fn list(asked: Asked) -> Result<u8, ClientError> {
    let answer = NodesAnswer { nodes: nodes(&client(&asked.server)?).await? };
    show(&answer, asked.json, |answer| answer.nodes.iter().for_each(print));
    let bad = |node: &NodeInfo| node.state == "silent" || !node.problem.is_empty() || node.readable < node.drives;
    Ok(if answer.nodes.iter().any(bad) { NOT_WELL } else { 0 })
}

fn print(node: &NodeInfo) {
    println!("{:<16}  {:<8}  {}", node.name, node.state, node.address);
    if node.state == "removed" {
        return;
    }
    if !node.problem.is_empty() {
        println!("  {}", node.problem);
    }
    println!(
        "  {} of {} drives can be read; {} of {} MiB free",
        node.readable,
        node.drives,
        node.free >> 20,
        node.total >> 20
    );
    if node.spare > 0 {
        println!("  {} formatted drives are none of the cluster's: stele drive add {}:PATH", node.spare, node.name);
    }
}
