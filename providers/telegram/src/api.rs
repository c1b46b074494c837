//! The Bot API: calls and their errors. Every answer is `{"ok", "result"}` or `{"ok": false,
//! "error_code", "description", "parameters"}`: <https://core.telegram.org/bots/api#making-requests>.

use std::time::Duration;

use hookport_sdk::serde_json::{self, Value};
use hookport_sdk::{Context, DeliveryError, Encoding, Pieces, Request, Response, Secret};

use crate::Connection;

const BASE_URL: &str = "https://api.telegram.org";
/// Waited when Telegram limits without saying for how long.
const LIMITED_WAIT: Duration = Duration::from_secs(30);

/// The Bot API with one bot's token.
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

    /// `sendMessage`: the message.
    pub fn send_message(&self, message: &Value) -> Result<Value, DeliveryError> {
        self.call("sendMessage", Some(message))
            .map_err(|refusal| refusal.error)
    }

    /// `editMessageText`. False: there is no such message. What is there already counts as done.
    pub fn edit(&self, message: &Value) -> Result<bool, DeliveryError> {
        match self.call("editMessageText", Some(message)) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.says("message is not modified") => Ok(true),
            Err(refusal)
                if refusal.says("message to edit not found")
                    || refusal.says("message can't be edited") =>
            {
                Ok(false)
            }
            Err(refusal) => Err(refusal.error),
        }
    }

    /// `getMe`: whose token this is.
    pub fn get_me(&self) -> Result<Value, DeliveryError> {
        self.call("getMe", None).map_err(|refusal| refusal.error)
    }

    /// The chats of the updates that wait for the bot: identifier and name.
    pub fn recent_chats(&self) -> Result<Vec<(String, String)>, DeliveryError> {
        let updates = self
            .call("getUpdates", None)
            .map_err(|refusal| refusal.error)?;
        let mut chats: Vec<(String, String)> = Vec::new();
        for update in updates.as_array().into_iter().flatten() {
            let kinds = [
                "message",
                "channel_post",
                "my_chat_member",
                "edited_message",
            ];
            let Some(chat) = kinds
                .iter()
                .map(|kind| &update[kind]["chat"])
                .find(|chat| chat.is_object())
            else {
                continue;
            };
            let id = chat["id"].to_string();
            if chats.iter().any(|(known, _)| *known == id) {
                continue;
            }
            let text = |member: &str| chat[member].as_str();
            let name = text("title")
                .or_else(|| text("username"))
                .or_else(|| text("first_name"));
            chats.push((
                id.clone(),
                name.map_or_else(|| id.clone(), |name| format!("{name} ({id})")),
            ));
        }
        Ok(chats)
    }

    fn call(&self, method: &str, body: Option<&Value>) -> Result<Value, Refusal> {
        let url = Pieces::new()
            .text(format!("{}/bot", self.base_url))
            // A colon is part of every token, and Telegram wants it as it is.
            .secret(self.token, Encoding::Raw)
            .text(format!("/{method}"));
        let request = match body {
            Some(body) => Request::post(url).json(body),
            None => Request::get(url),
        };
        let response = self.ctx.send(request).map_err(|error| Refusal {
            description: String::new(),
            error: DeliveryError::from(error),
        })?;
        let mut answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        if answer["ok"] == true {
            return Ok(answer["result"].take());
        }
        Err(self.refused(method, &response, &answer))
    }

    fn refused(&self, method: &str, response: &Response, answer: &Value) -> Refusal {
        let description = answer["description"].as_str().unwrap_or("").to_owned();
        let status = answer["error_code"]
            .as_u64()
            .unwrap_or(response.status.into());
        let message = |remedy: &str| {
            let said = if description.is_empty() {
                "no answer of Telegram's"
            } else {
                description.as_str()
            };
            format!("Telegram refused {method} ({status}): {said}{remedy}")
        };
        let parameters = &answer["parameters"];
        let wait = parameters["retry_after"].as_u64().map(Duration::from_secs);
        let wait = wait.or_else(|| response.retry_after(self.ctx.now()));
        let error = if let Some(chat) = parameters["migrate_to_chat_id"].as_i64() {
            DeliveryError::permanent(message(&format!(
                "; the group became a supergroup: set config.chatId to {chat}"
            )))
        } else {
            match status {
                429 => DeliveryError::after(wait.unwrap_or(LIMITED_WAIT), message("")),
                401 | 404 => {
                    DeliveryError::permanent(message("; enter the token that @BotFather gave"))
                }
                403 => DeliveryError::permanent(message(
                    "; add the bot to the chat, and let it write there",
                )),
                400 if description.contains("chat not found") => DeliveryError::permanent(message(
                    "; check config.chatId, and that the bot is in that chat",
                )),
                400 if description.contains("can't parse entities") => {
                    DeliveryError::permanent(message(
                        "; check the markup of config.textTemplate: in MarkdownV2 its own . - ! ( ) need a backslash",
                    ))
                }
                400 if description.contains("too long") => DeliveryError::permanent(message(
                    "; shorten config.textTemplate, for example with | truncate",
                )),
                409 | 500..=599 => match wait {
                    Some(wait) => DeliveryError::after(wait, message("")),
                    None => DeliveryError::transient(message("")),
                },
                // A 2xx that is no answer of Telegram's: something in between answered.
                200..=299 => DeliveryError::transient(message("; something in between answered")),
                _ => DeliveryError::permanent(message("")),
            }
        };
        Refusal { description, error }
    }
}

struct Refusal {
    description: String,
    error: DeliveryError,
}

impl Refusal {
    fn says(&self, words: &str) -> bool {
        self.description.contains(words)
    }
}
