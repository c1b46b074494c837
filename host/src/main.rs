//! The `hookport` binary: parses arguments, calls the library.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use hookport::config::{Config, ProcessRole};
use hookport::domain::audit::Anchor;
use hookport::domain::key::Role;
use hookport::wire::{self, Gateway};
use hookport::{admin, bench, demo, doctor, rotate};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A delivery makes a few hundred short-lived allocations on one thread and frees many of them on
/// another; the system's allocator spent a seventh of the processor on that (docs/benchmarks.md).
/// Without huge pages (`no_thp`): they kept 45 MiB for what is only needed at the start.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An integration gateway: events in, sandboxed providers out.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve {
        #[command(flatten)]
        config: ConfigArguments,
        /// What this process does; api and worker need a shared store
        #[arg(long, env = "HOOKPORT_ROLE")]
        role: Option<ProcessRole>,
    },
    /// Bring the database up to date and exit
    Migrate(ConfigArguments),
    /// Manage API keys of a gateway that is not running
    Key {
        #[command(flatten)]
        config: ConfigArguments,
        #[command(subcommand)]
        action: KeyAction,
    },
    /// Look after the keys that secrets are sealed with
    Vault {
        #[command(flatten)]
        config: ConfigArguments,
        #[command(subcommand)]
        action: VaultAction,
    },
    /// Look at provider components
    Provider {
        #[command(subcommand)]
        action: ProviderAction,
    },
    /// Check what the gateway depends on, and say what to do
    Doctor {
        #[command(flatten)]
        config: ConfigArguments,
        /// Follow the whole audit trail as well
        #[arg(long)]
        audit: bool,
        /// The end of the audit trail that an earlier check printed: it has to be there still
        #[arg(long, requires = "audit", value_name = "SEQUENCE:HASH")]
        expect: Option<Anchor>,
        /// One JSON document instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Print the OpenAPI document
    Openapi,
    /// Measure throughput and latency on this machine
    Bench(bench::Arguments),
    /// Run a first delivery to see
    #[command(hide = true)]
    Demo(demo::Arguments),
    /// Compile a component from stdin to stdout, within limits
    #[command(hide = true)]
    CompileComponent,
}

#[derive(clap::Args)]
struct ConfigArguments {
    /// Configuration file (TOML)
    #[arg(long, global = true, env = "HOOKPORT_CONFIG")]
    config: Option<PathBuf>,
    /// Database, keys and code cache
    #[arg(long, global = true, env = "HOOKPORT_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// PostgreSQL for one process or many: postgres://user:password@host:port/database
    #[arg(
        long,
        global = true,
        env = "HOOKPORT_STORE_URL",
        hide_env_values = true
    )]
    store_url: Option<String>,
    /// RabbitMQ in front of it: amqp://user:password@host:port/vhost
    #[arg(
        long,
        global = true,
        env = "HOOKPORT_QUEUE_URL",
        hide_env_values = true
    )]
    queue_url: Option<String>,
    /// PEM file with the authority of its certificate, for amqps:// and one that is not publicly trusted
    #[arg(long, global = true, env = "HOOKPORT_QUEUE_CA_FILE")]
    queue_ca_file: Option<PathBuf>,
    /// Redis, for what several processes share: redis://user:password@host:port/database
    #[arg(
        long,
        global = true,
        env = "HOOKPORT_REDIS_URL",
        hide_env_values = true
    )]
    redis_url: Option<String>,
    /// PEM file with the authority of its certificate, for rediss:// and one that is not publicly trusted
    #[arg(long, global = true, env = "HOOKPORT_REDIS_CA_FILE")]
    redis_ca_file: Option<PathBuf>,
    /// Directory of provider components
    #[arg(long, global = true, env = "HOOKPORT_PROVIDERS")]
    providers: Option<PathBuf>,
    /// Address of the API; port 0 takes a free one
    #[arg(long, global = true, env = "HOOKPORT_LISTEN")]
    listen: Option<SocketAddr>,
}

impl ConfigArguments {
    fn load(self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(data_dir) = self.data_dir {
            config.data_dir = data_dir;
        }
        if let Some(url) = self.store_url {
            config.store.url = Some(url);
        }
        if let Some(url) = self.queue_url {
            config.queue.url = Some(url);
        }
        if let Some(file) = self.queue_ca_file {
            config.queue.ca_file = Some(file);
        }
        if let Some(url) = self.redis_url {
            config.redis.url = Some(url);
        }
        if let Some(file) = self.redis_ca_file {
            config.redis.ca_file = Some(file);
        }
        if let Some(providers) = self.providers {
            config.providers_dir = providers;
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        config.check()?;
        Ok(config)
    }
}

#[derive(Subcommand)]
enum KeyAction {
    /// Make a key and print it
    Create {
        /// Who will call with it
        #[arg(long)]
        name: String,
        /// admin, operator, viewer or emitter
        #[arg(long, value_parser = parse_role)]
        role: Role,
    },
    /// List the keys
    List,
    /// Revoke a key
    Revoke {
        /// key_…
        id: String,
    },
}

#[derive(Subcommand)]
enum VaultAction {
    /// Go over to a new master key, while the gateway works
    Rotate,
}

#[derive(Subcommand)]
enum ProviderAction {
    /// List the components of a directory with what they say of themselves
    List {
        /// The directory
        #[arg(long, default_value = "providers")]
        providers: PathBuf,
    },
    /// Show what a component says of itself, as JSON
    Inspect {
        /// A .wasm file
        file: PathBuf,
    },
    /// Run the initialisation of a component of your own and keep what it leaves in memory, so that
    /// every call begins with it
    Preinitialize {
        /// A .wasm file that exports wizer-initialize
        file: PathBuf,
        /// Where to write the result
        #[arg(long)]
        output: PathBuf,
    },
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| "give admin, operator, viewer or emitter".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Command::CompileComponent) {
        return hookport::plugin::compile_child::run_child();
    }
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hookport: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            Command::Serve { config, role } => {
                let mut config = config.load()?;
                config.role = role.unwrap_or(config.role);
                config.check()?;
                serve(config).await?;
            }
            Command::Migrate(config) => {
                let mut config = config.load()?;
                config.store.migrate_at_start = true;
                wire::open_store(&config).await?;
                println!("the database is up to date");
            }
            Command::Key { config, action } => {
                let config = config.load()?;
                match action {
                    KeyAction::Create { name, role } => {
                        admin::create_key(&config, name, role).await?
                    }
                    KeyAction::List => admin::list_keys(&config).await?,
                    KeyAction::Revoke { id } => admin::revoke_key(&config, &id).await?,
                }
            }
            Command::Vault { config, action } => match action {
                VaultAction::Rotate => rotate::rotate(&config.load()?).await?,
            },
            Command::Provider { action } => match action {
                ProviderAction::List { providers } => admin::list_providers(&providers).await?,
                ProviderAction::Inspect { file } => admin::inspect_provider(&file).await?,
                ProviderAction::Preinitialize { file, output } => {
                    admin::preinitialize_provider(&file, &output).await?;
                }
            },
            Command::Doctor {
                config,
                audit,
                expect: expected,
                json: as_json,
            } => {
                let asked = doctor::Asked {
                    audit,
                    expected,
                    as_json,
                };
                return doctor::run(config.load()?, asked).await;
            }
            Command::Openapi => print!("{}", hookport::api::openapi()),
            Command::Bench(arguments) => bench::run(&arguments).await?,
            Command::Demo(arguments) => demo::run(&arguments).await?,
            Command::CompileComponent => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn serve(config: Config) -> anyhow::Result<()> {
    init_log(&config)?;
    raise_open_files_limit();
    let gateway = Gateway::start(config).await?;
    println!("listening on http://{}", gateway.address);
    let mut signals = StopSignals::listen()?;
    signals.next().await;
    tracing::info!("stopping: deliveries under way may end; a second signal breaks them off");
    let hurry = CancellationToken::new();
    let stopping = gateway.stop(hurry.clone());
    tokio::pin!(stopping);
    tokio::select! {
        () = &mut stopping => return Ok(()),
        () = signals.next() => {}
    }
    tracing::warn!("stopping at once: what is under way is broken off and given back");
    hurry.cancel();
    stopping.await;
    Ok(())
}

/// Lets the gateway open as many files as it is allowed to. The usual soft limit of 1,024 is less
/// than the connections that are kept open to a handful of busy receivers.
fn raise_open_files_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current = limit.current, "the limit of open files cannot be raised");
    }
}

fn init_log(config: &Config) -> anyhow::Result<()> {
    let filter = std::env::var("HOOKPORT_LOG").unwrap_or_else(|_| config.log.filter.clone());
    let filter = tracing_subscriber::EnvFilter::try_new(filter).context("log.filter")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if config.log.json {
        // The span is the delivery's or the request's: one, so that its fields are found at one place.
        builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .init();
    } else {
        builder.init();
    }
    Ok(())
}

/// SIGTERM and Ctrl-C.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
