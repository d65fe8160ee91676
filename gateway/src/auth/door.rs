//! The one authorisation decision: what is known of a bucket, of the object that a request names and of who asks, and what
//! [`access::authorise`] makes of it.
//!
//! Invariants:
//! * Default deny. An operation needs every action of [`access::policy::action::of_operation`]; one that has none there is refused.
//! * The key that is decided about is the key that the handler gets: nothing here reads a URL.
//! * What is derived from a request (whether its caller may list, the source of a copy, a bypass) is decided without what the request
//!   says for its own operation: only who, when and whence are the same.
//! * All decisions of a request share one budget, so that a request for many keys can't keep a processor busy.
//! * A decision goes by a bucket row that was read for this request, and by the policy of that row or a later one. What was taken
//!   away is never followed.
//! * A version that is looked up for the decision is the one that the handler answers with ([`Found`]), so that nobody puts another
//!   object there between the two.
//! * What a decision needs of a body, it is asked for once the body is read ([`Authorised::settle`]); until then the handler gets
//!   no bucket.

use super::caller::Caller;
use super::facts::Facts;
use super::{check_expected_owner, denied, rows, uploads};
use crate::configs::Remembered;
use crate::s3::{bucket, error};
use access::acl::block::Block;
use access::acl::ownership::Ownership;
use access::acl::{Acl, Needs, needs};
use access::authorise::{Resource, asks_whose, authorise, locks_out, own_side_allows};
use access::policy::action::{self, Extras, Subject};
use access::policy::work::Budget;
use access::policy::{Context, Decision, Kind, Policies, Policy, Reason, Request, keys};
use codec::effect::{AccountRow, BucketRow, ConfigKind, VersionRow};
use metadata::client::MetadataClient;
use s3s::{S3Error, S3Result, StdError, s3_error};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Condition keys of the tags that an object has.
const EXISTING_TAGS: &str = "s3:existingobjecttag";

/// Operations that say in their bodies what policies may ask for, and the beginnings of the condition keys, in lower case.
const SAID_IN_BODIES: [(&str, &[&str]); 4] = [
    ("CreateBucket", &["s3:locationconstraint"]),
    ("PutObjectTagging", &["s3:requestobjecttag"]),
    ("PutObjectRetention", &["s3:object-lock-"]),
    ("PutObjectLegalHold", &["s3:object-lock-"]),
];

/// Operations of which more is decided than the request itself: keys in bodies, sources of copies, a policy that is put.
const DECIDES_AGAIN: [&str; 4] = ["CopyObject", "DeleteObjects", "PutBucketPolicy", "UploadPartCopy"];

/// Decides. One for all requests.
pub struct Door {
    metadata: Arc<dyn MetadataClient>,
    policies: Remembered<Policy>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

/// A bucket's policy as it is kept.
fn read_policy(body: &[u8]) -> Result<Policy, StdError> {
    Ok(Policy::parse(std::str::from_utf8(body)?, Kind::Kept)?)
}

/// What is known of a bucket.
#[derive(Debug)]
pub struct BucketAccess {
    /// Its row.
    pub row: Arc<BucketRow>,
    /// The row of the account that owns it.
    pub owner: AccountRow,
    /// Its list.
    pub acl: Acl,
    /// Whether lists count.
    pub ownership: Ownership,
    /// The public access block, the account's and its own.
    pub block: Block,
    /// Its policy.
    pub policy: Option<Arc<Policy>>,
}

/// The version that a request names, where the decision had to know it.
#[derive(Clone, Debug, Default)]
pub enum Found {
    /// It was not looked for.
    #[default]
    NotLooked,
    /// There is none.
    Absent,
    /// It. May be a delete marker.
    Version(Arc<VersionRow>),
}

impl Found {
    /// The version, if there is one.
    pub fn version(&self) -> Option<&Arc<VersionRow>> {
        match self {
            Found::Version(row) => Some(row),
            Found::NotLooked | Found::Absent => None,
        }
    }
}

/// The object that a decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// Its key, as the handler will use it.
    pub key: &'a str,
    /// The version, if one is named.
    pub version_id: Option<&'a str>,
}

/// What may be copied from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The bucket.
    pub bucket: Arc<BucketRow>,
    /// The version.
    pub found: Found,
    /// Whether the caller may know of keys that are not there.
    may_list: bool,
}

impl Source {
    /// What the caller hears of a source that could not be had.
    pub fn shield(&self, failed: S3Error) -> S3Error {
        shield(self.may_list, failed)
    }
}

impl Door {
    /// Everything comes from `metadata`.
    pub fn new(metadata: Arc<dyn MetadataClient>) -> Door {
        Door { metadata, policies: Remembered::new(ConfigKind::Policy, read_policy) }
    }

    /// What is known of the bucket of a name.
    pub async fn bucket(&self, name: &str, caller: &Caller) -> S3Result<Arc<BucketAccess>> {
        let row = self.metadata.bucket(name).await.map_err(error::lookup)?.ok_or_else(error::no_such_bucket)?;
        let policy = self.policies.get(self.metadata.as_ref(), &row).await?;
        let owner = match caller.account().filter(|account| account.id == row.owner) {
            Some(account) => account.clone(),
            None => self.account(&row.owner).await?,
        };
        Ok(Arc::new(BucketAccess {
            acl: rows::acl(row.acl.as_ref(), rows::canonical(&row.owner)),
            ownership: rows::ownership(row.ownership),
            block: rows::block(row.block.as_ref()).and(rows::block(owner.block.as_ref())),
            policy,
            owner,
            row: Arc::new(row),
        }))
    }

    /// An account. One that is gone blocks nothing and has no name.
    async fn account(&self, id: &str) -> S3Result<AccountRow> {
        let found = self.metadata.account(id).await.map_err(error::lookup)?;
        Ok(found.unwrap_or_else(|| AccountRow {
            id: id.to_owned(),
            display_name: id.to_owned(),
            ..AccountRow::default()
        }))
    }

    async fn look(&self, bucket: &BucketRow, object: Object<'_>) -> S3Result<Found> {
        let found = match object.version_id {
            None => self.metadata.current_version(bucket.bucket_id(), object.key).await,
            Some("null") => self.metadata.version(bucket.bucket_id(), object.key, "").await,
            // No version is called that. The handler says what is wrong with it.
            Some("") => Ok(None),
            Some(id) => self.metadata.version(bucket.bucket_id(), object.key, id).await,
        };
        Ok(found.map_err(error::lookup)?.map_or(Found::Absent, |row| Found::Version(Arc::new(row))))
    }

    /// Whether a request that names no bucket, or one that need not exist, may go on.
    pub fn authorise_account(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        facts: &Facts<'_>,
        bucket: &str,
    ) -> S3Result<Authorised> {
        let owner = caller.signed()?.id.clone();
        let actions = action::of_operation(facts.operation, facts.extras());
        let (whence, asked) = contexts(&caller, facts, &owner, bucket::DEFAULT_REGION.to_owned());
        let resource = format!("arn:aws:s3:::{bucket}");
        let mut authorised = Authorised::new(self, caller, None, (whence, Arc::new(asked)), facts);
        let pending = Pending { actions, about: About::Account { resource, owner } };
        if says_in_body(facts.operation).iter().any(|key| authorised.caller.names_key(key)) {
            authorised.may_list = OnceLock::new();
            authorised.pending = Some(pending);
            return Ok(authorised);
        }
        let context = Arc::clone(&authorised.context);
        authorised.decide_pending(&pending, &context)?;
        Ok(authorised)
    }

    /// Whether a request that names a bucket, and perhaps an object in it, may go on.
    pub async fn authorise(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        facts: &Facts<'_>,
        bucket: &str,
        object: Option<Object<'_>>,
    ) -> S3Result<Authorised> {
        let access = self.bucket(bucket, &caller).await?;
        let asked = access.policy.is_some() || caller.has_policies() || DECIDES_AGAIN.contains(&facts.operation);
        let contexts = match asked {
            true => {
                let (whence, mut asked) = contexts(&caller, facts, &access.row.owner, bucket::region(&access.row));
                if let Some(object) = object
                    && uploads::are_asked(facts, access.policy.as_deref().into_iter().chain(caller.policies()))
                {
                    uploads::fill(&mut asked, self.metadata.as_ref(), facts, &access.row, object.key).await?;
                }
                (whence, Arc::new(asked))
            }
            false => Default::default(),
        };
        let mut authorised = Authorised::new(self, caller, Some(access), contexts, facts);
        // Who may not bypass a lock is not refused for asking: the lock is what he meets then.
        let actions = action::of_operation(facts.operation, Extras { bypass: false, ..facts.extras() });
        if facts.operation == "DeleteObjects" {
            // Each key is decided by itself, once the keys are known. Whom nothing could allow any is told so at once.
            return if authorised.is_hopeless(&actions) { Err(denied()) } else { Ok(authorised) };
        }
        if says_in_body(facts.operation).iter().any(|key| authorised.depends_on(key)) {
            let object = object.ok_or_else(denied)?;
            let about = About::Object { key: object.key.to_owned(), version_id: object.version_id.map(str::to_owned) };
            authorised.may_list = OnceLock::new();
            authorised.pending = Some(Pending { actions, about });
            return Ok(authorised);
        }
        let (found, may_list) = authorised.decide(&actions, object).await?;
        (authorised.found, authorised.may_list) = (found, OnceLock::from(may_list));
        Ok(authorised)
    }
}

/// A decision that waits for the body.
#[derive(Debug)]
struct Pending {
    actions: Vec<&'static str>,
    about: About,
}

#[derive(Debug)]
enum About {
    /// A bucket that need not exist, or none in particular, by its ARN, and the account that asks.
    Account { resource: String, owner: String },
    /// An object of the bucket.
    Object { key: String, version_id: Option<String> },
}

/// What a request may do: the way to its bucket, an extension of each that was let through.
pub struct Authorised {
    door: Arc<Door>,
    caller: Arc<Caller>,
    access: Option<Arc<BucketAccess>>,
    /// Who, when and whence.
    whence: Arc<Context>,
    /// The same with what the operation is asked to do.
    context: Arc<Context>,
    /// The same with what its body says, once that was decided.
    settled: OnceLock<Arc<Context>>,
    budget: Budget,
    /// Whether the caller may list the bucket, once that was asked.
    lists: OnceLock<bool>,
    found: Found,
    /// Whether the caller may know of keys that are not there. Absent while the decision waits.
    may_list: OnceLock<bool>,
    pending: Option<Pending>,
    wants_bypass: bool,
    copies: bool,
    /// The list that it asks for.
    pub(super) list: super::lists::AskedList,
}

impl fmt::Debug for Authorised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorised").field("caller", &self.caller).field("found", &self.found).finish_non_exhaustive()
    }
}

impl Authorised {
    fn new(
        door: &Arc<Door>,
        caller: Arc<Caller>,
        access: Option<Arc<BucketAccess>>,
        (whence, context): (Arc<Context>, Arc<Context>),
        facts: &Facts<'_>,
    ) -> Authorised {
        Authorised {
            door: Arc::clone(door),
            caller,
            access,
            whence,
            context,
            settled: OnceLock::new(),
            budget: Budget::default(),
            lists: OnceLock::new(),
            found: Found::NotLooked,
            may_list: OnceLock::from(true),
            pending: None,
            wants_bypass: facts.extras().bypass,
            copies: matches!(facts.operation, "CopyObject" | "UploadPartCopy"),
            list: super::lists::AskedList::of(facts),
        }
    }

    /// Who asks.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// What is known of the bucket. Not before everything is decided.
    pub fn access(&self) -> S3Result<&Arc<BucketAccess>> {
        match (&self.access, self.may_list.get()) {
            (Some(access), Some(_)) => Ok(access),
            _ => Err(denied()),
        }
    }

    /// Refuses what waits for its body, and was not asked again with it.
    pub(super) fn decided(&self) -> S3Result<()> {
        self.may_list.get().map(|_| ()).ok_or_else(denied)
    }

    /// The bucket.
    pub fn bucket(&self) -> S3Result<Arc<BucketRow>> {
        Ok(Arc::clone(&self.access()?.row))
    }

    /// The version that the request names, if the decision needed it. Reads answer with it and look for no other.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// The bucket, whatever is still to be decided.
    pub(super) fn undecided(&self) -> Option<&BucketRow> {
        self.access.as_ref().map(|access| access.row.as_ref())
    }

    /// Whether governance retention of an object is not to keep the caller from anything: it is asked for, and allowed.
    pub fn bypasses(&self, object: Object<'_>) -> bool {
        self.wants_bypass && self.would("s3:BypassGovernanceRetention", object, None)
    }

    pub(crate) fn metadata(&self) -> &dyn MetadataClient {
        self.door.metadata.as_ref()
    }

    /// What the caller hears of a read that failed: of keys that are not there hears only who may list them.
    pub fn shield(&self, failed: S3Error) -> S3Error {
        // A copy has spoken of its source already, and of what it would replace it says nothing.
        shield(self.copies || self.may_list.get().copied().unwrap_or_default(), failed)
    }

    /// Whether the caller could not change the bucket's policy any more if it were this one.
    pub fn is_locked_out_by(&self, new: &Policy) -> bool {
        let Ok(access) = self.access() else { return true };
        let arn = format!("arn:aws:s3:::{}", access.row.name);
        let request = Request {
            caller: self.caller.principal(),
            action: "s3:PutBucketPolicy",
            resource: &arn,
            owner: &access.row.owner,
            context: &self.context,
        };
        self.with_policies(access.policy.as_deref(), |policies| locks_out(&request, policies, new))
    }

    /// Decides what was left until the body was read: `say` adds the condition keys that it has.
    pub async fn settle(&self, say: impl FnOnce(&mut Context)) -> S3Result<()> {
        let Some(pending) = &self.pending else { return Ok(()) };
        let mut context = Context::over(Arc::clone(&self.context));
        say(&mut context);
        let context = Arc::new(context);
        let may_list = match (&pending.about, &self.access) {
            (About::Account { .. }, _) => {
                self.decide_pending(pending, &context)?;
                true
            }
            (About::Object { key, version_id }, Some(access)) => {
                let object = Object { key, version_id: version_id.as_deref() };
                self.decide_in(access, (&self.whence, &context), &pending.actions, Some(object)).await?.1
            }
            (About::Object { .. }, None) => return Err(denied()),
        };
        // A second time says nothing new.
        let _ = self.settled.set(context);
        let _ = self.may_list.set(may_list);
        Ok(())
    }

    /// The decision about what belongs to an account and to no bucket.
    fn decide_pending(&self, pending: &Pending, context: &Context) -> S3Result<()> {
        let About::Account { resource: arn, owner } = &pending.about else { return Err(denied()) };
        let nobodys = Acl::private(rows::canonical(owner));
        let resource = Resource {
            bucket_acl: &nobodys,
            object_acl: None,
            ownership: Ownership::BucketOwnerEnforced,
            block: Block::default(),
        };
        let allowed = !pending.actions.is_empty()
            && pending.actions.iter().all(|action| {
                let request = Request { caller: self.caller.principal(), action, resource: arn, owner, context };
                heard(&request, self.with_policies(None, |policies| authorise(&request, policies, &resource)))
            });
        if allowed { Ok(()) } else { Err(denied()) }
    }

    /// Whether the caller may do all of these with the bucket that the request makes, by what it has said of it until now.
    pub fn may_make(&self, bucket: &str, actions: &[&'static str]) -> S3Result<()> {
        self.decided()?;
        let owner = self.caller.signed()?.id.clone();
        let about = About::Account { resource: format!("arn:aws:s3:::{bucket}"), owner };
        self.decide_pending(&Pending { actions: actions.to_vec(), about }, self.said())
    }

    fn with_policies<T>(&self, resource: Option<&Policy>, decide: impl FnOnce(&Policies<'_>) -> T) -> T {
        self.caller.with_policies(resource, |policies| decide(&Policies { budget: Some(&self.budget), ..*policies }))
    }

    /// What is known of the request by now.
    fn said(&self) -> &Arc<Context> {
        self.settled.get().unwrap_or(&self.context)
    }

    /// Whether the caller may do all of these with a key of the bucket, as the request is.
    pub async fn may(&self, actions: &[&'static str], object: Object<'_>) -> S3Result<()> {
        self.decide(actions, Some(object)).await.map(drop)
    }

    /// Whether the caller may do all of these with a key of the bucket, whatever the request says for its own operation.
    pub async fn may_besides(&self, actions: &[&'static str], object: Object<'_>) -> S3Result<()> {
        let access = self.access()?;
        self.decide_in(access, (&self.whence, &self.whence), actions, Some(object)).await.map(drop)
    }

    /// Whether an action would be allowed on an object that is at hand, for what an answer shows only to some.
    pub fn would(&self, action: &'static str, object: Object<'_>, version: Option<&VersionRow>) -> bool {
        let Ok(access) = self.access() else { return false };
        self.allows(access, self.said(), action, Some(object), version)
    }

    /// Whether the caller may copy from an object, its tags too if they are copied.
    pub async fn source(
        &self,
        bucket: &str,
        object: Object<'_>,
        copies_tags: bool,
        expected_owner: Option<&str>,
    ) -> S3Result<Source> {
        let access = self.door.bucket(bucket, &self.caller).await?;
        let mut whence = Context::over(Arc::clone(&self.whence));
        fill_bucket(&mut whence, &access.row.owner, bucket::region(&access.row));
        let whence = Arc::new(whence);
        let actions = action::copy_source(object.version_id.is_some(), copies_tags);
        let (found, may_list) = self.decide_in(&access, (&whence, &whence), &actions, Some(object)).await?;
        check_expected_owner(&access.row, expected_owner)?;
        Ok(Source { bucket: Arc::clone(&access.row), found, may_list })
    }

    async fn decide(&self, actions: &[&'static str], object: Option<Object<'_>>) -> S3Result<(Found, bool)> {
        let access = self.access.as_ref().ok_or_else(denied)?;
        self.decide_in(access, (&self.whence, self.said()), actions, object).await
    }

    /// The decision. Also says whether the caller may know of keys that are not there.
    async fn decide_in(
        &self,
        access: &BucketAccess,
        (whence, context): (&Arc<Context>, &Arc<Context>),
        actions: &[&'static str],
        object: Option<Object<'_>>,
    ) -> S3Result<(Found, bool)> {
        // What is said of a new object is no question of the list of the one that is there.
        let creates = actions.contains(&"s3:PutObject");
        let by_list = !creates && actions.iter().any(|action| matches!(needs(action), Some(Needs::Object(_))));
        let by_tags =
            actions.iter().any(|action| keys::has_existing_tags(action)) && self.depends_on_in(access, EXISTING_TAGS);
        let by_owner = !creates && actions.iter().any(|action| asks_whose(action));
        let found = match object {
            Some(object) if by_tags || (by_owner && access.ownership.uses_lists()) => {
                self.door.look(&access.row, object).await?
            }
            _ => Found::NotLooked,
        };
        let may_list = object.is_none() || self.lists(access, whence);
        let there = found.version().map(Arc::as_ref);
        let version = there.filter(|_| !creates);
        // Whom the bucket's list lets put an object there may say what list and tags it has: it is to be his. Not so a user, who
        // needs each action from its own account.
        let put = || self.judge(access, context, "s3:PutObject", object, (None, None));
        let of_new = |action: &str| matches!(action, "s3:PutObjectAcl" | "s3:PutObjectTagging");
        // A list that gives nothing to anybody but the bucket's owner opens nothing: whoever may put the object may say it (S3's own
        // example of a policy that wants the owner to get full control allows PutObject alone), a user if its own account allows it.
        let harmless = self.list.opens_nothing(rows::canonical(&access.row.owner));
        let by_itself = !self.caller.has_policies();
        let comes_with_put = |action: &str, put: Decision| match put {
            Decision::Allow(Reason::Granted) if by_itself => true,
            Decision::Allow(_) if harmless && action == "s3:PutObjectAcl" => {
                by_itself || self.own_side_allows(access, context, action, object)
            }
            Decision::Allow(_) | Decision::Deny(_) => false,
        };
        let verdict =
            actions.iter().map(|action| match self.judge(access, context, action, object, (there, version)) {
                Decision::Deny(reason)
                    if creates
                        && of_new(action)
                        && !matches!(reason, Reason::Denied(..))
                        && comes_with_put(action, put()) =>
                {
                    Decision::Allow(Reason::Granted)
                }
                decision => decision,
            });
        let refused = verdict.filter(|decision| !decision.is_allowed()).last();
        match refused {
            None if !actions.is_empty() => Ok((found, may_list)),
            // Whoever may list the keys would see that there is none: that nobody granted him anything on it is no answer.
            Some(decision) if by_list && may_list && !decision.is_explicit() && matches!(found, Found::Absent) => {
                Err(match object.and_then(|object| object.version_id) {
                    Some(_) => s3_error!(NoSuchVersion, "The specified version does not exist."),
                    None => error::no_such_key(),
                })
            }
            _ => Err(denied()),
        }
    }

    /// Whether the caller may list a bucket: in that of the request the answer is the same for each key.
    fn lists(&self, access: &BucketAccess, whence: &Arc<Context>) -> bool {
        let ask = || self.allows(access, whence, "s3:ListBucket", None, None);
        match &self.access {
            Some(own) if std::ptr::eq(own.as_ref(), access) => *self.lists.get_or_init(ask),
            _ => ask(),
        }
    }

    fn allows(
        &self,
        access: &BucketAccess,
        context: &Arc<Context>,
        action: &str,
        object: Option<Object<'_>>,
        version: Option<&VersionRow>,
    ) -> bool {
        self.judge(access, context, action, object, (version, version)).is_allowed()
    }

    /// Whether the caller's own account allows an action on an object, whatever the bucket says.
    fn own_side_allows(
        &self,
        access: &BucketAccess,
        context: &Arc<Context>,
        action: &str,
        object: Option<Object<'_>>,
    ) -> bool {
        let (caller, resource) = (self.caller.principal(), arn(access, action, object));
        let context = &about(context, action, object, None);
        let request = Request { caller, action, resource: &resource, owner: &access.row.owner, context };
        self.with_policies(None, |policies| own_side_allows(&request, policies))
    }

    /// `there`: the version that is there; `version`: the same if the action is about it and not about another one in its place.
    fn judge(
        &self,
        access: &BucketAccess,
        context: &Arc<Context>,
        action: &str,
        object: Option<Object<'_>>,
        (there, version): (Option<&VersionRow>, Option<&VersionRow>),
    ) -> Decision {
        let arn = arn(access, action, object);
        let object_acl =
            version.map(|row| rows::acl(row.acl.as_ref(), rows::canonical(rows::owner(row, &access.row.owner))));
        let resource = Resource {
            bucket_acl: &access.acl,
            object_acl: object_acl.as_ref(),
            ownership: access.ownership,
            block: access.block,
        };
        let caller = self.caller.principal();
        let context = &about(context, action, object, there);
        let request = Request { caller, action, resource: &arn, owner: &access.row.owner, context };
        let decision =
            self.with_policies(access.policy.as_deref(), |policies| authorise(&request, policies, &resource));
        heard(&request, decision.clone());
        decision
    }

    /// Whether what is decided depends on a condition key that begins like this, in lower case.
    fn depends_on(&self, key: &str) -> bool {
        self.access.as_ref().is_some_and(|access| self.depends_on_in(access, key))
    }

    fn depends_on_in(&self, access: &BucketAccess, key: &str) -> bool {
        access.policy.as_ref().is_some_and(|policy| policy.names_key(key)) || self.caller.names_key(key)
    }

    /// Whether there is nothing that could allow any of these on any key.
    fn is_hopeless(&self, actions: &[&'static str]) -> bool {
        let Some(access) = &self.access else { return true };
        let at_home = self.caller.account().is_some_and(|account| account.id == access.row.owner);
        let by_policy = access.policy.is_some() || (at_home && self.caller.has_own_policies());
        !by_policy && !actions.iter().all(|action| self.allows(access, self.said(), action, None, None))
    }
}

/// What an action is about, as policies name it.
fn arn(access: &BucketAccess, action: &str, object: Option<Object<'_>>) -> String {
    let bucket = &access.row.name;
    match (action::subject(action), object) {
        (Some(Subject::Object), Some(object)) => format!("arn:aws:s3:::{bucket}/{}", object.key),
        _ => format!("arn:aws:s3:::{bucket}"),
    }
}

/// The condition keys of a request about a bucket of `owner`'s: those of any, and these with those of its operation.
fn contexts(caller: &Caller, facts: &Facts<'_>, owner: &str, region: String) -> (Arc<Context>, Context) {
    let mut whence = facts.whence();
    caller.fill(&mut whence);
    fill_bucket(&mut whence, owner, region);
    let whence = Arc::new(whence);
    let mut asked = Context::over(Arc::clone(&whence));
    facts.fill_asked(&mut asked);
    (whence, asked)
}

fn fill_bucket(context: &mut Context, owner: &str, region: String) {
    context.set("s3:ResourceAccount", owner);
    context.set("aws:ResourceAccount", owner);
    context.set("aws:RequestedRegion", region);
}

/// The beginnings of the condition keys that an operation says in its body.
fn says_in_body(operation: &str) -> &'static [&'static str] {
    SAID_IN_BODIES.iter().find(|(name, _)| *name == operation).map_or(&[], |(_, keys)| keys)
}

/// The condition keys of a decision about an object: one of many keys, or the source of a copy, has a version and tags of its own.
fn about(context: &Arc<Context>, action: &str, object: Option<Object<'_>>, there: Option<&VersionRow>) -> Context {
    let mut context = Context::over(Arc::clone(context));
    if let Some(id) = object.and_then(|object| object.version_id)
        && keys::has(action, "s3:VersionId")
    {
        context.set("s3:VersionId", id);
    }
    if keys::has_existing_tags(action) {
        for tag in there.map_or(&[][..], |row| &row.tags) {
            // Keys that differ in case only are one key here with several values: any of them denies, and only all of them allow.
            context.add(&format!("s3:ExistingObjectTag/{}", tag.key), tag.value.as_str());
        }
    }
    context
}

/// What is told of a failed read to somebody who may, or may not, know which keys there are.
fn shield(may_list: bool, failed: S3Error) -> S3Error {
    let tells = matches!(failed.code().as_str(), "NoSuchKey" | "NoSuchVersion" | "MethodNotAllowed");
    if tells && !may_list { denied() } else { failed }
}

/// Tells whoever operates this why something was denied. The client hears no more than that it was.
fn heard(request: &Request<'_>, decision: Decision) -> bool {
    if let Decision::Deny(reason) = &decision {
        tracing::debug!(action = request.action, resource = request.resource, ?reason, "denied");
    }
    decision.is_allowed()
}
