//! Certificate files: what is refused when they are read, and what happens when they change.

use super::*;
use raftwork::base::Millis;
use raftwork::net::pki::IssuedFiles;
use std::fs::{set_permissions, write};
use std::sync::atomic::{AtomicBool, Ordering};

fn load(files: &IssuedFiles) -> Result<Arc<Tls>, Error> {
    Tls::from_files(&files.authority, &files.certificate, &files.key)
}

fn issue(home: &Home, days: u64) -> IssuedFiles {
    home.authority.issue(&Role::Node, &[], Lifetime::days(days)).unwrap().save(home.dir.path(), "node").unwrap()
}

/// When a certificate of so many days that is made now expires.
fn expiry(days: u64) -> std::ops::RangeInclusive<Millis> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let end = (now + DAY * days as u32).as_millis() as u64;
    Millis(end - 60_000)..=Millis(end)
}

#[test]
fn files_that_do_not_fit_together_are_refused_with_the_file_and_the_fix() {
    let home = Home::new();
    let files = issue(&home, 90);
    let tls = load(&files).unwrap();
    assert!(expiry(90).contains(&tls.expires_at().unwrap()));
    assert_eq!(tls.own().unwrap(), Certified { cluster: SHOP, role: Role::Node, node: None });
    let expect = |path: &Path, why: &str| {
        let Err(error) = load(&files) else { panic!("loaded, though {why}") };
        let error = error.to_string();
        assert!(error.contains(why) && error.contains(&path.display().to_string()), "{error}");
    };
    set_permissions(&files.key, Permissions::from_mode(0o640)).unwrap();
    expect(&files.key, &format!("(mode 0640); run `chmod 600 {}`", files.key.display()));
    set_permissions(&files.key, Permissions::from_mode(0o400)).unwrap();
    load(&files).unwrap();
    set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
    let key = std::fs::read(&files.key).unwrap();
    for (path, text, why) in [
        (&files.key, "nothing", "holds no private key"),
        (&files.certificate, "nothing", "holds no certificate"),
        (&files.authority, "", "holds no certificate"),
        (&files.authority, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", "holds no certificate"),
        (&files.authority, &home_pem(), "not accepted by the authority"),
        (&files.certificate, &home.authority.pem(), "neither"),
        (&files.key, &home.authority.issue_node(&[]).unwrap().key, "is not the key of the certificate"),
    ] {
        let good = std::fs::read(path).unwrap();
        write(path, text).unwrap();
        expect(if why == "not accepted by the authority" { &files.certificate } else { path }, why);
        write(path, good).unwrap();
    }
    write(&files.key, key).unwrap();
    load(&files).unwrap();
    for path in [&files.authority, &files.certificate, &files.key] {
        let good = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        expect(path, "No such file");
        write(path, good).unwrap();
        set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
}

fn home_pem() -> String {
    Authority::create(SHOP).unwrap().pem()
}

#[test]
fn a_broken_new_file_changes_nothing_and_is_told() {
    let home = Home::new();
    let files = issue(&home, 90);
    let tls = load(&files).unwrap();
    let listener = Listener::start(config(Security::Tls(tls.clone()), Admit::NODES), echo).unwrap();
    let works = || dial(at(&listener), Security::Tls(tls.clone()), |_| ()).up();
    let before = std::fs::read(&files.certificate).unwrap();
    let breaks: [(&str, &dyn Fn()); 4] = [
        ("holds no certificate", &|| write(&files.certificate, "half a certi").unwrap()),
        ("No such file", &|| std::fs::remove_file(&files.certificate).unwrap()),
        ("chmod 600", &|| {
            write(&files.certificate, &before).unwrap();
            set_permissions(&files.key, Permissions::from_mode(0o644)).unwrap();
        }),
        ("this process works with cluster", &|| {
            set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
            Home::of(ClusterId([8; 16])).authority.issue_node(&[]).unwrap().save(home.dir.path(), "node").unwrap();
        }),
    ];
    for (why, break_it) in breaks {
        break_it();
        works();
        assert!(tls.trouble().unwrap().to_string().contains(why), "{:?} is not {why}", tls.trouble());
    }
    issue(&home, 30);
    assert_eq!(tls.trouble(), None);
    works();
    assert!(expiry(30).contains(&tls.expires_at().unwrap()));
}

#[test]
fn certificates_change_under_traffic() {
    let home = Home::new();
    let files = issue(&home, 90);
    let listener = Listener::start(config(Security::Tls(load(&files).unwrap()), Admit::NODES), echo).unwrap();
    let mine = Security::Tls(load(&files).unwrap());
    let lasting = dial(at(&listener), mine.clone(), |_| ());
    lasting.up();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Connections that come and go, while the files change under both sides.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let told = dial(at(&listener), mine.clone(), |_| ());
                assert_eq!(told.changes.recv_timeout(WAIT).unwrap(), raftwork::net::Change::Up);
                assert!(told.dialer.send(encode(9, 1, &[]).unwrap()));
                told.frames.recv_timeout(WAIT).unwrap();
            }
        });
        for days in 1..=20 {
            issue(&home, days);
            assert!(lasting.dialer.send(encode(9, days, &vec![0; 100_000]).unwrap()));
            assert_eq!(lasting.frames.recv_timeout(WAIT).unwrap().id, days);
        }
        over.store(true, Ordering::Relaxed);
    });
    let Security::Tls(tls) = &mine else { unreachable!() };
    assert!(expiry(20).contains(&tls.expires_at().unwrap()), "the last one is used");
    assert!(lasting.changes.try_recv().is_err(), "it never went down");
}

/// A new authority is trusted beside the old one, then certificates are changed one by one, then the old one goes.
#[test]
fn an_authority_is_replaced_without_a_gap() {
    let (old, new) = (Home::new(), Home::new());
    let both = old.authority.pem() + &new.authority.pem();
    let (server, client) = (issue(&old, 90), old.authority.issue_node(&[]).unwrap());
    let client = client.save(&old.dir.path().join("client"), "node").unwrap();
    let listener = Listener::start(config(Security::Tls(load(&server).unwrap()), Admit::NODES), echo).unwrap();
    let tls = load(&client).unwrap();
    let works = || {
        let (told, security) = (listener.tally().refused, Security::Tls(tls.clone()));
        dial(at(&listener), security, |_| ()).up();
        assert_eq!(listener.tally().refused, told);
    };
    works();
    for files in [&server, &client] {
        write(&files.authority, &both).unwrap();
        works();
    }
    for files in [&server, &client] {
        let mut issued = new.authority.issue_node(&[]).unwrap();
        issued.authority = both.clone();
        issued.save(files.key.parent().unwrap(), "node").unwrap();
        works();
    }
    for files in [&server, &client] {
        write(&files.authority, new.authority.pem()).unwrap();
        works();
    }
    is_refused(&listener, old.client("late"), "not signed by the authority", "does not trust the authority");
}

#[test]
fn a_renewal_that_is_cut_off_anywhere_leaves_a_node_that_starts() {
    let home = Home::new();
    let files = issue(&home, 90);
    let tls = load(&files).unwrap();
    let renewed = home.authority.issue(&Role::Node, &[], Lifetime::days(30)).unwrap();
    let beside =
        |path: &Path, end: &str| path.with_file_name(format!("{}{end}", path.file_name().unwrap().to_string_lossy()));
    // Between its two files: the second cannot be written.
    let in_the_way = beside(&files.certificate, ".new");
    std::fs::create_dir(&in_the_way).unwrap();
    assert!(tls.replace(&renewed.key, &renewed.certificate).is_err());
    assert!(expiry(90).contains(&load(&files).unwrap().expires_at().unwrap()), "the old ones are still a pair");
    // Behind the certificate: the new key is only beside the old one.
    write(&files.certificate, &renewed.certificate).unwrap();
    for _ in 0..2 {
        assert!(expiry(30).contains(&load(&files).unwrap().expires_at().unwrap()));
    }
    assert_eq!(std::fs::read_to_string(&files.key).unwrap(), renewed.key, "it has its place now");
    assert!(!beside(&files.key, ".next").exists());
    // Nothing in the way.
    std::fs::remove_dir(&in_the_way).unwrap();
    let again = home.authority.issue(&Role::Node, &[], Lifetime::days(60)).unwrap();
    tls.replace(&again.key, &again.certificate).unwrap();
    assert!(expiry(60).contains(&tls.expires_at().unwrap()));
}
