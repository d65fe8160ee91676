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
use crate::notify::webhook;
use crate::passing::Asked;
use crate::replication::Following;
use crate::serve::{ServeError, listen};
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

/// How long the end takes at most once something has failed.
const END: Duration = Duration::from_secs(30);

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
    let webhooks = webhook::from_file(config.webhooks.as_deref()).map_err(ServeError::Webhooks)?;
    let name = credentials.identity().name.to_string();
    // There is one: the configuration was checked for it.
    let own = config.members.iter().find(|member| member.name == name);
    let me = Peer { address: own.map_or_else(|| address.to_string(), |own| own.address.clone()), name };
    let seat = Seat::new(Arc::clone(&data), config.clone(), credentials.clone(), me);
    if rejoin {
        seat.rejoin()?;
    }
    let for_gateways = Arc::new(metadata::rpc::Service::new(Arc::clone(&seat) as Arc<dyn Leading>));
    let state = Arc::new(AdminState::default());
    state.seated(Arc::clone(&seat), for_gateways.callers(), Arc::clone(&data), stored);
    let known = Arc::clone(&seat);
    let names = move || known.members().into_iter().map(|member| member.peer.name).collect();
    let asked = Arc::new(Asked::by(admin::between_nodes(Arc::clone(&state)), names));
    let services: Vec<Arc<dyn Handler>> = vec![Arc::new(Service(seat.inbox())), for_gateways, asked];
    let server = Server::start(listener, credentials, services, RpcConfig::default())?;
    let admin = admin::start(admin_listener, Arc::clone(&state), data.admin_token()?);
    let replication = Following::start(Arc::clone(&state), webhooks);
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
    let served = tokio::select! {
        served = served => served,
        later = seat.too_old() => Err(SeatError::Later(later).into()),
        stopped = seat.stopped() => Err(ended_by(&seat, stopped).into()),
    };
    state.stopping();
    let ended = async {
        replication.stop().await;
        seat.shutdown().await;
        server.stop(DRAIN).await;
        admin.stop().await;
    };
    // Of a process whose disk or Raft fails anything may hang, and nobody would start one again that does not end.
    if served.is_ok() {
        ended.await;
    } else if tokio::time::timeout(END, ended).await.is_err() {
        tracing::warn!("not everything came to an end; the process ends all the same");
    }
    tracing::info!("stopped");
    served
}

/// Said at once: the end may take a moment. What a later release wrote stops Raft, too, and has another exit code.
fn ended_by(seat: &Seat, stopped: SeatError) -> SeatError {
    let later = seat.member().and_then(|member| member.machine().later().borrow().clone());
    let ended = later.map_or(stopped, SeatError::Later);
    tracing::error!("{ended}");
    ended
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
    if let Some(path) = config.s3.as_ref().and_then(|s3| s3.accounts.as_ref()).filter(|_| seat.member().is_some()) {
        println!(
            "warning: {} (s3.accounts) was read by stele cluster init only; stele account put makes and changes accounts now",
            path.display()
        );
    }
}

/// Serves S3 as a gateway does, whichever metadata node leads.
async fn serve_s3(
    config: &MetadataConfig,
    credentials: &Credentials,
    S3 { port, domains, settings }: S3,
    stop: watch::Receiver<bool>,
) -> Result<(), MetadataError> {
    let at =
        |peers: &[config_file::Peer]| -> Vec<NodeAddress> { peers.iter().filter_map(config_file::Peer::at).collect() };
    let (metadata, nodes) = (at(&config.members), at(&config.nodes));
    let s3 = gateway::S3 { credentials: credentials.clone(), metadata, nodes, port, domains, settings };
    Ok(gateway::serve_s3(s3, Arc::default(), stop).await?)
}
