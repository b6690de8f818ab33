//! `quant.mixed`: bits that are chosen for each layer under a budget.

use super::check_bits;
use crate::error::{Error, Result};
use crate::graph::SiteKind;
use bytesize::ByteSize;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// Bits that are chosen for each layer, so that the network loses least within a budget. Layers that get their bits from the
/// setting or from an override keep them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixedRecipe {
    /// The budget.
    pub target: Target,
    /// The bits to choose from, each 1 to 16.
    pub choices: Vec<u32>,
    /// The bits that were chosen. A run writes them into its recipe; a recipe that has them chooses no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<ChosenBits>,
}

/// Bits that were chosen, by the names of layers, in the order of execution.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChosenBits {
    /// Bits of weights.
    #[serde(default)]
    pub weight: IndexMap<String, u32>,
    /// Bits of activations; none where the target does not depend on them, and they have the recipe's.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub activation: IndexMap<String, u32>,
}

impl ChosenBits {
    /// Those of one kind of site.
    pub fn of(&self, kind: SiteKind) -> &IndexMap<String, u32> {
        match kind {
            SiteKind::Weight => &self.weight,
            SiteKind::Activation => &self.activation,
        }
    }
}

impl MixedRecipe {
    /// Whether the bits of this kind of site are chosen.
    pub fn chooses(&self, kind: SiteKind) -> bool {
        kind == SiteKind::Weight || matches!(self.target.budget(), Budget::Operations(_))
    }

    /// The least and the most bits of this kind of site: those that were chosen, or can be; `None` if they are not chosen.
    pub(super) fn range(&self, kind: SiteKind) -> Option<(u32, u32)> {
        let all: Vec<u32> = match &self.chosen {
            Some(chosen) => chosen.of(kind).values().copied().collect(),
            None if self.chooses(kind) => self.choices.clone(),
            None => Vec::new(),
        };
        Some((all.iter().copied().min()?, all.iter().copied().max()?))
    }

    /// Checks the bits.
    pub(super) fn validate(&self) -> Result<()> {
        for (i, bits) in self.choices.iter().enumerate() {
            check_bits(*bits, &format!("quant.mixed.choices[{i}]"))?;
        }
        if let Some(bits) = self.choices.iter().find(|b| self.choices.iter().filter(|c| c == b).count() > 1) {
            return Err(Error::setting("quant.mixed.choices", format!("names {bits} bits twice")));
        }
        if self.choices.is_empty() {
            let message = "is empty; write the bits to choose from, such as [2, 4, 8]";
            return Err(Error::setting("quant.mixed.choices", message));
        }
        let most = self.choices.iter().copied().max().unwrap_or_default();
        if matches!(self.target.budget(), Budget::AverageBits(bits) if bits > f64::from(most)) {
            let message = format!("'{}' is more than the largest of `choices`, {most} bits", self.target);
            return Err(Error::setting("quant.mixed.target", message));
        }
        let Some(chosen) = &self.chosen else { return Ok(()) };
        for kind in [SiteKind::Weight, SiteKind::Activation] {
            let path = format!("quant.mixed.chosen.{}", kind.name());
            if let Some((name, bits)) = chosen.of(kind).iter().find(|(_, bits)| !self.choices.contains(bits)) {
                let message = format!("{bits} bits are not among `choices`; add them there, or leave out `chosen`");
                return Err(Error::setting(format!("{path}.{name}"), message));
            }
            if !self.chooses(kind) && !chosen.of(kind).is_empty() {
                let message = format!("'{}' chooses no bits of {}s; leave them out", self.target, kind.name());
                return Err(Error::setting(path, message));
            }
        }
        Ok(())
    }
}

/// A budget as a recipe says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "String")]
pub struct Target {
    text: String,
    budget: Budget,
}

/// What a network may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Mean bits of a weight, over the weights whose bits are chosen: `avg 3.0 bits`.
    AverageBits(f64),
    /// Bytes of all parameters: `2.5 MB`.
    Size(u64),
    /// Bit operations, the sum of MACs x bits of the weight x bits of the value that is read, in percent of those with 8 bits
    /// everywhere: `60 % of w8a8 MACs x bits`. The bits of activations are chosen too.
    Operations(f64),
}

impl Target {
    /// The budget.
    pub fn budget(&self) -> Budget {
        self.budget
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = || {
            Error::message(format!(
                "'{text}' is no target; write a mean such as 'avg 3.0 bits', a size such as '2.5 MB', or a share such as '60 % of \
                 w8a8 MACs x bits'"
            ))
        };
        let positive = |number: &str| number.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
        let words = text.replace('%', " % ");
        let budget = match words.split_whitespace().collect::<Vec<_>>()[..] {
            ["avg", number, "bits"] => positive(number).map(Budget::AverageBits),
            [number, "%", "of", "w8a8", "MACs", "x", "bits"] => positive(number).map(Budget::Operations),
            [_] | [_, _] => {
                let size = text.parse::<ByteSize>().ok().map(|size| size.as_u64());
                // A number without a unit is more likely a mean whose words were forgotten.
                size.filter(|size| *size > 0 && text.ends_with(['B', 'b'])).map(Budget::Size)
            }
            _ => None,
        };
        Ok(Self { text: text.into(), budget: budget.ok_or_else(refused)? })
    }
}

impl TryFrom<Value> for Target {
    type Error = Error;

    fn try_from(value: Value) -> Result<Self> {
        match value {
            Value::String(text) => text.parse(),
            other => serde_yaml::to_string(&other).map_err(Error::message)?.trim_end().replace('\n', ", ").parse(),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.text
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_understood() {
        for (text, want) in [
            ("avg 3.0 bits", Budget::AverageBits(3.0)),
            ("avg 2.5 bits", Budget::AverageBits(2.5)),
            ("2.5 MB", Budget::Size(2_500_000)),
            ("2.5MB", Budget::Size(2_500_000)),
            ("300 KiB", Budget::Size(300 * 1024)),
            ("60 % of w8a8 MACs x bits", Budget::Operations(60.0)),
            ("12.5% of w8a8 MACs x bits", Budget::Operations(12.5)),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.budget(), target.to_string().as_str()), (want, text));
        }
        for text in
            ["3", "avg 3", "3 bits", "avg -1 bits", "avg NaN bits", "0 MB", "60 %", "60 % of w4a4 MACs x bits", ""]
        {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{text}' is no target; write a mean such as")), "{error}");
        }
    }
}
