//! Whether two results can be measured on the same images: they have the same task, classes and preprocessed images.

use super::results::Opened;
use qdrop_core::dataset::Split;
use qdrop_core::pipeline::Session;
use qdrop_core::recipe::Recipe;
use qdrop_core::{Error, Result};
use serde_yaml::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The key of the folder with the images.
const ROOT: &str = "data_root";

/// Checks that both results are of the same task, classes and images. Parameters of the dataset may differ where they
/// do not change images and targets, such as a class list that is given in one recipe and found in the other.
pub fn check_same(a: &Opened, session_a: &Session<'_>, b: &Opened, session_b: &Session<'_>) -> Result<()> {
    let task = |recipe: &Recipe| shown(serde_yaml::to_value(&recipe.task).ok().as_ref());
    let input = |session: &Session<'_>| format!("{:?}", session.graph().input_shape());
    let mut different = vec![
        ("`task`".to_string(), task(&a.recipe), task(&b.recipe)),
        ("the target of an image".into(), session_a.targets().to_string(), session_b.targets().to_string()),
        ("the input's shape".into(), input(session_a), input(session_b)),
        ("`data.name`".into(), a.recipe.data.name.clone(), b.recipe.data.name.clone()),
    ];
    different.retain(|(_, a, b)| a != b);
    if a.recipe.data.name == b.recipe.data.name {
        let (data_a, data_b) = (Data::of(&a.recipe), Data::of(&b.recipe));
        let keys: BTreeSet<&String> = data_a.leaves.keys().chain(data_b.leaves.keys()).collect();
        let others: Vec<&String> = keys.into_iter().filter(|key| !data_a.same(&data_b, key)).collect();
        let only_parameters = different.is_empty() && others.iter().all(|key| *key != ROOT);
        if !others.is_empty() && only_parameters && same_images(session_a, session_b)? {
            return Ok(());
        }
        different.extend(others.iter().map(|key| (format!("`{key}`"), data_a.shown(key), data_b.shown(key))));
    }
    if different.is_empty() {
        return Ok(());
    }
    let different: Vec<_> = different.iter().map(|(what, a, b)| format!("{what} is {b} here and {a} there")).collect();
    let message = format!(
        "cannot be compared with {} image by image: {}; results can be compared if task, classes and images are the same \
         (--data DIR sets the folder with the images of both)",
        a.path.display(),
        different.join(", ")
    );
    Err(Error::data(&b.path, message))
}

/// Whether the images that are evaluated, as the networks see them, and their targets are the same. Stops at the first difference.
fn same_images(a: &Session<'_>, b: &Session<'_>) -> Result<bool> {
    let (data_a, data_b) = (a.dataset(Split::Evaluation)?, b.dataset(Split::Evaluation)?);
    let count = a.recipe().evaluation.images.unwrap_or(usize::MAX);
    let (count_a, count_b) = (data_a.len().min(count), data_b.len().min(count));
    let same = |i: usize| match (data_a.sample(i), data_b.sample(i)) {
        (Ok(a), Ok(b)) => a.target == b.target && a.image == b.image,
        // An image that cannot be read is not counted.
        (Err(_), Err(_)) => true,
        _ => false,
    };
    Ok(count_a == count_b && (0..count_a).all(same))
}

/// A value of a recipe on one line.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => "not given".into(),
        Some(value) => serde_yaml::to_string(value).unwrap_or_default().trim().replace('\n', ", "),
    }
}

/// What a recipe says about its images.
struct Data<'a> {
    recipe: &'a Recipe,
    /// The dataset's parameters, by the key of each.
    leaves: BTreeMap<String, Value>,
}

impl<'a> Data<'a> {
    fn of(recipe: &'a Recipe) -> Self {
        let mut leaves = BTreeMap::new();
        collect("data.params", &recipe.data.params, &mut leaves);
        // `data_root` replaces the folder in the dataset's parameters, so both stand under one key here.
        let in_params = "data.params.root";
        let given = match (&recipe.data_root, leaves.get(in_params)) {
            (Some(folder), _) => Some(recipe.resolve(ROOT, folder)),
            (None, Some(Value::String(folder))) => Some(recipe.resolve(in_params, folder.as_ref())),
            _ => None,
        };
        if let Some(folder) = given {
            leaves.retain(|key, _| !key.starts_with(in_params));
            leaves.insert(ROOT.into(), folder.to_string_lossy().into_owned().into());
        }
        Self { recipe, leaves }
    }

    fn same(&self, other: &Self, key: &str) -> bool {
        match (self.leaves.get(key), other.leaves.get(key)) {
            // A text may be a path, and relative ones of two recipes may start from different folders.
            (Some(Value::String(a)), Some(Value::String(b))) => {
                let (a_path, b_path) = (self.recipe.resolve(key, a.as_ref()), other.recipe.resolve(key, b.as_ref()));
                a_path == b_path || (a == b && !a_path.exists() && !b_path.exists())
            }
            (a, b) => a == b,
        }
    }

    /// The value at a key, a path with its folder.
    fn shown(&self, key: &str) -> String {
        match self.leaves.get(key) {
            Some(Value::String(text)) => {
                let path = self.recipe.resolve(key, text.as_ref());
                if path.exists() {
                    path.display().to_string()
                } else {
                    text.clone()
                }
            }
            value => shown(value),
        }
    }
}

/// Collects the values of mappings within mappings by their keys.
fn collect(key: &str, value: &Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Null => {}
        Value::Mapping(map) => map.iter().for_each(|(name, value)| {
            collect(&format!("{key}.{}", name.as_str().unwrap_or_default()), value, leaves);
        }),
        value => {
            leaves.insert(key.into(), value.clone());
        }
    }
}
