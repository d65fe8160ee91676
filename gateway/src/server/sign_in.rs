//! Failed sign-ins: who tries keys is slowed down.
//!
//! Invariants
//! * What counts is an address with an access key, and an address with all that it tries; of IPv6 it is the network ([`counted`]). So
//!   nobody can lock a key out from another address than his own; and where many come from one address, as from behind a proxy, a key
//!   that has signed there lately goes on while others are tried.
//! * Who tries is told by whoever looks the secret up ([`tries`]), and nothing is read from the request here: what one reader finds
//!   and another does not, as a field of a form or a parameter with an encoded name, would be tried without a limit. And only a
//!   request whose signature was looked at can make a key good.
//! * A failure is what the signature check, or the search for the key, says: nothing is learned here that is not in the answer. The
//!   answer to HEAD says no reason: there it is a refusal of who was looked up and not found to be who he says ([`verified`]).
//! * What is remembered is bounded. Who fills it up with addresses forgets the oldest.

use http::StatusCode;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Failures of one key from one address: at once, and for each second after that.
const OF_KEY: Allowance = Allowance { at_once: 100.0, each_second: 2.0 };
/// The same of a key that has signed from there lately: behind a proxy everybody has its address, and who knows another one's access
/// key, which is no secret, must not lock him out by a few wrong signatures.
const OF_GOOD: Allowance = Allowance { at_once: 1000.0, each_second: 50.0 };
/// Failures of one address.
const OF_PEER: Allowance = Allowance { at_once: 500.0, each_second: 10.0 };
/// A key that has signed from an address goes on from there for so long, whatever else is tried there.
const GOOD_FOR: Duration = Duration::from_secs(3600);
/// Pairs, and addresses, that are remembered.
const MOST: usize = 16_384;

/// What answers say of a sign-in that failed.
const FAILURES: [&[u8]; 5] = [
    b"<Code>SignatureDoesNotMatch</Code>",
    b"<Code>InvalidAccessKeyId</Code>",
    b"<Code>InvalidClientTokenId</Code>",
    b"<Code>InvalidToken</Code>",
    b"<Code>IncompleteSignature</Code>",
];

#[derive(Clone, Copy)]
struct Allowance {
    at_once: f64,
    each_second: f64,
}

/// How many failures there were of late.
#[derive(Clone, Copy)]
struct Level {
    failures: f64,
    at: Instant,
}

impl Level {
    fn now(self, of: Allowance, now: Instant) -> f64 {
        let gone = now.saturating_duration_since(self.at).as_secs_f64() * of.each_second;
        (self.failures - gone).max(0.0)
    }
}

/// An address as it counts where something is allowed so many times from each: whoever has one of IPv6 has the 2^64 of its network, and
/// would be allowed as much from each. One of IPv4 that came in IPv6's form counts as what it is.
pub fn counted(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// Who says to sign a request: an address, as it is [`counted`], and an access key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    peer: IpAddr,
    access_key: String,
}

impl Who {
    fn new(peer: IpAddr, access_key: &str) -> Who {
        // No access key is longer.
        Who { peer: counted(peer), access_key: access_key.chars().take(128).collect() }
    }
}

/// There were too many failures for another try now.
#[derive(Debug, thiserror::Error)]
#[error("Too many sign-ins have failed. Try again later.")]
pub struct TooManyFailed;

/// A request, as far as it tries to sign in.
#[derive(Debug)]
pub struct Attempt {
    sign_ins: Arc<SignIns>,
    peer: IpAddr,
    /// Set when a secret is looked up to compare a signature.
    who: OnceLock<Who>,
    /// Set when the signature was right.
    verified: OnceLock<()>,
}

tokio::task_local! {
    static ATTEMPT: Arc<Attempt>;
}

impl Attempt {
    /// A request from an address, which has not tried yet.
    pub fn new(sign_ins: Arc<SignIns>, peer: IpAddr) -> Arc<Attempt> {
        Arc::new(Attempt { sign_ins, peer, who: OnceLock::new(), verified: OnceLock::new() })
    }

    /// Runs what answers the request.
    pub async fn during<F: Future>(self: Arc<Self>, answered: F) -> F::Output {
        ATTEMPT.scope(self, answered).await
    }

    /// Takes note of the answer: of its status, and of its body if that is an error.
    pub fn note(&self, status: StatusCode, body: Option<&[u8]>, now: Instant) {
        let Some(who) = self.who.get() else { return };
        let unsaid = body.is_none_or(<[u8]>::is_empty) && status == StatusCode::FORBIDDEN;
        let body = if unsaid && self.verified.get().is_none() { Some(FAILURES[0]) } else { body };
        self.sign_ins.note(who, status, body, now);
    }
}

/// Says that the request that is answered wants to sign in with an access key. To be called before its secret is looked up; where
/// it is refused, the signature is not even looked at: what it is worth would be one more try.
pub fn tries(access_key: &str) -> Result<(), TooManyFailed> {
    let asked = ATTEMPT.try_with(|attempt| {
        let who = attempt.who.get_or_init(|| Who::new(attempt.peer, access_key));
        attempt.sign_ins.is_too_many(who, Instant::now())
    });
    // Outside of any request nobody tries.
    if asked.unwrap_or(false) { Err(TooManyFailed) } else { Ok(()) }
}

/// Says that who signed the request that is answered is who he says.
pub fn verified() {
    // Outside of any request nobody tries.
    let _outside = ATTEMPT.try_with(|attempt| {
        attempt.verified.get_or_init(|| ());
    });
}

/// Failed sign-ins, and those that did not fail.
#[derive(Default)]
pub struct SignIns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    of_keys: HashMap<Who, Level>,
    of_peers: HashMap<IpAddr, Level>,
    good: HashMap<Who, Instant>,
}

impl State {
    /// Whether the key has signed from the address lately.
    fn is_good(&self, who: &Who, now: Instant) -> bool {
        self.good.get(who).is_some_and(|at| now.saturating_duration_since(*at) < GOOD_FOR)
    }
}

impl std::fmt::Debug for SignIns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignIns")
    }
}

impl SignIns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there were too many failures for another try now.
    fn is_too_many(&self, who: &Who, now: Instant) -> bool {
        let state = self.state();
        let over = |level: Option<&Level>, of: Allowance| level.is_some_and(|level| level.now(of, now) >= of.at_once);
        match state.is_good(who, now) {
            true => over(state.of_keys.get(who), OF_GOOD),
            false => over(state.of_keys.get(who), OF_KEY) || over(state.of_peers.get(&who.peer), OF_PEER),
        }
    }

    /// Takes note of an answer: of its status, and of its body if that is an error.
    fn note(&self, who: &Who, status: StatusCode, body: Option<&[u8]>, now: Instant) {
        let refused = status.is_client_error();
        let holds = |body: &[u8], code: &[u8]| body.windows(code.len()).any(|window| window == code);
        let failed = refused && body.is_some_and(|body| FAILURES.iter().any(|code| holds(body, code)));
        let mut state = self.state();
        if failed {
            tracing::debug!(peer = %who.peer, access_key = who.access_key, "a sign-in failed");
            let of = if state.is_good(who, now) { OF_GOOD } else { OF_KEY };
            count(&mut state.of_keys, who.clone(), of, now);
            count(&mut state.of_peers, who.peer, OF_PEER, now);
        } else if status.is_success() || status.is_redirection() {
            // Most requests are of those that are known to be good: nothing is to be done for them.
            let known = state.good.get(who).is_some_and(|at| now.saturating_duration_since(*at) < GOOD_FOR / 2);
            if !known {
                make_room(&mut state.good, |at| *at);
                state.good.insert(who.clone(), now);
            }
        }
    }
}

fn count<K: Eq + Hash + Clone>(levels: &mut HashMap<K, Level>, key: K, of: Allowance, now: Instant) {
    let known = levels.get(&key).map_or(0.0, |level| level.now(of, now));
    if known == 0.0 {
        make_room(levels, |level| level.at);
    }
    levels.insert(key, Level { failures: (known + 1.0).min(of.at_once + 1.0), at: now });
}

/// Forgets the older half when there is no room.
fn make_room<K: Eq + Hash + Clone, V>(known: &mut HashMap<K, V>, at: impl Fn(&V) -> Instant) {
    if known.len() < MOST {
        return;
    }
    let mut times: Vec<Instant> = known.values().map(&at).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    known.retain(|_, value| at(value) > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(peer: u8, key: &str) -> Who {
        Who { peer: IpAddr::from([10, 0, 0, peer]), access_key: key.to_owned() }
    }

    const WRONG: Option<&[u8]> = Some(b"<Error><Code>SignatureDoesNotMatch</Code></Error>");

    #[test]
    fn who_guesses_is_slowed_down_and_nobody_else() {
        let (sign_ins, now) = (SignIns::default(), Instant::now());
        let (guesser, other) = (who(1, "AK"), who(2, "AK"));
        for _ in 0..100 {
            assert!(!sign_ins.is_too_many(&guesser, now));
            sign_ins.note(&guesser, StatusCode::FORBIDDEN, WRONG, now);
        }
        assert!(sign_ins.is_too_many(&guesser, now));
        assert!(!sign_ins.is_too_many(&other, now), "the key's owner is somewhere else");
        assert!(!sign_ins.is_too_many(&guesser, now + Duration::from_secs(1)), "for a while");
        for _ in 0..3 {
            sign_ins.note(&guesser, StatusCode::FORBIDDEN, WRONG, now + Duration::from_secs(1));
        }
        assert!(sign_ins.is_too_many(&guesser, now + Duration::from_secs(1)));
    }

    #[test]
    fn an_address_that_tries_many_keys_is_slowed_down_but_not_those_that_have_signed_there() {
        let (sign_ins, now) = (SignIns::default(), Instant::now());
        let good = who(1, "GOOD");
        sign_ins.note(&good, StatusCode::OK, None, now);
        for n in 0..500 {
            sign_ins.note(&who(1, &format!("AK{n}")), StatusCode::FORBIDDEN, WRONG, now);
        }
        assert!(sign_ins.is_too_many(&who(1, "NEXT"), now));
        assert!(!sign_ins.is_too_many(&good, now));
        assert!(!sign_ins.is_too_many(&who(2, "NEXT"), now));
        for n in 0..1000 {
            assert!(!sign_ins.is_too_many(&good, now), "{n} wrong signatures of somebody else behind the same proxy");
            sign_ins.note(&good, StatusCode::FORBIDDEN, WRONG, now);
        }
        assert!(sign_ins.is_too_many(&good, now));
    }

    #[test]
    fn an_address_of_ipv6_counts_by_its_network() {
        let of = |text: &str| counted(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("::ffff:10.0.0.1"), of("::ffff:10.0.0.2"));
    }

    /// Whoever has a network of IPv6 had as many tries from each address of it.
    #[test]
    fn another_address_of_the_same_network_gives_no_more_tries() {
        let (sign_ins, now) = (SignIns::default(), Instant::now());
        let from = |network: u16, n: u16, key: &str| {
            Who::new(Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, n, 1).into(), key)
        };
        for n in 0..100 {
            assert!(!sign_ins.is_too_many(&from(1, n, "AK"), now), "{n}");
            sign_ins.note(&from(1, n, "AK"), StatusCode::FORBIDDEN, WRONG, now);
        }
        assert!(sign_ins.is_too_many(&from(1, 100, "AK"), now));
        for n in 0..400 {
            sign_ins.note(&from(1, n, &format!("AK{n}")), StatusCode::FORBIDDEN, WRONG, now);
        }
        assert!(sign_ins.is_too_many(&from(1, 0xffff, "NEXT"), now), "whatever key it tries");
        assert!(!sign_ins.is_too_many(&from(2, 1, "AK"), now), "the key's owner is in another network");
    }

    #[test]
    fn what_is_refused_for_another_reason_is_no_failure() {
        let (sign_ins, now) = (SignIns::default(), Instant::now());
        for _ in 0..1000 {
            sign_ins.note(&who(1, "AK"), StatusCode::FORBIDDEN, Some(b"<Error><Code>AccessDenied</Code></Error>"), now);
        }
        assert!(!sign_ins.is_too_many(&who(1, "AK"), now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (sign_ins, now) = (SignIns::default(), Instant::now());
        for n in 0..40_000u32 {
            let peer = IpAddr::from(n.to_be_bytes());
            let at = now + Duration::from_millis(n.into());
            let status = if n % 2 == 0 { StatusCode::FORBIDDEN } else { StatusCode::OK };
            sign_ins.note(&Who { peer, access_key: "AK".to_owned() }, status, WRONG, at);
        }
        let state = sign_ins.state();
        assert!(state.of_keys.len() <= MOST && state.of_peers.len() <= MOST && state.good.len() <= MOST);
    }

    /// MinIO GHSA-jv87's class.
    #[tokio::test]
    async fn only_who_was_looked_at_is_good_or_bad() {
        let (sign_ins, peer) = (Arc::new(SignIns::default()), IpAddr::from([127, 0, 0, 1]));
        // Nobody's request that mentions a key.
        Attempt::new(Arc::clone(&sign_ins), peer).note(StatusCode::OK, None, Instant::now());
        assert!(sign_ins.state().good.is_empty());
        let attempt = Attempt::new(Arc::clone(&sign_ins), peer);
        assert!(Arc::clone(&attempt).during(async { tries("AK") }).await.is_ok());
        attempt.note(StatusCode::OK, None, Instant::now());
        assert!(sign_ins.state().good.contains_key(&Who::new(peer, "AK")));
        for n in 0..2000 {
            let attempt = Attempt::new(Arc::clone(&sign_ins), peer);
            if Arc::clone(&attempt).during(async { tries("other") }).await.is_err() {
                assert!(n >= 100, "{n}");
                assert!(tries("other").is_ok(), "outside of a request");
                return;
            }
            attempt.note(StatusCode::FORBIDDEN, WRONG, Instant::now());
        }
        panic!("2000 wrong signatures were looked at");
    }
}
