//! A small file system for a server's data, which can be full.
//!
//! In memory, in a mount namespace of its own: it needs no device, and no rights but those over the
//! namespace. A process that sleeps keeps it from one start of the server to the next.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::process::{Account, Server, until};

/// Takes the room.
const FILLING: &str = "filling";
/// There once it is mounted.
const READY: &str = "ready";

/// The file system, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Disk {
    holder: Server,
    path: PathBuf,
    is_root: bool,
}

impl Disk {
    /// Mounts one of `mib` MiB at `path`, which belongs to `account`.
    pub(crate) fn mount(path: &Path, mib: u32, account: &Account) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let script = format!(
            "mount -t tmpfs -o size={mib}m,mode=0700{} tmpfs \"$0\" && touch \"$0/{READY}\" && exec sleep infinity",
            account.mount_options()
        );
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare"]);
        if !is_root {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        command
            .args(["--mount", "sh", "-c", &script])
            .arg(path)
            .stdin(Stdio::null());
        let disk = Self {
            holder: Server::start(command),
            path: path.to_owned(),
            is_root,
        };
        until("a disk", || disk.inside().join(READY).exists());
        disk
    }

    /// The same command where the file system is.
    pub(crate) fn enter(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.args(["--target", &self.holder.pid().to_string(), "--mount"]);
        if !self.is_root {
            entered.args(["--user", "--preserve-credentials"]);
        }
        entered
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null());
        entered
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::create(self.inside().join(FILLING)).expect("a file");
        let piece = [0; 4 << 10];
        while file.write_all(&piece).is_ok() {}
    }

    /// Takes away what [`Disk::fill`] wrote.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.inside().join(FILLING)).expect("removed");
    }

    /// Where this process sees it.
    fn inside(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.pid()));
        root.join(self.path.strip_prefix("/").unwrap_or(&self.path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.holder.signal(Signal::KILL);
    }
}
