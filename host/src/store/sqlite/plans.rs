//! Which indexes the statements go through.

use sqlx::{AssertSqlSafe, Row as _, SqlitePool};

use super::query::deliveries_query;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::DeliveryState;
use crate::store::DeliveryFilter;

/// Fails the test when a listing sorts or scans more than its page needs.
pub(super) async fn check(readers: &SqlitePool) {
    use crate::domain::id::IdGenerator;
    let subscription = IdGenerator::default().next(Timestamp(1), || 1);
    let event = IdGenerator::default().next(Timestamp(1), || 1);
    let all = DeliveryFilter::default;
    let filters = [
        (all(), "sqlite_autoindex_deliveries_1"),
        (
            DeliveryFilter {
                subscription: Some(subscription),
                ..all()
            },
            "deliveries_subscription",
        ),
        (
            DeliveryFilter {
                states: vec![DeliveryState::Failed],
                ..all()
            },
            "deliveries_failed",
        ),
        (
            DeliveryFilter {
                event: Some(event),
                ..all()
            },
            "deliveries_event",
        ),
        (
            DeliveryFilter {
                from: Some(Timestamp(5)),
                until: Some(Timestamp(9)),
                ..all()
            },
            "sqlite_autoindex_deliveries_1",
        ),
    ];
    for (filter, index) in filters {
        let sql = deliveries_query(&filter, None, 50)
            .sql()
            .as_str()
            .to_owned();
        let plan = plan(readers, &sql).await;
        assert!(plan.contains(index), "{sql}\n{plan}");
        let few_rows = index == "deliveries_event";
        assert!(few_rows || !plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
    }
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
