//! How much one client may ask for in a second, on all its connections to this node together. Clients are told apart by
//! their name: that of a token or of a certificate. Whoever is trusted with everything has no quota.
//!
//! What holds
//! * A client that asks for more gets `Overloaded`, and nothing of what it asked was done. Others notice nothing of it.
//! * It may save up two seconds' worth.
//! * What it says besides, to be woken or to live, has a rate of its own, as high, and never so low that workers who come again
//!   all at once would be taken for a flood: one that asks for too much loses nothing of what it has by that.

use crate::base::sync::Mutex;
use crate::base::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that cost as much as one request.
const BYTES_A_REQUEST: usize = 64 << 10;
/// What a client may say in a second at least, however little it may ask for. A worker with ten lanes that connects anew says
/// about thirty things at once.
const SAID_RATE_MIN: u64 = 1_000;
/// How long a client may save up.
const SAVED: Duration = Duration::from_secs(2);

/// The quotas of everybody who is connected, or was a moment ago.
pub struct Quotas {
    /// Requests a second.
    rate: u64,
    by_name: Mutex<BTreeMap<String, Arc<Quota>>>,
}

/// What one client has left.
pub struct Quota {
    asked: Bucket,
    said: Bucket,
}

struct Bucket {
    rate: u64,
    state: Mutex<State>,
}

struct State {
    left: f64,
    at: Instant,
}

impl Quotas {
    pub fn new(rate: u64) -> Self {
        Self { rate, by_name: Mutex::default() }
    }

    /// The quota of this client; one for all its connections.
    pub fn of(&self, name: &str) -> Arc<Quota> {
        let (mut by_name, now) = (self.by_name.lock(), Instant::now());
        // A new one would give back what was spent.
        by_name.retain(|_, quota| Arc::strong_count(quota) > 1 || quota.spent_at(now));
        by_name.entry(name.to_owned()).or_insert_with(|| Arc::new(Quota::new(self.rate, now))).clone()
    }
}

impl Quota {
    fn new(rate: u64, at: Instant) -> Self {
        Self { asked: Bucket::new(rate, at), said: Bucket::new(rate.max(SAID_RATE_MIN), at) }
    }

    fn spent_at(&self, now: Instant) -> bool {
        self.asked.spent_at(now) || self.said.spent_at(now)
    }

    /// What it may say in a second.
    pub fn said_rate(&self) -> u64 {
        self.said.rate
    }

    /// Pays for a request of so many bytes.
    ///
    /// # Errors
    /// `Overloaded`: it asked for too much lately.
    pub fn pay(&self, bytes: usize) -> Result<()> {
        self.asked.pay_at(bytes, Instant::now())
    }

    /// Pays for something else that it says.
    ///
    /// # Errors
    /// `Overloaded`: it said too much lately.
    pub fn pay_to_say(&self, bytes: usize) -> Result<()> {
        self.said.pay_at(bytes, Instant::now())
    }
}

impl Bucket {
    fn new(rate: u64, at: Instant) -> Self {
        let left = rate as f64 * SAVED.as_secs_f64();
        Self { rate, state: Mutex::new(State { left, at }) }
    }

    /// Whether less is left than can be.
    fn spent_at(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        self.refill(&mut state, now);
        state.left < self.most()
    }

    fn most(&self) -> f64 {
        self.rate as f64 * SAVED.as_secs_f64()
    }

    fn refill(&self, state: &mut State, now: Instant) {
        let gained = now.saturating_duration_since(state.at).as_secs_f64() * self.rate as f64;
        (state.left, state.at) = ((state.left + gained).min(self.most()), now);
    }

    fn pay_at(&self, bytes: usize, now: Instant) -> Result<()> {
        let mut state = self.state.lock();
        self.refill(&mut state, now);
        // Somebody who has anything left may go below zero: a request that is larger than all that can be saved must pass.
        if state.left < 1.0 {
            let rate = self.rate;
            return Err(Error::Overloaded(format!(
                "this client asks for more than {rate} requests a second (client_rate); it must wait a little"
            )));
        }
        state.left -= 1.0 + (bytes / BYTES_A_REQUEST) as f64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a4_a_client_gets_its_rate_and_what_it_saved_and_no_more() {
        let start = Instant::now();
        let quota = Bucket::new(100, start);
        let passed = |at: Instant, tries: usize| (0..tries).filter(|_| quota.pay_at(10, at).is_ok()).count();
        assert_eq!(passed(start, 1_000), 200, "two seconds' worth");
        assert_eq!(passed(start + Duration::from_millis(500), 1_000), 50);
        assert_eq!(passed(start + Duration::from_secs(60), 1_000), 200, "it saves up no more");
    }

    #[test]
    fn a4_large_requests_cost_more_and_pass_one_at_a_time() {
        let start = Instant::now();
        let quota = Bucket::new(1, start);
        assert!(quota.pay_at(4 << 20, start).is_ok(), "larger than all that it may save");
        assert!(quota.pay_at(0, start + Duration::from_secs(60)).is_err());
        assert!(quota.pay_at(0, start + Duration::from_secs(70)).is_ok());
    }

    #[test]
    fn a4_one_name_is_one_quota_and_others_have_their_own() {
        let quotas = Quotas::new(1);
        let (one, same, other) = (quotas.of("token/a"), quotas.of("token/a"), quotas.of("token/b"));
        assert!(one.pay(0).is_ok() && same.pay(0).is_ok());
        assert!(one.pay(0).is_err() && other.pay(0).is_ok());
        assert!(one.pay_to_say(0).is_ok(), "what it says besides costs it nothing of that");
        let said = (0..5_000).filter(|_| one.pay_to_say(0).is_ok()).count();
        assert!((1_900..4_000).contains(&said), "{said}, however low the rate is");
        drop((one, same, other));
        assert!(quotas.of("token/a").pay(0).is_err(), "to connect again is no way out");
    }
}
