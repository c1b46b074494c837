//! Microsoft Graph: tokens by client credentials, teams, channels and messages.
//!
//! <https://learn.microsoft.com/graph/api/chatmessage-post>,
//! <https://learn.microsoft.com/graph/throttling>. Errors are `{"error": {"code", "message"}}`.

use std::time::Duration;

use hookport_sdk::serde_json::{self, Value, json};
use hookport_sdk::{
    Context, Delivery, DeliveryError, Receipt, Request, Response, SelectOption, TokenRequest,
};

use crate::{Connection, Teams};

const BASE_URL: &str = "https://graph.microsoft.com";
const LOGIN_URL: &str = "https://login.microsoftonline.com";
/// Waited when Microsoft limits without saying for how long.
pub const LIMITED_WAIT: Duration = Duration::from_secs(30);
const PAGES_MAX: usize = 5;
const OPTIONS_MAX: usize = 100;

/// Graph with one app's credentials.
pub struct Client<'a> {
    ctx: &'a Context<'a>,
    base_url: String,
    token: TokenRequest,
}

impl<'a> Client<'a> {
    /// With the credentials of a connection.
    pub fn new(ctx: &'a Context<'a>, connection: &Connection) -> Result<Self, DeliveryError> {
        let Connection::Graph {
            tenant_id,
            client_id,
            client_secret,
            base_url,
            login_url,
        } = connection
        else {
            return Err(DeliveryError::permanent(
                "the connection is no Microsoft Graph connection",
            ));
        };
        let or = |url: &Option<String>, default: &str| {
            let given = url.as_deref().filter(|url| !url.is_empty());
            given.unwrap_or(default).trim_end_matches('/').to_owned()
        };
        let base_url = or(base_url, BASE_URL);
        let login = or(login_url, LOGIN_URL);
        let token_url = format!("{login}/{}/oauth2/v2.0/token", segment(tenant_id));
        let token = TokenRequest::client_credentials(token_url, client_id, client_secret)
            .scope(format!("{base_url}/.default"));
        Ok(Self {
            ctx,
            base_url,
            token,
        })
    }

    /// Sends with a token; a token that is refused is fetched anew, once.
    fn send(&self, build: impl Fn() -> Request) -> Result<Response, DeliveryError> {
        let mut response = None;
        for fresh in [false, true] {
            if fresh {
                self.ctx.oauth2_forget(&self.token);
            }
            let token = self.ctx.oauth2_token(&self.token)?;
            let answer = self.ctx.send(build().bearer(&token))?;
            let refused = answer.status == 401;
            response = Some(answer);
            if !refused {
                break;
            }
        }
        response.ok_or_else(|| DeliveryError::transient("no request was sent"))
    }

    fn call(&self, what: &str, build: impl Fn() -> Request) -> Result<Value, DeliveryError> {
        let response = self.send(build)?;
        let body = serde_json::from_slice::<Value>(&response.body).ok();
        match body.filter(Value::is_object) {
            Some(body) if response.is_success() => Ok(body),
            _ => Err(refused(self.ctx, what, &response)),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1.0/{path}", self.base_url)
    }

    /// Whether the credentials are good.
    pub fn test(&self) -> Result<String, DeliveryError> {
        let url = self.url("organization");
        let found = self.call("the organisation", || {
            Request::get(url.clone()).query("$select", "displayName")
        })?;
        let name = found["value"][0]["displayName"]
            .as_str()
            .unwrap_or("a tenant without a name");
        Ok(format!("Connected to {name}."))
    }

    /// Teams whose name contains `search`.
    pub fn teams(&self, search: &str) -> Result<Vec<SelectOption>, DeliveryError> {
        let query = [
            ("$filter", "resourceProvisioningOptions/Any(x:x eq 'Team')"),
            ("$select", "id,displayName"),
            ("$top", "100"),
        ];
        self.list("the teams", &self.url("groups"), &query, search)
    }

    /// Channels of a team whose name contains `search`.
    pub fn channels(&self, team: &str, search: &str) -> Result<Vec<SelectOption>, DeliveryError> {
        let url = self.url(&format!("teams/{}/channels", segment(team)));
        self.list(
            "the channels",
            &url,
            &[("$select", "id,displayName")],
            search,
        )
    }

    fn list(
        &self,
        what: &str,
        url: &str,
        query: &[(&str, &str)],
        search: &str,
    ) -> Result<Vec<SelectOption>, DeliveryError> {
        let wanted = search.to_lowercase();
        let mut found: Vec<SelectOption> = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let page = self.call(what, || match &next {
                // It holds the whole query.
                Some(next) => Request::get(next.as_str()),
                None => query
                    .iter()
                    .fold(Request::get(url), |request, (name, value)| {
                        request.query(name, value)
                    }),
            })?;
            for one in page["value"].as_array().into_iter().flatten() {
                let (Some(id), Some(name)) = (one["id"].as_str(), one["displayName"].as_str())
                else {
                    continue;
                };
                if name.to_lowercase().contains(&wanted) {
                    found.push(SelectOption::new(id, name));
                }
            }
            next = page["@odata.nextLink"].as_str().map(str::to_owned);
            if next.is_none() || found.len() >= OPTIONS_MAX {
                break;
            }
        }
        found.sort_by(|a, b| a.label.cmp(&b.label));
        found.truncate(OPTIONS_MAX);
        Ok(found)
    }
}

/// Posts a card, as a reply where an earlier event posted one.
pub fn deliver(
    client: &Client,
    delivery: &Delivery<Teams>,
    card: &Value,
) -> Result<Receipt, DeliveryError> {
    let config = &delivery.config;
    let given = |value: &Option<String>, field: &str| {
        let value = value
            .as_deref()
            .map(str::trim)
            .filter(|value| !value.is_empty());
        value
            .map(segment)
            .ok_or_else(|| DeliveryError::permanent(format!("{field} is empty: choose one")))
    };
    let team = given(&config.team_id, "config.teamId")?;
    let channel = given(&config.channel_id, "config.channelId")?;
    let messages = client.url(&format!("teams/{team}/channels/{channel}/messages"));
    let message = json!({
        "body": {"contentType": "html", "content": "<attachment id=\"card\"></attachment>"},
        "attachments": [{
            "id": "card",
            "contentType": "application/vnd.microsoft.card.adaptive",
            // Graph wants the card as text.
            "content": card.to_string(),
        }],
    });
    let parent = delivery
        .event
        .external_id
        .as_deref()
        .filter(|_| config.reply_in_thread);
    let url = match parent {
        Some(parent) => format!("{messages}/{}/replies", segment(parent)),
        None => messages,
    };
    let posted = client.call("the message", || Request::post(url.as_str()).json(&message))?;
    let id = posted["id"]
        .as_str()
        .ok_or_else(|| DeliveryError::transient("Microsoft's answer to the message has no id"))?;
    // Replies go to the thread's first message.
    Ok(match parent {
        Some(parent) => Receipt::new(format!("replied to {parent}")).external_id(parent),
        None => Receipt::new(format!("posted {id}")).external_id(id),
    })
}

fn segment(text: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@' | b':');
    let write = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(write).collect()
}

fn refused(ctx: &Context, what: &str, response: &Response) -> DeliveryError {
    let status = response.status;
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let error = &body["error"];
    let said = match (error["code"].as_str(), error["message"].as_str()) {
        (Some(code), Some(message)) => format!(": {code}: {message}"),
        (Some(one), None) | (None, Some(one)) => format!(": {one}"),
        (None, None) => String::new(),
    };
    let message = |remedy: &str| format!("Microsoft Graph refused {what} ({status}){said}{remedy}");
    let wait = response.retry_after(ctx.now());
    match status {
        401 => DeliveryError::permanent(message(
            "; the app's token is not taken: check tenant, client and secret",
        )),
        403 => DeliveryError::permanent(message(
            "; the app lacks a permission, or Microsoft does not allow it to apps: see the setup guide",
        )),
        404 => DeliveryError::permanent(message("; check config.teamId and config.channelId")),
        413 => DeliveryError::permanent(message("; shorten the card")),
        429 => DeliveryError::after(wait.unwrap_or(LIMITED_WAIT), message("")),
        408 | 409 | 412 | 423 | 500..=599 => match wait {
            Some(wait) => DeliveryError::after(wait, message("")),
            None => DeliveryError::transient(message("")),
        },
        200..=299 => DeliveryError::transient(message(
            "; the answer is none of Microsoft's: something in between answered",
        )),
        _ => DeliveryError::permanent(message("")),
    }
}
