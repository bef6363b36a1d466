//! Small decoders that check a limit and name the place of what they refuse.

pub(super) use crate::base::Result;
use crate::base::{codec::Reader, limits, Error};

/// Puts the place before the message of an error.
pub(super) trait Place<T> {
    fn at(self, place: &str) -> Result<T>;
}

impl<T> Place<T> for Result<T> {
    fn at(self, place: &str) -> Result<T> {
        self.map_err(|error| match error {
            // A place inside another joins it with a dot; an index stands there already.
            Error::Invalid(inside) => Error::Invalid(match inside.split_once(": ") {
                Some((path, _)) if !path.contains(' ') => format!("{place}.{inside}"),
                _ => format!("{place}: {inside}"),
            }),
            other => other,
        })
    }
}

/// A bounded list; an error inside names the position.
pub(super) fn list<'a, T>(
    reader: &mut Reader<'a>,
    place: &str,
    length_max: usize,
    item: impl Fn(&mut Reader<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let length = reader.array().at(place)?;
    if length > length_max {
        return Err(Error::Invalid(format!("{place}: {length} items, at most {length_max}")));
    }
    let mut items = Vec::with_capacity(length);
    for position in 0..length {
        match item(reader) {
            Ok(item) => items.push(item),
            Err(error) => return Err(error).at(&format!("{place}[{position}]")),
        }
    }
    Ok(items)
}

/// A whole number up to a limit.
pub(super) fn number(reader: &mut Reader<'_>, max: u64) -> Result<u64> {
    let value = reader.u64()?;
    if value > max {
        return Err(Error::Invalid(format!("{value}, at most {max}")));
    }
    Ok(value)
}

/// Text or bytes up to a limit.
pub(super) fn bytes<B: AsRef<[u8]> + ?Sized>(value: &B, max: usize) -> Result<&B> {
    let length = value.as_ref().len();
    if length > max {
        return Err(Error::Invalid(format!("{length} bytes, at most {max}")));
    }
    Ok(value)
}

/// A queue, function, tag or unique key: a text that is not empty, not long, and has no control characters.
pub(super) fn name<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    reader.str().and_then(check_name)
}

pub(super) fn check_name(name: &str) -> Result<&str> {
    bytes(name, limits::NAME_BYTES_MAX)?;
    if name.is_empty() {
        return Err(Error::Invalid("an empty name".into()));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::Invalid("a name with control characters".into()));
    }
    Ok(name)
}

pub(super) fn names<'a>(reader: &mut Reader<'a>, place: &str, length_max: usize) -> Result<Vec<&'a str>> {
    list(reader, place, length_max, name)
}

pub(super) fn reason<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    reader.str().and_then(|reason| bytes(reason, limits::REASON_BYTES_MAX)).at("reason")
}
