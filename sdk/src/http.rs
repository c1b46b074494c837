//! Requests that may hold secrets, and their answers.

use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::error::DeliveryError;
use crate::secret::{Encoding, Secret};

/// A piece of a URL, a header value or a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text as it stands.
    Text(String),
    /// A secret, filled in by the gateway.
    Secret(Secret, Encoding),
}

/// Text with secrets in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces(pub Vec<Piece>);

impl Pieces {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends text as it stands.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.0.push(Piece::Text(text.into()));
        self
    }

    /// Appends a secret.
    pub fn secret(mut self, secret: &Secret, encoding: Encoding) -> Self {
        self.0.push(Piece::Secret(secret.clone(), encoding));
        self
    }
}

impl From<&str> for Pieces {
    fn from(text: &str) -> Self {
        Self::new().text(text)
    }
}

impl From<String> for Pieces {
    fn from(text: String) -> Self {
        Self::new().text(text)
    }
}

impl From<&Secret> for Pieces {
    /// The secret as it is.
    fn from(secret: &Secret) -> Self {
        Self::new().secret(secret, Encoding::Raw)
    }
}

/// Credentials, written into `Authorization` by the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `Bearer`, RFC 6750.
    Bearer(Secret),
    /// `Basic`, RFC 7617.
    Basic(String, Secret),
}

/// The body of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// As it stands.
    Bytes(Vec<u8>),
    /// With secrets in it.
    Pieces(Pieces),
}

/// An outgoing request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `POST`, …
    pub method: String,
    /// Absolute, http or https.
    pub url: Pieces,
    /// In order; `host` and connection headers are the gateway's.
    pub headers: Vec<(String, Pieces)>,
    /// Credentials.
    pub auth: Option<Auth>,
    /// The body.
    pub body: Body,
    /// For the whole exchange; `None`: what is left of the call.
    pub timeout: Option<Duration>,
    /// Follow redirects to granted hosts.
    pub follow_redirects: bool,
}

impl Request {
    /// A request of any method.
    pub fn new(method: impl Into<String>, url: impl Into<Pieces>) -> Self {
        Self {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            auth: None,
            body: Body::Empty,
            timeout: None,
            follow_redirects: false,
        }
    }

    /// `GET`.
    pub fn get(url: impl Into<Pieces>) -> Self {
        Self::new("GET", url)
    }

    /// `POST`.
    pub fn post(url: impl Into<Pieces>) -> Self {
        Self::new("POST", url)
    }

    /// Appends a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Pieces>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Bearer authentication.
    pub fn bearer(mut self, token: &Secret) -> Self {
        self.auth = Some(Auth::Bearer(token.clone()));
        self
    }

    /// Basic authentication.
    pub fn basic(mut self, user: impl Into<String>, password: &Secret) -> Self {
        self.auth = Some(Auth::Basic(user.into(), password.clone()));
        self
    }

    /// A body as it stands, with its media type.
    pub fn body(mut self, content_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Bytes(bytes.into());
        self.header("content-type", content_type)
    }

    /// A JSON body.
    pub fn json(self, value: &serde_json::Value) -> Self {
        self.json_text(value.to_string())
    }

    /// A JSON body that is text already.
    pub fn json_text(self, text: impl Into<String>) -> Self {
        self.body("application/json", text.into())
    }

    /// Appends a parameter to the query of the URL, encoded.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let has_query = self
            .url
            .0
            .iter()
            .any(|piece| matches!(piece, Piece::Text(text) if text.contains('?')));
        let mut text = String::from(if has_query { "&" } else { "?" });
        form_pair(name, value, &mut text);
        self.url.0.push(Piece::Text(text));
        self
    }

    /// A body of form fields, `application/x-www-form-urlencoded`.
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (name, value) in fields {
            if !text.is_empty() {
                text.push('&');
            }
            form_pair(name, value, &mut text);
        }
        self.body("application/x-www-form-urlencoded", text)
    }

    /// A body with secrets in it, with its media type.
    pub fn body_pieces(mut self, content_type: &str, pieces: Pieces) -> Self {
        self.body = Body::Pieces(pieces);
        self.header("content-type", content_type)
    }

    /// A deadline for the whole exchange.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// `name=value` as the URL standard writes forms and queries
/// (<https://url.spec.whatwg.org/#urlencoded-serializing>).
fn form_pair(name: &str, value: &str, out: &mut String) {
    form_encode(name, out);
    out.push('=');
    form_encode(value, out);
}

fn form_encode(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => {
                out.push(char::from(byte));
            }
            other => {
                out.push('%');
                out.push(char::from(HEX[usize::from(other >> 4)]));
                out.push(char::from(HEX[usize::from(other & 15)]));
            }
        }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Decoded; secrets of this call are masked.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body read as JSON.
    ///
    /// # Errors
    /// When it is not JSON of that shape; an HTML page in place of an API's answer is named.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DeliveryError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let html = self
                .header("content-type")
                .is_some_and(|value| value.contains("html"));
            let what = if html {
                "an HTML page instead of JSON"
            } else {
                "no usable JSON"
            };
            DeliveryError::transient(format!(
                "the receiver answered {} with {what}: {error}",
                self.status
            ))
        })
    }

    /// How long the receiver asks to wait: `Retry-After` as seconds or as a date (RFC 9110,
    /// section 10.2.3).
    pub fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        let value = self.header("retry-after")?.trim();
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    }

    /// This response when it is 2xx. Otherwise an error: after `Retry-After` where the receiver
    /// sent one, by the schedule for 408, 425, 429 and 5xx, and never for what repeating cannot
    /// mend.
    ///
    /// # Errors
    /// When the status is not 2xx.
    pub fn error_for_status(self, ctx: &Context) -> Result<Self, DeliveryError> {
        if self.is_success() {
            return Ok(self);
        }
        let message = format!("the receiver answered {}", self.status);
        if let Some(wait) = self.retry_after(ctx.now()) {
            return Err(DeliveryError::after(wait, message));
        }
        match self.status {
            408 | 425 | 429 | 500.. => Err(DeliveryError::transient(message)),
            _ => Err(DeliveryError::permanent(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_retry_after(value: &str) -> Response {
        Response {
            status: 429,
            headers: vec![("retry-after".into(), value.into())],
            body: Vec::new(),
        }
    }

    #[test]
    fn retry_after_as_seconds_and_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let check = |value: &str, expected: Option<u64>| {
            let got = with_retry_after(value).retry_after(now);
            assert_eq!(got, expected.map(Duration::from_secs), "{value}");
        };
        check("120", Some(120));
        check("Sun, 06 Nov 1994 08:49:47 GMT", Some(10));
        check("Sun, 06 Nov 1994 08:49:27 GMT", Some(0));
        check("soon", None);
        check("-1", None);
    }

    #[test]
    fn queries_and_forms_are_encoded() {
        let request = Request::get("https://a.test/x")
            .query("cursor", "a b+c=")
            .query("ü", "1&2");
        let url: String = request
            .url
            .0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Secret(..) => unreachable!("there is no secret in it"),
            })
            .collect();
        assert_eq!(url, "https://a.test/x?cursor=a+b%2Bc%3D&%C3%BC=1%262");

        let request = Request::post("https://a.test").form(&[("a", "1"), ("b", "x y")]);
        assert_eq!(request.body, Body::Bytes(b"a=1&b=x+y".to_vec()));
    }
}
