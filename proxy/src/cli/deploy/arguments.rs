//! The options of `deploy`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

/// Deploys that `deploy history` shows unless told otherwise.
const HISTORY_LAST_DEFAULT: usize = 20;

/// `mana-proxy deploy`, and the verbs below it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(in super::super) struct DeployArguments {
    #[command(subcommand)]
    pub(super) verb: Option<DeployVerb>,
    /// The configuration with the [deploy] section
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/mana-proxy/mana-proxy.toml"
    )]
    pub(super) config: PathBuf,
    #[command(flatten)]
    pub(super) bring: Bring,
}

/// What is brought, and how.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["tag", "digest", "rollback"]).required(true))]
#[command(group = ArgGroup::new("registry-token").args(["registry_token_stdin", "registry_token_file"]))]
pub(super) struct Bring {
    /// The repository of the image, for example registry.example/team/app [default: deploy.image]
    #[arg(long, value_name = "REPO", conflicts_with = "rollback")]
    pub(super) image: Option<String>,
    /// Its tag
    #[arg(long, value_name = "TAG")]
    pub(super) tag: Option<String>,
    /// Its digest instead: these bytes and no others
    #[arg(long, value_name = "sha256:...")]
    pub(super) digest: Option<String>,
    /// Bring the release before back
    #[arg(long)]
    pub(super) rollback: bool,
    /// Print what would be done, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Queue behind a deploy that is being carried out, for at most deploy.lock_wait
    #[arg(long)]
    pub(super) wait: bool,
    /// Why; goes to the history and into messages
    #[arg(long, value_name = "TEXT")]
    pub(super) note: Option<String>,
    /// The commit that the image was built from [default: the image's label]
    #[arg(long, value_name = "SHA")]
    pub(super) commit: Option<String>,
    /// Its branch
    #[arg(long, value_name = "NAME")]
    pub(super) branch: Option<String>,
    /// Its author
    #[arg(long, value_name = "NAME")]
    pub(super) author: Option<String>,
    /// Its repository, as a name or a URL [default: the image's label]
    #[arg(long, value_name = "NAME")]
    pub(super) repository: Option<String>,
    /// Read the registry's token from stdin; or set `MANA_PROXY_REGISTRY_TOKEN`
    #[arg(long)]
    pub(super) registry_token_stdin: bool,
    /// Read the registry's token from a file
    #[arg(long, value_name = "FILE")]
    pub(super) registry_token_file: Option<PathBuf>,
}

/// What can be asked for beside a deploy.
#[derive(Debug, Subcommand)]
pub(super) enum DeployVerb {
    /// Show the slots with their containers, and what is under way
    Status,
    /// Show the last deploys: who, what, how they went
    History {
        /// How many
        #[arg(long, value_name = "N", default_value_t = HISTORY_LAST_DEFAULT)]
        last: usize,
    },
    /// Make what runs what should run: after a reboot, a deploy that was cut off, the end of a warm time
    Reconcile {
        /// As after a reboot, which else is found out
        #[arg(long)]
        boot: bool,
    },
    /// Send the messages that wait
    #[command(hide = true)]
    SendMessages,
}
