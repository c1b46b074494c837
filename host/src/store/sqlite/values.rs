//! Batches as lists of values. The number of rows of a statement is a power of two, so that there are
//! few of them.

use super::batch::text_of;

/// Most rows a statement.
const ROWS_MAX: usize = 128;

/// Cuts `rows` into chunks of a power of two, largest first.
pub(super) fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = 1 << rows.len().min(ROWS_MAX).checked_ilog2()?;
        let (chunk, rest) = rows.split_at(size);
        rows = rest;
        Some(chunk)
    })
}

/// `template` with `{rows}` replaced by `VALUES` and `rows` times a parenthesised row of `columns`
/// parameters. They have no numbers: sqlx looks up the number of each parameter that has one, and
/// SQLite searches for it from the first one on.
pub(super) fn statement(template: &'static str, columns: usize, rows: usize) -> &'static str {
    text_of(template, rows, || {
        let row = format!("({})", vec!["?"; columns].join(","));
        format!("VALUES {}", vec![row; rows].join(","))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_everything_once() {
        let rows: Vec<usize> = (0..347).collect();
        let sizes: Vec<usize> = chunks(&rows).map(<[usize]>::len).collect();
        assert_eq!(sizes, [128, 128, 64, 16, 8, 2, 1]);
        assert_eq!(chunks(&rows).flatten().copied().collect::<Vec<_>>(), rows);
        assert_eq!(chunks::<u8>(&[]).count(), 0);
    }

    #[test]
    fn statements_have_their_parameters() {
        assert_eq!(
            statement("INSERT INTO t {rows}", 2, 4),
            "INSERT INTO t VALUES (?,?),(?,?),(?,?),(?,?)"
        );
    }
}
