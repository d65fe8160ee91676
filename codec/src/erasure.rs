//! The erasure code: k data shards, m parity shards, any k of them give back the rest.
//!
//! A systematic Reed-Solomon code over GF(2^8), the same one as the crate `reed-solomon-erasure` computes
//! (docs/FORMAT.md, "Erasure code", spells the matrix out, R3). The long multiplications are that crate's SIMD kernel;
//! the small matrices are our own, because a reader wants one lost shard and not all of them, and because the shards
//! that a shortened stripe never had cost nothing here: they are known zeros and drop out of the sums.
//!
//! **CPU.** The crate compiles its kernel with `-march=haswell` and never asks the CPU. [`cpu_check`] asks; where an
//! instruction set lacks, [`Erasure`] takes a kernel of plain table look-ups: the same bytes, at about a tenth of the speed.
//!
//! **Trust (R2).** Nothing here can tell a good input from a bad one: a bad input gives plausible garbage. Callers verify
//! the hash of every input shard before, and of the result after.

use std::fmt;
use std::str::FromStr;

mod field;
mod kernel;

use field::Rows;
pub use kernel::{Kernel, cpu_check};

/// Shards are worked on in pieces of this many bytes, so that the pieces of all shards stay in the cache:
/// without that, large shards fall to the speed of memory.
pub const PIECE: usize = 64 * 1024;

/// The most shards that a stripe has (R3).
pub const MAX_SHARDS: u8 = 32;

/// What is wrong with a request to the erasure code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErasureError {
    /// No such code: k is at least 1 and k+m at most 32.
    #[error("geometry {k}+{m} is not supported: k is at least 1 and k+m at most {MAX_SHARDS}")]
    Geometry {
        /// Data shards.
        k: u8,
        /// Parity shards.
        m: u8,
    },
    /// Not of the form `4+2`.
    #[error("a geometry is written K+M, such as 4+2")]
    GeometryText,
    /// The SIMD kernel can't run here. [`Erasure::new`] still works, slowly.
    #[error("this CPU lacks {missing}, which the fast erasure code needs; the slow one is used")]
    Cpu {
        /// The instruction sets that lack, by name.
        missing: String,
    },
    /// An index at or beyond k+m, or an absent shard that is no data shard.
    #[error("shard index {index} does not exist in geometry {geometry}")]
    Index {
        /// The index.
        index: u8,
        /// The geometry.
        geometry: Geometry,
    },
    /// One index was given twice, or as an input and as absent.
    #[error("shard {0} was given twice")]
    Twice(u8),
    /// An input is longer than the range to compute.
    #[error("shard {index} has {got} bytes where at most {len} were announced")]
    Length {
        /// The input.
        index: u8,
        /// Its length in bytes.
        got: usize,
        /// The announced length in bytes.
        len: usize,
    },
    /// More is lost than the code can give back.
    #[error("{lost} data shards are lost and only {parity} parity shards are at hand")]
    TooFew {
        /// Data shards that are neither given nor absent.
        lost: usize,
        /// Parity shards given.
        parity: usize,
    },
    /// The code did not give the known answer: this machine or this build computes wrong bytes.
    #[error("the erasure code {0} fails its known-answer test: do not store data with this build on this machine")]
    SelfTest(Geometry),
}

/// k data shards and m parity shards. k is at least 1, m may be 0, k+m is at most 32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Geometry {
    k: u8,
    m: u8,
}

impl Geometry {
    /// Checks the bounds.
    pub fn new(k: u8, m: u8) -> Result<Geometry, ErasureError> {
        if k == 0 || k > MAX_SHARDS || m > MAX_SHARDS - k {
            return Err(ErasureError::Geometry { k, m });
        }
        Ok(Geometry { k, m })
    }

    /// Data shards.
    pub fn k(self) -> u8 {
        self.k
    }

    /// Parity shards: how many shards may be lost.
    pub fn m(self) -> u8 {
        self.m
    }

    /// k+m.
    pub fn total(self) -> u8 {
        self.k + self.m
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

impl fmt::Debug for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Geometry({self})")
    }
}

impl FromStr for Geometry {
    type Err = ErasureError;

    fn from_str(text: &str) -> Result<Geometry, ErasureError> {
        let (k, m) = text.split_once('+').ok_or(ErasureError::GeometryText)?;
        let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
            true => digits.parse::<u8>().map_err(|_| ErasureError::GeometryText),
            false => Err(ErasureError::GeometryText),
        };
        Geometry::new(number(k)?, number(m)?)
    }
}

/// The code of one geometry. Cheap to make (it inverts one k x k matrix) and cheap to share between threads.
#[derive(Debug, Clone)]
pub struct Erasure {
    geometry: Geometry,
    kernel: Kernel,
    /// The generator's parity rows: `parity[j]` holds k coefficients.
    parity: Rows,
}

impl Erasure {
    /// The code, on the fastest kernel that this CPU can run.
    pub fn new(geometry: Geometry) -> Erasure {
        Erasure::build(geometry, Kernel::detect())
    }

    /// The code on a given kernel. Refuses [`Kernel::Simd`] where the CPU can't run it.
    pub fn with_kernel(geometry: Geometry, kernel: Kernel) -> Result<Erasure, ErasureError> {
        if kernel == Kernel::Simd {
            cpu_check()?;
        }
        Ok(Erasure::build(geometry, kernel))
    }

    fn build(geometry: Geometry, kernel: Kernel) -> Erasure {
        Erasure { geometry, kernel, parity: field::parity_rows(geometry.k.into(), geometry.m.into()) }
    }

    /// A code that is none: it computes other parity than [`Erasure::new`], as a library with another matrix would (R3).
    #[cfg(feature = "sabotage")]
    pub fn wrong(geometry: Geometry) -> Erasure {
        let mut erasure = Erasure::new(geometry);
        erasure.parity.iter_mut().flatten().for_each(|coefficient| *coefficient ^= 1);
        erasure
    }

    /// The geometry.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The kernel in use.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The m parity shards of k data shards, each as long as the longest of them.
    ///
    /// `None` is a shard that the stripe does not have; it counts as zeros, and so does what a shorter shard lacks.
    ///
    /// # Panics
    ///
    /// When `data` does not have exactly k entries: the caller's mistake, which would lose data if it passed.
    pub fn encode_parity(&self, data: &[Option<&[u8]>]) -> Vec<Vec<u8>> {
        assert_eq!(data.len(), usize::from(self.geometry.k), "encode_parity wants k data shards");
        let inputs: Vec<&[u8]> = data.iter().map(|shard| shard.unwrap_or_default()).collect();
        let len = inputs.iter().map(|input| input.len()).max().unwrap_or(0);
        self.combine(&self.parity, &inputs, len)
    }

    /// Computes shards from others.
    ///
    /// * `inputs`: (index, bytes) of verified shards, the same byte range of each; what one lacks of `len` counts as zeros.
    /// * `absent_data`: bit i is set when data shard i does not exist in this stripe (known zeros).
    /// * `want`: the indices to compute; the result is in this order, each `len` bytes.
    ///
    /// Needs as many parity shards as data shards are neither given nor absent. The decoding matrix is not cached:
    /// it has one row and column per *lost* data shard, and inverting that costs less than looking it up under a lock.
    pub fn reconstruct(
        &self,
        inputs: &[(u8, &[u8])],
        absent_data: u32,
        want: &[u8],
        len: usize,
    ) -> Result<Vec<Vec<u8>>, ErasureError> {
        self.check_request(inputs, absent_data, want, len)?;
        let (indices, bytes): (Vec<u8>, Vec<&[u8]>) = inputs.iter().copied().unzip();
        let rows = self.decode_rows(&indices, absent_data, want)?;
        Ok(self.combine(&rows, &bytes, len))
    }

    fn check_request(
        &self,
        inputs: &[(u8, &[u8])],
        absent_data: u32,
        want: &[u8],
        len: usize,
    ) -> Result<(), ErasureError> {
        let geometry = self.geometry;
        let total = geometry.total();
        if u64::from(absent_data) >> geometry.k != 0 {
            return Err(ErasureError::Index { index: (u32::BITS - 1 - absent_data.leading_zeros()) as u8, geometry });
        }
        let mut seen = absent_data;
        for &(index, bytes) in inputs {
            if index >= total {
                return Err(ErasureError::Index { index, geometry });
            }
            if seen >> index & 1 == 1 {
                return Err(ErasureError::Twice(index));
            }
            seen |= 1 << index;
            if bytes.len() > len {
                return Err(ErasureError::Length { index, got: bytes.len(), len });
            }
        }
        match want.iter().find(|&&index| index >= total) {
            Some(&index) => Err(ErasureError::Index { index, geometry }),
            None => Ok(()),
        }
    }

    /// For each wanted shard, the coefficient of each input.
    fn decode_rows(&self, inputs: &[u8], absent_data: u32, want: &[u8]) -> Result<Rows, ErasureError> {
        let k = self.geometry.k;
        let is_lost = |c: &u8| absent_data >> c & 1 == 0 && !inputs.contains(c);
        let lost: Vec<u8> = (0..k).filter(is_lost).collect();
        let given = |index: u8| inputs.iter().position(|&i| i == index);
        // Without lost data nothing needs solving; nor does a shard that is given or absent.
        let direct = |&w: &u8| given(w).is_some() || (w < k && !lost.contains(&w));
        let solved = match lost.is_empty() || want.iter().all(direct) {
            true => Rows::new(),
            false => self.solve(inputs, &lost)?,
        };
        let mut rows = Rows::with_capacity(want.len());
        for w in want {
            let mut row = vec![0; inputs.len()];
            if let Some(position) = given(*w) {
                row[position] = 1;
            } else if let Some(position) = lost.iter().position(|l| l == w) {
                row.clone_from(&solved[position]);
            } else if *w >= k {
                let generator = &self.parity[usize::from(*w - k)];
                for (slot, index) in row.iter_mut().zip(inputs) {
                    *slot = if *index < k { generator[usize::from(*index)] } else { 0 };
                }
                for (l, solution) in lost.iter().zip(&solved) {
                    field::add_scaled(&mut row, generator[usize::from(*l)], solution);
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Solves the parity equations for the lost data shards: for each, the coefficient of each input.
    ///
    /// With e lost shards, e parity rows give `A x = p + B d`, where x are the lost and d the known data shards (in this
    /// field minus is plus). Every square part of the parity rows is regular, so A has an inverse.
    fn solve(&self, inputs: &[u8], lost: &[u8]) -> Result<Rows, ErasureError> {
        let k = self.geometry.k;
        let parity: Vec<usize> = (0..inputs.len()).filter(|&i| inputs[i] >= k).collect();
        if parity.len() < lost.len() {
            return Err(ErasureError::TooFew { lost: lost.len(), parity: parity.len() });
        }
        let chosen = &parity[..lost.len()];
        let generator = |position: usize| &self.parity[usize::from(inputs[position] - k)];
        let a: Rows = chosen.iter().map(|&p| lost.iter().map(|l| generator(p)[usize::from(*l)]).collect()).collect();
        let inverse = field::invert(a).ok_or(ErasureError::SelfTest(self.geometry))?;
        let mut solved = Rows::with_capacity(lost.len());
        for inverse_row in &inverse {
            let mut row = vec![0; inputs.len()];
            for (&p, &factor) in chosen.iter().zip(inverse_row) {
                row[p] = factor;
                for (slot, index) in row.iter_mut().zip(inputs).filter(|(_, index)| **index < k) {
                    *slot ^= field::mul(factor, generator(p)[usize::from(*index)]);
                }
            }
            solved.push(row);
        }
        Ok(solved)
    }

    /// `output[i] = sum of rows[i][j] * inputs[j]`, piece by piece.
    fn combine(&self, rows: &Rows, inputs: &[&[u8]], len: usize) -> Vec<Vec<u8>> {
        let mut outputs: Vec<Vec<u8>> = rows.iter().map(|_| vec![0; len]).collect();
        for start in (0..len).step_by(PIECE) {
            for (j, input) in inputs.iter().enumerate() {
                let Some(rest) = input.get(start..).filter(|rest| !rest.is_empty()) else { continue };
                let piece = &rest[..rest.len().min(PIECE)];
                for (output, row) in outputs.iter_mut().zip(rows) {
                    self.kernel.mul_add(row[j], piece, &mut output[start..start + piece.len()]);
                }
            }
        }
        outputs
    }
}

/// Bytes per shard of the self-test: odd, so that the SIMD kernel's tail is tested as well.
const KNOWN_LEN: usize = 1021;

/// For each k from 1 to 31 and each j below 32-k: the first 8 bytes of the BLAKE3 of parity shard j over the k known data
/// shards. A parity row does not depend on m, so one table serves all geometries.
static KNOWN_ANSWERS: &[u8; 8 * 496] = include_bytes!("../testdata/erasure-known-answers.bin");

/// The known data shard `index`: [`KNOWN_LEN`] bytes of BLAKE3's extended output over a label and the index.
fn known_shard(index: u8) -> Vec<u8> {
    let mut bytes = vec![0; KNOWN_LEN];
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stele erasure known answer").update(&[index]);
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Where the answers for `k` begin in [`KNOWN_ANSWERS`].
fn known_offset(k: u8) -> usize {
    (1..k).map(|smaller| 8 * usize::from(MAX_SHARDS - smaller)).sum()
}

/// The known-answer test (R3), run at each start: encodes fixed shards, compares the parity with recorded hashes, then loses
/// the first m shards and asks for them back. Microseconds.
pub fn self_test(geometry: Geometry) -> Result<(), ErasureError> {
    self_test_of(&Erasure::new(geometry))
}

/// [`self_test`] for a given kernel.
pub fn self_test_of(erasure: &Erasure) -> Result<(), ErasureError> {
    let Geometry { k, m } = erasure.geometry;
    let failed = || ErasureError::SelfTest(erasure.geometry);
    let data: Vec<Vec<u8>> = (0..k).map(known_shard).collect();
    let parity = erasure.encode_parity(&data.iter().map(|d| Some(&d[..])).collect::<Vec<_>>());
    for (shard, known) in parity.iter().zip(KNOWN_ANSWERS[known_offset(k)..].chunks_exact(8)) {
        if blake3::hash(shard).as_bytes()[..8] != *known {
            return Err(failed());
        }
    }
    let all: Vec<(u8, &[u8])> = (0u8..).zip(data.iter().chain(&parity).map(|shard| &shard[..])).collect();
    let (lost, kept) = all.split_at(usize::from(m));
    let want: Vec<u8> = lost.iter().map(|(index, _)| *index).collect();
    let back = erasure.reconstruct(kept, 0, &want, KNOWN_LEN)?;
    match lost.iter().zip(&back).all(|((_, original), computed)| original == computed) {
        true => Ok(()),
        false => Err(failed()),
    }
}

#[cfg(test)]
mod tests;
