//! The one sender behind both HTTP imports.
//!
//! The URL is parsed once. A literal address is checked here; a name is resolved once, by
//! [`GuardedResolver`], which hands the connector only addresses that passed. There is one
//! connection pool for each provider and set of allowed addresses, so that a pooled connection
//! can never serve a policy that would not have opened it.

use std::collections::HashMap;
use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::Instant;
use url::{Host, Url};

use super::address::prohibited;
use super::{EgressBody, EgressError, EgressLimits, EgressPolicy, EgressRequest, EgressResponse};
use crate::domain::provider::ProviderId;

const REDIRECTS_MAX: usize = 5;
const POOLS_MAX: usize = 256;
const IDLE_CONNECTIONS_PER_HOST_MAX: usize = 512;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const URL_BYTES_MAX: usize = 16 * 1024;

/// Headers that belong to the connection, not to the message (RFC 9110, section 7.6.1), and
/// `host`, which the gateway sets.
const REFUSED_HEADERS: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Operator settings.
#[derive(Clone, Debug, Default)]
pub struct EgressConfig {
    /// Certificates trusted beside the system's, PEM.
    pub extra_roots_pem: Vec<Vec<u8>>,
}

/// Egress cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The extra certificates are no PEM.
    #[error("egress.extra_ca_file holds no readable PEM certificate: {0}")]
    Certificate(#[source] reqwest::Error),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    provider: ProviderId,
    allow_addresses: Arc<[IpNet]>,
}

struct Pool {
    client: reqwest::Client,
    used: u64,
}

#[derive(Default)]
struct Pools {
    by_key: HashMap<PoolKey, Pool>,
    uses: u64,
}

/// Sends requests for guests under a policy.
pub struct Egress {
    roots: Vec<reqwest::Certificate>,
    pools: Mutex<Pools>,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").finish_non_exhaustive()
    }
}

impl Egress {
    /// Sets up without opening anything.
    ///
    /// # Errors
    /// When an extra certificate cannot be read.
    pub fn new(config: &EgressConfig) -> Result<Self, SetupError> {
        // Fails only when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let roots = config
            .extra_roots_pem
            .iter()
            .map(|pem| reqwest::Certificate::from_pem_bundle(pem))
            .collect::<Result<Vec<_>, _>>()
            .map_err(SetupError::Certificate)?
            .concat();
        Ok(Self {
            roots,
            pools: Mutex::default(),
        })
    }

    /// Sends one request, following redirects when asked.
    ///
    /// # Errors
    /// Each kind of [`EgressError`]; after the headers have come, the body's stream reports.
    ///
    /// # Cancel safety
    /// Dropping the future or the body closes the exchange; the request may have been received.
    pub async fn send(
        &self,
        policy: &EgressPolicy,
        limits: EgressLimits,
        request: EgressRequest,
    ) -> Result<EgressResponse, EgressError> {
        let deadline = Instant::now() + limits.timeout;
        let mut url = parse_url(&request.url)?;
        let EgressRequest {
            mut method,
            mut headers,
            body,
            follow_redirects,
            ..
        } = request;
        check_message(&method, &headers)?;
        let client = self.client(policy)?;
        let mut body = match body {
            EgressBody::Bytes(bytes) => {
                headers.remove(header::CONTENT_LENGTH);
                Replay::Bytes(bytes)
            }
            EgressBody::Stream(stream) => Replay::Once(Some(stream)),
        };
        for _ in 0..=REDIRECTS_MAX {
            check_target(policy, &url)?;
            let mut outgoing = reqwest::Request::new(method.clone(), url.clone());
            let target = if follow_redirects {
                *outgoing.headers_mut() = headers.clone();
                None
            } else {
                *outgoing.headers_mut() = std::mem::take(&mut headers);
                Some(())
            };
            *outgoing.body_mut() = body.take();
            let response = tokio::time::timeout_at(deadline, client.execute(outgoing))
                .await
                .map_err(|_| EgressError::Timeout(limits.timeout))?
                .map_err(|error| explain(&error, &url, limits.timeout))?;
            let next = match target {
                None => redirect_target(&response, &url)?,
                Some(()) => None,
            };
            let Some(next) = next else {
                return receive(response, limits, deadline);
            };
            if !rewrite_for_redirect(response.status(), &mut method, &mut headers, &mut body) {
                return receive(response, limits, deadline);
            }
            if next.origin() != url.origin() {
                drop_credentials(&mut headers);
            }
            url = next;
        }
        Err(EgressError::Limit(format!(
            "more than {REDIRECTS_MAX} redirects"
        )))
    }

    fn client(&self, policy: &EgressPolicy) -> Result<reqwest::Client, EgressError> {
        let key = PoolKey {
            provider: policy.provider.clone(),
            allow_addresses: policy.allow_addresses.clone(),
        };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.uses += 1;
        let uses = pools.uses;
        if let Some(pool) = pools.by_key.get_mut(&key) {
            pool.used = uses;
            return Ok(pool.client.clone());
        }
        if pools.by_key.len() >= POOLS_MAX {
            let oldest = pools.by_key.iter().min_by_key(|(_, pool)| pool.used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                pools.by_key.remove(&oldest);
            }
        }
        let client = self.build_client(&key)?;
        let pool = Pool {
            client: client.clone(),
            used: uses,
        };
        pools.by_key.insert(key, pool);
        Ok(client)
    }

    fn build_client(&self, key: &PoolKey) -> Result<reqwest::Client, EgressError> {
        reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST_MAX)
            .dns_resolver(GuardedResolver {
                allow_addresses: key.allow_addresses.clone(),
            })
            .tls_certs_merge(self.roots.iter().cloned())
            .build()
            .map_err(|error| {
                EgressError::Network(format!("TLS cannot be set up: {}", root_cause(&error)))
            })
    }
}

/// A body that may have to be sent again.
enum Replay {
    Bytes(Bytes),
    Once(Option<futures_util::stream::BoxStream<'static, Result<Bytes, std::io::Error>>>),
}

impl Replay {
    fn take(&mut self) -> Option<reqwest::Body> {
        match self {
            Self::Bytes(bytes) if bytes.is_empty() => None,
            Self::Bytes(bytes) => Some(bytes.clone().into()),
            Self::Once(stream) => stream.take().map(reqwest::Body::wrap_stream),
        }
    }
}

pub(super) fn parse_url(text: &str) -> Result<Url, EgressError> {
    if text.len() > URL_BYTES_MAX {
        return Err(EgressError::Invalid(format!(
            "the URL is longer than {URL_BYTES_MAX} bytes"
        )));
    }
    let url = Url::parse(text)
        .map_err(|error| EgressError::Invalid(format!("not an absolute URL: {error}")))?;
    check_form(&url)?;
    Ok(url)
}

fn check_form(url: &Url) -> Result<(), EgressError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(EgressError::Denied(format!(
            "scheme {:?}: only http and https are allowed",
            url.scheme()
        )));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(EgressError::Denied(
            "user info in a URL is not allowed: use basic authentication".to_owned(),
        ));
    }
    Ok(())
}

pub(super) fn check_message(method: &Method, headers: &HeaderMap) -> Result<(), EgressError> {
    if *method == Method::CONNECT {
        return Err(EgressError::Denied(
            "the CONNECT method is not allowed".to_owned(),
        ));
    }
    match REFUSED_HEADERS
        .iter()
        .find(|name| headers.contains_key(*name))
    {
        Some(name) => Err(EgressError::Invalid(format!(
            "the header {name} is set by the gateway"
        ))),
        None => Ok(()),
    }
}

/// Authority as shown in messages: no path, no query.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

pub(super) fn check_target(policy: &EgressPolicy, url: &Url) -> Result<(), EgressError> {
    if !policy.hosts.iter().any(|pattern| pattern.matches(url)) {
        return Err(EgressError::Denied(format!(
            "{} is not among the granted hosts",
            authority(url)
        )));
    }
    let literal = match url.host() {
        Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
        Some(Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
        Some(Host::Domain(_)) | None => None,
    };
    match literal.and_then(|ip| Some((ip, prohibited(ip, &policy.allow_addresses)?))) {
        Some((ip, why)) => Err(EgressError::Denied(prohibited_text(&[(ip, why)], ""))),
        None => Ok(()),
    }
}

fn prohibited_text(found: &[(IpAddr, &'static str)], name: &str) -> String {
    let of = if name.is_empty() {
        String::new()
    } else {
        format!("{name} resolves to ")
    };
    match found.first() {
        Some((ip, why)) => format!(
            "{of}the prohibited address {ip} ({why}); an admin can open it with allowAddresses in the grant"
        ),
        None => format!("{name} resolves to no address"),
    }
}

/// Where a redirect leads, if the answer is one.
fn redirect_target(response: &reqwest::Response, from: &Url) -> Result<Option<Url>, EgressError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(header::LOCATION) else {
        return Ok(None);
    };
    let next = location
        .to_str()
        .ok()
        .and_then(|text| from.join(text).ok())
        .ok_or_else(|| EgressError::Network("the redirect's location is no URL".to_owned()))?;
    check_form(&next)?;
    if from.scheme() == "https" && next.scheme() == "http" {
        return Err(EgressError::Denied(
            "a redirect from https to http is not followed".to_owned(),
        ));
    }
    Ok(Some(next))
}

/// Prepares the next request (RFC 9110, section 15.4); false when the body cannot be sent again.
fn rewrite_for_redirect(
    status: StatusCode,
    method: &mut Method,
    headers: &mut HeaderMap,
    body: &mut Replay,
) -> bool {
    let to_get = match status.as_u16() {
        303 => *method != Method::HEAD,
        301 | 302 => *method == Method::POST,
        _ => false,
    };
    if to_get {
        *method = Method::GET;
        *body = Replay::Bytes(Bytes::new());
        for name in [
            header::CONTENT_ENCODING,
            header::CONTENT_LANGUAGE,
            header::CONTENT_LENGTH,
            header::CONTENT_LOCATION,
            header::CONTENT_TYPE,
        ] {
            headers.remove(name);
        }
    }
    !matches!(body, Replay::Once(None))
}

/// Removes what must not reach another authority: the usual credentials and every header that
/// the caller marked as sensitive.
fn drop_credentials(headers: &mut HeaderMap) {
    let sensitive: Vec<HeaderName> = headers
        .iter()
        .filter(|(_, value)| value.is_sensitive())
        .map(|(name, _)| name.clone())
        .chain([header::AUTHORIZATION, header::COOKIE])
        .collect();
    for name in sensitive {
        headers.remove(name);
    }
}

fn receive(
    mut response: reqwest::Response,
    limits: EgressLimits,
    deadline: Instant,
) -> Result<EgressResponse, EgressError> {
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    let header_bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if header_bytes > limits.response_header_bytes_max {
        return Err(EgressError::Limit(format!(
            "the response's headers are larger than {} bytes",
            limits.response_header_bytes_max
        )));
    }
    let stream = response.bytes_stream();
    let body = futures_util::stream::unfold(Some((stream, 0_usize)), move |state| async move {
        let (mut stream, received) = state?;
        match tokio::time::timeout_at(deadline, stream.next()).await {
            Err(_) => Some((Err(EgressError::Timeout(limits.timeout)), None)),
            Ok(None) => None,
            Ok(Some(Err(error))) => Some((
                Err(EgressError::Network(format!(
                    "the response broke off: {}",
                    root_cause(&error)
                ))),
                None,
            )),
            Ok(Some(Ok(chunk))) => {
                let received = received.saturating_add(chunk.len());
                if received > limits.response_bytes_max {
                    let error = EgressError::Limit(format!(
                        "the response is larger than {} bytes",
                        limits.response_bytes_max
                    ));
                    return Some((Err(error), None));
                }
                Some((Ok(chunk), Some((stream, received))))
            }
        }
    });
    Ok(EgressResponse {
        status,
        headers,
        body: body.boxed(),
    })
}

/// What the resolver found prohibited; travels through the connector's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct DeniedAddress(String);

fn explain(error: &reqwest::Error, url: &Url, timeout: Duration) -> EgressError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(denied) = cause.downcast_ref::<DeniedAddress>() {
            return EgressError::Denied(denied.0.clone());
        }
        source = cause.source();
    }
    let at = authority(url);
    if error.is_timeout() {
        return EgressError::Timeout(if error.is_connect() {
            CONNECT_TIMEOUT
        } else {
            timeout
        });
    }
    let doing = if error.is_connect() {
        "cannot connect to"
    } else {
        "no valid answer from"
    };
    EgressError::Network(format!("{doing} {at}: {}", root_cause(error)))
}

/// The innermost cause: the outer ones quote the URL.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if cause.is::<reqwest::Error>() {
        return "the connection failed".to_owned();
    }
    cause.to_string()
}

/// Resolves a name once and passes on only the addresses that may be reached.
struct GuardedResolver {
    allow_addresses: Arc<[IpNet]>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_addresses = self.allow_addresses.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let (mut passed, mut refused) = (Vec::new(), Vec::new());
            for address in found {
                match prohibited(address.ip(), &allow_addresses) {
                    None => passed.push(address),
                    Some(why) => refused.push((address.ip(), why)),
                }
            }
            if passed.is_empty() {
                return Err(DeniedAddress(prohibited_text(&refused, name.as_str())).into());
            }
            Ok(Box::new(passed.into_iter()) as Addrs)
        })
    }
}
