//! The Python module `raftwork._core`: bytes in, bytes out. No Python object crosses into the core, and no thread of the
//! core touches Python.
//!
//! ```text
//! guard     the interpreter released while waiting, Ctrl-C let through
//! errors    one match from what went wrong to a class of raftwork.errors
//! options   the options of the doors, as MessagePack
//! client    class Client
//! fetcher   class Fetcher
//! fork      what a forked child gets, and what it lets go of
//! life      a cluster from a backup, or from what is left
//! lock      class Lock
//! ```

mod client;
mod errors;
mod fetcher;
mod fork;
mod guard;
mod life;
mod lock;
mod options;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use std::path::Path;

use crate::base::codec::Writer;
use crate::client::request::Failure;

/// Every name of the module, in one block.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<client::Client>()?;
    module.add_class::<fetcher::Fetcher>()?;
    module.add_class::<lock::Lock>()?;
    module.add_function(wrap_pyfunction!(doctor, module)?)?;
    module.add_function(wrap_pyfunction!(found_cluster, module)?)?;
    module.add_function(wrap_pyfunction!(join_cluster, module)?)?;
    module.add_function(wrap_pyfunction!(log_pipe, module)?)?;
    module.add_function(wrap_pyfunction!(look_at_member, module)?)?;
    module.add_function(wrap_pyfunction!(new_ids, module)?)?;
    module.add_function(wrap_pyfunction!(life::recover, module)?)?;
    module.add_function(wrap_pyfunction!(life::restore, module)?)?;
    module.add_function(wrap_pyfunction!(salvage, module)?)?;
    module.add_function(wrap_pyfunction!(life::survey, module)?)?;
    module.add_function(wrap_pyfunction!(life::verify, module)?)?;
    module.add_function(wrap_pyfunction!(version, module)?)?;
    fork::register(module)
}

#[pyfunction]
fn new_ids(py: Python<'_>, n: usize) -> PyResult<Bound<'_, PyList>> {
    // With the interpreter held: no other thread of Python may fork while the last id is locked.
    let ids = crate::client::new_ids::new_ids(n).map_err(|error| errors::raise(py, &error))?;
    PyList::new(py, ids.iter().map(|id| PyBytes::new(py, &id.0)))
}

#[pyfunction]
fn doctor<'py>(py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyBytes>> {
    let report = py.detach(|| crate::node::doctor::inspect(Path::new(path)));
    report.map(|report| PyBytes::new(py, &report)).map_err(|error| errors::raise(py, &error))
}

#[pyfunction]
#[pyo3(signature = (path, accept_loss=false))]
fn salvage<'py>(py: Python<'py>, path: &str, accept_loss: bool) -> PyResult<Bound<'py, PyBytes>> {
    let report = py.detach(|| crate::node::doctor::salvage(Path::new(path), accept_loss));
    report.map(|report| PyBytes::new(py, &report)).map_err(|error| errors::raise(py, &error))
}

#[pyfunction]
fn log_pipe(py: Python<'_>) -> PyResult<(i32, i32)> {
    crate::client::log_pipe::ends().map_err(|error| errors::raise(py, &error))
}

#[pyfunction]
fn look_at_member<'py>(py: Python<'py>, options: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let (address, security, token, timeout) = options::member(options).map_err(|error| errors::raise(py, &error))?;
    let said = guard::patiently(py, Some(timeout.as_secs_f64()), |patience| {
        crate::client::probe::look_at(&address, &security, token.clone(), patience).map_err(Failure::from)
    })?;
    Ok(PyBytes::new(py, &said))
}

#[pyfunction]
fn found_cluster<'py>(py: Python<'py>, options: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let founded = options::found(options).and_then(|(dir, names)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        py.detach(|| crate::client::founding::found(Path::new(&dir), &names))
    });
    let founded = founded.map_err(|error| errors::raise(py, &error))?;
    let mut out = Writer::new();
    out.map(3).str("cluster").str(&founded.cluster.to_string());
    out.str("token").str(&founded.token.text()).str("digest").bin(&founded.token.digest());
    Ok(PyBytes::new(py, out.as_bytes()))
}

#[pyfunction]
fn join_cluster<'py>(py: Python<'py>, options: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let joined = options::join(options).and_then(|(invitation, dir, names)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        py.detach(|| crate::client::founding::join(&invitation, Path::new(&dir), &names))
    });
    let joined = joined.map_err(|error| errors::raise(py, &error))?;
    let mut out = Writer::new();
    out.map(4).str("role").str(&joined.certified.role.to_string());
    out.str("cluster").str(&joined.certified.cluster.to_string());
    for (name, addresses) in [("members", &joined.raft), ("clients", &joined.clients)] {
        out.str(name).array(addresses.len());
        addresses.iter().for_each(|address| {
            out.str(address);
        });
    }
    Ok(PyBytes::new(py, out.as_bytes()))
}

#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
