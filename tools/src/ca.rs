//! `stele ca`: the cluster's certificate authority, and a certificate for each process.
//!
//! What is written is never replaced: a CA that was overwritten would take the whole cluster with it.

use codec::id::ClusterId;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use storage_node::service::identity::{Identity, IdentityError, NodeName, Role};
use storage_node::service::issue::{ClusterCa, IssueError};

/// Why there is no CA, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file, or the CA in it.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The name.
    #[error(transparent)]
    Name(#[from] IdentityError),
    /// A directory could not be made.
    #[error("{path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Makes a CA in a directory that has none, for a new cluster or for the one that is named.
pub fn init(dir: &Path, cluster: Option<ClusterId>) -> Result<ClusterId, CaError> {
    let cluster = match cluster {
        Some(cluster) => cluster,
        None => {
            let mut id = [0; 16];
            getrandom::fill(&mut id).map_err(CaError::Random)?;
            ClusterId(id)
        }
    };
    let ca = ClusterCa::create(cluster)?;
    make_dir(dir)?;
    ca.save(dir)?;
    Ok(cluster)
}

/// Issues a certificate with the CA in `dir`, into the directory `out`, which has none. Valid for `days`.
pub fn issue(dir: &Path, role: Role, name: &str, days: u32, out: &Path) -> Result<Identity, CaError> {
    let ca = ClusterCa::load(dir)?;
    let identity = Identity { cluster: ca.cluster(), role, name: NodeName::new(name)? };
    let issued = ca.issue(&identity, Duration::from_secs(u64::from(days) * 24 * 3600))?;
    make_dir(out)?;
    issued.save(out)?;
    Ok(identity)
}

/// A directory with keys in it is its owner's.
fn make_dir(path: &Path) -> Result<(), CaError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| CaError::Directory { path: path.to_owned(), source })
}

/// The role of a name, for the command line.
pub fn role(text: &str) -> Result<Role, String> {
    let known = Role::ALL.map(Role::name).join(", ");
    Role::parse(text).ok_or_else(|| format!("there is no such role; the roles are {known}"))
}

/// A cluster's id, 32 hex digits, for the command line.
pub fn cluster(text: &str) -> Result<ClusterId, String> {
    let id = hex::decode(text).ok().and_then(|bytes| ClusterId::from_slice(&bytes));
    id.ok_or_else(|| "a cluster's id has 32 hex digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use storage_node::service::tls::Credentials;

    #[test]
    fn what_is_issued_can_be_used_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, out) = (dir.path().join("ca"), dir.path().join("tls/n1"));
        let cluster = init(&ca, None).unwrap();
        assert!(matches!(init(&ca, None), Err(CaError::Issue(IssueError::Io { .. }))));
        let identity = issue(&ca, Role::StorageNode, "n1", 90, &out).unwrap();
        assert_eq!((identity.cluster, identity.to_string()), (cluster, format!("stele://{cluster}/storage-node/n1")));
        let before = std::fs::read(out.join("node.pem")).unwrap();
        assert!(matches!(issue(&ca, Role::Gateway, "g1", 90, &out), Err(CaError::Issue(IssueError::Io { .. }))));
        assert_eq!(std::fs::read(out.join("node.pem")).unwrap(), before);
        assert_eq!(Credentials::load(&out).unwrap().identity(), &identity);
        for key in [ca.join("ca-key.pem"), out.join("node-key.pem")] {
            assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let second = dir.path().join("tls/n2");
        issue(&ca, Role::StorageNode, "n2", 90, &second).unwrap();
        assert!(matches!(issue(&ca, Role::Gateway, "Not A Name", 90, &dir.path().join("x")), Err(CaError::Name(_))));
        assert!(issue(&dir.path().join("none"), Role::Gateway, "g1", 90, &dir.path().join("x")).is_err());
        assert!(role("gateway").is_ok() && role("root").is_err());
        assert_eq!(super::cluster(&cluster.to_string()), Ok(cluster));
    }
}
