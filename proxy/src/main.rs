//! The binary: argv in, exit code out.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use mana_proxy::cli::{self, Daemon};
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
    fn run(&self, config: Config, file: &Path) -> Result<(), Box<dyn Error>> {
        logging::start();
        run::run(config, file, |_| std::future::pending())?;
        Ok(())
    }

    fn demo(&self) -> Result<(), Box<dyn Error>> {
        logging::start();
        demo::run()?;
        Ok(())
    }
}
