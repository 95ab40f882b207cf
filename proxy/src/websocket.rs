//! Just enough of RFC 6455 to close a websocket politely that others opened: where frames end, and a close frame.
//!
//! Pure. Does not read messages, does not unmask, does not check anything that the two ends check.

/// Follows the frames of one direction and knows whether a new frame may start here.
///
/// `Header => Header | Payload => Header`
#[derive(Debug)]
pub struct FrameTracker {
    /// Bytes of the current header.
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    /// Bytes of the current payload that are still to come.
    payload_left: u64,
    has_closed: bool,
}

impl Default for FrameTracker {
    fn default() -> Self {
        FrameTracker {
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            payload_left: 0,
            has_closed: false,
        }
    }
}

impl FrameTracker {
    /// Whether everything seen so far ends with a whole frame.
    pub fn is_at_boundary(&self) -> bool {
        self.header_len == 0 && self.payload_left == 0
    }

    /// Whether a close frame began.
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Follows bytes that passed.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let count = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= count;
                bytes = &bytes[count as usize..];
                continue;
            }
            self.header[self.header_len] = bytes[0];
            self.header_len += 1;
            bytes = &bytes[1..];
            if let Some(payload) = payload_length(&self.header[..self.header_len]) {
                self.payload_left = payload;
                self.has_closed |= self.header[0] & 0x0f == OPCODE_CLOSE;
                self.header_len = 0;
            }
        }
    }
}

/// The payload length that a complete header announces (RFC 6455 s5.2); `None` while the header is not complete.
fn payload_length(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
    let (length_bytes, short) = match second & 0x7f {
        126 => (2, None),
        127 => (8, None),
        short => (0, Some(u64::from(short))),
    };
    if header.len() < 2 + length_bytes + mask_bytes {
        return None;
    }
    Some(short.unwrap_or_else(|| {
        header[2..2 + length_bytes]
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte))
    }))
}

/// A close frame with status 1001, "going away" (RFC 6455 s7.4.1), as a server sends it.
pub const CLOSE_GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// The same as a client sends it: masked, here with a mask of zeroes.
pub const CLOSE_GOING_AWAY_MASKED: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// RFC 6455 s5.5.1.
const OPCODE_CLOSE: u8 = 0x8;
/// Two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Vec<u8>> {
        let mut medium = vec![0x82, 126, 0x01, 0x00];
        medium.extend([7; 256]);
        let mut large = vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0];
        large.extend([7; 65536]);
        let mut masked = vec![0x81, 0x83, 1, 2, 3, 4];
        masked.extend([7; 3]);
        let empty = vec![0x89, 0x00];
        vec![
            medium,
            empty,
            masked,
            large,
            CLOSE_GOING_AWAY_MASKED.to_vec(),
        ]
    }

    #[test]
    fn a_boundary_is_seen_behind_each_frame_and_nowhere_else() {
        let mut tracker = FrameTracker::default();
        for frame in frames() {
            assert!(tracker.is_at_boundary());
            for byte in &frame[..frame.len() - 1] {
                tracker.pass(std::slice::from_ref(byte));
                assert!(!tracker.is_at_boundary());
            }
            tracker.pass(&frame[frame.len() - 1..]);
        }
        assert!(tracker.is_at_boundary());
        assert!(tracker.has_closed());
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut() {
        let all: Vec<u8> = frames().concat();
        for size in [1, 2, 3, 7, 1000, all.len()] {
            let mut tracker = FrameTracker::default();
            for piece in all.chunks(size) {
                tracker.pass(piece);
            }
            assert!(tracker.is_at_boundary(), "pieces of {size}");
        }
    }
}
