//! What models cost.
//!
//! A table is built in ([`built_in.yaml`](prices/built_in.yaml), of a date), and an operator's file comes before it.
//! Both have one form and one reader ([`file`]). A model that neither has costs what the dearest one costs, each kind of
//! token for itself: too little would be a budget that does not hold.

mod decimal;
mod file;
pub mod import;
mod names;
mod rate;

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use agentguard_policy::Diagnostic;
use serde::Serialize;

pub use file::schema;
pub use rate::{Caches, Factor, Hidden, Long, Parts, PerMillion, Rate, Served, Tier};

use file::{ANY, Read};
pub(crate) use names::find;

/// What is built in.
const BUILT_IN: &str = include_str!("prices/built_in.yaml");

static TABLE: LazyLock<Prices> = LazyLock::new(|| {
    // That it can be read is tested. Without it every model is an unknown one, which nothing is known to cost.
    let read = file::read("built_in.yaml", BUILT_IN).unwrap_or_default();
    Prices::of_tables(vec![(Origin::BuiltIn, read)])
});

/// What is wrong with a file of prices: at least one thing.
#[derive(Debug)]
pub struct Faults(pub Vec<Diagnostic>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Where a price comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The operator's file.
    File,
    /// The table that is built in.
    BuiltIn,
}

/// A model with its price.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its names.
    pub models: Vec<String>,
    /// The providers where it holds; all, where there is none.
    pub providers: Vec<String>,
    /// Where it comes from.
    pub origin: Origin,
    /// What it costs.
    #[serde(flatten)]
    pub rate: Rate,
}

/// The price of a model that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Priced<'a> {
    /// What it costs.
    pub rate: &'a Rate,
    /// Whether that is its own price. Otherwise it is the dearest of all.
    pub known: bool,
    /// The model whose price it is. Empty where it is not known.
    pub name: &'a str,
}

/// What models cost, by name.
#[derive(Clone, Debug)]
pub struct Prices {
    rows: Vec<Listed>,
    /// In the order of authority: the operator's, then what is built in.
    tables: Vec<Table>,
    aliases: HashMap<String, Vec<(Option<String>, String)>>,
    /// Of a model that is not known.
    dearest: Rate,
}

/// Models of one file by name.
#[derive(Clone, Debug, Default)]
struct Table {
    models: HashMap<String, Named>,
}

/// A name in a file, with the rows that have it.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    /// By provider.
    of: HashMap<String, Rate>,
    /// Of the row that is for all providers.
    all: Option<Rate>,
    /// The dearest of all.
    dearest: Rate,
}

impl Prices {
    /// The table that is built in.
    #[must_use]
    pub fn built_in() -> &'static Self {
        &TABLE
    }

    /// The table that is built in, behind what a file says. `path` stands in what is said about the file.
    ///
    /// # Errors
    /// Everything that is wrong with the file.
    pub fn with(path: &str, text: &str) -> Result<Self, Faults> {
        let own = file::read(path, text).map_err(Faults)?;
        let built_in = file::read("built_in.yaml", BUILT_IN).map_err(Faults)?;
        let tables = vec![(Origin::File, own), (Origin::BuiltIn, built_in)];
        Ok(Self::of_tables(tables))
    }

    fn of_tables(read: Vec<(Origin, Read)>) -> Self {
        let mut prices = Self {
            rows: Vec::new(),
            tables: Vec::new(),
            aliases: HashMap::new(),
            dearest: Rate::nothing(),
        };
        for (origin, read) in read {
            let mut table = Table::default();
            for row in read.models {
                for name in &row.models {
                    table.add(name, &row.providers, &row.rate);
                }
                prices.dearest = prices.dearest.dearer(&row.rate);
                prices.rows.push(Listed {
                    models: row.models,
                    providers: row.providers,
                    origin,
                    rate: row.rate,
                });
            }
            prices.tables.push(table);
            for alias in read.names {
                let of = prices.aliases.entry(alias.name).or_default();
                of.push((alias.provider, alias.model));
            }
        }
        prices.dearest.hidden = Hidden::Always;
        prices.dearest.tokenizer = None;
        prices.dearest.as_of = None;
        prices
    }

    /// What a model costs at a provider, by the name that a call has for it.
    ///
    /// The name nearest to it is taken that has a price: of the same name that of an operator's file, and in one file
    /// the provider's own, then that for all, then the dearest that other providers have for it.
    #[must_use]
    pub fn of(&self, provider: &str, model: &str) -> Priced<'_> {
        let meant = self.meant(provider, model);
        let named = find(meant, |name| {
            let mut tables = self.tables.iter();
            tables.find_map(|table| table.models.get(name))
        });
        let of_any = || {
            let mut any = self.tables.iter().filter_map(|table| table.models.get(ANY));
            any.find(|it| it.of.contains_key(provider))
        };
        match named.or_else(of_any) {
            Some(named) => Priced {
                rate: named.at(provider),
                known: true,
                name: &named.name,
            },
            None => Priced {
                rate: &self.dearest,
                known: false,
                name: "",
            },
        }
    }

    /// The model that a name of the operator's stands for; the name itself, where it is none.
    fn meant<'a>(&'a self, provider: &str, name: &'a str) -> &'a str {
        let Some(all) = self.aliases.get(&name.to_ascii_lowercase()) else {
            return name;
        };
        let own = all.iter().find(|(of, _)| of.as_deref() == Some(provider));
        let own = own.or_else(|| all.iter().find(|(of, _)| of.is_none()));
        own.map_or(name, |(_, model)| model)
    }

    /// All models with their prices, the operator's first.
    #[must_use]
    pub fn list(&self) -> &[Listed] {
        &self.rows
    }

    /// What a model costs that is not known.
    #[must_use]
    pub const fn unknown(&self) -> &Rate {
        &self.dearest
    }
}

impl Table {
    fn add(&mut self, name: &str, providers: &[String], rate: &Rate) {
        let named = self.models.entry(name.to_owned()).or_insert_with(|| Named {
            name: name.to_owned(),
            of: HashMap::new(),
            all: None,
            dearest: rate.clone(),
        });
        if *rate != named.dearest {
            named.dearest = named.dearest.dearer(rate);
        }
        if providers.is_empty() {
            named.all = Some(rate.clone());
        }
        for provider in providers {
            named.of.insert(provider.clone(), rate.clone());
        }
    }
}

impl Named {
    fn at(&self, provider: &str) -> &Rate {
        let own = self.of.get(provider).or(self.all.as_ref());
        own.unwrap_or(&self.dearest)
    }
}

#[cfg(test)]
mod tests;
