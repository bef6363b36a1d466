//! Where a first frame does not say who somebody is.

use super::*;

#[test]
fn whoever_has_not_shown_who_it_is_keeps_a_strangers_place() {
    let config = ListenerConfig { strangers_per_address_max: 2, chance: WAIT, ..plain() };
    let (come, came) = channel();
    let listener = Listener::of_strangers(config, move |accepted| {
        let (decide, decided) = channel::<bool>();
        come.send(decide).unwrap();
        if decided.recv().unwrap_or(false) {
            accepted.admit().unwrap();
            echo(accepted);
        }
    })
    .unwrap();
    let hello = || {
        let mut stream = raw(&listener);
        stream.write_all(&encode(1, 7, b"hello").unwrap()).unwrap();
        stream
    };
    let (_first, second) = (hello(), hello());
    let decides = [came.recv_timeout(WAIT).unwrap(), came.recv_timeout(WAIT).unwrap()];
    assert_eq!((listener.tally().strangers, listener.tally().served), (2, 0), "a hello says nothing");
    assert!(is_hung_up(&raw(&listener)), "there are two of this address");
    decides[0].send(true).unwrap();
    until(|| (listener.tally().strangers, listener.tally().served) == (1, 1));
    decides[1].send(false).unwrap();
    until(|| (listener.tally().strangers, listener.tally().served) == (0, 1));
    drop(second);
    let _third = hello();
    came.recv_timeout(WAIT).expect("there is room again");
}
