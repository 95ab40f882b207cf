//! Where a verb writes: data to stdout, talk to stderr, colour only where it is wanted.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Also into a pipe.
    Always,
    /// Not at all.
    Never,
}

/// The two streams of a verb.
pub struct Terminal<'w> {
    data: &'w mut dyn Write,
    talk: &'w mut dyn Write,
    /// For what goes to stdout. Talk is never coloured.
    pub paint: Paint,
}

/// Colours, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Text stays as it is.
    Plain,
    /// Text is wrapped in escape codes.
    Coloured,
}

/// The colours that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// The blue slot.
    Blue,
    /// The green slot, and what is well.
    Green,
    /// What is not well.
    Red,
    /// What is not known, or not usual.
    Yellow,
}

// === impl Terminal ===

impl<'w> Terminal<'w> {
    /// A terminal on these streams.
    pub fn new(data: &'w mut dyn Write, talk: &'w mut dyn Write, paint: Paint) -> Terminal<'w> {
        Terminal { data, talk, paint }
    }

    /// Writes data. A reader that has seen enough (`| head`) is no failure.
    ///
    /// # Errors
    /// The stream takes no more for another reason, for example a full disk.
    pub fn data(&mut self, text: &str) -> io::Result<()> {
        let written = self
            .data
            .write_all(text.as_bytes())
            .and_then(|()| self.data.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// Writes one line of talk.
    pub fn talk(&mut self, line: &str) {
        // When nobody listens there is nobody to be told so; the exit code still says how it went.
        let _ = writeln!(self.talk, "{line}");
    }

    /// Writes an error and what to do about it.
    pub fn error(&mut self, error: &str, hint: &str) {
        self.talk(&format!("error: {error}"));
        self.talk(&format!("hint: {hint}"));
    }
}

// === impl Paint ===

impl Paint {
    /// What a choice means for the stdout of this process.
    pub fn for_stdout(choice: ColorChoice) -> Paint {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Paint::decide(
            choice,
            io::stdout().is_terminal(),
            is_set("NO_COLOR") || is_dumb,
        )
    }

    fn decide(choice: ColorChoice, is_terminal: bool, is_unwanted: bool) -> Paint {
        match choice {
            ColorChoice::Always => Paint::Coloured,
            ColorChoice::Auto if is_terminal && !is_unwanted => Paint::Coloured,
            ColorChoice::Auto | ColorChoice::Never => Paint::Plain,
        }
    }

    /// The text in a colour, if colours are on.
    pub fn color(self, color: Color, text: &str) -> String {
        if self == Paint::Plain || text.is_empty() {
            return text.to_owned();
        }
        let code = match color {
            Color::Blue => 34,
            Color::Green => 32,
            Color::Red => 31,
            Color::Yellow => 33,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Text of others, fit for a terminal: what could move the cursor or hide a line is escaped.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        for (choice, is_terminal, is_unwanted, paint) in [
            (ColorChoice::Auto, true, false, Paint::Coloured),
            (ColorChoice::Auto, true, true, Paint::Plain),
            (ColorChoice::Auto, false, false, Paint::Plain),
            (ColorChoice::Always, false, true, Paint::Coloured),
            (ColorChoice::Never, true, false, Paint::Plain),
        ] {
            assert_eq!(Paint::decide(choice, is_terminal, is_unwanted), paint);
        }
        assert_eq!(Paint::Plain.color(Color::Red, "x"), "x");
        assert_eq!(Paint::Coloured.color(Color::Red, "x"), "\x1b[31mx\x1b[0m");
    }

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}"), "a\\u{1b}[2Jb\\nc\\u{9b}");
        assert_eq!(printable("größer"), "größer");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        struct Closed(io::ErrorKind);
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let write_to = |kind| {
            let (mut data, mut talk) = (Closed(kind), Closed(kind));
            let mut terminal = Terminal::new(&mut data, &mut talk, Paint::Plain);
            terminal.talk("nobody hears this");
            terminal.data("x")
        };
        assert!(write_to(io::ErrorKind::BrokenPipe).is_ok());
        assert!(write_to(io::ErrorKind::StorageFull).is_err());
    }
}
