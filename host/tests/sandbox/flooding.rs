//! Text, lines, requests, handles and headers in quantity.

use hookport::plugin::limits::Limits;
use serde_json::json;

use crate::harness::{
    Receiver, deliver, fine, limit, limits, load, own_url, own_url_on_loopback, summary,
};

/// Room in memory for a text that the host will not take.
fn roomy() -> Limits {
    Limits {
        memory_bytes_max: 150 << 20,
        cpu_ms_max: 10_000,
        ..limits()
    }
}

#[tokio::test]
async fn a_64_mib_answer_is_not_taken() {
    let guest = load(own_url(), roomy()).await;
    let report = deliver(&guest, json!({"mode": "long answer"})).await;
    let text = limit(&report);
    assert!(text.contains("handed the host more than allowed"), "{text}");
}

#[tokio::test]
async fn a_64_mib_log_line_is_not_taken() {
    let guest = load(own_url(), roomy()).await;
    let report = deliver(&guest, json!({"mode": "long log line"})).await;
    let text = limit(&report);
    assert!(text.contains("handed the host more than allowed"), "{text}");
}

#[tokio::test]
async fn a_million_log_lines_are_capped() {
    let guest = load(own_url(), limits()).await;
    let report = deliver(&guest, json!({"mode": "log", "count": 1_000_000})).await;
    if report.result.is_err() {
        limit(&report);
    }
    assert_eq!(report.logs.len(), 51, "the cap and a note");
    let note = &report.logs[50].message;
    assert!(note.contains("more lines were dropped"), "{note}");
}

#[tokio::test]
async fn a_flood_on_stdout_is_capped() {
    let guest = load(own_url(), limits()).await;
    let report = deliver(&guest, json!({"mode": "stdout", "count": 1_000_000})).await;
    if report.result.is_err() {
        limit(&report);
    }
    assert!(report.logs.len() <= 51, "{}", report.logs.len());
    let bytes: usize = report.logs.iter().map(|line| line.message.len()).sum();
    assert!(bytes <= (16 << 10) + 100, "{bytes}");
    assert!(report.logs.iter().any(|line| line.level == "stdout"));
}

#[tokio::test]
async fn a_thousand_requests_are_capped_through_either_import() {
    for mode in ["send", "wasi send"] {
        let receiver = Receiver::saying(fine()).await;
        let guest = load(own_url_on_loopback(), limits()).await;
        let plan = json!({"mode": mode, "url": receiver.url(), "count": 1_000});
        let report = deliver(&guest, plan).await;
        assert_eq!(
            limit(&report),
            "more than 5 HTTP requests in one call",
            "{mode}"
        );
        assert_eq!(receiver.connections(), 5, "{mode}");
    }
}

#[tokio::test]
async fn both_imports_share_one_count() {
    let receiver = Receiver::saying(fine()).await;
    let none = Limits {
        http_calls_max: 0,
        ..limits()
    };
    let guest = load(own_url_on_loopback(), none).await;
    for mode in ["send", "wasi send"] {
        let report = deliver(&guest, json!({"mode": mode, "url": receiver.url()})).await;
        assert_eq!(limit(&report), "more than 0 HTTP requests in one call");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn hoarded_handles_are_capped() {
    let guest = load(own_url(), limits()).await;
    let report = deliver(&guest, json!({"mode": "handles", "count": 1_000_000})).await;
    let text = limit(&report);
    assert!(text.contains("handed the host more than allowed"), "{text}");
    let report = deliver(&guest, json!({"mode": "handles", "count": 50})).await;
    assert_eq!(summary(&report), "hoarded");
}

#[tokio::test]
async fn a_flood_of_headers_is_not_sent() {
    let receiver = Receiver::saying(fine()).await;
    let wide = Limits {
        request_bytes_max: 64 << 20,
        cpu_ms_max: 10_000,
        ..limits()
    };
    let guest = load(own_url_on_loopback(), wide).await;
    // More than a header map holds.
    let plan = json!({"mode": "headers", "url": receiver.url(), "count": 40_000});
    let report = deliver(&guest, plan).await;
    let text = limit(&report);
    assert!(text.contains("headers"), "{text}");
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn headers_hoarded_through_wasi_http_are_capped() {
    let guest = load(own_url(), limits()).await;
    let report = deliver(&guest, json!({"mode": "wasi headers"})).await;
    let text = limit(&report);
    assert!(text.contains("handed the host more than allowed"), "{text}");
}

#[tokio::test]
async fn a_flood_in_the_answer_is_cut_off() {
    let body = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
        "b".repeat(2 << 20)
    );
    let headers = format!(
        "HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "h".repeat(64 << 10)
    );
    for answer in [body, headers] {
        let receiver = Receiver::saying(answer).await;
        let guest = load(own_url_on_loopback(), limits()).await;
        for mode in ["send", "wasi send"] {
            let report = deliver(&guest, json!({"mode": mode, "url": receiver.url()})).await;
            limit(&report);
        }
    }
}
