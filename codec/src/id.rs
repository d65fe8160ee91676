//! The identifiers that two processes, or two decades, must agree on.
//!
//! All of them are plain values with a fixed width; none is derived from a path, a host name or a wall clock.

use std::fmt;

macro_rules! id_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The width in bytes.
            pub const LEN: usize = $len;

            /// Reads an id from a slice of exactly [`Self::LEN`] bytes; `None` for any other length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The id as bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id_bytes!(
    /// A cluster's identity: 128 random bits, fixed at first start.
    ClusterId, 16
);
id_bytes!(
    /// A drive's identity (R18): 128 random bits written when the drive is formatted. Never its path.
    DriveId, 16
);
id_bytes!(
    /// What tells two lives of one segment number apart: 128 random bits in the segment's header.
    Incarnation, 16
);
id_bytes!(
    /// A chunk's name: keyed BLAKE3-256 of its plaintext under the key of its dedup domain.
    ChunkId, 32
);

macro_rules! id_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id_number!(
    /// Position in the journal. The first entry has LSN 1; 0 means "nothing yet".
    Lsn
);
id_number!(
    /// A number granted to a start, a metadata leader or a gateway: the high 32 bits grow by one each time, the low 32 are random (R1).
    Epoch
);
id_number!(
    /// A dedup domain: (account, protection class, key id).
    DomainId
);
id_number!(
    /// A bucket's identity: the LSN of the entry that created it, so a name that is used again is another bucket.
    BucketId
);

impl Epoch {
    /// How many epochs were granted up to this one: its high half.
    pub fn count(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The epoch after `self`, the highest that any drive has seen, with `random` in its low half. `None`: there is none, as
    /// after a forged or rotten epoch. One that began again from zero would rank new entries below all the old ones.
    pub fn next(self, random: u32) -> Option<Epoch> {
        let count = self.count().checked_add(1)?;
        Some(Epoch((u64::from(count) << 32) | u64::from(random)))
    }
}

impl Lsn {
    /// The LSN after this one.
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

/// A stripe's identity (R1): the epoch of its writer and a counter inside that epoch. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct StripeId {
    /// The epoch that the writer held.
    pub epoch: Epoch,
    /// Counts the stripes of that epoch.
    pub counter: u64,
}

impl StripeId {
    /// 16 bytes, big endian, so that byte order is numeric order.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.epoch.0.to_be_bytes());
        out[8..].copy_from_slice(&self.counter.to_be_bytes());
        out
    }

    /// Reads 16 bytes as written by [`Self::to_bytes`]; `None` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        let (epoch, counter) = bytes.split_at(8);
        Some(StripeId {
            epoch: Epoch(u64::from_be_bytes(epoch.try_into().ok()?)),
            counter: u64::from_be_bytes(counter.try_into().ok()?),
        })
    }
}

impl fmt::Display for StripeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.epoch.0, self.counter)
    }
}

/// One member of a stripe: the stripe and the index (data `0..k`, parity `k..k+m`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId {
    /// The stripe.
    pub stripe: StripeId,
    /// The index in the full geometry.
    pub index: u8,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stripe, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It began again from zero, and what was written then ranked below what was there.
    #[test]
    fn r1_after_the_last_epoch_there_is_none() {
        let next = Epoch(7 << 32 | 5).next(9);
        assert_eq!((next, next.map(Epoch::count)), (Some(Epoch(8 << 32 | 9)), Some(8)));
        assert_eq!(Epoch(0xffff_fffe << 32).next(1), Some(Epoch(0xffff_ffff << 32 | 1)));
        assert_eq!(Epoch(0xffff_ffff << 32).next(1), None);
        assert_eq!(Epoch(u64::MAX).next(0), None);
    }
}
