//! Foreign text made fit for a message: one line, nothing hidden in it, no longer than it may be. Pure.
//!
//! Log lines of a container, names of branches and notes are written by many; what is markup where they are shown would
//! let them look like something else, ring everybody, or break the message.

/// The text as one line without colours of a terminal, control characters and what turns the direction of reading;
/// at most `units_max` long.
pub(super) fn one_line(text: &str, units_max: usize) -> String {
    let mut line = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.next_if_eq(&'[').is_some() => {
                // ECMA-48 s5.4: parameters, then one final character from 0x40 to 0x7E.
                for c in chars.by_ref() {
                    if ('\u{40}'..='\u{7e}').contains(&c) {
                        break;
                    }
                }
            }
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => line.push(' '),
            c if is_hidden(c) => {}
            c => line.push(c),
        }
    }
    bounded(line.trim(), units_max)
}

/// At most so many UTF-16 units, which is how the most careful counts: an ellipsis stands for what is cut.
pub(super) fn bounded(text: &str, units_max: usize) -> String {
    if units(text) <= units_max {
        return text.to_owned();
    }
    let mut left = units_max.saturating_sub(1);
    let mut cut = String::new();
    for c in text.chars() {
        let Some(rest) = left.checked_sub(c.len_utf16()) else {
            break;
        };
        left = rest;
        cut.push(c);
    }
    if units_max > 0 {
        cut.push('…');
    }
    cut
}

pub(super) fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// The last lines, each cut and cleaned; empty ones are left out.
pub(super) fn last_lines(lines: &[String]) -> Vec<String> {
    let clean = lines.iter().rev();
    let clean = clean.map(|line| one_line(line, LOG_LINE_UNITS_MAX));
    let filled = clean.filter(|line| !line.is_empty());
    let mut last: Vec<String> = filled.take(LOG_LINES_MAX).collect();
    last.reverse();
    last
}

/// A block of code with as many of the last lines as fit into `units_max`; none if there are none.
///
/// No line ends the block: a space without width stands after each of its backticks.
pub(super) fn fence(lines: &[String], units_max: usize) -> Option<String> {
    let mut left = units_max.checked_sub(units(FENCE) * 2 + 1)?;
    let mut taken = Vec::new();
    for line in lines.iter().rev() {
        let line = line.replace('`', "`\u{200b}");
        let Some(rest) = left.checked_sub(units(&line) + 1) else {
            break;
        };
        left = rest;
        taken.push(line);
    }
    if taken.is_empty() {
        return None;
    }
    taken.reverse();
    Some(format!("{FENCE}\n{}\n{FENCE}", taken.join("\n")))
}

/// Control characters, and what is not seen but changes how other characters are read.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        )
        || matches!(c, '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Lines of a log in a message; the last ones say why.
pub(super) const LOG_LINES_MAX: usize = 20;
/// Of one such line.
pub(super) const LOG_LINE_UNITS_MAX: usize = 200;
const FENCE: &str = "```";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_nothing_hidden_in_it() {
        for (text, clean) in [
            ("plain", "plain"),
            ("  two\nlines\t", "two lines"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[1;31", ""),
            ("\u{1b}7a\u{7}b\0", "7ab"),
            ("moc\u{202e}.live", "moc.live"),
            ("Grüße 👍🏽", "Grüße 👍🏽"),
        ] {
            assert_eq!(one_line(text, 100), clean, "{text:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        for (text, max, cut) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("👍👍", 4, "👍👍"),
            ("👍👍", 3, "👍…"),
            ("👍👍", 2, "…"),
            ("ab", 1, "…"),
            ("ab", 0, ""),
        ] {
            assert_eq!(bounded(text, max), cut, "{text} {max}");
        }
    }

    #[test]
    fn the_last_lines_of_a_log_are_kept() {
        let log: Vec<String> = (0..50).map(|n| format!("line {n}\n")).collect();
        let lines = last_lines(&log);
        assert_eq!(lines.len(), LOG_LINES_MAX);
        assert_eq!(lines.last().map(String::as_str), Some("line 49"));
        let long = ["x".repeat(1000), "\n".to_owned()];
        assert_eq!(units(&last_lines(&long)[0]), LOG_LINE_UNITS_MAX);
        assert_eq!(last_lines(&long).len(), 1);
    }

    #[test]
    fn no_line_ends_the_block() {
        let lines = ["a".to_owned(), "``` @everyone ``````".to_owned()];
        let block = fence(&lines, 100).expect("lines");
        assert_eq!(block.matches("```").count(), 2, "{block}");
        assert!(block.starts_with("```\na\n`"), "{block}");
        assert!(block.ends_with("\n```"), "{block}");
    }

    #[test]
    fn a_block_has_the_last_lines_that_fit() {
        let lines = ["first".to_owned(), "second".to_owned()];
        for (max, block) in [
            (0, None),
            (13, None),
            (14, Some("```\nsecond\n```")),
            (19, Some("```\nsecond\n```")),
            (20, Some("```\nfirst\nsecond\n```")),
        ] {
            let made = fence(&lines, max);
            assert_eq!(made.as_deref(), block, "{max}");
            assert!(made.is_none_or(|made| units(&made) <= max));
        }
        assert_eq!(fence(&[], 100), None);
    }
}
