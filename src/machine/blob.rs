//! Bytes that belong to a job. Short ones lie in the record itself; long ones are shared, so that copying a page of
//! jobs, which happens once after each capture, copies pointers.

use std::sync::Arc;

const INLINE_MAX: usize = 22;

/// Bytes that never change.
#[derive(Clone)]
pub struct Blob(Inner);

#[derive(Clone)]
enum Inner {
    Short(u8, [u8; INLINE_MAX]),
    Long(Arc<[u8]>),
}

const _: () = assert!(std::mem::size_of::<Blob>() == 24);

impl Blob {
    /// Bytes outside the record, as an estimate.
    pub(super) fn heap_len(&self) -> usize {
        match &self.0 {
            Inner::Short(..) => 0,
            Inner::Long(bytes) => bytes.len() + 24,
        }
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        if bytes.len() > INLINE_MAX {
            return Blob(Inner::Long(bytes.into()));
        }
        let mut inline = [0; INLINE_MAX];
        inline[..bytes.len()].copy_from_slice(bytes);
        Blob(Inner::Short(bytes.len() as u8, inline))
    }
}

impl std::ops::Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Short(length, bytes) => &bytes[..*length as usize],
            Inner::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Blob {}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x?}", &**self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_come_back() {
        let bytes: Vec<u8> = (0..100).collect();
        for length in 0..100 {
            assert_eq!(&*Blob::from(&bytes[..length]), &bytes[..length]);
        }
    }
}
