//! Checks of a URL after its template was rendered.
//!
//! The gateway parses and checks every URL it sends to once more; what is found here is told with
//! the field that it comes from, before anything is sent.

const URL_BYTES_MAX: usize = 8192;

/// Checks the URL that `template` gave.
pub(super) fn check(template: &str, rendered: &str) -> Result<(), String> {
    if rendered.len() > URL_BYTES_MAX {
        return Err(format!(
            "the rendered URL has {} bytes; {URL_BYTES_MAX} are allowed",
            rendered.len()
        ));
    }
    if rendered
        .chars()
        .any(|char| char.is_whitespace() || char.is_control() || char == '\\')
    {
        return Err(
            "the rendered URL holds a blank, a control character or a backslash: write values with | urlencode"
                .into(),
        );
    }
    let (origin, rest) = split(rendered)
        .ok_or("the rendered URL is not absolute: it must begin with https:// or http://")?;
    check_authority(&origin[origin.find("://").map_or(0, |at| at + 3)..])?;

    let Some((literal, literal_rest)) = split(template).filter(|(origin, _)| !is_template(origin))
    else {
        return Ok(());
    };
    if origin != literal {
        return Err(
            "a value changed the host of the rendered URL: write values with | urlencode".into(),
        );
    }
    if rest.contains('#') && !literal_rest.contains('#') {
        return Err(
            "a value brought a # into the rendered URL, which would cut it: write values with | urlencode"
                .into(),
        );
    }
    if dot_segments(rest) > dot_segments(literal_rest) {
        return Err("a value brought /../ or /./ into the rendered URL".into());
    }
    Ok(())
}

fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

/// `scheme://authority`, and what follows; `None` when it is no absolute http or https URL.
fn split(url: &str) -> Option<(&str, &str)> {
    let scheme_bytes = ["https://", "http://"].iter().find_map(|scheme| {
        let found = url.get(..scheme.len())?;
        found.eq_ignore_ascii_case(scheme).then_some(scheme.len())
    })?;
    let end = url[scheme_bytes..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| scheme_bytes + at);
    Some(url.split_at(end))
}

fn check_authority(authority: &str) -> Result<(), String> {
    if authority.contains('@') {
        return Err("the rendered URL names a user before its host, which is not allowed".into());
    }
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an IPv6 address stand inside its brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if host.is_empty() || host == "[]" {
        return Err("the rendered URL has no host".into());
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() => {
            Err(format!("the rendered URL has no usable port: {port:?}"))
        }
        _ => Ok(()),
    }
}

/// Segments of the path that a URL parser resolves away, however they are written.
fn dot_segments(rest: &str) -> usize {
    let path = rest.split(['?', '#']).next().unwrap_or("");
    path.split('/')
        .filter(|segment| {
            let plain = segment.replace("%2e", ".").replace("%2E", ".");
            matches!(plain.as_str(), "." | "..")
        })
        .count()
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_stay_in_their_place() {
        let check = |template: &str, rendered: &str, expected: Option<&str>| {
            let found = super::check(template, rendered).err();
            match (&found, expected) {
                (None, None) => {}
                (Some(found), Some(expected)) if found.contains(expected) => {}
                _ => panic!("{rendered}: {found:?} instead of {expected:?}"),
            }
        };
        let template = "https://a.test/x/{{ payload.id }}";
        check(template, "https://a.test/x/7", None);
        check(template, "https://a.test/x/7?y=1", None);
        check(template, "https://a.test/x/", None);
        check(template, "https://a.test/x/../admin", Some("/../"));
        check(template, "https://a.test/x/%2e%2E/admin", Some("/../"));
        check(template, "https://a.test/x/a#b", Some("a #"));
        check(template, "https://a.test/x/a b", Some("a blank"));
        check(template, "https://a.test/x/a\u{a0}b", Some("a blank"));
        check(template, "https://a.test/x/a\r\nb", Some("a blank"));
        check(template, "https://a.test/x/a\\b", Some("a blank"));
        check(
            template,
            &format!("https://a.test/x/{}", "a".repeat(8192)),
            Some("8209 bytes"),
        );
        check("https://a.test{{ x }}", "https://a.test.evil.test/", None);
        check("https://a.test/../x{{ y }}", "https://a.test/../xy", None);
        check("https://a.test/#/{{ y }}", "https://a.test/#/y", None);
    }

    #[test]
    fn a_url_that_a_value_brings_must_be_one() {
        let check = |rendered: &str, expected: Option<&str>| {
            let found = super::check("{{ payload.url }}", rendered).err();
            match (&found, expected) {
                (None, None) => {}
                (Some(found), Some(expected)) if found.contains(expected) => {}
                _ => panic!("{rendered}: {found:?} instead of {expected:?}"),
            }
        };
        check("https://a.test", None);
        check("HTTPS://a.test:8443/x?y#z", None);
        check("http://[::1]:80/", None);
        check("http://[::1]", None);
        check("", Some("not absolute"));
        check("/x", Some("not absolute"));
        check("javascript:alert(1)", Some("not absolute"));
        check("https:///x", Some("no host"));
        check("https://:443/x", Some("no host"));
        check("https://a.test:port/", Some("no usable port"));
        check("https://a.test:65536/", Some("no usable port"));
        check("https://u:p@a.test/", Some("names a user"));
    }
}
