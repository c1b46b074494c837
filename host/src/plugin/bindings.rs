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
