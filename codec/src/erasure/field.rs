//! GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d) and generator 2, and the small matrices over it.

/// A matrix as its rows.
pub(super) type Rows = Vec<Vec<u8>>;

struct Tables {
    log: [u8; 256],
    /// Twice over, so that the sum of two logarithms needs no reduction.
    exp: [u8; 510],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let (mut log, mut exp) = ([0; 256], [0; 510]);
    let (mut value, mut power) = (1u16, 0);
    while power < 255 {
        exp[power] = value as u8;
        exp[power + 255] = value as u8;
        log[value as usize] = power as u8;
        value <<= 1;
        if value & 0x100 != 0 {
            value ^= 0x11d;
        }
        power += 1;
    }
    Tables { log, exp }
}

/// The product.
pub(super) fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    TABLES.exp[usize::from(TABLES.log[usize::from(a)]) + usize::from(TABLES.log[usize::from(b)])]
}

/// The products of `c` with every element.
pub(super) fn products(c: u8) -> [u8; 256] {
    std::array::from_fn(|b| mul(c, b as u8))
}

/// `a` to the power `n`, with 0^0 = 1.
fn pow(a: u8, n: usize) -> u8 {
    (0..n).fold(1, |product, _| mul(product, a))
}

/// The inverse of a non-zero element.
fn inverse(a: u8) -> u8 {
    TABLES.exp[255 - usize::from(TABLES.log[usize::from(a)])]
}

/// `row += factor * other`.
pub(super) fn add_scaled(row: &mut [u8], factor: u8, other: &[u8]) {
    for (slot, value) in row.iter_mut().zip(other) {
        *slot ^= mul(factor, *value);
    }
}

/// The inverse of a square matrix by Gauss-Jordan elimination; `None` if it has none.
pub(super) fn invert(mut a: Rows) -> Option<Rows> {
    let n = a.len();
    let mut result: Rows = (0..n).map(|r| (0..n).map(|c| u8::from(r == c)).collect()).collect();
    for column in 0..n {
        let pivot = (column..n).find(|&r| a[r][column] != 0)?;
        a.swap(column, pivot);
        result.swap(column, pivot);
        let scale = inverse(a[column][column]);
        for value in a[column].iter_mut().chain(&mut result[column]) {
            *value = mul(*value, scale);
        }
        let (pivot_a, pivot_result) = (a[column].clone(), result[column].clone());
        for r in (0..n).filter(|&r| r != column) {
            let factor = a[r][column];
            add_scaled(&mut a[r], factor, &pivot_a);
            add_scaled(&mut result[r], factor, &pivot_result);
        }
    }
    Some(result)
}

/// The parity rows of the generator: with the Vandermonde matrix `V[r][c] = r^c` of k+m rows and k columns, rows k.. of
/// `V * inverse(V[0..k])`. Any k rows of V are independent (its r differ), so any k rows of the product are as well.
pub(super) fn parity_rows(k: usize, m: usize) -> Rows {
    let vandermonde = |r: usize| -> Vec<u8> { (0..k).map(|c| pow(r as u8, c)).collect() };
    // Distinct r always give an inverse; without one no parity would be computed, and the self-test would say so.
    let top = invert((0..k).map(vandermonde).collect()).unwrap_or_default();
    let row = |r: usize| {
        let mut row = vec![0; k];
        for (factor, top_row) in vandermonde(r).into_iter().zip(&top) {
            add_scaled(&mut row, factor, top_row);
        }
        row
    };
    (k..k + m).map(row).collect()
}
