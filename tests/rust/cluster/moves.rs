//! Members that come back at other addresses.

use raftwork::base::codec::Reader;

use super::*;

/// Where the table of the members says that they are, as a node has it.
fn listed(node: &Node) -> Vec<String> {
    let answer = view(node, &[0x91, 9]).unwrap();
    let mut reader = Reader::new(&answer);
    reader.array_of(3, "an answer").unwrap();
    for _ in 0..2 {
        reader.u64().unwrap(); // Of when it is.
    }
    let mut addresses: Vec<String> = (0..reader.array().unwrap())
        .map(|_| {
            reader.array_of(4, "a member").unwrap();
            reader.u64().unwrap();
            reader.str().unwrap();
            let raft = reader.str().unwrap().to_owned();
            reader.str().unwrap();
            raft
        })
        .collect();
    addresses.sort_unstable();
    addresses
}

impl Cluster {
    /// All have the job that was answered before, answer more, and know where all are.
    fn check_moved(&self) {
        let mut wanted: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        wanted.sort_unstable();
        for number in 0..self.addresses.len() {
            let node = self.node(number);
            fresh(node).unwrap();
            assert_eq!(jobs(node), 1);
            until(|| listed(node) == wanted);
        }
        payload(&settle(self.node(1), enqueue(job(2), 64)));
    }

    fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().flatten().map(|node| node.id()).collect()
    }

    fn open_at_new_addresses_that_only_the_last_is_told(&mut self) {
        let old = std::mem::replace(&mut self.addresses, free_addresses(3));
        self.open(2);
        for number in 0..2 {
            let mut config = self.config(number);
            config.cluster.as_mut().unwrap().members = old.clone();
            self.nodes[number] = Some(Node::open(config).unwrap());
        }
    }

    fn close_all(&mut self) {
        (0..self.addresses.len()).for_each(|number| self.close(number));
    }
}

#[test]
fn a_member_comes_back_at_another_address() {
    let mut cluster = Cluster::new(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    let moved = cluster.follower();
    cluster.close(moved);
    cluster.addresses[moved] = free_addresses(1).remove(0);
    cluster.open(moved);
    cluster.check_moved();
}

#[test]
fn all_members_that_come_back_at_other_addresses_find_each_other_by_their_settings() {
    let mut cluster = Cluster::new(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    cluster.close_all();
    cluster.addresses = free_addresses(3);
    (0..3).for_each(|number| cluster.open(number));
    cluster.check_moved();
}

#[test]
fn one_member_that_is_told_where_the_others_are_is_enough() {
    let mut cluster = Cluster::new(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    cluster.close_all();
    cluster.open_at_new_addresses_that_only_the_last_is_told();
    cluster.check_moved();
}

#[test]
fn one_member_that_is_told_where_the_others_are_is_enough_also_if_it_can_not_lead() {
    let mut cluster = Cluster::new(3);
    // The last one lacks a job that the others have.
    cluster.close(2);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    cluster.close(0);
    cluster.close(1);
    cluster.open_at_new_addresses_that_only_the_last_is_told();
    cluster.check_moved();
}

#[test]
fn members_that_changed_places_are_known_by_what_they_say_and_not_by_where_they_are() {
    let mut cluster = Cluster::new(3);
    payload(&settle(cluster.node(0), enqueue(job(1), 64)));
    let ids = cluster.ids();
    cluster.close_all();
    cluster.addresses.rotate_left(1);
    (0..3).for_each(|number| cluster.open(number));
    cluster.check_moved();
    assert_eq!(cluster.ids(), ids);
}
