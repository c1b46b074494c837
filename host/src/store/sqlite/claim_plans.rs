//! Which indexes the statements of a claim go through.

use sqlx::{AssertSqlSafe, Row as _, SqlitePool};

/// Fails the test where a claim does not go by its indexes.
pub(super) async fn check(readers: &SqlitePool) {
    let claim = plan(readers, "SELECT d.rowid FROM deliveries d WHERE d.due_at IS NOT NULL AND d.due_at <= 5 AND (d.ordering_key IS NULL OR NOT EXISTS (SELECT 1 FROM deliveries e WHERE e.ordering_key = d.ordering_key AND e.ordering_key IS NOT NULL AND e.state <= 2 AND e.id < d.id)) ORDER BY d.due_at LIMIT 9").await;
    assert!(
        claim.contains("deliveries_due") && claim.contains("deliveries_ordering"),
        "{claim}"
    );
    assert!(!claim.contains("TEMP B-TREE"), "{claim}");
    for (sql, index) in super::lanes::STATEMENTS {
        let plan = plan(readers, sql).await;
        assert!(plan.contains(index), "{sql}\n{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
        assert!(!plan.contains("SCAN deliveries\n"), "{sql}\n{plan}");
    }
}

async fn plan(readers: &SqlitePool, sql: &str) -> String {
    let rows = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
        .fetch_all(readers)
        .await
        .expect("plan");
    rows.iter()
        .map(|row| row.get::<String, _>(3))
        .collect::<Vec<_>>()
        .join("\n")
}
