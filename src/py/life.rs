//! A cluster from a backup, or from what is left of another one.

use std::path::Path;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::errors;
use crate::base::{ClusterId, Error, Result};
use crate::node::anew;

fn answer(py: Python<'_>, work: impl FnOnce() -> Result<Vec<u8>> + Send) -> PyResult<Bound<'_, PyBytes>> {
    let report = py.detach(work);
    report.map(|report| PyBytes::new(py, &report)).map_err(|error| errors::raise(py, &error))
}

fn cluster_id(text: Option<&str>) -> Result<Option<ClusterId>> {
    let parse = |text| {
        ClusterId::parse(text).ok_or_else(|| {
            Error::Invalid(format!("{text:?} is no id of a cluster: it has 32 hexadecimal digits, as health shows one"))
        })
    };
    text.map(parse).transpose()
}

#[pyfunction]
pub fn verify<'py>(py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyBytes>> {
    answer(py, || anew::verify(Path::new(path)))
}

#[pyfunction]
#[pyo3(signature = (file, path, cluster=None))]
pub fn restore<'py>(py: Python<'py>, file: &str, path: &str, cluster: Option<&str>) -> PyResult<Bound<'py, PyBytes>> {
    answer(py, || anew::restore(Path::new(file), Path::new(path), cluster_id(cluster)?))
}

#[pyfunction]
pub fn survey<'py>(py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyBytes>> {
    answer(py, || anew::survey(Path::new(path)))
}

#[pyfunction]
#[pyo3(signature = (path, cluster=None))]
pub fn recover<'py>(py: Python<'py>, path: &str, cluster: Option<&str>) -> PyResult<Bound<'py, PyBytes>> {
    answer(py, || anew::recover(Path::new(path), cluster_id(cluster)?))
}
