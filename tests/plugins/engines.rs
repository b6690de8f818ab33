//! Plugins and the engines: a loss of their own is served by the fused engine, and a false claim about a kernel is found.

use crate::support::*;

#[test]
fn a_loss_of_a_plugin_learns_the_same_on_both_engines() {
    let dir = outside();
    let file = build_copy("tests/plugins/cosine", dir.path());
    qdrop(&["plugin", "test", text(&file)]).success();
    let [generic, fused] = ["generic", "fused"].map(|engine| {
        let out = dir.path().join(engine);
        let start = ["--plugin", text(&file), "quantize", "demo", "--json", "--out", text(&out), "--engine", engine];
        qdrop(&[&start, SMALL, &["--set", "reconstruction={name: cosine, params: {iters: 5}}"]].concat()).json()
    });
    let units = |result: &serde_json::Value| -> Vec<(String, f64)> {
        let units = result["units"].as_array().unwrap().iter();
        units.map(|u| (u["name"].to_string(), u["loss"]["reconstruction"].as_f64().unwrap())).collect()
    };
    let (generic, fused) = (units(&generic), units(&fused));
    assert!(generic.len() > 3);
    for (i, ((name, generic), (other, fused))) in generic.iter().zip(&fused).enumerate() {
        assert_eq!(name, other);
        // The engines sum in another order. Where that decides how a weight is rounded, the units after it read other
        // values; the first unit has no unit before it.
        let tolerance = if i == 0 { 1e-4 } else { 1e-2 };
        assert!((generic - fused).abs() <= tolerance * generic, "{name}: generic {generic}, fused {fused}");
        // A distance of directions; zero would mean that nothing was compared.
        assert!(*generic > 0.0 && *generic < 1.0, "{name}: {generic}");
    }
}

#[test]
fn a_quantizer_that_does_not_compute_its_kernel_is_found() {
    let dir = outside();
    let file = build_copy("tests/plugins/liar", dir.path());
    let run = qdrop(&["plugin", "test", text(&file)]);
    assert!(!run.ok, "{}", run.stdout);
    let all = format!("{}{}", run.stdout, run.stderr);
    let found =
        all.lines().find(|l| l.contains("while it learns, it computes what its kernel says") && l.contains("FAILED"));
    assert!(found.is_some(), "{all}");
}
