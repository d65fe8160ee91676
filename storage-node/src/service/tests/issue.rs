//! The CA, and what it issues.
use super::*;
use crate::service::issue::{CA_FILE, CA_KEY_FILE, IssueError, KEY_FILE};
use crate::service::tls::TlsError;
use std::os::unix::fs::PermissionsExt;

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_ca_is_kept_and_issues_after_it_was_read_again() {
    let (ca_dir, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    ClusterCa::create(CLUSTER).unwrap().save(ca_dir.path()).unwrap();
    let ca = ClusterCa::load(ca_dir.path()).unwrap();
    assert_eq!(ca.cluster(), CLUSTER);
    assert!(matches!(ca.save(ca_dir.path()), Err(IssueError::Io { .. })), "never replaced");
    let who = identity(CLUSTER, Role::Gateway, "g1");
    ca.issue(&who, YEAR).unwrap().save(dir.path()).unwrap();
    assert_eq!(Credentials::load(dir.path()).unwrap().identity(), &who);
    assert_eq!((mode(&ca_dir.path().join(CA_KEY_FILE)), mode(&dir.path().join(KEY_FILE))), (0o600, 0o600));
}

/// A second `ca init` left a new key beside the old certificate, and what was issued with it nobody accepted.
#[test]
fn a_ca_whose_key_is_kept_elsewhere_is_left_alone_and_a_key_of_another_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join(CA_FILE), dir.path().join(CA_KEY_FILE));
    ClusterCa::create(CLUSTER).unwrap().save(dir.path()).unwrap();
    let (kept, before) = (std::fs::read(&key).unwrap(), std::fs::read(&certificate).unwrap());
    std::fs::remove_file(&key).unwrap();
    let another = ClusterCa::create(CLUSTER).unwrap();
    assert!(matches!(another.save(dir.path()), Err(IssueError::Io { .. })));
    assert!(!key.exists() && std::fs::read(&certificate).unwrap() == before);
    std::fs::remove_file(&certificate).unwrap();
    std::fs::write(&key, &kept).unwrap();
    assert!(matches!(another.save(dir.path()), Err(IssueError::Io { .. })));
    assert!(!certificate.exists() && std::fs::read(&key).unwrap() == kept);
    std::fs::remove_file(&key).unwrap();
    another.save(dir.path()).unwrap();
    assert!(ClusterCa::load(dir.path()).is_ok());
    std::fs::write(&certificate, &before).unwrap();
    assert!(matches!(ClusterCa::load(dir.path()), Err(IssueError::Malformed { .. })));
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::create(CLUSTER).unwrap();
    ca.issue(&identity(CLUSTER, Role::Gateway, "g1"), YEAR).unwrap().save(dir.path()).unwrap();
    let key = dir.path().join(KEY_FILE);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = Credentials::load(dir.path());
    assert!(matches!(refused, Err(TlsError::File(IssueError::Exposed { mode: 0o640, .. }))), "{refused:?}");
}

#[test]
fn certificates_are_for_one_cluster_one_key_and_a_time() {
    let other = ClusterId([8; 16]);
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let foreign = ca.issue(&identity(other, Role::Gateway, "g1"), YEAR);
    assert!(matches!(foreign, Err(IssueError::WrongCluster { .. })));
    let who = identity(CLUSTER, Role::Metadata, "m1");
    let (one, two) = (ca.issue(&who, YEAR).unwrap(), ca.issue(&who, YEAR).unwrap());
    assert!(Credentials::from_pem(&one.ca, &one.certificate, &one.key).is_ok());
    let mixed = Credentials::unchecked(&one.ca, &one.certificate, &two.key).unwrap();
    assert!(mixed.server().is_err() && mixed.client(&who).is_err(), "the key is another's");
    let over = ca.issue(&who, Duration::ZERO).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let refused = Credentials::from_pem(&over.ca, &over.certificate, &over.key);
    assert!(matches!(refused, Err(TlsError::Tls(_))), "{refused:?}");
    let another = ClusterCa::create(other).unwrap().issue(&identity(other, Role::Metadata, "m1"), YEAR).unwrap();
    let refused = Credentials::from_pem(&one.ca, &another.certificate, &another.key);
    assert!(matches!(refused, Err(TlsError::WrongCluster { .. })), "{refused:?}");
    for (ca, certificate, key) in
        [("", &*one.certificate, &*one.key), (&*one.ca, "", &*one.key), (&*one.ca, &*one.certificate, "")]
    {
        assert!(Credentials::from_pem(ca, certificate, key).is_err());
    }
}
