//! The configuration files of the roles: TOML, read once at a start.
//!
//! A key that is not known is refused, with its line: one that is misspelt and passed over would be a setting that somebody
//! believes to be in force.

use crate::config_place::Places;
use crate::s3_port::{NewBuckets, S3Port};
use codec::erasure::Geometry;
use metadata::topology::Level;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use storage_node::client::Labels;
use storage_node::remote::NodeAddress;
use storage_node::service::identity::{Identity, NodeName, Role};
use storage_node::service::issue::{CA_FILE, CERTIFICATE_FILE, KEY_FILE};
use storage_node::service::tls::{Credentials, TlsError, Unusable, unusable};

/// Longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, has a key that is not known, or lacks one.
    #[error("{path}:{line}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A value that can't be.
    #[error("{path}{}: {key}: {reason}", line.map(|line| format!(":{line}")).unwrap_or_default())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where the key is there.
        line: Option<usize>,
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate.
    #[error("{path}: credentials: {}", of_files(.dir, .source))]
    Credentials {
        /// The file.
        path: PathBuf,
        /// The directory that it names.
        dir: PathBuf,
        /// Why.
        source: TlsError,
    },
    /// The certificate of another role.
    #[error(
        "{path}: credentials: {} is that of {identity}, and this is the configuration of a {role}",
        .dir.join(CERTIFICATE_FILE).display()
    )]
    OtherRole {
        /// The file.
        path: PathBuf,
        /// The directory that it names.
        dir: PathBuf,
        /// The certificate's.
        identity: Identity,
        /// The file's.
        role: Role,
    },
}

/// What is wrong with credentials, by file: who issued them has to know which to issue anew.
fn of_files(dir: &Path, source: &TlsError) -> String {
    let [ca, certificate, key] = [CA_FILE, CERTIFICATE_FILE, KEY_FILE].map(|file| dir.join(file).display().to_string());
    match source {
        TlsError::File(error) => error.to_string(),
        TlsError::Pem("CA certificate") => format!("{ca} holds no certificate"),
        TlsError::Pem("private key") => format!("{key} holds no private key"),
        TlsError::Pem(what) => format!("{certificate} holds no {what}"),
        TlsError::Identity(error) => format!("{certificate}, or {ca}: {error}"),
        TlsError::WrongCluster { certificate: theirs, ca: ours } => {
            format!("{certificate} is of cluster {theirs}, and {ca} of cluster {ours}")
        }
        TlsError::Tls(error) => match unusable(error) {
            Some(Unusable::Issuer) => format!("{certificate} was not issued by the CA of {ca}"),
            Some(Unusable::Expired) => format!("{certificate} has run out: issue another, into a new directory"),
            Some(Unusable::NotYet) => format!("{certificate} is not valid yet: is the clock of this machine right?"),
            Some(Unusable::Key) => format!("{key} is not the key of {certificate}"),
            None => format!("{certificate}: {error}"),
        },
    }
}

/// Another process of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name, as in its certificate.
    pub name: String,
    /// Where it listens, `host:port`.
    pub address: String,
}

impl Peer {
    /// The name, which was checked when the file was read.
    pub fn node(&self) -> Option<NodeName> {
        NodeName::new(&self.name).ok()
    }

    /// Its name and address.
    pub fn at(&self) -> Option<NodeAddress> {
        Some(NodeAddress { name: self.node()?, address: self.address.clone() })
    }
}

/// `stele storage-node --config FILE`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StorageNodeConfig {
    /// `storage-node`.
    pub role: String,
    /// Where other processes of the cluster reach it.
    pub listen: SocketAddr,
    /// Where health checks are answered, in plain HTTP.
    pub health: SocketAddr,
    /// The directory that `stele ca issue` wrote.
    pub credentials: PathBuf,
    /// The node's index, and which drives it has had.
    pub state: PathBuf,
    /// The drives' directories.
    pub drives: Vec<PathBuf>,
    /// The rack that it stands in. Nodes that name none count as standing in one.
    #[serde(default)]
    pub rack: String,
    /// The site of that rack.
    #[serde(default)]
    pub site: String,
    /// The other storage nodes, which it reads from and writes to when it rebuilds. Its own name may be among them.
    #[serde(default, rename = "node")]
    pub nodes: Vec<Peer>,
}

/// `stele metadata --config FILE`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MetadataConfig {
    /// `metadata`.
    pub role: String,
    /// The index, the keys, and what operators' commands need to find the process.
    pub data: PathBuf,
    /// Where health checks and operators' commands are answered.
    pub admin: SocketAddr,
    /// Where the other metadata nodes and the gateways reach it. Without it this process is all of metadata.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// The metadata nodes, this one included: its address is what the others are told.
    #[serde(default, rename = "metadata")]
    pub members: Vec<Peer>,
    /// The directory that `stele ca issue` wrote.
    pub credentials: PathBuf,
    /// First start: data and parity shards of a stripe.
    #[serde(default)]
    pub geometry: Option<String>,
    /// Where the shards of a stripe may lie.
    #[serde(default)]
    pub placement: PlacementConfig,
    /// The storage nodes.
    #[serde(rename = "node")]
    pub nodes: Vec<Peer>,
    /// Serve S3 from this process.
    #[serde(default)]
    pub s3: Option<S3Config>,
    /// For tests.
    #[serde(default)]
    pub test: TestConfig,
    /// Webhooks that buckets may have told what happens in them, as with `stele serve --webhooks`.
    #[serde(default)]
    pub webhooks: Option<PathBuf>,
}

/// What only tests want. The same in the file of every metadata process and every gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TestConfig {
    /// A day of lifecycle rules and of restores lasts so many seconds.
    #[serde(default)]
    pub lifecycle_day: Option<u64>,
}

/// The placement of stripes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlacementConfig {
    /// New stripes survive the loss of one `node`, `rack` or `site`, or are not written; `drive` ends such a rule.
    #[serde(default)]
    pub survive: Option<String>,
}

impl PlacementConfig {
    /// The rule that is asked for, which was checked when the file was read.
    pub fn survive(&self) -> Option<Level> {
        self.survive.as_deref().and_then(|name| name.parse().ok())
    }
}

/// The S3 port of a metadata process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct S3Config {
    /// Where S3 is served.
    pub listen: SocketAddr,
    /// Domains under which buckets are host names.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Accounts to create or change, as with `stele serve --accounts`.
    #[serde(default)]
    pub accounts: Option<PathBuf>,
    /// The certificate that clients are shown, and those between it and the root, in PEM. Without it S3 is plain HTTP.
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// Take clients' own keys (SSE-C) over plain HTTP from other machines, too.
    #[serde(default)]
    pub sse_c_without_tls: bool,
    /// What new buckets let others do: `open` (what their lists and policies say) or `enforced` (nothing by lists, nothing to
    /// everybody).
    #[serde(default)]
    pub new_buckets: NewBuckets,
}

/// `stele gateway --config FILE`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GatewayConfig {
    /// `gateway`.
    pub role: String,
    /// Where health checks are answered, in plain HTTP.
    pub health: SocketAddr,
    /// The directory that `stele ca issue` wrote.
    pub credentials: PathBuf,
    /// The metadata nodes, or some of them: they name the others.
    pub metadata: Vec<Peer>,
    /// The storage nodes to begin with. Metadata says which there are.
    #[serde(default, rename = "node")]
    pub nodes: Vec<Peer>,
    /// The S3 port.
    pub s3: GatewayS3Config,
    /// For tests.
    #[serde(default)]
    pub test: TestConfig,
}

/// The S3 port of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GatewayS3Config {
    /// Where S3 is served.
    pub listen: SocketAddr,
    /// Domains under which buckets are host names.
    #[serde(default)]
    pub domains: Vec<String>,
    /// The certificate that clients are shown, and those between it and the root, in PEM. Without it S3 is plain HTTP.
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// Take clients' own keys (SSE-C) over plain HTTP from other machines, too.
    #[serde(default)]
    pub sse_c_without_tls: bool,
    /// What new buckets let others do: `open` (what their lists and policies say) or `enforced` (nothing by lists, nothing to
    /// everybody).
    #[serde(default)]
    pub new_buckets: NewBuckets,
}

impl S3Config {
    /// What the port is, which was checked when the file was read.
    pub fn port(&self) -> S3Port {
        let port = S3Port::new(self.tls_cert.clone(), self.tls_key.clone(), self.sse_c_without_tls);
        S3Port { new_buckets: self.new_buckets, ..port.unwrap_or_default() }
    }
}

impl GatewayS3Config {
    /// What the port is, which was checked when the file was read.
    pub fn port(&self) -> S3Port {
        let port = S3Port::new(self.tls_cert.clone(), self.tls_key.clone(), self.sse_c_without_tls);
        S3Port { new_buckets: self.new_buckets, ..port.unwrap_or_default() }
    }
}

impl StorageNodeConfig {
    /// Where it stands, which was checked when the file was read.
    pub fn labels(&self) -> Labels {
        Labels::new(&self.rack, &self.site).unwrap_or_default()
    }
}

impl MetadataConfig {
    /// The geometry that is asked for, which was checked when the file was read.
    pub fn geometry(&self) -> Option<Geometry> {
        self.geometry.as_deref().and_then(|text| text.parse().ok())
    }
}

/// A configuration file of any role, with the certificate that it names.
#[derive(Debug)]
pub enum AnyConfig {
    /// Of a storage node.
    StorageNode(StorageNodeConfig, Credentials),
    /// Of a metadata process.
    Metadata(MetadataConfig, Credentials),
    /// Of a gateway.
    Gateway(GatewayConfig, Credentials),
}

#[derive(Deserialize)]
struct Kind {
    role: Option<String>,
}

/// Reads a configuration file, of whatever role it says that it is.
pub fn read(path: &Path) -> Result<AnyConfig, ConfigError> {
    let text = text(path)?;
    let kind: Kind = parse(path, &text)?;
    match kind.role.as_deref().and_then(Role::parse) {
        Some(Role::StorageNode) => storage_node(path).map(|(config, with)| AnyConfig::StorageNode(config, with)),
        Some(Role::Metadata) => metadata(path).map(|(config, with)| AnyConfig::Metadata(config, with)),
        Some(Role::Gateway) => gateway(path).map(|(config, with)| AnyConfig::Gateway(config, with)),
        _ => Err(not_the_role(path, &kind.role.unwrap_or_default(), "storage-node, metadata or gateway")),
    }
}

/// Reads the configuration of a storage node.
pub fn storage_node(path: &Path) -> Result<(StorageNodeConfig, Credentials), ConfigError> {
    let text = text(path)?;
    check_role(path, &text, Role::StorageNode)?;
    let mut config: StorageNodeConfig = parse(path, &text)?;
    config.credentials = beside(path, &config.credentials);
    config.state = beside(path, &config.state);
    config.drives.iter_mut().for_each(|drive| *drive = beside(path, drive));
    let distinct: BTreeSet<&PathBuf> = config.drives.iter().collect();
    if config.drives.is_empty() || distinct.len() < config.drives.len() {
        return Err(value(path, "drives", "at least one directory, and none twice"));
    }
    for (key, labels) in [("rack", Labels::new(&config.rack, "")), ("site", Labels::new("", &config.site))] {
        labels.map_err(|error| value(path, key, error))?;
    }
    check_nodes(path, &config.nodes)?;
    let credentials = credentials(path, &config.credentials, Role::StorageNode)?;
    Ok((config, credentials))
}

/// Reads the configuration of a metadata process.
pub fn metadata(path: &Path) -> Result<(MetadataConfig, Credentials), ConfigError> {
    let text = text(path)?;
    check_role(path, &text, Role::Metadata)?;
    let mut config: MetadataConfig = parse(path, &text)?;
    config.credentials = beside(path, &config.credentials);
    config.data = beside(path, &config.data);
    if let Some(webhooks) = config.webhooks.as_mut() {
        *webhooks = beside(path, webhooks);
    }
    if let Some(s3) = config.s3.as_mut() {
        if let Some(accounts) = s3.accounts.as_mut() {
            *accounts = beside(path, accounts);
        }
        check_tls(path, &mut s3.tls_cert, &mut s3.tls_key)?;
    }
    if let Some(Err(error)) = config.geometry.as_deref().map(str::parse::<Geometry>) {
        return Err(value(path, "geometry", error));
    }
    if let Some(Err(error)) = config.placement.survive.as_deref().map(str::parse::<Level>) {
        return Err(value(path, "placement.survive", error));
    }
    if config.nodes.is_empty() {
        return Err(value(path, "node", "at least one storage node: [[node]] with name and address"));
    }
    check_nodes(path, &config.nodes)?;
    check_peers(path, "metadata", &config.members)?;
    let credentials = credentials(path, &config.credentials, Role::Metadata)?;
    let own = credentials.identity().name.as_str();
    if config.listen.is_some() != config.members.iter().any(|member| member.name == own) {
        let reason = format!("with `listen` there is a [[metadata]] of this node, {own}, and without it there is none");
        return Err(value(path, "listen", reason));
    }
    Ok((config, credentials))
}

/// Reads the configuration of a gateway.
pub fn gateway(path: &Path) -> Result<(GatewayConfig, Credentials), ConfigError> {
    let text = text(path)?;
    check_role(path, &text, Role::Gateway)?;
    let mut config: GatewayConfig = parse(path, &text)?;
    config.credentials = beside(path, &config.credentials);
    check_tls(path, &mut config.s3.tls_cert, &mut config.s3.tls_key)?;
    if config.metadata.is_empty() {
        return Err(value(path, "metadata", "at least one metadata node: [[metadata]] with name and address"));
    }
    check_peers(path, "metadata", &config.metadata)?;
    check_nodes(path, &config.nodes)?;
    let credentials = credentials(path, &config.credentials, Role::Gateway)?;
    Ok((config, credentials))
}

pub(crate) fn text(path: &Path) -> Result<String, ConfigError> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    read.map(|_| text).map_err(|source| ConfigError::Io { path: path.to_owned(), source })
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let line = 1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        ConfigError::Syntax { path: path.to_owned(), line, reason: error.message().replace('\n', " ") }
    })
}

/// First: the keys of another role's file are all unknown ones.
fn check_role(path: &Path, text: &str, role: Role) -> Result<(), ConfigError> {
    let said = parse::<Kind>(path, text)?.role.unwrap_or_default();
    if said == role.name() { Ok(()) } else { Err(not_the_role(path, &said, role.name())) }
}

fn value(path: &Path, key: &'static str, reason: impl ToString) -> ConfigError {
    ConfigError::Value { path: path.to_owned(), line: Places::of(path).line(key), key, reason: reason.to_string() }
}

fn not_the_role(path: &Path, said: &str, wanted: &str) -> ConfigError {
    value(path, "role", format!("`{said}`, where {wanted} is expected"))
}

/// Paths are relative to the file that names them, wherever the process is started.
pub(crate) fn beside(file: &Path, path: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    file.parent().unwrap_or(Path::new("/")).join(path)
}

fn check_tls(path: &Path, certificate: &mut Option<PathBuf>, key: &mut Option<PathBuf>) -> Result<(), ConfigError> {
    for file in [&mut *certificate, &mut *key].into_iter().flatten() {
        *file = beside(path, file);
    }
    match (certificate, key) {
        // Served in the clear, its clients' secrets would be read on the way by whoever wants to.
        (Some(_), None) => Err(value(path, "tls-cert", "a certificate is shown with its key: tls-key is missing")),
        (None, Some(_)) => Err(value(path, "tls-key", "a key belongs to a certificate: tls-cert is missing")),
        _ => Ok(()),
    }
}

fn check_nodes(path: &Path, nodes: &[Peer]) -> Result<(), ConfigError> {
    check_peers(path, "node", nodes)
}

fn check_peers(path: &Path, key: &'static str, nodes: &[Peer]) -> Result<(), ConfigError> {
    let mut names = BTreeSet::new();
    for node in nodes {
        NodeName::new(&node.name).map_err(|error| value(path, key, error))?;
        let port = node.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            return Err(value(path, key, format!("the address of {} is not of the form host:port", node.name)));
        }
        if !names.insert(&node.name) {
            return Err(value(path, key, format!("{} is named twice", node.name)));
        }
    }
    Ok(())
}

fn credentials(path: &Path, dir: &Path, role: Role) -> Result<Credentials, ConfigError> {
    let loaded = Credentials::load(dir);
    let (path, dir) = (path.to_owned(), dir.to_owned());
    let credentials = match loaded {
        Ok(credentials) => credentials,
        Err(source) => return Err(ConfigError::Credentials { path, dir, source }),
    };
    let identity = credentials.identity();
    if identity.role != role {
        return Err(ConfigError::OtherRole { path, dir, identity: identity.clone(), role });
    }
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = r#"role = "storage-node"
listen = "127.0.0.1:9100"
health = "127.0.0.1:9101"
credentials = "tls"
state = "state"
drives = ["/mnt/a", "/mnt/b"]

[[node]]
name = "n2"
address = "localhost:9100"
"#;

    fn set_up() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        crate::ca::init(&ca, None).unwrap();
        crate::ca::issue(&ca, Role::StorageNode, "n1", 90, &dir.path().join("tls")).unwrap();
        crate::ca::issue(&ca, Role::Metadata, "m1", 90, &dir.path().join("tls-m")).unwrap();
        dir
    }

    #[test]
    fn a_file_is_read_and_its_paths_are_beside_it() {
        let dir = set_up();
        let file = dir.path().join("node.toml");
        std::fs::write(&file, NODE).unwrap();
        let (config, credentials) = storage_node(&file).unwrap();
        assert_eq!(config.state, dir.path().join("state"));
        assert_eq!(config.drives[1], Path::new("/mnt/b"));
        assert_eq!(credentials.identity().name.as_str(), "n1");
        assert!(matches!(read(&file), Ok(AnyConfig::StorageNode(..))));
        assert!(matches!(metadata(&file), Err(ConfigError::Value { key: "role", .. })));
        let text = r#"role = "metadata"
data = "m"
admin = "127.0.0.1:9001"
credentials = "tls-m"
geometry = "2+1"
placement = { survive = "rack" }
node = [{ name = "n1", address = "localhost:9100" }]
s3 = { listen = "127.0.0.1:9000" }
"#;
        std::fs::write(&file, text).unwrap();
        let (config, _) = metadata(&file).unwrap();
        assert_eq!(config.geometry().unwrap().to_string(), "2+1");
        assert_eq!(config.placement.survive(), Some(Level::Rack));
        assert!(matches!(read(&file), Ok(AnyConfig::Metadata(..))));
        assert!(config.listen.is_none() && config.members.is_empty());
        std::fs::write(&file, text.replace("tls-m", "tls")).unwrap();
        assert!(matches!(metadata(&file), Err(ConfigError::OtherRole { .. })));
        let peer = |name: &str| format!("metadata = [{{ name = \"{name}\", address = \"localhost:9200\" }}]\n");
        let listen = "listen = \"127.0.0.1:9200\"\n";
        for (more, good) in [
            (format!("{listen}{}", peer("m1")), true),
            (listen.to_owned(), false),
            (peer("m1"), false),
            (format!("{listen}{}", peer("m2")), false),
        ] {
            std::fs::write(&file, text.replace("geometry =", &format!("{more}geometry ="))).unwrap();
            assert_eq!(metadata(&file).is_ok(), good, "{more}");
        }
    }

    #[test]
    fn a_gateway_names_metadata_and_keeps_no_directory() {
        let dir = set_up();
        crate::ca::issue(&dir.path().join("ca"), Role::Gateway, "g1", 90, &dir.path().join("tls-g")).unwrap();
        let file = dir.path().join("gateway.toml");
        let text = r#"role = "gateway"
health = "127.0.0.1:9002"
credentials = "tls-g"
s3 = { listen = "127.0.0.1:9000" }
metadata = [{ name = "m1", address = "localhost:9200" }]
"#;
        let said = |text: &str| {
            std::fs::write(&file, text).unwrap();
            gateway(&file).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(said(text), Ok(()));
        assert!(matches!(read(&file), Ok(AnyConfig::Gateway(..))));
        for (from, to, key) in [
            (r#"{ name = "m1", address = "localhost:9200" }"#, "", "metadata"),
            ("localhost:9200", "localhost", "metadata"),
            ("tls-g", "tls-m", "credentials"),
            ("s3 =", "data = \"d\"\ns3 =", "data"),
        ] {
            let error = said(&text.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let dir = set_up();
        let file = dir.path().join("node.toml");
        let said = |text: &str| {
            std::fs::write(&file, text).unwrap();
            storage_node(&file).unwrap_err().to_string()
        };
        let name = file.display().to_string();
        let unknown = said(&NODE.replace("state =", "satte ="));
        assert!(unknown.starts_with(&format!("{name}:5: ")) && unknown.contains("satte"), "{unknown}");
        let rack = said(&NODE.replace("drives =", "rack = \"r 1\"\ndrives ="));
        assert!(rack.contains("rack: a rack or a site has a name of at most 63"), "{rack}");
        let nested = said(&NODE.replace("address =", "adress ="));
        assert!(nested.starts_with(&format!("{name}:10: ")) && nested.contains("adress"), "{nested}");
        let address = said(&NODE.replace("127.0.0.1:9101", "nowhere"));
        assert!(address.starts_with(&format!("{name}:3: ")), "{address}");
        for (from, to, key) in [
            ("storage-node", "gateway", "role"),
            ("/mnt/b", "/mnt/a", "drives"),
            ("localhost:9100", "localhost", "node"),
            ("n2", "N 2", "node"),
            ("\"tls\"", "\"nothing\"", "credentials"),
        ] {
            let said = said(&NODE.replacen(from, to, 1));
            assert!(said.contains(&format!(": {key}: ")) && !said.contains('\n'), "{said}");
        }
    }
}
