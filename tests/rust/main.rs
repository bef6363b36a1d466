//! One test binary: linking once is what makes the suite quick. Each module is one subject.

extern crate _core as raftwork;

mod architecture;
mod archive;
mod attach;
mod backup;
mod client;
mod cluster;
mod consensus;
mod crash;
mod disk_faults;
mod doctor;
mod far;
mod flips;
mod flows;
mod fuzz;
mod fuzz_machine;
mod golden;
mod limits;
mod lines;
mod members;
mod membership;
mod net_packet;
mod net_tcp;
mod net_tls;
mod node;
mod promises;
mod properties;
mod reads;
mod replica;
mod requests;
mod scripts;
mod storage;
mod takeover;
mod views;
mod web;
mod wire;
