//! Who serves S3 over this metadata node: every gateway asks for a session each second or so.
//!
//! It is for operators, and for decisions that want all gateways to be of one mind. A node that has just begun to lead hears of them
//! within seconds. What is kept is bounded: names come from certificates of the cluster's CA, and are forgotten.

use codec::level::FormatLevel;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage_node::service::identity::{Identity, NodeName, Role};
use tokio::time::Instant;

/// A process that has not asked for so long is forgotten.
const KEPT: Duration = Duration::from_secs(600);
/// Processes that are kept at most: more gateways than a cluster has.
const MOST: usize = 4096;
/// The longest description of a release that is kept, in characters.
const SOFTWARE: usize = 64;

/// A process that serves S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name in its certificate.
    pub name: NodeName,
    /// A gateway, or a metadata process that serves S3 as well.
    pub role: Role,
    /// How long ago it asked.
    pub heard: Duration,
    /// The release that it says it is; empty of one that does not say.
    pub software: String,
    /// The newest format level that it knows, by its handshake.
    pub level: FormatLevel,
}

#[derive(Debug)]
struct Known {
    at: Instant,
    software: String,
    level: FormatLevel,
}

/// The processes that asked for a session lately.
#[derive(Debug, Default)]
pub struct Callers(Mutex<BTreeMap<(NodeName, Role), Known>>);

impl Callers {
    fn known(&self) -> MutexGuard<'_, BTreeMap<(NodeName, Role), Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process asks for a session.
    pub(crate) fn asks(&self, who: &Identity, software: &str, level: FormatLevel) {
        self.asks_at(Instant::now(), who, software, level);
    }

    fn asks_at(&self, now: Instant, who: &Identity, software: &str, level: FormatLevel) {
        if !matches!(who.role, Role::Gateway | Role::Metadata) {
            return;
        }
        let mut known = self.known();
        let key = (who.name.clone(), who.role);
        if known.len() >= MOST && !known.contains_key(&key) {
            known.retain(|_, caller| now.duration_since(caller.at) < KEPT);
            if known.len() >= MOST {
                return;
            }
        }
        let software = software.chars().take(SOFTWARE).collect();
        known.insert(key, Known { at: now, software, level });
    }

    /// Those of the last ten minutes, by name.
    pub fn list(&self) -> Vec<Caller> {
        self.list_at(Instant::now())
    }

    fn list_at(&self, now: Instant) -> Vec<Caller> {
        let mut known = self.known();
        known.retain(|_, caller| now.duration_since(caller.at) < KEPT);
        let line = |((name, role), caller): (&(NodeName, Role), &Known)| Caller {
            name: name.clone(),
            role: *role,
            heard: now.duration_since(caller.at),
            software: caller.software.clone(),
            level: caller.level,
        };
        known.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use codec::id::ClusterId;

    fn identity(name: &str, role: Role) -> Identity {
        Identity { cluster: ClusterId([1; 16]), role, name: NodeName::new(name).unwrap() }
    }

    #[test]
    fn who_asks_is_known_for_ten_minutes() {
        let (callers, start) = (Callers::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let asks = |seconds, name: &str, role, software: &str| {
            callers.asks_at(at(seconds), &identity(name, role), software, FormatLevel(3));
        };
        asks(0, "g1", Role::Gateway, "stele 1");
        asks(0, "m1", Role::Metadata, "");
        asks(0, "r1", Role::Repair, "stele 1");
        asks(540, "g1", Role::Gateway, &"x".repeat(1000));
        let list = callers.list_at(at(540));
        let said: Vec<_> = list.iter().map(|c| (c.name.as_str(), c.heard.as_secs(), c.software.len())).collect();
        assert_eq!(said, [("g1", 0, SOFTWARE), ("m1", 540, 0)]);
        assert_eq!(callers.list_at(at(601)).len(), 1);
        for n in 0..MOST + 9 {
            asks(601, &format!("x{n}"), Role::Gateway, "");
        }
        assert_eq!(callers.list_at(at(601)).len(), MOST);
    }
}
