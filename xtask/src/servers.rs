//! The servers and programs that tests start: checked before the tests, installed where that is
//! allowed.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::process;

/// What tests start.
struct Package {
    /// What it is called.
    name: &'static str,
    /// The distribution's packages (Debian, Ubuntu), with blanks between them.
    packages: &'static str,
    /// Whether its programs are there.
    is_there: fn() -> bool,
}

const PACKAGES: [Package; 4] = [
    Package {
        name: "PostgreSQL",
        packages: "postgresql",
        is_there: has_postgres,
    },
    Package {
        name: "RabbitMQ",
        packages: "rabbitmq-server",
        is_there: has_rabbitmq,
    },
    Package {
        name: "Node.js",
        packages: "nodejs npm",
        is_there: || on_path("node") && on_path("npm"),
    },
    Package {
        name: "Redis",
        packages: "redis-server",
        is_there: || on_path("redis-server"),
    },
];

/// Makes sure that all of them are there.
pub fn ensure() -> anyhow::Result<()> {
    let missing = || PACKAGES.iter().filter(|package| !(package.is_there)());
    let (names, packages): (Vec<&str>, Vec<&str>) = missing()
        .map(|package| (package.name, package.packages))
        .unzip();
    if packages.is_empty() {
        return Ok(());
    }
    let remedy = format!(
        "{} missing, which tests start: install it (Debian and Ubuntu: `apt-get install {}`)",
        names.join(", "),
        packages.join(" ")
    );
    let is_root = process::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !is_root || !process::succeeds(Command::new("apt-get").arg("--version")) {
        bail!("{remedy}");
    }
    println!("{} missing: installing", names.join(", "));
    let keep_stopped = KeepStopped::begin();
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        process::run(&mut apt)
    };
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(packages.iter().flat_map(|packages| packages.split(' ')));
    let installed = apt(&["update"]).and_then(|()| apt(&install));
    drop(keep_stopped);
    match installed {
        _ if missing().next().is_none() => Ok(()),
        Ok(()) => bail!("{remedy}"),
        Err(error) => Err(error.context(remedy)),
    }
}

/// Keeps the packages from starting the distribution's own servers, which nobody wants here and
/// which cannot start in a container (`policy-rc.d`, Debian's policy manual, section 9.3.3).
struct KeepStopped {
    is_ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl KeepStopped {
    fn begin() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let executable = std::fs::Permissions::from_mode(0o755);
        let is_ours = !Path::new(POLICY).exists()
            && std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").is_ok()
            && std::fs::set_permissions(POLICY, executable).is_ok();
        Self { is_ours }
    }
}

impl Drop for KeepStopped {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}

fn has_postgres() -> bool {
    let of_debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .any(|version| version.path().join("bin/initdb").exists());
    of_debian || on_path("initdb")
}

/// Debian's program on the path wants to be root, and changes to an account of its own.
fn has_rabbitmq() -> bool {
    let is_there =
        Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").exists() || on_path("rabbitmq-server");
    is_there && on_path("erl") && on_path("epmd")
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}
