//! Percent-encoding (RFC 3986, section 2.1), upper case, of the bytes of UTF-8: what is not unreserved (section 2.3) is `%XX`.

/// Adds `text` to `out`, slashes encoded as well.
pub(crate) fn push(out: &mut String, text: &str) {
    push_but(out, text, |_| false);
}

/// Adds `text` to `out` with its slashes as they are: what lies between them are the segments of a path.
pub(crate) fn push_path(out: &mut String, text: &str) {
    push_but(out, text, |byte| byte == b'/');
}

fn push_but(out: &mut String, text: &str, stays: impl Fn(u8) -> bool) {
    out.reserve(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || stays(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_what_is_unreserved_is_encoded() {
        let of = |push: fn(&mut String, &str), text: &str| {
            let mut out = "=".to_owned();
            push(&mut out, text);
            out
        };
        assert_eq!(of(push, "aZ09-._~ +/%\u{1}\u{fc}"), "=aZ09-._~%20%2B%2F%25%01%C3%BC");
        assert_eq!(of(push_path, "aZ09-._~ +/%\u{1}\u{fc}"), "=aZ09-._~%20%2B/%25%01%C3%BC");
    }
}
