//! Every decoder of untrusted bytes, fed with changed inputs of its corpus (`corpus/<target>/`): it refuses or understands,
//! and never panics, hangs or allocates without bound. What it understands must hold together, see each target.
//!
//! `RAFTWORK_FUZZ_SECONDS` is the time for each target (1 by default, 20 in `make test`), `RAFTWORK_FUZZ_SEED` the start.
//! An input that fails is printed and stored in the corpus, which every run tries first.

use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftwork::attach::message;
use raftwork::base::checksum::{crc32c, crc32c_append};
use raftwork::base::limits;
use raftwork::disk::{FakeDisk, Identity};
use raftwork::machine;
use raftwork::net::pki::Lifetime;
use raftwork::net::{Address, Authority, Certified, Frames, Invitation, Role};
use raftwork::snapshot::SnapshotStore;
use raftwork::wal::frame::{self, GroupHeader};
use raftwork::wal::{segment, Group, Wal, WalConfig};

use crate::fuzz::mutate::{mutate, Random};
use crate::storage::identity;

mod mutate;

/// Salt of the groups in the corpus `group`.
const SALT: u64 = 0x5eed;

/// Inputs between two looks at the clock.
const ROUND: usize = 64;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs a target over its corpus and then over changed inputs until its time is up.
fn fuzz(target: &str, seal: fn(&mut Random, &mut Vec<u8>), run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rust/corpus").join(target);
    let corpus = corpus(&dir);
    assert!(!corpus.is_empty(), "{} is empty", dir.display());
    corpus.iter().for_each(|input| attempt(&dir, input, run));
    let mut random = Random(number("RAFTWORK_FUZZ_SEED", 1));
    let end = Instant::now() + Duration::from_secs(number("RAFTWORK_FUZZ_SECONDS", 1));
    let mut tried = 0;
    while Instant::now() < end {
        for _ in 0..ROUND {
            let (first, second) = (&corpus[random.below(corpus.len())], &corpus[random.below(corpus.len())]);
            let mut input = mutate(&mut random, first, second);
            if random.below(4) > 0 {
                seal(&mut random, &mut input);
            }
            attempt(&dir, &input, run);
            tried += 1;
        }
    }
    println!("{target}: {} inputs in the corpus, {tried} changed ones", corpus.len());
}

fn corpus(dir: &Path) -> Vec<Vec<u8>> {
    let files = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a name").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("it can be read")).collect()
}

fn attempt(dir: &Path, input: &[u8], run: fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(input))) {
        let path = dir.join(format!("failed-{:08x}", crc32c(input)));
        let stored = fs::write(&path, input);
        println!("the input is in {} ({stored:?}): {input:02x?}", path.display());
        std::panic::resume_unwind(panic);
    }
}

fn unsealed(_: &mut Random, _: &mut Vec<u8>) {}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes(four.try_into().expect("four bytes")))
}

/// Makes a group's checksums right, and its length fit what there is.
fn seal_group(random: &mut Random, bytes: &mut [u8]) {
    if bytes.len() >= frame::HEADER_BYTES {
        let body = if random.below(2) == 0 { bytes.len() - frame::HEADER_BYTES } else { word(bytes, 4) as usize };
        seal_group_at(bytes, 0, SALT, body, 0);
    }
}

/// Returns the end of the group and its body's checksum, if it fits.
fn seal_group_at(bytes: &mut [u8], start: usize, salt: u64, body: usize, chain: u32) -> Option<(usize, u32)> {
    let body_at = start + frame::HEADER_BYTES;
    let checksum = crc32c_append(chain, bytes.get(body_at..body_at.checked_add(body)?)?);
    bytes[start + 4..start + 8].copy_from_slice(&(body as u32).to_le_bytes());
    bytes[start + 40..start + 44].copy_from_slice(&checksum.to_le_bytes());
    bytes[start + 47] |= 0x80;
    frame::seal_header(&mut bytes[start..body_at], salt);
    Some((start + frame::padded(frame::HEADER_BYTES + body), checksum))
}

#[test]
fn fuzz_group() {
    fuzz(
        "group",
        |random, bytes| seal_group(random, bytes),
        |bytes| {
            let Some(header) = GroupHeader::decode(bytes, SALT) else { return };
            let Some(body) = bytes.get(frame::HEADER_BYTES..).and_then(|rest| rest.get(..header.body_bytes)) else {
                return;
            };
            if !header.matches(body, 0) {
                return;
            }
            let Ok(content) = header.content(&Bytes::copy_from_slice(body)) else { return };
            let mut again = Vec::new();
            let conf_state = content.conf_state.as_deref();
            let (hard_state, mark, entries) = (content.hard_state, content.mark, &content.entries[..]);
            frame::encode(
                &mut again,
                SALT,
                header.sequence,
                0,
                &Group { hard_state, conf_state, mark, restart: content.restart, entries },
            );
            let written = frame::HEADER_BYTES + header.body_bytes;
            assert!(again[..written] == bytes[..written], "a group that can be read is what would be written");
        },
    );
}

/// Makes the checksums of a segment right as far as its groups can be followed.
fn seal_segment(_: &mut Random, bytes: &mut Vec<u8>) {
    bytes.resize(8 << 10, 0);
    bytes[80..88].copy_from_slice(&(8u64 << 10).to_le_bytes());
    bytes[..12].copy_from_slice(b"RWWAL01\0\x01\0\0\0");
    bytes[16..56].copy_from_slice(&segment_owner());
    let checksum = crc32c(&bytes[..segment::HEADER_BYTES - 4]);
    bytes[segment::HEADER_BYTES - 4..segment::HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    let salt = u64::from_le_bytes(bytes[56..64].try_into().expect("eight bytes"));
    let (mut start, mut chain) = (segment::HEADER_BYTES, word(bytes, 72));
    while start + frame::HEADER_BYTES <= bytes.len() && word(bytes, start + 4) > 0 {
        let body = word(bytes, start + 4) as usize;
        let Some((end, next)) = seal_group_at(bytes, start, salt, body, chain) else { break };
        (start, chain) = (end, next);
    }
}

/// Cluster, group, node and sequence as in the header of a first segment.
fn segment_owner() -> Vec<u8> {
    let Identity { cluster, group, node, .. } = identity();
    let numbers = [group.0, node.0, 1].map(u64::to_le_bytes);
    [&cluster.0[..], &numbers.concat()].concat()
}

#[test]
fn fuzz_wal() {
    fuzz("wal", seal_segment, |bytes| {
        let dir = Path::new("/data");
        let disk = FakeDisk::new(1, &[&dir.join("wal")]);
        disk.put(&dir.join("wal").join(segment::file_name(1)), bytes);
        let open = || {
            let config = WalConfig { segment_bytes: 8 << 10, ..WalConfig::default() };
            Wal::open(Arc::new(disk.clone()), dir, &identity(), config).map(|(_, recovered)| recovered)
        };
        let Ok(first) = open() else { return };
        let again = open().expect("what was opened once opens again");
        assert_eq!((first.entries, first.hard_state), (again.entries, again.hard_state));
    });
}

/// Makes the checksums of a snapshot right as far as its chunks can be followed.
fn seal_snapshot(_: &mut Random, bytes: &mut Vec<u8>) {
    let members = bytes.get(76..80).map_or(0, |four| {
        usize::from(u16::from_le_bytes([four[0], four[1]])) + usize::from(u16::from_le_bytes([four[2], four[3]]))
    });
    let end = 80 + 8 * members;
    if bytes.len() < end + 4 {
        return;
    }
    // The owner and the index that the target looks for.
    bytes[16..40].copy_from_slice(&segment_owner()[..24]);
    bytes[40..48].copy_from_slice(&9u64.to_le_bytes());
    let checksum = crc32c(&bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
    let salt: [u8; 8] = bytes[64..72].try_into().expect("eight bytes");
    let mut at = end + 4;
    while at + 10 <= bytes.len() && word(bytes, at) > 0 {
        let stored = word(bytes, at) as usize;
        let Some(payload) = bytes.get(at + 10..at + 10 + stored) else { return };
        let head = [&salt[..], &bytes[at..at + 4], &bytes[at + 8..at + 10]].concat();
        let checksum = crc32c_append(crc32c(&head), payload);
        bytes[at + 4..at + 8].copy_from_slice(&checksum.to_le_bytes());
        at += 10 + stored;
    }
    seal_footer(bytes, end + 4, at, &salt);
}

/// Writes the footer that confirms the chunks from `start` to `at`.
fn seal_footer(bytes: &mut Vec<u8>, start: usize, at: usize, salt: &[u8]) {
    let (mut chunks, mut unpacked, mut hash) = (0u64, 0u64, 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128);
    let mut chunk = start;
    while chunk < at {
        let stored = word(bytes, chunk);
        chunks += 1;
        unpacked += u64::from(if bytes[chunk + 9] == 1 { word(bytes, chunk + 10) } else { stored });
        for byte in &bytes[chunk + 4..chunk + 8] {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        chunk += 10 + stored as usize;
    }
    let rest = [&chunks.to_le_bytes()[..], &unpacked.to_le_bytes(), &hash.to_le_bytes(), b"RWSNEND\0"].concat();
    let checksum = crc32c_append(crc32c(salt), &rest);
    bytes.truncate(at);
    bytes.extend([&[0; 4][..], &checksum.to_le_bytes(), &rest].concat());
}

#[test]
fn fuzz_snapshot() {
    fuzz("snapshot", seal_snapshot, |bytes| {
        let dir = Path::new("/data");
        let disk = FakeDisk::new(1, &[&dir.join("snap")]);
        disk.put(&dir.join("snap/c-00000000000000000009-2.rws"), bytes);
        let Ok(store) = SnapshotStore::open(Arc::new(disk), dir, &identity()) else { return };
        let meta = store.latest().expect("it was accepted");
        assert_eq!(meta.index, 9);
        // A codec may still fail where the checksums are right; it must say so.
        let _ = store.read(&meta, &mut |_, bytes| {
            assert!(bytes.len() <= raftwork::base::limits::CHUNK_BYTES_MAX);
            Ok(())
        });
    });
}

#[test]
fn fuzz_command() {
    fuzz("command", unsealed, |bytes| {
        let _ = machine::check(bytes);
    });
}

#[test]
fn fuzz_message() {
    fuzz("message", unsealed, |bytes| {
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        if let Ok(letter) = raftwork::replica::Letter::decode(&bytes) {
            assert_eq!(raftwork::replica::Letter::decode(&letter.encode().into()), Ok(letter));
        }
    });
}

/// Makes the checksum of the first frame right.
fn seal_frame(bytes: &mut [u8]) {
    let Some(end) = (word(bytes, 0) as usize).checked_add(4).filter(|end| (20..=bytes.len()).contains(end)) else {
        return;
    };
    let checksum = crc32c(&bytes[8..end]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn fuzz_frame() {
    fuzz(
        "frame",
        |_, bytes| seal_frame(bytes),
        |bytes| {
            // A stranger's frames are as others, or refused.
            let (mut first, mut stream) = (Frames::with_limit(limits::FIRST_FRAME_BYTES_MAX), bytes);
            let stranger = first.fill(&mut stream).and_then(|_| first.take());
            if let Ok(Some(frame)) = stranger {
                assert!(frame.payload.len() <= limits::FIRST_FRAME_BYTES_MAX);
                let mut frames = Frames::new();
                assert!(frames.fill(&mut &bytes[..]).is_ok_and(|more| more));
                assert_eq!(frames.take(), Ok(Some(frame)));
            }
            let (mut frames, mut stream) = (Frames::new(), bytes);
            while let Ok(true) = frames.fill(&mut stream) {
                while let Ok(Some(frame)) = frames.take() {
                    let payload = &frame.payload[..];
                    let _ = (message::Greeting::decode(payload), message::decode_reply(payload));
                    let _ = (message::decode_ask(payload), message::decode_event(payload));
                    let _ = (message::decode_session(payload), message::decode_job(payload));
                    message::decode_error(payload);
                }
                if stream.is_empty() {
                    break;
                }
            }
        },
    );
}

#[test]
fn fuzz_invitation() {
    use base64::prelude::{Engine, BASE64_URL_SAFE_NO_PAD};
    fuzz("invitation", unsealed, |bytes| {
        let _ = Invitation::parse(&String::from_utf8_lossy(bytes));
        // With the right checksum, so that what is inside is read.
        let sealed = [bytes, &crc32c(bytes).to_le_bytes()].concat();
        let text = format!("rwi1.{}", BASE64_URL_SAFE_NO_PAD.encode(sealed));
        if let Ok(invitation) = Invitation::parse(&text) {
            assert_eq!(Invitation::parse(&invitation.text()), Ok(invitation));
        }
    });
}

#[test]
fn fuzz_name() {
    fuzz("name", unsealed, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(address) = Address::parse(&text) {
            assert_eq!(Address::parse(&address.to_string()), Ok(address));
        }
        if let Ok(certified) = Certified::parse(&text) {
            assert_eq!(Certified::parse(&certified.to_string()), Ok(certified));
        }
    });
}

#[test]
fn fuzz_request() {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    fuzz("request", unsealed, |bytes| {
        let authority = AUTHORITY.get_or_init(|| Authority::create(identity().cluster).expect("an authority"));
        let _ = authority.sign_request(bytes, &Role::Node, Lifetime::days(1));
    });
}
