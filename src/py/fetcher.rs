//! `raftwork._core.Fetcher`.

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use std::os::fd::RawFd;
use std::sync::Arc;

use super::{errors, guard};
use crate::base::{Error, JobId, LeaseToken, Result};
use crate::client::buffer::Item;
use crate::client::fetcher::{Event, Fetcher as Inner};
use crate::client::request::Failure;

#[pyclass(frozen, module = "raftwork._core")]
pub struct Fetcher {
    /// Left alone in a forked child, as in `Client`.
    inner: Arc<Inner>,
    pid: u32,
}

impl Fetcher {
    pub fn new(inner: Arc<Inner>, pid: u32) -> Self {
        Self { inner, pid }
    }

    fn is_own(&self) -> bool {
        std::process::id() == self.pid
    }

    fn checked(&self, py: Python<'_>) -> PyResult<&Arc<Inner>> {
        if self.is_own() {
            return Ok(&self.inner);
        }
        Err(errors::raise(py, &Error::Forked))
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        if !self.is_own() {
            std::mem::forget(self.inner.clone());
        }
    }
}

fn item(py: Python<'_>, bytes: &[u8]) -> PyResult<Item> {
    Item::parse(Bytes::copy_from_slice(bytes)).map_err(|error| errors::raise(py, &error))
}

fn job_of<'py>(py: Python<'py>, job: Option<Bytes>) -> Option<Bound<'py, PyBytes>> {
    job.map(|job| PyBytes::new(py, &job))
}

#[pymethods]
impl Fetcher {
    #[pyo3(signature = (timeout = None))]
    fn next<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let inner = self.checked(py)?;
        if let Some(job) = inner.try_next().map_err(|error| errors::raise(py, &error))? {
            return Ok(Some(PyBytes::new(py, &job)));
        }
        let job = guard::patiently(py, timeout, |patience| inner.next(patience).map_err(Failure::from))?;
        Ok(job_of(py, job))
    }

    #[pyo3(signature = (max, timeout = None))]
    fn next_many<'py>(&self, py: Python<'py>, max: usize, timeout: Option<f64>) -> PyResult<Bound<'py, PyList>> {
        let inner = self.checked(py)?;
        let jobs = guard::patiently(py, timeout, |patience| inner.next_many(max, patience).map_err(Failure::from))?;
        PyList::new(py, jobs.iter().map(|job| PyBytes::new(py, job)))
    }

    fn finish(&self, py: Python<'_>, result: &[u8]) -> PyResult<()> {
        let (inner, item) = (self.checked(py)?, item(py, result)?);
        guard::patiently(py, None, |patience| inner.finish(item, patience).map_err(Failure::from))
    }

    /// The interpreter is not released when a job is at hand: then this takes about a microsecond.
    #[pyo3(signature = (result, timeout = None))]
    fn finish_and_next<'py>(
        &self,
        py: Python<'py>,
        result: &[u8],
        timeout: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let (inner, item) = (self.checked(py)?, item(py, result)?);
        if let Some(job) = inner.finish_and_try_next(item).map_err(|error| errors::raise(py, &error))? {
            return Ok(Some(PyBytes::new(py, &job)));
        }
        let job = guard::patiently(py, timeout, |patience| inner.next(patience).map_err(Failure::from))?;
        Ok(job_of(py, job))
    }

    fn progress(&self, py: Python<'_>, item: &[u8]) -> PyResult<()> {
        let (inner, item) = (self.checked(py)?, self::item(py, item)?);
        guard::patiently(py, None, |patience| inner.progress(item, patience).map_err(Failure::from))
    }

    #[pyo3(signature = (timeout = None))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let inner = self.checked(py)?;
        guard::patiently(py, timeout, |patience| flush(inner, patience).map_err(Failure::from))
    }

    #[pyo3(signature = (timeout = None))]
    fn events<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyList>> {
        let inner = self.checked(py)?;
        let events = guard::patiently(py, timeout, |patience| inner.events(patience).map_err(Failure::from))?;
        let list = PyList::empty(py);
        for event in events {
            let (name, job, token) = match event {
                Event::Cancel(job, token) => ("cancel", Some(job), token),
                Event::Lost(job, token) => ("lost", Some(job), token),
                Event::Lines(job, token) => ("lines", Some(job), token),
                Event::SessionLost => ("session_lost", None, LeaseToken(0)),
            };
            let job: &[u8] = job.as_ref().map_or(&[], |JobId(bytes)| bytes);
            let name = name.into_pyobject(py)?.into_any();
            let token = token.0.into_pyobject(py)?.into_any();
            list.append(PyTuple::new(py, [name, PyBytes::new(py, job).into_any(), token])?)?;
        }
        Ok(list)
    }

    #[pyo3(signature = (job_id, token, lines, first = 0))]
    fn tell_lines(
        &self,
        py: Python<'_>,
        job_id: &[u8],
        token: u64,
        lines: Option<Vec<String>>,
        first: u64,
    ) -> PyResult<()> {
        let (inner, job) = (self.checked(py)?, super::client::job_id(py, job_id)?);
        py.detach(|| inner.tell_lines(job, LeaseToken(token), lines.map(|lines| (first, lines))));
        Ok(())
    }

    fn fd(&self, py: Python<'_>) -> PyResult<RawFd> {
        Ok(self.checked(py)?.fd())
    }

    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.checked(py)?;
        py.detach(|| inner.pause());
        Ok(())
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.checked(py)?;
        py.detach(|| inner.resume());
        Ok(())
    }

    fn fenced(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.checked(py)?.is_fenced())
    }

    fn session(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.checked(py)?.session().0)
    }

    #[pyo3(signature = (timeout = None))]
    fn close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        if !self.is_own() {
            return Ok(()); // The parent closes it.
        }
        let inner = &self.inner;
        guard::patiently(py, timeout, |patience| inner.close(patience).map_err(Failure::from))
    }
}

fn flush(inner: &Inner, patience: &mut crate::client::patience::Patience<'_>) -> Result<()> {
    if inner.flush(patience)? {
        return Ok(());
    }
    Err(Error::TimedOut("some results are not stored yet".into()))
}
