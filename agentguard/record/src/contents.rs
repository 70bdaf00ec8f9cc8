//! Contents that are kept beside the log: a file for each decision, in a directory of their own.
//!
//! They are no part of the record: no verdict waits for them, and what cannot be kept is counted. The oldest go for new
//! ones, of the agent that has most, so that none pushes out another's.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use agentguard_model::contents::Contents;
use agentguard_model::{AgentName, DecisionId};
use tokio::sync::oneshot;

use crate::segment;

/// How many contents wait to be written, at most: 16 MiB. Further ones are not kept.
const QUEUE: usize = 64;

/// How many files there are, at most. The oldest go for new ones.
const FILES: usize = 100_000;

/// How the name of a file ends that is not whole.
const PART: &str = ".part";

/// What the thread is asked to do.
enum Command {
    Keep(DecisionId, AgentName, Box<Contents>),
    /// Say when all before was done.
    Flush(oneshot::Sender<()>),
}

/// Where contents are kept.
#[derive(Debug)]
pub(crate) struct Shelf {
    dir: PathBuf,
    sender: SyncSender<Command>,
    left_out: Arc<AtomicU64>,
}

impl Shelf {
    /// Opens the directory, which is made if it is missing, and starts the thread. `bytes`: how large all files may
    /// become.
    ///
    /// # Errors
    /// It cannot be made or read.
    pub(crate) fn open(dir: PathBuf, bytes: u64) -> io::Result<Self> {
        segment::make_dir(&dir)?;
        let mut held = Held::read(&dir, bytes)?;
        held.make_room();
        let (sender, commands) = sync_channel(QUEUE);
        let left_out = Arc::<AtomicU64>::default();
        let counts = Arc::clone(&left_out);
        thread::Builder::new()
            .name("record-contents".to_owned())
            .spawn(move || run(held, &commands, &counts))?;
        Ok(Self {
            dir,
            sender,
            left_out,
        })
    }

    /// Keeps contents of an agent's. Never blocks.
    pub(crate) fn keep(&self, id: DecisionId, agent: &AgentName, contents: Contents) {
        let command = Command::Keep(id, agent.clone(), Box::new(contents));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.sender.try_send(command)
        {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were not kept: there were too many at once, or the disk refused them.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Waits until all is written.
    pub(crate) async fn flush(&self) {
        let (sender, done) = oneshot::channel();
        // Where there is no place in the queue, what is in it takes no time that matters.
        let mut command = Command::Flush(sender);
        while let Err(TrySendError::Full(back)) = self.sender.try_send(command) {
            command = back;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // An error means that the thread is gone.
        let _ = done.await;
    }

    /// What was kept of an agent's decision.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn find(&self, id: DecisionId, agent: &AgentName) -> io::Result<Option<Contents>> {
        let text = match std::fs::read(self.dir.join(name(id, agent))) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = serde_json::from_slice(&text);
        read.map(Some).map_err(io::Error::other)
    }
}

fn run(mut held: Held, commands: &Receiver<Command>, left_out: &AtomicU64) {
    while let Ok(command) = commands.recv() {
        match command {
            Command::Keep(id, agent, contents) => {
                if let Err(error) = held.keep(id, &agent, &contents) {
                    left_out.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, decision = %id, "contents that a rule has kept cannot be written");
                }
            }
            Command::Flush(sender) => {
                // Who asked may have gone.
                let _ = sender.send(());
            }
        }
    }
}

/// The name of the file: those of an agent sort by time.
fn name(id: DecisionId, agent: &AgentName) -> String {
    format!("{agent}~{id}.json")
}

/// The files that there are.
struct Held {
    dir: PathBuf,
    most: u64,
    files: usize,
    most_files: usize,
    bytes: u64,
    agents: HashMap<AgentName, Own>,
}

/// Those of an agent.
#[derive(Default)]
struct Own {
    bytes: u64,
    files: BTreeMap<DecisionId, u64>,
}

impl Held {
    /// What is in a directory. What is not whole goes.
    fn read(dir: &Path, most: u64) -> io::Result<Self> {
        let mut held = Self {
            dir: dir.to_owned(),
            most,
            files: 0,
            most_files: FILES,
            bytes: 0,
            agents: HashMap::new(),
        };
        for entry in dir.read_dir()? {
            let entry = entry?;
            let file = entry.file_name();
            let Some(file) = file.to_str() else { continue };
            if file.ends_with(PART) {
                std::fs::remove_file(entry.path())?;
                continue;
            }
            let parts = file.strip_suffix(".json").and_then(|it| it.split_once('~'));
            let Some((agent, id)) = parts else { continue };
            if let (Ok(agent), Ok(id)) = (agent.parse(), id.parse()) {
                held.add(agent, id, entry.metadata()?.len());
            }
        }
        Ok(held)
    }

    fn add(&mut self, agent: AgentName, id: DecisionId, bytes: u64) {
        let own = self.agents.entry(agent).or_default();
        let before = own.files.insert(id, bytes);
        self.files += usize::from(before.is_none());
        let more = bytes.saturating_sub(before.unwrap_or(0));
        own.bytes += more;
        self.bytes += more;
    }

    fn keep(&mut self, id: DecisionId, agent: &AgentName, contents: &Contents) -> io::Result<()> {
        let text = serde_json::to_vec(contents)?;
        let file = self.dir.join(name(id, agent));
        let part = self.dir.join(name(id, agent) + PART);
        let written = write(&part, &text).and_then(|()| std::fs::rename(&part, file));
        if written.is_err() {
            // It may not be there.
            let _ = std::fs::remove_file(&part);
        }
        written?;
        self.add(agent.clone(), id, text.len() as u64);
        self.make_room();
        Ok(())
    }

    /// Removes the oldest of who has most, until there is no more than there may be.
    fn make_room(&mut self) {
        while self.bytes > self.most || self.files > self.most_files {
            // Who has most of what there is too much of.
            let crowded = self.files > self.most_files;
            let most = self.agents.iter_mut().max_by_key(|(_, own)| match crowded {
                true => own.files.len() as u64,
                false => own.bytes,
            });
            let Some((agent, own)) = most else { return };
            let Some((id, bytes)) = own.files.pop_first() else {
                return;
            };
            if let Err(error) = std::fs::remove_file(self.dir.join(name(id, agent)))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "old contents cannot be removed");
            }
            own.bytes = own.bytes.saturating_sub(bytes);
            self.bytes = self.bytes.saturating_sub(bytes);
            self.files = self.files.saturating_sub(1);
            if own.files.is_empty() {
                let agent = agent.clone();
                self.agents.remove(&agent);
            }
        }
    }
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file: File = segment::open_file(path)?;
    file.set_len(0)?;
    file.write_all(text)
}

#[cfg(test)]
mod tests {
    use agentguard_model::contents::{Content, Kept};

    use super::*;

    fn id(n: u128) -> DecisionId {
        DecisionId(ulid::Ulid(n))
    }

    fn agent(name: &str) -> AgentName {
        name.parse().unwrap()
    }

    fn said(text: &str) -> Contents {
        Contents {
            request: Some(Content {
                kept: Kept::Text(text.to_owned()),
                size: text.len() as u64,
                cut: false,
            }),
            response: None,
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_found_also_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path().join("contents"), 1 << 20).unwrap();
        shelf.keep(id(1), &agent("coder"), said("hello"));
        shelf.flush().await;
        assert_eq!(
            shelf.find(id(1), &agent("coder")).unwrap(),
            Some(said("hello"))
        );
        assert_eq!(shelf.find(id(2), &agent("coder")).unwrap(), None);
        assert_eq!(shelf.find(id(1), &agent("other")).unwrap(), None);
        drop(shelf);
        std::fs::write(dir.path().join("contents/coder~x.json.part"), "{").unwrap();
        let shelf = Shelf::open(dir.path().join("contents"), 1 << 20).unwrap();
        assert_eq!(
            shelf.find(id(1), &agent("coder")).unwrap(),
            Some(said("hello"))
        );
        assert_eq!(dir.path().join("contents").read_dir().unwrap().count(), 1);
        // What somebody else has written there is told.
        std::fs::write(
            dir.path()
                .join("contents")
                .join(name(id(3), &agent("coder"))),
            "{",
        )
        .unwrap();
        assert!(shelf.find(id(3), &agent("coder")).is_err());
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path().join("contents"), 1 << 20).unwrap();
        // Nothing can be put where it is to be.
        std::fs::create_dir(
            dir.path()
                .join("contents")
                .join(name(id(1), &agent("coder"))),
        )
        .unwrap();
        shelf.keep(id(1), &agent("coder"), said("hello"));
        shelf.keep(id(2), &agent("coder"), said("hello"));
        shelf.flush().await;
        assert_eq!(shelf.left_out(), 1);
        assert_eq!(
            shelf.find(id(2), &agent("coder")).unwrap(),
            Some(said("hello"))
        );
        let parts = dir.path().join("contents").read_dir().unwrap();
        let parts = parts.filter(|it| {
            it.as_ref()
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .ends_with(PART)
        });
        assert_eq!(parts.count(), 0);
    }

    /// Who keeps much pushes out its own.
    #[test]
    fn the_oldest_of_who_has_most_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut held = Held::read(dir.path(), 1000).unwrap();
        let long = "x".repeat(200);
        held.keep(id(1), &agent("quiet"), &said("once")).unwrap();
        for n in 2..20 {
            held.keep(id(n), &agent("loud"), &said(&long)).unwrap();
            assert!(held.bytes <= 1000);
        }
        let names = || {
            let entries = dir.path().read_dir().unwrap();
            let mut names: Vec<_> = entries
                .map(|it| it.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let left = names();
        assert!(left.contains(&name(id(1), &agent("quiet"))), "{left:?}");
        assert!(left.contains(&name(id(19), &agent("loud"))), "{left:?}");
        assert!(!left.contains(&name(id(2), &agent("loud"))), "{left:?}");
        // The next one counts what is there, and holds its own bound.
        let mut next = Held::read(dir.path(), 300).unwrap();
        assert_eq!((next.bytes, next.files), (held.bytes, left.len()));
        next.make_room();
        assert!(next.bytes <= 300);
        assert!(names().len() < left.len());
    }

    /// Who has many small ones pushes out no large ones of others.
    #[test]
    fn the_oldest_of_who_has_most_files_go_where_those_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let mut held = Held::read(dir.path(), 1 << 20).unwrap();
        held.most_files = 10;
        let long = "x".repeat(5000);
        for n in 1..4 {
            held.keep(id(n), &agent("quiet"), &said(&long)).unwrap();
        }
        for n in 4..30 {
            held.keep(id(n), &agent("loud"), &said("x")).unwrap();
        }
        assert_eq!(held.files, 10);
        assert_eq!(held.agents[&agent("quiet")].files.len(), 3);
    }
}
