//! The first words of two members: which of them they are, what they speak, and what they run.
//!
//! | kind | name    | payload                                                                                      |
//! |------|---------|----------------------------------------------------------------------------------------------|
//! | 1    | Hello   | magic; versions and release, see `net::versions`; cluster (16), group, from, to, purpose (1: 1 letters, 2 a snapshot), the highest feature level that it knows, bytes of the address (u16), the address where others reach it |
//! | 65   | Welcome | magic; versions and release                                                                  |
//! | 66   | Refused | the words                                                                                    |
//! | 73   | Later   | the words: the other side is about to open, and will answer then                             |
//!
//! What is behind the address is of a later version, and ignored.

use crate::base::{ClusterId, Error, GroupId, NodeId, Result, RELEASE};
use crate::machine;
use crate::net::packet::{self, Frame};
use crate::net::versions::Met;
use crate::net::{Address, Versions};

pub(super) const HELLO: u8 = 1;
pub(super) const WELCOME: u8 = 65;
pub(super) const REFUSED: u8 = 66;
/// Not refused for good: this node is about to open.
pub(super) const LATER: u8 = 73;

const MAGIC: &[u8; 8] = b"RAFTMEMB";
/// Versions of what members say to each other.
pub(super) const VERSIONS: Versions = Versions { oldest: 1, newest: 1 };

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Letters = 1,
    Snapshot = 2,
}

/// The first words of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub cluster: ClusterId,
    pub group: GroupId,
    pub from: NodeId,
    pub to: NodeId,
    pub purpose: Purpose,
    /// What the one who speaks runs.
    pub runs: Runs,
    /// Where it is reached.
    pub address: Address,
}

/// What a member runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runs {
    pub release: String,
    /// The highest feature level that it knows.
    pub level: u64,
}

impl Runs {
    /// What this node runs.
    pub fn own() -> Self {
        Self { release: RELEASE.into(), level: machine::known() }
    }
}

impl Hello {
    pub fn frame(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSIONS.introduce());
        out.extend_from_slice(&self.cluster.0);
        [self.group.0, self.from.0, self.to.0].iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out.push(self.purpose as u8);
        out.extend_from_slice(&self.runs.level.to_le_bytes());
        let address = self.address.to_string();
        out.extend_from_slice(&(address.len() as u16).to_le_bytes());
        out.extend_from_slice(address.as_bytes());
        packet::encode(HELLO, 0, &out).expect("a hello is short")
    }

    pub fn read(frame: &Frame) -> Result<Self> {
        let stranger = || Error::Invalid("the other side does not speak as a member of a raftwork cluster".into());
        if frame.kind != HELLO {
            return Err(stranger());
        }
        let met = meet(&frame.payload, stranger)?;
        let (cluster, rest) = met.rest.split_first_chunk::<16>().ok_or_else(stranger)?;
        let (numbers, rest) = rest.split_first_chunk::<24>().ok_or_else(stranger)?;
        let number = |place: usize| u64::from_le_bytes(numbers[place * 8..place * 8 + 8].try_into().expect("8 bytes"));
        let (purpose, rest) = rest.split_first().ok_or_else(stranger)?;
        let purpose = match purpose {
            1 => Purpose::Letters,
            2 => Purpose::Snapshot,
            _ => return Err(stranger()),
        };
        let (level, rest) = rest.split_first_chunk().ok_or_else(stranger)?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(stranger)?;
        let address = rest.get(..u16::from_le_bytes(*length).into()).ok_or_else(stranger)?;
        let address = Address::parse(std::str::from_utf8(address).map_err(|_| stranger())?)?;
        let (group, from, to) = (GroupId(number(0)), NodeId(number(1)), NodeId(number(2)));
        let runs = Runs { release: met.release.into(), level: u64::from_le_bytes(*level) };
        Ok(Self { cluster: ClusterId(*cluster), group, from, to, purpose, runs, address })
    }
}

/// What the other side says of itself behind the magic.
fn meet(payload: &[u8], stranger: impl Fn() -> Error) -> Result<Met<'_>> {
    let words = payload.strip_prefix(MAGIC).ok_or_else(&stranger)?;
    VERSIONS.meet(words).ok_or_else(stranger)?
}

/// What a hello is answered with.
pub(super) fn welcome() -> Vec<u8> {
    packet::encode(WELCOME, 0, &[&MAGIC[..], &VERSIONS.introduce()].concat()).expect("a welcome is short")
}

/// The answer to a hello.
pub(super) fn check_welcome(frame: &Frame) -> Result<()> {
    match frame.kind {
        WELCOME => {
            let stranger =
                || Error::Invalid("the other side does not welcome as a member of a raftwork cluster".into());
            meet(&frame.payload, stranger).map(drop)
        }
        REFUSED => Err(Error::Foreign(String::from_utf8_lossy(&frame.payload).into_owned())),
        LATER => Err(Error::NotCommitted(String::from_utf8_lossy(&frame.payload).into_owned())),
        kind => Err(Error::Invalid(format!("a frame of kind {kind} in place of a welcome"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            cluster: ClusterId(*b"golden cluster 1"),
            group: GroupId(1),
            from: NodeId(2),
            to: NodeId(0x0304),
            purpose: Purpose::Letters,
            runs: Runs { release: RELEASE.into(), level: 5 },
            address: Address::parse("10.0.0.1:7000").expect("an address"),
        }
    }

    fn payload(hello: &Hello) -> Vec<u8> {
        hello.frame()[packet::HEADER_BYTES..].to_vec()
    }

    fn read(payload: Vec<u8>) -> Result<Hello> {
        Hello::read(&Frame { kind: HELLO, id: 0, payload })
    }

    /// The same hello from a release that speaks these versions.
    fn offering(oldest: u8, newest: u8) -> Vec<u8> {
        let mut payload = payload(&hello());
        payload[8..12].copy_from_slice(&[oldest, 0, newest, 0]);
        payload
    }

    #[test]
    fn a_hello_comes_back_also_with_what_a_later_version_adds() {
        assert_eq!(read(payload(&hello())), Ok(hello()));
        assert_eq!(read([&payload(&hello())[..], b"more"].concat()), Ok(hello()));
        for length in 0..payload(&hello()).len() {
            assert!(read(payload(&hello())[..length].to_vec()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn u1_a_member_that_also_speaks_the_next_version_is_let_in_and_one_that_speaks_no_other_is_told() {
        assert_eq!(read(offering(1, 2)), Ok(hello()));
        let Err(Error::Foreign(why)) = read(offering(2, 2)) else { panic!("it was let in") };
        assert!(why.contains("speaks version 2") && why.contains("speaks version 1"), "{why}");
        assert!(why.contains(&format!("upgrade the one with raftwork {RELEASE}")), "{why}");
    }

    #[test]
    fn u4_the_bytes_of_a_hello_are_those_of_its_version() {
        let mut golden = b"RAFTMEMB\x01\0\x01\0".to_vec();
        golden.push(RELEASE.len() as u8);
        golden.extend_from_slice(RELEASE.as_bytes());
        golden.extend_from_slice(b"golden cluster 1");
        golden.extend_from_slice(b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x01");
        golden.extend_from_slice(b"\x05\0\0\0\0\0\0\0\x0d\x0010.0.0.1:7000");
        assert_eq!(payload(&hello()), golden);
    }

    #[test]
    fn a_member_that_is_about_to_open_is_not_refused_for_good() {
        let answer = |kind| check_welcome(&Frame { kind, id: 0, payload: b"words".to_vec() });
        // The dialer waits for seconds after `Foreign`, and soon tries again after anything else.
        assert_eq!(answer(REFUSED), Err(Error::Foreign("words".into())));
        assert_eq!(answer(LATER), Err(Error::NotCommitted("words".into())));
    }

    #[test]
    fn u1_a_welcome_says_what_the_other_side_speaks() {
        let welcome = welcome()[packet::HEADER_BYTES..].to_vec();
        let answer = |newest: u8, oldest: u8| {
            let mut payload = welcome.clone();
            payload[8..12].copy_from_slice(&[oldest, 0, newest, 0]);
            check_welcome(&Frame { kind: WELCOME, id: 0, payload })
        };
        assert_eq!(answer(1, 1), Ok(()));
        assert_eq!(answer(2, 1), Ok(()));
        assert!(matches!(answer(2, 2), Err(Error::Foreign(_))));
        assert!(check_welcome(&Frame { kind: WELCOME, id: 0, payload: Vec::new() }).is_err());
    }
}
