//! A client that lives as long as the test wants, and does one thing after the other.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::process::{Invocation, Process};
use crate::{World, wait_until};

/// How long one order may take: longer than its sockets' own timeout.
const LIMIT: Duration = Duration::from_secs(20);

/// A Python process that evaluates what it is told (`clients/puppet.py` has the functions), in
/// whatever cgroup and namespace it was started.
#[derive(Debug)]
pub struct Puppet {
    process: Process,
    orders: File,
    answers: usize,
}

impl Puppet {
    /// Starts one. `invocation` says how the words of its command line are run: as an agent, in a
    /// cgroup, in the host or on the internet.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start<'a>(
        world: &World,
        invocation: impl FnOnce(Vec<OsString>) -> Invocation<'a>,
    ) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/puppet.py");
        Self::of(world, &["python3".into(), script.into()], invocation)
    }

    /// Starts another program that is told what to do and answers as that one does: it gets the file that its orders
    /// come from as its last word.
    pub(crate) fn of<'a>(
        world: &World,
        program: &[OsString],
        invocation: impl FnOnce(Vec<OsString>) -> Invocation<'a>,
    ) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let fifo = world.directory().join(format!("orders-{number}"));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o644), 0)
            .with_context(|| format!("cannot make {}", fifo.display()))?;
        // For reading too, so that opening it does not wait for the other side.
        let orders = OpenOptions::new().read(true).write(true).open(&fifo)?;
        let words = [program, &[fifo.into()]].concat();
        let process = invocation(words).spawn()?;
        Ok(Self {
            process,
            orders,
            answers: 0,
        })
    }

    /// Tells it a Python expression, and gives its value. An error of the operating system is
    /// `{"error": "EPERM"}`.
    ///
    /// # Errors
    /// It does not answer in time, or the expression makes no sense.
    pub fn ask(&mut self, order: &str) -> Result<Value> {
        self.begin(order)?;
        self.answer(order)
    }

    /// Tells it an expression without waiting for its value, which [`Puppet::answer`] gives.
    ///
    /// # Errors
    /// It is gone.
    pub fn begin(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").context("cannot tell the puppet")
    }

    /// The value of what was begun.
    ///
    /// # Errors
    /// As [`Puppet::ask`].
    pub fn answer(&mut self, order: &str) -> Result<Value> {
        let number = self.answers;
        self.answers += 1;
        let process = &mut self.process;
        let line = wait_until("the puppet's answer", LIMIT, || {
            let said = process.stdout();
            let mut lines = said.split_inclusive('\n').skip(number);
            match lines.next().filter(|line| line.ends_with('\n')) {
                Some(line) => Some(Some(line.to_owned())),
                None => matches!(process.ended(), Ok(Some(_))).then_some(None),
            }
        });
        let line = line.with_context(|| format!("{order}\n{}", self.process.stderr()))?;
        let Some(line) = line else {
            bail!("the puppet ended at {order}\n{}", self.process.stderr());
        };
        let value: Value = serde_json::from_str(&line)?;
        if let Some(fault) = value.get("fault") {
            bail!("{order}: {fault}");
        }
        Ok(value)
    }

    /// Asks, and compares.
    ///
    /// # Panics
    /// The value is another.
    #[track_caller]
    pub fn gives(&mut self, order: &str, value: impl Into<Value>) {
        let found = self.ask(order).map_err(|error| format!("{error:#}"));
        assert_eq!(found, Ok(value.into()), "{order}");
    }

    /// Asks for what has to fail with this error.
    ///
    /// # Panics
    /// It succeeds, or fails otherwise.
    #[track_caller]
    pub fn fails(&mut self, order: &str, error: &str) {
        self.gives(order, json!({ "error": error }));
    }

    /// Its process id in the host: of the shell or `run` that started it, where it did not `exec`.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
