//! Reading policies: JSON to statements.

use super::Effect;
use super::action;
use super::arn::ArnPattern;
use super::condition::Condition;
use super::context::Context;
use super::document::{Kind, MAX_STATEMENTS, MAX_VALUES, Only, Policy, PolicyError, Statement};
use super::keys;
use super::pattern::{Pattern, Syntax};
use super::principal::Principal;
use super::work::Work;
use crate::json::{self, Json};
use std::collections::HashSet;

/// What is read from, and how much may still come.
struct Reader<'a> {
    kind: Kind<'a>,
    variables: bool,
    values_left: usize,
}

pub(super) fn policy(text: &str, kind: Kind<'_>) -> Result<Policy, PolicyError> {
    let Json::Object(elements) = json::parse(text, kind.limits())? else {
        return Err(PolicyError::Type("policy"));
    };
    // Without a version a policy is in the first one, which has no variables.
    let mut reader = Reader { kind, variables: false, values_left: MAX_VALUES };
    let (mut id, mut found) = (String::new(), None);
    for (name, value) in elements {
        match name.as_str() {
            "Version" => match text_of(value, "Version")?.as_str() {
                "2012-10-17" => reader.variables = true,
                "2008-10-17" => {}
                other => return Err(PolicyError::Version(other.to_owned())),
            },
            "Id" => id = text_of(value, "Id")?,
            "Statement" => found = Some(value),
            _ => return Err(PolicyError::Element(name)),
        }
    }
    let found = match found.ok_or(PolicyError::Missing("Statement"))? {
        Json::List(list) if !list.is_empty() => list,
        one @ Json::Object(_) => vec![one],
        _ => return Err(PolicyError::Type("Statement")),
    };
    if found.len() > MAX_STATEMENTS {
        return Err(PolicyError::TooMany(MAX_STATEMENTS, "statements"));
    }
    let (mut statements, mut sids) = (Vec::with_capacity(found.len()), HashSet::new());
    for statement in found {
        let statement = reader.statement(statement)?;
        if !statement.sid.is_empty() && !sids.insert(statement.sid.clone()) {
            return Err(PolicyError::Sid(statement.sid));
        }
        statements.push(statement);
    }
    Ok(Policy { id, statements })
}

fn text_of(value: Json, element: &'static str) -> Result<String, PolicyError> {
    match value {
        Json::Text(text) => Ok(text),
        _ => Err(PolicyError::Type(element)),
    }
}

/// An element or its opposite, once.
fn set<T>(slot: &mut Option<T>, value: T, element: &'static str) -> Result<(), PolicyError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(PolicyError::Both(element)),
    }
}

impl Reader<'_> {
    fn statement(&mut self, value: Json) -> Result<Statement, PolicyError> {
        let Json::Object(elements) = value else { return Err(PolicyError::Type("Statement")) };
        let (mut sid, mut effect, mut conditions) = (String::new(), None, Vec::new());
        let (mut principals, mut actions, mut resources) = (None, None, None);
        for (name, value) in elements {
            match name.as_str() {
                "Sid" => sid = sid_of(value)?,
                "Effect" => effect = Some(effect_of(value)?),
                "Principal" => set(&mut principals, Only::These(self.principals(value)?), "Principal")?,
                "NotPrincipal" => set(&mut principals, Only::AllBut(self.principals(value)?), "Principal")?,
                "Action" => set(&mut actions, Only::These(self.actions(value)?), "Action")?,
                "NotAction" => set(&mut actions, Only::AllBut(self.actions(value)?), "Action")?,
                "Resource" => set(&mut resources, Only::These(self.resources(value)?), "Resource")?,
                "NotResource" => set(&mut resources, Only::AllBut(self.resources(value)?), "Resource")?,
                "Condition" => conditions = self.conditions(value)?,
                _ => return Err(PolicyError::Element(name)),
            }
        }
        let effect = effect.ok_or(PolicyError::Missing("Effect"))?;
        self.check_shape(effect, principals.as_ref(), resources.is_some())?;
        let actions = actions.ok_or(PolicyError::Missing("Action"))?;
        let statement = Statement { sid, effect, principals, actions, resources, conditions };
        if matches!(self.kind, Kind::Bucket(_)) {
            check_keys(&statement)?;
        }
        Ok(statement)
    }

    fn check_shape(
        &self,
        effect: Effect,
        principals: Option<&Only<Principal>>,
        resources: bool,
    ) -> Result<(), PolicyError> {
        let (names, about) = match self.kind {
            Kind::Identity => (false, true),
            Kind::Bucket(_) | Kind::Kept => (true, true),
            Kind::Trust => (true, false),
        };
        match (names, principals) {
            (true, None) => return Err(PolicyError::Missing("Principal")),
            (false, Some(_)) => return Err(PolicyError::Element("Principal".to_owned())),
            (_, Some(Only::AllBut(_))) if effect == Effect::Allow => return Err(PolicyError::AllowNotPrincipal),
            _ => {}
        }
        match (about, resources) {
            (true, false) => Err(PolicyError::Missing("Resource")),
            (false, true) => Err(PolicyError::Element("Resource".to_owned())),
            _ => Ok(()),
        }
    }

    /// One text or several.
    fn texts(&mut self, value: Json, element: &'static str) -> Result<Vec<String>, PolicyError> {
        let list = match value {
            Json::List(list) if !list.is_empty() => list,
            one @ Json::Text(_) => vec![one],
            _ => return Err(PolicyError::Type(element)),
        };
        self.count(list.len())?;
        list.into_iter().map(|item| text_of(item, element)).collect()
    }

    fn count(&mut self, values: usize) -> Result<(), PolicyError> {
        self.values_left = self.values_left.checked_sub(values).ok_or(PolicyError::TooMany(MAX_VALUES, "values"))?;
        Ok(())
    }

    fn principals(&mut self, value: Json) -> Result<Vec<Principal>, PolicyError> {
        let kinds = match value {
            Json::Text(text) if text == "*" => return Ok(vec![Principal::Everybody]),
            Json::Object(kinds) if !kinds.is_empty() => kinds,
            _ => return Err(PolicyError::Type("Principal")),
        };
        let mut principals = Vec::new();
        for (kind, named) in kinds {
            for text in self.texts(named, "Principal")? {
                principals.push(Principal::parse(&kind, &text)?);
            }
        }
        Ok(principals)
    }

    fn actions(&mut self, value: Json) -> Result<Vec<Pattern>, PolicyError> {
        let syntax = Syntax { wildcards: true, variables: false };
        let mut actions = Vec::new();
        for text in self.texts(value, "Action")? {
            let pattern = Pattern::parse(&text, syntax)?;
            let known = match self.kind {
                Kind::Bucket(_) | Kind::Kept => action::any(&pattern),
                Kind::Identity => text == "*" || action::is_well_formed(&text),
                Kind::Trust => text == "*" || text.to_ascii_lowercase().starts_with("sts:"),
            };
            if !known {
                return Err(PolicyError::Action(text));
            }
            actions.push(pattern);
        }
        Ok(actions)
    }

    fn resources(&mut self, value: Json) -> Result<Vec<ArnPattern>, PolicyError> {
        let mut resources = Vec::new();
        for text in self.texts(value, "Resource")? {
            let arn = ArnPattern::parse(&text, self.variables)?;
            if let Kind::Bucket(bucket) = self.kind
                && !may_be_in(&arn, bucket)
            {
                return Err(PolicyError::Elsewhere(text));
            }
            resources.push(arn);
        }
        Ok(resources)
    }

    fn conditions(&mut self, value: Json) -> Result<Vec<Condition>, PolicyError> {
        let Json::Object(operators) = value else { return Err(PolicyError::Type("Condition")) };
        let mut conditions = Vec::new();
        for (operator, keys) in operators {
            let Json::Object(keys) = keys else { return Err(PolicyError::Type("Condition")) };
            for (key, values) in keys {
                let values = match values {
                    Json::List(list) => list,
                    one => vec![one],
                };
                self.count(values.len().max(1))?;
                let values = values.into_iter().map(plain).collect::<Result<Vec<_>, _>>()?;
                conditions.push(Condition::parse(&operator, &key, &values, self.variables)?);
            }
        }
        Ok(conditions)
    }
}

/// Refuses condition keys that no request has for any action of the statement, in conditions and in variables.
fn check_keys(statement: &Statement) -> Result<(), PolicyError> {
    let of_resources = statement.resources.iter().flat_map(|resources| {
        let (Only::These(arns) | Only::AllBut(arns)) = resources;
        arns.iter().flat_map(ArnPattern::parts).flat_map(Pattern::keys)
    });
    let names = action::ACTIONS.iter().map(|(name, _)| *name);
    let about: Vec<&str> = names.filter(|name| action::is_among(&statement.actions, name)).collect();
    for key in statement.conditions.iter().flat_map(Condition::keys).chain(of_resources) {
        if !keys::is_global(key) && !about.iter().any(|action| keys::has(action, key)) {
            return Err(PolicyError::ConditionKey(key.to_owned()));
        }
    }
    Ok(())
}

fn plain(value: Json) -> Result<String, PolicyError> {
    match value {
        Json::Text(text) | Json::Number(text) => Ok(text),
        Json::Bool(value) => Ok(value.to_string()),
        Json::Null | Json::List(_) | Json::Object(_) => Err(PolicyError::Type("Condition")),
    }
}

fn effect_of(value: Json) -> Result<Effect, PolicyError> {
    match text_of(value, "Effect")?.as_str() {
        "Allow" => Ok(Effect::Allow),
        "Deny" => Ok(Effect::Deny),
        other => Err(PolicyError::Effect(other.to_owned())),
    }
}

/// IAM takes letters and digits only; S3's own examples have whole sentences.
fn sid_of(value: Json) -> Result<String, PolicyError> {
    let sid = text_of(value, "Sid")?;
    let well_formed = sid.len() <= 256 && !sid.chars().any(char::is_control);
    if well_formed { Ok(sid) } else { Err(PolicyError::Sid(sid)) }
}

/// Whether an ARN may be the bucket or something in it.
fn may_be_in(arn: &ArnPattern, bucket: &str) -> bool {
    let (Some(service), Some(resource)) = (arn.service(), arn.resource()) else { return true };
    // ARNs of buckets have neither region nor account: one that has is no bucket's, and a denial of it would deny nothing.
    let plain = arn.place().iter().all(|part| part.matches("", &Context::default(), &Work::default()) != Some(false));
    if !plain || service.matches("s3", &Context::default(), &Work::default()) == Some(false) {
        return false;
    }
    let (fixed, more) = resource.fixed_start();
    let in_bucket = |text: &str| text.split('/').next() == Some(bucket);
    if !more {
        return in_bucket(fixed);
    }
    if fixed.contains('/') {
        return in_bucket(fixed);
    }
    // The bucket's own part has wildcards: compared with the bucket, and with anything that begins with it.
    let first = resource.first_segment();
    first.matches(bucket, &Context::default(), &Work::default()).unwrap_or(true) || first.may_begin(bucket)
}
