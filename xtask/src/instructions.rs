//! How many instructions hot functions take, held against what is recorded in `docs/performance.md`.
//!
//! Time says nothing on a machine that others use too; instructions do not depend on who else computes. Examples of the
//! rooms do one thing so many times, under valgrind's callgrind. Each runs twice, the second time with twice as many: the
//! difference has no start in it, nor what is made to be measured.
//!
//! What valgrind shows to programs is one processor, whichever it runs on, as long as that one has AVX2.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::recorded::{self, Counts, cells, own_lines};
use crate::workspace::Workspace;
use crate::{exec, setup};

/// The table's file, from the workspace's root.
const FILE: &str = "docs/performance.md";

/// What the table's first column is called.
const FIRST: &str = "operation";

/// How the programs are compiled.
const PROFILE: &str = "counted";

/// What is counted. Those that take longest first.
const OPERATIONS: &[Operation] = &[
    // Thousands, since most of its run is the policy that is compiled.
    operation("policy, 10,000 rules", &POLICY, "repeat policy-10000", 8192),
    operation("record of a decision", &RECORD, ".", 2000),
    operation("record, the newest 50 read", &RECORD, ". 256", 60),
    operation("LLM call, 200 KB", &PROTOCOL, "repeat call_messages", 4),
    operation(
        "LLM answer, 1,000 events",
        &PROTOCOL,
        "repeat answer_messages",
        4,
    ),
    operation("DNS query, from the cache", &NAMES, ".", 1000),
    operation("MCP call, 50 KB", &PROTOCOL, "repeat mcp_call", 16),
    operation("decision on a request", &DECISION, "", 1000),
    operation(
        "HTTP/1 head, its meaning",
        &PROTOCOL,
        "repeat http1_meaning",
        4000,
    ),
    operation(
        "HTTP/1 head, in the gate",
        &PROTOCOL,
        "repeat http1_gate",
        4000,
    ),
    operation("ClientHello", &PROTOCOL, "repeat client_hello", 1000),
    operation("budgets, reserved and settled", &BUDGET, "repeat .", 2000),
    operation("policy, 10 rules", &POLICY, "repeat policy-10", 2048),
    operation("event of a stream", &PROTOCOL, "repeat event", 4000),
];

const BUDGET: Program = program("agentguard-budget", "ledger");
const DECISION: Program = program("agentguard-decision", "requests");
const NAMES: Program = program("agentguard-names", "answers");
const POLICY: Program = program("agentguard-policy", "decisions");
const PROTOCOL: Program = program("agentguard-protocol", "decoders");
const RECORD: Program = program("agentguard-record", "fill");

/// All of them, to be compiled in one call: as many selections of packages would be as many sets of features.
const PROGRAMS: [Program; 6] = [BUDGET, DECISION, NAMES, POLICY, PROTOCOL, RECORD];

/// An example of a room.
struct Program {
    package: &'static str,
    example: &'static str,
}

const fn program(package: &'static str, example: &'static str) -> Program {
    Program { package, example }
}

/// Something whose instructions are counted.
struct Operation {
    /// As the table has it.
    name: &'static str,
    program: &'static Program,
    /// What the program is told, before how often it is to do it.
    words: &'static str,
    /// How often: once, and then twice as often.
    times: u64,
}

const fn operation(
    name: &'static str,
    program: &'static Program,
    words: &'static str,
    times: u64,
) -> Operation {
    Operation {
        name,
        program,
        words,
        times,
    }
}

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// Write the counts, instead of comparing them.
    pub(crate) record: bool,
    /// Only operations whose name contains one of these, or all.
    pub(crate) filter: &'a [String],
}

impl Request<'_> {
    fn selects(&self, name: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|word| name.contains(word.as_str()))
    }
}

/// Compiles the programs, counts, and compares or records.
///
/// # Errors
/// Something takes more than it may, or cannot be counted.
pub(crate) fn run(workspace: &Workspace, request: &Request<'_>) -> Result<()> {
    check_processor()?;
    let chosen: Vec<&Operation> = OPERATIONS
        .iter()
        .filter(|operation| request.selects(operation.name))
        .collect();
    ensure!(!chosen.is_empty(), "no operation has such a name");
    setup::run(workspace, true)?;
    build(workspace)?;
    let began = Instant::now();
    let counts = counts(workspace, &chosen)?;
    for (name, count) in &counts {
        println!("instructions: {name}: {count}");
    }
    println!("instructions: counted in {} s", began.elapsed().as_secs());

    let path = workspace.root().join(FILE);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut table = Table::parse(&text)?;
    let compiler = compiler()?;
    if request.record {
        table.record(compiler, counts, request);
        fs::write(&path, recorded::write(&text, FIRST, &table.render()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("recorded in {}", path.display());
        return Ok(());
    }
    judge(&table, &compiler, &counts, request)
}

/// Says what is to be said of counts.
///
/// # Errors
/// Something takes more than it may.
fn judge(table: &Table, compiler: &str, counts: &Counts, request: &Request<'_>) -> Result<()> {
    let compared = recorded::compare(&table.of(request), counts);
    for line in &compared.told {
        println!("instructions: less: {line}");
    }
    if compared.wrong.is_empty() {
        println!("instructions: {} operations as recorded", counts.len());
        return Ok(());
    }
    for line in &compared.wrong {
        println!("instructions: FAILED: {line}");
    }
    let other = match table.compiler == compiler {
        true => String::new(),
        false => format!("; recorded with {}, this is {compiler}", table.compiler),
    };
    bail!(
        "{} of {} operations are not as recorded, give or take {}%{other}\n\
         hint: if it has to be so, `cargo xtask instructions --record` writes {FILE}",
        compared.wrong.len(),
        counts.len(),
        recorded::TOLERANCE,
    )
}

/// Without AVX2 valgrind shows an older processor to programs, for which libraries have other code.
fn check_processor() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    let same = std::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let same = false;
    ensure!(
        same,
        "instructions are recorded for x86-64 with AVX2, which this processor is not"
    );
    Ok(())
}

/// As the table names it: `rustc 1.95.0`.
fn compiler() -> Result<String> {
    let version = exec::ask("rustc", &["--version"]).context("rustc does not tell its version")?;
    let words: Vec<&str> = version.split_whitespace().take(2).collect();
    Ok(words.join(" "))
}

fn build(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--profile", PROFILE]);
    for program in PROGRAMS {
        cargo.args(["--package", program.package]);
        cargo.args(["--example", program.example]);
    }
    exec::run(&mut cargo)
}

/// The instructions of each operation, counted on all processors at once.
fn counts(workspace: &Workspace, operations: &[&Operation]) -> Result<Counts> {
    let examples = workspace.target().join(PROFILE).join("examples");
    let directory = workspace.target().join("instructions");
    let queue = Mutex::new(operations.iter().copied().collect::<VecDeque<_>>());
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    };
    let work = || {
        let mut counted = Vec::new();
        while let Some(operation) = next() {
            let count = operation.count(&examples, &directory);
            let count = count.with_context(|| format!("cannot count `{}`", operation.name))?;
            counted.push((operation.name.to_owned(), count));
        }
        Ok(counted)
    };
    let counted: Vec<Result<Vec<_>>> = thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        let ended = |worker: thread::ScopedJoinHandle<'_, _>| match worker.join() {
            Ok(counted) => counted,
            Err(_) => Err(anyhow!("a thread that counts ended")),
        };
        workers.into_iter().map(ended).collect()
    });
    let mut counts = Counts::new();
    for counted in counted {
        counts.extend(counted?);
    }
    Ok(counts)
}

impl Operation {
    /// How many instructions one of it takes.
    fn count(&self, examples: &Path, directory: &Path) -> Result<u64> {
        let place = directory.join(self.name.replace([' ', ',', '/'], "_"));
        let [once, twice] = [1, 2].map(|factor| {
            let mut program = self.command(&examples.join(self.program.example), factor);
            executed(&mut program, &place)
        });
        each(once?, twice?, self.times)
    }

    fn command(&self, program: &Path, factor: u64) -> Command {
        let mut valgrind = Command::new("valgrind");
        valgrind
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program)
            .args(self.words.split_whitespace())
            .arg((self.times * factor).to_string());
        valgrind
    }
}

/// What one of `times` takes, by what these and twice as many took.
fn each(once: u64, twice: u64, times: u64) -> Result<u64> {
    let more = twice.checked_sub(once).filter(|more| *more >= times);
    let more = more.with_context(|| {
        format!("{times} took {once} instructions and twice as many {twice}, so it was not done")
    })?;
    Ok(more / times)
}

/// How many instructions a program under callgrind executes, in an empty directory and environment.
fn executed(program: &mut Command, place: &Path) -> Result<u64> {
    if place.exists() {
        fs::remove_dir_all(place)?;
    }
    fs::create_dir_all(place)?;
    let line = exec::line(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let output = program
        .env_clear()
        .env("PATH", path)
        .current_dir(place)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{line}`"))?;
    fs::remove_dir_all(place)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{line}` failed: {}:\n{said}",
        output.status
    );
    collected(&said).with_context(|| format!("callgrind says no count:\n{said}"))
}

/// The count that callgrind says at its end: `==7== Collected : 1234`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().rev().find(|line| line.contains("Collected"))?;
    let (_, count) = line.split_once(':')?;
    count.trim().parse().ok()
}

/// What is recorded.
#[derive(Debug, Default, Eq, PartialEq)]
struct Table {
    /// The compiler, which is the name of the column.
    compiler: String,
    counts: Counts,
}

impl Table {
    /// From the table of a text whose first column is called `operation`.
    ///
    /// # Errors
    /// A row has no number.
    fn parse(text: &str) -> Result<Self> {
        let own = own_lines(text, FIRST);
        let lines = text.lines().skip(own.start).take(own.len());
        let mut table = Self::default();
        for row in lines.filter_map(cells) {
            let [name, cell] = row.as_slice() else {
                bail!("{FILE}: a row of `{FIRST}` has no two cells");
            };
            if *name == FIRST {
                (*cell).clone_into(&mut table.compiler);
            } else if !name.starts_with('-') {
                let count = cell.parse();
                let count =
                    count.with_context(|| format!("{FILE}: `{cell}` of {name} is no number"))?;
                table.counts.insert((*name).to_owned(), count);
            }
        }
        Ok(table)
    }

    /// What is recorded of what was asked for.
    fn of(&self, request: &Request<'_>) -> Counts {
        let recorded = self.counts.iter();
        recorded
            .filter(|(name, _)| request.selects(name))
            .map(|(name, count)| (name.clone(), *count))
            .collect()
    }

    /// Puts counts in the place of what was recorded of what was asked for.
    fn record(&mut self, compiler: String, counts: Counts, request: &Request<'_>) {
        self.compiler = compiler;
        self.counts.retain(|name, _| !request.selects(name));
        self.counts.extend(counts);
    }

    fn render(&self) -> String {
        let mut text = format!("| {FIRST} | {} |\n| --- | ---: |\n", self.compiler);
        for (name, count) in &self.counts {
            text.push_str(&format!("| {name} | {count} |\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Request<'_> = Request {
        record: false,
        filter: &[],
    };

    fn counts(list: &[(&str, u64)]) -> Counts {
        list.iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    fn table(list: &[(&str, u64)]) -> Table {
        Table {
            compiler: "rustc 1.95.0".to_owned(),
            counts: counts(list),
        }
    }

    #[test]
    fn what_callgrind_says_is_read() {
        let said = "==7== Callgrind, a call-graph generating cache profiler\n==7== \n\
             ==7== Events    : Ir\n==7== Collected : 299848380\n==7== \n\
             ==7== I   refs:      299,848,380\n";
        assert_eq!(collected(said), Some(299_848_380));
        assert_eq!(collected("==7== Collected : \n"), None);
        assert_eq!(collected("valgrind: not found\n"), None);
    }

    #[test]
    fn the_start_is_in_no_count() {
        assert_eq!(each(1_500, 2_000, 10).unwrap(), 50);
        for (once, twice) in [(1_500, 1_500), (1_500, 1_509), (1_500, 1_400)] {
            let error = each(once, twice, 10).unwrap_err().to_string();
            assert!(error.ends_with("so it was not done"), "{error}");
        }
    }

    #[test]
    fn a_program_that_fails_has_no_count() {
        let place = std::env::temp_dir().join(format!("xtask-count-{}", std::process::id()));
        let mut fails = Command::new("sh");
        fails.args(["-c", "echo '==7== Collected : 9' >&2; exit 3"]);
        let error = executed(&mut fails, &place).unwrap_err().to_string();
        assert!(error.contains("failed: exit status: 3"), "{error}");
        let mut silent = Command::new("true");
        let error = executed(&mut silent, &place).unwrap_err().to_string();
        assert!(error.starts_with("callgrind says no count"), "{error}");
        let mut counted = Command::new("sh");
        counted.args(["-c", "ls -A >&2; echo '==7== Collected : 9' >&2"]);
        assert_eq!(executed(&mut counted, &place).unwrap(), 9);
        assert!(!place.exists());
    }

    #[test]
    fn a_table_that_is_written_is_read_again() {
        let table = table(&[("b, 10", 7), ("a", 12)]);
        let text = recorded::write("# Cost\n\nWords.\n\n", FIRST, &table.render());
        assert_eq!(
            text,
            "# Cost\n\nWords.\n\n| operation | rustc 1.95.0 |\n| --- | ---: |\n\
             | a | 12 |\n| b, 10 | 7 |\n"
        );
        assert_eq!(Table::parse(&text).unwrap(), table);
        assert_eq!(Table::parse("# Cost\n").unwrap(), Table::default());
        assert!(Table::parse("| operation | x |\n| --- | --- |\n| a | b |\n").is_err());
        assert!(Table::parse("| operation | x |\n| --- | --- |\n| a |\n").is_err());
    }

    #[test]
    fn more_than_recorded_fails_and_says_what_and_how_to_record() {
        let table = table(&[("a", 1000), ("b", 1000)]);
        let judged = |a, b, compiler| {
            judge(&table, compiler, &counts(&[("a", a), ("b", b)]), &ALL)
                .map_err(|error| error.to_string())
        };
        assert_eq!(judged(1050, 500, "rustc 1.95.0"), Ok(()));
        assert_eq!(
            judged(1051, 1000, "rustc 1.95.0").unwrap_err(),
            "1 of 2 operations are not as recorded, give or take 5%\n\
             hint: if it has to be so, `cargo xtask instructions --record` writes docs/performance.md"
        );
        let other = judged(1051, 1000, "rustc 1.96.0").unwrap_err();
        assert!(
            other.contains("recorded with rustc 1.95.0, this is rustc 1.96.0"),
            "{other}"
        );
    }

    #[test]
    fn what_was_not_asked_for_is_neither_missed_nor_lost() {
        let filter = ["policy".to_owned()];
        let request = Request {
            record: true,
            filter: &filter,
        };
        let mut table = table(&[("policy, 10", 7), ("policy, old", 8), ("dns", 12)]);
        assert!(judge(&table, "", &counts(&[("dns", 12)]), &request).is_err());
        let found = counts(&[("policy, 10", 7), ("policy, old", 8)]);
        judge(&table, "", &found, &request).unwrap();
        let now = counts(&[("policy, 10", 9)]);
        table.record("rustc 1.96.0".to_owned(), now, &request);
        assert_eq!(table.counts, counts(&[("dns", 12), ("policy, 10", 9)]));
        assert_eq!(table.compiler, "rustc 1.96.0");
    }

    #[test]
    fn the_operations_are_those_that_are_recorded_and_their_programs_are_compiled() {
        let workspace = Workspace::find().unwrap();
        let text = fs::read_to_string(workspace.root().join(FILE)).unwrap();
        let recorded: Vec<String> = Table::parse(&text).unwrap().counts.into_keys().collect();
        let mut names: Vec<&str> = OPERATIONS.iter().map(|one| one.name).collect();
        names.sort_unstable();
        assert_eq!(recorded, names);
        for Operation { program, .. } in OPERATIONS {
            let compiled = PROGRAMS.iter().any(|one| one.example == program.example);
            assert!(compiled, "{} is not compiled", program.example);
        }
    }
}
