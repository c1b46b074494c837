//! Where a guest may go, through both HTTP imports, and how long it may wait there. What is
//! denied is denied before a connection: the receivers count theirs.

use std::sync::Arc;
use std::time::Duration;

use hookport::egress::HostPattern;
use hookport::plugin::limits::Limits;
use hookport::plugin::{EffectivePermissions, HostRule};
use serde_json::json;

use crate::harness::{
    Receiver, call, deliver, denied, fine, limit, limits, load, own_url, own_url_on_loopback,
    summary,
};

const BOTH: [&str; 2] = ["send", "wasi send"];

/// Any host, on addresses that are not prohibited.
fn anywhere() -> EffectivePermissions {
    EffectivePermissions {
        hosts: vec![HostRule::Fixed(HostPattern::parse("*").expect("a pattern"))],
        ..own_url()
    }
}

fn elsewhere() -> EffectivePermissions {
    EffectivePermissions {
        hosts: vec![HostRule::Fixed(
            HostPattern::parse("https://granted.invalid").expect("a pattern"),
        )],
        ..own_url_on_loopback()
    }
}

#[tokio::test]
async fn a_granted_host_is_reached_through_either_import() {
    let receiver = Receiver::saying(fine()).await;
    let guest = load(own_url_on_loopback(), limits()).await;
    for mode in BOTH {
        let report = deliver(&guest, json!({"mode": mode, "url": receiver.url()})).await;
        assert_eq!(summary(&report), "status 200");
        assert_eq!(report.http_status, Some(200));
    }
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn a_host_outside_the_grant_is_denied() {
    let receiver = Receiver::saying(fine()).await;
    let guest = load(elsewhere(), limits()).await;
    for mode in BOTH {
        for url in [
            "https://elsewhere.invalid/".to_owned(),
            "https://granted.invalid.elsewhere.invalid/".to_owned(),
            "http://granted.invalid/".to_owned(),
            "https://granted.invalid:8443/".to_owned(),
            receiver.url(),
        ] {
            let report = deliver(&guest, json!({"mode": mode, "url": url})).await;
            let text = denied(&report);
            assert!(text.contains("not among the granted hosts"), "{url} {text}");
        }
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn loopback_is_denied_however_it_is_written() {
    let receiver = Receiver::saying(fine()).await;
    let guest = load(anywhere(), limits()).await;
    let mut wrong = Vec::new();
    for mode in BOTH {
        for host in [
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "0.0.0.0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "localhost",
            "LocalHost",
        ] {
            let url = format!("http://{host}:{}/in", receiver.port);
            let report = deliver(&guest, json!({"mode": mode, "url": url})).await;
            match &report.result {
                Err(hookport::plugin::CallFailure::Denied(text)) if text.contains("prohibited") => {
                }
                other => wrong.push(format!("{mode} {url}: {other:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn user_info_in_a_url_is_denied() {
    let receiver = Receiver::saying(fine()).await;
    let guest = load(own_url_on_loopback(), limits()).await;
    for mode in BOTH {
        for info in ["user:password@", "127.0.0.1@"] {
            let url = format!("http://{info}127.0.0.1:{}/in", receiver.port);
            let mut call = call(json!({"mode": mode, "url": url}));
            // The grant itself is in order.
            call.config.fields = Arc::new([("url".to_owned(), receiver.url())].into());
            let report = guest.deliver(call).await;
            let text = denied(&report);
            assert!(text.contains("user info"), "{mode} {text}");
        }
    }
    assert_eq!(receiver.connections(), 0);
}

fn redirect_to(url: &str) -> String {
    format!(
        "HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}

#[tokio::test]
async fn a_redirect_to_a_host_outside_the_grant_is_denied() {
    let target = Receiver::saying(fine()).await;
    let door = Receiver::saying(redirect_to(&target.url())).await;
    let guest = load(own_url_on_loopback(), limits()).await;
    let plan = json!({"mode": "send", "url": door.url(), "redirects": true});
    let report = deliver(&guest, plan).await;
    let text = denied(&report);
    assert!(text.contains("not among the granted hosts"), "{text}");
    assert_eq!(door.connections(), 1);
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn a_redirect_to_a_prohibited_address_is_denied() {
    let target = Receiver::saying(fine()).await;
    // Only 127.0.0.1 is opened; the redirect names another address of this machine.
    let door = Receiver::saying(redirect_to(&format!("http://127.0.0.2:{}/", target.port))).await;
    let permissions = EffectivePermissions {
        allow_addresses: own_url_on_loopback().allow_addresses,
        ..anywhere()
    };
    let guest = load(permissions, limits()).await;
    let plan = json!({"mode": "send", "url": door.url(), "redirects": true});
    let report = deliver(&guest, plan).await;
    let text = denied(&report);
    assert!(text.contains("prohibited"), "{text}");
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn wasi_http_follows_no_redirect() {
    let target = Receiver::saying(fine()).await;
    let door = Receiver::saying(redirect_to(&target.url())).await;
    let guest = load(own_url_on_loopback(), limits()).await;
    let report = deliver(&guest, json!({"mode": "wasi send", "url": door.url()})).await;
    assert_eq!(summary(&report), "status 302");
    assert_eq!(target.connections(), 0);
}

fn hasty() -> Limits {
    Limits {
        timeout_ms: 300,
        cpu_ms_max: 10_000,
        http_calls_max: u32::MAX,
        ..limits()
    }
}

#[tokio::test]
async fn the_deadline_cuts_off_a_wait_for_a_silent_receiver() {
    for mode in ["send for ever", "wasi send for ever"] {
        let receiver = Receiver::silent().await;
        let guest = load(own_url_on_loopback(), hasty()).await;
        let report = deliver(&guest, json!({"mode": mode, "url": receiver.url()})).await;
        let text = limit(&report);
        assert!(text.contains("deadline of 300 ms"), "{mode}: {text}");
        assert!(receiver.connections() >= 1, "{mode}");
    }
}

#[tokio::test]
async fn the_deadline_cuts_off_a_sleep() {
    let guest = load(own_url(), hasty()).await;
    let report = deliver(&guest, json!({"mode": "sleep"})).await;
    let text = limit(&report);
    assert!(text.contains("deadline of 300 ms"), "{text}");
}

#[tokio::test]
async fn dropped_calls_give_their_places_back() {
    let receiver = Receiver::silent().await;
    // The sandbox has 16 places: calls that went on after they were dropped would fill them.
    let guest = load(own_url_on_loopback(), limits()).await;
    for round in 0..200_u64 {
        let plan = match round % 3 {
            0 => json!({"mode": "send", "url": receiver.url()}),
            1 => json!({"mode": "wasi send", "url": receiver.url()}),
            _ => json!({"mode": "sleep"}),
        };
        let cut = Duration::from_millis(round % 20);
        let ended = tokio::time::timeout(cut, guest.deliver(call(plan))).await;
        assert!(ended.is_err(), "{ended:?}");
    }
    let report = tokio::time::timeout(
        Duration::from_secs(10),
        deliver(&guest, json!({"mode": "calm"})),
    )
    .await
    .expect("there is a free place");
    assert_eq!(summary(&report), "calm");
}
