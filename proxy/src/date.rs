//! The time as `Date` has it, written once a second.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;

/// `Sun, 22 Nov 2026 09:00:00 GMT`, RFC 9110 s5.6.7.
pub type DateText = [u8; DATE_BYTES];

/// The time now.
pub fn http_date() -> DateText {
    thread_local! {
        static LAST: Cell<(u64, DateText)> = const { Cell::new((u64::MAX, [b' '; DATE_BYTES])) };
    }
    let now = SystemTime::now();
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (of, text) = LAST.get();
    if of == seconds {
        return text;
    }
    let text = text_of(now);
    LAST.set((seconds, text));
    text
}

fn text_of(time: SystemTime) -> DateText {
    let text = HttpDate::from(time).to_string();
    // All dates have one length.
    text.as_bytes().try_into().unwrap_or([b' '; DATE_BYTES])
}

const DATE_BYTES: usize = 29;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_date_is_written_as_http_wants_it() {
        let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(&text_of(time), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(
            http_date().len(),
            httpdate::fmt_http_date(SystemTime::now()).len()
        );
        assert_ne!(http_date(), [b' '; DATE_BYTES]);
    }
}
