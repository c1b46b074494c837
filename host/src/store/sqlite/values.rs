//! Batches as lists of values, filled up with empty rows to one of a few sizes: each statement is a
//! trip to the database's thread, and each size a statement to be prepared once.

use super::batch::text_of;

/// Rows of a statement. None is filled up by more than half.
const SIZES: [usize; 14] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];
/// Most rows a statement.
const ROWS_MAX: usize = 128;

/// Cuts `rows` into what one statement takes.
pub(super) fn chunks<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    rows.chunks(ROWS_MAX)
}

/// The number of rows of the statement that takes `rows`.
pub(super) fn size_for(rows: usize) -> usize {
    let mut sizes = SIZES.into_iter();
    sizes.find(|size| *size >= rows).unwrap_or(ROWS_MAX)
}

/// `template` with `{rows}` replaced by a query for `rows` rows of `columns` parameters, but for those
/// whose first column is NULL. The parameters have no numbers: sqlx looks up the number of each that
/// has one, and SQLite searches for it from the first one on.
pub(super) fn statement(template: &'static str, columns: usize, rows: usize) -> &'static str {
    text_of(template, rows, || {
        let row = format!("({})", vec!["?"; columns].join(","));
        if rows == 1 {
            return format!("VALUES {row}");
        }
        let rows = vec![row; rows].join(",");
        format!("SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_has_room_for_its_rows_and_not_much_more() {
        let rows: Vec<usize> = (0..347).collect();
        let sizes: Vec<usize> = chunks(&rows).map(|chunk| size_for(chunk.len())).collect();
        assert_eq!(sizes, [128, 128, 96]);
        assert_eq!(chunks(&rows).flatten().copied().collect::<Vec<_>>(), rows);
        assert_eq!(chunks::<u8>(&[]).count(), 0);
        for rows in 1..=ROWS_MAX {
            let size = size_for(rows);
            assert!(
                size >= rows && 2 * size <= 3 * rows.max(2),
                "{rows}: {size}"
            );
        }
    }

    #[test]
    fn statements_have_their_parameters() {
        assert_eq!(
            statement("INSERT INTO t {rows}", 2, 1),
            "INSERT INTO t VALUES (?,?)"
        );
        assert_eq!(
            statement("INSERT INTO t {rows}", 2, 4),
            "INSERT INTO t SELECT * FROM (VALUES (?,?),(?,?),(?,?),(?,?)) WHERE column1 IS NOT NULL"
        );
    }
}
