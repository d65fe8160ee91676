//! The admin port: health for whoever watches, and operators' commands behind a token.
//!
//! * `GET /health/live`: 200 as long as the process answers.
//! * `GET /health/ready`: 200 while reads *and* writes are served; 503 with a line that says why not while the server
//!   starts, stops or is read-only. `GET /health/ready?for=reads`: 200 in read-only mode, too, for a balancer that should
//!   go on sending reads.
//! * With `Authorization: Bearer <token>`: `GET /v1/status`, `POST /v1/journal/seal[?wait=true]`, `GET /metrics`, and what
//!   [`crate::admin_keep`] has. All of it is described by `GET /v1/openapi.json`.

use crate::accounts::NewAccount;
use crate::admin_client::{
    CapacityAnswer, DriveAnswer, KeysAnswer, OldIndexAnswer, SealAnswer, SealedAnswer, StatusAnswer,
};
use crate::admin_webhooks;
use crate::data_dir::{Config, DataDir};
use crate::drive_set::DriveSet;
use crate::index_home::OldIndex;
use crate::keep_answers::{LifecycleAnswer, ReclaimAnswer, RepairAnswer};
use crate::member_answers;
use crate::open_files::OpenFiles;
use crate::port::Port;
use crate::replication::{self, Replicator};
use crate::roles::seat::Seat;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use codec::level::FormatLevel;
use metadata::audit::{self, AskedBy};
use metadata::client::{MetadataClient, Mode};
use metadata::clock::{Clock, SystemClock};
use metadata::replica::{Leading, NotLeading};
use metadata::rpc::Callers;
use metadata::service::Metadata;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

/// What the admin port answers, for other programs; a test compares it with the routes.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// The type of the metrics page.
const METRICS: &str = "text/plain; version=0.0.4";

#[derive(Default)]
enum Stage {
    #[default]
    Starting,
    Running(Arc<Metadata>),
    Stopping,
}

/// What the admin port knows of the server.
#[derive(Default)]
pub struct AdminState {
    stage: RwLock<Stage>,
    drives: OnceLock<Arc<DriveSet>>,
    replicator: RwLock<Option<Arc<Replicator>>>,
    /// Ids of the accounts that every start sets from a file.
    of_file: OnceLock<BTreeSet<String>>,
    /// Of one metadata node among several: its place, and the drives as seen by the service that it leads with at present.
    seated: OnceLock<Seated>,
}

struct Seated {
    seat: Arc<Seat>,
    callers: Arc<Callers>,
    data: Arc<DataDir>,
    stored: Config,
    drives: Mutex<Option<(Weak<Metadata>, Arc<DriveSet>)>>,
}

impl Seated {
    fn drives(&self, metadata: &Arc<Metadata>) -> Arc<DriveSet> {
        let mut known = self.drives.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_ref() {
            Some((of, drives)) if std::ptr::eq(of.as_ptr(), Arc::as_ptr(metadata)) => Arc::clone(drives),
            _ => {
                let drives = DriveSet::new(Arc::clone(&self.data), self.stored.clone(), Arc::clone(metadata));
                *known = Some((Arc::downgrade(metadata), Arc::clone(&drives)));
                drives
            }
        }
    }
}

/// Why there is no service to ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The process starts.
    #[error("starting")]
    Starting,
    /// It ends.
    #[error("stopping")]
    Stopping,
    /// It is a metadata node to be.
    #[error(
        "{0} is no metadata node yet: it waits for stele member add on one that is, or, once for a cluster, for stele cluster init"
    )]
    Waiting(String),
    /// Nothing here copies buckets elsewhere.
    #[error("this process does not replicate at present")]
    NoReplication,
    /// Another metadata node has to be asked.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// No metadata node serves, as far as this one knows.
    #[error("no metadata node serves at present, as far as {name} knows: {why}")]
    Nobody {
        /// The name of the node.
        name: String,
        /// How it is.
        why: String,
    },
}

impl std::fmt::Debug for AdminState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminState")
    }
}

impl AdminState {
    /// The start is over.
    pub fn ready(&self, metadata: Arc<Metadata>, drives: Arc<DriveSet>) {
        // There is one start.
        let _first = self.drives.set(drives);
        *self.stage.write().unwrap_or_else(PoisonError::into_inner) = Stage::Running(metadata);
    }

    /// Every start sets these accounts.
    pub(crate) fn accounts_of_file(&self, accounts: &[NewAccount]) {
        // There is one start.
        let _first = self.of_file.set(accounts.iter().map(|account| account.id.clone()).collect());
    }

    /// Whether the next start would set this account, whatever is made of it now.
    pub(crate) fn is_of_file(&self, id: &str) -> bool {
        self.of_file.get().is_some_and(|ids| ids.contains(id))
    }

    /// This process is a metadata node among several, or waits to be one.
    pub fn seated(&self, seat: Arc<Seat>, callers: Arc<Callers>, data: Arc<DataDir>, stored: Config) {
        // There is one place.
        let _first = self.seated.set(Seated { seat, callers, data, stored, drives: Mutex::default() });
    }

    /// Who serves S3 over this metadata node while it leads.
    pub(crate) fn callers(&self) -> Arc<Callers> {
        self.seated.get().map(|seated| Arc::clone(&seated.callers)).unwrap_or_default()
    }

    /// The place of this process among the metadata nodes; `None` where it is all of metadata.
    pub(crate) fn seat(&self) -> Option<Arc<Seat>> {
        self.seated.get().map(|seated| Arc::clone(&seated.seat))
    }

    /// Buckets are copied elsewhere from now on; `None`: no more, by this process.
    pub fn replicating(&self, replicator: Option<Arc<Replicator>>) {
        *self.replicator.write().unwrap_or_else(PoisonError::into_inner) = replicator;
    }

    /// What copies buckets elsewhere, or why there is none.
    pub(crate) fn replicator(&self) -> Result<Arc<Replicator>, NotReady> {
        self.metadata()?;
        let replicator = self.replicator.read().unwrap_or_else(PoisonError::into_inner).clone();
        replicator.ok_or(NotReady::NoReplication)
    }

    /// The end has begun.
    pub fn stopping(&self) {
        *self.stage.write().unwrap_or_else(PoisonError::into_inner) = Stage::Stopping;
    }

    /// The service, or why there is none.
    pub(crate) fn metadata(&self) -> Result<Arc<Metadata>, NotReady> {
        match &*self.stage.read().unwrap_or_else(PoisonError::into_inner) {
            Stage::Starting => {}
            Stage::Running(metadata) => return Ok(Arc::clone(metadata)),
            Stage::Stopping => return Err(NotReady::Stopping),
        }
        let Some(seat) = self.seat() else { return Err(NotReady::Starting) };
        if seat.member().is_none() {
            return Err(NotReady::Waiting(seat.name().to_owned()));
        }
        seat.serving().map_err(|error| match error.leader {
            Some(_) => NotReady::NotLeading(error),
            None => {
                let why = seat.condition(false).unwrap_or_else(|why| why);
                NotReady::Nobody { name: seat.name().to_owned(), why }
            }
        })
    }

    /// The drives of the set-up, or why there are none.
    pub(crate) fn drives(&self) -> Result<Arc<DriveSet>, NotReady> {
        let metadata = self.metadata()?;
        if let Some(seated) = self.seated.get() {
            return Ok(seated.drives(&metadata));
        }
        self.drives.get().cloned().ok_or(NotReady::Starting)
    }
}

/// Serves the admin port on `listener`.
pub fn start(listener: TcpListener, state: Arc<AdminState>, token: Zeroizing<String>) -> Port {
    Port::start(listener, router(state, token))
}

fn router(state: Arc<AdminState>, token: Zeroizing<String>) -> Router {
    let private = private()
        .layer(from_fn_with_state(Arc::clone(&state), crate::admin_members::pass_on))
        .layer(from_fn_with_state(Arc::new(token), authenticate));
    Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .route("/v1/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) }))
        .merge(private)
        .with_state(state)
}

/// What other metadata nodes ask for: all that wants the token, which operators have shown to them. Nothing is passed on from here.
pub(crate) fn between_nodes(state: Arc<AdminState>) -> Router {
    private().with_state(state)
}

fn private() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/journal/seal", post(seal))
        .merge(crate::admin_keep::routes())
        .merge(crate::admin_drives::routes())
        .merge(crate::admin_nodes::routes())
        .merge(crate::admin_members::routes())
        .merge(crate::admin_placement::routes())
        .merge(crate::admin_accounts::routes())
        .merge(crate::admin_iam::routes())
        .merge(crate::admin_quota::routes())
        .merge(crate::admin_kms::routes())
        .merge(crate::admin_webhooks::routes())
        .merge(crate::admin_upgrade::routes())
        .merge(crate::fixity::route::routes())
        .merge(crate::replication::routes())
        .route("/metrics", get(metrics))
        .layer(from_fn(as_operator))
}

/// What is changed in the course of a request is in the audit log as an operator's, also where another node passed it on.
async fn as_operator(request: Request, next: Next) -> Response {
    let by = AskedBy { by: "operator".to_owned(), ..AskedBy::default() };
    audit::within(by, next.run(request)).await
}

async fn authenticate(State(token): State<Arc<Zeroizing<String>>>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    // Hashes of equal length, compared in constant time by blake3: how much of a guess was right does not show.
    if codec_hash(shown) != codec_hash(&token) {
        return (StatusCode::UNAUTHORIZED, "the admin token is missing or wrong\n").into_response();
    }
    next.run(request).await
}

fn codec_hash(text: &str) -> blake3::Hash {
    blake3::hash(text.as_bytes())
}

pub(crate) fn unavailable(reason: impl std::fmt::Display) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

async fn ready(State(state): State<Arc<AdminState>>, request: Request) -> Response {
    let reads_only = request.uri().query() == Some("for=reads");
    if let Some(seat) = state.seat().filter(|_| !matches!(state.metadata(), Err(NotReady::Stopping))) {
        return match seat.condition(reads_only) {
            Ok(line) => format!("{line}\n").into_response(),
            Err(line) => unavailable(line),
        };
    }
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let status = metadata.status();
    match status.mode {
        Mode::Serving => "ready\n".into_response(),
        Mode::ReadOnly if reads_only => "read-only\n".into_response(),
        Mode::ReadOnly => unavailable(format_args!("read-only: {}", status.reason)),
    }
}

async fn status(State(state): State<Arc<AdminState>>) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let mut answer = described(&state, &metadata);
    if let Some(seat) = state.seat() {
        let members = member_answers::describe_all(&seat, &state.callers()).await;
        let other_rules = metadata.survive().ok().and_then(|rule| member_answers::other_rules(&members, rule));
        answer.warnings.extend(member_answers::warnings(&members).into_iter().chain(other_rules));
        answer.metadata = Some(members);
    }
    if metadata.format_level() < FormatLevel::NEWEST {
        // Everybody is asked for it, so only while there is something to be done.
        match crate::admin_upgrade::describe(&state, &metadata).await {
            Ok(upgrade) => answer.warnings.extend(upgrade.warning()),
            Err(error) => answer.warnings.push(format!("format level: {error}")),
        }
    }
    if let Ok(set) = state.drives() {
        let old = tokio::task::spawn_blocking(move || set.old_indexes()).await.unwrap_or_default();
        let line = |old: OldIndex| {
            let path = old.path.display().to_string();
            OldIndexAnswer { path, bytes: old.bytes, why: old.why.to_owned() }
        };
        answer.old_indexes = old.into_iter().map(line).collect();
    }
    Json(answer).into_response()
}

fn described(state: &AdminState, metadata: &Metadata) -> StatusAnswer {
    let mut answer = describe(metadata);
    answer.warnings.extend(answer.lifecycle.as_ref().and_then(LifecycleAnswer::warning));
    match admin_webhooks::describe(metadata) {
        Ok(webhooks) => {
            answer.warnings.extend(admin_webhooks::warnings(&webhooks));
            answer.webhooks = webhooks;
        }
        Err(error) => answer.warnings.push(format!("webhooks: {error}")),
    }
    let Ok(replicator) = state.replicator() else { return answer };
    match replicator.status() {
        Ok(replication) => {
            answer.warnings.extend(replication::warnings(&replication));
            answer.replication = Some(replication);
        }
        Err(error) => answer.warnings.push(format!("replication: {error}")),
    }
    answer
}

fn describe(metadata: &Metadata) -> StatusAnswer {
    let status = metadata.status();
    let capacity = CapacityAnswer::of(&status.drives);
    StatusAnswer {
        mode: match status.mode {
            Mode::Serving => "serving".to_owned(),
            Mode::ReadOnly => "read-only".to_owned(),
        },
        reason: status.reason,
        geometry: status.geometry.to_string(),
        format_level: metadata.format_level().0,
        epoch: status.epoch.0,
        applied: status.applied.0,
        sealed: status.sealed.0,
        drives: status
            .drives
            .into_iter()
            .map(|drive| DriveAnswer {
                journal: status.ensemble.contains(&drive.id),
                id: drive.id.to_string(),
                path: drive.path,
                state: drive.state.to_owned(),
                total: drive.total,
                free: drive.free,
            })
            .collect(),
        capacity,
        survives: status.survives,
        warnings: status.warnings.into_iter().chain(OpenFiles::now().and_then(OpenFiles::warning)).collect(),
        repair: metadata.keeper().map(|keeper| RepairAnswer::new(&keeper.status())),
        reclaim: metadata.reclaimer().map(|reclaimer| ReclaimAnswer::new(&reclaimer.status())),
        lifecycle: metadata.lifecycle().map(|lifecycle| LifecycleAnswer::new(lifecycle.status())),
        replication: None,
        webhooks: Vec::new(),
        keys: KeysAnswer::new(metadata.keys_status()),
        old_indexes: Vec::new(),
        metadata: None,
    }
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    let members = state.seat().map(|seat| member_answers::describe(&seat, &state.callers()));
    let warnings = members.as_ref().map(member_answers::warnings).unwrap_or_default();
    let members = members.as_ref().map(crate::metrics::members);
    let metadata = match (state.metadata(), &members) {
        (Ok(metadata), _) => metadata,
        // Who follows has no more to tell.
        (Err(_), Some(page)) => return ([(header::CONTENT_TYPE, METRICS)], page.clone()).into_response(),
        (Err(stage), None) => return unavailable(stage),
    };
    let scrub = crate::admin_keep::scrub_of(&metadata).await;
    let now_ms = SystemClock::default().wall_ms();
    let drives = match state.drives() {
        Ok(set) => crate::admin_drives::drives_of(&set).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let mut described = described(&state, &metadata);
    described.warnings.extend(warnings);
    let page = crate::metrics::page(&described, &drives, &scrub.drives, now_ms);
    ([(header::CONTENT_TYPE, METRICS)], page + &members.unwrap_or_default()).into_response()
}

async fn seal(State(state): State<Arc<AdminState>>, request: Request) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    // On its own task: a client that goes away must not leave a seal half way.
    let sealing = tokio::spawn(async move {
        let sealed = metadata.seal_now().await;
        if let Err(error) = &sealed {
            tracing::error!(%error, "sealing on request failed");
        }
        sealed
    });
    if request.uri().query() != Some("wait=true") {
        return (StatusCode::ACCEPTED, Json(SealAnswer { report: None })).into_response();
    }
    match sealing.await {
        Ok(Ok(report)) => {
            let report =
                SealedAnswer { upto: report.upto.0, moved: report.moved, stripes: report.stripes, freed: report.freed };
            Json(SealAnswer { report: Some(report) }).into_response()
        }
        Ok(Err(error)) => unavailable(error),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The routes as the sources have them: axum does not list its own.
    fn routes() -> Vec<(String, String)> {
        let sources = [
            include_str!("admin.rs"),
            include_str!("admin_keep.rs"),
            include_str!("admin_drives.rs"),
            include_str!("admin_nodes.rs"),
            include_str!("admin_members.rs"),
            include_str!("admin_placement.rs"),
            include_str!("admin_accounts.rs"),
            include_str!("admin_quota.rs"),
            include_str!("admin_iam.rs"),
            include_str!("admin_kms.rs"),
            include_str!("admin_webhooks.rs"),
            include_str!("admin_upgrade.rs"),
            include_str!("fixity/route.rs"),
            include_str!("replication/routes.rs"),
        ];
        let mut found = Vec::new();
        for source in sources {
            let (code, _tests) = source.split_once("#[cfg(test)]").unwrap_or((source, ""));
            for route in code.split(".route(\"").skip(1) {
                let (path, rest) = route.split_once("\", ").unwrap();
                let (method, _) = rest.split_once('(').unwrap();
                found.push((path.to_owned(), method.to_owned()));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn the_openapi_document_has_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                described.push((path.clone(), method.clone()));
                let public = operation["security"].as_array().unwrap().is_empty();
                assert_eq!(public, path.starts_with("/health/") || path.ends_with("openapi.json"), "{path}");
            }
        }
        described.sort();
        assert_eq!(described, routes());
    }

    #[test]
    fn the_openapi_document_describes_what_is_answered() {
        use crate::keep_answers::*;
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let fields = |value: serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        let described = |name: &str| fields(document["components"]["schemas"][name]["properties"].clone());
        let repair = serde_json::to_value(RepairAnswer::default()).unwrap();
        assert_eq!(fields(repair), described("Repair"));
        assert_eq!(fields(serde_json::to_value(PlanAnswer::default()).unwrap()), described("Plan"));
        assert_eq!(fields(serde_json::to_value(ReclaimAnswer::default()).unwrap()), described("Reclaim"));
        assert_eq!(fields(serde_json::to_value(LifecycleAnswer::default()).unwrap()), described("Lifecycle"));
        assert_eq!(fields(serde_json::to_value(LifecycleDone::default()).unwrap()), described("LifecycleDone"));
        assert_eq!(fields(serde_json::to_value(UnfollowedLine::default()).unwrap()), described("Unfollowed"));
        use crate::fixity::answers::{FixityAnswer, FixityQuestion, ObjectLine};
        assert_eq!(fields(serde_json::to_value(FixityQuestion::default()).unwrap()), described("FixityQuestion"));
        assert_eq!(fields(serde_json::to_value(FixityAnswer::default()).unwrap()), described("Fixity"));
        assert_eq!(fields(serde_json::to_value(ObjectLine::default()).unwrap()), described("FixityObject"));
        use crate::replication::answers::*;
        assert_eq!(fields(serde_json::to_value(ReplicationAnswer::default()).unwrap()), described("Replication"));
        assert_eq!(fields(serde_json::to_value(RuleAnswer::default()).unwrap()), described("ReplicationRule"));
        assert_eq!(fields(serde_json::to_value(SetQuestion::default()).unwrap()), described("ReplicationSet"));
        assert_eq!(fields(serde_json::to_value(VerifyQuestion::default()).unwrap()), described("ReplicationCompare"));
        assert_eq!(fields(serde_json::to_value(VerifyAnswer::default()).unwrap()), described("ReplicationCompared"));
        assert_eq!(fields(serde_json::to_value(Difference::default()).unwrap()), described("ReplicationDifference"));
        assert_eq!(fields(serde_json::to_value(Unlike::default()).unwrap()), described("ReplicationUnlike"));
        assert_eq!(fields(serde_json::to_value(FindingsAnswer::default()).unwrap()), described("Findings"));
        let drives = serde_json::to_value(crate::admin_drives::DriveInfo::default()).unwrap();
        assert_eq!(fields(drives), described("DriveInfo"));
        let changed = serde_json::to_value(crate::admin_drives::DriveChanged::default()).unwrap();
        assert_eq!(fields(changed), described("DriveChanged"));
        use crate::member_answers::{GatewayInfo, MemberInfo, MemberSelf, MembersAnswer};
        assert_eq!(fields(serde_json::to_value(MembersAnswer::default()).unwrap()), described("Members"));
        assert_eq!(fields(serde_json::to_value(MemberSelf::default()).unwrap()), described("MemberSelf"));
        assert_eq!(fields(serde_json::to_value(GatewayInfo::default()).unwrap()), described("GatewayInfo"));
        assert_eq!(fields(serde_json::to_value(MemberInfo::default()).unwrap()), described("MemberInfo"));
        let account = serde_json::to_value(crate::admin_accounts::AccountInfo::default()).unwrap();
        assert_eq!(fields(account), described("AccountInfo"));
        let put = serde_json::to_value(crate::admin_accounts::PutAccount::default()).unwrap();
        assert_eq!(fields(put), described("PutAccount"));
        let asked = serde_json::to_value(crate::admin_iam::IamQuestion::default()).unwrap();
        assert_eq!(fields(asked), described("IamQuestion"));
        use crate::admin_quota::{QuotaAnswer, QuotaQuestion};
        assert_eq!(fields(serde_json::to_value(QuotaQuestion::default()).unwrap()), described("QuotaQuestion"));
        assert_eq!(fields(serde_json::to_value(QuotaAnswer::default()).unwrap()), described("Quota"));
        let key = serde_json::to_value(crate::admin_kms::KmsKeyInfo::default()).unwrap();
        assert_eq!(fields(key), described("KmsKey"));
        let change = serde_json::to_value(crate::admin_kms::KmsChange::default()).unwrap();
        assert_eq!(fields(change), described("KmsChange"));
        use crate::admin_webhooks::*;
        assert_eq!(fields(serde_json::to_value(WebhooksAnswer::default()).unwrap()), described("Webhooks"));
        assert_eq!(fields(serde_json::to_value(WebhookInfo::default()).unwrap()), described("WebhookInfo"));
        assert_eq!(fields(serde_json::to_value(WebhookDrop::default()).unwrap()), described("WebhookDrop"));
        assert_eq!(fields(serde_json::to_value(WebhookDropped::default()).unwrap()), described("WebhookDropped"));
        let placement = serde_json::to_value(crate::admin_placement::PlacementAnswer::default()).unwrap();
        assert_eq!(fields(placement), described("Placement"));
        use crate::admin_upgrade::{ProcessInfo, UpgradeAnswer};
        assert_eq!(fields(serde_json::to_value(UpgradeAnswer::default()).unwrap()), described("Upgrade"));
        assert_eq!(fields(serde_json::to_value(ProcessInfo::default()).unwrap()), described("UpgradeProcess"));
        let node = serde_json::to_value(crate::admin_nodes::NodeInfo::default()).unwrap();
        assert_eq!(fields(node), described("NodeInfo"));
        let changed = serde_json::to_value(crate::admin_nodes::NodeChanged::default()).unwrap();
        assert_eq!(fields(changed), described("NodeChanged"));
        let status = StatusAnswer {
            mode: String::new(),
            reason: String::new(),
            geometry: String::new(),
            format_level: 0,
            epoch: 0,
            applied: 0,
            sealed: 0,
            drives: Vec::new(),
            capacity: CapacityAnswer::default(),
            survives: String::new(),
            warnings: Vec::new(),
            repair: None,
            reclaim: None,
            lifecycle: None,
            replication: None,
            webhooks: Vec::new(),
            keys: KeysAnswer::default(),
            old_indexes: Vec::new(),
            metadata: None,
        };
        assert_eq!(fields(serde_json::to_value(status).unwrap()), described("Status"));
        assert_eq!(fields(serde_json::to_value(OldIndexAnswer::default()).unwrap()), described("OldIndex"));
    }
}
