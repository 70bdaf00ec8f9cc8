//! The guard: daemon and command line.
//!
//! This crate only wires. [`cli`] reads the command line and prints; [`config`] reads the
//! configuration; [`doctor`] looks at the host. What the guard does is in the rooms beside `src`.
//!
//! **Invariant:** what an operator is told is printed once, here at the edge, and ends with an exit
//! code that `docs/cli.md` promises.

#![forbid(unsafe_code)]

mod cli;
mod config;
mod doctor;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.text();
            if !text.is_empty() {
                cli::output::say(text.trim_end());
            }
            failure.code()
        }
    }
}
