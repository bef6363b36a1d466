//! A client with a token, whose authority signs for several clusters: it shows its token to one of them only.

use super::*;
use crate::attach::bounds::owner;
use raftwork::client::contacts::Contacts;
use raftwork::client::patience::Patience;
use raftwork::client::{Client, Options};
use raftwork::net::Secret;
use std::sync::atomic::Ordering;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

const OTHER: ClusterId = ClusterId([8; 16]);

/// The authority of `home` as somebody has it who knows several: the first one names no cluster.
fn client(home: &Home) -> Arc<Tls> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let first = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let file = home.dir.path().join("authorities.pem");
    std::fs::write(&file, [forged::pem(first.der()), home.authority.pem()].concat()).unwrap();
    Tls::of_authority(&file).unwrap()
}

/// Whether a node of this address is let answer.
fn answers(address: &Address, tls: &Arc<Tls>) -> bool {
    match connect(address, &Security::Tls(tls.clone()), Instant::now() + WAIT) {
        Ok(_) => true,
        Err(Error::Foreign(why)) => {
            assert!(why.contains("is for cluster 08080808"), "{why}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_token_is_shown_to_the_cluster_that_answered_first_and_to_no_other() {
    let home = Home::new();
    let mut forger = forged::Forger::of(&home);
    let (shop, other) = (owner(), owner());
    let at_shop = shop.listen_with(home.node());
    let at_other = other.listen_with(Security::Tls(forger.tls(&format!("raftwork://{OTHER}/node"))));
    let tls = client(&home);
    assert!(answers(&at_other, &tls), "nobody has said yet which cluster it is");
    let connect = |address: &Address, patience| {
        let contacts = Contacts::new(vec![address.clone()], Security::Tls(tls.clone())).unwrap();
        let contacts = contacts.with_token(Some(Secret::create().unwrap()));
        Client::connect(contacts, Options::default(), &mut Patience::after(Some(patience)))
    };
    let client = connect(&at_shop, WAIT).unwrap();
    assert!(answers(&at_shop, &tls) && !answers(&at_other, &tls));
    assert!(connect(&at_other, Duration::from_secs(1)).is_err());
    let shown = [&shop, &other].map(|owner| owner.held.shown.load(Ordering::SeqCst));
    assert!(shown[0] > 0 && shown[1] == 0, "{shown:?}");
    client.close(&mut Patience::after(Some(WAIT))).unwrap();
}

#[test]
fn a_token_is_shown_to_the_cluster_that_a_setting_names_and_to_no_other() {
    let home = Home::new();
    let mut forger = forged::Forger::of(&home);
    let (at_shop, at_other) = (home.listener(Admit::ANYBODY), format!("raftwork://{OTHER}/node"));
    let other = Listener::start(config(Security::Tls(forger.tls(&at_other)), Admit::ANYBODY), echo).unwrap();
    let tls = client(&home);
    let contacts = Contacts::new(vec![at(&at_shop)], Security::Tls(tls.clone())).unwrap();
    drop(contacts.of_cluster(Some(SHOP)));
    assert!(answers(&at(&at_shop), &tls) && !answers(&at(&other), &tls));
}
