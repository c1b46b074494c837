//! What is kept of a webhook's headers and query: everything but secrets.
//!
//! The scheme's own headers go, and whatever is named like a credential: a sender may send more
//! than the scheme looks at.

use http::HeaderMap;

use super::verify::Scheme;

/// Headers that hold credentials whatever their scheme.
const SECRET_HEADERS: [&str; 4] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
];
/// Parts of a name that a credential has.
const SECRET_WORDS: [&str; 10] = [
    "token",
    "secret",
    "signature",
    "password",
    "passwd",
    "api-key",
    "apikey",
    "api_key",
    "hmac",
    "credential",
];
/// Parameters of a query that hold credentials by their whole name.
const SECRET_PARAMETERS: [&str; 5] = ["key", "sig", "auth", "code", "access_key"];
/// Headers kept; a request with more is cut.
const HEADERS_MAX: usize = 100;
const REMOVED: &str = "removed";

fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Every header as text, for a component that verifies.
#[must_use]
pub fn all_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .take(HEADERS_MAX)
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

/// The headers that are kept: names in lower case, secrets left out.
#[must_use]
pub fn headers(headers: &HeaderMap, scheme: &Scheme) -> Vec<(String, String)> {
    let of_scheme = scheme.secret_headers();
    let mut kept = all_headers(headers);
    kept.retain(|(name, _)| {
        !SECRET_HEADERS.contains(&name.as_str())
            && !of_scheme.contains(name)
            && !names_a_secret(name)
    });
    kept
}

/// The query that is kept: values of secrets replaced.
#[must_use]
pub fn query(query: &str, scheme: &Scheme) -> String {
    let of_scheme = match scheme {
        Scheme::SharedToken {
            query: Some(name), ..
        } => Some(name.as_str()),
        _ => None,
    };
    let secret = |name: &str| {
        Some(name) == of_scheme
            || SECRET_PARAMETERS.contains(&name.to_ascii_lowercase().as_str())
            || names_a_secret(name)
    };
    let parameters = || url::form_urlencoded::parse(query.as_bytes());
    if !parameters().any(|(name, _)| secret(&name)) {
        return query.to_owned();
    }
    let mut kept = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters() {
        kept.append_pair(&name, if secret(&name) { REMOVED } else { &value });
    }
    kept.finish()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn credentials_are_left_out_whatever_they_are_called() {
        let sent: HeaderMap = [
            "authorization",
            "cookie",
            "x-gitlab-token",
            "x-hub-signature",
            "x-api-key",
            "my-seal",
            "x-github-event",
            "user-agent",
        ]
        .into_iter()
        .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("v")))
        .collect();
        let scheme = Scheme::HmacSha256 {
            header: "My-Seal".to_owned(),
            prefix: String::new(),
            encoding: super::super::verify::Encoding::Hex,
            key_encoding: super::super::verify::KeyEncoding::Raw,
            timestamp: None,
        };
        let mut kept: Vec<_> = headers(&sent, &scheme)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        kept.sort();
        assert_eq!(kept, ["user-agent", "x-github-event"]);
        assert_eq!(all_headers(&sent).len(), 8);
    }

    #[test]
    fn a_query_keeps_its_form_but_not_its_secrets() {
        let scheme = Scheme::SharedToken {
            header: None,
            prefix: String::new(),
            query: Some("pass".to_owned()),
        };
        let check = |text: &str, expected: &str| assert_eq!(query(text, &scheme), expected);
        check("a=1&b=%20", "a=1&b=%20");
        check("a=1&pass=x&b=%20", "a=1&pass=removed&b=+");
        check("access_token=x", "access_token=removed");
        check("KEY=x", "KEY=removed");
        check("", "");
    }
}
