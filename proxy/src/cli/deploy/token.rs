//! The registry's token: from stdin, a file or the environment, and never from an argument, which everybody can read.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use mana_control::deploy::conduct::Token;
use mana_control::deploy::run::TOKEN_VARIABLE;

use super::arguments::Bring;

/// The longest token. Those of clouds are JSON documents of some KiB.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no token where one was promised.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    /// It cannot be read.
    #[error("cannot read the registry's token from {from}")]
    Unreadable {
        /// Where it should be.
        from: String,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing.
    #[error("there is no token in {0}")]
    Empty(String),
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("what is in {0} is longer than {TOKEN_BYTES_MAX} bytes, which is no token")]
    TooLong(String),
}

/// The token, if one is given in any way.
pub(super) fn read(bring: &Bring) -> Result<Option<Token>, TokenError> {
    if bring.registry_token_stdin {
        return from(io::stdin().lock(), "stdin".to_owned()).map(Some);
    }
    if let Some(path) = &bring.registry_token_file {
        return from_file(path.clone()).map(Some);
    }
    let text = std::env::var(TOKEN_VARIABLE).unwrap_or_default();
    Ok(Token::new(&text))
}

fn from_file(path: PathBuf) -> Result<Token, TokenError> {
    let name = path.display().to_string();
    match File::open(&path) {
        Ok(file) => from(file, name),
        Err(source) => Err(TokenError::Unreadable { from: name, source }),
    }
}

fn from(source: impl Read, name: String) -> Result<Token, TokenError> {
    let mut text = String::new();
    if let Err(source) = source.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text) {
        return Err(TokenError::Unreadable { from: name, source });
    }
    if text.len() as u64 > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong(name));
    }
    Token::new(&text).ok_or(TokenError::Empty(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_is_one_line_and_not_empty() {
        assert!(from(&b"s3cret\n"[..], "stdin".to_owned()).is_ok());
        for (bytes, said) in [
            (b" \n".to_vec(), "there is no token in stdin"),
            (vec![b'a'; 70_000], "longer than 65536 bytes"),
            (vec![0xff], "cannot read"),
        ] {
            let error = from(&bytes[..], "stdin".to_owned())
                .unwrap_err()
                .to_string();
            assert!(error.contains(said), "{error}");
        }
        let error = from_file("/nowhere/token".into()).unwrap_err().to_string();
        assert!(error.contains("/nowhere/token"), "{error}");
    }
}
