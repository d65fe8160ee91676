//! The format level, raised while the service runs.
//!
//! Who knows which level is for whoever asks to find out ([`Metadata::node_releases`] says it of the storage nodes). Nothing rests
//! on the answer being right a moment later: a process that does not know the level is refused by every connection, one that
//! finds an entry of it stops, and what was written at the level before is read for ever.

use super::{CommitError, Metadata};
use crate::client::MetadataClient;
use crate::command::Command;
use crate::index::{self, IndexError};
use codec::effect::LevelRow;
use codec::level::FormatLevel;
use std::time::Duration;
use storage_node::host::NodeSight;
use storage_node::service::Release;
use storage_node::service::identity::NodeName;
use tokio::time::Instant;

/// A storage node that belongs to the cluster, and the program that it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRelease {
    /// Its name.
    pub name: NodeName,
    /// What it runs; `None` where it does not answer, or is not worked with.
    pub release: Option<Release>,
    /// Why not, for people; empty otherwise.
    pub problem: String,
}

impl Metadata {
    /// The format level by which this service writes.
    pub fn format_level(&self) -> FormatLevel {
        self.shared.level()
    }

    /// The journaled format level, and who raised it.
    ///
    /// # Errors
    /// The index failed.
    pub fn level_row(&self) -> Result<LevelRow, IndexError> {
        index::level(&self.view())
    }

    /// How long this service has served; for a leader, how long others have known to ask it.
    pub fn serving_for(&self) -> Duration {
        Duration::from_millis(self.shared.clock.monotonic_ms().saturating_sub(self.shared.began_ms))
    }

    /// What the storage nodes that belong to the cluster run, asked now. None where the drives are directories of this machine.
    ///
    /// # Errors
    /// The index failed.
    pub async fn node_releases(&self) -> Result<Vec<NodeRelease>, IndexError> {
        let list = self.node_list()?;
        let asked = Instant::now();
        if !list.is_empty() {
            let _asked_now = self.node.drives().await;
        }
        let sights = self.node.nodes();
        let release = |name: NodeName| {
            let sight = sights.iter().find(|sight| sight.at.name == name);
            // What it said before counts for nothing: it may have been started anew as another program, and its connection not have
            // noticed yet.
            let answers = |sight: &&NodeSight| !sight.silent && sight.answered.is_some_and(|at| at >= asked);
            let release = sight.filter(answers).and_then(|sight| sight.release.clone());
            let problem = sight.map_or_else(|| "it is not asked".to_owned(), |sight| sight.problem.clone());
            NodeRelease { name, release, problem }
        };
        Ok(list.into_iter().map(|at| release(at.name)).collect())
    }

    /// Lets writers write what a level says; a no-op where they do. It is one journaled command: whatever happens meanwhile leaves
    /// the level before or this one.
    ///
    /// # Errors
    /// It was not committed, or is not known to be: asked again, it goes on.
    pub async fn raise_level(&self, level: FormatLevel) -> Result<(), CommitError> {
        self.writing()?;
        self.commit(self.epoch(), Command::RaiseLevel(level)).await?;
        tracing::info!(%level, "the format level is raised");
        Ok(())
    }
}
