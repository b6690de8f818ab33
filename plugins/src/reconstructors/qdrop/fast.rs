//! The preset for minutes instead of hours.

use super::params::QdropParams;
use qdrop_core::prelude::*;

/// What differs from the published recipes; `docs/accuracy.md` has what was measured. The rates are meant for `adaround` with
/// `straight_through`: so few steps do not settle soft roundings.
const FAST: &str = "
iters: 900
balance: 0.5
start: gptq
batches: permutation
lr: 0.04
lr_decay: cosine
scale_lr: 4.0e-3
rates: {bias: 2.0e-2, weight_scale: 2.0e-2}
weight: 0.3
keep_best: 5
clip_targets: true
match_statistics: 256
";

/// The preset, with the parameters that the recipe gives instead of its own.
pub fn fast(params: &Params) -> Result<QdropParams> {
    params.over(FAST)?.parse::<QdropParams>()?.validate(params)
}

/// Sets another number of steps. Adam's steps are about as large as the rate, and where hard roundings make their directions
/// random, `N` of them lead about `rate * sqrt(N)` away: the rates change so that this stays the same.
pub fn set_iters(params: &mut QdropParams, iters: usize) {
    let factor = (params.iters as f64 / iters as f64).sqrt();
    params.rates.values_mut().chain([&mut params.lr, &mut params.scale_lr]).for_each(|rate| *rate *= factor);
    params.iters = iters;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconstructors::{Batches, Decay};

    #[test]
    fn given_parameters_replace_those_of_the_preset() {
        let given = |text: &str| fast(&Params::none("reconstruction.params").over(text).unwrap());
        let plain = fast(&Params::none("reconstruction.params")).unwrap();
        assert_eq!((plain.iters, plain.batches, plain.lr_decay), (900, Batches::Permutation, Decay::Cosine));
        assert!(plain.clip_targets && plain.drop_prob == 0.5);
        let changed = given("{iters: 20000, lr: 1e-3, rates: {bias: 0.1}}").unwrap();
        assert_eq!((changed.iters, changed.lr, changed.rates.len(), changed.keep_best), (20_000, 1e-3, 1, 5));
        let mut fewer = plain;
        set_iters(&mut fewer, 100);
        let rates = [fewer.lr, fewer.scale_lr, fewer.rates["bias"], fewer.rates["weight_scale"]];
        assert!(rates.iter().zip([0.12, 0.012, 0.06, 0.06]).all(|(a, b)| (a - b).abs() < 1e-12), "{rates:?}");
        assert_eq!((fewer.iters, fewer.steps(), fewer.rate_factor()), (100, 100, 1.0));
        let error = given("{itres: 3}").unwrap_err().to_string();
        assert!(error.starts_with("reconstruction.params.itres: unknown field"), "{error}");
        assert!(given("{iters: 0}").unwrap_err().to_string().starts_with("reconstruction.params.iters: must"));
    }
}
