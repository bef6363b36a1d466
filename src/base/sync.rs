//! Locks and conditions, over those of the standard library, which are one word in memory each and no more.
//!
//! That matters in a forked child: a library that keeps its waiters in one table for the whole process (as `parking_lot`
//! does) leaves a part of it locked for good, if some thread of the parent was just there. No lock of the child that falls
//! into that part can be waited for, not even a new one.
//!
//! A thread that panics leaves its lock open to the others, as it is (no poisoning): who catches a panic decides what
//! becomes of the state, see `node::failure`.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{self, PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub use std::sync::WaitTimeoutResult;

/// What one thread at a time may use.
#[derive(Default)]
pub struct Mutex<T: ?Sized>(sync::Mutex<T>);

/// The right to use it, until dropped.
pub struct MutexGuard<'a, T: ?Sized> {
    of: &'a sync::Mutex<T>,
    /// Away only while somebody waits, or in `unlocked`.
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { of: &self.0, held: Some(locked(&self.0)) }
    }

    /// Nothing if somebody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = match self.0.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { of: &self.0, held: Some(held) })
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ?Sized> MutexGuard<'_, T> {
    /// Gives it free while this runs, and takes it again, also if this panics.
    pub fn unlocked<R>(guard: &mut Self, run: impl FnOnce() -> R) -> R {
        struct Again<'g, 'a, T: ?Sized>(&'g mut MutexGuard<'a, T>);
        impl<T: ?Sized> Drop for Again<'_, '_, T> {
            fn drop(&mut self) {
                self.0.held = Some(locked(self.0.of));
            }
        }
        guard.held = None;
        let _again = Again(guard);
        run()
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect(HELD)
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect(HELD)
    }
}

/// Why a guard that somebody can see has its lock: `wait` and `unlocked` borrow it until they have taken it again.
const HELD: &str = "a guard has its lock";

fn locked<T: ?Sized>(mutex: &sync::Mutex<T>) -> sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What threads wait for that hold a [`Mutex`]. They may wake up for no reason.
#[derive(Debug, Default)]
pub struct Condvar(sync::Condvar);

impl Condvar {
    pub const fn new() -> Self {
        Self(sync::Condvar::new())
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect(HELD);
        guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// At most so long.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, time: Duration) -> WaitTimeoutResult {
        let held = guard.held.take().expect(HELD);
        let (held, result) = self.0.wait_timeout(held, time).unwrap_or_else(PoisonError::into_inner);
        guard.held = Some(held);
        result
    }

    /// Until then at the latest.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> WaitTimeoutResult {
        self.wait_for(guard, until.saturating_duration_since(Instant::now()))
    }
}

/// What many threads at a time may read, or one may write.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub const fn new(value: T) -> Self {
        Self(sync::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    pub fn read(&self) -> sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing if somebody has it for all of this time. Looks again and again, as the standard library cannot wait so, and lets
    /// readers pass: for whoever closes something that hardly anybody reads any more.
    pub fn try_write_for(&self, time: Duration) -> Option<sync::RwLockWriteGuard<'_, T>> {
        let until = Instant::now() + time;
        loop {
            match self.0.try_write() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => return None,
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOOK_EVERY),
            }
        }
    }
}

/// Between two looks of `try_write_for`.
const LOOK_EVERY: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{catch_unwind, AssertUnwindSafe};

    #[test]
    fn a_panic_leaves_a_lock_open() {
        let (mutex, rwlock) = (Mutex::new(1), RwLock::new(1));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let (mut one, mut other) = (mutex.lock(), rwlock.write());
            (*one, *other) = (2, 2);
            panic!("as planned");
        }));
        assert!(panicked.is_err());
        assert_eq!(*mutex.lock(), 2);
        assert_eq!(*mutex.try_lock().unwrap(), 2);
        assert_eq!(*rwlock.read(), 2);
        assert_eq!(*rwlock.write(), 2);
        assert_eq!(*rwlock.try_write_for(Duration::ZERO).unwrap(), 2);
        assert_eq!(mutex.into_inner(), 2);
    }

    #[test]
    fn it_is_free_while_unlocked_and_held_again_after_a_panic() {
        let mutex = Mutex::new(1);
        let mut guard = mutex.lock();
        assert!(mutex.try_lock().is_none());
        MutexGuard::unlocked(&mut guard, || *mutex.try_lock().unwrap() = 2);
        assert_eq!(*guard, 2);
        let panicked = catch_unwind(AssertUnwindSafe(|| MutexGuard::unlocked(&mut guard, || panic!("as planned"))));
        assert!(panicked.is_err() && mutex.try_lock().is_none());
        *guard = 3;
        drop(guard);
        assert_eq!(*mutex.lock(), 3);
    }

    #[test]
    fn who_would_write_waits_for_readers_and_not_for_ever() {
        let rwlock = RwLock::new(1);
        std::thread::scope(|scope| {
            let reads = rwlock.read();
            assert!(rwlock.try_write_for(Duration::from_millis(3)).is_none());
            let writes = scope.spawn(|| *rwlock.try_write_for(Duration::from_secs(60)).unwrap() = 2);
            drop(reads);
            writes.join().unwrap();
        });
        assert_eq!(*rwlock.read(), 2);
    }

    #[test]
    fn who_waits_gives_it_free_and_is_told_or_is_out_of_time() {
        let (mutex, changed) = (Mutex::new(false), Condvar::new());
        let mut guard = mutex.lock();
        assert!(changed.wait_for(&mut guard, Duration::from_millis(1)).timed_out());
        assert!(changed.wait_until(&mut guard, Instant::now()).timed_out() && mutex.try_lock().is_none());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                *mutex.lock() = true;
                changed.notify_all();
            });
            while !*guard {
                changed.wait(&mut guard);
            }
        });
    }
}
