//! Many rows in one statement.
//!
//! Every statement is a trip to the database, so a batch is written with as few as possible
//! (`dialect::write_rows`), and with texts that are few, so that they are prepared once and stay in the
//! cache.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// One value of a row.
pub(super) enum Cell<'a> {
    Text(Option<Cow<'a, str>>),
    Number(Option<i64>),
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl<'a> From<Option<&'a str>> for Cell<'a> {
    fn from(text: Option<&'a str>) -> Self {
        Self::Text(text.map(Cow::Borrowed))
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<Option<String>> for Cell<'_> {
    fn from(text: Option<String>) -> Self {
        Self::Text(text.map(Cow::Owned))
    }
}

impl From<i64> for Cell<'_> {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

impl From<Option<i64>> for Cell<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::Number(number)
    }
}

type Texts = HashMap<(&'static str, usize), &'static str>;

static TEXTS: LazyLock<Mutex<Texts>> = LazyLock::new(Mutex::default);

/// `template` with `{rows}` replaced by what `write` makes, once for each `size`. The texts are few,
/// and leaked on purpose: a prepared statement wants a text that lives as long as the process.
pub(super) fn text_of(
    template: &'static str,
    size: usize,
    write: impl FnOnce() -> String,
) -> &'static str {
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    texts
        .entry((template, size))
        .or_insert_with(|| Box::leak(template.replace("{rows}", &write()).into_boxed_str()))
}
