//! What is sent next: of each destination the oldest message, once its time has come. Pure.

use std::collections::{BTreeMap, HashSet};

use super::outbox::Letter;

/// The next step of a sender.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Next {
    /// Names of messages that are sent now, at most one for each destination.
    pub(super) due: Vec<String>,
    /// When the first of the others is due, in milliseconds of the wall clock; none if none waits.
    pub(super) at_ms: Option<u64>,
}

/// Looks at all messages in their order. `busy` are destinations to which something is on its way.
///
/// A time further away than `wait_max_ms` was written by a clock that went wrong, and is over.
pub(super) fn next(
    letters: &BTreeMap<String, Letter>,
    busy: &HashSet<String>,
    wait_max_ms: u64,
    now_ms: u64,
) -> Next {
    let mut seen: HashSet<&str> = busy.iter().map(String::as_str).collect();
    let mut next = Next::default();
    for (name, letter) in letters {
        // Whatever is behind the first of a destination waits for it.
        if !seen.insert(&letter.to) {
            continue;
        }
        let wait_ms = letter.not_before_ms.saturating_sub(now_ms);
        if wait_ms == 0 || wait_ms > wait_max_ms {
            next.due.push(name.clone());
        } else {
            let at_ms = letter.not_before_ms;
            next.at_ms = Some(next.at_ms.map_or(at_ms, |first| first.min(at_ms)));
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::super::outbox::tests::letter;
    use super::*;

    fn table(letters: &[(&str, &str, u64)]) -> BTreeMap<String, Letter> {
        let named = letters.iter().map(|(name, to, not_before_ms)| {
            let mut letter = letter("a.so");
            letter.to = (*to).to_owned();
            letter.not_before_ms = *not_before_ms;
            ((*name).to_owned(), letter)
        });
        named.collect()
    }

    #[test]
    fn each_destination_gets_its_oldest_message_when_it_is_due() {
        type Case = (
            &'static [(&'static str, &'static str, u64)],
            &'static [&'static str],
            &'static [&'static str],
            Option<u64>,
        );
        let cases: &[Case] = &[
            (&[], &[], &[], None),
            (&[("1", "x", 0)], &[], &["1"], None),
            (&[("1", "x", 0), ("2", "x", 0)], &[], &["1"], None),
            (&[("1", "x", 0), ("2", "y", 0)], &[], &["1", "2"], None),
            (&[("1", "x", 0), ("2", "y", 0)], &["x"], &["2"], None),
            (&[("1", "x", 1000)], &[], &["1"], None),
            (&[("1", "x", 1001)], &[], &[], Some(1001)),
            // The second one of x is due, but behind the first.
            (&[("1", "x", 1001), ("2", "x", 0)], &[], &[], Some(1001)),
            (
                &[("1", "x", 1500), ("2", "y", 1200), ("3", "z", 0)],
                &[],
                &["3"],
                Some(1200),
            ),
            (&[("1", "x", 1500)], &["x"], &[], None),
            (&[("1", "x", 6000)], &[], &[], Some(6000)),
            (&[("1", "x", 6001)], &[], &["1"], None),
        ];
        for (letters, busy, due, at_ms) in cases {
            let busy = busy.iter().map(|to| (*to).to_owned()).collect();
            let next = next(&table(letters), &busy, 5000, 1000);
            assert_eq!(next.due, *due, "{letters:?}");
            assert_eq!(next.at_ms, *at_ms, "{letters:?}");
        }
    }
}
