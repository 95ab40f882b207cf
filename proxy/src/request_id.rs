//! The id under which a request is logged, and that upstream and client are told.
//!
//! Owns its shape and its making.

use bytes::Bytes;
use http::header::HeaderValue;

/// 32 hexadecimal digits: `86fa7fa506d193132f0deb002b694e7c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId([u8; DIGITS]);

impl RequestId {
    /// 128 random bits.
    pub fn random() -> RequestId {
        RequestId::from(fastrand::u128(..))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        // Hexadecimal digits are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// As the bytes of that text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the value of a field.
    pub fn to_value(self) -> HeaderValue {
        // Hexadecimal digits are valid in a field.
        let value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&self.0));
        let mut value = value.unwrap_or_else(|_| HeaderValue::from_static("0"));
        // No secret, but unlike any other: HPACK is not to remember it in the place of a value that comes again.
        value.set_sensitive(true);
        value
    }
}

impl From<u128> for RequestId {
    fn from(bits: u128) -> RequestId {
        let mut digits = [0; DIGITS];
        for (two, byte) in digits.chunks_exact_mut(2).zip(bits.to_be_bytes()) {
            two[0] = HEXADECIMAL[usize::from(byte >> 4)];
            two[1] = HEXADECIMAL[usize::from(byte & 0xf)];
        }
        RequestId(digits)
    }
}

const DIGITS: usize = 32;
const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_bits_in_hexadecimal() {
        for bits in [0, 1, u128::MAX, 0x86fa_7fa5_06d1_9313_2f0d_eb00_2b69_4e7c] {
            let id = RequestId::from(bits);
            assert_eq!(id.as_str(), format!("{bits:032x}"));
            assert_eq!(id.to_value().as_bytes(), id.as_bytes());
            assert!(id.to_value().is_sensitive());
        }
        assert_ne!(RequestId::random(), RequestId::random());
    }
}
