//! A server as a child process that ends with this one.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// A server that does not come up in this time is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs programs as somebody who is not root, as servers insist on.
#[derive(Clone, Debug)]
pub(crate) struct Account(Option<Ids>);

#[derive(Clone, Copy, Debug)]
struct Ids {
    user: u32,
    group: u32,
}

impl Account {
    /// The first of `names` that exists where this process is root, else whoever runs it.
    pub(crate) fn of(names: &[&str]) -> Self {
        if !geteuid().is_root() {
            return Self(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let find = |name: &&str| {
            let line = passwd
                .lines()
                .find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some(Ids {
                user: fields.next()?.parse().ok()?,
                group: fields.next()?.parse().ok()?,
            })
        };
        let ids = names.iter().find_map(find);
        Self(Some(ids.unwrap_or_else(|| {
            panic!("this runs as root, and none of the users {names:?} exists to run a server")
        })))
    }

    /// Makes a directory or a file theirs.
    pub(crate) fn own(&self, path: &Path) {
        if let Some(ids) = self.0 {
            chown(path, Some(ids.user), Some(ids.group)).expect("it changes hands");
        }
    }

    /// For a file system that is to be theirs.
    pub(crate) fn mount_options(&self) -> String {
        self.0.map_or_else(String::new, |ids| {
            format!(",uid={},gid={}", ids.user, ids.group)
        })
    }

    /// A command that runs as them, and is ended when this process is.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(ids) = self.0 {
            command.args(["--reuid", &ids.user.to_string()]).args([
                "--regid",
                &ids.group.to_string(),
                "--clear-groups",
            ]);
        }
        command.arg(program);
        command.stdin(Stdio::null());
        command
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pid: Pid,
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Server {
    /// Starts it. From a thread of its own that lasts: the system ends the child with the thread
    /// that made it.
    pub(crate) fn start(mut command: Command) -> Self {
        let (started, pid) = mpsc::channel();
        let (over, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let child: std::io::Result<Child> = command.spawn();
            match child {
                Ok(mut child) => {
                    let _ = started.send(Ok(Pid::from_child(&child)));
                    let _ = child.wait();
                    let _ = over.send(());
                }
                Err(error) => {
                    let _ = started.send(Err(format!("{command:?}: {error}")));
                }
            }
        });
        let pid = pid.recv().expect("the thread answers");
        Self {
            pid: pid.expect("the server starts"),
            ended: Mutex::new(ended),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether it has ended by itself, or was.
    pub(crate) fn has_ended(&self) -> bool {
        let ended = self.ended.lock().expect("one asks");
        // Its thread sends once, and is gone then.
        !matches!(ended.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// To it and the processes that it has made.
    pub(crate) fn signal_all(&self, signal: Signal) {
        self.signal(signal);
        for child in children(self.pid) {
            let _ = kill_process(child, signal);
        }
    }

    /// Waits for its end.
    pub(crate) fn join(&self) {
        self.ended
            .lock()
            .expect("one waits")
            .recv_timeout(PATIENCE)
            .expect("the server ends in time");
    }
}

/// The processes whose parent is `parent`.
fn children(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name in parentheses: the state, and then the parent.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        fields.split_whitespace().nth(1) == Some(&parent.as_raw_nonzero().to_string())
    };
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_child)
        .filter_map(Pid::from_raw)
        .collect()
}

/// A port that nobody listens on just now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Waits until `ready`, or fails with what `what` is.
pub(crate) fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let started = Instant::now();
    while !ready() {
        assert!(started.elapsed() < PATIENCE, "{what} did not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
}
