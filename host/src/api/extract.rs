//! Requests as typed values, with errors that name the field.

use std::time::Duration;

use axum::body::{Body as Incoming, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::{BODY_BYTES_MAX, Shared};

/// Deepest nesting of any body: a payload of 64 levels within its event and its batch.
const DEPTH_MAX: usize = 66;
/// For the whole body to arrive.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Read and dropped beyond the limit before the answer.
const DISCARDED_BYTES_MAX: usize = 64 << 20;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Shared> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, Self::Rejection> {
        let bytes = read(request, BODY_BYTES_MAX).await?;
        parse(&bytes).map(Self)
    }
}

/// The bytes of a body that says it is JSON, as large as a batch of events.
pub(super) struct JsonBytes(pub(super) Bytes);

impl FromRequest<Shared> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Shared) -> Result<Self, Self::Rejection> {
        read(request, api.batch_bytes_max).await.map(Self)
    }
}

async fn read(request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::unsupported_media_type());
    }
    raw(request, bytes_max).await
}

/// The bytes of a body, whatever they are.
pub(super) async fn raw(request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    let received = receive(request.into_body(), declared, bytes_max);
    match tokio::time::timeout(ARRIVAL_TIMEOUT, received).await {
        Ok(received) => received,
        Err(_) => Err(ApiError::request_timeout(ARRIVAL_TIMEOUT)),
    }
}

/// Keeps at most `bytes_max`. What exceeds it is read and dropped up to [`DISCARDED_BYTES_MAX`]:
/// a client that is still sending when the connection closes would not see the answer.
async fn receive(mut body: Incoming, declared: usize, bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut kept = BytesMut::with_capacity(declared.min(bytes_max));
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::malformed_json("the body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        if length <= bytes_max {
            kept.extend_from_slice(&data);
        } else if length > bytes_max.saturating_add(DISCARDED_BYTES_MAX) {
            break;
        }
    }
    if length > bytes_max {
        return Err(ApiError::too_large(format!(
            "the body is larger than {bytes_max} bytes"
        )));
    }
    Ok(kept.freeze())
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    essence.is_some_and(|essence| {
        essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")
    })
}

/// Reads JSON; an error says where.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if nested_deeper_than(bytes, DEPTH_MAX) {
        return Err(ApiError::malformed_json(format!(
            "nested deeper than {DEPTH_MAX} levels"
        )));
    }
    // The path is tracked only for a body that is wrong.
    serde_json::from_slice(bytes).or_else(|_| parse_with_path(bytes))
}

fn parse_with_path<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // A wrong field is worth naming only in a body that is JSON to its end.
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
        .map_err(|error| ApiError::malformed_json(error.to_string()))?;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let field = pointer(error.path());
        let inner = error.into_inner();
        if inner.is_data() {
            ApiError::field(field, without_place(&inner))
        } else {
            ApiError::malformed_json(inner.to_string())
        }
    })
}

/// Counts brackets outside of strings; a body that is no JSON is found out later.
fn nested_deeper_than(bytes: &[u8], most: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The message without serde's line and column: the field is named.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |mut pointer, segment| {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push('/');
                pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
        pointer
    })
}

/// A path parameter that must parse; what does not parse does not exist.
pub(super) struct Id<T>(pub(super) T);

impl<S, T> FromRequestParts<S> for Id<T>
where
    S: Send + Sync,
    T: std::str::FromStr + Send,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(ApiError::not_found("such identifier"));
        };
        text.parse()
            .map(Self)
            .map_err(|_| ApiError::not_found(format!("{text:?}")))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn nesting_counts_brackets_outside_of_strings() {
        assert!(!nested_deeper_than(br#"{"a": "[[[[\"[["}"#, 1));
        assert!(nested_deeper_than(b"[[[]]]", 2));
        assert!(!nested_deeper_than(b"[[],[],[[]]]", 3));
        assert!(nested_deeper_than(br#"["\\",[]]"#, 1));
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only its path matters")]
        list: Vec<u32>,
        #[serde(default)]
        payload: Option<Box<serde_json::value::RawValue>>,
    }

    #[test]
    fn a_wrong_type_names_its_field_and_broken_json_is_told_apart() {
        let check = |text: &str, expected: &str| {
            let error = parse::<Sample>(text.as_bytes()).expect_err("refused");
            let found = format!("{error:?}");
            assert!(found.contains(expected), "{text}: {found}");
        };
        check(r#"{"list": [1, "two"]}"#, "/list/1");
        check(r#"{"list": [], "lisst": 1}"#, "unknown field `lisst`");
        check(r#"{"list": ["#, "malformed_json");
        check(r#"{"list": []} x"#, "malformed_json");
        check(r#"{"other": []} x"#, "malformed_json");
    }

    #[test]
    fn raw_text_is_kept_as_sent() {
        let sample: Sample = parse(br#"{"list": [], "payload": {"a" :  1.0}}"#).expect("valid");
        assert_eq!(sample.payload.expect("present").get(), r#"{"a" :  1.0}"#);
    }
}
