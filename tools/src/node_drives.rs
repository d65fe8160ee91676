//! Changing drives that storage nodes serve: `stele drive add NODE:PATH` and `stele drive replace OLD NODE:PATH`.
//!
//! What is formatted is for the node to decide, by its own configuration (R18); here it is only asked. Nothing is noted in this
//! process's data directory: the same command again goes on after an interruption, since a drive that is there already is taken
//! in as it is, and one that is registered already is left alone.

use crate::drive_set::{DriveSetError, is_lost};
use codec::id::DriveId;
use metadata::service::{DriveChangeError, DriveDetail, Metadata};
use std::path::Path;
use storage_node::service::identity::NodeName;

/// A directory of a storage node, as `NODE:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceOnNode {
    /// The node.
    pub node: NodeName,
    /// The directory, as the node's configuration names it.
    pub path: String,
}

impl PlaceOnNode {
    /// Reads `NODE:PATH`; the path must be absolute.
    pub fn parse(text: &str) -> Option<PlaceOnNode> {
        let (node, path) = text.split_once(':')?;
        let node = NodeName::new(node).ok()?;
        path.starts_with('/').then(|| PlaceOnNode { node, path: path.to_owned() })
    }

    fn of(path: &Path) -> Result<PlaceOnNode, DriveSetError> {
        let text = path.to_string_lossy();
        PlaceOnNode::parse(&text).ok_or_else(|| DriveSetError::NotOnNode(path.to_owned()))
    }
}

/// Takes a directory of a storage node into the cluster.
pub(crate) async fn add(metadata: &Metadata, path: &Path) -> Result<DriveId, DriveSetError> {
    let place = PlaceOnNode::of(path)?;
    Ok(metadata.add_drive_on(&place.node, &place.path, None).await?)
}

/// Puts a drive of a storage node in the place of another: that one is given up when it does not answer, and emptied otherwise.
pub(crate) async fn replace(metadata: &Metadata, old: &DriveDetail, path: &Path) -> Result<DriveId, DriveSetError> {
    let place = PlaceOnNode::of(path)?;
    if old.state == "removed" {
        return Err(DriveChangeError::Removed(old.id).into());
    }
    let its_place = old.path == format!("{}:{}", place.node, place.path);
    let lost = is_lost(old);
    if its_place && !lost {
        return Err(DriveSetError::StillThere(path.to_owned(), old.id));
    }
    if lost {
        // Before anything is written: what can't be given up is not replaced.
        metadata.check_lost(old.id).await?;
    }
    let drive = metadata.add_drive_on(&place.node, &place.path, its_place.then_some(old.id)).await?;
    let given_up = match lost {
        true => metadata.remove_drive(old.id, true).await,
        false => Err(DriveChangeError::NotLost(old.id)),
    };
    match given_up {
        Ok(()) => {}
        // It answers: what it has is moved, and nothing is given up.
        Err(DriveChangeError::NotLost(_)) => metadata.drain_drive(old.id).await?,
        Err(error) => return Err(error.into()),
    }
    Ok(drive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_on_a_node_is_told_from_a_directory_of_this_machine() {
        let place = PlaceOnNode::parse("n1:/mnt/a:b").unwrap();
        assert_eq!((place.node.as_str(), &*place.path), ("n1", "/mnt/a:b"));
        for text in ["/mnt/a", "n1", "n1:mnt", "N1:/mnt", ":/mnt", "./n1:/mnt", ""] {
            assert_eq!(PlaceOnNode::parse(text), None, "{text}");
        }
    }
}
