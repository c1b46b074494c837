//! Version 3 of the provider `greeter`: its config has another form, to which stored ones are
//! migrated. What a config says under `onMigration` happens when it is.

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::{Value, json};

/// What a subscription sets.
#[derive(Deserialize, JsonSchema)]
#[serde(crate = "hookport_sdk::serde", deny_unknown_fields)]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct Config {
    /// Whom to greet.
    pub target: Target,
}

/// Whom to greet.
#[derive(Deserialize, JsonSchema)]
#[serde(crate = "hookport_sdk::serde", deny_unknown_fields)]
#[schemars(crate = "hookport_sdk::schemars", inline)]
pub struct Target {
    /// Where to post.
    pub url: String,
    /// Credentials.
    pub token: Option<Secret>,
}

/// The provider.
pub struct Greeter;

impl Provider for Greeter {
    type Config = Config;
    type Connection = NoConnection;

    const CONFIG_VERSION: u32 = 2;

    fn describe() -> Description {
        Description::new("Greeter", "Posts a greeting").host("{config.target.url}")
    }

    fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
        let target = &delivery.config.target;
        let mut request = Request::post(target.url.as_str()).header("x-greeter", "3");
        if let Some(token) = &target.token {
            request = request.bearer(token);
        }
        ctx.send(request)?.error_for_status(ctx)?;
        Ok(Receipt::new("greeted"))
    }

    fn migrate(_: DocumentKind, from_version: u32, document: Value) -> Result<Value, String> {
        if from_version != 1 {
            return Err(format!("there is no version {from_version}"));
        }
        let target = json!({"url": document["url"], "token": document["token"]});
        match document["onMigration"].as_str() {
            Some("fail") => Err("the greeting cannot be kept".to_owned()),
            Some("trap") => std::process::abort(),
            Some("nonsense") => Ok(json!({"target": 7})),
            Some("foreign") => Ok(
                json!({"target": {"url": document["url"], "token": {"$secret": "config#/other"}}}),
            ),
            Some("public") => Ok(json!({"target": {"url": document["token"]}})),
            _ => Ok(json!({"target": target})),
        }
    }
}

hookport_sdk::export!(Greeter, id: "greeter");
