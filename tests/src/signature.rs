//! Verifies Standard Webhooks signatures, written from the specification and not from the
//! gateway's code: <https://github.com/standard-webhooks/standard-webhooks>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::receiver::Received;

/// Whether one of the signatures of the request is right under `secret` (`whsec_` and base64).
///
/// # Errors
/// What is wrong with the request.
pub fn verify(request: &Received, secret: &str) -> Result<(), String> {
    let key = secret
        .strip_prefix("whsec_")
        .ok_or("the secret has no whsec_ prefix")?;
    let key = STANDARD
        .decode(key)
        .map_err(|error| format!("the secret is not base64: {error}"))?;
    let (id, timestamp) = (
        request.header("webhook-id"),
        request.header("webhook-timestamp"),
    );
    if id.is_empty() || id.contains('.') {
        return Err(format!("webhook-id is {id:?}"));
    }
    timestamp
        .parse::<i64>()
        .map_err(|_| format!("webhook-timestamp is {timestamp:?}"))?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|error| error.to_string())?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(&request.body);
    let expected = mac.finalize().into_bytes();
    let right = request
        .header("webhook-signature")
        .split(' ')
        .filter_map(|signature| signature.strip_prefix("v1,"))
        .filter_map(|signature| STANDARD.decode(signature).ok())
        .any(|signature| signature == expected.as_slice());
    if right {
        Ok(())
    } else {
        Err(format!(
            "no right signature in {:?}",
            request.header("webhook-signature")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderMap, HeaderValue, Method};
    use bytes::Bytes;

    /// The example of the specification's reference libraries.
    fn example() -> Received {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            (
                "webhook-signature",
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        Received {
            at: std::time::Instant::now(),
            method: Method::POST,
            path: "/".into(),
            headers,
            body: Bytes::from_static(br#"{"test": 2432232314}"#),
            answered: 200,
        }
    }

    #[test]
    fn the_specifications_example_is_right_and_a_changed_body_is_not() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let mut request = example();
        assert_eq!(verify(&request, secret), Ok(()));
        request.body = Bytes::from_static(br#"{"test": 2432232315}"#);
        assert!(verify(&request, secret).is_err());
    }
}
