//! The secret of a client: one line of text that whoever connects with it shows first, behind TLS.
//!
//! `rwt1.` and, in the letters of base64 for addresses, 32 bytes that nobody can guess and their crc32c, which tells a
//! damaged copy from one that was revoked. A cluster keeps only the SHA-256 of the 32 bytes: they are drawn by a machine,
//! so no slow hash is needed.

use crate::base::{checksum, Error, Result};
use base64::prelude::{Engine, BASE64_URL_SAFE_NO_PAD};
use std::fmt;

const PREFIX: &str = "rwt1.";

/// The secret. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    pub const BYTES: usize = 32;

    pub fn create() -> Result<Self> {
        super::random().map(Self)
    }

    /// The bytes as they come over a connection.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// What goes over a connection.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What a cluster keeps of it.
    pub fn digest(&self) -> [u8; 32] {
        super::sha256(&self.0)
    }

    /// The line to copy.
    pub fn text(&self) -> String {
        let bytes = [&self.0[..], &checksum::crc32c(&self.0).to_le_bytes()].concat();
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads the line. Spaces around it do not matter. What is wrong is said without the text.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::Invalid(format!("token: {why}"));
        let data =
            text.trim().strip_prefix(PREFIX).ok_or_else(|| wrong("it does not begin with rwt1.; copy it whole"))?;
        let damaged = || wrong("it is damaged or not complete; copy it whole");
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(data).map_err(|_| damaged())?;
        let (secret, sum) = bytes.split_first_chunk::<32>().ok_or_else(damaged)?;
        if sum != checksum::crc32c(secret).to_le_bytes() {
            return Err(damaged());
        }
        Ok(Self(*secret))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }
}

/// Whether two digests are equal, in a time that does not tell where they differ.
pub fn same_digest(left: &[u8; 32], right: &[u8; 32]) -> bool {
    let differing = left.iter().zip(right).fold(0, |bits, (left, right)| bits | std::hint::black_box(left ^ right));
    std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_copying_and_a_damaged_one_is_told() {
        let secret = Secret::create().expect("random bytes");
        assert_eq!(Secret::parse(&format!(" {}\n", secret.text())), Ok(secret.clone()));
        assert_ne!(Secret::create().expect("random bytes"), secret);
        let text = secret.text();
        for wrong in [&text[..text.len() - 1], &text[1..], "", "rwt1.", "rwi1.AAAA", &text.to_uppercase()] {
            let error = Secret::parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains("copy it whole") && !error.contains(&text[5..20]), "{error}");
        }
        assert!(!format!("{secret:?}").contains(&text[5..10]));
    }

    #[test]
    fn digests_differ_in_every_bit() {
        let (one, mut other) = ([7; 32], [7; 32]);
        assert!(same_digest(&one, &other));
        for bit in 0..256 {
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!same_digest(&one, &other), "bit {bit}");
            other[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
