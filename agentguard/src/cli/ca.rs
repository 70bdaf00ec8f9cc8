//! `agentguard ca`

use std::path::{Path, PathBuf};

use agentguard_keeper::message::{Answer, AuthorityInfo, AuthorityState, Command as Request};
use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use super::Global;
use super::agent::{ask_keeper, out_of_turn};
use super::failure::{Failure, chain};
use super::output::{Format, Output, Table, say};
use super::verdicts::moment;

/// Where inspected connections end, the guard answers with a certificate of its own, which the
/// agent must trust. `agentguard run` sees to that for what it starts.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the certificate authorities of this host, in the order in which they sign
    Show,
    /// Print their certificates in PEM, for images and trust stores
    ///
    /// All of them are to be trusted: the one that signs, the next one, and the previous one while
    /// certificates that it signed are in use. docs/cli.md says how, for the common systems.
    Export {
        /// Write them to this file and not to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make a new certificate authority, which signs after a day
    ///
    /// It is exported at once, so that there is a day to have it trusted where `agentguard run` does
    /// not see to that. The old one is exported for another day, until what it signed has expired.
    Rotate {
        /// It signs at once; so does one that waits for its day
        #[arg(long)]
        now: bool,
    },
}

pub(super) fn main(command: Command, global: &Global, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Show => show(&ask(global, &Request::Authorities)?, out),
        Command::Export { out: file } => {
            let authorities = ask(global, &Request::Authorities)?;
            export(&authorities, file.as_deref(), out)
        }
        Command::Rotate { now } => {
            let authorities = ask(global, &Request::RotateAuthority { at_once: now })?;
            if out.is_table() {
                say(rotated(&authorities));
            }
            show(&authorities, out)
        }
    }
}

fn ask(global: &Global, request: &Request) -> Result<Vec<AuthorityInfo>, Failure> {
    match ask_keeper(global, request)? {
        Answer::Authorities(authorities) => Ok(authorities),
        _ => Err(out_of_turn()),
    }
}

fn rotated(authorities: &[AuthorityInfo]) -> &'static str {
    let waits = |authority: &AuthorityInfo| authority.state == AuthorityState::Next;
    if authorities.iter().any(waits) {
        "a new certificate authority was made; have it trusted before it signs: agentguard ca export"
    } else {
        "the new certificate authority signs; have it trusted now: agentguard ca export"
    }
}

/// An authority as programs read it.
#[derive(Serialize)]
struct Shown<'a> {
    state: AuthorityState,
    subject: &'a str,
    sha256: &'a str,
    not_before: Timestamp,
    not_after: Timestamp,
    signs_from: Timestamp,
    signs_until: Option<Timestamp>,
}

impl<'a> Shown<'a> {
    fn new(authority: &'a AuthorityInfo) -> Self {
        Self {
            state: authority.state,
            subject: &authority.subject,
            sha256: &authority.fingerprint,
            not_before: time(authority.not_before),
            not_after: time(authority.not_after),
            signs_from: time(authority.signs_from),
            signs_until: authority.signs_until.map(time),
        }
    }
}

/// A time that no clock shows stands as the last one there is.
fn time(seconds: u64) -> Timestamp {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}

fn show(authorities: &[AuthorityInfo], out: &mut Output) -> Result<(), Failure> {
    let shown: Vec<Shown<'_>> = authorities.iter().map(Shown::new).collect();
    Ok(out.list(&shown, || table(&shown))?)
}

fn table(authorities: &[Shown<'_>]) -> Table {
    let mut table = Table::new(
        &[
            "STATE",
            "SUBJECT",
            "SIGNS FROM",
            "SIGNS UNTIL",
            "VALID UNTIL",
            "SHA256",
        ],
        5,
    );
    for authority in authorities {
        table.row(&[
            state(authority.state).to_owned(),
            authority.subject.to_owned(),
            moment(authority.signs_from),
            authority.signs_until.map_or_else(|| "-".to_owned(), moment),
            moment(authority.not_after),
            authority.sha256.to_owned(),
        ]);
    }
    table
}

fn state(state: AuthorityState) -> &'static str {
    match state {
        AuthorityState::Previous => "previous",
        AuthorityState::Current => "current",
        AuthorityState::Next => "next",
    }
}

/// The certificates are the data, in every form of the output: other programs read PEM.
fn export(
    authorities: &[AuthorityInfo],
    file: Option<&Path>,
    out: &mut Output,
) -> Result<(), Failure> {
    let pem: String = authorities
        .iter()
        .map(|authority| authority.certificate.as_str())
        .collect();
    let Some(file) = file else {
        return Ok(out.text(&pem)?);
    };
    let shown = file.display();
    std::fs::write(file, pem)
        .map_err(|error| Failure::refused(format!("cannot write {shown}: {}", chain(&error))))?;
    if out.format == Format::Table {
        say(&format!("written to {shown}"));
    }
    Ok(())
}
