//! Attacks on the network and on what else a process could reach, through both HTTP imports and
//! the standard library.

use std::time::Duration;

use hookport_sdk::bindings::hookport::provider::http;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;

use crate::{Outcome, Plan};

pub fn repeat(count: u64, act: impl Fn() -> Outcome) -> Outcome {
    let mut last = Ok(String::new());
    for _ in 0..count {
        last = act();
    }
    last
}

pub fn for_ever(act: impl Fn() -> Outcome) -> Outcome {
    loop {
        // Whatever it is told, it asks again.
        drop(act());
    }
}

pub fn send(plan: &Plan) -> Outcome {
    let request = http::Request {
        method: "GET".to_owned(),
        url: vec![http::Segment::Text(plan.url().to_owned())],
        headers: Vec::new(),
        auth: None,
        body: http::Body::Empty,
        timeout_ms: None,
        follow_redirects: plan.redirects(),
    };
    match http::send(&request) {
        Ok(response) => Ok(format!("status {}", response.status)),
        Err(error) => Err(format!("{error:?}")),
    }
}

pub fn wasi_send(plan: &Plan) -> Outcome {
    let (status, _) = wasi_exchange(plan.url(), &[])?;
    Ok(format!("status {status}"))
}

/// A GET through `wasi:http`, its URL taken apart with no check at all.
pub fn wasi_exchange(url: &str, headers: &[(&str, &str)]) -> Result<(u16, Vec<u8>), String> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("http", rest)) => (Scheme::Http, rest),
        Some((other, rest)) => (Scheme::Other(other.to_owned()), rest),
        None => return Err("no URL".to_owned()),
    };
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    let fields = Fields::new();
    for (name, value) in headers {
        fields
            .append(name, value.as_bytes())
            .map_err(|error| format!("header: {error:?}"))?;
    }
    let request = OutgoingRequest::new(fields);
    let refused = |what: &str| format!("{what} refused");
    request
        .set_method(&Method::Get)
        .map_err(|()| refused("method"))?;
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| refused("scheme"))?;
    request
        .set_authority(Some(authority))
        .map_err(|()| refused("authority"))?;
    request
        .set_path_with_query(Some(&path))
        .map_err(|()| refused("path"))?;
    let body = request.body().map_err(|()| refused("body"))?;
    OutgoingBody::finish(body, None).map_err(|error| format!("body: {error:?}"))?;
    let future =
        outgoing_handler::handle(request, None).map_err(|error| format!("handle: {error:?}"))?;
    future.subscribe().block();
    let response = match future.get() {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(error))) => return Err(format!("{error:?}")),
        Some(Err(())) | None => return Err("no answer".to_owned()),
    };
    let status = response.status();
    let mut whole = Vec::new();
    let incoming = response.consume().map_err(|()| refused("answer"))?;
    let stream = incoming.stream().map_err(|()| refused("stream"))?;
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(chunk) => whole.extend(chunk),
            Err(StreamError::Closed) => break,
            Err(error) => return Err(format!("{error:?}")),
        }
    }
    Ok((status, whole))
}

pub fn sleep() -> Outcome {
    std::thread::sleep(Duration::from_secs(3_600));
    Ok("slept".to_owned())
}

/// Tries what a process may do and names what succeeded.
pub fn ambient(plan: &Plan) -> String {
    let mut reached = Vec::new();
    let authority = plan.url().trim_start_matches("http://");
    if std::net::TcpStream::connect(authority).is_ok() {
        reached.push("tcp");
    }
    if std::net::TcpListener::bind("127.0.0.1:0").is_ok() {
        reached.push("listen");
    }
    if std::net::UdpSocket::bind("127.0.0.1:0").is_ok() {
        reached.push("udp");
    }
    if std::net::ToSocketAddrs::to_socket_addrs("localhost:80").is_ok() {
        reached.push("names");
    }
    if std::fs::read("/etc/hostname").is_ok() || std::fs::read_dir("/").is_ok() {
        reached.push("files");
    }
    if std::fs::write("/tmp/hookport-hostile", "here").is_ok() {
        reached.push("writes");
    }
    if std::env::vars_os().next().is_some() {
        reached.push("environment");
    }
    if std::env::args_os().next().is_some() {
        reached.push("arguments");
    }
    format!("reached: {}", reached.join(" "))
}
