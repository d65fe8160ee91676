//! SplitMix64: small, seeded, the same everywhere. For tests' choices only.
//! Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

/// A seeded stream of numbers.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finish(self.0)
    }

    /// A number below `n`, which must not be zero. The bias of the remainder does not matter here.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A number that depends on both.
pub(super) fn mix(a: u64, b: u64) -> u64 {
    finish(a ^ finish(b.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
