//! A component whose description is data that a test writes over: one build gives components of
//! any id, version and permissions. The data is JSON after a marker, padded with spaces:
//! `{"id", "version", "hosts", "expose", "schema", "spin"}`.
//!
//! `deliver` answers with its version; with `{"url": …}` in its config it makes a GET there first.

#![cfg(target_family = "wasm")]

use hookport_sdk::bindings as wit;
use hookport_sdk::bindings::hookport::provider::http;
use hookport_sdk::serde_json::{self, Value};

const MARKER: &str = "hookport-shape:";
const SHAPE_BYTES: usize = 2_048;

static SHAPE: [u8; SHAPE_BYTES] = {
    let text = br#"hookport-shape:{"id":"shape","version":"1.0.0"}"#;
    let mut bytes = [b' '; SHAPE_BYTES];
    let mut i = 0;
    while i < text.len() {
        bytes[i] = text[i];
        i += 1;
    }
    bytes
};

fn shape() -> Value {
    // Hidden from the optimiser, which would otherwise fold the unpatched text into the code.
    let bytes = std::hint::black_box(&SHAPE);
    serde_json::from_slice(&bytes[MARKER.len()..]).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

struct Shape;

impl wit::Guest for Shape {
    fn describe() -> wit::Descriptor {
        let shape = shape();
        if shape["spin"] == true {
            loop {
                std::hint::spin_loop();
            }
        }
        let schema = match &shape["schema"] {
            Value::Null => "{}".to_owned(),
            schema => schema.to_string(),
        };
        let hosts = shape["hosts"].as_array().cloned().unwrap_or_default();
        wit::Descriptor {
            id: text(&shape["id"]),
            name: "Shape".to_owned(),
            description: "A test component.".to_owned(),
            icon: "shapes".to_owned(),
            version: text(&shape["version"]),
            events: Vec::new(),
            documentation: wit::Documentation {
                setup_guide: String::new(),
                example_payload: None,
                headers: Vec::new(),
                link: None,
            },
            config: wit::VersionedSchema { version: 1, schema },
            connection: None,
            permissions: wit::Permissions {
                hosts: hosts.iter().map(text).collect(),
                expose_secrets: shape["expose"] == true,
            },
        }
    }

    fn deliver(delivery: wit::Delivery) -> Result<wit::Receipt, wit::DeliveryError> {
        let version = text(&shape()["version"]);
        let config: Value = serde_json::from_str(&delivery.config).unwrap_or_default();
        let summary = match config["url"].as_str() {
            Some(url) => format!("{version} {}", get(url)?),
            None => version,
        };
        Ok(wit::Receipt {
            external_id: None,
            summary,
        })
    }

    fn test_connection(_connection: String) -> Result<String, String> {
        Ok(text(&shape()["version"]))
    }

    fn get_connection_options(
        _request: wit::OptionsRequest,
    ) -> Result<Vec<wit::SelectOption>, String> {
        Ok(Vec::new())
    }

    fn migrate_config(
        _kind: wit::DocumentKind,
        _from_version: u32,
        document: String,
    ) -> Result<String, String> {
        Ok(document)
    }
}

fn get(url: &str) -> Result<u16, wit::DeliveryError> {
    let request = http::Request {
        method: "GET".to_owned(),
        url: vec![http::Segment::Text(url.to_owned())],
        headers: Vec::new(),
        auth: None,
        body: http::Body::Empty,
        timeout_ms: None,
        follow_redirects: false,
    };
    match http::send(&request) {
        Ok(response) => Ok(response.status),
        Err(error) => Err(wit::DeliveryError {
            message: format!("{error:?}"),
            retry: wit::Retry::Default,
        }),
    }
}

hookport_sdk::bindings::export_provider!(Shape with_types_in hookport_sdk::bindings);
