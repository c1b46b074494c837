//! Opens a ticket for each event.

use hookport_sdk::prelude::*;
use hookport_sdk::template::Templates;
use serde_json::json;

/// What a subscription sets.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The queue that the ticket goes to.
    #[schemars(extend("x-options-resolver" = "queues", "x-searchable" = true))]
    pub queue: String,
    /// Template of the title.
    pub title_template: String,
}

/// Shared by all subscriptions: where the ticket system is, and its key.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connection {
    /// For example `https://tickets.example.com`.
    #[schemars(extend("format" = "uri"))]
    pub base_url: String,
    /// From the ticket system's settings. The provider never sees its text.
    pub api_key: Secret,
}

/// The provider.
pub struct Tickets;

impl Provider for Tickets {
    type Config = Config;
    type Connection = Connection;

    fn describe() -> Description {
        Description::new("Tickets", "Opens a ticket for each event")
            .icon("ticket")
            .host("{connection.baseUrl}")
            .setup_guide("Create an API key in the ticket system and enter it in a connection.")
    }

    fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
        let connection = delivery
            .connection
            .as_ref()
            .ok_or_else(|| DeliveryError::permanent("the subscription has no connection"))?;
        let title = Templates::new(delivery)?
            .text("config.titleTemplate", &delivery.config.title_template)?;
        let request = Request::post(url(connection, "/tickets"))
            .bearer(&connection.api_key)
            .header("idempotency-key", delivery.event.delivery_id.as_str())
            .json(&json!({"queue": delivery.config.queue, "title": title}));
        let response = ctx.send(request)?.error_for_status(ctx)?;

        #[derive(Deserialize)]
        struct Created {
            id: String,
        }
        let created: Created = response.json()?;
        Ok(Receipt::new(format!("opened ticket {}", created.id)).external_id(created.id))
    }

    fn test_connection(ctx: &Context, connection: &Connection) -> Result<String, String> {
        let request = Request::get(url(connection, "/me")).bearer(&connection.api_key);
        let response = ctx.send(request).map_err(|error| error.to_string())?;
        match response.status {
            200 => Ok("The ticket system accepts the key.".into()),
            401 | 403 => Err("The ticket system refuses the key: enter a valid one.".into()),
            status => Err(format!("The ticket system answered {status}.")),
        }
    }

    fn options(
        ctx: &Context,
        request: &OptionsRequest<Connection>,
    ) -> Result<Vec<SelectOption>, String> {
        let connection = request
            .connection
            .as_ref()
            .ok_or("Choose a connection first.")?;
        let list = Request::get(url(connection, "/queues"))
            .query("search", request.search.as_deref().unwrap_or(""))
            .bearer(&connection.api_key);
        let response = ctx
            .send(list)
            .map_err(DeliveryError::from)
            .and_then(|response| response.error_for_status(ctx))
            .map_err(|error| error.message)?;
        let names: Vec<String> = response.json().map_err(|error| error.message)?;
        Ok(names
            .into_iter()
            .map(|name| SelectOption::new(name.clone(), name))
            .collect())
    }
}

fn url(connection: &Connection, path: &str) -> String {
    format!("{}{path}", connection.base_url.trim_end_matches('/'))
}

hookport_sdk::export!(Tickets, id: "tickets");

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hookport_sdk::testing::{TestEvent, TestHost};
    use serde_json::Value;

    use super::*;

    fn connection(host: &TestHost) -> Value {
        json!({"baseUrl": "https://tickets.example.com/", "apiKey": host.secret("k-1")})
    }

    fn config() -> Value {
        json!({"queue": "ops", "titleTemplate": "{{ event.type }}: {{ payload.incident.title }}"})
    }

    #[test]
    fn opens_a_ticket() {
        let host = TestHost::new().respond(201, r#"{"id": "T-7"}"#);
        let event = TestEvent::new("incident.created");
        let receipt = host
            .deliver::<Tickets>(&config(), Some(&connection(&host)), &event)
            .expect("delivered");
        assert_eq!(receipt.external_id.as_deref(), Some("T-7"));
        let request = &host.requests()[0];
        assert_eq!(request.url, "https://tickets.example.com/tickets");
        assert_eq!(request.header("authorization"), Some("Bearer k-1"));
        assert_eq!(request.json()["title"], "incident.created: Disk full");
    }

    #[test]
    fn names_what_is_wrong_in_a_template() {
        let host = TestHost::new();
        let config = json!({"queue": "ops", "titleTemplate": "{{ payload.incident.titel }}"});
        let error = host
            .deliver::<Tickets>(&config, Some(&connection(&host)), &TestEvent::new("a.b"))
            .expect_err("refused");
        assert_eq!(error.retry, Retry::Never);
        assert!(
            error
                .message
                .contains("config.titleTemplate: undefined value"),
            "{error}"
        );
    }

    #[test]
    fn waits_as_long_as_it_is_asked_to() {
        let host = TestHost::new().respond_with(429, &[("Retry-After", "20")], "");
        let event = TestEvent::new("incident.created");
        let error = host
            .deliver::<Tickets>(&config(), Some(&connection(&host)), &event)
            .expect_err("refused");
        assert_eq!(error.retry, Retry::After(Duration::from_secs(20)));
    }

    #[test]
    fn says_that_the_key_is_wrong() {
        let host = TestHost::new().respond(401, "");
        let error = host
            .test_connection::<Tickets>(&connection(&host))
            .expect_err("refused");
        assert!(error.contains("enter a valid one"), "{error}");
    }

    #[test]
    fn lists_queues() {
        let host = TestHost::new().respond(200, r#"["ops", "ops-night"]"#);
        let options = host
            .options::<Tickets>("queues", Some(&connection(&host)), Some("ops"))
            .expect("listed");
        assert_eq!(options.len(), 2);
        assert_eq!(
            host.requests()[0].url,
            "https://tickets.example.com/queues?search=ops"
        );
    }
}
