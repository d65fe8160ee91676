//! `stele metadata` with `listen`: one metadata node among several, which agree by Raft.
//!
//! Order of a start: data directory (locked), admin port (alive), the port for the other processes, and then this node's place
//! ([`super::seat`]): with the state of a member it is one at once, without it waits. Order of an end: not ready, the service and
//! Raft, then the ports: the others elect another leader.

use super::gateway;
use super::metadata::{MetadataError, S3, s3, set_up};
use super::seat::{Seat, SeatError};
use crate::admin::{self, AdminState};
use crate::config_file::{self, MetadataConfig};
use crate::data_dir::DataDir;
use crate::replication::Following;
use crate::serve::listen;
use metadata::raft::{Peer, Service};
use metadata::replica::Leading;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use storage_node::remote::NodeAddress;
use storage_node::rpc::{Handler, RpcConfig, Server};
use storage_node::service::tls::Credentials;
use tokio::sync::watch;

/// How long the end of the port waits for the requests of others.
const DRAIN: Duration = Duration::from_secs(5);

impl From<SeatError> for MetadataError {
    fn from(error: SeatError) -> MetadataError {
        MetadataError::Seat(Box::new(error))
    }
}

/// Serves until it is told to stop.
pub(super) async fn serve(
    config: &MetadataConfig,
    address: SocketAddr,
    credentials: &Credentials,
    rejoin: bool,
    mut stop: watch::Receiver<bool>,
) -> Result<(), MetadataError> {
    let data = Arc::new(DataDir::open(&config.data, true)?);
    let stored = set_up(&data, config)?;
    let admin_listener = listen("the admin port", "admin", config.admin).await?;
    data.write_admin_address(admin_listener.local_addr().unwrap_or(config.admin))?;
    let listener = listen("metadata", "listen", address).await?;
    let s3 = s3(config).await?;
    let name = credentials.identity().name.to_string();
    // There is one: the configuration was checked for it.
    let own = config.members.iter().find(|member| member.name == name);
    let me = Peer { address: own.map_or_else(|| address.to_string(), |own| own.address.clone()), name };
    let seat = Seat::new(Arc::clone(&data), config.clone(), credentials.clone(), me);
    if rejoin {
        seat.rejoin()?;
    }
    let services: Vec<Arc<dyn Handler>> = vec![
        Arc::new(Service(seat.inbox())),
        Arc::new(metadata::rpc::Service::new(Arc::clone(&seat) as Arc<dyn Leading>)),
    ];
    let server = Server::start(listener, credentials, services, RpcConfig::default())?;
    let state = Arc::new(AdminState::default());
    state.seated(Arc::clone(&seat), Arc::clone(&data), stored);
    let admin = admin::start(admin_listener, Arc::clone(&state), data.admin_token()?);
    let replication = Following::start(Arc::clone(&state));
    let served = async {
        tokio::select! {
            resumed = seat.resume() => resumed?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        announce(config, credentials, &seat, server.address());
        match s3 {
            Some(s3) => serve_s3(config, credentials, s3, stop).await,
            None => {
                drop(stop.wait_for(|stop| *stop).await);
                Ok(())
            }
        }
    };
    let served = served.await;
    state.stopping();
    replication.stop().await;
    seat.shutdown().await;
    server.stop(DRAIN).await;
    admin.stop().await;
    tracing::info!("stopped");
    served
}

fn announce(config: &MetadataConfig, credentials: &Credentials, seat: &Seat, listens: SocketAddr) {
    let identity = credentials.identity();
    let place = match seat.member() {
        Some(member) => format!("member {:016x}", member.id()),
        None => "waits to be added, or for stele cluster init".to_owned(),
    };
    println!(
        "Stele metadata {} of cluster {} ({place}) on {listens}; admin on http://{}",
        identity.name, identity.cluster, config.admin
    );
}

/// Serves S3 as a gateway does, whichever metadata node leads.
async fn serve_s3(
    config: &MetadataConfig,
    credentials: &Credentials,
    S3 { listener, domains }: S3,
    stop: watch::Receiver<bool>,
) -> Result<(), MetadataError> {
    let at =
        |peers: &[config_file::Peer]| -> Vec<NodeAddress> { peers.iter().filter_map(config_file::Peer::at).collect() };
    let (metadata, nodes) = (at(&config.members), at(&config.nodes));
    let s3 = gateway::S3 { credentials: credentials.clone(), metadata, nodes, listener, domains };
    Ok(gateway::serve_s3(s3, Arc::default(), stop).await?)
}
