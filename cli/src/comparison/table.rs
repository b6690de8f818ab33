//! The table of a comparison, as text.

use super::results::ComparedResult;
use crate::report::{aligned, cell};
use qdrop_core::task::PairedComparison;

/// The comparison as a table.
pub fn text(a: &ComparedResult, b: &ComparedResult, metrics: &[PairedComparison]) -> String {
    let mut text = String::new();
    for (name, result) in [("A", a), ("B", b)] {
        text += &format!("{name}: {}, recipe {}, {}\n", result.path.display(), result.recipe, result.bits);
    }
    let heading = ["", "A", "B", "B - A", "both", "only A", "only B", "neither", "McNemar p"];
    let mut lines = vec![heading.map(String::from).to_vec()];
    for m in metrics {
        let mut difference = cell(&m.metric, m.difference, m.difference_standard_error);
        if m.difference > 0.0 {
            difference.insert(0, '+');
        }
        let mut line = vec![
            m.metric.heading(),
            cell(&m.metric, m.a, m.a_standard_error),
            cell(&m.metric, m.b, m.b_standard_error),
            difference,
        ];
        if let Some(c) = &m.counts {
            line.extend([c.both, c.only_a, c.only_b, c.neither].map(|count| count.to_string()));
            line.push(probability(c.mcnemar_p));
        }
        line.resize(heading.len(), String::new());
        lines.push(line);
    }
    text += &aligned(&lines);
    let broken = match a.measured.broken {
        0 => String::new(),
        broken => format!(" ({broken} more could not be read)"),
    };
    text += &format!(
        "{} images{broken}; standard errors in parentheses, that of B - A from the differences image by image; McNemar's exact \
         test is two-sided\n",
        a.measured.images
    );
    text
}

/// A p-value as text.
pub(crate) fn probability(p: f64) -> String {
    match p {
        0.0 => "< 1e-300".into(),
        p if p < 0.001 => format!("{p:.1e}"),
        p => format!("{p:.3}"),
    }
}
