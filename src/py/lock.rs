//! `raftwork._core.Lock`.

use pyo3::prelude::*;
use std::sync::Arc;

use super::{errors, guard};
use crate::base::Error;
use crate::client::locks::Lock as Inner;
use crate::client::request::Failure;

#[pyclass(frozen, module = "raftwork._core")]
pub struct Lock {
    /// Left alone in a forked child, as in `Client`.
    inner: Option<Arc<Inner>>,
    pid: u32,
}

impl Lock {
    pub fn new(inner: Inner, pid: u32) -> Self {
        Self { inner: Some(Arc::new(inner)), pid }
    }

    fn checked(&self, py: Python<'_>) -> PyResult<&Arc<Inner>> {
        if std::process::id() == self.pid {
            return Ok(self.inner.as_ref().expect("only its end takes it"));
        }
        Err(errors::raise(py, &Error::Forked))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        match self.inner.take() {
            inner if std::process::id() != self.pid => std::mem::forget(inner),
            // The client may end with it.
            inner => guard::let_go(inner),
        }
    }
}

#[pymethods]
impl Lock {
    #[pyo3(signature = (waits, timeout = None))]
    fn acquire(&self, py: Python<'_>, waits: bool, timeout: Option<f64>) -> PyResult<u64> {
        let inner = self.checked(py)?;
        let acquired = guard::patiently(py, timeout, |patience| inner.acquire(waits, patience));
        acquired.map(|token| token.0).inspect_err(|_| py.detach(|| inner.give_up()))
    }

    fn start_acquire(&self, py: Python<'_>, waits: bool) -> PyResult<u64> {
        let inner = self.checked(py)?;
        py.detach(|| inner.start_acquire(waits)).map_err(|failure| errors::raise_failure(py, &failure))
    }

    fn give_up(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.checked(py)?;
        py.detach(|| inner.give_up());
        Ok(())
    }

    #[pyo3(signature = (timeout = None))]
    fn release(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let inner = self.checked(py)?;
        guard::patiently(py, timeout, |patience| inner.release(patience))
    }

    fn start_release(&self, py: Python<'_>) -> PyResult<u64> {
        let inner = self.checked(py)?;
        py.detach(|| inner.start_release()).map_err(|failure| errors::raise_failure(py, &failure))
    }

    /// The token and whether it is lost.
    fn standing(&self, py: Python<'_>) -> PyResult<Option<(u64, bool)>> {
        let inner = self.checked(py)?;
        let standing = py.detach(|| inner.standing()).map_err(|error| errors::raise(py, &error))?;
        Ok(standing.map(|(token, lost)| (token.0, lost)))
    }

    #[pyo3(signature = (timeout = None))]
    fn wait_lost(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let inner = self.checked(py)?;
        guard::patiently(py, timeout, |patience| inner.wait_lost(patience).map_err(Failure::from))
    }

    fn start_wait_lost(&self, py: Python<'_>) -> PyResult<u64> {
        let inner = self.checked(py)?;
        py.detach(|| inner.start_wait_lost()).map_err(|error| errors::raise(py, &error))
    }
}
