//! Durations and sizes as text. Pure; knows nothing of TOML.

use std::time::Duration;

/// The units of a duration, for every message about one.
pub(super) const DURATION_UNITS: &str = "write 500ms, 30s, 5m or 1h";

/// The units of a size, for every message about one.
pub(super) const SIZE_UNITS: &str = "write 512B, 16KiB, 10MiB or 1GiB, or a number of bytes";

/// A whole number and one of `ms s m h`, without a space: `500ms`, `30s`, `5m`, `1h`.
///
/// One number and one unit, so that there is one way to write and to read it: `90s`, not `1m30s` or `1.5m`.
/// The command line takes durations in the same form.
///
/// # Errors
/// The reason, ready to be shown: no number, no or another unit, or more milliseconds than a `u64` holds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is no duration: {DURATION_UNITS}");
    let (digits, unit) = split_unit(text).ok_or_else(refuse)?;
    let ms_each: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refuse()),
    };
    let ms = digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(ms_each));
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is too long a duration"))
}

/// A whole number and one of `B KiB MiB GiB`, without a space: `16KiB`. The result is in bytes.
///
/// # Errors
/// The reason, ready to be shown: no number, no or another unit, or more bytes than a `u64` holds.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let refuse = || format!("{text:?} is no size: {SIZE_UNITS}");
    let (digits, unit) = split_unit(text).ok_or_else(refuse)?;
    let bytes_each: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(refuse()),
    };
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(bytes_each));
    bytes.ok_or_else(|| format!("{text:?} is too large a size"))
}

/// A duration as [`parse_duration`] reads it, in the largest unit that is exact. Parts below 1 ms are left out.
pub fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, ms_each) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms != 0 && ms.is_multiple_of(ms_each) {
            return format!("{}{unit}", ms / ms_each);
        }
    }
    if ms == 0 {
        return "0s".to_owned();
    }
    format!("{ms}ms")
}

/// A size as [`parse_size`] reads it, in the largest unit that is exact.
pub(super) fn format_size(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// `30s` -> (`30`, `s`). None unless both parts are there and the first is digits only.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_have_one_number_and_one_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(ms));
            assert_eq!(format_duration(duration), text);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_units() {
        for bad in [
            "", "s", "30", "1 sec", "1 s", " 1s", "1s ", "1.5s", "-1s", "1m30s", "1S", "1d", "1us",
            "\u{661}s",
        ] {
            let reason = parse_duration(bad).unwrap_err();
            assert!(reason.contains(DURATION_UNITS), "{bad:?}: {reason}");
        }
        for huge in ["18446744073709551616ms", "18446744073709551615h"] {
            assert!(parse_duration(huge).unwrap_err().contains("too long"));
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [
            ("512B", 512),
            ("16KiB", 16 << 10),
            ("10MiB", 10 << 20),
            ("1GiB", 1 << 30),
            ("0B", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(format_size(bytes), text);
        }
        for bad in ["", "16", "16KB", "16K", "16 KiB", "1.5MiB", "16kib", "-1B"] {
            assert!(parse_size(bad).unwrap_err().contains(SIZE_UNITS), "{bad:?}");
        }
        assert!(
            parse_size("18446744073709551615GiB")
                .unwrap_err()
                .contains("too large")
        );
    }
}
