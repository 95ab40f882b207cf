//! What a stream that takes its time, or nothing at all, does to whoever writes to it.

#![allow(clippy::unwrap_used)]

use std::io::{PipeWriter, Read, pipe};

use super::*;

/// A pipe that takes not one byte more.
fn full(mut pipe: PipeWriter) -> PipeWriter {
    rustix::io::ioctl_fionbio(&pipe, true).unwrap();
    while pipe.write(&[b'.'; 4096]).is_ok() {}
    while pipe.write(b".").is_ok() {}
    rustix::io::ioctl_fionbio(&pipe, false).unwrap();
    pipe
}

#[test]
fn a_stream_that_takes_nothing_delays_nobody_and_progress_is_left_out() {
    let (mut reader, writer) = pipe().unwrap();
    let mut spool = Spool::start(full(writer)).unwrap();
    spool.patience = Duration::from_millis(20);
    // One more may be in the thread's hands.
    for _ in 0..LINES_MAX + 10 {
        spool.offer("progress\n");
    }
    assert!((9..=10).contains(&spool.missed()), "{}", spool.missed());
    let missed = spool.missed();
    for _ in 0..LINES_RESERVED {
        spool.write_all(b"step\n").unwrap();
    }
    assert_eq!(spool.missed(), missed);
    spool.offer("progress\n");
    assert_eq!(spool.missed(), missed + 1);
    let error = spool.flush().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(spool.patience, Duration::ZERO);
    for _ in 0..=LINES_RESERVED {
        spool.write_all(b"step\n").unwrap();
    }
    assert!(spool.missed() > missed + 1);
    // Whoever reads again gets all that was kept.
    let reader = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    drop(spool);
    let text = reader.join().unwrap();
    assert!(text.trim_start_matches('.').starts_with("progress\n"));
    assert!(text.ends_with("step\n"), "{text}");
}

#[test]
fn what_waits_is_bounded_in_bytes_too() {
    let (_reader, writer) = pipe().unwrap();
    let mut spool = Spool::start(full(writer)).unwrap();
    let long = "x".repeat(BYTES_MAX / 2);
    for _ in 0..8 {
        spool.offer(&long);
    }
    // Two wait, and the thread may have one.
    assert!((5..=6).contains(&spool.missed()), "{}", spool.missed());
}

#[test]
fn a_flush_waits_for_all_and_says_what_went_wrong() {
    let (mut reader, writer) = pipe().unwrap();
    let mut spool = Spool::start(writer).unwrap();
    spool.write_all(b"one\n").unwrap();
    spool.offer("two\n");
    spool.flush().unwrap();
    let mut text = [0; 8];
    reader.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"one\ntwo\n");
    drop(reader);
    spool.write_all(b"three\n").unwrap();
    let error = spool.flush().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(spool.missed(), 0);
}
