//! What a host's name stands for now, within a time.
//!
//! The system's name service cannot be told when to give up, so each look-up has a thread of its own, and whoever waits for it
//! leaves when its own time is over. What holds: a name is looked up once at a time, whoever asks meanwhile gets the same
//! answer; so one that hangs costs one thread, and no more however often it is asked.

use crate::base::sync::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Instant;

/// The addresses, with port 0; or why there are none.
type Answer = Result<Vec<SocketAddr>, String>;
type Resolver = fn(&str) -> Answer;

const LATE: &str = "the name service did not answer in time";

static LOOK_UPS: LookUps = LookUps { running: Mutex::new(BTreeMap::new()) };

/// Those under way, by process and name: what a forked child inherits has no thread there.
struct LookUps {
    running: Mutex<BTreeMap<(u32, String), Arc<LookUp>>>,
}

#[derive(Default)]
struct LookUp {
    answer: Mutex<Option<Answer>>,
    answered: Condvar,
}

/// To be held while this process forks, as no thread is there in the child to give it back.
pub(super) fn held_over_a_fork() -> impl Sized {
    LOOK_UPS.running.lock()
}

/// The addresses of a host, which is a name or a number.
///
/// # Errors
/// Why there are none, in words: nobody knows the name, or nobody said so until then.
pub fn look_up(host: &str, until: Instant) -> Answer {
    match host.parse() {
        Ok(number) => Ok(vec![SocketAddr::new(number, 0)]),
        Err(_) => LOOK_UPS.ask(host, until, ask_system),
    }
}

fn ask_system(host: &str) -> Answer {
    (host, 0).to_socket_addrs().map(Iterator::collect).map_err(|error| error.to_string())
}

impl LookUps {
    fn ask(&'static self, host: &str, until: Instant, resolver: Resolver) -> Answer {
        let look_up = self.join(host, resolver);
        let mut answer = look_up.answer.lock();
        while answer.is_none() && !look_up.answered.wait_until(&mut answer, until).timed_out() {}
        answer.clone().unwrap_or_else(|| Err(LATE.into()))
    }

    /// The look-up of this name that is under way, or a new one.
    fn join(&'static self, host: &str, resolver: Resolver) -> Arc<LookUp> {
        let key = (std::process::id(), host.to_owned());
        let mut running = self.running.lock();
        if let Some(look_up) = running.get(&key) {
            return look_up.clone();
        }
        let look_up = Arc::<LookUp>::default();
        running.insert(key.clone(), look_up.clone());
        drop(running);
        let (working, mine) = (look_up.clone(), key.clone());
        let resolve = move || self.end(&mine, &working, resolver(&mine.1));
        let started = std::thread::Builder::new().name("raftwork-names".into()).spawn(resolve);
        if let Err(error) = started {
            self.end(&key, &look_up, Err(format!("no thread for it: {error}")));
        }
        look_up
    }

    fn end(&self, key: &(u32, String), look_up: &LookUp, answer: Answer) {
        self.running.lock().remove(key);
        *look_up.answer.lock() = Some(answer);
        look_up.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    static ASKED: AtomicUsize = AtomicUsize::new(0);
    /// The name service answers while nobody holds it.
    static HANGS: Mutex<()> = Mutex::new(());

    fn slow(_host: &str) -> Answer {
        ASKED.fetch_add(1, Ordering::SeqCst);
        drop(HANGS.lock());
        Ok(vec![SocketAddr::from(([10, 0, 0, 1], 0))])
    }

    #[test]
    fn a_name_service_that_hangs_holds_up_nobody_and_costs_one_thread() {
        static HERE: LookUps = LookUps { running: Mutex::new(BTreeMap::new()) };
        let hangs = HANGS.lock();
        for _ in 0..10 {
            let soon = Instant::now() + Duration::from_millis(5);
            assert!(HERE.ask("shop-1", soon, slow).is_err_and(|why| why.contains("in time")));
        }
        let late = Instant::now() + Duration::from_secs(60);
        let waits = std::thread::spawn(move || HERE.ask("shop-1", late, slow));
        drop(hangs);
        assert!(waits.join().expect("it ends").is_ok());
        assert!(HERE.ask("shop-1", late, slow).is_ok());
        assert!(HERE.running.lock().is_empty(), "an answer is not kept");
        assert!(ASKED.load(Ordering::SeqCst) <= 3, "ten who gave up asked once");
    }

    #[test]
    fn a_number_is_not_looked_up() {
        let long_ago = Instant::now();
        assert_eq!(look_up("10.0.0.1", long_ago), Ok(vec![SocketAddr::from(([10, 0, 0, 1], 0))]));
        assert!(look_up("::1", long_ago).is_ok());
    }
}
