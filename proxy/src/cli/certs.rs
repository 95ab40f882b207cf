//! `mana-proxy certs`: two verbs for the daemon, two that are carried out here.

use std::path::Path;
use std::time::SystemTime;

use mana_certs::import::{ImportError, import, read};
use mana_certs::inspect::{Inspected, NO_ROOTS, inspect, read_roots, system_roots};
use mana_certs::renew::days_left;
use mana_control::{Host, Request, Verb};
use serde_json::{Map, Value, json};

use super::arguments::{Certs, Global};
use super::exit::Exit;
use super::render::{Cell, aligned, counted, number, text};
use super::terminal::{Color, Paint, Terminal, printable};
use super::{print, refuse_config, remote, with_sources};
use crate::certificates::names;
use crate::config::{CertificateSource, Config, SiteConfig};

/// Carries out one of them.
pub(super) fn carry_out(verb: Certs, global: &Global, terminal: &mut Terminal<'_>) -> Exit {
    let request = |verb| {
        let mut request = Request::new(verb);
        request.site.clone_from(&global.site);
        request
    };
    match verb {
        Certs::List => remote::carry(&request(Verb::CertsList), global, terminal),
        Certs::Renew { force } => {
            let mut request = request(Verb::CertsRenew);
            request.options.force = force;
            remote::carry(&request, global, terminal)
        }
        Certs::Import { from, config } => take_over(&from, &config, global, terminal),
        Certs::Check { host, via, ca_root } => {
            check(&host, via, ca_root.as_deref(), global.json, terminal)
        }
    }
}

// === certs list, certs renew ===

/// All certificates, one a line, with what went wrong below.
pub(super) fn list(fields: &Map<String, Value>, paint: Paint) -> String {
    let certificates = fields.get("certificates").and_then(Value::as_array);
    let certificates = certificates
        .into_iter()
        .flatten()
        .filter_map(Value::as_object);
    let (rows, notes): (Vec<_>, Vec<_>) = certificates.map(|one| (row(one), notes(one))).unzip();
    let lines = aligned(&rows, "", paint);
    let mut text = String::new();
    for (line, notes) in lines.iter().zip(notes) {
        text.push_str(line);
        text.push('\n');
        for note in notes {
            text.push_str(&format!("  {note}\n"));
        }
    }
    text
}

fn row(one: &Map<String, Value>) -> Vec<Cell> {
    let names = one.get("names").and_then(Value::as_array);
    let names = names.into_iter().flatten().filter_map(Value::as_str);
    let names: Vec<String> = names.map(printable).collect();
    let days = one.get("days_left").and_then(Value::as_i64);
    let left = match days {
        None => Cell::in_color("none", Color::Red),
        Some(days) if days < 0 => Cell::in_color("expired", Color::Red),
        Some(days) if days < DAYS_FEW => {
            Cell::in_color(counted(days.unsigned_abs(), "day"), Color::Yellow)
        }
        Some(days) => Cell::new(counted(days.unsigned_abs(), "day")),
    };
    let next = match (text(one, "next_attempt"), text(one, "why")) {
        (Some(at), Some(why)) => format!("next {at} ({why})"),
        (None, Some(why)) => why,
        _ => String::new(),
    };
    let or_dash = |name| text(one, name).unwrap_or_else(|| "-".to_owned());
    vec![
        Cell::new(or_dash("site")),
        left,
        Cell::new(or_dash("source")),
        Cell::new(or_dash("issuer")),
        Cell::new(next),
        Cell::new(names.join(", ")),
    ]
}

fn notes(one: &Map<String, Value>) -> Vec<String> {
    let mut notes = Vec::new();
    if one.get("is_running") == Some(&Value::Bool(true)) {
        notes.push("an attempt is being made".to_owned());
    }
    if let Some(error) = text(one, "error") {
        let count = counted(number(one, "failures").unwrap_or(1), "failure");
        notes.push(format!("{count}: {error}"));
    }
    notes.extend(text(one, "held_back"));
    notes
}

/// `mana.so: issued, valid until ...`, one a line.
pub(super) fn renewed(fields: &Map<String, Value>) -> String {
    let renewed = fields.get("renewed").and_then(Value::as_array);
    let renewed = renewed.into_iter().flatten().filter_map(Value::as_object);
    let lines = renewed.map(|one| {
        let field = |name| text(one, name).unwrap_or_default();
        let outcome = field("outcome").replace('-', " ");
        match outcome.as_str() {
            "issued" => format!("{}: issued, {}\n", field("site"), field("reason")),
            _ => format!("{}: {}\n", field("site"), field("reason")),
        }
    });
    lines.collect()
}

// === certs import ===

fn take_over(from: &Path, file: &Path, global: &Global, terminal: &mut Terminal<'_>) -> Exit {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => return refuse_config(&error, terminal),
    };
    let refuse = |reason: &str, terminal: &mut Terminal<'_>| {
        terminal.error(
            reason,
            "nothing was stored; name another directory, or a site with --site",
        );
        Exit::Refused
    };
    let site = match site_for(from, &config, global.site.as_ref()) {
        Ok(site) => site,
        Err(reason) => return refuse(&reason, terminal),
    };
    let host = site.settings.host.as_str();
    let hosts: Vec<&str> = names(site).collect();
    let now = SystemTime::now();
    let bundle = match import(from, host, &hosts, &config.state_dir, now) {
        Ok(bundle) => bundle,
        Err(error @ ImportError::Store(_)) => {
            let hint = "use sudo, or let this user write in the state directory";
            terminal.error(&printable(&with_sources(&error)), hint);
            return Exit::Failed;
        }
        Err(error) => return refuse(&printable(&with_sources(&error)), terminal),
    };
    if site.certificate != CertificateSource::Acme {
        let talk = format!(
            r#"warning: {host} does not have certificate = "acme", so this one is not served"#
        );
        terminal.talk(&talk);
    }
    terminal.talk("a daemon that runs takes it at its next reload: `mana-proxy reload`");
    let days = days_left(bundle.not_after, now);
    let text = match global.json {
        true => {
            let object = json!({
                "ok": true, "site": host, "names": bundle.names, "issuer": bundle.issuer,
                "not_after": mana_certs::text(bundle.not_after), "days_left": days,
            });
            format!("{object}\n")
        }
        false => {
            let left = counted(days.unsigned_abs(), "day");
            format!(
                "{host}: imported, {left} left, from {}\n",
                printable(&bundle.issuer)
            )
        }
    };
    print(&text, Exit::Done, terminal)
}

/// The site that was named, or the one that the certificate is for.
fn site_for<'c>(
    from: &Path,
    config: &'c Config,
    wanted: Option<&Host>,
) -> Result<&'c SiteConfig, String> {
    if let Some(wanted) = wanted {
        let named = |site: &&SiteConfig| names(site).any(|name| name == wanted.as_str());
        return config
            .sites
            .iter()
            .find(named)
            .ok_or_else(|| format!("there is no site {wanted}"));
    }
    let bundle = read(from).map_err(|error| printable(&with_sources(&error)))?;
    let mut covered = config
        .sites
        .iter()
        .filter(|site| bundle.covers(site.settings.host.as_str()));
    match (covered.next(), covered.next()) {
        (Some(site), None) => Ok(site),
        (None, _) => Err(format!(
            "no site has a host that the certificate covers: {}",
            printable(&bundle.names.join(", "))
        )),
        (Some(_), Some(_)) => Err("several sites have a host that it covers".to_owned()),
    }
}

// === certs check ===

fn check(
    host: &Host,
    via: Option<String>,
    ca_root: Option<&Path>,
    is_json: bool,
    terminal: &mut Terminal<'_>,
) -> Exit {
    let address = via.unwrap_or_else(|| format!("{host}:443"));
    let inspected = look(host.as_str(), &address, ca_root);
    let seen = match inspected {
        Ok(seen) => seen,
        Err(reason) => {
            let hint = "is the daemon running, and is the address right? see --via";
            terminal.error(&printable(&reason), hint);
            if is_json {
                let object = json!({ "ok": false, "code": "failed", "error": reason });
                return print(&format!("{object}\n"), Exit::Failed, terminal);
            }
            return Exit::Failed;
        }
    };
    let exit = match &seen.distrust {
        None => Exit::Done,
        Some(reason) => {
            let error = format!("a client would not trust it: {}", printable(reason));
            let hint = match reason == NO_ROOTS {
                true => "install ca-certificates, or name a file of roots with --ca-root",
                false => "`mana-proxy certs list` shows what is served, and why",
            };
            terminal.error(&error, hint);
            Exit::Failed
        }
    };
    print(&shown(host, &seen, is_json), exit, terminal)
}

fn look(host: &str, address: &str, ca_root: Option<&Path>) -> Result<Inspected, String> {
    let roots = match ca_root {
        Some(path) => read_roots(path).map_err(|error| with_sources(&error))?,
        None => system_roots(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let seen = runtime.block_on(inspect(host, address, roots));
    seen.map_err(|error| with_sources(&error))
}

fn shown(host: &Host, seen: &Inspected, is_json: bool) -> String {
    let days = days_left(seen.not_after, SystemTime::now());
    let not_after = mana_certs::text(seen.not_after);
    if is_json {
        let object = json!({
            "ok": seen.distrust.is_none(), "host": host.as_str(), "address": seen.address.to_string(),
            "names": seen.names, "issuer": seen.issuer, "not_before": mana_certs::text(seen.not_before),
            "not_after": not_after, "days_left": days, "chain_length": seen.chain_length,
            "version": seen.version, "protocol": seen.protocol, "distrust": seen.distrust,
        });
        return format!("{object}\n");
    }
    let protocol = seen.protocol.as_deref().unwrap_or("no ALPN");
    format!(
        "{host} at {}: {} of {}\n  names {}\n  until {not_after}, {} days left\n  {} {}\n",
        seen.address,
        counted(seen.chain_length as u64, "certificate"),
        printable(&seen.issuer),
        printable(&seen.names.join(", ")),
        days,
        seen.version,
        printable(protocol),
    )
}

/// Fewer are shown in yellow: by now it should have been renewed.
const DAYS_FEW: i64 = 3;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fields(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn each_certificate_is_one_line_with_its_troubles_below() {
        let reply = fields(
            r#"{"ok":true,"certificates":[
            {"site":"mana.so","names":["mana.so","www.mana.so"],"source":"acme","has_certificate":true,"issuer":"R10",
             "days_left":61,"next_attempt":"2026-12-22T09:00:00Z","why":"the CA suggests it","failures":0},
            {"site":"b.so","names":["b.so"],"source":"acme","has_certificate":false,
             "next_attempt":"2026-11-22T09:05:00Z","why":"there is none","failures":2,"error":"DNS\u001b is down"}]}"#,
        );
        let expected = "\
mana.so  61 days  acme  R10  next 2026-12-22T09:00:00Z (the CA suggests it)  mana.so, www.mana.so
b.so     none     acme  -    next 2026-11-22T09:05:00Z (there is none)       b.so
  2 failures: DNS\\u{1b} is down
";
        assert_eq!(list(&reply, Paint::Plain), expected);
        assert!(list(&reply, Paint::Coloured).contains("\x1b[31mnone"));
    }

    #[test]
    fn what_came_of_a_renewal_is_one_line_each() {
        let reply = fields(
            r#"{"ok":true,"renewed":[{"site":"a","outcome":"issued","reason":"valid until x"},
            {"site":"b","outcome":"not-due","reason":"not due before y (its lifetime)"}]}"#,
        );
        let expected = "a: issued, valid until x\nb: not due before y (its lifetime)\n";
        assert_eq!(renewed(&reply), expected);
    }
}
