//! Policy documents, compiled rules and their evaluation.
#![forbid(unsafe_code)]

mod diagnostic;
pub mod yaml;

pub use diagnostic::{Diagnostic, Diagnostics, MAX_DIAGNOSTICS, Severity};
