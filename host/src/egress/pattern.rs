//! Host patterns: which authorities a grant names.

use std::fmt;

use url::{Host, Url};

/// Schemes that a pattern stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }

    fn port_default(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// `*`: any authority of either scheme.
    Any,
    Authority {
        scheme: Scheme,
        port: u16,
        /// `*.example.com`: every name below, not the name itself.
        below: bool,
        /// As `Url` normalises it.
        host: String,
    },
}

/// `[scheme://]host[:port]`, `*.example.com` or `*`. Without a scheme: https; without a port:
/// the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern(Pattern);

/// The text is not a host pattern, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host pattern {text:?}: {problem}")]
pub struct PatternError {
    text: String,
    problem: &'static str,
}

impl HostPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// When `text` is of no form above, or has user info, a path or a query.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let fail = |problem| PatternError {
            text: text.chars().take(128).collect(),
            problem,
        };
        if text == "*" {
            return Ok(Self(Pattern::Any));
        }
        let (scheme, authority) = match text.split_once("://") {
            Some((scheme, rest)) => (
                Scheme::parse(scheme).ok_or_else(|| fail("the scheme must be http or https"))?,
                rest,
            ),
            None => (Scheme::Https, text),
        };
        let (below, authority) = match authority.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, authority),
        };
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', '*', '\\', '{', ' ']) {
            return Err(fail(
                "write [scheme://]host[:port], *.example.com or *, without path or user info",
            ));
        }
        let url = Url::parse(&format!("{}://{authority}", scheme_name(scheme)))
            .map_err(|_| fail("not a host name or address"))?;
        let host = url.host_str().ok_or_else(|| fail("names no host"))?;
        if below && matches!(url.host(), Some(Host::Ipv4(_) | Host::Ipv6(_))) {
            return Err(fail(
                "a wildcard stands before a name, not before an address",
            ));
        }
        Ok(Self(Pattern::Authority {
            scheme,
            port: url.port().unwrap_or(scheme.port_default()),
            below,
            host: host.trim_end_matches('.').to_owned(),
        }))
    }

    /// The pattern that names exactly the authority of `url`, for `{config.url}`.
    ///
    /// # Errors
    /// When `url` is no absolute http(s) URL, has user info, or its authority holds a template.
    pub fn authority_of(url: &str) -> Result<Self, PatternError> {
        let fail = |problem| PatternError {
            // Of a URL only the part before the path is quoted: the rest may be confidential.
            text: url
                .split(['?', '#'])
                .next()
                .unwrap_or("")
                .splitn(4, '/')
                .take(3)
                .collect::<Vec<_>>()
                .join("/"),
            problem,
        };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| fail("must be an absolute http or https URL"))?;
        let scheme = scheme.to_ascii_lowercase();
        let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or("");
        if authority.contains(['{', '}']) {
            return Err(fail(
                "host and port must be literal: templates may follow in the path",
            ));
        }
        if authority.contains('@') {
            return Err(fail("user info is not allowed in a URL"));
        }
        Self::parse(&format!("{scheme}://{authority}"))
            .map_err(|_| fail("must be an absolute http or https URL"))
    }

    /// Whether every authority that `other` names is named by this pattern too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Pattern::Any, _) => true,
            (Pattern::Authority { .. }, Pattern::Any) => false,
            (
                Pattern::Authority {
                    scheme,
                    port,
                    below,
                    host,
                },
                Pattern::Authority {
                    scheme: other_scheme,
                    port: other_port,
                    below: other_below,
                    host: other_host,
                },
            ) => {
                let deeper = *below
                    && other_host
                        .strip_suffix(host.as_str())
                        .is_some_and(|prefix| prefix.len() > 1 && prefix.ends_with('.'));
                scheme == other_scheme
                    && port == other_port
                    && (deeper || (below == other_below && host == other_host))
            }
        }
    }

    /// Whether this is `*`.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0 == Pattern::Any
    }

    /// Whether `url` is at an authority that this pattern names.
    #[must_use]
    pub fn matches(&self, url: &Url) -> bool {
        let Some(scheme) = Scheme::parse(url.scheme()) else {
            return false;
        };
        match &self.0 {
            Pattern::Any => true,
            Pattern::Authority {
                scheme: wanted,
                port,
                below,
                host,
            } => {
                let at = url.host_str().unwrap_or("").trim_end_matches('.');
                let host_matches = if *below {
                    at.strip_suffix(host.as_str())
                        .is_some_and(|prefix| prefix.len() > 1 && prefix.ends_with('.'))
                } else {
                    at == host
                };
                scheme == *wanted && url.port_or_known_default() == Some(*port) && host_matches
            }
        }
    }
}

fn scheme_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Pattern::Any => f.write_str("*"),
            Pattern::Authority {
                scheme,
                port,
                below,
                host,
            } => {
                let star = if *below { "*." } else { "" };
                write!(f, "{}://{star}{host}", scheme_name(*scheme))?;
                if *port == scheme.port_default() {
                    Ok(())
                } else {
                    write!(f, ":{port}")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, url: &str, expected: bool) {
        let parsed = HostPattern::parse(pattern).expect(pattern);
        let url = Url::parse(url).expect(url);
        assert_eq!(parsed.matches(&url), expected, "{pattern} {url}");
    }

    #[test]
    fn matching() {
        check("hooks.slack.com", "https://hooks.slack.com/x", true);
        check("hooks.slack.com", "https://HOOKS.slack.com./x", true);
        check("hooks.slack.com", "http://hooks.slack.com/x", false);
        check("hooks.slack.com", "https://hooks.slack.com:8443/x", false);
        check(
            "hooks.slack.com",
            "https://hooks.slack.com.evil.test/",
            false,
        );
        check("*.example.com", "https://a.b.example.com/", true);
        check("*.example.com", "https://example.com/", false);
        check("*.example.com", "https://badexample.com/", false);
        check("http://localhost:8080", "http://localhost:8080/", true);
        check("http://127.0.0.1:1", "http://2130706433:1/", true);
        check("https://[::1]:2", "https://[0:0::1]:2/", true);
        check("*", "http://anything.test:99/", true);
        check("bücher.example", "https://xn--bcher-kva.example/", true);
    }

    #[test]
    fn covering() {
        let check = |wide: &str, narrow: &str, expected: bool| {
            let (a, b) = (HostPattern::parse(wide), HostPattern::parse(narrow));
            let covers = a.expect(wide).covers(&b.expect(narrow));
            assert_eq!(covers, expected, "{wide} covers {narrow}");
        };
        check("*", "http://a.test:1", true);
        check("a.test", "*", false);
        check("a.test", "https://A.test:443", true);
        check("a.test", "http://a.test", false);
        check("*.a.test", "x.a.test", true);
        check("*.a.test", "*.x.a.test", true);
        check("*.a.test", "*.a.test", true);
        check("*.a.test", "a.test", false);
        check("a.test", "*.a.test", false);
        check("*.a.test", "x.a.test:8443", false);
        check("*.a.test", "bada.test", false);
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "ftp://a",
            "a/b",
            "u@a",
            "*.*.a",
            "a*",
            "http://",
            "*.1.2.3.4",
            "{config.url}",
            "a b",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn authority_of_a_field() {
        let pattern =
            HostPattern::authority_of("http://127.0.0.1:81/{{ payload.id }}?q").expect("ok");
        assert_eq!(pattern.to_string(), "http://127.0.0.1:81");
        for url in [
            "/x",
            "ftp://h/",
            "https://{{ payload.host }}/",
            "https://u:p@h/",
            "https://a.{{x}}.test/",
        ] {
            assert!(HostPattern::authority_of(url).is_err(), "{url}");
        }
        let error =
            HostPattern::authority_of("https://u:p@h/secret?token=1").expect_err("user info");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
