//! The binary: argv in, exit code out.

use std::path::Path;
use std::process::ExitCode;

use mana_proxy::cli::{self, Daemon, Stopped};
use mana_proxy::config::Config;
use mana_proxy::{demo, logging, run};

// Measured against glibc's allocator in `benches/`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main(std::env::args_os(), &Here)
}

struct Here;

impl Daemon for Here {
    fn run(&self, config: Config, file: &Path) -> Result<(), Stopped> {
        logging::start();
        run::run(config, file, |_| std::future::pending()).map_err(|error| Stopped {
            hint: error.hint(),
            error: error.into(),
        })
    }

    fn demo(&self) -> Result<(), Stopped> {
        logging::start();
        demo::run().map_err(|error| Stopped {
            hint: error.hint(),
            error: error.into(),
        })
    }
}
