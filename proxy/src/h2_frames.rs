//! Which HTTP/2 frames a connection carries, how many of them may be about nothing, and since when one is unfinished.
//!
//! Owns the walk over frame headers (RFC 9113 s4.1) in both directions and the budget for control frames. Pure: bytes
//! and times in, a verdict out. What the frames mean is the codec's matter; it takes SETTINGS, PING, PRIORITY and
//! WINDOW_UPDATE without end, each of which costs it work and some of which it answers, and waits for the rest of a head
//! for as long as the client likes.

use std::time::Instant;

/// What one connection may still send.
///
/// A control frame costs one token. Tokens come with time, and with what control frames are about: a request, body bytes,
/// and each DATA frame that was sent to the client, for which it may open its windows. So a client that uploads, that
/// downloads, or that is slow never runs out, however it sets its windows.
#[derive(Debug)]
pub struct FrameBudget {
    received: FrameWalk,
    sent: FrameWalk,
    /// Those that come with time; `tokens <= tokens_max`.
    tokens: u32,
    tokens_max: u32,
    /// Those that were earned; `earned <= EARNED_MAX`.
    earned: u32,
    body_sent: u64,
    /// When tokens were last added for time.
    added_at: Instant,
    /// When the first byte came of a head or a control frame that is not complete yet.
    unfinished_since: Option<Instant>,
}

/// The client sent more control frames than it has tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood;

// === impl FrameBudget ===

impl FrameBudget {
    /// The budget of a connection whose client is about to send its preface.
    pub fn new(tokens_max: u32, now: Instant) -> FrameBudget {
        FrameBudget {
            received: FrameWalk::behind(CLIENT_PREFACE_BYTES),
            sent: FrameWalk::behind(0),
            body_sent: 0,
            tokens: tokens_max,
            tokens_max,
            earned: 0,
            added_at: now,
            unfinished_since: None,
        }
    }

    /// Since when the client owes the rest of a frame, or of a head that it cut into frames. A body's frames do not
    /// count: how slowly a body may come is the request's matter.
    pub fn unfinished_since(&self) -> Option<Instant> {
        self.unfinished_since
    }

    /// Bytes came from the client.
    ///
    /// # Errors
    /// It floods.
    pub fn received(&mut self, bytes: &[u8], now: Instant) -> Result<(), Flood> {
        let mut earned = 0_u32;
        let mut spent = 0_u32;
        self.received.walk(bytes, |frame| match frame.kind {
            Kind::Headers => earned += TOKENS_PER_REQUEST,
            Kind::Data if frame.length >= DATA_BYTES_MIN || frame.ends_stream() => {
                earned += TOKENS_PER_DATA;
            }
            Kind::Data | Kind::Control => spent += 1,
        });
        self.unfinished_since = match self.received.is_unfinished() {
            false => None,
            true => self.unfinished_since.or(Some(now)),
        };
        self.earn(earned);
        let from_earned = spent.min(self.earned);
        self.earned -= from_earned;
        let spent = spent - from_earned;
        if spent > 0 {
            self.add_for_time(now);
        }
        self.tokens = self.tokens.checked_sub(spent).ok_or(Flood)?;
        Ok(())
    }

    /// Bytes went to the client.
    pub fn sent(&mut self, bytes: &[u8]) {
        let (mut earned, mut body) = (0_u32, 0_u64);
        self.sent.walk(bytes, |frame| {
            if frame.kind == Kind::Data {
                earned += TOKENS_PER_DATA;
                body += frame.length as u64;
            }
        });
        self.earn(earned);
        self.body_sent += body;
    }

    /// Bytes of bodies that went to the client, counted when their frames begin.
    pub fn body_sent(&self) -> u64 {
        self.body_sent
    }

    fn earn(&mut self, tokens: u32) {
        self.earned = self.earned.saturating_add(tokens).min(EARNED_MAX);
    }

    fn add_for_time(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.added_at);
        let tokens = since.as_millis() * u128::from(TOKENS_PER_SECOND) / 1000;
        if tokens > 0 {
            self.added_at = now;
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(tokens).min(self.tokens_max);
        }
    }
}

// === impl FrameWalk ===

/// Finds frame headers in a stream that comes in pieces.
#[derive(Debug)]
struct FrameWalk {
    /// Bytes before the next frame header.
    skip: usize,
    /// The beginning of a header that was cut; `length < HEADER_BYTES`.
    partial: [u8; HEADER_BYTES],
    length: usize,
    /// The payload that is being skipped is a body's.
    is_in_body: bool,
    /// A head began that its frames have not ended yet (RFC 9113 s6.10).
    is_in_head: bool,
}

struct Frame {
    kind: Kind,
    length: usize,
    flags: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Headers,
    /// Everything else; CONTINUATION is the codec's to bound.
    Control,
}

impl FrameWalk {
    fn behind(skip: usize) -> FrameWalk {
        FrameWalk {
            skip,
            partial: [0; HEADER_BYTES],
            length: 0,
            is_in_body: false,
            is_in_head: false,
        }
    }

    /// In the middle of a head or a frame that is no body's.
    fn is_unfinished(&self) -> bool {
        self.is_in_head || self.length > 0 || (self.skip > 0 && !self.is_in_body)
    }

    fn walk(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let count = (HEADER_BYTES - self.length).min(bytes.len());
            self.partial[self.length..self.length + count].copy_from_slice(&bytes[..count]);
            self.length += count;
            bytes = &bytes[count..];
            if self.length < HEADER_BYTES {
                return;
            }
            self.length = 0;
            let [high, middle, low, kind, flags, ..] = self.partial;
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            self.skip = length;
            self.is_in_body = kind == DATA;
            if matches!(kind, HEADERS | CONTINUATION) {
                self.is_in_head = flags & END_HEADERS == 0;
            }
            seen(Frame {
                kind: match kind {
                    DATA => Kind::Data,
                    HEADERS => Kind::Headers,
                    _ => Kind::Control,
                },
                length,
                flags,
            });
        }
    }
}

impl Frame {
    fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

/// Frame types and flags, RFC 9113 s6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const HEADER_BYTES: usize = 9;
/// `PRI * HTTP/2.0`, and so on (RFC 9113 s3.4).
const CLIENT_PREFACE_BYTES: usize = 24;
/// A DATA frame with less than this moves nothing: it is a control frame in disguise, unless it ends its stream.
const DATA_BYTES_MIN: usize = 1;
/// A request may come with a PRIORITY, a RST_STREAM and two window updates.
const TOKENS_PER_REQUEST: u32 = 4;
/// A client may open two windows for each DATA frame and send a PING to measure it.
const TOKENS_PER_DATA: u32 = 4;
/// A long way to the client may hold thousands of small DATA frames, whose window updates come back at once.
const EARNED_MAX: u32 = 64 * 1024;
/// For keep-alive PINGs and what else goes on without requests.
const TOKENS_PER_SECOND: u32 = 100;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const PRIORITY: u8 = 2;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("short").to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.resize(HEADER_BYTES + payload, 0x55);
        bytes
    }

    fn budget(now: Instant) -> FrameBudget {
        let mut budget = FrameBudget::new(100, now);
        budget.received(PREFACE, now).expect("no flood");
        budget
    }

    #[test]
    fn bytes_of_bodies_are_counted_and_no_others() {
        let mut budget = budget(Instant::now());
        for (kind, payload, expected) in
            [(PING, 8, 0), (DATA, 5, 5), (SETTINGS, 0, 5), (DATA, 7, 12)]
        {
            // However the bytes are cut.
            for piece in frame(kind, 0, payload).chunks(4) {
                budget.sent(piece);
            }
            assert_eq!(budget.body_sent(), expected);
        }
    }

    /// How many of a frame are taken at once.
    fn taken(bytes: &[u8]) -> usize {
        let now = Instant::now();
        let mut budget = budget(now);
        (0..10_000)
            .take_while(|_| budget.received(bytes, now).is_ok())
            .count()
    }

    #[test]
    fn a_flood_of_any_control_frame_ends() {
        for (kind, payload) in [
            (PRIORITY, 5),
            (RST_STREAM, 4),
            (SETTINGS, 6),
            (PING, 8),
            (WINDOW_UPDATE, 4),
            (0x42, 0),
            (DATA, 0),
        ] {
            assert_eq!(taken(&frame(kind, 0, payload)), 100, "{kind}");
        }
    }

    #[test]
    fn requests_and_bodies_are_not_counted_and_earn_their_control_frames() {
        assert_eq!(taken(&frame(HEADERS, 4, 40)), 10_000);
        assert_eq!(taken(&frame(DATA, 0, 1)), 10_000);
        assert_eq!(taken(&frame(DATA, 1, 0)), 10_000);
        let request = [
            frame(HEADERS, 4, 40),
            frame(PRIORITY, 0, 5),
            frame(WINDOW_UPDATE, 0, 4),
            frame(WINDOW_UPDATE, 0, 4),
            frame(RST_STREAM, 0, 4),
        ]
        .concat();
        assert_eq!(taken(&request), 10_000);
        let upload = [frame(DATA, 0, 1), frame(PING, 0, 8)].concat();
        assert_eq!(taken(&upload), 10_000);
    }

    #[test]
    fn a_download_pays_for_the_windows_that_it_needs() {
        let now = Instant::now();
        let mut budget = budget(now);
        let updates = [frame(WINDOW_UPDATE, 0, 4), frame(WINDOW_UPDATE, 0, 4)].concat();
        for length in [1, 1000, 16_384].iter().cycle().take(10_000) {
            budget.sent(&frame(DATA, 0, *length));
            budget.received(&updates, now).expect("no flood");
        }
    }

    #[test]
    fn time_brings_tokens_for_a_client_that_only_pings() {
        let mut now = Instant::now();
        let mut budget = budget(now);
        for _ in 0..10_000 {
            budget.received(&frame(PING, 0, 8), now).expect("no flood");
            now += Duration::from_millis(10);
        }
    }

    #[test]
    fn a_head_is_owed_from_its_first_byte_to_its_last_frame() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut budget = FrameBudget::new(100, start);
        budget.received(&PREFACE[..10], start).expect("no flood");
        assert_eq!(budget.unfinished_since(), Some(start), "the preface");
        budget.received(&PREFACE[10..], start).expect("no flood");
        assert_eq!(budget.unfinished_since(), None);

        let head = [
            frame(HEADERS, END_STREAM, 20),
            frame(CONTINUATION, END_HEADERS, 5),
        ]
        .concat();
        for (at, byte) in head.iter().enumerate() {
            let now = after(1 + at as u64);
            budget.received(&[*byte], now).expect("no flood");
            let is_last = at + 1 == head.len();
            assert_eq!(
                budget.unfinished_since(),
                (!is_last).then_some(after(1)),
                "{at}"
            );
        }
        let body = frame(DATA, 0, 100);
        budget.received(&body[..50], after(60)).expect("no flood");
        assert_eq!(budget.unfinished_since(), None, "a body may trickle");
        budget.received(&body[50..], after(61)).expect("no flood");
        budget
            .received(&frame(PING, 0, 8)[..10], after(62))
            .expect("no flood");
        assert_eq!(budget.unfinished_since(), Some(after(62)));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            frames in proptest::collection::vec((0_u8..12, 0_usize..40), 0..40),
            cuts in proptest::collection::vec(1_usize..30, 1..60),
        ) {
            let now = Instant::now();
            let mut bytes = PREFACE.to_vec();
            for (kind, payload) in &frames {
                bytes.extend(frame(*kind, 0, *payload));
            }
            let mut whole = FrameBudget::new(1000, now);
            whole.received(&bytes, now).expect("no flood");
            let mut in_pieces = FrameBudget::new(1000, now);
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                in_pieces.received(piece, now).expect("no flood");
                rest = behind;
            }
            let walk = |budget: &FrameBudget| (budget.received.skip, budget.received.length);
            prop_assert_eq!(walk(&whole), walk(&in_pieces));
        }
    }
}
