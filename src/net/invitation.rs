//! An invitation to join a cluster, once and soon: one line of text that a person copies from one machine to another.
//!
//! `rwi1.` and, in the letters of base64 for addresses:
//!
//! | offset | bytes | field                                                    |
//! |--------|-------|----------------------------------------------------------|
//! | 0      | 16    | the secret: whoever shows it first is let in             |
//! | 16     | 8     | when it expires, in milliseconds since the Unix epoch    |
//! | 24     | 32    | SHA-256 of the authority's certificate                   |
//! | 56     | n     | where to join, `host:port`                               |
//! | 56 + n | 4     | crc32c over all before, little-endian like every number  |
//!
//! The side that joins knows by the fingerprint that it speaks to the right cluster before it shows the secret.

use super::tls::Fingerprint;
use super::Address;
use crate::base::{checksum, Error, Millis, Result};
use base64::prelude::{Engine, BASE64_URL_SAFE_NO_PAD};
use std::fmt;

/// How long an invitation is good for.
pub const LIFETIME: Millis = Millis(15 * 60_000);

const PREFIX: &str = "rwi1.";
/// A host name has at most 253 letters, so a longer text is no invitation.
const TEXT_BYTES_MAX: usize = 512;
/// Bytes before the address.
const HEAD_BYTES: usize = 56;

/// An invitation. Its text is a secret: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    secret: [u8; 16],
    pub expires_at: Millis,
    pub authority: Fingerprint,
    pub address: Address,
}

impl Invitation {
    /// A new one, good until `now` and `LIFETIME`.
    pub fn create(authority: Fingerprint, address: Address, now: Millis) -> Result<Self> {
        Ok(Self { secret: super::random()?, expires_at: now.plus(LIFETIME), authority, address })
    }

    /// What the side that joins shows.
    pub fn secret(&self) -> [u8; 16] {
        self.secret
    }

    /// What the cluster keeps of a secret: enough to know it again, not enough to use it.
    pub fn digest(secret: &[u8]) -> [u8; 32] {
        super::sha256(secret)
    }

    pub fn is_expired(&self, now: Millis) -> bool {
        now >= self.expires_at
    }

    /// The line to copy.
    pub fn text(&self) -> String {
        let mut bytes = self.secret.to_vec();
        bytes.extend(self.expires_at.0.to_le_bytes());
        bytes.extend(self.authority.0);
        bytes.extend(self.address.to_string().as_bytes());
        bytes.extend(checksum::crc32c(&bytes).to_le_bytes());
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads the line. Spaces and line breaks that copying brought in do not matter.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::Invalid(format!("invitation: {why}"));
        let text: String = text.chars().filter(|c| !c.is_whitespace()).take(TEXT_BYTES_MAX + 1).collect();
        if text.len() > TEXT_BYTES_MAX {
            return Err(wrong("too long; copy the one line that begins with rwi1."));
        }
        let Some(data) = text.strip_prefix(PREFIX) else {
            return Err(wrong(match text.strip_prefix("rwi") {
                Some(_) => "made by another version of raftwork; use one version on both machines",
                None => "it does not begin with rwi1.; copy the whole line",
            }));
        };
        let damaged = || wrong("it is damaged or not complete; copy the whole line");
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(data).map_err(|_| damaged())?;
        let (bytes, sum) =
            bytes.split_last_chunk().filter(|(bytes, _)| bytes.len() > HEAD_BYTES).ok_or_else(damaged)?;
        if checksum::crc32c(bytes) != u32::from_le_bytes(*sum) {
            return Err(damaged());
        }
        let (secret, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let (expires_at, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (authority, address) = rest.split_first_chunk().ok_or_else(damaged)?;
        Ok(Self {
            secret: *secret,
            expires_at: Millis(u64::from_le_bytes(*expires_at)),
            authority: Fingerprint(*authority),
            address: Address::parse(std::str::from_utf8(address).map_err(|_| damaged())?)?,
        })
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expires_at, authority, address, .. } = self;
        write!(f, "Invitation to {address}, authority {authority:?}, until {}", expires_at.0)
    }
}
