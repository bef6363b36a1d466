//! `raftwork._core.Client`.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use std::os::fd::RawFd;
use std::sync::Arc;

use super::fetcher::Fetcher;
use super::lock::Lock;
use super::{errors, guard, options};
use crate::base::{Error, JobId, Millis};
use crate::client::patience::Patience;
use crate::client::request::Failure;
use crate::client::Client as Inner;
use crate::machine::Mode;
use crate::net::Address;

#[pyclass(frozen, module = "raftwork._core")]
pub struct Client {
    /// Left alone in a forked child: its threads are not there, and its locks may be held by them for ever. Nothing only
    /// while this object ends.
    inner: Option<Arc<Inner>>,
}

impl Client {
    fn new(inner: Arc<Inner>) -> Self {
        Self { inner: Some(inner) }
    }

    fn inner(&self) -> &Arc<Inner> {
        self.inner.as_ref().expect("only its end takes it")
    }

    fn checked(&self, py: Python<'_>) -> PyResult<&Arc<Inner>> {
        self.inner().check_process().map_err(|error| errors::raise(py, &error))?;
        Ok(self.inner())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        match self.inner.take() {
            Some(inner) if inner.check_process().is_err() => std::mem::forget(inner),
            // The last one closes the node.
            inner => guard::let_go(inner),
        }
    }
}

pub fn job_id(py: Python<'_>, bytes: &[u8]) -> PyResult<JobId> {
    let bad = || errors::raise(py, &Error::Invalid(format!("a job id has 16 bytes, not {}", bytes.len())));
    JobId::from_slice(bytes).ok_or_else(bad)
}

#[pymethods]
impl Client {
    #[staticmethod]
    #[pyo3(signature = (path, options = None))]
    fn open(py: Python<'_>, path: &str, options: Option<&[u8]>) -> PyResult<Client> {
        let read = options::open(path, options.unwrap_or_default());
        let (config, options, timeout) = read.map_err(|error| errors::raise(py, &error))?;
        let opened = guard::patiently(py, Some(timeout.as_secs_f64()), |patience| {
            Inner::open(config, options, patience).map_err(Failure::from)
        })?;
        Ok(Client::new(opened))
    }

    #[staticmethod]
    fn connect(py: Python<'_>, options: &[u8]) -> PyResult<Client> {
        let (contacts, options, timeout) = options::connect(options).map_err(|error| errors::raise(py, &error))?;
        let connected = guard::patiently(py, Some(timeout.as_secs_f64()), |patience| {
            Inner::connect(contacts, options, patience).map_err(Failure::from)
        })?;
        Ok(Client::new(connected))
    }

    #[staticmethod]
    #[pyo3(signature = (options = None))]
    fn memory(py: Python<'_>, options: Option<&[u8]>) -> PyResult<Client> {
        let opened =
            options::memory(options.unwrap_or_default()).and_then(|(options, manual)| Inner::memory(options, manual));
        opened.map(Client::new).map_err(|error| errors::raise(py, &error))
    }

    #[pyo3(signature = (command, timeout = None))]
    fn submit<'py>(&self, py: Python<'py>, command: &[u8], timeout: Option<f64>) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.checked(py)?;
        let reply = guard::patiently(py, timeout, |patience| inner.submit(command, patience))?;
        Ok(PyBytes::new(py, &reply))
    }

    fn start(&self, py: Python<'_>, command: &[u8]) -> PyResult<u64> {
        let (inner, command) = (self.checked(py)?, command.to_vec());
        py.detach(|| inner.start(command)).map_err(|error| errors::raise(py, &error))
    }

    fn start_wait(&self, py: Python<'_>, job_id: &[u8]) -> PyResult<u64> {
        let (inner, job) = (self.checked(py)?, self::job_id(py, job_id)?);
        py.detach(|| inner.start_wait(job)).map_err(|error| errors::raise(py, &error))
    }

    fn cancel_ticket(&self, py: Python<'_>, ticket: u64) -> PyResult<()> {
        let inner = self.checked(py)?;
        py.detach(|| inner.cancel_ticket(ticket));
        Ok(())
    }

    fn completion_fd(&self, py: Python<'_>) -> PyResult<RawFd> {
        Ok(self.checked(py)?.completion_fd())
    }

    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let inner = self.checked(py)?;
        let settled = py.detach(|| inner.drain());
        let list = PyList::empty(py);
        for (ticket, outcome) in settled {
            let outcome = match outcome {
                Ok(bytes) => PyBytes::new(py, &bytes).into_any(),
                Err(failure) => errors::raise_failure(py, &failure).into_value(py).into_bound(py).into_any(),
            };
            list.append(PyTuple::new(py, [ticket.into_pyobject(py)?.into_any(), outcome])?)?;
        }
        Ok(list)
    }

    #[pyo3(signature = (question, consistency = "session", staleness_ms_max = None, timeout = None))]
    fn view<'py>(
        &self,
        py: Python<'py>,
        question: &[u8],
        consistency: &str,
        staleness_ms_max: Option<u64>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.checked(py)?;
        let reading = options::reading(consistency, staleness_ms_max).map_err(|error| errors::raise(py, &error))?;
        let read = |patience: &mut Patience<'_>| inner.read(question, reading, patience).map_err(Failure::from);
        let answer = guard::patiently(py, timeout, read)?;
        Ok(PyBytes::new(py, &answer))
    }

    #[pyo3(signature = (job_id, timeout = None))]
    fn wait<'py>(&self, py: Python<'py>, job_id: &[u8], timeout: Option<f64>) -> PyResult<Bound<'py, PyBytes>> {
        let (inner, job) = (self.checked(py)?, self::job_id(py, job_id)?);
        let detail = guard::patiently(py, timeout, |patience| inner.wait(job, patience))?;
        Ok(PyBytes::new(py, &detail))
    }

    fn session(&self, py: Python<'_>) -> PyResult<u64> {
        let inner = self.checked(py)?;
        let id = guard::patiently(py, None, |patience| inner.session(patience).map_err(Failure::from))?;
        Ok(id.0)
    }

    fn health<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.checked(py)?;
        let health = guard::patiently(py, None, |_| inner.health().map_err(Failure::from))?;
        Ok(PyBytes::new(py, &health))
    }

    fn certificate(&self, py: Python<'_>) -> PyResult<Option<(u64, Option<String>)>> {
        Ok(self.checked(py)?.certificate().map(|(expires, alarm)| (expires.0, alarm)))
    }

    fn serve_health(&self, py: Python<'_>, address: &str) -> PyResult<String> {
        let inner = self.checked(py)?;
        let bound = Address::parse(address).and_then(|address| py.detach(|| inner.serve_health(&address)));
        bound.map(|bound| bound.to_string()).map_err(|error| errors::raise(py, &error))
    }

    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.checked(py)?;
        let metrics = guard::patiently(py, None, |_| inner.metrics().map_err(Failure::from))?;
        Ok(PyBytes::new(py, &metrics))
    }

    #[pyo3(signature = (timeout = None))]
    fn fresh(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let inner = self.checked(py)?;
        guard::patiently(py, timeout, |patience| inner.fresh(patience).map(drop).map_err(Failure::from))
    }

    #[pyo3(signature = (order, timeout = None))]
    fn order<'py>(&self, py: Python<'py>, order: &[u8], timeout: Option<f64>) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.checked(py)?;
        let answer = guard::patiently(py, timeout, |patience| inner.order(order, patience).map_err(Failure::from))?;
        Ok(PyBytes::new(py, &answer))
    }

    fn role(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.checked(py)?.role().name())
    }

    /// The process that opened this client. A forked child sees another number than its own.
    fn pid(&self) -> u32 {
        self.inner().pid()
    }

    fn advance(&self, py: Python<'_>, ms: u64) -> PyResult<()> {
        let inner = self.checked(py)?;
        py.detach(|| inner.advance(Millis(ms))).map_err(|error| errors::raise(py, &error))
    }

    #[pyo3(signature = (options))]
    fn fetcher(&self, py: Python<'_>, options: &[u8]) -> PyResult<Fetcher> {
        let inner = self.checked(py)?;
        let (wish, labels) = options::fetcher(options).map_err(|error| errors::raise(py, &error))?;
        let opened = guard::patiently(py, None, |patience: &mut Patience<'_>| {
            inner.fetcher(wish, labels, patience).map_err(Failure::from)
        })?;
        Ok(Fetcher::new(opened, inner.pid()))
    }

    #[pyo3(signature = (name, ttl_ms = None, kind = "lock", permits = 1))]
    fn lock(&self, py: Python<'_>, name: &str, ttl_ms: Option<u64>, kind: &str, permits: u64) -> PyResult<Lock> {
        let inner = self.checked(py)?;
        let lock = options::lock(name, ttl_ms).and_then(|ttl| Ok(inner.lock(name, Mode::named(kind, permits)?, ttl)));
        lock.map(|lock| Lock::new(lock, inner.pid())).map_err(|error| errors::raise(py, &error))
    }

    #[pyo3(signature = (timeout = None))]
    fn close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let inner = self.inner();
        if inner.check_process().is_err() {
            return Ok(()); // The parent closes it.
        }
        guard::patiently(py, timeout, |patience| inner.close(patience).map_err(Failure::from))
    }
}
