//! What the registry tells.

use crate::domain::provider::{ComponentReport, ProviderId};

/// What the rest of the gateway may want to know.
#[derive(Clone, Debug, PartialEq)]
pub enum RegistryEvent {
    /// The set of serving components, or what they may do, is another.
    Changed,
    /// A component serves: a new one, or in the place of another.
    Serving {
        /// The provider.
        provider: ProviderId,
        /// The component.
        report: ComponentReport,
    },
    /// A component serves no more, and no other one in its place.
    Stopped {
        /// The provider.
        provider: ProviderId,
        /// The component, as it served.
        report: ComponentReport,
        /// What stands against a call now.
        reason: String,
    },
    /// A component cannot be used: the operational event `hookport.provider.failed`.
    Failed {
        /// The provider whose file it is, where that is known.
        provider: Option<ProviderId>,
        /// What and why.
        report: ComponentReport,
    },
    /// A component asks for more than is granted.
    AwaitingGrant {
        /// The provider.
        provider: ProviderId,
        /// What is missing: host patterns, `exposeSecrets`.
        missing: Vec<String>,
        /// The component.
        report: ComponentReport,
    },
}
