//! The conformance suite on a private PostgreSQL, and what only PostgreSQL has.

use hookport_test_servers::Postgres;
use hookport_test_servers::proxy::{Fault, Proxy};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::super::conformance;
use super::batch::Cell;
use super::*;
use crate::domain::id::IdGenerator;

conformance::cases!(open_fresh);

async fn open_fresh() -> ((), PostgresStore) {
    let url = tokio::task::spawn_blocking(|| Postgres::shared().database())
        .await
        .expect("a database");
    ((), PostgresStore::open(&url, true).await.expect("opens"))
}

macro_rules! outbox_cases {
    ($($case:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                let ((), store) = open_fresh().await;
                let store: Arc<dyn Store> = Arc::new(store);
                conformance::$case(&store).await;
            }
        )+
    };
}

outbox_cases!(
    what_a_broker_holds_is_claimed_by_name_alone,
    the_sweep_finds_what_did_not_come_once,
    a_retry_and_what_is_released_stay_the_brokers,
    what_waits_for_its_order_goes_back_to_the_store,
    what_is_taken_back_or_handed_over_is_claimed,
);

#[tokio::test]
async fn entries_of_two_processes_make_one_chain() {
    let url = Postgres::shared().database();
    let store = PostgresStore::open(&url, true).await.expect("opens");
    let other = PostgresStore::open(&url, true).await.expect("opens");
    conformance::added_at_once(&[&store, &other]).await;
}

#[tokio::test]
async fn one_process_at_a_time_has_the_turn_to_change_the_catalogue() {
    let url = Postgres::shared().database();
    let store = PostgresStore::open(&url, true).await.expect("opens");
    let other = PostgresStore::open(&url, true).await.expect("opens");
    let turn = store.turn().await.expect("had");
    let mut waiting = std::pin::pin!(other.turn());
    let early = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
    assert!(early.is_err(), "both have it");
    drop(turn);
    waiting.await.expect("had then");
}

#[tokio::test]
async fn the_audit_trail_is_only_added_to() {
    let url = Postgres::shared().database();
    let store = PostgresStore::open(&url, true).await.expect("opens");
    conformance::added_at_once(&[&store]).await;
    for statement in [
        "UPDATE audit_entries SET action = 'x' WHERE seq = 1",
        "DELETE FROM audit_entries WHERE seq = 1",
        "TRUNCATE audit_entries",
        "INSERT INTO audit_entries SELECT * FROM audit_entries WHERE seq = 1 ON CONFLICT (seq) DO UPDATE SET action = 'x'",
        "UPDATE audit_head SET seq = seq - 1",
        "DELETE FROM audit_head",
    ] {
        let refused = sqlx::query(statement).execute(&store.readers).await;
        let error = refused.expect_err(statement).to_string();
        assert!(error.contains("audit trail"), "{statement}: {error}");
    }
}

#[tokio::test]
async fn hot_queries_use_their_indexes() {
    let (_server, store) = open_fresh().await;
    let filled = store.fill(plans::DELIVERIES, plans::UNTIL).await;
    filled.expect("fills");
    plans::check(&store.readers).await;
}

/// Nothing was open when the tables were analysed, which is when an index of what is open looks cheapest.
#[tokio::test]
async fn what_has_an_id_is_found_by_it() {
    let url = Postgres::shared().database();
    let store = PostgresStore::open(&url, true).await.expect("opens");
    let filled = store.fill(plans::DELIVERIES, plans::UNTIL).await;
    filled.expect("fills");
    let options: PgConnectOptions = url.parse().expect("a URL");
    let options = options.options(dialect::PLANNING);
    let mut hot = PgConnection::connect_with(&options)
        .await
        .expect("connects");
    let texts = [1, 6, 7, 12, 14, 15, 16, 19];
    let row: [Cell<'_>; 20] = std::array::from_fn(|index| match texts.contains(&(index + 1)) {
        true => Cell::Text(None),
        false => Cell::Number(None),
    });
    let rows = dialect::unnest(&row);
    for (name, statement, parameters) in [
        ("settle", settle::SETTLE.replace("{rows}", &rows), 20),
        ("picked", claim::LEASE_PICKED.to_owned(), 5),
        ("told", claim::LEASE_TOLD.to_owned(), 5),
    ] {
        let prepare = format!("PREPARE {name} AS {statement}");
        let prepared = sqlx::raw_sql(AssertSqlSafe(prepare));
        prepared.execute(&mut hot).await.expect("prepares");
        let nothing = vec!["NULL"; parameters].join(", ");
        let explain = format!("EXPLAIN EXECUTE {name} ({nothing})");
        let lines = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut hot);
        let lines = lines.await.expect("explains");
        let plan: Vec<String> = lines.iter().map(|line| line.get(0)).collect();
        // Whether an earlier one of the key is open (`e`) is for another index to say.
        let by: Vec<_> = plan
            .iter()
            .filter(|line| line.contains("using deliveries_") && !line.contains("deliveries e "))
            .collect();
        assert!(!by.is_empty(), "{plan:#?}");
        assert!(
            by.iter().all(|line| line.contains("deliveries_pkey")),
            "{plan:#?}"
        );
    }
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_not_repeated() {
    for url in [
        "postgres://u:hidden-pass@host:port/db",
        "mysql://u:hidden-pass@h/db",
    ] {
        let error = PostgresStore::open(url, true).await.expect_err("wrong");
        assert!(!error.to_string().contains("hidden-pass"), "{error}");
        assert!(error.to_string().contains("postgres://user"), "{error}");
    }
}

#[tokio::test]
async fn an_outdated_database_is_refused_where_migrating_is_off() {
    let url = Postgres::shared().database();
    let error = PostgresStore::open(&url, false).await.expect_err("empty");
    assert!(matches!(error, OpenError::Outdated), "{error}");
    PostgresStore::migrate(&url).await.expect("migrates");
    PostgresStore::open(&url, false).await.expect("opens");
}

#[tokio::test]
async fn a_later_version_that_expanded_is_opened_and_one_that_contracted_is_not() {
    let url = Postgres::shared().database();
    let store = PostgresStore::open(&url, true).await.expect("opens");
    let apply = async |version: i64, description: &str| {
        sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES ($1, $2, TRUE, '', 0)")
            .bind(version)
            .bind(description)
            .execute(&store.readers)
            .await
            .expect("noted");
    };
    apply(9_001, "colours").await;
    for migrate in [true, false] {
        PostgresStore::open(&url, migrate).await.expect("opens");
    }
    apply(9_002, "contract colours").await;
    for migrate in [true, false] {
        let refused = PostgresStore::open(&url, migrate).await;
        assert!(matches!(refused, Err(OpenError::Newer)));
    }
    let found = PostgresStore::examine(&url).await.expect("looks");
    assert_eq!((found.versions.unknown, found.lacking), (2, None));
}

#[tokio::test]
async fn whoever_is_not_seen_loses_its_leases_and_another_process_hears_of_work() {
    let url = Postgres::shared().database();
    let store = PostgresStore::open(&url, true).await.expect("opens");
    let other = PostgresStore::open(&url, true).await.expect("opens");
    let ids = IdGenerator::default();
    let (dead, living): (WorkerId, WorkerId) =
        (ids.next(Timestamp(1), || 1), ids.next(Timestamp(2), || 2));
    let hour = Duration::from_secs(3_600);
    store.keep_alive(dead, hour).await.expect("noted");
    let leased = conformance::leased_by(&store, dead).await;
    assert_eq!(other.keep_alive(living, hour).await.expect("noted"), 0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let released = other.keep_alive(living, Duration::from_millis(20)).await;
    assert_eq!(released.expect("noted"), 1);
    let again = conformance::claim_by(&other, living).await;
    assert_eq!(again.leased[0].id, leased.id);
    assert!(again.leased[0].token > leased.token);
    tokio::time::timeout(Duration::from_secs(30), other.heard_of_work())
        .await
        .expect("what the first process accepted was told of");
}

#[tokio::test]
async fn reads_over_connections_that_fell_silent_are_given_up() {
    let server = Postgres::shared();
    let direct = server.database();
    let way = Proxy::before(server.port()).await;
    let (from, to) = (server.port().to_string(), way.port().to_string());
    let url = direct.replace(&from, &to);
    let store = Arc::new(PostgresStore::open(&url, true).await.expect("opens"));
    let event: EventId = IdGenerator::default().next(Timestamp(1), || 1);
    let mut other = PgConnection::connect(&direct).await.expect("connects");
    let mut held = other.begin().await.expect("begins");
    let lock = "LOCK TABLE events IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut *held).await.expect("held");

    let reads = || {
        (0..CONNECTIONS).map(|_| {
            tokio::spawn({
                let store = store.clone();
                async move { store.event(event).await }
            })
        })
    };
    let under_way: Vec<_> = reads().collect();
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = current_database() AND NOT l.granted";
    loop {
        let found: i64 = sqlx::query_scalar(waiting)
            .fetch_one(&mut *held)
            .await
            .expect("counted");
        if found == i64::from(CONNECTIONS) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    way.set(Fault::Silence);
    for read in under_way {
        let error = read.await.expect("ends").expect_err("nothing came");
        assert!(error.to_string().contains("in time"), "{error}");
    }
    held.rollback().await.expect("let go");

    // All of the pool's places are free again, for connections that were made since.
    let again: Vec<_> = reads().collect();
    for read in again {
        let found = read.await.expect("ends").expect("answered");
        assert!(found.is_none());
    }
}
