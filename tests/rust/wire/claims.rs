//! What a claim answers.

use raftwork::base::codec::Reader;
use raftwork::base::JobId;

/// What a claim hands out, as far as tests look.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    pub id: JobId,
    pub token: u64,
    pub function: String,
    pub queue: String,
    pub args: Vec<u8>,
    pub attempt: u64,
    pub crashes: u64,
    pub priority: i64,
    /// created, enqueued, claimed
    pub times: [u64; 3],
    pub state: Option<Vec<u8>>,
    /// Results of parents by position.
    pub outputs: Vec<(u64, Option<Vec<u8>>)>,
    pub batch: Option<JobId>,
    /// Its schedule and slot.
    pub from: Option<(String, Option<u64>)>,
}

pub fn claimed(payload: &[u8]) -> Vec<Claimed> {
    let r = &mut Reader::new(payload);
    let jobs = (0..r.array().expect("a list")).map(|_| one_claimed(r).expect("a claimed job")).collect();
    r.end().expect("nothing behind the list");
    jobs
}

fn one_claimed(r: &mut Reader<'_>) -> raftwork::base::Result<Claimed> {
    let items = r.array()?;
    assert!((17..=18).contains(&items), "a claimed job has {items} items");
    let mut job = Claimed {
        id: r.id()?,
        token: r.u64()?,
        function: r.str()?.into(),
        queue: r.str()?.into(),
        args: r.bin()?.into(),
        attempt: r.u64()?,
        crashes: r.u64()?,
        priority: r.i64()?,
        times: [r.u64()?, r.u64()?, r.u64()?],
        state: None,
        outputs: Vec::new(),
        batch: None,
        from: None,
    };
    for _ in 0..5 {
        r.raw()?; // timeout, max_attempts, max_crashes, tags, meta
    }
    job.state = r.option(|r| r.bin().map(Into::into))?;
    if items == 18 {
        claimed_extras(&mut job, r)?;
    }
    Ok(job)
}

fn claimed_extras(job: &mut Claimed, r: &mut Reader<'_>) -> raftwork::base::Result<()> {
    for _ in 0..r.map()? {
        match r.u64()? {
            1 => {
                for _ in 0..r.array()? {
                    r.array()?;
                    let position = r.u64()?;
                    r.id()?;
                    job.outputs.push((position, r.option(|r| r.bin().map(Into::into))?));
                }
            }
            2 => job.batch = r.option(|r| r.id())?,
            3 => {
                r.array()?;
                job.from = Some((r.str()?.into(), r.option(|r| r.u64())?));
            }
            other => panic!("a claimed job has {other} behind its items"),
        }
    }
    Ok(())
}
