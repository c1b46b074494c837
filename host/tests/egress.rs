//! Egress against real servers on loopback: slow, broken and hostile ones, and every way of
//! writing an address that is not granted.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use hookport::domain::provider::ProviderId;
use hookport::egress::client::EgressConfig;
use hookport::egress::{
    Egress, EgressBody, EgressError, EgressLimits, EgressPolicy, EgressRequest, EgressResponse,
    HostPattern,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Guards against a hang; no test depends on how long something takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers connections with `serve`, and passes on the head and body of each request it read.
struct Server {
    port: u16,
    requests: mpsc::UnboundedReceiver<String>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = TcpStream> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let (sender, requests) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let (serve, counter) = (Arc::new(serve), connections.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let (serve, sender) = (serve.clone(), sender.clone());
                tokio::spawn(async move {
                    while let Some(request) = read_request(&mut stream).await {
                        let _ = sender.send(request.clone());
                        stream = serve(stream, request).await;
                    }
                });
            }
        });
        Self {
            port,
            requests,
            connections,
        }
    }

    /// One that gives the same answer to everyone.
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::start(move |mut stream: TcpStream, _| {
            let answer = answer.clone();
            async move {
                let _ = stream.write_all(&answer).await;
                stream
            }
        })
        .await
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn request(&mut self) -> String {
        let request = tokio::time::timeout(PATIENCE, self.requests.recv()).await;
        request.expect("a request in time").expect("a request")
    }
}

/// Head and body (by content-length) of the next request.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4_096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_ascii_lowercase()
                .split_once("content-length: ")
                .and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return Some(text);
            }
        }
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
}

fn policy(hosts: &[&str], allow_addresses: &[&str]) -> EgressPolicy {
    EgressPolicy {
        provider: ProviderId::parse("test").expect("an id"),
        hosts: hosts
            .iter()
            .map(|host| HostPattern::parse(host).expect("a pattern"))
            .collect(),
        allow_addresses: allow_addresses
            .iter()
            .map(|net| net.parse().expect("a network"))
            .collect(),
    }
}

/// Everything on loopback.
fn open() -> EgressPolicy {
    policy(&["*"], &["127.0.0.0/8", "::1/128"])
}

fn limits() -> EgressLimits {
    EgressLimits {
        timeout: PATIENCE,
        response_bytes_max: 1 << 20,
        response_header_bytes_max: 16 << 10,
    }
}

fn get(url: impl Into<String>) -> EgressRequest {
    EgressRequest {
        method: Method::GET,
        url: url.into(),
        headers: HeaderMap::new(),
        body: EgressBody::Bytes(Bytes::new()),
        follow_redirects: false,
    }
}

fn following(url: impl Into<String>) -> EgressRequest {
    EgressRequest {
        follow_redirects: true,
        ..get(url)
    }
}

fn egress() -> Egress {
    Egress::new(&EgressConfig::default()).expect("egress")
}

async fn send(
    policy: &EgressPolicy,
    limits: EgressLimits,
    request: EgressRequest,
) -> Result<EgressResponse, EgressError> {
    let sent = tokio::time::timeout(PATIENCE * 2, egress().send(policy, limits, request)).await;
    sent.expect("no hang")
}

async fn body(response: EgressResponse) -> Result<Vec<u8>, EgressError> {
    let mut body = response.body;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

fn error(result: Result<EgressResponse, EgressError>) -> EgressError {
    match result {
        Ok(response) => panic!("was sent, and answered {}", response.status),
        Err(error) => error,
    }
}

fn denied(result: Result<EgressResponse, EgressError>, words: &str) {
    match error(result) {
        EgressError::Denied(text) => assert!(text.contains(words), "{text:?} lacks {words:?}"),
        other => panic!("not denied: {other:?}"),
    }
}

#[tokio::test]
async fn a_request_arrives_as_written() {
    let mut server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let mut request = get(server.url("/a?b=c#fragment"));
    request.method = Method::POST;
    request
        .headers
        .insert("x-test", HeaderValue::from_static("1"));
    request.body = EgressBody::Bytes(Bytes::from_static(b"hello"));
    let response = send(&open(), limits(), request).await.expect("sent");
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(body(response).await.expect("a body"), b"ok");
    let seen = server.request().await;
    assert!(seen.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{seen}");
    assert!(
        seen.contains("x-test: 1\r\n") && seen.ends_with("\r\n\r\nhello"),
        "{seen}"
    );
    assert!(
        seen.contains(&format!("host: 127.0.0.1:{}\r\n", server.port)),
        "{seen}"
    );
}

#[tokio::test]
async fn connections_are_kept_but_never_shared_between_policies() {
    let server = Server::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let url = format!("http://localhost:{}/", server.port);
    let egress = egress();
    for _ in 0..3 {
        let response = egress
            .send(&open(), limits(), get(&url))
            .await
            .expect("sent");
        body(response).await.expect("empty");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    // The idle connection would answer at once; the policy must be asked all the same.
    let closed = policy(&["*"], &[]);
    denied(egress.send(&closed, limits(), get(&url)).await, "loopback");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_at_the_deadline() {
    let server = Server::start(|stream, _| async {
        std::future::pending::<()>().await;
        stream
    })
    .await;
    let timeout = Duration::from_millis(200);
    let short = EgressLimits {
        timeout,
        ..limits()
    };
    let result = send(&open(), short, get(server.url("/"))).await;
    assert_eq!(error(result), EgressError::Timeout(timeout));
}

#[tokio::test]
async fn a_server_that_dribbles_is_given_up_at_the_deadline() {
    let server = Server::start(|mut stream: TcpStream, _| async {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 600\r\n\r\n")
            .await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        stream
    })
    .await;
    let timeout = Duration::from_millis(1_500);
    let short = EgressLimits {
        timeout,
        ..limits()
    };
    let response = send(&open(), short, get(server.url("/")))
        .await
        .expect("a head");
    assert_eq!(body(response).await, Err(EgressError::Timeout(timeout)));
}

#[tokio::test]
async fn a_server_that_never_comes_to_its_answer_is_given_up_at_the_deadline() {
    let server = Server::start(|mut stream: TcpStream, _| async {
        while stream
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await
            .is_ok()
        {
            tokio::task::yield_now().await;
        }
        stream
    })
    .await;
    let timeout = Duration::from_millis(300);
    let short = EgressLimits {
        timeout,
        ..limits()
    };
    let result = send(&open(), short, get(server.url("/"))).await;
    assert_eq!(error(result), EgressError::Timeout(timeout));
}

#[tokio::test]
async fn a_receiver_that_does_not_read_is_given_up_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let timeout = Duration::from_millis(300);
    let short = EgressLimits {
        timeout,
        ..limits()
    };
    let mut request = get(format!("http://127.0.0.1:{port}/"));
    request.method = Method::POST;
    request.body = EgressBody::Bytes(Bytes::from(vec![0; 64 << 20]));
    let result = send(&open(), short, request).await;
    assert_eq!(error(result), EgressError::Timeout(timeout));
    drop(listener);
}

#[tokio::test]
async fn a_huge_answer_is_broken_off() {
    const SIZE: usize = 100 << 20;
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let server = Server::start(move |mut stream: TcpStream, _| {
        let written = counter.clone();
        async move {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            let chunk = vec![b'x'; 64 << 10];
            while stream.write_all(&chunk).await.is_ok() {
                if written.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len() >= SIZE {
                    break;
                }
            }
            stream
        }
    })
    .await;
    let response = send(&open(), limits(), get(server.url("/")))
        .await
        .expect("a head");
    let ended = body(response).await.expect_err("too large");
    assert_eq!(
        ended,
        EgressError::Limit("the response is larger than 1048576 bytes".to_owned())
    );
    assert!(
        written.load(Ordering::Relaxed) < SIZE,
        "it was read to its end"
    );
}

#[tokio::test]
async fn a_gzip_bomb_is_capped_by_what_it_becomes() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        encoder.write_all(&vec![0; 1 << 20]).expect("written");
    }
    let bomb = encoder.finish().expect("finished");
    assert!(
        bomb.len() < 1 << 20,
        "the cap must be met by the decoded bytes only"
    );
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        bomb.len()
    )
    .into_bytes();
    answer.extend(bomb);
    let server = Server::answering(answer).await;
    let response = send(&open(), limits(), get(server.url("/")))
        .await
        .expect("a head");
    assert!(matches!(body(response).await, Err(EgressError::Limit(_))));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_network_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nonly this",
    ] {
        let server = Server::start(move |mut stream: TcpStream, _| async move {
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
            stream
        })
        .await;
        let response = send(&open(), limits(), get(server.url("/")))
            .await
            .expect("a head");
        assert!(
            matches!(body(response).await, Err(EgressError::Network(_))),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_network_error_without_the_path() {
    let server = Server::answering("SSH-2.0-OpenSSH_9.9\r\n").await;
    let url = server.url("/t0ken?key=s3cret");
    let text = match error(send(&open(), limits(), get(url)).await) {
        EgressError::Network(text) => text,
        other => panic!("{other:?}"),
    };
    assert!(text.contains("127.0.0.1"), "{text}");
    assert!(
        !text.contains("t0ken") && !text.contains("s3cret"),
        "{text}"
    );
}

#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let many: String = (0..5_000).map(|i| format!("x-{i}: y\r\n")).collect();
    let large = format!("x-large: {}\r\n", "y".repeat(32 << 10));
    for flood in [many, large] {
        let answer = format!("HTTP/1.1 200 OK\r\n{flood}content-length: 0\r\n\r\n");
        let server = Server::answering(answer).await;
        let ended = error(send(&open(), limits(), get(server.url("/"))).await);
        assert!(
            matches!(ended, EgressError::Limit(_) | EgressError::Network(_)),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn every_way_to_write_a_prohibited_address_is_denied() {
    let server = Server::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let port = server.port;
    let anywhere = policy(&["*"], &[]);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "１２７.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::7f00:1]",
        "[64:ff9b::7f00:1]",
        "0.0.0.0",
        "0",
        "[::]",
        "localhost",
        "LOCALHOST",
        "%6cocalhost",
    ] {
        let url = format!("http://{host}:{port}/");
        denied(send(&anywhere, limits(), get(url)).await, "prohibited");
    }
    let metadata = "http://169.254.169.254/latest/meta-data";
    denied(send(&anywhere, limits(), get(metadata)).await, "metadata");
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn only_granted_authorities_are_reached() {
    let server = Server::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let port = server.port;
    let granted = policy(
        &[&format!("http://127.0.0.1:{port}")],
        &["127.0.0.0/8", "::1/128"],
    );
    let sent = send(&granted, limits(), get(server.url("/"))).await;
    assert_eq!(sent.expect("granted").status, StatusCode::NO_CONTENT);
    let reached = server.connections.load(Ordering::Relaxed);
    for url in [
        format!("http://127.0.0.2:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://127.0.0.1:{}/", port ^ 1),
        format!("https://127.0.0.1:{port}/"),
        format!("http://[::1]:{port}/"),
        "http://127.0.0.1/".to_owned(),
        // A path that looks like the granted authority, and the reverse.
        format!("http://127.0.0.3/http://127.0.0.1:{port}/"),
        format!("http://127.0.0.3\\@127.0.0.1:{port}/"),
        format!("http://127.0.0.3#@127.0.0.1:{port}/"),
        format!("http://127.0.0.3?@127.0.0.1:{port}/"),
    ] {
        denied(
            send(&granted, limits(), get(&url)).await,
            "not among the granted hosts",
        );
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), reached);
}

#[tokio::test]
async fn user_info_other_schemes_and_connect_are_denied() {
    let server = Server::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let port = server.port;
    for (url, words) in [
        (format!("http://user@127.0.0.1:{port}/"), "user info"),
        (
            format!("http://hooks.slack.com:x@127.0.0.1:{port}/"),
            "user info",
        ),
        (format!("http://:p@127.0.0.1:{port}/"), "user info"),
        ("ftp://127.0.0.1/".to_owned(), "scheme"),
        ("file:///etc/passwd".to_owned(), "scheme"),
        ("data:text/plain,x".to_owned(), "scheme"),
    ] {
        denied(send(&open(), limits(), get(url)).await, words);
    }
    let mut connect = get(server.url("/"));
    connect.method = Method::CONNECT;
    denied(send(&open(), limits(), connect).await, "CONNECT");
    for (name, value) in [
        ("host", "evil.test"),
        ("connection", "upgrade"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "trailers"),
        ("proxy-authorization", "x"),
        ("keep-alive", "1"),
    ] {
        let mut request = get(server.url("/"));
        request
            .headers
            .insert(name, HeaderValue::from_static(value));
        let ended = error(send(&open(), limits(), request).await);
        assert!(
            matches!(&ended, EgressError::Invalid(text) if text.contains(name)),
            "{ended:?}"
        );
    }
    for url in [
        "",
        "/x",
        "//127.0.0.1/",
        "http://",
        "http://a b/",
        "http://[::1/",
    ] {
        let ended = error(send(&open(), limits(), get(url)).await);
        assert!(matches!(ended, EgressError::Invalid(_)), "{url}: {ended:?}");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_absolute_form_path_stays_a_path() {
    let mut server = Server::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    for path in [
        "/http://evil.test/",
        "//evil.test/x",
        "/../../x",
        "/%2e%2e/x",
    ] {
        send(&open(), limits(), get(server.url(path)))
            .await
            .expect("sent");
        let seen = server.request().await;
        assert!(seen.starts_with("GET /"), "{seen}");
        assert!(
            seen.contains(&format!("host: 127.0.0.1:{}\r\n", server.port)),
            "{seen}"
        );
    }
}

fn redirect(status: u16, location: &str) -> String {
    format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
}

#[tokio::test]
async fn redirects_are_an_answer_like_any_other_unless_asked_for() {
    let server = Server::answering(redirect(302, "http://169.254.169.254/")).await;
    let response = send(&open(), limits(), get(server.url("/")))
        .await
        .expect("sent");
    assert_eq!(response.status, StatusCode::FOUND);
    assert_eq!(response.headers["location"], "http://169.254.169.254/");
}

#[tokio::test]
async fn each_redirect_is_checked_anew() {
    for (location, words) in [
        ("http://169.254.169.254/latest/meta-data", "metadata"),
        ("http://2852039166/", "metadata"),
        ("http://[::ffff:169.254.169.254]/", "metadata"),
        ("http://10.0.0.1/", "RFC 1918"),
        ("http://user:pw@127.0.0.1/", "user info"),
        ("file:///etc/passwd", "scheme"),
        ("gopher://127.0.0.1/", "scheme"),
    ] {
        let server = Server::answering(redirect(302, location)).await;
        denied(
            send(&open(), limits(), following(server.url("/"))).await,
            words,
        );
    }
    let server = Server::answering(redirect(307, "http://127.0.0.2:1/")).await;
    let granted = policy(
        &[&format!("http://127.0.0.1:{}", server.port)],
        &["127.0.0.0/8"],
    );
    let result = send(&granted, limits(), following(server.url("/"))).await;
    denied(result, "not among the granted hosts");
}

#[tokio::test]
async fn a_loop_of_redirects_ends() {
    let server = Server::answering(redirect(302, "/again")).await;
    let ended = error(send(&open(), limits(), following(server.url("/"))).await);
    assert_eq!(
        ended,
        EgressError::Limit("more than 5 redirects".to_owned())
    );
}

#[tokio::test]
async fn redirects_change_the_method_as_the_standard_says() {
    for (status, expected) in [
        (301, "GET / HTTP"),
        (302, "GET / HTTP"),
        (303, "GET / HTTP"),
        (307, "POST / HTTP"),
        (308, "POST / HTTP"),
    ] {
        let mut target = Server::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
        let first = Server::answering(redirect(status, &target.url("/"))).await;
        let mut request = following(first.url("/"));
        request.method = Method::POST;
        request.body = EgressBody::Bytes(Bytes::from_static(b"payload"));
        let content = HeaderValue::from_static("text/plain");
        request.headers.insert("content-type", content);
        let response = send(&open(), limits(), request).await.expect("followed");
        assert_eq!(response.status, StatusCode::NO_CONTENT);
        let seen = target.request().await;
        assert!(seen.starts_with(expected), "{status}: {seen}");
        let resent = expected.starts_with("POST");
        assert_eq!(seen.ends_with("payload"), resent, "{status}: {seen}");
        assert_eq!(seen.contains("content-type"), resent, "{status}: {seen}");
    }
}

#[tokio::test]
async fn credentials_stay_with_the_authority_they_were_meant_for() {
    let secret = || {
        let mut value = HeaderValue::from_static("s3cret");
        value.set_sensitive(true);
        value
    };
    let headers = || {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer s3cret"));
        headers.insert("cookie", HeaderValue::from_static("s3cret"));
        headers.insert("x-api-key", secret());
        headers.insert("x-harmless", HeaderValue::from_static("kept"));
        headers
    };
    // Another port is another authority.
    let mut target = Server::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let first = Server::answering(redirect(307, &target.url("/"))).await;
    let mut request = following(first.url("/"));
    request.headers = headers();
    send(&open(), limits(), request).await.expect("followed");
    let seen = target.request().await;
    assert!(
        seen.contains("x-harmless: kept") && !seen.contains("s3cret"),
        "{seen}"
    );

    let mut server = Server::start(|mut stream: TcpStream, request| async move {
        let answer = if request.starts_with("GET /second") {
            "HTTP/1.1 204 No Content\r\n\r\n".to_owned()
        } else {
            redirect(307, "/second")
        };
        let _ = stream.write_all(answer.as_bytes()).await;
        stream
    })
    .await;
    let mut request = following(server.url("/"));
    request.headers = headers();
    send(&open(), limits(), request).await.expect("followed");
    server.request().await;
    let seen = server.request().await;
    assert_eq!(seen.matches("s3cret").count(), 3, "{seen}");
}

#[tokio::test]
async fn a_streamed_body_is_not_sent_twice() {
    let mut target = Server::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let first = Server::answering(redirect(307, &target.url("/"))).await;
    let mut request = following(first.url("/"));
    request.method = Method::POST;
    let chunks = [Ok(Bytes::from_static(b"once"))];
    request.body = EgressBody::Stream(futures_util::stream::iter(chunks).boxed());
    let response = send(&open(), limits(), request).await.expect("sent");
    assert_eq!(response.status, StatusCode::TEMPORARY_REDIRECT);
    assert!(target.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_refused_connection_names_the_authority() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let url = format!("http://127.0.0.1:{port}/s3cret");
    let text = match error(send(&open(), limits(), get(url)).await) {
        EgressError::Network(text) => text,
        other => panic!("{other:?}"),
    };
    assert!(
        text.contains(&format!("127.0.0.1:{port}")) && !text.contains("s3cret"),
        "{text}"
    );
}

/// A TLS server on loopback that speaks HTTP/2 and HTTP/1.1, and the PEM of its authority.
async fn tls_server(protocols: &[&[u8]]) -> (u16, Vec<u8>) {
    let issued = hookport_test_servers::Issued::to("localhost");
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(issued.key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![issued.certificate.der().clone()], private.into())
        .expect("a certificate");
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let app = axum::Router::new()
                    .route(
                        "/downgrade",
                        axum::routing::get(|| async {
                            axum::response::Redirect::temporary("http://127.0.0.1/plain")
                        }),
                    )
                    .fallback(|request: axum::extract::Request| async move {
                        format!("{:?}", request.version())
                    });
                let service = hyper_util::service::TowerToHyperService::new(app);
                let io = hyper_util::rt::TokioIo::new(stream);
                let executor = hyper_util::rt::TokioExecutor::new();
                let server = hyper_util::server::conn::auto::Builder::new(executor);
                let _ = server.serve_connection(io, service).await;
            });
        }
    });
    (port, issued.authority.pem().into_bytes())
}

fn egress_trusting(root: Vec<u8>) -> Egress {
    Egress::new(&EgressConfig {
        extra_roots_pem: vec![root],
    })
    .expect("egress")
}

#[tokio::test]
async fn tls_offers_http2_and_falls_back_to_http1() {
    for (protocols, expected) in [
        (vec![&b"h2"[..], b"http/1.1"], "HTTP/2.0"),
        (vec![&b"http/1.1"[..]], "HTTP/1.1"),
    ] {
        let (port, root) = tls_server(&protocols).await;
        let url = format!("https://localhost:{port}/");
        let granted = policy(&[&format!("localhost:{port}")], &["127.0.0.0/8", "::1/128"]);
        let egress = egress_trusting(root);
        let response = egress
            .send(&granted, limits(), get(url))
            .await
            .expect("sent");
        assert_eq!(body(response).await.expect("a body"), expected.as_bytes());
    }
}

#[tokio::test]
async fn a_certificate_must_be_of_a_trusted_authority_and_for_the_name() {
    let (port, root) = tls_server(&[b"http/1.1"]).await;
    let url = format!("https://localhost:{port}/");
    let untrusted = egress().send(&open(), limits(), get(url)).await;
    assert!(matches!(error(untrusted), EgressError::Network(_)));
    let by_address = format!("https://127.0.0.1:{port}/");
    let misnamed = egress_trusting(root)
        .send(&open(), limits(), get(by_address))
        .await;
    assert!(matches!(error(misnamed), EgressError::Network(_)));
}

#[tokio::test]
async fn a_redirect_from_https_to_http_is_not_followed() {
    let (port, root) = tls_server(&[b"http/1.1"]).await;
    let url = format!("https://localhost:{port}/downgrade");
    let result = egress_trusting(root)
        .send(&open(), limits(), following(url))
        .await;
    denied(result, "from https to http");
}
