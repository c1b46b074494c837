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

/// World `source`.
pub mod source {
    wit_bindgen::generate!({
        path: "../wit",
        world: "source",
        with: {
            "hookport:provider/types@0.1.0": crate::bindings::hookport::provider::types,
            "hookport:provider/secrets@0.1.0": crate::bindings::hookport::provider::secrets,
            "hookport:provider/log@0.1.0": crate::bindings::hookport::provider::log,
        },
        pub_export_macro: true,
        export_macro_name: "export_source_world",
        default_bindings_module: "hookport_sdk::bindings::source",
    });
}

/// World `transform`.
pub mod transform {
    wit_bindgen::generate!({
        path: "../wit",
        world: "transform",
        with: {
            "hookport:provider/types@0.1.0": crate::bindings::hookport::provider::types,
            "hookport:provider/log@0.1.0": crate::bindings::hookport::provider::log,
        },
        pub_export_macro: true,
        export_macro_name: "export_transform_world",
        default_bindings_module: "hookport_sdk::bindings::transform",
    });
}

/// World `preinitialized`.
pub mod preinitialized {
    wit_bindgen::generate!({
        path: "../wit",
        world: "preinitialized",
        pub_export_macro: true,
        export_macro_name: "export_preinitialized_world",
        default_bindings_module: "hookport_sdk::bindings::preinitialized",
    });
}
