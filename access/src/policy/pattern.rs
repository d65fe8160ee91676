//! Texts with wildcards and policy variables.
//!
//! `*` stands for any characters, also none and also slashes, `?` for one (IAM User Guide, "IAM JSON policy elements: Resource",
//! "Using wildcards in resource ARNs"). `${key}` stands for the value of a condition key, `${key, 'default'}` for the default where
//! there is none, and `${*}`, `${?}`, `${$}` for these characters themselves (IAM User Guide, "IAM policy elements: Variables and
//! tags").
//!
//! Invariant: what a variable is replaced with is never a wildcard. A user whose name is `*` gets no more than that name.

use super::context::Context;
use super::work::Work;

/// The longest pattern, in bytes.
pub const MAX_PATTERN: usize = 2048;

/// What a text may contain besides itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// `*` and `?` are wildcards.
    pub wildcards: bool,
    /// `${...}` are variables. Not in policies of version 2008-10-17.
    pub variables: bool,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than [`MAX_PATTERN`].
    #[error("a value of {0} bytes is too long")]
    TooLong(usize),
    /// A `${` that does not end, or has no name in it.
    #[error("the policy variable in {0:?} is not well-formed")]
    Variable(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    One,
    Many,
    Variable { name: String, default: Option<String> },
}

/// A text with wildcards and variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Many,
}

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str, syntax: Syntax) -> Result<Pattern, PatternError> {
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong(text.len()));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if syntax.variables
                && let Some(after) = rest.strip_prefix("${")
            {
                let (inside, after) = end_of_variable(after).ok_or_else(|| PatternError::Variable(text.to_owned()))?;
                parts.push(variable(inside).ok_or_else(|| PatternError::Variable(text.to_owned()))?);
                rest = after;
                continue;
            }
            match c {
                '*' if syntax.wildcards => parts.push(Part::Many),
                '?' if syntax.wildcards => parts.push(Part::One),
                c => match parts.last_mut() {
                    Some(Part::Text(text)) => text.push(c),
                    _ => parts.push(Part::Text(c.to_string())),
                },
            }
            rest = &rest[c.len_utf8()..];
        }
        Ok(Pattern { parts })
    }

    /// Whether it is the text; `None` when a variable has no value, or the work is spent.
    pub fn matches(&self, text: &str, context: &Context, work: &Work) -> Option<bool> {
        if !work.takes_text(text) {
            return None;
        }
        matches(&self.tokens(context, work)?, text, work)
    }

    /// The same, apart from upper and lower case. Both are made lower character by character: a whole text has other rules (a sigma at
    /// its end), and would then not be itself.
    pub fn matches_ignoring_case(&self, text: &str, context: &Context, work: &Work) -> Option<bool> {
        // To copy a text costs far less than to compare it.
        if !work.takes_text(text) || !work.take(text.len() / 16) {
            return None;
        }
        let lower = |token: &Token| match *token {
            Token::Char(c) => c.to_lowercase().map(Token::Char).collect(),
            other => vec![other],
        };
        let tokens: Vec<Token> = self.tokens(context, work)?.iter().flat_map(lower).collect();
        let text: String = text.chars().flat_map(char::to_lowercase).collect();
        matches(&tokens, &text, work)
    }

    /// Whether it is one fixed text: without wildcards and variables.
    pub fn is_fixed(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The fixed text before the first wildcard or variable, and whether anything follows it.
    pub fn fixed_start(&self) -> (&str, bool) {
        match self.parts.as_slice() {
            [] => ("", false),
            [Part::Text(text)] => (text, false),
            [Part::Text(text), ..] => (text, true),
            _ => ("", true),
        }
    }

    /// The keys of its variables, in lower case.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable { name, .. } => Some(name.as_str()),
            Part::Text(_) | Part::One | Part::Many => None,
        })
    }

    /// Whether a variable of it is of a key that begins like this, in lower case.
    pub fn names_key(&self, start: &str) -> bool {
        let named = |part: &Part| match part {
            Part::Variable { name, .. } => name.to_ascii_lowercase().starts_with(start),
            Part::Text(_) | Part::One | Part::Many => false,
        };
        self.parts.iter().any(named)
    }

    /// Whether every text matches.
    pub fn is_everything(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| *part == Part::Many)
    }

    /// What comes before the first slash.
    pub fn first_segment(&self) -> Pattern {
        let mut parts = Vec::new();
        for part in &self.parts {
            if let Part::Text(text) = part
                && let Some((before, _)) = text.split_once('/')
            {
                parts.push(Part::Text(before.to_owned()));
                break;
            }
            parts.push(part.clone());
        }
        Pattern { parts }
    }

    /// Whether a text that matches may begin with `start` and a slash, because a `*` or a variable in it stands for that slash.
    pub fn may_begin(&self, start: &str) -> bool {
        let open = |part: &Part| matches!(part, Part::Many | Part::Variable { .. });
        let Some(at) = self.parts.iter().position(open) else { return false };
        let mut tokens = Vec::new();
        for part in &self.parts[..at] {
            match part {
                Part::Text(text) => tokens.extend(text.chars().map(Token::Char)),
                _ => tokens.push(Token::One),
            }
        }
        tokens.push(Token::Many);
        matches(&tokens, start, &Work::default()) != Some(false)
    }

    fn tokens(&self, context: &Context, work: &Work) -> Option<Vec<Token>> {
        let mut tokens = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => tokens.extend(text.chars().map(Token::Char)),
                Part::One => tokens.push(Token::One),
                Part::Many => tokens.push(Token::Many),
                Part::Variable { name, default } => {
                    let value = context.single(name).or(default.as_deref())?;
                    if !work.takes_text(value) || !work.take(value.len()) {
                        return None;
                    }
                    tokens.extend(value.chars().map(Token::Char));
                }
            }
        }
        Some(tokens)
    }
}

/// What is between the braces, and what follows. A default in quotation marks may contain a brace.
fn end_of_variable(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let end = text.find(|c| {
        quoted ^= c == '\'';
        c == '}' && !quoted
    })?;
    Some((&text[..end], &text[end + 1..]))
}

fn variable(inside: &str) -> Option<Part> {
    if let "*" | "?" | "$" = inside {
        return Some(Part::Text(inside.to_owned()));
    }
    let (name, default) = match inside.split_once(',') {
        None => (inside, None),
        Some((name, default)) => {
            (name, Some(default.trim().strip_prefix('\'')?.strip_suffix('\'').filter(|text| !text.contains('\''))?))
        }
    };
    let name = name.trim();
    let well_formed = !name.is_empty() && !name.contains(['$', '{', '\'']);
    well_formed.then(|| Part::Variable { name: name.to_ascii_lowercase(), default: default.map(str::to_owned) })
}

/// Goes back to the last `*` only: what an earlier one stood for can't matter any more. So the work is at most the product of the
/// two lengths, whatever the pattern, and never more than is left: then it is `None`.
fn matches(tokens: &[Token], text: &str, work: &Work) -> Option<bool> {
    let (mut token, mut at) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while let Some(c) = text[at..].chars().next() {
        if !work.take(1) {
            return None;
        }
        match tokens.get(token) {
            // Nothing behind it can differ.
            Some(Token::Many) if token + 1 == tokens.len() => return Some(true),
            Some(Token::Many) => {
                back = Some((token, at));
                token += 1;
            }
            Some(Token::One) => (token, at) = (token + 1, at + c.len_utf8()),
            Some(Token::Char(expected)) if *expected == c => (token, at) = (token + 1, at + c.len_utf8()),
            _ => {
                let Some((many, from)) = back else { return Some(false) };
                let skipped = text[from..].chars().next().map_or(1, char::len_utf8);
                back = Some((many, from + skipped));
                (token, at) = (many + 1, from + skipped);
            }
        }
    }
    Some(tokens[token..].iter().all(|token| *token == Token::Many))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::work::{MAX_STEPS, MAX_TEXT};
    use proptest::prelude::*;

    const ALL: Syntax = Syntax { wildcards: true, variables: true };

    fn is(pattern: &str, text: &str) -> Option<bool> {
        let context = Context::from_iter([("aws:username", "anna"), ("aws:star", "*"), ("s3:prefix", "")]);
        Pattern::parse(pattern, ALL).expect("a pattern").matches(text, &context, &Work::default())
    }

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a/b/c", true),
            ("a*c", "ac", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a?c", "a\u{e4}c", true),
            ("*.txt", "a.txt.txt", true),
            ("**a**", "bab", true),
            ("s3:Get*", "s3:GetObject", true),
            ("a*b*c", "aXbXbXc", true),
            ("a[b]", "a[b]", true),
            ("a[b]", "ab", false),
        ] {
            assert_eq!(is(pattern, text), Some(expected), "{pattern} {text}");
        }
    }

    #[test]
    fn variables() {
        assert_eq!(is("home/${aws:username}/*", "home/anna/x"), Some(true));
        assert_eq!(is("home/${AWS:UserName}/*", "home/anna/x"), Some(true), "names of keys have no case");
        assert_eq!(is("home/${aws:username}/*", "home/bert/x"), Some(false));
        assert_eq!(is("${aws:star}", "anything"), Some(false), "a value is no wildcard");
        assert_eq!(is("${aws:star}", "*"), Some(true));
        assert_eq!(is("${*}${?}${$}", "*?$"), Some(true));
        assert_eq!(is("${*}", "x"), Some(false));
        assert_eq!(is("${aws:PrincipalTag/team, 'none'}/", "none/"), Some(true));
        assert_eq!(is("${aws:username, 'none'}", "anna"), Some(true));
        assert_eq!(is("${aws:PrincipalTag/team}", "x"), None);
        assert_eq!(is("$x{}", "$x{}"), Some(true));
        for bad in ["${", "${}", "${a", "${a,b}", "${a, 'b}", "${${a}}", "${ }"] {
            assert!(Pattern::parse(bad, ALL).is_err(), "{bad}");
        }
        let old = Pattern::parse("${aws:username}*", Syntax { wildcards: true, variables: false }).expect("a pattern");
        assert_eq!(old.matches("${aws:username}x", &Context::default(), &Work::default()), Some(true));
        let plain = Pattern::parse("a*?", Syntax { wildcards: false, variables: true }).expect("a pattern");
        assert_eq!(plain.matches("a*?", &Context::default(), &Work::default()), Some(true));
        assert_eq!(plain.matches("abc", &Context::default(), &Work::default()), Some(false));
    }

    #[test]
    fn ignoring_case() {
        let pattern = Pattern::parse("S3:get*", ALL).expect("a pattern");
        assert_eq!(pattern.matches_ignoring_case("s3:GetObject", &Context::default(), &Work::default()), Some(true));
        assert_eq!(pattern.matches("s3:GetObject", &Context::default(), &Work::default()), Some(false));
    }

    /// As slow and plain as it can be.
    fn slowly(tokens: &[Token], text: &[char]) -> bool {
        match (tokens, text) {
            ([], []) => true,
            ([Token::Many, rest @ ..], _) => (0..=text.len()).any(|skip| slowly(rest, &text[skip..])),
            ([Token::One, rest @ ..], [_, after @ ..]) => slowly(rest, after),
            ([Token::Char(c), rest @ ..], [first, after @ ..]) => c == first && slowly(rest, after),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn as_the_plain_matcher(pattern in "[ab\u{e4}*?]{0,8}", text in "[ab\u{e4}]{0,8}") {
            let tokens = Pattern::parse(&pattern, ALL).expect("a pattern").tokens(&Context::default(), &Work::default()).expect("none");
            let chars: Vec<char> = text.chars().collect();
            prop_assert_eq!(matches(&tokens, &text, &Work::default()), Some(slowly(&tokens, &chars)));
        }

        #[test]
        fn a_fixed_text_is_itself_alone(text in "[a-z/]{0,20}", other in "[a-z/]{0,20}") {
            let pattern = Pattern::parse(&text, ALL).expect("a pattern");
            prop_assert!(pattern.is_fixed());
            prop_assert_eq!(pattern.matches(&other, &Context::default(), &Work::default()), Some(text == other));
        }

        #[test]
        fn nothing_panics(pattern in ".{0,60}", text in ".{0,60}") {
            if let Ok(pattern) = Pattern::parse(&pattern, ALL) {
                let _ = pattern.matches(&text, &Context::default(), &Work::default());
                let _ = pattern.matches_ignoring_case(&text, &Context::default(), &Work::default());
                let _ = pattern.fixed_start();
            }
        }
    }

    /// Patterns that bring other matchers to a halt. Steps are counted, and what takes too many has no answer.
    #[test]
    fn hostile_patterns_end() {
        let ask = |pattern: &str, text: &str| {
            let (work, pattern) = (Work::default(), Pattern::parse(pattern, ALL).expect("a pattern"));
            let answer = pattern.matches(text, &Context::default(), &work);
            (answer, MAX_STEPS - work.left(), work.is_spent())
        };
        let (answer, steps, _) = ask(&"a*".repeat(1000), &format!("{}b", "a".repeat(1024)));
        assert!(answer == Some(true) && steps < 4096, "{steps}");
        let (answer, steps, _) = ask(&format!("{}c", "*a".repeat(1000)), &"a".repeat(1024));
        assert!(answer == Some(false) && steps < 8192, "{steps}");
        let (answer, steps, spent) = ask(&format!("*{}b", "a".repeat(2000)), &"a".repeat(MAX_TEXT));
        assert!(answer.is_none() && spent && steps <= MAX_STEPS);
        let (answer, steps, spent) = ask("*x", &"a".repeat(MAX_TEXT + 1));
        assert!(answer.is_none() && spent && steps == 0, "a text that is too long");
    }

    #[test]
    fn what_variables_stand_for_counts() {
        let context = Context::from_iter([("aws:useragent", "a".repeat(MAX_TEXT))]);
        let pattern = Pattern::parse(&"${aws:useragent}".repeat(128), ALL).expect("a pattern");
        let work = Work::default();
        assert_eq!(pattern.matches("a", &context, &work), None);
        assert!(work.is_spent());
    }

    #[test]
    fn a_sigma_at_the_end_is_itself() {
        let pattern = Pattern::parse("\u{39f}\u{394}\u{39f}\u{3a3}", ALL).expect("a pattern");
        let text = "\u{39f}\u{394}\u{39f}\u{3a3}";
        assert_eq!(pattern.matches_ignoring_case(text, &Context::default(), &Work::default()), Some(true));
    }
}
