//! A read-only device: for tools that examine a partition and must not change it.
//!
//! Nothing is created or deleted; the start goes on as if its clean-up had happened.

use std::{io, rc::Rc};

use super::{Device, File};
use crate::runtime::LocalFuture;

/// Wraps another device and changes nothing on it.
pub struct ReadOnlyDevice<D>(pub D);

impl<D: Device> Device for ReadOnlyDevice<D> {
    fn create(&self, _name: &str, _size_hint: u64) -> LocalFuture<'_, io::Result<Rc<dyn File>>> {
        Box::pin(async { Err(io::ErrorKind::ReadOnlyFilesystem.into()) })
    }

    fn open(&self, name: &str) -> LocalFuture<'_, io::Result<Rc<dyn File>>> {
        self.0.open(name)
    }

    fn sync_directory(&self) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn delete(&self, _name: &str) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn reserve(&self, _name: &str, _len: u64) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn free_space(&self) -> LocalFuture<'_, io::Result<Option<u64>>> {
        self.0.free_space()
    }

    fn list(&self) -> LocalFuture<'_, io::Result<Vec<String>>> {
        self.0.list()
    }
}
