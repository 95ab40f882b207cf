//! `mana-proxy doctor`: the findings as text or as one object.

use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use super::arguments::Global;
use super::exit::Exit;
use super::print;
use super::terminal::{Color, Paint, Terminal, printable};
use crate::doctor::{Finding, Level, Report, judge, read};

/// Looks at this machine. 1 if anything is red.
pub(super) fn examine(file: &Path, global: &Global, terminal: &mut Terminal<'_>) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let hint = "too few file descriptors or processes for this user? see `ulimit -a`";
            terminal.error(&format!("cannot look at the machine: {error}"), hint);
            return Exit::Failed;
        }
    };
    let facts = runtime.block_on(read::read(file, &global.socket(), SystemTime::now()));
    // A name server that does not answer keeps its thread for a while; nobody waits for that.
    runtime.shutdown_background();
    let report = judge(&facts);
    let exit = if report.is_red() {
        Exit::Failed
    } else {
        Exit::Done
    };
    let text = if global.json {
        let object = json!({
            "ok": exit == Exit::Done,
            "findings": report.findings,
            "not_looked_at": report.not_looked_at,
        });
        format!("{object}\n")
    } else {
        shown(&report, terminal.paint)
    };
    print(&text, exit, terminal)
}

/// One line for each finding, with the way to mend it below.
fn shown(report: &Report, paint: Paint) -> String {
    let mut text: String = report
        .findings
        .iter()
        .map(|finding| line(finding, paint))
        .collect();
    for gap in &report.not_looked_at {
        text.push_str(&format!(
            "-       {}: not looked at: {}\n",
            printable(&gap.about),
            printable(&gap.why)
        ));
    }
    text
}

fn line(finding: &Finding, paint: Paint) -> String {
    let color = match finding.level {
        Level::Red => Color::Red,
        Level::Yellow => Color::Yellow,
        Level::Green => Color::Green,
    };
    let level = finding.level.as_str();
    let mut text = format!(
        "{}{} {}: {}\n",
        paint.color(color, level),
        " ".repeat(LEVEL_WIDTH - level.len()),
        printable(&finding.about),
        printable(&finding.what)
    );
    if let Some(mend) = &finding.mend {
        text.push_str(&format!("        mend: {}\n", printable(mend)));
    }
    text
}

const LEVEL_WIDTH: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Gap;

    #[test]
    fn each_finding_is_one_line_with_its_remedy_below() {
        let report = Report {
            findings: vec![
                Finding {
                    level: Level::Red,
                    about: "port 443".to_owned(),
                    what: "nginx\x1b (pid 7) listens on 0.0.0.0:443".to_owned(),
                    mend: Some("sudo systemctl disable --now nginx".to_owned()),
                },
                Finding {
                    level: Level::Green,
                    about: "clock".to_owned(),
                    what: "it is kept by a time server".to_owned(),
                    mend: None,
                },
            ],
            not_looked_at: vec![Gap {
                about: "containers".to_owned(),
                why: "no socket".to_owned(),
            }],
        };
        let expected = "\
red     port 443: nginx\\u{1b} (pid 7) listens on 0.0.0.0:443
        mend: sudo systemctl disable --now nginx
green   clock: it is kept by a time server
-       containers: not looked at: no socket
";
        assert_eq!(shown(&report, Paint::Plain), expected);
        assert!(shown(&report, Paint::Coloured).contains("\x1b[31mred\x1b[0m"));
    }
}
