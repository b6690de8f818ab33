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
        let value = execute(node, &inputs, parameters, Default::default()).unwrap();
        assert_eq!(value.dims()[1..], node.shape);
        values.push(value);
    }
    values[graph.outputs()[0].index()].flatten_all().unwrap().to_vec1().unwrap()
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
fn a_clip_completes_its_layer_as_an_activation_function_does() {
    let mut b = GraphBuilder::new([3, 8, 8]);
    let x = b.input();
    let block = b.unit("block", |b| {
        let y = b.conv2d("a", x, Conv2d::new(3, 3).padding(1))?;
        let y = b.batch_norm("a_bn", y, 1e-5)?;
        // Without the clip nothing would be quantized before the addition.
        let y = b.clip("a_clip", y)?;
        b.add("sum", y, x)
    });
    let x = b.clip("sum_clip", block.unwrap()).unwrap();
    let x = b.flatten("flat", x).unwrap();
    let x = b.unit("fc", |b| {
        let x = b.linear("fc", x, 6)?;
        b.clip("fc_clip", x)
    });
    let x = b.linear("last", x.unwrap(), 2).unwrap();
    let graph = b.finish(x).unwrap();
    let bounds: Vec<_> = graph.parameter_shapes().into_iter().filter(|(name, _)| name.ends_with("bound")).collect();
    let want = [("a_clip.bound", 3), ("sum_clip.bound", 3), ("fc_clip.bound", 6)];
    assert_eq!(bounds, want.map(|(name, channels)| (name.to_string(), vec![channels])));
    let sites: Vec<_> = quantization_sites(&graph)
        .into_iter()
        .filter(|s| s.kind == SiteKind::Activation)
        .map(|s| (s.name, graph.node(s.node).name.clone()))
        .collect();
    let want = [("a", "a_clip"), ("sum", "sum_clip"), ("fc", "fc_clip")];
    assert_eq!(sites, want.map(|(name, node)| (name.to_string(), node.to_string())));
    assert_eq!(layer_units(&graph).unwrap()[0].nodes().len(), 3);

    // The value is that of the definition, and a missing bound is an error that names the node.
    let mut parameters = random_parameters(&graph);
    parameters.insert("a_clip.bound".into(), Tensor::new(&[0.5_f32, 1.0, 6.0], &Device::Cpu).unwrap());
    let (node, x) = (graph.node(graph.find("a_clip").unwrap()), [[[[-1.0_f32, 2.0]], [[0.75, 2.0]], [[5.0, 7.0]]]]);
    let x = Tensor::new(&x, &Device::Cpu).unwrap();
    let value = execute(node, &[&x], &parameters, Default::default()).unwrap();
    assert_eq!(value.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.5, 0.75, 1.0, 5.0, 6.0]);
    parameters.remove("a_clip.bound");
    let error = execute(node, &[&x], &parameters, Default::default()).unwrap_err().to_string();
    assert!(error.contains("graph node 'a_clip': has no parameter 'a_clip.bound'"), "{error}");
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
    let units = layer_units(&graph).unwrap();
    assert_eq!(units.len(), 7);
    assert_eq!(units[1].nodes().len(), 3);
    for unit in &units {
        assert_eq!((unit.subgraph.inputs().len(), unit.subgraph.outputs().len()), (1, 1), "{}", unit.name);
    }
}

/// Two branches of different sizes that cross in a unit of two inputs and two outputs.
fn crossing() -> Graph {
    let mut b = GraphBuilder::new([3, 8, 8]);
    let x = b.input();
    let wide = b.unit("wide", |b| b.conv2d("wide", x, Conv2d::new(4, 3).padding(1).bias())).unwrap();
    let small = b.unit("small", |b| b.conv2d("small", x, Conv2d::new(6, 3).stride(2).padding(1).bias())).unwrap();
    let (up, down) = b
        .unit("cross", |b| {
            let raised = b.conv2d("raised", small, Conv2d::new(4, 1).bias())?;
            let raised = b.upsample_nearest("enlarged", raised, [2, 2])?;
            let up = b.add("up", wide, raised)?;
            let down = b.conv2d("down", up, Conv2d::new(6, 3).stride(2).padding(1).bias())?;
            Ok((up, b.add("both", down, small)?))
        })
        .unwrap();
    let first = b.unit("first", |b| b.conv2d("first", up, Conv2d::new(2, 1).bias())).unwrap();
    let second = b.unit("second", |b| b.conv2d("second", down, Conv2d::new(2, 1).bias())).unwrap();
    b.finish_with_outputs(&[first, second]).unwrap()
}

#[test]
fn subgraphs_have_the_values_that_cross_their_border() {
    let graph = crossing();
    let names = |ids: &[NodeId]| ids.iter().map(|id| graph.node(*id).name.as_str()).collect::<Vec<_>>();
    let unit = &graph.units()[2];
    assert_eq!(
        (names(unit.subgraph.inputs()), names(unit.subgraph.outputs())),
        (vec!["wide", "small"], vec!["up", "both"])
    );
    let whole = graph.whole();
    assert_eq!((names(whole.inputs()), names(whole.outputs())), (vec!["input"], vec!["first", "second"]));
    // After `wide` alone, `small` still has to be computed from the image.
    let rest = graph.after(&graph.units()[0].subgraph);
    assert_eq!((names(rest.inputs()), rest.nodes().len()), (vec!["input", "wide"], graph.nodes().count() - 2));
    let rest = graph.after(&unit.subgraph);
    assert_eq!((names(rest.nodes()), names(rest.inputs())), (vec!["first", "second"], vec!["up", "both"]));
    // An output of the network inside the subgraph is an output of the subgraph.
    assert_eq!(names(graph.subgraph(graph.nodes().skip(8).map(|(id, _)| id)).outputs()), ["first", "second"]);
}

#[test]
fn subgraphs_compute_what_the_network_computes() {
    let graph = crossing();
    let parameters = random_parameters(&graph);
    let x = Tensor::from_vec((0..2 * 3 * 64).map(|i| (i as f32 * 0.31).cos()).collect(), (2, 3, 8, 8), &Device::Cpu)
        .unwrap();
    let compute = |id: NodeId, inputs: &[&Tensor]| execute(graph.node(id), inputs, &parameters, Default::default());
    let want = graph.whole().run(&graph, std::slice::from_ref(&x), compute).unwrap();
    let unit = &graph.units()[2].subgraph;
    let before = graph.subgraph_with_outputs(graph.nodes().skip(1).take(2).map(|(id, _)| id), unit.inputs().to_vec());
    let inputs = before.run(&graph, &[x], compute).unwrap();
    let outputs = unit.run(&graph, &inputs, compute).unwrap();
    assert_eq!((outputs[0].dims(), outputs[1].dims()), (&[2, 4, 8, 8][..], &[2, 6, 4, 4][..]));
    let got = graph.after(unit).run(&graph, &outputs, compute).unwrap();
    for (got, want) in got.iter().zip(&want) {
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(got), values(want));
    }
    let error = unit.run(&graph, &inputs[..1], compute).unwrap_err().to_string();
    assert!(error.contains("1 values were given for the inputs [\"wide\", \"small\"]"), "{error}");
    let error = unit.run(&graph, &[inputs[1].clone(), inputs[1].clone()], compute).unwrap_err().to_string();
    assert!(error.contains("graph node 'wide': has the shape [2, 6, 4, 4]"), "{error}");
}

#[test]
fn neighbouring_units_are_merged() {
    let graph = network();
    let merge = |groups: &[&[&str]]| {
        let groups: Vec<Vec<String>> = groups.iter().map(|g| g.iter().map(|n| n.to_string()).collect()).collect();
        merge_units(&graph, graph.units().to_vec(), &groups, "reconstruction.merge")
    };
    let names: Vec<String> = graph.units().iter().map(|u| u.name.clone()).collect();
    let merged = merge(&[&[&names[1], &names[2]]]).unwrap();
    assert_eq!(merged.len(), names.len() - 1);
    assert_eq!(merged[1].name, format!("{}+{}", names[1], names[2]));
    // Nodes between two units become part of the merged unit.
    let all = merge(&[&["*"]]).unwrap();
    assert_eq!((all.len(), &all[0].subgraph), (1, &graph.whole()));
    for (groups, want) in [
        (
            &[&["nothing", "*"][..]][..],
            "reconstruction.merge[0]: 'nothing' matches no unit of the network; its units: ",
        ),
        (&[&[names[0].as_str()][..]][..], "name two units at least"),
        (&[&[names[0].as_str(), names[2].as_str()][..]][..], "its units are not neighbours"),
        (
            &[&[names[0].as_str(), names[1].as_str()][..], &[names[1].as_str(), names[2].as_str()][..]][..],
            "is in two groups",
        ),
    ] {
        let error = merge(groups).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
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
    let nothing = b.unit("nothing", |b| b.relu("r", a));
    let error = b.finish(a).unwrap_err().to_string();
    assert!(
        nothing.is_ok() && error.contains("'nothing': nothing outside of this unit reads a value of it"),
        "{error}"
    );
    let error = GraphBuilder::new([3, 8, 8]).finish_with_outputs(&[]).unwrap_err().to_string();
    assert!(error.contains("at least one output"), "{error}");
}

/// Split, shuffled and joined channels, a normalization of channels, and a batch normalization that cannot be folded.
fn mixed_network() -> Graph {
    let mut b = GraphBuilder::new([3, 4, 4]);
    let x = b.input();
    let x = b.conv2d("stem", x, Conv2d::new(6, 3).padding(1)).unwrap();
    let x = b.layer_norm("norm", x, 1e-6).unwrap();
    let left = b.slice("left", x, 0, 2).unwrap();
    let right = b.slice("right", x, 2, 4).unwrap();
    let right = b.conv2d("middle", right, Conv2d::new(4, 1)).unwrap();
    let joined = b.concat("joined", &[left, right]).unwrap();
    let shuffled = b.shuffle_channels("shuffled", joined, 2).unwrap();
    let x = b.batch_norm("bn", shuffled, 1e-5).unwrap();
    let x = b.relu("bn_relu", x).unwrap();
    let y = b.conv2d("last", x, Conv2d::new(6, 1)).unwrap();
    let sum = b.add("sum", y, shuffled).unwrap();
    let norm = b.layer_norm("norm2", sum, 1e-6).unwrap();
    let z = b.conv2d("next", norm, Conv2d::new(6, 1)).unwrap();
    let z = b.add("sum2", z, sum).unwrap();
    let z = b.relu("sum_relu", z).unwrap();
    b.unit_of("tail", [z]);
    let z = b.conv2d("end", z, Conv2d::new(2, 4)).unwrap();
    let z = b.flatten("flat", z).unwrap();
    b.finish(z).unwrap()
}

#[test]
fn normalizations_complete_a_layer_or_have_a_site_of_their_own() {
    let graph = mixed_network();
    let sites = quantization_sites(&graph);
    let of = |kind| sites.iter().filter(|s| s.kind == kind).map(|s| s.name.as_str()).collect::<Vec<_>>();
    let values: Vec<&str> =
        sites.iter().filter(|s| s.kind == SiteKind::Activation).map(|s| graph.node(s.node).name.as_str()).collect();
    assert_eq!(of(SiteKind::Activation), ["stem", "middle", "bn", "sum", "norm2", "sum2"]);
    assert_eq!(values, ["norm", "middle", "bn_relu", "sum", "norm2", "sum_relu"]);
}

#[test]
fn factors_pass_through_split_and_shuffled_channels() {
    let mut b = GraphBuilder::new([3, 4, 4]);
    let x = b.input();
    let x = b.conv2d("a", x, Conv2d::new(6, 1)).unwrap();
    let x = b.shuffle_channels("shuffled", x, 2).unwrap();
    let x = b.slice("part", x, 1, 3).unwrap();
    let x = b.conv2d("b", x, Conv2d::new(2, 1)).unwrap();
    let x = b.layer_norm("norm", x, 1e-6).unwrap();
    let x = b.conv2d("c", x, Conv2d::new(2, 1)).unwrap();
    let graph = b.finish(x).unwrap();
    let id = |name: &str| graph.find(name).unwrap();
    let groups = channel_groups(&graph);
    // The values around the normalization cannot be scaled; c reads one of them.
    assert_eq!(groups.len(), 1);
    let channels = |name: &str| groups[0].channels(id(name)).to_vec();
    assert_eq!(channels("a"), [0, 1, 2, 3, 4, 5].map(Some));
    assert_eq!(channels("shuffled"), [0, 3, 1, 4, 2, 5].map(Some));
    assert_eq!(channels("part"), [3, 1, 4].map(Some));
    assert_eq!(groups[0].consumers, [id("b")]);
}

#[test]
fn a_graph_is_read_as_it_was_written() {
    for graph in [network(), mixed_network()] {
        let text = graph.to_json().unwrap().unwrap();
        assert_eq!(Graph::from_json(&text).unwrap(), graph);
    }
    let text = network().to_json().unwrap().unwrap();
    let error = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in {text}");
        Graph::from_json(&text.replacen(from, to, 1)).unwrap_err().to_string()
    };
    assert!(error("\"inputs\":[0]", "\"inputs\":[99]").contains("not there yet"));
    assert!(error("\"kernel\":[3,3]", "\"kernel\":[3,99]").contains("conv1"));
    assert!(error("\"kernel\":[3,3]", "\"kernel\":[18446744073709551615,1]").contains("more than"));
    assert!(error("\"out_channels\":4", "\"out_channels\":9999999999").contains("more than"));
    assert!(error("[3,8,8]", "[3,0,8]").contains("input"));
    assert!(error("[3,8,8]", "[4294967296,4294967296,4294967296]").contains("input"));
    assert!(error("\"op\":\"add\"", "\"op\":\"sum\"").contains("sum"));
}
