//! A gateway for tests: scripted answers, recorded requests, real signatures. Native; no
//! WebAssembly, no network.
//!
//! It grants what the provider's description asks for, and denies every other host.

mod hosts;
mod sources;

pub use sources::TestWebhook;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::context::{Backend, Context, Level};
use crate::error::{DeliveryError, HttpError};
use crate::guest;
use crate::http::{Auth, Body, Piece, Pieces, Request, Response};
use crate::oauth2::{TokenError, TokenRequest};
use crate::provider::{
    Delivery, Event, OptionsRequest, Provider, Receipt, SelectOption, Subscription,
};
use crate::secret::{Encoding, KeyEncoding, Secret};

/// The time that a [`TestHost`] shows: 2024-01-01T00:00:00Z.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_067_200)
}

/// A request as the receiver would see it: secrets filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentRequest {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// The headers, names in lower case, `authorization` included.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The deadline asked for.
    pub timeout: Option<Duration>,
}

impl SentRequest {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An event to deliver in a test.
#[derive(Clone, Debug)]
pub struct TestEvent(Event);

impl TestEvent {
    /// An event of that type with a small payload, on its first attempt.
    pub fn new(event_type: &str) -> Self {
        Self(Event {
            id: "evt_01HK0000000000000000000000".into(),
            event_type: event_type.into(),
            payload_json: json!({"incident": {"id": 7, "title": "Disk full"}}).to_string(),
            timestamp: "2024-01-01T00:00:00.000Z".into(),
            delivery_id: "dlv_01HK0000000000000000000000".into(),
            attempt: 1,
            correlation_key: None,
            external_id: None,
        })
    }

    /// With another payload.
    pub fn payload(mut self, payload: &Value) -> Self {
        self.0.payload_json = payload.to_string();
        self
    }

    /// As a later attempt: the delivery id stays the same.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.0.attempt = attempt;
        self
    }

    /// As a follow-up of an earlier delivery that returned `external_id`.
    pub fn follow_up(mut self, correlation_key: &str, external_id: Option<&str>) -> Self {
        self.0.correlation_key = Some(correlation_key.into());
        self.0.external_id = external_id.map(Into::into);
        self
    }
}

/// What the provider of the current call may reach.
#[derive(Default)]
struct Grant {
    hosts: Vec<String>,
    config: Value,
    connection: Value,
}

/// The gateway's stand-in.
#[derive(Default)]
pub struct TestHost {
    answers: RefCell<VecDeque<Result<Response, HttpError>>>,
    requests: RefCell<Vec<SentRequest>>,
    secrets: RefCell<HashMap<String, String>>,
    logs: RefCell<Vec<(Level, String)>>,
    cache: RefCell<HashMap<String, Vec<u8>>>,
    tokens: RefCell<VecDeque<Result<String, TokenError>>>,
    token_requests: RefCell<Vec<TokenRequest>>,
    forgotten: RefCell<usize>,
    context: Value,
    grant: RefCell<Grant>,
    exposes: bool,
}

impl TestHost {
    /// With no answers yet: a request without a scripted answer fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Scripts the next answer.
    pub fn respond(self, status: u16, body: impl Into<Vec<u8>>) -> Self {
        self.respond_with(status, &[], body)
    }

    /// Scripts the next answer, with headers.
    pub fn respond_with(
        self,
        status: u16,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned()))
            .collect();
        self.answers.borrow_mut().push_back(Ok(Response {
            status,
            headers,
            body: body.into(),
        }));
        self
    }

    /// Scripts a failure in place of the next answer.
    pub fn fail(self, error: HttpError) -> Self {
        self.answers.borrow_mut().push_back(Err(error));
        self
    }

    /// Scripts an access token: the first is good until it is forgotten, then the second.
    pub fn token(self, token: &str) -> Self {
        self.tokens.borrow_mut().push_back(Ok(token.to_owned()));
        self
    }

    /// Scripts a failure in place of an access token.
    pub fn token_failure(self, error: TokenError) -> Self {
        self.tokens.borrow_mut().push_back(Err(error));
        self
    }

    /// Sets the form's values so far, for [`TestHost::options`].
    pub fn form(mut self, context: Value) -> Self {
        self.context = context;
        self
    }

    /// Grants [`Context::expose`].
    pub fn expose_secrets(mut self) -> Self {
        self.exposes = true;
        self
    }

    /// What to put into a config or connection where a secret belongs.
    pub fn secret(&self, value: &str) -> Value {
        let mut secrets = self.secrets.borrow_mut();
        let handle = format!("test#{}", secrets.len());
        secrets.insert(handle.clone(), value.to_owned());
        json!({ "$secret": handle })
    }

    /// Delivers an event as the gateway would.
    ///
    /// # Errors
    /// What the provider returned, or that a document does not fit its type.
    pub fn deliver<P: Provider>(
        &self,
        config: &Value,
        connection: Option<&Value>,
        event: &TestEvent,
    ) -> Result<Receipt, DeliveryError> {
        self.grant::<P>(config, connection);
        let delivery = Delivery::<P> {
            event: event.0.clone(),
            subscription: Subscription {
                id: "sub_01HK0000000000000000000000".into(),
                name: "Test".into(),
            },
            config: guest::parse("config", &config.to_string())
                .map_err(DeliveryError::permanent)?,
            connection: connection
                .map(|value| guest::parse("connection", &value.to_string()))
                .transpose()
                .map_err(DeliveryError::permanent)?,
        };
        P::deliver(&Context::new(self), &delivery)
    }

    /// Tests a connection.
    ///
    /// # Errors
    /// What the provider returned, or that the document does not fit its type.
    pub fn test_connection<P: Provider>(&self, connection: &Value) -> Result<String, String> {
        self.grant::<P>(&Value::Null, Some(connection));
        let connection = guest::parse("connection", &connection.to_string())?;
        P::test_connection(&Context::new(self), &connection)
    }

    /// Asks for the entries of a dropdown.
    ///
    /// # Errors
    /// What the provider returned, or that the document does not fit its type.
    pub fn options<P: Provider>(
        &self,
        resolver: &str,
        connection: Option<&Value>,
        search: Option<&str>,
    ) -> Result<Vec<SelectOption>, String> {
        self.grant::<P>(&Value::Null, connection);
        let request = OptionsRequest {
            resolver: resolver.into(),
            connection: connection
                .map(|value| guest::parse("connection", &value.to_string()))
                .transpose()?,
            context: match &self.context {
                Value::Null => json!({}),
                context => context.clone(),
            },
            search: search.map(Into::into),
        };
        P::options(&Context::new(self), &request)
    }

    /// The requests sent so far.
    pub fn requests(&self) -> Vec<SentRequest> {
        self.requests.borrow().clone()
    }

    /// The access tokens asked for so far.
    pub fn token_requests(&self) -> Vec<TokenRequest> {
        self.token_requests.borrow().clone()
    }

    /// How often a token was dropped.
    pub fn tokens_forgotten(&self) -> usize {
        *self.forgotten.borrow()
    }

    /// The lines logged so far.
    pub fn logs(&self) -> Vec<(Level, String)> {
        self.logs.borrow().clone()
    }

    /// The schema that the gateway would show for a config or connection type.
    pub fn schema<T: schemars::JsonSchema>() -> Option<Value> {
        guest::schema_of::<T>()
    }

    fn grant<P: Provider>(&self, config: &Value, connection: Option<&Value>) {
        *self.grant.borrow_mut() = Grant {
            hosts: P::describe().hosts,
            config: config.clone(),
            connection: connection.cloned().unwrap_or_default(),
        };
    }

    fn is_granted(&self, url: &str) -> bool {
        let grant = self.grant.borrow();
        hosts::allowed(&grant.hosts, &grant.config, &grant.connection, url)
    }

    fn value(&self, secret: &Secret) -> Result<String, String> {
        self.secrets
            .borrow()
            .get(secret.handle())
            .cloned()
            .ok_or_else(|| format!("no secret is set for {}", secret.handle()))
    }

    fn fill(&self, pieces: &Pieces) -> Result<String, HttpError> {
        let mut filled = String::new();
        for piece in &pieces.0 {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Secret(secret, encoding) => {
                    let value = self.value(secret).map_err(HttpError::Invalid)?;
                    filled.push_str(&encode(&value, *encoding));
                }
            }
        }
        Ok(filled)
    }
}

fn encode(value: &str, encoding: Encoding) -> String {
    match encoding {
        Encoding::Raw => value.to_owned(),
        Encoding::Percent => value
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect(),
        Encoding::JsonString => {
            let quoted = Value::from(value).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        }
    }
}

impl Backend for TestHost {
    fn send(&self, request: Request) -> Result<Response, HttpError> {
        let mut headers = Vec::new();
        for (name, value) in &request.headers {
            headers.push((name.to_ascii_lowercase(), self.fill(value)?));
        }
        let credentials = match &request.auth {
            None => None,
            Some(Auth::Bearer(secret)) => Some(format!(
                "Bearer {}",
                self.value(secret).map_err(HttpError::Invalid)?
            )),
            Some(Auth::Basic(user, secret)) => {
                let password = self.value(secret).map_err(HttpError::Invalid)?;
                Some(format!(
                    "Basic {}",
                    STANDARD.encode(format!("{user}:{password}"))
                ))
            }
        };
        if let Some(credentials) = credentials {
            headers.push(("authorization".into(), credentials));
        }
        let url = self.fill(&request.url)?;
        if !self.is_granted(&url) {
            let authority: Vec<_> = url.splitn(4, '/').take(3).collect();
            return Err(HttpError::Denied(format!(
                "{} is not among the hosts that the description asks for",
                authority.join("/")
            )));
        }
        self.requests.borrow_mut().push(SentRequest {
            method: request.method,
            url,
            headers,
            body: match request.body {
                Body::Empty => Vec::new(),
                Body::Bytes(bytes) => bytes,
                Body::Pieces(pieces) => self.fill(&pieces)?.into_bytes(),
            },
            timeout: request.timeout,
        });
        let answer = self.answers.borrow_mut().pop_front();
        answer.unwrap_or_else(|| {
            Err(HttpError::Network(
                "the test scripted no answer to this request".into(),
            ))
        })
    }

    fn hmac_sha256(
        &self,
        secret: &Secret,
        data: &[u8],
        key: KeyEncoding,
    ) -> Result<Vec<u8>, String> {
        const LENIENT: GeneralPurpose = GeneralPurpose::new(
            &alphabet::STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let text = self.value(secret)?;
        let key = match key {
            KeyEncoding::Raw => text.into_bytes(),
            KeyEncoding::Base64 => LENIENT
                .decode(text.strip_prefix("whsec_").unwrap_or(&text))
                .map_err(|_| "the secret is not base64".to_owned())?,
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|error| error.to_string())?;
        mac.update(data);
        Ok(mac.finalize().into_bytes().to_vec())
    }

    fn expose(&self, secret: &Secret) -> Result<String, String> {
        if self.exposes {
            self.value(secret)
        } else {
            Err("secret.expose is not granted to this provider".into())
        }
    }

    fn log(&self, level: Level, message: &str) {
        self.logs.borrow_mut().push((level, message.to_owned()));
    }

    fn cache_get(&self, key: &str) -> Option<Vec<u8>> {
        self.cache.borrow().get(key).cloned()
    }

    fn cache_set(&self, key: &str, value: &[u8], _: Duration) -> bool {
        self.cache
            .borrow_mut()
            .insert(key.to_owned(), value.to_vec());
        true
    }

    fn cache_delete(&self, key: &str) {
        self.cache.borrow_mut().remove(key);
    }

    fn oauth2_token(&self, request: &TokenRequest) -> Result<Secret, TokenError> {
        if !self.is_granted(&request.token_url) {
            return Err(TokenError::Denied(
                "the token endpoint is not among the hosts that the description asks for".into(),
            ));
        }
        self.token_requests.borrow_mut().push(request.clone());
        let next = self.tokens.borrow().front().cloned();
        let token =
            next.unwrap_or_else(|| Err(TokenError::Network("the test scripted no token".into())))?;
        let marker = self.secret(&token);
        Ok(serde_json::from_value(marker).expect("invariant: a marker"))
    }

    fn oauth2_forget(&self, _: &TokenRequest) {
        *self.forgotten.borrow_mut() += 1;
        self.tokens.borrow_mut().pop_front();
    }

    fn now(&self) -> SystemTime {
        now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Description, NoConnection};

    struct Fixed;

    impl Provider for Fixed {
        type Config = Secret;
        type Connection = NoConnection;

        fn describe() -> Description {
            Description::new("Fixed", "Sends to the URL that is its config").host("example.com")
        }

        fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
            let mac = ctx
                .hmac_sha256(
                    &delivery.config,
                    b"what do ya want for nothing?",
                    KeyEncoding::Raw,
                )
                .map_err(DeliveryError::permanent)?;
            ctx.info(format!("{:02x}{:02x}", mac[0], mac[31]));
            assert!(ctx.cache_set("key", b"value", Duration::from_secs(1)));
            ctx.send(Request::post(&delivery.config))?;
            Ok(Receipt::default())
        }
    }

    fn deliver(host: &TestHost, url: &str) -> Result<Receipt, DeliveryError> {
        host.deliver::<Fixed>(&host.secret(url), None, &TestEvent::new("a.b"))
    }

    #[test]
    fn a_host_that_is_not_described_is_denied() {
        let host = TestHost::new().respond(200, "");
        let error = deliver(&host, "https://evil.test/path?token=1").expect_err("denied");
        assert_eq!(error.retry, crate::Retry::Never);
        assert!(
            error.message.contains("https://evil.test is not among"),
            "{error}"
        );
        assert!(!error.message.contains("token"), "{error}");
        assert!(host.requests().is_empty());
        deliver(&host, "https://example.com/path").expect("granted");
        assert_eq!(host.requests()[0].url, "https://example.com/path");
    }

    #[test]
    fn signatures_are_real() {
        // RFC 4231, section 4.3: test case 2.
        let host = TestHost::new();
        let _ = deliver(&host, "Jefe");
        assert_eq!(host.logs()[0], (Level::Info, "5b43".into()));
    }

    #[test]
    fn a_request_without_an_answer_fails() {
        let error = deliver(&TestHost::new(), "https://example.com/").expect_err("no answer");
        assert_eq!(error.retry, crate::Retry::Default);
    }
}
