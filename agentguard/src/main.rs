//! The guard: daemon and command line.
//!
//! This crate only wires. [`cli`] reads the command line and prints; [`config`] reads the
//! configuration; [`accounts`] looks up users; [`doctor`] looks at the host; [`daemon`] joins the rooms in two processes; [`wrap`]
//! relays between an agent and a server of tools that it starts; [`run`] is the client that stands in a governed command's place. What the guard does is in the rooms
//! beside `src`.
//!
//! **Invariant:** what an operator is told is printed once, here at the edge, and ends with an exit
//! code that `docs/cli.md` promises.

#![forbid(unsafe_code)]

mod accounts;
mod cli;
mod config;
mod daemon;
mod doctor;
mod hook;
mod run;
mod wrap;

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Of all processes that this program is. How it is set is said in [`agentguard_keeper::worker`], where what was freed is
/// given back.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    match cli::main() {
        Ok(code) => code,
        Err(failure) => {
            let text = failure.text();
            if !text.is_empty() {
                cli::output::say(text.trim_end());
            }
            failure.code()
        }
    }
}
