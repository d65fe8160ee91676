//! Answers: trees of AWS's names.

use prost::Message;

/// An answer, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A policy document. IAM's own protocol sends it percent-encoded.
    Document(String),
    /// As many as there are.
    List(Vec<Value>),
    /// By AWS's names, in AWS's order.
    Fields(Vec<(String, Value)>),
}

impl Value {
    /// Nothing to tell.
    pub fn empty() -> Value {
        Value::Fields(Vec::new())
    }

    /// One thing under its name.
    pub fn one(name: &str, value: Value) -> Value {
        Value::Fields(vec![(name.to_owned(), value)])
    }

    /// A field of this one.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Fields(fields) => fields.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Its text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Document(text) => Some(text),
            _ => None,
        }
    }

    /// Its items, if it is a list.
    pub fn items(&self) -> &[Value] {
        match self {
            Value::List(items) => items,
            _ => &[],
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

/// Fields in order; those without a value are left out.
pub(crate) fn fields<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Fields(given.collect())
}

/// A text, unless it is empty.
pub(crate) fn some(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| text.into())
}

/// A time as AWS writes it.
pub(crate) fn date(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(String::new, |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A tree on its way to a gateway: its nodes one behind the other, each with the number of those right below it. So no depth of
/// nesting has to be decoded.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueMessage {
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<NodeMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeMessage {
    /// 0: a text, 1: a list, 2: fields, 3: a document.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// Its name, where it is a field.
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub text: String,
    #[prost(uint32, tag = "4")]
    pub below: u32,
}

/// Deeper than any answer.
const DEPTH: usize = 16;

impl From<&Value> for ValueMessage {
    fn from(value: &Value) -> ValueMessage {
        let mut nodes = Vec::new();
        flatten(value, "", &mut nodes);
        ValueMessage { nodes }
    }
}

fn flatten(value: &Value, name: &str, nodes: &mut Vec<NodeMessage>) {
    let name = name.to_owned();
    let below = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    match value {
        Value::Text(text) => nodes.push(NodeMessage { kind: 0, name, text: text.clone(), below: 0 }),
        Value::Document(text) => nodes.push(NodeMessage { kind: 3, name, text: text.clone(), below: 0 }),
        Value::List(items) => {
            nodes.push(NodeMessage { kind: 1, name, text: String::new(), below: below(items.len()) });
            items.iter().for_each(|item| flatten(item, "", nodes));
        }
        Value::Fields(fields) => {
            nodes.push(NodeMessage { kind: 2, name, text: String::new(), below: below(fields.len()) });
            fields.iter().for_each(|(name, value)| flatten(value, name, nodes));
        }
    }
}

impl ValueMessage {
    /// `None`: no tree.
    pub fn value(self) -> Option<Value> {
        let mut nodes = self.nodes.into_iter();
        let (_, value) = read(&mut nodes, DEPTH)?;
        nodes.next().is_none().then_some(value)
    }
}

fn read(nodes: &mut impl Iterator<Item = NodeMessage>, depth: usize) -> Option<(String, Value)> {
    let node = nodes.next()?;
    let depth = depth.checked_sub(1)?;
    let value = match node.kind {
        0 => Value::Text(node.text),
        3 => Value::Document(node.text),
        1 => {
            let items = (0..node.below).map(|_| Some(read(nodes, depth)?.1));
            Value::List(items.collect::<Option<_>>()?)
        }
        2 => Value::Fields((0..node.below).map(|_| read(nodes, depth)).collect::<Option<_>>()?),
        _ => return None,
    };
    Some((node.name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let text = ".{0,5}".prop_map(Value::Text);
        text.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                proptest::collection::vec((".{0,5}", inner), 0..4).prop_map(Value::Fields),
            ]
        })
    }

    proptest! {
        #[test]
        fn trees_come_back(value in any_value()) {
            prop_assert_eq!(ValueMessage::from(&value).value(), Some(value));
        }
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let node = |kind, below| NodeMessage { kind, below, ..NodeMessage::default() };
        for nodes in
            [vec![], vec![node(1, u32::MAX)], vec![node(0, 0), node(0, 0)], vec![node(4, 0)], vec![node(1, 1); 40]]
        {
            assert_eq!(ValueMessage { nodes }.value(), None);
        }
    }
}
