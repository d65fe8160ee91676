use super::*;
use crate::policy::document::Kind;
use crate::policy::principal::Account;
use proptest::prelude::*;

fn account(id: &str) -> Account {
    Account { id: id.into(), canonical: format!("canonical-{id}") }
}

fn root(id: &str) -> Caller {
    Caller::Account(account(id))
}

fn user(id: &str, name: &str) -> Caller {
    Caller::User { account: account(id), name: name.into() }
}

fn session() -> Caller {
    Caller::Session { account: account("1"), role: "r".into(), session: "s".into() }
}

fn identity(statements: &str) -> Policy {
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
    Policy::parse(&text, Kind::Identity).expect("a policy")
}

fn of_bucket(statements: &str) -> Policy {
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
    Policy::parse(&text, Kind::Bucket("b")).expect("a policy")
}

fn allow(principal: &str) -> String {
    statement("Allow", principal)
}

fn statement(effect: &str, principal: &str) -> String {
    format!(r#"{{"Effect":"{effect}","Principal":{principal},"Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"}}"#)
}

const ALL: &str = r#"{"Effect":"Allow","Action":"*","Resource":"*"}"#;
const NOTHING_BUT_LISTING: &str = r#"{"Effect":"Allow","Action":"s3:ListBucket","Resource":"*"}"#;

/// A read of `b/k`, which belongs to account 1.
fn read(caller: &Caller, policies: &Policies<'_>) -> Decision {
    let context = Context::default();
    let request =
        Request { caller, action: "s3:GetObject", resource: "arn:aws:s3:::b/k", owner: "1", context: &context };
    evaluate(&request, policies)
}

fn with<'a>(identity: &'a [&'a Policy], resource: Option<&'a Policy>) -> Policies<'a> {
    Policies { identity, resource, ..Policies::default() }
}

#[test]
fn nothing_is_allowed_by_itself() {
    for caller in [Caller::Anonymous, user("1", "anna"), session(), root("2"), user("2", "bert")] {
        assert!(!read(&caller, &Policies::default()).is_allowed(), "{caller:?}");
    }
    assert_eq!(read(&root("1"), &Policies::default()), Decision::Allow(Reason::OwnAccount));
}

#[test]
fn a_denial_wins() {
    let all = identity(ALL);
    let deny = identity(r#"{"Sid":"no","Effect":"Deny","Action":"s3:Get*","Resource":"arn:aws:s3:::b/*"}"#);
    let denied = |source| Decision::Deny(Reason::Denied(source, "no".into()));
    let anna = user("1", "anna");
    assert!(read(&anna, &with(&[&all], None)).is_allowed());
    assert_eq!(read(&anna, &with(&[&all, &deny], None)), denied(Source::Identity));
    assert_eq!(read(&anna, &with(&[&deny, &all], None)), denied(Source::Identity));
    for (boundary, session, source) in
        [(Some(&deny), Some(&all), Source::Boundary), (Some(&all), Some(&deny), Source::Session)]
    {
        let policies = Policies { identity: &[&all], boundary, session, ..Policies::default() };
        assert_eq!(read(&anna, &policies), denied(source));
    }
    let everybody = of_bucket(&format!("{},{}", allow(r#""*""#), statement("Deny", r#"{"AWS":"1"}"#)));
    for caller in [root("1"), anna, session()] {
        assert!(read(&caller, &with(&[&all], Some(&everybody))).is_explicit(), "{caller:?} belongs to account 1");
    }
    assert!(read(&Caller::Anonymous, &with(&[], Some(&everybody))).is_allowed());
}

#[test]
fn anonymous_callers_need_everybody() {
    let of = |principal| read(&Caller::Anonymous, &with(&[], Some(&of_bucket(&allow(principal))))).is_allowed();
    assert!(of(r#""*""#) && of(r#"{"AWS":"*"}"#) && of(r#"{"AWS":["1","*"]}"#));
    assert!(!of(r#"{"AWS":"1"}"#) && !of(r#"{"CanonicalUser":"canonical-1"}"#));
}

/// IAM User Guide, "Determining whether a request is allowed or denied within an account".
#[test]
fn the_bucket_policy_within_the_account() {
    let anna = user("1", "anna");
    let of =
        |caller: &Caller, principal: &str| read(caller, &with(&[], Some(&of_bucket(&allow(principal))))).is_allowed();
    assert!(of(&anna, r#"{"AWS":"arn:aws:iam::1:user/anna"}"#) && of(&anna, r#""*""#));
    assert!(!of(&anna, r#"{"AWS":"arn:aws:iam::1:root"}"#), "the account decides, by its own policies");
    assert!(!of(&anna, r#"{"CanonicalUser":"canonical-1"}"#) && !of(&anna, r#"{"AWS":"arn:aws:iam::1:user/bert"}"#));
    assert!(of(&session(), r#"{"AWS":"arn:aws:iam::1:role/r"}"#));
    assert!(of(&session(), r#"{"AWS":"arn:aws:sts::1:assumed-role/r/s"}"#));
}

#[test]
fn another_account_needs_both_sides() {
    let (all, listing) = (identity(ALL), identity(NOTHING_BUT_LISTING));
    let bert = user("2", "bert");
    for principal in [r#""*""#, r#"{"AWS":"2"}"#, r#"{"AWS":"arn:aws:iam::2:user/bert"}"#] {
        let bucket = of_bucket(&allow(principal));
        assert!(!read(&bert, &with(&[], Some(&bucket))).is_allowed(), "{principal}");
        assert!(!read(&bert, &with(&[&listing], Some(&bucket))).is_allowed(), "{principal}");
        assert!(read(&bert, &with(&[&all], Some(&bucket))).is_allowed(), "{principal}");
    }
    assert!(!read(&bert, &with(&[&all], None)).is_allowed(), "nobody gives himself another's bucket");
    let bucket = of_bucket(&allow(r#"{"AWS":"2"}"#));
    assert!(read(&root("2"), &with(&[], Some(&bucket))).is_allowed());
    assert!(!read(&root("3"), &with(&[], Some(&bucket))).is_allowed());
}

#[test]
fn boundaries_and_session_policies() {
    let (all, listing) = (identity(ALL), identity(NOTHING_BUT_LISTING));
    let anna = user("1", "anna");
    let bounded = |resource| Policies { resource, boundary: Some(&listing), ..Policies::default() };
    let policies = Policies { identity: &[&all], ..bounded(None) };
    assert_eq!(read(&anna, &policies), Decision::Deny(Reason::NotAllowedBy(Source::Boundary)));
    let by_name = of_bucket(&allow(r#"{"AWS":"arn:aws:iam::1:user/anna"}"#));
    assert!(read(&anna, &bounded(Some(&by_name))).is_allowed(), "named directly, a boundary's silence is no denial");
    let everybody = of_bucket(&allow(r#""*""#));
    assert!(!read(&anna, &bounded(Some(&everybody))).is_allowed());
    let by_role = of_bucket(&allow(r#"{"AWS":"arn:aws:iam::1:role/r"}"#));
    let in_session = |resource| Policies { resource, session: Some(&listing), ..Policies::default() };
    assert!(!read(&session(), &in_session(Some(&by_role))).is_allowed());
    let by_session = of_bucket(&allow(r#"{"AWS":"arn:aws:sts::1:assumed-role/r/s"}"#));
    assert!(read(&session(), &in_session(Some(&by_session))).is_allowed());
    let policies = Policies { identity: &[&all], ..in_session(None) };
    assert_eq!(read(&session(), &policies), Decision::Deny(Reason::NotAllowedBy(Source::Session)));
}

#[test]
fn what_is_left_out() {
    let of = |text: &str, caller: &Caller| read(caller, &with(&[], Some(&of_bucket(text)))).is_explicit();
    let but_anna = r#"{"Effect":"Deny","NotPrincipal":{"AWS":["arn:aws:iam::1:user/anna","arn:aws:iam::1:root"]},
        "Action":"s3:*","Resource":"arn:aws:s3:::b/*"}"#;
    assert!(!of(but_anna, &user("1", "anna")) && !of(but_anna, &root("1")));
    assert!(of(but_anna, &user("1", "bert")) && of(but_anna, &Caller::Anonymous) && of(but_anna, &root("2")));
    let not = |text: &str| {
        let text = format!(r#"{{"Effect":"Allow",{text}}}"#);
        read(&user("1", "anna"), &with(&[&identity(&text)], None)).is_allowed()
    };
    assert!(not(r#""NotAction":"s3:PutObject","Resource":"*""#) && !not(r#""NotAction":"s3:get*","Resource":"*""#));
    assert!(not(r#""Action":"*","NotResource":"arn:aws:s3:::c/*""#));
    assert!(!not(r#""Action":"*","NotResource":"arn:aws:s3:::b/*""#));
    assert!(!not(r#""Action":"*","NotResource":"arn:aws:s3:::${aws:absent}/*""#), "without a value, nothing is meant");
}

#[test]
fn actions_and_resources_are_compared_as_they_are() {
    let of = |statement: &str| read(&user("1", "anna"), &with(&[&identity(statement)], None)).is_allowed();
    let with = |action: &str, resource: &str| {
        of(&format!(r#"{{"Effect":"Allow","Action":"{action}","Resource":"{resource}"}}"#))
    };
    assert!(with("S3:getOBJECT", "arn:aws:s3:::b/k") && with("s3:*", "arn:aws:s3:::b/?"));
    assert!(!with("s3:GetObjectVersion", "*") && !with("s3:GetObjec", "*"));
    assert!(!with("s3:GetObject", "arn:aws:s3:::b") && !with("s3:GetObject", "arn:aws:s3:::B/k"));
    assert!(!with("s3:GetObject", "arn:aws:s3:::b/K") && !with("s3:GetObject", "arn:aws:s3:::b/%6b"));
}

#[test]
fn variables_in_resources() {
    let policy =
        identity(r#"{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/${aws:username}/*"}"#);
    let read = |name: &str, resource: &str| {
        let caller = user("1", "anna");
        let context = Context::from_iter([("aws:username", name)]);
        let request = Request { caller: &caller, action: "s3:GetObject", resource, owner: "1", context: &context };
        evaluate(&request, &with(&[&policy], None)).is_allowed()
    };
    assert!(read("anna", "arn:aws:s3:::b/anna/x") && !read("anna", "arn:aws:s3:::b/bert/x"));
    assert!(!read("*", "arn:aws:s3:::b/bert/x") && read("*", "arn:aws:s3:::b/*/x"));
    let old = r#"{"Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${aws:username}"}}"#;
    let old = Policy::parse(old, Kind::Identity).expect("a policy");
    let (caller, context) = (user("1", "anna"), Context::from_iter([("aws:username", "k")]));
    let request = Request {
        caller: &caller,
        action: "s3:GetObject",
        resource: "arn:aws:s3:::b/k",
        owner: "1",
        context: &context,
    };
    assert!(!evaluate(&request, &with(&[&old], None)).is_allowed(), "version 2008-10-17 has no variables");
}

#[test]
fn conditions_are_joined_with_and() {
    let policy = identity(
        r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{
            "IpAddress":{"aws:SourceIp":"10.0.0.0/8"},"StringEquals":{"s3:prefix":["a","b"],"aws:UserAgent":"x"}}}"#,
    );
    let of = |pairs: &[(&str, &str)]| {
        let (caller, context) = (user("1", "anna"), Context::from_iter(pairs.iter().copied()));
        let request = Request {
            caller: &caller,
            action: "s3:ListBucket",
            resource: "arn:aws:s3:::b",
            owner: "1",
            context: &context,
        };
        evaluate(&request, &with(&[&policy], None)).is_allowed()
    };
    assert!(of(&[("aws:SourceIp", "10.1.1.1"), ("s3:prefix", "b"), ("aws:useragent", "x")]));
    assert!(!of(&[("aws:SourceIp", "11.1.1.1"), ("s3:prefix", "b"), ("aws:useragent", "x")]));
    assert!(!of(&[("aws:SourceIp", "10.1.1.1"), ("s3:prefix", "c"), ("aws:useragent", "x")]));
    assert!(!of(&[("aws:SourceIp", "10.1.1.1"), ("s3:prefix", "b")]));
}

/// A statement over few words, so that many apply.
fn any_statement() -> impl Strategy<Value = String> {
    let effect = prop_oneof![3 => Just("Allow"), 1 => Just("Deny")];
    let action = prop_oneof![Just("*"), Just("s3:GetObject"), Just("s3:Put*")];
    let resource = prop_oneof![Just("*"), Just("arn:aws:s3:::b/*"), Just("arn:aws:s3:::b/x")];
    (effect, action, resource).prop_map(|(effect, action, resource)| {
        format!(r#"{{"Effect":"{effect}","Action":"{action}","Resource":"{resource}"}}"#)
    })
}

proptest! {
    /// The order of statements and policies does not matter, a Deny more never allows more, and a boundary never allows more.
    #[test]
    fn laws(mut statements in proptest::collection::vec(any_statement(), 1..6)) {
        let anna = user("1", "anna");
        let decide = |statements: &[String]| read(&anna, &with(&[&identity(&statements.join(","))], None)).is_allowed();
        let before = decide(&statements);
        let one_by_one: Vec<Policy> = statements.iter().map(|one| identity(one)).collect();
        let refs: Vec<&Policy> = one_by_one.iter().collect();
        prop_assert_eq!(read(&anna, &with(&refs, None)).is_allowed(), before);
        let bounded = Policies { identity: &refs, boundary: refs.first().copied(), ..Policies::default() };
        prop_assert!(before || !read(&anna, &bounded).is_allowed());
        statements.reverse();
        prop_assert_eq!(decide(&statements), before);
        statements.push(r#"{"Effect":"Deny","Action":"s3:GetObject","Resource":"*"}"#.to_owned());
        prop_assert!(!decide(&statements));
    }

    /// The same as a table says: allowed if and only if an Allow applies and no Deny does.
    #[test]
    fn as_a_table(statements in proptest::collection::vec(any_statement(), 1..6)) {
        let applies = |text: &str| !text.contains("Put*") && !text.contains("b/x");
        let any = |effect: &str| statements.iter().any(|text| text.contains(effect) && applies(text));
        let decided = read(&user("1", "anna"), &with(&[&identity(&statements.join(","))], None)).is_allowed();
        prop_assert_eq!(decided, any("Allow") && !any("Deny"));
    }
}

/// Access logs are delivered to who says so, and not to every bucket that is open to everybody.
#[test]
fn services_are_let_in_by_name() {
    const LOGS: &str = "logging.s3.amazonaws.com";
    let may = |statements: &str, from: &str| {
        let context = Context::from_iter([("aws:SourceArn", from)]);
        let (caller, action) = (Caller::Anonymous, "s3:PutObject");
        let request =
            Request { caller: &caller, action, resource: "arn:aws:s3:::b/log/", owner: "1", context: &context };
        allows_service(&of_bucket(statements), LOGS, &request)
    };
    let of = |effect: &str, principal: &str, resource: &str| {
        format!(
            r#"{{"Effect":"{effect}","Principal":{principal},"Action":"s3:PutObject","Resource":"arn:aws:s3:::b/{resource}",
            "Condition":{{"ArnLike":{{"aws:SourceArn":"arn:aws:s3:::a"}}}}}}"#
        )
    };
    let (service, from) = (format!(r#"{{"Service":"{LOGS}"}}"#), "arn:aws:s3:::a");
    let good = of("Allow", &service, "log/*");
    assert!(may(&good, from) && !may(&good, "arn:aws:s3:::c"));
    assert!(!may(&of("Allow", &service, "other/*"), from));
    for principal in [r#""*""#, r#"{"AWS":"*"}"#, r#"{"AWS":"1"}"#, r#"{"Service":"replication.s3.amazonaws.com"}"#] {
        assert!(!may(&of("Allow", principal, "log/*"), from), "{principal}");
    }
    for principal in [r#""*""#, &service] {
        assert!(!may(&format!("{good},{}", of("Deny", principal, "*")), from), "{principal}");
    }
}

/// Fails without the bound: an endless comparison, or an Allow where the Deny that could not be judged was left out.
#[test]
fn what_takes_too_long_to_judge_is_denied() {
    let hostile = format!("*{}b", "a".repeat(2000));
    let deny = |operator: &str| {
        of_bucket(&format!(
            r#"{{"Effect":"Deny","Principal":"*","Action":"*","Resource":"*","Condition":{{"{operator}":{{"aws:UserAgent":"{hostile}"}}}}}}"#
        ))
    };
    let ask = |policy: &Policy, agent: String| {
        let (caller, context) = (root("1"), Context::from_iter([("aws:UserAgent", agent)]));
        let request = Request {
            caller: &caller,
            action: "s3:GetObject",
            resource: "arn:aws:s3:::b/k",
            owner: "1",
            context: &context,
        };
        evaluate(&request, &with(&[], Some(policy)))
    };
    let like = deny("StringLike");
    assert!(ask(&like, "curl".into()).is_allowed());
    for agent in ["a".repeat(4000), "a".repeat(60_000)] {
        assert!(ask(&like, agent.clone()).is_explicit(), "no list may allow it");
        assert!(ask(&deny("StringNotLike"), agent).is_explicit());
    }
}

/// A policy of 20 KiB, honestly meant, is far from the bound.
#[test]
fn large_policies_are_cheap() {
    let statement = |n: usize| {
        format!(
            r#"{{"Effect":"Allow","Principal":"*","Action":["s3:GetObject","s3:PutObject"],"Resource":"arn:aws:s3:::b/team-{n}/*"}}"#
        )
    };
    let policy = of_bucket(&(0..150).map(statement).collect::<Vec<_>>().join(","));
    let (caller, context, resource) =
        (user("1", "anna"), Context::default(), format!("arn:aws:s3:::b/{}", "k".repeat(1024)));
    let request =
        Request { caller: &caller, action: "s3:GetObject", resource: &resource, owner: "1", context: &context };
    let work = Work::default();
    assert!(policy.statements.iter().all(|statement| statement.applies(&request, &work).is_none()));
    let steps = crate::policy::work::MAX_STEPS - work.left();
    assert!(steps < 20_000 && !work.is_spent(), "{steps}");
}

/// A request for a thousand keys asks a thousand times, and must not be judged a thousand times as long as one key may be.
#[test]
fn decisions_of_one_request_share_a_budget() {
    let names: Vec<String> = (0..8).map(|i| format!(r#""*{}{i}b""#, "a".repeat(1000))).collect();
    let deny = identity(&format!(
        r#"{{"Effect":"Deny","Action":"s3:*","Resource":"*","Condition":{{"StringLike":{{"aws:UserAgent":[{}]}}}}}}"#,
        names.join(",")
    ));
    let all = identity(r#"{"Effect":"Allow","Action":"s3:*","Resource":"*"}"#);
    let context = Context::from_iter([("aws:UserAgent", "a".repeat(1020))]);
    let (caller, budget) = (user("1", "anna"), Budget::default());
    let ask = |identity: &[&Policy], budget| {
        let request = Request {
            caller: &caller,
            action: "s3:DeleteObject",
            resource: "arn:aws:s3:::b/k",
            owner: "1",
            context: &context,
        };
        evaluate(&request, &Policies { identity, budget, ..Policies::default() })
    };
    let decided = (0..1000).filter(|_| ask(&[&all, &deny], Some(&budget)).is_allowed()).count();
    let left = budget.work();
    assert!(left.left() == 0 && (10..1000).contains(&decided), "{decided} decisions, {} steps left", left.left());
    assert!(ask(&[&all], None).is_allowed() && ask(&[&all], Some(&budget)).is_explicit());
    // What honest policies need for as many keys is far less.
    let honest = Budget::default();
    assert!((0..1000).all(|_| ask(&[&all], Some(&honest)).is_allowed()) && honest.work().left() > 1 << 18);
}
