//! Attacks by quantity: text, lines, handles, headers.

use std::io::Write;

use hookport_sdk::bindings::hookport::provider::{http, log};
use wasip2::http::types::Fields;

use crate::{Outcome, Plan};

const LONG_BYTES: usize = 64 << 20;

pub fn long_text() -> String {
    "x".repeat(LONG_BYTES)
}

pub fn long_log_line() -> Outcome {
    log::write(log::Level::Info, &long_text());
    Ok("logged".to_owned())
}

pub fn log(lines: u64) -> Outcome {
    for line in 0..lines {
        log::write(log::Level::Info, &format!("line {line}"));
    }
    Ok("logged".to_owned())
}

pub fn stdout(writes: u64) -> Outcome {
    let line = [b"y".repeat(1_000), b"\n".to_vec()].concat();
    let mut out = std::io::stdout().lock();
    for _ in 0..writes {
        out.write_all(&line).map_err(|error| error.to_string())?;
    }
    Ok("written".to_owned())
}

/// Takes handles and gives none back.
pub fn handles(plan: &Plan) -> Outcome {
    for _ in 0..plan.count() {
        std::mem::forget(plan.secret()?);
    }
    Ok("hoarded".to_owned())
}

pub fn headers(plan: &Plan) -> Outcome {
    let headers = (0..plan.count())
        .map(|i| (format!("x-{i}"), Vec::new()))
        .collect();
    let request = http::Request {
        method: "GET".to_owned(),
        url: vec![http::Segment::Text(plan.url().to_owned())],
        headers,
        auth: None,
        body: http::Body::Empty,
        timeout_ms: None,
        follow_redirects: false,
    };
    match http::send(&request) {
        Ok(response) => Ok(format!("status {}", response.status)),
        Err(error) => Err(format!("{error:?}")),
    }
}

pub fn wasi_headers() -> Outcome {
    let fields = Fields::new();
    for i in 0_u64.. {
        fields
            .append(&format!("x-{i}"), b"a value of some length")
            .map_err(|error| format!("refused after {i}: {error:?}"))?;
    }
    Ok("appended".to_owned())
}
