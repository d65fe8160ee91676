//! The calls that a storage node answers, and who may make them.

use super::identity::Role;

/// The gRPC service.
pub(crate) const SERVICE: &str = "stele.storage.v1.Node";

macro_rules! methods {
    ($($name:ident),* $(,)?) => {
        /// A call: [`NodeClient`](crate::client::NodeClient)'s method of that name, and the handshake.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[allow(missing_docs)]
        pub enum Method { $($name),* }

        impl Method {
            /// All calls.
            pub const ALL: &[Method] = &[$(Method::$name),*];

            /// Its name, as in the path of its requests.
            pub fn name(self) -> &'static str {
                match self { $(Method::$name => stringify!($name)),* }
            }

            /// The path of its requests.
            pub(crate) fn path(self) -> &'static str {
                match self { $(Method::$name => concat!("/stele.storage.v1.Node/", stringify!($name))),* }
            }
        }
    };
}

methods!(
    Hello,
    Drives,
    WriteShard,
    ReadShard,
    ReadShardHeader,
    ListShards,
    JournalBegin,
    JournalAppend,
    JournalRead,
    JournalSegments,
    JournalScan,
    JournalFree,
    ReadRegister,
    WriteRegister,
    ScrubOrder,
    ScrubStatus,
    Findings,
    VerifyShards,
    Verified,
    Inventory,
    Rebuild,
    FreeShards,
    RenewFrees,
    SettleUnnamed,
    Authority,
    Begin,
    Reopen,
    TakeDrive,
);

impl Method {
    /// The call of a request's path.
    pub(crate) fn of_path(path: &str) -> Option<Method> {
        let name = path.strip_prefix('/')?.strip_prefix(SERVICE)?.strip_prefix('/')?;
        Method::ALL.iter().copied().find(|method| method.name() == name)
    }

    /// Whether a process of `role` may make this call. What a gateway may write is narrowed further by what it says it
    /// writes: clients' bytes, outside the reserve (R14).
    pub fn allows(self, role: Role) -> bool {
        use Role::{Gateway, Metadata, Repair, StorageNode};
        let allowed: &[Role] = match self {
            Method::Hello | Method::Drives => &Role::ALL,
            Method::WriteShard | Method::ReadShard | Method::ReadShardHeader => &Role::ALL,
            // Small objects ride in the journal.
            Method::JournalRead => &[Gateway, Metadata, Repair],
            // A rebuild reads back what it wrote to a peer.
            Method::VerifyShards => &[Metadata, Repair, StorageNode],
            Method::ListShards
            | Method::JournalSegments
            | Method::JournalScan
            | Method::ReadRegister
            | Method::ScrubOrder
            | Method::ScrubStatus
            | Method::Findings
            | Method::Verified
            | Method::Inventory
            | Method::SettleUnnamed
            | Method::Rebuild
            | Method::Authority => &[Metadata, Repair],
            // What decides over the life of data, and only this (R13): metadata.
            Method::JournalBegin
            | Method::JournalAppend
            | Method::JournalFree
            | Method::WriteRegister
            | Method::FreeShards
            | Method::RenewFrees
            | Method::Begin
            | Method::Reopen
            | Method::TakeDrive => &[Metadata],
        };
        allowed.contains(&role)
    }

    /// Bytes that an answer is expected to take where it may be long; 0: it is short, or has a room of its own.
    pub(crate) fn answer_bytes(self) -> usize {
        match self {
            // About 8 MiB, or one record that is longer.
            Method::JournalScan => 12 << 20,
            Method::Findings => 8 << 20,
            Method::ListShards => 2 << 20,
            Method::ReadRegister => 1 << 20,
            Method::JournalSegments | Method::Inventory | Method::VerifyShards | Method::Verified => 256 << 10,
            _ => 0,
        }
    }

    /// What only the metadata that has begun the node may order, since it decides over the journal and the life of data: one
    /// that was superseded may still have such orders on the way.
    pub(crate) fn is_of_leader(self) -> bool {
        matches!(
            self,
            Method::JournalBegin
                | Method::JournalAppend
                | Method::JournalFree
                | Method::WriteRegister
                | Method::FreeShards
                | Method::RenewFrees
                | Method::TakeDrive
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn r13_only_metadata_may_free() {
        for method in [
            Method::FreeShards,
            Method::RenewFrees,
            Method::JournalBegin,
            Method::JournalFree,
            Method::WriteRegister,
            Method::JournalAppend,
            Method::Begin,
            Method::Reopen,
            Method::TakeDrive,
        ] {
            for role in Role::ALL {
                assert_eq!(method.allows(role), role == Role::Metadata, "{} {role}", method.name());
            }
        }
    }

    #[test]
    fn every_call_is_found_by_its_path() {
        for method in Method::ALL {
            assert_eq!(Method::of_path(method.path()), Some(*method));
        }
        for path in
            ["", "/", "/stele.storage.v1.Node", "/stele.storage.v1.Node/", "/stele.storage.v1.Nodes/Hello", "Hello"]
        {
            assert_eq!(Method::of_path(path), None);
        }
    }
}
