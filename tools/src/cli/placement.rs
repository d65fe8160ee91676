//! `stele placement`.

use super::client;
use super::keep::{Asked, show};
use crate::admin_client::ClientError;
use crate::admin_placement::{PlacementAnswer, PlacementQuestion};
use clap::Subcommand;
use hyper::Method;
use metadata::topology::Level;

#[derive(Debug, Subcommand)]
pub(super) enum Placement {
    /// What new stripes have to survive the loss of, beside drives; with LEVEL another rule is put in force. What is stored stays
    /// where it is. Where metadata is one process, its configuration sets the rule.
    Survive {
        /// node, rack or site, or drive for no rule.
        #[arg(value_name = "LEVEL")]
        level: Option<Level>,
        #[command(flatten)]
        asked: Asked,
    },
}

/// Runs `stele placement`.
pub(super) async fn placement(command: Placement) -> Result<u8, ClientError> {
    let Placement::Survive { level, asked } = command;
    let client = client(&asked.server)?;
    let answer: PlacementAnswer = match level {
        Some(level) => client.send("/v1/placement/survive", &PlacementQuestion { survive: level.to_string() }).await?,
        None => client.ask(Method::GET, "/v1/placement").await?,
    };
    show(&answer, asked.json, |answer| match answer.survive.as_str() {
        "drive" => println!("no rule: stripes are spread as evenly as the drives allow"),
        level => println!("new stripes survive the loss of a {level}"),
    });
    Ok(0)
}
