//! A second, independent Reed-Solomon (R3), written from docs/FORMAT.md and sharing nothing with the code under test: its
//! field multiplies by shift and reduce into one full table, and it decodes with the textbook k x k inverse.

/// A matrix as its rows.
pub type Rows = Vec<Vec<u8>>;

/// The field's whole multiplication table.
pub struct Field {
    products: Vec<[u8; 256]>,
}

impl Field {
    pub fn new() -> Field {
        let products = (0..=255u8).map(|a| std::array::from_fn(|b| shift_and_reduce(a, b as u8))).collect();
        Field { products }
    }

    fn mul(&self, a: u8, b: u8) -> u8 {
        self.products[usize::from(a)][usize::from(b)]
    }

    fn inverse(&self, a: u8) -> u8 {
        (1..=255).find(|&b| self.mul(a, b) == 1).expect("zero has no inverse")
    }

    fn power(&self, a: u8, n: usize) -> u8 {
        (0..n).fold(1, |product, _| self.mul(product, a))
    }

    fn product(&self, a: &Rows, b: &Rows) -> Rows {
        let cell = |row: &[u8], c: usize| row.iter().zip(b).fold(0, |sum, (x, y)| sum ^ self.mul(*x, y[c]));
        a.iter().map(|row| (0..b[0].len()).map(|c| cell(row, c)).collect()).collect()
    }

    /// By elimination on the matrix with the identity beside it.
    fn inverted(&self, a: &[Vec<u8>]) -> Rows {
        let n = a.len();
        let mut work: Rows = a.to_vec();
        for (r, row) in work.iter_mut().enumerate() {
            row.extend((0..n).map(|c| u8::from(r == c)));
        }
        for d in 0..n {
            let pivot = (d..n).find(|&r| work[r][d] != 0).expect("the matrix is regular");
            work.swap(d, pivot);
            let scale = self.inverse(work[d][d]);
            work[d] = work[d].iter().map(|v| self.mul(*v, scale)).collect();
            let pivot_row = work[d].clone();
            for (_, row) in work.iter_mut().enumerate().filter(|(r, row)| *r != d && row[d] != 0) {
                let factor = row[d];
                row.iter_mut().zip(&pivot_row).for_each(|(v, p)| *v ^= self.mul(factor, *p));
            }
        }
        work.into_iter().map(|row| row[n..].to_vec()).collect()
    }

    /// The generator: k+m rows, the first k of them the identity.
    pub fn generator(&self, k: usize, m: usize) -> Rows {
        let vandermonde: Rows = (0..k + m).map(|r| (0..k).map(|c| self.power(r as u8, c)).collect()).collect();
        self.product(&vandermonde, &self.inverted(&vandermonde[..k]))
    }

    /// All k+m shards of k data shards of one length.
    pub fn encode(&self, generator: &Rows, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
        generator.iter().map(|row| self.apply(row, data)).collect()
    }

    /// All k+m shards from any k of them.
    pub fn decode(&self, generator: &Rows, given: &[(usize, Vec<u8>)]) -> Vec<Vec<u8>> {
        let square: Rows = given.iter().map(|(index, _)| generator[*index].clone()).collect();
        let inputs: Vec<Vec<u8>> = given.iter().map(|(_, bytes)| bytes.clone()).collect();
        let data: Vec<Vec<u8>> = self.inverted(&square).iter().map(|row| self.apply(row, &inputs)).collect();
        self.encode(generator, &data)
    }

    fn apply(&self, row: &[u8], inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut out = vec![0; inputs[0].len()];
        for (factor, input) in row.iter().zip(inputs) {
            out.iter_mut().zip(input).for_each(|(o, i)| *o ^= self.mul(*factor, *i));
        }
        out
    }
}

/// The product of two polynomials over GF(2), modulo x^8 + x^4 + x^3 + x^2 + 1.
fn shift_and_reduce(a: u8, b: u8) -> u8 {
    let mut sum = 0u16;
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            sum ^= u16::from(a) << bit;
        }
    }
    for bit in (8..16).rev() {
        if sum >> bit & 1 == 1 {
            sum ^= 0x11d << (bit - 8);
        }
    }
    sum as u8
}
