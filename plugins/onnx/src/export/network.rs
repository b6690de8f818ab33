//! The walk over a network: each node's value in the file, in floating point or as codes.

use super::file::{Constant, File};
use super::layer::Layer;
use super::notes::Notes;
use super::operation;
use super::product::is_product;
use super::site::{check_sites, codes_on_grid, constants, float_site, ByteSite};
use super::Pattern;
use crate::proto::GraphProto;
use qdrop_core::graph::Node;
use qdrop_core::model::{ByteGrid, IntegerLayer, IntegerSums, NotInteger, QuantModel, QuantSite};
use qdrop_core::ops::host_values;
use qdrop_core::prelude::{Error, ExportRequest, Graph, NodeId, Op, Result, Tensor};
use std::collections::{HashMap, HashSet};

/// A network that is being written.
pub struct Network<'a> {
    /// The network.
    pub model: &'a QuantModel,
    /// The file so far.
    pub file: File,
    /// What the user should know.
    pub notes: Notes,
    pattern: Pattern,
    /// The name of each node's value.
    names: Vec<String>,
    /// Values in floating point that are in the file.
    floats: HashMap<NodeId, String>,
    /// Values as codes that are in the file, with their grids.
    codes: HashMap<NodeId, (String, ByteGrid)>,
    /// Quantizers in integers, by node.
    sites: HashMap<NodeId, ByteSite>,
    /// The nodes whose values quantizers in integers read.
    bases: HashSet<NodeId>,
    /// Quantizers on grids of bytes that are computed in floating point, so that runtimes do not join them with the layer
    /// before.
    apart: HashMap<NodeId, ByteGrid>,
    /// What layers are in integers.
    layers: HashMap<NodeId, std::result::Result<IntegerLayer, NotInteger>>,
    /// The names of the file's outputs.
    outputs: Vec<String>,
}

impl<'a> Network<'a> {
    /// Plans the file of a network.
    ///
    /// # Errors
    /// A quantizer cannot be written.
    pub fn new(request: &ExportRequest<'a>, pattern: Pattern) -> Result<Self> {
        let model = request.model;
        check_sites(model)?;
        let mut file = File::default();
        let (names, outputs) = names(model.graph(), &mut file);
        let input = model.graph().input();
        let floats = HashMap::from([(input, names[input.index()].clone())]);
        let (codes, sites, bases, apart, layers) = Default::default();
        let notes = Notes::default();
        let mut this = Self { model, file, notes, pattern, names, floats, codes, sites, bases, apart, layers, outputs };
        if pattern == Pattern::Integer {
            this.plan()?;
        }
        Ok(this)
    }

    /// Decides what is computed in integers.
    fn plan(&mut self) -> Result<()> {
        let layers = self.graph().nodes().filter(|(_, node)| node.op.has_weight());
        for (id, _) in layers {
            self.layers.insert(id, self.model.integer_layer(id)?);
        }
        for (id, site) in self.model.activation_sites() {
            let Some(planned) = ByteSite::of(self.model, id)? else {
                self.notes.add(
                    "values on a grid of more than 8 bits or with several scales are rounded in floating point",
                    &site.name,
                );
                continue;
            };
            // Runtimes round the weights of a float layer between two quantizers to 8 bits by themselves (onnxruntime does
            // since 1.24).
            let reads = self.graph().node(planned.base).inputs.first().and_then(|input| self.model.grid_source(*input));
            let in_floats = matches!(self.layers.get(&planned.base), Some(Err(_)));
            if in_floats && reads.is_some_and(|source| self.sites.contains_key(&source)) {
                self.apart.insert(id, planned.grid());
            } else {
                self.bases.insert(planned.base);
                self.sites.insert(id, planned);
            }
        }
        Ok(())
    }

    /// The network's graph.
    pub fn graph(&self) -> &'a Graph {
        self.model.graph()
    }

    /// Writes all nodes, and returns the graph of the file.
    ///
    /// # Errors
    /// An operation cannot be written.
    pub fn write(mut self) -> Result<(GraphProto, Notes)> {
        let absorbed: Vec<NodeId> = self.sites.values().flat_map(|site| site.absorbed.iter().copied()).collect();
        for (id, node) in self.graph().nodes() {
            if let Some(site) = self.sites.get(&id).cloned() {
                self.byte_site(id, &site)?;
            } else if !absorbed.contains(&id) && node.op != Op::Input {
                self.unquantized(id)?;
                if let Some(site) = self.model.activation_site(id) {
                    self.float_site(id, site)?;
                }
            }
        }
        let mut named = Vec::new();
        for (output, name) in self.graph().outputs().iter().zip(std::mem::take(&mut self.outputs)) {
            let value = self.float(*output)?;
            if value != name {
                self.file.add("Identity", &[&value], &name, Vec::new());
            }
            named.push(operation::value(&name, &self.graph().node(*output).shape));
        }
        let input = operation::value(&self.names[self.graph().input().index()], self.graph().input_shape());
        let File { nodes: node, constants: initializer, .. } = self.file;
        let (name, input) = ("qdrop".into(), vec![input]);
        Ok((GraphProto { node, name, initializer, input, output: named, ..Default::default() }, self.notes))
    }

    /// The name of a node's value in floating point, which is added to the file if only its codes are there.
    ///
    /// # Errors
    /// The value is not in the file.
    pub fn float(&mut self, id: NodeId) -> Result<String> {
        if let Some(name) = self.floats.get(&id) {
            return Ok(name.clone());
        }
        let Some((codes, grid)) = self.codes.get(&id).cloned() else {
            return Err(Error::graph(&self.graph().node(id).name, "is read before it is computed"));
        };
        let name = self.names[id.index()].clone();
        let [scale, zero_point] = constants(grid, &mut self.file);
        self.file.add("DequantizeLinear", &[&codes, &scale, &zero_point], &name, Vec::new());
        self.floats.insert(id, name.clone());
        Ok(name)
    }

    /// The codes of a node's value and their grid, if it has some.
    ///
    /// # Errors
    /// The value is not in the file.
    pub fn codes(&mut self, id: NodeId) -> Result<Option<(String, ByteGrid)>> {
        if let (None, Some(grid)) = (self.codes.get(&id), self.apart.get(&id).copied()) {
            let (value, wanted) = (self.float(id)?, format!("{}.quantized", self.graph().node(id).name));
            let codes = codes_on_grid(&mut self.file, grid, &value, &wanted);
            self.codes.insert(id, (codes, grid));
        }
        Ok(self.codes.get(&id).cloned())
    }

    /// The name of a node's value in floating point, as the output of a node that takes it from codes.
    ///
    /// # Errors
    /// The value has no codes.
    pub fn dequantized(&mut self, id: NodeId) -> Result<String> {
        let name = &self.graph().node(id).name;
        let Some((codes, grid)) = self.codes(id)? else {
            return Err(Error::graph(name, "has no codes"));
        };
        if !self.apart.contains_key(&id) {
            return self.float(id);
        }
        let [scale, zero_point] = constants(grid, &mut self.file);
        let inputs = [codes.as_str(), &scale, &zero_point];
        Ok(self.file.node("DequantizeLinear", &inputs, &format!("{name}.dequantized"), Vec::new()))
    }

    /// Keeps the codes of a node's value.
    pub fn set_codes(&mut self, id: NodeId, codes: String, grid: ByteGrid) {
        self.codes.insert(id, (codes, grid));
    }

    /// The name that the value of a node has before its quantizer, if there is one here.
    pub fn unquantized_name(&mut self, id: NodeId) -> String {
        match self.model.activation_site(id) {
            Some(_) => self.file.fresh(&format!("{}.unquantized", self.graph().node(id).name)),
            None => self.names[id.index()].clone(),
        }
    }

    /// Keeps the name of a node's value in floating point.
    pub fn set_float(&mut self, id: NodeId, name: String) {
        self.floats.insert(id, name);
    }

    /// What a layer is in integers, if the file computes it so: its value must be quantized at once, or be no image.
    pub fn integer_layer(&mut self, id: NodeId) -> Option<IntegerLayer> {
        let node = self.graph().node(id);
        let quantized_next = self.bases.contains(&id);
        match self.layers.get(&id)? {
            Ok(layer) if quantized_next || matches!(node.op, Op::Linear { .. }) => Some(layer.clone()),
            Ok(_) if is_product(&node.op) => None,
            Ok(_) => {
                let why = "its value is added to another one, or goes through a function, before it is quantized";
                self.notes.add(&format!("layers are computed in floating point: {why}"), &node.name);
                None
            }
            Err(why) => {
                self.notes.add(&format!("layers are computed in floating point: {why}"), &node.name);
                None
            }
        }
    }

    /// What a layer is in integers, if the file computes it as a product of matrices of integers.
    pub fn product(&self, id: NodeId) -> Option<IntegerLayer> {
        let wanted = is_product(&self.graph().node(id).op) && !self.bases.contains(&id);
        self.layers.get(&id)?.as_ref().ok().filter(|_| wanted).cloned()
    }

    /// What a layer is as sums of integers in floating point, if the file computes it so: all layers that can be where it
    /// computes what qdrop does, and otherwise those of the image, which are not computed in integers.
    ///
    /// # Errors
    /// A quantizer has no range.
    pub fn sums(&self, id: NodeId) -> Result<Option<IntegerSums>> {
        let sums = self.model.integer_sums(id, &self.graph().whole())?;
        Ok(sums.filter(|sums| self.is_exact() || sums.rest))
    }

    /// Whether the file must round as qdrop does.
    pub fn is_exact(&self) -> bool {
        self.pattern == Pattern::Exact
    }

    /// Adds a parameter of a node.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn parameter(&mut self, node: &Node, name: &str, shape: Option<Vec<usize>>) -> Result<String> {
        let name = format!("{}.{name}", node.name);
        let tensor = self.model.parameter(&name)?;
        self.tensor(&name, tensor, shape)
    }

    /// Adds a tensor, if need be in another shape of as many elements.
    ///
    /// # Errors
    /// Its values cannot be read.
    pub fn tensor(&mut self, name: &str, tensor: &Tensor, shape: Option<Vec<usize>>) -> Result<String> {
        let shape = shape.unwrap_or_else(|| tensor.dims().to_vec());
        let constant = host_values(tensor, |values| Constant::new(values.iter().copied(), shape))?;
        Ok(self.file.constant(name, constant))
    }

    /// Adds the value of a node before its quantizer.
    fn unquantized(&mut self, id: NodeId) -> Result<()> {
        let node = self.graph().node(id);
        match node.op.has_weight() {
            true => Layer::new(self, id)?.write(self),
            false => operation::write(self, id),
        }
    }

    /// Adds a quantizer in integers, with the value that it reads.
    fn byte_site(&mut self, id: NodeId, site: &ByteSite) -> Result<()> {
        let node = self.graph().node(id);
        if site.base == id {
            self.unquantized(id)?;
        }
        let value = self.float(site.base)?;
        if site.base == id {
            // The name of the node's value is that of the quantized one.
            self.floats.remove(&id);
        }
        let (codes, by_channel) = site.codes(&mut self.file, &value, &node.name, node.shape.len());
        if by_channel {
            self.notes.add(
                "bounds that differ between channels need `Min` of bytes, which onnxruntime has since 1.24",
                &node.name,
            );
        }
        self.set_codes(id, codes, site.grid());
        Ok(())
    }

    /// Adds a quantizer in floating point after the value that it reads.
    fn float_site(&mut self, id: NodeId, site: &QuantSite) -> Result<()> {
        let node = self.graph().node(id);
        let Some(value) = self.floats.remove(&id) else {
            return Err(Error::graph(&node.name, "is quantized before it is computed"));
        };
        let name = self.names[id.index()].clone();
        float_site(&mut self.file, site, &value, &name, node.shape.len())?;
        self.floats.insert(id, name);
        Ok(())
    }
}

/// The name of each node's value, and those of the outputs; each of them is used once.
fn names(graph: &Graph, file: &mut File) -> (Vec<String>, Vec<String>) {
    let outputs: Vec<String> = graph.ends().outputs.iter().map(|name| file.fresh(name)).collect();
    let input = file.fresh(&graph.ends().input);
    let name = |(id, node): (NodeId, &Node)| match graph.outputs().iter().position(|output| *output == id) {
        _ if id == graph.input() => input.clone(),
        Some(i) => outputs[i].clone(),
        None => file.fresh(&node.name),
    };
    (graph.nodes().map(name).collect(), outputs)
}
