//! The rule of placement, changed while the service runs.

use super::Metadata;
use crate::client::{CommitError, MetadataClient};
use crate::command::{Command, SURVIVE_SETTING};
use crate::index::{self, IndexError};
use crate::topology::{Level, RuleUnmet, as_seen, check_new_rule};
use bytes::Bytes;
use codec::effect::{DriveRow, SettingRow};
use codec::id::DriveId;

/// Why the rule stays what it was.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The registered drives that are not being emptied could not keep it if all of them were up.
    #[error(transparent)]
    Unmet(#[from] RuleUnmet),
    /// The change was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl Metadata {
    /// What new stripes have to survive the loss of.
    ///
    /// # Errors
    /// The index failed.
    pub fn survive(&self) -> Result<Level, IndexError> {
        index::survive(&self.view())
    }

    /// Puts another rule in force. What is stored already stays where it is.
    ///
    /// # Errors
    /// The registered drives that are not being emptied could not keep it, or it was not committed.
    pub async fn set_survive(&self, level: Level) -> Result<(), RuleError> {
        self.writing()?;
        if self.survive()? == level {
            return Ok(());
        }
        let drives = self.shared.node.drives().await;
        let seen = |row: DriveRow| {
            let status = drives.iter().find(|status| DriveId::from_slice(&row.id) == Some(status.id));
            status.map_or_else(|| row.clone(), |status| as_seen(&row, status))
        };
        let rows: Vec<DriveRow> = index::drives(&self.view())?.into_iter().map(seen).collect();
        check_new_rule(&rows, level, self.geometry)?;
        let value = Bytes::from_static(level.name().as_bytes());
        let row = SettingRow { name: SURVIVE_SETTING.to_owned(), value };
        self.commit(self.epoch(), Command::PutSetting(row)).await?;
        tracing::info!(%level, "another rule of placement is in force");
        Ok(())
    }
}
