//! Pages of a listing, by opaque cursor.

use std::fmt::Display;
use std::str::FromStr;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::ApiError;

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 200;

/// Where a page begins and how long it is.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// Items a page, 1 to 200; 50 when unset.
    pub(super) limit: Option<usize>,
    /// `next` of the page before.
    pub(super) cursor: Option<String>,
}

/// A page of a listing, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Items<T> {
    pub(super) items: Vec<T>,
    /// The cursor of the next page; null on the last one.
    pub(super) next: Option<String>,
}

impl PageParams {
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        match self.limit {
            None => Ok(LIMIT_DEFAULT),
            Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
            Some(_) => Err(ApiError::field("limit", format!("give 1 to {LIMIT_MAX}"))),
        }
    }

    /// The identifier after which the page begins.
    pub(super) fn after<T: FromStr>(&self) -> Result<Option<T>, ApiError> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        let id = URL_SAFE_NO_PAD
            .decode(cursor)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| text.parse().ok());
        match id {
            Some(id) => Ok(Some(id)),
            None => Err(ApiError::field(
                "cursor",
                "pass the value of next from the page before, unchanged",
            )),
        }
    }
}

fn cursor(id: impl Display) -> String {
    URL_SAFE_NO_PAD.encode(id.to_string())
}

/// The answer: items, cursor, and a `Link` header (RFC 8288) that keeps the filters.
pub(super) fn answer<T: Serialize>(
    uri: &Uri,
    items: Vec<T>,
    next_after: Option<impl Display>,
) -> Response {
    let next = next_after.map(cursor);
    let mut headers = HeaderMap::new();
    if let Some(next) = &next {
        let kept = uri
            .query()
            .unwrap_or("")
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
        let query: Vec<&str> = kept.collect();
        let mut target = format!("/api/v1{}?", uri.path());
        for pair in query {
            target.push_str(pair);
            target.push('&');
        }
        if let Ok(value) = HeaderValue::from_str(&format!("<{target}cursor={next}>; rel=\"next\""))
        {
            headers.insert(header::LINK, value);
        }
    }
    (headers, Json(Items { items, next })).into_response()
}

/// A listing short enough to be one page.
pub(super) fn whole<T: Serialize>(items: Vec<T>) -> Json<Items<T>> {
    Json(Items { items, next: None })
}
