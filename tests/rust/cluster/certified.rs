//! Members whose certificates say which of them they are.

use raftwork::base::codec::Writer;
use raftwork::machine;
use raftwork::net::packet::{encode, Frame};
use raftwork::net::pki::NewKey;
use raftwork::net::{connect, Certified, Frames};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;

use super::levels::hello;
use super::*;

const SHOP: ClusterId = ClusterId([9; 16]);
/// No member's.
const NOBODY: u64 = 4_711;

const JOIN: u8 = 7;
const RENEW: u8 = 8;
const WELCOME: u8 = 65;
const REFUSED: u8 = 66;
const RENEWED: u8 = 72;

/// Three members with files of their own, which were made before any of them had an id. The first has the authority's key.
struct Shop {
    cluster: Cluster,
    tls: Vec<Arc<Tls>>,
    /// With a certificate that names no member.
    unnamed: Security,
}

impl Shop {
    fn new() -> Self {
        let mut cluster = Cluster::unopened(3, Told::default());
        let authority = Authority::create(SHOP).unwrap();
        let certify = |name: String| {
            let dir = cluster.dir.path().join(name);
            let files = authority.issue_node(&[]).unwrap().save(&dir, "node").unwrap();
            Tls::from_files(files.authority, files.certificate, files.key).unwrap()
        };
        let tls: Vec<_> = (0..3).map(|number| certify(format!("tls{number}"))).collect();
        let unnamed = Security::Tls(certify("unnamed".into()));
        let key = cluster.dir.path().join("authority");
        authority.save(&key).unwrap();
        std::fs::copy(key.join("ca.key"), cluster.dir.path().join("tls0/ca.key")).unwrap();
        cluster.securities = tls.iter().cloned().map(Security::Tls).collect();
        cluster.open_all();
        cluster.wait_for_voters(3);
        let shop = Self { cluster, tls, unnamed };
        shop.wait_for_names();
        shop
    }

    /// Until each has a certificate with its id.
    fn wait_for_names(&self) {
        until(|| (0..3).all(|number| self.named(number) == Some(self.cluster.node(number).id())));
    }

    fn named(&self, number: usize) -> Option<NodeId> {
        self.tls[number].own().unwrap().node
    }

    fn security(&self, number: usize) -> Security {
        Security::Tls(self.tls[number].clone())
    }

    /// What a member answers to a first frame.
    fn ask(&self, number: usize, security: &Security, frame: Vec<u8>) -> Frame {
        let (stream, _) = connect(&self.cluster.addresses[number], security, Instant::now() + PATIENCE).unwrap();
        stream.write_first(frame).unwrap();
        let mut frames = Frames::new();
        loop {
            match frames.take().unwrap() {
                Some(frame) => return frame,
                None => assert!(frames.fill(&mut &stream).unwrap(), "it ended"),
            }
        }
    }

    fn id(&self, number: usize) -> u64 {
        self.cluster.node(number).id().0
    }
}

#[test]
fn the_key_of_one_member_is_of_no_use_to_speak_as_another() {
    let shop = Shop::new();
    let stolen = shop.security(1);
    let say = |security, from| shop.ask(0, security, hello(from, shop.cluster.node(0), 1, 1));
    for from in [shop.id(2), NOBODY] {
        let refused = say(&stolen, from);
        let why = String::from_utf8(refused.payload).unwrap();
        assert_eq!(refused.kind, REFUSED, "{why}");
        assert!(why.contains(&format!("is that of node {}, so it is not node {from}", shop.id(1))), "{why}");
    }
    // As those of an authority of the user's own.
    assert_eq!(say(&shop.unnamed, NOBODY).kind, WELCOME);
    let leader = shop.cluster.leader();
    let thief = (leader + 1) % 3;
    let mut wish = Writer::new();
    wish.array(8).u64(NOBODY).str("thief").str("127.0.0.1:1").str("127.0.0.1:2");
    wish.u64(machine::LEVEL).str("9.9.9").u64(1).u64(1);
    let joins = || encode(JOIN, 0, wish.as_bytes()).unwrap();
    let refused = shop.ask(leader, &shop.security(thief), joins());
    let why = String::from_utf8(refused.payload).unwrap();
    assert_eq!(refused.kind, REFUSED, "{why}");
    assert!(why.contains(&format!("is that of node {}, so it is not node {NOBODY}", shop.id(thief))), "{why}");
    assert_ne!(shop.ask(leader, &shop.unnamed, joins()).kind, REFUSED, "the wish itself is a good one");
}

#[test]
fn the_certificate_of_one_member_is_renewed_for_no_other() {
    let shop = Shop::new();
    let renew = |security, node: Option<u64>| {
        let mut asked = Writer::new();
        asked.raw(&NewKey::generate().unwrap().request(&[]).unwrap());
        if let Some(node) = node {
            asked.u64(node);
        }
        shop.ask(0, security, encode(RENEW, 0, asked.as_bytes()).unwrap())
    };
    let one = shop.security(1);
    for other in [0, 2] {
        let refused = renew(&one, Some(shop.id(other)));
        assert_eq!(refused.kind, REFUSED);
        assert!(String::from_utf8(refused.payload).unwrap().contains("is not renewed for node"));
    }
    // Its own, also as an older version asks; and that of its next directory.
    for node in [Some(shop.id(1)), None, Some(NOBODY)] {
        let renewed = renew(&one, node);
        assert_eq!(renewed.kind, RENEWED);
        assert_eq!(node_in(&renewed.payload), node.or(Some(shop.id(1))).map(NodeId));
    }
    assert_eq!(node_in(&renew(&shop.unnamed, None).payload), None);
}

/// Which node a certificate names.
fn node_in(pem: &[u8]) -> Option<NodeId> {
    let certificate = CertificateDer::from_pem_slice(pem).unwrap();
    Certified::of(&certificate).unwrap().node
}

#[test]
fn d5_a_node_with_a_new_directory_gets_a_certificate_for_its_new_id() {
    let mut shop = Shop::new();
    payload(&settle(shop.cluster.node(0), enqueue(job(1), 64)));
    let lost = 1 + usize::from(shop.cluster.leader() == 1);
    let id = shop.cluster.node(lost).id();
    shop.cluster.close(lost);
    std::fs::remove_dir_all(shop.cluster.config(lost).dir).unwrap();
    shop.cluster.remove(id);
    assert_eq!(shop.named(lost), Some(id));
    shop.cluster.open(lost);
    shop.cluster.wait_for_voters(3);
    shop.wait_for_names();
    let back = shop.cluster.node(lost);
    fresh(back).unwrap();
    assert!(back.id() != id && jobs(back) == 1);
}

#[test]
fn a_node_with_a_new_directory_and_the_certificate_of_the_old_one_is_told_what_it_lacks() {
    let mut shop = Shop::new();
    let lost = 1 + usize::from(shop.cluster.leader() == 1);
    let id = shop.cluster.node(lost).id();
    shop.cluster.close(lost);
    shop.cluster.remove(id);
    std::fs::remove_dir_all(shop.cluster.config(lost).dir).unwrap();
    std::fs::remove_file(shop.cluster.dir.path().join("tls0/ca.key")).unwrap();
    let mut config = shop.cluster.config(lost);
    config.cluster.as_mut().unwrap().patience = Duration::from_millis(300);
    let Err(Error::Busy { holder, .. }) = Node::open(config) else { panic!("it joined") };
    assert!(holder.contains(&format!("that of node {id}, whose data are not here")), "{holder}");
    assert!(holder.contains("ca.key"), "{holder}");
}
