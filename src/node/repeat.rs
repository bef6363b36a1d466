//! What the answer to a repeated request says of the whole of it.
//!
//! A request that was left open is asked again in the same words, and its session gives the first answer (L5). Unless the
//! session has ended meanwhile, or the repetition is refused: then the first asking may have been applied all the same.

use crate::base::{Error, Result};
use crate::machine::outcome::is_session_expired;

/// The answer to a request that was asked before and left open. What no answer rules out stays open (D2): whoever asked may
/// not take it for undone and ask anew under another number.
pub fn repeated(answer: Result<Vec<u8>>) -> Result<Vec<u8>> {
    let open = |why: &str| Error::Unknown(format!("it was left open once and is not known when asked again: {why}"));
    match answer {
        Ok(reply) if is_session_expired(&reply) => Err(open("its session ended meanwhile")),
        Err(
            Error::NotCommitted(why)
            | Error::Overloaded(why)
            | Error::DiskFull(why)
            | Error::Member(why)
            | Error::Unauthenticated(why),
        ) => Err(open(&why)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::LogIndex;
    use crate::machine::outcome::{encode, Refusal};

    #[test]
    fn d2_l5_what_was_left_open_is_not_refused_later() {
        let expired = encode(LogIndex(9), &Err(Refusal::session_expired(7)));
        let refusals = [Error::NotCommitted, Error::Overloaded, Error::DiskFull, Error::Unauthenticated];
        let refusals = refusals.map(|refusal| Err(refusal("the reason".into())));
        for answer in refusals.into_iter().chain([Ok(expired)]) {
            assert!(matches!(repeated(answer.clone()), Err(Error::Unknown(_))), "{answer:?}");
        }
    }

    #[test]
    fn an_answer_that_settles_it_stays() {
        let settled = [Ok(vec![0xc0]), Err(Refusal::invalid("no command")), Err(Refusal::stale_sequence(1, 2))];
        let settled = settled.map(|outcome| Ok(encode(LogIndex(9), &outcome)));
        for answer in settled.into_iter().chain([Err(Error::Closed), Err(Error::Unknown("open".into()))]) {
            assert_eq!(repeated(answer.clone()), answer);
        }
    }
}
