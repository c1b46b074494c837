//! Host patterns as the gateway reads them: a provider that forgot to ask for a host learns it
//! in its own tests.

use serde_json::Value;

/// Scheme, host in lower case and port of an absolute URL.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    scheme: String,
    host: String,
    port: u16,
}

impl Authority {
    fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let port_default = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#', '\\']).next()?;
        let after_brackets = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[after_brackets..].rfind(':') {
            Some(colon) => {
                let (host, port) = authority.split_at(after_brackets + colon);
                (host, port[1..].parse().ok()?)
            }
            None => (authority, port_default),
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_literal = !host.is_empty() && !host.contains(['@', '{', '}', ' ']);
        is_literal.then_some(Self { scheme, host, port })
    }
}

/// Whether one of the patterns that a provider asks for names the authority of `url`.
pub fn allowed(patterns: &[String], config: &Value, connection: &Value, url: &str) -> bool {
    let Some(target) = Authority::of(url) else {
        return false;
    };
    patterns.iter().any(|pattern| {
        let reference = pattern
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .and_then(|field| field.split_once('.'));
        if let Some((kind, field)) = reference {
            let document = if kind == "config" { config } else { connection };
            let names =
                |value: &Value| value.as_str().and_then(Authority::of) == Some(target.clone());
            return match document.get(field) {
                Some(Value::Array(values)) => values.iter().any(names),
                Some(value) => names(value),
                None => false,
            };
        }
        if pattern == "*" {
            return true;
        }
        let absolute = match pattern.contains("://") {
            true => pattern.clone(),
            false => format!("https://{pattern}"),
        };
        let Some(named) = Authority::of(&absolute) else {
            return false;
        };
        let host_matches = match named.host.strip_prefix("*.") {
            Some(parent) => target
                .host
                .strip_suffix(parent)
                .is_some_and(|prefix| prefix.len() > 1 && prefix.ends_with('.')),
            None => named.host == target.host,
        };
        host_matches && named.scheme == target.scheme && named.port == target.port
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns() {
        let config = json!({"url": "http://127.0.0.1:81/{{ payload.id }}", "hosts": ["https://a.test", "https://b.test"]});
        let check = |pattern: &str, url: &str, expected: bool| {
            let found = allowed(&[pattern.to_owned()], &config, &Value::Null, url);
            assert_eq!(found, expected, "{pattern} {url}");
        };
        check("slack.com", "https://slack.com/api", true);
        check("slack.com", "https://SLACK.com.:443", true);
        check("slack.com", "http://slack.com/", false);
        check("slack.com", "https://slack.com:8443/", false);
        check("slack.com", "https://slack.com.evil.test/", false);
        check("slack.com", "https://slack.com@evil.test/", false);
        check("*.example.com", "https://a.b.example.com/", true);
        check("*.example.com", "https://example.com/", false);
        check("*.example.com", "https://badexample.com/", false);
        check("http://[::1]:8080", "http://[::1]:8080/x", true);
        check("*", "http://anything.test/", true);
        check("*", "ftp://anything.test/", false);
        check("{config.url}", "http://127.0.0.1:81/7", true);
        check("{config.url}", "http://127.0.0.1:82/7", false);
        check("{config.other}", "http://127.0.0.1:81/7", false);
        check("{connection.url}", "http://127.0.0.1:81/7", false);
        check("{config.hosts}", "https://b.test/7", true);
        check("{config.hosts}", "https://c.test/7", false);
    }
}
