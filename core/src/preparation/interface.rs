//! The interface of a preparation.

use super::change::Change;
use super::context::Preparing;
use crate::error::Result;
use crate::graph::Graph;
use crate::model::QuantModel;

/// Changes the float network before it is calibrated, so that it loses less when it is quantized. The float network's
/// outputs stay the same, up to [`tolerance`](Self::tolerance).
pub trait Preparation: Send + Sync {
    /// Largest change of a float output by this preparation, relative to the largest output. The framework checks it on
    /// calibration images, and refuses a network that changed more.
    fn tolerance(&self) -> f64;

    /// Changes operations, not values: afterwards the network must compute exactly the same. It depends on the graph
    /// alone, because it is called wherever the network is built, also without weights; what depends on weights or images
    /// belongs to [`apply`](Self::apply). The default changes nothing.
    ///
    /// # Errors
    /// The graph does not allow it.
    fn rewrite(&self, model: &mut QuantModel) -> Result<()> {
        let _ = model;
        Ok(())
    }

    /// What [`apply`](Self::apply) will do, for readers and without weights or images: one line for each part of the
    /// network. The default says nothing.
    ///
    /// # Errors
    /// The graph does not allow it.
    fn outline(&self, graph: &Graph) -> Result<Vec<String>> {
        let _ = graph;
        Ok(Vec::new())
    }

    /// Changes the parameters of the float network, which was rewritten before. Returns what it did.
    ///
    /// # Errors
    /// A parameter is missing, images cannot be read, or the run was cancelled.
    fn apply(&self, network: &mut Preparing<'_>) -> Result<Vec<Change>>;
}
