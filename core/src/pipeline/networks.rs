//! The networks of a session: the float one with its weights, and those without values.

use super::session::{Source, ARCHITECTURE};
use super::Session;
use crate::error::{Error, Input, Result};
use crate::graph::{fold_batch_norm, Op};
use crate::model::{batch_norm_statistics, QuantModel};
use crate::weights::{self, Loaded};
use candle_core::{DType, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;

impl Session<'_> {
    /// The session whose network the architecture describes.
    fn with_source(&self) -> Result<Self> {
        Self::new(self.recipe.clone(), self.registries, self.device.clone())
    }

    /// The files with the float weights: a checkpoint, or the files of a network that comes with its weights.
    ///
    /// # Errors
    /// [`Error::NotGiven`]: the recipe names no checkpoint. [`Error::Setting`]: it names one for a network that comes with
    /// its weights.
    pub fn weights_files(&self) -> Result<Vec<PathBuf>> {
        let Some(Source { own_files, .. }) = &self.source else { return self.with_source()?.weights_files() };
        match &own_files[..] {
            [] => Ok(vec![self.checkpoint()?]),
            [file, ..] if self.recipe.model.weights.is_some() => {
                let message = format!("the network comes with its weights, from {}; leave the key out", file.display());
                Err(Error::setting("model.weights", message))
            }
            own => Ok(own.to_vec()),
        }
    }

    fn checkpoint(&self) -> Result<PathBuf> {
        let file = self.recipe.model.weights.as_ref();
        let file = file.ok_or_else(|| Error::not_given("model.weights", Input::Weights))?;
        Ok(self.recipe.resolve("model.weights", file))
    }

    /// The full-precision network with its weights, after batch-norm folding.
    ///
    /// # Errors
    /// The checkpoint cannot be read or does not match the network.
    pub fn float_model(&self) -> Result<QuantModel> {
        self.float_network().map(|(model, _)| model)
    }

    /// The [float network](Self::float_model), and where its weights were in the checkpoint unless they were all of it.
    ///
    /// # Errors
    /// The checkpoint cannot be read or does not match the network.
    pub fn float_network(&self) -> Result<(QuantModel, Option<String>)> {
        let Some(Source { architecture, own_files }) = &self.source else {
            return self.with_source()?.float_network();
        };
        if !own_files.is_empty() {
            self.weights_files()?;
            let own = architecture.parameters(&self.recipe.model.architecture.params_at(ARCHITECTURE))?;
            let on_device = |(name, value): (String, Tensor)| Ok((name, value.to_device(&self.device)?));
            return Ok((self.model(own.into_iter().map(on_device).collect::<Result<_>>()?)?, None));
        }
        let maps = architecture.key_maps(&self.graph)?;
        let key = self.recipe.model.weights_key.as_deref();
        let Loaded { parameters, taken, others } =
            weights::load(&self.checkpoint()?, &self.parameter_shapes(), &maps, key, &self.device)?;
        let place = (!taken.is_empty() || !others.is_empty()).then(|| {
            let quoted = |place: &String| if place.is_empty() { "no key ('')".into() } else { format!("'{place}'") };
            let mut note = format!("the weights are those under {}", quoted(&taken));
            if !others.is_empty() {
                let list = others.iter().map(quoted).collect::<Vec<_>>().join(", ");
                note += &format!("; the checkpoint holds others under {list}, which `model.weights_key` can choose");
            }
            note
        });
        Ok((self.model(parameters)?, place))
    }

    /// Names and shapes of all parameters, those of the head included.
    fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.graph.parameter_shapes().into_iter().chain(self.head_parameters()).collect()
    }

    /// Names and shapes of the head's parameters.
    pub(super) fn head_parameters(&self) -> Vec<(String, Vec<usize>)> {
        self.head.as_ref().map(|head| head.parameters()).unwrap_or_default()
    }

    /// The network with all parameters zero (the bounds of clips 1), after batch-norm folding.
    ///
    /// # Errors
    /// A tensor cannot be made on the device.
    pub fn zero_model(&self) -> Result<QuantModel> {
        let mut parameters = HashMap::new();
        for (name, shape) in self.parameter_shapes() {
            parameters.insert(name, Tensor::zeros(shape, DType::F32, &self.device)?);
        }
        for (_, node) in self.graph.nodes().filter(|(_, node)| node.op == Op::Clip) {
            // A bound is a positive number.
            let bound = Tensor::ones(node.shape[0], DType::F32, &self.device)?;
            parameters.insert(format!("{}.bound", node.name), bound);
        }
        self.model(parameters)
    }

    /// The network after batch-norm folding, with the operations that the recipe's preparations give it; its values are the same.
    fn model(&self, mut parameters: HashMap<String, Tensor>) -> Result<QuantModel> {
        let statistics = batch_norm_statistics(&self.graph, &parameters)?;
        let graph = fold_batch_norm(self.graph.clone(), &mut parameters)?;
        let mut model = QuantModel::new(graph, parameters, self.device.clone()).with_head(self.head.clone());
        model.set_statistics(statistics)?;
        model.allow_tf32(self.recipe.tf32);
        // The graph of a saved result is rewritten already.
        if self.source.is_some() {
            self.preparations.iter().try_for_each(|preparation| preparation.rewrite(&mut model))?;
        }
        Ok(model)
    }
}
