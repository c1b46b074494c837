//! A client of the public API that says what it got when it expected something else.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::PATIENCE;

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The API under one key.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    key: String,
    http: reqwest::Client,
}

/// What the API answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The call, for messages.
    pub call: String,
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub text: String,
}

impl Answer {
    /// The body, when the status is the expected one.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.call, self.text);
        self.json()
    }

    /// The body as JSON; an empty one is null.
    ///
    /// # Panics
    /// When it is not JSON.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        if self.text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.call, self.text))
    }

    /// Checks that this is a problem document with that status and code.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.call, self.text);
        let media_type = self.headers.get("content-type").map(|v| v.as_bytes());
        assert_eq!(
            media_type,
            Some(&b"application/problem+json"[..]),
            "{}: {}",
            self.call,
            self.text
        );
        let problem = self.json();
        assert_eq!(problem["status"], status, "{}: {problem}", self.call);
        assert_eq!(problem["code"], code, "{}: {problem}", self.call);
        assert!(
            problem["detail"].as_str().is_some_and(|d| !d.is_empty()),
            "{}: no detail: {problem}",
            self.call
        );
        problem
    }
}

/// One client for every test: reqwest's pool is made for sharing, but not across the runtimes
/// that tests have each for themselves, so idle connections are not kept.
fn client() -> reqwest::Client {
    static TLS: OnceLock<()> = OnceLock::new();
    TLS.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder()
        .timeout(PATIENCE)
        .build()
        .expect("a client")
}

impl Api {
    /// At `base`, with `key`.
    #[must_use]
    pub fn new(base: &str, key: &str) -> Self {
        Self {
            base: base.to_owned(),
            key: key.to_owned(),
            http: client(),
        }
    }

    /// The same under another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            key: key.to_owned(),
            ..self.clone()
        }
    }

    /// Any request below `/api/v1`, with the key.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self
            .http
            .request(method, format!("{}/api/v1{path}", self.base));
        if self.key.is_empty() {
            request
        } else {
            request.bearer_auth(&self.key)
        }
    }

    /// Sends it; `Err` when there was no answer at all.
    ///
    /// # Errors
    /// The transport's.
    pub async fn try_send(request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        let (client, request) = request.build_split();
        let request = request?;
        let call = format!("{} {}", request.method(), request.url().path());
        let response = client.execute(request).await?;
        Ok(Answer {
            call,
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await?,
        })
    }

    /// Sends it.
    ///
    /// # Panics
    /// When there was no answer.
    pub async fn send(request: reqwest::RequestBuilder) -> Answer {
        Self::try_send(request).await.expect("an answer")
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Answer {
        Self::send(self.request(Method::GET, path)).await
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Self::send(self.request(Method::POST, path).json(body)).await
    }

    /// Puts JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        Self::send(self.request(Method::PUT, path).json(body)).await
    }

    /// Deletes.
    pub async fn delete(&self, path: &str) -> Answer {
        Self::send(self.request(Method::DELETE, path)).await
    }

    /// Posts without a body.
    pub async fn act(&self, path: &str) -> Answer {
        Self::send(self.request(Method::POST, path)).await
    }

    /// Registers an event type that takes any object.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn register(&self, name: &str) {
        let answer = self.put(&format!("/event-types/{name}"), &json!({})).await;
        assert!(
            matches!(answer.status, 200 | 201),
            "{}: {}",
            answer.call,
            answer.text
        );
    }

    /// Subscribes and returns the subscription.
    pub async fn subscribe(&self, subscription: &Value) -> Value {
        self.post("/subscriptions", subscription).await.expect(201)
    }

    /// A subscription of the webhook provider.
    pub async fn subscribe_webhook(&self, events: &str, url: &str) -> Value {
        self.subscribe(&webhook(events, url)).await
    }

    /// Emits and returns the answer.
    pub async fn emit(&self, event: &Value) -> Value {
        self.post("/events", event).await.expect(202)
    }

    /// Emits to exactly one subscription and returns the delivery's id.
    ///
    /// # Panics
    /// When it is not one delivery.
    pub async fn emit_one(&self, event: &Value) -> String {
        let accepted = self.emit(event).await;
        assert_eq!(accepted["deliveries"], 1, "{accepted}");
        self.delivery_ids(&accepted).await.remove(0)
    }

    /// The ids of the deliveries of an accepted event.
    ///
    /// # Panics
    /// When the event cannot be read.
    pub async fn delivery_ids(&self, accepted: &Value) -> Vec<String> {
        let id = accepted["id"].as_str().expect("an event id");
        let event = self.get(&format!("/events/{id}")).await.expect(200);
        event["deliveries"]
            .as_array()
            .expect("deliveries")
            .iter()
            .map(|delivery| delivery["id"].as_str().expect("an id").to_owned())
            .collect()
    }

    /// The delivery with its attempts.
    pub async fn delivery(&self, id: &str) -> Value {
        self.get(&format!("/deliveries/{id}")).await.expect(200)
    }

    /// Waits until the delivery has that state and returns it.
    ///
    /// # Panics
    /// When it does not come to it.
    pub async fn delivery_in(&self, id: &str, state: &str) -> Value {
        let path = format!("/deliveries/{id}");
        self.until(&path, state, |delivery| delivery["state"] == state)
            .await
    }

    /// Waits until the delivery has that many attempts on record and returns it.
    ///
    /// # Panics
    /// When it does not come to it.
    pub async fn delivery_attempted(&self, id: &str, attempts: usize) -> Value {
        let path = format!("/deliveries/{id}");
        self.until(&path, &format!("{attempts} attempts"), |delivery| {
            delivery["attemptLog"]
                .as_array()
                .is_some_and(|log| log.len() >= attempts)
        })
        .await
    }

    /// Waits until the provider has that state and returns it.
    ///
    /// # Panics
    /// When it does not come to it.
    pub async fn provider_state(&self, id: &str, state: &str) -> Value {
        self.until(&format!("/providers/{id}"), state, |provider| {
            provider["state"] == state
        })
        .await
    }

    /// Waits until the document at `path` is as wanted and returns it.
    ///
    /// # Panics
    /// When it does not become so.
    pub async fn until(&self, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let answer = self.get(path).await;
            if answer.status == 200 {
                let document = answer.json();
                if wanted(&document) {
                    return document;
                }
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{path}: waited in vain for {what}; last seen: {} {}",
                answer.status,
                answer.text
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// A subscription of the webhook provider that retries at once, thrice.
#[must_use]
pub fn webhook(events: &str, url: &str) -> Value {
    json!({
        "name": format!("{events} to {url}"),
        "events": events,
        "provider": "webhook",
        "config": {"url": url},
        "retry": {"delaysMs": [50, 50, 50]}
    })
}

/// `base` with the members of `changes` replaced, objects inside too.
///
/// # Panics
/// When one of the two is not an object.
#[must_use]
pub fn with(mut base: Value, changes: Value) -> Value {
    merge(&mut base, changes);
    base
}

fn merge(base: &mut Value, changes: Value) {
    match (base, changes) {
        (Value::Object(base), Value::Object(changes)) => {
            for (name, value) in changes {
                merge(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, value) => *base = value,
    }
}
