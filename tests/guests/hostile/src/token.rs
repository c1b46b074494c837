//! Access tokens: what a guest can learn of the one that it was lent.

use hookport_sdk::bindings::hookport::provider::{http, oauth2, secrets};

use crate::{Outcome, Plan};

fn request<'a>(plan: &Plan, secret: &'a secrets::Secret) -> oauth2::TokenRequest<'a> {
    oauth2::TokenRequest {
        token_url: format!("{}/token", plan.url()),
        client_id: "hostile".to_owned(),
        client_secret: secret,
        auth: oauth2::ClientAuth::Basic,
        grant: oauth2::Grant::ClientCredentials,
        scopes: vec!["read".to_owned(), "write".to_owned()],
        parameters: vec![("audience".to_owned(), "all of it".to_owned())],
    }
}

/// Sends the token to a receiver that returns it.
pub fn lend(plan: &Plan) -> Outcome {
    let secret = plan.secret()?;
    let request = request(plan, &secret);
    let handle = oauth2::token(&request).map_err(|error| format!("{error:?}"))?;
    let again = oauth2::token(&request).map_err(|error| format!("{error:?}"))?;
    let token = secrets::get(&handle).ok_or("no secret behind the handle")?;
    let outgoing = http::Request {
        method: "GET".to_owned(),
        url: vec![http::Segment::Text(plan.url().to_owned())],
        headers: Vec::new(),
        auth: Some(http::Auth::Bearer(&token)),
        body: http::Body::Empty,
        timeout_ms: None,
        follow_redirects: false,
    };
    let response = http::send(&outgoing).map_err(|error| format!("{error:?}"))?;
    let body = String::from_utf8_lossy(&response.body).into_owned();
    Ok(format!("{handle} {again} {} {body}", response.status))
}

pub fn forget(plan: &Plan) -> Outcome {
    let secret = plan.secret()?;
    oauth2::forget(&request(plan, &secret));
    lend(plan)
}
