//! Certificates over the network: for whoever shows an invitation, and new ones for members whose own grow old.
//!
//! ```text
//! invite    an operator's order ──> the digest of a secret in the log ──> one line of text for the joiner
//! enroll    the joiner knows the authority's fingerprint, and so the cluster, before it shows the secret;
//!           it made its key itself ──> the invitation is used up in the log ──> certificate
//! renew     a new key; signed here if the authority's key is here, else by the member that has it
//! ```
//!
//! Who joins has no id before it has data, so the certificate of an invitation, and that of a cluster's first machine, says only
//! that it is a node's. The first look at it, when the node has begun or joined, renews it, and from then on it is good for this
//! node alone.
//!
//! What holds
//! * The authority's key is looked for beside its certificate (`ca.key` beside the file of `tls_ca`), only when something
//!   is to be signed. A machine without it signs nothing.
//! * A certificate of one member is renewed for no other member, whoever asks with it. For an id that is no member's it is: that of
//!   a node whose directory is new, as it is when its disk was lost.
//! * An invitation is used up before its certificate is made, in the log: whoever comes second gets nothing, at whichever
//!   node. Whoever loses the answer asks for another invitation.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{own_request, Shared};
use crate::base::codec::{Reader, Writer};
use crate::base::{Error, Millis, NodeId, Result};
use crate::machine::Member;
use crate::net::pki::{NewKey, DAYS};
use crate::net::{Authority, Certified, Fingerprint, Invitation, Lifetime, Role, Security, Tls};

/// The commands, see `machine::command`.
const PUT_INVITATION: u64 = 22;
const USE_INVITATION: u64 = 23;

/// How long a command may take.
const COMMAND_WAIT: Duration = Duration::from_secs(5);
/// A certificate is renewed when less than this part of the usual life is left.
const RENEW_MS: u64 = DAYS * 86_400_000 / 3;
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

impl Shared {
    fn own_tls(&self) -> Result<&Arc<Tls>> {
        match self.config.cluster.as_ref().map(|cluster| &cluster.security) {
            Some(Security::Tls(tls)) => Ok(tls),
            _ => Err(Error::Invalid(
                "this node has no certificates, so there is nothing to invite to; `raftwork cluster init` makes a cluster \
                 with certificates"
                    .into(),
            )),
        }
    }

    /// The cluster's authority, if its key is on this machine.
    fn authority(&self) -> Result<Authority> {
        let tls = self.own_tls()?;
        let ca = &tls.files().ok_or_else(|| Error::Invalid("this node has no certificate yet".into()))?.authority;
        let dir = ca.parent().unwrap_or(Path::new("."));
        if !dir.join("ca.key").exists() {
            return Err(Error::Invalid(format!(
                "the key of the cluster's authority is not on the machine of this node ({} is not there); ask the node \
                 beside which it lies, or bring the key there for as long as it is needed",
                dir.join("ca.key").display()
            )));
        }
        let authority = Authority::load(dir)?;
        match Fingerprint::of_pem(&authority.pem())? == Fingerprint::of_pem(&read_text(ca)?)? {
            true => Ok(authority),
            false => Err(Error::Invalid(format!("{} is not the authority of {}", dir.display(), ca.display()))),
        }
    }

    /// Makes an invitation for a role, and answers its text.
    pub(super) fn invite(self: &Arc<Self>, actor: &str, role: &str) -> Result<String> {
        let authority = self.authority()?;
        parse_role(role)?;
        let config = self.config.cluster.as_ref().ok_or(Error::Closed)?;
        let fingerprint = Fingerprint::of_pem(&authority.pem())?;
        let invitation = Invitation::create(fingerprint, config.clients_reached()?, self.judging_time())?;
        let mut command = Writer::new();
        command.array(5).u64(PUT_INVITATION).str(actor).bin(&Invitation::digest(&invitation.secret())).str(role);
        command.u64(invitation.expires_at.0);
        self.command(&command)?;
        Ok(invitation.text())
    }

    /// What the joiner gets for `[secret, request]`: `[authority, certificate, role, [raft address], [client address]]`.
    ///
    /// # Errors
    /// `Unauthenticated`: the invitation is used, has expired, or never was. `Invalid`: nothing can be signed here.
    pub(super) fn enroll(self: &Arc<Self>, asked: &[u8]) -> Result<Vec<u8>> {
        let mut reader = Reader::new(asked);
        reader.array_of(2, "what a joiner shows")?;
        let (secret, request) = (reader.bin()?, reader.bin()?);
        reader.end()?;
        let digest = Invitation::digest(secret);
        let unknown = || {
            Error::Unauthenticated(
                "the invitation is used already, has expired, or is another cluster's; ask for another with `raftwork \
                 cluster invite`"
                    .into(),
            )
        };
        let invited = self.machine.read().invited(&digest).cloned().ok_or_else(unknown)?;
        if self.judging_time() >= invited.expires {
            return Err(unknown());
        }
        // What cannot be signed must not cost the invitation.
        let (authority, role) = (self.authority()?, parse_role(&invited.role)?);
        let certificate = authority.sign_request(request, &role, Lifetime::days(DAYS))?;
        let mut command = Writer::new();
        command.array(3).u64(USE_INVITATION).str("invitation").bin(&digest);
        if Reader::new(&self.command(&command)?).nil() {
            return Err(unknown());
        }
        log::info!("an invitation was used: a certificate for {role}");
        let machine = self.machine.read();
        let mut out = Writer::new();
        out.array(5).str(&authority.pem()).str(&certificate).str(&invited.role);
        let addresses: [fn(&Member) -> &str; 2] = [|member| &member.raft, |member| &member.client];
        for address in addresses {
            out.array(machine.members().count());
            machine.members().for_each(|member| {
                out.str(address(member));
            });
        }
        Ok(out.into_bytes())
    }

    /// A new certificate for this node, in its files, as `actor` wants. Answers until when it is good.
    pub(super) fn renew(self: &Arc<Self>, actor: &str) -> Result<Millis> {
        let tls = self.own_tls()?;
        let key = NewKey::generate()?;
        let request = key.request(&[])?;
        let certificate = match self.authority() {
            Ok(authority) => authority.sign_node_request(&request, Some(self.identity.node), Lifetime::days(DAYS))?,
            Err(nearby) => self.ask_to_sign(&request).map_err(|others| {
                Error::Invalid(format!("no member could sign a new certificate: here, {nearby}; others, {others}"))
            })?,
        };
        tls.replace(&key.pem(), &certificate)?;
        let until = tls.expires_at().unwrap_or_default();
        log::info!("the certificate of this node was renewed; it is good until {} ms after 1970", until.0);
        let days = until.since(self.config.clock.wall()).0 / 86_400_000;
        self.note(actor, "certificate.renew", &format!("of {}, good for {days} days", self.identity.node));
        Ok(until)
    }

    /// Signs for another member: `request`, and the id of its node if it is of a version that says it. The port for members
    /// lets in nobody else.
    pub(super) fn sign_for_member(&self, asked: &[u8], identity: Option<&Certified>) -> Result<String> {
        let mut reader = Reader::new(asked);
        let request = reader.raw()?;
        let said = if reader.is_empty() { None } else { Some(NodeId(reader.u64()?)) };
        let node = match (identity.and_then(|certified| certified.node), said) {
            (Some(held), Some(said)) if held != said && self.is_member(said) => {
                return Err(Error::Foreign(format!("a certificate of node {held} is not renewed for node {said}")));
            }
            (held, said) => said.or(held),
        };
        self.authority()?.sign_node_request(request, node, Lifetime::days(DAYS))
    }

    /// Sees to it that a node with a new directory, and so a new id, does not come with the certificate of the old one: the
    /// others would refuse it.
    pub(super) fn leave_old_certificate(self: &Arc<Self>) -> Result<()> {
        let own = self.own_tls().ok().and_then(|tls| tls.own());
        match own.and_then(|own| own.node).filter(|node| *node != self.identity.node) {
            None => Ok(()),
            Some(node) => self.renew("node").map(drop).map_err(|error| {
                Error::Foreign(format!(
                    "the certificate of this node is that of node {node}, whose data are not here, and it gets no other: \
                     {error}"
                ))
            }),
        }
    }

    /// What is looked at every hour.
    pub(super) fn hour_loop(self: &Arc<Self>) {
        loop {
            if let Some(Security::Insecure) = self.config.cluster.as_ref().map(|cluster| &cluster.security) {
                log::warn!(
                    "connections of this node are not protected (insecure): whoever reaches its ports can read, change and \
                     run jobs"
                );
            }
            self.mind_certificate();
            if !self.ticks.sleep(LOOK_EVERY) {
                return;
            }
        }
    }

    /// Renews when little of the life is left, or when the certificate does not say which node this is, at the look every hour;
    /// where no key is near, says so.
    pub(super) fn mind_certificate(self: &Arc<Self>) {
        let Ok(tls) = self.own_tls() else { return };
        let Some(own) = tls.own().filter(|own| own.role == Role::Node) else { return };
        let left = tls.expires_at().unwrap_or_default().since(self.config.clock.wall());
        let (ends, is_own) = (left.0 < RENEW_MS, own.node == Some(self.identity.node));
        if !ends && is_own {
            return;
        }
        if let Some(other) = own.node.filter(|node| *node != self.identity.node && self.is_member(*node)) {
            // To renew it would take it from that one.
            return log::error!(
                "the certificate files of this node are those of node {other}, a member too, so the others refuse this one: \
                 each node needs files of its own (tls_cert, tls_key)"
            );
        }
        let Err(error) = self.renew("node") else { return };
        match own.node {
            _ if ends => log::warn!("the certificate of this node ends in {} days, and: {error}", left.0 / 86_400_000),
            Some(other) => {
                log::error!(
                    "the certificate of this node is that of node {other}, so the others refuse it, and: {error}"
                );
            }
            // It is as good as those of an authority of the user's own.
            None => log::debug!("the certificate of this node does not say which node it is, and: {error}"),
        }
    }

    /// Puts a command into the log and gives what it answers.
    pub(super) fn command(self: &Arc<Self>, command: &Writer) -> Result<Vec<u8>> {
        let reply = self.submit(&own_request(command), Some(Instant::now() + COMMAND_WAIT), &mut || Ok(()))?;
        let mut reader = Reader::new(&reply);
        reader.array_of(3, "a reply")?;
        let refused = reader.u64()? != 0;
        reader.u64()?;
        if !refused {
            return Ok(reader.rest().to_vec());
        }
        reader.array()?;
        let (code, message) = (reader.str()?, reader.str()?.to_owned());
        Err(match code {
            "overloaded" => Error::Overloaded(message),
            _ => Error::Invalid(message),
        })
    }
}

/// `node`, or `client/<name>`.
fn parse_role(role: &str) -> Result<Role> {
    match role.strip_prefix("client/") {
        Some(name) => Role::client(name),
        None if role == "node" => Ok(Role::Node),
        None => Err(Error::Invalid(format!("role {role:?}: write node, or client/NAME"))),
    }
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::disk("read", path.display(), &error))
}
