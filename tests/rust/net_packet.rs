//! Frames: any cut of the stream, any flipped bit, any length.

use raftwork::base::limits;
use raftwork::net::packet::{encode, Frame, Frames, HEADER_BYTES};
use std::io::Read;

#[test]
fn frames_survive_any_cut_of_the_stream() {
    let bytes: Vec<u8> = [encode(2, 1, b"abc"), encode(3, 2, b""), encode(10, 3, &[7; 70_000])]
        .into_iter()
        .flat_map(|frame| frame.unwrap())
        .collect();
    for step in [1, 7, 19, 20, 21, 4096, bytes.len()] {
        let mut frames = Frames::new();
        let mut found = Vec::new();
        for mut piece in bytes.chunks(step) {
            while !piece.is_empty() {
                assert!(frames.fill(&mut piece).unwrap());
            }
            while let Some(frame) = frames.take().unwrap() {
                found.push((frame.kind, frame.id, frame.payload.len()));
            }
        }
        assert_eq!(found, [(2, 1, 3), (3, 2, 0), (10, 3, 70_000)], "pieces of {step}");
    }
}

#[test]
fn every_flipped_bit_of_a_frame_is_noticed() {
    let good = encode(2, 77, b"some words").unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // What follows would be the next frame: a longer length then finds its bytes, and a wrong checksum.
        bad.extend_from_slice(&[0; 64]);
        let mut frames = Frames::new();
        frames.fill(&mut bad.as_slice()).unwrap();
        match frames.take() {
            Err(_) | Ok(None) => {}
            Ok(Some(frame)) => panic!("bit {bit} gave {frame:?}"),
        }
    }
}

#[test]
fn a_length_is_checked_before_anything_is_read() {
    for length in [0u32, 15, limits::FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        let mut frames = Frames::new();
        frames.fill(&mut length.to_le_bytes().as_slice()).unwrap();
        assert!(frames.take().is_err(), "{length}");
    }
    assert!(encode(2, 1, &vec![0; limits::FRAME_BYTES_MAX]).is_err());
    assert!(encode(2, 1, &vec![0; limits::FRAME_BYTES_MAX - HEADER_BYTES + 4]).is_ok());
}

#[test]
fn the_first_frame_may_be_bound_more_tightly() {
    let small = encode(1, 0, &vec![7; 4096 - 16]).unwrap();
    let large = encode(1, 0, &vec![7; 4096 - 15]).unwrap();
    let first = |mut bytes: &[u8]| {
        let mut frames = Frames::with_limit(4096);
        loop {
            match frames.take() {
                Ok(None) if frames.fill(&mut bytes).unwrap() => {}
                done => return done,
            }
        }
    };
    assert_eq!(first(&small).unwrap().unwrap().payload.len(), 4096 - 16);
    assert!(first(&large).is_err());
    // What follows the first frame is kept, and may be longer once the limit is raised.
    let mut frames = Frames::with_limit(4096);
    let both = [encode(1, 5, b"hello").unwrap(), large].concat();
    let mut bytes = &both[..];
    frames.fill(&mut bytes).unwrap();
    assert_eq!(frames.take().unwrap(), Some(Frame { kind: 1, id: 5, payload: b"hello".to_vec() }));
    frames.raise_limit(limits::FRAME_BYTES_MAX);
    while frames.fill(&mut bytes).unwrap() {}
    assert_eq!(frames.take().unwrap().unwrap().payload.len(), 4096 - 15);
}

/// Counts how much room a reader offers at once.
struct Offered(usize);

impl Read for Offered {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        self.0 = self.0.max(room.len());
        room[0] = 200;
        Ok(1)
    }
}

#[test]
fn a_stranger_gets_no_more_room_than_its_frame_needs() {
    let (mut frames, mut slow) = (Frames::with_limit(4096), Offered(0));
    for _ in 0..3 {
        assert!(frames.fill(&mut slow).unwrap());
        assert_eq!(frames.take().unwrap(), None);
    }
    assert!(slow.0 <= 2 * 4100, "{} bytes offered", slow.0);
}

#[test]
fn a_side_with_tls_is_recognised() {
    let mut frames = Frames::new();
    frames.fill(&mut &b"\x16\x03\x01\x02\x00\x01"[..]).unwrap();
    assert!(frames.take().unwrap_err().to_string().contains("speaks TLS"));
}
