//! `mana-proxy check`: the configuration and the certificates that it names, without binding or changing anything.

use std::path::Path;
use std::time::SystemTime;

use mana_certs::{Bundle, BundleError};
use serde_json::{Value, json};

use super::exit::Exit;
use super::terminal::{Terminal, printable};
use super::{print, refuse_config, with_sources};
use crate::config::{CertificateSource, Config, ConfigError, Fault, SiteConfig};

/// Prints every fault on stderr, or one line on stdout that there is none.
pub(super) fn check(file: &Path, is_json: bool, terminal: &mut Terminal<'_>) -> Exit {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            let exit = refuse_config(&error, terminal);
            return report(&refused(file, &error), is_json, exit, terminal);
        }
    };
    let Findings { faults, warnings } = look_at_certificates(&config, SystemTime::now());
    for (host, reason) in &warnings {
        terminal.talk(&format!(
            "warning: {}: site {host}: certificate: {reason}",
            file.display()
        ));
    }
    if faults.is_empty() {
        return print(
            &passed(file, &config, &warnings, is_json),
            Exit::Done,
            terminal,
        );
    }
    for (host, reason) in &faults {
        terminal.talk(&format!(
            "{}: site {host}: certificate: {reason}",
            file.display()
        ));
    }
    let hint = "put the right files in place, or name others; the proxy would not start with these";
    terminal.error("a certificate cannot be served", hint);
    report(
        &object(of_certificates(file, &faults)),
        is_json,
        Exit::BadConfig,
        terminal,
    )
}

fn report(object: &Value, is_json: bool, exit: Exit, terminal: &mut Terminal<'_>) -> Exit {
    if is_json {
        print(&format!("{object}\n"), exit, terminal)
    } else {
        exit
    }
}

fn refused(file: &Path, error: &ConfigError) -> Value {
    match error {
        ConfigError::Unreadable { .. } => object(vec![
            json!({ "file": file.display().to_string(), "reason": with_sources(error) }),
        ]),
        ConfigError::Faults(faults) => object(faults.iter().map(fault).collect()),
    }
}

fn object(faults: Vec<Value>) -> Value {
    json!({ "ok": false, "faults": faults })
}

fn fault(fault: &Fault) -> Value {
    json!({ "file": fault.file, "line": fault.line, "key": fault.key, "reason": fault.reason })
}

/// What was found of certificates, each by canonical host.
#[derive(Default)]
struct Findings {
    /// The proxy would not start.
    faults: Vec<(String, String)>,
    /// The proxy starts and says so: an expired certificate is served rather than none.
    warnings: Vec<(String, String)>,
}

/// Loads what comes from files.
fn look_at_certificates(config: &Config, now: SystemTime) -> Findings {
    let mut findings = Findings::default();
    for site in &config.sites {
        let told = |error: BundleError| {
            (
                site.settings.host.to_string(),
                printable(&with_sources(&error)),
            )
        };
        match load(site).map(|bundle| bundle.map(|bundle| bundle.check(now))) {
            Ok(Some(Err(error))) => findings.warnings.push(told(error)),
            Ok(Some(Ok(())) | None) => {}
            Err(error) => findings.faults.push(told(error)),
        }
    }
    findings
}

fn load(site: &SiteConfig) -> Result<Option<Bundle>, BundleError> {
    match &site.certificate {
        CertificateSource::Files { chain, key } => {
            let settings = &site.settings;
            let hosts: Vec<&str> = std::iter::once(&settings.host)
                .chain(&settings.aliases)
                .map(|host| host.as_str())
                .collect();
            Bundle::from_files(settings.host.as_str(), chain, key, &hosts).map(Some)
        }
        CertificateSource::SelfSigned | CertificateSource::Acme => Ok(None),
    }
}

fn passed(file: &Path, config: &Config, warnings: &[(String, String)], is_json: bool) -> String {
    let (file_name, sites) = (file.display(), config.sites.len());
    if is_json {
        let warnings = of_certificates(file, warnings);
        let object = json!({
            "ok": true, "file": file_name.to_string(), "sites": sites, "warnings": warnings
        });
        return format!("{object}\n");
    }
    let noun = if sites == 1 { "site" } else { "sites" };
    format!("{file_name}: no faults, {sites} {noun}\n")
}

fn of_certificates(file: &Path, findings: &[(String, String)]) -> Vec<Value> {
    let file = file.display().to_string();
    let found = findings.iter().map(|(host, reason)| {
        json!({ "file": file, "key": "site.certificate", "site": host, "reason": reason })
    });
    found.collect()
}
