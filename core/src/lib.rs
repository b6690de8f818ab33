//! qdrop-core: the framework of qdrop.
//!
//! The crate knows no model, observer, quantizer, reconstructor, dataset or task by name, except the default task of
//! recipes. It defines the interface of each of them ([`Observer`], [`Quantizer`], [`Reconstructor`],
//! [`Architecture`], [`Dataset`], [`Task`], [`Preparation`], [`Exporter`]), their registration ([`registry`]), the [`graph`] of a
//! network, the differentiable [`ops`] with the reference's gradients, and the [`pipeline`] that calibrates, reconstructs,
//! evaluates and saves what a [`recipe`] describes.
//!
//! A plugin needs `use qdrop_core::prelude::*;` and one call of a `register_*!` macro for each strategy.

pub mod architecture;
pub mod cache;
pub mod conformance;
pub mod cuda;
pub mod dataset;
pub mod device;
mod difference;
pub mod engine;
pub mod error;
pub mod exporter;
pub mod graph;
pub mod grid;
mod guard;
pub mod head;
pub mod inference;
pub mod machine;
pub mod memory;
pub mod model;
pub mod observer;
pub mod ops;
pub mod optim;
pub mod packed;
pub mod params;
pub mod picture;
pub mod pipeline;
pub mod plugin;
pub mod preparation;
pub mod progress;
pub mod quantizer;
pub mod random;
pub mod recipe;
pub mod reconstructor;
pub mod registry;
pub mod report;
pub mod rows;
pub mod run_directory;
mod summary;
mod survey;
pub mod target;
pub mod task;
pub mod weights;

pub use {anyhow, candle_core, candle_nn, inventory, qdrop_kernels as kernels, serde, serde_yaml};

pub use architecture::Architecture;
pub use dataset::Dataset;
pub use error::{Error, Result};
pub use exporter::Exporter;
pub use head::Head;
pub use observer::Observer;
pub use preparation::Preparation;
pub use quantizer::Quantizer;
pub use reconstructor::Reconstructor;
pub use task::Task;

/// Everything that the author of a plugin needs.
pub mod prelude {
    pub use crate::architecture::Architecture;
    pub use crate::dataset::{Dataset, DatasetRequest, Sample, Split};
    pub use crate::engine::{Engine, Regularizer, UnitData, UnitEngine};
    pub use crate::error::{Error, Input, Result};
    pub use crate::exporter::{ExportRequest, ExportedFile, ExportedNetwork, Exporter};
    pub use crate::graph::{
        channel_groups, ChannelGroup, Conv2d, Graph, GraphBuilder, NodeId, Op, Operator, Placement, Pool2d,
    };
    pub use crate::grid::{Granularity, QParams, QuantSpec, Range};
    pub use crate::head::{Head, ImageSize, Output, OBJECT_VALUES};
    pub use crate::model::{Precision, QuantModel};
    pub use crate::observer::{Consistency, Observer};
    pub use crate::ops;
    pub use crate::params::Params;
    pub use crate::picture::Picture;
    pub use crate::preparation::{clip_scalable_relu6, scale_channels, Change, Preparation, Preparing};
    pub use crate::quantizer::{groups, Parameter, Quantizer, QuantizerKernel};
    pub use crate::reconstructor::{Context, Grouping, Interrupted, Reconstructor, Rest, UnitTask};
    pub use crate::report::{LossPoint, UnitReport};
    pub use crate::target::{Labels, Object, Objects, Target, TargetSpec};
    pub use crate::task::{Comparison, Drawn, Measurement, Meter, Metric, MetricUnit, Record, Task};
    pub use crate::weights::KeyMap;
    pub use crate::{
        register_architecture, register_dataset, register_exporter, register_observer, register_preparation,
        register_quantizer, register_recipe, register_reconstructor, register_task,
    };
    pub use candle_core::{self, DType, Device, Tensor, Var};
    pub use serde::{self, Deserialize};
}
