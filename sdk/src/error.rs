//! What can go wrong, and whether trying again helps.

use std::fmt;
use std::time::Duration;

/// When a failed delivery is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// By the subscription's schedule.
    Default,
    /// Not before this long.
    After(Duration),
    /// Another attempt cannot succeed.
    Never,
}

/// A failed delivery: one sentence for the delivery log, and whether trying again helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryError {
    /// What happened, and what to mend where the admin can.
    pub message: String,
    /// When to try again.
    pub retry: Retry,
}

impl DeliveryError {
    /// A failure that may pass: tried again by the subscription's schedule.
    pub fn transient(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            retry: Retry::Default,
        }
    }

    /// A failure that repeating cannot mend: a wrong setting, a refused credential.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            retry: Retry::Never,
        }
    }

    /// The receiver asks to wait.
    pub fn after(wait: Duration, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            retry: Retry::After(wait),
        }
    }
}

impl fmt::Display for DeliveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeliveryError {}

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The host is outside the granted permissions, or its address is prohibited.
    #[error("{0}")]
    Denied(String),
    /// The request cannot be sent as it is.
    #[error("{0}")]
    Invalid(String),
    /// A cap on calls or sizes was met.
    #[error("{0}")]
    Limit(String),
    /// Name resolution, connection, TLS or protocol.
    #[error("{0}")]
    Network(String),
    /// No complete answer in time.
    #[error("the request timed out")]
    Timeout,
}

impl From<HttpError> for DeliveryError {
    /// Network errors and timeouts are tried again; what was denied or is malformed is not.
    fn from(error: HttpError) -> Self {
        let retry = match error {
            HttpError::Denied(_) | HttpError::Invalid(_) => Retry::Never,
            HttpError::Limit(_) | HttpError::Network(_) | HttpError::Timeout => Retry::Default,
        };
        Self {
            message: error.to_string(),
            retry,
        }
    }
}
