//! Values of conditions: numbers, dates, addresses, ARNs.

use std::net::IpAddr;

/// A decimal number with nine digits behind the point at most, compared exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal(i128);

const FRACTION: usize = 9;

impl Decimal {
    /// Reads digits with an optional sign and point.
    pub fn parse(text: &str) -> Option<Decimal> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let decimal = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let fits = !whole.is_empty() && whole.len() <= 20 && fraction.len() <= FRACTION;
        if !fits || !decimal(whole) || !decimal(fraction) || digits.ends_with('.') {
            return None;
        }
        let scaled: i128 = format!("{whole}{fraction:0<FRACTION$}").parse().ok()?;
        Some(Decimal(if negative { -scaled } else { scaled }))
    }
}

/// A moment in milliseconds since the Unix epoch: ISO 8601 with a zone, a date alone (its midnight, UTC), or seconds since the epoch
/// (IAM User Guide, "Date condition operators").
pub fn moment(text: &str) -> Option<i64> {
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Some(timestamp.as_millisecond());
    }
    if !text.is_empty() && text.len() <= 12 && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<i64>().ok()?.checked_mul(1000);
    }
    let date_only = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let date = date_only.then(|| text.parse::<jiff::civil::Date>().ok()).flatten()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// An address, or all that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// An IPv4 address that an IPv6 socket shows as `::ffff:a.b.c.d` is that IPv4 address.
pub fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

impl Network {
    /// Reads an address with an optional prefix length (RFC 4632, section 3.1; RFC 4291, section 2.3).
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse::<u8>().ok().filter(|bits| *bits <= most)?
            }
            Some(_) => return None,
        };
        // Callers are canonical, so networks have to be.
        Some(match address.to_canonical() {
            short @ IpAddr::V4(_) if address.is_ipv6() && bits >= 96 => Network { address: short, bits: bits - 96 },
            _ => Network { address, bits },
        })
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let prefix = |value: u128, width: u32| match u32::from(self.bits) {
            0 => 0,
            bits => value >> (width - bits),
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                prefix(u128::from(u32::from(net)), 32) == prefix(u128::from(u32::from(address)), 32)
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => prefix(net.into(), 128) == prefix(address.into(), 128),
            _ => false,
        }
    }

    /// Whether it is narrow enough to say whose requests are meant: the sizes at which S3 no longer calls a policy public (Amazon S3
    /// User Guide, "The meaning of public": broad ranges, such as those shorter than /8 and /32, count as public).
    pub fn is_narrow(&self) -> bool {
        self.bits >= if self.address.is_ipv4() { 8 } else { 32 }
    }
}

/// The six parts of an ARN (`arn:partition:service:region:account:resource`); the last one may contain colons.
pub fn arn_parts(text: &str) -> Option<[&str; 6]> {
    let mut parts = text.splitn(6, ':');
    let found = [parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    (found[0] == "arn").then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals() {
        let of = |text| Decimal::parse(text);
        assert!(of("10") == of("10.0") && of("+1") == of("1") && of("-0") == of("0"));
        assert!(of("9") < of("10") && of("-2") < of("-1.5") && of("0.000000001") > of("0"));
        assert!(of("18446744073709551615").is_some());
        for bad in ["", "-", ".", "1.", ".5", "1e3", "0x1", " 1", "1.0000000001", "999999999999999999999", "1.2.3"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(moment("1970-01-01T00:00:01Z"), Some(1000));
        assert_eq!(moment("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(moment("1970-01-02"), Some(86_400_000));
        assert_eq!(moment("1700000000"), Some(1_700_000_000_000));
        for bad in ["", "yesterday", "2024-13-01", "2024-01-01T00:00", "9999999999999", "-1"] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }

    #[test]
    fn networks() {
        let net = |text| Network::parse(text).expect(text);
        let ip = |text| address(text).expect(text);
        assert!(net("10.1.0.0/16").contains(ip("10.1.255.255")) && !net("10.1.0.0/16").contains(ip("10.2.0.0")));
        assert!(net("10.1.2.3/16").contains(ip("10.1.0.1")), "bits behind the prefix don't count");
        assert!(net("0.0.0.0/0").contains(ip("1.2.3.4")) && !net("0.0.0.0/0").contains(ip("::1")));
        assert!(net("10.0.0.1").contains(ip("::ffff:10.0.0.1")), "the same machine, seen through an IPv6 socket");
        assert!(net("2001:db8::/32").contains(ip("2001:db8:1::1")) && !net("2001:db8::/32").contains(ip("2001:db9::")));
        assert!(
            net("::ffff:10.0.0.0/104").contains(ip("10.1.2.3")) && !net("::ffff:10.0.0.0/104").contains(ip("11.1.2.3"))
        );
        assert!(!net("0.0.0.0/1").is_narrow() && net("10.0.0.0/8").is_narrow() && !net("2001::/16").is_narrow());
        for bad in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "10.0.0.0/8/8", "010.0.0.1"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn arns() {
        assert_eq!(arn_parts("arn:aws:s3:::a/b:c"), Some(["arn", "aws", "s3", "", "", "a/b:c"]));
        assert_eq!(arn_parts("arn:aws:s3::a"), None);
        assert_eq!(arn_parts("x:aws:s3:::a"), None);
    }

    proptest! {
        #[test]
        fn an_address_lies_in_each_of_its_networks(address: u32, bits in 0u8..=32) {
            let address = std::net::Ipv4Addr::from(address);
            let net = Network::parse(&format!("{address}/{bits}")).expect("a network");
            prop_assert!(net.contains(IpAddr::V4(address)));
        }

        #[test]
        fn integers_compare_as_integers(a: i64, b: i64) {
            let (x, y) = (Decimal::parse(&a.to_string()), Decimal::parse(&b.to_string()));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }

        #[test]
        fn nothing_panics(text in ".{0,40}") {
            let _ = (Decimal::parse(&text), moment(&text), Network::parse(&text), arn_parts(&text));
        }
    }
}
