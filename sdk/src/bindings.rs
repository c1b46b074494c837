//! Generated from `wit/provider.wit`; the only place with unsafe code.

#![allow(
    missing_docs,
    unsafe_code,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated"
)]

wit_bindgen::generate!({
    path: "../wit",
    world: "provider",
    pub_export_macro: true,
    export_macro_name: "export_provider",
    default_bindings_module: "hookport_sdk::bindings",
});

pub use hookport::provider::types::*;
