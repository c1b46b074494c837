//! RabbitMQ.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::authority::Certificates;
use crate::process::{Account, Server, free_port, until};

/// What to do where it is missing.
const REMEDY: &str = "RabbitMQ's programs are missing: install it (Debian: apt-get install rabbitmq-server), or run cargo xtask test, which does";

/// RabbitMQ's own program: the one on Debian's path wants to be root, and changes to an account of
/// its own.
fn program() -> Option<PathBuf> {
    let of_debian = PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server");
    if of_debian.exists() {
        return Some(of_debian);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("rabbitmq-server"))
        .find(|program| program.exists())
}

/// The ports of a node: clients, other nodes, and the daemon that tells nodes of each other.
#[derive(Clone, Copy, Debug)]
struct Ports {
    amqp: u16,
    amqps: u16,
    distribution: u16,
    epmd: u16,
}

/// A private broker: a node of its own, with a cookie, directories, a port mapper and ports of its
/// own, on the loopback interface, without plugins.
#[derive(Debug)]
pub struct RabbitMq {
    home: TempDir,
    program: PathBuf,
    account: Account,
    ports: Ports,
    epmd: Server,
    server: Server,
}

impl RabbitMq {
    /// Starts one without queues.
    ///
    /// # Panics
    /// With what to install, or what went wrong.
    #[must_use]
    pub fn start() -> Self {
        let program = program().expect(REMEDY);
        let account = Account::of(&["rabbitmq", "nobody"]);
        let home = tempfile::tempdir().expect("a directory");
        let ports = Ports {
            amqp: free_port(),
            amqps: free_port(),
            distribution: free_port(),
            epmd: free_port(),
        };
        let tls = Certificates::make(home.path(), &account);
        let settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             listeners.ssl.1 = 127.0.0.1:{}\n\
             ssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\n\
             ssl_options.verify = verify_none\n\
             default_user = hookport\n\
             default_pass = pass-of-the-broker\n\
             disk_free_limit.absolute = 50MB\n\
             log.console = false\n\
             log.file.level = warning\n",
            ports.amqp,
            ports.amqps,
            tls.authority().display(),
            tls.certificate().display(),
            tls.key().display(),
        );
        fs::write(home.path().join("rabbitmq.conf"), settings).expect("the settings");
        fs::write(home.path().join("plugins"), "[].").expect("the list of plugins");
        account.own(home.path());
        let mut epmd = account.command("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &ports.epmd.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let epmd = Server::start(epmd);
        let server = run(&account, &program, home.path(), ports);
        let rabbitmq = Self {
            home,
            program,
            account,
            ports,
            epmd,
            server,
        };
        rabbitmq.wait();
        rabbitmq
    }

    /// The one broker of this process that tests share, each with a [`RabbitMq::prefix`].
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<RabbitMq> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "amqp://hookport:pass-of-the-broker@127.0.0.1:{}",
            self.ports.amqp
        )
    }

    /// Its URL over TLS.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!(
            "amqps://hookport:pass-of-the-broker@127.0.0.1:{}",
            self.ports.amqps
        )
    }

    /// The authority of its certificate, PEM.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        Certificates::of(self.home.path()).authority()
    }

    /// A prefix for the names of queues that nobody else has.
    #[must_use]
    pub fn prefix() -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed))
    }

    /// Its port of 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// Until it answers the protocol's header (AMQP 0-9-1, section 4.2.2): the port is open before.
    fn wait(&self) {
        let answers = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.ports.amqp)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").ok()?;
            let mut frame = [0; 1];
            stream.read_exact(&mut frame).ok()
        };
        until("RabbitMQ", || answers().is_some());
    }

    /// Kills it (`kill -9`).
    pub fn crash(&self) {
        self.server.signal(Signal::KILL);
        self.server.join();
    }

    /// Starts it again after [`RabbitMq::crash`], with what is on its disk.
    pub fn restart(&mut self) {
        self.server = run(&self.account, &self.program, self.home.path(), self.ports);
        self.wait();
    }

    /// Stops its process without ending it: connections stay open, and nobody answers.
    pub fn freeze(&self) {
        self.server.signal(Signal::STOP);
    }

    /// Deletes all its queues with what is in them.
    pub fn delete_queues(&self) {
        let delete = "[rabbit_amqqueue:delete(Q, false, false, <<\"test\">>) || Q <- rabbit_amqqueue:list()].";
        self.control(&["eval", delete]);
    }

    /// Deletes all queues with what they hold, and declares each anew before its consumers are told.
    pub fn replace_queues(&self) {
        let replace = "[begin
            rabbit_amqqueue:delete(Q, false, false, <<\"test\">>),
            rabbit_amqqueue:declare(amqqueue:get_name(Q), amqqueue:is_durable(Q), false,
                amqqueue:get_arguments(Q), none, <<\"test\">>)
        end || Q <- rabbit_amqqueue:list()].";
        self.control(&["eval", replace]);
    }

    /// Closes all connections from its side.
    pub fn cut_connections(&self) {
        self.control(&["close_all_connections", "cut by a test"]);
    }

    fn control(&self, arguments: &[&str]) {
        let program = self.program.with_file_name("rabbitmqctl");
        let mut command = self.account.command(program);
        environment(&mut command, self.home.path(), self.ports);
        let done = command.args(["--quiet"]).args(arguments).output();
        let done = done.expect("rabbitmqctl runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "rabbitmqctl {arguments:?}: {said}");
    }

    /// Lets it go on after [`RabbitMq::freeze`].
    pub fn thaw(&self) {
        self.server.signal(Signal::CONT);
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.server.signal(Signal::KILL);
        self.epmd.signal(Signal::KILL);
    }
}

fn run(account: &Account, program: &Path, home: &Path, ports: Ports) -> Server {
    let mut command = account.command(program);
    environment(&mut command, home, ports);
    command
        // Then the script becomes the server, rather than waiting beside it.
        .env("RUNNING_UNDER_SYSTEMD", "1")
        .env_remove("NOTIFY_SOCKET")
        // Threads that wait do not spin: the tests share the machine.
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
        )
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Server::start(command)
}

/// Where the node is and what it is called.
fn environment(command: &mut Command, home: &Path, ports: Ports) {
    let in_home = |name: &str| home.join(name);
    command
        .env("HOME", home)
        .env("RABBITMQ_CONF_ENV_FILE", in_home("none"))
        .env("RABBITMQ_CONFIG_FILE", in_home("rabbitmq"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", in_home("plugins"))
        .env("RABBITMQ_MNESIA_BASE", in_home("data"))
        .env("RABBITMQ_LOG_BASE", in_home("log"))
        .env("RABBITMQ_NODENAME", format!("test{}@localhost", ports.amqp))
        .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
        .env("ERL_EPMD_PORT", ports.epmd.to_string());
}
