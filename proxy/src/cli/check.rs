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
    let faults = certificate_faults(&config, SystemTime::now());
    if faults.is_empty() {
        let sites = config.sites.len();
        let noun = if sites == 1 { "site" } else { "sites" };
        let text = if is_json {
            format!(
                "{}\n",
                json!({ "ok": true, "file": file.display().to_string(), "sites": sites })
            )
        } else {
            format!("{}: no faults, {sites} {noun}\n", file.display())
        };
        return print(&text, Exit::Done, terminal);
    }
    for (host, reason) in &faults {
        terminal.talk(&format!(
            "{}: site {host}: certificate: {reason}",
            file.display()
        ));
    }
    let hint = "put the right files in place, or name others; the proxy would not start with these";
    terminal.error("a certificate cannot be served", hint);
    let faults = faults.iter().map(|(host, reason)| {
        json!({ "file": file.display().to_string(), "key": "site.certificate", "site": host, "reason": reason })
    });
    report(
        &object(faults.collect()),
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

/// By canonical host, why a certificate from files cannot be served now.
fn certificate_faults(config: &Config, now: SystemTime) -> Vec<(String, String)> {
    let faults = config.sites.iter().filter_map(|site| {
        let error = load(site, now).err()?;
        Some((
            site.settings.host.to_string(),
            printable(&with_sources(&error)),
        ))
    });
    faults.collect()
}

fn load(site: &SiteConfig, now: SystemTime) -> Result<(), BundleError> {
    match &site.certificate {
        CertificateSource::Files { chain, key } => {
            let settings = &site.settings;
            let hosts: Vec<&str> = std::iter::once(&settings.host)
                .chain(&settings.aliases)
                .map(|host| host.as_str())
                .collect();
            Bundle::from_files(settings.host.as_str(), chain, key, &hosts)?.check(now)
        }
        CertificateSource::SelfSigned | CertificateSource::Acme => Ok(()),
    }
}
