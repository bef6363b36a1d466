//! Runs every script in `scripts/machine`: blocks of commands, `---`, and what the state machine said and did.
//!
//! `RAFTWORK_REWRITE=1` writes the output that it finds into the scripts; read the difference before you keep it.
//! After each block the machine is audited, and replaced by one loaded from its image: nothing may depend on which.

mod player;

use player::Player;
use std::fmt::Write as _;
use std::path::Path;

#[test]
fn machine_scripts_give_their_output() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rust/scripts/machine");
    let rewrite = std::env::var_os("RAFTWORK_REWRITE").is_some_and(|value| value == "1");
    let mut scripts: Vec<_> =
        std::fs::read_dir(&folder).expect("the scripts").map(|entry| entry.expect("a script").path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 40, "{} scripts", scripts.len());
    let mut wrong = String::new();
    for path in scripts {
        let script = std::fs::read_to_string(&path).expect("a script is text");
        let found = play(&script);
        if found == script {
            continue;
        }
        if rewrite {
            std::fs::write(&path, &found).expect("scripts can be written");
        }
        let name = path.file_name().expect("a script has a name").to_string_lossy().into_owned();
        let _ = writeln!(wrong, "--- {name}\n{}", difference(&script, &found));
    }
    assert!(wrong.is_empty() || rewrite, "scripts differ (RAFTWORK_REWRITE=1 accepts):\n{wrong}");
}

/// The script with the output that its commands give.
fn play(script: &str) -> String {
    let mut player = Player::default();
    let mut found = String::new();
    for block in script.split("\n\n") {
        let commands = block.split("\n---").next().expect("split gives one").trim_end();
        if commands.is_empty() {
            continue;
        }
        if !found.is_empty() {
            found.push_str("\n\n");
        }
        found.push_str(commands);
        let mut lines = commands.lines().filter(|line| !line.starts_with('#')).peekable();
        if lines.peek().is_none() {
            continue;
        }
        found.push_str("\n---");
        for output in lines.flat_map(|line| player.line(line)) {
            found.push('\n');
            found.push_str(&output);
        }
        player.reload();
    }
    found.push('\n');
    found
}

/// The first lines that differ.
fn difference(expected: &str, found: &str) -> String {
    let (mut expected, mut found) = (expected.lines(), found.lines());
    for number in 1.. {
        let (old, new) = (expected.next(), found.next());
        if old != new {
            let more: Vec<&str> = found.take(3).collect();
            return format!("line {number}: expected {old:?}\n  found {new:?}\n  then {more:?}");
        }
        if old.is_none() {
            break;
        }
    }
    String::new()
}
