//! The Adaptive Card of an event: <https://adaptivecards.io/explorer/>.

use hookport_sdk::serde_json::{Value, json};
use hookport_sdk::template::Templates;
use hookport_sdk::{Delivery, DeliveryError};

use crate::Teams;

/// A message is limited to about 28 KB, the envelope included.
const CARD_BYTES_MAX: usize = 27 << 10;
/// Facts of the default card.
const FACTS_MAX: usize = 20;
const FACT_CHARS_MAX: usize = 300;
/// What Teams renders.
const VERSIONS: [&str; 6] = ["1.0", "1.1", "1.2", "1.3", "1.4", "1.5"];

/// Renders the card, and checks what Teams would refuse or show as nothing.
pub fn render(delivery: &Delivery<Teams>) -> Result<Value, DeliveryError> {
    let config = &delivery.config;
    let templates = Templates::new(delivery)?;
    let card = match &config.card_template {
        Some(template) => {
            let card = templates.json("config.cardTemplate", template)?;
            check(&card).map_err(|problem| {
                DeliveryError::permanent(format!("config.cardTemplate: {problem}"))
            })?;
            card
        }
        None => simple(delivery, templates)?,
    };
    let bytes = card.to_string().len();
    if bytes > CARD_BYTES_MAX {
        return Err(DeliveryError::permanent(format!(
            "the card has {bytes} bytes, more than the {CARD_BYTES_MAX} that Teams takes: shorten it, for example with | truncate"
        )));
    }
    Ok(card)
}

fn simple(delivery: &Delivery<Teams>, templates: Templates) -> Result<Value, DeliveryError> {
    let (config, event) = (&delivery.config, &delivery.event);
    let link = match &config.link_template {
        Some(template) => Some(link(&templates.text("config.linkTemplate", template)?)?),
        None => None,
    };
    let templates = templates.escape_with(escape);
    let title = match &config.title_template {
        Some(template) => templates.text("config.titleTemplate", template)?,
        None => event.event_type.clone(),
    };
    let mut body = vec![json!({
        "type": "TextBlock", "text": title, "size": "Medium", "weight": "Bolder", "wrap": true,
    })];
    match &config.text_template {
        Some(template) => {
            let text = templates.text("config.textTemplate", template)?;
            body.push(json!({"type": "TextBlock", "text": text, "wrap": true}));
        }
        None => body.push(json!({"type": "FactSet", "facts": facts(&event.payload()?)})),
    }
    body.push(json!({
        "type": "TextBlock", "text": event.timestamp, "isSubtle": true, "size": "Small", "wrap": true,
    }));
    let mut card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    });
    if let Some(url) = link {
        card["actions"] = json!([{"type": "Action.OpenUrl", "title": "Open", "url": url}]);
    }
    Ok(card)
}

/// The payload's members, one level into objects.
fn facts(payload: &Value) -> Vec<Value> {
    let mut facts = Vec::new();
    for (name, value) in payload.as_object().into_iter().flatten() {
        match value {
            Value::Object(members) => {
                for (member, value) in members {
                    facts.push(fact(&format!("{name}.{member}"), value));
                }
            }
            _ => facts.push(fact(name, value)),
        }
    }
    facts.truncate(FACTS_MAX);
    facts
}

fn fact(title: &str, value: &Value) -> Value {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text: String = text.chars().take(FACT_CHARS_MAX).collect();
    json!({"title": escape(title), "value": escape(&text)})
}

/// Looked at after rendering: what a payload brings could make it anything.
fn link(url: &str) -> Result<String, DeliveryError> {
    let url = url.trim();
    let usable = (url.starts_with("https://") || url.starts_with("http://"))
        && !url.contains(char::is_whitespace);
    if usable {
        return Ok(url.to_owned());
    }
    Err(DeliveryError::permanent(
        "config.linkTemplate: the rendered URL must begin with https:// or http://",
    ))
}

/// A value in the Markdown of cards: nothing of it is markup.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if matches!(c, '\\' | '*' | '_' | '[' | ']' | '(' | ')' | '`' | '#') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// What of a card's own form Teams would refuse, by path.
fn check(card: &Value) -> Result<(), String> {
    if card["type"] != "AdaptiveCard" {
        return Err("type: must be \"AdaptiveCard\"".into());
    }
    match card["version"].as_str() {
        Some(version) if VERSIONS.contains(&version) => {}
        _ => return Err(format!("version: must be one of {}", VERSIONS.join(", "))),
    }
    for list in ["body", "actions"] {
        if !card[list].is_null() && !card[list].is_array() {
            return Err(format!("{list}: must be a list"));
        }
        for (index, element) in card[list].as_array().into_iter().flatten().enumerate() {
            if !element["type"].is_string() {
                return Err(format!("{list}[{index}].type: missing"));
            }
            let url = &element["url"];
            let opens = element["type"] == "Action.OpenUrl";
            if opens && url.as_str().is_none_or(|url| link(url).is_err()) {
                return Err(format!(
                    "{list}[{index}].url: must begin with https:// or http://"
                ));
            }
        }
    }
    let empty = |list: &str| card[list].as_array().is_none_or(Vec::is_empty);
    if empty("body") && empty("actions") {
        return Err("body: the card shows nothing".into());
    }
    Ok(())
}
