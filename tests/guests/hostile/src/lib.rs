//! A provider that attacks its host. The document of a call chooses the attack:
//! `{"mode": "…", "url"?: "…", "secret"?: x-secret, "count"?: n, "key"?: n}`.
//!
//! `describe` has no document: a test that wants it to trap writes `trap` over `calm` in the
//! binary. The SDK is left aside where it would be in the way.

#![cfg(target_family = "wasm")]

mod betray;
mod burn;
mod flood;
mod reach;
mod remember;
mod token;

use hookport_sdk::bindings as wit;
use hookport_sdk::serde_json::{self, Value};

static DESCRIBE: [u8; 26] = *b"hookport-hostile-plan:calm";

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "mode": {"type": "string"},
        "url": {"type": "string"},
        "secret": {"type": "string", "x-secret": true},
        "count": {"type": "integer"},
        "key": {"type": "integer"},
        "redirects": {"type": "boolean"}
    },
    "required": ["mode"]
}"#;

/// What an attack ends with, if it ends: a summary, or an error.
type Outcome = Result<String, String>;

/// What the test asks for.
struct Plan(Value);

impl Plan {
    fn parse(json: &str) -> Self {
        Self(serde_json::from_str(json).unwrap_or_default())
    }

    fn mode(&self) -> &str {
        self.0["mode"].as_str().unwrap_or_default()
    }

    fn url(&self) -> &str {
        self.0["url"].as_str().unwrap_or_default()
    }

    fn count(&self) -> u64 {
        self.0["count"].as_u64().unwrap_or(1)
    }

    fn key(&self) -> u64 {
        self.0["key"].as_u64().unwrap_or_default()
    }

    fn redirects(&self) -> bool {
        self.0["redirects"] == true
    }

    fn secret(&self) -> Result<wit::hookport::provider::secrets::Secret, String> {
        let handle = self.0["secret"]["$secret"].as_str().unwrap_or_default();
        wit::hookport::provider::secrets::get(handle).ok_or_else(|| "no such secret".to_owned())
    }

    fn carry_out(&self) -> Outcome {
        match self.mode() {
            "calm" => Ok("calm".to_owned()),
            "trap" => panic!("trapped on purpose"),
            "spin" => burn::spin(),
            "copy" => burn::copy(),
            "allocate" => burn::allocate(),
            "recurse" => burn::recurse(),
            "long answer" => Ok(flood::long_text()),
            "long log line" => flood::long_log_line(),
            "log" => flood::log(self.count()),
            "stdout" => flood::stdout(self.count()),
            "handles" => flood::handles(self),
            "headers" => flood::headers(self),
            "wasi headers" => flood::wasi_headers(),
            "send" => reach::repeat(self.count(), || reach::send(self)),
            "wasi send" => reach::repeat(self.count(), || reach::wasi_send(self)),
            "send for ever" => reach::for_ever(|| reach::send(self)),
            "wasi send for ever" => reach::for_ever(|| reach::wasi_send(self)),
            "sleep" => reach::sleep(),
            "ambient" => Ok(reach::ambient(self)),
            "plant" => Ok(remember::plant(self.key())),
            "look" => Ok(remember::look(self.key())),
            "token" => token::lend(self),
            "forget token" => token::forget(self),
            "expose" => betray::expose(self),
            "betray in log" => betray::in_log(self),
            "betray in stdout" => betray::in_stdout(self),
            "betray in receipt" => betray::secret_back(self),
            "betray in error" => Err(betray::secret_back(self)?),
            "betray in panic" => panic!("{}", betray::secret_back(self)?),
            "betray in document" => betray::in_document(self),
            other => Err(format!("no mode {other:?}")),
        }
    }
}

struct Hostile;

impl wit::Guest for Hostile {
    fn describe() -> wit::Descriptor {
        // Hidden from the optimiser, which would fold the unpatched text into the code.
        if std::hint::black_box(&DESCRIBE).ends_with(b"trap") {
            panic!("trapped on purpose");
        }
        wit::Descriptor {
            id: "hostile".to_owned(),
            name: "Hostile".to_owned(),
            description: "Attacks its host.".to_owned(),
            icon: "skull".to_owned(),
            version: "1.0.0".to_owned(),
            events: Vec::new(),
            documentation: wit::Documentation {
                setup_guide: String::new(),
                example_payload: None,
                headers: Vec::new(),
                link: None,
            },
            config: wit::VersionedSchema {
                version: 1,
                schema: SCHEMA.to_owned(),
            },
            connection: None,
            permissions: wit::Permissions {
                hosts: vec!["{config.url}".to_owned()],
                expose_secrets: true,
            },
        }
    }

    fn deliver(delivery: wit::Delivery) -> Result<wit::Receipt, wit::DeliveryError> {
        match Plan::parse(&delivery.config).carry_out() {
            Ok(summary) => Ok(wit::Receipt {
                external_id: Some(summary.chars().take(100).collect()),
                summary,
            }),
            Err(message) => Err(wit::DeliveryError {
                message,
                retry: wit::Retry::Default,
            }),
        }
    }

    fn test_connection(connection: String) -> Result<String, String> {
        Plan::parse(&connection).carry_out()
    }

    fn get_connection_options(
        request: wit::OptionsRequest,
    ) -> Result<Vec<wit::SelectOption>, String> {
        let value = Plan::parse(&request.context).carry_out()?;
        Ok(vec![wit::SelectOption {
            label: value.clone(),
            value,
        }])
    }

    fn migrate_config(
        _kind: wit::DocumentKind,
        _from_version: u32,
        document: String,
    ) -> Result<String, String> {
        Plan::parse(&document).carry_out()
    }
}

hookport_sdk::bindings::export_provider!(Hostile with_types_in hookport_sdk::bindings);
