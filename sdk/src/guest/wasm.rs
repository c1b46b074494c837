//! The WebAssembly side: conversions, and the gateway as a backend.

use std::time::{Duration, SystemTime};

use crate::bindings as wit;
use crate::bindings::hookport::provider::{cache, http, log, oauth2, secrets};
use crate::context::{Backend, Context, Level};
use crate::error::{HttpError, Retry};
use crate::http::{Auth, Body, Piece, Pieces, Request, Response};
use crate::oauth2::{ClientAuth, TokenError, TokenRequest};
use crate::provider::{Delivery, DocumentKind, Event, OptionsRequest, Provider, Subscription};
use crate::secret::{Encoding, KeyEncoding, Secret};

pub fn describe<P: Provider>(id: &str, version: &str) -> wit::Descriptor {
    let description = P::describe();
    let versioned = |version, schema: serde_json::Value| wit::VersionedSchema {
        version,
        schema: schema.to_string(),
    };
    let config = super::schema_of::<P::Config>().unwrap_or_else(|| serde_json::json!({}));
    wit::Descriptor {
        id: id.into(),
        name: description.name,
        description: description.description,
        icon: description.icon,
        version: version.into(),
        events: description.events,
        documentation: wit::Documentation {
            setup_guide: description.setup_guide,
            example_payload: description.example_payload.map(|value| value.to_string()),
            headers: description.headers,
            link: description.link,
        },
        config: versioned(P::CONFIG_VERSION, config),
        connection: super::schema_of::<P::Connection>()
            .map(|schema| versioned(P::CONNECTION_VERSION, schema)),
        permissions: wit::Permissions {
            hosts: description.hosts,
            expose_secrets: description.expose_secrets,
        },
    }
}

pub fn deliver<P: Provider>(delivery: wit::Delivery) -> Result<wit::Receipt, wit::DeliveryError> {
    let misfit = |message| wit::DeliveryError {
        message,
        retry: wit::Retry::Never,
    };
    let delivery = Delivery::<P> {
        config: super::parse("config", &delivery.config).map_err(misfit)?,
        connection: delivery
            .connection
            .map(|json| super::parse("connection", &json))
            .transpose()
            .map_err(misfit)?,
        event: Event {
            id: delivery.event.id,
            event_type: delivery.event.event_type,
            payload_json: delivery.event.payload,
            timestamp: delivery.event.timestamp,
            delivery_id: delivery.event.delivery_id,
            attempt: delivery.event.attempt,
            correlation_key: delivery.event.correlation_key,
            external_id: delivery.event.external_id,
        },
        subscription: Subscription {
            id: delivery.subscription.id,
            name: delivery.subscription.name,
        },
    };
    match P::deliver(&Context::new(&Gateway), &delivery) {
        Ok(receipt) => Ok(wit::Receipt {
            external_id: receipt.external_id,
            summary: receipt.summary,
        }),
        Err(error) => Err(wit::DeliveryError {
            message: error.message,
            retry: match error.retry {
                Retry::Default => wit::Retry::Default,
                Retry::After(wait) => {
                    wit::Retry::After(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
                }
                Retry::Never => wit::Retry::Never,
            },
        }),
    }
}

pub fn test_connection<P: Provider>(connection: &str) -> Result<String, String> {
    let connection = super::parse("connection", connection)?;
    P::test_connection(&Context::new(&Gateway), &connection)
}

pub fn options<P: Provider>(
    request: wit::OptionsRequest,
) -> Result<Vec<wit::SelectOption>, String> {
    let request = OptionsRequest {
        resolver: request.resolver,
        connection: request
            .connection
            .map(|json| super::parse("connection", &json))
            .transpose()?,
        context: super::parse("context", &request.context)?,
        search: request.search,
    };
    let options = P::options(&Context::new(&Gateway), &request)?;
    Ok(options
        .into_iter()
        .map(|option| wit::SelectOption {
            value: option.value,
            label: option.label,
        })
        .collect())
}

pub fn migrate<P: Provider>(
    kind: wit::DocumentKind,
    from_version: u32,
    document: &str,
) -> Result<String, String> {
    let kind = match kind {
        wit::DocumentKind::Config => DocumentKind::Config,
        wit::DocumentKind::Connection => DocumentKind::Connection,
    };
    let document = super::parse("document", document)?;
    P::migrate(kind, from_version, document).map(|value| value.to_string())
}

/// The gateway, through the imports.
pub(super) struct Gateway;

fn resource(secret: &Secret) -> Result<secrets::Secret, String> {
    secrets::get(secret.handle()).ok_or_else(|| format!("no secret is set for {}", secret.handle()))
}

/// The secrets of one request as resources, which the request then borrows.
struct Resources(Vec<(String, secrets::Secret)>);

impl Resources {
    fn of(request: &Request) -> Result<Self, HttpError> {
        let in_body = match &request.body {
            Body::Pieces(pieces) => pieces.0.as_slice(),
            Body::Empty | Body::Bytes(_) => &[],
        };
        let in_headers = request.headers.iter().flat_map(|(_, value)| &value.0);
        let in_auth = request.auth.as_ref().map(|auth| match auth {
            Auth::Bearer(secret) | Auth::Basic(_, secret) => secret,
        });
        let secrets = request
            .url
            .0
            .iter()
            .chain(in_headers)
            .chain(in_body)
            .filter_map(|piece| match piece {
                Piece::Secret(secret, _) => Some(secret),
                Piece::Text(_) => None,
            })
            .chain(in_auth);
        let mut resources = Self(Vec::new());
        for secret in secrets {
            if resources.find(secret).is_none() {
                let found = resource(secret).map_err(HttpError::Invalid)?;
                resources.0.push((secret.handle().into(), found));
            }
        }
        Ok(resources)
    }

    fn find(&self, secret: &Secret) -> Option<&secrets::Secret> {
        let at = self
            .0
            .iter()
            .find(|(handle, _)| handle == secret.handle())?;
        Some(&at.1)
    }

    fn get(&self, secret: &Secret) -> Result<&secrets::Secret, HttpError> {
        self.find(secret)
            .ok_or_else(|| HttpError::Invalid("a secret is missing".into()))
    }

    fn segments<'a>(&'a self, pieces: Pieces) -> Result<Vec<http::Segment<'a>>, HttpError> {
        pieces
            .0
            .into_iter()
            .map(|piece| {
                Ok(match piece {
                    Piece::Text(text) => http::Segment::Text(text),
                    Piece::Secret(secret, encoding) => http::Segment::Secret(http::SecretSlot {
                        secret: self.get(&secret)?,
                        encoding: match encoding {
                            Encoding::Raw => http::SecretEncoding::Raw,
                            Encoding::Percent => http::SecretEncoding::Percent,
                            Encoding::JsonString => http::SecretEncoding::JsonString,
                        },
                    }),
                })
            })
            .collect()
    }
}

fn refresh_token(request: &TokenRequest) -> Result<Option<secrets::Secret>, String> {
    request.refresh_token.as_ref().map(resource).transpose()
}

fn token_request<'a>(
    request: &TokenRequest,
    client_secret: &'a secrets::Secret,
    refresh_token: Option<&'a secrets::Secret>,
) -> oauth2::TokenRequest<'a> {
    oauth2::TokenRequest {
        token_url: request.token_url.clone(),
        client_id: request.client_id.clone(),
        client_secret,
        auth: match request.client_auth {
            ClientAuth::Body => oauth2::ClientAuth::Body,
            ClientAuth::Basic => oauth2::ClientAuth::Basic,
        },
        grant: match refresh_token {
            Some(token) => oauth2::Grant::RefreshToken(token),
            None => oauth2::Grant::ClientCredentials,
        },
        scopes: request.scopes.clone(),
        parameters: request.parameters.clone(),
    }
}

impl Backend for Gateway {
    fn send(&self, request: Request) -> Result<Response, HttpError> {
        let resources = Resources::of(&request)?;
        let outgoing = http::Request {
            method: request.method,
            url: resources.segments(request.url)?,
            headers: request
                .headers
                .into_iter()
                .map(|(name, value)| Ok((name, resources.segments(value)?)))
                .collect::<Result<_, HttpError>>()?,
            auth: match &request.auth {
                None => None,
                Some(Auth::Bearer(secret)) => Some(http::Auth::Bearer(resources.get(secret)?)),
                Some(Auth::Basic(user, secret)) => {
                    Some(http::Auth::Basic((user.clone(), resources.get(secret)?)))
                }
            },
            body: match request.body {
                Body::Empty => http::Body::Empty,
                Body::Bytes(bytes) => http::Body::Bytes(bytes),
                Body::Pieces(pieces) => http::Body::Segments(resources.segments(pieces)?),
            },
            timeout_ms: request
                .timeout
                .map(|timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)),
            follow_redirects: request.follow_redirects,
        };
        match http::send(&outgoing) {
            Ok(response) => Ok(Response {
                status: response.status,
                headers: response.headers,
                body: response.body,
            }),
            Err(error) => Err(match error {
                http::Error::Denied(text) => HttpError::Denied(text),
                http::Error::Invalid(text) => HttpError::Invalid(text),
                http::Error::Limit(text) => HttpError::Limit(text),
                http::Error::Network(text) => HttpError::Network(text),
                http::Error::Timeout => HttpError::Timeout,
            }),
        }
    }

    fn hmac_sha256(
        &self,
        secret: &Secret,
        data: &[u8],
        key: KeyEncoding,
    ) -> Result<Vec<u8>, String> {
        let encoding = match key {
            KeyEncoding::Raw => secrets::KeyEncoding::Raw,
            KeyEncoding::Base64 => secrets::KeyEncoding::Base64,
        };
        resource(secret)?.hmac_sha256(data, encoding)
    }

    fn expose(&self, secret: &Secret) -> Result<String, String> {
        resource(secret)?.expose()
    }

    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::write(level, message);
    }

    fn cache_get(&self, key: &str) -> Option<Vec<u8>> {
        cache::get(key)
    }

    fn cache_set(&self, key: &str, value: &[u8], ttl: Duration) -> bool {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        cache::set(key, value, ttl_ms)
    }

    fn cache_delete(&self, key: &str) {
        cache::delete(key);
    }

    fn oauth2_token(&self, request: &TokenRequest) -> Result<Secret, TokenError> {
        let client_secret = resource(&request.client_secret).map_err(TokenError::Invalid)?;
        let refresh_token = refresh_token(request).map_err(TokenError::Invalid)?;
        let outgoing = token_request(request, &client_secret, refresh_token.as_ref());
        oauth2::token(&outgoing)
            .map(Secret::of_handle)
            .map_err(|error| match error {
                oauth2::Error::Denied(text) => TokenError::Denied(text),
                oauth2::Error::Invalid(text) => TokenError::Invalid(text),
                oauth2::Error::Limit(text) => TokenError::Limit(text),
                oauth2::Error::Network(text) => TokenError::Network(text),
                oauth2::Error::Timeout => TokenError::Timeout,
                oauth2::Error::Refused(text) => TokenError::Refused(text),
                oauth2::Error::Unavailable((status, after_ms)) => TokenError::Unavailable {
                    status,
                    retry_after: after_ms.map(Duration::from_millis),
                },
            })
    }

    fn oauth2_forget(&self, request: &TokenRequest) {
        let (Ok(client_secret), Ok(refresh_token)) =
            (resource(&request.client_secret), refresh_token(request))
        else {
            return;
        };
        oauth2::forget(&token_request(
            request,
            &client_secret,
            refresh_token.as_ref(),
        ));
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "inside the sandbox this is the clock that the gateway lends"
    )]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
