//! The record that a registration leaves in the plugin's file. It can be read without running the file.

#[cfg(feature = "dynamic-plugins")]
use super::Stamp;

/// First line of a record.
const MAGIC: &str = "qdrop-plugin 1\n";

/// The parts of a record, in order.
const fn parts<'a>(stamp: &'a str, kind: &'a str, name: &'a str, origin: &'a str) -> [&'a str; 9] {
    [MAGIC, stamp, "kind: ", kind, "\nname: ", name, "\ncrate: ", origin, "\n\0"]
}

/// Length of a record.
#[doc(hidden)]
pub const fn record_len(stamp: &str, kind: &str, name: &str, origin: &str) -> usize {
    let parts = parts(stamp, kind, name, origin);
    let (mut i, mut len) = (0, 0);
    while i < parts.len() {
        len += parts[i].len();
        i += 1;
    }
    len
}

/// The record of one registration: text that ends with a zero byte.
#[doc(hidden)]
pub const fn record<const N: usize>(stamp: &str, kind: &str, name: &str, origin: &str) -> [u8; N] {
    let parts = parts(stamp, kind, name, origin);
    let mut out = [0; N];
    let (mut i, mut at) = (0, 0);
    while i < parts.len() {
        let bytes = parts[i].as_bytes();
        let mut j = 0;
        while j < bytes.len() {
            out[at] = bytes[j];
            at += 1;
            j += 1;
        }
        i += 1;
    }
    out
}

/// One registration, read from its record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Declaration {
    /// What is registered, such as "observer".
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The crate that registers it.
    pub defined_in: String,
}

/// The registrations in a section, each with its stamp.
#[cfg(feature = "dynamic-plugins")]
pub(super) fn parse(section: &[u8]) -> Vec<(Stamp, Declaration)> {
    let texts = section.split(|b| *b == 0).filter_map(|bytes| std::str::from_utf8(bytes).ok());
    let bodies = texts.filter_map(|text| text.strip_prefix(MAGIC));
    bodies
        .filter_map(|body| {
            let (stamp, rest) = body.split_at(body.find("kind: ")?);
            let value = |row: &str| Some(rest.lines().find_map(|l| l.strip_prefix(row))?.to_string());
            let declaration =
                Declaration { kind: value("kind: ")?, name: value("name: ")?, defined_in: value("crate: ")? };
            Some((Stamp::parse(stamp), declaration))
        })
        .collect()
}

#[cfg(all(test, feature = "dynamic-plugins"))]
mod tests {
    use super::*;
    use crate::plugin::STAMP;

    #[test]
    fn records_are_read_back() {
        const LEN: usize = record_len(STAMP, "observer", "percentile", "mine");
        const RECORD: [u8; LEN] = record(STAMP, "observer", "percentile", "mine");
        // Linkers may insert zeros between records for alignment.
        let section = [&RECORD[..], &[0; 7], &RECORD[..], b"something else\0"].concat();
        let want = Declaration { kind: "observer".into(), name: "percentile".into(), defined_in: "mine".into() };
        assert_eq!(parse(&section), vec![(Stamp::of_this_build(), want); 2]);
        assert_eq!(parse(&RECORD[..20]), []);
        assert_eq!(parse(&[0xff; 40]), []);
    }
}
