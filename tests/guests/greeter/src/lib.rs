//! A small provider that asks for the authority of its own URL.

use hookport_sdk::prelude::*;

/// What a subscription sets.
#[derive(Deserialize, JsonSchema)]
#[serde(crate = "hookport_sdk::serde")]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct Config {
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

    fn describe() -> Description {
        Description::new("Greeter", "Posts a greeting").host("{config.url}")
    }

    fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
        let config = &delivery.config;
        let mut request = Request::post(config.url.as_str()).header("x-greeter", "1");
        if let Some(token) = &config.token {
            request = request.bearer(token);
        }
        ctx.send(request)?.error_for_status(ctx)?;
        Ok(Receipt::new("greeted"))
    }
}

hookport_sdk::export!(Greeter, id: "greeter");
