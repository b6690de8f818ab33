//! Bits that are chosen for single layers under a budget.

use crate::support::*;
use qdrop::recipes::Loader;
use qdrop::Run as QdropRun;
use qdrop_core::graph::{Graph, SiteKind};
use qdrop_core::packed::Packed;
use qdrop_core::pipeline::{NetworkCost, Sensitivity, Session, Subject};
use qdrop_core::prelude::*;
use qdrop_core::random::{stream, Purpose};
use qdrop_core::recipe::Recipe;
use std::path::Path;

/// Two branches that read one value, whose results are concatenated for two more layers.
fn network() -> Graph {
    let mut b = GraphBuilder::new([3, 8, 8]);
    let mut x = b.input();
    let layer = |b: &mut GraphBuilder, name: &str, x: NodeId, channels: usize| {
        b.unit(name, |b| {
            let x = b.conv2d(&format!("{name}.conv"), x, Conv2d::new(channels, 1))?;
            b.relu(&format!("{name}.relu"), x)
        })
        .unwrap()
    };
    x = layer(&mut b, "a", x, 4);
    let (left, right) = (layer(&mut b, "b", x, 6), layer(&mut b, "c", x, 10));
    x = b.concat("cat", &[left, right]).unwrap();
    x = layer(&mut b, "d", x, 8);
    let x = b.global_average_pool("pool", x).unwrap();
    let x = b.flatten("flatten", x).unwrap();
    let x = b.unit("fc", |b| b.linear("fc", x, 10)).unwrap();
    b.finish(x).unwrap()
}

fn recipe(target: &str) -> Recipe {
    let tensor = |granularity: &str, bits| {
        format!("{{bits: {bits}, granularity: {granularity}, observer: minmax, quantizer: fixed}}")
    };
    let text = format!(
        "{{name: t, model: {{architecture: a}}, data: demo, reconstruction: none, quant: {{setting: first_weight, weight: {}, \
         activation: {}, mixed: {{target: '{target}', choices: [2, 3, 8]}}}}}}",
        tensor("per_channel", 5),
        tensor("per_tensor", 6)
    );
    let mut value = serde_yaml::from_str::<serde_yaml::Value>(&text).unwrap();
    value["data"] = "idx".into();
    Recipe::from_value(value, Path::new("t.yaml")).unwrap()
}

/// MACs of the layers.
const A: f64 = 64.0 * 4.0 * 3.0;
const B: f64 = 64.0 * 6.0 * 4.0;
const C: f64 = 64.0 * 10.0 * 4.0;
const D: f64 = 64.0 * 8.0 * 16.0;
const FC: f64 = 80.0;

/// Bit operations with bits of the weights of b, c, d, fc and of the values of a, b and c, d, written out by hand. The first weight
/// has 8 bits, the image too.
fn operations([b, c, d, fc]: [u32; 4], [of_a, of_bc, of_d]: [u32; 3]) -> f64 {
    let [b, c, d, fc] = [b, c, d, fc].map(f64::from);
    let [of_a, of_bc, of_d] = [of_a, of_bc, of_d].map(f64::from);
    64.0 * A + (B * b + C * c) * of_a + D * d * of_bc + FC * fc * of_d
}

const SITES: [(&str, SiteKind); 8] = [
    ("b.conv", SiteKind::Weight),
    ("c.conv", SiteKind::Weight),
    ("d.conv", SiteKind::Weight),
    ("fc", SiteKind::Weight),
    ("a.conv", SiteKind::Activation),
    ("b.conv", SiteKind::Activation),
    ("c.conv", SiteKind::Activation),
    ("d.conv", SiteKind::Activation),
];
const CHOICES: [u32; 3] = [2, 3, 8];

/// Losses of all sites at all bits, and the measurements that say so.
fn table(case: u64, session: &Session<'_>) -> (Vec<[f64; 3]>, Vec<Sensitivity>) {
    let random = stream(case, Purpose::Calibration, 0, 0);
    let metric = &session.task().deviation_metrics()[0];
    let mut all = Vec::new();
    let losses: Vec<[f64; 3]> = (0..SITES.len()).map(|i| [0, 1, 2].map(|j| random.uniform(3 * i + j))).collect();
    for ((name, kind), losses) in SITES.iter().zip(&losses) {
        for (bits, loss) in CHOICES.iter().zip(losses) {
            let subject = Subject { name: (*name).into(), is_unit: false, kind: *kind };
            let mut measured = Measurement::new(1, [("", 0.0); 0]);
            measured.insert(metric, *loss, None);
            all.push(Sensitivity { subject, bits: *bits, weights: 0, measured });
        }
    }
    (losses, all)
}

/// The bits of the result, in the order of `SITES`.
fn chosen(session: &Session<'_>, measured: &[Sensitivity]) -> (NetworkCost, [u32; 8]) {
    let recipe = session.choose_bits(measured).unwrap();
    assert!(recipe.quant.mixed.as_ref().unwrap().chosen.is_some());
    let resolved = Session::of_graph(recipe, network(), registries(), Device::Cpu).unwrap();
    let plans = resolved.plans().unwrap();
    let bits = |(name, kind): &(&str, SiteKind)| {
        let of_site = |p: &&qdrop_core::pipeline::SitePlan| p.site.kind == *kind && p.site.name == *name;
        plans.iter().find(of_site).unwrap_or_else(|| panic!("{name}")).spec.bits
    };
    (resolved.cost().unwrap(), SITES.each_ref().map(bits))
}

/// All bits of `SITES` in which the two concatenated values have the same.
fn all_bits() -> impl Iterator<Item = [usize; 8]> {
    (0..3_usize.pow(7)).map(|n| {
        let digit = |i: u32| n / 3_usize.pow(i) % 3;
        [digit(0), digit(1), digit(2), digit(3), digit(4), digit(5), digit(5), digit(6)]
    })
}

#[test]
fn operations_are_chosen_as_by_trying_everything() {
    let all = 64.0 * (A + B + C + D + FC);
    for case in 0..40 {
        let percent = 15.0 + 2.0 * case as f64;
        let recipe = recipe(&format!("{percent} % of w8a8 MACs x bits"));
        let session = Session::of_graph(recipe, network(), registries(), Device::Cpu).unwrap();
        let (losses, measured) = table(case, &session);
        let of = |i: [usize; 8]| {
            let bits = i.map(|i| CHOICES[i]);
            operations([bits[0], bits[1], bits[2], bits[3]], [bits[4], bits[5], bits[7]])
        };
        let loss = |i: [usize; 8]| i.iter().zip(&losses).map(|(i, losses)| losses[*i]).sum::<f64>();
        let within = all_bits().filter(|i| of(*i) <= all * percent / 100.0);
        let want = within.map(loss).min_by(f64::total_cmp).unwrap();
        let (cost, bits) = chosen(&session, &measured);
        let places = bits.map(|bits| CHOICES.iter().position(|choice| *choice == bits).unwrap());
        assert!(
            (loss(places) - want).abs() < 1e-12,
            "case {case}: {bits:?} loses {}, {want} is possible",
            loss(places)
        );
        assert_eq!(cost.bit_operations, of(places));
        assert!((cost.percent_of_w8a8 - 100.0 * of(places) / all).abs() < 1e-9 && cost.percent_of_w8a8 <= percent);
    }
}

#[test]
fn weights_are_chosen_as_by_trying_everything() {
    let sizes = [24.0, 40.0, 128.0, 80.0];
    for case in 0..20 {
        let average = 2.0 + 0.3 * case as f64;
        let session =
            Session::of_graph(recipe(&format!("avg {average} bits")), network(), registries(), Device::Cpu).unwrap();
        let (losses, measured) = table(case, &session);
        let of = |i: [usize; 4]| i.iter().zip(sizes).map(|(i, n)| n * f64::from(CHOICES[*i])).sum::<f64>();
        let loss = |i: [usize; 4]| i.iter().zip(&losses).map(|(i, losses)| losses[*i]).sum::<f64>();
        let all = (0..81).map(|n| [n % 3, n / 3 % 3, n / 9 % 3, n / 27]);
        let want = all.filter(|i| of(*i) <= average * 272.0 + 1e-9).map(loss).min_by(f64::total_cmp).unwrap();
        let (_, bits) = chosen(&session, &measured);
        let places = [0, 1, 2, 3].map(|i| CHOICES.iter().position(|choice| *choice == bits[i]).unwrap());
        assert!((loss(places) - want).abs() < 1e-12, "case {case}: {bits:?}");
        // Activations keep the recipe's.
        assert_eq!(bits[4..], [6; 4]);
    }
}

#[test]
fn a_measurement_that_is_missing_is_named() {
    let session = Session::of_graph(recipe("avg 3 bits"), network(), registries(), Device::Cpu).unwrap();
    let (_, mut measured) = table(0, &session);
    measured.retain(|one| one.subject.name != "d.conv" || one.bits != 3);
    let error = session.choose_bits(&measured).unwrap_err().to_string();
    assert_eq!(error, "graph node 'd.conv': what it loses at 3 bits was not measured");
}

/// The size that a plan shows is that of the packed file, but for its description, and a run keeps the chosen bits.
#[test]
fn a_run_writes_what_it_chose() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let small = ["reconstruction=none", "calibration={images: 64, observe: 64}", "evaluation.images=50", "compare=[]"];
    let loader = small.iter().fold(Loader::new("demo"), |loader, change| loader.set(*change));
    let loader = loader.set("quant.mixed={target: 0.4 MB, choices: [2, 4, 8]}");
    let mut run = QdropRun::new(loader.load().unwrap()).unwrap().out(&out).unwrap();
    let chosen = run.choose_bits().unwrap().unwrap().clone();
    let bits = chosen.chosen.unwrap();
    let cost = run.session().unwrap().cost().unwrap();
    assert!(cost.bytes <= 400_000 && cost.bytes > 390_000, "{cost:?}");
    let outcome = run.quantize().unwrap();
    assert!(outcome.summary.quantized.value(&outcome.metrics[0]).unwrap() > 20.0);
    let bytes = std::fs::metadata(out.join("model.safetensors")).unwrap().len();
    assert!((cost.bytes..cost.bytes + 15_000).contains(&bytes), "{bytes}, {cost:?}");
    // Neither the first nor the last weight, which have 8 bits by the setting.
    assert_eq!((bits.weight.len(), bits.activation.len()), (19, 0));
    let saved = Packed::read(&out.join("model.safetensors")).unwrap();
    for (name, bits) in &bits.weight {
        let found = saved.weights.iter().find(|weight| weight.site.name == *name).unwrap();
        assert_eq!(found.site.spec.bits, *bits, "{name}");
    }
    // The network has the name of its bits.
    let (least, most) = (bits.weight.values().min().unwrap(), bits.weight.values().max().unwrap());
    assert!(least < most);
    let label = format!("w{least}-{most}a4");
    assert_eq!((&outcome.summary.bits, &outcome.rows.last().unwrap().bits), (&label, &label));
    assert!(outcome.table.contains("setting qdrop, quant.mixed 0.4 MB, seed 1005"), "{}", outcome.table);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains(&label) && page.contains("Target: 0.4 MB") && !page.contains(">w2a4<"), "{page}");
    assert!(out.join("sensitivity.json").is_file());
    // The recipe that is kept has the bits, so that they are not chosen again.
    let kept = Loader::new(&out).load().unwrap();
    assert_eq!(kept.quant.mixed.as_ref().unwrap().chosen.as_ref(), Some(&bits));
    // They stay within the target, which may be changed with them, and among the choices.
    let changed = |change: &str| qdrop(&["check", text(&out.join("recipe.yaml")), "--set", change]);
    let error = changed("quant.mixed.target=0.3 MB");
    let said = format!("quant.mixed.chosen: takes {:.3} MB, more than '0.3 MB'; leave it out", cost.bytes as f64 / 1e6);
    assert!(error.error().contains(&said), "{}", error.error());
    for (change, message) in [
        ("quant.mixed.target=avg 1 bits", "bits on average, more than 'avg 1 bits'"),
        ("quant.mixed.choices=[2, 8]", "4 bits are not among `choices`"),
        (
            "quant.mixed.chosen={weight: {layer1.0.conv1: 2}}",
            "quant.mixed.chosen.weight: the bits of 'layer1.0.conv2' are missing",
        ),
        ("quant.mixed.chosen={weight: {fc: 2}}", "quant.mixed.chosen.weight: 'fc' gets its bits from the setting"),
        ("quant.mixed.chosen={weight: {nowhere: 2}}", "the network quantizes no weight of 'nowhere'"),
        ("quant.mixed.chosen={activation: {conv1: 2}}", "'0.4 MB' chooses no bits of activations"),
        (
            "quant.mixed.target=90 % of w8a8 MACs x bits",
            "quant.mixed.chosen.activation: the bits of 'conv1' are missing",
        ),
    ] {
        let error = changed(change);
        assert!(error.error().contains(message), "{change}: {}", error.error());
    }
    assert!(changed("quant.mixed.target=0.5 MB").stdout.contains("bits of 19 weights are chosen"));
    let mut again = QdropRun::new(kept).unwrap();
    assert_eq!(again.choose_bits().unwrap().unwrap().chosen.as_ref(), Some(&bits));
    let resumed = qdrop(&["evaluate", text(&out), "--json"]).json();
    assert_eq!(resumed["top1"].as_f64().unwrap(), outcome.summary.quantized.values["top1"]);
}

#[test]
fn impossible_targets_are_refused_before_anything_is_measured() {
    let with = |mixed: &str| qdrop(&["check", "demo", "--set", &format!("quant.mixed={mixed}")]);
    for (mixed, message) in [
        ("{target: 0.1 MB, choices: [2, 8]}", "quant.mixed.target: the network takes 0.186 MB at least"),
        ("{target: avg 2 bits, choices: [3, 4]}", "quant.mixed.target: the network takes 3.00 bits at least"),
        ("{target: 3 % of w8a8 MACs x bits, choices: [2]}", "quant.mixed.target: the network takes 6.6"),
        ("{target: 3, choices: [2, 4]}", "quant.mixed.target: '3' is no target; write a mean such as 'avg 3.0 bits'"),
        ("{target: avg 1e9 bits, choices: [2, 4]}", "quant.mixed.target: 'avg 1e9 bits' is more than the largest of"),
        ("avg 3 bits", "quant.mixed: invalid type: string \"avg 3 bits\", expected a mapping"),
        ("{target: avg 3 bits, choices: 2}", "quant.mixed.choices: invalid type: integer `2`, expected a list"),
        ("{target: avg 3 bits, choices: [two]}", "choices[0]: invalid type: string \"two\", expected a whole number"),
        ("{target: 3 bits, choices: [2, 4]}", "quant.mixed.target: '3 bits' is no target; write a mean such as"),
        ("{target: avg 3 bits, choices: []}", "quant.mixed.choices: is empty"),
        ("{target: avg 3 bits, choices: [2, 4, 2]}", "quant.mixed.choices: names 2 bits twice"),
        ("{target: avg 3 bits, choices: [2, 17]}", "quant.mixed.choices[1]: 17 bits are not supported"),
        ("{target: avg 3 bits}", "missing field `choices`"),
    ] {
        let error = with(mixed);
        assert!(error.error().contains(message), "{mixed}: {}", error.error());
    }
    let valid = with("{target: avg 2 bits, choices: [2, 4]}");
    assert!(valid.stdout.contains("quant.mixed, avg 2 bits: bits of 19 weights will be chosen when it runs\n"));
    let nothing = ["--set", "quant.overrides=[{match: '*', weight: {bits: 3}}]"];
    let error =
        qdrop(&[&["check", "demo", "--set", "quant.mixed={target: avg 2 bits, choices: [2]}"], &nothing[..]].concat());
    assert!(error.error().contains("leave no layer whose bits could be chosen"), "{}", error.error());
}

#[test]
fn a_variant_has_the_chosen_bits_or_says_that_it_has_none() {
    let mixed = ["--set", "quant.mixed={target: avg 3 bits, choices: [2, 4]}"];
    let with = |mixed: &[&str], set: &str| {
        qdrop(&[&["check", "demo", "--set", &format!("compare=[{{name: v, set: {{{set}}}}}]")], mixed].concat())
    };
    for (set, message) in [
        ("quant.weight.bits: 8", "quant.weight.bits: a variant cannot change it: the bits of these layers are chosen"),
        ("quant.mixed.target: avg 2 bits", "quant.mixed: a variant cannot change it: bits are chosen once"),
        (
            "quant.setting: first_weight",
            "quant: a variant cannot change it: the bits that are chosen would be those of",
        ),
        ("quant.overrides: [{match: fc, weight: {bits: 4}}, {match: conv1, weight: {bits: 4}}]", ""),
        ("quant.overrides: [{match: 'layer1.*', weight: {bits: 4}}]", "quant: a variant cannot change it"),
        ("quant.activation.bits: 8", ""),
        ("{quant.mixed: null, quant.weight.bits: 3}", ""),
    ] {
        let run = with(&mixed, set.trim_matches(['{', '}']));
        match message {
            "" => assert!(run.ok, "{set}: {}", run.stderr),
            _ => {
                let error = run.error();
                assert!(error.contains("variant 'v'") && error.contains(message), "{set}: {error}");
                assert!(error.contains("add `quant.mixed: null`"), "{set}: {error}");
            }
        }
    }
    let error = with(&mixed, "quant.mixed.chosen: null");
    assert!(error.error().contains("quant.mixed: a variant cannot change it"), "{}", error.error());
    let error = with(&[], "quant.mixed: {target: avg 2 bits, choices: [2]}");
    assert!(!error.error().contains("add `quant.mixed: null`"), "{}", error.error());
    assert!(error.error().contains("quant.mixed: a variant cannot change it"), "{}", error.error());

    // Each row has the bits of its network: size and label say so.
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let compare = "compare=[{name: uniform, set: {quant.mixed: null, quant.weight.bits: 3}}, {name: a8, set: {quant.activation.bits: 8}}]";
    let small = ["reconstruction=none", "calibration={images: 64, observe: 64}", "evaluation.images=50", compare];
    let loader = small.iter().fold(Loader::new("demo"), |loader, change| loader.set(*change));
    let loader = loader.set("quant.mixed={target: avg 3 bits, choices: [2, 4]}").set("prepare=[equalize]");
    let outcome = QdropRun::new(loader.load().unwrap()).unwrap().out(&out).unwrap().quantize().unwrap();
    let bits: Vec<&str> = outcome.rows.iter().map(|row| row.bits.as_str()).collect();
    assert_eq!(bits, ["w32a32", "w3a4", "w2-4a8", "w2-4a4"]);
    let values = |i: usize| &outcome.rows[i].measured.values;
    assert!(values(1) != values(3) && values(2) != values(3));
    // Alone, the uniform variant is the same network.
    let uniform = small[..3].iter().fold(Loader::new("demo"), |loader, change| loader.set(*change));
    let uniform = uniform.set("quant.weight.bits=3").set("prepare=[equalize]").set("compare=[]").load().unwrap();
    let uniform = QdropRun::new(uniform).unwrap().quantize().unwrap();
    assert_eq!(&uniform.rows[1].measured.values, values(1));
}
