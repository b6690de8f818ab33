//! A plugin with its own copy of the framework: its tensors are not compatible with the program's,
//! and its registrations go into another registry.

use qdrop_core::prelude::*;

struct OwnCopy;

impl Observer for OwnCopy {
    fn observe(&mut self, _: &Tensor) -> Result<()> {
        Ok(())
    }

    fn range(&self) -> Result<Range> {
        Err(Error::message("sees nothing"))
    }
}

register_observer! { name: "own_copy", aliases: [], summary: "must be refused", build: |_, _| Ok(Box::new(OwnCopy)) }
