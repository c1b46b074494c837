//! Marks in place of secrets: text that a script can carry around and never learns anything from.

use std::collections::BTreeMap;
use std::time::Duration;

use hookport_sdk::{Context, Encoding, HttpError, Pieces, Request, Response, Secret};

use crate::FetchRequest;

/// Private-use characters, which no ordinary text has.
const OPEN: char = '\u{E000}';
const CLOSE: char = '\u{E001}';

/// The marks of one attempt.
pub struct Marks<'a> {
    by_mark: BTreeMap<String, (&'a str, &'a Secret)>,
}

impl<'a> Marks<'a> {
    /// For secrets by name; `nonce` makes the marks those of this attempt only.
    pub fn new(secrets: &'a BTreeMap<String, Secret>, nonce: &str) -> Self {
        let mark = |name: &str| format!("{OPEN}{nonce}.{name}{CLOSE}");
        Self {
            by_mark: secrets
                .iter()
                .map(|(name, secret)| (mark(name), (name.as_str(), secret)))
                .collect(),
        }
    }

    /// What the script gets: marks by name.
    pub fn by_name(&self) -> BTreeMap<&str, &str> {
        let marks = self.by_mark.iter();
        marks
            .map(|(mark, (name, _))| (*name, mark.as_str()))
            .collect()
    }

    /// Each mark with what stands in its place for people.
    pub fn labels(&self) -> Vec<(String, String)> {
        let marks = self.by_mark.iter();
        marks
            .map(|(mark, (name, _))| (mark.clone(), format!("[secret {name}]")))
            .collect()
    }

    /// Text for people: marks named.
    pub fn hide(&self, text: &str) -> String {
        if !text.contains(OPEN) {
            return text.to_owned();
        }
        self.by_mark
            .iter()
            .fold(text.to_owned(), |text, (mark, (name, _))| {
                text.replace(mark, &format!("[secret {name}]"))
            })
    }

    /// Sends a request, secrets in the place of their marks.
    pub fn send(&self, ctx: &Context, request: FetchRequest) -> Result<Response, HttpError> {
        let is_json = |value: &str| value.contains("json");
        let kind = request
            .headers
            .iter()
            .find(|(name, _)| name == "content-type");
        let kind = kind.map_or("", |(_, value)| value.as_str());
        let in_body = match request.body.as_deref() {
            Some(body) if is_json(kind) || kind.is_empty() && body.starts_with(['{', '[']) => {
                Encoding::JsonString
            }
            Some(_) if kind.starts_with("application/x-www-form-urlencoded") => Encoding::Percent,
            _ => Encoding::Raw,
        };
        let mut outgoing =
            Request::new(request.method, self.pieces(&request.url, Encoding::Percent));
        for (name, value) in &request.headers {
            if request.body.is_some() && name == "content-type" {
                continue;
            }
            outgoing = outgoing.header(name.as_str(), self.pieces(value, Encoding::Raw));
        }
        if let Some(body) = &request.body {
            let kind = match (kind, in_body) {
                ("", Encoding::JsonString) => "application/json",
                ("", _) => "text/plain;charset=UTF-8",
                (kind, _) => kind,
            };
            outgoing = outgoing.body_pieces(kind, self.pieces(body, in_body));
        }
        if let Some(ms) = request.timeout_ms.filter(|ms| *ms > 0.0) {
            let timeout = Duration::try_from_secs_f64(ms / 1e3);
            outgoing = outgoing.timeout(timeout.unwrap_or(Duration::from_secs(300)));
        }
        ctx.send(outgoing)
    }

    fn pieces(&self, text: &str, encoding: Encoding) -> Pieces {
        let mut pieces = Pieces::new();
        let mut rest = text;
        while let Some(start) = rest.find(OPEN) {
            let (before, from) = rest.split_at(start);
            let Some(length) = from.find(CLOSE).map(|at| at + CLOSE.len_utf8()) else {
                break;
            };
            let (mark, after) = from.split_at(length);
            pieces = pieces.text(before);
            pieces = match self.by_mark.get(mark) {
                Some((_, secret)) => pieces.secret(secret, encoding),
                // Looks like a mark and is none of this attempt's.
                None => pieces.text(mark),
            };
            rest = after;
        }
        pieces.text(rest)
    }
}
