//! What Python does around a fork. The child has the memory of its parent and none of its threads: what a lock protects is
//! whole there only if nobody had that lock, so whoever forks holds those that every process has one of. The locks of
//! single clients it leaves alone, as its parent's clients: see `client`.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::any::Any;
use std::cell::RefCell;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

thread_local! {
    /// The locks that this thread holds while it forks. The child begins with the same thread.
    static HELD: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Has these called at every fork by Python.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let hooks = PyDict::new(module.py());
    hooks.set_item("before", wrap_pyfunction!(before, module)?)?;
    hooks.set_item("after_in_parent", wrap_pyfunction!(after_in_parent, module)?)?;
    hooks.set_item("after_in_child", wrap_pyfunction!(after_in_child, module)?)?;
    module.py().import("os")?.call_method("register_at_fork", (), Some(&hooks))?;
    Ok(())
}

/// Each of these is held for moments, and by nobody who waits for the interpreter.
#[pyfunction]
fn before() {
    let held: Vec<Box<dyn Any>> = vec![
        Box::new(crate::client::link::held_over_a_fork()),
        Box::new(crate::disk::lock::held_over_a_fork()),
        Box::new(crate::net::held_over_a_fork()),
    ];
    HELD.set(held);
}

#[pyfunction]
fn after_in_parent() {
    HELD.take();
}

/// No lock and no connection of the parent is to live on in the child. The numbers of its files stay taken, as the parent's
/// objects still name them here; behind them is nothing any more.
#[pyfunction]
fn after_in_child(py: Python<'_>) -> PyResult<()> {
    HELD.take();
    crate::disk::lock::release_in_forked_child();
    let directories = crate::client::link::opened_directories();
    let mut inherited = crate::net::open_sockets();
    if directories.is_empty() && inherited.is_empty() {
        return Ok(());
    }
    let nothing = std::fs::File::open("/dev/null")?;
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        let inside = |path: &PathBuf| directories.iter().any(|directory| path.starts_with(directory));
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if std::fs::read_link(entry.path()).is_ok_and(|path| inside(&path)) {
            inherited.extend(number);
        }
    }
    for number in inherited {
        py.import("os")?.call_method1("dup2", (nothing.as_raw_fd(), number, false))?;
    }
    Ok(())
}
