//! Folding batch normalization into the layer before it.

use super::{Graph, Node, NodeId, Op};
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::collections::HashMap;

/// Removes every batch normalization that is the only reader of a layer. It scales the layer's weight by
/// `gamma / sqrt(var + eps)` and adapts its bias (batch-norm folding, arXiv 1712.05877, equation 14). Which nodes
/// are folded depends only on the graph's edges, never on the order or the names of nodes.
///
/// # Errors
/// A parameter is missing.
pub fn fold_batch_norm(graph: Graph, parameters: &mut HashMap<String, Tensor>) -> Result<Graph> {
    let foldable = folded_batch_norms(&graph);
    let names: Vec<(String, String)> =
        foldable.iter().map(|(bn, conv, _)| (graph.node(*bn).name.clone(), graph.node(*conv).name.clone())).collect();
    for ((_, conv, eps), (bn, name)) in foldable.iter().zip(&names) {
        let (Op::Conv2d { bias, .. } | Op::Linear { bias, .. }) = graph.node(*conv).op else { continue };
        fold_one(bn, name, *eps, bias, parameters)?;
    }
    let folded_into: HashMap<NodeId, NodeId> = foldable.iter().map(|(bn, conv, _)| (*bn, *conv)).collect();
    remove(graph, &folded_into)
}

/// Each batch normalization that is folded, the layer before it, and its epsilon.
pub(crate) fn folded_batch_norms(graph: &Graph) -> Vec<(NodeId, NodeId, f64)> {
    let folded = graph.nodes().filter_map(|(id, node)| {
        let Op::BatchNorm { eps } = node.op else { return None };
        let conv = *node.inputs.first()?;
        let is_layer = graph.node(conv).op.has_weight();
        (is_layer && graph.consumers(conv) == [id] && !graph.outputs().contains(&conv)).then_some((id, conv, eps))
    });
    folded.collect()
}

/// Folds the parameters of `bn` into those of `conv`, in f64.
fn fold_one(bn: &str, conv: &str, eps: f64, bias: bool, parameters: &mut HashMap<String, Tensor>) -> Result<()> {
    let mut take =
        |key: String| parameters.remove(&key).ok_or_else(|| Error::graph(bn, format!("has no parameter '{key}'")));
    let weight = take(format!("{conv}.weight"))?;
    let mut vector = |key: String| -> Result<Vec<f64>> { Ok(take(key)?.to_dtype(candle_core::DType::F64)?.to_vec1()?) };
    let gamma = vector(format!("{bn}.weight"))?;
    let beta = vector(format!("{bn}.bias"))?;
    let mean = vector(format!("{bn}.running_mean"))?;
    let variance = vector(format!("{bn}.running_var"))?;
    let old_bias = if bias { vector(format!("{conv}.bias"))? } else { vec![0.0; gamma.len()] };
    let factor: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + eps).sqrt()).collect();
    let shift: Vec<f32> = (0..factor.len()).map(|c| ((old_bias[c] - mean[c]) * factor[c] + beta[c]) as f32).collect();
    let mut column = vec![1; weight.rank()];
    column[0] = shift.len();
    let factors = Tensor::new(factor, weight.device())?.reshape(column)?;
    let scaled = weight.to_dtype(candle_core::DType::F64)?.broadcast_mul(&factors)?;
    parameters.insert(format!("{conv}.weight"), scaled.to_dtype(weight.dtype())?);
    parameters.insert(format!("{conv}.bias"), Tensor::new(shift, weight.device())?);
    Ok(())
}

/// Removes the nodes that are keys of `replaced`; their readers read the mapped value instead.
fn remove(graph: Graph, replaced: &HashMap<NodeId, NodeId>) -> Result<Graph> {
    let any_size = graph.any_size();
    let (ends, nodes, outputs, units) = graph.into_parts();
    let mut new_id: HashMap<NodeId, usize> = HashMap::new();
    let mut kept: Vec<Node> = Vec::new();
    for (i, mut node) in nodes.into_iter().enumerate() {
        let id = NodeId(i);
        if let Some(conv) = replaced.get(&id) {
            let conv = new_id[conv];
            if let Op::Conv2d { bias, .. } | Op::Linear { bias, .. } = &mut kept[conv].op {
                *bias = true;
            }
            new_id.insert(id, conv);
            continue;
        }
        for input in &mut node.inputs {
            *input = NodeId(new_id[input]);
        }
        new_id.insert(id, kept.len());
        kept.push(node);
    }
    let renamed = |id: &NodeId| NodeId(new_id[id]);
    let units = units
        .into_iter()
        .map(|(name, nodes)| (name, nodes.iter().filter(|n| !replaced.contains_key(n)).map(renamed).collect()))
        .collect();
    let folded = Graph::new(kept, outputs.iter().map(renamed).collect(), units)?.named(ends)?;
    Ok(folded.with_any_size(any_size))
}
