//! A connection's place in its shard: in the counts of connections and in the budget of buffers.

use std::rc::Rc;

use super::{
    super::{
        budget::{GivesWay, HolderId},
        resources::{PooledBuffer, ShardResources},
    },
    ConnectionError,
};
use crate::model::MailClass;

/// Counts the connection in its shard, and holds its place in the buffer budget, until it is
/// dropped.
pub(super) struct Seat {
    pub(super) resources: Rc<ShardResources>,
    pub(super) holder: HolderId,
    pub(super) class: MailClass,
}

impl Seat {
    pub(super) fn take(resources: &Rc<ShardResources>) -> Seat {
        let class = MailClass::Local;
        resources.connections().add(class, 1);
        Seat { resources: resources.clone(), holder: resources.buffers().enter(), class }
    }

    pub(super) fn set_class(&mut self, class: MailClass) {
        self.resources.connections().remove(self.class, 1);
        self.resources.connections().add(class, 1);
        self.class = class;
    }

    pub(super) fn buffer(&self) -> PooledBuffer {
        PooledBuffer::new(&self.resources, self.holder)
    }

    /// `NoMemory` if this connection must give way.
    pub(super) fn settle(&self) -> Result<(), ConnectionError> {
        let settled = self.resources.buffers().settle(self.holder);
        settled.map_err(|GivesWay| ConnectionError::NoMemory)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.resources.buffers().leave(self.holder);
        self.resources.connections().remove(self.class, 1);
    }
}
