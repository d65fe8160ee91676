#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const DOMAIN: DomainId = DomainId(0x0102_0304_0506_0708);

fn chunk_key() -> ChunkKey {
    ChunkKey::new([0x11; 32])
}

fn data_key() -> DataKey {
    DataKey::new([0x22; 32])
}

fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(b"frame tests").finalize_xof().fill(&mut out);
    out
}

fn text(len: usize) -> Vec<u8> {
    b"Cut on a stone, a record outlives its cutter. ".iter().copied().cycle().take(len).collect()
}

fn make(plain: &[u8], level: i32, key: Option<&DataKey>) -> Vec<u8> {
    make_in(FIRST_VERSION, plain, level, key)
}

fn make_in(version: u8, plain: &[u8], level: i32, key: Option<&DataKey>) -> Vec<u8> {
    let spec = FrameSpec { version, domain: DOMAIN, id: chunk_id(&chunk_key(), plain), level, data_key: key };
    encode(&spec, plain).unwrap()
}

fn read(frame: &[u8], plain: &[u8], key: Option<&DataKey>) -> Result<Vec<u8>, FrameError> {
    let chunk_key = chunk_key();
    let id = chunk_id(&chunk_key, plain);
    decode(frame, &Expect { id, domain: DOMAIN, plain_len: plain.len() as u32, chunk_key: &chunk_key, data_key: key })
}

/// The four kinds of frame: raw and zstd, plain and encrypted.
fn kinds() -> Vec<(Vec<u8>, Option<DataKey>)> {
    [noise(300), text(2000)].into_iter().flat_map(|p| [(p.clone(), None), (p, Some(data_key()))]).collect()
}

#[test]
fn chunks_come_back() {
    for len in [1, 2, 79, 4096, 65_536, 200_000, MAX_CHUNK - 1, MAX_CHUNK] {
        for plain in [noise(len), text(len), vec![0; len]] {
            for key in [None, Some(data_key())] {
                for version in FIRST_VERSION..=VERSION {
                    let frame = make_in(version, &plain, 3, key.as_ref());
                    let header = verify_stored(&frame).unwrap();
                    assert_eq!((header.frame_len(), header.version), (frame.len(), version));
                    assert_eq!((header.plain_len as usize, header.encrypted()), (len, key.is_some()));
                    assert!(frame.len() <= MAX_FRAME && header.header_len() <= MAX_HEADER);
                    assert_eq!(read(&frame, &plain, key.as_ref()).unwrap(), plain);
                }
            }
        }
    }
}

#[test]
fn what_does_not_get_smaller_is_stored_raw() {
    for (plain, level, compression) in [
        (noise(100_000), 3, Compression::Raw),
        (noise(10_000), 19, Compression::Raw),
        (vec![1], 3, Compression::Raw),
        (text(100_000), 0, Compression::Zstd),
        (text(100_000), -1, Compression::Raw),
        (text(100_000), 1, Compression::Zstd),
        (text(100_000), 99, Compression::Zstd),
        ([noise(500), vec![0; 500]].concat(), 3, Compression::Zstd),
    ] {
        let frame = make(&plain, level, None);
        assert_eq!(parse_header(&frame).unwrap().compression, compression, "{} bytes, level {level}", plain.len());
        assert!(frame.len() <= HEADER_PLAIN + plain.len(), "a raw frame is its header and the chunk");
        assert!(frame.capacity() <= frame.len() + TAG_LEN, "a frame holds {} bytes too many", frame.capacity());
    }
}

#[test]
fn impossible_chunks_are_refused() {
    let spec = FrameSpec { version: VERSION, domain: DOMAIN, id: ChunkId([0; 32]), level: 3, data_key: None };
    assert_eq!(encode(&spec, &[]), Err(FrameError::ChunkLength(0)));
    assert_eq!(encode(&spec, &vec![0; MAX_CHUNK + 1]), Err(FrameError::ChunkLength(MAX_CHUNK + 1)));
    for version in [0, VERSION + 1] {
        assert_eq!(encode(&FrameSpec { version, ..spec }, b"chunk"), Err(FrameError::Version(version)));
    }
}

#[test]
fn r17_every_flip_and_every_cut_is_detected() {
    let versions = || FIRST_VERSION..=VERSION;
    for (version, (plain, key)) in versions().flat_map(|version| kinds().into_iter().map(move |kind| (version, kind))) {
        let frame = make_in(version, &plain, 3, key.as_ref());
        for i in 0..frame.len() {
            assert!(verify_stored(&frame[..i]).is_err(), "cut at {i}");
            for bit in 0..8 {
                let mut damaged = frame.clone();
                damaged[i] ^= 1 << bit;
                assert!(verify_stored(&damaged).is_err(), "bit {bit} of byte {i}, without keys");
                assert!(read(&damaged, &plain, key.as_ref()).is_err(), "bit {bit} of byte {i}");
            }
        }
        let longer = [&frame[..], &[0]].concat();
        assert_eq!(verify_stored(&longer), Err(FrameError::Length { got: frame.len() + 1, want: frame.len() }));
    }
}

#[cfg(feature = "next-release")]
#[test]
fn a_frame_of_version_2_says_its_mark_and_the_first_release_would_refuse_it_by_number() {
    for key in [None, Some(data_key())] {
        let frame = make_in(2, b"chunk", 0, key.as_ref());
        assert_eq!(frame[4], 2);
        let salt = if key.is_some() { SALT_LEN } else { 0 };
        let mark = 56 + salt..64 + salt;
        assert_eq!(frame[mark.clone()], MARK);
        let (mut other, hash) = (frame.clone(), mark.end + PAYLOAD_HASH);
        other[mark.start] ^= 1;
        let right = hash_prefix::<HEADER_HASH>(&other[..hash]);
        other[hash..hash + HEADER_HASH].copy_from_slice(&right);
        assert_eq!(parse_header(&other), Err(FrameError::Field("mark")));
    }
}

/// A frame whose hashes are right, with other fields: what somebody who can write to a drive can make.
fn forge(frame: &[u8], change: impl FnOnce(&mut FrameHeader, &mut Vec<u8>)) -> Vec<u8> {
    let mut header = parse_header(frame).unwrap();
    let mut payload = frame[header.header_len()..].to_vec();
    change(&mut header, &mut payload);
    header.stored_len = payload.len() as u32;
    header.payload_hash = hash_prefix(&payload);
    let mut out = vec![0; header.header_len()];
    header.write(&mut out);
    out.extend_from_slice(&payload);
    out
}

#[test]
fn r17_forged_payloads_do_not_pass() {
    for (plain, key) in kinds() {
        let frame = make(&plain, 3, key.as_ref());
        assert_eq!(forge(&frame, |_, _| ()), frame);
        let forged = forge(&frame, |_, payload| payload[0] ^= 1);
        assert!(verify_stored(&forged).is_ok());
        let error = read(&forged, &plain, key.as_ref()).unwrap_err();
        match key {
            Some(_) => assert_eq!(error, FrameError::Cipher(CipherError::Forged)),
            None => assert!(matches!(error, FrameError::ChunkId | FrameError::Decompress(_)), "{error}"),
        }
    }
}

#[test]
fn r17_a_bomb_does_not_inflate() {
    let plain = vec![0; 1000];
    let bomb = zstd::bulk::compress(&vec![0u8; 1 << 24], 19).unwrap();
    assert!(bomb.len() < 1000);
    let forged = forge(&make(&plain, 3, None), |_, payload| *payload = bomb);
    assert_eq!(read(&forged, &plain, None), Err(FrameError::Decompress(DecompressError::Malformed(1000))));
    let small = zstd::bulk::compress(&[0; 10], 3).unwrap();
    let forged = forge(&make(&plain, 3, None), |_, payload| *payload = small);
    assert_eq!(
        read(&forged, &plain, None),
        Err(FrameError::Decompress(DecompressError::Short { got: 10, want: 1000 }))
    );
}

#[test]
fn r17_lengths_are_checked_before_they_are_used() {
    let frame = make(&text(1000), 3, None);
    for plain_len in [0, MAX_CHUNK as u32 + 1, u32::MAX] {
        let forged = forge(&frame, |header, _| header.plain_len = plain_len);
        assert_eq!(parse_header(&forged), Err(FrameError::Field("plain length")));
    }
    let not_smaller = forge(&frame, |_, payload| payload.resize(1000, 0));
    assert_eq!(parse_header(&not_smaller), Err(FrameError::Field("stored length")));
    let raw_shorter = forge(&frame, |header, _| header.compression = Compression::Raw);
    assert_eq!(parse_header(&raw_shorter), Err(FrameError::Field("stored length")));
    let no_tag = forge(&make(&text(1000), 3, Some(&data_key())), |_, payload| payload.truncate(15));
    assert_eq!(parse_header(&no_tag), Err(FrameError::Field("stored length")));
}

#[test]
fn unknown_fields_are_refused_by_name() {
    for (at, value, error) in [
        (0, b'X', FrameError::Magic),
        (4, VERSION + 1, FrameError::Version(VERSION + 1)),
        (5, 2, FrameError::Field("compression")),
        (6, 2, FrameError::Field("encryption")),
        (7, 1, FrameError::Field("flags")),
    ] {
        let mut frame = make(b"chunk", 0, None);
        frame[at] = value;
        let hash = hash_prefix::<8>(&frame[..72]);
        frame[72..80].copy_from_slice(&hash);
        assert_eq!(parse_header(&frame), Err(error));
    }
}

#[test]
fn another_chunks_frame_is_refused() {
    let (frame, chunk_key) = (make(b"chunk", 0, None), chunk_key());
    let right = Expect {
        id: chunk_id(&chunk_key, b"chunk"),
        domain: DOMAIN,
        plain_len: 5,
        chunk_key: &chunk_key,
        data_key: None,
    };
    assert!(decode(&frame, &right).is_ok());
    let wrong = |expect: Expect| decode(&frame, &expect).unwrap_err();
    assert_eq!(wrong(Expect { id: ChunkId([0; 32]), ..right }), FrameError::Unexpected("chunk id"));
    assert_eq!(wrong(Expect { domain: DomainId(1), ..right }), FrameError::Unexpected("dedup domain"));
    assert_eq!(wrong(Expect { plain_len: 6, ..right }), FrameError::Unexpected("length"));
    assert_eq!(wrong(Expect { chunk_key: &ChunkKey::new([0; 32]), ..right }), FrameError::ChunkId);
}

#[test]
fn plaintext_never_stands_in_for_an_encrypted_frame() {
    let frame = make(b"chunk", 0, None);
    assert_eq!(read(&frame, b"chunk", Some(&data_key())), Err(FrameError::NotEncrypted));
    let frame = make(b"chunk", 0, Some(&data_key()));
    assert_eq!(read(&frame, b"chunk", None), Err(FrameError::KeyNeeded));
    let other = DataKey::new([0x23; 32]);
    assert_eq!(read(&frame, b"chunk", Some(&other)), Err(FrameError::Cipher(CipherError::Forged)));
    let moved = forge(&frame, |header, _| header.domain = DomainId(9));
    let chunk_key = chunk_key();
    let expect = Expect {
        id: chunk_id(&chunk_key, b"chunk"),
        domain: DomainId(9),
        plain_len: 5,
        chunk_key: &chunk_key,
        data_key: Some(&data_key()),
    };
    assert_eq!(decode(&moved, &expect), Err(FrameError::Cipher(CipherError::Forged)));
}

#[test]
fn one_chunk_encrypted_twice_gives_two_frames() {
    let (a, b) = (make(b"chunk", 0, Some(&data_key())), make(b"chunk", 0, Some(&data_key())));
    assert_ne!(parse_header(&a).unwrap().salt, parse_header(&b).unwrap().salt);
    let start = header_len(FIRST_VERSION, true);
    assert_ne!(a[start..], b[start..]);
}

#[test]
fn golden_frames_are_still_written_and_read() {
    for (name, plain, level, key) in [
        ("frame-raw-v1.bin", noise(200), 0, None),
        ("frame-zstd-v1.bin", text(2000), 3, None),
        ("frame-raw-encrypted-v1.bin", noise(200), 0, Some(data_key())),
        ("frame-zstd-encrypted-v1.bin", text(2000), 3, Some(data_key())),
    ] {
        let id = chunk_id(&chunk_key(), &plain);
        let spec = FrameSpec { version: FIRST_VERSION, domain: DOMAIN, id, level, data_key: key.as_ref() };
        let written = encode_salted(&spec, &plain, key.as_ref().map(|_| [0x33; 32])).unwrap();
        let golden = crate::golden::read(name, || written.clone());
        assert_eq!(read(&golden, &plain, key.as_ref()).unwrap(), plain, "{name}");
        // Another version of zstd may compress otherwise; only what it makes must stay readable.
        if level == 0 {
            assert_eq!(golden, written, "{name}");
        }
    }
}

proptest! {
    #[test]
    fn r17_noise_is_no_frame(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verify_stored(&bytes).is_err());
        for version in FIRST_VERSION..=VERSION {
            let disguised = [b"STLF".as_slice(), &[version], &bytes].concat();
            prop_assert!(verify_stored(&disguised).is_err());
        }
    }

    #[test]
    fn any_chunk_comes_back(plain in proptest::collection::vec(0u8..4, 1..5000), level in 0..20, encrypted: bool) {
        let key = encrypted.then(data_key);
        let frame = make(&plain, level, key.as_ref());
        prop_assert_eq!(read(&frame, &plain, key.as_ref()).unwrap(), plain);
    }
}
