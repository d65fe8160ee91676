#![allow(clippy::unwrap_used)]

use super::*;

fn kek() -> KeyEncryptionKey {
    KeyEncryptionKey::new([7; 32])
}

#[test]
fn wrapped_secrets_come_back_under_the_same_key_and_purpose_only() {
    let wrapped = kek().wrap(b"account 1", b"secret").unwrap();
    assert_eq!(wrapped.len(), 1 + 12 + 6 + 16);
    assert_eq!(&kek().unwrap(b"account 1", &wrapped).unwrap()[..], b"secret");
    assert_eq!(kek().unwrap(b"account 2", &wrapped), Err(WrapError::WrongKey));
    assert_eq!(KeyEncryptionKey::new([8; 32]).unwrap(b"account 1", &wrapped), Err(WrapError::WrongKey));
    assert_eq!(&kek().unwrap(b"", &kek().wrap(b"", b"").unwrap()).unwrap()[..], b"");
}

#[test]
fn wrapping_twice_gives_different_bytes() {
    assert_ne!(kek().wrap(b"p", b"secret").unwrap(), kek().wrap(b"p", b"secret").unwrap());
}

#[test]
fn r17_damaged_wrapped_secrets_are_refused() {
    let wrapped = kek().wrap(b"p", b"secret").unwrap();
    for i in 0..wrapped.len() {
        assert!(kek().unwrap(b"p", &wrapped[..i]).is_err(), "cut at {i}");
        for bit in 0..8 {
            let mut damaged = wrapped.clone();
            damaged[i] ^= 1 << bit;
            assert!(kek().unwrap(b"p", &damaged).is_err(), "bit {bit} of byte {i}");
        }
    }
    assert_eq!(kek().unwrap(b"p", &[9; 60]), Err(WrapError::Version(9)));
}

#[test]
fn either_of_two_keys_unwraps() {
    let (second, other) = (KeyEncryptionKey::new([8; 32]), KeyEncryptionKey::new([9; 32]));
    let wrapped = wrap_twice([&kek(), &second], b"p", b"secret").unwrap();
    for keys in [vec![kek()], vec![second.clone()], vec![other.clone(), second.clone()]] {
        assert_eq!(&unwrap_any(&keys, b"p", &wrapped).unwrap()[..], b"secret");
    }
    assert_eq!(unwrap_any([&other], b"p", &wrapped), Err(WrapError::WrongKey));
    assert_eq!(unwrap_any([&kek()], b"another purpose", &wrapped), Err(WrapError::WrongKey));
    let once = second.wrap(b"p", b"secret").unwrap();
    assert_eq!(&unwrap_any([&kek(), &second], b"p", &once).unwrap()[..], b"secret");
    // What programs before it make of it.
    assert_eq!(kek().unwrap(b"p", &wrapped), Err(WrapError::Version(2)));
    for i in 0..wrapped.len() {
        assert!(unwrap_any([&second], b"p", &wrapped[..i]).is_err(), "cut at {i}");
    }
    assert_eq!(unwrap_any([&kek()], b"p", &[9; 60]), Err(WrapError::Version(9)));
    let golden = crate::golden::read("wrapped-secret-v2.bin", || {
        wrap_twice([&kek(), &second], b"purpose", b"golden secret").unwrap()
    });
    for key in [kek(), second] {
        assert_eq!(&unwrap_any([&key], b"purpose", &golden).unwrap()[..], b"golden secret");
    }
}

#[test]
fn golden_wrapped_secret_is_still_readable() {
    let wrapped =
        crate::golden::read("wrapped-secret-v1.bin", || kek().wrap(b"purpose", b"golden secret").unwrap().to_vec());
    assert_eq!(&kek().unwrap(b"purpose", &wrapped).unwrap()[..], b"golden secret");
}

#[test]
fn secrets_do_not_show() {
    let key = DataKey::new(*b"0123456789abcdef0123456789abcdef");
    assert_eq!(format!("{key:?} {key:#?}"), "DataKey(secret) DataKey(secret)");
    assert_eq!(DataKey::from_slice(&[1; 31]).is_none(), DataKey::from_slice(&[1; 33]).is_none());
    assert_ne!(DataKey::random().unwrap().expose(), DataKey::random().unwrap().expose());
}

#[test]
fn each_frame_has_its_own_key() {
    let (key, context) =
        (DataKey::new([1; 32]), FrameContext { domain: DomainId(1), id: ChunkId([2; 32]), version: 1 });
    let seal = |salt: [u8; 32]| {
        let mut payload = *b"the same payload";
        let tag = seal_frame(&key, &salt, &context, &mut payload).unwrap();
        [&payload[..], &tag].concat()
    };
    assert_ne!(seal([0; 32]), seal([1; 32]));
    assert_eq!(open_frame(&key, &[1; 32], &context, &seal([1; 32])).unwrap(), b"the same payload");
    assert_eq!(open_frame(&key, &[0; 32], &context, &seal([1; 32])), Err(CipherError::Forged));
    let elsewhere = FrameContext { domain: DomainId(2), ..context };
    assert_eq!(open_frame(&key, &[1; 32], &elsewhere, &seal([1; 32])), Err(CipherError::Forged));
}
