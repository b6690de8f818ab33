//! A plugin with a copy of the framework of its own: what it computes belongs to other tensors than
//! the program's, and what it registers is in another registry.

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
