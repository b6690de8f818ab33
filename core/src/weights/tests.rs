use super::*;
use crate::graph::{Conv2d, GraphBuilder};
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
    load(&file, &graph(), &[KeyMap::of_nodes([("conv".into(), "features.0".into())])], &Device::Cpu)
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
    let (value, _) = pickle::read(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.").unwrap();
    assert_eq!(value, pickle::Value::Opaque);
}
