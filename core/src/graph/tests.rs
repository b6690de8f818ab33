use super::*;
use crate::ops::Activation;
use candle_core::{Device, Tensor};
use std::collections::HashMap;

/// A stem, a residual block with projection, a linear bottleneck and a classifier.
fn network() -> Graph {
    let mut b = GraphBuilder::new([3, 8, 8]);
    let x = b.input();
    let x = b
        .unit("stem", |b| {
            let x = b.conv2d("conv1", x, Conv2d::new(4, 3).padding(1))?;
            let x = b.batch_norm("bn1", x, 1e-5)?;
            b.relu("relu1", x)
        })
        .unwrap();
    let x = b.max_pool("pool", x, Pool2d::new(2)).unwrap();
    let x = b
        .unit("block", |b| {
            let y = b.conv2d("a", x, Conv2d::new(6, 3).padding(1))?;
            let y = b.batch_norm("a_bn", y, 1e-5)?;
            let y = b.relu("a_relu", y)?;
            let y = b.conv2d("b", y, Conv2d::new(6, 1).bias())?;
            let y = b.batch_norm("b_bn", y, 1e-3)?;
            let shortcut = b.conv2d("down", x, Conv2d::new(6, 1))?;
            let sum = b.add("sum", y, shortcut)?;
            b.relu("sum_relu", sum)
        })
        .unwrap();
    let x = b.unit("linear", |b| b.conv2d("project", x, Conv2d::new(5, 1))).unwrap();
    let x = b.unit("head", |b| {
        let x = b.conv2d("last", x, Conv2d::new(7, 1))?;
        b.activation("last_act", x, Activation::HardSwish)
    });
    let x = b.global_average_pool("avg", x.unwrap()).unwrap();
    let x = b.flatten("flat", x).unwrap();
    let x = b.unit("fc", |b| b.linear("fc", x, 10)).unwrap();
    b.finish(x).unwrap()
}

fn random_parameters(graph: &Graph) -> HashMap<String, Tensor> {
    graph
        .parameter_shapes()
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let n: usize = shape.iter().product();
            let positive = name.ends_with("running_var");
            let value = |j: usize| {
                let v = ((j * 37 + i * 11) as f32 * 0.7).sin();
                if positive {
                    v.abs() + 0.5
                } else {
                    v * 0.4
                }
            };
            let values: Vec<f32> = (0..n).map(value).collect();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect()
}

fn run(graph: &Graph, parameters: &HashMap<String, Tensor>, x: &Tensor) -> Vec<f32> {
    let mut values = vec![x.clone()];
    for (_, node) in graph.nodes().skip(1) {
        let inputs: Vec<&Tensor> = node.inputs.iter().map(|i| &values[i.index()]).collect();
        let value = execute(node, &inputs, parameters, None).unwrap();
        assert_eq!(value.dims()[1..], node.shape);
        values.push(value);
    }
    values[graph.output().index()].flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn sites_follow_the_published_rule() {
    let sites = |kind| -> Vec<String> {
        quantization_sites(&network()).into_iter().filter(|s| s.kind == kind).map(|s| s.name).collect()
    };
    assert_eq!(sites(SiteKind::Weight), ["conv1", "a", "b", "down", "project", "last", "fc"]);
    assert_eq!(sites(SiteKind::Activation), ["conv1", "a", "sum", "project", "last"]);
    let all = quantization_sites(&network());
    let marked = |f: fn(&Site) -> bool| all.iter().filter(|s| f(s)).map(|s| s.name.as_str()).collect::<Vec<_>>();
    assert_eq!(marked(|s| s.first), ["conv1", "conv1"]);
    assert_eq!(marked(|s| s.last), ["last", "fc"]);
}

#[test]
fn folding_keeps_the_logits() {
    let graph = network();
    let mut parameters = random_parameters(&graph);
    let n = 2 * 3 * 8 * 8;
    let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.31).cos()).collect();
    let x = Tensor::from_vec(x, (2, 3, 8, 8), &Device::Cpu).unwrap();
    let want = run(&graph, &parameters, &x);
    let folded = fold_batch_norm(graph, &mut parameters).unwrap();
    assert!(folded.nodes().all(|(_, n)| !matches!(n.op, Op::BatchNorm { .. })));
    assert_eq!(folded.units().len(), 5);
    let mut names: Vec<String> = folded.parameter_shapes().into_iter().map(|(n, _)| n).collect();
    let mut have: Vec<String> = parameters.keys().cloned().collect();
    names.sort();
    have.sort();
    assert_eq!(names, have);
    for (a, b) in run(&folded, &parameters, &x).iter().zip(&want) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn layers_become_units_with_their_activation() {
    let graph = network();
    let units = layer_units(&graph);
    assert_eq!(units.len(), 7);
    assert_eq!(units[1].nodes.len(), 3);
    for unit in &units {
        graph.unit_input(unit).unwrap();
        graph.unit_output(unit).unwrap();
    }
}

#[test]
fn mistakes_are_named() {
    let mut b = GraphBuilder::new([3, 8, 8]);
    let x = b.input();
    let a = b.conv2d("a", x, Conv2d::new(4, 3)).unwrap();
    let error = b.conv2d("a", x, Conv2d::new(4, 3)).unwrap_err().to_string();
    assert!(error.contains("graph node 'a': a node of this name exists already"), "{error}");
    let error = b.add("sum", a, x).unwrap_err().to_string();
    assert!(error.contains("cannot add [4, 6, 6] and [3, 8, 8]"), "{error}");
    let error = b.linear("fc", a, 10).unwrap_err().to_string();
    assert!(error.contains("add flatten"), "{error}");
    let error = b.conv2d("c", a, Conv2d::new(4, 9)).unwrap_err().to_string();
    assert!(error.contains("does not fit"), "{error}");
    let error = b.conv2d("d", a, Conv2d::new(4, 1).groups(3)).unwrap_err().to_string();
    assert!(error.contains("3 groups do not divide"), "{error}");
    let two = b.unit("two", |b| {
        let y = b.relu("r", a)?;
        let z = b.relu("s", x)?;
        let z = b.conv2d("t", z, Conv2d::new(4, 3))?;
        b.add("u", y, z)
    });
    let error = b.finish(two.unwrap()).unwrap_err().to_string();
    assert!(error.contains("reads one value from outside"), "{error}");
}
