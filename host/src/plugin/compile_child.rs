//! Compiling in a limited child process of this same binary.
//!
//! Compiling is no security boundary in wasmtime: a component can make it spin or allocate without
//! end. Invariant: a component that does so costs the gateway one child process, which dies at
//! its deadline or its memory limit, and nothing else. The child sees no environment, and what it
//! writes is trusted only because it is this binary.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::artefact::TrustedArtefact;
use super::engine::{self, LoadError};

/// The hidden subcommand whose body is [`run_child`].
pub const SUBCOMMAND: &str = "compile-component";

/// What the allocator takes of the operating system ahead, in KiB.
const ALLOCATOR_AHEAD_KIB: &str = "16384";
const MEMORY_VARIABLE: &str = "HOOKPORT_COMPILE_MEMORY_BYTES_MAX";
const CPU_VARIABLE: &str = "HOOKPORT_COMPILE_CPU_SECONDS_MAX";
const ARTEFACT_VARIABLE: &str = "HOOKPORT_COMPILE_ARTEFACT_BYTES_MAX";
const INPUT_VARIABLE: &str = "HOOKPORT_COMPILE_WASM_BYTES_MAX";

const STDERR_BYTES_MAX: usize = 4 << 10;
/// Exit status of a child that found no usable component on its standard input.
const FOREIGN: u8 = 3;
/// Deliveries come before compiling.
const NICENESS: i32 = 10;
const FILES_MAX: u64 = 16;

/// What compiling one component may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// From the start of the child to the last byte of its answer.
    pub deadline: Duration,
    /// CPU time over all threads of the child, in seconds.
    pub cpu_seconds_max: u64,
    /// Address space of the child.
    pub memory_bytes_max: u64,
    /// The component.
    pub wasm_bytes_max: u64,
    /// The compiled artefact.
    pub artefact_bytes_max: u64,
    /// Children at one time, so that one slow component does not hold up the others.
    pub children_max: usize,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(60),
            cpu_seconds_max: 120,
            memory_bytes_max: 4 << 30,
            wasm_bytes_max: 64 << 20,
            artefact_bytes_max: 512 << 20,
            children_max: 2,
        }
    }
}

/// Why there is no artefact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The file is not a usable component.
    #[error("{0}")]
    Foreign(String),
    /// Compiling it costs more than allowed.
    #[error("compiling {0}")]
    Limit(String),
    /// The child could not be run.
    #[error("the component cannot be compiled: {0}")]
    Failed(String),
}

/// Where components are compiled.
#[derive(Clone, Debug)]
pub struct Compiler {
    place: Place,
    limits: CompileLimits,
    children: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
enum Place {
    Child {
        program: PathBuf,
        arguments: Vec<OsString>,
    },
    InProcess,
}

impl Compiler {
    /// In a child running this process's own binary.
    ///
    /// # Errors
    /// `Failed` when the binary's path cannot be found out.
    pub fn new(limits: CompileLimits) -> Result<Self, CompileError> {
        // The link still leads to the running binary after an upgrade has replaced the file.
        let link = PathBuf::from("/proc/self/exe");
        let program = if link.exists() {
            link
        } else {
            std::env::current_exe().map_err(|error| {
                CompileError::Failed(format!("the gateway's own binary is not found: {error}"))
            })?
        };
        Ok(Self::with_program(program, vec![SUBCOMMAND.into()], limits))
    }

    /// In a child running another build of the gateway, whose artefacts are trusted just as much.
    #[must_use]
    pub fn with_program(program: PathBuf, arguments: Vec<OsString>, limits: CompileLimits) -> Self {
        Self::at(Place::Child { program, arguments }, limits)
    }

    /// In this process, without any limit but the sizes: for benches and tests with components of
    /// one's own.
    #[must_use]
    pub fn in_process(limits: CompileLimits) -> Self {
        Self::at(Place::InProcess, limits)
    }

    fn at(place: Place, limits: CompileLimits) -> Self {
        Self {
            place,
            children: Arc::new(Semaphore::new(limits.children_max.max(1))),
            limits,
        }
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &CompileLimits {
        &self.limits
    }

    /// Compiles a component.
    ///
    /// # Errors
    /// Each kind of [`CompileError`].
    ///
    /// # Cancel safety
    /// Dropping the future kills the child.
    pub async fn compile(&self, wasm: Bytes) -> Result<TrustedArtefact, CompileError> {
        let size = u64::try_from(wasm.len()).unwrap_or(u64::MAX);
        if size > self.limits.wasm_bytes_max {
            return Err(CompileError::Foreign(format!(
                "the file is larger than {} bytes",
                self.limits.wasm_bytes_max
            )));
        }
        engine::check_header(&wasm).map_err(from_load_error)?;
        let Ok(_slot) = self.children.acquire().await else {
            return Err(CompileError::Failed("the gateway is stopping".to_owned()));
        };
        let artefact = match &self.place {
            Place::Child { program, arguments } => {
                self.compile_in_child(program, arguments, &wasm).await?
            }
            Place::InProcess => tokio::task::spawn_blocking(move || engine::compile(&wasm))
                .await
                .map_err(|error| CompileError::Failed(error.to_string()))?
                .map_err(from_load_error)?,
        };
        Ok(TrustedArtefact::vouch(artefact))
    }

    async fn compile_in_child(
        &self,
        program: &Path,
        arguments: &[OsString],
        wasm: &[u8],
    ) -> Result<Vec<u8>, CompileError> {
        let failed =
            |error: std::io::Error| CompileError::Failed(format!("{}: {error}", program.display()));
        let limits = &self.limits;
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            // The allocator would take a gibibyte of addresses ahead, and the limit counts addresses.
            .env("MIMALLOC_ARENA_RESERVE", ALLOCATOR_AHEAD_KIB)
            .env(MEMORY_VARIABLE, limits.memory_bytes_max.to_string())
            .env(CPU_VARIABLE, limits.cpu_seconds_max.to_string())
            .env(ARTEFACT_VARIABLE, limits.artefact_bytes_max.to_string())
            .env(INPUT_VARIABLE, limits.wasm_bytes_max.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        match tokio::time::timeout(limits.deadline, self.converse(&mut child, wasm)).await {
            Ok(answer) => answer.map_err(failed)?,
            Err(_) => {
                // Waits for its end, too: no zombie is left.
                child.kill().await.map_err(failed)?;
                Err(CompileError::Limit(format!(
                    "took longer than {} ms",
                    limits.deadline.as_millis()
                )))
            }
        }
    }

    /// Feeds the child and takes its answer within the size cap.
    async fn converse(
        &self,
        child: &mut Child,
        wasm: &[u8],
    ) -> std::io::Result<Result<Vec<u8>, CompileError>> {
        let missing = || std::io::Error::other("the child has no pipe");
        let mut stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let cap = usize::try_from(self.limits.artefact_bytes_max).unwrap_or(usize::MAX);
        let feed = async {
            // A child that refuses the input closes the pipe early: its exit status says why.
            let _ = stdin.write_all(wasm).await;
            drop(stdin);
        };
        let ((), artefact, message) = tokio::join!(
            feed,
            read_capped(stdout, cap),
            read_capped(stderr, STDERR_BYTES_MAX)
        );
        let (artefact, complete) = artefact?;
        if !complete {
            child.kill().await?;
            return Ok(Err(CompileError::Limit(format!(
                "gives more than {cap} bytes of code"
            ))));
        }
        let status = child.wait().await?;
        let (message, _) = message?;
        Ok(if status.success() {
            Ok(artefact)
        } else {
            Err(self.explain(status, &String::from_utf8_lossy(&message)))
        })
    }

    fn explain(&self, status: ExitStatus, message: &str) -> CompileError {
        use std::os::unix::process::ExitStatusExt;
        let message = message.trim();
        if status.code() == Some(i32::from(FOREIGN)) {
            return CompileError::Foreign(message.to_owned());
        }
        match status
            .signal()
            .and_then(rustix::process::Signal::from_named_raw)
        {
            Some(rustix::process::Signal::XCPU | rustix::process::Signal::KILL) => {
                CompileError::Limit(format!(
                    "took more than {} s of CPU time",
                    self.limits.cpu_seconds_max
                ))
            }
            Some(rustix::process::Signal::ABORT | rustix::process::Signal::SEGV) => {
                CompileError::Limit(format!(
                    "failed: it needs more than {} bytes of memory, or the compiler crashed",
                    self.limits.memory_bytes_max
                ))
            }
            _ => CompileError::Failed(format!("the compile child ended with {status}: {message}")),
        }
    }
}

fn from_load_error(error: LoadError) -> CompileError {
    match error {
        LoadError::Foreign(text) | LoadError::Incompatible(text) => CompileError::Foreign(text),
        LoadError::TooLarge(text) => CompileError::Limit(text),
        LoadError::Engine(text) => CompileError::Failed(text),
    }
}

/// Reads to the end, or up to `cap`; false when there was more. What is beyond is not read, so
/// the writer blocks or ends.
async fn read_capped(
    source: impl AsyncRead + Unpin,
    cap: usize,
) -> std::io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    source.take(limit).read_to_end(&mut bytes).await?;
    let complete = bytes.len() <= cap;
    bytes.truncate(cap);
    Ok((bytes, complete))
}

/// The body of the hidden subcommand `hookport compile-component`: limits itself, reads a
/// component on standard input and writes the artefact on standard output.
#[must_use]
pub fn run_child() -> ExitCode {
    match compile_stdin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(CompileError::Foreign(text)) => {
            // Nothing is left to do when standard error is gone.
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::from(FOREIGN)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn compile_stdin() -> Result<(), CompileError> {
    let limits = limits_from_environment();
    limit_this_process(&limits)
        .map_err(|error| CompileError::Failed(format!("limits cannot be set: {error}")))?;
    let mut wasm = Vec::new();
    let io = |error: std::io::Error| CompileError::Failed(error.to_string());
    std::io::stdin()
        .lock()
        .take(limits.wasm_bytes_max.saturating_add(1))
        .read_to_end(&mut wasm)
        .map_err(io)?;
    if u64::try_from(wasm.len()).unwrap_or(u64::MAX) > limits.wasm_bytes_max {
        return Err(CompileError::Foreign(format!(
            "the file is larger than {} bytes",
            limits.wasm_bytes_max
        )));
    }
    let artefact = engine::compile(&wasm).map_err(from_load_error)?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&artefact).map_err(io)?;
    stdout.flush().map_err(io)
}

/// What the parent asked for; without it (started by hand) the defaults.
fn limits_from_environment() -> CompileLimits {
    let defaults = CompileLimits::default();
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    CompileLimits {
        cpu_seconds_max: number(CPU_VARIABLE, defaults.cpu_seconds_max),
        memory_bytes_max: number(MEMORY_VARIABLE, defaults.memory_bytes_max),
        artefact_bytes_max: number(ARTEFACT_VARIABLE, defaults.artefact_bytes_max),
        wasm_bytes_max: number(INPUT_VARIABLE, defaults.wasm_bytes_max),
        ..defaults
    }
}

fn limit_this_process(limits: &CompileLimits) -> rustix::io::Result<()> {
    let fixed = |max| Rlimit {
        current: Some(max),
        maximum: Some(max),
    };
    setrlimit(Resource::As, fixed(limits.memory_bytes_max))?;
    // The kernel kills with SIGXCPU at the soft limit and with SIGKILL a second later.
    setrlimit(
        Resource::Cpu,
        Rlimit {
            current: Some(limits.cpu_seconds_max),
            maximum: Some(limits.cpu_seconds_max.saturating_add(1)),
        },
    )?;
    setrlimit(Resource::Fsize, fixed(limits.artefact_bytes_max))?;
    setrlimit(Resource::Core, fixed(0))?;
    setrlimit(Resource::Nofile, fixed(FILES_MAX))?;
    rustix::process::nice(NICENESS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough of a component to be handed to a child.
    const HEADER: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];

    async fn with(
        program: &str,
        arguments: &[&str],
        limits: CompileLimits,
    ) -> Result<String, CompileError> {
        let arguments = arguments.iter().map(OsString::from).collect();
        let compiler = Compiler::with_program(program.into(), arguments, limits);
        let artefact = compiler.compile(Bytes::from_static(&HEADER)).await?;
        Ok(String::from_utf8_lossy(artefact.bytes()).into_owned())
    }

    #[tokio::test]
    async fn a_child_sees_its_limits_and_nothing_else_of_the_environment() {
        let text = with("/usr/bin/env", &[], CompileLimits::default()).await;
        let text = text.expect("runs");
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(
            text.lines()
                .all(|line| line.starts_with("HOOKPORT_COMPILE_")
                    || line.starts_with("MIMALLOC_ARENA_RESERVE=")),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_child_that_does_not_end_is_killed() {
        let limits = CompileLimits {
            deadline: Duration::from_millis(50),
            ..CompileLimits::default()
        };
        let ended = with("/bin/sleep", &["1000"], limits).await;
        assert_eq!(
            ended,
            Err(CompileError::Limit("took longer than 50 ms".to_owned()))
        );
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let limits = CompileLimits {
            artefact_bytes_max: 1_000,
            ..CompileLimits::default()
        };
        let ended = with("/usr/bin/yes", &[], limits).await;
        let expected = "gives more than 1000 bytes of code".to_owned();
        assert_eq!(ended, Err(CompileError::Limit(expected)));
    }

    #[tokio::test]
    async fn what_a_failing_child_says_is_kept_within_a_cap() {
        let script = "yes complaint | head -c 100000 >&2; exit 7";
        let ended = with("/bin/sh", &["-c", script], CompileLimits::default()).await;
        match ended {
            Err(CompileError::Failed(text)) => {
                assert!(
                    text.contains("exit status: 7") && text.contains("complaint"),
                    "{text}"
                );
                assert!(text.len() < 2 * STDERR_BYTES_MAX, "{} bytes", text.len());
            }
            other => panic!("{other:?}"),
        }
        let ended = with(
            "/bin/sh",
            &["-c", "kill -XCPU $$"],
            CompileLimits::default(),
        )
        .await;
        assert!(matches!(ended, Err(CompileError::Limit(_))), "{ended:?}");
        let ended = with("/no/such/program", &[], CompileLimits::default()).await;
        assert!(matches!(ended, Err(CompileError::Failed(_))), "{ended:?}");
    }

    #[tokio::test]
    async fn what_is_no_component_starts_no_child() {
        let limits = CompileLimits {
            wasm_bytes_max: 4,
            ..CompileLimits::default()
        };
        let ended = with("/no/such/program", &[], limits).await;
        assert!(matches!(ended, Err(CompileError::Foreign(_))), "{ended:?}");
        let compiler = Compiler::with_program(
            "/no/such/program".into(),
            Vec::new(),
            CompileLimits::default(),
        );
        let Err(error) = compiler.compile(Bytes::from_static(b"plain text")).await else {
            panic!("it is no component");
        };
        assert_eq!(
            error,
            CompileError::Foreign("not a WebAssembly component".to_owned())
        );
    }
}
