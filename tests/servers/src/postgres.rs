//! PostgreSQL.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::authority::Certificates;
use crate::disk::Disk;
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
    cluster: Cluster,
    server: Server,
}

/// What a server is started on.
#[derive(Debug)]
struct Cluster {
    home: TempDir,
    programs: PathBuf,
    account: Account,
    port: u16,
    speaks_tls: bool,
    disk: Option<Disk>,
}

impl Cluster {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let account = Account::of(&["postgres", "nobody"]);
        account.own(home.path());
        Certificates::make(home.path(), &account);
        Self {
            home,
            programs: programs().expect(REMEDY),
            account,
            port: free_port(),
            speaks_tls: false,
            disk: None,
        }
    }

    fn with_disk(mut self, mib: u32) -> Self {
        let path = self.home.path().join("disk");
        fs::create_dir(&path).expect("a directory");
        self.disk = Some(Disk::mount(&path, mib, &self.account));
        self
    }

    /// One of the server's programs on the data, where that is.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let data = if self.disk.is_some() {
            "disk/data"
        } else {
            "data"
        };
        let mut command = self.account.command(self.programs.join(program));
        command
            .arg("-D")
            .arg(self.home.path().join(data))
            .args(arguments);
        if let Some(disk) = &self.disk {
            command = disk.enter(&command);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// # Panics
    /// With what went wrong.
    fn initialise(self) -> Postgres {
        let made = self
            .command(
                "initdb",
                &[
                    "--username=hookport",
                    "--auth=trust",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-sync",
                ],
            )
            .status();
        assert!(made.is_ok_and(|made| made.success()), "initdb failed");
        let postgres = Postgres {
            server: self.start(),
            cluster: self,
        };
        postgres.wait();
        postgres
    }

    fn start(&self) -> Server {
        let tls = Certificates::of(self.home.path());
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            "unix_socket_directories=".to_owned(),
            "max_connections=300".to_owned(),
            format!("ssl={}", self.speaks_tls),
            format!("ssl_cert_file={}", tls.certificate().display()),
            format!("ssl_key_file={}", tls.key().display()),
        ];
        if self.disk.is_some() {
            // Else the log may take it all.
            settings.push("max_wal_size=64MB".to_owned());
        }
        let arguments: Vec<_> = settings
            .iter()
            .flat_map(|setting| ["-c", setting])
            .collect();
        Server::start(self.command("postgres", &arguments))
    }
}

impl Postgres {
    /// Starts one on an empty cluster.
    ///
    /// # Panics
    /// With what to install, or what went wrong.
    #[must_use]
    pub fn start() -> Self {
        Cluster::new().initialise()
    }

    /// Starts one that speaks TLS. (Clients take TLS where it is offered, and a proxy reads nothing then.)
    #[must_use]
    pub fn start_with_tls() -> Self {
        let cluster = Cluster {
            speaks_tls: true,
            ..Cluster::new()
        };
        cluster.initialise()
    }

    /// Starts one whose data has a file system of so many MiB.
    #[must_use]
    pub fn start_on_disk(mib: u32) -> Self {
        Cluster::new().with_disk(mib).initialise()
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
        let made = Command::new(self.cluster.programs.join("createdb"))
            .args(["--host", "127.0.0.1", "--username", "hookport"])
            .args(["--port", &self.cluster.port.to_string(), &name])
            .status();
        assert!(made.is_ok_and(|made| made.success()), "createdb failed");
        format!(
            "postgres://hookport:pass-of-the-database@127.0.0.1:{}/{name}",
            self.cluster.port
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
        Certificates::of(self.cluster.home.path()).authority()
    }

    fn wait(&self) {
        until("PostgreSQL", || {
            Command::new(self.cluster.programs.join("pg_isready"))
                .args(["--quiet", "--host", "127.0.0.1"])
                .args(["--port", &self.cluster.port.to_string()])
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
        self.cluster.port
    }

    /// Leaves no room on its own disk.
    ///
    /// # Panics
    /// When it has none.
    pub fn fill_disk(&self) {
        self.cluster
            .disk
            .as_ref()
            .expect("a disk of its own")
            .fill();
    }

    /// Takes away what [`Postgres::fill_disk`] wrote.
    ///
    /// # Panics
    /// When it has no disk of its own.
    pub fn empty_disk(&self) {
        self.cluster
            .disk
            .as_ref()
            .expect("a disk of its own")
            .empty();
    }

    /// Whether it ended by itself, as it does when it cannot write its log.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.server.has_ended()
    }

    /// Starts it again after it ended.
    pub fn restart(&mut self) {
        self.server = self.cluster.start();
        self.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        self.server.signal(Signal::QUIT);
    }
}
