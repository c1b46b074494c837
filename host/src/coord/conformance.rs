//! What every back end must do: plain functions over `&dyn Coord`, each called by a named test of
//! every back end through [`cases`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::{Ask, Coord, Seen, Swapped};
use crate::domain::rate::Rate;

/// Names every case as a test of a back end. `$open` is an async function that gives a guard and
/// a fresh, empty back end.
macro_rules! cases {
    ($open:ident: $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (_guard, coord) = $open().await;
                $crate::coord::conformance::$case(&coord).await;
            }
        )+
    };
    ($open:ident) => {
        $crate::coord::conformance::cases!($open:
            a_value_is_kept_until_its_time_is_over,
            a_value_may_be_any_bytes_and_is_replaced,
            of_many_that_put_a_new_value_one_does,
            a_burst_then_the_steady_rate_over_all_who_ask,
            what_goes_beyond_the_room_is_not_booked,
            rates_of_different_keys_are_apart,
            what_a_caller_knows_of_a_lost_rate_is_taken_up,
            a_lock_has_one_holder_at_a_time,
            only_its_holder_extends_or_releases_a_lock,
            a_lock_that_ended_is_taken_over_under_a_higher_token,
            a_change_of_a_cell_is_seen_once,
            of_many_swaps_from_the_same_value_one_is_done,
            a_swap_of_another_generation_changes_nothing,
        );
    };
}
pub(super) use cases;

const MINUTE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

async fn value(coord: &Arc<dyn Coord>, key: &str) -> Option<Vec<u8>> {
    let kept = coord.get(key).await.expect("an answer");
    kept.map(|kept| kept.value)
}

pub(super) async fn a_value_is_kept_until_its_time_is_over(coord: &Arc<dyn Coord>) {
    assert_eq!(value(coord, "k").await, None);
    coord.put("k", b"v", MINUTE).await.expect("put");
    let kept = coord.get("k").await.expect("an answer").expect("kept");
    assert_eq!(kept.value, b"v");
    assert!(kept.left <= MINUTE && !kept.left.is_zero(), "{kept:?}");
    coord.remove("k").await.expect("removed");
    assert_eq!(value(coord, "k").await, None);
    coord.put("k", b"v", SHORT).await.expect("put");
    while value(coord, "k").await.is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Its place is free again.
    assert!(coord.put_new("k", b"w", MINUTE).await.expect("put"));
}

pub(super) async fn a_value_may_be_any_bytes_and_is_replaced(coord: &Arc<dyn Coord>) {
    let bytes: Vec<u8> = (0..=255).collect();
    coord.put("k/ä\n", &bytes, MINUTE).await.expect("put");
    assert_eq!(value(coord, "k/ä\n").await, Some(bytes));
    coord.put("k/ä\n", b"", MINUTE).await.expect("put");
    assert_eq!(value(coord, "k/ä\n").await, Some(Vec::new()));
}

pub(super) async fn of_many_that_put_a_new_value_one_does(coord: &Arc<dyn Coord>) {
    let puts = (0..50_u8).map(|number| {
        let coord = coord.clone();
        tokio::spawn(async move {
            let done = coord.put_new("k", &[number], MINUTE).await;
            done.expect("an answer").then_some(number)
        })
    });
    let puts = join_all(puts).await;
    let done: Vec<u8> = puts
        .into_iter()
        .filter_map(|put| put.expect("ends"))
        .collect();
    assert_eq!(done.len(), 1);
    assert_eq!(value(coord, "k").await, Some(done));
}

fn ask(key: &str, rate: Rate, wanted: usize) -> Ask {
    Ask {
        key: key.to_owned(),
        rate,
        wanted,
        ahead_us: 0,
    }
}

async fn granted(coord: &Arc<dyn Coord>, ask: Ask) -> usize {
    coord.book(&[ask]).await.expect("booked")[0].granted
}

pub(super) async fn a_burst_then_the_steady_rate_over_all_who_ask(coord: &Arc<dyn Coord>) {
    let rate = Rate::per_second(50, 5);
    let begun = std::time::Instant::now();
    let takers = (0..4).map(|_| {
        let coord = coord.clone();
        tokio::spawn(async move {
            let mut taken = 0;
            for _ in 0..60 {
                taken += granted(&coord, ask("k", rate, 2)).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            taken
        })
    });
    let taken = join_all(takers).await;
    let taken: usize = taken.into_iter().map(|taken| taken.expect("ends")).sum();
    // However long it took, on whichever machine.
    let most = 5.0 + 50.0 * begun.elapsed().as_secs_f64() + 1.0;
    let taken = f64::from(u32::try_from(taken).expect("few"));
    assert!(taken <= most, "{taken} of at most {most}");
    assert!(taken > 5.0, "only the burst was granted");
}

pub(super) async fn what_goes_beyond_the_room_is_not_booked(coord: &Arc<dyn Coord>) {
    // One in ten minutes: no time goes by here that matters.
    let rate = Rate::per_minute(1, 3);
    let first = coord.book(&[ask("k", rate, 2)]).await.expect("booked")[0];
    assert_eq!(first.granted, 2);
    let second = coord.book(&[ask("k", rate, 5)]).await.expect("booked")[0];
    assert_eq!(second.granted, 1, "{second:?}");
    assert!(second.ahead_us > first.ahead_us);
    let third = coord.book(&[ask("k", rate, 5)]).await.expect("booked")[0];
    assert_eq!(third.granted, 0);
    assert!(third.ahead_us <= second.ahead_us, "{third:?} {second:?}");
    assert!(rate.wait_ms(third.ahead_us) > 0);
}

pub(super) async fn rates_of_different_keys_are_apart(coord: &Arc<dyn Coord>) {
    let (slow, fast) = (Rate::per_minute(1, 1), Rate::per_minute(1, 4));
    let asks = [
        ask("f/a", slow, 9),
        ask("f/b", fast, 9),
        ask("f/a", slow, 9),
    ];
    let booked = coord.book(&asks).await.expect("booked");
    let granted: Vec<usize> = booked.iter().map(|booked| booked.granted).collect();
    assert_eq!(granted, [1, 4, 0]);
    assert!(coord.book(&[]).await.expect("booked").is_empty());
}

pub(super) async fn what_a_caller_knows_of_a_lost_rate_is_taken_up(coord: &Arc<dyn Coord>) {
    let rate = Rate::per_minute(1, 3);
    let knows = |ahead_us| Ask {
        ahead_us,
        ..ask("k", rate, 9)
    };
    // Two of three are used up, as far as this caller knows.
    assert_eq!(granted(coord, knows(2 * rate.interval_us())).await, 1);
    // And who knows nothing hears of it; who thinks to know better does not prevail.
    assert_eq!(granted(coord, ask("k", rate, 9)).await, 0);
    assert_eq!(granted(coord, knows(1)).await, 0);
}

pub(super) async fn a_lock_has_one_holder_at_a_time(coord: &Arc<dyn Coord>) {
    let takers = (0..50).map(|_| {
        let coord = coord.clone();
        tokio::spawn(async move { coord.acquire("l", MINUTE).await.expect("an answer") })
    });
    let tokens = join_all(takers).await;
    let tokens: Vec<_> = tokens
        .into_iter()
        .filter_map(|token| token.expect("ends"))
        .collect();
    assert_eq!(tokens.len(), 1);
    let other = coord.acquire("another", MINUTE).await.expect("an answer");
    assert!(other.is_some(), "locks are apart");
}

pub(super) async fn only_its_holder_extends_or_releases_a_lock(coord: &Arc<dyn Coord>) {
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let token = coord.acquire("l", MINUTE).await.expect("an answer");
        let token = token.expect("free");
        let before = seen.last().copied();
        assert!(
            seen.insert(token.0) && before < Some(token.0),
            "tokens rise"
        );
        for stranger in [token.0 - 1, token.0 + 1, 0] {
            let stranger = crate::domain::delivery::FencingToken(stranger);
            assert!(
                !coord
                    .extend("l", stranger, MINUTE)
                    .await
                    .expect("an answer")
            );
            assert!(!coord.release("l", stranger).await.expect("an answer"));
        }
        assert!(coord.extend("l", token, MINUTE).await.expect("an answer"));
        assert!(coord.release("l", token).await.expect("an answer"));
        assert!(!coord.release("l", token).await.expect("an answer"));
        assert!(!coord.extend("l", token, MINUTE).await.expect("an answer"));
    }
}

pub(super) async fn a_lock_that_ended_is_taken_over_under_a_higher_token(coord: &Arc<dyn Coord>) {
    let first = coord.acquire("l", SHORT).await.expect("an answer");
    let first = first.expect("free");
    let second = loop {
        match coord.acquire("l", MINUTE).await.expect("an answer") {
            Some(token) => break token,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert!(second.0 > first.0);
    assert!(!coord.extend("l", first, MINUTE).await.expect("an answer"));
    assert!(!coord.release("l", first).await.expect("an answer"));
    assert!(coord.release("l", second).await.expect("an answer"));
}

async fn look(coord: &Arc<dyn Coord>, seen: &Seen) -> Option<(Seen, Vec<(String, String)>)> {
    let changes = coord.changes(seen).await.expect("an answer");
    changes.map(|all| (all.seen, all.cells.into_iter().collect()))
}

async fn swap(
    coord: &Arc<dyn Coord>,
    seen: &Seen,
    expected: Option<&str>,
    new: Option<&str>,
) -> Swapped {
    let swapped = coord.swap(&seen.generation, "c", expected, new).await;
    swapped.expect("an answer")
}

pub(super) async fn a_change_of_a_cell_is_seen_once(coord: &Arc<dyn Coord>) {
    let (empty, cells) = look(coord, &Seen::default()).await.expect("the first look");
    assert!(cells.is_empty());
    assert_eq!(look(coord, &empty).await, None);
    assert_eq!(swap(coord, &empty, None, Some("1 ä")).await, Swapped::Done);
    let (one, cells) = look(coord, &empty).await.expect("a change");
    assert_eq!(cells, [("c".to_owned(), "1 ä".to_owned())]);
    assert_eq!(one.generation, empty.generation);
    assert_eq!(look(coord, &one).await, None);
    assert_eq!(swap(coord, &one, Some("1 ä"), None).await, Swapped::Done);
    let (_, cells) = look(coord, &one).await.expect("a change");
    assert!(cells.is_empty());
}

pub(super) async fn of_many_swaps_from_the_same_value_one_is_done(coord: &Arc<dyn Coord>) {
    let (seen, _) = look(coord, &Seen::default()).await.expect("the first look");
    let swaps = (0..20).map(|number| {
        let (coord, seen) = (coord.clone(), seen.clone());
        tokio::spawn(async move {
            let new = number.to_string();
            (swap(&coord, &seen, None, Some(&new)).await, new)
        })
    });
    let swaps = join_all(swaps).await;
    let swaps: Vec<_> = swaps.into_iter().map(|swap| swap.expect("ends")).collect();
    let winner = swaps.iter().find(|(swapped, _)| *swapped == Swapped::Done);
    let winner = winner.map(|(_, new)| new.clone());
    let found = Swapped::Found(winner.clone());
    let lost = swaps.iter().filter(|(swapped, _)| *swapped == found);
    assert_eq!((winner.is_some(), lost.count()), (true, 19), "{swaps:?}");
}

pub(super) async fn a_swap_of_another_generation_changes_nothing(coord: &Arc<dyn Coord>) {
    let (seen, _) = look(coord, &Seen::default()).await.expect("the first look");
    let other = Seen {
        generation: "another".to_owned(),
        ..seen.clone()
    };
    let swapped = swap(coord, &other, None, Some("1")).await;
    assert_eq!(swapped, Swapped::OtherGeneration);
    assert_eq!(look(coord, &seen).await, None);
}
