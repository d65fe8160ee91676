//! Who multiplies: the crate's SIMD code, or plain tables where the CPU can't run that.

use reed_solomon_erasure::galois_8;

use super::{ErasureError, field};

// The crate's build script compiles its C for another CPU when this variable is set; the check below knows haswell only.
const _: () = assert!(
    option_env!("RUST_REED_SOLOMON_ERASURE_ARCH").is_none(),
    "unset RUST_REED_SOLOMON_ERASURE_ARCH: codec checks the CPU for what -march=haswell needs and nothing else"
);

/// How products of long slices are computed. Both give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The C code of `reed-solomon-erasure`: AVX2 on x86-64, NEON on aarch64.
    Simd,
    /// One look-up per byte: any CPU.
    Table,
}

/// Every instruction set that a C compiler may use under `-march=haswell` in code like the kernel's, and whether it is
/// here. What gcc 12 makes of it uses AVX and AVX2 only, but another compiler may choose otherwise, and every CPU with AVX2
/// has the others as well. On aarch64 NEON is part of the architecture; elsewhere the crate compiles no C at all.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<(&'static str, bool)> {
    use std::arch::is_x86_feature_detected as detected;
    // The macro also asks whether the operating system saves the wide registers.
    vec![
        ("SSE3", detected!("sse3")),
        ("SSSE3", detected!("ssse3")),
        ("SSE4.1", detected!("sse4.1")),
        ("SSE4.2", detected!("sse4.2")),
        ("POPCNT", detected!("popcnt")),
        ("AVX", detected!("avx")),
        ("AVX2", detected!("avx2")),
        ("BMI1", detected!("bmi1")),
        ("BMI2", detected!("bmi2")),
        ("LZCNT", detected!("lzcnt")),
        ("MOVBE", detected!("movbe")),
        ("FMA", detected!("fma")),
        ("F16C", detected!("f16c")),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

/// Can this CPU run the fast kernel? An error is no reason to stop: [`super::Erasure::new`] then takes the slow one. A server
/// warns about it at start.
pub fn cpu_check() -> Result<(), ErasureError> {
    check(&features())
}

fn check(features: &[(&str, bool)]) -> Result<(), ErasureError> {
    let missing: Vec<&str> = features.iter().filter(|(_, here)| !here).map(|(name, _)| *name).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(ErasureError::Cpu { missing: missing.join(", ") }),
    }
}

impl Kernel {
    /// The fastest that this CPU can run.
    pub fn detect() -> Kernel {
        Kernel::choose(&features())
    }

    fn choose(features: &[(&str, bool)]) -> Kernel {
        match check(features) {
            Ok(()) => Kernel::Simd,
            Err(_) => Kernel::Table,
        }
    }

    /// `output += c * input`, for slices of one length.
    pub(super) fn mul_add(self, c: u8, input: &[u8], output: &mut [u8]) {
        // The crate's kernel indexes the first byte, so it must not see empty slices.
        if c == 0 || input.is_empty() {
            return;
        }
        match self {
            Kernel::Simd => galois_8::mul_slice_xor(c, input, output),
            Kernel::Table => {
                let products = field::products(c);
                for (out, byte) in output.iter_mut().zip(input) {
                    *out ^= products[usize::from(*byte)];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_without_one_instruction_set_gets_the_table_kernel_and_a_clear_word() {
        let complete: Vec<(&str, bool)> = features().iter().map(|(name, _)| (*name, true)).collect();
        assert_eq!(Kernel::choose(&complete), Kernel::Simd);
        for lacking in 0..complete.len() {
            let mut features = complete.clone();
            features[lacking].1 = false;
            assert_eq!(Kernel::choose(&features), Kernel::Table);
            let Err(refusal) = check(&features) else { panic!("not refused") };
            assert!(refusal.to_string().contains(features[lacking].0), "{refusal}");
        }
    }

    #[test]
    fn both_kernels_multiply_alike() {
        let input: Vec<u8> = (0..1000u32).map(|i| (i * i / 7) as u8).collect();
        for c in 0..=255 {
            for len in [0, 1, 15, 16, 31, 32, 33, 100, 1000] {
                let mut table = vec![0x5a; len];
                Kernel::Table.mul_add(c, &input[..len], &mut table);
                let mut detected = vec![0x5a; len];
                Kernel::detect().mul_add(c, &input[..len], &mut detected);
                assert_eq!(table, detected, "coefficient {c}, {len} bytes");
            }
        }
    }
}
