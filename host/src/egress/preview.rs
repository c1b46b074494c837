//! A call whose requests are recorded instead of sent.
//!
//! What a real request is refused for without looking at the network is refused here, too: its
//! form, and hosts that are not granted. Names are not resolved and nothing is opened.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::client::{check_message, check_target, parse_url};
use super::{EgressBody, EgressError, EgressPolicy, EgressRequest, EgressResponse};

/// What stands where a credential stood.
const MASK: &str = "[secret]";

/// A request that would have been sent, credentials masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer that the guest gets instead of the receiver's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptedAnswer {
    /// The status.
    pub status: StatusCode,
    /// The body: JSON.
    pub body: String,
}

impl Default for ScriptedAnswer {
    /// What most APIs answer when they have nothing to say.
    fn default() -> Self {
        Self {
            status: StatusCode::OK,
            body: r#"{"ok":true}"#.to_owned(),
        }
    }
}

/// The requests of one call.
#[derive(Debug, Default)]
pub struct Preview {
    requests: Mutex<Vec<RecordedRequest>>,
    answers: Mutex<VecDeque<ScriptedAnswer>>,
}

impl Preview {
    /// With the answers to the first requests; the rest get the default one.
    #[must_use]
    pub fn new(answers: Vec<ScriptedAnswer>) -> Self {
        Self {
            requests: Mutex::default(),
            answers: Mutex::new(answers.into()),
        }
    }

    /// What would have been sent so far.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.clone()
    }

    /// Records a request, its text masked by `mask`, and answers it.
    ///
    /// # Errors
    /// What the request would have been refused for.
    pub async fn send(
        &self,
        policy: &EgressPolicy,
        request: EgressRequest,
        mask: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Result<EgressResponse, EgressError> {
        let url = parse_url(&request.url)?;
        check_message(&request.method, &request.headers)?;
        check_target(policy, &url)?;
        let body = match request.body {
            EgressBody::Bytes(bytes) => bytes.to_vec(),
            EgressBody::Stream(stream) => stream
                .map_ok(|chunk| chunk.to_vec())
                .try_concat()
                .await
                .map_err(|error| EgressError::Limit(error.to_string()))?,
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(&mask(bytes)).into_owned();
        let headers = request.headers.iter().map(|(name, value)| {
            let value = if value.is_sensitive() {
                MASK.to_owned()
            } else {
                text(value.as_bytes())
            };
            (name.as_str().to_owned(), value)
        });
        let recorded = RecordedRequest {
            method: request.method.to_string(),
            url: text(url.as_str().as_bytes()),
            headers: headers.collect(),
            body: mask(&body),
        };
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.push(recorded);
        drop(requests);
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answers.pop_front().unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        Ok(EgressResponse {
            status: answer.status,
            headers,
            body: futures_util::stream::once(async move { Ok(Bytes::from(answer.body)) }).boxed(),
        })
    }
}
