//! Other options for jobs that wait.

use super::{list, Command};
use raftwork::base::codec::Writer;

pub(super) fn encode(w: &mut Writer, command: &Command) {
    match command {
        Command::Move(ids, queue) => {
            list(w, 3, 70, ids);
            w.str(queue);
        }
        Command::SetPriority(ids, priority) => {
            list(w, 3, 71, ids);
            w.i64(*priority);
        }
        other => panic!("{other:?} changes no options"),
    }
}
