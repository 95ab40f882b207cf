//! What is made from the description of the command line: completions of shells, manual pages.
//!
//! Both come out of the binary that they are about, so that a package cannot hold those of another version.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};
use clap_mangen::generate_to;

use super::arguments::{Arguments, Shell};
use super::exit::Exit;
use super::print;
use super::terminal::Terminal;

const NAME: &str = "mana-proxy";

/// Prints a script that a shell reads.
pub(super) fn completions(shell: Shell, terminal: &mut Terminal<'_>) -> Exit {
    print(&script(shell), Exit::Done, terminal)
}

fn script(shell: Shell) -> String {
    let mut command = Arguments::command();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(Bash, &mut command, NAME, &mut script),
        Shell::Zsh => generate(Zsh, &mut command, NAME, &mut script),
        Shell::Fish => generate(Fish, &mut command, NAME, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes `mana-proxy.1` and one page for each verb.
pub(super) fn man_pages(to: &Path, terminal: &mut Terminal<'_>) -> Exit {
    // Without `help`, which would have a page for the help of each verb.
    let command = Arguments::command().disable_help_subcommand(true);
    match generate_to(command, to) {
        Ok(()) => Exit::Done,
        Err(error) => {
            let hint = "name a directory that is there and may be written to";
            terminal.error(&format!("cannot write to {}: {error}", to.display()), hint);
            Exit::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_every_verb() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for verb in ["switch", "rollback", "doctor", "certs", "--if-generation"] {
                let verb = verb.trim_start_matches("--");
                assert!(script.contains(verb), "{shell:?}: {verb}");
            }
        }
    }

    #[test]
    fn every_verb_has_a_page_and_hidden_ones_have_none() {
        let dir = tempfile::tempdir().expect("dir");
        let (mut data, mut talk) = (Vec::new(), Vec::new());
        let paint = super::super::terminal::Paint::Plain;
        let mut terminal = Terminal::new(&mut data, &mut talk, paint);
        assert_eq!(man_pages(dir.path(), &mut terminal), Exit::Done);
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name));
        let main = page("mana-proxy.1").expect("page");
        assert!(main.contains("rollback"), "{main}");
        let switch = page("mana-proxy-switch.1").expect("page");
        assert!(switch.contains("drain\\-timeout"), "{switch}");
        assert!(page("mana-proxy-certs-renew.1").is_ok());
        assert!(page("mana-proxy-man-pages.1").is_err());
    }
}
