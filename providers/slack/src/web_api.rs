//! Slack's Web API: calls, their errors, and the few methods that are needed.
//!
//! A call that was understood is answered 200 with `ok`; `ok: false` carries an error code.
//! <https://docs.slack.dev/apis/web-api/>

use std::fmt::Write as _;
use std::time::Duration;

use hookport_sdk::serde::Deserialize;
use hookport_sdk::serde::de::DeserializeOwned;
use hookport_sdk::serde_json::Value;
use hookport_sdk::{Context, DeliveryError, Request, Response, Retry, Secret, SelectOption};

/// With its charset, without which Slack warns.
pub const JSON: &str = "application/json; charset=utf-8";

const BASE_URL: &str = "https://slack.com/api";

/// Channels asked for at once; Slack takes less than 1000 and advises 200.
/// <https://docs.slack.dev/reference/methods/conversations.list>
const PAGE_CHANNELS: usize = 200;
/// Pages looked through for one dropdown: the method allows about 20 calls a minute, and the
/// sandbox 20 calls in all.
const PAGES_MAX: usize = 15;
/// Waited where Slack limits without saying for how long: its limits are by the minute.
pub const LIMITED_WAIT: Duration = Duration::from_secs(30);
/// Entries of one dropdown; more are found by searching.
const OPTIONS_MAX: usize = 100;

/// A call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// Slack's error code, where Slack gave one.
    code: Option<String>,
    message: String,
    retry: Retry,
}

impl CallError {
    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the message to follow up on cannot be: deleted, in another channel, or locked by
    /// the workspace's settings. <https://docs.slack.dev/reference/methods/chat.update#errors>; for
    /// replies to what is gone Slack documents no code, so that conversations.replies' stands too.
    pub fn first_is_gone(&self) -> bool {
        self.code.as_deref().is_some_and(|code| {
            matches!(
                code,
                "cannot_reply_to_message"
                    | "cant_update_message"
                    | "edit_window_closed"
                    | "message_not_found"
                    | "thread_not_found"
            )
        })
    }

    /// What an answer with `ok: false` means.
    fn refused(method: &str, envelope: Envelope, wait: Option<Duration>) -> Self {
        let code = envelope.error.unwrap_or_else(|| "unknown_error".into());
        let mut message = format!("Slack refused {method}: {code}");
        if let Some(needed) = &envelope.needed {
            let _ = write!(message, " (needed: {needed})");
        }
        if let Some(remedy) = remedy(&code) {
            let _ = write!(message, ": {remedy}");
        }
        for detail in envelope.response_metadata.messages.iter().take(3) {
            let _ = write!(message, "; {detail}");
        }
        let retry = match wait {
            Some(wait) => Retry::After(wait),
            None if is_limit(&code) => Retry::After(LIMITED_WAIT),
            None if is_transient(&code) => Retry::Default,
            None => Retry::Never,
        };
        Self {
            code: Some(code),
            message,
            retry,
        }
    }
}

impl From<DeliveryError> for CallError {
    fn from(error: DeliveryError) -> Self {
        Self {
            code: None,
            message: error.message,
            retry: error.retry,
        }
    }
}

impl From<CallError> for DeliveryError {
    fn from(error: CallError) -> Self {
        Self {
            message: error.message,
            retry: error.retry,
        }
    }
}

/// Whether trying again can help. Slack adds codes now and then: only those that are known to
/// pass, by themselves or because they are Slack's own trouble, are tried again.
/// <https://docs.slack.dev/reference/methods/chat.postMessage#errors>
fn is_transient(code: &str) -> bool {
    matches!(
        code,
        "accesslimited"
            | "external_channel_migrating"
            | "fatal_error"
            | "internal_error"
            | "message_limit_exceeded"
            | "request_timeout"
            | "rollup_error"
            | "service_unavailable"
            | "team_added_to_org"
            | "unknown_error"
            | "update_failed"
    )
}

/// Whether Slack asks to slow down.
/// <https://docs.slack.dev/apis/web-api/rate-limits>
fn is_limit(code: &str) -> bool {
    matches!(code, "rate_limited" | "ratelimited")
}

/// What the admin can do about an error code, of either interface.
pub fn remedy(code: &str) -> Option<&'static str> {
    Some(match code {
        "account_inactive" | "invalid_auth" | "not_authed" | "token_expired" | "token_revoked" => {
            "enter a valid bot token in the connection"
        }
        "action_prohibited" | "restricted_action" | "no_permission" => {
            "an administrator of the workspace has restricted posting here"
        }
        "channel_not_found" => {
            "choose an existing channel; a private one is visible only once the app was added to it"
        }
        "channel_is_archived" | "is_archived" | "is_inactive" => {
            "unarchive the channel or choose another"
        }
        "invalid_blocks" | "invalid_blocks_format" => {
            "check config.blocksTemplate in Slack's Block Kit Builder"
        }
        "invalid_token" | "no_service" | "no_service_id" | "no_team" => {
            "the webhook was removed or its URL is incomplete: copy it again from the app's settings"
        }
        "missing_scope" => "add the scope to the app and install it again",
        "msg_too_long" => "shorten the message",
        "not_in_channel" => "invite the app to the channel, or give it the scope chat:write.public",
        "rate_limited" | "ratelimited" => "too many messages for Slack",
        _ => return None,
    })
}

/// What every answer has.
#[derive(Debug, Deserialize)]
#[serde(crate = "hookport_sdk::serde")]
struct Envelope {
    ok: bool,
    error: Option<String>,
    /// The missing scope.
    needed: Option<String>,
    #[serde(default)]
    response_metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(crate = "hookport_sdk::serde")]
struct Metadata {
    #[serde(default)]
    next_cursor: String,
    #[serde(default)]
    messages: Vec<String>,
}

/// A posted message.
#[derive(Debug, Deserialize)]
#[serde(crate = "hookport_sdk::serde")]
pub struct Posted {
    /// The id of the channel, also where its name was given.
    pub channel: String,
    /// The message's timestamp, which is its id within the channel.
    pub ts: String,
}

#[derive(Debug, Deserialize)]
#[serde(crate = "hookport_sdk::serde")]
struct Identity {
    team: String,
    user: String,
}

#[derive(Debug, Deserialize)]
#[serde(crate = "hookport_sdk::serde")]
struct Channels {
    channels: Vec<Channel>,
}

#[derive(Debug, Deserialize)]
#[serde(crate = "hookport_sdk::serde")]
struct Channel {
    id: String,
    name: String,
    #[serde(default)]
    is_private: bool,
}

/// The Web API of one workspace.
pub struct Client<'a> {
    ctx: &'a Context<'a>,
    token: &'a Secret,
    base_url: &'a str,
}

impl<'a> Client<'a> {
    /// With a bot token; `base_url` in place of Slack's own.
    pub fn new(ctx: &'a Context<'a>, token: &'a Secret, base_url: Option<&'a str>) -> Self {
        let base_url = base_url.filter(|url| !url.is_empty()).unwrap_or(BASE_URL);
        Self {
            ctx,
            token,
            base_url: base_url.trim_end_matches('/'),
        }
    }

    /// `chat.postMessage`.
    pub fn post_message(&self, arguments: &Value) -> Result<Posted, CallError> {
        let method = "chat.postMessage";
        let request = Request::post(self.url(method)).body(JSON, arguments.to_string());
        Ok(self.call(method, request)?.0)
    }

    /// `chat.update`.
    pub fn update(&self, arguments: &Value) -> Result<Posted, CallError> {
        let method = "chat.update";
        let request = Request::post(self.url(method)).body(JSON, arguments.to_string());
        Ok(self.call(method, request)?.0)
    }

    /// `auth.test`: whose token this is.
    pub fn auth_test(&self) -> Result<String, String> {
        let method = "auth.test";
        let (identity, _) = self
            .call::<Identity>(method, Request::post(self.url(method)))
            .map_err(|error| error.message)?;
        Ok(format!(
            "Connected to {} as {}.",
            identity.team, identity.user
        ))
    }

    /// The channels whose name contains `search`, by name. Slack cannot search: pages are read
    /// until there are enough matches.
    pub fn channels(&self, search: Option<&str>) -> Result<Vec<SelectOption>, String> {
        let all = "public_channel,private_channel";
        let found = match self.list(all, search) {
            // Reading private channels is a scope of its own (groups:read).
            Err(error) if error.code.as_deref() == Some("missing_scope") => {
                self.list("public_channel", search)
            }
            found => found,
        };
        let mut channels = found.map_err(|error| error.message)?;
        channels.sort_by(|a, b| a.name.cmp(&b.name));
        channels.truncate(OPTIONS_MAX);
        Ok(channels
            .into_iter()
            .map(|channel| {
                let mark = if channel.is_private { " (private)" } else { "" };
                let label = format!("#{}{mark}", channel.name);
                SelectOption::new(channel.id, label)
            })
            .collect())
    }

    fn list(&self, types: &str, search: Option<&str>) -> Result<Vec<Channel>, CallError> {
        let method = "conversations.list";
        let search = search
            .unwrap_or("")
            .trim()
            .trim_start_matches('#')
            .to_lowercase();
        let mut found: Vec<Channel> = Vec::new();
        let mut cursor = String::new();
        for page in 0..PAGES_MAX {
            // This method reads no JSON: arguments stand in the query.
            let mut request = Request::get(self.url(method))
                .query("exclude_archived", "true")
                .query("limit", &PAGE_CHANNELS.to_string())
                .query("types", types);
            if !cursor.is_empty() {
                request = request.query("cursor", &cursor);
            }
            let (answer, metadata) = match self.call::<Channels>(method, request) {
                Ok(answer) => answer,
                // What was found so far is worth more than the wait.
                Err(error) if page > 0 && matches!(error.retry, Retry::After(_)) => {
                    self.ctx.warn(format!(
                        "the list of channels is incomplete: {}",
                        error.message
                    ));
                    break;
                }
                Err(error) => return Err(error),
            };
            let matches = |channel: &Channel| channel.name.to_lowercase().contains(&search);
            found.extend(answer.channels.into_iter().filter(matches));
            cursor = metadata.next_cursor;
            if cursor.is_empty() || found.len() >= OPTIONS_MAX {
                break;
            }
            if page + 1 == PAGES_MAX {
                self.ctx.warn(format!(
                    "the list of channels is incomplete: {PAGES_MAX} pages were read; enter the channel's id"
                ));
            }
        }
        Ok(found)
    }

    fn url(&self, method: &str) -> String {
        format!("{}/{method}", self.base_url)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        request: Request,
    ) -> Result<(T, Metadata), CallError> {
        let response = self
            .ctx
            .send(request.bearer(self.token))
            .map_err(DeliveryError::from)?;
        let wait = response.retry_after(self.ctx.now());
        let Some(envelope) = envelope(&response) else {
            let answered = response.error_for_status(self.ctx)?;
            // A 2xx that is no answer of Slack's: something in between answered.
            answered.json::<Envelope>()?;
            return Err(DeliveryError::transient("Slack gave no answer that can be read").into());
        };
        if !envelope.ok {
            return Err(CallError::refused(method, envelope, wait));
        }
        Ok((response.json()?, envelope.response_metadata))
    }
}

fn envelope(response: &Response) -> Option<Envelope> {
    hookport_sdk::serde_json::from_slice(&response.body).ok()
}
