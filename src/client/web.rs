//! `/livez` and `/readyz` of a process that is no node itself, such as a worker of a cluster.

use std::net::SocketAddr;
use std::sync::Arc;

use super::link::{Link, Owner};
use super::{Client, Holder};
use crate::base::{Error, Result};
use crate::net::web::{Answer, Web};
use crate::net::Address;

impl Client {
    /// Answers probes over HTTP until the client is closed: it lives, and is ready while a node answers for it. Gives where,
    /// with the port that was found if any would do.
    ///
    /// # Errors
    /// `Disk`: it cannot listen there. `Invalid`: the state is in memory, or probes are answered already.
    pub fn serve_health(&self, address: &Address) -> Result<SocketAddr> {
        self.check_process()?;
        let Holder::Link(link) = &self.holder else {
            return Err(Error::Invalid("a state in memory is always there: nobody needs to ask".into()));
        };
        let mut web = self.web.lock();
        if web.is_some() {
            return Err(Error::Invalid("this process answers probes already".into()));
        }
        let link = Arc::downgrade(link);
        let started = Web::start(address, move |path| match path {
            "/livez" => Some(Answer::verdict(true)),
            "/readyz" => Some(Answer::verdict(link.upgrade().is_some_and(|link| is_ready(&link)))),
            _ => None,
        })?;
        Ok(web.insert(started).address())
    }
}

fn is_ready(link: &Link) -> bool {
    match link.owner() {
        Owner::Us(node, _) => node.is_ready(),
        Owner::Other(remote) => !remote.is_ended(),
        Owner::Sought(_) | Owner::Gone(_) => false,
    }
}
