//! Query parameters and pages: strict filters, opaque cursors, `Link` headers.
//!
//! A parameter that is not known is refused: a misspelt filter must not widen a listing.

use std::fmt::Display;
use std::str::FromStr;

use axum::Json;
use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use url::form_urlencoded;
use utoipa::{IntoParams, ToSchema};

use super::error::ApiError;
use crate::domain::clock::{Timestamp, parse_rfc3339};
use crate::store::Page;

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 200;

/// The parameters of every listing.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents what `Query` reads")]
pub(super) struct PageParams {
    /// Items a page, 1 to 200; 50 when unset.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of a listing, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Items<T> {
    /// The items.
    pub(super) items: Vec<T>,
    /// Give it as `cursor` for the next page; null on the last one.
    #[schema(required)]
    pub(super) next: Option<String>,
}

/// The query of a request, taken apart by name.
#[derive(Debug)]
pub(super) struct Query {
    path: String,
    pairs: Vec<(String, String)>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let uri = parts
            .extensions
            .get::<OriginalUri>()
            .map_or(&parts.uri, |original| &original.0);
        Ok(Self::new(uri.path(), uri.query().unwrap_or_default()))
    }
}

impl Query {
    fn new(path: &str, query: &str) -> Self {
        Self {
            path: path.to_owned(),
            pairs: form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        }
    }

    /// Refuses every parameter but `known`, `limit` and `cursor`, and empty values.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        for (name, value) in &self.pairs {
            if !known.contains(&name.as_str()) && !["limit", "cursor"].contains(&name.as_str()) {
                let mut all = known.to_vec();
                all.extend(["limit", "cursor"]);
                return Err(ApiError::field(
                    name,
                    format!("no such parameter; there are {}", all.join(", ")),
                ));
            }
            if value.is_empty() {
                return Err(ApiError::field(name, "give a value or leave it out"));
            }
        }
        Ok(())
    }

    /// All values of a parameter that may repeat.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may not repeat.
    pub(super) fn one<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, ApiError> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(ApiError::field(name, "give it once"));
        }
        Ok(first)
    }

    /// A parameter read as `T`.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        self.one(name)?
            .map(|text| {
                text.parse()
                    .map_err(|error| ApiError::field(name, format!("{error}")))
            })
            .transpose()
    }

    /// An RFC 3339 instant.
    pub(super) fn instant(&self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        self.one(name)?
            .map(|text| {
                parse_rfc3339(text).ok_or_else(|| {
                    ApiError::field(name, "give an RFC 3339 time, as in 2026-01-31T08:00:00Z")
                })
            })
            .transpose()
    }

    /// How many items.
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let limit = self.parsed("limit")?.unwrap_or(LIMIT_DEFAULT);
        if (1..=LIMIT_MAX).contains(&limit) {
            Ok(limit)
        } else {
            Err(ApiError::field("limit", format!("give 1 to {LIMIT_MAX}")))
        }
    }

    /// The key that a cursor of this `kind` stands for.
    pub(super) fn cursor(&self, kind: &str) -> Result<Option<String>, ApiError> {
        let Some(text) = self.one("cursor")? else {
            return Ok(None);
        };
        let key = URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| Some(text.strip_prefix(kind)?.strip_prefix(':')?.to_owned()));
        key.map(Some).ok_or_else(wrong_cursor)
    }

    /// The identifier that a cursor of this `kind` stands for.
    pub(super) fn cursor_id<T: FromStr>(&self, kind: &str) -> Result<Option<T>, ApiError> {
        self.cursor(kind)?
            .map(|key| key.parse().map_err(|_| wrong_cursor()))
            .transpose()
    }

    /// The answer to a listing that the store has cut.
    pub(super) fn answer<T, V: Serialize>(
        &self,
        kind: &str,
        page: Page<T>,
        key: impl Fn(&T) -> String,
        view: impl FnMut(T) -> V,
    ) -> Response {
        let next = page.next(key).map(|after| cursor(kind, &after));
        let items: Vec<V> = page.items.into_iter().map(view).collect();
        let link = next.as_deref().and_then(|next| self.link(next));
        let mut response = Json(Items { items, next }).into_response();
        if let Some(link) = link {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    }

    /// Cuts a listing that is whole in memory, ordered by `key`, descending.
    pub(super) fn cut<T>(
        &self,
        kind: &str,
        mut items: Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> Result<Page<T>, ApiError> {
        let (limit, after) = (self.limit()?, self.cursor(kind)?);
        items.sort_by_cached_key(|item| std::cmp::Reverse(key(item)));
        if let Some(after) = after {
            items.retain(|item| key(item) < after);
        }
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(Page {
            items,
            more,
            resume: None,
        })
    }

    fn link(&self, next: &str) -> Option<HeaderValue> {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(self.pairs.iter().filter(|(name, _)| name != "cursor"))
            .append_pair("cursor", next)
            .finish();
        HeaderValue::from_str(&format!("<{}?{query}>; rel=\"next\"", self.path)).ok()
    }
}

fn cursor(kind: &str, key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{kind}:{key}"))
}

fn wrong_cursor() -> ApiError {
    ApiError::field(
        "cursor",
        "not a cursor of this listing: give the `next` of a page before",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_in_memory_follow_each_other_without_gap_or_repetition() {
        let items = ["a", "b", "c", "d", "e"];
        let mut seen = Vec::new();
        let mut query = "limit=2".to_owned();
        loop {
            let request = Query::new("/things", &query);
            let page = request
                .cut("t", items.to_vec(), |item| (*item).to_owned())
                .expect("page");
            seen.extend(page.items.iter().copied());
            if !page.more {
                break;
            }
            let last = page.items.last().expect("item");
            query = format!("limit=2&cursor={}", cursor("t", last));
        }
        assert_eq!(seen, ["e", "d", "c", "b", "a"]);
    }

    #[test]
    fn a_link_keeps_the_filters_and_drops_the_old_cursor() {
        let query = Query::new("/things", "state=failed&state=pending&cursor=old&limit=2");
        let link = query.link("new").expect("header");
        assert_eq!(
            link.to_str().expect("text"),
            "</things?state=failed&state=pending&limit=2&cursor=new>; rel=\"next\""
        );
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let refused = |query: &str| {
            let query = Query::new("/things", query);
            query.only(&["type"]).is_err() || query.limit().is_err() || query.cursor("t").is_err()
        };
        for query in [
            "typ=a",
            "type=",
            "limit=0",
            "limit=201",
            "limit=x",
            "limit=1&limit=2",
            "cursor=%21",
            "cursor=bm9wZQ",
        ] {
            assert!(refused(query), "{query}");
        }
        let other_kind = format!("cursor={}", cursor("other", "x"));
        assert!(refused(&other_kind));
        assert!(!refused("type=a&limit=200"));
    }
}
