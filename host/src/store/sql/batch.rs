//! Many rows in one statement.
//!
//! Every statement is a hop to the connection's thread, so a batch is written with as few as
//! possible. The number of rows is rounded to a few sizes, so that the statements are prepared
//! once and stay in the cache.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Rows a statement, largest first.
const SIZES: [usize; 4] = [64, 16, 4, 1];

/// Cuts `rows` into chunks of the sizes above.
pub(super) fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= rows.len())?;
        let (chunk, rest) = rows.split_at(size);
        rows = rest;
        Some(chunk)
    })
}

type Texts = HashMap<(&'static str, usize), &'static str>;

static TEXTS: LazyLock<Mutex<Texts>> = LazyLock::new(Mutex::default);

/// `template` with `{rows}` replaced by `rows` times a parenthesised row of `columns` parameters.
/// The texts are few and made once, and leaked on purpose: a prepared statement wants a text that
/// lives as long as the process.
pub(super) fn statement(template: &'static str, columns: usize, rows: usize) -> &'static str {
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    texts.entry((template, rows)).or_insert_with(|| {
        let row = |row: usize| {
            let first = row * columns + 1;
            let parameters: Vec<_> = (first..first + columns).map(|n| format!("${n}")).collect();
            format!("({})", parameters.join(","))
        };
        let rows = (0..rows).map(row).collect::<Vec<_>>().join(",");
        Box::leak(template.replace("{rows}", &rows).into_boxed_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_everything_once() {
        let rows: Vec<usize> = (0..91).collect();
        let sizes: Vec<usize> = chunks(&rows).map(<[usize]>::len).collect();
        assert_eq!(sizes, [64, 16, 4, 4, 1, 1, 1]);
        assert_eq!(chunks(&rows).flatten().copied().collect::<Vec<_>>(), rows);
    }

    #[test]
    fn statements_have_their_parameters() {
        assert_eq!(
            statement("INSERT INTO t VALUES {rows}", 2, 4),
            "INSERT INTO t VALUES ($1,$2),($3,$4),($5,$6),($7,$8)"
        );
    }
}
