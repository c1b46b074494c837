//! The gateway as a process: started on a private data directory, killed, and started again.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::PATIENCE;
use crate::api::Api;
use crate::compiled;

/// Grants that let the bundled providers reach the receivers of a test.
pub const LOOPBACK_GRANTS: &str = r#"
[webhook]
hosts = ["{config.url}"]
expose_secrets = false
allow_addresses = ["127.0.0.0/8"]

[slack]
hosts = ["hooks.slack.com", "slack.com", "{connection.baseUrl}"]
expose_secrets = false
allow_addresses = ["127.0.0.0/8"]

[script]
hosts = ["{config.hosts}"]
allow_addresses = ["127.0.0.0/8"]

[jira]
hosts = ["{connection.baseUrl}"]
allow_addresses = ["127.0.0.0/8"]

[telegram]
hosts = ["api.telegram.org", "{connection.baseUrl}"]
allow_addresses = ["127.0.0.0/8"]

[webex]
hosts = ["webexapis.com", "{connection.baseUrl}"]
allow_addresses = ["127.0.0.0/8"]

[teams]
hosts = ["*.logic.azure.com", "*.api.powerplatform.com", "graph.microsoft.com", "login.microsoftonline.com", "{connection.baseUrl}", "{connection.loginUrl}"]
allow_addresses = ["127.0.0.0/8"]
"#;

/// Takes the room on a gateway's own disk.
const FILLING: &str = "filling";

/// The binary under test.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn binary() -> PathBuf {
    let path = std::env::var_os("HOOKPORT_BIN")
        .map_or_else(|| target_dir().join("debug/hookport"), PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: run cargo build --package hookport, or cargo xtask test",
        path.display()
    );
    path
}

/// A built component of the bundled providers: `webhook`.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn component(name: &str) -> PathBuf {
    built("HOOKPORT_COMPONENTS", "components", name)
}

/// A built guest of `tests/guests`.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn test_component(name: &str) -> PathBuf {
    built("HOOKPORT_TEST_COMPONENTS", "test-components", name)
}

fn built(variable: &str, folder: &str, name: &str) -> PathBuf {
    let folder =
        std::env::var_os(variable).map_or_else(|| target_dir().join(folder), PathBuf::from);
    let path = folder.join(format!("{name}.wasm"));
    assert!(
        path.exists(),
        "{} is missing: run cargo xtask providers --tests",
        path.display()
    );
    path
}

pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

/// How a gateway is set up before it starts.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Bundled providers to install and to wait for.
    pub providers: Vec<&'static str>,
    /// The text of `grants.toml`.
    pub grants: String,
    /// Its environment, which is empty otherwise.
    pub environment: Vec<(&'static str, String)>,
    /// Gives its data a file system of that size, which lasts as long as the process.
    pub disk_mib: Option<u32>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            providers: vec!["webhook"],
            grants: LOOPBACK_GRANTS.to_owned(),
            environment: Vec::new(),
            disk_mib: None,
        }
    }
}

/// A gateway on directories of its own, which go with it.
pub struct Gateway {
    home: TempDir,
    setup: Setup,
    process: Option<Process>,
    log: Arc<Mutex<String>>,
}

struct Process {
    child: Child,
    base: String,
}

impl Gateway {
    /// With the webhook provider, which may reach loopback.
    pub async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    /// As `setup` says.
    pub async fn start_with(setup: Setup) -> Self {
        let mut gateway = Self::prepare(setup);
        gateway.restart().await;
        gateway
    }

    /// The directories, nothing running yet.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[must_use]
    pub fn prepare(setup: Setup) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let gateway = Self {
            home,
            setup,
            process: None,
            log: Arc::default(),
        };
        fs::create_dir(gateway.providers_dir()).expect("the providers directory");
        for name in &gateway.setup.providers {
            gateway.install(&component(name), &format!("{name}.wasm"));
        }
        fs::write(
            gateway.providers_dir().join("grants.toml"),
            &gateway.setup.grants,
        )
        .expect("the grants file");
        gateway
    }

    /// Starts the gateway and waits until it listens and its providers answer calls.
    ///
    /// # Panics
    /// When it does not come up; with its log.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "it is running");
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        if let Some(mib) = self.setup.disk_mib {
            command = self.on_own_disk(&command, mib);
        } else {
            compiled::lend(&self.providers_dir(), &self.data_dir());
        }
        let mut child = command
            .arg("--providers")
            .arg(self.providers_dir())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let (tell, listening) = mpsc::channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        self.collect(stdout, Some(tell));
        self.collect(stderr, None);
        let base = tokio::task::spawn_blocking(move || listening.recv_timeout(PATIENCE))
            .await
            .expect("the waiting thread ends");
        let Ok(base) = base else {
            let _ = child.kill();
            panic!("the gateway does not listen; its log:\n{}", self.log());
        };
        self.process = Some(Process { child, base });
        for name in self.setup.providers.clone() {
            self.api().provider_state(name, "serving").await;
        }
        compiled::keep(&self.data_dir());
    }

    /// Copies what the process writes into the log, line by line, and tells the address once.
    fn collect(
        &self,
        stream: impl std::io::Read + Send + 'static,
        tell: Option<mpsc::Sender<String>>,
    ) {
        let log = self.log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let (Some(tell), Some(base)) = (&tell, line.strip_prefix("listening on ")) {
                    let _ = tell.send(base.trim().to_owned());
                }
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
    }

    /// Changes a variable of the environment, from the next start on.
    pub fn set_environment(&mut self, name: &'static str, value: &str) {
        let environment = &mut self.setup.environment;
        environment.retain(|(found, _)| *found != name);
        environment.push((name, value.to_owned()));
    }

    /// A command of the binary on this data directory, in the setup's environment.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir())
            .env_clear()
            .env("RUST_BACKTRACE", "1")
            .envs(self.setup.environment.iter().cloned())
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        command
    }

    /// The same command in a mount namespace where the data directory is a small file system: in
    /// memory, so that it needs no device, and no rights but those over the namespace.
    fn on_own_disk(&self, command: &Command, mib: u32) -> Command {
        fs::create_dir_all(self.data_dir()).expect("the data directory");
        let script = format!("mount -t tmpfs -o size={mib}m,mode=0700 tmpfs \"$0\" && exec \"$@\"");
        let mut own = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            own.args(["--user", "--map-root-user"]);
        }
        own.args(["--mount", "sh", "-c", &script])
            .arg(self.data_dir())
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        own
    }

    /// The data directory as the process sees it.
    fn own_data_dir(&self) -> PathBuf {
        let data = self.data_dir();
        if self.setup.disk_mib.is_none() {
            return data;
        }
        let root = PathBuf::from(format!("/proc/{}/root", self.pid()));
        root.join(data.strip_prefix("/").unwrap_or(&data))
    }

    /// Leaves no room on its own disk.
    ///
    /// # Panics
    /// When it has none.
    pub fn fill_disk(&self) {
        assert!(self.setup.disk_mib.is_some(), "it has no disk of its own");
        let mut file = fs::File::create(self.own_data_dir().join(FILLING)).expect("a file");
        let piece = [0; 4 << 10];
        while file.write_all(&piece).is_ok() {}
    }

    /// Takes away what [`Gateway::fill_disk`] wrote.
    ///
    /// # Panics
    /// When there is nothing.
    pub fn empty_disk(&self) {
        fs::remove_file(self.own_data_dir().join(FILLING)).expect("removed");
    }

    /// SIGKILL: whatever it was doing.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it is running");
        process.child.kill().expect("killed");
        process.child.wait().expect("ended");
    }

    /// SIGSTOP: it stands still with all that it is doing, until [`Gateway::thaw`].
    ///
    /// # Panics
    /// When it is not running.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on as if no time had passed.
    ///
    /// # Panics
    /// When it is not running.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Its process identifier.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it is running").child.id()
    }

    /// SIGTERM, without waiting.
    ///
    /// # Panics
    /// When it is not running.
    pub fn signal_termination(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("signalled");
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it is not running, or does not end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal_termination();
        let mut process = self.process.take().expect("it is running");
        let started = Instant::now();
        loop {
            if let Some(status) = process.child.try_wait().expect("its state") {
                return status;
            }
            if started.elapsed() > PATIENCE {
                let _ = process.child.kill();
                panic!("it did not end after SIGTERM; its log:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its API, as an admin.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn api(&self) -> Api {
        let process = self.process.as_ref().expect("it is running");
        Api::new(&process.base, self.admin_key().trim())
    }

    /// Scheme, host and port.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.process.as_ref().expect("it is running").base
    }

    /// The key that the first start made.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn admin_key(&self) -> String {
        fs::read_to_string(self.own_data_dir().join("admin.key")).expect("admin.key")
    }

    /// Writes an admin key of the store that it shares with another one.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn take_admin_key(&self, key: &str) {
        fs::create_dir_all(self.data_dir()).expect("the data directory");
        fs::write(self.data_dir().join("admin.key"), key).expect("written");
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Everything that it wrote on stdout and stderr since the first start.
    #[must_use]
    pub fn log(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until a line of its log has this text, and returns the line.
    ///
    /// # Panics
    /// When none comes.
    pub async fn log_line(&self, text: &str) -> String {
        let started = Instant::now();
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(
                started.elapsed() < PATIENCE,
                "no line with {text:?}:\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Database, keys, code cache.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// The watched directory.
    #[must_use]
    pub fn providers_dir(&self) -> PathBuf {
        self.home.path().join("providers")
    }

    /// Drops a component into the providers directory as an admin would: under another name
    /// first, then renamed.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn install(&self, from: &Path, name: &str) {
        self.install_bytes(&fs::read(from).expect("the component"), name);
    }

    /// The same with bytes at hand.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn install_bytes(&self, bytes: &[u8], name: &str) {
        let part = self.providers_dir().join(format!("{name}.part"));
        fs::write(&part, bytes).expect("written");
        fs::rename(part, self.providers_dir().join(name)).expect("renamed");
    }

    /// Every file of the data directory with its content.
    ///
    /// # Panics
    /// When one cannot be read.
    #[must_use]
    pub fn data_files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut folders = vec![self.data_dir()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = fs::read(&path).expect("a file");
                    files.push((path, bytes));
                }
            }
        }
        files
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the gateway ---\n{}---", self.log());
        }
    }
}
