//! What the numbers of a list of labels mean.

use super::Labels;
use qdrop_core::prelude::*;

/// The classes of ImageNet-1k in the order of the ids 1 to 1000 in the development kit of ILSVRC2012 (its `meta.mat`). The
/// labels of the validation images that are published with the kit are these ids, not indices of the sorted synsets.
const ILSVRC2012_IDS: &str = include_str!("../ilsvrc2012_ids.txt");

/// The meaning of numeric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Numbers {
    /// Class indices.
    #[serde(rename = "from_0")]
    From0,
    /// Class indices plus 1.
    #[serde(rename = "from_1")]
    From1,
    /// The ids of the development kit of ILSVRC2012.
    #[serde(rename = "ilsvrc2012")]
    Ilsvrc2012,
}

/// The number that a label is.
pub fn parse(label: &[u8]) -> Option<usize> {
    // `parse` alone would also take `+1`.
    let digits = !label.is_empty() && label.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(label).ok().filter(|_| digits)?.parse().ok()
}

impl Labels<'_> {
    /// The classes of numeric labels with their line numbers, and how they were understood if that is not certain.
    pub(super) fn classes_of_numbers(
        &self,
        labels: &[(usize, usize)],
        named: bool,
    ) -> Result<(Vec<usize>, Option<String>)> {
        let (numbers, note) = self.understand(labels, named)?;
        let range = if numbers == Numbers::From0 { 0..self.classes } else { 1..self.classes + 1 };
        if let Some((line, label)) = labels.iter().find(|(_, label)| !range.contains(label)) {
            let last = range.end.saturating_sub(1);
            let message = format!("line {line}: the label {label} is not one of {} to {last}", range.start);
            return Err(self.error(message));
        }
        let classes = match numbers {
            Numbers::From0 => labels.iter().map(|(_, label)| *label).collect(),
            Numbers::From1 => labels.iter().map(|(_, label)| label - 1).collect(),
            Numbers::Ilsvrc2012 => {
                let ids = self.ilsvrc2012()?;
                labels.iter().map(|(_, label)| ids[label - 1]).collect()
            }
        };
        Ok((classes, note))
    }

    /// The class of each ILSVRC2012 id.
    fn ilsvrc2012(&self) -> Result<Vec<usize>> {
        let Some(list) = self.class_list.filter(|list| list.len() == 1000) else {
            let message =
                "the ids of ILSVRC2012 need a class list with the 1000 synsets, such as `class_list: imagenet-1k`";
            return Err(self.error(message));
        };
        let ids = ILSVRC2012_IDS.lines().map(|synset| {
            let missing =
                || Error::data(&list.file, format!("the synset {synset} of the ids of ILSVRC2012 is missing"));
            list.find(synset.as_bytes())?.ok_or_else(missing)
        });
        ids.collect()
    }

    /// What the numbers mean: as the parameters say, or as far as the numbers tell. `named`: the list names the images.
    fn understand(&self, labels: &[(usize, usize)], named: bool) -> Result<(Numbers, Option<String>)> {
        if let Some(numbers) = self.numbers {
            return Ok((numbers, None));
        }
        let (least, most) = labels.iter().fold((usize::MAX, 0), |(a, b), (_, label)| (a.min(*label), b.max(*label)));
        if least == 0 {
            return Ok((Numbers::From0, None));
        }
        let synsets = self.ilsvrc2012().is_ok();
        if most == self.classes && self.classes == 1000 && !synsets {
            return Err(self.error(
                "has labels from 1 to 1000, which are either counted from 1 or the ids of ILSVRC2012, whose order is \
                 another one; say which with `label_numbers: from_1`, or `label_numbers: ilsvrc2012` and `class_list: \
                 imagenet-1k`",
            ));
        }
        // The development kit's list has no names, and the usual list with names counts from 0.
        let numbers = match (most == self.classes, synsets) {
            (true, true) => Numbers::Ilsvrc2012,
            (true, false) => Numbers::From1,
            (false, true) if !named => Numbers::Ilsvrc2012,
            (false, _) => Numbers::From0,
        };
        let (meaning, others) = match numbers {
            Numbers::From0 => ("class indices that count from 0", "from_1 or ilsvrc2012"),
            Numbers::From1 => ("classes that count from 1", "from_0"),
            Numbers::Ilsvrc2012 => ("ids of the development kit of ILSVRC2012", "from_0 or from_1"),
        };
        let note = format!(
            "the labels of {}, {least} to {most}, are understood as {meaning}; `label_numbers` can say otherwise ({others})",
            self.file.display()
        );
        Ok((numbers, Some(note)))
    }
}
