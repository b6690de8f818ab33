//! Whether an optimization step fits into the machine's memory.

use crate::error::{Error, Result};
use crate::graph::{Graph, Unit};
use crate::memory::{available, gib};

/// Tensors of a value's size that a step of the generic engine holds at once: the value, its activation, the
/// quantized activation, the mix of both, and the gradient of each of the four.
const COPIES: usize = 8;

/// Checks that a step of the generic engine fits into the free memory.
///
/// # Errors
/// It does not fit; the message says how much memory it needs.
pub fn check(graph: &Graph, unit: &Unit, batch: usize) -> Result<()> {
    let values: usize = unit.nodes().iter().map(|id| graph.node(*id).shape.iter().product::<usize>()).sum();
    let needed = (values * batch * COPIES * size_of::<f32>()) as u64;
    fits(&unit.name, batch, needed, available())
}

fn fits(unit: &str, batch: usize, needed: u64, available: Option<u64>) -> Result<()> {
    match available {
        Some(free) if needed > free => {
            let message = format!(
                "a step of {batch} samples needs about {:.1} GiB of memory, and {:.1} GiB are free; merge fewer units, or \
                 lower batch_size",
                gib(needed),
                gib(free)
            );
            Err(Error::graph(unit, message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_too_large_says_what_it_needs() {
        let error = fits("a+b", 64, 3 << 30, Some(1 << 30)).unwrap_err().to_string();
        let want =
            "graph node 'a+b': a step of 64 samples needs about 3.0 GiB of memory, and 1.0 GiB are free; merge fewer";
        assert!(error.starts_with(want), "{error}");
        assert!(fits("a", 1, 5, Some(5)).is_ok() && fits("a", 1, u64::MAX, None).is_ok());
    }
}
