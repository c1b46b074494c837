//! Access tokens that the gateway fetches, caches and never shows.

use std::time::Duration;

use crate::error::DeliveryError;
use crate::secret::Secret;

/// How the client identifies itself at the token endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// `client_id` and `client_secret` in the body.
    #[default]
    Body,
    /// HTTP Basic (RFC 6749, section 2.3.1).
    Basic,
}

/// A request for an access token (RFC 6749).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// Absolute, of a granted host.
    pub token_url: String,
    /// The client's identifier.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Secret,
    /// Where id and secret are put.
    pub client_auth: ClientAuth,
    /// The refresh token; without one the grant is `client_credentials`.
    pub refresh_token: Option<Secret>,
    /// Scopes asked for.
    pub scopes: Vec<String>,
    /// Further parameters, such as `audience`.
    pub parameters: Vec<(String, String)>,
}

impl TokenRequest {
    /// By client credentials (RFC 6749, section 4.4).
    pub fn client_credentials(
        token_url: impl Into<String>,
        client_id: impl Into<String>,
        client_secret: &Secret,
    ) -> Self {
        Self {
            token_url: token_url.into(),
            client_id: client_id.into(),
            client_secret: client_secret.clone(),
            client_auth: ClientAuth::default(),
            refresh_token: None,
            scopes: Vec::new(),
            parameters: Vec::new(),
        }
    }

    /// By a refresh token (RFC 6749, section 6).
    pub fn refresh(mut self, token: &Secret) -> Self {
        self.refresh_token = Some(token.clone());
        self
    }

    /// One scope more.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// One parameter more.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// With HTTP Basic instead of the body.
    pub fn basic(mut self) -> Self {
        self.client_auth = ClientAuth::Basic;
        self
    }
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The host is outside the granted permissions, or its address is prohibited.
    #[error("{0}")]
    Denied(String),
    /// The request cannot be sent as it is.
    #[error("{0}")]
    Invalid(String),
    /// A cap on calls or sizes was met.
    #[error("{0}")]
    Limit(String),
    /// Name resolution, connection, TLS or protocol; or an answer that is no token.
    #[error("{0}")]
    Network(String),
    /// No complete answer in time.
    #[error("the token endpoint did not answer in time")]
    Timeout,
    /// The server refused the credentials.
    #[error("the token endpoint refused the credentials: {0}")]
    Refused(String),
    /// The server cannot answer now.
    #[error("the token endpoint answered {status}")]
    Unavailable {
        /// HTTP status.
        status: u16,
        /// What it asks to wait.
        retry_after: Option<Duration>,
    },
}

impl From<TokenError> for DeliveryError {
    /// What was denied, is malformed or was refused is not tried again.
    fn from(error: TokenError) -> Self {
        let message = error.to_string();
        match error {
            TokenError::Denied(_) | TokenError::Invalid(_) | TokenError::Refused(_) => {
                Self::permanent(message)
            }
            TokenError::Unavailable {
                retry_after: Some(wait),
                ..
            } => Self::after(wait, message),
            TokenError::Limit(_)
            | TokenError::Network(_)
            | TokenError::Timeout
            | TokenError::Unavailable { .. } => Self::transient(message),
        }
    }
}
