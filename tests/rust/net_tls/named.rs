//! Certificates that say which node their owner is, and what is believed of those that do not.

use raftwork::base::NodeId;
use raftwork::net::pki::{Issued, NewKey};

use super::*;

impl Home {
    /// A certificate for one node.
    fn node_of(&self, node: Option<NodeId>) -> Arc<Tls> {
        let key = NewKey::generate().unwrap();
        let request = key.request(&["shop-1"]).unwrap();
        let certificate = self.authority.sign_node_request(&request, node, Lifetime::days(90)).unwrap();
        let issued = Issued { authority: self.authority.pem(), certificate, key: key.pem() };
        let files = issued.save(self.dir.path(), &format!("node-{node:?}")).unwrap();
        Tls::from_files(files.authority, files.certificate, files.key).unwrap()
    }
}

#[test]
fn a_certificate_says_which_node_its_owner_is_and_both_sides_know() {
    let home = Home::new();
    let (tell, told) = channel();
    for node in [Some(NodeId(5)), Some(NodeId(u64::MAX)), None] {
        let tell = tell.clone();
        let security = Security::Tls(home.node_of(node));
        let listener = Listener::start(config(security.clone(), Admit::NODES), move |accepted: Accepted| {
            tell.send(accepted.identity.clone()).unwrap();
            echo(accepted);
        });
        let listener = listener.unwrap();
        let wanted = Some(Certified { cluster: SHOP, role: Role::Node, node });
        let dialer = dial(at(&listener), security.clone(), |_| ());
        dialer.up();
        assert_eq!(told.recv_timeout(WAIT).unwrap(), wanted);
        let (_, other) = connect(&at(&listener), &security, Instant::now() + WAIT).unwrap();
        assert_eq!(other, wanted);
    }
}

#[test]
fn who_connects_says_nothing_to_another_node_than_it_wants() {
    let home = Home::new();
    let listening = |node| Listener::start(config(Security::Tls(home.node_of(node)), Admit::NODES), echo).unwrap();
    let wants_seven = |listener: &Listener| {
        dial(at(listener), home.node(), |config| config.accept = Box::new(|other| other.check_node(NodeId(7))))
    };
    for node in [Some(NodeId(7)), None] {
        wants_seven(&listening(node)).up();
    }
    let listener = listening(Some(NodeId(5)));
    let told = wants_seven(&listener);
    let Error::Foreign(why) = told.down() else { panic!("another reason") };
    assert!(why.contains("is that of node 5, so it is not node 7"), "{why}");
    assert_eq!(listener.tally().served, 0);
}

#[test]
fn a_certificate_with_a_node_that_cannot_be_is_of_no_use() {
    let home = Home::new();
    let mut forger = forged::Forger::of(&home);
    let (node, client) = (format!("raftwork://{SHOP}/node"), format!("raftwork://{SHOP}/client/web"));
    let of = |cluster: ClusterId, node: &str| format!("raftwork-node://{cluster}/{node}");
    let mut load = |names: &[&str]| forger.tls_of(names).map(|tls| tls.own().and_then(|own| own.node));
    assert_eq!(load(&[&node, &of(SHOP, "5")]), Ok(Some(NodeId(5))));
    assert_eq!(load(&[&of(SHOP, "5"), "https://example.org/", &node]), Ok(Some(NodeId(5))));
    for wrong in ["0", "05", "+5", "", "five", "5/6", "18446744073709551616"] {
        let refused = load(&[&node, &of(SHOP, wrong)]);
        assert!(matches!(&refused, Err(error) if error.to_string().contains("raftwork-node://")), "{refused:?}");
    }
    for names in [
        [&node[..], &of(ClusterId([8; 16]), "5")].to_vec(),
        [&client[..], &of(SHOP, "5")].to_vec(),
        [&node[..], &of(SHOP, "5"), &of(SHOP, "6")].to_vec(),
    ] {
        assert!(load(&names).is_err(), "{names:?}");
    }
}
