//! Members that come and go: joining, catching up, promotion, removal, replacement, handing over, and states that differ.

mod changes;
mod clock;
mod digests;
mod full_disk;
mod group;
mod joining;
mod judgements;
mod levels;
mod planted;
mod rollback;
mod suspects;
