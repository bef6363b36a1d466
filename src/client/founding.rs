//! Making a cluster's first files, and getting those of one more machine with an invitation.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::attach::message;
use crate::attach::wire::{self, Kind};
use crate::base::codec::{Reader, Writer};
use crate::base::{ClusterId, Error, Result};
use crate::net::pki::{Issued, NewKey};
use crate::net::{connect, random, Authority, Certified, Fingerprint, Frames, Invitation, Role, Secret, Security, Tls};

/// How long the member that invited may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(15);

/// A cluster that has files and no node yet.
pub struct Founded {
    pub cluster: ClusterId,
    /// The token that may do everything, once the first node has begun.
    pub token: Secret,
}

/// Makes the authority of a new cluster and the certificate of its first node, as files in a directory that is its owner's
/// alone: `ca.pem`, `ca.key`, `node.pem` and `node.key`.
pub fn found(dir: &Path, names: &[&str]) -> Result<Founded> {
    let (cluster, token) = (ClusterId(random()?), Secret::create()?);
    let authority = Authority::create(cluster)?;
    authority.save(dir)?;
    authority.issue_node(names)?.save(dir, "node")?;
    Ok(Founded { cluster, token })
}

/// What a machine got with an invitation.
pub struct Joined {
    pub certified: Certified,
    /// Where the members listen for each other, and for clients.
    pub raft: Vec<String>,
    pub clients: Vec<String>,
}

/// Makes a key, gets its certificate with an invitation, and writes `ca.pem` and the two files of the role (`node.pem` or
/// `client.pem`, and its key) into a directory that is its owner's alone.
///
/// # Errors
/// `Invalid`: the invitation cannot be read. `Unauthenticated`: it is used or has expired. `Foreign`: whoever answers is
/// not the cluster that it names; it was not shown the secret. `Disk`: nobody answers.
pub fn join(invitation: &str, dir: &Path, names: &[&str]) -> Result<Joined> {
    let invitation = Invitation::parse(invitation)?;
    let key = NewKey::generate()?;
    let mut shown = Writer::new();
    shown.array(2).bin(&invitation.secret()).bin(&key.request(names)?);
    let answer = ask(&invitation, shown.as_bytes())?;
    let mut reader = Reader::new(&answer);
    reader.array_of(5, "what a joiner gets")?;
    let (authority, certificate) = (reader.str()?.to_owned(), reader.str()?.to_owned());
    let role = reader.str()?.to_owned();
    let mut addresses = || (0..reader.array()?).map(|_| reader.str().map(str::to_owned)).collect::<Result<Vec<_>>>();
    let (raft, clients) = (addresses()?, addresses()?);
    if Fingerprint::of_pem(&authority)? != invitation.authority {
        return Err(Error::Foreign("the answer names another authority than the invitation".into()));
    }
    let name = if role == "node" { "node" } else { "client" };
    let files = Issued { authority, certificate, key: key.pem() }.save(dir, name)?;
    // What was written is what a process will read.
    let tls = Tls::from_files(files.authority, files.certificate, files.key)?;
    let certified = tls.own().ok_or(Error::Closed)?;
    if matches!(certified.role, Role::Node) != (name == "node") {
        return Err(Error::Foreign(format!("the certificate is for {}, not for {role}", certified.role)));
    }
    Ok(Joined { certified, raft, clients })
}

fn ask(invitation: &Invitation, shown: &[u8]) -> Result<Vec<u8>> {
    let security = Security::Tls(Tls::joining(invitation.authority));
    let (stream, _) = connect(&invitation.address, &security, Instant::now() + ANSWER_WAIT)?;
    stream.write_first(wire::encode(Kind::Enroll, 0, shown)?)?;
    let mut frames = Frames::new();
    loop {
        if let Some(frame) = frames.take()? {
            return match Kind::of(&frame)? {
                Kind::Enrolled => Ok(frame.payload),
                Kind::Refused => Err(message::decode_error(&frame.payload)),
                kind => Err(Error::Invalid(format!("{kind:?} in place of a certificate"))),
            };
        }
        if !frames.fill(&mut &stream)? {
            return Err(Error::Closed);
        }
    }
}
