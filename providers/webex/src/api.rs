//! The Webex REST API: calls and their errors, `{"message", "errors": [{"description"}],
//! "trackingId"}`: <https://developer.webex.com/docs/basics>.

use std::time::Duration;

use hookport_sdk::serde_json::{self, Value};
use hookport_sdk::{Context, DeliveryError, Request, Response, Secret, SelectOption};

use crate::Connection;

const BASE_URL: &str = "https://webexapis.com/v1";
const LIMITED_WAIT: Duration = Duration::from_secs(30);
/// Pages looked through for one dropdown.
const PAGES_MAX: usize = 5;
const OPTIONS_MAX: usize = 100;

/// The API with one bot's token.
pub struct Client<'a> {
    ctx: &'a Context<'a>,
    token: &'a Secret,
    base_url: &'a str,
}

impl<'a> Client<'a> {
    /// With the credentials of a connection.
    pub fn new(ctx: &'a Context<'a>, connection: &'a Connection) -> Self {
        let base_url = connection.base_url.as_deref().filter(|url| !url.is_empty());
        Self {
            ctx,
            token: &connection.bot_token,
            base_url: base_url.unwrap_or(BASE_URL).trim_end_matches('/'),
        }
    }

    /// Creates a message; its identifier.
    pub fn post(&self, message: &Value) -> Result<String, DeliveryError> {
        let request = Request::post(format!("{}/messages", self.base_url)).json(message);
        let posted: Value = self.call("the message", request)?.json()?;
        let id = posted["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| DeliveryError::transient("Webex's answer to the message has no id"))
    }

    /// Replaces a message. False: there is no such message.
    pub fn edit(&self, id: &str, message: &Value) -> Result<bool, DeliveryError> {
        let url = format!("{}/messages/{}", self.base_url, segment(id));
        let response = self.send(Request::new("PUT", url).json(message))?;
        if response.status == 404 {
            return Ok(false);
        }
        if response.is_success() {
            return Ok(true);
        }
        Err(refused(self.ctx, "the edit", &response))
    }

    /// Whose token it is.
    pub fn me(&self) -> Result<Value, DeliveryError> {
        self.call(
            "the account",
            Request::get(format!("{}/people/me", self.base_url)),
        )?
        .json()
    }

    /// Spaces whose title contains `search`, those with the latest activity first. Webex cannot
    /// search: pages are followed by their `Link`.
    pub fn rooms(&self, search: &str) -> Result<Vec<SelectOption>, DeliveryError> {
        let wanted = search.to_lowercase();
        let mut found = Vec::new();
        let mut request = Request::get(format!("{}/rooms", self.base_url))
            .query("max", "200")
            .query("sortBy", "lastactivity");
        for _ in 0..PAGES_MAX {
            let response = self.call("the spaces", request)?;
            let page: Value = response.json()?;
            for room in page["items"].as_array().into_iter().flatten() {
                let (Some(id), Some(title)) = (room["id"].as_str(), room["title"].as_str()) else {
                    continue;
                };
                if title.to_lowercase().contains(&wanted) {
                    found.push(SelectOption::new(id, title));
                }
            }
            let next = response.header("link").and_then(next_page);
            match next {
                Some(next) if found.len() < OPTIONS_MAX => request = Request::get(next),
                _ => break,
            }
        }
        found.truncate(OPTIONS_MAX);
        Ok(found)
    }

    fn send(&self, request: Request) -> Result<Response, DeliveryError> {
        self.ctx
            .send(request.bearer(self.token))
            .map_err(DeliveryError::from)
    }

    fn call(&self, what: &str, request: Request) -> Result<Response, DeliveryError> {
        let response = self.send(request)?;
        let json =
            serde_json::from_slice::<Value>(&response.body).is_ok_and(|body| body.is_object());
        if response.is_success() && json {
            return Ok(response);
        }
        Err(refused(self.ctx, what, &response))
    }
}

/// The target of `<…>; rel="next"` (RFC 8288).
fn next_page(link: &str) -> Option<String> {
    let next = link.split(',').find(|one| one.contains("rel=\"next\""))?;
    let target = next.split('<').nth(1)?.split('>').next()?;
    Some(target.to_owned())
}

fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let write = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(write).collect()
}

fn refused(ctx: &Context, what: &str, response: &Response) -> DeliveryError {
    let status = response.status;
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let descriptions = body["errors"].as_array().into_iter().flatten();
    let mut said: Vec<&str> = descriptions
        .filter_map(|one| one["description"].as_str())
        .take(5)
        .collect();
    if said.is_empty() {
        said.extend(body["message"].as_str());
    }
    let tracking = body["trackingId"]
        .as_str()
        .or_else(|| response.header("trackingid"));
    let tracking = tracking.map_or(String::new(), |id| format!(" (trackingId {id})"));
    let said = if said.is_empty() {
        String::new()
    } else {
        format!(": {}", said.join("; "))
    };
    let message = |remedy: &str| format!("Webex refused {what} ({status}){said}{remedy}{tracking}");
    let wait = response.retry_after(ctx.now());
    match status {
        401 => DeliveryError::permanent(message("; enter a valid bot token in the connection")),
        403 => DeliveryError::permanent(message("; the bot may not do this in that space")),
        404 => DeliveryError::permanent(message(
            "; check config.roomId, and that the bot is in that space",
        )),
        429 => DeliveryError::after(wait.unwrap_or(LIMITED_WAIT), message("")),
        // 423: the space is being moved; 428: an attachment is being scanned.
        409 | 423 | 428 | 500..=599 => match wait {
            Some(wait) => DeliveryError::after(wait, message("")),
            None => DeliveryError::transient(message("")),
        },
        200..=299 => DeliveryError::transient(message(
            "; the answer is none of Webex's: something in between answered",
        )),
        _ => DeliveryError::permanent(message("")),
    }
}
