//! Clusters that lose what no other cluster loses, and what must hold of it: D4, D5, L6, A1, and that nothing else is lost.
//!
//! They run with the faults of all others, and besides, by plan:
//! * a leader commits its own removal, which the leader before it has proposed;
//! * a disk is lost, its machine begins with an empty one under its old id, and is asked for its vote by those that lack
//!   what it had, while nobody else is there who has it;
//! * the state of one member is damaged in memory. Until it is found, nobody hears an answer of it: those are not promised to
//!   be right. Its place is taken by another member;
//! * a disk puts the newest write of a log further behind, and loses its power right after that;
//! * a minority of the members dies and stays dead, while the others and their clients go on.
//!
//! One at a time, and only while all voters have whole data: nobody survives the loss of a majority. After a loss no power is
//! cut and no log damaged until its place is taken, see `is_short`.

use std::collections::{BTreeSet, VecDeque};
use std::panic::catch_unwind;

use raftwork::base::planted::Bug;
use raftwork::base::{Error, JobId};
use raftwork::consensus::MemberChange;
use raftwork::disk::fake::{Lie, Op};
use raftwork::machine::{self, Effects};

use crate::cluster::{Cluster, Event};
use crate::network::Place;
use crate::node::{Loss, Ticket};
use crate::operator::Goal;
use crate::random::Random;
use crate::wire::{self, Command, Job, Spec};
use crate::{fleet, number, rest, Micros, SECOND};

/// Mistakes that only these clusters meet.
pub const BUGS: [Bug; 4] = [Bug::AmnesiacVote, Bug::RemovedLeaderStays, Bug::IgnoreDigest, Bug::GiveDisputed];

/// How long the members may take in the calm to find damage, to replace whom they lost, and to be whole before some die.
const REPAIR: Micros = 60 * SECOND;
/// Sectors by which a write is put further behind, at most.
const BEHIND_MAX: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    LeaderRemoved,
    DiskEmpty,
    StateDamaged,
    WrittenBehind,
}

use Situation::*;

/// What happens next.
#[derive(Debug)]
pub enum Step {
    /// What is planned.
    Next,
    /// The disk of `victim` goes, and so does everybody who has what those `behind` lack.
    Forget { victim: usize, behind: Vec<usize> },
    /// These machines are back, and the process on the empty disk ends.
    Remember { victim: usize, away: Vec<usize> },
}

#[derive(Debug, Default)]
pub struct Losses {
    plan: VecDeque<Situation>,
    /// In the end a minority dies.
    buries: bool,
    pub seen: Seen,
}

/// What came about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Leaders that committed their own removal.
    leaders: u64,
    /// Disks in whose place there was an empty one.
    disks: u64,
    /// States that were damaged, and members that stopped over it. The others came back without the damage.
    states: u64,
    quarantined: u64,
    /// Members that a person removed, as no majority could tell whose state is damaged.
    decided: u64,
    /// Logs that were refused as their newest write lay further behind.
    pub behind: u64,
    /// Members that stayed dead, and answers of the others since.
    dead: u64,
    answers: u64,
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.leaders += other.leaders;
        self.disks += other.disks;
        self.states += other.states;
        self.quarantined += other.quarantined;
        self.decided += other.decided;
        self.behind += other.behind;
        self.dead += other.dead;
        self.answers += other.answers;
    }
}

impl Losses {
    fn planned(random: &mut Random) -> Self {
        let all = [LeaderRemoved, DiskEmpty, StateDamaged, WrittenBehind];
        let mut plan: Vec<Situation> = all.into_iter().filter(|_| random.chance(700)).collect();
        for place in (1..plan.len()).rev() {
            plan.swap(place, random.below(place as u64 + 1) as usize);
        }
        Self { plan: plan.into(), buries: random.chance(600), seen: Seen::default() }
    }
}

impl Cluster {
    pub fn lose(&mut self, step: Step) {
        match step {
            Step::Next => self.lose_next(),
            Step::Forget { victim, behind } => self.forget(victim, &behind),
            Step::Remember { victim, away } => self.remember(victim, &away),
        }
    }

    fn lose_next(&mut self) {
        if self.calm {
            self.losses.plan.clear();
        }
        let lost = match self.losses.plan.pop_front() {
            Some(situation) => {
                let lost = match situation {
                    LeaderRemoved => self.remove_the_next_leader(),
                    DiskEmpty => self.begin_to_forget(),
                    StateDamaged => self.damage_a_state(),
                    WrittenBehind => self.write_behind(),
                };
                // Another time, if it is not possible now.
                self.losses.plan.extend((!lost).then_some(situation));
                lost
            }
            None if self.losses.buries => self.bury_a_minority(),
            None => return,
        };
        let delay = if lost { self.random.between(1_300_000, 3_000_000) } else { self.random.between(50_000, 300_000) };
        self.after(delay, Event::Lose(Step::Next));
    }

    /// Whether all is lost that was to be, and everybody who is there has whole data.
    fn is_over(&self) -> bool {
        let is_well = |loss: Option<Loss>| matches!(loss, None | Some(Loss::Machine));
        self.losses.plan.is_empty() && !self.losses.buries && self.nodes.iter().all(|node| is_well(node.loss))
    }

    /// Whether a loss is one of a minority now: of so many voters nothing else is lost or in doubt.
    fn may_lose(&self) -> bool {
        self.voters().len() >= 3 && self.is_sound() && !self.is_changing()
    }

    /// No fault that was planned before may tear a log now: whoever doubts its own needs the answer of all others.
    fn heal_disks(&self) {
        self.nodes.iter().for_each(|node| node.disk.heal());
    }

    /// Its process is gone, and nobody starts it.
    fn take_away(&mut self, node: usize) {
        self.nodes[node].disk.process_ends();
        self.nodes[node].stop();
        self.nodes[node].loss = Some(Loss::Machine);
    }

    // -- a leader that commits its own removal --------------------------------------------------------------------

    /// The leader proposes to remove a follower, which alone hears of that, and is gone. The others need the vote of that one,
    /// whose log is the longest.
    fn remove_the_next_leader(&mut self) -> bool {
        let (voters, leader) = (self.voters(), self.leader());
        let Some(leader) = leader.filter(|_| self.may_lose()) else { return false };
        let next = self.dispensable(voters.len() - 1);
        let Some(next) = next.filter(|next| *next != leader && voters.contains(next)) else { return false };
        self.note(format!("node {leader} removes node {next}, which alone hears of it, and is gone then"));
        let others: Vec<usize> = voters.iter().copied().filter(|node| ![leader, next].contains(node)).collect();
        others.iter().for_each(|other| self.network.cut_off(Place::Node(leader), Place::Node(*other)));
        self.network.cut_off(Place::Node(next), Place::Node(leader));
        for other in others.into_iter().skip(voters.len() / 2) {
            self.pause_for(other, 4 * SECOND);
        }
        self.want(Goal::Gone(next));
        if let Some(new) = self.newcomer() {
            self.want(Goal::Voter(new));
        }
        let change = MemberChange::Remove(self.nodes[next].id);
        self.act(leader, |replica, turn| replica.change_members(change, false, Ticket::Change(change), turn));
        let delay = self.random.between(5_000, 40_000);
        self.after(delay, Event::Abandon(leader));
        true
    }

    /// A node learnt that it was removed.
    pub fn removes_its_leader(&mut self, node: usize) {
        let it = &self.nodes[node];
        let term = it.replica.as_ref().map(|replica| replica.term());
        self.losses.seen.leaders += u64::from(term.is_some_and(|term| self.history.led(term) == Some(it.id)));
    }

    // -- an empty disk under an old id ----------------------------------------------------------------------------

    /// Some voters do not hear of what follows; one of those that do will lose its disk.
    fn begin_to_forget(&mut self) -> bool {
        let (mut others, leader) = (self.voters(), self.leader());
        let Some(leader) = leader.filter(|_| self.may_lose()) else { return false };
        let minority = (others.len() - 1) / 2;
        others.retain(|node| *node != leader);
        let Some(at) = others.iter().position(|node| self.is_frail(*node)) else { return false };
        let victim = others.remove(at);
        let first = self.random.below(others.len() as u64) as usize;
        others.rotate_left(first);
        others.truncate(minority);
        self.note(format!("nodes {others:?} do not hear of what node {victim} will forget"));
        let side: BTreeSet<Place> = others.iter().copied().map(Place::Node).collect();
        let everybody = self.everybody();
        self.network.isolate(&side, &everybody, true);
        let delay = self.random.between(200_000, 1_200_000);
        self.after(delay, Event::Lose(Step::Forget { victim, behind: others }));
        true
    }

    fn forget(&mut self, victim: usize, behind: &[usize]) {
        let voters = self.voters();
        let is_so = voters.contains(&victim) && 2 * behind.len() < voters.len() && !self.nodes[victim].leads();
        let new = if is_so && self.may_lose() { self.newcomer() } else { None };
        let Some(new) = new else { return self.heal() };
        let away: Vec<usize> = voters.into_iter().filter(|node| *node != victim && !behind.contains(node)).collect();
        self.note(format!("the disk of node {victim} is an empty one, and nodes {away:?} are gone for a while"));
        self.heal_disks();
        away.iter().for_each(|node| self.take_away(*node));
        let seed = self.random.next();
        self.nodes[victim].lose_disk(seed);
        self.losses.seen.disks += 1;
        self.network.heal();
        self.start(victim);
        self.want(Goal::Swap { old: victim, new });
        let delay = self.random.between(2 * SECOND, 9 * SECOND / 2);
        self.after(delay, Event::Lose(Step::Remember { victim, away }));
    }

    fn remember(&mut self, victim: usize, away: &[usize]) {
        self.note(format!("nodes {away:?} are back, and node {victim} is gone for good"));
        self.take_away(victim);
        (self.nodes[victim].retired, self.nodes[victim].loss) = (true, None);
        for node in away {
            self.nodes[*node].loss = None;
            self.start(*node);
        }
    }

    // -- a state that is damaged in memory ------------------------------------------------------------------------

    /// Something happens to the state of one member only.
    fn damage_a_state(&mut self) -> bool {
        let (voters, leader) = (self.voters(), self.leader());
        let Some(leader) = leader.filter(|_| self.may_lose()) else { return false };
        let node = if self.random.chance(300) { leader } else { *self.random.pick(&voters) };
        let command = if self.random.chance(500) {
            Command::Pause { queue: "default".into(), until: None, reason: String::new() }
        } else {
            let job = Job { id: JobId([0xda; 16]), ..Job::default() };
            Command::Enqueue { specs: vec![Spec::default()], jobs: vec![job] }
        };
        let replica = self.nodes[node].replica.as_ref().expect("all voters are up");
        let applied = replica.applied();
        let mut machine = replica.machine().write();
        let (now, request) = (machine.clock(), wire::request(0, 0, 0, &command));
        machine.apply(applied, now, &request, &mut Effects::default()).expect("an operation that it knows");
        drop(machine);
        self.note(format!("the state of node {node} is damaged behind entry {applied}: {command:?}"));
        self.heal_disks();
        self.nodes[node].loss = Some(Loss::State(applied));
        self.losses.seen.states += 1;
        let third = voters.iter().rfind(|other| **other != node);
        if let Some(third) = third.filter(|_| voters.len() == 3 && self.random.chance(700)) {
            // Until it has the marks, perhaps with a whole state, nobody is the majority that says who is right.
            let delay = self.random.between(2, 6) * SECOND;
            self.pause_for(*third, delay);
        }
        true
    }

    /// Whether this comes from a state that is damaged: what it answers before that is found may be wrong.
    pub fn is_unheard(&self, from: Place, to: Place) -> bool {
        matches!((from, to), (Place::Node(node), Place::Client(_)) if self.nodes[node].damaged_since().is_some())
    }

    /// A member found its state to be another than that of a majority. It is not started again.
    pub fn quarantine(&mut self, node: usize, error: &Error) {
        self.note(format!("node {node} stops for good: {error}"));
        self.take_away(node);
        (self.nodes[node].retired, self.nodes[node].loss) = (true, None);
        self.losses.seen.quarantined += 1;
        match self.newcomer() {
            Some(new) => self.want(Goal::Swap { old: node, new }),
            None => self.want(Goal::Gone(node)),
        }
    }

    /// A person removes whose state is damaged. Where no majority is heard that is the only way out: a member that lacks the
    /// marks lacks the state, and nobody gives it one while it may be the wrong one.
    fn decide(&mut self) {
        let damaged = |node: &usize| self.nodes[*node].damaged_since().is_some();
        let Some(node) = (0..self.nodes.len()).find(damaged) else { return };
        let replicas = || self.nodes.iter().filter_map(|node| node.replica.as_ref());
        if replicas().all(|replica| replica.doubts().is_none() && replica.odd_members().is_empty()) {
            return;
        }
        self.note(format!("somebody decides that the state of node {node} is the one that is damaged"));
        self.losses.seen.decided += 1;
        self.operator.goals.push_front(Goal::Gone(node));
        if let Some(new) = self.newcomer() {
            self.want(Goal::Voter(new));
        }
    }

    // -- a write in another place ---------------------------------------------------------------------------------

    fn write_behind(&mut self) -> bool {
        let frail = |node: &usize| self.is_frail(*node) && self.nodes[*node].is_up() && self.nodes[*node].lie.is_none();
        let Some(node) = self.voters().into_iter().find(frail).filter(|_| !self.is_short()) else { return false };
        let number = self.nodes[node].disk.count(Op::Write) + self.random.between(1, 4);
        let by = self.random.between(1, BEHIND_MAX) as usize;
        self.note(format!("the disk of node {node} will put write {number} {by} sectors further behind"));
        self.nodes[node].disk.lie(number, Lie::Behind(by));
        self.nodes[node].lie = Some(number);
        true
    }

    /// After a turn: the power goes before anything is written behind such a write.
    pub fn cut_behind_lie(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.lie.is_some_and(|number| it.disk.count(Op::Write) >= number) {
            it.lie = None;
            self.after(0, Event::PowerCut(node));
        }
    }

    // -- members that stay dead -----------------------------------------------------------------------------------

    /// As many members die as may, often the leader among them.
    fn bury_a_minority(&mut self) -> bool {
        let mut voters = self.voters();
        if voters.len() < 3 {
            self.losses.buries = self.is_to_change(); // There may be more soon.
            return false;
        }
        let learns = self.operator.promotes && !self.log.members().learners.is_empty();
        let is_lost = self.nodes.iter().any(|node| node.loss.is_some());
        let Some(leader) = self.leader() else { return false };
        if is_lost || learns || self.is_to_change() || !self.is_sound() {
            return false;
        }
        let first = self.random.below(voters.len() as u64) as usize;
        voters.rotate_left(first);
        if self.random.chance(500) {
            voters.sort_by_key(|node| *node != leader);
        }
        let minority = (voters.len() - 1) / 2;
        voters.truncate(minority);
        self.note(format!("nodes {voters:?} die and stay dead"));
        self.heal_disks();
        voters.iter().for_each(|node| self.take_away(*node));
        (self.losses.buries, self.losses.seen.dead) = (false, voters.len() as u64);
        self.losses.seen.answers = self.ledger.answers;
        true
    }

    /// Whether everything that was asked before was answered.
    fn is_answered(&self, before: Micros) -> bool {
        self.clients.iter().all(|client| client.asked.as_ref().is_none_or(|asked| asked.began >= before))
    }
}

/// A cluster that loses what is planned.
fn run(seed: u64) -> Seen {
    machine::be_newer(false);
    let mut random = Random::new(seed ^ 0x1055);
    let nodes = *random.pick(&[3, 3, 5]);
    let (clients, workers) = (random.between(1, 3) as usize, random.between(1, 2) as usize);
    let mut cluster = Cluster::new(seed, nodes, clients, workers);
    cluster.losses = Losses::planned(&mut random);
    cluster.after(2 * SECOND, Event::Lose(Step::Next));
    rest::trouble(&mut cluster);
    // Without work there is no mark that shows damage, and nothing that the dead are missing for.
    cluster.clients.iter_mut().for_each(|client| client.quiet = false);
    let (mut decides_at, latest) = (cluster.now + REPAIR / 2, cluster.now + REPAIR);
    while !cluster.is_over() {
        if cluster.now > decides_at {
            cluster.decide();
            decides_at = latest;
        }
        let losses = cluster.nodes.iter().filter_map(|node| Some((node.id, node.loss?)));
        let losses: Vec<_> = losses.collect();
        assert!(cluster.now < latest, "L6: nobody finds out, or heals it: {losses:?}\n{}", rest::state(&cluster));
        let next = cluster.now + SECOND / 4;
        cluster.run_until(next);
    }
    let next = cluster.now + random.between(2, 4) * SECOND;
    cluster.run_until(next);
    cluster.clients.iter_mut().for_each(|client| client.quiet = true);
    rest::come_to_rest(&mut cluster, |cluster| cluster.is_answered(next));
    let seen = &mut cluster.losses.seen;
    seen.answers = if seen.dead > 0 { cluster.ledger.answers - seen.answers } else { 0 };
    *seen
}

/// D5: a member without its data does not vote. D4: a write in another place is found. L6: damage of one state is found, and
/// does not spread from then on (what it gives away before is taken from it, see `transfers`). A1: a minority that stays dead stops nobody, and nothing of what was acknowledged is lost with it.
#[test]
fn d4_d5_l6_a1_what_a_minority_loses_the_others_keep() {
    if let Some(seed) = number("RAFTWORK_SIM_LOSS_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let seeds = number("RAFTWORK_SIM_LOSS_SEEDS").unwrap_or(100);
    let mut sum = Seen::default();
    for seed in 0..seeds {
        let seen = catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} failed; run it again with RAFTWORK_SIM_LOSS_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
        sum.add(&seen);
    }
    println!("{seeds} seeds: {sum:?}");
    let few = [sum.leaders, sum.disks, sum.quarantined, sum.behind].into_iter().min().unwrap_or(0);
    let is_enough = seeds < 100 || 10 * few >= seeds && 2 * sum.dead >= seeds && sum.answers > 50 * seeds;
    assert!(is_enough, "the simulation of losses lost its teeth: {sum:?}");
}

/// Every mistake that only a loss brings to light is found by one of the first seeds.
#[test]
fn planted_bugs_of_losses_are_found() {
    fleet::find_each(&BUGS, 100, run);
}
