//! `devices`: what this machine has for computing.

use super::Output;
use anyhow::Result;
use qdrop_core::device::{survey, Software, Survey};
use qdrop_core::memory::gib;
use serde_json::Value;

/// Prints the devices and the libraries that they need.
pub fn devices(output: Output) -> Result<Value> {
    let found = survey();
    let threads = rayon::current_num_threads();
    output.print(&text(&found, threads))?;
    let mut value = serde_json::to_value(&found)?;
    if let Value::Object(fields) = &mut value {
        fields.insert("threads".into(), threads.into());
    }
    Ok(value)
}

fn text(found: &Survey, threads: usize) -> String {
    let mut text = format!("cpu     {threads} threads\n");
    for gpu in &found.gpus {
        let gib = gib(gpu.memory);
        text += &format!("cuda:{}  {}, {gib:.1} GiB, compute capability {}\n", gpu.index, gpu.name, gpu.capability);
    }
    if let Some(problem) = &found.problem {
        text += &format!("no GPU  {problem}\n");
    }
    for Software { what, file, looked_for, version, without, .. } in &found.software {
        let version = version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        text += &match file {
            Some(file) => format!("found   {what}{version} ({file})\n"),
            None => format!("missing {what} ({}); without it {without}\n", looked_for.join(", ")),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use qdrop_core::device::Gpu;

    #[test]
    fn what_is_there_and_what_is_missing_is_said() {
        let software = |what: &str, file: Option<&str>, version: Option<&str>| Software {
            what: what.into(),
            file: file.map(Into::into),
            looked_for: vec!["a.so.1".into(), "a.so".into()],
            version: version.map(Into::into),
            needed: false,
            without: "it is slow".into(),
        };
        let gpu = Gpu { index: 1, name: "NVIDIA X".into(), memory: 3 << 30, capability: "9.0".into() };
        let found = Survey {
            cuda_build: true,
            software: vec![software("A", Some("a.so.1"), Some("13.0")), software("B", None, None)],
            gpus: vec![gpu],
            problem: None,
        };
        let want = "cpu     4 threads\ncuda:1  NVIDIA X, 3.0 GiB, compute capability 9.0\nfound   A 13.0 (a.so.1)\n\
                    missing B (a.so.1, a.so); without it it is slow\n";
        assert_eq!(text(&found, 4), want);
        let none = Survey { gpus: Vec::new(), problem: Some("install one".into()), ..found };
        assert!(text(&none, 4).contains("no GPU  install one\n"));
    }
}
