//! Checks that every engine makes on its caller's arguments, and the errors that they share.

use crate::error::{Error, Result};

/// The learning rate of a parameter group.
pub fn rate_of(rates: &[(&str, f64)], group: &str) -> Result<f64> {
    let found = rates.iter().find(|(name, _)| *name == group);
    found.map(|(_, rate)| *rate).ok_or_else(|| {
        let known: Vec<&str> = rates.iter().map(|(name, _)| *name).collect();
        Error::message(format!("the parameters' group '{group}' has no learning rate; there are rates for {known:?}"))
    })
}

/// Checks that a step gets as many samples as the engine was made for.
pub fn check_batch(samples: &[usize], batch: usize) -> Result<()> {
    if samples.len() == batch {
        return Ok(());
    }
    Err(Error::message(format!("a step of {} samples, but the engine was made for batches of {batch}", samples.len())))
}

/// Checks the shapes of gradients against those of the outputs of the last forward pass.
pub fn check_gradients<'a>(
    gradients: impl ExactSizeIterator<Item = &'a [usize]>,
    outputs: impl ExactSizeIterator<Item = &'a [usize]>,
) -> Result<()> {
    if outputs.len() == 0 {
        return Err(Error::message(
            "there is no forward pass to compute gradients of; call `forward` before each `backward`",
        ));
    }
    if gradients.len() != outputs.len() {
        return Err(Error::message(format!("{} gradients for {} outputs", gradients.len(), outputs.len())));
    }
    match gradients.zip(outputs).find(|(gradient, output)| gradient != output) {
        Some((gradient, output)) => {
            Err(Error::message(format!("a gradient of the shape {gradient:?} for an output of the shape {output:?}")))
        }
        None => Ok(()),
    }
}

/// The error of a step that mixes values on the fused engine of a GPU.
pub fn no_mixing() -> Error {
    Error::message("the fused engine of a GPU mixes no values; open the engine with `UnitTask::engine_for`")
}

/// The error of a step of several batches on the fused engine of a GPU.
pub fn one_pass() -> Error {
    Error::message(
        "the fused engine of a GPU computes one batch in a step; open the engine with `UnitTask::engine_for`",
    )
}

/// The error of an update that no gradients precede.
pub fn no_gradients() -> Error {
    Error::message("an update without gradients: call `loss`, or `forward` and `backward`, before it")
}
