//! Until when a connection may last: certificates end while connections are open.
//!
//! What holds
//! * Both sides judge both certificates, so that each says by itself why the connection ended.
//! * An end is an instant of the wall clock, the only one that a certificate knows: a clock that is set past it ends what is
//!   connected, and one that is set back lets in again.

use super::judge::{OTHERS_EXPIRED, OWN_EXPIRED};
use crate::base::{limits, Error};
use rustls::pki_types::UnixTime;
use rustls::CertificateError;
use std::time::Duration;

/// A moment when every certificate has expired: the year 10000 and later cannot be written into one.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_800);

/// When the certificates of a connection end. Nothing: that side has none.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    pub own: Option<UnixTime>,
    pub others: Option<UnixTime>,
}

impl Validity {
    /// Why the connection must end, if it must.
    pub fn trouble(&self, now: UnixTime) -> Option<Error> {
        let over = |end: Option<UnixTime>| end.is_some_and(|end| now > end);
        match (over(self.others), over(self.own)) {
            (true, _) => Some(Error::Foreign(OTHERS_EXPIRED.into())),
            (_, true) => Some(Error::Foreign(OWN_EXPIRED.into())),
            _ => None,
        }
    }

    /// When to look again: as soon as one ends, and now and then, as the clock may be set.
    pub fn next_look(&self, now: UnixTime) -> Duration {
        let ends = [self.own, self.others].into_iter().flatten();
        let left = ends.map(|end| Duration::from_secs((end.as_secs() + 1).saturating_sub(now.as_secs()).max(1)));
        left.fold(Duration::from_millis(limits::CERTIFICATE_LOOK_MS), Duration::min)
    }
}

/// When a certificate ends. The library tells that to whoever asks after it: `judge` says whether it is good at a moment.
pub fn end_of_life<T>(judge: impl FnOnce(UnixTime) -> Result<T, rustls::Error>) -> Result<UnixTime, rustls::Error> {
    match judge(UnixTime::since_unix_epoch(END_OF_TIME)) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => Ok(not_after),
        Err(error) => Err(error),
        Ok(_) => Err(rustls::Error::General("the certificate never ends".into())),
    }
}

/// From when on a certificate is good, told in the same way; 1970 if that is not known.
pub fn begin_of_life<T>(judge: impl FnOnce(UnixTime) -> Result<T, rustls::Error>) -> UnixTime {
    let start = UnixTime::since_unix_epoch(Duration::ZERO);
    match judge(start) {
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => not_before,
        _ => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_connection_ends_with_the_first_of_its_certificates_and_says_whose() {
        let both = Validity { own: Some(at(2_000)), others: Some(at(1_000)) };
        assert_eq!(both.trouble(at(1_000)), None, "a certificate is good until the end of its last second");
        let why = |validity: Validity, now| validity.trouble(at(now)).expect("it has ended").to_string();
        assert!(why(both, 1_001).contains("other side's certificate has expired"));
        assert!(why(Validity { others: None, ..both }, 2_001).contains("own certificate has expired"));
        assert_eq!(Validity { own: None, others: None }.trouble(at(9_999_999_999)), None);
    }

    #[test]
    fn it_is_looked_at_when_one_ends_and_at_least_twice_a_minute() {
        let both = Validity { own: Some(at(2_000)), others: Some(at(1_000)) };
        let looks = [0, 970, 990, 1_000, 1_500].map(|now| both.next_look(at(now)).as_secs());
        assert_eq!(looks, [30, 30, 11, 1, 1]);
    }
}
