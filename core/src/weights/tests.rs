use super::*;
use crate::graph::{Conv2d, Graph, GraphBuilder};
use safetensors::tensor::{Dtype, TensorView};

fn graph() -> Graph {
    let mut b = GraphBuilder::new([1, 2, 2]);
    let x = b.input();
    let x = b.conv2d("conv", x, Conv2d::new(2, 1).bias()).unwrap();
    b.finish(x).unwrap()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Writes a safetensors file and loads it for [`graph`].
fn load_tensors(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Result<HashMap<String, Tensor>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let views: Vec<_> = tensors.iter().map(|(n, d, s, b)| (*n, TensorView::new(*d, s.clone(), b).unwrap())).collect();
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    load(&file, &graph().parameter_shapes(), &maps(), None, &Device::Cpu).map(|l| l.parameters)
}

fn maps() -> [KeyMap; 1] {
    [KeyMap::of_nodes([("conv".into(), "features.0".into())])]
}

#[test]
fn names_may_be_mapped_and_prefixed() {
    for names in [["conv.weight", "conv.bias"], ["module.features.0.weight", "module.features.0.bias"]] {
        let loaded = load_tensors(&[
            (names[0], Dtype::F32, vec![2, 1, 1, 1], f32s(&[1.0, 2.0])),
            (names[1], Dtype::F64, vec![2], [3.0_f64, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect()),
        ])
        .unwrap();
        assert_eq!(loaded["conv.bias"].to_vec1::<f32>().unwrap(), [3.0, 4.0]);
    }
}

#[test]
fn every_problem_is_listed_by_name() {
    let weight = ("conv.weight", Dtype::F32, vec![2, 1, 1, 1], f32s(&[1.0, 2.0]));
    let error = load_tensors(&[weight.clone(), ("other", Dtype::F32, vec![1], f32s(&[0.0]))]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("1 tensors missing: conv.bias; 1 tensors unexpected: other"), "{error}");
    let error = load_tensors(&[weight.clone(), ("conv.bias", Dtype::F32, vec![1], f32s(&[0.0]))]);
    assert!(error.unwrap_err().to_string().contains("conv.bias has [1], the network needs [2]"));
    let error = load_tensors(&[weight.clone(), ("conv.bias", Dtype::I32, vec![2], f32s(&[0.0, 1.0]))]);
    assert!(error.unwrap_err().to_string().contains("conv.bias holds integers"));
    let error = load_tensors(&[weight, ("conv.bias", Dtype::F32, vec![2], f32s(&[0.0, f32::NAN]))]);
    assert!(error.unwrap_err().to_string().contains("conv.bias holds NaN at element 1"));
}

#[test]
fn unreadable_files_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let try_bytes = |bytes: &[u8]| {
        let file = dir.path().join("w.pth");
        std::fs::write(&file, bytes).unwrap();
        read(&file).unwrap_err().to_string()
    };
    assert!(try_bytes(b"hello").contains("neither safetensors nor a PyTorch checkpoint"));
    assert!(try_bytes(b"PK\x03\x04rest").contains("not a complete zip archive"));
    let legacy = [0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.', 0x80];
    assert!(try_bytes(&legacy).contains("truncated"));
    assert!(try_bytes(&[255, 0, 0, 0, 0, 0, 0, 0, b'{']).contains("not a complete safetensors file"));
    assert!(read(&dir.path().join("none")).unwrap_err().to_string().contains("cannot read"));
}

/// Python would run `os.system` when it unpickles this.
#[test]
fn callables_are_never_called() {
    let pickle = pickle::read(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.").unwrap();
    assert_eq!(pickle.values.get(pickle.root), &value::Value::Map { items: Vec::new(), state: None });
}

/// A dictionary that is named twice and filled in between is one dictionary, and one that holds itself ends.
#[test]
fn values_may_be_shared_and_refer_to_themselves() {
    // d = {}; d["a"] = d; d["b"] = 7; [d, d]
    let pickle = pickle::read(b"]q\x00(}q\x01U\x01ah\x01sU\x01bK\x07sh\x01e.").unwrap();
    let [one, two] = *pickle.values.sequence(pickle.root).unwrap() else { panic!() };
    assert_eq!(one, two);
    let b = pickle.values.item(two, "b").unwrap();
    assert_eq!(pickle.values.get(b), &value::Value::Int(7));
    assert_eq!(pickle.values.item(two, "a"), Some(two));
    assert!(entries::entries(&pickle.values, pickle.root).is_empty());
}

#[test]
fn all_opcodes_of_all_protocols_are_understood() {
    // Python's `pickle.dumps` of [1, -2, 300, 2**40, 1.5, True, None, "x", b"y", bytearray(b"z"), {1}, frozenset({2}),
    // (3,), {"k": [4]}] in protocols 0, 2 and 5.
    let cases: [&[u8]; 3] = [
        b"(lp0\nI1\naI-2\naI300\naL1099511627776L\naF1.5\naI01\naNaVx\np1\nac_codecs\nencode\np2\n(Vy\np3\nVlatin1\np4\ntp5\nRp6\nac__builtin__\nbytearray\np7\n(g2\n(Vz\np8\ng4\ntp9\nRp10\ntp11\nRp12\nac__builtin__\nset\np13\n((lp14\nI1\natp15\nRp16\nac__builtin__\nfrozenset\np17\n((lp18\nI2\natp19\nRp20\na(I3\ntp21\na(dp22\nVk\np23\n(lp24\nI4\nasa.",
        b"\x80\x02]q\x00(K\x01J\xfe\xff\xff\xffM,\x01\x8a\x06\x00\x00\x00\x00\x00\x01G?\xf8\x00\x00\x00\x00\x00\x00\x88NX\x01\x00\x00\x00xq\x01c_codecs\nencode\nq\x02X\x01\x00\x00\x00yq\x03X\x06\x00\x00\x00latin1q\x04\x86q\x05Rq\x06c__builtin__\nbytearray\nq\x07h\x02X\x01\x00\x00\x00zq\x08h\x04\x86q\x09Rq\n\x85q\x0bRq\x0cc__builtin__\nset\nq\x0d]q\x0eK\x01a\x85q\x0fRq\x10c__builtin__\nfrozenset\nq\x11]q\x12K\x02a\x85q\x13Rq\x14K\x03\x85q\x15}q\x16X\x01\x00\x00\x00kq\x17]q\x18K\x04ase.",
        b"\x80\x05\x95P\x00\x00\x00\x00\x00\x00\x00]\x94(K\x01J\xfe\xff\xff\xffM,\x01\x8a\x06\x00\x00\x00\x00\x00\x01G?\xf8\x00\x00\x00\x00\x00\x00\x88N\x8c\x01x\x94C\x01y\x94\x96\x01\x00\x00\x00\x00\x00\x00\x00z\x94\x8f\x94(K\x01\x90(K\x02\x91\x94K\x03\x85\x94}\x94\x8c\x01k\x94]\x94K\x04ase.",
    ];
    for bytes in cases {
        let pickle = pickle::read(bytes).unwrap();
        let all = pickle.values.sequence(pickle.root).unwrap();
        let ints: Vec<_> = all[..4].iter().map(|id| pickle.values.get(*id).clone()).collect();
        assert_eq!(ints, [1, -2, 300, 1 << 40].map(value::Value::Int));
        assert_eq!(pickle.values.get(all[4]), &value::Value::Opaque);
        assert_eq!(pickle.values.get(all[5]), &value::Value::Bool(true));
        assert_eq!(pickle.values.text(all[7]), Some("x"));
        let last = *all.last().unwrap();
        let list = pickle.values.item(last, "k").unwrap();
        assert_eq!(pickle.values.sizes(list), Some(vec![4]));
        assert_eq!(pickle.len, bytes.len());
    }
}

fn entry(path: &str, container: usize, shape: &[usize]) -> entries::Entry<Vec<usize>> {
    entries::Entry { path: entries::plain(path), container, in_module: false, tensor: shape.to_vec() }
}

#[test]
fn the_place_that_fits_best_is_chosen() {
    let wanted = [("conv.weight".to_string(), vec![2, 1, 1, 1]), ("conv.bias".to_string(), vec![2])];
    let choose = |entries: &[entries::Entry<Vec<usize>>]| {
        choice::choose(entries, |shape| shape.as_slice(), &wanted, &[KeyMap::identity(), maps()[0].clone()], |_| true)
    };
    for prefix in ["", "module.", "state_dict.module._orig_mod.model.", "net.backbone.", "_orig_mod."] {
        let entries = [
            entry("optimizer.state.0.exp_avg", 1, &[2, 1, 1, 1]),
            entry(&format!("{prefix}features.0.weight"), 2, &[2, 1, 1, 1]),
            entry(&format!("{prefix}features.0.bias"), 2, &[2]),
            entry(&format!("{prefix}fc.bias"), 2, &[9]),
        ];
        let choice = choose(&entries);
        assert_eq!(choice.prefix, entries::plain(prefix.trim_end_matches('.')), "{prefix}");
        assert_eq!(choice.found, [("features.0.weight".into(), Some(1)), ("features.0.bias".into(), Some(2))]);
        assert_eq!((choice.unexpected, choice.others), (vec![3], vec![]));
    }
    // The raw weights come first in the file; the average is the better one. A smaller network does not fit.
    let entries = [
        entry("state_dict.conv.weight", 1, &[2, 1, 1, 1]),
        entry("state_dict.conv.bias", 1, &[2]),
        entry("state_dict_ema.conv.weight", 2, &[2, 1, 1, 1]),
        entry("state_dict_ema.conv.bias", 2, &[2]),
        entry("teacher.conv.weight", 3, &[1, 1, 1, 1]),
        entry("teacher.conv.bias", 3, &[1]),
    ];
    let choice = choose(&entries);
    assert_eq!((choice.prefix.as_str(), choice.others), ("state_dict_ema", vec!["state_dict".to_string()]));
    // What is missing is named as the naming that fits best has it.
    let choice = choose(&entries[4..5]);
    assert_eq!(choice.found, [("conv.weight".into(), Some(0)), ("conv.bias".into(), None)]);
}

#[test]
fn a_place_may_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let values: Vec<Vec<u8>> = [1.0_f32, 2.0, 3.0, 4.0].map(|v| f32s(&[v, v])).to_vec();
    let names = ["ema.conv.weight", "ema.conv.bias", "raw.conv.weight", "raw.conv.bias"];
    let views = names.iter().zip(&values).map(|(n, v)| {
        let shape = if n.ends_with("bias") { vec![2] } else { vec![2, 1, 1, 1] };
        (*n, TensorView::new(Dtype::F32, shape, v).unwrap())
    });
    std::fs::write(&file, safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()).unwrap();
    let bias = |key: Option<&str>| load(&file, &graph().parameter_shapes(), &maps(), key, &Device::Cpu);
    let loaded = bias(None).unwrap();
    assert_eq!((loaded.taken.as_str(), loaded.others), ("ema", vec!["raw".to_string()]));
    assert_eq!(bias(Some("raw")).unwrap().parameters["conv.bias"].to_vec1::<f32>().unwrap(), [4.0, 4.0]);
    let names = ["conv.weight", "conv.bias", "ema.conv.weight", "ema.conv.bias"];
    let views = names.iter().zip(&values).map(|(n, v)| {
        let shape = if n.ends_with("bias") { vec![2] } else { vec![2, 1, 1, 1] };
        (*n, TensorView::new(Dtype::F32, shape, v).unwrap())
    });
    let rooted = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    let first = std::fs::read(&file).unwrap();
    std::fs::write(&file, rooted).unwrap();
    let loaded = bias(None).unwrap();
    assert_eq!((loaded.taken.as_str(), loaded.others), ("ema", vec![String::new()]));
    let loaded = bias(Some("")).unwrap();
    assert_eq!((loaded.taken.as_str(), loaded.others), ("", vec!["ema".to_string()]));
    assert_eq!(loaded.parameters["conv.bias"].to_vec1::<f32>().unwrap(), [2.0, 2.0]);
    let error = bias(Some("raw")).unwrap_err().to_string();
    assert!(
        error.contains("no tensors lie under 'raw'; this network's tensors lie under: ema, no key ('')"),
        "{error}"
    );
    let broken = names.iter().zip([1.0, 2.0, 3.0, f32::NAN]).map(|(n, v)| {
        let shape = if n.ends_with("bias") { vec![2] } else { vec![2, 1, 1, 1] };
        (*n, TensorView::new(Dtype::F32, shape, f32s(&[v, v]).leak()).unwrap())
    });
    std::fs::write(&file, safetensors::serialize(broken.collect::<Vec<_>>(), None).unwrap()).unwrap();
    let error = bias(None).unwrap_err().to_string();
    let want = "under 'ema', 1 tensors unusable: conv.bias holds NaN at element 0; `model.weights_key` can name \
                another place that fits: no key ('')";
    assert!(error.contains(want), "{error}");
    std::fs::write(&file, first).unwrap();
    let error = bias(Some("state_dict")).unwrap_err().to_string();
    assert!(error.contains("no tensors lie under 'state_dict'; this network's tensors lie under: ema, raw"), "{error}");
}
