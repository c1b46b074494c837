//! `kill -9` at random moments under load, and a check of the receiver's history afterwards.
//!
//! What is claimed: an event that was answered 202 reaches the receiver at least once, under one
//! delivery id; nothing is delivered that was not sent; no attempt goes beyond the policy; an
//! idempotency key makes one event, whatever happened to the answers. The seed is printed, and
//! `HOOKPORT_CHAOS_SEED` and `HOOKPORT_CHAOS_KILLS` repeat or lengthen a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hookport_tests::PATIENCE;
use hookport_tests::api::{Api, webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::{Received, Receiver, Reply};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const EMITTERS: u64 = 8;
pub(super) const ATTEMPTS_MAX: u64 = 8;

/// What the emitters know.
#[derive(Default)]
struct Sent {
    next: AtomicU64,
    /// Number to event id, of every event that was answered 202 or 200.
    accepted: Mutex<BTreeMap<u64, String>>,
    /// Answers 503.
    refused: AtomicU64,
    stop: AtomicBool,
}

pub(super) fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}

/// One receiver answer in five is an error, but never to one event more often than the policy
/// forgives: what fails for good would prove nothing.
fn receiver_script(seed: u64) -> impl Fn(usize, &Received) -> Reply {
    let rng = Mutex::new(StdRng::seed_from_u64(seed));
    move |_, request| {
        let attempt: u64 = request.header("hookport-attempt").parse().unwrap_or(0);
        let fails = rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random_bool(0.2);
        if fails && attempt < ATTEMPTS_MAX - 1 {
            Reply::status(503)
        } else {
            Reply::ok()
        }
    }
}

/// Emits numbered events until told to stop. Every second one carries an idempotency key and is
/// sent again until it is answered; the others are sent once, and nothing is claimed about them
/// when the answer did not come.
async fn emitter(sent: Arc<Sent>, mut gateway: watch::Receiver<Option<Api>>) {
    while !sent.stop.load(Ordering::Relaxed) {
        let number = sent.next.fetch_add(1, Ordering::Relaxed);
        let event = json!({
            "type": "chaos.event",
            "payload": {"number": number},
            "correlationKey": format!("k{}", number % 50)
        });
        let keyed = number.is_multiple_of(2);
        loop {
            let Ok(api) = gateway
                .wait_for(Option::is_some)
                .await
                .map(|api| api.clone())
            else {
                return;
            };
            let api = api.expect("waited for");
            let mut request = api.request(Method::POST, "/events").json(&event);
            if keyed {
                request = request.header("idempotency-key", format!("chaos-{number}"));
            }
            match Api::try_send(request).await {
                Ok(answer) if matches!(answer.status, 200 | 202) => {
                    let id = answer.json()["id"].as_str().expect("an id").to_owned();
                    sent.accepted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(number, id);
                    break;
                }
                Ok(answer) => {
                    let (call, text) = (&answer.call, &answer.text);
                    assert!(answer.status == 503, "{call}: {} {text}", answer.status);
                    sent.refused.fetch_add(1, Ordering::Relaxed);
                }
                // It was killed under way: known by the key alone.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            if !keyed {
                break;
            }
        }
    }
}

/// Emitters under way against some gateways, and the receiver that their events reach.
pub(super) struct Load {
    pub(super) receiver: Receiver,
    sent: Arc<Sent>,
    targets: Vec<watch::Sender<Option<Api>>>,
    emitters: Vec<JoinHandle<()>>,
}

impl Load {
    /// Configures the first of `apis` and emits to all.
    pub(super) async fn begin(seed: u64, apis: Vec<Api>) -> Self {
        let changes = json!({
            "retry": {"delaysMs": vec![20; ATTEMPTS_MAX as usize - 1]},
            "circuitBreaker": {"enabled": false}
        });
        Self::begin_with(seed, apis, changes).await
    }

    /// The same with a subscription of another kind: it has to allow [`ATTEMPTS_MAX`] attempts.
    pub(super) async fn begin_with(seed: u64, apis: Vec<Api>, changes: Value) -> Self {
        let receiver = Receiver::start(receiver_script(seed)).await;
        let api = apis.first().expect("a gateway");
        api.register("chaos.event").await;
        api.subscribe(&with(webhook("chaos.event", &receiver.url()), changes))
            .await;
        let sent = Arc::new(Sent::default());
        let targets: Vec<_> = apis
            .into_iter()
            .map(|api| watch::Sender::new(Some(api)))
            .collect();
        let emitters = targets.iter().cycle().take(EMITTERS as usize);
        let emitters = emitters
            .map(|target| tokio::spawn(emitter(sent.clone(), target.subscribe())))
            .collect();
        Self {
            receiver,
            sent,
            targets,
            emitters,
        }
    }

    /// Where those that emit to gateway `index` go on; `None`: it is down.
    pub(super) fn aim(&self, index: usize, api: Option<Api>) {
        self.targets[index].send_replace(api);
    }

    /// Lets the emitters end, waits for the end of every delivery, checks all and tells it. Returns how
    /// often an emitter was answered 503.
    pub(super) async fn end(self, what: &str, faults: u64, gateway: &Gateway) -> u64 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.sent.stop.store(true, Ordering::Relaxed);
        for emitter in self.emitters {
            emitter.await.expect("an emitter");
        }
        let accepted = self.sent.accepted.lock();
        let accepted = accepted.unwrap_or_else(PoisonError::into_inner).clone();
        let deliveries = all_ended(&gateway.api()).await;
        let history = self.receiver.requests();
        let sent_up_to = self.sent.next.load(Ordering::Relaxed);
        let duplicates = check(&accepted, sent_up_to, &history, &deliveries);
        println!(
            "{what}: {faults} faults, {} events accepted, {} deliveries, {} requests, {duplicates} of them duplicates, 0 lost",
            accepted.len(),
            deliveries.len(),
            history.len()
        );
        let audit = gateway.command(&["doctor", "--audit"]).output();
        let audit = String::from_utf8_lossy(&audit.expect("it runs").stdout).into_owned();
        assert!(audit.contains("the chain is whole"), "{audit}");
        let events = accepted.len() as u64;
        assert!(events > faults * 5, "hardly any load: {events}");
        self.sent.refused.load(Ordering::Relaxed)
    }
}

/// The seed and the number of faults of a run, told so that it can be repeated.
pub(super) fn seed_and_faults(faults: u64) -> (StdRng, u64, u64) {
    let seed = from_environment("HOOKPORT_CHAOS_SEED", rand::random());
    let faults = from_environment("HOOKPORT_CHAOS_KILLS", faults);
    println!("HOOKPORT_CHAOS_SEED={seed} HOOKPORT_CHAOS_KILLS={faults}");
    (StdRng::seed_from_u64(seed), seed, faults)
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_it_at_random_moments_loses_and_invents_nothing() {
    let (mut rng, seed, kills) = seed_and_faults(10);
    let mut gateway = Gateway::start().await;
    let load = Load::begin(seed, vec![gateway.api()]).await;
    for _ in 0..kills {
        // Also soon after a start, while it still recovers.
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..700))).await;
        gateway.kill();
        load.aim(0, None);
        gateway.restart().await;
        load.aim(0, Some(gateway.api()));
    }
    load.end("kill -9", kills, &gateway).await;
}

/// Waits until no delivery is open and returns all. How long that takes is a matter of the machine and
/// of how much there is: what fails it is a standstill, or that it never ends.
pub(super) async fn all_ended(api: &Api) -> Vec<Value> {
    let started = Instant::now();
    let (mut last, mut changed_at) = (Value::Null, started);
    loop {
        let open = api
            .get("/deliveries?state=pending&state=retrying&state=in_flight&limit=200")
            .await
            .expect(200);
        if open["items"].as_array().is_some_and(Vec::is_empty) {
            break;
        }
        assert!(changed_at.elapsed() < PATIENCE, "still open: {open}");
        assert!(started.elapsed() < 5 * PATIENCE, "it never ends: {open}");
        if open != last {
            (last, changed_at) = (open, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api
            .get(&format!("/deliveries?limit=200{cursor}"))
            .await
            .expect(200);
        all.extend(page["items"].as_array().expect("items").iter().cloned());
        let Some(next) = page["next"].as_str() else {
            return all;
        };
        cursor = format!("&cursor={next}");
    }
}

/// Checks every claim and returns the number of requests beyond what was needed.
fn check(
    accepted: &BTreeMap<u64, String>,
    sent_up_to: u64,
    history: &[Received],
    deliveries: &[Value],
) -> usize {
    let mut delivery_of: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut event_of: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut succeeded: BTreeMap<u64, usize> = BTreeMap::new();
    for request in history {
        let number = request.json()["data"]["number"].as_u64().expect("a number");
        assert!(number < sent_up_to, "{number} was invented");
        delivery_of
            .entry(number)
            .or_default()
            .insert(request.header("webhook-id").to_owned());
        event_of
            .entry(number)
            .or_default()
            .insert(request.header("hookport-event-id").to_owned());
        let attempt: u64 = request
            .header("hookport-attempt")
            .parse()
            .expect("an attempt");
        assert!((1..=ATTEMPTS_MAX).contains(&attempt), "attempt {attempt}");
        if request.answered == 200 {
            *succeeded.entry(number).or_default() += 1;
        }
    }
    for (number, id) in accepted {
        assert!(
            succeeded.contains_key(number),
            "event {number} ({id}) was lost"
        );
        assert_eq!(
            event_of[number].iter().collect::<Vec<_>>(),
            [id],
            "event {number} is one event"
        );
    }
    for (number, ids) in &delivery_of {
        assert_eq!(
            ids.len(),
            1,
            "event {number} under several delivery ids: {ids:?}"
        );
    }
    let mut on_record = BTreeSet::new();
    for delivery in deliveries {
        assert_eq!(delivery["state"], "success", "{delivery}");
        let attempts = delivery["attempts"].as_u64().expect("attempts");
        assert!((1..=ATTEMPTS_MAX).contains(&attempts), "{delivery}");
        on_record.insert(delivery["id"].as_str().expect("an id"));
    }
    let received: BTreeSet<_> = delivery_of.values().flatten().map(String::as_str).collect();
    assert_eq!(on_record, received, "the record and the receiver agree");
    succeeded.values().map(|count| count - 1).sum()
}
