//! Random flows: whatever happens to parents, children and batches, at every index nobody is stuck, nobody started too
//! early, and the figures of batches are those of their members (J11). A twin that is never reloaded stays equal (L6).

use proptest::prelude::*;

use crate::wire::flows::Batch;
use crate::wire::{self, claimed, Command, End, Job, Spec};
use raftwork::base::planted::{plant, Bug};
use raftwork::base::{JobId, LogIndex, Millis};
use raftwork::machine::job::State;
use raftwork::machine::{record, Effects, Loader, Machine};

const JOBS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
const BATCHES: [&str; 3] = ["X", "Y", "Z"];

#[derive(Clone, Debug)]
enum Act {
    Enqueue(Vec<NewJob>),
    Run(End),
    Cancel(usize),
    Requeue(usize),
    Delete(usize),
    Evict(u64),
    Restore(usize),
    Open(usize, Option<usize>),
    Seal(usize),
    CancelBatch(usize),
    Tick,
    Reload,
}

/// The job, its parents with the end that it waits for, whether it takes results, its batch, delay and key.
#[derive(Clone, Debug)]
struct NewJob {
    id: usize,
    parents: Vec<(usize, u64)>,
    uses: bool,
    batch: Option<usize>,
    delay: u64,
    unique: bool,
}

fn any_id(place: usize) -> JobId {
    wire::id(JOBS.get(place).or(BATCHES.get(place.saturating_sub(JOBS.len()))).expect("a job or a batch"))
}

fn new_job() -> impl Strategy<Value = NewJob> {
    let parents = prop::collection::vec((0..JOBS.len() + BATCHES.len(), 0u64..3), 0..4);
    let rest =
        (prop::option::of(0..BATCHES.len()), prop_oneof![3 => Just(0u64), 1 => Just(5)], prop::bool::weighted(0.2));
    (0..JOBS.len(), parents, any::<bool>(), rest).prop_map(|(id, parents, uses, (batch, delay, unique))| NewJob {
        id,
        parents,
        uses,
        batch,
        delay,
        unique,
    })
}

fn act() -> impl Strategy<Value = Act> {
    let end = prop_oneof![
        4 => Just(End::Succeeded(Some(vec![1, 2]))),
        2 => Just(End::Failed("Boom".into())),
        1 => Just(End::Crashed("Killed".into())),
        1 => Just(End::Retry(0, "Boom".into())),
    ];
    prop_oneof![
        8 => prop::collection::vec(new_job(), 1..3).prop_map(Act::Enqueue),
        8 => end.prop_map(Act::Run),
        2 => (0..JOBS.len()).prop_map(Act::Cancel),
        3 => (0..JOBS.len()).prop_map(Act::Requeue),
        1 => (0..JOBS.len()).prop_map(Act::Delete),
        1 => (0u64..6).prop_map(Act::Evict),
        1 => (0usize..9).prop_map(Act::Restore),
        2 => (0..BATCHES.len(), prop::option::of(0..BATCHES.len())).prop_map(|(batch, outer)| Act::Open(batch, outer)),
        2 => (0..BATCHES.len()).prop_map(Act::Seal),
        1 => (0..BATCHES.len()).prop_map(Act::CancelBatch),
        2 => Just(Act::Tick),
        1 => Just(Act::Reload),
    ]
}

struct Run {
    index: u64,
    machine: Machine,
    twin: Machine,
    session: u64,
    records: Vec<Vec<u8>>,
}

impl Run {
    fn new() -> Self {
        let mut run =
            Self { index: 0, machine: Machine::newest(), twin: Machine::newest(), session: 1, records: Vec::new() };
        let opened = run.send(&Command::Open { ttl: 15_000, kind: "worker".into(), host: "box".into() });
        opened.expect("there is room for a session");
        run
    }

    fn send(&mut self, command: &Command) -> wire::Reply {
        self.index += 1;
        let (index, now) = (LogIndex(self.index), Millis(self.index * 2));
        let request = wire::request(0, 0, 0, command);
        let reply = self.machine.apply(index, now, &request, &mut Effects::default()).expect("the operation is known");
        let twin = self.twin.apply(index, now, &request, &mut Effects::default());
        assert_eq!(Ok(&reply), twin.as_ref());
        assert_eq!(self.machine.audit(), Ok(()), "{command:?}");
        let finished = self.machine.finished(0, 100, usize::MAX);
        self.records.extend(finished.into_iter().map(|(_, _, record)| record));
        wire::reply(&reply).1
    }

    fn take(&mut self, act: &Act) {
        let job = |place: &usize| wire::id(JOBS[*place]);
        let batch = |place: &usize| wire::id(BATCHES[*place]);
        let command = match act {
            Act::Enqueue(jobs) => enqueue(jobs),
            Act::Run(end) => return self.run_one(end),
            Act::Cancel(place) => Command::Cancel { ids: vec![job(place)], reason: "stop".into() },
            Act::Requeue(place) => Command::Requeue(vec![job(place)]),
            Act::Delete(place) => Command::Delete(vec![job(place)]),
            Act::Evict(back) => Command::Evict(self.machine.finished_upto().saturating_sub(*back)),
            Act::Restore(back) => {
                let place = self.records.len().checked_sub(1 + *back);
                Command::Restore(place.map(|place| self.records[place].clone()).into_iter().collect())
            }
            Act::Open(place, outer) => {
                Command::Batch(Batch::Open(batch(place), "night".into(), outer.as_ref().map(batch)))
            }
            Act::Seal(place) => Command::Batch(Batch::Seal(batch(place))),
            Act::CancelBatch(place) => Command::Batch(Batch::Cancel(batch(place), "stop".into())),
            Act::Tick => Command::Tick(1_000),
            Act::Reload => return self.reload(),
        };
        // Refused or not: the state is looked at.
        let _ = self.send(&command);
    }

    /// The next job, if there is one.
    fn run_one(&mut self, end: &End) {
        let claim = Command::Claim {
            session: self.session,
            queues: vec![("default".into(), 1)],
            strict: false,
            functions: vec!["f".into()],
            max: 1,
        };
        for job in claimed(&self.send(&claim).expect("the session is open")) {
            let (stored, _) = self.machine.job(job.id).expect("it is claimed");
            let takes = stored.flow().map_or(0, |flow| flow.edges.iter().filter(|edge| edge.uses).count());
            assert!(job.outputs.len() <= takes, "no result twice");
            self.send(&Command::Finish(vec![(job.id, job.token, end.clone())])).expect("it holds the lease");
        }
    }

    fn reload(&mut self) {
        let mut loader = Loader::new();
        self.machine.capture().write(&mut |section, bytes| loader.section(section, bytes)).expect("an image");
        self.machine = loader.finish().expect("an image can be loaded");
        assert_eq!(self.machine.digest(), self.twin.digest());
    }

    /// Whoever waits for workers runs, batches are sealed: then nobody waits for anybody.
    fn drain(&mut self) {
        for batch in BATCHES {
            let _ = self.send(&Command::Batch(Batch::Seal(wire::id(batch))));
        }
        let open = |machine: &Machine| {
            let finals = [State::Succeeded, State::Failed, State::Cancelled];
            machine.tally().live() - finals.map(|state| machine.tally().count(state)).iter().sum::<u64>()
        };
        for _ in 0..4 * JOBS.len() {
            if open(&self.machine) == 0 {
                return;
            }
            self.index += 10;
            let _ = self.send(&Command::Tick(1_000));
            self.run_one(&End::Succeeded(None));
        }
        panic!("{} jobs are stuck", open(&self.machine));
    }
}

fn enqueue(jobs: &[NewJob]) -> Command {
    let parent = |uses| move |(place, on): &(usize, u64)| (any_id(*place), *on, uses);
    let mut jobs: Vec<Job> = jobs
        .iter()
        .map(|new| Job {
            id: wire::id(JOBS[new.id]),
            delay: new.delay,
            unique: new.unique.then(|| "key".to_owned()),
            parents: new.parents.iter().map(parent(new.uses)).collect(),
            batch: new.batch.map(|place| wire::id(BATCHES[place])),
            ..Job::default()
        })
        .collect();
    jobs.dedup_by_key(|job| job.id);
    Command::Enqueue { specs: vec![Spec { max_attempts: 2, max_crashes: 2, ..Spec::default() }], jobs }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn j11_no_flow_is_ever_stuck_and_no_child_is_early(acts in prop::collection::vec(act(), 1..60)) {
        let mut run = Run::new();
        acts.iter().for_each(|act| run.take(act));
        run.drain();
    }
}

/// A parent with more children than one command settles: the rest follows in order, and what happens meanwhile counts.
#[test]
fn j11_a_fan_out_of_five_thousand_is_settled_by_ticks() {
    let mut run = Run::new();
    let number = |number: u64| {
        let mut id = [9; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        JobId(id)
    };
    let parent = wire::id("a");
    run.machine = Machine::newest();
    let mut index = 0;
    let mut send = |machine: &mut Machine, command: &Command| {
        index += 1;
        let request = wire::request(0, 0, 0, command);
        machine.apply(LogIndex(index), Millis(1), &request, &mut Effects::default()).expect("it is known")
    };
    let machine = &mut run.machine;
    let one = |id, parents| Job { id, parents, ..Job::default() };
    send(machine, &Command::Enqueue { specs: vec![Spec::default()], jobs: vec![one(parent, Vec::new())] });
    for thousand in 0..5 {
        let jobs = (0..1_000).map(|place| one(number(thousand * 1_000 + place), vec![(parent, 0, false)])).collect();
        send(machine, &Command::Enqueue { specs: vec![Spec::default()], jobs });
    }
    send(machine, &Command::Cancel { ids: vec![parent], reason: String::new() });
    assert_eq!(machine.tally().count(State::Cancelled), 1_001);
    assert!(machine.is_behind() && machine.next_due() == Some(Millis(1)), "a leader ticks");
    // The end of the parent is settled before its requeueing, and both before a child that comes now.
    send(machine, &Command::Requeue(vec![parent]));
    send(
        machine,
        &Command::Enqueue { specs: vec![Spec::default()], jobs: vec![one(number(9_999), vec![(parent, 0, false)])] },
    );
    let mut ticks = 0;
    while machine.is_behind() {
        send(machine, &Command::Tick(1_000));
        assert_eq!(machine.audit(), Ok(()));
        ticks += 1;
    }
    assert!(ticks <= 10, "{ticks} ticks");
    assert_eq!(machine.tally().count(State::Awaiting), 5_001);
    assert_eq!(machine.job(number(0)).expect("it is there").0.generation, 1);
    assert_eq!(machine.job(number(9_999)).expect("it is there").0.generation, 0);
    send(machine, &Command::Cancel { ids: vec![parent], reason: String::new() });
    while machine.is_behind() {
        send(machine, &Command::Tick(1_000));
    }
    let records = machine.finished(0, usize::MAX, usize::MAX);
    let (_, _, record) = records.iter().find(|(_, id, _)| *id == parent).expect("it is final");
    assert_eq!(record::relatives(record).expect("a record").children.len(), 5_001, "all come back with it");
}

/// Applies commands one after the other, each of which must be accepted, all at the same time.
fn sender() -> impl FnMut(&mut Machine, &Command) -> Vec<u8> {
    let mut index = 0;
    move |machine, command| {
        index += 1;
        let request = wire::request(0, 0, 0, command);
        let reply = machine.apply(LogIndex(index), Millis(1), &request, &mut Effects::default());
        wire::reply(&reply.expect("it is known")).1.expect("it is accepted")
    }
}

/// Ten thousand parents of one child: each end costs the same, and the last one lets it run.
#[test]
fn j11_a_fan_in_of_ten_thousand_waits_for_the_last() {
    let (mut machine, mut send) = (Machine::newest(), sender());
    let ids: Vec<JobId> = (0..10_000u128).map(|number| JobId((number + 1).to_be_bytes())).collect();
    for chunk in ids.chunks(1_000) {
        let jobs = chunk.iter().map(|id| Job { id: *id, ..Job::default() }).collect();
        send(&mut machine, &Command::Enqueue { specs: vec![Spec::default()], jobs });
    }
    let child =
        Job { id: wire::id("child"), parents: ids.iter().map(|id| (*id, 2, false)).collect(), ..Job::default() };
    send(&mut machine, &Command::Enqueue { specs: vec![Spec::default()], jobs: vec![child] });
    for (done, chunk) in ids.chunks(1_000).enumerate() {
        let state = machine.job(wire::id("child")).expect("it is there").0.state;
        assert_eq!(state, State::Awaiting, "after {done} thousand");
        send(&mut machine, &Command::Cancel { ids: chunk.to_vec(), reason: String::new() });
    }
    assert_eq!(machine.job(wire::id("child")).expect("it is there").0.state, State::Enqueued);
    assert_eq!(machine.audit(), Ok(()));
}

/// A shuffle whose first part failed: each of the others has a thousand edges, and no command takes all of them out.
#[test]
fn jobs_with_many_edges_leave_memory_in_several_commands() {
    let (mut machine, mut send) = (Machine::newest(), sender());
    let ids: Vec<JobId> = (1..=1_050u128).map(|number| JobId(number.to_be_bytes())).collect();
    let (mappers, reducers) = ids.split_at(1_000);
    let jobs = mappers.iter().map(|id| Job { id: *id, ..Job::default() }).collect();
    send(&mut machine, &Command::Enqueue { specs: vec![Spec::default()], jobs });
    for id in reducers {
        let parents = mappers.iter().map(|id| (*id, 0, false)).collect();
        let jobs = vec![Job { id: *id, parents, ..Job::default() }];
        send(&mut machine, &Command::Enqueue { specs: vec![Spec::default()], jobs });
    }
    send(&mut machine, &Command::Cancel { ids: vec![mappers[0]], reason: String::new() });
    assert_eq!(machine.tally().count(State::Cancelled), 51);
    let upto = machine.finished_upto();
    let mut commands = 0;
    while machine.evicted_upto() < upto {
        send(&mut machine, &Command::Evict(upto));
        commands += 1;
    }
    assert_eq!((commands, machine.len()), (4, 999), "sixteen or so at a time");
    assert_eq!(machine.audit(), Ok(()));
}

/// Mistakes that such a machine could make, and that the recount tells of: the simulator's checkers rely on it.
#[test]
fn j11_each_planted_mistake_is_found() {
    let steps = || {
        let job = |name: &str, parents: &[&str], batch: Option<&str>| Job {
            id: wire::id(name),
            parents: parents.iter().map(|parent| (wire::id(parent), 0, false)).collect(),
            batch: batch.map(wire::id),
            ..Job::default()
        };
        let spec = Spec { max_crashes: 1, ..Spec::default() };
        let jobs =
            vec![job("a", &[], None), job("b", &[], Some("X")), job("c", &["a", "b"], None), job("d", &["b"], None)];
        [
            Command::Batch(Batch::Open(wire::id("X"), "night".into(), None)),
            Command::Enqueue { specs: vec![spec], jobs },
            Command::Claim {
                session: 1,
                queues: vec![("default".into(), 1)],
                strict: false,
                functions: vec!["f".into()],
                max: 2,
            },
            Command::Finish(vec![(wire::id("a"), 4, End::Succeeded(None))]),
            Command::Finish(vec![(wire::id("b"), 5, End::Crashed("Killed".into()))]),
            Command::Requeue(vec![wire::id("b")]),
        ]
    };
    let play = |bug| {
        plant(bug);
        let mut machine = Machine::newest();
        let open = Command::Open { ttl: 15_000, kind: "worker".into(), host: "box".into() };
        let found = [open].into_iter().chain(steps()).zip(1..).find_map(|(command, index)| {
            let request = wire::request(0, 0, 0, &command);
            let reply = machine.apply(LogIndex(index), Millis(1), &request, &mut Effects::default());
            assert!(wire::reply(&reply.expect("it is known")).1.is_ok(), "{command:?}");
            machine.audit().err()
        });
        plant(None);
        found
    };
    assert_eq!(play(None), None);
    for bug in [Bug::SettleTwice, Bug::OrphanAfterCrash, Bug::RequeuedCountsTwice] {
        assert!(play(Some(bug)).is_some(), "{bug:?} is not found");
    }
}
