//! A gateway run as a child process, for the demo and the bench: the real `hookport serve` on a
//! scratch directory, spoken to through its public API only.
//!
//! Nothing here is used by the gateway itself.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Seals what is thrown away with the scratch database.
const SCRATCH_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A compile of all bundled components on a slow machine fits.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The child or its surroundings failed.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// A file or the process itself.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// It ended or stayed silent before it was ready.
    #[error("the gateway did not start: {reason}; its log ends with:\n{log}")]
    Start {
        /// What was seen.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// A call to its API failed.
    #[error("{call}: {reason}")]
    Api {
        /// Method and path.
        call: String,
        /// Status and body, or the transport's error.
        reason: String,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ChildError {
    let what = what.into();
    move |source| ChildError::Io { what, source }
}

/// A private directory that goes with this value.
#[derive(Debug)]
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Creates `<parent>/<name>-<process id>`, readable by this user alone.
    ///
    /// # Errors
    /// When it exists or cannot be created.
    pub fn create(parent: &Path, name: &str) -> Result<Self, ChildError> {
        let path = parent.join(format!("{name}-{}", std::process::id()));
        let what = format!("cannot create {}", path.display());
        fs::create_dir_all(parent)
            .and_then(|()| DirBuilder::new().mode(0o700).create(&path))
            .map_err(io_error(what))?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // What remains lies in a directory that is ignored by version control.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies the components of `from` into `<scratch>/providers`, with the same grants, except that
/// the webhook provider may reach loopback: the receivers of a demo and of a bench are there.
///
/// # Errors
/// When `from` holds no webhook component, or a file cannot be read or written.
pub fn providers_allowing_loopback(from: &Path, scratch: &Path) -> Result<PathBuf, ChildError> {
    let to = scratch.join("providers");
    fs::create_dir(&to).map_err(io_error(format!("cannot create {}", to.display())))?;
    let reading = || format!("cannot read {}", from.display());
    for entry in fs::read_dir(from).map_err(io_error(reading()))? {
        let path = entry.map_err(io_error(reading()))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "wasm")
            && let Some(name) = path.file_name()
        {
            fs::copy(&path, to.join(name))
                .map_err(io_error(format!("cannot copy {}", path.display())))?;
        }
    }
    if !to.join("webhook.wasm").exists() {
        return Err(ChildError::Io {
            what: format!(
                "{} holds no webhook.wasm: build it with `cargo xtask providers`",
                from.display()
            ),
            source: io::ErrorKind::NotFound.into(),
        });
    }
    let grants = fs::read_to_string(from.join("grants.toml")).unwrap_or_default();
    let file = to.join("grants.toml");
    let invalid = |error: &dyn std::fmt::Display| ChildError::Io {
        what: format!("cannot read {}", from.join("grants.toml").display()),
        source: io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    };
    let mut grants: toml::Table = grants.parse().map_err(|e: toml::de::Error| invalid(&e))?;
    let loopback: toml::Table = "hosts = [\"{config.url}\"]\nexpose_secrets = false\n\
                                 allow_addresses = [\"127.0.0.0/8\"]\n"
        .parse()
        .map_err(|e: toml::de::Error| invalid(&e))?;
    grants.insert("webhook".into(), loopback.into());
    fs::write(&file, grants.to_string())
        .map_err(io_error(format!("cannot write {}", file.display())))?;
    Ok(to)
}

/// A running gateway.
#[derive(Debug)]
pub struct GatewayChild {
    process: Child,
    log: PathBuf,
    /// From its start to the line that says where it listens.
    pub listening_after: Duration,
    /// Its API, as an admin.
    pub api: ApiClient,
}

/// What it works over; nothing: embedded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Engines<'a> {
    /// A shared store.
    pub store_url: Option<&'a str>,
    /// A broker in front of it.
    pub queue_url: Option<&'a str>,
}

impl GatewayChild {
    /// Starts `hookport serve` from this very binary and waits until it listens. Its log goes to
    /// `<scratch>/gateway.log`.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not listen in time.
    pub async fn start(
        scratch: &Path,
        providers: &Path,
        engines: Engines<'_>,
    ) -> Result<Self, ChildError> {
        let key_file = scratch.join("data/admin.key");
        let key = || {
            fs::read_to_string(&key_file)
                .map_err(io_error(format!("cannot read {}", key_file.display())))
        };
        Self::spawn(scratch, providers, engines, "all", key).await
    }

    /// Starts a process that delivers what others accept, and waits until it listens. Its API
    /// answers health alone.
    ///
    /// # Errors
    /// As for [`GatewayChild::start`].
    pub async fn start_worker(
        scratch: &Path,
        providers: &Path,
        engines: Engines<'_>,
    ) -> Result<Self, ChildError> {
        fs::create_dir_all(scratch)
            .map_err(io_error(format!("cannot create {}", scratch.display())))?;
        Self::spawn(scratch, providers, engines, "worker", || Ok(String::new())).await
    }

    async fn spawn(
        scratch: &Path,
        providers: &Path,
        engines: Engines<'_>,
        role: &str,
        key: impl FnOnce() -> Result<String, ChildError>,
    ) -> Result<Self, ChildError> {
        let log = scratch.join("gateway.log");
        let log_file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(io_error(format!("cannot write {}", log.display())))?;
        let binary = std::env::current_exe().map_err(io_error("cannot find this program"))?;
        let started = Instant::now();
        let mut process = Command::new(binary);
        process
            .args(["serve", "--listen", "127.0.0.1:0", "--role", role])
            .arg("--data-dir")
            .arg(scratch.join("data"))
            .arg("--providers")
            .arg(providers)
            // Never the store that this shell happens to be set up for.
            .env_remove("HOOKPORT_STORE_URL")
            .env_remove("HOOKPORT_QUEUE_URL")
            .env_remove("HOOKPORT_CONFIG");
        if let Some(url) = engines.queue_url {
            process.env("HOOKPORT_QUEUE_URL", url);
        }
        if let Some(url) = engines.store_url {
            process
                .env("HOOKPORT_STORE_URL", url)
                .env("HOOKPORT_MASTER_KEY", SCRATCH_KEY);
        }
        let mut process = process
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .kill_on_drop(true)
            .spawn()
            .map_err(io_error("cannot start the gateway"))?;
        let base = match tokio::time::timeout(START_TIMEOUT, listening_line(&mut process)).await {
            Ok(Ok(base)) => base,
            Ok(Err(reason)) => return Err(start_error(&log, reason)),
            Err(_) => return Err(start_error(&log, "no sign of life in time".into())),
        };
        let listening_after = started.elapsed();
        Ok(Self {
            process,
            log,
            listening_after,
            api: ApiClient::new(base, key()?.trim().to_owned()),
        })
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Where its log is.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until the provider answers calls, and returns how long that took from now.
    ///
    /// # Errors
    /// When it was refused, or does not come in time.
    pub async fn provider_serving(&self, id: &str) -> Result<Duration, ChildError> {
        let started = Instant::now();
        let path = format!("/providers/{id}");
        loop {
            let seen = match self.api.get(&path).await {
                Ok(provider) if provider["state"] == "serving" => return Ok(started.elapsed()),
                Ok(provider) => provider.to_string(),
                Err(error) => error.to_string(),
            };
            if started.elapsed() > START_TIMEOUT {
                return Err(start_error(
                    &self.log,
                    format!("the provider {id} does not serve: {seen}"),
                ));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When its state cannot be read.
    ///
    /// # Cancel safety
    /// It goes on running.
    pub async fn wait(&mut self) -> Result<std::process::ExitStatus, ChildError> {
        self.process
            .wait()
            .await
            .map_err(io_error("cannot wait for the gateway"))
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it has not ended in time: it is killed then.
    pub async fn stop(mut self) -> Result<(), ChildError> {
        let pid = self
            .process
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .map_err(|error| io_error("cannot stop the gateway")(error.into()))?;
        }
        match tokio::time::timeout(STOP_TIMEOUT, self.process.wait()).await {
            Ok(waited) => waited
                .map(drop)
                .map_err(io_error("cannot stop the gateway")),
            Err(_) => Err(ChildError::Io {
                what: "the gateway did not end after SIGTERM".into(),
                source: io::ErrorKind::TimedOut.into(),
            }),
        }
    }
}

fn start_error(log: &Path, reason: String) -> ChildError {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    ChildError::Start {
        reason,
        log: lines[lines.len().saturating_sub(20)..].join("\n"),
    }
}

/// Reads stdout up to `listening on <URL>`, and lets a task drain the rest.
pub(crate) async fn listening_line(process: &mut Child) -> Result<String, String> {
    let stdout = process.stdout.take().ok_or("its output is not piped")?;
    let mut lines = BufReader::new(stdout).lines();
    let base = loop {
        match lines.next_line().await {
            Ok(Some(line)) => {
                if let Some(base) = line.strip_prefix("listening on ") {
                    break base.trim().to_owned();
                }
            }
            Ok(None) => return Err("it ended".into()),
            Err(error) => return Err(error.to_string()),
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(base)
}

/// A client of the public API.
#[derive(Clone, Debug)]
pub struct ApiClient {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl ApiClient {
    fn new(base: String, key: String) -> Self {
        // Fails only when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            http: reqwest::Client::new(),
            base,
            key,
        }
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The API key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The document at `path`, which stands below `/api/v1`.
    ///
    /// # Errors
    /// Every answer but 2xx.
    pub async fn get(&self, path: &str) -> Result<Value, ChildError> {
        self.call(reqwest::Method::GET, path, None).await
    }

    /// Puts a document.
    ///
    /// # Errors
    /// Every answer but 2xx.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, ChildError> {
        self.call(reqwest::Method::PUT, path, Some(body)).await
    }

    /// Posts a document.
    ///
    /// # Errors
    /// Every answer but 2xx.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ChildError> {
        self.call(reqwest::Method::POST, path, Some(body)).await
    }

    async fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ChildError> {
        let call = format!("{method} {path}");
        let failed = |reason: String| ChildError::Api {
            call: call.clone(),
            reason,
        };
        let mut request = self
            .http
            .request(method.clone(), format!("{}/api/v1{path}", self.base))
            .bearer_auth(&self.key)
            .timeout(CALL_TIMEOUT);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|e| failed(e.to_string()))?;
        let status = response.status();
        let text = response.text().await.map_err(|e| failed(e.to_string()))?;
        if !status.is_success() {
            return Err(failed(format!("{status}: {text}")));
        }
        serde_json::from_str(&text).map_err(|e| failed(format!("no JSON: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_webhook_provider_may_reach_loopback() {
        let root = tempfile::tempdir().expect("temporary directory");
        let (from, scratch) = (root.path().join("from"), root.path().join("scratch"));
        fs::create_dir(&from).expect("directory");
        fs::create_dir(&scratch).expect("directory");
        fs::write(from.join("webhook.wasm"), b"component").expect("file");
        fs::write(from.join("notes.txt"), b"not a component").expect("file");
        fs::write(
            from.join("grants.toml"),
            "[webhook]\nhosts = [\"a.example\"]\n[slack]\nhosts = [\"slack.com\"]\n",
        )
        .expect("file");

        let to = providers_allowing_loopback(&from, &scratch).expect("copied");

        let grants: toml::Table = fs::read_to_string(to.join("grants.toml"))
            .expect("grants")
            .parse()
            .expect("toml");
        assert_eq!(
            grants["webhook"]["allow_addresses"][0].as_str(),
            Some("127.0.0.0/8")
        );
        assert_eq!(grants["slack"]["hosts"][0].as_str(), Some("slack.com"));
        assert!(grants["slack"].get("allow_addresses").is_none());
        assert!(to.join("webhook.wasm").exists());
        assert!(!to.join("notes.txt").exists());
    }

    #[test]
    fn a_folder_without_components_says_how_to_build_them() {
        let root = tempfile::tempdir().expect("temporary directory");
        let error = providers_allowing_loopback(root.path(), root.path()).expect_err("refused");
        assert!(
            error.to_string().contains("cargo xtask providers"),
            "{error}"
        );
    }
}
