//! JSON as policy documents need it: bounded in size and depth, and without a name twice in one object.
//!
//! `serde_json::Value` keeps the last of two equal names. A reader who stops at the first would believe in a condition that is
//! not there, so both are refused here (RFC 8259, section 4, leaves it open; the IAM grammar allows each element once).

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A JSON value. Numbers are kept as they are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as text.
    Number(String),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object, in the order in which it is written.
    Object(Vec<(String, Json)>),
}

/// What a document may be at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes.
    pub bytes: usize,
    /// Objects and arrays inside each other.
    pub depth: usize,
}

/// Why a text is not taken.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Longer than it may be.
    #[error("the document has {len} bytes, and may have {limit}")]
    TooLong {
        /// Its bytes.
        len: usize,
        /// What it may have.
        limit: usize,
    },
    /// No JSON, deeper than it may be, or with a name twice.
    #[error("not a JSON document: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Reads a document.
pub fn parse(text: &str, limits: Limits) -> Result<Json, JsonError> {
    if text.len() > limits.bytes {
        return Err(JsonError::TooLong { len: text.len(), limit: limits.bytes });
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Seed { depth: limits.depth }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// What is left of the depth.
#[derive(Clone, Copy)]
struct Seed {
    depth: usize,
}

impl Seed {
    fn inside<E: serde::de::Error>(self) -> Result<Seed, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("too many levels"))?;
        Ok(Seed { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Json;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let inside = self.inside()?;
        let mut list = Vec::new();
        while let Some(item) = seq.next_element_seed(inside)? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let inside = self.inside()?;
        let mut object: Vec<(String, Json)> = Vec::new();
        let mut names = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("the name {name:?} is there twice")));
            }
            object.push((name, map.next_value_seed(inside)?));
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Limits = Limits { bytes: 200, depth: 3 };

    #[test]
    fn a_name_counts_once() {
        assert!(parse(r#"{"a":1,"b":{"a":2}}"#, SMALL).is_ok());
        assert!(parse(r#"{"a":1,"a":2}"#, SMALL).is_err());
        assert!(parse(r#"{"a":1,"\u0061":2}"#, SMALL).is_err(), "escaped, it is the same name");
        assert!(parse(r#"[{"a":{"b":1,"b":1}}]"#, SMALL).is_err());
    }

    #[test]
    fn sizes_and_depths_are_bounded() {
        assert!(parse("[[[1]]]", SMALL).is_ok());
        assert!(parse("[[[[1]]]]", SMALL).is_err());
        assert!(matches!(parse(&" ".repeat(201), SMALL), Err(JsonError::TooLong { len: 201, limit: 200 })));
        let deep = "[".repeat(150);
        assert!(parse(&deep, Limits { bytes: 1000, depth: 10_000 }).is_err(), "never a stack that overflows");
    }

    #[test]
    fn values() {
        assert_eq!(parse("1.50", SMALL).ok(), Some(Json::Number("1.5".into())));
        assert_eq!(parse("18446744073709551615", SMALL).ok(), Some(Json::Number(u64::MAX.to_string())));
        assert_eq!(parse(" null ", SMALL).ok(), Some(Json::Null));
        for bad in ["", "{", "1 2", "{'a':1}", "[1,]", "\u{feff}{}", "nan", "\"\\ud800\""] {
            assert!(parse(bad, SMALL).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,200}") {
            let _ = parse(&text, SMALL);
        }
    }
}
