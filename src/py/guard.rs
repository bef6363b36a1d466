//! Waiting without holding the interpreter, and without shutting Ctrl-C out.

use pyo3::prelude::*;
use std::time::Duration;

use super::errors;
use crate::base::Error;
use crate::client::patience::Patience;
use crate::client::request::Failure;

/// Seconds of Python as a span. Negative means "not at all", nothing means "for ever".
pub fn timeout(py: Python<'_>, seconds: Option<f64>) -> PyResult<Option<Duration>> {
    let Some(seconds) = seconds else { return Ok(None) };
    if seconds.is_nan() {
        return Err(errors::raise(py, &Error::Invalid("a timeout that is not a number".into())));
    }
    // A span too long for the clock is for ever.
    Ok(Duration::try_from_secs_f64(seconds.max(0.0)).ok())
}

/// Does work that may wait. The interpreter is free meanwhile. On the main thread a signal handler that raises (Ctrl-C)
/// ends the wait, and its exception is what the caller gets.
pub fn patiently<T: Send>(
    py: Python<'_>,
    seconds: Option<f64>,
    work: impl FnOnce(&mut Patience<'_>) -> std::result::Result<T, Failure> + Send,
) -> PyResult<T> {
    let timeout = timeout(py, seconds)?;
    let (outcome, interrupt) = py.detach(|| {
        let mut interrupt = None;
        let mut patience = Patience::after(timeout);
        let mut check = || match Python::attach(|py| py.check_signals()) {
            Ok(()) => Ok(()),
            Err(raised) => {
                interrupt = Some(raised);
                Err(Error::TimedOut("interrupted by a signal".into()))
            }
        };
        // Python runs signal handlers on the main thread only.
        if is_main_thread() {
            patience.check = Some(&mut check);
        }
        let outcome = work(&mut patience);
        (outcome, interrupt)
    });
    match interrupt {
        Some(raised) => Err(raised),
        None => outcome.map_err(|failure| errors::raise_failure(py, &failure)),
    }
}

/// Lets go of something whose end may wait, for threads and for the disk. The interpreter is free meanwhile.
pub fn let_go(last: impl Send) {
    Python::attach(|py| py.detach(|| drop(last)));
}

fn is_main_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}
