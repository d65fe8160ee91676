use super::*;
use crate::golden;
use crate::segment::MAX_RECORD_BODY;
use crate::stripe::tests::{descriptor, widest};
use proptest::prelude::*;

fn header() -> ShardHeader {
    ShardHeader { descriptor: descriptor(), index: 4 }
}

#[test]
fn golden_shard_header() {
    golden::check("shard-header-v1.bin", &header().encode());
    assert_eq!(ShardHeader::parse(&header().encode()).unwrap(), header());
}

#[test]
fn the_widest_stripe_fits_a_record_header() {
    let header = ShardHeader { descriptor: widest(), index: 31 };
    let bytes = header.encode();
    assert!(bytes.len() <= MAX_RECORD_BODY);
    assert_eq!(ShardHeader::parse(&bytes).unwrap(), header);
}

#[test]
fn every_flip_and_truncation_is_seen() {
    let bytes = header().encode();
    for i in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.to_vec();
            flipped[i] ^= 1 << bit;
            assert!(ShardHeader::parse(&flipped).is_err(), "byte {i}");
        }
        assert!(ShardHeader::parse(&bytes[..i]).is_err(), "length {i}");
    }
}

#[test]
fn a_shard_that_the_stripe_does_not_have_is_refused() {
    for index in [2, 3, 6, 31, 32, 255] {
        let header = ShardHeader { index, ..header() };
        assert!(matches!(ShardHeader::parse(&header.encode()), Err(StripeError::Field { field: "index" })));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(ShardHeader::parse(&bytes).is_err());
    }
}
