//! Text from a guest or a receiver, made fit for a log: secrets masked, control characters
//! removed, length capped.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use regex::Regex;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// What stands where a secret stood.
pub const MASK: &str = "[secret]";

/// Shorter secrets are not masked: they would mangle ordinary text. The vault refuses none, so
/// this is a limit of masking, not of what can be stored.
const MASKED_LEN_MIN: usize = 6;

/// Secrets of one document by handle, with the means to mask them.
#[derive(Default)]
pub struct SecretSet {
    values: HashMap<String, Zeroizing<String>>,
    masker: OnceLock<Option<AhoCorasick>>,
}

impl std::fmt::Debug for SecretSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretSet({})", self.values.len())
    }
}

impl SecretSet {
    /// Secrets by handle.
    #[must_use]
    pub fn new(values: HashMap<String, Zeroizing<String>>) -> Self {
        Self {
            values,
            masker: OnceLock::new(),
        }
    }

    /// A digest of all of them: another one when any is another.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut sorted: Vec<_> = self.values.iter().collect();
        sorted.sort_unstable_by_key(|(handle, _)| *handle);
        let mut hash = Sha256::new();
        for part in sorted
            .into_iter()
            .flat_map(|(handle, secret)| [handle.as_bytes(), secret.as_bytes()])
        {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// The secret behind `handle`.
    #[must_use]
    pub fn get(&self, handle: &str) -> Option<&Zeroizing<String>> {
        self.values.get(handle)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn masker(&self) -> Option<&AhoCorasick> {
        self.masker
            .get_or_init(|| {
                let needles: Vec<Vec<u8>> = self
                    .values
                    .values()
                    .filter(|value| value.len() >= MASKED_LEN_MIN)
                    .flat_map(|value| forms(value))
                    .collect();
                if needles.is_empty() {
                    return None;
                }
                AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(needles)
                    .ok()
            })
            .as_ref()
    }

    /// `bytes` with every form of every secret masked; `None` when there was nothing to mask.
    #[must_use]
    pub fn mask_bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.values.is_empty() {
            return None;
        }
        let masker = self.masker()?;
        masker.is_match(bytes).then(|| {
            let mut masked = Vec::with_capacity(bytes.len());
            masker.replace_all_with_bytes(bytes, &mut masked, |_, _, out| {
                out.extend_from_slice(MASK.as_bytes());
                true
            });
            masked
        })
    }

    /// The same for text.
    #[must_use]
    pub fn mask(&self, text: String) -> String {
        match self.mask_bytes(text.as_bytes()) {
            Some(masked) => String::from_utf8_lossy(&masked).into_owned(),
            None => text,
        }
    }
}

/// How a secret may come back: as it is, percent-encoded, escaped for JSON, in base64.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let json = serde_json::Value::from(secret).to_string();
    let json = json.trim_matches('"').to_owned();
    let percent = percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC);
    let mut forms = vec![
        secret.to_owned(),
        json,
        percent.to_string(),
        STANDARD.encode(secret),
        STANDARD_NO_PAD.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
    ];
    forms.sort_unstable();
    forms.dedup();
    forms.into_iter().map(String::into_bytes).collect()
}

/// Shapes of tokens that are masked even when they are none of the call's own secrets: bearer
/// credentials, Slack, GitHub, Stripe and Standard Webhooks secrets.
static TOKEN_SHAPES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?i)\b(?:(?:bearer|basic)\s+[a-z0-9._~+/=-]{8,}|xox[a-z]-[a-z0-9-]{8,}|gh[pousr]_[a-z0-9]{16,}|whsec_[a-z0-9+/=]{8,}|[sr]k_(?:live|test)_[a-z0-9]{8,})",
    )
    .ok()
});

/// Makes guest text fit for the delivery log: masks, removes control characters, and cuts at
/// `bytes_max`.
#[must_use]
pub fn sanitize(text: String, secrets: &[&SecretSet], bytes_max: usize) -> String {
    // Masked whole, before any cut: what is masked shrinks, so that the beginning of a secret
    // behind a first cut could move in front of the last one. What a guest hands over is capped.
    let mask = |text: String| secrets.iter().fold(text, |text, set| set.mask(text));
    let removed = |c: char| c.is_control() && c != '\n' && c != '\t';
    let mut text = mask(text);
    if text.contains(removed) {
        text.retain(|c| !removed(c));
        // They may have stood inside a secret.
        text = mask(text);
    }
    let mut text = cut(text, bytes_max.saturating_mul(2).saturating_add(4_096));
    if let Some(shapes) = TOKEN_SHAPES.as_ref()
        && shapes.is_match(&text)
    {
        text = shapes.replace_all(&text, MASK).into_owned();
    }
    cut(text, bytes_max)
}

/// At most `bytes_max` bytes, ending on a character boundary, with an ellipsis when cut.
fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(secret: &str) -> SecretSet {
        let values = [(
            "config#/token".to_owned(),
            Zeroizing::new(secret.to_owned()),
        )];
        SecretSet::new(values.into())
    }

    #[test]
    fn every_form_of_a_secret_is_masked() {
        let secret = "s3cr3t/with \"quotes\"";
        let set = set(secret);
        for form in forms(secret) {
            let text = format!("got {} back", String::from_utf8(form).expect("text"));
            assert_eq!(sanitize(text, &[&set], 200), "got [secret] back");
        }
    }

    #[test]
    fn token_shapes_are_masked_without_being_known() {
        for token in [
            "Bearer abcdefghijkl",
            "xoxb-1234567890-abc",
            "ghp_0123456789abcdef0123",
            "whsec_MfKQ9r8GKYqr",
        ] {
            let text = sanitize(format!("error: {token}"), &[], 200);
            assert_eq!(text, "error: [secret]");
        }
    }

    #[test]
    fn no_beginning_of_a_secret_survives_a_cut() {
        let secret = "correct horse battery staple";
        let set = set(secret);
        for shift in 0..secret.len() {
            let text = format!("{}{}", "-".repeat(shift), secret.repeat(400));
            let text = sanitize(text, &[&set], 2_000);
            let rest = text.replace(MASK, "");
            let rest = rest.trim_start_matches('-');
            assert!(!rest.contains("corr"), "{rest}");
        }
    }

    #[test]
    fn control_characters_hide_no_secret() {
        let text = "hunter2\u{0}-hun\u{7}ter2".to_owned();
        assert_eq!(sanitize(text, &[&set("hunter2-hunter2")], 100), MASK);
    }

    #[test]
    fn control_characters_go_and_length_is_capped() {
        assert_eq!(
            sanitize("a\u{1b}[31mb\0\nc".to_owned(), &[], 100),
            "a[31mb\nc"
        );
        let long = sanitize("ä".repeat(100), &[], 11);
        assert!(long.len() <= 11 && long.ends_with('…'), "{long}");
    }
}
