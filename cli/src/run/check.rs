//! Checks before a run: everything that a run of the recipe would refuse without computing with images.

use crate::error::{At, Error, Result, Stage};
use qdrop_core::dataset::Split;
use qdrop_core::error::Input;
use qdrop_core::graph::SiteKind;
use qdrop_core::pipeline::{Registries, Session};
use qdrop_core::progress::Progress;
use qdrop_core::recipe::{Recipe, Variant};
use qdrop_core::Error as Core;

/// The result of checking a recipe without running it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// Units of the network.
    pub units: usize,
    /// Number of quantized weights.
    pub weights: usize,
    /// Number of quantized activations.
    pub activations: usize,
    /// Number of calibration and of evaluation images, if the data folder is given.
    pub images: Option<[usize; 2]>,
    /// How evaluation images become the network's input, in words, if the dataset says it.
    pub preprocessing: Option<String>,
    /// Inputs that were not given and therefore not checked.
    pub unchecked: Vec<Input>,
    /// Where the float weights are in the checkpoint, unless they are all of it.
    pub(super) place: Option<String>,
}

/// Checks the recipe of a session, and its variants.
pub fn check(session: &Session<'_>, registries: &Registries, progress: &dyn Progress) -> Result<Check> {
    let check = check_one(session, None, progress)?;
    let recipe = session.recipe();
    for variant in &recipe.compare {
        let checked = || {
            let recipe = recipe.variant(variant).at(Stage::Recipe)?;
            let other = Session::new(recipe, registries, session.device().clone()).at(Stage::Setup)?;
            check_shared(session, &other).at(Stage::Setup)?;
            check_shared_bits(session, &other, variant).at(Stage::Setup)?;
            check_one(&other, Some(&check), progress)
        };
        checked().map_err(|cause| Error::Variant { name: variant.name.clone(), cause: Box::new(cause) })?;
    }
    Ok(check)
}

/// Checks one session. Those of variants use the images of the recipe, which `of_recipe` knows.
fn check_one(session: &Session<'_>, of_recipe: Option<&Check>, progress: &dyn Progress) -> Result<Check> {
    let plans = session.plans().at(Stage::Setup)?;
    let count = |kind| plans.iter().filter(|p| p.site.kind == kind).count();
    let mut unchecked = Vec::new();
    let (model, place) = match session.float_network() {
        Err(Core::NotGiven { what, .. }) => {
            unchecked.push(what);
            (session.zero_model().at(Stage::FloatNetwork)?, None)
        }
        network => network.at(Stage::FloatNetwork)?,
    };
    let (images, preprocessing) = match of_recipe {
        Some(check) => (check.images, check.preprocessing.clone()),
        None => match images(session, progress) {
            Err(Core::NotGiven { what, .. }) => {
                unchecked.push(what);
                (None, None)
            }
            images => {
                let (images, preprocessing) = images.at(Stage::Data)?;
                (Some(images), preprocessing)
            }
        },
    };
    session.check_spill().at(Stage::Setup)?;
    session.check_budget().at(Stage::Setup)?;
    let asked = session.recipe().calibration.images;
    session.rehearse(model, images.map_or(asked, |[images, _]| images.min(asked)), progress).at(Stage::Setup)?;
    let (weights, activations) = (count(SiteKind::Weight), count(SiteKind::Activation));
    let units = session.graph().units().len();
    Ok(Check { units, weights, activations, images, preprocessing, unchecked, place })
}

/// The number of calibration and of evaluation images, and how these are preprocessed.
fn images(session: &Session<'_>, progress: &dyn Progress) -> qdrop_core::Result<([usize; 2], Option<String>)> {
    let evaluation = session.dataset_with_notes(Split::Evaluation, progress)?;
    let calibration = session.dataset_with_notes(Split::Calibration, progress)?.len();
    Ok(([calibration, evaluation.len()], evaluation.preprocessing()))
}

/// Checks that a variant does not change what it shares with the recipe: the images, and where values are cached.
fn check_shared(session: &Session<'_>, variant: &Session<'_>) -> qdrop_core::Result<()> {
    let (recipe, other): (&Recipe, &Recipe) = (session.recipe(), variant.recipe());
    let refused = |key, why| Err(Core::setting(key, format!("a variant cannot change it: {why}")));
    if session.graph().input_shape() != variant.graph().input_shape() {
        return refused("model.architecture", "all networks of a run take the same calibration images");
    }
    if recipe.data != other.data || recipe.data_root != other.data_root {
        return refused("data", "all networks of a run are calibrated and measured with the same images");
    }
    if recipe.calibration.images != other.calibration.images {
        return refused("calibration.images", "all networks of a run are calibrated with the same images");
    }
    if recipe.cache != other.cache {
        return refused("cache", "all networks of a run share the cached values");
    }
    Ok(())
}

/// Checks that a variant has the bits that are chosen for the recipe, or chooses none.
fn check_shared_bits(session: &Session<'_>, other: &Session<'_>, variant: &Variant) -> qdrop_core::Result<()> {
    let (quant, changed) = (&session.recipe().quant, &other.recipe().quant);
    let Some(mixed) = &changed.mixed else { return Ok(()) };
    let refused = |key: &str, why: &str| {
        let advice = match quant.mixed {
            Some(_) => "add `quant.mixed: null` for a network without chosen bits, or write a recipe of its own",
            None => "write a recipe of its own",
        };
        Err(Core::setting(key, format!("a variant cannot change it: {why}; {advice}")))
    };
    // Also a key of it, which may change what is not there yet.
    let names_it = variant.set.keys().any(|key| key.as_str().is_some_and(|key| key.starts_with("quant.mixed")));
    if names_it || quant.mixed.as_ref() != Some(mixed) {
        return refused("quant.mixed", "bits are chosen once, before the run");
    }
    for (key, kind, before, after) in [
        ("quant.weight.bits", SiteKind::Weight, quant.weight.bits, changed.weight.bits),
        ("quant.activation.bits", SiteKind::Activation, quant.activation.bits, changed.activation.bits),
    ] {
        if mixed.chooses(kind) && before != after {
            return refused(key, "the bits of these layers are chosen");
        }
    }
    let free = |session: &Session<'_>| -> qdrop_core::Result<Vec<(SiteKind, String)>> {
        let plans = session.plans()?.into_iter().filter(|plan| plan.common_bits && mixed.chooses(plan.site.kind));
        Ok(plans.map(|plan| (plan.site.kind, plan.site.name)).collect())
    };
    match free(session)? == free(other)? {
        true => Ok(()),
        false => refused("quant", "the bits that are chosen would be those of other layers"),
    }
}
