//! Recipes that a crate registers, such as those for a plugin's architecture.

use crate::registry::define_kind;

define_kind!(
    /// A recipe as YAML text.
    RecipeKind,
    "recipe",
    &'static str
);

/// Registers a recipe. Commands then find it by its name, and other recipes can extend it.
///
/// ```
/// qdrop_core::register_recipe! { name: "mine/w4a4", yaml: "extends: imagenet/_base" }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! register_recipe {
    (name: $name:expr, yaml: $yaml:expr) => {
        $crate::__register!($crate::recipe::RecipeKind, $name, [], "", $yaml);
    };
}
