//! The options of the doors: MessagePack maps with text keys. An unknown key is refused, not ignored.

use crate::base::codec::Reader;
use crate::base::{Error, Millis, Result};
use crate::client::fetcher::Wish;
use crate::client::Options;
use crate::node::NodeConfig;
use std::time::Duration;

/// How long an owner that is starting may take before others give up.
const OPEN_TIMEOUT_MS: u64 = 30_000;

/// Sessions may live from half a second to an hour without a sign of life.
const TTL_MS: std::ops::RangeInclusive<u64> = 500..=3_600_000;

/// Walks over a map; `take` reads the value of a key it knows.
fn each_key(bytes: &[u8], mut take: impl FnMut(&str, &mut Reader<'_>) -> Result<bool>) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut reader = Reader::new(bytes);
    for _ in 0..reader.map()? {
        let key = reader.str()?;
        if !take(key, &mut reader)? {
            return Err(Error::Invalid(format!("no option is named {key}")));
        }
    }
    reader.end()
}

fn ttl(reader: &mut Reader<'_>) -> Result<Millis> {
    let ttl = reader.u64()?;
    if TTL_MS.contains(&ttl) {
        return Ok(Millis(ttl));
    }
    Err(Error::Invalid(format!("ttl_ms is from {} to {}, not {ttl}", TTL_MS.start(), TTL_MS.end())))
}

fn labels(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>> {
    let mut labels = Vec::new();
    for _ in 0..reader.map()? {
        labels.push((reader.str()?.to_owned(), reader.str()?.to_owned()));
    }
    labels.sort();
    Ok(labels)
}

/// What any client may be told.
fn common(options: &mut Options, key: &str, reader: &mut Reader<'_>) -> Result<bool> {
    match key {
        "ttl_ms" => options.ttl = ttl(reader)?,
        "kind" => {
            options.kind = match reader.str()? {
                kind @ ("client" | "worker") => kind.to_owned(),
                other => return Err(Error::Invalid(format!("kind is client or worker, not {other}"))),
            }
        }
        "labels" => options.labels = labels(reader)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Options of `Client.open`, and how long to wait for an owner that is starting.
pub fn open(path: &str, bytes: &[u8]) -> Result<(NodeConfig, Options, Duration)> {
    let (mut config, mut options) = (NodeConfig::new(path), Options::default());
    let mut open_timeout_ms = OPEN_TIMEOUT_MS;
    each_key(bytes, |key, reader| {
        match key {
            "segment_bytes" => config.segment_bytes = usize::try_from(reader.u64()?).unwrap_or(usize::MAX),
            "snapshot_bytes" => config.snapshot_bytes = reader.u64()?,
            "open_timeout_ms" => open_timeout_ms = reader.u64()?,
            _ => return common(&mut options, key, reader),
        }
        Ok(true)
    })?;
    Ok((config, options, Duration::from_millis(open_timeout_ms)))
}

/// Options of `Client.memory`; true: the caller moves the clock.
pub fn memory(bytes: &[u8]) -> Result<(Options, bool)> {
    let (mut options, mut manual) = (Options::default(), false);
    each_key(bytes, |key, reader| {
        if key == "clock" {
            manual = match reader.str()? {
                "real" => false,
                "manual" => true,
                other => return Err(Error::Invalid(format!("clock is real or manual, not {other}"))),
            };
            return Ok(true);
        }
        common(&mut options, key, reader)
    })?;
    Ok((options, manual))
}

/// Options of `Client.fetcher`.
pub fn fetcher(bytes: &[u8]) -> Result<(Wish, Vec<(String, String)>)> {
    let (mut wish, mut own_labels) = (Wish { prefetch: 1, ..Wish::default() }, Vec::new());
    each_key(bytes, |key, reader| {
        match key {
            "queues" => {
                for _ in 0..reader.array()? {
                    reader.array_of(2, "a queue and its weight")?;
                    wish.queues.push((reader.str()?.to_owned(), reader.u64()?));
                }
            }
            "functions" => {
                for _ in 0..reader.array()? {
                    wish.functions.push(reader.str()?.to_owned());
                }
            }
            "strict" => wish.strict = reader.bool()?,
            "prefetch" => wish.prefetch = usize::try_from(reader.u64()?).unwrap_or(usize::MAX),
            "labels" => own_labels = labels(reader)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((wish, own_labels))
}
