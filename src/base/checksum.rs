//! CRC-32C (Castagnoli), the checksum of every frame, record and file.

/// The checksum of these bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Continues a checksum over more bytes. A seed chains records, so that none can be taken out or moved.
pub fn crc32c_append(seed: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(seed, bytes)
}
