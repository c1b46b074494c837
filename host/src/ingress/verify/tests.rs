//! Vectors that the senders publish, and every way to be wrong.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A scheme with secrets and a message that it takes.
struct Case {
    name: &'static str,
    scheme: Scheme,
    secret: &'static str,
    headers: Vec<(&'static str, String)>,
    body: &'static [u8],
    now: Timestamp,
    /// The header with the signature or token.
    proof: &'static str,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000)
}

fn scheme(value: serde_json::Value) -> Scheme {
    serde_json::from_value(value).expect("a scheme")
}

/// GitHub's, Slack's and Standard Webhooks' are the examples of their documentation; the others
/// were made with `openssl dgst -sha256 -hmac`.
fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "github",
            scheme: Scheme::Github {},
            secret: "It's a Secret to Everybody",
            headers: vec![(
                "x-hub-signature-256",
                "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17".into(),
            )],
            body: b"Hello, World!",
            now: NOW,
            proof: "x-hub-signature-256",
        },
        Case {
            name: "slack",
            scheme: scheme(json!({"scheme": "slack"})),
            secret: "8f742231b10e8888abcd99yyyzzz85a5",
            headers: vec![
                ("x-slack-request-timestamp", "1531420618".into()),
                (
                    "x-slack-signature",
                    "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503".into(),
                ),
            ],
            body: b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
            now: at(1_531_420_618 + 299),
            proof: "x-slack-signature",
        },
        Case {
            name: "standard webhooks",
            scheme: scheme(json!({"scheme": "standardWebhooks"})),
            secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            headers: vec![
                ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".into()),
                ("webhook-timestamp", "1614265330".into()),
                (
                    "webhook-signature",
                    "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".into(),
                ),
            ],
            body: br#"{"test": 2432232314}"#,
            now: at(1_614_265_330 - 299),
            proof: "webhook-signature",
        },
        Case {
            name: "stripe",
            scheme: scheme(json!({"scheme": "stripe"})),
            secret: "whsec_test",
            headers: vec![(
                "stripe-signature",
                format!("t=1700000000,v1={},v0=00", hex("whsec_test", b"1700000000.{\"a\":1}")),
            )],
            body: b"{\"a\":1}",
            now: NOW,
            proof: "stripe-signature",
        },
        Case {
            name: "hmac in hex",
            scheme: scheme(json!({"scheme": "hmacSha256", "header": "x-acme-signature"})),
            secret: "acme",
            headers: vec![("x-acme-signature", hex("acme", b"{}"))],
            body: b"{}",
            now: NOW,
            proof: "x-acme-signature",
        },
        Case {
            name: "hmac with a timestamp",
            scheme: scheme(json!({
                "scheme": "hmacSha256", "header": "x-sig", "prefix": "v1=",
                "timestamp": {"header": "x-time", "content": "{timestamp}|{body}|{timestamp}"},
            })),
            secret: "acme",
            headers: vec![
                ("x-time", "1700000000".into()),
                ("x-sig", format!("v1={}", hex("acme", b"1700000000|{}|1700000000"))),
            ],
            body: b"{}",
            now: NOW,
            proof: "x-sig",
        },
        Case {
            name: "shared token",
            scheme: scheme(json!({"scheme": "sharedToken", "header": "x-globex-token"})),
            secret: "a token of some length",
            headers: vec![("x-globex-token", "a token of some length".into())],
            body: b"{}",
            now: NOW,
            proof: "x-globex-token",
        },
        Case {
            name: "basic",
            scheme: scheme(json!({"scheme": "basic", "username": "Aladdin"})),
            secret: "open sesame",
            // RFC 7617, section 2.
            headers: vec![("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".into())],
            body: b"{}",
            now: NOW,
            proof: "authorization",
        },
    ]
}

fn hex(key: &str, data: &[u8]) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).expect("a key");
    mac.update(data);
    let bytes = mac.finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn headers(list: &[(&'static str, String)]) -> HeaderMap {
    list.iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("a value");
            (HeaderName::from_static(name), value)
        })
        .collect()
}

fn secrets(list: &[&str]) -> Vec<Zeroizing<String>> {
    list.iter()
        .map(|text| Zeroizing::new((*text).to_owned()))
        .collect()
}

impl Case {
    fn verify(&self, given: &[&str], headers: &HeaderMap, body: &[u8]) -> Result<(), Unverified> {
        let message = Message {
            headers,
            query: "",
            body,
        };
        self.scheme.verify(&secrets(given), message, self.now)
    }

    fn signs_the_body(&self) -> bool {
        !matches!(
            self.scheme,
            Scheme::SharedToken { .. } | Scheme::Basic { .. }
        )
    }
}

#[test]
fn what_the_sender_sends_is_verified() {
    for case in cases() {
        let headers = headers(&case.headers);
        assert_eq!(
            case.verify(&[case.secret], &headers, case.body),
            Ok(()),
            "{}",
            case.name
        );
        assert!(
            case.scheme
                .secret_headers()
                .iter()
                .any(|name| name == case.proof),
            "{}",
            case.name
        );
        assert_eq!(case.scheme.check(), Ok(()), "{}", case.name);
    }
}

#[test]
fn rotation_overlaps_and_another_secret_does_not_do() {
    for case in cases() {
        let headers = headers(&case.headers);
        let verify = |given: &[&str]| case.verify(given, &headers, case.body);
        // A key of Standard Webhooks is base64.
        let other = "bm90IHRoZSBzZWNyZXQ=";
        assert_eq!(verify(&[other, case.secret]), Ok(()), "{}", case.name);
        assert_eq!(verify(&[case.secret, other]), Ok(()), "{}", case.name);
        assert_eq!(verify(&[other]), Err(Unverified::Mismatch), "{}", case.name);
        assert_eq!(verify(&[]), Err(Unverified::NoSecret), "{}", case.name);
    }
}

#[test]
fn any_bit_of_the_body_counts() {
    for case in cases().into_iter().filter(Case::signs_the_body) {
        let headers = headers(&case.headers);
        for bit in 0..case.body.len() * 8 {
            let mut body = case.body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let verified = case.verify(&[case.secret], &headers, &body);
            assert_eq!(
                verified,
                Err(Unverified::Mismatch),
                "{} bit {bit}",
                case.name
            );
        }
        let longer = [case.body, b" "].concat();
        assert!(
            case.verify(&[case.secret], &headers, &longer).is_err(),
            "{}",
            case.name
        );
    }
}

#[test]
fn missing_duplicated_and_truncated_proofs_are_refused_with_the_reason() {
    for case in cases() {
        let sound = headers(&case.headers);
        for (name, _) in &case.headers {
            let mut lacking = sound.clone();
            lacking.remove(*name);
            let refused = case.verify(&[case.secret], &lacking, case.body);
            assert_eq!(
                refused,
                Err(Unverified::MissingHeader((*name).to_owned())),
                "{}",
                case.name
            );

            let mut doubled = sound.clone();
            doubled.append(*name, sound[*name].clone());
            let refused = case.verify(&[case.secret], &doubled, case.body);
            assert_eq!(
                refused,
                Err(Unverified::DuplicateHeader((*name).to_owned())),
                "{}",
                case.name
            );
        }
        let proof = sound[case.proof].to_str().expect("text");
        // Behind the signature Stripe's header goes on; cut into the signature.
        let whole = proof.split(",v0").next().expect("a part");
        for length in [0, 1, whole.len() / 2, whole.len() - 4, whole.len() - 1] {
            let mut cut = sound.clone();
            cut.insert(
                case.proof,
                HeaderValue::from_str(&whole[..length]).expect("a value"),
            );
            let refused = case.verify(&[case.secret], &cut, case.body);
            let padding_only = case.name == "standard webhooks" && length == whole.len() - 1;
            assert_eq!(
                refused.is_ok(),
                padding_only,
                "{} cut to {length}",
                case.name
            );
        }
    }
}

#[test]
fn old_and_future_timestamps_are_refused_with_the_distance() {
    for case in cases() {
        let headers = headers(&case.headers);
        let message = Message {
            headers: &headers,
            query: "",
            body: case.body,
        };
        let verify = |now: Timestamp| case.scheme.verify(&secrets(&[case.secret]), message, now);
        let timed = !matches!(
            case.scheme,
            Scheme::Github {} | Scheme::SharedToken { .. } | Scheme::Basic { .. }
        ) && case.name != "hmac in hex";
        for day in [-1, 1] {
            let refused = verify(Timestamp(case.now.0 + day * 86_400_000));
            let stale = matches!(
                refused,
                Err(Unverified::Stale {
                    tolerance_seconds: 300,
                    ..
                })
            );
            assert_eq!(stale, timed, "{} {day}: {refused:?}", case.name);
        }
    }
    let stale = Unverified::Stale {
        age_seconds: 612,
        tolerance_seconds: 300,
    };
    assert_eq!(
        stale.to_string(),
        "the timestamp is 612 s from now, more than the tolerance of 300 s"
    );
}

#[test]
fn several_signatures_in_one_header_match_if_any_does() {
    let wrong = "0".repeat(64);
    let right = hex("s", b"1700000000.x");
    let list = [(
        "stripe-signature",
        format!("t=1700000000, v1={wrong}, v1={right}"),
    )];
    let headers = headers(&list);
    let message = Message {
        headers: &headers,
        query: "",
        body: b"x",
    };
    let stripe = scheme(json!({"scheme": "stripe"}));
    assert_eq!(stripe.verify(&secrets(&["s"]), message, NOW), Ok(()));
}

#[test]
fn a_token_in_the_query_is_found_once() {
    let token = scheme(json!({"scheme": "sharedToken", "query": "key"}));
    let verify = |query: &str| {
        let message = Message {
            headers: &HeaderMap::new(),
            query,
            body: b"",
        };
        token.verify(&secrets(&["a b"]), message, NOW)
    };
    assert_eq!(verify("x=1&key=a%20b"), Ok(()));
    assert_eq!(verify("key=a"), Err(Unverified::Mismatch));
    assert_eq!(
        verify("x=1"),
        Err(Unverified::MissingParameter("key".to_owned()))
    );
    assert!(verify("key=a%20b&key=c").is_err());
}

#[test]
fn schemes_that_would_verify_nothing_are_refused() {
    for (value, field) in [
        (json!({"scheme": "hmacSha256", "header": "a b"}), "header"),
        (
            json!({"scheme": "hmacSha256", "header": "a", "timestamp": {"header": "b", "content": "{timestamp}"}}),
            "timestamp/content",
        ),
        (json!({"scheme": "sharedToken"}), "header"),
        (
            json!({"scheme": "sharedToken", "header": "a", "query": "b"}),
            "header",
        ),
        (json!({"scheme": "basic", "username": "a:b"}), "username"),
    ] {
        let refused = scheme(value.clone()).check().expect_err("refused");
        assert_eq!(refused.0, field, "{value}");
    }
    for unknown in [
        json!({"scheme": "md5"}),
        json!({"scheme": "github", "secret": "x"}),
        json!({}),
    ] {
        assert!(
            serde_json::from_value::<Scheme>(unknown.clone()).is_err(),
            "{unknown}"
        );
    }
}
