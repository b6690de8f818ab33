//! `quant.mixed`: bits that are chosen for each layer under a budget.

use crate::error::{Error, Result};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
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
}

/// A budget as a recipe says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

impl TryFrom<String> for Target {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
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
