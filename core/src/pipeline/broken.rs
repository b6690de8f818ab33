//! Images that cannot be read: which share of them is accepted, and the error for more.

use crate::error::{Error, Result};

/// Images that the error lists.
const LISTED: usize = 20;

/// The images of one pass that could not be read.
#[derive(Debug, Default)]
pub(super) struct BrokenImages {
    count: usize,
    /// The messages about the first ones.
    first: Vec<String>,
}

impl BrokenImages {
    /// Adds the messages about the broken images of a batch.
    pub fn add(&mut self, messages: &[String]) {
        self.count += messages.len();
        let room = LISTED - self.first.len();
        self.first.extend(messages.iter().take(room).cloned());
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Checks the share of broken images at the end of a pass over `total` images. `kind` is "evaluation" or
    /// "calibration", and the recipe's section of this name holds the limit.
    ///
    /// # Errors
    /// All images are broken, or more than `max_percent` of them.
    pub fn check(&self, kind: &str, total: usize, max_percent: f64) -> Result<()> {
        let count = self.count;
        if count > 0 && count == total {
            let which = if count == 1 { "the only" } else { "none of the" };
            let number = if count == 1 { String::new() } else { format!("{total} ") };
            let verb = if count == 1 { "image could not be read" } else { "images could be read" };
            let message = format!("{which} {number}{kind} {verb}; check the data folder and the dataset's parameters");
            return Err(Error::message(format!("{message}:{}", self.list())));
        }
        // Compared as a product, so that exactly the limit is accepted.
        if count as f64 * 100.0 > max_percent * total as f64 {
            let share = 100.0 * count as f64 / total as f64;
            let message = format!(
                "{count} of {total} {kind} images ({share:.2} %) could not be read, more than the {max_percent} % of \
                 `{kind}.max_broken_percent`; replace or remove them, or raise the limit"
            );
            return Err(Error::message(format!("{message}:{}", self.list())));
        }
        Ok(())
    }

    /// The first messages, one on each line.
    fn list(&self) -> String {
        let mut text: String = self.first.iter().map(|message| format!("\n  {message}")).collect();
        if self.count > self.first.len() {
            text += &format!("\n  and {} more", self.count - self.first.len());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(count: usize, total: usize, max_percent: f64) -> Option<String> {
        let mut broken = BrokenImages::default();
        // Batches of any size give the same.
        for start in (0..count).step_by(7) {
            let messages: Vec<String> =
                (start..count.min(start + 7)).map(|i| format!("data {i}.jpg: damaged")).collect();
            broken.add(&messages);
        }
        assert_eq!(broken.count(), count);
        broken.check("evaluation", total, max_percent).err().map(|e| e.to_string())
    }

    #[test]
    fn a_share_up_to_the_limit_is_accepted() {
        assert_eq!(check(0, 100, 0.0), None);
        assert_eq!(check(1, 100, 1.0), None);
        assert_eq!(check(7, 10_000, 0.07), None);
        assert_eq!(check(99, 100, 100.0), None);
        let want = "2 of 100 evaluation images (2.00 %) could not be read, more than the 1 % of \
                    `evaluation.max_broken_percent`; replace or remove them, or raise the limit:\n  data 0.jpg: damaged\n  \
                    data 1.jpg: damaged";
        assert_eq!(check(2, 100, 1.0).unwrap(), want);
        assert!(check(1, 100, 0.5).unwrap().contains("more than the 0.5 % of"));
    }

    #[test]
    fn the_list_is_bounded_and_ends_with_the_number_of_the_others() {
        let text = check(25, 100, 1.0).unwrap();
        assert!(text.ends_with("\n  data 19.jpg: damaged\n  and 5 more"), "{text}");
        assert!(!text.contains("20.jpg"));
    }

    #[test]
    fn a_set_without_a_readable_image_is_an_error_whatever_the_limit() {
        let text = check(3, 3, 100.0).unwrap();
        assert!(text.starts_with("none of the 3 evaluation images could be read; check the data folder"), "{text}");
        assert!(text.ends_with("data 2.jpg: damaged"));
        assert!(check(1, 1, 100.0).unwrap().starts_with("the only evaluation image could not be read; check"));
    }
}
