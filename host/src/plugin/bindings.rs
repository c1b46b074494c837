//! The generated host side of `wit/provider.wit`, fenced in here.

pub use super::state::SecretHandle;

wasmtime::component::bindgen!({
    path: "../wit",
    world: "provider",
    imports: { default: async | trappable },
    exports: { default: async },
    with: {
        "hookport:provider/secrets.secret": SecretHandle,
    },
    require_store_data_send: true,
});

/// World `source`; its imports are those of `provider`.
pub mod source {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "source",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "hookport:provider/types": super::hookport::provider::types,
            "hookport:provider/secrets": super::hookport::provider::secrets,
            "hookport:provider/log": super::hookport::provider::log,
        },
        require_store_data_send: true,
    });
}

/// World `transform`; its imports are those of `provider`.
pub mod transform {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "transform",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "hookport:provider/types": super::hookport::provider::types,
            "hookport:provider/log": super::hookport::provider::log,
        },
        require_store_data_send: true,
    });
}
