//! Everything a Hookport provider is built from.
//!
//! A provider is one type that implements [`Provider`], exported with [`export!`]. It is compiled
//! to a WebAssembly component (`cargo build --target wasm32-wasip2 --release`) and dropped into
//! the gateway's providers directory. Tests run natively against [`testing::TestHost`]; they need
//! neither WebAssembly nor a gateway.
//!
//! The smallest provider that does something:
//!
//! ```
//! use hookport_sdk::prelude::*;
//!
//! /// What a subscription sets.
//! #[derive(Deserialize, JsonSchema)]
//! struct Config {
//!     /// Where to post.
//!     url: String,
//!     /// Sent as a bearer token. The provider never sees its text.
//!     token: Secret,
//! }
//!
//! struct Notify;
//!
//! impl Provider for Notify {
//!     type Config = Config;
//!     type Connection = NoConnection;
//!
//!     fn describe() -> Description {
//!         Description::new("Notify", "Posts the payload to a URL").host("{config.url}")
//!     }
//!
//!     fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
//!         let request = Request::post(delivery.config.url.as_str())
//!             .bearer(&delivery.config.token)
//!             .json_text(delivery.event.payload_json.as_str());
//!         let response = ctx.send(request)?.error_for_status(ctx)?;
//!         Ok(Receipt::new(format!("answered {}", response.status)))
//!     }
//! }
//!
//! hookport_sdk::export!(Notify, id: "notify");
//!
//! // In a test:
//! use hookport_sdk::testing::{TestHost, TestEvent};
//! let host = TestHost::new().respond(204, "");
//! let config = serde_json::json!({
//!     "url": "https://example.com/in",
//!     "token": host.secret("s3cr3t"),
//! });
//! let receipt = host.deliver::<Notify>(&config, None, &TestEvent::new("incident.created")).unwrap();
//! assert_eq!(receipt.summary, "answered 204");
//! assert_eq!(host.requests()[0].header("authorization"), Some("Bearer s3cr3t"));
//! ```

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;
mod clock;
mod context;
mod describe;
mod error;
#[doc(hidden)]
pub mod guest;
mod http;
mod oauth2;
mod provider;
mod secret;
mod source;
pub mod template;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use clock::rfc3339_of_unix_ms;
pub use context::{CacheKey, Context, Level};
pub use describe::Description;
pub use error::{DeliveryError, HttpError, Retry};
pub use http::{Auth, Body, Piece, Pieces, Request, Response};
pub use oauth2::{ClientAuth, TokenError, TokenRequest};
pub use provider::{
    Delivery, DocumentKind, Event, NoConnection, OptionsRequest, Provider, Receipt, SelectOption,
    Subscription,
};
pub use secret::{Encoding, KeyEncoding, Secret};
pub use source::{Language, NormalizeError, NormalizedEvent, Source, Webhook};

/// Re-exported so that a provider needs no version of its own.
pub use {base64, schemars, serde, serde_json};

/// What nearly every provider uses.
pub mod prelude {
    pub use schemars::JsonSchema;
    pub use serde::Deserialize;

    pub use crate::{
        Context, Delivery, DeliveryError, Description, DocumentKind, Encoding, Event, HttpError,
        NoConnection, OptionsRequest, Pieces, Provider, Receipt, Request, Response, Retry, Secret,
        SelectOption,
    };
}

/// Makes a type that implements [`Provider`] the exports of this component.
///
/// `id` is the provider's identifier: 1 to 64 characters of `a`–`z`, `0`–`9` and `-`, starting
/// with a letter. Also embeds the section `hookport-manifest` (JSON: id, crate version, version
/// of the contract), which tells a host what this is without running it. On other targets than
/// WebAssembly the macro only checks the identifier:
///
/// ```compile_fail
/// # use hookport_sdk::prelude::*;
/// # struct Notify;
/// # impl Provider for Notify {
/// #     type Config = serde_json::Value;
/// #     type Connection = NoConnection;
/// #     fn describe() -> Description { Description::new("Notify", "") }
/// #     fn deliver(_: &Context, _: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
/// #         Ok(Receipt::default())
/// #     }
/// # }
/// hookport_sdk::export!(Notify, id: "Not an id");
/// ```
#[macro_export]
macro_rules! export {
    ($provider:ty, id: $id:literal) => {
        const _: () = $crate::guest::check_id($id);

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            impl $crate::bindings::Guest for Component {
                fn describe() -> $crate::bindings::Descriptor {
                    $crate::guest::wasm::describe::<$provider>($id, env!("CARGO_PKG_VERSION"))
                }
                fn deliver(
                    delivery: $crate::bindings::Delivery,
                ) -> Result<$crate::bindings::Receipt, $crate::bindings::DeliveryError> {
                    $crate::guest::wasm::deliver::<$provider>(delivery)
                }
                fn test_connection(connection: String) -> Result<String, String> {
                    $crate::guest::wasm::test_connection::<$provider>(&connection)
                }
                fn get_connection_options(
                    request: $crate::bindings::OptionsRequest,
                ) -> Result<Vec<$crate::bindings::SelectOption>, String> {
                    $crate::guest::wasm::options::<$provider>(request)
                }
                fn migrate_config(
                    kind: $crate::bindings::DocumentKind,
                    from_version: u32,
                    document: String,
                ) -> Result<String, String> {
                    $crate::guest::wasm::migrate::<$provider>(kind, from_version, &document)
                }
            }

    $crate::bindings::export_provider!(Component with_types_in $crate::bindings);

            $crate::manifest!($id, "provider");
        };
    };
}

/// Makes a type that implements [`Source`] the exports of this component: an inbound source.
///
/// `id` as in [`export!`]; providers and sources share one set of identifiers.
#[macro_export]
macro_rules! export_source {
    ($source:ty, id: $id:literal) => {
        const _: () = $crate::guest::check_id($id);

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            impl $crate::bindings::source::Guest for Component {
                fn describe() -> $crate::bindings::Descriptor {
                    $crate::guest::source::describe::<$source>($id, env!("CARGO_PKG_VERSION"))
                }
                fn verify(webhook: $crate::bindings::source::Webhook) -> Result<(), String> {
                    $crate::guest::source::verify::<$source>(webhook)
                }
                fn normalize(
                    webhook: $crate::bindings::source::Webhook,
                ) -> Result<
                    Vec<$crate::bindings::source::NormalizedEvent>,
                    $crate::bindings::source::NormalizeError,
                > {
                    $crate::guest::source::normalize::<$source>(webhook)
                }
            }

            $crate::bindings::source::export_source_world!(
                Component with_types_in $crate::bindings::source
            );

            $crate::manifest!($id, "source");
        };
    };
}

/// Makes a type that implements [`Language`] the exports of this component.
///
/// `id` as in [`export!`].
#[macro_export]
macro_rules! export_language {
    ($language:ty, id: $id:literal) => {
        const _: () = $crate::guest::check_id($id);

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            impl $crate::bindings::transform::Guest for Component {
                fn describe() -> $crate::bindings::Descriptor {
                    $crate::guest::source::describe_language::<$language>(
                        $id,
                        env!("CARGO_PKG_VERSION"),
                    )
                }
                fn check(program: String) -> Result<(), String> {
                    <$language as $crate::Language>::check(&program)
                }
                fn run(
                    program: String,
                    input: String,
                    outputs_max: u32,
                ) -> Result<Vec<String>, String> {
                    $crate::guest::source::run::<$language>(&program, &input, outputs_max)
                }
            }

            $crate::bindings::transform::export_transform_world!(
                Component with_types_in $crate::bindings::transform
            );

            $crate::manifest!($id, "transform");
        };
    };
}

/// Names the function that `hookport provider preinitialize` runs when the component is built: what
/// it leaves in memory (a `thread_local`, a `static`) every call finds ready. It must not look at
/// the time, draw random numbers, print or log: there is nobody to answer, and what it saw would
/// be the same in every call.
///
/// ```
/// fn prepare() { /* parse tables, set up an interpreter */ }
/// hookport_sdk::preinitialize!(prepare);
/// ```
#[macro_export]
macro_rules! preinitialize {
    ($prepare:path) => {
        const _: fn() = $prepare;

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Prepared;

            impl $crate::bindings::preinitialized::Guest for Prepared {
                fn wizer_initialize() {
                    $prepare();
                }
            }

            $crate::bindings::preinitialized::export_preinitialized_world!(
                Prepared with_types_in $crate::bindings::preinitialized
            );
        };
    };
}

/// The section `hookport-manifest`.
#[doc(hidden)]
#[macro_export]
macro_rules! manifest {
    ($id:literal, $world:literal) => {
        const MANIFEST: &str = concat!(
            "{\"id\":\"",
            $id,
            "\",\"version\":\"",
            env!("CARGO_PKG_VERSION"),
            "\",\"contract\":\"hookport:provider@0.1.0\",\"world\":\"",
            $world,
            "\"}"
        );
        #[expect(
            unsafe_code,
            reason = "naming a custom section counts as unsafe; wasm ignores unknown sections"
        )]
        #[unsafe(link_section = "hookport-manifest")]
        #[used]
        static SECTION: [u8; MANIFEST.len()] = {
            let mut bytes = [0; MANIFEST.len()];
            let mut i = 0;
            while i < bytes.len() {
                bytes[i] = MANIFEST.as_bytes()[i];
                i += 1;
            }
            bytes
        };
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_guide_shows_the_example_as_it_is() {
        let guide = include_str!("../../docs/guide/README.md");
        assert!(guide.contains(include_str!("../examples/tickets.rs")));
    }
}
