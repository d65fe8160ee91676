//! What is known of a request: condition keys and their values.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Condition keys and values. Names of keys have no case (IAM User Guide, "IAM JSON policy elements: Condition"); the part of a tag
/// key behind the slash has none either, as in AWS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    values: BTreeMap<String, Vec<String>>,
    under: Option<Arc<Context>>,
    settled: Vec<&'static str>,
}

impl Context {
    /// With all that is in another one; a key that is added hides the one of that name there. Many decisions of one request share
    /// what they have in common, however much it is.
    pub fn over(under: Arc<Context>) -> Context {
        Context { under: Some(under), ..Context::default() }
    }

    /// Adds a value of a key. A key with several values is a multivalued one.
    pub fn add(&mut self, key: &str, value: impl Into<String>) {
        self.values.entry(key.to_ascii_lowercase()).or_default().push(value.into());
    }

    /// Gives a key this value and no other.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.values.insert(key.to_ascii_lowercase(), vec![value.into()]);
    }

    /// Adds a key that is there and has no value, such as a list of tag keys that is empty.
    pub fn add_empty(&mut self, key: &str) {
        self.values.entry(key.to_ascii_lowercase()).or_default();
    }

    /// Says that a key, in lower case, was judged by the same policies before, when the upload was opened that a request goes on with: a
    /// condition on it allows and denies nothing more.
    pub fn settle(&mut self, key: &'static str) {
        self.settled.push(key);
    }

    /// Whether a key, in lower case, was judged before, and the request says nothing new of it.
    pub fn is_settled(&self, key: &str) -> bool {
        let mut layers = std::iter::successors(Some(self), |context| context.under.as_deref());
        layers.any(|context| context.settled.contains(&key)) && self.values(key).is_empty()
    }

    /// The values of a key; none when it is absent.
    pub fn values(&self, key: &str) -> &[String] {
        match self.find(key) {
            Some(values) => values,
            None => self.find(&key.to_ascii_lowercase()).unwrap_or_default(),
        }
    }

    fn find(&self, key: &str) -> Option<&[String]> {
        let mut at = Some(self);
        while let Some(context) = at {
            if let Some(values) = context.values.get(key) {
                return Some(values);
            }
            at = context.under.as_deref();
        }
        None
    }

    /// The keys, in lower case.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let layers = std::iter::successors(Some(self), |context| context.under.as_deref());
        layers.flat_map(|context| context.values.keys()).map(String::as_str)
    }

    /// The value of a key that has exactly one. Only these can be variables: IAM does not say which of several is meant.
    pub fn single(&self, key: &str) -> Option<&str> {
        match self.values(key) {
            [one] => Some(one),
            _ => None,
        }
    }
}

impl<K: AsRef<str>, V: Into<String>> FromIterator<(K, V)> for Context {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Context {
        let mut context = Context::default();
        for (key, value) in pairs {
            context.add(key.as_ref(), value);
        }
        context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_no_case() {
        let mut context = Context::from_iter([("aws:SourceIp", "10.0.0.1")]);
        context.add("aws:TagKeys", "a");
        context.add("AWS:tagkeys", "b");
        context.add_empty("s3:none");
        context.add("s3:once", "a");
        context.set("S3:Once", "b");
        assert_eq!(context.single("s3:once"), Some("b"));
        assert_eq!(context.single("AWS:SOURCEIP"), Some("10.0.0.1"));
        assert_eq!(context.values("aws:tagkeys"), ["a", "b"]);
        assert_eq!(context.single("aws:tagkeys"), None);
        assert!(context.values("s3:none").is_empty() && context.values("s3:absent").is_empty());
        let mut over = Context::over(Arc::new(context));
        over.add("s3:none", "c");
        over.set("s3:ONCE", "d");
        assert_eq!((over.single("s3:None"), over.single("s3:once")), (Some("c"), Some("d")));
        assert_eq!(over.values("aws:TagKeys"), ["a", "b"]);
    }
}
