//! What a call finds: nothing of an earlier one, nothing of the machine.

use serde_json::json;

use crate::harness::{Receiver, deliver, fine, limits, load, own_url_on_loopback, summary};
use hookport::plugin::limits::Limits;

#[tokio::test]
async fn nothing_of_an_earlier_call_is_left_in_memory() {
    let patient = Limits {
        cpu_ms_max: 20_000,
        ..limits()
    };
    let guest = load(own_url_on_loopback(), patient).await;
    let key = 0x5eed_u64;
    // Looking finds what the same call planted, …
    for _ in 0..3 {
        let report = deliver(&guest, json!({"mode": "plant", "key": key})).await;
        let found: usize = summary(&report)
            .strip_prefix("found ")
            .and_then(|count| count.parse().ok())
            .expect("a count");
        assert!(found >= (6 << 20) / 8, "{found}");
    }
    // … and never what an earlier one did, in whichever slot of the pool it ran.
    for _ in 0..200 {
        let report = deliver(&guest, json!({"mode": "look", "key": key})).await;
        assert_eq!(summary(&report), "found 0");
    }
}

#[tokio::test]
async fn a_guest_has_no_ambient_authority() {
    let receiver = Receiver::saying(fine()).await;
    let guest = load(own_url_on_loopback(), limits()).await;
    let url = format!("http://127.0.0.1:{}", receiver.port);
    let report = deliver(&guest, json!({"mode": "ambient", "url": url})).await;
    assert_eq!(summary(&report), "reached: ");
    assert_eq!(receiver.connections(), 0);
}
