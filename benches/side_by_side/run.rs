//! The order of measuring: everything is started once, then measured round by round, contender after contender.

use std::fmt::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::Outcome;
use crate::bed::Bed;
use crate::contender::{Contender, Scheme, Server};
use crate::hold;
use crate::load::Load;
use crate::machine;
use crate::options::{Keep, Options};
use crate::pace;
use crate::process::{Cores, raise_open_files};
use crate::report::Report;
use crate::sample::{Sample, Seen};
use crate::scenario::{Kind, Scenario};
use crate::table;

/// Everything that a measurement needs.
struct Stage<'a> {
    options: &'a Options,
    cores: Cores,
    bed: Bed,
    servers: Vec<Server>,
    /// That each process may have open.
    files: u64,
    /// Starts so far.
    started: usize,
    /// Of [`Kind::Pace`], requests a second.
    rate: Option<u32>,
}

/// Does what the command line asks for: measures, prints the table, keeps the run.
///
/// # Errors
/// A contender cannot be started or a measurement fails: the other figures of the run would have nothing to stand beside.
pub fn run(options: &Options) -> Outcome<()> {
    let cores = Cores::of_this_process()?;
    let files = raise_open_files()?;
    let bed = Bed::new(&cores)?;
    let mut stage = Stage {
        options,
        cores,
        bed,
        servers: Vec::new(),
        files,
        started: 0,
        rate: None,
    };
    let mut machine = machine::describe(&options.contenders)?;
    stage.start_all()?;
    stage.find_rate()?;

    let mut report = Report::default();
    // Round by round, so that a change of the machine's mood meets all contenders.
    for round in 1..=options.rounds {
        for scenario in &options.scenarios {
            for contender in &options.contenders {
                if stage.has_cell(*scenario, *contender) {
                    let sample = stage.measure(*scenario, *contender)?;
                    eprintln!("round {round} of {}: {sample}", options.rounds);
                    report.add(round, sample);
                }
            }
        }
    }
    let load = machine::load_average()?;
    writeln!(machine, "load average at the end: {load}")?;

    let table = table::of(&report, stage.rate);
    println!("{table}");
    if options.keep == Keep::Run {
        let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/runs");
        let kept = report.write(&runs, &table, &machine)?;
        eprintln!("raw figures: benches/runs/{kept}/");
    }
    Ok(())
}

// === impl Stage ===

impl Stage<'_> {
    /// What runs all the time. A contender whose memory is measured is started for that.
    fn start_all(&mut self) -> Outcome<()> {
        let options = self.options;
        for contender in &options.contenders {
            for scheme in [Scheme::Plain, Scheme::Tls] {
                let is_needed = |scenario: &&Scenario| {
                    scenario.kind() != Kind::Rest
                        && scenario.scheme() == scheme
                        && contender.is_fit_for(**scenario)
                };
                if options.scenarios.iter().any(|one| is_needed(&one)) {
                    let server = self.start(*contender, scheme)?;
                    self.servers.push(server);
                }
            }
        }
        Ok(())
    }

    fn has_cell(&self, scenario: Scenario, contender: Contender) -> bool {
        if !contender.is_fit_for(scenario) {
            return false;
        }
        let is_possible = scenario.kind() != Kind::Rest || hold::is_possible(contender, self.files);
        if !is_possible {
            let (scenario, contender) = (scenario.name(), contender.name());
            let files = self.files;
            eprintln!(
                "{scenario} {contender}: needs more than the {files} open files that are allowed here"
            );
        }
        is_possible
    }

    fn start(&mut self, contender: Contender, scheme: Scheme) -> Outcome<Server> {
        self.started += 1;
        contender.start(scheme, self.started, &self.bed, &self.cores)
    }

    /// Half of what nginx, tuned, answers now: the same rate for all contenders and rounds.
    fn find_rate(&mut self) -> Outcome<()> {
        let scenarios = &self.options.scenarios;
        if !scenarios.iter().any(|one| one.kind() == Kind::Pace) {
            return Ok(());
        }
        let server = self.start(Contender::NginxTuned, Scheme::Tls)?;
        let load = self.flood(Scenario::H1Tls, &server)?;
        let rate = load.requests as f64 / load.took.as_secs_f64() / 2.0;
        // It fits: no machine answers as many.
        self.rate = Some((rate as u32).max(1));
        Ok(())
    }

    fn measure(&mut self, scenario: Scenario, contender: Contender) -> Outcome<Sample> {
        let (cpu, seen) = match scenario.kind() {
            Kind::Rest => {
                let server = self.start(contender, scenario.scheme())?;
                let memory = hold::measure(&server, &self.bed, self.cores.around)?;
                (None, Seen::Rest(memory))
            }
            Kind::Flood | Kind::Pace => {
                let server = self
                    .servers
                    .iter()
                    .find(|server| {
                        server.contender == contender && server.scheme == scenario.scheme()
                    })
                    .ok_or("a contender was not started")?;
                self.load(scenario, server)?
            }
        };
        Ok(Sample {
            scenario,
            contender,
            cpu,
            seen,
        })
    }

    /// Loads a server for some seconds and reads what its process spent meanwhile.
    fn load(&self, scenario: Scenario, server: &Server) -> Outcome<(Option<Duration>, Seen)> {
        let spent = || {
            let process = server.process.as_ref();
            process.map(|process| process.cpu_time()).transpose()
        };
        let before = spent()?;
        let seen = match self.rate {
            Some(rate) if scenario.kind() == Kind::Pace => self.pace(server, rate)?,
            _ => Seen::Answers(self.flood(scenario, server)?),
        };
        // What the end of the load leaves to do, such as closing connections, belongs to it.
        thread::sleep(Duration::from_millis(50));
        let cpu = spent()?
            .zip(before)
            .map(|(after, before)| after.saturating_sub(before));
        server.empty_log()?;
        Ok((cpu, seen))
    }

    fn flood(&self, scenario: Scenario, server: &Server) -> Outcome<Load> {
        scenario.load(
            server.port,
            self.bed.path(),
            &self.cores,
            self.options.seconds,
        )
    }

    fn pace(&self, server: &Server, rate: u32) -> Outcome<Seen> {
        let chain_and_key = self.bed.chain_and_key();
        // What is behind the proxies speaks no TLS; speaking it is what they are there for.
        let has_tls = server.contender != Contender::Direct;
        let trusted = has_tls.then_some(chain_and_key.as_path());
        let (core, seconds) = (self.cores.around, self.options.seconds);
        let load = pace::run(core, server.port, trusted, rate, seconds)?;
        Ok(load.map_or(Seen::TooMuch, Seen::Answers))
    }
}
