//! Names of nodes.

use crate::proto::NodeProto;

/// Where PyTorch's exporter writes the modules that a node comes from, from the network's on, and at last the function: a list
/// as Python prints it.
const SCOPES: &str = "pkg.torch.onnx.name_scopes";

/// The name of a layer: that of its weight or of its module, as PyTorch calls them, or that of its node. The weight is asked
/// first: a convolution with the normalization behind it folded in comes from the module of that.
pub fn of_layer(node: &NodeProto, weight: &str) -> String {
    match weight.strip_suffix(".weight").or_else(|| module(node)) {
        Some(name) if !name.is_empty() && !name.contains("::") => name.into(),
        _ => {
            let path = path(&node.name);
            let operator = path.last().is_some_and(|last| is_operator(last, &node.op_type));
            let parts = if operator && path.len() > 1 { &path[..path.len() - 1] } else { &path[..] };
            joined(parts, node)
        }
    }
}

/// The module that a node comes from, if the exporter says so.
fn module(node: &NodeProto) -> Option<&str> {
    let scopes = &node.metadata_props.iter().find(|entry| entry.key == SCOPES)?.value;
    // Names are in quotes, so every other part is one; the last one is the function.
    let names: Vec<&str> = scopes.split('\'').skip(1).step_by(2).collect();
    let (_, modules) = names.split_last()?;
    modules.last().copied().filter(|name| !name.is_empty())
}

/// The name of any other operation: its path in the module that was exported.
pub fn of_node(node: &NodeProto) -> String {
    joined(&path(&node.name), node)
}

/// Whether the last part of a path is the operator's name, with or without a number.
fn is_operator(part: &str, operator: &str) -> bool {
    part.strip_prefix(operator).is_some_and(|rest| rest.trim_start_matches('_').bytes().all(|b| b.is_ascii_digit()))
}

/// `/layer1/layer1.0/conv1/Conv` as `layer1.0`, `conv1` and `Conv`: PyTorch repeats a container's name before that of its
/// item.
fn path(name: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/').filter(|part| !part.is_empty()) {
        if parts.last().is_some_and(|last| part.strip_prefix(last).is_some_and(|rest| rest.starts_with('.'))) {
            parts.pop();
        }
        parts.push(part);
    }
    parts
}

fn joined(parts: &[&str], node: &NodeProto) -> String {
    match parts {
        [] => node.output.first().cloned().unwrap_or_else(|| node.op_type.clone()),
        parts => parts.join("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::StringStringEntryProto;

    #[test]
    fn names_are_those_of_the_modules() {
        let node = |name: &str, op: &str| NodeProto {
            name: name.into(),
            op_type: op.into(),
            output: vec!["value".into()],
            ..Default::default()
        };
        let conv = node("/layer1/layer1.0/conv1/Conv", "Conv");
        assert_eq!(of_layer(&conv, "onnx::Conv_193"), "layer1.0.conv1");
        assert_eq!(of_layer(&conv, "layer1.0.conv1.weight"), "layer1.0.conv1");
        let deep = "/features/features.7/features.7.0/block/block.3/block.3.0/Conv_1";
        assert_eq!(of_layer(&node(deep, "Conv"), "onnx::Conv_1"), "features.7.0.block.3.0");
        assert_eq!(of_node(&node("/layer1/layer1.0/Add", "Add")), "layer1.0.Add");
        assert_eq!(of_node(&node("", "Relu")), "value");
        assert_eq!(of_layer(&node("Conv", "Conv"), "w"), "Conv");
        let scoped = |value: &str| {
            let props = StringStringEntryProto { key: SCOPES.into(), value: value.into() };
            NodeProto { metadata_props: vec![props], ..node("node_MatMul_2", "MatMul") }
        };
        let deep = scoped("['', 'features', 'features.1', 'features.1.0.block.3', 'linear']");
        assert_eq!(of_layer(&deep, "val_5"), "features.1.0.block.3");
        assert_eq!(of_layer(&scoped("['', 'bn1', 'batch_norm']"), "conv1.weight"), "conv1");
        assert_eq!(of_layer(&scoped("['', 'linear']"), "val_5"), "node_MatMul_2");
        assert_eq!(of_layer(&scoped("no list"), "val_5"), "node_MatMul_2");
    }
}
