//! Conditions: operators, and when they hold.
//!
//! Source: IAM User Guide, "IAM JSON policy elements: Condition operators" and "Conditions with multiple context keys or values".

use super::Effect;
use super::arn::{ArnError, ArnPattern};
use super::context::Context;
use super::pattern::{Pattern, PatternError, Syntax};
use super::value::{Decimal, Network, address, moment};
use super::work::Work;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::cmp::Ordering;

/// Why a condition is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// There is no such operator.
    #[error("there is no condition operator {0:?}")]
    Operator(String),
    /// A condition key is `service:name`.
    #[error("{0:?} is not a condition key")]
    Key(String),
    /// A value that the operator can't compare with.
    #[error("{operator} can't compare with {value:?}")]
    Value {
        /// The operator, as written.
        operator: String,
        /// The value, as written.
        value: String,
    },
    /// A condition without values.
    #[error("the condition on {0:?} has no value")]
    NoValue(String),
    /// A value that is no pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A value that is no ARN.
    #[error(transparent)]
    Arn(#[from] ArnError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Comparison::Equal => ordering.is_eq(),
            Comparison::Less => ordering.is_lt(),
            Comparison::LessOrEqual => ordering.is_le(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    TextIgnoringCase,
    Like,
    Number(Comparison),
    Date(Comparison),
    Bool,
    Binary,
    Address,
    Arn,
    Null,
}

/// Which of a key's values have to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantifier {
    /// The one that there is.
    One,
    /// `ForAllValues:`; true without values.
    All,
    /// `ForAnyValue:`; false without values.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Operator {
    kind: Kind,
    negated: bool,
    if_exists: bool,
    quantifier: Quantifier,
}

impl Operator {
    /// Operators have no case: S3 takes `stringEquals`, too.
    fn parse(text: &str) -> Option<Operator> {
        let lower = text.to_ascii_lowercase();
        let (quantifier, rest) = if let Some(rest) = lower.strip_prefix("forallvalues:") {
            (Quantifier::All, rest)
        } else if let Some(rest) = lower.strip_prefix("foranyvalue:") {
            (Quantifier::Any, rest)
        } else {
            (Quantifier::One, lower.as_str())
        };
        let (name, if_exists) = match rest.strip_suffix("ifexists") {
            Some(name) => (name, true),
            None => (rest, false),
        };
        let (kind, negated) = kind(name)?;
        // Null asks for existence itself.
        if kind == Kind::Null && (if_exists || quantifier != Quantifier::One) {
            return None;
        }
        Some(Operator { kind, negated, if_exists, quantifier })
    }
}

fn kind(name: &str) -> Option<(Kind, bool)> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
    Some(match name {
        "stringequals" => (Kind::Text, false),
        "stringnotequals" => (Kind::Text, true),
        "stringequalsignorecase" => (Kind::TextIgnoringCase, false),
        "stringnotequalsignorecase" => (Kind::TextIgnoringCase, true),
        "stringlike" => (Kind::Like, false),
        "stringnotlike" => (Kind::Like, true),
        "numericequals" => (Kind::Number(Equal), false),
        "numericnotequals" => (Kind::Number(Equal), true),
        "numericlessthan" => (Kind::Number(Less), false),
        "numericlessthanequals" => (Kind::Number(LessOrEqual), false),
        "numericgreaterthan" => (Kind::Number(Greater), false),
        "numericgreaterthanequals" => (Kind::Number(GreaterOrEqual), false),
        "dateequals" => (Kind::Date(Equal), false),
        "datenotequals" => (Kind::Date(Equal), true),
        "datelessthan" => (Kind::Date(Less), false),
        "datelessthanequals" => (Kind::Date(LessOrEqual), false),
        "dategreaterthan" => (Kind::Date(Greater), false),
        "dategreaterthanequals" => (Kind::Date(GreaterOrEqual), false),
        "bool" => (Kind::Bool, false),
        "binaryequals" => (Kind::Binary, false),
        "ipaddress" => (Kind::Address, false),
        "notipaddress" => (Kind::Address, true),
        // The two are the same (IAM User Guide, "Amazon Resource Name (ARN) condition operators").
        "arnequals" | "arnlike" => (Kind::Arn, false),
        "arnnotequals" | "arnnotlike" => (Kind::Arn, true),
        "null" => (Kind::Null, false),
        _ => return None,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Pattern(Pattern),
    Number(Decimal),
    Moment(i64),
    Bool(bool),
    Bytes(Vec<u8>),
    Network(Network),
    Arn(ArnPattern),
}

/// One key under one operator. Any of the values matches; all conditions of a statement have to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    operator: Operator,
    key: String,
    values: Vec<Value>,
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

impl Condition {
    /// Reads a condition: the operator as written, the key, and the values as texts.
    pub fn parse(operator: &str, key: &str, values: &[String], variables: bool) -> Result<Condition, ConditionError> {
        let parsed = Operator::parse(operator).ok_or_else(|| ConditionError::Operator(operator.to_owned()))?;
        let well_formed = key.split_once(':').is_some_and(|(service, name)| !service.is_empty() && !name.is_empty());
        if !well_formed || key.chars().any(char::is_control) {
            return Err(ConditionError::Key(key.to_owned()));
        }
        if values.is_empty() || (parsed.kind == Kind::Null && values.len() > 1) {
            return Err(ConditionError::NoValue(key.to_owned()));
        }
        let mut read = Vec::with_capacity(values.len());
        for text in values {
            let value = value(parsed.kind, text, variables)?;
            let wrong = || ConditionError::Value { operator: operator.to_owned(), value: text.clone() };
            read.push(value.ok_or_else(wrong)?);
        }
        Ok(Condition { operator: parsed, key: key.to_ascii_lowercase(), values: read })
    }

    /// The key, in lower case.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The keys that it asks for, in lower case: its own, and those in variables.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let in_values = self.values.iter().flat_map(|value| {
            let patterns = match value {
                Value::Pattern(pattern) => std::slice::from_ref(pattern),
                Value::Arn(arn) => arn.parts(),
                _ => &[],
            };
            patterns.iter().flat_map(Pattern::keys)
        });
        std::iter::once(self.key.as_str()).chain(in_values)
    }

    /// Whether it asks for a key that begins like this, in lower case, itself or in a variable.
    pub fn names_key(&self, start: &str) -> bool {
        let named = |value: &Value| match value {
            Value::Pattern(pattern) => pattern.names_key(start),
            Value::Arn(arn) => arn.names_key(start),
            _ => false,
        };
        self.key.starts_with(start) || self.values.iter().any(named)
    }

    /// Whether it holds for a request.
    ///
    /// A key that is absent fulfils a negated operator and no other one, unless the operator ends in `IfExists`. A key with several
    /// values under an operator without a quantifier allows only if all of them match, and denies if any does: AWS leaves it open.
    /// A variable without a value matches nothing, and allows nothing either. When the work is spent, the answer is worth nothing.
    pub fn holds(&self, context: &Context, effect: Effect, work: &Work) -> bool {
        if context.is_settled(&self.key) {
            return effect == Effect::Allow;
        }
        let found = context.values(&self.key);
        if self.operator.kind == Kind::Null {
            return self.values.first() == Some(&Value::Bool(found.is_empty()));
        }
        if found.is_empty() {
            return match self.operator.quantifier {
                Quantifier::All => true,
                _ if self.operator.if_exists => true,
                Quantifier::One => self.operator.negated,
                Quantifier::Any => false,
            };
        }
        let mut verdicts = Vec::with_capacity(found.len());
        for text in found {
            match (self.any_matches(text, context, work), effect) {
                (Some(matched), _) => verdicts.push(matched != self.operator.negated),
                (None, Effect::Allow) => return false,
                (None, Effect::Deny) => verdicts.push(self.operator.negated),
            }
        }
        let all = match self.operator.quantifier {
            Quantifier::All => true,
            Quantifier::Any => false,
            Quantifier::One => effect == Effect::Allow,
        };
        if all { verdicts.iter().all(|holds| *holds) } else { verdicts.contains(&true) }
    }

    /// Whether any of the condition's values matches one of the key's; `None` when none does and a variable has no value.
    fn any_matches(&self, text: &str, context: &Context, work: &Work) -> Option<bool> {
        let mut unknown = false;
        for value in &self.values {
            if work.is_spent() {
                return None;
            }
            match matches(self.operator.kind, value, text, context, work) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => unknown = true,
            }
        }
        (!unknown).then_some(false)
    }

    /// Whether it says of whom requests are, in fixed words: such a condition keeps an Allow from being public (see [`super::public`]).
    pub(super) fn confines(&self) -> bool {
        let exists = !self.operator.if_exists && self.operator.quantifier != Quantifier::All;
        if self.operator.negated || !exists {
            return false;
        }
        let fixed = |value: &Value| match value {
            Value::Pattern(pattern) => pattern.is_fixed(),
            Value::Arn(arn) => arn.is_fixed(),
            Value::Network(network) => network.is_narrow(),
            _ => false,
        };
        self.values.iter().all(fixed)
    }
}

fn value(kind: Kind, text: &str, variables: bool) -> Result<Option<Value>, ConditionError> {
    Ok(match kind {
        Kind::Text | Kind::TextIgnoringCase => {
            Some(Value::Pattern(Pattern::parse(text, Syntax { wildcards: false, variables })?))
        }
        Kind::Like => Some(Value::Pattern(Pattern::parse(text, Syntax { wildcards: true, variables })?)),
        Kind::Number(_) => Decimal::parse(text).map(Value::Number),
        Kind::Date(_) => moment(text).map(Value::Moment),
        Kind::Bool | Kind::Null => boolean(text).map(Value::Bool),
        Kind::Binary => BASE64.decode(text).ok().map(Value::Bytes),
        Kind::Address => Network::parse(text).map(Value::Network),
        Kind::Arn => Some(Value::Arn(ArnPattern::parse(text, variables)?)),
    })
}

/// What the request says and can't be read as the operator's kind matches nothing.
fn matches(kind: Kind, expected: &Value, text: &str, context: &Context, work: &Work) -> Option<bool> {
    match (kind, expected) {
        (Kind::TextIgnoringCase, Value::Pattern(pattern)) => pattern.matches_ignoring_case(text, context, work),
        (_, Value::Pattern(pattern)) => pattern.matches(text, context, work),
        (_, Value::Arn(arn)) => arn.matches(text, context, work),
        _ if !work.takes_text(text) || !work.take(text.len()) => None,
        (Kind::Number(comparison), Value::Number(expected)) => {
            Some(Decimal::parse(text).is_some_and(|found| comparison.holds(found.cmp(expected))))
        }
        (Kind::Date(comparison), Value::Moment(expected)) => {
            Some(moment(text).is_some_and(|found| comparison.holds(found.cmp(expected))))
        }
        (_, Value::Bool(expected)) => Some(boolean(text) == Some(*expected)),
        (_, Value::Bytes(expected)) => Some(BASE64.decode(text).is_ok_and(|found| found == *expected)),
        (_, Value::Network(network)) => Some(address(text).is_some_and(|found| network.contains(found))),
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn condition(operator: &str, values: &[&str]) -> Result<Condition, ConditionError> {
        let values: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        Condition::parse(operator, "s3:key", &values, true)
    }

    fn holds(operator: &str, values: &[&str], found: &[&str]) -> bool {
        let mut context = Context::from_iter(found.iter().map(|&value| ("s3:key", value)));
        context.add("aws:username", "anna");
        condition(operator, values).expect(operator).holds(&context, Effect::Allow, &Work::default())
    }

    #[test]
    fn texts() {
        assert!(holds("StringEquals", &["a", "b"], &["b"]) && !holds("StringEquals", &["a", "b"], &["c"]));
        assert!(!holds("StringEquals", &["a*"], &["ab"]) && holds("StringEquals", &["a*"], &["a*"]));
        assert!(!holds("StringEquals", &["a"], &["A"]) && holds("StringEqualsIgnoreCase", &["a"], &["A"]));
        assert!(holds("StringNotEquals", &["a", "b"], &["c"]) && !holds("StringNotEquals", &["a", "b"], &["a"]));
        assert!(!holds("StringNotEqualsIgnoreCase", &["a"], &["A"]));
        assert!(holds("StringLike", &["a*"], &["ab"]) && !holds("StringNotLike", &["a*"], &["ab"]));
        assert!(holds("StringEquals", &["${aws:username}"], &["anna"]));
        assert!(holds("stringequals", &["a"], &["a"]));
    }

    #[test]
    fn numbers_and_dates() {
        assert!(holds("NumericEquals", &["10"], &["10.0"]) && holds("NumericNotEquals", &["10"], &["11"]));
        assert!(holds("NumericLessThan", &["10"], &["9"]) && !holds("NumericLessThan", &["10"], &["10"]));
        assert!(holds("NumericLessThanEquals", &["10"], &["10"]) && !holds("NumericGreaterThan", &["10"], &["10"]));
        assert!(holds("NumericGreaterThanEquals", &["10"], &["10"]) && !holds("NumericLessThan", &["10"], &["x"]));
        assert!(holds("NumericNotEquals", &["10"], &["x"]), "what is no number is no 10");
        let day = "2026-11-22T00:00:00Z";
        assert!(holds("DateLessThan", &[day], &["2026-11-21T23:59:59Z"]) && !holds("DateLessThan", &[day], &[day]));
        assert!(holds("DateEquals", &[day], &["2026-11-22"]) && holds("DateGreaterThan", &["0"], &["1"]));
        assert!(holds("DateGreaterThanEquals", &[day], &[day]) && holds("DateLessThanEquals", &[day], &[day]));
        assert!(holds("DateNotEquals", &[day], &["0"]));
    }

    #[test]
    fn other_kinds() {
        assert!(holds("Bool", &["true"], &["True"]) && !holds("Bool", &["true"], &["false"]));
        assert!(
            holds("IpAddress", &["10.0.0.0/8"], &["10.1.2.3"])
                && !holds("NotIpAddress", &["10.0.0.0/8"], &["10.1.2.3"])
        );
        assert!(
            holds("NotIpAddress", &["10.0.0.0/8"], &["nonsense"]) && !holds("IpAddress", &["0.0.0.0/0"], &["nonsense"])
        );
        assert!(holds("BinaryEquals", &["AAE="], &["AAE="]) && !holds("BinaryEquals", &["AAE="], &["AAI="]));
        let anna = "arn:aws:iam::1:user/anna";
        assert!(
            holds("ArnEquals", &["arn:aws:iam::*:user/*"], &[anna]) && holds("ArnLike", &["arn:*:*:*:1:*"], &[anna])
        );
        assert!(holds("ArnNotLike", &["arn:aws:iam::2:*"], &[anna]) && !holds("ArnNotEquals", &[anna], &[anna]));
    }

    #[test]
    fn keys_that_are_absent() {
        for operator in ["StringEquals", "NumericEquals", "DateEquals", "Bool", "IpAddress", "BinaryEquals"] {
            let value = match operator {
                "Bool" => "true",
                "IpAddress" => "10.0.0.1",
                "BinaryEquals" => "AAE=",
                _ => "1",
            };
            assert!(!holds(operator, &[value], &[]), "{operator}");
            assert!(holds(&format!("{operator}IfExists"), &[value], &[]), "{operator}IfExists");
        }
        assert!(holds("StringNotEquals", &["a"], &[]) && holds("NotIpAddress", &["10.0.0.1"], &[]));
        assert!(holds("StringNotEqualsIfExists", &["a"], &[]));
        assert!(!holds("StringEqualsIfExists", &["a"], &["b"]) && holds("StringEqualsIfExists", &["a"], &["a"]));
        assert!(holds("Null", &["true"], &[]) && !holds("Null", &["true"], &["x"]));
        assert!(holds("Null", &["false"], &["x"]) && !holds("Null", &["false"], &[]));
    }

    /// IAM User Guide, "Multivalued context keys": the examples.
    #[test]
    fn keys_with_several_values() {
        assert!(holds("ForAllValues:StringEquals", &["a", "b"], &["a", "b"]));
        assert!(!holds("ForAllValues:StringEquals", &["a", "b"], &["a", "c"]));
        assert!(holds("ForAllValues:StringEquals", &["a"], &[]), "true without values");
        assert!(
            holds("ForAnyValue:StringEquals", &["a"], &["a", "c"])
                && !holds("ForAnyValue:StringEquals", &["a"], &["c"])
        );
        assert!(
            !holds("ForAnyValue:StringEquals", &["a"], &[]) && holds("ForAnyValue:StringEqualsIfExists", &["a"], &[])
        );
        assert!(holds("ForAnyValue:StringNotEquals", &["a"], &["a", "c"]));
        assert!(
            !holds("ForAnyValue:StringNotEquals", &["a"], &["a"]) && !holds("ForAnyValue:StringNotEquals", &["a"], &[])
        );
        assert!(holds("ForAllValues:StringNotEquals", &["a"], &["b", "c"]));
        assert!(!holds("ForAllValues:StringNotEquals", &["a"], &["a", "c"]));
    }

    #[test]
    fn several_values_without_a_quantifier_give_less() {
        let context = Context::from_iter([("s3:key", "a"), ("s3:key", "b")]);
        let equal = condition("StringEquals", &["a"]).expect("a condition");
        assert!(
            !equal.holds(&context, Effect::Allow, &Work::default())
                && equal.holds(&context, Effect::Deny, &Work::default())
        );
        let other = condition("StringNotEquals", &["a"]).expect("a condition");
        assert!(
            !other.holds(&context, Effect::Allow, &Work::default())
                && other.holds(&context, Effect::Deny, &Work::default())
        );
    }

    #[test]
    fn keys_that_were_judged_before() {
        let mut context = Context::default();
        context.settle("s3:key");
        for operator in ["StringEquals", "StringNotEquals", "ForAnyValue:StringLike", "Null"] {
            let asked = condition(operator, &["true"]).expect("a condition");
            let holds = |effect| asked.holds(&context, effect, &Work::default());
            assert!(holds(Effect::Allow) && !holds(Effect::Deny), "{operator}");
        }
        context.add("s3:key", "a");
        let said = condition("StringEquals", &["a"]).expect("a condition");
        assert!(said.holds(&context, Effect::Deny, &Work::default()), "what is said again is judged again");
    }

    #[test]
    fn variables_without_a_value_give_nothing() {
        let context = Context::from_iter([("s3:key", "a")]);
        let other = condition("StringNotEquals", &["${aws:absent}"]).expect("a condition");
        assert!(
            !other.holds(&context, Effect::Allow, &Work::default())
                && other.holds(&context, Effect::Deny, &Work::default())
        );
        let equal = condition("StringEquals", &["${aws:absent}", "a"]).expect("a condition");
        assert!(equal.holds(&context, Effect::Allow, &Work::default()), "another value matches");
    }

    #[test]
    fn what_is_no_condition() {
        for operator in ["", "Equals", "StringEqualsIfExistsIfExists", "NullIfExists", "ForAllValues:Null", "For:Bool"]
        {
            assert!(matches!(condition(operator, &["true"]), Err(ConditionError::Operator(_))), "{operator}");
        }
        for (operator, value) in [
            ("NumericEquals", "ten"),
            ("DateEquals", "soon"),
            ("Bool", "yes"),
            ("Null", "maybe"),
            ("IpAddress", "10.0.0.0/40"),
            ("BinaryEquals", "!"),
        ] {
            assert!(matches!(condition(operator, &[value]), Err(ConditionError::Value { .. })), "{operator}");
        }
        assert!(condition("ArnLike", &["b/k"]).is_err() && condition("StringEquals", &["${"]).is_err());
        assert!(condition("StringEquals", &[]).is_err() && condition("Null", &["true", "false"]).is_err());
        for key in ["", "key", ":x", "x:", "s3:a\nb"] {
            assert!(Condition::parse("Bool", key, &["true".into()], true).is_err(), "{key}");
        }
    }

    proptest! {
        /// An operator and its negation never hold both, with one value.
        #[test]
        fn negations(expected in "[ab]{0,2}", found in proptest::option::of("[ab]{0,2}")) {
            let found: Vec<&str> = found.as_deref().into_iter().collect();
            for (plain, negated) in [("StringEquals", "StringNotEquals"), ("StringLike", "StringNotLike"),
                ("StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase")] {
                prop_assert_ne!(holds(plain, &[&expected], &found), holds(negated, &[&expected], &found));
            }
        }

        #[test]
        fn nothing_panics(operator in "(ForAnyValue:)?(String|Numeric|Date|Ip|Arn|Bool|Null)[A-Za-z]{0,12}", value in ".{0,20}", found in ".{0,20}") {
            if let Ok(condition) = condition(&operator, &[&value]) {
                let _ = condition.holds(&Context::from_iter([("s3:key", found)]), Effect::Deny, &Work::default());
            }
        }
    }
}
