//! `agentguard budget prices`

use std::path::{Path, PathBuf};

use agentguard_budget::prices::import::{LONGEST, Source, import};
use agentguard_budget::prices::{Hidden, Listed, Origin, Parts, Priced, Prices, Rate};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::cli::Global;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Table, counted, printable, say};
use crate::cli::policy::lines;
use crate::config::text::{self, Written};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    Show(Show),
    Import(Import),
}

/// List the prices of language models, or say what one costs
///
/// Those of the configuration's file come before those that are built in. Prices are in US dollars for a million tokens.
#[derive(Args, Debug)]
pub(in crate::cli) struct Show {
    /// The model, by the name that calls have for it; all that have a price, if none is given
    model: Option<String>,
    /// The provider where it is called, by its name in policies; those of this one alone, if no model is given
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// A file of prices, instead of the configuration's
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Write a list of prices that others keep as a file of prices
///
/// What is printed is the file that the configuration's `prices` names, to be read and changed before. What cannot be
/// taken is told, with the reason.
#[derive(Args, Debug)]
pub(in crate::cli) struct Import {
    /// Whose list it is
    #[arg(long, value_enum)]
    from: From,
    /// The list
    file: PathBuf,
    /// Take the models of this provider alone, by its name in policies; may be given several times
    #[arg(long, value_name = "NAME")]
    provider: Vec<String>,
}

/// Whose list of prices it is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    /// LiteLLM's model_prices_and_context_window.json
    Litellm,
    /// The api.json of models.dev
    #[value(name = "models.dev")]
    ModelsDev,
}

pub(super) fn main(command: &Command, global: &Global, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Show(asked) => show(asked, global, out),
        Command::Import(asked) => import_from(asked, out),
    }
}

fn show(asked: &Show, global: &Global, out: &mut Output) -> Result<(), Failure> {
    let prices = match &asked.file {
        Some(file) => read(file, true)?,
        None => match global.declared()?.paths.prices {
            Some(file) => read(&file, false)?,
            None => Prices::built_in().clone(),
        },
    };
    let provider = asked.provider.as_deref();
    match &asked.model {
        Some(model) => one(&prices, provider, model, out),
        None => {
            let is_there = |it: &&Listed| {
                provider.is_none_or(|name| {
                    it.providers.is_empty() || it.providers.iter().any(|own| own == name)
                })
            };
            let listed: Vec<&Listed> = prices.list().iter().filter(is_there).collect();
            Ok(out.list(&listed, || table(&listed))?)
        }
    }
}

/// `named`: on the command line, and not in the configuration.
fn read(file: &Path, named: bool) -> Result<Prices, Failure> {
    let text =
        text::read(Written::Prices, file).map_err(|error| Failure::of_file(&error, named))?;
    let shown = file.display().to_string();
    Prices::with(&shown, &text).map_err(|faults| {
        say(&lines(&faults.to_string()));
        let count = counted(faults.0.len(), "error");
        Failure::usage(format!("{shown} cannot be used: {count}"))
    })
}

fn table(listed: &[&Listed]) -> Table {
    let header = &[
        "MODEL", "PROVIDER", "INPUT", "CACHED", "OUTPUT", "CONTEXT", "HIDDEN", "AS OF", "FROM",
    ];
    let mut table = Table::new(header, 0);
    for row in listed {
        let rate = &row.rate;
        table.row(&[
            row.models.join(","),
            match row.providers.as_slice() {
                [] => "-".to_owned(),
                providers => providers.join(","),
            },
            rate.parts.input.to_string(),
            rate.parts.cache_read.to_string(),
            rate.parts.output.to_string(),
            number(rate.context),
            hidden(rate.hidden).to_owned(),
            rate.as_of
                .map_or_else(|| "-".to_owned(), |day| day.to_string()),
            match row.origin {
                Origin::File => "file",
                Origin::BuiltIn => "built in",
            }
            .to_owned(),
        ]);
    }
    table
}

/// What a model costs that was asked for.
#[derive(Serialize)]
struct One<'a> {
    model: &'a str,
    /// Whether it is its own price, and not that of the dearest of all.
    known: bool,
    /// The model whose price it is.
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(flatten)]
    rate: &'a Rate,
}

fn one(
    prices: &Prices,
    provider: Option<&str>,
    model: &str,
    out: &mut Output,
) -> Result<(), Failure> {
    let Priced { rate, known, name } = prices.of(provider.unwrap_or_default(), model);
    let one = One {
        model,
        known,
        name,
        rate,
    };
    Ok(out.value(&one, || words(&one))?)
}

fn words(one: &One<'_>) -> String {
    let rate = one.rate;
    let whose = if one.known {
        printable(one.name)
    } else {
        "not known: it costs what the dearest of all do, each kind of tokens for itself".to_owned()
    };
    let mut lines = vec![
        entry("model", &printable(one.model)),
        entry("price of", &whose),
    ];
    lines.extend(parts(&rate.parts).map(|(label, price)| entry(label, &price)));
    for long in &rate.long {
        let parts = parts(&long.parts).map(|(label, price)| format!("{label} {price}"));
        let parts: Vec<_> = parts.collect();
        lines.push(entry(&format!("above {}", long.above), &parts.join(", ")));
    }
    for (label, factor) in [
        ("batch", rate.batch),
        ("flex", rate.flex),
        ("priority", rate.priority),
        ("regional", rate.regional),
    ] {
        lines.push(entry(label, &format!("× {factor}")));
    }
    lines.push(entry("context", &number(rate.context)));
    lines.push(entry("max output", &number(rate.max_output)));
    lines.push(entry("hidden", hidden(rate.hidden)));
    lines.extend(rate.as_of.map(|day| entry("as of", &day.to_string())));
    lines.join("\n")
}

fn entry(label: &str, what: &str) -> String {
    format!("{label:<16}{what}")
}

/// Prices that follow from others are left out.
fn parts(parts: &Parts) -> impl Iterator<Item = (&'static str, String)> {
    [
        ("input", parts.input, None),
        ("cache read", parts.cache_read, Some(parts.input)),
        ("cache write", parts.cache_write, Some(parts.input)),
        (
            "cache long",
            parts.cache_write_long,
            Some(parts.cache_write),
        ),
        ("output", parts.output, None),
        ("audio input", parts.audio_input, Some(parts.input)),
        ("audio output", parts.audio_output, Some(parts.output)),
    ]
    .into_iter()
    .filter(|(_, price, follows)| *follows != Some(*price))
    .map(|(label, price, _)| (label, price.to_string()))
}

fn number(tokens: Option<u64>) -> String {
    tokens.map_or_else(|| "-".to_owned(), |it| it.to_string())
}

fn hidden(hidden: Hidden) -> &'static str {
    match hidden {
        Hidden::Never => "never",
        Hidden::WhenAsked => "when asked",
        Hidden::Always => "always",
    }
}

/// What cannot be read is a usage error. A model that cannot be taken is told, and left out.
fn import_from(asked: &Import, out: &mut Output) -> Result<(), Failure> {
    let file = &asked.file;
    let text =
        text::read(Written::PriceList, file).map_err(|error| Failure::of_file(&error, true))?;
    let shown = file.display().to_string();
    let (source, name) = match asked.from {
        From::Litellm => (Source::Litellm, "model_prices_and_context_window.json"),
        From::ModelsDev => (Source::ModelsDev, "https://models.dev/api.json"),
    };
    let imported = import(source, &text, &asked.provider).map_err(|error| {
        let hint = format!("name a copy of {name}, or say with --from whose list it is");
        Failure::usage(format!("{shown} cannot be imported: {error}")).hint(hint)
    })?;
    for skipped in &imported.skipped {
        let (name, why) = (printable(&skipped.name), printable(&skipped.why));
        say(&format!("left out: {name}: {why}"));
    }
    let (taken, left_out) = (imported.models.len(), imported.skipped.len());
    say(&format!("{}, {left_out} left out", counted(taken, "model")));
    if taken == 0 {
        let why = format!("{shown} has no model that can be taken");
        let hint = match asked.provider.as_slice() {
            [] => "name another list",
            _ => {
                "providers are named as in policies: openai, azure_openai, anthropic, gemini, vertex, bedrock, …"
            }
        };
        return Err(Failure::usage(why).hint(hint));
    }
    let document = imported.document();
    check(&document, taken)?;
    Ok(out.value(&imported, || document)?)
}

/// What is printed can be read again.
fn check(document: &str, models: usize) -> Result<(), Failure> {
    let few = "take the providers that agents here call: --provider openai --provider anthropic";
    if document.len() > LONGEST {
        let why = format!(
            "{models} models are {} bytes, and a file of prices has at most {LONGEST}",
            document.len()
        );
        return Err(Failure::usage(why).hint(few));
    }
    Prices::with("what is made of it", document).map_err(|faults| {
        say(&lines(&faults.to_string()));
        Failure::usage("what is made of it cannot be used as a file of prices").hint(few)
    })?;
    Ok(())
}
