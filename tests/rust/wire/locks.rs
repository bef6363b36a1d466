//! Commands about locks.

use super::Command;
use raftwork::base::codec::Writer;

pub(super) fn lock(w: &mut Writer, command: &Command) {
    match command {
        Command::Lock(number, name, waits) => w.array(4).u64(30).u64(*number).str(name).bool(*waits),
        Command::Acquire(number, name, mode, waits) => {
            w.array(6).u64(60).u64(*number).str(name);
            mode.encode(w);
            w.bool(*waits)
        }
        Command::Unlock(name, token) => w.array(3).u64(31).str(name).u64(*token),
        Command::GiveUp(number) => w.array(2).u64(32).u64(*number),
        other => panic!("{other:?} is not about locks"),
    };
}
