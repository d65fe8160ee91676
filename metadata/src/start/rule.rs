//! The rule of placement that a start is asked for, and the cells of drives that are in none.
//!
//! What is journaled is in force. A first start that can't keep what it is asked for ends, since nothing is stored yet and
//! somebody is there to mend the configuration. A later one goes on under the rule that it finds: a leader must be able to take
//! over whatever its file says.

use super::{Config, StartError};
use crate::command::{Command, SURVIVE_SETTING};
use crate::index::{self, IndexError, View};
use crate::placement::cells;
use crate::topology::{RuleUnmet, as_seen, check_rule};
use bytes::Bytes;
use codec::effect::{DriveRow, SettingRow};
use codec::erasure::Geometry;
use codec::id::DriveId;
use storage_node::client::DriveStatus;
use storage_node::host::NodeHost;

/// Refuses a rule that the drives of a first start can't keep: stripes would be narrow for ever, or refused.
pub(super) async fn check_first(config: &Config, node: &dyn NodeHost, geometry: Geometry) -> Result<(), StartError> {
    let Some(level) = config.survive else { return Ok(()) };
    let rows: Vec<DriveRow> = node.drives().await.iter().map(new_row).collect();
    Ok(check_rule(&rows, level, geometry)?)
}

/// The command that puts another rule in force; `None` where that is not asked for.
///
/// # Errors
/// The index, or (inside) a rule that the registered drives could not keep if all of them were up.
pub(super) fn change(
    config: &Config,
    view: &dyn View,
    drives: &[DriveStatus],
    geometry: Geometry,
) -> Result<Result<Option<Command>, RuleUnmet>, IndexError> {
    let Some(level) = config.survive else { return Ok(Ok(None)) };
    if index::survive(view)? == level {
        return Ok(Ok(None));
    }
    let known = index::drives(view)?;
    let seen = |row: &DriveRow| {
        let status = drives.iter().find(|status| DriveId::from_slice(&row.id) == Some(status.id));
        status.map_or_else(|| row.clone(), |status| as_seen(row, status))
    };
    let mut rows: Vec<DriveRow> = known.iter().map(seen).collect();
    let is_new = |status: &&DriveStatus| !known.iter().any(|row| DriveId::from_slice(&row.id) == Some(status.id));
    // A first start has no rows yet.
    rows.extend(drives.iter().filter(is_new).filter(|_| known.is_empty()).map(new_row));
    let value = Bytes::from_static(level.name().as_bytes());
    let row = SettingRow { name: SURVIVE_SETTING.to_owned(), value };
    Ok(check_rule(&rows, level, geometry).map(|()| Some(Command::PutSetting(row))))
}

/// Shares out drives that were registered before there were cells, and are too many for one. `None` where there are none. A command
/// without rows: what is read here is from before what the start itself registers and removes.
pub(super) fn share_out(view: &dyn View) -> Result<Option<Command>, IndexError> {
    let is_settled = cells::settle(&index::drives(view)?).is_empty();
    Ok((!is_settled).then_some(Command::SettleCells))
}

fn new_row(status: &DriveStatus) -> DriveRow {
    as_seen(&DriveRow { id: Bytes::copy_from_slice(status.id.as_bytes()), ..DriveRow::default() }, status)
}
