//! Redis.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::authority::Certificates;
use crate::process::{Account, Server, free_port, until};

/// What to do where it is missing.
const REMEDY: &str = "redis-server is missing: install it (Debian: apt-get install redis-server), or run cargo xtask test, which does";
/// What no log may show.
const PASSWORD: &str = "pass-of-the-cache";

/// A private server, which keeps what it holds over a restart.
#[derive(Debug)]
pub struct Redis {
    home: TempDir,
    account: Account,
    port: u16,
    tls_port: u16,
    server: Server,
}

impl Redis {
    /// Starts an empty one.
    ///
    /// # Panics
    /// With what to install, or what went wrong.
    #[must_use]
    pub fn start() -> Self {
        let found = Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        assert!(found.is_ok_and(|found| found.success()), "{REMEDY}");
        let account = Account::of(&["redis", "nobody"]);
        let home = tempfile::tempdir().expect("a directory");
        account.own(home.path());
        Certificates::make(home.path(), &account);
        let (port, tls_port) = (free_port(), free_port());
        let redis = Self {
            server: run(&account, home.path(), port, tls_port),
            home,
            account,
            port,
            tls_port,
        };
        redis.wait();
        redis
    }

    /// The one server of this process that tests share, each under a prefix of its own.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Its URL, with a password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}/0", self.port)
    }

    /// Its URL over TLS.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("rediss://:{PASSWORD}@127.0.0.1:{}/0", self.tls_port)
    }

    /// The authority of its certificate, PEM.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        Certificates::of(self.home.path()).authority()
    }

    /// Sends a command as a person would type it; returns the answer as it comes.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn command(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "AUTH {PASSWORD}\r\n{command}\r\nQUIT\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Every key and value, as text.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn content(&self) -> std::io::Result<String> {
        let script = "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
             local is_hash = redis.call('TYPE', key).ok == 'hash' all[#all + 1] = key \
             all[#all + 1] = is_hash and table.concat(redis.call('HGETALL', key), ' ') or redis.call('GET', key) \
             end return table.concat(all, ' ')";
        self.command(&format!("EVAL \"{script}\" 0"))
    }

    /// Forgets everything.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn flush(&self) {
        let answer = self.command("FLUSHALL").expect("it answers");
        assert_eq!(answer, "+OK\r\n+OK\r\n+OK\r\n");
    }

    fn wait(&self) {
        until("Redis", || {
            self.command("PING")
                .is_ok_and(|answer| answer.contains("+PONG"))
        });
    }

    /// Ends it at once, as a crash would.
    pub fn crash(&self) {
        self.server.signal(Signal::KILL);
        self.server.join();
    }

    /// Starts it again after [`Redis::crash`], with what it had written.
    pub fn restart(&mut self) {
        self.server = run(&self.account, self.home.path(), self.port, self.tls_port);
        self.wait();
    }

    /// Stops it where it stands: connections stay, nothing is answered.
    pub fn freeze(&self) {
        self.server.signal(Signal::STOP);
    }

    /// Lets it go on after [`Redis::freeze`].
    pub fn thaw(&self) {
        self.server.signal(Signal::CONT);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server.signal(Signal::KILL);
    }
}

fn run(account: &Account, home: &Path, port: u16, tls_port: u16) -> Server {
    let tls = Certificates::of(home);
    let mut command = account.command("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--tls-port", &tls_port.to_string()])
        .arg("--tls-cert-file")
        .arg(tls.certificate())
        .arg("--tls-key-file")
        .arg(tls.key())
        .args(["--tls-auth-clients", "no"])
        .arg("--dir")
        .arg(home)
        .args(["--requirepass", PASSWORD])
        .args(["--save", "", "--appendonly", "yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Server::start(command)
}
