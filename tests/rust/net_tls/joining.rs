//! The authority on disk, requests for certificates, and invitations.

use super::*;
use raftwork::base::codec::{Reader, Writer};
use raftwork::base::Millis;
use raftwork::net::pki::NewKey;
use raftwork::net::{Fingerprint, Invitation};
use std::fs::set_permissions;

impl Home {
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_pem(&self.authority.pem()).unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_authority_is_stored_for_its_owner_alone_and_comes_back() {
    let home = Home::new();
    let dir = home.dir.path().join("authority");
    home.authority.save(&dir).unwrap();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(["ca.pem", "ca.key"].map(|name| mode(&dir.join(name))), [0o600; 2]);
    let again = Authority::load(&dir).unwrap();
    assert_eq!((again.cluster(), again.pem()), (SHOP, home.authority.pem()));
    // What it signs is trusted by those who trusted it before.
    let listener = home.listener(Admit::NODES);
    let files = again.issue_node(&["shop-2", "::1"]).unwrap().save(&dir.join("node"), "node").unwrap();
    assert_eq!([&files.authority, &files.certificate, &files.key].map(|path| mode(path)), [0o600; 3]);
    let tls = Tls::from_files(files.authority, files.certificate, files.key).unwrap();
    dial(at(&listener), Security::Tls(tls), |_| ()).up();
}

#[test]
fn an_authority_is_not_lost_or_given_away_by_mistake() {
    let home = Home::new();
    let dir = home.dir.path().join("authority");
    home.authority.save(&dir).unwrap();
    let other = Authority::create(SHOP).unwrap();
    assert!(other.save(&dir).unwrap_err().to_string().contains("is there already"));
    assert_eq!(Authority::load(&dir).unwrap().pem(), home.authority.pem());

    let open = home.dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
    let why = other.save(&open).unwrap_err().to_string();
    assert!(why.contains(&format!("`chmod 700 {}`", open.display())), "{why}");
    assert_eq!(std::fs::read_dir(&open).unwrap().count(), 0);

    let expect = |why: &str| {
        let Err(error) = Authority::load(&dir) else { panic!("loaded, though {why}") };
        assert!(error.to_string().contains(why), "{error}");
    };
    set_permissions(dir.join("ca.key"), Permissions::from_mode(0o604)).unwrap();
    expect("chmod 600");
    set_permissions(dir.join("ca.key"), Permissions::from_mode(0o600)).unwrap();
    std::fs::write(dir.join("ca.pem"), other.pem()).unwrap();
    expect("is not the key of the certificate");
    std::fs::write(dir.join("ca.pem"), other.issue_node(&[]).unwrap().certificate).unwrap();
    expect("an authority's is expected");
    std::fs::remove_file(dir.join("ca.pem")).unwrap();
    expect("ca.pem");
}

#[test]
fn what_cannot_be_certified_is_refused() {
    let home = Home::new();
    let authority = &home.authority;
    assert!(matches!(authority.issue_client("no/slash"), Err(Error::Invalid(why)) if why.contains("no/slash")));
    assert!(matches!(authority.issue_client(""), Err(Error::Invalid(_))));
    assert!(matches!(authority.issue_client(&"x".repeat(256)), Err(Error::Invalid(_))));
    assert!(matches!(authority.issue_node(&["two words"]), Err(Error::Invalid(why)) if why.contains("two words")));
    assert!(matches!(authority.issue_node(&["n"; 17]), Err(Error::Invalid(_))));
    for days in [0, 36_501, u64::MAX] {
        assert!(matches!(authority.issue(&Role::Node, &[], Lifetime::days(days)), Err(Error::Invalid(_))));
    }
}

/// The way of a new node: it knows one line of text, and comes out with a certificate for a key that it alone has.
#[test]
fn a_joiner_gets_a_certificate_for_its_own_key() {
    let home = Home::new();
    let admit = Admit { strangers: true, ..Admit::NODES };
    let dir = home.dir.path().join("authority");
    home.authority.save(&dir).unwrap();
    let listener = Listener::start(config(home.node(), admit), move |accepted: Accepted| {
        let authority = Authority::load(&dir).unwrap();
        let signed = authority.sign_request(&accepted.hello.payload, &Role::Node, Lifetime::days(90)).unwrap();
        accepted.outgoing.send(encode(2, 7, signed.as_bytes()).unwrap());
        let _ = { accepted.frames }.fill(&mut &*accepted.stream);
    });
    let listener = listener.unwrap();
    let line = Invitation::create(home.fingerprint(), at(&listener), Millis(1_000)).unwrap().text();

    let invitation = Invitation::parse(&line).unwrap();
    let joining = Security::Tls(Tls::joining(invitation.authority));
    let (stream, other) = connect(&invitation.address, &joining, Instant::now() + WAIT).unwrap();
    assert_eq!(other, Some(Certified { cluster: SHOP, role: Role::Node, node: None }));
    let key = NewKey::generate().unwrap();
    stream.write_first(encode(1, 7, &key.request(&["shop-2", "10.0.0.2"]).unwrap()).unwrap()).unwrap();
    let mut frames = Frames::new();
    let answer = loop {
        match frames.take().unwrap() {
            Some(frame) => break frame,
            None => assert!(frames.fill(&mut &stream).unwrap()),
        }
    };
    let issued = raftwork::net::pki::Issued {
        authority: home.authority.pem(),
        certificate: String::from_utf8(answer.payload).unwrap(),
        key: key.pem(),
    };
    let files = issued.save(&home.dir.path().join("joined"), "node").unwrap();
    let tls = Tls::from_files(files.authority, files.certificate, files.key).unwrap();
    assert_eq!(tls.own().unwrap(), Certified { cluster: SHOP, role: Role::Node, node: None });
    connect(&at(&home.listener(Admit::NODES)), &Security::Tls(tls), Instant::now() + WAIT).unwrap();
}

#[test]
fn a_request_proves_that_its_key_is_held() {
    let home = Home::new();
    let sign = |request: &[u8]| home.authority.sign_request(request, &Role::Node, Lifetime::days(90));
    let (mine, theirs) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
    let (my_request, their_request) = (mine.request(&["a"]).unwrap(), theirs.request(&["a"]).unwrap());
    sign(&my_request).unwrap();
    let parts = |request: &[u8]| {
        let mut reader = Reader::new(request);
        reader.array_of(2, "a request").unwrap();
        (reader.bin().unwrap().to_vec(), reader.bin().unwrap().to_vec())
    };
    // Another's public key with the own signature.
    let mut mixed = Writer::new();
    mixed.array(2).bin(&parts(&their_request).0).bin(&parts(&my_request).1);
    assert!(sign(mixed.as_bytes()).unwrap_err().to_string().contains("not made with the key"));
    for at in 0..my_request.len() {
        let mut bad = my_request.clone();
        bad[at] ^= 1;
        assert!(sign(&bad).is_err(), "byte {at} changed");
        assert!(sign(&my_request[..at]).is_err(), "cut at {at}");
    }
    let many: Vec<_> = (0..17).map(|_| "a").collect();
    assert!(sign(&mine.request(&many).unwrap()).is_err());
    assert!(sign(&mine.request(&["not a name"]).unwrap()).is_err());
}

#[test]
fn an_invitation_is_one_line_that_survives_copying() {
    let home = Home::new();
    for address in ["10.0.0.1:7001", "[::1]:7001", "shop-1.example.org:65535"] {
        let address = Address::parse(address).unwrap();
        let invitation = Invitation::create(home.fingerprint(), address, Millis(5_000)).unwrap();
        let text = invitation.text();
        assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{text}");
        assert_eq!(Invitation::parse(&text).unwrap(), invitation);
        let (first, second) = text.split_at(50);
        assert_eq!(Invitation::parse(&format!("  {first}\r\n  {second}\n")).unwrap(), invitation);
        // Every damage is noticed.
        for at in 0..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert!(Invitation::parse(std::str::from_utf8(&bad).unwrap()).is_err(), "letter {at}");
            assert!(Invitation::parse(&text[..at]).is_err(), "cut at {at}");
        }
        assert!(!format!("{invitation:?}").contains(&text[5..25]));
    }
}

#[test]
fn an_invitation_expires_and_its_secret_is_its_own() {
    let make = || Invitation::create(Fingerprint([1; 32]), Address::parse("a:1").unwrap(), Millis(1_000)).unwrap();
    let (one, two) = (make(), make());
    assert_ne!(one.secret(), two.secret());
    assert_ne!(Invitation::digest(&one.secret()), Invitation::digest(&two.secret()));
    let end = 1_000 + 15 * 60_000;
    assert!(!one.is_expired(Millis(end - 1)) && one.is_expired(Millis(end)));
}

#[test]
fn what_is_no_invitation_is_refused_with_the_reason() {
    for (text, why) in [
        ("", "does not begin with rwi1."),
        ("hello", "does not begin with rwi1."),
        ("rwi2.abc", "another version"),
        ("rwi1.", "damaged"),
        ("rwi1.????", "damaged"),
        ("rwi1.AAAA", "damaged"),
        (&format!("rwi1.{}", "A".repeat(600)), "too long"),
    ] {
        let Err(Error::Invalid(error)) = Invitation::parse(text) else { panic!("{text:?} was read") };
        assert!(error.contains(why), "{text:?}: {error}");
    }
}
