#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn geometry(k: u8, m: u8) -> Geometry {
    Geometry::new(k, m).unwrap()
}

#[test]
fn geometries_are_bounded() {
    for (k, m) in [(0, 0), (0, 2), (33, 0), (32, 1), (1, 32), (255, 255), (200, 100)] {
        assert_eq!(Geometry::new(k, m), Err(ErasureError::Geometry { k, m }));
    }
    for (k, m) in [(1, 0), (32, 0), (1, 31), (10, 4)] {
        assert_eq!(Geometry::new(k, m).map(|g| (g.k(), g.m(), g.total())), Ok((k, m, k + m)));
    }
}

#[test]
fn geometries_are_written_as_sums() {
    assert_eq!(geometry(10, 4).to_string(), "10+4");
    assert_eq!("10+4".parse(), Ok(geometry(10, 4)));
    assert_eq!("1+0".parse(), Ok(geometry(1, 0)));
    for text in ["", "4", "4+", "+2", "4-2", "4+2+1", "++", "4 + 2", "4++2", "+4+2", "300+2", "a+b"] {
        assert_eq!(text.parse::<Geometry>(), Err(ErasureError::GeometryText), "{text:?}");
    }
    assert_eq!("0+2".parse::<Geometry>(), Err(ErasureError::Geometry { k: 0, m: 2 }));
}

#[test]
fn without_parity_there_is_nothing_to_compute_and_nothing_comes_back() {
    let erasure = Erasure::new(geometry(3, 0));
    let data: [&[u8]; 3] = [b"one", b"three", b"two"];
    assert!(erasure.encode_parity(&data.map(Some)).is_empty());
    let inputs = [(0, data[0]), (1, data[1])];
    assert_eq!(erasure.reconstruct(&inputs, 0, &[2], 5), Err(ErasureError::TooFew { lost: 1, parity: 0 }));
    assert_eq!(erasure.reconstruct(&inputs, 0b100, &[1, 2], 5).unwrap(), [b"three".to_vec(), vec![0; 5]]);
}

#[test]
fn with_one_data_shard_parity_is_a_copy() {
    let erasure = Erasure::new(geometry(1, 3));
    assert_eq!(erasure.encode_parity(&[Some(b"copied")]), vec![b"copied".to_vec(); 3]);
    assert_eq!(erasure.reconstruct(&[(3, b"copied")], 0, &[0, 1], 6).unwrap(), vec![b"copied".to_vec(); 2]);
}

#[test]
fn an_absent_stripe_has_empty_parity() {
    assert_eq!(Erasure::new(geometry(2, 2)).encode_parity(&[None, None]), vec![Vec::<u8>::new(); 2]);
}

#[test]
fn impossible_requests_are_refused() {
    let erasure = Erasure::new(geometry(4, 2));
    let index = |index| ErasureError::Index { index, geometry: geometry(4, 2) };
    let refused =
        |inputs: &[(u8, &[u8])], absent, want: &[u8]| erasure.reconstruct(inputs, absent, want, 2).unwrap_err();
    assert_eq!(refused(&[(6, b"ab")], 0, &[]), index(6));
    assert_eq!(refused(&[(255, b"ab")], 0, &[]), index(255));
    assert_eq!(refused(&[], 0, &[6]), index(6));
    assert_eq!(refused(&[], 0b1_0000, &[]), index(4));
    assert_eq!(refused(&[], u32::MAX, &[]), index(31));
    assert_eq!(refused(&[(1, b"ab"), (1, b"ab")], 0, &[]), ErasureError::Twice(1));
    assert_eq!(refused(&[(1, b"ab")], 0b10, &[]), ErasureError::Twice(1));
    assert_eq!(refused(&[(1, b"abc")], 0, &[]), ErasureError::Length { index: 1, got: 3, len: 2 });
    assert_eq!(refused(&[(1, b"ab"), (2, b"ab"), (3, b"ab")], 0, &[0]), ErasureError::TooFew { lost: 1, parity: 0 });
    // Parity can't be computed while data is lost, but what is given comes back.
    assert_eq!(refused(&[(1, b"ab"), (4, b"cd")], 0, &[5]), ErasureError::TooFew { lost: 3, parity: 1 });
    assert_eq!(erasure.reconstruct(&[(1, b"ab"), (4, b"cd")], 0, &[4, 1], 2).unwrap(), [b"cd", b"ab"]);
}

#[test]
#[should_panic(expected = "k data shards")]
fn too_few_data_shards_are_a_mistake_of_the_caller() {
    Erasure::new(geometry(2, 1)).encode_parity(&[Some(b"a")]);
}

#[test]
fn r3_a_wrong_answer_fails_the_self_test() {
    let mut wrong = Erasure::new(geometry(4, 2));
    wrong.parity[1][2] ^= 1;
    assert_eq!(self_test_of(&wrong), Err(ErasureError::SelfTest(geometry(4, 2))));
}

#[test]
fn the_simd_kernel_is_refused_where_it_cannot_run() {
    let simd = Erasure::with_kernel(geometry(4, 2), Kernel::Simd);
    assert_eq!(simd.map(|e| e.kernel()), cpu_check().map(|()| Kernel::Simd));
    assert_eq!(Erasure::new(geometry(4, 2)).kernel(), Kernel::detect());
}

proptest! {
    #[test]
    fn r17_no_request_panics(
        k in 1u8..8, m in 0u8..5, absent: u32,
        inputs in proptest::collection::vec((0u8..14, proptest::collection::vec(any::<u8>(), 0..9)), 0..13),
        want in proptest::collection::vec(0u8..14, 0..6),
    ) {
        let inputs: Vec<(u8, &[u8])> = inputs.iter().map(|(i, b)| (*i, &b[..])).collect();
        let _ = Erasure::new(geometry(k, m)).reconstruct(&inputs, absent, &want, 8);
        let _ = Erasure::new(geometry(k, m)).reconstruct(&inputs, absent & ((1 << k) - 1), &want, 8);
    }
}
