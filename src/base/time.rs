//! Time: whole milliseconds, never floats. Only shells read a clock; the state machine is told the time.

/// Milliseconds: since the Unix epoch for a moment, or a span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// The end of time: later than every moment that anyone can name.
    pub const MAX: Millis = Millis(u64::MAX);

    /// This moment moved forward; stays at the end of time instead of wrapping.
    pub const fn plus(self, span: Millis) -> Millis {
        Millis(self.0.saturating_add(span.0))
    }

    /// The span since an earlier moment; zero if it is not earlier.
    pub const fn since(self, earlier: Millis) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

/// Where a shell reads the time. Tests pass one that they move by hand.
pub trait Clock: Send + Sync {
    /// Wall time in milliseconds since the Unix epoch. May jump.
    fn wall(&self) -> Millis;

    /// Milliseconds since some fixed moment; never goes back and counts suspended time.
    fn monotonic(&self) -> Millis;
}

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Millis {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Millis(since_epoch.as_millis() as u64)
    }

    fn monotonic(&self) -> Millis {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Millis(now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000)
    }
}
