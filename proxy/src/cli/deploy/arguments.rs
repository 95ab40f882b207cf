//! The options of `deploy`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

/// Deploys that `deploy history` shows unless told otherwise.
const HISTORY_LAST_DEFAULT: usize = 20;

/// `mana-proxy deploy`, and the verbs below it.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
pub(in super::super) struct DeployArguments {
    #[command(subcommand)]
    pub(super) verb: Option<DeployVerb>,
    /// The configuration, with its section of deploys
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

impl DeployArguments {
    /// Whether it is a deploy, and none of the verbs below it.
    pub(in super::super) fn brings(&self) -> bool {
        self.verb.is_none()
    }
}

/// What is brought, and how.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["tag", "digest", "rollback"]).required(true))]
#[command(group = ArgGroup::new("registry-token").args(["registry_token_stdin", "registry_token_file"]))]
pub(super) struct Bring {
    /// The repository of the image, for example registry.example/team/app [default: deploy.image]
    #[arg(long, value_name = "REPO", conflicts_with = "rollback")]
    pub(super) image: Option<String>,
    /// The tag of the image
    #[arg(long, value_name = "TAG")]
    pub(super) tag: Option<String>,
    /// The digest of the image, in place of a tag: these bytes and no others
    #[arg(long, value_name = "sha256:...")]
    pub(super) digest: Option<String>,
    /// Bring back the last good release that is not active: one flip while it is kept warm
    #[arg(long)]
    pub(super) rollback: bool,
    /// Look whether it could be done, print what would be, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Queue behind a deploy that is being carried out, for at most deploy.lock_wait, rather than be turned away
    #[arg(long)]
    pub(super) wait: bool,
    /// Why; goes to the history and into messages
    #[arg(long, value_name = "TEXT")]
    pub(super) note: Option<String>,
    /// The commit that the image was built from [default: the image's label]
    #[arg(long, value_name = "SHA")]
    pub(super) commit: Option<String>,
    /// The branch of that commit
    #[arg(long, value_name = "NAME")]
    pub(super) branch: Option<String>,
    /// The author of that commit
    #[arg(long, value_name = "NAME")]
    pub(super) author: Option<String>,
    /// The repository of that commit, as a name or a URL [default: the image's label]
    #[arg(long, value_name = "NAME")]
    pub(super) repository: Option<String>,
    /// Read the token for deploy.registry_user from stdin; or set `MANA_PROXY_REGISTRY_TOKEN`
    #[arg(long)]
    pub(super) registry_token_stdin: bool,
    /// Read that token from a file
    #[arg(long, value_name = "FILE")]
    pub(super) registry_token_file: Option<PathBuf>,
}

// === impl Bring ===

impl Bring {
    /// Whether anything of it is on the command line. clap could refuse it beside a verb, but `--config` and `--json` with it.
    pub(super) fn is_given(&self) -> bool {
        let Bring {
            image,
            tag,
            digest,
            rollback,
            dry_run,
            wait,
            note,
            commit,
            branch,
            author,
            repository,
            registry_token_stdin,
            registry_token_file,
        } = self;
        let texts = [image, tag, digest, note, commit, branch, author, repository];
        texts.iter().any(|text| text.is_some())
            || registry_token_file.is_some()
            || [rollback, dry_run, wait, registry_token_stdin].contains(&&true)
    }
}

/// What can be asked for beside a deploy.
#[derive(Debug, Subcommand)]
pub(super) enum DeployVerb {
    /// Show the slots with their containers, and what is under way
    Status,
    /// Show the last deploys: who, what, how they went
    History {
        /// How many; 200 are remembered
        #[arg(long, value_name = "N", default_value_t = HISTORY_LAST_DEFAULT)]
        last: usize,
    },
    /// Start and stop what deploys have left: the end of `keep_warm`, a deploy that was cut off, a reboot. For the timer
    Reconcile {
        /// Act as after a reboot, which it otherwise finds out by itself
        #[arg(long)]
        boot: bool,
    },
    /// Send the messages that wait
    #[command(hide = true)]
    SendMessages,
}
