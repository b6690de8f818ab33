//! Empty: the tests are in the integration crate `main.rs`.
