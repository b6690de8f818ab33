//! Architectures: networks as graphs, and the tensor names of their checkpoints.

use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::guard::Origin;
use crate::head::{GuardedHead, Head};
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use crate::weights::KeyMap;
use candle_core::Tensor;
use std::collections::HashMap;
use std::path::PathBuf;

/// A family of networks.
pub trait Architecture: Send + Sync {
    /// Builds the network with the given parameters. The names of its nodes are the canonical tensor
    /// names.
    ///
    /// # Errors
    /// A parameter is unknown or out of range.
    fn graph(&self, params: &Params) -> Result<Graph>;

    /// The files that describe the network and hold its weights, such as an ONNX file. Empty, as by default, if the weights
    /// come from a checkpoint (`model.weights`).
    ///
    /// # Errors
    /// A parameter is unknown or out of range.
    fn files(&self, params: &Params) -> Result<Vec<PathBuf>> {
        let _ = params;
        Ok(Vec::new())
    }

    /// The weights in [`files`](Self::files), in f32 on the CPU: the parameters of the graph by name. Asked only if there are
    /// such files.
    ///
    /// # Errors
    /// A file cannot be read.
    fn parameters(&self, params: &Params) -> Result<HashMap<String, Tensor>> {
        Err(Error::setting(params.path(), "this architecture has no file with weights"))
    }

    /// What reads the graph's outputs, outside of quantization; by default nothing does.
    ///
    /// # Errors
    /// A parameter is unknown or out of range.
    fn head(&self, params: &Params) -> Result<Option<Box<dyn Head>>> {
        let _ = params;
        Ok(None)
    }

    /// Other names that checkpoints of this architecture use, to be tried after the
    /// canonical ones. `graph` is what [`graph`](Self::graph) returned.
    ///
    /// # Errors
    /// The graph is not one of this architecture.
    fn key_maps(&self, graph: &Graph) -> Result<Vec<KeyMap>> {
        let _ = graph;
        Ok(Vec::new())
    }
}

/// Wraps the architecture of a registry entry, so that its panics become errors.
struct GuardedArchitecture {
    origin: Origin,
    inner: Box<dyn Architecture>,
}

impl Architecture for GuardedArchitecture {
    fn graph(&self, params: &Params) -> Result<Graph> {
        self.origin.call("graph", || self.inner.graph(params))
    }

    fn files(&self, params: &Params) -> Result<Vec<PathBuf>> {
        self.origin.call("files", || self.inner.files(params))
    }

    fn parameters(&self, params: &Params) -> Result<HashMap<String, Tensor>> {
        self.origin.call("parameters", || self.inner.parameters(params))
    }

    fn head(&self, params: &Params) -> Result<Option<Box<dyn Head>>> {
        let head = self.origin.call("head", || self.inner.head(params))?;
        head.map(|head| Ok(Box::new(GuardedHead::new(self.origin, head)?) as Box<dyn Head>)).transpose()
    }

    fn key_maps(&self, graph: &Graph) -> Result<Vec<KeyMap>> {
        self.origin.call("key_maps", || self.inner.key_maps(graph))
    }
}

define_kind!(
    /// Constructor of an architecture.
    ArchitectureKind,
    "architecture",
    fn() -> Box<dyn Architecture>
);

impl Entry<ArchitectureKind> {
    /// Builds the architecture.
    ///
    /// # Errors
    /// Its constructor panicked.
    pub fn build(&self) -> Result<Box<dyn Architecture>> {
        let origin = Origin::of(self);
        let inner = origin.call("build", || Ok((self.constructor.0)()))?;
        Ok(Box::new(GuardedArchitecture { origin, inner }))
    }
}

/// Registers an architecture. The fields are those of
/// [`register_observer!`](crate::register_observer), except that `build` takes no argument.
#[macro_export]
macro_rules! register_architecture {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::architecture::ArchitectureKind, $name, [$($alias),*], $summary, $build);
    };
}
