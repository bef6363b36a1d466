//! Asks one member how it is: that one, whether or not it leads or has a majority behind it.

use super::patience::{Patience, Slot};
use crate::attach::message::Greeting;
use crate::attach::remote::{Question, Remote, FAR_GREETING_WAIT};
use crate::attach::View;
use crate::base::codec::{Reader, Writer};
use crate::base::{GroupId, Result};
use crate::net::{Address, Secret, Security};

/// The question "who are the members".
const VIEW_MEMBERS: u64 = 9;

/// What a member says of itself: `[health, members]`, see `node::health` and question 9 of `machine::view`.
///
/// # Errors
/// `Disk`: nobody listens there. `TimedOut`: it does not answer. `Foreign`, `Invalid`: it refuses this process.
pub fn look_at(
    address: &Address,
    security: &Security,
    token: Option<Secret>,
    patience: &mut Patience<'_>,
) -> Result<Vec<u8>> {
    let own = Greeting { pid: u64::from(std::process::id()), cluster: None, group: GroupId(0), leader: None, token };
    let remote = Remote::connect_far(address, security, own, FAR_GREETING_WAIT, || {})?;
    let (health, members) = (Slot::new(), Slot::new());
    remote.ask(Question::Health(health.filler()));
    remote.ask(Question::View(View::of_any(question().as_bytes()), members.filler()));
    let said = health.wait(patience).and_then(|health| Ok((health, members.wait(patience)?)));
    remote.end();
    let (health, members) = said?;
    let mut reader = Reader::new(&members);
    reader.array_of(3, "a view")?;
    reader.u64()?;
    reader.raw()?;
    let mut out = Writer::new();
    out.array(2).raw(&health).raw(reader.rest());
    Ok(out.into_bytes())
}

fn question() -> Writer {
    let mut question = Writer::new();
    question.array(1).u64(VIEW_MEMBERS);
    question
}
