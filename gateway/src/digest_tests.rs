use super::*;
use codec::effect::Content;
use proptest::prelude::*;

const ALL: [ChecksumAlgorithm; 5] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32c,
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
];

fn digest(bytes: &[u8]) -> Digests {
    let mut digester = Digester::new(ALL);
    digester.update(bytes);
    digester.finish()
}

fn part(bytes: &[u8]) -> PartRow {
    let digests = digest(bytes);
    let content = Content {
        size: bytes.len() as u64,
        etag: digests.etag(),
        checksums: digests.verify(Claims::default()).unwrap(),
        ..Content::default()
    };
    PartRow { content: Some(content), ..PartRow::default() }
}

/// The check values of the CRC catalogue, FIPS 180 and RFC 1321.
#[test]
fn known_answers() {
    let digests = digest(b"123456789");
    let hex: Vec<String> = digests.checksums.iter().map(|(_, value)| hex::encode(value)).collect();
    assert_eq!(hex[..3], ["cbf43926", "e3069283", "ae8b14860a799888"]);
    assert_eq!(digests.etag(), "25f9e794323b453885f5181f1b624d0b");
    let abc = digest(b"abc");
    assert_eq!(hex::encode(&abc.checksums[3].1), "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(hex::encode(&abc.checksums[4].1), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    let empty = digest(b"");
    assert_eq!(empty.etag(), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(hex::encode(&empty.checksums[2].1), "0000000000000000");
    assert!(
        ALL.iter().zip(&empty.checksums).all(|(algorithm, (_, value))| digest_len(*algorithm) == Some(value.len()))
    );
}

#[test]
fn no_algorithm_named_means_crc64nvme() {
    assert_eq!(wanted(&Claims::default()), [ChecksumAlgorithm::Crc64Nvme]);
    let claims = Claims { md5: None, checksums: vec![(ChecksumAlgorithm::Sha1, Claim::Compute)] };
    assert_eq!(wanted(&claims), [ChecksumAlgorithm::Sha1]);
}

#[test]
fn every_claim_is_verified() {
    let digests = digest(b"123456789");
    let right =
        |algorithm: ChecksumAlgorithm| digests.checksums[ALL.iter().position(|a| *a == algorithm).unwrap()].1.clone();
    let claims = |md5, checksums| Claims { md5, checksums };
    assert!(digests.verify(claims(Some(digests.md5), Vec::new())).is_ok());
    assert!(matches!(digests.verify(claims(Some([0; 16]), Vec::new())), Err(PutError::Md5Mismatch)));
    for algorithm in ALL {
        let good = right(algorithm);
        let trailer = good.clone();
        assert!(digests.verify(claims(None, vec![(algorithm, Claim::Value(good.clone()))])).is_ok());
        let read: Claim = Claim::Trailer(Box::new(move || Some(trailer)));
        assert!(digests.verify(claims(None, vec![(algorithm, read)])).is_ok());
        let mut bad = good.to_vec();
        bad[0] ^= 1;
        for claim in [Claim::Value(bad.clone().into()), Claim::Value(good.slice(1..)), Claim::Value(Bytes::new())] {
            let refused = digests.verify(claims(None, vec![(algorithm, claim)]));
            assert!(matches!(refused, Err(PutError::ChecksumMismatch { algorithm: of }) if of == algorithm));
        }
        let wrong: Claim = Claim::Trailer(Box::new(move || Some(bad.into())));
        assert!(digests.verify(claims(None, vec![(algorithm, wrong)])).is_err());
        let none: Claim = Claim::Trailer(Box::new(|| None));
        assert!(matches!(
            digests.verify(claims(None, vec![(algorithm, none)])),
            Err(PutError::TrailerMissing { algorithm: of }) if of == algorithm
        ));
    }
    let unknown = vec![(ChecksumAlgorithm::Unspecified, Claim::Value(Bytes::new()))];
    assert!(digests.verify(claims(None, unknown)).is_err());
}

/// MD5 of the two raw MD5s of "a" and "b", as S3 documents it (checked with `printf a|md5sum` and so on).
#[test]
fn multipart_entity_tag() {
    let (a, b) = (digest(b"a").etag(), digest(b"b").etag());
    let raw = [hex::decode(&a).unwrap(), hex::decode(&b).unwrap()].concat();
    assert_eq!(multipart_etag([a.as_str(), b.as_str()].into_iter()), Some(format!("{}-2", digest(&raw).etag())));
    assert_eq!(multipart_etag(["0123-2"].into_iter()), None);
}

#[test]
fn composite_checksums_are_over_the_parts_checksums() {
    let parts = [part(b"hello "), part(b"world")];
    for algorithm in [ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Crc32c] {
        let index = ALL.iter().position(|a| *a == algorithm).unwrap();
        let raw =
            [digest(b"hello ").checksums[index].1.to_vec(), digest(b"world").checksums[index].1.to_vec()].concat();
        let found = multipart_checksum(algorithm, false, &parts).unwrap();
        assert!(found.composite);
        assert_eq!(found.value, digest(&raw).checksums[index].1);
    }
    assert_eq!(multipart_checksum(ChecksumAlgorithm::Sha256, true, &parts), None, "SHA-256 does not combine");
    let bare = PartRow { content: Some(Content::default()), ..PartRow::default() };
    assert_eq!(multipart_checksum(ChecksumAlgorithm::Crc32, true, &[bare]), None, "a part without the checksum");
}

proptest! {
    #[test]
    fn crcs_of_parts_combine_to_the_whole(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6)) {
        let whole = digest(&parts.concat());
        let rows: Vec<PartRow> = parts.iter().map(|bytes| part(bytes)).collect();
        for (index, algorithm) in ALL.into_iter().enumerate().take(3) {
            let combined = multipart_checksum(algorithm, true, &rows).unwrap();
            prop_assert_eq!(&combined.value, &whole.checksums[index].1);
            prop_assert!(!combined.composite);
        }
    }

    #[test]
    fn the_cuts_of_the_stream_don_t_matter(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6)) {
        let mut digester = Digester::new(ALL.into_iter().chain(ALL));
        parts.iter().for_each(|bytes| digester.update(bytes));
        prop_assert_eq!(digester.finish(), digest(&parts.concat()));
    }
}
