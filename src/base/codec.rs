//! MessagePack, canonical: arrays by position, the shortest form of each number, no maps with a free order.
//!
//! `Writer` appends to a buffer and cannot fail. `Reader` reads untrusted bytes: every length is checked against what is
//! left before anything is allocated, and nothing is read past the end.

use super::{limits, Error, JobId, Result};

/// Appends MessagePack values to a buffer.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    pub fn array(&mut self, length: usize) -> &mut Self {
        let _ = rmp::encode::write_array_len(&mut self.bytes, length as u32);
        self
    }

    pub fn map(&mut self, length: usize) -> &mut Self {
        let _ = rmp::encode::write_map_len(&mut self.bytes, length as u32);
        self
    }

    pub fn nil(&mut self) -> &mut Self {
        self.bytes.push(0xc0);
        self
    }

    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.bytes.push(if value { 0xc3 } else { 0xc2 });
        self
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        let _ = rmp::encode::write_uint(&mut self.bytes, value);
        self
    }

    pub fn i64(&mut self, value: i64) -> &mut Self {
        let _ = rmp::encode::write_sint(&mut self.bytes, value);
        self
    }

    pub fn str(&mut self, value: &str) -> &mut Self {
        let _ = rmp::encode::write_str(&mut self.bytes, value);
        self
    }

    pub fn bin(&mut self, value: &[u8]) -> &mut Self {
        let _ = rmp::encode::write_bin(&mut self.bytes, value);
        self
    }

    pub fn id(&mut self, value: JobId) -> &mut Self {
        self.bin(&value.0)
    }

    /// `nil` for nothing.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            Some(inside) => write(self, inside),
            None => {
                self.nil();
            }
        }
        self
    }

    /// A value that is already MessagePack.
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(value);
        self
    }
}

/// Reads MessagePack values that nobody has checked.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

fn bad(what: &str) -> Error {
    Error::Invalid(format!("expected {what}"))
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The bytes that were not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Refuses bytes behind the last value.
    pub fn end(&self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(Error::Invalid(format!("{} bytes behind the last value", self.bytes.len())))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        if length > self.bytes.len() {
            return Err(Error::Invalid(format!("{length} bytes announced, {} left", self.bytes.len())));
        }
        let (head, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        Ok(head)
    }

    /// Length of an array; never more than the bytes left, as each item takes at least one.
    pub fn array(&mut self) -> Result<usize> {
        self.array_upto(limits::ITEMS_MAX)
    }

    /// An array of the system's own, which may be longer than what anybody sends.
    pub fn array_upto(&mut self, length_max: usize) -> Result<usize> {
        let length = rmp::decode::read_array_len(&mut self.bytes).map_err(|_| bad("an array"))? as usize;
        if length > self.bytes.len() || length > length_max {
            return Err(Error::Invalid(format!("an array of {length} items")));
        }
        Ok(length)
    }

    /// An array that must have exactly this many items.
    pub fn array_of(&mut self, length: usize, what: &str) -> Result<()> {
        let found = self.array()?;
        if found == length {
            return Ok(());
        }
        Err(Error::Invalid(format!("{what} has {length} items, not {found}")))
    }

    pub fn map(&mut self) -> Result<usize> {
        let length = rmp::decode::read_map_len(&mut self.bytes).map_err(|_| bad("a map"))? as usize;
        if length > self.bytes.len() || length > limits::ITEMS_MAX {
            return Err(Error::Invalid(format!("a map of {length} items")));
        }
        Ok(length)
    }

    /// Whether the next value is `nil`; reads it if so.
    pub fn nil(&mut self) -> bool {
        if self.bytes.first() == Some(&0xc0) {
            self.bytes = &self.bytes[1..];
            return true;
        }
        false
    }

    /// `None` for `nil`, else what `read` gives.
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.nil() {
            return Ok(None);
        }
        read(self).map(Some)
    }

    pub fn bool(&mut self) -> Result<bool> {
        rmp::decode::read_bool(&mut self.bytes).map_err(|_| bad("a boolean"))
    }

    pub fn u64(&mut self) -> Result<u64> {
        rmp::decode::read_int(&mut self.bytes).map_err(|_| bad("a whole number from 0 to 2^64-1"))
    }

    pub fn i64(&mut self) -> Result<i64> {
        rmp::decode::read_int(&mut self.bytes).map_err(|_| bad("a whole number of 64 bits"))
    }

    pub fn str(&mut self) -> Result<&'a str> {
        let length = rmp::decode::read_str_len(&mut self.bytes).map_err(|_| bad("a text"))? as usize;
        std::str::from_utf8(self.take(length)?).map_err(|_| bad("valid UTF-8"))
    }

    pub fn bin(&mut self) -> Result<&'a [u8]> {
        let length = rmp::decode::read_bin_len(&mut self.bytes).map_err(|_| bad("bytes"))? as usize;
        self.take(length)
    }

    /// A job id: 16 bytes.
    pub fn id(&mut self) -> Result<JobId> {
        JobId::from_slice(self.bin()?).ok_or_else(|| bad("a job id of 16 bytes"))
    }

    /// The bytes of the next value, whatever it is, without looking inside further than needed to find its end.
    pub fn raw(&mut self) -> Result<&'a [u8]> {
        let start = self.bytes;
        self.skip(0)?;
        Ok(&start[..start.len() - self.bytes.len()])
    }

    fn skip(&mut self, depth: usize) -> Result<()> {
        use rmp::Marker::*;
        if depth > limits::DEPTH_MAX {
            return Err(Error::Invalid(format!("values nested deeper than {}", limits::DEPTH_MAX)));
        }
        let marker = rmp::Marker::from_u8(*self.bytes.first().ok_or_else(|| bad("a value"))?);
        let (fixed, items) = match marker {
            FixArray(_) | Array16 | Array32 => (0, self.array()?),
            FixMap(_) | Map16 | Map32 => (0, self.map()? * 2),
            FixStr(_) | Str8 | Str16 | Str32 => {
                self.str()?;
                (0, 0)
            }
            Bin8 | Bin16 | Bin32 => {
                self.bin()?;
                (0, 0)
            }
            FixPos(_) | FixNeg(_) | Null | True | False => (1, 0),
            U8 | I8 => (2, 0),
            U16 | I16 => (3, 0),
            U32 | I32 | F32 => (5, 0),
            U64 | I64 | F64 => (9, 0),
            FixExt1 => (3, 0),
            FixExt2 => (4, 0),
            FixExt4 => (6, 0),
            FixExt8 => (10, 0),
            FixExt16 => (18, 0),
            Ext8 | Ext16 | Ext32 => {
                let meta = rmp::decode::read_ext_meta(&mut self.bytes).map_err(|_| bad("an extension"))?;
                (meta.size as usize, 0)
            }
            Reserved => return Err(bad("a value")),
        };
        self.take(fixed)?;
        for _ in 0..items {
            self.skip(depth + 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_nested_without_end_is_refused_and_takes_no_stack() {
        // One array in another, one map in another: without a bound each byte is a call, and the stack ends the process.
        for unit in [&[0x91][..], &[0x81, 0xc0]] {
            let endless = unit.repeat(1 << 20);
            let error = Reader::new(&endless).raw().expect_err("it nests without end");
            assert_eq!(error, Error::Invalid(format!("values nested deeper than {}", limits::DEPTH_MAX)));
            let deepest = [&unit.repeat(limits::DEPTH_MAX)[..], &[0xc0]].concat();
            assert_eq!(Reader::new(&deepest).raw(), Ok(&deepest[..]));
            let deeper = [unit, &deepest[..]].concat();
            assert!(Reader::new(&deeper).raw().is_err());
        }
    }

    #[test]
    fn a_count_beyond_the_bytes_that_are_there_is_refused() {
        for head in [&[0xdd, 0xff, 0xff, 0xff, 0xff][..], &[0xdf, 0xff, 0xff, 0xff, 0xff], &[0xdc, 0xff, 0xff]] {
            assert!(Reader::new(&[head, &[0xc0; 100]].concat()).raw().is_err(), "{head:x?}");
        }
    }
}
