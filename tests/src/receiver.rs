//! A receiver that remembers every request and answers as its script says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use crate::PATIENCE;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// When its body was complete.
    pub at: Instant,
    /// POST, most often.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The status that was answered.
    pub answered: u16,
}

impl Received {
    /// A header's value, or "".
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    delay: Duration,
}

impl Reply {
    /// A status and no body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: String::new(),
            delay: Duration::ZERO,
        }
    }

    /// 200.
    #[must_use]
    pub fn ok() -> Self {
        Self::status(200)
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// 200 and JSON.
    #[must_use]
    pub fn json(body: &Value) -> Self {
        Self::ok()
            .header("content-type", "application/json; charset=utf-8")
            .body(body.to_string())
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Not before so long.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// The receiver; it ends with the test's runtime.
#[derive(Clone)]
pub struct Receiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Received>>>,
    count: watch::Receiver<usize>,
}

impl Receiver {
    /// Answers 200.
    pub async fn ok() -> Self {
        Self::start(|_, _| Reply::ok()).await
    }

    /// Answers `status` to the first `times` requests, then 200.
    pub async fn failing(times: usize, status: u16) -> Self {
        Self::start(move |index, _| {
            if index < times {
                Reply::status(status)
            } else {
                Reply::ok()
            }
        })
        .await
    }

    /// Answers as `script` says, which gets the number of requests before this one.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(script: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (tell, count) = watch::channel(0);
        let shared = Arc::new((script, requests.clone(), tell));
        let router = Router::new().fallback(async move |request: Request| {
            let (script, requests, tell) = &*shared;
            let (parts, body) = request.into_parts();
            let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
                return Response::new(Body::empty());
            };
            let reply = {
                let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
                let mut received = Received {
                    at: Instant::now(),
                    method: parts.method,
                    path: parts.uri.to_string(),
                    headers: parts.headers,
                    body,
                    answered: 0,
                };
                let reply = script(requests.len(), &received);
                received.answered = reply.status;
                requests.push(received);
                tell.send_replace(requests.len());
                reply
            };
            tokio::time::sleep(reply.delay).await;
            let mut response = Response::builder().status(reply.status);
            for (name, value) in &reply.headers {
                response = response.header(*name, value);
            }
            response
                .body(Body::from(reply.body))
                .expect("a valid script")
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            address,
            requests,
            count,
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL at this receiver.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Everything received so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for at least `count` requests and returns all.
    ///
    /// # Panics
    /// When they do not come.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        let mut seen = self.count.clone();
        let waited = tokio::time::timeout(PATIENCE, seen.wait_for(|seen| *seen >= count)).await;
        let requests = self.requests();
        assert!(
            matches!(waited, Ok(Ok(_))),
            "waited in vain for {count} requests, {} came",
            requests.len()
        );
        requests
    }

    /// Gives a wrong request the time to come, and returns all.
    pub async fn settled(&self) -> Vec<Received> {
        tokio::time::sleep(Duration::from_millis(700)).await;
        self.requests()
    }
}
