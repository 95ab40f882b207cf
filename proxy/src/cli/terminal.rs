//! Where a verb writes: data to stdout, talk to stderr, colour only where it is wanted.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;

use super::spool::Spool;

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
    data: Stream<'w>,
    talk: Stream<'w>,
    /// For what goes to stdout. Talk is never coloured.
    pub paint: Paint,
}

/// Where one of the two goes.
enum Stream<'w> {
    /// Each write waits until it is taken.
    Plain(&'w mut dyn Write),
    /// No write waits but that of data at the end.
    Spooled(&'w mut Spool),
}

/// Whether a line can be missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It is left out if whoever reads does not keep up.
    Progress,
    /// It is kept as long as there is any room.
    Step,
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
        let (data, talk) = (Stream::Plain(data), Stream::Plain(talk));
        Terminal { data, talk, paint }
    }

    /// A terminal for a verb that must not wait for whoever reads it.
    pub fn spooled(data: &'w mut Spool, talk: &'w mut Spool, paint: Paint) -> Terminal<'w> {
        let (data, talk) = (Stream::Spooled(data), Stream::Spooled(talk));
        Terminal { data, talk, paint }
    }

    /// Writes data. A reader that has seen enough (`| head`) is no failure.
    ///
    /// # Errors
    /// The stream takes no more for another reason, for example a full disk, or nobody who reads.
    pub fn data(&mut self, text: &str) -> io::Result<()> {
        if let Stream::Spooled(talk) = &mut self.talk {
            // What was said before it is seen before it. Nobody who reads that is no reason not to try this.
            talk.flush().ok();
        }
        let data = self.data.write();
        let written = data.write_all(text.as_bytes()).and_then(|()| data.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// Writes data that others follow; what becomes of it is learnt with the last.
    pub fn data_meanwhile(&mut self, text: &str, weight: Weight) {
        match (&mut self.data, weight) {
            (Stream::Spooled(data), Weight::Progress) => data.offer(text),
            // It is kept or counted, and never fails.
            (Stream::Spooled(data), Weight::Step) => data.write_all(text.as_bytes()).unwrap_or(()),
            // Whoever reads no more misses the rest; a verb does not end half-way for that.
            (Stream::Plain(_), _) => self.data(text).unwrap_or(()),
        }
    }

    /// Writes one line of talk.
    pub fn talk(&mut self, line: &str) {
        // When nobody listens there is nobody to be told so; the exit code still says how it went.
        let _ = self.talk.write().write_all(format!("{line}\n").as_bytes());
    }

    /// Writes one line of talk about something that goes on.
    pub fn talk_meanwhile(&mut self, line: &str, weight: Weight) {
        match (&mut self.talk, weight) {
            (Stream::Spooled(talk), Weight::Progress) => talk.offer(&format!("{line}\n")),
            (Stream::Spooled(_) | Stream::Plain(_), _) => self.talk(line),
        }
    }

    /// How many lines were left out because nobody has read what was before them.
    pub fn missed(&self) -> usize {
        let missed = |stream: &Stream<'_>| match stream {
            Stream::Spooled(spool) => spool.missed(),
            Stream::Plain(_) => 0,
        };
        missed(&self.data) + missed(&self.talk)
    }

    /// Writes an error and what to do about it.
    pub fn error(&mut self, error: &str, hint: &str) {
        self.talk(&format!("error: {error}"));
        self.talk(&format!("hint: {hint}"));
    }
}

// === impl Stream ===

impl Stream<'_> {
    fn write(&mut self) -> &mut dyn Write {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Spooled(spool) => spool,
        }
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
