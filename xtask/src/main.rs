//! Build, set up, test, demonstrate: `cargo xtask COMMAND`.
//!
//! Everything a person or the continuous integration does with the sources goes through here, so
//! that both do the same. The tasks call `cargo`, `apt-get`, `pip` and the tests package's
//! `world` program; they hold no product logic and no knowledge of namespaces or cgroups.
//!
//! **Invariant:** this package depends on no room but those whose types it writes a schema of. It
//! must compile in seconds on a machine that has nothing but a Rust toolchain, because it is what
//! installs the rest.

#![forbid(unsafe_code)]

mod bench;
mod bpf;
mod build;
mod demo;
mod exec;
mod instructions;
mod profile;
mod recorded;
#[cfg(test)]
mod rooms;
mod schema;
mod setup;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Build, set up, test, demonstrate.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Find or install what the build needs
    Setup {
        /// Also what the world tests need: clients, network tools, cargo-deny
        #[arg(long)]
        tests: bool,
    },
    /// Compile the gate for the kernel, to target/bpf/agentguard.o
    BuildEbpf,
    /// Compile the gate and the `agentguard` program
    Build {
        /// With optimisations, to target/release/agentguard
        #[arg(long)]
        release: bool,
        /// With optimisations by what it does under a load, to target/trained/build: compiles twice, with
        /// some minutes of load in between; says where it is
        #[arg(long, conflicts_with = "release")]
        trained: bool,
    },
    /// Show the main job: a world, a daemon, an agent, its verdicts
    Demo,
    /// Run every tier of tests that this machine can run
    Test {
        /// Fail where a tier or a test had to be skipped
        #[arg(long)]
        require_all: bool,
        /// Run only tests whose name contains one of these
        filter: Vec<String>,
    },
    /// Run the tests of gate and containment on other kernels, under QEMU
    VmTest {
        /// This one: `6.1`, `6.12`, or `host` for what its verifier says of the gate [default: all]
        #[arg(long = "kernel", value_name = "KERNEL")]
        kernels: Vec<vm::Which>,
        /// Write how many instructions were verified to docs/kernels.md, instead of comparing
        #[arg(long)]
        record: bool,
        /// How long a machine may take: more than it needs alone, where others compute beside it
        #[arg(long, value_name = "SECONDS", default_value_t = vm::LIMIT)]
        limit: u64,
        /// Run only tests whose name contains one of these
        filter: Vec<String>,
    },
    /// Measure, and write target/bench/report.json, with tables and a chart of it
    Bench {
        /// Only this group
        group: Option<String>,
        /// How long the soak goes on, which is measured where this or its name is given [default: 60]
        #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
        minutes: Option<u32>,
        /// The program of `build --trained`, which is made where there is none, and anew by its last profile where
        /// the sources have changed, in the place of the one that `build --release` makes
        #[arg(long)]
        trained: bool,
    },
    /// Show where the guard's time goes in a case of `bench proxy`, `dns` or `start`: target/profile/CASE.svg is a flame
    /// graph, .txt has the functions, and .md the parts
    Profile {
        /// Such as `inspect-h1`, or `dns` or `start`
        case: String,
    },
    /// Count the instructions of hot functions, and compare with docs/performance.md
    Instructions {
        /// Write them to docs/performance.md, instead of comparing
        #[arg(long)]
        record: bool,
        /// Only operations whose name contains one of these
        filter: Vec<String>,
    },
    /// Write docs/schema/*.schema.json from the types
    Schema {
        /// Write nothing; fail if a committed schema is not what the types say
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Workspace::find().and_then(|workspace| match arguments.task {
        Task::Setup { tests } => setup::run(&workspace, tests),
        Task::BuildEbpf => bpf::build(&workspace).map(drop),
        Task::Build { release, trained } => {
            let kind = match (release, trained) {
                (_, true) => build::Kind::Trained,
                (true, false) => build::Kind::Release,
                (false, false) => build::Kind::Debug,
            };
            build::build(&workspace, kind)
        }
        Task::Demo => demo::run(&workspace),
        Task::Test {
            require_all,
            filter,
        } => test::run(&workspace, require_all, &filter),
        Task::VmTest {
            kernels,
            record,
            limit,
            filter,
        } => vm::run(
            &workspace,
            &vm::Request {
                kernels: &kernels,
                filter: &filter,
                record,
                require_all: true,
                limit: Some(limit),
            },
        ),
        Task::Bench {
            group,
            minutes,
            trained,
        } => bench::run(
            &workspace,
            &bench::Asked {
                group: group.as_deref(),
                minutes,
                trained,
            },
        ),
        Task::Profile { case } => profile::run(&workspace, &case),
        Task::Instructions { record, filter } => instructions::run(
            &workspace,
            &instructions::Request {
                record,
                filter: &filter,
            },
        ),
        Task::Schema { check } => schema::run(&workspace, check),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref() {
                Some(bench::UnknownGroup { .. }) => ExitCode::from(2),
                None => ExitCode::FAILURE,
            }
        }
    }
}
