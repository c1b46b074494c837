//! PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::authority::Certificates;
use crate::process::{Account, Server, free_port, until};

/// What to do where it is missing.
const REMEDY: &str = "PostgreSQL's programs are missing: install it (Debian: apt-get install postgresql), or run cargo xtask test, which does";

/// Whether and where PostgreSQL is installed: the newest of the distribution's versions, or the one
/// on the path.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok();
    let mut found: Vec<(u32, PathBuf)> = versions
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            let programs = path.join("bin");
            programs
                .join("initdb")
                .exists()
                .then_some((version, programs))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, path)| path).or_else(|| {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .find(|folder| folder.join("initdb").exists())
    })
}

/// A private server.
#[derive(Debug)]
pub struct Postgres {
    home: TempDir,
    programs: PathBuf,
    account: Account,
    port: u16,
    speaks_tls: bool,
    server: Server,
}

impl Postgres {
    /// Starts one on an empty cluster.
    ///
    /// # Panics
    /// With what to install, or what went wrong.
    #[must_use]
    pub fn start() -> Self {
        Self::start_as(false)
    }

    /// Starts one that speaks TLS. (Clients take TLS where it is offered, and a proxy reads nothing then.)
    #[must_use]
    pub fn start_with_tls() -> Self {
        Self::start_as(true)
    }

    fn start_as(speaks_tls: bool) -> Self {
        let programs = programs().expect(REMEDY);
        let account = Account::of(&["postgres", "nobody"]);
        let home = tempfile::tempdir().expect("a directory");
        account.own(home.path());
        let made = account
            .command(programs.join("initdb"))
            .args([
                "--username",
                "hookport",
                "--auth",
                "trust",
                "--encoding",
                "UTF8",
            ])
            .args(["--locale", "C", "--no-sync", "--pgdata"])
            .arg(home.path().join("data"))
            .stdout(Stdio::null())
            .status();
        assert!(made.is_ok_and(|made| made.success()), "initdb failed");
        Certificates::make(home.path(), &account);
        let port = free_port();
        let server = run(&account, &programs, home.path(), port, speaks_tls);
        let postgres = Self {
            home,
            programs,
            account,
            port,
            speaks_tls,
            server,
        };
        postgres.wait();
        postgres
    }

    /// The one server of this process that tests share, each with databases of its own.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The URL of a new, empty database.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let made = Command::new(self.programs.join("createdb"))
            .args(["--host", "127.0.0.1", "--username", "hookport"])
            .args(["--port", &self.port.to_string(), &name])
            .status();
        assert!(made.is_ok_and(|made| made.success()), "createdb failed");
        format!(
            "postgres://hookport:pass-of-the-database@127.0.0.1:{}/{name}",
            self.port
        )
    }

    /// The same for TLS, with the server's certificate checked against its authority.
    #[must_use]
    pub fn tls_database(&self) -> String {
        format!(
            "{}?sslmode=verify-full&sslrootcert={}",
            self.database(),
            self.authority().display()
        )
    }

    /// The authority of its certificate, PEM.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        Certificates::of(self.home.path()).authority()
    }

    fn wait(&self) {
        until("PostgreSQL", || {
            Command::new(self.programs.join("pg_isready"))
                .args(["--quiet", "--host", "127.0.0.1"])
                .args(["--port", &self.port.to_string()])
                .status()
                .is_ok_and(|answered| answered.success())
        });
    }

    /// Ends it at once (`immediate`: no checkpoint, connections cut), as a crash would.
    pub fn crash(&self) {
        self.server.signal(Signal::QUIT);
        self.server.join();
    }

    /// Ends it in order (`fast`: transactions rolled back, connections closed, a checkpoint).
    pub fn stop(&self) {
        self.server.signal(Signal::INT);
        self.server.join();
    }

    /// It and everything that it runs stand still until [`Postgres::thaw`].
    pub fn freeze(&self) {
        self.server.signal_all(Signal::STOP);
    }

    /// It goes on as if no time had passed.
    pub fn thaw(&self) {
        self.server.signal_all(Signal::CONT);
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again after [`Postgres::crash`] or [`Postgres::stop`].
    pub fn restart(&mut self) {
        self.server = run(
            &self.account,
            &self.programs,
            self.home.path(),
            self.port,
            self.speaks_tls,
        );
        self.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        self.server.signal(Signal::QUIT);
    }
}

fn run(account: &Account, programs: &Path, home: &Path, port: u16, speaks_tls: bool) -> Server {
    let tls = Certificates::of(home);
    let setting = |name: &str, path: &Path| format!("{name}={}", path.display());
    let mut command = account.command(programs.join("postgres"));
    command
        .arg("-D")
        .arg(home.join("data"))
        .args(["-c", "listen_addresses=127.0.0.1"])
        .args(["-c", &format!("port={port}")])
        .args(["-c", "unix_socket_directories="])
        .args(["-c", "max_connections=300"])
        .args(["-c", if speaks_tls { "ssl=on" } else { "ssl=off" }])
        .args(["-c", &setting("ssl_cert_file", &tls.certificate())])
        .args(["-c", &setting("ssl_key_file", &tls.key())])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Server::start(command)
}
